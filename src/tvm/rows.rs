//! Schedules for functions that take the rows of a matrix one after the other: softmax, layer norm, sums along what lies together.
//!
//! Where a sum runs along the last axis of its data, a register tile of several rows would fetch each value alone. Here each sum is kept
//! in the lanes of vectors that run along the row, which are added up at its end (Suriana et al. 2017, `rfactor`), and all that is done
//! with one row is done before the next, while it is in the first cache.

use super::ffi::{array, field, integer, items, structural_equal};
use super::sketch::{Block, Chooser, loops, registers, split, vectorize};
use crate::call;
use crate::error::Result;
use tvm_ffi::Any;

/// Values of the vectors that a sum is kept in; those that divide the row are a choice.
const LANES: [i64; 4] = [8, 16, 32, 64];

/// Is every block a part of what is done with the rows of one matrix, and does some sum run along them?
///
/// # Errors
/// A module that cannot be read.
pub fn applies(schedule: &Any, blocks: &[Block]) -> Result<bool> {
    let Some(sum) = blocks.iter().find(|b| !b.reduced.is_empty()) else { return Ok(false) };
    let [columns] = sum.reduced[..] else { return Ok(false) };
    let rows = &sum.spatial;
    let whole = [&rows[..], &[columns]].concat();
    for block in blocks {
        let fits = match &block.reduced[..] {
            [] => block.spatial == whole || block.spatial == *rows,
            [sum] => *sum == columns && block.spatial == *rows && reads_along(schedule, block)?,
            _ => false,
        };
        if !fits {
            return Ok(false);
        }
    }
    Ok(!rows.is_empty() && LANES.iter().any(|lanes| columns % lanes == 0))
}

/// Is what a sum reads whole rows `x[…, j]` and what is the same all along a row? In a matrix product, where each row is read with many
/// columns of weights, tiles of registers are better.
fn reads_along(schedule: &Any, block: &Block) -> Result<bool> {
    let node = call!("s_tir.schedule.ScheduleGet", *schedule, block.block)?;
    let mut variables = Vec::new();
    for iter in items(&field(&node, "iter_vars")?)? {
        variables.push(field(&iter, "var")?);
    }
    let Some((summed, rows)) = variables.split_last() else { return Ok(false) };
    let mut is_along = false;
    for read in items(&field(&node, "reads")?)? {
        let ranges = items(&field(&read, "region")?)?;
        let index = ranges.iter().map(|range| field(range, "min")).collect::<Result<Vec<_>>>()?;
        let mut is_row = index.len() == variables.len() && structural_equal(&index[rows.len()], summed)?;
        for (place, row) in index.iter().zip(rows) {
            is_row = is_row && (integer(place).is_ok() || structural_equal(place, row)?);
        }
        is_along |= is_row;
        for place in index.iter().filter(|_| !is_row) {
            let mut is_of_row = integer(place).is_ok();
            for row in rows {
                is_of_row = is_of_row || structural_equal(place, row)?;
            }
            if !is_of_row {
                return Ok(false);
            }
        }
    }
    Ok(is_along)
}

/// Schedules all blocks; those that follow a row's sums are done with it.
///
/// # Errors
/// [`crate::error::Error::Library`] with TVM's words where it refuses a step.
pub fn apply(chooser: &mut Chooser, blocks: &[Block], n_cores: usize) -> Result<()> {
    let schedule = chooser.schedule;
    let Some((last, others)) = blocks.split_last() else { return Ok(()) };
    let mut partial: Vec<Option<Any>> = Vec::new();
    for block in blocks {
        let [columns] = block.reduced[..] else {
            partial.push(None);
            continue;
        };
        let fits: Vec<i64> = LANES.into_iter().filter(|lanes| columns % lanes == 0).collect();
        let lanes = if let [only] = fits[..] { only } else { chooser.one_of(&fits)? };
        let all = loops(schedule, &block.block)?;
        let parts = split(schedule, &all[block.spatial.len()], lanes)?;
        partial.push(Some(call!("s_tir.schedule.ScheduleRFactor", *schedule, parts[1], block.spatial.len() as i64)?));
    }
    let n_rows = blocks.iter().map(|b| b.spatial.len()).min().unwrap_or(0);
    let all = loops(schedule, &last.block)?;
    let mut row = all[n_rows - 1].clone();
    if n_cores > 1 {
        row = call!("s_tir.schedule.ScheduleFuse", *schedule, array(&all[..n_rows])?, true)?;
        call!("s_tir.schedule.ScheduleParallel", *schedule, row)?;
    }
    let into_row = |block: &Any| call!("s_tir.schedule.ScheduleComputeAt", *schedule, *block, row, true, -1i64).map(drop);
    for (i, block) in blocks.iter().enumerate().rev() {
        if i < others.len() {
            into_row(&block.block)?;
        }
        match &partial[i] {
            Some(sums) => {
                into_row(sums)?;
                // the vector comes first: TVM makes loops in the order of a block's variables, and `rfactor` puts its own before the others
                let all = loops(schedule, sums)?;
                let own = &all[all.len() - (n_rows + 2)..];
                call!("s_tir.schedule.ScheduleReorder", *schedule, array(&[&own[1..], &own[..1]].concat())?)?;
                registers(schedule, sums, 1)?;
                let first = call!("s_tir.schedule.ScheduleDecomposeReduction", *schedule, *sums, own[n_rows + 1])?;
                registers(schedule, &first, 1)?;
            }
            None if block.spatial.len() > n_rows => vectorize(schedule, &block.block)?,
            None => {}
        }
    }
    Ok(())
}
