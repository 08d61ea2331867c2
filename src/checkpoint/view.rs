use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;

use super::reader::{Reader, check_size};
use super::{Error, npy};
use crate::array::{DType, HostArray, Shape};

/// Fills `out` with a tensor, row-major, from the reader below.
type Make = Box<dyn Fn(&dyn Reader, &mut [u8]) -> Result<(), Error> + Send + Sync>;

/// Another reader under other names, and with tensors that are made of its tensors when somebody reads them.
pub(crate) struct View {
    reader: Box<dyn Reader>,
    tensors: IndexMap<String, Tensor>,
}

enum Tensor {
    /// A tensor of the reader below, under its name there.
    Same(String),
    Made {
        shape: Shape,
        /// The tensors that it is made of.
        sources: Vec<String>,
        make: Make,
    },
}

impl View {
    /// Everything that the reader holds.
    pub fn whole(reader: Box<dyn Reader>) -> Self {
        let names = reader.names().into_iter().map(|name| (name.to_owned(), Tensor::Same(name.to_owned())));
        let tensors = names.collect();
        View { reader, tensors }
    }

    /// Nothing of what the reader holds, to be filled.
    pub fn empty(reader: Box<dyn Reader>) -> Self {
        View { reader, tensors: IndexMap::new() }
    }

    /// The tensors below a prefix, without it.
    pub fn below(reader: Box<dyn Reader>, prefix: &str) -> Self {
        let short = |name: &&str| Some((name.strip_prefix(prefix)?.to_owned(), (*name).to_owned()));
        let names: Vec<(String, String)> = reader.names().iter().filter_map(short).collect();
        let tensors = names.into_iter().map(|(short, full)| (short, Tensor::Same(full))).collect();
        View { reader, tensors }
    }

    /// The tensors whose names are `wanted`.
    pub fn select(reader: Box<dyn Reader>, wanted: impl Fn(&str) -> bool) -> Self {
        let names = reader.names().into_iter().filter(|name| wanted(name)).map(str::to_owned);
        let tensors = names.map(|name| (name.clone(), Tensor::Same(name))).collect();
        View { reader, tensors }
    }

    /// All tensors with a prefix before their names.
    pub fn under(reader: Box<dyn Reader>, prefix: &str) -> Self {
        let full = |name: &&str| (format!("{prefix}{name}"), Tensor::Same((*name).to_owned()));
        let tensors = reader.names().iter().map(full).collect();
        View { reader, tensors }
    }

    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Adds a tensor of the reader below under another name.
    ///
    /// # Errors
    /// When the name is taken, as for all that add.
    pub fn add(&mut self, name: String, source: String) -> Result<(), Error> {
        self.insert(name, Tensor::Same(source))
    }

    /// Adds tensors of one shape as one, along a new leading axis.
    pub fn add_stacked(&mut self, name: String, shape: &Shape, sources: Vec<String>) -> Result<(), Error> {
        let dims = [&[sources.len()], shape.dims()].concat();
        let (stacked, size, layers) = (shape.with_dims(dims), shape.num_bytes(), sources.clone());
        let make: Make = Box::new(move |reader, out| {
            let mut rest = out;
            for layer in &layers {
                let (slice, after) = rest.split_at_mut(size);
                reader.read_into(layer, slice)?;
                rest = after;
            }
            Ok(())
        });
        self.insert(name, Tensor::Made { shape: stacked, sources, make })
    }

    /// Replaces a tensor of this view by what `make` makes of its value.
    pub fn replace(
        &mut self,
        name: &str,
        shape: Shape,
        make: impl Fn(HostArray, &mut [u8]) -> Result<(), Error> + Send + Sync + 'static,
    ) {
        let Some(Tensor::Same(source)) = self.tensors.get(name) else { return };
        let source = source.clone();
        let sources = vec![source.clone()];
        let make: Make = Box::new(move |reader, out| make(reader.read(&source)?, out));
        self.tensors.insert(name.to_owned(), Tensor::Made { shape, sources, make });
    }

    fn insert(&mut self, name: String, tensor: Tensor) -> Result<(), Error> {
        if self.tensors.contains_key(&name) {
            return Err(Error::DuplicateTensor { path: self.reader.path().to_owned(), name });
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    fn tensor(&self, name: &str) -> Result<&Tensor, Error> {
        self.shape(name)?;
        Ok(&self.tensors[name])
    }
}

impl Reader for View {
    fn path(&self) -> &Path {
        self.reader.path()
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        match self.tensors.get(name)? {
            Tensor::Same(source) => self.reader.find(source),
            Tensor::Made { shape, .. } => Some(shape),
        }
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        match self.tensor(name)? {
            Tensor::Same(source) => self.reader.read_into(source, out),
            Tensor::Made { shape, make, .. } => {
                check_size(name, shape, out)?;
                make(self.reader.as_ref(), out)
            }
        }
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        match self.tensor(name)? {
            Tensor::Same(source) => self.reader.borrow(source),
            Tensor::Made { .. } => Ok(None),
        }
    }

    fn release(&self, name: &str) {
        match self.tensors.get(name) {
            None => {}
            Some(Tensor::Same(source)) => self.reader.release(source),
            Some(Tensor::Made { sources, .. }) => sources.iter().for_each(|name| self.reader.release(name)),
        }
    }

    fn release_range(&self, name: &str, range: Range<usize>) {
        if let Some(Tensor::Same(source)) = self.tensors.get(name) {
            self.reader.release_range(source, range);
        }
    }
}

/// Copies an array with its last two axes exchanged. `shape` is that of the source.
pub(crate) fn swap_last_axes(shape: &Shape, source: &[u8], out: &mut [u8]) {
    let [.., rows, columns] = *shape.dims() else { return out.copy_from_slice(source) };
    // Read by columns, a matrix is its own transpose.
    let matrix = shape.with_dims([columns, rows]);
    let size = matrix.num_bytes().max(1);
    for (from, to) in source.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        npy::fortran_to_row_major(&matrix, from, to);
    }
}

/// Rounds the elements of an array to another type, into bytes.
pub(crate) fn cast_into(array: &HostArray, dtype: DType, out: &mut [u8]) {
    match array.dtype() == dtype {
        true => out.copy_from_slice(array.bytes()),
        false => out.copy_from_slice(array.cast(dtype).bytes()),
    }
}
