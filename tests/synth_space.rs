//! The space of operators: rules, children, finished operators, canonical paths, guided walks.

use crate::syno_operators::{Family, SHIPPED};
use syntune::synth::legal::Sizes;
use syntune::synth::options::Options;
use syntune::synth::space::{Axis, Shapes, Space};
use syntune::synth::{Binding, Operator, Size};

fn image(ci: i64, co: i64, h: i64) -> Binding {
    Binding::of(&[("N", 1), ("Ci", ci), ("Co", co), ("H", h), ("g", 32), ("k", 3), ("k2", 7), ("s", 2)])
}

/// The published search of a family: its shapes, variables, slots and options.
pub fn published(family: Family) -> Space {
    let (uses, bindings): (&[(&str, u8)], Vec<Binding>) = match family {
        Family::Gpt => (
            &[("N", 0), ("L", 0), ("Hin", 4), ("g", 3), ("k1", 3), ("k2", 2), ("t", 3)],
            vec![Binding::of(&[("N", 1), ("L", 2048), ("Hin", 768), ("g", 32), ("k1", 2), ("k2", 5), ("t", 3)])],
        ),
        _ => (
            &[("N", 0), ("Ci", 2), ("Co", 4), ("H", 0), ("g", 3), ("k", 2), ("k2", 2), ("s", 2)],
            match family {
                Family::ResNet => {
                    [(64, 64, 56), (64, 128, 28), (128, 128, 28), (128, 256, 14), (256, 256, 14), (256, 512, 7), (512, 512, 7)]
                        .map(|(ci, co, h)| image(ci, co, h))
                        .to_vec()
                }
                Family::ResNeXt => vec![image(128, 128, 56), image(256, 256, 28), image(512, 512, 14)],
                Family::DenseNet => [56, 28, 14, 7].map(|h| image(128, 32, h)).to_vec(),
                _ => vec![image(48, 192, 28)],
            },
        ),
    };
    let mut sizes = Sizes::new(uses, &bindings).unwrap();
    (sizes.max_variables, sizes.max_powers) = (3, 16);
    if family == Family::Gpt {
        // its operator has a block of Hin/k1^3/t: out of reach of the five exponents of the other searches
        sizes.n_per_variable = 7;
    }
    let size = |name: &str| sizes.variables().size(name).unwrap();
    let axis = |size: Size, unordered| Axis { size, unordered };
    let mut options = Options::syno();
    let (merges, splits, outer, rank) = match family {
        Family::ResNet => (1, 3, 2048, (8, 8)),
        Family::ResNeXt => (2, 3, 4096, (8, 8)),
        Family::DenseNet => (1, 3, 5120, (8, 8)),
        Family::EfficientNet => (1, 3, 6144, (8, 24)),
        Family::Gpt => (2, 2, 6144, (8, 8)),
    };
    (options.most.merges, options.most.splits, options.max_outer, options.rank) = (merges, splits, outer, rank);
    let shapes = if family == Family::Gpt {
        (options.depth, options.chain, options.max_repeat, options.min_weight) = (7, 5, 5, 100_000);
        options.tile = true;
        let (n, l, h) = (axis(size("N"), false), axis(size("L"), false), size("Hin"));
        let output = vec![n, l, axis(h.times(size("t")), false)];
        Shapes { output, data: vec![n, l, axis(h, true)], fixed: vec![(0, 0)], places: vec![], channels: None }
    } else {
        let (n, h) = (axis(size("N"), false), axis(size("H"), false));
        let output = vec![n, axis(size("Co"), true), h, h];
        let data = vec![n, axis(size("Ci"), true), h, h];
        Shapes { output, data, fixed: vec![(0, 0)], places: vec![2, 3], channels: Some((1, 1)) }
    };
    Space::new(shapes, sizes, bindings, options).unwrap()
}

/// The kinds of actions as the literature abbreviates them, by code.
const LETTERS: [char; 9] = ['R', 'E', 'H', 'T', 'S', 'U', 'M', 'C', 'F'];

#[test]
fn every_shipped_operator_is_in_the_space_that_it_was_found_in() {
    let mut refused = Vec::new();
    for shipped in SHIPPED {
        let mut space = published(shipped.family);
        let operator = Operator::parse(shipped.text).unwrap();
        match space.path(&operator) {
            Err(error) => refused.push(format!("{} {}: {error}", shipped.name, shipped.ops)),
            Ok(path) => {
                let mut ops: Vec<char> = path.steps().map(|s| LETTERS[usize::from(s.kind)]).filter(|&c| c != 'F').collect();
                let mut listed: Vec<char> = shipped.ops.chars().collect();
                ops.sort_unstable();
                listed.sort_unstable();
                assert_eq!(ops, listed, "{}", shipped.name);
                let last = path.steps().last().unwrap();
                let finals = space.finals(&last.state);
                assert!(finals.iter().any(|f| f.1 == operator), "{} is not among its finals", shipped.name);
            }
        }
    }
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
