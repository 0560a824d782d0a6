//! The limits and rules of a space (Syno, section 8 and its published searches), one set of defaults for each profile.

use super::canon::{ALTERNATIVES, APPROXIMATE, Rule, RuleSet, STRUCTURE};
use super::legal::Ratio;

/// At most so many actions of each kind; `usize::MAX` for no limit.
#[derive(Clone, Copy, Debug)]
pub struct Most {
    pub merges: usize,
    pub splits: usize,
    pub shifts: usize,
    pub strides: usize,
    pub unfolds: usize,
    pub expands: usize,
    /// Axes of all weights together.
    pub shares: usize,
}

/// The limits and rules of a space.
#[derive(Clone, Debug)]
pub struct Options {
    /// Actions per operator: sums, primitives, contractions (each once whatever its axes).
    pub depth: usize,
    /// Primitives on the way from one dim down to the output.
    pub chain: usize,
    /// Weights, and the data.
    pub tensors: usize,
    pub reductions: usize,
    /// Multiply-adds over all bindings together.
    pub max_flops: Option<u64>,
    /// The product of all sums over that of the data's searched axes.
    pub max_sum_ratio: Ratio,
    /// The product of sums that no weight sees.
    pub max_pooling: u64,
    /// Finished operators per state.
    pub max_finals: usize,
    /// Elements of one weight, at least.
    pub min_weight: u64,
    pub max_strided: u64,
    pub max_window: u64,
    /// An axis over the window that slides on it, at least.
    pub min_unfold_ratio: Ratio,
    /// A shift moves a block of at most so many elements across a reshape.
    pub max_shift_ratio: Ratio,
    pub odd_windows: bool,
    /// Expand may also repeat whole axes.
    pub tile: bool,
    /// The product of all that Expand repeats; 1 for none.
    pub max_repeat: u64,
    /// The product of all outer axes of weights.
    pub max_outer: u64,
    /// An outer axis that is a sum: the rank of a factorization.
    pub rank: (u64, u64),
    pub most: Most,
    /// An Unfold of dims that were there before the last contraction is refused (Syno forgets this one).
    pub late_unfolds: bool,
    /// The distance knows that one contraction expands several dims. Syno's does not, and so loses what needs it.
    pub admissible: bool,
    /// A rule that keeps another form of an operator holds only where that form can be drawn. Syno's hold always.
    pub survivors: bool,
    /// Of equally large sums that nothing tells apart, the first is taken first.
    pub interchange: bool,
    /// Rules that are switched off.
    pub off: RuleSet,
}

const UNLIMITED: Most = Most {
    merges: usize::MAX,
    splits: usize::MAX,
    shifts: usize::MAX,
    strides: usize::MAX,
    unfolds: usize::MAX,
    expands: usize::MAX,
    shares: usize::MAX,
};

impl Options {
    /// Syno's rules, with what is common to its published searches; they vary merges and splits, the outer product and
    /// the rank.
    pub fn syno() -> Options {
        Options {
            depth: 12,
            chain: 6,
            tensors: 3,
            reductions: 5,
            max_flops: None,
            max_sum_ratio: Ratio(4, 1),
            max_pooling: 8,
            max_finals: 2,
            min_weight: 100,
            max_strided: 30,
            max_window: 30,
            min_unfold_ratio: Ratio(23, 10),
            max_shift_ratio: Ratio(2, 1),
            odd_windows: true,
            tile: false,
            max_repeat: 1,
            max_outer: 2048,
            rank: (8, 8),
            most: Most { merges: 1, splits: 3, shifts: 2, strides: 0, ..UNLIMITED },
            late_unfolds: false,
            admissible: false,
            survivors: false,
            interchange: false,
            off: RuleSet::of(&ALTERNATIVES).with(&STRUCTURE).with(&[Rule::ScaleOnly, Rule::Parameters, Rule::Stuck]),
        }
    }

    /// Our rules: weights without an outer axis (depthwise, separable), no duplicates, nothing lost that is only almost the same.
    pub fn ours() -> Options {
        Options {
            min_weight: 1,
            min_unfold_ratio: Ratio(1, 1),
            max_sum_ratio: Ratio(4, 1),
            odd_windows: false,
            max_finals: usize::MAX,
            tile: true,
            max_repeat: 8,
            max_outer: 1 << 20,
            rank: (2, 1 << 10),
            most: Most { merges: 2, splits: 3, shifts: 2, strides: 1, ..UNLIMITED },
            late_unfolds: true,
            admissible: true,
            survivors: true,
            interchange: true,
            off: RuleSet::of(&ALTERNATIVES).with(&APPROXIMATE).with(&[Rule::NoOuter]),
            ..Options::syno()
        }
    }

    /// Ours for searching: of operators that differ at borders or in a few elements only, one, and sums are joined and cut by
    /// none but their sizes. With all of them, most of what is drawn are odd variants that learn no better.
    pub fn coarse() -> Options {
        let ours = Options::ours();
        Options { off: ours.off.without(&APPROXIMATE), survivors: false, ..ours }
    }
}
