//! MetaSchedule's own search, driven from here, and its databases read: every program is found again as a config.

use crate::util::conv2d;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use syntune::lower::te::module;
use syntune::lower::{Epilogue, channels_last};
use syntune::tvm::evolve::{Evolution, Settings};
use syntune::tvm::schedule::{Database, Workload};
use syntune::tvm::{self, ffi, structural_hash};

fn workload() -> Workload {
    let nest = conv2d(8, 16, 6, 6, 3).with_epilogue(Epilogue { bias: true, relu: true, ..Epilogue::default() }, 1);
    Workload::new(module(&channels_last(&nest).0).unwrap(), tvm::target::parse("host", 1).unwrap()).unwrap()
}

#[test]
fn records_of_a_database_are_configs_of_the_spaces_again() {
    let folder = tempfile::tempdir().unwrap();
    let workload = workload();
    let mut expected = Vec::new();
    let database = Database::open(folder.path()).unwrap();
    for design in 0..workload.n_designs() {
        for seed in 1..4 {
            let Ok(scheduled) = workload.schedule(design, None, seed) else { continue };
            let hash = structural_hash(&scheduled.module).unwrap();
            let secs = 1e-3 * (expected.len() + 1) as f64;
            database.record(&workload, &scheduled, &[secs, secs]).unwrap();
            expected.push((design, scheduled.choices, hash, secs));
        }
    }
    assert!(expected.len() > 6);
    // a trace that is none of a design's
    let mut foreign = workload.schedule(0, None, 1).unwrap();
    let bare = syntune::call!("s_tir.schedule.TracedSchedule", workload.module, 1i64, 0i64, 2i64, true).unwrap();
    let root = syntune::call!("s_tir.schedule.ScheduleGetSBlock", bare, ffi::text("root"), ffi::text("main")).unwrap();
    let block = ffi::items(&syntune::call!("s_tir.schedule.ScheduleGetChildBlocks", bare, root).unwrap()).unwrap().remove(0);
    let first = ffi::items(&syntune::call!("s_tir.schedule.ScheduleGetLoops", bare, block).unwrap()).unwrap().remove(0);
    syntune::call!("s_tir.schedule.ScheduleUnroll", bare, first).unwrap();
    foreign.trace = syntune::call!("s_tir.schedule.ScheduleGetTrace", bare).unwrap();
    database.record(&workload, &foreign, &[1.0]).unwrap();
    let (records, n_foreign) = Database::open(folder.path()).unwrap().records(&workload, 1000).unwrap();
    assert_eq!((records.len(), n_foreign), (expected.len(), 1));
    for (record, (design, choices, hash, secs)) in records.iter().zip(&expected) {
        assert_eq!(record.hash, *hash);
        assert!((record.secs - secs).abs() < 1e-9);
        // two designs may make one program
        let again = workload.schedule(record.design, Some(&record.choices), 1).unwrap();
        assert_eq!(structural_hash(&again.module).unwrap(), *hash);
        assert!(record.design != *design || record.choices == *choices);
    }
    let other = Workload::new(module(&conv2d(4, 4, 5, 5, 3)).unwrap(), tvm::target::parse("host", 1).unwrap()).unwrap();
    assert_eq!(Database::open(folder.path()).unwrap().records(&other, 1000).unwrap().0.len(), 0);
}

#[test]
fn metaschedules_search_asks_for_programs_of_the_spaces_and_learns_from_them() {
    for with_tiles in [false, true] {
        let workload = workload();
        let n_predicted = Arc::new(AtomicUsize::new(0));
        let n = n_predicted.clone();
        let predict = move |programs: &[Vec<Vec<f64>>]| {
            n.fetch_add(programs.len(), Ordering::Relaxed);
            assert!(programs.iter().all(|p| !p.is_empty() && p.iter().all(|row| row.len() == 164)));
            programs.iter().map(|p| p.iter().map(|row| row[0]).sum()).collect()
        };
        let settings = Settings { with_tiles, n_trials: 8, population: 24, per_round: 4, n_threads: 1, seed: 3 };
        let mut search = Evolution::new(workload, settings, Box::new(predict)).unwrap();
        let mut seen = BTreeSet::new();
        loop {
            let asked = search.ask().unwrap();
            if asked.is_empty() {
                break;
            }
            for a in asked {
                assert!(seen.insert(a.hash), "asked twice");
                assert!(with_tiles || !search.workload().is_ours(a.design));
                let scheduled = search.workload().schedule(a.design, Some(&a.choices), 1).unwrap();
                assert_eq!(structural_hash(&scheduled.module).unwrap(), a.hash);
                let features = search.tell(a.design, &a.choices, &[1e-3]).unwrap();
                assert!(features.iter().all(|row| row.len() == 164));
            }
        }
        assert!(seen.len() > 4 && seen.len() <= 8, "{}", seen.len());
        assert!(n_predicted.load(Ordering::Relaxed) >= 24);
    }
}
