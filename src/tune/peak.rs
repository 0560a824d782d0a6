//! What this machine can do at most: a kernel that does nothing but multiply-adds on registers, compiled by TVM for the target.
//!
//! A register tile of a matrix product over data that fit in the first-level cache, as in the inner kernel of Goto and van de Geijn
//! (2008): enough accumulators to hide the latency of the multiply-add, all vectors full, nothing stored until the sum is done.
//! Other kernels are told as shares of it, and its time makes measurements of one machine on different days comparable.

use super::config::{Config, Decision, Effort, Failure, Origin, Samples, Task};
use super::measure::{TOLERANCE, tensor_seed, values, write_values};
use super::protocol::MeasureRequest;
use super::runner::{LocalRunner, Runner, program};
use crate::error::{Error, Result};
use crate::lower::index::Index;
use crate::lower::{Access, Expr, Loop, LoopNest, Reduction, Role, Stage, Tensor};
use serde::{Deserialize, Serialize};

/// Rows and columns of the register tiles tried, the fastest counts: 28 accumulators of 16 lanes beside 2 weights and 2 values fill
/// AVX-512's 32 registers, 12 of 8 lanes AVX2's 16.
const TILES: [(i64, i64); 2] = [(14, 32), (6, 16)];
/// Terms of a sum: what is read, 64 rows of the weights (8 KiB) and of the data (3.5 KiB), so many times.
const DEPTH: i64 = 64;
const PASSES: i64 = 64;
/// Terms written out in one step: those of more do not fit the cache of decoded instructions.
const UNROLLED: i64 = 8;
/// Floating-point operations of one thread in one call: half a millisecond, beside which starting threads is short.
const FLOPS: i64 = 50_000_000;
/// Some tenths of a second.
const EFFORT: Effort = Effort { sample_secs: 0.002, min_samples: 11, max_samples: 60, budget_secs: 0.15, hopeless_secs: f64::MAX };
/// The run gives up after so many seconds.
const LIMIT_SECS: f64 = 20.0;

/// The speed of a machine, for one target and number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Seconds of one call of the fixed kernel.
    pub secs: f64,
    /// 10⁹ floating-point operations a second, all threads together.
    pub gflops: f64,
}

impl Calibration {
    /// Seconds that so many floating-point operations take at least.
    pub fn floor_secs(&self, n_flops: f64) -> f64 {
        n_flops / (self.gflops * 1e9)
    }
}

/// Measures the machine's peak; takes about a second.
///
/// # Errors
/// A target that TVM does not know or that this machine does not run; a missing library.
pub fn calibrate(runner: &LocalRunner, target: &str, n_threads: usize) -> Result<Calibration> {
    let mut found: Vec<Result<Calibration, Failure>> = Vec::new();
    for tile in TILES {
        found.push(measure(runner, tile, target, n_threads)?);
    }
    let fastest = found.iter().flatten().max_by(|a, b| a.gflops.total_cmp(&b.gflops));
    match (fastest, found.iter().find_map(|f| f.as_ref().err())) {
        (Some(fastest), _) => Ok(*fastest),
        (None, Some(failure)) => Err(Error::Invalid(format!(
            "the peak of target {target:?} cannot be measured here: {failure}; use the target of this machine, 'host'"
        ))),
        (None, None) => Err(Error::Invalid("no kernel for the machine's peak: report this".into())),
    }
}

fn measure(runner: &LocalRunner, tile: (i64, i64), target: &str, n_threads: usize) -> Result<Result<Calibration, Failure>> {
    let nest = kernel(tile, n_threads);
    let n_flops = 2.0 * nest.n_macs() as f64;
    let task = Task { computation: nest.clone().into(), target: target.into(), n_threads };
    let spaces = runner.spaces(&task)?;
    let Some(space) = spaces.iter().position(|s| s.origin == Origin::Tiles) else {
        return Ok(Err(Failure::DoesNotBuild("TVM refuses register tiles".into())));
    };
    let decisions = decide(&nest, spaces[space].knobs.len());
    let built = match runner.build(&task, Some(&Config { space, decisions }))? {
        Ok(built) => built,
        Err(failure) => return Ok(Err(failure)),
    };
    let expected = built.library.with_file_name("expected.f32");
    write_values(&expected, &answer(&nest))?;
    let (program, outputs) = program(&task, &built.library);
    let expected = vec![(outputs[0], Some(expected))];
    let request = MeasureRequest { program, expected, tolerance: TOLERANCE, save: vec![], effort: Some(EFFORT) };
    let measured = runner.run(&request, n_threads, LIMIT_SECS)?;
    // other work only adds time
    let calibration = |samples: &Samples| {
        let secs = samples.min_secs();
        Calibration { secs, gflops: n_flops / secs / 1e9 }
    };
    Ok(measured.map(|(samples, _)| calibration(&samples)))
}

/// y[q, i, j] = Σ r, k: a[i, k] · b[k, j].
fn kernel((rows, columns): (i64, i64), n_threads: usize) -> LoopNest {
    let n_copies = FLOPS / (2 * rows * columns * DEPTH * PASSES) * n_threads.max(1) as i64;
    let tensor = |name: &str, shape: &[i64], role| Tensor { name: name.into(), shape: shape.to_vec(), role };
    let axis = |name: &str, extent| Loop { name: name.into(), extent };
    let load = |tensor, index: [usize; 2]| Expr::Load(Access { tensor, index: index.map(Index::Var).to_vec() });
    let stage = Stage {
        output: 2,
        axes: vec![axis("q", n_copies), axis("i", rows), axis("j", columns)],
        sums: vec![axis("r", PASSES), axis("k", DEPTH)],
        reduction: Reduction::Sum,
        guards: vec![],
        body: Expr::Mul(vec![load(0, [1, 4]), load(1, [4, 2])]),
    };
    let tensors = vec![
        tensor("a", &[rows, DEPTH], Role::Input),
        tensor("b", &[DEPTH, columns], Role::Weight),
        tensor("y", &[n_copies, rows, columns], Role::Output),
    ];
    LoopNest { name: "peak".into(), tensors, stages: vec![stage] }
}

/// The whole tile in registers, copies outside, the last terms of a sum written out; then the last value of every other choice, which
/// for the terms is: yes.
fn decide(nest: &LoopNest, n_knobs: usize) -> Vec<Decision> {
    let stage = &nest.stages[0];
    let mut decisions: Vec<Decision> = stage
        .axes
        .iter()
        .enumerate()
        .map(|(i, axis)| Decision::PerfectTile(if i == 0 { vec![axis.extent, 1, 1] } else { vec![1, 1, axis.extent] }))
        .collect();
    decisions.extend([vec![PASSES, 1], vec![DEPTH / UNROLLED, UNROLLED]].map(Decision::PerfectTile));
    decisions.resize(n_knobs, Decision::Categorical(1));
    decisions
}

fn answer(nest: &LoopNest) -> Vec<f32> {
    let [a, b] = [0, 1].map(|t| values(nest.tensors[t].n_elements(), tensor_seed(t)));
    let [n_copies, rows, columns] = [0, 1, 2].map(|i| nest.stages[0].axes[i].extent as usize);
    let depth = DEPTH as usize;
    let term = |i: usize, j: usize, k: usize| f64::from(a[i * depth + k]) * f64::from(b[k * columns + j]);
    let sum = |i: usize, j: usize| (PASSES as f64 * (0..depth).map(|k| term(i, j, k)).sum::<f64>()) as f32;
    let one: Vec<f32> = (0..rows * columns).map(|e| sum(e / columns, e % columns)).collect();
    one.repeat(n_copies)
}
