//! TVM's room when the program is built without it: every request is refused politely.

use crate::error::{Error, Result};

fn refuse<T>() -> Result<T> {
    Err(Error::Library("this program was built without TVM: build it with `cargo build --features tvm` after scripts/setup".into()))
}

pub fn load_runtime() -> Result<()> {
    refuse()
}

pub fn load_compiler() -> Result<()> {
    refuse()
}

pub fn host_target(_n_threads: usize) -> Result<String> {
    refuse()
}
