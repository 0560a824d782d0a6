//! MetaSchedule databases as `tune` uses them: what is tried first, and what a search that is killed leaves.

use crate::error::{Context, Result};
use crate::synth::stable_hash;
use crate::tune::tasks::Kernel;
use crate::tune::{Config, LocalRunner, Samples};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;

/// Records of a database that are tried for each kernel, the fastest.
const N_RECORDS: usize = 8;

/// Where a database holds what an unfinished search of these kernels found. Its quick measurements are no match for those of finished
/// ones, which stock TVM sorts by.
pub(super) fn unfinished(folder: &Path, kernels: &[Kernel]) -> PathBuf {
    let tasks: Vec<String> = kernels.iter().filter_map(|k| serde_json::to_string(&k.task).ok()).collect();
    folder.join(format!("unfinished-{:016x}", stable_hash(tasks.concat().as_bytes())))
}

/// Writes each new best of a kernel there, beside the search, so that nothing is lost with it; of several that wait the last.
pub(super) fn keep(runner: &LocalRunner, kernels: &[Kernel], folder: &Path, known: Receiver<(usize, Config, Samples)>) {
    let mut has_failed = false;
    while let Ok((place, config, samples)) = known.recv() {
        let mut waiting = BTreeMap::from([(place, (config, samples))]);
        waiting.extend(known.try_iter().map(|(place, config, samples)| (place, (config, samples))));
        for (place, (config, samples)) in waiting {
            if let (Err(error), false) = (runner.record(&kernels[place].task, &config, &samples, folder), has_failed) {
                eprintln!("syntune: the best so far is not kept: {error}");
                has_failed = true;
            }
        }
    }
}

/// The programs to try first: those of these databases that are there.
pub(super) fn recorded(runner: &LocalRunner, kernel: &mut Kernel, folders: &[&Path]) -> Result<()> {
    let mut n_foreign = 0;
    for folder in folders.iter().filter(|folder| folder.join(WORKLOADS).exists()) {
        let (records, n) = runner.records(&kernel.task, folder, N_RECORDS)?;
        n_foreign += n;
        for (candidate, _) in records {
            if kernel.first.iter().all(|c| c.hash != candidate.hash) {
                kernel.first.push(candidate);
            }
        }
    }
    if !kernel.first.is_empty() || n_foreign > 0 {
        let n = kernel.first.len();
        eprintln!("{}: {n} recorded programs are tried first, {n_foreign} records are of no design space here", kernel.name);
    }
    Ok(())
}

/// The two files of a database.
const WORKLOADS: &str = "database_workload.json";
const RECORDS: &str = "database_tuning_record.json";

/// Cuts the last line of what a search left where the kill came between its parts: TVM reads no such file.
pub(super) fn whole_lines(folder: &Path) -> Result<()> {
    for file in [WORKLOADS, RECORDS].map(|name| folder.join(name)).into_iter().filter(|file| file.exists()) {
        let content = std::fs::read(&file).context(|| format!("reading {}", file.display()))?;
        let end = content.iter().rposition(|&c| c == b'\n').map_or(0, |at| at + 1);
        let is_whole = serde_json::from_slice::<serde_json::Value>(&content[end..]).is_ok();
        if end < content.len() && !is_whole {
            std::fs::write(&file, &content[..end]).context(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(())
}
