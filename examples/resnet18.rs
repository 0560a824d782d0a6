//! Syno's published search space for ResNet-18 under Syno's own rules (`Options::syno`): how fast it is sampled, and what it takes.
//!
//! `cargo run --release --no-default-features --example resnet18 [-- SECONDS [SEED]]` prints a line whenever the number of distinct
//! operators has doubled, and what was refused at the end.

use std::time::{Duration, Instant};
use syntune::error::Result;
use syntune::synth::legal::Sizes;
use syntune::synth::options::Options;
use syntune::synth::space::{Axis, Shapes, Space};
use syntune::synth::{Binding, Size, Synthesizer};

/// Channels in and out and the height of the seven distinct layers that are replaced, at pictures of 224².
const LAYERS: [(i64, i64, i64); 7] =
    [(64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)];

/// Up to 12 actions, two weights, one merge, three splits; how often a variable may occur is the published search's too.
fn published() -> Result<Space> {
    let uses = [("N", 0), ("Ci", 2), ("Co", 4), ("H", 0), ("g", 3), ("k", 2), ("k2", 2), ("s", 2)];
    let slot = |(ci, co, h)| Binding::of(&[("N", 128), ("Ci", ci), ("Co", co), ("H", h), ("g", 32), ("k", 3), ("k2", 7), ("s", 2)]);
    let bindings = LAYERS.map(slot).to_vec();
    let mut sizes = Sizes::new(&uses, &bindings)?;
    (sizes.max_variables, sizes.max_powers) = (3, 16);
    let axis = |name: &str, unordered| Axis { size: sizes.variables().size(name).unwrap_or(Size::ONE), unordered };
    let image = |channels| vec![axis("N", false), axis(channels, true), axis("H", false), axis("H", false)];
    let shapes = Shapes { output: image("Co"), data: image("Ci"), fixed: vec![(0, 0)], places: vec![2, 3], channels: Some((1, 1)) };
    Space::new(shapes, sizes, bindings, Options::syno())
}

/// The most memory that this process ever had, in MiB.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

fn main() -> Result<()> {
    let number = |i: usize, default: u64| std::env::args().nth(i).and_then(|w| w.parse().ok()).unwrap_or(default);
    let (limit, seed) = (Duration::from_secs(number(1, 30)), number(2, 1));
    let start = Instant::now();
    let mut synthesizer = Synthesizer::new(published()?, seed)?;
    println!("ready after {:.2} s", start.elapsed().as_secs_f64());
    let (start, mut n, mut next) = (Instant::now(), 0u64, 100);
    let report = |synthesizer: &Synthesizer, n: u64| {
        let secs = start.elapsed().as_secs_f64();
        println!(
            "{n} distinct operators in {secs:.1} s ({:.0}/s); {} walks, {} reached the data's shape; {} dims; {} MiB at most",
            n as f64 / secs,
            synthesizer.n_walks,
            synthesizer.n_arrived,
            synthesizer.space().graph().n_dims(),
            peak_memory().unwrap_or(0)
        );
    };
    while start.elapsed() < limit && synthesizer.next().is_some() {
        n += 1;
        if n == next {
            report(&synthesizer, n);
            next *= 2;
        }
    }
    report(&synthesizer, n);
    for (reason, count) in synthesizer.space().refused.table() {
        println!("{count:12}  {reason}");
    }
    Ok(())
}
