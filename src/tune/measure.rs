//! Timing a call until its time is stable, and the data that kernels are checked with.

use super::config::Effort;
use crate::error::{Context, Error, Result};
use crate::lower::{LoopNest, Role, interp, interp_at};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::path::Path;
use std::time::Instant;

/// A kernel whose output differs by more, relative to the largest expected magnitude, is wrong.
pub const TOLERANCE: f64 = 1e-4;
/// Samples are stable when their median is this close to the least.
const STABLE: f64 = 0.02;
/// Nests with fewer multiply-adds are interpreted whole; larger ones at chosen positions.
const WHOLE_MACS: u64 = 2_000_000;
const N_POSITIONS: usize = 200;

/// Seeded values in (−1, 1).
pub fn values(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..n).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// Seconds per call, one sample per element. The call is already warm when this starts.
///
/// # Errors
/// The call's own.
pub fn time(effort: &Effort, mut call: impl FnMut() -> Result<()>) -> Result<Vec<f64>> {
    let begin = Instant::now();
    // other work may have delayed the first calls: three chances
    let mut first = Vec::new();
    while first.len() < 3 && first.iter().all(|&secs| secs > effort.hopeless_secs) {
        let start = Instant::now();
        call()?;
        first.push(start.elapsed().as_secs_f64());
    }
    if first.iter().all(|&secs| secs > effort.hopeless_secs) {
        return Ok(first);
    }
    let mut n_calls = 1;
    let mut samples: Vec<f64> = Vec::new();
    loop {
        let start = Instant::now();
        for _ in 0..n_calls {
            call()?;
        }
        let sample = start.elapsed().as_secs_f64();
        if samples.is_empty() && sample < effort.sample_secs / 2.0 {
            // this round was the warm-up; the next is as long as asked
            let factor = (effort.sample_secs / sample.max(1e-9)).ceil();
            n_calls = (f64::from(n_calls) * factor).clamp(1.0, 1e6) as i32;
            continue;
        }
        samples.push(sample / f64::from(n_calls));
        let n = samples.len();
        if n >= effort.max_samples || (n >= effort.min_samples && (begin.elapsed().as_secs_f64() > effort.budget_secs || stable(&samples))) {
            return Ok(samples);
        }
    }
}

fn stable(samples: &[f64]) -> bool {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.len() >= 2 * 5 && sorted[sorted.len() / 2] <= sorted[0] * (1.0 + STABLE)
}

/// The seed of tensor `t` in measurements.
pub fn tensor_seed(t: usize) -> u64 {
    0x5eed + t as u64
}

/// Checks an output that a trusted back end computed from [`tensor_seed`] data against the interpreter: whole for small nests, at
/// random positions and all corners for large ones. Returns the largest relative error.
///
/// # Errors
/// The nest cannot be interpreted.
pub fn check(nest: &LoopNest, output: &[f32]) -> Result<f64> {
    let given = (0..nest.tensors.len()).filter(|&t| matches!(nest.tensors[t].role, Role::Input | Role::Weight));
    let data: Vec<Vec<f32>> = given.map(|t| values(nest.tensors[t].n_elements(), tensor_seed(t))).collect();
    let data: Vec<&[f32]> = data.iter().map(Vec::as_slice).collect();
    if nest.n_macs() <= WHOLE_MACS {
        return Ok(relative_error(output, &interp(nest, &data)?));
    }
    let at = positions(&nest.tensors[nest.output()].shape);
    let expected = interp_at(nest, &data, &at)?;
    let found: Vec<f32> = at.iter().map(|&p| output[p]).collect();
    Ok(relative_error(&found, &expected))
}

/// Row-major positions: all corners (the first 64) and seeded random ones.
fn positions(shape: &[i64]) -> Vec<usize> {
    let n: i64 = shape.iter().product();
    let mut rng = ChaCha8Rng::seed_from_u64(n as u64);
    let mut at: Vec<usize> = (0..N_POSITIONS).map(|_| rng.random_range(0..n as usize)).collect();
    for corner in 0..1usize << shape.len().min(6) {
        let flat = shape.iter().enumerate().fold(0, |flat, (i, &size)| flat * size + if corner >> i & 1 == 1 { size - 1 } else { 0 });
        at.push(flat as usize);
    }
    at.sort_unstable();
    at.dedup();
    at
}

/// The largest difference over the largest expected magnitude; infinite when a value is not finite.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f64 {
    let scale = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).fold(0.0f32, |m, (a, b)| {
        let d = (a - b).abs();
        if d.is_finite() { m.max(d) } else { f32::INFINITY }
    });
    if found.len() == expected.len() { f64::from(worst / scale) } else { f64::INFINITY }
}

/// Raw little-endian float32.
pub fn write_values(file: &Path, values: &[f32]) -> Result<()> {
    let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(file, bytes).context(|| format!("writing {}", file.display()))
}

/// What [`write_values`] wrote.
pub fn read_values(file: &Path) -> Result<Vec<f32>> {
    let bytes = std::fs::read(file).context(|| format!("reading {}", file.display()))?;
    let (words, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(Error::Invalid(format!("{} does not hold whole float32 values: write it again", file.display())));
    }
    Ok(words.iter().map(|w| f32::from_le_bytes(*w)).collect())
}
