//! What next: the study asks for operators, has them evaluated, and is told what came out.
//!
//! A candidate passes ever dearer gates: budgets, a quick latency of each distinct slot shape, a short training paired
//! with the baseline's, then full training, full tuning and the whole model measured end to end. Measured latency and
//! accuracy decide, never FLOPs alone. Every result is committed to the store in the callback that receives it; a
//! reopened study does again only what was not finished.

pub mod choose;
pub mod evaluate;
pub mod evolve;
mod explore;
mod finals;
mod journal;
pub mod machine;
pub mod mcts;
pub mod model;
pub mod operators;
pub mod probe;
mod progress;
pub mod propose;
pub mod rediscover;
pub mod reward;
pub mod sequence;
pub mod slots;
pub mod tree;

pub use slots::Slots;

use crate::error::{Error, Result, invalid};
use crate::lower::{self, LoopNest};
use crate::spec::Spec;
use crate::store::{BASELINE, Baseline, Phase, Proposal, Store, Timing, Training, Trial};
use crate::synth::{Binding, Operator, child_seed};
use crate::train::Outcome as Trained;
use crate::train::backbone::Slot;
use crate::tune::{self, Best, Failure};
use choose::{Candidate, Contender, Forecast};
use evaluate::{Deployment, Evaluator, Job};
use model::Values;
use operators::Operators;
use progress::Progress;
use propose::{MAX_BARREN, Proposer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A candidate whose slots take more than this share of the baseline's time cannot win: it is pruned untrained.
const WORTH_TRAINING: f64 = 0.9;
/// Some of the slots may be this much slower than that before the others are looked at.
const PARTIAL_MARGIN: f64 = 1.3;
/// A short training this far below the baseline's at the same point, beyond the allowed drop, is stopped.
const HOPELESS_ACCURACY: f64 = 0.1;
/// Accuracies this many times the allowed drop below the original's are of no use to the proposer; a smaller drop counts as the least.
const USELESS_DROPS: f64 = 3.0;
const LEAST_DROP: f64 = 0.01;
/// The share of time left that the final phase may overrun its estimate by.
const SAFETY: f64 = 1.15;
/// Looking at a test picture takes one so-manieth of learning from a training picture.
const FORWARD_SHARE: u64 = 3;
/// The finals get at most this share of the budget; should they need more, the search ends that much later.
const MOST_RESERVED: f64 = 0.5;
/// The fact under which the baseline's quickly tuned slot times are kept, in seconds by slot name.
const QUICK_SLOTS: &str = "quick slots";
/// Operators asked for before one of them is tried.
const POOL: usize = 6;
/// The share of the original's multiply-adds at which operators have kept the accuracy and still were clearly faster.
const LIKELY_SHARE: f64 = 0.5;
/// What training moves besides the slots' operators, in what the original slots move: batch norms, the optimizer, the pictures. From
/// the times of five trainings of the demo (12 to 93 s), which this explains within a factor of 1.7.
const REST_OF_TRAINING: f64 = 2.75;
/// Operators over the budgets in a row after which the space counts as exhausted.
const MAX_REFUSED: usize = 10_000;

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StopReason {
    /// The time for exploring was spent; the rest went to the finalists.
    Minutes {
        spent: f64,
    },
    Trials {
        n: u32,
    },
    /// No new operator was found.
    Exhausted {
        n: u32,
    },
    Interrupted,
}

impl std::fmt::Display for StopReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StopReason::Minutes { spent } => write!(f, "{spent:.1} minutes spent"),
            StopReason::Trials { n } => write!(f, "{n} trials done"),
            StopReason::Exhausted { n } => write!(f, "no new operator after {n} trials"),
            StopReason::Interrupted => write!(f, "interrupted"),
        }
    }
}

/// How a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    pub stop: StopReason,
    /// The winning trial's number.
    pub winner: Option<u32>,
}

/// Seconds that things took so far, to plan the time left.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Rates {
    train_secs: f64,
    n_trained: u64,
    schedule_secs: f64,
    n_schedules: u64,
    /// Measuring the best few again, once a workload.
    settle_secs: f64,
    n_settled: u64,
}

impl Rates {
    /// Seconds one training picture takes one trainer, start-up included.
    fn per_picture(&self) -> f64 {
        if self.n_trained == 0 { 1e-3 } else { self.train_secs / self.n_trained as f64 }
    }

    /// Seconds that tuning takes.
    fn tuning(&self, n_workloads: u64, n_trials: u64) -> f64 {
        let schedule = if self.n_schedules == 0 { 0.3 } else { self.schedule_secs / self.n_schedules as f64 };
        let settle = if self.n_settled == 0 { 2.0 } else { self.settle_secs / self.n_settled as f64 };
        n_workloads as f64 * (n_trials as f64 * schedule + settle)
    }
}

/// An operator that was asked for.
struct Asked {
    proposal: Proposal,
    /// How far it is from what pays most to train.
    distance: f64,
}

/// One search: its request, its store and who works for it.
pub struct Study<'a> {
    spec: Spec,
    store: Store,
    evaluator: &'a mut dyn Evaluator,
    slots: Slots,
    /// Where operators are compared as functions; none where no small sizes keep what divides.
    small: Vec<Binding>,
    proposer: Proposer,
    /// Operators asked for and not tried yet.
    pool: Vec<Asked>,
    /// Elements that a training step of the original moves in the slots.
    n_moved: u64,
    /// The rewards that the proposer was told last.
    told: BTreeMap<tree::FinalId, f64>,
    /// Operators that the proposer was told are no good.
    refused: BTreeSet<tree::FinalId>,
    /// Events in the proposer's journal.
    n_events: u64,
    rates: Rates,
    progress: Progress,
    stop: Arc<AtomicBool>,
}

impl<'a> Study<'a> {
    /// Opens or begins a study; the spec and the store belong together.
    ///
    /// # Errors
    /// A spec whose slots, operators or space do not fit together.
    pub fn new(spec: Spec, store: Store, evaluator: &'a mut dyn Evaluator, stop: Arc<AtomicBool>, quiet: bool) -> Result<Study<'a>> {
        let slots = Slots::of(&spec)?;
        let proposer = Proposer::new(spec.operator.strategy, slots.space(&spec)?, spec.seed)?;
        let rates = store.fact("rates")?.unwrap_or_default();
        let small = lower::small_bindings(&slots.bindings(1)).unwrap_or_default();
        let (pool, told, refused, progress) = (Vec::new(), BTreeMap::new(), BTreeSet::new(), Progress::new(quiet));
        let n_moved = slots.n_moved(None, i64::from(spec.train.batch))?;
        Ok(Study { spec, store, evaluator, slots, small, proposer, pool, n_moved, told, refused, n_events: 0, rates, progress, stop })
    }

    /// Searches until the budget is spent, then settles the winner.
    ///
    /// # Errors
    /// The caller's problems (disk full, no libtorch); candidates that fail are rows in the store.
    pub fn run(mut self) -> Result<Outcome> {
        self.store.begin_session()?;
        match self.search() {
            Err(Error::Interrupted) => {
                self.store.end_session(&StopReason::Interrupted.to_string())?;
                Ok(Outcome { stop: StopReason::Interrupted, winner: None })
            }
            Err(error) => {
                // the first error is the one to tell
                let _ = self.store.end_session("error");
                Err(error)
            }
            Ok(outcome) => {
                self.store.end_session(&outcome.stop.to_string())?;
                Ok(outcome)
            }
        }
    }

    fn search(&mut self) -> Result<Outcome> {
        self.baseline_quick()?;
        self.replay()?;
        let stop = self.explore()?;
        self.progress.say(format!("exploring ended: {stop}"));
        let winner = self.settle()?;
        Ok(Outcome { stop, winner })
    }

    fn check_stop(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(Error::Interrupted) } else { Ok(()) }
    }

    fn left_secs(&self) -> Result<f64> {
        Ok(self.spec.budget.minutes * 60.0 - self.store.spent_secs()?)
    }

    // ---- the baseline ----

    fn baseline_quick(&mut self) -> Result<()> {
        let mut baseline = self.store.baseline()?;
        if baseline.slots.is_none() {
            let model = self.slots.model(None, 1)?;
            (baseline.n_macs, baseline.n_params) = (Some(model.slot_macs()), Some(model.slot_params()));
            match self.quick_latency(BASELINE, None, f64::INFINITY)? {
                Ok(Some(timing)) => baseline.slots = Some(timing),
                Ok(None) => return invalid("the original model's slots have no time: report this"),
                Err(failure) => return invalid(format!("the original model cannot be tuned: {failure}; check the target in [target]")),
            }
            self.store.save_baseline(&baseline)?;
        }
        if baseline.proxy_accuracy.is_none() {
            self.progress.status("short training of the original model");
            let job = self.job(BASELINE, None, Training::Proxy)?;
            match self.train(vec![job], Training::Proxy)?.remove(0) {
                Trained::Done { accuracy, .. } => baseline.proxy_accuracy = Some(accuracy),
                other => return Err(cannot_train(&other)),
            }
            self.store.save_baseline(&baseline)?;
        }
        if let (Some(slots), Some(accuracy)) = (baseline.slots, baseline.proxy_accuracy) {
            self.progress.say(format!(
                "baseline: slots {:.3} ms, {:.1} % after the short training",
                slots.median_secs * 1e3,
                accuracy * 100.0
            ));
        }
        Ok(())
    }

    /// Tunes a nest with what the store knows of it, committing each measurement.
    fn tune(&mut self, nest: &LoopNest, n_trials: usize) -> Result<Result<Best, Failure>> {
        self.check_stop()?;
        let workload = model::workload(nest);
        let known: Vec<tune::Measurement> = self.store.measurements(&workload)?.iter().filter_map(recall).collect();
        let n_known = known.len();
        let start = Instant::now();
        let (store, strategy, seed) = (&self.store, self.spec.tune.strategy.name(), self.spec.seed);
        let (mut n_new, mut last) = (0, start);
        let best = self.evaluator.tune(nest, n_trials, known, &mut |m| {
            (n_new, last) = (n_new + 1, Instant::now());
            store.record_measurement(&remember(&workload, m, strategy, seed)?)
        })?;
        if n_new > 0 {
            self.rates.schedule_secs += (last - start).as_secs_f64();
            self.rates.n_schedules += n_new;
            self.rates.settle_secs += last.elapsed().as_secs_f64();
            self.rates.n_settled += 1;
            self.store.save_fact("rates", &self.rates)?;
        }
        self.progress.status(format!("{} schedules of {workload} measured ({n_known} known); {}", n_new, self.clock()?));
        Ok(best)
    }

    fn clock(&self) -> Result<String> {
        let trials = self.store.trials()?;
        let left = self.left_secs()?.max(0.0) / 60.0;
        let best = trials
            .iter()
            .filter(|t| t.proxy_accuracy.is_some())
            .filter_map(|t| t.slots)
            .map(|t| t.median_secs)
            .fold(f64::INFINITY, f64::min);
        let best = if best.is_finite() { format!(", fastest trained {:.3} ms", best * 1e3) } else { String::new() };
        Ok(format!("{} trials{best}, {left:.1} min left", trials.len()))
    }

    // ---- training ----

    fn full_samples(&self) -> u64 {
        u64::from(self.spec.train.epochs) * self.evaluator.n_train()
    }

    fn job(&self, number: u32, operator: Option<&Operator>, kind: Training) -> Result<Job> {
        let n_samples = match kind {
            Training::Proxy => u64::from(self.spec.train.proxy_samples),
            Training::Full => self.full_samples(),
        };
        let milestones = match kind {
            Training::Proxy if number != BASELINE => {
                let allowed = self.spec.budget.accuracy_drop / 100.0 + HOPELESS_ACCURACY;
                let epochs = self.store.epochs(BASELINE)?;
                // the first evaluations come too early to tell
                epochs
                    .iter()
                    .filter(|e| e.training == kind && 4 * e.n_seen >= 3 * n_samples)
                    .map(|e| (e.n_seen, e.accuracy - allowed))
                    .collect()
            }
            _ => Vec::new(),
        };
        let save = (kind == Training::Full).then(|| self.weights_file(number));
        let nests = self.slots.nests(operator, i64::from(self.spec.train.batch))?;
        Ok(Job { number, nests, n_samples, milestones, held_out: kind == Training::Proxy, save })
    }

    /// Where a trial's trained weights are kept: in a folder beside the store.
    fn weights_file(&self, number: u32) -> PathBuf {
        let name = if number == BASELINE { "baseline".into() } else { format!("trial-{number}") };
        files_of(self.store.path()).join(format!("{name}.safetensors"))
    }

    /// Trains side by side, committing each evaluation.
    fn train(&mut self, jobs: Vec<Job>, kind: Training) -> Result<Vec<Trained>> {
        self.check_stop()?;
        if jobs.iter().any(|j| j.save.is_some()) {
            let folder = files_of(self.store.path());
            std::fs::create_dir_all(&folder).map_err(|source| Error::Io { context: format!("creating {}", folder.display()), source })?;
        }
        let start = Instant::now();
        let (store, progress) = (&self.store, &self.progress);
        let mut n_epochs: BTreeMap<u32, u32> = BTreeMap::new();
        let mut n_equivalent: u64 = 0;
        let outcomes = self.evaluator.train(&jobs, &mut |job, epoch| {
            let number = n_epochs.entry(job.number).or_default();
            *number += 1;
            n_equivalent += epoch.n_test as u64 / FORWARD_SHARE;
            progress.status(format!(
                "trial {}: {:.1} % after {} of {} pictures",
                job.number,
                epoch.accuracy * 100.0,
                epoch.n_seen,
                epoch.n_samples
            ));
            let row = crate::store::Epoch {
                training: kind,
                epoch: *number,
                n_seen: epoch.n_seen,
                loss: epoch.loss,
                accuracy: epoch.accuracy,
                secs: epoch.secs,
            };
            store.record_epoch(job.number, &row)
        })?;
        if outcomes.iter().all(|o| matches!(o, Trained::Done { .. })) {
            let side_by_side = self.evaluator.n_parallel().min(jobs.len()) as u64;
            n_equivalent += jobs.iter().map(|j| j.n_samples).sum::<u64>();
            self.rates.train_secs += start.elapsed().as_secs_f64();
            self.rates.n_trained += n_equivalent / side_by_side;
            self.store.save_fact("rates", &self.rates)?;
        }
        if outcomes.contains(&Trained::Interrupted) {
            return Err(Error::Interrupted);
        }
        Ok(outcomes)
    }
}

/// The folder beside a store for what does not go into it: weights, the MetaSchedule database.
pub fn files_of(store: &std::path::Path) -> PathBuf {
    store.with_extension("files")
}

/// The seed that the baseline and every candidate are trained with.
pub fn train_seed(spec: &Spec) -> u64 {
    child_seed(spec.seed, "train")
}

/// What the full training of a trial will show, by its accuracy after the short one.
fn forecast(trial: &Trial, short: f64, baseline: &Baseline) -> Forecast {
    let weights = match (trial.n_params, baseline.n_params) {
        (Some(n), Some(of)) if of > 0 => n as f64 / of as f64,
        _ => 1.0,
    };
    Forecast::new(short - baseline.proxy_accuracy.unwrap_or(short), weights)
}

fn timing(samples: &[f64]) -> Result<Timing> {
    Timing::of(samples).ok_or_else(|| Error::Invalid("a whole model was measured without a single time: report this".into()))
}

fn json(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|e| Error::Invalid(format!("a failure cannot be written down ({e}): report this")))
}

fn cannot_train(outcome: &Trained) -> Error {
    let why = match outcome {
        Trained::Failed(failure) => failure.to_string(),
        other => format!("{other:?}"),
    };
    Error::Invalid(format!("the original model cannot be trained: {why}; check [data] and [train]"))
}

/// A measurement's config as the store keeps it: with the hash of its program.
#[derive(Serialize, Deserialize)]
struct Known {
    config: tune::Config,
    hash: u64,
}

fn remember(workload: &str, m: &tune::Measurement, strategy: &str, seed: u64) -> Result<crate::store::Measurement> {
    let config = serde_json::to_string(&Known { config: m.config.clone(), hash: m.hash })
        .map_err(|e| Error::Invalid(format!("a config cannot be written down ({e}): report this")))?;
    let (samples_secs, failure) = match &m.result {
        Ok(samples) => (samples.0.clone(), None),
        Err(failure) => (Vec::new(), Some(json(failure)?)),
    };
    Ok(crate::store::Measurement { workload: workload.into(), config, samples_secs, failure, strategy: strategy.into(), seed })
}

fn recall(row: &crate::store::Measurement) -> Option<tune::Measurement> {
    let known: Known = serde_json::from_str(&row.config).ok()?;
    let result = match &row.failure {
        Some(failure) => Err(serde_json::from_value(failure.clone()).ok()?),
        None => Ok(tune::Samples(row.samples_secs.clone())),
    };
    Some(tune::Measurement { config: known.config, hash: known.hash, result, steps: tune::Steps::default(), library: None })
}
