//! All orders of a final's actions (Syno, local RAVE over lattices).

use crate::search::tree::{FinalId, Step, To, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// A state or a final, comparable.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    State(u128),
    Final(FinalId),
}

fn place<T: Tree>(tree: &T, to: &To<T::State>) -> Place {
    match to {
        To::Partial(state) => Place::State(tree.key(state)),
        To::Final(id) => Place::Final(*id),
    }
}

/// Every (state, action) on some order of a final's actions, block by block: orders that end where the canonical one does.
/// A block with more than `max` states gives its canonical order only.
pub(super) fn lattices<T: Tree>(tree: &mut T, id: FinalId, max: usize) -> BTreeSet<(u128, Step)> {
    let mut found = BTreeSet::new();
    let mut bottom = tree.root();
    for block in tree.path(id) {
        let mut canonical = Vec::new();
        let mut top = To::Partial(bottom.clone());
        for &step in &block {
            let To::Partial(state) = top else { return found };
            canonical.push((tree.key(&state), step));
            let Some(next) = tree.follow(&state, step) else { return found };
            top = next;
        }
        match orders(tree, &bottom, &block, place(tree, &top), max) {
            Some(all) => found.extend(all),
            None => found.extend(canonical),
        }
        let To::Partial(state) = top else { return found };
        bottom = state;
    }
    found
}

/// The (state, action) pairs between a bottom and a top; `None` beyond `max` states.
fn orders<T: Tree>(tree: &mut T, bottom: &T::State, block: &[Step], top: Place, max: usize) -> Option<BTreeSet<(u128, Step)>> {
    // what is left to do in a state is the same on every way to it
    let mut layer: BTreeMap<u128, (T::State, Vec<Step>)> = BTreeMap::from([(tree.key(bottom), (bottom.clone(), block.to_vec()))]);
    let mut edges: Vec<Vec<(u128, Step, Place)>> = Vec::new();
    let mut n_states = 0;
    for _ in 0..block.len() {
        let mut above = BTreeMap::new();
        let mut out = Vec::new();
        for (key, (state, left)) in layer {
            n_states += 1;
            if n_states > max {
                return None;
            }
            for (at, &step) in left.iter().enumerate().filter(|(i, s)| !left[..*i].contains(s)) {
                let Some(to) = tree.follow(&state, step) else { continue };
                out.push((key, step, place(tree, &to)));
                if let To::Partial(next) = to {
                    above.entry(tree.key(&next)).or_insert_with(|| {
                        let mut left = left.clone();
                        left.remove(at);
                        (next, left)
                    });
                }
            }
        }
        layer = above;
        edges.push(out);
    }
    // backwards: what does not end at the top is another final's
    let mut reached = BTreeSet::from([top]);
    let mut found = BTreeSet::new();
    for out in edges.iter().rev() {
        let ends: Vec<_> = out.iter().filter(|(_, _, to)| reached.contains(to)).collect();
        found.extend(ends.iter().map(|(from, step, _)| (*from, *step)));
        reached = ends.iter().map(|(from, _, _)| Place::State(*from)).collect();
    }
    Some(found)
}
