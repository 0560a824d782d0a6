//! The space of operators of one request: which actions a state has, and which operators it finishes to (Syno, sections 4
//! and 5).

mod actions;
mod count;
mod finish;
pub(super) mod judge;
mod projection;

pub use actions::{Arc, Child, Kind};
pub use count::{Count, Level};

use super::canon::{Local, Refusals, Rule};
use super::distance::{self, Memo, Target, Wanted};
use super::graph::{Dim, Graph};
use super::legal::{Divisors, Kind as SizeKind, Ratio, Sizes};
use super::options::Options;
use super::partial::{Action, Partial, Top};
use super::prim::Prim;
use super::size::{Binding, Size, Variables};
use crate::error::{Result, invalid};

/// One axis of the output or the data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Axis {
    pub size: Size,
    /// Its elements have no order of their own (channels).
    pub unordered: bool,
}

/// The shapes that an operator joins.
#[derive(Clone, Debug)]
pub struct Shapes {
    pub output: Vec<Axis>,
    pub data: Vec<Axis>,
    /// Axes of the data that are axes of the output, not searched (the batch): (data's, output's).
    pub fixed: Vec<(usize, usize)>,
    /// The output's axes that are places of an image or a sequence.
    pub places: Vec<usize>,
    /// The channels: (data's axis, output's axis).
    pub channels: Option<(usize, usize)>,
}

/// What operators are asked for, and what is known of the answer so far.
#[derive(Clone, Debug)]
pub struct Space {
    pub shapes: Shapes,
    pub options: Options,
    /// One per distinct slot; an operator must be legal under all of them.
    pub bindings: Vec<Binding>,
    /// Elements of all weights, per binding.
    pub max_params: Vec<u64>,
    /// Every refusal so far.
    pub refused: Refusals,
    pub(super) sizes: Sizes,
    pub(super) graph: Graph,
    pub(super) outputs: Vec<Dim>,
    /// Places along which the data are longer than the output, and how many times.
    pub(super) steps: Vec<(Dim, Size)>,
    /// The data's searched axes.
    pub(super) wanted: Vec<Axis>,
    divisors: Divisors,
    pub(super) free: Vec<Size>,
    /// The sizes of the data's searched axes, and these times and over what is free and small; sorted.
    pub(super) near: Vec<Size>,
    target: Target,
    distances: Memo,
    /// The product of the data's searched axes, and of all its axes.
    pub(super) wanted_product: Size,
    data_product: Size,
    /// Where children are grown.
    scratch: Partial,
    /// What the distance is asked of.
    current: Vec<distance::Axis>,
}

impl Space {
    /// # Errors
    /// Fixed axes that are not there or not equal.
    pub fn new(shapes: Shapes, sizes: Sizes, bindings: Vec<Binding>, options: Options) -> Result<Space> {
        for &(i, o) in &shapes.fixed {
            let pair = (shapes.data.get(i).map(|a| a.size), shapes.output.get(o).map(|a| a.size));
            if pair.0.is_none() || pair.0 != pair.1 {
                return invalid(format!("axis {i} of the data cannot be axis {o} of the output: one is missing or their sizes differ"));
            }
        }
        let mut graph = Graph::new(sizes.variables().clone());
        let outputs: Vec<Dim> = shapes.output.iter().enumerate().map(|(i, a)| graph.leaf(Prim::Output(i as u8), a.size)).collect();
        let is_fixed = |i: &usize| shapes.fixed.iter().any(|f| f.0 == *i);
        let wanted: Vec<Axis> = (0..shapes.data.len()).filter(|i| !is_fixed(i)).map(|i| shapes.data[i]).collect();
        let product = |axes: &[Axis]| axes.iter().fold(Size::ONE, |p, a| p.times(a.size));
        let step = |&place: &usize| {
            let d = *outputs.get(place)?;
            let longer = wanted.iter().map(|a| a.size.over(graph.size(d))).filter(|&s| sizes.kind(s) == SizeKind::Coefficient);
            longer.min().map(|step| (d, step))
        };
        let steps = shapes.places.iter().filter_map(step).collect();
        let (wanted_product, data_product) = (product(&wanted), product(&shapes.data));
        let free = sizes.free(&sizes.allowance());
        let target = Target::new(wanted.iter().map(|a| Wanted { size: a.size, unordered: a.unordered }).collect());
        let small: Vec<Size> = free.iter().copied().filter(|s| s.is_coefficient(sizes.variables())).chain([Size::ONE]).collect();
        let mut near: Vec<Size> = wanted.iter().flat_map(|a| small.iter().flat_map(|s| [a.size.times(*s), a.size.over(*s)])).collect();
        near.sort();
        near.dedup();
        let max_params = vec![u64::MAX; bindings.len()];
        let scratch = Partial::root(vec![], sizes.allowance());
        Ok(Space {
            shapes,
            options,
            bindings,
            max_params,
            refused: Refusals::default(),
            sizes,
            graph,
            outputs,
            steps,
            wanted,
            divisors: Divisors::default(),
            free,
            near,
            target,
            distances: Memo::default(),
            wanted_product,
            data_product,
            scratch,
            current: vec![],
        })
    }

    /// The space of replacements of a 3×3 convolution in the given slots, with at most its parameters. Where bindings give
    /// [`STEP`] a value, and it is none of the coefficients, it is the slot's stride.
    ///
    /// # Errors
    /// No binding; a coefficient that has no value or divides nothing.
    pub fn of_conv(bindings: Vec<Binding>, coefficients: &[String], max_depth: usize, max_weights: usize) -> Result<Space> {
        // where every slot keeps its channels, Ci and Co are one variable, used as often as both, and depthwise weights become possible
        let same_channels = keep_channels(&bindings);
        let (ci, co) = if same_channels { (4, 0) } else { (2, 2) };
        let mut most = vec![("N", 0), ("Ci", ci), ("Co", co), ("H", 0), ("W", 0)];
        let strided = bindings.iter().any(|b| b.0.contains_key(STEP)) && !coefficients.iter().any(|c| c == STEP);
        if strided {
            most.push((STEP, STEP_USES));
        }
        let sizes = sizes_of_slots(&bindings, most, coefficients)?;
        let size = |name: &str| sizes.variables().size(name).unwrap_or(Size::ONE);
        let axis = |size: Size, unordered| Axis { size, unordered };
        let image = |channels, times: Size| {
            let [h, w] = ["H", "W"].map(|side| axis(size(side).times(times), false));
            vec![axis(size("N"), false), axis(size(channels), true), h, w]
        };
        let shapes = Shapes {
            output: image(if same_channels { "Ci" } else { "Co" }, Size::ONE),
            data: image("Ci", if strided { size(STEP) } else { Size::ONE }),
            fixed: vec![(0, 0)],
            places: vec![2, 3],
            channels: Some((1, 1)),
        };
        let max_params = bindings.iter().map(|b| 9 * n_channel_pairs(b)).collect();
        let mut options = Options { depth: max_depth, tensors: max_weights + 1, ..Options::coarse() };
        if strided {
            options.most.strides += shapes.places.len();
        }
        Ok(Space { max_params, ..Space::new(shapes, sizes, bindings, options)? })
    }

    pub fn variables(&self) -> &Variables {
        self.sizes.variables()
    }

    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    pub fn sizes(&self) -> &Sizes {
        &self.sizes
    }

    /// The step by which a place is to be strided; `None` for what is no place, or as long as the data.
    pub(super) fn step_of(&self, place: Dim) -> Option<Size> {
        self.steps.iter().find(|s| s.0 == place).map(|s| s.1)
    }

    /// Is it a place strided as the data ask for? Windows as large as the step read all that it passes over.
    pub(super) fn is_strided(&self, d: Dim) -> bool {
        matches!(self.graph.prim(d), Prim::Stride(place, step) if self.step_of(place) == Some(step))
    }

    /// The state before any action.
    pub fn root(&mut self) -> Partial {
        let is_fixed = |o: usize| self.shapes.fixed.iter().any(|f| f.1 == o);
        let searched = self.outputs.iter().enumerate().filter(|(o, _)| !is_fixed(*o));
        let tops = searched.map(|(o, &d)| Top::output(&self.graph, d, self.shapes.output[o].unordered)).collect();
        let mut root = Partial::root(tops, self.sizes.allowance());
        root.steps = self.judge(&root).unwrap_or(0);
        root
    }

    pub(super) fn local<'a>(&'a mut self, state: &'a Partial) -> Local<'a> {
        Local {
            graph: &self.graph,
            sizes: &self.sizes,
            divisors: &mut self.divisors,
            free: &self.free,
            steps: &self.steps,
            options: &self.options,
            data: self.wanted_product,
            state,
        }
    }

    /// May the action be taken here, whatever its state can still become?
    ///
    /// # Errors
    /// The rule that refuses it.
    pub fn check(&mut self, state: &Partial, action: &Action) -> std::result::Result<(), Rule> {
        self.local(state).check(action)
    }

    /// The state after an action.
    ///
    /// # Errors
    /// The rule that refuses the action, or the state that it leads to.
    pub fn child(&mut self, state: &Partial, action: &Action) -> std::result::Result<Partial, Rule> {
        let child = self.try_child(state, action);
        if let Err(rule) = child {
            self.refused.count(rule);
        }
        child
    }

    pub(super) fn try_child(&mut self, state: &Partial, action: &Action) -> std::result::Result<Partial, Rule> {
        self.check(state, action)?;
        self.grown(state, action, None)
    }

    /// The same for whoever comes to the same states again and again, under the same options.
    pub(super) fn known_child(&mut self, state: &Partial, action: &Action, known: &mut Judged) -> std::result::Result<Partial, Rule> {
        self.check(state, action).and_then(|()| self.grown(state, action, Some(known))).inspect_err(|&rule| self.refused.count(rule))
    }

    /// The state after an action that was checked.
    fn grown(&mut self, state: &Partial, action: &Action, known: Option<&mut Judged>) -> std::result::Result<Partial, Rule> {
        // most children are refused: they are grown in one place, and only those that stay are copied
        let mut child = std::mem::replace(&mut self.scratch, Partial::root(vec![], state.allowance));
        child.clone_from(state);
        let grown = child.grow(&mut self.graph, &self.sizes, action).ok_or(Rule::Gone);
        if let Action::Unfold(main, window) = *action
            && let Prim::Stride(_, step) = self.graph.prim(main)
            && self.is_strided(main)
            && self.sizes.at_least(self.graph.size(window).over(step), Ratio(1, 1))
        {
            let unfold = self.graph.make(Prim::Unfold(main, window));
            child.frontier.iter_mut().filter(|t| t.dim == unfold).for_each(|t| t.discards = false);
        }
        let judge = |()| match known {
            Some(known) => *known.entry(child.key()).or_insert_with(|| self.judge(&child)),
            None => self.judge(&child),
        };
        let judged = grown.and_then(judge).map(|steps| {
            child.steps = steps;
            child.clone()
        });
        self.scratch = child;
        judged
    }
}

/// Does every slot keep its channels?
fn keep_channels(bindings: &[Binding]) -> bool {
    bindings.iter().all(|b| b.0.get("Ci") == b.0.get("Co"))
}

/// Parameters of a dense projection.
fn n_channel_pairs(binding: &Binding) -> u64 {
    ["Ci", "Co"].iter().map(|n| binding.0.get(*n).copied().unwrap_or(1) as u64).product()
}

/// What may be drawn for the slots of a network: each variable at most so often, and the coefficients.
fn sizes_of_slots<'a>(bindings: &[Binding], mut most: Vec<(&'a str, u8)>, coefficients: &'a [String]) -> Result<Sizes> {
    if bindings.is_empty() {
        return invalid("no slot to fill: name at least one in [slots]");
    }
    most.extend(coefficients.iter().map(|c| (c.as_str(), COEFFICIENT_USES)));
    let mut sizes = Sizes::new(&most, bindings)?;
    (sizes.max_variables, sizes.max_powers, sizes.n_per_variable) = (3, 4, 3);
    Ok(sizes)
}

/// What [`Space`] said of states, by their keys.
pub(super) type Judged = super::Folded<u128, std::result::Result<usize, Rule>>;

/// The stride of a slot: how many times as long as the output's the sides of the data's image are.
pub const STEP: &str = "r";

/// Once for each side of the image.
const STEP_USES: u8 = 2;

/// Times that one of our operators may divide or multiply by one coefficient.
const COEFFICIENT_USES: u8 = 3;
