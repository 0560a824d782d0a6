//! What tuners are compared on: kernels of ResNet, MobileNet and transformers, and synthesized operators, batch 1.

use syntune::lower::index::Index;
use syntune::lower::{Access, Epilogue, Expr, Function, Loop, LoopNest, Reduction, Role, Stage, Tensor, layout, lower};
use syntune::synth::library::resolve;
use syntune::synth::{Binding, Operator};

pub struct Workload {
    pub name: &'static str,
    pub nest: LoopNest,
}

/// A name, an operator, the sizes of its variables.
type Named = (&'static str, &'static str, &'static [(&'static str, i64)]);

const OPERATORS: [Named; 13] = [
    ("conv64", "conv", &[("Ci", 64), ("Co", 64), ("H", 56), ("W", 56), ("k", 3)]),
    ("conv128", "conv", &[("Ci", 128), ("Co", 128), ("H", 28), ("W", 28), ("k", 3)]),
    ("conv256", "conv", &[("Ci", 256), ("Co", 256), ("H", 14), ("W", 14), ("k", 3)]),
    ("conv512", "conv", &[("Ci", 512), ("Co", 512), ("H", 7), ("W", 7), ("k", 3)]),
    ("pointwise64", "conv1x1", &[("Ci", 64), ("Co", 128), ("H", 56), ("W", 56)]),
    ("pointwise512", "conv1x1", &[("Ci", 512), ("Co", 512), ("H", 14), ("W", 14)]),
    ("depthwise", "depthwise", &[("C", 128), ("H", 56), ("W", 56), ("k", 3)]),
    ("grouped", "grouped", &[("Ci", 128), ("Co", 128), ("H", 28), ("W", 28), ("k", 3), ("g", 4)]),
    ("matmul", "linear", &[("Ci", 512), ("Co", 512), ("L", 512)]),
    // found by searches of this project, and Syno's first published one
    (
        "synthesized1",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:g, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c] * w2[o, i, j]",
        &[("Ci", 64), ("Co", 64), ("H", 28), ("W", 28), ("g", 4), ("k", 3)],
    ),
    (
        "synthesized2",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:s] x[n, c, unfold(h, j), unfold(w, i)] * w1[o, c, i, j]",
        &[("Ci", 64), ("Co", 64), ("H", 28), ("W", 28), ("k", 3), ("s", 2)],
    ),
    (
        "synthesized3",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[c, i] * w2[o, c, j]",
        &[("Ci", 64), ("Co", 128), ("H", 28), ("W", 28), ("k", 3)],
    ),
    (
        "synthesized4",
        "y[n:N, o:Co, h:H, w:W] = sum[c:Ci/g, i:k] x[n, split(outer(o, Co/g), c), unfold(h, i), shift(w)] * w1[o, c, i]",
        &[("Ci", 64), ("Co", 64), ("H", 28), ("W", 28), ("k", 3), ("g", 4)],
    ),
];

/// Weights are packed in blocks of so many values.
///
/// # Panics
/// On an operator that does not fit its sizes.
pub fn workloads(block: i64) -> Vec<Workload> {
    let operator = |&(name, text, sizes): &Named| {
        let operator = resolve(text).or_else(|_| Operator::parse(text)).expect("an operator");
        let binding = Binding::of(&[&[("N", 1)], sizes].concat());
        let channel = layout::channel(operator.outputs().len());
        let bare = lower(&operator, &binding).expect("sizes that fit");
        let epilogue = Epilogue { bias: true, relu: true, ..Epilogue::default() };
        Workload { name, nest: layout::for_cpu(&bare.with_epilogue(epilogue, channel), block).0 }
    };
    let mut all: Vec<Workload> = OPERATORS.iter().map(operator).collect();
    all.push(Workload { name: "batch-matmul", nest: batch_matmul(12, 128, 64, 128) });
    all.push(Workload { name: "softmax", nest: softmax(512, 1024) });
    all.push(Workload { name: "max-pool", nest: max_pool(64, 56) });
    all
}

fn tensor(name: &str, shape: &[i64], role: Role) -> Tensor {
    Tensor { name: name.into(), shape: shape.to_vec(), role }
}

fn loops(names: &str, extents: &[i64]) -> Vec<Loop> {
    names.chars().zip(extents).map(|(name, &extent)| Loop { name: name.into(), extent }).collect()
}

fn load(tensor: usize, index: &[usize]) -> Expr {
    Expr::Load(Access { tensor, index: index.iter().map(|&v| Index::Var(v)).collect() })
}

/// a[b, i, k], b[b, k, j] → y[b, i, j].
fn batch_matmul(b: i64, m: i64, n: i64, k: i64) -> LoopNest {
    let body = Expr::Mul(vec![load(0, &[0, 1, 3]), load(1, &[0, 3, 2])]);
    let tensors = vec![tensor("a", &[b, m, k], Role::Input), tensor("b", &[b, k, n], Role::Input), tensor("y", &[b, m, n], Role::Output)];
    let stage =
        Stage { output: 2, axes: loops("bij", &[b, m, n]), sums: loops("k", &[k]), reduction: Reduction::Sum, guards: vec![], body };
    LoopNest { name: "batch_matmul".into(), tensors, stages: vec![stage] }
}

/// Over the last axis of x[i, j].
fn softmax(rows: i64, columns: i64) -> LoopNest {
    let whole = [rows, columns];
    let tensors = vec![
        tensor("x", &whole, Role::Input),
        tensor("greatest", &[rows], Role::Temp),
        tensor("share", &whole, Role::Temp),
        tensor("total", &[rows], Role::Temp),
        tensor("y", &whole, Role::Output),
    ];
    let row = |output, reduction, body| Stage {
        output,
        axes: loops("i", &[rows]),
        sums: loops("j", &[columns]),
        reduction,
        guards: vec![],
        body,
    };
    let each = |output, body| Stage { output, axes: loops("ij", &whole), sums: vec![], reduction: Reduction::Sum, guards: vec![], body };
    let below = Expr::Add(vec![load(0, &[0, 1]), Expr::Mul(vec![load(1, &[0]), Expr::Const(-1.0)])]);
    let stages = vec![
        row(1, Reduction::Max, load(0, &[0, 1])),
        each(2, below.apply(Function::Exp)),
        row(3, Reduction::Sum, load(2, &[0, 1])),
        each(4, Expr::Mul(vec![load(2, &[0, 1]), load(3, &[0]).apply(Function::Reciprocal)])),
    ];
    LoopNest { name: "softmax".into(), tensors, stages }
}

/// 2×2 with stride 2 of x[n, h, w, c].
fn max_pool(c: i64, h: i64) -> LoopNest {
    let at = |place: usize, window: usize| Index::Var(place).times(2).add(Index::Var(window));
    let index = vec![Index::Var(0), at(1, 4), at(2, 5), Index::Var(3)];
    let tensors = vec![tensor("x", &[1, h, h, c], Role::Input), tensor("y", &[1, h / 2, h / 2, c], Role::Output)];
    let stage = Stage {
        output: 1,
        axes: loops("nhwc", &[1, h / 2, h / 2, c]),
        sums: loops("ij", &[2, 2]),
        reduction: Reduction::Max,
        guards: vec![],
        body: Expr::Load(Access { tensor: 0, index }),
    };
    LoopNest { name: "max_pool".into(), tensors, stages: vec![stage] }
}
