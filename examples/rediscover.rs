//! Finds known operators again in a spec's space, from its seed, and prints when each appeared:
//! `cargo run --release --example rediscover -- examples/rediscover.toml [MOST]`

use std::process::ExitCode;
use syntune::error::Result;
use syntune::search::Slots;
use syntune::search::rediscover::rediscover;
use syntune::spec::Spec;

/// The k×1 then 1×k convolution through g channels.
const SPATIAL: &str = "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, m:g, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[c, m, i] * w2[o, m, j]";

/// What each is called, and its name in the library or its text.
const WANTED: [(&str, &str); 8] = [
    ("3×3 convolution", "conv"),
    ("depthwise", "depthwise"),
    ("grouped", "grouped"),
    ("1×1 convolution", "conv1x1"),
    ("shift", "shift"),
    ("separable", "separable"),
    ("low rank", "low-rank"),
    ("spatial low rank", SPATIAL),
];

/// Distinct operators after which it is given up.
const MOST: usize = 200_000;

fn main() -> Result<ExitCode> {
    let words: Vec<String> = std::env::args().collect();
    let spec = Spec::load(words.get(1).map_or("examples/rediscover.toml", String::as_str))?;
    let most = words.get(2).and_then(|n| n.parse().ok()).unwrap_or(MOST);
    println!("{:>9} {:>8}  {:16}  as drawn", "distinct", "secs", "operator");
    let missing = rediscover(Slots::of(&spec)?.space(&spec)?, spec.seed, &WANTED, most, &mut |found| {
        println!("{:9} {:8.2}  {:16}  {}", found.n_drawn, found.secs, found.name, found.operator);
    })?;
    for name in &missing {
        println!("{:>9} {:>8}  {name:16}  not among {most} operators", "-", "-");
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
