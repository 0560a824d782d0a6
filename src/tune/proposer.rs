//! Of the two threads of a search the one that proposes, probes and builds.

use super::config::{Candidate, Config, Measurement, Proposal, Space, Task};
use super::strategy::Strategy;
use super::{Cost, Runner};
use crate::error::Result;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::Instant;

/// Proposals in a row that are all known, or that TVM refuses, after which the strategy counts as having nothing new.
const WITHOUT_NEWS: usize = 64;

/// A search that goes on.
pub struct Search {
    pub spaces: Vec<Space>,
    pub strategy: Box<dyn Strategy>,
    pub first: VecDeque<Candidate>,
    /// Programs measured or under way.
    pub seen: BTreeSet<u64>,
    /// Configs proposed, whatever became of them.
    pub tried: BTreeSet<Config>,
    /// Measurements that the strategy knows.
    pub n_told: usize,
    /// Proposals that TVM cannot schedule, by the step that it refused.
    pub refused: BTreeMap<String, usize>,
}

/// What the strategy has not been told yet, and how many programs are wanted.
pub struct Order {
    pub news: Vec<Measurement>,
    pub n: usize,
}

/// Hands batches over.
pub struct Proposer<'a> {
    pub runner: &'a dyn Runner,
    pub task: Task,
    pub stop: Arc<AtomicBool>,
    pub search: Search,
    pub cost: Cost,
}

impl Proposer<'_> {
    /// Answers each order with a batch; an empty one when there is nothing new.
    pub fn serve(mut self, orders: Receiver<Order>, batches: Sender<Result<Vec<Candidate>>>) -> (Search, Cost) {
        for order in orders {
            let batch = self.batch(order);
            if batches.send(batch).is_err() {
                break;
            }
        }
        (self.search, self.cost)
    }

    fn batch(&mut self, order: Order) -> Result<Vec<Candidate>> {
        let start = Instant::now();
        order.news.iter().for_each(|m| self.search.strategy.tell(m));
        self.cost.ask_secs += start.elapsed().as_secs_f64();
        let mut batch: Vec<Candidate> = Vec::new();
        while batch.len() < order.n
            && let Some(candidate) = self.search.first.pop_front()
        {
            if self.search.seen.insert(candidate.hash) {
                batch.push(candidate);
            }
        }
        let mut n_idle = 0;
        while batch.len() < order.n && n_idle < WITHOUT_NEWS && !self.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let proposals = self.search.strategy.ask(order.n - batch.len())?;
            self.cost.ask_secs += start.elapsed().as_secs_f64();
            if proposals.is_empty() {
                break;
            }
            self.cost.n_probed += proposals.len();
            n_idle += proposals.len();
            let start = Instant::now();
            let probed = self.runner.probe(&self.task, &proposals)?;
            self.cost.probe_secs += start.elapsed().as_secs_f64();
            let n_before = batch.len();
            for answer in probed {
                match answer {
                    Ok(candidate) => batch.extend(Some(candidate).filter(|c| self.search.seen.insert(c.hash))),
                    Err(failure) => *self.search.refused.entry(failure.step()).or_default() += 1,
                }
            }
            if batch.len() > n_before {
                n_idle = 0;
            }
            self.search
                .tried
                .extend(proposals.into_iter().filter_map(|p| if let Proposal::Exact(config) = p { Some(config) } else { None }));
        }
        let start = Instant::now();
        self.runner.prepare(&self.task, &batch)?;
        self.cost.build_secs += start.elapsed().as_secs_f64();
        Ok(batch)
    }
}
