//! The proof of canonical forms: `cargo run --release --no-default-features --example enumerate`
//!
//! * without arguments, or with `--depth D`: small spaces enumerated to the end, without any rule and with each group of
//!   rules after another. Functions are what operators compute over all their weights (`lower::fingerprint`); classes are
//!   those up to the order of unordered axes' elements. Lost are those of the first row (after "merges across", of that one)
//!   that no operator of the row computes, nor (`deeper`) one of one action more. `--why` tells which;
//! * `--sample N`: bounds and paths of N random operators, of what searches use, of our profile and of Syno's;
//! * `--walks N`: how many of N random walks finish, guided by the distance and not.

mod census;
mod loose;
mod sample;

use census::{Functions, Losing, REQUESTS, Request, census, rows};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Actions of the largest operators: without any rule, and with the bounds.
const RAW_DEPTH: usize = 4;
const DEPTH: usize = 5;

fn table(request: &Request, depth: usize, skip: usize, why: bool) {
    println!("\n{}: operators of at most {depth} actions", request.name);
    println!(
        "{:18}{:>8}{:>9}{:>10}{:>10}{:>11}{:>8}{:>11}{:>9}{:>8}{:>6}",
        "rules", "states", "actions", "operators", "functions", "duplicates", "classes", "lost: funs", "classes", "deeper", "secs"
    );
    let rows: Vec<_> = rows().into_iter().skip(skip).collect();
    let mut functions = Functions::new(&request.space(depth, &rows[0]).bindings);
    let (mut all, mut all_classes, mut ways) = (BTreeSet::new(), BTreeSet::new(), BTreeMap::<String, String>::new());
    for (i, row) in rows.iter().enumerate() {
        let start = Instant::now();
        let found = census(&mut request.space(depth, row));
        let set = functions.set(found.operators.keys());
        let classes = functions.classes(found.operators.keys());
        let n_lost = (all.difference(&set).count(), all_classes.difference(&classes).count());
        let deeper = (row.kind == Losing::Nothing && n_lost.1 > 0).then(|| {
            let found = census(&mut request.larger(depth, row));
            let more = functions.classes(found.operators.keys());
            let left: BTreeSet<u64> = all_classes.difference(&classes).copied().filter(|c| !more.contains(c)).collect();
            for (line, way) in ways.iter().filter(|_| why) {
                if left.contains(&functions.loose(line)) {
                    eprintln!("lost: {line}\n     {way}");
                }
            }
            left.len()
        });
        let deeper = if row.kind == Losing::Nothing { deeper.unwrap_or(0).to_string() } else { "-".into() };
        if i == 0 || row.kind == Losing::Base {
            (all, all_classes, ways) = (set.clone(), classes.clone(), found.operators.clone());
        }
        let n = found.operators.len();
        println!(
            "{:18}{:8}{:9}{n:10}{:10}{:11}{:8}{:11}{:9}{deeper:>8}{:6.0}",
            row.name,
            found.n_states,
            found.n_arcs,
            set.len(),
            n - set.len(),
            classes.len(),
            n_lost.0,
            n_lost.1,
            start.elapsed().as_secs_f64()
        );
    }
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |name: &str| words.iter().position(|w| w == name).and_then(|i| words.get(i + 1)?.parse::<usize>().ok());
    let why = words.iter().any(|w| w == "--why");
    if let Some(n) = number("--sample") {
        return sample::bounds(n);
    }
    if let Some(n) = number("--walks") {
        return sample::walks(n);
    }
    for (i, request) in REQUESTS.iter().enumerate() {
        match number("--depth") {
            _ if number("--only").is_some_and(|only| only != i) => {}
            Some(depth) => table(request, depth, number("--from").unwrap_or(0), why),
            None => {
                table(request, RAW_DEPTH, 0, why);
                table(request, DEPTH, 1, why);
            }
        }
    }
}
