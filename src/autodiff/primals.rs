//! Where a backward pass finds the values of the forward pass.

use std::collections::HashMap;

use crate::graph::{Builder, Function, NodeId, Op, Output, RematPolicy, Result, Value};

pub(super) trait Primals {
    /// The value, in the builder of the backward pass, of a result of the forward pass.
    fn primal(&mut self, output: Output) -> Result<Value>;
}

/// Forward and backward pass share a builder.
pub(super) struct Here<'a>(pub(super) &'a Builder);

impl Primals for Here<'_> {
    fn primal(&mut self, output: Output) -> Result<Value> {
        Ok(self.0.value(output))
    }
}

/// The forward pass is a body of control flow. Asked for a value, this computes it again from the
/// body's parameters, or, where the policy says so, notes that the forward pass has to save it.
pub(super) struct Recompute<'a, P> {
    pub(super) body: &'a Function,
    pub(super) target: &'a Builder,
    pub(super) policy: RematPolicy,
    /// Supplies the value of a parameter of the body when it is first asked for.
    pub(super) parameter: P,
    /// Which nodes are worth saving, if the policy says so: not what a step makes of its own inputs by
    /// moving and converting, such as a half-precision weight in `f32`. Saving that would copy the inputs.
    is_worth: Vec<bool>,
    /// What is known so far.
    pub(super) known: HashMap<Output, Value>,
    /// Results of the body that the forward pass has to save, with the parameters that stand for them.
    pub(super) saved: Vec<(Output, Value)>,
}

impl<'a, P: FnMut(NodeId) -> Result<Value>> Recompute<'a, P> {
    /// `carries` are the parameters whose values come from the step before.
    pub(super) fn new(
        body: &'a Function,
        target: &'a Builder,
        policy: RematPolicy,
        carries: &[NodeId],
        parameter: P,
    ) -> Self {
        let mut is_worth: Vec<bool> = Vec::with_capacity(body.nodes().len());
        for (index, node) in body.nodes().iter().enumerate() {
            let worth = match &node.op {
                Op::Parameter { .. } => carries.iter().any(|carry| carry.index() == index),
                Op::DotGeneral { .. } | Op::Reduce { .. } | Op::Sort { .. } | Op::CustomCall(_) => true,
                Op::RngBitGenerator { .. } | Op::Gather(_) | Op::Scatter { .. } => true,
                _ => node.inputs.iter().any(|input| is_worth[input.node.index()]),
            };
            is_worth.push(worth);
        }
        Recompute { body, target, policy, parameter, is_worth, known: HashMap::new(), saved: Vec::new() }
    }
}

impl<P: FnMut(NodeId) -> Result<Value>> Primals for Recompute<'_, P> {
    fn primal(&mut self, output: Output) -> Result<Value> {
        if let Some(value) = self.known.get(&output) {
            return Ok(value.clone());
        }
        let node = self.body.node(output.node);
        if matches!(node.op, Op::Parameter { .. }) {
            let value = (self.parameter)(output.node)?;
            self.known.insert(output, value.clone());
            return Ok(value);
        }
        if self.is_worth[output.node.index()] && self.policy.saves(&node.op) {
            let value = self.target.parameter("saved", node.shapes[output.index].clone())?;
            self.saved.push((output, value.clone()));
            self.known.insert(output, value.clone());
            return Ok(value);
        }
        let inputs = node.inputs.iter().map(|&input| self.primal(input)).collect::<Result<Vec<_>>>()?;
        let results = self.target.replay(node, &inputs.iter().collect::<Vec<_>>())?;
        for (index, value) in results.into_iter().enumerate() {
            self.known.insert(Output { node: output.node, index }, value);
        }
        Ok(self.known[&output].clone())
    }
}
