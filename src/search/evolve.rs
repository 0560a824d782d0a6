//! Regularised evolution (Real, Aggarwal, Huang, Le 2019) over the finals of a tree, and plain random search: what the tree
//! search is compared with.

use super::tree::{FinalId, Step, To, Tree};
use crate::synth::child_seed;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeSet, VecDeque};

/// Members alive: the oldest dies when a new one is born. Real et al. use 100 for 20,000 evaluations.
const POPULATION: usize = 50;
/// Members compared for each birth, the same quarter as theirs.
const TOURNAMENT: usize = 12;
/// Draws or mutations in a row without a new final after which asking ends.
const MAX_TRIES: usize = 3000;

/// Regularised evolution; with a population of none it is random search.
pub struct Evolution<T: Tree> {
    tree: T,
    rng: ChaCha8Rng,
    population: usize,
    members: VecDeque<(FinalId, f64)>,
    asked: BTreeSet<FinalId>,
    told: BTreeSet<FinalId>,
}

impl<T: Tree> Evolution<T> {
    pub fn new(tree: T, seed: u64) -> Evolution<T> {
        let rng = ChaCha8Rng::seed_from_u64(child_seed(seed, "evolution"));
        Evolution { tree, rng, population: POPULATION, members: VecDeque::new(), asked: BTreeSet::new(), told: BTreeSet::new() }
    }

    /// New finals at random, whatever is told.
    pub fn random(tree: T, seed: u64) -> Evolution<T> {
        let rng = ChaCha8Rng::seed_from_u64(child_seed(seed, "random search"));
        Evolution { rng, population: 0, ..Evolution::new(tree, seed) }
    }

    pub fn tree(&self) -> &T {
        &self.tree
    }

    pub fn tree_mut(&mut self) -> &mut T {
        &mut self.tree
    }

    /// The next final to evaluate, each once; `None` when 3,000 tries gave nothing new.
    pub fn ask(&mut self) -> Option<FinalId> {
        for _ in 0..MAX_TRIES {
            let full = self.population > 0 && self.members.len() >= self.population;
            let found = if full { self.mutant() } else { self.draw(None) };
            if let Some(id) = found.filter(|id| self.asked.insert(*id)) {
                return Some(id);
            }
        }
        None
    }

    /// The reward of a final, once. Below 0: the final is no good and joins nobody.
    pub fn tell(&mut self, id: FinalId, reward: f64) {
        if self.told.insert(id) && reward >= 0.0 && self.population > 0 {
            self.members.push_back((id, reward));
            if self.members.len() > self.population {
                self.members.pop_front();
            }
        }
    }

    /// New rewards for those alive.
    pub fn rescore(&mut self, mut reward: impl FnMut(FinalId) -> f64) {
        for (id, known) in &mut self.members {
            *known = reward(*id);
        }
    }

    fn draw(&mut self, from: Option<&T::State>) -> Option<FinalId> {
        let root = self.tree.root();
        self.tree.sample(from.unwrap_or(&root), None, &mut self.rng)
    }

    /// The best of a few, its canonical path cut at random and grown again.
    fn mutant(&mut self) -> Option<FinalId> {
        let parents: Vec<(FinalId, f64)> = self.members.iter().copied().collect();
        let parent = parents.choose_multiple(&mut self.rng, TOURNAMENT).max_by(|a, b| a.1.total_cmp(&b.1))?.0;
        let steps: Vec<Step> = self.tree.path(parent).into_iter().flatten().collect();
        let n_kept = if steps.is_empty() { 0 } else { self.rng.random_range(0..steps.len()) };
        let mut state = self.tree.root();
        for &step in &steps[..n_kept] {
            let To::Partial(next) = self.tree.follow(&state, step)? else { break };
            state = next;
        }
        self.draw(Some(&state))
    }
}
