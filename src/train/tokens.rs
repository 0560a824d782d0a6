//! A transformer's own layers in libtorch, on sequences `[n, t, c]`.

use super::backbone::Op;
use tch::{Kind, TchError, Tensor};

const EPSILON: f64 = 1e-5;

/// The value of a layer of sequences; `None` for any other layer. `variable` gives the layer's own by their names.
pub(super) fn forward<'a>(op: &Op, x: &Tensor, variable: impl Fn(&str) -> &'a Tensor) -> Result<Option<Tensor>, TchError> {
    Ok(Some(match *op {
        Op::Tokens => x.f_flatten(2, 3)?.f_transpose(1, 2)?.f_add(&variable("weight").to_kind(x.kind()))?,
        Op::LayerNorm => {
            let (weight, bias) = (variable("weight"), variable("bias"));
            // statistics of few channels lose too much in bf16
            let y = x.to_kind(Kind::Float).f_layer_norm(weight.size(), Some(weight), Some(bias), EPSILON, true)?;
            y.to_kind(x.kind())
        }
        Op::Attention { n_heads } => {
            let size = x.size();
            let (n, t, c) = (size[0], size[1], size[2] / 3);
            let parts = x.f_view([n, t, 3, n_heads, c / n_heads])?.f_permute([2, 0, 3, 1, 4])?;
            let part = |i: i64| parts.f_select(0, i);
            let y = Tensor::f_scaled_dot_product_attention(&part(0)?, &part(1)?, &part(2)?, None::<&Tensor>, 0.0, false, None, false)?;
            y.f_transpose(1, 2)?.f_reshape([n, t, c])?
        }
        Op::GlobalAvgPool if x.dim() == 3 => x.f_mean_dim(&[1i64][..], false, Kind::Float)?,
        _ => return Ok(None),
    }))
}
