//! The nn.Module that `lower --to torch-py` prints.

use syntune::lower::{lower, torch_py};
use syntune::synth::Binding;
use syntune::synth::library::resolve;

#[test]
fn modules_are_standalone_and_take_any_batch() {
    let binding = Binding::of(&[("N", 2), ("Ci", 8), ("Co", 12), ("C", 8), ("H", 6), ("W", 10), ("g", 2), ("s", 2), ("k", 3)]);
    let texts: Vec<String> = ["conv", "separable", "shift", "syno-2", "pooled"]
        .iter()
        .map(|name| torch_py(&lower(&resolve(name).unwrap(), &binding).unwrap()).unwrap())
        .collect();
    insta::assert_snapshot!(texts.join("\n\n"));
}
