//! A seeded generator of finished operators by random walks from the output to the input.
//!
//! Walks are guided by the distance (Syno, section 6): an action after which too few are left to reach the data's shape is
//! not taken. Every operator returned is sound: it fits the data's shape, divides under every binding, and keeps the
//! budgets.

use super::canon::Rule;
use super::child_seed;
use super::graph::Dim;
use super::operator::Operator;
use super::partial::{Action, Partial, Top};
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

/// Draws per step before a walk is given up: most kinds have a legal place in most states.
const DRAWS: usize = 24;

/// Sums are drawn by what convolutions have (channels, windows, a rank) in this share of the walks, else from all multisets.
const USUAL_SUMS: f64 = 0.7;

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
            self.n_walks += 1;
            match self.walk() {
                Ok(operator) => return Some(operator),
                Err(reason) => *self.refused.entry(reason).or_default() += 1,
            }
        }
        None
    }

    fn walk(&mut self) -> Result<Operator, &'static str> {
        let state = self.begin().map_err(Rule::name)?;
        let (last, data) = self.space.wander(state, &mut self.rng)?;
        self.n_arrived += 1;
        let operator = self.space.finish(&last, &data).map_err(Rule::name)?;
        let (moved, places) = (self.space.n_moved(&data), self.space.shapes.places.len());
        if moved < places && self.rng.random_bool(self.refuse_one_way) {
            return Err("exchange in one direction only (refused at random)");
        }
        if !self.seen.insert(operator.id()) {
            return Err("seen before");
        }
        Ok(operator)
    }

    /// The state after a random multiset of sums.
    fn begin(&mut self) -> Result<Partial, Rule> {
        let usual = self.rng.random_bool(USUAL_SUMS) && !self.usual.iter().all(Vec::is_empty);
        let lists = if usual { &mut self.usual } else { &mut self.sums };
        let filled: Vec<usize> = (0..lists.len()).filter(|&n| !lists[n].is_empty()).collect();
        let n = *filled.choose(&mut self.rng).ok_or(Rule::Distance)?;
        let place = self.rng.random_range(0..lists[n].len());
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

    /// Takes random actions until the frontier has the data's shape, and matches the two.
    ///
    /// # Errors
    /// Why the walk ended before.
    pub fn wander(&mut self, mut state: Partial, rng: &mut impl Rng) -> Result<(Partial, Vec<Dim>), &'static str> {
        loop {
            let mut matches = if state.weights.is_empty() { vec![] } else { self.matches(&state) };
            let next = if !matches.is_empty() && rng.random_bool(FINISH) { None } else { self.step(&state, rng) };
            match next {
                Some(next) => state = next,
                None if matches.is_empty() && state.n_actions >= self.options.depth => return Err("depth"),
                None if matches.is_empty() => return Err("no action"),
                None => {
                    let place = rng.random_range(0..matches.len());
                    return Ok((state, matches.swap_remove(place)));
                }
            }
        }
    }

    /// The state after one random action.
    fn step(&mut self, state: &Partial, rng: &mut impl Rng) -> Option<Partial> {
        if state.n_actions >= self.options.depth || state.steps == ONLY_SUMS {
            return None;
        }
        (0..DRAWS).find_map(|_| {
            let action = self.draw(state, rng)?;
            self.child(state, &action).ok()
        })
    }

    fn draw(&mut self, state: &Partial, rng: &mut impl Rng) -> Option<Action> {
        let mut at = rng.random_range(0..CHANCES.iter().map(|c| c.1).sum());
        let (kind, _) = CHANCES.iter().find(|c| {
            c.1 > at || {
                at -= c.1;
                false
            }
        })?;
        let mut pick = || state.frontier.choose(rng).copied();
        let alone = |space: &Space, top: &Top| space.rank_among_equals(state, top) == 0;
        match kind {
            Kind::Contract => self.draw_contraction(state, rng),
            Kind::Unfold | Kind::Split => {
                let (a, b) = (pick()?, pick()?);
                (a.dim != b.dim && self.is_first_pair(state, &a, &b)).then(|| kind.of_pair(a.dim, b.dim))
            }
            Kind::Merge => {
                let x = pick().filter(|t| t.shares == 0 && !matches!(self.graph.prim(t.dim), Prim::Reduce(_)))?;
                Some(Action::Merge(x.dim, *self.blocks(state, x.dim).choose(rng)?))
            }
            Kind::Shift => pick().filter(|t| alone(self, t)).map(|t| Action::Shift(t.dim)),
            Kind::Stride => {
                let x = pick().filter(|t| alone(self, t))?;
                Some(Action::Stride(x.dim, *self.free.choose(rng)?))
            }
            Kind::Expand => pick().map(|t| Action::Expand(t.dim)),
            Kind::Reduce => None,
        }
    }

    fn draw_contraction(&mut self, state: &Partial, rng: &mut impl Rng) -> Option<Action> {
        if !self.local(state).may_contract() {
            return None;
        }
        let mut axes = Vec::new();
        let mut outer = state.outer;
        for top in &state.frontier {
            if !self.local(state).may_share(top) {
                continue;
            }
            let may_expand = self.local(state).may_expand(top, outer).is_ok();
            // the output's channels mostly live in weights alone, sums in both
            let (as_outer, as_inner) = if may_expand {
                (0.5, 0.35)
            } else if top.sums_only {
                (0.0, 0.8)
            } else {
                (0.0, 0.35)
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
        (axes.len() >= 2).then_some(Action::Contract(axes))
    }
}
