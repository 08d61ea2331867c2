//! From a finished graph to something that runs: the one place where [`hlo`] meets [`runtime`].

use crate::array::HostArray;
use crate::graph::{self, Function};
use crate::hlo::{self, EmitOptions, Module};
use crate::runtime::{
    self, Arg, Buffer, CacheOutcome, Client, CompileOptions, Executable, ExecutableCache, Program,
};

/// A program that could not be built, emitted, compiled or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Graph(#[from] graph::Error),
    #[error(transparent)]
    Emit(#[from] hlo::Error),
    #[error(transparent)]
    Runtime(#[from] runtime::Error),
    #[error("the program returned fewer results than it was written to")]
    NoResult,
}

/// Writes a function as a program, in the form that suits the client's devices.
pub fn emit(client: &Client, function: &Function, options: &EmitOptions) -> Result<Module, Error> {
    // Of a program that is divided over devices, the divided dimensions are better left alone.
    let for_cpu = client.platform_name() == "cpu" && options.parameter_shardings.is_empty();
    Ok(hlo::emit(function, &EmitOptions { for_cpu, ..options.clone() })?)
}

/// Compiles a function for the client's devices, or takes it from the cache on disk.
pub fn compile(
    client: &Client,
    function: &Function,
    emit: &EmitOptions,
    options: &CompileOptions,
) -> Result<Executable, Error> {
    Ok(compile_module(client, &self::emit(client, function, emit)?, options)?.0)
}

/// As [`compile`], for a program that is emitted already; also says what the cache did.
pub fn compile_module(
    client: &Client,
    module: &Module,
    options: &CompileOptions,
) -> Result<(Executable, CacheOutcome), Error> {
    let cache = ExecutableCache::from_environment();
    Ok(client.compile_cached(Program::hlo(&module.to_bytes()), options, cache.as_ref())?)
}

/// Compiles a function for the client's first device, runs it once and waits for its results: for
/// programs that run once, and for tests.
pub fn run_once(
    client: &Client,
    function: &Function,
    inputs: &[&HostArray],
) -> Result<Vec<HostArray>, Error> {
    let module = emit(client, function, &EmitOptions::default())?;
    let executable = client.compile(Program::hlo(&module.to_bytes()), &CompileOptions::default())?;
    let device = &executable.devices()[0];
    let buffers =
        inputs.iter().map(|input| client.upload(input, device)).collect::<Result<Vec<Buffer>, _>>()?;
    let results = executable.execute(buffers.iter().map(Arg::Keep).collect())?;
    Ok(results.iter().map(Buffer::download).collect::<Result<Vec<HostArray>, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{DType, Shape};
    use crate::autodiff::gradient;
    use crate::graph::{Builder, RematPolicy, ScanOptions};
    use crate::runtime::testing::cpu_client;

    /// Products and reductions, whose form depends on the device.
    #[test]
    fn the_form_for_the_cpu_means_the_same() {
        let b = Builder::new("forms");
        let x = b.parameter("x", Shape::new(DType::F32, [3, 5, 32, 64])).unwrap();
        let y = b.parameter("y", Shape::new(DType::F32, [5, 3, 6])).unwrap();
        let z = b.parameter("z", Shape::new(DType::F32, [3, 5, 6])).unwrap();
        let results = [
            x.einsum("abcd,bae->ecd", &y),
            x.einsum("abcd,abe->cde", &z),
            z.einsum("abe,abcd->ecd", &x),
            y.einsum("bae,fge->bafg", &z),
            x.sum_all(),
            x.reduce_max(&[2, 3]),
            x.reduce_min(&[3]),
            x.reduce_sum(&[1, 2, 3]),
            x.reduce_sum(&[0, 1]),
            x.reduce_sum(&[0, 3]),
        ]
        .map(Result::unwrap);
        let function = b.finish(&results.iter().collect::<Vec<_>>()).unwrap();
        let array = |dims: &[usize], step: f32| {
            let values: Vec<f32> =
                (0..dims.iter().product()).map(|i: usize| (i as f32 * step).sin()).collect();
            HostArray::new(dims, &values).unwrap()
        };
        let inputs = [array(&[3, 5, 32, 64], 0.37), array(&[5, 3, 6], 0.7), array(&[3, 5, 6], 1.1)];

        let client = cpu_client();
        let [plain, cpu] = [false, true].map(|for_cpu| {
            let module = hlo::emit(&function, &EmitOptions { for_cpu, ..EmitOptions::default() }).unwrap();
            let executable =
                client.compile(Program::hlo(&module.to_bytes()), &CompileOptions::default()).unwrap();
            let device = &executable.devices()[0];
            let arguments = inputs.each_ref().map(|input| client.upload(input, device).unwrap());
            let results = executable.execute(arguments.iter().map(Arg::Keep).collect()).unwrap();
            (module.num_instructions(), results.iter().map(|r| r.download().unwrap()).collect::<Vec<_>>())
        });
        assert!(cpu.0 > plain.0, "nothing was written in another form");
        for (i, (plain, cpu)) in plain.1.iter().zip(&cpu.1).enumerate() {
            assert_eq!(plain.shape(), cpu.shape());
            for (a, b) in plain.values::<f32>().unwrap().iter().zip(cpu.values::<f32>().unwrap()) {
                // Up to 30 720 numbers of at most 1 are added up in another order.
                assert!((a - b).abs() < 1e-4, "{i}: {a} and {b}");
            }
        }
    }

    /// A loop that multiplies by each of three matrices, with the gradient of its end.
    fn product(policy: RematPolicy) -> graph::Result<Function> {
        let b = Builder::new("product");
        let x = b.parameter("x", Shape::new(DType::F32, [2]))?;
        let w = b.parameter("w", Shape::new(DType::F32, [3, 2, 2]))?;
        let options = ScanOptions { policy, reverse: false };
        let (carries, outputs) =
            b.scan(3, std::slice::from_ref(&x), std::slice::from_ref(&w), options, |_, carries, steps| {
                let next = carries[0].einsum("i,ij->j", &steps[0])?.tanh()?;
                Ok((vec![next.clone()], vec![next]))
            })?;
        let loss = carries[0].sum_all()?;
        let gradients = gradient(&loss, &[x, w])?;
        b.finish(&[&loss, &outputs[0], &gradients[0], &gradients[1]])
    }

    #[test]
    fn a_scan_and_its_gradient_equal_the_unrolled_loop_under_every_policy() {
        let x = [0.3f32, -0.7];
        let w: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
        let arrays = [HostArray::new([2], &x).unwrap(), HostArray::new([3, 2, 2], &w).unwrap()];
        let forward = |x: [f32; 2], w: &[f32]| {
            w.chunks(4)
                .fold(x, |x, w| [(x[0] * w[0] + x[1] * w[2]).tanh(), (x[0] * w[1] + x[1] * w[3]).tanh()])
        };
        let total = |x: [f32; 2], w: &[f32]| forward(x, w).iter().sum::<f32>();
        for policy in RematPolicy::ALL {
            let function = product(policy).unwrap();
            let results = run_once(&cpu_client(), &function, &arrays.iter().collect::<Vec<_>>()).unwrap();
            let value = |i: usize| results[i].values::<f32>().unwrap();
            assert!((value(0)[0] - total(x, &w)).abs() < 1e-6, "{policy}");
            // XLA's tanh is a rational approximation, good to a few units in the last place.
            let mut ends = value(1)[4..].iter().zip(forward(x, &w));
            assert!(ends.all(|(a, b)| (a - b).abs() < 1e-6), "{policy}");
            // Central differences in f32 are good to about 1e-3 at this step.
            let step = 1e-2;
            for i in 0..2 {
                let shifted = |by: f32| std::array::from_fn(|j| if i == j { x[j] + by } else { x[j] });
                let slope = (total(shifted(step), &w) - total(shifted(-step), &w)) / (2.0 * step);
                assert!((value(2)[i] - slope).abs() < 1e-3, "{policy}: x[{i}] {} {slope}", value(2)[i]);
            }
            for i in 0..12 {
                let shifted = |by: f32| {
                    w.iter().enumerate().map(|(j, w)| if i == j { w + by } else { *w }).collect::<Vec<_>>()
                };
                let slope = (total(x, &shifted(step)) - total(x, &shifted(-step))) / (2.0 * step);
                assert!((value(3)[i] - slope).abs() < 1e-3, "{policy}: w[{i}] {} {slope}", value(3)[i]);
            }
        }
    }
}
