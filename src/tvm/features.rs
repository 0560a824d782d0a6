//! MetaSchedule's features: 164 numbers for each store of a scheduled program (Ansor, appendix B), as its cost models take them.

use super::ffi::{NONE, array, cast, explain, func, items, text};
use super::schedule::{Scheduled, Workload};
use crate::call;
use crate::error::{Error, Result};
use tvm_ffi::{Any, Function, Tensor};

/// TVM's defaults: buffers described per store, samples of the arithmetic intensity, bytes of a cache line.
const BUFFERS: i64 = 5;
const INTENSITIES: i64 = 10;
const LINE_BYTES: i64 = 64;
/// Features of one store with these: 57 counts and loop kinds, 18 of each buffer, the intensities, 4 of the allocation, 3 of the loops.
pub const N_FEATURES: usize = 164;

/// One row of [`N_FEATURES`] per store, in the program's order; counts and bytes come as log2(1 + x). About 2 ms.
///
/// # Errors
/// [`Error::Library`] with TVM's words when it cannot read the program.
pub fn per_store(workload: &Workload, scheduled: &Scheduled) -> Result<Vec<Vec<f64>>> {
    let extractor = call!("s_tir.meta_schedule.FeatureExtractorPerStoreFeature", BUFFERS, INTENSITIES, LINE_BYTES, false)?;
    let silent: Function = func(|_| Ok(Any::from(())));
    let target = &workload.target.node;
    let context = call!("s_tir.meta_schedule.TuneContext", workload.module, *target, NONE, NONE, text("main"), 1i64, 1i64, silent)?;
    // the extractor reads nothing but the program of a schedule
    let schedule = call!("s_tir.schedule.TracedSchedule", scheduled.module, 1i64, 0i64, 2i64, false)?;
    let candidate = call!("s_tir.meta_schedule.MeasureCandidate", schedule, NONE)?;
    let found = items(&call!("s_tir.meta_schedule.FeatureExtractorExtractFrom", extractor, context, array(&[candidate])?)?)?;
    let [rows] = <[Any; 1]>::try_from(found)
        .map_err(|found| Error::Library(format!("TVM gave features of {} programs for one; run scripts/setup", found.len())))?;
    let rows: Tensor = cast(rows, "features")?;
    let values = rows.data_as_slice::<f64>().map_err(|e| Error::Library(explain(&e)))?;
    Ok(values.chunks(N_FEATURES).map(<[f64]>::to_vec).collect())
}
