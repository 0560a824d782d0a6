//! From a scheduled module to a shared library: what TVM's Python does in `tirx/build.py` and `s_tir/pipeline.py`.

use super::ffi::{NONE, array, call, cast, field, func, is_none, text};
use super::target::Target;
use crate::call;
use crate::error::{Context, Error, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;
use tvm_ffi::{Any, AnyView, RValueRef, object::ObjectRef};

/// Seconds of each step of one build.
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BuildTimes {
    pub lower_secs: f64,
    pub llvm_secs: f64,
    pub link_secs: f64,
}

/// The default lowering passes of TVM 0.27 (`s_tir/pipeline.py`), in order.
const PASSES: [&str; 47] = [
    "s_tir.transform.CanonicalizeLoop",
    "s_tir.transform.LowerCrossThreadReduction",
    "s_tir.transform.LowerInitBlock",
    "s_tir.transform.PlanAndUpdateBufferAllocationLocation",
    "s_tir.transform.ConvertBlocksToOpaque",
    "s_tir.transform.LiftThreadBinding",
    "s_tir.transform.ManifestSharedMemoryLocalStage",
    "s_tir.transform.CompactBufferAllocation",
    "s_tir.transform.LowerAutoCopy",
    "s_tir.transform.UnifyThreadBinding",
    "s_tir.transform.LowerMatchBuffer",
    "s_tir.transform.StmtSimplify",
    "s_tir.transform.InjectPermutedLayout",
    "s_tir.transform.AnnotateIrregularLoop",
    "s_tir.transform.InjectSoftwarePipeline",
    "s_tir.transform.TransformMmaBufferLayout",
    "s_tir.transform.LowerOpaqueBlock",
    "tirx.transform.FlattenBuffer",
    "tirx.transform.BF16ComputeLegalize",
    "tirx.transform.NarrowDataType",
    "s_tir.transform.LoopPartition",
    "tirx.transform.VectorizeLoop",
    "s_tir.transform.InjectVirtualThread",
    "s_tir.transform.InjectDoubleBuffer",
    "tirx.transform.StorageRewrite",
    "s_tir.transform.HoistIfThenElse",
    "tirx.transform.UnrollLoop",
    "s_tir.transform.RenormalizeSplitPattern",
    "tirx.transform.StmtSimplify",
    "tirx.transform.RemoveNoOp",
    "s_tir.transform.RewriteUnsafeSelect",
    "tirx.transform.CommonSubexprElim",
    "tirx.transform.FP8ComputeLegalize",
    "s_tir.transform.VerifyVTCMLimit",
    "s_tir.transform.LowerVtcmAlloc",
    "tirx.transform.VerifyMemory",
    "tirx.transform.AnnotateEntryFunc",
    "ThreadSync shared",
    "ThreadSync shared.dyn",
    "ThreadSync warp",
    "s_tir.transform.InferFragment",
    "s_tir.transform.LowerThreadAllreduce",
    "s_tir.transform.MergeSharedMemoryAllocations",
    "tirx.transform.SplitHostDevice",
    "tirx.transform.MakePackedAPI",
    "tirx.transform.FP8StorageLegalize",
    "tirx.transform.BF16StorageLegalize",
];
const HOST: [&str; 2] = ["tirx.transform.LowerTVMBuiltin", "tirx.transform.LowerIntrin"];

fn sequential(passes: &[Any], name: &str) -> Result<Any> {
    call!("transform.Sequential", array(passes)?, 0i64, text(name), array::<Any>(&[])?, false)
}

fn run(pass: &Any, module: Any) -> Result<Any> {
    let module: ObjectRef = cast(module, "module")?;
    let moved = RValueRef::new(module);
    call("transform.RunPass", &[AnyView::from(pass), AnyView::from(&moved)])
}

fn pass(name: &'static str) -> Result<Any> {
    match name {
        "s_tir.transform.CompactBufferAllocation" => {
            call!("s_tir.transform.CompactBufferAllocation", true)
        }
        "tirx.transform.NarrowDataType" => call!("tirx.transform.NarrowDataType", 32i64),
        "tirx.transform.VectorizeLoop" => call!("tirx.transform.VectorizeLoop", true),
        "tirx.transform.FP8ComputeLegalize" => {
            call!("tirx.transform.FP8ComputeLegalize", text("float32"))
        }
        "s_tir.transform.VerifyVTCMLimit" => call!("s_tir.transform.VerifyVTCMLimit", NONE),
        _ => match name.strip_prefix("ThreadSync ") {
            Some(scope) => call!("s_tir.transform.ThreadSync", text(scope)),
            None => call(name, &[]),
        },
    }
}

/// Lowers a module and compiles it for a CPU target. Returns TVM's runtime module and the times.
///
/// # Errors
/// [`Error::Library`] with TVM's words when a pass or LLVM refuses the module.
pub fn compile(module: &Any, target: &Target) -> Result<(Any, BuildTimes)> {
    let mut times = BuildTimes::default();
    let start = Instant::now();
    let bound = call!("target.WithHost", target.node, target.node)?;
    let mut all = vec![call!("tirx.transform.BindTarget", bound)?];
    for name in PASSES {
        all.push(pass(name)?);
    }
    let lowered = run(&sequential(&all, "syntune.lower")?, module.clone())?;
    let is_host = func(|arguments| {
        let function = Any::from(arguments[0]);
        let attributes = field(&function, "attrs")?;
        let target = call!("ffi.MapGetItemOrMissing", field(&attributes, "__dict__")?, text("target"))?;
        if is_none(&target) {
            return Ok(Any::from(true));
        }
        let Ok(kind) = field(&target, "kind") else {
            return Ok(Any::from(true));
        };
        let name: tvm_ffi::String = cast(field(&kind, "name")?, "target kind")?;
        Ok(Any::from(matches!(name.as_str(), "llvm" | "c")))
    });
    let mut finish = vec![call!("tirx.transform.Filter", is_host)?];
    finish.extend(HOST.iter().map(|&name| pass(name)).collect::<Result<Vec<_>>>()?);
    let host = run(&sequential(&finish, "syntune.host")?, lowered)?;
    times.lower_secs = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let built = call!("target.build.llvm", host, target.node)?;
    times.llvm_secs = start.elapsed().as_secs_f64();
    Ok((built, times))
}

/// Compiles a module into `folder/kernel.so`; the folder should be private to this kernel.
///
/// # Errors
/// As [`compile`]; [`Error::Io`] when the linker is missing or the disk is full.
pub fn build_library(module: &Any, target: &Target, folder: &Path) -> Result<(PathBuf, BuildTimes)> {
    let (built, mut times) = compile(module, target)?;
    let start = Instant::now();
    let object = folder.join("kernel.o");
    let library = folder.join("kernel.so");
    call!("ffi.ModuleWriteToFile", built, text(&object.to_string_lossy()), text("o"))?;
    times.llvm_secs += start.elapsed().as_secs_f64();
    let start = Instant::now();
    link(&object, &library)?;
    std::fs::remove_file(&object).context(|| format!("removing {}", object.display()))?;
    times.link_secs = start.elapsed().as_secs_f64();
    Ok((library, times))
}

/// `ld` when it is there (it is three times as fast), else `cc`.
fn link(object: &Path, library: &Path) -> Result<()> {
    let attempt = |program: &str| Command::new(program).arg("-shared").arg("-o").arg(library).arg(object).output();
    let output = match attempt("ld") {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => attempt("cc").context(|| "running cc: install gcc or binutils".into())?,
        other => other.context(|| "running ld".into())?,
    };
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let source = std::io::Error::other(said.trim().to_string());
    Err(Error::Io { context: format!("linking {}; is the disk full?", library.display()), source })
}
