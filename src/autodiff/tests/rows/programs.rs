//! Leaves, operations that only a compiler sees, random bits, and control flow.

use super::super::{f64s, noise, s32s};
use super::{Row, Slope, given, row};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{Branch, Builder, CustomCall, Op, RngAlgorithm, ScanOptions, Sharding, Value};

pub(in super::super) fn parameter() -> Row {
    let x = noise([2, 3], 1);
    row(
        vec![x.clone()],
        |_, x| Ok(vec![x[0].clone()]),
        vec![x],
        Slope::FiniteDifferences,
        |b| given(&Builder::new("other"), DType::F32, &[])?.add(&given(b, DType::F32, &[])?),
        "a value of another program was used",
    )
}

pub(in super::super) fn constant() -> Row {
    row(
        vec![f64s([2], &[3.0, 4.0])],
        |b, x| Ok(vec![b.constant(f64s([2], &[0.5, -2.0]))?.mul(&x[0])?]),
        vec![f64s([2], &[1.5, -8.0])],
        Slope::FiniteDifferences,
        |b| b.push(Op::Constant(HostArray::scalar(1.0).into()), &[&given(b, DType::F32, &[])?]),
        "constant expects 0 operands, got 1",
    )
}

pub(in super::super) fn iota() -> Row {
    row(
        vec![],
        |b, _| Ok(vec![b.iota(Shape::new(DType::F64, [2, 3]), 1)?, b.iota(Shape::new(DType::U8, [3]), 0)?]),
        vec![f64s([2, 3], &[0.0, 1.0, 2.0, 0.0, 1.0, 2.0]), HostArray::new([3], &[0u8, 1, 2]).unwrap()],
        Slope::NoneByNature,
        |b| b.iota(Shape::new(DType::F32, [2]), 1),
        "iota expects a number type and a dimension of it, got f32[2] and 1",
    )
}

/// The reference vectors of Random123, whose counters a generator's state starts from: the first block for a
/// key and a counter of zero.
pub(in super::super) fn rng(algorithm: RngAlgorithm) -> Row {
    let (bits, next): ([u32; 2], u64) = match algorithm {
        RngAlgorithm::ThreeFry => ([0x6b20_0159, 0x99ba_4efe], 1),
        RngAlgorithm::Philox => ([0x6627_e8d5, 0xe169_c58d], 1),
    };
    row(
        vec![HostArray::new([2], &[0u64, 0]).unwrap()],
        move |b, x| {
            let (next, bits) = b.rng_bit_generator(algorithm, &x[0], Shape::new(DType::U32, [2]))?;
            Ok(vec![next, bits])
        },
        vec![HostArray::new([2], &[0, next]).unwrap(), HostArray::new([2], &bits).unwrap()],
        Slope::NoneByNature,
        move |b| {
            let state = given(b, DType::U32, &[2])?;
            Ok(b.rng_bit_generator(algorithm, &state, Shape::scalar(DType::U32))?.1)
        },
        "rng_bit_generator expects a state of shape u64[2], got u32[2]",
    )
}

pub(in super::super) fn optimization_barrier() -> Row {
    let (x, y) = (noise([2], 1), noise([3], 2));
    row(
        vec![x.clone(), y.clone()],
        |_, x| Value::optimization_barrier(&[&x[0], &x[1]]),
        vec![x, y],
        Slope::FiniteDifferences,
        |b| Ok(b.push_all(Op::OptimizationBarrier, &[])?.swap_remove(0)),
        "optimization_barrier expects at least one operand, got ",
    )
}

pub(in super::super) fn stop_gradient() -> Row {
    let x = noise([3], 1);
    row(
        vec![x.clone()],
        |_, x| Ok(vec![x[0].stop_gradient()?]),
        vec![x],
        Slope::NoneByNature,
        |b| {
            let x = given(b, DType::F32, &[])?;
            b.push(Op::StopGradient, &[&x, &x])
        },
        "stop_gradient expects 1 operands, got 2",
    )
}

pub(in super::super) fn sharding_constraint() -> Row {
    let x = noise([2, 2], 1);
    row(
        vec![x.clone()],
        |_, x| Ok(vec![x[0].with_sharding(Sharding::Replicated)?]),
        vec![x],
        Slope::FiniteDifferences,
        |b| {
            let sharding = Sharding::Tiled { tiles: vec![2], devices: vec![0, 1], replicate_last: false };
            given(b, DType::F32, &[2, 2])?.with_sharding(sharding)
        },
        "sharding_constraint expects {devices=[2]0,1} to have the rank of f32[2,2]",
    )
}

/// The one target that every plugin knows is the identity.
pub(in super::super) fn custom_call() -> Row {
    let x = noise([2], 1);
    let call = || {
        Op::CustomCall(CustomCall {
            target: "Sharding".into(),
            backend_config: vec![],
            results: vec![Shape::new(DType::F64, [2])],
            has_side_effect: false,
        })
    };
    row(
        vec![x.clone()],
        move |b, x| Ok(vec![b.push(call(), &[&x[0]])?]),
        vec![x],
        Slope::Missing("custom_call \"Sharding\" has no gradient"),
        move |b| b.push(call(), &[&given(&Builder::new("other"), DType::F32, &[])?]),
        "a value of another program was used",
    )
}

/// A carry that every step multiplies by its input and by a constant, and an output for each step.
pub(in super::super) fn scan() -> Row {
    let (init, xs, scale) = (f64s([2], &[0.5, -0.25]), noise([3, 2], 1), f64s([], &[1.5]));
    let mut carry = init.to_f64();
    let mut outputs = Vec::new();
    for step in xs.to_f64().chunks(2) {
        outputs.extend(carry.iter().zip(step).map(|(c, x)| c + x));
        carry = carry.iter().zip(step).map(|(c, x)| c * x * 1.5).collect();
    }
    row(
        vec![init, xs, scale],
        |b, x| {
            let (mut carries, outputs) =
                b.scan(3, &x[..1], &x[1..2], ScanOptions::default(), |_, carry, step| {
                    let next = carry[0].mul(&step[0])?.mul(&x[2])?;
                    Ok((vec![next], vec![carry[0].add(&step[0])?]))
                })?;
            carries.extend(outputs);
            Ok(carries)
        },
        vec![f64s([2], &carry), f64s([3, 2], &outputs)],
        Slope::FiniteDifferences,
        |b| {
            let xs = given(b, DType::F32, &[3, 2])?;
            let (_, outputs) =
                b.scan(4, &[], &[xs], ScanOptions::default(), |_, _, step| Ok((vec![], step.to_vec())))?;
            Ok(outputs[0].clone())
        },
        "scan expects inputs of 4 steps, got f32[3,2]",
    )
}

/// Doubles until a bound that both the condition and the body take from outside.
pub(in super::super) fn while_loop() -> Row {
    row(
        vec![f64s([], &[1.5]), f64s([], &[20.0])],
        |b, x| {
            b.while_loop(
                &x[..1],
                |_, carry| carry[0].lt(&x[1]),
                |_, carry| Ok(vec![carry[0].mul_scalar(2.0)?.min(&x[1].mul_scalar(10.0)?)?]),
            )
        },
        vec![f64s([], &[24.0])],
        Slope::Missing("while has no gradient, use a scan, whose length is known"),
        |b| {
            let x = given(b, DType::F32, &[])?;
            let results = b.while_loop(&[x], |_, x| Ok(x[0].clone()), |_, x| Ok(x.to_vec()))?;
            Ok(results[0].clone())
        },
        "while expects its condition to return pred[], got f32[]",
    )
}

pub(in super::super) fn conditional() -> Row {
    row(
        vec![s32s([], &[1]), f64s([], &[2.0]), f64s([], &[5.0])],
        |b, x| {
            let branches: [Branch<'_>; 3] =
                [&|b| Ok(vec![b.own(&x[1])?.exp()?]), &|b| Ok(vec![b.own(&x[1])?.mul(&x[2])?]), &|_| {
                    Ok(vec![x[2].clone()])
                }];
            b.conditional(&x[0], &branches)
        },
        vec![f64s([], &[10.0])],
        Slope::FiniteDifferences,
        |b| {
            let index = given(b, DType::S32, &[])?;
            let branches: [Branch<'_>; 2] =
                [&|b| Ok(vec![b.scalar(DType::F32, 0.0)?]), &|b| Ok(vec![b.scalar(DType::F64, 0.0)?])];
            Ok(b.conditional(&index, &branches)?.swap_remove(0))
        },
        "conditional expects branches with equal results, got f32[] and f64[]",
    )
}
