//! Which sizes may be drawn, and how much of each variable an operator may still use (Syno, section 5).

use super::Folded;
use super::size::{Binding, MAX_VARIABLES, Size, Variables};
use crate::error::{Result, invalid};
use std::cmp::Ordering;

/// Syno's range of enumerated exponents: primaries 0…4, coefficients −2…2.
pub const PER_VARIABLE: i32 = 5;

/// What a size is, by its exponents alone. Only `General` and `Coefficient` can be sizes of axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A primary divides.
    Undefined,
    /// Some primary occurs, none divides.
    General,
    One,
    /// No primary occurs and nothing divides.
    Coefficient,
    /// No primary occurs and something divides.
    IllegalCoefficient,
}

/// An exact non-negative fraction, compared by value; the denominator is not 0.
#[derive(Clone, Copy, Debug)]
pub struct Ratio(pub u128, pub u128);

impl PartialEq for Ratio {
    fn eq(&self, other: &Ratio) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Ratio {}

impl PartialOrd for Ratio {
    fn partial_cmp(&self, other: &Ratio) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ratio {
    fn cmp(&self, other: &Ratio) -> Ordering {
        match (self.0.checked_mul(other.1), other.0.checked_mul(self.1)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // whole parts first, then the remainders upside down
            _ => (self.0 / self.1).cmp(&(other.0 / other.1)).then_with(|| match (self.0 % self.1, other.0 % other.1) {
                (0, 0) => Ordering::Equal,
                (0, _) => Ordering::Less,
                (_, 0) => Ordering::Greater,
                (a, b) => Ratio(other.1, b).cmp(&Ratio(self.1, a)),
            }),
        }
    }
}

/// The sizes of one request: its variables, their values in every slot, and the limits on what may be drawn.
#[derive(Clone, Debug)]
pub struct Sizes {
    variables: Variables,
    /// One list per binding, in the table's order.
    values: Vec<Vec<u64>>,
    /// How often each variable may be used, in the table's order.
    pub max_occurrences: Vec<u8>,
    /// Variables with a non-zero exponent in one size.
    pub max_variables: u32,
    /// Sum of absolute exponents in one size.
    pub max_powers: u32,
    /// Every size must be a whole number under every binding.
    pub exact: bool,
    /// Exponents tried per variable: [`PER_VARIABLE`] in Syno.
    pub n_per_variable: i32,
    /// A Share uses up coefficients too; a sum or a step always does.
    pub counts_coefficients: bool,
    /// A Merge uses up what its cut adds. Syno means to and does not: its merges are free.
    pub counts_merges: bool,
}

impl Sizes {
    /// Sizes without limits on variables and powers, divisions exact, coefficients and merges free.
    ///
    /// # Errors
    /// No binding; a variable without a value ≥ 1 or named twice; too many variables.
    pub fn new(max_occurrences: &[(&str, u8)], bindings: &[Binding]) -> Result<Sizes> {
        let variables = Variables::new(max_occurrences.iter().map(|(name, _)| (*name).to_string()))?;
        if variables.names().len() != max_occurrences.len() {
            return invalid("a variable is named twice: give each its number of occurrences once");
        }
        if bindings.is_empty() {
            return invalid("no binding: give the variables values for at least one slot");
        }
        let mut values = Vec::new();
        for binding in bindings {
            let row: Option<Vec<u64>> = variables.values(binding)?.into_iter().map(|v| u64::try_from(v).ok().filter(|&v| v >= 1)).collect();
            match row {
                Some(row) => values.push(row),
                None => return invalid(format!("a variable below 1 in {binding}: give it a value ≥ 1")),
            }
        }
        let most = |name: &String| max_occurrences.iter().find(|(n, _)| n == name).map_or(0, |m| m.1);
        let max_occurrences = variables.names().iter().map(most).collect();
        Ok(Sizes {
            variables,
            values,
            max_occurrences,
            max_variables: u32::MAX,
            max_powers: u32::MAX,
            exact: true,
            n_per_variable: PER_VARIABLE,
            counts_coefficients: false,
            counts_merges: false,
        })
    }

    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    pub fn n_bindings(&self) -> usize {
        self.values.len()
    }

    pub fn kind(&self, size: Size) -> Kind {
        let (primaries, coefficients) = self.parts(size);
        let (primaries, coefficients) = (signs(primaries), signs(coefficients));
        let (numerator, denominator) = size.factor();
        if primaries.divides {
            Kind::Undefined
        } else if primaries.multiplies {
            Kind::General
        } else if coefficients.divides || denominator > 1 {
            Kind::IllegalCoefficient
        } else if coefficients.multiplies || numerator > 1 {
            Kind::Coefficient
        } else {
            Kind::One
        }
    }

    fn parts(&self, size: Size) -> (u128, u128) {
        let lanes = u128::from_le_bytes(size.exponents().map(i8::cast_unsigned));
        let bits = 8 * self.variables.n_primary() as u32;
        let primary = 1u128.checked_shl(bits).map_or(u128::MAX, |b| b - 1);
        (lanes & primary, lanes & !primary)
    }

    /// May `x / y` be left over: defined, more than one, and no fraction of coefficients.
    pub fn quotient_legal(&self, x: Size, y: Size) -> bool {
        matches!(self.kind(x.over(y)), Kind::General | Kind::Coefficient)
    }

    /// The value under the `i`-th binding, not reduced; `None` on overflow.
    pub fn value(&self, size: Size, i: usize) -> Option<Ratio> {
        let (numerator, denominator) = size.factor();
        let (mut above, mut below) = (u128::from(numerator), u128::from(denominator));
        for (&value, power) in self.values.get(i)?.iter().zip(size.exponents()) {
            let side = if power > 0 { &mut above } else { &mut below };
            for _ in 0..power.unsigned_abs() {
                *side = side.checked_mul(u128::from(value))?;
            }
        }
        Some(Ratio(above, below))
    }

    /// Does it hold under every binding? The common case, without overflow of 64 bits, must be fast.
    fn all(&self, size: Size, holds: impl Fn(Ratio) -> bool, holds_small: impl Fn(u64, u64) -> bool) -> bool {
        let (numerator, denominator) = size.factor();
        let exponents = size.exponents();
        let n = self.variables.names().len();
        self.values.iter().enumerate().all(|(i, values)| {
            let (mut above, mut below) = (u64::from(numerator), u64::from(denominator));
            let mut fits = true;
            for (&value, &power) in values.iter().zip(&exponents[..n]) {
                let side = if power > 0 { &mut above } else { &mut below };
                for _ in 0..power.unsigned_abs() {
                    let (product, over) = side.overflowing_mul(value);
                    *side = product;
                    fits &= !over;
                }
            }
            if fits { holds_small(above, below) } else { self.value(size, i).is_some_and(&holds) }
        })
    }

    fn best(&self, size: Size, better: impl Fn(&Ratio, &Ratio) -> bool) -> Option<Ratio> {
        let first = self.value(size, 0)?;
        (1..self.values.len()).try_fold(first, |best, i| self.value(size, i).map(|v| if better(&v, &best) { v } else { best }))
    }

    /// The least value over all bindings; `None` on overflow.
    pub fn lower(&self, size: Size) -> Option<Ratio> {
        self.best(size, |a, b| a < b)
    }

    /// The greatest value over all bindings; `None` on overflow.
    pub fn upper(&self, size: Size) -> Option<Ratio> {
        self.best(size, |a, b| a > b)
    }

    /// Is the value ≥ `least` under every binding?
    pub fn at_least(&self, size: Size, least: Ratio) -> bool {
        self.all(size, |v| v >= least, |a, b| Ratio(a.into(), b.into()) >= least)
    }

    /// Is the value ≤ `most` under every binding?
    pub fn at_most(&self, size: Size, most: Ratio) -> bool {
        self.all(size, |v| v <= most, |a, b| Ratio(a.into(), b.into()) <= most)
    }

    /// Is the value < `most` under every binding?
    pub fn is_below(&self, size: Size, most: Ratio) -> bool {
        self.all(size, |v| v < most, |a, b| Ratio(a.into(), b.into()) < most)
    }

    /// A whole number under every binding?
    pub fn is_whole(&self, size: Size) -> bool {
        self.all(size, |v| v.0 % v.1 == 0, |a, b| a % b == 0)
    }

    /// Is the numerator of the reduced value odd under every binding?
    pub fn is_odd(&self, size: Size) -> bool {
        // reducing removes the same factors of two from both sides
        self.all(size, |v| v.0.trailing_zeros() <= v.1.trailing_zeros(), |a, b| a.trailing_zeros() <= b.trailing_zeros())
    }

    /// Can this be the size of an axis: no fraction of coefficients, not one, and ≥ 1 everywhere?
    pub fn legal_to_sample(&self, size: Size) -> bool {
        matches!(self.kind(size), Kind::General | Kind::Coefficient) && self.all(size, |v| v.0 >= v.1, |a, b| a >= b)
    }

    /// Few enough variables and powers, and whole where divisions must be exact.
    pub fn valid(&self, size: Size) -> bool {
        self.is_small(size) && (!self.exact || self.is_whole(size))
    }

    fn is_small(&self, size: Size) -> bool {
        let (mut n_variables, mut n_powers) = (0, 0);
        for p in size.exponents() {
            n_variables += u32::from(p != 0);
            n_powers += u32::from(p.unsigned_abs());
        }
        n_variables <= self.max_variables && n_powers <= self.max_powers
    }

    /// [`Sizes::legal_to_sample`] and [`Sizes::valid`].
    pub fn drawable(&self, size: Size) -> bool {
        self.is_axis(size) && self.has_room(size)
    }

    /// What the exponents alone tell of [`Sizes::drawable`].
    fn is_axis(&self, size: Size) -> bool {
        self.is_small(size) && matches!(self.kind(size), Kind::General | Kind::Coefficient)
    }

    /// What the values tell of it; whole implies ≥ 1.
    fn has_room(&self, size: Size) -> bool {
        if self.exact { self.is_whole(size) } else { self.all(size, |v| v.0 >= v.1, |a, b| a >= b) }
    }

    /// What an operator without anything in it may use.
    pub fn allowance(&self) -> Allowance {
        let mut left = [0; MAX_VARIABLES];
        for (left, &most) in left.iter_mut().zip(&self.max_occurrences) {
            *left = i8::try_from(most).unwrap_or(i8::MAX);
        }
        Allowance { left }
    }

    /// The allowance after a sum over this size or a step of it; `None` where it does not suffice.
    pub fn spent(&self, allowance: &Allowance, size: Size) -> Option<Allowance> {
        used(allowance, size.exponents(), MAX_VARIABLES)
    }

    /// The allowance after a Share of a dim of this size; `None` where it does not suffice. Coefficients are free unless
    /// [`Sizes::counts_coefficients`].
    pub fn shared(&self, allowance: &Allowance, size: Size) -> Option<Allowance> {
        let n_counted = if self.counts_coefficients { MAX_VARIABLES } else { self.variables.n_primary() };
        used(allowance, size.exponents(), n_counted)
    }

    /// The allowance after a Merge into `group` blocks of size `block`: per variable `(|a| + |b| − |a + b|) / 2`, that is
    /// what cancels between the two parts. Unchanged where merges are free ([`Sizes::counts_merges`]).
    pub fn merged(&self, allowance: &Allowance, block: Size, group: Size) -> Option<Allowance> {
        if !self.counts_merges {
            return Some(*allowance);
        }
        let mut cancelled = [0; MAX_VARIABLES];
        for (both, (a, b)) in cancelled.iter_mut().zip(block.exponents().into_iter().zip(group.exponents())) {
            *both = if (a < 0) == (b < 0) { 0 } else { a.saturating_abs().min(b.saturating_abs()) };
        }
        used(allowance, cancelled, MAX_VARIABLES)
    }

    /// All sizes that a new sum or step may have, in order.
    pub fn free(&self, allowance: &Allowance) -> Vec<Size> {
        let (most, half) = (self.n_per_variable - 1, self.n_per_variable / 2);
        let ranges = self.ranges(|i, is_primary| {
            let left = i32::from(allowance.left[i]);
            if is_primary { (0, left.min(most)) } else { ((half - most).max(-left), left.min(half)) }
        });
        self.inside(&ranges, |size| self.is_small(size), |size| self.drawable(size))
    }

    /// All blocks into which a dim of this size may be merged, in order: both parts can be drawn.
    pub fn divisors(&self, size: Size, allowance: &Allowance) -> Vec<Size> {
        let (most, half) = (self.n_per_variable - 1, self.n_per_variable / 2);
        let ranges = self.ranges(|i, is_primary| {
            let (power, left) = (i32::from(size.exponent(i)), i32::from(allowance.left[i]));
            let (low, high) = (power / 2 + half - most, power / 2 + half);
            if is_primary {
                let up = (-low).max(0);
                (low + up, (high + up).min(power))
            } else if power >= 0 {
                (low.max(-left), high.min(power + left))
            } else {
                (low.max(power - left), high.min(left))
            }
        });
        self.inside(
            &ranges,
            |block| self.is_small(block),
            |block| {
                let group = size.over(block);
                self.is_axis(block) && self.is_axis(group) && self.has_room(block) && self.has_room(group)
            },
        )
    }

    /// All sizes with exponents between those of the two that can be the size of an axis.
    pub fn between(&self, low: Size, high: Size) -> Vec<Size> {
        let ranges = self.ranges(|i, _| (i32::from(low.exponent(i)), i32::from(high.exponent(i))));
        self.inside(&ranges, |_| true, |size| self.legal_to_sample(size))
    }

    fn ranges(&self, range: impl Fn(usize, bool) -> (i32, i32)) -> Vec<(i32, i32)> {
        let n_primary = self.variables.n_primary();
        (0..self.variables.names().len()).map(|i| range(i, i < n_primary)).collect()
    }

    /// All sizes in a box that are kept; a size that does not go on is not given further variables.
    fn inside(&self, ranges: &[(i32, i32)], goes_on: impl Fn(Size) -> bool, keep: impl Fn(Size) -> bool) -> Vec<Size> {
        let mut sizes = vec![Size::ONE];
        for (i, &(low, high)) in ranges.iter().enumerate() {
            let with = |size: &Size| {
                let size = *size;
                (low..=high).filter_map(move |p| i8::try_from(p).ok().map(|p| size.with_exponent(i, p)))
            };
            sizes = sizes.iter().flat_map(with).filter(|&size| goes_on(size)).collect();
        }
        sizes.retain(|&size| keep(size));
        sizes
    }

    /// All multisets of at most `n` sizes to sum over, each sorted, smaller ones first. No product of one exceeds `most`
    /// times the data under any binding, and none uses more than the allowance.
    pub fn reductions(&self, n: usize, data: Size, most: Ratio) -> Vec<Vec<Size>> {
        let free = self.free(&self.allowance());
        let mut all: Vec<(Vec<Size>, Size, Allowance)> = vec![(vec![], Size::ONE, self.allowance())];
        let mut from = 0;
        for _ in 0..n {
            let until = all.len();
            for i in from..until {
                let (sizes, product, allowance) = all[i].clone();
                let first = sizes.last().map_or(0, |last| free.partition_point(|size| size < last));
                for &size in &free[first..] {
                    let product = product.times(size);
                    if let Some(allowance) = self.spent(&allowance, size)
                        && self.at_most(product.over(data), most)
                    {
                        let sizes = sizes.iter().copied().chain([size]).collect();
                        all.push((sizes, product, allowance));
                    }
                }
            }
            from = until;
        }
        all.into_iter().map(|(sizes, ..)| sizes).collect()
    }
}

struct Signs {
    divides: bool,
    multiplies: bool,
}

/// Signs of sixteen packed exponents.
fn signs(lanes: u128) -> Signs {
    let negative = lanes & u128::from_le_bytes([0x80; MAX_VARIABLES]);
    Signs { divides: negative != 0, multiplies: has_positive(lanes, negative) }
}

fn has_positive(lanes: u128, negative: u128) -> bool {
    // spread each sign bit over its byte and clear those bytes
    let mask = (negative >> 7) * 0xff;
    lanes & !mask != 0
}

/// How often each variable may still be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowance {
    left: [i8; MAX_VARIABLES],
}

impl Allowance {
    /// What is left of the `i`-th variable.
    pub fn left(&self, i: usize) -> i8 {
        self.left[i]
    }
}

/// The allowance without the absolute values of the first `n_counted` exponents.
fn used(allowance: &Allowance, exponents: [i8; MAX_VARIABLES], n_counted: usize) -> Option<Allowance> {
    let mut left = allowance.left;
    for (left, power) in left.iter_mut().zip(exponents).take(n_counted) {
        let rest = i16::from(*left) - i16::from(power.unsigned_abs());
        *left = i8::try_from(rest).ok().filter(|&l| l >= 0)?;
    }
    Some(Allowance { left })
}

/// Divisors found so far, kept by whoever asks for them often.
#[derive(Clone, Debug, Default)]
pub struct Divisors {
    found: Folded<(Size, Allowance), Vec<Size>>,
}

impl Divisors {
    /// [`Sizes::divisors`], always asked with the same `sizes`.
    pub fn of(&mut self, sizes: &Sizes, size: Size, allowance: &Allowance) -> &[Size] {
        self.found.entry((size, *allowance)).or_insert_with(|| sizes.divisors(size, allowance))
    }
}
