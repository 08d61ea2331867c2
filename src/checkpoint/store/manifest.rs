use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::base::{Base, BaseEntry, BaseFile};
use super::{FORMAT, MANIFEST, VERSION};
use crate::array::{HostArray, Shape};
use crate::checkpoint::Error;
use crate::checkpoint::file::{Map, replace};
use crate::checkpoint::reader::{Reader, check_size};
use crate::checkpoint::safetensors::Safetensors;

/// What a training checkpoint says about itself, in `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub format: String,
    pub version: u32,
    pub step: u64,
    /// Whether it outlives the next checkpoint.
    pub keep: bool,
    /// The trainer's own: position in the data, clocks, whatever is not an array.
    pub state: Value,
    pub files: Vec<FileEntry>,
    pub tensors: Vec<TensorEntry>,
    /// Parameters that lie in other checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseEntry>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct FileEntry {
    pub name: String,
    pub bytes: u64,
    pub blake3: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct TensorEntry {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    pub file: String,
}

impl TensorEntry {
    pub fn new(name: &str, shape: &Shape, file: &str) -> Self {
        let dtype = shape.dtype().name().to_owned();
        TensorEntry { name: name.to_owned(), dtype, shape: shape.dims().to_vec(), file: file.to_owned() }
    }
}

impl Manifest {
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(MANIFEST);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(Error::NoManifest { path: directory.to_owned() });
            }
            result => result.map_err(Error::io("read", &path))?,
        };
        let bad = |source| Error::BadManifest { path: path.clone(), source };
        // Format and version first: the rest of a later version may look different.
        let head: Head = serde_json::from_slice(&text).map_err(bad)?;
        if head.format != FORMAT || head.version > VERSION {
            return Err(Error::ManifestVersion { path, format: head.format, version: head.version });
        }
        serde_json::from_slice(&text).map_err(bad)
    }

    pub fn write(&self, directory: &Path) -> Result<(), Error> {
        let mut text = serde_json::to_string_pretty(self).expect("a manifest has string keys only");
        text.push('\n');
        replace(&directory.join(MANIFEST), text.as_bytes())
    }
}

#[derive(Deserialize)]
struct Head {
    format: String,
    version: u32,
}

/// A complete training checkpoint, every byte of which has been compared with its digest.
///
/// Its tensors carry the names they were saved under (`params/…`, `opt/…`). Those that it leaves to a base
/// are read from there and compared with their digests on the way.
pub struct Checkpoint {
    directory: PathBuf,
    manifest: Manifest,
    tensors: Safetensors,
    base: Option<Base>,
}

impl Checkpoint {
    /// # Errors
    /// When the manifest is missing or of another format, or a file is missing, truncated or altered; the
    /// error names the file. When a base is missing, or no longer has the tensors that are left to it.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        Checkpoint::open_nested(directory, 0)
    }

    /// As the base of other checkpoints, `depth` of them.
    pub(crate) fn open_nested(directory: &Path, depth: usize) -> Result<Self, Error> {
        let manifest = Manifest::read(directory)?;
        let path_of = |name: &str| directory.join(Path::new(name).file_name().unwrap_or_default());
        for file in &manifest.files {
            verify(&path_of(&file.name), file)?;
        }
        let files = manifest.files.iter().map(|file| path_of(&file.name));
        let tensors = Safetensors::open_shards(directory, files)?;
        let same = |entry: &&TensorEntry, shape: &Shape| {
            entry.dtype == shape.dtype().name() && entry.shape == shape.dims()
        };
        let listed = |entry: &&TensorEntry| tensors.find(&entry.name).is_some_and(|shape| same(entry, shape));
        let odd = manifest.tensors.iter().find(|entry| !listed(entry)).map(|entry| entry.name.clone());
        let unlisted = || tensors.names().get(manifest.tensors.len()).map(|name| (*name).to_owned());
        if let Some(name) = odd.or_else(unlisted) {
            return Err(Error::ManifestTensor { path: directory.to_owned(), name });
        }
        let base = manifest.base.as_ref().map(|base| Base::open(directory, base, depth + 1)).transpose()?;
        let is_here = |name: &&str| tensors.find(name).is_some();
        if let Some(name) = base.iter().flat_map(Base::names).find(is_here) {
            return Err(Error::DuplicateTensor { path: directory.to_owned(), name: name.to_owned() });
        }
        Ok(Checkpoint { directory: directory.to_owned(), manifest, tensors, base })
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The checkpoints that parameters are left to.
    pub fn base(&self) -> &[BaseFile] {
        self.manifest.base.as_ref().map_or(&[], |base| &base.files)
    }

    /// The number of training steps done.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Whether it outlives the next checkpoint.
    pub fn keep(&self) -> bool {
        self.manifest.keep
    }

    /// The JSON that was saved with it.
    pub fn state(&self) -> &Value {
        &self.manifest.state
    }
}

pub(super) fn verify(path: &Path, expected: &FileEntry) -> Result<(), Error> {
    let map = Map::open(path)?;
    let bytes = map.as_ref();
    if bytes.len() as u64 != expected.bytes {
        let (expected, got) = (expected.bytes, bytes.len() as u64);
        return Err(Error::FileSize { path: path.to_owned(), expected, got });
    }
    let got = blake3::Hasher::new().update_rayon(bytes).finalize().to_hex().to_string();
    if got != expected.blake3 {
        return Err(Error::Digest { path: path.to_owned(), expected: expected.blake3.clone(), got });
    }
    Ok(())
}

impl Reader for Checkpoint {
    fn path(&self) -> &Path {
        &self.directory
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.names().into_iter().chain(self.base.iter().flat_map(Base::names)).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.tensors.find(name).or_else(|| self.base.as_ref()?.find(name))
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        match self.read_base(name)? {
            Some(array) => {
                check_size(name, array.shape(), out)?;
                out.copy_from_slice(array.bytes());
                Ok(())
            }
            None => self.tensors.read_into(name, out),
        }
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        self.shape(name)?;
        if self.tensors.find(name).is_some() { self.tensors.borrow(name) } else { Ok(None) }
    }

    fn release_range(&self, name: &str, range: Range<usize>) {
        self.tensors.release_range(name, range);
    }

    fn read(&self, name: &str) -> Result<HostArray, Error> {
        self.shape(name)?;
        match self.read_base(name)? {
            Some(array) => Ok(array),
            None => self.tensors.read(name),
        }
    }
}

impl Checkpoint {
    /// The value of a tensor that is left to a base.
    fn read_base(&self, name: &str) -> Result<Option<HostArray>, Error> {
        self.base.as_ref().map_or(Ok(None), |base| base.read(name))
    }
}
