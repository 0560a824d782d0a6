//! The primitives (Syno, Table 1): each variant with its shape rule and its coordinate rule beside it.
//!
//! An operator is built from the output towards the input. A primitive consumes dims of the frontier and puts new ones
//! there; the coordinate of a new dim is a function of the coordinates of those consumed.

use super::graph::{Dim, Graph};
use super::size::Size;

/// What makes a dim. Two more primitives leave no dim behind: **Expand** drops a dim from the frontier (the data do not
/// depend on it), **Share** also makes a dim an axis of a weight (contraction).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prim {
    /// The output's axis number `.0`.
    Output(u8),
    /// A summed axis; `.0` tells equal sizes apart.
    Reduce(u8),
    /// Two dims become one: `l·|r| + r`, of size `|l|·|r|`.
    Split(Dim, Dim),
    /// The block number of a dim cut into blocks (Merge, left part): `⌊x / block⌋`, of size `|x| / block`.
    Outer(Dim, Size),
    /// The place within the block (Merge, right part): `x mod block`, of size `block`.
    Inner(Dim, Size),
    /// Rolled by one: `(x + 1) mod |x|`, of size `|x|`.
    Shift(Dim),
    /// Every `step`-th element: `step·x`, of size `step·|x|`.
    Stride(Dim, Size),
    /// A window around each place: `main + window − ⌊|window|/2⌋`, of size `|main|`; outside of it the term is 0.
    Unfold(Dim, Dim),
}

impl Prim {
    /// The shape rule; `None` for the two leaves, whose size is their own.
    pub fn size(self, graph: &Graph) -> Option<Size> {
        let size = |d: Dim| graph.size(d);
        match self {
            Prim::Output(_) | Prim::Reduce(_) => None,
            Prim::Split(l, r) => Some(size(l).times(size(r))),
            Prim::Outer(x, block) => Some(size(x).over(block)),
            Prim::Inner(_, block) => Some(block),
            Prim::Shift(x) => Some(size(x)),
            Prim::Stride(x, step) => Some(step.times(size(x))),
            Prim::Unfold(main, _) => Some(size(main)),
        }
    }

    /// The dims consumed.
    pub fn consumed(self) -> impl Iterator<Item = Dim> {
        let (a, b) = match self {
            Prim::Output(_) | Prim::Reduce(_) => (None, None),
            Prim::Split(l, r) | Prim::Unfold(l, r) => (Some(l), Some(r)),
            Prim::Outer(x, _) | Prim::Inner(x, _) | Prim::Shift(x) | Prim::Stride(x, _) => (Some(x), None),
        };
        a.into_iter().chain(b)
    }
}
