//! What several rooms' tests need.

// a build without TVM or libtorch leaves out the tests that use some of these
#![allow(dead_code)]

use rand::{Rng, SeedableRng};
use std::path::Path;
use syntune::lower::index::Index;
use syntune::lower::{Access, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
use syntune::synth::library::{LIBRARY, resolve};
use syntune::synth::path::Path as OperatorPath;
use syntune::synth::{Binding, Operator, Space, Synthesizer};

use serde_json::json;
use syntune::error::{Error, Result};
use syntune::spec::Spec;
use syntune::store::{BASELINE, Baseline, EndToEnd, Epoch, Measurement, PRUNED, Phase, Proposal, SlotTime, Store, Timing, Training, Trial};

/// The message of a store's error.
#[track_caller]
pub fn store_fault<T: std::fmt::Debug>(result: Result<T>) -> String {
    match result {
        Err(Error::Store { message, .. }) => message,
        other => panic!("not a store's error: {other:?}"),
    }
}

/// A time whose spread is one part in fifty.
pub fn timing(secs: f64) -> Timing {
    Timing { median_secs: secs, min_secs: secs * 0.98, spread_secs: secs / 50.0, n_samples: 20 }
}

pub fn measurement(workload: &str, config: &str, samples_secs: &[f64]) -> Measurement {
    Measurement {
        workload: workload.into(),
        config: config.into(),
        samples_secs: samples_secs.into(),
        failure: None,
        strategy: "random".into(),
        seed: 7,
    }
}

/// A proposed operator that is only a text.
pub fn proposal(operator: &str, n_macs: u64) -> Proposal {
    Proposal {
        operator: operator.into(),
        id: format!("{:0>16}", operator.bytes().map(|b| format!("{b:02x}")).collect::<String>().split_off(operator.len() * 2 - 4)),
        formula: None,
        n_macs: Some(n_macs),
        n_params: Some(n_macs / 1000),
    }
}

/// A store as a short search leaves it, with made-up numbers: two on the front, one beaten, one pruned, two failed, one
/// waiting.
pub fn made_up_store(file: &Path) -> Store {
    fill(file).unwrap()
}

fn fill(file: &Path) -> Result<Store> {
    let spec = Spec { name: "made-up".into(), ..Spec::default() };
    let mut store = Store::open_or_create(file, &spec)?;
    store.begin_session()?;
    store.save_baseline(&Baseline {
        n_macs: Some(30_400_000),
        n_params: Some(268_000),
        proxy_accuracy: Some(0.842),
        full_accuracy: Some(0.917),
        slots: Some(timing(2.4e-3)),
        tuned: Some(timing(2.98e-3)),
        torch: Some(timing(3.4e-3)),
    })?;
    store.record_slot(BASELINE, &SlotTime { slot: "stage1.conv1".into(), workload: "w0".into(), timing: timing(1.2e-3) })?;
    for (epoch, accuracy) in [(1, 0.85), (2, 0.917)] {
        let epoch = Epoch { training: Training::Full, epoch, n_seen: 60_000 * u64::from(epoch), loss: 0.4, accuracy, secs: 40.0 };
        store.record_epoch(BASELINE, &epoch)?;
    }
    let add = |operator: &str, n_macs| -> Result<Trial> {
        let trial = store.propose(&proposal(operator, n_macs))?.expect("operators differ");
        store.begin(trial.number)?;
        Ok(trial)
    };
    let known = |mut trial: Trial, secs: f64, proxy: f64| {
        trial.phase = Some(Phase::ShortTrain);
        trial.slots = Some(timing(secs));
        trial.proxy_accuracy = Some(proxy);
        trial.times_secs = [(Phase::QuickTune, 3.5), (Phase::ShortTrain, 9.25)].into();
        trial
    };
    let finalist = |mut trial: Trial, secs: f64, accuracy: f64| {
        trial.phase = Some(Phase::EndToEnd);
        trial.full_accuracy = Some(accuracy);
        trial.end_to_end = Some(EndToEnd { model: timing(secs), tuned: timing(2.98e-3), torch: Some(timing(3.4e-3)) });
        trial
    };

    let mut first = finalist(known(add("share, \"3x3\"", 12_000_000)?, 1.1e-3, 0.84), 1.84e-3, 0.913);
    first.formula = Some("y[n,o,h,w] = Σ c,i: x[n,c,h+i-1,w] · w[o,c,i]".into());
    first.loops = Some("for n, o, h, w:\n  for c, i:\n    y += x · w".into());
    store.save(&first)?;
    for (i, slot) in ["stage1.conv1", "stage1.conv2"].into_iter().enumerate() {
        store.record_slot(1, &SlotTime { slot: slot.into(), workload: "w1".into(), timing: timing(4e-4 * (i + 1) as f64) })?;
    }
    for (training, epoch, loss, accuracy) in
        [(Training::Proxy, 1, 0.61, 0.84), (Training::Full, 1, 0.52, 0.851), (Training::Full, 2, 0.31, 0.913)]
    {
        store.record_epoch(1, &Epoch { training, epoch, n_seen: 60_000 * u64::from(epoch), loss, accuracy, secs: 21.5 })?;
    }
    store.complete(1)?;
    store.save(&finalist(known(add("shift", 4_000_000)?, 0.6e-3, 0.80), 1.2e-3, 0.889))?;
    store.complete(2)?;
    store.save(&finalist(known(add("grouped", 16_000_000)?, 1.5e-3, 0.82), 2.1e-3, 0.902))?;
    store.complete(3)?;
    store.save(&known(add("unfold", 29_000_000)?, 2.9e-3, 0.85))?;
    store.prune(4, "slower than the baseline")?;
    add("expand", 9_000_000)?;
    store.fail(5, &json!({"kind": "hang", "limit_secs": 10.0}))?;
    let mut diverged = add("merge", 9_000_000)?;
    diverged.slots = Some(timing(0.9e-3));
    diverged.phase = Some(Phase::QuickTune);
    store.save(&diverged)?;
    store.record_epoch(6, &Epoch { training: Training::Proxy, epoch: 1, n_seen: 640, loss: f64::NAN, accuracy: 0.1, secs: 1.0 })?;
    store.fail(6, &json!({"diverged": {"epoch": 1}}))?;
    store.propose(&proposal("stride", 1_000_000))?;

    store.record_measurement(&measurement("w1", "{}", &[1.0e-3, 1.1e-3]))?;
    store.add_counts(PRUNED, [("more FLOPs than the budget", 120), ("no weight", 31)])?;
    store.save_winner(Some(1))?;
    store.end_session("the budget of 13 minutes is spent")?;
    Ok(store)
}

/// A k×k convolution at stride 1 with the border kept, batch 1: x[1,c,h,w], w[o,c,k,k] → y[1,o,h,w].
pub fn conv2d(o: i64, c: i64, h: i64, w: i64, k: i64) -> LoopNest {
    let tensor = |name: &str, shape: Vec<i64>, role| Tensor { name: name.into(), shape, role };
    let axis = |name: &str, extent| Loop { name: name.into(), extent };
    let v = Index::Var;
    let (row, column) = (v(2).add(v(5)).plus(-(k / 2)), v(3).add(v(6)).plus(-(k / 2)));
    let data = Access { tensor: 0, index: vec![v(0), v(4), row.clone(), column.clone()] };
    let weight = Access { tensor: 1, index: vec![v(1), v(4), v(5), v(6)] };
    let stage = Stage {
        output: 2,
        axes: vec![axis("n", 1), axis("o", o), axis("h", h), axis("w", w)],
        sums: vec![axis("c", c), axis("i", k), axis("j", k)],
        reduction: Reduction::Sum,
        guards: vec![Guard { index: row, extent: h }, Guard { index: column, extent: w }],
        body: Expr::Mul(vec![Expr::Load(data), Expr::Load(weight)]),
    };
    LoopNest {
        name: "conv2d".into(),
        tensors: vec![
            tensor("x", vec![1, c, h, w], Role::Input),
            tensor("w", vec![o, c, k, k], Role::Weight),
            tensor("y", vec![1, o, h, w], Role::Output),
        ],
        stages: vec![stage],
    }
}

/// Seeded values in (-1, 1) for every input and weight.
pub fn random_values(nest: &LoopNest, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let given = nest.tensors.iter().filter(|t| matches!(t.role, Role::Input | Role::Weight));
    given.map(|t| (0..t.n_elements()).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

/// The largest difference over the largest expected magnitude; NaN counts as infinite.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let worst =
        found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f32, d| if d.is_nan() { f32::INFINITY } else { m.max(d) });
    worst / scale
}

/// Lets child processes run this build's program: a private copy, for another build may replace the original meanwhile.
#[cfg(feature = "tvm")]
pub fn worker_program() {
    static COPY: std::sync::OnceLock<tempfile::TempDir> = std::sync::OnceLock::new();
    let folder = COPY.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_syntune"), folder.path().join("syntune")).unwrap();
        folder
    });
    syntune::child::set_program(folder.path().join("syntune"));
}

/// Random operators with sizes they fit: half of them even images that blocks divide and odd windows, half odd images and even
/// windows.
pub fn random_operators(n: usize) -> Vec<(Operator, Binding)> {
    let channels = [("N", 2), ("Ci", 4), ("Co", 8), ("g", 2), ("s", 2)];
    let sizes = [[("H", 6), ("W", 10), ("k", 3)], [("H", 5), ("W", 7), ("k", 4)]];
    let of = |image: [(&str, i64); 3]| {
        let binding = Binding::of(&[&channels[..], &image[..]].concat());
        let space = Space::of_conv(vec![binding.clone()], &["g", "s", "k"].map(String::from), 12, 3).unwrap();
        let mut synthesizer = Synthesizer::new(space, 5).unwrap();
        (0..n / 2).map(move |_| (synthesizer.next().unwrap(), binding.clone()))
    };
    sizes.into_iter().flat_map(of).collect()
}

/// Random operators on sequences: tokens that blocks divide and an odd window, then an odd number and an even window; the second
/// half keeps its channels.
pub fn random_projections(n: usize) -> Vec<(Operator, Binding)> {
    let sizes = [[("Ci", 4), ("Co", 8), ("L", 6), ("k", 3)], [("Ci", 8), ("Co", 8), ("L", 7), ("k", 4)]];
    let of = |sizes: [(&str, i64); 4]| {
        let binding = Binding::of(&[&[("N", 2), ("g", 2), ("s", 2)][..], &sizes[..]].concat());
        let space = Space::of_projection(vec![binding.clone()], &["g", "s", "k"].map(String::from), 10, 3).unwrap();
        let mut synthesizer = Synthesizer::new(space, 5).unwrap();
        (0..n / 2).map(move |_| (synthesizer.next().unwrap(), binding.clone()))
    };
    sizes.into_iter().flat_map(of).collect()
}

/// Every library operator at three bindings: odd and even windows, images that blocks divide.
pub fn library_operators() -> Vec<(String, Operator, Binding)> {
    let sizes = |k, h, w| {
        Binding::of(&[("N", 2), ("Ci", 8), ("Co", 12), ("C", 8), ("H", h), ("W", w), ("L", 5), ("g", 2), ("s", 2), ("r", 2), ("k", k)])
    };
    let at =
        |name: &str| [(3, 6, 10), (2, 4, 6), (5, 6, 4)].map(|(k, h, w)| (format!("{name} k={k}"), resolve(name).unwrap(), sizes(k, h, w)));
    LIBRARY.iter().flat_map(|(name, _, _)| at(name)).collect()
}

/// The operator's path from the root. Before each of its actions the space must ask for no more actions than are left, and
/// for no more multiply-adds than the operator has.
#[track_caller]
pub fn assert_bounds_hold(space: &mut Space, operator: &Operator, n_macs: u64) -> OperatorPath {
    let path = space.path(operator).unwrap_or_else(|e| panic!("{operator}: {e}"));
    let n = path.steps().count() - 1;
    for (i, step) in path.steps().enumerate() {
        let steps = step.state.steps;
        assert!(steps == usize::MAX || steps <= n - i, "{operator}: {steps} steps left at least, but it takes {}", n - i);
        let flops = space.least_flops(&step.state);
        assert!(flops <= n_macs, "{operator}: at least {flops} multiply-adds, but it takes {n_macs} before {}", step.text);
    }
    path
}
