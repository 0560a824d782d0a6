//! Syntune's own strategy: drafts, then small moves from the best that trees think fast or do not know, to a certified local
//! optimum and on to the next.
//!
//! What is taken from where: drafts by an analytic score (Pruner's draft-then-verify); moves of one or two hops over divisor ladders
//! around the best few, ranked by a model (dynamic gradient search of Ansor-AF-DS, with Droplet's descent as its limit: every
//! neighbour of an incumbent is measured before it is left); trees over knobs that are fitted again for each batch, and their
//! disagreement as a reason to look (Chameleon's cost model, with uncertainty). Each of these can be left out: [`Parts`].

use super::config::{Config, Measurement, Origin, Proposal, Space};
use super::cost::{CostModel, Guess, features};
use super::draft::draft;
use super::strategy::Strategy;
use crate::error::Result;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// What the strategy is made of, for ablations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    /// Drafts ranked by an analytic score; else random configs.
    pub drafts: bool,
    /// A learnt model ranks the moves; else they are taken at random.
    pub model: bool,
    /// Moves go around the best; else proposals are drafts ranked by the model.
    pub descent: bool,
}

impl Parts {
    pub const ALL: Parts = Parts { drafts: true, model: true, descent: true };
}

/// Drafts before the first move: an eighth of the trials, within these.
const START_SHARE: usize = 8;
const N_START: (usize, usize) = (4, 16);
/// One draft of so many comes from MetaSchedule's rules.
const OF_RULES: usize = 4;
/// Configs around which moves are looked for.
const N_CENTRES: usize = 5;
/// A centre is at most this many times as slow as the best.
const NEAR: f64 = 1.5;
/// Moves of two hops drawn around each centre.
const N_FAR: usize = 48;
/// Drafts that are ranked with the moves.
const N_DRAFTS: usize = 24;
/// Of so many proposals one is a draft whatever the model says.
const FRESH: usize = 8;
/// How much an unsure guess counts: the spread of the trees is added to the speed so many times.
const CURIOSITY: f64 = 1.0;

pub struct Guided {
    spaces: Vec<Space>,
    parts: Parts,
    n_start: usize,
    n_asked: usize,
    told: Vec<(f64, Config)>,
    visited: BTreeSet<Config>,
    models: BTreeMap<usize, CostModel>,
    n_fitted: usize,
    seed: u64,
    rng: ChaCha8Rng,
}

/// Where a config came from: the number of its centre.
struct Move {
    config: Config,
    centre: usize,
}

impl Guided {
    pub fn new(spaces: &[Space], parts: Parts, n_trials: usize, seed: u64) -> Guided {
        Guided {
            spaces: spaces.to_vec(),
            parts,
            n_start: (n_trials / START_SHARE).clamp(N_START.0, N_START.1),
            n_asked: 0,
            told: vec![],
            visited: BTreeSet::new(),
            models: BTreeMap::new(),
            n_fitted: 0,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// A config that was not asked for yet, the `n`-th of those that follow no move; `None` where draws only repeat.
    fn fresh(&mut self, n: usize) -> Option<Config> {
        /// Small spaces are soon known.
        const DRAWS: usize = 32;
        let ours = self.spaces.iter().position(|s| s.origin == Origin::Tiles);
        for _ in 0..DRAWS {
            let number = match ours {
                Some(ours) if n % OF_RULES != OF_RULES - 1 => ours,
                _ if n < self.n_start => n / OF_RULES % self.spaces.len(),
                _ => self.rng.random_range(0..self.spaces.len()),
            };
            let space = &self.spaces[number];
            let config = if self.parts.drafts { draft(space, number, &mut self.rng) } else { space.random(number, &mut self.rng) };
            if !self.visited.contains(&config) {
                return Some(config);
            }
        }
        None
    }

    /// One small step in any direction.
    fn hop(&mut self, config: &Config) -> Option<Config> {
        let space = &self.spaces[config.space];
        let around = space.neighbours(config);
        around.choose(&mut self.rng).cloned()
    }

    /// The fastest few that are worth looking around, fastest first.
    fn centres(&self) -> Vec<Config> {
        let mut sorted: Vec<&(f64, Config)> = self.told.iter().filter(|t| t.0.is_finite()).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(best) = sorted.first().map(|t| t.0) else { return vec![] };
        sorted.into_iter().take_while(|t| t.0 <= NEAR * best).take(N_CENTRES).map(|t| t.1.clone()).collect()
    }

    /// What may be measured next.
    fn moves(&mut self) -> Vec<Move> {
        let mut found: Vec<Move> = Vec::new();
        let mut seen: BTreeSet<Config> = BTreeSet::new();
        let centres = if self.parts.descent { self.centres() } else { vec![] };
        for (centre, around) in centres.iter().enumerate() {
            let mut configs = self.spaces[around.space].neighbours(around);
            for _ in 0..N_FAR {
                let far = self.hop(around).and_then(|near| self.hop(&near));
                configs.extend(far);
            }
            for config in configs {
                if !self.visited.contains(&config) && seen.insert(config.clone()) {
                    found.push(Move { config, centre });
                }
            }
        }
        for n in 0..N_DRAFTS {
            if let Some(config) = self.fresh(n)
                && seen.insert(config.clone())
            {
                found.push(Move { config, centre: centres.len() });
            }
        }
        found
    }

    /// Fits the trees of each space to what was measured there.
    fn fit(&mut self) {
        if self.n_fitted == self.told.len() {
            return;
        }
        self.n_fitted = self.told.len();
        let best = self.told.iter().map(|t| t.0).fold(f64::INFINITY, f64::min);
        for (number, space) in self.spaces.iter().enumerate() {
            let here = || self.told.iter().filter(|t| t.1.space == number);
            let rows: Vec<Vec<f64>> = here().map(|t| features(space, &t.1)).collect();
            let speeds: Vec<f64> = here().map(|t| if t.0.is_finite() { best / t.0 } else { 0.0 }).collect();
            self.models.entry(number).or_default().fit(&rows, &speeds, self.seed.wrapping_add(self.n_fitted as u64));
        }
    }

    /// The moves with what is expected of them, the most hopeful first.
    fn rank(&mut self, moves: Vec<Move>) -> Vec<Move> {
        if !self.parts.model {
            let mut keyed: Vec<(u64, Move)> = moves.into_iter().map(|m| (self.rng.random(), m)).collect();
            keyed.sort_by_key(|k| k.0);
            return keyed.into_iter().map(|k| k.1).collect();
        }
        self.fit();
        let mut scored: Vec<(f64, Move)> = Vec::new();
        for (number, model) in &self.models {
            let rows: Vec<Vec<f64>> =
                moves.iter().filter(|m| m.config.space == *number).map(|m| features(&self.spaces[*number], &m.config)).collect();
            let guesses = model.guess(&rows);
            let of = moves.iter().filter(|m| m.config.space == *number).zip(guesses);
            let score = |g: Guess| g.speed + CURIOSITY * g.spread;
            scored.extend(of.map(|(m, g)| (score(g), Move { config: m.config.clone(), centre: m.centre })));
        }
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.config.cmp(&b.1.config)));
        scored.into_iter().map(|s| s.1).collect()
    }
}

impl Strategy for Guided {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        let mut chosen: Vec<Config> = Vec::new();
        let mut ranked: Option<Vec<Move>> = None;
        // not all of a batch around one centre, where the model may be wrong about all of them
        let most = n.div_ceil(2);
        let mut of_centre: BTreeMap<usize, usize> = BTreeMap::new();
        while chosen.len() < n {
            let starting = self.n_asked < self.n_start || self.told.iter().all(|t| t.0.is_infinite());
            let next = if starting || self.n_asked.is_multiple_of(FRESH) {
                self.fresh(self.n_asked)
            } else {
                if ranked.is_none() {
                    let moves = self.moves();
                    ranked = Some(self.rank(moves));
                }
                let left = ranked.get_or_insert_default();
                let open = |m: &Move| of_centre.get(&m.centre).is_none_or(|&k| k < most);
                let at = left.iter().position(open).or(if left.is_empty() { None } else { Some(0) });
                at.map(|i| left.remove(i)).map(|m| {
                    *of_centre.entry(m.centre).or_default() += 1;
                    m.config
                })
            };
            self.n_asked += 1;
            match next {
                Some(config) if self.visited.insert(config.clone()) => chosen.push(config),
                Some(_) => {}
                None if ranked.as_ref().is_some_and(|r| r.is_empty()) => break,
                None if self.n_asked > self.n_start + 2 * self.visited.len() + n => break,
                None => {}
            }
        }
        Ok(chosen.into_iter().map(Proposal::Exact).collect())
    }

    fn tell(&mut self, measurement: &Measurement) {
        let config = &measurement.config;
        let fits = self.spaces.get(config.space).is_some_and(|s| s.knobs.len() == config.decisions.len());
        if !fits {
            return;
        }
        self.visited.insert(config.clone());
        self.told.push((measurement.rank_secs(), config.clone()));
    }
}
