//! Loop nests as TVM programs: what LLVM makes of them equals the interpreter.

use crate::util::{conv2d, random_values, relative_error};
use syntune::lower::index::Index;
use syntune::lower::pad::pad;
use syntune::lower::te::{module, te_script};
use syntune::lower::{Access, Epilogue, Expr, Function, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor, interp};
use syntune::tvm::{self, Buffer, Kernel, ffi};

fn through_tvm(nest: &LoopNest, arguments: &[Vec<f32>]) -> Vec<f32> {
    let module = module(nest).unwrap();
    // unoptimised: what is tested is the program, and LLVM would take most of the time
    let target = tvm::target::parse("llvm -opt-level=0", 1).unwrap();
    let (built, _) = tvm::build::compile(&module, &target).unwrap();
    let kernel = Kernel::jit(built).unwrap();
    let mut given = arguments.iter();
    let buffers: Vec<Buffer> = nest
        .parameters()
        .into_iter()
        .map(|t| match nest.tensors[t].role {
            Role::Output => Buffer::filled(&nest.tensors[t].shape, f32::NAN).unwrap(),
            _ => Buffer::new(&nest.tensors[t].shape, given.next().unwrap()).unwrap(),
        })
        .collect();
    kernel.run(&buffers).unwrap();
    let output = nest.parameters().iter().position(|&t| t == nest.output()).unwrap();
    buffers[output].values().unwrap()
}

pub fn agree(nest: &LoopNest) {
    let data = random_values(nest, 7);
    let slices: Vec<&[f32]> = data.iter().map(Vec::as_slice).collect();
    let expected = interp(nest, &slices).unwrap();
    let padded = interp(&pad(nest), &slices).unwrap();
    assert_eq!(expected, padded, "padding changed the meaning of\n{}", nest.print());
    let found = through_tvm(nest, &data);
    let error = relative_error(&found, &expected);
    assert!(error < 1e-5, "relative error {error} of\n{}", nest.print());
}

#[test]
fn a_convolution_has_no_condition_in_its_reduction() {
    let nest = pad(&conv2d(4, 3, 7, 5, 3));
    assert_eq!(nest.stages.len(), 2);
    assert!(nest.stages[1].guards.is_empty());
    assert_eq!(nest.tensors.last().unwrap().shape, vec![1, 3, 9, 7]);
}

#[test]
fn convolutions_of_odd_sizes_agree_with_the_interpreter() {
    for (o, c, h, w, k) in [(4, 3, 7, 5, 3), (8, 8, 1, 9, 5), (3, 2, 6, 6, 2), (2, 5, 4, 4, 1)] {
        agree(&conv2d(o, c, h, w, k));
    }
}

#[test]
fn epilogues_agree_with_the_interpreter() {
    for bits in 0..16 {
        let epilogue = Epilogue { bias: bits & 1 != 0, residual: bits & 2 != 0, relu: bits & 4 != 0, scale: bits & 8 != 0 };
        agree(&conv2d(4, 3, 5, 6, 3).with_epilogue(epilogue, 1));
    }
}

#[test]
fn other_layouts_agree_with_the_interpreter() {
    let mut nest = conv2d(4, 3, 5, 6, 3).with_epilogue(Epilogue { bias: true, residual: false, relu: true, scale: false }, 1);
    for (tensor, order) in [("x", vec![0, 2, 3, 1]), ("w", vec![2, 3, 1, 0]), ("y", vec![0, 2, 3, 1]), ("t_out", vec![0, 2, 3, 1])] {
        let t = nest.tensors.iter().position(|t| t.name == tensor).unwrap();
        nest.relayout(t, &order);
    }
    agree(&nest);
}

fn one_stage(reduction: Reduction, guards: Vec<Guard>, body: Expr, n: i64, k: i64) -> LoopNest {
    let tensor = |name: &str, shape: Vec<i64>, role| Tensor { name: name.into(), shape, role };
    let axis = |name: &str, extent| Loop { name: name.into(), extent };
    LoopNest {
        name: "one".into(),
        tensors: vec![tensor("x", vec![n], Role::Input), tensor("w", vec![k], Role::Weight), tensor("y", vec![n], Role::Output)],
        stages: vec![Stage { output: 2, axes: vec![axis("i", n)], sums: vec![axis("k", k)], reduction, guards, body }],
    }
}

fn read(tensor: usize, index: Index) -> Expr {
    Expr::Load(Access { tensor, index: vec![index] })
}

#[test]
fn guards_that_cannot_move_stay_and_are_right() {
    let (n, k) = (11, 4);
    let window = Index::Var(0).add(Index::Var(1)).plus(-2);
    let guard = Guard { index: window.clone(), extent: n };
    // a sum of two terms: the second one is not zero outside
    let sum = Expr::Add(vec![read(0, window.clone()), read(1, Index::Var(1))]);
    agree(&one_stage(Reduction::Sum, vec![guard.clone()], sum, n, k));
    // a greatest value: nothing is read outside
    let product = Expr::Mul(vec![read(0, window.clone()), read(1, Index::Var(1))]);
    agree(&one_stage(Reduction::Max, vec![guard.clone()], product, n, k));
    // a guard on an index that no tensor is read at
    let other = Guard { index: Index::Var(0).add(Index::Var(1).times(2)).plus(-3), extent: n };
    let wrapped = Expr::Mul(vec![read(0, window.modulo(n)), read(1, Index::Var(1))]);
    agree(&one_stage(Reduction::Sum, vec![other], wrapped, n, k));
}

#[test]
fn division_remainder_and_negative_positions_agree() {
    let (n, k) = (12, 3);
    let index = Index::Var(0).times(-1).add(Index::Var(1)).plus(-1).modulo(n).over(2).times(2);
    let body = Expr::Mul(vec![read(0, index), read(1, Index::Var(1)), Expr::Const(0.5)]);
    agree(&one_stage(Reduction::Sum, vec![], body, n, k));
}

#[test]
fn the_script_is_tvms_own() {
    let script = te_script(&conv2d(4, 3, 7, 5, 3)).unwrap();
    assert!(script.contains("T.prim_func") && script.contains("x_pad") && script.contains("def main"), "{script}");
}

#[test]
fn modules_survive_json_with_the_same_hash() {
    let module = module(&conv2d(4, 3, 7, 5, 3)).unwrap();
    let again = ffi::from_json(&ffi::to_json(&module).unwrap()).unwrap();
    assert!(tvm::structural_equal(&module, &again).unwrap());
    assert_eq!(tvm::structural_hash(&module).unwrap(), tvm::structural_hash(&again).unwrap());
}

#[test]
fn known_bad_versions_are_refused_with_the_way_out() {
    let version = |patch| tvm::load::Version { major: 0, minor: 1, patch };
    assert!(tvm::check_version(tvm::version()).is_ok());
    let said = tvm::check_version(version(16)).unwrap_err().to_string();
    assert!(said.contains("0.1.16") && said.contains("apache-tvm-ffi==0.1.14.post1"), "{said}");
    assert!(tvm::check_version(version(14)).is_err());
}

#[test]
fn targets_are_checked_by_name() {
    tvm::load_compiler().unwrap();
    let target = tvm::target::parse("llvm -mcpu=znver4 -num-cores 2", 1).unwrap();
    assert_eq!(target.n_cores, 2);
    assert!(target.json.contains("znver4"));
    assert_eq!(tvm::target::parse("{\"kind\": \"llvm\", \"mcpu\": \"znver3\"}", 3).unwrap().n_cores, 3);
    for (wrong, near) in [
        ("llvn", "llvm"),
        ("llvm -mcpu=znver44", "znver4"),
        ("llvm -mcpuu=znver4", "mcpu"),
        ("{", "JSON"),
        ("", "host"),
        ("llvm x", "option"),
    ] {
        let said = tvm::target::parse(wrong, 1).err().unwrap_or_else(|| panic!("{wrong} was taken")).to_string();
        assert!(said.contains(near), "{wrong}: {said}");
    }
}

#[test]
fn containers_and_callbacks_cross_the_border() {
    tvm::load_runtime().unwrap();
    let array = ffi::array(&[1i64, 2, 3]).unwrap();
    let back: Vec<i64> = ffi::items(&array).unwrap().iter().map(|i| ffi::integer(i).unwrap()).collect();
    assert_eq!(back, [1, 2, 3]);
    let double = ffi::func(|a| Ok((2 * ffi::integer(&a[0].into())?).into()));
    assert_eq!(ffi::integer(&double.call_packed(&[tvm_ffi::AnyView::from(&21i64)]).unwrap()).unwrap(), 42);
    let panics = ffi::func(|_| panic!("inside"));
    assert!(panics.call_packed(&[]).is_err());
}

mod operators {
    use super::*;
    use crate::util::{library_operators, random_operators, random_projections};
    use syntune::lower::{layout, lower, lower_flat};
    use syntune::synth::{Binding, Operator};

    /// Channels last, weights packed, staged and with an epilogue, against the nest as it is written. Also says whether any was packed.
    fn agree_in_both_layouts(label: &str, operator: &Operator, binding: &Binding) -> (f32, bool) {
        let channel = layout::channel(operator.outputs().len());
        let nest = lower(operator, binding).unwrap().with_epilogue(Epilogue { bias: true, relu: true, ..Epilogue::default() }, channel);
        let data = random_values(&nest, 3);
        let expected = interp(&nest, &data.iter().map(Vec::as_slice).collect::<Vec<_>>()).unwrap();
        // blocks of two fit axes of such sizes
        let (last, stored) = layout::for_cpu(&nest, 2);
        let given = (0..nest.tensors.len()).filter(|&t| matches!(nest.tensors[t].role, Role::Input | Role::Weight));
        let moved: Vec<Vec<f32>> = given.zip(&data).map(|(t, values)| stored[t].values(values, &nest.tensors[t].shape)).collect();
        let output = nest.output();
        let expected = stored[output].values(&expected, &nest.tensors[output].shape);
        let slices: Vec<&[f32]> = moved.iter().map(Vec::as_slice).collect();
        assert!(relative_error(&interp(&last, &slices).unwrap(), &expected) < 1e-6, "{label}: channels last\n{}", last.print());
        assert!(relative_error(&interp(&pad(&last), &slices).unwrap(), &expected) < 1e-6, "{label}: padded\n{}", pad(&last).print());
        let error = relative_error(&through_tvm(&last, &moved), &expected);
        assert!(error < 1e-5, "{label}: TE is off by {error:e}\n{}", last.print());
        (error, stored.iter().any(|s| s.block.is_some()))
    }

    fn table(what: &str, found: impl Iterator<Item = (f32, bool)>) {
        let (errors, packed): (Vec<f32>, Vec<bool>) = found.unzip();
        let n_packed = packed.iter().filter(|&&p| p).count();
        assert!(n_packed > packed.len() / 4, "{what}: {n_packed} of {} have packed weights", packed.len());
        let largest = errors.iter().copied().fold(0.0, f32::max);
        println!(
            "TE by LLVM, {what}: {} operators, staged, channels last, packed, with epilogue, largest relative error {largest:.1e}",
            errors.len()
        );
    }

    #[test]
    fn every_library_operator_agrees_at_odd_sizes() {
        let library = library_operators();
        library.iter().for_each(|(_, operator, binding)| agree(&lower_flat(operator, binding).unwrap()));
        table("library", library.iter().map(|(name, operator, binding)| agree_in_both_layouts(name, operator, binding)));
    }

    #[test]
    fn random_operators_agree() {
        table(
            "random",
            random_operators(200).iter().map(|(operator, binding)| agree_in_both_layouts(&operator.to_string(), operator, binding)),
        );
        table(
            "random, on sequences",
            random_projections(60).iter().map(|(operator, binding)| agree_in_both_layouts(&operator.to_string(), operator, binding)),
        );
    }
}

#[test]
fn two_shifted_parts_of_one_loop_are_not_merged() {
    // TVM 0.27 reads x[(h + 2) % 6] here when both remainders are floormod
    let nest = LoopNest {
        name: "shifted".into(),
        tensors: vec![
            Tensor { name: "x".into(), shape: vec![3, 2], role: Role::Input },
            Tensor { name: "y".into(), shape: vec![6], role: Role::Output },
        ],
        stages: vec![Stage {
            output: 1,
            axes: vec![Loop { name: "h".into(), extent: 6 }],
            sums: vec![],
            reduction: Reduction::Sum,
            guards: vec![],
            body: Expr::Load(Access {
                tensor: 0,
                index: vec![Index::Var(0).over(2).plus(1).modulo(3), Index::Var(0).modulo(2).plus(1).modulo(2)],
            }),
        }],
    };
    agree(&nest);
}

#[test]
fn traces_of_our_own_schedules_replay_as_databases_hold_them() {
    let nest = conv2d(8, 16, 6, 6, 3).with_epilogue(Epilogue { bias: true, relu: true, ..Epilogue::default() }, 1);
    let target = tvm::target::parse("host", 1).unwrap();
    let workload = tvm::schedule::Workload::new(module(&syntune::lower::channels_last(&nest).0).unwrap(), target).unwrap();
    let ours = workload.n_designs() - 1;
    assert!(workload.is_ours(ours));
    for seed in 1..6 {
        let scheduled = workload.schedule(ours, None, seed).unwrap();
        let json = tvm::schedule::trace_json(&scheduled.trace).unwrap().to_string();
        let fresh = syntune::call!("s_tir.schedule.TracedSchedule", workload.module, 1i64, 0i64, 2i64, true).unwrap();
        let trace = syntune::call!("ffi.json.Parse", ffi::text(&json)).unwrap();
        syntune::call!("s_tir.schedule.TraceApplyJSONToSchedule", trace, fresh).unwrap();
        let replayed = syntune::call!("s_tir.schedule.ScheduleGetMod", fresh).unwrap();
        assert!(ffi::structural_equal(&replayed, &scheduled.module).unwrap(), "seed {seed}");
    }
}

#[test]
fn an_exponential_is_right_from_end_to_end() {
    let mut values =
        vec![0.0, -0.0, 1.0, -1.0, 88.0, 88.5, 88.722, 88.73, 200.0, f32::INFINITY, -87.0, -87.3, -104.0, f32::NEG_INFINITY, f32::NAN];
    values.extend((0..2033).map(|i| -86.8 + 175.5 * i as f32 / 2033.0));
    let n = values.len() as i64;
    let x = Expr::Load(Access { tensor: 0, index: vec![Index::Var(0)] });
    let tensor = |name: &str, role| Tensor { name: name.into(), shape: vec![n], role };
    let axes = vec![Loop { name: "i".into(), extent: n }];
    let stage = Stage { output: 1, axes, sums: vec![], reduction: Reduction::Sum, guards: vec![], body: x.apply(Function::Exp) };
    let nest = LoopNest { name: "exp".into(), tensors: vec![tensor("x", Role::Input), tensor("y", Role::Output)], stages: vec![stage] };
    for (x, found) in values.iter().zip(through_tvm(&nest, std::slice::from_ref(&values))) {
        let expected = f64::from(*x).exp();
        if *x < -86.9 {
            assert!((0.0..2e-38).contains(&found), "exp({x}) = {found}");
        } else if f64::from(*x) < f64::from(f32::MAX).ln() {
            assert!((f64::from(found) / expected - 1.0).abs() < 3e-7, "exp({x}) = {found}, not {expected}");
        } else {
            assert_eq!(found.to_string(), (*x * f32::MAX).to_string(), "exp({x})");
        }
    }
}
