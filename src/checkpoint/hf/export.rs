use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use half::{bf16, f16};
use indexmap::IndexMap;
use rayon::prelude::*;

use super::layout::{Transpose, rearrange};
use super::names::{EMBEDDING, entries};
use super::sizes::ADDED_ROWS;
use super::{Problem, in_file};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::reader::check_size;
use crate::checkpoint::variant::{Sizes, Undetected, Variant};
use crate::checkpoint::{Error, Reader};

/// What may differ in an exported model.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Whether the embedding gets the 64 rows that Hugging Face adds, the first of which is `<image>`.
    pub add_image_rows: bool,
    /// Whether the output layer is written too, although it is the embedding and transformers ties them.
    pub lm_head: bool,
}

impl Default for ExportOptions {
    fn default() -> Self {
        ExportOptions { add_image_rows: true, lm_head: false }
    }
}

/// A PaliGemma under big_vision's names, given under those of Hugging Face: the generation of prefixes that
/// transformers wrote up to 4.51, which every version reads. One tensor for each layer, cut from the stacks.
///
/// Names come parameter by parameter, so that reading them in order reads every parameter once, also from a source
/// that cannot lend its bytes: the last parameter is kept.
///
/// The added rows of the embedding hold the mean of the others. Hugging Face draws them around it; with the mean
/// itself, rounding aside, no added token is ever the likeliest one, since its logit is the mean of all logits.
pub struct Export {
    source: Box<dyn Reader>,
    variant: Variant,
    parameters: Vec<Parameter>,
    tensors: IndexMap<String, Tensor>,
    last: Mutex<Option<(usize, Arc<HostArray>)>>,
    rows: usize,
}

struct Parameter {
    name: String,
    steps: Vec<Transpose>,
    num_slots: usize,
}

struct Tensor {
    shape: Shape,
    parameter: usize,
    slot: usize,
}

type Mapped = (Variant, Vec<Parameter>, IndexMap<String, Tensor>);

impl Export {
    /// # Errors
    /// When `source` is not a whole PaliGemma, or has tensors besides that Hugging Face has no names for.
    pub fn new(source: Box<dyn Reader>, options: &ExportOptions) -> Result<Self, Error> {
        let fail = in_file(source.path());
        match Export::map(source.as_ref(), options) {
            Err(problem) => Err(fail(problem)),
            Ok((variant, parameters, tensors)) => {
                let added = if options.add_image_rows { ADDED_ROWS } else { 0 };
                let rows = variant.sizes.llm.vocab_size + added;
                Ok(Export { source, variant, parameters, tensors, last: Mutex::new(None), rows })
            }
        }
    }

    fn map(source: &dyn Reader, options: &ExportOptions) -> Result<Mapped, Problem> {
        let sizes = Sizes::of(&|name| source.find(name))
            .map_err(|Undetected { name, got }| Problem::NotWhole { name, got })?;
        if sizes.img.num_patches.is_none() {
            return Err(Problem::NotWhole { name: "img/pos_embedding", got: None });
        }
        let mut parameters = Vec::new();
        let mut tensors = IndexMap::new();
        let mut missing = Vec::new();
        let mut unknown: Vec<String> = source.names().into_iter().map(str::to_owned).collect();
        for entry in entries(&sizes) {
            let Some(shape) = source.find(&entry.name) else {
                missing.push(entry.name);
                continue;
            };
            if shape.dims() != entry.dims {
                return Err(Problem::Extents { name: entry.name, expected: entry.dims, got: shape.clone() });
            }
            if !shape.dtype().is_float() {
                return Err(Problem::Quantised { name: entry.name, dtype: shape.dtype() });
            }
            unknown.retain(|name| *name != entry.name);
            let mut dims = entry.hf_dims();
            let mut keys = entry.keys.clone();
            if entry.name == EMBEDDING {
                if options.add_image_rows {
                    dims[0] += ADDED_ROWS;
                }
                if options.lm_head {
                    keys.push("language_model.lm_head.weight".to_owned());
                }
            }
            for (slot, key) in keys.into_iter().enumerate() {
                // The output layer is the embedding's only slot once more.
                let slot = slot.min(entry.keys.len() - 1);
                let shape = shape.with_dims(dims.clone());
                tensors.insert(key, Tensor { shape, parameter: parameters.len(), slot });
            }
            let (steps, num_slots) = (entry.steps(), entry.keys.len());
            parameters.push(Parameter { name: entry.name, steps, num_slots });
        }
        if !missing.is_empty() || !unknown.is_empty() {
            return Err(Problem::Names { missing, unknown });
        }
        Ok((Variant::new(sizes), parameters, tensors))
    }

    /// Which PaliGemma it is.
    pub fn variant(&self) -> &Variant {
        &self.variant
    }

    /// Rows of the embedding, with the added ones.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The dtype that most bytes have: what `torch_dtype` should say.
    pub fn dtype(&self) -> DType {
        let bytes = |dtype: DType| -> usize {
            let shapes = self.tensors.values().map(|tensor| &tensor.shape);
            shapes.filter(|shape| shape.dtype() == dtype).map(Shape::num_bytes).sum()
        };
        DType::ALL.into_iter().max_by_key(|&dtype| bytes(dtype)).unwrap_or(DType::F32)
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.shape(name)?;
        Ok(&self.tensors[name])
    }

    /// Calls `f` with the bytes of a tensor's slot, in big_vision's order.
    fn with_slot<T>(&self, tensor: &Tensor, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        let parameter = &self.parameters[tensor.parameter];
        let cut = |bytes: &[u8]| {
            let size = bytes.len() / parameter.num_slots;
            f(&bytes[tensor.slot * size..][..size])
        };
        if let Some(bytes) = self.source.borrow(&parameter.name)? {
            return Ok(cut(bytes));
        }
        let array = {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            match &*last {
                Some((index, array)) if *index == tensor.parameter => Arc::clone(array),
                _ => {
                    // The array before makes room first.
                    *last = None;
                    let array = Arc::new(self.source.read(&parameter.name)?);
                    *last = Some((tensor.parameter, Arc::clone(&array)));
                    array
                }
            }
        };
        Ok(cut(array.bytes()))
    }
}

impl Reader for Export {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.tensors.get(name).map(|tensor| &tensor.shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let tensor = self.tensor(name)?;
        check_size(name, &tensor.shape, out)?;
        let steps = &self.parameters[tensor.parameter].steps;
        self.with_slot(tensor, |slot| {
            let (own, added) = out.split_at_mut(slot.len());
            rearrange(steps, tensor.shape.dtype().num_bytes(), slot, own);
            if !added.is_empty() {
                let columns = tensor.shape.dims()[1];
                let mean = mean_row(tensor.shape.dtype(), columns, own);
                added.chunks_mut(mean.len()).for_each(|row| row.copy_from_slice(&mean));
            }
        })
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        let tensor = self.tensor(name)?;
        let parameter = &self.parameters[tensor.parameter];
        if !parameter.steps.is_empty()
            || (parameter.name == EMBEDDING && self.rows > self.variant.sizes.llm.vocab_size)
        {
            return Ok(None);
        }
        let bytes = self.source.borrow(&parameter.name)?;
        Ok(bytes.map(|bytes| {
            let size = bytes.len() / parameter.num_slots;
            &bytes[tensor.slot * size..][..size]
        }))
    }

    fn release(&self, name: &str) {
        if let Some(tensor) = self.tensors.get(name) {
            self.source.release(&self.parameters[tensor.parameter].name);
        }
    }
}

/// The mean of the rows of a matrix, summed in f64 and rounded to its own type.
fn mean_row(dtype: DType, columns: usize, bytes: &[u8]) -> Vec<u8> {
    match dtype {
        DType::BF16 => {
            mean_of(columns, bytes, |b| bf16::from_le_bytes(b).to_f64(), |v| bf16::from_f64(v).to_le_bytes())
        }
        DType::F16 => {
            mean_of(columns, bytes, |b| f16::from_le_bytes(b).to_f64(), |v| f16::from_f64(v).to_le_bytes())
        }
        DType::F64 => mean_of(columns, bytes, f64::from_le_bytes, f64::to_le_bytes),
        // `Export::new` lets floats in only.
        _ => mean_of(columns, bytes, |b| f64::from(f32::from_le_bytes(b)), |v| (v as f32).to_le_bytes()),
    }
}

fn mean_of<const WIDTH: usize>(
    columns: usize,
    bytes: &[u8],
    read: impl Fn([u8; WIDTH]) -> f64 + Sync,
    write: impl Fn(f64) -> [u8; WIDTH],
) -> Vec<u8> {
    // Parts of fixed size, added in order: the sum is the same on every machine.
    const ROWS: usize = 1024;
    let (values, _) = bytes.as_chunks::<WIDTH>();
    let sums = values.par_chunks(ROWS * columns).map(|rows| {
        let mut sum = vec![0.0; columns];
        for row in rows.chunks(columns) {
            sum.iter_mut().zip(row).for_each(|(sum, &value)| *sum += read(value));
        }
        sum
    });
    let sums: Vec<Vec<f64>> = sums.collect();
    let count = (values.len() / columns) as f64;
    (0..columns).flat_map(|column| write(sums.iter().map(|sum| sum[column]).sum::<f64>() / count)).collect()
}
