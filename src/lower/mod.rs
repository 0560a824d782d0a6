//! What one operator computes: loop nests, their interpreter, and their forms in TE and torch.

pub mod index;
pub mod interp;
pub mod loops;
pub mod stage;

pub use interp::interp;
pub use stage::{lower, lower_flat};
pub use loops::{Access, Epilogue, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
