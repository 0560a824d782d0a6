//! What a study needs done for it, and by whom: this machine, or a fake.

use super::model::{Model, Values};
use crate::error::Result;
use crate::lower::LoopNest;
use crate::train::{self, Epoch};
use crate::tune::{self, Best, Failure};
use std::path::PathBuf;

/// One training to run beside others.
#[derive(Clone, Debug)]
pub struct Job {
    /// The trial, or [`crate::store::BASELINE`].
    pub number: u32,
    /// One operator per slot, for the recipe's batch.
    pub nests: Vec<LoopNest>,
    /// Training pictures seen in all.
    pub n_samples: u64,
    /// (pictures seen, least accuracy): the training stops early below it.
    pub milestones: Vec<(u64, f64)>,
    /// Evaluated on held-out training pictures: what chooses must not see the test pictures.
    pub held_out: bool,
    /// Where the weights go.
    pub save: Option<PathBuf>,
}

/// A whole model ready to be compiled: a config for each of its calls.
pub struct Deployment {
    pub model: Model,
    pub configs: Vec<tune::Config>,
    /// One operator per slot, for the measured batch: what libtorch runs.
    pub nests: Vec<LoopNest>,
    /// Trained weights and where they lie; with them, the program's answer is compared with libtorch's.
    pub trained: Option<(PathBuf, Values)>,
}

/// Whole models measured in one batch: seconds per call, or why there are none.
pub struct Comparison {
    /// One per deployment.
    pub programs: Vec<Result<Vec<f64>, Failure>>,
    /// The first deployment's model in libtorch; `None` where there is no libtorch.
    pub torch: Option<Vec<f64>>,
    /// The largest difference of an answer from libtorch's, relative to its largest magnitude.
    pub max_error: Option<f64>,
}

/// Tunes, trains and times.
pub trait Evaluator {
    /// Searches schedules of a nest; `known` counts as measured, and `on_measurement` gets each new result at once.
    ///
    /// # Errors
    /// The caller's problems only; a nest that has no working schedule is a [`Failure`].
    fn tune(
        &mut self,
        nest: &LoopNest,
        n_trials: usize,
        known: Vec<tune::Measurement>,
        on_measurement: &mut dyn FnMut(&tune::Measurement) -> Result<()>,
    ) -> Result<Result<Best, Failure>>;

    /// Trains side by side, as many at a time as the machine has cores; outcomes in the order of the jobs.
    fn train(&mut self, jobs: &[Job], on_epoch: &mut dyn FnMut(&Job, &Epoch) -> Result<()>) -> Result<Vec<train::Outcome>>;

    /// Compiles whole models, checks their answers and measures them in turn.
    fn compare(&mut self, models: &[Deployment]) -> Result<Comparison>;

    /// Keeps a tuned nest for other programs (a MetaSchedule database).
    fn keep(&mut self, nest: &LoopNest, best: &Best) -> Result<()>;

    /// Trainings that run side by side.
    fn n_parallel(&self) -> usize;

    /// Training pictures of one epoch.
    fn n_train(&self) -> u64;
}
