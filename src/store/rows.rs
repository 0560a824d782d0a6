//! What the store's rows are to the rest of the program.

use std::collections::BTreeMap;
use std::fmt;
use std::iter::Sum;

use rusqlite::Row;
use rusqlite::types::Type;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The number that the original model has where a trial's number is asked for; trials count from 1.
pub const BASELINE: u32 = 0;

/// How far a trial has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Proposed, or interrupted: its work is to be done or repeated.
    Waiting,
    Running,
    Complete,
    /// Given up because it cannot be among the best; the reason is stored.
    Pruned,
    /// It does not build, crashes, hangs, is wrong or diverges; the failure is stored.
    Failed,
}

/// A part of a trial's evaluation, in the order they happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// A few schedules of each slot shape.
    QuickTune,
    /// The short training, paired with the baseline's.
    ShortTrain,
    FullTrain,
    FullTune,
    /// The whole model, compiled and run as one program.
    EndToEnd,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            State::Waiting => "waiting",
            State::Running => "running",
            State::Complete => "complete",
            State::Pruned => "pruned",
            State::Failed => "failed",
        })
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Phase::QuickTune => "quick-tune",
            Phase::ShortTrain => "short-train",
            Phase::FullTrain => "full-train",
            Phase::FullTune => "full-tune",
            Phase::EndToEnd => "end-to-end",
        })
    }
}

/// Repeated measurements of one time, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    pub median_secs: f64,
    pub min_secs: f64,
    /// Half the distance between the quartiles.
    pub spread_secs: f64,
    pub n_samples: u32,
}

impl Timing {
    /// `None` without samples, or with one that is no time.
    pub fn of(samples_secs: &[f64]) -> Option<Timing> {
        let mut sorted = samples_secs.to_vec();
        if sorted.is_empty() || sorted.iter().any(|s| !s.is_finite() || *s < 0.0) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let quantile = |q: f64| {
            let at = q * (sorted.len() - 1) as f64;
            let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
            low + (high - low) * at.fract()
        };
        Some(Timing {
            median_secs: quantile(0.5),
            min_secs: sorted[0],
            spread_secs: (quantile(0.75) - quantile(0.25)) / 2.0,
            n_samples: sorted.len() as u32,
        })
    }

    /// The time of `n` such parts, one after the other.
    pub fn times(self, n: u32) -> Timing {
        let n = f64::from(n);
        Timing { median_secs: self.median_secs * n, min_secs: self.min_secs * n, spread_secs: self.spread_secs * n, ..self }
    }
}

/// The time of parts that run one after the other. Spreads add up: noise on one machine is not independent.
impl Sum for Timing {
    fn sum<I: Iterator<Item = Timing>>(parts: I) -> Timing {
        let none = Timing { median_secs: 0.0, min_secs: 0.0, spread_secs: 0.0, n_samples: 0 };
        parts.fold(none, |a, b| Timing {
            median_secs: a.median_secs + b.median_secs,
            min_secs: a.min_secs + b.min_secs,
            spread_secs: a.spread_secs + b.spread_secs,
            n_samples: if a.n_samples == 0 { b.n_samples } else { a.n_samples.min(b.n_samples) },
        })
    }
}

/// Whole models, measured in turn in one batch at the same number of threads.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EndToEnd {
    /// The model with the trial's operator in its slots, tuned.
    pub model: Timing,
    /// The original model, tuned with as many schedules.
    pub tuned: Timing,
    /// The original model in libtorch; `None` where there is no libtorch.
    pub torch: Option<Timing>,
}

impl EndToEnd {
    /// The faster of the two baselines.
    pub fn baseline(&self) -> Timing {
        match self.torch {
            Some(torch) if torch.median_secs < self.tuned.median_secs => torch,
            _ => self.tuned,
        }
    }
}

/// What is known of the original model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Baseline {
    /// Multiply-accumulates of the slots, for one image.
    pub n_macs: Option<u64>,
    /// Parameters of the slots.
    pub n_params: Option<u64>,
    /// After the short training, 0 to 1.
    pub proxy_accuracy: Option<f64>,
    /// After the full training, 0 to 1.
    pub full_accuracy: Option<f64>,
    /// All slots together.
    pub slots: Option<Timing>,
    /// The whole model, tuned.
    pub tuned: Option<Timing>,
    /// The whole model in libtorch.
    pub torch: Option<Timing>,
}

/// An operator that the search wants evaluated.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Proposal {
    /// The operator's one-line text.
    pub operator: String,
    /// Its id: 16 hexadecimal digits.
    pub id: String,
    /// Its index formula, for people.
    pub formula: Option<String>,
    pub n_macs: Option<u64>,
    pub n_params: Option<u64>,
}

/// The evaluation of one operator.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// From 1, in the order of proposal.
    pub number: u32,
    /// The operator's one-line text.
    pub operator: String,
    /// The operator's id: 16 hexadecimal digits.
    pub id: String,
    pub formula: Option<String>,
    /// The printed loop nest.
    pub loops: Option<String>,
    pub state: State,
    /// The last phase that was finished.
    pub phase: Option<Phase>,
    /// Multiply-accumulates of all slots, for one image.
    pub n_macs: Option<u64>,
    /// Parameters of all slots.
    pub n_params: Option<u64>,
    /// After the short training, 0 to 1.
    pub proxy_accuracy: Option<f64>,
    /// After the full training, 0 to 1.
    pub full_accuracy: Option<f64>,
    /// All slots together.
    pub slots: Option<Timing>,
    pub end_to_end: Option<EndToEnd>,
    /// Why it failed; `kind` or the only key names the cause.
    pub failure: Option<Value>,
    pub prune_reason: Option<String>,
    /// Seconds spent on each phase.
    pub times_secs: BTreeMap<Phase, f64>,
}

/// One slot of a trial (or of the baseline), measured.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlotTime {
    pub slot: String,
    /// What its kernel is tuned as; slots of one shape share it.
    pub workload: String,
    pub timing: Timing,
}

/// One schedule config of one workload, measured once.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measurement {
    pub workload: String,
    /// The config as JSON text.
    pub config: String,
    /// Seconds of single runs; empty for a failure.
    pub samples_secs: Vec<f64>,
    pub failure: Option<Value>,
    /// What proposed it.
    pub strategy: String,
    pub seed: u64,
}

impl Measurement {
    /// The median of the samples; `None` for a failure.
    pub fn median_secs(&self) -> Option<f64> {
        Some(Timing::of(&self.samples_secs)?.median_secs)
    }
}

/// Which training an epoch belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Training {
    Proxy,
    Full,
}

impl fmt::Display for Training {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.pad(match self {
            Training::Proxy => "proxy",
            Training::Full => "full",
        })
    }
}

/// One epoch of one training.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Epoch {
    pub training: Training,
    /// From 1.
    pub epoch: u32,
    /// Images seen since the training began.
    pub n_seen: u64,
    /// Mean training loss; NaN where it diverged.
    pub loss: f64,
    /// On the test images, 0 to 1.
    pub accuracy: f64,
    pub secs: f64,
}

/// One run of the search on the store.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Session {
    /// From 1.
    pub number: u32,
    /// Seconds since 1970.
    pub started_unix: f64,
    /// Until its end, or its last committed fact where it was killed.
    pub secs: f64,
    /// Why it stopped; `None` while it runs and where it was killed.
    pub stop: Option<String>,
}

/// A value that is stored as JSON text.
pub(super) fn json<T: DeserializeOwned>(row: &Row, column: &str) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    text.map(|text| parse(&text, column)).transpose()
}

pub(super) fn parse<T: DeserializeOwned>(text: &str, column: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(|e| {
        let why = format!("column {column}: {e}");
        rusqlite::Error::FromSqlConversionFailure(0, Type::Text, why.into())
    })
}

/// The JSON text of a value.
pub(super) fn text(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))
}

/// An enum stored by its name.
pub(super) fn word<T: DeserializeOwned>(row: &Row, column: &str) -> rusqlite::Result<Option<T>> {
    let word: Option<String> = row.get(column)?;
    word.map(|word| parse(&format!("{word:?}"), column)).transpose()
}

impl Trial {
    pub(super) fn read(row: &Row) -> rusqlite::Result<Trial> {
        let n = |column| -> rusqlite::Result<Option<u64>> { Ok(row.get::<_, Option<i64>>(column)?.map(|n| n.max(0) as u64)) };
        Ok(Trial {
            number: row.get("number")?,
            operator: row.get("operator")?,
            id: row.get("id")?,
            formula: row.get("formula")?,
            loops: row.get("loops")?,
            state: word(row, "state")?.unwrap_or(State::Waiting),
            phase: word(row, "phase")?,
            n_macs: n("n_macs")?,
            n_params: n("n_params")?,
            proxy_accuracy: row.get("proxy_accuracy")?,
            full_accuracy: row.get("full_accuracy")?,
            slots: json(row, "slots")?,
            end_to_end: json(row, "end_to_end")?,
            failure: json(row, "failure")?,
            prune_reason: row.get("prune_reason")?,
            times_secs: json(row, "times_secs")?.unwrap_or_default(),
        })
    }
}

impl Measurement {
    pub(super) fn read(row: &Row) -> rusqlite::Result<Measurement> {
        Ok(Measurement {
            workload: row.get("workload")?,
            config: row.get("config")?,
            samples_secs: json(row, "samples_secs")?.unwrap_or_default(),
            failure: json(row, "failure")?,
            strategy: row.get("strategy")?,
            seed: row.get::<_, i64>("seed")? as u64,
        })
    }
}

impl Epoch {
    pub(super) fn read(row: &Row) -> rusqlite::Result<Epoch> {
        // SQLite has no NaN: it keeps one as NULL.
        let number = |column| -> rusqlite::Result<f64> { Ok(row.get::<_, Option<f64>>(column)?.unwrap_or(f64::NAN)) };
        Ok(Epoch {
            training: word(row, "training")?.unwrap_or(Training::Proxy),
            epoch: row.get("epoch")?,
            n_seen: row.get::<_, i64>("n_seen")?.max(0) as u64,
            loss: number("loss")?,
            accuracy: number("accuracy")?,
            secs: number("secs")?,
        })
    }
}

impl Session {
    pub(super) fn read(row: &Row) -> rusqlite::Result<Session> {
        Ok(Session { number: row.get("number")?, started_unix: row.get("started_unix")?, secs: row.get("secs")?, stop: row.get("stop")? })
    }
}
