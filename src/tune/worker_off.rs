//! Workers when the program is built without TVM: they refuse at once.

use crate::error::Result;

/// # Errors
/// Always: this program was built without TVM.
pub fn compile() -> Result<()> {
    crate::tvm::load_compiler()
}

/// # Errors
/// Always: this program was built without TVM.
pub fn measure() -> Result<()> {
    crate::tvm::load_runtime()
}
