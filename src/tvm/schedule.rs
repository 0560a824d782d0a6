//! Design spaces of a module: those that MetaSchedule's rules generate, replayed as traces, and our own (`sketch`); post-processing,
//! and MetaSchedule's JSON database.

use super::ffi::{NONE, array, cast, entries, field, func, integer, is_none, items, map, text};
use super::sketch;
use super::target::Target;
use crate::call;
use crate::error::{Error, Result};
use serde_json::Value;
use std::path::Path;
use tvm_ffi::{Any, Function};

/// Random schedules of our own that are tried until one shows which choices there are.
const MAX_DRAWS: u64 = 8;

/// A module for a target, with the design spaces that MetaSchedule's rules give it, and our own as the last.
pub struct Workload {
    pub module: Any,
    pub target: Target,
    designs: Vec<Design>,
    postprocs: Vec<Any>,
    // Rules and post-processors refer to it.
    _context: Any,
}

struct Design {
    /// The trace's, to be replayed with other choices; `None` for our own.
    instructions: Option<Any>,
    /// Our own for functions of rows.
    by_rows: bool,
    samplings: Vec<Sampling>,
}

/// One random choice of a trace.
pub struct Sampling {
    instruction: Any,
    pub kind: SamplingKind,
    /// What the rule itself chose when the space was made.
    pub chosen: Choice,
}

#[derive(Clone, Debug, PartialEq)]
pub enum SamplingKind {
    /// A loop of `extent` split into `n` factors, the last at most `max_innermost`.
    PerfectTile { extent: i64, n: usize, max_innermost: i64 },
    /// One of `n` values.
    Categorical { n: i64 },
    /// Where a block is computed.
    ComputeLocation,
}

/// The value of a choice.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    Factors(Vec<i64>),
    Number(i64),
}

/// A schedule that went through MetaSchedule's post-processing.
pub struct Scheduled {
    pub schedule: Any,
    pub module: Any,
    pub trace: Any,
    pub choices: Vec<Choice>,
    pub replay_secs: f64,
    pub postproc_secs: f64,
}

fn name_of(instruction: &Any) -> Result<String> {
    let name: tvm_ffi::String = cast(field(&field(instruction, "kind")?, "name")?, "instruction name")?;
    Ok(name.as_str().to_string())
}

fn choice(decision: &Any) -> Result<Choice> {
    match decision.try_as::<i64>() {
        Some(number) => Ok(Choice::Number(number)),
        None => match items(decision) {
            Ok(parts) => Ok(Choice::Factors(parts.iter().map(integer).collect::<Result<_>>()?)),
            Err(_) => Ok(Choice::Number(integer(decision)?)),
        },
    }
}

fn sampling(trace: &Any, instruction: Any) -> Result<Option<Sampling>> {
    let name = name_of(&instruction)?;
    if !name.starts_with("Sample") {
        return Ok(None);
    }
    let decision = call!("s_tir.schedule.TraceGetDecision", *trace, instruction)?;
    if is_none(&decision) {
        return Ok(None);
    }
    let chosen = choice(&decision)?;
    let attributes = items(&field(&instruction, "attrs")?)?;
    let kind = match (name.as_str(), &chosen) {
        ("SamplePerfectTile", Choice::Factors(factors)) => {
            SamplingKind::PerfectTile { extent: factors.iter().product(), n: factors.len(), max_innermost: integer(&attributes[1])? }
        }
        ("SampleCategorical", Choice::Number(_)) => SamplingKind::Categorical { n: items(&attributes[0])?.len() as i64 },
        ("SampleComputeLocation", Choice::Number(_)) => SamplingKind::ComputeLocation,
        _ => return Ok(None),
    };
    Ok(Some(Sampling { instruction, kind, chosen }))
}

/// A schedule of the module, not yet changed.
pub fn fresh(module: &Any, seed: u64) -> Result<Any> {
    call!("s_tir.schedule.TracedSchedule", *module, tvm_seed(seed), 0i64, 2i64, true)
}

/// The choices of a design that a trace's samplings may stand for: the same, or, where the design is ours and the trace was
/// simplified, all values of those that no instruction refers to.
fn completed(design: &Design, theirs: &[Sampling]) -> Vec<Vec<Choice>> {
    let kinds = |samplings: &[Sampling]| samplings.iter().map(|s| s.kind.clone()).collect::<Vec<_>>();
    if kinds(&design.samplings) == kinds(theirs) {
        return vec![theirs.iter().map(|s| s.chosen.clone()).collect()];
    }
    let mut found = vec![vec![]];
    let mut given = theirs.iter();
    for sampling in &design.samplings {
        let values = match sampling.kind {
            SamplingKind::Categorical { n } if design.instructions.is_none() => (0..n).map(Choice::Number).collect(),
            _ => match given.next() {
                Some(g) if g.kind == sampling.kind => vec![g.chosen.clone()],
                _ => return vec![],
            },
        };
        let longer = |start: &Vec<Choice>| values.iter().map(|v| [&start[..], std::slice::from_ref(v)].concat()).collect::<Vec<_>>();
        found = found.iter().flat_map(longer).collect();
    }
    if given.next().is_some() { vec![] } else { found }
}

/// TVM's own seeds are below 2^31 and not zero.
fn tvm_seed(seed: u64) -> i64 {
    (seed % 0x7fff_fffe) as i64 + 1
}

/// What was done to a schedule so far, and the choices in it.
fn samplings(schedule: &Any) -> Result<(Any, Vec<Sampling>)> {
    let trace = call!("s_tir.schedule.ScheduleGetTrace", *schedule)?;
    let instructions = field(&trace, "insts")?;
    let mut samplings = Vec::new();
    for instruction in items(&instructions)? {
        samplings.extend(sampling(&trace, instruction)?);
    }
    Ok((instructions, samplings))
}

/// Our own design of a module; `None` where TVM refuses all random schedules of it.
fn own_design(module: &Any, n_cores: usize, by_rows: bool) -> Result<Option<Design>> {
    // what TVM refuses may be the random choices
    for seed in 1..=MAX_DRAWS {
        let schedule = fresh(module, seed)?;
        if sketch::apply(&schedule, n_cores, by_rows, None).is_ok() {
            return Ok(Some(Design { instructions: None, by_rows, samplings: samplings(&schedule)?.1 }));
        }
    }
    Ok(None)
}

impl Workload {
    /// Generates the design spaces (5-80 ms).
    ///
    /// # Errors
    /// [`Error::Library`] with TVM's words when its rules refuse the module.
    pub fn new(module: Any, target: Target) -> Result<Workload> {
        let mut workload = Workload { module, target, designs: vec![], postprocs: vec![], _context: Any::from(NONE) };
        let (context, generator) = workload.context(None, 1, 1)?;
        let (module, target) = (&workload.module, &workload.target);
        let mut designs = Vec::new();
        for schedule in items(&call!("s_tir.meta_schedule.SpaceGeneratorGenerateDesignSpace", generator, *module)?)? {
            let (instructions, samplings) = samplings(&schedule)?;
            designs.push(Design { instructions: Some(instructions), by_rows: false, samplings });
        }
        let plain = fresh(module, 1)?;
        if sketch::applies(&plain)? {
            let kinds: &[bool] = if sketch::is_of_rows(&plain)? { &[true, false] } else { &[false] };
            for &by_rows in kinds {
                let own = own_design(module, target.n_cores, by_rows)?;
                let is_found = own.is_some();
                designs.extend(own);
                if is_found {
                    break;
                }
            }
        }
        workload.designs = designs;
        workload.postprocs = items(&field(&generator, "postprocs")?)?;
        workload._context = context;
        Ok(workload)
    }

    /// MetaSchedule's context and space generator for this module, with the default rules, post-processors and mutators.
    pub(super) fn context(&self, strategy: Option<&Any>, n_threads: usize, seed: u64) -> Result<(Any, Any)> {
        let rules = call!("s_tir.meta_schedule.ScheduleRuleDefaultLLVM")?;
        let postprocs = call!("s_tir.meta_schedule.PostprocDefaultLLVM")?;
        let mutators = call!("s_tir.meta_schedule.MutatorDefaultLLVM")?;
        let generator = call!("s_tir.meta_schedule.SpaceGeneratorPostOrderApply", NONE, rules, postprocs, mutators)?;
        let silent: Function = func(|_| Ok(Any::from(())));
        let strategy = strategy.cloned().unwrap_or(Any::from(NONE));
        let (name, n_threads, seed) = (text("main"), n_threads as i64, tvm_seed(seed));
        let context =
            call!("s_tir.meta_schedule.TuneContext", self.module, self.target.node, generator, strategy, name, n_threads, seed, silent)?;
        call!("s_tir.meta_schedule.TuneContextInitialize", context)?;
        Ok((context, generator))
    }

    /// The module after MetaSchedule's post-processors.
    fn post_process(&self, schedule: &Any) -> Result<Any> {
        call!("s_tir.schedule.ScheduleEnterPostproc", *schedule)?;
        for postproc in &self.postprocs {
            if !cast::<bool>(call!("s_tir.meta_schedule.PostprocApply", *postproc, *schedule)?, "postproc's answer")? {
                return Err(Error::Library("a post-processor of MetaSchedule refused the schedule: sample another".into()));
            }
        }
        call!("s_tir.schedule.ScheduleGetMod", *schedule)
    }

    /// The design and choices that a trace stands for, if they make the program of that hash; `None` where none does, as after
    /// mutations of annotations or with rules other than the default ones.
    pub fn find(&self, trace: &Any, hash: u64) -> Result<Option<(usize, Vec<Choice>)>> {
        let mut theirs = Vec::new();
        for instruction in items(&field(trace, "insts")?)? {
            theirs.extend(sampling(trace, instruction)?);
        }
        for (number, design) in self.designs.iter().enumerate() {
            for choices in completed(design, &theirs) {
                if let Ok(scheduled) = self.schedule(number, Some(&choices), 1)
                    && super::structural_hash(&scheduled.module)? == hash
                {
                    return Ok(Some((number, choices)));
                }
            }
        }
        Ok(None)
    }

    pub fn n_designs(&self) -> usize {
        self.designs.len()
    }

    /// Not of MetaSchedule's rules.
    pub fn is_ours(&self, design: usize) -> bool {
        self.designs[design].instructions.is_none()
    }

    pub fn samplings(&self, design: usize) -> &[Sampling] {
        &self.designs[design].samplings
    }

    /// Replays a design with the given choices, or with random ones from `seed`, then post-processes it.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the choices do not fit the design; [`Error::Library`] when TVM refuses the schedule.
    pub fn schedule(&self, design: usize, choices: Option<&[Choice]>, seed: u64) -> Result<Scheduled> {
        let start = std::time::Instant::now();
        let Some(design) = self.designs.get(design) else {
            return Err(Error::Invalid(format!("there is no design space {design}: this workload has {}", self.designs.len())));
        };
        let mut decisions = None;
        if let Some(choices) = choices {
            if choices.len() != design.samplings.len() {
                return Err(Error::Invalid(format!(
                    "a config of this space has {} decisions, {} given: sample one and change it",
                    design.samplings.len(),
                    choices.len()
                )));
            }
            let value = |choice: &Choice| match choice {
                Choice::Factors(factors) => array(factors),
                Choice::Number(number) => Ok(Any::from(*number)),
            };
            decisions = Some(choices.iter().map(value).collect::<Result<Vec<Any>>>()?);
        }
        let schedule = fresh(&self.module, seed)?;
        match &design.instructions {
            Some(instructions) => {
                let sampled = design.samplings.iter().map(|s| s.instruction.clone());
                let pairs: Vec<(Any, Any)> = sampled.zip(decisions.into_iter().flatten()).collect();
                let trace = call!("s_tir.schedule.Trace", *instructions, map(&pairs)?)?;
                call!("s_tir.schedule.TraceApplyToSchedule", trace, schedule, true, NONE)?;
            }
            None => sketch::apply(&schedule, self.target.n_cores, design.by_rows, decisions)?,
        }
        let replay_secs = start.elapsed().as_secs_f64();
        let start = std::time::Instant::now();
        let choices = samplings(&schedule)?.1.into_iter().map(|s| s.chosen).collect();
        let module = self.post_process(&schedule)?;
        let trace = call!("s_tir.schedule.ScheduleGetTrace", schedule)?;
        Ok(Scheduled { schedule, module, trace, choices, replay_secs, postproc_secs: start.elapsed().as_secs_f64() })
    }
}

/// The JSON of a trace, as TVM's databases hold it.
pub fn trace_json(trace: &Any) -> Result<Value> {
    plain(&call!("s_tir.schedule.TraceAsJSON", *trace, false)?)
}

/// A tree of TVM containers, numbers and strings as JSON; integer and float nodes become numbers.
fn plain(value: &Any) -> Result<Value> {
    if is_none(value) {
        return Ok(Value::Null);
    }
    if let Some(b) = value.try_as::<bool>() {
        return Ok(b.into());
    }
    if let Some(i) = value.try_as::<i64>() {
        return Ok(i.into());
    }
    if let Some(f) = value.try_as::<f64>() {
        return Ok(f.into());
    }
    if let Some(s) = value.try_as::<tvm_ffi::String>() {
        return Ok(s.as_str().into());
    }
    if let Ok(parts) = items(value) {
        return Ok(Value::Array(parts.iter().map(plain).collect::<Result<_>>()?));
    }
    if let Ok(pairs) = entries(value) {
        let mut object = serde_json::Map::new();
        for (k, v) in pairs {
            object.insert(cast::<tvm_ffi::String>(k, "key")?.as_str().to_string(), plain(&v)?);
        }
        return Ok(Value::Object(object));
    }
    plain(&field(value, "value")?)
}

/// A MetaSchedule JSON database in `folder`, in the two files that stock TVM reads.
pub struct Database(pub(super) Any);

impl Database {
    /// Opens it, or makes an empty one.
    ///
    /// # Errors
    /// [`Error::Library`] when the files are not a database.
    pub fn open(folder: &Path) -> Result<Database> {
        let file = |name: &str| text(&folder.join(name).to_string_lossy());
        let workloads = file("database_workload.json");
        let records = file("database_tuning_record.json");
        call!("s_tir.meta_schedule.DatabaseJSONDatabase", workloads, records, true, text("structural")).map(Database)
    }

    /// An empty one that is kept nowhere.
    pub fn in_memory() -> Result<Database> {
        call!("s_tir.meta_schedule.DatabaseMemoryDatabase", text("structural")).map(Database)
    }

    /// The fastest records of a workload that its design spaces hold, at most so many, each program once: design, choices, the program's
    /// hash, and mean seconds as they were recorded. And how many of those seen the spaces do not hold.
    ///
    /// # Errors
    /// [`Error::Library`] with TVM's words when a record cannot be read.
    pub fn records(&self, workload: &Workload, most: usize) -> Result<(Vec<Record>, usize)> {
        if !cast::<bool>(call!("s_tir.meta_schedule.DatabaseHasWorkload", self.0, workload.module)?, "answer")? {
            return Ok((vec![], 0));
        }
        let entry = call!("s_tir.meta_schedule.DatabaseCommitWorkload", self.0, workload.module)?;
        let n: i64 = cast(call!("s_tir.meta_schedule.DatabaseSize", self.0)?, "database size")?;
        let records = call!("s_tir.meta_schedule.DatabaseGetTopK", self.0, entry, n)?;
        let (mut found, mut n_foreign) = (Vec::new(), 0);
        for record in items(&records)? {
            if found.len() == most {
                break;
            }
            let trace = field(&record, "trace")?;
            let secs = mean_secs(&record)?;
            let schedule = fresh(&workload.module, 1)?;
            let replayed =
                call!("s_tir.schedule.TraceApplyToSchedule", trace, schedule, true, NONE).and_then(|_| workload.post_process(&schedule));
            let known = match replayed {
                Ok(module) => {
                    let hash = super::structural_hash(&module)?;
                    if found.iter().any(|r: &Record| r.hash == hash) {
                        continue;
                    }
                    workload.find(&trace, hash)?.map(|(design, choices)| Record { design, choices, hash, secs })
                }
                Err(_) => None,
            };
            n_foreign += usize::from(known.is_none());
            found.extend(known);
        }
        Ok((found, n_foreign))
    }

    /// Appends one measured schedule; `samples` are seconds.
    pub fn record(&self, workload: &Workload, scheduled: &Scheduled, samples: &[f64]) -> Result<()> {
        let entry = call!("s_tir.meta_schedule.DatabaseCommitWorkload", self.0, workload.module)?;
        let arguments = call!("s_tir.meta_schedule.ArgInfoFromEntryFunc", workload.module, true)?;
        let float = tvm_ffi::DLDataType { code: tvm_ffi::DLDataTypeCode::kDLFloat as u8, bits: 32, lanes: 1 };
        let seconds: Vec<Any> = samples.iter().map(|s| call!("ir.FloatImm", float, *s, NONE)).collect::<Result<_>>()?;
        let record = call!("s_tir.meta_schedule.TuningRecord", scheduled.trace, entry, array(&seconds)?, workload.target.node, arguments)?;
        call!("s_tir.meta_schedule.DatabaseCommitTuningRecord", self.0, record).map(drop)
    }
}

/// A schedule that a database holds.
pub struct Record {
    pub design: usize,
    pub choices: Vec<Choice>,
    pub hash: u64,
    pub secs: f64,
}

fn mean_secs(record: &Any) -> Result<f64> {
    let mut secs = Vec::new();
    for sample in items(&field(record, "run_secs")?)? {
        secs.push(cast::<f64>(field(&sample, "value")?, "seconds")?);
    }
    Ok(secs.iter().sum::<f64>() / secs.len().max(1) as f64)
}
