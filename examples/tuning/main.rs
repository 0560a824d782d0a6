//! Tuners side by side: `cargo run --release --no-default-features --features tvm --example tuning -- [--only NAME,…]
//! [--strategy NAME,…] [--trials N] [--seeds N] [--threads N]`
//!
//! One JSON line per search: workload, strategy, seed, the best re-measured seconds, GFLOP/s, and the anytime curve: after each
//! new best its number of measurements, the wall seconds so far and its seconds. A table of GFLOP/s follows on stderr.

mod workloads;

use serde_json::json;
use std::time::Instant;
use syntune::spec::Strategy;
use syntune::tune::{Limits, LocalRunner, Options, Task, Tuner};

fn main() -> anyhow::Result<()> {
    // workers are this program again
    let words: Vec<String> = std::env::args().collect();
    match words.get(1..3) {
        Some([verb, role]) if verb == "worker" && role == "compile" => return Ok(syntune::tune::worker::compile()?),
        Some([verb, role]) if verb == "worker" && role == "measure" => return Ok(syntune::tune::worker::measure()?),
        _ => {}
    }
    let word = |name: &str| words.iter().position(|w| w == name).and_then(|i| words.get(i + 1)).cloned();
    let number = |name: &str, default: usize| word(name).and_then(|w| w.parse().ok()).unwrap_or(default);
    let (n_trials, n_seeds, n_threads) = (number("--trials", 32), number("--seeds", 1), number("--threads", 1));
    let list = |name: &str| word(name).map(|w| w.split(',').map(String::from).collect::<Vec<_>>());
    let only = list("--only");
    let strategies = list("--strategy").unwrap_or_else(|| vec!["evolution".into()]);
    let mut table = format!("{:16}{:>10}", "workload", "MFLOP");
    strategies.iter().for_each(|s| table += &format!("{s:>24}"));
    for workload in workloads::workloads() {
        if only.as_ref().is_some_and(|only| !only.iter().any(|o| o == workload.name)) {
            continue;
        }
        let flops = 2.0 * workload.nest.n_macs() as f64;
        table += &format!("\n{:16}{:10.1}", workload.name, flops / 1e6);
        for strategy in &strategies {
            let mut found = Vec::new();
            for seed in 1..=n_seeds as u64 {
                let task = Task { nest: workload.nest.clone(), target: "host".into(), n_threads };
                let mut options = Options::new(n_trials, seed);
                options.strategy = Strategy::named(strategy).ok_or_else(|| anyhow::anyhow!("known strategies: {:?}", Strategy::NAMES))?;
                let start = Instant::now();
                let (mut n, mut best, mut curve, mut failed) = (0, f64::INFINITY, Vec::new(), Vec::new());
                let mut runner = LocalRunner::new(Limits::default())?;
                let outcome = Tuner::new(&mut runner, task, options).run(&mut |m| {
                    n += 1;
                    if let Err(failure) = &m.result {
                        failed.push(json!([failure.to_string(), m.config]));
                    }
                    if m.rank_secs() < best {
                        best = m.rank_secs();
                        curve.push(json!([n, start.elapsed().as_secs_f64(), best, m.config.space]));
                    }
                })?;
                let secs = outcome.best.as_ref().map(|b| b.secs());
                let gflops = secs.map(|s| flops / s / 1e9);
                println!(
                    "{}",
                    json!({
                        "version": 1, "workload": workload.name, "strategy": strategy, "seed": seed, "n_trials": n_trials, "n_threads": n_threads,
                        "secs": secs, "gflops": gflops, "wall_secs": start.elapsed().as_secs_f64(), "curve": curve,
                        "failures": failed, "config": outcome.best.map(|b| b.config),
                    })
                );
                found.extend(gflops.zip(secs));
            }
            found.sort_by(|a, b| a.0.total_cmp(&b.0));
            if let Some((gflops, secs)) = found.get(found.len() / 2) {
                table += &format!("{:>11.1} GF {:>7.1} µs", gflops, secs * 1e6);
            }
        }
    }
    eprintln!("{table}");
    Ok(())
}
