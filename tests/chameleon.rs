//! Chameleon's parts, and the annealing that they are compared with, on scores that are known.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeSet;
use syntune::tune::agent::Agent;
use syntune::tune::anneal::Annealer;
use syntune::tune::chameleon::Chameleon;
use syntune::tune::guided::Parts;
use syntune::tune::sampler;
use syntune::tune::strategy::Strategy as _;
use syntune::tune::*;

#[test]
fn an_agent_learns_to_walk_where_the_score_is_high() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sizes = [12, 9, 20];
    let goal = [9.0, 2.0, 15.0];
    let score = |places: &Vec<usize>| -> f64 {
        places.iter().zip(goal).zip(sizes).map(|((&p, g), n)| 1.0 - ((p as f64 - g) / n as f64).abs()).sum::<f64>() / 3.0
    };
    let mut agent = Agent::new(&sizes, &mut rng);
    let mut mean = || {
        let seen = agent.explore(&mut |walk| walk.iter().map(score).collect(), &mut rng);
        assert!(seen.iter().all(|(s, places)| *s == score(places) && places.iter().zip(sizes).all(|(&p, n)| p < n)));
        seen.iter().map(|s| s.0).sum::<f64>() / seen.len() as f64
    };
    let first = mean();
    let last = (0..5).map(|_| mean()).next_back().unwrap();
    assert!(last > first + 0.03, "{first} before, {last} after six rounds");
}

#[test]
fn annealed_chains_end_where_the_score_is_high() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sizes = [30, 1, 20, 25];
    let score = |p: &Vec<usize>| -> f64 { [29, 0, 3, 11].iter().zip(p).map(|(&g, &p)| -(g as f64 - p as f64).abs()).sum() };
    let mut annealer = Annealer::new(&sizes, &mut rng);
    let seen = annealer.explore(8, &BTreeSet::new(), &mut |many| many.iter().map(score).collect(), &mut rng);
    assert!(seen.iter().all(|(s, places)| *s == score(places) && places.iter().zip(sizes).all(|(&p, n)| p < n)));
    assert!(seen.iter().any(|s| s.0 == 0.0), "the best of 15,000 is among {}", seen.len());
    assert!(seen.len() < 3000, "{} are kept", seen.len());
    // what was measured is not kept, and scores that are all the same end a round soon
    let visited: BTreeSet<Vec<usize>> = seen.into_iter().map(|s| s.1).collect();
    let seen = annealer.explore(8, &visited, &mut |many| many.iter().map(score).collect(), &mut rng);
    assert!(!seen.is_empty() && seen.iter().all(|s| !visited.contains(&s.1)));
    let mut n_rounds = 0;
    let mut flat = |many: &[Vec<usize>]| {
        n_rounds += 1;
        vec![1.0; many.len()]
    };
    assert_eq!(annealer.explore(8, &BTreeSet::new(), &mut flat, &mut rng).len(), 8);
    assert!(n_rounds < 100, "{n_rounds}");
    // nothing to move
    assert_eq!(Annealer::new(&[1], &mut rng).explore(8, &BTreeSet::new(), &mut |many| vec![1.0; many.len()], &mut rng), [(1.0, vec![0])]);
}

#[test]
fn sampled_plans_stand_for_their_clusters_and_none_was_measured() {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let sizes = [100, 100, 100];
    // eight far corners, eight plans at each
    let near = |corner: usize, i: usize| (0..3).map(|k| (corner >> k & 1) * 90 + (i >> k & 1)).collect::<Vec<usize>>();
    let plans: Vec<Vec<usize>> = (0..8).flat_map(|corner| (0..8).map(move |i| (corner, i))).map(|(c, i)| near(c, i)).collect();
    let visited: BTreeSet<Vec<usize>> = plans.iter().filter(|p| p[0] < 50).cloned().collect();
    let found = sampler::sample(&plans, &sizes, &visited, 64, &mut rng);
    assert!(found.iter().all(|p| !visited.contains(p)), "{found:?}");
    let corners: BTreeSet<Vec<bool>> = found.iter().map(|p| p.iter().map(|&x| x >= 50).collect()).collect();
    assert_eq!(corners.len(), 4, "{found:?}");
    assert!(found.len() < plans.len() / 2, "{} of {}", found.len(), plans.len());
    // too few to cluster
    assert_eq!(sampler::sample(&plans[60..], &sizes, &BTreeSet::new(), 64, &mut rng).len(), 4);
}

#[test]
fn plans_wait_for_a_model_and_then_follow_it() {
    // three spaces, so that each has fewer measurements than a model needs when the first ones are over
    let knobs = vec![Knob::Categorical { n: 20 }, Knob::Categorical { n: 20 }, Knob::Categorical { n: 20 }];
    let spaces = vec![Space { origin: Origin::Rules, knobs }; 3];
    for parts in [(false, false), (false, true), (true, false), (true, true)].map(|(exploration, sampling)| Parts {
        exploration,
        sampling,
        ..Parts::ALL
    }) {
        let mut strategy = Chameleon::new(&spaces, 64, 1, parts);
        let (mut sums, mut secs) = (vec![], vec![]);
        for _ in 0..64 {
            let asked = strategy.ask(1).unwrap();
            let [Proposal::Exact(config)] = &asked[..] else { panic!("{asked:?}") };
            let sum: i64 = config.decisions.iter().map(|d| if let Decision::Categorical(n) = d { *n } else { 0 }).sum();
            sums.push(sum);
            secs.push(1.0 / (1 + sum) as f64);
            let result = Ok(Samples(vec![secs[secs.len() - 1]]));
            strategy.tell(&Measurement { config: config.clone(), hash: 0, result, steps: Steps::default(), library: None });
        }
        // random ones have 28 in the mean; a model that knows nothing would go to one corner
        let mean = |some: &[i64]| some.iter().sum::<i64>() as f64 / some.len() as f64;
        assert!((20.0..38.0).contains(&mean(&sums[..24])), "{parts:?} {sums:?}");
        assert!(mean(&sums[40..]) > 34.0, "{parts:?} {sums:?}");
    }
}
