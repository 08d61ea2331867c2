//! The gradient rule of each operation: cotangents of the operands, given those of the results.
//!
//! Operations that are constant almost everywhere, or that only have integer results, have none by
//! nature and say so. Rules follow `jax.lax`, where edge cases are decided.

use super::control;
use super::sweep::Context;
use crate::array::{DType, HostArray, Shape};
use crate::graph::{
    BinaryOp, DotDims, GatherDims, Op, PadDim, Precision, ReduceOp, Result, ScatterDims, ScatterOp, SliceDim,
    UnaryOp, Value,
};

type Cotangents = Vec<Option<Value>>;

pub(super) fn vjp(cx: &mut Context<'_>, results: Cotangents) -> Result<Cotangents> {
    let node = cx.node;
    match &node.op {
        Op::Scan(spec) => return control::scan(cx, spec, results),
        Op::Conditional { branches } => return control::conditional(cx, branches, results),
        Op::Sort { dim, descending } => return sort(cx, *dim, *descending, results),
        Op::OptimizationBarrier => {
            let barrier = |ct: Value| Ok(Value::optimization_barrier(&[&ct])?.swap_remove(0));
            return results.into_iter().map(|ct| ct.map(barrier).transpose()).collect();
        }
        _ => {}
    }
    let Some(g) = results.into_iter().next().flatten() else { return Ok(vec![None; node.inputs.len()]) };
    match &node.op {
        Op::Parameter { .. } | Op::Constant(_) | Op::Iota { .. } => none(cx),
        Op::Unary(op) => unary(cx, *op, &g),
        Op::Binary(op) => binary(cx, *op, &g),
        Op::Compare(_) | Op::BitcastConvert(_) | Op::RngBitGenerator { .. } | Op::StopGradient => none(cx),
        Op::Select => {
            let pred = cx.input(0)?;
            let zero = g.full_like(0.0)?;
            Ok(vec![None, Some(pred.select(&g, &zero)?), Some(pred.select(&zero, &g)?)])
        }
        Op::Clamp => clamp(cx, &g),
        Op::Convert(_) => single(g.convert(cx.input_shape(0).dtype())),
        Op::BroadcastInDim { mapping, .. } => broadcast(cx, mapping, &g),
        Op::Reshape { .. } => single(g.reshape(cx.input_shape(0).dims())),
        Op::Transpose { permutation } => {
            let mut inverse = vec![0; permutation.len()];
            permutation.iter().enumerate().for_each(|(i, &p)| inverse[p] = i);
            single(g.transpose(&inverse))
        }
        Op::Slice(dims) => {
            let shape = cx.input_shape(0).clone();
            let pads = dims.iter().zip(shape.dims()).zip(g.dims()).map(|((s, &extent), &taken)| {
                let end = if taken == 0 { s.start } else { s.start + (taken - 1) * s.stride + 1 };
                PadDim { low: s.start as i64, high: extent as i64 - end as i64, interior: s.stride - 1 }
            });
            let zero = g.builder().scalar(g.dtype(), 0.0)?;
            single(g.pad(&zero, &pads.collect::<Vec<_>>()))
        }
        Op::Pad(dims) => pad(cx, dims, &g),
        Op::Concatenate { dim } => {
            let mut start = 0;
            let mut parts = Vec::with_capacity(node.inputs.len());
            for index in 0..node.inputs.len() {
                let extent = cx.input_shape(index).dims()[*dim];
                parts.push(Some(g.slice_in_dim(*dim, start, start + extent)?));
                start += extent;
            }
            Ok(parts)
        }
        Op::Reverse { dims } => single(g.reverse(dims)),
        Op::DotGeneral { dims, precision, .. } => dot_general(cx, dims, *precision, &g),
        Op::Reduce { op, dims } => reduce(cx, *op, dims, &g),
        Op::DynamicSlice { .. } => {
            let zeros = g.builder().zeros(cx.input_shape(0))?;
            let starts = starts(cx, 1)?;
            with_starts(zeros.dynamic_update_slice(&g, &starts.iter().collect::<Vec<_>>())?, vec![], &starts)
        }
        Op::DynamicUpdateSlice => {
            let update = cx.input_shape(1).clone();
            let starts = starts(cx, 2)?;
            let refs: Vec<&Value> = starts.iter().collect();
            let of_operand = g.dynamic_update_slice(&g.builder().zeros(&update)?, &refs)?;
            let of_update = g.dynamic_slice(&refs, update.dims())?;
            with_starts(of_operand, vec![of_update], &starts)
        }
        Op::Gather(dims) => {
            // A table that is read and also multiplied by, as tied embeddings are, has a cotangent already.
            let sum = cx.so_far.take().map_or_else(|| g.builder().zeros(cx.input_shape(0)), Ok)?;
            let indices = inside(&cx.input(1)?, sum.shape(), dims)?;
            Ok(vec![Some(sum.scatter(&indices, &g, transposed_gather(dims), ScatterOp::Add)?), None])
        }
        Op::Scatter { dims, op } => scatter(cx, dims, *op, &g),
        Op::ShardingConstraint(sharding) => single(g.with_sharding(sharding.clone())),
        Op::CustomCall(call) => missing(cx, &format!("custom_call \"{}\"", call.target), ""),
        Op::While { .. } => missing(cx, "while", ", use a scan, whose length is known"),
        Op::Sort { .. } | Op::OptimizationBarrier | Op::Scan(_) | Op::Conditional { .. } => {
            unreachable!("operations with several results were handled above")
        }
    }
}

fn single(cotangent: Result<Value>) -> Result<Cotangents> {
    Ok(vec![Some(cotangent?)])
}

/// No gradient, by nature.
fn none(cx: &Context<'_>) -> Result<Cotangents> {
    Ok(vec![None; cx.node.inputs.len()])
}

fn missing(cx: &Context<'_>, what: &str, hint: &str) -> Result<Cotangents> {
    Err(cx.target.error(format!("{what} has no gradient{hint}")))
}

fn unary(cx: &mut Context<'_>, op: UnaryOp, g: &Value) -> Result<Cotangents> {
    use UnaryOp::*;
    single(match op {
        Abs => g.mul(&cx.input(0)?.sign()?),
        Cbrt => g.mul(&cx.output(0)?.div(&cx.input(0)?.mul_scalar(3.0)?)?),
        Cos => g.mul(&cx.input(0)?.sin()?)?.neg(),
        Erf => {
            let bell = cx.input(0)?.square()?.neg()?.exp()?;
            g.mul(&bell.mul_scalar(std::f64::consts::FRAC_2_SQRT_PI)?)
        }
        Exp => g.mul(&cx.output(0)?),
        Expm1 => g.mul(&cx.output(0)?.add_scalar(1.0)?),
        Log => g.div(&cx.input(0)?),
        Log1p => g.div(&cx.input(0)?.add_scalar(1.0)?),
        Logistic => {
            let y = cx.output(0)?;
            g.mul(&y.mul(&y.full_like(1.0)?.sub(&y)?)?)
        }
        Neg => g.neg(),
        Rsqrt => g.mul(&cx.output(0)?.div(&cx.input(0)?)?.mul_scalar(-0.5)?),
        Sin => g.mul(&cx.input(0)?.cos()?),
        Sqrt => g.mul_scalar(0.5)?.div(&cx.output(0)?),
        Tanh => {
            let y = cx.output(0)?;
            g.add(&g.mul(&y)?)?.mul(&y.full_like(1.0)?.sub(&y)?)
        }
        Ceil | Floor | IsFinite | Not | RoundNearestEven | Sign => return none(cx),
    })
}

fn binary(cx: &mut Context<'_>, op: BinaryOp, g: &Value) -> Result<Cotangents> {
    use BinaryOp::*;
    let (need_x, need_y) = (cx.needs[0], cx.needs[1]);
    let mut of_x = None;
    let mut of_y = None;
    match op {
        Add => (of_x, of_y) = (Some(g.clone()), Some(g.clone())),
        Sub => {
            of_x = Some(g.clone());
            of_y = need_y.then(|| g.neg()).transpose()?;
        }
        Mul => {
            if need_x {
                of_x = Some(g.mul(&cx.input(1)?)?);
            }
            if need_y {
                of_y = Some(g.mul(&cx.input(0)?)?);
            }
        }
        Div => {
            let y = cx.input(1)?;
            if need_x {
                of_x = Some(g.div(&y)?);
            }
            if need_y {
                of_y = Some(g.neg()?.mul(&cx.input(0)?)?.div(&y.square()?)?);
            }
        }
        Max | Min => {
            let (x, y) = (cx.input(0)?, cx.input(1)?);
            let (zero, half) = (g.full_like(0.0)?, g.mul_scalar(0.5)?);
            let (winner, loser) = if op == Max { (&x, &y) } else { (&y, &x) };
            let (x_wins, y_wins) = (winner.gt(loser)?, loser.gt(winner)?);
            let tie = x.eq(&y)?.select(&half, &zero)?;
            of_x = Some(x_wins.select(g, &tie)?);
            of_y = Some(y_wins.select(g, &tie)?);
        }
        Pow => {
            let (x, y) = (cx.input(0)?, cx.input(1)?);
            let zero = y.full_like(0.0)?;
            if need_x {
                // y x^(y-1), where x^0 has slope 0 even at x = 0.
                let one = y.full_like(1.0)?;
                let power = y.eq(&zero)?.select(&one, &y.sub(&one)?)?;
                of_x = Some(g.mul(&y)?.mul(&x.pow(&power)?)?);
            }
            if need_y {
                // log(x) x^y, where 0^y is flat.
                let safe = x.eq(&zero)?.select(&x.full_like(1.0)?, &x)?;
                of_y = Some(g.mul(&safe.log()?)?.mul(&cx.output(0)?)?);
            }
        }
        Rem => {
            of_x = Some(g.clone());
            if need_y {
                let quotient = cx.input(0)?.div(&cx.input(1)?)?;
                let truncated = quotient.sign()?.mul(&quotient.abs()?.floor()?)?;
                of_y = Some(g.neg()?.mul(&truncated)?);
            }
        }
        And | Or | ShiftLeft | ShiftRightArithmetic | ShiftRightLogical | Xor => return none(cx),
    }
    Ok(vec![of_x, of_y])
}

/// The operand's slope is 1 strictly inside the bounds; a bound's is 1 where the operand is beyond it.
fn clamp(cx: &mut Context<'_>, g: &Value) -> Result<Cotangents> {
    let (low, x, high) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let zero = g.full_like(0.0)?;
    let to_bound = |bound: &Value, ct: Value| if bound.shape().is_scalar() { ct.sum_all() } else { Ok(ct) };
    let inside = x.gt(&low)?.and(&x.lt(&high)?)?;
    let below = low.gt(&x)?.and(&low.lt(&high)?.broadcast_to(x.dims())?)?;
    let above = high.lt(&x)?;
    Ok(vec![
        Some(to_bound(&low, below.select(g, &zero)?)?),
        Some(inside.select(g, &zero)?),
        Some(to_bound(&high, above.select(g, &zero)?)?),
    ])
}

fn broadcast(cx: &Context<'_>, mapping: &[usize], g: &Value) -> Result<Cotangents> {
    let shape = cx.input_shape(0);
    let repeated = |dim: &usize| match mapping.iter().position(|to| to == dim) {
        Some(from) => shape.dims()[from] != g.dims()[*dim],
        None => true,
    };
    let summed: Vec<usize> = (0..g.rank()).filter(repeated).collect();
    single(g.reduce_sum(&summed)?.reshape(shape.dims()))
}

fn pad(cx: &Context<'_>, dims: &[PadDim], g: &Value) -> Result<Cotangents> {
    // What padding cut away comes back as zeros, what it added is cut.
    let back: Vec<PadDim> = dims.iter().map(|p| PadDim { low: -p.low, high: -p.high, interior: 0 }).collect();
    let zero = g.builder().scalar(g.dtype(), 0.0)?;
    let uncut = g.pad(&zero, &back)?;
    let strides: Vec<SliceDim> = dims
        .iter()
        .zip(uncut.dims())
        .map(|(p, &limit)| SliceDim { start: 0, limit, stride: p.interior + 1 })
        .collect();
    let of_operand = uncut.slice(&strides)?;
    let of_value = match cx.needs[1] {
        true => Some(g.sum_all()?.sub(&of_operand.sum_all()?)?),
        false => None,
    };
    Ok(vec![Some(of_operand), of_value])
}

/// The dimensions of one operand of a product.
struct Side<'a> {
    batch: &'a [usize],
    contracting: &'a [usize],
    free: Vec<usize>,
}

impl<'a> Side<'a> {
    fn new(rank: usize, batch: &'a [usize], contracting: &'a [usize]) -> Self {
        let free = (0..rank).filter(|dim| !batch.contains(dim) && !contracting.contains(dim)).collect();
        Side { batch, contracting, free }
    }
}

fn dot_general(cx: &mut Context<'_>, dims: &DotDims, precision: Precision, g: &Value) -> Result<Cotangents> {
    let lhs = Side::new(cx.input_shape(0).rank(), &dims.lhs_batch, &dims.lhs_contracting);
    let rhs = Side::new(cx.input_shape(1).rank(), &dims.rhs_batch, &dims.rhs_contracting);
    let num_batch = lhs.batch.len();
    let of_rhs = num_batch + lhs.free.len();

    // The cotangent times the other side, contracted over the other's free dimensions.
    let mut cotangent = |index: usize| -> Result<Option<Value>> {
        if !cx.needs[index] {
            return Ok(None);
        }
        let (own, theirs, free_in_g) = match index {
            0 => (&lhs, &rhs, of_rhs..g.rank()),
            _ => (&rhs, &lhs, num_batch..of_rhs),
        };
        let other = cx.input(1 - index)?;
        let g = g.convert(other.dtype())?;
        let with_g = (&g, (0..num_batch).collect::<Vec<_>>(), free_in_g.collect::<Vec<_>>());
        let with_other = (&other, theirs.batch.to_vec(), theirs.free.clone());
        // A kernel's gradient lies as the kernel does: what comes first in the one comes first in the other.
        let other_first = num_batch == 0 && own.contracting.iter().min() < own.free.iter().min();
        let [a, b] = if other_first { [with_other, with_g] } else { [with_g, with_other] };
        let dims = DotDims { lhs_batch: a.1, lhs_contracting: a.2, rhs_batch: b.1, rhs_contracting: b.2 };
        let result = cx.input_shape(index).dtype();
        let product = Value::apply(Op::DotGeneral { dims, precision, result }, &[a.0, b.0])?;

        // The product has the batch's dimensions, then the operand's free ones and the contracted ones in the other's
        // order, or the other way round.
        let (free_at, contracted_at) = match other_first {
            true => (num_batch + own.contracting.len(), num_batch),
            false => (num_batch, num_batch + own.free.len()),
        };
        let mut permutation = vec![0; cx.input_shape(index).rank()];
        own.batch.iter().enumerate().for_each(|(i, &dim)| permutation[dim] = i);
        own.free.iter().enumerate().for_each(|(i, &dim)| permutation[dim] = free_at + i);
        for (&dim, partner) in own.contracting.iter().zip(theirs.contracting) {
            let place = theirs.contracting.iter().filter(|other| *other < partner).count();
            permutation[dim] = contracted_at + place;
        }
        Ok(Some(product.transpose(&permutation)?))
    };
    Ok(vec![cotangent(0)?, cotangent(1)?])
}

fn reduce(cx: &mut Context<'_>, op: ReduceOp, dims: &[usize], g: &Value) -> Result<Cotangents> {
    let shape = cx.input_shape(0).clone();
    let kept: Vec<usize> = (0..shape.rank()).filter(|d| !dims.contains(d)).collect();
    let spread = |value: &Value| value.broadcast_in_dim(shape.dims(), &kept);
    match op {
        ReduceOp::Sum => single(spread(g)),
        ReduceOp::Max | ReduceOp::Min => {
            let chosen = cx.input(0)?.eq(&spread(&cx.output(0)?)?)?.convert(shape.dtype())?;
            let share = g.div(&chosen.reduce_sum(dims)?)?;
            single(spread(&share)?.mul(&chosen))
        }
        ReduceOp::Prod => missing(cx, "reduce_prod", ", write it as exp of a sum of logs"),
        ReduceOp::And | ReduceOp::Or => none(cx),
    }
}

fn starts(cx: &mut Context<'_>, first: usize) -> Result<Vec<Value>> {
    (first..cx.node.inputs.len()).map(|index| cx.input(index)).collect()
}

fn with_starts(of_operand: Value, more: Vec<Value>, starts: &[Value]) -> Result<Cotangents> {
    let arrays = std::iter::once(of_operand).chain(more).map(Some);
    Ok(arrays.chain(starts.iter().map(|_| None)).collect())
}

/// Writing where a gather reads.
fn transposed_gather(dims: &GatherDims) -> ScatterDims {
    ScatterDims {
        update_window_dims: dims.offset_dims.clone(),
        inserted_window_dims: dims.collapsed_slice_dims.clone(),
        scatter_dims_to_operand_dims: dims.start_index_map.clone(),
        input_batching_dims: dims.operand_batching_dims.clone(),
        scatter_indices_batching_dims: dims.start_indices_batching_dims.clone(),
        index_vector_dim: dims.index_vector_dim,
    }
}

/// The start indices that a gather uses: moved inside, where a scatter would drop what it writes there.
fn inside(indices: &Value, operand: &Shape, dims: &GatherDims) -> Result<Value> {
    let last = |&d: &usize| (operand.dims()[d] - dims.slice_sizes[d]) as f64;
    let last: Vec<f64> = dims.start_index_map.iter().map(last).collect();
    let last = HostArray::new([last.len()], &last).expect("the extent is the number of values");
    let last = indices.builder().constant(last.cast(indices.dtype()))?;
    let last = match dims.index_vector_dim {
        dim if dim < indices.rank() => last.broadcast_in_dim(indices.dims(), &[dim])?,
        _ => last.reshape(&[])?,
    };
    indices.max_scalar(0.0)?.min(&last)
}

/// Updates get what was written where they were: nothing for those that were dropped, and where several
/// were assigned to one place, all of it for the one that is there now.
fn scatter(cx: &mut Context<'_>, dims: &ScatterDims, op: ScatterOp, g: &Value) -> Result<Cotangents> {
    let updates = cx.input_shape(2);
    let indices = cx.input(1)?;
    let of_operand = match op {
        ScatterOp::Add => g.clone(),
        ScatterOp::Assign => {
            g.scatter(&indices, &g.builder().zeros(updates)?, dims.clone(), ScatterOp::Assign)?
        }
    };
    if !cx.needs[2] {
        return Ok(vec![Some(of_operand), None, None]);
    }
    let reads = transposed_scatter(dims, updates, g.rank());
    let batch: Vec<usize> = (0..updates.rank()).filter(|d| !dims.update_window_dims.contains(d)).collect();
    let written = match op {
        ScatterOp::Add => {
            let is_inside = indices.eq(&inside(&indices, g.shape(), &reads)?)?;
            let is_inside = match dims.index_vector_dim {
                dim if dim < indices.rank() => is_inside.reduce_and(&[dim])?,
                _ => is_inside,
            };
            is_inside.broadcast_in_dim(updates.dims(), &batch)?
        }
        ScatterOp::Assign => {
            // Each update leaves its number, and has won where that is found again.
            let batch_dims: Vec<usize> = batch.iter().map(|&d| updates.dims()[d]).collect();
            let count = Shape::new(DType::S32, [batch_dims.iter().product()]);
            let number = g.builder().iota(count, 0)?.reshape(&batch_dims)?;
            let number = number.broadcast_in_dim(updates.dims(), &batch)?;
            let nobody = g.builder().full(&g.shape().with_dtype(DType::S32), -1.0)?;
            let winner = nobody.scatter(&indices, &number, dims.clone(), ScatterOp::Assign)?;
            winner.gather(&indices, reads.clone())?.eq(&number)?
        }
    };
    let of_updates = g.gather(&indices, reads)?;
    let of_updates = written.select(&of_updates, &of_updates.full_like(0.0)?)?;
    Ok(vec![Some(of_operand), None, Some(of_updates)])
}

/// Reading where a scatter writes.
fn transposed_scatter(dims: &ScatterDims, updates: &Shape, rank: usize) -> GatherDims {
    let mut window = dims.update_window_dims.iter().map(|&d| updates.dims()[d]);
    let dropped = |d: &usize| dims.inserted_window_dims.contains(d) || dims.input_batching_dims.contains(d);
    GatherDims {
        offset_dims: dims.update_window_dims.clone(),
        collapsed_slice_dims: dims.inserted_window_dims.clone(),
        start_index_map: dims.scatter_dims_to_operand_dims.clone(),
        operand_batching_dims: dims.input_batching_dims.clone(),
        start_indices_batching_dims: dims.scatter_indices_batching_dims.clone(),
        index_vector_dim: dims.index_vector_dim,
        slice_sizes: (0..rank).map(|d| if dropped(&d) { 1 } else { window.next().unwrap_or(1) }).collect(),
    }
}

/// Cotangents travel back along the permutation that ordered the keys.
fn sort(cx: &mut Context<'_>, dim: usize, descending: bool, results: Cotangents) -> Result<Cotangents> {
    let key = cx.input(0)?;
    let place = key.builder().iota(Shape::new(DType::S32, key.dims()), dim)?;
    let order = Value::sort(&[&key, &place], dim, descending)?.swap_remove(1);
    let undo = |ct: Value| Ok(Value::sort(&[&order, &ct], dim, false)?.swap_remove(1));
    results.into_iter().map(|ct| ct.map(undo).transpose()).collect()
}
