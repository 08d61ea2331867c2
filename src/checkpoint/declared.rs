use std::path::Path;

use super::Error;
use super::reader::check_size;
use crate::array::Shape;

/// The tensors that a writer was promised, and how many of them have come: one after the other, in this order.
pub(crate) struct Declared {
    order: Vec<(String, Shape)>,
    written: usize,
}

impl Declared {
    pub(crate) fn new(order: Vec<(String, Shape)>) -> Self {
        Declared { order, written: 0 }
    }

    pub(crate) fn order(&self) -> &[(String, Shape)] {
        &self.order
    }

    /// Counts a tensor as written and gives its shape. `path` is what is being written.
    ///
    /// # Errors
    /// When another tensor is due, or its size is not the declared one.
    pub(crate) fn take(&mut self, path: &Path, name: &str, bytes: &[u8]) -> Result<&Shape, Error> {
        let due = self.order.get(self.written);
        let Some((_, shape)) = due.filter(|(due, _)| due == name) else {
            let expected = due.map(|(name, _)| name.clone());
            return Err(Error::WriteOrder { path: path.to_owned(), expected, name: name.to_owned() });
        };
        check_size(name, shape, bytes)?;
        self.written += 1;
        Ok(shape)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.written == self.order.len()
    }

    /// # Errors
    /// When a declared tensor is missing.
    pub(crate) fn check_complete(&self, path: &Path) -> Result<(), Error> {
        match self.order.get(self.written) {
            Some((next, _)) => Err(Error::Unfinished { path: path.to_owned(), next: next.clone() }),
            None => Ok(()),
        }
    }
}
