//! The finals: full training and tuning of the best candidates and the baseline, whole models measured in turn.

use super::*;
use crate::store::{EndToEnd, SlotTime};
use crate::train::weights;

impl Study<'_> {
    fn finalists(&self) -> Result<Vec<Trial>> {
        let baseline = self.store.baseline()?;
        let (Some(slots), Some(accuracy)) = (baseline.slots, baseline.proxy_accuracy) else { return Ok(vec![]) };
        let trials = self.store.trials()?;
        let mut fits = BTreeMap::new();
        for trial in &trials {
            fits.insert(trial.number, trial.full_accuracy.is_some() || self.full_secs(trial.number)? <= self.left_secs()?);
        }
        // without time for any, the budget is overrun
        let some = trials.iter().any(|t| t.proxy_accuracy.is_some() && fits[&t.number]);
        let trained = trials.iter().filter(|t| !some || fits[&t.number]);
        let drop = self.spec.budget.accuracy_drop / 100.0;
        let contender = |t: &Trial| {
            let short = t.proxy_accuracy?;
            Some(Contender {
                number: t.number,
                speedup: slots.median_secs / t.slots?.median_secs,
                chance: forecast(t, short, &baseline).chance(drop),
                kept: choose::keeps(short, accuracy - drop),
            })
        };
        let chosen = choose::finalists(&trained.filter_map(contender).collect::<Vec<_>>(), self.spec.train.n_finalists as usize);
        Ok(chosen.iter().filter_map(|n| trials.iter().find(|t| t.number == *n).cloned()).collect())
    }

    /// Seconds that the full training of a trial will take, by its short one.
    fn full_secs(&self, number: u32) -> Result<f64> {
        let epochs = self.store.epochs(number)?;
        let last = epochs.iter().rfind(|e| e.training == Training::Proxy);
        Ok(last.map_or(0.0, |e| e.secs / e.n_seen.max(1) as f64 * self.full_samples() as f64))
    }

    /// Full training and tuning of the finalists and the baseline, then whole models measured in turn.
    pub(super) fn settle(&mut self) -> Result<Option<u32>> {
        let finalists = self.finalists()?;
        if finalists.is_empty() {
            let no_finals = self.spec.train.n_finalists == 0;
            let why = if no_finals { "n_finalists = 0: no finals" } else { "no candidate was both faster and trained: nothing to settle" };
            self.progress.say(why);
            self.store.save_winner(None)?;
            return Ok(None);
        }
        self.train_full(&finalists)?;
        let mut deployments = vec![self.deploy(BASELINE, None)?];
        let mut numbers = Vec::new();
        let least = self.store.baseline()?.full_accuracy.unwrap_or(0.0) - self.spec.budget.accuracy_drop / 100.0;
        let (mut trained, mut others) = (Vec::new(), Vec::new());
        for finalist in &finalists {
            let trial = self.store.trial(finalist.number)?;
            match trial.full_accuracy {
                Some(accuracy) if choose::keeps(accuracy, least) => trained.push(trial),
                Some(_) => others.push(trial),
                None => {}
            }
        }
        let n_accurate = trained.len();
        trained.extend(others);
        for (i, trial) in trained.into_iter().enumerate() {
            // what lost too much cannot win
            if i >= n_accurate && self.left_secs()? <= 0.0 {
                self.progress.say(format!("trial {} lost too much accuracy: its full tuning is left out, no time is left", trial.number));
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

    pub(super) fn train_full(&mut self, finalists: &[Trial]) -> Result<()> {
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
        let names: Vec<_> =
            jobs.iter().map(|j| if j.number == BASELINE { "the original".into() } else { format!("trial {}", j.number) }).collect();
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
