use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::config::HfConfig;
use super::layout::{Transpose, copy, inverse, rearrange};
use super::names::{EMBEDDING, EMBEDDING_KEY, Key, entries, key};
use super::sizes::{Shapes, sizes_of};
use super::{Problem, in_file};
use crate::array::{DType, Shape};
use crate::checkpoint::reader::check_size;
use crate::checkpoint::{Error, Reader};

/// A PaliGemma under Hugging Face's names, given under big_vision's.
///
/// Nothing is read ahead: a parameter is assembled from its layers when it is asked for, straight into the caller's
/// memory. Rows of the embedding that Hugging Face has added, the tied output layer and buffers are left out.
/// Layers that differ in dtype become one array of the narrowest type that holds all of them.
pub struct Import {
    source: Box<dyn Reader>,
    parameters: IndexMap<String, Parameter>,
    /// The embedding again, under its own name, and whether it has been seen to be the same.
    output: Option<(String, OnceLock<bool>)>,
}

struct Parameter {
    shape: Shape,
    /// Names in the source, in the order in which they lie in the parameter.
    tensors: Vec<String>,
    /// From the order of a tensor's elements to that of its slot.
    steps: Vec<Transpose>,
}

/// All parameters, and what the output layer is called.
type Mapped = (IndexMap<String, Parameter>, Option<String>);

impl Import {
    /// Finds the parameters of a PaliGemma among the tensors of `source`, which may have the prefixes of any version
    /// of transformers. `config` is the content of the `config.json` beside them.
    ///
    /// # Errors
    /// When tensors are missing, unknown, of shapes that do not fit together or not floats; when the numbers of heads
    /// can be told neither from `config` nor from a published model.
    pub fn new(source: Box<dyn Reader>, config: &HfConfig) -> Result<Self, Error> {
        Import::map(source.as_ref(), config).map_err(in_file(source.path())).map(|(parameters, output)| {
            Import { parameters, output: output.map(|name| (name, OnceLock::new())), source }
        })
    }

    fn map(source: &dyn Reader, config: &HfConfig) -> Result<Mapped, Problem> {
        let mut known: HashMap<String, &str> = HashMap::new();
        let mut unknown = Vec::new();
        let mut output = None;
        for name in source.names() {
            match key(name) {
                Key::Parameter(canonical) => {
                    if known.insert(canonical, name).is_some() {
                        unknown.push(name.to_owned());
                    }
                }
                Key::Output => output = Some(name.to_owned()),
                Key::Buffer => {}
                Key::Foreign => unknown.push(name.to_owned()),
            }
        }
        if known.is_empty() {
            return Err(Problem::Foreign { unknown });
        }
        let shape_of = |(canonical, name): (&'_ String, &&str)| Some((canonical.clone(), source.find(name)?));
        let shapes: Vec<(String, &Shape)> = known.iter().filter_map(shape_of).collect();
        let shapes: Shapes<'_> = shapes.iter().map(|(name, shape)| (name.as_str(), *shape)).collect();
        let sizes = sizes_of(&shapes, config)?;

        let mut parameters = IndexMap::new();
        let mut missing = Vec::new();
        for entry in entries(&sizes) {
            let mut tensors = Vec::with_capacity(entry.keys.len());
            let mut dtype = None;
            for key in &entry.keys {
                let Some((name, shape)) = known.remove(key).zip(shapes.get(key.as_str())) else {
                    missing.push(key.clone());
                    continue;
                };
                check_extents(name, shape, entry.hf_dims(), entry.name == EMBEDDING)?;
                if !shape.dtype().is_float() {
                    return Err(Problem::Quantised { name: name.to_owned(), dtype: shape.dtype() });
                }
                dtype = Some(common(dtype.unwrap_or(shape.dtype()), shape.dtype()));
                tensors.push(name.to_owned());
            }
            let shape = Shape::new(dtype.unwrap_or(DType::F32), entry.dims.clone());
            let steps = inverse(&entry.steps());
            parameters.insert(entry.name, Parameter { shape, tensors, steps });
        }
        unknown.extend(known.into_values().map(str::to_owned));
        unknown.sort();
        if !missing.is_empty() || !unknown.is_empty() {
            return Err(Problem::Names { missing, unknown });
        }
        if let Some(name) = &output
            && let Some(shape) = source.find(name)
            && let Some(embedding) = shapes.get(EMBEDDING_KEY)
            && shape.dims() != embedding.dims()
        {
            let expected = embedding.dims().to_vec();
            return Err(Problem::Extents { name: name.clone(), expected, got: shape.clone() });
        }
        Ok((parameters, output))
    }

    fn parameter(&self, name: &str) -> Result<&Parameter, Error> {
        self.shape(name)?;
        Ok(&self.parameters[name])
    }

    /// Fills one slot from its tensor, which may have more elements than the slot takes.
    fn fill(&self, parameter: &Parameter, tensor: &str, slot: &mut [u8]) -> Result<(), Error> {
        let dtype = parameter.shape.dtype();
        let arrange = |bytes: &[u8], slot: &mut [u8]| {
            rearrange(&parameter.steps, dtype.num_bytes(), &bytes[..slot.len()], slot);
        };
        if self.source.shape(tensor)?.dtype() != dtype {
            arrange(self.source.read(tensor)?.cast(dtype).bytes(), slot);
        } else if let Some(bytes) = self.source.borrow(tensor)? {
            arrange(bytes, slot);
        } else {
            arrange(self.source.read(tensor)?.bytes(), slot);
        }
        self.source.release(tensor);
        Ok(())
    }

    /// Makes sure that the output layer, where the file has one, is the embedding.
    fn check_tied(&self, embedding: &str) -> Result<(), Error> {
        let Some((output, checked)) = &self.output else { return Ok(()) };
        let is_same = match checked.get() {
            Some(&is_same) => is_same,
            None => {
                let is_same = self.same(embedding, output)?;
                self.source.release(output);
                *checked.get_or_init(|| is_same)
            }
        };
        if is_same { Ok(()) } else { Err(in_file(self.path())(Problem::Untied)) }
    }

    /// Whether both tensors hold the same numbers.
    fn same(&self, a: &str, b: &str) -> Result<bool, Error> {
        const CHUNK: usize = 8 << 20;
        let (a_dtype, b_dtype) = (self.source.shape(a)?.dtype(), self.source.shape(b)?.dtype());
        if a_dtype != b_dtype {
            let dtype = common(a_dtype, b_dtype);
            return Ok(self.source.read(a)?.cast(dtype) == self.source.read(b)?.cast(dtype));
        }
        match (self.source.borrow(a)?, self.source.borrow(b)?) {
            (Some(a), Some(b)) => Ok(a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK)).all(|(a, b)| a == b)),
            _ => Ok(self.source.read(a)? == self.source.read(b)?),
        }
    }
}

/// The embedding may have rows beyond the expected ones.
fn check_extents(name: &str, shape: &Shape, expected: Vec<usize>, is_embedding: bool) -> Result<(), Problem> {
    let has_more_rows = || {
        is_embedding
            && matches!((shape.dims(), &*expected), ([rows, a], [wanted, b]) if a == b && rows >= wanted)
    };
    if shape.dims() == expected || has_more_rows() {
        return Ok(());
    }
    Err(Problem::Extents { name: name.to_owned(), expected, got: shape.clone() })
}

/// The narrowest float type that holds both.
fn common(a: DType, b: DType) -> DType {
    if a == b {
        a
    } else if a.num_bytes() == b.num_bytes() {
        DType::F32
    } else if a.num_bytes() > b.num_bytes() {
        a
    } else {
        b
    }
}

impl Reader for Import {
    fn path(&self) -> &Path {
        self.source.path()
    }

    fn names(&self) -> Vec<&str> {
        self.parameters.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.parameters.get(name).map(|parameter| &parameter.shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let parameter = self.parameter(name)?;
        check_size(name, &parameter.shape, out)?;
        if let Some(bytes) = self.borrow(name)? {
            copy(bytes, out);
            self.release(name);
            return Ok(());
        }
        if name == EMBEDDING {
            self.check_tied(&parameter.tensors[0])?;
        }
        let slot_bytes = out.len() / parameter.tensors.len();
        let slots = out.par_chunks_mut(slot_bytes).zip(&parameter.tensors);
        slots.try_for_each(|(slot, tensor)| self.fill(parameter, tensor, slot))
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        let parameter = self.parameter(name)?;
        let [tensor] = &*parameter.tensors else { return Ok(None) };
        if name == EMBEDDING {
            self.check_tied(tensor)?;
        }
        let is_as_stored = self.source.shape(tensor)?.dtype() == parameter.shape.dtype();
        if !parameter.steps.is_empty() || !is_as_stored {
            return Ok(None);
        }
        let bytes = self.source.borrow(tensor)?;
        Ok(bytes.map(|bytes| &bytes[..parameter.shape.num_bytes()]))
    }

    fn release(&self, name: &str) {
        if let Some(parameter) = self.parameters.get(name) {
            parameter.tensors.iter().for_each(|tensor| self.source.release(tensor));
        }
    }
}
