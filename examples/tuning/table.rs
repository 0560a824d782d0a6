//! What searches found, side by side.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A strategy, with its threads where they are not one, and its number of measurements.
type Column = (String, u64);

/// Median GFLOP/s over seeds per workload and strategy; below, geometric means of each column's speed over each other's on the
/// workloads that both have, and what the searches cost.
pub fn table(runs: &[Value]) -> String {
    let column = |run: &Value| {
        let threads = match run["n_threads"].as_u64() {
            None | Some(1) => String::new(),
            Some(n) => format!(" on {n}"),
        };
        (format!("{}{threads}", run["strategy"].as_str().unwrap_or("?")), run["n_trials"].as_u64().unwrap_or(0))
    };
    let columns: BTreeSet<Column> = runs.iter().map(column).collect();
    let mut names: Vec<&str> = Vec::new();
    for name in runs.iter().filter_map(|run| run["workload"].as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut cells: BTreeMap<(&str, Column), Vec<&Value>> = BTreeMap::new();
    for run in runs {
        cells.entry((run["workload"].as_str().unwrap_or("?"), column(run))).or_default().push(run);
    }
    let of = |name: &str, c: &Column, key: &str| -> Option<f64> {
        median(cells.get(&(name, c.clone()))?.iter().filter_map(|run| run[key].as_f64()).collect())
    };
    let mut text = format!("{:16}", "GFLOP/s");
    columns.iter().for_each(|c| text += &format!("{:>22}", format!("{} {}", c.0, c.1)));
    for name in &names {
        text += &format!("\n{name:16}");
        for c in &columns {
            text += &match (of(name, c, "gflops"), of(name, c, "secs")) {
                (Some(gflops), Some(secs)) => format!("{:>22}", format!("{gflops:.1} {:.0} µs", secs * 1e6)),
                _ => format!("{:>22}", "-"),
            };
        }
    }
    text += "\n\nspeed, geometric mean of the row's over the column's (workloads)\n";
    text += &format!("{:22}", "");
    columns.iter().for_each(|c| text += &format!("{:>22}", format!("{} {}", c.0, c.1)));
    for a in &columns {
        text += &format!("\n{:22}", format!("{} {}", a.0, a.1));
        for b in &columns {
            let ratios: Vec<f64> = names.iter().filter_map(|name| Some(of(name, b, "secs")? / of(name, a, "secs")?)).map(f64::ln).collect();
            let mean = (ratios.iter().sum::<f64>() / ratios.len().max(1) as f64).exp();
            text += &if ratios.is_empty() { format!("{:>22}", "-") } else { format!("{:>22}", format!("{mean:.2} ({})", ratios.len())) };
        }
    }
    text += "\n\nwall seconds per search, median";
    for c in &columns {
        let secs: Vec<f64> = runs.iter().filter(|run| column(run) == *c).filter_map(|run| run["wall_secs"].as_f64()).collect();
        text += &format!("\n{:22}{:>10.1}", format!("{} {}", c.0, c.1), median(secs).unwrap_or(f64::NAN));
    }
    text +=
        "\n\nwall seconds until a search is as fast as another's best, geometric mean of column's own total over them (reached of all)\n";
    text += &format!("{:22}", "");
    columns.iter().for_each(|c| text += &format!("{:>22}", format!("{} {}", c.0, c.1)));
    for a in &columns {
        text += &format!("\n{:22}", format!("{} {}", a.0, a.1));
        for b in &columns {
            let (mut gains, mut n) = (Vec::new(), 0);
            for name in &names {
                let (Some(goal), Some(total)) = (of(name, b, "secs"), of(name, b, "wall_secs")) else { continue };
                for run in cells.get(&(*name, a.clone())).into_iter().flatten() {
                    n += 1;
                    gains.extend(reached(run, goal).map(|secs| (total / secs).ln()));
                }
            }
            let mean = (gains.iter().sum::<f64>() / gains.len().max(1) as f64).exp();
            text += &if gains.is_empty() { format!("{:>22}", "-") } else { format!("{:>22}", format!("{mean:.1} ({}/{n})", gains.len())) };
        }
    }
    text + "\n"
}

/// The wall seconds after which a search had found something as fast.
fn reached(run: &Value, goal: f64) -> Option<f64> {
    let points = run["curve"].as_array()?;
    points.iter().find(|p| p[3].as_f64().is_some_and(|secs| secs <= goal)).and_then(|p| p[1].as_f64())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
