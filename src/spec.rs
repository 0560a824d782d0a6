//! The request: which model, which operators may replace its slots, on what data and machine, within what budgets.
//!
//! A [`Spec`] is read from TOML by [`Spec::load`], validated once, and trusted by everything after it. Every key has a
//! default, so the shortest spec is an empty file; [`Spec::print`] shows what it means. A fault names file, line and key
//! and says the way out.

mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{Error, Result, invalid};
use source::Source;
pub use source::{nearest, refuse};

/// A spec is a page of text; a file larger than this is something else.
const MAX_BYTES: u64 = 1 << 20;
/// Wider backbones than this do not fit a worker's memory on any supported data set.
const MAX_WIDTH: u32 = 512;
/// Heads of every attention of `transformer-small`; the trainer's own constant, which this room may not know, is tested to be equal.
const TRANSFORMER_HEADS: u32 = 4;
/// Depth that the search can still enumerate.
const MAX_DEPTH: u32 = 32;
/// The contraction of more weights than this is never cheaper than two operators.
const MAX_WEIGHTS: u32 = 3;
/// Coefficients are small by definition: sizes that may divide others.
const MAX_COEFFICIENT: u32 = 64;

/// One request, complete and valid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Spec {
    /// What reports call this search.
    pub name: String,
    /// The one seed; every other seed is a hash of it and of what it is for.
    pub seed: u64,
    pub backbone: Backbone,
    pub slots: Slots,
    pub operator: Operators,
    pub data: Data,
    pub target: Target,
    pub budget: Budget,
    pub train: Train,
    pub tune: Tune,
}

/// The model whose slots are filled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Backbone {
    pub name: Network,
    /// Channels of the first stage, or of a transformer's tokens, 1 to 512.
    pub width: u32,
}

/// Which slots of the backbone are replaced.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Slots {
    /// `"all"` (slots of stride 2 included), or a list of slot names. Where a slot of stride 2 is filled, operators have one
    /// more coefficient `r`: 2 in these slots and 1 in the others, where the data are `r` times as high and wide as the output.
    pub layers: Layers,
}

/// The operators that may be synthesized.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Operators {
    /// Most primitives in one operator, 1 to 32.
    pub max_depth: u32,
    /// Most weight tensors in one operator, 1 to 3.
    pub max_weights: u32,
    /// How new ones are proposed.
    pub strategy: Proposals,
    /// Operators evaluated first: names from the library or operator texts.
    pub start: Vec<String>,
    /// Small constants that sizes may use, and may be divided by: name to value, 1 to 64.
    pub coefficients: BTreeMap<String, u32>,
}

/// What accuracy is measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    pub name: DataSet,
    /// The folder with the data set's files, relative to the spec file; without it, the one that `scripts/setup` made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
}

/// What latency is measured on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Target {
    /// `"host"`, or a TVM target such as `"llvm -mcpu=skylake-avx512"`.
    pub llvm: String,
    /// Threads of every measured program, at most this machine's.
    pub threads: u32,
    /// Images in one call of every measured program.
    pub batch: u32,
}

/// What the search may spend, and what its result may cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Budget {
    /// Wall-clock minutes of searching, all sessions together.
    pub minutes: f64,
    /// Operators evaluated, if fewer than the minutes allow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trials: Option<u32>,
    /// Highest FLOPs of the replaced slots relative to the original's.
    pub flops_ratio: f64,
    /// Highest parameter count of the replaced slots relative to the original's.
    pub params_ratio: f64,
    /// Longest training relative to the original's, estimated from what the slots move in a step.
    pub train_ratio: f64,
    /// Largest loss of accuracy against the baseline, in percentage points.
    pub accuracy_drop: f64,
}

/// The recipe that baseline and candidates are trained with alike.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Train {
    /// Passes over the whole training set for the baseline and the finalists.
    pub epochs: u32,
    /// Images of the short training that every candidate gets.
    pub proxy_samples: u32,
    /// Images in one step.
    pub batch: u32,
    /// Highest learning rate of the schedule.
    pub lr: f64,
    /// Candidates that are trained and tuned in full; 0: none, the search explores only.
    pub n_finalists: u32,
}

/// How schedules are searched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tune {
    /// Schedules measured for each shape of the baseline and the finalists.
    pub trials: u32,
    /// Schedules measured for each shape of every candidate, at most `trials`.
    pub quick_trials: u32,
    pub strategy: Strategy,
}

/// Slots by name, or all of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Layers {
    #[default]
    All,
    Named(Vec<String>),
}

impl Serialize for Layers {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Layers::All => "all".serialize(s),
            Layers::Named(names) => names.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Text {
            One(String),
            Many(Vec<String>),
        }
        Ok(match Text::deserialize(d)? {
            Text::One(word) if word == "all" => Layers::All,
            Text::One(name) => Layers::Named(vec![name]),
            Text::Many(names) => Layers::Named(names),
        })
    }
}

/// An enum whose values are written by name in a spec.
macro_rules! names {
    ($(#[$doc:meta])* $kind:ident { $($(#[$item_doc:meta])* $item:ident = $name:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $kind { $($(#[$item_doc])* #[serde(rename = $name)] $item),+ }

        impl $kind {
            /// Every name, as a spec writes it.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The value of that name.
            pub fn named(name: &str) -> Option<$kind> {
                [$($kind::$item),+].into_iter().find(|k| k.name() == name)
            }

            /// The name, as a spec writes it.
            pub fn name(self) -> &'static str {
                match self { $($kind::$item => $name),+ }
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.pad(self.name())
            }
        }
    };
}

names! {
    /// A model with slots.
    Network {
        /// A residual network of three stages for small images.
        ResnetSmall = "resnet-small",
        /// The same with convolutions of stride 2 in place of pooling: slots too.
        ResnetStrided = "resnet-strided",
        /// A transformer of three blocks on patches of small images.
        TransformerSmall = "transformer-small",
    }
}

names! {
    /// A data set whose files Syntune reads.
    DataSet {
        FashionMnist = "fashion-mnist",
        Cifar10 = "cifar-10",
        Cifar100 = "cifar-100",
    }
}

names! {
    /// How operators are proposed.
    Proposals {
        /// Tree search over partial operators: it learns from every trial.
        Mcts = "mcts",
        /// Regularised evolution of the operators tried.
        Evolution = "evolution",
        /// Walks at random, nothing learnt.
        Random = "random",
    }
}

names! {
    /// How schedules are proposed.
    Strategy {
        /// Samples of the space, nothing learnt.
        Random = "random",
        /// MetaSchedule's own search.
        Evolutionary = "evolutionary",
        /// AutoTVM's search: simulated annealing over a cost model.
        Annealing = "annealing",
        /// Adaptive exploration by an agent, adaptive sampling.
        Chameleon = "chameleon",
        /// Coordinate descent (Droplet Search) from a likely config.
        Droplet = "droplet",
        /// MetaSchedule's search, then coordinate descent from the fastest.
        EvolutionaryDroplet = "evolutionary+droplet",
        /// Chameleon, then coordinate descent from the fastest.
        ChameleonDroplet = "chameleon+droplet",
        /// Drafts, then mutations of the fastest.
        #[serde(alias = "evolution")]
        Mutations = "mutations",
        /// Drafts, then small moves from the fastest, ranked by a learnt model.
        Syntune = "syntune",
    }
}

impl Default for Spec {
    fn default() -> Self {
        Spec {
            name: "search".into(),
            seed: 0,
            backbone: Backbone::default(),
            slots: Slots::default(),
            operator: Operators::default(),
            data: Data::default(),
            target: Target::default(),
            budget: Budget::default(),
            train: Train::default(),
            tune: Tune::default(),
        }
    }
}

impl Default for Backbone {
    fn default() -> Self {
        Backbone { name: Network::ResnetSmall, width: 16 }
    }
}

impl Default for Operators {
    fn default() -> Self {
        let coefficients = [("k", 3), ("g", 4), ("s", 2)].map(|(name, value)| (name.to_string(), value));
        Operators { max_depth: 10, max_weights: 2, strategy: Proposals::Mcts, start: Vec::new(), coefficients: coefficients.into() }
    }
}

impl Default for Data {
    fn default() -> Self {
        Data { name: DataSet::FashionMnist, path: None }
    }
}

impl Default for Target {
    fn default() -> Self {
        Target { llvm: "host".into(), threads: 1, batch: 1 }
    }
}

impl Default for Budget {
    fn default() -> Self {
        Budget { minutes: 60.0, trials: None, flops_ratio: 1.0, params_ratio: 1.0, train_ratio: 2.5, accuracy_drop: 1.0 }
    }
}

impl Default for Train {
    fn default() -> Self {
        Train { epochs: 10, proxy_samples: 10_000, batch: 32, lr: 0.1, n_finalists: 3 }
    }
}

impl Default for Tune {
    fn default() -> Self {
        Tune { trials: 64, quick_trials: 8, strategy: Strategy::Syntune }
    }
}

impl Spec {
    /// Reads and validates a spec file.
    ///
    /// # Errors
    /// [`Error::Spec`] with file, line and key for a file that cannot be read, is not TOML, or asks for something
    /// unknown or impossible. The first fault is reported.
    pub fn load(path: impl AsRef<Path>) -> Result<Spec> {
        let path = path.as_ref();
        let fault = |message| Error::Spec { file: path.to_path_buf(), line: 1, key: "file".into(), message };
        let read = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = read().map_err(|e| fault(format!("cannot be read ({e}); give the path of a spec such as examples/demo.toml")))?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(fault("is larger than 1 MiB; give a spec such as examples/demo.toml".into()));
        }
        let text = String::from_utf8(bytes).map_err(|e| {
            let line = 1 + e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count();
            let message = "is not UTF-8 text; give a spec such as examples/demo.toml".into();
            Error::Spec { file: path.to_path_buf(), line, key: "file".into(), message }
        })?;
        Spec::parse(&text, path)
    }

    /// Reads and validates a spec's text; `file` is named in errors, and its folder is what `data.path` is relative to.
    pub fn parse(text: &str, file: &Path) -> Result<Spec> {
        let source = Source { text, file };
        let table = source.table()?;
        source.walk(&table, &example(), "")?;
        let mut spec: Spec = toml::from_str(text).map_err(|e| source.misfit(&table, &e))?;
        if let Some(path) = &mut spec.data.path {
            let full = file.parent().unwrap_or(Path::new("")).join(&*path);
            *path = std::path::absolute(&full).unwrap_or(full);
        }
        match spec.fault() {
            None => Ok(spec),
            Some((key, message)) => Err(source.error(&table, key, message)),
        }
    }

    /// Validates a spec that was made or changed by code, such as one with a budget from the command line.
    pub fn check(&self) -> Result<()> {
        match self.fault() {
            None => Ok(()),
            Some((key, message)) => invalid(format!("{key}: {message}")),
        }
    }

    /// The resolved request as TOML, defaults filled in; reads back as an equal spec.
    pub fn print(&self) -> String {
        toml::to_string(self).unwrap_or_else(|e| format!("# this spec cannot be written as TOML: {e}\n"))
    }

    fn fault(&self) -> Option<(&'static str, String)> {
        let Spec { backbone, slots, operator, data, target, budget, train, tune, .. } = self;
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
        let whole = |key, value: u32, low: u32, high: u32| {
            let message = format!("{value} is out of range; choose a whole number from {low} to {high}");
            (!(low..=high).contains(&value)).then_some((key, message))
        };
        let positive = |key, value: f64, what: &str| {
            let message = format!("{value} is impossible; choose {what} greater than 0");
            (!(value > 0.0 && value.is_finite())).then_some((key, message))
        };
        let when = |wrong: bool, key, message: String| wrong.then_some((key, message));

        let rules = [
            when(self.name.trim().is_empty(), "name", "is empty; choose a name for reports".into()),
            when(
                i64::try_from(self.seed).is_err(),
                "seed",
                format!("{} is too large; choose a whole number up to {}", self.seed, i64::MAX),
            ),
            whole("backbone.width", backbone.width, 1, MAX_WIDTH),
            backbone.fault(),
            slots.fault(),
            whole("operator.max_depth", operator.max_depth, 1, MAX_DEPTH),
            whole("operator.max_weights", operator.max_weights, 1, MAX_WEIGHTS),
            operator.fault(),
            data.fault(),
            target.fault(),
            whole("target.threads", target.threads, 1, cores)
                .map(|(key, message)| (key, format!("{message}: this machine runs {cores} at once, and more would measure the scheduler"))),
            whole("target.batch", target.batch, 1, 1024),
            positive("budget.minutes", budget.minutes, "a number of minutes"),
            when(budget.trials == Some(0), "budget.trials", "0 evaluates nothing; choose at least 1, or leave it out".into()),
            positive("budget.flops_ratio", budget.flops_ratio, "a ratio to the original, such as 1.0,"),
            positive("budget.params_ratio", budget.params_ratio, "a ratio to the original, such as 1.0,"),
            positive("budget.train_ratio", budget.train_ratio, "a ratio to the original, such as 2.5,"),
            when(
                !(0.0..=100.0).contains(&budget.accuracy_drop),
                "budget.accuracy_drop",
                format!("{} is impossible; choose percentage points from 0 to 100, such as 1.0", budget.accuracy_drop),
            ),
            whole("train.epochs", train.epochs, 1, 10_000),
            whole("train.proxy_samples", train.proxy_samples, 1, 10_000_000),
            whole("train.batch", train.batch, 1, 8192),
            positive("train.lr", train.lr, "a learning rate, such as 0.1,"),
            whole("train.n_finalists", train.n_finalists, 0, 1000),
            whole("tune.trials", tune.trials, 1, 100_000),
            whole("tune.quick_trials", tune.quick_trials, 1, tune.trials.max(1))
                .map(|(key, message)| (key, format!("{message} (tune.trials)"))),
        ];
        rules.into_iter().flatten().next()
    }
}

impl Backbone {
    fn fault(&self) -> Option<(&'static str, String)> {
        let heads = match self.name {
            Network::TransformerSmall => TRANSFORMER_HEADS,
            Network::ResnetSmall | Network::ResnetStrided => 1,
        };
        let message = || format!("{} is no width of {}; choose a multiple of its {heads} heads, such as 64", self.width, self.name);
        (!self.width.is_multiple_of(heads)).then(|| ("backbone.width", message()))
    }
}

impl Slots {
    fn fault(&self) -> Option<(&'static str, String)> {
        let Layers::Named(names) = &self.layers else { return None };
        let key = "slots.layers";
        let way_out = "; write \"all\" or a list of slot names";
        if names.is_empty() {
            return Some((key, format!("the list is empty: nothing would be replaced{way_out}")));
        }
        for (i, name) in names.iter().enumerate() {
            if name.trim().is_empty() {
                return Some((key, format!("a name is empty{way_out}")));
            }
            if names[..i].contains(name) {
                return Some((key, format!("{name:?} stands twice; leave one out")));
            }
        }
        None
    }
}

impl Operators {
    fn fault(&self) -> Option<(&'static str, String)> {
        let key = "operator.coefficients";
        for (name, &value) in &self.coefficients {
            let mut letters = name.chars();
            let named = letters.next().is_some_and(|c| c.is_ascii_lowercase())
                && letters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if !named {
                return Some((
                    key,
                    format!("{name:?} is no name of a coefficient; begin with a lower-case letter, then letters, digits or _"),
                ));
            }
            if !(1..=MAX_COEFFICIENT).contains(&value) {
                return Some((key, format!("{name} = {value} is out of range; choose a whole number from 1 to {MAX_COEFFICIENT}")));
            }
        }
        let blank = self.start.iter().any(|operator| operator.trim().is_empty());
        blank.then(|| ("operator.start", "an operator is empty; write a name from the library or an operator's text".to_string()))
    }
}

impl Data {
    fn fault(&self) -> Option<(&'static str, String)> {
        let path = self.path.as_deref()?;
        let why = match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => return None,
            Ok(_) => "is not a folder".to_string(),
            Err(e) => format!("cannot be used ({e})"),
        };
        let way_out = "give the folder with the data set's files, or leave path out to use the one that scripts/setup made";
        Some(("data.path", format!("{} {why}; {way_out}", path.display())))
    }
}

impl Target {
    fn fault(&self) -> Option<(&'static str, String)> {
        let first = self.llvm.split_whitespace().next().unwrap_or("");
        let known = self.llvm == "host" || first == "llvm" || first.starts_with('{');
        let message = format!("{:?} is no LLVM target; write \"host\", or a TVM target such as \"llvm -mcpu=skylake-avx512\"", self.llvm);
        (!known).then_some(("target.llvm", message))
    }
}

/// A spec with every key set: what a spec may say, and what its values look like.
fn example() -> toml::Table {
    let spec = Spec {
        data: Data { path: Some("data".into()), ..Data::default() },
        budget: Budget { trials: Some(100), ..Budget::default() },
        operator: Operators { start: vec!["conv1x1".into()], ..Operators::default() },
        ..Spec::default()
    };
    toml::Table::try_from(spec).unwrap_or_default()
}
