//! How well a model learns with operators in its slots.

pub mod backbone;
pub mod data;

pub use backbone::{Backbone, Slot};
pub use data::{DataSet, Source};
