//! How well a model learns with operators in its slots.
//!
//! A [`Trainer`] sends a request to a worker process and hands on each epoch as it comes; the worker ([`worker`]) builds the backbone with
//! one operator per slot ([`backbone`], `model`), reads the data ([`data`]) and trains it. One process per training: two in one process
//! would share libtorch's state and not be reproducible.

pub mod backbone;
#[cfg(feature = "torch")]
#[allow(unsafe_code)]
mod cuda;
pub mod data;
pub mod fold;
#[cfg(feature = "torch")]
mod model;
pub mod request;
#[cfg(feature = "torch")]
mod tokens;
pub mod trainer;
pub mod transformer;
pub mod weights;
#[cfg(feature = "torch")]
pub mod worker;
#[cfg(not(feature = "torch"))]
#[path = "worker_off.rs"]
pub mod worker;

pub use backbone::{Backbone, Slot};
pub use data::{DataSet, Source};
pub use request::{Epoch, ForwardRequest, LatencyRequest, Recipe, TrainRequest};
pub use trainer::{Failure, Outcome, Trainer};
