use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::file::directory_of;
use super::hf;
use super::npz::Npz;
use super::safetensors::{INDEX_NAME, Safetensors};
use super::store::{Checkpoint, LAST, MANIFEST, last_of};
use super::{Error, Reader};
use crate::array::Shape;

/// Opens the parameters of a checkpoint of any format, known from its content.
///
/// `path` may be a file, a directory that holds one (`model.safetensors` or its index), a training
/// checkpoint or the workdir of a run (its last checkpoint). As in big_vision, a colon and a name at the
/// end select a part: `siglip.npz:img` gives the names below `img/`, without that prefix.
///
/// A PaliGemma as Hugging Face's transformers saves it is known by its tensors' names and given under
/// big_vision's; a directory with a LoRA adapter of theirs gives its base model, with the adapter merged.
///
/// A file that holds more than parameters is reduced to them: those below `params/`, or below
/// `opt/target/` as old Flax checkpoints have them, without the prefix.
///
/// # Errors
/// When the file cannot be read, is of no known format, is damaged, or lacks the part.
pub fn open(path: impl AsRef<Path>) -> Result<Box<dyn Reader>, Error> {
    let (path, part) = split_part(path.as_ref());
    let reader = open_whole(&path)?;
    let names = reader.names();
    let root = ["params/", "opt/target/"].into_iter().find(|root| names.iter().any(|n| n.starts_with(root)));
    let root = root.unwrap_or_default();
    let prefix = part.as_ref().map_or_else(|| root.to_owned(), |part| format!("{root}{part}/"));
    if prefix.is_empty() {
        return Ok(reader);
    }
    let below = |full: &&str| full.strip_prefix(&prefix).map(|name| (name.to_owned(), (*full).to_owned()));
    let selected: IndexMap<String, String> = names.iter().filter_map(below).collect();
    if let (Some(part), true) = (part, selected.is_empty()) {
        let parts = names.iter().filter_map(|name| name.strip_prefix(root)?.split_once('/'));
        let mut known: Vec<String> = parts.map(|(part, _)| part.to_owned()).collect();
        known.sort();
        known.dedup();
        return Err(Error::UnknownPart { path, part, known });
    }
    Ok(Box::new(Part { reader, names: selected }))
}

/// `FILE:part` to its two sides; a colon that belongs to an existing file's name stays there.
fn split_part(path: &Path) -> (PathBuf, Option<String>) {
    let split = path.to_str().and_then(|text| text.rsplit_once(':'));
    match split {
        Some((file, part)) if !path.exists() && is_part(part) => (file.into(), Some(part.to_owned())),
        _ => (path.to_owned(), None),
    }
}

fn is_part(part: &str) -> bool {
    part.split('/').all(|word| !word.is_empty() && word.chars().all(|c| c.is_alphanumeric() || c == '_'))
}

fn open_whole(path: &Path) -> Result<Box<dyn Reader>, Error> {
    if path.is_dir() {
        return open_directory(path);
    }
    let mut start = Vec::new();
    let file = File::open(path).map_err(Error::io("open", path))?;
    file.take(16).read_to_end(&mut start).map_err(Error::io("read", path))?;
    let unknown = |found| Err(Error::NotACheckpoint { path: path.to_owned(), found });
    match start.as_slice() {
        [] => unknown("it is empty"),
        [b'P', b'K', 3 | 5, 4 | 6, ..] => Ok(Box::new(Npz::open(path)?)),
        // Eight bytes of length, then JSON.
        [_, _, _, _, _, 0, 0, 0, b'{', ..] => known_names(Safetensors::open(path)?),
        [b'{', ..] => known_names(Safetensors::open_index(path)?),
        [0x93, b'N', b'U', b'M', b'P', b'Y', ..] => unknown("it is a single numpy array (.npy)"),
        [0x80, 2..=5, ..] => unknown("it is a Python pickle"),
        _ => unknown("its first bytes are of no known format"),
    }
}

fn open_directory(path: &Path) -> Result<Box<dyn Reader>, Error> {
    if path.join(MANIFEST).is_file() {
        return Ok(Box::new(Checkpoint::open(path)?));
    }
    if path.join(LAST).is_file() {
        return Ok(Box::new(Checkpoint::open(&last_of(path)?)?));
    }
    let index = path.join(INDEX_NAME);
    if index.is_file() {
        return known_names(Safetensors::open_index(&index)?);
    }
    let single = path.join("model.safetensors");
    if single.is_file() {
        return known_names(Safetensors::open(&single)?);
    }
    if hf::Adapter::is_in(path) {
        let adapter = hf::Adapter::open(path)?;
        let base = open(adapter.base()?)?;
        return Ok(Box::new(hf::Merged::new(base, adapter)?));
    }
    Err(Error::NotACheckpoint { path: path.to_owned(), found: "the directory holds none" })
}

/// Translates Hugging Face's names, with the help of the `config.json` beside the file.
fn known_names(reader: Safetensors) -> Result<Box<dyn Reader>, Error> {
    if !hf::is_hf(reader.names()) {
        return Ok(Box::new(reader));
    }
    let config = hf::HfConfig::beside(directory_of(reader.path()))?;
    Ok(Box::new(hf::Import::new(Box::new(reader), &config)?))
}

/// The tensors of another reader below a prefix, without it.
struct Part {
    reader: Box<dyn Reader>,
    /// Short name to full name.
    names: IndexMap<String, String>,
}

impl Part {
    fn full(&self, name: &str) -> Result<&str, Error> {
        self.shape(name)?;
        Ok(&self.names[name])
    }
}

impl Reader for Part {
    fn path(&self) -> &Path {
        self.reader.path()
    }

    fn names(&self) -> Vec<&str> {
        self.names.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.names.get(name).and_then(|full| self.reader.find(full))
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        self.reader.read_into(self.full(name)?, out)
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        self.reader.borrow(self.full(name)?)
    }

    fn release(&self, name: &str) {
        if let Some(full) = self.names.get(name) {
            self.reader.release(full);
        }
    }
}
