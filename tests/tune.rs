//! The search over schedules, with a fake runner; then real workers.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use syntune::error::Result;
use syntune::lower::LoopNest;
use syntune::spec::Strategy;
use syntune::tune::cost::{CostModel, features};
use syntune::tune::descent::{Descent, is_faster};
use syntune::tune::draft::draft;
use syntune::tune::space::Axis;
use syntune::tune::strategy::{Strategy as _, hop};
use syntune::tune::*;

/// A space of one tile and one categorical; time is the distance from `[4, 8]` and value 2. Config `[2, 16]` never builds.
#[derive(Default)]
struct Fake {
    n_measured: Mutex<BTreeMap<Config, usize>>,
}

impl Fake {
    fn secs(config: &Config) -> f64 {
        match (&config.decisions[0], &config.decisions[1]) {
            (Decision::PerfectTile(f), Decision::Categorical(n)) => {
                1e-3 * (1.0 + ((f[1] as f64).log2() - 3.0).abs() + (*n - 2).abs() as f64)
            }
            _ => f64::NAN,
        }
    }

    fn hash(config: &Config) -> u64 {
        syntune::synth::stable_hash(format!("{config:?}").as_bytes())
    }
}

impl Runner for Fake {
    fn spaces(&self, _: &Task) -> Result<Vec<Space>> {
        Ok(vec![Space {
            origin: Origin::Rules,
            knobs: vec![Knob::PerfectTile { extent: 32, n: 2, max_innermost: 16 }, Knob::Categorical { n: 4 }],
        }])
    }

    fn probe(&self, _: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
        let config = |p: &Proposal| match p {
            Proposal::Exact(config) => config.clone(),
            Proposal::Random { space, seed } => {
                let inner = 1 << (seed % 5);
                let decisions = vec![Decision::PerfectTile(vec![32 / inner, inner]), Decision::Categorical((seed / 7 % 4) as i64)];
                Config { space: *space, decisions }
            }
        };
        Ok(proposals.iter().map(config).map(|c| Ok(Candidate { hash: Fake::hash(&c), config: c, built: None })).collect())
    }

    fn measure(&self, _: &Task, candidates: &[Candidate], _: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()> {
        for c in candidates {
            *self.n_measured.lock().unwrap().entry(c.config.clone()).or_default() += 1;
            let broken = c.config.decisions[0] == Decision::PerfectTile(vec![2, 16]);
            let result = if broken { Err(Failure::DoesNotBuild("planted".into())) } else { Ok(Samples(vec![Fake::secs(&c.config)])) };
            let m = Measurement { config: c.config.clone(), hash: c.hash, result, steps: Steps::default(), library: None };
            if !known(m) {
                break;
            }
        }
        Ok(())
    }
}

fn task() -> Task {
    Task { computation: LoopNest { name: "fake".into(), tensors: vec![], stages: vec![] }.into(), target: "host".into(), n_threads: 1 }
}

fn evolve(fake: &mut Fake, n_trials: usize, seed: u64) -> Outcome {
    Tuner::new(fake, task(), Options::new(n_trials, seed)).run(&mut |_| {}).unwrap()
}

#[test]
fn a_search_finds_the_best_of_a_small_space_and_measures_nothing_twice() {
    let (fake, mut seen) = (Fake::default(), BTreeSet::new());
    let outcome = Tuner::new(&fake, task(), Options::new(100, 1)).run(&mut |m| assert!(seen.insert(m.hash))).unwrap();
    let best = outcome.best.unwrap();
    assert_eq!(best.config.decisions, [Decision::PerfectTile(vec![4, 8]), Decision::Categorical(2)]);
    assert!(matches!(outcome.stop, StopReason::LocalOptimum { .. }), "{}", outcome.stop);
    assert!(outcome.n_measured <= 20);
    assert_eq!(fake.n_measured.into_inner().unwrap().len(), outcome.n_measured);
}

#[test]
fn what_is_given_first_is_measured_first_and_once() {
    let fake = Fake::default();
    let config = |inner, n| Config { space: 0, decisions: vec![Decision::PerfectTile(vec![32 / inner, inner]), Decision::Categorical(n)] };
    let first: Vec<Config> = vec![config(1, 0), config(8, 3), config(1, 0)];
    let candidate = |config: &Config| Candidate { config: config.clone(), hash: Fake::hash(config), built: None };
    let mut order = Vec::new();
    let tuner = Tuner::new(&fake, task(), Options::new(12, 1)).first(first.iter().map(candidate).collect());
    tuner.run(&mut |m| order.push(m.config.clone())).unwrap();
    assert_eq!(order[..2], first[..2]);
    assert_eq!(order.iter().filter(|c| **c == first[0]).count(), 1);
    assert_eq!(order.len(), 12);
}

/// The fake, but TVM refuses the last category.
struct Refusing(Fake);

impl Runner for Refusing {
    fn spaces(&self, task: &Task) -> Result<Vec<Space>> {
        self.0.spaces(task)
    }

    fn probe(&self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
        let refuse = |c: Candidate| match c.config.decisions[1] {
            Decision::Categorical(3) => Err(Failure::DoesNotBuild(format!("TVM refused ScheduleSplit: {:?}", c.config))),
            _ => Ok(c),
        };
        Ok(self.0.probe(task, proposals)?.into_iter().map(|answer| answer.and_then(refuse)).collect())
    }

    fn measure(&self, task: &Task, candidates: &[Candidate], effort: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()> {
        self.0.measure(task, candidates, effort, known)
    }
}

#[test]
fn what_cannot_be_scheduled_is_counted_by_the_step_and_never_measured() {
    let outcome = Tuner::new(&Refusing(Fake::default()), task(), Options::new(100, 1))
        .run(&mut |m| assert_ne!(m.config.decisions[1], Decision::Categorical(3)))
        .unwrap();
    assert_eq!(outcome.refused.keys().collect::<Vec<_>>(), ["TVM refused ScheduleSplit"]);
    assert_eq!(outcome.best.unwrap().config.decisions, [Decision::PerfectTile(vec![4, 8]), Decision::Categorical(2)]);
}

#[test]
fn a_tile_far_beyond_the_registers_is_refused_by_name() {
    let tile = |n| Knob::PerfectTile { extent: 64, n, max_innermost: 64 };
    let space = Space { origin: Origin::Tiles, knobs: vec![tile(3), tile(3), tile(2)] };
    let config = |rows, lanes| {
        let cut = |inner| Decision::PerfectTile(vec![64 / inner, 1, inner]);
        Config { space: 0, decisions: vec![cut(rows), cut(lanes), Decision::PerfectTile(vec![1, 64])] }
    };
    assert_eq!([(16, 64), (64, 16), (64, 1)].map(|(rows, lanes)| space.refusal(&config(rows, lanes))), [None; 3]);
    assert_eq!(space.refusal(&config(32, 64)), Some("register tile of more than 64 vectors"));
    assert_eq!(Space { origin: Origin::Rules, ..space.clone() }.refusal(&config(32, 64)), None);
}

#[test]
fn every_strategy_finds_the_best_of_a_small_space() {
    // MetaSchedule's own needs a real worker
    for name in Strategy::NAMES.iter().filter(|name| !name.starts_with("evolutionary")) {
        let options = Options { strategy: Strategy::named(name).unwrap(), ..Options::new(100, 1) };
        let outcome = Tuner::new(&Fake::default(), task(), options).run(&mut |_| {}).unwrap();
        let best = outcome.best.unwrap().config.decisions;
        assert_eq!(best, [Decision::PerfectTile(vec![4, 8]), Decision::Categorical(2)], "{name}");
    }
}

#[test]
fn neighbours_are_legal_and_each_one_small_step_away() {
    let knobs = vec![
        Knob::PerfectTile { extent: 48, n: 3, max_innermost: 16 },
        Knob::PerfectTile { extent: 1, n: 2, max_innermost: 16 },
        Knob::Categorical { n: 3 },
        Knob::ComputeLocation,
    ];
    let space = Space { origin: Origin::Tiles, knobs };
    assert_eq!(space.axes().len(), 4);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..50 {
        let config = space.random(2, &mut rng);
        let around = space.neighbours(&config);
        assert!(around.len() >= 4 && !around.contains(&config), "{around:?}");
        for other in around {
            let changed: Vec<usize> = (0..4).filter(|&k| other.decisions[k] != config.decisions[k]).collect();
            assert_eq!((changed.len(), other.space), (1, 2));
            if let Decision::PerfectTile(factors) = &other.decisions[0] {
                assert!(factors.iter().product::<i64>() == 48 && factors[2] <= 16, "{factors:?}");
            }
            // and back again
            assert!(space.neighbours(&other).contains(&config), "{config:?} {other:?}");
        }
    }
    let corner = Config {
        space: 2,
        decisions: vec![
            Decision::PerfectTile(vec![48, 1, 1]),
            Decision::PerfectTile(vec![1, 1]),
            Decision::Categorical(0),
            Decision::ComputeLocation(-2),
        ],
    };
    let axis = |knob, place| Axis { knob, place };
    assert_eq!(space.ladder(&corner, axis(0, 2)), Some((vec![1, 2, 3, 4, 6, 8, 12, 16], 0)));
    assert_eq!(space.ladder(&corner, axis(0, 1)).unwrap().0.last(), Some(&48));
    assert_eq!(space.step(&corner, axis(2, 0), -1), None);
}

#[test]
fn a_difference_by_chance_is_no_improvement() {
    let samples = |values: &[f64]| Samples(values.to_vec());
    let noisy = samples(&[1.0, 1.2, 0.9, 1.1, 1.05]);
    assert!(!is_faster(&samples(&[0.98, 1.15, 0.9, 1.1, 1.05]), &noisy));
    assert!(is_faster(&samples(&[0.5, 0.52, 0.51, 0.5, 0.49]), &noisy));
    assert!(!is_faster(&noisy, &samples(&[0.5, 0.52, 0.51, 0.5, 0.49])));
    assert!(is_faster(&samples(&[0.9]), &samples(&[1.0])) && !is_faster(&samples(&[1.0]), &samples(&[1.0])));
    assert!(is_faster(&noisy, &samples(&[])) && !is_faster(&samples(&[]), &noisy));
}

#[test]
fn a_descent_ends_where_nothing_near_is_faster() {
    let spaces = Fake::default().spaces(&task()).unwrap();
    let config = |inner, n| Config { space: 0, decisions: vec![Decision::PerfectTile(vec![32 / inner, inner]), Decision::Categorical(n)] };
    let mut descent = Descent::new(&spaces);
    assert!(descent.ask(4).unwrap().is_empty());
    descent.start(&config(1, 0), &Samples(vec![Fake::secs(&config(1, 0))]));
    let mut asked = BTreeSet::new();
    loop {
        let proposals = descent.ask(2).unwrap();
        if proposals.is_empty() {
            break;
        }
        for proposal in proposals {
            let Proposal::Exact(config) = proposal else { panic!("{proposal:?}") };
            assert!(asked.insert(config.clone()), "{config:?} twice");
            let result = Ok(Samples(vec![Fake::secs(&config)]));
            descent.tell(&Measurement { hash: Fake::hash(&config), config, result, steps: Steps::default(), library: None });
        }
    }
    assert_eq!(descent.incumbent(), Some(&config(8, 2)));
}

#[test]
fn the_cost_model_ranks_configs_that_it_has_not_seen() {
    let knobs = vec![Knob::PerfectTile { extent: 256, n: 3, max_innermost: 64 }, Knob::PerfectTile { extent: 64, n: 3, max_innermost: 64 }];
    let space = Space { origin: Origin::Tiles, knobs };
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    let speed = |config: &Config| {
        let inner = |d: &Decision| if let Decision::PerfectTile(f) = d { (f[2] as f64).log2() } else { f64::NAN };
        1.0 / (1.0 + (inner(&config.decisions[0]) - 3.0).powi(2) + (inner(&config.decisions[1]) - 4.0).abs())
    };
    let draw = |n: usize, rng: &mut ChaCha8Rng| -> Vec<Config> { (0..n).map(|_| space.random(0, rng)).collect() };
    let (known, new) = (draw(80, &mut rng), draw(60, &mut rng));
    let rows = |configs: &[Config]| configs.iter().map(|c| features(&space, c)).collect::<Vec<_>>();
    let mut model = CostModel::default();
    model.fit(&rows(&known[..4]), &[1.0; 4], 1);
    assert!(!model.is_fitted());
    model.fit(&rows(&known), &known.iter().map(speed).collect::<Vec<_>>(), 1);
    let guessed = model.guess(&rows(&new));
    let (mut n_right, mut n_pairs) = (0, 0);
    for i in 0..new.len() {
        for j in 0..i {
            let (a, b) = (speed(&new[i]), speed(&new[j]));
            if (a - b).abs() > 0.05 {
                n_pairs += 1;
                n_right += usize::from((a > b) == (guessed[i].speed > guessed[j].speed));
            }
        }
    }
    assert!(n_pairs > 300 && 10 * n_right > 9 * n_pairs, "{n_right} of {n_pairs} pairs");
}

#[test]
fn failures_are_counted_by_cause_and_do_not_end_the_search() {
    let outcome = evolve(&mut Fake::default(), 100, 2);
    assert_eq!(outcome.failures.keys().collect::<Vec<_>>(), ["does not build"]);
    assert!(matches!(outcome.example, Some(Failure::DoesNotBuild(_))));
}

#[test]
fn the_same_seed_gives_the_same_search() {
    let order = |seed| {
        let mut order = vec![];
        Tuner::new(&Fake::default(), task(), Options::new(10, seed)).run(&mut |m| order.push(m.config.clone())).unwrap();
        order
    };
    assert_eq!(order(3), order(3));
    assert_ne!(order(3), order(4));
}

#[test]
fn a_resumed_search_measures_nothing_twice() {
    let mut known = vec![];
    Tuner::new(&Fake::default(), task(), Options::new(6, 5)).run(&mut |m| known.push(m.clone())).unwrap();
    let fake = Fake::default();
    let mut new = vec![];
    let outcome = Tuner::new(&fake, task(), Options::new(10, 6)).resume(known.clone()).run(&mut |m| new.push(m.clone())).unwrap();
    assert_eq!((outcome.n_measured, new.len()), (10, 4));
    assert!(new.iter().all(|m| known.iter().all(|k| k.hash != m.hash)));
}

#[test]
fn an_interrupted_search_keeps_what_it_measured() {
    let options = Options::new(100, 1);
    let stop = options.stop.clone();
    let mut n = 0;
    let outcome = Tuner::new(&Fake::default(), task(), options)
        .run(&mut |_| {
            n += 1;
            stop.store(n == 3, Ordering::Relaxed);
        })
        .unwrap();
    assert_eq!((outcome.stop, outcome.n_measured), (StopReason::Interrupted, 3));
    assert!(outcome.best.is_some());
}

#[test]
fn a_hop_keeps_the_product_and_the_innermost_limit() {
    let mut rng = <rand_chacha::ChaCha8Rng as rand::SeedableRng>::seed_from_u64(1);
    let mut factors = vec![7, 3, 4, 16];
    for _ in 0..500 {
        let next = hop(&factors, 16, &mut rng);
        assert_eq!(next.iter().product::<i64>(), 7 * 3 * 4 * 16);
        assert!(next[3] <= 16);
        assert_eq!(next.iter().zip(&factors).filter(|(a, b)| a != b).count(), 2);
        factors = next;
    }
    assert_eq!(hop(&[1, 1], 16, &mut rng), [1, 1]);
}

#[test]
fn samples_give_median_least_and_spread() {
    let samples = Samples(vec![5.0, 1.0, 2.0, 4.0, 3.0]);
    assert_eq!((samples.median_secs(), samples.min_secs(), samples.n_samples()), (3.0, 1.0, 5));
    assert_eq!(samples.spread_secs(), 1.0);
    assert_eq!(Samples(vec![]).median_secs(), f64::INFINITY);
}

#[cfg(feature = "tvm")]
mod real {
    use crate::util::{conv2d, worker_program};
    use std::time::{Duration, Instant};
    use syntune::lower::index::Index;
    use syntune::lower::{Access, Epilogue, Expr, Guard, Loop, LoopNest, Reduction, Role, Stage, Tensor, channels_last, layout, lower};
    use syntune::synth::Binding;
    use syntune::synth::library::resolve;
    use syntune::tune::protocol::{Fill, MeasureRequest, Program, Slot, Step};
    use syntune::tune::*;

    fn runner(run_secs: f64) -> LocalRunner {
        worker_program();
        LocalRunner::new(Limits { n_compilers: 1, run_secs, reference_secs: run_secs, ..Limits::default() }).unwrap()
    }

    fn small() -> Task {
        let nest = conv2d(8, 4, 6, 6, 3).with_epilogue(Epilogue { scale: true, bias: true, residual: true, relu: true }, 1);
        Task { computation: channels_last(&nest).0.into(), target: "host".into(), n_threads: 1 }
    }

    #[test]
    fn a_small_convolution_is_tuned_verified_and_recorded() {
        let runner = runner(20.0);
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(6, 1);
        options.artifacts = Some(folder.path().to_path_buf());
        let mut seen = 0;
        let task = small();
        let outcome = Tuner::new(&runner, task.clone(), options).run(&mut |_| seen += 1).unwrap();
        assert_eq!((outcome.n_measured, seen), (6, 6));
        assert_eq!(outcome.stop, StopReason::Trials { n: 6 });
        let best = outcome.best.unwrap();
        assert!(best.secs() > 0.0 && best.secs() < 0.1);
        assert!(best.library.unwrap().starts_with(folder.path()));
        assert!(outcome.cost.steps.llvm_secs > 0.0 && outcome.cost.steps.run_secs > 0.0);
        runner.record(&task, &best.config, &best.samples, folder.path()).unwrap();
        let (known, n_foreign) = runner.records(&task, folder.path(), 9).unwrap();
        assert_eq!((known.len(), n_foreign), (1, 0));
        assert_eq!(known[0].0.config, best.config);
        assert!((known[0].1 / best.samples.0.iter().sum::<f64>() * best.samples.n_samples() as f64 - 1.0).abs() < 1e-3);
    }

    #[test]
    fn fresh_workers_know_the_programs_of_an_earlier_run() {
        let task = small();
        let tune = |n_trials, known: &[Measurement]| {
            let mut rows = vec![];
            Tuner::new(&runner(20.0), task.clone(), Options::new(n_trials, 1))
                .resume(known.to_vec())
                .run(&mut |m| rows.push(m.clone()))
                .unwrap();
            rows
        };
        let known = tune(4, &[]);
        let proposals: Vec<Proposal> = known.iter().map(|m| Proposal::Exact(m.config.clone())).collect();
        let again = runner(20.0).probe(&task, &proposals).unwrap();
        assert!(again.iter().zip(&known).all(|(again, m)| again.as_ref().is_ok_and(|c| c.hash == m.hash)), "{again:?} {known:?}");
        // the same seed begins with the same proposals
        let new = tune(6, &known);
        assert_eq!(new.len(), 2);
        assert!(new.iter().all(|m| known.iter().all(|k| k.hash != m.hash)));
    }

    #[test]
    fn configs_replay_to_the_same_program_and_impossible_ones_are_repaired() {
        let runner = runner(20.0);
        let task = small();
        let spaces = runner.spaces(&task).unwrap();
        assert!(!spaces.is_empty());
        let proposals: Vec<Proposal> = (0..6).map(|i| Proposal::Random { space: i % spaces.len(), seed: i as u64 }).collect();
        let first: Vec<Candidate> = runner.probe(&task, &proposals).unwrap().into_iter().flatten().collect();
        assert_eq!(first.len(), 6);
        let exact: Vec<Proposal> = first.iter().map(|c| Proposal::Exact(c.config.clone())).collect();
        let again: Vec<Candidate> = runner.probe(&task, &exact).unwrap().into_iter().flatten().collect();
        assert_eq!(first, again);
        let mut wild = first[0].config.clone();
        for decision in &mut wild.decisions {
            if let Decision::PerfectTile(factors) = decision {
                factors.iter_mut().for_each(|f| *f = 5);
            }
        }
        let repaired = runner.probe(&task, &[Proposal::Exact(wild)]).unwrap();
        assert!(repaired[0].is_ok(), "{repaired:?}");
        let short = Config { space: 0, decisions: vec![] };
        let missing = Config { space: 99, decisions: vec![] };
        let refused = runner.probe(&task, &[Proposal::Exact(short), Proposal::Exact(missing)]).unwrap();
        assert!(matches!(&refused[..], [Err(Failure::DoesNotBuild(_)), Err(Failure::DoesNotBuild(_))]), "{refused:?}");
    }

    #[test]
    fn our_own_schedules_of_any_operator_compute_what_it_means() {
        let runner = runner(20.0);
        let image = Binding::of(&[("N", 1), ("Ci", 8), ("Co", 24), ("H", 6), ("W", 10), ("k", 3), ("g", 4), ("s", 2)]);
        let names = ["conv", "grouped", "depthwise", "conv1x1", "separable", "linear"];
        let mut n_built = 0;
        for (i, name) in names.into_iter().enumerate() {
            let mut binding = image.clone();
            if name == "depthwise" {
                binding = binding.with("C", 24);
            }
            if name == "linear" {
                binding = binding.with("L", 5);
            }
            let operator = resolve(name).unwrap();
            let epilogue = Epilogue { bias: i % 2 == 0, relu: i % 2 == 0, ..Epilogue::default() };
            let nest = lower(&operator, &binding).unwrap().with_epilogue(epilogue, layout::channel(operator.outputs().len()));
            let task = Task { computation: channels_last(&nest).0.into(), target: "host".into(), n_threads: 1 + i % 2 };
            let space = runner.spaces(&task).unwrap().len() - 1;
            let proposals: Vec<Proposal> = (0..20).map(|seed| Proposal::Random { space, seed: seed + 100 * i as u64 }).collect();
            let mut candidates: Vec<Candidate> = runner.probe(&task, &proposals).unwrap().into_iter().flatten().collect();
            assert!(candidates.len() > 15, "{name}: {} of 20 can be scheduled", candidates.len());
            candidates.truncate(3);
            let effort = Effort { hopeless_secs: 0.0, ..Effort::QUICK };
            let measured = &mut |m: Measurement| {
                assert!(m.result.is_ok(), "{name}: {:?} {:?}", m.config, m.result);
                n_built += 1;
                true
            };
            runner.measure(&task, &candidates, &effort, measured).unwrap();
        }
        assert_eq!(n_built, 3 * names.len());
    }

    #[test]
    fn two_kernels_run_as_one_program() {
        let runner = runner(20.0);
        let task = Task { computation: conv2d(4, 4, 6, 6, 3).into(), target: "host".into(), n_threads: 1 };
        let library = runner.build(&task, None).unwrap().unwrap().library;
        let image = |fill| Slot { shape: vec![1, 4, 6, 6], fill };
        let weight = Slot { shape: vec![4, 4, 3, 3], fill: Fill::Random(2) };
        let program = Program {
            tensors: vec![image(Fill::Random(1)), weight, image(Fill::Nan), image(Fill::Nan)],
            steps: vec![
                Step { library: library.clone(), arguments: vec![0, 1, 2] },
                Step { library: library.clone(), arguments: vec![2, 1, 3] },
            ],
        };
        let samples = runner.time_program(&program, &[2, 3], 1, &Effort::QUICK).unwrap().unwrap();
        assert!(samples.n_samples() >= 5);
        // the second kernel alone reads a tensor that nobody wrote
        let half = Program { steps: vec![program.steps[1].clone()], ..program };
        assert_eq!(runner.time_program(&half, &[3], 1, &Effort::QUICK).unwrap(), Err(Failure::NotFinite));
    }

    #[test]
    fn a_bad_target_is_an_error_that_lists_near_ones() {
        let task = Task { target: "llvm -mcpu=znver44".into(), ..small() };
        let said = tune_error(&task);
        assert!(said.contains("znver4"), "{said}");
    }

    fn tune_error(task: &Task) -> String {
        Tuner::new(&runner(20.0), task.clone(), Options::new(2, 1)).run(&mut |_| {}).unwrap_err().to_string()
    }

    /// y[i] = Σ over `extents` of x[index], one stage.
    fn sum_of(extents: &[i64], index: Index, guards: Vec<Guard>) -> LoopNest {
        let tensor = |name: &str, role| Tensor { name: name.into(), shape: vec![4], role };
        let sums = extents.iter().enumerate().map(|(i, &extent)| Loop { name: format!("k{i}"), extent }).collect();
        let axes = vec![Loop { name: "i".into(), extent: 4 }];
        let body = Expr::Load(Access { tensor: 0, index: vec![index] });
        LoopNest {
            name: "sum".into(),
            tensors: vec![tensor("x", Role::Input), tensor("y", Role::Output)],
            stages: vec![Stage { output: 1, axes, sums, reduction: Reduction::Sum, guards, body }],
        }
    }

    fn run_plain(runner: &LocalRunner, nest: LoopNest, limit_secs: f64) -> Result<(Samples, f64), Failure> {
        let task = Task { computation: nest.into(), target: "host".into(), n_threads: 1 };
        let library = runner.build(&task, None).unwrap().unwrap().library;
        let (program, outputs) = program(&task, &library);
        let request = MeasureRequest { program, expected: vec![(outputs[0], None)], tolerance: 1e-4, save: vec![], effort: None };
        runner.run(&request, 1, limit_secs).unwrap()
    }

    #[test]
    fn a_kernel_that_crashes_hangs_or_is_wrong_is_a_failure_and_the_next_one_runs() {
        let runner = runner(20.0);
        let fine = || sum_of(&[3], Index::Var(0), vec![]);
        // reads gigabytes outside its tensor
        let crash = run_plain(&runner, sum_of(&[3], Index::Var(0).add(Index::Var(1)).times(1 << 28), vec![]), 20.0);
        assert!(matches!(crash, Err(Failure::Crashed { signal: 11 })), "{crash:?}");
        assert!(run_plain(&runner, fine(), 20.0).is_ok());
        // 2^48 iterations
        let start = Instant::now();
        let endless =
            run_plain(&runner, sum_of(&[1 << 24, 1 << 24], Index::Var(0).add(Index::Var(1)).add(Index::Var(2)).modulo(4), vec![]), 1.0);
        assert!(matches!(endless, Err(Failure::TimedOut { .. })), "{endless:?}");
        assert!(start.elapsed() < Duration::from_secs(10));
        // compared with another nest's output
        let task = Task { computation: fine().into(), target: "host".into(), n_threads: 1 };
        let library = runner.build(&task, None).unwrap().unwrap().library;
        let (program, outputs) = program(&task, &library);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("other.f32");
        measure::write_values(&file, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        let request = MeasureRequest { program, expected: vec![(outputs[0], Some(file))], tolerance: 1e-4, save: vec![], effort: None };
        let wrong = runner.run(&request, 1, 20.0).unwrap();
        assert!(matches!(wrong, Err(Failure::WrongResult { max_error }) if max_error > 0.1), "{wrong:?}");
        assert!(run_plain(&runner, fine(), 20.0).is_ok());
    }

    #[test]
    fn a_worker_killed_from_outside_is_replaced() {
        let runner = runner(20.0);
        let fine = || sum_of(&[3], Index::Var(0), vec![]);
        run_plain(&runner, fine(), 20.0).unwrap();
        let pid = runner.measurer_pid().unwrap();
        assert!(std::process::Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        std::thread::sleep(Duration::from_millis(50));
        let killed = run_plain(&runner, fine(), 20.0);
        assert!(matches!(killed, Err(Failure::Crashed { signal: 9 })), "{killed:?}");
        run_plain(&runner, fine(), 20.0).unwrap();
        assert_ne!(runner.measurer_pid(), Some(pid));
    }
}

#[test]
fn drafts_are_legal_and_most_fill_the_vectors() {
    let tile = |extent, n, max_innermost| Knob::PerfectTile { extent, n, max_innermost };
    let knobs = vec![tile(28, 4, 64), tile(28, 4, 64), tile(48, 4, 64), tile(16, 2, 64), Knob::Categorical { n: 4 }, Knob::ComputeLocation];
    let space = Space { origin: Origin::Rules, knobs };
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut n_full = 0;
    for _ in 0..200 {
        let config = draft(&space, 7, &mut rng);
        assert_eq!((config.space, config.decisions.len()), (7, 6));
        for (decision, knob) in config.decisions.iter().zip(&space.knobs) {
            match (decision, knob) {
                (Decision::PerfectTile(f), Knob::PerfectTile { extent, n, max_innermost }) => {
                    assert_eq!((f.iter().product::<i64>(), f.len()), (*extent, *n));
                    assert!(f[n - 1] <= *max_innermost);
                }
                (Decision::Categorical(c), Knob::Categorical { n }) => assert!((0..*n).contains(c)),
                (Decision::ComputeLocation(_), Knob::ComputeLocation) => {}
                other => panic!("{other:?}"),
            }
        }
        let Decision::PerfectTile(channels) = &config.decisions[2] else { panic!("{config:?}") };
        n_full += usize::from(channels[3] >= 16);
    }
    assert!(n_full > 150, "{n_full} of 200 fill the vectors");
}
