//! What one operator computes: loop nests, their interpreter, and their forms in TE and torch.

mod contract;
pub mod fingerprint;
pub mod index;
pub mod interp;
pub mod layout;
pub mod loops;
pub mod pad;
pub mod plan;
#[cfg(feature = "torch")]
mod positions;
mod split;
pub mod stage;
#[cfg(feature = "tvm")]
pub mod te;
#[cfg(not(feature = "tvm"))]
#[path = "te_off.rs"]
pub mod te;
#[cfg(feature = "torch")]
pub mod torch;
#[cfg(not(feature = "torch"))]
#[path = "torch_off.rs"]
pub mod torch;
mod torch_py;

pub use fingerprint::{Fingerprint, fingerprint, small_bindings};
pub use interp::{interp, interp_at};
pub use layout::channels_last;
pub use loops::{Access, Epilogue, Expr, Function, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
pub use stage::{cost, lower, lower_flat, stagings};
pub use torch_py::torch_py;
