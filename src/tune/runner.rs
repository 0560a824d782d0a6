//! Who builds and measures: a trait, and the real thing on this machine with child processes.

use super::config::{Candidate, Config, Effort, Failure, Measurement, Proposal, Samples, Space, Task};
use super::measure::{TOLERANCE, check, read_values, tensor_seed};
use super::protocol::{CompileAnswer, CompileRequest, Fill, MeasureAnswer, MeasureRequest, Program, Slot, Step};
use crate::child::{Child, Fault};
use crate::error::{Context, Error, Result};
use crate::lower::Role;
use crate::synth::stable_hash;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Builds and measures configs. A candidate's fault is a [`Failure`] inside; an `Err` is the caller's problem.
pub trait Runner {
    /// The design spaces of a task.
    fn spaces(&mut self, task: &Task) -> Result<Vec<Space>>;
    /// Which proposals can be scheduled and as which programs; cheap, builds nothing. One answer per proposal.
    fn probe(&mut self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>>;
    /// Builds all, then measures one after the other. `known` receives each result as soon as it is there and says whether to go on.
    fn measure(&mut self, task: &Task, candidates: &[Candidate], effort: &Effort, known: &mut dyn FnMut(Measurement) -> bool)
    -> Result<()>;
}

/// Time limits and size of a [`LocalRunner`].
#[derive(Clone, Debug)]
pub struct Limits {
    pub n_compilers: usize,
    /// For one build or one round of probes.
    pub build_secs: f64,
    /// For loading, verifying and timing one kernel.
    pub run_secs: f64,
    /// For the unscheduled kernel that expected outputs come from.
    pub reference_secs: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        let n_compilers = std::thread::available_parallelism().map_or(1, |n| n.get());
        Limits { n_compilers, build_secs: 60.0, run_secs: 20.0, reference_secs: 120.0 }
    }
}

/// Compile workers and one measuring worker on this machine, restarted when they are lost.
pub struct LocalRunner {
    limits: Limits,
    compilers: Vec<Option<Child>>,
    measurer: Option<(usize, Child)>,
    work: TempDir,
    n_folders: usize,
    references: HashMap<u64, Result<PathBuf, Failure>>,
    stop: Arc<AtomicBool>,
}

/// A compiled kernel and what it took.
#[derive(Clone, Debug)]
pub struct Built {
    pub library: PathBuf,
    pub hash: u64,
    pub steps: super::config::Steps,
    /// Actual decisions; `None` for the unscheduled nest.
    pub config: Option<Config>,
    /// MetaSchedule's trace as its databases hold it.
    pub trace: serde_json::Value,
}

/// Of one build: built, failed, or the caller's fault.
type Outcome = Result<Result<Built, Failure>>;

fn ask<Q: Serialize, A: DeserializeOwned>(
    slot: &mut Option<Child>,
    role: &str,
    env: &[(String, String)],
    request: &Q,
    secs: f64,
) -> Result<Result<A, Fault>> {
    let mut child = match slot.take() {
        Some(child) => child,
        None => Child::spawn(role, env)?,
    };
    let answer = child.ask(request, Duration::from_secs_f64(secs));
    if answer.is_ok() {
        *slot = Some(child);
    }
    Ok(answer)
}

impl LocalRunner {
    /// Workers start when they are first needed.
    ///
    /// # Errors
    /// No folder for temporary files can be made.
    pub fn new(limits: Limits) -> Result<LocalRunner> {
        let work = tempfile::Builder::new()
            .prefix("syntune-tune-")
            .tempdir()
            .context(|| "making a temporary folder; set TMPDIR to a folder with space".into())?;
        let compilers = (0..limits.n_compilers.max(1)).map(|_| None).collect();
        Ok(LocalRunner {
            limits,
            compilers,
            measurer: None,
            work,
            n_folders: 0,
            references: HashMap::new(),
            stop: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Once this flag is set, builds and measurements end after the candidate that is under way.
    pub fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// Process id of the measuring worker, when it runs.
    pub fn measurer_pid(&self) -> Option<u32> {
        self.measurer.as_ref().map(|(_, child)| child.pid())
    }

    /// A fresh private folder, removed with the runner.
    fn folder(&mut self) -> Result<PathBuf> {
        self.n_folders += 1;
        let path = self.work.path().join(self.n_folders.to_string());
        std::fs::create_dir(&path).context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    fn compiler(&mut self, request: &CompileRequest) -> Result<Result<CompileAnswer, Failure>> {
        let answer = ask::<_, CompileAnswer>(&mut self.compilers[0], "compile", &[], request, self.limits.build_secs)?;
        settle(answer)
    }

    /// The target as full JSON: the host named by LLVM, defaults filled in.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a target that TVM does not know.
    pub fn target(&mut self, target: &str, n_threads: usize) -> Result<String> {
        match self.compiler(&CompileRequest::Target { target: target.into(), n_threads })? {
            Ok(CompileAnswer::Target(json)) => Ok(json),
            other => Err(unexpected(other)),
        }
    }

    /// MetaSchedule's features of configs, 164 numbers for each store (2-15 ms per config, most of it the replay).
    ///
    /// # Errors
    /// The task's fault, as of [`LocalRunner::build`].
    pub fn features(&mut self, task: &Task, configs: &[Config]) -> Result<Vec<Result<Vec<Vec<f64>>, Failure>>> {
        let (nest, target) = (task.nest.clone(), task.target.clone());
        match self.compiler(&CompileRequest::Features { nest, target, n_threads: task.n_threads, configs: configs.to_vec() })? {
            Ok(CompileAnswer::Features(rows)) => Ok(rows),
            other => Err(unexpected(other)),
        }
    }

    /// Compiles one config, or the unscheduled nest, into a private folder that lasts as long as the runner.
    ///
    /// # Errors
    /// The task's fault: a bad target, a full disk.
    pub fn build(&mut self, task: &Task, config: Option<&Config>) -> Result<Result<Built, Failure>> {
        let folder = self.folder()?;
        let request = build_request(task, config, folder);
        Ok(match self.compiler(&request)? {
            Ok(answer) => Ok(built(answer)?),
            Err(failure) => Err(failure),
        })
    }

    /// Runs a program of kernels in the measuring worker.
    ///
    /// # Errors
    /// The request's fault: missing files, tensors that do not fit.
    pub fn run(&mut self, request: &MeasureRequest, n_threads: usize, limit_secs: f64) -> Result<Result<(Samples, f64), Failure>> {
        let env = [("TVM_NUM_THREADS".to_string(), n_threads.max(1).to_string())];
        let mut slot = match self.measurer.take() {
            Some((threads, child)) if threads == n_threads => Some(child),
            _ => None,
        };
        let answer = ask::<_, MeasureAnswer>(&mut slot, "measure", &env, request, limit_secs)?;
        self.measurer = slot.map(|child| (n_threads, child));
        match answer {
            Ok(MeasureAnswer::Measured { samples, max_error }) => Ok(Ok((Samples(samples), max_error))),
            Ok(MeasureAnswer::Failed(failure)) => Ok(Err(failure)),
            Ok(MeasureAnswer::Refused(message)) => Err(Error::Invalid(message)),
            Err(fault) => Ok(Err(fault.into())),
        }
    }

    /// Times a program whose kernels were verified before; `outputs` must come out finite.
    ///
    /// # Errors
    /// As [`LocalRunner::run`].
    pub fn time_program(
        &mut self,
        program: &Program,
        outputs: &[usize],
        n_threads: usize,
        effort: &Effort,
    ) -> Result<Result<Samples, Failure>> {
        let expected = outputs.iter().map(|&t| (t, None)).collect();
        let request = MeasureRequest { program: program.clone(), expected, tolerance: TOLERANCE, save: vec![], effort: Some(*effort) };
        Ok(self.run(&request, n_threads, self.limits.run_secs)?.map(|(samples, _)| samples))
    }

    /// The expected output of a task: its unscheduled kernel's, checked against the interpreter once.
    fn reference(&mut self, task: &Task) -> Result<Result<PathBuf, Failure>> {
        let key = serde_json::to_string(&task.nest).map(|text| stable_hash(text.as_bytes())).unwrap_or_default();
        if let Some(known) = self.references.get(&key) {
            return Ok(known.clone());
        }
        let made = self.make_reference(task)?;
        self.references.insert(key, made.clone());
        Ok(made)
    }

    fn make_reference(&mut self, task: &Task) -> Result<Result<PathBuf, Failure>> {
        let plain = match self.build(task, None)? {
            Ok(built) => built,
            Err(failure) => return Ok(Err(failure)),
        };
        let file = self.folder()?.join("expected.f32");
        let (program, output) = program(task, &plain.library);
        let request = MeasureRequest {
            program,
            expected: vec![(output, None)],
            tolerance: TOLERANCE,
            save: vec![(output, file.clone())],
            effort: None,
        };
        if let Err(failure) = self.run(&request, task.n_threads, self.limits.reference_secs)? {
            return Ok(Err(failure));
        }
        let max_error = check(&task.nest, &read_values(&file)?)?;
        Ok(if max_error <= TOLERANCE { Ok(file) } else { Err(Failure::WrongResult { max_error }) })
    }

    /// Builds in all compile workers at once. `None` where the stop flag came first.
    fn build_all(&mut self, task: &Task, candidates: &[Candidate]) -> Result<Vec<Option<Result<Built, Failure>>>> {
        let folders = candidates.iter().map(|_| self.folder()).collect::<Result<Vec<_>>>()?;
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Outcome>>> = Mutex::new((0..candidates.len()).map(|_| None).collect());
        let (limit, stop) = (self.limits.build_secs, &self.stop);
        std::thread::scope(|scope| {
            for slot in &mut self.compilers {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        if i >= candidates.len() {
                            break;
                        }
                        if let Some(library) = candidates[i].built.as_ref().filter(|file| file.exists()) {
                            let kept = Built {
                                library: library.clone(),
                                hash: candidates[i].hash,
                                steps: Default::default(),
                                config: None,
                                trace: serde_json::Value::Null,
                            };
                            results.lock().unwrap_or_else(|e| e.into_inner())[i] = Some(Ok(Ok(kept)));
                            continue;
                        }
                        let request = build_request(task, Some(&candidates[i].config), folders[i].clone());
                        let done =
                            ask::<_, CompileAnswer>(slot, "compile", &[], &request, limit).and_then(settle).and_then(
                                |answer| match answer {
                                    Ok(answer) => Ok(Ok(built(answer)?)),
                                    Err(failure) => Ok(Err(failure)),
                                },
                            );
                        results.lock().unwrap_or_else(|e| e.into_inner())[i] = Some(done);
                    }
                });
            }
        });
        results.into_inner().unwrap_or_else(|e| e.into_inner()).into_iter().map(Option::transpose).collect()
    }

    /// Appends a measured config to the MetaSchedule database in `folder` (the two files that stock TVM reads).
    ///
    /// # Errors
    /// The files cannot be written, or the config cannot be replayed.
    pub fn record(&mut self, task: &Task, config: &Config, samples: &Samples, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
        let request = CompileRequest::Record {
            nest: task.nest.clone(),
            target: task.target.clone(),
            n_threads: task.n_threads,
            config: config.clone(),
            samples: samples.0.clone(),
            folder: folder.to_path_buf(),
        };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Recorded) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The programs of a task in the MetaSchedule database in `folder`, stock TVM's as well as ours, the fastest first with their recorded
    /// seconds; and how many records are of no design space of the task.
    ///
    /// # Errors
    /// The files are not a database.
    pub fn records(&mut self, task: &Task, folder: &Path) -> Result<(Vec<(Candidate, f64)>, usize)> {
        let request = CompileRequest::Recorded {
            nest: task.nest.clone(),
            target: task.target.clone(),
            n_threads: task.n_threads,
            folder: folder.to_path_buf(),
        };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Records { known, n_foreign }) => Ok((known, n_foreign)),
            other => Err(unexpected(other)),
        }
    }

    /// The best seconds of a task in the MetaSchedule database in `folder`, and the number of records there.
    ///
    /// # Errors
    /// The files are not a database.
    pub fn recorded_best(&mut self, task: &Task, folder: &Path) -> Result<(Option<f64>, usize)> {
        let request = CompileRequest::Best {
            nest: task.nest.clone(),
            target: task.target.clone(),
            n_threads: task.n_threads,
            folder: folder.to_path_buf(),
        };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Best { secs, n_records }) => Ok((secs, n_records)),
            other => Err(unexpected(other)),
        }
    }
}

fn settle(answer: Result<CompileAnswer, Fault>) -> Result<Result<CompileAnswer, Failure>> {
    match answer {
        Ok(CompileAnswer::Failed(failure)) => Ok(Err(failure)),
        Ok(CompileAnswer::Refused(message)) => Err(Error::Invalid(message)),
        Ok(answer) => Ok(Ok(answer)),
        Err(Fault::Exited { stderr, .. }) if stderr.contains("No space left") => Err(Error::Invalid(format!(
            "the disk is full: {}; free some space, or set TMPDIR to a folder that has some; what was measured is kept",
            std::env::temp_dir().display()
        ))),
        Err(Fault::Exited { code, stderr }) => {
            Err(Error::Library(format!("the compile worker ended with code {code}: {stderr}; run scripts/setup")))
        }
        Err(fault) => Ok(Err(fault.into())),
    }
}

fn unexpected(answer: Result<CompileAnswer, Failure>) -> Error {
    match answer {
        Err(failure) => Error::Invalid(format!("the compile worker could not do it: {failure}; try again, or report it with this message")),
        Ok(_) => Error::Invalid("the compile worker answered another question: are two versions of syntune mixed?".into()),
    }
}

fn build_request(task: &Task, config: Option<&Config>, folder: PathBuf) -> CompileRequest {
    CompileRequest::Build {
        nest: task.nest.clone(),
        target: task.target.clone(),
        n_threads: task.n_threads,
        config: config.cloned(),
        folder,
    }
}

fn built(answer: CompileAnswer) -> Result<Built> {
    match answer {
        CompileAnswer::Built { config, hash, steps, library, trace } => Ok(Built { library, hash, steps, config, trace }),
        other => Err(unexpected(Ok(other))),
    }
}

/// One kernel as a program, and which of its tensors is the output. Data are seeded by tensor, the output is NaN.
pub fn program(task: &Task, library: &Path) -> (Program, usize) {
    let parameters = task.nest.parameters();
    let slot = |&t: &usize| {
        let tensor = &task.nest.tensors[t];
        let fill = if tensor.role == Role::Output { Fill::Nan } else { Fill::Random(tensor_seed(t)) };
        Slot { shape: tensor.shape.clone(), fill }
    };
    let output = parameters.iter().position(|&t| t == task.nest.output()).unwrap_or_default();
    let steps = vec![Step { library: library.to_path_buf(), arguments: (0..parameters.len()).collect() }];
    (Program { tensors: parameters.iter().map(slot).collect(), steps }, output)
}

impl Runner for LocalRunner {
    fn spaces(&mut self, task: &Task) -> Result<Vec<Space>> {
        let request = CompileRequest::Spaces { nest: task.nest.clone(), target: task.target.clone(), n_threads: task.n_threads };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Spaces(spaces)) => Ok(spaces),
            other => Err(unexpected(other)),
        }
    }

    fn probe(&mut self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
        let (nest, target) = (task.nest.clone(), task.target.clone());
        match self.compiler(&CompileRequest::Probe { nest, target, n_threads: task.n_threads, proposals: proposals.to_vec() })? {
            Ok(CompileAnswer::Probed(answers)) => Ok(answers),
            // the worker died on one of them: ask one by one, so that only that one fails
            Err(failure) if proposals.len() == 1 => Ok(vec![Err(failure)]),
            Err(_) => {
                let mut answers = Vec::new();
                for proposal in proposals {
                    answers.extend(self.probe(task, std::slice::from_ref(proposal))?);
                }
                Ok(answers)
            }
            other => Err(unexpected(other)),
        }
    }

    fn measure(
        &mut self,
        task: &Task,
        candidates: &[Candidate],
        effort: &Effort,
        known: &mut dyn FnMut(Measurement) -> bool,
    ) -> Result<()> {
        let reference = self.reference(task)?;
        let builds = self.build_all(task, candidates)?;
        for (candidate, build) in candidates.iter().zip(builds) {
            let Some(build) = build else { break };
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            let mut measurement = Measurement {
                config: candidate.config.clone(),
                hash: candidate.hash,
                result: Ok(Samples(vec![])),
                steps: Default::default(),
                library: None,
            };
            measurement.result = match (build, &reference) {
                (Err(failure), _) => Err(failure),
                (Ok(_), Err(failure)) => Err(failure.clone()),
                (Ok(built), Ok(expected)) => {
                    let start = Instant::now();
                    let (program, output) = program(task, &built.library);
                    let expected = vec![(output, Some(expected.clone()))];
                    let request = MeasureRequest { program, expected, tolerance: TOLERANCE, save: vec![], effort: Some(*effort) };
                    let result = self.run(&request, task.n_threads, self.limits.run_secs)?;
                    measurement.steps = built.steps;
                    measurement.steps.run_secs = start.elapsed().as_secs_f64();
                    measurement.library = Some(built.library);
                    result.map(|(samples, _)| samples)
                }
            };
            if !known(measurement) {
                break;
            }
        }
        Ok(())
    }
}
