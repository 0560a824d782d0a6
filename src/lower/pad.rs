//! Takes borders out of reductions: a window's guard becomes a zero-padded copy of the data, as in hand-written convolutions.

use super::index::Index;
use super::loops::{Access, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};

/// How one axis of a tensor is widened: the old position is the new one plus `low`.
#[derive(Clone, Debug, PartialEq)]
struct Widened {
    axis: usize,
    low: i64,
    size: i64,
}

/// The same function without the guards that an index of a data tensor repeats: those tensors are first copied with a border
/// of zeros. Guards that always hold are dropped; guards that cannot be moved stay.
pub fn pad(nest: &LoopNest) -> LoopNest {
    let mut out = LoopNest { name: nest.name.clone(), tensors: nest.tensors.clone(), stages: Vec::new() };
    let mut copies: Vec<(usize, Vec<Widened>, usize)> = Vec::new();
    for stage in &nest.stages {
        let mut stage = stage.clone();
        let extents = stage.extents();
        stage.guards.retain(|g| {
            let (low, high) = g.index.range(&extents);
            low < 0 || high >= g.extent
        });
        stage.guards.dedup();
        if !stage.sums.is_empty() && stage.reduction == Reduction::Sum && stage.factors().is_some() {
            let mut moved: Vec<Guard> = Vec::new();
            for guard in stage.guards.clone() {
                let rest: Vec<Guard> = stage.guards.iter().filter(|&g| *g != guard && !moved.contains(g)).cloned().collect();
                let candidate: Vec<Guard> = moved.iter().cloned().chain([guard.clone()]).collect();
                if is_read(&out, &stage, &guard) && stays_inside(&out, &stage, &candidate, &rest) {
                    moved.push(guard);
                }
            }
            stage.guards.retain(|g| !moved.contains(g));
            let tensors = out.tensors.clone();
            let mut new_stages = Vec::new();
            stage.body.visit_mut(&mut |access| widen(access, &moved, &extents, &tensors, &mut copies, &mut out, &mut new_stages));
            out.stages.extend(new_stages);
        }
        out.stages.push(stage);
    }
    out
}

fn reads(nest: &LoopNest, access: &Access, axis: usize, guard: &Guard) -> bool {
    access.index[axis] == guard.index && nest.tensors[access.tensor].shape[axis] == guard.extent
}

fn is_read(nest: &LoopNest, stage: &Stage, guard: &Guard) -> bool {
    let mut found = false;
    stage.body.visit(&mut |a| found |= (0..a.index.len()).any(|axis| reads(nest, a, axis, guard)));
    found
}

/// Whether every index stays inside its tensor when only `rest` is still checked and the axes of `moved` are widened.
fn stays_inside(nest: &LoopNest, stage: &Stage, moved: &[Guard], rest: &[Guard]) -> bool {
    let extents = stage.extents();
    let mut inside = true;
    stage.body.visit(&mut |a| {
        for (axis, index) in a.index.iter().enumerate() {
            let (low, high) = index.range(&extents);
            let size = nest.tensors[a.tensor].shape[axis];
            let covered = moved.iter().chain(rest).any(|g| reads(nest, a, axis, g));
            inside &= covered || (low >= 0 && high < size);
        }
    });
    inside
}

fn widen(
    access: &mut Access,
    moved: &[Guard],
    extents: &[i64],
    tensors: &[Tensor],
    copies: &mut Vec<(usize, Vec<Widened>, usize)>,
    out: &mut LoopNest,
    stages: &mut Vec<Stage>,
) {
    let shape = &tensors[access.tensor].shape;
    let mut axes = Vec::new();
    for (axis, &size) in shape.iter().enumerate() {
        if moved.iter().any(|g| access.index[axis] == g.index && size == g.extent) {
            let (low, high) = access.index[axis].range(extents);
            axes.push(Widened { axis, low, size: high - low + 1 });
            access.index[axis] = access.index[axis].clone().plus(-low);
        }
    }
    if axes.is_empty() {
        return;
    }
    if let Some(found) = copies.iter().find(|(t, a, _)| *t == access.tensor && *a == axes) {
        access.tensor = found.2;
        return;
    }
    let source = access.tensor;
    let mut padded = shape.clone();
    let mut index: Vec<Index> = (0..shape.len()).map(Index::Var).collect();
    let mut guards = Vec::new();
    for w in &axes {
        padded[w.axis] = w.size;
        index[w.axis] = Index::Var(w.axis).plus(w.low);
        guards.push(Guard { index: index[w.axis].clone(), extent: shape[w.axis] });
    }
    let loops = padded.iter().enumerate().map(|(i, &extent)| Loop { name: format!("p{i}"), extent }).collect();
    let n_before = out.tensors.iter().filter(|t| t.name.starts_with(&format!("{}_pad", tensors[source].name))).count();
    let suffix = if n_before == 0 { String::new() } else { n_before.to_string() };
    out.tensors.push(Tensor { name: format!("{}_pad{suffix}", tensors[source].name), shape: padded, role: Role::Temp });
    let copy = out.tensors.len() - 1;
    let body = Expr::Load(Access { tensor: source, index });
    stages.push(Stage { output: copy, axes: loops, sums: vec![], reduction: Reduction::Sum, guards, body });
    copies.push((source, axes, copy));
    access.tensor = copy;
}
