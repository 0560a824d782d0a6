//! Operators under construction: the frontier, and what may be done to it.

use super::graph::{Dim, Graph};
use super::prim::Prim;
use super::size::Size;

/// One primitive applied at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Reduce(Size),
    Split(Dim, Dim),
    Merge(Dim, Size),
    Shift(Dim),
    Stride(Dim, Size),
    Unfold(Dim, Dim),
    Expand(Dim),
    /// Share with a new weight: each dim becomes an axis of it; `true` also expands the dim, so that only the weight
    /// depends on it.
    Contract(Vec<(Dim, bool)>),
}

/// A partial operator: what the data tensor is indexed by so far, and the weights so far.
#[derive(Clone, Debug, Default)]
pub struct Partial {
    pub frontier: Vec<Dim>,
    pub sums: Vec<Dim>,
    pub weights: Vec<Vec<Dim>>,
    pub n_actions: usize,
}

impl Partial {
    /// The state after an action; the action must name dims of the frontier.
    pub fn apply(&self, graph: &mut Graph, action: &Action) -> Partial {
        let mut next = self.clone();
        next.n_actions += 1;
        let replace = |next: &mut Partial, old: &[Dim], new: &[Dim]| {
            next.frontier.retain(|d| !old.contains(d));
            next.frontier.extend(new);
        };
        match *action {
            Action::Reduce(size) => {
                let nth = self.sums.iter().filter(|&&d| graph.size(d) == size).count();
                let d = graph.leaf(Prim::Reduce(nth as u8), size);
                next.sums.push(d);
                next.frontier.push(d);
            }
            Action::Split(l, r) => {
                let d = graph.make(Prim::Split(l, r));
                replace(&mut next, &[l, r], &[d]);
            }
            Action::Merge(x, block) => {
                let parts = [graph.make(Prim::Outer(x, block)), graph.make(Prim::Inner(x, block))];
                replace(&mut next, &[x], &parts);
            }
            Action::Shift(x) => {
                let d = graph.make(Prim::Shift(x));
                replace(&mut next, &[x], &[d]);
            }
            Action::Stride(x, step) => {
                let d = graph.make(Prim::Stride(x, step));
                replace(&mut next, &[x], &[d]);
            }
            Action::Unfold(main, window) => {
                let d = graph.make(Prim::Unfold(main, window));
                replace(&mut next, &[main, window], &[d]);
            }
            Action::Expand(x) => replace(&mut next, &[x], &[]),
            Action::Contract(ref axes) => {
                next.weights.push(axes.iter().map(|a| a.0).collect());
                next.frontier.retain(|d| !axes.contains(&(*d, true)));
            }
        }
        next
    }

    /// Does some weight have this dim as an axis?
    pub fn is_shared(&self, d: Dim) -> bool {
        self.weights.iter().any(|w| w.contains(&d))
    }
}
