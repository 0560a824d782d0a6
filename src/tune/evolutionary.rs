//! MetaSchedule's own search (Shao et al. 2022): evolution of traces in C++ by TVM, in a worker of its own; programs are built and
//! measured like those of every other strategy, so that only the search differs.

use super::config::{Config, Measurement, Proposal, Space, Task};
use super::cost::{CostModel, program};
use super::protocol::{CompileAnswer, CompileRequest, Population};
use super::strategy::Strategy;
use crate::child::Child;
use crate::error::{Error, Result};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::VecDeque;
use std::time::Duration;

/// MetaSchedule's programs per round; shorter searches have four rounds.
const PER_ROUND: usize = 64;
const LEAST_PER_ROUND: usize = 8;
/// Times that a worker is started for one round.
const ATTEMPTS: usize = 2;
/// A round replays and scores thousands of traces.
const ROUND_SECS: f64 = 600.0;
/// Measurements before the cost model is believed (`XGBModel`, `num_warmup_samples`); in shorter searches a quarter of them.
const WARM_UP: usize = 100;
/// The model is fitted again once there are so many times more measurements (`XGBModel`, `adaptive_training`).
const GROWTH: f64 = 1.2;

/// The controlling side.
pub struct Evolutionary {
    task: Task,
    population: Population,
    worker: Option<Child>,
    queue: VecDeque<Config>,
    /// All that was measured, and how much of it the worker knows.
    told: Vec<(Config, Vec<f64>)>,
    n_sent: usize,
}

impl Evolutionary {
    /// Only [`Population::with_tiles`] says which of the spaces are looked at.
    pub fn new(task: &Task, spaces: &[Space], n_trials: usize, seed: u64) -> Evolutionary {
        let population = Population {
            with_tiles: spaces.iter().any(|s| s.origin == super::config::Origin::Tiles),
            per_round: (n_trials / 4).clamp(LEAST_PER_ROUND, PER_ROUND),
            warm_up: (n_trials / 4).min(WARM_UP),
            seed,
        };
        Evolutionary { task: task.clone(), population, worker: None, queue: VecDeque::new(), told: vec![], n_sent: 0 }
    }

    /// Empty where the worker is lost again and again: other strategies go on from there, or the search ends with what it has.
    fn next_round(&mut self) -> Result<Vec<Config>> {
        for _ in 0..ATTEMPTS {
            if let Some(configs) = self.attempt()? {
                return Ok(configs);
            }
        }
        Ok(vec![])
    }

    /// `None` when the worker is lost.
    fn attempt(&mut self) -> Result<Option<Vec<Config>>> {
        let mut worker = match self.worker.take() {
            Some(worker) => worker,
            None => {
                self.n_sent = 0;
                Child::spawn("compile", &[])?
            }
        };
        let told = self.told[self.n_sent..].to_vec();
        let request = CompileRequest::Evolve { task: self.task.clone(), population: self.population.clone(), told };
        match worker.ask(&request, Duration::from_secs_f64(ROUND_SECS)) {
            Ok(CompileAnswer::Evolved(configs)) => {
                self.n_sent = self.told.len();
                self.worker = Some(worker);
                Ok(Some(configs))
            }
            Ok(CompileAnswer::Failed(failure)) => Err(Error::Library(format!("MetaSchedule's search: {failure}; use another strategy"))),
            Ok(CompileAnswer::Refused(message)) => Err(Error::Invalid(message)),
            Ok(_) => Err(Error::Invalid("the compile worker answered another question: are two versions of syntune mixed?".into())),
            Err(_) => Ok(None),
        }
    }
}

impl Strategy for Evolutionary {
    fn ask(&mut self, n: usize) -> Result<Vec<Proposal>> {
        if self.queue.is_empty() {
            self.queue = self.next_round()?.into();
        }
        let n = n.min(self.queue.len());
        Ok(self.queue.drain(..n).map(Proposal::Exact).collect())
    }

    fn tell(&mut self, measurement: &Measurement) {
        let samples = measurement.result.as_ref().map(|s| s.0.clone()).unwrap_or_default();
        self.told.push((measurement.config.clone(), samples));
    }
}

/// The cost model in the worker: what MetaSchedule learns by XGBoost from the features of each store. Ours are trees over one row per
/// program.
pub struct Scores {
    warm_up: usize,
    rows: Vec<Vec<f64>>,
    /// Mean seconds; infinite for a failure.
    secs: Vec<f64>,
    n_fitted: usize,
    model: CostModel,
    rng: ChaCha8Rng,
    seed: u64,
}

impl Scores {
    pub fn new(warm_up: usize, seed: u64) -> Scores {
        let rng = ChaCha8Rng::seed_from_u64(seed);
        Scores { warm_up, rows: vec![], secs: vec![], n_fitted: 0, model: CostModel::default(), rng, seed }
    }

    /// Takes programs that were measured: their features, and samples in seconds.
    pub fn learn(&mut self, measured: &[(Vec<Vec<f64>>, Vec<f64>)]) {
        for (features, samples) in measured {
            self.rows.push(program(features));
            self.secs.push(if samples.is_empty() { f64::INFINITY } else { samples.iter().sum::<f64>() / samples.len() as f64 });
        }
        if self.rows.len() >= self.warm_up && self.rows.len() as f64 >= GROWTH * self.n_fitted as f64 {
            let best = self.secs.iter().copied().fold(f64::INFINITY, f64::min);
            let speeds: Vec<f64> = self.secs.iter().map(|secs| if secs.is_finite() { best / secs } else { 0.0 }).collect();
            self.model.fit(&self.rows, &speeds, self.seed);
            self.n_fitted = self.rows.len();
        }
    }

    /// A score for each program, the higher the better; random ones until enough was measured.
    pub fn score(&mut self, programs: &[Vec<Vec<f64>>]) -> Vec<f64> {
        if !self.model.is_fitted() {
            return programs.iter().map(|_| self.rng.random()).collect();
        }
        let rows: Vec<Vec<f64>> = programs.iter().map(|p| program(p)).collect();
        self.model.guess(&rows).into_iter().map(|g| g.speed).collect()
    }
}
