//! The graph's values and attributes as the messages of an HLO module.

use super::proto::*;
use crate::array::{DType, HostArray, Shape};
use crate::graph::{DotDims, Precision};

pub(super) fn ints(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&value| value as i64).collect()
}

pub(super) fn dot_dimension_numbers(dims: &DotDims) -> DotDimensionNumbers {
    DotDimensionNumbers {
        lhs_contracting_dimensions: ints(&dims.lhs_contracting),
        rhs_contracting_dimensions: ints(&dims.rhs_contracting),
        lhs_batch_dimensions: ints(&dims.lhs_batch),
        rhs_batch_dimensions: ints(&dims.rhs_batch),
    }
}

pub(super) fn precision_number(precision: Precision) -> i32 {
    match precision {
        Precision::Default => 0,
        Precision::High => 1,
        Precision::Highest => 2,
    }
}

/// Numbers of `PrimitiveType`.
const PRIMITIVE_TYPES: [(DType, i32); 12] = [
    (DType::Pred, 1),
    (DType::S8, 2),
    (DType::S32, 4),
    (DType::S64, 5),
    (DType::U8, 6),
    (DType::U16, 7),
    (DType::U32, 8),
    (DType::U64, 9),
    (DType::F16, 10),
    (DType::F32, 11),
    (DType::F64, 12),
    (DType::BF16, 16),
];

const TUPLE: i32 = 13;

pub(super) fn primitive_type(dtype: DType) -> i32 {
    let entry = PRIMITIVE_TYPES.iter().find(|(known, _)| *known == dtype);
    entry.expect("the table has every dtype").1
}

/// The element type of an array's shape.
pub(super) fn dtype_of(shape: &ShapeProto) -> DType {
    let entry = PRIMITIVE_TYPES.iter().find(|(_, number)| *number == shape.element_type);
    entry.expect("only shapes made here, of arrays, are asked").0
}

/// An array's shape with the row-major layout.
pub(super) fn array(shape: &Shape) -> ShapeProto {
    ShapeProto {
        element_type: primitive_type(shape.dtype()),
        dimensions: ints(shape.dims()),
        tuple_shapes: vec![],
        layout: Some(LayoutProto { minor_to_major: (0..shape.rank() as i64).rev().collect() }),
        is_dynamic_dimension: vec![false; shape.rank()],
    }
}

pub(super) fn tuple_shape(elements: impl Iterator<Item = ShapeProto>) -> ShapeProto {
    ShapeProto { element_type: TUPLE, tuple_shapes: elements.collect(), ..Default::default() }
}

pub(super) fn literal(value: &HostArray) -> LiteralProto {
    let mut literal = LiteralProto { shape: Some(array(value.shape())), ..Default::default() };
    let bytes = value.bytes();
    match value.dtype() {
        DType::Pred => literal.preds = bytes.iter().map(|&byte| byte != 0).collect(),
        DType::S8 => literal.s8s = bytes.to_vec(),
        DType::U8 => literal.u8s = bytes.to_vec(),
        DType::U16 => literal.u16s = bytes.to_vec(),
        DType::S32 => literal.s32s = bytemuck::cast_slice(bytes).to_vec(),
        DType::U32 => literal.u32s = bytemuck::cast_slice(bytes).to_vec(),
        DType::S64 => literal.s64s = bytemuck::cast_slice(bytes).to_vec(),
        DType::U64 => literal.u64s = bytemuck::cast_slice(bytes).to_vec(),
        DType::F16 => literal.f16s = bytes.to_vec(),
        DType::BF16 => literal.bf16s = bytes.to_vec(),
        DType::F32 => literal.f32s = bytemuck::cast_slice(bytes).to_vec(),
        DType::F64 => literal.f64s = bytemuck::cast_slice(bytes).to_vec(),
    }
    literal
}
