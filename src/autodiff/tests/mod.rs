//! Every operation on the CPU plugin: what it computes, what its gradient is, what it says when misused.

mod conditional;
mod edges;
mod einsum;
mod remat;
mod rows;
mod scan;
mod table;

use super::gradient;
use crate::array::{DType, HostArray, Shape};
use crate::exec;
use crate::graph::{Builder, Function, Result, Value};
use crate::hlo::EmitOptions;
use crate::runtime::testing::cpu_client;
use crate::runtime::{Arg, Buffer, CompileOptions, Executable};

fn f64s(dims: impl Into<Box<[usize]>>, values: &[f64]) -> HostArray {
    HostArray::new(dims, values).unwrap()
}

fn s32s(dims: impl Into<Box<[usize]>>, values: &[i32]) -> HostArray {
    HostArray::new(dims, values).unwrap()
}

fn preds(dims: impl Into<Box<[usize]>>, values: &[bool]) -> HostArray {
    let bytes: Vec<u8> = values.iter().map(|&value| value.into()).collect();
    HostArray::from_bytes(Shape::new(DType::Pred, dims), &bytes).unwrap()
}

/// Distinct values between -1 and 1 without pattern, another list for each `salt`.
fn noise(dims: impl Into<Box<[usize]>>, salt: u64) -> HostArray {
    let shape = Shape::new(DType::F64, dims);
    let value = |i: usize| ((i as f64 + 1.0) * 12.9898 + salt as f64 * 78.233).sin() * 0.9;
    f64s(shape.dims(), &(0..shape.num_elements()).map(value).collect::<Vec<_>>())
}

/// Without LLVM's optimisations, which take most of the time and do not run long here.
fn compile(function: &Function) -> Executable {
    let options = CompileOptions::default().with_flag("xla_backend_optimization_level", 0i64);
    exec::compile(&cpu_client(), function, &EmitOptions::default(), &options)
        .unwrap_or_else(|error| panic!("{error}"))
}

fn execute(executable: &Executable, inputs: &[HostArray]) -> Vec<HostArray> {
    let device = &executable.devices()[0];
    let upload = |array| executable.client().upload(array, device).unwrap();
    let buffers: Vec<Buffer> = inputs.iter().map(upload).collect();
    let results = executable.execute(buffers.iter().map(Arg::Keep).collect()).unwrap();
    results.iter().map(|result| result.download().unwrap()).collect()
}

/// A function of parameters shaped as `inputs`.
fn function(
    inputs: &[HostArray],
    build: impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>>,
) -> Result<Function> {
    let b = Builder::new("test");
    let parameter = |(i, array): (usize, &HostArray)| b.parameter(&format!("x{i}"), array.shape().clone());
    let parameters = inputs.iter().enumerate().map(parameter).collect::<Result<Vec<_>>>()?;
    let outputs = build(&b, &parameters)?;
    b.finish(&outputs.iter().collect::<Vec<_>>())
}

/// The results of a program on `inputs`.
fn evaluate(
    inputs: &[HostArray],
    build: impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>>,
) -> Vec<HostArray> {
    execute(&compile(&function(inputs, build).unwrap()), inputs)
}

/// A factor for each element: multiples of 1/16, which every float type has.
fn weights(shape: &Shape, salt: usize) -> HostArray {
    let weight = |i: usize| ((i * 7 + salt * 5 + 3) % 23) as f64 / 16.0 - 0.5;
    f64s(shape.dims(), &(0..shape.num_elements()).map(weight).collect::<Vec<_>>())
}

/// `sum(weights * output)` over all outputs: a scalar that every element of every output moves.
fn weighted_sum(b: &Builder, outputs: &[Value]) -> Result<Value> {
    let mut total = b.scalar(DType::F64, 0.0)?;
    for (i, output) in outputs.iter().enumerate() {
        let weighted = output.convert(DType::F64)?.mul(&b.constant(weights(output.shape(), i))?)?;
        total = total.add(&weighted.sum_all()?)?;
    }
    Ok(total)
}

/// The outputs of a program, their weighted sum, and its gradient for each `f64` input.
struct Differentiated {
    executable: Executable,
    inputs: Vec<HostArray>,
    num_outputs: usize,
}

impl Differentiated {
    fn new(
        inputs: &[HostArray],
        build: impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>>,
    ) -> Result<Self> {
        let mut num_outputs = 0;
        let function = function(inputs, |b, x| {
            let mut outputs = build(b, x)?;
            num_outputs = outputs.len();
            let loss = weighted_sum(b, &outputs)?;
            let wrt: Vec<Value> = x.iter().filter(|x| x.dtype() == DType::F64).cloned().collect();
            outputs.push(loss.clone());
            outputs.extend(gradient(&loss, &wrt)?);
            Ok(outputs)
        })?;
        Ok(Differentiated { executable: compile(&function), inputs: inputs.to_vec(), num_outputs })
    }

    fn run(&self, inputs: &[HostArray]) -> (Vec<HostArray>, f64, Vec<HostArray>) {
        let mut outputs = execute(&self.executable, inputs);
        let mut rest = outputs.split_off(self.num_outputs);
        let gradients = rest.split_off(1);
        (outputs, rest[0].values::<f64>().unwrap()[0], gradients)
    }

    /// Holds the gradient against central differences of the weighted sum.
    ///
    /// With a step of 1e-5 these are off by about 1e-10 of the third derivative and 1e-11 of the value for
    /// rounding. A relative 1e-6 leaves room for values around 100, and no wrong rule comes so close.
    fn check(&self, what: &str) {
        const STEP: f64 = 1e-5;
        let (_, _, gradients) = self.run(&self.inputs);
        let float_inputs = (0..self.inputs.len()).filter(|&i| self.inputs[i].dtype() == DType::F64);
        for (place, gradient) in float_inputs.zip(&gradients) {
            assert_eq!(gradient.shape(), self.inputs[place].shape(), "{what}: gradient of input {place}");
            for (i, &slope) in gradient.values::<f64>().unwrap().iter().enumerate() {
                let loss_at = |shift: f64| {
                    let mut inputs = self.inputs.clone();
                    inputs[place].values_mut::<f64>().unwrap()[i] += shift;
                    self.run(&inputs).1
                };
                let want = (loss_at(STEP) - loss_at(-STEP)) / (2.0 * STEP);
                assert!(
                    (slope - want).abs() <= 1e-6 * want.abs().max(1.0),
                    "{what}: element {i} of input {place} has slope {slope}, finite differences say {want}"
                );
            }
        }
    }
}

/// Checks a gradient against finite differences and returns it.
fn check_gradient(
    what: &str,
    inputs: &[HostArray],
    build: impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>>,
) -> Vec<HostArray> {
    let program = Differentiated::new(inputs, build).unwrap_or_else(|error| panic!("{what}: {error}"));
    program.check(what);
    program.run(inputs).2
}

/// The gradient of the weighted sum, unchecked: for kinks and jumps.
fn gradient_at(
    inputs: &[HostArray],
    build: impl FnOnce(&Builder, &[Value]) -> Result<Vec<Value>>,
) -> Vec<Vec<f64>> {
    let program = Differentiated::new(inputs, build).unwrap();
    program.run(inputs).2.iter().map(HostArray::to_f64).collect()
}

/// Equal shapes, and elements equal to a relative `1e-12`: XLA's `f64` functions are good to a few units in
/// the last place, and sums here are short.
fn assert_close(got: &HostArray, want: &HostArray, what: &str) {
    assert_eq!(got.shape(), want.shape(), "{what}");
    for (i, (g, w)) in got.to_f64().into_iter().zip(want.to_f64()).enumerate() {
        let equal = g == w || (g.is_nan() && w.is_nan()) || (g - w).abs() <= 1e-12 * w.abs().max(1e-3);
        assert!(equal, "{what}: element {i} is {g}, expected {w}");
    }
}
