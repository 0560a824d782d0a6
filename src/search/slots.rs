//! The slots of a spec's backbone, and models with an operator in them.

use super::model::{self, Model};
use crate::error::{Error, Result, invalid};
use crate::lower::{self, LoopNest};
use crate::spec::{Layers, Spec};
use crate::synth::space::STEP;
use crate::synth::{Binding, Operator, Space};
use crate::train::DataSet;
use crate::train::backbone::{Backbone, Kind, Slot};
use std::collections::BTreeMap;

/// The slots of a spec's backbone, and which of them are filled.
pub struct Slots {
    pub backbone: Backbone,
    pub slots: Vec<Slot>,
    pub replaced: Vec<bool>,
    coefficients: BTreeMap<String, u32>,
    /// Some slot to fill has a stride: operators have a coefficient [`STEP`].
    strided: bool,
}

impl Slots {
    /// # Errors
    /// A backbone that does not fit the data, or as [`Slots::new`].
    pub fn of(spec: &Spec) -> Result<Slots> {
        let set = DataSet::named(spec.data.name.name())?;
        let backbone = Backbone::named(spec.backbone.name.name(), i64::from(spec.backbone.width), set.input(), set.n_classes())?;
        Slots::new(backbone, spec)
    }

    /// The slots of another backbone than the spec's.
    ///
    /// # Errors
    /// A slot name that it does not have; a coefficient named [`STEP`] where that is the stride.
    pub fn new(backbone: Backbone, spec: &Spec) -> Result<Slots> {
        let slots = backbone.slots();
        let replaced = match &spec.slots.layers {
            Layers::All => vec![true; slots.len()],
            Layers::Named(names) => {
                if let Some(unknown) = names.iter().find(|n| !slots.iter().any(|s| s.name == **n)) {
                    let known: Vec<_> = slots.iter().map(|s| s.name.as_str()).collect();
                    return invalid(format!("[slots] layers: {} has no slot {unknown:?}: use some of {}", backbone.name, known.join(", ")));
                }
                slots.iter().map(|s| names.contains(&s.name)).collect()
            }
        };
        let coefficients = spec.operator.coefficients.clone();
        let strided = slots.iter().zip(&replaced).any(|(slot, replaced)| *replaced && slot.stride > 1);
        if strided && coefficients.contains_key(STEP) {
            return invalid(format!("[operator] coefficients: {STEP} is the stride of each slot here: give yours another name"));
        }
        Ok(Slots { backbone, slots, replaced, coefficients, strided })
    }

    /// The variables' values in one slot.
    pub fn binding(&self, slot: &Slot, batch: i64) -> Binding {
        let binding = model::binding(slot, batch, &self.coefficients);
        if self.strided { binding.with(STEP, slot.stride) } else { binding }
    }

    /// The distinct bindings of the slots to fill.
    pub fn bindings(&self, batch: i64) -> Vec<Binding> {
        let mut all: Vec<Binding> = self.filled().map(|s| self.binding(s, batch)).collect();
        all.sort();
        all.dedup();
        all
    }

    pub(super) fn filled(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().zip(&self.replaced).filter(|(_, r)| **r).map(|(s, _)| s)
    }

    /// The space of operators for these slots.
    ///
    /// # Errors
    /// No slot, slots of two kinds, or more coefficients than sizes can name.
    pub fn space(&self, spec: &Spec) -> Result<Space> {
        let names: Vec<String> = self.coefficients.keys().cloned().collect();
        let mut kinds = self.filled().map(|s| s.kind);
        let kind = kinds.next().unwrap_or(Kind::Conv);
        if kinds.any(|k| k != kind) {
            return invalid("[slots] layers: some are convolutions, others projections, and no operator fills both: name one sort");
        }
        let of = match kind {
            Kind::Conv => Space::of_conv,
            Kind::Projection => Space::of_projection,
        };
        let mut space = of(self.bindings(1), &names, spec.operator.max_depth as usize, spec.operator.max_weights as usize)?;
        for most in &mut space.max_params {
            *most = (*most as f64 * spec.budget.params_ratio) as u64;
        }
        Ok(space)
    }

    /// The whole model with an operator in the slots to fill; `None` for the original.
    ///
    /// # Errors
    /// A size that does not divide in some slot (the slot is named).
    pub fn model(&self, operator: Option<&Operator>, batch: i64) -> Result<Model> {
        Model::new(&self.backbone, &|slot| self.operator_at(operator, slot, batch), batch)
    }

    pub(super) fn operator_at(&self, operator: Option<&Operator>, slot: &Slot, batch: i64) -> Option<(Operator, Binding)> {
        let place = self.slots.iter().position(|s| s == slot)?;
        operator.filter(|_| self.replaced[place]).map(|o| (o.clone(), self.binding(slot, batch)))
    }

    /// One bare nest per slot: what is trained, and what libtorch runs.
    ///
    /// # Errors
    /// As [`Slots::model`].
    pub fn nests(&self, operator: Option<&Operator>, batch: i64) -> Result<Vec<LoopNest>> {
        let nest = |slot: &Slot| match self.operator_at(operator, slot, batch) {
            Some((operator, binding)) => lower::lower(&operator, &binding),
            None => Ok(model::original(slot, batch)),
        };
        self.slots.iter().map(|s| nest(s).map_err(|e| Error::Invalid(format!("slot {}: {e}", s.name)))).collect()
    }

    /// Elements that libtorch moves in the slots to fill, forwards.
    ///
    /// # Errors
    /// As [`Slots::model`].
    pub fn n_moved(&self, operator: Option<&Operator>, batch: i64) -> Result<u64> {
        let of = |(slot, names): (&Slot, Vec<String>)| {
            let nest = match self.operator_at(operator, slot, batch) {
                Some((operator, binding)) => lower::lower(&operator, &binding)?,
                None => model::original(slot, batch),
            };
            Ok(names.len() as u64 * lower::plan::Plan::new(&nest)?.n_moved())
        };
        self.shapes().into_iter().map(of).sum()
    }

    /// The distinct shapes of the slots to fill, with the names of the slots that have each.
    pub(super) fn shapes(&self) -> Vec<(&Slot, Vec<String>)> {
        let mut shapes: Vec<(&Slot, Vec<String>)> = Vec::new();
        for slot in self.filled() {
            let same = |s: &Slot| (s.input(1), s.output(1)) == (slot.input(1), slot.output(1));
            match shapes.iter_mut().find(|(s, _)| same(s)) {
                Some((_, names)) => names.push(slot.name.clone()),
                None => shapes.push((slot, vec![slot.name.clone()])),
            }
        }
        shapes
    }
}
