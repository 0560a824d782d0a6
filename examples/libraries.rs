//! What libraries reach on the kernels that tuners are compared on: libtorch with channels first and last, and oneDNN's own blocked
//! layouts with weights packed before: `cargo run --release --example libraries -- [--threads N] [--out FILE]`
//!
//! JSON lines like those of the example `tuning`, whose `--table` puts both side by side. A convolution adds its bias; the ReLU
//! that our kernels include is left out, which is in the libraries' favour.

use anyhow::Result;
use serde_json::json;
use std::io::Write;
use syntune::tune::{Effort, Samples, measure};
use tch::{Device, Kind, Tensor};

/// Channels in and out, height and width, window, groups.
type Conv = (&'static str, [i64; 5]);

const CONVS: [Conv; 8] = [
    ("conv64", [64, 64, 56, 3, 1]),
    ("conv128", [128, 128, 28, 3, 1]),
    ("conv256", [256, 256, 14, 3, 1]),
    ("conv512", [512, 512, 7, 3, 1]),
    ("pointwise64", [64, 128, 56, 1, 1]),
    ("pointwise512", [512, 512, 14, 1, 1]),
    ("depthwise", [128, 128, 56, 3, 128]),
    ("grouped", [128, 128, 28, 3, 4]),
];

/// Rounds in which all ways of a kernel take turns.
const N_ROUNDS: usize = 5;

/// A way of computing a kernel.
type Way = (&'static str, Box<dyn Fn() -> Result<(), tch::TchError>>);

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let word = |name: &str| words.iter().position(|w| w == name).and_then(|i| words.get(i + 1)).cloned();
    let n_threads: i32 = word("--threads").map_or(Ok(1), |w| w.parse())?;
    tch::set_num_threads(n_threads);
    let out = word("--out");
    let _guard = tch::no_grad_guard();
    tch::manual_seed(1);
    for (name, [ci, co, h, k, groups]) in CONVS {
        report(name, 2.0 * (co * h * h * ci / groups * k * k) as f64, conv(ci, co, h, k, groups)?, n_threads, out.as_deref())?;
    }
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (a, b) = (random(&[512, 512]), random(&[512, 512]));
    let bias = random(&[512]);
    let linear: Vec<Way> = vec![("libtorch", Box::new(move || a.f_linear(&b, Some(&bias)).map(drop)))];
    report("matmul", 2.0 * 512f64.powi(3), linear, n_threads, out.as_deref())?;
    let (a, b) = (random(&[12, 128, 128]), random(&[12, 128, 64]));
    let batched: Vec<Way> = vec![("libtorch", Box::new(move || a.f_matmul(&b).map(drop)))];
    report("batch-matmul", 2.0 * 12.0 * 128.0 * 128.0 * 64.0, batched, n_threads, out.as_deref())?;
    let x = random(&[512, 1024]);
    let softmax: Vec<Way> = vec![("libtorch", Box::new(move || x.f_softmax(-1, Kind::Float).map(drop)))];
    report("softmax", f64::NAN, softmax, n_threads, out.as_deref())?;
    let x = channels_last(&random(&[1, 64, 56, 56]))?;
    let pool: Vec<Way> = vec![("libtorch", Box::new(move || x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false).map(drop)))];
    report("max-pool", f64::NAN, pool, n_threads, out.as_deref())
}

/// The same values in memory with channels last.
fn channels_last(x: &Tensor) -> Result<Tensor> {
    Ok(x.f_permute([0, 2, 3, 1])?.f_contiguous()?.f_permute([0, 3, 1, 2])?)
}

fn conv(ci: i64, co: i64, h: i64, k: i64, groups: i64) -> Result<Vec<Way>> {
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (x, weight, bias) = (random(&[1, ci, h, h]), random(&[co, ci / groups, k, k]), random(&[co]));
    let pad = [k / 2, k / 2];
    let run = move |x: Tensor, weight: Tensor, bias: Tensor| -> Box<dyn Fn() -> Result<(), tch::TchError>> {
        Box::new(move || x.f_conv2d(&weight, Some(&bias), [1, 1], pad, [1, 1], groups).map(drop))
    };
    let blocked = x.f_to_mkldnn(Kind::Float)?;
    let packed = weight.f_to_mkldnn(Kind::Float)?.f_mkldnn_reorder_conv2d_weight(pad, [1, 1], [1, 1], groups, &[1, ci, h, h][..])?;
    Ok(vec![
        ("libtorch", run(x.shallow_clone(), weight.shallow_clone(), bias.shallow_clone())),
        ("libtorch channels last", run(channels_last(&x)?, channels_last(&weight)?, bias.shallow_clone())),
        ("oneDNN blocked", run(blocked, packed, bias)),
    ])
}

fn report(name: &str, flops: f64, ways: Vec<Way>, n_threads: i32, out: Option<&str>) -> Result<()> {
    let mut samples: Vec<Vec<f64>> = vec![vec![]; ways.len()];
    for _ in 0..N_ROUNDS {
        for ((_, way), samples) in ways.iter().zip(&mut samples) {
            way()?;
            let call = || way().map_err(|e| syntune::error::Error::Library(e.to_string()));
            samples.extend(measure::time(&Effort { budget_secs: 0.3, ..Effort::THOROUGH }, call)?);
        }
    }
    for ((strategy, _), samples) in ways.iter().zip(samples) {
        let secs = Samples(samples).median_secs();
        let gflops = if flops.is_finite() { Some(flops / secs / 1e9) } else { None };
        let run = json!({
            "version": 2, "workload": name, "strategy": strategy, "seed": 0, "n_trials": 0, "n_threads": n_threads, "secs": secs, "gflops": gflops,
        });
        match out {
            Some(file) => writeln!(std::fs::OpenOptions::new().create(true).append(true).open(file)?, "{run}")?,
            None => println!("{run}"),
        }
    }
    Ok(())
}
