//! Makes sizes whole by enlarging primaries, where divisions are not exact (Syno's padding of the sizes of a layer).

use super::size::{MAX_VARIABLES, Size, Variables};
use crate::error::{Result, invalid};

/// `Σ power·v ≥ exponent`, `v` being the exponents of one prime in what each primary is made a multiple of.
struct Constraint {
    powers: [i8; MAX_VARIABLES],
    exponent: u32,
}

impl Constraint {
    fn missing(&self, v: &[u32]) -> u32 {
        let have: u32 = self.powers.iter().zip(v).map(|(&p, &v)| u32::try_from(p).unwrap_or(0) * v).sum();
        self.exponent.saturating_sub(have)
    }

    fn contains(&self, i: usize) -> bool {
        self.powers[i] > 0
    }
}

/// The values, primaries rounded up so that every size in `whole` is a whole number. `data` and `output` are the tensors'
/// numbers of elements: the primary that enlarges them least is taken where there is a choice.
///
/// # Errors
/// A size without primaries that is no whole number; values too large.
pub fn pad(variables: &Variables, values: &[i64], whole: &[Size], data: Size, output: Size) -> Result<Vec<i64>> {
    let n_primary = variables.n_primary();
    if values.len() != variables.names().len() || values.iter().any(|&v| v < 1) {
        return invalid("a variable without a value ≥ 1: give each variable one");
    }
    let mut constraints: Vec<(i64, Constraint)> = Vec::new();
    for &size in whole {
        let mut powers = size.exponents();
        powers[n_primary..].fill(0);
        let coefficient = (0..n_primary).fold(size, |s, i| s.with_exponent(i, 0));
        let Some((_, denominator)) = coefficient.fraction(values) else {
            return invalid(format!("the size {} is too large to pad", size.print(variables)));
        };
        if size.divides_by_primary(variables) || denominator > 1 && powers.iter().all(|&p| p == 0) {
            return invalid(format!("{} cannot be made whole: only primaries are enlarged", size.print(variables)));
        }
        constraints.extend(primes(denominator).map(|(prime, exponent)| (prime, Constraint { powers, exponent })));
    }
    let mut primes: Vec<i64> = constraints.iter().map(|c| c.0).collect();
    primes.sort_unstable();
    primes.dedup();

    // what each primary must be a multiple of
    let mut factors = vec![1i64; n_primary];
    let mut exponents = vec![vec![0u32; n_primary]; primes.len()];
    let raise = |factors: &mut Vec<i64>, v: &mut Vec<u32>, prime: i64, i: usize, by: u32| {
        v[i] += by;
        factors[i] = prime.checked_pow(by).and_then(|f| factors[i].checked_mul(f))?;
        Some(())
    };
    let too_large = || crate::error::Error::Invalid("the padded sizes are too large: use smaller coefficients".into());
    for (&prime, v) in primes.iter().zip(&mut exponents) {
        for (_, c) in constraints.iter().filter(|c| c.0 == prime) {
            let mut contained = (0..n_primary).filter(|&i| c.contains(i));
            if let (Some(i), None) = (contained.next(), contained.next()) {
                let by = c.missing(v).div_ceil(c.powers[i] as u32);
                raise(&mut factors, v, prime, i, by).ok_or_else(too_large)?;
            }
        }
    }
    for (&prime, v) in primes.iter().zip(&mut exponents) {
        loop {
            let open: Vec<&Constraint> = constraints.iter().filter(|c| c.0 == prime && c.1.missing(v) > 0).map(|c| &c.1).collect();
            // growth per step: power in a tensor over value, times the factor so far
            let growth = |&i: &usize| {
                let power = i128::from(data.exponent(i).max(output.exponent(i)).max(0));
                (power * i128::from(factors[i]), i128::from(values[i]))
            };
            let less = |a: &usize, b: &usize| {
                let ((a, x), (b, y)) = (growth(a), growth(b));
                (a.saturating_mul(y)).cmp(&b.saturating_mul(x))
            };
            let Some(i) = (0..n_primary).filter(|&i| open.iter().any(|c| c.contains(i))).min_by(less) else { break };
            let by = open.iter().filter(|c| c.contains(i)).map(|c| c.missing(v).div_ceil(c.powers[i] as u32)).max().unwrap_or(0);
            raise(&mut factors, v, prime, i, by).ok_or_else(too_large)?;
        }
    }
    let round = |(i, &value): (usize, &i64)| match factors.get(i) {
        Some(&f) => value.checked_add(f - 1).map(|v| v / f * f).ok_or_else(too_large),
        None => Ok(value),
    };
    values.iter().enumerate().map(round).collect()
}

/// Zeros in front of and behind an axis that grows from one size to the other; an output is cropped by the same.
pub fn borders(size: i64, padded: i64) -> (i64, i64) {
    let more = (padded - size).max(0);
    (more / 2, more - more / 2)
}

/// The prime powers of a number.
fn primes(mut n: i64) -> impl Iterator<Item = (i64, u32)> {
    let mut prime = 2;
    std::iter::from_fn(move || {
        while n > 1 {
            if prime * prime > n {
                prime = n;
            }
            let mut exponent = 0;
            while n % prime == 0 {
                (n, exponent) = (n / prime, exponent + 1);
            }
            let found = prime;
            prime += 1;
            if exponent > 0 {
                return Some((found, exponent));
            }
        }
        None
    })
}
