//! Safetensors: a JSON header of names, dtypes and offsets, then the data; one file, or shards under a
//! `model.safetensors.index.json`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ::safetensors::SafeTensors;
use ::safetensors::tensor::{Dtype, TensorInfo};
use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::Error;
use super::declared::Declared;
use super::file::{Map, PendingFile};
use super::reader::{Reader, check_size, within};
use crate::array::{DType, HostArray, Shape};

/// The name that Hugging Face gives to the list of shards.
pub const INDEX_NAME: &str = "model.safetensors.index.json";

/// An open safetensors file, or all shards of one model.
pub struct Safetensors {
    path: PathBuf,
    shards: Vec<Map>,
    tensors: IndexMap<String, Place>,
    metadata: BTreeMap<String, String>,
}

struct Place {
    shape: Shape,
    shard: usize,
    /// Position in the shard's file.
    range: Range<usize>,
}

impl Safetensors {
    /// Opens one file.
    ///
    /// # Errors
    /// When the header is malformed, does not fit the file's size, names a tensor twice, or has a dtype
    /// that XLA's vocabulary lacks.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Safetensors::open_shards(path, [path.to_owned()])
    }

    /// Opens the shards that an index (`model.safetensors.index.json`) lists, which lie beside it.
    ///
    /// # Errors
    /// When the index is malformed or names a file elsewhere, or index and shards do not hold the same
    /// tensors.
    pub fn open_index(path: &Path) -> Result<Self, Error> {
        let bad = |problem: String| Error::BadIndex { path: path.to_owned(), problem };
        let text = std::fs::read(path).map_err(Error::io("read", path))?;
        let index: Index = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
        let files: BTreeSet<&String> = index.weight_map.values().collect();
        if let Some(file) = files.iter().find(|file| Path::new(file).file_name() != Some(file.as_ref())) {
            return Err(bad(format!("shard \"{file}\" is not a file name")));
        }
        let opened = Safetensors::open_shards(path, files.iter().map(|file| path.with_file_name(file)))?;
        let known: BTreeSet<&String> = opened.tensors.keys().collect();
        let listed: BTreeSet<&String> = index.weight_map.keys().collect();
        if known != listed {
            let missing: Vec<_> = listed.difference(&known).map(|name| name.as_str()).collect();
            let unlisted: Vec<_> = known.difference(&listed).map(|name| name.as_str()).collect();
            return Err(bad(format!(
                "tensors that no shard holds: [{}], tensors of shards that it does not list: [{}]",
                missing.join(", "),
                unlisted.join(", ")
            )));
        }
        Ok(opened)
    }

    /// Opens several files as one; `path` stands for them in messages.
    pub(crate) fn open_shards(path: &Path, files: impl IntoIterator<Item = PathBuf>) -> Result<Self, Error> {
        let mut all = Safetensors {
            path: path.to_owned(),
            shards: Vec::new(),
            tensors: IndexMap::new(),
            metadata: BTreeMap::new(),
        };
        for file in files {
            all.add(&file)?;
        }
        Ok(all)
    }

    /// What the headers' `__metadata__` says.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let map = Map::open(path)?;
        let bytes = map.as_ref();
        let invalid = |source| Error::Safetensors { path: path.to_owned(), source };
        let (header_len, header) = SafeTensors::read_metadata(bytes).map_err(invalid)?;
        let data_start = 8 + header_len;
        // The crate keeps the last of two tensors with one name; such a file is not to be trusted.
        if let Ok(Keys(keys)) = serde_json::from_slice::<Keys>(&bytes[8..data_start]) {
            let mut seen = BTreeSet::new();
            if let Some(name) = keys.into_iter().find(|key| !seen.insert(key.clone())) {
                return Err(Error::DuplicateTensor { path: path.to_owned(), name });
            }
        }
        for name in header.offset_keys() {
            let Some(info) = header.info(&name) else { continue };
            let dtype = dtype_of(info.dtype).ok_or_else(|| Error::UnsupportedDType {
                path: path.to_owned(),
                name: name.clone(),
                dtype: format!("{:?}", info.dtype),
            })?;
            let (start, end) = info.data_offsets;
            let place = Place {
                shape: Shape::new(dtype, info.shape.clone()),
                shard: self.shards.len(),
                range: data_start + start..data_start + end,
            };
            if self.tensors.insert(name.clone(), place).is_some() {
                return Err(Error::DuplicateTensor { path: self.path.clone(), name });
            }
        }
        self.metadata.extend(header.metadata().clone().into_iter().flatten());
        self.shards.push(map);
        Ok(())
    }

    fn bytes(&self, name: &str) -> Result<&[u8], Error> {
        self.shape(name)?;
        let place = &self.tensors[name];
        Ok(&self.shards[place.shard].as_ref()[place.range.clone()])
    }
}

impl Reader for Safetensors {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        self.tensors.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.tensors.get(name).map(|place| &place.shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let bytes = self.bytes(name)?;
        check_size(name, &self.tensors[name].shape, out)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        self.bytes(name).map(Some)
    }

    fn release_range(&self, name: &str, range: Range<usize>) {
        if let Some(place) = self.tensors.get(name) {
            self.shards[place.shard].release(within(&place.range, range));
        }
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The keys of a JSON object with repetitions.
struct Keys(Vec<String>);

impl<'de> Deserialize<'de> for Keys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Keys;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Keys, A::Error> {
                let mut keys = Vec::new();
                while let Some((key, IgnoredAny)) = map.next_entry()? {
                    keys.push(key);
                }
                Ok(Keys(keys))
            }
        }
        deserializer.deserialize_map(KeyVisitor)
    }
}

/// Writes one safetensors file tensor by tensor, in the order that [`order`](Writer::order) gives. It
/// appears under its name by [`finish`](Writer::finish).
///
/// The same tensors and metadata in the same order give the same bytes.
pub struct Writer {
    path: PathBuf,
    file: PendingFile,
    declared: Declared,
    bytes: u64,
    hasher: blake3::Hasher,
}

/// What was written: for manifests and reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Digest of the whole file, in hexadecimal.
    pub blake3: String,
}

impl Writer {
    /// Declares all tensors, since the header comes first. They lie in the file in the order given, except that
    /// wider elements come before narrower ones.
    ///
    /// # Errors
    /// When a name is reserved or occurs twice, or no file can be created beside `path`.
    pub fn create(
        path: &Path,
        tensors: impl IntoIterator<Item = (String, Shape)>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Self, Error> {
        let mut order: Vec<(String, Shape)> = tensors.into_iter().collect();
        sort_for_file(&mut order);
        let header = header(path, &order, metadata)?;
        let file = PendingFile::create(path)?;
        let hasher = blake3::Hasher::new();
        let declared = Declared::new(order);
        let mut writer = Writer { path: path.to_owned(), file, declared, bytes: 0, hasher };
        writer.emit(&(header.len() as u64).to_le_bytes())?;
        writer.emit(header.as_bytes())?;
        Ok(writer)
    }

    /// Names and shapes in the order in which they are to be written.
    pub fn order(&self) -> &[(String, Shape)] {
        self.declared.order()
    }

    /// # Errors
    /// When another tensor is due, its size is not the declared one, or the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        self.declared.take(&self.path, name, bytes)?;
        self.emit(bytes)
    }

    /// Whether all declared tensors are written.
    pub(crate) fn is_complete(&self) -> bool {
        self.declared.is_complete()
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// When a declared tensor is missing or the disk is full; then nothing has changed.
    pub fn finish(self) -> Result<Written, Error> {
        self.declared.check_complete(&self.path)?;
        self.file.commit()?;
        Ok(Written { bytes: self.bytes, blake3: self.hasher.finalize().to_hex().to_string() })
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update_rayon(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes).map_err(Error::io("write", &self.path))
    }
}

/// Writes all of `arrays` to one file.
///
/// # Errors
/// As [`Writer`].
pub fn write(
    path: &Path,
    arrays: &IndexMap<String, HostArray>,
    metadata: &BTreeMap<String, String>,
) -> Result<Written, Error> {
    let shapes = arrays.iter().map(|(name, array)| (name.clone(), array.shape().clone()));
    let mut writer = Writer::create(path, shapes, metadata)?;
    for (name, _) in writer.order().to_vec() {
        writer.write(&name, arrays[&name].bytes())?;
    }
    writer.finish()
}

/// Wide elements first, so that every tensor is aligned to its element in the file; else as given.
pub(crate) fn sort_for_file(tensors: &mut [(String, Shape)]) {
    tensors.sort_by_key(|(_, shape)| std::cmp::Reverse(shape.dtype().num_bytes()));
}

fn header(
    path: &Path,
    order: &[(String, Shape)],
    metadata: &BTreeMap<String, String>,
) -> Result<String, Error> {
    const PLAIN: &str = "strings and a tensor's dtype, shape and offsets are plain JSON";
    let mut fields = serde_json::Map::new();
    if !metadata.is_empty() {
        fields.insert("__metadata__".to_owned(), serde_json::to_value(metadata).expect(PLAIN));
    }
    let mut end = 0;
    for (name, shape) in order {
        if name == "__metadata__" {
            let problem = "safetensors reserves it";
            return Err(Error::BadName { name: name.clone(), problem });
        }
        let start = end;
        end += shape.num_bytes();
        let info = TensorInfo {
            dtype: dtype_to(shape.dtype()),
            shape: shape.dims().to_vec(),
            data_offsets: (start, end),
        };
        let info = serde_json::to_value(info).expect(PLAIN);
        if fields.insert(name.clone(), info).is_some() {
            return Err(Error::DuplicateTensor { path: path.to_owned(), name: name.clone() });
        }
    }
    let mut text = serde_json::Value::Object(fields).to_string();
    // The data begin at a multiple of eight bytes.
    text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
    Ok(text)
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    DType::ALL.into_iter().find(|&ours| dtype_to(ours) == dtype)
}

fn dtype_to(dtype: DType) -> Dtype {
    match dtype {
        DType::Pred => Dtype::BOOL,
        DType::S8 => Dtype::I8,
        DType::U8 => Dtype::U8,
        DType::U16 => Dtype::U16,
        DType::S32 => Dtype::I32,
        DType::U32 => Dtype::U32,
        DType::S64 => Dtype::I64,
        DType::U64 => Dtype::U64,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::F32 => Dtype::F32,
        DType::F64 => Dtype::F64,
    }
}
