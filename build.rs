//! Finds TVM and libtorch where `scripts/setup` put them, and gives every binary an rpath to them.

use std::path::PathBuf;
use std::process::exit;

fn folder(variable: &str, below: &str, probe: &str, feature: &str) -> PathBuf {
    println!("cargo:rerun-if-env-changed={variable}");
    let found = std::env::var_os(variable).map(|root| PathBuf::from(root).join(below));
    match found {
        Some(lib) if lib.join(probe).exists() => lib,
        found => {
            let why = match &found {
                Some(lib) => format!("{} has no {probe}", lib.display()),
                None => format!("{variable} is not set"),
            };
            eprintln!("error: the feature `{feature}` needs {probe}: {why}.");
            eprintln!("  run scripts/setup once in this clone: it downloads the libraries and writes .cargo/config.toml;");
            eprintln!("  or build the pure-Rust core: cargo build --no-default-features");
            exit(1);
        }
    }
}

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let mut rpaths = Vec::new();
    if std::env::var_os("CARGO_FEATURE_TVM").is_some() {
        rpaths.push(folder("SYNTUNE_TVM", "tvm_ffi/lib", "libtvm_ffi.so", "tvm"));
        println!("cargo:rustc-env=SYNTUNE_TVM={}", std::env::var("SYNTUNE_TVM").unwrap_or_default());
    }
    if std::env::var_os("CARGO_FEATURE_TORCH").is_some() {
        rpaths.push(folder("LIBTORCH", "lib", "libtorch_cpu.so", "torch"));
    }
    for path in rpaths {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", path.display());
    }
}
