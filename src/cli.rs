//! The command line: one subcommand per room. stdout is data, stderr is talk.

use crate::error::{Context, Error, Result, invalid};
use crate::lower::{self, LoopNest};
use crate::spec::Spec;
use crate::synth::library::LIBRARY;
use crate::synth::{Binding, Operator, library};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::io::{Read, Write};
use std::path::PathBuf;

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
    /// Show a spec as it is understood: defaults filled in, slots, space
    Check(CheckArgs),
    /// Synthesize operators for a spec's slots, one line each
    Synth(SynthArgs),
    /// Print what an operator computes, in one of five forms
    Lower(LowerArgs),
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

#[derive(Clone, Copy, Default, ValueEnum, PartialEq)]
pub enum Format {
    #[default]
    Table,
    Json,
    Csv,
}

#[derive(Args)]
struct CheckArgs {
    spec: PathBuf,
}

#[derive(Args)]
struct SynthArgs {
    /// The request; without it, `--library` lists the known operators
    #[arg(required_unless_present = "library")]
    spec: Option<PathBuf>,
    /// How many
    #[arg(short, default_value_t = 10)]
    n: usize,
    /// Instead of the spec's
    #[arg(long)]
    seed: Option<u64>,
    /// List the known operators by name
    #[arg(long)]
    library: bool,
    /// Print why walks ended without an operator
    #[arg(long)]
    stats: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Args)]
struct OperatorArgs {
    /// A name (see `synth --library`), a text `y[…] = …`, a file with one, or `-` for standard input
    operator: String,
    /// Values of its variables
    #[arg(long, default_value = "N=1,Ci=64,Co=64,C=64,H=28,W=28,L=16,k=3,g=4,s=2", value_name = "NAME=N,…")]
    shape: String,
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
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    /// The one-line text and id
    Text,
    /// Index formula
    Formula,
    /// Loop nest
    Loops,
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
        Verb::Check(args) => check(&args),
        Verb::Synth(args) => synth(&args),
        Verb::Lower(args) => lower_verb(&args),
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
        Role::Train => crate::train::worker::serve()?,
        Role::Compile | Role::Measure => return invalid("not yet"),
    }
    Ok(Exit::Done)
}

fn check(args: &CheckArgs) -> Result<Exit> {
    let spec = Spec::load(&args.spec)?;
    put(&spec.print())?;
    Ok(Exit::Done)
}

fn synth(args: &SynthArgs) -> Result<Exit> {
    if args.library {
        let width = LIBRARY.iter().map(|e| e.0.len()).max().unwrap_or(0);
        for (name, what, text) in LIBRARY {
            put(&match args.format {
                Format::Table => format!("{name:width$}  {what}\n{:width$}  {text}\n", ""),
                Format::Json => format!("{}\n", serde_json::json!({"version": 1, "name": name, "what": what, "text": text})),
                Format::Csv => format!("{name},{what:?},{text:?}\n"),
            })?;
        }
        return Ok(Exit::Done);
    }
    invalid("not yet")
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
    match line {
        Some(line) => library::resolve(line),
        None => invalid(format!("{given} holds no operator: the first line that is not empty and no # comment must be a name or a text y[…] = …")),
    }
}

impl OperatorArgs {
    fn read(&self) -> Result<(Operator, Binding)> {
        Ok((read_operator(&self.operator)?, Binding::parse(&self.shape)?))
    }
}

fn lower_verb(args: &LowerArgs) -> Result<Exit> {
    let (operator, binding) = args.operator.read()?;
    let nest = || -> Result<LoopNest> { if args.flat { lower::lower_flat(&operator, &binding) } else { lower::lower(&operator, &binding) } };
    put(&match args.to {
        Form::Text => format!("{} {operator}\n", operator.id()),
        Form::Formula => format!("{}\n", operator.formula(Some(&binding))),
        Form::Loops => nest()?.print(),
    })?;
    Ok(Exit::Done)
}
