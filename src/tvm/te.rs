//! Tensor expressions: index arithmetic in int32 (as TVM's Python makes them), values in float32.

use super::ffi::{NONE, array, cast, text};
use crate::call;
use crate::error::Result;
use tvm_ffi::{Any, DLDataType, DLDataTypeCode};

/// A scalar expression, a tensor, a loop variable: any TVM node.
pub type Node = Any;

const INT32: DLDataType = DLDataType { code: DLDataTypeCode::kDLInt as u8, bits: 32, lanes: 1 };
const FLOAT32: DLDataType = DLDataType { code: DLDataTypeCode::kDLFloat as u8, bits: 32, lanes: 1 };

/// One loop of a compute: the iteration variable and the expression that stands for it.
pub struct Iter {
    pub iter: Node,
    pub var: Node,
}

pub fn int(value: i64) -> Result<Node> {
    call!("ir.IntImm", INT32, value, NONE)
}

pub fn float(value: f32) -> Result<Node> {
    call!("ir.FloatImm", FLOAT32, f64::from(value), NONE)
}

fn loop_of(name: &str, extent: i64, kind: i64) -> Result<Iter> {
    let var = call!("ir.Var", text(name), call!("ir.PrimType", INT32)?, NONE)?;
    let range = call!("ir.Range_from_min_extent", int(0)?, int(extent)?, NONE)?;
    let iter = call!("tirx.IterVar", range, var, kind, text(""), NONE)?;
    Ok(Iter { iter, var })
}

/// A loop over an axis of the output.
pub fn axis(name: &str, extent: i64) -> Result<Iter> {
    loop_of(name, extent, 0)
}

/// A loop that is reduced over.
pub fn reduce_axis(name: &str, extent: i64) -> Result<Iter> {
    loop_of(name, extent, 2)
}

pub fn add(a: &Node, b: &Node) -> Result<Node> {
    call!("prim._OpAdd", *a, *b, NONE)
}

pub fn mul(a: &Node, b: &Node) -> Result<Node> {
    call!("prim._OpMul", *a, *b, NONE)
}

pub fn max(a: &Node, b: &Node) -> Result<Node> {
    call!("prim._OpMax", *a, *b, NONE)
}

pub fn div(a: &Node, b: &Node) -> Result<Node> {
    call!("prim._OpDiv", *a, *b, NONE)
}

/// eˣ to 3·10⁻⁷ of itself, from sums and products only, so that it becomes vectors; TVM's own is a call for each element. 0 below
/// −87, where float32 has hardly more than its least normal number left; infinite above 88.72; of a NaN a NaN. Cody and Waite's
/// reduction to |r| ≤ ln 2 / 2 with the polynomial of the Cephes library (Moshier, `expf`).
pub fn exp(x: &Node) -> Result<Node> {
    const LEAST: f32 = -87.0;
    const MOST: f32 = 88.722_83;
    /// ln 2 in two parts, the first of few bits.
    const LN_2: (f32, f32) = (0.693_359_4, -2.121_944_4e-4);
    const POLYNOMIAL: [f32; 6] = [1.987_569_1e-4, 1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_65, 0.5];
    let within = call!("prim._OpMin", max(x, &float(LEAST)?)?, float(MOST)?, NONE)?;
    let n = call!("tirx.floor", add(&mul(&within, &float(std::f32::consts::LOG2_E)?)?, &float(0.5)?)?, NONE)?;
    let r = add(&within, &mul(&n, &float(-LN_2.0)?)?)?;
    let r = add(&r, &mul(&n, &float(-LN_2.1)?)?)?;
    let mut p = float(POLYNOMIAL[0])?;
    for c in &POLYNOMIAL[1..] {
        p = add(&mul(&p, &r)?, &float(*c)?)?;
    }
    let p = add(&add(&mul(&p, &mul(&r, &r)?)?, &r)?, &float(1.0)?)?;
    // 2ⁿ⁻¹ by its bits: 2¹²⁸ is no float32
    let exponent = add(&call!("prim._cast", call!("ir.PrimType", INT32)?, n, NONE)?, &int(126)?)?;
    let power = call!("tirx.reinterpret", call!("ir.PrimType", FLOAT32)?, mul(&exponent, &int(1 << 23)?)?, NONE)?;
    let inside = mul(&mul(&p, &power)?, &float(2.0)?)?;
    let is_inside = call!("prim._OpLT", *x, float(MOST)?, NONE)?;
    call!("prim.Select", is_inside, inside, mul(x, &float(f32::MAX)?)?, NONE)
}

/// 1/√x.
pub fn rsqrt(x: &Node) -> Result<Node> {
    intrinsic("tirx.rsqrt", x)
}

/// A function of one float32 that TVM's code generators know by name.
fn intrinsic(name: &str, x: &Node) -> Result<Node> {
    let op = call!("ir.GetOp", text(name))?;
    let result = call!("ir.PrimType", FLOAT32)?;
    call!("ir.Call", result, op, array(std::slice::from_ref(x))?, NONE, array::<Node>(&[])?, NONE)
}

pub fn floor_div(a: &Node, b: i64) -> Result<Node> {
    call!("prim._OpFloorDiv", *a, int(b)?, NONE)
}

pub fn floor_mod(a: &Node, b: i64) -> Result<Node> {
    call!("prim._OpFloorMod", *a, int(b)?, NONE)
}

/// The remainder of a value that is never negative.
pub fn trunc_mod(a: &Node, b: i64) -> Result<Node> {
    call!("prim._OpTruncMod", *a, int(b)?, NONE)
}

pub fn at_least(a: &Node, b: i64) -> Result<Node> {
    call!("prim._OpGE", *a, int(b)?, NONE)
}

pub fn less_than(a: &Node, b: i64) -> Result<Node> {
    call!("prim._OpLT", *a, int(b)?, NONE)
}

pub fn and(a: &Node, b: &Node) -> Result<Node> {
    call!("prim._OpAnd", *a, *b, NONE)
}

/// `yes` where `condition` holds, else `no`; the other one is not evaluated.
pub fn if_then_else(condition: &Node, yes: &Node, no: &Node) -> Result<Node> {
    call!("prim._OpIfThenElse", *condition, *yes, *no, NONE)
}

/// A float32 tensor that the function takes.
pub fn placeholder(shape: &[i64], name: &str) -> Result<Node> {
    let shape: Vec<Node> = shape.iter().map(|&s| int(s)).collect::<Result<_>>()?;
    call!("te.Placeholder", array(&shape)?, call!("ir.PrimType", FLOAT32)?, text(name))
}

/// One element of a tensor.
pub fn load(tensor: &Node, index: &[Node]) -> Result<Node> {
    call!("te.TensorLoad", *tensor, array(index)?)
}

fn reduce(source: &Node, loops: &[Iter], combine: impl Fn(&Node, &Node) -> Result<Node>, neutral: Node) -> Result<Node> {
    let float_type = call!("ir.PrimType", FLOAT32)?;
    let x = call!("ir.Var", text("x"), float_type, NONE)?;
    let y = call!("ir.Var", text("y"), float_type, NONE)?;
    let joined = combine(&x, &y)?;
    let reducer = call!("te.CommReducer", array(&[x])?, array(&[y])?, array(&[joined])?, array(&[neutral])?, NONE)?;
    let axes: Vec<Node> = loops.iter().map(|l| l.iter.clone()).collect();
    let always = call!("ir.IntImm", DLDataType { code: DLDataTypeCode::kDLBool as u8, bits: 8, lanes: 1 }, 1i64, NONE)?;
    call!("te.Reduce", reducer, array(std::slice::from_ref(source))?, array(&axes)?, always, 0i64, array::<Node>(&[])?, NONE)
}

pub fn sum(source: &Node, loops: &[Iter]) -> Result<Node> {
    reduce(source, loops, add, float(0.0)?)
}

/// The greatest value; the neutral element is the least finite float32, as in TVM's own `te.max`.
pub fn greatest(source: &Node, loops: &[Iter]) -> Result<Node> {
    reduce(source, loops, max, float(f32::MIN)?)
}

/// The tensor whose element at `axes` is `body`.
pub fn compute(name: &str, axes: &[Iter], body: &Node) -> Result<Node> {
    let axes: Vec<Node> = axes.iter().map(|l| l.iter.clone()).collect();
    let op = call!("te.ComputeOp", text(name), text(""), NONE, array(&axes)?, array(std::slice::from_ref(body))?)?;
    call!("te.OpGetOutput", op, 0i64)
}

/// An IRModule with one PrimFunc `main` whose parameters are the tensors in order.
pub fn module(tensors: &[Node]) -> Result<Node> {
    let function = call!("te.CreatePrimFunc", array(tensors)?, NONE)?;
    let function = call!("ir.BaseFuncWithAttr", function, text("tirx.noalias"), true)?;
    let name = call!("ir.GlobalVar", text("main"))?;
    call!("ir.IRModule", super::ffi::map(&[(name, function)])?, NONE, super::ffi::map(&[])?)
}

/// The number of parameters of `main`.
pub fn n_parameters(module: &Node) -> Result<usize> {
    let function = call!("ir.Module_Lookup_str", *module, text("main"))?;
    let n: i64 = cast(call!("ffi.ArraySize", super::ffi::field(&function, "params")?)?, "parameter count")?;
    Ok(n as usize)
}
