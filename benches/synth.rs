//! How fast operators are synthesized for the slots of ResNet, and what the parts of it cost per call.
//!
//! `cargo bench --no-default-features --bench synth`: a minute or two. Elements are distinct operators, or calls.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use rayon::prelude::*;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Duration;
use syntune::synth::distance::{Axis, Budget, Form, Memo, Target, Wanted};
use syntune::synth::options::Options;
use syntune::synth::{Action, Binding, Operator, Partial, Prim, Space, Synthesizer};

/// Operators that every thread makes at a time.
const PER_THREAD: usize = 2000;

/// Operators whose paths give the states that single calls are measured in.
const SAMPLED: usize = 30;

/// The 3×3 slots of ResNet-18 and -34.
const SLOTS: [(i64, i64, i64); 7] =
    [(64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)];

fn resnet() -> Space {
    let slot = |(ci, co, h)| Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("H", h), ("W", h), ("k", 3), ("g", 4), ("s", 2)]);
    Space::of_conv(SLOTS.map(slot).to_vec(), &["k", "g", "s"].map(String::from), 12, 2).expect("the slots are a space")
}

fn synthesizer(seed: u64) -> Synthesizer {
    Synthesizer::new(resnet(), seed).expect("the space can be walked")
}

fn next(synthesizer: &mut Synthesizer) -> Operator {
    synthesizer.next().expect("the space is not exhausted")
}

/// The same slots with all of our operators, those too that differ at borders only, which searches leave out.
fn all_of_ours() -> Synthesizer {
    let mut space = resnet();
    space.options = Options { depth: space.options.depth, tensors: space.options.tensors, ..Options::ours() };
    Synthesizer::new(space, 1).expect("the space can be walked")
}

/// Distinct operators per second, one after another from one synthesizer.
fn guided(c: &mut Criterion) {
    let mut group = c.benchmark_group("synth");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(10));
    let mut synthesizer = synthesizer(1);
    group.bench_function("next", |b| b.iter(|| next(&mut synthesizer)));
    let mut ours = all_of_ours();
    group.bench_function("next, all of ours", |b| b.iter(|| next(&mut ours)));
    group.finish();
    eprintln!("{} walks, {} reached the data's shape", synthesizer.n_walks, synthesizer.n_arrived);
}

/// Every thread walks on its own, from its own seed; what two of them find counts once.
fn threads(c: &mut Criterion) {
    let mut group = c.benchmark_group("threads");
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    for n in [1usize, 2] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n).build().expect("threads can be started");
        let all = |mut synthesizers: Vec<Synthesizer>| -> BTreeSet<String> {
            let some = |s: &mut Synthesizer| (0..PER_THREAD).map(|_| next(s).id()).collect::<Vec<_>>();
            pool.install(|| synthesizers.par_iter_mut().flat_map_iter(some).collect())
        };
        let fresh = || (1..=n as u64).map(synthesizer).collect::<Vec<_>>();
        let n_distinct = all(fresh()).len();
        eprintln!("{n} threads: {n_distinct} distinct of {}", n * PER_THREAD);
        group.throughput(Throughput::Elements(n_distinct as u64));
        group.bench_function(n.to_string(), |b| b.iter_batched(fresh, all, BatchSize::PerIteration));
    }
    group.finish();
}

/// What an operator's state asks the distance.
fn question(space: &Space, state: &Partial) -> (Vec<Axis>, Budget) {
    let (options, used) = (&space.options, state.counts);
    let may_contract = state.weights.len() + 1 < options.tensors;
    let axis = |top: &syntune::synth::partial::Top| Axis {
        size: space.graph().size(top.dim),
        left: (options.chain - usize::from(top.height)) as u8,
        discards: top.discards,
        drops: may_contract && matches!(space.graph().prim(top.dim), Prim::Output(_) | Prim::Reduce(_)),
        form: Form::default(),
    };
    let left = (options.depth - state.n_actions) as u32;
    let budget = Budget {
        merges: (options.most.merges - used.merges) as u32,
        splits: (options.most.splits - used.splits) as u32,
        leaves: 2 * options.depth as u32,
        steps: left,
        contracts: may_contract,
        odd_growth: false,
    };
    (state.frontier.iter().map(axis).collect(), budget)
}

/// Calls in the states on the paths of sampled operators, one after another.
fn calls(c: &mut Criterion) {
    let mut synthesizer = synthesizer(1);
    let operators: Vec<Operator> = (0..SAMPLED).map(|_| next(&mut synthesizer)).collect();
    let mut space = resnet();
    let mut states: Vec<Partial> = Vec::new();
    for operator in &operators {
        // an operator may be written in a way that its path has not: only paths matter here
        let Ok(path) = space.path(operator) else { continue };
        states.extend(path.steps().filter(|s| !matches!(s.action, Action::Finish(_))).map(|s| s.state.clone()));
    }
    assert!(states.len() >= SAMPLED, "{} states", states.len());
    let arcs: Vec<(Partial, Action)> =
        states.iter().flat_map(|s| space.children(s).into_iter().map(|(action, _)| (s.clone(), action))).collect();
    eprintln!("{} states, {} children", states.len(), arcs.len());

    let mut group = c.benchmark_group("call");
    group.throughput(Throughput::Elements(1)).sample_size(20).measurement_time(Duration::from_secs(3));
    let mut each = states.iter().cycle();
    group.bench_function("children", |b| b.iter(|| each.next().map(|s| space.children(s).len())));
    let mut each = arcs.iter().cycle();
    group.bench_function("check", |b| b.iter(|| each.next().map(|(s, action)| space.check(s, action))));
    let mut each = arcs.iter().cycle();
    group.bench_function("child", |b| b.iter(|| each.next().map(|(s, action)| space.child(s, action))));
    let wanted = space.shapes.data.iter().skip(1).map(|a| Wanted { size: a.size, unordered: a.unordered }).collect();
    let target = Target::new(wanted);
    let questions: Vec<_> = states.iter().map(|s| question(&space, s)).collect();
    let sizes = space.sizes();
    let mut each = questions.iter().cycle();
    group.bench_function("distance, first time", |b| {
        b.iter(|| each.next().map(|(axes, budget)| target.distance(sizes, black_box(axes), budget)))
    });
    let mut memo = Memo::default();
    let mut each = questions.iter().cycle();
    group.bench_function("distance, known", |b| {
        b.iter(|| each.next().map(|(axes, budget)| memo.distance(&target, sizes, black_box(axes), budget)));
    });
    group.finish();
}

criterion_group!(benches, guided, threads, calls);
criterion_main!(benches);
