//! Whether a spec's space holds an operator within the budgets; if none is found, what stands in the way and what to change.

use super::Slots;
use crate::error::Result;
use crate::spec::{Budget, Spec};
use crate::synth::canon::Rule;
use crate::synth::space::Count;
use crate::synth::{Operator, Space, Synthesizer, child_seed};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;

/// Walks without an operator within the budgets after which states are counted instead. A usual spec needs about a hundred.
const MAX_WALKS: usize = 10_000;

/// States of one depth up to which a space is counted: one or two seconds, and 100 MB.
pub const MAX_STATES: usize = 100_000;

/// A deeper space is looked for up to so many actions more.
const MAX_DEEPER: usize = 4;

/// What of a spec kills its space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The spec's key.
    pub key: &'static str,
    pub message: String,
}

/// What an operator costs in the slots to fill, relative to the original's.
#[derive(Clone, Copy, Debug)]
struct Cost {
    flops: f64,
    /// The largest ratio of any slot.
    params: f64,
}

impl Cost {
    fn within(&self, budget: &Budget) -> bool {
        self.flops <= budget.flops_ratio && self.params <= budget.params_ratio
    }
}

/// Looks for one operator within the budgets: by walks, then by counting all states of few actions.
///
/// # Errors
/// As [`Slots::space`].
pub fn probe(slots: &Slots, spec: &Spec) -> Result<Option<Fault>> {
    let mut space = slots.space(spec)?;
    // operators with too many parameters are wanted too: they tell by how much
    space.options.off = space.options.off.with(&[Rule::Parameters]);
    let original = slots.model(None, 1)?.slot_macs() as f64;
    let unit = Spec { budget: Budget { params_ratio: 1.0, ..spec.budget.clone() }, ..spec.clone() };
    let original_params = slots.space(&unit)?.max_params;
    let bindings = space.bindings.clone();
    let cost = |operator: &Operator| -> Option<Cost> {
        let flops = slots.model(Some(operator), 1).ok()?.slot_macs() as f64 / original;
        let mut params = 0f64;
        for (binding, &most) in bindings.iter().zip(&original_params) {
            params = params.max(operator.n_params(binding).ok()? as f64 / most as f64);
        }
        Some(Cost { flops, params })
    };
    let mut costs = BTreeMap::new();
    let mut synthesizer = Synthesizer::new(space.clone(), spec.seed)?;
    let mut rng = ChaCha8Rng::seed_from_u64(child_seed(spec.seed, "probe"));
    for _ in 0..MAX_WALKS {
        let Some(operator) = synthesizer.walk(None, &mut rng) else { continue };
        match cost(&operator) {
            Some(cost) if cost.within(&spec.budget) => return Ok(None),
            Some(cost) => drop(costs.insert(operator.to_string(), cost)),
            None => {}
        }
    }
    let count = space.count_by_depth(space.options.depth, MAX_STATES);
    for line in &count.operators {
        match cost(&Operator::parse(line)?) {
            Some(cost) if cost.within(&spec.budget) => return Ok(None),
            Some(cost) => drop(costs.insert(line.clone(), cost)),
            None => {}
        }
    }
    let costs: Vec<Cost> = costs.into_values().collect();
    Ok(Some(if costs.is_empty() { barren(spec, &space, &count) } else { dear(spec, &costs, &count) }))
}

/// There are operators, but none within the budgets.
fn dear(spec: &Spec, costs: &[Cost], count: &Count) -> Fault {
    let (flops, params) = (spec.budget.flops_ratio, spec.budget.params_ratio);
    let n = costs.len();
    let seen = if count.complete {
        format!("of all {} operators that there are", count.operators.len())
    } else {
        format!("of {n} operators found")
    };
    let least = |costs: &mut dyn Iterator<Item = f64>| costs.fold(f64::INFINITY, f64::min);
    let least_flops = least(&mut costs.iter().map(|c| c.flops));
    let least_params = least(&mut costs.iter().map(|c| c.params));
    if least_flops > flops {
        let raise = up(least_flops);
        let message = format!(
            "{flops} kills the space: {seen} the cheapest needs {raise} of the original's multiply-adds; raise it to at least {raise}"
        );
        return Fault { key: "budget.flops_ratio", message };
    }
    if least_params > params {
        let raise = up(least_params);
        let message = format!(
            "{params} kills the space: {seen} the smallest has {raise} of the original's parameters in some slot; raise it to at least {raise}"
        );
        return Fault { key: "budget.params_ratio", message };
    }
    let cheap = costs.iter().filter(|c| c.flops <= flops);
    let small = costs.iter().filter(|c| c.params <= params);
    let message = format!(
        "{params} contradicts flops_ratio = {flops}: {seen} some keep one of the two, none keeps both; raise params_ratio to at least {}, or flops_ratio to at least {}",
        up(least(&mut cheap.map(|c| c.params))),
        up(least(&mut small.map(|c| c.flops)))
    );
    Fault { key: "budget.params_ratio", message }
}

/// No operator was found at all.
fn barren(spec: &Spec, space: &Space, count: &Count) -> Fault {
    let depth = space.options.depth;
    let deepest = count.levels.iter().rposition(|l| l.n_states > 0).unwrap_or(0);
    let refused = count.levels.get(deepest).map(|l| &l.refused);
    let why = refused.and_then(|r| Some((r.most()?, r.of(r.most()?)))).map_or(String::new(), |(rule, n)| {
        format!("; most that the deepest states ({deepest} actions) lead to is refused as \"{}\" ({n} ×)", rule.name())
    });
    let idle = idle(spec, space);
    let idle =
        if idle.is_empty() { String::new() } else { format!("; coefficients that divide no axis in every slot: {}", idle.join(", ")) };
    let holds = |deeper: &usize| {
        let mut space = space.clone();
        space.options.depth = *deeper;
        !space.count_by_depth(*deeper, MAX_STATES).operators.is_empty()
    };
    let way_out = match (depth + 1..=depth + MAX_DEEPER).find(holds) {
        Some(deeper) => format!("raise it to at least {deeper}"),
        None => "raise it, or give coefficients that divide the slots' channels".into(),
    };
    let seen = if count.complete { "no operator has so few actions".to_string() } else { format!("{MAX_WALKS} walks found no operator") };
    Fault { key: "operator.max_depth", message: format!("{depth} kills the space: {seen}{why}{idle}; {way_out}") }
}

/// Coefficients that divide no axis in every slot, as `g = 5`: they can only be windows and ranks.
pub fn idle(spec: &Spec, space: &Space) -> Vec<String> {
    let axes = space.shapes.output.iter().chain(&space.shapes.data);
    let sizes: Vec<_> = axes.map(|a| a.size).collect();
    let divides = |name: &str| {
        let coefficient = space.variables().size(name);
        coefficient.is_some_and(|c| sizes.iter().any(|s| space.sizes().is_whole(s.over(c))))
    };
    spec.operator.coefficients.iter().filter(|(name, _)| !divides(name)).map(|(name, value)| format!("{name} = {value}")).collect()
}

/// Four digits, rounded up.
fn up(ratio: f64) -> f64 {
    (ratio * 1e4).ceil() / 1e4
}
