//! Exploring: proposals, budgets, quick latencies and short trainings, until the finals need the time that is left.

use super::reward::{Front, Point, Scale};
use super::*;
use crate::lower::Epilogue;
use crate::store::{PRUNED, SlotTime, State};
use crate::synth::library;

impl Study<'_> {
    /// Seconds kept for the finals, by what things took so far; early estimates are high, so never most of the budget.
    pub(super) fn reserve_secs(&self) -> Result<f64> {
        let n = self.spec.train.n_finalists as u64;
        if n == 0 {
            return Ok(0.0);
        }
        let rounds = (n + 1).div_ceil(self.evaluator.n_parallel() as u64);
        let train = rounds as f64 * self.full_samples() as f64 * self.rates.per_picture();
        let model = self.slots.model(None, 1)?;
        let workloads = model.workloads();
        let n_in_slots = workloads.iter().filter(|(_, call)| call.slot.is_some()).count() as u64;
        let n_workloads = workloads.len() as u64 + n * n_in_slots;
        let tune = self.rates.tuning(n_workloads, u64::from(self.spec.tune.trials));
        Ok(((train + tune) * SAFETY + 15.0).min(MOST_RESERVED * self.spec.budget.minutes * 60.0))
    }

    pub(super) fn explore(&mut self) -> Result<StopReason> {
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
            self.learn()?;
            let batch = self.gather()?;
            if batch.is_empty() {
                let n = self.store.trials()?.len() as u32;
                if self.left_secs()? < self.reserve_secs()? {
                    return Ok(StopReason::Minutes { spent: self.store.spent_secs()? / 60.0 });
                }
                if self.spec.budget.trials.is_some_and(|most| n >= most) {
                    return Ok(StopReason::Trials { n });
                }
                return Ok(StopReason::Exhausted { n });
            }
            self.train_short(batch)?;
        }
    }

    /// Candidates that are faster than the baseline, as many as train side by side.
    pub(super) fn gather(&mut self) -> Result<Vec<(u32, Operator)>> {
        let mut batch = Vec::new();
        while batch.len() < self.evaluator.n_parallel() {
            self.check_stop()?;
            if self.left_secs()? < self.reserve_secs()? {
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
            } else {
                self.learn()?;
            }
        }
        Ok(batch)
    }

    /// Tells the proposer what every settled trial is worth beside all others.
    fn learn(&mut self) -> Result<()> {
        let baseline = self.store.baseline()?;
        let (Some(slots), Some(accuracy)) = (baseline.slots, baseline.proxy_accuracy) else { return Ok(()) };
        let least = accuracy - USELESS_DROPS * (self.spec.budget.accuracy_drop / 100.0).max(LEAST_DROP);
        let mut front = Front::new(Scale { baseline: Point { secs: slots.median_secs, accuracy }, least });
        let (mut points, mut failed) = (Vec::new(), Vec::new());
        for trial in self.store.trials()? {
            let id = Operators::id_of(&Operator::parse(&trial.operator)?);
            match (trial.state, trial.slots) {
                (State::Waiting | State::Running, _) => {}
                (State::Failed, _) => failed.push(Operator::parse(&trial.operator)?),
                (_, Some(secs)) => {
                    // a training that was given up has the accuracy that it had come to
                    let last = || Ok::<_, Error>(self.store.epochs(trial.number)?.last().map_or(0.0, |e| e.accuracy));
                    let short = trial.proxy_accuracy.map_or_else(last, Ok)?;
                    let expected = accuracy + forecast(&trial, short, &baseline).gap;
                    points.push((id, Point { secs: secs.median_secs, accuracy: expected }));
                }
                // too slow to be trained
                (_, None) => points.push((id, Point { secs: f64::INFINITY, accuracy: 0.0 })),
            }
        }
        for &(_, p) in &points {
            front.push(p);
        }
        let rewards = front.rewards(points.iter().map(|p| p.1));
        failed.retain(|operator| !self.refused.contains(&Operators::id_of(operator)));
        for operator in &failed {
            self.refuse(operator)?;
        }
        self.tell(points.iter().map(|p| p.0).zip(rewards).collect())
    }

    /// The next operator within the budgets, with its row in the store.
    fn propose(&mut self) -> Result<Option<Trial>> {
        let baseline = self.store.baseline()?;
        for text in self.spec.operator.start.clone() {
            let operator = library::resolve(&text)?;
            if let Some(Asked { proposal, .. }) = self.within_budget(&operator, &baseline)?
                && let Some(trial) = self.enter(&proposal, &operator)?
            {
                return Ok(Some(trial));
            }
        }
        let mut chances = MAX_BARREN;
        for _ in 0..MAX_REFUSED {
            if self.pool.len() == POOL || chances == 0 {
                break;
            }
            self.check_stop()?;
            let judge = |study: &mut Self, operator: &Operator| match study.within_budget(operator, &baseline) {
                Ok(asked) => Ok(asked),
                Err(_) => study.store.add_counts(PRUNED, [("a size does not divide", 1)]).map(|()| None),
            };
            if self.ask(judge)?.is_none() {
                chances -= 1;
            }
        }
        self.store.add_counts(PRUNED, self.proposer.take_refused())?;
        let distances = self.pool.iter().map(|asked| asked.distance).enumerate();
        let Some((best, _)) = distances.min_by(|a, b| a.1.total_cmp(&b.1)) else { return Ok(None) };
        let proposal = self.pool.remove(best).proposal;
        let operator = Operator::parse(&proposal.operator)?;
        if self.is_known(&operator)? {
            self.refuse(&operator)?;
            return self.propose();
        }
        self.enter(&proposal, &operator)
    }

    /// How long a model with the operator trains, relative to the original.
    fn train_ratio(&self, operator: &Operator) -> Result<f64> {
        let moved = self.slots.n_moved(Some(operator), i64::from(self.spec.train.batch))? as f64;
        let original = self.n_moved as f64;
        Ok((REST_OF_TRAINING * original + moved) / (REST_OF_TRAINING * original + original))
    }

    /// Makes a trial of a proposal, and keeps which function it computes.
    fn enter(&mut self, proposal: &Proposal, operator: &Operator) -> Result<Option<Trial>> {
        let trial = self.store.propose(proposal)?;
        if let (Some(trial), Some(key)) = (&trial, self.function_of(operator)) {
            self.store.save_fact(&key, &trial.number)?;
        }
        Ok(trial)
    }

    /// The fact under which the trial of a function is kept, however the function is written.
    fn function_of(&self, operator: &Operator) -> Option<String> {
        let known = !self.small.is_empty();
        known.then(|| lower::fingerprint(operator, &self.small).ok()).flatten().map(|f| format!("function {f}"))
    }

    /// Was an operator tried that computes the same?
    fn is_known(&self, operator: &Operator) -> Result<bool> {
        let Some(key) = self.function_of(operator) else { return Ok(false) };
        let known = self.store.fact::<u32>(&key)?.is_some();
        if known {
            self.store.add_counts(PRUNED, [("computes what an earlier trial does", 1)])?;
        }
        Ok(known)
    }

    /// A proposal of an operator that is new and keeps the budgets; what is refused is counted.
    pub(super) fn within_budget(&self, operator: &Operator, baseline: &Baseline) -> Result<Option<Asked>> {
        if self.store.find(&operator.id())?.is_some() {
            return Ok(None);
        }
        let model = self.slots.model(Some(operator), 1)?;
        let (n_macs, n_params) = (model.slot_macs(), model.slot_params());
        let over = |n: u64, of: Option<u64>, ratio: f64| of.is_some_and(|of| n as f64 > of as f64 * ratio);
        if over(n_macs, baseline.n_macs, self.spec.budget.flops_ratio) {
            self.store.add_counts(PRUNED, [("FLOPs over budget", 1)])?;
            return Ok(None);
        }
        if over(n_params, baseline.n_params, self.spec.budget.params_ratio) {
            self.store.add_counts(PRUNED, [("parameters over budget", 1)])?;
            return Ok(None);
        }
        if self.is_known(operator)? {
            return Ok(None);
        }
        let train_ratio = self.train_ratio(operator)?;
        if train_ratio > self.spec.budget.train_ratio {
            self.store.add_counts(PRUNED, [("training over budget", 1)])?;
            return Ok(None);
        }
        let binding = self.slots.filled().next().map(|s| self.slots.binding(s, 1));
        // neither too small to learn nor too large to be fast; and two cheap trainings tell more than a dear one (expected improvement
        // per second: Snoek et al. 2012, section 3.2)
        let share = n_macs as f64 / baseline.n_macs.unwrap_or(1) as f64;
        let distance = (share / LIKELY_SHARE).ln().abs() + train_ratio.ln();
        let proposal = Proposal {
            operator: operator.to_string(),
            id: operator.id(),
            formula: Some(operator.formula(binding.as_ref())),
            n_macs: Some(n_macs),
            n_params: Some(n_params),
        };
        Ok(Some(Asked { proposal, distance }))
    }

    /// Quick tuning; false when the trial is settled by it.
    pub(super) fn is_fast(&mut self, trial: &Trial, operator: &Operator) -> Result<bool> {
        let start = Instant::now();
        let baseline = self.store.baseline()?.slots.map_or(f64::INFINITY, |t| t.median_secs);
        let mut trial = trial.clone();
        let worth = self.worth()?;
        match self.quick_latency(trial.number, Some(operator), worth)? {
            Err(failure) => {
                self.progress.say(format!("trial {}: {failure}", trial.number));
                self.store.fail(trial.number, &json(&failure)?)?;
                Ok(false)
            }
            Ok(None) => {
                let reason =
                    if worth < WORTH_TRAINING { "slower than candidates that keep the accuracy" } else { "not faster than the original" };
                self.progress.status(format!("trial {}: {reason}", trial.number));
                self.store.prune(trial.number, reason)?;
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
                self.progress.say(format!(
                    "trial {}: slots {:.3} ms ({:.2}× faster)  {operator}",
                    trial.number,
                    timing.median_secs * 1e3,
                    baseline / timing.median_secs
                ));
                Ok(true)
            }
        }
    }

    /// The share of the baseline's time that a candidate must beat: once enough trained ones will likely keep the accuracy, only a faster
    /// one can still win.
    fn worth(&self) -> Result<f64> {
        let baseline = self.store.baseline()?;
        let Some(slots) = baseline.slots else { return Ok(WORTH_TRAINING) };
        let drop = self.spec.budget.accuracy_drop / 100.0;
        let trials = self.store.trials()?;
        let good = trials.iter().filter(|t| t.proxy_accuracy.is_some_and(|a| choose::keeps(forecast(t, a, &baseline).gap, -drop)));
        let mut secs: Vec<f64> = good.filter_map(|t| t.slots.map(|s| s.median_secs)).collect();
        secs.sort_by(f64::total_cmp);
        let enough = (self.spec.train.n_finalists as usize).checked_sub(1).and_then(|last| secs.get(last));
        Ok(enough.map_or(WORTH_TRAINING, |s| (s / slots.median_secs).min(WORTH_TRAINING)))
    }

    /// The time of all slots by a few schedules of each distinct shape, dearest shapes first; `None` as soon as those
    /// measured are slower than `worth` times the baseline's.
    pub(super) fn quick_latency(
        &mut self,
        number: u32,
        operator: Option<&Operator>,
        worth: f64,
    ) -> Result<Result<Option<Timing>, Failure>> {
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
                None => model::original(&slot, batch),
            };
            let channel = lower::layout::channel(slot.output(batch).len());
            let fused = bare.with_epilogue(Epilogue { bias: true, relu: true, ..Epilogue::default() }, channel);
            let (nest, _) = lower::layout::for_cpu(&fused, lower::layout::BLOCK);
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
            if ours > PARTIAL_MARGIN * worth * theirs && worth.is_finite() {
                return Ok(Ok(None));
            }
        }
        let total: Timing = parts.into_iter().sum();
        let slow = worth.is_finite() && total.median_secs > worth * theirs;
        Ok(Ok((!slow).then_some(total)))
    }

    pub(super) fn train_short(&mut self, batch: Vec<(u32, Operator)>) -> Result<()> {
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
                    self.progress.say(format!(
                        "trial {number}: given up at {:.1} % after {n_seen} pictures; {}",
                        accuracy * 100.0,
                        self.clock()?
                    ));
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
}
