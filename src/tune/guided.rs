//! Syntune's own strategy: drafts, then small moves around the best few, half of them those that trees think fast or do not know.
//!
//! What is taken from where: drafts by an analytic score (Pruner's draft-then-verify); moves of one or two hops over divisor ladders
//! around the best few, ranked by a model (dynamic gradient search of Ansor-AF-DS); trees over knobs that are fitted again as
//! measurements come in, and their disagreement as a reason to look (Chameleon's cost model, with uncertainty). Each of these can be
//! left out: [`Parts`].

use super::config::{Config, Measurement, Proposal, Space, Task};
use super::cost::{Learner, Lessons, Rows, pick};
use super::draft::{draft_by, space_of};
use super::strategy::Strategy;
use crate::error::Result;
use rand::SeedableRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;

/// What strategies are made of, for ablations.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Parts {
    /// Drafts ranked by an analytic score; else random configs.
    pub drafts: bool,
    /// A learnt model ranks the moves; else they are taken at random.
    pub model: bool,
    /// Moves go around the best; else proposals are drafts ranked by the model.
    pub descent: bool,
    /// What other kernels of a model taught counts too.
    pub transfer: bool,
    /// In Chameleon an agent explores; else chains are annealed.
    pub exploration: bool,
    /// In Chameleon few stand for the plan; else all of it is measured.
    pub sampling: bool,
}

impl Parts {
    pub const ALL: Parts = Parts { drafts: true, model: true, descent: true, transfer: true, exploration: true, sampling: true };
}

/// Drafts before the first move: an eighth of the trials, within these.
const START_SHARE: usize = 8;
const N_START: (usize, usize) = (4, 16);
/// Configs around which moves are looked for.
const N_CENTRES: usize = 5;
/// A centre is at most this many times as slow as the best.
const NEAR: f64 = 1.5;
/// Moves of two hops drawn around each centre.
const N_FAR: usize = 48;
/// Drafts that are ranked with the moves, and those of them that are new each time: drafting is most of what asking takes.
const N_DRAFTS: usize = 24;
const N_NEW_DRAFTS: usize = 6;
/// Of so many proposals one is a draft whatever the model says.
const FRESH: usize = 8;

pub struct Guided {
    spaces: Vec<Space>,
    parts: Parts,
    n_start: usize,
    n_asked: usize,
    told: Vec<(f64, Config)>,
    visited: BTreeSet<Config>,
    /// Ranked with the moves, the oldest first.
    drafts: Vec<Config>,
    /// Spaces whose drafts only repeat.
    spent: BTreeSet<usize>,
    rows: Rows,
    learner: Learner,
    rng: ChaCha8Rng,
}

impl Guided {
    pub fn new(task: &Task, spaces: &[Space], parts: Parts, n_trials: usize, seed: u64) -> Guided {
        Guided {
            spaces: spaces.to_vec(),
            parts,
            n_start: (n_trials / START_SHARE).clamp(N_START.0, N_START.1),
            n_asked: 0,
            told: vec![],
            visited: BTreeSet::new(),
            drafts: vec![],
            spent: BTreeSet::new(),
            rows: Rows::new(&task.computation, spaces, task.n_threads),
            learner: Learner::new(seed),
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// A config that was not asked for yet, the `n`-th of those that follow no move; `None` where all spaces are spent.
    fn fresh(&mut self, n: usize) -> Option<Config> {
        /// Small spaces are soon known: so many draws in a row that only repeat.
        const DRAWS: usize = 32;
        loop {
            let left: Vec<usize> = (0..self.spaces.len()).filter(|number| !self.spent.contains(number)).collect();
            let wanted = space_of(&self.spaces, n, n < self.n_start, &mut self.rng);
            let number = if self.spent.contains(&wanted) { *left.choose(&mut self.rng)? } else { wanted };
            let space = &self.spaces[number];
            for _ in 0..DRAWS {
                let rng = &mut self.rng;
                let config = if self.parts.drafts { draft_by(&self.rows.roofline, space, number, rng) } else { space.random(number, rng) };
                if !self.visited.contains(&config) {
                    return Some(config);
                }
            }
            self.spent.insert(number);
        }
    }

    /// The fastest few that are worth looking around, fastest first.
    fn centres(&self) -> Vec<Config> {
        let mut sorted: Vec<&(f64, Config)> = self.told.iter().filter(|t| t.0.is_finite()).collect();
        sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
        let Some(best) = sorted.first().map(|t| t.0) else { return vec![] };
        sorted.into_iter().take_while(|t| t.0 <= NEAR * best).take(N_CENTRES).map(|t| t.1.clone()).collect()
    }

    /// What may be measured next.
    fn moves(&mut self) -> Vec<Config> {
        let mut found: BTreeSet<Config> = BTreeSet::new();
        let centres = if self.parts.descent { self.centres() } else { vec![] };
        for around in &centres {
            let space = &self.spaces[around.space];
            let near = space.neighbours(around);
            for _ in 0..N_FAR {
                // one small step in any direction, and one from there
                let far = near.choose(&mut self.rng).and_then(|config| space.neighbours(config).choose(&mut self.rng).cloned());
                found.extend(far);
            }
            found.extend(near);
        }
        self.drafts.retain(|config| !self.visited.contains(config));
        let n_kept = self.drafts.len().min(N_DRAFTS - N_NEW_DRAFTS);
        self.drafts.drain(..self.drafts.len() - n_kept);
        for n in n_kept..N_DRAFTS {
            let new = self.fresh(n);
            self.drafts.extend(new);
        }
        found.extend(self.drafts.iter().cloned());
        found.into_iter().filter(|config| !self.visited.contains(config)).collect()
    }

    /// The `n` moves to measure together, the most hopeful first.
    fn choose(&mut self, n: usize) -> Vec<Config> {
        if n == 0 {
            return vec![];
        }
        let mut moves = self.moves();
        if !self.parts.model {
            moves.shuffle(&mut self.rng);
            moves.truncate(n);
            return moves;
        }
        let rows: Vec<Vec<f64>> = moves.iter().map(|config| self.rows.of(config)).collect();
        let guesses = self.learner.guess(&rows);
        // where the model is wrong about all that is near, chance goes on
        let n_ranked = if self.n_asked.is_multiple_of(2) { n.div_ceil(2) } else { n / 2 };
        let mut chosen = pick(&guesses, &rows, n_ranked);
        let mut others: Vec<usize> = (0..moves.len()).filter(|i| !chosen.contains(i)).collect();
        others.shuffle(&mut self.rng);
        chosen.extend(others.into_iter().take(n - n_ranked));
        chosen.into_iter().map(|i| moves[i].clone()).collect()
    }
}

impl Strategy for Guided {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        let mut chosen: Vec<Config> = Vec::new();
        // drafts at the start, and one of so many later
        let works = self.told.iter().any(|t| t.0.is_finite());
        for i in 0..n {
            let at = self.n_asked + i;
            // what an earlier run measured is a start too
            if !works || at.max(self.told.len()) < self.n_start || at.is_multiple_of(FRESH) {
                let Some(config) = self.fresh(at) else { break };
                self.visited.insert(config.clone());
                chosen.push(config);
            }
        }
        for config in self.choose(n - chosen.len()) {
            self.visited.insert(config.clone());
            chosen.push(config);
        }
        self.n_asked += n;
        Ok(chosen.into_iter().map(Proposal::Exact).collect())
    }

    fn tell(&mut self, measurement: &Measurement) {
        let config = &measurement.config;
        let fits = self.spaces.get(config.space).is_some_and(|s| s.knobs.len() == config.decisions.len());
        if !fits {
            return;
        }
        self.visited.insert(config.clone());
        self.learner.tell(self.rows.of(config), measurement.rank_secs());
        self.told.push((measurement.rank_secs(), config.clone()));
    }

    fn lessons(&self) -> Option<&Lessons> {
        Some(self.learner.lessons())
    }

    fn learn(&mut self, others: &[Lessons]) {
        if self.parts.transfer {
            self.learner.take(others, self.rows.n_columns());
        }
    }
}
