//! Called by scripts/compare-metaschedule: our tuner beside stock Python MetaSchedule on the same modules.

use std::path::{Path, PathBuf};
use std::process::Command;
use syntune::lower::{channels_last, lower, te};
use syntune::synth::Binding;
use syntune::synth::library::resolve;
use syntune::tune::protocol::MeasureRequest;
use syntune::tune::{Effort, Limits, LocalRunner, Options, Task, Tuner, measure, program};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().collect();
    let [_, worker, work, trials, threads, seed, python, script] = &words[..] else {
        return Err("this example is run by scripts/compare-metaschedule".into());
    };
    let (n_trials, n_threads, seed): (usize, usize, u64) = (trials.parse()?, threads.parse()?, seed.parse()?);
    syntune::child::set_program(worker);
    let conv = lower(&resolve("conv")?, &Binding::of(&[("N", 1), ("Ci", 64), ("Co", 64), ("H", 56), ("W", 56), ("k", 3)]))?;
    let matmul = lower(&resolve("linear")?, &Binding::of(&[("N", 1), ("L", 512), ("Ci", 512), ("Co", 512)]))?;
    let cases = [("matmul 512", matmul), ("conv 64 56x56 channels last", channels_last(&conv).0), ("conv 64 56x56 channels first", conv)];
    let mut runner = LocalRunner::new(Limits::default())?;
    let target = runner.target("host", n_threads)?;
    println!("target {target}");
    println!("{:30} {:>14} {:>10} {:>14} {:>10} {:>8}", "workload", "ours (ms)", "in (s)", "stock (ms)", "in (s)", "ratio");
    for (i, (name, nest)) in cases.into_iter().enumerate() {
        let task = Task { nest, target: target.clone(), n_threads };
        let outcome = Tuner::new(&mut runner, task.clone(), Options::new(n_trials, seed)).run(&mut |_| {})?;
        let Some(best) = outcome.best else { return Err(format!("{name}: every candidate failed: {:?}", outcome.example).into()) };
        let ours = best.library.ok_or("the winner was not kept")?;
        let folder = Path::new(work).join(format!("stock{i}"));
        let (library, stock_secs) = stock(&task, &target, &folder, python, script, trials, &words[5])?;
        // both winners again, in turn, by the same worker
        let mut medians = [vec![], vec![]];
        for _ in 0..5 {
            for (library, found) in [(&ours, 0), (&library, 1)] {
                let (program, output) = program(&task, library);
                let effort = Some(Effort { budget_secs: 0.5, ..Effort::THOROUGH });
                let request =
                    MeasureRequest { program, expected: vec![(output, None)], tolerance: measure::TOLERANCE, save: vec![], effort };
                medians[found].push(runner.run(&request, n_threads, 60.0)?.map_err(|f| f.to_string())?.0.median_secs());
            }
        }
        medians.iter_mut().for_each(|m| m.sort_by(f64::total_cmp));
        let (a, b) = (1e3 * medians[0][2], 1e3 * medians[1][2]);
        println!("{name:30} {a:14.4} {:10.1} {b:14.4} {stock_secs:10.1} {:7.2}x", outcome.cost.total_secs, b / a);
        let n = outcome.n_measured as f64 / 1e3;
        let s = outcome.cost.steps;
        println!(
            "{:30} ms per candidate: replay {:.1}, postprocs {:.1}, lowering {:.1}, LLVM {:.1}, link {:.1}, run {:.1}; probes {:.1}",
            "",
            s.replay_secs / n,
            s.postproc_secs / n,
            s.lower_secs / n,
            s.llvm_secs / n,
            s.link_secs / n,
            s.run_secs / n,
            outcome.cost.probe_secs / n,
        );
    }
    Ok(())
}

fn stock(
    task: &Task,
    target: &str,
    folder: &Path,
    python: &str,
    script: &str,
    trials: &str,
    seed: &str,
) -> Result<(PathBuf, f64), Box<dyn std::error::Error>> {
    std::fs::create_dir_all(folder)?;
    let module = folder.join("module.py");
    std::fs::write(&module, te::te_script(&task.nest)?)?;
    let output = Command::new(python)
        .arg(script)
        .arg(&module)
        .args([target, trials, seed])
        .arg(folder)
        .env("TVM_BACKTRACE", "1")
        .env("TVM_NUM_THREADS", task.n_threads.to_string())
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().rfind(|l| l.starts_with('{')) else {
        return Err(format!("stock MetaSchedule failed: {}", String::from_utf8_lossy(&output.stderr)).into());
    };
    let answer: serde_json::Value = serde_json::from_str(line)?;
    Ok((answer["library"].as_str().ok_or("no library")?.into(), answer["secs"].as_f64().unwrap_or(f64::NAN)))
}
