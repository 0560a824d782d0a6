//! The meaning of a loop nest: slow, obvious, and what every other back end is compared with.

use super::loops::{Expr, LoopNest, Reduction, Role, Stage};
use crate::error::{Result, invalid};
use std::collections::HashMap;

/// Runs a nest on row-major f32 data: one slice per input and weight, in the order of the nest's tensors.
/// Returns the output, row-major. Sums are accumulated in f64 and rounded once per stage.
///
/// # Errors
/// Not one slice per input and weight, or one of another length than its tensor.
pub fn interp(nest: &LoopNest, arguments: &[&[f32]]) -> Result<Vec<f32>> {
    let mut data: Vec<Vec<f32>> = given(nest, arguments)?.into_iter().map(|values| values.unwrap_or_default().to_vec()).collect();
    for stage in &nest.stages {
        data[stage.output] = run(nest, stage, &data);
    }
    Ok(std::mem::take(&mut data[nest.output()]))
}

/// The output at chosen row-major positions only: each element is computed from the elements it needs, through all stages.
/// For nests too large to run whole.
///
/// # Errors
/// As [`interp`]; also for a position outside the output.
pub fn interp_at(nest: &LoopNest, arguments: &[&[f32]], positions: &[usize]) -> Result<Vec<f32>> {
    let data = given(nest, arguments)?;
    let n = nest.tensors[nest.output()].n_elements();
    if let Some(&outside) = positions.iter().find(|&&p| p >= n) {
        return invalid(format!("position {outside} of an output of {n} elements: positions count from 0"));
    }
    let mut known = HashMap::new();
    Ok(positions.iter().map(|&p| element(nest, nest.output(), p, &data, &mut known) as f32).collect())
}

/// The argument of every tensor that has one.
fn given<'a>(nest: &LoopNest, arguments: &[&'a [f32]]) -> Result<Vec<Option<&'a [f32]>>> {
    let given: Vec<usize> = (0..nest.tensors.len()).filter(|&t| matches!(nest.tensors[t].role, Role::Input | Role::Weight)).collect();
    if given.len() != arguments.len() {
        return invalid(format!("the nest takes {} tensors, {} given: pass every input and weight in order", given.len(), arguments.len()));
    }
    let mut data = vec![None; nest.tensors.len()];
    for (&t, &values) in given.iter().zip(arguments) {
        let tensor = &nest.tensors[t];
        let (n, shape) = (tensor.n_elements(), &tensor.shape);
        if values.len() != n {
            return invalid(format!("{} has {n} elements, {} given: pass its shape {shape:?}", tensor.name, values.len()));
        }
        data[t] = Some(values);
    }
    Ok(data)
}

fn element(nest: &LoopNest, tensor: usize, position: usize, data: &[Option<&[f32]>], known: &mut HashMap<(usize, usize), f32>) -> f64 {
    if let Some(values) = data[tensor] {
        return f64::from(values[position]);
    }
    if let Some(&value) = known.get(&(tensor, position)) {
        return f64::from(value);
    }
    let stage = nest.stages.iter().rfind(|s| s.output == tensor).expect("every temporary is written by a stage");
    let extents = stage.extents();
    let n_axes = stage.axes.len();
    let mut at = vec![0i64; extents.len()];
    let mut rest = position as i64;
    for i in (0..n_axes).rev() {
        at[i] = rest % extents[i];
        rest /= extents[i];
    }
    let is_max = stage.reduction == Reduction::Max && !stage.sums.is_empty();
    let mut total = if is_max { f64::NEG_INFINITY } else { 0.0 };
    loop {
        if stage.guards.iter().all(|g| (0..g.extent).contains(&g.index.eval(&at))) {
            let value = eval_with(nest, &stage.body, &at, &mut |t, p| element(nest, t, p, data, known));
            total = if is_max { total.max(value) } else { total + value };
        }
        if !advance(&mut at[n_axes..], &extents[n_axes..]) {
            break;
        }
    }
    known.insert((tensor, position), total as f32);
    f64::from(total as f32)
}

fn run(nest: &LoopNest, stage: &Stage, data: &[Vec<f32>]) -> Vec<f32> {
    let extents = stage.extents();
    let n_axes = stage.axes.len();
    let mut out = Vec::with_capacity(extents[..n_axes].iter().product::<i64>() as usize);
    let mut at = vec![0i64; extents.len()];
    loop {
        let mut total = match stage.reduction {
            Reduction::Max if !stage.sums.is_empty() => f64::NEG_INFINITY,
            _ => 0.0,
        };
        loop {
            if stage.guards.iter().all(|g| (0..g.extent).contains(&g.index.eval(&at))) {
                let value = eval(nest, &stage.body, &at, data);
                total = match stage.reduction {
                    Reduction::Max if !stage.sums.is_empty() => total.max(value),
                    _ => total + value,
                };
            }
            if !advance(&mut at[n_axes..], &extents[n_axes..]) {
                break;
            }
        }
        out.push(total as f32);
        if !advance(&mut at[..n_axes], &extents[..n_axes]) {
            return out;
        }
    }
}

/// The next position in row-major order; false (and all zeros) after the last.
fn advance(at: &mut [i64], extents: &[i64]) -> bool {
    for i in (0..at.len()).rev() {
        at[i] += 1;
        if at[i] < extents[i] {
            return true;
        }
        at[i] = 0;
    }
    false
}

fn eval(nest: &LoopNest, e: &Expr, at: &[i64], data: &[Vec<f32>]) -> f64 {
    eval_with(nest, e, at, &mut |tensor, position| f64::from(data[tensor][position]))
}

fn eval_with(nest: &LoopNest, e: &Expr, at: &[i64], load: &mut dyn FnMut(usize, usize) -> f64) -> f64 {
    match e {
        Expr::Load(access) => {
            let shape = &nest.tensors[access.tensor].shape;
            let flat = access.index.iter().zip(shape).fold(0, |flat, (index, &size)| {
                let i = index.eval(at);
                assert!((0..size).contains(&i), "{} is read at {i} on an axis of {size}", nest.tensors[access.tensor].name);
                flat * size + i
            });
            load(access.tensor, flat as usize)
        }
        Expr::Const(c) => f64::from(*c),
        Expr::Add(parts) => parts.iter().map(|p| eval_with(nest, p, at, load)).sum(),
        Expr::Mul(parts) => parts.iter().map(|p| eval_with(nest, p, at, load)).product(),
        Expr::Max(parts) => parts.iter().map(|p| eval_with(nest, p, at, load)).fold(f64::NEG_INFINITY, f64::max),
        Expr::Apply(function, part) => function.of(eval_with(nest, part, at, load)),
    }
}
