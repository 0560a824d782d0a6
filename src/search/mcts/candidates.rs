//! Which of many finals to propose: drawing is cheap and evaluating dear, so the surrogate ranks many draws for each proposal.
//!
//! Draws come from below the place that the tree chose, from the root, and from beginnings of good finals: their canonical
//! paths cut at random and grown again, as in regularised evolution. What comes from elsewhere is put into the tree along its
//! canonical path when it is proposed, so that the tree learns from all.

use super::surrogate::Look;
use super::{Flight, Rollout, Search};
use crate::search::tree::{FinalId, Step, To, Tree};
use rand::prelude::*;
use std::collections::BTreeSet;

impl<T: Tree> Search<T> {
    /// Are finals ranked before they are proposed?
    pub(super) fn is_guided(&self) -> bool {
        self.constants.draws > 1
    }

    /// The finals to propose next, best first; none where a rollout found nothing new.
    pub(super) fn candidates(&mut self) -> Vec<Flight> {
        let n_leaves = self.constants.leaves.max(1);
        let n = self.constants.draws;
        let afresh = self.constants.afresh / (self.constants.afresh + self.surrogate.n_told() as f64);
        let mut flights = Vec::new();
        if self.is_guided() && self.rng.random::<f64>() < afresh {
            flights = self.strangers(3 * n, &[]);
        }
        if flights.is_empty() {
            let Rollout::Proposed(found) = self.rollout() else { return Vec::new() };
            flights = found;
            if self.is_guided() {
                let strangers = self.strangers(n, &flights);
                flights.extend(strangers);
                let kin = self.kin(n, &flights);
                flights.extend(kin);
            }
        }
        if self.is_guided() {
            flights = self.ranked(flights);
        }
        flights.truncate(n_leaves);
        for flight in &mut flights {
            if flight.path.is_empty() {
                flight.path = self.adopt(flight.id);
            }
        }
        flights
    }

    /// By falling hope; before anything is known, as they come.
    fn ranked(&mut self, flights: Vec<Flight>) -> Vec<Flight> {
        if self.surrogate.n_told() == 0 {
            return flights;
        }
        let mut ranked: Vec<(f64, Flight)> = Vec::with_capacity(flights.len());
        for flight in flights {
            let look = self.look(flight.id);
            ranked.push((self.surrogate.hope(&look, self.constants.optimism), flight));
        }
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
        ranked.into_iter().map(|r| r.1).collect()
    }

    /// New finals drawn from the root.
    fn strangers(&mut self, n: usize, but: &[Flight]) -> Vec<Flight> {
        let root = self.root.1.clone();
        let found = self.draw(&root, None, n);
        self.fresh(found, but)
    }

    /// New finals that begin like good ones.
    fn kin(&mut self, n: usize, but: &[Flight]) -> Vec<Flight> {
        let mut known: Vec<(FinalId, f64)> = self.rewards().collect();
        known.sort_by(|a, b| b.1.total_cmp(&a.1));
        known.truncate(known.len().isqrt());
        let mut found = Vec::new();
        for _ in 0..n {
            let Some(&(id, _)) = known.choose(&mut self.rng) else { break };
            found.extend(self.regrown(id));
        }
        self.fresh(found, but)
    }

    fn regrown(&mut self, id: FinalId) -> Option<FinalId> {
        let steps: Vec<Step> = self.tree.path(id).into_iter().flatten().collect();
        let n_kept = self.rng.random_range(0..steps.len().max(1));
        let mut state = self.tree.root();
        for &step in steps.iter().take(n_kept) {
            let To::Partial(next) = self.tree.follow(&state, step)? else { break };
            state = next;
        }
        self.tree.sample(&state, None, &mut self.rng)
    }

    /// Each once, without those known and those beside.
    fn fresh(&self, found: Vec<FinalId>, but: &[Flight]) -> Vec<Flight> {
        let mut seen: BTreeSet<FinalId> = but.iter().map(|f| f.id).collect();
        let is_new = |id: &FinalId| !self.fates.contains_key(id) && seen.insert(*id);
        found.into_iter().filter(is_new).map(|id| Flight { id, path: Vec::new() }).collect()
    }

    pub(super) fn look(&mut self, id: FinalId) -> Look {
        let steps = self.tree.path(id).into_iter().flatten().collect();
        Look::new(self.tree.numbers(id), steps)
    }
}
