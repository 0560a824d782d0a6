//! A loop nest in libtorch, differentiable by autograd, on whatever device its inputs live.

use super::loops::{Function, LoopNest};
use super::plan::{Plan, Step};
use super::positions::{gathered, mask};
use crate::error::{Error, Result, invalid};
use tch::{Device, Kind, Tensor};

/// An operator as libtorch calls, made once and run often.
pub struct TorchOp {
    plan: Plan,
    /// Shapes of inputs and weights, in the nest's order.
    parameters: Vec<Vec<i64>>,
    /// Constant tensors (indices, masks) by step, on the CPU.
    constants: Vec<Option<Tensor>>,
}

fn failed(e: tch::TchError) -> Error {
    Error::Library(format!("libtorch: {e}; lower with `--to loops` to see what was asked of it"))
}

impl TorchOp {
    /// Plans a nest. Errors: an index outside its tensor; a product over more than 52 loops.
    pub fn new(nest: &LoopNest) -> Result<TorchOp> {
        let plan = Plan::new(nest)?;
        let mut parameters = Vec::new();
        let mut constants = Vec::new();
        for (step, shape) in plan.steps.iter().zip(&plan.shapes) {
            constants.push(match step {
                Step::Parameter(_) => {
                    parameters.push(shape.clone());
                    None
                }
                Step::Gather { x, axis, loops, index } => {
                    Some(Tensor::from_slice(&gathered(loops, index, plan.shapes[*x][*axis as usize])))
                }
                Step::Mask { loops, guards } => Some(Tensor::from_slice(&mask(loops, guards)).f_view(&shape[..]).map_err(failed)?),
                Step::Const(c) => Some(Tensor::from(*c)),
                _ => None,
            });
        }
        Ok(TorchOp { plan, parameters, constants })
    }

    /// The steps it runs, for people and tests.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The output for inputs, then weights, in the nest's order, each of its tensor's shape. The result has the output's shape
    /// and the arguments' dtype and device. Errors: wrong number or shapes; what libtorch refuses.
    pub fn forward(&self, arguments: &[&Tensor]) -> Result<Tensor> {
        if arguments.len() != self.parameters.len() {
            return invalid(format!(
                "the operator takes {} tensors, {} given: pass every input and weight in order",
                self.parameters.len(),
                arguments.len()
            ));
        }
        for (a, shape) in arguments.iter().zip(&self.parameters) {
            if a.size() != *shape {
                return invalid(format!(
                    "a tensor of shape {:?} was given where {shape:?} is expected: pass inputs, then weights, in the nest's order",
                    a.size()
                ));
            }
        }
        let (device, kind) = arguments.first().map_or((Device::Cpu, Kind::Float), |a| (a.device(), a.kind()));
        let mut values: Vec<Tensor> = Vec::with_capacity(self.plan.steps.len());
        for (i, step) in self.plan.steps.iter().enumerate() {
            let constant = || match &self.constants[i] {
                Some(c) => c.to_device(device),
                None => Tensor::new(),
            };
            let value = run(step, &values, arguments, kind, constant).map_err(failed)?;
            values.push(value);
        }
        Ok(values.swap_remove(self.plan.result))
    }
}

/// The output of a nest for row-major inputs and weights, on the CPU without gradients. Errors: as [`TorchOp::new`].
pub fn evaluate(nest: &LoopNest, arguments: &[&[f32]]) -> Result<Vec<f32>> {
    let op = TorchOp::new(nest)?;
    let tensors = arguments
        .iter()
        .zip(&op.parameters)
        .map(|(a, shape)| Tensor::from_slice(a).f_view(&shape[..]).map_err(failed))
        .collect::<Result<Vec<_>>>()?;
    let out = tch::no_grad(|| op.forward(&tensors.iter().collect::<Vec<_>>()))?;
    Vec::try_from(out.contiguous().view(-1)).map_err(failed)
}

fn run(step: &Step, values: &[Tensor], arguments: &[&Tensor], kind: Kind, constant: impl Fn() -> Tensor) -> Result<Tensor, tch::TchError> {
    let at = |x: &usize| &values[*x];
    Ok(match step {
        Step::Parameter(i) => arguments[*i].shallow_clone(),
        Step::Const(_) | Step::Mask { .. } => constant().to_kind(kind),
        Step::Reshape { x, shape } => at(x).f_reshape(&shape[..])?,
        Step::Permute { x, order } => at(x).f_permute(&order[..])?,
        Step::Expand { x, shape } => at(x).f_expand(&shape[..], false)?,
        Step::Pad { x, axis, before, after } => {
            let mut widths = vec![0; 2 * (at(x).dim() - *axis as usize)];
            let n = widths.len();
            widths[n - 2] = *before;
            widths[n - 1] = *after;
            at(x).f_constant_pad_nd(&widths[..])?
        }
        Step::Slice { x, axis, start, len, step } => at(x).f_slice(*axis, *start, start + (len - 1) * step + 1, *step)?,
        Step::Unfold { x, axis, size, step } => at(x).f_unfold(*axis, *size, *step)?,
        Step::Roll { x, axis, by } => at(x).f_roll([*by], [*axis])?,
        Step::Gather { x, axis, .. } => at(x).f_index_select(*axis, &constant())?,
        Step::Conv { x, weight, stride, padding, dilation, groups } => {
            at(x).f_conv2d(at(weight), None::<Tensor>, &stride[..], &padding[..], &dilation[..], *groups)?
        }
        Step::Einsum { formula, xs } => {
            let operands: Vec<&Tensor> = xs.iter().map(at).collect();
            Tensor::f_einsum(formula, &operands, None::<&[i64]>)?
        }
        Step::Sum { x, axes } => at(x).f_sum_dim_intlist(&axes[..], false, None)?,
        Step::Greatest { x, axes } => at(x).f_amax(&axes[..], false)?,
        Step::Scale { x, by } => at(x).f_mul_scalar(*by)?,
        Step::Add { a, b } => at(a).f_add(at(b))?,
        Step::Mul { a, b } => at(a).f_mul(at(b))?,
        Step::Max { a, b } => at(a).f_maximum(at(b))?,
        Step::AtLeast { x, least } => at(x).f_clamp_min(f64::from(*least))?,
        Step::Apply { x, function } => match function {
            Function::Exp => at(x).f_exp()?,
            Function::Reciprocal => at(x).f_reciprocal()?,
            Function::Rsqrt => at(x).f_rsqrt()?,
        },
        Step::OrLowest { x, mask } => {
            let lowest = Tensor::from(f64::NEG_INFINITY).to_kind(kind).to_device(at(x).device());
            at(x).f_where_self(&at(mask).f_gt(0.0)?, &lowest)?
        }
    })
}
