//! Tuning what others made: modules that stock TVM wrote (`tests/modules/make.py`).

use crate::util::{conv2d, worker_program};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::path::PathBuf;
use syntune::lower::{Epilogue, channels_last, layout, lower};
use syntune::synth::Binding;
use syntune::synth::library::resolve;
use syntune::tune::cost::Rows;
use syntune::tune::*;

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/modules").join(name)
}

fn runner() -> LocalRunner {
    worker_program();
    LocalRunner::new(Limits { n_compilers: 1, ..Limits::default() }).unwrap()
}

fn task_of(module: Module) -> Task {
    Task { computation: Computation::Module(module), target: "host".into(), n_threads: 1 }
}

#[test]
fn workloads_of_stock_metaschedule_are_tuned_and_checked() {
    let runner = runner();
    let modules = runner.modules(&file("database_workload.json")).unwrap();
    let [cast, softmax, root] = &modules[..] else { panic!("{} modules", modules.len()) };
    assert!(cast.as_ref().unwrap_err().contains("not of float32"), "{cast:?}");
    let softmax = softmax.clone().unwrap();
    let parameter = |is_output| Parameter { shape: vec![8, 36], is_output };
    assert_eq!(softmax.parameters, [parameter(false), parameter(true)]);
    assert!(softmax.n_flops >= 8.0 * 36.0, "{}", softmax.n_flops);
    assert_eq!(runner.modules(&file("softmax.json")).unwrap()[0].as_ref().unwrap().parameters, softmax.parameters);
    let task = task_of(softmax);
    let mut n_works = 0;
    let outcome = Tuner::new(&runner, task.clone(), Options::new(6, 1)).run(&mut |m| n_works += usize::from(m.result.is_ok())).unwrap();
    assert!(n_works > 0, "{outcome:?}");
    // the best is kept where stock TVM looks for it, under the workload that it wrote
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(file("database_workload.json"), folder.path().join("database_workload.json")).unwrap();
    let best = outcome.best.unwrap();
    runner.record(&task, &best.config, &best.samples, folder.path()).unwrap();
    // negative data have no root
    let root = task_of(root.clone().unwrap());
    let outcome = Tuner::new(&runner, root, Options::new(2, 1)).run(&mut |_| {}).unwrap();
    assert!(outcome.best.is_some(), "{outcome:?}");
    let lines = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap().lines().count();
    assert_eq!((lines("database_workload.json"), lines("database_tuning_record.json")), (3, 1));
    let (known, n_foreign) = runner.records(&task, folder.path(), 9).unwrap();
    assert_eq!((known.len(), n_foreign), (1, 0));
    assert_eq!(known[0].0.config, best.config);
}

#[test]
fn the_roofline_of_a_module_is_that_of_its_nest() {
    let runner = runner();
    let sizes = Binding::of(&[("N", 1), ("Ci", 8), ("Co", 16), ("C", 16), ("H", 6), ("W", 6), ("L", 6), ("k", 3), ("g", 4), ("s", 2)]);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for name in ["conv", "depthwise", "grouped", "separable", "linear", "shift"] {
        let operator = resolve(name).unwrap();
        let epilogue = Epilogue { bias: true, relu: true, ..Epilogue::default() };
        let nest = channels_last(&lower(&operator, &sizes).unwrap().with_epilogue(epilogue, layout::channel(operator.outputs().len()))).0;
        let of_nest = Task { computation: nest.into(), target: "host".into(), n_threads: 1 };
        let spaces = runner.spaces(&of_nest).unwrap();
        let config = runner.probe(&of_nest, &[Proposal::Random { space: spaces.len() - 1, seed: 1 }]).unwrap().remove(0).unwrap();
        let folder = tempfile::tempdir().unwrap();
        runner.record(&of_nest, &config.config, &Samples(vec![1e-3]), folder.path()).unwrap();
        let of_module = task_of(runner.modules(&folder.path().join("database_workload.json")).unwrap().remove(0).unwrap());
        let rows = |task: &Task| Rows::new(&task.computation, &spaces, 1);
        let (by_nest, by_module) = (rows(&of_nest), rows(&of_module));
        for (number, space) in spaces.iter().enumerate() {
            for config in (0..20).map(|_| space.random(number, &mut rng)) {
                assert!(number + 1 < spaces.len() || by_nest.roofline.cycles(&config).is_some(), "{name}: {config:?}");
                assert_eq!(format!("{:?}", by_module.of(&config)), format!("{:?}", by_nest.of(&config)), "{name}: {config:?}");
            }
        }
    }
    let Computation::Module(other) = task_of(runner.modules(&file("softmax.json")).unwrap().remove(0).unwrap()).computation else {
        panic!()
    };
    assert_eq!(touched::nest(&other.json).unwrap().stages.len(), 4);
    assert_eq!(touched::nest("{\"nodes\": [{\"type\": \"s_tir.SBlock\", \"data\": {\"iter_vars\": 7}}]}"), None);
    assert_eq!(touched::nest("no JSON"), None);
}

#[test]
fn the_module_of_a_nest_is_the_same_task() {
    let runner = runner();
    let nest = channels_last(&conv2d(8, 4, 6, 6, 3).with_epilogue(Epilogue { bias: true, relu: true, ..Epilogue::default() }, 1)).0;
    let of_nest = Task { computation: nest.clone().into(), target: "host".into(), n_threads: 1 };
    let spaces = runner.spaces(&of_nest).unwrap();
    let config = runner.probe(&of_nest, &[Proposal::Random { space: spaces.len() - 1, seed: 1 }]).unwrap().remove(0).unwrap();
    let folder = tempfile::tempdir().unwrap();
    runner.record(&of_nest, &config.config, &Samples(vec![1e-3]), folder.path()).unwrap();
    let modules = runner.modules(&folder.path().join("database_workload.json")).unwrap();
    let module = modules[0].clone().unwrap();
    let shapes = |outputs| module.parameters.iter().filter(|p| p.is_output == outputs).map(|p| p.shape.clone()).collect::<Vec<_>>();
    assert_eq!(shapes(true), [nest.tensors[nest.output()].shape.clone()]);
    assert_eq!(shapes(false).len(), nest.parameters().len() - 1);
    let of_module = task_of(module);
    assert_eq!(runner.spaces(&of_module).unwrap(), spaces);
    // the same program, and one that is measured
    assert_eq!(runner.probe(&of_module, &[Proposal::Exact(config.config.clone())]).unwrap().remove(0).unwrap().hash, config.hash);
    let mut results = vec![];
    runner
        .measure(&of_module, &[config], &Effort::QUICK, &mut |m| {
            results.push(m.result);
            true
        })
        .unwrap();
    assert!(matches!(&results[..], [Ok(samples)] if samples.median_secs() > 0.0), "{results:?}");
}

#[test]
fn what_is_no_task_is_refused_with_the_reason() {
    let runner = runner();
    let words = |name: &str| match runner.modules(&file(name)) {
        Ok(modules) => modules.into_iter().filter_map(Result::err).collect::<Vec<_>>().join("; "),
        Err(error) => error.to_string(),
    };
    let relax = words("relax.json");
    assert!(relax.contains("extract_tasks"), "{relax}");
    assert!(words("make.py").contains("database_workload.json"), "{}", words("make.py"));
    assert!(words("missing.json").contains("reading"), "{}", words("missing.json"));
    // the worker is still there
    assert!(runner.target("host", 1).is_ok());
}
