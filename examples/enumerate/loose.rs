//! What an operator computes, up to the order of channels: elements of the data's and the output's axis 1 have no order of
//! their own, just like the elements of weights.
//!
//! Slow and plain, and apart from `lower::fingerprint`: every term is visited, then colours are refined until they tell
//! apart what they can, once for each channel singled out.

use std::collections::BTreeMap;
use syntune::synth::{Binding, Dim, Operator, Prim};

/// Rounds of refinement; small graphs settle in two or three.
const ROUNDS: usize = 4;

fn mix(a: u64, b: u64) -> u64 {
    let x = (a.rotate_left(23) ^ b).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Puts a dim and its extent behind those that it is computed from.
fn visit(operator: &Operator, binding: &Binding, d: Dim, all: &mut Vec<(Dim, i64)>) {
    if all.iter().all(|e| e.0 != d) {
        operator.graph().prim(d).consumed().for_each(|below| visit(operator, binding, below, all));
        all.push((d, operator.graph().size(d).evaluate(operator.variables(), binding).expect("a whole size")));
    }
}

/// The output's channel, the data's channel, then the element of each weight.
type Place = Vec<u64>;

fn terms(operator: &Operator, binding: &Binding, turned: bool) -> BTreeMap<Place, u64> {
    let mut dims = Vec::new();
    let axes: Vec<Dim> = operator.outputs().iter().chain(operator.sums()).copied().collect();
    axes.iter().chain(operator.data()).chain(operator.weights().iter().flatten()).for_each(|&d| visit(operator, binding, d, &mut dims));
    let place = |d: Dim| dims.iter().position(|e| e.0 == d).expect("a dim of the operator");
    let places = |list: &[Dim]| list.iter().map(|&d| place(d)).collect::<Vec<usize>>();
    let (y, x) = (places(operator.outputs()), places(operator.data()));
    let weights: Vec<Vec<usize>> = operator.weights().iter().map(|w| places(w)).collect();
    let operands: Vec<(Prim, Vec<usize>)> =
        dims.iter().map(|e| operator.graph().prim(e.0)).map(|p| (p, p.consumed().map(place).collect())).collect();
    let size = |i: usize| dims[i].1;
    let mut at = vec![0i64; dims.len()];
    let mut terms: BTreeMap<Place, u64> = BTreeMap::new();
    loop {
        let mut inside = true;
        for i in axes.len()..dims.len() {
            let below = &operands[i].1;
            at[i] = match operands[i].0 {
                Prim::Output(_) | Prim::Reduce(_) => at[i],
                Prim::Split(..) => at[below[0]] * size(below[1]) + at[below[1]],
                Prim::Outer(..) => at[below[0]] / (size(below[0]) / size(i)),
                Prim::Inner(..) => at[below[0]] % size(i),
                Prim::Shift(_) => (at[below[0]] + 1) % size(i),
                Prim::Stride(..) => at[below[0]] * (size(i) / size(below[0])),
                Prim::Unfold(..) => {
                    let value = at[below[0]] + at[below[1]] - size(below[1]) / 2;
                    inside &= (0..size(i)).contains(&value);
                    value
                }
            };
        }
        if inside {
            let of_weight = |w: &Vec<usize>| w.iter().fold(0, |n, &i| n * size(i) + at[i]) as u64;
            let key = [at[y[1]] as u64, at[x[1]] as u64].into_iter().chain(weights.iter().map(of_weight)).collect();
            let mut ordered = [&y[2..], &x[2..]].map(<[usize]>::to_vec);
            if turned {
                ordered.iter_mut().for_each(|o| o.reverse());
            }
            let value = ordered.iter().flatten().fold(7, |h, &i| mix(h, at[i] as u64));
            let sum = terms.entry(key).or_default();
            *sum = sum.wrapping_add(value);
        }
        let Some(next) = (0..axes.len()).rev().find(|&i| at[i] + 1 < size(i)) else { break };
        at[next] += 1;
        at[next + 1..axes.len()].fill(0);
    }
    terms
}

/// Keeps one of the elements of a weight that multiply the same.
fn without_twins(mut terms: BTreeMap<Place, u64>, n_weights: usize) -> BTreeMap<Place, u64> {
    for w in 2..2 + n_weights {
        let mut rows: BTreeMap<u64, u64> = BTreeMap::new();
        for (place, value) in &terms {
            let others = place.iter().enumerate().filter(|p| p.0 != w).fold(*value, |h, p| mix(h, *p.1));
            let row = rows.entry(place[w]).or_default();
            *row = row.wrapping_add(mix(others, 1));
        }
        let mut kept: BTreeMap<u64, u64> = BTreeMap::new();
        for (&element, &row) in &rows {
            kept.entry(row).or_insert(element);
        }
        terms.retain(|place, _| kept[&rows[&place[w]]] == place[w]);
    }
    terms
}

/// An invariant of the terms under all orders of channels, of weights and of their elements.
fn invariant(terms: &BTreeMap<Place, u64>, n_weights: usize) -> u64 {
    let n_modes = 2 + n_weights;
    let values: Vec<u64> = terms.values().copied().collect();
    let places: Vec<usize> = terms.keys().flatten().map(|&i| i as usize).collect();
    let n: Vec<usize> = (0..n_modes).map(|m| places.iter().skip(m).step_by(n_modes).max().map_or(0, |i| i + 1)).collect();
    let rows = || places.chunks_exact(n_modes).zip(&values);
    let refined = |single: Option<(usize, usize)>| {
        let first = |mode: usize| (0..n[mode]).map(|i| mix(mode.min(2) as u64, u64::from(single == Some((mode, i))))).collect();
        let mut colours: Vec<Vec<u64>> = (0..n_modes).map(first).collect();
        let hash = |colours: &[Vec<u64>], place: &[usize], value: u64| {
            let weights = (2..n_modes).fold(0u64, |sum, mode| sum.wrapping_add(mix(colours[mode][place[mode]], 3)));
            mix(mix(mix(value, colours[0][place[0]]), colours[1][place[1]]), weights)
        };
        for _ in 0..ROUNDS {
            let mut finer: Vec<Vec<u64>> = n.iter().map(|&n| vec![0; n]).collect();
            for (place, &value) in rows() {
                let hash = hash(&colours, place, value);
                for (mode, &i) in place.iter().enumerate() {
                    let colour = &mut finer[mode][i];
                    *colour = colour.wrapping_add(mix(hash, colours[mode][i]));
                }
            }
            colours = finer;
        }
        rows().fold(0u64, |sum, (place, &value)| sum.wrapping_add(mix(hash(&colours, place, value), 5)))
    };
    let singles = (0..2).flat_map(|mode| (0..n[mode]).map(move |i| (mode, i)));
    singles.fold(refined(None), |sum, single| sum.wrapping_add(mix(refined(Some(single)), 11)))
}

/// Equal for operators that compute the same up to the order of channels.
pub fn loose(operator: &Operator, bindings: &[Binding]) -> u64 {
    let n_weights = operator.weights().len();
    let of = |binding: &Binding, turned: bool| invariant(&without_twins(terms(operator, binding, turned), n_weights), n_weights);
    let straight = bindings.iter().fold(0, |h, b| mix(h, of(b, false)));
    let mut names: Vec<&str> = bindings[0].0.keys().map(String::as_str).collect();
    names.retain(|n| ["H", "W"].contains(n));
    if names.len() < 2 {
        return straight;
    }
    let turned = bindings.iter().fold(0, |h, b| {
        let mut b = b.clone();
        let (h_value, w_value) = (b.0["H"], b.0["W"]);
        b.0.insert("H".into(), w_value);
        b.0.insert("W".into(), h_value);
        mix(h, of(&b, true))
    });
    straight.min(turned)
}
