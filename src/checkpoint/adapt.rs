//! Readers over readers: another dtype, two checkpoints as one.

use std::ops::Range;
use std::path::Path;

use indexmap::IndexMap;
use rayon::prelude::*;

use super::reader::check_size;
use super::{Error, Reader};
use crate::array::{DType, HostArray, Shape};

/// The tensors of another reader with floats rounded to another dtype; what is no float stays as it is.
pub struct Cast {
    reader: Box<dyn Reader>,
    /// The shapes that change.
    shapes: IndexMap<String, Shape>,
}

/// Bytes of the narrower side that are cast at once, by one thread.
const PIECE: usize = 4 << 20;

impl Cast {
    /// `dtype` is a float's.
    pub fn new(reader: Box<dyn Reader>, dtype: DType) -> Self {
        let cast = |name: &str| {
            let shape = reader.find(name)?;
            let changes = shape.dtype().is_float() && shape.dtype() != dtype;
            changes.then(|| (name.to_owned(), shape.with_dtype(dtype)))
        };
        let shapes = reader.names().into_iter().filter_map(cast).collect();
        Cast { reader, shapes }
    }
}

impl Reader for Cast {
    fn path(&self) -> &Path {
        self.reader.path()
    }

    fn names(&self) -> Vec<&str> {
        self.reader.names()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.shapes.get(name).or_else(|| self.reader.find(name))
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let Some(shape) = self.shapes.get(name) else { return self.reader.read_into(name, out) };
        check_size(name, shape, out)?;
        let from = self.reader.shape(name)?.dtype();
        let owned;
        let (bytes, is_borrowed) = match self.reader.borrow(name)? {
            Some(bytes) => (bytes, true),
            None => {
                owned = self.reader.read(name)?;
                (owned.bytes(), false)
            }
        };
        let (from_size, to_size) = (from.num_bytes(), shape.dtype().num_bytes());
        let elements = PIECE / from_size.min(to_size);
        let pieces = out.par_chunks_mut(elements * to_size).zip(bytes.par_chunks(elements * from_size));
        pieces.enumerate().for_each(|(index, (out, bytes))| {
            let mut piece = HostArray::zeros(Shape::new(from, [bytes.len() / from_size]));
            piece.bytes_mut().copy_from_slice(bytes);
            out.copy_from_slice(piece.cast(shape.dtype()).bytes());
            if is_borrowed {
                let start = index * elements * from_size;
                self.reader.release_range(name, start..start + bytes.len());
            }
        });
        Ok(())
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        if self.shapes.contains_key(name) { Ok(None) } else { self.reader.borrow(name) }
    }

    fn release_range(&self, name: &str, range: Range<usize>) {
        if !self.shapes.contains_key(name) {
            self.reader.release_range(name, range);
        }
    }
}

/// Two readers as one: what both have comes from the first. For checkpoints that hold only what a training
/// changed, over what it began with.
pub struct Overlay {
    top: Box<dyn Reader>,
    base: Box<dyn Reader>,
}

impl Overlay {
    pub fn new(top: Box<dyn Reader>, base: Box<dyn Reader>) -> Self {
        Overlay { top, base }
    }

    fn holder(&self, name: &str) -> &dyn Reader {
        if self.top.find(name).is_some() { self.top.as_ref() } else { self.base.as_ref() }
    }
}

impl Reader for Overlay {
    fn path(&self) -> &Path {
        self.top.path()
    }

    /// In the order of the second reader, then what only the first has.
    fn names(&self) -> Vec<&str> {
        let mut names = self.base.names();
        names.extend(self.top.names().into_iter().filter(|name| self.base.find(name).is_none()));
        names
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.top.find(name).or_else(|| self.base.find(name))
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        self.shape(name)?;
        self.holder(name).read_into(name, out)
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        self.shape(name)?;
        self.holder(name).borrow(name)
    }

    fn release_range(&self, name: &str, range: Range<usize>) {
        self.holder(name).release_range(name, range);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{npz, open};

    fn reader(dir: &Path, file: &str, arrays: &[(&str, HostArray)]) -> Box<dyn Reader> {
        let path = dir.join(file);
        let mut writer = npz::Writer::create(&path).unwrap();
        for (name, array) in arrays {
            writer.write(name, array).unwrap();
        }
        writer.finish().unwrap();
        open(&path).unwrap()
    }

    fn scalar(value: f32) -> HostArray {
        HostArray::scalar(value)
    }

    #[test]
    fn a_cast_is_that_of_arrays_also_over_several_pieces() {
        let dir = tempfile::tempdir().unwrap();
        let values: Vec<f32> = (0..3_000_000).map(|i| (i as f32).sin() * 3.0).collect();
        let (floats, ints) = (HostArray::new([3, 1_000_000], &values).unwrap(), HostArray::scalar(7i32));
        for dtype in [DType::BF16, DType::F16, DType::F64] {
            let source = reader(dir.path(), "x.npz", &[("w", floats.clone()), ("n", ints.clone())]);
            let cast = Cast::new(source, dtype);
            assert_eq!(cast.shape("w").unwrap(), &floats.shape().with_dtype(dtype));
            assert_eq!(cast.read("w").unwrap(), floats.cast(dtype));
            assert_eq!(cast.borrow("w").unwrap(), None);
            assert_eq!(cast.read("n").unwrap(), ints);
        }
    }

    #[test]
    fn an_overlay_takes_what_changed_from_the_top() {
        let dir = tempfile::tempdir().unwrap();
        let top = reader(dir.path(), "top.npz", &[("a", scalar(10.0)), ("c", scalar(30.0))]);
        let base = reader(dir.path(), "base.npz", &[("a", scalar(1.0)), ("b", scalar(2.0))]);
        let overlay = Overlay::new(top, base);
        assert_eq!(overlay.names(), ["a", "b", "c"]);
        let values = overlay.names().into_iter().flat_map(|name| overlay.read(name).unwrap().to_f64());
        assert_eq!(values.collect::<Vec<_>>(), [10.0, 2.0, 30.0]);
        assert!(overlay.read("d").is_err());
    }
}
