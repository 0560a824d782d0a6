//! Finished operators: `y[outputs] = Σ x[…]·w1[…]·w2[…]…`, multilinear in the data and every weight (Syno, section 4).

use super::graph::{Dim, Graph};
use super::prim::Prim;
use super::size::{Binding, Size, Variables};
use super::text;
use crate::error::{Result, invalid};
use std::fmt;

/// Weights one operator may have.
pub const MAX_WEIGHTS: usize = 3;

/// A finished, canonical operator. Equal operators print equal; [`Operator::parse`] reads the line back.
#[derive(Clone, Debug)]
pub struct Operator {
    pub(super) graph: Graph,
    pub(super) outputs: Vec<Dim>,
    pub(super) sums: Vec<Dim>,
    pub(super) data: Vec<Dim>,
    pub(super) weights: Vec<Vec<Dim>>,
}

impl Operator {
    /// Reads one line such as
    /// `y[n:N, o:Co, h:H, w:W] = sum[c:Ci, i:k, j:k] x[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]`.
    /// Axes may have any names; sizes are products and quotients of variables, powers and numbers.
    ///
    /// # Errors
    /// [`crate::error::Error::Parse`] names the column and what was expected there.
    pub fn parse(line: &str) -> Result<Operator> {
        Operator::parse_ordered(line)?.canonical()
    }

    /// Like [`Operator::parse`], but weights and their axes stay in the order written.
    pub fn parse_ordered(line: &str) -> Result<Operator> {
        text::parse(line)
    }

    /// Checks the parts and joins them; the result is canonical.
    ///
    /// # Errors
    /// A dim used twice, an axis that nothing reads, a size that divides by a primary variable.
    pub fn new(graph: Graph, outputs: Vec<Dim>, sums: Vec<Dim>, data: Vec<Dim>, weights: Vec<Vec<Dim>>) -> Result<Operator> {
        let operator = Operator { graph, outputs, sums, data, weights };
        operator.check()?;
        operator.canonical()
    }

    pub(super) fn check(&self) -> Result<()> {
        if self.weights.len() > MAX_WEIGHTS {
            return invalid(format!("{} weights: an operator has at most {MAX_WEIGHTS}", self.weights.len()));
        }
        let name = |d: Dim| text::term(self, d, &self.names());
        // every dim is consumed once on the way to the data; both parts of a merge are one use
        let mut uses: Vec<(Dim, Prim)> = Vec::new();
        let mut queue = self.data.clone();
        let mut place = 0;
        while place < queue.len() {
            let d = queue[place];
            place += 1;
            if queue[..place - 1].contains(&d) {
                continue;
            }
            let prim = self.graph.prim(d);
            for below in prim.consumed() {
                let same = |other: &(Dim, Prim)| other.0 == below && !twins(other.1, prim);
                if uses.iter().any(same) || self.data.contains(&below) {
                    return invalid(format!("{} is used twice on the way to the data: every axis is used once", name(below)));
                }
                uses.push((below, prim));
                queue.push(below);
            }
        }
        for (i, &d) in self.data.iter().enumerate() {
            if self.data[..i].contains(&d) {
                return invalid(format!("x is indexed twice by {}: every axis is used once", name(d)));
            }
        }
        for (w, axes) in self.weights.iter().enumerate() {
            for (i, &d) in axes.iter().enumerate() {
                if axes[..i].contains(&d) {
                    return invalid(format!("w{} is indexed twice by {}: name each axis once", w + 1, name(d)));
                }
            }
        }
        for &sum in &self.sums {
            let tensors = std::iter::once(&self.data).chain(&self.weights);
            if !tensors.flatten().any(|&d| self.graph.depends(d, sum)) {
                return invalid(format!("the sum over {} is used by no tensor: use it or leave it out", name(sum)));
            }
        }
        for d in self.dims() {
            let size = self.graph.size(d);
            if size.divides_by_primary(self.graph.variables()) {
                let size = size.print(self.graph.variables());
                return invalid(format!(
                    "the axis {} has size {size}, which divides by a primary variable: only coefficients (lower-case names) may divide",
                    name(d)
                ));
            }
        }
        Ok(())
    }

    /// The same operator with sums, weights and their axes in the one order that prints smallest.
    fn canonical(&self) -> Result<Operator> {
        text::parse(&text::canonical(self))
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub fn variables(&self) -> &Variables {
        self.graph.variables()
    }

    /// The output's axes.
    pub fn outputs(&self) -> &[Dim] {
        &self.outputs
    }

    /// The summed axes.
    pub fn sums(&self) -> &[Dim] {
        &self.sums
    }

    /// What indexes the data tensor, axis by axis.
    pub fn data(&self) -> &[Dim] {
        &self.data
    }

    /// What indexes each weight, axis by axis.
    pub fn weights(&self) -> &[Vec<Dim>] {
        &self.weights
    }

    /// The symbolic shape of the output.
    pub fn output_shape(&self) -> Vec<Size> {
        self.outputs.iter().map(|&d| self.graph.size(d)).collect()
    }

    /// The symbolic shape of the data tensor.
    pub fn data_shape(&self) -> Vec<Size> {
        self.data.iter().map(|&d| self.graph.size(d)).collect()
    }

    /// Every dim of the operator, leaves included, each once, in a fixed order.
    pub fn dims(&self) -> Vec<Dim> {
        let mut all = Vec::new();
        let tops = self.data.iter().chain(self.weights.iter().flatten()).chain(&self.outputs).chain(&self.sums);
        for &top in tops {
            for d in self.graph.below(top) {
                if !all.contains(&d) {
                    all.push(d);
                }
            }
        }
        all
    }

    /// Names of the leaves for people: outputs first, then sums.
    pub(crate) fn names(&self) -> Vec<(Dim, String)> {
        text::names(self)
    }

    /// 16 hexadecimal digits: the FNV-1a hash of the canonical line. The same on every machine and in every version.
    pub fn id(&self) -> String {
        format!("{:016x}", crate::synth::stable_hash(self.to_string().as_bytes()))
    }

    /// `y[n,o,h,w] = Σ c,i,j: x[n,c,h+i-1,w+j-1] · w1[o,c,i,j]`; with a binding, sizes appear as numbers.
    /// ⌊ ⌋ is division rounded down; a term whose window leaves the image counts as 0.
    pub fn formula(&self, binding: Option<&Binding>) -> String {
        text::formula(self, binding)
    }

    /// Elements of all weights under a binding.
    ///
    /// # Errors
    /// A size that is not a whole number.
    pub fn n_params(&self, binding: &Binding) -> Result<u64> {
        let mut total = 0;
        for axes in &self.weights {
            let mut n = 1u64;
            for &d in axes {
                n *= self.graph.size(d).evaluate(self.variables(), binding)? as u64;
            }
            total += n;
        }
        Ok(total)
    }

    /// Checks every size under a binding.
    ///
    /// # Errors
    /// [`crate::error::Error::Divide`] for a size that is not a whole number.
    pub fn check_binding(&self, binding: &Binding) -> Result<()> {
        for d in self.dims() {
            self.graph.size(d).evaluate(self.variables(), binding)?;
        }
        Ok(())
    }
}

/// Two parts of one merge.
fn twins(a: Prim, b: Prim) -> bool {
    match (a, b) {
        (Prim::Outer(x, n), Prim::Inner(y, m)) | (Prim::Inner(x, n), Prim::Outer(y, m)) => x == y && n == m,
        _ => a == b,
    }
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::print(self))
    }
}

impl PartialEq for Operator {
    fn eq(&self, other: &Operator) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Operator {}
