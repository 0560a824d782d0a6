//! Which config next: strategies by name, random ones, mutations of the best, and any of them before a descent.

use super::Options;
use super::chameleon::Chameleon;
use super::config::{Config, Decision, Knob, Measurement, Proposal, Samples, Space, Task};
use super::cost::Lessons;
use super::descent::Descent;
use super::draft::{draft, space_of};
use super::evolutionary::Evolutionary;
use super::guided::{Guided, Parts};
use super::space::primes;
use crate::error::Result;
use crate::spec::Strategy as Kind;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// Proposes configs and learns from their times. Proposals may repeat: the tuner measures a program once.
pub trait Strategy: Send {
    /// Up to `n` proposals; none when there is nothing left to propose.
    ///
    /// # Errors
    /// A worker that the strategy needs is lost.
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>>;
    fn tell(&mut self, measurement: &Measurement);
    /// What its cost model was taught, for the searches of other kernels of a model.
    fn lessons(&self) -> Option<&Lessons> {
        None
    }
    /// Takes what those were taught, in place of what it took before.
    fn learn(&mut self, _others: &[Lessons]) {}
}

/// The strategy that the options name. A search of few trials starts to evolve, or descends, earlier.
pub fn start(options: &Options, task: &Task, spaces: &[Space], seed: u64) -> Box<dyn Strategy> {
    let n_trials = options.n_trials;
    let rng = ChaCha8Rng::seed_from_u64(seed);
    let n_explored = (EXPLORED * n_trials as f64).ceil() as usize;
    let parts = options.parts;
    let annealing = Parts { exploration: false, sampling: false, ..parts };
    let explored = |first| Box::new(ThenDescend::new(spaces, n_explored, first));
    match options.strategy {
        Kind::Random => Box::new(Random { n_spaces: spaces.len(), rng }),
        Kind::Evolutionary => Box::new(Evolutionary::new(task, spaces, n_trials, seed)),
        Kind::Annealing => Box::new(Chameleon::new(spaces, n_trials, seed, annealing)),
        Kind::Chameleon => Box::new(Chameleon::new(spaces, n_trials, seed, parts)),
        Kind::Droplet => Box::new(ThenDescend::new(spaces, N_SEEDS, Box::new(Mutations::new(spaces, n_trials, rng)))),
        Kind::EvolutionaryDroplet => explored(Box::new(Evolutionary::new(task, spaces, n_explored, seed))),
        Kind::ChameleonDroplet => explored(Box::new(Chameleon::new(spaces, n_explored, seed, parts))),
        Kind::Mutations => Box::new(Mutations::new(spaces, n_trials, rng)),
        Kind::Syntune => Box::new(Guided::new(task, spaces, parts, n_trials, seed)),
    }
}

/// Drafts measured before a descent from the best of them.
const N_SEEDS: usize = 4;
/// The share of the trials for exploring; the rest is for descents. The 300-sample recipe explores most (Canesche et al. 2024).
const EXPLORED: f64 = 0.5;

/// Another strategy for some trials; then descents, the first from the best, each further one from the best config that no
/// descent has come by.
struct ThenDescend {
    first: Box<dyn Strategy>,
    n_first: usize,
    descent: Descent,
    told: Vec<(f64, Config, Samples)>,
    n_told: usize,
    started: BTreeSet<Config>,
}

impl ThenDescend {
    fn new(spaces: &[Space], n_first: usize, first: Box<dyn Strategy>) -> ThenDescend {
        ThenDescend { first, n_first, descent: Descent::new(spaces), told: vec![], n_told: 0, started: BTreeSet::new() }
    }
}

impl Strategy for ThenDescend {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        if self.n_told < self.n_first {
            let found = self.first.ask(n.min(self.n_first - self.n_told))?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let mut found = self.descent.ask(n)?;
        while found.is_empty() {
            let fastest = self.told.iter().filter(|t| !self.started.contains(&t.1)).min_by(|a, b| a.0.total_cmp(&b.0));
            let Some((_, config, samples)) = fastest.cloned() else { return self.first.ask(n) };
            self.descent.start(&config, &samples);
            self.started.insert(config);
            found = self.descent.ask(n)?;
        }
        Ok(found)
    }

    fn tell(&mut self, measurement: &Measurement) {
        self.n_told += 1;
        self.first.tell(measurement);
        self.descent.tell(measurement);
        // what a descent has come by is no new start
        self.started.extend(self.descent.incumbent().cloned());
        if let Ok(samples) = &measurement.result {
            self.told.push((measurement.rank_secs(), measurement.config.clone(), samples.clone()));
        }
    }
}

/// Random decisions in a random space.
pub struct Random {
    n_spaces: usize,
    rng: ChaCha8Rng,
}

impl Strategy for Random {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        Ok((0..n).map(|_| Proposal::Random { space: self.rng.random_range(0..self.n_spaces), seed: self.rng.random() }).collect())
    }

    fn tell(&mut self, _measurement: &Measurement) {}
}

/// Parents kept.
const N_PARENTS: usize = 8;
/// Configs before the first mutation: a third of the trials, within these, the latter per space.
const N_START: (usize, usize) = (4, 6);
/// Share of drafts afterwards: keeps the search from one basin.
const FRESH: f64 = 0.15;
/// Share of drafts that are random configs as TVM draws them: what the drafts' loss takes for slow may be fast.
const UNGUIDED: f64 = 0.2;
/// Share of children that take each decision from one of two parents.
const CROSSED: f64 = 0.2;

/// A start from drafts, then one or two moves away from one of the best (Ansor, section 5.1: evolutionary search).
pub struct Mutations {
    spaces: Vec<Space>,
    /// Decisions seen, for knobs whose legal values only TVM knows.
    pools: Vec<Vec<BTreeSet<Decision>>>,
    best: Vec<(f64, Config)>,
    n_told: usize,
    n_start: usize,
    rng: ChaCha8Rng,
}

impl Strategy for Mutations {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        Ok((0..n)
            .map(|i| {
                let starting = self.n_told < self.n_start;
                if starting || self.best.is_empty() || self.rng.random_bool(FRESH) {
                    let space = space_of(&self.spaces, self.n_told + i, starting, &mut self.rng);
                    if !starting && self.rng.random_bool(UNGUIDED) {
                        return Proposal::Random { space, seed: self.rng.random() };
                    }
                    return Proposal::Exact(draft(&self.spaces[space], space, &mut self.rng));
                }
                let parent = self.parent();
                let child = if self.rng.random_bool(CROSSED) { self.cross(&parent) } else { parent };
                Proposal::Exact(self.mutate(child))
            })
            .collect())
    }

    fn tell(&mut self, measurement: &Measurement) {
        self.n_told += 1;
        let config = &measurement.config;
        let Some(pools) = self.pools.get_mut(config.space).filter(|p| p.len() == config.decisions.len()) else { return };
        for (pool, decision) in pools.iter_mut().zip(&config.decisions) {
            pool.insert(decision.clone());
        }
        let secs = measurement.rank_secs();
        if secs.is_finite() {
            self.best.push((secs, config.clone()));
            self.best.sort_by(|a, b| a.0.total_cmp(&b.0));
            self.best.truncate(N_PARENTS);
        }
    }
}

impl Mutations {
    fn new(spaces: &[Space], n_trials: usize, rng: ChaCha8Rng) -> Mutations {
        let n_start = (n_trials / 3).clamp(N_START.0, N_START.1 * spaces.len().max(1));
        let pools = spaces.iter().map(|s| vec![BTreeSet::new(); s.knobs.len()]).collect();
        Mutations { spaces: spaces.to_vec(), pools, best: vec![], n_told: 0, n_start, rng }
    }

    /// Better ones more often: the k-th with weight 1/(k+1).
    fn parent(&mut self) -> Config {
        let total: f64 = (0..self.best.len()).map(|k| 1.0 / (k + 1) as f64).sum();
        let mut at = self.rng.random_range(0.0..total);
        for (k, (_, config)) in self.best.iter().enumerate() {
            at -= 1.0 / (k + 1) as f64;
            if at <= 0.0 {
                return config.clone();
            }
        }
        self.best[0].1.clone()
    }

    fn cross(&mut self, parent: &Config) -> Config {
        let mates: Vec<Config> = self.best.iter().map(|(_, c)| c).filter(|c| c.space == parent.space && *c != parent).cloned().collect();
        let Some(mate) = mates.choose(&mut self.rng) else { return parent.clone() };
        let decisions =
            parent.decisions.iter().zip(&mate.decisions).map(|(a, b)| if self.rng.random_bool(0.5) { a } else { b }.clone()).collect();
        Config { space: parent.space, decisions }
    }

    fn mutate(&mut self, mut config: Config) -> Config {
        let n_moves = self.rng.random_range(1..=2);
        let mut order: Vec<usize> = (0..config.decisions.len()).collect();
        order.shuffle(&mut self.rng);
        let mut n_moved = 0;
        for knob in order {
            if n_moved == n_moves {
                break;
            }
            let before = config.decisions[knob].clone();
            let moved = self.move_one(config.space, knob, &before);
            n_moved += usize::from(moved != before);
            config.decisions[knob] = moved;
        }
        config
    }

    fn move_one(&mut self, space: usize, knob: usize, decision: &Decision) -> Decision {
        match (&self.spaces[space].knobs[knob], decision) {
            (Knob::PerfectTile { max_innermost, .. }, Decision::PerfectTile(factors)) => {
                let n_hops = self.rng.random_range(1..=2);
                let mut factors = factors.clone();
                for _ in 0..n_hops {
                    factors = hop(&factors, *max_innermost, &mut self.rng);
                }
                Decision::PerfectTile(factors)
            }
            (Knob::Categorical { n }, Decision::Categorical(_)) => Decision::Categorical(self.rng.random_range(0..*n)),
            _ => {
                let seen: Vec<&Decision> = self.pools[space][knob].iter().collect();
                seen.choose(&mut self.rng).map_or_else(|| decision.clone(), |d| (*d).clone())
            }
        }
    }
}

/// Moves one prime factor from one place of the tuple to another; the product stays.
pub fn hop(factors: &[i64], max_innermost: i64, rng: &mut impl Rng) -> Vec<i64> {
    let last = factors.len() - 1;
    let mut moves = Vec::new();
    for from in 0..factors.len() {
        for prime in primes(factors[from]) {
            for to in (0..factors.len()).filter(|&to| to != from) {
                if to != last || factors[last] * prime <= max_innermost {
                    moves.push((from, to, prime));
                }
            }
        }
    }
    let mut moved = factors.to_vec();
    if let Some(&(from, to, prime)) = moves.choose(rng) {
        moved[from] /= prime;
        moved[to] *= prime;
    }
    moved
}
