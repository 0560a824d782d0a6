//! Integer index expressions over the loops of one stage.

use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// An integer expression over loop variables. `Var(i)` is the i-th loop of a stage: its axes first, then its sums.
/// Division rounds down and the remainder is never negative, as in TVM's `floordiv` and `floormod`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Index {
    Var(usize),
    Const(i64),
    Add(Box<Index>, Box<Index>),
    Mul(Box<Index>, i64),
    Div(Box<Index>, i64),
    Mod(Box<Index>, i64),
}

impl Index {
    /// `self + other`, constants folded.
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, other: Index) -> Index {
        match (self, other) {
            (Index::Const(0), e) | (e, Index::Const(0)) => e,
            (Index::Const(a), Index::Const(b)) => Index::Const(a + b),
            (Index::Add(a, b), Index::Const(c)) if matches!(*b, Index::Const(_)) => a.add(b.add(Index::Const(c))),
            (a, b) => Index::Add(Box::new(a), Box::new(b)),
        }
    }

    /// `self + constant`.
    pub fn plus(self, constant: i64) -> Index {
        self.add(Index::Const(constant))
    }

    /// `self · factor`.
    pub fn times(self, factor: i64) -> Index {
        match (self, factor) {
            (_, 0) => Index::Const(0),
            (e, 1) => e,
            (Index::Const(a), f) => Index::Const(a * f),
            (Index::Mul(e, a), f) => Index::Mul(e, a * f),
            (e, f) => Index::Mul(Box::new(e), f),
        }
    }

    /// `⌊self / divisor⌋`.
    pub fn over(self, divisor: i64) -> Index {
        match (self, divisor) {
            (e, 1) => e,
            (Index::Const(a), d) => Index::Const(a.div_euclid(d)),
            (e, d) => Index::Div(Box::new(e), d),
        }
    }

    /// `self mod divisor`, in `[0, divisor)`.
    pub fn modulo(self, divisor: i64) -> Index {
        match (self, divisor) {
            (_, 1) => Index::Const(0),
            (Index::Const(a), d) => Index::Const(a.rem_euclid(d)),
            (e, d) => Index::Mod(Box::new(e), d),
        }
    }

    /// The value at the given loop positions.
    pub fn eval(&self, at: &[i64]) -> i64 {
        match self {
            Index::Var(v) => at[*v],
            Index::Const(c) => *c,
            Index::Add(a, b) => a.eval(at) + b.eval(at),
            Index::Mul(a, f) => a.eval(at) * f,
            Index::Div(a, d) => a.eval(at).div_euclid(*d),
            Index::Mod(a, d) => a.eval(at).rem_euclid(*d),
        }
    }

    /// Least and greatest value when loop `v` runs over `0..extents[v]` (exact for `+` and `·`, else enclosing).
    pub fn range(&self, extents: &[i64]) -> (i64, i64) {
        match self {
            Index::Var(v) => (0, extents[*v] - 1),
            Index::Const(c) => (*c, *c),
            Index::Add(a, b) => {
                let ((al, ah), (bl, bh)) = (a.range(extents), b.range(extents));
                (al + bl, ah + bh)
            }
            Index::Mul(a, f) => {
                let (l, h) = a.range(extents);
                ((l * f).min(h * f), (l * f).max(h * f))
            }
            Index::Div(a, d) => {
                let (l, h) = a.range(extents);
                (l.div_euclid(*d), h.div_euclid(*d))
            }
            Index::Mod(a, d) => {
                let (l, h) = a.range(extents);
                if l.div_euclid(*d) == h.div_euclid(*d) { (l.rem_euclid(*d), h.rem_euclid(*d)) } else { (0, d - 1) }
            }
        }
    }

    /// Calls `f` with every loop that occurs, once per occurrence.
    pub fn visit(&self, f: &mut impl FnMut(usize)) {
        match self {
            Index::Var(v) => f(*v),
            Index::Const(_) => {}
            Index::Add(a, b) => {
                a.visit(f);
                b.visit(f);
            }
            Index::Mul(a, _) | Index::Div(a, _) | Index::Mod(a, _) => a.visit(f),
        }
    }

    /// Calls `f` with the dividend and divisor of every quotient and remainder.
    pub fn visit_divisions(&self, f: &mut impl FnMut(&Index, i64)) {
        match self {
            Index::Var(_) | Index::Const(_) => {}
            Index::Add(a, b) => {
                a.visit_divisions(f);
                b.visit_divisions(f);
            }
            Index::Mul(a, _) => a.visit_divisions(f),
            Index::Div(a, d) | Index::Mod(a, d) => {
                f(a, *d);
                a.visit_divisions(f);
            }
        }
    }

    /// The loops that occur, ascending, without repetition.
    pub fn loops(&self) -> Vec<usize> {
        let mut seen = Vec::new();
        self.visit(&mut |v| seen.push(v));
        seen.sort_unstable();
        seen.dedup();
        seen
    }

    /// The same expression with every loop `v` replaced by `f(v)`.
    pub fn replace(&self, f: &impl Fn(usize) -> Index) -> Index {
        match self {
            Index::Var(v) => f(*v),
            Index::Const(c) => Index::Const(*c),
            Index::Add(a, b) => a.replace(f).add(b.replace(f)),
            Index::Mul(a, k) => a.replace(f).times(*k),
            Index::Div(a, k) => a.replace(f).over(*k),
            Index::Mod(a, k) => a.replace(f).modulo(*k),
        }
    }

    /// `Some((terms, constant))` when the expression is `Σ coefficient·loop + constant`; terms ascend by loop.
    pub fn affine(&self) -> Option<(Vec<(usize, i64)>, i64)> {
        fn walk(e: &Index, scale: i64, terms: &mut Vec<(usize, i64)>, constant: &mut i64) -> bool {
            match e {
                Index::Var(v) => match terms.iter_mut().find(|t| t.0 == *v) {
                    Some(t) => t.1 += scale,
                    None => terms.push((*v, scale)),
                },
                Index::Const(c) => *constant += c * scale,
                Index::Add(a, b) => return walk(a, scale, terms, constant) && walk(b, scale, terms, constant),
                Index::Mul(a, f) => return walk(a, scale * f, terms, constant),
                Index::Div(..) | Index::Mod(..) => return false,
            }
            true
        }
        let (mut terms, mut constant) = (Vec::new(), 0);
        walk(self, 1, &mut terms, &mut constant).then(|| {
            terms.retain(|t| t.1 != 0);
            terms.sort_unstable();
            (terms, constant)
        })
    }

    /// Prints with the given loop names, as Python and Rust would both read it (`//` is floor division).
    pub fn print(&self, names: &[String]) -> String {
        fn walk(e: &Index, names: &[String], out: &mut String, tight: bool) {
            match e {
                Index::Var(v) => out.push_str(&names[*v]),
                Index::Const(c) => drop(write!(out, "{c}")),
                Index::Add(a, b) => {
                    if tight {
                        out.push('(');
                    }
                    walk(a, names, out, false);
                    match **b {
                        Index::Const(c) if c < 0 => drop(write!(out, " - {}", -c)),
                        _ => {
                            out.push_str(" + ");
                            walk(b, names, out, false);
                        }
                    }
                    if tight {
                        out.push(')');
                    }
                }
                Index::Mul(a, k) | Index::Div(a, k) | Index::Mod(a, k) => {
                    let sign = match e {
                        Index::Mul(..) => "*",
                        Index::Div(..) => "//",
                        _ => "%",
                    };
                    let product = matches!(**a, Index::Mul(..) | Index::Div(..) | Index::Mod(..));
                    if product {
                        out.push('(');
                    }
                    walk(a, names, out, true);
                    if product {
                        out.push(')');
                    }
                    let _ = write!(out, "{sign}{k}");
                }
            }
        }
        let mut out = String::new();
        walk(self, names, &mut out, false);
        out
    }
}
