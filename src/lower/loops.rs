//! The loop nest: what one operator computes at fixed sizes, and the one input of interpreter, TE, torch and tuner.

use super::index::Index;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// What a tensor of a nest is for. Parameters of the compiled function are the inputs, weights and the output,
/// in the order of [`LoopNest::tensors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Data that changes with every call.
    Input,
    /// Data that is constant at inference (weights, folded batch norm).
    Weight,
    /// Written by one stage and read by later ones.
    Temp,
    /// The result; exactly one, written by the last stage.
    Output,
}

/// A dense row-major f32 tensor.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tensor {
    pub name: String,
    pub shape: Vec<i64>,
    pub role: Role,
}

impl Tensor {
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product::<i64>() as usize
    }
}

/// One loop: `name` runs over `0..extent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Loop {
    pub name: String,
    pub extent: i64,
}

/// One element of a tensor, read at index expressions over the stage's loops.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Access {
    pub tensor: usize,
    pub index: Vec<Index>,
}

/// The value of one iteration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Expr {
    Load(Access),
    Const(f32),
    Add(Vec<Expr>),
    Mul(Vec<Expr>),
    Max(Vec<Expr>),
    Apply(Function, Box<Expr>),
}

/// A function of one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Function {
    /// eˣ.
    Exp,
    /// 1/x.
    Reciprocal,
    /// 1/√x.
    Rsqrt,
}

impl Function {
    pub fn of(self, x: f64) -> f64 {
        match self {
            Function::Exp => x.exp(),
            Function::Reciprocal => x.recip(),
            Function::Rsqrt => x.sqrt().recip(),
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Function::Exp => "exp",
            Function::Reciprocal => "reciprocal",
            Function::Rsqrt => "rsqrt",
        }
    }
}

/// How the iterations of one output element are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reduction {
    Sum,
    Max,
}

/// The iteration contributes nothing unless `0 ≤ index < extent`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Guard {
    pub index: Index,
    pub extent: i64,
}

/// `output[axes] = reduction over sums of (body where all guards hold, else the neutral element: 0 for a sum)`.
/// The output's axes are the stage's axes in order. In index expressions `Var(i)` is `axes[i]`, then the sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub output: usize,
    pub axes: Vec<Loop>,
    pub sums: Vec<Loop>,
    pub reduction: Reduction,
    pub guards: Vec<Guard>,
    pub body: Expr,
}

/// Stages in order of execution over named tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoopNest {
    pub name: String,
    pub tensors: Vec<Tensor>,
    pub stages: Vec<Stage>,
}

/// What follows an operator in a model and is fused into its kernel:
/// `relu(y · scale[channel] + bias[channel] + residual)`. Folded batch norm is a bias alone where its scale can be
/// multiplied into a weight that has the output's channel as an axis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Epilogue {
    pub scale: bool,
    pub bias: bool,
    pub residual: bool,
    pub relu: bool,
}

impl Expr {
    /// The function of this value.
    pub fn apply(self, function: Function) -> Expr {
        Expr::Apply(function, Box::new(self))
    }

    /// Calls `f` with every access.
    pub fn visit<'a>(&'a self, f: &mut impl FnMut(&'a Access)) {
        match self {
            Expr::Load(access) => f(access),
            Expr::Const(_) => {}
            Expr::Add(parts) | Expr::Mul(parts) | Expr::Max(parts) => parts.iter().for_each(|p| p.visit(f)),
            Expr::Apply(_, part) => part.visit(f),
        }
    }

    /// Calls `f` with every access, to change it.
    pub fn visit_mut(&mut self, f: &mut impl FnMut(&mut Access)) {
        match self {
            Expr::Load(access) => f(access),
            Expr::Const(_) => {}
            Expr::Add(parts) | Expr::Mul(parts) | Expr::Max(parts) => parts.iter_mut().for_each(|p| p.visit_mut(f)),
            Expr::Apply(_, part) => part.visit_mut(f),
        }
    }
}

impl Stage {
    /// All loops: axes, then sums. `Var(i)` is the i-th.
    pub fn loops(&self) -> impl Iterator<Item = &Loop> {
        self.axes.iter().chain(&self.sums)
    }

    pub fn extents(&self) -> Vec<i64> {
        self.loops().map(|l| l.extent).collect()
    }

    pub fn names(&self) -> Vec<String> {
        self.loops().map(|l| l.name.clone()).collect()
    }

    /// The accesses of a plain product of loads; `None` for any other body.
    pub fn factors(&self) -> Option<Vec<&Access>> {
        match &self.body {
            Expr::Load(access) => Some(vec![access]),
            Expr::Mul(parts) => parts.iter().map(|p| if let Expr::Load(a) = p { Some(a) } else { None }).collect(),
            _ => None,
        }
    }

    /// Multiply-adds (`syno.md` 10.1): iterations × max(factors − 1, 1); element-wise work counts one per element.
    pub fn n_macs(&self) -> u64 {
        let iterations: i64 = self.extents().iter().product();
        let factors = self.factors().map_or(1, |f| f.len().saturating_sub(1).max(1));
        iterations as u64 * factors as u64
    }
}

impl LoopNest {
    pub fn output(&self) -> usize {
        self.stages.last().expect("a nest has a stage").output
    }

    /// Tensors that the compiled function takes, in order.
    pub fn parameters(&self) -> Vec<usize> {
        (0..self.tensors.len()).filter(|&t| self.tensors[t].role != Role::Temp).collect()
    }

    /// Multiply-adds of all stages.
    pub fn n_macs(&self) -> u64 {
        self.stages.iter().map(Stage::n_macs).sum()
    }

    /// Elements of all weights.
    pub fn n_weights(&self) -> u64 {
        self.tensors.iter().filter(|t| t.role == Role::Weight).map(|t| t.n_elements() as u64).sum()
    }

    /// Standard deviation of every weight's initial values, so that the output's variance is about 2 (and 1 after ReLU) for inputs of
    /// variance 1: with F the product of all summed extents and W weights, `(2/F)^(1/2W)`. After He et al. 2015, for products of weights.
    pub fn weight_std(&self) -> f64 {
        let fan: f64 = self.stages.iter().flat_map(|s| &s.sums).map(|l| l.extent as f64).product();
        let n_weights = self.tensors.iter().filter(|t| t.role == Role::Weight).count().max(1);
        (2.0 / fan).powf(0.5 / n_weights as f64)
    }

    /// Appends the element-wise tail of a layer; the channel is axis `channel` of the output.
    /// New parameters, in this order: `scale[channel]`, `bias[channel]` (weights), `residual` (an input of the output's shape).
    pub fn with_epilogue(mut self, epilogue: Epilogue, channel: usize) -> LoopNest {
        if epilogue == Epilogue::default() {
            return self;
        }
        let old = self.output();
        let shape = self.tensors[old].shape.clone();
        let axes = self.stages.last().expect("a nest has a stage").axes.clone();
        let here: Vec<Index> = (0..shape.len()).map(Index::Var).collect();
        let mut result = self.tensors.remove(old);
        let shift = |t: usize| if t > old { t - 1 } else { t };
        for stage in &mut self.stages {
            stage.body.visit_mut(&mut |a| a.tensor = shift(a.tensor));
            stage.output = shift(stage.output);
        }
        let mut add = |name: &str, shape: Vec<i64>, role| {
            self.tensors.push(Tensor { name: name.into(), shape, role });
            self.tensors.len() - 1
        };
        let before = add("t_out", shape.clone(), Role::Temp);
        let mut value = Expr::Load(Access { tensor: before, index: here.clone() });
        if epilogue.scale {
            let scale = add("scale", vec![shape[channel]], Role::Weight);
            value = Expr::Mul(vec![value, Expr::Load(Access { tensor: scale, index: vec![Index::Var(channel)] })]);
        }
        let mut parts = vec![value];
        if epilogue.bias {
            let bias = add("bias", vec![shape[channel]], Role::Weight);
            parts.push(Expr::Load(Access { tensor: bias, index: vec![Index::Var(channel)] }));
        }
        if epilogue.residual {
            let residual = add("residual", shape.clone(), Role::Input);
            parts.push(Expr::Load(Access { tensor: residual, index: here }));
        }
        let sum = if parts.len() == 1 { parts.remove(0) } else { Expr::Add(parts) };
        let body = if epilogue.relu { Expr::Max(vec![sum, Expr::Const(0.0)]) } else { sum };
        self.stages.last_mut().expect("a nest has a stage").output = before;
        result.role = Role::Output;
        self.tensors.push(result);
        let output = self.tensors.len() - 1;
        self.stages.push(Stage { output, axes, sums: vec![], reduction: Reduction::Sum, guards: vec![], body });
        self
    }

    /// The same function with a tensor's axes stored in another order: new axis `i` is old axis `order[i]`.
    pub fn relayout(&mut self, tensor: usize, order: &[usize]) {
        let old = self.tensors[tensor].shape.clone();
        assert_eq!(old.len(), order.len(), "an order names every axis");
        self.tensors[tensor].shape = order.iter().map(|&o| old[o]).collect();
        for stage in &mut self.stages {
            stage.body.visit_mut(&mut |a| {
                if a.tensor == tensor {
                    a.index = order.iter().map(|&o| a.index[o].clone()).collect();
                }
            });
            if stage.output == tensor {
                let n = order.len();
                let mut place = vec![0; n];
                for (new, &o) in order.iter().enumerate() {
                    place[o] = new;
                }
                let renumber = |v: usize| Index::Var(if v < n { place[v] } else { v });
                stage.axes = order.iter().map(|&o| stage.axes[o].clone()).collect();
                stage.body.visit_mut(&mut |a| a.index.iter_mut().for_each(|e| *e = e.replace(&renumber)));
                stage.guards.iter_mut().for_each(|g| g.index = g.index.replace(&renumber));
            }
        }
    }

    /// Stores a tensor that is only read in blocks of its last axis: `[…, n]` as `[n/size, …, size]`.
    pub fn block(&mut self, tensor: usize, size: i64) {
        let shape = &mut self.tensors[tensor].shape;
        if let Some(last) = shape.pop() {
            shape.insert(0, last / size);
            shape.push(size);
        }
        for stage in &mut self.stages {
            stage.body.visit_mut(&mut |a| {
                if a.tensor == tensor
                    && let Some(last) = a.index.pop()
                {
                    a.index.insert(0, last.clone().over(size));
                    a.index.push(last.modulo(size));
                }
            });
        }
    }

    /// The listing that `syntune lower --to loops` prints.
    pub fn print(&self) -> String {
        let mut out = String::new();
        let shape = |t: &Tensor| t.shape.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        for t in &self.tensors {
            let role = format!("{:?}", t.role).to_lowercase();
            let _ = writeln!(out, "{role} {}[{}]", t.name, shape(t));
        }
        for stage in &self.stages {
            let names = stage.names();
            let mut depth = 0;
            for (i, l) in stage.loops().enumerate() {
                let kind = if i < stage.axes.len() { "for" } else { "sum" };
                let _ = writeln!(out, "{}{kind} {} in 0..{}", "  ".repeat(depth), l.name, l.extent);
                depth += 1;
            }
            for g in &stage.guards {
                let _ = writeln!(out, "{}if 0 <= {} < {}", "  ".repeat(depth), g.index.print(&names), g.extent);
                depth += 1;
            }
            let here: Vec<_> = stage.axes.iter().map(|l| l.name.clone()).collect();
            let sign = match (stage.sums.is_empty(), stage.reduction) {
                (true, _) => "=",
                (_, Reduction::Sum) => "+=",
                (_, Reduction::Max) => "max=",
            };
            let value = self.print_expr(&stage.body, &names);
            let _ = writeln!(out, "{}{}[{}] {sign} {value}", "  ".repeat(depth), self.tensors[stage.output].name, here.join(", "));
        }
        out
    }

    fn print_expr(&self, e: &Expr, names: &[String]) -> String {
        let join = |parts: &[Expr], sign: &str| parts.iter().map(|p| self.print_expr(p, names)).collect::<Vec<_>>().join(sign);
        match e {
            Expr::Load(a) => {
                let index: Vec<_> = a.index.iter().map(|i| i.print(names)).collect();
                format!("{}[{}]", self.tensors[a.tensor].name, index.join(", "))
            }
            Expr::Const(c) => format!("{c:?}"),
            Expr::Add(parts) => format!("({})", join(parts, " + ")),
            Expr::Mul(parts) => join(parts, " * "),
            Expr::Max(parts) => format!("max({})", join(parts, ", ")),
            Expr::Apply(function, part) => format!("{}({})", function.name(), self.print_expr(part, names)),
        }
    }
}
