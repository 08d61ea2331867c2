//! Einstein's notation against loops over every index.

use std::collections::BTreeMap;

use super::{Differentiated, assert_close, f64s, noise};
use crate::array::{DType, HostArray, Shape};
use crate::graph::Builder;

const EXTENTS: [(char, usize); 6] = [('a', 2), ('b', 3), ('c', 4), ('d', 1), ('e', 2), ('f', 5)];

fn extent(axis: char) -> usize {
    EXTENTS.iter().find(|(name, _)| *name == axis).unwrap().1
}

fn dims(axes: &str) -> Vec<usize> {
    axes.chars().map(extent).collect()
}

/// Sums over all values of all indices.
fn naive(lhs_axes: &str, rhs_axes: &str, out_axes: &str, lhs: &HostArray, rhs: &HostArray) -> HostArray {
    let mut axes: Vec<char> = lhs_axes.chars().chain(rhs_axes.chars()).collect();
    axes.sort_unstable();
    axes.dedup();
    let mut out = HostArray::zeros(Shape::new(DType::F64, dims(out_axes)));
    let (lhs, rhs) = (lhs.to_f64(), rhs.to_f64());
    for mut count in 0..axes.iter().map(|&axis| extent(axis)).product() {
        let mut index = BTreeMap::new();
        for &axis in &axes {
            index.insert(axis, count % extent(axis));
            count /= extent(axis);
        }
        let place = |axes: &str| axes.chars().fold(0, |place, axis| place * extent(axis) + index[&axis]);
        out.values_mut::<f64>().unwrap()[place(out_axes)] += lhs[place(lhs_axes)] * rhs[place(rhs_axes)];
    }
    out
}

#[test]
fn equals_the_loops() {
    for spec in [
        "ab,bc->ac",
        "ab,bc->ca",    // permuted
        "ba,cb->ac",    // contracted where it lies first and last
        "abc,abe->aec", // batch and contraction
        "bac,cab->abc", // all axes shared: element by element, in three orders
        "a,b->ab",      // outer
        "a,b->ba",
        "abc,cab->", // a scalar
        "abc,b->ac",
        "abc,ce->b", // summed out on both sides
        "ab,ef->ae", // nothing shared
        "ab,ef->",
        "abd,dce->eabc", // an axis of extent 1
        "fcab,bfec->aec",
        ",ab->ba",
    ] {
        let (operands, out) = spec.split_once("->").unwrap();
        let (lhs, rhs) = operands.split_once(',').unwrap();
        let inputs = [noise(dims(lhs), 1), noise(dims(rhs), 2)];
        let program = Differentiated::new(&inputs, |_, x| Ok(vec![x[0].einsum(spec, &x[1])?])).unwrap();
        let expected = naive(lhs, rhs, out, &inputs[0], &inputs[1]);
        assert_close(&program.run(&inputs).0[0], &expected, spec);
        program.check(spec);
    }
}

#[test]
fn of_a_value_with_itself() {
    let x = f64s([2], &[3.0, 4.0]);
    let program =
        Differentiated::new(std::slice::from_ref(&x), |_, x| Ok(vec![x[0].einsum("a,a->", &x[0])?]));
    let program = program.unwrap();
    assert_eq!(program.run(std::slice::from_ref(&x)).0[0].to_f64(), [25.0]);
    program.check("square");
}

#[test]
fn wrong_specs_are_told() {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::new(DType::F32, [2, 3])).unwrap();
    for (spec, message) in [
        ("ab,bc", "expects two operands and a result, each axis once, as in \"ab,bc->ac\""),
        ("ab->ab", "expects two operands and a result, each axis once, as in \"ab,bc->ac\""),
        ("aa,ab->b", "expects two operands and a result, each axis once, as in \"ab,bc->ac\""),
        ("ab,a c->bc", "expects two operands and a result, each axis once, as in \"ab,bc->ac\""),
        ("...b,bc->c", "expects two operands and a result, each axis once, as in \"ab,bc->ac\""),
        ("abc,ab->c", "expects rank 3, got f32[2,3]"),
        ("ab,bc->ac", "expects equal extents for axis 'b', got 3 and 2"),
        ("ab,ac->ax", "has axis 'x' in the result only"),
    ] {
        let error = x.einsum(spec, &x).unwrap_err();
        assert_eq!(error.message(), format!("einsum \"{spec}\" {message}"));
    }
    let y = b.parameter("y", Shape::new(DType::F64, [3, 2])).unwrap();
    let error = x.einsum("ab,bc->ac", &y).unwrap_err();
    assert_eq!(error.message(), "dot_general expects numbers of one type, got f32[2,3] and f64[3,2]");
}
