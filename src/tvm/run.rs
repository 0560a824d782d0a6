//! Loading and running compiled kernels: for measuring workers and tests only.

use super::ffi::{cast, explain, text};
use crate::call;
use crate::error::{Error, Result};
use std::path::Path;
use tvm_ffi::{AnyView, DLDevice, DLDeviceType, Function, Tensor};

/// A compiled function. Calling it runs machine code that the compiler made: never in the controlling process.
#[derive(Clone)]
pub struct Kernel {
    function: Function,
    // Keeps the library mapped.
    _module: tvm_ffi::Module,
}

/// A dense float32 tensor in this process.
#[derive(Clone)]
pub struct Buffer(Tensor);

impl Buffer {
    /// # Errors
    /// [`Error::Library`] when the shape and the number of values differ.
    pub fn new(shape: &[i64], values: &[f32]) -> Result<Buffer> {
        Tensor::from_slice(values, shape)
            .map(Buffer)
            .map_err(|e| Error::Library(format!("a tensor of shape {shape:?}: {}; pass as many values as its shape holds", explain(&e))))
    }

    pub fn filled(shape: &[i64], value: f32) -> Result<Buffer> {
        Buffer::new(shape, &vec![value; shape.iter().product::<i64>() as usize])
    }

    pub fn values(&self) -> Result<Vec<f32>> {
        Ok(self.slice()?.to_vec())
    }

    pub fn slice(&self) -> Result<&[f32]> {
        self.0.data_as_slice::<f32>().map_err(|e| Error::Library(explain(&e)))
    }

    /// Overwrites all values.
    pub fn fill(&mut self, value: f32) -> Result<()> {
        self.0.data_as_slice_mut::<f32>().map_err(|e| Error::Library(explain(&e)))?.fill(value);
        Ok(())
    }
}

impl Kernel {
    /// Opens a shared library that [`build_library`](super::build::build_library) made.
    pub fn open(library: &Path) -> Result<Kernel> {
        let module = tvm_ffi::Module::load_from_file(library.to_string_lossy())
            .map_err(|e| Error::Library(format!("{}: {}; build it again", library.display(), explain(&e))))?;
        Kernel::of(module)
    }

    /// The function `main` of a runtime module, compiled in this process.
    pub fn jit(built: tvm_ffi::Any) -> Result<Kernel> {
        Kernel::of(cast(built, "module")?)
    }

    fn of(module: tvm_ffi::Module) -> Result<Kernel> {
        let function = cast(call!("ffi.ModuleGetFunction", module, text("main"), true)?, "function main")?;
        Ok(Kernel { function, _module: module })
    }

    /// Runs once.
    pub fn run(&self, arguments: &[Buffer]) -> Result<()> {
        let views: Vec<AnyView> = arguments.iter().map(|b| AnyView::from(&b.0)).collect();
        self.function
            .call_packed(&views)
            .map(drop)
            .map_err(|e| Error::Library(format!("the kernel refused its arguments: {}", explain(&e))))
    }

    /// The same call many times without rebuilding its argument list.
    pub fn bind<'a>(&'a self, arguments: &'a [Buffer]) -> impl Fn() -> Result<()> + 'a {
        let views: Vec<AnyView> = arguments.iter().map(|b| AnyView::from(&b.0)).collect();
        move || {
            self.function
                .call_packed(&views)
                .map(drop)
                .map_err(|e| Error::Library(format!("the kernel refused its arguments: {}", explain(&e))))
        }
    }
}

/// The processor's memory.
pub fn cpu() -> DLDevice {
    DLDevice::new(DLDeviceType::kDLCPU, 0)
}
