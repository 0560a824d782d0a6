//! The space of operators as a tree to search: states are partial operators, arcs actions, finals operators.

use super::tree::{Arc, FinalId, Step, To, Tree};
use crate::error::Result;
use crate::lower::{LoopNest, lower};
use crate::synth::canon::Rule;
use crate::synth::space::{Axis, Child};
use crate::synth::{Action, Operator, Partial, Size, Space, Synthesizer, stable_hash};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

/// [`Action::kind`] of sums.
const REDUCE: u8 = 0;

/// Walks of one draw from the root, and from elsewhere before a descent: some percent of them arrive, fewer in states that
/// few operators have below them. Descents know no usual actions, but arrive where walks do not.
const ROOT_WALKS: usize = 64;
const WALKS: usize = 4;

/// A draw below a state that may still take sums takes one more with this chance: walks take none.
const MORE_SUMS: f64 = 0.5;

/// The sum is one that convolutions have in this share of the cases, as in walks.
const USUAL_SUMS: f64 = 0.7;

/// A descent may take one action more than are needed with this chance, one more again with the same, and so on.
const LONGER: f64 = 0.6;

/// A descent that may finish does so with this chance; else it goes on to a larger operator.
const FINISH: f64 = 0.7;

/// States that a descent may look at.
const MAX_LISTED: usize = 40;

/// States whose arcs are remembered, of some 30 kB each: draws come in series from one state and those after it.
const LISTED: usize = 2048;

/// A [`Space`], and the operators that were met in it.
pub struct Operators {
    synthesizer: Synthesizer,
    met: HashMap<FinalId, Operator>,
    /// What steps of paths stand for; only looked up.
    actions: HashMap<Step, Action>,
    /// The arcs of states, by their keys; only looked up.
    listed: HashMap<u128, Rc<[Arc<Partial>]>>,
}

impl Operators {
    /// # Errors
    /// As [`Synthesizer::new`].
    pub fn new(space: Space) -> Result<Operators> {
        // the walks' random numbers come from the search
        Ok(Operators { synthesizer: Synthesizer::new(space, 0)?, met: HashMap::new(), actions: HashMap::new(), listed: HashMap::new() })
    }

    /// Why walks ended without an operator, and how often, since the last call.
    pub fn take_refused(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.synthesizer.refused)
    }

    /// Walks, what they came to, and what was refused on the way, by name.
    pub fn stats(&self, secs: f64) -> String {
        let Synthesizer { n_walks, n_arrived, .. } = self.synthesizer;
        let share = 100.0 * n_arrived as f64 / n_walks.max(1) as f64;
        let n = self.met.len();
        let mut text = format!(
            "{n_walks} walks, {n_arrived} ({share:.0} %) reached the data's shape; {n} distinct operators in {secs:.2} s ({:.0}/s); refused:\n",
            n as f64 / secs
        );
        for (reason, count) in self.synthesizer.space().refused.table().into_iter().chain(self.synthesizer.refused.clone()) {
            text += &format!("{count:10}  {reason}\n");
        }
        text
    }

    /// The name of an operator in the tree: its id as a number.
    pub fn id_of(operator: &Operator) -> FinalId {
        stable_hash(operator.to_string().as_bytes())
    }

    /// An operator that was met.
    pub fn operator(&self, id: FinalId) -> Option<&Operator> {
        self.met.get(&id)
    }

    /// Makes an operator known that comes from elsewhere.
    pub fn meet(&mut self, operator: Operator) -> FinalId {
        let id = Operators::id_of(&operator);
        self.met.insert(id, operator);
        id
    }

    fn list(&mut self, state: &Partial) -> Rc<[Arc<Partial>]> {
        let key = state.key();
        if let Some(arcs) = self.listed.get(&key) {
            return arcs.clone();
        }
        if self.listed.len() >= LISTED {
            self.listed.clear();
        }
        let arcs: Rc<[Arc<Partial>]> = self.read(state).into();
        self.listed.insert(key, arcs.clone());
        arcs
    }

    fn walk(&mut self, from: &Partial, n: usize, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        let operator = (0..n).find_map(|_| self.synthesizer.walk(Some(from), rng))?;
        Some(self.meet(operator))
    }

    /// Does the step sum over a whole axis, a coefficient, or an axis over a coefficient?
    fn is_usual(&self, step: Step) -> bool {
        let Some(&Action::Reduce(size)) = self.actions.get(&step) else { return false };
        let space = self.synthesizer.space();
        let variables = space.variables();
        let plain = |s: Size| variables.names().iter().any(|n| variables.size(n) == Some(s));
        let part = |a: &Axis| plain(a.size.over(size)) && a.size.over(size).is_coefficient(variables);
        plain(size) || space.shapes.data.iter().any(part)
    }

    /// A random way down from a state, through listed arcs: a kind uniformly, then an arc of it. What leads nowhere is
    /// taken back, as long as the budget of states lasts.
    fn descend(&mut self, from: &Partial, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        let slack = (0..).take_while(|_| rng.random_bool(LONGER)).count();
        let most = from.n_actions.saturating_add(from.steps).saturating_add(slack);
        let mut trail: Vec<Stop> = Vec::new();
        let mut next = from.clone();
        for _ in 0..MAX_LISTED {
            let arcs = self.list(&next);
            let in_reach = |a: &Arc<Partial>| match &a.to {
                To::Partial(next) => next.n_actions.saturating_add(next.steps) <= most,
                To::Final(_) => true,
            };
            let left: Vec<usize> = (0..arcs.len()).filter(|&i| in_reach(&arcs[i])).collect();
            trail.push(Stop { arcs, left });
            next = loop {
                let stop = trail.last_mut()?;
                let arcs = &stop.arcs;
                let is_final = |&i: &usize| matches!(arcs[i].to, To::Final(_));
                let mut place = stop.left.iter().copied().filter(is_final).choose(rng).filter(|_| rng.random_bool(FINISH));
                if place.is_none() {
                    let kinds: BTreeSet<u8> = stop.left.iter().map(|&i| arcs[i].kind).collect();
                    let kind = kinds.into_iter().choose(rng);
                    place = stop.left.iter().copied().filter(|&i| Some(arcs[i].kind) == kind).choose(rng);
                }
                let Some(place) = place else {
                    trail.pop();
                    continue;
                };
                stop.left.retain(|&i| i != place);
                match &arcs[place].to {
                    To::Final(id) => return Some(*id),
                    To::Partial(state) => break state.clone(),
                }
            };
        }
        None
    }

    fn read(&mut self, state: &Partial) -> Vec<Arc<Partial>> {
        let arcs = self.synthesizer.space_mut().arcs(state);
        let mut children = Vec::with_capacity(arcs.len());
        for arc in arcs {
            let to = match arc.child {
                Child::Partial(next) => To::Partial(*next),
                Child::Final(operator) => To::Final(self.meet(*operator)),
            };
            self.actions.insert(Step { kind: arc.kind, key: arc.key }, arc.action);
            children.push(Arc { kind: arc.kind, key: arc.key, to });
        }
        children
    }
}

impl Tree for Operators {
    type State = Partial;

    fn root(&mut self) -> Partial {
        self.synthesizer.space_mut().root()
    }

    fn key(&self, state: &Partial) -> u128 {
        state.key()
    }

    fn children(&mut self, state: &Partial) -> Vec<Arc<Partial>> {
        self.list(state).to_vec()
    }

    fn path(&mut self, id: FinalId) -> Vec<Vec<Step>> {
        let Some(operator) = self.met.get(&id) else { return vec![] };
        // an operator from elsewhere need not be one of the space
        let Ok(path) = self.synthesizer.space_mut().path(operator) else { return vec![] };
        let mut blocks = Vec::with_capacity(path.blocks.len());
        for block in path.blocks {
            let mut steps = Vec::with_capacity(block.len());
            for step in block {
                let name = Step { kind: step.kind, key: step.key };
                self.actions.insert(name, step.action);
                steps.push(name);
            }
            blocks.push(steps);
        }
        blocks
    }

    fn follow(&mut self, state: &Partial, step: Step) -> Option<To<Partial>> {
        let action = self.actions.get(&step)?.clone();
        let space = self.synthesizer.space_mut();
        match action {
            Action::Finish(data) => space.finish(state, &data).ok().map(|operator| To::Final(self.meet(operator))),
            action => space.child(state, &action).ok().map(To::Partial),
        }
    }

    /// Multiply-adds, elements of all tensors, parameters (doublings, the slots' together) and stages.
    fn numbers(&mut self, id: FinalId) -> Vec<f64> {
        let bindings = &self.synthesizer.space().bindings;
        let Some(operator) = self.met.get(&id) else { return vec![0.0; 4] };
        let nests: Vec<_> = bindings.iter().filter_map(|b| lower(operator, b).ok()).collect();
        let total = |of: &dyn Fn(&LoopNest) -> f64| nests.iter().map(of).sum::<f64>();
        let macs = total(&|n| n.n_macs() as f64);
        let elements = total(&|n| n.tensors.iter().map(|t| t.n_elements() as f64).sum());
        let weights = total(&|n| n.n_weights() as f64);
        let stages = nests.first().map_or(0.0, |n| n.stages.len() as f64);
        let doublings = |x: f64| x.max(1.0).log2();
        vec![doublings(macs) / 2.0, doublings(elements), doublings(weights) / 2.0, stages]
    }

    fn sample(&mut self, from: &Partial, kind: Option<u8>, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        let id = self.draw(from, kind, rng)?;
        let refused = self.is_one_way(id) && rng.random_bool(self.synthesizer.refuse_one_way);
        (!refused).then_some(id)
    }
}

impl Operators {
    /// Does the operator leave some of the places as they are? As in [`Synthesizer::refuse_one_way`].
    fn is_one_way(&self, id: FinalId) -> bool {
        let (Some(operator), space) = (self.met.get(&id), self.synthesizer.space()) else { return false };
        let moves = |&place: &usize| space.moves(operator.graph(), operator.data(), operator.outputs()[place]);
        !space.options.off.contains(Rule::NoExchange) && !space.shapes.places.iter().all(moves)
    }

    fn draw(&mut self, from: &Partial, kind: Option<u8>, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        if from.n_actions == 0 && kind.is_none() {
            return self.walk(from, ROOT_WALKS, rng);
        }
        let (mut state, mut kind) = (from.clone(), kind);
        // walks take no sums but from the root on
        while kind.is_some() || (state.n_actions > 0 && state.is_reducing()) {
            let arcs = self.list(&state);
            let needs_sums = arcs.iter().all(|a| a.kind == REDUCE);
            let wanted = match kind.take() {
                Some(kind) => kind,
                None if needs_sums || rng.random_bool(MORE_SUMS) => REDUCE,
                None => break,
            };
            let usual = wanted == REDUCE && rng.random_bool(USUAL_SUMS);
            let of_kind = |a: &&Arc<Partial>| a.kind == wanted;
            let is_usual = |a: &&Arc<Partial>| of_kind(a) && self.is_usual(a.step());
            let arc = arcs.iter().filter(is_usual).filter(|_| usual).choose(rng);
            match arc.or_else(|| arcs.iter().filter(of_kind).choose(rng)).map(|a| &a.to) {
                Some(To::Partial(next)) => state = next.clone(),
                Some(To::Final(id)) => return Some(*id),
                None if wanted == REDUCE && !needs_sums => break,
                None => return None,
            }
        }
        match self.walk(&state, WALKS, rng) {
            Some(id) => Some(id),
            None => self.descend(&state, rng),
        }
    }
}

/// A state of a descent, and the places of the arcs that are left to try.
struct Stop {
    arcs: Rc<[Arc<Partial>]>,
    left: Vec<usize>,
}
