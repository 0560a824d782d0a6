//! A guess of the reward of finals that were not evaluated: a Gaussian process (Rasmussen, Williams 2006, algorithm 2.1) over
//! what finals cost and what they are made of.
//!
//! Finals are alike as far as their numbers are near and their actions the same; both count half. When rewards move, only
//! they are taken anew: the factor of the likenesses grows by one row for each final, and else stays.

use crate::search::tree::{FinalId, Step};
use std::collections::HashMap;

/// The distance of numbers at which they say little of each other; half or twice of it is no better.
const LENGTH: f64 = 2.0;
/// What one action more of a kind counts among the numbers.
const PER_ACTION: f64 = 0.5;
/// Kinds of actions told apart; those beyond count as the last.
const KINDS: usize = 16;
/// The share of the rewards' variance that likeness does not explain: trainings are noisy.
const NOISE: f64 = 0.05;
/// Finals held. More make requests slow, since the time for a guess grows with the square.
const MOST: usize = 600;

/// A final as the surrogate sees it.
pub(super) struct Look {
    numbers: Vec<f64>,
    /// Its actions, each once, in order.
    steps: Vec<Step>,
}

impl Look {
    pub fn new(mut numbers: Vec<f64>, mut steps: Vec<Step>) -> Look {
        let mut counts = [0.0; KINDS];
        for step in &steps {
            counts[usize::from(step.kind).min(KINDS - 1)] += PER_ACTION;
        }
        numbers.extend(counts);
        steps.sort_unstable();
        steps.dedup();
        Look { numbers, steps }
    }

    /// 1 for equals, 0 for the most different: half a Matérn kernel (ν = 3/2) of the numbers, half the share of actions in
    /// common (Tanimoto).
    fn likeness(&self, other: &Look) -> f64 {
        let squares: f64 = self.numbers.iter().zip(&other.numbers).map(|(a, b)| (a - b).powi(2)).sum();
        let far = (3.0 * squares).sqrt() / LENGTH;
        let (mut i, mut j, mut n_common) = (0, 0, 0);
        while let (Some(a), Some(b)) = (self.steps.get(i), other.steps.get(j)) {
            n_common += usize::from(a == b);
            (i, j) = (i + usize::from(a <= b), j + usize::from(b <= a));
        }
        let n_all = (self.steps.len() + other.steps.len() - n_common).max(1);
        0.5 * (1.0 + far) * (-far).exp() + 0.5 * n_common as f64 / n_all as f64
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Finals that were asked, with the rewards of those told. One without a reward counts as if it had the one guessed
/// (kriging believer: Ginsbourger et al. 2010): what is in flight, or was refused, is no news any more.
#[derive(Default)]
pub(super) struct Surrogate {
    asked: Vec<(FinalId, Look)>,
    // only looked up
    rewards: HashMap<FinalId, f64>,
    /// The lower triangle of the likenesses' Cholesky factor.
    factor: Vec<Vec<f64>>,
    /// The factor's inverse times the rewards, those in deviations from their mean.
    news: Vec<f64>,
    stale: bool,
}

impl Surrogate {
    /// Finals with a reward.
    pub fn n_told(&self) -> usize {
        self.rewards.len()
    }

    pub fn push(&mut self, id: FinalId, look: Look) {
        if self.asked.len() >= MOST {
            self.thin();
        }
        let mut row = self.solve(&look);
        let rest = 1.0 + NOISE - dot(&row, &row);
        // at least the noise but for rounding
        row.push(rest.max(NOISE / 2.0).sqrt());
        self.factor.push(row);
        self.asked.push((id, look));
        self.stale = true;
    }

    /// Forgets what has no reward, and every second one of the others: what is left is spread as before.
    fn thin(&mut self) {
        let mut asked = std::mem::take(&mut self.asked);
        asked.retain(|(id, _)| self.rewards.contains_key(id));
        self.factor.clear();
        for (id, look) in asked.into_iter().step_by(2) {
            self.push(id, look);
        }
    }

    pub fn tell(&mut self, id: FinalId, reward: f64) {
        self.rewards.insert(id, reward);
        self.stale = true;
    }

    /// The factor's inverse times the likenesses to all.
    fn solve(&self, look: &Look) -> Vec<f64> {
        let mut solved: Vec<f64> = Vec::with_capacity(self.asked.len() + 1);
        for ((_, other), row) in self.asked.iter().zip(&self.factor) {
            solved.push((look.likeness(other) - dot(row, &solved)) / row[solved.len()]);
        }
        solved
    }

    fn fit(&mut self) {
        let known: Vec<f64> = self.asked.iter().filter_map(|(id, _)| self.rewards.get(id).copied()).collect();
        let n = known.len().max(1) as f64;
        let mean = known.iter().sum::<f64>() / n;
        let std = (known.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / n).sqrt();
        self.news.clear();
        for ((id, _), row) in self.asked.iter().zip(&self.factor) {
            let excess = |r: &f64| if std > 0.0 { (r - mean) / std } else { 0.0 };
            let news = self.rewards.get(id).map_or(0.0, |r| (excess(r) - dot(row, &self.news)) / row[self.news.len()]);
            self.news.push(news);
        }
        self.stale = false;
    }

    /// The reward hoped for (upper confidence bound): the guess, and so many times how unsure it is; in deviations from the
    /// rewards' mean.
    pub fn hope(&mut self, look: &Look, optimism: f64) -> f64 {
        if self.stale {
            self.fit();
        }
        let solved = self.solve(look);
        dot(&solved, &self.news) + optimism * (1.0 - dot(&solved, &solved)).max(0.0).sqrt()
    }
}
