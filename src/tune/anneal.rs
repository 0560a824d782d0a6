//! Simulated annealing over a cost model, AutoTVM's way to configs that the model takes for fast (Chen et al. 2018, section 3; the
//! constants of its published `sa_model_optimizer`). Hardware is never in the loop.

use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Chains side by side, each kept from round to round.
const CHAINS: usize = 128;
const STEPS: usize = 500;
/// Falls evenly from this to nothing.
const TEMPERATURE: f64 = 1.0;
/// A round ends after so many steps in a row that change nothing among the best.
const PATIENCE: usize = 50;

/// The chains of one space.
pub struct Annealer {
    /// Values of each knob.
    sizes: Vec<usize>,
    chains: Vec<Vec<usize>>,
}

impl Annealer {
    /// For knobs of so many values each.
    pub fn new(sizes: &[usize], rng: &mut impl Rng) -> Annealer {
        let chains = (0..CHAINS).map(|_| sizes.iter().map(|&n| rng.random_range(0..n.max(1))).collect()).collect();
        Annealer { sizes: sizes.to_vec(), chains }
    }

    /// One round, whose best `n_kept` besides those `visited` decide when it ends. Returns configs that were come by, with their scores;
    /// `score` gives those of many at once.
    pub fn explore(
        &mut self,
        n_kept: usize,
        visited: &BTreeSet<Vec<usize>>,
        score: &mut dyn FnMut(&[Vec<usize>]) -> Vec<f64>,
        rng: &mut impl Rng,
    ) -> Vec<(f64, Vec<usize>)> {
        let free: Vec<usize> = (0..self.sizes.len()).filter(|&k| self.sizes[k] > 1).collect();
        let mut scores = score(&self.chains);
        let mut best = Best { scores: vec![], n: n_kept };
        let mut seen: BTreeMap<Vec<usize>, f64> = BTreeMap::new();
        for (places, &score) in self.chains.iter().zip(&scores) {
            if !visited.contains(places) && !seen.contains_key(places) && best.take(score) {
                seen.insert(places.clone(), score);
            }
        }
        let mut n_idle = 0;
        for step in 0..if free.is_empty() { 0 } else { STEPS } {
            let temperature = TEMPERATURE * (1.0 - step as f64 / STEPS as f64);
            let mut moved = self.chains.clone();
            for places in &mut moved {
                let knob = free[rng.random_range(0..free.len())];
                let now = places[knob];
                while places[knob] == now {
                    places[knob] = rng.random_range(0..self.sizes[knob]);
                }
            }
            let reached = score(&moved);
            let mut is_new = false;
            for (i, places) in moved.into_iter().enumerate() {
                if !visited.contains(&places) && !seen.contains_key(&places) && best.take(reached[i]) {
                    is_new = true;
                    seen.insert(places.clone(), reached[i]);
                }
                let chance = ((reached[i] - scores[i]) / (temperature + 1e-5)).min(1.0).exp();
                if rng.random::<f64>() < chance {
                    scores[i] = reached[i];
                    self.chains[i] = places;
                }
            }
            n_idle = if is_new { 0 } else { n_idle + 1 };
            if n_idle >= PATIENCE {
                break;
            }
        }
        seen.into_iter().map(|(places, score)| (score, places)).collect()
    }
}

/// The highest scores so far.
struct Best {
    /// Descending.
    scores: Vec<f64>,
    n: usize,
}

impl Best {
    /// Takes a score that is above the least of them; is it?
    fn take(&mut self, score: f64) -> bool {
        let place = self.scores.partition_point(|&s| s >= score);
        if place < self.n {
            self.scores.insert(place, score);
            self.scores.truncate(self.n);
        }
        place < self.n
    }
}
