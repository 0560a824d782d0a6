//! Chameleon's tuner (Ahn et al. 2020): a cost model, an agent that explores it, and few samples that stand for what the agent found.
//!
//! Each round the trees are fitted to all measurements, an [`Agent`] walks over a space, the best of what it came by are planned, and
//! [`sampler::sample`] picks from the plan what is measured. The first configs, and the last few of each round, are random. With an
//! [`Annealer`] in place of the agent and the whole plan measured this is AutoTVM (Chen et al. 2018), which the paper compares with:
//! `annealing`. The paper knows one space per task; here MetaSchedule's spaces, and ours, are explored in turn, that with the fastest
//! config more often.

use super::agent::Agent;
use super::anneal::Annealer;
use super::config::{Config, Measurement, Proposal, Space};
use super::cost::{CostModel, features};
use super::guided::Parts;
use super::sampler;
use super::strategy::Strategy;
use crate::error::Result;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Configs planned per round, of which the sampler takes some.
const PLAN: usize = 64;
/// Of each round the last so many are random: AutoTVM's 0.05 of a plan.
const N_RANDOM: usize = 3;
/// Measured before the first round, at most; published: 64, all at random.
const FIRST: usize = 64;
/// The share of the trials for that.
const FIRST_SHARE: f64 = 0.25;
/// Rounds of which one goes to a space other than the fastest's.
const OTHERS: usize = 4;

/// Who looks for configs with a high score.
enum Explorer {
    Agent(Agent),
    Annealer(Annealer),
}

pub struct Chameleon {
    spaces: Vec<Space>,
    parts: Parts,
    explorers: BTreeMap<usize, Explorer>,
    rows: Vec<Vec<Vec<f64>>>,
    secs: Vec<Vec<f64>>,
    visited: Vec<BTreeSet<Vec<usize>>>,
    /// Spaces of which the agent came by nothing new.
    barren: BTreeSet<usize>,
    queue: VecDeque<Config>,
    n_first: usize,
    n_asked: usize,
    n_rounds: usize,
    seed: u64,
    rng: ChaCha8Rng,
}

impl Chameleon {
    pub fn new(spaces: &[Space], n_trials: usize, seed: u64, parts: Parts) -> Chameleon {
        let n = spaces.len();
        Chameleon {
            spaces: spaces.to_vec(),
            parts,
            explorers: BTreeMap::new(),
            rows: vec![vec![]; n],
            secs: vec![vec![]; n],
            visited: vec![BTreeSet::new(); n],
            barren: BTreeSet::new(),
            queue: VecDeque::new(),
            n_first: ((n_trials as f64 * FIRST_SHARE) as usize).clamp(1, FIRST),
            n_asked: 0,
            n_rounds: 0,
            seed,
            rng: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The space of the next round: that of the fastest config, or another one.
    fn space(&mut self) -> usize {
        let n = self.spaces.len();
        let least = |s: usize| self.secs[s].iter().copied().fold(f64::INFINITY, f64::min);
        let fastest = (0..n).min_by(|&a, &b| least(a).total_cmp(&least(b))).unwrap_or(0);
        let other = self.n_rounds % OTHERS == OTHERS - 1;
        if other { self.rng.random_range(0..n) } else { fastest }
    }

    /// Each value of each knob equally likely.
    fn random(&mut self, space: usize) -> Config {
        let of = &self.spaces[space];
        let values = (0..of.knobs.len()).map(|k| of.values(k));
        let decisions = values.map(|v| v[self.rng.random_range(0..v.len())].clone()).collect();
        Config { space, decisions }
    }

    fn plan(&mut self) {
        let s = self.space();
        self.n_rounds += 1;
        if self.barren.contains(&s) {
            return;
        }
        let space = &self.spaces[s];
        let values: Vec<Vec<_>> = (0..space.knobs.len()).map(|k| space.values(k)).collect();
        let sizes: Vec<usize> = values.iter().map(Vec::len).collect();
        let config = |places: &[usize]| Config { space: s, decisions: places.iter().zip(&values).map(|(&p, v)| v[p].clone()).collect() };
        let mut model = CostModel::default();
        let best = self.secs.iter().flatten().copied().fold(f64::INFINITY, f64::min);
        let speeds: Vec<f64> = self.secs[s].iter().map(|secs| if secs.is_finite() { best / secs } else { 0.0 }).collect();
        model.fit(&self.rows[s], &speeds, self.seed.wrapping_add(self.n_rounds as u64));
        if !model.is_fitted() {
            // too few of this space are known
            let config = self.random(s);
            self.queue.push_back(config);
            return;
        }
        let mut score = |visited: &[Vec<usize>]| -> Vec<f64> {
            let rows: Vec<Vec<f64>> = visited.iter().map(|places| features(space, &config(places))).collect();
            model.guess(&rows).into_iter().map(|g| g.speed).collect()
        };
        let rng = &mut self.rng;
        let explorer = self.explorers.entry(s).or_insert_with(|| match self.parts.exploration {
            true => Explorer::Agent(Agent::new(&sizes, rng)),
            false => Explorer::Annealer(Annealer::new(&sizes, rng)),
        });
        let mut seen = match explorer {
            Explorer::Agent(agent) => agent.explore(&mut score, rng),
            Explorer::Annealer(annealer) => annealer.explore(PLAN, &self.visited[s], &mut score, rng),
        };
        seen.sort_by(|a, b| a.1.cmp(&b.1));
        seen.dedup_by(|a, b| a.1 == b.1);
        // of equal ones any
        seen.shuffle(rng);
        seen.sort_by(|a, b| b.0.total_cmp(&a.0));
        let plans: Vec<Vec<usize>> = seen.into_iter().map(|s| s.1).filter(|p| !self.visited[s].contains(p)).take(PLAN).collect();
        if plans.is_empty() {
            self.barren.insert(s);
            return;
        }
        let mut chosen = if self.parts.sampling { sampler::sample(&plans, &sizes, &self.visited[s], PLAN, &mut self.rng) } else { plans };
        // not the only one that the model recommends
        chosen.truncate((PLAN - N_RANDOM).min(chosen.len().saturating_sub(N_RANDOM).max(1)));
        chosen.extend((0..N_RANDOM).map(|_| sizes.iter().map(|&n| self.rng.random_range(0..n.max(1))).collect()));
        for places in chosen {
            self.queue.push_back(config(&places));
            self.visited[s].insert(places);
        }
    }
}

impl Strategy for Chameleon {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        let mut found = Vec::new();
        while found.len() < n {
            if self.n_asked < self.n_first {
                let space = self.n_asked % self.spaces.len();
                found.push(Proposal::Exact(self.random(space)));
                self.n_asked += 1;
                continue;
            }
            if self.queue.is_empty() {
                self.plan();
            }
            let Some(config) = self.queue.pop_front() else {
                // all that the agent came by was measured
                let space = self.rng.random_range(0..self.spaces.len());
                found.push(Proposal::Random { space, seed: self.rng.random() });
                continue;
            };
            found.push(Proposal::Exact(config));
        }
        Ok(found)
    }

    fn tell(&mut self, measurement: &Measurement) {
        let config = &measurement.config;
        let Some(space) = self.spaces.get(config.space) else { return };
        if config.decisions.len() != space.knobs.len() {
            return;
        }
        self.rows[config.space].push(features(space, config));
        self.secs[config.space].push(measurement.rank_secs());
        let place = |(k, d)| space.values(k).iter().position(|v| v == d).unwrap_or(0);
        self.visited[config.space].insert(config.decisions.iter().enumerate().map(place).collect());
    }
}
