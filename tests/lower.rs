//! Loop nests: staged against flat, their listings, their errors (the oracles stand in `syno_operators`).

use crate::syno_operators::{SHIPPED, checksums};
use crate::util::{library_operators, random_operators, random_projections};
use syntune::lower::{self, LoopNest, Role, Stage, layout};
use syntune::synth::library::{LIBRARY, resolve};
use syntune::synth::{Binding, Operator};

#[test]
fn staging_reaches_the_reference_multiply_adds() {
    let at = |h: i64, ci: i64, co: i64| {
        Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("C", ci), ("H", h), ("W", h), ("g", 32), ("s", 2), ("k", 3)])
    };
    for (name, expected) in [
        ("conv", 115_605_504),
        ("conv-dilated", 115_605_504),
        ("conv1x1", 12_845_056),
        ("syno-1", 58_404_864),
        ("syno-stacked", 58_404_864),
        ("grouped-tied", 57_802_752),
        ("grouped-low-rank", 8_228_864),
        ("conv-shift", 38_535_168),
        ("syno-07923", 77_070_336),
        ("syno-2", 19_869_696),
        ("syno-07750", 38_535_168),
    ] {
        let nest = lower::lower(&resolve(name).unwrap(), &at(28, 128, 128)).unwrap();
        assert_eq!(nest.n_macs(), expected, "{name}\n{}", nest.print());
    }
    let nest = lower::lower(&resolve("syno-1").unwrap(), &at(56, 64, 64)).unwrap();
    assert_eq!(nest.n_macs(), 58_404_864, "{}", nest.print());
    // the reference sums its two trivial axes in a stage of their own (150 528 more); ours leaves that stage out
    let found = Operator::parse(
        "y[n:N,o:Co,h:H,w:H] = sum[r:s,c:Ci/s,b:K,a:k,j:K^2] x[n,split(r,c),unfold(h,split(b,split(a,j))),shift(w)] * w1[o,c,a]",
    )
    .unwrap();
    let nest = lower::lower(&found, &at(28, 128, 32).with("K", 1)).unwrap();
    assert_eq!(nest.n_macs(), 100_352 + 4_816_896, "{}", nest.print());
}

#[test]
fn channels_are_summed_before_windows_as_listed() {
    let binding = Binding::of(&[("N", 1), ("Ci", 64), ("Co", 64), ("H", 56), ("W", 56), ("g", 32), ("s", 2), ("k", 3)]);
    let operator = resolve("syno-1").unwrap();
    assert_eq!(lower::lower_flat(&operator, &binding).unwrap().n_macs(), 231_211_008);
    let stages: Vec<u64> = lower::lower(&operator, &binding).unwrap().stages.iter().map(Stage::n_macs).collect();
    assert_eq!(stages, [602_112, 57_802_752]);
    let operator = Operator::parse("y[h:H] = sum[c:C, j:k] x[c, unfold(h, j)] * w1[c]").unwrap();
    let nest = lower::lower(&operator, &Binding::of(&[("H", 64), ("C", 32), ("k", 5)])).unwrap();
    assert_eq!(nest.n_macs(), 2_368, "{}", nest.print());
}

#[test]
fn every_staging_computes_the_same_and_the_cheapest_is_chosen() {
    /// Stagings of one operator that are compared; few have more.
    const MOST: usize = 200;
    let random = random_operators(200).into_iter().chain(random_projections(60));
    let random = random.map(|(operator, binding)| (operator.to_string(), operator, binding));
    let shipped = SHIPPED.iter().map(|o| (o.name.to_string(), Operator::parse_ordered(o.text).unwrap(), o.family.small()));
    let (mut n_nests, mut n_whole) = (0, 0);
    for (name, operator, binding) in library_operators().into_iter().chain(shipped).chain(random) {
        let nests = lower::stagings(&operator, &binding, MOST).unwrap();
        let expected = checksums(&lower::lower_flat(&operator, &binding).unwrap());
        for nest in &nests {
            assert_eq!(checksums(nest), expected, "{name}\n{}", nest.print());
        }
        n_nests += nests.len();
        let rank = |nest: &LoopNest| (lower::cost(nest), nest.stages.len());
        let (chosen, least) = (rank(&lower::lower(&operator, &binding).unwrap()), nests.iter().map(rank).min().unwrap());
        assert!(chosen <= least, "{name}: {chosen:?} is chosen, {least:?} can be had");
        if nests.len() < MOST {
            assert_eq!(chosen, least, "{name}");
            n_whole += 1;
        }
    }
    assert!(n_nests > 1000 && n_whole > 250, "{n_nests} stagings, {n_whole} operators with all of theirs");
}

#[test]
fn bytes_of_intermediates_decide_as_well() {
    let operator = Operator::parse("y[h:H, o:C] = x[h] * w1[h] * w2[o]").unwrap();
    let at = |c: i64| lower::lower(&operator, &Binding::of(&[("H", 100), ("C", c)])).unwrap();
    // two stages: 100 + 200 multiply-adds and 100 elements between; one stage: 400 multiply-adds
    let (two, one) = (600 + 800 / 2, 800);
    assert!(two > one && at(2).stages.len() == 1 && lower::cost(&at(2)) == one, "{}", at(2).print());
    assert_eq!((at(4).stages.len(), lower::cost(&at(4))), (2, 2 * 500 + 800 / 2), "{}", at(4).print());
}

#[test]
fn sums_that_an_output_does_not_need_are_taken_before_it_is_repeated() {
    let operator = Operator::parse("y[h:H, o:C] = sum[j:k] x[unfold(h, j)] * w1[j]").unwrap();
    let nest = lower::lower(&operator, &Binding::of(&[("H", 10), ("C", 8), ("k", 3)])).unwrap();
    assert_eq!(nest.stages.iter().map(Stage::n_macs).collect::<Vec<_>>(), [30, 80], "{}", nest.print());
}

#[test]
fn more_windows_than_are_ordered_in_every_way_are_summed_one_by_one() {
    let windows = ["a", "b", "c", "d", "e", "f", "i", "j"];
    let sums = windows.map(|w| format!("{w}:k")).join(", ");
    let data = windows.iter().fold("h".to_string(), |data, w| format!("unfold({data}, {w})"));
    let operator = Operator::parse(&format!("y[h:H] = sum[{sums}] x[{data}]")).unwrap();
    let binding = Binding::of(&[("H", 6), ("k", 3)]);
    let nest = lower::lower(&operator, &binding).unwrap();
    assert_eq!(nest.n_macs(), 8 * 6 * 3, "{}", nest.print());
    assert_eq!(checksums(&nest), checksums(&lower::lower_flat(&operator, &binding).unwrap()));
}

// ---- what Syno's own tests assert of lowering (gradients apart) ----

/// The staged and the flat nest's output on the given data; they must be the same.
fn values(text: &str, binding: &Binding, data: &[Vec<f32>]) -> Vec<f32> {
    let operator = Operator::parse_ordered(text).unwrap();
    let data: Vec<&[f32]> = data.iter().map(Vec::as_slice).collect();
    let staged = lower::interp(&lower::lower(&operator, binding).unwrap(), &data).unwrap();
    assert_eq!(staged, lower::interp(&lower::lower_flat(&operator, binding).unwrap(), &data).unwrap(), "{text}");
    staged
}

/// A row-major tensor from its coordinates.
fn tensor<const N: usize>(shape: [i64; N], f: impl Fn([i64; N]) -> i64) -> Vec<f32> {
    let n: i64 = shape.iter().product();
    let value = |flat: i64| {
        let (mut at, mut rest) = ([0; N], flat);
        for (i, size) in shape.iter().enumerate().rev() {
            at[i] = rest % size;
            rest /= size;
        }
        f(at) as f32
    };
    (0..n).map(value).collect()
}

#[test]
fn weights_that_need_each_others_merged_axes_lower() {
    let binding = Binding::of(&[("H", 4), ("W", 6), ("N", 3), ("s", 2)]);
    // each weight has a whole axis and a part of the other: no order exposes both
    let text = "y[h:H, w:W] = x[outer(h,s), inner(h,s), inner(w,s), outer(w,s)] * u[w, outer(h,s)] * v[outer(w,s), h]";
    let data = [
        tensor([2, 2, 2, 3], |[a, b, c, d]| 50 * a + 20 * b + 7 * c + d),
        tensor([6, 2], |[w, a]| 3 * w + a),
        tensor([3, 4], |[d, h]| d - h),
    ];
    let expected = tensor([4, 6], |[h, w]| (50 * (h / 2) + 20 * (h % 2) + 7 * (w % 2) + w / 2) * (3 * w + h / 2) * (w / 2 - h));
    assert_eq!(values(text, &binding, &data), expected);
    let sequential = "y[n:N, h:H] = x[n, h] * u[h] * v[h]";
    let data = [tensor([3, 4], |[n, h]| 4 * n + h), tensor([4], |[h]| h + 2), tensor([4], |[h]| 5 - h)];
    assert_eq!(values(sequential, &binding, &data), tensor([3, 4], |[n, h]| (4 * n + h) * (h + 2) * (5 - h)));
    let outer = "y[n:N, h:H] = x[n] * w1[h]";
    assert_eq!(values(outer, &binding, &[tensor([3], |[n]| n + 1), tensor([4], |[h]| 3 - h)]), tensor([3, 4], |[n, h]| (n + 1) * (3 - h)));
}

#[test]
fn a_convolution_is_one_stage_of_the_listed_shapes() {
    let text = "y[n:N, o:Co, h:H, w:H] = sum[c:Ci, a:k, b:k] x[n, c, unfold(h, a), unfold(w, b)] * w1[o, c, a, b]";
    let nest =
        lower::lower(&Operator::parse_ordered(text).unwrap(), &Binding::of(&[("N", 100), ("Ci", 64), ("Co", 96), ("H", 16), ("k", 3)]))
            .unwrap();
    let shapes: Vec<&[i64]> = nest.tensors.iter().map(|t| &t.shape[..]).collect();
    assert_eq!(shapes, [&[100, 64, 16, 16][..], &[96, 64, 3, 3], &[100, 96, 16, 16]]);
    assert_eq!(nest.stages.len(), 1);
    let guards: Vec<String> =
        nest.stages[0].guards.iter().map(|g| format!("0 <= {} < {}", g.index.print(&nest.stages[0].names()), g.extent)).collect();
    assert_eq!(guards, ["0 <= h + i - 1 < 16", "0 <= w + j - 1 < 16"]);
}

#[test]
fn pooling_reads_blocks_and_sums_them() {
    // Syno divides by K² where it means; ours sums
    let text = "y[n:N, c:C, h:H/k, w:W/k] = sum[r:k^2] x[n, c, split(h, outer(r, k)), split(w, inner(r, k))]";
    let binding = Binding::of(&[("N", 2), ("C", 3), ("H", 10), ("W", 15), ("k", 5)]);
    let data = tensor([2, 3, 10, 15], |[n, c, h, w]| n + 2 * c + h * w);
    let sum = |f: &dyn Fn(i64, i64) -> i64| (0..25).map(|r| f(r / 5, r % 5)).sum::<i64>();
    let expected = tensor([2, 3, 2, 3], |[n, c, h, w]| sum(&|p, q| n + 2 * c + (h * 5 + p) * (w * 5 + q)));
    assert_eq!(values(text, &binding, &[data]), expected);
    let mean = "y[n:N, o:Co, h:H, w:W] = sum[c:C, a:t, b:t, p:k, q:k] x[n, c, split(unfold(outer(h,k),a), p), split(unfold(outer(w,k),b), q)] * w1[o, c, a, b]";
    let nest = lower::lower(&Operator::parse(mean).unwrap(), &binding.with("Co", 4).with("t", 3)).unwrap();
    let shapes: Vec<&[i64]> = nest.stages.iter().map(|s| &nest.tensors[s.output].shape[..]).collect();
    // pooled first, convolved on blocks, then repeated
    assert_eq!(shapes, [&[2, 3, 2, 3][..], &[2, 4, 2, 3], &[2, 4, 10, 15]], "{}", nest.print());
}

#[test]
fn single_transforms_move_data_as_listed() {
    let binding = Binding::of(&[("H", 4), ("W", 4), ("c", 2)]);
    let output = |sum: &str, x: &str| format!("y[i:H, j:W, k:c*H] = {sum} x[{x}]");
    let check = |text: &str, data: &[Vec<f32>], f: &dyn Fn(i64, i64, i64) -> i64| {
        assert_eq!(values(text, &binding, data), tensor([4, 4, 8], |[i, j, k]| f(i, j, k)), "{text}");
    };
    let cube = |[i, j, k]: [i64; 3]| 32 * i + 8 * j + k;
    check(&output("", "i, k"), &[tensor([4, 8], |[i, k]| 8 * i + k)], &|i, _, k| 8 * i + k);
    check(&output("", "outer(k,H), inner(k,H), i, j"), &[tensor([2, 4, 4, 4], |[p, q, _, _]| 4 * p + q)], &|_, _, k| k);
    let summed = tensor([16, 4, 4, 8], |[r, i, j, k]| cube([i, j, k]) + r);
    check(&output("sum[r:H*W]", "r, i, j, k"), &[summed], &|i, j, k| 16 * cube([i, j, k]) + 120);
    let shared = [tensor([4, 4, 8], |[i, _, _]| 3 * i), tensor([4], |[i]| 5 * i)];
    check(&format!("{} * w1[i]", output("", "i, j, k")), &shared, &|i, _, _| 15 * i * i);
    check(&output("", "shift(i), j, k"), &[tensor([4, 4, 8], cube)], &|i, j, k| cube([(i + 1) % 4, j, k]));
    check(&output("", "split(i,j), k"), &[tensor([16, 8], |[p, k]| p + 16 * k)], &|i, j, k| 4 * i + j + 16 * k);
    // a stride under a window, with borders
    let text = "y[i:H, j:W, k:c] = x[unfold(i, stride(k, c)), j]";
    let binding = Binding::of(&[("H", 13), ("W", 4), ("c", 3)]);
    let place = |i: i64, k: i64| i + 3 * k - 4;
    let expected = tensor([13, 4, 3], |[i, j, k]| if (0..13).contains(&place(i, k)) { 4 * place(i, k) + j } else { 0 });
    assert_eq!(values(text, &binding, &[tensor([13, 4], |[i, j]| 4 * i + j)]), expected);
}

#[test]
fn every_library_operator_lowers_the_same_staged_and_flat_at_odd_sizes() {
    for (name, _, _) in LIBRARY {
        let operator = resolve(name).unwrap();
        for (k, h, w) in [(3, 6, 10), (2, 4, 6), (5, 6, 4)] {
            let binding = Binding::of(&[
                ("N", 2),
                ("Ci", 8),
                ("Co", 12),
                ("C", 8),
                ("H", h),
                ("W", w),
                ("L", 5),
                ("g", 2),
                ("s", 2),
                ("r", 2),
                ("k", k),
            ]);
            let staged = lower::lower(&operator, &binding).unwrap();
            let flat = lower::lower_flat(&operator, &binding).unwrap();
            assert_eq!(checksums(&staged), checksums(&flat), "{name} k={k}\n{}", staged.print());
        }
    }
}

#[test]
fn listings_are_readable() {
    let binding = Binding::of(&[("N", 1), ("Ci", 64), ("Co", 64), ("H", 56), ("W", 56), ("g", 32), ("s", 2), ("k", 3)]);
    let lines: Vec<_> = ["conv", "separable", "syno-1", "pooled"]
        .map(|name| format!("# {name}\n{}", lower::lower(&resolve(name).unwrap(), &binding).unwrap().print()))
        .into();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn sizes_that_do_not_divide_name_the_size_and_the_binding() {
    let binding = Binding::of(&[("N", 1), ("Ci", 6), ("Co", 8), ("H", 8), ("W", 8), ("g", 4), ("k", 3)]);
    let error = lower::lower(&resolve("grouped").unwrap(), &binding).unwrap_err().to_string();
    assert!(error.contains("Ci/g") && error.contains("3/2") && error.contains("g=4"), "{error}");
    let error = lower::lower(&resolve("conv").unwrap(), &Binding::of(&[("N", 1)])).unwrap_err().to_string();
    assert!(error.contains("has no value"), "{error}");
}

#[test]
fn weights_are_packed_in_blocks_that_vectors_divide() {
    let conv1x1 = resolve("conv1x1").unwrap();
    for (channels, expected) in [
        (64, None),
        (67, None),
        (66, Some(22)),
        (72, Some(24)),
        (80, Some(16)),
        (96, Some(48)),
        (112, Some(16)),
        (128, Some(64)),
        (160, Some(32)),
        (240, Some(48)),
        (1000, Some(40)),
    ] {
        let binding = Binding::of(&[("N", 1), ("Ci", 4), ("Co", channels), ("H", 2), ("W", 2)]);
        let nest = lower::lower(&conv1x1, &binding).unwrap();
        let (packed, stored) = layout::for_cpu(&nest, layout::BLOCK);
        let weight = nest.tensors.iter().position(|t| t.role == Role::Weight).unwrap();
        assert_eq!(stored[weight].block, expected, "{channels}");
        if let Some(block) = expected {
            assert_eq!(packed.tensors[weight].shape, [channels / block, 4, block]);
            // the value of output o and input c is in block o / B
            let values: Vec<f32> = (0..4 * channels).map(|i| i as f32).collect();
            let found = stored[weight].values(&values, &nest.tensors[weight].shape);
            let (o, c) = (channels - 2, 3);
            assert_eq!(found[((o / block * 4 + c) * block + o % block) as usize], (o * 4 + c) as f32);
        }
    }
}
