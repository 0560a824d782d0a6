//! Stock MetaSchedule, in Python, on the same module; its winner is verified and timed by our measuring worker.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use syntune::lower::{LoopNest, te};
use syntune::tune::{Candidate, Config, Effort, Limits, LocalRunner, Runner, Task};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/stock_metaschedule.py");
/// Between two looks at how far it is.
const LOOK: Duration = Duration::from_millis(500);

/// # Errors
/// There is no stock TVM, or it failed; its words.
pub fn search(task: &Task, nest: &LoopNest, n_trials: usize, seed: u64, post_optimization: bool) -> Result<Value> {
    let python = std::env::var("SYNTUNE_STOCK_PYTHON").context("SYNTUNE_STOCK_PYTHON is not set: run scripts/compare-metaschedule")?;
    let runner = LocalRunner::new(Limits::default())?;
    let target = runner.target("host", task.n_threads)?;
    let folder = tempfile::tempdir()?;
    let module = folder.path().join("module.py");
    std::fs::write(&module, te::te_script(nest)?)?;
    let records = folder.path().join("database_tuning_record.json");
    let start = Instant::now();
    let mut child = Command::new(python)
        .arg(SCRIPT)
        .arg(&module)
        .args([target.as_str(), &n_trials.to_string(), &seed.to_string()])
        .arg(folder.path())
        .args(post_optimization.then_some("post-optimization"))
        .env("TVM_NUM_THREADS", task.n_threads.to_string())
        .stdout(Stdio::from(std::fs::File::create(folder.path().join("stdout"))?))
        .stderr(Stdio::from(std::fs::File::create(folder.path().join("stderr"))?))
        .spawn()?;
    // how many records there were at which time
    let mut seen: Vec<(usize, f64)> = Vec::new();
    let status = loop {
        let n = count(&records);
        if seen.last().map_or(0, |s| s.0) < n {
            seen.push((n, start.elapsed().as_secs_f64()));
        }
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(LOOK);
    };
    let wall_secs = start.elapsed().as_secs_f64();
    let said = std::fs::read_to_string(folder.path().join("stdout"))?;
    let Some(line) = said.lines().rfind(|l| l.starts_with('{')).filter(|_| status.success()) else {
        bail!("stock MetaSchedule failed: {}", std::fs::read_to_string(folder.path().join("stderr"))?);
    };
    let answer: Value = serde_json::from_str(line)?;
    let library = PathBuf::from(answer["library"].as_str().context("no library")?);
    let mut best = None;
    let candidate = Candidate { config: Config { space: 0, decisions: vec![] }, hash: 0, built: Some(library) };
    runner.measure(task, &[candidate], &Effort::THOROUGH, &mut |m| {
        best = Some(m.result.map(|samples| samples.median_secs()));
        true
    })?;
    let curve = curve(&records, &seen)?;
    Ok(match best {
        Some(Ok(secs)) => json!({ "secs": secs, "wall_secs": wall_secs, "n_measured": count(&records), "curve": curve }),
        Some(Err(failure)) => json!({ "secs": null, "wall_secs": wall_secs, "failures": [[failure.to_string(), null]], "curve": curve }),
        None => json!({ "secs": null, "wall_secs": wall_secs, "curve": curve }),
    })
}

fn count(file: &Path) -> usize {
    std::fs::read(file).map_or(0, |text| text.iter().filter(|&&c| c == b'\n').count())
}

/// Bests of a record file in its order: number, wall seconds, its own mean seconds; they are not measured again.
fn curve(records: &Path, seen: &[(usize, f64)]) -> Result<Vec<Value>> {
    let (mut best, mut points) = (f64::INFINITY, Vec::new());
    for (i, line) in std::fs::read_to_string(records)?.lines().enumerate() {
        let record: Value = serde_json::from_str(line)?;
        // [workload, [trace, seconds, target, arguments]]
        let samples: Vec<f64> = record[1][1].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        let mean = samples.iter().sum::<f64>() / samples.len().max(1) as f64;
        if !samples.is_empty() && mean < best {
            best = mean;
            let wall = seen.iter().find(|s| s.0 > i).map(|s| s.1);
            points.push(json!([i + 1, wall, best, best, null]));
        }
    }
    Ok(points)
}
