//! Opens TVM's libraries. They are never closed.

use crate::error::{Error, Result};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use std::path::PathBuf;
use std::sync::OnceLock;

/// What `TVMFFIGetVersion` says for the PyPI versions 0.1.14.post0 and 0.1.14.post1.
const GOOD_VERSION: Version = Version { major: 0, minor: 1, patch: 15 };

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    pub major: u32,
    pub minor: u32,
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

unsafe extern "C" {
    fn TVMFFIGetVersion(out: *mut Version);
}

/// The version of the C interface that libtvm_ffi.so reports (not the one of its PyPI package).
pub fn version() -> Version {
    let mut found = Version::default();
    // SAFETY: the function only writes the three integers of the struct, whose layout is C's.
    unsafe { TVMFFIGetVersion(&mut found) };
    found
}

/// Refuses versions of tvm-ffi that crash or miscompute with apache-tvm 0.27.0.post1.
///
/// # Errors
/// [`Error::Library`] naming the version found and the way out.
pub fn check_version(found: Version) -> Result<()> {
    if found == GOOD_VERSION {
        return Ok(());
    }
    let newer = if found > GOOD_VERSION {
        "apache-tvm 0.27.0.post1 crashes with it when it writes IR"
    } else {
        "it lacks functions that this program calls"
    };
    Err(Error::Library(format!(
        "libtvm_ffi.so reports version {found}, and {newer}; install apache-tvm-ffi==0.1.14.post1 (it reports {GOOD_VERSION}) or run scripts/setup"
    )))
}

fn folder() -> PathBuf {
    std::env::var_os("SYNTUNE_TVM").map_or_else(|| PathBuf::from(env!("SYNTUNE_TVM")), PathBuf::from).join("tvm/lib")
}

fn open(name: &str, flags: i32) -> Result<Library> {
    let path = folder().join(name);
    // SAFETY: TVM's libraries only register functions and types when they are opened.
    unsafe { Library::open(Some(&path), RTLD_NOW | flags) }.map_err(|e| {
        Error::Library(format!(
            "cannot open {}: {e}; run scripts/setup, or set SYNTUNE_TVM to a folder that holds tvm/lib and tvm_ffi/lib",
            path.display()
        ))
    })
}

/// Opens the runtime: enough to load and run compiled kernels (5-8 ms).
///
/// # Errors
/// [`Error::Library`] when a library is missing or its version is a known-bad one.
pub fn load_runtime() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    let once = || {
        check_version(version())?;
        std::mem::forget(open("libtvm_runtime.so", RTLD_GLOBAL)?);
        Ok(())
    };
    LOADED.get_or_init(|| once().map_err(|e: Error| e.to_string())).clone().map_err(Error::Library)
}

/// Opens the runtime and the compiler (60-110 ms, 86 MiB).
///
/// # Errors
/// As [`load_runtime`].
pub fn load_compiler() -> Result<()> {
    static LOADED: OnceLock<std::result::Result<(), String>> = OnceLock::new();
    load_runtime()?;
    let once = || {
        std::mem::forget(open("libtvm_compiler.so", RTLD_LOCAL)?);
        Ok(())
    };
    LOADED.get_or_init(|| once().map_err(|e: Error| e.to_string())).clone().map_err(Error::Library)
}

/// Gives crashes back their default action: libtvm_ffi's own handler spends half a second on symbols.
/// For worker processes, after loading.
pub fn reset_signals() {
    unsafe extern "C" {
        fn signal(number: i32, action: usize) -> usize;
    }
    const DEFAULT: usize = 0;
    // SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV on Linux.
    for number in [4, 6, 7, 8, 11] {
        // SAFETY: restoring the default action of a signal touches no memory of ours.
        unsafe { signal(number, DEFAULT) };
    }
}
