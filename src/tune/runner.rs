//! Who builds and measures: a trait, and the real thing on this machine with child processes.

use super::config::{Candidate, Computation, Config, Effort, Failure, Measurement, Module, Parameter, Proposal, Samples, Space, Task};
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
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Builds and measures configs. A candidate's fault is a [`Failure`] inside; an `Err` is the caller's problem. One thread proposes,
/// probes and prepares while another measures.
pub trait Runner: Sync {
    /// The design spaces of a task.
    fn spaces(&self, task: &Task) -> Result<Vec<Space>>;
    /// Which proposals can be scheduled and as which programs; cheap, builds nothing. One answer per proposal.
    fn probe(&self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>>;
    /// Whether one batch may be proposed and built while another is measured. Where not, they take turns.
    fn has_room(&self, _task: &Task) -> bool {
        true
    }
    /// Builds what [`Runner::measure`] gets later.
    fn prepare(&self, _task: &Task, _candidates: &[Candidate]) -> Result<()> {
        Ok(())
    }
    /// Builds what is not built yet, then measures one after the other. `known` receives each result as soon as it is there and says
    /// whether to go on.
    fn measure(&self, task: &Task, candidates: &[Candidate], effort: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()>;
}

/// Time limits and size of a [`LocalRunner`].
#[derive(Clone, Debug)]
pub struct Limits {
    pub n_compilers: usize,
    /// For one build or one round of probes, at most.
    pub build_secs: f64,
    /// For loading, verifying and timing one kernel, at most.
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
    program: Option<PathBuf>,
    compilers: Vec<Mutex<Option<Child>>>,
    measurer: Mutex<Option<(usize, Child)>>,
    work: TempDir,
    n_folders: AtomicUsize,
    /// By task.
    references: Mutex<HashMap<u64, Result<Reference, Failure>>>,
    /// Built and not measured yet, by task and program.
    prepared: Mutex<HashMap<(u64, u64), Result<Built, Failure>>>,
    gate: Gate,
    stop: Arc<AtomicBool>,
}

/// Where compile workers wait while a batch is measured, and a batch until they have done what they began.
#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    measuring: bool,
    n_inside: usize,
}

impl Gate {
    fn enter(&self) -> Inside<'_> {
        let state = self.changed.wait_while(lock(&self.state), |state| state.measuring);
        state.unwrap_or_else(|e| e.into_inner()).n_inside += 1;
        Inside(self)
    }

    fn close(&self) -> Closed<'_> {
        let mut state = lock(&self.state);
        state.measuring = true;
        drop(self.changed.wait_while(state, |state| state.n_inside > 0));
        Closed(self)
    }
}

/// A build of a worker that must not run beside a measurement.
struct Inside<'a>(&'a Gate);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).n_inside -= 1;
        self.0.changed.notify_all();
    }
}

/// Opens its gate when it is dropped.
struct Closed<'a>(&'a Gate);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        lock(&self.0.state).measuring = false;
        self.0.changed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
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

/// The unscheduled kernel as a program, and what its outputs must be, as files.
#[derive(Clone)]
struct Reference {
    program: Program,
    expected: Vec<(usize, PathBuf)>,
    /// What it took to build, and to load and run once.
    build_secs: f64,
    run_secs: f64,
}

/// A candidate is given up after so many times what the unscheduled kernel took, but not before so many seconds.
const PATIENCE: f64 = 20.0;
const LEAST_LIMIT_SECS: f64 = 5.0;
/// Calls of a kernel that is verified and timed with care; the unscheduled one is called once.
const N_CALLS: f64 = 16.0;

/// A run is given up after the time of so many hopeless calls, of which it makes four, and so many times what loading and verifying take.
const HOPELESS_CALLS: f64 = 400.0;
const LOADS: f64 = 4.0;
const LEAST_RUN_SECS: f64 = 2.0;
/// A worker that starts has so much longer for its first answer, since it loads its libraries; the compiler's are large.
const START_SECS: f64 = 5.0;
const COMPILER_START_SECS: f64 = 10.0;

/// Seconds after which a run is given up, by what loading and verifying take and by the call that is hopeless already.
pub fn run_limit(plain_run_secs: f64, hopeless_secs: f64, most_secs: f64) -> f64 {
    let by_plain = limit(N_CALLS * plain_run_secs, most_secs);
    (LOADS * plain_run_secs + HOPELESS_CALLS * hopeless_secs).max(LEAST_RUN_SECS).min(by_plain)
}

/// Seconds after which a candidate is given up, by what the unscheduled kernel took: those that go on are never good, as where a
/// block is computed again and again inside of another, and a search would wait for them as long as for all others.
pub fn limit(plain_secs: f64, most_secs: f64) -> f64 {
    (PATIENCE * plain_secs).max(LEAST_LIMIT_SECS).min(most_secs)
}

/// Of one build: built, failed, or the caller's fault.
type Outcome = Result<Result<Built, Failure>>;

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
        let compilers = (0..limits.n_compilers.max(1)).map(|_| Mutex::default()).collect();
        Ok(LocalRunner {
            limits,
            program: None,
            compilers,
            measurer: Mutex::default(),
            work,
            n_folders: AtomicUsize::new(0),
            references: Mutex::default(),
            prepared: Mutex::default(),
            gate: Gate::default(),
            stop: Arc::new(AtomicBool::new(false)),
        })
    }

    /// Runs another program's workers, run as `PROGRAM worker ROLE`.
    pub fn with_program(mut self, program: impl Into<PathBuf>) -> LocalRunner {
        self.program = Some(program.into());
        self
    }

    /// Once this flag is set, builds and measurements end after the candidate that is under way.
    pub fn stop_with(&mut self, stop: Arc<AtomicBool>) {
        self.stop = stop;
    }

    /// Process id of the measuring worker, when it runs.
    pub fn measurer_pid(&self) -> Option<u32> {
        lock(&self.measurer).as_ref().map(|(_, child)| child.pid())
    }

    /// Compile workers that may be busy beside a measurement: as many as the kernel leaves processors. On two cores one of them made 20
    /// timings of each of three tasks (convolution, depthwise, max-pool; one thread) 1.002, 0.999 and 1.001 times as long in the median;
    /// eight in ten ratios lay within 0.99-1.05, 0.99-1.01 and 0.99-1.01, those of quiet timings within 0.98-1.07, 0.98-1.03 and 0.99-1.01.
    fn n_beside(&self, task: &Task) -> usize {
        std::thread::available_parallelism().map_or(1, |n| n.get()).saturating_sub(task.n_threads.max(1))
    }

    /// A fresh private folder, removed with the runner.
    fn folder(&self) -> Result<PathBuf> {
        let path = self.work.path().join(self.n_folders.fetch_add(1, Ordering::Relaxed).to_string());
        std::fs::create_dir(&path).context(|| format!("creating {}", path.display()))?;
        Ok(path)
    }

    fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        slot: &mut Option<Child>,
        role: &str,
        env: &[(String, String)],
        request: &Q,
        secs: f64,
    ) -> Result<Result<A, Fault>> {
        let mut child = match (slot.take(), &self.program) {
            (Some(child), _) => child,
            (None, Some(program)) => Child::spawn_of(program, role, env)?,
            (None, None) => Child::spawn(role, env)?,
        };
        let answer = child.ask(request, Duration::from_secs_f64(secs));
        if answer.is_ok() {
            *slot = Some(child);
        }
        Ok(answer)
    }

    /// Asks one compile worker, whose turn it may not be yet.
    fn compile(&self, worker: &Mutex<Option<Child>>, request: &CompileRequest, secs: f64) -> Result<Result<CompileAnswer, Failure>> {
        let mut slot = lock(worker);
        let secs = if slot.is_none() { secs.max((secs + COMPILER_START_SECS).min(self.limits.build_secs)) } else { secs };
        let mut ask = |request: &CompileRequest| self.ask::<_, CompileAnswer>(&mut slot, "compile", &[], request, secs);
        match ask(request)? {
            Ok(CompileAnswer::Failed(failure)) => Ok(Err(failure)),
            Ok(CompileAnswer::Refused(message)) => Err(Error::Invalid(message)),
            Ok(answer) => Ok(Ok(answer)),
            Err(Fault::Exited { stderr, .. }) if stderr.contains("No space left") => Err(Error::Invalid(format!(
                "the disk is full: {}; free some space, or set TMPDIR to a folder that has some; what was measured is kept",
                std::env::temp_dir().display()
            ))),
            Err(Fault::Exited { code, stderr }) => {
                // a worker that lacks its libraries ends whatever it is asked; otherwise it was this request
                let simple = CompileRequest::Target { target: "llvm".into(), n_threads: 1 };
                match ask(&simple)? {
                    Ok(_) => Ok(Err(Failure::Lost(format!("the compile worker ended with code {code}: {stderr}")))),
                    Err(_) => Err(Error::Library(format!("the compile worker ended with code {code}: {stderr}; run scripts/setup"))),
                }
            }
            Err(fault) => Ok(Err(fault.into())),
        }
    }

    fn compiler(&self, request: &CompileRequest) -> Result<Result<CompileAnswer, Failure>> {
        self.compile(&self.compilers[0], request, self.limits.build_secs)
    }

    /// The target as full JSON: the host named by LLVM, defaults filled in.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a target that TVM does not know.
    pub fn target(&self, target: &str, n_threads: usize) -> Result<String> {
        match self.compiler(&CompileRequest::Target { target: target.into(), n_threads })? {
            Ok(CompileAnswer::Target(json)) => Ok(json),
            other => Err(unexpected(other)),
        }
    }

    /// The modules in a file, in its order, or why one cannot be tuned: the `database_workload.json` of a MetaSchedule database, or one
    /// module as TVM's JSON (`tvm.ir.save_json`).
    ///
    /// # Errors
    /// The file cannot be read, or is neither.
    pub fn modules(&self, file: &Path) -> Result<Vec<Result<Module, String>>> {
        match self.compiler(&CompileRequest::Modules { file: file.to_path_buf() })? {
            Ok(CompileAnswer::Modules(modules)) => Ok(modules),
            other => Err(unexpected(other)),
        }
    }

    /// MetaSchedule's features of configs, 164 numbers for each store (2-15 ms per config, most of it the replay).
    ///
    /// # Errors
    /// The task's fault, as of [`LocalRunner::build`].
    pub fn features(&self, task: &Task, configs: &[Config]) -> Result<Vec<Result<Vec<Vec<f64>>, Failure>>> {
        match self.compiler(&CompileRequest::Features { task: task.clone(), configs: configs.to_vec() })? {
            Ok(CompileAnswer::Features(rows)) => Ok(rows),
            other => Err(unexpected(other)),
        }
    }

    /// Compiles one config, or the unscheduled nest, into a private folder that lasts as long as the runner.
    ///
    /// # Errors
    /// The task's fault: a bad target, a full disk.
    pub fn build(&self, task: &Task, config: Option<&Config>) -> Result<Result<Built, Failure>> {
        let folder = self.folder()?;
        let request = build_request(task, config, folder);
        self.compiler(&request).and_then(built)
    }

    /// Runs a program of kernels in the measuring worker.
    ///
    /// # Errors
    /// The request's fault: missing files, tensors that do not fit.
    pub fn run(&self, request: &MeasureRequest, n_threads: usize, limit_secs: f64) -> Result<Result<(Samples, f64), Failure>> {
        Ok(self.run_timed(request, n_threads, limit_secs)?.0)
    }

    /// And the seconds that it took, without those of waiting for its turn.
    #[allow(clippy::type_complexity)]
    fn run_timed(&self, request: &MeasureRequest, n_threads: usize, limit_secs: f64) -> Result<(Result<(Samples, f64), Failure>, f64)> {
        let env = [("TVM_NUM_THREADS".to_string(), n_threads.max(1).to_string())];
        let mut measurer = lock(&self.measurer);
        let mut slot = match measurer.take() {
            Some((threads, child)) if threads == n_threads => Some(child),
            _ => None,
        };
        let limit_secs = if slot.is_none() { limit_secs.max((limit_secs + START_SECS).min(self.limits.run_secs)) } else { limit_secs };
        let start = Instant::now();
        let answer = self.ask::<_, MeasureAnswer>(&mut slot, "measure", &env, request, limit_secs)?;
        let secs = start.elapsed().as_secs_f64();
        *measurer = slot.map(|child| (n_threads, child));
        match answer {
            Ok(MeasureAnswer::Measured { samples, max_error }) => Ok((Ok((Samples(samples), max_error)), secs)),
            Ok(MeasureAnswer::Failed(failure)) => Ok((Err(failure), secs)),
            Ok(MeasureAnswer::Refused(message)) => Err(Error::Invalid(message)),
            Err(fault) => Ok((Err(fault.into()), secs)),
        }
    }

    /// Times a program whose kernels were verified before; `outputs` must come out finite.
    ///
    /// # Errors
    /// As [`LocalRunner::run`].
    pub fn time_program(
        &self,
        program: &Program,
        outputs: &[usize],
        n_threads: usize,
        effort: &Effort,
    ) -> Result<Result<Samples, Failure>> {
        let expected = outputs.iter().map(|&t| (t, None)).collect();
        let request = MeasureRequest { program: program.clone(), expected, tolerance: TOLERANCE, save: vec![], effort: Some(*effort) };
        Ok(self.run(&request, n_threads, self.limits.run_secs)?.map(|(samples, _)| samples))
    }

    /// The expected outputs of a task: its unscheduled kernel's, where there is a nest checked against the interpreter once.
    fn reference(&self, task: &Task) -> Result<Result<Reference, Failure>> {
        let key = key(task)?;
        if let Some(known) = lock(&self.references).get(&key) {
            return Ok(known.clone());
        }
        let made = self.make_reference(task)?;
        lock(&self.references).insert(key, made.clone());
        Ok(made)
    }

    fn make_reference(&self, task: &Task) -> Result<Result<Reference, Failure>> {
        let start = Instant::now();
        let plain = match self.build(task, None)? {
            Ok(built) => built,
            Err(failure) => return Ok(Err(failure)),
        };
        let build_secs = start.elapsed().as_secs_f64();
        let folder = self.folder()?;
        let (program, outputs) = program(task, &plain.library);
        let expected: Vec<(usize, PathBuf)> = outputs.into_iter().map(|t| (t, folder.join(format!("expected{t}.f32")))).collect();
        let mut request = MeasureRequest {
            program,
            expected: expected.iter().map(|(t, _)| (*t, None)).collect(),
            tolerance: TOLERANCE,
            save: expected.clone(),
            effort: None,
        };
        let (mut ran, run_secs) = self.run_timed(&request, task.n_threads, self.limits.reference_secs)?;
        if matches!((&ran, &task.computation), (Err(Failure::NotFinite), Computation::Module(_))) {
            // roots and logarithms want positive data
            for slot in &mut request.program.tensors {
                if let Fill::Random(seed) = slot.fill {
                    slot.fill = Fill::Positive(seed);
                }
            }
            ran = self.run(&request, task.n_threads, self.limits.reference_secs)?;
        }
        if let Err(failure) = ran {
            return Ok(Err(failure));
        }
        if let (Computation::Nest(nest), Some((_, file))) = (&task.computation, expected.first()) {
            let max_error = check(nest, &read_values(file)?)?;
            if max_error > TOLERANCE {
                return Ok(Err(Failure::WrongResult { max_error }));
            }
        }
        Ok(Ok(Reference { program: request.program, expected, build_secs, run_secs }))
    }

    /// Builds in all compile workers, in fewer while a batch is measured. `None` where the stop flag came first.
    fn build_all(&self, task: &Task, candidates: &[Candidate]) -> Result<Vec<Option<Result<Built, Failure>>>> {
        if candidates.is_empty() || self.stop.load(Ordering::Relaxed) {
            return Ok(candidates.iter().map(|_| None).collect());
        }
        let folders = candidates.iter().map(|_| self.folder()).collect::<Result<Vec<_>>>()?;
        let limit_secs = limit(self.reference(task)?.map_or(f64::MAX, |r| r.build_secs), self.limits.build_secs);
        let next = AtomicUsize::new(0);
        let results: Mutex<Vec<Option<Outcome>>> = Mutex::new((0..candidates.len()).map(|_| None).collect());
        let n_beside = self.n_beside(task);
        let work = |i: usize| {
            while !self.stop.load(Ordering::Relaxed) {
                let _inside = (i >= n_beside).then(|| self.gate.enter());
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(candidate) = candidates.get(at) else { break };
                let request = build_request(task, Some(&candidate.config), folders[at].clone());
                let done = match &candidate.built {
                    Some(library) if library.exists() => Ok(Ok(Built {
                        library: library.clone(),
                        hash: candidate.hash,
                        steps: Default::default(),
                        config: None,
                        trace: serde_json::Value::Null,
                    })),
                    _ => self.compile(&self.compilers[i], &request, limit_secs).and_then(built),
                };
                lock(&results)[at] = Some(done);
            }
        };
        std::thread::scope(|scope| (0..self.compilers.len()).for_each(|i| drop(scope.spawn(move || work(i)))));
        let results = std::mem::take(&mut *lock(&results));
        results.into_iter().map(Option::transpose).collect()
    }

    /// Appends a measured config to the MetaSchedule database in `folder` (the two files that stock TVM reads).
    ///
    /// # Errors
    /// The files cannot be written, or the config cannot be replayed.
    pub fn record(&self, task: &Task, config: &Config, samples: &Samples, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).context(|| format!("creating {}", folder.display()))?;
        // where the kernel needs all processors nothing is written while it is timed
        let _inside = (self.n_beside(task) == 0).then(|| self.gate.enter());
        let request =
            CompileRequest::Record { task: task.clone(), config: config.clone(), samples: samples.0.clone(), folder: folder.to_path_buf() };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Recorded) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// The programs of a task in the MetaSchedule database in `folder`, stock TVM's as well as ours, the fastest `most` with their recorded
    /// seconds; and how many of the records seen for that are of no design space of the task.
    ///
    /// # Errors
    /// The files are not a database.
    pub fn records(&self, task: &Task, folder: &Path, most: usize) -> Result<(Vec<(Candidate, f64)>, usize)> {
        let request = CompileRequest::Recorded { task: task.clone(), folder: folder.to_path_buf(), most };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Records { known, n_foreign }) => Ok((known, n_foreign)),
            other => Err(unexpected(other)),
        }
    }
}

fn unexpected(answer: Result<CompileAnswer, Failure>) -> Error {
    match answer {
        Err(failure) => Error::Invalid(format!("the compile worker could not do it: {failure}; try again, or report it with this message")),
        Ok(_) => Error::Invalid("the compile worker answered another question: are two versions of syntune mixed?".into()),
    }
}

fn build_request(task: &Task, config: Option<&Config>, folder: PathBuf) -> CompileRequest {
    CompileRequest::Build { task: task.clone(), config: config.cloned(), folder }
}

fn built(answer: Result<CompileAnswer, Failure>) -> Outcome {
    match answer {
        Ok(CompileAnswer::Built { config, hash, steps, library, trace }) => Ok(Ok(Built { library, hash, steps, config, trace })),
        Err(failure) => Ok(Err(failure)),
        other => Err(unexpected(other)),
    }
}

/// One kernel as a program, and which of its tensors are outputs. Data are seeded by tensor, outputs are NaN.
pub fn program(task: &Task, library: &Path) -> (Program, Vec<usize>) {
    let slots: Vec<Slot> = match &task.computation {
        Computation::Nest(nest) => {
            let slot = |t: usize| {
                let fill = if nest.tensors[t].role == Role::Output { Fill::Nan } else { Fill::Random(tensor_seed(t)) };
                Slot { shape: nest.tensors[t].shape.clone(), fill }
            };
            nest.parameters().into_iter().map(slot).collect()
        }
        Computation::Module(module) => {
            let slot = |(t, parameter): (usize, &Parameter)| {
                let fill = if parameter.is_output { Fill::Nan } else { Fill::Random(tensor_seed(t)) };
                Slot { shape: parameter.shape.clone(), fill }
            };
            module.parameters.iter().enumerate().map(slot).collect()
        }
    };
    let outputs = (0..slots.len()).filter(|&t| slots[t].fill == Fill::Nan).collect();
    let steps = vec![Step { library: library.to_path_buf(), arguments: (0..slots.len()).collect() }];
    (Program { tensors: slots, steps }, outputs)
}

/// What tells tasks apart.
fn key(task: &Task) -> Result<u64> {
    let text = serde_json::to_string(task).map_err(|e| Error::Invalid(format!("a task that cannot be written: {e}")))?;
    Ok(stable_hash(text.as_bytes()))
}

impl Runner for LocalRunner {
    fn spaces(&self, task: &Task) -> Result<Vec<Space>> {
        let request = CompileRequest::Spaces { task: task.clone() };
        match self.compiler(&request)? {
            Ok(CompileAnswer::Spaces(spaces)) => Ok(spaces),
            other => Err(unexpected(other)),
        }
    }

    fn probe(&self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
        match self.compiler(&CompileRequest::Probe { task: task.clone(), proposals: proposals.to_vec() })? {
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

    fn has_room(&self, task: &Task) -> bool {
        self.n_beside(task) > 0
    }

    fn prepare(&self, task: &Task, candidates: &[Candidate]) -> Result<()> {
        let key = key(task)?;
        let builds = self.build_all(task, candidates)?;
        let done = candidates.iter().zip(builds).filter_map(|(c, build)| Some(((key, c.hash), build?)));
        lock(&self.prepared).extend(done);
        Ok(())
    }

    fn measure(&self, task: &Task, candidates: &[Candidate], effort: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()> {
        let reference = self.reference(task)?;
        let key = key(task)?;
        let mut builds: Vec<Option<Result<Built, Failure>>> =
            candidates.iter().map(|c| lock(&self.prepared).remove(&(key, c.hash))).collect();
        let missing: Vec<usize> = (0..builds.len()).filter(|&i| builds[i].is_none()).collect();
        let unbuilt: Vec<Candidate> = missing.iter().map(|&i| candidates[i].clone()).collect();
        for (i, build) in missing.into_iter().zip(self.build_all(task, &unbuilt)?) {
            builds[i] = build;
        }
        let _closed = self.gate.close();
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
                (Ok(built), Ok(reference)) => {
                    let mut program = reference.program.clone();
                    program.steps.iter_mut().for_each(|step| step.library = built.library.clone());
                    let expected = reference.expected.iter().map(|(t, file)| (*t, Some(file.clone()))).collect();
                    let request = MeasureRequest { program, expected, tolerance: TOLERANCE, save: vec![], effort: Some(*effort) };
                    let limit_secs = run_limit(reference.run_secs, effort.hopeless_secs, self.limits.run_secs);
                    let (result, run_secs) = self.run_timed(&request, task.n_threads, limit_secs)?;
                    measurement.steps = built.steps;
                    measurement.steps.run_secs = run_secs;
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
