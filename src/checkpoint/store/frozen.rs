//! The part of a run's checkpoints that never changes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use super::base::{BaseEntry, BaseFile, BaseTensor, Files};
use super::manifest::{Checkpoint, FileEntry, TensorEntry, verify};
use super::write::write_shards;
use crate::array::Shape;
use crate::checkpoint::file::{Map, PendingFile};
use crate::checkpoint::{Error, Reader};

/// How the names of the files begin.
const STEM: &str = "frozen";

/// Tensors that are the same in every checkpoint of a run. The first checkpoint writes them, to files of
/// their own; each later one links the files of the one before, so that it costs no more than what changed,
/// and removing either leaves the other whole.
///
/// What a base has ([`left_to`](Frozen::left_to)) is not written at all.
pub struct Frozen {
    tensors: Box<dyn Reader>,
    base: Vec<BaseFile>,
    written: Option<Written>,
}

/// What the last checkpoint has of them.
#[derive(Clone)]
pub(super) struct Written {
    directory: PathBuf,
    pub files: Vec<FileEntry>,
    pub tensors: Vec<TensorEntry>,
    pub base: Option<BaseEntry>,
}

impl Frozen {
    /// `tensors` is read once, if at all, by the thread that saves.
    pub fn new(tensors: Box<dyn Reader>) -> Self {
        Frozen { tensors, base: Vec::new(), written: None }
    }

    /// Leaves to these checkpoints what they have with the same values, parameters below `params/` under
    /// their names without it.
    pub fn left_to(self, base: Vec<BaseFile>) -> Self {
        Frozen { base, ..self }
    }

    /// Goes on from a checkpoint that the tensors were read from: where its unchanging part is the same,
    /// later checkpoints link its files.
    pub fn resumed_from(self, checkpoint: &Checkpoint) -> Self {
        let manifest = checkpoint.manifest();
        let files: Vec<FileEntry> =
            manifest.files.iter().filter(|file| file.name.starts_with(STEM)).cloned().collect();
        let tensors: Vec<TensorEntry> =
            manifest.tensors.iter().filter(|tensor| tensor.file.starts_with(STEM)).cloned().collect();
        let left = manifest.base.iter().flat_map(|base| &base.tensors);
        let there: BTreeSet<_> = tensors
            .iter()
            .map(|tensor| (tensor.name.as_str(), tensor.dtype.as_str(), tensor.shape.as_slice()))
            .chain(left.map(|tensor| (tensor.name.as_str(), tensor.dtype.as_str(), tensor.shape.as_slice())))
            .collect();
        let shapes = self.shapes();
        let wanted: BTreeSet<_> =
            shapes.iter().map(|(name, shape)| (name.as_str(), shape.dtype().name(), shape.dims())).collect();
        let is_same = there == wanted && manifest.base.is_some() != self.base.is_empty();
        let directory = checkpoint.path().to_owned();
        let written = Written { directory, files, tensors, base: manifest.base.clone() };
        Frozen { written: is_same.then_some(written), ..self }
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.tensors.names()
    }

    /// Puts the files of all tensors into `directory`, which will be called `name` once it is complete.
    pub(super) fn place(
        &mut self,
        directory: &Path,
        name: PathBuf,
        shard_bytes: u64,
    ) -> Result<Written, Error> {
        let linked = match &self.written {
            Some(written) if written.link_into(directory)? => Some(written.clone()),
            _ => None,
        };
        let mut written = linked.map_or_else(|| self.write(directory, shard_bytes), Ok)?;
        // Should it not be completed, the next one does not find the files there and writes them.
        written.directory = name;
        self.written = Some(written.clone());
        Ok(written)
    }

    fn write(&self, directory: &Path, shard_bytes: u64) -> Result<Written, Error> {
        let (own, base) = self.divide(directory);
        let (files, tensors) =
            write_shards(directory, STEM, own, shard_bytes, |name| self.tensors.read(name))?;
        Ok(Written { directory: directory.to_owned(), files, tensors, base })
    }

    /// Which tensors are to be written and which the base has. A base that cannot be read has none: the
    /// checkpoint is worth more than the room.
    fn divide(&self, directory: &Path) -> (Vec<(String, Shape)>, Option<BaseEntry>) {
        let mut own = self.shapes();
        if self.base.is_empty() {
            return (own, None);
        }
        let left = Files::open(directory, &self.base, 1).and_then(|files| {
            let mut left = Vec::new();
            for (name, shape) in &own {
                if let Some(array) = files.read(name, shape)?
                    && array == self.tensors.read(name)?
                {
                    left.push(BaseTensor::new(name, &array));
                }
            }
            Ok(BaseEntry { files: files.files(), tensors: left })
        });
        match left {
            Ok(base) => {
                let names: BTreeSet<&str> = base.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
                own.retain(|(name, _)| !names.contains(name.as_str()));
                (own, Some(base))
            }
            Err(error) => {
                tracing::warn!("checkpoints will hold the frozen parameters themselves: {error}");
                (own, None)
            }
        }
    }

    fn shapes(&self) -> Vec<(String, Shape)> {
        let shape = |name: &str| Some((name.to_owned(), self.tensors.find(name)?.clone()));
        self.tensors.names().into_iter().filter_map(shape).collect()
    }
}

impl Written {
    /// Gives the files a second name in `directory`, or copies them where the file system has no links.
    /// False where they are no longer there or not what they were.
    fn link_into(&self, directory: &Path) -> Result<bool, Error> {
        for file in &self.files {
            let (from, to) = (self.directory.join(&file.name), directory.join(&file.name));
            if fs::metadata(&from).map_or(true, |found| found.len() != file.bytes) {
                return Ok(false);
            }
            match fs::hard_link(&from, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => {
                    tracing::debug!("copying {}, which cannot be linked: {error}", from.display());
                    if verify(&from, file).is_err() {
                        return Ok(false);
                    }
                    copy(&from, &to)?;
                }
            }
        }
        Ok(true)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let mut file = PendingFile::create(to)?;
    file.write_all(Map::open(from)?.as_ref()).map_err(Error::io("write", to))?;
    file.commit()
}

#[cfg(test)]
mod tests;
