//! Reverse-mode differentiation, as a transformation of graphs into graphs.
//!
//! [`gradient`] walks the nodes from a loss backwards and appends, for each operation that lies between
//! the loss and a wanted value, the operations of its rule (`vjp.rs`, one row per operation). What does
//! not lead to a wanted value costs nothing: a frozen tower gets no backward pass and keeps nothing in
//! memory. An operation without a rule is an error that names it and its place, never a silent zero.
//!
//! A [`scan`](crate::graph::Builder::scan) is differentiated once, as a loop: its forward pass also
//! stores what its policy allows, and a second scan runs backwards over that (`control.rs`).
//!
//! Ties and edge cases are JAX's: `max` and `min` split evenly, `reduce_max` divides by the number of
//! largest elements, `abs` has slope 0 at 0.

mod control;
mod primals;
mod sweep;
#[cfg(test)]
mod tests;
mod vjp;

use crate::graph::{Result, Value};

use primals::Here;
use sweep::Sweep;

/// The derivatives of a scalar with respect to `wrt`, in their shapes and types; zeros where the scalar
/// does not depend on one.
///
/// # Errors
/// When `loss` is not a floating point scalar, or an operation on the way has no gradient.
#[track_caller]
pub fn gradient(loss: &Value, wrt: &[Value]) -> Result<Vec<Value>> {
    if !loss.shape().is_scalar() || !loss.dtype().is_float() {
        let message = format!("gradient expects a floating point scalar, got {}", loss.shape());
        return Err(loss.builder().error(message));
    }
    let one = loss.full_like(1.0)?;
    let cotangents = vjp(&[(loss.clone(), one)], wrt)?;
    cotangents
        .into_iter()
        .zip(wrt)
        .map(|(cotangent, value)| cotangent.map_or_else(|| value.full_like(0.0), Ok))
        .collect()
}

/// The vector-Jacobian product: cotangents of `wrt`, given those of some outputs; `None` where no output
/// depends on a value. All values belong to one builder.
#[track_caller]
pub fn vjp(outputs: &[(Value, Value)], wrt: &[Value]) -> Result<Vec<Option<Value>>> {
    let Some((first, _)) = outputs.first() else { return Ok(vec![None; wrt.len()]) };
    let builder = first.builder().clone();
    let given = outputs.iter().flat_map(|(value, cotangent)| [value, cotangent]);
    if let Some(foreign) = given.chain(wrt).find(|value| !value.builder().is_same(&builder)) {
        return Err(builder.error(format!("vjp expects values of one program, got {foreign:?} of another")));
    }
    if let Some((value, cotangent)) = outputs.iter().find(|(value, ct)| value.shape() != ct.shape()) {
        let (want, got) = (value.shape(), cotangent.shape());
        return Err(builder.error(format!("vjp expects a cotangent of shape {want}, got {got}")));
    }
    let nodes = builder.snapshot();
    let wanted: Vec<_> = wrt.iter().map(Value::output).collect();
    let seeds = outputs.iter().map(|(value, cotangent)| (value.output(), cotangent.clone())).collect();
    Sweep { nodes: &nodes, target: &builder, primals: &mut Here(&builder) }.run(seeds, &wanted)
}
