//! The space of operators: rules, children, finished operators, canonical paths, guided walks.

use crate::syno_operators::{Family, SHIPPED};
use crate::synth::{slot_bindings, slot_space};
use crate::util::assert_bounds_hold;
use std::collections::{BTreeSet, HashSet};
use syntune::lower;
use syntune::synth::canon::{self, Rule, RuleSet, STRUCTURE};
use syntune::synth::legal::Sizes;
use syntune::synth::options::Options;
use syntune::synth::partial::Top;
use syntune::synth::space::{Axis, Child, Shapes, Space};
use syntune::synth::{Action, Binding, Dim, Graph, Operator, Partial, Prim, Size, Synthesizer};

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

/// Every operator that the space has above a state, until one is `wanted`.
fn search(space: &mut Space, from: Partial, wanted: &Operator) -> (bool, usize) {
    let (mut stack, mut seen) = (vec![from], HashSet::new());
    while let Some(state) = stack.pop() {
        if space.finals(&state).iter().any(|f| f.1 == *wanted) {
            return (true, seen.len());
        }
        for (_, child) in space.children(&state) {
            if seen.insert(child.identity()) {
                stack.push(child);
            }
        }
    }
    (false, seen.len())
}

#[test]
fn the_two_published_operators_are_found_when_their_sums_are_given() {
    for name in ["07889_15252107013978896537", "07754_18091915762600937904"] {
        let shipped = SHIPPED.iter().find(|s| s.name == name).unwrap();
        let operator = Operator::parse(shipped.text).unwrap();
        let mut space = published(shipped.family);
        space.options.admissible = true;
        space.options.depth = shipped.ops.len();
        let path = space.path(&operator).unwrap();
        let start = path.steps().find(|s| s.kind != 0).unwrap().state.clone();
        assert_eq!(start.sums.len(), shipped.ops.chars().filter(|&c| c == 'R').count());
        let (found, n) = search(&mut space, start, &operator);
        assert!(found, "{name} is not among {n} states");
    }
}

/// Output axes `a` and `b` (unordered) and what can be put on them, without any rule.
struct Bench {
    graph: Graph,
    sizes: Sizes,
    outputs: Vec<Dim>,
    state: Partial,
}

fn bench() -> Bench {
    let bindings = [Binding::of(&[("C", 64), ("H", 16), ("c", 4)])];
    let sizes = Sizes::new(&[("C", 4), ("H", 4), ("c", 4)], &bindings).unwrap();
    let mut graph = Graph::new(sizes.variables().clone());
    let outputs: Vec<Dim> =
        ["C", "H"].iter().enumerate().map(|(i, n)| graph.leaf(Prim::Output(i as u8), sizes.variables().size(n).unwrap())).collect();
    let tops = outputs.iter().map(|&d| Top::output(&graph, d, true)).collect();
    let state = Partial::root(tops, sizes.allowance());
    Bench { graph, sizes, outputs, state }
}

impl Bench {
    fn size(&self, name: &str) -> Size {
        self.sizes.variables().size(name).unwrap()
    }

    /// Does it, and returns the dims that are new in the frontier.
    fn act(&mut self, action: Action) -> Vec<Dim> {
        let before = self.state.clone();
        self.state = before.apply(&mut self.graph, &self.sizes, &action).unwrap();
        self.state.frontier.iter().map(|t| t.dim).filter(|&d| before.top(d).is_none()).collect()
    }

    fn parts(&mut self, d: Dim) -> (Dim, Dim) {
        let block = self.size("c");
        self.act(Action::Merge(d, block));
        (self.graph.make(Prim::Outer(d, block)), self.graph.make(Prim::Inner(d, block)))
    }

    fn adjacent(&self, l: Dim, r: Dim) -> bool {
        self.state.top(l).unwrap().adjacent(self.state.top(r).unwrap())
    }

    fn is_canonical(&self, becomes: &[Dim]) -> bool {
        let becomes: Vec<(Dim, usize)> = becomes.iter().enumerate().map(|(i, &d)| (d, i)).collect();
        canon::unordered(&self.graph, &self.state, &becomes)
    }
}

#[test]
fn parts_of_a_merge_are_adjacent_within_each_contraction() {
    let mut b = bench();
    let (l, r) = b.parts(b.outputs[0]);
    assert!(b.adjacent(l, r) && !b.adjacent(r, l));
    let plain = b.state.clone();
    b.act(Action::Contract(vec![(r, false)]));
    assert!(!b.adjacent(l, r), "one part below a share");
    b.state = plain;
    b.act(Action::Contract(vec![(l, false), (r, false)]));
    assert!(b.adjacent(l, r), "both below the same weight");
    b.act(Action::Contract(vec![(r, false)]));
    assert!(b.adjacent(l, r), "one below a second weight too");
    let mut b = bench();
    let (h, c) = (b.size("H"), b.size("c"));
    let (x, y) = (b.act(Action::Reduce(h))[0], b.act(Action::Reduce(c))[0]);
    assert!(b.adjacent(x, y) && b.adjacent(y, x), "two sums");
}

#[test]
fn an_unordered_axis_is_not_shifted() {
    let mut b = bench();
    let shifted = b.act(Action::Shift(b.outputs[0]))[0];
    assert!(!b.is_canonical(&[shifted]));
    assert!(b.is_canonical(&[]), "nothing is known of its order");
}

#[test]
fn an_unordered_axis_is_not_cut_and_joined() {
    let mut b = bench();
    let (l, r) = b.parts(b.outputs[0]);
    let joined = b.act(Action::Split(r, l))[0];
    assert!(!b.is_canonical(&[joined]));
}

#[test]
fn two_sums_do_not_share_an_unordered_axis() {
    let mut b = bench();
    let (h, c) = (b.size("H"), b.size("c"));
    let (x, y) = (b.act(Action::Reduce(h))[0], b.act(Action::Reduce(c))[0]);
    let free = b.state.clone();
    for (l, r) in [(x, y), (y, x)] {
        b.state = free.clone();
        let joined = b.act(Action::Split(l, r))[0];
        assert!(!b.is_canonical(&[joined]));
        assert!(b.is_canonical(&[]));
    }
    // a weight on one of them tells them apart
    b.state = free;
    b.act(Action::Contract(vec![(x, false), (b.outputs[1], true)]));
    let joined = b.act(Action::Split(y, x))[0];
    assert!(b.is_canonical(&[joined]));
}

#[test]
fn of_two_orders_of_an_unordered_split_one_is_kept() {
    let kept = |swap: bool| {
        let mut b = bench();
        let [l, r] = if swap { [b.outputs[1], b.outputs[0]] } else { [b.outputs[0], b.outputs[1]] };
        let joined = b.act(Action::Split(l, r))[0];
        b.is_canonical(&[joined])
    };
    assert_ne!(kept(false), kept(true));
}

#[test]
fn independent_actions_in_any_order_make_one_state() {
    let mut b = bench();
    let start = b.state.clone();
    let shift = Action::Shift(b.outputs[1]);
    let contract = Action::Contract(vec![(b.outputs[0], true)]);
    b.act(shift.clone());
    b.act(contract.clone());
    let one = b.state.clone();
    b.state = start;
    b.act(contract);
    b.act(shift);
    assert_eq!((one.identity(), one.key()), (b.state.identity(), b.state.key()));
}

#[test]
fn bounds_hold_and_paths_replay_for_sampled_operators() {
    let mut synthesizer = Synthesizer::new(slot_space(), 3).unwrap();
    let mut lines = BTreeSet::new();
    for _ in 0..2000 {
        let operator = synthesizer.next().unwrap();
        assert!(lines.insert(operator.to_string()), "{operator} comes twice");
        let n_macs: u64 = slot_bindings().iter().map(|b| lower::lower(&operator, b).unwrap().n_macs()).sum();
        let space = synthesizer.space_mut();
        for step in assert_bounds_hold(space, &operator, n_macs).steps() {
            let again = space.parse_action(&step.state, &step.text).unwrap();
            assert_eq!(space.print_action(&step.state, &again), step.text);
        }
    }
}

#[test]
fn every_child_has_a_name_of_its_own_and_replays_from_it() {
    let mut space = slot_space();
    let operator =
        Operator::parse("y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]").unwrap();
    let path = space.path(&operator).unwrap();
    let mut n_finals = 0;
    for step in path.steps() {
        let arcs = space.arcs(&step.state);
        assert!(arcs.iter().any(|a| a.key == step.key && a.kind == step.kind), "{} is not among the arcs", step.text);
        assert_eq!(arcs.iter().map(|a| a.key).collect::<BTreeSet<_>>().len(), arcs.len());
        for arc in arcs {
            let text = space.print_action(&step.state, &arc.action);
            let again = space.parse_action(&step.state, &text).unwrap();
            match (arc.child, again) {
                (Child::Partial(child), again) => {
                    assert_eq!(space.child(&step.state, &again).unwrap().identity(), child.identity(), "{text}");
                }
                (Child::Final(found), Action::Finish(data)) => {
                    n_finals += 1;
                    assert_eq!(space.finish(&step.state, &data).unwrap(), *found, "{text}");
                }
                (Child::Final(_), _) => panic!("{text} does not finish"),
            }
        }
    }
    assert!(n_finals > 0);
    assert!(space.parse_action(&path.steps().last().unwrap().state, "shift(y9)").is_err());
}

/// A space small enough to be enumerated without any rule.
fn small(depth: usize) -> Space {
    let bindings = vec![Binding::of(&[("N", 1), ("C", 8), ("H", 16), ("k", 3)])];
    let mut sizes = Sizes::new(&[("N", 0), ("C", 1), ("H", 0), ("k", 2)], &bindings).unwrap();
    (sizes.max_variables, sizes.max_powers, sizes.n_per_variable) = (2, 2, 3);
    let size = |name: &str| sizes.variables().size(name).unwrap();
    let axis = |name: &str, unordered| Axis { size: size(name), unordered };
    let shape = vec![axis("N", false), axis("C", true), axis("H", false)];
    let shapes = Shapes { output: shape.clone(), data: shape, fixed: vec![(0, 0)], places: vec![2], channels: Some((1, 1)) };
    let options = Options { depth, tensors: 3, reductions: 2, ..Options::ours() };
    let mut space = Space::new(shapes, sizes, bindings, options).unwrap();
    space.options.off = space.options.off.with(&STRUCTURE);
    space
}

/// The batch may stand at other places in the data and in the output.
#[test]
fn a_fixed_axis_of_the_data_is_the_axis_of_the_output_that_was_named() {
    let mut space = small(4);
    space.shapes.output.rotate_left(1);
    let shapes = Shapes { fixed: vec![(0, 2)], places: vec![1], channels: Some((1, 0)), ..space.shapes.clone() };
    let mut moved = Space::new(shapes, space.sizes().clone(), space.bindings.clone(), space.options.clone()).unwrap();
    let count = moved.count_by_depth(4, 100_000);
    assert!(count.complete && count.operators.len() >= 5, "{:?}", count.operators);
    for text in &count.operators {
        let operator = Operator::parse(text).unwrap();
        assert_eq!(operator.data()[0], operator.outputs()[2], "{text}");
        let binding = Binding::of(&[("N", 2), ("C", 8), ("H", 16), ("k", 3)]);
        let nest = syntune::lower::lower(&operator, &binding).unwrap();
        assert_eq!((&nest.tensors[0].shape[..], &nest.tensors[nest.output()].shape[..]), (&[2, 8, 16][..], &[8, 16, 2][..]), "{text}");
    }
}

#[test]
fn what_the_bounds_prune_leads_to_no_operator() {
    const DEPTH: usize = 5;
    for (profile, n_least) in [(Options::ours(), 20), (Options::coarse(), 10)] {
        let all = |off: &[Rule], interchange: bool| {
            let mut space = small(DEPTH);
            space.options.off = profile.off.with(&STRUCTURE).with(off);
            space.options.interchange = interchange;
            let count = space.count_by_depth(DEPTH, 400_000);
            assert!(count.complete);
            (count.operators.clone(), count.levels.iter().map(|l| l.n_states).sum::<u64>())
        };
        let (guided, n_guided) = all(&[], true);
        let (unguided, n_unguided) = all(&[Rule::Distance, Rule::Stuck], true);
        let (told_apart, n_told_apart) = all(&[], false);
        assert!(guided.len() > n_least, "{}", guided.len());
        assert_eq!(guided, unguided);
        assert_eq!(guided, told_apart);
        assert!(n_guided < n_unguided && n_guided < n_told_apart);
    }
}

#[test]
fn a_rule_that_is_off_refuses_nothing() {
    let mut space = slot_space();
    let root = space.root();
    let (h, w) = (space.root().frontier[0].dim, space.root().frontier[1].dim);
    space.options.off = RuleSet::NONE;
    let weight = Action::Contract(vec![(h, false), (w, false)]);
    assert!(space.check(&root, &weight).is_err());
    space.options.off = RuleSet::of(Rule::ALL);
    assert_eq!(space.check(&root, &weight), Ok(()));
}

#[test]
fn slots_that_keep_their_channels_have_convolutions_too() {
    let slot = Binding::of(&[("N", 1), ("Ci", 16), ("Co", 16), ("H", 28), ("W", 28), ("k", 3)]);
    let mut space = Space::of_conv(vec![slot], &["k".to_string()], 8, 2).unwrap();
    for text in [
        "y[n:N, o:Ci, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]",
        "y[n:N, o:Ci, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[c, i, j] * w2[o, c]",
        "y[n:N, o:Ci, h:H, w:W] = sum[i:k, j:k] x[n, o, unfold(h, i), unfold(w, j)] * w1[o, i, j]",
    ] {
        space.path(&Operator::parse(text).unwrap()).unwrap();
    }
}
