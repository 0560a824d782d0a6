//! Lowering to torch against the interpreter: forward on odd sizes and borders, gradients against finite differences.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use syntune::lower::index::Index;
use syntune::lower::plan::{Plan, Step};
use syntune::lower::torch::TorchOp;
use syntune::lower::{Access, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor, interp};
use tch::{Kind, Tensor as T};

/// Parses `a*4 + b//2 - (c + 1)%3` over named loops.
fn index(text: &str, names: &[String]) -> Index {
    fn sum(s: &[char], at: &mut usize, names: &[String]) -> Index {
        let mut e = product(s, at, names);
        while *at < s.len() && matches!(s[*at], '+' | '-') {
            let sign = if s[*at] == '+' { 1 } else { -1 };
            *at += 1;
            e = e.add(product(s, at, names).times(sign));
        }
        e
    }
    fn product(s: &[char], at: &mut usize, names: &[String]) -> Index {
        let mut e = atom(s, at, names);
        while *at < s.len() && matches!(s[*at], '*' | '/' | '%') {
            let op = s[*at];
            *at += if op == '/' { 2 } else { 1 };
            let Index::Const(k) = atom(s, at, names) else { panic!("a number follows {op}") };
            e = match op {
                '*' => e.times(k),
                '/' => e.over(k),
                _ => e.modulo(k),
            };
        }
        e
    }
    fn atom(s: &[char], at: &mut usize, names: &[String]) -> Index {
        if s[*at] == '(' {
            *at += 1;
            let e = sum(s, at, names);
            *at += 1;
            return e;
        }
        let start = *at;
        while *at < s.len() && s[*at].is_alphanumeric() {
            *at += 1;
        }
        let word: String = s[start..*at].iter().collect();
        match word.parse() {
            Ok(k) => Index::Const(k),
            Err(_) => Index::Var(names.iter().position(|n| *n == word).unwrap_or_else(|| panic!("loop {word}"))),
        }
    }
    let s: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    sum(&s, &mut 0, names)
}

fn loops(text: &str) -> Vec<Loop> {
    text.split_whitespace()
        .map(|l| {
            let (name, extent) = l.split_once(':').unwrap();
            Loop { name: name.into(), extent: extent.parse().unwrap() }
        })
        .collect()
}

struct Draft {
    tensors: Vec<Tensor>,
    stages: Vec<Stage>,
}

impl Draft {
    fn new(tensors: &str) -> Draft {
        let tensors = tensors
            .split_whitespace()
            .map(|t| {
                let (name, shape) = t.split_once(':').unwrap();
                let role = if name.starts_with('x') { Role::Input } else { Role::Weight };
                Tensor { name: name.into(), shape: shape.split(',').map(|s| s.parse().unwrap()).collect(), role }
            })
            .collect();
        Draft { tensors, stages: vec![] }
    }

    fn load(&self, text: &str, names: &[String]) -> Expr {
        let (name, rest) = text.trim().split_once('[').unwrap();
        let tensor = self.tensors.iter().position(|t| t.name == name).unwrap_or_else(|| panic!("tensor {name}"));
        Expr::Load(Access { tensor, index: rest.trim_end_matches(']').split(',').map(|e| index(e, names)).collect() })
    }

    /// Guards as `h+i-1 < 5`.
    fn stage(self, axes: &str, sums: &str, guards: &[&str], product: &str) -> Draft {
        let names: Vec<String> = loops(axes).iter().chain(&loops(sums)).map(|l| l.name.clone()).collect();
        let parts: Vec<Expr> = product.split('·').map(|p| self.load(p, &names)).collect();
        let body = if parts.len() == 1 { parts[0].clone() } else { Expr::Mul(parts) };
        self.body(axes, sums, guards, Reduction::Sum, |_, _| body)
    }

    fn body(
        mut self,
        axes: &str,
        sums: &str,
        guards: &[&str],
        reduction: Reduction,
        body: impl FnOnce(&Draft, &[String]) -> Expr,
    ) -> Draft {
        let (axes, sums) = (loops(axes), loops(sums));
        let names: Vec<String> = axes.iter().chain(&sums).map(|l| l.name.clone()).collect();
        let body = body(&self, &names);
        let guards = guards
            .iter()
            .map(|g| {
                let (e, extent) = g.split_once('<').unwrap();
                Guard { index: index(e, &names), extent: extent.trim().parse().unwrap() }
            })
            .collect();
        let shape = axes.iter().map(|l| l.extent).collect();
        self.tensors.push(Tensor { name: format!("t{}", self.stages.len()), shape, role: Role::Temp });
        self.stages.push(Stage { output: self.tensors.len() - 1, axes, sums, reduction, guards, body });
        self
    }

    fn nest(mut self) -> LoopNest {
        self.tensors.last_mut().unwrap().role = Role::Output;
        LoopNest { name: "test".into(), tensors: self.tensors, stages: self.stages }
    }
}

/// Largest error of torch's forward and gradients against the interpreter, relative to the largest value.
pub fn check(nest: &LoopNest, n_probes: usize) -> (f64, f64) {
    let op = TorchOp::new(nest).unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let given: Vec<&Tensor> = nest.tensors.iter().filter(|t| matches!(t.role, Role::Input | Role::Weight)).collect();
    let data: Vec<Vec<f32>> = given.iter().map(|t| (0..t.n_elements()).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    let run = |data: &[Vec<f32>]| interp(nest, &data.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
    let want = run(&data);
    let tensors: Vec<T> = given.iter().zip(&data).map(|(t, d)| T::from_slice(d).view(&t.shape[..]).set_requires_grad(true)).collect();
    let y = op.forward(&tensors.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(y.size(), nest.tensors[nest.output()].shape);
    let flat = |t: &T| Vec::<f32>::try_from(t.contiguous().view([-1])).unwrap();
    let got = flat(&y);
    let scale = want.iter().fold(1e-3f32, |m, v| m.max(v.abs()));
    let forward = want.iter().zip(&got).map(|(a, b)| f64::from((a - b).abs() / scale)).fold(0.0, f64::max);

    let probe: Vec<f32> = want.iter().map(|_| rng.random_range(-1.0..1.0)).collect();
    (y * T::from_slice(&probe).view(&nest.tensors[nest.output()].shape[..])).sum(Kind::Float).backward();
    let value = |data: &[Vec<f32>]| run(data).iter().zip(&probe).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let mut gradient: f64 = 0.0;
    for (i, t) in tensors.iter().enumerate() {
        let grads = flat(&t.grad());
        let largest = grads.iter().fold(1e-1f32, |m, v| m.max(v.abs()));
        for _ in 0..n_probes {
            let k = rng.random_range(0..data[i].len());
            let step = 1e-2f32;
            let (mut up, mut down) = (data.clone(), data.clone());
            up[i][k] += step;
            down[i][k] -= step;
            let difference = (value(&up) - value(&down)) / f64::from(up[i][k] - down[i][k]);
            gradient = gradient.max((difference - f64::from(grads[k])).abs() / f64::from(largest));
        }
    }
    (forward, gradient)
}

fn agrees(nest: &LoopNest) {
    let (forward, gradient) = check(nest, 6);
    assert!(forward < 1e-5, "forward is off by {forward:e}:\n{}{:#?}", nest.print(), Plan::new(nest).unwrap());
    assert!(gradient < 2e-3, "gradient is off by {gradient:e}:\n{}", nest.print());
}

fn count(nest: &LoopNest, f: impl Fn(&Step) -> bool) -> usize {
    Plan::new(nest).unwrap().steps.iter().filter(|s| f(s)).count()
}

fn is_conv(nest: &LoopNest) {
    agrees(nest);
    assert_eq!(count(nest, |s| matches!(s, Step::Conv { .. })), 1, "{:#?}", Plan::new(nest).unwrap());
    assert_eq!(count(nest, |s| matches!(s, Step::Unfold { .. } | Step::Gather { .. } | Step::Mask { .. })), 0);
}

fn conv3x3() -> LoopNest {
    Draft::new("x:2,3,7,5 w:4,3,3,3")
        .stage("n:2 o:4 h:7 w:5", "c:3 i:3 j:3", &["h+i-1 < 7", "w+j-1 < 5"], "x[n,c,h+i-1,w+j-1] · w[o,c,i,j]")
        .nest()
}

#[test]
fn a_3x3_convolution_becomes_one_conv2d() {
    is_conv(&conv3x3());
}

#[test]
fn factors_may_stand_in_any_order_and_weights_in_any_layout() {
    is_conv(
        &Draft::new("x:2,3,7,5 w:3,3,3,4")
            .stage("n:2 o:4 h:7 w:5", "c:3 i:3 j:3", &["h+i-1 < 7", "w+j-1 < 5"], "w[i,c,j,o] · x[n,c,h+i-1,w+j-1]")
            .nest(),
    );
    is_conv(
        &Draft::new("x:2,7,5,3 w:4,3,3,3")
            .stage("n:2 h:7 w:5 o:4", "c:3 i:3 j:3", &["h+i-1 < 7", "w+j-1 < 5"], "x[n,h+i-1,w+j-1,c] · w[o,c,i,j]")
            .nest(),
    );
}

#[test]
fn strided_dilated_and_even_windows_become_conv2d() {
    is_conv(
        &Draft::new("x:2,3,9,8 w:4,3,3,2")
            .stage("n:2 o:4 h:5 w:4", "c:3 i:3 j:2", &["h*2+i-1 < 9", "w*2+j < 8"], "x[n,c,h*2+i-1,w*2+j] · w[o,c,i,j]")
            .nest(),
    );
    is_conv(
        &Draft::new("x:2,3,9,8 w:4,3,3,3")
            .stage("n:2 o:4 h:9 w:8", "c:3 i:3 j:3", &["h+i*2-2 < 9", "w+j*3-3 < 8"], "x[n,c,h+i*2-2,w+j*3-3] · w[o,c,i,j]")
            .nest(),
    );
    is_conv(
        &Draft::new("x:2,3,9,8 w:4,3,4,2")
            .stage("n:2 o:4 h:9 w:8", "c:3 i:4 j:2", &["h+i-1 < 9", "w+j-1 < 8"], "x[n,c,h+i-1,w+j-1] · w[o,c,i,j]")
            .nest(),
    );
    is_conv(
        &Draft::new("x:2,3,9,8 w:4,3,4,3")
            .stage("n:2 o:4 h:9 w:5", "c:3 i:4 j:3", &["h+i-1 < 9"], "x[n,c,h+i-1,w+j+1] · w[o,c,i,j]")
            .nest(),
    );
}

#[test]
fn grouped_and_depthwise_windows_become_grouped_conv2d() {
    is_conv(
        &Draft::new("x:2,6,5,5 w:2,4,3,3,3")
            .stage("n:2 g:2 o:4 h:5 w:5", "c:3 i:3 j:3", &["h+i-1 < 5", "w+j-1 < 5"], "x[n,g*3+c,h+i-1,w+j-1] · w[g,o,c,i,j]")
            .nest(),
    );
    is_conv(
        &Draft::new("x:2,6,5,5 w:8,3,3,3")
            .stage("n:2 o:8 h:5 w:5", "c:3 i:3 j:3", &["h+i-1 < 5", "w+j-1 < 5"], "x[n,(o//4)*3+c,h+i-1,w+j-1] · w[o,c,i,j]")
            .nest(),
    );
    is_conv(
        &Draft::new("x:2,6,5,5 w:6,3,3")
            .stage("n:2 c:6 h:5 w:5", "i:3 j:3", &["h+i-1 < 5", "w+j-1 < 5"], "x[n,c,h+i-1,w+j-1] · w[c,i,j]")
            .nest(),
    );
    // one weight for all groups
    is_conv(
        &Draft::new("x:2,6,5,5 w:4,3,3,3")
            .stage("n:2 g:2 o:4 h:5 w:5", "c:3 i:3 j:3", &["h+i-1 < 5", "w+j-1 < 5"], "x[n,g*3+c,h+i-1,w+j-1] · w[o,c,i,j]")
            .nest(),
    );
}

#[test]
fn one_dimensional_windows_become_conv2d() {
    is_conv(&Draft::new("x:2,3,7,5 w:4,3,3").stage("n:2 o:4 h:7 w:5", "c:3 i:3", &["h+i-1 < 7"], "x[n,c,h+i-1,w] · w[o,c,i]").nest());
    is_conv(&Draft::new("x:2,3,7,5 w:4,3,3").stage("n:2 o:4 h:7 w:5", "c:3 j:3", &["w+j-1 < 5"], "x[n,c,h,w+j-1] · w[o,c,j]").nest());
    is_conv(&Draft::new("x:3,7 w:4,3,3").stage("o:4 h:7", "c:3 i:3", &["h+i-1 < 7"], "x[c,h+i-1] · w[o,c,i]").nest());
    // a window over channels
    is_conv(&Draft::new("x:2,6,5,5 w:3").stage("n:2 c:6 h:5 w:5", "i:3", &["c+i-1 < 6"], "x[n,c+i-1,h,w] · w[i]").nest());
}

#[test]
fn one_by_one_is_a_product_without_copies() {
    let nest = Draft::new("x:2,3,7,5 w:4,3").stage("n:2 o:4 h:7 w:5", "c:3", &[], "x[n,c,h,w] · w[o,c]").nest();
    agrees(&nest);
    assert_eq!(count(&nest, |s| matches!(s, Step::Gather { .. } | Step::Unfold { .. } | Step::Mask { .. })), 0);
}

#[test]
fn shifts_become_rolls() {
    let nest = Draft::new("x:2,3,7,5 w:4,3").stage("n:2 o:4 h:7 w:5", "c:3", &[], "x[n,c,(h+1)%7,(w-1)%5] · w[o,c]").nest();
    agrees(&nest);
    assert_eq!(count(&nest, |s| matches!(s, Step::Roll { .. })), 2);
    assert_eq!(count(&nest, |s| matches!(s, Step::Gather { .. })), 0);
    // a shift of what a window reads
    is_conv(&Draft::new("x:2,3,7,5 w:4,3,3").stage("n:2 o:4 h:7 w:5", "c:3 i:3", &["h+i-1 < 7"], "x[n,c,(h+i)%7,w] · w[o,c,i]").nest());
    // a window around the border
    agrees(&Draft::new("x:2,3,7,5 w:4,3,3").stage("n:2 o:4 h:7 w:5", "c:3 i:3", &[], "x[n,c,(h+i-1)%7,w] · w[o,c,i]").nest());
}

#[test]
fn strided_slices_and_pools() {
    agrees(&Draft::new("x:2,3,8,6 w:4,3").stage("n:2 o:4 h:4 w:3", "c:3", &[], "x[n,c,h*2,w*2+1] · w[o,c]").nest());
    agrees(&Draft::new("x:2,3,8,6").stage("n:2 c:3 h:4 w:3", "i:2 j:2", &[], "x[n,c,h*2+i,w*2+j]").nest());
    agrees(
        &Draft::new("x:2,3,7,5 w:4,3")
            .stage("n:2 o:4 h:7 w:5", "c:3 i:3 j:3", &["h+i-1 < 7", "w+j-1 < 5"], "x[n,c,h+i-1,w+j-1] · w[o,c]")
            .nest(),
    );
    // a sum that nothing reads, an output that nothing reads
    agrees(&Draft::new("x:2,3").stage("n:2 k:4", "c:3 d:5", &[], "x[n,c]").nest());
    agrees(&Draft::new("x:2,3,4 w:3").stage("n:2", "c:3 d:4", &[], "x[n,c,d] · w[c]").nest());
}

#[test]
fn max_pooling_ignores_the_border() {
    let pool = |axes: &str, sums: &str, guards: &[&str], load: &str| {
        Draft::new("x:2,3,7,6").body(axes, sums, guards, Reduction::Max, |d, names| d.load(load, names)).nest()
    };
    agrees(&pool("n:2 c:3 h:7 w:6", "i:3 j:3", &["h+i-1 < 7", "w+j-1 < 6"], "x[n,c,h+i-1,w+j-1]"));
    agrees(&pool("n:2 c:3 h:3 w:3", "i:2 j:2", &[], "x[n,c,h*2+i,w*2+j]"));
}

#[test]
fn low_rank_factors_in_two_stages_and_in_one() {
    agrees(
        &Draft::new("x:2,6,7,5 w0:2,6,3,3 w1:4,2")
            .stage("n:2 r:2 h:7 w:5", "c:6 i:3 j:3", &["h+i-1 < 7", "w+j-1 < 5"], "x[n,c,h+i-1,w+j-1] · w0[r,c,i,j]")
            .stage("n:2 o:4 h:7 w:5", "r:2", &[], "t0[n,r,h,w] · w1[o,r]")
            .nest(),
    );
    let one = |product| {
        Draft::new("x:2,6,7,5 w0:2,6,3 w1:8,2,3").stage("n:2 o:8 h:7 w:5", "c:6 r:2 i:3 j:3", &["h+i-1 < 7", "w+j-1 < 5"], product).nest()
    };
    let nest = one("x[n,c,h+i-1,w+j-1] · w0[r,c,i] · w1[o,r,j]");
    agrees(&nest);
    assert_eq!(count(&nest, |s| matches!(s, Step::Conv { .. })), 2, "separable windows are two convolutions");
    agrees(&one("w1[o,r,j] · w0[r,c,i] · x[n,c,h+i-1,w+j-1]"));
}

#[test]
fn one_loop_on_two_axes_reads_the_diagonal() {
    agrees(&Draft::new("x:2,5,5 w:3,2").stage("o:3 h:5", "c:2", &[], "x[c,h,h] · w[o,c]").nest());
    agrees(&Draft::new("x:2,5,5 w:3,2,3").stage("o:3 h:5", "c:2 i:3", &["h+i-1 < 5"], "x[c,h+i-1,h] · w[o,c,i]").nest());
    agrees(
        &Draft::new("x:2,5,6 w:3,2,3").stage("o:3 h:5 v:6", "c:2 i:3", &["h+i-1 < 5", "v+i-1 < 6"], "x[c,h+i-1,v+i-1] · w[o,c,i]").nest(),
    );
}

#[test]
fn quotients_and_remainders_become_reshapes() {
    let nest = Draft::new("x:2,12,5 w:4,3").stage("n:2 k:20 o:3", "c:3", &[], "x[n,(k%4)*3+c,k//4] · w[k%4,c]").nest();
    agrees(&Draft::new("x:2,6,5 w:6,4").stage("n:2 o:24 h:5", "", &[], "x[n,o//4,h] · w[o//4,o%4]").nest());
    agrees(&nest);
    assert_eq!(count(&nest, |s| matches!(s, Step::Gather { .. })), 0);
    // pixel shuffle, a quotient inside a window, and one that does not divide
    agrees(&Draft::new("x:2,8,3,3").stage("n:2 c:2 h:6 w:6", "", &[], "x[n,c*4+(h%2)*2+w%2,h//2,w//2]").nest());
    agrees(&Draft::new("x:2,2,4,3 w:3").stage("n:2 h:8 c:3", "i:3", &["h+i-1 < 8"], "x[n,(h+i-1)%2,(h+i-1)//2,c] · w[i]").nest());
    agrees(&Draft::new("x:2,4 w:7").stage("n:2 h:7", "", &[], "x[n,(h+1)//2] · w[h]").nest());
    agrees(&Draft::new("x:2,7 w:3").stage("n:2 h:7", "i:3", &["h+i-1 < 7"], "x[n,h+i-1] · w[(h//3)%3]").nest());
    agrees(&Draft::new("x:2,7").stage("n:2 h:4", "", &[], "x[n,6-h*2]").nest());
}

#[test]
fn a_window_of_a_window_keeps_both_borders() {
    let nest = Draft::new("x:2,3,9 w0:3,3 w1:3")
        .stage("n:2 c:3 h:9", "i:3 e:3", &["h+i-1 < 9", "h+i+e-2 < 9"], "x[n,c,h+i+e-2] · w0[c,i] · w1[e]")
        .nest();
    agrees(&nest);
    agrees(&Draft::new("x:2,3,9 w0:3,3").stage("n:2 c:3 h:9", "i:3 e:3", &["h+i-1 < 9", "h+i+e-2 < 9"], "x[n,c,h+i+e-2] · w0[c,i]").nest());
    agrees(
        &Draft::new("x:2,3,9 w0:4,3,3")
            .stage("n:2 o:4 h:9", "c:3 i:3 e:3", &["h+i-1 < 9", "h+i+e-2 < 9"], "x[n,c,h+i+e-2] · w0[o,c,e]")
            .nest(),
    );
}

#[test]
fn epilogues_constants_and_padding_stages() {
    let epilogue = syntune::lower::Epilogue { scale: true, bias: true, residual: true, relu: true };
    agrees(&conv3x3().with_epilogue(epilogue, 1));
    let padded = Draft::new("x:2,3,5")
        .stage("n:2 c:3 h:7", "", &["h-1 < 5"], "x[n,c,h-1]")
        .body("n:2 c:3 h:7", "", &["h-1 < 5"], Reduction::Sum, |d, names| Expr::Add(vec![d.load("t0[n,c,h]", names), Expr::Const(2.0)]))
        .body("n:2 h:7", "c:3", &[], Reduction::Sum, |d, names| {
            Expr::Mul(vec![Expr::Const(0.5), Expr::Max(vec![d.load("t1[n,c,h]", names), d.load("x[n,c,h//2]", names)])])
        })
        .nest();
    agrees(&padded);
}

#[test]
fn a_read_outside_a_tensor_is_refused_by_name() {
    let nest = Draft::new("x:2,5 w:3").stage("n:2 h:5", "i:3", &[], "x[n,h+i] · w[i]").nest();
    let message = TorchOp::new(&nest).err().unwrap().to_string();
    assert!(message.contains("x is read at h + i on an axis of 5"), "{message}");
    let op = TorchOp::new(&conv3x3()).unwrap();
    let x = T::zeros([2, 3, 7, 5], (Kind::Float, tch::Device::Cpu));
    assert!(op.forward(&[&x]).unwrap_err().to_string().contains("takes 2 tensors, 1 given"));
    assert!(op.forward(&[&x, &x]).unwrap_err().to_string().contains("[4, 3, 3, 3] is expected"));
}

mod operators {
    use super::*;
    use crate::util::{library_operators, random_operators, random_projections};
    use syntune::lower::{lower, stagings};

    /// Stagings of an operator that are run besides the chosen one, the flat one first.
    const MOST: usize = 4;

    /// The largest errors of forward and gradient, staged in several ways and flat.
    fn both(label: &str, operator: &syntune::synth::Operator, binding: &syntune::synth::Binding) -> (f64, f64) {
        let mut largest: (f64, f64) = (0.0, 0.0);
        let nests = stagings(operator, binding, MOST).unwrap();
        for nest in nests.into_iter().chain([lower(operator, binding).unwrap()]) {
            let (forward, gradient) = check(&nest, 1);
            assert!(
                forward < 1e-5 && gradient < 5e-3,
                "{label}: forward is off by {forward:e}, gradients by {gradient:e}\n{}",
                nest.print()
            );
            largest = (largest.0.max(forward), largest.1.max(gradient));
        }
        largest
    }

    fn table(what: &str, errors: impl Iterator<Item = (f64, f64)>) {
        let errors: Vec<_> = errors.collect();
        let (forward, gradient) = errors.iter().fold((0.0f64, 0.0f64), |m, e| (m.0.max(e.0), m.1.max(e.1)));
        println!(
            "torch, {what}: {} operators, staged and flat, largest relative error {forward:.1e}, of gradients {gradient:.1e}",
            errors.len()
        );
    }

    #[test]
    fn every_library_operator_agrees_staged_and_flat_at_odd_sizes() {
        table("library", library_operators().iter().map(|(name, operator, binding)| both(name, operator, binding)));
    }

    #[test]
    fn random_operators_agree_staged_and_flat() {
        table("random", random_operators(200).iter().map(|(operator, binding)| both(&operator.to_string(), operator, binding)));
        let sequences = random_projections(60);
        table("random, on sequences", sequences.iter().map(|(operator, binding)| both(&operator.to_string(), operator, binding)));
    }
}

#[test]
fn a_strided_operator_is_torchs_convolution_of_stride_2_at_even_images() {
    let operator = syntune::synth::library::resolve("conv-strided").unwrap();
    for (h, w) in [(1, 1), (2, 3), (5, 4), (7, 6)] {
        let sizes = [("N", 2), ("Ci", 3), ("Co", 4), ("H", h), ("W", w), ("k", 3), ("r", 2)];
        let nest = syntune::lower::lower(&operator, &syntune::synth::Binding::of(&sizes)).unwrap();
        is_conv(&nest);
        let data = crate::util::random_values(&nest, 3);
        let tensor = |i: usize| T::from_slice(&data[i]).view(&nest.tensors[i].shape[..]);
        let y = tensor(0).conv2d(&tensor(1), None::<&T>, [2, 2], [1, 1], [1, 1], 1);
        assert_eq!(y.size(), [2, 4, h, w]);
        let expected = Vec::<f32>::try_from(y.contiguous().view([-1])).unwrap();
        let found = interp(&nest, &data.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        assert!(crate::util::relative_error(&found, &expected) < 1e-5, "{h}×{w}");
    }
}
