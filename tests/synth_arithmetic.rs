//! Sizes, allowances, distances, bounds and paddings against the published and derived numbers.

use syntune::synth::legal::{Kind, Ratio, Sizes};
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
