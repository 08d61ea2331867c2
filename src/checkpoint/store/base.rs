//! Parameters that a checkpoint leaves where its run took them from.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::manifest::TensorEntry;
use crate::array::{HostArray, Shape};
use crate::checkpoint::open::{open_nested, tower_of};
use crate::checkpoint::{Error, Reader};

/// Below which prefix a checkpoint keeps its parameters.
const PARAMS: &str = "params/";

/// Checkpoints that may lie one below the other.
const MAX_DEPTH: usize = 8;

/// A checkpoint that parameters are left to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseFile {
    /// What [`open`](crate::checkpoint::open) takes, absolute.
    pub path: PathBuf,
    /// The tower whose parameters it provides, as [`open_tower`](crate::checkpoint::open_tower) gives them; all
    /// of the model's without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tower: Option<String>,
}

/// What a manifest says of parameters that lie elsewhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BaseEntry {
    pub files: Vec<BaseFile>,
    pub tensors: Vec<BaseTensor>,
}

/// A parameter of the base, in the type that the run has it in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct BaseTensor {
    pub name: String,
    pub dtype: String,
    pub shape: Vec<usize>,
    /// Digest of its elements in this type.
    pub blake3: String,
}

impl BaseTensor {
    pub fn new(name: &str, array: &HostArray) -> Self {
        let TensorEntry { name, dtype, shape, .. } = TensorEntry::new(name, array.shape(), "");
        BaseTensor { name, dtype, shape, blake3: digest(array) }
    }
}

/// Checkpoints of which one may provide a parameter.
pub(super) struct Files(Vec<(BaseFile, Box<dyn Reader>)>);

impl Files {
    /// `depth` counts the checkpoints that lie above these, which are left to by `checkpoint`.
    pub fn open(checkpoint: &Path, files: &[BaseFile], depth: usize) -> Result<Self, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::BaseTooDeep { path: checkpoint.to_owned(), max: MAX_DEPTH });
        }
        let open_one = |file: &BaseFile| match (open_nested(&file.path, depth)?, &file.tower) {
            (reader, Some(tower)) => tower_of(reader, tower),
            (reader, None) => Ok(reader),
        };
        let open = |file: &BaseFile| match open_one(file) {
            Ok(reader) => Ok((file.clone(), reader)),
            Err(error @ Error::BaseTooDeep { .. }) => Err(error),
            Err(source) => Err(Error::BaseUnreadable {
                path: checkpoint.to_owned(),
                base: file.path.clone(),
                source: Box::new(source),
            }),
        };
        Ok(Files(files.iter().map(open).collect::<Result<_, _>>()?))
    }

    /// Which file has a parameter, and under which name.
    fn find<'a>(&self, name: &'a str) -> Option<(usize, &'a str)> {
        let name = name.strip_prefix(PARAMS)?;
        let found = |(i, (file, reader)): (usize, &(BaseFile, Box<dyn Reader>))| {
            let name = match &file.tower {
                Some(tower) => name.strip_prefix(tower)?.strip_prefix('/')?,
                None => name,
            };
            reader.find(name).map(|_| (i, name))
        };
        self.0.iter().enumerate().find_map(found)
    }

    /// The value of a parameter, rounded to the type of `shape`; `None` where no file has it in this shape.
    pub fn read(&self, name: &str, shape: &Shape) -> Result<Option<HostArray>, Error> {
        let Some((i, name)) = self.find(name) else { return Ok(None) };
        let reader = &self.0[i].1;
        let stored = reader.shape(name)?;
        let is_same = stored.dtype() == shape.dtype();
        if stored.dims() != shape.dims()
            || !(is_same || stored.dtype().is_float() && shape.dtype().is_float())
        {
            return Ok(None);
        }
        let array = reader.read(name)?;
        reader.release(name);
        Ok(Some(if is_same { array } else { array.cast(shape.dtype()) }))
    }

    pub fn files(&self) -> Vec<BaseFile> {
        self.0.iter().map(|(file, _)| file.clone()).collect()
    }
}

/// The parameters that a checkpoint leaves to others.
pub(super) struct Base {
    /// That checkpoint, for messages.
    checkpoint: PathBuf,
    files: Files,
    tensors: IndexMap<String, Place>,
}

struct Place {
    shape: Shape,
    file: usize,
    blake3: String,
    /// Whether its elements were compared with the digest, and are the same.
    is_checked: AtomicBool,
}

impl Base {
    /// Opens the files and looks for every tensor. Digests are compared when a tensor is read.
    pub fn open(checkpoint: &Path, entry: &BaseEntry, depth: usize) -> Result<Self, Error> {
        let files = Files::open(checkpoint, &entry.files, depth)?;
        let mut base = Base { checkpoint: checkpoint.to_owned(), files, tensors: IndexMap::new() };
        for tensor in &entry.tensors {
            let odd = || Error::ManifestTensor { path: checkpoint.to_owned(), name: tensor.name.clone() };
            let dtype = tensor.dtype.parse().map_err(|_| odd())?;
            let shape = Shape::new(dtype, tensor.shape.clone());
            let found = base.files.find(&tensor.name);
            let stored = found.and_then(|(file, name)| base.files.0[file].1.find(name));
            if stored.is_none_or(|stored| stored.dims() != shape.dims()) {
                return Err(base.changed(found.map_or(0, |(file, _)| file), &tensor.name));
            }
            let file = found.map_or(0, |(file, _)| file);
            let place =
                Place { shape, file, blake3: tensor.blake3.clone(), is_checked: AtomicBool::new(false) };
            if base.tensors.insert(tensor.name.clone(), place).is_some() {
                return Err(odd());
            }
        }
        Ok(base)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub fn find(&self, name: &str) -> Option<&Shape> {
        self.tensors.get(name).map(|place| &place.shape)
    }

    /// `None` where the base has no such parameter.
    pub fn read(&self, name: &str) -> Result<Option<HostArray>, Error> {
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        let array = self.files.read(name, &place.shape)?;
        let is_same =
            |array: &HostArray| place.is_checked.load(Ordering::Relaxed) || digest(array) == place.blake3;
        let array = array.filter(is_same).ok_or_else(|| self.changed(place.file, name))?;
        place.is_checked.store(true, Ordering::Relaxed);
        Ok(Some(array))
    }

    fn changed(&self, file: usize, name: &str) -> Error {
        let base = self.files.0.get(file).map(|(file, _)| file.path.clone()).unwrap_or_default();
        Error::BaseChanged { path: self.checkpoint.clone(), base, name: name.to_owned() }
    }
}

fn digest(array: &HostArray) -> String {
    blake3::Hasher::new().update_rayon(array.bytes()).finalize().to_hex().to_string()
}
