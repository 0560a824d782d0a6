//! Tree search, random walks and evolution on real models within equal wall time.
//!
//! `cargo run --release --example compare_search -- examples/demo.toml 6 3 [FOLDER]` explores for 6 minutes with each, for seeds
//! 1 to 3: no finals, slots by quick tuning, accuracy by the short training. Runs go side by side, one on each core (with
//! `taskset`), strategies in turn, so that what else the machine does meets all alike. Prints one JSON line a run and a
//! table of medians; stores are kept in FOLDER, if given, and runs found there go on.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use syntune::search::reward::{Front, Point, Scale};
use syntune::spec::{Proposals, Spec};
use syntune::store::Store;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// Points of accuracy beyond the allowed drop that count as of some use, as in the search.
const USEFUL: f64 = 0.1;

struct Run {
    strategy: Proposals,
    seed: u64,
}

struct Found {
    n_trials: usize,
    n_trained: usize,
    hypervolume: f64,
    /// The baseline's seconds over those of the fastest that keeps the accuracy; 1 where none does.
    speedup: f64,
    /// Speed-up and change of accuracy in points.
    front: Vec<(f64, f64)>,
}

fn explore(request: &Spec, run: &Run, minutes: f64, core: usize, folder: &Path) -> Result<PathBuf> {
    let mut spec = request.clone();
    (spec.seed, spec.operator.strategy, spec.budget.minutes, spec.train.n_finalists) = (run.seed, run.strategy, minutes, 0);
    let name = format!("{}-{}", run.strategy, run.seed);
    let (file, store) = (folder.join(format!("{name}.toml")), folder.join(format!("{name}.db")));
    std::fs::write(&file, spec.print())?;
    let program = std::env::current_exe()?.with_file_name("").join("../syntune");
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program).arg("search").arg(&file).arg("--store").arg(&store);
    let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).status()?;
    match status.code() {
        Some(0 | 1) => Ok(store),
        _ => Err(format!("{name} ended with {status}: see {}", folder.join(format!("{name}.log")).display()).into()),
    }
}

fn read(file: &Path, drop: f64) -> Result<Found> {
    let store = Store::open_read(file)?;
    let baseline = store.baseline()?;
    let (Some(slots), Some(accuracy)) = (baseline.slots, baseline.proxy_accuracy) else { return Err("no baseline".into()) };
    let baseline = Point { secs: slots.median_secs, accuracy };
    let trials = store.trials()?;
    let points: Vec<Point> =
        trials.iter().filter_map(|t| Some(Point { secs: t.slots?.median_secs, accuracy: t.proxy_accuracy? })).collect();
    let mut front = Front::new(Scale { baseline, least: accuracy - drop - USEFUL });
    for &p in &points {
        front.push(p);
    }
    let keeps = points.iter().filter(|p| p.accuracy >= accuracy - drop).map(|p| baseline.secs / p.secs);
    let beaten = |p: &Point| points.iter().any(|q| q.secs < p.secs && q.accuracy >= p.accuracy);
    let mut best: Vec<(f64, f64)> =
        points.iter().filter(|p| !beaten(p)).map(|p| (baseline.secs / p.secs, 100.0 * (p.accuracy - accuracy))).collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0));
    let speedup = keeps.fold(1.0, f64::max);
    Ok(Found { n_trials: trials.len(), n_trained: points.len(), hypervolume: front.hypervolume(), speedup, front: best })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (Some(spec), Some(minutes), Some(n_seeds)) = (words.first(), words.get(1), words.get(2)) else {
        return Err("usage: compare_search SPEC MINUTES SEEDS [FOLDER]".into());
    };
    let (spec, minutes, n_seeds): (Spec, f64, u64) = (Spec::load(spec)?, minutes.parse()?, n_seeds.parse()?);
    let private = tempfile::tempdir()?;
    let folder = words.get(3).map_or_else(|| private.path().to_path_buf(), PathBuf::from);
    std::fs::create_dir_all(&folder)?;
    let strategies = [Proposals::Mcts, Proposals::Random, Proposals::Evolution];
    let runs: Vec<Run> = (1..=n_seeds).flat_map(|seed| strategies.map(|strategy| Run { strategy, seed })).collect();
    let next = AtomicUsize::new(0);
    let done: Mutex<Vec<(Proposals, Found)>> = Mutex::new(Vec::new());
    let drop = spec.budget.accuracy_drop / 100.0;
    std::thread::scope(|scope| {
        let (next, done, runs, spec, folder) = (&next, &done, &runs, &spec, &folder);
        let n_cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        let work = move |core: usize| -> Result<()> {
            while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let found = read(&explore(spec, run, minutes, core, folder)?, drop)?;
                let front: Vec<String> = found.front.iter().map(|(s, a)| format!("[{s:.3}, {a:.2}]")).collect();
                println!(
                    r#"{{"strategy": "{}", "seed": {}, "minutes": {minutes}, "trials": {}, "trained": {}, "hypervolume": {:.4}, "speedup": {:.3}, "front": [{}]}}"#,
                    run.strategy,
                    run.seed,
                    found.n_trials,
                    found.n_trained,
                    found.hypervolume,
                    found.speedup,
                    front.join(", ")
                );
                done.lock().unwrap_or_else(|e| e.into_inner()).push((run.strategy, found));
            }
            Ok(())
        };
        let workers: Vec<_> = (0..n_cores).map(|core| scope.spawn(move || work(core))).collect();
        workers.into_iter().try_for_each(|w| w.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })?;
    let done = done.into_inner().unwrap_or_else(|e| e.into_inner());
    println!("{:12} {:>14} {:>14} {:>14} {:>24}", "medians of", "trials", "trained", "hypervolume", "speed-up that keeps");
    for strategy in strategies {
        let of = |f: &dyn Fn(&Found) -> f64| median(done.iter().filter(|d| d.0 == strategy).map(|d| f(&d.1)).collect());
        let (n_trials, n_trained) = (of(&|f| f.n_trials as f64), of(&|f| f.n_trained as f64));
        let (hypervolume, speedup) = (of(&|f| f.hypervolume), of(&|f| f.speedup));
        println!("{:12} {n_trials:14} {n_trained:14} {hypervolume:14.4} {speedup:23.2}×", strategy.name());
    }
    Ok(())
}
