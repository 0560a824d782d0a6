//! What one operator computes: loop nests, their interpreter, and their forms in TE and torch.

pub mod index;
pub mod interp;
pub mod loops;
pub mod stage;

mod contract;
pub mod plan;
#[cfg(feature = "torch")]
mod positions;
mod split;
#[cfg(feature = "torch")]
pub mod torch;
#[cfg(not(feature = "torch"))]
#[path = "torch_off.rs"]
pub mod torch;
mod torch_py;

pub use interp::interp;
pub use stage::{lower, lower_flat};
pub use loops::{Access, Epilogue, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
pub use torch_py::torch_py;
