//! How fast an operator can be made: MetaSchedule's spaces, searched from Rust, measured in child processes.
//!
//! A [`Task`] is a loop nest, a target and a thread count. A [`Runner`] builds and measures [`Config`]s of it: [`LocalRunner`] with compile
//! workers and one measuring worker ([`worker`], run as `syntune worker ROLE`), or a fake. A [`strategy`] proposes; the [`Tuner`]
//! sees to it that no program is measured twice, that each result is handed on as soon as it is known, and that the winner
//! is measured again beside its challengers.
//!
//! A search is two threads ([`tasks`]). While one measures batch k, the other tells the strategy what batch k−1 taught, asks for batch
//! k+1, probes and builds it; of a model, whose kernels share one budget, batch k+1 is that of the kernel where it promises most. Batches
//! are handed over whole, so the search depends on the seed and the results alone, whatever is done first. Where the kernel needs all
//! processors ([`Runner::has_room`]) the two take turns, and batch k+1 is proposed with the results of batch k. Now and then the best so far is timed again, which tells the machine's pace: times of slow and fast minutes are compared, and told to
//! the strategy, as they would have been in the first batch. What is handed on and kept is what was measured. The last measurement, of
//! the best few in turn, has the machine to itself.

pub mod agent;
pub mod anneal;
pub mod chameleon;
pub mod config;
pub mod cost;
pub mod descent;
pub mod draft;
pub mod evolutionary;
pub mod guided;
pub mod measure;
pub mod peak;
mod proposer;
pub mod protocol;
pub mod roofline;
pub mod runner;
pub mod sampler;
pub mod space;
pub mod strategy;
pub mod tasks;
pub mod touched;
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
use cost::Lessons;
use proposer::{Order, Proposer};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Measured again at the end.
const N_FINALISTS: usize = 3;
/// Turns that they take, so that each sees all moods of a shared machine: some are twice as fast in one second as in the next.
const N_TURNS: usize = 4;
/// Not measured again: what was slower than the best by this factor.
const CLEARLY_SLOWER: f64 = 1.25;
/// A candidate slower than this many times the best is called three times only.
const HOPELESS: f64 = 2.0;
/// Results between two looks at the machine's pace: a few seconds.
const PACED: usize = 8;
/// A pace that differs by less is taken for the same: the best so far owes some of its rank to luck, so that it comes out slower when
/// it is measured again, and taking that for the machine's pace adds up (to 39 % in a simulation of 300 measurements with 3 % noise;
/// with this, to 6 %).
const SAME_PACE: f64 = 0.06;
/// The best is beaten by a candidate that takes less than this share of its time: what is closer, one batch's samples do not tell apart.
const GAIN: f64 = 0.99;

/// Where measurements are few, the strategy should know of as many as it can: of 64 on a synthetic landscape, a descent's best took 1.13
/// units of time with batches of 2, 1.25 with 4 and 1.39 with 8; of 300, the same with all.
const SHORT: usize = 64;
const SHORT_BATCH: usize = 2;
const LONG_BATCH: usize = 4;

/// What a search may spend.
#[derive(Clone, Debug)]
pub struct Options {
    /// Programs to measure, known ones included.
    pub n_trials: usize,
    /// Measured between two questions to the strategy; what it proposes next was chosen without the last of them.
    pub batch: usize,
    pub strategy: spec::Strategy,
    /// Only the spaces of MetaSchedule's rules, for comparisons.
    pub rules_only: bool,
    /// What strategies are made of, for ablations.
    pub parts: guided::Parts,
    pub seed: u64,
    /// No new batch after this many seconds, but for a first program.
    pub limit_secs: f64,
    /// The search ends after this many measurements in a row without a gain of 1 %; `None` spends all trials.
    pub patience: Option<usize>,
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
            batch: if n_trials <= SHORT { SHORT_BATCH } else { LONG_BATCH },
            strategy: spec::Strategy::Syntune,
            rules_only: false,
            parts: guided::Parts::ALL,
            seed,
            limit_secs: f64::MAX,
            patience: None,
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
    /// It proposes nothing new, and each of the `n_around` neighbours of the best (one step on one axis) was tried.
    LocalOptimum {
        n: usize,
        n_around: usize,
    },
    /// The last `n_idle` of `n` measurements gained nothing.
    NoGain {
        n: usize,
        n_idle: usize,
    },
    Interrupted,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::Trials { n } => write!(f, "{n} trials done"),
            StopReason::TimeLimit { secs } => write!(f, "time limit of {secs:.0} s reached"),
            StopReason::Exhausted { n } => write!(f, "no new program found after {n}"),
            StopReason::LocalOptimum { n, n_around } => {
                write!(f, "no new program found after {n}, and none of the {n_around} around the best is faster")
            }
            StopReason::NoGain { n, n_idle } => write!(f, "no gain in the last {n_idle} of {n} programs"),
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
    /// Wall clock of the proposing thread: the strategy, probing, building.
    pub ask_secs: f64,
    pub probe_secs: f64,
    pub build_secs: f64,
    /// Wall clock of the measuring thread: measuring, waiting for what is proposed and built, the final measurement.
    pub measure_secs: f64,
    pub wait_secs: f64,
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
    /// Proposals that were never built: TVM cannot schedule them, by the step that it refused; or they are not worth it, by cause.
    pub refused: BTreeMap<String, usize>,
    /// One failure's words, when there was one.
    pub example: Option<Failure>,
    pub stop: StopReason,
    pub cost: Cost,
}

/// Searches the schedules of one task.
pub struct Tuner<'a> {
    runner: &'a dyn Runner,
    task: Task,
    options: Options,
    /// `None` while it is at work.
    proposer: Option<Proposer<'a>>,
    measured: Vec<Measurement>,
    /// How slow the machine was at each of them: 1 in the first batch.
    paces: Vec<f64>,
    pace: f64,
    /// Results since the last look at it.
    n_since: usize,
    /// Measurements that the strategy knows.
    n_told: usize,
    /// The best seconds after each batch.
    curve: Vec<f64>,
    /// Why it proposes nothing more.
    ended: Option<StopReason>,
    cost: Cost,
}

impl<'a> Tuner<'a> {
    pub fn new(runner: &'a dyn Runner, task: Task, options: Options) -> Tuner<'a> {
        Tuner {
            runner,
            proposer: Some(Proposer::new(runner, task.clone(), options.clone())),
            task,
            options,
            measured: Vec::new(),
            paces: Vec::new(),
            pace: 1.0,
            n_since: 0,
            n_told: 0,
            curve: Vec::new(),
            ended: None,
            cost: Cost::default(),
        }
    }

    /// Takes what an earlier run measured: it counts as trials and is not measured again.
    pub fn resume(mut self, known: Vec<Measurement>) -> Tuner<'a> {
        self.paces.extend(known.iter().map(|_| 1.0));
        if !known.is_empty() {
            self.n_since = PACED;
        }
        for batch in known.chunks(self.options.batch.max(1)) {
            self.curve.push(batch.iter().map(Measurement::rank_secs).fold(self.best_secs(), f64::min));
        }
        if let Some(proposer) = &mut self.proposer {
            proposer.seen.extend(known.iter().map(|m| m.hash));
        }
        self.measured.extend(known);
        self
    }

    /// Measures these before all that the strategy proposes: programs that were fast elsewhere, as in a database of another machine.
    pub fn first(mut self, candidates: Vec<Candidate>) -> Tuner<'a> {
        if let Some(proposer) = &mut self.proposer {
            proposer.first = candidates.into();
        }
        self
    }

    /// Searches. `on_measurement` gets each new result as soon as it is known; save it there.
    ///
    /// # Errors
    /// The task's fault (a target TVM does not know), a missing library, a full disk. Failing candidates are in the outcome.
    pub fn run(self, on_measurement: &mut dyn FnMut(&Measurement)) -> Result<Outcome> {
        let options = self.options.clone();
        let mut alone = [tasks::Search { tuner: self, weight: 1.0, floor_secs: 0.0 }];
        let stop = tasks::run(&mut alone, &options, options.batch, &mut |_, m| on_measurement(m))?;
        let [alone] = alone;
        alone.tuner.finish(stop)
    }

    /// Measures the best again and says what was found.
    ///
    /// # Errors
    /// As [`Tuner::run`].
    fn finish(mut self, stop: StopReason) -> Result<Outcome> {
        let best = self.crown()?;
        self.cost.total_secs += self.cost.final_secs;
        let mut failures = BTreeMap::new();
        for failure in self.measured.iter().filter_map(|m| m.result.as_ref().err()) {
            *failures.entry(failure.cause().to_string()).or_insert(0) += 1;
        }
        let example = self.measured.iter().find_map(|m| m.result.as_ref().err().cloned());
        let refused = self.proposer.map(|p| p.refused).unwrap_or_default();
        Ok(Outcome { best, n_measured: self.measured.len(), failures, refused, example, stop, cost: self.cost })
    }

    /// The proposer and its next order; it comes back to [`Tuner::take_back`].
    fn order(&mut self, n: usize, lessons: Vec<Lessons>) -> Option<(Proposer<'a>, Order)> {
        let proposer = self.proposer.take()?;
        let news = (self.n_told..self.measured.len()).map(|i| self.at_pace(i)).collect();
        self.n_told = self.measured.len();
        Some((proposer, Order { news, lessons, n }))
    }

    /// The proposer with what it found; nothing found ends the search, unless the strategy may propose more when it knows what was
    /// measured meanwhile.
    fn take_back(&mut self, mut proposer: Proposer<'a>, batch: &[Candidate], waited: Duration) {
        let spent = std::mem::take(&mut proposer.cost);
        self.cost.ask_secs += spent.ask_secs;
        self.cost.probe_secs += spent.probe_secs;
        self.cost.build_secs += spent.build_secs;
        self.cost.n_probed += spent.n_probed;
        self.cost.wait_secs += waited.as_secs_f64();
        self.cost.total_secs += waited.as_secs_f64();
        let stopped = self.options.stop.load(Ordering::Relaxed);
        if batch.is_empty() && !stopped && self.n_told == self.measured.len() {
            let n = self.n_told;
            let measured: BTreeSet<&Config> = self.measured.iter().map(|m| &m.config).collect();
            let best = self.ranked().first().map(|&i| &self.measured[i].config);
            let n_around = best.and_then(|best| proposer.n_tried_around(best, &measured));
            self.ended = Some(n_around.map_or(StopReason::Exhausted { n }, |n_around| StopReason::LocalOptimum { n, n_around }));
        }
        self.proposer = Some(proposer);
    }

    /// Why this search goes no further, whatever the budget.
    fn why_ended(&self) -> Option<StopReason> {
        let idle = || {
            let (n, n_idle) = (self.measured.len(), self.n_idle());
            self.options.patience.filter(|&patience| n_idle >= patience).map(|_| StopReason::NoGain { n, n_idle })
        };
        self.ended.or_else(idle)
    }

    /// The best seconds so far, infinite without any.
    fn best_secs(&self) -> f64 {
        self.curve.last().copied().unwrap_or(f64::INFINITY)
    }

    /// Measurements since the last gain.
    fn n_idle(&self) -> usize {
        let (mut best, mut last) = (f64::INFINITY, 0);
        for i in 0..self.measured.len() {
            if self.rank_secs(i) < GAIN * best {
                (best, last) = (self.rank_secs(i), i + 1);
            }
        }
        self.measured.len() - last
    }

    /// What the `i`-th measurement is compared by: its seconds at the machine's pace in the first batch.
    fn rank_secs(&self, i: usize) -> f64 {
        self.measured[i].rank_secs() / self.paces[i]
    }

    /// The `i`-th measurement as it would have been in the first batch.
    fn at_pace(&self, i: usize) -> Measurement {
        let mut measurement = self.measured[i].clone();
        if let Ok(samples) = &mut measurement.result {
            samples.0.iter_mut().for_each(|secs| *secs /= self.paces[i]);
        }
        measurement
    }

    /// What works, fastest first.
    fn ranked(&self) -> Vec<usize> {
        let works = (0..self.measured.len()).filter(|&i| self.measured[i].result.is_ok());
        let mut ranked: Vec<(f64, usize)> = works.map(|i| (self.rank_secs(i), i)).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0));
        ranked.into_iter().map(|r| r.1).collect()
    }

    fn candidate(&self, i: usize) -> Candidate {
        let m = &self.measured[i];
        Candidate { config: m.config.clone(), hash: m.hash, built: m.library.clone() }
    }

    /// Measures a batch, and now and then before it the best so far once more: by as much as that one is slower than it was, so is
    /// the machine.
    fn measure(&mut self, batch: &[Candidate], on_measurement: &mut dyn FnMut(&Measurement)) -> Result<()> {
        let (start, n_before) = (Instant::now(), self.measured.len());
        let best = self.ranked().first().copied();
        let hopeless_secs = best.map_or(f64::MAX, |i| HOPELESS * self.rank_secs(i) * self.pace);
        let effort = Effort { hopeless_secs, ..Effort::QUICK };
        let incumbent = best.filter(|_| self.n_since >= PACED);
        let mut candidates: Vec<Candidate> = incumbent.map(|i| self.candidate(i)).into_iter().collect();
        candidates.extend_from_slice(batch);
        let mut before = incumbent.map(|i| self.rank_secs(i));
        let (measured, paces, pace) = (&mut self.measured, &mut self.paces, &mut self.pace);
        let (n_since, cost, stop) = (&mut self.n_since, &mut self.cost, &self.options.stop);
        self.runner.measure(&self.task, &candidates, &effort, &mut |measurement| {
            cost.steps.add(&measurement.steps);
            match (before.take(), incumbent) {
                (Some(before), Some(i)) => {
                    *n_since = 0;
                    if measurement.result.is_ok() {
                        let now = measurement.rank_secs() / before;
                        *pace = if (now / *pace - 1.0).abs() < SAME_PACE { *pace } else { now };
                        // an earlier run's was built just now
                        measured[i].library = measurement.library;
                    }
                }
                _ => {
                    on_measurement(&measurement);
                    measured.push(measurement);
                    paces.push(*pace);
                    *n_since += 1;
                }
            }
            !stop.load(Ordering::Relaxed)
        })?;
        self.cost.measure_secs += start.elapsed().as_secs_f64();
        self.cost.total_secs += start.elapsed().as_secs_f64();
        let best_secs = self.measured[n_before..].iter().map(Measurement::rank_secs).fold(self.best_secs(), f64::min);
        self.curve.push(best_secs);
        let mut kept = self.ranked();
        kept.truncate(N_FINALISTS);
        for i in (0..self.measured.len()).filter(|i| !kept.contains(i)) {
            discard(self.measured[i].library.take());
        }
        Ok(())
    }

    /// Measures the best few again, carefully and in turn; the first fast number may have been luck.
    fn crown(&mut self) -> Result<Option<Best>> {
        let start = Instant::now();
        let mut finalists = self.ranked();
        finalists.truncate(N_FINALISTS);
        let best = finalists.first().map_or(f64::INFINITY, |&i| self.rank_secs(i));
        finalists.retain(|&i| self.rank_secs(i) <= CLEARLY_SLOWER * best);
        let mut candidates: Vec<Candidate> = finalists.iter().map(|&i| self.candidate(i)).collect();
        let mut again: Vec<Measurement> = Vec::new();
        let n_turns = if candidates.len() > 1 { N_TURNS } else { 1 };
        for _ in 0..n_turns {
            if self.options.stop.load(Ordering::Relaxed) || candidates.is_empty() {
                break;
            }
            self.runner.measure(&self.task, &candidates, &self.options.final_effort.shared(n_turns), &mut |m| {
                match again.iter_mut().find(|known| known.hash == m.hash) {
                    Some(known) => known.join(m),
                    None => again.push(m),
                }
                true
            })?;
            // what the first turn built serves the others
            for candidate in &mut candidates {
                let built = again.iter().find(|m| m.hash == candidate.hash).and_then(|m| m.library.clone());
                candidate.built = candidate.built.take().or(built);
            }
        }
        let fallback = finalists.first().map(|&i| self.measured[i].clone());
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
