//! Modules that others made: MetaSchedule's database of workloads, or one module as TVM's JSON; what their function takes and gives.

use super::ffi::{cast, entries, field, integer, items, structural_equal, text, to_json};
use super::schedule::fresh;
use crate::call;
use crate::error::{Context, Error, Result};
use std::path::Path;
use tvm_ffi::{Any, DLDataType, DLDataTypeCode};

/// A module with one function `main` on float32 tensors of fixed shape.
pub struct Described {
    pub json: String,
    /// Each parameter's shape, and whether the function writes it.
    pub parameters: Vec<(Vec<i64>, bool)>,
    /// By TVM's count; 0 where it cannot count.
    pub n_flops: f64,
}

/// The modules of a file, in its order; one that cannot be tuned says why.
///
/// # Errors
/// The file cannot be read, or is neither MetaSchedule's `database_workload.json` nor a module's JSON.
pub fn read(file: &Path) -> Result<Vec<Result<Described>>> {
    let content = std::fs::read_to_string(file).context(|| format!("reading {}", file.display()))?;
    let is_workload = |line: &str| matches!(serde_json::from_str(line), Ok(serde_json::Value::Array(parts)) if parts.len() == 2);
    let lines: Vec<&str> = content.lines().filter(|line| !line.trim().is_empty()).collect();
    let module_of = |line: &str| {
        let parsed = call!("ffi.json.Parse", text(line))?;
        field(&call!("s_tir.meta_schedule.WorkloadFromJSON", parsed)?, "mod")
    };
    let modules: Vec<Result<Any>> = if !lines.is_empty() && lines.iter().all(|line| is_workload(line)) {
        lines.iter().map(|line| module_of(line)).collect()
    } else {
        vec![super::ffi::from_json(&content)]
    };
    if let [Err(error)] = &modules[..] {
        return Err(Error::Invalid(format!(
            "{} holds no module of TVM's ({error}): give a database_workload.json of MetaSchedule, or what tvm.ir.save_json wrote",
            file.display()
        )));
    }
    Ok(modules.into_iter().map(|module| describe(&module?)).collect())
}

/// # Errors
/// [`Error::Invalid`] for a module that cannot be tuned: its functions, types or shapes.
pub fn describe(module: &Any) -> Result<Described> {
    let refuse = |why: String| Err(Error::Invalid(why));
    let mut functions = Vec::new();
    for (variable, function) in entries(&field(module, "functions")?)? {
        let name: tvm_ffi::String = cast(field(&variable, "name_hint")?, "function name")?;
        functions.push((name.as_str().to_string(), function));
    }
    if functions.iter().any(|(_, function)| field(function, "is_pure").is_ok()) {
        return refuse("it is of Relax: extract its tasks first, with MetaSchedule's extract_tasks".into());
    }
    let names = || functions.iter().map(|f| f.0.as_str()).collect::<Vec<_>>().join(", ");
    let [(name, function)] = &functions[..] else {
        return refuse(format!("it has several functions ({}), not one `main`: give each a module of its own", names()));
    };
    if name != "main" {
        return refuse(format!("its function is called {name:?}, not `main`: rename it"));
    }
    let schedule = fresh(module, 1)?;
    let root = call!("s_tir.schedule.ScheduleGetSBlock", schedule, text("root"), text("main"))?;
    let mut written = Vec::new();
    for block in items(&call!("s_tir.schedule.ScheduleGetChildBlocks", schedule, root)?)? {
        for region in items(&field(&call!("s_tir.schedule.ScheduleGet", schedule, block)?, "writes")?)? {
            written.push(field(&region, "source")?);
        }
    }
    let mut parameters = Vec::new();
    for (at, parameter) in items(&field(function, "params")?)?.iter().enumerate() {
        let kind = field(parameter, "ty")?;
        if field(&kind, "storage_scope").is_err() {
            return refuse(format!("its parameter {at} is no tensor"));
        }
        let element: DLDataType = cast(field(&field(&kind, "dtype")?, "dtype")?, "type")?;
        if (element.code, element.bits, element.lanes) != (DLDataTypeCode::kDLFloat as u8, 32, 1) {
            return refuse(format!("its parameter {at} is not of float32"));
        }
        let shape: Result<Vec<i64>> = items(&field(&kind, "shape")?)?.iter().map(integer).collect();
        let Ok(shape) = shape else { return refuse(format!("the shape of its parameter {at} is not fixed")) };
        let mut is_output = false;
        for other in &written {
            is_output |= structural_equal(other, parameter)?;
        }
        parameters.push((shape, is_output));
    }
    if !parameters.iter().any(|p| p.1) {
        return refuse("its function writes none of its parameters".into());
    }
    let n_flops = call!("s_tir.analysis.EstimateTIRFlops", *module).and_then(|n| cast::<f64>(n, "count")).unwrap_or(0.0);
    Ok(Described { json: to_json(module)?, parameters, n_flops })
}
