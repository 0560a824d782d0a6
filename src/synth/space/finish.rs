//! From a state to finished operators: the frontier matched with the data's axes (Syno, section 5).

use super::Space;
use crate::synth::canon::{self, Rule};
use crate::synth::graph::{Dim, Graph};
use crate::synth::operator::Operator;
use crate::synth::partial::{Action, Partial};
use crate::synth::prim::Prim;

impl Space {
    /// The operators that a state finishes to, one per way to match its dims with the data's axes.
    pub fn finals(&mut self, state: &Partial) -> Vec<(Action, Operator)> {
        let mut found = Vec::new();
        for data in self.matches(state) {
            if found.len() >= self.options.max_finals {
                break;
            }
            match self.finish(state, &data) {
                Ok(operator) => found.push((Action::Finish(data), operator)),
                Err(rule) => self.refused.count(rule),
            }
        }
        found
    }

    /// Every order of the frontier that has the sizes of the data's searched axes.
    pub(in crate::synth) fn matches(&self, state: &Partial) -> Vec<Vec<Dim>> {
        let mut orders = vec![vec![]];
        if state.frontier.len() != self.wanted.len() {
            return vec![];
        }
        for axis in &self.wanted {
            let mut longer: Vec<Vec<Dim>> = Vec::new();
            for order in &orders {
                for top in state.frontier.iter().filter(|t| self.graph.size(t.dim) == axis.size && !order.contains(&t.dim)) {
                    longer.push(order.iter().copied().chain([top.dim]).collect());
                }
            }
            orders = longer;
        }
        orders
    }

    /// The operator whose data tensor has the frontier's dims in this order.
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn finish(&mut self, state: &Partial, data: &[Dim]) -> Result<Operator, Rule> {
        let off = self.options.off;
        let holds = |rule: Rule, broken: bool| if broken && !off.contains(rule) { Err(rule) } else { Ok(()) };
        let fits = data.len() == self.wanted.len()
            && data.len() == state.frontier.len()
            && data.iter().zip(&self.wanted).all(|(&d, a)| state.top(d).is_some() && self.graph.size(d) == a.size);
        if !fits {
            return Err(Rule::Distance);
        }
        holds(Rule::Discards, state.frontier.iter().any(|t| t.discards))?;
        holds(Rule::NoWeight, state.weights.is_empty())?;
        let becomes: Vec<(Dim, usize)> = data.iter().enumerate().filter(|(i, _)| self.wanted[*i].unordered).map(|(i, &d)| (d, i)).collect();
        holds(Rule::Unordered, !canon::unordered(&self.graph, state, &becomes))?;
        self.check_pooling(state)?;
        self.structure(state, data)?;
        let operator = self.operator(state, data).ok_or(Rule::NotLegal)?;
        if !off.contains(Rule::Parameters) {
            for (binding, &most) in self.bindings.iter().zip(&self.max_params) {
                match operator.n_params(binding) {
                    Ok(n) if n <= most => {}
                    Ok(_) => return Err(Rule::Parameters),
                    Err(_) => return Err(Rule::SizeDoesNotDivide),
                }
            }
        }
        Ok(operator)
    }

    /// What a finished operator must be to be worth a training; each test is a rule that can be switched off.
    fn structure(&self, state: &Partial, data: &[Dim]) -> Result<(), Rule> {
        let off = self.options.off;
        let (graph, variables) = (&self.graph, self.sizes.variables());
        let holds = |rule: Rule, broken: &dyn Fn() -> bool| if !off.contains(rule) && broken() { Err(rule) } else { Ok(()) };
        let below = |d: Dim, leaf: Dim| graph.depends(d, leaf);
        let n_weights = |sum: Dim| state.weights.iter().filter(|w| w.iter().any(|&d| below(d, sum))).count();
        let in_data = |leaf: Dim| data.iter().any(|&d| below(d, leaf));
        holds(Rule::SumOfOneWeight, &|| state.sums.iter().any(|&s| !in_data(s) && n_weights(s) < 2))?;
        holds(Rule::Blur, &|| {
            let window = |s: Dim| data.iter().any(|&d| matches!(graph.prim(d), Prim::Unfold(_, w) if w == s));
            state.sums.iter().any(|&s| n_weights(s) == 0 && graph.size(s).is_coefficient(variables) && window(s))
        })?;
        holds(Rule::WeightInWeight, &|| {
            let within = |i: usize, j: usize| i != j && state.weights[i].iter().all(|d| state.weights[j].contains(d));
            (0..state.weights.len()).any(|i| (0..state.weights.len()).any(|j| within(i, j)))
        })?;
        holds(Rule::WeightReshaped, &|| {
            let twins =
                |w: &[Dim], x: Dim| matches!(graph.prim(x), Prim::Outer(y, n) if w.iter().any(|&e| graph.prim(e) == Prim::Inner(y, n)));
            state.weights.iter().any(|w| w.iter().any(|&d| twins(w, d)))
        })?;
        holds(Rule::NoExchange, &|| !self.shapes.places.is_empty() && self.n_moved(data) == 0)?;
        let Some((_, channel)) = self.shapes.channels else { return Ok(()) };
        let channel = self.outputs[channel];
        let read = || in_data(channel) || n_weights(channel) > 0;
        holds(Rule::SameOutput, &|| !read())?;
        // a weight with the output's channel and only small sums gives every channel one of a few combinations
        holds(Rule::SmallMix, &|| {
            let small = |&d: &Dim| {
                let large = |b: Dim| matches!(graph.prim(b), Prim::Reduce(_)) && !graph.size(b).is_coefficient(variables);
                !graph.below(d).into_iter().any(large)
            };
            let reading = state.weights.iter().filter(|w| w.iter().any(|&d| below(d, channel)));
            !in_data(channel) && reading.clone().all(|w| w.iter().all(small))
        })?;
        holds(Rule::NoMix, &|| {
            let large = |&s: &Dim| !graph.size(s).is_coefficient(variables);
            let (i, o) = self.shapes.channels.unwrap_or((0, 0));
            !state.sums.iter().any(large) && self.shapes.output[o].size != self.shapes.data[i].size
        })
    }

    /// How many of the output's places are not simply read as they are.
    pub(in crate::synth) fn n_moved(&self, data: &[Dim]) -> usize {
        self.shapes.places.iter().filter(|&&place| self.moves(&self.graph, data, self.outputs[place])).count()
    }

    /// Do the data's dims read the place in every slot otherwise than as it is? A stride alone does not, nor a Split with as
    /// many blocks or as large ones as the step, which may be 1.
    pub fn moves(&self, graph: &Graph, data: &[Dim], place: Dim) -> bool {
        let step = self.steps.iter().find(|s| self.graph.prim(s.0) == graph.prim(place)).map(|s| s.1);
        let stays = |d: Dim| match graph.prim(d) {
            Prim::Stride(x, by) => x == place && Some(by) == step,
            Prim::Split(l, r) => l == place && Some(graph.size(r)) == step || r == place && Some(graph.size(l)) == step,
            _ => d == place,
        };
        data.iter().any(|&d| graph.depends(d, place) && !stays(d))
    }

    /// The operator, in an arena of its own; `None` where it is not legal.
    fn operator(&self, state: &Partial, data: &[Dim]) -> Option<Operator> {
        let mut whole: Vec<Dim> = Vec::with_capacity(self.shapes.data.len());
        let mut rest = data.iter();
        for i in 0..self.shapes.data.len() {
            let fixed = self.shapes.fixed.iter().find(|f| f.0 == i).map(|f| self.outputs[f.1]);
            whole.push(match fixed {
                Some(d) => d,
                None => *rest.next()?,
            });
        }
        let mut graph = Graph::new(self.graph.variables().clone());
        let mut known: Vec<(Dim, Dim)> = Vec::new();
        for &d in &self.outputs {
            known.push((d, graph.leaf(self.graph.prim(d), self.graph.size(d))));
        }
        let mut dims = state.dims(&self.graph);
        dims.reverse();
        for d in dims {
            if known.iter().any(|k| k.0 == d) {
                continue;
            }
            let at = |x: Dim| known.iter().find(|k| k.0 == x).map(|k| k.1);
            let copy = match self.graph.prim(d) {
                leaf @ (Prim::Output(_) | Prim::Reduce(_)) => graph.leaf(leaf, self.graph.size(d)),
                Prim::Split(l, r) => graph.make(Prim::Split(at(l)?, at(r)?)),
                Prim::Outer(x, block) => graph.make(Prim::Outer(at(x)?, block)),
                Prim::Inner(x, block) => graph.make(Prim::Inner(at(x)?, block)),
                Prim::Shift(x) => graph.make(Prim::Shift(at(x)?)),
                Prim::Stride(x, step) => graph.make(Prim::Stride(at(x)?, step)),
                Prim::Unfold(main, window) => graph.make(Prim::Unfold(at(main)?, at(window)?)),
            };
            known.push((d, copy));
        }
        let all = |list: &[Dim]| list.iter().map(|d| known.iter().find(|k| k.0 == *d).map(|k| k.1)).collect::<Option<Vec<Dim>>>();
        let weights = state.weights.iter().map(|w| all(w)).collect::<Option<Vec<_>>>()?;
        Operator::new(graph, all(&self.outputs)?, all(&state.sums)?, all(&whole)?, weights).ok()
    }
}
