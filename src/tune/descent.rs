//! Coordinate descent from a good start: Droplet Search (Canesche et al. 2024, TACO; in TVM since #14683, after MetaSchedule #17104).
//!
//! The configs around the incumbent are measured, a batch at a time; one that is better, and not by chance, becomes the
//! incumbent. Where a neighbourhood does not fill the batch, wider ones are measured at once (speculation). It ends in a local
//! optimum: nothing around the incumbent is left that was not measured.
//!
//! Differences from TVM's: axes are sorted ladders ([`super::space`]), so that a step is small and the start lies in its place on
//! them; steps go both ways on every axis but not along diagonals, of which there are 2ⁿ; factors also move within a tile, which
//! no single axis does; results belong to configs, not to places in a queue, so that a failure shifts nothing.

use super::config::{Config, Measurement, Proposal, Samples, Space};
use super::strategy::Strategy;
use crate::error::Result;
use statrs::distribution::{ContinuousCDF, StudentsT};
use std::collections::{BTreeSet, VecDeque};

/// A difference that chance makes as often as this is none (TVM: `pvalue`).
const P_VALUE: f64 = 0.05;
/// Steps of so many places at most: on longer ones there is nothing left of the neighbourhood.
const MAX_RADIUS: i64 = 8;

/// Descends from the config that it is given, or from the best that it is told of.
pub struct Descent {
    spaces: Vec<Space>,
    incumbent: Option<(Samples, Config)>,
    queue: VecDeque<Config>,
    /// Everything that was queued or measured.
    visited: BTreeSet<Config>,
    radius: i64,
}

impl Descent {
    pub fn new(spaces: &[Space]) -> Descent {
        Descent { spaces: spaces.to_vec(), incumbent: None, queue: VecDeque::new(), visited: BTreeSet::new(), radius: 1 }
    }

    /// Starts again from a config that was measured; what was visited stays so.
    pub fn start(&mut self, config: &Config, samples: &Samples) {
        self.incumbent = Some((samples.clone(), config.clone()));
        self.visited.insert(config.clone());
        self.queue.clear();
        self.radius = 1;
        self.widen();
    }

    pub fn incumbent(&self) -> Option<&Config> {
        self.incumbent.as_ref().map(|i| &i.1)
    }

    /// Queues the configs `radius` steps from the incumbent.
    fn widen(&mut self) {
        let Some((_, config)) = &self.incumbent else { return };
        let Some(space) = self.spaces.get(config.space) else { return };
        let mut around = Vec::new();
        for axis in space.axes() {
            around.extend([self.radius, -self.radius].into_iter().filter_map(|by| space.step(config, axis, by)));
        }
        if self.radius == 1 {
            around.extend(space.neighbours(config));
        }
        for config in around {
            if self.visited.insert(config.clone()) {
                self.queue.push_back(config);
            }
        }
        self.radius += 1;
    }
}

impl Strategy for Descent {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        while self.queue.len() < n && self.incumbent.is_some() && self.radius <= MAX_RADIUS {
            self.widen();
        }
        let n = n.min(self.queue.len());
        Ok(self.queue.drain(..n).map(Proposal::Exact).collect())
    }

    fn tell(&mut self, measurement: &Measurement) {
        self.visited.insert(measurement.config.clone());
        let Ok(samples) = &measurement.result else { return };
        let is_better = self.incumbent.as_ref().is_none_or(|(best, _)| is_faster(samples, best));
        if is_better {
            self.start(&measurement.config, samples);
        }
    }
}

/// Is the first faster than the second, and not by chance? Welch's test, one-sided; a single sample passes.
pub fn is_faster(a: &Samples, b: &Samples) -> bool {
    let (mean_a, variance_a) = moments(a);
    let (mean_b, variance_b) = moments(b);
    // an empty set has no mean
    if mean_a.partial_cmp(&mean_b) != Some(std::cmp::Ordering::Less) {
        return b.0.is_empty() && !a.0.is_empty();
    }
    let (n_a, n_b) = (a.0.len() as f64, b.0.len() as f64);
    if n_a < 2.0 || n_b < 2.0 {
        return true;
    }
    let (part_a, part_b) = (variance_a / n_a, variance_b / n_b);
    let error = part_a + part_b;
    if error <= 0.0 {
        return true;
    }
    let freedom = error.powi(2) / (part_a.powi(2) / (n_a - 1.0) + part_b.powi(2) / (n_b - 1.0));
    let t = (mean_b - mean_a) / error.sqrt();
    StudentsT::new(0.0, 1.0, freedom.max(1.0)).is_ok_and(|t_distribution| 1.0 - t_distribution.cdf(t) <= P_VALUE)
}

/// Mean and sample variance, in seconds.
fn moments(samples: &Samples) -> (f64, f64) {
    let n = samples.0.len() as f64;
    let mean = samples.0.iter().sum::<f64>() / n;
    let variance = samples.0.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
    (mean, variance)
}
