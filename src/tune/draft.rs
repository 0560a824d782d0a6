//! Drafts: random configs of which the likely fast ones are kept, before anything was measured.
//!
//! MetaSchedule's tiled spaces cut each loop of a block in four (spatial) or two (summed). On a processor with vectors the
//! innermost cuts decide most: the last spatial loop's is the vector, their product the tile that stays in registers. Of
//! 1,500 random configs of convolutions measured on one AVX-512 core those with a vector of 16 or more were 1.15 times as slow
//! as the best of their workload in the median, those with 4 lanes 2.3 times, with 1 lane 7.4 times. MetaSchedule draws one in ten so.
//! In our own space loops are cut in three, and the innermost cuts are registers.

use super::config::{Config, Decision, Origin, Space};
use super::roofline::Roofline;
use rand::Rng;

/// Drafts of which one is kept.
const N_DRAWN: usize = 24;
/// Lanes of f32 that fill the widest vectors in use; narrower machines use several registers.
const LANES: f64 = 16.0;
/// log2 of the elements of a register tile that were fastest: 16 lanes × 2 to 16.
const TILE: (f64, f64) = (5.0, 8.0);
/// log2 of the terms of the innermost sums that were fastest.
const TERMS: (f64, f64) = (1.0, 5.0);
/// Registers that a tile of ours should fill, of 32: fewer leave the multipliers waiting, more go through memory.
const REGISTERS: (f64, f64) = (12.0, 32.0);
/// What is lost (log2 of the time) for each halving outside of these.
const LANES_LOSS: f64 = 0.7;
const TILE_LOSS: f64 = 0.4;
const TERMS_LOSS: f64 = 0.3;
const REGISTERS_LOSS: f64 = 1.0;
/// Drafts differ by this much at random, so that they are not all alike.
const NOISE: f64 = 0.5;
/// A config that is likely among the better ones of its space.
pub fn draft(space: &Space, number: usize, rng: &mut impl Rng) -> Config {
    let drawn = (0..N_DRAWN).map(|_| {
        let config = space.random(number, rng);
        (loss(&config.decisions) + rng.random_range(0.0..NOISE), config)
    });
    let best = drawn.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(Config { space: number, decisions: vec![] }, |b| b.1)
}

/// One draft of so many comes from MetaSchedule's rules, the others from our own tiles, whose drafts are faster: on 16 workloads their
/// first one was slower than the best of 48 measurements by 1.4 in the median, that of the rules by 2.1 to 30.
const OF_RULES: usize = 4;

/// The space that the `n`-th draft comes from. At the start the spaces of the rules take turns, later chance decides.
pub fn space_of(spaces: &[Space], n: usize, starting: bool, rng: &mut impl Rng) -> usize {
    let ours = spaces.iter().position(|s| s.origin == Origin::Tiles);
    match ours {
        Some(ours) if n % OF_RULES != OF_RULES - 1 => ours,
        _ if starting => n / OF_RULES % spaces.len(),
        _ => rng.random_range(0..spaces.len()),
    }
}

/// Drafts of which one is kept where a roofline tells them apart: it costs microseconds.
const N_SCORED: usize = 192;

/// As [`draft`], with the cycles that the task's roofline expects; [`loss`] where it expects nothing. Of seven workloads the median
/// of 12 drafts, each of 64 configs, was slower than the best known program by 1.12 (by [`loss`] 1.21, at random 6; geometric means);
/// more configs find what few have, such as the borders of a depthwise convolution in registers.
pub fn draft_by(roofline: &Roofline, space: &Space, number: usize, rng: &mut impl Rng) -> Config {
    let drawn = (0..N_SCORED).map(|_| {
        let config = space.random(number, rng);
        let slow = roofline.cycles(&config).map_or_else(|| loss(&config.decisions), f64::log2);
        (slow + rng.random_range(0.0..NOISE), config)
    });
    let best = drawn.min_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(Config { space: number, decisions: vec![] }, |b| b.1)
}

/// log2 of how much slower than the best a config is likely to be, by its tiled blocks: a run of loops cut in four (in three
/// where the tile is ours), then of loops cut in two.
pub fn loss(decisions: &[Decision]) -> f64 {
    let factors = |i: usize, n: usize| match decisions.get(i) {
        Some(Decision::PerfectTile(f)) if f.len() == n => Some(f),
        _ => None,
    };
    let mut total = 0.0;
    let mut place = 0;
    while place < decisions.len() {
        let levels = if factors(place, 3).is_some() { 3 } else { 4 };
        let (mut tile, mut lanes, mut terms, mut n_spatial) = (1.0, 1.0, 1.0, 0);
        while let Some(f) = factors(place, levels) {
            lanes = f[levels - 1] as f64;
            tile *= lanes;
            n_spatial += 1;
            place += 1;
        }
        while let (Some(f), true) = (factors(place, 2), n_spatial > 0) {
            terms *= f[1] as f64;
            place += 1;
        }
        if n_spatial == 0 {
            place += 1;
            continue;
        }
        total += LANES_LOSS * (LANES / lanes).log2().max(0.0);
        if levels == 3 {
            let n_vectors = (lanes / LANES).ceil();
            // the tile, a row of weights, a value of the data
            let registers = tile / lanes * n_vectors + n_vectors + 1.0;
            total += REGISTERS_LOSS * outside(registers.log2(), (REGISTERS.0.log2(), REGISTERS.1.log2()));
        } else {
            total += TILE_LOSS * outside(tile.log2(), TILE) + TERMS_LOSS * outside(terms.log2(), TERMS);
        }
    }
    total
}

/// How far a value is from a range.
fn outside(value: f64, (low, high): (f64, f64)) -> f64 {
    (low - value).max(value - high).max(0.0)
}
