//! Index expressions in their simplest form, and loops split where a division or remainder asks for it.
//!
//! A loop read as `k//B` and `k%B` becomes two loops `k1`, `k0` with `k = k1·B + k0`; reading and writing are then plain reshapes.

use super::index::Index;
use super::loops::{Loop, LoopNest, Reduction, Stage};
use std::collections::BTreeMap;

/// `Σ coefficient · atom + constant`; an atom is a loop, or a quotient or remainder that cannot be simplified.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Linear {
    pub terms: BTreeMap<Index, i64>,
    pub constant: i64,
}

impl Linear {
    pub fn of(e: &Index, extents: &[i64]) -> Linear {
        match e {
            Index::Var(_) => Linear { terms: BTreeMap::from([(e.clone(), 1)]), constant: 0 },
            Index::Const(c) => Linear { terms: BTreeMap::new(), constant: *c },
            Index::Add(a, b) => {
                let (mut sum, other) = (Linear::of(a, extents), Linear::of(b, extents));
                sum.constant += other.constant;
                for (atom, c) in other.terms {
                    *sum.terms.entry(atom).or_default() += c;
                }
                sum.terms.retain(|_, c| *c != 0);
                sum
            }
            Index::Mul(a, f) => {
                let mut product = Linear::of(a, extents);
                product.constant *= f;
                product.terms.values_mut().for_each(|c| *c *= f);
                product.terms.retain(|_, c| *c != 0);
                product
            }
            Index::Div(a, d) => Linear::of(a, extents).divided(*d, extents).0,
            Index::Mod(a, d) => Linear::of(a, extents).divided(*d, extents).1,
        }
    }

    pub fn range(&self, extents: &[i64]) -> (i64, i64) {
        self.terms.iter().fold((self.constant, self.constant), |(low, high), (atom, c)| {
            let (l, h) = atom.range(extents);
            (low + (l * c).min(h * c), high + (l * c).max(h * c))
        })
    }

    pub fn index(&self) -> Index {
        let mut terms: Vec<_> = self.terms.iter().collect();
        terms.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
        let sum = terms.into_iter().fold(Index::Const(0), |sum, (atom, &c)| sum.add(atom.clone().times(c)));
        sum.plus(self.constant)
    }

    /// Quotient and remainder by `d`, as far as ranges allow.
    fn divided(&self, d: i64, extents: &[i64]) -> (Linear, Linear) {
        let (mut quotient, mut rest) = (Linear::default(), Linear::default());
        for (atom, &c) in &self.terms {
            let side = if c % d == 0 { &mut quotient } else { &mut rest };
            side.terms.insert(atom.clone(), if c % d == 0 { c / d } else { c });
        }
        quotient.constant = self.constant.div_euclid(d);
        rest.constant = self.constant.rem_euclid(d);
        let (low, high) = rest.range(extents);
        if low >= 0 && high < d {
            return (quotient, rest);
        }
        for &g in self.terms.values().filter(|&&g| g > 1 && d % g == 0 && g < d) {
            let (mut high, mut low) = (Linear::default(), Linear::default());
            for (atom, &c) in &self.terms {
                let side = if c % g == 0 { &mut high } else { &mut low };
                side.terms.insert(atom.clone(), if c % g == 0 { c / g } else { c });
            }
            high.constant = self.constant.div_euclid(g);
            low.constant = self.constant.rem_euclid(g);
            let (l, h) = low.range(extents);
            if l >= 0 && h < g {
                let (q, r) = high.divided(d / g, extents);
                let scaled = Linear::of(&r.index().times(g).add(low.index()), extents);
                return (q, scaled);
            }
        }
        let whole = self.index();
        let atom = |e: Index| Linear { terms: BTreeMap::from([(e, 1)]), constant: 0 };
        (atom(whole.clone().over(d)), atom(whole.modulo(d)))
    }
}

/// The same expression, simplified for loops of the given extents.
pub(super) fn simplify(e: &Index, extents: &[i64]) -> Index {
    Linear::of(e, extents).index()
}

/// A stage whose loops were split; `pieces[a]` are the loops (outermost first) that make up the old axis `a`.
pub(super) struct Split {
    pub stage: Stage,
    pub pieces: Vec<Vec<usize>>,
}

/// Splits loops until no division or remainder can be resolved by splitting, and simplifies every index.
pub(super) fn split(nest: &LoopNest, stage: &Stage) -> Split {
    let mut stage = stage.clone();
    let mut pieces: Vec<Vec<usize>> = (0..stage.axes.len()).map(|a| vec![a]).collect();
    simplify_stage(&mut stage);
    while let Some((v, inner)) = candidate(&stage) {
        let old: Vec<Loop> = stage.loops().cloned().collect();
        let n_axes = stage.axes.len();
        let shift = |l: usize| if l > v { l + 1 } else { l };
        let substitute = |l: usize| if l == v { Index::Var(v).times(inner).add(Index::Var(v + 1)) } else { Index::Var(shift(l)) };
        stage.body.visit_mut(&mut |a| a.index.iter_mut().for_each(|e| *e = e.replace(&substitute)));
        stage.guards.iter_mut().for_each(|g| g.index = g.index.replace(&substitute));
        let part = |suffix: &str, extent| Loop { name: format!("{}{suffix}", old[v].name), extent };
        let two = [part("1", old[v].extent / inner), part("0", inner)];
        if v < n_axes {
            stage.axes.splice(v..=v, two);
        } else {
            stage.sums.splice(v - n_axes..=v - n_axes, two);
        }
        for piece in &mut pieces {
            *piece = piece.iter().flat_map(|&l| if l == v { vec![v, v + 1] } else { vec![shift(l)] }).collect();
        }
        simplify_stage(&mut stage);
    }
    debug_assert!(stage.reduction == Reduction::Max || nest.tensors.len() > stage.output);
    Split { stage, pieces }
}

fn simplify_stage(stage: &mut Stage) {
    let extents = stage.extents();
    stage.body.visit_mut(&mut |a| a.index.iter_mut().for_each(|e| *e = simplify(e, &extents)));
    stage.guards.iter_mut().for_each(|g| g.index = simplify(&g.index, &extents));
    stage.guards.retain(|g| {
        let (low, high) = g.index.range(&extents);
        low < 0 || high >= g.extent
    });
}

/// A loop and the extent of its inner part. Loops inside a sliding window stay whole: there a convolution is recognised.
fn candidate(stage: &Stage) -> Option<(usize, i64)> {
    let extents = stage.extents();
    let mut indices: Vec<Index> = stage.guards.iter().map(|g| g.index.clone()).collect();
    stage.body.visit(&mut |a| indices.extend(a.index.iter().cloned()));
    let windowed: Vec<usize> = indices.iter().filter(|e| is_window(e, &extents)).flat_map(Index::loops).collect();
    let mut found = None;
    for e in &indices {
        e.visit_divisions(&mut |inner, d| {
            for (atom, &c) in &Linear::of(inner, &extents).terms {
                if let Index::Var(v) = *atom
                    && c > 0
                    && c < d
                    && d % c == 0
                    && extents[v] > d / c
                    && extents[v] % (d / c) == 0
                    && !windowed.contains(&v)
                {
                    found = found.or(Some((v, d / c)));
                }
            }
        });
    }
    found
}

/// An affine sum of several loops whose steps overlap.
pub(super) fn is_window(e: &Index, extents: &[i64]) -> bool {
    let Some((mut terms, _)) = e.affine() else { return false };
    terms.sort_by_key(|t| t.1);
    terms.len() > 1 && terms.windows(2).any(|p| p[1].1 < p[0].1 * extents[p[0].0])
}
