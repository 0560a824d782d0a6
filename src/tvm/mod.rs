//! tvm
