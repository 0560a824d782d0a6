//! Our own schedules of functions that take rows one after the other, against what they mean.

use crate::util::worker_program;
use syntune::lower::index::Index;
use syntune::lower::{Access, Expr, Function, Loop, LoopNest, Reduction, Role, Stage, Tensor, channels_last};
use syntune::search::sequence;
use syntune::tune::*;

#[test]
fn rows_are_summed_in_vectors_and_done_one_after_the_other() {
    worker_program();
    let runner = LocalRunner::new(Limits::default()).unwrap();
    for (i, nest) in [sequence::layer_norm(&[2, 5, 48]), softmax(&[3, 7], 32), softmax(&[6], 24)].into_iter().enumerate() {
        for n_threads in [1, 2] {
            let task = Task { computation: nest.clone().into(), target: "host".into(), n_threads };
            let spaces = runner.spaces(&task).unwrap();
            let space = spaces.len() - 1;
            assert_eq!(spaces[space].origin, Origin::Tiles);
            // a row of 48 is cut in 8 or 16, one of 32 in 8, 16 or 32, one of 24 in 8
            let kinds: &[Knob] = &[vec![Knob::Categorical { n: 2 }; 2], vec![Knob::Categorical { n: 3 }; 2], vec![]][i];
            assert_eq!(spaces[space].knobs, kinds);
            let proposals: Vec<Proposal> = (0..3).map(|seed| Proposal::Random { space, seed }).collect();
            let candidates: Vec<Candidate> = runner.probe(&task, &proposals).unwrap().into_iter().map(Result::unwrap).collect();
            let mut n_right = 0;
            let effort = Effort { hopeless_secs: 0.0, ..Effort::QUICK };
            let measured = &mut |m: Measurement| {
                assert!(m.result.is_ok(), "{}: {:?} {:?}", nest.name, m.config, m.result);
                n_right += 1;
                true
            };
            runner.measure(&task, &candidates, &effort, measured).unwrap();
            assert_eq!(n_right, 3);
        }
    }
}

#[test]
fn a_matrix_product_is_not_taken_for_rows() {
    worker_program();
    let runner = LocalRunner::new(Limits::default()).unwrap();
    for nest in [sequence::projection(&[1, 6, 16], 8), channels_last(&sequence::projection(&[1, 6, 16], 8)).0] {
        let spaces = runner.spaces(&Task { computation: nest.into(), target: "host".into(), n_threads: 1 }).unwrap();
        // three axes and a sum are cut
        let n_cut = spaces[spaces.len() - 1].knobs.iter().filter(|k| matches!(k, Knob::PerfectTile { .. })).count();
        assert_eq!((spaces[spaces.len() - 1].origin, n_cut), (Origin::Tiles, 4));
    }
}

/// Over the last axis.
fn softmax(rows: &[i64], columns: i64) -> LoopNest {
    let whole = [rows, &[columns]].concat();
    let n = rows.len();
    let loops = |extents: &[i64]| extents.iter().enumerate().map(|(i, &extent)| Loop { name: format!("i{i}"), extent }).collect();
    let tensor = |shape: &[i64], role| Tensor { name: "t".into(), shape: shape.to_vec(), role };
    let temp = |shape: &[i64]| tensor(shape, Role::Temp);
    let tensors = vec![tensor(&whole, Role::Input), temp(rows), temp(&whole), temp(rows), tensor(&whole, Role::Output)];
    let load = |tensor, n_axes| Expr::Load(Access { tensor, index: (0..n_axes).map(Index::Var).collect() });
    let row = |output, reduction, body| Stage {
        output,
        axes: loops(rows),
        sums: vec![Loop { name: "j".into(), extent: columns }],
        reduction,
        guards: vec![],
        body,
    };
    let each = |output, body| Stage { output, axes: loops(&whole), sums: vec![], reduction: Reduction::Sum, guards: vec![], body };
    let below = Expr::Add(vec![load(0, n + 1), Expr::Mul(vec![load(1, n), Expr::Const(-1.0)])]);
    let stages = vec![
        row(1, Reduction::Max, load(0, n + 1)),
        each(2, below.apply(Function::Exp)),
        row(3, Reduction::Sum, load(2, n + 1)),
        each(4, Expr::Mul(vec![load(2, n + 1), load(3, n).apply(Function::Reciprocal)])),
    ];
    let mut nest = LoopNest { name: "softmax".into(), tensors, stages };
    nest.tensors.iter_mut().enumerate().for_each(|(t, tensor)| tensor.name = format!("t{t}"));
    nest
}
