//! One integration binary, one file per room, in walk order.

mod cli;
mod fingerprint;
mod layers;
mod lower;
mod report;
mod search;
mod spec;
mod store;
mod syno_operators;
mod synth;
#[cfg(feature = "tvm")]
mod te;
#[cfg(feature = "torch")]
mod torch;
mod torch_py;
mod train;
#[cfg(feature = "torch")]
mod trainer;
mod tune;
mod util;
#[cfg(all(feature = "tvm", feature = "torch"))]
mod walk;
