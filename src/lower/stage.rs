//! From an operator to its loop nest: which stages compute it, and with which indices (Syno, sections 6.2 and 6.3).
//!
//! A *cut* is the set of dims that index the tensor computed so far: first the data's axes, at the end the outputs.
//! Each stage multiplies a group of weights in (or none), opens the dims that those weights name and those that stand before
//! the sums it takes, and sums. Shifts, merges, windows are indices of the stage that reads them and cost nothing.
//!
//! All sequences of stages are compared, by what they cost, with the best of every state kept.

use super::index::Index;
use super::loops::{Access, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
use crate::error::{Result, invalid};
use crate::synth::{Binding, Dim, Graph, Operator, Prim};
use std::collections::HashMap;

/// A multiplication and an addition.
const FLOPS_PER_MAC: u64 = 2;

/// Bytes of intermediates that weigh as much as one FLOP. A core with two 256-bit multiply-add units does 32 FLOPs in a cycle
/// and moves 64 bytes between its registers and the L2 cache, where the intermediates of one layer mostly fit.
const BYTES_PER_FLOP: u64 = 2;

/// An f32, written once and read back once.
const BYTES_PER_TEMP: u64 = 8;

/// Sums behind windows and merges up to which a stage may take any set of them; of more it takes none, the nearest or all, until
/// no more than these are left. With 3 weights about 3^(6 + 3) stages are compared at most, in milliseconds; a depth of 12 has
/// room for no more than 6 windows that are summed.
const MAX_HIDDEN: usize = 6;

/// What stages cost that do `macs` multiply-adds and store `temps` elements in between.
fn price(macs: u64, temps: u64) -> u64 {
    (FLOPS_PER_MAC.saturating_mul(macs)).saturating_add(temps.saturating_mul(BYTES_PER_TEMP) / BYTES_PER_FLOP)
}

/// What [`lower`] minimises: FLOPs, plus the bytes that intermediates move at half a FLOP each.
pub fn cost(nest: &LoopNest) -> u64 {
    let temps = nest.tensors.iter().filter(|t| t.role == Role::Temp).map(|t| t.n_elements() as u64).sum();
    price(nest.n_macs(), temps)
}

/// One stage before it has numbers.
#[derive(Clone, Debug, PartialEq)]
struct Plan {
    from: Vec<Dim>,
    weights: Vec<usize>,
    to: Vec<Dim>,
    sums: Vec<Dim>,
}

/// Between two stages: what indexes the tensor so far, and what is still to come.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    cut: Vec<Dim>,
    weights: Vec<usize>,
    sums: Vec<Dim>,
}

/// The cheapest loop nest of an operator at fixed sizes; of equals the one of fewest stages, then the first in the order of the
/// operator's weights and sums.
///
/// # Errors
/// A size that is not a whole number under the binding.
pub fn lower(operator: &Operator, binding: &Binding) -> Result<LoopNest> {
    operator.check_binding(binding)?;
    let mut sizes = HashMap::new();
    for d in operator.dims() {
        sizes.insert(d, operator.graph().size(d).evaluate(operator.variables(), binding)? as u64);
    }
    let mut search = Search { operator, sizes, known: HashMap::new() };
    let (_, plans) = search.rest(&State::start(operator));
    build(operator, binding, &plans)
}

/// The one-stage loop nest: the operator as its text says it, nothing stored in between.
///
/// # Errors
/// As [`lower`].
pub fn lower_flat(operator: &Operator, binding: &Binding) -> Result<LoopNest> {
    operator.check_binding(binding)?;
    build(operator, binding, &[State::start(operator).finish(operator)])
}

/// The loop nests that [`lower`] chooses from, the one-stage nest first; the first `most` of them.
///
/// # Errors
/// As [`lower`].
pub fn stagings(operator: &Operator, binding: &Binding, most: usize) -> Result<Vec<LoopNest>> {
    operator.check_binding(binding)?;
    let mut nests = Vec::new();
    let mut ahead = vec![(Vec::new(), State::start(operator))];
    while let Some((plans, state)) = ahead.pop().filter(|_| nests.len() < most) {
        nests.push(build(operator, binding, &[&plans[..], &[state.finish(operator)]].concat())?);
        let longer = state.steps(operator).into_iter().map(|(plan, next)| ([&plans[..], &[plan]].concat(), next));
        ahead.extend(longer);
    }
    Ok(nests)
}

/// The cheapest stages from every state met so far.
struct Search<'a> {
    operator: &'a Operator,
    sizes: HashMap<Dim, u64>,
    known: HashMap<State, (u64, Vec<Plan>)>,
}

impl Search<'_> {
    fn rest(&mut self, state: &State) -> (u64, Vec<Plan>) {
        if let Some(known) = self.known.get(state) {
            return known.clone();
        }
        let last = state.finish(self.operator);
        let mut best = (price(self.macs(&last), 0), vec![last]);
        for (plan, next) in state.steps(self.operator) {
            let own = price(self.macs(&plan), self.elements(&plan.to));
            if own >= best.0 {
                continue;
            }
            let (rest, mut plans) = self.rest(&next);
            plans.insert(0, plan);
            let cost = own.saturating_add(rest);
            if (cost, plans.len()) < (best.0, best.1.len()) {
                best = (cost, plans);
            }
        }
        self.known.insert(state.clone(), best.clone());
        best
    }

    fn elements(&self, dims: &[Dim]) -> u64 {
        dims.iter().fold(1, |n, d| n.saturating_mul(self.sizes[d]))
    }

    /// As [`Stage::n_macs`].
    fn macs(&self, plan: &Plan) -> u64 {
        let iterations = self.elements(&plan.to).saturating_mul(self.elements(&plan.sums));
        iterations.saturating_mul(plan.weights.len().max(1) as u64)
    }
}

impl State {
    fn start(operator: &Operator) -> State {
        let weights = (0..operator.weights().len()).collect();
        State { cut: operator.data().to_vec(), weights, sums: operator.sums().to_vec() }
    }

    /// The last stage: whatever is still to come.
    fn finish(&self, operator: &Operator) -> Plan {
        Plan { from: self.cut.clone(), weights: self.weights.clone(), to: operator.outputs().to_vec(), sums: self.sums.clone() }
    }

    /// Every stage that leaves something to others, with the state after it.
    fn steps(&self, operator: &Operator) -> Vec<(Plan, State)> {
        let graph = operator.graph();
        let mut steps: Vec<(Plan, State)> = Vec::new();
        for group in subsets(&self.weights) {
            let later: Vec<usize> = self.weights.iter().copied().filter(|w| !group.contains(w)).collect();
            let needed = |&sum: &Dim| later.iter().flat_map(|&w| &operator.weights()[w]).any(|&d| graph.depends(d, sum));
            let ready: Vec<Dim> = self.sums.iter().copied().filter(|s| !needed(s)).collect();
            let mut cut = self.cut.clone();
            for &d in group.iter().flat_map(|&w| &operator.weights()[w]) {
                expose(graph, &mut cut, d);
            }
            let hidden: Vec<Dim> = ready.iter().copied().filter(|&s| without(graph, &cut, s, false).is_none()).collect();
            let n_axes = |&s: &Dim| without(graph, &cut, s, true).map(|rest| rest.len());
            let choices = match hidden.iter().copied().min_by_key(n_axes) {
                Some(nearest) if hidden.len() > MAX_HIDDEN => vec![vec![], vec![nearest], hidden],
                _ => subsets(&hidden),
            };
            for chosen in choices {
                let mut cut = cut.clone();
                let mut sums = Vec::new();
                // what stands free is summed at once: the stage costs the same and all later ones less
                let free = ready.iter().filter(|s| !chosen.contains(s)).map(|&s| (s, false));
                for (sum, everything) in chosen.iter().map(|&s| (s, true)).chain(free) {
                    if let Some(rest) = without(graph, &cut, sum, everything) {
                        cut = rest;
                        sums.push(sum);
                    }
                }
                if later.is_empty() {
                    cut.sort_by_key(|&d| operator.outputs().iter().position(|&o| graph.depends(d, o)));
                }
                sums.sort_by_key(|s| self.sums.iter().position(|t| t == s));
                let plan = Plan { from: self.cut.clone(), weights: group.clone(), to: cut.clone(), sums };
                let idle = plan.weights.is_empty() && plan.sums.is_empty();
                if !idle && !steps.iter().any(|s| s.0 == plan) {
                    let sums = self.sums.iter().copied().filter(|s| !plan.sums.contains(s)).collect();
                    steps.push((plan, State { cut, weights: later.clone(), sums }));
                }
            }
        }
        steps
    }
}

/// All subsets, the empty one first.
fn subsets<T: Copy>(of: &[T]) -> Vec<Vec<T>> {
    let pick = |mask: usize| of.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, &t)| t).collect();
    (0..1 << of.len()).map(pick).collect()
}

/// Can `d`'s coordinate be computed from those of the cut?
fn computable(graph: &Graph, cut: &[Dim], d: Dim) -> bool {
    cut.contains(&d) || {
        let mut below = graph.prim(d).consumed().peekable();
        below.peek().is_some() && below.all(|b| computable(graph, cut, b))
    }
}

/// Replaces one dim of the cut by the dims it was made of.
fn open(graph: &Graph, cut: &mut Vec<Dim>, place: usize) {
    let d = cut.remove(place);
    let prim = graph.prim(d);
    let mut at = place;
    for below in prim.consumed() {
        if !cut.contains(&below) {
            cut.insert(at.min(cut.len()), below);
            at += 1;
        }
    }
    // the other part of a merge is known from the whole as well
    cut.retain(|&other| match (prim, graph.prim(other)) {
        (Prim::Outer(x, n), Prim::Inner(y, m)) | (Prim::Inner(x, n), Prim::Outer(y, m)) => (x, n) != (y, m),
        _ => true,
    });
}

/// Opens the cut until `d` can be computed from it; a dim that is nowhere below the cut joins it.
fn expose(graph: &Graph, cut: &mut Vec<Dim>, d: Dim) {
    while !computable(graph, cut, d) {
        match cut.iter().position(|&c| c != d && graph.depends(c, d)) {
            Some(place) => open(graph, cut, place),
            None => cut.push(d),
        }
    }
}

/// The cut after a sum is taken, where that can be: what stands before it is opened, reshapes only, which keep the number of
/// elements, or everything.
fn without(graph: &Graph, cut: &[Dim], sum: Dim, everything: bool) -> Option<Vec<Dim>> {
    let mut cut = cut.to_vec();
    let before = |&c: &Dim| c != sum && graph.depends(c, sum);
    while let Some(place) = cut.iter().position(before) {
        if !everything && !matches!(graph.prim(cut[place]), Prim::Split(..) | Prim::Shift(_)) {
            return None;
        }
        open(graph, &mut cut, place);
    }
    let place = cut.iter().position(|&d| d == sum)?;
    cut.remove(place);
    Some(cut)
}

fn build(operator: &Operator, binding: &Binding, plans: &[Plan]) -> Result<LoopNest> {
    let size = |d: Dim| operator.graph().size(d).evaluate(operator.variables(), binding);
    let shape = |dims: &[Dim]| dims.iter().map(|&d| size(d)).collect::<Result<Vec<i64>>>();
    let mut names = operator.names();
    let mut tensors = vec![Tensor { name: "x".into(), shape: shape(operator.data())?, role: Role::Input }];
    for (i, axes) in operator.weights().iter().enumerate() {
        tensors.push(Tensor { name: format!("w{}", i + 1), shape: shape(axes)?, role: Role::Weight });
    }
    let mut stages = Vec::new();
    let mut current = 0;
    for (i, plan) in plans.iter().enumerate() {
        let last = i + 1 == plans.len();
        let (name, role) = if last { ("y".to_string(), Role::Output) } else { (format!("t{}", i + 1), Role::Temp) };
        tensors.push(Tensor { name, shape: shape(&plan.to)?, role });
        let output = tensors.len() - 1;
        let mut known: Vec<(Dim, Index)> = Vec::new();
        let mut loops = |dims: &[Dim]| -> Result<Vec<Loop>> {
            let make = |&d: &Dim| {
                known.push((d, Index::Var(known.len())));
                if !names.iter().any(|n| n.0 == d) {
                    names.push((d, format!("v{}", names.len())));
                }
                let name = names.iter().find(|n| n.0 == d).map_or(String::new(), |n| n.1.clone());
                Ok(Loop { name, extent: size(d)? })
            };
            dims.iter().map(make).collect()
        };
        let axes = loops(&plan.to)?;
        let sums = loops(&plan.sums)?;
        let mut walk = Coordinates { operator, binding, known: &known, guards: Vec::new() };
        let data = Access { tensor: current, index: walk.all(&plan.from)? };
        let mut factors = vec![Expr::Load(data)];
        for &w in &plan.weights {
            factors.push(Expr::Load(Access { tensor: w + 1, index: walk.all(&operator.weights()[w])? }));
        }
        let guards = walk.guards;
        let body = if factors.len() == 1 { factors.remove(0) } else { Expr::Mul(factors) };
        stages.push(Stage { output, axes, sums, reduction: Reduction::Sum, guards, body });
        current = output;
    }
    Ok(LoopNest { name: operator.id(), tensors, stages })
}

/// The coordinate rules of the primitives, from the dims of a cut to those above.
struct Coordinates<'a> {
    operator: &'a Operator,
    binding: &'a Binding,
    known: &'a [(Dim, Index)],
    guards: Vec<Guard>,
}

impl Coordinates<'_> {
    fn all(&mut self, dims: &[Dim]) -> Result<Vec<Index>> {
        dims.iter().map(|&d| self.index(d)).collect()
    }

    fn index(&mut self, d: Dim) -> Result<Index> {
        if let Some(known) = self.known.iter().find(|k| k.0 == d) {
            return Ok(known.1.clone());
        }
        let graph = self.operator.graph();
        let value = |s: crate::synth::Size| s.evaluate(self.operator.variables(), self.binding);
        Ok(match graph.prim(d) {
            Prim::Output(_) | Prim::Reduce(_) => {
                return invalid(format!("a stage of {} misses an axis: report this operator", self.operator));
            }
            Prim::Split(l, r) => {
                let block = value(graph.size(r))?;
                self.index(l)?.times(block).add(self.index(r)?)
            }
            Prim::Outer(x, block) => {
                let block = value(block)?;
                self.index(x)?.over(block)
            }
            Prim::Inner(x, block) => {
                let block = value(block)?;
                self.index(x)?.modulo(block)
            }
            Prim::Shift(x) => {
                let size = value(graph.size(x))?;
                self.index(x)?.plus(1).modulo(size)
            }
            Prim::Stride(x, step) => {
                let step = value(step)?;
                self.index(x)?.times(step)
            }
            Prim::Unfold(main, window) => {
                let (extent, size) = (value(graph.size(main))?, value(graph.size(window))?);
                let index = self.index(main)?.add(self.index(window)?).plus(-(size / 2));
                let guard = Guard { index: index.clone(), extent };
                if size > 1 && !self.guards.contains(&guard) {
                    self.guards.push(guard);
                }
                index
            }
        })
    }
}
