//! Loop nests: staged against flat, their listings, their errors (the oracles stand in `syno_operators`).

use crate::syno_operators::checksums;
use syntune::lower;
use syntune::synth::Binding;
use syntune::synth::library::{LIBRARY, resolve};

#[test]
fn every_library_operator_lowers_the_same_staged_and_flat_at_odd_sizes() {
    for (name, _, _) in LIBRARY {
        let operator = resolve(name).unwrap();
        for (k, h, w) in [(3, 6, 10), (2, 4, 6), (5, 6, 4)] {
            let binding =
                Binding::of(&[("N", 2), ("Ci", 8), ("Co", 12), ("C", 8), ("H", h), ("W", w), ("L", 5), ("g", 2), ("s", 2), ("k", k)]);
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
