//! What can still come of a state: how many actions are left at least, and how many multiply-adds.

use super::Space;
use crate::synth::bound::{Decrease, Game, bytes};
use crate::synth::canon::{self, Rule, RuleSet};
use crate::synth::distance::{Axis, Budget, Distance, Form};
use crate::synth::graph::{Dim, Graph};
use crate::synth::legal::Ratio;
use crate::synth::partial::{Partial, Top};
use crate::synth::prim::Prim;
use crate::synth::size::Size;

/// Lengths travel as bytes; no operator has more primitives on a dim.
const LONGEST: usize = u8::MAX as usize;

/// Where these rules are on, the distance knows what they leave to sums, to shared dims and to those before the last contraction.
const FORMS: [Rule; 16] = [
    Rule::Early,
    Rule::SplitEarly,
    Rule::SplitAdjacent,
    Rule::MergeShared,
    Rule::MergeSplit,
    Rule::MergeSum,
    Rule::ShiftSum,
    Rule::ShiftShared,
    Rule::StrideSplit,
    Rule::UnfoldSplit,
    Rule::UnfoldSum,
    Rule::UnfoldOfSums,
    Rule::ExpandKind,
    Rule::Discards,
    Rule::ManyTensors,
    Rule::ManyStrides,
];

/// In place of a state's distance: nothing but more sums can help.
pub(in crate::synth) const ONLY_SUMS: usize = usize::MAX;

impl Space {
    /// At least so many actions are left; or the rule by which nothing can come of the state.
    pub(super) fn judge(&mut self, state: &Partial) -> Result<usize, Rule> {
        let off = self.options.off;
        let mut steps = 0;
        let mut becomes = vec![];
        if !off.contains(Rule::Distance) {
            let left = self.options.depth.saturating_sub(state.n_actions);
            match self.steps_left(state).filter(|s| s.0 <= left) {
                Some(found) => (steps, becomes) = found,
                // more sums may make it possible
                None if state.is_reducing() && state.sums.len() < self.options.reductions && left > 0 => steps = ONLY_SUMS,
                None => return Err(Rule::Distance),
            }
        }
        if !off.contains(Rule::Stuck) && !state.is_reducing() && self.is_stuck(state) {
            return Err(Rule::Stuck);
        }
        if !off.contains(Rule::Unordered) && !canon::unordered(&self.graph, state, &becomes) {
            return Err(Rule::Unordered);
        }
        if state.weights.len() + 1 >= self.options.tensors {
            self.check_pooling(state)?;
        }
        if let Some(most) = self.options.max_flops.filter(|_| !off.contains(Rule::Flops))
            && self.least_flops(state) > most
        {
            return Err(Rule::Flops);
        }
        Ok(steps)
    }

    /// A sum that no weight will see must be joined to something by a Split, one for each (or strided), or be an axis of
    /// the data as it is.
    fn is_stuck(&mut self, state: &Partial) -> bool {
        let most = self.options.most;
        let bare = |t: &&Top| matches!(t.bare(&self.graph), Some(Prim::Reduce(_)));
        let unwanted = |t: &&Top| self.wanted.iter().all(|a| a.size != self.graph.size(t.dim));
        let n_bare = state.frontier.iter().filter(bare).filter(unwanted).count();
        let left = self.options.depth - state.n_actions.min(self.options.depth);
        let splits = most.splits.saturating_sub(state.counts.splits);
        let strides = most.strides.saturating_sub(state.counts.strides);
        n_bare > splits.saturating_add(strides).min(left) && !self.local(state).may_contract()
    }

    pub(super) fn check_pooling(&self, state: &Partial) -> Result<(), Rule> {
        let pooled = canon::pooled(&self.graph, state);
        let fits = self.sizes.at_most(pooled, Ratio(self.options.max_pooling.into(), 1));
        if fits || self.options.off.contains(Rule::Pooling) { Ok(()) } else { Err(Rule::Pooling) }
    }

    /// A lower bound of the actions left, and what is certain of unordered axes; `None` where nothing can be reached.
    fn steps_left(&mut self, state: &Partial) -> Option<(usize, Vec<(Dim, usize)>)> {
        let left = self.options.depth.checked_sub(state.n_actions)?;
        let (counts, most) = (state.counts, self.options.most);
        let rest = |most: usize, used: usize| {
            let left = if most == usize::MAX { self.options.depth } else { most.saturating_sub(used) };
            left as u32
        };
        let (merges, splits) = (rest(most.merges, counts.merges), rest(most.splits, counts.splits));
        let leaves = rest(most.unfolds, counts.unfolds) + rest(most.expands, counts.expands);
        let may_contract = self.local(state).may_contract();
        let contracts = may_contract && self.options.admissible;
        // after one more contraction a sum may be outer in a second one
        let two = contracts && state.weights.len() + 2 < self.options.tensors;
        let mut current = std::mem::take(&mut self.current);
        current.clear();
        let is_strict = self.knows_forms();
        for top in &state.frontier {
            let is_sum = matches!(self.graph.prim(top.dim), Prim::Reduce(_));
            let drops = contracts && {
                let local = self.local(state);
                local.may_share(top) && (local.may_expand(top, Size::ONE).is_ok() || (two && is_sum && top.shares == 0))
            };
            let length = self.options.chain.saturating_sub(usize::from(top.height));
            let discards = top.discards && !self.is_strided(top.dim);
            let form = if is_strict { self.form(state, top, may_contract) } else { Form::default() };
            current.push(Axis { size: self.graph.size(top.dim), left: length.min(LONGEST) as u8, discards, drops, form });
        }
        let odd_growth = !may_contract && self.options.max_repeat <= 1 && self.options.odd_windows;
        let budget = Budget { merges, splits, leaves, steps: left as u32, contracts, odd_growth };
        let found = if self.steps.is_empty() {
            self.distances.distance(&self.target, &self.sizes, &current, &budget)
        } else {
            self.strided_distance(state, &current, &budget)
        };
        self.current = current;
        let mut steps = found.steps? as usize;
        if contracts && state.weights.is_empty() && !self.options.off.contains(Rule::NoWeight) {
            // a contraction is an action of its own, unless it is the one that drops dims
            steps = steps.max(1);
        }
        let becomes = state.frontier.iter().zip(&found.unordered).filter_map(|(top, axis)| axis.map(|axis| (top.dim, axis))).collect();
        Some((steps, becomes))
    }

    /// The least distance over all ways to stride places or not to, each stride one action. A strided place needs a window
    /// above it, which is more than the data's shape has room for.
    fn strided_distance(&mut self, state: &Partial, current: &[Axis], budget: &Budget) -> Distance {
        let step = |(i, top): (usize, &Top)| Some((i, self.step_of(top.dim)?));
        let mut open: Vec<(usize, Size)> = state.frontier.iter().enumerate().filter_map(step).collect();
        open.retain(|&(i, _)| current[i].left > 0 && self.local(state).may_stride(&state.frontier[i]).is_ok());
        let n_strided = state.frontier.iter().filter(|t| self.is_strided(t.dim)).count() as u32;
        let mut least = Distance::default();
        for chosen in 0..1u32 << open.len() {
            let n_chosen = chosen.count_ones();
            let mut axes = current.to_vec();
            for &(i, step) in open.iter().enumerate().filter(|(bit, _)| chosen >> bit & 1 == 1).map(|(_, o)| o) {
                axes[i] = Axis { size: axes[i].size.times(step), left: axes[i].left - 1, ..axes[i] };
            }
            let product = axes.iter().fold(Size::ONE, |p, a| p.times(a.size));
            let n_windows = n_strided + n_chosen;
            if n_chosen > budget.steps || n_windows > budget.leaves || n_windows > 0 && product == self.wanted_product {
                continue;
            }
            let left = Budget { steps: budget.steps - n_chosen, ..*budget };
            let found = self.distances.distance(&self.target, &self.sizes, &axes, &left);
            let Some(steps) = found.steps.map(|s| s.max(n_windows) + n_chosen).filter(|&s| s <= budget.steps) else { continue };
            let same = |(a, b): (&Option<usize>, &Option<usize>)| a.filter(|_| a == b);
            least = match least.steps {
                None => Distance { steps: Some(steps), unordered: found.unordered },
                Some(before) => {
                    Distance { steps: Some(before.min(steps)), unordered: least.unordered.iter().zip(&found.unordered).map(same).collect() }
                }
            };
        }
        least
    }

    /// Does the distance know what the rules in [`FORMS`] leave to a dim? Not where a slot asks for strides, nor where sums may
    /// be joined and cut after all.
    pub(super) fn knows_forms(&self) -> bool {
        self.options.admissible && !self.options.survivors && self.steps.is_empty() && !self.options.off.contains_any(RuleSet::of(&FORMS))
    }

    /// What the rules in [`FORMS`] leave to a dim.
    fn form(&self, state: &Partial, top: &Top, may_contract: bool) -> Form {
        let is_early = !state.weights.is_empty() && top.tags >> state.weights.len() & 1 == 0;
        let mut form = if is_early { Form::EARLY } else { Form::default() };
        match self.graph.prim(top.dim) {
            Prim::Reduce(_) => {
                form = form.with(Form::NEVER_CUT);
                // of two sums that the same weight saw first, or none, the Split is refused
                match top.shares.trailing_zeros() as u8 {
                    first if top.shares != 0 => form = form.of_class(first + 1),
                    _ if may_contract => {}
                    _ => form = form.of_class(1),
                }
                if top.shares == 0 {
                    // a bare sum is no window
                    let may_go = may_contract || state.counts.strides < self.options.most.strides;
                    form = form.with(if may_go { Form::TWO_STEPS } else { Form::STAYS });
                }
                return form;
            }
            Prim::Split(_, r) => {
                let may_shift = top.shares == 0
                    && !is_early
                    && state.counts.shifts < self.options.most.shifts
                    && (self.options.off.contains(Rule::ShiftSplit)
                        || self.sizes.at_most(self.graph.size(r), self.options.max_shift_ratio));
                form = form.with(match (may_shift, top.shares != 0 || may_contract) {
                    (false, _) if top.sums_only => Form::NEVER_CUT,
                    (false, false) => Form::NEVER_CUT,
                    (_, true) if !top.sums_only => Form::WHOLE,
                    _ => Form::UNDER_SHIFT,
                });
            }
            _ if top.sums_only => form = form.with(Form::UNDER_SHIFT),
            _ if is_early || top.shares != 0 => form = form.with(Form::WHOLE),
            _ => {}
        }
        form
    }

    /// A lower bound of the multiply-adds of everything that the state can become, over all bindings together.
    pub fn least_flops(&self, state: &Partial) -> u64 {
        self.game(state).flops()
    }

    /// A lower bound of the bytes moved by everything that the state can become, over all bindings together.
    pub fn least_bytes(&self, state: &Partial) -> u64 {
        let product = |axes: &[super::Axis]| axes.iter().fold(Size::ONE, |p, a| p.times(a.size));
        // a Stride may skip elements of the data
        let skips = self.options.most.strides > 0;
        let data = if skips { vec![0; self.sizes.n_bindings()] } else { self.values(self.data_product, false) };
        let weight = |w: &Vec<Dim>| self.values(w.iter().fold(Size::ONE, |p, &d| p.times(self.graph.size(d))), false);
        bytes(&data, &self.values(product(&self.shapes.output), false), &state.weights.iter().map(weight).collect::<Vec<_>>())
    }

    /// The values of a size, one per binding, rounded down or up.
    fn values(&self, size: Size, up: bool) -> Vec<u64> {
        let whole = |r: Ratio| u64::try_from(if up { r.0.div_ceil(r.1) } else { r.0 / r.1 }).unwrap_or(u64::MAX);
        let unknown = if up { u64::MAX } else { 0 };
        (0..self.sizes.n_bindings()).map(|i| self.sizes.value(size, i).map_or(unknown, whole)).collect()
    }

    fn game(&self, state: &Partial) -> Game {
        let graph = &self.graph;
        // what multiplies the elements: the dim that it stands above, and its size
        let mut increases: Vec<(Dim, Size)> = state.expanded.iter().map(|t| (t.dim, graph.size(t.dim))).collect();
        let mut strides = Size::ONE;
        for d in state.dims(graph) {
            match graph.prim(d) {
                Prim::Unfold(_, window) => increases.push((d, graph.size(window))),
                Prim::Stride(_, step) => strides = strides.times(step),
                _ => {}
            }
        }
        // without the others the bound is only weaker
        increases.truncate(u64::BITS as usize);
        let above = |d: Dim| (0..increases.len()).filter(|&i| graph.depends(increases[i].0, d)).fold(0u64, |set, i| set | 1 << i);
        let mut needs: Vec<u64> = state.sums.iter().map(|&s| above(s)).collect();
        for weight in &state.weights {
            // a weight is multiplied in at once; of what stands above its axes that needs only their own elements, since other
            // windows may slide over an axis that is made for it
            let own = |d: Dim, i: usize| match graph.prim(increases[i].0) {
                Prim::Unfold(_, window) if i >= state.expanded.len() => is_part(graph, window, d),
                _ => is_part(graph, increases[i].0, d),
            };
            let all = weight.iter().flat_map(|&d| (0..increases.len()).filter(move |&i| own(d, i))).fold(0u64, |set, i| set | 1 << i);
            for (sum, need) in state.sums.iter().zip(&mut needs) {
                if weight.iter().any(|&d| graph.depends(d, *sum)) {
                    *need |= all;
                }
            }
        }
        let decrease = |(&sum, needs): (&Dim, u64)| Decrease { size: self.values(graph.size(sum), true), needs };
        Game {
            elements: self.values(self.data_product, false),
            strides: self.values(strides, true),
            increases: increases.iter().map(|i| self.values(i.1, false)).collect(),
            decreases: state.sums.iter().zip(needs).map(decrease).collect(),
        }
    }
}

/// Is it the dim, or what Merges and Shifts have made of it?
fn is_part(graph: &Graph, part: Dim, of: Dim) -> bool {
    match graph.prim(part) {
        _ if part == of => true,
        Prim::Outer(x, _) | Prim::Inner(x, _) | Prim::Shift(x) => is_part(graph, x, of),
        _ => false,
    }
}
