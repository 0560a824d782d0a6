//! The trainer and its worker process, on small made-up data.

use crate::train::write_fashion;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use syntune::child;
use syntune::lower::{self, LoopNest};
use syntune::synth::Binding;
use syntune::synth::library::resolve;
use syntune::train::backbone::{Op, resnet_small, resnet_strided};
use syntune::train::request::Recipe;
use syntune::train::weights::{self, Weight};
use syntune::train::*;

static NO_STOP: AtomicBool = AtomicBool::new(false);

fn trainer() -> Trainer {
    child::set_program(env!("CARGO_BIN_EXE_syntune"));
    Trainer::default()
}

/// The operator bound to every slot of a backbone.
fn nests(backbone: &Backbone, operator: &str, n: i64) -> Vec<LoopNest> {
    let operator = resolve(operator).unwrap();
    let bind = |s: &Slot| {
        let binding = Binding::of(&[("N", n), ("Ci", s.c_in), ("Co", s.c_out), ("H", s.h), ("W", s.w), ("k", 3), ("g", 2), ("s", 2)]);
        binding.with("r", s.stride)
    };
    backbone.slots().iter().map(|s| lower::lower(&operator, &bind(s)).unwrap()).collect()
}

fn request(folder: &Path, operator: &str) -> TrainRequest {
    let backbone = resnet_small(4, [1, 28, 28], 10).unwrap();
    let recipe = Recipe { n_samples: 960, batch: 32, n_evaluations: 3, n_test: 64, max_shift: 1, ..Recipe::default() };
    TrainRequest {
        nests: nests(&backbone, operator, recipe.batch),
        backbone,
        data: Source { set: DataSet::FashionMnist, folder: Some(folder.into()) },
        recipe,
        seed: 3,
        n_threads: 1,
        save: None,
        milestones: vec![],
    }
}

fn run(request: TrainRequest) -> (Outcome, Vec<Epoch>) {
    let mut epochs = Vec::new();
    let outcome = trainer().train(request, &NO_STOP, &mut |e| {
        epochs.push(e.clone());
        Ok(())
    });
    (outcome.unwrap(), epochs)
}

#[test]
fn a_training_learns_reports_and_repeats_itself_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 320, 100);
    let once = || {
        let mut r = request(dir.path(), "conv");
        r.save = Some(dir.path().join("w.safetensors"));
        let (outcome, epochs) = run(r);
        (outcome, epochs, weights::read(&dir.path().join("w.safetensors")).unwrap())
    };
    let (outcome, epochs, saved) = once();
    let Outcome::Done { accuracy, .. } = outcome else { panic!("{outcome:?}") };
    assert!(accuracy > 0.7, "{epochs:?}");
    assert_eq!(epochs.iter().map(|e| (e.n_seen, e.n_test)).collect::<Vec<_>>(), [(320, 64), (640, 64), (960, 100)]);
    assert!(epochs[2].loss < epochs[0].loss);
    let (_, again, saved_again) = once();
    assert_eq!(
        again.iter().map(|e| (e.loss, e.accuracy)).collect::<Vec<_>>(),
        epochs.iter().map(|e| (e.loss, e.accuracy)).collect::<Vec<_>>()
    );
    assert_eq!(saved, saved_again);
    let names: Vec<&str> = saved.iter().map(|w| w.name.as_str()).filter(|n| n.starts_with("block1.conv1") || n.starts_with("cl")).collect();
    assert_eq!(
        names,
        [
            "block1.conv1.bn.bias",
            "block1.conv1.bn.running_mean",
            "block1.conv1.bn.running_var",
            "block1.conv1.bn.weight",
            "block1.conv1.w0",
            "classifier.bias",
            "classifier.weight"
        ]
    );
}

#[test]
fn folding_batch_norm_changes_nothing_but_rounding() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 64, 32);
    for operator in ["conv", "grouped", "separable", "syno-2", "grouped-tied"] {
        let mut r = request(dir.path(), operator);
        let path = dir.path().join("w.safetensors");
        r.recipe.n_samples = 96;
        r.save = Some(path.clone());
        let backbone = r.backbone.clone();
        let (outcome, _) = run(r);
        assert!(matches!(outcome, Outcome::Done { .. }), "{operator}: {outcome:?}");
        let input: Vec<f32> = (0..3 * 784).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
        let logits = |folded| {
            let r = ForwardRequest {
                backbone: backbone.clone(),
                nests: nests(&backbone, operator, 3),
                weights: path.clone(),
                input: input.clone(),
                n_threads: 1,
                folded,
            };
            trainer().forward(r, &NO_STOP).unwrap().unwrap()
        };
        let (plain, folded) = (logits(false), logits(true));
        assert_eq!(plain.len(), 30);
        let largest = plain.iter().fold(0f32, |m, v| m.max(v.abs()));
        let off = plain.iter().zip(&folded).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(largest > 1e-3 && off < 1e-4 * largest.max(1.0), "{operator}: {off} of {largest}");
    }
}

#[test]
fn strided_slots_in_an_oblong_model_compute_what_torch_does_with_convolutions_of_stride_2() {
    let dir = tempfile::tempdir().unwrap();
    let backbone = resnet_strided(4, [1, 28, 20], 10).unwrap();
    let (original, n) = (backbone.original(), 2);
    let strides: Vec<i64> = backbone.slots().iter().map(|s| s.stride).collect();
    assert_eq!(strides, [1, 1, 2, 1, 1, 2, 1, 1]);
    let values = |shape: &[i64], seed: usize| {
        (0..shape.iter().product::<i64>() as usize).map(move |i| ((i * 7919 + seed * 31) % 101) as f32 / 101.0 - 0.5)
    };
    let mut weights = Vec::new();
    for (i, layer) in original.layers.iter().enumerate() {
        let mut add = |part: &str, shape: Vec<i64>, positive: bool| {
            let values = values(&shape, i).map(|v| if positive { v + 1.0 } else { v }).collect();
            weights.push(Weight { name: format!("{}.{part}", layer.name), shape, values });
        };
        let c = layer.shape[0];
        match layer.op {
            Op::Conv2d { c_in, c_out, kernel, .. } => add("weight", vec![c_out, c_in, kernel, kernel], false),
            Op::Linear { c_in, c_out } => {
                add("weight", vec![c_out, c_in], false);
                add("bias", vec![c_out], false);
            }
            Op::BatchNorm => {
                for (part, positive) in [("weight", true), ("bias", false), ("running_mean", false), ("running_var", true)] {
                    add(part, vec![c], positive);
                }
            }
            _ => {}
        }
    }
    let of_slot = |name: &str| backbone.slots().iter().any(|s| format!("{}.weight", s.name) == name);
    let renamed = weights.iter().cloned().map(|mut w| {
        if of_slot(&w.name) {
            w.name = w.name.replace(".weight", ".w0");
        }
        w
    });
    let (theirs, ours) = (dir.path().join("theirs"), dir.path().join("ours"));
    weights::write(&theirs, &weights).unwrap();
    weights::write(&ours, &renamed.collect::<Vec<_>>()).unwrap();
    let input: Vec<f32> = values(&[n, 1, 28, 20], 5).collect();
    let logits = |backbone: &Backbone, nests: Vec<LoopNest>, weights: &Path, folded: bool| {
        let input = input.clone();
        let r = ForwardRequest { backbone: backbone.clone(), nests, weights: weights.into(), input, n_threads: 1, folded };
        trainer().forward(r, &NO_STOP).unwrap().unwrap()
    };
    let expected = logits(&original, vec![], &theirs, false);
    let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
    for folded in [false, true] {
        let found = logits(&backbone, nests(&backbone, "conv-strided", n), &ours, folded);
        let off = expected.iter().zip(&found).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(largest > 1e-2 && off < 1e-4 * largest, "folded {folded}: {off} of {largest}");
    }
}

#[test]
fn strided_slots_train() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 320, 100);
    let mut r = request(dir.path(), "conv");
    r.backbone = resnet_strided(4, [1, 28, 28], 10).unwrap();
    let refused = trainer().train(TrainRequest { nests: nests(&r.backbone, "conv", 32), ..r.clone() }, &NO_STOP, &mut |_| Ok(()));
    assert!(format!("{refused:?}").contains("slot widen2: the operator reads"), "{refused:?}");
    r.nests = nests(&r.backbone, "conv-strided", 32);
    let (outcome, epochs) = run(r);
    let Outcome::Done { accuracy, .. } = outcome else { panic!("{outcome:?}") };
    assert!(accuracy > 0.5 && epochs[2].loss < epochs[0].loss, "{epochs:?}");
}

#[test]
fn the_original_backbone_trains_too() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 64, 32);
    let mut r = request(dir.path(), "conv");
    r.backbone = r.backbone.original();
    r.nests.clear();
    let (outcome, _) = run(r);
    assert!(matches!(outcome, Outcome::Done { .. }), "{outcome:?}");
}

#[test]
fn milestones_divergence_deadlines_and_the_stop_flag_end_a_training() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 320, 100);
    let mut r = request(dir.path(), "conv");
    r.milestones = vec![(100, 1.1)];
    let (outcome, epochs) = run(r);
    assert!(matches!(outcome, Outcome::StoppedEarly { n_seen: 128, least: 1.1, .. }), "{outcome:?}");
    assert_eq!(epochs.len(), 1);

    let mut r = request(dir.path(), "conv");
    r.recipe.lr = 1e30;
    r.recipe.weight_decay = 0.0;
    assert!(matches!(run(r).0, Outcome::Failed(Failure::Diverged { .. })));

    let mut endless = request(dir.path(), "conv");
    endless.recipe.n_samples = 10_000_000;
    let hurried = Trainer { deadline: Duration::from_millis(500), ..trainer() };
    let outcome = hurried.train(endless.clone(), &NO_STOP, &mut |_| Ok(())).unwrap();
    assert!(matches!(outcome, Outcome::Failed(Failure::TooSlow { .. })), "{outcome:?}");

    let stop = AtomicBool::new(false);
    let mut raise = |_| stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let outcome = trainer().train_watched(endless, &stop, &mut |_| Ok(()), &mut raise).unwrap();
    assert_eq!(outcome, Outcome::Interrupted);
}

#[test]
fn requests_that_cannot_be_met_say_why() {
    let dir = tempfile::tempdir().unwrap();
    write_fashion(dir.path(), 32, 32);
    let refuse = |r: TrainRequest| trainer().train(r, &NO_STOP, &mut |_| Ok(())).unwrap_err().to_string();
    let mut r = request(dir.path(), "conv");
    r.nests.pop();
    assert!(refuse(r).contains("8 slots, 7 operators"));
    let mut r = request(dir.path(), "conv");
    r.nests[2] = r.nests[0].clone();
    assert!(refuse(r).contains("slot widen2: the operator reads"));
    let mut r = request(dir.path(), "conv");
    r.recipe.momentum = 1.0;
    assert!(refuse(r).contains("momentum must be 0 to below 1"));
    let mut r = request(dir.path(), "conv");
    r.data.folder = Some(dir.path().join("absent"));
    let (outcome, _) = run(r);
    let Outcome::Failed(Failure::Refused { message }) = outcome else { panic!("{outcome:?}") };
    assert!(message.contains("no fashion-mnist in") && message.contains("scripts/setup"), "{message}");
}

#[test]
fn latency_is_sampled_until_stable() {
    let backbone = resnet_small(4, [1, 28, 28], 10).unwrap();
    let r = LatencyRequest { nests: nests(&backbone, "conv", 1), backbone, n: 1, n_threads: 1, weights: None, min_secs: 0.1 };
    let secs = trainer().latency(r, &NO_STOP).unwrap().unwrap();
    assert!(secs.len() >= 10 && secs.iter().all(|s| (1e-6..1.0).contains(s)), "{secs:?}");
}

#[test]
fn weights_survive_a_file_and_damage_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let all = vec![
        Weight { name: "a.w0".into(), shape: vec![2, 3], values: vec![1.0, -2.5, 3.0, 0.0, f32::MIN, 7.25] },
        Weight { name: "b".into(), shape: vec![], values: vec![4.0] },
    ];
    weights::write(&path, &all).unwrap();
    assert_eq!(weights::read(&path).unwrap(), all);
    let whole = std::fs::read(&path).unwrap();
    for (bytes, why) in [(&whole[..5], "no header"), (&whole[..40], "cut short"), (&whole[..whole.len() - 2], "does not fit its place")] {
        std::fs::write(&path, bytes).unwrap();
        let message = weights::read(&path).unwrap_err().to_string();
        assert!(message.contains("w.safetensors") && message.contains(why), "{message}");
    }
    assert!(weights::read(&dir.path().join("none")).unwrap_err().to_string().contains("none"));
    assert!(weights::write(&dir.path().join("no/folder/w"), &all).unwrap_err().to_string().contains("choose a folder"));
}

#[test]
fn every_library_operator_that_fits_a_slot_takes_a_folded_scale_or_says_no() {
    let backbone = resnet_small(4, [1, 28, 28], 10).unwrap();
    let mut folded = BTreeMap::new();
    for operator in ["conv", "conv1x1", "grouped", "grouped-tied", "separable", "syno-1", "spatial-low-rank"] {
        let nest = &nests(&backbone, operator, 1)[2];
        let given: Vec<_> = nest.tensors.iter().filter(|t| matches!(t.role, lower::Role::Input | lower::Role::Weight)).collect();
        let data: Vec<Vec<f32>> = given.iter().map(|t| (0..t.n_elements()).map(|i| ((i * 31) % 17) as f32 - 8.0).collect()).collect();
        let scale: Vec<f32> = (0..8).map(|c| 0.5 + c as f32).collect();
        let mut scaled = data[1..].to_vec();
        let yes = fold::fold_scale(nest, &mut scaled, &scale);
        folded.insert(operator, yes);
        if !yes {
            assert_eq!(scaled, data[1..]);
            continue;
        }
        let run = |weights: &[Vec<f32>]| {
            let all: Vec<&[f32]> = std::iter::once(&data[0][..]).chain(weights.iter().map(Vec::as_slice)).collect();
            lower::interp(nest, &all).unwrap()
        };
        let (plain, with) = (run(&data[1..]), run(&scaled));
        let plane = plain.len() / 8;
        let agree = plain.iter().zip(&with).enumerate().all(|(i, (a, b))| (a * scale[i / plane] - b).abs() <= 1e-4 * (1.0 + b.abs()));
        assert!(agree, "{operator}");
    }
    assert!(folded["conv"] && folded["grouped"] && folded["separable"] && !folded["grouped-tied"], "{folded:?}");
}
