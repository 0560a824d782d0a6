//! The program as a person runs it: what goes to stdout, what to stderr, and how it ends.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use syntune::spec::Spec;
use syntune::store::{Proposal, Store};
use syntune::synth::library;

fn syntune(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntune"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// stdout of a run that must succeed.
fn done(arguments: &[&str], input: &str) -> String {
    let output = syntune(arguments, input);
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// stderr of a run that must end with code 2 and say nothing on stdout.
fn refused(arguments: &[&str]) -> String {
    let output = syntune(arguments, "");
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn an_operator_is_its_name_its_text_a_file_or_standard_input() {
    let text = "y[n:N, o:Co, h:H, w:W] = sum[c:Ci] x[n, c, shift(h), w] * w1[o, c]";
    let expected = done(&["lower", text, "--to", "formula"], "");
    assert!(expected.contains("(h+1)%28"), "{expected}");
    assert_eq!(done(&["lower", "-", "--to", "formula"], text), expected);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("# found yesterday\n\n{text}\n")).unwrap();
    assert_eq!(done(&["lower", file.path().to_str().unwrap(), "--to", "formula"], ""), expected);
    assert!(done(&["lower", "conv", "--shape", "N=1,Ci=2,Co=3,H=4,W=5,k=3"], "").contains("weight w1[3, 2, 3, 3]"));
    assert!(done(&["lower", "separable", "--to", "torch-py"], "").contains("class "));
}

#[test]
fn a_spec_is_shown_with_its_slots_and_gives_operators() {
    let spec = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/demo.toml");
    let shown = done(&["check", spec], "");
    assert!(shown.contains("[budget]") && shown.contains("# slot block1.conv1: "), "{shown}");
    assert!(shown.ends_with("more than 100000 states\n"), "{shown}");
    shown.parse::<toml::Table>().expect("what is shown is a spec");
    let lines = done(&["synth", spec, "-n", "5", "--format", "json"], "");
    assert_eq!(lines.lines().count(), 5);
    for line in lines.lines() {
        let row: serde_json::Value = serde_json::from_str(line).unwrap();
        let again = done(&["lower", row["text"].as_str().unwrap(), "--to", "text"], "");
        assert!(again.starts_with(row["id"].as_str().unwrap()), "{again}");
    }
    assert_eq!(lines, done(&["synth", spec, "-n", "5", "--format", "json"], ""), "the same seed gives the same operators");
}

#[test]
fn a_small_space_is_counted_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("s.toml");
    std::fs::write(&spec, "[operator]\nmax_depth = 3\n").unwrap();
    let output = syntune(&["check", spec.to_str().unwrap(), "--stats"], "");
    let shown = String::from_utf8(output.stdout).unwrap();
    let mut rows = shown.lines().skip_while(|l| !l.starts_with("# actions")).map(|l| l.split_whitespace().collect::<Vec<_>>());
    assert_eq!(rows.next().unwrap(), ["#", "actions", "states", "offered", "taken", "operators", "new"]);
    let rows: Vec<_> = rows.collect();
    assert_eq!(rows[0][..3], ["#", "0", "1"]);
    assert_eq!(rows.len(), 5, "{shown}");
    let found = done(&["synth", spec.to_str().unwrap(), "-n", "2"], "").lines().count().to_string();
    assert_eq!(rows[3][5..], [&found, &found], "{shown}");
    assert_eq!(rows[4].join(" "), format!("# {found} operators in all"));
    // every action offered is taken or refused by a rule
    let sum = |column: usize| rows[..4].iter().map(|r| r[column].parse::<u64>().unwrap()).sum::<u64>();
    let refusals = String::from_utf8(output.stderr).unwrap();
    let counts = refusals.lines().map(|l| l.split_whitespace().next().unwrap().parse::<u64>().unwrap()).sum::<u64>();
    assert!(refusals.contains("too far from the data's shape") && counts >= sum(3) - sum(4), "{refusals}");
}

#[test]
fn a_spec_that_no_operator_fits_ends_with_the_constraint_that_kills_its_space() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("s.toml");
    let shallow = "slots.layers = [\"block3.conv1\"]\n[operator]\nmax_depth = 5\ncoefficients = { k = 3 }\n[budget]\n";
    for (text, parts) in [
        ("[operator]\nmax_depth = 1\n".to_string(), vec!["s.toml:2", "operator.max_depth", "too far from the data", "at least 3"]),
        (
            "[operator]\nmax_depth = 2\ncoefficients = { k = 3, g = 5 }\n".into(),
            vec!["s.toml:2", "operator.max_depth", "no exchange between places", "divide no axis in every slot: g = 5", "at least 3"],
        ),
        (format!("{shallow}flops_ratio = 0.5\n"), vec!["s.toml:6", "budget.flops_ratio", "of all 42 operators", "at least 0.8579"]),
        (format!("{shallow}params_ratio = 1e-6\n"), vec!["s.toml:6", "budget.params_ratio", "of all 42 operators", "at least 0.0003"]),
        (
            format!("{shallow}flops_ratio = 0.859\nparams_ratio = 0.005\n"),
            vec!["s.toml:7", "budget.params_ratio", "contradicts flops_ratio = 0.859", "at least 0.0053", "at least 0.8594"],
        ),
    ] {
        std::fs::write(&spec, &text).unwrap();
        for verb in ["check", "synth"] {
            let error = refused(&[verb, spec.to_str().unwrap()]);
            for part in &parts {
                assert!(error.contains(part), "{part:?} is missing in: {error}");
            }
        }
    }
    // the way out that is named leads out
    std::fs::write(&spec, format!("{shallow}flops_ratio = 0.859\nparams_ratio = 0.0053\n")).unwrap();
    assert_eq!(done(&["synth", spec.to_str().unwrap(), "-n", "1"], "").lines().count(), 1);
}

#[test]
fn bad_input_says_what_to_do_and_ends_with_code_2() {
    let folder = tempfile::tempdir().unwrap();
    let spec = folder.path().join("s.toml");
    let with = |text: &str| {
        std::fs::write(&spec, text).unwrap();
        refused(&["check", spec.to_str().unwrap()])
    };
    for (error, parts) in [
        (refused(&["lower", "y[n:N] = x[n"]), vec!["column 13", "expected ',' or ']'"]),
        (refused(&["lower", "konv"]), vec!["no operator is called", "conv1x1"]),
        (refused(&["lower", "grouped", "--shape", "N=1,Ci=6,Co=8,H=4,W=4,k=3,g=4"]), vec!["Ci/g", "3/2", "g=4"]),
        (refused(&["lower", "conv", "--shape", "N=1"]), vec!["has no value", "N=1"]),
        (refused(&["lower", "conv", "--shape", "N=zero"]), vec!["is no binding", "NAME=NUMBER"]),
        (refused(&["tune", "conv", "--epilogue", "softmax"]), vec!["--epilogue", "relu"]),
        (refused(&["tune", "conv", "--strategy", "luck"]), vec!["--strategy", "evolutionary"]),
        (refused(&["tune", "conv", "--trials", "0"]), vec!["at least 1"]),
        (refused(&["tune", "conv", "--minutes", "0"]), vec!["--minutes", "more than 0"]),
        (refused(&["tune", "resnet-small", "--trials", "3"]), vec!["distinct kernels", "at least as many"]),
        (refused(&["tune", "resnet-small", "--shape", "N=1"]), vec!["is a model", "leave out --shape"]),
        (refused(&["tune", "resnet-big"]), vec!["no operator is called"]),
        (refused(&["tune"]), vec!["give an operator", "--spec FILE", "--store FILE"]),
        (refused(&["tune", "--spec", "nowhere.toml"]), vec!["nowhere.toml", "examples/demo.toml"]),
        (refused(&["tune", "--store", "nowhere.db"]), vec!["--trial"]),
        (refused(&["tune", "--store", "nowhere.db", "--trial", "1"]), vec!["nowhere.db", "no such store"]),
        (refused(&["report", "nowhere.db"]), vec!["nowhere.db", "no such store"]),
        (refused(&["check", "nowhere.toml"]), vec!["nowhere.toml"]),
        (refused(&["fly"]), vec!["fly"]),
        (with("[slots]\nlayers = [\"stem\"]\n"), vec!["s.toml:2", "slots.layers", "block1.conv1"]),
        (with("[operator]\nstart = [\"pooled\"]\n"), vec!["s.toml:2", "operator.start", "pooled", "7/2"]),
        (with("[budget]\nminutes = 0\n"), vec!["s.toml:2", "minutes"]),
        (with("[budget]\nminuets = 3\n"), vec!["s.toml:2", "minuets", "minutes"]),
    ] {
        for part in parts {
            assert!(error.contains(part), "{part:?} is missing in: {error}");
        }
    }
}

/// A store with one trial: a projection in all twelve slots of a narrow transformer.
fn store_with_a_trial(folder: &Path) -> (String, String) {
    let file = folder.join("demo.db");
    let text = "[backbone]\nname = \"transformer-small\"\nwidth = 16\n[tune]\nstrategy = \"random\"\n";
    let store = Store::open_or_create(&file, &Spec::parse(text, Path::new("s.toml")).unwrap()).unwrap();
    let operator = library::resolve("linear").unwrap();
    let id = operator.id().to_string();
    let proposal = Proposal { operator: operator.to_string(), id: id.clone(), formula: None, n_macs: None, n_params: None };
    assert_eq!(store.propose(&proposal).unwrap().unwrap().number, 1);
    (file.to_str().unwrap().to_string(), id)
}

#[test]
fn a_trial_to_tune_is_told_from_those_that_there_are() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = store_with_a_trial(folder.path());
    let error = refused(&["tune", "--store", &store, "--trial", "2"]);
    assert!(error.contains("no trial 2") && error.contains("there are 1"), "{error}");
    let error = refused(&["tune", "--store", &store, "--trial", "feedfeedfeedfeed"]);
    assert!(error.contains("no trial \"feedfeedfeedfeed\"") && error.contains("--trials` lists"), "{error}");
    assert!(refused(&["tune", &format!("{store}#7")]).contains("no trial 7"));
}

#[cfg(feature = "tvm")]
#[test]
fn an_operator_is_tuned_with_shares_of_the_peak() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().to_str().unwrap();
    let conv = ["tune", "conv", "--shape", "N=1,Ci=8,Co=16,H=6,W=6,k=3", "--format", "json", "--database", database];
    let output = syntune(&[&conv[..], &["--trials", "1"]].concat(), "");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{talk}");
    let row: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((row["version"].as_i64(), row["outcome"]["n_measured"].as_i64()), (Some(1), Some(1)));
    let secs = row["outcome"]["median_secs"].as_f64().unwrap();
    let gflops = row["gflops"].as_f64().unwrap();
    assert!((gflops * 1e9 * secs / (2.0 * 8.0 * 16.0 * 36.0 * 9.0) - 1.0).abs() < 1e-6, "{row}");
    assert!(gflops < row["peak_gflops"].as_f64().unwrap() * 1.2, "{row}");
    // without a terminal plain lines, few of them, the last with all programs
    assert!(!talk.contains('\r') && talk.lines().count() <= 5, "{talk}");
    let last = talk.lines().last().unwrap();
    assert!(last.starts_with("1/1 programs; best ") && last.contains(" GFLOP/s (") && last.ends_with(" % of peak)"), "{talk}");
    // what was recorded is tried first
    let again = syntune(&[&conv[..], &["--trials", "1", "--seed", "7"]].concat(), "");
    let again_row: serde_json::Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again_row["outcome"]["config"], row["outcome"]["config"]);
    assert!(String::from_utf8(again.stderr).unwrap().contains("1 recorded programs are tried first, 0 records"));
}

#[cfg(feature = "tvm")]
#[test]
fn a_search_that_is_killed_leaves_its_bests() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().to_str().unwrap();
    let conv = ["tune", "conv", "--shape", "N=1,Ci=8,Co=16,H=6,W=6,k=3", "--database", database];
    let mut child = Command::new(env!("CARGO_BIN_EXE_syntune"))
        .args([&conv[..], &["--trials", "5000"]].concat())
        .env("TMPDIR", folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let unfinished = || {
        let entries = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
        entries.filter(|e| e.to_string_lossy().contains("unfinished-")).map(|e| e.join("database_tuning_record.json")).next()
    };
    let is_whole = |records: &std::path::PathBuf| std::fs::read_to_string(records).is_ok_and(|text| text.ends_with('\n'));
    while !unfinished().is_some_and(|records| is_whole(&records)) {
        assert_eq!(child.try_wait().unwrap(), None, "it ended before it recorded anything");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    // in the middle of a line
    let records = unfinished().unwrap();
    let kept = std::fs::read_to_string(&records).unwrap();
    std::fs::write(&records, kept + "[0, [[[\"GetSBlock\"").unwrap();
    let again = syntune(&[&conv[..], &["--trials", "1"]].concat(), "");
    let talk = String::from_utf8(again.stderr).unwrap();
    assert_eq!(again.status.code(), Some(0), "{talk}");
    assert!(talk.contains(" recorded programs are tried first, 0 records"), "{talk}");
    // one that ends leaves its best alone, measured with care
    assert_eq!(unfinished(), None);
    assert_eq!(std::fs::read_to_string(folder.path().join("database_tuning_record.json")).unwrap().lines().count(), 1);
}

#[cfg(feature = "tvm")]
#[test]
fn workloads_of_stock_tvm_are_tuned() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/modules/database_workload.json");
    let output = syntune(&["tune", file, "--trials", "4", "--format", "json"], "");
    let talk = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{talk}");
    assert!(talk.contains("workload 1 is left out: its parameter 1 is not of float32"), "{talk}");
    let output = String::from_utf8(output.stdout).unwrap();
    let rows: Vec<serde_json::Value> = output.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let names: Vec<_> = rows.iter().filter_map(|row| row["kernel"].as_str()).collect();
    assert_eq!((names, rows[2]["n_measured"].as_i64()), (vec!["workload 2", "workload 3"], Some(4)), "{output}");
    assert!(rows[0]["gflops"].as_f64().unwrap() > 0.0, "{output}");
    let refused = |what: &str| refused(&["tune", what]);
    assert!(refused(&format!("{file}#1")).contains("cannot be tuned"));
    assert!(refused(&format!("{file}#4")).contains("from 1 to 3"));
    assert!(refused("missing.json").contains("missing.json"));
}

#[cfg(feature = "tvm")]
#[test]
fn the_slots_of_a_trial_are_tuned_in_one_budget() {
    let folder = tempfile::tempdir().unwrap();
    let (store, id) = store_with_a_trial(folder.path());
    let database = folder.path().join("tuned");
    let both = ["--database", database.to_str().unwrap(), "--format", "json", "--trials", "9"];
    let output = done(&[&["tune", "--store", &store, "--trial", &id], &both[..]].concat(), "");
    let mut rows: Vec<serde_json::Value> = output.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let all = rows.pop().unwrap();
    assert_eq!((all["model"].as_str(), all["n_measured"].as_i64()), (Some("the slots of trial 1"), Some(9)), "{all}");
    assert!(all["calibration"]["gflops"].as_f64().unwrap() > 0.0, "{all}");
    let sum = |of: &dyn Fn(&serde_json::Value) -> f64| rows.iter().map(of).sum::<f64>();
    assert_eq!(sum(&|r| r["count"].as_f64().unwrap()), 12.0, "{output}");
    assert_eq!(sum(&|r| r["outcome"]["n_measured"].as_f64().unwrap()), 9.0);
    assert!((1..12).contains(&rows.len()), "alike kernels are tuned once: {output}");
    let secs = sum(&|r| r["count"].as_f64().unwrap() * r["outcome"]["median_secs"].as_f64().unwrap());
    assert!((secs / all["secs"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{output}");
    let records = std::fs::read_to_string(database.join("database_tuning_record.json")).unwrap();
    assert_eq!(records.lines().count(), rows.len());
    let output = done(&["tune", &format!("{store}#1"), "--trials", "5", "--format", "csv"], "");
    assert_eq!(output.lines().count(), 1 + rows.len(), "{output}");
    assert!(output.starts_with("kernel,count,median_secs,"), "{output}");
}
