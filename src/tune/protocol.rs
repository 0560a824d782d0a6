//! What controller and workers say to each other, one JSON line each. Plain data: the controller never loads TVM.

use super::config::{Candidate, Config, Effort, Failure, Module, Proposal, Space, Steps, Task};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// To a compile worker. `target` is text as a person writes it; `n_threads` completes it.
#[derive(Debug, Serialize, Deserialize)]
pub enum CompileRequest {
    /// The target as full JSON.
    Target { target: String, n_threads: usize },
    /// The modules of a file: MetaSchedule's `database_workload.json`, or one module as TVM's JSON.
    Modules { file: PathBuf },
    /// The design spaces of a task.
    Spaces { task: Task },
    /// Which of the proposals can be scheduled, and as which programs.
    Probe { task: Task, proposals: Vec<Proposal> },
    /// MetaSchedule's features of scheduled configs.
    Features { task: Task, configs: Vec<Config> },
    /// Compiles into `folder/kernel.so`; without a config the task as it is written, in one thread.
    Build { task: Task, config: Option<Config>, folder: PathBuf },
    /// Appends a measured config to the MetaSchedule database in `folder`.
    Record { task: Task, config: Config, samples: Vec<f64>, folder: PathBuf },
    /// The fastest configs of the database in `folder` that are of the task's spaces, at most so many.
    Recorded { task: Task, folder: PathBuf, most: usize },
    /// The next round of MetaSchedule's search; the worker keeps the search. `told` is what was measured since the last round, with
    /// samples in seconds, none for a failure.
    Evolve { task: Task, population: Population, told: Vec<(Config, Vec<f64>)> },
}

/// How MetaSchedule is to search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Population {
    /// Our own design space too.
    pub with_tiles: bool,
    pub per_round: usize,
    /// Measurements before the cost model is believed.
    pub warm_up: usize,
    pub seed: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum CompileAnswer {
    Target(String),
    /// In the order of the file; why one cannot be tuned.
    Modules(Vec<Result<Module, String>>),
    Spaces(Vec<Space>),
    Probed(Vec<Result<Candidate, Failure>>),
    /// For each config, 164 numbers per store.
    Features(Vec<Result<Vec<Vec<f64>>, Failure>>),
    Built {
        config: Option<Config>,
        hash: u64,
        steps: Steps,
        library: PathBuf,
        trace: serde_json::Value,
    },
    Recorded,
    /// What a database holds, the fastest first, with recorded mean seconds; and how many of the records seen no space of the task holds.
    Records {
        known: Vec<(Candidate, f64)>,
        n_foreign: usize,
    },
    Evolved(Vec<Config>),
    /// The candidate's fault.
    Failed(Failure),
    /// The caller's fault; ends with what to do.
    Refused(String),
}

/// Contents of a tensor before a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Fill {
    /// Seeded values in (−1, 1).
    Random(u64),
    /// Seeded values in (0, 1).
    Positive(u64),
    /// NaN: whatever is not written shows.
    Nan,
    /// Raw little-endian float32.
    File(PathBuf),
}

/// A float32 tensor of a program.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slot {
    pub shape: Vec<i64>,
    pub fill: Fill,
}

/// One kernel of a program and the tensors it takes, in the order of its parameters.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub library: PathBuf,
    pub arguments: Vec<usize>,
}

/// Kernels run in order over one set of tensors: a single kernel, or a whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Program {
    pub tensors: Vec<Slot>,
    pub steps: Vec<Step>,
}

/// To the measuring worker: run once, compare, save, then time.
#[derive(Debug, Serialize, Deserialize)]
pub struct MeasureRequest {
    pub program: Program,
    /// Tensors compared with files after the first run; tensors without a file are only checked to be finite.
    pub expected: Vec<(usize, Option<PathBuf>)>,
    /// Largest relative error allowed.
    pub tolerance: f64,
    /// Tensors written to files after the first run.
    pub save: Vec<(usize, PathBuf)>,
    /// `None`: run once only.
    pub effort: Option<Effort>,
}

#[derive(Debug, Serialize, Deserialize)]
pub enum MeasureAnswer {
    /// Seconds of one pass through all steps, several samples; the largest relative error seen.
    Measured {
        samples: Vec<f64>,
        max_error: f64,
    },
    Failed(Failure),
    Refused(String),
}
