//! The canonical rules of growth (Syno, section 5): of several ways to the same operator one is kept.
//!
//! Every reason for which an action, a state or a finished operator is refused has a name here, is counted under it and
//! can be switched off. Reasons speak of sizes and of the graph only; no value is computed.

mod local;
mod unordered;

pub use local::Local;
pub use unordered::{pooled, unordered};

use std::collections::BTreeMap;

macro_rules! rules {
    ($($(#[$doc:meta])* $rule:ident = $name:literal,)*) => {
        /// Why something is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Rule { $($(#[$doc])* $rule,)* }

        impl Rule {
            pub const ALL: &[Rule] = &[$(Rule::$rule,)*];

            pub fn name(self) -> &'static str {
                match self { $(Rule::$rule => $name,)* }
            }
        }
    };
}

rules! {
    // limits and legality
    Depth = "too many actions",
    Gone = "a dim that is not in the frontier",
    Chain = "too many primitives on one dim",
    SumsFirst = "reduce: sums come first, in order",
    ManySums = "reduce: too many sums",
    SumSize = "reduce: a size that may not be drawn",
    SumRatio = "reduce: the sums are too large for the data",
    ManySplits = "split: too many",
    SplitSize = "split: the product may not be drawn",
    ManyMerges = "merge: too many",
    MergeSize = "merge: the block may not be drawn",
    ManyShifts = "shift: too many",
    ManyStrides = "stride: too many",
    StrideSize = "stride: the step may not be drawn",
    StrideLarge = "stride: the product is too large or may not be drawn",
    ManyUnfolds = "unfold: too many",
    UnfoldEven = "unfold: an even window",
    UnfoldLarge = "unfold: the window is too large",
    UnfoldRatio = "unfold: the window is too large for its axis",
    ManyExpands = "expand: too many, or none allowed",
    ExpandLarge = "expand: repeats too much",
    /// Merge, Shift, Stride, Unfold and Expand on a dim that was there before the last contraction: do it first.
    Early = "could have been done before the last contraction",
    ManyTensors = "contract: too many weights",
    ContractDim = "contract: an axis that may not be shared",
    ContractAllowance = "contract: an axis beyond the allowance",
    ManyShares = "contract: too many axes",
    FewAxes = "contract: fewer than two axes",
    OuterKind = "contract: only output axes, merged parts and shared sums can be outer",
    OuterLarge = "contract: the outer axes are too large",
    RankSize = "contract: a rank out of its range",
    NoOuter = "contract: a weight needs an outer axis",
    NoInner = "contract: a weight needs an inner axis",
    FewParameters = "contract: the weight is too small",
    OuterAdjacent = "contract: two outer axes that are one",
    WeightOrder = "contract: independent weights in the other order",
    ScaleOnly = "contract: a weight without a summed axis only scales",
    // rules by their numbers in the literature's list
    SplitSplit = "split: the left part is a split",
    SplitUnfoldLeft = "split: the left part is an unfold",
    SplitUnfoldRight = "split: the right part is an unfold",
    SplitStrideRight = "split: the right part is a stride",
    SplitEarly = "split: could have been done before the last contraction",
    SplitAdjacent = "split: undoes a merge or joins two sums",
    SplitShared = "split: the weight could be reshaped",
    SplitUnordered = "split: rejoins parts of an unordered axis",
    MergeShared = "merge: belongs below the share",
    /// One of block and right part divides the other: the same parts come from merging one side first.
    MergeSplit = "merge: of a split",
    /// Neither divides the other: no other order of Splits and Merges does it.
    MergeAcross = "merge: of a split, across its parts",
    MergeOuter = "merge: of a merge's left part",
    MergeSum = "merge: of a sum",
    MergeShift = "merge: of a shift that hardly crosses blocks",
    MergeStride = "merge: of a stride that divides the block",
    MergeUnfold = "merge: of an unfold smaller than the block",
    MergeUnfoldLarge = "merge: of an unfold larger than the block",
    MergeUnordered = "merge: the other order of the parts of an unordered axis",
    MergeUnorderedChain = "merge: the other order of a chain of an unordered axis",
    ShiftSum = "shift: of a sum",
    ShiftShared = "shift: belongs below the share",
    ShiftShift = "shift: of a shift",
    ShiftUnfold = "shift: of an unfold",
    ShiftUnordered = "shift: of an unordered axis",
    ShiftSplit = "shift: of a split whose blocks it hardly crosses",
    StrideUnfold = "stride: of an unfold",
    StrideStride = "stride: of a stride",
    StrideSplit = "stride: of a split",
    StrideInner = "stride: of a merge's right part",
    UnfoldSplit = "unfold: of a split",
    UnfoldShift = "unfold: of a shift",
    UnfoldInner = "unfold: of a merge's right part",
    UnfoldSum = "unfold: the window is a sum without a weight",
    UnfoldOfSums = "unfold: of sums only",
    UnfoldOrder = "unfold: a smaller window above a larger one",
    ExpandKind = "expand: only parts of merges",
    ExpandAdjacent = "expand: two repeats that are one",
    ExpandTile = "expand: of a merge within a merge",
    // whole states
    Unordered = "unordered axes in another order",
    Pooling = "sums over the data alone are too large",
    Stuck = "a sum that no weight can see any more",
    Distance = "too far from the data's shape",
    Flops = "too many multiply-adds, whatever follows",
    // finished operators
    NoWeight = "no weight",
    Discards = "elements of the data are never read",
    SumOfOneWeight = "a sum over one weight alone",
    Blur = "a window without a weight",
    WeightInWeight = "a weight that another one contains",
    WeightReshaped = "a weight with both parts of a merge",
    NoExchange = "no exchange between places",
    SameOutput = "the same output in every channel",
    SmallMix = "channels meet through small axes only",
    NoMix = "channels are not mixed",
    Parameters = "parameters over budget",
    SizeDoesNotDivide = "a size does not divide",
    NotLegal = "not a legal operator",
}

/// A set of rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RuleSet(u128);

impl RuleSet {
    pub const NONE: RuleSet = RuleSet(0);

    pub fn of(rules: &[Rule]) -> RuleSet {
        RuleSet(rules.iter().fold(0, |set, &r| set | 1 << r as u8))
    }

    pub fn contains(self, rule: Rule) -> bool {
        self.0 >> rule as u8 & 1 == 1
    }

    pub fn contains_any(self, other: RuleSet) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub fn with(self, rules: &[Rule]) -> RuleSet {
        RuleSet(self.0 | RuleSet::of(rules).0)
    }

    #[must_use]
    pub fn without(self, rules: &[Rule]) -> RuleSet {
        RuleSet(self.0 & !RuleSet::of(rules).0)
    }
}

/// What an operator is and how large it may be.
pub const LIMITS: [Rule; 35] = [
    Rule::Depth,
    Rule::Gone,
    Rule::Chain,
    Rule::ManySums,
    Rule::SumSize,
    Rule::SumRatio,
    Rule::ManySplits,
    Rule::SplitSize,
    Rule::ManyMerges,
    Rule::MergeSize,
    Rule::ManyShifts,
    Rule::ManyStrides,
    Rule::StrideSize,
    Rule::StrideLarge,
    Rule::ManyUnfolds,
    Rule::UnfoldEven,
    Rule::UnfoldLarge,
    Rule::UnfoldRatio,
    Rule::ManyExpands,
    Rule::ExpandLarge,
    Rule::ManyTensors,
    Rule::ContractAllowance,
    Rule::ManyShares,
    Rule::OuterLarge,
    Rule::RankSize,
    Rule::FewParameters,
    Rule::Pooling,
    Rule::Flops,
    Rule::NoWeight,
    Rule::Discards,
    Rule::Parameters,
    Rule::SizeDoesNotDivide,
    Rule::NotLegal,
    Rule::ExpandTile,
    // a Stride cut by its own step is the dim itself and a constant
    Rule::MergeStride,
];

/// States from which no operator is reached.
pub const BOUNDS: [Rule; 2] = [Rule::Distance, Rule::Stuck];

/// Rules that lose no function: what they refuse is computed by another operator as well, borders included.
pub const EQUALITIES: [(&str, &[Rule]); 4] = [
    ("order of actions", &[Rule::SumsFirst, Rule::Early, Rule::SplitEarly, Rule::WeightOrder]),
    (
        "reshapes",
        &[
            Rule::SplitSplit,
            Rule::SplitAdjacent,
            Rule::SplitShared,
            Rule::MergeShared,
            Rule::MergeSplit,
            Rule::MergeOuter,
            Rule::MergeSum,
            Rule::OuterAdjacent,
            Rule::ExpandAdjacent,
        ],
    ),
    (
        "shifts and strides",
        &[Rule::ShiftSum, Rule::ShiftShared, Rule::StrideUnfold, Rule::StrideStride, Rule::StrideSplit, Rule::ContractDim],
    ),
    ("unordered axes", &[Rule::ShiftUnordered, Rule::MergeUnordered, Rule::MergeUnorderedChain, Rule::SplitUnordered, Rule::Unordered]),
];

/// Rules that treat two operators as one which differ at borders or in a few elements (Syno's heuristics).
pub const APPROXIMATE: [Rule; 7] = [
    Rule::MergeShift,
    Rule::MergeUnfold,
    Rule::MergeUnfoldLarge,
    Rule::ShiftSplit,
    Rule::UnfoldOrder,
    Rule::UnfoldSplit,
    Rule::UnfoldShift,
];

/// Of two orders of the same primitives one is kept; each of these keeps the other one than a rule that is on.
pub const ALTERNATIVES: [Rule; 6] =
    [Rule::SplitUnfoldLeft, Rule::SplitUnfoldRight, Rule::SplitStrideRight, Rule::ShiftUnfold, Rule::StrideInner, Rule::UnfoldInner];

/// Actions that make other operators, none that are wanted.
pub const SKIPS: [Rule; 9] = [
    Rule::FewAxes,
    Rule::OuterKind,
    Rule::NoInner,
    Rule::ScaleOnly,
    Rule::MergeAcross,
    Rule::ShiftShift,
    Rule::UnfoldSum,
    Rule::UnfoldOfSums,
    Rule::ExpandKind,
];

/// What a finished operator must be to be worth a training: not part of the space itself.
pub const STRUCTURE: [Rule; 8] = [
    Rule::SumOfOneWeight,
    Rule::Blur,
    Rule::WeightInWeight,
    Rule::WeightReshaped,
    Rule::NoExchange,
    Rule::SameOutput,
    Rule::SmallMix,
    Rule::NoMix,
];

/// Refusals, counted under their rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusals([u64; Rule::ALL.len()]);

impl Default for Refusals {
    fn default() -> Refusals {
        Refusals([0; Rule::ALL.len()])
    }
}

impl Refusals {
    pub fn count(&mut self, rule: Rule) {
        self.0[rule as usize] += 1;
    }

    pub fn of(&self, rule: Rule) -> u64 {
        self.0[rule as usize]
    }

    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Those that came after an earlier count.
    #[must_use]
    pub fn since(&self, before: &Refusals) -> Refusals {
        Refusals(std::array::from_fn(|i| self.0[i] - before.0[i]))
    }

    #[must_use]
    pub fn plus(&self, other: &Refusals) -> Refusals {
        Refusals(std::array::from_fn(|i| self.0[i] + other.0[i]))
    }

    /// The rule that refused most whole states and finished operators; without any, most actions.
    pub fn most(&self) -> Option<Rule> {
        let first_whole = Rule::ALL.iter().position(|&r| r == Rule::Unordered).unwrap_or(0);
        let (actions, whole) = Rule::ALL.split_at(first_whole);
        let most = |rules: &[Rule]| rules.iter().copied().filter(|&r| self.of(r) > 0).max_by_key(|&r| self.of(r));
        most(whole).or_else(|| most(actions))
    }

    /// Those that happened, by name.
    pub fn table(&self) -> BTreeMap<&'static str, u64> {
        Rule::ALL.iter().map(|r| (r.name(), self.of(*r))).filter(|r| r.1 > 0).collect()
    }
}
