//! Tuners side by side, on the same kernels, spaces and runner:
//! `cargo run --release --no-default-features --features tvm --example tuning -- --trials 32 --strategy syntune,evolutionary`
//!
//! One JSON line per search, on stdout or appended to `--out FILE` (where searches found there are not repeated): workload, strategy,
//! seed, the machine's peak just before, the best seconds measured again at the end, GFLOP/s, seconds of wall time by what they were
//! spent on, and the anytime curve: for each new best its number of measurements, the wall seconds so far, its seconds as first measured
//! and as measured again. Strategies are those of `syntune tune`, and `metaschedule`: MetaSchedule's search on its own spaces alone, with
//! our builder and runner, and weights as the operator has them (`--unpacked`: for all); `stock`, `stock+droplet`: MetaSchedule as a whole in Python, without and with its post-optimization
//! (`scripts/compare-metaschedule` installs it and says where it is by SYNTUNE_STOCK_PYTHON); `syntune-drafts`, `syntune-model`,
//! `syntune-descent`: our strategy without one of its parts, `chameleon-exploration`, `chameleon-sampling`: Chameleon with annealing for
//! its agent, or measuring all that it planned (`annealing` is without both). `--table FILE` prints GFLOP/s of a file's searches, and how
//! they compare; `references.jsonl` beside this file holds MetaSchedule's search at 1,000 and 3,000 measurements on one Zen 4 core, made
//! once, to be compared by shares of the peak.

mod stock;
mod table;
mod workloads;

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde_json::{Value, json};
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;
use syntune::lower::layout;
use syntune::spec::Strategy;
use syntune::tune::guided::Parts;
use syntune::tune::peak::calibrate;
use syntune::tune::{Candidate, Effort, Limits, LocalRunner, Measurement, Options, Runner, Task, Tuner};

/// MetaSchedule's search on its own spaces.
const METASCHEDULE: &str = "metaschedule";
/// Bests of a curve are measured again with this.
const AGAIN: Effort = Effort { budget_secs: 0.3, ..Effort::THOROUGH };

#[derive(Parser)]
struct Args {
    /// Workloads, separated by commas.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "syntune")]
    strategy: Vec<String>,
    /// Measurements of each search.
    #[arg(long, default_value_t = 32)]
    trials: usize,
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Threads of the kernels.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Weights as the operator has them, also for strategies of ours.
    #[arg(long)]
    unpacked: bool,
    /// Searches are appended here, and not repeated.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Only print the table of these files.
    #[arg(long, value_delimiter = ',')]
    table: Vec<PathBuf>,
}

fn main() -> Result<()> {
    // workers are this program again
    let words: Vec<String> = std::env::args().collect();
    match words.get(1..3) {
        Some([verb, role]) if verb == "worker" && role == "compile" => return Ok(syntune::tune::worker::compile()?),
        Some([verb, role]) if verb == "worker" && role == "measure" => return Ok(syntune::tune::worker::measure()?),
        _ => {}
    }
    let args = Args::parse();
    if !args.table.is_empty() {
        let mut runs = Vec::new();
        for file in &args.table {
            runs.extend(read(file)?);
        }
        print!("{}", table::table(&runs));
        return Ok(());
    }
    let (all, unpacked) = (workloads::workloads(layout::BLOCK), workloads::workloads(i64::MAX));
    if let Some(name) = args.only.iter().find(|name| !all.iter().any(|w| w.name == name.as_str())) {
        bail!("there is no workload {name:?}: known are {}", all.iter().map(|w| w.name).collect::<Vec<_>>().join(", "));
    }
    let mut runs = match &args.out {
        Some(file) if file.exists() => read(file)?,
        _ => vec![],
    };
    for seed in 1..=args.seeds {
        for (i, workload) in all.iter().enumerate().filter(|(_, w)| args.only.is_empty() || args.only.iter().any(|name| name == w.name)) {
            for strategy in &args.strategy {
                // TVM's own flow has weights as the model has them
                let is_tvm = strategy == METASCHEDULE || strategy.starts_with("stock");
                let name = format!("{strategy}{}", if args.unpacked && !is_tvm { " unpacked" } else { "" });
                let key = json!([workload.name, name, seed, args.trials, args.threads]);
                // version 2 is of the time before weights were packed
                let known = |run: &Value| {
                    run["version"] == 3 && json!([run["workload"], run["strategy"], run["seed"], run["n_trials"], run["n_threads"]]) == key
                };
                if runs.iter().any(known) {
                    continue;
                }
                let nest = if args.unpacked || is_tvm { &unpacked[i].nest } else { &workload.nest };
                let task = Task { computation: nest.clone().into(), target: "host".into(), n_threads: args.threads };
                let peak = calibrate(&LocalRunner::new(Limits::default())?, "host", args.threads)?;
                let mut run = match strategy.strip_prefix("stock") {
                    Some(rest) => stock::search(&task, nest, args.trials, seed, rest == "+droplet")?,
                    None => search(&task, strategy, args.trials, seed)?,
                };
                let flops = 2.0 * workload.nest.n_macs() as f64;
                let more = json!({
                    "version": 3, "workload": workload.name, "strategy": name, "seed": seed, "n_trials": args.trials,
                    "n_threads": args.threads, "peak_gflops": peak.gflops, "gflops": run["secs"].as_f64().map(|secs| flops / secs / 1e9), "flops": flops,
                });
                if let (Some(run), Value::Object(more)) = (run.as_object_mut(), more) {
                    run.extend(more);
                }
                match &args.out {
                    Some(file) => writeln!(std::fs::OpenOptions::new().create(true).append(true).open(file)?, "{run}")?,
                    None => println!("{run}"),
                }
                runs.push(run);
            }
        }
    }
    eprint!("{}", table::table(&runs));
    Ok(())
}

fn read(file: &PathBuf) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("{}: not JSON lines", file.display()))).collect()
}

/// One search with our builder and runner.
fn search(task: &Task, strategy: &str, n_trials: usize, seed: u64) -> Result<Value> {
    let mut options = Options::new(n_trials, seed);
    options.rules_only = strategy == METASCHEDULE;
    let name = if options.rules_only { "evolutionary" } else { strategy };
    // `syntune-drafts` is Syntune's without drafts
    let (name, without) = name.split_once('-').unwrap_or((name, ""));
    options.parts = match without {
        "" => Parts::ALL,
        "drafts" => Parts { drafts: false, ..Parts::ALL },
        "model" => Parts { model: false, ..Parts::ALL },
        "descent" => Parts { descent: false, ..Parts::ALL },
        "exploration" => Parts { exploration: false, ..Parts::ALL },
        "sampling" => Parts { sampling: false, ..Parts::ALL },
        _ => bail!("{strategy}: parts that can be left out are drafts, model and descent, of chameleon exploration and sampling"),
    };
    options.strategy = Strategy::named(name)
        .with_context(|| format!("known strategies: {}, metaschedule, stock, stock+droplet", Strategy::NAMES.join(", ")))?;
    let start = Instant::now();
    let (mut n, mut best, mut curve, mut failed) = (0, f64::INFINITY, Vec::new(), Vec::new());
    let runner = LocalRunner::new(Limits::default())?;
    let outcome = Tuner::new(&runner, task.clone(), options).run(&mut |m: &Measurement| {
        n += 1;
        if let Err(failure) = &m.result {
            failed.push(json!([failure.to_string(), m.config]));
        }
        if m.rank_secs() < best {
            best = m.rank_secs();
            curve.push((n, start.elapsed().as_secs_f64(), best, Candidate { config: m.config.clone(), hash: m.hash, built: None }));
        }
    })?;
    let wall_secs = start.elapsed().as_secs_f64();
    let candidates: Vec<Candidate> = curve.iter().map(|c| c.3.clone()).collect();
    let mut again = vec![None; curve.len()];
    let mut at = 0;
    runner.measure(task, &candidates, &AGAIN, &mut |m| {
        again[at] = Some(m.secs());
        at += 1;
        true
    })?;
    // the best so far by the second measurement
    let mut least = f64::INFINITY;
    let mut points = Vec::new();
    for ((n, wall, first, candidate), again) in curve.iter().zip(again) {
        least = least.min(again.unwrap_or(*first));
        points.push(json!([n, wall, first, least, candidate.config.space]));
    }
    Ok(json!({
        "secs": outcome.best.as_ref().map(|b| b.secs()), "wall_secs": wall_secs, "n_measured": outcome.n_measured, "curve": points,
        "cost": outcome.cost, "stop": outcome.stop, "failures": failed, "refused": outcome.refused, "config": outcome.best.map(|b| b.config),
    }))
}
