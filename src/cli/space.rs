//! `check` and `synth`: what a spec asks for, how large its space is, and operators of it.

use super::{Exit, probed, put, slots_of};
use crate::error::{Result, invalid};
use crate::report::Format;
use crate::search::operators::Operators;
use crate::search::probe::{MAX_STATES, idle};
use crate::search::propose::{MAX_BARREN, Proposer};
use crate::spec::{Proposals, Spec, refuse};
use crate::synth::canon::Refusals;
use crate::synth::library::{self, LIBRARY};
use crate::synth::space::Count;
use clap::Args;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

#[derive(Args)]
pub(super) struct CheckArgs {
    spec: PathBuf,
    /// Print on stderr what was refused and why
    #[arg(long)]
    stats: bool,
}

#[derive(Args)]
pub(super) struct SynthArgs {
    /// The request; without it, `--library` lists the known operators
    #[arg(required_unless_present = "library")]
    spec: Option<PathBuf>,
    /// How many
    #[arg(short, default_value_t = 10)]
    n: usize,
    /// Instead of the spec's
    #[arg(long)]
    seed: Option<u64>,
    /// List the known operators by name
    #[arg(long)]
    library: bool,
    /// How they are found: `random` walks, or `mcts`, a tree search for few multiply-adds
    #[arg(long, default_value = "random")]
    strategy: String,
    /// Print on stderr what was refused and why, and how fast it went
    #[arg(long)]
    stats: bool,
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) fn check(args: &CheckArgs) -> Result<Exit> {
    let spec = Spec::load(&args.spec)?;
    let slots = slots_of(&spec, &args.spec)?;
    let mut space = slots.space(&spec)?;
    for start in &spec.operator.start {
        let fits = library::resolve(start).and_then(|operator| slots.model(Some(&operator), 1));
        fits.map_err(|e| refuse(&args.spec, "operator.start", format!("{start}: {e}")))?;
    }
    probed(&spec, &slots, &args.spec)?;
    let model = slots.model(None, 1)?;
    put(&spec.print())?;
    let mut text = format!(
        "\n# {}: {} kernels, slots {} MACs, {} parameters\n",
        slots.backbone.name,
        model.calls.len(),
        model.slot_macs(),
        model.slot_params()
    );
    for (slot, replaced) in slots.slots.iter().zip(&slots.replaced) {
        text += &format!(
            "# slot {}: {}{}\n",
            slot.name,
            slots.binding(slot, i64::from(spec.target.batch)),
            if *replaced { "" } else { "  (kept)" }
        );
    }
    for coefficient in idle(&spec, &space) {
        text += &format!("# {coefficient} divides no axis in every slot: windows and ranks only\n");
    }
    put(&text)?;
    let count = space.count_by_depth(space.options.depth, MAX_STATES);
    put(&table(&count))?;
    if args.stats {
        let none = Refusals::default();
        for (rule, n) in count.levels.iter().fold(none, |sum, l| sum.plus(&l.refused)).table() {
            eprintln!("{n:10}  {rule}");
        }
    }
    Ok(Exit::Done)
}

/// The size of a space by the number of actions, in comments: what `check` prints is a spec.
fn table(count: &Count) -> String {
    let mut text = format!("\n# {:>7}{:>12}{:>12}{:>12}{:>12}{:>12}\n", "actions", "states", "offered", "taken", "operators", "new");
    for (n, level) in count.levels.iter().take_while(|l| l.n_states > 0).enumerate() {
        let is_part = !count.complete && n + 1 == count.levels.len();
        let sum = |n: u64| format!("{}{n}", if is_part { ">" } else { "" });
        let (offered, taken) = (sum(level.n_offered), sum(level.n_taken));
        text += &format!("# {n:7}{:12}{offered:>12}{taken:>12}{:12}{:12}\n", level.n_states, level.n_finals, level.n_new);
    }
    text + &if count.complete {
        format!("# {} operators in all\n", count.operators.len())
    } else {
        format!("# {:7}  more than {MAX_STATES} states\n", count.levels.len())
    }
}

pub(super) fn synth(args: &SynthArgs) -> Result<Exit> {
    let Some(file) = args.spec.as_ref().filter(|_| !args.library) else {
        let width = LIBRARY.iter().map(|e| e.0.len()).max().unwrap_or(0);
        if args.format == Format::Csv {
            put("name,what,text\n")?;
        }
        for (name, what, text) in LIBRARY {
            put(&match args.format {
                Format::Table => format!("{name:width$}  {what}\n{:width$}  {text}\n", ""),
                Format::Json => format!("{}\n", serde_json::json!({"version": 1, "name": name, "what": what, "text": text})),
                Format::Csv => format!("{name},\"{what}\",\"{text}\"\n"),
            })?;
        }
        return Ok(Exit::Done);
    };
    let spec = Spec::load(file)?;
    let slots = slots_of(&spec, file)?;
    probed(&spec, &slots, file)?;
    let original = slots.model(None, 1)?;
    let strategy = match args.strategy.as_str() {
        "random" => Proposals::Random,
        "mcts" => Proposals::Mcts,
        other => return invalid(format!("--strategy: {other:?} is unknown: use random or mcts")),
    };
    let mut proposer = Proposer::new(strategy, slots.space(&spec)?, args.seed.unwrap_or(spec.seed))?;
    let start = Instant::now();
    let (mut n, mut n_barren, mut n_over) = (0, 0, 0);
    let mut rewards = BTreeMap::new();
    if args.format == Format::Csv {
        put("id,macs,params,text\n")?;
    }
    while n < args.n && n_barren < MAX_BARREN {
        let Some(operator) = proposer.ask() else {
            n_barren += 1;
            continue;
        };
        let macs = slots.model(Some(&operator), 1).map(|m| (m.slot_macs(), m.slot_params()));
        let over = |m: &(u64, u64)| m.0 as f64 > original.slot_macs() as f64 * spec.budget.flops_ratio;
        let Some((macs, params)) = macs.ok().filter(|m| !over(m)) else {
            n_over += 1;
            proposer.refuse(&operator);
            continue;
        };
        n += 1;
        let ratio = macs as f64 / original.slot_macs() as f64;
        rewards.insert(Operators::id_of(&operator), (1.0 - ratio).max(0.0));
        if strategy == Proposals::Mcts {
            proposer.tell(&rewards);
        }
        let id = operator.id();
        put(&match args.format {
            Format::Table => {
                format!("{id}  {ratio:5.3} MACs  {:5.3} params  {operator}\n", params as f64 / original.slot_params() as f64)
            }
            Format::Json => format!(
                "{}\n",
                serde_json::json!({"version": 1, "id": id, "n_macs": macs, "n_params": params, "text": operator.to_string()})
            ),
            Format::Csv => format!("{id},{macs},{params},\"{operator}\"\n"),
        })?;
    }
    if args.stats {
        eprint!("{}", proposer.stats(start.elapsed().as_secs_f64(), n_over));
    }
    Ok(if n == 0 { Exit::Nothing } else { Exit::Done })
}
