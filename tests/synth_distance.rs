//! Shape distance against all groupings, against real moves, and remembered against searched.

use super::synth_arithmetic::{resnet, size};
use proptest::prelude::{ProptestConfig, any, prop, prop_assert, prop_assert_eq, proptest};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::sync::LazyLock;
use syntune::synth::Size;
use syntune::synth::distance::{Axis, Budget, Distance, Form, Memo, Target, Wanted};
use syntune::synth::legal::{Kind, Sizes};

const POOL: [&str; 14] = ["C_in", "C_in", "H", "H", "H", "C_out", "k_1", "s", "g", "C_in/g", "C_in/s", "H/s", "C_in*H", "s*H"];

struct World {
    sizes: Sizes,
    pool: Vec<Size>,
    wanted: Vec<Wanted>,
    target: Target,
}

static WORLD: LazyLock<World> = LazyLock::new(world);

/// Data `[C_in: unordered, H, H]`; sizes need not be whole, so that moves are many.
fn world() -> World {
    let mut sizes = resnet();
    sizes.exact = false;
    let pool = POOL.iter().map(|t| size(&sizes, t)).collect();
    let want = |(text, unordered): &(&str, bool)| Wanted { size: size(&sizes, text), unordered: *unordered };
    let wanted: Vec<Wanted> = [("C_in", true), ("H", false), ("H", false)].iter().map(want).collect();
    World { pool, target: Target::new(wanted.clone()), wanted, sizes }
}

impl World {
    fn axis(&self, rng: &mut ChaCha8Rng, size: Size) -> Axis {
        Axis { size, left: rng.random_range(0..8u8).saturating_sub(1), discards: false, drops: rng.random_bool(0.3), form: Form::default() }
    }

    /// The data's axes after moves in reverse, so that the distance is often finite, or anything.
    fn state(&self, rng: &mut ChaCha8Rng, most: usize) -> Vec<Axis> {
        let mut dims: Vec<Size> = self.wanted.iter().map(|w| w.size).collect();
        for _ in 0..rng.random_range(0..5) {
            let i = rng.random_range(0..dims.len());
            match rng.random_range(0..4) {
                0 => dims.push(*self.pool.choose(rng).unwrap()),
                1 => {
                    let part = *self.pool.choose(rng).unwrap();
                    if self.sizes.legal_to_sample(dims[i].over(part)) {
                        dims[i] = dims[i].over(part);
                        dims.push(part);
                    }
                }
                2 if dims.len() > 2 => {
                    let joined = dims.swap_remove(i);
                    let j = rng.random_range(0..dims.len());
                    dims[j] = dims[j].times(joined);
                }
                _ => dims[i] = *self.pool.choose(rng).unwrap(),
            }
        }
        dims.truncate(most);
        dims.shuffle(rng);
        dims.into_iter().map(|size| self.axis(rng, size)).collect()
    }

    fn budget(&self, rng: &mut ChaCha8Rng) -> Budget {
        Budget {
            merges: rng.random_range(0..4),
            splits: rng.random_range(0..5),
            leaves: rng.random_range(0..5),
            steps: rng.random_range(0..9),
            contracts: rng.random_bool(0.3),
            odd_growth: rng.random_bool(0.1),
        }
    }

    fn distance(&self, dims: &[Axis], budget: &Budget) -> Distance {
        self.target.distance(&self.sizes, dims, budget)
    }

    /// The distance by its definition: every way to put dims into groups and axes to groups of dims.
    fn by_all_groupings(&self, dims: &[Axis], budget: &Budget) -> Distance {
        let product = |s: &mut dyn Iterator<Item = Size>| s.fold(Size::ONE, Size::times);
        let surplus = product(&mut dims.iter().map(|a| a.size)).over(product(&mut self.wanted.iter().map(|w| w.size)));
        let legal = |s: Size| matches!(self.sizes.kind(s), Kind::One | Kind::General | Kind::Coefficient);
        let enough = legal(surplus) && self.sizes.at_least(surplus, syntune::synth::legal::Ratio(1, 1));
        if dims.is_empty() || !enough || (budget.odd_growth && !self.sizes.is_odd(surplus)) {
            return Distance::default();
        }
        let mut best: Option<u32> = None;
        let mut proven = if surplus.is_one() { vec![true; dims.len()] } else { vec![] };
        for group_of in groupings(dims.len()) {
            let n_groups = group_of.iter().max().unwrap() + 1;
            for choice in 0..n_groups.pow(self.wanted.len() as u32) {
                let axis_at = |j: usize| choice / n_groups.pow(j as u32) % n_groups;
                let (mut n_lone, mut n_cut, mut n_dropped, mut n_used) = (0, 0, 0, 0);
                let fine = (0..n_groups).all(|g| {
                    let inside: Vec<&Axis> = dims.iter().zip(&group_of).filter(|(_, of)| **of == g).map(|(a, _)| a).collect();
                    let axes: Vec<Size> = self.wanted.iter().enumerate().filter(|(j, _)| axis_at(*j) == g).map(|(_, w)| w.size).collect();
                    let rest = product(&mut inside.iter().map(|a| a.size)).over(product(&mut axes.iter().copied()));
                    let alone = inside.len() == 1;
                    if axes.is_empty() {
                        n_lone += 1;
                        n_dropped += u32::from(budget.contracts && alone && inside[0].drops);
                    } else {
                        n_used += 1;
                        n_cut += u32::from(!rest.is_one());
                    }
                    let as_it_is = alone && axes == [inside[0].size];
                    legal(rest) && (as_it_is || inside.iter().all(|a| a.left > 0))
                });
                let splits = (dims.len() - n_groups) as u32;
                let merges = self.wanted.len() as u32 - n_used + n_cut;
                n_dropped += if budget.contracts { n_cut } else { 0 };
                let leaves = n_lone + n_cut - n_dropped;
                let n_merged = if budget.contracts { leaves.saturating_sub(budget.leaves) } else { 0 };
                let cost = merges + splits + leaves + (n_dropped + n_merged).min(1);
                let over = merges + n_merged > budget.merges || leaves - n_merged > budget.leaves;
                if !fine || over || splits > budget.splits || cost > budget.steps {
                    continue;
                }
                best = Some(best.map_or(cost, |b| b.min(cost)));
                let own = (1..self.wanted.len()).all(|j| axis_at(j) != axis_at(0));
                proven.iter_mut().zip(&group_of).for_each(|(p, &g)| *p &= own && g == axis_at(0));
            }
        }
        let unordered = if best.is_some() && proven.contains(&true) { proven.iter().map(|&p| p.then_some(0)).collect() } else { vec![] };
        Distance { steps: best, unordered }
    }
}

/// All partitions of so many things, each as the number of the part of each thing.
fn groupings(n: usize) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for _ in 0..n {
        let extend = |g: &Vec<usize>| {
            let parts = g.iter().max().map_or(0, |m| m + 1);
            (0..=parts).map(|p| g.iter().copied().chain([p]).collect()).collect::<Vec<Vec<usize>>>()
        };
        all = all.iter().flat_map(extend).collect();
    }
    all
}

#[test]
fn the_search_finds_what_all_groupings_give() {
    let world = &*WORLD;
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let (mut n_finite, mut n_proven) = (0, 0);
    for _ in 0..20_000 {
        let (dims, budget) = (world.state(&mut rng, 6), world.budget(&mut rng));
        let found = world.distance(&dims, &budget);
        let text = || dims.iter().map(|a| (a.size.print(world.sizes.variables()), a.left, a.drops)).collect::<Vec<_>>();
        assert_eq!(found, world.by_all_groupings(&dims, &budget), "{:?} {budget:?}", text());
        n_finite += usize::from(found.steps.is_some());
        n_proven += usize::from(!found.unordered.is_empty());
    }
    assert!(n_finite > 2000 && n_proven > 300, "{n_finite} finite, {n_proven} proven");
}

#[test]
fn what_is_remembered_is_what_is_searched() {
    let world = &*WORLD;
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    let mut memo = Memo::default();
    for _ in 0..100_000 {
        let (mut dims, budget) = (world.state(&mut rng, 8), world.budget(&mut rng));
        if rng.random_bool(0.1) {
            dims[0].discards = true;
        }
        assert_eq!(memo.distance(&world.target, &world.sizes, &dims, &budget), world.distance(&dims, &budget));
    }
    assert!(memo.n_asked == 100_000 && memo.n_searched < 60_000, "{} searched", memo.n_searched);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    /// One primitive changes the distance by at most one: what is left of budgets and lengths is what it leaves.
    #[test]
    fn no_move_gains_more_than_one_step(seed in any::<u64>()) {
        let world = &*WORLD;
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let (mut dims, mut budget) = (world.state(&mut rng, 7), world.budget(&mut rng));
        (budget.steps, budget.odd_growth) = (budget.steps + 1, false);
        let before = world.distance(&dims, &budget);
        let start = dims.clone();
        let mut left = Budget { steps: budget.steps - 1, ..budget };
        let i = rng.random_range(0..dims.len());
        let moved = dims.swap_remove(i);
        let legal = match rng.random_range(0..4) {
            0 if !dims.is_empty() && budget.splits > 0 => {
                left.splits -= 1;
                let j = rng.random_range(0..dims.len());
                let (shorter, drops) = (moved.left.min(dims[j].left), false);
                let size = moved.size.times(dims[j].size);
                dims[j] = Axis { size, left: shorter.saturating_sub(1), discards: false, drops, form: Form::default() };
                shorter > 0
            }
            1 if budget.merges > 0 => {
                left.merges -= 1;
                let blocks = world.sizes.divisors(moved.size, &world.sizes.allowance());
                let block = blocks.choose(&mut rng).copied();
                for size in block.into_iter().flat_map(|b| [b, moved.size.over(b)]) {
                    dims.push(Axis { size, left: moved.left.saturating_sub(1), discards: false, drops: true, form: Form::default() });
                }
                block.is_some() && moved.left > 0
            }
            2 if budget.leaves > 0 => {
                left.leaves -= 1;
                moved.left > 0
            }
            3 if budget.contracts => {
                // a contraction with outer dims, the last one or not
                dims.retain(|d| !d.drops || d.left == 0 || rng.random_bool(0.5));
                left.contracts = rng.random_bool(0.5);
                moved.drops && moved.left > 0
            }
            _ => false,
        };
        let after = world.distance(&dims, &left);
        if let (true, Some(after)) = (legal, after.steps) {
            let shown = |dims: &[Axis]| dims.iter().map(|a| (a.size.print(world.sizes.variables()), a.left, a.drops)).collect::<Vec<_>>();
            let (from, to) = (shown(&start), shown(&dims));
            prop_assert!(before.steps.is_some_and(|b| b <= after + 1), "{from:?} {budget:?}: {:?}, {to:?} {left:?}: {after}", before.steps);
        }
    }

    #[test]
    fn powers_add_up(powers in prop::collection::vec(-3i32..4, 3), numbers in (1u32..20, 1u32..20), m in -3i32..4, n in -3i32..4) {
        let sizes = resnet();
        let names = ["C_in", "k_1", "g"];
        let number = Size::number(numbers.0).over(Size::number(numbers.1));
        let a = names.iter().zip(&powers).fold(number, |s, (name, &p)| s.times(size(&sizes, name).power(p)));
        prop_assert_eq!(a.power(m).times(a.power(n)), a.power(m + n));
        prop_assert_eq!(a.times(a.power(-1)), Size::ONE);
        prop_assert_eq!(a.power(2), a.times(a));
    }

    #[test]
    fn what_may_be_drawn_is_legal_and_its_divisors_multiply_back(seed in any::<u64>()) {
        let sizes = resnet();
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let full = sizes.allowance();
        let drawn = *sizes.free(&full).choose(&mut rng).unwrap();
        prop_assert!(sizes.legal_to_sample(drawn) && sizes.valid(drawn) && sizes.lower(drawn) <= sizes.upper(drawn));
        let divisors = sizes.divisors(drawn, &full);
        for &block in &divisors {
            prop_assert!(sizes.drawable(block) && sizes.drawable(drawn.over(block)) && block.times(drawn.over(block)) == drawn);
        }
    }
}
