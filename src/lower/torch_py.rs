//! A loop nest as a standalone `nn.Module` in Python, by the same plan that [`super::torch`] executes.

use super::loops::{Guard, LoopNest, Role};
use super::plan::{Plan, Step};
use crate::error::Result;
use std::fmt::Write;

/// Python text that imports torch and defines one `nn.Module`: `__init__` makes the weights, `forward` takes the inputs in the nest's order.
/// Where the batch is the first axis everywhere, any batch size may be passed. Errors: as [`Plan::new`].
pub fn torch_py(nest: &LoopNest) -> Result<String> {
    let plan = Plan::new(nest)?;
    let doubled = twice_the_batch(nest).map(|n| Plan::new(&n)).transpose()?;
    let batch = doubled.filter(|d| plan.steps.len() == d.steps.len() && !plan.steps.iter().zip(&d.steps).any(|(a, b)| differ(a, b)));
    let n = nest.tensors.iter().find(|t| t.role == Role::Input).map_or(1, |t| t.shape[0]);
    let given: Vec<usize> = (0..nest.tensors.len()).filter(|&t| matches!(nest.tensors[t].role, Role::Input | Role::Weight)).collect();
    let inputs: Vec<&str> = given.iter().map(|&t| &nest.tensors[t]).filter(|t| t.role == Role::Input).map(|t| t.name.as_str()).collect();

    let mut out = String::from("import torch\nimport torch.nn as nn\nimport torch.nn.functional as F\n\n\n");
    let _ = writeln!(out, "class {}(nn.Module):\n    \"\"\"", class_name(&nest.name));
    for line in nest.print().lines() {
        let _ = writeln!(out, "    {line}");
    }
    out.push_str("    \"\"\"\n\n    def __init__(self):\n        super().__init__()\n");
    for t in nest.tensors.iter().filter(|t| t.role == Role::Weight) {
        let _ = writeln!(out, "        self.{} = nn.Parameter(torch.randn({:?}) * {:.6})", t.name, t.shape, nest.weight_std());
    }
    let _ = writeln!(out, "\n    def forward(self, {}):", inputs.join(", "));
    if batch.is_some() {
        let _ = writeln!(out, "        batch = {}.shape[0]", inputs.first().unwrap_or(&"x"));
    }
    let name = |v: usize| match &plan.steps[v] {
        Step::Parameter(i) => {
            let t = &nest.tensors[given[*i]];
            if t.role == Role::Weight { format!("self.{}", t.name) } else { t.name.clone() }
        }
        _ => format!("t{v}"),
    };
    for (i, step) in plan.steps.iter().enumerate() {
        let other = batch.as_ref().map_or(step, |b| &b.steps[i]);
        if let Some(text) = print_step(step, other, n, &name, &plan.shapes) {
            let _ = writeln!(out, "        t{i} = {text}");
        }
    }
    let _ = writeln!(out, "        return {}", name(plan.result));
    Ok(out)
}

fn class_name(name: &str) -> String {
    let joined: String = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .map(|word| {
            let (first, rest) = word.split_at(word.len().min(1));
            first.to_ascii_uppercase() + rest
        })
        .collect();
    if joined.starts_with(|c: char| c.is_ascii_alphabetic()) { joined } else { format!("Operator{joined}") }
}

/// The nest for twice the batch, where the batch is loop 0 of every stage and the first axis of every input, temporary and output.
fn twice_the_batch(nest: &LoopNest) -> Option<LoopNest> {
    let mut twice = nest.clone();
    let n = nest.tensors.iter().find(|t| t.role == Role::Input)?.shape.first().copied()?;
    for t in twice.tensors.iter_mut().filter(|t| t.role != Role::Weight) {
        let first = t.shape.first_mut()?;
        if *first != n {
            return None;
        }
        *first *= 2;
    }
    for stage in &mut twice.stages {
        let mut plain = true;
        stage.body.visit(&mut |a| {
            let weight = nest.tensors[a.tensor].role == Role::Weight;
            for (axis, e) in a.index.iter().enumerate() {
                let is_batch = *e == super::index::Index::Var(0);
                plain &= if axis == 0 && !weight { is_batch } else { !e.loops().contains(&0) };
            }
        });
        plain &= !stage.guards.iter().any(|g| g.index.loops().contains(&0));
        if !plain {
            return None;
        }
        stage.axes[0].extent *= 2;
    }
    Some(twice)
}

/// Whether two steps differ in more than the shape that a reshape gives.
fn differ(a: &Step, b: &Step) -> bool {
    match (a, b) {
        (Step::Reshape { x, shape }, Step::Reshape { x: y, shape: other })
        | (Step::Expand { x, shape }, Step::Expand { x: y, shape: other }) => {
            x != y || shape.len() != other.len() || shape.iter().zip(other).any(|(s, o)| s != o && *o != 2 * s)
        }
        _ => a != b,
    }
}

fn tuple<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

fn print_step(step: &Step, other: &Step, n: i64, name: &impl Fn(usize) -> String, shapes: &[Vec<i64>]) -> Option<String> {
    let sizes = |shape: &[i64], other: &[i64]| {
        let size = |(&s, &o): (&i64, &i64)| match (s == o, s / n) {
            (true, _) => s.to_string(),
            (false, 1) => "batch".into(),
            (false, k) => format!("batch * {k}"),
        };
        shape.iter().zip(other).map(size).collect::<Vec<_>>().join(", ")
    };
    Some(match (step, other) {
        (Step::Parameter(_), _) => return None,
        (Step::Const(c), _) => format!("torch.tensor({c:?})"),
        (Step::Reshape { x, shape }, Step::Reshape { shape: o, .. }) => format!("{}.reshape({})", name(*x), sizes(shape, o)),
        (Step::Expand { x, shape }, Step::Expand { shape: o, .. }) => format!("{}.expand({})", name(*x), sizes(shape, o)),
        (Step::Reshape { .. } | Step::Expand { .. }, _) => return None,
        (Step::Permute { x, order }, _) => format!("{}.permute({})", name(*x), tuple(order)),
        (Step::Pad { x, axis, before, after }, _) => {
            let skipped = "0, 0, ".repeat(shapes[*x].len() - 1 - *axis as usize);
            format!("F.pad({}, ({skipped}{before}, {after}))", name(*x))
        }
        (Step::Slice { x, axis, start, len, step }, _) => {
            let end = start + (len - 1) * step + 1;
            let stride = if *step == 1 { String::new() } else { format!(":{step}") };
            format!("{}[{}{start}:{end}{stride}]", name(*x), ":, ".repeat(*axis as usize))
        }
        (Step::Unfold { x, axis, size, step }, _) => format!("{}.unfold({axis}, {size}, {step})", name(*x)),
        (Step::Roll { x, axis, by }, _) => format!("{}.roll({by}, {axis})", name(*x)),
        (Step::Gather { x, axis, loops, index }, _) => {
            let names: Vec<String> = loops.iter().map(|l| l.name.clone()).collect();
            let body = format!("({}).reshape(-1).clamp(0, {})", index.print(&names), shapes[*x][*axis as usize] - 1);
            format!("{}.index_select({axis}, (lambda {}: {body})({}))", name(*x), tuple(&names), ranges(loops, name(*x)))
        }
        (Step::Mask { loops, guards }, _) => {
            let names: Vec<String> = loops.iter().map(|l| l.name.clone()).collect();
            let test = |g: &Guard| format!("(0 <= {e}) & ({e} < {})", g.extent, e = g.index.print(&names));
            let tests: Vec<String> = guards.iter().map(test).collect();
            format!("(lambda {}: ({}).float())({})", tuple(&names), tests.join(" & "), ranges(loops, name(0)))
        }
        (Step::Conv { x, weight, stride, padding, dilation, groups }, _) => format!(
            "F.conv2d({}, {}, stride=({}), padding=({}), dilation=({}), groups={groups})",
            name(*x),
            name(*weight),
            tuple(stride),
            tuple(padding),
            tuple(dilation)
        ),
        (Step::Einsum { formula, xs }, _) => {
            format!("torch.einsum({formula:?}, {})", xs.iter().map(|&x| name(x)).collect::<Vec<_>>().join(", "))
        }
        (Step::Sum { x, axes }, _) => format!("{}.sum(({},))", name(*x), tuple(axes)),
        (Step::Greatest { x, axes }, _) => format!("{}.amax(({},))", name(*x), tuple(axes)),
        (Step::Scale { x, by }, _) => format!("{} * {by:?}", name(*x)),
        (Step::Add { a, b }, _) => format!("{} + {}", name(*a), name(*b)),
        (Step::Mul { a, b }, _) => format!("{} * {}", name(*a), name(*b)),
        (Step::Max { a, b }, _) => format!("torch.maximum({}, {})", name(*a), name(*b)),
        (Step::AtLeast { x, least }, _) => format!("{}.clamp_min({least:?})", name(*x)),
        (Step::Apply { x, function }, _) => format!("{}.{}()", name(*x), function.name()),
        (Step::OrLowest { x, mask }, _) => format!("torch.where({} > 0, {}, float(\"-inf\"))", name(*mask), name(*x)),
    })
}

/// One range per loop, shaped to broadcast against the others.
fn ranges(loops: &[super::loops::Loop], like: String) -> String {
    let n = loops.len();
    let range = |(i, l): (usize, &super::loops::Loop)| {
        let mut shape = vec![1; n];
        shape[i] = -1;
        format!("torch.arange({}, device={like}.device).view({})", l.extent, tuple(&shape))
    };
    loops.iter().enumerate().map(range).collect::<Vec<_>>().join(", ")
}
