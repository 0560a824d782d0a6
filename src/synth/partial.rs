//! Operators under construction: the frontier with what is known of its dims, and what may be done to it.

use super::graph::{Dim, Graph};
use super::legal::{Allowance, Sizes};
use super::operator::MAX_WEIGHTS;
use super::prim::Prim;
use super::size::Size;

/// One primitive applied at one place.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Reduce(Size),
    Split(Dim, Dim),
    Merge(Dim, Size),
    Shift(Dim),
    Stride(Dim, Size),
    Unfold(Dim, Dim),
    Expand(Dim),
    /// Share with a new weight: each dim becomes an axis of it; `true` also expands the dim, so that only the weight
    /// depends on it.
    Contract(Vec<(Dim, bool)>),
    /// The frontier becomes the data tensor, in the order of its searched axes.
    Finish(Vec<Dim>),
}

impl Action {
    /// Syno's code of the kind of action.
    pub fn kind(&self) -> u8 {
        match self {
            Action::Reduce(_) => 0,
            Action::Expand(_) => 1,
            Action::Shift(_) => 2,
            Action::Stride(..) => 3,
            Action::Split(..) => 4,
            Action::Unfold(..) => 5,
            Action::Merge(..) => 6,
            Action::Contract(_) => 7,
            Action::Finish(_) => 8,
        }
    }
}

/// What lies beside a dim in the axis that it was merged from (Syno, section 5: adjacency of reshapes).
type Side = u32;
const NOTHING: Side = 0;
const A_SUM: Side = u32::MAX;

/// A dim of the frontier (or an expanded one) with what the canonical rules ask of it.
#[derive(Clone, Copy, Debug)]
pub struct Top {
    pub dim: Dim,
    /// Primitives on the longest way down, summed axes and Shares included.
    pub height: u8,
    /// The weights that have this very dim as an axis, one bit each: the Shares that lie on it, lowest first.
    pub shares: u8,
    /// The weights that have it or a dim below it as an axis.
    pub tags: u8,
    /// Some elements of the data are never read along it: a Stride without a window.
    pub discards: bool,
    /// Below it are summed axes only.
    pub sums_only: bool,
    /// The unordered axis that it is, or is a part of.
    pub scope: Option<Dim>,
    /// Left and right neighbours outside of contractions (entry 0) and inside each (entry = weight number).
    sides: [[Side; 2]; MAX_WEIGHTS + 1],
    /// The entries that exist, one bit each.
    present: u8,
    /// A hash of what it is, equally large sums alike: the same in every session.
    pub mark: u64,
    /// The same, equally large sums told apart.
    pub key: u64,
}

/// One step of a 64-bit mix (splitmix64): an order and names that no session depends on, never an identity.
fn mix(a: u64, b: u64) -> u64 {
    let mut x = (a.rotate_left(23) ^ b).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

fn size_mark(size: Size) -> u64 {
    let packed = u128::from_le_bytes(size.exponents().map(i8::cast_unsigned));
    let (n, d) = size.factor();
    mix(mix(packed as u64, (packed >> 64) as u64), (u64::from(n) << 32) | u64::from(d))
}

const FRESH: [[Side; 2]; MAX_WEIGHTS + 1] = [[NOTHING; 2]; MAX_WEIGHTS + 1];
const SHARE_MARK: u64 = 100;

impl Top {
    /// An axis of the output.
    pub fn output(graph: &Graph, dim: Dim, unordered: bool) -> Top {
        let Prim::Output(i) = graph.prim(dim) else { unreachable!("an output's dim") };
        let mark = mix(mix(1, u64::from(i)), size_mark(graph.size(dim)));
        Top {
            dim,
            height: 0,
            shares: 0,
            tags: 0,
            discards: false,
            sums_only: false,
            scope: unordered.then_some(dim),
            sides: FRESH,
            present: 1,
            mark,
            key: mark,
        }
    }

    fn sum(graph: &Graph, dim: Dim, nth: u8) -> Top {
        let mark = mix(2, size_mark(graph.size(dim)));
        let mut sides = FRESH;
        sides[0] = [A_SUM; 2];
        Top {
            dim,
            height: 1,
            shares: 0,
            tags: 0,
            discards: false,
            sums_only: true,
            scope: Some(dim),
            sides,
            present: 1,
            mark,
            key: mix(mark, u64::from(nth)),
        }
    }

    /// The dim above one other, with neighbours of its own.
    fn repeat(&self, graph: &Graph, dim: Dim) -> Top {
        let (code, parameter) = match graph.prim(dim) {
            Prim::Outer(_, block) => (3, size_mark(block)),
            Prim::Inner(_, block) => (4, size_mark(block)),
            Prim::Shift(_) => (5, 0),
            Prim::Stride(_, step) => (6, size_mark(step)),
            _ => unreachable!("a primitive of one dim"),
        };
        let hash = |of: u64| mix(mix(code, of), parameter);
        Top {
            dim,
            height: self.height + 1,
            shares: 0,
            sides: FRESH,
            present: 1,
            mark: hash(self.mark),
            key: hash(self.key),
            discards: self.discards || matches!(graph.prim(dim), Prim::Stride(..)),
            ..*self
        }
    }

    /// The two parts of a Merge.
    fn parts(&self, graph: &Graph, outer: Dim, inner: Dim) -> [Top; 2] {
        let mut parts = [self.repeat(graph, outer), self.repeat(graph, inner)];
        for part in &mut parts {
            (part.sides, part.present) = (self.sides, self.present);
        }
        let id = outer.0 + 1;
        for i in (0..=MAX_WEIGHTS).filter(|i| self.present >> i & 1 == 1) {
            parts[0].sides[i][1] = id;
            parts[1].sides[i][0] = id;
        }
        parts
    }

    fn join(&self, other: &Top, dim: Dim, code: u64) -> Top {
        Top {
            dim,
            height: 1 + self.height.max(other.height),
            shares: 0,
            tags: self.tags | other.tags,
            discards: self.discards || other.discards,
            sums_only: self.sums_only && other.sums_only,
            scope: self.scope.filter(|_| self.scope == other.scope),
            sides: FRESH,
            present: 1,
            mark: mix(mix(code, self.mark), other.mark),
            key: mix(mix(code, self.key), other.key),
        }
    }

    fn split(&self, right: &Top, dim: Dim) -> Top {
        let mut joined = self.join(right, dim, 7);
        joined.present = self.present | right.present;
        for i in 0..=MAX_WEIGHTS {
            let side = |of: &Top, k: usize| if of.present >> i & 1 == 1 { of.sides[i][k] } else { NOTHING };
            joined.sides[i] = [side(self, 0), side(right, 1)];
        }
        joined
    }

    fn unfold(&self, window: &Top, dim: Dim) -> Top {
        // the window absorbs a stride
        Top { discards: self.discards, ..self.join(window, dim, 8) }
    }

    /// The same dim under a Share with weight number `w` (from 1).
    fn share(&self, w: usize) -> Top {
        let mut shared = *self;
        shared.height += 1;
        shared.shares |= 1 << w;
        shared.tags |= 1 << w;
        shared.sides[w] = self.sides[0];
        shared.present |= 1 << w;
        shared.sides[0] = [NOTHING; 2];
        shared.mark = mix(SHARE_MARK + w as u64, self.mark);
        shared.key = mix(SHARE_MARK + w as u64, self.key);
        shared
    }

    /// Is this one the left part, and the other the right part, of one Merge; or are both sums (Syno, section 5)?
    pub fn adjacent(&self, right: &Top) -> bool {
        (0..=MAX_WEIGHTS)
            .filter(|i| (self.present & right.present) >> i & 1 == 1)
            .any(|i| self.sides[i][1] != NOTHING && self.sides[i][1] == right.sides[i][0])
    }

    /// The primitive that made it, if no Share lies on it.
    pub fn bare(&self, graph: &Graph) -> Option<Prim> {
        (self.shares == 0).then(|| graph.prim(self.dim))
    }

    /// The number (from 1) of the last weight that has it as an axis; 0 for none.
    pub fn last_share(&self) -> u32 {
        self.shares.checked_ilog2().unwrap_or(0)
    }
}

/// Most states have fewer dims.
const USUAL_DIMS: usize = 24;

/// How many actions of each kind an operator has. A contraction counts its axes as shares.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    pub merges: usize,
    pub splits: usize,
    pub shifts: usize,
    pub strides: usize,
    pub unfolds: usize,
    pub expands: usize,
    pub shares: usize,
}

/// A partial operator: what the data tensor is indexed by so far, and the weights so far. Independent actions in any
/// order make the same state.
#[derive(Debug)]
pub struct Partial {
    pub frontier: Vec<Top>,
    /// Dropped dims: the data do not depend on them.
    pub expanded: Vec<Top>,
    pub sums: Vec<Dim>,
    pub weights: Vec<Vec<Dim>>,
    pub n_actions: usize,
    pub counts: Counts,
    pub allowance: Allowance,
    /// The product of the dims of the output that only weights depend on.
    pub outer: Size,
    /// The product of what Expand repeats.
    pub repeated: Size,
    /// The least axis of the last weight by (height, mark): weights that do not depend on each other stand in this order.
    pub leader: (u8, u64),
    /// At least so many actions are left; set by the space.
    pub steps: usize,
}

impl Clone for Partial {
    fn clone(&self) -> Partial {
        Partial {
            frontier: self.frontier.clone(),
            expanded: self.expanded.clone(),
            sums: self.sums.clone(),
            weights: self.weights.clone(),
            ..*self
        }
    }

    /// Keeps the memory of the four lists.
    fn clone_from(&mut self, other: &Partial) {
        let (mut frontier, mut expanded) = (std::mem::take(&mut self.frontier), std::mem::take(&mut self.expanded));
        let (mut sums, mut weights) = (std::mem::take(&mut self.sums), std::mem::take(&mut self.weights));
        frontier.clone_from(&other.frontier);
        expanded.clone_from(&other.expanded);
        sums.clone_from(&other.sums);
        weights.clone_from(&other.weights);
        *self = Partial { frontier, expanded, sums, weights, ..*other };
    }
}

impl Partial {
    /// The state before any action.
    pub fn root(outputs: Vec<Top>, allowance: Allowance) -> Partial {
        let mut root = Partial {
            frontier: outputs,
            expanded: vec![],
            sums: vec![],
            weights: vec![],
            n_actions: 0,
            counts: Counts::default(),
            allowance,
            outer: Size::ONE,
            repeated: Size::ONE,
            leader: (0, 0),
            steps: 0,
        };
        root.sort();
        root
    }

    fn sort(&mut self) {
        // by content first, so that no order depends on what else the arena holds
        self.frontier.sort_unstable_by_key(|t| (t.key, t.dim));
        self.expanded.sort_unstable_by_key(|t| (t.key, t.dim));
    }

    /// The dim's entry in the frontier.
    pub fn top(&self, d: Dim) -> Option<&Top> {
        self.frontier.iter().find(|t| t.dim == d)
    }

    fn take(&mut self, d: Dim) -> Option<Top> {
        let place = self.frontier.iter().position(|t| t.dim == d)?;
        Some(self.frontier.remove(place))
    }

    /// The state after an action; `None` if it names a dim that is not in the frontier.
    pub fn apply(&self, graph: &mut Graph, sizes: &Sizes, action: &Action) -> Option<Partial> {
        let mut next = self.clone();
        next.grow(graph, sizes, action)?;
        Some(next)
    }

    /// Becomes the state after an action; `None`, and no state at all, if it names a dim that is not in the frontier.
    pub(super) fn grow(&mut self, graph: &mut Graph, sizes: &Sizes, action: &Action) -> Option<()> {
        let next = self;
        next.n_actions += 1;
        let use_up = |next: &mut Partial, size: Size| {
            if let Some(left) = sizes.shared(&next.allowance, size) {
                next.allowance = left;
            }
        };
        match *action {
            Action::Reduce(size) => {
                let nth = u8::try_from(next.sums.iter().filter(|&&d| graph.size(d) == size).count()).ok()?;
                let d = graph.leaf(Prim::Reduce(nth), size);
                next.sums.push(d);
                next.frontier.push(Top::sum(graph, d, nth));
                use_up(next, size);
            }
            Action::Split(l, r) => {
                let (l, r) = (next.take(l)?, next.take(r)?);
                let d = graph.make(Prim::Split(l.dim, r.dim));
                next.frontier.push(l.split(&r, d));
                next.counts.splits += 1;
            }
            Action::Merge(x, block) => {
                let x = next.take(x)?;
                let (outer, inner) = (graph.make(Prim::Outer(x.dim, block)), graph.make(Prim::Inner(x.dim, block)));
                next.frontier.extend(x.parts(graph, outer, inner));
                if let Some(left) = sizes.merged(&next.allowance, block, graph.size(outer)) {
                    next.allowance = left;
                }
                next.counts.merges += 1;
            }
            Action::Shift(x) => {
                let x = next.take(x)?;
                let d = graph.make(Prim::Shift(x.dim));
                next.frontier.push(x.repeat(graph, d));
                next.counts.shifts += 1;
            }
            Action::Stride(x, step) => {
                let x = next.take(x)?;
                let d = graph.make(Prim::Stride(x.dim, step));
                next.frontier.push(x.repeat(graph, d));
                use_up(next, step);
                next.counts.strides += 1;
            }
            Action::Unfold(main, window) => {
                let (main, window) = (next.take(main)?, next.take(window)?);
                let d = graph.make(Prim::Unfold(main.dim, window.dim));
                next.frontier.push(main.unfold(&window, d));
                next.counts.unfolds += 1;
            }
            Action::Expand(x) => {
                let x = next.take(x)?;
                next.repeated = next.repeated.times(graph.size(x.dim));
                next.expanded.push(x);
                next.counts.expands += 1;
            }
            Action::Contract(ref axes) => {
                let w = next.weights.len() + 1;
                if w > MAX_WEIGHTS {
                    return None;
                }
                let mut weight = Vec::with_capacity(axes.len());
                let mut leader = (u8::MAX, u64::MAX);
                for &(d, is_outer) in axes {
                    let top = next.take(d)?;
                    leader = leader.min((top.height, top.mark));
                    use_up(next, graph.size(d));
                    weight.push(d);
                    let shared = top.share(w);
                    if is_outer {
                        if !matches!(graph.prim(d), Prim::Reduce(_)) {
                            next.outer = next.outer.times(graph.size(d));
                        }
                        next.expanded.push(shared);
                    } else {
                        next.frontier.push(shared);
                    }
                }
                weight.sort_unstable();
                next.weights.push(weight);
                next.leader = leader;
                next.counts.shares += axes.len();
            }
            Action::Finish(_) => {}
        }
        next.sort();
        Some(())
    }

    /// Only sums were added so far.
    pub fn is_reducing(&self) -> bool {
        self.n_actions == self.sums.len()
    }

    /// The numbers (from 1) of the weights that have this dim as an axis, in order.
    pub fn shares_of(&self, d: Dim) -> impl Iterator<Item = usize> {
        self.weights.iter().enumerate().filter(move |(_, w)| w.contains(&d)).map(|(i, _)| i + 1)
    }

    /// Every dim of the state, each once, tops before what lies below them.
    pub fn dims(&self, graph: &Graph) -> Vec<Dim> {
        let mut seen: Vec<Dim> = Vec::with_capacity(USUAL_DIMS);
        seen.extend(self.frontier.iter().chain(&self.expanded).map(|t| t.dim));
        let mut next = 0;
        while next < seen.len() {
            for d in graph.prim(seen[next]).consumed() {
                if !seen.contains(&d) {
                    seen.push(d);
                }
            }
            next += 1;
        }
        // a dim is made after those that it consumes
        seen.sort_unstable_by(|a, b| b.cmp(a));
        seen
    }

    /// What the state is, within one arena: equal for equal states only.
    pub fn identity(&self) -> Vec<u32> {
        let mut all = Vec::new();
        let mut list = |dims: &mut dyn Iterator<Item = Dim>| {
            let start = all.len();
            all.push(0);
            all.extend(dims.map(|d| d.0));
            all[start + 1..].sort_unstable();
            all[start] = (all.len() - start) as u32;
        };
        list(&mut self.frontier.iter().map(|t| t.dim));
        list(&mut self.expanded.iter().map(|t| t.dim));
        for w in &self.weights {
            list(&mut w.iter().copied());
        }
        all
    }

    /// A 128-bit hash of what the state is, the same in every session.
    pub fn key(&self) -> u128 {
        let half = |seed: u64| {
            let list = |seed: u64, tops: &[Top]| tops.iter().fold(mix(seed, tops.len() as u64), |h, t| mix(h, t.key));
            list(list(seed, &self.frontier), &self.expanded)
        };
        u128::from(half(0x51)) << 64 | u128::from(half(0xa7))
    }
}
