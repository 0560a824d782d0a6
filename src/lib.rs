//! Syntune synthesizes neural operators, tunes them with Apache TVM, trains them with libtorch, and searches for models
//! that are faster on your machine at the accuracy you asked for.

pub mod error;

pub mod child;
pub mod spec;
pub mod synth;

#[cfg(feature = "tvm")]
pub mod tvm;
#[cfg(not(feature = "tvm"))]
#[path = "tvm/off.rs"]
pub mod tvm;

pub mod lower;

pub mod tune;

pub mod train;

pub mod store;

pub mod search;

pub mod report;

pub mod cli;
