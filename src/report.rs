//! What a person sees of a search: the summary, the list of trials, the page of one trial.
//!
//! Reads the store and computes nothing but comparisons. Tables are for people; JSON has one object a line, each with
//! `"version": 1` and a `"kind"`; CSV has a header. Machine formats give seconds, fractions and plain counts.

mod layout;

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::{Value, json};

pub use layout::{change, count, duration, faster, percent, time};

use crate::error::{Context, Result};
use crate::store::{Baseline, EndToEnd, PRUNED, State, Store, Timing, Trial};
use layout::{Table, csv, indent};

/// The version of the JSON objects.
const VERSION: u32 = 1;

/// What to report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Baseline, front, winner, why it stopped, what was pruned and what failed.
    Summary,
    /// One line for each trial.
    Trials,
    /// The page of one trial, by its number.
    Trial(u32),
}

/// How to write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns for people.
    #[default]
    Table,
    /// One object a line.
    Json,
    /// Comma-separated values with a header.
    Csv,
}

/// A trial that can be compared: one accuracy, one time, and both against the baseline.
#[derive(Clone, Debug)]
pub struct Point {
    pub trial: Trial,
    /// 0 to 1.
    pub accuracy: f64,
    /// The baseline's accuracy after the same training.
    pub baseline_accuracy: Option<f64>,
    pub timing: Timing,
    /// How many times faster than the better baseline; below 1 is slower.
    pub speedup: Option<f64>,
}

/// What the front compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Accuracy after full training, time of the whole model.
    Full,
    /// Accuracy after the short training, time of all slots: before the first finalist is done.
    Short,
}

/// The trials that no other beats in both accuracy and time, fastest first, and what was compared.
///
/// Whole models are compared once one is measured; until then slots are.
pub fn front(trials: &[Trial], baseline: &Baseline) -> (Basis, Vec<Point>) {
    let alive = || trials.iter().filter(|t| !matches!(t.state, State::Pruned | State::Failed));
    let full: Vec<Point> = alive().filter_map(|t| full_point(t, baseline)).collect();
    let (basis, mut points) =
        if full.is_empty() { (Basis::Short, alive().filter_map(|t| short_point(t, baseline)).collect()) } else { (Basis::Full, full) };
    points.sort_by(|a, b| {
        let time = a.timing.median_secs.total_cmp(&b.timing.median_secs);
        time.then(b.accuracy.total_cmp(&a.accuracy)).then(a.trial.number.cmp(&b.trial.number))
    });
    let mut best = f64::NEG_INFINITY;
    points.retain(|p| {
        let better = p.accuracy > best;
        best = best.max(p.accuracy);
        better
    });
    (basis, points)
}

fn full_point(trial: &Trial, baseline: &Baseline) -> Option<Point> {
    let end_to_end = trial.end_to_end?;
    Some(Point {
        trial: trial.clone(),
        accuracy: trial.full_accuracy?,
        baseline_accuracy: baseline.full_accuracy,
        timing: end_to_end.model,
        speedup: ratio(Some(end_to_end.baseline()), Some(end_to_end.model)),
    })
}

fn short_point(trial: &Trial, baseline: &Baseline) -> Option<Point> {
    let timing = trial.slots?;
    Some(Point {
        trial: trial.clone(),
        accuracy: trial.proxy_accuracy?,
        baseline_accuracy: baseline.proxy_accuracy,
        timing,
        speedup: ratio(baseline.slots, Some(timing)),
    })
}

fn ratio(baseline: Option<Timing>, own: Option<Timing>) -> Option<f64> {
    let ratio = baseline?.median_secs / own?.median_secs;
    ratio.is_finite().then_some(ratio)
}

/// Writes one view of a store.
///
/// # Errors
/// [`crate::error::Error::Invalid`] for a trial that is not there (the message lists what is),
/// [`crate::error::Error::Store`] for a store that cannot be read, [`crate::error::Error::Io`] when `out` fails.
pub fn report(store: &Store, view: View, format: Format, out: &mut dyn Write) -> Result<()> {
    let text = match (view, format) {
        (View::Summary, Format::Table) => summary(store)?,
        (View::Summary, Format::Json) => lines(summary_json(store)?),
        (View::Summary, Format::Csv) => summary_csv(store)?,
        (View::Trials, Format::Table) => trials(store)?,
        (View::Trials, Format::Json) => lines(store.trials()?.iter().map(|t| ("trial", json!(t)))),
        (View::Trials, Format::Csv) => trials_csv(store)?,
        (View::Trial(number), Format::Table) => page(store, number)?,
        (View::Trial(number), Format::Json) => lines(page_json(store, number)?),
        (View::Trial(number), Format::Csv) => page_csv(store, number)?,
    };
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context(|| "cannot write the report".into())
}

/// JSON objects, one a line, each with its kind and the version.
fn lines(objects: impl IntoIterator<Item = (&'static str, Value)>) -> String {
    let mut text = String::new();
    for (kind, mut object) in objects {
        if let Value::Object(map) = &mut object {
            map.insert("version".into(), VERSION.into());
            map.insert("kind".into(), kind.into());
        }
        text.push_str(&object.to_string());
        text.push('\n');
    }
    text
}

// The summary.

fn summary(store: &Store) -> Result<String> {
    let (spec, trials, baseline) = (store.spec()?, store.trials()?, store.baseline()?);
    let sessions = store.sessions()?;
    let mut head = Table::plain();
    head.row([
        "search".into(),
        format!(
            "{}: {} (width {}) on {}, {} thread{}, batch {}, seed {}",
            spec.name,
            spec.backbone.name,
            spec.backbone.width,
            spec.data.name,
            spec.target.threads,
            if spec.target.threads == 1 { "" } else { "s" },
            spec.target.batch,
            spec.seed
        ),
    ]);
    head.row([
        "budget".into(),
        format!(
            "{}, at most {:.1} points of accuracy lost, MACs ≤ {:.2}×, parameters ≤ {:.2}×",
            duration(spec.budget.minutes * 60.0),
            spec.budget.accuracy_drop,
            spec.budget.flops_ratio,
            spec.budget.params_ratio
        ),
    ]);
    let n = sessions.len();
    head.row(["spent".into(), format!("{} in {n} session{}", duration(store.spent_secs()?), if n == 1 { "" } else { "s" })]);
    head.row(["trials".into(), states(&trials)]);
    head.row(["stopped".into(), stop(store)?]);
    let mut text = head.print();

    text.push_str("\nbaseline\n");
    text.push_str(&indent(&baseline_table(&baseline).print()));

    let (basis, points) = front(&trials, &baseline);
    let compared = match basis {
        Basis::Full => "accuracy after full training, time of the whole model",
        Basis::Short => "accuracy after the short training, time of all slots",
    };
    text.push_str(&format!("\nfront ({compared})\n"));
    let mut table = Table::new(["trial", "accuracy", "time", "against baseline", "MACs", "parameters", "operator"]).right([0, 4, 5]);
    for p in &points {
        table.row([
            p.trial.number.to_string(),
            accuracy(Some(p.accuracy), p.baseline_accuracy),
            time(p.timing),
            p.speedup.map_or("–".into(), faster),
            p.trial.n_macs.map_or("–".into(), count),
            p.trial.n_params.map_or("–".into(), count),
            p.trial.operator.clone(),
        ]);
    }
    text.push_str(&indent(&if points.is_empty() { "nothing yet\n".into() } else { table.print() }));
    text.push_str(&format!("\nwinner: {}\n", winner(store, &baseline)?));

    for (title, counts) in tallies(store, &trials)? {
        if counts.is_empty() {
            continue;
        }
        text.push_str(&format!("\n{title}\n"));
        let mut table = Table::plain().right([0]);
        counts.iter().for_each(|(reason, n)| table.row([n.to_string(), reason.clone()]));
        text.push_str(&indent(&table.print()));
    }
    Ok(text)
}

fn states(trials: &[Trial]) -> String {
    let mut by_state: BTreeMap<State, usize> = BTreeMap::new();
    trials.iter().for_each(|t| *by_state.entry(t.state).or_default() += 1);
    let parts: Vec<String> = by_state.iter().map(|(state, n)| format!("{n} {state}")).collect();
    if parts.is_empty() { "none yet".into() } else { format!("{}: {}", trials.len(), parts.join(", ")) }
}

fn stop(store: &Store) -> Result<String> {
    Ok(match store.sessions()?.pop() {
        None => "not started".into(),
        Some(last) => last.stop.unwrap_or_else(|| "it runs, or was killed: search again on this store to go on".into()),
    })
}

fn baseline_table(b: &Baseline) -> Table {
    let mut table = Table::plain();
    let known = |parts: Vec<Option<String>>| parts.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let rows = [
        (
            "accuracy",
            known(vec![b.full_accuracy.map(percent), b.proxy_accuracy.map(|a| format!("{} after the short training", percent(a)))]),
        ),
        (
            "slots",
            known(vec![
                b.slots.map(time),
                b.n_macs.map(|n| format!("{} MACs", count(n))),
                b.n_params.map(|n| format!("{} parameters", count(n))),
            ]),
        ),
        ("whole model", known(vec![b.tuned.map(|t| format!("{} tuned", time(t))), b.torch.map(|t| format!("{} in libtorch", time(t)))])),
    ];
    for (name, value) in rows {
        table.row([name.into(), if value.is_empty() { "not measured yet".into() } else { value }]);
    }
    table
}

fn winner(store: &Store, baseline: &Baseline) -> Result<String> {
    let number = match store.winner()? {
        None => return Ok("not chosen yet: the search has not come to its end".into()),
        Some(None) => return Ok("none: no operator was faster within the allowed loss of accuracy".into()),
        Some(Some(number)) => number,
    };
    let trial = store.trial(number)?;
    let mut text = format!("trial {number}");
    if let Some(point) = full_point(&trial, baseline).or_else(|| short_point(&trial, baseline)) {
        let than = match trial.end_to_end {
            Some(end_to_end) => format!("than the {}", better(&end_to_end)),
            None => "than the original slots".into(),
        };
        let speedup = point.speedup.map_or(String::new(), |s| format!(" {} {than},", faster(s)));
        text = format!("{text},{speedup} {}", accuracy(Some(point.accuracy), point.baseline_accuracy));
    }
    Ok(format!("{text}\n  {}", trial.formula.unwrap_or(trial.operator)))
}

/// The better baseline, in words with its time.
fn better(end_to_end: &EndToEnd) -> String {
    let words = if end_to_end.torch == Some(end_to_end.baseline()) { "original in libtorch" } else { "tuned original" };
    format!("{words} ({})", time(end_to_end.baseline()))
}

/// Reasons with how often each was given.
type Tally = Vec<(String, u64)>;

/// Refused actions, pruned trials and failed trials, each counted by reason, most frequent first.
fn tallies(store: &Store, trials: &[Trial]) -> Result<[(&'static str, Tally); 3]> {
    let sorted = |counts: BTreeMap<String, u64>| {
        let mut counts: Tally = counts.into_iter().collect();
        counts.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
        counts
    };
    let tally = |reasons: &mut dyn Iterator<Item = String>| {
        let mut counts = BTreeMap::new();
        reasons.for_each(|reason| *counts.entry(reason).or_default() += 1);
        sorted(counts)
    };
    Ok([
        ("refused actions", sorted(store.counts(PRUNED)?)),
        ("pruned trials", tally(&mut trials.iter().filter_map(|t| t.prune_reason.clone()))),
        ("failed trials", tally(&mut trials.iter().filter_map(|t| Some(cause(t.failure.as_ref()?))))),
    ])
}

/// The name of a failure: its text, its `kind`, or its only key.
fn cause(failure: &Value) -> String {
    let kind = failure.get("kind").and_then(Value::as_str);
    let key = failure.as_object().filter(|map| map.len() == 1).and_then(|map| map.keys().next());
    kind.or(failure.as_str()).or(key.map(String::as_str)).unwrap_or("unnamed").to_string()
}

fn accuracy(own: Option<f64>, baseline: Option<f64>) -> String {
    match (own, baseline) {
        (None, _) => "–".into(),
        (Some(own), None) => percent(own),
        (Some(own), Some(baseline)) => format!("{} ({})", percent(own), change(own - baseline)),
    }
}

fn summary_json(store: &Store) -> Result<Vec<(&'static str, Value)>> {
    let (spec, trials, baseline) = (store.spec()?, store.trials()?, store.baseline()?);
    let (basis, points) = front(&trials, &baseline);
    let stop = store.sessions()?.pop().and_then(|s| s.stop);
    let mut objects = vec![
        ("study", json!({"spec": spec, "spent_secs": store.spent_secs()?, "n_trials": trials.len(), "stop": stop})),
        ("baseline", json!(baseline)),
    ];
    for p in points {
        let mut object = json!(p.trial);
        object["speedup"] = json!(p.speedup);
        object["accuracy_change"] = json!(p.baseline_accuracy.map(|b| p.accuracy - b));
        object["basis"] = json!(if basis == Basis::Full { "full" } else { "short" });
        objects.push(("front", object));
    }
    if let Some(number) = store.winner()? {
        objects.push(("winner", json!({"number": number})));
    }
    for (of, counts) in tallies(store, &trials)? {
        objects.extend(counts.into_iter().map(|(reason, n)| ("count", json!({"of": of, "reason": reason, "n": n}))));
    }
    Ok(objects)
}

fn summary_csv(store: &Store) -> Result<String> {
    let (trials, b) = (store.trials()?, store.baseline()?);
    let (basis, points) = front(&trials, &b);
    let mut text =
        csv(&["role", "trial", "id", "accuracy", "accuracy_change", "secs", "spread_secs", "speedup", "n_macs", "n_params", "operator"]);
    let n = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    let whole = |x: Option<u64>| x.map_or(String::new(), |x| x.to_string());
    let mut baseline = |role: &str, own: Option<f64>, timing: Option<Timing>| {
        let (secs, spread) = (timing.map(|t| t.median_secs), timing.map(|t| t.spread_secs));
        text.push_str(&csv(&[role, "", "", &n(own), "", &n(secs), &n(spread), "", &whole(b.n_macs), &whole(b.n_params), ""]));
    };
    match basis {
        Basis::Full => {
            baseline("baseline-tuned", b.full_accuracy, b.tuned);
            baseline("baseline-torch", b.full_accuracy, b.torch);
        }
        Basis::Short => baseline("baseline-slots", b.proxy_accuracy, b.slots),
    }
    let winner = store.winner()?.flatten();
    for p in points {
        let role = if winner == Some(p.trial.number) { "winner" } else { "front" };
        text.push_str(&csv(&[
            role,
            &p.trial.number.to_string(),
            &p.trial.id,
            &p.accuracy.to_string(),
            &n(p.baseline_accuracy.map(|b| p.accuracy - b)),
            &p.timing.median_secs.to_string(),
            &p.timing.spread_secs.to_string(),
            &n(p.speedup),
            &whole(p.trial.n_macs),
            &whole(p.trial.n_params),
            &p.trial.operator,
        ]));
    }
    Ok(text)
}

// The list of trials.

fn trials(store: &Store) -> Result<String> {
    let (trials, baseline) = (store.trials()?, store.baseline()?);
    if trials.is_empty() {
        return Ok("no trials yet\n".into());
    }
    let mut table =
        Table::new(["trial", "state", "short", "full", "slots", "whole model", "MACs", "parameters", "operator", "why"]).right([0, 6, 7]);
    for t in &trials {
        table.row([
            t.number.to_string(),
            t.state.to_string(),
            accuracy(t.proxy_accuracy, baseline.proxy_accuracy),
            accuracy(t.full_accuracy, baseline.full_accuracy),
            t.slots.map_or("–".into(), time),
            t.end_to_end.map_or("–".into(), |e| time(e.model)),
            t.n_macs.map_or("–".into(), count),
            t.n_params.map_or("–".into(), count),
            t.operator.clone(),
            why(t),
        ]);
    }
    Ok(table.print())
}

fn why(t: &Trial) -> String {
    t.prune_reason.clone().or_else(|| t.failure.as_ref().map(cause)).unwrap_or_default()
}

fn trials_csv(store: &Store) -> Result<String> {
    let mut text = csv(&[
        "trial",
        "id",
        "state",
        "phase",
        "proxy_accuracy",
        "full_accuracy",
        "slots_secs",
        "slots_spread_secs",
        "model_secs",
        "model_spread_secs",
        "speedup",
        "n_macs",
        "n_params",
        "why",
        "operator",
    ]);
    let n = |x: Option<f64>| x.map_or(String::new(), |x| x.to_string());
    let whole = |x: Option<u64>| x.map_or(String::new(), |x| x.to_string());
    for t in store.trials()? {
        let model = t.end_to_end.map(|e| e.model);
        let speedup = t.end_to_end.and_then(|e| ratio(Some(e.baseline()), Some(e.model)));
        text.push_str(&csv(&[
            &t.number.to_string(),
            &t.id,
            &t.state.to_string(),
            &t.phase.map_or(String::new(), |p| p.to_string()),
            &n(t.proxy_accuracy),
            &n(t.full_accuracy),
            &n(t.slots.map(|s| s.median_secs)),
            &n(t.slots.map(|s| s.spread_secs)),
            &n(model.map(|m| m.median_secs)),
            &n(model.map(|m| m.spread_secs)),
            &n(speedup),
            &whole(t.n_macs),
            &whole(t.n_params),
            &why(&t),
            &t.operator,
        ]));
    }
    Ok(text)
}

// The page of one trial.

fn page(store: &Store, number: u32) -> Result<String> {
    let (t, baseline) = (store.trial(number)?, store.baseline()?);
    let mut head = Table::plain();
    let mut line = |name: &str, value: String| head.row([name.into(), value]);
    let phase = t.phase.map_or(String::new(), |phase| format!(", {phase} done"));
    line("trial", format!("{number}: {}{phase}", t.state));
    line("operator", t.operator.clone());
    line("id", t.id.clone());
    if let Some(formula) = &t.formula {
        line("formula", formula.clone());
    }
    let cost = |own: Option<u64>, original: Option<u64>, what: &str| {
        let relative = original.filter(|&n| n > 0).zip(own).map(|(o, n)| format!(", {:.2}× the original's", n as f64 / o as f64));
        own.map_or("–".into(), |n| format!("{}{what}{}", count(n), relative.unwrap_or_default()))
    };
    line("MACs", cost(t.n_macs, baseline.n_macs, &t.n_macs.map_or(String::new(), |n| format!(" ({} FLOPs)", count(2 * n)))));
    line("parameters", cost(t.n_params, baseline.n_params, ""));
    line(
        "accuracy",
        format!(
            "{} after full training, {} after the short training",
            accuracy(t.full_accuracy, baseline.full_accuracy),
            accuracy(t.proxy_accuracy, baseline.proxy_accuracy)
        ),
    );
    if let Some(slots) = t.slots {
        let speedup = ratio(baseline.slots, Some(slots)).map(|s| format!(", {} than the original slots", faster(s)));
        line("slots", format!("{}{}", time(slots), speedup.unwrap_or_default()));
    }
    if let Some(e) = t.end_to_end {
        let speedup = ratio(Some(e.baseline()), Some(e.model)).map(|s| format!(", {} than the {}", faster(s), better(&e)));
        line("whole model", format!("{}{}", time(e.model), speedup.unwrap_or_default()));
        let torch = e.torch.map_or(String::new(), |t| format!(", {} in libtorch", time(t)));
        line("beside it", format!("{} tuned original{torch}", time(e.tuned)));
    }
    if !t.times_secs.is_empty() {
        let spent: Vec<String> = t.times_secs.iter().map(|(phase, secs)| format!("{phase} {}", duration(*secs))).collect();
        line("spent", spent.join(", "));
    }
    if let Some(reason) = &t.prune_reason {
        line("pruned", reason.clone());
    }
    if let Some(failure) = &t.failure {
        line("failed", format!("{}: {failure}", cause(failure)));
    }
    let mut text = head.print();

    let slots = store.slots(number)?;
    if !slots.is_empty() {
        let originals: BTreeMap<String, Timing> = store.slots(crate::store::BASELINE)?.into_iter().map(|s| (s.slot, s.timing)).collect();
        let mut table = Table::new(["slot", "time", "against original", "workload"]);
        for s in slots {
            let speedup = ratio(originals.get(&s.slot).copied(), Some(s.timing)).map_or("–".into(), faster);
            table.row([s.slot, time(s.timing), speedup, s.workload]);
        }
        text.push_str(&format!("\nslots\n{}", indent(&table.print())));
    }
    let epochs = store.epochs(number)?;
    if !epochs.is_empty() {
        let mut table = Table::new(["training", "epoch", "images", "loss", "accuracy", "time"]).right([1, 2, 3]);
        for e in epochs {
            let loss = if e.loss.is_finite() { format!("{:.3}", e.loss) } else { "diverged".into() };
            table.row([e.training.to_string(), e.epoch.to_string(), count(e.n_seen), loss, percent(e.accuracy), duration(e.secs)]);
        }
        text.push_str(&format!("\nepochs\n{}", indent(&table.print())));
    }
    if let Some(loops) = &t.loops {
        text.push_str(&format!("\nloops\n{}", indent(loops)));
    }
    Ok(text)
}

fn page_json(store: &Store, number: u32) -> Result<Vec<(&'static str, Value)>> {
    let mut objects = vec![("trial", json!(store.trial(number)?))];
    for slot in store.slots(number)? {
        objects.push(("slot", with_trial(json!(slot), number)));
    }
    for epoch in store.epochs(number)? {
        objects.push(("epoch", with_trial(json!(epoch), number)));
    }
    Ok(objects)
}

fn with_trial(mut object: Value, number: u32) -> Value {
    object["trial"] = number.into();
    object
}

/// The trial's own values by name, its slots' seconds, its epochs' accuracies.
fn page_csv(store: &Store, number: u32) -> Result<String> {
    let trial = json!(store.trial(number)?);
    let mut text = csv(&["kind", "name", "value", "spread"]);
    for (name, value) in trial.as_object().into_iter().flatten() {
        let timing = value.get("median_secs").map(|secs| (secs.to_string(), value["spread_secs"].to_string()));
        let (value, spread) = timing.unwrap_or_else(|| match value {
            Value::Null => (String::new(), String::new()),
            Value::String(s) => (s.clone(), String::new()),
            other => (other.to_string(), String::new()),
        });
        text.push_str(&csv(&["trial", name, &value, &spread]));
    }
    for s in store.slots(number)? {
        text.push_str(&csv(&["slot", &s.slot, &s.timing.median_secs.to_string(), &s.timing.spread_secs.to_string()]));
    }
    for e in store.epochs(number)? {
        text.push_str(&csv(&["epoch", &format!("{} {}", e.training, e.epoch), &e.accuracy.to_string(), ""]));
    }
    Ok(text)
}
