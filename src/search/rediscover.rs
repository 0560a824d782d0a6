//! Known operators found again in a space by walks that know nothing of them.

use crate::error::Result;
use crate::lower::{Fingerprint, fingerprint, small_bindings};
use crate::synth::canon::Rule;
use crate::synth::{Operator, Space, Synthesizer, library};
use std::time::Instant;

/// A known operator that was drawn.
#[derive(Clone, Debug)]
pub struct Found {
    /// What it was called.
    pub name: String,
    /// As it was drawn, perhaps written differently.
    pub operator: Operator,
    /// Distinct operators drawn so far, this one included.
    pub n_drawn: usize,
    pub secs: f64,
}

/// Draws distinct operators until all that are wanted (what to call it, and its name in the library or its text) were among them, or
/// `most` were drawn; the names of those that were not.
///
/// Equal functions count, however they are written. Two rules are off: a 1×1 convolution moves nothing between places, and in
/// factorisations of a small rank channels meet through small axes only.
///
/// # Errors
/// An unknown name; an operator whose sizes do not divide in the space's slots.
pub fn rediscover(
    mut space: Space,
    seed: u64,
    wanted: &[(&str, &str)],
    most: usize,
    report: &mut dyn FnMut(&Found),
) -> Result<Vec<String>> {
    space.options.off = space.options.off.with(&[Rule::NoExchange, Rule::SmallMix]);
    let small = small_bindings(&space.bindings)?;
    let mut missing: Vec<(String, Fingerprint)> = Vec::new();
    for (name, operator) in wanted {
        missing.push(((*name).to_string(), fingerprint(&library::resolve(operator)?, &small)?));
    }
    let mut synthesizer = Synthesizer::new(space, seed)?;
    // what moves data along one axis or none is known too
    synthesizer.refuse_one_way = 0.0;
    let start = Instant::now();
    for n_drawn in 1..=most {
        let Some(operator) = synthesizer.next().filter(|_| !missing.is_empty()) else { break };
        // sizes too large to run through are no known operator's
        let Ok(function) = fingerprint(&operator, &small) else { continue };
        for (name, _) in missing.extract_if(.., |m| m.1 == function) {
            report(&Found { name, operator: operator.clone(), n_drawn, secs: start.elapsed().as_secs_f64() });
        }
    }
    Ok(missing.into_iter().map(|m| m.0).collect())
}
