//! Matrix products in Einstein's notation, so that a model reads as its reference does.

use super::{DotDims, Op, Result, Value};
use crate::array::DType;

impl Value {
    /// `jnp.einsum` of two operands: `x.einsum("BTD,NDH->BTNH", &w)`. Axes that the result lacks are
    /// summed over.
    #[track_caller]
    pub fn einsum(&self, spec: &str, rhs: &Value) -> Result<Value> {
        let fail = |what: String| Value::innermost(&[self, rhs]).error(format!("einsum \"{spec}\" {what}"));
        let Some((lhs_axes, rhs_axes, out_axes)) = parse(spec) else {
            return Err(fail(
                "expects two operands and a result, each axis once, as in \"ab,bc->ac\"".into(),
            ));
        };
        for (axes, value) in [(&lhs_axes, self), (&rhs_axes, rhs)] {
            if axes.len() != value.rank() {
                return Err(fail(format!("expects rank {}, got {}", axes.len(), value.shape())));
            }
        }
        for (i, axis) in lhs_axes.iter().enumerate() {
            if let Some(j) = position(&rhs_axes, *axis)
                && self.dims()[i] != rhs.dims()[j]
            {
                let (a, b) = (self.dims()[i], rhs.dims()[j]);
                return Err(fail(format!("expects equal extents for axis '{axis}', got {a} and {b}")));
            }
        }
        if let Some(axis) = out_axes.iter().find(|&&a| !lhs_axes.contains(&a) && !rhs_axes.contains(&a)) {
            return Err(fail(format!("has axis '{axis}' in the result only")));
        }

        // Axes of one operand that the result lacks are summed first; the rest is one dot_general.
        let (lhs, lhs_axes) = sum_out(self, lhs_axes, |a| rhs_axes.contains(&a) || out_axes.contains(&a))?;
        let (rhs, rhs_axes) = sum_out(rhs, rhs_axes, |a| lhs_axes.contains(&a) || out_axes.contains(&a))?;
        let (rhs_axes, out_axes) = (&rhs_axes, &out_axes);
        let shared = |in_result: bool| {
            lhs_axes.iter().filter(move |a| rhs_axes.contains(a) && out_axes.contains(a) == in_result)
        };
        let places = |axes: &[char], wanted: Vec<char>| -> Vec<usize> {
            wanted.iter().filter_map(|&a| position(axes, a)).collect()
        };
        let batch: Vec<char> = shared(true).copied().collect();
        let contracted: Vec<char> = shared(false).copied().collect();
        let dims = DotDims {
            lhs_contracting: places(&lhs_axes, contracted.clone()),
            rhs_contracting: places(rhs_axes, contracted.clone()),
            lhs_batch: places(&lhs_axes, batch.clone()),
            rhs_batch: places(rhs_axes, batch.clone()),
        };
        let is_free = |a: &&char| !batch.contains(a) && !contracted.contains(a);
        let product_axes: Vec<char> = batch
            .iter()
            .chain(lhs_axes.iter().filter(is_free))
            .chain(rhs_axes.iter().filter(is_free))
            .copied()
            .collect();
        lhs.dot_general(&rhs, dims)?.transpose(&places(&product_axes, out_axes.clone()))
    }

    /// XLA's `dot_general`; the result has the operands' type.
    #[track_caller]
    pub fn dot_general(&self, rhs: &Value, dims: DotDims) -> Result<Value> {
        self.dot_general_as(rhs, dims, self.dtype())
    }

    /// As [`dot_general`](Self::dot_general), with products summed and returned in a wider type.
    #[track_caller]
    pub fn dot_general_as(&self, rhs: &Value, dims: DotDims, result: DType) -> Result<Value> {
        let precision = Value::innermost(&[self, rhs]).precision();
        Value::apply(Op::DotGeneral { dims, precision, result }, &[self, rhs])
    }
}

fn position(axes: &[char], axis: char) -> Option<usize> {
    axes.iter().position(|&a| a == axis)
}

/// The axes of both operands and of the result; `None` if the text is not of that form.
fn parse(spec: &str) -> Option<(Vec<char>, Vec<char>, Vec<char>)> {
    let (operands, out) = spec.split_once("->")?;
    let (lhs, rhs) = operands.split_once(',')?;
    let axes = |text: &str| -> Option<Vec<char>> {
        let axes: Vec<char> = text.trim().chars().collect();
        let distinct =
            axes.iter().enumerate().all(|(i, a)| a.is_ascii_alphanumeric() && !axes[..i].contains(a));
        distinct.then_some(axes)
    };
    Some((axes(lhs)?, axes(rhs)?, axes(out)?))
}

#[track_caller]
fn sum_out(value: &Value, axes: Vec<char>, keep: impl Fn(char) -> bool) -> Result<(Value, Vec<char>)> {
    let summed: Vec<usize> = (0..axes.len()).filter(|&i| !keep(axes[i])).collect();
    if summed.is_empty() {
        return Ok((value.clone(), axes));
    }
    Ok((value.reduce_sum(&summed)?, axes.into_iter().filter(|&a| keep(a)).collect()))
}
