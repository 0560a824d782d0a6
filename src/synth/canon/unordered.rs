//! Two passes over a whole state, from the data down to the output: unordered axes, and sums over data alone.

use super::super::graph::{Dim, Graph};
use super::super::partial::Partial;
use super::super::prim::Prim;
use super::super::size::Size;

/// What is known of a dim on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    unordered: bool,
    /// The unordered axis of the data that it becomes.
    source: Option<usize>,
    /// The topmost Split that it went through since the last other primitive.
    split: Option<Dim>,
}

const ORDERED: Known = Known { unordered: false, source: None, split: None };
const ANY_ORDER: Known = Known { unordered: true, source: None, split: None };

/// Two parts of one dim; `None` when they rejoin what they came from.
fn combine(a: Known, b: Known) -> Option<Known> {
    if !a.unordered || !b.unordered {
        return Some(ORDERED);
    }
    match (a.source, b.source) {
        (Some(_), None) => Some(Known { split: None, ..a }),
        (None, Some(_)) => Some(Known { split: None, ..b }),
        (x, y) if x == y => (a.split.is_none() || a.split != b.split).then_some(Known { split: None, ..a }),
        _ => Some(ORDERED),
    }
}

/// Are the state's unordered axes in their one order? `becomes` names, for dims of the frontier, the unordered axis of
/// the data that each is known to become (Syno, section 5).
pub fn unordered(graph: &Graph, state: &Partial, becomes: &[(Dim, usize)]) -> bool {
    // where nothing is unordered no order can be wrong
    (becomes.is_empty() && state.expanded.is_empty()) || pass(graph, state, becomes).is_some()
}

fn pass(graph: &Graph, state: &Partial, becomes: &[(Dim, usize)]) -> Option<()> {
    let dims = state.dims(graph);
    // one entry per dim; a Merge reaches its dim from both parts
    let mut known: Vec<Option<Known>> = vec![None; dims.len()];
    let place = |d: Dim| dims.binary_search_by(|x| d.cmp(x)).ok();
    for top in &state.frontier {
        let source = becomes.iter().find(|b| b.0 == top.dim).map(|b| b.1);
        known[place(top.dim)?] = Some(source.map_or(ORDERED, |s| Known { unordered: true, source: Some(s), split: None }));
    }
    for top in &state.expanded {
        known[place(top.dim)?] = Some(ANY_ORDER);
    }
    let mut sums: Vec<Dim> = Vec::new();
    for i in 0..dims.len() {
        let (d, mut here) = (dims[i], known[i]?);
        for _ in state.shares_of(d) {
            here = combine(here, ANY_ORDER)?;
        }
        let mut tell = |below: Dim, what: Known| -> Option<()> {
            let entry = &mut known[place(below)?];
            *entry = Some(match *entry {
                None => what,
                Some(other) => combine(other, what)?,
            });
            Some(())
        };
        match graph.prim(d) {
            Prim::Output(_) => {}
            Prim::Reduce(_) => {
                if let Some(split) = here.split {
                    if sums.contains(&split) {
                        return None;
                    }
                    sums.push(split);
                }
            }
            Prim::Shift(x) => {
                if here.unordered {
                    return None;
                }
                tell(x, here)?;
            }
            Prim::Stride(x, _) => tell(x, Known { split: None, ..here })?,
            Prim::Split(l, r) => {
                if here.unordered {
                    let block = match graph.prim(r) {
                        Prim::Split(group, _) if state.shares_of(r).next().is_none() => graph.size(group),
                        _ => graph.size(r),
                    };
                    if block < graph.size(l) {
                        return None;
                    }
                    here.split = here.split.or(Some(d));
                }
                tell(l, here)?;
                tell(r, here)?;
            }
            // a window over neighbours gives their order a meaning
            Prim::Unfold(main, window) => {
                tell(main, ORDERED)?;
                tell(window, ORDERED)?;
            }
            Prim::Outer(x, _) | Prim::Inner(x, _) => tell(x, here)?,
        }
    }
    Some(())
}

/// The product of the sums that no weight sees: what is averaged over before anything is learned.
pub fn pooled(graph: &Graph, state: &Partial) -> Size {
    let weighted = |sum: Dim| state.weights.iter().flatten().any(|&d| graph.depends(d, sum));
    state.sums.iter().filter(|&&s| !weighted(s)).fold(Size::ONE, |product, &s| product.times(graph.size(s)))
}
