//! Tree search over a space that grows action by action: the search of Syno (Zhuo et al., ASPLOS 2025), UCB1-tuned choices
//! (Auer, Cesa-Bianchi, Fischer 2002) in layers of states and kinds of actions, children revealed one by one in the order
//! of RAVE scores (Gelly, Silver 2011).
//!
//! A few hundred evaluations are too few for a tree with thousands of children to a state: by default the search draws
//! several dozen finals for each one proposed, from below the place that the tree chose and from elsewhere, and a surrogate that
//! learns from the rewards told ranks them (Gaussian process, upper confidence bound). Random search and evolution, which it
//! is compared with, evaluate what they draw.
//!
//! [`Search::ask`] gives a [`Ticket`] for a final; [`Search::tell`] takes its reward, [`Search::cancel`] (or dropping it)
//! gives it back, to be asked first the next time. Several tickets may be out. What differs from Syno: a final is proposed
//! once and then leaves the tree; a subtree without new finals is closed for good; virtual losses belong to tickets and
//! cannot leak; everything is a function of the tree, the constants, the seed and the order of calls.
//!
//! Resuming: call [`Search::replay`] with the finals in the order in which they were asked, and tell, cancel and rescore
//! where that was done. The search is then the same in all respects, random numbers included, unless the tree or the
//! constants changed. From the first final on that would not have been asked here, replayed finals are put into the tree
//! along their canonical paths: their rewards count as they should, but the random numbers to come are others.

mod candidates;
mod constants;
mod lattice;
mod nodes;
mod simulate;
mod stats;
mod surrogate;

pub use constants::Constants;
pub use stats::{Place, Stat};

use super::tree::{FinalId, Step, To, Tree};
use crate::synth::child_seed;
use nodes::{Branch, Choice, Goal};
use rand::prelude::*;
use rand_chacha::ChaCha8Rng;
use stats::{Credits, Stats};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, Sender, channel};
use surrogate::Surrogate;

/// The score of an edge never tried: above every other.
const UNTRIED: f64 = 1e9;

/// One evaluation in flight. Dropping it gives its final back.
#[derive(Debug)]
pub struct Ticket {
    pub id: FinalId,
    number: u64,
    dropped: Sender<u64>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // the search may be gone first
        let _ = self.dropped.send(self.number);
    }
}

/// A final to propose and the selected path to it.
struct Flight {
    id: FinalId,
    path: Vec<Place>,
}

enum Fate {
    Asked,
    Refused,
    Told { reward: f64, credits: Credits },
}

enum Rollout {
    Proposed(Vec<Flight>),
    /// A known reward counted once more, or a piece of the tree closed or hidden.
    Nothing,
}

/// A tree search.
pub struct Search<T: Tree> {
    tree: T,
    constants: Constants,
    rng: ChaCha8Rng,
    root: (u128, T::State),
    /// States with their children; only looked up.
    nodes: HashMap<u128, Vec<Branch<T::State>>>,
    stats: Stats,
    /// States below which no final is left to propose.
    closed: HashSet<u128>,
    /// Places where no new final was found; back when something is learnt about them.
    fruitless: HashSet<(u128, Option<u8>)>,
    fates: BTreeMap<FinalId, Fate>,
    flights: BTreeMap<u64, Flight>,
    /// Finals to be proposed next: further leaves of a rollout, and what was given back.
    ready: VecDeque<Flight>,
    /// Guesses by which draws are ranked.
    surrogate: Surrogate,
    /// The last draws: whether they ended in a final.
    draws: VecDeque<bool>,
    n_tickets: u64,
    dropped: (Sender<u64>, Receiver<u64>),
    /// Replayed finals are no longer those that this search would ask.
    diverged: bool,
}

impl<T: Tree> Search<T> {
    pub fn new(mut tree: T, constants: Constants, seed: u64) -> Search<T> {
        let rng = ChaCha8Rng::seed_from_u64(child_seed(seed, "tree search"));
        let root = tree.root();
        let root = (tree.key(&root), root);
        let mut search = Search {
            tree,
            constants,
            rng,
            root,
            nodes: HashMap::new(),
            stats: Stats::default(),
            closed: HashSet::new(),
            fruitless: HashSet::new(),
            fates: BTreeMap::new(),
            flights: BTreeMap::new(),
            ready: VecDeque::new(),
            surrogate: Surrogate::default(),
            draws: VecDeque::new(),
            n_tickets: 0,
            dropped: channel(),
            diverged: false,
        };
        search.reveal_chain();
        search
    }

    pub fn tree(&self) -> &T {
        &self.tree
    }

    pub fn tree_mut(&mut self) -> &mut T {
        &mut self.tree
    }

    /// What is known at a place.
    pub fn stat(&self, place: Place) -> Stat {
        self.stats.at(place)
    }

    /// Virtual losses of all places together: 0 when no ticket is out.
    pub fn n_losses(&self) -> u64 {
        self.stats.n_in_flight()
    }

    /// Tickets out, as of the last call.
    pub fn n_in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Every final was proposed.
    pub fn exhausted(&self) -> bool {
        self.closed.contains(&self.root.0) && self.ready.is_empty() && self.flights.is_empty()
    }

    /// Nodes held with their children.
    pub fn n_nodes(&self) -> usize {
        self.nodes.len()
    }

    /// Revealed steps of a state, in the order of their names; `None` where the state's children are not held.
    pub fn revealed(&self, state: u128) -> Option<Vec<Step>> {
        let twigs = self.nodes.get(&state)?.iter().flat_map(|b| &b.twigs);
        Some(twigs.filter(|t| t.revealed).map(|t| t.step).collect())
    }

    /// Rewards told so far.
    pub fn rewards(&self) -> impl Iterator<Item = (FinalId, f64)> + '_ {
        self.fates.iter().filter_map(|(&id, fate)| match fate {
            Fate::Told { reward, .. } => Some((id, *reward)),
            _ => None,
        })
    }

    /// The next final to evaluate. `None`: all were proposed ([`Search::exhausted`]); or what is left is in flight; or
    /// `max_rollouts` found nothing new, which asking again may.
    pub fn ask(&mut self) -> Option<Ticket> {
        self.collect();
        for _ in 0..self.constants.max_rollouts {
            if let Some(flight) = self.ready.pop_front() {
                return Some(self.issue(flight));
            }
            if self.closed.contains(&self.root.0) {
                break;
            }
            let flights = self.candidates();
            for flight in &flights {
                self.enter(flight.id);
            }
            if let Some(flight) = flights.first() {
                self.settle(&flight.path.clone());
            }
            self.ready.extend(flights);
        }
        self.ready.pop_front().map(|flight| self.issue(flight))
    }

    /// The reward of a ticket's final, in 0..=1 (larger ones count as 1). A negative reward, or one that is no number, says
    /// that the final is no good at all: it leaves the tree and no statistics.
    pub fn tell(&mut self, ticket: &Ticket, reward: f64) {
        let Some(flight) = self.flights.remove(&ticket.number) else { return };
        self.land(&flight.path);
        if reward.is_nan() || reward < 0.0 {
            self.fates.insert(flight.id, Fate::Refused);
            return;
        }
        let reward = reward.min(1.0);
        let mut credits = Credits::new();
        for &place in &flight.path {
            self.stats.credit(place, reward, &mut credits);
        }
        for place in self.rave_places(flight.id) {
            self.stats.credit(place, reward, &mut credits);
            match place {
                Place::LocalKind(state, kind) => self.wake(state, kind),
                Place::LocalArc(state, step) => self.wake(state, step.kind),
                _ => {}
            }
        }
        self.touch(&flight.path);
        self.surrogate.tell(flight.id, reward);
        self.fates.insert(flight.id, Fate::Told { reward, credits });
    }

    /// Gives a ticket back unevaluated: its final is the next one asked.
    pub fn cancel(&mut self, ticket: Ticket) {
        drop(ticket);
        self.collect();
    }

    /// Rewards that are relative to what else is known change with it: every final told counts with its new reward
    /// from now on. Rewards below 0 count as 0 here.
    pub fn rescore(&mut self, mut reward: impl FnMut(FinalId) -> f64) {
        for (&id, fate) in &mut self.fates {
            if let Fate::Told { reward: old, credits } = fate {
                let new = reward(id).clamp(0.0, 1.0);
                if new != *old && !new.is_nan() {
                    self.stats.recredit(credits, *old, new);
                    self.surrogate.tell(id, new);
                    *old = new;
                }
            }
        }
    }

    /// Asks for the final that was asked next in an earlier session (see the head of this module). `None` when it was asked
    /// before, in this session or in the replay.
    pub fn replay(&mut self, id: FinalId) -> Option<Ticket> {
        if !self.diverged {
            match self.ask() {
                Some(ticket) if ticket.id == id => return Some(ticket),
                // what was asked instead is given back when the ticket goes out of scope
                _ => self.diverged = true,
            }
        }
        self.collect();
        if let Some(place) = self.ready.iter().position(|f| f.id == id) {
            return self.ready.remove(place).map(|flight| self.issue(flight));
        }
        if self.fates.contains_key(&id) {
            return None;
        }
        let path = self.adopt(id);
        self.enter(id);
        self.settle(&path);
        Some(self.issue(Flight { id, path }))
    }

    // ---- tickets ----

    /// From now on a final is no new one.
    fn enter(&mut self, id: FinalId) {
        self.fates.insert(id, Fate::Asked);
        if self.is_guided() {
            let look = self.look(id);
            self.surrogate.push(id, look);
        }
    }

    fn issue(&mut self, flight: Flight) -> Ticket {
        for &place in &flight.path {
            if matches!(place, Place::State(_) | Place::Kind(..)) {
                self.stats.fly(place);
            }
        }
        let ticket = Ticket { id: flight.id, number: self.n_tickets, dropped: self.dropped.0.clone() };
        self.flights.insert(self.n_tickets, flight);
        self.n_tickets += 1;
        ticket
    }

    fn land(&mut self, path: &[Place]) {
        for &place in path {
            if matches!(place, Place::State(_) | Place::Kind(..)) {
                self.stats.land(place);
            }
        }
    }

    /// Takes back what was dropped. A ticket told before it was dropped is no longer among the flights.
    fn collect(&mut self) {
        let mut numbers: Vec<u64> = self.dropped.1.try_iter().collect();
        numbers.sort_unstable();
        for number in numbers {
            if let Some(flight) = self.flights.remove(&number) {
                self.land(&flight.path);
                self.touch(&flight.path);
                self.ready.push_back(flight);
            }
        }
    }

    // ---- one rollout ----

    fn rollout(&mut self) -> Rollout {
        let (mut key, mut state) = self.root.clone();
        let mut path = Vec::new();
        loop {
            self.open(key, &state);
            path.push(Place::State(key));
            let Some((choice, fresh)) = self.step(Place::State(key), self.kinds(key)) else {
                return self.stuck(key, None, &path);
            };
            let Some(branch) = self.nodes.get_mut(&key).and_then(|b| b.get_mut(choice.index)) else { return Rollout::Nothing };
            branch.revealed = true;
            let kind = branch.kind;
            path.push(choice.node);
            if fresh {
                return self.simulate(path, &state, Some(kind));
            }
            let Some((choice, fresh)) = self.step(choice.node, self.arcs(key, choice.index)) else {
                return self.stuck(key, Some(kind), &path);
            };
            let Some(twig) = self.nodes.get(&key).and_then(|b| b.iter().find(|b| b.kind == kind)?.twigs.get(choice.index)) else {
                return Rollout::Nothing;
            };
            path.push(choice.edge);
            match (&twig.to, twig.goal) {
                (To::Final(id), _) => return Rollout::Proposed(vec![Flight { id: *id, path }]),
                (To::Partial(next), Goal::State(next_key)) => (state, key) = (next.clone(), next_key),
                (To::Partial(_), Goal::Final(_)) => return Rollout::Nothing,
            }
            if fresh {
                path.push(Place::State(key));
                return self.simulate(path, &state, None);
            }
        }
    }

    /// Widens a node and chooses a child of it; also whether the child was never visited.
    fn step(&mut self, parent: Place, mut choices: Vec<Choice>) -> Option<(Choice, bool)> {
        let here = self.stats.at(parent);
        let quota = f64::from(here.n + here.in_flight).powf(self.constants.widening).floor() as usize;
        let mut n_revealed = choices.iter().filter(|c| c.revealed).count();
        // where nothing is revealed that can be chosen, one more is, whatever the quota
        while n_revealed < quota.max(1) {
            let Some(place) = self.best_hidden(&choices) else { break };
            choices[place].revealed = true;
            self.reveal(parent, choices[place].index);
            n_revealed += 1;
        }
        choices.retain(|c| c.revealed);
        let fresh: Vec<Choice> = choices.iter().copied().filter(|c| self.stats.at(c.node).n == 0).collect();
        if !fresh.is_empty() {
            let fewest = fresh.iter().map(|c| self.stats.at(c.node).in_flight).min()?;
            let fresh: Vec<Choice> = fresh.into_iter().filter(|c| self.stats.at(c.node).in_flight == fewest).collect();
            return Some((*fresh.choose(&mut self.rng)?, true));
        }
        let scores: Vec<f64> = choices.iter().map(|c| self.score(here.n, c)).collect();
        let best = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let equal: Vec<usize> = (0..scores.len()).filter(|&i| scores[i] == best).collect();
        Some((choices[*equal.choose(&mut self.rng)?], false))
    }

    /// UCB1-tuned.
    fn score(&self, n_parent: u32, choice: &Choice) -> f64 {
        let c = &self.constants;
        let edge = self.stats.at(choice.edge);
        let loss = c.virtual_loss * f64::from(self.stats.at(choice.node).in_flight);
        if edge.n == 0 {
            return UNTRIED - loss;
        }
        if edge.n > c.settled && edge.std() <= c.settled_std {
            return -UNTRIED;
        }
        let rate = f64::from(n_parent.max(1)).ln() / f64::from(edge.n);
        let spread = (edge.std().powi(2) + (2.0 * rate).sqrt()).min(0.25);
        edge.mean() + c.exploration * (rate * spread).sqrt() - loss
    }

    /// The child to be revealed next: its own lattices' rewards, those of the same action anywhere, and chance.
    fn best_hidden(&mut self, choices: &[Choice]) -> Option<usize> {
        let c = self.constants;
        let hidden: Vec<usize> = (0..choices.len()).filter(|&i| !choices[i].revealed).collect();
        let known = |hopes: &[Option<f64>]| {
            let known: Vec<f64> = hopes.iter().flatten().copied().collect();
            if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
        };
        let local: Vec<Stat> = hidden.iter().map(|&i| self.stats.at(choices[i].local)).collect();
        let locals: Vec<Option<f64>> = local.iter().map(Stat::hope).collect();
        let globals: Vec<Option<f64>> = hidden.iter().map(|&i| self.stats.at(choices[i].global).hope()).collect();
        let (no_local, no_global) = (known(&locals), known(&globals));
        let mut best: Option<(f64, usize)> = None;
        for (i, &place) in hidden.iter().enumerate() {
            let beta = c.rave / (c.rave + f64::from(local[i].n));
            let rave = (1.0 - beta) * locals[i].unwrap_or(no_local) + beta * globals[i].unwrap_or(no_global);
            let score = (1.0 - c.shuffle) * rave + c.shuffle * self.rng.random::<f64>();
            if best.is_none_or(|b| score > b.0) {
                best = Some((score, place));
            }
        }
        best.map(|b| b.1)
    }

    /// Nothing can be chosen here: all closed, or all fruitless.
    fn stuck(&mut self, key: u128, kind: Option<u8>, path: &[Place]) -> Rollout {
        self.settle(path);
        if !self.closed.contains(&key) {
            if key == self.root.0 && kind.is_none() {
                // everything is hidden: look again
                self.fruitless.clear();
            } else {
                self.fruitless.insert((key, kind));
            }
        }
        Rollout::Nothing
    }

    // ---- learning ----

    /// Where a final counts besides its path.
    fn rave_places(&mut self, id: FinalId) -> Vec<Place> {
        let steps: BTreeSet<Step> = self.tree.path(id).into_iter().flatten().collect();
        let kinds: BTreeSet<u8> = steps.iter().map(|s| s.kind).collect();
        let pairs = lattice::lattices(&mut self.tree, id, self.constants.max_lattice);
        let local_kinds: BTreeSet<(u128, u8)> = pairs.iter().map(|(key, step)| (*key, step.kind)).collect();
        let mut places = vec![Place::All];
        places.extend(steps.into_iter().map(Place::AnyArc));
        places.extend(kinds.into_iter().map(Place::AnyKind));
        places.extend(pairs.into_iter().map(|(key, step)| Place::LocalArc(key, step)));
        places.extend(local_kinds.into_iter().map(|(key, kind)| Place::LocalKind(key, kind)));
        places
    }

    /// The selected path of a final that another search asked: along its canonical path to the first place not visited.
    fn adopt(&mut self, id: FinalId) -> Vec<Place> {
        let steps: Vec<Step> = self.tree.path(id).into_iter().flatten().collect();
        let (mut key, mut state) = self.root.clone();
        let mut path = Vec::new();
        for step in steps {
            self.open(key, &state);
            let Some(to) = self.tree.follow(&state, step) else { break };
            path.push(Place::State(key));
            let places = [Place::Kind(key, step.kind), Place::Arc(key, step)];
            let branch = self.nodes.get(&key).and_then(|b| b.iter().position(|b| b.kind == step.kind));
            if let Some(branch) = branch {
                self.reveal(Place::State(key), branch);
                let twig = self.nodes.get(&key).and_then(|b| b[branch].twigs.iter().position(|t| t.step == step));
                twig.inspect(|&twig| self.reveal(places[0], twig));
            }
            let fresh = places.map(|p| self.stats.at(p).n == 0);
            path.push(places[0]);
            if fresh[0] {
                break;
            }
            path.push(places[1]);
            let To::Partial(next) = to else { break };
            (key, state) = (self.tree.key(&next), next);
            if self.stats.at(Place::State(key)).n == 0 {
                path.push(Place::State(key));
                break;
            }
        }
        path
    }
}
