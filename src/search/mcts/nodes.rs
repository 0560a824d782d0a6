//! States with their children: reading, revealing, hiding, closing and forgetting them.

use super::Search;
use super::stats::Place;
use crate::search::tree::{FinalId, Step, To, Tree};

/// One so-manieth of the nodes is forgotten when there are too many.
const FORGET: usize = 4;

pub(super) struct Twig<S> {
    pub step: Step,
    pub to: To<S>,
    pub goal: Goal,
    pub revealed: bool,
}

/// A state's actions of one kind.
pub(super) struct Branch<S> {
    pub kind: u8,
    pub revealed: bool,
    pub twigs: Vec<Twig<S>>,
}

#[derive(Clone, Copy)]
pub(super) enum Goal {
    State(u128),
    Final(FinalId),
}

/// A child that can be chosen.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    pub index: usize,
    pub revealed: bool,
    /// Where the way to it is counted.
    pub edge: Place,
    /// Where it is counted itself.
    pub node: Place,
    pub local: Place,
    pub global: Place,
}

impl<T: Tree> Search<T> {
    /// Reads a state's children, unless they are held.
    pub(super) fn open(&mut self, key: u128, state: &T::State) {
        if self.nodes.contains_key(&key) {
            return;
        }
        if self.nodes.len() >= self.constants.max_nodes.max(2) {
            self.forget();
        }
        let mut arcs = self.tree.children(state);
        arcs.sort_by_key(|a| a.step());
        let mut branches: Vec<Branch<T::State>> = Vec::new();
        for arc in arcs {
            let step = arc.step();
            let goal = match &arc.to {
                To::Partial(next) => Goal::State(self.tree.key(next)),
                To::Final(id) => Goal::Final(*id),
            };
            let used = |place: Place| {
                let stat = self.stats.at(place);
                stat.n > 0 || stat.in_flight > 0
            };
            if branches.last().is_none_or(|b| b.kind != step.kind) {
                branches.push(Branch { kind: step.kind, revealed: used(Place::Kind(key, step.kind)), twigs: Vec::new() });
            }
            let twig = Twig { step, to: arc.to, goal, revealed: used(Place::Arc(key, step)) };
            if let Some(branch) = branches.last_mut() {
                branch.twigs.push(twig);
            }
        }
        self.nodes.insert(key, branches);
    }

    pub(super) fn forget(&mut self) {
        let mut keys: Vec<(u32, u128)> = self.nodes.keys().map(|&k| (self.stats.at(Place::State(k)).n, k)).collect();
        keys.sort_unstable();
        for (_, key) in keys.iter().take((keys.len() / FORGET).max(1)) {
            self.nodes.remove(key);
        }
    }

    pub(super) fn is_open(&self, goal: Goal) -> bool {
        match goal {
            Goal::State(key) => !self.closed.contains(&key),
            Goal::Final(id) => !self.fates.contains_key(&id),
        }
    }

    pub(super) fn is_visible(&self, goal: Goal) -> bool {
        self.is_open(goal) && !matches!(goal, Goal::State(key) if self.fruitless.contains(&(key, None)))
    }

    pub(super) fn kinds(&self, key: u128) -> Vec<Choice> {
        let branches = self.nodes.get(&key).into_iter().flatten().enumerate();
        let visible =
            branches.filter(|(_, b)| !self.fruitless.contains(&(key, Some(b.kind))) && b.twigs.iter().any(|t| self.is_open(t.goal)));
        let choice = |(index, b): (usize, &Branch<T::State>)| {
            let edge = Place::Kind(key, b.kind);
            Choice { index, revealed: b.revealed, edge, node: edge, local: Place::LocalKind(key, b.kind), global: Place::AnyKind(b.kind) }
        };
        visible.map(choice).collect()
    }

    pub(super) fn arcs(&self, key: u128, branch: usize) -> Vec<Choice> {
        let Some(branch) = self.nodes.get(&key).and_then(|b| b.get(branch)) else { return Vec::new() };
        let visible = branch.twigs.iter().enumerate().filter(|(_, t)| self.is_visible(t.goal));
        let choice = |(index, t): (usize, &Twig<T::State>)| {
            let edge = Place::Arc(key, t.step);
            let node = match t.goal {
                Goal::State(key) => Place::State(key),
                Goal::Final(_) => edge,
            };
            Choice { index, revealed: t.revealed, edge, node, local: Place::LocalArc(key, t.step), global: Place::AnyArc(t.step) }
        };
        visible.map(choice).collect()
    }

    pub(super) fn reveal(&mut self, parent: Place, index: usize) {
        match parent {
            Place::State(key) => {
                if let Some(branch) = self.nodes.get_mut(&key).and_then(|b| b.get_mut(index)) {
                    branch.revealed = true;
                }
            }
            Place::Kind(key, kind) => {
                let branch = self.nodes.get_mut(&key).and_then(|b| b.iter_mut().find(|b| b.kind == kind));
                if let Some(twig) = branch.and_then(|b| b.twigs.get_mut(index)) {
                    twig.revealed = true;
                }
            }
            _ => {}
        }
    }

    /// Closes what has become empty along a path, from its end to the root.
    pub(super) fn settle(&mut self, path: &[Place]) {
        for &place in path.iter().rev() {
            if let Place::State(key) = place
                && let Some(branches) = self.nodes.get(&key)
                && !branches.iter().flat_map(|b| &b.twigs).any(|t| self.is_open(t.goal))
            {
                self.closed.insert(key);
            }
        }
    }

    pub(super) fn wake(&mut self, state: u128, kind: u8) {
        self.fruitless.remove(&(state, None));
        self.fruitless.remove(&(state, Some(kind)));
    }

    pub(super) fn touch(&mut self, path: &[Place]) {
        for &place in path {
            match place {
                Place::State(key) => drop(self.fruitless.remove(&(key, None))),
                Place::Kind(key, kind) => self.wake(key, kind),
                _ => {}
            }
        }
    }

    /// A root that leaves no choice is passed through.
    pub(super) fn reveal_chain(&mut self) {
        let (mut key, mut state) = self.root.clone();
        loop {
            self.open(key, &state);
            let Some([branch]) = self.nodes.get(&key).map(Vec::as_slice) else { break };
            let [twig] = branch.twigs.as_slice() else { break };
            let (To::Partial(next), Goal::State(next_key)) = (twig.to.clone(), twig.goal) else { break };
            let step = twig.step;
            for place in [Place::State(key), Place::Kind(key, step.kind), Place::Arc(key, step)] {
                self.stats.visit(place);
            }
            self.reveal(Place::State(key), 0);
            self.reveal(Place::Kind(key, step.kind), 0);
            (key, state) = (next_key, next);
        }
        if self.nodes.get(&key).is_some_and(Vec::is_empty) {
            self.settle(&[Place::State(self.root.0), Place::State(key)]);
        }
    }
}
