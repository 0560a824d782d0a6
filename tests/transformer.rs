//! A transformer on patches: its kernels against plain loops, its model in libtorch against its fused kernels, and its slots.

use crate::util::random_values;
use std::path::Path;
use syntune::lower::{self, LoopNest};
use syntune::search::{Slots, sequence};
use syntune::spec::{Network, Spec};
use syntune::synth::library::resolve;
use syntune::train::backbone::{Kind, Op};
use syntune::train::transformer::{N_HEADS, transformer_small};

fn interp(nest: &LoopNest, data: &[Vec<f32>]) -> Vec<f32> {
    lower::interp(nest, &data.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn close(found: &[f32], expected: &[f32]) {
    let error = crate::util::relative_error(found, expected);
    assert!(error < 1e-5, "off by {error}");
}

/// Row by row, as the literature writes them.
mod plain {
    pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32]) -> Vec<f32> {
        let c = weight.len();
        let row = |row: &[f32]| {
            let mean = row.iter().sum::<f32>() / c as f32;
            let variance = row.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / c as f32;
            let one = |(i, v): (usize, &f32)| (v - mean) / (variance + 1e-5).sqrt() * weight[i] + bias[i];
            row.iter().enumerate().map(one).collect::<Vec<_>>()
        };
        x.chunks(c).flat_map(row).collect()
    }

    /// Of one sequence of `t` tokens.
    pub fn attention(x: &[f32], t: usize, n_heads: usize) -> Vec<f32> {
        let c = x.len() / t / 3;
        let size = c / n_heads;
        let mut y = vec![0.0; t * c];
        for head in 0..n_heads {
            let part = |which: usize, token: usize| &x[token * 3 * c + which * c + head * size..][..size];
            for i in 0..t {
                let dot = |j: usize| part(0, i).iter().zip(part(1, j)).map(|(a, b)| a * b).sum::<f32>() / (size as f32).sqrt();
                let shares: Vec<f32> = (0..t).map(|j| dot(j).exp()).collect();
                let whole: f32 = shares.iter().sum();
                for (j, share) in shares.iter().enumerate() {
                    for (e, value) in part(2, j).iter().enumerate() {
                        y[i * c + head * size + e] += share / whole * value;
                    }
                }
            }
        }
        y
    }
}

fn nests() -> [LoopNest; 5] {
    [
        sequence::projection(&[2, 5, 6], 4),
        sequence::tokens(&[2, 3, 4, 5]),
        sequence::mean(&[2, 5, 3]),
        sequence::layer_norm(&[2, 5, 12]),
        sequence::attention(&[2, 5, 24], 4),
    ]
}

#[test]
fn kernels_of_sequences_compute_what_plain_loops_do() {
    let [projection, tokens, mean, layer_norm, attention] = nests();
    let d = random_values(&projection, 1);
    let row = |x: &[f32]| d[1].chunks(6).map(|w| w.iter().zip(x).map(|(a, b)| a * b).sum::<f32>()).collect::<Vec<_>>();
    close(&interp(&projection, &d), &d[0].chunks(6).flat_map(row).collect::<Vec<_>>());
    let d = random_values(&tokens, 2);
    let of = |i: usize| d[0][(i / 60 * 3 + i % 3) * 20 + i / 3 % 20] + d[1][i % 60];
    close(&interp(&tokens, &d), &(0..120).map(of).collect::<Vec<_>>());
    let d = random_values(&mean, 3);
    let of = |i: usize| (0..5).map(|t| d[0][(i / 3 * 5 + t) * 3 + i % 3]).sum::<f32>() / 5.0;
    close(&interp(&mean, &d), &(0..6).map(of).collect::<Vec<_>>());
    let d = random_values(&layer_norm, 4);
    close(&interp(&layer_norm, &d), &plain::layer_norm(&d[0], &d[1], &d[2]));
    // scores far apart, where exp alone would overflow
    let mut d = random_values(&attention, 5);
    close(&interp(&attention, &d), &d[0].chunks(120).flat_map(|x| plain::attention(x, 5, 4)).collect::<Vec<_>>());
    d[0].iter_mut().for_each(|v| *v *= 100.0);
    assert!(interp(&attention, &d).iter().all(|v| v.is_finite()));
}

#[cfg(feature = "tvm")]
#[test]
fn kernels_of_sequences_agree_in_tvm() {
    for nest in nests() {
        crate::te::agree(&nest);
        crate::te::agree(&lower::channels_last(&nest).0);
    }
}

#[cfg(feature = "torch")]
#[test]
fn kernels_of_sequences_agree_in_torch() {
    for nest in nests() {
        let (forward, gradient) = crate::torch::check(&nest, 1);
        assert!(forward < 1e-5 && gradient < 5e-3, "{}: {forward:e}, {gradient:e}", nest.name);
    }
}

#[test]
fn transformer_small_has_twelve_slots_of_four_shapes() {
    let b = transformer_small(16, [1, 28, 28], 10).unwrap();
    let slots = b.slots();
    let text = |s: &syntune::train::Slot| format!("{} {}→{} of {}", s.name, s.c_in, s.c_out, s.h);
    assert_eq!(
        slots.iter().map(text).take(4).collect::<Vec<_>>(),
        ["block1.qkv 16→48 of 49", "block1.out 16→16 of 49", "block1.fc1 16→64 of 49", "block1.fc2 64→16 of 49"]
    );
    assert!(slots.len() == 12 && slots.iter().all(|s| s.kind == Kind::Projection && s.output(2) == [2, 49, s.c_out]));
    let text = serde_json::to_string(&b).unwrap();
    assert_eq!(serde_json::from_str::<syntune::train::Backbone>(&text).unwrap(), b);
    assert!(b.original().slots().is_empty());
    b.original().validate().unwrap();
    let mut odd = b.clone();
    let place = odd.layers.iter().position(|l| l.name == "block1.attention").unwrap();
    odd.layers[place].op = Op::Attention { n_heads: 5 };
    assert!(odd.validate().unwrap_err().to_string().contains("layer block1.attention (attention): 48 channels"));
    assert!(transformer_small(16, [1, 3, 3], 10).unwrap_err().to_string().contains("does not fit"));
}

#[test]
fn a_width_that_heads_do_not_divide_is_refused_with_its_line() {
    let text = |width: i64| format!("[backbone]\nname = \"transformer-small\"\nwidth = {width}\n");
    let message = |width| Spec::parse(&text(width), Path::new("s.toml")).unwrap_err().to_string();
    assert!(message(N_HEADS * 2 + 1).contains("s.toml:3: backbone.width: 9 is no width of transformer-small"));
    for width in 1..64 {
        let is_sound = transformer_small(width, [1, 28, 28], 10).is_ok();
        assert_eq!(Spec::parse(&text(width), Path::new("s.toml")).is_ok(), is_sound, "{width}");
    }
}

pub fn spec(width: u32) -> Spec {
    let mut spec = Spec::default();
    (spec.backbone.name, spec.backbone.width) = (Network::TransformerSmall, width);
    spec.operator.coefficients = [("k".to_string(), 3), ("g".into(), 2), ("s".into(), 2)].into();
    spec
}

#[test]
fn slots_of_a_transformer_ask_for_projections() {
    let spec = spec(8);
    let mut slots = Slots::of(&spec).unwrap();
    let space = slots.space(&spec).unwrap();
    let mut dense = space.max_params.clone();
    dense.sort_unstable();
    assert_eq!(dense, [8 * 8, 8 * 24, 8 * 32, 32 * 8]);
    let image = resolve("conv").unwrap();
    let message = slots.model(Some(&image), 1).unwrap_err().to_string();
    assert!(message.contains('H'), "{message}");
    slots.slots[0].kind = Kind::Conv;
    let message = slots.space(&spec).unwrap_err().to_string();
    assert!(message.contains("[slots] layers: some are convolutions, others projections"), "{message}");
}

/// Random values of everything that a model with these nests in its slots learns.
#[cfg(feature = "torch")]
fn learned(backbone: &syntune::train::Backbone, nests: &[LoopNest]) -> Vec<syntune::train::weights::Weight> {
    use rand::{Rng, SeedableRng};
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(8);
    let mut all = Vec::new();
    for layer in &backbone.layers {
        let mut add = |part: &str, shape: &[i64]| {
            let values = (0..shape.iter().product::<i64>()).map(|_| rng.random_range(-0.5..0.5)).collect();
            all.push(syntune::train::weights::Weight { name: format!("{}.{part}", layer.name), shape: shape.into(), values });
        };
        match layer.op {
            Op::Conv2d { c_in, c_out, kernel, .. } => add("weight", &[c_out, c_in, kernel, kernel]),
            Op::Tokens => add("weight", &layer.shape),
            Op::LayerNorm => ["weight", "bias"].into_iter().for_each(|part| add(part, &layer.shape[1..])),
            Op::Linear { c_in, c_out } => {
                add("weight", &[c_out, c_in]);
                add("bias", &[c_out]);
            }
            Op::Slot { index, .. } => {
                for (w, t) in nests[index].tensors.iter().filter(|t| t.role == lower::Role::Weight).enumerate() {
                    add(&format!("w{w}"), &t.shape);
                }
            }
            _ => {}
        }
    }
    all
}

#[cfg(feature = "torch")]
#[test]
fn fused_kernels_compute_what_libtorch_does() {
    use std::collections::BTreeMap;
    use syntune::search::model::Values;
    use syntune::synth::Operator;
    use syntune::train::{ForwardRequest, Trainer, weights};
    syntune::child::set_program(env!("CARGO_BIN_EXE_syntune"));
    let slots = Slots::of(&spec(8)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("w.safetensors");
    let input: Vec<f32> = (0..784).map(|i| ((i * 7919) % 1000) as f32 / 500.0 - 1.0).collect();
    for name in ["", "linear", "linear-low-rank", "linear-grouped-shift", "conv1d-separable"] {
        let operator: Option<Operator> = (!name.is_empty()).then(|| resolve(name).unwrap());
        let model = slots.model(operator.as_ref(), 1).unwrap();
        assert_eq!(model.calls.len(), 26, "{name}: every sum and ReLU is fused");
        let nests = slots.nests(operator.as_ref(), 1).unwrap();
        let all = learned(&slots.backbone, &nests);
        weights::write(&file, &all).unwrap();
        let trained: Values = all.into_iter().map(|w| (w.name, w.values)).collect::<BTreeMap<_, _>>();
        let found = crate::search::kernels(&model, &trained, &input);
        for folded in [false, true] {
            let request = ForwardRequest {
                backbone: slots.backbone.clone(),
                nests: nests.clone(),
                weights: file.clone(),
                input: input.clone(),
                n_threads: 1,
                folded,
            };
            let stop = std::sync::atomic::AtomicBool::new(false);
            let logits = Trainer::default().forward(request, &stop).unwrap().unwrap();
            let error = crate::util::relative_error(&found, &logits);
            assert!(error < 1e-4, "{name}: off by {error}");
        }
    }
}

#[cfg(all(feature = "torch", feature = "tvm"))]
#[test]
fn the_kernels_of_a_whole_transformer_agree_in_tvm() {
    let slots = Slots::of(&spec(8)).unwrap();
    for name in ["", "conv1d-separable"] {
        let operator = (!name.is_empty()).then(|| resolve(name).unwrap());
        let model = slots.model(operator.as_ref(), 1).unwrap();
        model.workloads().iter().for_each(|(_, call)| crate::te::agree(&call.nest));
    }
}
