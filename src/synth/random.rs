//! A seeded generator of finished operators by random walks from the output to the input.
//!
//! Walks are guided by the distance (Syno, section 6): an action after which too few are left to reach the data's shape is
//! not taken. Every operator returned is sound: it fits the data's shape, divides under every binding, and keeps the
//! budgets.

use super::canon::Rule;
use super::graph::Dim;
use super::operator::Operator;
use super::partial::{Action, Partial, Top};
use super::prim::Prim;
use super::size::Size;
use super::space::judge::ONLY_SUMS;
use super::space::{Judged, Kind, Space};
use super::{Folded, child_seed, stable_hash};
use crate::error;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashSet};

/// Walks without a new operator after which a space is called exhausted.
const MAX_WALKS: usize = 300_000;

/// Short walks find operators that move data along one axis of the image far more often than along both, and those serve
/// worse: this share of them is refused.
const REFUSE_ONE_WAY: f64 = 0.8;

/// A walk that may finish does so with this chance; else it goes on to a larger operator.
const FINISH: f64 = 0.7;

/// Actions drawn in a state before the walk goes back by one, and how often a walk goes back.
const DRAWS: usize = 16;
const BACK: usize = 6;

/// Dims drawn for one action until it is a usual one.
const PAIRS: usize = 12;

/// A walk may take one action more than are needed from its sums on with this chance, one more again with the same, and so on.
const LONGER: f64 = 0.8;

/// A contraction that need not be the last is drawn as if it were in this share of the cases: most operators have one weight.
const LAST: f64 = 0.4;

/// A place of the image becomes an axis of a weight in this share of the cases.
const OF_PLACE: f64 = 0.03;

/// After so many operators this share of the walks begins where others went, and so many states are kept for that: fewer
/// dead ends, but operators that resemble each other, which a few must not.
const MANY: usize = 500;
const AGAIN: f64 = 0.9;
/// States so near the end are not: all that they lead to is soon known.
const NEAR: usize = 3;
const GROUNDS: usize = 1000;

/// A state in which walks with as many actions left found no way on so often is entered again in this share of the cases only:
/// nearly all of them are dead ends, and half of all dead ends would be met again. Once is enough where every action must lower
/// the distance: of a hundred such states one is none.
const DEATHS: u8 = 2;
const HOPE: f64 = 0.02;

/// States, dead ends and finished states that are remembered, of some 30 bytes each; then memory begins anew.
const REMEMBERED: usize = 1 << 20;

/// Sums are drawn by what convolutions have (channels, windows, a rank) in this share of the walks, else from all multisets.
const USUAL_SUMS: f64 = 0.7;

/// Of the actions of a kind those that convolutions too have are taken in this share of the cases.
const USUAL_ACTIONS: f64 = 0.95;

/// The chance of a Stride while a place is shorter than the data's, beside [`CHANCES`].
const OF_STEP: u32 = 30;

/// Chances of the kinds of actions, per cent. Contractions and windows are what operators need.
const CHANCES: [(Kind, u32); 7] = [
    (Kind::Contract, 30),
    (Kind::Unfold, 25),
    (Kind::Split, 20),
    (Kind::Merge, 12),
    (Kind::Shift, 7),
    (Kind::Stride, 3),
    (Kind::Expand, 3),
];

/// A multiset of sums to begin with, and what walks from it came to.
struct Start {
    sums: Vec<Size>,
    /// The chance before any walk, up to a factor.
    prior: f64,
    n_walks: u32,
    n_new: u32,
    /// The state after its sums, once known.
    state: Option<Partial>,
}

impl Start {
    /// Multisets from which walks find new operators are preferred; one that was never tried counts as good.
    fn weight(&self) -> f64 {
        self.prior * f64::from(self.n_new + 1) / f64::from(self.n_walks + 1)
    }
}

/// A state that operators were found from, and what walks from it came to since.
struct Ground {
    state: Partial,
    n_walks: u32,
    n_new: u32,
}

/// Where a walk began.
enum Begun {
    /// From a state of somebody else's.
    Given,
    Start(usize),
    /// By number of sums, then place.
    Ground(usize, usize),
}

/// What is known of states that walks came to; only looked up.
#[derive(Default)]
struct Known {
    judged: Judged,
    /// Actions left where walks ended, and how often they died.
    dead: Folded<u128, (u8, u8)>,
    /// By the state and its dims in the data's order: the operator's hash, or the rule that refuses it.
    finals: Folded<u128, Result<u64, Rule>>,
}

impl Known {
    fn die(&mut self, state: &Partial, left: usize) {
        if self.dead.len() >= REMEMBERED {
            self.dead.clear();
        }
        let n = if left > 1 && state.steps >= left { DEATHS } else { 1 };
        let left = u8::try_from(left).unwrap_or(u8::MAX);
        let end = self.dead.entry(state.key()).or_insert((left, 0));
        match left.cmp(&end.0) {
            Ordering::Less => {}
            Ordering::Equal => end.1 = end.1.saturating_add(n),
            Ordering::Greater => *end = (left, n),
        }
    }

    fn is_dead(&self, state: &Partial, left: usize) -> bool {
        self.dead.get(&state.key()).is_some_and(|end| left <= usize::from(end.0) && end.1 >= DEATHS)
    }
}

/// What a walk came to.
enum End {
    New(Operator),
    Known,
}

/// Makes operators of a [`Space`], each at most once.
pub struct Synthesizer {
    space: Space,
    rng: ChaCha8Rng,
    /// The hashes of what must not be returned again.
    seen: HashSet<u64>,
    starts: Vec<Start>,
    /// By their number of sums, which are drawn alike: with more sums come ever more states.
    grounds: Vec<Vec<Ground>>,
    /// The names of all operators that walks found.
    met: HashSet<u64>,
    known: Known,
    /// The states of the present walk.
    trail: Vec<Partial>,
    /// Why walks ended without an operator, and how often.
    pub refused: BTreeMap<&'static str, u64>,
    pub n_walks: u64,
    /// Walks that reached the data's shape, whatever became of them.
    pub n_arrived: u64,
    /// The share of operators refused that move data along one axis of the image only.
    pub refuse_one_way: f64,
}

impl Synthesizer {
    /// # Errors
    /// None at present; a space that cannot be walked may become one.
    pub fn new(space: Space, seed: u64) -> error::Result<Synthesizer> {
        let rng = ChaCha8Rng::seed_from_u64(child_seed(seed, "synthesizer"));
        let multisets = space.multisets();
        let n_alike = |n: usize, usual: bool| multisets.iter().filter(|m| m.len() == n && space.is_usual_sums(m) == usual).count();
        let shares: Vec<[f64; 2]> = (0..=space.options.reductions)
            .map(|n| [(1.0 - USUAL_SUMS) / n_alike(n, false).max(1) as f64, USUAL_SUMS / n_alike(n, true).max(1) as f64])
            .collect();
        let start = |sums: Vec<Size>| {
            let prior = shares[sums.len()][usize::from(space.is_usual_sums(&sums))];
            Start { sums, prior, n_walks: 0, n_new: 0, state: None }
        };
        let starts = multisets.iter().cloned().map(start).collect();
        let grounds = (0..=space.options.reductions).map(|_| vec![]).collect();
        Ok(Synthesizer {
            space,
            rng,
            seen: HashSet::new(),
            starts,
            grounds,
            met: HashSet::new(),
            known: Known::default(),
            trail: vec![],
            refused: BTreeMap::new(),
            n_walks: 0,
            n_arrived: 0,
            refuse_one_way: REFUSE_ONE_WAY,
        })
    }

    /// Walks that do not know the distance: what guiding is compared with.
    ///
    /// # Errors
    /// As [`Synthesizer::new`].
    pub fn unguided(mut space: Space, seed: u64) -> error::Result<Synthesizer> {
        space.options.off = space.options.off.with(&[Rule::Distance]);
        Synthesizer::new(space, seed)
    }

    pub fn space(&self) -> &Space {
        &self.space
    }

    pub fn space_mut(&mut self) -> &mut Space {
        &mut self.space
    }

    /// Operators that [`Synthesizer::next`] must not return again.
    pub fn exclude(&mut self, id: String) {
        // what is no id is no operator's
        self.seen.extend(u64::from_str_radix(&id, 16));
    }

    /// The next new operator; `None` when 300,000 walks found none.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Operator> {
        for _ in 0..MAX_WALKS {
            let mut rng = self.rng.clone();
            let end = self.walk_from(None, false, &mut rng);
            self.rng = rng;
            match end {
                Some(End::New(operator)) if self.seen.insert(hash(&operator)) => {
                    return Some(operator);
                }
                Some(_) => *self.refused.entry("seen before").or_default() += 1,
                None => {}
            }
        }
        None
    }

    /// One walk, from the root or from a state; it may find what was found before. Walks that end without an operator are
    /// counted by their reason.
    pub fn walk(&mut self, from: Option<&Partial>, rng: &mut ChaCha8Rng) -> Option<Operator> {
        match self.walk_from(from, true, rng) {
            Some(End::New(operator)) => Some(operator),
            _ => None,
        }
    }

    /// One walk; what must not be returned is made into an operator only if asked for.
    fn walk_from(&mut self, from: Option<&Partial>, known_too: bool, rng: &mut ChaCha8Rng) -> Option<End> {
        self.n_walks += 1;
        let (begun, state) = match from {
            Some(state) if state.n_actions > 0 => (Begun::Given, state.clone()),
            _ if rng.random_bool(AGAIN * (self.met.len() as f64 / MANY as f64).min(1.0)) => self.again(rng)?,
            _ => self.begin(rng)?,
        };
        let mut trail = std::mem::take(&mut self.trail);
        let found = self.walk_on(state, &mut trail, known_too, rng);
        let end = self.arrived(found, begun, &mut trail, rng);
        trail.clear();
        self.trail = trail;
        end
    }

    /// Remembers what a walk found, and where others may begin.
    fn arrived(&mut self, found: Option<End>, begun: Begun, trail: &mut Vec<Partial>, rng: &mut ChaCha8Rng) -> Option<End> {
        let Some(found) = found else {
            *self.refused.entry("no action").or_default() += 1;
            return None;
        };
        let End::New(operator) = &found else { return Some(found) };
        if self.met.insert(hash(operator)) {
            match begun {
                Begun::Given => return Some(found),
                Begun::Start(place) => self.starts[place].n_new += 1,
                Begun::Ground(n_sums, place) => self.grounds[n_sums][place].n_new += 1,
            }
            let n_far = trail.len().saturating_sub(NEAR);
            for state in trail.drain(..n_far).skip(1) {
                let grounds = self.grounds.get_mut(state.sums.len())?;
                let ground = Ground { state, n_walks: 0, n_new: 0 };
                if grounds.len() < GROUNDS {
                    grounds.push(ground);
                } else {
                    *grounds.choose_mut(rng)? = ground;
                }
            }
        }
        Some(found)
    }

    /// Takes random actions, and takes some of them back where there is no other, until the data's shape is reached.
    fn walk_on(&mut self, state: Partial, trail: &mut Vec<Partial>, known_too: bool, rng: &mut ChaCha8Rng) -> Option<End> {
        let slack = (0..).take_while(|_| rng.random_bool(LONGER)).count();
        let most = (state.n_actions + self.space.need(&state) + slack).min(self.space.options.depth);
        trail.push(state);
        let mut n_back = 0;
        loop {
            let state = trail.last()?;
            match self.arrive(state, known_too, rng) {
                Some(End::Known) if n_back < BACK => {
                    self.n_arrived += 1;
                    n_back += 1;
                    trail.pop();
                    continue;
                }
                Some(end) => {
                    self.n_arrived += 1;
                    return Some(end);
                }
                None => {}
            }
            if let Some(next) = self.space.step(state, most, &mut self.known, rng) {
                trail.push(next);
                continue;
            }
            self.known.die(state, most - state.n_actions);
            if n_back == BACK {
                return None;
            }
            n_back += 1;
            trail.pop();
        }
    }

    /// The operator that the walk ends with here; `None` where it goes on.
    fn arrive(&mut self, state: &Partial, known_too: bool, rng: &mut ChaCha8Rng) -> Option<End> {
        if state.weights.is_empty() || !rng.random_bool(FINISH) {
            return None;
        }
        let needs_exchange = !self.space.options.off.contains(Rule::NoExchange) && !self.space.shapes.places.is_empty();
        let n_places = self.space.shapes.places.len();
        let mut matches = self.space.matches(state);
        matches.retain(|data| {
            let n_moved = self.space.n_moved(data);
            !needs_exchange || n_moved == n_places || n_moved > 0 && !rng.random_bool(self.refuse_one_way)
        });
        let data = matches.choose(rng)?;
        let key = data.iter().filter_map(|&d| state.top(d)).fold(state.key(), |k, t| k.rotate_left(31) ^ u128::from(t.key));
        match self.known.finals.get(&key) {
            Some(Ok(found)) if !known_too && self.seen.contains(found) => return Some(End::Known),
            Some(&Err(rule)) => return self.refuse(rule),
            _ => {}
        }
        if self.known.finals.len() >= REMEMBERED {
            self.known.finals.clear();
        }
        let finished = self.space.finish(state, data);
        self.known.finals.insert(key, finished.as_ref().map(hash).map_err(|&rule| rule));
        match finished {
            Ok(operator) => Some(End::New(operator)),
            Err(rule) => self.refuse(rule),
        }
    }

    fn refuse(&mut self, rule: Rule) -> Option<End> {
        *self.refused.entry(rule.name()).or_default() += 1;
        None
    }

    /// The number of a random multiset of sums, and the state after it.
    fn begin(&mut self, rng: &mut ChaCha8Rng) -> Option<(Begun, Partial)> {
        let place = loop {
            let total: f64 = self.starts.iter().map(Start::weight).sum();
            let mut at = rng.random::<f64>() * total;
            let place = self.starts.iter().position(|s| {
                at -= s.weight();
                at < 0.0
            });
            let place = place.or(self.starts.len().checked_sub(1))?;
            if self.starts[place].state.is_some() {
                break place;
            }
            let mut state = self.space.root();
            let grown = self.starts[place].sums.iter().try_for_each(|&size| {
                state = self.space.child(&state, &Action::Reduce(size))?;
                Ok::<(), Rule>(())
            });
            if grown.is_ok() && state.steps != ONLY_SUMS {
                self.starts[place].state = Some(state);
                break place;
            }
            // it leads nowhere from the root, and always will
            self.starts.swap_remove(place);
        };
        self.starts[place].n_walks += 1;
        Some((Begun::Start(place), self.starts[place].state.clone()?))
    }

    /// A random state that operators were found from, mostly one that new ones still come from.
    fn again(&mut self, rng: &mut ChaCha8Rng) -> Option<(Begun, Partial)> {
        if self.grounds.iter().all(Vec::is_empty) {
            return self.begin(rng);
        }
        loop {
            let n_sums = rng.random_range(0..self.grounds.len());
            if self.grounds[n_sums].is_empty() {
                continue;
            }
            let place = rng.random_range(0..self.grounds[n_sums].len());
            let ground = &mut self.grounds[n_sums][place];
            let rate = f64::from(ground.n_new + 1) / f64::from(ground.n_walks + 1);
            if rng.random_bool(rate.powi(2)) {
                ground.n_walks += 1;
                return Some((Begun::Ground(n_sums, place), ground.state.clone()));
            }
        }
    }
}

/// An operator's id as a number.
fn hash(operator: &Operator) -> u64 {
    stable_hash(operator.to_string().as_bytes())
}

impl Space {
    /// All multisets of sums that an operator may have.
    pub fn multisets(&self) -> Vec<Vec<Size>> {
        self.sizes.reductions(self.options.reductions, self.wanted_product, self.options.max_sum_ratio)
    }

    fn is_usual_sums(&self, sums: &[Size]) -> bool {
        // a strided place needs a window, one cut into blocks their places
        let n_small = sums.iter().filter(|s| s.is_coefficient(self.variables())).count();
        sums.iter().all(|&s| self.is_usual(s)) && n_small >= self.steps.len()
    }

    /// A single variable, or the channels over a single coefficient: what convolutions sum over.
    fn is_usual(&self, size: Size) -> bool {
        let variables = self.variables();
        let plain = |s: Size| variables.names().iter().any(|n| variables.size(n) == Some(s));
        let channels = self.shapes.channels.map(|(i, _)| self.shapes.data[i].size);
        plain(size) || channels.is_some_and(|c| plain(c.over(size)) && c.over(size).is_coefficient(variables))
    }

    /// The state after one random action that leaves a way to finish within so many actions; `None` where some draws found
    /// none.
    fn step(&mut self, state: &Partial, most: usize, known: &mut Known, rng: &mut impl Rng) -> Option<Partial> {
        if state.n_actions >= most || state.steps == ONLY_SUMS {
            return None;
        }
        let has_step = state.frontier.iter().any(|t| self.step_of(t.dim).is_some());
        let chance = |c: &(Kind, u32)| if has_step && c.0 == Kind::Stride { OF_STEP } else { c.1 };
        let total: u32 = CHANCES.iter().map(chance).sum();
        if known.judged.len() >= REMEMBERED {
            known.judged.clear();
        }
        for _ in 0..DRAWS {
            let mut at = rng.random_range(0..total);
            let kind = CHANCES.iter().find(|c| {
                let found = chance(c) > at;
                at = at.saturating_sub(chance(c));
                found
            });
            let Some(action) = self.draw(state, kind?.0, rng) else { continue };
            if let Ok(next) = self.known_child(state, &action, &mut known.judged)
                && next.n_actions + next.steps <= most
                && (!known.is_dead(&next, most - next.n_actions) || rng.random_bool(HOPE))
            {
                return Some(next);
            }
        }
        None
    }

    /// About how many actions a finished operator needs from here: a contraction, and one for each small sum. More than the
    /// distance, which counts what no operator can do without.
    fn need(&self, state: &Partial) -> usize {
        let variables = self.sizes.variables();
        let is_small = |t: &&Top| matches!(self.graph.prim(t.dim), Prim::Reduce(_)) && self.graph.size(t.dim).is_coefficient(variables);
        let n_small = state.frontier.iter().filter(is_small).count();
        state.steps.max(n_small + usize::from(state.weights.is_empty()))
    }

    /// An action of a kind, of any dims; most that convolutions do not have are passed over.
    fn draw(&mut self, state: &Partial, kind: Kind, rng: &mut impl Rng) -> Option<Action> {
        if kind == Kind::Contract {
            return self.draw_contraction(state, rng);
        }
        let places = state.frontier.iter().filter_map(|t| Some(Action::Stride(t.dim, self.step_of(t.dim)?)));
        if kind == Kind::Stride
            && let Some(action) = places.choose(rng)
        {
            return Some(action);
        }
        let only_usual = rng.random_bool(USUAL_ACTIONS);
        for _ in 0..PAIRS {
            let dim = state.frontier.choose(rng)?.dim;
            let action = match kind {
                Kind::Contract | Kind::Reduce => return None,
                Kind::Split => Action::Split(dim, state.frontier.choose(rng)?.dim),
                Kind::Unfold => Action::Unfold(dim, state.frontier.choose(rng)?.dim),
                Kind::Merge => {
                    self.local(state).may_merge(state.top(dim)?).ok()?;
                    Action::Merge(dim, *self.blocks(state, dim).choose(rng)?)
                }
                Kind::Shift => Action::Shift(dim),
                Kind::Stride => {
                    self.local(state).may_stride(state.top(dim)?).ok()?;
                    Action::Stride(dim, *self.free.choose(rng)?)
                }
                Kind::Expand => Action::Expand(dim),
            };
            if !only_usual || self.is_usual_action(&action) {
                return Some(action);
            }
        }
        None
    }

    fn of_place(&self, d: Dim) -> bool {
        self.shapes.places.iter().any(|&p| self.graph.depends(d, self.outputs[p]))
    }

    /// Does the action do what convolutions do: windows and shifts of places, small sums strided, splits towards an axis of
    /// the data, merges by a small number?
    fn is_usual_action(&self, action: &Action) -> bool {
        let (graph, variables) = (&self.graph, self.sizes.variables());
        let is_small = |d: Dim| graph.size(d).is_coefficient(variables);
        match *action {
            Action::Split(l, r) => self.near.binary_search(&graph.size(l).times(graph.size(r))).is_ok(),
            Action::Merge(x, block) => block.is_coefficient(variables) || graph.size(x).over(block).is_coefficient(variables),
            Action::Shift(x) => self.of_place(x),
            Action::Stride(x, _) => is_small(x),
            Action::Unfold(main, window) => is_small(window) && self.of_place(main),
            _ => true,
        }
    }

    /// A contraction drawn dim by dim. The last one takes most of what only a weight can end: sums that are no axis of the
    /// data, and dims of the output that the data do not have.
    fn draw_contraction(&mut self, state: &Partial, rng: &mut impl Rng) -> Option<Action> {
        if !self.local(state).may_contract() {
            return None;
        }
        let left = self.options.depth - state.n_actions;
        let is_last = state.weights.len() + 2 >= self.options.tensors || state.steps >= left || rng.random_bool(LAST);
        let mut axes = Vec::new();
        let mut outer = state.outer;
        for top in &state.frontier {
            if !self.local(state).may_share(top) {
                continue;
            }
            let may_expand = self.local(state).may_expand(top, outer).is_ok();
            let is_sum = matches!(self.graph.prim(top.dim), Prim::Reduce(_));
            let wanted = self.wanted.iter().any(|a| a.size == self.graph.size(top.dim));
            let (as_outer, as_inner) = if self.of_place(top.dim) {
                (0.0, OF_PLACE)
            } else if is_sum {
                (if may_expand { 0.3 } else { 0.0 }, if top.shares == 0 { 0.85 } else { 0.35 })
            } else if may_expand && !wanted {
                (if is_last { 0.85 } else { 0.5 }, 0.5)
            } else {
                (if may_expand { 0.5 } else { 0.0 }, 0.35)
            };
            if rng.random_bool(as_outer) {
                axes.push((top.dim, true));
                if !matches!(self.graph.prim(top.dim), Prim::Reduce(_)) {
                    outer = outer.times(self.graph.size(top.dim));
                }
            } else if rng.random_bool(as_inner) {
                axes.push((top.dim, false));
            }
        }
        let all_in = |w: &Vec<Dim>| axes.iter().all(|a| w.contains(&a.0)) || w.iter().all(|d| axes.iter().any(|a| a.0 == *d));
        let repeats = !self.options.off.contains(Rule::WeightInWeight) && state.weights.iter().any(all_in);
        (axes.len() >= 2 && !repeats).then_some(Action::Contract(axes))
    }
}
