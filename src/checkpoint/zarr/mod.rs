//! big_vision's train states: `checkpoint.bv-000001234/`, a folder for each array.
//!
//! ```text
//! checkpoint.bv-LAST                          "000001234"
//! checkpoint.bv-000001234/
//!   params~llm~final_norm~scale/              "/" in names is "~"
//!     .zarray                                 shape, chunks, dtype, compressor: JSON
//!     0                                       a chunk; of more axes, 0.0, 0.1, …
//!   opt~1~0~0/ …
//! ```
//!
//! Each folder is a zarr array of version 2 (<https://zarr-specs.readthedocs.io/en/latest/v2/v2.0.html>), which JAX
//! writes by TensorStore: in one chunk, or in one for each device that held a part. Chunks at the upper edges are
//! as large as the others. [`Arrays`] reads what TensorStore and zarr's own library write, packed by zstd, gzip or
//! zlib; [`Writer`] writes what TensorStore reads.

mod meta;
#[cfg(test)]
mod tests;
mod write;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

pub use write::Writer;

use meta::{Compressor, Meta};

use super::npy::fortran_to_row_major;
use super::reader::{Reader, check_size};
use crate::array::Shape;

/// No compressor here makes a chunk that much smaller; what claims it only wants memory to be reserved.
const MAX_RATIO: u64 = 1 << 16;
/// Bytes of an array that no chunk holds, beyond as many as the chunks hold.
const MAX_ABSENT_BYTES: u64 = 4 << 30;

/// Why a folder is not an array of ours.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it has no .zarray (an interrupted copy?)")]
    NoMeta,
    #[error("its .zarray cannot be read")]
    ReadMeta(#[source] io::Error),
    #[error("its .zarray is {0} bytes long, which no description is")]
    MetaTooLong(u64),
    #[error("its .zarray is malformed")]
    Meta(#[source] serde_json::Error),
    #[error("it is of zarr version {0}, known is 2")]
    Version(u32),
    #[error(
        "its dtype {0} is not supported; supported are f2, f4, f8, i1, i4, i8, u1, u2, u4, u8, b1 and bfloat16"
    )]
    DType(String),
    #[error("it is packed by \"{0}\", supported are zstd, gzip, zlib and none")]
    Compressor(String),
    #[error("it went through the filter \"{0}\", none is supported")]
    Filter(String),
    #[error("its order is \"{0}\", known are C and F")]
    Order(String),
    #[error("its dimension_separator is \"{0}\", known are \".\" and \"/\"")]
    Separator(String),
    #[error("its fill_value {0} is no element of its dtype")]
    Fill(String),
    #[error("a chunk of {chunks:?} does not divide an array of {shape:?} in a sensible way")]
    Chunks { shape: Vec<usize>, chunks: Vec<usize> },
    #[error("its shape {0:?} does not fit in memory")]
    TooLarge(Vec<usize>),
    #[error("its name is not a path of parameters")]
    Name,
    #[error("chunk {0} is missing (an interrupted copy?)")]
    MissingChunk(String),
    #[error("chunk {chunk} holds {got} bytes, expected {expected}")]
    ChunkSize { chunk: String, expected: usize, got: String },
    #[error("chunk {chunk} cannot be read or unpacked")]
    Unpack {
        chunk: String,
        #[source]
        source: io::Error,
    },
    #[error("it claims {claimed} bytes of data in {packed} bytes of files, more than any packing can do")]
    Bomb { packed: u64, claimed: u64 },
}

/// The arrays of a folder.
pub struct Arrays {
    path: PathBuf,
    arrays: IndexMap<String, Array>,
}

struct Array {
    directory: PathBuf,
    meta: Meta,
}

/// Whether a directory holds arrays.
pub(crate) fn is_here(directory: &Path) -> bool {
    let Ok(entries) = fs::read_dir(directory) else { return false };
    entries.flatten().any(|entry| entry.path().join(meta::FILE).is_file())
}

impl Arrays {
    /// Reads the descriptions of all arrays, and sees that their chunks are there.
    ///
    /// # Errors
    /// When a folder in it is no array that this program can hold, or lacks a chunk; the error names both.
    pub fn open(path: &Path) -> Result<Self, super::Error> {
        let list = || fs::read_dir(path)?.collect::<io::Result<Vec<_>>>();
        let mut arrays = Vec::new();
        for entry in list().map_err(super::Error::io("list", path))? {
            let directory = entry.path();
            // Files beside the arrays are notes that people or tools left.
            if !directory.is_dir() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().replace('~', "/");
            let array = Array::open(directory, &name);
            let array = array.map_err(|source| zarr_error(path, &name, source))?;
            arrays.push((name, array));
        }
        arrays.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
        Ok(Arrays { path: path.to_owned(), arrays: arrays.into_iter().collect() })
    }
}

fn zarr_error(path: &Path, name: &str, source: Error) -> super::Error {
    super::Error::Zarr { path: path.to_owned(), name: name.to_owned(), source }
}

impl Array {
    fn open(directory: PathBuf, name: &str) -> Result<Self, Error> {
        if name.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::Name);
        }
        let array = Array { meta: Meta::read(&directory)?, directory };
        array.check_chunks()?;
        Ok(array)
    }

    /// That every chunk is there which must be, and can hold what it should.
    fn check_chunks(&self) -> Result<(), Error> {
        let size = self.meta.chunk_bytes();
        let (mut packed, mut present, mut absent) = (0, 0u64, 0u64);
        for index in indices(&self.meta.grid()) {
            let chunk = self.meta.key(&index);
            match self.directory.join(&chunk).metadata() {
                Ok(file) => {
                    if self.meta.compressor == Compressor::None && file.len() != size as u64 {
                        return Err(Error::ChunkSize { chunk, expected: size, got: file.len().to_string() });
                    }
                    packed += file.len();
                    present = present.saturating_add(size as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.meta.fill.is_none() {
                        return Err(Error::MissingChunk(chunk));
                    }
                    absent = absent.saturating_add(size as u64);
                }
                Err(source) => return Err(Error::Unpack { chunk, source }),
            }
        }
        let claims_too_much = present / MAX_RATIO > packed || absent > present.max(MAX_ABSENT_BYTES);
        if claims_too_much {
            return Err(Error::Bomb { packed, claimed: present.saturating_add(absent) });
        }
        Ok(())
    }

    /// All elements, row-major and little-endian. `out` has the array's size.
    fn read_into(&self, out: &mut [u8]) -> Result<(), Error> {
        let Meta { shape, chunks, .. } = &self.meta;
        let width = shape.dtype().num_bytes();
        let is_direct = *chunks == shape.dims() && !self.meta.fortran_order;
        let mut packed = if is_direct { vec![] } else { vec![0; self.meta.chunk_bytes()] };
        let mut turned = if self.meta.fortran_order { packed.clone() } else { vec![] };
        for index in indices(&self.meta.grid()) {
            if is_direct {
                if !self.read_chunk(&index, out)? {
                    self.fill(out);
                }
                continue;
            }
            if !self.read_chunk(&index, &mut packed)? {
                self.fill(&mut packed);
            }
            let chunk = match self.meta.fortran_order {
                true => {
                    fortran_to_row_major(&shape.with_dims(chunks.as_slice()), &packed, &mut turned);
                    &turned
                }
                false => &packed,
            };
            scatter(chunk, chunks, &index, shape.dims(), width, out);
        }
        if self.meta.big_endian {
            out.chunks_exact_mut(width).for_each(<[u8]>::reverse);
        }
        Ok(())
    }

    /// Unpacks a chunk; false when it is not there.
    fn read_chunk(&self, index: &[usize], out: &mut [u8]) -> Result<bool, Error> {
        let chunk = self.meta.key(index);
        let file = match File::open(self.directory.join(&chunk)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.meta.fill.is_some() => {
                return Ok(false);
            }
            Err(source) => return Err(Error::Unpack { chunk, source }),
        };
        let unpacked = match self.meta.compressor {
            Compressor::None => unpack(file, out),
            Compressor::Zstd => zstd::Decoder::new(file).and_then(|unpacker| unpack(unpacker, out)),
            Compressor::Gzip => unpack(flate2::read::MultiGzDecoder::new(file), out),
            Compressor::Zlib => unpack(flate2::read::ZlibDecoder::new(file), out),
        };
        match unpacked {
            Ok(Unpacked::Exactly) => Ok(true),
            Ok(Unpacked::Less(got)) => {
                Err(Error::ChunkSize { chunk, expected: out.len(), got: got.to_string() })
            }
            Ok(Unpacked::More) => {
                Err(Error::ChunkSize { chunk, expected: out.len(), got: format!("more than {}", out.len()) })
            }
            Err(source) => Err(Error::Unpack { chunk, source }),
        }
    }

    /// Fills a chunk that is not there, in the byte order of the others.
    fn fill(&self, out: &mut [u8]) {
        let Some(fill) = &self.meta.fill else { return };
        let mut element = fill.bytes().to_vec();
        if self.meta.big_endian {
            element.reverse();
        }
        out.chunks_exact_mut(element.len()).for_each(|to| to.copy_from_slice(&element));
    }
}

enum Unpacked {
    Exactly,
    Less(usize),
    More,
}

/// Reads to the end of a stream, but no further than `out` and one byte.
fn unpack(mut stream: impl Read, out: &mut [u8]) -> io::Result<Unpacked> {
    let mut got = 0;
    while got < out.len() {
        match stream.read(&mut out[got..]) {
            Ok(0) => return Ok(Unpacked::Less(got)),
            Ok(len) => got += len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    loop {
        return match stream.read(&mut [0]) {
            Ok(0) => Ok(Unpacked::Exactly),
            Ok(_) => Ok(Unpacked::More),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// All index tuples below `extents`, the last axis fastest; one empty tuple for no axes.
fn indices(extents: &[usize]) -> impl Iterator<Item = Vec<usize>> {
    let extents = extents.to_vec();
    let first = (!extents.contains(&0)).then(|| vec![0; extents.len()]);
    std::iter::successors(first, move |index| {
        let mut next = index.clone();
        for axis in (0..next.len()).rev() {
            next[axis] += 1;
            if next[axis] < extents[axis] {
                return Some(next);
            }
            next[axis] = 0;
        }
        None
    })
}

/// Copies the part of a row-major chunk that lies within the array to its place.
fn scatter(chunk: &[u8], extents: &[usize], index: &[usize], dims: &[usize], width: usize, out: &mut [u8]) {
    let Some(last) = dims.len().checked_sub(1) else { return out.copy_from_slice(chunk) };
    let starts: Vec<usize> = index.iter().zip(extents).map(|(i, extent)| i * extent).collect();
    let inside: Vec<usize> =
        (0..dims.len()).map(|axis| extents[axis].min(dims[axis] - starts[axis])).collect();
    let row = inside[last] * width;
    for position in indices(&inside[..last]) {
        let (mut from, mut to) = (0, 0);
        for (axis, i) in position.iter().enumerate() {
            from = from * extents[axis] + i;
            to = to * dims[axis] + starts[axis] + i;
        }
        let from = from * extents[last] * width;
        let to = (to * dims[last] + starts[last]) * width;
        out[to..to + row].copy_from_slice(&chunk[from..from + row]);
    }
}

impl Reader for Arrays {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        self.arrays.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.arrays.get(name).map(|array| &array.meta.shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), super::Error> {
        check_size(name, self.shape(name)?, out)?;
        self.arrays[name].read_into(out).map_err(|source| zarr_error(&self.path, name, source))
    }
}
