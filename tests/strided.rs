//! Slots of stride 2: one operator for all slots of a model, the stride a coefficient of each.

use crate::util::{assert_bounds_hold, random_values, relative_error};
use std::collections::BTreeSet;
use syntune::lower::{self, fingerprint, small_bindings};
use syntune::search::Slots;
use syntune::search::model::conv;
use syntune::spec::{Layers, Network, Spec};
use syntune::synth::canon::{Rule, STRUCTURE};
use syntune::synth::legal::Sizes;
use syntune::synth::library::resolve;
use syntune::synth::options::Options;
use syntune::synth::space::{Axis, STEP, Shapes};
use syntune::synth::{Binding, Operator, Size, Space, Synthesizer};
use syntune::train::backbone::{Backbone, resnet_strided};

fn spec() -> Spec {
    let mut spec = Spec::default();
    spec.backbone.name = Network::ResnetStrided;
    spec
}

/// Sizes of one slot: the output's, and the stride.
fn slot(ci: i64, co: i64, h: i64, w: i64, r: i64) -> Binding {
    Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("H", h), ("W", w), ("k", 3), ("g", 4), ("s", 2), (STEP, r)])
}

/// Oblong slots that keep their channels and others that widen them, of both strides.
fn slots() -> Vec<Binding> {
    vec![slot(16, 16, 28, 20, 1), slot(16, 32, 14, 10, 2), slot(32, 32, 14, 10, 1), slot(32, 64, 7, 5, 2)]
}

fn space(depth: usize) -> Space {
    Space::of_conv(slots(), &["k", "g", "s"].map(String::from), depth, 2).unwrap()
}

#[test]
fn a_window_on_a_strided_place_is_the_convolution_of_that_stride_borders_included() {
    let operator = resolve("conv-strided").unwrap();
    for (r, h, w) in [(1, 6, 4), (2, 1, 1), (2, 3, 5), (2, 4, 2), (3, 2, 3)] {
        let ours = lower::lower(&operator, &slot(2, 3, h, w, r)).unwrap();
        let theirs = conv(&[1, 2, r * h, r * w], 3, 3, r, 1, 1);
        assert_eq!(theirs.tensors[theirs.output()].shape, [1, 3, h, w]);
        let values = random_values(&ours, 5);
        let values: Vec<&[f32]> = values.iter().map(Vec::as_slice).collect();
        let (found, expected) = (lower::interp(&ours, &values).unwrap(), lower::interp(&theirs, &values).unwrap());
        assert!(relative_error(&found, &expected) < 1e-6, "stride {r}, {h}×{w}");
    }
}

#[test]
fn operators_of_strided_slots_are_sound_and_their_paths_replay_within_the_bounds() {
    let mut synthesizer = Synthesizer::new(space(10), 3).unwrap();
    let (mut lines, mut functions) = (BTreeSet::new(), BTreeSet::new());
    let small = small_bindings(&slots()).unwrap();
    let (mut n_strided, mut n_split) = (0, 0);
    for _ in 0..60 {
        let operator = synthesizer.next().unwrap();
        assert_eq!(Operator::parse(&operator.to_string()).unwrap(), operator);
        assert!(lines.insert(operator.to_string()), "{operator} comes twice");
        functions.insert(format!("{}", fingerprint(&operator, &small).unwrap()));
        n_strided += usize::from(operator.to_string().contains("stride(h, r)"));
        n_split += usize::from(operator.to_string().contains("split(h, "));
        let mut n_macs = 0;
        for binding in slots() {
            let nest = lower::lower(&operator, &binding).unwrap();
            let of = |name: &str| binding.0[name];
            assert_eq!(nest.tensors[0].shape, [1, of("Ci"), of(STEP) * of("H"), of(STEP) * of("W")], "{operator}");
            assert_eq!(nest.tensors[nest.output()].shape, [1, of("Co"), of("H"), of("W")], "{operator}");
            n_macs += nest.n_macs();
        }
        assert_bounds_hold(synthesizer.space_mut(), &operator, n_macs);
    }
    assert!(n_strided > 20 && n_split > 1, "{n_strided} strided, {n_split} cut into blocks");
    assert!(functions.len() > 40, "{} functions", functions.len());
}

#[test]
fn no_row_or_column_but_at_the_edges_is_passed_over() {
    let mut synthesizer = Synthesizer::new(space(10), 8).unwrap();
    let binding = slot(4, 8, 4, 6, 2);
    for _ in 0..30 {
        let operator = synthesizer.next().unwrap();
        let nest = lower::lower(&operator, &binding).unwrap();
        let n_values = nest.tensors[0].n_elements();
        let ones: Vec<Vec<f32>> = random_values(&nest, 1).iter().map(|v| vec![1.0; v.len()]).collect();
        let run = |data: &[f32]| {
            let all: Vec<&[f32]> = std::iter::once(data).chain(ones[1..].iter().map(Vec::as_slice)).collect();
            lower::interp(&nest, &all).unwrap().iter().sum::<f32>()
        };
        // a window of two looks back, from the last place too, and a shift after it looks on from the first
        let (h, w) = (8, 12);
        for at in (0..n_values).filter(|at| (1..w - 1).contains(&(at % w)) && (1..h - 1).contains(&(at / w % h))) {
            let mut data = vec![0.0; n_values];
            data[at] = 1.0;
            assert!(run(&data) > 0.0, "{operator} never reads element {at}");
        }
    }
}

#[test]
fn known_operators_of_stride_r_are_in_the_space_and_those_without_a_window_are_not() {
    let mut space = space(10);
    space.path(&resolve("conv-strided").unwrap()).unwrap();
    // in the slots of stride 1 patches are single places
    let message = space.path(&resolve("patches").unwrap()).unwrap_err().to_string();
    assert!(message.contains("no exchange between places"), "{message}");
    for (text, rule) in [
        ("y[n:N, o:Co, h:H, w:W] = sum[c:Ci] x[n, c, stride(h, r), stride(w, r)] * w1[o, c]", "never read"),
        ("y[n:N, o:Co, h:H, w:W] = sum[c:Ci, p:r, q:r] x[n, c, split(h, p), split(w, q)] * w1[o, c]", "no exchange"),
    ] {
        let message = space.path(&Operator::parse(text).unwrap()).unwrap_err().to_string();
        assert!(message.contains(rule) || message.contains("too far"), "{text}: {message}");
    }
    // slots that keep their channels: one weight per channel
    let coefficients = ["k".to_string()];
    let mut same = Space::of_conv(vec![slot(16, 16, 28, 20, 1), slot(32, 32, 14, 10, 2)], &coefficients, 10, 2).unwrap();
    for text in [
        "y[n:N, o:Ci, h:H, w:W] = sum[i:k, j:k] x[n, o, unfold(stride(h, r), i), unfold(stride(w, r), j)] * w1[o, i, j]",
        "y[n:N, o:Ci, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(stride(h, r), i), unfold(stride(w, r), j)] * w1[c, i, j] * w2[o, c]",
    ] {
        same.path(&Operator::parse(text).unwrap()).unwrap();
    }
}

#[test]
fn what_the_bounds_prune_of_a_strided_space_leads_to_no_operator() {
    const DEPTH: usize = 5;
    let small = || {
        let one = |h, r| Binding::of(&[("N", 1), ("C", 8), ("H", h), ("k", 3), (STEP, r)]);
        let bindings = vec![one(16, 1), one(8, 2)];
        let mut sizes = Sizes::new(&[("N", 0), ("C", 1), ("H", 0), ("k", 2), (STEP, 1)], &bindings).unwrap();
        (sizes.max_variables, sizes.max_powers, sizes.n_per_variable) = (2, 2, 3);
        let size = |name: &str| sizes.variables().size(name).unwrap();
        let image = |times| vec![(size("N"), false), (size("C"), true), (size("H").times(times), false)];
        let axes = |times| image(times).into_iter().map(|(size, unordered)| Axis { size, unordered }).collect();
        let (output, data) = (axes(Size::ONE), axes(size(STEP)));
        let shapes = Shapes { output, data, fixed: vec![(0, 0)], places: vec![2], channels: Some((1, 1)) };
        let options = Options { depth: DEPTH, tensors: 3, reductions: 2, ..Options::ours() };
        let mut space = Space::new(shapes, sizes, bindings, options).unwrap();
        space.options.off = space.options.off.with(&STRUCTURE);
        space
    };
    let all = |off: &[Rule]| {
        let mut space = small();
        space.options.off = space.options.off.with(off);
        let count = space.count_by_depth(DEPTH, 400_000);
        assert!(count.complete);
        (count.operators.clone(), count.levels.iter().map(|l| l.n_states).sum::<u64>())
    };
    let (guided, n_guided) = all(&[]);
    let (unguided, n_unguided) = all(&[Rule::Distance, Rule::Stuck]);
    assert!(guided.iter().any(|o| o.contains("unfold(stride(o, r)")) && guided.iter().any(|o| o.contains("split(o, ")), "{guided:?}");
    assert_eq!(guided, unguided);
    assert!(n_guided < n_unguided);
}

#[test]
fn small_sizes_keep_both_strides_apart() {
    // the first and the last in order have stride 1
    let mut all = slots();
    all.push(slot(64, 64, 14, 10, 1));
    let small = small_bindings(&all).unwrap();
    assert_eq!(small.iter().map(|b| b.0[STEP]).collect::<BTreeSet<_>>(), [1, 2].into());
    let of = |text: &str| fingerprint(&Operator::parse(text).unwrap(), &small).unwrap();
    let [near, far] = ["split(h, p)", "split(p, h)"]
        .map(|row| of(&format!("y[n:N, o:Co, h:H, w:W] = sum[c:Ci, p:r, j:k] x[n, c, {row}, unfold(stride(w, r), j)] * w1[o, c, p, j]")));
    assert_ne!(near, far, "they differ at stride 2 only");
}

#[test]
fn bindings_have_a_stride_only_where_a_strided_slot_is_filled() {
    let all = Slots::of(&spec()).unwrap();
    let of = |slots: &Slots| slots.bindings(1).iter().map(|b| b.0.get(STEP).copied()).collect::<BTreeSet<_>>();
    assert_eq!(of(&all), [Some(1), Some(2)].into());
    let mut kept = spec();
    kept.slots.layers = Layers::Named(vec!["block1.conv1".into(), "block2.conv2".into()]);
    assert_eq!(of(&Slots::of(&kept).unwrap()), [None].into());
    assert_eq!(of(&Slots::of(&Spec::default()).unwrap()), [None].into());
    // as many multiply-adds as the layers of stride 2 have, not as those of stride 1 on their images
    let original = all.model(None, 1).unwrap();
    let same = all.model(Some(&resolve("conv-strided").unwrap()), 1).unwrap();
    assert_eq!((original.slot_macs(), original.slot_params()), (same.slot_macs(), same.slot_params()));
    assert_eq!(original.slot_macs(), Slots::of(&Spec::default()).unwrap().model(None, 1).unwrap().slot_macs());
}

#[test]
fn what_does_not_fit_a_strided_slot_is_refused_by_its_name() {
    let slots = Slots::of(&spec()).unwrap();
    for (name, parts) in [
        ("conv", ["widen2", "[1, 16, 14, 14]", "[1, 16, 28, 28]", "stride(h, r)"]),
        ("sum-pool", ["block1.conv1", "[1, 16, 28, 28]", "[1, 16, 14, 14]", "bind the operator"]),
    ] {
        let operator = resolve(name).unwrap();
        let message = slots.model(Some(&operator), 1).unwrap_err().to_string();
        for part in parts {
            assert!(message.contains(part), "{name}: {part:?} is missing in: {message}");
        }
    }
    let message = resnet_strided(4, [1, 30, 28], 10).unwrap_err().to_string();
    for part in ["widen3", "stride 2 does not divide the 15×14", "pictures that every stride divides"] {
        assert!(message.contains(part), "{part:?} is missing in: {message}");
    }
    let mut taken = spec();
    taken.operator.coefficients.insert(STEP.into(), 2);
    let message = Slots::of(&taken).err().unwrap().to_string();
    assert!(message.contains("r is the stride of each slot") && message.contains("another name"), "{message}");
    // where no slot has a stride the name is free
    taken.backbone.name = Network::ResnetSmall;
    let unstrided = Slots::of(&taken).unwrap();
    let space = unstrided.space(&taken).unwrap();
    assert_eq!(space.shapes.data[2].size, space.shapes.output[2].size);
    assert!(Backbone::named("resnet", 4, [1, 28, 28], 10).unwrap_err().to_string().contains("resnet-strided"));
}
