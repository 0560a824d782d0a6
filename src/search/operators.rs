//! The space of operators as a tree to search: states are partial operators, arcs actions, finals operators.

use super::tree::{Arc, FinalId, Step, To, Tree};
use crate::error::Result;
use crate::synth::space::Child;
use crate::synth::{Action, Operator, Partial, Space, Synthesizer, stable_hash};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, HashMap};

/// A [`Space`], and the operators that were met in it.
pub struct Operators {
    synthesizer: Synthesizer,
    met: HashMap<FinalId, Operator>,
    /// What steps of paths stand for; only looked up.
    actions: HashMap<Step, Action>,
}

impl Operators {
    /// # Errors
    /// As [`Synthesizer::new`].
    pub fn new(space: Space) -> Result<Operators> {
        // the walks' random numbers come from the search
        Ok(Operators { synthesizer: Synthesizer::new(space, 0)?, met: HashMap::new(), actions: HashMap::new() })
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

    fn sample(&mut self, from: &Partial, kind: Option<u8>, rng: &mut ChaCha8Rng) -> Option<FinalId> {
        let Some(kind) = kind else {
            let operator = self.synthesizer.walk(Some(from), rng)?;
            return Some(self.meet(operator));
        };
        let mut arcs = self.children(from);
        arcs.retain(|a| a.kind == kind);
        match arcs.into_iter().choose(rng)?.to {
            To::Partial(next) => {
                let operator = self.synthesizer.walk(Some(&next), rng)?;
                Some(self.meet(operator))
            }
            To::Final(id) => Some(id),
        }
    }
}
