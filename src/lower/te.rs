//! A loop nest as TVM tensor expressions, one compute per stage.

use super::index::Index;
use super::loops::{Expr, Function, LoopNest, Reduction, Stage};
use super::pad::pad;
use crate::error::Result;
use crate::tvm::te::{self, Node};
use crate::tvm::{load_compiler, script};

/// The IRModule of a nest: `main` takes [`LoopNest::parameters`] in order, as float32 tensors of their shapes.
///
/// # Errors
/// [`crate::error::Error::Library`] when TVM is missing or refuses the nest.
pub fn module(nest: &LoopNest) -> Result<Node> {
    load_compiler()?;
    let nest = pad(nest);
    let mut tensors: Vec<Option<Node>> = vec![None; nest.tensors.len()];
    for (slot, tensor) in tensors.iter_mut().zip(&nest.tensors) {
        if matches!(tensor.role, super::Role::Input | super::Role::Weight) {
            *slot = Some(te::placeholder(&tensor.shape, &tensor.name)?);
        }
    }
    for stage in &nest.stages {
        tensors[stage.output] = Some(compute(&nest, stage, &tensors)?);
    }
    let parameters: Vec<Node> = nest.parameters().into_iter().filter_map(|t| tensors[t].clone()).collect();
    te::module(&parameters)
}

/// TVM's own printed form of the PrimFunc (`syntune lower --to te`).
///
/// # Errors
/// As [`module`].
pub fn te_script(nest: &LoopNest) -> Result<String> {
    script(&module(nest)?)
}

fn compute(nest: &LoopNest, stage: &Stage, tensors: &[Option<Node>]) -> Result<Node> {
    let axes = stage.axes.iter().map(|l| te::axis(&l.name, l.extent)).collect::<Result<Vec<_>>>()?;
    let sums = stage.sums.iter().map(|l| te::reduce_axis(&l.name, l.extent)).collect::<Result<Vec<_>>>()?;
    let vars: Vec<Node> = axes.iter().chain(&sums).map(|l| l.var.clone()).collect();
    let mut body = value(&stage.body, &vars, &stage.extents(), tensors)?;
    let extents = stage.extents();
    let mut condition: Option<Node> = None;
    for guard in &stage.guards {
        let (low, high) = guard.index.range(&extents);
        let position = index(&guard.index, &vars, &extents)?;
        let mut both = Vec::new();
        if low < 0 {
            both.push(te::at_least(&position, 0)?);
        }
        if high >= guard.extent {
            both.push(te::less_than(&position, guard.extent)?);
        }
        for part in both {
            condition = Some(match condition {
                Some(before) => te::and(&before, &part)?,
                None => part,
            });
        }
    }
    let is_max = stage.reduction == Reduction::Max && !sums.is_empty();
    if let Some(condition) = condition {
        let neutral = if is_max { f32::MIN } else { 0.0 };
        body = te::if_then_else(&condition, &body, &te::float(neutral)?)?;
    }
    let body = match (sums.is_empty(), is_max) {
        (true, _) => body,
        (false, true) => te::greatest(&body, &sums)?,
        (false, false) => te::sum(&body, &sums)?,
    };
    te::compute(&nest.tensors[stage.output].name, &axes, &body)
}

fn value(e: &Expr, vars: &[Node], extents: &[i64], tensors: &[Option<Node>]) -> Result<Node> {
    let join = |parts: &[Expr], neutral: f32, with: fn(&Node, &Node) -> Result<Node>| {
        let mut joined: Option<Node> = None;
        for part in parts {
            let next = value(part, vars, extents, tensors)?;
            joined = Some(match joined {
                Some(before) => with(&before, &next)?,
                None => next,
            });
        }
        joined.map_or_else(|| te::float(neutral), Ok)
    };
    match e {
        Expr::Load(access) => {
            let at = access.index.iter().map(|i| index(i, vars, extents)).collect::<Result<Vec<_>>>()?;
            match &tensors[access.tensor] {
                Some(tensor) => te::load(tensor, &at),
                None => crate::error::invalid("a stage reads a tensor that no earlier stage writes: order the stages"),
            }
        }
        Expr::Const(c) => te::float(*c),
        Expr::Add(parts) => join(parts, 0.0, te::add),
        Expr::Mul(parts) => join(parts, 1.0, te::mul),
        Expr::Max(parts) => join(parts, f32::MIN, te::max),
        Expr::Apply(function, part) => {
            let x = value(part, vars, extents, tensors)?;
            match function {
                Function::Exp => te::exp(&x),
                Function::Rsqrt => te::rsqrt(&x),
                Function::Reciprocal => te::div(&te::float(1.0)?, &x),
            }
        }
    }
}

fn index(e: &Index, vars: &[Node], extents: &[i64]) -> Result<Node> {
    match e {
        Index::Var(v) => Ok(vars[*v].clone()),
        Index::Const(c) => te::int(*c),
        Index::Add(a, b) => te::add(&index(a, vars, extents)?, &index(b, vars, extents)?),
        Index::Mul(a, k) => te::mul(&index(a, vars, extents)?, &te::int(*k)?),
        Index::Div(a, k) => te::floor_div(&index(a, vars, extents)?, *k),
        // TVM 0.27 merges ((h//2 + 1) % 3)·2 + (h%2 + 1) % 2 into (h + 2) % 6, which is wrong; it leaves truncmod alone.
        Index::Mod(a, k) if matches!(**a, Index::Add(..)) => {
            let low = a.range(extents).0;
            let raised = if low < 0 { a.as_ref().clone().plus((k - 1 - low) / k * k) } else { a.as_ref().clone() };
            te::trunc_mod(&index(&raised, vars, extents)?, *k)
        }
        Index::Mod(a, k) => te::floor_mod(&index(a, vars, extents)?, *k),
    }
}
