//! What stands in for libtorch in a build without it.

use super::loops::LoopNest;
use crate::error::{Error, Result};

/// An operator as libtorch calls: not in this build.
pub enum TorchOp {}

impl TorchOp {
    /// Always an error: this build has no libtorch.
    pub fn new(_nest: &LoopNest) -> Result<TorchOp> {
        Err(Error::Library("this syntune was built without libtorch: run scripts/setup and build with the feature `torch`".into()))
    }
}
