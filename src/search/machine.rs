//! The evaluator that is this machine: tuning through TVM, training through libtorch, each in child processes.

use super::evaluate::{Comparison, Deployment, Evaluator, Job};
use super::{files_of, model, train_seed};
use crate::error::{Context, Error, Result};
use crate::lower::layout::transpose;
use crate::lower::{LoopNest, Role};
use crate::spec::Spec;
use crate::synth::child_seed;
use crate::train::data::Source;
use crate::train::{self, DataSet, Epoch, ForwardRequest, LatencyRequest, Recipe, TrainRequest, Trainer};
use crate::tune::measure::{values, write_values};
use crate::tune::protocol::{Fill, MeasureRequest, Program, Slot, Step};
use crate::tune::{self, Best, Effort, Failure, Limits, LocalRunner, Options, Task, Tuner};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use tempfile::TempDir;

/// An answer of a whole model may differ from libtorch's by this, relative to its largest magnitude.
const MODEL_TOLERANCE: f64 = 1e-3;
/// Whole models are measured in so many turns, each model once a turn.
const N_TURNS: usize = 7;
/// One turn of one model.
const TURN: Effort = Effort { sample_secs: 0.005, min_samples: 15, max_samples: 41, budget_secs: 0.3, hopeless_secs: f64::MAX };
/// The last word on a kernel while candidates are compared; whole models are timed for longer.
const SETTLE: Effort = Effort { sample_secs: 0.004, min_samples: 9, max_samples: 41, budget_secs: 0.25, hopeless_secs: f64::MAX };
/// Seconds after which a kernel's build is given up: most take a fraction of one, and a few unrolled ones a minute.
const BUILD_LIMIT_SECS: f64 = 15.0;
/// Seconds after which a whole model's run is given up.
const MODEL_LIMIT_SECS: f64 = 120.0;

/// This machine.
pub struct Machine {
    spec: Spec,
    runner: LocalRunner,
    trainer: Trainer,
    source: Source,
    n_train: u64,
    work: TempDir,
    /// The MetaSchedule database.
    database: PathBuf,
    stop: Arc<AtomicBool>,
}

impl Machine {
    /// Looks at target, libraries and data first, so that what is missing is told at once.
    ///
    /// # Errors
    /// A target that TVM does not know, missing libraries, missing or damaged data.
    pub fn new(spec: &Spec, store: &Path, stop: Arc<AtomicBool>) -> Result<Machine> {
        let mut machine = Machine::for_training(spec, stop)?;
        machine.runner.target(&spec.target.llvm, spec.target.threads as usize)?;
        machine.database = files_of(store).join("metaschedule");
        Ok(machine)
    }

    /// Without a look at the target.
    ///
    /// # Errors
    /// Missing or damaged data.
    pub fn for_training(spec: &Spec, stop: Arc<AtomicBool>) -> Result<Machine> {
        let set = DataSet::named(spec.data.name.name())?;
        let source = Source { set, folder: spec.data.path.clone() };
        let n_train = source.read()?.train.labels.len() as u64;
        let mut runner = LocalRunner::new(Limits { build_secs: BUILD_LIMIT_SECS, ..Limits::default() })?;
        runner.stop_with(stop.clone());
        let work = tempfile::Builder::new()
            .prefix("syntune-")
            .tempdir()
            .context(|| "making a temporary folder; set TMPDIR to a folder with space".into())?;
        let database = work.path().join("metaschedule");
        Ok(Machine { spec: spec.clone(), runner, trainer: Trainer::default(), source, n_train, work, database, stop })
    }

    fn task(&self, nest: &LoopNest) -> Task {
        Task { computation: nest.clone().into(), target: self.spec.target.llvm.clone(), n_threads: self.spec.target.threads as usize }
    }

    fn recipe(&self, n_samples: u64) -> Recipe {
        Recipe { batch: i64::from(self.spec.train.batch), lr: self.spec.train.lr, ..Recipe::of(n_samples) }
    }

    /// Compiles a deployment's kernels and lays out its tensors.
    fn program(&mut self, deployment: &Deployment, input: &Path) -> Result<Result<(Program, usize), Failure>> {
        let model = &deployment.model;
        let folder = tempfile::tempdir_in(self.work.path())
            .context(|| "making a temporary folder; set TMPDIR to a folder with space".into())?
            .keep();
        let mut tensors: Vec<Slot> = model.shapes.iter().map(|s| Slot { shape: s.clone(), fill: Fill::Nan }).collect();
        tensors[0].fill = Fill::File(input.to_path_buf());
        let mut libraries: HashMap<String, PathBuf> = HashMap::new();
        let mut steps = Vec::new();
        for (call, config) in model.calls.iter().zip(&deployment.configs) {
            let workload = call.workload();
            if !libraries.contains_key(&workload) {
                match self.runner.build(&self.task(&call.nest), Some(config))? {
                    Ok(built) => drop(libraries.insert(workload.clone(), built.library)),
                    Err(failure) => return Ok(Err(failure)),
                }
            }
            let (mut inputs, mut constants) = (call.inputs.iter(), call.weights.iter());
            let mut arguments = Vec::new();
            for parameter in call.nest.parameters() {
                let tensor = &call.nest.tensors[parameter];
                arguments.push(match tensor.role {
                    Role::Input => *inputs.next().ok_or_else(|| misfit(&call.layer))?,
                    Role::Output => call.output,
                    Role::Weight | Role::Temp => {
                        let constant = constants.next().ok_or_else(|| misfit(&call.layer))?;
                        let fill = match &deployment.trained {
                            Some((_, trained)) => {
                                let file = folder.join(format!("constant-{}", tensors.len()));
                                write_values(&file, &constant.values(trained)?)?;
                                Fill::File(file)
                            }
                            None => Fill::Random(tensors.len() as u64),
                        };
                        tensors.push(Slot { shape: tensor.shape.clone(), fill });
                        tensors.len() - 1
                    }
                });
            }
            steps.push(Step { library: libraries[&workload].clone(), arguments });
        }
        Ok(Ok((Program { tensors, steps }, model.result())))
    }

    /// What libtorch answers with the same weights, as a file.
    fn expected(&self, deployment: &Deployment, backbone: &train::Backbone, input: &[f32]) -> Result<Option<PathBuf>> {
        let Some((weights, _)) = &deployment.trained else { return Ok(None) };
        let request = ForwardRequest {
            backbone: backbone.clone(),
            nests: deployment.nests.clone(),
            weights: weights.clone(),
            input: input.to_vec(),
            n_threads: self.spec.target.threads as usize,
            folded: false,
        };
        match self.trainer.forward(request, &self.stop)? {
            Ok(logits) => {
                let file = self.work.path().join("expected");
                write_values(&file, &logits)?;
                Ok(Some(file))
            }
            Err(failure) => {
                Err(Error::Invalid(format!("libtorch cannot run the model that it trained: {failure}; train it again with this version")))
            }
        }
    }

    fn torch_latency(&self, deployment: &Deployment, backbone: &train::Backbone) -> Result<Option<Vec<f64>>> {
        let request = LatencyRequest {
            backbone: backbone.clone(),
            nests: deployment.nests.clone(),
            n: i64::from(self.spec.target.batch),
            n_threads: self.spec.target.threads as usize,
            weights: deployment.trained.as_ref().map(|t| t.0.clone()),
            min_secs: 1.0,
        };
        Ok(self.trainer.latency(request, &self.stop)?.ok())
    }
}

fn misfit(layer: &str) -> Error {
    Error::Invalid(format!("the kernel of layer {layer} takes other tensors than the model has: report this"))
}

impl Evaluator for Machine {
    fn tune(
        &mut self,
        nest: &LoopNest,
        n_trials: usize,
        known: Vec<tune::Measurement>,
        on_measurement: &mut dyn FnMut(&tune::Measurement) -> Result<()>,
    ) -> Result<Result<Best, Failure>> {
        let mut options = Options::new(n_trials, child_seed(self.spec.seed, &model::workload(nest)));
        options.strategy = self.spec.tune.strategy;
        options.final_effort = SETTLE;
        options.stop = self.stop.clone();
        let task = self.task(nest);
        let mut saved = Ok(());
        let stop = self.stop.clone();
        let outcome = Tuner::new(&self.runner, task, options).resume(known).run(&mut |m| {
            if saved.is_ok() {
                saved = on_measurement(m);
            }
            if saved.is_err() {
                stop.store(true, Ordering::Relaxed); // nothing more can be kept
            }
        });
        saved?;
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let outcome = outcome?;
        Ok(match (outcome.best, outcome.example) {
            (Some(best), _) => Ok(best),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Failure::DoesNotBuild("TVM offers no schedule".into())),
        })
    }

    fn train(&mut self, jobs: &[Job], on_epoch: &mut dyn FnMut(&Job, &Epoch) -> Result<()>) -> Result<Vec<train::Outcome>> {
        let set = self.source.set;
        let backbone =
            train::Backbone::named(self.spec.backbone.name.name(), i64::from(self.spec.backbone.width), set.input(), set.n_classes())?;
        let request = |job: &Job| TrainRequest {
            backbone: backbone.clone(),
            nests: job.nests.clone(),
            data: self.source.clone(),
            recipe: Recipe { held_out: job.held_out, ..self.recipe(job.n_samples) },
            seed: train_seed(&self.spec),
            n_threads: 1,
            save: job.save.clone(),
            milestones: job.milestones.clone(),
        };
        let requests: Vec<TrainRequest> = jobs.iter().map(request).collect();
        let next = AtomicUsize::new(0);
        let (send, events) = channel::<(usize, Epoch)>();
        let (trainer, stop) = (&self.trainer, &self.stop);
        let mut saved = Ok(());
        let mut outcomes: Vec<Option<Result<train::Outcome>>> = jobs.iter().map(|_| None).collect();
        std::thread::scope(|scope| {
            let work = |send: std::sync::mpsc::Sender<(usize, Epoch)>| {
                let (next, requests) = (&next, &requests);
                move || {
                    let mut done = Vec::new();
                    loop {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(request) = requests.get(i) else { return done };
                        let outcome = trainer.train(request.clone(), stop, &mut |epoch| {
                            let _ = send.send((i, epoch.clone()));
                            Ok(())
                        });
                        done.push((i, outcome));
                    }
                }
            };
            let workers: Vec<_> = (0..self.n_parallel().min(jobs.len())).map(|_| scope.spawn(work(send.clone()))).collect();
            drop(send);
            for (i, epoch) in events {
                if saved.is_ok() {
                    saved = on_epoch(&jobs[i], &epoch);
                }
                if saved.is_err() {
                    stop.store(true, Ordering::Relaxed); // nothing more can be kept
                }
            }
            for worker in workers {
                for (i, outcome) in worker.join().unwrap_or_default() {
                    outcomes[i] = Some(outcome);
                }
            }
        });
        saved?;
        let lost = || Err(Error::Invalid("a training thread panicked: report this".into()));
        outcomes.into_iter().map(|o| o.unwrap_or_else(lost)).collect()
    }

    fn compare(&mut self, models: &[Deployment]) -> Result<Comparison> {
        let set = self.source.set;
        let backbone =
            train::Backbone::named(self.spec.backbone.name.name(), i64::from(self.spec.backbone.width), set.input(), set.n_classes())?;
        let n: i64 = set.input().iter().product::<i64>() * i64::from(self.spec.target.batch);
        let input = values(n as usize, child_seed(self.spec.seed, "input"));
        let file = self.work.path().join("input");
        let [c, h, w] = set.input();
        let shape = [i64::from(self.spec.target.batch), c, h, w];
        write_values(&file, &transpose(&input, &shape, &[0, 2, 3, 1]))?;
        let mut programs: Vec<Result<(Program, usize), Failure>> = Vec::new();
        let mut max_error: Option<f64> = None;
        for deployment in models {
            let program = self.program(deployment, &file)?;
            let checked = match program {
                Ok((program, result)) => {
                    let expected = self.expected(deployment, &backbone, &input)?;
                    let request = MeasureRequest {
                        program: program.clone(),
                        expected: vec![(result, expected.clone())],
                        tolerance: MODEL_TOLERANCE,
                        save: vec![],
                        effort: None,
                    };
                    match self.runner.run(&request, self.spec.target.threads as usize, MODEL_LIMIT_SECS)? {
                        Ok((_, error)) => {
                            if expected.is_some() {
                                max_error = Some(max_error.unwrap_or(0.0).max(error));
                            }
                            Ok((program, result))
                        }
                        Err(failure) => Err(failure),
                    }
                }
                Err(failure) => Err(failure),
            };
            programs.push(checked);
        }
        let mut samples: Vec<Result<Vec<f64>, Failure>> =
            programs.iter().map(|p| p.as_ref().map(|_| Vec::new()).map_err(Clone::clone)).collect();
        let mut torch = models.first().map(|d| self.torch_latency(d, &backbone)).transpose()?.flatten();
        for _ in 0..N_TURNS {
            for (program, samples) in programs.iter().zip(&mut samples) {
                let (Ok((program, result)), Ok(so_far)) = (program, &mut *samples) else { continue };
                match self.runner.time_program(program, &[*result], self.spec.target.threads as usize, &TURN)? {
                    Ok(more) => so_far.extend(more.0),
                    Err(failure) => *samples = Err(failure),
                }
                if self.stop.load(Ordering::Relaxed) {
                    return Err(Error::Interrupted);
                }
            }
        }
        if let (Some(torch), Some(first)) = (&mut torch, models.first()) {
            torch.extend(self.torch_latency(first, &backbone)?.unwrap_or_default());
        }
        Ok(Comparison { programs: samples, torch, max_error })
    }

    fn keep(&mut self, nest: &LoopNest, best: &Best) -> Result<()> {
        std::fs::create_dir_all(&self.database).context(|| format!("creating {}", self.database.display()))?;
        self.runner.record(&self.task(nest), &best.config, &best.samples, &self.database)
    }

    fn n_parallel(&self) -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get())
    }

    fn n_train(&self) -> u64 {
        self.n_train
    }
}
