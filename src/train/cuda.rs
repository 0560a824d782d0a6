//! The one place that looks for a GPU: `libtorch_cuda.so` is not linked, but opened where it exists.

use std::sync::Once;
use tch::Device;

/// The first GPU where libtorch's CUDA half can be opened (beside libtorch or on LD_LIBRARY_PATH) and a device answers; else the CPU.
pub fn device() -> Device {
    static OPENED: Once = Once::new();
    OPENED.call_once(|| {
        let flags = libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_GLOBAL;
        // SAFETY: libtorch_cuda registers its kernels in its initialisers and is made to be opened so; it stays open for the process's life.
        if let Ok(library) = unsafe { libloading::os::unix::Library::open(Some("libtorch_cuda.so"), flags) } {
            std::mem::forget(library);
        }
    });
    Device::cuda_if_available()
}
