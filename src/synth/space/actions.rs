//! The actions of a state, and the states and operators that they lead to.

use super::Space;
use super::judge::ONLY_SUMS;
use crate::synth::graph::Dim;
use crate::synth::operator::Operator;
use crate::synth::partial::{Action, Partial, Top};
use crate::synth::prim::Prim;
use crate::synth::size::Size;
use crate::synth::stable_hash;

/// Where an arc leads.
#[derive(Clone, Debug)]
pub enum Child {
    Partial(Box<Partial>),
    Final(Box<Operator>),
}

/// An action in a state, with a name that it keeps in every state and session.
#[derive(Clone, Debug)]
pub struct Arc {
    /// [`Action::kind`].
    pub kind: u8,
    /// The hash of [`Space::print_action`].
    pub key: u64,
    pub action: Action,
    pub child: Child,
}

impl Space {
    /// Every action of a state that leads to a state which can still become an operator.
    pub fn children(&mut self, state: &Partial) -> Vec<(Action, Partial)> {
        let mut children = Vec::new();
        self.each_action(state, &mut |space, action| match space.grown(state, &action, None) {
            Ok(child) => children.push((action, child)),
            Err(rule) => space.refused.count(rule),
        });
        children
    }

    /// The children and the finished operators of a state, each under its name.
    pub fn arcs(&mut self, state: &Partial) -> Vec<Arc> {
        let children = self.children(state).into_iter().map(|(a, child)| (a, Child::Partial(Box::new(child))));
        let finals = self.finals(state).into_iter().map(|(a, operator)| (a, Child::Final(Box::new(operator))));
        let named = |(action, child): (Action, Child)| {
            let key = stable_hash(self.print_action(state, &action).as_bytes());
            Arc { kind: action.kind(), key, action, child }
        };
        children.chain(finals).map(named).collect()
    }

    /// Calls `found` with every action that the local rules allow; the others are counted.
    pub(in crate::synth) fn each_action(&mut self, state: &Partial, found: &mut dyn FnMut(&mut Space, Action)) {
        for kind in Kind::ALL {
            self.each_action_of(state, kind, found);
        }
    }

    /// [`Space::each_action`] of one kind.
    pub(in crate::synth) fn each_action_of(&mut self, state: &Partial, kind: Kind, found: &mut dyn FnMut(&mut Space, Action)) {
        let mut offer = |space: &mut Space, action: Action| match space.check(state, &action) {
            Ok(()) => found(space, action),
            Err(rule) => space.refused.count(rule),
        };
        let left = self.options.depth.saturating_sub(state.n_actions);
        let hopeless = kind != Kind::Reduce && (state.steps == ONLY_SUMS || (state.steps >= left && !self.may_be_critical(kind)));
        if left == 0 || hopeless {
            return;
        }
        let first: Vec<Top> = state.frontier.iter().copied().filter(|t| self.rank_among_equals(state, t) == 0).collect();
        match kind {
            Kind::Reduce => {
                if state.is_reducing() && state.sums.len() < self.options.reductions {
                    let least = state.sums.last().map_or(0, |&d| {
                        let last = self.graph.size(d);
                        self.free.partition_point(|&s| s < last)
                    });
                    for i in least..self.free.len() {
                        offer(self, Action::Reduce(self.free[i]));
                    }
                }
            }
            Kind::Split | Kind::Unfold => {
                for a in &state.frontier {
                    for b in &state.frontier {
                        if a.dim != b.dim && self.is_first_pair(state, a, b) {
                            offer(self, kind.of_pair(a.dim, b.dim));
                        }
                    }
                }
            }
            Kind::Merge => {
                for top in first.iter().filter(|t| t.shares == 0) {
                    if let Err(rule) = self.local(state).may_merge(top) {
                        self.refused.count(rule);
                        continue;
                    }
                    for block in self.blocks(state, top.dim).to_vec() {
                        offer(self, Action::Merge(top.dim, block));
                    }
                }
            }
            Kind::Shift => first.iter().for_each(|t| offer(self, Action::Shift(t.dim))),
            Kind::Stride => {
                if state.counts.strides < self.options.most.strides {
                    for top in &first {
                        if let Err(rule) = self.local(state).may_stride(top) {
                            self.refused.count(rule);
                            continue;
                        }
                        if let Some(step) = self.step_of(top.dim) {
                            offer(self, Action::Stride(top.dim, step));
                            continue;
                        }
                        for i in 0..self.free.len() {
                            offer(self, Action::Stride(top.dim, self.free[i]));
                        }
                    }
                }
            }
            Kind::Expand => first.iter().for_each(|t| offer(self, Action::Expand(t.dim))),
            Kind::Contract => {
                if self.local(state).may_contract() {
                    let tops: Vec<Top> = state.frontier.iter().copied().filter(|t| self.local(state).may_share(t)).collect();
                    self.each_contraction(state, &tops, &mut Vec::new(), state.outer, &mut offer);
                }
            }
        }
    }

    /// Where every action left must lower the distance, these cannot.
    fn may_be_critical(&self, kind: Kind) -> bool {
        match kind {
            // they may let a dim be cut or go, or a slot's stride comes of them
            Kind::Shift => self.knows_forms(),
            Kind::Stride => self.knows_forms() || !self.steps.is_empty(),
            Kind::Contract => self.options.admissible,
            _ => true,
        }
    }

    /// The blocks that a dim may be merged by.
    pub(in crate::synth) fn blocks(&mut self, state: &Partial, d: Dim) -> &[Size] {
        self.divisors.of(&self.sizes, self.graph.size(d), &state.allowance)
    }

    /// How many sums that nothing tells from this one come before it.
    pub(in crate::synth) fn rank_among_equals(&self, state: &Partial, top: &Top) -> usize {
        if !self.options.interchange || !matches!(self.graph.prim(top.dim), Prim::Reduce(_)) {
            return 0;
        }
        state.frontier.iter().filter(|t| self.are_alike(t, top) && t.dim < top.dim).count()
    }

    /// Two sums of one size with the same Shares on them: exchanging them changes nothing.
    pub(in crate::synth) fn are_alike(&self, a: &Top, b: &Top) -> bool {
        let is_sum = |t: &Top| matches!(self.graph.prim(t.dim), Prim::Reduce(_));
        is_sum(a) && is_sum(b) && a.shares == b.shares && self.graph.size(a.dim) == self.graph.size(b.dim)
    }

    pub(in crate::synth) fn is_first_pair(&self, state: &Partial, a: &Top, b: &Top) -> bool {
        let rank_of_b = if self.options.interchange && self.are_alike(a, b) { 1 } else { 0 };
        self.rank_among_equals(state, a) == 0 && self.rank_among_equals(state, b) == rank_of_b
    }

    /// Depth first over the dims that may be shared: not at all, as an inner axis, as an outer axis.
    fn each_contraction(
        &mut self,
        state: &Partial,
        tops: &[Top],
        axes: &mut Vec<(Dim, bool)>,
        outer: Size,
        offer: &mut dyn FnMut(&mut Space, Action),
    ) {
        let Some((top, rest)) = tops.split_first() else {
            if axes.len() >= 2 {
                offer(self, Action::Contract(axes.clone()));
            }
            return;
        };
        if axes.len() + state.counts.shares < self.options.most.shares {
            for is_outer in [false, true] {
                let mut product = outer;
                if is_outer {
                    if let Err(rule) = self.local(state).may_expand(top, outer) {
                        self.refused.count(rule);
                        continue;
                    }
                    if !matches!(self.graph.prim(top.dim), Prim::Reduce(_)) {
                        product = product.times(self.graph.size(top.dim));
                    }
                }
                axes.push((top.dim, is_outer));
                if self.is_first_choice(state, axes) {
                    self.each_contraction(state, rest, axes, product, offer);
                }
                axes.pop();
            }
        }
        self.each_contraction(state, rest, axes, outer, offer);
    }

    /// Among sums that nothing tells apart, outer axes come first, then inner ones, then those left alone.
    fn is_first_choice(&self, state: &Partial, axes: &[(Dim, bool)]) -> bool {
        if !self.options.interchange {
            return true;
        }
        let Some(&(last, is_outer)) = axes.last() else { return true };
        let Some(top) = state.top(last) else { return true };
        let choice = |d: Dim| axes.iter().find(|a| a.0 == d).map_or(0, |a| 1 + u8::from(a.1));
        // the frontier's order within alike sums need not be that of their numbers: any fixed order serves
        let before = state.frontier.iter().take_while(|t| t.dim != last).filter(|t| self.are_alike(t, top));
        before.map(|t| choice(t.dim)).all(|c| c > u8::from(is_outer))
    }
}

/// The kinds of actions, finishing apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Reduce,
    Expand,
    Shift,
    Stride,
    Split,
    Unfold,
    Merge,
    Contract,
}

impl Kind {
    pub const ALL: [Kind; 8] =
        [Kind::Reduce, Kind::Expand, Kind::Shift, Kind::Stride, Kind::Split, Kind::Unfold, Kind::Merge, Kind::Contract];

    pub(in crate::synth) fn of_pair(self, a: Dim, b: Dim) -> Action {
        if self == Kind::Split { Action::Split(a, b) } else { Action::Unfold(a, b) }
    }
}
