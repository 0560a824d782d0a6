//! A schedule space of our own, beside those of MetaSchedule's rules: sums that stay in registers until they are done.
//!
//! Good kernels of dense operators keep a tile of the output in vector registers over all terms of its sums, read the data
//! one broadcast value at a time and the weights as whole vectors (Goto, van de Geijn 2008; Georganas et al. 2018). MetaSchedule's
//! multi-level tiles put sums between the two innermost spatial cuts, so that the tile goes through memory again and again.
//! Here each reduction is cut `S₀ S₁ R₀ R₁ S₂`: S₂ is the register tile, its last loop the vector; what follows the sum
//! (bias, residual, ReLU) is done on the tile before it is stored. Sums along rows are another matter ([`rows`]).

use super::ffi::{NONE, array, cast, field, integer, items, text};
use super::{rows, te};
use crate::call;
use crate::error::Result;
use tvm_ffi::Any;

/// Values of a vector, at most: four 512-bit registers.
const MAX_LANES: i64 = 64;
/// Other loops of the register tile.
const MAX_ROWS: i64 = 16;
/// Terms of a sum's inner loop.
const MAX_TERMS: i64 = 64;
/// Steps of inner sums that are written out, at most.
const MAX_UNROLLED: i64 = 16;

const DATA_PARALLEL: i64 = 0;

/// Where a copy with a border of zeros is made.
const AT_ROOT: i64 = 0;
const AT_TILE: i64 = 1;
/// For each register tile: where the sums are short, as in a depthwise convolution, LLVM keeps the whole copy in registers.
const AT_REGISTERS: i64 = 2;
/// Loops of such a copy that are written out: so many vectors.
const MAX_COPIED: i64 = 64;

/// A block before it was scheduled.
pub(super) struct Block {
    pub block: Any,
    /// Extents of its spatial and its reduced loops, which come in this order.
    pub spatial: Vec<i64>,
    pub reduced: Vec<i64>,
}

/// Takes decisions from a list, or leaves them to TVM's random numbers.
pub(super) struct Chooser<'a> {
    pub schedule: &'a Any,
    given: Option<std::vec::IntoIter<Any>>,
}

impl Chooser<'_> {
    fn next(&mut self) -> Any {
        // a config that is too short is completed at random; the caller has compared the lengths
        self.given.as_mut().and_then(Iterator::next).unwrap_or(Any::from(NONE))
    }

    /// Cuts a loop into `n`.
    fn tile(&mut self, of: &Any, n: i64, max_innermost: i64) -> Result<Vec<Any>> {
        let decision = self.next();
        let factors = call!("s_tir.schedule.ScheduleSamplePerfectTile", *self.schedule, *of, n, max_innermost, decision)?;
        items(&call!("s_tir.schedule.ScheduleSplit", *self.schedule, *of, factors, true, false)?)
    }

    /// One of the values.
    pub fn one_of(&mut self, values: &[i64]) -> Result<i64> {
        let decision = self.next();
        let shares: Vec<Any> = values.iter().map(|_| te::float(1.0 / values.len() as f32)).collect::<Result<_>>()?;
        let chosen = call!("s_tir.schedule.ScheduleSampleCategorical", *self.schedule, array(values)?, array(&shares)?, decision)?;
        integer(&call!("s_tir.schedule.ScheduleGet", *self.schedule, chosen)?)
    }
}

pub(super) fn loops(schedule: &Any, block: &Any) -> Result<Vec<Any>> {
    items(&call!("s_tir.schedule.ScheduleGetLoops", *schedule, *block)?)
}

fn read(schedule: &Any, block: Any) -> Result<Block> {
    let node = call!("s_tir.schedule.ScheduleGet", *schedule, block)?;
    let (mut spatial, mut reduced) = (Vec::new(), Vec::new());
    for iter in items(&field(&node, "iter_vars")?)? {
        let extent = integer(&field(&field(&iter, "dom")?, "extent")?)?;
        match integer(&field(&iter, "iter_type")?)? {
            DATA_PARALLEL => spatial.push(extent),
            _ => reduced.push(extent),
        }
    }
    Ok(Block { block, spatial, reduced })
}

/// All blocks of `main` that compute something, in order.
fn blocks(schedule: &Any) -> Result<Vec<Block>> {
    let root = call!("s_tir.schedule.ScheduleGetSBlock", *schedule, text("root"), text("main"))?;
    let children = items(&call!("s_tir.schedule.ScheduleGetChildBlocks", *schedule, root)?)?;
    children.into_iter().map(|b| read(schedule, b)).collect()
}

/// Is there a sum to keep in registers?
///
/// # Errors
/// A module without a function `main`.
pub fn applies(schedule: &Any) -> Result<bool> {
    Ok(blocks(schedule)?.iter().any(|b| !b.reduced.is_empty() && !b.spatial.is_empty()))
}

/// Is it a function of rows, which has schedules of another kind ([`rows`])?
///
/// # Errors
/// As [`applies`].
pub fn is_of_rows(schedule: &Any) -> Result<bool> {
    rows::applies(schedule, &blocks(schedule)?)
}

/// Schedules a fresh module, by rows or by register tiles. Decisions are taken from `given` in the order in which the trace has them afterwards; without
/// them TVM draws.
///
/// # Errors
/// [`crate::error::Error::Library`] with TVM's words where it refuses a step.
pub fn apply(schedule: &Any, n_cores: usize, by_rows: bool, given: Option<Vec<Any>>) -> Result<()> {
    let mut chooser = Chooser { schedule, given: given.map(Vec::into_iter) };
    let blocks = blocks(schedule)?;
    if by_rows {
        return rows::apply(&mut chooser, &blocks, n_cores);
    }
    let mut done = vec![false; blocks.len()];
    for i in (0..blocks.len()).rev() {
        if done[i] || blocks[i].reduced.is_empty() || blocks[i].spatial.is_empty() {
            continue;
        }
        // an element-wise block right after the sum, over the same elements, writes the tile
        let mut writer = None;
        if let Some(next) = blocks.get(i + 1).filter(|b| !done[i + 1] && b.reduced.is_empty() && b.spatial == blocks[i].spatial)
            && is_producer(schedule, &blocks[i], next)?
        {
            writer = Some(i + 1);
        }
        let mut pads = Vec::new();
        for p in (0..i).filter(|&p| !done[p] && blocks[p].reduced.is_empty()) {
            if is_producer(schedule, &blocks[p], &blocks[i])? {
                pads.push(p);
            }
        }
        tile(&mut chooser, &blocks[i], writer.map(|w| &blocks[w]), &pads.iter().map(|&p| &blocks[p]).collect::<Vec<_>>(), n_cores)?;
        done[i] = true;
        writer.into_iter().chain(pads).for_each(|d| done[d] = true);
    }
    for (block, _) in blocks.iter().zip(&done).filter(|(b, done)| !**done && b.reduced.is_empty()) {
        stream(schedule, block, n_cores)?;
    }
    Ok(())
}

/// Does the second block alone read what the first one writes?
fn is_producer(schedule: &Any, first: &Block, second: &Block) -> Result<bool> {
    let consumers = items(&call!("s_tir.schedule.ScheduleGetConsumers", *schedule, first.block)?)?;
    let name = |block: &Any| -> Result<tvm_ffi::String> {
        cast(field(&call!("s_tir.schedule.ScheduleGet", *schedule, *block)?, "name_hint")?, "block name")
    };
    Ok(match &consumers[..] {
        [only] => name(only)?.as_str() == name(&second.block)?.as_str(),
        _ => false,
    })
}

/// The register tile of one reduction.
fn tile(chooser: &mut Chooser, block: &Block, writer: Option<&Block>, pads: &[&Block], n_cores: usize) -> Result<()> {
    let schedule = chooser.schedule;
    let n_spatial = block.spatial.len();
    let writer = match writer {
        Some(writer) => writer.block.clone(),
        None => call!("s_tir.schedule.ScheduleCacheWrite", *schedule, block.block, 0i64, text("global"), array::<Any>(&[])?)?,
    };
    let all = loops(schedule, &block.block)?;
    let mut levels: [Vec<Any>; 5] = Default::default();
    for (i, of) in all.iter().enumerate() {
        if i < n_spatial {
            let most = if i + 1 == n_spatial { MAX_LANES } else { MAX_ROWS };
            let parts = chooser.tile(of, 3, most)?;
            for (level, part) in [0, 1, 4].into_iter().zip(parts) {
                levels[level].push(part);
            }
        } else {
            for (level, part) in [2, 3].into_iter().zip(chooser.tile(of, 2, MAX_TERMS)?) {
                levels[level].push(part);
            }
        }
    }
    // which moves faster: the place or the vector of channels
    if chooser.one_of(&[0, 1])? == 1 {
        levels[1].rotate_right(1);
    }
    let order: Vec<Any> = levels.iter().flatten().cloned().collect();
    call!("s_tir.schedule.ScheduleReorder", *schedule, array(&order)?)?;
    let mut outer = levels[0].last().cloned();
    if n_cores > 1 {
        let fused = call!("s_tir.schedule.ScheduleFuse", *schedule, array(&levels[0])?, true)?;
        call!("s_tir.schedule.ScheduleParallel", *schedule, fused)?;
        outer = Some(fused);
    }
    if let Some(last) = levels[1].last() {
        call!("s_tir.schedule.ScheduleReverseComputeAt", *schedule, writer, *last, true, -1i64)?;
    }
    for pad in pads {
        let place = chooser.one_of(&[AT_ROOT, AT_TILE, AT_REGISTERS])?;
        match (place, &outer, levels[1].last()) {
            (AT_TILE, Some(outer), _) => {
                call!("s_tir.schedule.ScheduleComputeAt", *schedule, pad.block, *outer, true, -1i64)?;
                vectorize(schedule, &pad.block)?;
            }
            (AT_REGISTERS, _, Some(inner)) => {
                call!("s_tir.schedule.ScheduleComputeAt", *schedule, pad.block, *inner, true, -1i64)?;
                vectorize(schedule, &pad.block)?;
                let n_outer = levels[1].len() + if n_cores > 1 { 1 } else { levels[0].len() };
                if let Some((_, own)) = loops(schedule, &pad.block)?.get(n_outer..).and_then(<[Any]>::split_last) {
                    unroll(schedule, own, MAX_COPIED)?;
                }
            }
            _ => stream(schedule, pad, n_cores)?,
        }
    }
    let n_steps = if chooser.one_of(&[0, 1])? == 1 { MAX_UNROLLED } else { 1 };
    unroll(schedule, &levels[3], n_steps)?;
    let n_tile = levels[4].len();
    registers(schedule, &block.block, n_tile)?;
    registers(schedule, &writer, n_tile)?;
    // not before: what is left without its beginning is no reduction to TVM, and cannot be vectorized
    let first = call!("s_tir.schedule.ScheduleDecomposeReduction", *schedule, block.block, levels[2][0])?;
    registers(schedule, &first, n_tile)
}

/// Writes loops out from the innermost on, while they have no more than so many steps together.
fn unroll(schedule: &Any, nested: &[Any], most: i64) -> Result<()> {
    let mut n_steps = 1i64;
    for of in nested.iter().rev() {
        n_steps = n_steps.saturating_mul(extent(schedule, of)?.unwrap_or(i64::MAX));
        if n_steps > most {
            break;
        }
        call!("s_tir.schedule.ScheduleUnroll", *schedule, *of)?;
    }
    Ok(())
}

/// Writes the innermost loops out, the last as a vector.
pub(super) fn registers(schedule: &Any, block: &Any, n_loops: usize) -> Result<()> {
    let all = loops(schedule, block)?;
    let Some((lanes, rows)) = all[all.len().saturating_sub(n_loops)..].split_last() else { return Ok(()) };
    for row in rows {
        call!("s_tir.schedule.ScheduleUnroll", *schedule, *row)?;
    }
    call!("s_tir.schedule.ScheduleVectorize", *schedule, *lanes).map(drop)
}

/// `None` where it depends on outer loops, as that of a border's copy may.
fn extent(schedule: &Any, of: &Any) -> Result<Option<i64>> {
    Ok(integer(&field(&call!("s_tir.schedule.ScheduleGet", *schedule, *of)?, "extent")?).ok())
}

/// A block without sums, from the root: rows in parallel, the last loop in vectors.
fn stream(schedule: &Any, block: &Block, n_cores: usize) -> Result<()> {
    vectorize(schedule, &block.block)?;
    let all = loops(schedule, &block.block)?;
    if n_cores > 1 && block.spatial.len() > 1 {
        let rows = call!("s_tir.schedule.ScheduleFuse", *schedule, array(&all[..block.spatial.len() - 1])?, true)?;
        call!("s_tir.schedule.ScheduleParallel", *schedule, rows)?;
    }
    Ok(())
}

/// Cuts vectors from the last loop where one divides it.
pub(super) fn vectorize(schedule: &Any, block: &Any) -> Result<()> {
    let all = loops(schedule, block)?;
    let Some(last) = all.last() else { return Ok(()) };
    let extent = extent(schedule, last)?;
    let Some(lanes) = [16, 8, 4].into_iter().find(|lanes| extent.is_some_and(|e| e % lanes == 0)) else { return Ok(()) };
    let parts = split(schedule, last, lanes)?;
    call!("s_tir.schedule.ScheduleVectorize", *schedule, parts[1]).map(drop)
}

/// Cuts a loop into turns of so many steps.
pub(super) fn split(schedule: &Any, of: &Any, n_steps: i64) -> Result<Vec<Any>> {
    let factors = call!("ffi.Array", NONE, te::int(n_steps)?)?;
    items(&call!("s_tir.schedule.ScheduleSplit", *schedule, *of, factors, true, false)?)
}
