//! Operations on each element, with numpy's broadcasting of extents and no conversion of types.

use super::{BinaryOp, Comparison, Op, Result, UnaryOp, Value};
use crate::array::DType;

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident => $op:ident),* $(,)?) => {
        impl Value {
            $($(#[$doc])* #[track_caller] pub fn $name(&self) -> Result<Value> {
                Value::apply(Op::Unary(UnaryOp::$op), &[self])
            })*
        }
    };
}

unary! {
    abs => Abs,
    cbrt => Cbrt,
    ceil => Ceil,
    cos => Cos,
    erf => Erf,
    exp => Exp,
    /// `exp(x) - 1`, exact near 0.
    expm1 => Expm1,
    floor => Floor,
    is_finite => IsFinite,
    /// Natural logarithm.
    log => Log,
    /// `log(1 + x)`, exact near 0.
    log1p => Log1p,
    /// `1 / (1 + exp(-x))`.
    logistic => Logistic,
    neg => Neg,
    /// Logical for `pred`, of each bit for integers.
    not => Not,
    round_nearest_even => RoundNearestEven,
    rsqrt => Rsqrt,
    /// -1, 0 or 1.
    sign => Sign,
    sin => Sin,
    sqrt => Sqrt,
    tanh => Tanh,
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident => $op:ident),* $(,)?) => {
        impl Value {
            $($(#[$doc])* #[track_caller] pub fn $name(&self, other: &Value) -> Result<Value> {
                self.binary(BinaryOp::$op, other)
            })*
        }
    };
}

binary! {
    add => Add,
    and => And,
    div => Div,
    max => Max,
    min => Min,
    mul => Mul,
    or => Or,
    pow => Pow,
    /// The remainder of truncated division; it has the dividend's sign.
    rem => Rem,
    shift_left => ShiftLeft,
    shift_right_arithmetic => ShiftRightArithmetic,
    shift_right_logical => ShiftRightLogical,
    sub => Sub,
    xor => Xor,
}

macro_rules! compare {
    ($($name:ident => $direction:ident),*) => {
        impl Value {
            $(#[track_caller] pub fn $name(&self, other: &Value) -> Result<Value> {
                self.compare(Comparison::$direction, other)
            })*
        }
    };
}

compare!(eq => Eq, ne => Ne, lt => Lt, le => Le, gt => Gt, ge => Ge);

macro_rules! with_scalar {
    ($($name:ident => $with:ident),*) => {
        impl Value {
            $(#[track_caller] pub fn $name(&self, scalar: f64) -> Result<Value> {
                self.$with(&self.builder().scalar(self.dtype(), scalar)?)
            })*
        }
    };
}

with_scalar!(add_scalar => add, sub_scalar => sub, mul_scalar => mul, div_scalar => div, max_scalar => max,
    min_scalar => min, eq_scalar => eq, lt_scalar => lt, gt_scalar => gt, ge_scalar => ge);

impl Value {
    #[track_caller]
    pub(crate) fn binary(&self, op: BinaryOp, other: &Value) -> Result<Value> {
        let (a, b) = broadcast_pair(op.name(), self, other)?;
        Value::apply(Op::Binary(op), &[&a, &b])
    }

    /// Element-wise comparison, giving `pred`.
    #[track_caller]
    pub fn compare(&self, direction: Comparison, other: &Value) -> Result<Value> {
        let (a, b) = broadcast_pair("compare", self, other)?;
        Value::apply(Op::Compare(direction), &[&a, &b])
    }

    /// Where this `pred` is true `on_true`, else `on_false`.
    #[track_caller]
    pub fn select(&self, on_true: &Value, on_false: &Value) -> Result<Value> {
        let (on_true, on_false) = broadcast_pair("select", on_true, on_false)?;
        let (pred, on_true) = broadcast_pair("select", self, &on_true)?;
        let on_false = on_false.broadcast_to(on_true.dims())?;
        Value::apply(Op::Select, &[&pred, &on_true, &on_false])
    }

    /// `min(max(self, low), high)`; the bounds are scalars or have this shape.
    #[track_caller]
    pub fn clamp(&self, low: &Value, high: &Value) -> Result<Value> {
        Value::apply(Op::Clamp, &[low, self, high])
    }

    /// The nearest value of another type, as XLA's `convert`. Of the same type: the value itself.
    #[track_caller]
    pub fn convert(&self, dtype: DType) -> Result<Value> {
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        Value::apply(Op::Convert(dtype), &[self])
    }

    #[track_caller]
    pub fn bitcast_convert(&self, dtype: DType) -> Result<Value> {
        Value::apply(Op::BitcastConvert(dtype), &[self])
    }

    #[track_caller]
    pub fn square(&self) -> Result<Value> {
        self.mul(self)
    }

    /// Of this shape and type, every element the same.
    #[track_caller]
    pub fn full_like(&self, value: f64) -> Result<Value> {
        self.builder().full(self.shape(), value)
    }

    /// The identity, through which no gradient flows.
    #[track_caller]
    pub fn stop_gradient(&self) -> Result<Value> {
        Value::apply(Op::StopGradient, &[self])
    }

    /// The identity, whose result is laid out over the devices as said.
    #[track_caller]
    pub fn with_sharding(&self, sharding: super::Sharding) -> Result<Value> {
        Value::apply(Op::ShardingConstraint(sharding), &[self])
    }
}

/// Both operands at the extents that numpy would give the result.
#[track_caller]
fn broadcast_pair(op: &str, a: &Value, b: &Value) -> Result<(Value, Value)> {
    if a.dims() == b.dims() {
        return Ok((a.clone(), b.clone()));
    }
    let rank = a.rank().max(b.rank());
    let extent = |dims: &[usize], i: usize| (i + dims.len()).checked_sub(rank).map_or(1, |i| dims[i]);
    let mut dims = Vec::with_capacity(rank);
    for i in 0..rank {
        match (extent(a.dims(), i), extent(b.dims(), i)) {
            (x, y) if x == y => dims.push(x),
            (1, y) => dims.push(y),
            (x, 1) => dims.push(x),
            _ => {
                let builder = Value::innermost(&[a, b]);
                let (a, b) = (a.shape(), b.shape());
                return Err(builder.error(format!("{op} expects shapes that broadcast, got {a} and {b}")));
            }
        }
    }
    // Beside the operation, even where one operand is of the surrounding program: a loop should carry what
    // is small, not what it is repeated to.
    let builder = Value::innermost(&[a, b]);
    Ok((builder.own(a)?.broadcast_to(&dims)?, builder.own(b)?.broadcast_to(&dims)?))
}
