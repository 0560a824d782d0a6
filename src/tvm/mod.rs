//! Safe hands on TVM 0.27: its libraries opened at run time, its functions called by name.
//!
//! [`load`] opens the libraries and refuses versions known to crash; [`ffi`] calls functions and reads nodes; [`te`] writes tensor
//! expressions; [`target`] reads targets; [`module`] reads what others made; [`schedule`] makes and replays MetaSchedule traces and schedules of our own; [`features`] describes them as numbers; [`evolve`] drives MetaSchedule's own search;
//! [`build`] lowers and compiles; [`run`] loads kernels. Every TVM name stands in this room, and nearly all unsafe code. TVM objects stay on the thread that made them; between processes they travel as JSON.

pub mod build;
pub mod evolve;
pub mod features;
pub mod ffi;
#[allow(unsafe_code)]
pub mod load;
pub mod module;
mod rows;
pub mod run;
pub mod schedule;
mod sketch;
pub mod target;
pub mod te;

pub use ffi::{script, structural_equal, structural_hash};
pub use load::{check_version, load_compiler, load_runtime, reset_signals, version};
pub use run::{Buffer, Kernel};
pub use target::{Target, host_target};
