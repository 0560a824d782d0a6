//! Sizes of axes: products of variable powers times a rational (Syno, section 4.1).

use crate::error::{Error, Result, invalid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

/// Variables one request may name.
pub const MAX_VARIABLES: usize = 16;

/// The variables of a request, primaries before coefficients, each sorted by name: this order is the one in which
/// sizes compare. A name that starts with a capital letter is **primary** (large, never divided by); any other is a
/// **coefficient** (a small constant that may divide).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    names: Vec<String>,
    n_primary: usize,
}

impl Variables {
    /// # Errors
    /// More than [`MAX_VARIABLES`] names.
    pub fn new(names: impl IntoIterator<Item = String>) -> Result<Variables> {
        let mut names: Vec<String> = names.into_iter().collect();
        names.sort_by_key(|n| (!is_primary(n), n.clone()));
        names.dedup();
        if names.len() > MAX_VARIABLES {
            return invalid(format!("{} variables: at most {MAX_VARIABLES} can be used; bind some to numbers", names.len()));
        }
        let n_primary = names.iter().filter(|n| is_primary(n)).count();
        Ok(Variables { names, n_primary })
    }

    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The primaries are the first so many variables.
    pub fn n_primary(&self) -> usize {
        self.n_primary
    }

    /// The size that is one variable; `None` for a name that is not in the table.
    pub fn size(&self, name: &str) -> Option<Size> {
        let i = self.names.iter().position(|n| n == name)?;
        let mut size = Size::ONE;
        size.powers[i] = 1;
        Some(size)
    }

    /// The variables' values, in the table's order.
    ///
    /// # Errors
    /// A variable without a value.
    pub fn values(&self, binding: &Binding) -> Result<Vec<i64>> {
        let value = |name: &String| match binding.0.get(name) {
            Some(&v) => Ok(v),
            None => invalid(format!("the variable {name} has no value under {binding}: give it one")),
        };
        self.names.iter().map(value).collect()
    }
}

fn is_primary(name: &str) -> bool {
    name.starts_with(|c: char| c.is_uppercase())
}

/// Values of the variables for one slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Binding(pub BTreeMap<String, i64>);

impl Binding {
    pub fn of(values: &[(&str, i64)]) -> Binding {
        Binding(values.iter().map(|(n, v)| (n.to_string(), *v)).collect())
    }

    /// Reads `N=1,Ci=64,…` (also separated by spaces).
    ///
    /// # Errors
    /// A part that is not `name=whole number ≥ 1`.
    pub fn parse(text: &str) -> Result<Binding> {
        let mut values = BTreeMap::new();
        for part in text.split([',', ' ']).filter(|p| !p.is_empty()) {
            match part.split_once('=').map(|(n, v)| (n.trim(), v.trim().parse::<i64>())) {
                Some((name, Ok(value))) if value >= 1 && !name.is_empty() => drop(values.insert(name.to_string(), value)),
                _ => return invalid(format!("{part:?} is no binding: write NAME=NUMBER, for example N=1,Ci=64,Co=64,H=56,W=56,k=3")),
            }
        }
        Ok(Binding(values))
    }

    /// This binding with one variable changed.
    pub fn with(&self, name: &str, value: i64) -> Binding {
        let mut changed = self.clone();
        changed.0.insert(name.into(), value);
        changed
    }
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<_> = self.0.iter().map(|(n, v)| format!("{n}={v}")).collect();
        f.write_str(&parts.join(","))
    }
}

/// A product of variable powers times a positive rational. Compares lexicographically: primaries, then coefficients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size {
    powers: [i8; MAX_VARIABLES],
    numerator: u32,
    denominator: u32,
}

impl Hash for Size {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // three words: sizes are hashed all the time
        let lanes = u128::from_le_bytes(self.powers.map(i8::cast_unsigned));
        state.write_u64(lanes as u64);
        state.write_u64((lanes >> 64) as u64);
        state.write_u64((u64::from(self.numerator) << 32) | u64::from(self.denominator));
    }
}

impl Size {
    pub const ONE: Size = Size { powers: [0; MAX_VARIABLES], numerator: 1, denominator: 1 };

    /// The size that is a plain number.
    pub fn number(n: u32) -> Size {
        Size { numerator: n, ..Size::ONE }
    }

    fn reduced(powers: [i8; MAX_VARIABLES], numerator: u64, denominator: u64) -> Size {
        let (mut a, mut b) = (numerator, denominator);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        let part = |n: u64| u32::try_from(n / a.max(1)).unwrap_or(u32::MAX);
        Size { powers, numerator: part(numerator), denominator: part(denominator) }
    }

    pub fn times(self, other: Size) -> Size {
        let mut powers = self.powers;
        powers.iter_mut().zip(other.powers).for_each(|(a, b)| *a = a.saturating_add(b));
        if self.numerator | self.denominator | other.numerator | other.denominator == 1 {
            return Size { powers, ..Size::ONE };
        }
        let n = u64::from(self.numerator) * u64::from(other.numerator);
        Size::reduced(powers, n, u64::from(self.denominator) * u64::from(other.denominator))
    }

    pub fn over(self, other: Size) -> Size {
        let mut inverse = other;
        inverse.powers.iter_mut().for_each(|p| *p = p.saturating_neg());
        std::mem::swap(&mut inverse.numerator, &mut inverse.denominator);
        self.times(inverse)
    }

    pub fn power(self, exponent: i32) -> Size {
        let step = |acc: Size, _| if exponent > 0 { acc.times(self) } else { acc.over(self) };
        (0..exponent.abs()).fold(Size::ONE, step)
    }

    pub fn is_one(self) -> bool {
        self == Size::ONE
    }

    /// The exponent of the `i`-th variable.
    pub fn exponent(self, i: usize) -> i8 {
        self.powers[i]
    }

    /// The exponents, in the table's order.
    pub fn exponents(self) -> [i8; MAX_VARIABLES] {
        self.powers
    }

    /// The rational factor, reduced.
    pub fn factor(self) -> (u32, u32) {
        (self.numerator, self.denominator)
    }

    /// This size with another exponent of the `i`-th variable.
    #[must_use]
    pub fn with_exponent(mut self, i: usize, exponent: i8) -> Size {
        self.powers[i] = exponent;
        self
    }

    /// No primary variable occurs.
    pub fn is_coefficient(self, variables: &Variables) -> bool {
        self.powers[..variables.n_primary].iter().all(|&p| p == 0)
    }

    /// Some primary occurs in a denominator: no such axis can exist.
    pub fn divides_by_primary(self, variables: &Variables) -> bool {
        self.powers[..variables.n_primary].iter().any(|&p| p < 0)
    }

    /// The exact value as a reduced fraction; `None` on overflow. `values` in the table's order.
    pub fn fraction(self, values: &[i64]) -> Option<(i64, i64)> {
        let (mut n, mut d) = (i128::from(self.numerator), i128::from(self.denominator));
        for (&value, power) in values.iter().zip(self.powers) {
            for _ in 0..power.unsigned_abs() {
                let side = if power > 0 { &mut n } else { &mut d };
                *side = side.checked_mul(i128::from(value))?;
            }
        }
        let (mut a, mut b) = (n, d);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        Some((i64::try_from(n / a).ok()?, i64::try_from(d / a).ok()?))
    }

    /// The value under a binding, when it is a whole number ≥ 1.
    pub fn whole(self, values: &[i64]) -> Option<i64> {
        self.fraction(values).and_then(|(n, d)| (d == 1 && n >= 1).then_some(n))
    }

    /// The value under a binding.
    ///
    /// # Errors
    /// Not a whole number ≥ 1: [`Error::Divide`] names the size and the binding.
    pub fn evaluate(self, variables: &Variables, binding: &Binding) -> Result<i64> {
        let values = variables.values(binding)?;
        self.whole(&values).ok_or_else(|| Error::Divide {
            size: self.print(variables),
            value: self.fraction(&values).map_or("too large".into(), |(n, d)| format!("{n}/{d}")),
            binding: binding.to_string(),
        })
    }

    /// For example `3*Ci*k^2/g`; `1` for the unit. [`crate::synth::Operator::parse`] reads it back.
    pub fn print(self, variables: &Variables) -> String {
        let power = |name: &String, p: i8| if p == 1 { name.clone() } else { format!("{name}^{p}") };
        let mut above: Vec<String> = if self.numerator == 1 { vec![] } else { vec![self.numerator.to_string()] };
        let mut below: Vec<String> = if self.denominator == 1 { vec![] } else { vec![self.denominator.to_string()] };
        for (name, p) in variables.names.iter().zip(self.powers) {
            match p {
                1.. => above.push(power(name, p)),
                0 => {}
                _ => below.push(power(name, -p)),
            }
        }
        let above = if above.is_empty() { "1".to_string() } else { above.join("*") };
        below.into_iter().fold(above, |text, b| format!("{text}/{b}"))
    }
}
