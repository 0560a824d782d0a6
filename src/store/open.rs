//! The way to the file: created whole or not at all, looked at before it is touched, one search at a time.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};
use serde_json::Value;

use super::rows;
use crate::error::{Error, Result};
use crate::spec::Spec;

/// The version of the tables below; a store with a higher one is refused.
pub const SCHEMA_VERSION: u32 = 1;
/// "SYNT" in the file's header: tells our files from other SQLite databases.
const APPLICATION_ID: u32 = 0x5359_4e54;
/// How long another program (a shell, a backup) may hold the file.
const BUSY: Duration = Duration::from_secs(5);

const SCHEMA: &str = "
CREATE TABLE study(
  one INTEGER PRIMARY KEY CHECK (one = 1),
  spec TEXT NOT NULL,            -- JSON
  created_unix REAL NOT NULL
) STRICT;
CREATE TABLE trial(
  number INTEGER PRIMARY KEY,
  operator TEXT NOT NULL,
  id TEXT NOT NULL UNIQUE,
  formula TEXT,
  loops TEXT,
  state TEXT NOT NULL,
  phase TEXT,
  n_macs INTEGER,
  n_params INTEGER,
  proxy_accuracy REAL,
  full_accuracy REAL,
  slots TEXT,                    -- JSON: Timing
  end_to_end TEXT,               -- JSON: EndToEnd
  failure TEXT,                  -- JSON
  prune_reason TEXT,
  times_secs TEXT                -- JSON: phase to seconds
) STRICT;
CREATE TABLE slot_time(
  trial INTEGER NOT NULL,        -- 0: the baseline
  slot TEXT NOT NULL,
  workload TEXT NOT NULL,
  timing TEXT NOT NULL,          -- JSON: Timing
  PRIMARY KEY (trial, slot)
) STRICT;
CREATE TABLE measurement(
  number INTEGER PRIMARY KEY,
  workload TEXT NOT NULL,
  config TEXT NOT NULL,          -- JSON
  samples_secs TEXT NOT NULL,    -- JSON: list of seconds
  median_secs REAL,              -- NULL for a failure
  failure TEXT,                  -- JSON
  strategy TEXT NOT NULL,
  seed INTEGER NOT NULL          -- the bits of an unsigned number
) STRICT;
CREATE INDEX measurement_workload ON measurement(workload);
CREATE TABLE epoch(
  trial INTEGER NOT NULL,        -- 0: the baseline
  training TEXT NOT NULL,        -- proxy or full
  epoch INTEGER NOT NULL,
  n_seen INTEGER NOT NULL,
  loss REAL,                     -- NULL: not a number
  accuracy REAL,
  secs REAL,
  PRIMARY KEY (trial, training, epoch)
) STRICT;
CREATE TABLE counter(
  kind TEXT NOT NULL,            -- pruned, ...
  reason TEXT NOT NULL,
  n INTEGER NOT NULL,
  PRIMARY KEY (kind, reason)
) STRICT;
CREATE TABLE fact(key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;  -- JSON
CREATE TABLE session(
  number INTEGER PRIMARY KEY,
  started_unix REAL NOT NULL,
  secs REAL NOT NULL,
  stop TEXT
) STRICT;
";

/// An SQLite error as the caller's problem, with the way out.
pub(super) fn fault(file: &Path, e: &rusqlite::Error) -> Error {
    use rusqlite::Error as E;
    let message = match (e.sqlite_error_code(), e) {
        (Some(ErrorCode::DiskFull), _) => {
            "the disk is full; free some space and run again: what was committed is kept".to_string()
        }
        (Some(ErrorCode::NotADatabase), _) => {
            "is not a store (not an SQLite file), or its beginning is overwritten; it is left as it is: choose another file, or restore a copy".to_string()
        }
        (Some(ErrorCode::DatabaseCorrupt), _) => damaged(&e.to_string()),
        (Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked), _) => {
            "is locked by another program; close it (an sqlite3 shell, a backup) and run again".to_string()
        }
        (Some(ErrorCode::ReadOnly), _) => {
            "cannot be written; make the file and its folder writable, or copy it to a folder that is".to_string()
        }
        (Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied), _) => {
            format!("cannot be opened ({e}); check that you may read and write the file and its folder")
        }
        (Some(ErrorCode::SystemIoFailure), _) => {
            format!("the disk failed ({e}); check free space, quota and the disk, and run again: what was committed is kept")
        }
        (_, E::FromSqlConversionFailure(_, _, why)) => damaged(&why.to_string()),
        (_, E::InvalidColumnType(..) | E::IntegralValueOutOfRange(..)) => damaged(&e.to_string()),
        (Some(ErrorCode::ConstraintViolation), _) => format!("a fact does not fit ({e}); report this as a bug of Syntune"),
        _ => format!("{e}; if the file is damaged restore a copy, or begin anew with another file"),
    };
    Error::Store { file: file.to_path_buf(), message }
}

fn damaged(detail: &str) -> String {
    let detail = detail.replace('\n', ", ");
    format!(
        "is damaged ({detail}); it is left as it is: restore a copy, save what can be read with `sqlite3 FILE .recover`, or begin anew with another file"
    )
}

fn refuse<T>(file: &Path, message: impl Into<String>) -> Result<T> {
    Err(Error::Store { file: file.to_path_buf(), message: message.into() })
}

/// The path by which every process knows the store; the file itself need not exist.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    if let Ok(full) = path.canonicalize() {
        return if full.is_file() { Ok(full) } else { refuse(path, "is not a file; give the path of a store, such as search.db") };
    }
    let Some(name) = path.file_name() else { return refuse(path, "is no file name; give the path of a store, such as search.db") };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    match folder.canonicalize() {
        Ok(folder) => Ok(folder.join(name)),
        Err(e) => refuse(path, format!("its folder cannot be used ({e}); create the folder, or choose another")),
    }
}

/// Whether there is nothing yet: no file, or an empty one.
pub(super) fn is_new(file: &Path) -> bool {
    std::fs::metadata(file).map_or(true, |m| m.len() == 0)
}

/// Makes a store under another name and gives it its own when it is whole.
pub(super) fn create(file: &Path, spec: &Spec, now_unix: f64) -> Result<()> {
    let log = side(file, "-wal");
    if log.exists() {
        // SQLite would play the log of one store into the other.
        return refuse(file, format!("is gone, but its log {} is still there; restore the file, or remove the log", log.display()));
    }
    let folder = file.parent().unwrap_or(Path::new("."));
    let started = tempfile::Builder::new().prefix(".syntune-new-").permissions(std::fs::Permissions::from_mode(0o666)).tempfile_in(folder);
    let temp = match started {
        Ok(temp) => temp,
        Err(e) => return refuse(file, cannot_create(&e)),
    };
    let fill = || -> rusqlite::Result<()> {
        let db = Connection::open(temp.path())?;
        db.execute_batch(&format!(
            "BEGIN; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = {SCHEMA_VERSION}; {SCHEMA} COMMIT;"
        ))?;
        db.execute("INSERT INTO study VALUES (1, ?1, ?2)", (rows::text(spec)?, now_unix))?;
        // The mode is kept in the file: readers and one writer do not block each other.
        db.pragma_update(None, "journal_mode", "WAL")?;
        db.close().map_err(|(_, e)| e)
    };
    fill().map_err(|e| fault(file, &e))?;
    let placed = if file.exists() { temp.persist(file) } else { temp.persist_noclobber(file) };
    match placed {
        Ok(_) => Ok(()),
        Err(e) => refuse(file, cannot_create(&e.error)),
    }
}

fn cannot_create(e: &std::io::Error) -> String {
    match e.kind() {
        ErrorKind::StorageFull => "cannot be created: the disk is full; free some space, or choose a folder on another disk".into(),
        _ => format!("cannot be created ({e}); choose a folder you may write to"),
    }
}

/// Refuses, without touching it, a file that is no store or that a newer Syntune wrote.
pub(super) fn look(file: &Path) -> Result<()> {
    // Immutable: neither locks nor side files. The header alone is read, and it was whole before the file had its name.
    let header = uri(file, "immutable=1").and_then(|db| header(&db));
    match header {
        Ok(header) => accept(file, header),
        // A checkpoint that was killed half-way looks damaged until the log beside the file is read.
        Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt) => Ok(()),
        Err(e) => Err(fault(file, &e)),
    }
}

fn uri(file: &Path, options: &str) -> rusqlite::Result<Connection> {
    use std::os::unix::ffi::OsStrExt;
    let path: String = file
        .as_os_str()
        .as_bytes()
        .iter()
        .map(|&b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => char::from(b).to_string(),
            _ => format!("%{b:02x}"),
        })
        .collect();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    Connection::open_with_flags(format!("file:{path}?{options}"), flags)
}

fn header(db: &Connection) -> rusqlite::Result<(u32, u32)> {
    let number = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).map(|n| n as u32);
    Ok((number("application_id")?, number("user_version")?))
}

fn accept(file: &Path, (application, version): (u32, u32)) -> Result<()> {
    if application != APPLICATION_ID {
        return refuse(file, "is a database of another program; it is left as it is: choose another file");
    }
    if version != SCHEMA_VERSION {
        let (age, way_out) = if version > SCHEMA_VERSION { ("a newer", "update Syntune") } else { ("an older", "use that one") };
        return refuse(
            file,
            format!(
                "was written by {age} Syntune (store version {version}; this one has {SCHEMA_VERSION}) and is left as it is: {way_out}, or choose another file"
            ),
        );
    }
    Ok(())
}

/// A connection that leaves no trace, to a file found sound.
pub(super) fn check(file: &Path) -> Result<Connection> {
    look(file)?;
    let map = |e: rusqlite::Error| fault(file, &e);
    let db = uri(file, if logged(file) { "mode=ro" } else { "immutable=1" }).map_err(map)?;
    db.busy_timeout(BUSY).map_err(map)?;
    accept(file, header(&db).map_err(map)?)?;
    let verdict: String = db.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(map)?;
    if verdict == "ok" { Ok(db) } else { refuse(file, damaged(&verdict)) }
}

/// A connection that does not write, and sees what a search commits meanwhile.
pub(super) fn read(file: &Path) -> Result<Connection> {
    let checked = check(file)?;
    let open = || -> rusqlite::Result<Connection> {
        // Able to write, so that it can make the log's index and clear it away at the end; told not to.
        let db = connect(file)?;
        db.pragma_update(None, "query_only", true)?;
        db.query_row("SELECT one FROM study", [], |_| Ok(()))?;
        Ok(db)
    };
    match open() {
        Ok(db) => Ok(db),
        // A folder that cannot be written has no place for the log's index; without a log none is needed.
        Err(_) if !logged(file) => Ok(checked),
        Err(e) => Err(fault(file, &e)),
    }
}

/// Whether there is more than the file: a search that runs, or was killed.
fn logged(file: &Path) -> bool {
    std::fs::metadata(side(file, "-wal")).is_ok_and(|m| m.len() > 0)
}

fn connect(file: &Path) -> rusqlite::Result<Connection> {
    let db = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY)?;
    Ok(db)
}

/// The one connection that writes. The caller holds the [`Lock`].
pub(super) fn read_write(file: &Path) -> Result<Connection> {
    let open = || -> rusqlite::Result<Connection> {
        let db = connect(file)?;
        db.pragma_update(None, "journal_mode", "WAL")?;
        // A commit is in the kernel's hands when it returns, so a killed process loses nothing. A power cut may lose
        // the last commits, never the file; syncing each of them would cost more than some measurements take.
        db.pragma_update(None, "synchronous", "NORMAL")?;
        Ok(db)
    };
    open().map_err(|e| fault(file, &e))
}

fn side(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(suffix);
    name.into()
}

/// The right to write to a store, held by one process. Ends with the process, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    pub(super) fn take(store: &Path) -> Result<Lock> {
        let path = side(store, "-lock");
        loop {
            let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = match opened {
                Ok(file) => file,
                Err(e) if e.kind() == ErrorKind::StorageFull => return refuse(store, cannot_create(&e)),
                Err(e) => return refuse(store, format!("cannot be locked ({e}); choose a file in a folder you may write to")),
            };
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    let who = if holder.is_empty() { String::new() } else { format!(" (process {})", holder.trim()) };
                    return refuse(store, format!("is in use by another search{who}; wait for it to end, or choose another file"));
                }
                Err(TryLockError::Error(e)) => {
                    return refuse(store, format!("cannot be locked ({e}); choose a file on a local disk"));
                }
            }
            // Another process may have ended, and removed its lock, since we opened it.
            let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
            match (file.metadata(), std::fs::metadata(&path)) {
                (Ok(ours), Ok(named)) if same(&ours, &named) => {}
                _ => continue,
            }
            // Only a courtesy to whoever is refused: a full disk must not stop us here.
            let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| write!(file, "{}", std::process::id()));
            return Ok(Lock { path, _file: file });
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The first key, if any, in which two specs ask for different results: stored value, asked value.
pub(super) fn difference(stored: &Spec, asked: &Spec) -> Option<(String, String, String)> {
    /// What may change between sessions: what a search is called, where its data lies, how long it goes on.
    const FREE: [&str; 4] = ["name", "data.path", "budget.minutes", "budget.trials"];
    fn flatten(prefix: &str, value: &Value, out: &mut std::collections::BTreeMap<String, String>) {
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
                    flatten(&path, value, out);
                }
            }
            value => {
                out.insert(prefix.to_string(), value.to_string());
            }
        }
    }
    let flat = |spec: &Spec| {
        let mut out = Default::default();
        flatten("", &serde_json::to_value(spec).unwrap_or_default(), &mut out);
        out
    };
    let (stored, asked) = (flat(stored), flat(asked));
    let mut keys: Vec<&String> = stored.keys().chain(asked.keys()).collect();
    keys.sort();
    let show = |value: Option<&String>| value.cloned().unwrap_or_else(|| "nothing".into());
    keys.into_iter()
        .filter(|key| !FREE.contains(&key.as_str()) && stored.get(*key) != asked.get(*key))
        .map(|key| (key.clone(), show(stored.get(key)), show(asked.get(key))))
        .next()
}
