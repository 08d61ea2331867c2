use std::collections::HashMap;

use prost::Message;

use super::convert::{array, dtype_of, ints, literal, primitive_type, tuple_shape};
use super::proto::*;
use super::sharding::tuple_sharding;
use crate::array::{DType, HostArray, Shape};
use crate::graph::{BinaryOp, Comparison, Function, Node, Op, ReduceOp, RngAlgorithm, ScatterOp, Sharding};

/// A parameter whose memory an output takes over: the argument is given up when the program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alias {
    pub parameter: usize,
    pub output: usize,
}

/// What a program says of its arguments and results beyond their shapes.
#[derive(Debug, Clone, Default)]
pub struct EmitOptions {
    pub aliases: Vec<Alias>,
    /// One entry per parameter, or empty where nothing is sharded.
    pub parameter_shardings: Vec<Option<Sharding>>,
    /// One entry per output, or empty where nothing is sharded.
    pub output_shardings: Vec<Option<Sharding>>,
    /// Write products and reductions as XLA's CPU compiler likes them; [`exec`](crate::exec) sets it.
    pub for_cpu: bool,
}

/// Options that do not fit the function they come with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("alias of parameter {parameter} and output {output} expects equal shapes, got {from} and {to}")]
    AliasShape { parameter: usize, output: usize, from: String, to: String },
    #[error("parameter {parameter} or output {output} is aliased twice")]
    AliasTwice { parameter: usize, output: usize },
    #[error("{what} expects {expected} shardings, got {got}")]
    ShardingCount { what: &'static str, expected: usize, got: usize },
}

/// An emitted program.
#[derive(Debug, Clone, PartialEq)]
pub struct Module(pub(super) HloModuleProto);

impl Module {
    pub fn proto(&self) -> &HloModuleProto {
        &self.0
    }

    /// The serialized `HloModuleProto`.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Instructions in all computations.
    pub fn num_instructions(&self) -> usize {
        self.0.computations.iter().map(|computation| computation.instructions.len()).sum()
    }
}

/// Writes `function` as a program that returns its outputs as a tuple.
///
/// # Errors
/// When an alias joins arrays of different shapes, or the shardings are not as many as the arrays.
pub fn emit(function: &Function, options: &EmitOptions) -> Result<Module, Error> {
    check_aliases(function, &options.aliases)?;
    check_count("parameters", function.parameters().len(), options.parameter_shardings.len())?;
    check_count("outputs", function.outputs().len(), options.output_shardings.len())?;

    let mut emitter = Emitter { for_cpu: options.for_cpu, ..Emitter::default() };
    let mut entry = Computation::default();
    let parameters: Vec<Instruction> = function
        .parameters()
        .iter()
        .zip(function.parameter_names())
        .enumerate()
        .map(|(number, (&id, name))| {
            let parameter = emitter.parameter(&mut entry, number, name, array(&function.node(id).shapes[0]));
            if let Some(Some(sharding)) = options.parameter_shardings.get(number) {
                entry.last().sharding = Some(sharding.into());
            }
            parameter
        })
        .collect();
    let results = emitter.function(&mut entry, function, &parameters);
    let root = emitter.tuple(&mut entry, &results);
    if !options.output_shardings.is_empty() {
        entry.last().sharding = Some(tuple_sharding(&options.output_shardings));
    }

    let entry_id = emitter.finish(entry, &format!("{}.entry", function.name()), &root);
    let entry = emitter.computations.last().expect("the entry computation was just finished");
    let mut module = HloModuleProto {
        name: function.name().to_owned(),
        entry_computation_name: entry.name.clone(),
        entry_computation_id: entry_id,
        host_program_shape: entry.program_shape.clone(),
        id: 1,
        ..Default::default()
    };
    if !options.aliases.is_empty() {
        let entries = options.aliases.iter().map(|alias| AliasEntryProto {
            output_shape_index: vec![alias.output as i64],
            parameter_number: alias.parameter as i64,
            parameter_shape_index: vec![],
            kind: MUST_ALIAS,
        });
        module.input_output_alias = Some(HloInputOutputAliasProto { entries: entries.collect() });
    }
    module.computations = emitter.computations;
    Ok(Module(module))
}

const MUST_ALIAS: i32 = 2;

fn check_aliases(function: &Function, aliases: &[Alias]) -> Result<(), Error> {
    for (i, &Alias { parameter, output }) in aliases.iter().enumerate() {
        let from = function.parameter_shapes().nth(parameter);
        let to = function.output_shapes().nth(output);
        if from.is_none() || from != to {
            let text = |shape: Option<&Shape>| shape.map_or("none".into(), Shape::to_string);
            return Err(Error::AliasShape { parameter, output, from: text(from), to: text(to) });
        }
        if aliases[..i].iter().any(|a| a.parameter == parameter || a.output == output) {
            return Err(Error::AliasTwice { parameter, output });
        }
    }
    Ok(())
}

fn check_count(what: &'static str, expected: usize, got: usize) -> Result<(), Error> {
    if got == 0 || got == expected { Ok(()) } else { Err(Error::ShardingCount { what, expected, got }) }
}

/// Instructions under construction.
#[derive(Default)]
pub(super) struct Computation {
    instructions: Vec<HloInstructionProto>,
}

impl Computation {
    pub(super) fn last(&mut self) -> &mut HloInstructionProto {
        self.instructions.last_mut().expect("an instruction was just added")
    }
}

/// An instruction to refer to.
#[derive(Clone)]
pub(super) struct Instruction {
    pub(super) id: i64,
    pub(super) shape: ShapeProto,
}

/// Hands out ids and keeps the finished computations, called ones before their callers.
#[derive(Default)]
pub(super) struct Emitter {
    next_id: i64,
    computations: Vec<HloComputationProto>,
    /// Computations of two scalars, shared by all reductions and scatters that fold alike.
    folds: HashMap<(Fold, DType), i64>,
    /// Where the node being emitted comes from.
    metadata: Option<OpMetadata>,
    for_cpu: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Fold {
    Add,
    Mul,
    Max,
    Min,
    And,
    Or,
    /// The second operand.
    Replace,
}

impl Emitter {
    fn fresh_id(&mut self) -> i64 {
        self.next_id += 1;
        self.next_id
    }

    pub(super) fn add(
        &mut self,
        to: &mut Computation,
        opcode: &str,
        shape: ShapeProto,
        operands: &[&Instruction],
    ) -> Instruction {
        let id = self.fresh_id();
        to.instructions.push(HloInstructionProto {
            name: format!("{opcode}.{id}"),
            opcode: opcode.to_owned(),
            shape: Some(shape.clone()),
            metadata: self.metadata.clone(),
            id,
            operand_ids: operands.iter().map(|operand| operand.id).collect(),
            ..Default::default()
        });
        Instruction { id, shape }
    }

    pub(super) fn parameter(
        &mut self,
        to: &mut Computation,
        number: usize,
        name: &str,
        shape: ShapeProto,
    ) -> Instruction {
        let parameter = self.add(to, "parameter", shape, &[]);
        to.last().parameter_number = number as i64;
        to.last().metadata = Some(OpMetadata { op_name: name.to_owned(), ..Default::default() });
        parameter
    }

    pub(super) fn tuple(&mut self, to: &mut Computation, elements: &[Instruction]) -> Instruction {
        let shape = tuple_shape(elements.iter().map(|element| element.shape.clone()));
        self.add(to, "tuple", shape, &elements.iter().collect::<Vec<_>>())
    }

    pub(super) fn elements(&mut self, to: &mut Computation, tuple: &Instruction) -> Vec<Instruction> {
        (0..tuple.shape.tuple_shapes.len()).map(|index| self.element(to, tuple, index)).collect()
    }

    pub(super) fn element(&mut self, to: &mut Computation, tuple: &Instruction, index: usize) -> Instruction {
        let shape = tuple.shape.tuple_shapes[index].clone();
        let element = self.add(to, "get-tuple-element", shape, &[tuple]);
        to.last().tuple_index = index as i64;
        element
    }

    pub(super) fn constant(&mut self, to: &mut Computation, value: &HostArray) -> Instruction {
        let constant = self.add(to, "constant", array(value.shape()), &[]);
        to.last().literal = Some(literal(value));
        constant
    }

    pub(super) fn finish(&mut self, computation: Computation, name: &str, root: &Instruction) -> i64 {
        let id = self.fresh_id();
        let mut parameters: Vec<&HloInstructionProto> =
            computation.instructions.iter().filter(|i| i.opcode == "parameter").collect();
        parameters.sort_by_key(|parameter| parameter.parameter_number);
        let program_shape = ProgramShapeProto {
            parameters: parameters.iter().filter_map(|parameter| parameter.shape.clone()).collect(),
            parameter_names: parameters.iter().map(|parameter| parameter.name.clone()).collect(),
            result: Some(root.shape.clone()),
        };
        self.computations.push(HloComputationProto {
            name: format!("{name}.{id}"),
            instructions: computation.instructions,
            program_shape: Some(program_shape),
            id,
            root_id: root.id,
        });
        id
    }

    /// Adds the nodes of `function` with `arguments` for its parameters, and returns its outputs.
    pub(super) fn function(
        &mut self,
        to: &mut Computation,
        function: &Function,
        arguments: &[Instruction],
    ) -> Vec<Instruction> {
        let mut results: Vec<Vec<Instruction>> = vec![Vec::new(); function.nodes().len()];
        for (id, argument) in function.parameters().iter().zip(arguments) {
            results[id.index()] = vec![argument.clone()];
        }
        for (index, node) in function.nodes().iter().enumerate() {
            if results[index].is_empty() {
                let inputs: Vec<&Instruction> =
                    node.inputs.iter().map(|input| &results[input.node.index()][input.index]).collect();
                let outer = self.metadata.replace(metadata(node));
                results[index] = self.node(to, node, &inputs);
                self.metadata = outer;
            }
        }
        function.outputs().iter().map(|output| results[output.node.index()][output.index].clone()).collect()
    }

    fn node(&mut self, to: &mut Computation, node: &Node, inputs: &[&Instruction]) -> Vec<Instruction> {
        let shape = || array(&node.shapes[0]);
        let single = match &node.op {
            Op::Parameter { name, .. } => unreachable!("parameter {name} is bound to an argument"),
            Op::Constant(value) => self.constant(to, value),
            Op::Iota { dim, .. } => {
                let iota = self.add(to, "iota", shape(), inputs);
                to.last().dimensions = vec![*dim as i64];
                iota
            }
            Op::Unary(op) => self.add(to, &op.name().replace('_', "-"), shape(), inputs),
            Op::Binary(op) => self.add(to, &op.name().replace('_', "-"), shape(), inputs),
            Op::Compare(direction) => self.compare(to, *direction, false, inputs),
            Op::Select => self.add(to, "select", shape(), inputs),
            Op::Clamp => self.add(to, "clamp", shape(), inputs),
            Op::Convert(_) => self.add(to, "convert", shape(), inputs),
            Op::BitcastConvert(_) => self.add(to, "bitcast-convert", shape(), inputs),
            Op::BroadcastInDim { mapping, .. } => {
                return vec![self.broadcast_in_dim(to, &node.shapes[0], mapping, inputs[0])];
            }
            Op::Reshape { .. } => self.add(to, "reshape", shape(), inputs),
            Op::Transpose { permutation } => {
                let transpose = self.add(to, "transpose", shape(), inputs);
                to.last().dimensions = ints(permutation);
                transpose
            }
            Op::Slice(dims) => {
                let slice = self.add(to, "slice", shape(), inputs);
                let dim = |s: &crate::graph::SliceDim| SliceDimensions {
                    start: s.start as i64,
                    limit: s.limit as i64,
                    stride: s.stride as i64,
                };
                to.last().slice_dimensions = dims.iter().map(dim).collect();
                slice
            }
            Op::Pad(dims) => {
                let pad = self.add(to, "pad", shape(), inputs);
                let dim = |p: &crate::graph::PadDim| PaddingConfigDimension {
                    edge_padding_low: p.low,
                    edge_padding_high: p.high,
                    interior_padding: p.interior as i64,
                };
                to.last().padding_config = Some(PaddingConfig { dimensions: dims.iter().map(dim).collect() });
                pad
            }
            Op::Concatenate { dim } => {
                let concatenate = self.add(to, "concatenate", shape(), inputs);
                to.last().dimensions = vec![*dim as i64];
                concatenate
            }
            Op::Reverse { dims } => {
                let reverse = self.add(to, "reverse", shape(), inputs);
                to.last().dimensions = ints(dims);
                reverse
            }
            Op::DotGeneral { dims, precision, .. } => {
                let operands = [inputs[0], inputs[1]];
                match self.for_cpu {
                    true => self.cpu_product(to, &node.shapes[0], dims, *precision, operands),
                    false => self.dot(to, &node.shapes[0], dims, *precision, operands),
                }
            }
            Op::Reduce { op, dims } => {
                let dtype = node.shapes[0].dtype();
                let init = self.constant(to, &identity(*op, dtype));
                let fold = self.fold(reduction(*op), dtype);
                match self.for_cpu {
                    true => self.cpu_reduction(to, &node.shapes[0], dims, fold, [inputs[0], &init]),
                    false => self.reduce(to, &node.shapes[0], dims, fold, [inputs[0], &init]),
                }
            }
            Op::DynamicSlice { sizes } => {
                let slice = self.add(to, "dynamic-slice", shape(), inputs);
                to.last().dynamic_slice_sizes = ints(sizes);
                slice
            }
            Op::DynamicUpdateSlice => self.add(to, "dynamic-update-slice", shape(), inputs),
            Op::Gather(dims) => {
                let gather = self.add(to, "gather", shape(), inputs);
                to.last().gather_slice_sizes = ints(&dims.slice_sizes);
                to.last().gather_dimension_numbers = Some(GatherDimensionNumbers {
                    offset_dims: ints(&dims.offset_dims),
                    collapsed_slice_dims: ints(&dims.collapsed_slice_dims),
                    start_index_map: ints(&dims.start_index_map),
                    index_vector_dim: dims.index_vector_dim as i64,
                    operand_batching_dims: ints(&dims.operand_batching_dims),
                    start_indices_batching_dims: ints(&dims.start_indices_batching_dims),
                });
                gather
            }
            Op::Scatter { dims, op } => {
                let fold = match op {
                    ScatterOp::Add => Fold::Add,
                    ScatterOp::Assign => Fold::Replace,
                };
                let fold = self.fold(fold, node.shapes[0].dtype());
                let scatter = self.add(to, "scatter", shape(), inputs);
                to.last().called_computation_ids = vec![fold];
                to.last().scatter_dimension_numbers = Some(ScatterDimensionNumbers {
                    update_window_dims: ints(&dims.update_window_dims),
                    inserted_window_dims: ints(&dims.inserted_window_dims),
                    scatter_dims_to_operand_dims: ints(&dims.scatter_dims_to_operand_dims),
                    index_vector_dim: dims.index_vector_dim as i64,
                    input_batching_dims: ints(&dims.input_batching_dims),
                    scatter_indices_batching_dims: ints(&dims.scatter_indices_batching_dims),
                });
                scatter
            }
            Op::Sort { dim, descending } => return self.sort(to, node, *dim, *descending, inputs),
            Op::RngBitGenerator { algorithm, .. } => {
                let shape = tuple_shape(node.shapes.iter().map(array));
                let generator = self.add(to, "rng-bit-generator", shape, inputs);
                to.last().rng_algorithm = match algorithm {
                    RngAlgorithm::ThreeFry => 1,
                    RngAlgorithm::Philox => 2,
                };
                return self.elements(to, &generator);
            }
            Op::OptimizationBarrier => {
                let operands: Vec<Instruction> = inputs.iter().map(|&input| input.clone()).collect();
                let tuple = self.tuple(to, &operands);
                let barrier = self.add(to, "opt-barrier", tuple.shape.clone(), &[&tuple]);
                return self.elements(to, &barrier);
            }
            Op::StopGradient => inputs[0].clone(),
            Op::ShardingConstraint(sharding) => {
                let constraint = self.add(to, "custom-call", shape(), inputs);
                to.last().custom_call_target = "Sharding".into();
                to.last().sharding = Some(sharding.into());
                constraint
            }
            Op::CustomCall(call) => {
                let is_tuple = node.shapes.len() != 1;
                let result = if is_tuple { tuple_shape(node.shapes.iter().map(array)) } else { shape() };
                let result = self.add(to, "custom-call", result, inputs);
                to.last().custom_call_target = call.target.clone();
                to.last().backend_config = call.backend_config.clone();
                to.last().custom_call_has_side_effect = call.has_side_effect;
                return if is_tuple { self.elements(to, &result) } else { vec![result] };
            }
            Op::Scan(spec) => return self.scan(to, spec, node, inputs),
            Op::While { cond, body, num_consts } => {
                return self.while_loop(to, cond, body, *num_consts, inputs);
            }
            Op::Conditional { branches } => return self.conditional(to, branches, inputs),
        };
        vec![single]
    }

    /// HLO's broadcast repeats along new dimensions only: extents of 1 are dropped first.
    fn broadcast_in_dim(
        &mut self,
        to: &mut Computation,
        result: &Shape,
        mapping: &[usize],
        x: &Instruction,
    ) -> Instruction {
        let dims = &x.shape.dimensions;
        let kept: Vec<usize> =
            (0..mapping.len()).filter(|&i| dims[i] == result.dims()[mapping[i]] as i64).collect();
        let operand = if kept.len() == mapping.len() {
            x.clone()
        } else {
            let kept_dims: Vec<usize> = kept.iter().map(|&i| dims[i] as usize).collect();
            self.add(to, "reshape", array(&result.with_dims(kept_dims)), &[x])
        };
        let broadcast = self.add(to, "broadcast", array(result), &[&operand]);
        to.last().dimensions = kept.iter().map(|&i| mapping[i] as i64).collect();
        broadcast
    }

    pub(super) fn compare(
        &mut self,
        to: &mut Computation,
        direction: Comparison,
        total_order: bool,
        inputs: &[&Instruction],
    ) -> Instruction {
        let operand = &inputs[0].shape;
        let kind = match dtype_of(operand) {
            dtype if dtype.is_float() && total_order => "TOTALORDER",
            dtype if dtype.is_float() => "FLOAT",
            dtype if dtype.is_signed() => "SIGNED",
            _ => "UNSIGNED",
        };
        let shape = ShapeProto { element_type: primitive_type(DType::Pred), ..operand.clone() };
        let compare = self.add(to, "compare", shape, inputs);
        to.last().comparison_direction = direction.name().into();
        to.last().comparison_type = kind.into();
        compare
    }

    fn sort(
        &mut self,
        to: &mut Computation,
        node: &Node,
        dim: usize,
        descending: bool,
        inputs: &[&Instruction],
    ) -> Vec<Instruction> {
        let mut comparator = Computation::default();
        let mut keys = Vec::new();
        for (i, shape) in node.shapes.iter().enumerate() {
            let scalar = array(&Shape::scalar(shape.dtype()));
            for side in 0..2 {
                let element = self.parameter(&mut comparator, 2 * i + side, "element", scalar.clone());
                keys.push(element);
            }
        }
        // The order of all floats, NaN included, is total: the result is defined for any input.
        let direction = if descending { Comparison::Gt } else { Comparison::Lt };
        let root = self.compare(&mut comparator, direction, true, &[&keys[0], &keys[1]]);
        let comparator = self.finish(comparator, "comparator", &root);

        let is_tuple = inputs.len() > 1;
        let shape =
            if is_tuple { tuple_shape(node.shapes.iter().map(array)) } else { array(&node.shapes[0]) };
        let sort = self.add(to, "sort", shape, inputs);
        to.last().dimensions = vec![dim as i64];
        to.last().is_stable = true;
        to.last().called_computation_ids = vec![comparator];
        if is_tuple { self.elements(to, &sort) } else { vec![sort] }
    }

    fn fold(&mut self, fold: Fold, dtype: DType) -> i64 {
        if let Some(&id) = self.folds.get(&(fold, dtype)) {
            return id;
        }
        let outer = self.metadata.take();
        let scalar = array(&Shape::scalar(dtype));
        let mut body = Computation::default();
        let a = self.parameter(&mut body, 0, "a", scalar.clone());
        let b = self.parameter(&mut body, 1, "b", scalar.clone());
        let opcode = match fold {
            Fold::Add => "add",
            Fold::Mul => "multiply",
            Fold::Max => "maximum",
            Fold::Min => "minimum",
            Fold::And => "and",
            Fold::Or => "or",
            Fold::Replace => "replace",
        };
        let root = if fold == Fold::Replace { b } else { self.add(&mut body, opcode, scalar, &[&a, &b]) };
        let id = self.finish(body, &format!("{opcode}_{dtype}"), &root);
        self.folds.insert((fold, dtype), id);
        self.metadata = outer;
        id
    }
}

fn reduction(op: ReduceOp) -> Fold {
    match op {
        ReduceOp::Sum => Fold::Add,
        ReduceOp::Prod => Fold::Mul,
        ReduceOp::Max => Fold::Max,
        ReduceOp::Min => Fold::Min,
        ReduceOp::And => Fold::And,
        ReduceOp::Or => Fold::Or,
    }
}

/// The value that folding starts from.
fn identity(op: ReduceOp, dtype: DType) -> HostArray {
    let (lowest, highest) = match dtype {
        DType::S8 => (f64::from(i8::MIN), f64::from(i8::MAX)),
        DType::U8 => (0.0, f64::from(u8::MAX)),
        DType::U16 => (0.0, f64::from(u16::MAX)),
        DType::S32 => (f64::from(i32::MIN), f64::from(i32::MAX)),
        DType::U32 => (0.0, f64::from(u32::MAX)),
        // Casting saturates, so the nearest f64 gives the exact bounds.
        DType::S64 => (i64::MIN as f64, i64::MAX as f64),
        DType::U64 => (0.0, u64::MAX as f64),
        DType::Pred => (0.0, 1.0),
        DType::F16 | DType::BF16 | DType::F32 | DType::F64 => (f64::NEG_INFINITY, f64::INFINITY),
    };
    let value = match op.binary() {
        BinaryOp::Add | BinaryOp::Or => 0.0,
        BinaryOp::Mul | BinaryOp::And => 1.0,
        BinaryOp::Max => lowest,
        _ => highest,
    };
    HostArray::scalar(value).cast(dtype)
}

fn metadata(node: &Node) -> OpMetadata {
    let name = node.op.name();
    OpMetadata {
        op_type: name.to_owned(),
        op_name: if node.scope.is_empty() { name.to_owned() } else { format!("{}/{name}", node.scope) },
        source_file: node.location.file().to_owned(),
        source_line: node.location.line() as i32,
    }
}
