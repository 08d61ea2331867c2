//! Emission of loops and branches.

use std::sync::Arc;

use super::convert::{array, dtype_of, ints, tuple_shape};
use super::emit::{Computation, Emitter, Instruction};
use super::proto::ShapeProto;
use crate::array::{DType, HostArray, Shape};
use crate::graph::{Comparison, Function, Node, ScanSpec};

impl Emitter {
    /// A `while` over `(step, consts…, carries…, inputs…, outputs…)`, which reads the inputs of its step
    /// and writes the outputs in place. This is the form that XLA's loop passes recognise.
    pub(super) fn scan(
        &mut self,
        to: &mut Computation,
        spec: &ScanSpec,
        node: &Node,
        inputs: &[&Instruction],
    ) -> Vec<Instruction> {
        let num_fixed = spec.num_consts + spec.num_carries;
        let outputs = &node.shapes[spec.num_carries..];
        let step = self.index(to, 0);
        let mut state = vec![step];
        state.extend(inputs.iter().map(|&input| input.clone()));
        for (shape, zero) in outputs.iter().zip(self.late_zeros(to, outputs, inputs)) {
            state.push(self.add(to, "broadcast", array(shape), &[&zero]));
        }
        let state_shape = tuple_shape(state.iter().map(|element| element.shape.clone()));

        let mut cond = Computation::default();
        let parameter = self.parameter(&mut cond, 0, "state", state_shape.clone());
        let step = self.elements(&mut cond, &parameter).swap_remove(0);
        let length = self.index(&mut cond, spec.length);
        let again = self.compare(&mut cond, Comparison::Lt, false, &[&step, &length]);
        let cond = self.finish(cond, "scan_cond", &again);

        let mut body = Computation::default();
        let parameter = self.parameter(&mut body, 0, "state", state_shape.clone());
        let mut state_elements = self.elements(&mut body, &parameter);
        let written = state_elements.split_off(1 + inputs.len());
        let step = state_elements[0].clone();
        let position = if spec.reverse {
            let last = self.index(&mut body, spec.length.saturating_sub(1));
            self.add(&mut body, "subtract", step.shape.clone(), &[&last, &step])
        } else {
            step.clone()
        };
        let zero = self.index(&mut body, 0);
        let mut arguments = state_elements[1..1 + num_fixed].to_vec();
        for stacked in &state_elements[1 + num_fixed..] {
            arguments.push(self.read_step(&mut body, stacked, &position, &zero));
        }
        let mut results = self.function(&mut body, &spec.body, &arguments);
        let step_outputs = results.split_off(spec.num_carries);

        let one = self.index(&mut body, 1);
        let mut next = vec![self.add(&mut body, "add", step.shape.clone(), &[&step, &one])];
        next.extend_from_slice(&state_elements[1..1 + spec.num_consts]);
        next.extend(results);
        next.extend_from_slice(&state_elements[1 + num_fixed..]);
        for (stacked, output) in written.iter().zip(&step_outputs) {
            next.push(self.write_step(&mut body, stacked, output, &position, &zero));
        }
        let root = self.tuple(&mut body, &next);
        let body = self.finish(body, "scan_body", &root);

        let init = self.tuple(to, &state);
        let result = self.call_while(to, cond, body, &init);
        let carries = result[1 + spec.num_consts..1 + num_fixed].iter();
        carries.chain(&result[1 + inputs.len()..]).cloned().collect()
    }

    /// A scalar zero for each output, which exists only once all `inputs` do. Zeros that depend on nothing
    /// let a scheduler fill stacked outputs long before their loop, and hold that memory all the while.
    fn late_zeros(
        &mut self,
        to: &mut Computation,
        outputs: &[Shape],
        inputs: &[&Instruction],
    ) -> Vec<Instruction> {
        let zeros = outputs.iter().map(|shape| HostArray::zeros(Shape::scalar(shape.dtype())));
        let mut elements: Vec<Instruction> = zeros.map(|zero| self.constant(to, &zero)).collect();
        if elements.is_empty() || inputs.is_empty() {
            return elements;
        }
        elements.extend(inputs.iter().map(|&input| input.clone()));
        let tuple = self.tuple(to, &elements);
        let barrier = self.add(to, "opt-barrier", tuple.shape.clone(), &[&tuple]);
        (0..outputs.len()).map(|index| self.element(to, &barrier, index)).collect()
    }

    pub(super) fn while_loop(
        &mut self,
        to: &mut Computation,
        cond: &Function,
        body: &Function,
        num_consts: usize,
        inputs: &[&Instruction],
    ) -> Vec<Instruction> {
        let state: Vec<Instruction> = inputs.iter().map(|&input| input.clone()).collect();
        let state_shape = tuple_shape(state.iter().map(|element| element.shape.clone()));

        let mut cond_computation = Computation::default();
        let parameter = self.parameter(&mut cond_computation, 0, "state", state_shape.clone());
        let arguments = self.elements(&mut cond_computation, &parameter);
        let again = self.function(&mut cond_computation, cond, &arguments).swap_remove(0);
        let cond = self.finish(cond_computation, "while_cond", &again);

        let mut body_computation = Computation::default();
        let parameter = self.parameter(&mut body_computation, 0, "state", state_shape);
        let arguments = self.elements(&mut body_computation, &parameter);
        let mut next = arguments[..num_consts].to_vec();
        next.extend(self.function(&mut body_computation, body, &arguments));
        let root = self.tuple(&mut body_computation, &next);
        let body = self.finish(body_computation, "while_body", &root);

        let init = self.tuple(to, &state);
        self.call_while(to, cond, body, &init).split_off(num_consts)
    }

    pub(super) fn conditional(
        &mut self,
        to: &mut Computation,
        branches: &[Arc<Function>],
        inputs: &[&Instruction],
    ) -> Vec<Instruction> {
        let operands: Vec<Instruction> = inputs[1..].iter().map(|&input| input.clone()).collect();
        let operands = self.tuple(to, &operands);
        let mut called = Vec::with_capacity(branches.len());
        let mut result_shape = ShapeProto::default();
        for branch in branches {
            let mut computation = Computation::default();
            let parameter = self.parameter(&mut computation, 0, "operands", operands.shape.clone());
            let arguments = self.elements(&mut computation, &parameter);
            let results = self.function(&mut computation, branch, &arguments);
            let root = self.tuple(&mut computation, &results);
            result_shape = root.shape.clone();
            called.push(self.finish(computation, "branch", &root));
        }
        // XLA takes the last branch for any index out of bounds, the negative ones too.
        let (first, last) = (self.index(to, 0), self.index(to, branches.len() - 1));
        let index = self.add(to, "clamp", inputs[0].shape.clone(), &[&first, inputs[0], &last]);
        let mut all = vec![&index];
        all.extend(branches.iter().map(|_| &operands));
        let conditional = self.add(to, "conditional", result_shape, &all);
        to.last().called_computation_ids = called;
        self.elements(to, &conditional)
    }

    fn call_while(
        &mut self,
        to: &mut Computation,
        cond: i64,
        body: i64,
        init: &Instruction,
    ) -> Vec<Instruction> {
        let result = self.add(to, "while", init.shape.clone(), &[init]);
        // XLA's order: the body, then the condition.
        to.last().called_computation_ids = vec![body, cond];
        self.elements(to, &result)
    }

    fn index(&mut self, to: &mut Computation, value: usize) -> Instruction {
        self.constant(to, &HostArray::scalar(value as i32))
    }

    /// `stacked[position]`.
    fn read_step(
        &mut self,
        to: &mut Computation,
        stacked: &Instruction,
        position: &Instruction,
        zero: &Instruction,
    ) -> Instruction {
        let dims: Vec<usize> = stacked.shape.dimensions[1..].iter().map(|&d| d as usize).collect();
        let dtype = dtype_of(&stacked.shape);
        let one_step = with_leading_one(dtype, &dims);
        let slice = self.add(to, "dynamic-slice", array(&one_step), &operands(&[stacked], position, zero));
        to.last().dynamic_slice_sizes = ints(one_step.dims());
        self.add(to, "reshape", array(&Shape::new(dtype, dims)), &[&slice])
    }

    /// `stacked` with `output` at `position`.
    fn write_step(
        &mut self,
        to: &mut Computation,
        stacked: &Instruction,
        output: &Instruction,
        position: &Instruction,
        zero: &Instruction,
    ) -> Instruction {
        let dims: Vec<usize> = output.shape.dimensions.iter().map(|&d| d as usize).collect();
        let one_step = with_leading_one(dtype_of(&output.shape), &dims);
        let update = self.add(to, "reshape", array(&one_step), &[output]);
        let operands = operands(&[stacked, &update], position, zero);
        self.add(to, "dynamic-update-slice", stacked.shape.clone(), &operands)
    }
}

fn with_leading_one(dtype: DType, dims: &[usize]) -> Shape {
    Shape::new(dtype, std::iter::once(1).chain(dims.iter().copied()).collect::<Vec<_>>())
}

/// The arrays, then a start for each dimension of the first: the position, then zeros.
fn operands<'a>(
    arrays: &[&'a Instruction],
    position: &'a Instruction,
    zero: &'a Instruction,
) -> Vec<&'a Instruction> {
    let rank = arrays[0].shape.dimensions.len();
    let starts = std::iter::once(position).chain(std::iter::repeat_n(zero, rank - 1));
    arrays.iter().copied().chain(starts).collect()
}
