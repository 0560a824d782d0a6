//! From an operator to its loop nest: which stages compute it, and with which indices (Syno, sections 6.2 and 6.3).
//!
//! A *cut* is the set of dims that index the tensor computed so far: first the data's axes, at the end the outputs.
//! Each stage multiplies a group of weights in, opens the dims that those weights name, and sums every reduction that
//! nothing later needs. All orders of the weights are tried and the cheapest kept.

use super::index::Index;
use super::loops::{Access, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};
use crate::error::{Result, invalid};
use crate::synth::{Binding, Dim, Graph, Operator, Prim};

/// Multiply-adds that writing and reading back one element of an intermediate is worth.
const TEMP_COST: u64 = 2;

/// One stage before it has numbers.
#[derive(Clone, Debug)]
struct Plan {
    from: Vec<Dim>,
    weights: Vec<usize>,
    to: Vec<Dim>,
    sums: Vec<Dim>,
}

/// What the stage of the last weights leaves to one more.
#[derive(Clone, Copy, PartialEq)]
enum Late {
    Nothing,
    /// Outputs are read from a smaller result where they repeat (blocks, up-sampling).
    Repeats,
    /// Sums behind windows and merges: what is summed first is smaller.
    Sums,
}

/// Sums that data alone decide, taken before any weight.
#[derive(Clone, Copy, PartialEq)]
enum Early {
    None,
    /// Those behind reshapes only: the intermediate is smaller than the data.
    Reshapes,
    /// All, windows included.
    All,
}

/// The cheapest loop nest of an operator at fixed sizes: multiply-adds plus the traffic of intermediates.
///
/// # Errors
/// A size that is not a whole number under the binding.
pub fn lower(operator: &Operator, binding: &Binding) -> Result<LoopNest> {
    operator.check_binding(binding)?;
    let mut best = None;
    for groups in ordered_partitions(operator.weights().len()) {
        for early in [Early::None, Early::Reshapes, Early::All] {
            for late in [Late::Nothing, Late::Repeats, Late::Sums] {
                let Some(plan) = plan(operator, &groups, early, late) else { continue };
                let nest = build(operator, binding, &plan)?;
                let temps: usize = nest.tensors.iter().filter(|t| t.role == Role::Temp).map(Tensor::n_elements).sum();
                let cost = (nest.n_macs() + TEMP_COST * temps as u64, nest.stages.len());
                if best.as_ref().is_none_or(|(c, _)| cost < *c) {
                    best = Some((cost, nest));
                }
            }
        }
    }
    match best {
        Some((_, nest)) => Ok(nest),
        None => invalid(format!("no order of stages computes {operator}: report this operator")),
    }
}

/// The one-stage loop nest: the operator as its text says it, nothing stored in between.
///
/// # Errors
/// As [`lower`].
pub fn lower_flat(operator: &Operator, binding: &Binding) -> Result<LoopNest> {
    operator.check_binding(binding)?;
    let all = Plan {
        from: operator.data().to_vec(),
        weights: (0..operator.weights().len()).collect(),
        to: operator.outputs().to_vec(),
        sums: operator.sums().to_vec(),
    };
    build(operator, binding, &[all])
}

/// All ways to put `n` weights into an ordered list of groups: 1, 3, 13 for 1, 2, 3; the empty list of none for 0.
fn ordered_partitions(n: usize) -> Vec<Vec<Vec<usize>>> {
    let mut all = vec![vec![]];
    for w in 0..n {
        let mut next = Vec::new();
        for groups in &all {
            for i in 0..groups.len() {
                let mut joined: Vec<Vec<usize>> = groups.clone();
                joined[i].push(w);
                next.push(joined);
            }
            for i in 0..=groups.len() {
                let mut apart = groups.clone();
                apart.insert(i, vec![w]);
                next.push(apart);
            }
        }
        all = next;
    }
    all
}

fn plan(operator: &Operator, groups: &[Vec<usize>], early: Early, late: Late) -> Option<Vec<Plan>> {
    let graph = operator.graph();
    let weights = operator.weights();
    let mut cut = operator.data().to_vec();
    let mut open_sums = operator.sums().to_vec();
    let mut plans = Vec::new();
    let needed = |groups: &[Vec<usize>], sum: Dim| groups.iter().flatten().flat_map(|&w| &weights[w]).any(|&d| graph.depends(d, sum));
    let mut step = |cut: &mut Vec<Dim>, group: &[usize], later: &[Vec<usize>], everything: bool| {
        let from = cut.clone();
        for &d in group.iter().flat_map(|&w| &weights[w]) {
            expose(graph, cut, d);
        }
        let mut sums = Vec::new();
        for &sum in open_sums.iter().filter(|&&s| !needed(later, s)) {
            open_reshapes(graph, cut, sum, everything);
            let alone = cut.contains(&sum) && !cut.iter().any(|&d| d != sum && graph.depends(d, sum));
            if alone {
                cut.retain(|&d| d != sum);
                sums.push(sum);
            }
        }
        open_sums.retain(|s| !sums.contains(s));
        Plan { from, weights: group.to_vec(), to: cut.clone(), sums }
    };
    if early != Early::None {
        let first = step(&mut cut, &[], groups, early == Early::All);
        if first.sums.is_empty() {
            return None;
        }
        plans.push(first);
    }
    for (i, group) in groups.iter().enumerate() {
        if i + 1 < groups.len() {
            plans.push(step(&mut cut, group, &groups[i + 1..], false));
        }
    }
    let mut last = groups.last().cloned().unwrap_or_default();
    if late != Late::Nothing {
        let mut result = step(&mut cut, &last, &[], late == Late::Repeats);
        let place = |d: &Dim| operator.outputs().iter().position(|&o| graph.depends(*d, o));
        cut.sort_by_key(place);
        result.to = cut.clone();
        let reached = cut.iter().all(|d| operator.outputs().contains(d));
        let useful =
            if late == Late::Repeats { !reached && open_sums.is_empty() } else { !result.sums.is_empty() && !open_sums.is_empty() };
        if !useful {
            return None;
        }
        plans.push(result);
        last.clear();
    }
    plans.push(Plan { from: cut, weights: last, to: operator.outputs().to_vec(), sums: open_sums });
    Some(plans)
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

/// Opens what stands between the cut and a summed axis: reshapes, which cost nothing, or everything.
fn open_reshapes(graph: &Graph, cut: &mut Vec<Dim>, sum: Dim, everything: bool) {
    loop {
        let above = |&c: &Dim| {
            let free = matches!(graph.prim(c), Prim::Split(..) | Prim::Shift(_));
            (free || everything) && c != sum && graph.depends(c, sum)
        };
        match cut.iter().position(above) {
            Some(place) => open(graph, cut, place),
            None => return,
        }
    }
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
