//! What a search knows, in one SQLite file: the study, its trials, every measurement and epoch.
//!
//! Each fact is its own transaction, committed when the call returns, so a process killed at any point loses nothing it
//! was told was kept. One process writes ([`Store::open_or_create`], [`Store::open_existing`]) while others may read
//! ([`Store::open_read`]). Opening to write turns trials that were running into waiting ones: their phases that are
//! stored are done, the rest is to be repeated.

mod open;
mod rows;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use open::SCHEMA_VERSION;
pub use rows::{BASELINE, Baseline, EndToEnd, Epoch, Measurement, Phase, Proposal, Session, SlotTime, State, Timing, Training, Trial};

use crate::error::{Error, Result, invalid};
use crate::spec::Spec;

/// The kind of counter under which refused actions are counted by reason.
pub const PRUNED: &str = "pruned";

/// The file of one study.
///
/// Every operation may fail with [`Error::Store`]: full disk, damaged file, or another program that holds it.
#[derive(Debug)]
pub struct Store {
    file: PathBuf,
    // Before the lock: closed before another process may open it.
    db: Connection,
    _lock: Option<open::Lock>,
    session: Option<(u32, Instant)>,
}

impl Store {
    /// Opens the store of a search to go on with it, or makes a new one.
    ///
    /// # Errors
    /// [`Error::Store`], and the file is left as it is, if it is no store, damaged, from a newer Syntune, in use by
    /// another search, or made from a spec that asks for other results (the key is named). Name, data path, minutes
    /// and trials may differ: the new ones are stored.
    pub fn open_or_create(path: impl AsRef<Path>, spec: &Spec) -> Result<Store> {
        let file = open::resolve(path.as_ref())?;
        let lock = open::Lock::take(&file)?;
        if open::is_new(&file) {
            open::create(&file, spec, now_unix())?;
        }
        let stored = Store { db: open::check(&file)?, file: file.clone(), _lock: None, session: None }.spec()?;
        if let Some((key, old, new)) = open::difference(&stored, spec) {
            let message = format!(
                "was made from another spec: `{key}` is {old} there and {new} now; set it back, or choose another file for the new search"
            );
            return Err(Error::Store { file, message });
        }
        let store = Store::writable(file, lock)?;
        if stored != *spec {
            store.write(|t| t.execute("UPDATE study SET spec = ?1", [rows::text(spec)?]))?;
        }
        Ok(store)
    }

    /// Opens a store that exists, to go on with what its own spec asks for.
    ///
    /// # Errors
    /// As [`Store::open_or_create`], and if there is no such store.
    pub fn open_existing(path: impl AsRef<Path>) -> Result<Store> {
        let file = Store::existing(path.as_ref())?;
        let lock = open::Lock::take(&file)?;
        open::check(&file)?;
        Store::writable(file, lock)
    }

    /// Opens a store that exists for reading, also while a search writes to it.
    pub fn open_read(path: impl AsRef<Path>) -> Result<Store> {
        let file = Store::existing(path.as_ref())?;
        Ok(Store { db: open::read(&file)?, file, _lock: None, session: None })
    }

    fn existing(path: &Path) -> Result<PathBuf> {
        let file = open::resolve(path)?;
        if open::is_new(&file) {
            let message = "there is no such store; begin one with `syntune search`, or correct the path".into();
            return Err(Error::Store { file: path.to_path_buf(), message });
        }
        Ok(file)
    }

    fn writable(file: PathBuf, lock: open::Lock) -> Result<Store> {
        let store = Store { db: open::read_write(&file)?, file, _lock: Some(lock), session: None };
        store.write(|t| t.execute("UPDATE trial SET state = 'waiting' WHERE state = 'running'", []))?;
        Ok(store)
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Lets the file grow by at most `n` pages of 4 KiB from now on, as if the disk were full then. For rehearsals.
    pub fn limit_growth(&self, n: u32) -> Result<()> {
        let limit = || -> rusqlite::Result<()> {
            let pages: u32 = self.db.pragma_query_value(None, "page_count", |row| row.get(0))?;
            self.db.query_row(&format!("PRAGMA max_page_count = {}", pages + n), [], |_| Ok(()))
        };
        self.read(limit())
    }

    fn read<T>(&self, result: rusqlite::Result<T>) -> Result<T> {
        result.map_err(|e| open::fault(&self.file, &e))
    }

    /// Commits one fact, and with it that the session was alive.
    fn write<T>(&self, change: impl FnOnce(&Transaction) -> rusqlite::Result<T>) -> Result<T> {
        let commit = || {
            let t = Transaction::new_unchecked(&self.db, TransactionBehavior::Immediate)?;
            let value = change(&t)?;
            if let Some((number, since)) = self.session {
                t.execute("UPDATE session SET secs = ?2 WHERE number = ?1", (number, since.elapsed().as_secs_f64()))?;
            }
            t.commit()?;
            Ok(value)
        };
        self.read(commit())
    }

    fn list<T>(&self, sql: &str, parameters: impl rusqlite::Params, row: fn(&rusqlite::Row) -> rusqlite::Result<T>) -> Result<Vec<T>> {
        let collect = || self.db.prepare_cached(sql)?.query_map(parameters, row)?.collect();
        self.read(collect())
    }

    // The study.

    /// The request, with the budgets of the last session.
    pub fn spec(&self) -> Result<Spec> {
        let query = || {
            let text: String = self.db.query_row("SELECT spec FROM study", [], |row| row.get(0))?;
            rows::parse(&text, "spec")
        };
        self.read(query())
    }

    /// Begins to count this process's time as the search's.
    pub fn begin_session(&mut self) -> Result<u32> {
        let number = self.write(|t| {
            t.execute("INSERT INTO session(started_unix, secs) VALUES (?1, 0)", [now_unix()])?;
            Ok(t.last_insert_rowid() as u32)
        })?;
        self.session = Some((number, Instant::now()));
        Ok(number)
    }

    /// Ends the session, saying why.
    pub fn end_session(&mut self, stop: &str) -> Result<()> {
        let Some((number, _)) = self.session else { return Ok(()) };
        self.write(|t| t.execute("UPDATE session SET stop = ?2 WHERE number = ?1", (number, stop)))?;
        self.session = None;
        Ok(())
    }

    pub fn sessions(&self) -> Result<Vec<Session>> {
        self.list("SELECT * FROM session ORDER BY number", [], Session::read)
    }

    /// Seconds that all sessions took; of one that was killed, until its last fact; of this one, until now.
    pub fn spent_secs(&self) -> Result<f64> {
        let current = self.session.map(|(number, _)| number);
        let others = self.sessions()?.iter().filter(|s| Some(s.number) != current).map(|s| s.secs).sum::<f64>();
        Ok(others + self.session.map_or(0.0, |(_, since)| since.elapsed().as_secs_f64()))
    }

    /// What is known of the original model.
    pub fn baseline(&self) -> Result<Baseline> {
        Ok(self.fact("baseline")?.unwrap_or_default())
    }

    pub fn save_baseline(&self, baseline: &Baseline) -> Result<()> {
        self.save_fact("baseline", baseline)
    }

    /// The trial that the search chose; `Some(None)` when it ended and found none.
    pub fn winner(&self) -> Result<Option<Option<u32>>> {
        Ok(self.fact::<Value>("winner")?.map(|number| number.as_u64().map(|n| n as u32)))
    }

    pub fn save_winner(&self, number: Option<u32>) -> Result<()> {
        self.save_fact("winner", &number)
    }

    /// A fact that has no table of its own.
    pub fn fact<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>> {
        let query = || {
            let text: Option<String> = self.db.query_row("SELECT value FROM fact WHERE key = ?1", [key], |row| row.get(0)).optional()?;
            text.map(|text| rows::parse(&text, key)).transpose()
        };
        self.read(query())
    }

    /// Keeps a fact in place of an earlier one of that key.
    pub fn save_fact(&self, key: &str, value: &impl Serialize) -> Result<()> {
        self.write(|t| t.execute("INSERT OR REPLACE INTO fact VALUES (?1, ?2)", (key, rows::text(value)?)))?;
        Ok(())
    }

    /// Adds to counters of a kind, such as [`PRUNED`].
    pub fn add_counts<'a>(&self, kind: &str, counts: impl IntoIterator<Item = (&'a str, u64)>) -> Result<()> {
        self.write(|t| {
            let sql = "INSERT INTO counter VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET n = n + excluded.n";
            let mut add = t.prepare_cached(sql)?;
            counts.into_iter().try_for_each(|(reason, n)| add.execute((kind, reason, n as i64)).map(|_| ()))
        })
    }

    pub fn counts(&self, kind: &str) -> Result<BTreeMap<String, u64>> {
        let sql = "SELECT reason, n FROM counter WHERE kind = ?1";
        let rows = self.list(sql, [kind], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.max(0) as u64)))?;
        Ok(rows.into_iter().collect())
    }

    // Trials.

    /// Adds a waiting trial; `None` if its operator has one already (see [`Store::find`]).
    pub fn propose(&self, proposal: &Proposal) -> Result<Option<Trial>> {
        let Proposal { operator, id, formula, n_macs, n_params } = proposal;
        let added = self.write(|t| {
            let number: u32 = t.query_row("SELECT coalesce(max(number), 0) + 1 FROM trial", [], |row| row.get(0))?;
            let n = t.execute(
                "INSERT INTO trial(number, operator, id, formula, state, n_macs, n_params)
                 VALUES (?1, ?2, ?3, ?4, 'waiting', ?5, ?6) ON CONFLICT(id) DO NOTHING",
                (number, operator, id, formula, n_macs.map(|n| n as i64), n_params.map(|n| n as i64)),
            )?;
            Ok((n == 1).then_some(number))
        })?;
        added.map(|number| self.trial(number)).transpose()
    }

    /// A trial by its number.
    ///
    /// # Errors
    /// [`Error::Invalid`] lists the numbers that there are.
    pub fn trial(&self, number: u32) -> Result<Trial> {
        let found = self.list("SELECT * FROM trial WHERE number = ?1", [number], Trial::read)?;
        match found.into_iter().next() {
            Some(trial) => Ok(trial),
            None => invalid(format!("{} has no trial {number}; {}", self.file.display(), self.what_there_is()?)),
        }
    }

    fn what_there_is(&self) -> Result<String> {
        let numbers = self.list("SELECT number FROM trial ORDER BY number", [], |row| row.get::<_, u32>(0))?;
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for n in numbers {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == n => *last = n,
                _ => runs.push((n, n)),
            }
        }
        let runs: Vec<String> = runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a} to {b}") }).collect();
        Ok(if runs.is_empty() { "there are none yet".into() } else { format!("there are {}", runs.join(", ")) })
    }

    /// The trial of an operator, by the operator's id.
    pub fn find(&self, id: &str) -> Result<Option<Trial>> {
        Ok(self.list("SELECT * FROM trial WHERE id = ?1", [id], Trial::read)?.into_iter().next())
    }

    /// All trials, by number.
    pub fn trials(&self) -> Result<Vec<Trial>> {
        self.list("SELECT * FROM trial ORDER BY number", [], Trial::read)
    }

    /// The waiting trial with the lowest number: work that was asked for and not done.
    pub fn next_waiting(&self) -> Result<Option<Trial>> {
        let sql = "SELECT * FROM trial WHERE state = 'waiting' ORDER BY number LIMIT 1";
        Ok(self.list(sql, [], Trial::read)?.into_iter().next())
    }

    /// Starts work on a waiting trial, or more work on a complete one.
    pub fn begin(&self, number: u32) -> Result<()> {
        self.turn(number, &[State::Waiting, State::Complete], State::Running, None, None)
    }

    /// Keeps what is known of a trial by now: phase, costs, accuracies, times, loops. Its state, failure and operator
    /// are left.
    pub fn save(&self, trial: &Trial) -> Result<()> {
        let Trial { number, loops, phase, n_macs, n_params, proxy_accuracy, full_accuracy, .. } = trial;
        let n = self.write(|t| {
            t.execute(
                "UPDATE trial SET loops = ?2, phase = ?3, n_macs = ?4, n_params = ?5, proxy_accuracy = ?6,
                 full_accuracy = ?7, slots = ?8, end_to_end = ?9, times_secs = ?10, formula = ?11 WHERE number = ?1",
                (
                    number,
                    loops,
                    phase.map(|phase| phase.to_string()),
                    n_macs.map(|n| n as i64),
                    n_params.map(|n| n as i64),
                    proxy_accuracy,
                    full_accuracy,
                    trial.slots.as_ref().map(rows::text).transpose()?,
                    trial.end_to_end.as_ref().map(rows::text).transpose()?,
                    rows::text(&trial.times_secs)?,
                    &trial.formula,
                ),
            )
        })?;
        if n == 0 { self.trial(*number).map(|_| ()) } else { Ok(()) }
    }

    /// Ends a running trial whose work is done.
    pub fn complete(&self, number: u32) -> Result<()> {
        self.turn(number, &[State::Running], State::Complete, None, None)
    }

    /// Ends a waiting or running trial that cannot be among the best.
    pub fn prune(&self, number: u32, reason: &str) -> Result<()> {
        self.turn(number, &[State::Waiting, State::Running], State::Pruned, Some(reason), None)
    }

    /// Ends a running trial that does not work.
    pub fn fail(&self, number: u32, failure: &Value) -> Result<()> {
        self.turn(number, &[State::Running], State::Failed, None, Some(failure))
    }

    fn turn(&self, number: u32, from: &[State], to: State, reason: Option<&str>, failure: Option<&Value>) -> Result<()> {
        let state = self.trial(number)?.state;
        if !from.contains(&state) {
            return invalid(format!("trial {number} is {state} and cannot become {to}; report this as a bug of Syntune"));
        }
        let failure = failure.map(Value::to_string);
        self.write(|t| {
            let sql = "UPDATE trial SET state = ?2, prune_reason = ?3, failure = ?4 WHERE number = ?1";
            t.execute(sql, (number, to.to_string(), reason, failure))
        })?;
        Ok(())
    }

    /// Keeps the time of one slot of a trial, or of the [`BASELINE`], in place of an earlier one.
    pub fn record_slot(&self, trial: u32, slot: &SlotTime) -> Result<()> {
        let timing = self.read(rows::text(&slot.timing))?;
        self.write(|t| {
            let sql = "INSERT INTO slot_time VALUES (?1, ?2, ?3, ?4)
                       ON CONFLICT DO UPDATE SET workload = excluded.workload, timing = excluded.timing";
            t.execute(sql, (trial, &slot.slot, &slot.workload, timing))
        })?;
        Ok(())
    }

    /// The slots of a trial in the order they were first recorded.
    pub fn slots(&self, trial: u32) -> Result<Vec<SlotTime>> {
        self.list("SELECT * FROM slot_time WHERE trial = ?1 ORDER BY rowid", [trial], |row| {
            let timing = rows::json(row, "timing")?.ok_or(rusqlite::Error::QueryReturnedNoRows)?;
            Ok(SlotTime { slot: row.get("slot")?, workload: row.get("workload")?, timing })
        })
    }

    /// Keeps an epoch of a trial, or of the [`BASELINE`], in place of an earlier one of that number.
    pub fn record_epoch(&self, trial: u32, epoch: &Epoch) -> Result<()> {
        let &Epoch { training, epoch, n_seen, loss, accuracy, secs } = epoch;
        self.write(|t| {
            let sql = "INSERT OR REPLACE INTO epoch VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            t.execute(sql, (trial, training.to_string(), epoch, n_seen as i64, loss, accuracy, secs))
        })?;
        Ok(())
    }

    /// The epochs of a trial, short training first.
    pub fn epochs(&self, trial: u32) -> Result<Vec<Epoch>> {
        self.list("SELECT * FROM epoch WHERE trial = ?1 ORDER BY training DESC, epoch", [trial], Epoch::read)
    }

    // Measurements.

    /// Keeps one measurement. The same config may be measured again; all rows count.
    ///
    /// # Errors
    /// [`Error::Invalid`] for samples that are no times: those belong in a failure.
    pub fn record_measurement(&self, m: &Measurement) -> Result<()> {
        let median_secs = m.median_secs();
        if median_secs.is_some() == m.failure.is_some() {
            return invalid("a measurement has either samples, each a time in seconds, or a failure; report this as a bug of Syntune");
        }
        self.write(|t| {
            let sql = "INSERT INTO measurement(workload, config, samples_secs, median_secs, failure, strategy, seed)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
            let failure = m.failure.as_ref().map(Value::to_string);
            let samples = rows::text(&m.samples_secs)?;
            t.execute(sql, (&m.workload, &m.config, samples, median_secs, failure, &m.strategy, m.seed as i64))
        })?;
        Ok(())
    }

    /// What was measured of a workload, in order.
    pub fn measurements(&self, workload: &str) -> Result<Vec<Measurement>> {
        self.list("SELECT * FROM measurement WHERE workload = ?1 ORDER BY number", [workload], Measurement::read)
    }

    pub fn n_measurements(&self) -> Result<u64> {
        let n: i64 = self.read(self.db.query_row("SELECT count(*) FROM measurement", [], |row| row.get(0)))?;
        Ok(n.max(0) as u64)
    }

    /// The fastest config of a workload by the median of all its samples; one that ever failed does not count.
    pub fn best(&self, workload: &str) -> Result<Option<Measurement>> {
        let mut by_config: BTreeMap<String, Measurement> = BTreeMap::new();
        for m in self.measurements(workload)? {
            match by_config.get_mut(&m.config) {
                Some(known) => {
                    known.samples_secs.extend(m.samples_secs);
                    known.failure = known.failure.take().or(m.failure);
                }
                None => {
                    by_config.insert(m.config.clone(), m);
                }
            }
        }
        let sound = by_config.into_values().filter(|m| m.failure.is_none());
        Ok(sound.filter_map(|m| Some((m.median_secs()?, m))).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, m)| m))
    }
}

fn now_unix() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
