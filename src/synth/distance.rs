//! Shape distance: how many more primitives a partial operator needs at least before its dims fit the data (Syno, section 7.1).
//!
//! Between the dims and the data's axes, Splits and Merges form *groups*: towers that join some dims and cut the product into
//! some axes. What a group has too much must be cut off by one more Merge and unfolded or expanded away; what has too little
//! cannot be mended. The least cost over all ways to group is a lower bound: one primitive changes it by at most one.

use super::Folded;
use super::legal::{Kind, Ratio, Sizes};
use super::size::Size;
use std::hash::{Hash, Hasher};

/// Dims are kept as bits of one word.
const MAX_AXES: usize = 64;

/// A dim of the frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub size: Size,
    /// Primitives that may still be stacked on this dim.
    pub left: u8,
    /// A Stride below discards data: the dim must become a window or be expanded.
    pub discards: bool,
    /// A contraction to come may drop this dim as it is, together with others. Read where [`Budget::contracts`] only, where
    /// in any case it may drop what Merges make.
    pub drops: bool,
    pub form: Form,
}

/// What the rules of growth leave to a dim, as far as a grouping must know. The default: everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Form(u16);

impl Form {
    /// It is never cut, not even under a window.
    pub const NEVER_CUT: Form = Form(1);
    /// It is cut only once a Shift lies on it.
    pub const UNDER_SHIFT: Form = Form(1 << 1);
    /// It is cut only once a window or a Shift lies on it.
    pub const WHOLE: Form = Form(1 << 2);
    /// It is joined with others of its kind only once one of them has a window.
    pub const EARLY: Form = Form(1 << 3);
    /// To go alone it takes one more step: a Stride, or a contraction.
    pub const TWO_STEPS: Form = Form(1 << 4);
    /// It cannot go alone.
    pub const STAYS: Form = Form(1 << 5);
    const CLASS: u32 = 8;

    /// Of these no two are joined without a dim of another class.
    #[must_use]
    pub fn of_class(self, class: u8) -> Form {
        Form(self.0 | u16::from(class) << Form::CLASS)
    }

    #[must_use]
    pub fn with(self, other: Form) -> Form {
        Form(self.0 | other.0)
    }

    #[must_use]
    fn without(self, other: Form) -> Form {
        Form(self.0 & !other.0)
    }

    fn has(self, other: Form) -> bool {
        self.0 & other.0 != 0
    }

    fn class(self) -> u16 {
        self.0 >> Form::CLASS
    }
}

/// An axis of the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub size: Size,
    /// The order along this axis carries no meaning (channels).
    pub unordered: bool,
}

/// What may still be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub merges: u32,
    pub splits: u32,
    /// Unfolds and Expands together.
    pub leaves: u32,
    /// Primitives of any kind: the remaining depth.
    pub steps: u32,
    /// A contraction may still come and drop any number of dims in one step. Syno does not look at this (`false`), and there
    /// refuses operators whose contraction has two outer dims in its last steps.
    pub contracts: bool,
    /// Only odd sizes can still go: odd windows, no repeats, no weight to come.
    pub odd_growth: bool,
}

/// The bound and what was proven on the way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distance {
    /// `None`: the data's shape cannot be reached.
    pub steps: Option<u32>,
    /// Per dim, the unordered axis into which alone it flows, however the operator is finished. Empty: nothing proven.
    pub unordered: Vec<Option<usize>>,
}

/// The data's shape, without axes that are not searched.
#[derive(Clone, Debug)]
pub struct Target {
    wanted: Vec<Wanted>,
    product: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    size: Size,
    moves: bool,
    drops: bool,
    form: Form,
}

impl Hash for Item {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.size.hash(state);
        state.write_u64(u64::from(self.form.0) << 2 | u64::from(self.moves) << 1 | u64::from(self.drops));
    }
}

impl Target {
    pub fn new(wanted: Vec<Wanted>) -> Target {
        let product = wanted.iter().fold(Size::ONE, |p, w| p.times(w.size));
        Target { wanted, product }
    }

    /// The distance of a frontier, weights' axes left out. Dims that discard data each cost one step and one window or
    /// expansion serves them all; the others are matched with the data's axes.
    pub fn distance(&self, sizes: &Sizes, current: &[Axis], budget: &Budget) -> Distance {
        Memo::default().answer(self, sizes, current, budget, false)
    }

    /// Dims must be non-empty and, together, a legal multiple of the data.
    fn surplus(&self, sizes: &Sizes, items: &[Item], budget: &Budget) -> Option<Size> {
        let surplus = items.iter().fold(Size::ONE, |p, i| p.times(i.size)).over(self.product);
        let legal = !items.is_empty() && matches!(sizes.kind(surplus), Kind::One | Kind::General | Kind::Coefficient);
        let enough = legal && if sizes.exact { sizes.is_whole(surplus) } else { sizes.at_least(surplus, Ratio(1, 1)) };
        (enough && (!budget.odd_growth || sizes.is_odd(surplus))).then_some(surplus)
    }
}

/// Distances found so far for one target and one [`Sizes`], kept by whoever asks for them.
#[derive(Clone, Debug, Default)]
pub struct Memo {
    found: Folded<Budget, Folded<Box<[Item]>, Distance>>,
    search: Search,
    order: Vec<(Item, usize)>,
    items: Vec<Item>,
    pub n_asked: u64,
    pub n_searched: u64,
}

impl Memo {
    /// [`Target::distance`], remembered.
    pub fn distance(&mut self, target: &Target, sizes: &Sizes, current: &[Axis], budget: &Budget) -> Distance {
        self.answer(target, sizes, current, budget, true)
    }

    fn answer(&mut self, target: &Target, sizes: &Sizes, current: &[Axis], budget: &Budget, keep: bool) -> Distance {
        self.n_asked += 1;
        let n_discarding = current.iter().filter(|a| a.discards).count() as u32;
        let stuck = current.iter().any(|a| a.discards && a.left == 0);
        if stuck || n_discarding > budget.steps || (n_discarding > 0 && budget.leaves == 0) {
            return Distance::default();
        }
        let left =
            Budget { steps: budget.steps - n_discarding, leaves: budget.leaves.saturating_sub(u32::from(n_discarding > 0)), ..*budget };
        // the window that takes up a stride may lie on any dim
        let form = |a: &Axis| if n_discarding > 0 { a.form.without(Form::WHOLE).without(Form::EARLY) } else { a.form };
        let item = |a: &Axis| Item { size: a.size, moves: a.left > 0, drops: a.drops && budget.contracts, form: form(a) };
        self.order.clear();
        self.order.extend(current.iter().enumerate().filter(|(_, a)| !a.discards).map(|(i, a)| (item(a), i)));
        self.order.sort_unstable();
        self.items.clear();
        self.items.extend(self.order.iter().map(|o| o.0));
        let known = if keep { self.found.get(&left).and_then(|f| f.get(&self.items[..])) } else { None };
        let matched = match known {
            Some(known) => known.clone(),
            None => {
                let matched = match target.surplus(sizes, &self.items, &left) {
                    Some(surplus) => {
                        self.n_searched += 1;
                        self.search.run(target, sizes, &self.items, &left, surplus.is_one())
                    }
                    None => Distance::default(),
                };
                if keep {
                    self.found.entry(left).or_default().insert(self.items.as_slice().into(), matched.clone());
                }
                matched
            }
        };
        let mut unordered = Vec::new();
        if !matched.unordered.is_empty() {
            unordered.resize(current.len(), None);
            for (&axis, &(_, i)) in matched.unordered.iter().zip(&self.order) {
                unordered[i] = axis;
            }
        }
        Distance { steps: matched.steps.map(|s| s + n_discarding), unordered }
    }
}

/// Dims and the axes that they become. Without axes, the dims are unfolded or expanded away.
#[derive(Clone, Copy, Debug)]
struct Group {
    /// Product of the dims over product of the axes.
    rest: Size,
    dims: u64,
    axes: u64,
    /// A dim that has no length left and is an axis as it is.
    fixed: bool,
}

impl Group {
    fn is_lone(&self) -> bool {
        self.axes == 0
    }

    /// Has axes and too much or too little for them.
    fn is_open(&self) -> bool {
        !self.is_lone() && !self.rest.is_one()
    }

    /// Too little, which only a further dim can mend.
    fn is_short(&self, sizes: &Sizes) -> bool {
        sizes.kind(self.rest) == Kind::IllegalCoefficient
    }
}

/// Branch and bound over groupings.
#[derive(Clone, Debug, Default)]
struct Search {
    groups: Vec<Group>,
    free: u64,
    merges: u32,
    splits: u32,
    /// The best so far; above the budget while there is none.
    best: u32,
    /// Per unordered axis, the dims that may be proven to flow there alone; axes with none left are dropped.
    candidates: Vec<(usize, u64)>,
}

/// What stays the same during one search.
struct Fixed<'a> {
    target: &'a Target,
    sizes: &'a Sizes,
    items: &'a [Item],
    budget: &'a Budget,
    n_primary: usize,
    /// The dims have just the data's number of elements: nothing can be cut off.
    exact: bool,
    /// Fewer leaves may be added than there are dims.
    scarce: bool,
    /// No grouping costs less.
    least: u32,
    droppable: u64,
    /// Some dims are not free to do everything: to join them may then be the only way.
    strict: bool,
}

impl Fixed<'_> {
    fn any(&self, dims: u64, form: Form) -> bool {
        bits(dims).any(|i| self.items[i].form.has(form))
    }

    fn all(&self, dims: u64, form: Form) -> bool {
        bits(dims).all(|i| self.items[i].form.has(form))
    }

    /// What the forms of a group's dims demand beyond its Splits and Merges; `None` where they forbid it.
    fn demand(&self, group: &Group) -> Option<Demand> {
        let mut demand = Demand::default();
        let (alone, dims) = (group.dims.is_power_of_two(), group.dims);
        if !alone {
            let class = self.items[dims.trailing_zeros() as usize].form.class();
            if class > 0 && bits(dims).all(|i| self.items[i].form.class() == class) {
                return None;
            }
        }
        let is_cut = !group.axes.is_power_of_two() || !group.rest.is_one();
        let stiff = Form::NEVER_CUT.with(Form::UNDER_SHIFT);
        if group.is_lone() {
            if alone && self.any(dims, Form::STAYS) {
                return None;
            }
            demand.alone = alone && dims & self.droppable == 0 && self.any(dims, Form::TWO_STEPS);
        } else if is_cut && self.all(dims, stiff) {
            if alone && self.any(dims, Form::NEVER_CUT) {
                return None;
            }
            // a Split of two can still be shifted
            demand.shift = true;
        } else {
            demand.window = is_cut && self.all(dims, stiff.with(Form::WHOLE));
        }
        demand.window |= !alone && !self.budget.contracts && self.all(dims, Form::EARLY);
        Some(demand)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    /// A Shift.
    shift: bool,
    /// A window on one of the dims, or a Shift.
    window: bool,
    /// One more step before it goes.
    alone: bool,
}

impl Demand {
    fn any(self) -> bool {
        self.shift || self.window || self.alone
    }
}

fn bits(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let i = mask.trailing_zeros() as usize;
        mask &= mask.wrapping_sub(1);
        (i < MAX_AXES).then_some(i)
    })
}

impl Search {
    fn run(&mut self, target: &Target, sizes: &Sizes, items: &[Item], budget: &Budget, exact: bool) -> Distance {
        if items.len() > MAX_AXES || target.wanted.len() > MAX_AXES {
            // no bound is attempted, and 0 is one
            return Distance { steps: Some(0), unordered: vec![] };
        }
        let all = if items.len() == MAX_AXES { u64::MAX } else { (1 << items.len()) - 1 };
        let droppable = (0..items.len()).filter(|&i| items[i].drops).fold(0, |mask, i| mask | 1 << i);
        let n_primary = sizes.variables().n_primary();
        let scarce = (budget.leaves as usize) < items.len();
        let strict = items.iter().any(|i| i.form != Form::default());
        let mut fixed = Fixed { target, sizes, items, budget, n_primary, exact, scarce, least: 0, droppable, strict };
        self.groups.clear();
        self.candidates.clear();
        (self.free, self.merges, self.splits, self.best) = (all, 0, 0, budget.steps + 1);
        fixed.least = self.at_least(&fixed, target.wanted.len());
        if exact {
            let unordered = |(j, w): (usize, &Wanted)| w.unordered.then_some((j, all));
            self.candidates.extend(target.wanted.iter().enumerate().filter_map(unordered));
        }
        self.assign(&fixed, 0);
        if self.best > budget.steps {
            return Distance::default();
        }
        let mut unordered = Vec::new();
        if !self.candidates.is_empty() {
            let axis = |i| self.candidates.iter().find(|c| c.1 >> i & 1 == 1).map(|c| c.0);
            unordered.extend((0..items.len()).map(axis));
        }
        Distance { steps: Some(self.best), unordered }
    }

    /// The least that finishing can cost from here, with so many axes not yet assigned.
    fn at_least(&self, fixed: &Fixed, n_axes: usize) -> u32 {
        // each axis opens a group with one dim or costs a Merge; each other dim costs a Split or goes
        let n_free = self.free.count_ones();
        let n_tied = (self.free & !fixed.droppable).count_ones();
        let n_axes = n_axes as u32;
        n_axes.saturating_sub(n_free) + n_tied.saturating_sub(n_axes)
    }

    /// Can nothing better, or nothing new, come from here?
    fn hopeless(&self, fixed: &Fixed, n_axes: usize) -> bool {
        if self.merges > fixed.budget.merges || self.splits > fixed.budget.splits {
            return true;
        }
        let cost = self.merges + self.splits + self.at_least(fixed, n_axes);
        if self.candidates.is_empty() { cost >= self.best || self.best <= fixed.least } else { cost > fixed.budget.steps }
    }

    /// The first of each kind of free dims; equal dims are neighbours.
    fn kinds(&self, fixed: &Fixed) -> impl Iterator<Item = usize> + use<> {
        let mut firsts = self.free;
        let mut last: Option<usize> = None;
        let mut rest = self.free;
        while rest != 0 {
            let i = rest.trailing_zeros() as usize;
            rest &= rest - 1;
            if last.is_some_and(|l| fixed.items[l] == fixed.items[i]) {
                firsts &= !(1 << i);
            }
            last = Some(i);
        }
        bits(firsts)
    }

    /// Puts the axes from the `n`-th on into groups.
    fn assign(&mut self, fixed: &Fixed, n: usize) {
        if self.hopeless(fixed, fixed.target.wanted.len() - n) {
            return;
        }
        let Some(axis) = fixed.target.wanted.get(n) else {
            if (0..fixed.items.len()).all(|i| fixed.items[i].moves || self.free >> i & 1 == 0) {
                self.place(fixed, None, 0);
            }
            return;
        };
        let needed = (0..fixed.n_primary).find(|&i| axis.size.exponent(i) > 0);
        // a dim that is this axis already, then others
        for as_it_is in [true, false] {
            for i in self.kinds(fixed) {
                let item = fixed.items[i];
                let contains = needed.is_none_or(|v| item.size.exponent(v) > 0);
                if (item.size == axis.size) != as_it_is || !(as_it_is || item.moves && contains) {
                    continue;
                }
                self.free &= !(1 << i);
                self.groups.push(Group { rest: item.size.over(axis.size), dims: 1 << i, axes: 1 << n, fixed: !item.moves });
                self.cover(fixed, self.groups.len() - 1, n);
                self.groups.pop();
                self.free |= 1 << i;
            }
        }
        for g in 0..self.groups.len() {
            let group = self.groups[g];
            if !group.fixed {
                self.groups[g] = Group { rest: group.rest.over(axis.size), axes: group.axes | 1 << n, ..group };
                self.merges += 1;
                self.cover(fixed, g, n);
                self.merges -= 1;
                self.groups[g] = group;
            }
        }
    }

    /// Adds dims to the group of the `n`-th axis until no primary is missing, then goes on with the next axis.
    fn cover(&mut self, fixed: &Fixed, g: usize, n: usize) {
        let group = self.groups[g];
        let Some(missing) = (0..fixed.n_primary).find(|&i| group.rest.exponent(i) < 0) else {
            return self.assign(fixed, n + 1);
        };
        if self.splits >= fixed.budget.splits {
            return;
        }
        for i in self.kinds(fixed) {
            if fixed.items[i].moves && fixed.items[i].size.exponent(missing) > 0 {
                self.join(fixed, g, i, |search| search.cover(fixed, g, n));
            }
        }
    }

    /// Does something with the `i`-th dim in a group.
    fn join(&mut self, fixed: &Fixed, g: usize, i: usize, then: impl FnOnce(&mut Search)) {
        let group = self.groups[g];
        self.groups[g] = Group { rest: group.rest.times(fixed.items[i].size), dims: group.dims | 1 << i, ..group };
        self.free &= !(1 << i);
        self.splits += 1;
        then(self);
        self.splits -= 1;
        self.free |= 1 << i;
        self.groups[g] = group;
    }

    /// Puts the dims that are still free into groups. `last` is the dim placed before this one, `at` its group: equal dims
    /// are placed in order.
    fn place(&mut self, fixed: &Fixed, last: Option<usize>, at: usize) {
        let (mut n_lone, mut n_cut, mut n_short) = (0, 0, 0);
        for group in &self.groups {
            n_lone += u32::from(group.is_lone() && group.dims & fixed.droppable == 0);
            n_short += u32::from(group.is_short(fixed.sizes));
            n_cut += u32::from(group.is_open());
        }
        let n_free = self.free.count_ones();
        if n_free == 0 {
            return self.finish(fixed, n_short);
        }
        // what has too much stays so; what has too little takes one dim at least
        n_cut -= n_short;
        let goes = if fixed.budget.contracts { 1 } else { 2 };
        let cost = n_lone + goes * n_cut + self.merges + self.splits + self.at_least(fixed, 0);
        let late = if self.candidates.is_empty() { cost >= self.best } else { cost > fixed.budget.steps };
        let cannot = n_short > n_free || self.merges + n_cut > fixed.budget.merges || (fixed.exact && n_cut > 0);
        if late || cannot || self.hopeless(fixed, 0) {
            return;
        }
        let i = self.free.trailing_zeros() as usize;
        let item = fixed.items[i];
        let from = if last.is_some_and(|l| fixed.items[l] == item) { at } else { 0 };
        if !fixed.exact {
            self.free &= !(1 << i);
            self.groups.push(Group { rest: item.size, dims: 1 << i, axes: 0, fixed: false });
            self.place(fixed, Some(i), self.groups.len() - 1);
            self.groups.pop();
            self.free |= 1 << i;
        }
        let hardly_goes = item.form.has(Form::TWO_STEPS.with(Form::STAYS));
        for g in from..self.groups.len() {
            let group = self.groups[g];
            // where nothing is missing a dim more never costs less than one that goes alone, but it may spare a leaf, or do what
            // the forms of the others demand
            let spares_leaf = fixed.scarce && (fixed.budget.contracts || !group.rest.is_one());
            let joins =
                spares_leaf || group.is_short(fixed.sizes) || fixed.strict && (hardly_goes || fixed.demand(&group).is_none_or(Demand::any));
            if !group.fixed && joins {
                self.join(fixed, g, i, |search| search.place(fixed, Some(i), g));
            }
        }
    }

    /// Steps that the forms of the dims demand beyond all others, with so many leaves, and so many more that go in a contraction.
    fn n_more(&self, fixed: &Fixed, leaves: u32, n_dropped: u32) -> Option<u32> {
        let (mut n_shifts, mut n_windows, mut n_alone) = (0, 0, 0);
        let mut has_other = false;
        for group in &self.groups {
            let demand = fixed.demand(group)?;
            n_shifts += u32::from(demand.shift);
            n_windows += u32::from(demand.window);
            n_alone += u32::from(demand.alone);
            has_other |= !demand.window && (group.is_lone() || group.is_open());
        }
        // every leaf may be a window that a group demands, but none its own group's
        let mut n_missing = n_windows.saturating_sub(leaves);
        if n_windows > 0 && !has_other {
            n_missing = 1;
        } else if n_dropped > 0 && n_dropped <= n_missing {
            // they may go one by one instead, and without the contraction
            n_missing -= 1;
        }
        // one contraction may serve all that go alone, a Stride only one
        let n_alone = if fixed.budget.contracts { n_alone.min(u32::from(n_dropped == 0)) } else { n_alone };
        Some(n_shifts + n_missing + n_alone)
    }

    /// Every dim and axis has its group.
    fn finish(&mut self, fixed: &Fixed, n_short: u32) {
        let n_cut = self.groups.iter().filter(|g| g.is_open()).count() as u32;
        let lone = self.groups.iter().filter(|g| g.is_lone());
        let n_lone = lone.clone().count() as u32;
        // a contraction drops single dims and what Merges cut off, all at once
        let dropped = |g: &Group| g.dims.count_ones() == 1 && g.dims & fixed.droppable != 0;
        let n_dropped = if fixed.budget.contracts { n_cut + lone.filter(|g| dropped(g)).count() as u32 } else { 0 };
        let leaves = n_lone + n_cut - n_dropped;
        // so it does with the parts of any dim that is merged because no leaf is left for it
        let n_merged = if fixed.budget.contracts { leaves.saturating_sub(fixed.budget.leaves) } else { 0 };
        let n_more = if fixed.strict {
            let Some(n) = self.n_more(fixed, leaves - n_merged, n_dropped + n_merged) else { return };
            n
        } else {
            0
        };
        let cost = self.merges + self.splits + n_cut + leaves + (n_dropped + n_merged).min(1) + n_more;
        let fits = leaves - n_merged <= fixed.budget.leaves
            && self.merges + n_cut + n_merged <= fixed.budget.merges
            && self.splits <= fixed.budget.splits
            && cost <= fixed.budget.steps;
        if n_short > 0 || !fits {
            return;
        }
        self.best = self.best.min(cost);
        for (axis, dims) in &mut self.candidates {
            let own = self.groups.iter().find(|g| g.axes == 1 << *axis).map_or(0, |g| g.dims);
            // equal dims stand for one another: none is proven unless all are
            let whole = |&i: &usize| (0..fixed.items.len()).all(|j| fixed.items[j] != fixed.items[i] || own >> j & 1 == 1);
            *dims &= (0..fixed.items.len()).filter(whole).fold(0, |mask, i| mask | 1 << i);
        }
        self.candidates.retain(|c| c.1 != 0);
    }
}
