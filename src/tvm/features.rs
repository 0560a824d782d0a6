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

/// A program: one row of [`N_FEATURES`] per store, in its order; counts and bytes come as log2(1 + x).
pub type Features = Vec<Vec<f64>>;

/// Of one schedule. About 2 ms.
///
/// # Errors
/// [`Error::Library`] with TVM's words when it cannot read the program.
pub fn per_store(workload: &Workload, scheduled: &Scheduled) -> Result<Features> {
    let silent: Function = func(|_| Ok(Any::from(())));
    let target = &workload.target.node;
    let context = call!("s_tir.meta_schedule.TuneContext", workload.module, *target, NONE, NONE, text("main"), 1i64, 1i64, silent)?;
    let candidate = call!("s_tir.meta_schedule.MeasureCandidate", scheduled.schedule, NONE)?;
    Ok(extract(&context, &array(&[candidate])?)?.pop().unwrap_or_default())
}

/// Of an array of MetaSchedule's candidates.
///
/// # Errors
/// As [`per_store`].
pub(super) fn extract(context: &Any, candidates: &Any) -> Result<Vec<Features>> {
    let extractor = call!("s_tir.meta_schedule.FeatureExtractorPerStoreFeature", BUFFERS, INTENSITIES, LINE_BYTES, false)?;
    let rows = |tensor: Any| {
        let rows: Tensor = cast(tensor, "features")?;
        let values = rows.data_as_slice::<f64>().map_err(|e| Error::Library(explain(&e)))?;
        Ok(values.chunks_exact(N_FEATURES).map(<[f64]>::to_vec).collect())
    };
    items(&call!("s_tir.meta_schedule.FeatureExtractorExtractFrom", extractor, *context, *candidates)?)?.into_iter().map(rows).collect()
}
