//! A seeded generator of finished operators by random walks from the output to the input.
//!
//! Walks are guided by the distance (Syno, section 6): an action after which too few are left to reach the data's shape is
//! not taken. Every operator returned is sound: it fits the data's shape, divides under every binding, and keeps the
//! budgets.

use super::canon::Rule;
use super::child_seed;
use super::graph::Dim;
use super::operator::Operator;
use super::partial::{Action, Partial};
use super::prim::Prim;
use super::size::Size;
use super::space::judge::ONLY_SUMS;
use super::space::{Kind, Space};
use crate::error::Result;
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};

/// Walks without a new operator after which a space is called exhausted.
const MAX_WALKS: usize = 300_000;

/// Short walks find operators that move data along one axis of the image far more often than along both, and those serve
/// worse: this share of them is refused.
const REFUSE_ONE_WAY: f64 = 0.8;

/// A walk that may finish does so with this chance; else it goes on to a larger operator.
const FINISH: f64 = 0.7;

/// Contractions drawn per step before it is taken that there is none: their number is exponential.
const CONTRACTIONS: usize = 6;

/// A contraction that need not be the last is drawn as if it were in this share of the cases: most operators have one weight.
const LAST: f64 = 0.4;

/// Sums are drawn by what convolutions have (channels, windows, a rank) in this share of the walks, else from all multisets.
const USUAL_SUMS: f64 = 0.7;

/// Of the actions of a kind those that convolutions too have are taken in this share of the cases.
const USUAL_ACTIONS: f64 = 0.95;

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

/// Multisets by their number of sums.
type Lists = Vec<Vec<Vec<Size>>>;

/// Makes operators of a [`Space`], each at most once.
pub struct Synthesizer {
    space: Space,
    rng: ChaCha8Rng,
    seen: BTreeSet<String>,
    /// All multisets of sums, by their number.
    sums: Lists,
    /// Those of channels, parts of channels and plain coefficients.
    usual: Lists,
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
    pub fn new(space: Space, seed: u64) -> Result<Synthesizer> {
        let rng = ChaCha8Rng::seed_from_u64(child_seed(seed, "synthesizer"));
        let mut sums: Lists = vec![vec![]; space.options.reductions + 1];
        for multiset in space.multisets() {
            sums[multiset.len()].push(multiset);
        }
        let usual = sums.iter().map(|list| list.iter().filter(|m| m.iter().all(|&s| space.is_usual(s))).cloned().collect()).collect();
        Ok(Synthesizer {
            space,
            rng,
            seen: BTreeSet::new(),
            sums,
            usual,
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
    pub fn unguided(mut space: Space, seed: u64) -> Result<Synthesizer> {
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
        self.seen.insert(id);
    }

    /// The next new operator; `None` when 300,000 walks found none.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Option<Operator> {
        for _ in 0..MAX_WALKS {
            let mut rng = self.rng.clone();
            let operator = self.walk(None, &mut rng);
            self.rng = rng;
            match operator {
                Some(operator) if self.seen.insert(operator.id()) => return Some(operator),
                Some(_) => *self.refused.entry("seen before").or_default() += 1,
                None => {}
            }
        }
        None
    }

    /// One walk, from the root or from a state; it may find what was found before. Walks that end without an operator are
    /// counted by their reason.
    pub fn walk(&mut self, from: Option<&Partial>, rng: &mut ChaCha8Rng) -> Option<Operator> {
        self.n_walks += 1;
        match self.try_walk(from, rng) {
            Ok(operator) => Some(operator),
            Err(reason) => {
                *self.refused.entry(reason).or_default() += 1;
                None
            }
        }
    }

    fn try_walk(&mut self, from: Option<&Partial>, rng: &mut ChaCha8Rng) -> Result<Operator, &'static str> {
        let state = match from {
            Some(state) if state.n_actions > 0 => state.clone(),
            _ => self.begin(rng).map_err(Rule::name)?,
        };
        let (last, data) = self.space.wander(state, self.refuse_one_way, rng)?;
        self.n_arrived += 1;
        let operator = self.space.finish(&last, &data).map_err(Rule::name)?;
        let (moved, places) = (self.space.n_moved(&data), self.space.shapes.places.len());
        if moved < places && rng.random_bool(self.refuse_one_way) {
            return Err("exchange in one direction only (refused at random)");
        }
        Ok(operator)
    }

    /// The state after a random multiset of sums.
    fn begin(&mut self, rng: &mut ChaCha8Rng) -> Result<Partial, Rule> {
        let usual = rng.random_bool(USUAL_SUMS) && !self.usual.iter().all(Vec::is_empty);
        let lists = if usual { &mut self.usual } else { &mut self.sums };
        let filled: Vec<usize> = (0..lists.len()).filter(|&n| !lists[n].is_empty()).collect();
        let n = *filled.choose(rng).ok_or(Rule::Distance)?;
        let place = rng.random_range(0..lists[n].len());
        let mut state = self.space.root();
        for i in 0..n {
            let next = self.space.child(&state, &Action::Reduce(lists[n][place][i]));
            if next.is_err() {
                // it leads nowhere from the root, and always will
                lists[n].swap_remove(place);
            }
            state = next?;
        }
        if state.steps == ONLY_SUMS {
            lists[n].swap_remove(place);
            return Err(Rule::Distance);
        }
        Ok(state)
    }
}

impl Space {
    /// All multisets of sums that an operator may have.
    pub fn multisets(&self) -> Vec<Vec<Size>> {
        self.sizes.reductions(self.options.reductions, self.wanted_product, self.options.max_sum_ratio)
    }

    /// A single variable, or the channels over a single coefficient: what convolutions sum over.
    fn is_usual(&self, size: Size) -> bool {
        let variables = self.variables();
        let plain = |s: Size| variables.names().iter().any(|n| variables.size(n) == Some(s));
        let channels = self.shapes.channels.map(|(i, _)| self.shapes.data[i].size);
        plain(size) || channels.is_some_and(|c| plain(c.over(size)) && c.over(size).is_coefficient(variables))
    }

    /// Takes random actions until the frontier has the data's shape, and matches the two. A match that moves data along
    /// some of the places only is passed over with the given chance, while there is something else to do.
    ///
    /// # Errors
    /// Why the walk ended before.
    pub fn wander(&mut self, mut state: Partial, pass_over: f64, rng: &mut impl Rng) -> Result<(Partial, Vec<Dim>), &'static str> {
        loop {
            let mut matches = if state.weights.is_empty() { vec![] } else { self.matches(&state) };
            let needs_exchange = !self.options.off.contains(Rule::NoExchange) && !self.shapes.places.is_empty();
            if needs_exchange {
                matches.retain(|data| self.n_moved(data) > 0);
            }
            let data = matches.choose(rng).cloned();
            let eager = data.as_ref().is_some_and(|data| {
                let whole = self.n_moved(data) == self.shapes.places.len();
                rng.random_bool(FINISH) && (whole || !rng.random_bool(pass_over))
            });
            match (data, if eager { None } else { self.step(&state, rng) }) {
                (_, Some(next)) => state = next,
                (Some(data), None) => return Ok((state, data)),
                (None, None) if state.n_actions >= self.options.depth => return Err("depth"),
                (None, None) => {
                    return Err("no action");
                }
            }
        }
    }

    /// The state after one random action: a kind by its chance, then any of its actions that leads somewhere.
    fn step(&mut self, state: &Partial, rng: &mut impl Rng) -> Option<Partial> {
        if state.n_actions >= self.options.depth || state.steps == ONLY_SUMS {
            return None;
        }
        let mut kinds = CHANCES.map(|(kind, chance)| (kind, chance, None));
        let mut contractions = CONTRACTIONS + 1;
        loop {
            let total: u32 = kinds.iter().map(|k| k.1).sum();
            let mut at = if total == 0 { return None } else { rng.random_range(0..total) };
            let (kind, chance, actions) = kinds.iter_mut().find(|k| {
                let found = k.1 > at;
                at = at.saturating_sub(k.1);
                found
            })?;
            let action = if *kind == Kind::Contract {
                contractions -= 1;
                (contractions > 0).then(|| self.draw_contraction(state, rng))
            } else {
                let list = actions.get_or_insert_with(|| self.actions(state, *kind));
                let n_usual = list.iter().filter(|a| self.is_usual_action(state, a)).count();
                let choice = if n_usual > 0 && rng.random_bool(USUAL_ACTIONS) {
                    let nth = rng.random_range(0..n_usual);
                    (0..list.len()).filter(|&i| self.is_usual_action(state, &list[i])).nth(nth)
                } else {
                    (!list.is_empty()).then(|| rng.random_range(0..list.len()))
                };
                choice.map(|place| Some(list.swap_remove(place)))
            };
            match action {
                None => *chance = 0,
                Some(None) => {}
                Some(Some(action)) => {
                    if let Ok(next) = self.child(state, &action) {
                        return Some(next);
                    }
                }
            }
        }
    }

    /// Does the action do what convolutions do: windows and shifts of places, small sums strided, splits towards an axis of
    /// the data, merges by a small number?
    fn is_usual_action(&self, state: &Partial, action: &Action) -> bool {
        let (graph, variables) = (&self.graph, self.sizes.variables());
        let of_place = |d: Dim| self.shapes.places.iter().any(|&p| graph.depends(d, self.outputs[p]));
        let is_small = |d: Dim| graph.size(d).is_coefficient(variables);
        match *action {
            Action::Split(l, r) => {
                let product = graph.size(l).times(graph.size(r));
                let near = |a: &super::space::Axis| {
                    let (more, less) = (product.over(a.size), a.size.over(product));
                    [more, less].iter().any(|s| s.is_one() || (s.is_coefficient(variables) && self.free.contains(s)))
                };
                self.wanted.iter().any(near) && state.n_actions < self.options.depth
            }
            Action::Merge(x, block) => block.is_coefficient(variables) || graph.size(x).over(block).is_coefficient(variables),
            Action::Shift(x) => of_place(x),
            Action::Stride(x, _) => is_small(x),
            Action::Unfold(main, window) => of_place(main) && is_small(window),
            _ => true,
        }
    }

    fn actions(&mut self, state: &Partial, kind: Kind) -> Vec<Action> {
        let mut list = Vec::new();
        self.each_action_of(state, kind, &mut |_, action| list.push(action));
        list
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
            let wanted = self.wanted.iter().any(|a| a.size == self.graph.size(top.dim));
            let is_bare_sum = matches!(top.bare(&self.graph), Some(Prim::Reduce(_)));
            let (as_outer, as_inner) = match (may_expand, is_last) {
                (true, true) if !wanted => (0.85, 0.6),
                (true, _) => (0.5, 0.35),
                (false, true) if is_bare_sum => (0.0, 0.95),
                (false, _) => (0.0, if top.sums_only { 0.8 } else { 0.3 }),
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
