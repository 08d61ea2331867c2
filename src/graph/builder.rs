use std::cell::{Cell, RefCell};
use std::fmt;
use std::panic::Location;
use std::rc::Rc;
use std::sync::Arc;

use super::{Error, Function, Node, NodeId, Op, Output, Precision, Result, infer};
use crate::array::{DType, HostArray, Shape};

/// An arena to which operations are appended. Clones are handles to the same arena.
#[derive(Clone)]
pub struct Builder(Rc<State>);

struct State {
    name: Arc<str>,
    /// The builder of the surrounding program, whose values a body may use.
    parent: Option<Builder>,
    depth: usize,
    nodes: RefCell<Vec<Arc<Node>>>,
    parameters: RefCell<Vec<NodeId>>,
    /// Values of the surrounding program that were used here, and the parameters that stand for them.
    captures: RefCell<Vec<(Value, Value)>>,
    scope: RefCell<Arc<str>>,
    /// When set, new nodes are filed under the place that caused them rather than the caller's line.
    origin: Cell<Option<&'static Location<'static>>>,
    precision: Cell<Precision>,
}

/// One result of an operation: a handle that knows its shape.
#[derive(Clone)]
pub struct Value {
    builder: Builder,
    output: Output,
    shape: Shape,
}

/// Restores the scope that was current when it was made.
#[must_use = "the scope ends when the guard is dropped"]
pub struct ScopeGuard {
    builder: Builder,
    scope: Arc<str>,
    origin: Option<&'static Location<'static>>,
}

impl Builder {
    pub fn new(name: &str) -> Self {
        Builder::with_parent(name, None)
    }

    fn with_parent(name: &str, parent: Option<Builder>) -> Self {
        Builder(Rc::new(State {
            name: name.into(),
            depth: parent.as_ref().map_or(0, |p| p.0.depth + 1),
            nodes: RefCell::default(),
            parameters: RefCell::default(),
            captures: RefCell::default(),
            scope: RefCell::new(parent.as_ref().map_or_else(|| "".into(), |p| p.0.scope.borrow().clone())),
            origin: Cell::new(parent.as_ref().and_then(|p| p.0.origin.get())),
            precision: Cell::new(parent.as_ref().map_or(Precision::Default, |p| p.0.precision.get())),
            parent,
        }))
    }

    /// A builder for a body of control flow, in which values of this one may be used: they become
    /// parameters, listed by [`captures`](Self::captures).
    pub(crate) fn child(&self, name: &str) -> Builder {
        Builder::with_parent(name, Some(self.clone()))
    }

    /// Adds an argument.
    #[track_caller]
    pub fn parameter(&self, name: &str, shape: Shape) -> Result<Value> {
        let value = self.push(Op::Parameter { name: name.into(), shape }, &[])?;
        self.0.parameters.borrow_mut().push(value.output.node);
        Ok(value)
    }

    #[track_caller]
    pub fn constant(&self, array: HostArray) -> Result<Value> {
        self.push(Op::Constant(Arc::new(array)), &[])
    }

    /// A scalar of the given type; integers take the nearest value they have.
    #[track_caller]
    pub fn scalar(&self, dtype: DType, value: f64) -> Result<Value> {
        self.constant(HostArray::scalar(value).cast(dtype))
    }

    /// A scalar, repeated.
    #[track_caller]
    pub fn full(&self, shape: &Shape, value: f64) -> Result<Value> {
        self.scalar(shape.dtype(), value)?.broadcast_to(shape.dims())
    }

    #[track_caller]
    pub fn zeros(&self, shape: &Shape) -> Result<Value> {
        self.full(shape, 0.0)
    }

    #[track_caller]
    pub fn iota(&self, shape: Shape, dim: usize) -> Result<Value> {
        self.push(Op::Iota { shape, dim }, &[])
    }

    /// Files the following operations under a layer's name, until the guard is dropped.
    pub fn scope(&self, name: &str) -> ScopeGuard {
        let outer = self.0.scope.borrow().clone();
        let inner = if outer.is_empty() { name.to_owned() } else { format!("{outer}/{name}") };
        let origin = self.0.origin.get();
        *self.0.scope.borrow_mut() = inner.into();
        ScopeGuard { builder: self.clone(), scope: outer, origin }
    }

    /// Files the following operations under the place of the node that caused them.
    pub(crate) fn on_behalf_of(&self, node: &Node) -> ScopeGuard {
        let scope = self.0.scope.replace(node.scope.clone());
        let origin = self.0.origin.replace(Some(node.location));
        ScopeGuard { builder: self.clone(), scope, origin }
    }

    /// The precision of matrix products that are built from now on.
    pub fn set_precision(&self, precision: Precision) {
        self.0.precision.set(precision);
    }

    pub fn precision(&self) -> Precision {
        self.0.precision.get()
    }

    /// The program that computes `outputs` from the parameters in the order of their making.
    /// Operations that no output needs are left out.
    #[track_caller]
    pub fn finish(&self, outputs: &[&Value]) -> Result<Function> {
        let parameters = self.0.parameters.borrow().clone();
        self.extract(&parameters, outputs)
    }

    /// As [`finish`](Self::finish), with the arguments in the given order.
    #[track_caller]
    pub(crate) fn finish_with(&self, parameters: &[&Value], outputs: &[&Value]) -> Result<Function> {
        let parameters: Vec<NodeId> = parameters.iter().map(|value| value.output.node).collect();
        self.extract(&parameters, outputs)
    }

    #[track_caller]
    fn extract(&self, parameters: &[NodeId], outputs: &[&Value]) -> Result<Function> {
        let location = Location::caller();
        let outputs: Vec<Output> =
            outputs.iter().map(|value| Ok(self.adopt(value, location)?.output)).collect::<Result<_>>()?;
        Ok(Function::extract(&self.0.name, &self.0.nodes.borrow(), parameters, &outputs))
    }

    /// Makes sure that outer values among `values` are captured.
    #[track_caller]
    pub(crate) fn capture(&self, values: &[&Value]) -> Result<()> {
        let location = Location::caller();
        values.iter().try_for_each(|value| self.adopt(value, location).map(drop))
    }

    /// Lists the captures in the order of `outer`, which has all of them.
    pub(crate) fn order_captures(&self, outer: &[Value]) {
        let place = |value: &Value| outer.iter().position(|known| known.output == value.output);
        self.0.captures.borrow_mut().sort_by_key(|(value, _)| place(value));
    }

    /// Outer values used in this body, each with the parameter that stands for it.
    pub(crate) fn captures(&self) -> Vec<(Value, Value)> {
        self.0.captures.borrow().clone()
    }

    /// Appends the nodes of `function`, with `arguments` for its parameters, and returns its results.
    #[track_caller]
    pub fn inline(&self, function: &Function, arguments: &[&Value]) -> Result<Vec<Value>> {
        if arguments.len() != function.parameters().len() {
            let (want, got) = (function.parameters().len(), arguments.len());
            return Err(self.error(format!("{} expects {want} arguments, got {got}", function.name())));
        }
        let mut results: Vec<Vec<Value>> = vec![Vec::new(); function.nodes().len()];
        for (&id, &argument) in function.parameters().iter().zip(arguments) {
            results[id.index()] = vec![argument.clone()];
        }
        for (index, node) in function.nodes().iter().enumerate() {
            if matches!(node.op, Op::Parameter { .. }) {
                continue;
            }
            let inputs: Vec<&Value> =
                node.inputs.iter().map(|input| &results[input.node.index()][input.index]).collect();
            results[index] = self.replay(node, &inputs)?;
        }
        Ok(function.outputs().iter().map(|o| results[o.node.index()][o.index].clone()).collect())
    }

    /// Appends a copy of `node` with other operands.
    pub(crate) fn replay(&self, node: &Node, inputs: &[&Value]) -> Result<Vec<Value>> {
        let _origin = self.on_behalf_of(node);
        self.push_all(node.op.clone(), inputs)
    }

    /// Appends an operation with one result.
    #[track_caller]
    pub(crate) fn push(&self, op: Op, inputs: &[&Value]) -> Result<Value> {
        Ok(self.push_all(op, inputs)?.swap_remove(0))
    }

    #[track_caller]
    pub(crate) fn push_all(&self, op: Op, inputs: &[&Value]) -> Result<Vec<Value>> {
        let location = Location::caller();
        let inputs: Vec<Value> =
            inputs.iter().map(|value| self.adopt(value, location)).collect::<Result<_>>()?;
        let input_shapes: Vec<&Shape> = inputs.iter().map(|value| &value.shape).collect();
        let shapes = infer(&op, &input_shapes).map_err(|message| self.error_at(message, location))?;

        let mut nodes = self.0.nodes.borrow_mut();
        let node = NodeId(nodes.len() as u32);
        let values = shapes
            .iter()
            .enumerate()
            .map(|(index, shape)| Value {
                builder: self.clone(),
                output: Output { node, index },
                shape: shape.clone(),
            })
            .collect();
        nodes.push(Arc::new(Node {
            op,
            inputs: inputs.iter().map(|value| value.output).collect(),
            shapes,
            scope: self.0.scope.borrow().clone(),
            location: self.0.origin.get().unwrap_or(location),
        }));
        Ok(values)
    }

    /// This builder's own value for one that may come from a surrounding program.
    fn adopt(&self, value: &Value, location: &'static Location<'static>) -> Result<Value> {
        if Rc::ptr_eq(&self.0, &value.builder.0) {
            return Ok(value.clone());
        }
        let Some(parent) = self.0.parent.as_ref().filter(|parent| parent.0.depth >= value.builder.0.depth)
        else {
            return Err(self.error_at("a value of another program was used".into(), location));
        };
        let outer = parent.adopt(value, location)?;
        if let Some((_, inner)) = self.0.captures.borrow().iter().find(|(o, _)| o.output == outer.output) {
            return Ok(inner.clone());
        }
        let inner = self.push(Op::Parameter { name: "captured".into(), shape: outer.shape.clone() }, &[])?;
        self.0.captures.borrow_mut().push((outer, inner.clone()));
        Ok(inner)
    }

    /// This builder's own value for one of a surrounding program. An operation goes where the innermost of
    /// its operands is: one on outer values alone is built outside, before a loop or whatever branch is
    /// taken; one on a value made own is built here.
    #[track_caller]
    pub fn own(&self, value: &Value) -> Result<Value> {
        self.adopt(value, Location::caller())
    }

    /// A copy of the nodes built so far.
    pub(crate) fn snapshot(&self) -> Vec<Arc<Node>> {
        self.0.nodes.borrow().clone()
    }

    pub(crate) fn node(&self, id: NodeId) -> Arc<Node> {
        self.0.nodes.borrow()[id.index()].clone()
    }

    /// The handle of a result of a node that is already here.
    pub(crate) fn value(&self, output: Output) -> Value {
        let shape = self.node(output.node).shapes[output.index].clone();
        Value { builder: self.clone(), output, shape }
    }

    /// Gives a node more results, behind those it has: existing handles stay valid.
    pub(crate) fn extend(&self, id: NodeId, op: Op) -> Result<Vec<Value>> {
        let old = self.node(id);
        let input_shapes: Vec<Shape> =
            old.inputs.iter().map(|&input| self.value(input).shape.clone()).collect();
        let shapes = infer(&op, &input_shapes.iter().collect::<Vec<_>>())
            .map_err(|message| self.error_at(message, old.location))?;
        debug_assert_eq!(shapes[..old.shapes.len()], old.shapes);
        let added = old.shapes.len()..shapes.len();
        self.0.nodes.borrow_mut()[id.index()] = Arc::new(Node { op, shapes, ..(*old).clone() });
        Ok(added.map(|index| self.value(Output { node: id, index })).collect())
    }

    pub(crate) fn is_same(&self, other: &Builder) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }

    #[track_caller]
    pub(crate) fn error(&self, message: String) -> Error {
        self.error_at(message, Location::caller())
    }

    fn error_at(&self, message: String, location: &'static Location<'static>) -> Error {
        Error::new(message, &self.0.scope.borrow(), self.0.origin.get().unwrap_or(location))
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Builder({}, {} nodes)", self.0.name, self.0.nodes.borrow().len())
    }
}

impl Drop for ScopeGuard {
    fn drop(&mut self) {
        *self.builder.0.scope.borrow_mut() = self.scope.clone();
        self.builder.0.origin.set(self.origin);
    }
}

impl Value {
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    pub fn dims(&self) -> &[usize] {
        self.shape.dims()
    }

    pub fn dtype(&self) -> DType {
        self.shape.dtype()
    }

    pub fn rank(&self) -> usize {
        self.shape.rank()
    }

    pub fn builder(&self) -> &Builder {
        &self.builder
    }

    pub fn output(&self) -> Output {
        self.output
    }

    /// The innermost of the builders that `values` belong to: where an operation on all of them goes.
    pub(crate) fn innermost<'a>(values: &[&'a Value]) -> &'a Builder {
        let deepest = values.iter().max_by_key(|value| value.builder.0.depth);
        &deepest.expect("an operation on values has at least one operand").builder
    }

    #[track_caller]
    pub(crate) fn apply(op: Op, inputs: &[&Value]) -> Result<Value> {
        Ok(Value::apply_all(op, inputs)?.swap_remove(0))
    }

    /// Appends an operation on a list of values, which the caller may have left empty.
    #[track_caller]
    pub(crate) fn apply_all(op: Op, inputs: &[&Value]) -> Result<Vec<Value>> {
        if inputs.is_empty() {
            let message = format!("{} expects at least one operand, got none", op.name());
            return Err(Error::new(message, "", Location::caller()));
        }
        Value::innermost(inputs).push_all(op, inputs)
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "%{}.{}: {}", self.output.node.0, self.output.index, self.shape)
    }
}
