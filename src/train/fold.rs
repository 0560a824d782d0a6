//! Batch norm folded into the operator before it: a scale in its weights and a bias after it.

use crate::lower::index::Index;
use crate::lower::{LoopNest, Role};

/// Of a batch norm in evaluation mode: `y·scale + shift` for every channel. Slices of one length.
pub fn scale_and_shift(weight: &[f32], bias: &[f32], mean: &[f32], variance: &[f32], epsilon: f32) -> (Vec<f32>, Vec<f32>) {
    let scale: Vec<f32> = weight.iter().zip(variance).map(|(w, v)| w / (v + epsilon).sqrt()).collect();
    let shift = bias.iter().zip(mean).zip(&scale).map(|((b, m), s)| b - m * s).collect();
    (scale, shift)
}

/// Multiplies output channel `c` (axis 1 of the output) by `scale[c]` through one of the weights (in the nest's order, row-major).
/// False, and nothing is changed, where no weight's element belongs to one channel alone: multiply the output instead.
pub fn fold_scale(nest: &LoopNest, weights: &mut [Vec<f32>], scale: &[f32]) -> bool {
    let Some(last) = nest.stages.last() else { return false };
    let Some(factors) = last.factors() else { return false };
    let order: Vec<usize> = (0..nest.tensors.len()).filter(|&t| nest.tensors[t].role == Role::Weight).collect();
    let extents = last.extents();
    for access in factors {
        let Some(place) = order.iter().position(|&t| t == access.tensor) else { continue };
        let used_twice = nest.stages.iter().map(|s| {
            let mut n = 0;
            s.body.visit(&mut |a| n += usize::from(a.tensor == access.tensor));
            n
        });
        if used_twice.sum::<usize>() != 1 {
            continue;
        }
        if let Some(channels) = channel_of_each_element(&access.index, &nest.tensors[access.tensor].shape, &extents) {
            weights[place].iter_mut().zip(channels).for_each(|(w, c)| *w *= scale[c]);
            return true;
        }
    }
    false
}

fn channel_of_each_element(index: &[Index], shape: &[i64], extents: &[i64]) -> Option<Vec<usize>> {
    const CHANNEL: usize = 1;
    let mut loops: Vec<usize> = index.iter().flat_map(Index::loops).chain([CHANNEL]).collect();
    loops.sort_unstable();
    loops.dedup();
    let mut channels = vec![usize::MAX; shape.iter().product::<i64>() as usize];
    let mut at = vec![0i64; extents.len()];
    loop {
        let inside = |(e, &size): (&Index, &i64)| Some(e.eval(&at)).filter(|i| (0..size).contains(i)).map(|i| (i, size));
        let places: Option<Vec<(i64, i64)>> = index.iter().zip(shape).map(inside).collect();
        if let Some(places) = places {
            let flat = places.iter().fold(0, |flat, (i, size)| flat * size + i) as usize;
            let channel = at[CHANNEL] as usize;
            if channels[flat] != usize::MAX && channels[flat] != channel {
                return None;
            }
            channels[flat] = channel;
        }
        let mut done = true;
        for &l in loops.iter().rev() {
            at[l] += 1;
            if at[l] < extents[l] {
                done = false;
                break;
            }
            at[l] = 0;
        }
        if done {
            break;
        }
    }
    // an element that nothing reads may have any channel
    channels.iter_mut().filter(|c| **c == usize::MAX).for_each(|c| *c = 0);
    Some(channels)
}
