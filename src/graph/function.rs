use std::panic::Location;
use std::sync::Arc;

use super::Op;
use crate::array::Shape;

/// Position of a node in its builder or function. Operands always have smaller ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

impl NodeId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One result of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Output {
    pub node: NodeId,
    pub index: usize,
}

/// An operation with its operands and the shapes of its results.
#[derive(Debug, Clone)]
pub struct Node {
    pub op: Op,
    pub inputs: Vec<Output>,
    pub shapes: Vec<Shape>,
    /// The layer it belongs to, such as `llm/layers/attn`.
    pub scope: Arc<str>,
    pub location: &'static Location<'static>,
}

/// A finished program or body of control flow: nodes in an order in which operands come first.
#[derive(Debug, Clone)]
pub struct Function {
    pub(super) name: Arc<str>,
    pub(super) nodes: Vec<Arc<Node>>,
    pub(super) parameters: Vec<NodeId>,
    pub(super) outputs: Vec<Output>,
}

impl Function {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn nodes(&self) -> &[Arc<Node>] {
        &self.nodes
    }

    pub fn node(&self, id: NodeId) -> &Arc<Node> {
        &self.nodes[id.index()]
    }

    /// The parameter nodes, in the order of the arguments.
    pub fn parameters(&self) -> &[NodeId] {
        &self.parameters
    }

    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    pub fn shape(&self, output: Output) -> &Shape {
        &self.node(output.node).shapes[output.index]
    }

    pub fn parameter_shapes(&self) -> impl ExactSizeIterator<Item = &Shape> {
        self.parameters.iter().map(|&id| &self.node(id).shapes[0])
    }

    pub fn parameter_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.parameters.iter().map(|&id| match &self.node(id).op {
            Op::Parameter { name, .. } => &**name,
            op => unreachable!("{} cannot be a parameter", op.name()),
        })
    }

    pub fn output_shapes(&self) -> impl ExactSizeIterator<Item = &Shape> {
        self.outputs.iter().map(|&output| self.shape(output))
    }

    /// The same function with more results.
    pub(crate) fn with_outputs(&self, more: impl IntoIterator<Item = Output>) -> Function {
        let mut function = self.clone();
        function.outputs.extend(more);
        function
    }

    /// Copies the part of `nodes` that `outputs` need, and all `parameters`, under new ids.
    pub(super) fn extract(
        name: &str,
        nodes: &[Arc<Node>],
        parameters: &[NodeId],
        outputs: &[Output],
    ) -> Function {
        let mut live = vec![false; nodes.len()];
        parameters.iter().for_each(|id| live[id.index()] = true);
        outputs.iter().for_each(|output| live[output.node.index()] = true);
        for id in (0..nodes.len()).rev() {
            let has_effect = matches!(&nodes[id].op, Op::CustomCall(call) if call.has_side_effect);
            live[id] |= has_effect;
            if live[id] {
                nodes[id].inputs.iter().for_each(|input| live[input.node.index()] = true);
            }
        }

        let mut renumbered = vec![NodeId(u32::MAX); nodes.len()];
        let renumber = |ids: &[NodeId], output: Output| Output { node: ids[output.node.index()], ..output };
        let mut kept: Vec<Arc<Node>> = Vec::new();
        for (id, node) in nodes.iter().enumerate().filter(|(id, _)| live[*id]) {
            renumbered[id] = NodeId(kept.len() as u32);
            let unchanged = node.inputs.iter().all(|input| renumbered[input.node.index()] == input.node);
            if unchanged {
                kept.push(node.clone());
            } else {
                let inputs = node.inputs.iter().map(|&input| renumber(&renumbered, input)).collect();
                kept.push(Arc::new(Node { inputs, ..(**node).clone() }));
            }
        }
        Function {
            name: name.into(),
            nodes: kept,
            parameters: parameters.iter().map(|id| renumbered[id.index()]).collect(),
            outputs: outputs.iter().map(|&output| renumber(&renumbered, output)).collect(),
        }
    }
}
