//! What is known of the rewards at every place of a search.

use crate::search::tree::Step;
use std::collections::{BTreeMap, HashMap};

/// Where rewards are counted. Places are named by content: a state forgotten and met again finds its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    /// Paths through a state.
    State(u128),
    /// Paths through a state's actions of one kind.
    Kind(u128, u8),
    /// Paths through one action of a state.
    Arc(u128, Step),
    /// Finals with an order of actions that has an action of this kind in this state (local RAVE).
    LocalKind(u128, u8),
    /// Finals with an order of actions that takes this action in this state (local RAVE).
    LocalArc(u128, Step),
    /// Finals with an action of this kind (global RAVE).
    AnyKind(u8),
    /// Finals with this action (global RAVE).
    AnyArc(Step),
    /// All finals.
    All,
}

/// Rewards at a place, and evaluations in flight through it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stat {
    pub n: u32,
    pub sum: f64,
    pub squares: f64,
    pub in_flight: u32,
}

impl Stat {
    pub fn mean(&self) -> f64 {
        if self.n == 0 { 0.0 } else { self.sum / f64::from(self.n) }
    }

    /// Of the population; 0 up to one reward.
    pub fn std(&self) -> f64 {
        if self.n <= 1 { 0.0 } else { (self.squares / f64::from(self.n) - self.mean().powi(2)).max(0.0).sqrt() }
    }

    /// What may be hoped for here, by Syno's rule: mean + std − 1/n.
    pub fn hope(&self) -> Option<f64> {
        (self.n > 0).then(|| self.mean() + self.std() - 1.0 / f64::from(self.n))
    }

    fn add(&mut self, reward: f64) {
        self.n += 1;
        self.sum += reward;
        self.squares += reward * reward;
    }
}

/// How often a final's reward was counted at which places.
pub(super) type Credits = BTreeMap<u32, u32>;

/// All places that something is known of.
#[derive(Default)]
pub(super) struct Stats {
    // only looked up, never walked: its order does not matter
    places: HashMap<Place, u32>,
    stats: Vec<Stat>,
}

impl Stats {
    pub fn at(&self, place: Place) -> Stat {
        self.places.get(&place).map_or(Stat::default(), |&i| self.stats[i as usize])
    }

    fn index(&mut self, place: Place) -> u32 {
        *self.places.entry(place).or_insert_with(|| {
            self.stats.push(Stat::default());
            self.stats.len() as u32 - 1
        })
    }

    pub fn credit(&mut self, place: Place, reward: f64, credits: &mut Credits) {
        let index = self.index(place);
        self.stats[index as usize].add(reward);
        *credits.entry(index).or_default() += 1;
    }

    pub fn recredit(&mut self, credits: &Credits, old: f64, new: f64) {
        for (&index, &times) in credits {
            let stat = &mut self.stats[index as usize];
            stat.sum += (new - old) * f64::from(times);
            stat.squares += (new * new - old * old) * f64::from(times);
        }
    }

    /// A first visit without a reward.
    pub fn visit(&mut self, place: Place) {
        let index = self.index(place);
        self.stats[index as usize].n += 1;
    }

    pub fn fly(&mut self, place: Place) {
        let index = self.index(place);
        self.stats[index as usize].in_flight += 1;
    }

    pub fn land(&mut self, place: Place) {
        let index = self.index(place);
        let stat = &mut self.stats[index as usize];
        stat.in_flight = stat.in_flight.saturating_sub(1);
    }

    pub fn n_in_flight(&self) -> u64 {
        self.stats.iter().map(|s| u64::from(s.in_flight)).sum()
    }
}
