//! One integration binary, one file per room, in walk order.

mod chameleon;
mod cli;
mod cost;
#[cfg(feature = "tvm")]
mod evolve;
mod fingerprint;
mod ids;
mod layers;
mod lower;
mod mcts;
#[cfg(feature = "tvm")]
mod modules;
mod projection;
mod report;
#[cfg(feature = "tvm")]
mod rows;
mod search;
mod spec;
mod store;
mod strided;
mod syno_operators;
mod synth;
mod synth_arithmetic;
mod synth_distance;
mod synth_enumerate;
mod synth_space;
mod tasks;
#[cfg(feature = "tvm")]
mod te;
#[cfg(feature = "torch")]
mod torch;
mod torch_py;
mod train;
#[cfg(feature = "torch")]
mod trainer;
mod transformer;
mod tune;
mod tune_faults;
mod util;
#[cfg(all(feature = "tvm", feature = "torch"))]
mod walk;
