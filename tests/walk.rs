//! The whole walk for real, on pictures small enough for a test: search, interrupt, go on, report, use what was found.

use crate::train::write_fashion;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use syntune::store::{State, Store};

const SPEC: &str = r#"
seed = 1
[backbone]
width = 4
[operator]
coefficients = { k = 3, g = 2, s = 2 }
start = ["conv-w"]
[data]
path = "pictures"
[budget]
minutes = 30
trials = 3
accuracy_drop = 90.0
[train]
epochs = 1
proxy_samples = 256
batch = 32
n_finalists = 1
[tune]
trials = 3
quick_trials = 2
"#;

#[test]
fn a_search_is_interrupted_goes_on_and_ends_with_measured_models() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("pictures")).unwrap();
    write_fashion(&folder.path().join("pictures"), 512, 128);
    std::fs::write(folder.path().join("s.toml"), SPEC).unwrap();
    let temporary = folder.path().join("tmp");
    std::fs::create_dir(&temporary).unwrap();
    let syntune = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_syntune"));
        command.args(arguments).current_dir(folder.path()).env("TMPDIR", &temporary).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let search = ["search", "s.toml", "--store", "s.db", "--format", "json"];
    let first = syntune(&search).spawn().unwrap();
    let file = folder.path().join("s.db");
    let measured = || Store::open_read(&file).and_then(|s| s.n_measurements()).unwrap_or(0);
    let begin = Instant::now();
    while measured() < 3 {
        assert!(begin.elapsed() < Duration::from_secs(300), "nothing is measured");
        std::thread::sleep(Duration::from_millis(20));
    }
    Command::new("kill").args(["-INT", &first.id().to_string()]).status().unwrap();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = measured();
    assert!(kept >= 3);
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "temporary files are left");

    let output = syntune(&search).output().unwrap();
    let talk = String::from_utf8_lossy(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 1)), "{talk}");
    assert_eq!(std::fs::read_dir(&temporary).unwrap().count(), 0, "temporary files are left");
    let store = Store::open_read(&file).unwrap();
    let configs = |w: &str| store.measurements(w).unwrap().into_iter().map(|m| m.config).collect::<Vec<_>>();
    for slot in store.slots(syntune::store::BASELINE).unwrap() {
        let all = configs(&slot.workload);
        let mut distinct = all.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(all.len(), distinct.len(), "a schedule was measured twice");
    }
    let trials = store.trials().unwrap();
    assert_eq!(trials.len(), 3, "{talk}");
    let finalist = trials.iter().find(|t| t.end_to_end.is_some()).expect("one finalist was measured end to end");
    let end_to_end = finalist.end_to_end.unwrap();
    assert!(end_to_end.model.median_secs > 0.0 && end_to_end.tuned.median_secs > 0.0 && end_to_end.torch.unwrap().median_secs > 0.0);
    assert_eq!(finalist.state, State::Complete);
    let error: f64 = store.fact("largest relative difference from libtorch").unwrap().expect("answers were compared with libtorch's");
    assert!(error < 1e-3);
    assert!(folder.path().join("s.files").join(format!("trial-{}.safetensors", finalist.number)).exists());
    let database = std::fs::read_to_string(folder.path().join("s.files/metaschedule/database_tuning_record.json")).unwrap();
    assert!(database.lines().count() >= 8);

    let page = syntune(&["report", "s.db", "--trial", &finalist.number.to_string()]).output().unwrap();
    assert!(page.status.success() && String::from_utf8_lossy(&page.stdout).contains(&finalist.operator));
    let again = syntune(&["lower", &format!("s.db#{}", finalist.number), "--to", "text"]).output().unwrap();
    assert!(String::from_utf8_lossy(&again.stdout).starts_with(&finalist.id));
}
