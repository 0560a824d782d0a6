//! A semantic fingerprint: equal for operators that are one family of linear maps, however they are written.
//!
//! At fixed sizes an operator is a set of terms: a place of y, a place of x, an element of each weight. A tuple `e` of weight elements
//! multiplies the linear map `M_e` of its terms, which is hashed to `L_e = Σ u(y)·v(x)` over its terms, with random `u` and `v` in the
//! field of 2⁶¹ − 1 elements: two maps that differ agree with a chance of about 2⁻⁵⁸ (Schwartz 1980, Zippel 1979). What remains is the
//! array `L`, up to an order of each weight's elements and of the weights. Its invariant is two rounds of colour refinement with sums of
//! powers in place of hashes:
//!
//! `colour_w[i] = Σ L^a`, `finer_w[i] = Σ L^b · Π_v colour_v^c`, both over the tuples in which weight w has its i-th element, and then
//! `Σ L^d · Π_w finer_w^{f_w}` over all tuples; least over the orders of the weights.
//!
//! `u` and `v` are products over axes, so axes that no index joins are independent and every sum above is a product of sums over
//! the independent parts: a convolution costs its axes, not its iterations.

use crate::error::{Result, invalid};
use crate::synth::{Binding, Dim, Graph, MAX_WEIGHTS, Operator, Prim, Size, Variables};
use std::fmt;

/// The field's size, a Mersenne prime: products reduce by a shift and an addition.
const FIELD: u64 = (1 << 61) - 1;

/// Exponents of the invariant, twice, for 2·61 bits. Odd and apart, so that sums of powers that agree are equal multisets; small, so that
/// the degree (about 20,000) stays far below the field's size.
const EXPONENTS: [Exponents; 2] = [
    Exponents { first: 5, second: 7, colour: 3, last: 11, weights: [13, 17, 19] },
    Exponents { first: 3, second: 11, colour: 5, last: 7, weights: [23, 13, 17] },
];

/// Terms of one independent part, and places of one axis, above which the sizes are called too large (about a second of work).
const MAX_TERMS: i64 = 1 << 22;

/// Places of a table for one term, up to which a table of sums is cheaper than a sorted list.
const MAX_WASTE: usize = 8;

/// Coefficients in the products and quotients that small sizes keep apart from primaries: `Ci/g/s` is 1 only where it really is.
const MAX_DEGREE: usize = 2;

/// Coefficients that may divide a primary together: Syno's own sizes go to `Hin/k1^4/t`.
const MAX_DIVISORS: usize = 5;

/// Tokens of a sequence, which stand in no weight: many of them cost little.
const TOKENS: &str = "L";

/// A window that strides over fewer places of a sequence than this has each of its taps inside somewhere.
const REACH: i64 = 31;

struct Exponents {
    first: u32,
    second: u32,
    colour: u32,
    last: u32,
    weights: [u32; MAX_WEIGHTS],
}

/// What an operator computes, in 128 bits; prints as 32 hexadecimal digits. The same on every machine and in every run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub u128);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The fingerprint at the given sizes, usually those of [`small_bindings`]; fingerprints compare only at the same sizes.
///
/// It does not depend on the order or names of weights, of their axes and of their elements, nor on which of the two image axes
/// is the first (the last two of four: H and W change places where they are different variables). Elements that multiply nothing
/// do not count, and elements of a weight that always multiply the same (`Σ r: w[o, r]` alone) count as one: only their sum matters.
///
/// Not seen as equal, though the maps that can be reached are: products of weights of which one could be absorbed by another
/// (`w1[o, c] * w2[c]`), weights whose elements are sums or multiples of another's (a change of basis other than an order), and
/// operators that agree only at sizes other than the given ones.
///
/// # Errors
/// No binding; a size that is not a whole number; sizes too large to run through.
pub fn fingerprint(operator: &Operator, bindings: &[Binding]) -> Result<Fingerprint> {
    if bindings.is_empty() {
        return invalid("a fingerprint needs sizes: give it at least one binding");
    }
    let mut plain = Vec::new();
    for b in bindings {
        plain.push(at(operator, &operator.variables().values(b)?, false, b)?);
    }
    let mut least = joined(&plain);
    if let Some(exchange) = exchange(operator) {
        let turned = bindings.iter().map(|b| {
            let mut values = operator.variables().values(b)?;
            if let Some((p, q)) = exchange {
                values.swap(p, q);
            }
            at(operator, &values, true, b)
        });
        // an operator whose mirror image does not divide has none in its space
        if let Ok(turned) = turned.collect::<Result<Vec<_>>>() {
            least = least.min(joined(&turned));
        }
    }
    Ok(Fingerprint(least))
}

/// One hash for each order of the weights, joined over the bindings: the least.
fn joined(per_binding: &[Vec<Vec<u64>>]) -> u128 {
    let orders = 0..per_binding[0].len();
    let hash = |order: usize| {
        let words = per_binding.iter().flat_map(|b| &b[order]);
        // FNV-1a, 128 bits
        words.flat_map(|w| w.to_le_bytes()).fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d_u128, |h, b| {
            (h ^ u128::from(b)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
        })
    };
    orders.map(hash).min().unwrap_or_default()
}

/// Whether the last two of four axes may change places, and which two variables do so with them.
fn exchange(operator: &Operator) -> Option<Option<(usize, usize)>> {
    let (y, x) = (operator.output_shape(), operator.data_shape());
    let ([.., y2, y3], [.., x2, x3]) = (&y[..], &x[..]) else { return None };
    let ratio = y2.over(*y3);
    if y.len() != 4 || x.len() != 4 || ratio != x2.over(*x3) {
        return None;
    }
    if ratio.is_one() {
        return Some(None);
    }
    let names = operator.variables().names();
    let at = |exponent: i8| (0..names.len()).find(|&i| ratio.exponent(i) == exponent);
    let (p, q) = (at(1)?, at(-1)?);
    let size = |i: usize| operator.variables().size(&names[i]);
    let mirrored = |a: &Size, b: &Size| a.exponent(p) == b.exponent(q) && a.exponent(q) == b.exponent(p);
    (ratio == size(p)?.over(size(q)?) && mirrored(y2, y3) && mirrored(x2, x3)).then_some(Some((p, q)))
}

// ---- terms ----

/// One coordinate rule with numbers; operands are registers.
enum Rule {
    Split(usize, i64, usize),
    Outer(usize, i64),
    Inner(usize, i64),
    Shift(usize, i64),
    Stride(usize, i64),
    /// main, window, half of the window, extent of main
    Unfold(usize, usize, i64, i64),
}

/// For every order of the weights: the shape's extents and the invariant.
fn at(operator: &Operator, values: &[i64], turned: bool, binding: &Binding) -> Result<Vec<Vec<u64>>> {
    let graph = operator.graph();
    let whole = |size: Size| match size.whole(values) {
        Some(n) => Ok(n),
        None => size.evaluate(operator.variables(), binding).and_then(|_| invalid("a size does not divide with H and W exchanged")),
    };
    // registers: the loops, then what is computed from them, operands first
    let mut registers: Vec<Dim> = operator.outputs().iter().chain(operator.sums()).copied().collect();
    let n_loops = registers.len();
    if n_loops > 64 {
        return invalid(format!("{n_loops} loops: an operator with a fingerprint has at most 64"));
    }
    for &d in operator.data().iter().chain(operator.weights().iter().flatten()) {
        visit(graph, d, &mut registers);
    }
    let place = |d: Dim| registers.iter().position(|&r| r == d).unwrap_or(0);
    let extents = registers.iter().map(|&d| whole(graph.size(d))).collect::<Result<Vec<i64>>>()?;
    if let Some(&most) = extents.iter().find(|&&e| e > MAX_TERMS) {
        return too_large(most);
    }
    let mut loops: Vec<u64> = (0..n_loops).map(|i| 1 << i).collect();
    let mut rules = Vec::new();
    for &d in &registers[n_loops..] {
        loops.push(graph.prim(d).consumed().map(|below| loops[place(below)]).fold(0, |a, b| a | b));
        rules.push(match graph.prim(d) {
            Prim::Split(l, r) => Rule::Split(place(l), extents[place(r)], place(r)),
            Prim::Outer(x, block) => Rule::Outer(place(x), whole(block)?),
            Prim::Inner(x, block) => Rule::Inner(place(x), whole(block)?),
            Prim::Shift(x) => Rule::Shift(place(x), extents[place(x)]),
            Prim::Stride(x, step) => Rule::Stride(place(x), whole(step)?),
            Prim::Unfold(main, window) => Rule::Unfold(place(main), place(window), extents[place(window)] / 2, extents[place(main)]),
            Prim::Output(_) | Prim::Reduce(_) => return invalid(format!("{operator} reads an axis that it does not declare: report it")),
        });
    }
    let mirror = |axis: usize| if turned && axis >= 2 { 5 - axis } else { axis };
    // tensor 0 is y, 1 is x, then the weights
    let tensors: Vec<&[Dim]> =
        [operator.outputs(), operator.data()].into_iter().chain(operator.weights().iter().map(Vec::as_slice)).collect();
    let mut axes = Vec::new();
    for (tensor, dims) in tensors.iter().enumerate() {
        for (axis, &d) in dims.iter().enumerate() {
            let register = place(d);
            let factors = match tensor {
                0 | 1 => (0..extents[register]).map(|i| random(tensor as u64, mirror(axis) as u64, i as u64)).collect(),
                _ => Vec::new(),
            };
            axes.push(Axis { tensor, register, factors });
        }
    }
    let mut orders: Vec<Vec<u64>> = vec![Vec::new(); (1..=operator.weights().len()).product()];
    for dims in &tensors[..2] {
        let shape: Vec<u64> = dims.iter().map(|&d| extents[place(d)] as u64).collect();
        let shape = (0..shape.len()).map(|axis| shape[mirror(axis)]);
        orders.iter_mut().for_each(|o| o.extend(shape.clone()));
    }
    let mut product = vec![[1; 2]; orders.len()];
    for part in parts(&loops[..n_loops], axes.iter().map(|a| loops[a.register])) {
        let program = Program { n_loops, extents: &extents, loops: &loops, rules: &rules, axes: &axes };
        let part = program.part(part, operator.weights().len())?;
        for (total, factor) in product.iter_mut().zip(part.without_twins().invariants()) {
            *total = [multiply(total[0], factor[0]), multiply(total[1], factor[1])];
        }
    }
    orders.iter_mut().zip(product).for_each(|(o, p)| o.extend(p));
    Ok(orders)
}

fn too_large<T>(n: i64) -> Result<T> {
    invalid(format!("{n} terms or places are too many for a fingerprint: use smaller sizes, such as those of small_bindings"))
}

/// Puts what `d` is computed from, then `d`, behind the registers.
fn visit(graph: &Graph, d: Dim, registers: &mut Vec<Dim>) {
    if !registers.contains(&d) {
        for below in graph.prim(d).consumed() {
            visit(graph, below, registers);
        }
        registers.push(d);
    }
}

struct Axis {
    tensor: usize,
    register: usize,
    /// Of y and x: the random factor of each place.
    factors: Vec<u64>,
}

/// The loops in sets that no axis joins.
fn parts(loops: &[u64], axes: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut parts = loops.to_vec();
    for axis in axes {
        let (inside, mut outside): (Vec<u64>, Vec<u64>) = parts.iter().partition(|&&p| p & axis != 0);
        outside.push(inside.into_iter().fold(0, |a, b| a | b));
        parts = outside;
    }
    parts.retain(|&p| p != 0);
    parts
}

struct Program<'a> {
    n_loops: usize,
    extents: &'a [i64],
    loops: &'a [u64],
    rules: &'a [Rule],
    axes: &'a [Axis],
}

impl Program<'_> {
    /// Runs through the loops of one part.
    fn part(&self, part: u64, n_weights: usize) -> Result<Part> {
        let Program { n_loops, extents, loops, rules, axes } = *self;
        let mine: Vec<usize> = (0..n_loops).filter(|&l| loops[l] & part != 0).collect();
        let n_terms = mine.iter().try_fold(1i64, |n, &l| n.checked_mul(extents[l])).unwrap_or(i64::MAX);
        let rules: Vec<(usize, &Rule)> =
            (n_loops..loops.len()).filter(|&r| loops[r] & part != 0).map(|r| (r, &rules[r - n_loops])).collect();
        let axes = axes.iter().filter(|a| loops[a.register] & part != 0);
        let (hashed, kept): (Vec<&Axis>, Vec<&Axis>) = axes.partition(|a| a.tensor < 2);
        // elements are numbered within the part: (weight, register, elements from one place to the next)
        let (mut n_elements, mut strides) = ([1usize; MAX_WEIGHTS], Vec::new());
        for axis in kept {
            let n = &mut n_elements[axis.tensor - 2];
            strides.push((axis.tensor - 2, axis.register, *n));
            *n = n.saturating_mul(extents[axis.register] as usize);
        }
        let most = n_elements.iter().fold(n_terms, |most, &n| most.max(i64::try_from(n).unwrap_or(i64::MAX)));
        if most > MAX_TERMS {
            return too_large(most);
        }
        let n_tuples = n_elements.iter().fold(1usize, |n, &m| n.saturating_mul(m));
        // a table of all tuples where that is no waste, else a list
        let mut table = vec![0; if n_tuples <= MAX_WASTE * n_terms as usize { n_tuples } else { 0 }];
        let mut entries: Vec<([usize; MAX_WEIGHTS], u64)> = Vec::new();
        let mut at = vec![0i64; loops.len()];
        loop {
            let inside = rules.iter().all(|&(register, rule)| {
                let (value, inside) = match *rule {
                    Rule::Split(l, block, r) => (at[l] * block + at[r], true),
                    Rule::Outer(x, block) => (at[x] / block, true),
                    Rule::Inner(x, block) => (at[x] % block, true),
                    Rule::Shift(x, size) => (if at[x] + 1 == size { 0 } else { at[x] + 1 }, true),
                    Rule::Stride(x, step) => (at[x] * step, true),
                    Rule::Unfold(main, window, half, extent) => {
                        let value = at[main] + at[window] - half;
                        (value, (0..extent).contains(&value))
                    }
                };
                at[register] = value;
                inside
            });
            if inside {
                let mut elements = [0; MAX_WEIGHTS];
                for &(w, register, stride) in &strides {
                    elements[w] += at[register] as usize * stride;
                }
                let value = hashed.iter().fold(1, |v, axis| multiply(v, axis.factors[at[axis.register] as usize]));
                if table.is_empty() {
                    entries.push((elements, value));
                } else {
                    let [i, j, k] = elements;
                    let sum = &mut table[(i * n_elements[1] + j) * n_elements[2] + k];
                    *sum = add(*sum, value);
                }
            }
            let Some(&next) = mine.iter().rev().find(|&&l| at[l] + 1 < extents[l]) else { break };
            at[next] += 1;
            mine.iter().rev().take_while(|&&l| l != next).for_each(|&l| at[l] = 0);
        }
        entries.sort_unstable();
        entries.dedup_by(|b, a| {
            let same = a.0 == b.0;
            if same {
                a.1 = add(a.1, b.1);
            }
            same
        });
        let [_, n_second, n_third] = n_elements;
        let filled = table.into_iter().enumerate().filter(|t| t.1 != 0);
        entries.extend(filled.map(|(t, value)| ([t / n_third / n_second, t / n_third % n_second, t % n_third], value)));
        Ok(Part { n_weights, n_elements, entries })
    }
}

// ---- the invariant of one part ----

/// The nonzero entries of the array L: the element of each weight (0 where it has no axis here), and `Σ u·v` over their terms.
struct Part {
    n_weights: usize,
    n_elements: [usize; MAX_WEIGHTS],
    entries: Vec<([usize; MAX_WEIGHTS], u64)>,
}

impl Part {
    /// Keeps one of the elements of a weight that multiply the same.
    fn without_twins(mut self) -> Part {
        let mut twins = vec![false; self.entries.len()];
        for w in 0..self.n_weights {
            let mut rows = vec![0u64; self.n_elements[w]];
            for (elements, value) in &self.entries {
                let others = (0..self.n_weights).filter(|&v| v != w).fold(*value, |h, v| scramble(h, elements[v] as u64));
                rows[elements[w]] = rows[elements[w]].wrapping_add(scramble(others, 1));
            }
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_unstable_by_key(|&i| (rows[i], i));
            let mut twin = vec![false; rows.len()];
            for pair in order.windows(2) {
                twin[pair[1]] = rows[pair[0]] == rows[pair[1]];
            }
            self.entries.iter().zip(&mut twins).for_each(|(e, t)| *t |= twin[e.0[w]]);
        }
        let mut twins = twins.into_iter();
        self.entries.retain(|_| !twins.next().unwrap_or(false));
        self
    }

    /// For each order of the weights, with both lists of exponents.
    fn invariants(&self) -> Vec<[u64; 2]> {
        let (one, two) = (self.invariant(&EXPONENTS[0]), self.invariant(&EXPONENTS[1]));
        one.into_iter().zip(two).map(|(a, b)| [a, b]).collect()
    }

    fn invariant(&self, exponents: &Exponents) -> Vec<u64> {
        let weights = 0..self.n_weights;
        let zeros = || self.n_elements[..self.n_weights].iter().map(|&n| vec![0u64; n]).collect::<Vec<_>>();
        let mut colours = zeros();
        for (elements, value) in &self.entries {
            let value = power(*value, exponents.first);
            weights.clone().for_each(|w| colours[w][elements[w]] = add(colours[w][elements[w]], value));
        }
        colours.iter_mut().flatten().for_each(|c| *c = power(*c, exponents.colour));
        let mut finer = zeros();
        for (elements, value) in &self.entries {
            let value = weights.clone().fold(power(*value, exponents.second), |v, w| multiply(v, colours[w][elements[w]]));
            weights.clone().for_each(|w| finer[w][elements[w]] = add(finer[w][elements[w]], value));
        }
        // raised[w][f]: the colours of weight w to the f-th exponent
        let raise = |list: &Vec<u64>| {
            exponents.weights[..self.n_weights].iter().map(|&f| list.iter().map(|&c| power(c, f)).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let raised: Vec<Vec<Vec<u64>>> = finer.iter().map(raise).collect();
        let orders = orders(self.n_weights);
        let mut sums = vec![0; orders.len()];
        for (elements, value) in &self.entries {
            let value = power(*value, exponents.last);
            for (sum, order) in sums.iter_mut().zip(&orders) {
                *sum = add(*sum, weights.clone().fold(value, |v, w| multiply(v, raised[w][order[w]][elements[w]])));
            }
        }
        sums
    }
}

/// All orders of `n` things, always in the same order.
fn orders(n: usize) -> Vec<Vec<usize>> {
    (0..n).fold(vec![vec![]], |all, last| {
        let insert = |order: &Vec<usize>| {
            (0..=order.len())
                .map(|at| {
                    let mut longer = order.clone();
                    longer.insert(at, last);
                    longer
                })
                .collect::<Vec<_>>()
        };
        all.iter().flat_map(insert).collect()
    })
}

// ---- arithmetic ----

fn add(a: u64, b: u64) -> u64 {
    let sum = a + b;
    if sum >= FIELD { sum - FIELD } else { sum }
}

fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    add(product as u64 & FIELD, (product >> 61) as u64)
}

fn power(a: u64, exponent: u32) -> u64 {
    let bits = (0..32 - exponent.leading_zeros()).rev();
    bits.fold(1, |p, bit| {
        let square = multiply(p, p);
        if exponent >> bit & 1 == 1 { multiply(square, a) } else { square }
    })
}

/// A fixed hash of two words (the finalizer of SplitMix64, twice).
fn scramble(a: u64, b: u64) -> u64 {
    let step = |x: u64| {
        let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    step(step(a) ^ b)
}

/// A fixed random element of the field, never 0.
fn random(tensor: u64, axis: u64, place: u64) -> u64 {
    scramble(tensor << 8 | axis, place) % (FIELD - 1) + 1
}

// ---- small sizes ----

/// Two sets of small sizes that stand for the given ones: coefficients keep their values (of the first and of the last binding), and
/// each primary is the least multiple of what coefficients can divide it by everywhere. Sizes that are 1 everywhere stay 1 (an axis
/// of `Co/g` where Co = g), no other quotient by up to two coefficients is 1 in both sets, variables that are equal everywhere stay
/// equal, and all others differ. Variables that not all bindings have are left out.
///
/// # Errors
/// No binding, or too many variables.
pub fn small_bindings(bindings: &[Binding]) -> Result<Vec<Binding>> {
    let Some(first) = bindings.first() else { return invalid("no sizes to make smaller: give at least one binding") };
    // slots that keep their channels have a C besides, which an operator for all slots cannot use
    let common = first.0.keys().filter(|n| bindings.iter().all(|b| b.0.contains_key(*n)));
    let variables = Variables::new(common.cloned())?;
    let values = bindings.iter().map(|b| variables.values(b)).collect::<Result<Vec<_>>>()?;
    let names = variables.names();
    let n_primary = names.iter().filter(|n| variables.size(n).is_some_and(|s| !s.is_coefficient(&variables))).count();
    let matter = (n_primary..names.len()).filter(|&i| values.iter().any(|v| v[i] != 1));
    let coefficients: Vec<Size> = matter.filter_map(|i| variables.size(&names[i])).collect();
    let choice = Choice { variables: &variables, values: &values, monomials: monomials(&coefficients), coefficients, n_primary };
    let one = choice.least(&values[0], &choice.coefficients, &[]);
    // coefficients that differ between slots, as strides do, must differ here too
    let other = values.iter().rev().find(|v| v[n_primary..] != values[0][n_primary..]).unwrap_or(&values[values.len() - 1]);
    let two = choice.least(other, &choice.monomials, &one);
    let binding = |small: &[i64]| Binding(names.iter().cloned().zip(small.iter().copied()).collect());
    let mut both = vec![binding(&one), binding(&two)];
    both.dedup();
    Ok(both)
}

/// Products and quotients of up to two coefficients.
fn monomials(coefficients: &[Size]) -> Vec<Size> {
    let mut all = vec![Size::ONE];
    for _ in 0..MAX_DEGREE {
        let longer: Vec<Size> = all.iter().flat_map(|&m| coefficients.iter().flat_map(move |&c| [m.times(c), m.over(c)])).collect();
        all.extend(longer);
        all.sort_unstable();
        all.dedup();
    }
    all
}

struct Choice<'a> {
    variables: &'a Variables,
    /// The real sizes, by binding.
    values: &'a [Vec<i64>],
    /// Those that are not 1 everywhere.
    coefficients: Vec<Size>,
    monomials: Vec<Size>,
    n_primary: usize,
}

impl Choice<'_> {
    /// Small primaries beside the coefficients of `base`, equal to none of the sizes `apart`; `first`: values of an earlier set, which no
    /// primary has again.
    fn least(&self, base: &[i64], apart: &[Size], first: &[i64]) -> Vec<i64> {
        let mut small = base.to_vec();
        let mut order: Vec<usize> = (0..self.n_primary).collect();
        if !first.is_empty() {
            order.reverse();
        }
        let everywhere = |holds: &dyn Fn(&[i64]) -> bool| self.values.iter().all(|v| holds(v));
        // those that coefficients fix come first, for the others must differ from them
        let fixed = |i: usize| {
            let size = self.variables.size(&self.variables.names()[i])?;
            let same = self.monomials.iter().find(|&&m| everywhere(&|v| size.over(m).fraction(v) == Some((1, 1))))?;
            same.whole(base)
        };
        order.sort_by_key(|&i| fixed(i).is_none());
        let mut done: Vec<usize> = Vec::new();
        for &i in &order {
            let twin = done.iter().find(|&&j| everywhere(&|v| v[i] == v[j]));
            small[i] = match (fixed(i), twin) {
                (Some(value), _) => value,
                (None, Some(&j)) => small[j],
                (None, None) => {
                    let step = self.divisor(i, base);
                    let least = self.floor(i, base);
                    let taken = |n: i64| {
                        let is_1 = n == 1 || apart.iter().any(|m| m.fraction(base) == Some((n, 1)));
                        is_1 || done.iter().any(|&j| small[j] == n) || first.get(i) == Some(&n)
                    };
                    (1..).map(|n| n * step).find(|&n| n >= least && !taken(n)).unwrap_or(base[i])
                }
            };
            done.push(i);
        }
        small
    }

    /// The least common multiple of the products of coefficients that divide the primary at every real binding.
    fn divisor(&self, i: usize, base: &[i64]) -> i64 {
        let divides = |m: Size| self.values.iter().all(|v| m.whole(v).is_some_and(|m| v[i] % m == 0));
        let (mut divisor, mut last) = (1, vec![Size::ONE]);
        for _ in 0..MAX_DIVISORS {
            last = last.iter().flat_map(|&m| self.coefficients.iter().map(move |&c| m.times(c))).filter(|&m| divides(m)).collect();
            last.sort_unstable();
            last.dedup();
            for m in last.iter().filter_map(|m| m.whole(base)) {
                divisor = divisor / gcd(divisor, m) * m;
            }
        }
        self.times_varying(i, base).into_iter().fold(divisor, |all, d| all / gcd(all, d) * d)
    }

    /// What must divide the primary, for what divides it times a coefficient that differs between real bindings to do so here.
    fn times_varying(&self, i: usize, base: &[i64]) -> Vec<i64> {
        let varies = |c: &Size| self.values.iter().any(|v| c.whole(v) != c.whole(&self.values[0]));
        let varying: Vec<Size> = self.coefficients.iter().copied().filter(varies).collect();
        let primary = self.variables.size(&self.variables.names()[i]).unwrap_or(Size::ONE);
        let whole = |q: &Size| self.values.iter().all(|v| primary.times(*q).whole(v).is_some());
        let quotients = varying.iter().flat_map(|c| self.monomials.iter().map(|m| c.over(*m)));
        quotients.filter(whole).filter_map(|q| Some(q.fraction(base)?.1)).collect()
    }

    /// Windows and blocks fit, as far as they do really.
    fn floor(&self, i: usize, base: &[i64]) -> i64 {
        let least = self.values.iter().map(|v| v[i]).min().unwrap_or(1);
        if self.variables.names()[i] == TOKENS {
            return least.min(REACH);
        }
        let widest = base[self.n_primary..].iter().copied().max().unwrap_or(1);
        least.min(widest + 1)
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}
