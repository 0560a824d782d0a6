//! A seeded generator of finished operators by random walks from the output to the input.
//!
//! The walks are lightly guided: reductions first, then actions drawn with fixed weights, each refused by name where it
//! could only repeat or undo another (a few of Syno's canonical rules, section 5). Every operator returned is sound:
//! it fits the data's shape, divides under every binding, and keeps the budgets.

use super::child_seed;
use super::graph::{Dim, Graph};
use super::operator::Operator;
use super::partial::{Action, Partial};
use super::prim::Prim;
use super::size::{Binding, Size, Variables};
use crate::error::{Result, invalid};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Walks without a new operator after which a space is called exhausted.
const MAX_WALKS: usize = 300_000;

/// Short walks find operators that move data along one axis of the image far more often than along both, and those serve
/// worse: this share of them is refused.
const REFUSE_ONE_WAY: f64 = 0.8;

/// What operators are asked for.
#[derive(Clone, Debug)]
pub struct Space {
    /// Output and data axes, batch first: `N, Co, H, W` and `N, Ci, H, W`.
    pub output: Vec<Size>,
    pub data: Vec<Size>,
    pub variables: Variables,
    /// The small constants that sizes may use.
    pub coefficients: Vec<Size>,
    /// One per distinct slot; an operator must be legal under all of them.
    pub bindings: Vec<Binding>,
    /// Primitives per operator, contractions counted once each.
    pub max_depth: usize,
    pub max_weights: usize,
    /// Elements of all weights, per binding.
    pub max_params: Vec<u64>,
}

impl Space {
    /// The space of replacements of a 3×3 convolution in the given slots, with at most its parameters.
    ///
    /// # Errors
    /// No binding; a coefficient that has no value or divides nothing.
    pub fn of_conv(bindings: Vec<Binding>, coefficients: &[String], max_depth: usize, max_weights: usize) -> Result<Space> {
        let Some(first) = bindings.first() else {
            return invalid("no slot to fill: name at least one in [slots]");
        };
        let same_channels = bindings.iter().all(|b| b.0.get("Ci") == b.0.get("Co"));
        let names = ["N", "Ci", "Co", "H", "W"].into_iter().map(String::from).chain(coefficients.iter().cloned());
        let variables = Variables::new(names)?;
        for b in &bindings {
            variables.values(b)?;
        }
        let size = |name: &str| variables.size(name).ok_or_else(|| crate::error::Error::Invalid(format!("no variable {name} in {first}")));
        // where every slot keeps its channels, Ci and Co are one variable, and depthwise weights become possible
        let (ci, co) = if same_channels { (size("Ci")?, size("Ci")?) } else { (size("Ci")?, size("Co")?) };
        let (n, h, w) = (size("N")?, size("H")?, size("W")?);
        let coefficients = coefficients.iter().map(|c| size(c)).collect::<Result<Vec<_>>>()?;
        let conv = |b: &Binding| ["Ci", "Co"].iter().map(|n| b.0.get(*n).copied().unwrap_or(1) as u64).product::<u64>() * 9;
        let max_params = bindings.iter().map(conv).collect();
        Ok(Space {
            output: vec![n, co, h, w],
            data: vec![n, ci, h, w],
            variables,
            coefficients,
            bindings,
            max_depth,
            max_weights,
            max_params,
        })
    }
}

/// Makes operators of a [`Space`], each at most once.
pub struct Synthesizer {
    space: Space,
    values: Vec<Vec<i64>>,
    rng: ChaCha8Rng,
    seen: BTreeSet<String>,
    /// Why walks ended without an operator, and how often.
    pub refused: BTreeMap<&'static str, u64>,
    pub n_walks: u64,
}

impl Synthesizer {
    /// # Errors
    /// A variable without a value in some binding.
    pub fn new(space: Space, seed: u64) -> Result<Synthesizer> {
        let values = space.bindings.iter().map(|b| space.variables.values(b)).collect::<Result<Vec<_>>>()?;
        let rng = ChaCha8Rng::seed_from_u64(child_seed(seed, "synthesizer"));
        Ok(Synthesizer { space, values, rng, seen: BTreeSet::new(), refused: BTreeMap::new(), n_walks: 0 })
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Operators that [`Synthesizer::next`] must not return again.
    pub fn exclude(&mut self, id: String) {
        self.seen.insert(id);
    }

    /// The next new operator; `None` when 300,000 walks found none.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Operator> {
        for _ in 0..MAX_WALKS {
            self.n_walks += 1;
            match self.walk() {
                Ok(operator) => return Some(operator),
                Err(reason) => *self.refused.entry(reason).or_default() += 1,
            }
        }
        None
    }

    /// Whole and ≥ 1 in every binding.
    fn divides(&self, size: Size) -> bool {
        self.values.iter().all(|v| size.whole(v).is_some())
    }

    /// Exact values of a size in all bindings compare so in every one.
    fn all(&self, a: Size, b: Size, holds: impl Fn(i64, i64) -> bool) -> bool {
        self.values.iter().all(|v| match (a.whole(v), b.whole(v)) {
            (Some(a), Some(b)) => holds(a, b),
            _ => false,
        })
    }

    fn walk(&mut self) -> Result<Operator, &'static str> {
        let mut graph = Graph::new(self.space.variables.clone());
        let outputs: Vec<Dim> = self.space.output.clone().iter().enumerate().map(|(i, &s)| graph.leaf(Prim::Output(i as u8), s)).collect();
        // the batch is not searched
        let mut state = Partial { frontier: outputs[1..].to_vec(), ..Partial::default() };
        for size in self.reductions() {
            state = state.apply(&mut graph, &Action::Reduce(size));
        }
        loop {
            if let Some(data) = self.matched(&graph, &state)
                && (state.n_actions >= self.space.max_depth || self.rng.random_bool(0.7))
            {
                return self.finish(graph, &outputs, data, state);
            }
            if state.n_actions >= self.space.max_depth {
                return Err("depth");
            }
            let Some(action) = self.action(&graph, &state) else { return Err("no action") };
            state = state.apply(&mut graph, &action);
        }
    }

    /// A random list of summed sizes: channels or a part of them, then small ones.
    fn reductions(&mut self) -> Vec<Size> {
        let ci = self.space.data[1];
        let coefficients = self.space.coefficients.clone();
        let mut sizes = Vec::new();
        if self.rng.random_bool(0.9) {
            let whole = self.rng.random_bool(0.5);
            sizes.push(if whole { ci } else { coefficients.choose(&mut self.rng).map_or(ci, |&c| ci.over(c)) });
        }
        for _ in 0..self.rng.random_range(0..4) {
            sizes.extend(coefficients.choose(&mut self.rng));
        }
        if self.space.max_weights > 1 && self.rng.random_bool(0.25) {
            // a rank axis
            sizes.extend(coefficients.choose(&mut self.rng).map(|&c| ci.over(c)));
        }
        sizes.retain(|&s| self.divides(s));
        sizes
    }

    /// The frontier in the order of the data's axes, when it fits them exactly.
    fn matched(&mut self, graph: &Graph, state: &Partial) -> Option<Vec<Dim>> {
        let wanted = &self.space.data[1..];
        if state.frontier.len() != wanted.len() || state.weights.is_empty() {
            return None;
        }
        let mut free = state.frontier.clone();
        let mut data = Vec::new();
        for &size in wanted {
            let fits: Vec<usize> = (0..free.len()).filter(|&i| graph.size(free[i]) == size).collect();
            // among equally large dims, the one that comes from this output axis, else any
            let place = *fits.first()?;
            data.push(free.remove(place));
        }
        Some(data)
    }

    fn finish(&mut self, graph: Graph, outputs: &[Dim], data: Vec<Dim>, state: Partial) -> Result<Operator, &'static str> {
        let below = |d: Dim, sum: Dim| graph.depends(d, sum);
        for &sum in &state.sums {
            let in_data = data.iter().any(|&d| below(d, sum));
            let n_weights = state.weights.iter().filter(|w| w.iter().any(|&d| below(d, sum))).count();
            if !in_data && n_weights < 2 {
                return Err("sum over one weight alone");
            }
            if in_data
                && n_weights == 0
                && graph.size(sum).is_coefficient(&self.space.variables)
                && data.iter().any(|&d| matches!(graph.prim(d), Prim::Unfold(_, w) if w == sum))
            {
                return Err("window without a weight");
            }
        }
        for (i, a) in state.weights.iter().enumerate() {
            if state.weights.iter().enumerate().any(|(j, b)| i != j && a.iter().all(|d| b.contains(d))) {
                return Err("a weight that another one contains");
            }
            let twin = |&d: &Dim| matches!(graph.prim(d), Prim::Outer(x, n) if a.iter().any(|&e| graph.prim(e) == Prim::Inner(x, n)));
            if a.iter().any(twin) {
                return Err("a weight reshaped");
            }
        }
        // places exchange data where an axis of the image is not read as it is
        let n_moved = outputs[2..].iter().filter(|&&o| data.iter().any(|&d| d != o && below(d, o))).count();
        if n_moved == 0 {
            return Err("no exchange between places");
        }
        if n_moved < outputs.len() - 2 && self.rng.random_bool(REFUSE_ONE_WAY) {
            return Err("exchange in one direction only (refused at random)");
        }
        let channel = outputs[1];
        let reads_channel = data.iter().chain(state.weights.iter().flatten()).any(|&d| below(d, channel));
        if !reads_channel {
            return Err("the same output in every channel");
        }
        // a weight with the output's channel and only small sums gives every channel one of a few combinations
        let small = |&d: &Dim| {
            graph.below(d).iter().all(|&b| !matches!(graph.prim(b), Prim::Reduce(_)) || graph.size(b).is_coefficient(&self.space.variables))
        };
        let in_data = data.iter().any(|&d| below(d, channel));
        if !in_data && state.weights.iter().filter(|w| w.iter().any(|&d| below(d, channel))).all(|w| w.iter().all(small)) {
            return Err("channels meet through small axes only");
        }
        let ci = self.space.data[1];
        let mixes = state.sums.iter().any(|&s| !graph.size(s).is_coefficient(&self.space.variables)) || self.space.output[1] == ci;
        if !mixes {
            return Err("channels are not mixed");
        }
        let mut whole = vec![outputs[0]];
        whole.extend(data);
        let operator = Operator::new(graph, outputs.to_vec(), state.sums, whole, state.weights).map_err(|_| "not legal")?;
        for (binding, &most) in self.space.bindings.iter().zip(&self.space.max_params) {
            match operator.n_params(binding) {
                Ok(n) if n <= most => {}
                Ok(_) => return Err("parameters over budget"),
                Err(_) => return Err("a size does not divide"),
            }
        }
        if !self.seen.insert(operator.id()) {
            return Err("seen before");
        }
        Ok(operator)
    }

    fn action(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        // a few draws: most kinds have a legal place in most states
        for _ in 0..12 {
            let action = match self.rng.random_range(0..100) {
                0..30 => self.contract(graph, state),
                30..55 => self.unfold(graph, state),
                55..75 => self.split(graph, state),
                75..87 => self.merge(graph, state),
                87..94 => self.shift(graph, state),
                94..97 => self.stride(graph, state),
                _ => self.expand(graph, state),
            };
            if action.is_some() {
                return action;
            }
        }
        None
    }

    fn pick(&mut self, state: &Partial) -> Option<Dim> {
        state.frontier.choose(&mut self.rng).copied()
    }

    fn contract(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        if state.weights.len() >= self.space.max_weights {
            return None;
        }
        let variables = &self.space.variables;
        let mut axes = Vec::new();
        for &d in &state.frontier {
            let spatial = matches!(graph.prim(d), Prim::Output(i) if i >= 2) || matches!(graph.prim(d), Prim::Unfold(..));
            let is_output = graph.below(d).iter().any(|&b| matches!(graph.prim(b), Prim::Output(_)));
            let is_rank = !is_output && !graph.size(d).is_coefficient(variables);
            let inner = if spatial {
                0.03
            } else if is_output {
                0.35
            } else {
                0.8
            };
            let outer = if spatial {
                0.0
            } else if is_output || (is_rank && state.is_shared(d)) {
                0.5
            } else {
                0.0
            };
            if self.rng.random_bool(outer) {
                axes.push((d, true));
            } else if self.rng.random_bool(inner) {
                axes.push((d, false));
            }
        }
        // a weight without a summed axis only scales
        let sums = axes.iter().any(|a| graph.below(a.0).iter().any(|&b| matches!(graph.prim(b), Prim::Reduce(_))));
        let repeats = state.weights.iter().any(|w| axes.iter().all(|a| w.contains(&a.0)));
        (sums && !repeats).then_some(Action::Contract(axes))
    }

    fn unfold(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        let (main, window) = (self.pick(state)?, self.pick(state)?);
        let window_ok = match graph.prim(window) {
            Prim::Reduce(_) => state.is_shared(window),
            Prim::Stride(x, _) => state.is_shared(x),
            Prim::Inner(..) => true,
            _ => false,
        };
        let main_ok = graph.below(main).iter().any(|&b| matches!(graph.prim(b), Prim::Output(i) if i >= 2));
        let fits = self.all(graph.size(main), graph.size(window), |m, w| m >= w && w > 1);
        (main != window && window_ok && main_ok && fits && graph.size(window).is_coefficient(&self.space.variables))
            .then_some(Action::Unfold(main, window))
    }

    fn split(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        let (l, r) = (self.pick(state)?, self.pick(state)?);
        let undoes = matches!((graph.prim(l), graph.prim(r)), (Prim::Outer(x, n), Prim::Inner(y, m)) if (x, n) == (y, m));
        let both_sums =
            matches!((graph.prim(l), graph.prim(r)), (Prim::Reduce(_), Prim::Reduce(_))) && !state.is_shared(l) && !state.is_shared(r);
        let leans_left = matches!(graph.prim(l), Prim::Split(..));
        // the product must be able to become an axis of the data
        let size = graph.size(l).times(graph.size(r));
        let useful = self.space.data[1..].contains(&size)
            || self
                .space
                .coefficients
                .iter()
                .any(|&c| self.space.data[1..].contains(&size.times(c)) || self.space.data[1..].contains(&size.over(c)));
        (l != r && !undoes && !both_sums && !leans_left && useful && self.divides(size)).then_some(Action::Split(l, r))
    }

    fn merge(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        let x = self.pick(state)?;
        let of_sum = matches!(graph.prim(x), Prim::Reduce(_) | Prim::Split(..) | Prim::Outer(..));
        let &c = self.space.coefficients.choose(&mut self.rng)?;
        let size = graph.size(x);
        let block = if self.rng.random_bool(0.5) { c } else { size.over(c) };
        let legal = self.divides(block) && self.divides(size.over(block)) && self.all(size, block, |x, b| b > 1 && b < x);
        (!of_sum && legal && !size.over(block).divides_by_primary(&self.space.variables)).then_some(Action::Merge(x, block))
    }

    fn shift(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        let x = self.pick(state)?;
        let refused = matches!(graph.prim(x), Prim::Reduce(_) | Prim::Shift(_) | Prim::Output(0 | 1));
        let spatial = graph.below(x).iter().any(|&b| matches!(graph.prim(b), Prim::Output(i) if i >= 2));
        (!refused && spatial).then_some(Action::Shift(x))
    }

    fn stride(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        let x = self.pick(state)?;
        let &step = self.space.coefficients.choose(&mut self.rng)?;
        let window = matches!(graph.prim(x), Prim::Reduce(_)) && graph.size(x).is_coefficient(&self.space.variables) && state.is_shared(x);
        window.then_some(Action::Stride(x, step))
    }

    fn expand(&mut self, graph: &Graph, state: &Partial) -> Option<Action> {
        let x = self.pick(state)?;
        matches!(graph.prim(x), Prim::Inner(..)).then_some(Action::Expand(x))
    }
}
