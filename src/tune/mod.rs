//! How fast an operator can be made: MetaSchedule's spaces, searched from Rust, measured in child processes.
//!
//! A [`Task`] is a loop nest, a target and a thread count. A [`Runner`] builds and measures [`Config`]s of it: [`LocalRunner`] with compile
//! workers and one measuring worker ([`worker`], run as `syntune worker ROLE`), or a fake. A [`strategy`] proposes; the [`Tuner`]
//! sees to it that no program is measured twice, that each result is handed on as soon as it is known, and that the winner
//! is measured again beside its challengers.

pub mod agent;
pub mod chameleon;
pub mod config;
pub mod cost;
pub mod descent;
pub mod draft;
pub mod evolutionary;
pub mod guided;
pub mod measure;
pub mod peak;
pub mod protocol;
pub mod roofline;
pub mod runner;
pub mod sampler;
pub mod space;
pub mod strategy;
pub mod tasks;
pub mod verify;
#[cfg(feature = "tvm")]
pub mod worker;
#[cfg(not(feature = "tvm"))]
#[path = "worker_off.rs"]
pub mod worker;

pub use config::*;
pub use runner::{Limits, LocalRunner, Runner, program};

use crate::error::{Context, Result};
use crate::spec;
use crate::synth::child_seed;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Proposals asked for per candidate wanted; many repeat a program already measured.
const ROUNDS_WITHOUT_NEWS: usize = 8;
/// Measured again at the end.
const N_FINALISTS: usize = 3;
/// Not measured again: what was slower than the best by this factor.
const CLEARLY_SLOWER: f64 = 1.25;
/// A candidate slower than this many times the best is called three times only.
const HOPELESS: f64 = 2.0;

/// What a search may spend.
#[derive(Clone, Debug)]
pub struct Options {
    /// Programs to measure, known ones included.
    pub n_trials: usize,
    /// Measured between two questions to the strategy.
    pub batch: usize,
    pub strategy: spec::Strategy,
    /// Only the spaces of MetaSchedule's rules, for comparisons.
    pub rules_only: bool,
    pub seed: u64,
    /// No new batch after this many seconds.
    pub limit_secs: f64,
    /// The final, careful measurement of the best.
    pub final_effort: Effort,
    /// Where the best kernel's library is copied to; `None` leaves it in the runner's folder.
    pub artifacts: Option<PathBuf>,
    /// Set by Ctrl-C.
    pub stop: Arc<AtomicBool>,
}

impl Options {
    pub fn new(n_trials: usize, seed: u64) -> Options {
        Options {
            n_trials,
            batch: if n_trials <= 32 { 4 } else { 8 },
            strategy: spec::Strategy::Mutations,
            rules_only: false,
            seed,
            limit_secs: f64::MAX,
            final_effort: Effort::THOROUGH,
            artifacts: None,
            stop: Arc::new(AtomicBool::new(false)),
        }
    }
}

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum StopReason {
    /// All trials were spent.
    Trials {
        n: usize,
    },
    /// The time was spent.
    TimeLimit {
        secs: f64,
    },
    /// The strategy proposes nothing new.
    Exhausted {
        n: usize,
    },
    Interrupted,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::Trials { n } => write!(f, "{n} trials done"),
            StopReason::TimeLimit { secs } => write!(f, "time limit of {secs:.0} s reached"),
            StopReason::Exhausted { n } => write!(f, "no new program found after {n}"),
            StopReason::Interrupted => write!(f, "interrupted"),
        }
    }
}

/// The fastest verified program of a task.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Best {
    pub config: Config,
    pub hash: u64,
    pub samples: Samples,
    /// Compiled, for this target; lasts as long as `artifacts` or the runner.
    pub library: Option<PathBuf>,
}

impl Best {
    /// Median seconds.
    pub fn secs(&self) -> f64 {
        self.samples.median_secs()
    }
}

/// Where a search's seconds went, in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    /// Summed over candidates; builds run side by side, so this exceeds the wall clock.
    pub steps: Steps,
    /// Wall clock of probing, and of building and measuring.
    pub probe_secs: f64,
    pub measure_secs: f64,
    pub final_secs: f64,
    pub total_secs: f64,
    pub n_probed: usize,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Outcome {
    /// `None` when every candidate failed.
    pub best: Option<Best>,
    /// Programs measured, known ones included; failures count.
    pub n_measured: usize,
    /// Failures by cause.
    pub failures: BTreeMap<String, usize>,
    /// One failure's words, when there was one.
    pub example: Option<Failure>,
    pub stop: StopReason,
    pub cost: Cost,
}

/// Searches the schedules of one task.
pub struct Tuner<'a> {
    runner: &'a mut dyn Runner,
    task: Task,
    options: Options,
    /// The strategy and the number of spaces, once it began.
    search: Option<(Box<dyn strategy::Strategy>, usize)>,
    measured: Vec<Measurement>,
    seen: BTreeSet<u64>,
    cost: Cost,
}

impl<'a> Tuner<'a> {
    pub fn new(runner: &'a mut dyn Runner, task: Task, options: Options) -> Tuner<'a> {
        Tuner { runner, task, options, search: None, measured: Vec::new(), seen: BTreeSet::new(), cost: Cost::default() }
    }

    /// Takes what an earlier run measured: it counts as trials and is not measured again.
    pub fn resume(mut self, known: Vec<Measurement>) -> Tuner<'a> {
        for measurement in known {
            self.seen.insert(measurement.hash);
            self.measured.push(measurement);
        }
        self
    }

    /// Searches. `on_measurement` gets each new result as soon as it is known; save it there.
    ///
    /// # Errors
    /// The task's fault (a target TVM does not know), a missing library, a full disk. Failing candidates are in the outcome.
    pub fn run(mut self, on_measurement: &mut dyn FnMut(&Measurement)) -> Result<Outcome> {
        let n = self.options.n_trials.saturating_sub(self.measured.len());
        let stop = self.advance(n, on_measurement)?;
        self.finish(stop)
    }

    /// Searches until `n` more programs are measured, or another reason to stop; the next call goes on from there. The trials of the
    /// options are then only what the strategy plans for.
    ///
    /// # Errors
    /// As [`Tuner::run`].
    pub fn advance(&mut self, n: usize, on_measurement: &mut dyn FnMut(&Measurement)) -> Result<StopReason> {
        let start = Instant::now();
        let before_secs = self.cost.total_secs;
        let (mut strategy, n_spaces) = match self.search.take() {
            Some(search) => search,
            None => self.begin()?,
        };
        let end = self.measured.len().saturating_add(n);
        let stop = loop {
            let n_left = end - self.measured.len();
            if self.options.stop.load(Ordering::Relaxed) {
                break StopReason::Interrupted;
            }
            if n_left == 0 {
                break StopReason::Trials { n: self.measured.len() };
            }
            if before_secs + start.elapsed().as_secs_f64() > self.options.limit_secs {
                break StopReason::TimeLimit { secs: self.options.limit_secs };
            }
            let batch = if n_spaces == 0 { vec![] } else { self.propose(strategy.as_mut(), n_left.min(self.options.batch))? };
            if batch.is_empty() {
                break StopReason::Exhausted { n: self.measured.len() };
            }
            let n_before = self.measured.len();
            self.measure(&batch, on_measurement)?;
            self.measured[n_before..].iter().for_each(|m| strategy.tell(m));
        };
        self.search = Some((strategy, n_spaces));
        self.cost.total_secs = before_secs + start.elapsed().as_secs_f64();
        Ok(stop)
    }

    /// A fresh strategy that was told what is known.
    fn begin(&mut self) -> Result<(Box<dyn strategy::Strategy>, usize)> {
        let mut spaces = self.runner.spaces(&self.task)?;
        if self.options.rules_only {
            // ours are the last
            spaces.truncate(spaces.iter().take_while(|s| s.origin == Origin::Rules).count());
        }
        let seed = child_seed(self.options.seed, "tune");
        let mut strategy = strategy::start(self.options.strategy, &self.task, &spaces, self.options.n_trials, seed);
        self.measured.iter().for_each(|m| strategy.tell(m));
        Ok((strategy, spaces.len()))
    }

    /// Measures the best again and says what was found.
    ///
    /// # Errors
    /// As [`Tuner::run`].
    pub fn finish(mut self, stop: StopReason) -> Result<Outcome> {
        let best = self.crown()?;
        self.cost.total_secs += self.cost.final_secs;
        let mut failures = BTreeMap::new();
        for failure in self.measured.iter().filter_map(|m| m.result.as_ref().err()) {
            *failures.entry(failure.cause().to_string()).or_insert(0) += 1;
        }
        let example = self.measured.iter().find_map(|m| m.result.as_ref().err().cloned());
        Ok(Outcome { best, n_measured: self.measured.len(), failures, example, stop, cost: self.cost })
    }

    /// Up to `n` programs that were not measured yet.
    fn propose(&mut self, strategy: &mut dyn strategy::Strategy, n: usize) -> Result<Vec<Candidate>> {
        let start = Instant::now();
        let mut batch: Vec<Candidate> = Vec::new();
        for _ in 0..ROUNDS_WITHOUT_NEWS {
            let proposals = strategy.ask(n - batch.len())?;
            self.cost.n_probed += proposals.len();
            for candidate in self.runner.probe(&self.task, &proposals)?.into_iter().flatten() {
                if self.seen.insert(candidate.hash) {
                    batch.push(candidate);
                }
            }
            if batch.len() == n || self.options.stop.load(Ordering::Relaxed) {
                break;
            }
        }
        self.cost.probe_secs += start.elapsed().as_secs_f64();
        Ok(batch)
    }

    fn measure(&mut self, batch: &[Candidate], on_measurement: &mut dyn FnMut(&Measurement)) -> Result<()> {
        let start = Instant::now();
        let best = self.measured.iter().map(Measurement::rank_secs).fold(f64::INFINITY, f64::min);
        let effort = Effort { hopeless_secs: if best.is_finite() { HOPELESS * best } else { f64::MAX }, ..Effort::QUICK };
        let (measured, cost, stop) = (&mut self.measured, &mut self.cost, &self.options.stop);
        self.runner.measure(&self.task, batch, &effort, &mut |measurement| {
            on_measurement(&measurement);
            cost.steps.add(&measurement.steps);
            measured.push(measurement);
            !stop.load(Ordering::Relaxed)
        })?;
        self.cost.measure_secs += start.elapsed().as_secs_f64();
        let mut ranked: Vec<usize> = (0..self.measured.len()).collect();
        ranked.sort_by(|&a, &b| self.measured[a].rank_secs().total_cmp(&self.measured[b].rank_secs()));
        for &i in ranked.iter().skip(N_FINALISTS) {
            discard(self.measured[i].library.take());
        }
        Ok(())
    }

    /// Measures the best few again, carefully and in turn; the first fast number may have been luck.
    fn crown(&mut self) -> Result<Option<Best>> {
        let start = Instant::now();
        let mut finalists: Vec<&Measurement> = self.measured.iter().filter(|m| m.result.is_ok()).collect();
        finalists.sort_by(|a, b| a.rank_secs().total_cmp(&b.rank_secs()));
        finalists.truncate(N_FINALISTS);
        let best = finalists.first().map_or(f64::INFINITY, |m| m.rank_secs());
        finalists.retain(|m| m.rank_secs() <= CLEARLY_SLOWER * best);
        let candidates: Vec<Candidate> =
            finalists.iter().map(|m| Candidate { config: m.config.clone(), hash: m.hash, built: m.library.clone() }).collect();
        let mut again: Vec<Measurement> = Vec::new();
        if !self.options.stop.load(Ordering::Relaxed) && !candidates.is_empty() {
            self.runner.measure(&self.task, &candidates, &self.options.final_effort, &mut |m| {
                again.push(m);
                true
            })?;
        }
        let fallback = finalists.first().map(|m| (*m).clone());
        let winner = again.into_iter().filter(|m| m.result.is_ok()).min_by(|a, b| a.rank_secs().total_cmp(&b.rank_secs())).or(fallback);
        self.cost.final_secs = start.elapsed().as_secs_f64();
        let Some(winner) = winner else { return Ok(None) };
        let library = match (&winner.library, &self.options.artifacts) {
            (Some(library), Some(folder)) => Some(keep(library, folder, winner.hash)?),
            (library, _) => library.clone(),
        };
        let samples = winner.result.unwrap_or(Samples(vec![]));
        Ok(Some(Best { config: winner.config, hash: winner.hash, samples, library }))
    }
}

/// Removes a kernel's private folder.
fn discard(library: Option<PathBuf>) {
    if let Some(folder) = library.as_deref().and_then(Path::parent) {
        let _ = std::fs::remove_dir_all(folder);
    }
}

fn keep(library: &Path, folder: &Path, hash: u64) -> Result<PathBuf> {
    std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
    let kept = folder.join(format!("{hash:016x}.so"));
    let partial = folder.join(format!("{hash:016x}.so.part"));
    std::fs::copy(library, &partial).context(|| format!("copying a kernel to {}; is the disk full?", partial.display()))?;
    std::fs::rename(&partial, &kept).context(|| format!("renaming {}", partial.display()))?;
    Ok(kept)
}

/// Tunes one nest on this machine: [`Tuner`] on a fresh [`LocalRunner`].
///
/// # Errors
/// As [`Tuner::run`].
pub fn tune_nest(task: &Task, options: Options, on_measurement: &mut dyn FnMut(&Measurement)) -> Result<Outcome> {
    let mut runner = LocalRunner::new(Limits::default())?;
    runner.stop_with(options.stop.clone());
    Tuner::new(&mut runner, task.clone(), options).run(on_measurement)
}
