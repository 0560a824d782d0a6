//! What the cuts of a config's loops say about its time, without TVM: registers, loads per multiply-add, bytes that each cache must
//! bring, and the roofline of these (Williams et al. 2009): a kernel takes as long as its scarcest resource.
//!
//! A tiled reduction is a nest of levels, `S₀ S₁ R₀ R₁ S₂` in our own space and `S₀ S₁ R₀ S₂ R₁ S₃` in MetaSchedule's. What the
//! loops inside a cut touch is its footprint; the outermost cut whose footprint fits into a cache stays in it, and is brought
//! there once for each turn of the loops outside, except of those that the tensor does not depend on and that turn
//! fastest (as in Ansor's reuse distances, and in Pruner's draft score). A few microseconds a config.

use super::config::{Config, Decision, Knob, Origin, Space};
use crate::lower::index::Index;
use crate::lower::pad::pad;
use crate::lower::{Access, LoopNest, Stage};

/// Values of f32 in a vector register, and registers of a core with AVX-512, less those that LLVM wants for itself: of 340 programs
/// measured, most that left it fewer than four were more than 1.2 times as slow as the best, some 9 times.
const LANES: i64 = 16;
const REGISTERS: f64 = 28.0;
/// Cycles for each register too many: it is loaded and stored by each body.
const SPILL_CYCLES: f64 = 3.0;
/// Bytes of the first and second cache of a core; common to server cores of the last ten years within a factor of two.
const CACHE_BYTES: [f64; 2] = [32.0 * 1024.0, 1024.0 * 1024.0];
/// Bytes per cycle into the first cache and into the second.
const CACHE_RATES: [f64; 2] = [64.0, 16.0];
const LINE_BYTES: f64 = 64.0;
/// For vectors, in cycles of one multiply-add: a load, a load of one value into all lanes, a store (Zen 4 and Intel alike).
const LOAD_CYCLES: f64 = 1.0;
const BROADCAST_CYCLES: f64 = 0.5;
const STORE_CYCLES: f64 = 2.0;
/// Cycles until a multiply-add's sum can be added to.
const LATENCY: f64 = 4.0;
/// Cycles for a value that is fetched alone into a vector.
const GATHER_CYCLES: f64 = 2.0;
/// Cycles of a turn of a loop that is not written out, and of the begin of a tile.
const LOOP_CYCLES: f64 = 1.0;
const TILE_CYCLES: f64 = 8.0;
/// Steps of inner sums that our own space writes out, at most; so `sketch` has it, and where it makes copies with a border.
const UNROLLED: i64 = 16;
const AT_TILE: i64 = 1;
const AT_REGISTERS: i64 = 2;
/// Cuts whose footprints are told: those of the space with most levels.
const CUTS: usize = 5;

/// Numbers that [`Roofline::row`] gives for each config.
pub const N_COLUMNS: usize = 19 + CUTS;

/// The reductions of a nest, and where each space cuts them.
pub struct Roofline {
    /// As TVM gets it: borders are copies.
    nest: LoopNest,
    spaces: Vec<(Origin, Vec<Tiled>)>,
    n_threads: f64,
}

/// A stage and the first of the knobs that cut its loops.
struct Tiled {
    stage: usize,
    knob: usize,
    reads: Vec<Accessed>,
    written: Accessed,
    /// Copies that our own space makes for this stage alone, in the order of the knobs that place them.
    copies: Vec<usize>,
}

/// An access, and what is asked of it for each config.
struct Accessed {
    access: Access,
    /// Does it read elsewhere when this loop turns?
    moves: Vec<bool>,
    /// How many turns of the last axis read one element after the other: a block's of packed weights.
    n_contiguous: i64,
}

impl Accessed {
    fn new(access: Access, stage: &Stage) -> Accessed {
        let moves = (0..stage.loops().count()).map(|l| access.index.iter().any(|i| i.loops().contains(&l))).collect();
        let n_contiguous = stage.axes.len().checked_sub(1).map_or(1, |last| contiguous(&access, last, stage.axes[last].extent));
        Accessed { access, moves, n_contiguous }
    }

    /// Different elements that are read while one loop turns so often, at most.
    fn turns(&self, along: usize, trips: i64) -> i64 {
        if !self.moves[along] {
            return 1;
        }
        let mut extents = vec![1; self.moves.len()];
        extents[along] = trips;
        let width = |index: &Index| index.range(&extents).1 - index.range(&extents).0 + 1;
        self.access.index.iter().map(width).product::<i64>().min(trips)
    }

    /// Bytes of the cache lines that are touched while loops turn so often.
    fn bytes(&self, extents: &[i64]) -> f64 {
        let width = |index: &Index| {
            let (low, high) = index.range(extents);
            (high - low + 1) as f64
        };
        let Some((last, others)) = self.access.index.split_last() else { return LINE_BYTES };
        let lines = (4.0 * width(last) / LINE_BYTES).ceil();
        others.iter().map(width).product::<f64>() * lines * LINE_BYTES
    }

    /// How often what is touched changes while these outer loops turn: those that turn fastest and do not move it cost nothing.
    fn turns_of(&self, levels: &[Vec<(usize, i64)>]) -> f64 {
        let outside = levels.iter().flatten().rev().skip_while(|&&(l, trips)| trips == 1 || !self.moves[l]);
        outside.map(|l| l.1 as f64).product()
    }
}

/// What one reduction's cuts come to. Times are cycles of one core, counts are per innermost body.
struct View {
    macs: f64,
    lanes: f64,
    vectors: f64,
    rows: f64,
    registers: f64,
    loads: f64,
    gathers: f64,
    ops: f64,
    terms: f64,
    bodies: f64,
    tiles: f64,
    footprints: Vec<f64>,
    traffic: [f64; 2],
    compute: f64,
    cycles: f64,
    outer: f64,
    busy: f64,
}

impl Roofline {
    pub fn new(nest: &LoopNest, spaces: &[Space], n_threads: usize) -> Roofline {
        let nest = pad(nest);
        let spaces = spaces.iter().map(|s| (s.origin, align(&nest, s))).collect();
        Roofline { nest, spaces, n_threads: n_threads.max(1) as f64 }
    }

    /// Says nothing, for what it cannot look into.
    pub fn unknown() -> Roofline {
        Roofline { nest: LoopNest { name: String::new(), tensors: vec![], stages: vec![] }, spaces: vec![], n_threads: 1.0 }
    }

    /// Cycles that a config is likely to need, to be compared with other configs'; `None` where no reduction is tiled.
    pub fn cycles(&self, config: &Config) -> Option<f64> {
        let views = self.views(config);
        (!views.is_empty()).then(|| views.iter().map(|v| v.cycles).sum())
    }

    /// What the heaviest reduction's cuts come to, mostly as logarithms, and the estimates: equally many numbers for each config
    /// of any task, NaN where nothing is known.
    pub fn row(&self, config: &Config) -> Vec<f64> {
        let mut views = self.views(config);
        views.sort_by(|a, b| b.macs.total_cmp(&a.macs));
        let Some(v) = views.first() else { return vec![f64::NAN; N_COLUMNS] };
        let vectors = v.rows * v.vectors;
        let mut row = vec![
            v.lanes.log2(),
            v.lanes / (v.vectors * LANES as f64),
            v.rows.log2(),
            vectors.log2(),
            v.registers.log2(),
            v.loads / v.ops,
            v.gathers / v.ops,
            v.terms.log2(),
            (v.terms * vectors).log2(),
            v.tiles.log2(),
            (v.bodies / v.tiles).log2(),
            (v.traffic[0] / v.macs).log2(),
            (v.traffic[1] / v.macs).log2(),
            (v.compute / v.macs).log2(),
            (v.cycles / v.macs).log2(),
            v.outer.log2(),
            v.busy,
        ];
        row.extend((0..CUTS).map(|k| v.footprints.get(k).map_or(f64::NAN, |f| f.log2())));
        let (macs, cycles) = views.iter().fold((0.0, 0.0), |(m, c), v| (m + v.macs, c + v.cycles));
        row.push((cycles / macs).log2());
        row.push(views.get(1).map_or(f64::NAN, |v| (v.cycles / v.macs).log2()));
        row
    }

    fn views(&self, config: &Config) -> Vec<View> {
        let Some((origin, tiled)) = self.spaces.get(config.space) else { return vec![] };
        tiled.iter().filter_map(|t| self.view(*origin, t, &config.decisions)).collect()
    }

    fn view(&self, origin: Origin, tiled: &Tiled, decisions: &[Decision]) -> Option<View> {
        let stage = &self.nest.stages[tiled.stage];
        let (n_axes, n) = (stage.axes.len(), stage.axes.len() + stage.sums.len());
        let ours = origin == Origin::Tiles;
        let mut factors = Vec::new();
        for (i, decision) in decisions.get(tiled.knob..tiled.knob + n)?.iter().enumerate() {
            let Decision::PerfectTile(f) = decision else { return None };
            if f.len() != cuts(origin, i < n_axes) || f.iter().any(|&f| f < 1) {
                return None;
            }
            factors.push(f);
        }
        let turned = ours && decisions.get(tiled.knob + n) == Some(&Decision::Categorical(1));
        let levels = levels(&factors, n_axes, ours, turned);
        let last = levels.len() - 1;
        let inner = |from: usize| {
            let mut extents = vec![1; n];
            levels[from..].iter().flatten().for_each(|&(l, trips)| extents[l] *= trips);
            extents
        };
        let (reads, written) = (&tiled.reads, &tiled.written);
        let tile = inner(last);
        let lanes = tile[n_axes - 1];
        // a vector that is not full costs as many instructions as its size has binary digits
        let vectors = (lanes / LANES + i64::from((lanes % LANES).count_ones())) as f64;
        let rows = tile[..n_axes - 1].iter().product::<i64>() as f64;
        let terms = factors[n_axes..].iter().map(|f| f[1]).product::<i64>();
        // the order, the places of copies, and whether sums are written out: the knobs after the cuts
        let chosen = |i: usize| match decisions.get(tiled.knob + n + i) {
            Some(Decision::Categorical(value)) if ours => Some(*value),
            _ => None,
        };
        let all_out = terms <= UNROLLED && chosen(1 + tiled.copies.len()) == Some(1) && levels[2].iter().all(|l| l.1 == 1);
        let (mut copied, mut n_held) = (0.0, 0.0);
        let mut held = Vec::new();
        for (i, tensor) in tiled.copies.iter().enumerate() {
            let Some(access) = reads.iter().find(|a| a.access.tensor == *tensor) else { continue };
            let level = match chosen(1 + i) {
                Some(AT_TILE) => 1,
                Some(AT_REGISTERS) => 2,
                _ => 0,
            };
            let size = access.bytes(&inner(level));
            let times = levels[..level].iter().flatten().map(|l| l.1 as f64).product::<f64>();
            let rate = CACHE_RATES[usize::from(size > CACHE_BYTES[0])];
            let is_held = level == 2 && all_out && n_held + size / LINE_BYTES + rows * vectors < REGISTERS;
            if is_held {
                n_held += size / LINE_BYTES;
                held.push(*tensor);
            } else {
                copied += times * size / LINE_BYTES * (LOAD_CYCLES + STORE_CYCLES).max(2.0 * LINE_BYTES / rate);
            }
        }
        let (mut loads, mut gathers, mut weights) = (0.0, 0.0, 0.0f64);
        for access in reads.iter().filter(|a| !held.contains(&a.access.tensor)) {
            if (n_axes..n).all(|l| access.turns(l, stage.sums[l - n_axes].extent) == 1) {
                continue;
            }
            let times = (0..n_axes - 1).map(|l| access.turns(l, tile[l]) as f64).product::<f64>();
            match (access.turns(n_axes - 1, lanes) > 1, access.n_contiguous % lanes == 0) {
                (false, _) => loads += times * BROADCAST_CYCLES,
                (true, true) => {
                    loads += times * vectors * LOAD_CYCLES;
                    weights = weights.max(vectors);
                }
                (true, false) => gathers += times * lanes as f64,
            }
        }
        let n_products = stage.factors().map_or(1, |f| f.len().saturating_sub(1).max(1)) as f64;
        let ops = rows * vectors * n_products;
        let registers = rows * vectors + weights + 1.0;
        let iterations = stage.extents().iter().product::<i64>() as f64;
        let bodies = iterations / (rows * lanes as f64);
        let tiles = stage.axes.iter().map(|l| l.extent).product::<i64>() as f64 / (rows * lanes as f64);
        let spilled = (registers - REGISTERS).max(0.0) * SPILL_CYCLES;
        let loads_in_all = loads + GATHER_CYCLES * gathers;
        let stores = rows * vectors * STORE_CYCLES;
        let compute = if all_out {
            // one tile's code is straight: its loads, sums and stores overlap, also with those of the next tile
            let straight = (terms as f64 * ops.max(loads_in_all)).max(terms as f64 * loads_in_all + n_held * LOAD_CYCLES).max(stores);
            tiles * (straight + terms as f64 * spilled + LOOP_CYCLES)
        } else {
            let body = ops.max(loads_in_all).max(LATENCY) + spilled;
            let unrolled = if terms <= UNROLLED { terms } else { 1 };
            bodies * (body + LOOP_CYCLES / unrolled as f64) + tiles * (stores + TILE_CYCLES)
        };
        let compute = compute + copied;
        let whole = |from: usize| {
            let extents = inner(from);
            reads.iter().chain([written]).map(|a| a.bytes(&extents)).sum::<f64>()
        };
        let traffic = CACHE_BYTES.map(|size| {
            let fits = (0..=last).find(|&k| whole(k) <= size).unwrap_or(last);
            let extents = inner(fits);
            let brought = reads.iter().map(|a| a.bytes(&extents) * a.turns_of(&levels[..fits])).sum::<f64>();
            let sums = if ours { written.bytes(&inner(0)) } else { 2.0 * written.bytes(&extents) * written.turns_of(&levels[..fits]) };
            brought + sums
        });
        let outer = levels[0].iter().map(|l| l.1 as f64).product::<f64>();
        let busy = outer / ((outer / self.n_threads).ceil() * self.n_threads);
        let memory = traffic.iter().zip(CACHE_RATES).map(|(t, rate)| t / rate).fold(0.0, f64::max);
        Some(View {
            macs: iterations * n_products,
            lanes: lanes as f64,
            vectors,
            rows,
            registers,
            loads,
            gathers,
            ops,
            terms: terms as f64,
            bodies,
            tiles,
            footprints: (1..=last).map(whole).collect(),
            traffic,
            compute,
            cycles: compute.max(memory) / (busy * self.n_threads),
            outer,
            busy,
        })
    }
}

/// How often a loop is cut.
fn cuts(origin: Origin, is_axis: bool) -> usize {
    match (origin, is_axis) {
        (_, false) => 2,
        (Origin::Tiles, true) => 3,
        (Origin::Rules, true) => 4,
    }
}

/// The reductions of a nest whose loops are cut by successive knobs of a space, each once.
fn align(nest: &LoopNest, space: &Space) -> Vec<Tiled> {
    let fits = |stage: &Stage, knob: usize| {
        stage.loops().enumerate().all(|(i, l)| match space.knobs.get(knob + i) {
            Some(&Knob::PerfectTile { extent, n, .. }) => extent == l.extent && n == cuts(space.origin, i < stage.axes.len()),
            _ => false,
        })
    };
    let mut found: Vec<Tiled> = Vec::new();
    let mut knob = 0;
    while knob < space.knobs.len() {
        // our own space goes from the last stage to the first
        let free = |s: &usize| !found.iter().any(|t| t.stage == *s);
        let reductions = (0..nest.stages.len()).rev().filter(|&s| !nest.stages[s].sums.is_empty() && !nest.stages[s].axes.is_empty());
        let next = reductions.filter(free).find(|&s| fits(&nest.stages[s], knob));
        match next {
            Some(stage) => {
                found.push(tiled(nest, stage, knob));
                knob += nest.stages[stage].loops().count();
            }
            None => knob += 1,
        }
    }
    found
}

fn tiled(nest: &LoopNest, number: usize, knob: usize) -> Tiled {
    let stage = &nest.stages[number];
    let whole = Access { tensor: stage.output, index: (0..stage.axes.len()).map(Index::Var).collect() };
    let reads = reads(stage).into_iter().map(|a| Accessed::new(a, stage)).collect();
    Tiled { stage: number, knob, reads, written: Accessed::new(whole, stage), copies: copies(nest, number) }
}

/// What stages without sums write that this stage alone reads.
fn copies(nest: &LoopNest, stage: usize) -> Vec<usize> {
    let is_read = |s: usize, tensor: usize| reads(&nest.stages[s]).iter().any(|a| a.tensor == tensor);
    let written = nest.stages[..stage].iter().filter(|s| s.sums.is_empty()).map(|s| s.output);
    written.filter(|&t| (0..nest.stages.len()).all(|s| is_read(s, t) == (s == stage))).collect()
}

/// The loops of each level, outermost first, with their turns.
fn levels(factors: &[&Vec<i64>], n_axes: usize, ours: bool, turned: bool) -> Vec<Vec<(usize, i64)>> {
    let axes = |place: usize| (0..n_axes).map(|l| (l, factors[l][place])).collect::<Vec<_>>();
    let sums = |place: usize| (n_axes..factors.len()).map(|l| (l, factors[l][place])).collect::<Vec<_>>();
    if !ours {
        return vec![axes(0), axes(1), sums(0), axes(2), sums(1), axes(3)];
    }
    let mut levels = vec![axes(0), axes(1), sums(0), sums(1), axes(2)];
    if turned {
        levels[1].rotate_right(1);
    }
    levels
}

/// The accesses of a stage's body, each once.
fn reads(stage: &Stage) -> Vec<Access> {
    let mut found: Vec<Access> = Vec::new();
    stage.body.visit(&mut |access| {
        if !found.contains(access) {
            found.push(access.clone());
        }
    });
    found
}

/// How many turns of a loop of this extent read one element after the other.
fn contiguous(access: &Access, along: usize, extent: i64) -> i64 {
    let Some((last, others)) = access.index.split_last() else { return 1 };
    let is_next = |index: &Index| index.affine().is_some_and(|(terms, _)| terms.contains(&(along, 1)));
    let stays = |index: &Index| !index.loops().contains(&along);
    match last {
        Index::Mod(inner, size) if **inner == Index::Var(along) => {
            let block = Index::Div(inner.clone(), *size);
            if others.iter().all(|i| *i == block || stays(i)) { *size } else { 1 }
        }
        last if is_next(last) && others.iter().all(stays) => extent,
        _ => 1,
    }
}
