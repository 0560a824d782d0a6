//! Tree search: accounting, dead ends, the order of revealing, RAVE, draws, resuming; evolution; the reward.

use rand_chacha::ChaCha8Rng;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use syntune::search::evolve::Evolution;
use syntune::search::mcts::{Constants, Place, Search, Ticket};
use syntune::search::reward::{Front, Point, Scale, syno};
use syntune::search::tree::{Arc, FinalId, Step, To, Tree};

/// Words of distinct letters that all commute: a state is the set of its letters. Kinds are letters modulo `n_kinds`. A set of
/// `len` letters ends in one final, whose id is the set; sets within `dead` have no children.
#[derive(Clone)]
struct Sets {
    n_letters: u8,
    n_kinds: u8,
    len: u32,
    dead: Vec<u64>,
    /// Draws fail but for every so-manieth.
    one_in: u32,
    n_draws: Cell<u32>,
}

const END: u8 = 200;

impl Sets {
    fn new(n_letters: u8, n_kinds: u8, len: u32) -> Sets {
        Sets { n_letters, n_kinds, len, dead: vec![], one_in: 1, n_draws: Cell::new(0) }
    }

    fn step(&self, letter: u8) -> Step {
        Step { kind: letter % self.n_kinds, key: u64::from(letter) }
    }

    fn n_finals(&self) -> usize {
        (0u64..1 << self.n_letters).filter(|s| s.count_ones() == self.len).count()
    }
}

fn letters(set: u64) -> impl Iterator<Item = u8> {
    (0..64).filter(move |l| set & (1 << l) != 0)
}

impl Tree for Sets {
    type State = u64;

    fn root(&mut self) -> u64 {
        0
    }

    fn key(&self, set: &u64) -> u128 {
        u128::from(*set)
    }

    fn children(&mut self, set: &u64) -> Vec<Arc<u64>> {
        if self.dead.contains(set) {
            return vec![];
        }
        if set.count_ones() == self.len {
            return vec![Arc { kind: END, key: 0, to: To::Final(*set) }];
        }
        let free = (0..self.n_letters).filter(|l| set & (1 << l) == 0);
        free.map(|l| (self.step(l), set | (1 << l))).map(|(s, to)| Arc { kind: s.kind, key: s.key, to: To::Partial(to) }).collect()
    }

    fn path(&mut self, id: FinalId) -> Vec<Vec<Step>> {
        vec![letters(id).map(|l| self.step(l)).collect(), vec![Step { kind: END, key: 0 }]]
    }

    fn sample(&mut self, from: &u64, kind: Option<u8>, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        self.n_draws.set(self.n_draws.get() + 1);
        if !self.n_draws.get().is_multiple_of(self.one_in) {
            return None;
        }
        // the trait's own walk, which a method cannot call once it is replaced
        struct Plain<'a>(&'a mut Sets);
        impl Tree for Plain<'_> {
            type State = u64;
            fn root(&mut self) -> u64 {
                0
            }
            fn key(&self, set: &u64) -> u128 {
                self.0.key(set)
            }
            fn children(&mut self, set: &u64) -> Vec<Arc<u64>> {
                self.0.children(set)
            }
            fn path(&mut self, id: FinalId) -> Vec<Vec<Step>> {
                self.0.path(id)
            }
        }
        Plain(self).sample(from, kind, rng)
    }
}

/// Rewards that rise with letters in common with a good set.
fn closeness(good: u64, id: FinalId) -> f64 {
    (f64::from((good & id).count_ones()) / f64::from(good.count_ones())).powi(2)
}

fn told(search: &mut Search<Sets>, n: usize, good: u64) -> Vec<FinalId> {
    let mut asked = Vec::new();
    for _ in 0..n {
        let Some(ticket) = search.ask() else { break };
        asked.push(ticket.id);
        search.tell(&ticket, closeness(good, ticket.id));
    }
    asked
}

#[test]
fn an_exhausted_tree_yields_every_final_once_and_then_nothing() {
    for constants in [Constants::syno(), Constants::default()] {
        let tree = Sets::new(7, 3, 4);
        let n = tree.n_finals();
        let mut search = Search::new(tree, constants, 1);
        let asked = told(&mut search, 10 * n, 0b1111);
        assert_eq!(asked.len(), n);
        assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), n);
        assert!(search.exhausted() && search.ask().is_none());
    }
}

#[test]
fn dead_leaves_close_all_that_is_above_them() {
    // every pair is dead: no final at all
    let mut tree = Sets::new(5, 2, 3);
    tree.dead = (0..1 << 5).filter(|s: &u64| s.count_ones() == 2).collect();
    let mut search = Search::new(tree.clone(), Constants::syno(), 1);
    assert!(search.ask().is_none());
    assert!(search.exhausted());
    // one pair lives on, and with it three finals
    tree.dead.retain(|s| *s != 0b11);
    let mut search = Search::new(tree, Constants::syno(), 1);
    let asked: BTreeSet<FinalId> = told(&mut search, 100, 0b111).into_iter().collect();
    assert_eq!(asked, BTreeSet::from([0b00111, 0b01011, 0b10011]));
    assert!(search.exhausted());
}

#[test]
fn virtual_losses_return_to_zero_however_tickets_end() {
    let mut search = Search::new(Sets::new(8, 3, 4), Constants::default(), 3);
    let mut out: Vec<Ticket> = (0..8).map(|_| search.ask().unwrap()).collect();
    assert_eq!(out.iter().map(|t| t.id).collect::<BTreeSet<_>>().len(), 8, "eight different finals at once");
    assert_eq!(search.n_in_flight(), 8);
    assert!(search.n_losses() >= 8, "{}", search.n_losses());
    let given_back: BTreeSet<FinalId> = BTreeSet::from([out[0].id, out[1].id]);
    drop(out.remove(0));
    search.cancel(out.remove(0));
    assert_eq!(search.n_in_flight(), 6);
    // what was given back is asked first
    let again: Vec<Ticket> = (0..2).map(|_| search.ask().unwrap()).collect();
    assert_eq!(again.iter().map(|t| t.id).collect::<BTreeSet<_>>(), given_back);
    for (i, ticket) in out.iter().chain(&again).enumerate() {
        search.tell(ticket, if i % 3 == 0 { -1.0 } else { 0.5 });
        search.tell(ticket, 0.9); // a second time: nothing
    }
    assert_eq!((search.n_losses(), search.n_in_flight()), (0, 0));
    assert_eq!(search.stat(Place::All).n, 5);
    drop((out, again));
    let next = search.ask().unwrap();
    assert!(search.rewards().all(|(id, reward)| id != next.id && reward == 0.5));
}

#[test]
fn a_refused_final_leaves_no_statistics() {
    let mut search = Search::new(Sets::new(6, 2, 3), Constants::syno(), 3);
    for bad in [-1.0, f64::NAN] {
        let ticket = search.ask().unwrap();
        search.tell(&ticket, bad);
        assert_eq!((search.stat(Place::State(0)).n, search.stat(Place::All).n), (0, 0));
    }
    assert_eq!(search.rewards().count(), 0);
}

#[test]
fn every_arc_and_all_orders_are_credited() {
    let mut search = Search::new(Sets::new(9, 2, 3), Constants::syno(), 5);
    let mut told = BTreeMap::new();
    for reward in [0.5, 0.6, 0.7] {
        let ticket = search.ask().unwrap();
        search.tell(&ticket, reward);
        told.insert(ticket.id, reward);
    }
    let tree = Sets::new(9, 2, 3);
    let close = |place: Place, rewards: Vec<f64>| {
        let stat = search.stat(place);
        let (sum, squares) = rewards.iter().fold((0.0, 0.0), |a, r| (a.0 + r, a.1 + r * r));
        assert_eq!(stat.n as usize, rewards.len(), "{place:?}");
        assert!((stat.sum - sum).abs() < 1e-12 && (stat.squares - squares).abs() < 1e-12, "{place:?}: {stat:?}");
    };
    let with = |has: &dyn Fn(FinalId) -> bool| told.iter().filter(|t| has(*t.0)).map(|t| *t.1).collect::<Vec<f64>>();
    close(Place::All, with(&|_| true));
    for l in 0..9 {
        close(Place::AnyArc(tree.step(l)), with(&|id| id & (1 << l) != 0));
    }
    for kind in 0..2 {
        close(Place::AnyKind(kind), with(&|id| letters(id).any(|l| l % 2 == kind)));
    }
    // a set is on an order of every final that contains it, whichever order was walked
    for set in (0u64..1 << 9).filter(|s| s.count_ones() < 3) {
        let left = |id: FinalId| if set & id == set { id & !set } else { 0 };
        for l in (0..9).filter(|l| set & (1 << l) == 0) {
            close(Place::LocalArc(u128::from(set), tree.step(l)), with(&|id| left(id) & (1 << l) != 0));
        }
        for kind in 0..2 {
            close(Place::LocalKind(u128::from(set), kind), with(&|id| letters(left(id)).any(|l| l % 2 == kind)));
        }
    }
}

#[test]
fn a_lattice_too_large_is_credited_along_the_canonical_order() {
    let constants = Constants { max_lattice: 3, ..Constants::syno() };
    let mut search = Search::new(Sets::new(9, 1, 4), constants, 5);
    let ticket = search.ask().unwrap();
    search.tell(&ticket, 0.5);
    let letters: Vec<u8> = letters(ticket.id).collect();
    let at = |letter: u8| search.stat(Place::LocalArc(0, Step { kind: 0, key: u64::from(letter) })).n;
    assert_eq!(letters.iter().map(|&l| at(l)).collect::<Vec<_>>(), [1, 0, 0, 0]);
}

/// The RAVE score without chance, from public numbers.
fn rave(search: &Search<Sets>, steps: &[Step], c_l: f64) -> BTreeMap<Step, f64> {
    let hope = |place: Place| {
        let s = search.stat(place);
        let n = f64::from(s.n);
        let mean = s.sum / n;
        (s.n > 0).then(|| mean + if s.n > 1 { (s.squares / n - mean * mean).max(0.0).sqrt() } else { 0.0 } - 1.0 / n)
    };
    let locals: Vec<_> = steps.iter().map(|&s| hope(Place::LocalArc(0, s))).collect();
    let globals: Vec<_> = steps.iter().map(|&s| hope(Place::AnyArc(s))).collect();
    let mean = |all: &[Option<f64>]| {
        let known: Vec<f64> = all.iter().flatten().copied().collect();
        if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
    };
    let (l0, g0) = (mean(&locals), mean(&globals));
    let score = |(i, s): (usize, &Step)| {
        let beta = c_l / (c_l + f64::from(search.stat(Place::LocalArc(0, *s)).n));
        (*s, (1.0 - beta) * locals[i].unwrap_or(l0) + beta * globals[i].unwrap_or(g0))
    };
    steps.iter().enumerate().map(score).collect()
}

#[test]
fn widening_reveals_in_the_order_of_rave() {
    let constants = Constants { shuffle: 0.0, ..Constants::syno() };
    let tree = Sets::new(20, 1, 3);
    let all: Vec<Step> = (0..20).map(|l| tree.step(l)).collect();
    let mut search = Search::new(tree, constants, 9);
    let mut n_revealed = 0;
    for _ in 0..40 {
        let before: BTreeSet<Step> = search.revealed(0).unwrap().into_iter().collect();
        let hidden: Vec<Step> = all.iter().copied().filter(|s| !before.contains(s)).collect();
        let scores = rave(&search, &hidden, constants.rave);
        let ticket = search.ask().unwrap();
        for step in search.revealed(0).unwrap().into_iter().filter(|s| !before.contains(s)) {
            let higher = scores.values().filter(|v| **v > scores[&step] + 1e-9).count();
            assert_eq!(higher, 0, "{step:?} of {scores:?}");
            n_revealed += usize::from(scores.values().any(|v| *v < scores[&step] - 1e-9));
        }
        search.tell(&ticket, closeness(0b111000, ticket.id));
        let n = f64::from(search.stat(Place::Kind(0, 0)).n);
        assert!(search.revealed(0).unwrap().len() as f64 <= n.powf(0.8).floor().max(1.0), "widened too far after {n}");
    }
    assert!(n_revealed > 8, "{n_revealed} reveals with something to choose from");
}

#[test]
fn draws_follow_the_success_of_the_last_hundred() {
    let mut tree = Sets::new(10, 2, 4);
    tree.one_in = u32::MAX;
    let search = Search::new(tree.clone(), Constants::syno(), 1);
    let mut rounds = vec![search.n_draws(1)];
    for _ in 0..4 {
        rounds.push(search.more_draws(rounds[rounds.len() - 1]));
    }
    assert_eq!(rounds, [1, 2, 4, 7, 11]);
    for (one_in, expected) in [(1, 1), (2, 2), (4, 4)] {
        tree.one_in = one_in;
        let mut search = Search::new(tree.clone(), Constants::syno(), 1);
        for _ in 0..60 {
            let ticket = search.ask().unwrap();
            search.tell(&ticket, 0.5);
        }
        assert_eq!(search.n_draws(1), expected, "one draw in {one_in} succeeds");
    }
    // where no draw succeeds, small remainders are walked through
    tree.one_in = u32::MAX;
    let mut search = Search::new(tree, Constants { max_draws: 10, ..Constants::syno() }, 1);
    assert_eq!(told(&mut search, 30, 0b1111).len(), 30);
}

#[test]
fn the_same_seed_asks_the_same() {
    let run = |seed| told(&mut Search::new(Sets::new(12, 4, 5), Constants::default(), seed), 150, 0b11111);
    assert_eq!(run(4), run(4));
    assert_ne!(run(4), run(5));
}

#[test]
fn forgotten_nodes_change_neither_the_books_nor_determinism() {
    let constants = Constants { max_nodes: 8, ..Constants::default() };
    let tree = Sets::new(8, 3, 4);
    let n = tree.n_finals();
    let run = || {
        let mut search = Search::new(tree.clone(), constants, 4);
        let asked = told(&mut search, 2 * n, 0b1111);
        assert!(search.n_nodes() <= 8 && search.exhausted() && search.n_losses() == 0);
        asked
    };
    let asked = run();
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), n);
    assert_eq!(asked, run());
}

#[derive(Clone, Copy)]
enum Event {
    Ask(FinalId),
    Tell(FinalId, f64),
    Cancel(FinalId),
    Rescore(f64),
}

/// Three evaluations at a time, answered out of order, some given back, rewards moved now and then.
fn busy(search: &mut Search<Sets>) -> Vec<Event> {
    let mut out: Vec<Ticket> = Vec::new();
    let mut log = Vec::new();
    for i in 0..90 {
        let ticket = search.ask().unwrap();
        log.push(Event::Ask(ticket.id));
        out.push(ticket);
        if out.len() == 3 {
            let ticket = out.remove(i % 3);
            if i % 11 == 0 {
                log.push(Event::Cancel(ticket.id));
                search.cancel(ticket);
            } else {
                let reward = if i % 7 == 0 { -1.0 } else { closeness(0b11111, ticket.id) };
                log.push(Event::Tell(ticket.id, reward));
                search.tell(&ticket, reward);
            }
        }
        if i % 20 == 19 {
            log.push(Event::Rescore(1.0 / i as f64));
            search.rescore(|id| closeness(0b11111, id) * (1.0 - 1.0 / i as f64));
        }
    }
    for ticket in out {
        log.push(Event::Tell(ticket.id, 0.25));
        search.tell(&ticket, 0.25);
    }
    log
}

fn replayed(search: &mut Search<Sets>, log: &[Event]) {
    let mut out: BTreeMap<FinalId, Ticket> = BTreeMap::new();
    for event in log {
        match *event {
            Event::Ask(id) => drop(out.insert(id, search.replay(id).unwrap())),
            Event::Tell(id, reward) => search.tell(&out.remove(&id).unwrap(), reward),
            Event::Cancel(id) => search.cancel(out.remove(&id).unwrap()),
            Event::Rescore(share) => search.rescore(|id| closeness(0b11111, id) * (1.0 - share)),
        }
    }
}

#[test]
fn a_replayed_search_goes_on_as_the_first_would_have() {
    let fresh = || Search::new(Sets::new(12, 4, 5), Constants::default(), 8);
    let (mut first, mut second) = (fresh(), fresh());
    let log = busy(&mut first);
    replayed(&mut second, &log);
    for set in 0..1 << 12 {
        assert_eq!(first.stat(Place::State(set)), second.stat(Place::State(set)));
    }
    assert_eq!(told(&mut first, 50, 0b11111), told(&mut second, 50, 0b11111));
}

#[test]
fn another_searchs_finals_are_taken_over() {
    let mut first = Search::new(Sets::new(12, 4, 5), Constants::default(), 8);
    let log = busy(&mut first);
    let mut second = Search::new(Sets::new(12, 4, 5), Constants::syno(), 9);
    replayed(&mut second, &log);
    assert_eq!(first.rewards().collect::<Vec<_>>(), second.rewards().collect::<Vec<_>>());
    for l in 0..12 {
        let place = Place::AnyArc(Sets::new(12, 4, 5).step(l));
        assert_eq!(first.stat(place).n, second.stat(place).n);
        assert!((first.stat(place).sum - second.stat(place).sum).abs() < 1e-9);
    }
    assert_eq!(second.n_losses(), 0);
    assert!(second.stat(Place::State(0)).n as usize >= second.rewards().count());
    let known: BTreeSet<FinalId> = second.rewards().map(|r| r.0).collect();
    assert!(told(&mut second, 50, 0b11111).iter().all(|id| !known.contains(id)));
}

#[test]
fn rescored_rewards_count_as_if_told_so() {
    let fresh = || Search::new(Sets::new(9, 3, 4), Constants::syno(), 2);
    let (mut first, mut second) = (fresh(), fresh());
    let a = first.ask().unwrap();
    first.tell(&a, 0.2);
    first.rescore(|_| 0.8);
    let b = second.ask().unwrap();
    second.tell(&b, 0.8);
    assert_eq!(a.id, b.id);
    for place in [Place::All, Place::State(0), Place::Kind(0, 0), Place::AnyKind(1), Place::AnyKind(2)] {
        let (x, y) = (first.stat(place), second.stat(place));
        assert_eq!(x.n, y.n);
        assert!((x.sum - y.sum).abs() < 1e-12 && (x.squares - y.squares).abs() < 1e-12);
    }
}

/// Median evaluations over seeds until the one best final is found.
fn to_best(mut run: impl FnMut(u64) -> usize) -> usize {
    let mut all: Vec<usize> = (0..21).map(&mut run).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

#[test]
fn the_best_final_is_found_in_a_fifth_of_random_searches_evaluations() {
    const GOOD: u64 = 0b1010_0110_0101;
    let tree = || Sets::new(14, 4, 6);
    let tree_search = to_best(|seed| {
        let mut search = Search::new(tree(), Constants::default(), seed);
        (0..3003).position(|_| told(&mut search, 1, GOOD) == [GOOD]).unwrap()
    });
    let other = |mut search: Evolution<Sets>| {
        (0..3003).position(|_| {
            let id = search.ask().unwrap();
            search.tell(id, closeness(GOOD, id));
            id == GOOD
        })
    };
    let random = to_best(|seed| other(Evolution::random(tree(), seed)).unwrap());
    let evolution = to_best(|seed| other(Evolution::new(tree(), seed)).unwrap_or(3003));
    assert!(5 * tree_search < random, "{tree_search} evaluations against {random}");
    assert!(evolution < random, "{evolution} evaluations against {random}");
}

/// A field of finals, each at the end of an action of its own: nothing but their places tells where good ones lie.
struct Field;

const SIDE: u64 = 24;

impl Field {
    fn place(id: FinalId) -> [f64; 2] {
        [(id % SIDE) as f64 / 4.0, (id / SIDE) as f64 / 4.0]
    }

    fn reward(id: FinalId) -> f64 {
        let [x, y] = Field::place(id);
        1.0 / (1.0 + (x - 4.5).powi(2) + (y - 1.25).powi(2))
    }
}

impl Tree for Field {
    type State = u64;

    fn root(&mut self) -> u64 {
        0
    }

    fn key(&self, state: &u64) -> u128 {
        u128::from(*state)
    }

    fn children(&mut self, _state: &u64) -> Vec<Arc<u64>> {
        (0..SIDE * SIDE).map(|id| Arc { kind: (id % 3) as u8, key: id, to: To::Final(id) }).collect()
    }

    fn path(&mut self, id: FinalId) -> Vec<Vec<Step>> {
        vec![vec![Step { kind: (id % 3) as u8, key: id }]]
    }

    fn numbers(&mut self, id: FinalId) -> Vec<f64> {
        Field::place(id).to_vec()
    }
}

#[test]
fn numbers_of_finals_lead_to_the_best_one_in_a_fifth_of_random_searches_evaluations() {
    let best = (0..SIDE * SIDE).max_by(|&a, &b| Field::reward(a).total_cmp(&Field::reward(b))).unwrap();
    let tree_search = to_best(|seed| {
        let mut search = Search::new(Field, Constants::default(), seed);
        let mut ask = || {
            let ticket = search.ask().unwrap();
            search.tell(&ticket, Field::reward(ticket.id));
            ticket.id
        };
        (0..576).position(|_| ask() == best).unwrap()
    });
    let random = to_best(|seed| {
        let mut search = Evolution::random(Field, seed);
        (0..576).position(|_| search.ask() == Some(best)).unwrap_or(576)
    });
    assert!(5 * tree_search < random, "{tree_search} evaluations against {random}");
}

// ---- the reward ----

fn scale() -> Scale {
    Scale { baseline: Point { secs: 2.0, accuracy: 0.9 }, least: 0.5 }
}

fn point(secs: f64, accuracy: f64) -> Point {
    Point { secs, accuracy }
}

#[test]
fn the_hypervolume_is_the_area_of_the_union() {
    let mut front = Front::new(scale());
    assert!(front.push(point(1.0, 0.9))); // (0.5, 1)
    assert!((front.hypervolume() - 0.5).abs() < 1e-12);
    assert!(front.push(point(0.5, 0.7))); // (0.75, 0.5)
    assert!((front.hypervolume() - 0.625).abs() < 1e-12);
    assert!(!front.push(point(1.0, 0.8)) && !front.push(point(1.0, 0.9)));
    assert!(!front.push(point(2.5, 0.95)) && !front.push(point(0.1, 0.4)) && !front.push(point(f64::NAN, 0.9)));
    assert!(front.push(point(0.4, 0.9))); // (0.8, 1) beats both
    assert_eq!(front.len(), 1);
    assert!((front.hypervolume() - 0.8).abs() < 1e-12);
}

#[test]
fn a_gain_is_a_difference_of_hypervolumes() {
    // compared with a second way to count: a fine grid
    let mut front = Front::new(scale());
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f64 / (1u64 << 24) as f64
    };
    for _ in 0..200 {
        let p = point(2.2 * next(), 0.4 + 0.55 * next());
        let (before, gain, distance) = (front.hypervolume(), front.gain(p), front.distance(p));
        let moved = front.push(p);
        assert!((front.hypervolume() - before - gain).abs() < 1e-12);
        assert_eq!(moved, gain > 0.0);
        assert_eq!(distance < 0.0, moved, "{distance}");
        if moved {
            assert!((front.gain(p) - gain).abs() < 1e-12 || front.gain(p) >= gain, "a member's gain is what would be lost");
        }
        if distance > 0.0 {
            let shifted = |d: f64| point(p.secs - 2.0 * d, p.accuracy + 0.4 * d);
            assert!(front.gain(shifted(distance + 1e-6)) > 0.0 && front.gain(shifted(distance - 1e-6)) == 0.0);
        }
    }
}

#[test]
fn rewards_prefer_what_adds_and_grade_what_does_not() {
    let mut front = Front::new(scale());
    let members = [point(1.0, 0.88), point(0.6, 0.75), point(1.5, 0.9)];
    for p in members {
        assert!(front.push(p));
    }
    let far = [point(1.1, 0.87), point(1.4, 0.8), point(1.9, 0.6), point(3.0, 0.4), point(30.0, 0.1)];
    let rewards = front.rewards(members.into_iter().chain(far));
    assert!(rewards.iter().all(|r| (0.0..=1.0).contains(r)), "{rewards:?}");
    assert!(rewards[..3].iter().all(|&r| r > 0.5), "{rewards:?}");
    assert!((rewards[..3].iter().fold(0.0f64, |a, &b| a.max(b)) - 1.0).abs() < 1e-12);
    assert!(rewards[3] < 0.5 && rewards[3..].windows(2).all(|w| w[0] > w[1]), "{rewards:?}");
    assert_eq!(front.rewards([point(f64::NAN, 0.9), point(f64::INFINITY, 0.9)]), [0.0, 0.0]);
    // both respects count: Syno's reward does not see the seconds
    assert!(front.rewards([point(1.2, 0.8)])[0] > front.rewards([point(1.8, 0.8)])[0]);
    assert!((syno(0.7, 0.5, 0.9) - 0.0625).abs() < 1e-12 && syno(0.3, 0.5, 0.9) == 0.0 && syno(0.95, 0.5, 0.9) == 1.0);
}
