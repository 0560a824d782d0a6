//! A guess of how fast configs are, learned from those that were measured: gradient-boosted trees (XGBoost's algorithm, as in
//! AutoTVM and Chameleon) over what the knobs say.
//!
//! The trees come from `forust-ml`: the same algorithm in Rust, with few dependencies. Several of them, each on its own part of
//! the data, tell by their disagreement how sure the guess is.

use super::config::{Config, Decision, Knob, Space};
use forust_ml::data::Matrix;
use forust_ml::gradientbooster::GradientBooster;
use forust_ml::objective::ObjectiveType;

/// Boosters that must agree.
const N_MEMBERS: u64 = 4;
/// The share of the measurements that each of them sees.
const SHARE: f32 = 0.8;
/// Chameleon's published code: depth 3, γ = 1e-4, η = 0.3; here more and smaller steps in place of early stopping.
const MAX_DEPTH: usize = 3;
const MAX_LEAVES: usize = 8;
const GAMMA: f32 = 1e-4;
const LEARNING_RATE: f32 = 0.15;
const ITERATIONS: usize = 120;
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

/// Trees for one space.
#[derive(Default)]
pub struct CostModel {
    members: Vec<GradientBooster>,
    n_features: usize,
}

/// What is expected of a config: its speed as a share of the best's, and how unsure that is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guess {
    pub speed: f64,
    pub spread: f64,
}

impl CostModel {
    /// Learns from rows of [`features`] and speeds (seconds of the best over seconds; 0 for a failure). Too few rows, or rows that
    /// are all alike, teach nothing: every guess is then the same.
    pub fn fit(&mut self, rows: &[Vec<f64>], speeds: &[f64], seed: u64) {
        self.members.clear();
        let Some(first) = rows.first().filter(|_| rows.len() >= LEAST) else { return };
        self.n_features = first.len();
        let columns = columns(rows, self.n_features);
        let matrix = Matrix::new(&columns, rows.len(), self.n_features);
        for member in 0..N_MEMBERS {
            let mut booster = GradientBooster::default()
                .set_objective_type(ObjectiveType::SquaredLoss)
                .set_iterations(ITERATIONS)
                .set_learning_rate(LEARNING_RATE)
                .set_max_depth(MAX_DEPTH)
                .set_max_leaves(MAX_LEAVES)
                .set_gamma(GAMMA)
                .set_subsample(SHARE)
                .set_parallel(false)
                .set_seed(seed.wrapping_add(member));
            if booster.fit_unweighted(&matrix, speeds, None).is_ok() {
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
