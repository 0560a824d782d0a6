use insta::assert_snapshot;
use syntune::error::Error;
use syntune::report::{Basis, Format, View, change, count, duration, faster, front, percent, report, time};
use syntune::spec::Spec;
use syntune::store::{Baseline, Store, Timing};

use crate::util::{made_up_store, timing};

/// A report of a made-up search that took 12.9 minutes.
fn print(view: View, format: Format) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("search.db");
    drop(made_up_store(&file));
    rusqlite::Connection::open(&file).unwrap().execute("UPDATE session SET secs = 774", []).unwrap();
    let mut out = Vec::new();
    report(&Store::open_read(&file).unwrap(), view, format, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn the_summary_for_people() {
    assert_snapshot!(print(View::Summary, Format::Table));
}

#[test]
fn the_summary_for_programs() {
    assert_snapshot!("summary_json", print(View::Summary, Format::Json));
    assert_snapshot!("summary_csv", print(View::Summary, Format::Csv));
}

#[test]
fn the_trials() {
    assert_snapshot!("trials_table", print(View::Trials, Format::Table));
    assert_snapshot!("trials_csv", print(View::Trials, Format::Csv));
}

#[test]
fn the_page_of_one_trial() {
    assert_snapshot!("page_table", print(View::Trial(1), Format::Table));
    assert_snapshot!("page_csv", print(View::Trial(1), Format::Csv));
    assert_snapshot!("page_failed", print(View::Trial(6), Format::Table));
    assert_snapshot!("page_pruned", print(View::Trial(4), Format::Table));
}

#[test]
fn every_json_line_is_an_object_with_version_and_kind() {
    for view in [View::Summary, View::Trials, View::Trial(1), View::Trial(6)] {
        let text = print(view, Format::Json);
        assert!(!text.is_empty());
        for line in text.lines() {
            let object: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(object["version"], 1, "{line}");
            assert!(object["kind"].is_string(), "{line}");
        }
    }
}

#[test]
fn every_csv_line_has_as_many_cells_as_the_header() {
    // The made-up operator `share, "3x3"` holds a comma and quotes.
    let cells = |line: &str| {
        let mut quoted = false;
        1 + line
            .chars()
            .filter(|&c| {
                quoted ^= c == '"';
                c == ',' && !quoted
            })
            .count()
    };
    for view in [View::Summary, View::Trials] {
        let text = print(view, Format::Csv);
        let n = cells(text.lines().next().unwrap());
        assert!(text.lines().count() > 2 && text.lines().all(|line| cells(line) == n), "{text}");
    }
}

#[test]
fn a_search_that_has_only_begun_can_be_reported() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open_or_create(folder.path().join("new.db"), &Spec::default()).unwrap();
    let mut out = Vec::new();
    report(&store, View::Summary, Format::Table, &mut out).unwrap();
    assert_snapshot!(String::from_utf8(out).unwrap());
    for view in [View::Summary, View::Trials] {
        for format in [Format::Table, Format::Json, Format::Csv] {
            report(&store, view, format, &mut Vec::new()).unwrap();
        }
    }
}

#[test]
fn a_trial_that_is_not_there_lists_what_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = made_up_store(&folder.path().join("search.db"));
    let result = report(&store, View::Trial(70), Format::Table, &mut Vec::new());
    assert!(matches!(result, Err(Error::Invalid(m)) if m.ends_with("has no trial 70; there are 1 to 7")));
}

#[test]
fn the_front_holds_what_nothing_beats() {
    let folder = tempfile::tempdir().unwrap();
    let store = made_up_store(&folder.path().join("search.db"));
    let baseline = store.baseline().unwrap();
    let numbers = |trials: &[_]| {
        let (basis, points) = front(trials, &baseline);
        (basis, points.iter().map(|p| p.trial.number).collect::<Vec<_>>())
    };
    let mut trials = store.trials().unwrap();
    assert_eq!(numbers(&trials), (Basis::Full, vec![2, 1]), "3 is slower and worse than 1; 4 is pruned");
    trials.iter_mut().for_each(|t| t.end_to_end = None);
    assert_eq!(numbers(&trials), (Basis::Short, vec![2, 1]));
    assert_eq!(front(&[], &Baseline::default()).1.len(), 0);
}

#[test]
fn numbers_carry_units_and_spread() {
    let of = |median_secs: f64, spread_secs| time(Timing { median_secs, spread_secs, ..timing(1.0) });
    assert_eq!(of(1.84e-3, 0.03e-3), "1.84 ms ± 0.03");
    assert_eq!(of(0.0421, 0.001), "42.1 ms ± 1.0");
    assert_eq!(of(3.4e-7, 1e-8), "0.34 µs ± 0.01");
    assert_eq!(of(12.0, 0.5), "12.0 s ± 0.5");
    assert_eq!((percent(0.913).as_str(), percent(f64::NAN).as_str()), ("91.3 %", "–"));
    assert_eq!([-0.004, 0.003, -0.0001].map(change), ["−0.4", "+0.3", "0.0"]);
    assert_eq!([1.62, 1.0, 0.5].map(faster), ["1.62× faster", "1.00× faster", "2.00× slower"]);
    assert_eq!([999, 1_000, 268_000, 30_400_000, 2_500_000_000].map(count), ["999", "1.00 k", "268 k", "30.4 M", "2.50 G"]);
    assert_eq!([3.5, 45.0, 774.0, 11_520.0].map(duration), ["3.5 s", "45 s", "12.9 min", "3.2 h"]);
}
