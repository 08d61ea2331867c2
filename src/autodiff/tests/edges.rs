//! Ties, kinks, bounds and other places where a rule has to choose: as JAX does.

use super::rows::rows_by_number;
use super::{Differentiated, check_gradient, evaluate, f64s, function, gradient_at, noise, s32s};
use crate::array::{DType, HostArray, Shape};
use crate::autodiff::{gradient, vjp};
use crate::graph::{Builder, DotDims, Op, Precision, RngAlgorithm, ScatterDims, ScatterOp, Value};

/// The factors of the first elements in the weighted sum.
fn w(i: usize) -> f64 {
    super::weights(&Shape::new(DType::F64, [i + 1]), 0).to_f64()[i]
}

#[test]
fn max_and_min_split_ties_evenly() {
    for operation in [Value::max, Value::min] {
        let (x, y) = (f64s([2], &[1.0, 2.0]), f64s([2], &[1.0, 2.0]));
        let gradients = gradient_at(&[x, y], |_, x| Ok(vec![operation(&x[0], &x[1])?]));
        assert_eq!(gradients, [[w(0) / 2.0, w(1) / 2.0], [w(0) / 2.0, w(1) / 2.0]]);
    }
}

#[test]
fn reduce_max_and_min_divide_by_the_number_of_ties() {
    let x = f64s([2, 4], &[3.0, 1.0, 3.0, 3.0, 0.0, 0.0, 1.0, 5.0]);
    let largest = gradient_at(std::slice::from_ref(&x), |_, x| Ok(vec![x[0].reduce_max(&[1])?]));
    assert_eq!(largest[0], [w(0) / 3.0, 0.0, w(0) / 3.0, w(0) / 3.0, 0.0, 0.0, 0.0, w(1)]);
    let least = gradient_at(&[x], |_, x| Ok(vec![x[0].reduce_min(&[1])?]));
    assert_eq!(least[0], [0.0, w(0), 0.0, 0.0, w(1) / 2.0, w(1) / 2.0, 0.0, 0.0]);
}

#[test]
fn abs_and_sign_are_flat_at_zero() {
    let zero = || [f64s([2], &[0.0, -0.0])];
    assert_eq!(gradient_at(&zero(), |_, x| Ok(vec![x[0].abs()?])), [[0.0, 0.0]]);
    assert_eq!(gradient_at(&zero(), |_, x| Ok(vec![x[0].sign()?])), [[0.0, 0.0]]);
}

/// At a bound the operand is not inside, and the bound does not hold it back: both are flat.
#[test]
fn clamp_is_flat_at_its_bounds() {
    let inputs = [f64s([4], &[-1.0, 1.0, -1.5, 0.0]), f64s([], &[-1.0]), f64s([], &[1.0])];
    let gradients = gradient_at(&inputs, |_, x| Ok(vec![x[0].clamp(&x[1], &x[2])?]));
    assert_eq!(gradients, [vec![0.0, 0.0, 0.0, w(3)], vec![w(2)], vec![0.0]]);
}

#[test]
fn pow_has_slopes_at_zero() {
    let (x, y) = (f64s([5], &[0.0, 0.0, 0.0, 2.0, -3.0]), f64s([5], &[0.0, 1.0, 2.0, 0.0, 2.0]));
    let gradients = gradient_at(&[x.clone(), y], |_, x| Ok(vec![x[0].pow(&x[1])?]));
    assert_eq!(gradients[0], [0.0, w(1), 0.0, 0.0, -6.0 * w(4)]);
    // log(2) 2^0, and 0^y is flat in y; that of a negative base is nowhere defined.
    assert_eq!(gradients[1][..3], [0.0; 3]);
    assert!((gradients[1][3] - w(3) * 2f64.ln()).abs() < 1e-15);
    assert!(gradients[1][4].is_nan());

    // A constant exponent asks for no logarithm: the gradient of a negative base is a number.
    let square = gradient_at(&[x], |b, x| Ok(vec![x[0].pow(&b.scalar(DType::F64, 2.0)?)?]));
    assert_eq!(square[0], [0.0, 0.0, 0.0, 4.0 * w(3), -6.0 * w(4)]);
}

/// The branch not taken contributes nothing, even where its own slope is infinite: zero, not NaN, needs the
/// guarded form, as in JAX.
#[test]
fn select_guards_what_it_does_not_take() {
    let gradients = gradient_at(&[f64s([2], &[0.0, 4.0])], |_, x| {
        let positive = x[0].gt_scalar(0.0)?;
        let safe = positive.select(&x[0], &x[0].full_like(1.0)?)?;
        Ok(vec![positive.select(&safe.sqrt()?, &x[0].full_like(0.0)?)?])
    });
    assert_eq!(gradients, [[0.0, w(1) / 4.0]]);
}

#[test]
fn repeated_indices_add_up() {
    let inputs = [f64s([2, 2], &[1.0, 2.0, 3.0, 4.0]), s32s([5], &[1, 1, 0, 7, 1])];
    let gradients = check_gradient("take", &inputs, |_, x| Ok(vec![x[0].take(&x[1])?]));
    // Row 1 was read at 0, 1, 4 and, moved inside, at 3.
    let row = |i: usize| [w(2 * i), w(2 * i + 1)];
    let sum = |column: usize| [0, 1, 3, 4].iter().map(|&i| row(i)[column]).sum::<f64>();
    assert_eq!(gradients[0].to_f64(), [w(4), w(5), sum(0), sum(1)]);
}

/// Which of several updates of one place stays is XLA's choice; the gradient follows it.
#[test]
fn the_assigned_update_that_stays_gets_the_gradient() {
    let inputs = [f64s([2, 2], &[1.0, 2.0, 3.0, 4.0]), s32s([3, 1], &[1, 1, 1]), noise([3, 2], 1)];
    check_gradient("assign", &inputs, |_, x| {
        Ok(vec![x[0].scatter(&x[1], &x[2], rows_by_number(), ScatterOp::Assign)?])
    });
}

/// One dimension of batch, a window that overlaps another, and index vectors in the first dimension.
#[test]
fn scatter_of_overlapping_windows() {
    let dims = ScatterDims {
        update_window_dims: vec![2],
        inserted_window_dims: vec![],
        scatter_dims_to_operand_dims: vec![1],
        input_batching_dims: vec![0],
        scatter_indices_batching_dims: vec![1],
        index_vector_dim: 0,
    };
    let inputs = [noise([2, 5], 1), s32s([1, 2, 3], &[0, 1, 4, 3, 2, -1]), noise([2, 3, 2], 2)];
    for op in [ScatterOp::Add, ScatterOp::Assign] {
        let program =
            Differentiated::new(&inputs, |_, x| Ok(vec![x[0].scatter(&x[1], &x[2], dims.clone(), op)?]));
        let program = program.unwrap();
        program.check(&format!("{op:?}"));
        // The windows that start at 4 and at -1 stick out and are dropped.
        let (x, updates) = (inputs[0].to_f64(), inputs[2].to_f64());
        let got = program.run(&inputs).0[0].to_f64();
        assert_eq!((got[4], got[5], got[6]), (x[4], x[5], x[6]), "{op:?}");
        if op == ScatterOp::Add {
            assert_eq!(got[1], x[1] + updates[1] + updates[2]);
        }
    }
}

#[test]
fn sort_is_stable_both_ways_and_moves_cotangents_with_their_elements() {
    let inputs = [f64s([6], &[2.0, 1.0, 2.0, 1.0, 2.0, 0.0]), noise([6], 1)];
    for (descending, order) in [(false, [5, 1, 3, 0, 2, 4]), (true, [0, 2, 4, 1, 3, 5])] {
        let program = Differentiated::new(&inputs, |_, x| Value::sort(&[&x[0], &x[1]], 0, descending));
        let program = program.unwrap();
        let (outputs, _, gradients) = program.run(&inputs);
        let payload = inputs[1].to_f64();
        assert_eq!(outputs[1].to_f64(), order.map(|i: usize| payload[i]), "descending: {descending}");
        for (salt, gradient) in gradients.iter().enumerate() {
            let weights = super::weights(&Shape::new(DType::F64, [6]), salt).to_f64();
            let places = (0..6).map(|i| weights[order.iter().position(|&o| o == i).unwrap()]);
            assert_eq!(gradient.to_f64(), places.collect::<Vec<_>>());
        }
    }
}

#[test]
fn top_k_orders_and_counts_ties_from_the_left() {
    let x = f64s([2, 5], &[1.0, 5.0, 3.0, 5.0, 2.0, -1.0, -2.0, -1.0, 0.0, f64::NEG_INFINITY]);
    let top = |_: &Builder, x: &[Value]| x[0].top_k(3).map(|(values, index)| vec![values, index]);
    let outputs = evaluate(std::slice::from_ref(&x), top);
    assert_eq!(outputs[0].to_f64(), [5.0, 5.0, 3.0, 0.0, -1.0, -1.0]);
    assert_eq!(outputs[1].values::<i32>().unwrap(), [1, 3, 2, 3, 0, 2]);
    let gradients = gradient_at(&[x], |_, x| Ok(vec![x[0].top_k(3)?.0]));
    assert_eq!(gradients[0], [0.0, w(0), w(2), w(1), 0.0, w(4), 0.0, w(5), w(3), 0.0]);
    let b = Builder::new("b");
    let error = b.parameter("x", Shape::new(DType::F32, [2])).unwrap().top_k(3).unwrap_err();
    assert_eq!(error.message(), "top_k expects at least 3 elements, got f32[2]");
}

#[test]
fn argmax_takes_the_first_of_equals_and_of_nans() {
    let nan = f64::NAN;
    let x = f64s([4, 3], &[1.0, 7.0, 7.0, -1.0, -3.0, -2.0, nan, nan, nan, 0.0, 0.0, 0.0]);
    let outputs = evaluate(&[x], |_, x| Ok(vec![x[0].argmax(1)?, x[0].slice_in_dim(0, 0, 2)?.argmax(0)?]));
    assert_eq!(outputs[0].values::<i32>().unwrap(), [1, 0, 0, 0]);
    assert_eq!(outputs[1].values::<i32>().unwrap(), [0, 0, 0]);
    let integers = evaluate(&[s32s([3], &[4, 9, 9])], |_, x| Ok(vec![x[0].argmax(0)?]));
    assert_eq!(integers[0].values::<i32>().unwrap(), [1]);
}

#[test]
fn cumsum_adds_up_along_its_dimension() {
    let x = noise([3, 7], 1);
    let view = x.view::<f64>().unwrap();
    for (dim, length) in [(0, 3), (1, 7)] {
        let mut expected = x.clone();
        for (i, value) in expected.values_mut::<f64>().unwrap().iter_mut().enumerate() {
            let (row, column) = (i / 7, i % 7);
            let terms = (0..length).filter(|&j| j <= [row, column][dim]);
            *value = terms.map(|j| if dim == 0 { view[[j, column]] } else { view[[row, j]] }).sum();
        }
        let program = Differentiated::new(std::slice::from_ref(&x), |_, x| Ok(vec![x[0].cumsum(dim)?]));
        let program = program.unwrap();
        super::assert_close(&program.run(std::slice::from_ref(&x)).0[0], &expected, "cumsum");
        program.check("cumsum");
    }
    let b = Builder::new("b");
    let x = b.parameter("x", Shape::new(DType::F32, [2])).unwrap();
    assert_eq!(x.cumsum(1).unwrap_err().message(), "cumsum expects a dimension of f32[2], got 1");
    assert_eq!(
        x.argmax(1).unwrap_err().message(),
        "reduce_max expects distinct dimensions of f32[2], got [1]"
    );
}

#[test]
fn operands_broadcast_as_in_numpy_and_gradients_sum_back() {
    let inputs = [noise([2, 1, 3], 1), noise([4, 1], 2), noise([], 3)];
    let gradients =
        check_gradient("broadcast", &inputs, |_, x| Ok(vec![x[0].mul(&x[1])?.add(&x[2])?.mul(&x[2])?]));
    let dims: Vec<&[usize]> = gradients.iter().map(HostArray::dims).collect();
    assert_eq!(dims, [&[2, 1, 3][..], &[4, 1], &[]]);
}

#[test]
fn random_bits_are_a_function_of_the_state_and_uniform_is_uniform() {
    let state = HostArray::new([2], &[7u64, 1]).unwrap();
    const N: usize = 1 << 16;
    let draw = |_: &Builder, x: &[Value]| {
        let (next, first) = x[0].builder().uniform(&x[0], &[N])?;
        let (_, second) = x[0].builder().uniform(&next, &[N])?;
        let (_, same) = x[0].builder().uniform(&x[0], &[N])?;
        Ok(vec![first, second, same])
    };
    let outputs = evaluate(std::slice::from_ref(&state), draw);
    assert!(outputs[0] == outputs[2] && outputs[0] != outputs[1]);
    assert!(outputs == evaluate(std::slice::from_ref(&state), draw));
    let samples = outputs[0].to_f64();
    assert!(samples.iter().all(|v| (0.0..1.0).contains(v)));
    // The mean of 65536 samples is off by 0.0011, their variance by 0.0003, one time in three: six of those.
    let mean = samples.iter().sum::<f64>() / N as f64;
    let variance = samples.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / N as f64;
    assert!((mean - 0.5).abs() < 0.0068 && (variance - 1.0 / 12.0).abs() < 0.0018, "{mean} {variance}");

    for algorithm in [RngAlgorithm::ThreeFry, RngAlgorithm::Philox] {
        for dtype in [DType::U8, DType::U32, DType::U64] {
            let outputs = evaluate(std::slice::from_ref(&state), |b, x| {
                let (next, bits) = b.rng_bit_generator(algorithm, &x[0], Shape::new(dtype, [3, 5]))?;
                Ok(vec![next, bits])
            });
            assert!(outputs[0] != state, "{algorithm:?} {dtype}");
            let ones: u32 = outputs[1].bytes().iter().map(|byte| byte.count_ones()).sum();
            // Half of the bits; six deviations of a binomial distribution.
            let bits = outputs[1].bytes().len() as f64 * 8.0;
            assert!(
                (f64::from(ones) - bits / 2.0).abs() < 3.0 * bits.sqrt(),
                "{algorithm:?} {dtype}: {ones}"
            );
        }
    }
}

#[test]
fn a_missing_rule_is_an_error_at_the_line_of_the_model() {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::new(DType::F32, [3])).unwrap();
    let scope = b.scope("llm/layers/mlp");
    let line = line!() + 1;
    let product = x.reduce_prod(&[0]).unwrap();
    drop(scope);
    let error = gradient(&product.mul_scalar(2.0).unwrap(), &[x]).unwrap_err();
    let hint = "write it as exp of a sum of logs";
    let place = format!("at llm/layers/mlp ({}:{line})", file!());
    assert_eq!(error.to_string(), format!("reduce_prod has no gradient, {hint}, {place}"));
    assert_eq!(error.scope(), "llm/layers/mlp");
}

#[test]
fn a_rule_is_not_asked_for_where_no_gradient_flows() {
    let shape = HostArray::new([3], &[1.0f64, 2.0, 3.0]).unwrap();
    let gradients = gradient_at(&[shape.clone(), shape], |_, x| {
        // The product is of a value that is held fixed.
        Ok(vec![x[0].stop_gradient()?.reduce_prod(&[0])?.mul(&x[1])?])
    });
    assert_eq!(gradients, [[0.0; 3], [6.0 * w(0), 6.0 * w(1), 6.0 * w(2)]]);
}

#[test]
fn a_value_may_be_asked_for_twice_and_between() {
    let outputs = evaluate(&[f64s([], &[3.0])], |_, x| {
        let square = x[0].square()?;
        let loss = square.mul_scalar(5.0)?;
        gradient(&loss, &[x[0].clone(), x[0].clone(), square, loss.clone()])
    });
    let values: Vec<f64> = outputs.iter().map(|output| output.to_f64()[0]).collect();
    assert_eq!(values, [30.0, 30.0, 5.0, 1.0]);
}

#[test]
fn wrong_requests_for_gradients_are_told() {
    let b = Builder::new("main");
    let x = b.parameter("x", Shape::new(DType::F32, [2])).unwrap();
    let error = gradient(&x, std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(error.message(), "gradient expects a floating point scalar, got f32[2]");
    let count = b.scalar(DType::S32, 1.0).unwrap();
    let error = gradient(&count, std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(error.message(), "gradient expects a floating point scalar, got s32[]");

    let other = Builder::new("other").parameter("y", Shape::new(DType::F32, [2])).unwrap();
    let error = gradient(&x.sum_all().unwrap(), std::slice::from_ref(&other)).unwrap_err();
    assert_eq!(error.message(), "vjp expects values of one program, got %0.0: f32[2] of another");
    let error = vjp(&[(x.clone(), other)], std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(error.message(), "vjp expects values of one program, got %0.0: f32[2] of another");
    let error = vjp(&[(x.clone(), x.sum_all().unwrap())], std::slice::from_ref(&x)).unwrap_err();
    assert_eq!(error.message(), "vjp expects a cotangent of shape f32[2], got f32[]");
}

#[test]
fn second_derivatives() {
    let outputs = evaluate(&[f64s([], &[0.7])], |_, x| {
        let first = gradient(&x[0].sin()?.mul(&x[0])?, x)?;
        gradient(&first[0], x)
    });
    let x: f64 = 0.7;
    assert!((outputs[0].to_f64()[0] - (2.0 * x.cos() - x * x.sin())).abs() < 1e-14);
}

/// A model in `f32` on an accelerator asks for exact products forwards, and means backwards too.
#[test]
fn the_gradient_of_a_product_has_its_precision() {
    let inputs = [noise([2, 3], 1), noise([3, 4], 2)];
    let function = function(&inputs, |b, x| {
        b.set_precision(Precision::Highest);
        let dims = DotDims { lhs_contracting: vec![1], rhs_contracting: vec![0], ..DotDims::default() };
        let product = x[0].dot_general(&x[1], dims)?;
        b.set_precision(Precision::Default);
        gradient(&product.sum_all()?, x)
    });
    let function = function.unwrap();
    let precisions = function.nodes().iter().filter_map(|node| match node.op {
        Op::DotGeneral { precision, .. } => Some(precision),
        _ => None,
    });
    assert_eq!(precisions.collect::<Vec<_>>(), [Precision::Highest; 2]);
}

/// `bf16` products that are summed in `f32`: cotangents come back in the operands' type.
#[test]
fn products_with_a_wider_result() {
    let inputs = [f64s([2, 2], &[1.0, 2.0, 3.0, 4.0]), f64s([2, 1], &[0.5, 0.25])];
    let gradients = gradient_at(&inputs, |_, x| {
        let dims = DotDims { lhs_contracting: vec![1], rhs_contracting: vec![0], ..DotDims::default() };
        let product =
            x[0].convert(DType::BF16)?.dot_general_as(&x[1].convert(DType::BF16)?, dims, DType::F32)?;
        Ok(vec![product])
    });
    assert_eq!(gradients[0], [0.5 * w(0), 0.25 * w(0), 0.5 * w(1), 0.25 * w(1)]);
    assert_eq!(gradients[1], [w(0) + 3.0 * w(1), 2.0 * w(0) + 4.0 * w(1)]);
}

#[test]
fn operations_on_nothing_are_refused() {
    for error in [
        Value::concatenate(&[], 0).map(drop),
        Value::stack(&[], 0).map(drop),
        Value::sort(&[], 0, false).map(drop),
        Value::optimization_barrier(&[]).map(drop),
    ] {
        assert!(error.unwrap_err().message().contains("expects at least one operand"));
    }
}
