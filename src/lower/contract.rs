//! Products of accesses as views, convolutions and pairwise contractions, in the cheapest order.

use super::index::Index;
use super::loops::{Guard, Loop};
use super::plan::{Builder, Step, localize};
use super::split::{Linear, is_window};
use crate::error::{Result, invalid};

/// Beyond this many factors the order of contraction is not searched.
const N_SEARCHED: usize = 5;
/// A window that is not a convolution is copied once per position: how much slower than its arithmetic (measured, 3x3: 8x).
const WINDOW_COST: f64 = 6.0;

/// A value read at index expressions, one per axis. Materialized: every axis is one loop, each loop once, in full.
#[derive(Clone, Debug)]
pub(super) struct Factor {
    pub value: usize,
    pub axes: Vec<Index>,
}

impl Factor {
    pub fn reads(&self, l: usize) -> bool {
        self.axes.iter().any(|e| e.loops().contains(&l))
    }

    /// The loop of axis `i` of a materialized factor.
    pub fn label(&self, i: usize) -> usize {
        if let Index::Var(l) = self.axes[i] { l } else { usize::MAX }
    }
}

/// A factor without its value: what the order search works on.
#[derive(Clone, Debug)]
struct Shadow {
    axes: Vec<Index>,
    shape: Vec<i64>,
}

/// How a pair is a convolution: axes of the data factor, and loops of the weight.
struct ConvShape {
    /// (axis of x, output loop, stride, kernel loop, dilation, offset)
    windows: Vec<(usize, usize, i64, usize, i64, i64)>,
    /// Axes of x that stay as they are.
    raw: Vec<usize>,
}

impl Builder {
    /// Joins `x[e//B, e%B]` into one axis read at `e`, and turns `(e + k) mod M` on an axis of M into a roll.
    pub fn fold(&mut self, f: &mut Factor, guards: &[Guard], extents: &[i64]) {
        'again: loop {
            for high in 0..f.axes.len() {
                for low in 0..f.axes.len() {
                    let (Index::Div(e, d), Index::Mod(r, m)) = (&f.axes[high], &f.axes[low]) else { continue };
                    if e != r || d != m || self.shapes[f.value][low] != *d {
                        continue;
                    }
                    let joined = (**e).clone();
                    self.merge(f, &[high, low], joined);
                    continue 'again;
                }
            }
            break;
        }
        for axis in 0..f.axes.len() {
            let Index::Mod(inner, m) = f.axes[axis].clone() else { continue };
            if self.shapes[f.value][axis] != m || inner.affine().is_none() {
                continue;
            }
            let whole = Linear::of(&inner, extents);
            let same = |g: &&Guard| g.extent == m && g.index.affine().is_some() && Linear::of(&g.index, extents).terms == whole.terms;
            let by = match guards.iter().find(same) {
                Some(g) => whole.constant - Linear::of(&g.index, extents).constant,
                None => whole.constant,
            };
            let rest = Linear { terms: whole.terms, constant: whole.constant - by };
            let (low, high) = rest.range(extents);
            if guards.iter().any(|g| g.extent == m && g.index == rest.index()) || (low >= 0 && high < m) {
                let shape = self.shapes[f.value].clone();
                f.value = self.push(Step::Roll { x: f.value, axis: axis as i64, by: -by }, shape);
                f.axes[axis] = rest.index();
            }
        }
    }

    /// Joins axes (in the given order) into one at the first's place.
    fn merge(&mut self, f: &mut Factor, which: &[usize], joined: Index) {
        let first = *which.iter().min().unwrap_or(&0);
        let mut order: Vec<usize> = (0..f.axes.len()).filter(|i| !which.contains(i)).collect();
        let at = order.iter().filter(|&&i| i < first).count();
        order.splice(at..at, which.iter().copied());
        let x = self.permute(f.value, &order);
        let mut shape = self.shapes[x].clone();
        let size: i64 = shape[at..at + which.len()].iter().product();
        shape.splice(at..at + which.len(), [size]);
        let mut axes: Vec<Index> = order.iter().map(|&o| f.axes[o].clone()).collect();
        axes.splice(at..at + which.len(), [joined]);
        *f = Factor { value: self.reshape(x, shape), axes };
    }

    /// Reads a factor into a tensor with one axis per loop.
    pub fn materialize(&mut self, mut f: Factor, extents: &[i64]) -> Factor {
        for axis in 0..f.axes.len() {
            let Some((_, _)) = f.axes[axis].affine() else { continue };
            let (low, high) = f.axes[axis].range(extents);
            let (before, after) = ((-low).max(0), (high - self.shapes[f.value][axis] + 1).max(0));
            f.value = self.pad(f.value, axis, before, after);
            f.axes[axis] = f.axes[axis].clone().plus(before);
        }
        while let Some(shared) = shared_axes(&f) {
            let sizes: Vec<i64> = shared.iter().map(|&a| self.shapes[f.value][a]).collect();
            let joined = shared.iter().zip(&sizes).fold(Index::Const(0), |so_far, (&a, &size)| so_far.times(size).add(f.axes[a].clone()));
            self.merge(&mut f, &shared, Linear::of(&joined, extents).index());
        }
        let mut axis = 0;
        while axis < f.axes.len() {
            if self.read_axis(&mut f, axis, extents) {
                axis += 1;
            }
        }
        f
    }

    /// One step towards reading an axis at its expression; true when the axis is one whole loop.
    fn read_axis(&mut self, f: &mut Factor, axis: usize, extents: &[i64]) -> bool {
        let size = self.shapes[f.value][axis];
        let affine = f.axes[axis].affine().filter(|(terms, _)| terms.iter().all(|t| t.1 > 0));
        let Some((mut terms, start)) = affine else {
            let loops = f.axes[axis].loops();
            self.gather(f, axis, &loops, extents);
            return false;
        };
        let span = 1 + terms.iter().map(|&(l, c)| (extents[l] - 1) * c).sum::<i64>();
        f.value = self.slice(f.value, axis, start, span, 1);
        match terms[..] {
            [] => {
                let mut shape = self.shapes[f.value].clone();
                shape.remove(axis);
                f.value = self.reshape(f.value, shape);
                f.axes.remove(axis);
                return false;
            }
            [(l, c)] => {
                f.value = self.slice(f.value, axis, 0, extents[l], c);
                f.axes[axis] = Index::Var(l);
                return true;
            }
            _ => {}
        }
        terms.sort_by_key(|t| -t.1);
        let exact = start == 0
            && span == size
            && terms.windows(2).all(|p| p[0].1 == p[1].1 * extents[p[1].0])
            && terms.last().is_some_and(|t| t.1 == 1);
        if exact {
            let mut shape = self.shapes[f.value].clone();
            shape.splice(axis..=axis, terms.iter().map(|t| extents[t.0]));
            f.value = self.reshape(f.value, shape);
            f.axes.splice(axis..=axis, terms.iter().map(|t| Index::Var(t.0)));
            return true;
        }
        let (outer, step) = terms[0];
        if step >= span - (extents[outer] - 1) * step {
            // blocks that do not overlap: also what a diagonal of windows becomes
            f.value = self.pad(f.value, axis, 0, extents[outer] * step - span);
            let mut shape = self.shapes[f.value].clone();
            shape.splice(axis..=axis, [extents[outer], step]);
            f.value = self.reshape(f.value, shape);
            f.axes.splice(axis..=axis, [Index::Var(outer), sum_of(&terms[1..])]);
            return true;
        }
        let widest = (0..terms.len()).max_by_key(|&i| extents[terms[i].0]).unwrap_or(0);
        let (l, step) = terms.remove(widest);
        let window = span - (extents[l] - 1) * step;
        let mut shape = self.shapes[f.value].clone();
        shape[axis] = extents[l];
        shape.push(window);
        f.value = self.push(Step::Unfold { x: f.value, axis: axis as i64, size: window, step }, shape);
        f.axes[axis] = Index::Var(l);
        f.axes.push(sum_of(&terms));
        true
    }

    fn gather(&mut self, f: &mut Factor, axis: usize, loops: &[usize], extents: &[i64]) {
        let named = loops.iter().map(|&l| Loop { name: format!("i{l}"), extent: extents[l] }).collect();
        let mut shape = self.shapes[f.value].clone();
        shape[axis] = loops.iter().map(|&l| extents[l]).product();
        let index = localize(&f.axes[axis], loops);
        let x = self.push(Step::Gather { x: f.value, axis: axis as i64, loops: named, index }, shape.clone());
        shape.splice(axis..=axis, loops.iter().map(|&l| extents[l]));
        f.value = self.reshape(x, shape);
        f.axes.splice(axis..=axis, loops.iter().map(|&l| Index::Var(l)));
    }

    /// The sum over all loops that are not in `output` of the product of the factors; materialized.
    pub fn contract(&mut self, mut factors: Vec<Factor>, output: &[usize], extents: &[i64]) -> Result<Factor> {
        while factors.len() > 1 {
            let (a, b) = self.next_pair(&factors, output, extents);
            let (second, first) = (factors.remove(b), factors.remove(a));
            let keep = needed(&factors.iter().map(|f| &f.axes[..]).collect::<Vec<_>>(), output);
            let joined = self.pair(first, second, &keep, extents)?;
            factors.insert(0, joined);
        }
        let Some(last) = factors.pop() else { return invalid("a product of no tensors cannot be lowered: give the stage a factor") };
        let mut last = self.materialize(last, extents);
        let summed: Vec<usize> = (0..last.axes.len()).filter(|&i| !output.contains(&last.label(i))).collect();
        last.value = self.sum(last.value, &summed);
        last.axes.retain(|e| matches!(e, Index::Var(l) if output.contains(l)));
        Ok(last)
    }

    fn next_pair(&self, factors: &[Factor], output: &[usize], extents: &[i64]) -> (usize, usize) {
        if factors.len() == 2 || factors.len() > N_SEARCHED {
            return (0, 1);
        }
        let shadows: Vec<Shadow> = factors.iter().map(|f| Shadow { axes: f.axes.clone(), shape: self.shapes[f.value].clone() }).collect();
        cheapest(&shadows, output, extents).1
    }

    fn pair(&mut self, a: Factor, b: Factor, keep: &[usize], extents: &[i64]) -> Result<Factor> {
        for (x, w) in [(&a, &b), (&b, &a)] {
            if let Some(conv) = conv_shape(&x.axes, &self.shapes[x.value], &w.axes, keep, extents) {
                return self.convolution(x.clone(), w.clone(), conv, keep, extents);
            }
        }
        let (mut a, mut b, mut extents, mut keep, mut raw) = (a, b, extents.to_vec(), keep.to_vec(), Vec::new());
        let (raw_a, raw_b) = (raw_axes(&a.axes, &b.axes, &keep, &extents), raw_axes(&b.axes, &a.axes, &keep, &extents));
        for (f, axes) in [(&mut a, raw_a), (&mut b, raw_b)] {
            for axis in axes {
                keep.push(extents.len());
                raw.push((extents.len(), std::mem::replace(&mut f.axes[axis], Index::Var(extents.len()))));
                extents.push(self.shapes[f.value][axis]);
            }
        }
        let (a, b) = (self.materialize(a, &extents), self.materialize(b, &extents));
        let labels = |f: &Factor| (0..f.axes.len()).map(|i| f.label(i)).collect::<Vec<_>>();
        let (la, lb) = (labels(&a), labels(&b));
        let mut result: Vec<usize> = la.iter().chain(&lb).copied().filter(|l| keep.contains(l)).collect();
        result.sort_unstable();
        result.dedup();
        let mut all: Vec<usize> = la.iter().chain(&lb).copied().collect();
        all.sort_unstable();
        all.dedup();
        if all.len() > 52 {
            return invalid("a product over more than 52 loops cannot be lowered to torch: use an operator with fewer axes");
        }
        let letter = |l: &usize| {
            let i = all.iter().position(|a| a == l).unwrap_or(0) as u8;
            char::from(if i < 26 { b'a' + i } else { b'A' + i - 26 })
        };
        let text = |ls: &[usize]| ls.iter().map(letter).collect::<String>();
        let formula = format!("{},{}->{}", text(&la), text(&lb), text(&result));
        let shape = result.iter().map(|&l| extents[l]).collect();
        let value = self.push(Step::Einsum { formula, xs: vec![a.value, b.value] }, shape);
        let axes = result.into_iter().map(|l| raw.iter().find(|r| r.0 == l).map_or(Index::Var(l), |r| r.1.clone())).collect();
        Ok(Factor { value, axes })
    }

    fn convolution(&mut self, mut x: Factor, w: Factor, conv: ConvShape, keep: &[usize], extents: &[i64]) -> Result<Factor> {
        let mut extents = extents.to_vec();
        let mut raw: Vec<(usize, Index)> = Vec::new();
        for axis in 0..x.axes.len() {
            if conv.raw.contains(&axis) || conv.windows.iter().any(|w| w.0 == axis) {
                extents.push(self.shapes[x.value][axis]);
                raw.push((extents.len() - 1, std::mem::replace(&mut x.axes[axis], Index::Var(extents.len() - 1))));
            }
        }
        let windows: Vec<_> =
            conv.windows.iter().map(|w| (raw[raw.iter().position(|r| windows_axis(&r.1, w)).unwrap_or(0)].0, *w)).collect();
        let mut x = self.materialize(x, &extents);
        let mut w = self.materialize(w, &extents);
        let kernel: Vec<usize> = windows.iter().map(|w| w.1.3).collect();
        let pseudo = |l: usize| raw.iter().any(|r| r.0 == l);
        self.sum_unused(&mut x, |l| pseudo(l) || keep.contains(&l) || w.reads(l));
        self.sum_unused(&mut w, |l| kernel.contains(&l) || keep.contains(&l) || x.reads(l));
        let labels = |f: &Factor| (0..f.axes.len()).map(|i| f.label(i)).collect::<Vec<_>>();
        let (lx, lw) = (labels(&x), labels(&w));
        let spatial: Vec<usize> = windows.iter().map(|w| w.0).collect();
        let mut batch: Vec<usize> = lx.iter().copied().filter(|l| !lw.contains(l) && !spatial.contains(l)).collect();
        let groups: Vec<usize> = lx.iter().copied().filter(|l| lw.contains(l) && keep.contains(l)).collect();
        let inner: Vec<usize> = lx.iter().copied().filter(|l| lw.contains(l) && !keep.contains(l)).collect();
        let outer: Vec<usize> = lw.iter().copied().filter(|l| !lx.contains(l) && !kernel.contains(l)).collect();

        // The two spatial axes: a window, or an axis that stays (kernel 1).
        let at = |l: usize| lx.iter().position(|&m| m == l).unwrap_or(0);
        let mut plane: Vec<(Option<usize>, Option<usize>)> = windows.iter().enumerate().map(|(i, w)| (Some(w.0), Some(i))).collect();
        if plane.len() == 1 {
            let partner = if batch.len() > 1 { batch.pop() } else { None };
            plane.push((partner, None));
        }
        plane.sort_by_key(|p| p.0.map_or(usize::MAX, at));

        let size = |f: &Factor, b: &Builder, l: usize| (0..f.axes.len()).find(|&i| f.label(i) == l).map_or(1, |i| b.shapes[f.value][i]);
        let product = |f: &Factor, b: &Builder, ls: &[usize]| ls.iter().map(|&l| size(f, b, l)).product::<i64>();
        let (n, g, c, o) = (product(&x, self, &batch), product(&x, self, &groups), product(&x, self, &inner), product(&w, self, &outer));
        let (mut stride, mut padding, mut dilation, mut kernel_shape, mut out_shape) = ([1; 2], [0; 2], [1; 2], [1; 2], [1; 2]);
        for (side, &(label, window)) in plane.iter().enumerate() {
            let have = label.map_or(1, |l| size(&x, self, l));
            out_shape[side] = have;
            let Some(i) = window else { continue };
            let (_, (_, out, s, k, d, offset)) = windows[i];
            let (out, k) = (extents[out], extents[k]);
            let reach = offset + (out - 1) * s + (k - 1) * d + 1;
            let (axis, mut before, mut after) = (at(label.unwrap_or(0)), (-offset).max(0), (reach - have).max(0));
            if offset > 0 {
                x.value = self.slice(x.value, axis, offset, have - offset, 1);
            }
            if after <= before {
                (padding[side], before, after) = (before, 0, 0);
            }
            x.value = self.pad(x.value, axis, before, after);
            (stride[side], dilation[side], kernel_shape[side]) = (s, d, k);
            out_shape[side] = (self.shapes[x.value][axis] + 2 * padding[side] - d * (k - 1) - 1) / s + 1;
        }
        let plane_sizes: Vec<i64> = plane.iter().map(|p| p.0.map_or(1, |l| self.shapes[x.value][at(l)])).collect();

        let order: Vec<usize> = batch.iter().chain(&groups).chain(&inner).copied().chain(plane.iter().filter_map(|p| p.0)).collect();
        let data = self.aligned(&x, &order);
        let data = self.reshape(data, vec![n, g * c, plane_sizes[0], plane_sizes[1]]);
        let kernels = plane.iter().filter_map(|p| p.1.map(|i| kernel[i]));
        let order: Vec<usize> = groups.iter().chain(&outer).chain(&inner).copied().chain(kernels).collect();
        let weight = self.aligned(&w, &order);
        let weight = self.reshape(weight, vec![g * o, c, kernel_shape[0], kernel_shape[1]]);
        let shape = vec![n, g * o, out_shape[0], out_shape[1]];
        let mut value = self.push(Step::Conv { x: data, weight, stride, padding, dilation, groups: g }, shape);
        for (side, p) in plane.iter().enumerate() {
            if let Some(i) = p.1 {
                value = self.slice(value, side + 2, 0, extents[windows[i].1.1], 1);
            }
        }
        let mut labels = [&batch[..], &groups, &outer].concat();
        let mut shape: Vec<i64> =
            batch.iter().chain(&groups).map(|&l| size(&x, self, l)).chain(outer.iter().map(|&l| size(&w, self, l))).collect();
        for (side, p) in plane.iter().enumerate() {
            let Some(label) = p.0 else { continue };
            labels.push(p.1.map_or(label, |i| windows[i].1.1));
            shape.push(self.shapes[value][side + 2]);
        }
        let value = self.reshape(value, shape);
        let axes = labels.into_iter().map(|l| raw.iter().find(|r| r.0 == l).map_or(Index::Var(l), |r| r.1.clone())).collect();
        Ok(Factor { value, axes })
    }

    fn sum_unused(&mut self, f: &mut Factor, used: impl Fn(usize) -> bool) {
        let summed: Vec<usize> = (0..f.axes.len()).filter(|&i| !used(f.label(i))).collect();
        f.value = self.sum(f.value, &summed);
        let mut i = 0..;
        f.axes.retain(|_| !summed.contains(&i.next().unwrap_or(0)));
    }
}

fn windows_axis(e: &Index, w: &(usize, usize, i64, usize, i64, i64)) -> bool {
    e.loops() == if w.1 < w.3 { vec![w.1, w.3] } else { vec![w.3, w.1] }
}

fn sum_of(terms: &[(usize, i64)]) -> Index {
    terms.iter().fold(Index::Const(0), |sum, &(l, c)| sum.add(Index::Var(l).times(c)))
}

/// Axes that read the same loops; `None` when all are apart. Those with fewest loops first: joined, a diagonal of windows is then
/// made of blocks that do not overlap.
fn shared_axes(f: &Factor) -> Option<Vec<usize>> {
    for a in 0..f.axes.len() {
        let mine = f.axes[a].loops();
        let mut together: Vec<usize> =
            (0..f.axes.len()).filter(|&b| b == a || f.axes[b].loops().iter().any(|l| mine.contains(l))).collect();
        if together.len() > 1 {
            together.sort_by_key(|&b| f.axes[b].loops().len());
            return Some(together);
        }
    }
    None
}

fn needed(others: &[&[Index]], output: &[usize]) -> Vec<usize> {
    others.iter().flat_map(|axes| axes.iter().flat_map(Index::loops)).chain(output.iter().copied()).collect()
}

/// Whether `Σ x · w` slides `w` over `x`: one or two axes of `x` read at `h·stride + i·dilation + offset` with `i` summed here and
/// found in `w`, `h` not in `w`. Windows that do not overlap are reshapes, not convolutions.
fn conv_shape(x: &[Index], shape: &[i64], w: &[Index], keep: &[usize], extents: &[i64]) -> Option<ConvShape> {
    let in_w: Vec<usize> = w.iter().flat_map(Index::loops).collect();
    let plain = |l: usize| w.contains(&Index::Var(l));
    let alone = |axis: usize| x.iter().enumerate().all(|(b, e)| b == axis || !e.loops().iter().any(|l| x[axis].loops().contains(l)));
    let (mut windows, mut raw) = (Vec::new(), Vec::new());
    for (axis, e) in x.iter().enumerate() {
        let Some((terms, offset)) = e.affine() else { continue };
        let loops = e.loops();
        if !alone(axis) {
            continue;
        }
        if loops.iter().all(|l| !in_w.contains(l) && keep.contains(l)) && terms.len() > 1 {
            raw.push(axis);
        } else if let [p, q] = terms[..]
            && is_window(e, extents)
        {
            let kernel = |t: (usize, i64)| in_w.contains(&t.0) && plain(t.0) && !keep.contains(&t.0);
            let out = |t: (usize, i64)| !in_w.contains(&t.0) && keep.contains(&t.0);
            let (h, i) = if kernel(q) && out(p) { (p, q) } else { (q, p) };
            if kernel(i) && out(h) && h.1 > 0 && i.1 > 0 && offset < shape[axis] {
                windows.push((axis, h.0, h.1, i.0, i.1, offset));
            }
        }
    }
    matches!(windows.len(), 1 | 2).then_some(ConvShape { windows, raw })
}

/// Windowed axes of `x` that a contraction with `w` can leave as they are, to be read later: no loop of theirs ends here, and not all
/// are in `w`. Contracting before reading saves one multiplication per window position.
fn raw_axes(x: &[Index], w: &[Index], keep: &[usize], extents: &[i64]) -> Vec<usize> {
    let in_w: Vec<usize> = w.iter().flat_map(Index::loops).collect();
    let stays = |&axis: &usize| {
        let loops = x[axis].loops();
        let alone = x.iter().enumerate().all(|(b, e)| b == axis || !e.loops().iter().any(|l| loops.contains(l)));
        alone && is_window(&x[axis], extents) && loops.iter().all(|l| keep.contains(l)) && !loops.iter().all(|l| in_w.contains(l))
    };
    (0..x.len()).filter(stays).collect()
}

/// The least cost of contracting all, and the first pair of that order.
fn cheapest(factors: &[Shadow], output: &[usize], extents: &[i64]) -> (f64, (usize, usize)) {
    let mut best = (f64::INFINITY, (0, 1));
    if factors.len() < 2 {
        return (0.0, (0, 0));
    }
    for a in 0..factors.len() {
        for b in a + 1..factors.len() {
            let mut rest: Vec<Shadow> = (0..factors.len()).filter(|&i| i != a && i != b).map(|i| factors[i].clone()).collect();
            let keep = needed(&rest.iter().map(|s| &s.axes[..]).collect::<Vec<_>>(), output);
            let (cost, joined) = joined(&factors[a], &factors[b], &keep, extents);
            rest.insert(0, joined);
            let total = cost + cheapest(&rest, output, extents).0;
            if total < best.0 {
                best = (total, (a, b));
            }
        }
    }
    best
}

fn joined(a: &Shadow, b: &Shadow, keep: &[usize], extents: &[i64]) -> (f64, Shadow) {
    let mut axes: Vec<Index> = Vec::new();
    let mut shape: Vec<i64> = Vec::new();
    let mut loops: Vec<usize> = Vec::new();
    let mut cost = 1.0;
    let mut raw_of = |x: &Shadow, raw: &[usize], loops: &mut Vec<usize>| {
        for (axis, e) in x.axes.iter().enumerate() {
            if raw.contains(&axis) {
                cost *= x.shape[axis] as f64;
                axes.push(e.clone());
                shape.push(x.shape[axis]);
            } else {
                loops.extend(e.loops());
            }
        }
    };
    let conv = |x: &Shadow, w: &Shadow| conv_shape(&x.axes, &x.shape, &w.axes, keep, extents);
    if let Some(found) = conv(a, b) {
        raw_of(a, &found.raw, &mut loops);
        loops.extend(b.axes.iter().flat_map(Index::loops));
    } else if let Some(found) = conv(b, a) {
        raw_of(b, &found.raw, &mut loops);
        loops.extend(a.axes.iter().flat_map(Index::loops));
    } else {
        let (raw_a, raw_b) = (raw_axes(&a.axes, &b.axes, keep, extents), raw_axes(&b.axes, &a.axes, keep, extents));
        let copied = |x: &Shadow, raw: &[usize]| x.axes.iter().enumerate().any(|(i, e)| !raw.contains(&i) && is_window(e, extents));
        let windows = copied(a, &raw_a) || copied(b, &raw_b);
        raw_of(a, &raw_a, &mut loops);
        raw_of(b, &raw_b, &mut loops);
        if windows {
            cost *= WINDOW_COST;
        }
    }
    loops.sort_unstable();
    loops.dedup();
    for l in loops {
        cost *= extents[l] as f64;
        if keep.contains(&l) {
            axes.push(Index::Var(l));
            shape.push(extents[l]);
        }
    }
    (cost, Shadow { axes, shape })
}
