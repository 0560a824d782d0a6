use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use syntune::error::Error;
use syntune::spec::{Layers, Spec};
use syntune::store::{BASELINE, Epoch, PRUNED, SCHEMA_VERSION, SlotTime, State, Store, Timing, Training};
use tempfile::{TempDir, tempdir};

use crate::util::{made_up_store, measurement, proposal, store_fault, timing};

fn folder() -> (TempDir, PathBuf) {
    let folder = tempdir().unwrap();
    let file = folder.path().join("search #1?.db");
    (folder, file)
}

fn open(file: &Path) -> Store {
    Store::open_or_create(file, &Spec::default()).unwrap()
}

/// The files of a folder, with a hash of every byte in each.
fn contents(folder: &Path) -> Vec<(PathBuf, u64)> {
    let mut all: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    let hash = |path: &Path| {
        let mut hasher = DefaultHasher::new();
        std::fs::read(path).unwrap().hash(&mut hasher);
        hasher.finish()
    };
    all.into_iter().map(|path| (path.clone(), hash(&path))).collect()
}

#[test]
fn what_is_kept_comes_back() {
    let (folder, file) = folder();
    let before = {
        let store = made_up_store(&file);
        (store.trials().unwrap(), store.baseline().unwrap(), store.slots(1).unwrap(), store.epochs(1).unwrap())
    };
    assert_eq!(contents(folder.path()).len(), 1, "a closed store is one file");
    let store = Store::open_read(&file).unwrap();
    let after = (store.trials().unwrap(), store.baseline().unwrap(), store.slots(1).unwrap(), store.epochs(1).unwrap());
    assert_eq!(before, after);
    assert_eq!(after.0.len(), 7);
    assert_eq!(
        after.3.iter().map(|e| (e.training, e.epoch)).collect::<Vec<_>>(),
        [(Training::Proxy, 1), (Training::Full, 1), (Training::Full, 2)]
    );
    assert!(store.epochs(6).unwrap()[0].loss.is_nan());
    assert_eq!(store.winner().unwrap(), Some(Some(1)));
    assert_eq!(store.counts(PRUNED).unwrap()["no weight"], 31);
    assert_eq!(store.sessions().unwrap()[0].stop.as_deref(), Some("the budget of 13 minutes is spent"));
    assert_eq!(store.spec().unwrap().name, "made-up");
    assert_eq!(store.fact::<u32>("nothing").unwrap(), None);
    drop(store);
    assert_eq!(contents(folder.path()).len(), 1, "reading leaves nothing behind");
}

#[test]
fn no_operator_is_tried_twice() {
    let (_folder, file) = folder();
    let store = open(&file);
    let first = store.propose(&proposal("share", 1)).unwrap().unwrap();
    assert_eq!((first.number, first.state), (1, State::Waiting));
    assert!(store.propose(&proposal("share", 1)).unwrap().is_none());
    assert_eq!(store.find(&first.id).unwrap(), Some(first));
    assert_eq!(store.propose(&proposal("shift", 1)).unwrap().unwrap().number, 2);
    assert_eq!(store.next_waiting().unwrap().unwrap().number, 1);
}

#[test]
fn a_trial_goes_from_waiting_to_one_end() {
    let (_folder, file) = folder();
    let store = open(&file);
    for operator in ["share", "shift", "unfold"] {
        store.propose(&proposal(operator, 1)).unwrap();
    }
    assert!(store.complete(1).unwrap_err().to_string().contains("trial 1 is waiting and cannot become complete"));
    store.begin(1).unwrap();
    assert!(store.begin(1).is_err());
    store.complete(1).unwrap();
    store.begin(1).unwrap();
    store.complete(1).unwrap();
    store.prune(2, "too slow").unwrap();
    assert!(store.fail(2, &json!({})).is_err());
    store.begin(3).unwrap();
    store.fail(3, &json!({"kind": "crash"})).unwrap();
    let states: Vec<State> = store.trials().unwrap().iter().map(|t| t.state).collect();
    assert_eq!(states, [State::Complete, State::Pruned, State::Failed]);
    assert_eq!(store.trial(2).unwrap().prune_reason.as_deref(), Some("too slow"));
    assert_eq!(store.trial(3).unwrap().failure, Some(json!({"kind": "crash"})));
}

#[test]
fn a_number_that_is_not_there_lists_what_is() {
    let (_folder, file) = folder();
    let store = open(&file);
    let message = |n| match store.trial(n) {
        Err(Error::Invalid(message)) => message,
        other => panic!("{other:?}"),
    };
    assert!(message(1).ends_with("has no trial 1; there are none yet"));
    for operator in ["share", "shift", "unfold"] {
        store.propose(&proposal(operator, 1)).unwrap();
    }
    assert!(message(9).ends_with("has no trial 9; there are 1 to 3"));
}

#[test]
fn the_best_config_is_the_fastest_over_all_its_measurements_and_never_failed() {
    let (_folder, file) = folder();
    let store = open(&file);
    assert_eq!(store.best("w").unwrap(), None);
    for (config, secs) in [("lucky", 1.0), ("lucky", 9.0), ("lucky", 9.0), ("steady", 3.0), ("wrong", 0.5)] {
        store.record_measurement(&measurement("w", config, &[secs])).unwrap();
    }
    store.record_measurement(&measurement("other", "x", &[0.1])).unwrap();
    let mut wrong = measurement("w", "wrong", &[]);
    wrong.failure = Some(json!({"kind": "wrong-output"}));
    store.record_measurement(&wrong).unwrap();
    assert_eq!(store.best("w").unwrap().unwrap().config, "steady");
    assert_eq!(store.measurements("w").unwrap().len(), 6);
    assert_eq!(store.measurements("w").unwrap()[5], wrong);
    assert_eq!(store.n_measurements().unwrap(), 7);
    for samples in [&[][..], &[f64::NAN], &[1.0, f64::INFINITY], &[-1.0]] {
        assert!(matches!(store.record_measurement(&measurement("w", "c", samples)), Err(Error::Invalid(_))));
    }
    let mut seed = measurement("s", "c", &[1.0]);
    seed.seed = u64::MAX;
    store.record_measurement(&seed).unwrap();
    assert_eq!(store.best("s").unwrap(), Some(seed));
}

#[test]
fn timings_are_medians_with_spread() {
    assert_eq!(Timing::of(&[4.0, 1.0, 2.0, 3.0, 5.0]), Some(Timing { median_secs: 3.0, min_secs: 1.0, spread_secs: 1.0, n_samples: 5 }));
    assert_eq!(Timing::of(&[1.0, 2.0]).unwrap().median_secs, 1.5);
    assert_eq!(Timing::of(&[]), None);
    assert_eq!(Timing::of(&[f64::NAN]), None);
    let sum: Timing = [timing(1.0), timing(2.0).times(2)].into_iter().sum();
    assert_eq!((sum.median_secs, sum.n_samples), (5.0, 20));
}

#[test]
fn slots_and_epochs_are_replaced_in_place() {
    let (_folder, file) = folder();
    let store = open(&file);
    for (slot, secs) in [("b", 1.0), ("a", 2.0), ("b", 3.0)] {
        let slot = SlotTime { slot: slot.into(), workload: "w".into(), timing: timing(secs) };
        store.record_slot(BASELINE, &slot).unwrap();
        let epoch = Epoch { training: Training::Proxy, epoch: 1, n_seen: 1, loss: 1.0, accuracy: secs / 10.0, secs: 1.0 };
        store.record_epoch(BASELINE, &epoch).unwrap();
    }
    let slots: Vec<(String, f64)> = store.slots(BASELINE).unwrap().into_iter().map(|s| (s.slot, s.timing.median_secs)).collect();
    assert_eq!(slots, [("b".to_string(), 3.0), ("a".to_string(), 2.0)]);
    assert_eq!(store.epochs(BASELINE).unwrap().len(), 1);
}

#[test]
fn counters_add_up() {
    let (_folder, file) = folder();
    let store = open(&file);
    store.add_counts(PRUNED, [("a", 1), ("b", 2)]).unwrap();
    store.add_counts(PRUNED, [("a", 3)]).unwrap();
    store.add_counts("other", [("a", 5)]).unwrap();
    assert_eq!(store.counts(PRUNED).unwrap(), [("a".to_string(), 4), ("b".to_string(), 2)].into());
}

#[test]
fn time_is_added_over_sessions() {
    let (_folder, file) = folder();
    for number in 1..=2 {
        let mut store = open(&file);
        assert_eq!(store.begin_session().unwrap(), number);
        std::thread::sleep(std::time::Duration::from_millis(20));
        store.save_fact("alive", &true).unwrap();
        assert!(store.spent_secs().unwrap() >= 0.02 * f64::from(number));
    }
    let sessions = Store::open_read(&file).unwrap().sessions().unwrap();
    assert!(sessions.iter().all(|s| s.secs >= 0.02 && s.stop.is_none()), "a session that was cut off keeps its time");
}

#[test]
fn only_a_spec_that_means_the_same_goes_on() {
    let (folder, file) = folder();
    drop(open(&file));
    let mut longer = Spec { name: "other".into(), ..Spec::default() };
    longer.budget.minutes = 99.0;
    longer.budget.trials = Some(5);
    drop(Store::open_or_create(&file, &longer).unwrap());
    assert_eq!(Store::open_read(&file).unwrap().spec().unwrap(), longer);

    let before = contents(folder.path());
    let mut other = longer.clone();
    other.train.epochs = 99;
    let message = store_fault(Store::open_or_create(&file, &other));
    assert!(message.contains("`train.epochs` is 10 there and 99 now; set it back"), "{message}");
    let mut other = longer.clone();
    other.operator.coefficients.insert("z".into(), 2);
    let message = store_fault(Store::open_or_create(&file, &other));
    assert!(message.contains("`operator.coefficients.z` is nothing there and 2 now"), "{message}");
    let other = Spec { slots: syntune::spec::Slots { layers: Layers::Named(vec!["a".into()]) }, ..longer };
    assert!(store_fault(Store::open_or_create(&file, &other)).contains("`slots.layers` is \"all\" there and [\"a\"] now"));
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_second_search_is_refused_and_readers_are_not() {
    let (folder, file) = folder();
    let store = open(&file);
    let message = store_fault(Store::open_or_create(&file, &Spec::default()));
    assert!(message.contains(&format!("in use by another search (process {})", std::process::id())), "{message}");
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    assert!(store_fault(Store::open_existing(&link)).contains("in use by another search"));

    let reader = Store::open_read(&file).unwrap();
    store.propose(&proposal("share", 1)).unwrap();
    assert_eq!(reader.trials().unwrap().len(), 1, "a reader sees what was committed since");
    assert!(store_fault(reader.propose(&proposal("shift", 1))).contains("cannot be written"));
    drop(store);
    assert_eq!(Store::open_existing(&file).unwrap().trials().unwrap().len(), 1);
}

#[test]
fn a_file_that_another_program_holds_is_named() {
    let (_folder, file) = folder();
    let store = open(&file);
    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let message = store_fault(store.save_fact("key", &1));
    assert!(message.contains("locked by another program; close it"), "{message}");
    other.execute_batch("ROLLBACK").unwrap();
    store.save_fact("key", &1).unwrap();
}

/// Run by the test below in a process of its own: says each number once it is kept, until it is killed.
#[test]
#[ignore = "a part of another test"]
fn child_keeps_measuring() {
    let Some(file) = std::env::var_os("SYNTUNE_TEST_STORE") else { return };
    let mut store = open(Path::new(&file));
    store.begin_session().unwrap();
    store.propose(&proposal("share", 1)).unwrap();
    store.begin(1).unwrap();
    for n in 0.. {
        store.record_measurement(&measurement("w", &n.to_string(), &[1.0])).unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "kept {n}").and_then(|()| out.flush()).unwrap();
    }
}

#[test]
fn a_killed_search_loses_nothing_that_was_kept() {
    let (_folder, file) = folder();
    let mut n_before = 0;
    for n_kills in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["store::child_keeps_measuring", "--exact", "--ignored", "--nocapture"])
            .env("SYNTUNE_TEST_STORE", &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut n_kept = 0;
        for line in lines {
            if line.contains("kept ") {
                n_kept += 1;
            }
            if n_kept == 200 {
                let message = store_fault(Store::open_existing(&file));
                assert!(message.contains(&format!("(process {})", child.id())), "{message}");
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(n_kept >= 200, "only {n_kept}");
        let store = Store::open_existing(&file).unwrap();
        let n = store.n_measurements().unwrap();
        assert!(n >= n_before + n_kept, "{n} of {n_before} + {n_kept}");
        assert_eq!(store.trial(1).unwrap().state, State::Waiting, "interrupted work is to be repeated");
        assert_eq!(store.sessions().unwrap().len(), n_kills);
        n_before = n;
    }
}

#[test]
fn a_full_disk_is_named_and_keeps_what_was_committed() {
    let (folder, file) = folder();
    let store = open(&file);
    store.propose(&proposal("share", 1)).unwrap();
    store.limit_growth(20).unwrap();
    let config = "x".repeat(10_000);
    let mut n_kept = 0;
    let message = loop {
        match store.record_measurement(&measurement("w", &config, &[1.0])) {
            Ok(()) => n_kept += 1,
            Err(Error::Store { message, .. }) => break message,
            Err(other) => panic!("{other:?}"),
        }
        assert!(n_kept < 1000);
    };
    assert!(message.contains("the disk is full; free some space"), "{message}");
    assert_eq!(store.n_measurements().unwrap(), n_kept);
    drop(store);
    let store = open(&file);
    assert_eq!((store.n_measurements().unwrap(), store.trials().unwrap().len()), (n_kept, 1));
    store.record_measurement(&measurement("w", &config, &[1.0])).unwrap();
    drop(store);
    assert_eq!(contents(folder.path()).len(), 1);
}

#[test]
fn a_newer_store_is_refused_unharmed() {
    let (folder, file) = folder();
    drop(made_up_store(&file));
    let other = rusqlite::Connection::open(&file).unwrap();
    other.pragma_update(None, "user_version", SCHEMA_VERSION + 1).unwrap();
    drop(other);
    let before = contents(folder.path());
    for result in [Store::open_read(&file), Store::open_existing(&file), Store::open_or_create(&file, &Spec::default())] {
        let message = store_fault(result);
        assert!(message.contains("newer Syntune (store version 2; this one has 1)"), "{message}");
        assert!(message.contains("update Syntune"), "{message}");
    }
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn what_is_no_store_is_refused_unharmed() {
    let (folder, file) = folder();
    let text = folder.path().join("notes.txt");
    std::fs::write(&text, "dear diary, ".repeat(1000)).unwrap();
    let foreign = folder.path().join("foreign.db");
    rusqlite::Connection::open(&foreign).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
    let cut = folder.path().join("cut.db");
    let overwritten = folder.path().join("overwritten.db");
    drop(made_up_store(&file));
    let mut bytes = std::fs::read(&file).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    bytes[4096..].fill(0xa5);
    std::fs::write(&overwritten, &bytes).unwrap();

    let before = contents(folder.path());
    let cases = [
        (text, "is not a store (not an SQLite file)"),
        (foreign, "is a database of another program"),
        (cut, "is damaged"),
        (overwritten, "is damaged"),
        (folder.path().to_path_buf(), "is not a file"),
    ];
    for (file, needle) in cases {
        for result in [Store::open_read(&file), Store::open_existing(&file), Store::open_or_create(&file, &Spec::default())] {
            let message = store_fault(result);
            assert!(message.contains(needle), "{}: {message}", file.display());
        }
    }
    assert_eq!(contents(folder.path()), before);
}

#[test]
fn a_flipped_byte_anywhere_is_an_error_and_never_a_panic() {
    let (folder, file) = folder();
    drop(made_up_store(&file));
    let bytes = std::fs::read(&file).unwrap();
    let hurt = folder.path().join("hurt.db");
    for at in (0..bytes.len()).step_by(97) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0xff;
        std::fs::write(&hurt, &bytes).unwrap();
        let read = || -> Result<(), Error> {
            let store = Store::open_read(&hurt)?;
            store.trials()?;
            store.spec()?;
            store.baseline()?;
            for n in 0..7 {
                store.epochs(n)?;
                store.slots(n)?;
            }
            store.best("w1").map(|_| ())
        };
        if let Err(error) = read() {
            assert!(matches!(error, Error::Store { .. }), "byte {at}: {error}");
        }
    }
}

#[test]
fn a_store_that_is_not_there_says_how_to_begin() {
    let (folder, file) = folder();
    for result in [Store::open_read(&file), Store::open_existing(&file)] {
        assert!(store_fault(result).contains("begin one with `syntune search`"));
    }
    let nowhere = folder.path().join("no/such/folder/x.db");
    assert!(store_fault(Store::open_or_create(nowhere, &Spec::default())).contains("create the folder"));
    assert!(store_fault(Store::open_or_create(Path::new("/"), &Spec::default())).contains("is not a file"));
    assert_eq!(contents(folder.path()), []);

    std::fs::write(&file, "").unwrap();
    assert!(open(&file).trials().unwrap().is_empty(), "an empty file may become a store");

    std::fs::remove_file(&file).unwrap();
    std::fs::write(folder.path().join("search #1?.db-wal"), "log").unwrap();
    assert!(store_fault(Store::open_or_create(&file, &Spec::default())).contains("restore the file, or remove the log"));
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    // Not even root may make files here.
    let result = Store::open_or_create("/sys/syntune-test.db", &Spec::default());
    assert!(store_fault(result).contains("choose a file in a folder you may write to"));
}

#[test]
fn a_store_in_a_read_only_folder_can_be_read() {
    let (folder, file) = folder();
    drop(made_up_store(&file));
    let mode = |mode| std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(mode)).unwrap();
    mode(0o555);
    let n = Store::open_read(&file).and_then(|store| store.trials()).map(|t| t.len());
    let write = std::fs::write(folder.path().join("probe"), "");
    let search = write.is_err().then(|| Store::open_existing(&file)); // root may write in any case
    mode(0o755);
    assert_eq!(n.unwrap(), 7);
    if let Some(search) = search {
        assert!(store_fault(search).contains("choose a file in a folder you may write to"));
    }
}
