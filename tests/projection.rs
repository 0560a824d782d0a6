//! The space of projections of sequences, and what it holds.

use std::collections::{BTreeMap, BTreeSet};
use syntune::lower::{fingerprint, small_bindings};
use syntune::search::operators::Operators;
use syntune::search::tree::Tree;
use syntune::synth::library::resolve;
use syntune::synth::{Binding, Operator, Space, Synthesizer};

fn slot(ci: i64, co: i64) -> Binding {
    Binding::of(&[("N", 1), ("L", 49), ("Ci", ci), ("Co", co), ("g", 4), ("k", 3), ("s", 2)])
}

/// The four projections of a transformer's block.
fn block() -> Vec<Binding> {
    vec![slot(64, 192), slot(64, 64), slot(64, 256), slot(256, 64)]
}

fn space(bindings: Vec<Binding>, depth: usize) -> Space {
    Space::of_projection(bindings, &["g", "k", "s"].map(String::from), depth, 2).unwrap()
}

#[test]
fn a_block_of_a_transformer_can_have_the_known_projections() {
    // one rank for all: Ci/s is too large for the projection from 256 channels
    let mut widening = space(block()[..3].to_vec(), 10);
    let mut space = space(block(), 10);
    let mut is_in = |name| match name {
        "linear-low-rank" => widening.path(&resolve(name).unwrap()),
        _ => space.path(&resolve(name).unwrap()),
    };
    for name in ["linear", "linear-low-rank", "linear-grouped-tied", "linear-shift"] {
        let path = is_in(name);
        assert!(path.is_ok(), "{name}: {:?}", path.err());
    }
    // in the space the groups of a weight are an axis of the data's channels
    for text in [
        "y[n:N, t:L, o:Co] = sum[c:Ci/g] x[n, t, split(outer(o, Co/g), c)] * w1[inner(o, Co/g), split(outer(o, Co/g), c)]",
        "y[n:N, t:L, o:Co] = sum[c:Ci/g] x[n, shift(t), split(outer(o, Co/g), c)] * w1[inner(o, Co/g), split(outer(o, Co/g), c)]",
    ] {
        let path = space.path(&Operator::parse(text).unwrap());
        assert!(path.is_ok(), "{text}: {:?}", path.err());
    }
    // windows cost parameters: beside the dense matrix they are over the budget
    assert!(space.path(&resolve("conv1d-separable").unwrap()).is_err_and(|e| e.to_string().contains("parameters over budget")));
    space.max_params.iter_mut().for_each(|n| *n *= 3);
    for name in ["conv1d", "conv1d-separable"] {
        let path = space.path(&resolve(name).unwrap());
        assert!(path.is_ok(), "{name}: {:?}", path.err());
    }
    // a weight over tokens would fix their number
    assert!(space.path(&Operator::parse("y[n:N, t:L, o:Co] = sum[c:Ci] x[n, t, c] * w1[t, c] * w2[o, c]").unwrap()).is_err());
}

#[test]
fn slots_that_keep_their_channels_have_depthwise_windows_too() {
    let mut space = space(vec![slot(64, 64), slot(128, 128)], 8);
    space.max_params.iter_mut().for_each(|n| *n *= 2);
    for text in [
        "y[n:N, t:L, o:Ci] = sum[c:Ci] x[n, t, c] * w1[o, c]",
        "y[n:N, t:L, o:Ci] = sum[i:k] x[n, unfold(t, i), o] * w1[o, i]",
        "y[n:N, t:L, o:Ci] = sum[c:Ci, i:k] x[n, unfold(t, i), c] * w1[c, i] * w2[o, c]",
    ] {
        let path = space.path(&Operator::parse(text).unwrap());
        assert!(path.is_ok(), "{text}: {:?}", path.err());
    }
}

#[test]
fn projections_found_are_sound_and_of_many_kinds() {
    let bindings = block();
    let mut synthesizer = Synthesizer::new(space(bindings.clone(), 10), 1).unwrap();
    let (mut ids, mut kinds) = (BTreeSet::new(), BTreeMap::<&str, usize>::new());
    for _ in 0..300 {
        let operator = synthesizer.next().unwrap();
        let text = operator.to_string();
        assert!(ids.insert(operator.id()), "{text} twice");
        assert_eq!(operator.outputs().len(), 3, "{text}");
        for b in &bindings {
            let shape = |sizes: Vec<syntune::synth::Size>| -> Vec<i64> {
                sizes.iter().map(|s| s.evaluate(operator.variables(), b).unwrap()).collect()
            };
            assert_eq!(shape(operator.data_shape()), [1, 49, b.0["Ci"]], "{text}");
            assert_eq!(shape(operator.output_shape()), [1, 49, b.0["Co"]], "{text}");
            assert!(operator.n_params(b).unwrap() <= (b.0["Ci"] * b.0["Co"]) as u64, "{text}");
        }
        let here = ["unfold(t", "shift(t", "outer(o"].into_iter().filter(|what| text.contains(what));
        here.chain((operator.weights().len() > 1).then_some("two weights")).for_each(|what| *kinds.entry(what).or_default() += 1);
        if !text.contains("unfold(t") && !text.contains("shift(t") {
            *kinds.entry("token by token").or_default() += 1;
        }
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    assert!(kinds.values().all(|&n| n >= 15), "{kinds:?}");
}

#[test]
fn draws_of_the_tree_search_do_not_refuse_what_mixes_no_tokens() {
    use rand::SeedableRng;
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(2);
    let mut operators = Operators::new(space(block(), 8)).unwrap();
    let root = operators.root();
    let drawn: Vec<_> = (0..60).filter_map(|_| operators.sample(&root, None, &mut rng)).collect();
    let plain = |id| !operators.operator(id).unwrap().to_string().contains("(t");
    let n_plain = drawn.iter().filter(|&&id| plain(id)).count();
    // were four of five refused, one of twenty were left
    assert!(6 * n_plain > drawn.len(), "{n_plain} of {}", drawn.len());
}

#[test]
fn few_projections_of_a_small_space_compute_the_same() {
    // no two sizes that are written differently are equal here
    let bindings = vec![slot(70, 490).with("g", 5)];
    let count = space(bindings.clone(), 5).count_by_depth(5, 100_000);
    assert!(count.complete && count.operators.len() > 50, "{}", count.operators.len());
    let small = small_bindings(&bindings).unwrap();
    let mut known = BTreeMap::new();
    let mut equal = Vec::new();
    for text in &count.operators {
        let function = fingerprint(&Operator::parse(text).unwrap(), &small).unwrap();
        if let Some(other) = known.insert(function, text) {
            equal.push(format!("{other}\n{text}"));
        }
    }
    assert!(equal.is_empty(), "{} of {}:\n{}", equal.len(), count.operators.len(), equal.join("\n\n"));
}
