//! What libraries reach on the kernels that tuners are compared on: libtorch with channels first and last, and oneDNN's own blocked
//! layouts with weights packed before: `cargo run --release --example libraries -- [--threads N] [--out FILE] [--ours RUNS]`
//!
//! JSON lines like those of the example `tuning`, whose `--table` puts both side by side. A convolution adds its bias; the ReLU
//! that our kernels include is left out, which is in the libraries' favour. With `--ours` what the first search of each workload in a file
//! of `tuning`'s found takes its turn in each round, and how much faster it is than the best library is told by rounds, since a shared machine
//! is twice as fast in one minute as in the next.

#[path = "tuning/workloads.rs"]
mod workloads;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::io::Write;
use syntune::lower::layout;
use syntune::tune::{Candidate, Config, Effort, Limits, LocalRunner, Runner, Samples, Task, measure};
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
const N_ROUNDS: usize = 9;
const EFFORT: Effort = Effort { budget_secs: 0.15, ..Effort::THOROUGH };

/// A way of computing a kernel.
type Way = (&'static str, Box<dyn Fn() -> Result<(), tch::TchError>>);

/// Where results go, and what of ours stands beside them.
struct Bench {
    n_threads: i32,
    out: Option<String>,
    runner: LocalRunner,
    /// Of a file of `tuning`'s.
    runs: Vec<Value>,
}

fn main() -> Result<()> {
    // workers are this program again
    let words: Vec<String> = std::env::args().collect();
    match words.get(1..3) {
        Some([verb, role]) if verb == "worker" && role == "compile" => return Ok(syntune::tune::worker::compile()?),
        Some([verb, role]) if verb == "worker" && role == "measure" => return Ok(syntune::tune::worker::measure()?),
        _ => {}
    }
    let word = |name: &str| words.iter().position(|w| w == name).and_then(|i| words.get(i + 1)).cloned();
    let n_threads: i32 = word("--threads").map_or(Ok(1), |w| w.parse())?;
    tch::set_num_threads(n_threads);
    let runs = match word("--ours") {
        Some(file) => {
            let text = std::fs::read_to_string(&file).with_context(|| format!("reading {file}"))?;
            text.lines().map(serde_json::from_str).collect::<Result<_, _>>().with_context(|| format!("{file}: not JSON lines"))?
        }
        None => vec![],
    };
    let bench = Bench { n_threads, out: word("--out"), runner: LocalRunner::new(Limits::default())?, runs };
    let _guard = tch::no_grad_guard();
    tch::manual_seed(1);
    for (name, [ci, co, h, k, groups]) in CONVS {
        bench.report(name, 2.0 * (co * h * h * ci / groups * k * k) as f64, conv(ci, co, h, k, groups)?)?;
    }
    let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, Device::Cpu));
    let (a, b) = (random(&[512, 512]), random(&[512, 512]));
    let bias = random(&[512]);
    let linear: Vec<Way> = vec![("libtorch", Box::new(move || a.f_linear(&b, Some(&bias)).map(drop)))];
    bench.report("matmul", 2.0 * 512f64.powi(3), linear)?;
    let (a, b) = (random(&[12, 128, 128]), random(&[12, 128, 64]));
    let batched: Vec<Way> = vec![("libtorch", Box::new(move || a.f_matmul(&b).map(drop)))];
    bench.report("batch-matmul", 2.0 * 12.0 * 128.0 * 128.0 * 64.0, batched)?;
    let x = random(&[512, 1024]);
    let softmax: Vec<Way> = vec![("libtorch", Box::new(move || x.f_softmax(-1, Kind::Float).map(drop)))];
    bench.report("softmax", f64::NAN, softmax)?;
    let x = channels_last(&random(&[1, 64, 56, 56]))?;
    let pool: Vec<Way> = vec![("libtorch", Box::new(move || x.f_max_pool2d([2, 2], [2, 2], [0, 0], [1, 1], false).map(drop)))];
    bench.report("max-pool", f64::NAN, pool)
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

impl Bench {
    fn report(&self, name: &str, flops: f64, ways: Vec<Way>) -> Result<()> {
        let ours = self.found(name)?;
        let mut samples: Vec<Vec<f64>> = vec![vec![]; ways.len() + 1];
        // the best library's seconds over ours, round by round
        let mut ratios = Vec::new();
        for _ in 0..N_ROUNDS {
            let mut best = f64::INFINITY;
            for ((_, way), samples) in ways.iter().zip(&mut samples) {
                way()?;
                let call = || way().map_err(|e| syntune::error::Error::Library(e.to_string()));
                let round = measure::time(&EFFORT, call)?;
                best = best.min(Samples(round.clone()).median_secs());
                samples.extend(round);
            }
            if let Some((task, candidate)) = &ours {
                let mut answer = None;
                self.runner.measure(task, std::slice::from_ref(candidate), &EFFORT, &mut |m| {
                    answer = Some(m);
                    true
                })?;
                let round = answer.context("nothing was measured")?;
                let round = round.result.map_err(|failure| anyhow::anyhow!("our {name} fails: {failure}"))?;
                ratios.push(best / round.median_secs());
                samples[ways.len()].extend(round.0);
            }
        }
        ratios.sort_by(f64::total_cmp);
        let names = ways.iter().map(|w| w.0).chain(ours.is_some().then_some("ours"));
        for (strategy, samples) in names.zip(samples) {
            let secs = Samples(samples).median_secs();
            let gflops = if flops.is_finite() { Some(flops / secs / 1e9) } else { None };
            let over = (strategy == "ours").then(|| [ratios[0], ratios[ratios.len() / 2], ratios[ratios.len() - 1]]);
            let run = json!({
                "version": 2, "workload": name, "strategy": strategy, "seed": 0, "n_trials": 0, "n_threads": self.n_threads, "secs": secs,
                "gflops": gflops, "over_best_library": over,
            });
            match &self.out {
                Some(file) => writeln!(std::fs::OpenOptions::new().create(true).append(true).open(file)?, "{run}")?,
                None => println!("{run}"),
            }
        }
        Ok(())
    }

    /// What the first search of a workload in the file found, built.
    fn found(&self, name: &str) -> Result<Option<(Task, Candidate)>> {
        // MetaSchedule's searches and those said to be unpacked are of another module
        let is_packed = |run: &Value| run["strategy"].as_str().is_some_and(|s| s != "metaschedule" && !s.ends_with("unpacked"));
        let fits =
            |run: &&Value| run["workload"] == name && run["n_threads"] == self.n_threads && run["config"].is_object() && is_packed(run);
        let Some(run) = self.runs.iter().find(fits) else { return Ok(None) };
        let workload = workloads::workloads(layout::BLOCK).into_iter().find(|w| w.name == name).context("an unknown workload")?;
        let task = Task { computation: workload.nest.into(), target: "host".into(), n_threads: self.n_threads as usize };
        let config: Config = serde_json::from_value(run["config"].clone())?;
        let built = self.runner.build(&task, Some(&config))?.map_err(|failure| anyhow::anyhow!("our {name} does not build: {failure}"))?;
        Ok(Some((task, Candidate { config, hash: built.hash, built: Some(built.library) })))
    }
}
