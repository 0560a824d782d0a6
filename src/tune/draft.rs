//! Drafts: random configs of which the likely fast ones are kept, before anything was measured.
//!
//! MetaSchedule's tiled spaces cut each loop of a block in four (spatial) or two (summed). On a processor with vectors the
//! innermost cuts decide most: the last spatial loop's is the vector, their product the tile that stays in registers. Of
//! 1,500 random configs of convolutions measured on one AVX-512 core those with a vector of 16 or more were 1.15 times as slow
//! as the best of their workload in the median, those with 4 lanes 2.3 times, with 1 lane 7.4 times. MetaSchedule draws one in ten so.

use super::config::{Config, Decision, Knob, Space};
use rand::Rng;

/// Drafts of which one is kept.
const N_DRAWN: usize = 24;
/// Lanes of f32 that fill the widest vectors in use; narrower machines use several registers.
const LANES: f64 = 16.0;
/// log2 of the elements of a register tile that were fastest: 16 lanes × 2 to 16.
const TILE: (f64, f64) = (5.0, 8.0);
/// log2 of the terms of the innermost sums that were fastest.
const TERMS: (f64, f64) = (1.0, 5.0);
/// What is lost (log2 of the time) for each halving outside of these.
const LANES_LOSS: f64 = 0.7;
const TILE_LOSS: f64 = 0.4;
const TERMS_LOSS: f64 = 0.3;
/// Drafts differ by this much at random, so that they are not all alike.
const NOISE: f64 = 0.5;
/// Loops that a block can be computed at are counted from outside; TVM takes the next legal one.
const LOCATIONS: std::ops::Range<i64> = -2..12;

/// A config that is likely among the better ones of its space.
pub fn draft(space: &Space, number: usize, rng: &mut impl Rng) -> Config {
    let drawn = (0..N_DRAWN).map(|_| {
        let decisions: Vec<Decision> = space.knobs.iter().map(|k| draw(k, rng)).collect();
        (loss(&decisions) + rng.random_range(0.0..NOISE), decisions)
    });
    let best = drawn.min_by(|a, b| a.0.total_cmp(&b.0));
    Config { space: number, decisions: best.map_or(Vec::new(), |b| b.1) }
}

fn draw(knob: &Knob, rng: &mut impl Rng) -> Decision {
    match *knob {
        Knob::PerfectTile { extent, n, max_innermost } => Decision::PerfectTile(tile(extent, n, max_innermost, rng)),
        Knob::Categorical { n } => Decision::Categorical(rng.random_range(0..n)),
        Knob::ComputeLocation => Decision::ComputeLocation(rng.random_range(LOCATIONS)),
    }
}

/// Random factors whose product is `extent`, each divisor equally likely, from the innermost out.
fn tile(extent: i64, n: usize, max_innermost: i64, rng: &mut impl Rng) -> Vec<i64> {
    let mut factors = vec![1; n];
    let mut left = extent;
    for place in (1..n).rev() {
        let most = if place == n - 1 { max_innermost } else { left };
        let divisors: Vec<i64> = (1..=left.min(most)).filter(|d| left % d == 0).collect();
        factors[place] = divisors[rng.random_range(0..divisors.len())];
        left /= factors[place];
    }
    factors[0] = left;
    factors
}

/// log2 of how much slower than the best a config is likely to be, by its tiled blocks: a run of loops cut in four, then of
/// loops cut in two.
fn loss(decisions: &[Decision]) -> f64 {
    let mut total = 0.0;
    let mut place = 0;
    let factors = |i: usize, n: usize| match decisions.get(i) {
        Some(Decision::PerfectTile(f)) if f.len() == n => Some(f),
        _ => None,
    };
    while place < decisions.len() {
        let (mut tile, mut lanes, mut terms, mut n_spatial) = (1.0, 1, 1.0, 0);
        while let Some(f) = factors(place, 4) {
            lanes = f[3];
            tile *= f[3] as f64;
            n_spatial += 1;
            place += 1;
        }
        while let (Some(f), true) = (factors(place, 2), n_spatial > 0) {
            terms *= f[1] as f64;
            place += 1;
        }
        if n_spatial > 0 {
            total += LANES_LOSS * (LANES / lanes as f64).log2().max(0.0);
            total += TILE_LOSS * outside(tile.log2(), TILE) + TERMS_LOSS * outside(terms.log2(), TERMS);
        } else {
            place += 1;
        }
    }
    total
}

/// How far a value is from a range.
fn outside(value: f64, (low, high): (f64, f64)) -> f64 {
    (low - value).max(value - high).max(0.0)
}
