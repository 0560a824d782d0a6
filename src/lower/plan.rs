//! A loop nest as whole-tensor operations: the one plan that torch executes and that `torch-py` prints.
//!
//! Every access becomes views (reshape, pad, unfold, roll) where its indices allow, a gather where they do not; products are contracted
//! pairwise in the cheapest order; a contraction over sliding windows that *is* a convolution becomes one (`contract`).

use super::contract::Factor;
use super::index::Index;
use super::loops::{Access, Expr, Function, Guard, Loop, LoopNest, Reduction, Role, Stage};
use super::split::{Split, split};
use crate::error::{Result, invalid};

/// One operation; operands are earlier steps. Shapes of results stand in [`Plan::shapes`].
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// The i-th input or weight, in the nest's order.
    Parameter(usize),
    Const(f32),
    Reshape {
        x: usize,
        shape: Vec<i64>,
    },
    Permute {
        x: usize,
        order: Vec<i64>,
    },
    Expand {
        x: usize,
        shape: Vec<i64>,
    },
    /// Zeros before and after, along one axis.
    Pad {
        x: usize,
        axis: i64,
        before: i64,
        after: i64,
    },
    /// `len` elements from `start`, every `step`-th.
    Slice {
        x: usize,
        axis: i64,
        start: i64,
        len: i64,
        step: i64,
    },
    /// Windows of `size` every `step`; the window becomes the last axis.
    Unfold {
        x: usize,
        axis: i64,
        size: i64,
        step: i64,
    },
    /// Moves elements towards higher positions by `by`, around the end.
    Roll {
        x: usize,
        axis: i64,
        by: i64,
    },
    /// Selects positions along an axis: `index` over `loops`, row-major, limited to the axis. `Var(i)` is `loops[i]`.
    Gather {
        x: usize,
        axis: i64,
        loops: Vec<Loop>,
        index: Index,
    },
    /// 1 where all guards hold, 0 elsewhere, over `loops`.
    Mask {
        loops: Vec<Loop>,
        guards: Vec<Guard>,
    },
    Conv {
        x: usize,
        weight: usize,
        stride: [i64; 2],
        padding: [i64; 2],
        dilation: [i64; 2],
        groups: i64,
    },
    Einsum {
        formula: String,
        xs: Vec<usize>,
    },
    Sum {
        x: usize,
        axes: Vec<i64>,
    },
    /// The greatest along the axes.
    Greatest {
        x: usize,
        axes: Vec<i64>,
    },
    Scale {
        x: usize,
        by: f64,
    },
    Add {
        a: usize,
        b: usize,
    },
    Mul {
        a: usize,
        b: usize,
    },
    Max {
        a: usize,
        b: usize,
    },
    /// `max(x, least)`.
    AtLeast {
        x: usize,
        least: f32,
    },
    Apply {
        x: usize,
        function: Function,
    },
    /// `x` where the mask is 1, −∞ elsewhere.
    OrLowest {
        x: usize,
        mask: usize,
    },
}

/// Steps in order; the last value is `result`.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub shapes: Vec<Vec<i64>>,
    pub result: usize,
}

impl Plan {
    /// Plans every stage of a nest.
    /// Errors: an index outside its tensor, more than 52 loops in one product.
    pub fn new(nest: &LoopNest) -> Result<Plan> {
        let mut builder = Builder::default();
        let mut values = vec![usize::MAX; nest.tensors.len()];
        let parameters = (0..nest.tensors.len()).filter(|&t| matches!(nest.tensors[t].role, Role::Input | Role::Weight));
        for (i, t) in parameters.enumerate() {
            values[t] = builder.push(Step::Parameter(i), nest.tensors[t].shape.clone());
        }
        for stage in &nest.stages {
            if stage.axes.iter().map(|l| l.extent).ne(nest.tensors[stage.output].shape.iter().copied()) {
                return invalid(format!("{}: the loops that write {} do not match its shape", nest.name, nest.tensors[stage.output].name));
            }
            values[stage.output] = builder.stage(nest, stage, &values)?;
        }
        let result = values[nest.output()];
        Ok(Plan { steps: builder.steps, shapes: builder.shapes, result })
    }

    /// Elements that its operations read and write; views move nothing, but a product reads what a view repeats.
    pub fn n_moved(&self) -> u64 {
        let n = |step: usize| self.shapes[step].iter().product::<i64>() as u64;
        let moved = |(i, step): (usize, &Step)| match step {
            Step::Parameter(_) | Step::Const(_) | Step::Mask { .. } => 0,
            Step::Reshape { .. } | Step::Permute { .. } | Step::Expand { .. } | Step::Slice { .. } | Step::Unfold { .. } => 0,
            Step::Einsum { xs, .. } => n(i) + xs.iter().map(|&x| n(x)).sum::<u64>(),
            Step::Conv { x, .. } | Step::Sum { x, .. } | Step::Greatest { x, .. } => n(i) + n(*x),
            _ => 2 * n(i),
        };
        self.steps.iter().enumerate().map(moved).sum()
    }
}

#[derive(Default)]
pub(super) struct Builder {
    pub steps: Vec<Step>,
    pub shapes: Vec<Vec<i64>>,
}

impl Builder {
    pub fn push(&mut self, step: Step, shape: Vec<i64>) -> usize {
        self.steps.push(step);
        self.shapes.push(shape);
        self.steps.len() - 1
    }

    pub fn reshape(&mut self, x: usize, shape: Vec<i64>) -> usize {
        if self.shapes[x] == shape { x } else { self.push(Step::Reshape { x, shape: shape.clone() }, shape) }
    }

    /// New axis `i` is old axis `order[i]`.
    pub fn permute(&mut self, x: usize, order: &[usize]) -> usize {
        if order.iter().enumerate().all(|(i, &o)| i == o) {
            return x;
        }
        let shape = order.iter().map(|&o| self.shapes[x][o]).collect();
        self.push(Step::Permute { x, order: order.iter().map(|&o| o as i64).collect() }, shape)
    }

    pub fn pad(&mut self, x: usize, axis: usize, before: i64, after: i64) -> usize {
        if before == 0 && after == 0 {
            return x;
        }
        let mut shape = self.shapes[x].clone();
        shape[axis] += before + after;
        self.push(Step::Pad { x, axis: axis as i64, before, after }, shape)
    }

    pub fn slice(&mut self, x: usize, axis: usize, start: i64, len: i64, step: i64) -> usize {
        let mut shape = self.shapes[x].clone();
        if start == 0 && shape[axis] == len && step == 1 {
            return x;
        }
        shape[axis] = len;
        self.push(Step::Slice { x, axis: axis as i64, start, len, step }, shape)
    }

    pub fn sum(&mut self, x: usize, axes: &[usize]) -> usize {
        if axes.is_empty() {
            return x;
        }
        let kept = |(i, &s): (usize, &i64)| (!axes.contains(&i)).then_some(s);
        let shape = self.shapes[x].iter().enumerate().filter_map(kept).collect();
        self.push(Step::Sum { x, axes: axes.iter().map(|&a| a as i64).collect() }, shape)
    }

    fn stage(&mut self, nest: &LoopNest, stage: &Stage, values: &[usize]) -> Result<usize> {
        let Split { stage, pieces } = split(nest, stage);
        let extents = stage.extents();
        self.check(nest, &stage, &extents)?;
        let output: Vec<usize> = (0..stage.axes.len()).collect();
        let greatest = stage.reduction == Reduction::Max && !stage.sums.is_empty();
        let result = match stage.factors() {
            Some(loads) if !greatest => self.product(&stage, &loads, values, &output)?,
            _ => self.general(&stage, values, &output, greatest)?,
        };
        let whole = self.aligned(&result, &output);
        let shape: Vec<i64> = output.iter().map(|&l| extents[l]).collect();
        let whole = if self.shapes[whole] == shape { whole } else { self.push(Step::Expand { x: whole, shape: shape.clone() }, shape) };
        let merged = pieces.iter().map(|p| p.iter().map(|&l| extents[l]).product()).collect();
        Ok(self.reshape(whole, merged))
    }

    /// Reads outside a tensor are allowed only where a guard forbids the iteration; a read that no guard concerns must be in range.
    fn check(&self, nest: &LoopNest, stage: &Stage, extents: &[i64]) -> Result<()> {
        let mut wrong = None;
        stage.body.visit(&mut |a| {
            for (e, &size) in a.index.iter().zip(&nest.tensors[a.tensor].shape) {
                let (low, high) = e.range(extents);
                let guarded = stage.guards.iter().any(|g| g.index.loops().iter().any(|l| e.loops().contains(l)));
                if (low < 0 || high >= size) && !guarded && e.affine().is_some() {
                    wrong = Some(format!("{} is read at {} on an axis of {size}", nest.tensors[a.tensor].name, e.print(&stage.names())));
                }
            }
            if a.index.len() != nest.tensors[a.tensor].shape.len() {
                wrong = Some(format!(
                    "{} has {} axes, {} indices given",
                    nest.tensors[a.tensor].name,
                    nest.tensors[a.tensor].shape.len(),
                    a.index.len()
                ));
            }
        });
        wrong.map_or(Ok(()), |why| invalid(format!("{}: {why}: correct the loop nest", nest.name)))
    }

    fn product(&mut self, stage: &Stage, loads: &[&Access], values: &[usize], output: &[usize]) -> Result<Factor> {
        let extents = stage.extents();
        let mut factors: Vec<Factor> = loads.iter().map(|a| Factor { value: values[a.tensor], axes: a.index.clone() }).collect();
        for f in &mut factors {
            self.fold(f, &stage.guards, &extents);
        }
        let reads_at = |f: &Factor, shape: &[i64], g: &Guard| {
            f.axes.iter().zip(shape).any(|(e, &size)| *e == g.index && size == g.extent && e.affine().is_some())
        };
        let left: Vec<Guard> =
            stage.guards.iter().filter(|g| !factors.iter().any(|f| reads_at(f, &self.shapes[f.value], g))).cloned().collect();
        factors.extend(self.masks(stage, &left));
        let missing: i64 = (output.len()..extents.len()).filter(|l| !factors.iter().any(|f| f.reads(*l))).map(|l| extents[l]).product();
        let mut result = self.contract(factors, output, &extents)?;
        if missing != 1 {
            let shape = self.shapes[result.value].clone();
            result.value = self.push(Step::Scale { x: result.value, by: missing as f64 }, shape);
        }
        Ok(result)
    }

    fn general(&mut self, stage: &Stage, values: &[usize], output: &[usize], greatest: bool) -> Result<Factor> {
        let extents = stage.extents();
        let mut result = self.value(stage, &stage.body, values);
        let masks = self.masks(stage, &stage.guards);
        if !masks.is_empty() {
            let mut mask = masks[0].clone();
            for m in &masks[1..] {
                mask = self.pointwise(&mask, m, &extents, |a, b| Step::Mul { a, b });
            }
            result = if greatest {
                self.pointwise(&result, &mask, &extents, |x, mask| Step::OrLowest { x, mask })
            } else {
                self.pointwise(&result, &mask, &extents, |a, b| Step::Mul { a, b })
            };
        }
        let summed: Vec<usize> = (0..result.axes.len()).filter(|&i| !output.contains(&result.label(i))).collect();
        let missing: i64 = (output.len()..extents.len()).filter(|l| !result.reads(*l)).map(|l| extents[l]).product();
        if greatest && !summed.is_empty() {
            let shape = (0..result.axes.len()).filter(|i| !summed.contains(i)).map(|i| self.shapes[result.value][i]).collect();
            result.value = self.push(Step::Greatest { x: result.value, axes: summed.iter().map(|&a| a as i64).collect() }, shape);
        } else {
            result.value = self.sum(result.value, &summed);
        }
        if !greatest && missing != 1 {
            let shape = self.shapes[result.value].clone();
            result.value = self.push(Step::Scale { x: result.value, by: missing as f64 }, shape);
        }
        let mut kept = 0..;
        result.axes.retain(|_| !summed.contains(&kept.next().unwrap_or(0)));
        Ok(result)
    }

    fn value(&mut self, stage: &Stage, e: &Expr, values: &[usize]) -> Factor {
        let extents = stage.extents();
        let join = |builder: &mut Builder, parts: &[Expr], step: fn(usize, usize) -> Step| {
            let mut total: Option<Factor> = None;
            for p in parts {
                let next = builder.value(stage, p, values);
                total = Some(match total {
                    Some(so_far) => builder.pointwise(&so_far, &next, &extents, step),
                    None => next,
                });
            }
            total.unwrap_or_else(|| Factor { value: builder.push(Step::Const(0.0), vec![]), axes: vec![] })
        };
        match e {
            Expr::Load(a) => {
                let mut f = Factor { value: values[a.tensor], axes: a.index.clone() };
                self.fold(&mut f, &stage.guards, &extents);
                self.materialize(f, &extents)
            }
            Expr::Const(c) => Factor { value: self.push(Step::Const(*c), vec![]), axes: vec![] },
            Expr::Max(parts) if parts.len() == 2 && matches!(parts[1], Expr::Const(_)) => {
                let mut f = self.value(stage, &parts[0], values);
                let Expr::Const(least) = parts[1] else { unreachable!("matched above") };
                let shape = self.shapes[f.value].clone();
                f.value = self.push(Step::AtLeast { x: f.value, least }, shape);
                f
            }
            Expr::Add(parts) => join(self, parts, |a, b| Step::Add { a, b }),
            Expr::Mul(parts) => join(self, parts, |a, b| Step::Mul { a, b }),
            Expr::Max(parts) => join(self, parts, |a, b| Step::Max { a, b }),
            Expr::Apply(function, part) => {
                let mut f = self.value(stage, part, values);
                let shape = self.shapes[f.value].clone();
                f.value = self.push(Step::Apply { x: f.value, function: *function }, shape);
                f
            }
        }
    }

    /// One mask for each set of loops that guards concern.
    fn masks(&mut self, stage: &Stage, guards: &[Guard]) -> Vec<Factor> {
        let mut by_loops: Vec<(Vec<usize>, Vec<Guard>)> = Vec::new();
        for g in guards {
            let loops = g.index.loops();
            match by_loops.iter_mut().find(|(l, _)| *l == loops) {
                Some((_, guards)) => guards.push(g.clone()),
                None => by_loops.push((loops, vec![g.clone()])),
            }
        }
        let all: Vec<Loop> = stage.loops().cloned().collect();
        let mut masks = Vec::new();
        for (loops, guards) in by_loops {
            let local = |g: &Guard| Guard { index: localize(&g.index, &loops), extent: g.extent };
            let guards = guards.iter().map(local).collect();
            let named: Vec<Loop> = loops.iter().map(|&l| all[l].clone()).collect();
            let shape = named.iter().map(|l| l.extent).collect();
            let value = self.push(Step::Mask { loops: named, guards }, shape);
            masks.push(Factor { value, axes: loops.into_iter().map(Index::Var).collect() });
        }
        masks
    }

    /// Both operands on the union of their loops, joined element by element.
    fn pointwise(&mut self, a: &Factor, b: &Factor, extents: &[i64], step: fn(usize, usize) -> Step) -> Factor {
        let mut loops: Vec<usize> = a.axes.iter().chain(&b.axes).flat_map(Index::loops).collect();
        loops.sort_unstable();
        loops.dedup();
        let (x, y) = (self.aligned(a, &loops), self.aligned(b, &loops));
        let shape = loops.iter().map(|&l| extents[l]).collect();
        Factor { value: self.push(step(x, y), shape), axes: loops.into_iter().map(Index::Var).collect() }
    }

    /// A materialized factor with one axis for each of `loops`, in order; 1 where it does not vary.
    pub fn aligned(&mut self, f: &Factor, loops: &[usize]) -> usize {
        let place = |l: &usize| (0..f.axes.len()).find(|&i| f.label(i) == *l);
        let order: Vec<usize> = loops.iter().filter_map(place).collect();
        let x = self.permute(f.value, &order);
        let shape = loops.iter().map(|l| place(l).map_or(1, |i| self.shapes[f.value][i])).collect();
        self.reshape(x, shape)
    }
}

/// The expression over positions in `loops` in place of loop numbers.
pub(super) fn localize(e: &Index, loops: &[usize]) -> Index {
    e.replace(&|v| Index::Var(loops.iter().position(|&l| l == v).unwrap_or(usize::MAX)))
}
