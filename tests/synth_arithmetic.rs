//! Sizes, allowances, distances, bounds and paddings against the published and derived numbers.

use syntune::synth::bound::{Decrease, Game};
use syntune::synth::distance::{Axis, Budget, Form, Target, Wanted};
use syntune::synth::legal::{Kind, Ratio, Sizes};
use syntune::synth::padding::{borders, pad};
use syntune::synth::{Binding, Size};

/// A monomial such as `C_in*k^2/g`.
pub fn size(sizes: &Sizes, text: &str) -> Size {
    let mut product = Size::ONE;
    let mut divide = false;
    let mut rest = text;
    loop {
        let end = rest.find(['*', '/']).unwrap_or(rest.len());
        let (name, power) = rest[..end].split_once('^').map_or((&rest[..end], 1), |(n, p)| (n, p.parse().unwrap()));
        let factor = name.parse().map_or_else(|_| sizes.variables().size(name).unwrap(), Size::number);
        product = product.times(factor.power(if divide { -power } else { power }));
        if end == rest.len() {
            return product;
        }
        divide = rest[end..].starts_with('/');
        rest = &rest[end + 1..];
    }
}

fn all(sizes: &Sizes, texts: &[&str]) -> Vec<Size> {
    texts.iter().map(|t| size(sizes, t)).collect()
}

/// H = W = 128 and c = 5, each at most twice, divisions inexact.
fn small() -> Sizes {
    let mut sizes = Sizes::new(&[("H", 2), ("W", 2), ("c", 2)], &[Binding::of(&[("H", 128), ("W", 128), ("c", 5)])]).unwrap();
    sizes.exact = false;
    sizes
}

/// The seven distinct layers of ResNet-18 at 224², in the published setting.
pub fn resnet() -> Sizes {
    let layers = [(64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)];
    let binding = |&(ci, co, h): &(i64, i64, i64)| {
        Binding::of(&[("N", 128), ("C_in", ci), ("C_out", co), ("H", h), ("k_1", 3), ("k_2", 7), ("s", 2), ("g", 32)])
    };
    let most = [("N", 0), ("C_in", 2), ("C_out", 4), ("H", 0), ("k_1", 2), ("k_2", 2), ("s", 2), ("g", 3)];
    let mut sizes = Sizes::new(&most, &layers.iter().map(binding).collect::<Vec<_>>()).unwrap();
    (sizes.max_variables, sizes.max_powers) = (3, 16);
    sizes
}

fn by_length(reductions: &[Vec<Size>]) -> Vec<usize> {
    let longest = reductions.iter().map(Vec::len).max().unwrap_or(0);
    (0..=longest).map(|n| reductions.iter().filter(|r| r.len() == n).count()).collect()
}

#[test]
fn kinds_follow_the_signs_of_exponents() {
    let s = small();
    for (text, kind) in [
        ("H*W/c", Kind::General),
        ("1", Kind::One),
        ("1/c", Kind::IllegalCoefficient),
        ("1/2", Kind::IllegalCoefficient),
        ("c", Kind::Coefficient),
        ("3", Kind::Coefficient),
        ("c/H", Kind::Undefined),
        ("W/H", Kind::Undefined),
    ] {
        assert_eq!(s.kind(size(&s, text)), kind, "{text}");
    }
    assert_eq!(size(&s, "H*W/c").print(s.variables()), "H*W/c");
    assert_eq!(size(&s, "H*H").print(s.variables()), "H^2");
}

#[test]
fn free_sizes_and_divisors_have_the_derived_counts() {
    let s = small();
    let full = s.allowance();
    let free = s.free(&full);
    assert_eq!(free.len(), 42);
    assert!(all(&s, &["H", "W", "c", "H*W/c", "H*W/c^2"]).iter().all(|x| free.contains(x)));
    assert!(!all(&s, &["c^3", "H*W/c^3"]).iter().any(|x| free.contains(x)));
    let divisors = |text| s.divisors(size(&s, text), &full);
    let mut of_h = all(&s, &["c", "c^2", "H/c", "H/c^2"]);
    of_h.sort();
    assert_eq!(divisors("H"), of_h);
    assert_eq!(divisors("c^3*H*W").len(), 17);
    assert_eq!(divisors("H*W/c").len(), 13);
    assert!(divisors("H*W/c").contains(&size(&s, "H")));

    let s = Sizes::new(&[("W", 1), ("s", 4), ("g", 4)], &[Binding::of(&[("W", 64), ("s", 2), ("g", 32)])]).unwrap();
    let mut of_w = all(&s, &["g", "s", "s^2", "W/s^2", "W/s/g"]);
    of_w.sort();
    assert_eq!(s.divisors(size(&s, "W/s"), &s.allowance()), of_w);
}

#[test]
fn reductions_of_the_search_context_have_the_derived_counts() {
    let names = [("N", 0), ("C_in", 2), ("C_out", 2), ("H", 0), ("W", 0), ("k_1", 4), ("s_1", 0)];
    let binding = Binding::of(&[("N", 3), ("C_in", 3), ("C_out", 8), ("H", 64), ("W", 64), ("k_1", 3), ("s_1", 2)]);
    let s = Sizes::new(&names, &[binding]).unwrap();
    let found = s.reductions(3, size(&s, "C_in*H*W"), Ratio(32, 1));
    assert_eq!(by_length(&found), [1, 35, 208, 419]);
}

#[test]
fn reductions_of_resnet_18_have_the_published_counts() {
    let s = resnet();
    assert_eq!(s.free(&s.allowance()).len(), 538);
    let found = s.reductions(5, size(&s, "C_in*H^2"), Ratio(4, 1));
    assert_eq!(by_length(&found), [1, 177, 1919, 4053, 2950, 894]);
}

/// Dims as `(size, length left)`.
fn axes(sizes: &Sizes, dims: &[(&str, u8)]) -> Vec<Axis> {
    dims.iter().map(|&(text, left)| Axis { size: size(sizes, text), left, discards: false, drops: false, form: Form::default() }).collect()
}

fn target(sizes: &Sizes, axes: &[(&str, bool)]) -> Target {
    Target::new(axes.iter().map(|&(text, unordered)| Wanted { size: size(sizes, text), unordered }).collect())
}

fn budget(merges: u32, splits: u32, leaves: u32, steps: u32) -> Budget {
    Budget { merges, splits, leaves, steps, contracts: false, odd_growth: false }
}

#[test]
fn distances_of_the_shape_complexity_test_hold() {
    let binding = Binding::of(&[("N", 3), ("H", 64), ("W", 64), ("k", 3)]);
    let s = Sizes::new(&[("N", 2), ("H", 2), ("W", 2), ("k", 2)], &[binding]).unwrap();
    let wanted = target(&s, &[("N", false), ("H", false), ("W", false)]);
    type Row<'a> = (&'a [(&'a str, u8)], [u32; 3], Option<u32>);
    let rows: [Row; 7] = [
        (&[("N", 0), ("H", 1), ("W", 1)], [0, 0, 0], Some(0)),
        (&[("N", 1), ("H*W", 1)], [0, 0, 0], None),
        (&[("N", 0), ("H*W", 1)], [1, 0, 0], Some(1)),
        (&[("N", 1), ("H", 1), ("W", 1), ("k", 1)], [1, 0, 0], None),
        (&[("N", 0), ("H", 0), ("W", 1), ("k", 1)], [1, 0, 1], Some(1)),
        (&[("N", 1), ("H", 1), ("W/k", 1), ("k", 1)], [1, 0, 1], None),
        (&[("N", 0), ("H", 0), ("W/k", 1), ("k", 1)], [1, 1, 1], Some(1)),
    ];
    for (row, (current, [m, split, u], expected)) in rows.into_iter().enumerate() {
        let distance = wanted.distance(&s, &axes(&s, current), &budget(m, split, u, 1));
        assert_eq!(distance.steps, expected, "row {}", row + 1);
    }
}

#[test]
fn distances_of_resnet_18_states_hold() {
    let s = resnet();
    let wanted = target(&s, &[("C_in", true), ("H", false), ("H", false)]);
    let published = budget(1, 3, 24, 12);
    let at = |dims: &[(&str, u8)], b: Budget| wanted.distance(&s, &axes(&s, dims), &b).steps;
    let long = |text: &'static str| -> Vec<(&str, u8)> { text.split(',').map(|t| (t, 6)).collect() };
    let odd = Budget { odd_growth: true, ..published };
    for (row, text, b, expected) in [
        (8, "C_out,H,H", published, None),
        (9, "C_out,H,H,C_in", published, Some(1)),
        (10, "C_out,H,H,C_in,k_1,k_1", published, Some(3)),
        (11, "C_out,H,H,C_in/g,g,k_1", published, Some(3)),
        (12, "C_in/g,g,H,H", published, Some(1)),
        (12, "C_in/g,g,H,H", Budget { splits: 0, ..published }, None),
        (13, "C_in/g,g,H/s,s,H", published, Some(2)),
        (13, "C_in/g,g,H/s,s,H", Budget { splits: 1, ..published }, None),
        (14, "C_in*H,H", published, Some(1)),
        (14, "C_in*H,H", Budget { merges: 0, ..published }, None),
        (15, "C_in,s*H,H", published, Some(2)),
        (15, "C_in,s*H,H", odd, None),
        (16, "C_in,k_1*H,H", odd, Some(2)),
        (17, "C_in,H/s,H", published, None),
        (21, "s*C_in,H/s,H", published, Some(2)),
    ] {
        assert_eq!(at(&long(text), b), expected, "row {row}: {text}");
    }
    assert_eq!(at(&[("C_in", 0), ("H", 0), ("H", 6), ("k_1", 0)], published), None, "row 18");
    assert_eq!(at(&[("C_in", 0), ("H", 0), ("H", 0), ("k_1", 6)], published), Some(1), "row 19");
    assert_eq!(at(&[("C_in", 6), ("k_1*H", 0), ("H", 6)], published), None, "row 20");
}

#[test]
fn dims_that_only_reach_the_channels_are_proven_unordered() {
    let s = resnet();
    let wanted = target(&s, &[("C_in", true), ("H", false), ("H", false)]);
    let proven = |dims: &[(&str, u8)], b: Budget| wanted.distance(&s, &axes(&s, dims), &b).unordered;
    let published = budget(1, 3, 24, 12);
    let split = [("C_in/g", 6), ("H", 6), ("g", 6), ("H", 6)];
    let both = [Some(0), None, Some(0), None];
    assert_eq!(proven(&split, Budget { merges: 0, ..published }), both);
    assert_eq!(proven(&split, Budget { steps: 2, ..published }), both);
    // with a Merge and three steps the two parts may be swapped: H into H/g and another g, then C_in/g with that g and H/g
    // with the channels' own
    assert!(proven(&split, published).is_empty());
    // which of two equal dims goes to the channels is open
    let twins = [("C_in/s", 6), ("s", 6), ("s", 6), ("H/s", 6), ("H", 6)];
    assert_eq!(proven(&twins, Budget { merges: 0, ..published }), [Some(0), None, None, None, None]);
    // not exact: whatever is too much could come from anywhere
    assert!(proven(&[("C_in", 6), ("k_1", 6), ("H", 6), ("H", 6)], published).is_empty());
}

#[test]
fn axes_of_the_data_may_be_any_monomial() {
    let s = resnet();
    let at = |axes_: &[(&str, bool)], dims: &[(&str, u8)]| target(&s, axes_).distance(&s, &axes(&s, dims), &budget(9, 9, 9, 9)).steps;
    let tokens = [("N", false), ("H^2", false)];
    assert_eq!(at(&tokens, &[("N", 3), ("H^2", 0)]), Some(0));
    assert_eq!(at(&tokens, &[("N", 3), ("H", 1), ("H", 1)]), Some(1));
    assert_eq!(at(&tokens, &[("N*H", 3), ("H", 1)]), Some(2));
    assert_eq!(at(&tokens, &[("N*H^2", 3)]), Some(1));
    assert_eq!(at(&tokens, &[("N", 3), ("H", 3)]), None);
    assert_eq!(at(&[("k_1", false), ("s*C_in", false)], &[("k_1", 0), ("C_in", 1), ("s", 1)]), Some(1));
    assert_eq!(at(&[("k_1", false), ("C_in", false)], &[("C_in*k_1", 1)]), Some(1));
    assert_eq!(at(&[("k_1", false), ("C_in", false)], &[("C_in", 1), ("s*k_1", 1)]), Some(2));
}

#[test]
fn a_contraction_to_come_drops_many_dims_in_one_step() {
    let s = resnet();
    let wanted = target(&s, &[("C_in", true), ("H", false), ("H", false)]);
    let mut current = axes(&s, &[("C_in", 6), ("H", 6), ("H", 6), ("C_out/g", 6), ("g", 6), ("k_1", 6)]);
    current[3].drops = true;
    current[4].drops = true;
    let b = budget(1, 3, 24, 12);
    assert_eq!(wanted.distance(&s, &current, &b).steps, Some(3));
    assert_eq!(wanted.distance(&s, &current, &Budget { contracts: true, ..b }).steps, Some(2));
}

#[test]
fn strided_dims_cost_a_step_each_and_share_one_window() {
    let s = resnet();
    let wanted = target(&s, &[("C_in", true), ("H", false), ("H", false)]);
    let mut current = axes(&s, &[("C_in", 6), ("H", 6), ("H", 6), ("k_1", 6), ("k_1", 1)]);
    current[3].discards = true;
    let at = |current: &[Axis], b: Budget| wanted.distance(&s, current, &b).steps;
    assert_eq!(at(&current, budget(1, 3, 2, 12)), Some(2));
    assert_eq!(at(&current, budget(1, 3, 1, 12)), None);
    assert_eq!(at(&current, budget(1, 3, 2, 1)), None);
    current[4].discards = true;
    assert_eq!(at(&current, budget(1, 3, 1, 12)), Some(2));
    current[4].left = 0;
    assert_eq!(at(&current, budget(1, 3, 1, 12)), None);
}

#[test]
fn an_allowance_is_spent_and_then_refuses() {
    let s = small();
    let spent = s.spent(&s.allowance(), size(&s, "H*W*c")).unwrap();
    let mut counting = s.clone();
    counting.counts_coefficients = true;
    for (text, fits) in [("H/c", true), ("H*W*c", true), ("H*W*c^2", false), ("H^2", false)] {
        assert_eq!(counting.shared(&spent, size(&s, text)).is_some(), fits, "{text}");
        assert_eq!(s.spent(&spent, size(&s, text)).is_some(), fits, "{text}");
    }
    // coefficients of weights are free in Syno
    assert!(s.shared(&spent, size(&s, "H*W*c^2")).is_some());
    let left = s.shared(&spent, size(&s, "H/c^2")).unwrap();
    assert_eq!((left.left(0), left.left(1), left.left(2)), (0, 1, 1));
}

#[test]
fn a_merge_uses_up_what_cancels_between_its_parts() {
    let mut s = small();
    let full = s.allowance();
    let (block, group) = (size(&s, "c^2"), size(&s, "H*W/c"));
    assert_eq!(s.merged(&full, block, group), Some(full));
    s.counts_merges = true;
    let left = s.merged(&full, block, group).unwrap();
    assert_eq!((left.left(0), left.left(1), left.left(2)), (2, 2, 1));
    assert_eq!(s.merged(&full, size(&s, "H*c"), size(&s, "W*c")), Some(full));
    assert_eq!(s.merged(&left, size(&s, "c^2"), size(&s, "H/c^2")), None);
}

#[test]
fn boxes_of_sizes_hold_the_derived_counts() {
    let s = small();
    assert_eq!(s.between(Size::ONE, size(&s, "H*W*c")).len(), 7);
    let mut over_c = all(&s, &["H/c", "H/c^2", "W/c", "W/c^2", "H*W/c", "H*W/c^2"]);
    over_c.sort();
    assert_eq!(s.between(size(&s, "1/c^2"), size(&s, "H*W/c")), over_c);
}

#[test]
fn sizes_compare_primaries_first() {
    let s = small();
    let [c, h, hc, w] = ["c", "H", "H*c", "W"].map(|t| size(&s, t));
    assert!(c < h && h < hc && w < h && (h >= h));
    assert!(s.quotient_legal(hc, h) && !s.quotient_legal(h, h) && !s.quotient_legal(h, hc) && !s.quotient_legal(c, h));
}

#[test]
fn limits_are_exact_over_all_bindings() {
    let s = resnet();
    let at = |text| size(&s, text);
    assert_eq!((s.lower(at("C_out/g")), s.upper(at("C_out/g"))), (Some(Ratio(2, 1)), Some(Ratio(16, 1))));
    assert_eq!(s.lower(at("C_in/C_out")), Some(Ratio(1, 2)));
    assert_eq!((s.lower(at("H/k_1")), s.upper(at("H/k_1"))), (Some(Ratio(7, 3)), Some(Ratio(56, 3))));
    assert!(s.at_least(at("H/k_1"), Ratio(23, 10)) && !s.at_least(at("H/k_1"), Ratio(24, 10)));
    assert!(s.at_most(at("H"), Ratio(56, 1)) && !s.at_most(at("H"), Ratio(559, 10)));
    assert!(s.legal_to_sample(at("H/k_1")) && !s.valid(at("H/k_1")) && !s.drawable(at("H/k_1")));
    assert!(s.valid(at("C_in/g/s")) && !s.valid(at("k_1*C_in/g/s")) && !s.legal_to_sample(at("C_in/g^2")));
    // beyond 64 bits, and beyond 128
    assert_eq!(s.upper(at("C_in^2*C_out^4*g^2")), Some(Ratio(1 << 64, 1)));
    assert_eq!(s.upper(at("C_out^20")), None);
    assert!(!s.drawable(at("C_out^20")));
    assert!(Ratio(1 << 127, (1 << 66) + 1) < Ratio(1 << 127, 1 << 66) && Ratio(1 << 127, 3) == Ratio(1 << 127, 3));
    assert!(Ratio(u128::MAX, 2) > Ratio(u128::MAX - 1, 2) && Ratio(u128::MAX - 1, u128::MAX) < Ratio(u128::MAX, u128::MAX));
}

#[test]
fn bad_requests_are_refused() {
    let one = Binding::of(&[("H", 4)]);
    let message = |most: &[(&str, u8)], bindings: &[Binding]| Sizes::new(most, bindings).unwrap_err().to_string();
    assert!(message(&[("H", 1), ("k", 1)], std::slice::from_ref(&one)).contains("k has no value"));
    assert!(message(&[("H", 1), ("H", 2)], std::slice::from_ref(&one)).contains("named twice"));
    assert!(message(&[("H", 1)], &[]).contains("no binding"));
    assert!(message(&[("H", 1)], &[Binding::of(&[("H", 0)])]).contains("below 1"));
}

/// A game under one binding; decreases with the bits of what they need.
fn game(elements: u64, increases: &[u64], decreases: &[(u64, u64)]) -> Game {
    Game {
        elements: vec![elements],
        strides: vec![1],
        increases: increases.iter().map(|&n| vec![n]).collect(),
        decreases: decreases.iter().map(|&(size, needs)| Decrease { size: vec![size], needs }).collect(),
    }
}

#[test]
fn the_flops_game_gives_the_published_answers() {
    let (s, k1, k2) = (2, 3, 5);
    assert_eq!(game(s * k2, &[s, k1], &[(k2, 0), (s, 0b01), (s * k1, 0b10)]).flops(), 18);
    assert_eq!(game(k1, &[k2], &[(k1, 1), (k2, 1)]).flops(), 15);
    // outer product: the sum is not in the weight with C_out
    assert_eq!(game(3 * 3 * 16 * 16, &[8], &[(3, 0)]).flops(), 2304);
    // dilated: a window of 9 over strided places
    let dilated = Game { strides: vec![3], ..game(16, &[9], &[(3, 1)]) };
    assert_eq!(dilated.flops(), 48);
    // k needs the window and s, s needs those and C_out
    assert_eq!(game(16, &[k1, s, 8], &[(k1, 0b011), (s, 0b111)]).flops(), 352);
    assert_eq!(game(16, &[3], &[]).flops(), 0);
    // a sum of one element is not worth its own round
    assert_eq!(game(16, &[2], &[(1, 0), (2, 1)]).flops(), 32);
    let two =
        Game { elements: vec![6, 60], strides: vec![1, 1], increases: vec![], decreases: vec![Decrease { size: vec![3, 3], needs: 0 }] };
    assert_eq!(two.flops(), 66);
    // more sums than are solved: one round at least
    assert_eq!(game(16, &[3], &[(2, 1); 20]).flops(), 48);
}

#[test]
fn bytes_count_each_tensor_once() {
    assert_eq!(syntune::synth::bound::bytes(&[10, 20], &[1, 2], &[vec![3, 4], vec![5, 6]]), 4 * 51);
}

#[test]
fn padding_gives_the_published_sizes() {
    let padded = |binding: &Binding, whole: &[&str], data: &str, output: &str| {
        let names: Vec<(&str, u8)> = binding.0.keys().map(|n| (n.as_str(), 9)).collect();
        let s = Sizes::new(&names, std::slice::from_ref(binding)).unwrap();
        let values = s.variables().values(binding).unwrap();
        let padded = pad(s.variables(), &values, &all(&s, whole), size(&s, data), size(&s, output));
        padded.map(|p| Binding(s.variables().names().iter().cloned().zip(p).collect()))
    };
    let image = Binding::of(&[("C", 3), ("H", 128), ("W", 40), ("k", 5), ("s", 2)]);
    let of_image = |whole: &[&str]| padded(&image, whole, "C*H*W", "C*H*W").unwrap();
    assert_eq!(of_image(&["H*W/s", "H/s^2", "W/s^3"]), image);
    assert_eq!(of_image(&["C/k"]), image.with("C", 5));
    assert_eq!(of_image(&["C*H/k", "C*W/s^4"]), image.with("H", 130).with("W", 48));
    // W alone must hold k, and that serves the product too
    assert_eq!(of_image(&["C*W/k", "W/k^2"]), image.with("W", 50));
    let tokens = Binding::of(&[("C_in", 768), ("C_out", 3072), ("Seq", 2048), ("g", 32), ("k", 3)]);
    let whole = ["C_in/g", "C_in/g/k^2", "Seq/k^2", "C_out/g/k^2"];
    let expected = tokens.with("C_in", 864).with("C_out", 3168).with("Seq", 2052);
    assert_eq!(padded(&tokens, &whole, "C_in*Seq", "C_out*Seq").unwrap(), expected);
    assert_eq!((borders(128, 131), borders(5, 5)), ((1, 2), (0, 0)));
    let refused = padded(&image, &["k/s"], "C", "C").unwrap_err().to_string();
    assert!(refused.contains("k/s cannot be made whole"), "{refused}");
    // numbers divide as coefficients do
    assert_eq!(of_image(&["H/30"]), image.with("H", 150));
}
