//! Actions as text, and the way from the root to a finished operator (Syno, section 6: canonical paths).
//!
//! The text of an action says what it does to what, and nothing of how its state was reached: an action keeps its name in
//! every state, session and version.

use super::graph::Dim;
use super::operator::Operator;
use super::partial::{Action, Partial};
use super::prim::Prim;
use super::size::{Size, Variables};
use super::space::Space;
use super::stable_hash;
use crate::error::{Error, Result, invalid};

/// One action on the way to an operator.
#[derive(Clone, Debug)]
pub struct Step {
    pub kind: u8,
    pub key: u64,
    pub text: String,
    pub action: Action,
    /// The state before it.
    pub state: Partial,
}

/// The canonical way to an operator: sums, then what lies below all weights, then the first contraction, what lies above
/// it but below the second, and so on. The actions of a block may be taken in any order that its dims allow.
#[derive(Clone, Debug, Default)]
pub struct Path {
    pub blocks: Vec<Vec<Step>>,
}

impl Path {
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.blocks.iter().flatten()
    }
}

impl Space {
    fn print_term(&self, weights: &[Vec<Dim>], d: Dim) -> String {
        let mut out = String::new();
        self.print_dim(weights, d, &mut out);
        out
    }

    fn print_dim(&self, weights: &[Vec<Dim>], d: Dim, out: &mut String) {
        let shares: Vec<usize> = (1..=weights.len()).filter(|w| weights[w - 1].contains(&d)).collect();
        for w in shares.iter().rev() {
            out.push_str(&format!("share{w}("));
        }
        self.print_bare(weights, d, out);
        out.extend(shares.iter().map(|_| ')'));
    }

    fn print_bare(&self, weights: &[Vec<Dim>], d: Dim, out: &mut String) {
        let graph = self.graph();
        let size = |s: Size| s.print(graph.variables());
        let one = |name: &str, x: Dim, rest: String, out: &mut String| {
            out.push_str(name);
            out.push('(');
            self.print_dim(weights, x, out);
            out.push_str(&rest);
            out.push(')');
        };
        let two = |name: &str, a: Dim, b: Dim, out: &mut String| {
            out.push_str(name);
            out.push('(');
            self.print_dim(weights, a, out);
            out.push_str(", ");
            self.print_dim(weights, b, out);
            out.push(')');
        };
        match graph.prim(d) {
            Prim::Output(i) => out.push_str(&format!("y{i}")),
            Prim::Reduce(nth) => out.push_str(&format!("sum{nth}({})", size(graph.size(d)))),
            Prim::Split(l, r) => two("split", l, r, out),
            Prim::Unfold(l, r) => two("unfold", l, r, out),
            Prim::Outer(x, block) => one("outer", x, format!(", {}", size(block)), out),
            Prim::Inner(x, block) => one("inner", x, format!(", {}", size(block)), out),
            Prim::Shift(x) => one("shift", x, String::new(), out),
            Prim::Stride(x, step) => one("stride", x, format!(", {}", size(step)), out),
        }
    }

    /// For example `unfold(y2, share1(sum0(k)))`.
    pub fn print_action(&self, state: &Partial, action: &Action) -> String {
        let size = |s: Size| s.print(self.variables());
        let term = |d: Dim| self.print_term(&state.weights, d);
        let list = |mut terms: Vec<String>, sort: bool| {
            if sort {
                terms.sort();
            }
            terms.join(", ")
        };
        match action {
            Action::Reduce(r) => format!("reduce({})", size(*r)),
            Action::Split(l, r) => format!("split({}, {})", term(*l), term(*r)),
            Action::Unfold(l, r) => format!("unfold({}, {})", term(*l), term(*r)),
            Action::Merge(x, block) => format!("merge({}, {})", term(*x), size(*block)),
            Action::Shift(x) => format!("shift({})", term(*x)),
            Action::Stride(x, step) => format!("stride({}, {})", term(*x), size(*step)),
            Action::Expand(x) => format!("expand({})", term(*x)),
            Action::Contract(axes) => {
                let axis = |&(d, is_outer): &(Dim, bool)| format!("{}{}", if is_outer { "outer " } else { "" }, term(d));
                format!("contract({})", list(axes.iter().map(axis).collect(), true))
            }
            Action::Finish(data) => format!("finish({})", list(data.iter().map(|&d| term(d)).collect(), false)),
        }
    }

    /// Reads what [`Space::print_action`] wrote, in a state with the same dims.
    ///
    /// # Errors
    /// A text that is no action, or names a dim that is not in the frontier.
    pub fn parse_action(&self, state: &Partial, text: &str) -> Result<Action> {
        let fail = |what: &str| Error::Invalid(format!("{what} in the action {text:?}: write actions as they are printed"));
        let body = text.trim().strip_suffix(')').and_then(|t| t.split_once('('));
        let (name, body) = body.ok_or_else(|| fail("no 'name(…)'"))?;
        let parts = arguments(body);
        let dim = |part: &str| {
            let same = |&d: &Dim| self.print_term(&state.weights, d) == part;
            state.frontier.iter().map(|t| t.dim).find(same).ok_or_else(|| fail(&format!("no dim {part:?} in the frontier")))
        };
        let size = |part: &str| parse_size(part, self.variables()).ok_or_else(|| fail(&format!("no size {part:?}")));
        Ok(match (name, parts.as_slice()) {
            ("reduce", [s]) => Action::Reduce(size(s)?),
            ("split", [l, r]) => Action::Split(dim(l)?, dim(r)?),
            ("unfold", [l, r]) => Action::Unfold(dim(l)?, dim(r)?),
            ("merge", [x, s]) => Action::Merge(dim(x)?, size(s)?),
            ("shift", [x]) => Action::Shift(dim(x)?),
            ("stride", [x, s]) => Action::Stride(dim(x)?, size(s)?),
            ("expand", [x]) => Action::Expand(dim(x)?),
            ("contract", axes) => {
                let axis = |part: &&str| match part.strip_prefix("outer ") {
                    Some(d) => dim(d).map(|d| (d, true)),
                    None => dim(part).map(|d| (d, false)),
                };
                Action::Contract(axes.iter().map(axis).collect::<Result<Vec<_>>>()?)
            }
            ("finish", data) => Action::Finish(data.iter().map(|p| dim(p)).collect::<Result<Vec<_>>>()?),
            _ => return Err(fail("no such action")),
        })
    }

    /// The canonical path of an operator, replayed from the root.
    ///
    /// # Errors
    /// An operator of other shapes or variables; else the action that the space refuses, and its rule.
    pub fn path(&mut self, operator: &Operator) -> Result<Path> {
        let parts = self.import(operator)?;
        let mut best: Option<(usize, Error)> = None;
        for order in orders(parts.weights.len()) {
            let Some(blocks) = self.plan(&parts, &order) else { continue };
            match self.replay(&blocks, &parts.data) {
                Ok(path) => return Ok(path),
                Err(failed) if best.as_ref().is_none_or(|b| failed.0 > b.0) => best = Some(failed),
                Err(_) => {}
            }
        }
        let nothing = || Error::Invalid("no order of the operator's weights can be built".into());
        Err(best.map_or_else(nothing, |b| b.1))
    }

    /// Takes the actions one after the other; on refusal says after how many.
    fn replay(&mut self, blocks: &[Vec<Action>], data: &[Dim]) -> Result<Path, (usize, Error)> {
        let mut state = self.root();
        let mut path = Path::default();
        let mut n = 0;
        for block in blocks {
            let mut steps = Vec::new();
            for action in block {
                let text = self.print_action(&state, action);
                let next = match action {
                    Action::Finish(_) => self.finish(&state, data).map(|_| None),
                    _ => self.try_child(&state, action).map(Some),
                };
                let refused =
                    |rule: super::canon::Rule| (n, Error::Invalid(format!("action {}, {text}, is refused: {}", n + 1, rule.name())));
                let next = next.map_err(refused)?;
                n += 1;
                let key = stable_hash(text.as_bytes());
                steps.push(Step { kind: action.kind(), key, text, action: action.clone(), state: state.clone() });
                if let Some(next) = next {
                    state = next;
                }
            }
            if !steps.is_empty() {
                path.blocks.push(steps);
            }
        }
        Ok(path)
    }

    /// The operator's dims in this space's arena.
    fn import(&mut self, operator: &Operator) -> Result<Parts> {
        let variables = self.variables().clone();
        let translate = |size: Size| {
            let (numerator, denominator) = size.factor();
            let mut all = Size::number(numerator).over(Size::number(denominator));
            for (i, name) in operator.variables().names().iter().enumerate().filter(|(i, _)| size.exponent(*i) != 0) {
                let Some(variable) = variables.size(name) else {
                    return invalid(format!(
                        "the operator's variable {name} is not one of the space: use {}",
                        variables.names().join(", ")
                    ));
                };
                all = all.times(variable.power(i32::from(size.exponent(i))));
            }
            Ok(all)
        };
        let shape = |sizes: Vec<Size>| sizes.into_iter().map(translate).collect::<Result<Vec<_>>>();
        let (output, data) = (shape(operator.output_shape())?, shape(operator.data_shape())?);
        let same =
            |shown: &[Size], axes: &[super::space::Axis]| shown.len() == axes.len() && shown.iter().zip(axes).all(|(s, a)| *s == a.size);
        if !same(&output, &self.shapes.output) || !same(&data, &self.shapes.data) {
            return invalid("the operator's output or data have another shape than the space's");
        }
        let mut sums: Vec<(Size, Dim)> = Vec::new();
        for &d in operator.sums() {
            sums.push((translate(operator.graph().size(d))?, d));
        }
        sums.sort();
        let mut known: Vec<(Dim, Dim)> = operator.outputs().iter().copied().zip(self.outputs.iter().copied()).collect();
        for (i, &(size, d)) in sums.iter().enumerate() {
            let nth = sums[..i].iter().filter(|s| s.0 == size).count() as u8;
            known.push((d, self.graph.leaf(Prim::Reduce(nth), size)));
        }
        let mut dims = operator.dims();
        // a dim is made after those that it consumes
        dims.sort();
        for d in dims {
            let at = |x: Dim| known.iter().find(|k| k.0 == x).map(|k| k.1).ok_or_else(|| Error::Invalid("an operator with a loop".into()));
            let made = match operator.graph().prim(d) {
                Prim::Output(_) | Prim::Reduce(_) => continue,
                Prim::Split(l, r) => Prim::Split(at(l)?, at(r)?),
                Prim::Outer(x, block) => Prim::Outer(at(x)?, translate(block)?),
                Prim::Inner(x, block) => Prim::Inner(at(x)?, translate(block)?),
                Prim::Shift(x) => Prim::Shift(at(x)?),
                Prim::Stride(x, step) => Prim::Stride(at(x)?, translate(step)?),
                Prim::Unfold(main, window) => Prim::Unfold(at(main)?, at(window)?),
            };
            known.push((d, self.graph.make(made)));
        }
        let all = |list: &[Dim]| list.iter().filter_map(|d| known.iter().find(|k| k.0 == *d).map(|k| k.1)).collect::<Vec<Dim>>();
        let whole = all(operator.data());
        for &(i, o) in &self.shapes.fixed {
            if whole.get(i) != self.outputs.get(o) {
                return invalid(format!("axis {i} of the data must be axis {o} of the output as it is"));
            }
        }
        let data = (0..whole.len()).filter(|i| !self.shapes.fixed.iter().any(|f| f.0 == *i)).map(|i| whole[i]).collect();
        let weights = operator.weights().iter().map(|w| all(w)).collect();
        let dims = known.iter().map(|k| k.1).collect();
        Ok(Parts { sums: sums.iter().map(|s| s.0).collect(), dims, data, weights })
    }

    /// The actions in blocks, with the weights in a given order; `None` where a weight would come before its axes.
    fn plan(&mut self, parts: &Parts, order: &[usize]) -> Option<Vec<Vec<Action>>> {
        let n = order.len();
        let weight = |w: usize| &parts.weights[order[w - 1]];
        let mut dims = parts.dims.clone();
        for d in parts.dims.clone() {
            // both parts of every merge
            if let Prim::Outer(x, block) | Prim::Inner(x, block) = self.graph.prim(d) {
                for twin in [Prim::Outer(x, block), Prim::Inner(x, block)] {
                    let twin = self.graph.make(twin);
                    if !dims.contains(&twin) {
                        dims.push(twin);
                    }
                }
            }
        }
        dims.sort();
        let graph = &self.graph;
        // the number of the last weight below each dim, its own axes apart, and with them
        let mut levels: Vec<(Dim, usize, usize)> = Vec::new();
        for &d in &dims {
            let at = |x: Dim| levels.iter().find(|l| l.0 == x).map_or(0, |l| l.2);
            let below = graph.prim(d).consumed().map(at).max().unwrap_or(0);
            let own = (1..=n).rev().find(|&w| weight(w).contains(&d)).unwrap_or(0);
            let first = (1..=n).find(|&w| weight(w).contains(&d)).unwrap_or(usize::MAX);
            if first <= below {
                return None;
            }
            levels.push((d, below, below.max(own)));
        }
        let consumed: Vec<Dim> = dims.iter().flat_map(|&d| graph.prim(d).consumed()).collect();
        let fixed: Vec<Dim> = self.shapes.fixed.iter().map(|f| self.outputs[f.1]).collect();
        let dropped = |d: Dim| !consumed.contains(&d) && !parts.data.contains(&d) && !fixed.contains(&d);
        let mut blocks = vec![parts.sums.iter().map(|&s| Action::Reduce(s)).collect::<Vec<_>>()];
        for level in 0..=n {
            if level > 0 {
                let outer = |d: Dim| dropped(d) && (level + 1..=n).all(|w| !weight(w).contains(&d));
                let axes = weight(level).iter().map(|&d| (d, outer(d))).collect();
                blocks.push(vec![Action::Contract(axes)]);
            }
            let mut block: Vec<(usize, String, Action)> = Vec::new();
            for &(d, below, above) in &levels {
                let height = height(graph, d);
                let mut put = |height: usize, action: Action| block.push((height, self.print_term(&[], d), action));
                if below == level {
                    match graph.prim(d) {
                        Prim::Split(l, r) => put(height, Action::Split(l, r)),
                        Prim::Unfold(l, r) => put(height, Action::Unfold(l, r)),
                        Prim::Outer(x, size) => put(height, Action::Merge(x, size)),
                        Prim::Shift(x) => put(height, Action::Shift(x)),
                        Prim::Stride(x, step) => put(height, Action::Stride(x, step)),
                        Prim::Inner(..) | Prim::Output(_) | Prim::Reduce(_) => {}
                    }
                }
                if above == level && dropped(d) && (1..=n).all(|w| !weight(w).contains(&d)) {
                    put(height + 1, Action::Expand(d));
                }
            }
            block.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            blocks.push(block.into_iter().map(|b| b.2).collect());
        }
        blocks.push(vec![Action::Finish(parts.data.clone())]);
        Some(blocks)
    }
}

fn height(graph: &super::graph::Graph, d: Dim) -> usize {
    graph.prim(d).consumed().map(|x| 1 + height(graph, x)).max().unwrap_or(0)
}

/// An operator's parts in a space's arena.
struct Parts {
    sums: Vec<Size>,
    dims: Vec<Dim>,
    data: Vec<Dim>,
    weights: Vec<Vec<Dim>>,
}

/// All orders of `n` weights.
fn orders(n: usize) -> Vec<Vec<usize>> {
    (0..n).fold(vec![vec![]], |shorter: Vec<Vec<usize>>, _| {
        let longer = |o: &Vec<usize>| {
            let o = o.clone();
            (0..n).filter(|i| !o.contains(i)).map(|i| o.iter().copied().chain([i]).collect()).collect::<Vec<Vec<usize>>>()
        };
        shorter.iter().flat_map(longer).collect()
    })
}

/// The parts between commas that no bracket encloses.
fn arguments(body: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0i32, 0, Vec::new());
    for (i, c) in body.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(body[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(body[start..].trim());
    parts
}

/// Reads what [`Size::print`] wrote.
fn parse_size(text: &str, variables: &Variables) -> Option<Size> {
    let mut size = Size::ONE;
    for (i, quotient) in text.split('/').enumerate() {
        // "a*b/c/d": after the first slash each part divides
        let mut product = Size::ONE;
        for factor in quotient.split('*') {
            let (base, power) = match factor.split_once('^') {
                Some((base, power)) => (base, power.parse::<i32>().ok().filter(|p| (1..=64).contains(p))?),
                None => (factor, 1),
            };
            let base = match base.parse::<u32>() {
                Ok(0) => return None,
                Ok(n) => Size::number(n),
                Err(_) => variables.size(base)?,
            };
            product = product.times(base.power(power));
        }
        size = if i == 0 { product } else { size.over(product) };
    }
    Some(size)
}
