//! TE when the program is built without TVM.

use super::loops::LoopNest;
use crate::error::Result;

/// # Errors
/// Always: this program was built without TVM.
pub fn te_script(_nest: &LoopNest) -> Result<String> {
    crate::tvm::load_compiler().map(|()| String::new())
}
