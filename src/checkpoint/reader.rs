use std::ops::Range;
use std::path::Path;

use super::Error;
use crate::array::{HostArray, Shape};
use crate::params;

/// Named arrays that can be read one at a time. Opening one reads names and shapes, no data.
///
/// Whatever a reader gives has been checked against the checksums that its format has.
pub trait Reader: Send + Sync {
    /// The file or directory, for messages.
    fn path(&self) -> &Path;

    /// All names, in the order of the file.
    fn names(&self) -> Vec<&str>;

    fn find(&self, name: &str) -> Option<&Shape>;

    /// Copies the elements, row-major and little-endian.
    ///
    /// # Errors
    /// When there is no such tensor, `out` has not its size, or the data are damaged or unreadable.
    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error>;

    /// The elements in place, for formats that keep them in memory order. The bytes may be unaligned.
    ///
    /// # Errors
    /// As [`read_into`](Reader::read_into).
    fn borrow(&self, _name: &str) -> Result<Option<&[u8]>, Error> {
        Ok(None)
    }

    /// Tells that nobody will look at the bytes of this tensor soon: a reader over a mapped file gives its
    /// pages back, so that going through a large file once does not make the process as large as the file.
    /// Reading it again works as before.
    fn release(&self, name: &str) {
        if let Some(shape) = self.find(name) {
            self.release_range(name, 0..shape.num_bytes());
        }
    }

    /// As [`release`](Reader::release), for a part of what [`borrow`](Reader::borrow) gives.
    fn release_range(&self, _name: &str, _range: Range<usize>) {}

    /// # Errors
    /// When there is no such tensor; the error lists the nearest names.
    fn shape(&self, name: &str) -> Result<&Shape, Error> {
        self.find(name).ok_or_else(|| Error::UnknownTensor {
            path: self.path().to_owned(),
            name: name.to_owned(),
            nearest: params::nearest(name, self.names()),
        })
    }

    /// # Errors
    /// As [`read_into`](Reader::read_into).
    fn read(&self, name: &str) -> Result<HostArray, Error> {
        let mut array = HostArray::zeros(self.shape(name)?.clone());
        self.read_into(name, array.bytes_mut())?;
        Ok(array)
    }
}

/// What every `read_into` begins with: the shape of a known tensor, for which `out` has the right size.
pub(crate) fn check_size(name: &str, shape: &Shape, out: &[u8]) -> Result<(), Error> {
    if out.len() == shape.num_bytes() {
        return Ok(());
    }
    Err(Error::WrongSize { name: name.to_owned(), shape: shape.clone(), got: out.len() })
}

/// A range of positions in a tensor as positions in the file where the tensor takes `place`.
pub(crate) fn within(place: &Range<usize>, range: Range<usize>) -> Range<usize> {
    let at = |position: usize| place.end.min(place.start.saturating_add(position));
    at(range.start)..at(range.end)
}
