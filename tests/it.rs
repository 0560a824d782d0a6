//! One integration binary, one file per room, in walk order.

mod spec;
mod synth;
mod lower;
#[cfg(feature = "tvm")]
mod te;
#[cfg(feature = "torch")]
mod torch;
mod torch_py;
mod tune;
mod train;
#[cfg(feature = "torch")]
mod trainer;
mod store;
mod search;
mod report;
mod cli;
mod layers;
mod util;
#[cfg(all(feature = "tvm", feature = "torch"))]
mod walk;
