//! One budget over several kernels, with a fake runner whose kernels get faster along planted curves.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use syntune::error::Result;
use syntune::lower::LoopNest;
use syntune::spec::Strategy;
use syntune::synth::{child_seed, stable_hash};
use syntune::tune::cost::Lessons;
use syntune::tune::guided::{Guided, Parts};
use syntune::tune::strategy::Strategy as _;
use syntune::tune::tasks::{Kernel, tune_model};
use syntune::tune::*;

/// Seconds of the n-th program measured of a kernel, from 1; NaN fails.
type Curve = fn(usize) -> f64;

/// Kernels by name. What is measured again has the time that it had.
struct Fake {
    curves: BTreeMap<&'static str, Curve>,
    /// Configs of every kernel, times 4.
    n_kinds: i64,
    known: Mutex<BTreeMap<(String, u64), f64>>,
    order: Mutex<Vec<String>>,
}

impl Fake {
    fn new(curves: &[(&'static str, Curve)]) -> Fake {
        Fake { curves: curves.iter().copied().collect(), n_kinds: 1000, known: Mutex::default(), order: Mutex::default() }
    }
}

impl Runner for Fake {
    fn spaces(&self, _: &Task) -> Result<Vec<Space>> {
        let knobs = vec![Knob::PerfectTile { extent: 2, n: 4, max_innermost: 2 }, Knob::Categorical { n: self.n_kinds }];
        Ok(vec![Space { origin: Origin::Tiles, knobs }])
    }

    fn probe(&self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
        let space = &self.spaces(task)?[0];
        let config = |p: &Proposal| match p {
            Proposal::Exact(config) => config.clone(),
            Proposal::Random { space: number, seed } => space.random(*number, &mut ChaCha8Rng::seed_from_u64(*seed)),
        };
        let hash = |config: &Config| stable_hash(format!("{config:?}").as_bytes());
        Ok(proposals.iter().map(config).map(|c| Ok(Candidate { hash: hash(&c), config: c, built: None })).collect())
    }

    fn measure(&self, task: &Task, candidates: &[Candidate], _: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()> {
        let Computation::Nest(nest) = &task.computation else { unreachable!() };
        let name = &nest.name;
        for c in candidates {
            let mut all = self.known.lock().unwrap();
            let n = all.keys().filter(|k| k.0 == *name).count() + 1;
            let secs = *all.entry((name.clone(), c.hash)).or_insert_with(|| {
                self.order.lock().unwrap().push(name.clone());
                self.curves[name.as_str()](n)
            });
            drop(all);
            let result = if secs.is_nan() { Err(Failure::DoesNotBuild("planted".into())) } else { Ok(Samples(vec![secs])) };
            let m = Measurement { config: c.config.clone(), hash: c.hash, result, steps: Steps::default(), library: None };
            if !known(m) {
                break;
            }
        }
        Ok(())
    }
}

fn kernel(name: &str, weight: f64) -> Kernel {
    let nest = LoopNest { name: name.into(), tensors: vec![], stages: vec![] };
    let task = Task { computation: nest.into(), target: "host".into(), n_threads: 1 };
    Kernel { name: name.into(), task, weight, floor_secs: 0.0, known: vec![], first: vec![] }
}

fn options(n_trials: usize) -> Options {
    Options { strategy: Strategy::Random, ..Options::new(n_trials, 1) }
}

fn tune(fake: &mut Fake, kernels: &[Kernel], n_trials: usize) -> Vec<Outcome> {
    tune_model(fake, kernels, &options(n_trials), &mut |_, _| {}).unwrap().0
}

fn shares(outcomes: &[Outcome]) -> Vec<usize> {
    outcomes.iter().map(|o| o.n_measured).collect()
}

/// The model's seconds.
fn total(kernels: &[Kernel], outcomes: &[Outcome]) -> f64 {
    kernels.iter().zip(outcomes).map(|(k, o)| k.weight * o.best.as_ref().unwrap().secs()).sum()
}

fn steep(n: usize) -> f64 {
    1e-3 * (1.0 + 30.0 / n as f64)
}

fn flat(_: usize) -> f64 {
    1e-3
}

#[test]
fn a_steep_kernel_gets_more_than_a_flat_one_and_a_frequent_one_more_than_a_rare_one() {
    let both = [kernel("steep", 1.0), kernel("flat", 1.0)];
    let n = shares(&tune(&mut Fake::new(&[("steep", steep), ("flat", flat)]), &both, 128));
    assert!(n[0] > n[1] + 16, "{n:?}");
    let n = shares(&tune(&mut Fake::new(&[("a", steep), ("b", steep)]), &[kernel("a", 1.0), kernel("b", 8.0)], 128));
    assert!(n[1] > 2 * n[0], "{n:?}");
}

#[test]
fn the_model_is_faster_than_with_equal_shares() {
    let curves: [(&str, Curve); 4] =
        [("large", |n| 1e-3 * (0.5 + 20.0 / n as f64)), ("done", |_| 2e-4), ("small", |n| 1e-5 * (1.0 + 5.0 / n as f64)), ("flat", flat)];
    let kernels = [kernel("large", 4.0), kernel("done", 2.0), kernel("small", 1.0), kernel("flat", 1.0)];
    for n_trials in [64, 160] {
        let shared = tune(&mut Fake::new(&curves), &kernels, n_trials);
        let fake = Fake::new(&curves);
        let equal: Vec<Outcome> = kernels
            .iter()
            .map(|k| Tuner::new(&fake, k.task.clone(), options(n_trials / kernels.len())).run(&mut |_| {}).unwrap())
            .collect();
        assert_eq!(shares(&equal).iter().sum::<usize>(), shares(&shared).iter().sum::<usize>());
        let ratio = total(&kernels, &equal) / total(&kernels, &shared);
        assert!(ratio > 1.15, "{n_trials} trials: {ratio} times as fast, {:?}", shares(&shared));
    }
}

#[test]
fn a_kernel_at_its_floor_gets_no_more_than_its_first_turn() {
    let mut kernels = [kernel("flat", 9.0), kernel("steep", 1.0)];
    kernels[0].floor_secs = 1e-3;
    let n = shares(&tune(&mut Fake::new(&[("steep", steep), ("flat", flat)]), &kernels, 100));
    let turn = Options::new(50, 1).batch;
    assert_eq!(n, [turn, 100 - turn]);
}

#[test]
fn the_budget_is_kept_to_the_measurement() {
    let kernels = [kernel("steep", 1.0), kernel("flat", 3.0), kernel("other", 2.0)];
    for n_trials in [1, 2, 3, 7, 24, 50, 97] {
        let fake = Fake::new(&[("steep", steep), ("flat", flat), ("other", steep)]);
        let mut heard = [0; 3];
        let (outcomes, stop) = tune_model(&fake, &kernels, &options(n_trials), &mut |k, _| heard[k] += 1).unwrap();
        assert_eq!(shares(&outcomes), heard);
        assert_eq!((fake.order.lock().unwrap().len(), stop), (n_trials, StopReason::Trials { n: n_trials }));
        // in turn first, the smallest budget in single steps
        assert_eq!(heard.iter().filter(|&&n| n > 0).count(), n_trials.min(3), "{heard:?}");
    }
}

#[test]
fn what_is_known_counts_as_spent_and_is_not_measured_again() {
    let mut fake = Fake::new(&[("steep", steep), ("flat", flat)]);
    let mut kernels = [kernel("steep", 1.0), kernel("flat", 1.0)];
    let mut measured = [vec![], vec![]];
    tune_model(&fake, &kernels, &options(40), &mut |k, m| measured[k].push(m.clone())).unwrap();
    for (kernel, known) in kernels.iter_mut().zip(measured) {
        kernel.known = known;
    }
    let mut n_new = 0;
    let (outcomes, _) = tune_model(&fake, &kernels, &options(64), &mut |_, _| n_new += 1).unwrap();
    assert_eq!((n_new, fake.order.lock().unwrap().len(), shares(&outcomes).iter().sum::<usize>()), (24, 64, 64));
    assert!(tune(&mut fake, &kernels, 40).iter().all(|o| o.best.is_some()));
    assert_eq!(fake.order.lock().unwrap().len(), 64);
}

#[test]
fn the_same_seed_asks_for_the_same() {
    let kernels = [kernel("steep", 1.0), kernel("flat", 1.0), kernel("other", 2.0)];
    let run = || {
        let mut fake = Fake::new(&[("steep", steep), ("flat", flat), ("other", steep)]);
        let outcomes = tune(&mut fake, &kernels, 90);
        (fake.order.into_inner().unwrap(), outcomes.into_iter().map(|o| o.best.unwrap().config).collect::<Vec<_>>())
    };
    assert_eq!(run(), run());
}

#[test]
fn a_kernel_without_more_programs_leaves_its_share_to_others() {
    let fake = Fake { n_kinds: 1, ..Fake::new(&[("steep", steep), ("flat", flat)]) };
    let kernels = [kernel("steep", 1.0), kernel("flat", 1.0)];
    let (outcomes, stop) = tune_model(&fake, &kernels, &options(64), &mut |_, _| {}).unwrap();
    assert_eq!((shares(&outcomes), stop), (vec![4, 4], StopReason::Exhausted { n: 8 }));
    // all four of its kinds are known, and so is what is around the best
    assert!(matches!(outcomes[0].stop, StopReason::LocalOptimum { n: 4, .. }));
}

#[test]
fn a_kernel_of_which_nothing_works_does_not_starve_the_others() {
    let mut fake = Fake::new(&[("broken", |_| f64::NAN), ("late", |n| if n > 12 { 1e-3 } else { f64::NAN }), ("steep", steep)]);
    let kernels = [kernel("broken", 5.0), kernel("late", 1.0), kernel("steep", 1.0)];
    let outcomes = tune(&mut fake, &kernels, 120);
    assert!(outcomes[0].best.is_none() && outcomes[0].failures["does not build"] == outcomes[0].n_measured);
    assert!(outcomes[1].best.is_some() && outcomes[2].n_measured > 20, "{:?}", shares(&outcomes));
}

#[test]
fn time_and_interruption_end_it() {
    let kernels = [kernel("steep", 1.0), kernel("flat", 1.0)];
    let curves: [(&str, Curve); 2] = [("steep", steep), ("flat", flat)];
    let late = Options { limit_secs: 0.0, ..options(64) };
    let (outcomes, stop) = tune_model(&Fake::new(&curves), &kernels, &late, &mut |_, _| {}).unwrap();
    assert_eq!((shares(&outcomes), stop), (vec![1, 1], StopReason::TimeLimit { secs: 0.0 }), "one each: a model needs all of its kernels");
    let options = options(64);
    let mut n = 0;
    let (outcomes, stop) = tune_model(&Fake::new(&curves), &kernels, &options, &mut |_, _| {
        n += 1;
        options.stop.store(n == 11, Ordering::Relaxed);
    })
    .unwrap();
    assert_eq!((shares(&outcomes).iter().sum::<usize>(), stop), (11, StopReason::Interrupted));
    assert!(outcomes.iter().all(|o| o.best.is_some()));
}

#[test]
fn kernels_of_a_model_hand_on_what_they_were_taught() {
    let measured = |parts: Parts| {
        let fake = Fake::new(&[("steep", steep), ("other", steep)]);
        let options = Options { strategy: Strategy::Syntune, parts, ..Options::new(48, 1) };
        tune_model(&fake, &[kernel("steep", 1.0), kernel("other", 1.0)], &options, &mut |_, _| {}).unwrap();
        fake.known.into_inner().unwrap().into_keys().collect::<Vec<_>>()
    };
    let with = measured(Parts::ALL);
    assert_eq!(with, measured(Parts::ALL));
    assert_ne!(with, measured(Parts { transfer: false, ..Parts::ALL }));
}

#[test]
fn one_kernel_is_searched_as_it_is_alone() {
    // MetaSchedule's own needs a real worker
    for name in Strategy::NAMES.iter().filter(|name| !name.starts_with("evolutionary")) {
        let options = Options { strategy: Strategy::named(name).unwrap(), ..Options::new(48, 7) };
        let kernel = kernel("steep", 1.0);
        let in_model = Fake::new(&[("steep", steep)]);
        let (outcomes, stop) = tune_model(&in_model, std::slice::from_ref(&kernel), &options, &mut |_, _| {}).unwrap();
        assert_eq!((outcomes[0].n_measured, stop), (48, StopReason::Trials { n: 48 }), "{name}");
        let alone = Fake::new(&[("steep", steep)]);
        let options = Options { seed: child_seed(7, "steep"), ..options };
        let outcome = Tuner::new(&alone, kernel.task, options).run(&mut |_| {}).unwrap();
        assert_eq!(outcome.best, outcomes[0].best, "{name}");
        // nothing twice, so 48 programs, and the same ones again for the same seed
        let known = alone.known.into_inner().unwrap();
        assert_eq!(known.len(), 48, "{name}");
        assert_eq!(known, in_model.known.into_inner().unwrap(), "{name}");
    }
}

#[test]
fn a_search_takes_what_others_were_taught_where_transfer_is_a_part_of_it() {
    let fake = Fake::new(&[("steep", steep)]);
    let task = kernel("steep", 1.0).task;
    let spaces = fake.spaces(&task).unwrap();
    let proposed = |parts: Parts, lessons: &[Lessons]| {
        let mut search = Guided::new(&task, &spaces, parts, 32, 3);
        search.learn(lessons);
        let mut all = Vec::new();
        for n in 0..12u32 {
            let Some(Proposal::Exact(config)) = search.ask(1).unwrap().pop() else { panic!() };
            all.push(config.clone());
            let result = Ok(Samples(vec![1e-3 / f64::from(n + 1)]));
            search.tell(&Measurement { config, hash: n.into(), result, steps: Steps::default(), library: None });
        }
        (all, search.lessons().unwrap().clone())
    };
    let alone = Parts { transfer: false, ..Parts::ALL };
    let (plain, lessons) = proposed(alone, &[]);
    assert_eq!((lessons.rows.len(), lessons.secs.len()), (12, 12));
    // what was slow there is what was fast here
    let lessons = [Lessons { secs: lessons.secs.iter().map(|s| 1e-6 / s).collect(), ..lessons }];
    assert_eq!(proposed(alone, &lessons).0, plain);
    assert_ne!(proposed(Parts::ALL, &lessons).0, plain);
    assert_eq!(proposed(Parts::ALL, &[]).0, plain);
}

#[test]
fn a_batch_of_one_kernel_is_built_while_one_of_another_is_measured() {
    /// Its first measurements end when the next batch is prepared, which in turns would never be.
    struct Waiting {
        fake: Fake,
        prepared: Mutex<Vec<String>>,
        news: Condvar,
        together: Mutex<Vec<(String, String)>>,
    }
    const FIRST: usize = 4;
    fn name(task: &Task) -> String {
        let Computation::Nest(nest) = &task.computation else { unreachable!() };
        nest.name.clone()
    }
    impl Runner for Waiting {
        fn spaces(&self, task: &Task) -> Result<Vec<Space>> {
            self.fake.spaces(task)
        }
        fn probe(&self, task: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
            self.fake.probe(task, proposals)
        }
        fn prepare(&self, task: &Task, _: &[Candidate]) -> Result<()> {
            self.prepared.lock().unwrap().push(name(task));
            self.news.notify_all();
            Ok(())
        }
        fn measure(&self, task: &Task, all: &[Candidate], effort: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()> {
            let mut together = self.together.lock().unwrap();
            let n = together.len();
            if n < FIRST {
                let wait = self.news.wait_timeout_while(self.prepared.lock().unwrap(), Duration::from_secs(20), |p| p.len() < n + 2);
                let (prepared, late) = wait.unwrap();
                assert!(!late.timed_out(), "nothing is prepared while a batch is measured");
                together.push((name(task), prepared[n + 1].clone()));
            }
            self.fake.measure(task, all, effort, known)
        }
    }
    let curves = [("steep", steep as Curve), ("other", steep)];
    let waiting = Waiting { fake: Fake::new(&curves), prepared: Mutex::default(), news: Condvar::new(), together: Mutex::default() };
    tune_model(&waiting, &[kernel("steep", 1.0), kernel("other", 1.0)], &options(24), &mut |_, _| {}).unwrap();
    let together = waiting.together.into_inner().unwrap();
    assert_eq!(together.len(), FIRST);
    assert!(together.iter().any(|(measured, built)| measured != built), "{together:?}");
}

#[cfg(feature = "tvm")]
mod real {
    use crate::util::worker_program;
    use syntune::tune::peak::calibrate;
    use syntune::tune::{Limits, LocalRunner};

    #[test]
    fn the_peak_is_that_of_a_kernel_that_computes_right_on_vectors_of_any_width() {
        worker_program();
        let runner = LocalRunner::new(Limits { n_compilers: 1, ..Limits::default() }).unwrap();
        for target in ["host", "llvm -mcpu=haswell", "llvm -mcpu=nehalem"] {
            let found = calibrate(&runner, target, 2).unwrap();
            assert!(found.secs > 0.0 && found.gflops > 0.1 && found.gflops.is_finite(), "{target}: {found:?}");
            let n_flops = found.gflops * 1e9 * found.secs;
            assert!((found.floor_secs(n_flops) / found.secs - 1.0).abs() < 1e-6);
        }
        assert!(calibrate(&runner, "llvm -mcpu=nocpu", 1).unwrap_err().to_string().contains("near ones"));
    }
}
