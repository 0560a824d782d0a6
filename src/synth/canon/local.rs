//! The rules that look at one action in one state.

use super::super::graph::{Dim, Graph};
use super::super::legal::{Divisors, Kind, Ratio, Sizes};
use super::super::operator::MAX_WEIGHTS;
use super::super::options::Options;
use super::super::partial::{Action, Partial, Top};
use super::super::prim::Prim;
use super::super::size::Size;
use super::Rule;

/// What the rules look at.
pub struct Local<'a> {
    pub graph: &'a Graph,
    pub sizes: &'a Sizes,
    pub divisors: &'a mut Divisors,
    pub free: &'a [Size],
    /// Places to be strided, and by which step.
    pub steps: &'a [(Dim, Size)],
    pub options: &'a Options,
    /// The product of the data's searched axes.
    pub data: Size,
    pub state: &'a Partial,
}

/// Fails with a rule unless it is switched off.
macro_rules! refuse {
    ($self:ident, $when:expr, $rule:ident) => {
        if $when && !$self.options.off.contains(Rule::$rule) {
            return Err(Rule::$rule);
        }
    };
}

fn number(n: u64) -> Ratio {
    Ratio(n.into(), 1)
}

impl Local<'_> {
    /// May the action be taken? Says nothing about what the state after it can still become.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn check(&mut self, action: &Action) -> Result<(), Rule> {
        let left = self.options.depth.saturating_sub(self.state.n_actions);
        if left == 0 && !matches!(action, Action::Finish(_)) {
            return Err(Rule::Depth);
        }
        match *action {
            Action::Reduce(size) => self.reduce(size),
            Action::Split(l, r) => self.split(l, r),
            Action::Merge(x, block) => self.merge(x, block),
            Action::Shift(x) => self.shift(x),
            Action::Stride(x, step) => self.stride(x, step),
            Action::Unfold(main, window) => self.unfold(main, window),
            Action::Expand(x) => self.expand(x),
            Action::Contract(ref axes) => self.contract(axes),
            Action::Finish(_) => Ok(()),
        }
    }

    fn size(&self, d: Dim) -> Size {
        self.graph.size(d)
    }

    /// A dim of the frontier that may still grow.
    fn top(&self, d: Dim) -> Result<Top, Rule> {
        let top = *self.state.top(d).ok_or(Rule::Gone)?;
        if usize::from(top.height) >= self.options.chain { Err(Rule::Chain) } else { Ok(top) }
    }

    /// Was it there before the last contraction, which left it alone?
    fn is_early(&self, top: &Top) -> bool {
        let w = self.state.weights.len();
        w > 0 && top.tags >> w & 1 == 0
    }

    fn reduce(&self, size: Size) -> Result<(), Rule> {
        let (state, options) = (self.state, self.options);
        let last = state.sums.last().map(|&d| self.size(d));
        refuse!(self, !state.is_reducing() || last.is_some_and(|l| size < l), SumsFirst);
        refuse!(self, state.sums.len() >= options.reductions, ManySums);
        refuse!(self, self.sizes.shared(&state.allowance, size).is_none() || !self.free.contains(&size), SumSize);
        let product = state.sums.iter().fold(size, |p, &d| p.times(self.size(d)));
        refuse!(self, !self.sizes.at_most(product.over(self.data), options.max_sum_ratio), SumRatio);
        Ok(())
    }

    fn split(&self, l: Dim, r: Dim) -> Result<(), Rule> {
        if l == r {
            return Err(Rule::Gone);
        }
        let (left, right) = (self.top(l)?, self.top(r)?);
        refuse!(self, self.state.counts.splits >= self.options.most.splits, ManySplits);
        let prims = (left.bare(self.graph), right.bare(self.graph));
        refuse!(self, matches!(prims.0, Some(Prim::Split(..))), SplitSplit);
        refuse!(self, matches!(prims.0, Some(Prim::Unfold(..))), SplitUnfoldLeft);
        refuse!(self, matches!(prims.1, Some(Prim::Unfold(..))), SplitUnfoldRight);
        refuse!(self, matches!(prims.1, Some(Prim::Stride(..))), SplitStrideRight);
        refuse!(self, self.is_early(&left) && self.is_early(&right), SplitEarly);
        refuse!(self, left.adjacent(&right) && self.is_one(&left, &right), SplitAdjacent);
        let weight = left.last_share();
        let reshaped = left.shares != 0 && weight == self.first_share(&right);
        refuse!(self, reshaped && self.may_lose_axis(self.state.weights[weight as usize - 1].len()), SplitShared);
        let joined = left.scope.is_some() && left.scope == right.scope && self.origin(&left) == self.origin(&right);
        refuse!(self, joined, SplitUnordered);
        refuse!(self, !self.sizes.valid(self.size(l).times(self.size(r))), SplitSize);
        Ok(())
    }

    /// Two adjacent dims can be drawn as one: parts of one Merge, or sums whose product is a size of sums.
    fn is_one(&self, left: &Top, right: &Top) -> bool {
        let edge = |mut d: Dim, is_right: bool| {
            while let Prim::Split(l, r) = self.graph.prim(d) {
                d = if is_right { r } else { l };
            }
            matches!(self.graph.prim(d), Prim::Reduce(_)).then(|| self.size(d))
        };
        let sums = edge(left.dim, true).zip(edge(right.dim, false));
        !self.options.survivors || sums.is_none_or(|(a, b)| self.free.contains(&a.times(b)))
    }

    /// A weight of so many axes may have one less.
    fn may_lose_axis(&self, n_axes: usize) -> bool {
        !self.options.survivors || n_axes > 2 || self.options.off.contains(Rule::FewAxes)
    }

    /// The last weight that has as an axis the leftmost of the dims that a chain of Splits joins; 0 for none.
    fn first_share(&self, top: &Top) -> u32 {
        match self.graph.prim(top.dim) {
            _ if top.shares != 0 => top.last_share(),
            Prim::Split(l, _) => self.state.shares_of(l).last().unwrap_or(0) as u32,
            _ => 0,
        }
    }

    /// The dim that this one is a part of, through Merges.
    fn origin(&self, top: &Top) -> Dim {
        let mut d = top.dim;
        if top.shares == 0 {
            while let Prim::Outer(x, _) | Prim::Inner(x, _) = self.graph.prim(d) {
                d = x;
            }
        }
        d
    }

    /// May this dim be merged by any block?
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn may_merge(&self, top: &Top) -> Result<(), Rule> {
        refuse!(self, self.state.counts.merges >= self.options.most.merges, ManyMerges);
        refuse!(self, self.is_early(top), Early);
        refuse!(self, top.shares != 0, MergeShared);
        match top.bare(self.graph) {
            // else it depends on the block
            Some(Prim::Split(..)) => refuse!(self, !self.options.off.contains(Rule::MergeAcross), MergeSplit),
            Some(Prim::Outer(..)) => refuse!(self, true, MergeOuter),
            Some(Prim::Reduce(_)) => refuse!(self, !self.options.survivors, MergeSum),
            _ => {}
        }
        Ok(())
    }

    fn merge(&mut self, x: Dim, block: Size) -> Result<(), Rule> {
        let top = self.top(x)?;
        self.may_merge(&top)?;
        let (size, graph) = (self.size(x), self.graph);
        let group = size.over(block);
        match top.bare(graph) {
            Some(Prim::Split(_, r)) => {
                let r = self.size(r);
                let divides = |x: Size, y: Size| x == y || self.sizes.drawable(x.over(y));
                refuse!(self, divides(block, r) || divides(r, block), MergeSplit);
                refuse!(self, true, MergeAcross);
            }
            Some(Prim::Reduce(_)) => refuse!(self, [block, group].iter().all(|s| self.free.contains(s)), MergeSum),
            Some(Prim::Shift(_)) => refuse!(self, !self.sizes.at_most(block, self.options.max_shift_ratio), MergeShift),
            Some(Prim::Stride(_, step)) => refuse!(self, self.sizes.at_least(block.over(step), number(1)), MergeStride),
            Some(Prim::Unfold(_, window)) => {
                let window = self.size(window);
                refuse!(self, self.sizes.at_least(block.over(window), number(1)), MergeUnfold);
                refuse!(self, self.sizes.kind(window.over(block)) == Kind::Coefficient, MergeUnfoldLarge);
            }
            _ => {}
        }
        if top.scope.is_some() {
            let has_other = !self.options.survivors || self.divisors.of(self.sizes, size, &self.state.allowance).contains(&group);
            refuse!(self, block < group && has_other, MergeUnordered);
            if let Some(Prim::Inner(lower, below)) = top.bare(graph) {
                refuse!(self, group < self.size(lower).over(below), MergeUnorderedChain);
            }
        }
        refuse!(self, !self.divisors.of(self.sizes, size, &self.state.allowance).contains(&block), MergeSize);
        Ok(())
    }

    fn shift(&self, x: Dim) -> Result<(), Rule> {
        let top = self.top(x)?;
        refuse!(self, self.state.counts.shifts >= self.options.most.shifts, ManyShifts);
        refuse!(self, self.is_early(&top), Early);
        refuse!(self, top.shares != 0, ShiftShared);
        match top.bare(self.graph) {
            Some(Prim::Reduce(_)) => refuse!(self, true, ShiftSum),
            Some(Prim::Shift(_)) => refuse!(self, true, ShiftShift),
            Some(Prim::Unfold(..)) => refuse!(self, true, ShiftUnfold),
            Some(Prim::Split(_, r)) => refuse!(self, !self.sizes.at_most(self.size(r), self.options.max_shift_ratio), ShiftSplit),
            _ => {}
        }
        refuse!(self, top.scope.is_some(), ShiftUnordered);
        Ok(())
    }

    /// May this dim be strided by any step?
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn may_stride(&self, top: &Top) -> Result<(), Rule> {
        refuse!(self, self.state.counts.strides >= self.options.most.strides, ManyStrides);
        refuse!(self, self.is_early(top), Early);
        match top.bare(self.graph) {
            Some(Prim::Unfold(..)) => refuse!(self, true, StrideUnfold),
            Some(Prim::Stride(..)) => refuse!(self, true, StrideStride),
            Some(Prim::Split(..)) => refuse!(self, true, StrideSplit),
            Some(Prim::Inner(..)) => refuse!(self, true, StrideInner),
            _ => {}
        }
        // no step is smaller than 1
        let is_place = self.steps.iter().any(|s| s.0 == top.dim);
        refuse!(self, !is_place && !self.sizes.at_most(self.size(top.dim), number(self.options.max_strided)), StrideLarge);
        Ok(())
    }

    fn stride(&self, x: Dim, step: Size) -> Result<(), Rule> {
        let top = self.top(x)?;
        self.may_stride(&top)?;
        if let Some(&(_, only)) = self.steps.iter().find(|s| s.0 == x) {
            refuse!(self, step != only, StrideSize);
            return Ok(());
        }
        refuse!(self, self.sizes.shared(&self.state.allowance, step).is_none() || !self.free.contains(&step), StrideSize);
        let size = step.times(self.size(x));
        refuse!(self, !self.sizes.valid(size) || !self.sizes.at_most(size, number(self.options.max_strided)), StrideLarge);
        Ok(())
    }

    fn unfold(&self, main: Dim, window: Dim) -> Result<(), Rule> {
        if main == window {
            return Err(Rule::Gone);
        }
        let (left, right) = (self.top(main)?, self.top(window)?);
        let (size, width) = (self.size(main), self.size(window));
        refuse!(self, self.state.counts.unfolds >= self.options.most.unfolds, ManyUnfolds);
        refuse!(self, self.options.late_unfolds && self.is_early(&left) && self.is_early(&right), Early);
        match left.bare(self.graph) {
            Some(Prim::Split(..)) => refuse!(self, true, UnfoldSplit),
            Some(Prim::Shift(_)) => refuse!(self, true, UnfoldShift),
            Some(Prim::Inner(..)) => refuse!(self, true, UnfoldInner),
            Some(Prim::Unfold(_, lower)) => {
                refuse!(self, self.sizes.lower(width.over(self.size(lower))).is_none_or(|r| r < number(1)), UnfoldOrder);
            }
            _ => {}
        }
        refuse!(self, matches!(right.bare(self.graph), Some(Prim::Reduce(_))), UnfoldSum);
        refuse!(self, left.sums_only, UnfoldOfSums);
        refuse!(self, self.options.odd_windows && !self.sizes.is_odd(width), UnfoldEven);
        refuse!(self, !self.sizes.at_most(width, number(self.options.max_window)), UnfoldLarge);
        refuse!(self, !self.sizes.at_least(size.over(width), self.options.min_unfold_ratio), UnfoldRatio);
        Ok(())
    }

    fn expand(&self, x: Dim) -> Result<(), Rule> {
        let top = self.top(x)?;
        let options = self.options;
        refuse!(self, self.state.counts.expands >= options.most.expands || options.max_repeat <= 1, ManyExpands);
        refuse!(self, self.is_early(&top), Early);
        match top.bare(self.graph) {
            Some(Prim::Inner(x, _)) => {
                let nested = matches!(self.graph.prim(x), Prim::Outer(..) | Prim::Inner(..));
                refuse!(self, !options.tile && nested, ExpandTile);
            }
            Some(Prim::Outer(..)) => refuse!(self, !options.tile, ExpandKind),
            _ => refuse!(self, true, ExpandKind),
        }
        refuse!(self, self.state.expanded.iter().any(|e| e.adjacent(&top) || top.adjacent(e)), ExpandAdjacent);
        let repeats = self.state.repeated.times(self.size(x));
        refuse!(self, !self.sizes.at_most(repeats, number(options.max_repeat)), ExpandLarge);
        Ok(())
    }

    /// May one more weight come?
    pub fn may_contract(&self) -> bool {
        let state = self.state;
        let n_weights = state.weights.len() + 1;
        n_weights <= MAX_WEIGHTS
            && n_weights < self.options.tensors
            && state.n_actions < self.options.depth
            && state.counts.shares + 2 <= self.options.most.shares
    }

    /// May this dim be an axis of the next weight?
    pub fn may_share(&self, top: &Top) -> bool {
        !top.discards
            && usize::from(top.height) < self.options.chain
            && self.sizes.shared(&self.state.allowance, self.size(top.dim)).is_some()
    }

    /// May this dim be an outer axis of the next weight, if `outer` is the product of those there are?
    ///
    /// # Errors
    /// The rule that forbids it.
    pub fn may_expand(&self, top: &Top, outer: Size) -> Result<(), Rule> {
        let size = self.size(top.dim);
        match self.graph.prim(top.dim) {
            Prim::Outer(..) | Prim::Inner(..) | Prim::Output(_) => {
                refuse!(self, !self.sizes.at_most(outer.times(size), number(self.options.max_outer)), OuterLarge);
            }
            Prim::Reduce(_) if top.shares != 0 => {
                let (least, most) = self.options.rank;
                let fits = self.sizes.at_most(size, number(most)) && !self.sizes.is_below(size, number(least));
                refuse!(self, !fits, RankSize);
            }
            _ => refuse!(self, true, OuterKind),
        }
        Ok(())
    }

    fn contract(&self, axes: &[(Dim, bool)]) -> Result<(), Rule> {
        let (state, options) = (self.state, self.options);
        let n_weights = state.weights.len() + 1;
        if n_weights > MAX_WEIGHTS {
            return Err(Rule::ManyTensors);
        }
        refuse!(self, n_weights >= options.tensors, ManyTensors);
        refuse!(self, state.counts.shares + axes.len() > options.most.shares, ManyShares);
        refuse!(self, axes.len() < 2, FewAxes);
        let mut allowance = state.allowance;
        let (mut outer, mut product, mut tags) = (state.outer, Size::ONE, 0u8);
        let mut leader = (u8::MAX, u64::MAX);
        let mut outers: Vec<Top> = Vec::new();
        let mut sums = false;
        for (i, &(d, is_outer)) in axes.iter().enumerate() {
            let top = self.top(d)?;
            if axes[..i].iter().any(|a| a.0 == d) {
                return Err(Rule::Gone);
            }
            let size = self.size(d);
            refuse!(self, top.discards, ContractDim);
            match self.sizes.shared(&allowance, size) {
                Some(left) => allowance = left,
                None => refuse!(self, true, ContractAllowance),
            }
            if is_outer {
                self.may_expand(&top, outer)?;
                if !matches!(self.graph.prim(d), Prim::Reduce(_)) {
                    outer = outer.times(size);
                }
                let are_one = |a: &Top, b: &Top| a.adjacent(b) && self.is_one(a, b);
                let adjacent = outers.iter().any(|o| are_one(o, &top) || are_one(&top, o));
                refuse!(self, adjacent && self.may_lose_axis(axes.len()), OuterAdjacent);
                outers.push(top);
            }
            product = product.times(size);
            tags |= top.tags;
            leader = leader.min((top.height, top.mark));
            sums |=
                options.off.contains(Rule::ScaleOnly) || self.graph.below(d).iter().any(|&b| matches!(self.graph.prim(b), Prim::Reduce(_)));
        }
        refuse!(self, outers.is_empty(), NoOuter);
        refuse!(self, outers.len() == axes.len(), NoInner);
        refuse!(self, !sums, ScaleOnly);
        refuse!(self, !self.sizes.at_least(product, number(options.min_weight)), FewParameters);
        let depends = tags >> (n_weights - 1) & 1 == 1;
        refuse!(self, n_weights > 1 && !depends && state.leader > leader, WeightOrder);
        Ok(())
    }
}
