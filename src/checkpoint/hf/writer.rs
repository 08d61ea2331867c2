use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::config::pretty;
use crate::array::Shape;
use crate::checkpoint::Error;
use crate::checkpoint::declared::Declared;
use crate::checkpoint::file::{directory_beside, directory_of, rename, replace, sync_directory};
use crate::checkpoint::safetensors::{self, INDEX_NAME, sort_for_file};

/// Where transformers, too, begins another file.
pub const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes a directory as transformers' `save_pretrained` does: one `model.safetensors`, or shards with their index,
/// and files beside them. It is written aside and appears under its name by [`finish`](Writer::finish); a dropped
/// writer leaves nothing.
pub struct Writer {
    target: PathBuf,
    directory: TempDir,
    declared: Declared,
    /// The shards that are not begun.
    ahead: VecDeque<Shard>,
    current: Option<safetensors::Writer>,
    index: Option<Value>,
    files: Vec<(String, Vec<u8>)>,
}

struct Shard {
    file: String,
    tensors: Vec<(String, Shape)>,
}

impl Writer {
    /// Declares all tensors. They are distributed over files of at most `shard_bytes` in the order given, a tensor
    /// that is larger alone; `files` are names and contents of what lies beside them.
    ///
    /// # Errors
    /// When `target` exists, a tensor occurs twice, or no directory can be made beside it.
    pub fn create(
        target: &Path,
        tensors: impl IntoIterator<Item = (String, Shape)>,
        files: Vec<(String, Vec<u8>)>,
        shard_bytes: u64,
    ) -> Result<Self, Error> {
        let target = target.to_owned();
        refuse_existing(&target)?;
        let ahead = shards(tensors, shard_bytes);
        let order: Vec<_> = ahead.iter().flat_map(|shard| shard.tensors.iter().cloned()).collect();
        let index = index(&target, &ahead)?;
        let directory = directory_beside(&target)?;
        let declared = Declared::new(order);
        Ok(Writer { target, directory, declared, ahead, current: None, index, files })
    }

    /// Names and shapes in the order in which they are to be written: as declared, except that within a file wide
    /// elements come before narrow ones.
    pub fn order(&self) -> &[(String, Shape)] {
        self.declared.order()
    }

    /// # Errors
    /// When another tensor is due, its size is not the declared one, or the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.declared.take(&self.target, name, bytes)?;
        let mut writer = match self.current.take() {
            Some(writer) => writer,
            None => self.next_shard()?,
        };
        writer.write(name, bytes)?;
        if writer.is_complete() {
            writer.finish()?;
        } else {
            self.current = Some(writer);
        }
        Ok(())
    }

    /// Completes the directory and gives it its name.
    ///
    /// # Errors
    /// When a declared tensor is missing, the disk is full, or the target has come to exist; then nothing is left.
    pub fn finish(mut self) -> Result<(), Error> {
        self.declared.check_complete(&self.target)?;
        // A model without tensors is a file all the same.
        while !self.ahead.is_empty() {
            self.next_shard()?.finish()?;
        }
        if let Some(index) = &self.index {
            replace(&self.directory.path().join(INDEX_NAME), &pretty(index))?;
        }
        for (name, content) in &self.files {
            replace(&self.directory.path().join(name), content)?;
        }
        sync_directory(self.directory.path())?;
        refuse_existing(&self.target)?;
        rename(self.directory.path(), &self.target)?;
        // What is renamed is no longer there to be removed.
        let _ = self.directory.keep();
        sync_directory(directory_of(&self.target))
    }

    fn next_shard(&mut self) -> Result<safetensors::Writer, Error> {
        let Shard { file, tensors } =
            self.ahead.pop_front().expect("a tensor that is due lies in a shard that is not begun");
        // Without this word transformers does not load the file.
        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        safetensors::Writer::create(&self.directory.path().join(file), tensors, &metadata)
    }
}

fn refuse_existing(target: &Path) -> Result<(), Error> {
    match fs::symlink_metadata(target) {
        Ok(_) => Err(Error::Exists { path: target.to_owned() }),
        Err(_) => Ok(()),
    }
}

fn shards(tensors: impl IntoIterator<Item = (String, Shape)>, shard_bytes: u64) -> VecDeque<Shard> {
    let mut shards = vec![Vec::new()];
    let mut size = 0;
    for (name, shape) in tensors {
        let bytes = shape.num_bytes() as u64;
        if size > 0 && size + bytes > shard_bytes {
            shards.push(Vec::new());
            size = 0;
        }
        size += bytes;
        shards.last_mut().expect("the list starts with one shard").push((name, shape));
    }
    let count = shards.len();
    let name = |i: usize| match count {
        1 => "model.safetensors".to_owned(),
        _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
    };
    let shard = |(i, mut tensors): (usize, Vec<(String, Shape)>)| {
        sort_for_file(&mut tensors);
        Shard { file: name(i), tensors }
    };
    shards.into_iter().enumerate().map(shard).collect()
}

/// The list of shards, when there are several.
fn index(target: &Path, shards: &VecDeque<Shard>) -> Result<Option<Value>, Error> {
    let mut weight_map = serde_json::Map::new();
    let mut total_size = 0;
    for shard in shards {
        for (name, shape) in &shard.tensors {
            total_size += shape.num_bytes();
            if weight_map.insert(name.clone(), shard.file.clone().into()).is_some() {
                return Err(Error::DuplicateTensor { path: target.to_owned(), name: name.clone() });
            }
        }
    }
    let index = json!({ "metadata": { "total_size": total_size }, "weight_map": weight_map });
    Ok(Some(index).filter(|_| shards.len() > 1))
}
