//! Random operators of the profiles: are the bounds bounds, and is what is found again the same?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use syntune::lower::{self, LoopNest, fingerprint, small_bindings};
use syntune::synth::legal::Sizes;
use syntune::synth::options::Options;
use syntune::synth::space::{Axis, Shapes};
use syntune::synth::{Action, Binding, Operator, Space, Synthesizer};

/// The 3×3 slots of ResNet-18 and -34.
const SLOTS: [(i64, i64, i64); 7] =
    [(64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)];

/// Those of the demo's network.
const DEMO: [(i64, i64, i64); 5] = [(16, 16, 28), (16, 32, 14), (32, 32, 14), (32, 64, 7), (64, 64, 7)];

/// Pairs of operators shown that compute the same.
const SHOWN: usize = 12;

/// An f32.
const BYTES: u64 = 4;

/// Stagings of one operator that are tried for the fewest bytes.
const MAX_STAGINGS: usize = 64;

fn bindings(slots: &[(i64, i64, i64)], g: i64) -> Vec<Binding> {
    let slot = |&(ci, co, h)| Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("H", h), ("W", h), ("k", 3), ("g", g), ("s", 2)]);
    slots.iter().map(slot).collect()
}

/// The space of the slots that searches use.
fn searched(slots: &[(i64, i64, i64)], depth: usize) -> Space {
    Space::of_conv(bindings(slots, 4), &["k", "g", "s"].map(String::from), depth, 2).expect("the slots are a space")
}

/// The same, with all that differ at borders only.
fn ours() -> Space {
    let mut space = searched(&SLOTS, 12);
    space.options = Options { depth: space.options.depth, tensors: space.options.tensors, ..Options::ours() };
    space
}

/// Syno's published search for ResNet (section 8): its variables, sizes and rules.
fn syno() -> Space {
    let bindings = bindings(&SLOTS, 32);
    let uses = [("N", 0), ("Ci", 2), ("Co", 4), ("H", 0), ("W", 0), ("g", 3), ("k", 2), ("s", 2)];
    let mut sizes = Sizes::new(&uses, &bindings).expect("variables with values");
    (sizes.max_variables, sizes.max_powers) = (3, 16);
    let axis = |name: &str, unordered| Axis { size: sizes.variables().size(name).expect("a variable"), unordered };
    let image = |channels| vec![axis("N", false), axis(channels, true), axis("H", false), axis("W", false)];
    let (output, data) = (image("Co"), image("Ci"));
    let shapes = Shapes { output, data, fixed: vec![(0, 0)], places: vec![2, 3], channels: Some((1, 1)) };
    Space::new(shapes, sizes, bindings, Options::syno()).expect("a space")
}

fn bytes(nest: &LoopNest) -> u64 {
    nest.tensors.iter().map(|t| t.n_elements() as u64).sum::<u64>() * BYTES
}

/// The least of a cost over the stagings of an operator, all bindings together.
fn least(operator: &Operator, bindings: &[Binding], cost: fn(&LoopNest) -> u64) -> u64 {
    let of = |b: &Binding| {
        let all = lower::stagings(operator, b, MAX_STAGINGS).expect("a legal operator");
        all.iter().map(cost).min().expect("a staging")
    };
    bindings.iter().map(of).sum()
}

#[derive(Default)]
struct Tally {
    n: usize,
    n_prefixes: usize,
    /// Operators with a prefix whose bound was above the final value, or that does not come back, by what it was.
    wrong: BTreeMap<&'static str, usize>,
    functions: BTreeMap<u128, String>,
}

impl Tally {
    fn note(&mut self, what: &'static str, operator: &Operator) {
        if !self.wrong.contains_key(what) {
            eprintln!("{what}: {operator}");
        }
        *self.wrong.entry(what).or_default() += 1;
    }

    fn add(&mut self, space: &mut Space, small: &[Binding], operator: &Operator) {
        self.n += 1;
        let function = fingerprint(operator, small).expect("small sizes").0;
        if let Some(first) = self.functions.insert(function, operator.to_string())
            && self.n - self.functions.len() <= SHOWN
        {
            eprintln!("the same: {first}\n          {operator}");
        }
        let path = match space.path(operator) {
            Ok(path) => path,
            Err(error) => {
                eprintln!("{error}");
                return self.note("has no path", operator);
            }
        };
        let bindings = space.bindings.clone();
        let chosen: u64 = bindings.iter().map(|b| lower::lower(operator, b).expect("a legal operator").n_macs()).sum();
        let flops = least(operator, &bindings, LoopNest::n_macs).min(chosen);
        let moved = least(operator, &bindings, bytes);
        let n = path.steps().count() - 1;
        let mut found = BTreeSet::new();
        for (i, step) in path.steps().enumerate() {
            self.n_prefixes += 1;
            let state = &step.state;
            let mut test = |what, holds: bool| {
                if !holds {
                    found.insert(what);
                }
            };
            test("distance above the steps left", state.steps == usize::MAX || state.steps <= n - i);
            test("FLOPs bound above the cheapest staging's", space.least_flops(state) <= flops);
            test("bytes bound above the cheapest staging's", space.least_bytes(state) <= moved);
            let again = space.parse_action(state, &step.text);
            test("an action does not come back", again.is_ok_and(|a| space.print_action(state, &a) == step.text));
            if let Action::Finish(data) = &step.action {
                test("the path leads elsewhere", space.finish(state, data).is_ok_and(|f| f == *operator));
            }
        }
        found.into_iter().for_each(|what| self.note(what, operator));
    }
}

/// Bounds at every prefix, paths, and equal functions among `n` random operators of each profile.
pub fn bounds(n: usize) {
    println!("{:22}{:>10}{:>10}{:>10}{:>11}{:>8}  wrong", "profile", "operators", "prefixes", "functions", "duplicates", "secs");
    for (name, space) in [
        ("searched, ResNet 3×3", searched(&SLOTS, 12)),
        ("searched, demo", searched(&DEMO, 10)),
        ("ours, ResNet 3×3", ours()),
        ("Syno, ResNet 3×3", syno()),
    ] {
        let start = Instant::now();
        let small = small_bindings(&space.bindings).expect("bindings have small ones");
        let mut synthesizer = Synthesizer::new(space, 1).expect("a space to walk");
        let mut tally = Tally::default();
        while tally.n < n
            && let Some(operator) = synthesizer.next()
        {
            tally.add(synthesizer.space_mut(), &small, &operator);
        }
        let (n, n_functions) = (tally.n, tally.functions.len());
        let secs = start.elapsed().as_secs_f64();
        println!("{name:22}{n:10}{:10}{n_functions:10}{:11}{secs:8.0}  {:?}", tally.n_prefixes, n - n_functions, tally.wrong);
    }
}

/// The share of `n` random walks that finish.
pub fn walks(n: usize) {
    println!("{:22}{:>10}{:>10}{:>10}{:>9}{:>10}", "walks", "guided by", "walks", "arrived", "share", "distinct");
    for (name, space) in [("ResNet 3×3", searched(&SLOTS, 12)), ("demo", searched(&DEMO, 10))] {
        for guided in [true, false] {
            let make = if guided { Synthesizer::new } else { Synthesizer::unguided };
            let mut synthesizer = make(space.clone(), 1).expect("a space to walk");
            let mut lines = BTreeSet::new();
            let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(1);
            for _ in 0..n {
                lines.extend(synthesizer.walk(None, &mut rng).map(|o| o.to_string()));
            }
            let (n_walks, n_arrived) = (synthesizer.n_walks, synthesizer.n_arrived);
            let share = 100.0 * n_arrived as f64 / n_walks as f64;
            let by = if guided { "distance" } else { "nothing" };
            println!("{name:22}{by:>10}{n_walks:10}{n_arrived:10}{share:7.2} %{:10}", lines.len());
        }
    }
}
