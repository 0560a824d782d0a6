//! The command line: one subcommand per room. stdout is data, stderr is talk.

mod database;
mod space;
mod tune;

use crate::error::{Context, Error, Result, invalid};
use crate::lower::{self, Epilogue};
use crate::report::{self, Format, View};
use crate::search::evaluate::{Evaluator, Job};
use crate::search::machine::Machine;
use crate::search::probe::probe;
use crate::search::{self, Slots, Study};
use crate::spec::{Spec, refuse};
use crate::store::Store;
use crate::synth::{Binding, Operator, library};
use crate::train::Outcome;
use crate::tune::measure::TOLERANCE;
use crate::tune::verify;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sizes of an operator's variables where none are given.
const SHAPE: &str = "N=1,Ci=64,Co=64,C=64,H=28,W=28,L=16,k=3,g=4,s=2,r=2";

/// After Ctrl-C the work under way may settle for so long.
const GRACE: Duration = Duration::from_millis(1800);

/// How a run ended; the process's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Done, nothing found.
    Nothing,
    /// Could not do it.
    Failed,
    /// Interrupted, state saved.
    Interrupted,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Done => 0,
            Exit::Nothing => 1,
            Exit::Failed => 2,
            Exit::Interrupted => 130,
        }
        .into()
    }
}

/// Finds neural operators that are faster on this machine at the accuracy you ask for.
#[derive(Parser)]
#[command(name = "syntune", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show a spec as it is understood: defaults filled in, slots, costs of the original
    Check(space::CheckArgs),
    /// Synthesize operators for a spec's slots, one line each
    Synth(space::SynthArgs),
    /// Print what an operator computes, in one of six forms
    Lower(LowerArgs),
    /// Find fast schedules of an operator, of a trial's slots or of a model on this machine
    Tune(Box<tune::TuneArgs>),
    /// Train a spec's model with one operator in its slots
    Train(TrainArgs),
    /// Search for operators that make a spec's model faster
    Search(SearchArgs),
    /// Show what a search found
    Report(ReportArgs),
    /// What the other rooms run in child processes
    #[command(hide = true)]
    Worker { role: Role },
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Compile,
    Measure,
    Train,
}

#[derive(Args)]
struct OperatorArgs {
    /// A name (see `synth --library`), a text `y[…] = …`, a trial `STORE#NUMBER`, a file with one of these, or `-`
    operator: String,
    /// Values of its variables
    #[arg(long, default_value = SHAPE, value_name = "NAME=N,…")]
    shape: String,
}

#[derive(Args)]
struct TargetArgs {
    /// `host`, or a TVM target such as "llvm -mcpu=skylake-avx512"
    #[arg(long, default_value = "host")]
    target: String,
    /// Threads of the kernel
    #[arg(long, default_value_t = 1)]
    threads: usize,
}

#[derive(Args)]
struct LowerArgs {
    #[command(flatten)]
    operator: OperatorArgs,
    #[arg(long, value_enum, default_value_t = Form::Loops)]
    to: Form,
    /// One stage only, as the text says it, nothing stored in between
    #[arg(long)]
    flat: bool,
    /// Run all back ends on random inputs and print the largest differences
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    target: TargetArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// The id and the one-line text
    Text,
    /// Index formula
    Formula,
    /// Loop nest
    Loops,
    /// TVM's own script of the PrimFunc
    Te,
    /// A standalone nn.Module to paste
    TorchPy,
}

#[derive(Args)]
struct TrainArgs {
    spec: PathBuf,
    /// A name, a text, a trial `STORE#NUMBER`, a file or `-`; without it the original model
    operator: Option<String>,
    /// Training pictures seen in all; without it the spec's epochs
    #[arg(long)]
    samples: Option<u64>,
    /// Write the weights here (safetensors)
    #[arg(long)]
    save: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Args)]
struct SearchArgs {
    spec: PathBuf,
    /// The file that keeps everything known; an existing one is gone on with
    #[arg(long, default_value = "syntune.db")]
    store: PathBuf,
    /// Instead of the spec's
    #[arg(long)]
    minutes: Option<f64>,
    /// Instead of the spec's
    #[arg(long)]
    trials: Option<u32>,
    /// Instead of the spec's
    #[arg(long)]
    seed: Option<u64>,
    /// No talk
    #[arg(short, long)]
    quiet: bool,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Args)]
struct ReportArgs {
    store: PathBuf,
    /// All trials, one a line
    #[arg(long, conflicts_with = "trial")]
    trials: bool,
    /// One trial's page
    #[arg(long)]
    trial: Option<u32>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// Runs a command line.
///
/// # Errors
/// What [`explain`] prints.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Result<Exit> {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return Ok(if error.use_stderr() { Exit::Failed } else { Exit::Done });
        }
    };
    match cli.verb {
        Verb::Check(args) => space::check(&args),
        Verb::Synth(args) => space::synth(&args),
        Verb::Lower(args) => lower_verb(&args),
        Verb::Tune(args) => tune::tune(&args),
        Verb::Train(args) => train_verb(&args),
        Verb::Search(args) => search_verb(&args),
        Verb::Report(args) => report_verb(&args),
        Verb::Worker { role } => worker(role),
    }
}

/// Prints an error for people and says how the process ends.
pub fn explain(error: &Error) -> Exit {
    eprintln!("syntune: {error}");
    match error {
        Error::Interrupted => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

/// Writes to stdout; a closed pipe is not an error.
fn put(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        done => done.context(|| "writing to standard output".into()),
    }
}

fn worker(role: Role) -> Result<Exit> {
    match role {
        Role::Compile => crate::tune::worker::compile()?,
        Role::Measure => crate::tune::worker::measure()?,
        Role::Train => crate::train::worker::serve()?,
    }
    Ok(Exit::Done)
}

/// Ends with the reason where a spec's space holds no operator within its budgets.
fn probed(spec: &Spec, slots: &Slots, file: &Path) -> Result<()> {
    probe(slots, spec)?.map_or(Ok(()), |fault| Err(refuse(file, fault.key, fault.message)))
}

/// The slots of a spec, faults told with file and line.
fn slots_of(spec: &Spec, file: &Path) -> Result<Slots> {
    Slots::of(spec).map_err(|e| match e {
        Error::Invalid(message) if message.starts_with("[slots]") => refuse(file, "slots.layers", message),
        other => other,
    })
}

fn read_operator(given: &str) -> Result<Operator> {
    let text = if given == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context(|| "reading the operator from standard input".into())?;
        text
    } else if !given.contains('[') && std::path::Path::new(given).is_file() {
        std::fs::read_to_string(given).context(|| format!("reading the operator from {given}"))?
    } else {
        given.to_string()
    };
    let line = text.lines().map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
    if let Some((store, number)) = line.and_then(|l| l.rsplit_once('#'))
        && let Ok(number) = number.parse()
    {
        return Operator::parse(&Store::open_read(store)?.trial(number)?.operator);
    }
    match line {
        Some(line) => library::resolve(line),
        None => invalid(format!(
            "{given} holds no operator: the first line that is not empty and no # comment must be a name or a text y[…] = …"
        )),
    }
}

impl OperatorArgs {
    fn read(&self) -> Result<(Operator, Binding)> {
        Ok((read_operator(&self.operator)?, Binding::parse(&self.shape)?))
    }
}

fn lower_verb(args: &LowerArgs) -> Result<Exit> {
    let (operator, binding) = args.operator.read()?;
    let nest = || if args.flat { lower::lower_flat(&operator, &binding) } else { lower::lower(&operator, &binding) };
    if args.verify {
        let mut exit = Exit::Done;
        for check in verify::verify(&nest()?, &lower::lower_flat(&operator, &binding)?, &args.target.target, args.target.threads)? {
            match check.result {
                Ok(error) if error <= TOLERANCE => put(&format!("{:24} {error:.1e}\n", check.back_end))?,
                Ok(error) => {
                    put(&format!("{:24} {error:.1e}  differs\n", check.back_end))?;
                    exit = Exit::Failed;
                }
                Err(why) => {
                    put(&format!("{:24} {why}\n", check.back_end))?;
                    exit = Exit::Failed;
                }
            }
        }
        return Ok(exit);
    }
    put(&match args.to {
        Form::Text => format!("{} {operator}\n", operator.id()),
        Form::Formula => format!("{}\n", operator.formula(Some(&binding))),
        Form::Loops => nest()?.print(),
        Form::Te => lower::te::te_script(&nest()?)?,
        Form::TorchPy => lower::torch_py(&nest()?)?,
    })?;
    Ok(Exit::Done)
}

fn epilogue(parts: &str) -> Result<Epilogue> {
    let mut epilogue = Epilogue::default();
    for part in parts.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        match part {
            "scale" => epilogue.scale = true,
            "bias" => epilogue.bias = true,
            "residual" => epilogue.residual = true,
            "relu" => epilogue.relu = true,
            _ => return invalid(format!("--epilogue: {part:?} is no part: use any of scale, bias, residual, relu")),
        }
    }
    Ok(epilogue)
}

/// Long work that Ctrl-C ends: a flag that the work looks at, and one private folder for all temporary files.
struct Interruptible {
    stop: Arc<AtomicBool>,
    _folder: tempfile::TempDir,
}

impl Interruptible {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// The first Ctrl-C raises the flag; work that does not heed it in time, or a second Ctrl-C, ends the process and its files.
fn interruptible() -> Result<Interruptible> {
    let folder = tempfile::Builder::new().prefix("syntune-").tempdir();
    let folder = folder.context(|| "making a temporary folder; set TMPDIR to a folder with space".into())?;
    let path = folder.path().to_path_buf();
    let _ = tempfile::env::override_temp_dir(&path);
    let stop = Arc::new(AtomicBool::new(false));
    let raised = stop.clone();
    let end = move || {
        let _ = std::fs::remove_dir_all(&path);
        eprintln!("syntune: interrupted; what was measured is kept");
        std::process::exit(130);
    };
    let handler = move || {
        if raised.swap(true, Ordering::Relaxed) {
            end();
        }
        let end = end.clone();
        std::thread::spawn(move || {
            std::thread::sleep(GRACE);
            end();
        });
    };
    ctrlc::set_handler(handler).map_err(|e| Error::Invalid(format!("Ctrl-C cannot be handled ({e}): run in an ordinary terminal")))?;
    Ok(Interruptible { stop, _folder: folder })
}

fn train_verb(args: &TrainArgs) -> Result<Exit> {
    let spec = Spec::load(&args.spec)?;
    let slots = slots_of(&spec, &args.spec)?;
    let operator = args.operator.as_deref().map(read_operator).transpose()?;
    let nests = slots.nests(operator.as_ref(), i64::from(spec.train.batch))?;
    let work = interruptible()?;
    let mut machine = Machine::for_training(&spec, work.stop.clone())?;
    let n_samples = args.samples.unwrap_or_else(|| u64::from(spec.train.epochs) * machine.n_train());
    let job = Job { number: 0, nests, n_samples, milestones: vec![], held_out: false, save: args.save.clone() };
    if args.format == Format::Csv {
        put("n_seen,loss,accuracy,secs\n")?;
    }
    let outcomes = machine.train(&[job], &mut |_, epoch| {
        put(&match args.format {
            Format::Table => format!("{:8} pictures  loss {:.3}  {:.2} %  {:.1} s\n", epoch.n_seen, epoch.loss, epoch.accuracy * 100.0, epoch.secs),
            Format::Json => format!("{}\n", serde_json::json!({"version": 1, "n_seen": epoch.n_seen, "loss": epoch.loss, "accuracy": epoch.accuracy, "secs": epoch.secs})),
            Format::Csv => format!("{},{},{},{}\n", epoch.n_seen, epoch.loss, epoch.accuracy, epoch.secs),
        })
    })?;
    match outcomes.into_iter().next() {
        Some(Outcome::Done { .. }) => Ok(Exit::Done),
        Some(Outcome::Interrupted) => Ok(Exit::Interrupted),
        Some(Outcome::Failed(failure)) => invalid(format!("{failure}; try a lower learning rate in [train], or another operator")),
        other => invalid(format!("training ended without an accuracy: {other:?}")),
    }
}

fn search_verb(args: &SearchArgs) -> Result<Exit> {
    let mut spec = Spec::load(&args.spec)?;
    spec.budget.minutes = args.minutes.unwrap_or(spec.budget.minutes);
    spec.budget.trials = args.trials.or(spec.budget.trials);
    spec.seed = args.seed.unwrap_or(spec.seed);
    spec.check()?;
    probed(&spec, &slots_of(&spec, &args.spec)?, &args.spec)?;
    let work = interruptible()?;
    let store = Store::open_or_create(&args.store, &spec)?;
    let mut machine = Machine::new(&spec, &args.store, work.stop.clone())?;
    let outcome = Study::new(spec, store, &mut machine, work.stop.clone(), args.quiet)?.run()?;
    let store = Store::open_read(&args.store)?;
    report::report(&store, View::Summary, args.format, &mut std::io::stdout().lock())?;
    if !args.quiet {
        eprintln!("store {}; see also: syntune report {} --trials", args.store.display(), args.store.display());
    }
    Ok(match outcome {
        search::Outcome { stop: search::StopReason::Interrupted, .. } => Exit::Interrupted,
        search::Outcome { winner: None, .. } => Exit::Nothing,
        _ => Exit::Done,
    })
}

fn report_verb(args: &ReportArgs) -> Result<Exit> {
    let store = Store::open_read(&args.store)?;
    let view = match (args.trial, args.trials) {
        (Some(number), _) => View::Trial(number),
        (None, true) => View::Trials,
        (None, false) => View::Summary,
    };
    report::report(&store, view, args.format, &mut std::io::stdout().lock())?;
    Ok(Exit::Done)
}
