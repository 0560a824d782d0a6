//! A guess of how fast configs are, learned from those that were measured: gradient-boosted trees (XGBoost's algorithm, as in
//! AutoTVM and Chameleon) over what the knobs say and what the [`roofline`] makes of them.
//!
//! The trees come from `forust-ml`: the same algorithm in Rust, with few dependencies. Several of them, each on its own part of
//! the data, tell by their disagreement how sure the guess is. MetaSchedule's features of the scheduled program ([`program`]) can be
//! appended to rows; beside the roofline's they add little (`examples/ranking` measures it) and cost thousands of times as much.

use super::config::{Computation, Config, Decision, Knob, Space};
use super::roofline::{self, Roofline};
use super::touched;
use forust_ml::data::Matrix;
use forust_ml::gradientbooster::GradientBooster;
use forust_ml::objective::ObjectiveType;
use forust_ml::sampler::SampleMethod;

/// Boosters whose mean is the guess and whose deviation is its doubt; each of its trees sees this share of the measurements and of
/// the columns. Few columns per tree, and few trees, rank a little better than many (Kendall's τ 0.66 against 0.65 after 64
/// measurements of 6 workloads) in a third of the time; `perpetual` 3.0.0-rc.2 on the same rows reaches 0.65.
const N_MEMBERS: u64 = 4;
const SHARE: f32 = 0.8;
const COLUMNS: f64 = 0.3;
/// Chameleon's published code: depth 3, γ = 1e-4, η = 0.3; here more and smaller steps in place of early stopping.
const MAX_DEPTH: usize = 3;
const GAMMA: f32 = 1e-4;
const LEARNING_RATE: f32 = 0.15;
const ITERATIONS: usize = 60;
/// Fewer measurements say nothing.
const LEAST: usize = 8;

/// A config as numbers: logarithms of factors, of what is inside of them, and of the tile as a whole. Equally many for all configs
/// of a space.
pub fn features(space: &Space, config: &Config) -> Vec<f64> {
    let mut row = Vec::new();
    // logarithms of the innermost factors by the number of cuts: the tile, and the inner sums
    let (mut tile, mut next, mut terms) = (0.0, 0.0, 0.0);
    for (knob, decision) in space.knobs.iter().zip(&config.decisions) {
        match (knob, decision) {
            (Knob::PerfectTile { n, .. }, Decision::PerfectTile(factors)) => {
                let logs: Vec<f64> = factors.iter().map(|&f| (f.max(1) as f64).log2()).collect();
                row.extend(&logs);
                let last = logs.last().copied().unwrap_or(0.0);
                if *n == 2 {
                    terms += last;
                } else {
                    tile += last;
                    next += last + logs.get(n.saturating_sub(2)).copied().unwrap_or(0.0);
                }
            }
            (_, Decision::Categorical(number) | Decision::ComputeLocation(number)) => row.push(*number as f64),
            // another space's
            (_, Decision::PerfectTile(_)) => row.push(f64::NAN),
        }
    }
    row.extend([tile, next, terms, tile + terms]);
    row
}

/// Configs of all spaces of one task as rows of numbers, equally many for each: the space, what [`Roofline`] says, then [`features`]
/// of each space, of which all but one's are missing.
pub struct Rows {
    spaces: Vec<Space>,
    pub roofline: Roofline,
}

impl Rows {
    pub fn new(computation: &Computation, spaces: &[Space], n_threads: usize) -> Rows {
        let roofline = match computation {
            Computation::Nest(nest) => Roofline::new(nest, spaces, n_threads),
            Computation::Module(module) => {
                touched::nest(&module.json).map_or_else(Roofline::unknown, |n| Roofline::new(&n, spaces, n_threads))
            }
        };
        Rows { spaces: spaces.to_vec(), roofline }
    }

    pub fn of(&self, config: &Config) -> Vec<f64> {
        let mut row = vec![config.space as f64];
        row.extend(self.roofline.row(config));
        for (number, space) in self.spaces.iter().enumerate() {
            let known = (number == config.space).then(|| features(space, config));
            // a config that does not fit its space says nothing
            let known = known.filter(|k| k.len() == n_features(space));
            row.extend(known.unwrap_or_else(|| vec![f64::NAN; n_features(space)]));
        }
        row
    }

    /// Columns of each row.
    pub fn n_columns(&self) -> usize {
        1 + roofline::N_COLUMNS + self.spaces.iter().map(n_features).sum::<usize>()
    }
}

/// Of [`features`].
fn n_features(space: &Space) -> usize {
    4 + space.knobs.iter().map(|k| if let Knob::PerfectTile { n, .. } = k { *n } else { 1 }).sum::<usize>()
}

/// Where MetaSchedule's features of a store have log2(1 + its iterations).
const ITERATIONS_COLUMN: usize = 161;

/// MetaSchedule's features of all stores of a program as one row: those of the store with most iterations, then the logarithms of
/// the sums over all. Empty without stores.
pub fn program(stores: &[Vec<f64>]) -> Vec<f64> {
    let iterations = |row: &Vec<f64>| row.get(ITERATIONS_COLUMN).copied().unwrap_or(0.0);
    let Some(heaviest) = stores.iter().max_by(|a, b| iterations(a).total_cmp(&iterations(b))) else { return vec![] };
    let total = |column: usize| {
        let sum: f64 = stores.iter().filter_map(|row| row.get(column)).map(|x| x.exp2() - 1.0).sum();
        (1.0 + sum).log2()
    };
    heaviest.iter().copied().chain((0..heaviest.len()).map(total)).collect()
}

/// Trees over rows that have the same columns.
#[derive(Default)]
pub struct CostModel {
    members: Vec<GradientBooster>,
    n_features: usize,
}

/// What is expected of a config: its standing among those that were learned from, 0 slower than all to 1 faster than all, and how
/// unsure that is. Trees learn standings better than speeds or their logarithms, which a few very slow configs stretch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    pub speed: f64,
    pub spread: f64,
}

/// The share of all that each is faster than; equals share theirs.
fn standings(speeds: &[f64]) -> Vec<f64> {
    let beaten = |&own: &f64| speeds.iter().map(|&other| if other < own { 1.0 } else { f64::from(other == own) / 2.0 }).sum::<f64>();
    speeds.iter().map(|own| (beaten(own) - 0.5) / (speeds.len() - 1).max(1) as f64).collect()
}

impl CostModel {
    /// Learns from rows, all of the same columns, and speeds in any unit (0 for a failure). Too few rows teach nothing: every guess
    /// is then the same.
    pub fn fit(&mut self, rows: &[Vec<f64>], speeds: &[f64], seed: u64) {
        self.fit_standings(rows, &standings(speeds), &vec![1.0; rows.len()], seed);
    }

    fn fit_standings(&mut self, rows: &[Vec<f64>], standings: &[f64], weights: &[f64], seed: u64) {
        self.members.clear();
        let Some(first) = rows.first().filter(|_| rows.len() >= LEAST) else { return };
        self.n_features = first.len();
        let columns = columns(rows, self.n_features);
        let matrix = Matrix::new(&columns, rows.len(), self.n_features);
        let share = if self.n_features as f64 * COLUMNS < 1.0 { 1.0 } else { COLUMNS };
        for member in 0..N_MEMBERS {
            let mut booster = GradientBooster::default()
                .set_objective_type(ObjectiveType::SquaredLoss)
                .set_iterations(ITERATIONS)
                .set_learning_rate(LEARNING_RATE)
                .set_max_depth(MAX_DEPTH)
                .set_gamma(GAMMA)
                .set_sample_method(SampleMethod::Random)
                .set_subsample(SHARE)
                .set_colsample_bytree(share)
                .set_parallel(false)
                .set_seed(seed.wrapping_add(member));
            if booster.fit(&matrix, standings, weights, None).is_ok() {
                self.members.push(booster);
            }
        }
    }

    pub fn is_fitted(&self) -> bool {
        !self.members.is_empty()
    }

    /// One guess per row.
    pub fn guess(&self, rows: &[Vec<f64>]) -> Vec<Guess> {
        if self.members.is_empty() || rows.is_empty() {
            return vec![Guess { speed: 0.0, spread: 0.0 }; rows.len()];
        }
        let columns = columns(rows, self.n_features);
        let matrix = Matrix::new(&columns, rows.len(), self.n_features);
        let all: Vec<Vec<f64>> = self.members.iter().map(|m| m.predict(&matrix, false)).collect();
        let n = all.len() as f64;
        let guess = |i: usize| {
            let speed = all.iter().map(|p| p[i]).sum::<f64>() / n;
            let spread = (all.iter().map(|p| (p[i] - speed).powi(2)).sum::<f64>() / n).sqrt();
            Guess { speed, spread }
        };
        (0..rows.len()).map(guess).collect()
    }
}

/// Column after column, as the trees want it.
fn columns(rows: &[Vec<f64>], n: usize) -> Vec<f64> {
    (0..n).flat_map(|column| rows.iter().map(move |row| row.get(column).copied().unwrap_or(f64::NAN))).collect()
}

/// Fitted again when there is this share more to learn from.
const GROWN: f64 = 0.1;
/// What all rows of an earlier task weigh, in measurements of this one, before there are any; halved by each [`FADE`] of them, as
/// AutoTVM fades its base model. With the rows of a convolution of 64 channels, τ of one of 512 is 0.58 before the first measurement
/// and 0.57 after 16, without them 0.46 after 16.
const EARLIER: f64 = 24.0;
const FADE: f64 = 64.0;

/// Rows of other tasks that are learned from, at most: more teach little and take long.
const MOST_EARLIER: usize = 128;

/// What a search was taught: rows of [`Rows`] and their seconds (infinite for failures), in any unit.
#[derive(Clone, Debug, Default)]
pub struct Lessons {
    pub rows: Vec<Vec<f64>>,
    pub secs: Vec<f64>,
}

/// A cost model that follows a search: keeps what was measured, and is fitted again when enough is new.
pub struct Learner {
    own: Lessons,
    /// Rows of other tasks and their standings there.
    earlier: Vec<(Vec<f64>, f64)>,
    model: CostModel,
    n_fitted: usize,
    seed: u64,
}

impl Learner {
    pub fn new(seed: u64) -> Learner {
        Learner { own: Lessons::default(), earlier: vec![], model: CostModel::default(), n_fitted: 0, seed }
    }

    pub fn lessons(&self) -> &Lessons {
        &self.own
    }

    /// Takes what similar tasks taught, in place of what it took before. Only rows with `n_columns` columns, those of spaces of the same
    /// shape, are taken. They weigh less the more this task has of its own.
    pub fn take(&mut self, others: &[Lessons], n_columns: usize) {
        self.earlier.clear();
        for Lessons { rows, secs } in others {
            let alike: Vec<usize> = (0..rows.len().min(secs.len())).filter(|&i| rows[i].len() == n_columns).collect();
            let standings = standings(&alike.iter().map(|&i| 1.0 / secs[i]).collect::<Vec<_>>());
            self.earlier.extend(alike.iter().zip(standings).map(|(&i, standing)| (rows[i].clone(), standing)));
        }
        let n = self.earlier.len();
        if n > MOST_EARLIER {
            // of all tasks alike
            self.earlier = (0..MOST_EARLIER).map(|i| self.earlier[i * n / MOST_EARLIER].clone()).collect();
        }
    }

    /// One more measurement; infinite seconds for a failure.
    pub fn tell(&mut self, row: Vec<f64>, secs: f64) {
        self.own.rows.push(row);
        self.own.secs.push(secs);
    }

    /// One guess per row, from a model no older than a tenth of what was told.
    pub fn guess(&mut self, rows: &[Vec<f64>]) -> Vec<Guess> {
        let n = self.own.rows.len();
        if n as f64 >= self.n_fitted as f64 * (1.0 + GROWN) && (n > self.n_fitted || !self.model.is_fitted()) {
            self.fit();
        }
        self.model.guess(rows)
    }

    fn fit(&mut self) {
        let n = self.own.rows.len();
        let standings = standings(&self.own.secs.iter().map(|secs| 1.0 / secs).collect::<Vec<_>>());
        let faded = EARLIER / self.earlier.len().max(1) as f64 * (-(n as f64) / FADE).exp2();
        let own = self.own.rows.iter().cloned().zip(standings.into_iter().map(|s| (s, 1.0)));
        let earlier = self.earlier.iter().map(|(row, standing)| (row.clone(), (*standing, faded.min(1.0))));
        let (rows, (standings, weights)): (Vec<_>, (Vec<_>, Vec<_>)) = own.chain(earlier).unzip();
        self.model.fit_standings(&rows, &standings, &weights, self.seed.wrapping_add(n as u64));
        self.n_fitted = n;
    }
}

/// What is hoped for beyond a guess, in spreads.
const HOPE: f64 = 1.0;
/// What a config like one that was chosen loses, in standard deviations of the guesses.
const ALIKE: f64 = 1.0;
/// Configs are alike whose columns differ by less than this share of what the candidates span, in the mean.
const NEAR: f64 = 0.15;

/// Which of the candidates to measure together, at most `n`, the most promising first: greedily the highest upper confidence
/// bound, where a candidate near one that is chosen already has less to hope for (batches of Desautels et al. 2014: what is
/// measured beside it will tell) and loses something besides.
pub fn pick(guesses: &[Guess], rows: &[Vec<f64>], n: usize) -> Vec<usize> {
    let n_candidates = guesses.len().min(rows.len());
    let spans = spans(&rows[..n_candidates]);
    let mean = guesses.iter().map(|g| g.speed).sum::<f64>() / n_candidates.max(1) as f64;
    let deviation = (guesses.iter().map(|g| (g.speed - mean).powi(2)).sum::<f64>() / n_candidates.max(1) as f64).sqrt();
    // likeness to the nearest that is chosen: 1 the same, 0 not near
    let mut alike = vec![0.0f64; n_candidates];
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < n {
        let hope = |i: &usize| guesses[*i].speed + HOPE * guesses[*i].spread * (1.0 - alike[*i]) - ALIKE * deviation * alike[*i];
        let left = (0..n_candidates).filter(|i| !chosen.contains(i));
        let Some(next) = left.max_by(|a, b| hope(a).total_cmp(&hope(b)).then(b.cmp(a))) else { break };
        chosen.push(next);
        for (i, likeness) in alike.iter_mut().enumerate() {
            *likeness = likeness.max(1.0 - distance(&rows[i], &rows[next], &spans) / NEAR);
        }
    }
    chosen
}

/// The columns in which rows differ, and by how much.
fn spans(rows: &[Vec<f64>]) -> Vec<(usize, f64)> {
    let n = rows.iter().map(Vec::len).min().unwrap_or(0);
    let span = |column: usize| {
        let values = || rows.iter().map(move |row| row[column]);
        let known = || values().filter(|v| v.is_finite());
        let span = known().fold(f64::NEG_INFINITY, f64::max) - known().fold(f64::INFINITY, f64::min);
        let missing = values().any(|v| !v.is_finite()) && known().next().is_some();
        (span > 0.0 || missing).then_some((column, span.max(0.0)))
    };
    (0..n).filter_map(span).collect()
}

/// The mean difference, as a share of the spans; 1 where only one has a number.
fn distance(a: &[f64], b: &[f64], spans: &[(usize, f64)]) -> f64 {
    let differs = |&(column, span): &(usize, f64)| match (a[column].is_finite(), b[column].is_finite()) {
        (true, true) if span > 0.0 => (a[column] - b[column]).abs() / span,
        (one, other) => f64::from(one != other),
    };
    spans.iter().map(differs).sum::<f64>() / spans.len().max(1) as f64
}
