//! The two threads of a search, and what goes wrong in them: planted failures, workers that really crash, hang and babble, a full disk.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;
use syntune::error::Result;
use syntune::lower::{Expr, Loop, LoopNest, Reduction, Role, Stage, Tensor};
use syntune::spec::Strategy;
use syntune::tune::*;

/// Three knobs, 3,072 programs; time grows with the distance from (6, 3, 7). One program in ten fails.
#[derive(Default)]
struct Planted {
    /// Milliseconds that each step may take, by a rule that looks random; 0: no pauses.
    pace: u64,
    no_room: bool,
    n_steps: AtomicUsize,
    measuring: AtomicBool,
    n_prepared: (Mutex<usize>, Condvar),
    /// The first batch is measured only when the second one is prepared.
    wait_for_second: bool,
    n_measured: Mutex<BTreeMap<u64, usize>>,
    /// After so many results every program takes twice as long.
    slow_after: Option<usize>,
}

const KNOBS: [i64; 3] = [16, 16, 12];
const FASTEST: [i64; 3] = [6, 3, 7];
const CAUSES: [&str; 6] = ["does not build", "crashed", "timed out", "wrong result", "not finite", "worker lost"];

fn places(config: &Config) -> [i64; 3] {
    std::array::from_fn(|k| if let Decision::Categorical(n) = config.decisions[k] { n } else { panic!("{config:?}") })
}

fn hash(config: &Config) -> u64 {
    places(config).iter().zip(KNOBS).fold(0, |hash, (p, n)| hash * n as u64 + *p as u64)
}

fn result(config: &Config) -> Result<Samples, Failure> {
    let at = hash(config);
    if at % 10 != 1 {
        let steps: i64 = places(config).iter().zip(FASTEST).map(|(p, best)| (p - best).abs()).sum();
        return Ok(Samples(vec![1e-3 + 1e-4 * steps as f64]));
    }
    Err(match at / 10 % 6 {
        0 => Failure::DoesNotBuild("planted".into()),
        1 => Failure::Crashed { signal: 11 },
        2 => Failure::TimedOut { secs: 20.0 },
        3 => Failure::WrongResult { max_error: 0.5 },
        4 => Failure::NotFinite,
        _ => Failure::Lost("planted".into()),
    })
}

impl Planted {
    fn pause(&self) {
        let n = self.n_steps.fetch_add(1, Ordering::Relaxed) as u64;
        if self.pace > 0 {
            std::thread::sleep(Duration::from_millis((n * 7919 + self.pace * 104729) % (self.pace + 1)));
        }
    }
}

impl Runner for Planted {
    fn spaces(&self, _: &Task) -> Result<Vec<Space>> {
        Ok(vec![Space { origin: Origin::Tiles, knobs: KNOBS.map(|n| Knob::Categorical { n }).to_vec() }])
    }

    fn probe(&self, _: &Task, proposals: &[Proposal]) -> Result<Vec<Result<Candidate, Failure>>> {
        self.pause();
        let config = |p: &Proposal| match p {
            Proposal::Exact(config) => config.clone(),
            Proposal::Random { space, seed } => {
                let decision = |k: usize| Decision::Categorical(((seed >> (8 * k)) % KNOBS[k] as u64) as i64);
                Config { space: *space, decisions: (0..3).map(decision).collect() }
            }
        };
        Ok(proposals.iter().map(config).map(|c| Ok(Candidate { hash: hash(&c), config: c, built: None })).collect())
    }

    fn has_room(&self, _: &Task) -> bool {
        !self.no_room
    }

    fn prepare(&self, _: &Task, _: &[Candidate]) -> Result<()> {
        assert!(!(self.no_room && self.measuring.load(Ordering::SeqCst)), "prepared beside a measurement");
        self.pause();
        *self.n_prepared.0.lock().unwrap() += 1;
        self.n_prepared.1.notify_all();
        Ok(())
    }

    fn measure(&self, _: &Task, candidates: &[Candidate], _: &Effort, known: &mut dyn FnMut(Measurement) -> bool) -> Result<()> {
        self.measuring.store(true, Ordering::SeqCst);
        if self.wait_for_second {
            let n = self.n_prepared.0.lock().unwrap();
            let (n, late) = self.n_prepared.1.wait_timeout_while(n, Duration::from_secs(60), |n| *n < 2).unwrap();
            assert!(!late.timed_out(), "{n} batches were prepared while the first was waiting to be measured");
        }
        for c in candidates {
            self.pause();
            let mut n_measured = self.n_measured.lock().unwrap();
            let slowness = if self.slow_after.is_some_and(|n| n_measured.values().sum::<usize>() >= n) { 2.0 } else { 1.0 };
            *n_measured.entry(c.hash).or_default() += 1;
            drop(n_measured);
            let result = result(&c.config).map(|samples| Samples(samples.0.iter().map(|secs| secs * slowness).collect()));
            let m = Measurement { config: c.config.clone(), hash: c.hash, result, steps: Steps::default(), library: None };
            if !known(m) {
                break;
            }
        }
        self.measuring.store(false, Ordering::SeqCst);
        Ok(())
    }
}

fn task() -> Task {
    Task { computation: LoopNest { name: "planted".into(), tensors: vec![], stages: vec![] }.into(), target: "host".into(), n_threads: 1 }
}

/// The order in which programs were measured, and the outcome.
fn search(runner: Planted, options: Options, known: Vec<Measurement>) -> (Vec<Measurement>, Outcome, Planted) {
    let mut rows = vec![];
    let outcome = Tuner::new(&runner, task(), options).resume(known).run(&mut |m| rows.push(m.clone())).unwrap();
    (rows, outcome, runner)
}

#[test]
fn a_candidate_is_given_as_long_as_the_unscheduled_kernel_and_more() {
    use syntune::tune::runner::{limit, run_limit};
    // one of a tenth of a second, of two seconds, of ten, and one that is not known
    assert_eq!([0.1, 2.0, 10.0, f64::MAX].map(|plain| limit(plain, 60.0)), [5.0, 40.0, 60.0, 60.0]);
    // before anything works, then with a best of 1 ms or 50 ms, or of 5 ms where loading takes long
    assert_eq!([f64::MAX, 0.002, 0.1].map(|hopeless| run_limit(0.1, hopeless, 60.0)), [32.0, 2.0, 32.0]);
    assert_eq!(run_limit(1.0, 0.01, 60.0), 8.0);
}

#[test]
fn a_thousand_candidates_of_which_a_tenth_fails_lose_nothing_and_end_at_the_fastest() {
    for strategy in [Strategy::Mutations, Strategy::Droplet, Strategy::Syntune] {
        let (rows, outcome, runner) = search(Planted::default(), Options { strategy, ..Options::new(1000, 1) }, vec![]);
        let name = strategy.name();
        assert_eq!((outcome.stop, rows.len()), (StopReason::Trials { n: 1000 }, 1000), "{name}");
        assert_eq!(rows.iter().map(|m| m.hash).collect::<BTreeSet<_>>().len(), 1000, "{name}: one row each");
        // again only what was the best once, and the finalists
        let least = |i: usize| rows[..i].iter().map(Measurement::rank_secs).fold(f64::INFINITY, f64::min);
        let n_bests = (0..1000).filter(|&i| rows[i].rank_secs() < least(i)).count();
        let n_again = runner.n_measured.into_inner().unwrap().values().filter(|&&n| n > 1).count();
        assert!(n_again <= n_bests + 2, "{name}: {n_again} {n_bests}");
        assert!(rows.iter().all(|m| m.result == result(&m.config)), "{name}");
        let n_failed = rows.iter().filter(|m| m.result.is_err()).count();
        assert!((60..140).contains(&n_failed), "{name}: {n_failed}");
        assert_eq!(outcome.failures.values().sum::<usize>(), n_failed, "{name}");
        assert!(CAUSES.iter().all(|cause| outcome.failures.contains_key(*cause)), "{name}: {:?}", outcome.failures);
        assert_eq!(places(&outcome.best.unwrap().config), FASTEST, "{name}");
    }
}

#[test]
fn the_order_of_a_search_does_not_depend_on_how_long_its_steps_take() {
    for strategy in [Strategy::Mutations, Strategy::Droplet] {
        let order = |pace| {
            let options = Options { strategy, ..Options::new(60, 3) };
            search(Planted { pace, ..Planted::default() }, options, vec![]).0.into_iter().map(|m| m.hash).collect::<Vec<_>>()
        };
        let expected = order(0);
        assert_eq!(expected.len(), 60);
        for pace in [2, 3, 5] {
            assert_eq!(order(pace), expected, "{} at pace {pace}", strategy.name());
        }
    }
}

#[test]
fn the_second_batch_is_built_while_the_first_is_measured_unless_there_is_no_room() {
    let (rows, ..) = search(Planted { wait_for_second: true, ..Planted::default() }, Options::new(40, 1), vec![]);
    assert_eq!(rows.len(), 40);
    let (rows, ..) = search(Planted { no_room: true, pace: 1, ..Planted::default() }, Options::new(40, 1), vec![]);
    assert_eq!(rows.len(), 40);
}

#[test]
fn a_search_abandoned_at_any_point_goes_on_without_measuring_anything_twice() {
    let n_trials = 30;
    for n_kept in [0, 1, 5, 8, 13, 29, 30] {
        let mut known: Vec<Measurement> = vec![];
        // what a process that is killed leaves: the results that it handed on, and nothing else
        let abandoned = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            Tuner::new(&Planted::default(), task(), Options::new(n_trials, 4)).run(&mut |m| {
                if known.len() == n_kept {
                    std::panic::resume_unwind(Box::new("killed"));
                }
                known.push(m.clone());
            })
        }));
        assert_eq!((abandoned.is_err(), known.len()), (n_kept < n_trials, n_kept));
        let (rows, outcome, runner) = search(Planted::default(), Options::new(n_trials, 5), known.clone());
        assert_eq!((rows.len(), outcome.n_measured), (n_trials - n_kept, n_trials));
        let all: BTreeSet<u64> = known.iter().chain(&rows).map(|m| m.hash).collect();
        assert_eq!(all.len(), n_trials);
        // the best and the finalists may be measured again, whoever measured them first
        let again = runner.n_measured.into_inner().unwrap();
        assert!(known.iter().filter(|m| again.contains_key(&m.hash)).count() <= 4, "{n_kept}");
    }
}

#[test]
fn a_search_without_gain_ends_when_its_patience_does() {
    let options = Options { patience: Some(40), strategy: Strategy::Droplet, ..Options::new(1000, 2) };
    let (rows, outcome, _) = search(Planted::default(), options, vec![]);
    let StopReason::NoGain { n, n_idle } = outcome.stop else { panic!("{}", outcome.stop) };
    assert!((40..40 + 16).contains(&n_idle) && n == rows.len(), "{}", outcome.stop);
    let least = |rows: &[Measurement]| rows.iter().map(|m| m.rank_secs()).fold(f64::INFINITY, f64::min);
    assert_eq!(least(&rows[..n - n_idle]), least(&rows));
    assert!(least(&rows[..n - n_idle - 1]) > least(&rows));
    assert_eq!(outcome.stop.to_string(), format!("no gain in the last {n_idle} of {n} programs"));
}

#[test]
fn a_machine_that_turns_slow_does_not_choose_the_winner() {
    for strategy in [Strategy::Mutations, Strategy::Droplet] {
        let options = || Options { strategy, ..Options::new(300, 2) };
        let (rows, quiet, _) = search(Planted::default(), options(), vec![]);
        let at = rows.iter().position(|m| places(&m.config) == FASTEST).expect("found on a quiet machine");
        let (slow, outcome, _) = search(Planted { slow_after: Some(at / 2), ..Planted::default() }, options(), vec![]);
        assert_eq!(outcome.best.unwrap().config, quiet.best.unwrap().config, "{}", strategy.name());
        // rows are what was measured, not what it means
        assert!(slow.iter().all(|m| m.secs().is_infinite() || [1.0, 2.0].contains(&(m.secs() / result(&m.config).unwrap().median_secs()))));
        assert!(slow.last().is_some_and(|m| m.result.is_ok() != (m.result == result(&m.config))));
    }
}

#[test]
fn a_search_that_has_seen_everything_around_the_best_says_so() {
    let (_, outcome, _) = search(Planted::default(), Options { strategy: Strategy::Mutations, ..Options::new(5000, 2) }, vec![]);
    let around = 6;
    match outcome.stop {
        StopReason::LocalOptimum { n, n_around } => assert_eq!((n, n_around), (outcome.n_measured, around)),
        other => panic!("{other}"),
    }
}

/// y[i] = Σ over three k of 1.
fn threes() -> LoopNest {
    let tensors = vec![Tensor { name: "y".into(), shape: vec![4], role: Role::Output }];
    let extent = |name: &str, extent| vec![Loop { name: name.into(), extent }];
    let body = Expr::Const(1.0);
    let stage = Stage { output: 0, axes: extent("i", 4), sums: extent("k", 3), reduction: Reduction::Sum, guards: vec![], body };
    LoopNest { name: "threes".into(), tensors, stages: vec![stage] }
}

fn faulty(limit_secs: f64) -> LocalRunner {
    let limits = Limits { n_compilers: 2, build_secs: limit_secs, run_secs: limit_secs, reference_secs: 60.0 };
    LocalRunner::new(limits).unwrap().with_program(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faulty-worker"))
}

/// How program `n` of `tests/faulty-worker` ends.
fn planted_cause(n: u64) -> Option<&'static str> {
    let (refused, own) = match n % 20 {
        3 => ("does not build", true),
        13 => ("wrong result", true),
        _ => ("", false),
    };
    own.then_some(match n / 20 {
        0 => "timed out",
        1 | 2 | 6 | 7 | 11 | 12 => "crashed",
        3 | 4 | 8 | 9 => "worker lost",
        _ => refused,
    })
}

#[test]
fn workers_that_crash_hang_babble_and_leave_cost_one_row_each() {
    let task = Task { computation: threes().into(), target: "host".into(), n_threads: 1 };
    let mut rows = vec![];
    let options = Options { strategy: Strategy::Random, ..Options::new(256, 1) };
    let outcome = Tuner::new(&faulty(2.0), task, options).run(&mut |m| rows.push(m.clone())).unwrap();
    assert_eq!(rows.len(), outcome.n_measured);
    assert!(rows.len() > 200, "{}", outcome.stop);
    assert_eq!(rows.iter().map(|m| m.hash).collect::<BTreeSet<_>>().len(), rows.len());
    for row in &rows {
        let n = row.hash - 1;
        assert_eq!(row.result.as_ref().err().map(Failure::cause), planted_cause(n), "program {n}: {:?}", row.result);
    }
    assert_eq!(outcome.failures.len(), 5, "{:?}", outcome.failures);
    let best = outcome.best.unwrap();
    assert_eq!(best.config.decisions, [Decision::Categorical(11), Decision::Categorical(5)]);
    assert_eq!(best.secs(), 100e-6);
}

#[test]
fn a_full_disk_ends_the_search_and_keeps_what_was_measured() {
    let tune = |target: &str, known: Vec<Measurement>| {
        let mut rows = vec![];
        let options = Options { strategy: Strategy::Random, ..Options::new(60, 1) };
        let task = Task { computation: threes().into(), target: target.into(), n_threads: 1 };
        let outcome = Tuner::new(&faulty(2.0), task, options).resume(known).run(&mut |m| rows.push(m.clone()));
        (rows, outcome)
    };
    // half of the programs find no space
    let mut known = vec![];
    for _ in 0..3 {
        let (rows, outcome) = tune("full", known.clone());
        let said = outcome.unwrap_err().to_string();
        assert!(said.contains("the disk is full") && said.contains("TMPDIR"), "{said}");
        known.extend(rows);
    }
    let (rows, outcome) = tune("host", known.clone());
    assert_eq!(outcome.unwrap().n_measured, 60);
    let all: BTreeSet<u64> = known.iter().chain(&rows).map(|m| m.hash).collect();
    assert_eq!((all.len(), known.len() + rows.len()), (60, 60));
}
