//! tune
pub mod config;
pub mod measure;
pub mod protocol;
#[cfg(feature = "tvm")]
pub mod worker;
#[cfg(not(feature = "tvm"))]
#[path = "worker_off.rs"]
pub mod worker;

pub use config::*;
