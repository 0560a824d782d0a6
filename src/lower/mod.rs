//! What one operator computes: loop nests, their interpreter, and their forms in TE and torch.

pub mod index;
pub mod interp;
pub mod loops;
pub mod pad;
pub mod stage;
#[cfg(feature = "tvm")]
pub mod te;
#[cfg(not(feature = "tvm"))]
#[path = "te_off.rs"]
pub mod te;

pub use interp::{interp, interp_at};
pub use loops::{Access, Epilogue, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
pub use stage::{lower, lower_flat};
