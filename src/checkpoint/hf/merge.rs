use std::collections::HashMap;
use std::path::Path;

use half::{bf16, f16};
use rayon::prelude::*;

use super::adapter::{Adapter, Change};
use super::layout::{Transpose, inverse, rearrange};
use super::names::{EMBEDDING, entries};
use super::{Problem, in_file};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::reader::check_size;
use crate::checkpoint::variant::{Sizes, Undetected};
use crate::checkpoint::{Error, Reader};

/// A model under big_vision's names with an adapter's changes: sums are computed in f32 and rounded once, to the
/// type that the model's weights have.
pub struct Merged {
    base: Box<dyn Reader>,
    adapter: Adapter,
    changed: HashMap<String, Changed>,
}

/// A parameter of which some slots change.
struct Changed {
    num_slots: usize,
    /// From a tensor's order of elements to a slot's, and back.
    steps: Vec<Transpose>,
    back: Vec<Transpose>,
    slots: Vec<(usize, Change)>,
}

impl Merged {
    /// # Errors
    /// When `base` is not a whole PaliGemma, or the adapter changes what it does not have, or with other shapes.
    pub fn new(base: Box<dyn Reader>, adapter: Adapter) -> Result<Self, Error> {
        let changed = Merged::map(base.as_ref(), &adapter).map_err(in_file(adapter.directory()))?;
        Ok(Merged { base, adapter, changed })
    }

    fn map(base: &dyn Reader, adapter: &Adapter) -> Result<HashMap<String, Changed>, Problem> {
        let sizes = Sizes::of(&|name| base.find(name))
            .map_err(|Undetected { name, got }| Problem::NotWhole { name, got })?;
        let mut left = adapter.changes.clone();
        let mut changed = HashMap::new();
        for entry in entries(&sizes) {
            let mut slots = Vec::new();
            for (slot, key) in entry.keys.iter().enumerate() {
                let Some(change) = left.swap_remove(key) else { continue };
                if entry.name == EMBEDDING {
                    let what = "changes of the embedding, which is also the output layer,".to_owned();
                    return Err(Problem::UnsupportedAdapter { what });
                }
                check(adapter, &change, &entry.hf_dims())?;
                slots.push((slot, change));
            }
            if !slots.is_empty() {
                let back = entry.steps();
                let steps = inverse(&back);
                changed.insert(entry.name, Changed { num_slots: entry.keys.len(), steps, back, slots });
            }
        }
        if !left.is_empty() {
            return Err(Problem::UnknownTargets { names: left.into_keys().collect() });
        }
        Ok(changed)
    }

    /// Changes one slot, in the base's dtype and big_vision's order.
    fn change(&self, change: &Change, changed: &Changed, dtype: DType, slot: &mut [u8]) -> Result<(), Error> {
        let steps = &changed.steps;
        let weights = &self.adapter.weights;
        match change {
            Change::Replace { tensor } => {
                let array = weights.read(tensor)?.cast(dtype);
                rearrange(steps, dtype.num_bytes(), array.bytes(), slot);
            }
            Change::Add { a, b, scale, magnitude } => {
                let a_name = a;
                let (a, b) = (weights.read(a)?.cast(DType::F32), weights.read(b)?.cast(DType::F32));
                let (rank, columns) = (a.dims()[0], a.dims()[1]);
                let a = bytemuck::cast_slice(a.bytes());
                let mut product = product(a, bytemuck::cast_slice(b.bytes()), rank, columns, *scale);
                if let Some(magnitude) = magnitude {
                    let magnitude = weights.read(magnitude)?.cast(DType::F32);
                    let base = HostArray::from_bytes(Shape::new(dtype, [product.len()]), slot);
                    let mut base = base.map_err(|_| Error::WrongSize {
                        name: a_name.clone(),
                        shape: Shape::new(dtype, [product.len()]),
                        got: slot.len(),
                    })?;
                    base = base.cast(DType::F32);
                    let mut weight = vec![0f32; product.len()];
                    let to = bytemuck::cast_slice_mut(&mut weight);
                    rearrange(&changed.back, size_of::<f32>(), base.bytes(), to);
                    stretch(&mut product, &weight, bytemuck::cast_slice(magnitude.bytes()), columns);
                }
                let mut delta = vec![0f32; product.len()];
                rearrange(
                    steps,
                    size_of::<f32>(),
                    bytemuck::cast_slice(&product),
                    bytemuck::cast_slice_mut(&mut delta),
                );
                add(dtype, slot, &delta);
            }
        }
        Ok(())
    }
}

/// Whether a change's shapes are those of the tensor that it changes.
fn check(adapter: &Adapter, change: &Change, dims: &[usize]) -> Result<(), Problem> {
    let expect = |name: &String, expected: &[usize]| match adapter.weights.find(name) {
        Some(got) if got.dims() != expected => {
            Err(Problem::Extents { name: name.clone(), expected: expected.to_vec(), got: got.clone() })
        }
        Some(got) if !got.dtype().is_float() => {
            Err(Problem::Quantised { name: name.clone(), dtype: got.dtype() })
        }
        _ => Ok(()),
    };
    match (change, dims) {
        (Change::Replace { tensor }, _) => expect(tensor, dims),
        (Change::Add { a, b, magnitude, .. }, &[rows, columns]) => {
            let rank = adapter.weights.find(a).and_then(|a| a.dims().first().copied()).unwrap_or(0);
            expect(a, &[rank, columns])?;
            expect(b, &[rows, rank])?;
            magnitude.as_ref().map_or(Ok(()), |magnitude| expect(magnitude, &[rows]))
        }
        (Change::Add { a, .. }, _) => Err(Problem::UnknownTargets { names: vec![a.clone()] }),
    }
}

/// `scale · b · a`, row by row.
fn product(a: &[f32], b: &[f32], rank: usize, columns: usize, scale: f32) -> Vec<f32> {
    let mut out = vec![0f32; b.len() / rank * columns];
    out.par_chunks_mut(columns).zip(b.par_chunks(rank)).for_each(|(out, b)| {
        for (&factor, a) in b.iter().zip(a.chunks(columns)) {
            out.iter_mut().zip(a).for_each(|(out, &a)| *out += factor * a);
        }
        out.iter_mut().for_each(|out| *out *= scale);
    });
    out
}

/// Changes the sum's part so that the sum's rows are as long as `magnitude` says: `m (w + d) / |w + d| - w` for `d`.
fn stretch(delta: &mut [f32], weight: &[f32], magnitude: &[f32], columns: usize) {
    let rows = delta.par_chunks_mut(columns).zip(weight.par_chunks(columns));
    rows.zip(magnitude).for_each(|((delta, weight), &magnitude)| {
        let square = |(d, w): (&f32, &f32)| f64::from(d + w).powi(2);
        let length = delta.iter().zip(weight).map(square).sum::<f64>().sqrt();
        let factor = if length == 0.0 { 0.0 } else { (f64::from(magnitude) / length) as f32 };
        delta.iter_mut().zip(weight).for_each(|(d, w)| *d = factor * (*d + w) - w);
    });
}

/// Adds in f32 (f64 where the weights are that) and rounds once.
fn add(dtype: DType, weights: &mut [u8], delta: &[f32]) {
    fn each<const WIDTH: usize>(
        weights: &mut [u8],
        delta: &[f32],
        sum: impl Fn([u8; WIDTH], f32) -> [u8; WIDTH] + Sync,
    ) {
        let (weights, _) = weights.as_chunks_mut::<WIDTH>();
        let pairs = weights.par_iter_mut().zip(delta).with_min_len(1 << 14);
        pairs.for_each(|(weight, &delta)| *weight = sum(*weight, delta));
    }
    match dtype {
        DType::BF16 => {
            each(weights, delta, |w, d| bf16::from_f32(bf16::from_le_bytes(w).to_f32() + d).to_le_bytes())
        }
        DType::F16 => {
            each(weights, delta, |w, d| f16::from_f32(f16::from_le_bytes(w).to_f32() + d).to_le_bytes())
        }
        DType::F64 => each(weights, delta, |w, d| (f64::from_le_bytes(w) + f64::from(d)).to_le_bytes()),
        // `Merged::read_into` asks for floats.
        _ => each(weights, delta, |w, d| (f32::from_le_bytes(w) + d).to_le_bytes()),
    }
}

impl Reader for Merged {
    fn path(&self) -> &Path {
        self.adapter.directory()
    }

    fn names(&self) -> Vec<&str> {
        self.base.names()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.base.find(name)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let shape = self.shape(name)?;
        check_size(name, shape, out)?;
        self.base.read_into(name, out)?;
        let Some(changed) = self.changed.get(name) else { return Ok(()) };
        let size = out.len() / changed.num_slots;
        for (slot, change) in &changed.slots {
            self.change(change, changed, shape.dtype(), &mut out[slot * size..][..size])?;
        }
        Ok(())
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        if self.changed.contains_key(name) { Ok(None) } else { self.base.borrow(name) }
    }

    fn release(&self, name: &str) {
        self.base.release(name);
    }
}
