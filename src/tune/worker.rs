//! The worker side: compiling with TVM's compiler library, measuring with its runtime alone.

use super::config::{Candidate, Computation, Config, Decision, Failure, Knob, Module, Origin, Parameter, Proposal, Space, Steps, Task};
use super::evolutionary::Scores;
use super::measure::{read_values, relative_error, time, values, write_values};
use super::protocol::{CompileAnswer, CompileRequest, Fill, MeasureAnswer, MeasureRequest, Population, Program};
use crate::child::serve;
use crate::error::{Error, Result};
use crate::lower::te;
use crate::tvm::evolve::{Asked, Evolution, POPULATION, Settings};
use crate::tvm::features::Features;
use crate::tvm::schedule::{Choice, Database, Record, SamplingKind, Scheduled, Workload, trace_json};
use crate::tvm::{self, Buffer, Kernel, build, features, module, structural_hash, target};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};
use tvm_ffi::Any;

/// Workloads kept ready: more than the distinct kernels of a model, among which one budget goes to and fro.
const N_KEPT: usize = 64;

/// `syntune worker compile`: serves [`CompileRequest`]s until its input ends.
///
/// # Errors
/// TVM cannot be loaded, or the pipes break.
pub fn compile() -> Result<()> {
    tvm::load_compiler()?;
    tvm::reset_signals();
    let mut workloads = Workloads::default();
    serve(|request: CompileRequest, answer| answer(&workloads.serve(request)))
}

#[derive(Default)]
struct Workloads {
    ready: HashMap<String, Workload>,
    search: Option<(Evolution, Arc<Mutex<Scores>>)>,
}

impl Workloads {
    fn serve(&mut self, request: CompileRequest) -> CompileAnswer {
        match self.answer(request) {
            Ok(answer) => answer,
            Err(Error::Invalid(message)) => CompileAnswer::Refused(message),
            Err(e @ Error::Io { .. }) => CompileAnswer::Refused(e.to_string()),
            Err(e) => CompileAnswer::Failed(Failure::DoesNotBuild(e.to_string())),
        }
    }

    fn answer(&mut self, request: CompileRequest) -> Result<CompileAnswer> {
        Ok(match request {
            CompileRequest::Target { target, n_threads } => CompileAnswer::Target(target::parse(&target, n_threads)?.json),
            CompileRequest::Modules { file } => {
                let read = |found: Result<module::Described>| found.map(described).map_err(|e| e.to_string());
                CompileAnswer::Modules(module::read(&file)?.into_iter().map(read).collect())
            }
            CompileRequest::Spaces { task } => {
                let workload = self.of(&task)?;
                CompileAnswer::Spaces((0..workload.n_designs()).map(|d| space(workload, d)).collect())
            }
            CompileRequest::Probe { task, proposals } => {
                let workload = self.of(&task)?;
                CompileAnswer::Probed(proposals.iter().map(|p| probe(workload, p)).collect())
            }
            CompileRequest::Features { task, configs } => {
                let workload = self.of(&task)?;
                let rows = |config: &Config| features::per_store(workload, &replay(workload, config)?);
                let rows = |config: &Config| rows(config).map_err(|e| Failure::DoesNotBuild(e.to_string()));
                CompileAnswer::Features(configs.iter().map(rows).collect())
            }
            CompileRequest::Build { task, config: None, folder } => {
                let target = target::parse(&task.target, task.n_threads)?;
                let module = module_of(&task.computation)?;
                let (library, times) = build::build_library(&module, &target, &folder)?;
                let hash = structural_hash(&module)?;
                CompileAnswer::Built { config: None, hash, steps: steps(&times), library, trace: serde_json::Value::Null }
            }
            CompileRequest::Build { task, config: Some(config), folder } => {
                let workload = self.of(&task)?;
                let scheduled = replay(workload, &config)?;
                let (library, times) = build::build_library(&scheduled.module, &workload.target, &folder)?;
                let steps = Steps { replay_secs: scheduled.replay_secs, postproc_secs: scheduled.postproc_secs, ..steps(&times) };
                let actual = Config { space: config.space, decisions: decisions(workload, config.space, &scheduled.choices) };
                let (hash, trace) = (structural_hash(&scheduled.module)?, trace_json(&scheduled.trace)?);
                CompileAnswer::Built { config: Some(actual), hash, steps, library, trace }
            }
            CompileRequest::Record { task, config, samples, folder } => {
                let workload = self.of(&task)?;
                let scheduled = replay(workload, &config)?;
                Database::open(&folder)?.record(workload, &scheduled, &samples)?;
                CompileAnswer::Recorded
            }
            CompileRequest::Recorded { task, folder, most } => {
                let workload = self.of(&task)?;
                let (records, n_foreign) = Database::open(&folder)?.records(workload, most)?;
                let candidate = |r: Record| {
                    let config = Config { space: r.design, decisions: decisions(workload, r.design, &r.choices) };
                    (Candidate { config, hash: r.hash, built: None }, r.secs)
                };
                CompileAnswer::Records { known: records.into_iter().map(candidate).collect(), n_foreign }
            }
            CompileRequest::Evolve { task, population, told } => {
                if self.search.is_none() {
                    self.search = Some(start_search(&task, &population)?);
                }
                let (search, learner) = self.search.as_mut().ok_or_else(|| Error::Invalid("no search: start again".into()))?;
                let mut learnt = Vec::new();
                for (config, samples) in told {
                    learnt.push((search.tell(config.space, &choices(&config), &samples)?, samples));
                }
                learner.lock().unwrap_or_else(|e| e.into_inner()).learn(&learnt);
                let asked = search.ask()?;
                let config = |a: &Asked| Config { space: a.design, decisions: decisions(search.workload(), a.design, &a.choices) };
                CompileAnswer::Evolved(asked.iter().map(config).collect())
            }
        })
    }

    fn of(&mut self, task: &Task) -> Result<&Workload> {
        let key = serde_json::to_string(task).map_err(|e| Error::Invalid(format!("a task that cannot be written: {e}")))?;
        if !self.ready.contains_key(&key) {
            if self.ready.len() >= N_KEPT {
                self.ready.clear();
            }
            let workload = workload(task)?;
            self.ready.insert(key.clone(), workload);
        }
        Ok(&self.ready[&key])
    }
}

fn described(module: module::Described) -> Module {
    let parameters = module.parameters.into_iter().map(|(shape, is_output)| Parameter { shape, is_output }).collect();
    Module { json: module.json, parameters, n_flops: module.n_flops }
}

fn steps(times: &build::BuildTimes) -> Steps {
    Steps { lower_secs: times.lower_secs, llvm_secs: times.llvm_secs, link_secs: times.link_secs, ..Steps::default() }
}

fn space(workload: &Workload, design: usize) -> Space {
    let knob = |kind: &SamplingKind| match *kind {
        SamplingKind::PerfectTile { extent, n, max_innermost } => Knob::PerfectTile { extent, n, max_innermost },
        SamplingKind::Categorical { n } => Knob::Categorical { n },
        SamplingKind::ComputeLocation => Knob::ComputeLocation,
    };
    let origin = if workload.is_ours(design) { Origin::Tiles } else { Origin::Rules };
    Space { origin, knobs: workload.samplings(design).iter().map(|s| knob(&s.kind)).collect() }
}

fn decisions(workload: &Workload, design: usize, choices: &[Choice]) -> Vec<Decision> {
    let decision = |(kind, choice): (&SamplingKind, &Choice)| match (kind, choice) {
        (_, Choice::Factors(factors)) => Decision::PerfectTile(factors.clone()),
        (SamplingKind::ComputeLocation, Choice::Number(n)) => Decision::ComputeLocation(*n),
        (_, Choice::Number(n)) => Decision::Categorical(*n),
    };
    workload.samplings(design).iter().map(|s| &s.kind).zip(choices).map(decision).collect()
}

fn choices(config: &Config) -> Vec<Choice> {
    let choice = |d: &Decision| match d {
        Decision::PerfectTile(factors) => Choice::Factors(factors.clone()),
        Decision::Categorical(n) | Decision::ComputeLocation(n) => Choice::Number(*n),
    };
    config.decisions.iter().map(choice).collect()
}

fn replay(workload: &Workload, config: &Config) -> Result<Scheduled> {
    workload.schedule(config.space, Some(&choices(config)), 1)
}

fn module_of(computation: &Computation) -> Result<Any> {
    match computation {
        Computation::Nest(nest) => te::module(nest),
        Computation::Module(module) => tvm::ffi::from_json(&module.json),
    }
}

fn workload(task: &Task) -> Result<Workload> {
    Workload::new(module_of(&task.computation)?, target::parse(&task.target, task.n_threads)?)
}

fn start_search(task: &Task, population: &Population) -> Result<(Evolution, Arc<Mutex<Scores>>)> {
    let workload = workload(task)?;
    let learner = Arc::new(Mutex::new(Scores::new(population.warm_up, population.seed)));
    let scores = learner.clone();
    let settings = Settings {
        with_tiles: population.with_tiles,
        // the tuner ends the search
        n_trials: i32::MAX as usize,
        population: POPULATION,
        per_round: population.per_round,
        // kernels are timed meanwhile
        n_threads: std::thread::available_parallelism().map_or(1, |n| n.get()).saturating_sub(task.n_threads).max(1),
        seed: population.seed,
    };
    let predict = move |programs: &[Features]| scores.lock().unwrap_or_else(|e| e.into_inner()).score(programs);
    Ok((Evolution::new(workload, settings, Box::new(predict))?, learner))
}

fn probe(workload: &Workload, proposal: &Proposal) -> Result<Candidate, Failure> {
    let attempt = || {
        let (space, scheduled) = match proposal {
            Proposal::Exact(config) => (config.space, replay(workload, config)?),
            Proposal::Random { space, seed } => (*space, workload.schedule(*space, None, *seed)?),
        };
        Ok(Candidate {
            config: Config { space, decisions: decisions(workload, space, &scheduled.choices) },
            hash: structural_hash(&scheduled.module)?,
            built: None,
        })
    };
    attempt().map_err(|e: Error| Failure::DoesNotBuild(e.to_string()))
}

/// `syntune worker measure`: serves [`MeasureRequest`]s until its input ends. Threads: `TVM_NUM_THREADS`.
///
/// # Errors
/// TVM's runtime cannot be loaded, or the pipes break.
pub fn measure() -> Result<()> {
    tvm::load_runtime()?;
    tvm::reset_signals();
    serve(|request: MeasureRequest, answer| {
        answer(&match run(&request) {
            Ok(answer) => answer,
            Err(e) => MeasureAnswer::Refused(e.to_string()),
        })
    })
}

fn run(request: &MeasureRequest) -> Result<MeasureAnswer> {
    let (kernels, buffers) = open(&request.program)?;
    let calls: Vec<_> = kernels.iter().zip(&buffers.1).map(|(kernel, arguments)| kernel.bind(arguments)).collect();
    let pass = || calls.iter().try_for_each(|call| call());
    pass()?;
    let mut max_error = 0.0f64;
    for (tensor, file) in &request.expected {
        let found = buffers.0[*tensor].slice()?;
        if found.iter().any(|v| !v.is_finite()) {
            return Ok(MeasureAnswer::Failed(Failure::NotFinite));
        }
        if let Some(file) = file {
            max_error = max_error.max(relative_error(found, &read_values(file)?));
        }
    }
    if max_error > request.tolerance {
        return Ok(MeasureAnswer::Failed(Failure::WrongResult { max_error }));
    }
    for (tensor, file) in &request.save {
        write_values(file, buffers.0[*tensor].slice()?)?;
    }
    let samples = match &request.effort {
        Some(effort) => time(effort, pass)?,
        None => Vec::new(),
    };
    Ok(MeasureAnswer::Measured { samples, max_error })
}

type Buffers = (Vec<Buffer>, Vec<Vec<Buffer>>);

fn open(program: &Program) -> Result<(Vec<Kernel>, Buffers)> {
    let mut tensors = Vec::new();
    for slot in &program.tensors {
        let n = slot.shape.iter().product::<i64>() as usize;
        let values = match &slot.fill {
            Fill::Random(seed) => values(n, *seed),
            Fill::Positive(seed) => values(n, *seed).into_iter().map(f32::abs).collect(),
            Fill::Nan => vec![f32::NAN; n],
            Fill::File(file) => read_values(file)?,
        };
        tensors.push(Buffer::new(&slot.shape, &values)?);
    }
    let mut opened: HashMap<&Path, Kernel> = HashMap::new();
    let mut kernels = Vec::new();
    let mut arguments = Vec::new();
    for step in &program.steps {
        if !opened.contains_key(step.library.as_path()) {
            opened.insert(&step.library, Kernel::open(&step.library)?);
        }
        kernels.push(opened[step.library.as_path()].clone());
        let of = |t: &usize| {
            tensors.get(*t).cloned().ok_or_else(|| Error::Invalid(format!("a step takes tensor {t}, the program has {}", tensors.len())))
        };
        arguments.push(step.arguments.iter().map(of).collect::<Result<Vec<_>>>()?);
    }
    Ok((kernels, (tensors, arguments)))
}
