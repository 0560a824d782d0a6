//! What can be searched: states of growth, arcs between them with a kind and a name, and finals at their ends.
//!
//! A tree in name only. Independent actions commute, so many ways lead to one state; states with equal keys are one.

use rand::prelude::*;
use rand_chacha::ChaCha8Rng;

/// A finished thing, by an id that is the same in every session (of an operator: a hash of its text).
pub type FinalId = u64;

/// The name of an arc: what kind of action, and a hash of what it does to what. The same action keeps its name in every
/// state in which it can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Step {
    pub kind: u8,
    pub key: u64,
}

/// Where an arc leads.
#[derive(Clone, Debug)]
pub enum To<S> {
    Partial(S),
    Final(FinalId),
}

/// One action that can be taken in a state.
#[derive(Clone, Debug)]
pub struct Arc<S> {
    pub kind: u8,
    pub key: u64,
    pub to: To<S>,
}

impl<S> Arc<S> {
    pub fn step(&self) -> Step {
        Step { kind: self.kind, key: self.key }
    }
}

/// A space of things that grow action by action.
///
/// Everything must be a function of the arguments, whatever was asked before: then a search with the same seed finds the same.
pub trait Tree {
    type State: Clone;

    fn root(&mut self) -> Self::State;

    /// Equal for equal states only. 128 bits: a fixed hash of the state will do.
    fn key(&self, state: &Self::State) -> u128;

    /// All actions; names differ. A state without children is a dead end.
    fn children(&mut self, state: &Self::State) -> Vec<Arc<Self::State>>;

    /// The canonical path from the root to a final that was seen, cut into blocks whose actions may commute (Syno's
    /// lattices: all reductions, the plain actions up to the next contraction, that contraction, and so on). It is
    /// empty for an unknown final.
    fn path(&mut self, id: FinalId) -> Vec<Vec<Step>>;

    /// Numbers that tell something of a final without an evaluation, such as what it costs; always as many, in units in which
    /// 1 is a difference to notice.
    fn numbers(&mut self, _id: FinalId) -> Vec<f64> {
        Vec::new()
    }

    /// Where a step leads from a state, if it can be taken there. Asked for steps of paths only; a tree that can take an
    /// action without listing all of them should.
    fn follow(&mut self, state: &Self::State, step: Step) -> Option<To<Self::State>> {
        self.children(state).into_iter().find(|a| a.step() == step).map(|a| a.to)
    }

    /// One random final below a state (below its arcs of one kind), or `None` when the walk met a dead end. Unless the
    /// tree knows better: at each state a kind uniformly, then an arc of it uniformly.
    fn sample(&mut self, from: &Self::State, kind: Option<u8>, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        let (mut state, mut wanted) = (from.clone(), kind);
        loop {
            let mut arcs = self.children(&state);
            let kind = match wanted.take() {
                Some(kind) => kind,
                None => {
                    let mut kinds: Vec<u8> = arcs.iter().map(|a| a.kind).collect();
                    kinds.sort_unstable();
                    kinds.dedup();
                    *kinds.choose(rng)?
                }
            };
            arcs.retain(|a| a.kind == kind);
            if arcs.is_empty() {
                return None;
            }
            let place = rng.random_range(0..arcs.len());
            match arcs.swap_remove(place).to {
                To::Partial(next) => state = next,
                To::Final(id) => return Some(id),
            }
        }
    }
}
