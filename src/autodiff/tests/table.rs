//! One row for every operation. The patterns are exhaustive, so that an operation without one does not
//! compile, and a row whose program lacks its operation fails.

use super::rows::{self, Row, Slope, binary, compare, reduce, unary};
use super::{Differentiated, assert_close, function};
use crate::array::HostArray;
use crate::graph::{
    BinaryOp, Builder, Comparison, Op, ReduceOp, Result, RngAlgorithm, ScatterOp, UnaryOp, Value,
};

macro_rules! table {
    ($($pattern:pat => $row:expr),* $(,)?) => {
        fn name_of(op: &Op) -> &'static str {
            match op { $($pattern => stringify!($pattern)),* }
        }

        fn rows() -> Vec<(&'static str, Row)> {
            vec![$((stringify!($pattern), $row)),*]
        }
    };
}

const AROUND_ZERO: [f64; 5] = [-1.7, -0.4, 0.2, 0.9, 2.3];
const POSITIVE: [f64; 5] = [0.1, 0.5, 1.2, 2.0, 7.5];
const FLAT: Slope = Slope::NoneByNature;
const SLOPED: Slope = Slope::FiniteDifferences;

table! {
    Op::Parameter { .. } => rows::parameter(),
    Op::Constant(_) => rows::constant(),
    Op::Iota { .. } => rows::iota(),

    Op::Unary(UnaryOp::Abs) => unary(Value::abs, f64::abs, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Cbrt) => unary(Value::cbrt, f64::cbrt, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Ceil) => unary(Value::ceil, f64::ceil, AROUND_ZERO, FLAT),
    Op::Unary(UnaryOp::Cos) => unary(Value::cos, f64::cos, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Erf) => rows::erf(),
    Op::Unary(UnaryOp::Exp) => unary(Value::exp, f64::exp, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Expm1) => unary(Value::expm1, f64::exp_m1, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Floor) => unary(Value::floor, f64::floor, AROUND_ZERO, FLAT),
    Op::Unary(UnaryOp::IsFinite) => rows::is_finite(),
    Op::Unary(UnaryOp::Log) => unary(Value::log, f64::ln, POSITIVE, SLOPED),
    Op::Unary(UnaryOp::Log1p) => unary(Value::log1p, f64::ln_1p, POSITIVE, SLOPED),
    Op::Unary(UnaryOp::Logistic) => unary(Value::logistic, |x| 1.0 / (1.0 + (-x).exp()), AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Neg) => unary(Value::neg, |x| -x, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Not) => rows::not(),
    Op::Unary(UnaryOp::RoundNearestEven) => {
        unary(Value::round_nearest_even, f64::round_ties_even, [-1.5, -0.5, 0.5, 1.5, 2.6], FLAT)
    },
    Op::Unary(UnaryOp::Rsqrt) => unary(Value::rsqrt, |x| x.sqrt().recip(), POSITIVE, SLOPED),
    Op::Unary(UnaryOp::Sign) => unary(Value::sign, f64::signum, AROUND_ZERO, FLAT),
    Op::Unary(UnaryOp::Sin) => unary(Value::sin, f64::sin, AROUND_ZERO, SLOPED),
    Op::Unary(UnaryOp::Sqrt) => unary(Value::sqrt, f64::sqrt, POSITIVE, SLOPED),
    Op::Unary(UnaryOp::Tanh) => unary(Value::tanh, f64::tanh, AROUND_ZERO, SLOPED),

    Op::Binary(BinaryOp::Add) => binary(Value::add, |x, y| x + y),
    Op::Binary(BinaryOp::And) => rows::bits(Value::and, |x, y| x & y),
    Op::Binary(BinaryOp::Div) => binary(Value::div, |x, y| x / y),
    Op::Binary(BinaryOp::Max) => binary(Value::max, f64::max),
    Op::Binary(BinaryOp::Min) => binary(Value::min, f64::min),
    Op::Binary(BinaryOp::Mul) => binary(Value::mul, |x, y| x * y),
    Op::Binary(BinaryOp::Or) => rows::bits(Value::or, |x, y| x | y),
    Op::Binary(BinaryOp::Pow) => binary(Value::pow, f64::powf),
    Op::Binary(BinaryOp::Rem) => binary(Value::rem, |x, y| x % y),
    Op::Binary(BinaryOp::ShiftLeft) => rows::bits(Value::shift_left, |x, y| x << y),
    Op::Binary(BinaryOp::ShiftRightArithmetic) => rows::bits(Value::shift_right_arithmetic, |x, y| x >> y),
    Op::Binary(BinaryOp::ShiftRightLogical) => {
        rows::bits(Value::shift_right_logical, |x, y| ((x as u32) >> y) as i32)
    },
    Op::Binary(BinaryOp::Sub) => binary(Value::sub, |x, y| x - y),
    Op::Binary(BinaryOp::Xor) => rows::bits(Value::xor, |x, y| x ^ y),

    Op::Compare(Comparison::Eq) => compare(Value::eq, |x, y| x == y),
    Op::Compare(Comparison::Ne) => compare(Value::ne, |x, y| x != y),
    Op::Compare(Comparison::Lt) => compare(Value::lt, |x, y| x < y),
    Op::Compare(Comparison::Le) => compare(Value::le, |x, y| x <= y),
    Op::Compare(Comparison::Gt) => compare(Value::gt, |x, y| x > y),
    Op::Compare(Comparison::Ge) => compare(Value::ge, |x, y| x >= y),
    Op::Select => rows::select(),
    Op::Clamp => rows::clamp(),
    Op::Convert(_) => rows::convert(),
    Op::BitcastConvert(_) => rows::bitcast_convert(),

    Op::BroadcastInDim { .. } => rows::broadcast_in_dim(),
    Op::Reshape { .. } => rows::reshape(),
    Op::Transpose { .. } => rows::transpose(),
    Op::Slice(_) => rows::slice(),
    Op::Pad(_) => rows::pad(),
    Op::Concatenate { .. } => rows::concatenate(),
    Op::Reverse { .. } => rows::reverse(),
    Op::DotGeneral { .. } => rows::dot_general(),

    Op::Reduce { op: ReduceOp::Sum, .. } => reduce(Value::reduce_sum, |x| x.iter().sum(), SLOPED),
    Op::Reduce { op: ReduceOp::Prod, .. } => reduce(
        Value::reduce_prod,
        |x| x.iter().product(),
        Slope::Missing("reduce_prod has no gradient, write it as exp of a sum of logs"),
    ),
    Op::Reduce { op: ReduceOp::Max, .. } => {
        reduce(Value::reduce_max, |x| x.iter().copied().fold(f64::MIN, f64::max), SLOPED)
    },
    Op::Reduce { op: ReduceOp::Min, .. } => {
        reduce(Value::reduce_min, |x| x.iter().copied().fold(f64::MAX, f64::min), SLOPED)
    },
    Op::Reduce { op: ReduceOp::And, .. } => rows::reduce_logical(Value::reduce_and, [false, true, false]),
    Op::Reduce { op: ReduceOp::Or, .. } => rows::reduce_logical(Value::reduce_or, [true, true, false]),

    Op::DynamicSlice { .. } => rows::dynamic_slice(),
    Op::DynamicUpdateSlice => rows::dynamic_update_slice(),
    Op::Gather(_) => rows::gather(),
    Op::Scatter { op: ScatterOp::Assign, .. } => rows::scatter(ScatterOp::Assign),
    Op::Scatter { op: ScatterOp::Add, .. } => rows::scatter(ScatterOp::Add),
    Op::Sort { .. } => rows::sort(),
    Op::RngBitGenerator { algorithm: RngAlgorithm::ThreeFry, .. } => rows::rng(RngAlgorithm::ThreeFry),
    Op::RngBitGenerator { algorithm: RngAlgorithm::Philox, .. } => rows::rng(RngAlgorithm::Philox),
    Op::OptimizationBarrier => rows::optimization_barrier(),
    Op::StopGradient => rows::stop_gradient(),
    Op::ShardingConstraint(_) => rows::sharding_constraint(),
    Op::CustomCall(_) => rows::custom_call(),
    Op::Scan(_) => rows::scan(),
    Op::While { .. } => rows::while_loop(),
    Op::Conditional { .. } => rows::conditional(),
}

fn build(row: &Row) -> impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>> {
    |b, x| (row.build)(b, x)
}

#[test]
fn every_row_has_its_operation() {
    for (name, row) in rows() {
        let function = function(&row.inputs, build(&row)).unwrap_or_else(|error| panic!("{name}: {error}"));
        let has = function.nodes().iter().any(|node| name_of(&node.op) == name);
        assert!(has, "the row of {name} has no such operation");
    }
}

#[test]
fn values_and_gradients() {
    for (name, row) in rows() {
        let outputs = match &row.slope {
            Slope::Missing(message) => {
                let error = Differentiated::new(&row.inputs, build(&row)).map(drop).unwrap_err();
                assert_eq!(error.message(), *message, "{name}");
                super::evaluate(&row.inputs, build(&row))
            }
            slope => {
                let program = Differentiated::new(&row.inputs, build(&row))
                    .unwrap_or_else(|error| panic!("{name}: {error}"));
                let (outputs, _, gradients) = program.run(&row.inputs);
                match slope {
                    Slope::FiniteDifferences => program.check(name),
                    Slope::Known(known) => gradients
                        .iter()
                        .zip(known)
                        .for_each(|(got, want)| assert_close(got, want, &format!("gradient of {name}"))),
                    _ => gradients.iter().for_each(|got| {
                        let zeros = HostArray::zeros(got.shape().clone());
                        assert_close(got, &zeros, &format!("gradient of {name}"));
                    }),
                }
                outputs
            }
        };
        assert_eq!(outputs.len(), row.expected.len(), "{name}");
        outputs.iter().zip(&row.expected).for_each(|(got, want)| assert_close(got, want, name));
    }
}

#[test]
fn wrong_uses_are_told() {
    for (name, row) in rows() {
        let b = Builder::new("wrong");
        let (wrong, message) = &row.wrong;
        let error = wrong(&b).map(drop).expect_err(name);
        assert_eq!(error.message(), *message, "{name}");
        let text = error.to_string();
        assert!(text.starts_with(&format!("{message}, at (src/")), "{name}: {text}");
    }
}
