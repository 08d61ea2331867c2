//! Operations that move, fold, read, write and order elements.

use super::super::{f64s, noise, preds, s32s};
use super::{Row, Slope, given, name_of, row, text};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{DotDims, GatherDims, PadDim, Result, ScatterDims, ScatterOp, SliceDim, Value};

/// A matrix of a row for each digit: `[[10, 11, …], [20, 21, …], …]`.
fn numbered(rows: usize, columns: usize) -> HostArray {
    let values: Vec<f64> =
        (0..rows * columns).map(|i| (10 * (i / columns + 1) + i % columns) as f64).collect();
    f64s([rows, columns], &values)
}

/// A dimension of extent 1 that is repeated, one that is kept, and a new one.
pub(in super::super) fn broadcast_in_dim() -> Row {
    row(
        vec![f64s([1, 2], &[3.0, 4.0])],
        |_, x| Ok(vec![x[0].broadcast_in_dim(&[2, 2, 2], &[0, 2])?, x[0].broadcast_to(&[3, 2])?]),
        vec![
            f64s([2, 2, 2], &[3.0, 4.0, 3.0, 4.0, 3.0, 4.0, 3.0, 4.0]),
            f64s([3, 2], &[3.0, 4.0, 3.0, 4.0, 3.0, 4.0]),
        ],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[2, 3])?.broadcast_to(&[2, 4]),
        "broadcast_in_dim expects f32[2,3] to fit [2, 4], got mapping [0, 1]",
    )
}

pub(in super::super) fn reshape() -> Row {
    row(
        vec![f64s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
        |_, x| Ok(vec![x[0].reshape(&[3, 1, 2])?]),
        vec![f64s([3, 1, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[2, 3])?.reshape(&[5]),
        "reshape expects as many elements as f32[5], got f32[2,3]",
    )
}

pub(in super::super) fn transpose() -> Row {
    let x = noise([2, 3, 4], 1);
    let mut expected = HostArray::zeros(Shape::new(DType::F64, [4, 2, 3]));
    let (from, to) = (x.view::<f64>().unwrap(), expected.values_mut::<f64>().unwrap());
    for (i, value) in to.iter_mut().enumerate() {
        *value = from[[i / 3 % 2, i % 3, i / 6]];
    }
    row(
        vec![x.clone()],
        |_, x| Ok(vec![x[0].transpose(&[2, 0, 1])?]),
        vec![expected],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[2, 3])?.transpose(&[0, 0]),
        "transpose expects a permutation of f32[2,3]'s dimensions, got [0, 0]",
    )
}

pub(in super::super) fn slice() -> Row {
    row(
        vec![numbered(3, 6)],
        |_, x| {
            let dims =
                [SliceDim { start: 1, limit: 3, stride: 1 }, SliceDim { start: 1, limit: 6, stride: 2 }];
            let nothing =
                [SliceDim { start: 0, limit: 3, stride: 2 }, SliceDim { start: 2, limit: 2, stride: 3 }];
            Ok(vec![x[0].slice(&dims)?, x[0].slice(&nothing)?])
        },
        vec![f64s([2, 3], &[21.0, 23.0, 25.0, 31.0, 33.0, 35.0]), f64s([2, 0], &[])],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[4])?.slice_in_dim(0, 2, 5),
        "slice expects ranges within f32[4], got [2:5:1]",
    )
}

/// Cut at one edge, padded at the other, and filled in between; also an edge cut away altogether.
pub(in super::super) fn pad() -> Row {
    row(
        vec![f64s([3], &[1.0, 2.0, 3.0]), f64s([], &[9.0])],
        |_, x| {
            let pad = |low, high, interior| x[0].pad(&x[1], &[PadDim { low, high, interior }]);
            Ok(vec![pad(-1, 2, 1)?, pad(1, -2, 2)?, pad(-5, 4, 0)?])
        },
        vec![
            f64s([6], &[9.0, 2.0, 9.0, 3.0, 9.0, 9.0]),
            f64s([6], &[9.0, 1.0, 9.0, 9.0, 2.0, 9.0]),
            f64s([2], &[9.0, 9.0]),
        ],
        Slope::FiniteDifferences,
        |b| {
            let (x, zero) = (given(b, DType::F32, &[3])?, given(b, DType::F32, &[])?);
            x.pad(&zero, &[PadDim { low: -2, high: -2, interior: 0 }])
        },
        "pad expects to leave f32[3] non-negative extents, got -1",
    )
}

pub(in super::super) fn concatenate() -> Row {
    row(
        vec![f64s([2, 1], &[1.0, 2.0]), f64s([2, 2], &[3.0, 4.0, 5.0, 6.0])],
        |_, x| Ok(vec![Value::concatenate(&[&x[0], &x[1], &x[0]], 1)?]),
        vec![f64s([2, 4], &[1.0, 3.0, 4.0, 1.0, 2.0, 5.0, 6.0, 2.0])],
        Slope::FiniteDifferences,
        |b| Value::concatenate(&[&given(b, DType::F32, &[2])?, &given(b, DType::F32, &[2, 1])?], 0),
        "concatenate expects operands that differ in dimension 0 only, got f32[2] and f32[2,1]",
    )
}

pub(in super::super) fn reverse() -> Row {
    row(
        vec![numbered(2, 3)],
        |_, x| Ok(vec![x[0].reverse(&[0, 1])?]),
        vec![f64s([2, 3], &[22.0, 21.0, 20.0, 12.0, 11.0, 10.0])],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[2])?.reverse(&[1]),
        "reverse expects distinct dimensions of f32[2], got [1]",
    )
}

/// One batch dimension, two contracted ones that lie in another order on the other side, and a free one on
/// each; also the outer product and the product with nothing free.
pub(in super::super) fn dot_general() -> Row {
    // [p, b, q, i] with [q, j, b, p].
    let (x, y) = (noise([3, 2, 2, 2], 1), noise([2, 3, 2, 3], 2));
    let (lhs, rhs) = (x.view::<f64>().unwrap(), y.view::<f64>().unwrap());
    let mut expected = Vec::new();
    for (b, i, j) in (0..12).map(|n| (n / 6, n / 3 % 2, n % 3)) {
        let terms = (0..6).map(|n| (n / 2, n % 2)).map(|(p, q)| lhs[[p, b, q, i]] * rhs[[q, j, b, p]]);
        expected.push(terms.sum());
    }
    let outer: Vec<f64> = x.to_f64()[..2]
        .iter()
        .flat_map(|a| y.to_f64()[..3].iter().map(|b| a * b).collect::<Vec<_>>())
        .collect();
    row(
        vec![x.clone(), y.clone(), f64s([2], &x.to_f64()[..2]), f64s([3], &y.to_f64()[..3])],
        |_, x| {
            let dims = DotDims {
                lhs_batch: vec![1],
                rhs_batch: vec![2],
                lhs_contracting: vec![0, 2],
                rhs_contracting: vec![3, 0],
            };
            let all = DotDims { lhs_contracting: vec![0], rhs_contracting: vec![0], ..DotDims::default() };
            Ok(vec![
                x[0].dot_general(&x[1], dims)?,
                x[2].dot_general(&x[3], DotDims::default())?,
                x[3].dot_general(&x[3], all)?,
            ])
        },
        vec![
            f64s([2, 2, 3], &expected),
            f64s([2, 3], &outer),
            f64s([], &[y.to_f64()[..3].iter().map(|v| v * v).sum()]),
        ],
        Slope::FiniteDifferences,
        |b| {
            let dims = DotDims { lhs_contracting: vec![1], rhs_contracting: vec![0], ..DotDims::default() };
            given(b, DType::F32, &[2, 3])?.dot_general(&given(b, DType::F32, &[4, 2])?, dims)
        },
        "dot_general expects equal contracting dims, got [3] of f32[2,3] and [4] of f32[4,2]",
    )
}

/// Over the first and last of three dimensions, over all, and over none.
pub(in super::super) fn reduce(
    operation: fn(&Value, &[usize]) -> Result<Value>,
    host: fn(&[f64]) -> f64,
    slope: Slope,
) -> Row {
    let name = name_of(|x| operation(x, &[]), DType::F64);
    let x = noise([2, 3, 2], 3);
    let view = x.view::<f64>().unwrap();
    let of_row = |r: usize| host(&[view[[0, r, 0]], view[[0, r, 1]], view[[1, r, 0]], view[[1, r, 1]]]);
    row(
        vec![x.clone()],
        move |_, x| {
            Ok(vec![operation(&x[0], &[0, 2])?, operation(&x[0], &[2, 1, 0])?, operation(&x[0], &[])?])
        },
        vec![f64s([3], &[of_row(0), of_row(1), of_row(2)]), f64s([], &[host(&x.to_f64())]), x],
        slope,
        move |b| operation(&given(b, DType::Pred, &[2])?, &[0]),
        text(format!("{name} expects numbers, got pred[2]")),
    )
}

pub(in super::super) fn reduce_logical(
    operation: fn(&Value, &[usize]) -> Result<Value>,
    expected: [bool; 3],
) -> Row {
    let name = name_of(|x| operation(x, &[]), DType::Pred);
    row(
        vec![preds([3, 2], &[true, false, true, true, false, false])],
        move |_, x| Ok(vec![operation(&x[0], &[1])?]),
        vec![preds([3], &expected)],
        Slope::NoneByNature,
        move |b| operation(&given(b, DType::F32, &[2])?, &[0]),
        text(format!("{name} expects pred, got f32[2]")),
    )
}

/// Inside, and moved inside from beyond either end.
pub(in super::super) fn dynamic_slice() -> Row {
    row(
        vec![numbered(4, 5), s32s([], &[1]), s32s([], &[9]), s32s([], &[-3])],
        |_, x| {
            Ok(vec![
                x[0].dynamic_slice(&[&x[1], &x[1]], &[2, 2])?,
                x[0].dynamic_slice(&[&x[2], &x[3]], &[2, 3])?,
            ])
        },
        vec![f64s([2, 2], &[21.0, 22.0, 31.0, 32.0]), f64s([2, 3], &[30.0, 31.0, 32.0, 40.0, 41.0, 42.0])],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[4])?.dynamic_slice(&[&given(b, DType::F32, &[])?], &[2]),
        "dynamic_slice expects one scalar integer start per dimension of f32[4], all of one type, got f32[]",
    )
}

pub(in super::super) fn dynamic_update_slice() -> Row {
    row(
        vec![numbered(1, 5), f64s([1, 2], &[1.0, 2.0]), s32s([], &[0]), s32s([], &[2]), s32s([], &[9])],
        |_, x| {
            Ok(vec![
                x[0].dynamic_update_slice(&x[1], &[&x[2], &x[3]])?,
                x[0].dynamic_update_slice(&x[1], &[&x[2], &x[4]])?,
            ])
        },
        vec![f64s([1, 5], &[10.0, 11.0, 1.0, 2.0, 14.0]), f64s([1, 5], &[10.0, 11.0, 12.0, 1.0, 2.0])],
        Slope::FiniteDifferences,
        |b| {
            let start = given(b, DType::S32, &[])?;
            given(b, DType::F32, &[4])?.dynamic_update_slice(&given(b, DType::F32, &[5])?, &[&start])
        },
        "dynamic_update_slice expects an update within f32[4], got f32[5]",
    )
}

/// Rows by number, one of them twice and two beyond the ends; windows at pairs of starts; along the last
/// dimension with one of batch.
pub(in super::super) fn gather() -> Row {
    row(
        vec![
            numbered(3, 4),
            s32s([2, 2], &[2, 0, 2, 1]),
            s32s([2], &[-5, 7]),
            s32s([2, 2], &[0, 1, 9, 9]),
            s32s([3, 2], &[3, 3, 0, 1, -1, 4]),
        ],
        |_, x| {
            let windows = GatherDims {
                offset_dims: vec![1],
                collapsed_slice_dims: vec![0],
                start_index_map: vec![0, 1],
                operand_batching_dims: vec![],
                start_indices_batching_dims: vec![],
                index_vector_dim: 1,
                slice_sizes: vec![1, 2],
            };
            Ok(vec![
                x[0].take(&x[1])?,
                x[0].take(&x[2])?,
                x[0].gather(&x[3], windows)?,
                x[0].take_along_last(&x[4])?,
            ])
        },
        vec![
            f64s(
                [2, 2, 4],
                &[30., 31., 32., 33., 10., 11., 12., 13., 30., 31., 32., 33., 20., 21., 22., 23.],
            ),
            f64s([2, 4], &[10.0, 11.0, 12.0, 13.0, 30.0, 31.0, 32.0, 33.0]),
            f64s([2, 2], &[11.0, 12.0, 32.0, 33.0]),
            f64s([3, 2], &[13.0, 13.0, 20.0, 21.0, 30.0, 33.0]),
        ],
        Slope::FiniteDifferences,
        |b| given(b, DType::F32, &[])?.take(&given(b, DType::S32, &[2])?),
        "take expects at least rank 1, got a scalar",
    )
}

/// Rows by number, with two beyond the ends; where rows are added one number comes twice.
pub(in super::super) fn scatter(op: ScatterOp) -> Row {
    let repeated = if op == ScatterOp::Add { 0 } else { 2 };
    let expected = match op {
        ScatterOp::Add => [16.0, 19.0, 20.0, 21.0, 30.0, 31.0],
        ScatterOp::Assign => [1.0, 2.0, 20.0, 21.0, 5.0, 6.0],
    };
    row(
        vec![
            numbered(3, 2),
            s32s([4, 1], &[0, 3, repeated, -1]),
            f64s([4, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]),
        ],
        move |_, x| Ok(vec![x[0].scatter(&x[1], &x[2], rows_by_number(), op)?]),
        vec![f64s([3, 2], &expected)],
        Slope::FiniteDifferences,
        move |b| {
            let (x, indices) = (given(b, DType::F32, &[3, 2])?, given(b, DType::S32, &[4, 1])?);
            x.scatter(&indices, &given(b, DType::F64, &[4, 2])?, rows_by_number(), op)
        },
        "scatter expects updates of the operand's type, got f32[3,2], s32[4,1] and f64[4,2] with \
         ScatterDims { update_window_dims: [1], inserted_window_dims: [0], scatter_dims_to_operand_dims: [0], \
         input_batching_dims: [], scatter_indices_batching_dims: [], index_vector_dim: 1 }",
    )
}

pub(in super::super) fn rows_by_number() -> ScatterDims {
    ScatterDims {
        update_window_dims: vec![1],
        inserted_window_dims: vec![0],
        scatter_dims_to_operand_dims: vec![0],
        input_batching_dims: vec![],
        scatter_indices_batching_dims: vec![],
        index_vector_dim: 1,
    }
}

/// Two lists of keys, with a payload that follows, in both directions.
pub(in super::super) fn sort() -> Row {
    row(
        vec![f64s([2, 3], &[3.0, 1.0, 2.0, 0.5, 0.7, 0.6]), f64s([2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])],
        |_, x| {
            let mut results = Value::sort(&[&x[0], &x[1]], 1, false)?;
            results.extend(Value::sort(&[&x[0]], 0, true)?);
            Ok(results)
        },
        vec![
            f64s([2, 3], &[1.0, 2.0, 3.0, 0.5, 0.6, 0.7]),
            f64s([2, 3], &[2.0, 3.0, 1.0, 4.0, 6.0, 5.0]),
            f64s([2, 3], &[3.0, 1.0, 2.0, 0.5, 0.7, 0.6]),
        ],
        Slope::FiniteDifferences,
        |b| Ok(Value::sort(&[&given(b, DType::F32, &[2])?], 1, false)?.swap_remove(0)),
        "sort expects operands of equal extents that have dimension 1, got f32[2]",
    )
}
