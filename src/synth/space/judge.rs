//! What can still come of a state: how many actions are left at least, and how many multiply-adds.

use super::Space;
use crate::synth::bound::Game;
use crate::synth::canon::{self, Rule};
use crate::synth::distance::{Axis, Budget};
use crate::synth::graph::Dim;
use crate::synth::legal::Ratio;
use crate::synth::partial::Partial;
use crate::synth::prim::Prim;
use crate::synth::size::Size;

/// Lengths travel as bytes; no operator has more primitives on a dim.
const LONGEST: usize = u8::MAX as usize;

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
        if !off.contains(Rule::Unordered) && !canon::unordered(&self.graph, state, &becomes) {
            return Err(Rule::Unordered);
        }
        if state.weights.len() + 1 >= self.options.tensors {
            self.check_pooling(state)?;
        }
        if let Some(most) = self.options.max_flops.filter(|_| !off.contains(Rule::Flops))
            && self.least_flops(state) > most as f64
        {
            return Err(Rule::Flops);
        }
        Ok(steps)
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
        let mut current = Vec::with_capacity(state.frontier.len());
        for top in &state.frontier {
            let is_sum = matches!(self.graph.prim(top.dim), Prim::Reduce(_));
            let drops = contracts && {
                let local = self.local(state);
                local.may_share(top) && (local.may_expand(top, Size::ONE).is_ok() || (two && is_sum && top.shares == 0))
            };
            let length = self.options.chain.saturating_sub(usize::from(top.height));
            current.push(Axis { size: self.graph.size(top.dim), left: length.min(LONGEST) as u8, discards: top.discards, drops });
        }
        let odd_growth = !may_contract && self.options.max_repeat <= 1 && self.options.odd_windows;
        let budget = Budget { merges, splits, leaves, steps: left as u32, contracts, odd_growth };
        let found = self.distances.distance(&self.target, &self.sizes, &current, &budget);
        let mut steps = found.steps? as usize;
        if contracts && state.weights.is_empty() && !self.options.off.contains(Rule::NoWeight) {
            // a contraction is an action of its own, unless it is the one that drops dims
            steps = steps.max(1);
        }
        let becomes = state.frontier.iter().zip(&found.unordered).filter_map(|(top, axis)| axis.map(|axis| (top.dim, axis))).collect();
        Some((steps, becomes))
    }

    /// A lower bound of the multiply-adds of everything that the state can become, over all bindings together.
    pub fn least_flops(&self, state: &Partial) -> f64 {
        let game = self.game(state);
        if state.sums.len() > MAX_GAME { 0.0 } else { game.least() }
    }

    fn game(&self, state: &Partial) -> Game {
        let graph = &self.graph;
        let dims = state.dims(graph);
        let values = |size: Size| -> Vec<f64> {
            (0..self.sizes.n_bindings()).map(|i| self.sizes.value(size, i).map_or(1.0, |r| r.0 as f64 / r.1 as f64)).collect()
        };
        // (the dim above whose coordinate it stands, its size)
        let mut increases: Vec<(Dim, Size)> = state.expanded.iter().map(|t| (t.dim, graph.size(t.dim))).collect();
        let mut start = self.data_product;
        for &d in &dims {
            match graph.prim(d) {
                Prim::Unfold(_, window) => increases.push((d, graph.size(window))),
                Prim::Stride(_, step) => start = start.over(step),
                _ => {}
            }
        }
        increases.truncate(u64::BITS as usize);
        let above = |d: Dim| (0..increases.len()).filter(|&i| graph.depends(increases[i].0, d)).fold(0u64, |set, i| set | 1 << i);
        let mut needs: Vec<u64> = state.sums.iter().map(|&s| above(s)).collect();
        for weight in &state.weights {
            // a weight is multiplied in at once
            let all = weight.iter().fold(0, |set, &d| set | above(d));
            for (sum, need) in state.sums.iter().zip(&mut needs) {
                if weight.iter().any(|&d| graph.depends(d, *sum)) {
                    *need |= all;
                }
            }
        }
        Game {
            start: values(start),
            increases: increases.iter().map(|i| values(i.1)).collect(),
            decreases: state.sums.iter().map(|&s| values(graph.size(s))).collect(),
            needs,
        }
    }
}

/// In place of a state's distance: nothing but more sums can help.
pub(in crate::synth) const ONLY_SUMS: usize = usize::MAX;

/// Sums of which the game tries every order.
const MAX_GAME: usize = 10;
