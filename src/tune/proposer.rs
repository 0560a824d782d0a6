//! Of the two threads of a search the one that proposes, probes and builds.

use super::config::{Candidate, Config, Measurement, Origin, Proposal, Space, Task};
use super::cost::Lessons;
use super::strategy::{self, Strategy};
use super::{Cost, Options, Runner};
use crate::error::Result;
use crate::synth::child_seed;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// Proposals in a row that are all known, or that TVM refuses, after which the strategy counts as having nothing new.
const WITHOUT_NEWS: usize = 64;

/// What the strategy has not been told yet, and how many programs are wanted.
pub struct Order {
    pub news: Vec<Measurement>,
    /// What other kernels of the model taught.
    pub lessons: Vec<Lessons>,
    pub n: usize,
}

/// Answers orders with batches.
pub struct Proposer<'a> {
    runner: &'a dyn Runner,
    task: Task,
    options: Options,
    /// The spaces and the strategy, once the first order came.
    search: Option<(Vec<Space>, Box<dyn Strategy>)>,
    /// To be measured before what the strategy proposes.
    pub first: VecDeque<Candidate>,
    /// Programs measured or under way.
    pub seen: BTreeSet<u64>,
    /// Configs proposed, whatever became of them.
    tried: BTreeSet<Config>,
    /// Proposals that TVM cannot schedule, by the step that it refused, and those that are not worth it.
    pub refused: BTreeMap<String, usize>,
    pub cost: Cost,
}

impl Proposer<'_> {
    pub fn new(runner: &dyn Runner, task: Task, options: Options) -> Proposer<'_> {
        Proposer {
            runner,
            task,
            options,
            search: None,
            first: VecDeque::new(),
            seen: BTreeSet::new(),
            tried: BTreeSet::new(),
            refused: BTreeMap::new(),
            cost: Cost::default(),
        }
    }

    /// A fresh strategy, which knows nothing yet.
    fn begin(&self) -> Result<(Vec<Space>, Box<dyn Strategy>)> {
        let mut spaces = self.runner.spaces(&self.task)?;
        if self.options.rules_only {
            // ours are the last
            spaces.truncate(spaces.iter().take_while(|s| s.origin == Origin::Rules).count());
        }
        let strategy = strategy::start(&self.options, &self.task, &spaces, child_seed(self.options.seed, "tune"));
        Ok((spaces, strategy))
    }

    /// Programs that were not measured before, built; none when there is nothing new.
    pub fn batch(&mut self, order: &Order) -> Result<Vec<Candidate>> {
        let (spaces, mut strategy) = match self.search.take() {
            Some(search) => search,
            None => self.begin()?,
        };
        let batch = if spaces.is_empty() { Ok(vec![]) } else { self.ask(&spaces, &mut *strategy, order) };
        self.search = Some((spaces, strategy));
        let batch = batch?;
        let start = Instant::now();
        self.runner.prepare(&self.task, &batch)?;
        self.cost.build_secs += start.elapsed().as_secs_f64();
        Ok(batch)
    }

    fn ask(&mut self, spaces: &[Space], strategy: &mut dyn Strategy, order: &Order) -> Result<Vec<Candidate>> {
        let start = Instant::now();
        strategy.learn(&order.lessons);
        order.news.iter().for_each(|m| strategy.tell(m));
        self.cost.ask_secs += start.elapsed().as_secs_f64();
        let mut batch: Vec<Candidate> = Vec::new();
        while batch.len() < order.n
            && let Some(candidate) = self.first.pop_front()
        {
            if self.seen.insert(candidate.hash) {
                batch.push(candidate);
            }
        }
        let mut n_idle = 0;
        while batch.len() < order.n && n_idle < WITHOUT_NEWS && !self.options.stop.load(Ordering::Relaxed) {
            let start = Instant::now();
            let proposals = strategy.ask(order.n - batch.len())?;
            self.cost.ask_secs += start.elapsed().as_secs_f64();
            if proposals.is_empty() {
                break;
            }
            n_idle += proposals.len();
            let refusal = |config: &Config| spaces.get(config.space).and_then(|space| space.refusal(config));
            let mut wanted = Vec::new();
            for proposal in proposals {
                match proposal {
                    Proposal::Exact(config) if let Some(why) = refusal(&config) => {
                        *self.refused.entry(why.into()).or_default() += 1;
                        self.tried.insert(config);
                    }
                    other => wanted.push(other),
                }
            }
            self.cost.n_probed += wanted.len();
            let start = Instant::now();
            let probed = self.runner.probe(&self.task, &wanted)?;
            self.cost.probe_secs += start.elapsed().as_secs_f64();
            let n_before = batch.len();
            for answer in probed {
                match answer {
                    // drawn by TVM
                    Ok(candidate) if let Some(why) = refusal(&candidate.config) => *self.refused.entry(why.into()).or_default() += 1,
                    Ok(candidate) => batch.extend(Some(candidate).filter(|c| self.seen.insert(c.hash))),
                    Err(failure) => *self.refused.entry(failure.step()).or_default() += 1,
                }
            }
            if batch.len() > n_before {
                n_idle = 0;
            }
            self.tried.extend(wanted.into_iter().filter_map(|p| if let Proposal::Exact(config) = p { Some(config) } else { None }));
        }
        Ok(batch)
    }

    /// What the strategy was taught.
    pub fn lessons(&self) -> Option<&Lessons> {
        self.search.as_ref()?.1.lessons()
    }

    /// The number of neighbours of a config, where each of them was proposed or is among those measured.
    pub fn n_tried_around(&self, config: &Config, measured: &BTreeSet<&Config>) -> Option<usize> {
        let (spaces, _) = self.search.as_ref()?;
        let around = spaces.get(config.space)?.neighbours(config);
        around.iter().all(|config| self.tried.contains(config) || measured.contains(config)).then_some(around.len())
    }
}
