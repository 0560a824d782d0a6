//! Coordinates of a space: every knob as a few axes with sorted values, so that a step along one is a small change.
//!
//! A tile of n factors has n − 1 axes, its inner factors; the outermost is what is left (Ansor's split, section 4.2). The values
//! of an axis are the divisors that the other inner factors leave room for, in order. Categories and locations are one axis each.

use super::config::{Config, Decision, Knob, Origin, Space};
use rand::Rng;

/// Vectors of a register tile, at most: twice the registers there are. Larger ones are never good, and their straight code takes LLVM
/// up to minutes.
const MAX_VECTORS: i64 = 64;
/// Values of f32 in one.
const LANES: i64 = 16;

/// Loops that a block can be computed at are counted from outside; TVM takes the next legal one.
pub const LOCATIONS: std::ops::Range<i64> = -2..12;

/// One coordinate: a knob and, for tiles, the place of the factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Axis {
    pub knob: usize,
    pub place: usize,
}

/// All divisors of `n`, ascending.
pub fn divisors(n: i64) -> Vec<i64> {
    let mut found: Vec<i64> = (1..).take_while(|d| d * d <= n).filter(|d| n % d == 0).collect();
    let large: Vec<i64> = found.iter().rev().map(|d| n / d).filter(|d| !found.contains(d)).collect();
    found.extend(large);
    found
}

impl Space {
    /// Why a config is not worth its build, where that is known beforehand.
    pub fn refusal(&self, config: &Config) -> Option<&'static str> {
        if self.origin != Origin::Tiles {
            return None;
        }
        // the loops of one block are cut in three, one knob after the other, the vector last
        let innermost = |decision: &Decision| match decision {
            Decision::PerfectTile(factors) if factors.len() == 3 => factors.last().copied(),
            _ => None,
        };
        let blocks = config.decisions.split(|d| innermost(d).is_none());
        let n_vectors = blocks.filter_map(|block| {
            let (lanes, rows) = block.split_last()?;
            Some((innermost(lanes)? + LANES - 1) / LANES * rows.iter().filter_map(innermost).product::<i64>())
        });
        n_vectors.max().is_some_and(|n| n > MAX_VECTORS).then_some("register tile of more than 64 vectors")
    }

    /// The axes that have more than one value, knob after knob, inner factors first.
    pub fn axes(&self) -> Vec<Axis> {
        let mut axes = Vec::new();
        for (knob, kind) in self.knobs.iter().enumerate() {
            match *kind {
                Knob::PerfectTile { extent, n, .. } if extent > 1 => axes.extend((1..n).rev().map(|place| Axis { knob, place })),
                Knob::Categorical { n } if n > 1 => axes.push(Axis { knob, place: 0 }),
                Knob::ComputeLocation => axes.push(Axis { knob, place: 0 }),
                _ => {}
            }
        }
        axes
    }

    /// The values of an axis, ascending, while all other axes stay, and which of them the config has; `None` for a config of
    /// another space.
    pub fn ladder(&self, config: &Config, axis: Axis) -> Option<(Vec<i64>, usize)> {
        let (values, value) = match (self.knobs.get(axis.knob)?, config.decisions.get(axis.knob)?) {
            (Knob::PerfectTile { n, max_innermost, .. }, Decision::PerfectTile(factors)) => {
                let value = *factors.get(axis.place)?;
                let most = if axis.place + 1 == *n { *max_innermost } else { i64::MAX };
                let mut values = divisors(factors.first()? * value);
                values.retain(|&v| v <= most);
                (values, value)
            }
            (Knob::Categorical { n }, Decision::Categorical(value)) => ((0..*n).collect(), *value),
            (Knob::ComputeLocation, Decision::ComputeLocation(value)) => (LOCATIONS.collect(), *value),
            _ => return None,
        };
        let at = values.iter().position(|&v| v >= value).unwrap_or(values.len().checked_sub(1)?);
        Some((values, at))
    }

    /// All values of a knob, in order: tiles by their innermost factors first.
    pub fn values(&self, knob: usize) -> Vec<Decision> {
        match self.knobs.get(knob) {
            Some(&Knob::PerfectTile { extent, n, max_innermost }) => {
                let mut tiles = cuts(extent, n);
                tiles.retain(|t| t.last().is_none_or(|&last| last <= max_innermost));
                tiles.sort_by(|a, b| a.iter().rev().cmp(b.iter().rev()));
                tiles.into_iter().map(Decision::PerfectTile).collect()
            }
            Some(&Knob::Categorical { n }) => (0..n).map(Decision::Categorical).collect(),
            Some(Knob::ComputeLocation) => LOCATIONS.map(Decision::ComputeLocation).collect(),
            None => vec![],
        }
    }

    /// The config whose value on one axis is so many steps up (or down) its ladder; `None` beyond its ends.
    pub fn step(&self, config: &Config, axis: Axis, by: i64) -> Option<Config> {
        let (values, at) = self.ladder(config, axis)?;
        let value = *values.get(usize::try_from(at as i64 + by).ok()?)?;
        let mut moved = config.clone();
        match &mut moved.decisions[axis.knob] {
            Decision::PerfectTile(factors) => {
                factors[0] = factors[0] * factors[axis.place] / value;
                factors[axis.place] = value;
            }
            Decision::Categorical(n) | Decision::ComputeLocation(n) => *n = value,
        }
        (moved != *config).then_some(moved)
    }

    /// A prime factor moved from one inner place of a tile to another, the outermost left alone: what no single axis does.
    pub fn shift(&self, config: &Config, knob: usize, from: usize, to: usize, prime: i64) -> Option<Config> {
        let Knob::PerfectTile { n, max_innermost, .. } = *self.knobs.get(knob)? else { return None };
        let mut moved = config.clone();
        let Decision::PerfectTile(factors) = moved.decisions.get_mut(knob)? else { return None };
        if from == to || factors.get(from)? % prime != 0 {
            return None;
        }
        factors[from] /= prime;
        *factors.get_mut(to)? *= prime;
        (to + 1 != n || factors[to] <= max_innermost).then_some(moved)
    }

    /// All configs one small move away: a step up or down each axis, and prime factors moved within a tile.
    pub fn neighbours(&self, config: &Config) -> Vec<Config> {
        let mut found: Vec<Config> = Vec::new();
        for axis in self.axes() {
            found.extend([1, -1].into_iter().filter_map(|by| self.step(config, axis, by)));
        }
        for (knob, decision) in config.decisions.iter().enumerate() {
            let Decision::PerfectTile(factors) = decision else { continue };
            for from in 1..factors.len() {
                for prime in primes(factors[from]) {
                    found.extend((1..factors.len()).filter_map(|to| self.shift(config, knob, from, to, prime)));
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// Random decisions: each divisor of a tile equally likely from the innermost out.
    pub fn random(&self, number: usize, rng: &mut impl Rng) -> Config {
        let decision = |knob: &Knob, rng: &mut _| match *knob {
            Knob::PerfectTile { extent, n, max_innermost } => Decision::PerfectTile(tile(extent, n, max_innermost, rng)),
            Knob::Categorical { n } => Decision::Categorical(Rng::random_range(rng, 0..n)),
            Knob::ComputeLocation => Decision::ComputeLocation(Rng::random_range(rng, LOCATIONS)),
        };
        Config { space: number, decisions: self.knobs.iter().map(|k| decision(k, rng)).collect() }
    }
}

/// All tuples of `n` factors whose product is `extent`.
fn cuts(extent: i64, n: usize) -> Vec<Vec<i64>> {
    if n <= 1 {
        return vec![vec![extent]];
    }
    let with = |first: i64| cuts(extent / first, n - 1).into_iter().map(move |rest| std::iter::once(first).chain(rest).collect());
    divisors(extent).into_iter().flat_map(with).collect()
}

/// Random factors whose product is `extent`, each divisor equally likely, from the innermost out.
fn tile(extent: i64, n: usize, max_innermost: i64, rng: &mut impl Rng) -> Vec<i64> {
    let mut factors = vec![1; n];
    let mut left = extent;
    for place in (1..n).rev() {
        let most = if place == n - 1 { max_innermost } else { left };
        let values: Vec<i64> = divisors(left).into_iter().filter(|&d| d <= most).collect();
        factors[place] = values[rng.random_range(0..values.len())];
        left /= factors[place];
    }
    factors[0] = left;
    factors
}

/// Distinct prime factors, ascending.
pub fn primes(mut n: i64) -> Vec<i64> {
    let mut found = Vec::new();
    let mut p = 2;
    while p * p <= n {
        if n % p == 0 {
            found.push(p);
            while n % p == 0 {
                n /= p;
            }
        }
        p += 1;
    }
    if n > 1 {
        found.push(n);
    }
    found
}
