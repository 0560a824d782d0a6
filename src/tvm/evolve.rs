//! MetaSchedule's evolutionary search as TVM has it, in C++ (`evolutionary_search.cc`): only its cost model is handed in, and whoever
//! drives it builds and measures. It walks over traces; each program that it asks for is found again as a config of its workload.

use super::features::{Features, extract, per_store};
use super::ffi::{NONE, array, field, func, is_none, items, text};
use super::schedule::{Choice, Database, Workload, fresh};
use super::structural_hash;
use crate::call;
use crate::error::{Error, Result};
use std::collections::BTreeSet;
use tvm_ffi::{Any, AnyView, Function};

/// MetaSchedule's defaults (`search_strategy/evolutionary_search.py`).
pub const POPULATION: usize = 512;
const MEASURED_RATIO: f64 = 0.2;
const MIN_UNMEASURED: usize = 50;
const MAX_FAIL_COUNT: i64 = 5;
const GENERATIONS: i64 = 4;
const MUTATE_PROBABILITY: f64 = 0.85;
const MUTATE_MAX_FAIL_COUNT: i64 = 10;
const EPS_GREEDY: f64 = 0.05;
/// Draws of one of our own designs, each of which fixes loop order, places and unrolling: enough to see all of the twelve that a
/// convolution with a border has.
const N_OWN_DRAWS: u64 = 64;

/// What a search may do.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Settings {
    /// Our own design space too.
    pub with_tiles: bool,
    pub n_trials: usize,
    /// Traces in a generation: [`POPULATION`].
    pub population: usize,
    /// Programs of a round; MetaSchedule's default is 64.
    pub per_round: usize,
    pub n_threads: usize,
    pub seed: u64,
}

/// Scores of programs, the higher the better.
pub type Predict = Box<dyn Fn(&[Features]) -> Vec<f64> + Send + Sync>;

/// A program that the search asks for.
pub struct Asked {
    pub design: usize,
    pub choices: Vec<Choice>,
    pub hash: u64,
}

/// A search under way.
pub struct Evolution {
    workload: Workload,
    strategy: Any,
    database: Database,
    // The strategy refers to it.
    _context: Any,
}

impl Evolution {
    /// # Errors
    /// [`Error::Library`] with TVM's words when its rules refuse the module.
    pub fn new(workload: Workload, settings: Settings, predict: Predict) -> Result<Evolution> {
        let strategy = call!(
            "s_tir.meta_schedule.SearchStrategyEvolutionarySearch",
            settings.population as i64,
            MEASURED_RATIO,
            settings.population.min(MIN_UNMEASURED) as i64,
            MAX_FAIL_COUNT,
            GENERATIONS,
            MUTATE_PROBABILITY,
            MUTATE_MAX_FAIL_COUNT,
            EPS_GREEDY
        )?;
        let (context, generator) = workload.context(Some(&strategy), settings.n_threads, settings.seed)?;
        let mut designs = items(&call!("s_tir.meta_schedule.SpaceGeneratorGenerateDesignSpace", generator, workload.module)?)?;
        if settings.with_tiles {
            designs.extend(own_designs(&workload)?);
        }
        let score = func(move |arguments: &[AnyView]| {
            let [context, candidates, out] = arguments else {
                return Err(Error::Library("TVM asks for a prediction in another way: this program needs apache-tvm 0.27.0.post1".into()));
            };
            let programs = extract(&Any::from(*context), &Any::from(*candidates))?;
            let scores = predict(&programs);
            if scores.len() != programs.len() || programs.len() != items(&Any::from(*candidates))?.len() {
                return Err(Error::Library(format!("{} scores for {} programs: give one each", scores.len(), programs.len())));
            }
            write(out, &scores)?;
            Ok(Any::from(()))
        });
        let nothing = || func(|_| Ok(Any::from(())));
        let (load, save, update): (Function, Function, Function) = (nothing(), nothing(), nothing());
        let model = call!("s_tir.meta_schedule.CostModelPyCostModel", load, save, update, score)?;
        let database = Database::in_memory()?;
        let (n_trials, per_round) = (settings.n_trials as i64, settings.per_round as i64);
        call!("s_tir.meta_schedule.SearchStrategyPreTuning", strategy, n_trials, per_round, array(&designs)?, database.0, model)?;
        Ok(Evolution { workload, strategy, database, _context: context })
    }

    /// The programs of the next round; none when the search is done. Those that are in no design space of the workload (after a
    /// mutation of an annotation, which no choice stands for) are left out.
    ///
    /// # Errors
    /// [`Error::Library`] with TVM's words.
    pub fn ask(&mut self) -> Result<Vec<Asked>> {
        let candidates = call!("s_tir.meta_schedule.SearchStrategyGenerateMeasureCandidates", self.strategy)?;
        if is_none(&candidates) {
            return Ok(vec![]);
        }
        let mut asked = Vec::new();
        let mut results = Vec::new();
        for candidate in items(&candidates)? {
            let schedule = field(&candidate, "sch")?;
            let hash = structural_hash(&call!("s_tir.schedule.ScheduleGetMod", schedule)?)?;
            let trace = call!("s_tir.schedule.ScheduleGetTrace", schedule)?;
            asked.extend(self.workload.find(&trace, hash)?.map(|(design, choices)| Asked { design, choices, hash }));
            // the search only counts them: what it learns from is the database
            results.push(call!("s_tir.meta_schedule.RunnerResult", NONE, text("measured elsewhere"))?);
        }
        call!("s_tir.meta_schedule.SearchStrategyNotifyRunnerResults", self.strategy, candidates, array(&results)?)?;
        Ok(asked)
    }

    /// Puts a measured program among those that the next round starts from; `secs` are samples. Returns its features.
    ///
    /// # Errors
    /// The choices fit no design.
    pub fn tell(&mut self, design: usize, choices: &[Choice], secs: &[f64]) -> Result<Features> {
        let scheduled = self.workload.schedule(design, Some(choices), 1)?;
        if !secs.is_empty() {
            self.database.record(&self.workload, &scheduled, secs)?;
        }
        per_store(&self.workload, &scheduled)
    }

    pub fn workload(&self) -> &Workload {
        &self.workload
    }
}

/// Our own design once for each loop order, place and unrolling: MetaSchedule mutates decisions, these change instructions.
fn own_designs(workload: &Workload) -> Result<Vec<Any>> {
    let mut found = Vec::new();
    let mut seen: BTreeSet<Vec<i64>> = BTreeSet::new();
    for design in (0..workload.n_designs()).filter(|&d| workload.is_ours(d)) {
        for seed in 1..=N_OWN_DRAWS {
            // what TVM refuses may be the random choices
            let Ok(scheduled) = workload.schedule(design, None, seed) else { continue };
            let numbers = scheduled.choices.iter().filter_map(|c| if let Choice::Number(n) = c { Some(*n) } else { None });
            if seen.insert(numbers.collect()) {
                let schedule = fresh(&workload.module, seed)?;
                call!("s_tir.schedule.TraceApplyToSchedule", scheduled.trace, schedule, true, NONE)?;
                found.push(schedule);
            }
        }
    }
    Ok(found)
}

/// Hands scores over.
#[allow(unsafe_code)]
fn write(out: &AnyView, scores: &[f64]) -> Result<()> {
    let start: *mut core::ffi::c_void = out
        .try_as()
        .ok_or_else(|| Error::Library("TVM gave no place for predictions: this program needs apache-tvm 0.27.0.post1".into()))?;
    // SAFETY: TVM passes the start of an array of as many f64 as there are candidates (`cost_model.cc`), which lives during the call,
    // and scores has one element for each of them.
    unsafe { std::ptr::copy_nonoverlapping(scores.as_ptr(), start.cast::<f64>(), scores.len()) };
    Ok(())
}
