//! `tune`: one operator, the slots of a trial, a whole model or modules of TVM's; its progress, and what came out.

use super::database::{keep, recorded, unfinished, whole_lines};
use super::{Exit, SHAPE, epilogue, interruptible, put, read_operator, slots_of};
use crate::error::{Error, Result, invalid};
use crate::lower;
use crate::report::{self, Format};
use crate::search::Slots;
use crate::search::model::Call;
use crate::spec::{Network, Spec, Strategy};
use crate::store::{Store, Timing};
use crate::synth::{Binding, Operator};
use crate::tune::peak::{Calibration, calibrate};
use crate::tune::tasks::{Kernel, tune_model};
use crate::tune::{Best, Computation, Effort, Limits, LocalRunner, Measurement, Options, Outcome, StopReason, Task};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Instant;

/// Programs measured of each kernel, on average, where `--trials` is not given.
const TRIALS_EACH: usize = 64;
/// The last word on each of several kernels, as in a search's finals: a second for each of three would take longer than most searches.
const SETTLE: Effort = Effort { sample_secs: 0.004, min_samples: 9, max_samples: 41, budget_secs: 0.25, hopeless_secs: f64::MAX };
/// Where stderr is no terminal, faster programs are told at most this often, and the state at least so often.
const TELL_SECS: f64 = 1.0;
const SILENT_SECS: f64 = 15.0;

#[derive(Args)]
pub(super) struct TuneArgs {
    /// An operator: a name (see `synth --library`), a text `y[…] = …`, a file or `-`; a trial `STORE#NUMBER`, whose slots are tuned
    /// (its operator alone with `--shape`); a model: resnet-small, resnet-strided, transformer-small; or a file of TVM's: the
    /// `database_workload.json` of a MetaSchedule database (one workload of it: `FILE#NUMBER`, from 1), or a module's JSON
    what: Option<String>,
    /// Values of the operator's variables [default: N=1,Ci=64,Co=64,C=64,H=28,W=28,L=16,k=3,g=4,s=2,r=2]
    #[arg(long, value_name = "NAME=N,…", conflicts_with_all = ["spec", "store"])]
    shape: Option<String>,
    /// The whole model of this spec, with the operator in its slots where one is given
    #[arg(long, conflicts_with = "store")]
    spec: Option<PathBuf>,
    /// The slots of a trial of this store
    #[arg(long, requires = "trial", conflicts_with = "what")]
    store: Option<PathBuf>,
    /// The trial's number or its operator's id
    #[arg(long, requires = "store")]
    trial: Option<String>,
    /// `host`, or a TVM target such as "llvm -mcpu=skylake-avx512" [default: the spec's; host]
    #[arg(long)]
    target: Option<String>,
    /// Threads of the kernels [default: the spec's; 1]
    #[arg(long)]
    threads: Option<usize>,
    /// Programs to measure in all [default: 64 for each distinct kernel]
    #[arg(long)]
    trials: Option<usize>,
    /// Stop proposing after so many minutes
    #[arg(long)]
    minutes: Option<f64>,
    /// How schedules are proposed [default: the spec's]
    #[arg(long)]
    strategy: Option<String>,
    /// End a kernel's search after this many programs in a row that gain less than 1 %
    #[arg(long)]
    patience: Option<usize>,
    /// [default: the spec's; 0]
    #[arg(long)]
    seed: Option<u64>,
    /// What follows the operator in its model, fused into the kernel: any of scale,bias,residual,relu
    #[arg(long, default_value = "", value_name = "PART,…", conflicts_with_all = ["spec", "store"])]
    epilogue: String,
    /// Store the operator's images as [n, c, h, w] and its weights as written; without it channels come last and weights are packed,
    /// which schedules like better
    #[arg(long, conflicts_with_all = ["spec", "store"])]
    channels_first: bool,
    /// A MetaSchedule JSON database in this folder: its records of these kernels are tried first, the best is appended
    #[arg(long)]
    database: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A kernel to tune, and how often its model runs it.
struct Asked {
    name: String,
    computation: Computation,
    count: usize,
}

/// What is tuned.
enum Subject {
    One {
        operator: Operator,
        binding: Binding,
    },
    /// A model, or its slots only.
    Model {
        name: String,
    },
}

/// A request as it is understood.
struct Request {
    subject: Subject,
    kernels: Vec<Asked>,
    /// Whose target, strategy and seed hold where the command line says nothing.
    spec: Spec,
}

impl TuneArgs {
    fn read(&self, runner: &LocalRunner) -> Result<Request> {
        if let (Some(store), Some(trial)) = (&self.store, &self.trial) {
            return of_trial(store, trial);
        }
        if let Some(file) = &self.spec {
            let spec = Spec::load(file)?;
            let operator = self.what.as_deref().map(read_operator).transpose()?;
            return of_model(spec.name.clone(), spec, file, operator.as_ref());
        }
        let Some(what) = self.what.as_deref() else {
            return invalid(
                "nothing to tune is named: give an operator, a model such as resnet-small, --spec FILE, or --store FILE --trial NUMBER",
            );
        };
        let is_bare = self.shape.is_none() && self.epilogue.is_empty() && !self.channels_first;
        let (file, number) = match what.rsplit_once('#') {
            Some((file, number)) => (file, Some(number)),
            None => (what, None),
        };
        if file.ends_with(".json") {
            if !is_bare {
                return invalid(format!("{file} says all about its modules: leave out --shape, --epilogue and --channels-first"));
            }
            return of_modules(runner, Path::new(file), number);
        }
        if let Some(network) = Network::named(what) {
            if !is_bare {
                return invalid(format!("{what} is a model: leave out --shape, --epilogue and --channels-first, or name an operator"));
            }
            let mut spec = Spec::default();
            spec.backbone.name = network;
            spec.check()?;
            return of_model(what.into(), spec, Path::new(what), None);
        }
        if let Some(trial) = number
            && is_bare
            && Path::new(file).is_file()
        {
            return of_trial(Path::new(file), trial);
        }
        self.of_operator(what)
    }

    fn of_operator(&self, what: &str) -> Result<Request> {
        let (operator, binding) = (read_operator(what)?, Binding::parse(self.shape.as_deref().unwrap_or(SHAPE))?);
        let channel = lower::layout::channel(operator.outputs().len());
        let mut nest = lower::lower(&operator, &binding)?.with_epilogue(epilogue(&self.epilogue)?, channel);
        if !self.channels_first {
            nest = lower::layout::for_cpu(&nest, lower::layout::BLOCK).0;
        }
        let kernels = vec![Asked { name: operator.id().to_string(), computation: nest.into(), count: 1 }];
        Ok(Request { subject: Subject::One { operator, binding }, kernels, spec: Spec::default() })
    }
}

fn of_trial(file: &Path, trial: &str) -> Result<Request> {
    let store = Store::open_read(file)?;
    let found = match trial.parse() {
        Ok(number) => Some(store.trial(number)?),
        Err(_) => store.find(trial)?,
    };
    let Some(found) = found else {
        let file = file.display();
        return invalid(format!(
            "{file} has no trial {trial:?}: give the number or the id of one that `syntune report {file} --trials` lists"
        ));
    };
    let spec = store.spec()?;
    let slots = slots_of(&spec, file)?;
    let model = slots.model(Some(&Operator::parse(&found.operator)?), i64::from(spec.target.batch))?;
    let kernels = distinct(model.calls.iter().filter(|c| c.slot.is_some_and(|s| slots.replaced[s])));
    Ok(Request { subject: Subject::Model { name: format!("the slots of trial {}", found.number) }, kernels, spec })
}

fn of_model(name: String, spec: Spec, file: &Path, operator: Option<&Operator>) -> Result<Request> {
    let slots: Slots = slots_of(&spec, file)?;
    let model = slots.model(operator, i64::from(spec.target.batch))?;
    let kernels = distinct(model.calls.iter());
    Ok(Request { subject: Subject::Model { name }, kernels, spec })
}

/// All modules of a file, or the one of that number.
fn of_modules(runner: &LocalRunner, file: &Path, number: Option<&str>) -> Result<Request> {
    let modules = runner.modules(file)?;
    let at = file.display();
    let mut kernels = Vec::new();
    for (i, module) in modules.iter().enumerate() {
        let name = format!("workload {}", i + 1);
        if number.is_some_and(|n| n.parse() != Ok(i + 1)) {
            continue;
        }
        match module {
            Ok(module) => kernels.push(Asked { name, computation: Computation::Module(module.clone()), count: 1 }),
            Err(why) if number.is_some() || modules.len() == 1 => return invalid(format!("{name} of {at} cannot be tuned: {why}")),
            Err(why) => eprintln!("syntune: {name} is left out: {why}"),
        }
    }
    if let (true, Some(number)) = (kernels.is_empty(), number) {
        return invalid(format!("{at} has no workload {number:?}: give a number from 1 to {}", modules.len()));
    }
    if kernels.is_empty() {
        return invalid(format!("{at} has no workload that can be tuned"));
    }
    Ok(Request { subject: Subject::Model { name: at.to_string() }, kernels, spec: Spec::default() })
}

/// Kernels by the layer that has each first.
fn distinct<'a>(calls: impl Iterator<Item = &'a Call>) -> Vec<Asked> {
    let mut found: Vec<(String, Asked)> = Vec::new();
    for call in calls {
        let workload = call.workload();
        match found.iter_mut().find(|f| f.0 == workload) {
            Some((_, same)) => same.count += 1,
            None => found.push((workload, Asked { name: call.layer.clone(), computation: call.nest.clone().into(), count: 1 })),
        }
    }
    found.into_iter().map(|f| f.1).collect()
}

pub(super) fn tune(args: &TuneArgs) -> Result<Exit> {
    let mut runner = LocalRunner::new(Limits::default())?;
    let Request { subject, kernels: asked, spec } = args.read(&runner)?;
    if asked.is_empty() {
        return invalid("there is no kernel to tune: a trial that replaced nothing is the original; tune its model with --spec");
    }
    let n_trials = args.trials.unwrap_or(TRIALS_EACH * asked.len());
    let n_threads = args.threads.unwrap_or(spec.target.threads as usize);
    if n_trials == 0 || n_threads == 0 {
        return invalid("--trials and --threads must be at least 1");
    }
    if n_trials < asked.len() {
        return invalid(format!("--trials {n_trials} is too few: there are {} distinct kernels, give at least as many", asked.len()));
    }
    if args.minutes.is_some_and(|m| m.is_nan() || m <= 0.0) {
        return invalid("--minutes must be more than 0");
    }
    let target = args.target.clone().unwrap_or(spec.target.llvm);
    let mut options = Options::new(n_trials, args.seed.unwrap_or(spec.seed));
    options.strategy = match args.strategy.as_deref().map(|name| (name, Strategy::named(name))) {
        None => spec.tune.strategy,
        Some((_, Some(strategy))) => strategy,
        Some((name, None)) => {
            return invalid(format!("--strategy: {name:?} is unknown: use one of {}", Strategy::NAMES.join(", ")));
        }
    };
    options.patience = args.patience;
    options.limit_secs = args.minutes.map_or(f64::MAX, |m| m * 60.0);
    if asked.len() > 1 {
        options.final_effort = SETTLE;
    }
    let work = interruptible()?;
    options.stop = work.stop.clone();
    runner.stop_with(work.stop.clone());
    runner.target(&target, n_threads)?;
    let peak = match calibrate(&runner, &target, n_threads) {
        Ok(peak) => Some(peak),
        Err(_) if work.is_stopped() => return Err(Error::Interrupted),
        Err(error) => {
            eprintln!("syntune: shares of the peak are left out: {error}");
            None
        }
    };
    let mut kernels: Vec<Kernel> = asked
        .into_iter()
        .map(|Asked { name, computation, count }| Kernel {
            floor_secs: peak.map_or(0.0, |p| p.floor_secs(computation.n_flops())),
            name,
            task: Task { computation, target: target.clone(), n_threads },
            weight: count as f64,
            known: vec![],
            first: vec![],
        })
        .collect();
    let folder = args.database.as_deref();
    let unfinished = folder.map(|folder| unfinished(folder, &kernels));
    if let (Some(folder), Some(unfinished)) = (folder, &unfinished) {
        whole_lines(unfinished)?;
        for kernel in &mut kernels {
            recorded(&runner, kernel, &[folder, unfinished])?;
        }
    }
    let start = Instant::now();
    let mut talk = Talk::new(&kernels, peak, n_trials);
    let tuned = std::thread::scope(|scope| {
        let (bests, known) = channel();
        let keeper = unfinished.as_ref().map(|folder| scope.spawn(|| keep(&runner, &kernels, folder, known)));
        let mut best_secs = vec![f64::INFINITY; kernels.len()];
        let tuned = tune_model(&runner, &kernels, &options, &mut |place, m| {
            talk.hear(place, m);
            if let Ok(samples) = &m.result
                && m.rank_secs() < best_secs[place]
            {
                best_secs[place] = m.rank_secs();
                // nobody listens without a database
                let _ = bests.send((place, m.config.clone(), samples.clone()));
            }
        });
        drop(bests);
        if let Some(keeper) = keeper {
            // it has said what went wrong
            let _ = keeper.join();
        }
        tuned
    });
    talk.end();
    let (outcomes, stop) = tuned?;
    let stop = match &outcomes[..] {
        [one] => one.stop,
        _ => stop,
    };
    let found = Found { subject, kernels: &kernels, outcomes: &outcomes, peak, stop, total_secs: start.elapsed().as_secs_f64() };
    found.print(args.format)?;
    if let (Some(folder), Some(unfinished)) = (folder, &unfinished) {
        for (kernel, outcome) in kernels.iter().zip(&outcomes) {
            if let Some(best) = &outcome.best {
                runner.record(&kernel.task, &best.config, &best.samples, folder)?;
            }
        }
        // nothing of it was lost
        let _ = std::fs::remove_dir_all(unfinished);
    }
    Ok(match stop {
        StopReason::Interrupted => Exit::Interrupted,
        _ if outcomes.iter().any(|o| o.best.is_none()) => Exit::Nothing,
        _ => Exit::Done,
    })
}

/// `None` where TVM cannot count the operations.
fn gflops(kernel: &Kernel, secs: f64) -> Option<f64> {
    let n_flops = kernel.task.computation.n_flops();
    (n_flops > 0.0).then(|| n_flops / secs / 1e9)
}

/// `12.34 µs`.
fn time(secs: f64) -> String {
    if secs < 1e-3 { format!("{:.2} µs", secs * 1e6) } else { format!("{:.3} ms", secs * 1e3) }
}

/// `95.1 GFLOP/s (81 % of peak)`.
fn speed(kernel: &Kernel, secs: f64, peak: Option<Calibration>) -> String {
    let Some(gflops) = gflops(kernel, secs) else { return "operations unknown".into() };
    let share = peak.map_or(String::new(), |p| format!(" ({:.0} % of peak)", gflops / p.gflops * 100.0));
    format!("{gflops:.1} GFLOP/s{share}")
}

/// The talk on stderr: a bar on a terminal, elsewhere a line now and then.
struct Talk<'a> {
    kernels: &'a [Kernel],
    peak: Option<Calibration>,
    bar: Option<ProgressBar>,
    n_trials: usize,
    n_measured: usize,
    best_secs: Vec<f64>,
    told: Instant,
    /// Faster programs since then.
    has_news: bool,
}

impl<'a> Talk<'a> {
    fn new(kernels: &'a [Kernel], peak: Option<Calibration>, n_trials: usize) -> Talk<'a> {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(Some(n_trials as u64), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("{bar:24} {pos}/{len} programs, {eta} left; {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        if let Some(peak) = peak {
            eprintln!("peak {:.1} GFLOP/s on {} thread(s)", peak.gflops, kernels.first().map_or(1, |k| k.task.n_threads));
        }
        let best_secs = vec![f64::INFINITY; kernels.len()];
        Talk { kernels, peak, bar, n_trials, n_measured: 0, best_secs, told: Instant::now(), has_news: false }
    }

    fn hear(&mut self, place: usize, measurement: &Measurement) {
        self.n_measured += 1;
        let secs = measurement.secs();
        self.has_news |= secs < self.best_secs[place];
        self.best_secs[place] = self.best_secs[place].min(secs);
        if let Some(bar) = &self.bar {
            bar.set_message(if self.n_measured == self.n_trials { "measuring the best again".into() } else { self.state(place) });
            bar.set_position(self.n_measured as u64);
            return;
        }
        let silent = self.told.elapsed().as_secs_f64();
        if silent > SILENT_SECS || (self.has_news && silent > TELL_SECS) || self.n_measured == self.n_trials {
            eprintln!("{}/{} programs; {}", self.n_measured, self.n_trials, self.state(place));
            (self.told, self.has_news) = (Instant::now(), false);
        }
    }

    /// The best of a kernel, and of the model once each of its kernels has a time.
    fn state(&self, place: usize) -> String {
        let (kernel, secs) = (&self.kernels[place], self.best_secs[place]);
        let of = if self.kernels.len() > 1 { format!("{}: ", kernel.name) } else { String::new() };
        if secs.is_infinite() {
            return format!("{of}none works yet");
        }
        let total: f64 = self.kernels.iter().zip(&self.best_secs).map(|(k, s)| k.weight * s).sum();
        let all = if self.kernels.len() > 1 && total.is_finite() { format!("; all kernels {}", time(total)) } else { String::new() };
        format!("{of}best {}, {}{all}", time(secs), speed(kernel, secs, self.peak))
    }

    fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// What came out.
struct Found<'a> {
    subject: Subject,
    kernels: &'a [Kernel],
    outcomes: &'a [Outcome],
    peak: Option<Calibration>,
    stop: StopReason,
    total_secs: f64,
}

impl Found<'_> {
    fn n_measured(&self) -> usize {
        self.outcomes.iter().map(|o| o.n_measured).sum()
    }

    /// Seconds of all kernels in turn, `None` where one has no schedule that works.
    fn secs(&self) -> Option<f64> {
        let each = self.kernels.iter().zip(self.outcomes);
        each.map(|(kernel, outcome)| Some(kernel.weight * outcome.best.as_ref()?.secs())).sum()
    }

    fn print(&self, format: Format) -> Result<()> {
        let failed = |o: &Outcome| o.best.is_none() && (o.n_measured > 0 || self.stop != StopReason::Interrupted);
        for (kernel, outcome) in self.kernels.iter().zip(self.outcomes).filter(|(_, o)| failed(o)) {
            let why = outcome.example.as_ref().map_or(String::new(), |f| format!(": {f}"));
            eprintln!("syntune: {}: none of {} programs works{why}", kernel.name, outcome.n_measured);
        }
        match format {
            Format::Table => put(&self.table()),
            Format::Json => put(&self.json()),
            Format::Csv => put(&self.csv()),
        }
    }

    fn table(&self) -> String {
        let mut text = String::new();
        let width = self.kernels.iter().map(|k| k.name.len()).max().unwrap_or(0);
        for (kernel, outcome) in self.kernels.iter().zip(self.outcomes) {
            let Some(best) = &outcome.best else { continue };
            let time = Timing::of(&best.samples.0).map_or(time(best.secs()), report::time);
            let speed = speed(kernel, best.secs(), self.peak);
            text += &match self.subject {
                Subject::One { .. } => format!("{time}, {speed}, {} thread(s)\n", kernel.task.n_threads),
                Subject::Model { .. } => {
                    let (name, n) = (&kernel.name, outcome.n_measured);
                    format!("{name:width$} {:3} × {time:16} {n:4} programs, {speed}\n", kernel.weight)
                }
            };
        }
        if text.is_empty() {
            return text;
        }
        if let (Subject::Model { name }, Some(secs)) = (&self.subject, self.secs()) {
            let n_threads = self.kernels.first().map_or(1, |k| k.task.n_threads);
            text += &format!("{name}: {} in {} kernels, {n_threads} thread(s)\n", time(secs), self.kernels.len());
        }
        text += &format!("{} programs measured in {:.1} s ({})", self.n_measured(), self.total_secs, self.stop);
        match (&self.subject, self.outcomes) {
            (Subject::One { .. }, [Outcome { best: Some(best), .. }]) => {
                text += &format!("; {} samples of the best\n", best.samples.n_samples())
            }
            _ => text += "\n",
        }
        let mut steps = crate::tune::Steps::default();
        self.outcomes.iter().for_each(|o| steps.add(&o.cost.steps));
        let ms = |s: f64| s * 1e3 / self.n_measured().max(1) as f64;
        text += &format!(
            "per program: replay {:.1} ms, postprocs {:.1} ms, lowering {:.1} ms, LLVM {:.1} ms, link {:.1} ms, run {:.1} ms\n",
            ms(steps.replay_secs),
            ms(steps.postproc_secs),
            ms(steps.lower_secs),
            ms(steps.llvm_secs),
            ms(steps.link_secs),
            ms(steps.run_secs)
        );
        let mut failures: BTreeMap<&str, usize> = BTreeMap::new();
        for (cause, n) in self.outcomes.iter().flat_map(|o| &o.failures) {
            *failures.entry(cause).or_default() += n;
        }
        for (cause, n) in failures {
            text += &format!("failed: {n} × {cause}\n");
        }
        let mut refused: BTreeMap<&str, usize> = BTreeMap::new();
        for (step, n) in self.outcomes.iter().flat_map(|o| &o.refused) {
            *refused.entry(step).or_default() += n;
        }
        for (step, n) in refused {
            text += &format!("not built: {n} × {step}\n");
        }
        text
    }

    fn json(&self) -> String {
        let mut text = String::new();
        for (kernel, outcome) in self.kernels.iter().zip(self.outcomes) {
            let best = outcome.best.as_ref();
            let mut row = serde_json::json!({
                "version": 1, "kernel": kernel.name, "count": kernel.weight as usize,
                "gflops": best.and_then(|b| gflops(kernel, b.secs())), "peak_gflops": self.peak.map(|p| p.gflops),
                "outcome": {
                    "config": best.map(|b| &b.config), "samples_secs": best.map(|b| &b.samples.0), "median_secs": best.map(|b| b.secs()),
                    "n_measured": outcome.n_measured, "failures": outcome.failures, "refused": outcome.refused, "total_secs": outcome.cost.total_secs,
                },
                "steps": outcome.cost.steps,
            });
            if let Subject::One { operator, binding } = &self.subject {
                (row["operator"], row["binding"]) = (operator.to_string().into(), binding.to_string().into());
            }
            text += &format!("{row}\n");
        }
        if let Subject::Model { name } = &self.subject {
            let (n, stop) = (self.n_measured(), self.stop.to_string());
            let all = serde_json::json!({
                "version": 1, "model": name, "secs": self.secs(), "n_kernels": self.kernels.len(), "n_measured": n, "stop": stop,
                "total_secs": self.total_secs, "calibration": self.peak,
            });
            text += &format!("{all}\n");
        }
        text
    }

    fn csv(&self) -> String {
        let mut text = String::from("kernel,count,median_secs,spread_secs,gflops,peak_gflops,n_measured,total_secs\n");
        let peak = self.peak.map_or(String::new(), |p| p.gflops.to_string());
        for (kernel, outcome) in self.kernels.iter().zip(self.outcomes) {
            let best = outcome.best.as_ref();
            // empty where nothing works
            let of = |value: &dyn Fn(&Best) -> Option<f64>| best.and_then(value).map_or(String::new(), |v| v.to_string());
            let (secs, spread) = (of(&|b| Some(b.secs())), of(&|b| Some(b.samples.spread_secs())));
            let (name, count, gflops) = (&kernel.name, kernel.weight, of(&|b| gflops(kernel, b.secs())));
            text += &format!("{name},{count},{secs},{spread},{gflops},{peak},{},{}\n", outcome.n_measured, outcome.cost.total_secs);
        }
        text
    }
}
