//! The shape rule of each operation: the results' shapes, or what is wrong with the operands.

use super::{
    BinaryOp, DotDims, Function, GatherDims, Op, PadDim, ReduceOp, ScanSpec, ScatterDims, ScatterOp,
    SliceDim, UnaryOp,
};
use crate::array::{DType, Shape};

type Shapes<'a> = &'a [&'a Shape];

/// # Errors
/// A sentence of the form `op expects …, got …`.
pub(crate) fn infer(op: &Op, inputs: Shapes) -> Result<Vec<Shape>, String> {
    let name = op.name();
    let fail = |expected: &str| Err(format!("{name} expects {expected}, got {}", list(inputs)));
    if let Some(arity) = arity(op)
        && inputs.len() != arity
    {
        return Err(format!("{name} expects {arity} operands, got {}", inputs.len()));
    }
    match op {
        Op::Parameter { shape, .. } => Ok(vec![shape.clone()]),
        Op::Constant(array) => Ok(vec![array.shape().clone()]),
        Op::Iota { shape, dim } => {
            if *dim >= shape.rank() || shape.dtype() == DType::Pred {
                return Err(format!(
                    "iota expects a number type and a dimension of it, got {shape} and {dim}"
                ));
            }
            Ok(vec![shape.clone()])
        }
        Op::Unary(op) => unary(*op, inputs[0]).map(|shape| vec![shape]),
        Op::Binary(op) => binary(*op, inputs[0], inputs[1]).map(|shape| vec![shape]),
        Op::Compare(_) if inputs[0] != inputs[1] => fail("two operands of one shape"),
        Op::Compare(_) => Ok(vec![inputs[0].with_dtype(DType::Pred)]),
        Op::Select => {
            let (pred, on_true) = (inputs[0], inputs[1]);
            if pred.dtype() != DType::Pred || pred.dims() != on_true.dims() || on_true != inputs[2] {
                return fail("pred and two operands of the same extents");
            }
            Ok(vec![on_true.clone()])
        }
        Op::Clamp => {
            let bound = |b: &Shape| b == inputs[1] || (b.is_scalar() && b.dtype() == inputs[1].dtype());
            if inputs[1].dtype() == DType::Pred || !bound(inputs[0]) || !bound(inputs[2]) {
                return fail("numbers, and bounds that are scalars or of the operand's shape");
            }
            Ok(vec![inputs[1].clone()])
        }
        Op::Convert(dtype) => Ok(vec![inputs[0].with_dtype(*dtype)]),
        Op::BitcastConvert(dtype) if num_bits(*dtype) != num_bits(inputs[0].dtype()) => {
            Err(format!("bitcast_convert expects a type as wide as {dtype}, got {}", inputs[0]))
        }
        Op::BitcastConvert(dtype) => Ok(vec![inputs[0].with_dtype(*dtype)]),
        Op::BroadcastInDim { dims, mapping } => broadcast(inputs[0], dims, mapping).map(|shape| vec![shape]),
        Op::Reshape { dims } => {
            let result = inputs[0].with_dims(dims.as_slice());
            if result.num_elements() != inputs[0].num_elements() {
                return Err(format!("reshape expects as many elements as {result}, got {}", inputs[0]));
            }
            Ok(vec![result])
        }
        Op::Transpose { permutation } => {
            let mut sorted = permutation.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..inputs[0].rank()) {
                let shape = inputs[0];
                return Err(format!(
                    "transpose expects a permutation of {shape}'s dimensions, got {permutation:?}"
                ));
            }
            let dims: Vec<usize> = permutation.iter().map(|&p| inputs[0].dims()[p]).collect();
            Ok(vec![inputs[0].with_dims(dims)])
        }
        Op::Slice(dims) => slice(inputs[0], dims).map(|shape| vec![shape]),
        Op::Pad(dims) => pad(inputs[0], inputs[1], dims).map(|shape| vec![shape]),
        Op::Concatenate { dim } => concatenate(inputs, *dim).map(|shape| vec![shape]),
        Op::Reverse { dims } => {
            distinct_dims(name, inputs[0], dims)?;
            Ok(vec![inputs[0].clone()])
        }
        Op::DotGeneral { dims, result, .. } => {
            dot_general(inputs[0], inputs[1], dims, *result).map(|s| vec![s])
        }
        Op::Reduce { op, dims } => {
            distinct_dims(name, inputs[0], dims)?;
            let dtype = inputs[0].dtype();
            let logical = matches!(op, ReduceOp::And | ReduceOp::Or);
            if logical != (dtype == DType::Pred) {
                return fail(if logical { "pred" } else { "numbers" });
            }
            let kept: Vec<usize> =
                (0..inputs[0].rank()).filter(|i| !dims.contains(i)).map(|i| inputs[0].dims()[i]).collect();
            Ok(vec![inputs[0].with_dims(kept)])
        }
        Op::DynamicSlice { sizes } => {
            let fits =
                sizes.len() == inputs[0].rank() && sizes.iter().zip(inputs[0].dims()).all(|(s, d)| s <= d);
            if !fits {
                return Err(format!("dynamic_slice expects sizes within {}, got {sizes:?}", inputs[0]));
            }
            starts(name, inputs[0], &inputs[1..])?;
            Ok(vec![inputs[0].with_dims(sizes.as_slice())])
        }
        Op::DynamicUpdateSlice => {
            let [operand, update, rest @ ..] = inputs else {
                return fail("an operand, an update and starts");
            };
            let fits = update.dtype() == operand.dtype()
                && update.rank() == operand.rank()
                && update.dims().iter().zip(operand.dims()).all(|(u, d)| u <= d);
            if !fits {
                return Err(format!("dynamic_update_slice expects an update within {operand}, got {update}"));
            }
            starts(name, operand, rest)?;
            Ok(vec![(*operand).clone()])
        }
        Op::Gather(dims) => gather(inputs[0], inputs[1], dims).map(|shape| vec![shape]),
        Op::Scatter { op: ScatterOp::Add, .. } if inputs[0].dtype() == DType::Pred => {
            fail("numbers to add to")
        }
        Op::Scatter { dims, .. } => scatter(inputs[0], inputs[1], inputs[2], dims).map(|shape| vec![shape]),
        Op::Sort { dim, .. } => {
            let same = !inputs.is_empty() && inputs.iter().all(|shape| shape.dims() == inputs[0].dims());
            if !same || *dim >= inputs[0].rank() {
                return fail(&format!("operands of equal extents that have dimension {dim}"));
            }
            Ok(inputs.iter().map(|&shape| shape.clone()).collect())
        }
        Op::RngBitGenerator { shape, .. } => {
            if *inputs[0] != Shape::new(DType::U64, [2]) {
                return fail("a state of shape u64[2]");
            }
            if !matches!(shape.dtype(), DType::U8 | DType::U32 | DType::U64) {
                return Err(format!("rng_bit_generator expects an unsigned result, got {shape}"));
            }
            Ok(vec![inputs[0].clone(), shape.clone()])
        }
        Op::OptimizationBarrier if inputs.is_empty() => fail("at least one operand"),
        Op::OptimizationBarrier => Ok(inputs.iter().map(|&shape| shape.clone()).collect()),
        Op::StopGradient => Ok(vec![inputs[0].clone()]),
        Op::ShardingConstraint(sharding) => {
            if let super::Sharding::Tiled { tiles, devices, replicate_last } = sharding {
                let rank = tiles.len() - usize::from(*replicate_last);
                if rank != inputs[0].rank() || tiles.iter().product::<usize>() != devices.len() {
                    let shape = inputs[0];
                    return Err(format!(
                        "sharding_constraint expects {sharding} to have the rank of {shape}"
                    ));
                }
            }
            Ok(vec![inputs[0].clone()])
        }
        Op::CustomCall(call) => Ok(call.results.clone()),
        Op::Scan(spec) => scan(spec, inputs),
        Op::While { cond, body, num_consts } => {
            arguments("while's condition", cond, inputs)?;
            arguments("while's body", body, inputs)?;
            if !cond.output_shapes().eq([&Shape::scalar(DType::Pred)]) {
                let got: Vec<&Shape> = cond.output_shapes().collect();
                return Err(format!("while expects its condition to return pred[], got {}", list(&got)));
            }
            carries("while", &inputs[*num_consts..], body.output_shapes())?;
            Ok(inputs[*num_consts..].iter().map(|&shape| shape.clone()).collect())
        }
        Op::Conditional { branches } => {
            let [index, operands @ ..] = inputs else { return fail("an index") };
            let [first, ..] = branches.as_slice() else { return fail("at least one branch") };
            if **index != Shape::scalar(DType::S32) {
                return Err(format!("conditional expects an index of shape s32[], got {index}"));
            }
            for branch in branches {
                arguments("conditional's branch", branch, operands)?;
                if !branch.output_shapes().eq(first.output_shapes()) {
                    let (a, b): (Vec<&Shape>, Vec<&Shape>) =
                        (first.output_shapes().collect(), branch.output_shapes().collect());
                    let (a, b) = (list(&a), list(&b));
                    return Err(format!("conditional expects branches with equal results, got {a} and {b}"));
                }
            }
            Ok(first.output_shapes().cloned().collect())
        }
    }
}

/// As XLA counts them, for which `pred` has one, though it fills a byte.
fn num_bits(dtype: DType) -> usize {
    if dtype == DType::Pred { 1 } else { 8 * dtype.num_bytes() }
}

/// The number of operands, where it is fixed.
fn arity(op: &Op) -> Option<usize> {
    match op {
        Op::Parameter { .. } | Op::Constant(_) | Op::Iota { .. } => Some(0),
        Op::Unary(_) | Op::Convert(_) | Op::BitcastConvert(_) | Op::BroadcastInDim { .. } => Some(1),
        Op::Reshape { .. } | Op::Transpose { .. } | Op::Slice(_) | Op::Reverse { .. } => Some(1),
        Op::Reduce { .. } | Op::RngBitGenerator { .. } | Op::StopGradient => Some(1),
        Op::ShardingConstraint(_) => Some(1),
        Op::Binary(_) | Op::Compare(_) | Op::Pad(_) | Op::DotGeneral { .. } | Op::Gather(_) => Some(2),
        Op::Select | Op::Clamp | Op::Scatter { .. } => Some(3),
        Op::DynamicSlice { sizes } => Some(1 + sizes.len()),
        Op::Concatenate { .. } | Op::DynamicUpdateSlice | Op::Sort { .. } | Op::OptimizationBarrier => None,
        Op::CustomCall(_) | Op::Scan(_) | Op::While { .. } | Op::Conditional { .. } => None,
    }
}

fn list(shapes: Shapes) -> String {
    shapes.iter().map(|shape| shape.to_string()).collect::<Vec<_>>().join(" and ")
}

fn unary(op: UnaryOp, x: &Shape) -> Result<Shape, String> {
    use UnaryOp::*;
    let (ok, expected) = match op {
        Abs | Neg | Sign => (x.dtype().is_signed(), "signed numbers"),
        Not => (!x.dtype().is_float(), "pred or integers"),
        Cbrt | Ceil | Cos | Erf | Exp | Expm1 | Floor | IsFinite | Log | Log1p | Logistic
        | RoundNearestEven | Rsqrt | Sin | Sqrt | Tanh => (x.dtype().is_float(), "floating point numbers"),
    };
    if !ok {
        return Err(format!("{} expects {expected}, got {x}", op.name()));
    }
    Ok(if op == IsFinite { x.with_dtype(DType::Pred) } else { x.clone() })
}

fn binary(op: BinaryOp, a: &Shape, b: &Shape) -> Result<Shape, String> {
    use BinaryOp::*;
    if a != b {
        return Err(format!("{} expects two operands of one shape, got {a} and {b}", op.name()));
    }
    let dtype = a.dtype();
    let (ok, expected) = match op {
        Add | Div | Mul | Pow | Rem | Sub => (dtype != DType::Pred, "numbers"),
        Max | Min => (true, ""),
        And | Or | Xor => (!dtype.is_float(), "pred or integers"),
        ShiftLeft | ShiftRightArithmetic | ShiftRightLogical => (dtype.is_integer(), "integers"),
    };
    if !ok {
        return Err(format!("{} expects {expected}, got {a}", op.name()));
    }
    Ok(a.clone())
}

fn distinct_dims(name: &str, x: &Shape, dims: &[usize]) -> Result<(), String> {
    if distinct(dims, x.rank()) {
        Ok(())
    } else {
        Err(format!("{name} expects distinct dimensions of {x}, got {dims:?}"))
    }
}

fn broadcast(x: &Shape, dims: &[usize], mapping: &[usize]) -> Result<Shape, String> {
    let increasing = mapping.windows(2).all(|pair| pair[0] < pair[1]);
    let fits = mapping.len() == x.rank()
        && increasing
        && mapping
            .iter()
            .zip(x.dims())
            .all(|(&to, &extent)| dims.get(to).is_some_and(|&d| extent == d || extent == 1));
    if !fits {
        return Err(format!("broadcast_in_dim expects {x} to fit {dims:?}, got mapping {mapping:?}"));
    }
    Ok(x.with_dims(dims))
}

fn slice(x: &Shape, dims: &[SliceDim]) -> Result<Shape, String> {
    let fits = dims.len() == x.rank()
        && dims.iter().zip(x.dims()).all(|(s, &d)| s.start <= s.limit && s.limit <= d && s.stride > 0);
    if !fits {
        let ranges: Vec<String> =
            dims.iter().map(|s| format!("{}:{}:{}", s.start, s.limit, s.stride)).collect();
        return Err(format!("slice expects ranges within {x}, got [{}]", ranges.join(", ")));
    }
    Ok(x.with_dims(dims.iter().map(|s| (s.limit - s.start).div_ceil(s.stride)).collect::<Vec<_>>()))
}

fn pad(x: &Shape, value: &Shape, dims: &[PadDim]) -> Result<Shape, String> {
    if *value != Shape::scalar(x.dtype()) || dims.len() != x.rank() {
        return Err(format!(
            "pad expects a scalar of {x}'s type and {} entries, got {value} and {}",
            x.rank(),
            dims.len()
        ));
    }
    let mut padded = Vec::with_capacity(dims.len());
    for (p, &d) in dims.iter().zip(x.dims()) {
        let inner = (d + d.saturating_sub(1) * p.interior) as i64;
        let extent = inner + p.low + p.high;
        if extent < 0 {
            return Err(format!("pad expects to leave {x} non-negative extents, got {extent}"));
        }
        padded.push(extent as usize);
    }
    Ok(x.with_dims(padded))
}

fn concatenate(inputs: Shapes, dim: usize) -> Result<Shape, String> {
    let Some(first) = inputs.first().filter(|shape| dim < shape.rank()) else {
        return Err(format!("concatenate expects operands with dimension {dim}, got {}", list(inputs)));
    };
    let mut dims = first.dims().to_vec();
    dims[dim] = inputs.iter().map(|shape| shape.dims().get(dim).copied().unwrap_or(0)).sum();
    let fits = |shape: &&Shape| {
        shape.dtype() == first.dtype()
            && shape.rank() == first.rank()
            && shape.dims().iter().zip(&dims).enumerate().all(|(i, (a, b))| i == dim || a == b)
    };
    if !inputs.iter().all(fits) {
        return Err(format!(
            "concatenate expects operands that differ in dimension {dim} only, got {}",
            list(inputs)
        ));
    }
    Ok(first.with_dims(dims))
}

fn dot_general(a: &Shape, b: &Shape, dims: &DotDims, result: DType) -> Result<Shape, String> {
    if a.dtype() != b.dtype() || a.dtype() == DType::Pred {
        return Err(format!("dot_general expects numbers of one type, got {a} and {b}"));
    }
    for (shape, batch, contracting) in
        [(a, &dims.lhs_batch, &dims.lhs_contracting), (b, &dims.rhs_batch, &dims.rhs_contracting)]
    {
        let used: Vec<usize> = batch.iter().chain(contracting).copied().collect();
        distinct_dims("dot_general", shape, &used)?;
    }
    let extents = |shape: &Shape, dims: &[usize]| dims.iter().map(|&d| shape.dims()[d]).collect::<Vec<_>>();
    for (what, lhs, rhs) in [
        ("batch", &dims.lhs_batch, &dims.rhs_batch),
        ("contracting", &dims.lhs_contracting, &dims.rhs_contracting),
    ] {
        let (x, y) = (extents(a, lhs), extents(b, rhs));
        if x != y {
            return Err(format!("dot_general expects equal {what} dims, got {x:?} of {a} and {y:?} of {b}"));
        }
    }
    let free = |shape: &Shape, batch: &[usize], contracting: &[usize]| {
        (0..shape.rank())
            .filter(|d| !batch.contains(d) && !contracting.contains(d))
            .map(|d| shape.dims()[d])
            .collect::<Vec<_>>()
    };
    let mut out = extents(a, &dims.lhs_batch);
    out.extend(free(a, &dims.lhs_batch, &dims.lhs_contracting));
    out.extend(free(b, &dims.rhs_batch, &dims.rhs_contracting));
    Ok(Shape::new(result, out))
}

fn starts(name: &str, operand: &Shape, starts: Shapes) -> Result<(), String> {
    let is_index = |shape: &&Shape| shape.is_scalar() && shape.dtype().is_integer() && *shape == starts[0];
    if starts.len() != operand.rank() || !starts.iter().all(is_index) {
        return Err(format!(
            "{name} expects one scalar integer start per dimension of {operand}, all of one type, got {}",
            list(starts)
        ));
    }
    Ok(())
}

/// Extents of the index array without the dimension that holds the index vectors.
fn index_batch_dims(indices: &Shape, index_vector_dim: usize) -> Vec<usize> {
    let dims = indices.dims().iter().enumerate();
    dims.filter(|(i, _)| *i != index_vector_dim).map(|(_, &d)| d).collect()
}

fn gather(operand: &Shape, indices: &Shape, dims: &GatherDims) -> Result<Shape, String> {
    let fail = |what: &str| Err(format!("gather expects {what}, got {operand} and {indices} with {dims:?}"));
    let rank = operand.rank();
    if !indices.dtype().is_integer() || dims.index_vector_dim > indices.rank() {
        return fail("integer indices that have the index vector dimension");
    }
    let vector_len = indices.dims().get(dims.index_vector_dim).copied().unwrap_or(1);
    if vector_len != dims.start_index_map.len() {
        return fail("index vectors as long as start_index_map");
    }
    let numbers = IndexDims {
        dropped: &dims.collapsed_slice_dims,
        indexed: &dims.start_index_map,
        operand_batch: &dims.operand_batching_dims,
        indices_batch: &dims.start_indices_batching_dims,
        index_vector_dim: dims.index_vector_dim,
    };
    if let Err(what) = numbers.check(operand, indices) {
        return fail(what);
    }
    if dims.slice_sizes.len() != rank || dims.slice_sizes.iter().zip(operand.dims()).any(|(s, d)| s > d) {
        return fail("slice sizes within the operand");
    }
    let dropped = |d: &usize| dims.collapsed_slice_dims.contains(d) || dims.operand_batching_dims.contains(d);
    if (0..rank).filter(dropped).any(|d| dims.slice_sizes[d] > 1) {
        return fail("slices of extent 1 where dimensions are collapsed");
    }
    let window: Vec<usize> = (0..rank).filter(|d| !dropped(d)).map(|d| dims.slice_sizes[d]).collect();
    let batch = index_batch_dims(indices, dims.index_vector_dim);
    if window.len() != dims.offset_dims.len() {
        return fail("one offset dimension for each dimension of the slice that is kept");
    }
    let total = window.len() + batch.len();
    if !increasing(&dims.offset_dims, total) {
        return fail("offset dimensions of the result in increasing order");
    }
    let (mut window, mut batch) = (window.into_iter(), batch.into_iter());
    let out = (0..total).filter_map(|i| match dims.offset_dims.contains(&i) {
        true => window.next(),
        false => batch.next(),
    });
    Ok(operand.with_dims(out.collect::<Vec<_>>()))
}

/// What the dimension numbers of a gather and of a scatter have in common.
struct IndexDims<'a> {
    /// Operand dimensions that a slice has one element of, and the other side lacks.
    dropped: &'a [usize],
    /// Operand dimensions that the parts of an index vector are positions in.
    indexed: &'a [usize],
    operand_batch: &'a [usize],
    indices_batch: &'a [usize],
    index_vector_dim: usize,
}

impl IndexDims<'_> {
    fn check(&self, operand: &Shape, indices: &Shape) -> Result<(), &'static str> {
        let rank = operand.rank();
        // XLA takes none, but its passes do not.
        if self.indexed.is_empty() {
            return Err("at least one indexed dimension");
        }
        if !increasing(self.dropped, rank) || !increasing(self.operand_batch, rank) {
            return Err("dropped and batch dimensions of the operand in increasing order");
        }
        if !distinct(self.indexed, rank) || !distinct(self.indices_batch, indices.rank()) {
            return Err("distinct dimensions of the operand and of the indices");
        }
        let is_batch = |d: &usize| self.operand_batch.contains(d);
        if self.dropped.iter().chain(self.indexed).any(is_batch) {
            return Err("batch dimensions that are neither dropped nor indexed");
        }
        let operand_extents = self.operand_batch.iter().map(|&d| operand.dims()[d]);
        let indices_extents = self.indices_batch.iter().map(|&d| indices.dims()[d]);
        if !operand_extents.eq(indices_extents) || self.indices_batch.contains(&self.index_vector_dim) {
            return Err("batch dimensions of equal extents");
        }
        Ok(())
    }
}

fn increasing(dims: &[usize], below: usize) -> bool {
    dims.windows(2).all(|pair| pair[0] < pair[1]) && dims.last().is_none_or(|&last| last < below)
}

fn distinct(dims: &[usize], below: usize) -> bool {
    dims.iter().enumerate().all(|(i, d)| *d < below && !dims[..i].contains(d))
}

fn scatter(operand: &Shape, indices: &Shape, updates: &Shape, dims: &ScatterDims) -> Result<Shape, String> {
    let fail = |what: &str| {
        Err(format!("scatter expects {what}, got {operand}, {indices} and {updates} with {dims:?}"))
    };
    if !indices.dtype().is_integer() || dims.index_vector_dim > indices.rank() {
        return fail("integer indices that have the index vector dimension");
    }
    if updates.dtype() != operand.dtype() {
        return fail("updates of the operand's type");
    }
    let vector_len = indices.dims().get(dims.index_vector_dim).copied().unwrap_or(1);
    if vector_len != dims.scatter_dims_to_operand_dims.len() {
        return fail("index vectors as long as scatter_dims_to_operand_dims");
    }
    let numbers = IndexDims {
        dropped: &dims.inserted_window_dims,
        indexed: &dims.scatter_dims_to_operand_dims,
        operand_batch: &dims.input_batching_dims,
        indices_batch: &dims.scatter_indices_batching_dims,
        index_vector_dim: dims.index_vector_dim,
    };
    if let Err(what) = numbers.check(operand, indices) {
        return fail(what);
    }
    if !increasing(&dims.update_window_dims, updates.rank()) {
        return fail("window dimensions of the updates in increasing order");
    }
    let batch = index_batch_dims(indices, dims.index_vector_dim);
    let (mut window_sizes, mut batch_sizes) = (Vec::new(), Vec::new());
    for (i, &extent) in updates.dims().iter().enumerate() {
        if dims.update_window_dims.contains(&i) {
            window_sizes.push(extent)
        } else {
            batch_sizes.push(extent)
        }
    }
    if batch_sizes != batch {
        return fail("updates with the extents of the indices");
    }
    let dropped = |d: &usize| dims.inserted_window_dims.contains(d) || dims.input_batching_dims.contains(d);
    let room: Vec<usize> = (0..operand.rank()).filter(|d| !dropped(d)).map(|d| operand.dims()[d]).collect();
    if room.len() != window_sizes.len() || window_sizes.iter().zip(&room).any(|(w, r)| w > r) {
        return fail("update windows within the operand");
    }
    Ok(operand.clone())
}

/// Whether `function` takes arguments of these shapes.
fn arguments(what: &str, function: &Function, inputs: Shapes) -> Result<(), String> {
    if function.parameter_shapes().eq(inputs.iter().copied()) {
        return Ok(());
    }
    let wanted: Vec<&Shape> = function.parameter_shapes().collect();
    Err(format!("{what} expects {}, got {}", list(&wanted), list(inputs)))
}

/// Whether a loop's body returns carries of the shapes it takes.
fn carries<'a>(
    what: &str,
    init: Shapes,
    results: impl ExactSizeIterator<Item = &'a Shape>,
) -> Result<(), String> {
    if results.len() < init.len() {
        return Err(format!(
            "{what} expects its body to return {} carries, got {}",
            init.len(),
            results.len()
        ));
    }
    for (i, (want, got)) in init.iter().zip(results).enumerate() {
        if *want != got {
            return Err(format!("{what} expects carry {i} to stay {want}, got {got}"));
        }
    }
    Ok(())
}

fn scan(spec: &ScanSpec, inputs: Shapes) -> Result<Vec<Shape>, String> {
    if spec.length == 0 {
        return Err("scan expects at least one step, got 0".into());
    }
    let num_fixed = spec.num_consts + spec.num_carries;
    let mut step_inputs = Vec::with_capacity(inputs.len());
    for (i, &shape) in inputs.iter().enumerate() {
        match shape.dims().split_first() {
            _ if i < num_fixed => step_inputs.push(shape.clone()),
            Some((&length, rest)) if length == spec.length => step_inputs.push(shape.with_dims(rest)),
            _ => return Err(format!("scan expects inputs of {} steps, got {shape}", spec.length)),
        }
    }
    arguments("scan's body", &spec.body, &step_inputs.iter().collect::<Vec<_>>())?;
    let init = &inputs[spec.num_consts..num_fixed];
    carries("scan", init, spec.body.output_shapes())?;
    let outputs = spec.body.output_shapes().skip(spec.num_carries).map(|shape| {
        let dims: Vec<usize> = std::iter::once(spec.length).chain(shape.dims().iter().copied()).collect();
        shape.with_dims(dims)
    });
    Ok(init.iter().map(|&shape| shape.clone()).chain(outputs).collect())
}
