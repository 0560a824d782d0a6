//! The space counted level by level.

use super::Space;
use crate::synth::canon::Refusals;
use std::collections::{BTreeSet, HashSet};

/// All states that a number of actions leads to, and what becomes of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Level {
    pub n_states: u64,
    /// Actions offered in these states, and those that were not refused. Of the last level of a count that is not complete only a part.
    pub n_offered: u64,
    pub n_taken: u64,
    /// Finished operators, and those that no earlier state finished to.
    pub n_finals: u64,
    pub n_new: u64,
    /// What was refused in these states, and of what they finish to.
    pub refused: Refusals,
}

/// What an enumeration found.
#[derive(Clone, Debug, Default)]
pub struct Count {
    /// One per number of actions, from none.
    pub levels: Vec<Level>,
    /// The lines of all operators found.
    pub operators: BTreeSet<String>,
    /// All states up to the depth asked for were seen.
    pub complete: bool,
}

impl Space {
    /// Every state and operator of at most `max_depth` actions, breadth first, each state once however it is reached;
    /// ends early where one level has more than `limit` states.
    pub fn count_by_depth(&mut self, max_depth: usize, limit: usize) -> Count {
        let mut count = Count { complete: true, ..Count::default() };
        let mut states = vec![self.root()];
        for depth in 0..=max_depth {
            let mut level = Level { n_states: states.len() as u64, ..Level::default() };
            let before = self.refused.clone();
            let (mut next, mut seen) = (Vec::new(), HashSet::new());
            for state in &states {
                // equal states are reached by as many actions: one level at a time needs remembering
                if depth < max_depth && next.len() <= limit {
                    let n_refused = self.refused.total();
                    for (_, child) in self.children(state) {
                        level.n_taken += 1;
                        if seen.insert(child.identity()) {
                            next.push(child);
                        }
                        level.n_offered += 1;
                    }
                    level.n_offered += self.refused.total() - n_refused;
                }
                for (_, operator) in self.finals(state) {
                    level.n_finals += 1;
                    level.n_new += u64::from(count.operators.insert(operator.to_string()));
                }
            }
            level.refused = self.refused.since(&before);
            count.levels.push(level);
            if next.len() > limit {
                count.complete = false;
                break;
            }
            states = next;
        }
        count
    }
}
