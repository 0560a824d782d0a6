//! Every operator of a small space, found without the search's own generator: all actions are tried, and only limits and
//! the rules that are on refuse.

use super::loose::loose;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use syntune::lower::fingerprint::{Fingerprint, fingerprint, small_bindings};
use syntune::synth::canon::{APPROXIMATE, BOUNDS, EQUALITIES, LIMITS, Rule, RuleSet, SKIPS, STRUCTURE};
use syntune::synth::legal::Sizes;
use syntune::synth::options::{Most, Options};
use syntune::synth::space::{Axis, Shapes};
use syntune::synth::{Action, Binding, Operator, Partial, Space};

/// A set of rules.
pub struct Row {
    pub name: &'static str,
    pub kind: Losing,
    pub on: Vec<Rule>,
    pub interchange: bool,
    pub survivors: bool,
}

/// May a row lose functions?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Losing {
    Nothing,
    /// It is meant to; rows after it are compared with it.
    Base,
    Some,
}

/// From no rule to all of them.
pub fn rows() -> Vec<Row> {
    use Losing::{Base, Nothing, Some};
    let row = |name, kind, rules: &[&[Rule]], interchange| Row { name, kind, on: rules.concat(), interchange, survivors: true };
    let mut on = [&BOUNDS[..], &[Rule::MergeAcross]].concat();
    let mut rows =
        vec![row("none", Base, &[], false), row("bounds", Nothing, &[&BOUNDS], false), row("merges across", Base, &[&on], false)];
    for (name, rules) in EQUALITIES {
        on.extend(rules);
        rows.push(row(name, Nothing, &[&on], false));
    }
    rows.push(row("alike sums", Nothing, &[&on], true));
    rows.push(row("not searched for", Some, &[&on, &SKIPS], true));
    rows.push(row("ours", Some, &[&on, &SKIPS, &STRUCTURE], true));
    rows.push(Row { survivors: false, ..row("coarse", Some, &[&on, &SKIPS, &STRUCTURE, &APPROXIMATE], true) });
    rows
}

/// A request small enough to be enumerated without any rule.
pub struct Request {
    pub name: &'static str,
    /// Variables with their uses; the data's and the output's axes, the batch left out.
    uses: &'static [(&'static str, u8)],
    bindings: &'static [&'static [(&'static str, i64)]],
    output: &'static [&'static str],
    data: &'static [&'static str],
    /// Sums per operator, and weights.
    reductions: usize,
    weights: usize,
}

pub const REQUESTS: [Request; 3] = [
    Request {
        name: "1-D, equal channels",
        uses: &[("C", 1), ("H", 0), ("k", 2)],
        bindings: &[&[("C", 9), ("H", 18), ("k", 3)], &[("C", 18), ("H", 9), ("k", 3)]],
        output: &["C", "H"],
        data: &["C", "H"],
        reductions: 2,
        weights: 2,
    },
    Request {
        name: "2-D, Ci to Co, H and W",
        uses: &[("Ci", 1), ("Co", 1), ("H", 0), ("W", 0), ("k", 1)],
        bindings: &[&[("Ci", 6), ("Co", 9), ("H", 12), ("W", 15), ("k", 3)]],
        output: &["Co", "H", "W"],
        data: &["Ci", "H", "W"],
        reductions: 2,
        weights: 1,
    },
    Request {
        name: "1-D, halved",
        uses: &[("C", 1), ("H", 0), ("s", 2)],
        bindings: &[&[("C", 6), ("H", 8), ("s", 2)]],
        output: &["C", "H"],
        data: &["C", "s*H"],
        reductions: 2,
        weights: 1,
    },
];

impl Request {
    /// # Panics
    /// On a request that is none.
    pub fn space(&self, depth: usize, row: &Row) -> Space {
        let bindings: Vec<Binding> = self.bindings.iter().map(|b| Binding::of(&[&[("N", 1)], *b].concat())).collect();
        let mut sizes = Sizes::new(&[&[("N", 0)], self.uses].concat(), &bindings).expect("variables with values");
        (sizes.max_variables, sizes.max_powers, sizes.n_per_variable) = (3, 3, 3);
        let axis = |text: &&str| {
            let factors = std::iter::once("N").filter(|n| text == n).chain(text.split('*').filter(|_| *text != "N"));
            let size = factors.map(|f| sizes.variables().size(f).expect("a variable")).reduce(|a, b| a.times(b)).expect("a factor");
            Axis { size, unordered: text.starts_with('C') }
        };
        let axes = |texts: &[&str]| [&["N"], texts].concat().iter().map(axis).collect::<Vec<Axis>>();
        let (output, data) = (axes(self.output), axes(self.data));
        let shapes = Shapes { places: (2..output.len()).collect(), output, data, fixed: vec![(0, 0)], channels: Some((1, 1)) };
        let most = Most { merges: 2, splits: 2, shifts: 2, strides: 1, unfolds: 2, expands: 2, shares: 8 };
        let options = Options {
            depth,
            tensors: self.weights + 1,
            reductions: self.reductions,
            rank: (1, 1 << 10),
            max_pooling: 1 << 10,
            most,
            ..Options::ours()
        };
        let mut space = Space::new(shapes, sizes, bindings, options).expect("fixed axes are equal");
        space.options.off = RuleSet::of(Rule::ALL).without(&LIMITS).without(&row.on);
        (space.options.interchange, space.options.survivors) = (row.interchange, row.survivors);
        space
    }

    /// The same with one action, and one of each kind, more.
    pub fn larger(&self, depth: usize, row: &Row) -> Space {
        let mut space = self.space(depth + 1, row);
        space.options.reductions += 1;
        let most = &mut space.options.most;
        (most.merges, most.splits) = (most.merges + 1, most.splits + 1);
        space
    }
}

/// What an enumeration found.
#[derive(Default)]
pub struct Census {
    pub n_states: usize,
    /// Actions taken in them, duplicates included.
    pub n_arcs: usize,
    /// The operators by their lines, with a way to each.
    pub operators: BTreeMap<String, String>,
}

/// Every action that might be one.
fn actions(space: &Space, state: &Partial) -> Vec<Action> {
    let mut all = Vec::new();
    let dims: Vec<_> = state.frontier.iter().map(|t| t.dim).collect();
    let free = space.sizes().free(&state.allowance);
    all.extend(free.iter().map(|&s| Action::Reduce(s)));
    for &a in &dims {
        for &b in dims.iter().filter(|&&b| b != a) {
            all.extend([Action::Split(a, b), Action::Unfold(a, b)]);
        }
        let blocks = space.sizes().divisors(space.graph().size(a), &state.allowance);
        all.extend(blocks.into_iter().map(|block| Action::Merge(a, block)));
        all.push(Action::Shift(a));
        // to repeat a sum is a constant factor, which weights have room for
        if state.top(a).is_some_and(|t| !t.sums_only) {
            all.push(Action::Expand(a));
        }
        all.extend(free.iter().map(|&s| Action::Stride(a, s)));
    }
    let mut choices: Vec<Vec<_>> = vec![vec![]];
    for &d in &dims {
        let with = |axes: &Vec<_>, axis: Option<bool>| axes.iter().copied().chain(axis.map(|outer| (d, outer))).collect::<Vec<_>>();
        choices = choices.iter().flat_map(|axes| [None, Some(false), Some(true)].map(|axis| with(axes, axis))).collect();
    }
    all.extend(choices.into_iter().filter(|axes| !axes.is_empty()).map(Action::Contract));
    all
}

/// Breadth first, equal states once.
pub fn census(space: &mut Space) -> Census {
    let mut found = Census::default();
    let mut states = vec![(space.root(), String::new())];
    for _ in 0..=space.options.depth {
        let (mut next, mut seen) = (Vec::new(), HashSet::new());
        for (state, way) in &states {
            found.n_states += 1;
            for (_, operator) in space.finals(state) {
                found.operators.entry(operator.to_string()).or_insert_with(|| way.clone());
            }
            for action in actions(space, state) {
                let Ok(child) = space.child(state, &action) else { continue };
                found.n_arcs += 1;
                if seen.insert(child.identity()) {
                    let way = format!("{way} {}", space.print_action(state, &action));
                    next.push((child, way));
                }
            }
        }
        states = next;
    }
    found
}

/// Fingerprints of lines, each computed once.
pub struct Functions {
    sizes: Vec<Binding>,
    known: HashMap<String, Fingerprint>,
    /// By function, what it is up to the order of channels.
    loose: HashMap<Fingerprint, u64>,
}

impl Functions {
    /// # Panics
    /// On bindings without values.
    pub fn new(bindings: &[Binding]) -> Functions {
        Functions { sizes: small_bindings(bindings).expect("bindings have small ones"), known: HashMap::new(), loose: HashMap::new() }
    }

    /// # Panics
    /// On lines that are no operators.
    pub fn of(&mut self, line: &str) -> Fingerprint {
        if let Some(&known) = self.known.get(line) {
            return known;
        }
        let operator = Operator::parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let function = fingerprint(&operator, &self.sizes).unwrap_or_else(|e| panic!("{line}: {e}"));
        self.known.insert(line.to_string(), function);
        function
    }

    pub fn loose(&mut self, line: &str) -> u64 {
        let function = self.of(line);
        if let Some(&known) = self.loose.get(&function) {
            return known;
        }
        let operator = Operator::parse(line).unwrap_or_else(|e| panic!("{line}: {e}"));
        let found = loose(&operator, &self.sizes);
        self.loose.insert(function, found);
        found
    }

    pub fn set<'a>(&mut self, lines: impl IntoIterator<Item = &'a String>) -> BTreeSet<Fingerprint> {
        lines.into_iter().map(|line| self.of(line)).collect()
    }

    pub fn classes<'a>(&mut self, lines: impl IntoIterator<Item = &'a String>) -> BTreeSet<u64> {
        lines.into_iter().map(|line| self.loose(line)).collect()
    }
}
