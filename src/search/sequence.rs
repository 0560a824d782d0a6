//! The kernels of a transformer's own layers, on sequences `[n, t, c]`.

use super::model::{load, one_stage, tensor};
use crate::lower::index::Index;
use crate::lower::{Expr, Function, Loop, LoopNest, Reduction, Role, Stage, Tensor};

/// Added to the variance by layer norm, as in torch.
const LAYER_NORM_EPSILON: f32 = 1e-5;

/// x[n, t, ci], w1[co, ci] → y[n, t, co].
pub fn projection(x: &[i64], c_out: i64) -> LoopNest {
    let v = Index::Var;
    let body = Expr::Mul(vec![load(0, vec![v(0), v(1), v(3)]), load(1, vec![v(2), v(3)])]);
    let tensors = vec![
        tensor("x", x.to_vec(), Role::Input),
        tensor("w1", vec![c_out, x[2]], Role::Weight),
        tensor("y", vec![x[0], x[1], c_out], Role::Output),
    ];
    let axes = [("n", x[0]), ("t", x[1]), ("o", c_out)];
    one_stage("projection", tensors, &axes, &[("c", x[2])], Reduction::Sum, vec![], body)
}

/// x[n, c, h, w], its learned places w1[h·w, c] → y[n, h·w, c].
pub fn tokens(x: &[i64]) -> LoopNest {
    let (n, c, n_tokens) = (x[0], x[1], x[2] * x[3]);
    let v = Index::Var;
    let place = load(0, vec![v(0), v(2), v(1).over(x[3]), v(1).modulo(x[3])]);
    let body = Expr::Add(vec![place, load(1, vec![v(1), v(2)])]);
    let tensors = vec![
        tensor("x", x.to_vec(), Role::Input),
        tensor("w1", vec![n_tokens, c], Role::Weight),
        tensor("y", vec![n, n_tokens, c], Role::Output),
    ];
    one_stage("tokens", tensors, &[("n", n), ("t", n_tokens), ("o", c)], &[], Reduction::Sum, vec![], body)
}

/// The mean over tokens: x[n, t, c] → y[n, c].
pub fn mean(x: &[i64]) -> LoopNest {
    let v = Index::Var;
    let body = Expr::Mul(vec![load(0, vec![v(0), v(2), v(1)]), Expr::Const(1.0 / x[1] as f32)]);
    let tensors = vec![tensor("x", x.to_vec(), Role::Input), tensor("y", vec![x[0], x[2]], Role::Output)];
    one_stage("mean", tensors, &[("n", x[0]), ("o", x[2])], &[("t", x[1])], Reduction::Sum, vec![], body)
}

/// `x[n, t, c]` less its mean over c, over its standard deviation, times `w1[c]`, plus `w2[c]`.
pub fn layer_norm(x: &[i64]) -> LoopNest {
    let mut d =
        Draft::new("layer-norm", vec![("x", x.to_vec(), Role::Input), ("w1", vec![x[2]], Role::Weight), ("w2", vec![x[2]], Role::Weight)]);
    let v = Index::Var;
    let here = || load(0, vec![v(0), v(1), v(2)]);
    let share = || Expr::Const(1.0 / x[2] as f32);
    let rows = [("n", x[0]), ("t", x[1])];
    let mean = d.stage("mean", &rows, &[("c", x[2])], Reduction::Sum, Expr::Mul(vec![here(), share()]));
    let centred = || Expr::Add(vec![here(), Expr::Mul(vec![load(mean, vec![v(0), v(1)]), Expr::Const(-1.0)])]);
    let variance = d.stage("variance", &rows, &[("c", x[2])], Reduction::Sum, Expr::Mul(vec![centred(), centred(), share()]));
    let above_zero = Expr::Add(vec![load(variance, vec![v(0), v(1)]), Expr::Const(LAYER_NORM_EPSILON)]);
    let scaled = Expr::Mul(vec![centred(), above_zero.apply(Function::Rsqrt), load(1, vec![v(2)])]);
    d.end(&[("n", x[0]), ("t", x[1]), ("o", x[2])], Expr::Add(vec![scaled, load(2, vec![v(2)])]))
}

/// Self-attention of several heads (Vaswani et al. 2017, section 3.2): x[n, t, 3c] holds queries, keys and values, each head after
/// head; → y[n, t, c].
pub fn attention(x: &[i64], n_heads: i64) -> LoopNest {
    let (n, t, c) = (x[0], x[1], x[2] / 3);
    let size = c / n_heads;
    let mut d = Draft::new("attention", vec![("x", x.to_vec(), Role::Input)]);
    let v = Index::Var;
    // the element `e` of a head at a token: of its query (0), key (1) or value (2)
    let part = |which: i64, token: usize, e: usize| load(0, vec![v(0), v(token), v(1).times(size).add(v(e)).plus(which * c)]);
    let (rows, pairs) = ([("n", n), ("h", n_heads), ("i", t)], [("n", n), ("h", n_heads), ("i", t), ("j", t)]);
    let score = d.stage("score", &pairs, &[("e", size)], Reduction::Sum, Expr::Mul(vec![part(0, 2, 4), part(1, 3, 4)]));
    let of_pair = |tensor: usize| load(tensor, vec![v(0), v(1), v(2), v(3)]);
    let of_row = |tensor: usize| load(tensor, vec![v(0), v(1), v(2)]);
    let greatest = d.stage("greatest", &rows, &[("j", t)], Reduction::Max, of_pair(score));
    let below = Expr::Add(vec![of_pair(score), Expr::Mul(vec![of_row(greatest), Expr::Const(-1.0)])]);
    let scaled = Expr::Mul(vec![below, Expr::Const((size as f32).powf(-0.5))]);
    let share = d.stage("share", &pairs, &[], Reduction::Sum, scaled.apply(Function::Exp));
    let whole = d.stage("whole", &rows, &[("j", t)], Reduction::Sum, of_pair(share));
    let mixed = [("n", n), ("h", n_heads), ("i", t), ("e", size)];
    let mixed_body = Expr::Mul(vec![load(share, vec![v(0), v(1), v(2), v(4)]), part(2, 4, 3)]);
    let mixed = d.stage("mixed", &mixed, &[("j", t)], Reduction::Sum, mixed_body);
    let head = || v(2).over(size);
    let divisor = load(whole, vec![v(0), head(), v(1)]).apply(Function::Reciprocal);
    let value = load(mixed, vec![v(0), head(), v(1), v(2).modulo(size)]);
    d.end(&[("n", n), ("t", t), ("o", c)], Expr::Mul(vec![value, divisor]))
}

/// A nest of several stages in the making.
struct Draft {
    nest: LoopNest,
}

impl Draft {
    fn new(name: &str, tensors: Vec<(&str, Vec<i64>, Role)>) -> Draft {
        let tensors: Vec<Tensor> = tensors.into_iter().map(|(name, shape, role)| tensor(name, shape, role)).collect();
        Draft { nest: LoopNest { name: name.into(), tensors, stages: vec![] } }
    }

    /// Adds a stage that writes a tensor of its own, and says which.
    fn stage(&mut self, name: &str, axes: &[(&str, i64)], sums: &[(&str, i64)], reduction: Reduction, body: Expr) -> usize {
        self.nest.tensors.push(tensor(name, axes.iter().map(|a| a.1).collect(), Role::Temp));
        let output = self.nest.tensors.len() - 1;
        let loops = |parts: &[(&str, i64)]| parts.iter().map(|&(name, extent)| Loop { name: name.into(), extent }).collect();
        self.nest.stages.push(Stage { output, axes: loops(axes), sums: loops(sums), reduction, guards: vec![], body });
        output
    }

    /// The nest, ended by an element-wise stage.
    fn end(mut self, axes: &[(&str, i64)], body: Expr) -> LoopNest {
        let output = self.stage("y", axes, &[], Reduction::Sum, body);
        self.nest.tensors[output].role = Role::Output;
        self.nest
    }
}
