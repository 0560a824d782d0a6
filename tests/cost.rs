//! What is guessed before it is measured: the roofline of a config, the cost model, what is picked from its guesses.

use crate::util::conv2d;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use syntune::lower::layout::for_cpu;
use syntune::lower::{LoopNest, channels_last, lower};
use syntune::synth::Binding;
use syntune::synth::library::resolve;
use syntune::tune::cost::{CostModel, Guess, Learner, Lessons, Rows, pick, program};
use syntune::tune::roofline::{N_COLUMNS, Roofline};
use syntune::tune::*;

/// The space that `sketch` makes of a nest with one reduction: its axes cut in three, its sums in two, then categories.
fn tiles(axes: &[i64], sums: &[i64]) -> Space {
    let axes = axes.iter().map(|&extent| Knob::PerfectTile { extent, n: 3, max_innermost: 64 });
    let sums = sums.iter().map(|&extent| Knob::PerfectTile { extent, n: 2, max_innermost: 64 });
    let rest = [Knob::Categorical { n: 2 }, Knob::Categorical { n: 2 }];
    Space { origin: Origin::Tiles, knobs: axes.chain(sums).chain(rest).collect() }
}

fn config(factors: &[&[i64]]) -> Config {
    let cuts = factors.iter().map(|f| Decision::PerfectTile(f.to_vec()));
    Config { space: 0, decisions: cuts.chain([Decision::Categorical(0), Decision::Categorical(0)]).collect() }
}

/// y[m, n] = Σ k: x[m, k] · w[n, k], the weight stored so that n runs along its last axis.
fn matmul(size: i64) -> LoopNest {
    let operator = resolve("linear").unwrap();
    let binding = Binding::of(&[("N", 1), ("L", size), ("Ci", size), ("Co", size)]);
    channels_last(&lower(&operator, &binding).unwrap()).0
}

#[test]
fn a_roofline_knows_registers_and_what_the_caches_bring() {
    let size = 512;
    let nest = matmul(size);
    let extents = nest.stages[0].extents();
    let (axes, sums) = extents.split_at(nest.stages[0].axes.len());
    assert_eq!((axes.last(), sums), (Some(&size), &[size][..]));
    let space = tiles(axes, sums);
    let roofline = Roofline::new(&nest, &[space], 1);
    // all axes but the last two have one value
    let of = |m: [i64; 3], n: [i64; 3], k: [i64; 2]| {
        let ones: Vec<&[i64]> = axes[2..].iter().map(|_| &[1, 1, 1][..]).collect();
        config(&[&ones[..], &[&m[..], &n, &k]].concat())
    };
    let cycles = |m, n, k| roofline.cycles(&of(m, n, k)).unwrap();
    // 8 rows × 2 vectors keep the multipliers busy: one multiply-add of 16 lanes per cycle, little more
    let good = cycles([8, 8, 8], [16, 1, 32], [32, 16]);
    let least = (size * size * size) as f64 / 16.0;
    assert!(good >= least && good < 1.3 * least, "{good} of {least}");
    let scalar = cycles([8, 8, 8], [512, 1, 1], [32, 16]);
    assert!(scalar > 6.0 * good, "one lane: {scalar}, {good}");
    let lonely = cycles([512, 1, 1], [32, 1, 16], [32, 16]);
    assert!(lonely > 2.0 * good, "one accumulator waits for itself: {lonely}, {good}");
    let spilled = cycles([8, 4, 16], [8, 1, 64], [32, 16]);
    assert!(spilled > 1.5 * good, "64 accumulators in 32 registers: {spilled}, {good}");
    assert_eq!(roofline.cycles(&Config { space: 1, decisions: vec![] }), None);
    let short = Config { space: 0, decisions: vec![Decision::Categorical(1)] };
    assert_eq!(roofline.cycles(&short), None);
    let row = roofline.row(&of([8, 8, 8], [16, 1, 32], [32, 16]));
    assert_eq!(row.len(), N_COLUMNS);
    // lanes, rows, accumulators, registers with a row of weights and a value of the data
    assert_eq!((row[0], row[2], row[3], row[4]), (5.0, 3.0, 4.0, 19f64.log2()));
    // 8 values, each half the work of a vector, and 2 vectors are loaded for 16 multiply-adds
    assert_eq!(row[5], 6.0 / 16.0);
}

#[test]
fn a_vector_across_two_groups_is_gathered() {
    let binding = Binding::of(&[("N", 1), ("Ci", 64), ("Co", 64), ("H", 8), ("W", 8), ("k", 3), ("g", 2)]);
    let nest = channels_last(&lower(&resolve("grouped").unwrap(), &binding).unwrap()).0;
    let stage = nest.stages.iter().find(|s| !s.sums.is_empty()).unwrap();
    let extents = stage.extents();
    let (axes, sums) = extents.split_at(stage.axes.len());
    assert_eq!(axes, [1, 8, 8, 64]);
    let roofline = Roofline::new(&nest, &[tiles(axes, sums)], 1);
    let gathered = |lanes: i64| {
        let sums: Vec<[i64; 2]> = sums.iter().map(|&s| [s, 1]).collect();
        let sums = sums.iter().map(|s| &s[..]);
        let axes = [vec![1, 1, 1], vec![8, 1, 1], vec![2, 1, 4], vec![64 / lanes, 1, lanes]];
        roofline.row(&config(&axes.iter().map(|a| &a[..]).chain(sums).collect::<Vec<_>>()))[6]
    };
    assert_eq!(gathered(32), 0.0);
    assert!(gathered(64) > 8.0, "{}", gathered(64));
}

/// A 3×3 depthwise convolution with channels last.
fn depthwise(channels: i64, size: i64) -> LoopNest {
    let binding = Binding::of(&[("N", 1), ("C", channels), ("H", size), ("W", size), ("k", 3)]);
    channels_last(&lower(&resolve("depthwise").unwrap(), &binding).unwrap()).0
}

#[test]
fn vectors_within_a_block_of_packed_weights_are_loads_and_others_gathers() {
    let binding = Binding::of(&[("N", 1), ("Ci", 64), ("Co", 192), ("H", 4), ("W", 8)]);
    let nest = lower(&resolve("conv1x1").unwrap(), &binding).unwrap();
    let cycles = |block: i64, lanes: i64| {
        let roofline = Roofline::new(&for_cpu(&nest, block).0, &[tiles(&[1, 4, 8, 192], &[64])], 1);
        roofline.cycles(&config(&[&[1, 1, 1], &[4, 1, 1], &[1, 1, 8], &[192 / lanes, 1, lanes], &[4, 16]])).unwrap()
    };
    for lanes in [16, 32, 64] {
        assert_eq!(cycles(64, lanes), cycles(192, lanes), "{lanes}");
    }
    assert!(cycles(64, 48) > 2.0 * cycles(192, 48));
}

#[test]
fn a_border_that_stays_in_registers_costs_its_loads_alone() {
    let space = |axes: &[i64], sums: &[i64]| {
        let mut space = tiles(axes, sums);
        space.knobs.insert(axes.len() + sums.len() + 1, Knob::Categorical { n: 3 });
        space
    };
    let roofline = Roofline::new(&depthwise(128, 56), &[space(&[1, 56, 56, 128], &[3, 3])], 1);
    let cycles = |rows: [i64; 2], sums: [i64; 2], place: i64, unrolled: i64| {
        let axes = [vec![1, 1, 1], vec![1, 56 / rows[0], rows[0]], vec![1, 56 / rows[1], rows[1]], vec![8, 1, 16]];
        let cuts = axes.into_iter().chain([sums.to_vec(), sums.to_vec()]).map(Decision::PerfectTile);
        let rest = [0, place, unrolled].map(Decision::Categorical);
        roofline.cycles(&Config { space: 0, decisions: cuts.chain(rest).collect() }).unwrap()
    };
    let held = cycles([2, 2], [1, 3], 2, 1);
    // nine multiply-adds for each vector of 16 channels
    let least = (56 * 56 * 128 / 16 * 9) as f64;
    assert!(held >= least && held < 1.1 * least, "{held} of {least}");
    for (what, other) in [
        ("a copy of all first", cycles([2, 2], [1, 3], 0, 1)),
        ("sums in a loop", cycles([2, 2], [3, 1], 2, 0)),
        ("36 vectors of data and 16 of sums in 32 registers", cycles([4, 4], [1, 3], 2, 1)),
    ] {
        assert!(other > 1.5 * held, "{what}: {other}, {held}");
    }
}

#[test]
fn rows_are_equally_long_and_told_apart_by_space() {
    let nest = channels_last(&conv2d(32, 16, 14, 14, 3)).0;
    let stage = nest.stages.iter().find(|s| !s.sums.is_empty()).unwrap();
    let (axes, sums): (Vec<i64>, Vec<i64>) = (stage.axes.iter().map(|l| l.extent).collect(), stage.sums.iter().map(|l| l.extent).collect());
    let other = Space { origin: Origin::Rules, knobs: vec![Knob::Categorical { n: 4 }, Knob::ComputeLocation] };
    let spaces = [tiles(&axes, &sums), other];
    let rows = Rows::new(&nest.clone().into(), &spaces, 1);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for number in [0, 1] {
        let row = rows.of(&spaces[number].random(number, &mut rng));
        assert_eq!((row.len(), row[0]), (rows.n_columns(), number as f64));
        assert_eq!(row[1].is_nan(), number == 1, "{row:?}");
        assert_eq!(row.last().unwrap().is_nan(), number == 0);
    }
    // too short, and of no space
    for odd in [Config { space: 0, decisions: vec![] }, Config { space: 7, decisions: vec![] }] {
        let row = rows.of(&odd);
        assert!(row.len() == rows.n_columns() && row[1..].iter().all(|x| x.is_nan()), "{row:?}");
    }
}

#[test]
fn stores_add_up_to_a_program() {
    assert!(program(&[]).is_empty());
    let mut stores = vec![vec![0.0; 164], vec![0.0; 164]];
    // three operations in one store, seven in the other, which has more iterations
    (stores[0][3], stores[1][3]) = (2.0, 3.0);
    (stores[0][161], stores[1][161]) = (4.0, 5.0);
    let row = program(&stores);
    assert_eq!((row.len(), row[3], row[161]), (328, 3.0, 5.0));
    assert!((row[164 + 3] - 11f64.log2()).abs() < 1e-12);
}

/// A task of a family: speed by the distance of two factors' logarithms from an optimum that the task shifts.
struct Planted {
    space: Space,
    optimum: (f64, f64),
}

impl Planted {
    fn new(extent: i64, optimum: (f64, f64)) -> Planted {
        Planted { space: tiles(&[extent, extent], &[16]), optimum }
    }

    fn secs(&self, config: &Config) -> f64 {
        let inner = |d: &Decision| if let Decision::PerfectTile(f) = d { (f[2] as f64).log2() } else { f64::NAN };
        1e-3 * (1.0 + (inner(&config.decisions[0]) - self.optimum.0).powi(2) + (inner(&config.decisions[1]) - self.optimum.1).abs())
    }

    /// Distinct configs as rows, and their seconds.
    fn draw(&self, n: usize, seed: u64) -> (Vec<Vec<f64>>, Vec<f64>) {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut configs: Vec<Config> = (0..4 * n).map(|_| self.space.random(0, &mut rng)).collect();
        configs.sort();
        configs.dedup();
        configs.shuffle(&mut rng);
        configs.truncate(n);
        (configs.iter().map(|c| cost::features(&self.space, c)).collect(), configs.iter().map(|c| self.secs(c)).collect())
    }
}

/// The share of pairs in the right order.
fn right(guesses: &[Guess], secs: &[f64]) -> f64 {
    let pairs = (0..secs.len()).flat_map(|i| (0..i).map(move |j| (i, j))).filter(|&(i, j)| secs[i] != secs[j]);
    let hits: Vec<bool> = pairs.map(|(i, j)| (secs[i] < secs[j]) == (guesses[i].speed > guesses[j].speed)).collect();
    hits.iter().filter(|&&hit| hit).count() as f64 / hits.len() as f64
}

fn learn(mut learner: Learner, rows: &[Vec<f64>], secs: &[f64]) -> Learner {
    rows.iter().zip(secs).for_each(|(row, &secs)| learner.tell(row.clone(), secs));
    learner
}

#[test]
fn the_members_of_a_model_differ() {
    let task = Planted::new(256, (3.0, 4.0));
    let (rows, secs) = task.draw(60, 1);
    let best = secs.iter().copied().fold(f64::INFINITY, f64::min);
    let mut model = CostModel::default();
    model.fit(&rows, &secs.iter().map(|s| best / s).collect::<Vec<_>>(), 1);
    let n_unsure = model.guess(&rows).iter().filter(|g| g.spread > 1e-4).count();
    assert!(n_unsure > 50, "four equal members say nothing of their doubt: {n_unsure} of 60");
}

#[test]
fn an_earlier_task_of_the_same_shape_helps_until_there_is_enough() {
    let (earlier, task) = (Planted::new(256, (3.0, 4.0)), Planted::new(512, (3.0, 4.0)));
    let (rows, secs) = earlier.draw(100, 1);
    let (own, own_secs) = task.draw(12, 2);
    let (new, new_secs) = task.draw(80, 3);
    let n_columns = own[0].len();
    let taught = |rows: &[Vec<f64>], secs: &[f64], n_columns| {
        let mut learner = Learner::new(1);
        learner.take(&[Lessons { rows: rows.to_vec(), secs: secs.to_vec() }], n_columns);
        learner
    };
    let mut alone = learn(Learner::new(1), &own, &own_secs);
    let mut warm = learn(taught(&rows, &secs, n_columns), &own, &own_secs);
    let (alone, warm) = (right(&alone.guess(&new), &new_secs), right(&warm.guess(&new), &new_secs));
    assert!(warm > alone + 0.03 && warm > 0.85, "{warm} with, {alone} without");
    // knows something before the first measurement
    let cold = right(&taught(&rows, &secs, n_columns).guess(&new), &new_secs);
    assert!(cold > 0.85, "{cold}");
    // of another shape: not taken
    let mut other = taught(&rows, &secs, n_columns + 1);
    assert!(other.guess(&new).iter().all(|g| g.speed == 0.0));
    // an earlier task whose fast ones are slow here does no harm in the end
    let wrong: Vec<f64> = secs.iter().map(|s| 1e-6 / s).collect();
    let (own, own_secs) = task.draw(200, 4);
    let mut misled = learn(taught(&rows, &wrong, n_columns), &own, &own_secs);
    let misled = right(&misled.guess(&new), &new_secs);
    assert!(misled > 0.9, "{misled}");
}

#[test]
fn a_learner_is_fitted_again_when_a_tenth_is_new() {
    let task = Planted::new(256, (3.0, 4.0));
    let (rows, secs) = task.draw(60, 1);
    let mut learner = learn(Learner::new(1), &rows[..40], &secs[..40]);
    let guess = |l: &mut Learner| l.guess(&rows[50..]);
    let first = guess(&mut learner);
    learner.tell(rows[40].clone(), secs[40]);
    assert_eq!(guess(&mut learner), first);
    for i in 41..44 {
        learner.tell(rows[i].clone(), secs[i]);
    }
    assert_ne!(guess(&mut learner), first);
    // failures are the slowest
    let mut failing = Learner::new(1);
    rows[..40].iter().for_each(|r| failing.tell(r.clone(), if r[2] > 2.0 { f64::INFINITY } else { 1e-3 }));
    let guesses = failing.guess(&rows[..40]);
    let of = |slow: bool| rows[..40].iter().zip(&guesses).filter(move |(r, _)| (r[2] > 2.0) == slow).map(|(_, g)| g.speed);
    assert!(of(true).fold(0.0, f64::max) < of(false).fold(1.0, f64::min));
}

#[test]
fn a_batch_is_fast_unlike_and_curious() {
    // twenty near twins that are fastest, some slower ones elsewhere, one slow that nobody is sure of, one hopeless
    let mut rows: Vec<Vec<f64>> = (0..20).map(|i| vec![1.0, 5.0 + 0.01 * f64::from(i), f64::NAN]).collect();
    let mut guesses: Vec<Guess> = (0..20).map(|i| Guess { speed: 0.9 - 0.001 * f64::from(i), spread: 0.01 }).collect();
    rows.extend([vec![8.0, 5.0, f64::NAN], vec![1.0, 9.0, 3.0], vec![4.0, 1.0, f64::NAN], vec![8.0, 9.0, 1.0]]);
    let of = |speed, spread| Guess { speed, spread };
    guesses.extend([of(0.8, 0.02), of(0.78, 0.02), of(0.5, 0.5), of(0.1, 0.01)]);
    let found = pick(&guesses, &rows, 4);
    assert_eq!(found.len(), 4);
    assert_eq!((found[0], found[1]), (22, 0), "{found:?}");
    assert!(found.contains(&20) && found.contains(&21), "{found:?}");
    // all are told apart, and no more than there are
    assert_eq!(pick(&guesses, &rows, 100).iter().collect::<std::collections::BTreeSet<_>>().len(), 24);
    assert!(pick(&[], &[], 3).is_empty());
    // one column, all the same: still as many as asked
    assert_eq!(pick(&[of(0.5, 0.1); 3], &vec![vec![1.0]; 3], 2), [0, 1]);
}

#[cfg(feature = "tvm")]
mod real {
    use crate::util::{conv2d, worker_program};
    use syntune::lower::channels_last;
    use syntune::tune::roofline::Roofline;
    use syntune::tune::*;

    #[test]
    fn a_border_is_right_wherever_it_is_copied() {
        worker_program();
        let runner = LocalRunner::new(Limits { n_compilers: 1, ..Limits::default() }).unwrap();
        for n_threads in [1, 2] {
            let task = Task { computation: super::depthwise(32, 6).into(), target: "host".into(), n_threads };
            let space = runner.spaces(&task).unwrap().len() - 1;
            let cut = |factors: &[i64]| Decision::PerfectTile(factors.to_vec());
            let proposals: Vec<Proposal> = [(0, 0), (1, 0), (2, 0), (2, 1)]
                .iter()
                .map(|&(place, unrolled)| {
                    let cuts = [cut(&[1, 1, 1]), cut(&[3, 1, 2]), cut(&[1, 3, 2]), cut(&[2, 1, 16]), cut(&[1, 3]), cut(&[1, 3])];
                    let rest = [0, place, unrolled].map(Decision::Categorical);
                    Proposal::Exact(Config { space, decisions: cuts.into_iter().chain(rest).collect() })
                })
                .collect();
            let candidates: Vec<Candidate> = runner.probe(&task, &proposals).unwrap().into_iter().map(Result::unwrap).collect();
            let mut results = vec![];
            let keep = &mut |m: Measurement| {
                results.push(m.result);
                true
            };
            runner.measure(&task, &candidates, &Effort::QUICK, keep).unwrap();
            assert!(results.len() == 4 && results.iter().all(Result::is_ok), "{results:?}");
            let hashes: std::collections::BTreeSet<u64> = candidates.iter().map(|c| c.hash).collect();
            assert_eq!(hashes.len(), 4);
        }
    }

    #[test]
    fn metaschedule_describes_each_store_of_a_config() {
        worker_program();
        let runner = LocalRunner::new(Limits { n_compilers: 1, ..Limits::default() }).unwrap();
        let task = Task { computation: channels_last(&conv2d(32, 16, 6, 6, 3)).0.into(), target: "host".into(), n_threads: 1 };
        let spaces = runner.spaces(&task).unwrap();
        let ours = spaces.iter().position(|s| s.origin == Origin::Tiles).unwrap();
        let proposals: Vec<Proposal> = (0..8).map(|i| Proposal::Random { space: [0, ours][i % 2], seed: i as u64 }).collect();
        let configs: Vec<Config> = runner.probe(&task, &proposals).unwrap().into_iter().flatten().map(|c| c.config).collect();
        assert!(configs.len() >= 4);
        let stores: Vec<Vec<Vec<f64>>> = runner.features(&task, &configs).unwrap().into_iter().map(Result::unwrap).collect();
        for rows in &stores {
            // a copy with borders, and the sum
            assert!(rows.len() >= 2 && rows.iter().all(|r| r.len() == 164 && r.iter().all(|x| x.is_finite())));
            assert!(rows.iter().any(|r| r.iter().sum::<f64>() > 50.0));
        }
        assert!(stores.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(runner.features(&task, &configs[..1]).unwrap()[0].as_ref().unwrap(), &stores[0]);
        let missing = Config { space: 99, decisions: vec![] };
        assert!(matches!(&runner.features(&task, &[missing]).unwrap()[..], [Err(Failure::DoesNotBuild(_))]));
        // TVM's spaces are cut where the roofline thinks they are
        let Computation::Nest(nest) = &task.computation else { unreachable!() };
        let roofline = Roofline::new(nest, &spaces, 1);
        assert!(configs.iter().filter(|c| c.space == ours).all(|c| roofline.cycles(c).is_some()));
    }
}
