//! Who proposes operators, and is told what they were worth: the tree search, evolution, or plain walks.

use super::evolve::Evolution;
use super::mcts::{Constants, Search, Ticket};
use super::operators::Operators;
use super::tree::FinalId;
use crate::error::Result;
use crate::spec::Proposals;
use crate::synth::{Operator, Space};
use std::collections::BTreeMap;

/// Questions without an answer in a row after which a space counts as exhausted.
pub const MAX_BARREN: usize = 20;

/// A strategy with what it has out.
pub enum Proposer {
    Tree {
        search: Box<Search<Operators>>,
        /// Asked and not told yet.
        tickets: BTreeMap<FinalId, Ticket>,
    },
    /// Evolution, or random walks.
    Evolution(Box<Evolution<Operators>>),
}

impl Proposer {
    /// # Errors
    /// As [`Operators::new`].
    pub fn new(strategy: Proposals, space: Space, seed: u64) -> Result<Proposer> {
        let tree = Operators::new(space)?;
        Ok(match strategy {
            Proposals::Mcts => Proposer::Tree { search: Box::new(Search::new(tree, Constants::default(), seed)), tickets: BTreeMap::new() },
            Proposals::Evolution => Proposer::Evolution(Box::new(Evolution::new(tree, seed))),
            Proposals::Random => Proposer::Evolution(Box::new(Evolution::random(tree, seed))),
        })
    }

    fn tree(&self) -> &Operators {
        match self {
            Proposer::Tree { search, .. } => search.tree(),
            Proposer::Evolution(evolution) => evolution.tree(),
        }
    }

    fn tree_mut(&mut self) -> &mut Operators {
        match self {
            Proposer::Tree { search, .. } => search.tree_mut(),
            Proposer::Evolution(evolution) => evolution.tree_mut(),
        }
    }

    /// A new operator; `None` when none was found, or all were asked.
    pub fn ask(&mut self) -> Option<Operator> {
        let id = match self {
            Proposer::Tree { search, tickets } => {
                let ticket = search.ask()?;
                let id = ticket.id;
                tickets.insert(id, ticket);
                id
            }
            Proposer::Evolution(evolution) => evolution.ask()?,
        };
        self.tree().operator(id).cloned()
    }

    /// This operator will not be evaluated: it is no good whatever its numbers.
    pub fn refuse(&mut self, operator: &Operator) {
        let id = Operators::id_of(operator);
        match self {
            Proposer::Tree { search, tickets } => {
                if let Some(ticket) = tickets.remove(&id) {
                    search.tell(&ticket, -1.0);
                }
            }
            Proposer::Evolution(evolution) => evolution.tell(id, -1.0),
        }
    }

    /// What every evaluated operator is worth, in 0..=1: new ones are told, the others counted anew.
    pub fn tell(&mut self, rewards: &BTreeMap<FinalId, f64>) {
        match self {
            Proposer::Tree { search, tickets } => {
                for (&id, &reward) in rewards {
                    if let Some(ticket) = tickets.remove(&id) {
                        search.tell(&ticket, reward);
                    }
                }
                search.rescore(|id| rewards.get(&id).copied().unwrap_or(0.0));
            }
            Proposer::Evolution(evolution) => {
                for (&id, &reward) in rewards {
                    evolution.tell(id, reward);
                }
                evolution.rescore(|id| rewards.get(&id).copied().unwrap_or(0.0));
            }
        }
    }

    /// What was walked and refused so far, for people.
    pub fn stats(&self, secs: f64, n_over: u64) -> String {
        format!("{}{n_over:10}  operator: over the budgets\n", self.tree().stats(secs))
    }

    /// Why walks ended without an operator, and how often, since the last call.
    pub fn take_refused(&mut self) -> BTreeMap<&'static str, u64> {
        self.tree_mut().take_refused()
    }
}
