//! The study: ask, evaluate, tell.

pub mod model;
