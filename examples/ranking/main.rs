//! How well the cost model ranks programs that it has not seen:
//! `cargo run --release --no-default-features --features tvm --example ranking -- measure --folder DIR [--only NAME,…] [--n 250] [--secs 220]`
//! measures distinct programs of each workload, half of them as evolution finds them, half at random in all spaces, into
//! `DIR/NAME.jsonl` (run again, it goes on there); `… features --folder DIR` adds MetaSchedule's features of the same programs
//! (`NAME.tvm.jsonl`), which needs no quiet machine; `… rows --folder DIR` writes the rows that the cost model sees
//! (`NAME.rows.jsonl`); `… rank --folder DIR [--splits 10]` learns from some of the programs, guesses the others, and prints one
//! table: Kendall's τ, the share of the best tenth that is among the tenth guessed best, and how much slower than the best the
//! best of the 1 and of the 8 guessed best is; `… drafts --folder DIR` measures drafts of each kind.

mod quality;
#[path = "../tuning/workloads.rs"]
mod workloads;

use anyhow::Context;
use quality::Quality;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;
use syntune::lower::layout;
use syntune::spec::Strategy;
use syntune::tune::cost::{self, CostModel, Rows};
use syntune::tune::draft::{draft, draft_by, loss};
use syntune::tune::roofline::Roofline;
use syntune::tune::{Config, Effort, Limits, LocalRunner, Measurement, Options, Proposal, Runner, Samples, Task, Tuner};
use workloads::Workload;

/// Workloads when none is named: dense, pointwise, depthwise, grouped, matrix, synthesized.
const DEFAULT: &str = "conv64,conv512,pointwise512,depthwise,grouped,matmul,synthesized1,synthesized4";
/// Random programs built at once.
const BATCH: usize = 16;

/// Programs slower than this many times the best are called three times only.
const HOPELESS: f64 = 4.0;

/// One measured program.
#[derive(Serialize, Deserialize)]
struct Line {
    workload: String,
    config: Config,
    hash: u64,
    /// Seconds of each sample.
    samples: Vec<f64>,
}

/// MetaSchedule's features of a program, one row per store.
#[derive(Serialize, Deserialize)]
struct Stores {
    hash: u64,
    rows: Vec<Vec<f64>>,
}

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
    let folder = PathBuf::from(word("--folder").context("where to? --folder DIR")?);
    std::fs::create_dir_all(&folder)?;
    let only = word("--only").unwrap_or_else(|| DEFAULT.into());
    let wanted: Vec<Workload> = workloads::workloads(layout::BLOCK).into_iter().filter(|w| only.split(',').any(|o| o == w.name)).collect();
    match words.get(1).map(String::as_str) {
        Some("measure") => wanted.iter().try_for_each(|w| measure(w, &folder, number("--n", 250), number("--secs", 220) as f64)),
        Some("features") => wanted.iter().try_for_each(|w| features(w, &folder)),
        Some("rows") => wanted.iter().try_for_each(|w| rows(w, &folder)),
        Some("drafts") => wanted.iter().try_for_each(|w| drafts(w, &folder)),
        Some("rank") => rank(&wanted, &folder, number("--splits", 10)),
        _ => anyhow::bail!("what to do? measure, features, rows, drafts or rank"),
    }
}

fn task(workload: &Workload) -> Task {
    Task { computation: workload.nest.clone().into(), target: "host".into(), n_threads: 1 }
}

fn file(folder: &Path, workload: &Workload, ending: &str) -> PathBuf {
    folder.join(format!("{}.{ending}", workload.name))
}

/// What was written before; nothing where there is no file.
fn read<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<Vec<T>> {
    let Ok(file) = std::fs::File::open(file) else { return Ok(vec![]) };
    std::io::BufReader::new(file).lines().map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}

fn measure(workload: &Workload, folder: &Path, n: usize, limit_secs: f64) -> anyhow::Result<()> {
    let start = Instant::now();
    let file = file(folder, workload, "jsonl");
    let mut seen: BTreeSet<u64> = read::<Line>(&file)?.iter().map(|l| l.hash).collect();
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(&file)?;
    let mut failures: BTreeMap<String, usize> = BTreeMap::new();
    let mut keep = |m: &Measurement, seen: &mut BTreeSet<u64>| -> anyhow::Result<()> {
        seen.insert(m.hash);
        let samples = match &m.result {
            Ok(samples) => samples,
            Err(failure) => {
                *failures.entry(format!("{} in space {}", failure.cause(), m.config.space)).or_default() += 1;
                return Ok(());
            }
        };
        let line = Line { workload: workload.name.into(), config: m.config.clone(), hash: m.hash, samples: samples.0.clone() };
        Ok(writeln!(out, "{}", serde_json::to_string(&line)?)?)
    };
    let runner = LocalRunner::new(Limits::default())?;
    let task = task(workload);
    if seen.len() < n / 2 {
        let mut options = Options::new(n / 2 - seen.len(), 1 + seen.len() as u64);
        options.strategy = Strategy::named("evolution").context("no strategy evolution")?;
        (options.limit_secs, options.final_effort) = (limit_secs / 2.0, Effort::QUICK);
        let mut failed = Ok(());
        Tuner::new(&runner, task.clone(), options).run(&mut |m| {
            if failed.is_ok() {
                failed = keep(m, &mut seen);
            }
        })?;
        failed?;
    }
    let n_spaces = runner.spaces(&task)?.len();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seen.len() as u64);
    let mut best = f64::INFINITY;
    while seen.len() < n && start.elapsed().as_secs_f64() < limit_secs {
        let proposals: Vec<Proposal> = (0..BATCH).map(|i| Proposal::Random { space: i % n_spaces, seed: rng.random() }).collect();
        let mut found: Vec<_> = runner.probe(&task, &proposals)?.into_iter().flatten().filter(|c| !seen.contains(&c.hash)).collect();
        found.dedup_by_key(|c| c.hash);
        // JSON has no infinity
        let effort = Effort { hopeless_secs: (HOPELESS * best).min(f64::MAX), ..Effort::QUICK };
        let mut failed = Ok(());
        runner.measure(&task, &found, &effort, &mut |m| {
            best = best.min(m.rank_secs());
            failed = keep(&m, &mut seen);
            failed.is_ok()
        })?;
        failed?;
    }
    eprintln!("{}: {} programs in {:.0} s; failures {failures:?}", workload.name, seen.len(), start.elapsed().as_secs_f64());
    Ok(())
}

fn features(workload: &Workload, folder: &Path) -> anyhow::Result<()> {
    let there: BTreeSet<u64> = read::<Stores>(&file(folder, workload, "tvm.jsonl"))?.iter().map(|s| s.hash).collect();
    let lines: Vec<Line> = read::<Line>(&file(folder, workload, "jsonl"))?.into_iter().filter(|l| !there.contains(&l.hash)).collect();
    let runner = LocalRunner::new(Limits::default())?;
    let mut out = std::fs::OpenOptions::new().create(true).append(true).open(file(folder, workload, "tvm.jsonl"))?;
    let start = Instant::now();
    for part in lines.chunks(BATCH) {
        let configs: Vec<Config> = part.iter().map(|l| l.config.clone()).collect();
        for (line, rows) in part.iter().zip(runner.features(&task(workload), &configs)?) {
            let stores = Stores { hash: line.hash, rows: rows.map_err(|f| anyhow::anyhow!("{f}"))? };
            writeln!(out, "{}", serde_json::to_string(&stores)?)?;
        }
    }
    let each = 1e3 * start.elapsed().as_secs_f64() / lines.len().max(1) as f64;
    eprintln!("{}: features of {} programs, {each:.1} ms each", workload.name, lines.len());
    Ok(())
}

/// What the cost model sees of one measured program, and all that it may see.
#[derive(Serialize)]
struct Row {
    workload: String,
    hash: u64,
    space: usize,
    secs: f64,
    /// As [`Rows::of`] gives it; nothing where it has no number.
    row: Vec<f64>,
    /// [`loss`] of the draft.
    loss: f64,
    /// MetaSchedule's: of the store with most iterations, then of all, added up.
    stores: Vec<f64>,
}

fn read_rows(workload: &Workload, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let lines: Vec<Line> = read(&file(folder, workload, "jsonl"))?;
    let stores: BTreeMap<u64, Vec<Vec<f64>>> =
        read::<Stores>(&file(folder, workload, "tvm.jsonl"))?.into_iter().map(|s| (s.hash, s.rows)).collect();
    let task = task(workload);
    let spaces = LocalRunner::new(Limits::default())?.spaces(&task)?;
    let rows = Rows::new(&task.computation, &spaces, task.n_threads);
    let start = Instant::now();
    lines.iter().for_each(|l| drop(std::hint::black_box(rows.of(&l.config))));
    eprintln!("{}: {:.1} µs for each row", workload.name, 1e6 * start.elapsed().as_secs_f64() / lines.len().max(1) as f64);
    let row = |line: Line| {
        let stores = stores.get(&line.hash).map(|s| cost::program(s)).unwrap_or_default();
        let secs = Samples(line.samples).quartile_secs();
        let loss = loss(&line.config.decisions);
        Row { workload: line.workload, hash: line.hash, space: line.config.space, secs, row: rows.of(&line.config), loss, stores }
    };
    Ok(lines.into_iter().map(row).collect())
}

fn rows(workload: &Workload, folder: &Path) -> anyhow::Result<()> {
    let mut out = std::fs::File::create(file(folder, workload, "rows.jsonl"))?;
    read_rows(workload, folder)?.iter().try_for_each(|row| Ok(writeln!(out, "{}", serde_json::to_string(row)?)?))
}

/// Programs that are learned from.
const LEARNED: [usize; 4] = [16, 32, 64, 128];

fn rank(wanted: &[Workload], folder: &Path, n_splits: usize) -> anyhow::Result<()> {
    for n in LEARNED {
        let mut means = Vec::new();
        for workload in wanted {
            let rows = read_rows(workload, folder)?;
            let mut found = Vec::new();
            for split in 0..n_splits as u64 {
                let mut order: Vec<usize> = (0..rows.len()).collect();
                order.shuffle(&mut rand_chacha::ChaCha8Rng::seed_from_u64(split));
                anyhow::ensure!(order.len() > n + 10, "{}: {} programs are too few; measure more", workload.name, order.len());
                let (known, new) = order.split_at(n);
                let best = known.iter().map(|&i| rows[i].secs).fold(f64::INFINITY, f64::min);
                let of = |part: &[usize]| part.iter().map(|&i| rows[i].row.clone()).collect::<Vec<_>>();
                let speeds: Vec<f64> = known.iter().map(|&i| best / rows[i].secs).collect();
                let mut model = CostModel::default();
                model.fit(&of(known), &speeds, split);
                let scores: Vec<f64> = model.guess(&of(new)).iter().map(|g| g.speed).collect();
                found.push(Quality::of(&new.iter().map(|&i| rows[i].secs).collect::<Vec<_>>(), &scores));
            }
            means.push(Quality::mean(&found));
            println!("{n:4}  {:16}{}", workload.name, Quality::mean(&found));
        }
        println!("{n:4}  {:16}{}", "mean", Quality::mean(&means));
    }
    Ok(())
}

/// Drafts of each kind.
const DRAFTS: usize = 12;

/// The times of drafts in our own space, over the best of what was measured before: by the loss, by the roofline, and at random.
fn drafts(workload: &Workload, folder: &Path) -> anyhow::Result<()> {
    let known = read::<Line>(&file(folder, workload, "jsonl"))?;
    let best = known.iter().map(|l| Samples(l.samples.clone()).quartile_secs()).fold(f64::INFINITY, f64::min);
    let (runner, task) = (LocalRunner::new(Limits::default())?, task(workload));
    let spaces = runner.spaces(&task)?;
    let roofline = Roofline::new(&workload.nest, &spaces, task.n_threads);
    let Some((space, others)) = spaces.split_last() else { return Ok(()) };
    let number = others.len();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    for kind in ["loss", "roofline", "random"] {
        let proposals: Vec<Proposal> = (0..DRAFTS)
            .map(|_| match kind {
                "loss" => draft(space, number, &mut rng),
                "roofline" => draft_by(&roofline, space, number, &mut rng),
                _ => space.random(number, &mut rng),
            })
            .map(Proposal::Exact)
            .collect();
        let candidates: Vec<_> = runner.probe(&task, &proposals)?.into_iter().flatten().collect();
        let effort = Effort { hopeless_secs: HOPELESS * best, ..Effort::QUICK };
        let mut ratios = Vec::new();
        runner.measure(&task, &candidates, &effort, &mut |m| {
            ratios.push(m.rank_secs() / best);
            true
        })?;
        ratios.sort_by(f64::total_cmp);
        let middle = ratios.get(ratios.len() / 2);
        let of = |ratio: Option<&f64>| ratio.copied().unwrap_or(f64::INFINITY);
        println!("{:16}{kind:10} best {:.2} median {:.2} of {}", workload.name, of(ratios.first()), of(middle), ratios.len());
    }
    Ok(())
}
