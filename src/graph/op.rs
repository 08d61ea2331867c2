//! The operations. Each has one shape rule (`infer.rs`), one emission (`hlo::emit`) and one gradient
//! rule (`autodiff::vjp`); the matches there are exhaustive, so that an operation without one of them
//! does not compile.

use std::sync::Arc;

use super::{Function, RematPolicy, Sharding};
use crate::array::{DType, HostArray, Shape};

#[derive(Debug, Clone)]
pub enum Op {
    /// An argument of the function.
    Parameter {
        name: Arc<str>,
        shape: Shape,
    },
    Constant(Arc<HostArray>),
    /// `0, 1, 2, …` along one dimension.
    Iota {
        shape: Shape,
        dim: usize,
    },
    Unary(UnaryOp),
    Binary(BinaryOp),
    Compare(Comparison),
    /// `(pred, on_true, on_false)`, all of one extent.
    Select,
    /// `(min, x, max)`, numbers; the bounds have `x`'s shape or are scalars.
    Clamp,
    Convert(DType),
    /// The same bits as another type of the same width.
    BitcastConvert(DType),
    /// Operand dimension `i` becomes result dimension `mapping[i]`; extent 1 is repeated.
    BroadcastInDim {
        dims: Vec<usize>,
        mapping: Vec<usize>,
    },
    Reshape {
        dims: Vec<usize>,
    },
    /// Result dimension `i` is operand dimension `permutation[i]`.
    Transpose {
        permutation: Vec<usize>,
    },
    Slice(Vec<SliceDim>),
    /// `(operand, scalar padding value)`.
    Pad(Vec<PadDim>),
    Concatenate {
        dim: usize,
    },
    Reverse {
        dims: Vec<usize>,
    },
    /// `(lhs, rhs)`; the result's dimensions are batch, lhs free, rhs free.
    DotGeneral {
        dims: DotDims,
        precision: Precision,
        result: DType,
    },
    Reduce {
        op: ReduceOp,
        dims: Vec<usize>,
    },
    /// `(operand, one scalar start per dimension)`; starts are clamped so that the slice fits.
    DynamicSlice {
        sizes: Vec<usize>,
    },
    /// `(operand, update, one scalar start per dimension)`.
    DynamicUpdateSlice,
    /// `(operand, start indices)`; indices out of bounds are clamped.
    Gather(GatherDims),
    /// `(operand, indices, updates)`; updates out of bounds are dropped.
    Scatter {
        dims: ScatterDims,
        op: ScatterOp,
    },
    /// All operands are ordered along `dim` by the first one; the others follow. Stable.
    Sort {
        dim: usize,
        descending: bool,
    },
    /// `state -> (state, bits)`: a counter-based generator.
    RngBitGenerator {
        algorithm: RngAlgorithm,
        shape: Shape,
    },
    /// Results are the operands; nothing is merged or moved across.
    OptimizationBarrier,
    /// The identity, through which no gradient flows.
    StopGradient,
    /// The identity, whose result is to be laid out over the devices as said.
    ShardingConstraint(Sharding),
    CustomCall(CustomCall),
    /// `(consts…, initial carries…, stacked inputs…) -> (final carries…, stacked outputs…)`.
    Scan(ScanSpec),
    /// `(consts…, initial carries…) -> final carries…`. `cond` and `body` take both.
    While {
        cond: Arc<Function>,
        body: Arc<Function>,
        num_consts: usize,
    },
    /// `(s32 index, operands…)`: the results of the branch with that index (clamped).
    Conditional {
        branches: Vec<Arc<Function>>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnaryOp {
    Abs,
    Cbrt,
    Ceil,
    Cos,
    Erf,
    Exp,
    Expm1,
    Floor,
    IsFinite,
    Log,
    Log1p,
    Logistic,
    Neg,
    Not,
    RoundNearestEven,
    Rsqrt,
    Sign,
    Sin,
    Sqrt,
    Tanh,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BinaryOp {
    Add,
    And,
    Div,
    Max,
    Min,
    Mul,
    Or,
    Pow,
    Rem,
    ShiftLeft,
    ShiftRightArithmetic,
    ShiftRightLogical,
    Sub,
    Xor,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReduceOp {
    Sum,
    Prod,
    Max,
    Min,
    And,
    Or,
}

/// How an update meets what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScatterOp {
    Assign,
    Add,
}

/// How exactly an accelerator multiplies `f32` matrices (`jax.lax.Precision`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// The device's fastest: bf16 products on a TPU.
    #[default]
    Default,
    High,
    /// Full `f32`.
    Highest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RngAlgorithm {
    /// Threefry 2x32; the state is `u64[2]`.
    ThreeFry,
    /// Philox 4x32; the state is `u64[2]`.
    Philox,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceDim {
    pub start: usize,
    pub limit: usize,
    pub stride: usize,
}

/// Elements added before, after and between; negative edges cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PadDim {
    pub low: i64,
    pub high: i64,
    pub interior: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DotDims {
    pub lhs_contracting: Vec<usize>,
    pub rhs_contracting: Vec<usize>,
    pub lhs_batch: Vec<usize>,
    pub rhs_batch: Vec<usize>,
}

/// XLA's `GatherDimensionNumbers`, with the size of the slices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatherDims {
    pub offset_dims: Vec<usize>,
    pub collapsed_slice_dims: Vec<usize>,
    pub start_index_map: Vec<usize>,
    pub operand_batching_dims: Vec<usize>,
    pub start_indices_batching_dims: Vec<usize>,
    pub index_vector_dim: usize,
    pub slice_sizes: Vec<usize>,
}

/// XLA's `ScatterDimensionNumbers`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScatterDims {
    pub update_window_dims: Vec<usize>,
    pub inserted_window_dims: Vec<usize>,
    pub scatter_dims_to_operand_dims: Vec<usize>,
    pub input_batching_dims: Vec<usize>,
    pub scatter_indices_batching_dims: Vec<usize>,
    pub index_vector_dim: usize,
}

#[derive(Debug, Clone)]
pub struct CustomCall {
    pub target: String,
    pub backend_config: Vec<u8>,
    pub results: Vec<Shape>,
    pub has_side_effect: bool,
}

/// A loop of known length. The body maps `(consts…, carries…, inputs of one step…)` to
/// `(carries…, outputs of one step…)`.
#[derive(Debug, Clone)]
pub struct ScanSpec {
    pub body: Arc<Function>,
    pub length: usize,
    pub num_consts: usize,
    pub num_carries: usize,
    /// From the last step to the first.
    pub reverse: bool,
    /// What its gradient keeps of the forward pass.
    pub policy: RematPolicy,
}

impl Op {
    /// The name in error messages and dumps: XLA's, with underscores.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Parameter { .. } => "parameter",
            Op::Constant(_) => "constant",
            Op::Iota { .. } => "iota",
            Op::Unary(op) => op.name(),
            Op::Binary(op) => op.name(),
            Op::Compare(_) => "compare",
            Op::Select => "select",
            Op::Clamp => "clamp",
            Op::Convert(_) => "convert",
            Op::BitcastConvert(_) => "bitcast_convert",
            Op::BroadcastInDim { .. } => "broadcast_in_dim",
            Op::Reshape { .. } => "reshape",
            Op::Transpose { .. } => "transpose",
            Op::Slice(_) => "slice",
            Op::Pad(_) => "pad",
            Op::Concatenate { .. } => "concatenate",
            Op::Reverse { .. } => "reverse",
            Op::DotGeneral { .. } => "dot_general",
            Op::Reduce { op, .. } => op.name(),
            Op::DynamicSlice { .. } => "dynamic_slice",
            Op::DynamicUpdateSlice => "dynamic_update_slice",
            Op::Gather(_) => "gather",
            Op::Scatter { .. } => "scatter",
            Op::Sort { .. } => "sort",
            Op::RngBitGenerator { .. } => "rng_bit_generator",
            Op::OptimizationBarrier => "optimization_barrier",
            Op::StopGradient => "stop_gradient",
            Op::ShardingConstraint(_) => "sharding_constraint",
            Op::CustomCall(_) => "custom_call",
            Op::Scan(_) => "scan",
            Op::While { .. } => "while",
            Op::Conditional { .. } => "conditional",
        }
    }
}

impl UnaryOp {
    pub const ALL: [UnaryOp; 20] = {
        use UnaryOp::*;
        [
            Abs,
            Cbrt,
            Ceil,
            Cos,
            Erf,
            Exp,
            Expm1,
            Floor,
            IsFinite,
            Log,
            Log1p,
            Logistic,
            Neg,
            Not,
            RoundNearestEven,
            Rsqrt,
            Sign,
            Sin,
            Sqrt,
            Tanh,
        ]
    };

    pub fn name(self) -> &'static str {
        match self {
            UnaryOp::Abs => "abs",
            UnaryOp::Cbrt => "cbrt",
            UnaryOp::Ceil => "ceil",
            UnaryOp::Cos => "cosine",
            UnaryOp::Erf => "erf",
            UnaryOp::Exp => "exponential",
            UnaryOp::Expm1 => "exponential_minus_one",
            UnaryOp::Floor => "floor",
            UnaryOp::IsFinite => "is_finite",
            UnaryOp::Log => "log",
            UnaryOp::Log1p => "log_plus_one",
            UnaryOp::Logistic => "logistic",
            UnaryOp::Neg => "negate",
            UnaryOp::Not => "not",
            UnaryOp::RoundNearestEven => "round_nearest_even",
            UnaryOp::Rsqrt => "rsqrt",
            UnaryOp::Sign => "sign",
            UnaryOp::Sin => "sine",
            UnaryOp::Sqrt => "sqrt",
            UnaryOp::Tanh => "tanh",
        }
    }
}

impl BinaryOp {
    pub const ALL: [BinaryOp; 14] = {
        use BinaryOp::*;
        [
            Add,
            And,
            Div,
            Max,
            Min,
            Mul,
            Or,
            Pow,
            Rem,
            ShiftLeft,
            ShiftRightArithmetic,
            ShiftRightLogical,
            Sub,
            Xor,
        ]
    };

    pub fn name(self) -> &'static str {
        match self {
            BinaryOp::Add => "add",
            BinaryOp::And => "and",
            BinaryOp::Div => "divide",
            BinaryOp::Max => "maximum",
            BinaryOp::Min => "minimum",
            BinaryOp::Mul => "multiply",
            BinaryOp::Or => "or",
            BinaryOp::Pow => "power",
            BinaryOp::Rem => "remainder",
            BinaryOp::ShiftLeft => "shift_left",
            BinaryOp::ShiftRightArithmetic => "shift_right_arithmetic",
            BinaryOp::ShiftRightLogical => "shift_right_logical",
            BinaryOp::Sub => "subtract",
            BinaryOp::Xor => "xor",
        }
    }
}

impl Comparison {
    pub fn name(self) -> &'static str {
        match self {
            Comparison::Eq => "EQ",
            Comparison::Ne => "NE",
            Comparison::Lt => "LT",
            Comparison::Le => "LE",
            Comparison::Gt => "GT",
            Comparison::Ge => "GE",
        }
    }
}

impl ReduceOp {
    pub fn name(self) -> &'static str {
        match self {
            ReduceOp::Sum => "reduce_sum",
            ReduceOp::Prod => "reduce_prod",
            ReduceOp::Max => "reduce_max",
            ReduceOp::Min => "reduce_min",
            ReduceOp::And => "reduce_and",
            ReduceOp::Or => "reduce_or",
        }
    }

    /// The operation that folds two elements.
    pub fn binary(self) -> BinaryOp {
        match self {
            ReduceOp::Sum => BinaryOp::Add,
            ReduceOp::Prod => BinaryOp::Mul,
            ReduceOp::Max => BinaryOp::Max,
            ReduceOp::Min => BinaryOp::Min,
            ReduceOp::And => BinaryOp::And,
            ReduceOp::Or => BinaryOp::Or,
        }
    }
}
