//! What the builder accepts, XLA's verifier accepts, and with the same shapes: on random programs, whose
//! operations get attributes and operands that often do not fit.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use super::{EmitOptions, emit};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{
    BinaryOp, Builder, Comparison, DotDims, Error, GatherDims, Op, PadDim, ReduceOp, Result, RngAlgorithm,
    ScanOptions, ScatterDims, ScatterOp, SliceDim, UnaryOp, Value,
};
use crate::runtime::testing::cpu_client;
use crate::runtime::{CompileOptions, Program};

/// Numbers to decide by; when they run out, always the first choice.
struct Choices<'a>(std::slice::Iter<'a, u16>);

impl Choices<'_> {
    /// Less than `n`, or 0.
    fn below(&mut self, n: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % n.max(1)
    }

    fn pick<'v, T>(&mut self, from: &'v [T]) -> &'v T {
        &from[self.below(from.len())]
    }

    /// True one time in `n`.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == n - 1
    }

    fn list<T>(&mut self, len: usize, mut element: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..len).map(|_| element(self)).collect()
    }

    /// Some of `0..rank`, in any order; rarely one that is out of bounds or there twice.
    fn dims(&mut self, rank: usize) -> Vec<usize> {
        let mut dims = self.shuffled(rank);
        dims.truncate(self.below(rank + 1));
        if self.one_in(8) {
            dims.push(self.below(rank + 1));
        }
        dims
    }

    fn sorted_dims(&mut self, rank: usize) -> Vec<usize> {
        let mut dims = self.dims(rank);
        if !self.one_in(8) {
            dims.sort_unstable();
        }
        dims
    }

    fn shuffled(&mut self, n: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..n).collect();
        (1..n).for_each(|i| all.swap(i, self.below(i + 1)));
        all
    }

    fn extents(&mut self, max_rank: usize) -> Vec<usize> {
        let rank = self.below(max_rank + 1);
        self.list(rank, |c| *c.pick(&[2, 3, 1, 4, 0]))
    }

    fn dtype(&mut self) -> DType {
        *self.pick(&DType::ALL)
    }
}

/// Appends one random operation, or says why it cannot.
fn append(b: &Builder, values: &[Value], c: &mut Choices<'_>) -> Result<Vec<Value>> {
    let x = c.pick(values).clone();
    // Another value, more often one of the same shape.
    let alike: Vec<Value> = values.iter().filter(|v| v.shape() == x.shape()).cloned().collect();
    let y = if c.one_in(4) { c.pick(values).clone() } else { c.pick(&alike).clone() };
    let z = if c.one_in(4) { c.pick(values).clone() } else { c.pick(&alike).clone() };
    let rank = x.rank();
    let apply = |op: Op, inputs: &[&Value]| b.push_all(op, inputs);
    match c.below(28) {
        0 | 1 => apply(Op::Unary(*c.pick(&UnaryOp::ALL)), &[&x]),
        2 | 3 => apply(Op::Binary(*c.pick(&BinaryOp::ALL)), &[&x, &y]),
        4 => {
            use Comparison::*;
            apply(Op::Compare(*c.pick(&[Eq, Ne, Lt, Le, Gt, Ge])), &[&x, &y])
        }
        5 => {
            let preds: Vec<Value> =
                values.iter().filter(|v| v.dtype() == DType::Pred && v.dims() == x.dims()).cloned().collect();
            let pred = if preds.is_empty() { x.clone() } else { c.pick(&preds).clone() };
            apply(Op::Select, &[&pred, &x, &y])
        }
        6 => {
            let bound = b.scalar(x.dtype(), 1.0)?;
            let low = if c.one_in(2) { &bound } else { &y };
            let high = if c.one_in(2) { &bound } else { &z };
            apply(Op::Clamp, &[low, &x, high])
        }
        7 => apply(Op::Convert(c.dtype()), &[&x]),
        8 => apply(Op::BitcastConvert(c.dtype()), &[&x]),
        9 => {
            let mut dims = c.extents(2);
            let added = dims.len();
            dims.extend(x.dims().iter().map(|&d| if d == 1 { 3 } else { d }));
            let mapping = if c.one_in(4) { c.dims(dims.len()) } else { (added..added + rank).collect() };
            apply(Op::BroadcastInDim { dims, mapping }, &[&x])
        }
        10 => {
            let mut dims = x.dims().to_vec();
            match c.below(3) {
                0 => dims = vec![dims.iter().product()],
                1 => dims.insert(c.below(rank + 1), 1),
                _ => dims = c.extents(3),
            }
            apply(Op::Reshape { dims }, &[&x])
        }
        11 => {
            let permutation = if c.one_in(4) { c.dims(rank) } else { c.shuffled(rank) };
            apply(Op::Transpose { permutation }, &[&x])
        }
        12 => {
            let dim = |c: &mut Choices<'_>, &extent: &usize| {
                let start = c.below(extent + 1);
                let limit = start + c.below(extent - start + 1) + usize::from(c.one_in(8));
                SliceDim { start, limit, stride: c.below(3) + usize::from(!c.one_in(4)) }
            };
            let dims = x.dims().iter().map(|extent| dim(c, extent)).collect();
            apply(Op::Slice(dims), &[&x])
        }
        13 => {
            let edge = |c: &mut Choices<'_>| *c.pick(&[0, 1, 2, -1, -2]);
            let dims = c.list(rank, |c| PadDim { low: edge(c), high: edge(c), interior: c.below(3) });
            let value = if c.one_in(8) { y } else { b.scalar(x.dtype(), 0.0)? };
            apply(Op::Pad(dims), &[&x, &value])
        }
        14 => apply(Op::Concatenate { dim: c.below(rank + 1) }, &[&x, &y, &z]),
        15 => apply(Op::Reverse { dims: c.dims(rank) }, &[&x]),
        16 => {
            // Pairs of equal extents, so that most products fit.
            let mut dims = DotDims::default();
            for (i, j) in c.shuffled(rank).into_iter().zip(c.shuffled(y.rank())) {
                if x.dims()[i] == y.dims()[j] || c.one_in(8) {
                    let (lhs, rhs) = match c.below(3) {
                        0 => (&mut dims.lhs_batch, &mut dims.rhs_batch),
                        1 => (&mut dims.lhs_contracting, &mut dims.rhs_contracting),
                        _ => continue,
                    };
                    lhs.push(i);
                    rhs.push(j);
                }
            }
            let result = if c.one_in(4) { c.dtype() } else { x.dtype() };
            apply(Op::DotGeneral { dims, precision: Default::default(), result }, &[&x, &y])
        }
        17 => {
            use ReduceOp::*;
            apply(Op::Reduce { op: *c.pick(&[Sum, Prod, Max, Min, And, Or]), dims: c.dims(rank) }, &[&x])
        }
        18 => {
            let starts = starts(b, c, rank)?;
            let sizes = x.dims().iter().map(|&d| c.below(d + 1) + usize::from(c.one_in(8))).collect();
            let inputs: Vec<&Value> = std::iter::once(&x).chain(&starts).collect();
            apply(Op::DynamicSlice { sizes }, &inputs)
        }
        19 => {
            let starts = starts(b, c, rank)?;
            let update = if c.one_in(2) { x.clone() } else { y };
            let inputs: Vec<&Value> = [&x, &update].into_iter().chain(&starts).collect();
            apply(Op::DynamicUpdateSlice, &inputs)
        }
        20 | 21 => gather_or_scatter(b, &x, c),
        22 => {
            let inputs: Vec<&Value> = [&x, &y, &z].into_iter().take(1 + c.below(3)).collect();
            apply(Op::Sort { dim: c.below(rank + 1), descending: c.one_in(2) }, &inputs)
        }
        23 => {
            let state = b.constant(HostArray::zeros(Shape::new(DType::U64, [2])))?;
            let state = if c.one_in(4) { x } else { state };
            let algorithm = *c.pick(&[RngAlgorithm::ThreeFry, RngAlgorithm::Philox]);
            apply(Op::RngBitGenerator { algorithm, shape: Shape::new(c.dtype(), c.extents(2)) }, &[&state])
        }
        24 => apply(Op::OptimizationBarrier, &[&x, &y]),
        25 => {
            let shape = Shape::new(c.dtype(), c.extents(3));
            let dim = c.below(shape.rank() + 1);
            apply(Op::Iota { shape, dim }, &[])
        }
        26 => {
            let length = if c.one_in(4) { c.below(4) } else { x.dims().first().copied().unwrap_or(2) };
            let options = ScanOptions { reverse: c.one_in(2), ..ScanOptions::default() };
            let (carries, mut outputs) = b.scan(length, &[y], &[x], options, |_, carries, step| {
                let next = carries[0].max(&z)?;
                Ok((vec![next], vec![step[0].clone(), z.clone()]))
            })?;
            outputs.extend(carries);
            Ok(outputs)
        }
        _ => {
            let index = b.constant(HostArray::scalar(c.below(4) as i32 - 1))?;
            let index = if c.one_in(4) { x.clone() } else { index };
            b.conditional(&index, &[&|b| Ok(vec![b.own(&x)?.max(&x)?]), &|_| Ok(vec![y.clone()])])
        }
    }
}

fn starts(b: &Builder, c: &mut Choices<'_>, rank: usize) -> Result<Vec<Value>> {
    let dtype = *c.pick(&[DType::S32, DType::S64, DType::U8]);
    let count = rank + usize::from(c.one_in(8));
    let start = |c: &mut Choices<'_>| b.scalar(if c.one_in(8) { DType::S32 } else { dtype }, 1.0);
    c.list(count, start).into_iter().collect()
}

/// Dimension numbers that fit, changed in one place or in none.
fn gather_or_scatter(b: &Builder, x: &Value, c: &mut Choices<'_>) -> Result<Vec<Value>> {
    let rank = x.rank();
    let batch: Vec<usize> = if c.one_in(2) { (0..rank.min(1)).collect() } else { vec![] };
    let free: Vec<usize> = (0..rank).filter(|d| !batch.contains(d)).collect();
    let indexed: Vec<usize> = c.dims(free.len()).into_iter().filter_map(|i| free.get(i).copied()).collect();
    let dropped: Vec<usize> = free.iter().copied().filter(|_| c.one_in(2)).collect();
    let mut index_dims: Vec<usize> = batch.iter().map(|&d| x.dims()[d]).collect();
    index_dims.push(2);
    let index_vector_dim =
        if indexed.len() == 1 && c.one_in(2) { index_dims.len() } else { c.below(index_dims.len() + 1) };
    if index_vector_dim < index_dims.len() || indexed.len() != 1 {
        index_dims.insert(index_vector_dim, indexed.len());
    }
    let indices_batch = batch.iter().map(|_| usize::from(index_vector_dim == 0)).collect();
    let indices = b.zeros(&Shape::new(if c.one_in(16) { DType::F32 } else { DType::S32 }, index_dims))?;
    let num_batch = indices.rank() - usize::from(index_vector_dim < indices.rank());
    let is_dropped = |d: &usize| dropped.contains(d) || batch.contains(d);
    let num_window = (0..rank).filter(|d| !is_dropped(d)).count();
    let mut dims = GatherDims {
        offset_dims: (num_batch..num_batch + num_window).collect(),
        slice_sizes: (0..rank)
            .map(|d| if is_dropped(&d) { x.dims()[d].min(1) } else { c.below(x.dims()[d] + 1) })
            .collect(),
        collapsed_slice_dims: dropped,
        start_index_map: indexed,
        operand_batching_dims: batch,
        start_indices_batching_dims: indices_batch,
        index_vector_dim,
    };
    match c.below(16) {
        0 => dims.offset_dims = c.sorted_dims(num_batch + num_window),
        1 => dims.collapsed_slice_dims = c.sorted_dims(rank),
        2 => dims.start_index_map = c.dims(rank),
        3 => dims.operand_batching_dims = c.sorted_dims(rank),
        4 => dims.start_indices_batching_dims = c.dims(indices.rank()),
        5 => dims.index_vector_dim = c.below(indices.rank() + 2),
        6 => dims.slice_sizes = x.dims().to_vec(),
        7 => dims.offset_dims = (0..num_window).collect(),
        _ => {}
    }
    if c.one_in(2) {
        return b.push_all(Op::Gather(dims), &[x, &indices]);
    }
    // Updates shaped as what the gather reads.
    let updates = b.push_all(Op::Gather(dims.clone()), &[x, &indices])?.swap_remove(0);
    let mut scatter = ScatterDims {
        update_window_dims: dims.offset_dims,
        inserted_window_dims: dims.collapsed_slice_dims,
        scatter_dims_to_operand_dims: dims.start_index_map,
        input_batching_dims: dims.operand_batching_dims,
        scatter_indices_batching_dims: dims.start_indices_batching_dims,
        index_vector_dim: dims.index_vector_dim,
    };
    match c.below(8) {
        0 => scatter.update_window_dims = c.sorted_dims(updates.rank()),
        1 => scatter.inserted_window_dims = c.sorted_dims(rank),
        2 => scatter.scatter_dims_to_operand_dims = c.dims(rank),
        _ => {}
    }
    let op = *c.pick(&[ScatterOp::Add, ScatterOp::Assign]);
    b.push_all(Op::Scatter { dims: scatter, op }, &[x, &indices, &updates])
}

/// The text of a refusal: what was expected, what it got.
fn is_well_formed(message: &str) -> bool {
    message.contains(" expects ") && message.contains("got ") && !message.ends_with('.')
}

/// A builder with some parameters and random operations on them, all their results, and the refusals.
fn random_program(shapes: &[Vec<u16>], steps: &[Vec<u16>]) -> (Builder, Vec<Value>, Vec<Error>) {
    let b = Builder::new("random");
    let mut values = Vec::new();
    for numbers in shapes {
        let mut c = Choices(numbers.iter());
        let shape = Shape::new(c.dtype(), c.extents(3));
        values.push(b.parameter("x", shape).unwrap());
    }
    let mut refusals = Vec::new();
    for numbers in steps {
        match append(&b, &values, &mut Choices(numbers.iter())) {
            Ok(results) => values.extend(results),
            Err(error) => refusals.push(error),
        }
    }
    (b, values, refusals)
}

fn shapes() -> impl Strategy<Value = Vec<Vec<u16>>> {
    prop::collection::vec(prop::collection::vec(any::<u16>(), 4), 1..4)
}

fn steps() -> impl Strategy<Value = Vec<Vec<u16>>> {
    prop::collection::vec(prop::collection::vec(any::<u16>(), 24), 1..24)
}

proptest! {
    #![proptest_config(Config { cases: 96, failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_accepted_compiles_to_the_inferred_shapes(shapes in shapes(), steps in steps()) {
        let (b, values, refusals) = random_program(&shapes, &steps);
        for error in refusals {
            prop_assert!(is_well_formed(error.message()), "{}", error);
        }
        let function = b.finish(&values.iter().collect::<Vec<_>>()).unwrap();
        let shapes: Vec<Shape> = values.iter().map(|value| value.shape().clone()).collect();
        // Nothing runs here, so nothing is optimised.
        let options = CompileOptions::default().with_flag("xla_backend_optimization_level", 0i64);
        for for_cpu in [false, true] {
            let module = emit(&function, &EmitOptions { for_cpu, ..EmitOptions::default() }).unwrap();
            let executable = match cpu_client().compile(Program::hlo(&module.to_bytes()), &options) {
                Ok(executable) => executable,
                Err(error) => return Err(TestCaseError::fail(format!("{error}\n{module}"))),
            };
            prop_assert_eq!(executable.compiled().output_shapes().unwrap(), shapes.clone());
        }
    }
}

/// The property above is about something: random programs have all operations, and refusals of all.
#[test]
fn random_programs_have_every_operation() {
    let mut runner = TestRunner::deterministic();
    let (mut accepted, mut refused) = (BTreeSet::new(), BTreeSet::new());
    for _ in 0..3000 {
        let (shapes, steps) = (shapes(), steps()).new_tree(&mut runner).unwrap().current();
        let (b, values, refusals) = random_program(&shapes, &steps);
        accepted.extend(values.iter().map(|value| b.node(value.output().node).op.name()));
        refused
            .extend(refusals.iter().filter_map(|error| error.message().split(' ').next().map(str::to_owned)));
    }
    for op in UnaryOp::ALL.map(UnaryOp::name).into_iter().chain(BinaryOp::ALL.map(BinaryOp::name)).chain([
        "compare",
        "select",
        "clamp",
        "convert",
        "bitcast_convert",
        "broadcast_in_dim",
        "reshape",
        "transpose",
        "slice",
        "pad",
        "concatenate",
        "reverse",
        "dot_general",
        "reduce_sum",
        "reduce_prod",
        "reduce_max",
        "reduce_min",
        "reduce_and",
        "reduce_or",
        "dynamic_slice",
        "dynamic_update_slice",
        "gather",
        "scatter",
        "sort",
        "rng_bit_generator",
        "optimization_barrier",
        "iota",
        "scan",
        "conditional",
    ]) {
        assert!(accepted.contains(op), "{op} is never accepted");
        let always_fits = ["convert", "optimization_barrier"].contains(&op);
        assert!(always_fits || refused.contains(op), "{op} is never refused");
    }
}
