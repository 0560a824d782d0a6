//! The space of the projections of a sequence: the slots of a transformer (Syno, its searches for ViT and GPT-2).

use super::{Axis, Shapes, Space, keep_channels, n_channel_pairs, sizes_of_slots};
use crate::error::Result;
use crate::synth::canon::Rule;
use crate::synth::options::Options;
use crate::synth::size::{Binding, Size};

impl Space {
    /// The space of replacements of a dense projection of a sequence, `[N, L, Ci]` to `[N, L, Co]`, in the given slots, with at most
    /// its parameters. Tokens are ordered and stand in no weight; unlike in an image they need not exchange anything, for a
    /// transformer's attention does that.
    ///
    /// # Errors
    /// No binding; a coefficient that has no value or divides nothing.
    pub fn of_projection(bindings: Vec<Binding>, coefficients: &[String], max_depth: usize, max_weights: usize) -> Result<Space> {
        let same_channels = keep_channels(&bindings);
        // twice a sum, thrice a weight's axis: a product of two matrices through Ci over a coefficient
        let (ci, co) = if same_channels { (7, 0) } else { (5, 2) };
        let sizes = sizes_of_slots(&bindings, vec![("N", 0), ("Ci", ci), ("Co", co), ("L", 0)], coefficients)?;
        let size = |name: &str| sizes.variables().size(name).unwrap_or(Size::ONE);
        let axis = |name: &str, unordered| Axis { size: size(name), unordered };
        let sequence = |channels| vec![axis("N", false), axis("L", false), axis(channels, true)];
        let shapes = Shapes {
            output: sequence(if same_channels { "Ci" } else { "Co" }),
            data: sequence("Ci"),
            fixed: vec![(0, 0)],
            places: vec![1],
            channels: Some((2, 2)),
        };
        let max_params = bindings.iter().map(n_channel_pairs).collect();
        let mut options = Options { depth: max_depth, tensors: max_weights + 1, ..Options::coarse() };
        options.off = options.off.with(&[Rule::NoExchange]);
        Ok(Space { max_params, ..Space::new(shapes, sizes, bindings, options)? })
    }
}
