//! What the table says of each operation: here those on single elements, in `arrays` those that move or
//! fold them, in `programs` control flow and what is special.

mod arrays;
mod programs;

pub(super) use arrays::*;
pub(super) use programs::*;

use super::{f64s, preds, s32s};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{Builder, Op, Result, Value};

type Build = Box<dyn Fn(&Builder, &[Value]) -> Result<Vec<Value>>>;
type Wrong = Box<dyn Fn(&Builder) -> Result<Value>>;

/// How the weighted sum of an operation's results depends on its `f64` inputs.
pub(super) enum Slope {
    FiniteDifferences,
    /// Differentiable, but its values are too coarse for finite differences.
    Known(Vec<HostArray>),
    /// The operation is constant almost everywhere, has no floating point results, or stops gradients.
    NoneByNature,
    /// There is a gradient, but no rule: the error says so.
    Missing(&'static str),
}

pub(super) struct Row {
    pub(super) inputs: Vec<HostArray>,
    pub(super) build: Build,
    pub(super) expected: Vec<HostArray>,
    pub(super) slope: Slope,
    /// A use that is refused, and the message.
    pub(super) wrong: (Wrong, &'static str),
}

fn row(
    inputs: Vec<HostArray>,
    build: impl Fn(&Builder, &[Value]) -> Result<Vec<Value>> + 'static,
    expected: Vec<HostArray>,
    slope: Slope,
    wrong: impl Fn(&Builder) -> Result<Value> + 'static,
    message: &'static str,
) -> Row {
    Row { inputs, build: Box::new(build), expected, slope, wrong: (Box::new(wrong), message) }
}

/// A parameter for a wrong use.
fn given(b: &Builder, dtype: DType, dims: &[usize]) -> Result<Value> {
    b.parameter("x", Shape::new(dtype, dims))
}

/// The name of an operation is in its message: leaked, because there are few and the rest is static.
fn text(message: String) -> &'static str {
    message.leak()
}

fn name_of(operation: impl Fn(&Value) -> Result<Value>, dtype: DType) -> &'static str {
    let b = Builder::new("name");
    let value = b.parameter("x", Shape::scalar(dtype)).and_then(|x| operation(&x)).unwrap();
    b.node(value.output().node).op.name()
}

pub(super) fn unary(
    operation: fn(&Value) -> Result<Value>,
    host: fn(f64) -> f64,
    at: [f64; 5],
    slope: Slope,
) -> Row {
    let name = name_of(operation, DType::F64);
    let (wrong_type, message) = match name {
        "abs" | "negate" | "sign" => (DType::U32, format!("{name} expects signed numbers, got u32[2]")),
        _ => (DType::S32, format!("{name} expects floating point numbers, got s32[2]")),
    };
    row(
        vec![f64s([5], &at)],
        move |_, x| Ok(vec![operation(&x[0])?]),
        vec![f64s([5], &at.map(host))],
        slope,
        move |b| operation(&given(b, wrong_type, &[2])?),
        text(message),
    )
}

/// From tables: the standard library has no error function.
pub(super) fn erf() -> Row {
    let known = [-0.3286267594591274, 0.0, 0.5204998778130465, 0.8427007929497149, 0.9953222650189527];
    row(
        vec![f64s([5], &[-0.3, 0.0, 0.5, 1.0, 2.0])],
        |_, x| Ok(vec![x[0].erf()?]),
        vec![f64s([5], &known)],
        Slope::FiniteDifferences,
        |b| given(b, DType::Pred, &[])?.erf(),
        "erf expects floating point numbers, got pred[]",
    )
}

pub(super) fn is_finite() -> Row {
    row(
        vec![f64s([4], &[1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY])],
        |_, x| Ok(vec![x[0].is_finite()?]),
        vec![preds([4], &[true, false, false, false])],
        Slope::NoneByNature,
        |b| given(b, DType::S32, &[2])?.is_finite(),
        "is_finite expects floating point numbers, got s32[2]",
    )
}

pub(super) fn not() -> Row {
    row(
        vec![preds([2], &[true, false]), s32s([2], &[5, -1])],
        |_, x| Ok(vec![x[0].not()?, x[1].not()?]),
        vec![preds([2], &[false, true]), s32s([2], &[!5, 0])],
        Slope::NoneByNature,
        |b| given(b, DType::F32, &[2])?.not(),
        "not expects pred or integers, got f32[2]",
    )
}

/// Arithmetic: a matrix and a row of another rank, which is repeated.
pub(super) fn binary(operation: fn(&Value, &Value) -> Result<Value>, host: fn(f64, f64) -> f64) -> Row {
    let name = name_of(|x| operation(x, x), DType::F64);
    let (x, y) = ([0.7, 2.5, 1.9, 3.1, 0.4, 1.3], [1.6, 0.9, 2.2]);
    let expected: Vec<f64> = x.iter().enumerate().map(|(i, &x)| host(x, y[i % 3])).collect();
    row(
        vec![f64s([2, 3], &x), f64s([3], &y)],
        move |_, x| Ok(vec![operation(&x[0], &x[1])?]),
        vec![f64s([2, 3], &expected)],
        Slope::FiniteDifferences,
        move |b| operation(&given(b, DType::F32, &[2])?, &given(b, DType::S32, &[2])?),
        text(format!("{name} expects two operands of one shape, got f32[2] and s32[2]")),
    )
}

/// Of bits: negative numbers too.
pub(super) fn bits(operation: fn(&Value, &Value) -> Result<Value>, host: fn(i32, i32) -> i32) -> Row {
    let name = name_of(|x| operation(x, x), DType::S32);
    let (x, y) = ([6, -9, 1 << 20, 3], [3, 2, 5, 31]);
    let expected: Vec<i32> = x.iter().zip(y).map(|(&x, y)| host(x, y)).collect();
    let wanted = if name.starts_with("shift") { "integers" } else { "pred or integers" };
    row(
        vec![s32s([4], &x), s32s([4], &y)],
        move |_, x| Ok(vec![operation(&x[0], &x[1])?]),
        vec![s32s([4], &expected)],
        Slope::NoneByNature,
        move |b| given(b, DType::F32, &[2]).and_then(|x| operation(&x, &x)),
        text(format!("{name} expects {wanted}, got f32[2]")),
    )
}

pub(super) fn compare(operation: fn(&Value, &Value) -> Result<Value>, host: fn(&f64, &f64) -> bool) -> Row {
    let (x, y) = ([1.0, 2.0, 3.0, f64::NAN, -0.0], [1.0, 3.0, 2.0, f64::NAN, 0.0]);
    let expected: Vec<bool> = x.iter().zip(&y).map(|(x, y)| host(x, y)).collect();
    row(
        vec![f64s([5], &x), f64s([5], &y)],
        move |_, x| Ok(vec![operation(&x[0], &x[1])?]),
        vec![preds([5], &expected)],
        Slope::NoneByNature,
        move |b| operation(&given(b, DType::F32, &[2])?, &given(b, DType::F32, &[3])?),
        "compare expects shapes that broadcast, got f32[2] and f32[3]",
    )
}

pub(super) fn select() -> Row {
    row(
        vec![preds([3], &[true, false, true]), f64s([3], &[1.0, 2.0, 3.0]), f64s([1], &[-1.0])],
        |_, x| Ok(vec![x[0].select(&x[1], &x[2])?]),
        vec![f64s([3], &[1.0, -1.0, 3.0])],
        Slope::FiniteDifferences,
        |b| given(b, DType::S32, &[2]).and_then(|x| x.select(&x, &x)),
        "select expects pred and two operands of the same extents, got s32[2] and s32[2] and s32[2]",
    )
}

/// With scalar bounds and with one for each element.
pub(super) fn clamp() -> Row {
    row(
        vec![
            f64s([4], &[-2.0, 0.1, 0.6, 3.0]),
            f64s([], &[-0.5]),
            f64s([], &[0.5]),
            f64s([4], &[-3.0, 0.5, 0.5, 1.0]),
            f64s([4], &[0.0, 1.0, 0.9, 2.0]),
        ],
        |_, x| Ok(vec![x[0].clamp(&x[1], &x[2])?, x[0].clamp(&x[3], &x[4])?, x[0].clamp(&x[1], &x[4])?]),
        vec![
            f64s([4], &[-0.5, 0.1, 0.5, 0.5]),
            f64s([4], &[-2.0, 0.5, 0.6, 2.0]),
            f64s([4], &[-0.5, 0.1, 0.6, 2.0]),
        ],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[2]).and_then(|x| x.clamp(&x, &given(b, DType::F64, &[])?)),
        "clamp expects numbers, and bounds that are scalars or of the operand's shape, got f32[2] and f32[2] and f64[]",
    )
}

/// To `f32` and back the slope is 1, though values move in steps; through integers it is 0.
pub(super) fn convert() -> Row {
    let shape = Shape::new(DType::F64, [3]);
    row(
        vec![f64s([3], &[1.0 + 1e-12, -2.75, 0.5])],
        |_, x| {
            let narrow = x[0].convert(DType::F32)?;
            let whole = x[0].convert(DType::S32)?;
            Ok(vec![narrow.convert(DType::F64)?, whole.convert(DType::F64)?, x[0].convert(DType::Pred)?])
        },
        vec![f64s([3], &[1.0, -2.75, 0.5]), f64s([3], &[1.0, -2.0, 0.0]), preds([3], &[true; 3])],
        Slope::Known(vec![super::weights(&shape, 0)]),
        |b| {
            let x = given(b, DType::F32, &[])?;
            b.push(Op::Convert(DType::F16), &[&x, &x])
        },
        "convert expects 1 operands, got 2",
    )
}

pub(super) fn bitcast_convert() -> Row {
    row(
        vec![f64s([2], &[1.0, -2.0]), s32s([2], &[0x3f80_0000, -1])],
        |_, x| Ok(vec![x[0].bitcast_convert(DType::S64)?, x[1].bitcast_convert(DType::U32)?]),
        vec![
            HostArray::new([2], &[0x3ff0_0000_0000_0000_i64, 0xc000_0000_0000_0000_u64 as i64]).unwrap(),
            HostArray::new([2], &[0x3f80_0000, u32::MAX]).unwrap(),
        ],
        Slope::NoneByNature,
        |b| given(b, DType::F32, &[3])?.bitcast_convert(DType::S8),
        "bitcast_convert expects a type as wide as s8, got f32[3]",
    )
}
