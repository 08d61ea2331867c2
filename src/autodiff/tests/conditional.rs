//! Gradients of branches.

use std::slice::from_ref;

use super::{check_gradient, evaluate, f64s, function, gradient_at, noise, s32s};
use crate::array::{DType, Shape};
use crate::autodiff::gradient;
use crate::graph::{Branch, Builder, Op, RematPolicy, ScanOptions, Value};

#[test]
fn indices_beyond_the_ends_take_the_first_and_the_last_branch() {
    for (index, expected) in [(-3, 0.0), (0, 0.0), (1, 1.0), (2, 2.0), (9, 2.0)] {
        let inputs = [s32s([], &[index]), f64s([], &[3.0])];
        let choose = |b: &Builder, x: &[Value]| {
            let branch = |i: usize| move |b: &Builder| Ok(vec![b.scalar(DType::F64, i as f64)?]);
            b.conditional(&x[0], &[&branch(0), &branch(1), &branch(2)])
        };
        assert_eq!(evaluate(&inputs[..1], choose)[0].to_f64(), [expected], "index {index}");
        let gradients = gradient_at(&inputs, |b, x| {
            let times = |i: usize| move |b: &Builder| Ok(vec![b.own(&x[1])?.mul_scalar(i as f64)?]);
            b.conditional(&x[0], &[&times(0), &times(1), &times(2)])
        });
        let weight = super::weights(&Shape::scalar(DType::F64), 0).to_f64()[0];
        assert_eq!(gradients, [[weight * expected]], "index {index}");
    }
    let single = evaluate(&[s32s([], &[5]), f64s([], &[2.0])], |b, x| {
        b.conditional(&x[0], &[&|b| Ok(vec![b.own(&x[1])?.exp()?])])
    });
    assert!((single[0].to_f64()[0] - 2f64.exp()).abs() < 1e-12);
}

/// Branches that share some operands, with several results of which one is not used and one is an integer.
#[test]
fn every_branch_equals_finite_differences() {
    for index in 0..3 {
        let inputs = [s32s([], &[index]), noise([2, 2], 1), noise([2, 2], 2), noise([2], 3)];
        check_gradient(&format!("branch {index}"), &inputs, |b, x| {
            let (m, n, v) = (&x[1], &x[2], &x[3]);
            let one = b.scalar(DType::S32, 1.0)?;
            let branches: [Branch<'_>; 3] = [
                &|b| Ok(vec![b.own(m)?.einsum("ij,jk->ik", n)?, b.own(v)?.exp()?, one.clone()]),
                &|b| Ok(vec![b.own(n)?.sin()?.mul(m)?.tanh()?, v.clone(), one.clone()]),
                &|b| Ok(vec![m.clone(), b.own(v)?.full_like(2.0)?, b.scalar(DType::S32, 4.0)?]),
            ];
            let results = b.conditional(&x[0], &branches)?;
            Ok(vec![results[0].clone(), results[2].clone(), results[1].mul(&results[1])?])
        });
    }
}

#[test]
fn scan_in_conditional() {
    for policy in RematPolicy::ALL {
        for index in 0..2 {
            let inputs = [s32s([], &[index]), noise([2], 1), noise([3, 2], 2), f64s([], &[1.1])];
            check_gradient(&format!("{policy}, branch {index}"), &inputs, |b, x| {
                let looped = |b: &Builder| {
                    let options = ScanOptions { policy, reverse: false };
                    let (mut carries, outputs) = b.scan(3, &x[1..2], &x[2..3], options, |_, c, y| {
                        let next = c[0].mul(&y[0])?.add(&x[3])?.sin()?;
                        Ok((vec![next.clone()], vec![next.square()?]))
                    })?;
                    carries.extend(outputs);
                    Ok(carries)
                };
                let straight = |b: &Builder| Ok(vec![b.own(&x[1])?.exp()?, b.own(&x[2])?.mul(&x[3])?]);
                b.conditional(&x[0], &[&looped, &straight])
            });
        }
    }
}

#[test]
fn conditional_in_conditional_and_second_derivatives() {
    for (outer, inner) in [(0, 0), (1, 0), (1, 1)] {
        let inputs = [s32s([], &[outer]), s32s([], &[inner]), f64s([], &[0.7]), f64s([], &[1.4])];
        let nested = |b: &Builder, x: &[Value]| {
            let deep = |b: &Builder| {
                let branches: [Branch<'_>; 2] = [&|b| Ok(vec![b.own(&x[2])?.mul(&x[3])?.sin()?]), &|b| {
                    Ok(vec![b.own(&x[2])?.exp()?.mul(&x[3])?])
                }];
                b.conditional(&x[1], &branches)
            };
            b.conditional(&x[0], &[&|b| Ok(vec![b.own(&x[2])?.square()?]), &deep])
        };
        check_gradient("nested", &inputs, nested);
        check_gradient("second derivative", &inputs, |b, x| gradient(&nested(b, x)?[0], from_ref(&x[2])));
    }
}

/// The backward pass of a branch is in a branch: only the one that was taken is run.
#[test]
fn gradients_of_branches_stay_in_branches() {
    let inputs = [s32s([], &[0]), noise([2], 1)];
    let function = function(&inputs, |b, x| {
        let branches: [Branch<'_>; 2] =
            [&|b| Ok(vec![b.own(&x[1])?.sin()?]), &|b| Ok(vec![b.own(&x[1])?.exp()?.tanh()?])];
        let results = b.conditional(&x[0], &branches)?;
        gradient(&results[0].sum_all()?, &x[1..])
    });
    let function = function.unwrap();
    let computes = |op: &Op| matches!(op, Op::Unary(_) | Op::Binary(_));
    assert!(!function.nodes().iter().any(|node| computes(&node.op)), "computed whatever the index is");
}
