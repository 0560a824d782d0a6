//! Plain data of a search: spaces, configs, failures, measurements. None of it needs TVM.

use crate::child::Fault;
use crate::lower::LoopNest;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a kernel computes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Computation {
    /// An operator with its epilogue, which the interpreter can compute too.
    Nest(LoopNest),
    /// A function of TVM's, which its unscheduled kernel alone can compute.
    Module(Module),
}

/// A module of TVM's with one function, `main`, on float32 tensors of fixed shape.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Module {
    /// TVM's own JSON.
    pub json: String,
    /// In the order in which the function takes them.
    pub parameters: Vec<Parameter>,
    /// Floating-point operations by TVM's count; 0 where it cannot count them.
    pub n_flops: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Parameter {
    pub shape: Vec<i64>,
    pub is_output: bool,
}

impl From<LoopNest> for Computation {
    fn from(nest: LoopNest) -> Computation {
        Computation::Nest(nest)
    }
}

impl Computation {
    /// Floating-point operations, a multiply-add is two; 0 where they are unknown.
    pub fn n_flops(&self) -> f64 {
        match self {
            Computation::Nest(nest) => 2.0 * nest.n_macs() as f64,
            Computation::Module(module) => module.n_flops,
        }
    }
}

/// What is tuned: one computation on one target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub computation: Computation,
    /// `host`, TVM's text form (`llvm -mcpu=znver4 -num-cores 2`) or its JSON.
    pub target: String,
    /// Threads of the kernel when it runs.
    pub n_threads: usize,
}

/// One random choice of a design space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Knob {
    /// A loop of `extent` split into `n` factors whose product it is; the last at most `max_innermost`.
    PerfectTile { extent: i64, n: usize, max_innermost: i64 },
    /// One of `n` values.
    Categorical { n: i64 },
    /// The loop a block is computed at; −2 is inlined, −1 outermost. Which loops are legal depends on the other choices.
    ComputeLocation,
}

/// The value of a knob.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Decision {
    PerfectTile(Vec<i64>),
    Categorical(i64),
    ComputeLocation(i64),
}

/// Who made a design space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// MetaSchedule's rules.
    Rules,
    /// Syntune: tiles that stay in registers.
    Tiles,
}

/// One of the design spaces of a nest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Space {
    pub origin: Origin,
    pub knobs: Vec<Knob>,
}

/// One schedule: a space and a decision for each of its knobs.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Config {
    pub space: usize,
    pub decisions: Vec<Decision>,
}

/// What a strategy proposes: a config, or random decisions of a space.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Proposal {
    Exact(Config),
    Random { space: usize, seed: u64 },
}

/// A proposal that TVM accepts: its actual decisions (TVM repairs impossible ones) and the hash of the scheduled program.
/// Equal hashes are equal programs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    pub config: Config,
    pub hash: u64,
    /// Compiled already, and what that took.
    #[serde(skip)]
    pub built: Option<PathBuf>,
}

/// Why a candidate has no time. A row in the store, not an error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Failure {
    /// TVM or LLVM refused it; their words.
    DoesNotBuild(String),
    /// The process that ran it was killed by this signal.
    Crashed { signal: i32 },
    /// It did not end within its time limit.
    TimedOut { secs: f64 },
    /// The largest difference from the expected output, relative to the largest expected magnitude.
    WrongResult { max_error: f64 },
    /// The output holds an infinity or a NaN (outputs are filled with NaN before the run).
    NotFinite,
    /// The worker ended or answered nonsense; its last words.
    Lost(String),
}

impl Failure {
    /// One word, for counting.
    pub fn cause(&self) -> &'static str {
        match self {
            Failure::DoesNotBuild(_) => "does not build",
            Failure::Crashed { .. } => "crashed",
            Failure::TimedOut { .. } => "timed out",
            Failure::WrongResult { .. } => "wrong result",
            Failure::NotFinite => "not finite",
            Failure::Lost(_) => "worker lost",
        }
    }

    /// What was refused, without the particulars, for counting.
    pub fn step(&self) -> String {
        match self {
            Failure::DoesNotBuild(why) => why.split(": ").next().unwrap_or_default().to_string(),
            other => other.cause().to_string(),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::DoesNotBuild(why) => write!(f, "does not build: {why}"),
            Failure::Crashed { signal } => write!(f, "crashed with signal {signal}"),
            Failure::TimedOut { secs } => write!(f, "not finished after {secs:.1} s"),
            Failure::WrongResult { max_error } => write!(f, "wrong result: relative error {max_error:.1e}"),
            Failure::NotFinite => write!(f, "the output is not finite"),
            Failure::Lost(why) => write!(f, "the worker was lost: {why}"),
        }
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        match fault {
            Fault::Crashed { signal, .. } => Failure::Crashed { signal },
            Fault::TimedOut { secs } => Failure::TimedOut { secs },
            other => Failure::Lost(other.to_string()),
        }
    }
}

/// Seconds of one call, measured several times.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The middle sample, in seconds; infinite when there is none.
    pub fn median_secs(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => f64::INFINITY,
            n if n % 2 == 1 => sorted[n / 2],
            n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
        }
    }

    pub fn min_secs(&self) -> f64 {
        self.0.iter().copied().fold(f64::INFINITY, f64::min)
    }

    /// The sample that a quarter of all are below, in seconds; infinite when there is none. Ranks candidates: other work on the
    /// machine only ever adds time, so this moves less than the median, and no single lucky sample decides.
    pub fn quartile_secs(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 4).copied().unwrap_or(f64::INFINITY)
    }

    pub fn n_samples(&self) -> usize {
        self.0.len()
    }

    /// Half the distance between the quartiles, in seconds: the `±` of a report.
    pub fn spread_secs(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match sorted.len() {
            0 => 0.0,
            n => (sorted[(3 * n / 4).min(n - 1)] - sorted[n / 4]) / 2.0,
        }
    }
}

/// Where the seconds of one candidate went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steps {
    pub replay_secs: f64,
    pub postproc_secs: f64,
    pub lower_secs: f64,
    pub llvm_secs: f64,
    pub link_secs: f64,
    /// Loading, verifying and timing in the measuring worker.
    pub run_secs: f64,
}

impl Steps {
    pub fn add(&mut self, other: &Steps) {
        self.replay_secs += other.replay_secs;
        self.postproc_secs += other.postproc_secs;
        self.lower_secs += other.lower_secs;
        self.llvm_secs += other.llvm_secs;
        self.link_secs += other.link_secs;
        self.run_secs += other.run_secs;
    }

    pub fn total_secs(&self) -> f64 {
        self.replay_secs + self.postproc_secs + self.lower_secs + self.llvm_secs + self.link_secs + self.run_secs
    }
}

/// One candidate's outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub config: Config,
    /// Hash of the scheduled program; 0 when it was never scheduled.
    pub hash: u64,
    pub result: Result<Samples, Failure>,
    pub steps: Steps,
    /// The compiled kernel while the run lasts.
    #[serde(skip)]
    pub library: Option<PathBuf>,
}

impl Measurement {
    /// Median seconds; infinite for a failure.
    pub fn secs(&self) -> f64 {
        self.result.as_ref().map_or(f64::INFINITY, Samples::median_secs)
    }

    /// What candidates are compared by, in seconds: see [`Samples::quartile_secs`]; infinite for a failure.
    pub fn rank_secs(&self) -> f64 {
        self.result.as_ref().map_or(f64::INFINITY, Samples::quartile_secs)
    }

    /// Takes what another turn of the same program showed. A failure of one turn is the program's, unless it came too late: the machine
    /// may have been busy.
    pub fn join(&mut self, other: Measurement) {
        match (&mut self.result, other.result) {
            (Ok(samples), Ok(more)) => samples.0.extend(more.0),
            (own @ Err(Failure::TimedOut { .. }), other) => *own = other,
            (Ok(_), Err(Failure::TimedOut { .. })) | (Err(_), _) => {}
            (own @ Ok(_), failed) => *own = failed,
        }
    }
}

/// How carefully a kernel is timed.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effort {
    /// Calls are repeated within one sample until it lasts this long.
    pub sample_secs: f64,
    pub min_samples: usize,
    pub max_samples: usize,
    /// No further samples after this, once `min_samples` are there.
    pub budget_secs: f64,
    /// Three calls are enough for a kernel slower than this each time.
    pub hopeless_secs: f64,
}

impl Effort {
    /// For candidates of a search: about 0.1 s.
    pub const QUICK: Effort = Effort { sample_secs: 0.002, min_samples: 7, max_samples: 40, budget_secs: 0.1, hopeless_secs: f64::MAX };
    /// For numbers that are reported: about 1 s.
    pub const THOROUGH: Effort = Effort { sample_secs: 0.01, min_samples: 11, max_samples: 101, budget_secs: 1.0, hopeless_secs: f64::MAX };

    /// One of `n` turns that come to this together.
    pub fn shared(&self, n: usize) -> Effort {
        Effort {
            min_samples: self.min_samples.div_ceil(n),
            max_samples: self.max_samples.div_ceil(n),
            budget_secs: self.budget_secs / n as f64,
            ..*self
        }
    }
}
