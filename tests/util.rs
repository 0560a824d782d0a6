use rand::{Rng, SeedableRng};
use syntune::lower::index::Index;
use syntune::lower::{Access, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor};

/// A k×k convolution at stride 1 with the border kept, batch 1: x[1,c,h,w], w[o,c,k,k] → y[1,o,h,w].
pub fn conv2d(o: i64, c: i64, h: i64, w: i64, k: i64) -> LoopNest {
    let tensor = |name: &str, shape: Vec<i64>, role| Tensor { name: name.into(), shape, role };
    let axis = |name: &str, extent| Loop { name: name.into(), extent };
    let v = Index::Var;
    let (row, column) = (v(2).add(v(5)).plus(-(k / 2)), v(3).add(v(6)).plus(-(k / 2)));
    let data = Access { tensor: 0, index: vec![v(0), v(4), row.clone(), column.clone()] };
    let weight = Access { tensor: 1, index: vec![v(1), v(4), v(5), v(6)] };
    let stage = Stage {
        output: 2,
        axes: vec![axis("n", 1), axis("o", o), axis("h", h), axis("w", w)],
        sums: vec![axis("c", c), axis("i", k), axis("j", k)],
        reduction: Reduction::Sum,
        guards: vec![Guard { index: row, extent: h }, Guard { index: column, extent: w }],
        body: Expr::Mul(vec![Expr::Load(data), Expr::Load(weight)]),
    };
    LoopNest {
        name: "conv2d".into(),
        tensors: vec![
            tensor("x", vec![1, c, h, w], Role::Input),
            tensor("w", vec![o, c, k, k], Role::Weight),
            tensor("y", vec![1, o, h, w], Role::Output),
        ],
        stages: vec![stage],
    }
}

/// Seeded values in (-1, 1) for every input and weight.
pub fn random_values(nest: &LoopNest, seed: u64) -> Vec<Vec<f32>> {
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let given = nest.tensors.iter().filter(|t| matches!(t.role, Role::Input | Role::Weight));
    given.map(|t| (0..t.n_elements()).map(|_| rng.random_range(-1.0..1.0)).collect()).collect()
}

/// The largest difference over the largest expected magnitude; NaN counts as infinite.
pub fn relative_error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let scale = expected.iter().fold(1e-6f32, |m, v| m.max(v.abs()));
    let worst =
        found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, |m: f32, d| if d.is_nan() { f32::INFINITY } else { m.max(d) });
    worst / scale
}
