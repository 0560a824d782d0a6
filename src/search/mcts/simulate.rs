//! Looking for new finals below a place.

use super::{Fate, Flight, Place, Rollout, Search};
use crate::search::tree::{FinalId, To, Tree};
use rand::prelude::*;
use std::collections::BTreeSet;

pub(super) enum Probe {
    Found(FinalId),
    Empty,
    Unknown,
}

impl<T: Tree> Search<T> {
    pub(super) fn simulate(&mut self, path: Vec<Place>, state: &T::State, kind: Option<u8>) -> Rollout {
        let wanted = self.constants.leaves.max(self.constants.draws);
        let found = self.draw(state, kind, wanted);
        let mut new: Vec<FinalId> = found.iter().copied().filter(|id| !self.fates.contains_key(id)).collect();
        new.sort_unstable();
        new.dedup();
        if new.is_empty() && self.constants.recount && !found.is_empty() {
            let Some(&id) = found.choose(&mut self.rng) else { return Rollout::Nothing };
            if let Some(Fate::Told { reward, credits }) = self.fates.get_mut(&id) {
                let reward = *reward;
                for &place in &path {
                    self.stats.credit(place, reward, credits);
                }
            }
            self.touch(&path);
            return Rollout::Nothing;
        }
        if new.is_empty() {
            let key = self.tree.key(state);
            let mut budget = self.constants.probe;
            match self.probe(state, kind, &mut budget) {
                Probe::Found(id) => new.push(id),
                Probe::Empty => {
                    if kind.is_none() {
                        self.closed.insert(key);
                    }
                    self.settle(&path);
                    return Rollout::Nothing;
                }
                Probe::Unknown => {
                    self.fruitless.insert((key, kind));
                    return Rollout::Nothing;
                }
            }
        }
        new.shuffle(&mut self.rng);
        Rollout::Proposed(new.into_iter().map(|id| Flight { id, path: path.clone() }).collect())
    }

    /// How many finals to draw in the first round, for so many wanted.
    pub fn n_draws(&self, wanted: usize) -> usize {
        let n_good = self.draws.iter().filter(|d| **d).count();
        if n_good == 0 { 1 } else { (wanted * self.draws.len()).div_ceil(n_good) }
    }

    /// How many finals to draw in the next round.
    pub fn more_draws(&self, n: usize) -> usize {
        (n as f64 * self.constants.growth) as usize + 1
    }

    /// Finals below a state that are new or have a reward, until so many new ones are there or the draws are spent.
    pub(super) fn draw(&mut self, state: &T::State, kind: Option<u8>, wanted: usize) -> Vec<FinalId> {
        let most = self.constants.max_draws;
        let mut n = self.n_draws(wanted);
        let hopeless = !self.draws.contains(&true);
        let (mut n_rounds, mut n_spent) = (0, 0);
        let (mut found, mut new) = (Vec::new(), BTreeSet::new());
        while found.is_empty() && if hopeless { n_spent + n <= most } else { n_rounds < self.constants.retries } {
            for _ in 0..n.min(most) {
                let id = self.tree.sample(state, kind, &mut self.rng);
                self.draws.push_back(id.is_some());
                if self.draws.len() > self.constants.window {
                    self.draws.pop_front();
                }
                let Some(id) = id.filter(|id| !matches!(self.fates.get(id), Some(Fate::Asked | Fate::Refused))) else { continue };
                found.push(id);
                if !self.fates.contains_key(&id) {
                    new.insert(id);
                }
                if hopeless || new.len() >= wanted {
                    break;
                }
            }
            (n_rounds, n_spent) = (n_rounds + 1, n_spent + n);
            n = self.more_draws(n);
        }
        found
    }

    /// Walks all that is below a state, until a new final is found or the budget is spent; closes what has none.
    pub(super) fn probe(&mut self, state: &T::State, kind: Option<u8>, budget: &mut usize) -> Probe {
        if *budget == 0 {
            return Probe::Unknown;
        }
        *budget -= 1;
        let mut outcome = Probe::Empty;
        for arc in self.tree.children(state) {
            if kind.is_some_and(|k| k != arc.kind) {
                continue;
            }
            let below = match &arc.to {
                To::Final(id) if self.fates.contains_key(id) => Probe::Empty,
                To::Final(id) => Probe::Found(*id),
                To::Partial(next) if self.closed.contains(&self.tree.key(next)) => Probe::Empty,
                To::Partial(next) => self.probe(next, None, budget),
            };
            match below {
                Probe::Empty => {
                    if let To::Partial(next) = &arc.to {
                        let key = self.tree.key(next);
                        self.closed.insert(key);
                    }
                }
                Probe::Found(_) => return below,
                Probe::Unknown => outcome = Probe::Unknown,
            }
        }
        outcome
    }
}
