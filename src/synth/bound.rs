//! Lower bounds on the work of every operator that a partial one can become (Syno, section 7.2: the FLOPs game; bytes are ours).
//!
//! Values are given per binding, and answers are sums over bindings.

use std::collections::HashMap;

/// Sums up to which the game is solved; beyond, only its first round is counted. A depth of 12 leaves room for no more.
const MAX_SOLVED: usize = 12;

/// An f32.
const BYTES: u64 = 4;

/// A sum, which divides the number of elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decrease {
    pub size: Vec<u64>,
    /// Bits of the increases that must come before.
    pub needs: u64,
}

/// The FLOPs game: from the data's elements, play all decreases in rounds.
///
/// A round makes the increases that the decreases chosen for it need (Expands, windows, and axes of weights, which multiply
/// the elements), pays for the elements there are, then divides by the decreases. No increase is made otherwise. The answer
/// is the least that can be paid: one multiply-add per element and stage, so that the operator costs at least as much.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Game {
    /// Elements of the data tensor.
    pub elements: Vec<u64>,
    /// Product of all Strides, by which the elements are divided.
    pub strides: Vec<u64>,
    /// At most 64.
    pub increases: Vec<Vec<u64>>,
    pub decreases: Vec<Decrease>,
}

impl Game {
    /// The least payment.
    ///
    /// Syno plays decreases without needs alone in the first round. Where their sizes or the increases are 1 under a binding,
    /// that round may cost more than it saves and the answer would not be a bound; here all ways to play are compared. They
    /// agree where no size is 1: `1 / decrease + 1 / increase ≤ 1`, so dividing first never costs more.
    ///
    /// Every binding is played on its own: what is cheapest first need not be so in every slot.
    pub fn flops(&self) -> u64 {
        (0..self.elements.len()).map(|i| self.under(i).flops_of_one()).fold(0, u64::saturating_add)
    }

    fn under(&self, i: usize) -> Game {
        let one = |values: &Vec<u64>| values.get(i).copied().into_iter().collect::<Vec<u64>>();
        Game {
            elements: one(&self.elements),
            strides: one(&self.strides),
            increases: self.increases.iter().map(one).collect(),
            decreases: self.decreases.iter().map(|d| Decrease { size: one(&d.size), needs: d.needs }).collect(),
        }
    }

    fn flops_of_one(&self) -> u64 {
        if self.decreases.is_empty() {
            return 0;
        }
        if self.decreases.len() > MAX_SOLVED {
            let first = self.decreases.iter().map(|d| self.payment(0, d.needs));
            return clamp(first.min().unwrap_or(0));
        }
        clamp(self.rest(0, 0, &mut HashMap::new()))
    }

    /// The least payment for the decreases not yet done, `made` being the increases already made.
    fn rest(&self, done: u64, made: u64, known: &mut HashMap<u64, u128>) -> u128 {
        let pending = ((1 << self.decreases.len()) - 1) & !done;
        if pending == 0 {
            return 0;
        }
        if let Some(&least) = known.get(&done) {
            return least;
        }
        let mut least = u128::MAX;
        let mut chosen = pending;
        while chosen != 0 {
            let needs = bits(chosen).fold(made, |needs, i| needs | self.decreases[i].needs);
            let payment = self.payment(done, needs);
            if payment < least {
                least = least.min(payment.saturating_add(self.rest(self.done(needs), needs, known)));
            }
            chosen = (chosen - 1) & pending;
        }
        known.insert(done, least);
        least
    }

    /// Whatever needs no more than what is made has been done: to divide costs nothing.
    fn done(&self, made: u64) -> u64 {
        let ready = |(_, d): &(usize, &Decrease)| d.needs & !made == 0;
        self.decreases.iter().enumerate().filter(ready).fold(0, |mask, (i, _)| mask | 1 << i)
    }

    fn payment(&self, done: u64, made: u64) -> u128 {
        let at = |values: &[u64], i: usize| values.get(i).copied().map_or(1, u128::from);
        let elements = |i: usize| {
            let more = bits(made).filter_map(|j| self.increases.get(j)).map(|v| at(v, i));
            let less = bits(done).map(|j| at(&self.decreases[j].size, i));
            let above = more.fold(at(&self.elements, i), u128::saturating_mul);
            above / less.fold(at(&self.strides, i), u128::saturating_mul).max(1)
        };
        (0..self.elements.len()).map(elements).fold(0, u128::saturating_add)
    }
}

fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..64).filter(move |i| mask >> i & 1 == 1)
}

fn clamp(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// A lower bound on the bytes that an operator moves: the data and every weight are read and the output is written at least
/// once.
///
/// Never above the final value. The data's and the output's shapes are known from the start, and a weight's axes never
/// change once it is added; further weights and intermediates only add. Each element is used by some term: dims that stand
/// side by side take all combinations of their coordinates, since Split, Merge and Shift are one-to-one between what they
/// consume and produce, Share repeats, Expand drops, and a window always contains the place itself. Only a Stride skips
/// places: give the data as 0 when the operator may contain one.
pub fn bytes(data: &[u64], output: &[u64], weights: &[Vec<u64>]) -> u64 {
    let elements = data.iter().chain(output).chain(weights.iter().flatten());
    elements.fold(0, |sum: u64, &n| sum.saturating_add(n)).saturating_mul(BYTES)
}
