//! Products and reductions, as they are and in the form that XLA's CPU compiler translates best. Both mean the same, and
//! the compilers of other devices choose a form of their own.

use super::convert::{array, dot_dimension_numbers, dtype_of, ints, precision_number};
use super::emit::{Computation, Emitter, Instruction};
use super::proto::PrecisionConfig;
use crate::array::Shape;
use crate::graph::{DotDims, Precision};

/// Reductions along a longer dimension are rewritten by the compiler (`TreeReductionRewriter`) into a tree of windows of
/// this length, and it does not compute what they reduce in the same loop.
const WINDOW: usize = 32;
/// As many numbers may be folded one after the other: in float32, the error of a sum stays near 1e-6.
const RUN: usize = 1024;

impl Emitter {
    /// A product, as one of matrices where that takes no more than other views of its operands.
    ///
    /// The compiler brings any other product into that form by transpositions, which it fuses with what computes the
    /// operand: all of it is computed once more, in an order in which no cache holds what it reads. The gradients of
    /// kernels suffer most, which contract the dimensions that come first.
    pub(super) fn cpu_product(
        &mut self,
        to: &mut Computation,
        shape: &Shape,
        dims: &DotDims,
        precision: Precision,
        [lhs, rhs]: [&Instruction; 2],
    ) -> Instruction {
        let Some((left, right)) = matrices(dims, &extents(lhs), &extents(rhs)) else {
            return self.dot(to, shape, dims, precision, [lhs, rhs]);
        };
        let lhs = self.view(to, lhs, &left.extents());
        let rhs = self.view(to, rhs, &right.extents());
        let num_batch = left.batch.len();
        let dims = DotDims {
            lhs_batch: (0..num_batch).collect(),
            rhs_batch: (0..num_batch).collect(),
            lhs_contracting: vec![num_batch + left.contracted],
            rhs_contracting: vec![num_batch + right.contracted],
        };
        let free = [left.num_free(), right.num_free()];
        let product = shape.with_dims([&left.batch[..], &free].concat());
        let product = self.dot(to, &product, &dims, precision, [&lhs, &rhs]);
        self.view(to, &product, shape.dims())
    }

    pub(super) fn dot(
        &mut self,
        to: &mut Computation,
        shape: &Shape,
        dims: &DotDims,
        precision: Precision,
        operands: [&Instruction; 2],
    ) -> Instruction {
        let dot = self.add(to, "dot", array(shape), &operands);
        to.last().dot_dimension_numbers = Some(dot_dimension_numbers(dims));
        to.last().precision_config =
            Some(PrecisionConfig { operand_precision: vec![precision_number(precision); 2] });
        dot
    }

    /// A reduction of `x` from `init` by the computation `fold`. Where the last dimensions are reduced, it is cut into
    /// stages that the compiler leaves as they are, and translates into one loop each.
    pub(super) fn cpu_reduction(
        &mut self,
        to: &mut Computation,
        shape: &Shape,
        dims: &[usize],
        fold: i64,
        [x, init]: [&Instruction; 2],
    ) -> Instruction {
        let extents = extents(x);
        let kept = extents.len() - dims.len();
        let are_last = dims.iter().all(|&dim| dim >= kept);
        let is_long = dims.iter().any(|&dim| extents[dim] > WINDOW);
        let Some(stages) = (are_last && is_long).then(|| stages(extents[kept..].iter().product())).flatten()
        else {
            return self.reduce(to, shape, dims, fold, [x, init]);
        };
        let mut x = x.clone();
        for Stage { rest, factors } in stages {
            let result = [&extents[..kept], &rest].concat();
            let pieces = self.view(to, &x, &[&result[..], &factors].concat());
            // Or the compiler would see through the view and undo it.
            let tuple = self.tuple(to, &[pieces]);
            let barrier = self.add(to, "opt-barrier", tuple.shape.clone(), &[&tuple]);
            let pieces = self.element(to, &barrier, 0);
            let reduced: Vec<usize> = (result.len()..result.len() + factors.len()).collect();
            x = self.reduce(to, &shape.with_dims(result), &reduced, fold, [&pieces, init]);
        }
        x
    }

    pub(super) fn reduce(
        &mut self,
        to: &mut Computation,
        shape: &Shape,
        dims: &[usize],
        fold: i64,
        operands: [&Instruction; 2],
    ) -> Instruction {
        let reduce = self.add(to, "reduce", array(shape), &operands);
        to.last().dimensions = ints(dims);
        to.last().called_computation_ids = vec![fold];
        reduce
    }

    /// The elements of `x` in the same order, as an array of these dimensions.
    fn view(&mut self, to: &mut Computation, x: &Instruction, dims: &[usize]) -> Instruction {
        match extents(x) == dims {
            true => x.clone(),
            false => self.add(to, "reshape", array(&Shape::new(dtype_of(&x.shape), dims)), &[x]),
        }
    }
}

fn extents(x: &Instruction) -> Vec<usize> {
    x.shape.dimensions.iter().map(|&dim| dim as usize).collect()
}

/// One operand of a product as a matrix, or one for each of a batch: its free dimensions are joined to one, and so are
/// its contracted ones.
#[derive(Debug, PartialEq)]
struct Matrix {
    batch: Vec<usize>,
    extents: [usize; 2],
    /// Which of the two is contracted.
    contracted: usize,
}

/// The operands as matrices; `None` for a product that is none of matrices, or of such that do not lie in memory.
fn matrices(dims: &DotDims, lhs: &[usize], rhs: &[usize]) -> Option<(Matrix, Matrix)> {
    let mut pairs: Vec<(usize, usize)> =
        dims.lhs_contracting.iter().copied().zip(dims.rhs_contracting.iter().copied()).collect();
    pairs.sort_unstable();
    let (of_lhs, of_rhs): (Vec<usize>, Vec<usize>) = pairs.into_iter().unzip();
    Some((Matrix::new(lhs, &dims.lhs_batch, &of_lhs)?, Matrix::new(rhs, &dims.rhs_batch, &of_rhs)?))
}

impl Matrix {
    fn new(extents: &[usize], batch: &[usize], contracting: &[usize]) -> Option<Self> {
        // Dimensions of one element have no place in memory.
        let long = |dims: &[usize]| dims.iter().copied().filter(|&dim| extents[dim] > 1).collect::<Vec<_>>();
        let (batch, contracting) = (long(batch), long(contracting));
        let all = long(&(0..extents.len()).collect::<Vec<_>>());
        let rest = all.strip_prefix(&batch[..])?;
        let num_free = rest.len() - contracting.len();
        // Of vectors, and outer products, the compiler makes something of its own.
        if num_free == 0 || contracting.is_empty() {
            return None;
        }
        let (split, contracted) =
            match (rest.strip_prefix(&contracting[..]), rest.strip_suffix(&contracting[..])) {
                (Some(_), _) => (contracting.len(), 0),
                (_, Some(_)) => (num_free, 1),
                _ => return None,
            };
        let size = |dims: &[usize]| dims.iter().map(|&dim| extents[dim]).product();
        let (first, last) = rest.split_at(split);
        let batch = batch.iter().map(|&dim| extents[dim]).collect();
        Some(Matrix { batch, extents: [size(first), size(last)], contracted })
    }

    fn extents(&self) -> Vec<usize> {
        [&self.batch[..], &self.extents].concat()
    }

    fn num_free(&self) -> usize {
        self.extents[1 - self.contracted]
    }
}

/// Part of a reduction.
#[derive(Debug, PartialEq)]
struct Stage {
    /// How many numbers each of the results so far is left with: one extent, or none after the last stage.
    rest: Vec<usize>,
    /// The extents to reduce, each at most [`WINDOW`].
    factors: Vec<usize>,
}

/// The stages of a reduction of `length` numbers; `None` for a length that does not divide well.
fn stages(length: usize) -> Option<Vec<Stage>> {
    let mut stages = Vec::new();
    let mut rest = length;
    while rest > RUN {
        // With a rest of one window or less, the compiler would join the stages again.
        let divides = |run: &usize| rest.is_multiple_of(*run) && rest / run > WINDOW;
        let (run, factors) =
            (2..=RUN).rev().filter(divides).find_map(|run| factors(run).map(|factors| (run, factors)))?;
        rest /= run;
        stages.push(Stage { rest: vec![rest], factors });
    }
    stages.push(Stage { rest: vec![], factors: factors(rest)? });
    Some(stages)
}

/// Factors of at most [`WINDOW`], the largest last.
fn factors(mut length: usize) -> Option<Vec<usize>> {
    let mut factors = Vec::new();
    while length > WINDOW {
        let factor = (2..=WINDOW).rev().find(|factor| length.is_multiple_of(*factor))?;
        factors.push(factor);
        length /= factor;
    }
    factors.push(length);
    factors.reverse();
    Some(factors)
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn long_reductions_have_stages_of_short_dimensions() {
        let of = |length| {
            stages(length).map(|stages| stages.into_iter().map(|s| (s.rest, s.factors)).collect::<Vec<_>>())
        };
        assert_eq!(of(256), Some(vec![(vec![], vec![8, 32])]));
        assert_eq!(of(1024), Some(vec![(vec![], vec![32, 32])]));
        assert_eq!(of(2048), Some(vec![(vec![64], vec![32]), (vec![], vec![2, 32])]));
        assert_eq!(of(1 << 20), Some(vec![(vec![1024], vec![32, 32]), (vec![], vec![32, 32])]));
        // No factors of at most 32: primes, and PaliGemma's vocabulary, of which 41 is one.
        assert_eq!(of(37), None);
        assert_eq!(of(2 * 1031), None);
        assert_eq!(of(257_152), None);
        for length in (33..5000).step_by(7) {
            for stage in stages(length).into_iter().flatten() {
                assert!(stage.factors.iter().all(|&factor| factor <= WINDOW), "{length}: {stage:?}");
                assert!(stage.factors.iter().product::<usize>() <= RUN, "{length}: {stage:?}");
            }
        }
    }

    #[test]
    fn products_are_of_matrices_where_they_lie_in_memory() {
        let dims = |lhs: &[usize], rhs: &[usize]| DotDims {
            lhs_contracting: lhs.to_vec(),
            rhs_contracting: rhs.to_vec(),
            ..DotDims::default()
        };
        let of = |dims: DotDims, lhs: &[usize], rhs: &[usize]| {
            let (lhs, rhs) = matrices(&dims, lhs, rhs)?;
            Some((lhs.extents(), lhs.contracted, rhs.extents(), rhs.contracted))
        };
        let some = |lhs: &[usize], l, rhs: &[usize], r| Some((lhs.to_vec(), l, rhs.to_vec(), r));
        // Activations times a kernel, and the gradient of that kernel.
        assert_eq!(of(dims(&[2], &[0]), &[2, 3, 4], &[4, 5, 6]), some(&[6, 4], 1, &[4, 30], 0));
        assert_eq!(of(dims(&[0, 1], &[0, 1]), &[2, 3, 4], &[2, 3, 5]), some(&[6, 4], 0, &[6, 5], 0));
        // The same pairs in another order.
        assert_eq!(of(dims(&[1, 0], &[1, 0]), &[2, 3, 4], &[2, 3, 5]), some(&[6, 4], 0, &[6, 5], 0));
        assert_eq!(of(dims(&[1, 0], &[0, 1]), &[2, 3, 4], &[3, 2, 5]), None);
        // A dimension in the middle, vectors, outer products.
        assert_eq!(of(dims(&[1], &[0]), &[2, 3, 4], &[3, 5]), None);
        assert_eq!(of(dims(&[2], &[0]), &[1, 1, 3], &[3, 5]), None);
        assert_eq!(of(dims(&[], &[]), &[3], &[5]), None);
        // Queries times keys, of one head for all of them, and of two.
        let attention = || DotDims { lhs_batch: vec![0, 2], rhs_batch: vec![0, 2], ..dims(&[4], &[3]) };
        let product = of(attention(), &[7, 5, 1, 3, 4], &[7, 6, 1, 4]);
        assert_eq!(product, some(&[7, 15, 4], 1, &[7, 6, 4], 1));
        assert_eq!(of(attention(), &[7, 5, 2, 3, 4], &[7, 6, 2, 4]), None);
    }
}
