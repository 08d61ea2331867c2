//! Loops and branches. Their bodies are written as closures that may use values of the surrounding
//! program; those become arguments of the body.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::{Builder, Function, Op, Result, ScanSpec, Value};

/// What the gradient of a [`scan`](Builder::scan) keeps of each step of the forward pass; it computes
/// the rest again. The names are those of `jax.checkpoint_policies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RematPolicy {
    /// Only the carries: least memory, one more forward pass.
    #[default]
    NothingSaveable,
    /// Also the results of matrix products.
    DotsSaveable,
    /// Also the results of those matrix products that have no batch dimensions: not attention's.
    DotsWithNoBatchDimsSaveable,
    /// Everything that the gradient needs: most memory, nothing is computed twice.
    EverythingSaveable,
}

impl RematPolicy {
    pub const ALL: [RematPolicy; 4] = [
        RematPolicy::NothingSaveable,
        RematPolicy::DotsSaveable,
        RematPolicy::DotsWithNoBatchDimsSaveable,
        RematPolicy::EverythingSaveable,
    ];

    pub fn name(self) -> &'static str {
        match self {
            RematPolicy::NothingSaveable => "nothing_saveable",
            RematPolicy::DotsSaveable => "dots_saveable",
            RematPolicy::DotsWithNoBatchDimsSaveable => "dots_with_no_batch_dims_saveable",
            RematPolicy::EverythingSaveable => "everything_saveable",
        }
    }

    /// Whether the result of an operation is kept.
    pub(crate) fn saves(self, op: &Op) -> bool {
        match (self, op) {
            // Control flow has its own policy, and these cost less to make again than to keep.
            (_, Op::Scan(_) | Op::While { .. } | Op::Conditional { .. }) => false,
            (_, Op::Constant(_) | Op::Iota { .. } | Op::BroadcastInDim { .. } | Op::Reshape { .. }) => false,
            (RematPolicy::NothingSaveable, _) => false,
            (RematPolicy::DotsSaveable, op) => matches!(op, Op::DotGeneral { .. }),
            (RematPolicy::DotsWithNoBatchDimsSaveable, op) => {
                matches!(op, Op::DotGeneral { dims, .. } if dims.lhs_batch.is_empty())
            }
            (RematPolicy::EverythingSaveable, _) => true,
        }
    }
}

impl fmt::Display for RematPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for RematPolicy {
    type Err = String;

    /// Also takes big_vision's `none`, which means that nothing is computed again.
    fn from_str(name: &str) -> std::result::Result<Self, String> {
        if name == "none" {
            return Ok(RematPolicy::EverythingSaveable);
        }
        RematPolicy::ALL.into_iter().find(|policy| policy.name() == name).ok_or_else(|| {
            let known: Vec<&str> = RematPolicy::ALL.iter().map(|policy| policy.name()).collect();
            format!("unknown remat_policy \"{name}\", known are: none, {}", known.join(", "))
        })
    }
}

/// How a scan runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScanOptions {
    /// From the last step to the first; outputs keep the place of their step.
    pub reverse: bool,
    pub policy: RematPolicy,
}

/// What a branch of [`conditional`](Builder::conditional) computes.
pub type Branch<'a> = &'a dyn Fn(&Builder) -> Result<Vec<Value>>;

impl Builder {
    /// A loop of `length` steps. `body` gets the carries and, of each of `xs` (`[length, …]`), the part
    /// of its step; it returns the next carries and the step's outputs. Returns the last carries and the
    /// outputs of all steps, stacked along a new first dimension.
    ///
    /// The program's size does not depend on `length`, and the loop can be differentiated.
    #[track_caller]
    pub fn scan(
        &self,
        length: usize,
        init: &[Value],
        xs: &[Value],
        options: ScanOptions,
        body: impl FnOnce(&Builder, &[Value], &[Value]) -> Result<(Vec<Value>, Vec<Value>)>,
    ) -> Result<(Vec<Value>, Vec<Value>)> {
        let child = self.child("scan_body");
        let carries = parameters(&child, "carry", init.iter().map(|value| value.shape().clone()))?;
        let step_shapes = xs.iter().map(|x| match x.dims().split_first() {
            Some((&first, rest)) if first == length => Ok(x.shape().with_dims(rest)),
            _ => Err(self.error(format!("scan expects inputs of {length} steps, got {}", x.shape()))),
        });
        let steps = parameters(&child, "x", step_shapes.collect::<Result<Vec<_>>>()?)?;

        let (next, outputs) = body(&child, &carries, &steps)?;
        if next.len() != init.len() {
            let (want, got) = (init.len(), next.len());
            return Err(self.error(format!("scan expects the body to return {want} carries, got {got}")));
        }
        let results: Vec<&Value> = next.iter().chain(&outputs).collect();
        let (consts, body) = close(&child, &carries.iter().chain(&steps).collect::<Vec<_>>(), &results)?;

        let spec = ScanSpec {
            body: Arc::new(body),
            length,
            num_consts: consts.len(),
            num_carries: init.len(),
            reverse: options.reverse,
            policy: options.policy,
        };
        let mut results = self.push_scan(spec, consts.iter().chain(init).chain(xs))?;
        let outputs = results.split_off(init.len());
        Ok((results, outputs))
    }

    #[track_caller]
    pub(crate) fn push_scan<'a>(
        &self,
        spec: ScanSpec,
        inputs: impl Iterator<Item = &'a Value>,
    ) -> Result<Vec<Value>> {
        self.push_all(Op::Scan(spec), &inputs.collect::<Vec<_>>())
    }

    /// Repeats `body` on the carries while `cond`, a scalar `pred` of them, holds. It cannot be
    /// differentiated: that is what [`scan`](Self::scan) is for.
    #[track_caller]
    pub fn while_loop(
        &self,
        init: &[Value],
        cond: impl FnOnce(&Builder, &[Value]) -> Result<Value>,
        body: impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>>,
    ) -> Result<Vec<Value>> {
        let shapes = || init.iter().map(|value| value.shape().clone());
        let cond_builder = self.child("while_cond");
        let cond_carries = parameters(&cond_builder, "carry", shapes())?;
        let again = cond(&cond_builder, &cond_carries)?;
        let body_builder = self.child("while_body");
        let body_carries = parameters(&body_builder, "carry", shapes())?;
        let next = body(&body_builder, &body_carries)?;

        // Both take the same arguments, so each is shown what the other captured.
        let consts = share_captures(&[&cond_builder, &body_builder], &[vec![&again], next.iter().collect()])?;
        let (_, cond) = close(&cond_builder, &cond_carries.iter().collect::<Vec<_>>(), &[&again])?;
        let (_, body) =
            close(&body_builder, &body_carries.iter().collect::<Vec<_>>(), &next.iter().collect::<Vec<_>>())?;
        let op = Op::While { cond: Arc::new(cond), body: Arc::new(body), num_consts: consts.len() };
        self.push_all(op, &consts.iter().chain(init).collect::<Vec<_>>())
    }

    /// The results of the branch whose number is `index` (`s32`, clamped). Only that one runs; what it computes
    /// of outer values alone is computed outside all the same, unless it makes one its [`own`](Self::own).
    #[track_caller]
    pub fn conditional(&self, index: &Value, branches: &[Branch<'_>]) -> Result<Vec<Value>> {
        let builders: Vec<Builder> = branches.iter().map(|_| self.child("branch")).collect();
        let results: Vec<Vec<Value>> =
            branches.iter().zip(&builders).map(|(branch, b)| branch(b)).collect::<Result<_>>()?;
        let result_refs: Vec<Vec<&Value>> = results.iter().map(|values| values.iter().collect()).collect();
        let consts = share_captures(&builders.iter().collect::<Vec<_>>(), &result_refs)?;
        let branches = builders
            .iter()
            .zip(&result_refs)
            .map(|(b, results)| Ok(Arc::new(close(b, &[], results)?.1)))
            .collect::<Result<Vec<Arc<Function>>>>()?;
        let inputs: Vec<&Value> = std::iter::once(index).chain(&consts).collect();
        self.push_all(Op::Conditional { branches }, &inputs)
    }
}

#[track_caller]
fn parameters(
    builder: &Builder,
    name: &str,
    shapes: impl IntoIterator<Item = crate::array::Shape>,
) -> Result<Vec<Value>> {
    shapes.into_iter().enumerate().map(|(i, shape)| builder.parameter(&format!("{name}{i}"), shape)).collect()
}

/// The outer values that a body uses, and the body as a function of them and of `parameters`.
#[track_caller]
fn close(body: &Builder, parameters: &[&Value], results: &[&Value]) -> Result<(Vec<Value>, Function)> {
    body.capture(results)?;
    let (outer, inner): (Vec<Value>, Vec<Value>) = body.captures().into_iter().unzip();
    let parameters: Vec<&Value> = inner.iter().chain(parameters.iter().copied()).collect();
    Ok((outer, body.finish_with(&parameters, results)?))
}

/// Makes all bodies capture the same outer values in the same order, and returns those.
#[track_caller]
fn share_captures(bodies: &[&Builder], results: &[Vec<&Value>]) -> Result<Vec<Value>> {
    let mut outer: Vec<Value> = Vec::new();
    for (body, results) in bodies.iter().zip(results) {
        body.capture(results)?;
        for (value, _) in body.captures() {
            if !outer.iter().any(|known| known.output() == value.output()) {
                outer.push(value);
            }
        }
    }
    for body in bodies {
        body.capture(&outer.iter().collect::<Vec<_>>())?;
        body.order_captures(&outer);
    }
    Ok(outer)
}
