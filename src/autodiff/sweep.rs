use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::primals::Primals;
use super::vjp;
use crate::array::Shape;
use crate::graph::{Builder, Node, NodeId, Op, Output, Result, Value};

/// One backward pass over `nodes`, whose operations go to `target`.
pub(super) struct Sweep<'a> {
    pub(super) nodes: &'a [Arc<Node>],
    pub(super) target: &'a Builder,
    pub(super) primals: &'a mut dyn Primals,
}

/// What a rule sees of the operation that it differentiates.
pub(super) struct Context<'a> {
    pub(super) node: &'a Node,
    pub(super) id: NodeId,
    pub(super) target: &'a Builder,
    /// Which operands a cotangent is wanted for.
    pub(super) needs: &'a [bool],
    /// What the first operand's other uses have added up to. A rule that takes it returns the sum with its
    /// own share, which it can write in place; else the shares are added.
    pub(super) so_far: Option<Value>,
    pub(super) primals: &'a mut dyn Primals,
    nodes: &'a [Arc<Node>],
}

impl<'a> Context<'a> {
    /// The shape of an operand, which costs nothing to know.
    pub(super) fn input_shape(&self, index: usize) -> &'a Shape {
        let input = self.node.inputs[index];
        &self.nodes[input.node.index()].shapes[input.index]
    }

    /// The value of an operand in the forward pass.
    pub(super) fn input(&mut self, index: usize) -> Result<Value> {
        self.primals.primal(self.node.inputs[index])
    }

    /// The value of a result in the forward pass.
    pub(super) fn output(&mut self, index: usize) -> Result<Value> {
        self.primals.primal(Output { node: self.id, index })
    }
}

impl Sweep<'_> {
    /// The cotangents of `wanted`, given those of `seeds`.
    pub(super) fn run(
        &mut self,
        seeds: Vec<(Output, Value)>,
        wanted: &[Output],
    ) -> Result<Vec<Option<Value>>> {
        let active = active_outputs(self.nodes, wanted);
        let mut cotangents: HashMap<Output, Value> = HashMap::new();
        for (output, cotangent) in seeds {
            if active.contains(&output) {
                accumulate(&mut cotangents, output, cotangent)?;
            }
        }
        for index in (0..self.nodes.len()).rev() {
            let node = &self.nodes[index];
            let id = NodeId(index as u32);
            let outputs = (0..node.shapes.len()).map(|index| Output { node: id, index });
            let of_node: Vec<Option<Value>> =
                outputs.map(|output| cotangents.get(&output).cloned()).collect();
            if of_node.iter().all(Option::is_none) || node.inputs.is_empty() {
                continue;
            }
            let needs: Vec<bool> = node.inputs.iter().map(|input| active.contains(input)).collect();
            if !needs.contains(&true) {
                continue;
            }
            let _origin = self.target.on_behalf_of(node);
            let mut context = Context {
                node,
                id,
                target: self.target,
                needs: &needs,
                so_far: node.inputs.first().and_then(|input| cotangents.get(input).cloned()),
                primals: &mut *self.primals,
                nodes: self.nodes,
            };
            let had_share = context.so_far.is_some();
            let of_inputs = vjp::vjp(&mut context, of_node)?;
            if had_share && context.so_far.is_none() {
                cotangents.remove(&node.inputs[0]);
            }
            debug_assert_eq!(of_inputs.len(), node.inputs.len(), "rule of {}", node.op.name());
            for ((&input, need), cotangent) in node.inputs.iter().zip(&needs).zip(of_inputs) {
                let Some(cotangent) = cotangent.filter(|_| *need) else { continue };
                let shape = &self.nodes[input.node.index()].shapes[input.index];
                if cotangent.shape() != shape {
                    let (op, got) = (node.op.name(), cotangent.shape());
                    let message = format!("gradient of {op} expects a cotangent of shape {shape}, got {got}");
                    return Err(self.target.error(message));
                }
                accumulate(&mut cotangents, input, cotangent)?;
            }
        }
        Ok(wanted.iter().map(|output| cotangents.get(output).cloned()).collect())
    }
}

fn accumulate(cotangents: &mut HashMap<Output, Value>, to: Output, cotangent: Value) -> Result<()> {
    let sum = match cotangents.get(&to) {
        Some(other) => other.add(&cotangent)?,
        None => cotangent,
    };
    cotangents.insert(to, sum);
    Ok(())
}

/// The results that depend, differentiably, on `sources`.
pub(super) fn active_outputs(nodes: &[Arc<Node>], sources: &[Output]) -> HashSet<Output> {
    let mut active: HashSet<Output> = sources.iter().copied().collect();
    for (index, node) in nodes.iter().enumerate() {
        if matches!(node.op, Op::StopGradient) || !node.inputs.iter().any(|input| active.contains(input)) {
            continue;
        }
        for (output, shape) in node.shapes.iter().enumerate() {
            if shape.dtype().is_float() {
                active.insert(Output { node: NodeId(index as u32), index: output });
            }
        }
    }
    active
}
