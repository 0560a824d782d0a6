//! What next: the study asks for operators, has them evaluated, and is told what came out.
//!
//! A candidate passes ever dearer gates: budgets, a quick latency of each distinct slot shape, a short training paired
//! with the baseline's, then full training, full tuning and the whole model measured end to end. Measured latency and
//! accuracy decide, never FLOPs alone. Every result is committed to the store in the callback that receives it; a
//! reopened study does again only what was not finished.

pub mod choose;
pub mod evaluate;
pub mod machine;
pub mod model;
mod progress;

use crate::error::{Error, Result, invalid};
use crate::lower::{self, Epilogue, LoopNest};
use crate::spec::{Layers, Spec};
use crate::store::{BASELINE, Baseline, EndToEnd, PRUNED, Phase, Proposal, SlotTime, Store, Timing, Training, Trial};
use crate::synth::{Binding, Operator, Space, Synthesizer, child_seed, library};
use crate::train::backbone::{Backbone, Slot};
use crate::train::{DataSet, Outcome as Trained, weights};
use crate::tune::{self, Best, Failure};
use choose::Candidate;
use evaluate::{Deployment, Evaluator, Job};
use model::{Model, Values};
use progress::Progress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// A candidate whose slots take more than this share of the baseline's time cannot win: it is pruned untrained.
const WORTH_TRAINING: f64 = 0.9;
/// A short training this far below the baseline's at the same point, beyond the allowed drop, is stopped.
const HOPELESS_ACCURACY: f64 = 0.06;
/// The share of time left that the final phase may overrun its estimate by.
const SAFETY: f64 = 1.15;
/// The fact under which the baseline's quickly tuned slot times are kept, in seconds by slot name.
const QUICK_SLOTS: &str = "quick slots";
/// Operators refused in a row after which the space counts as exhausted.
const MAX_REFUSED: usize = 100_000;

/// Why a search ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StopReason {
    /// The time for exploring was spent; the rest went to the finalists.
    Minutes { spent: f64 },
    Trials { n: u32 },
    /// No new operator was found.
    Exhausted { n: u32 },
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
    tune_secs: f64,
    n_tuned: u64,
}

impl Rates {
    /// Seconds one picture takes one trainer.
    fn per_picture(&self) -> f64 {
        if self.n_trained == 0 { 1e-3 } else { self.train_secs / self.n_trained as f64 }
    }

    /// Seconds one measured schedule takes.
    fn per_schedule(&self) -> f64 {
        if self.n_tuned == 0 { 0.3 } else { self.tune_secs / self.n_tuned as f64 }
    }
}

/// The slots of a spec's backbone, and which of them are filled.
pub struct Slots {
    pub backbone: Backbone,
    pub slots: Vec<Slot>,
    pub replaced: Vec<bool>,
    coefficients: BTreeMap<String, u32>,
}

impl Slots {
    /// # Errors
    /// A backbone that does not fit the data, or a slot name that it does not have.
    pub fn of(spec: &Spec) -> Result<Slots> {
        let set = DataSet::named(spec.data.name.name())?;
        let backbone = Backbone::named(spec.backbone.name.name(), i64::from(spec.backbone.width), set.input(), set.n_classes())?;
        let slots = backbone.slots();
        let replaced = match &spec.slots.layers {
            Layers::All => vec![true; slots.len()],
            Layers::Named(names) => {
                if let Some(unknown) = names.iter().find(|n| !slots.iter().any(|s| s.name == **n)) {
                    let known: Vec<_> = slots.iter().map(|s| s.name.as_str()).collect();
                    return invalid(format!("[slots] layers: {} has no slot {unknown:?}: use some of {}", backbone.name, known.join(", ")));
                }
                slots.iter().map(|s| names.contains(&s.name)).collect()
            }
        };
        Ok(Slots { backbone, slots, replaced, coefficients: spec.operator.coefficients.clone() })
    }

    /// The variables' values in one slot.
    pub fn binding(&self, slot: &Slot, batch: i64) -> Binding {
        model::binding(slot, batch, &self.coefficients)
    }

    /// The distinct bindings of the slots to fill.
    pub fn bindings(&self, batch: i64) -> Vec<Binding> {
        let mut all: Vec<Binding> = self.filled().map(|s| self.binding(s, batch)).collect();
        all.sort();
        all.dedup();
        all
    }

    fn filled(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().zip(&self.replaced).filter(|(_, r)| **r).map(|(s, _)| s)
    }

    /// The space of operators for these slots.
    ///
    /// # Errors
    /// No slot, or more coefficients than sizes can name.
    pub fn space(&self, spec: &Spec) -> Result<Space> {
        let names: Vec<String> = self.coefficients.keys().cloned().collect();
        let mut space = Space::of_conv(self.bindings(1), &names, spec.operator.max_depth as usize, spec.operator.max_weights as usize)?;
        for most in &mut space.max_params {
            *most = (*most as f64 * spec.budget.params_ratio) as u64;
        }
        Ok(space)
    }

    /// The whole model with an operator in the slots to fill; `None` for the original.
    ///
    /// # Errors
    /// A size that does not divide in some slot (the slot is named).
    pub fn model(&self, operator: Option<&Operator>, batch: i64) -> Result<Model> {
        Model::new(&self.backbone, &|slot| self.operator_at(operator, slot, batch), batch)
    }

    fn operator_at(&self, operator: Option<&Operator>, slot: &Slot, batch: i64) -> Option<(Operator, Binding)> {
        let place = self.slots.iter().position(|s| s == slot)?;
        operator.filter(|_| self.replaced[place]).map(|o| (o.clone(), self.binding(slot, batch)))
    }

    /// One bare nest per slot: what is trained, and what libtorch runs.
    ///
    /// # Errors
    /// As [`Slots::model`].
    pub fn nests(&self, operator: Option<&Operator>, batch: i64) -> Result<Vec<LoopNest>> {
        let nest = |slot: &Slot| match self.operator_at(operator, slot, batch) {
            Some((operator, binding)) => lower::lower(&operator, &binding),
            None => Ok(model::conv(&[batch, slot.c_in, slot.h, slot.w], slot.c_out, 3, 1, 1, 1)),
        };
        self.slots.iter().map(|s| nest(s).map_err(|e| Error::Invalid(format!("slot {}: {e}", s.name)))).collect()
    }

    /// The distinct shapes of the slots to fill, with the names of the slots that have each.
    fn shapes(&self) -> Vec<(&Slot, Vec<String>)> {
        let mut shapes: Vec<(&Slot, Vec<String>)> = Vec::new();
        for slot in self.filled() {
            let same = |s: &Slot| (s.c_in, s.c_out, s.h, s.w) == (slot.c_in, slot.c_out, slot.h, slot.w);
            match shapes.iter_mut().find(|(s, _)| same(s)) {
                Some((_, names)) => names.push(slot.name.clone()),
                None => shapes.push((slot, vec![slot.name.clone()])),
            }
        }
        shapes
    }
}

/// One search: its request, its store and who works for it.
pub struct Study<'a> {
    spec: Spec,
    store: Store,
    evaluator: &'a mut dyn Evaluator,
    slots: Slots,
    synthesizer: Synthesizer,
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
        let mut synthesizer = Synthesizer::new(slots.space(&spec)?, spec.seed)?;
        for trial in store.trials()? {
            synthesizer.exclude(trial.id);
        }
        let rates = store.fact("rates")?.unwrap_or_default();
        Ok(Study { spec, store, evaluator, slots, synthesizer, rates, progress: Progress::new(quiet), stop })
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
            self.progress.say(format!("baseline: slots {:.3} ms, {:.1} % after the short training", slots.median_secs * 1e3, accuracy * 100.0));
        }
        Ok(())
    }

    // ---- exploring ----

    /// Seconds that the finals will take, by what things took so far.
    fn reserve_secs(&self) -> Result<f64> {
        let n = self.spec.train.n_finalists as u64;
        let rounds = (n + 1).div_ceil(self.evaluator.n_parallel() as u64);
        let train = rounds as f64 * self.full_samples() as f64 * self.rates.per_picture();
        let n_workloads = self.slots.model(None, 1)?.workloads().len() as f64;
        let tune = (n + 1) as f64 * n_workloads * f64::from(self.spec.tune.trials) * self.rates.per_schedule();
        Ok((train + tune) * SAFETY + 15.0)
    }

    fn explore(&mut self) -> Result<StopReason> {
        loop {
            self.check_stop()?;
            let n = self.store.trials()?.len() as u32;
            let waiting = self.store.next_waiting()?.is_some();
            let round = self.spec.train.proxy_samples as f64 * self.rates.per_picture();
            if self.left_secs()? < self.reserve_secs()? + round / 2.0 {
                return Ok(StopReason::Minutes { spent: self.store.spent_secs()? / 60.0 });
            }
            if !waiting && self.spec.budget.trials.is_some_and(|most| n >= most) {
                return Ok(StopReason::Trials { n });
            }
            let batch = self.gather()?;
            if batch.is_empty() {
                return Ok(StopReason::Exhausted { n });
            }
            self.train_short(batch)?;
        }
    }

    /// Candidates that are faster than the baseline, as many as train side by side.
    fn gather(&mut self) -> Result<Vec<(u32, Operator)>> {
        let mut batch = Vec::new();
        while batch.len() < self.evaluator.n_parallel() {
            self.check_stop()?;
            if !batch.is_empty() && self.left_secs()? < self.reserve_secs()? {
                break;
            }
            let trials = self.store.trials()?;
            let full = self.spec.budget.trials.is_some_and(|most| trials.len() as u32 >= most);
            let trial = match self.store.next_waiting()? {
                Some(trial) => trial,
                None if full => break,
                None => match self.propose()? {
                    Some(trial) => trial,
                    None => break,
                },
            };
            self.store.begin(trial.number)?;
            let operator = Operator::parse(&trial.operator)?;
            if trial.phase >= Some(Phase::ShortTrain) {
                self.store.complete(trial.number)?;
                continue;
            }
            if trial.phase >= Some(Phase::QuickTune) || self.is_fast(&trial, &operator)? {
                batch.push((trial.number, operator));
            }
        }
        Ok(batch)
    }

    /// The next operator within the budgets, with its row in the store.
    fn propose(&mut self) -> Result<Option<Trial>> {
        let baseline = self.store.baseline()?;
        let mut start = self.spec.operator.start.clone().into_iter();
        for _ in 0..MAX_REFUSED {
            let (operator, given) = match start.next() {
                Some(text) => (library::resolve(&text)?, true),
                None => match self.synthesizer.next() {
                    Some(operator) => (operator, false),
                    None => break,
                },
            };
            if self.store.find(&operator.id())?.is_some() {
                continue;
            }
            let model = match self.slots.model(Some(&operator), 1) {
                Ok(model) => model,
                Err(error) if given => return Err(error),
                Err(_) => {
                    self.store.add_counts(PRUNED, [("a size does not divide", 1)])?;
                    continue;
                }
            };
            let (n_macs, n_params) = (model.slot_macs(), model.slot_params());
            let over = |n: u64, of: Option<u64>, ratio: f64| of.is_some_and(|of| n as f64 > of as f64 * ratio);
            let reason = if over(n_macs, baseline.n_macs, self.spec.budget.flops_ratio) {
                "FLOPs over budget"
            } else if over(n_params, baseline.n_params, self.spec.budget.params_ratio) {
                "parameters over budget"
            } else {
                let binding = self.slots.filled().next().map(|s| self.slots.binding(s, 1));
                let proposal = Proposal {
                    operator: operator.to_string(),
                    id: operator.id(),
                    formula: Some(operator.formula(binding.as_ref())),
                    n_macs: Some(n_macs),
                    n_params: Some(n_params),
                };
                if let Some(trial) = self.store.propose(&proposal)? {
                    self.count_refusals()?;
                    return Ok(Some(trial));
                }
                "seen before"
            };
            self.store.add_counts(PRUNED, [(reason, 1)])?;
        }
        self.count_refusals()?;
        Ok(None)
    }

    fn count_refusals(&mut self) -> Result<()> {
        let refused = std::mem::take(&mut self.synthesizer.refused);
        self.store.add_counts("walk", refused)
    }

    /// Quick tuning; false when the trial is settled by it.
    fn is_fast(&mut self, trial: &Trial, operator: &Operator) -> Result<bool> {
        let start = Instant::now();
        let baseline = self.store.baseline()?.slots.map_or(f64::INFINITY, |t| t.median_secs);
        let mut trial = trial.clone();
        match self.quick_latency(trial.number, Some(operator), WORTH_TRAINING)? {
            Err(failure) => {
                self.progress.say(format!("trial {}: {failure}", trial.number));
                self.store.fail(trial.number, &json(&failure)?)?;
                Ok(false)
            }
            Ok(None) => {
                self.progress.status(format!("trial {}: not faster", trial.number));
                self.store.prune(trial.number, "not faster than the original")?;
                Ok(false)
            }
            Ok(Some(timing)) => {
                trial.slots = Some(timing);
                trial.phase = Some(Phase::QuickTune);
                trial.times_secs.insert(Phase::QuickTune, start.elapsed().as_secs_f64());
                if let Some(slot) = self.slots.filled().next() {
                    trial.loops = Some(lower::lower(operator, &self.slots.binding(slot, 1))?.print());
                }
                self.store.save(&trial)?;
                self.progress.say(format!("trial {}: slots {:.3} ms ({:.2}× faster)  {operator}", trial.number, timing.median_secs * 1e3, baseline / timing.median_secs));
                Ok(true)
            }
        }
    }

    /// The time of all slots by a few schedules of each distinct shape, dearest shapes first; `None` as soon as those
    /// measured are slower than `worth` times the baseline's.
    fn quick_latency(&mut self, number: u32, operator: Option<&Operator>, worth: f64) -> Result<Result<Option<Timing>, Failure>> {
        // the finals overwrite the baseline's slot times with fully tuned ones, which are no measure for quick ones
        let mut baseline: BTreeMap<String, f64> = self.store.fact(QUICK_SLOTS)?.unwrap_or_default();
        let batch = i64::from(self.spec.target.batch);
        let mut shapes: Vec<(Slot, Vec<String>)> = self.slots.shapes().into_iter().map(|(s, n)| (s.clone(), n)).collect();
        let weight = |names: &[String]| names.iter().filter_map(|n| baseline.get(n)).sum::<f64>();
        shapes.sort_by(|a, b| weight(&b.1).total_cmp(&weight(&a.1)));
        let mut parts = Vec::new();
        let (mut ours, mut theirs) = (0.0, 0.0);
        for (slot, names) in shapes {
            let bare = match self.slots.operator_at(operator, &slot, batch) {
                Some((operator, binding)) => lower::lower(&operator, &binding)?,
                None => model::conv(&[batch, slot.c_in, slot.h, slot.w], slot.c_out, 3, 1, 1, 1),
            };
            let nest = bare.with_epilogue(Epilogue { bias: true, relu: true, ..Epilogue::default() }, 1);
            let best = match self.tune(&nest, self.spec.tune.quick_trials as usize)? {
                Ok(best) => best,
                Err(failure) => return Ok(Err(failure)),
            };
            let Some(timing) = Timing::of(&best.samples.0) else { return Ok(Err(Failure::NotFinite)) };
            for name in &names {
                let slot_time = SlotTime { slot: name.clone(), workload: model::workload(&nest), timing };
                self.store.record_slot(number, &slot_time)?;
                if number == BASELINE {
                    baseline.insert(name.clone(), timing.median_secs);
                    self.store.save_fact(QUICK_SLOTS, &baseline)?;
                }
            }
            parts.push(timing.times(names.len() as u32));
            ours += timing.median_secs * names.len() as f64;
            theirs += names.iter().filter_map(|n| baseline.get(n)).sum::<f64>();
            if ours > worth * theirs && worth.is_finite() {
                return Ok(Ok(None));
            }
        }
        Ok(Ok(Some(parts.into_iter().sum())))
    }

    /// Tunes a nest with what the store knows of it, committing each measurement.
    fn tune(&mut self, nest: &LoopNest, n_trials: usize) -> Result<Result<Best, Failure>> {
        self.check_stop()?;
        let workload = model::workload(nest);
        let known: Vec<tune::Measurement> = self.store.measurements(&workload)?.iter().filter_map(recall).collect();
        let n_known = known.len();
        let start = Instant::now();
        let (store, strategy, seed) = (&self.store, self.spec.tune.strategy.name(), self.spec.seed);
        let mut n_new = 0;
        let best = self.evaluator.tune(nest, n_trials, known, &mut |m| {
            n_new += 1;
            store.record_measurement(&remember(&workload, m, strategy, seed)?)
        })?;
        if n_new > 0 {
            self.rates.tune_secs += start.elapsed().as_secs_f64();
            self.rates.n_tuned += n_new;
            self.store.save_fact("rates", &self.rates)?;
        }
        self.progress.status(format!("{} schedules of {workload} measured ({n_known} known); {}", n_new, self.clock()?));
        Ok(best)
    }

    fn clock(&self) -> Result<String> {
        let trials = self.store.trials()?;
        let left = self.left_secs()?.max(0.0) / 60.0;
        let best = trials.iter().filter(|t| t.proxy_accuracy.is_some()).filter_map(|t| t.slots).map(|t| t.median_secs).fold(f64::INFINITY, f64::min);
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
                epochs.iter().filter(|e| e.training == kind && 2 * e.n_seen >= n_samples).map(|e| (e.n_seen, e.accuracy - allowed)).collect()
            }
            _ => Vec::new(),
        };
        let save = (kind == Training::Full).then(|| self.weights_file(number));
        let nests = self.slots.nests(operator, i64::from(self.spec.train.batch))?;
        Ok(Job { number, nests, n_samples, milestones, save })
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
        let outcomes = self.evaluator.train(&jobs, &mut |job, epoch| {
            let number = n_epochs.entry(job.number).or_default();
            *number += 1;
            progress.status(format!("trial {}: {:.1} % after {} of {} pictures", job.number, epoch.accuracy * 100.0, epoch.n_seen, epoch.n_samples));
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
            let rounds = jobs.len().div_ceil(self.evaluator.n_parallel()) as f64;
            self.rates.train_secs += start.elapsed().as_secs_f64();
            self.rates.n_trained += (rounds * jobs[0].n_samples as f64) as u64;
            self.store.save_fact("rates", &self.rates)?;
        }
        if outcomes.contains(&Trained::Interrupted) {
            return Err(Error::Interrupted);
        }
        Ok(outcomes)
    }

    fn train_short(&mut self, batch: Vec<(u32, Operator)>) -> Result<()> {
        let start = Instant::now();
        let numbers: Vec<_> = batch.iter().map(|b| b.0.to_string()).collect();
        self.progress.status(format!("short training of {}; {}", numbers.join(" and "), self.clock()?));
        let jobs = batch.iter().map(|(number, operator)| self.job(*number, Some(operator), Training::Proxy)).collect::<Result<Vec<_>>>()?;
        let outcomes = self.train(jobs, Training::Proxy)?;
        for ((number, _), outcome) in batch.iter().zip(outcomes) {
            let mut trial = self.store.trial(*number)?;
            trial.times_secs.insert(Phase::ShortTrain, start.elapsed().as_secs_f64());
            match outcome {
                Trained::Done { accuracy, .. } => {
                    trial.phase = Some(Phase::ShortTrain);
                    trial.proxy_accuracy = Some(accuracy);
                    self.store.save(&trial)?;
                    self.store.complete(*number)?;
                    self.progress.say(format!("trial {number}: {:.1} % after the short training; {}", accuracy * 100.0, self.clock()?));
                }
                Trained::StoppedEarly { accuracy, n_seen, .. } => {
                    self.store.save(&trial)?;
                    self.store.prune(*number, "short training far below the original")?;
                    self.progress.say(format!("trial {number}: given up at {:.1} % after {n_seen} pictures; {}", accuracy * 100.0, self.clock()?));
                }
                Trained::Failed(failure) => {
                    self.store.save(&trial)?;
                    self.store.fail(*number, &json(&failure)?)?;
                    self.progress.say(format!("trial {number}: {failure}"));
                }
                Trained::Interrupted => return Err(Error::Interrupted),
            }
        }
        Ok(())
    }

    // ---- the finals ----

    fn finalists(&self) -> Result<Vec<Trial>> {
        let baseline = self.store.baseline()?.proxy_accuracy.unwrap_or(0.0);
        let trials = self.store.trials()?;
        let trained = trials.iter().filter_map(|t| Some(Candidate { number: t.number, accuracy: t.proxy_accuracy?, secs: t.slots?.median_secs }));
        let drop = self.spec.budget.accuracy_drop / 100.0;
        let chosen = choose::finalists(&trained.collect::<Vec<_>>(), baseline, drop, self.spec.train.n_finalists as usize);
        Ok(chosen.iter().filter_map(|n| trials.iter().find(|t| t.number == *n).cloned()).collect())
    }

    /// Full training and tuning of the finalists and the baseline, then whole models measured in turn.
    fn settle(&mut self) -> Result<Option<u32>> {
        let finalists = self.finalists()?;
        if finalists.is_empty() {
            self.progress.say("no candidate was both faster and trained: nothing to settle");
            self.store.save_winner(None)?;
            return Ok(None);
        }
        self.train_full(&finalists)?;
        let mut deployments = vec![self.deploy(BASELINE, None)?];
        let mut numbers = Vec::new();
        for finalist in &finalists {
            let trial = self.store.trial(finalist.number)?;
            if trial.full_accuracy.is_none() {
                continue;
            }
            let start = Instant::now();
            let operator = Operator::parse(&trial.operator)?;
            match self.deploy(trial.number, Some(&operator))? {
                Ok(deployment) => {
                    let mut trial = trial;
                    trial.phase = Some(Phase::FullTune);
                    trial.times_secs.insert(Phase::FullTune, start.elapsed().as_secs_f64());
                    self.store.save(&trial)?;
                    numbers.push(trial.number);
                    deployments.push(Ok(deployment));
                }
                Err(failure) => {
                    self.store.begin(trial.number)?;
                    self.store.fail(trial.number, &json(&failure)?)?;
                }
            }
        }
        let mut ready = Vec::new();
        for deployment in deployments {
            match deployment {
                Ok(d) => ready.push(d),
                Err(failure) => return invalid(format!("the original model cannot be compiled: {failure}; check the target in [target]")),
            }
        }
        self.check_stop()?;
        self.progress.status("measuring whole models in turn");
        let comparison = self.evaluator.compare(&ready)?;
        let mut programs = comparison.programs.into_iter();
        let tuned = match programs.next() {
            Some(Ok(samples)) => timing(&samples)?,
            Some(Err(failure)) => return invalid(format!("the original model does not run: {failure}; check the target in [target]")),
            None => return invalid("nothing was measured: report this"),
        };
        let torch = comparison.torch.as_deref().map(timing).transpose()?;
        let mut baseline = self.store.baseline()?;
        (baseline.tuned, baseline.torch) = (Some(tuned), torch);
        self.store.save_baseline(&baseline)?;
        if let Some(error) = comparison.max_error {
            self.store.save_fact("largest relative difference from libtorch", &error)?;
        }
        let mut measured = Vec::new();
        for (number, samples) in numbers.into_iter().zip(programs) {
            let mut trial = self.store.trial(number)?;
            match samples {
                Ok(samples) => {
                    let end_to_end = EndToEnd { model: timing(&samples)?, tuned, torch };
                    trial.end_to_end = Some(end_to_end);
                    trial.phase = Some(Phase::EndToEnd);
                    self.store.save(&trial)?;
                    measured.push(Candidate { number, accuracy: trial.full_accuracy.unwrap_or(0.0), secs: end_to_end.model.median_secs });
                }
                Err(failure) => {
                    self.store.begin(number)?;
                    self.store.fail(number, &json(&failure)?)?;
                }
            }
        }
        let best = torch.filter(|t| t.median_secs < tuned.median_secs).unwrap_or(tuned);
        let reference = Candidate { number: BASELINE, accuracy: baseline.full_accuracy.unwrap_or(0.0), secs: best.median_secs };
        let winner = choose::winner(&measured, reference, self.spec.budget.accuracy_drop / 100.0);
        self.store.save_winner(winner)?;
        Ok(winner)
    }

    fn train_full(&mut self, finalists: &[Trial]) -> Result<()> {
        let start = Instant::now();
        let mut jobs = Vec::new();
        let mut baseline: Baseline = self.store.baseline()?;
        if baseline.full_accuracy.is_none() || !self.weights_file(BASELINE).exists() {
            jobs.push(self.job(BASELINE, None, Training::Full)?);
        }
        for trial in finalists.iter().filter(|t| t.full_accuracy.is_none() || !self.weights_file(t.number).exists()) {
            jobs.push(self.job(trial.number, Some(&Operator::parse(&trial.operator)?), Training::Full)?);
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let names: Vec<_> = jobs.iter().map(|j| if j.number == BASELINE { "the original".into() } else { format!("trial {}", j.number) }).collect();
        self.progress.say(format!("full training of {}; {}", names.join(", "), self.clock()?));
        let numbers: Vec<u32> = jobs.iter().map(|j| j.number).collect();
        for (number, outcome) in numbers.into_iter().zip(self.train(jobs, Training::Full)?) {
            match (number, outcome) {
                (_, Trained::Interrupted) => return Err(Error::Interrupted),
                (BASELINE, Trained::Done { accuracy, .. }) => {
                    baseline.full_accuracy = Some(accuracy);
                    self.store.save_baseline(&baseline)?;
                }
                (BASELINE, other) => return Err(cannot_train(&other)),
                (_, Trained::Done { accuracy, secs }) => {
                    let mut trial = self.store.trial(number)?;
                    trial.full_accuracy = Some(accuracy);
                    trial.phase = Some(Phase::FullTrain);
                    trial.times_secs.insert(Phase::FullTrain, secs.max(0.0));
                    self.store.save(&trial)?;
                    self.progress.say(format!("trial {number}: {:.1} % after the full training", accuracy * 100.0));
                }
                (_, Trained::Failed(failure)) => {
                    self.store.begin(number)?;
                    self.store.fail(number, &json(&failure)?)?;
                }
                (_, Trained::StoppedEarly { .. }) => {
                    self.store.begin(number)?;
                    self.store.prune(number, "full training far below the original")?;
                }
            }
        }
        self.progress.status(format!("full training took {:.0} s", start.elapsed().as_secs_f64()));
        Ok(())
    }

    /// Full tuning of every kernel of a model.
    fn deploy(&mut self, number: u32, operator: Option<&Operator>) -> Result<Result<Deployment, Failure>> {
        let what = if number == BASELINE { "the original".to_string() } else { format!("trial {number}") };
        self.progress.say(format!("full tuning of {what}; {}", self.clock()?));
        let model = self.slots.model(operator, i64::from(self.spec.target.batch))?;
        let mut found: BTreeMap<String, tune::Config> = BTreeMap::new();
        for (workload, call) in model.workloads() {
            let alike = model.calls.iter().filter(|c| c.workload() == workload).filter_map(|c| c.slot);
            match self.tune(&call.nest, self.spec.tune.trials as usize)? {
                Ok(best) => {
                    self.evaluator.keep(&call.nest, &best)?;
                    if let Some(timing) = Timing::of(&best.samples.0) {
                        for slot in alike {
                            let slot = self.slots.slots[slot].name.clone();
                            self.store.record_slot(number, &SlotTime { slot, workload: workload.clone(), timing })?;
                        }
                    }
                    found.insert(workload, best.config);
                }
                Err(failure) => return Ok(Err(failure)),
            }
        }
        let configs = model.calls.iter().filter_map(|c| found.get(&c.workload()).cloned()).collect();
        let nests = self.slots.nests(operator, i64::from(self.spec.target.batch))?;
        let file = self.weights_file(number);
        let trained = if file.exists() {
            let values: Values = weights::read(&file)?.into_iter().map(|w| (w.name, w.values)).collect();
            Some((file, values))
        } else {
            None
        };
        Ok(Ok(Deployment { model, configs, nests, trained }))
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
    let config = serde_json::to_string(&Known { config: m.config.clone(), hash: m.hash }).map_err(|e| Error::Invalid(format!("a config cannot be written down ({e}): report this")))?;
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
