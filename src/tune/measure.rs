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
/// A sample with less than this part of the greatest share of processor time was disturbed.
const UNDISTURBED: f64 = 0.95;
/// On a busy machine a measurement may take this many times its budget.
const PATIENCE: f64 = 4.0;
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
    let mut samples: Vec<Sample> = Vec::new();
    loop {
        let (start, cpu) = (Instant::now(), cpu_secs());
        for _ in 0..n_calls {
            call()?;
        }
        let (secs, cpu) = (start.elapsed().as_secs_f64(), cpu_secs() - cpu);
        if samples.is_empty() && secs < effort.sample_secs / 2.0 {
            // this round was the warm-up; the next is as long as asked
            let factor = (effort.sample_secs / secs.max(1e-9)).ceil();
            n_calls = (f64::from(n_calls) * factor).clamp(1.0, 1e6) as i32;
            continue;
        }
        samples.push(Sample { secs: secs / f64::from(n_calls), cpu_share: cpu / secs });
        let clean = undisturbed(&samples, effort.min_samples);
        let spent = begin.elapsed().as_secs_f64();
        let n_clean = clean.iter().filter(|s| s.1).count();
        let secs: Vec<f64> = clean.iter().map(|s| s.0).collect();
        let enough = n_clean >= effort.min_samples && (spent > effort.budget_secs || stable(&secs) || n_clean >= effort.max_samples);
        if enough || (samples.len() >= effort.min_samples && spent > PATIENCE * effort.budget_secs) {
            return Ok(secs);
        }
    }
}

struct Sample {
    secs: f64,
    /// Processor time over wall clock, all threads.
    cpu_share: f64,
}

/// Samples during which other processes took the processor away are left out: their share of processor time is lower. Where
/// fewer than `n_least` remain, the least disturbed are added. Returns seconds, and whether the sample was undisturbed.
fn undisturbed(samples: &[Sample], n_least: usize) -> Vec<(f64, bool)> {
    let mut sorted: Vec<&Sample> = samples.iter().collect();
    sorted.sort_by(|a, b| b.cpu_share.total_cmp(&a.cpu_share));
    let full = sorted.first().map_or(0.0, |s| s.cpu_share);
    let marked = sorted.iter().map(|s| (s.secs, s.cpu_share >= UNDISTURBED * full));
    marked.enumerate().filter(|(i, s)| s.1 || *i < n_least).map(|(_, s)| s).collect()
}

/// Processor time of this process so far, in seconds.
fn cpu_secs() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disturbed_samples_are_left_out_unless_too_few_remain() {
        let sample = |secs, cpu_share| Sample { secs, cpu_share };
        let samples = [sample(1.0, 0.99), sample(3.0, 0.4), sample(1.1, 1.0), sample(2.0, 0.6)];
        assert_eq!(undisturbed(&samples, 1), [(1.1, true), (1.0, true)]);
        assert_eq!(undisturbed(&samples, 3), [(1.1, true), (1.0, true), (2.0, false)]);
    }

    #[test]
    fn a_slow_call_is_made_three_times_only() {
        let effort = Effort { hopeless_secs: 0.0, ..Effort::QUICK };
        let mut n = 0;
        let samples = time(&effort, || {
            n += 1;
            std::thread::sleep(std::time::Duration::from_millis(1));
            Ok(())
        });
        assert_eq!((samples.unwrap().len(), n), (3, 3));
    }
}
