//! Gradients of loops: against the same steps written out, under every policy, and against finite
//! differences.

use std::slice::from_ref;

use super::{Differentiated, assert_close, check_gradient, compile, evaluate, f64s, function, noise, s32s};
use crate::array::{DType, HostArray, Shape};
use crate::autodiff::gradient;
use crate::graph::{Branch, Builder, Function, Op, RematPolicy, Result, ScanOptions, Value};
use crate::hlo::{self, EmitOptions};

const LENGTH: usize = 3;

type Step<'a> = &'a dyn Fn(&[Value], &[Value]) -> Result<(Vec<Value>, Vec<Value>)>;

/// Final carries, then stacked outputs, of a loop that is written out.
fn unroll(init: &[Value], xs: &[Value], reverse: bool, step: Step<'_>) -> Result<Vec<Value>> {
    let mut carries = init.to_vec();
    let mut outputs: Vec<Vec<Value>> = Vec::new();
    for i in 0..LENGTH {
        let i = if reverse { LENGTH - 1 - i } else { i };
        let parts = xs.iter().map(|x| x.index_in_dim(0, i)).collect::<Result<Vec<_>>>()?;
        let (next, output) = step(&carries, &parts)?;
        carries = next;
        outputs.push(output);
    }
    if reverse {
        outputs.reverse();
    }
    for k in 0..outputs[0].len() {
        let of_steps: Vec<&Value> = outputs.iter().map(|output| &output[k]).collect();
        carries.push(Value::stack(&of_steps, 0)?);
    }
    Ok(carries)
}

fn looped(
    b: &Builder,
    init: &[Value],
    xs: &[Value],
    options: ScanOptions,
    step: Step<'_>,
) -> Result<Vec<Value>> {
    let (mut results, outputs) = b.scan(LENGTH, init, xs, options, |_, carries, x| step(carries, x))?;
    results.extend(outputs);
    Ok(results)
}

/// Inputs are `num_carries` carries, `num_xs` stacked inputs, then constants, which `step` gets whole.
fn check_all_policies(
    what: &str,
    inputs: &[HostArray],
    num_carries: usize,
    num_xs: usize,
    step: impl Fn(&[Value], &[Value], &[Value]) -> Result<(Vec<Value>, Vec<Value>)>,
) {
    let split = |x: &[Value]| (num_carries, num_carries + num_xs, x.to_vec());
    for reverse in [false, true] {
        let reference = Differentiated::new(inputs, |_, x| {
            let (i, j, x) = split(x);
            unroll(&x[..i], &x[i..j], reverse, &|c, s| step(c, s, &x[j..]))
        });
        let (outputs, _, gradients) = reference.unwrap().run(inputs);
        for policy in RematPolicy::ALL {
            let what = format!("{what}, {policy}, reverse: {reverse}");
            let program = Differentiated::new(inputs, |b, x| {
                let (i, j, x) = split(x);
                let options = ScanOptions { reverse, policy };
                looped(b, &x[..i], &x[i..j], options, &|c, s| step(c, s, &x[j..]))
            });
            let program = program.unwrap_or_else(|error| panic!("{what}: {error}"));
            let (got_outputs, _, got_gradients) = program.run(inputs);
            assert_eq!((got_outputs.len(), got_gradients.len()), (outputs.len(), gradients.len()));
            for (got, want) in got_outputs.iter().chain(&got_gradients).zip(outputs.iter().chain(&gradients))
            {
                assert_close(got, want, &what);
            }
            if policy == RematPolicy::default() {
                program.check(&what);
            }
        }
    }
}

/// Constants, carries, inputs and outputs all have cotangents; the products are with and without a batch
/// dimension, so that every policy keeps something else.
#[test]
fn every_policy_equals_the_steps_written_out() {
    let inputs = [noise([2, 3], 1), noise([LENGTH, 3, 3], 2), noise([LENGTH, 3], 3), noise([3, 2, 3], 4)];
    check_all_policies("layers", &inputs, 1, 2, |carries, x, consts| {
        let hidden = carries[0].einsum("bi,ij->bj", &x[0])?.add(&x[1])?.tanh()?;
        let batched = hidden.einsum("bj,jbk->bjk", &consts[0])?;
        let batched = batched.einsum("bjk,bk->bj", &hidden)?;
        let next = carries[0].add(&batched.sin()?)?;
        Ok((vec![next.clone()], vec![hidden, next.square()?]))
    });
}

/// An integer counts the steps and chooses; its own path has no gradient. One carry is swapped with another,
/// one is only read, one output is an input and one is an integer.
#[test]
fn carries_of_integers_and_carries_that_change_places() {
    let inputs =
        [s32s([], &[0]), f64s([], &[0.7]), f64s([], &[-0.3]), noise([LENGTH], 1), noise([LENGTH, 2], 2)];
    check_all_policies("mixed carries", &inputs, 3, 1, |carries, x, consts| {
        let [count, a, b] = carries else { panic!("three carries") };
        let row = consts[0].dynamic_slice(&[count, &count.full_like(0.0)?], &[1, 2])?.reshape(&[2])?;
        let next = a.mul(&x[0])?.add(&row.sum_all()?)?.sin()?;
        let scaled = next.mul(&count.convert(DType::F64)?.add_scalar(1.0)?)?;
        Ok((vec![count.add_scalar(1.0)?, b.clone(), scaled], vec![x[0].clone(), count.clone(), b.mul(a)?]))
    });
}

#[test]
fn scan_in_scan() {
    let inputs = [noise([2], 1), noise([LENGTH, 4, 2], 2), f64s([], &[0.8])];
    for inner in [RematPolicy::NothingSaveable, RematPolicy::EverythingSaveable] {
        check_all_policies(&format!("{inner} inside"), &inputs, 1, 1, |carries, x, consts| {
            let options = ScanOptions { policy: inner, reverse: true };
            let b = Value::innermost(&[&carries[0], &x[0]]).clone();
            // The inner body reads the outer step's carry, the program's constant and a value made outside it.
            let doubled = carries[0].mul_scalar(2.0)?;
            let (last, outputs) = b.scan(4, &[doubled], from_ref(&x[0]), options, |_, c, y| {
                let next = c[0].mul(&y[0])?.add(&carries[0].mul(&consts[0])?)?.sin()?;
                Ok((vec![next.clone()], vec![next.square()?]))
            })?;
            let next = last[0].add(&outputs[0].reduce_sum(&[0])?)?;
            Ok((vec![next.clone()], vec![next]))
        });
    }
}

#[test]
fn conditional_in_scan() {
    let inputs = [noise([2], 1), s32s([LENGTH], &[1, 0, 2]), f64s([2], &[0.4, 1.2])];
    check_all_policies("conditional", &inputs, 1, 1, |carries, x, consts| {
        let b = Value::innermost(&[&carries[0], &x[0]]).clone();
        let branches: [Branch<'_>; 3] = [
            &|b| Ok(vec![b.own(&carries[0])?.mul(&consts[0])?]),
            &|b| Ok(vec![b.own(&carries[0])?.sin()?]),
            &|b| Ok(vec![b.own(&consts[0])?.square()?]),
        ];
        let next = b.conditional(&x[0], &branches)?.swap_remove(0);
        Ok((vec![next.clone()], vec![next.exp()?]))
    });
}

#[test]
fn while_in_scan_on_a_path_without_gradient() {
    let inputs = [f64s([], &[0.5]), noise([LENGTH], 2), f64s([], &[0.3])];
    check_all_policies("while", &inputs, 1, 1, |carries, x, consts| {
        let b = Value::innermost(&[&carries[0], &x[0]]).clone();
        // The power of two above the carry, held fixed.
        let start = consts[0].full_like(0.3)?;
        let bound =
            b.while_loop(&[start], |_, c| c[0].lt(&carries[0]), |_, c| Ok(vec![c[0].mul_scalar(2.0)?]))?;
        let next = carries[0].mul(&bound[0].stop_gradient()?)?.add(&x[0])?.mul(&consts[0])?;
        Ok((vec![next], vec![]))
    });
}

/// A step that returns values of the surrounding program, one that ignores what it is given, and one
/// without carries.
#[test]
fn degenerate_steps() {
    let inputs = [f64s([], &[0.5]), noise([LENGTH], 2), f64s([], &[0.3])];
    check_all_policies("outer value", &inputs, 1, 1, |_, _, consts| {
        Ok((vec![consts[0].clone()], vec![consts[0].clone()]))
    });
    check_all_policies("map", &inputs[1..], 0, 1, |_, x, consts| {
        Ok((vec![], vec![x[0].mul(&consts[0])?.exp()?]))
    });
    check_all_policies("sum", &inputs[..2], 1, 1, |c, x, _| Ok((vec![c[0].add(&x[0])?], vec![])));
    // One step is no loop to a compiler: the forward pass must still not be kept for the gradient.
    let one = [f64s([], &[0.5]), noise([1], 2)];
    for policy in RematPolicy::ALL {
        check_gradient(policy.name(), &one, |b, x| {
            let options = ScanOptions { policy, reverse: false };
            let (carries, _) =
                b.scan(1, &x[..1], &x[1..], options, |_, c, x| Ok((vec![c[0].mul(&x[0])?.sin()?], vec![])))?;
            Ok(carries)
        });
    }
}

#[test]
fn wrong_loops_are_told() {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::new(DType::F32, [2])).unwrap();
    let scan = |length, init: &[Value], step: Step<'_>| {
        b.scan(length, init, &[], ScanOptions::default(), |_, c, x| step(c, x)).map(drop).unwrap_err()
    };
    let error = scan(2, from_ref(&x), &|_, _| Ok((vec![], vec![])));
    assert_eq!(error.message(), "scan expects the body to return 1 carries, got 0");
    let error = scan(2, from_ref(&x), &|c, _| Ok((vec![c[0].sum_all()?], vec![])));
    assert_eq!(error.message(), "scan expects carry 0 to stay f32[2], got f32[]");
    let error = scan(0, from_ref(&x), &|c, _| Ok((c.to_vec(), vec![])));
    assert_eq!(error.message(), "scan expects at least one step, got 0");

    let scope = b.scope("llm/layers");
    let (carries, _) = b
        .scan(2, from_ref(&x), &[], ScanOptions::default(), |b, c, _| {
            let _scope = b.scope("mlp");
            Ok((vec![c[0].mul(&c[0].reduce_prod(&[0])?)?], vec![]))
        })
        .unwrap();
    drop(scope);
    let error = gradient(&carries[0].sum_all().unwrap(), &[x]).unwrap_err();
    assert!(error.to_string().starts_with("reduce_prod has no gradient"), "{error}");
    let line = line!() - 6;
    assert!(error.to_string().ends_with(&format!("at llm/layers/mlp ({}:{line})", file!())), "{error}");
}

#[test]
fn a_value_of_a_finished_step_cannot_leave_it() {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::new(DType::F32, [2])).unwrap();
    let mut leaked = None;
    b.scan(2, from_ref(&x), &[], ScanOptions::default(), |_, c, _| {
        leaked = Some(c[0].clone());
        Ok((c.to_vec(), vec![]))
    })
    .unwrap();
    let error = x.add(&leaked.unwrap()).and_then(|sum| b.finish(&[&sum]).map(drop)).unwrap_err();
    assert_eq!(error.message(), "a value of another program was used");
}

/// `d2/dx2` of three steps of `x -> sin(w x)`, and both mixed derivatives, which agree.
#[test]
fn second_derivatives_through_a_loop() {
    for policy in RematPolicy::ALL {
        let first = |_: &Builder, x: &[Value]| {
            let b = x[0].builder();
            let options = ScanOptions { policy, reverse: false };
            let (carries, _) =
                b.scan(3, &x[..1], &[], options, |_, c, _| Ok((vec![c[0].mul(&x[1])?.sin()?], vec![])))?;
            gradient(&carries[0], x)
        };
        let inputs = [f64s([], &[0.6]), f64s([], &[1.3])];
        check_gradient(&format!("second derivative, {policy}"), &inputs, first);
        let mixed = evaluate(&inputs, |b, x| {
            let first = first(b, x)?;
            let of_x = gradient(&first[0], x)?;
            let of_w = gradient(&first[1], x)?;
            Ok(vec![of_x[1].clone(), of_w[0].clone()])
        });
        assert_close(&mixed[0], &mixed[1], "mixed derivatives");
    }
}

/// A loop over layers `tanh(x w + v)` with a frozen or trained `w`.
fn layers(wrt: impl Fn(&[Value]) -> Vec<Value>, policy: RematPolicy) -> Function {
    let inputs = [noise([2, 3], 1), noise([LENGTH, 3, 3], 2), noise([LENGTH, 3], 3)];
    function(&inputs, |b, x| {
        let options = ScanOptions { policy, reverse: false };
        let (carries, _) = b.scan(LENGTH, &x[..1], &x[1..], options, |_, c, x| {
            Ok((vec![c[0].einsum("bi,ij->bj", &x[0])?.add(&x[1])?.tanh()?], vec![]))
        })?;
        let loss = carries[0].sum_all()?;
        let mut outputs = vec![loss.clone()];
        outputs.extend(gradient(&loss, &wrt(x))?);
        Ok(outputs)
    })
    .unwrap()
}

/// Operations of a kind in a function and in the bodies of its loops.
fn count(function: &Function, is: fn(&Op) -> bool) -> usize {
    let of_node = |op: &Op| match op {
        Op::Scan(spec) => count(&spec.body, is),
        op => is(op).into(),
    };
    function.nodes().iter().map(|node| of_node(&node.op)).sum()
}

#[test]
fn what_is_frozen_costs_nothing() {
    let is_dot = |op: &Op| matches!(op, Op::DotGeneral { .. });
    let is_loop = |f: &Function| f.nodes().iter().filter(|node| matches!(node.op, Op::Scan(_))).count();
    let policy = RematPolicy::EverythingSaveable;
    // Nothing wanted: no backward loop, and the forward loop stores nothing.
    let frozen = layers(|_| vec![], policy);
    assert_eq!((is_loop(&frozen), count(&frozen, is_dot)), (1, 1));
    let Some(Op::Scan(spec)) =
        frozen.nodes().iter().map(|node| &node.op).find(|op| matches!(op, Op::Scan(_)))
    else {
        panic!("the loop is there");
    };
    assert_eq!(spec.body.outputs().len(), 1);
    // Only the biases: one product more, for the carry's cotangent; the kernels' has one more.
    let biases = layers(|x| vec![x[2].clone()], policy);
    assert_eq!((is_loop(&biases), count(&biases, is_dot)), (2, 2));
    let kernels = layers(|x| vec![x[1].clone()], policy);
    assert_eq!((is_loop(&kernels), count(&kernels, is_dot)), (2, 3));
    // The kernels' sums are the only values as large as they.
    let size = |f: &Function| hlo::emit(f, &EmitOptions::default()).unwrap().num_instructions();
    assert!(size(&biases) < size(&kernels), "{} {}", size(&biases), size(&kernels));
    let temp = |f: &Function| compile(f).compiled().memory_stats().unwrap().output_bytes;
    assert_eq!(temp(&kernels) - temp(&biases), (LENGTH * 3 * 3 - LENGTH * 3) as u64 * 8);
}

/// What stands before a frozen prefix of the program has no cotangents either.
#[test]
fn a_frozen_tower_has_no_backward_pass() {
    let inputs = [noise([4], 1), noise([4], 2)];
    let nodes = |frozen: bool| {
        let function = function(&inputs, |b, x| {
            let mut tower = x[0].clone();
            for _ in 0..10 {
                tower = tower.sin()?.exp()?;
            }
            let loss = tower.mul(&x[1])?.sum_all()?;
            let wrt = if frozen { &x[1..] } else { x };
            let _ = b;
            gradient(&loss, wrt)
        });
        function.unwrap().nodes().len()
    };
    // Forward: 2 parameters and 20 operations; the loss's own value is not asked for. Backward: its
    // cotangent, repeated, times the tower.
    assert_eq!(nodes(true), 22 + 3);
    assert!(nodes(false) > 22 + 3 + 20);
}
