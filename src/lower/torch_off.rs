//! What stands in for libtorch in a build without it.

use super::loops::LoopNest;
use crate::error::{Error, Result};

/// An operator as libtorch calls: not in this build.
pub enum TorchOp {}

impl TorchOp {
    /// Always an error: this build has no libtorch.
    pub fn new(_nest: &LoopNest) -> Result<TorchOp> {
        Err(missing())
    }
}

/// Always an error: this build has no libtorch.
pub fn evaluate(_nest: &LoopNest, _arguments: &[&[f32]]) -> Result<Vec<f32>> {
    Err(missing())
}

fn missing() -> Error {
    Error::Library("this syntune was built without libtorch: run scripts/setup and build with the feature `torch`".into())
}
