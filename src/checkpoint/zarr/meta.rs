use std::io;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::Error;
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::npy;

/// The file that describes an array.
pub(super) const FILE: &str = ".zarray";

/// A description is a few hundred bytes long; what is longer is something else.
const MAX_META_BYTES: u64 = 1 << 16;
/// Chunks of one array. Each is a file, and arrays are cut into one for each device at most.
const MAX_CHUNKS: usize = 1 << 20;
/// A chunk that is larger than its array is allowed, but not any such chunk.
const MAX_PADDING_BYTES: usize = 1 << 28;

/// What an array's `.zarray` says.
#[derive(Debug, Clone)]
pub(super) struct Meta {
    pub shape: Shape,
    /// Extents of a chunk, one for each axis; chunks at the upper edges are as large as all others.
    pub chunks: Vec<usize>,
    pub compressor: Compressor,
    /// Whether the first axis runs fastest within a chunk.
    pub fortran_order: bool,
    pub big_endian: bool,
    pub separator: char,
    /// One element, for chunks that are not there; `None` when all must be.
    pub fill: Option<HostArray>,
}

/// How chunks are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compressor {
    None,
    Zstd,
    Gzip,
    Zlib,
}

#[derive(Deserialize)]
struct Written {
    zarr_format: u32,
    shape: Vec<usize>,
    chunks: Vec<usize>,
    dtype: Value,
    compressor: Option<WrittenCompressor>,
    fill_value: Value,
    order: String,
    filters: Option<Vec<Value>>,
    dimension_separator: Option<String>,
}

#[derive(Deserialize)]
struct WrittenCompressor {
    id: String,
}

impl Meta {
    /// Reads the description of the array in `directory`.
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let text = match path.metadata() {
            Ok(file) if file.len() > MAX_META_BYTES => return Err(Error::MetaTooLong(file.len())),
            Ok(_) => std::fs::read(&path),
            Err(error) => Err(error),
        };
        match text {
            Ok(text) => Meta::parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(Error::NoMeta),
            Err(error) => Err(Error::ReadMeta(error)),
        }
    }

    fn parse(text: &[u8]) -> Result<Self, Error> {
        let written: Written = serde_json::from_slice(text).map_err(Error::Meta)?;
        if written.zarr_format != 2 {
            return Err(Error::Version(written.zarr_format));
        }
        let (dtype, big_endian) = written
            .dtype
            .as_str()
            .and_then(
                |name| if name == "bfloat16" { Some((DType::BF16, false)) } else { npy::parse_descr(name) },
            )
            .ok_or_else(|| Error::DType(written.dtype.to_string()))?;
        let compressor = match written.compressor {
            None => Compressor::None,
            Some(WrittenCompressor { id }) => match id.as_str() {
                "zstd" => Compressor::Zstd,
                "gzip" => Compressor::Gzip,
                "zlib" => Compressor::Zlib,
                _ => return Err(Error::Compressor(id)),
            },
        };
        if let Some(filter) = written.filters.unwrap_or_default().first() {
            return Err(Error::Filter(filter["id"].as_str().unwrap_or("without a name").to_owned()));
        }
        let fortran_order = match written.order.as_str() {
            "C" => false,
            "F" => true,
            _ => return Err(Error::Order(written.order)),
        };
        let separator = match written.dimension_separator.as_deref() {
            None | Some(".") => '.',
            Some("/") => '/',
            Some(other) => return Err(Error::Separator(other.to_owned())),
        };
        let Written { shape: dims, chunks, .. } = written;
        if chunks.len() != dims.len() || chunks.contains(&0) {
            return Err(Error::Chunks { shape: dims, chunks });
        }
        let array_bytes = size_of(dtype, &dims).ok_or_else(|| Error::TooLarge(dims.clone()))?;
        let chunk_bytes =
            size_of(dtype, &chunks).filter(|&chunk| chunk <= array_bytes.max(MAX_PADDING_BYTES));
        let grid = dims.iter().zip(&chunks).map(|(dim, chunk)| dim.div_ceil(*chunk));
        let count = grid.fold(1usize, |count, extent| count.saturating_mul(extent));
        if chunk_bytes.is_none() || count > MAX_CHUNKS {
            return Err(Error::Chunks { shape: dims, chunks });
        }
        let fill = fill(dtype, &written.fill_value)?;
        let shape = Shape::new(dtype, dims);
        Ok(Meta { shape, chunks, compressor, fortran_order, big_endian, separator, fill })
    }

    /// The text that describes an array of one chunk.
    pub fn text(shape: &Shape) -> String {
        let dtype = match shape.dtype() {
            DType::BF16 => "bfloat16",
            other => npy::descr_of(other),
        };
        // An empty axis has no chunk, and yet chunks have an extent.
        let chunks: Vec<usize> = shape.dims().iter().map(|&dim| dim.max(1)).collect();
        serde_json::json!({
            "chunks": chunks,
            "compressor": {"id": "zstd", "level": 1},
            "dimension_separator": ".",
            "dtype": dtype,
            "fill_value": null,
            "filters": null,
            "order": "C",
            "shape": shape.dims(),
            "zarr_format": 2,
        })
        .to_string()
    }

    /// Bytes of an unpacked chunk.
    pub fn chunk_bytes(&self) -> usize {
        self.shape.with_dims(self.chunks.as_slice()).num_bytes()
    }

    /// Chunks along each axis.
    pub fn grid(&self) -> Vec<usize> {
        self.shape.dims().iter().zip(&self.chunks).map(|(dim, chunk)| dim.div_ceil(*chunk)).collect()
    }

    /// The file of a chunk, within the array's directory.
    pub fn key(&self, index: &[usize]) -> String {
        if index.is_empty() {
            return "0".to_owned();
        }
        let parts: Vec<String> = index.iter().map(usize::to_string).collect();
        parts.join(&self.separator.to_string())
    }
}

fn size_of(dtype: DType, dims: &[usize]) -> Option<usize> {
    let size = dims.iter().try_fold(dtype.num_bytes(), |size, &dim| size.checked_mul(dim));
    size.filter(|&size| size <= isize::MAX as usize)
}

/// The element that JSON says, as the zarr specification spells it.
fn fill(dtype: DType, value: &Value) -> Result<Option<HostArray>, Error> {
    let number = match value {
        Value::Null => return Ok(None),
        Value::Bool(flag) => Some(f64::from(u8::from(*flag))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        Value::Array(_) | Value::Object(_) => None,
    };
    match number {
        Some(number) if dtype.is_float() || number.fract() == 0.0 => {
            Ok(Some(HostArray::scalar(number).cast(dtype)))
        }
        _ => Err(Error::Fill(value.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edited(edit: impl FnOnce(&mut Value)) -> Result<Meta, Error> {
        let mut json: Value = serde_json::from_str(&Meta::text(&Shape::new(DType::F32, [5, 7]))).unwrap();
        edit(&mut json);
        Meta::parse(json.to_string().as_bytes())
    }

    #[test]
    fn what_is_written_is_understood() {
        for dtype in DType::ALL {
            for dims in [&[][..], &[3], &[0, 2], &[4, 5, 6]] {
                let shape = Shape::new(dtype, dims);
                let meta = Meta::parse(Meta::text(&shape).as_bytes()).unwrap();
                assert_eq!(meta.shape, shape);
                assert_eq!(
                    (meta.compressor, meta.fortran_order, meta.big_endian),
                    (Compressor::Zstd, false, false)
                );
                assert!(meta.fill.is_none() && meta.grid().iter().all(|&extent| extent <= 1));
            }
        }
    }

    #[test]
    fn other_writers_spell_it_otherwise() {
        let meta = edited(|json| {
            json["dtype"] = ">f8".into();
            json["order"] = "F".into();
            json["fill_value"] = "-Infinity".into();
            json["chunks"] = serde_json::json!([2, 3]);
            json["compressor"] = Value::Null;
            json["filters"] = serde_json::json!([]);
            json["dimension_separator"] = "/".into();
        });
        let meta = meta.unwrap();
        assert!(meta.big_endian && meta.fortran_order);
        assert_eq!(meta.fill.as_ref().unwrap().to_f64(), [f64::NEG_INFINITY]);
        assert_eq!((meta.grid(), meta.chunk_bytes()), (vec![3, 3], 48));
        assert_eq!((meta.key(&[1, 2]), meta.key(&[])), ("1/2".into(), "0".into()));
    }

    #[test]
    fn hostile_descriptions_are_refused_before_memory_is_touched() {
        let message =
            |key: &str, value: Value| edited(|json| json[key] = value).map(|_| ()).unwrap_err().to_string();
        let json = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert!(message("zarr_format", json("3")).contains("zarr version 3"));
        assert!(message("dtype", json("\"<c8\"")).contains("<c8"));
        assert!(message("dtype", json("[[\"a\", \"<f4\"]]")).contains("is not supported"));
        assert!(message("dtype", json("\"\"")).contains("is not supported"));
        assert!(message("compressor", json("{\"id\": \"blosc\"}")).contains("\"blosc\""));
        assert!(message("filters", json("[{\"id\": \"delta\"}]")).contains("\"delta\""));
        assert!(message("order", json("\"K\"")).contains("\"K\""));
        assert!(message("dimension_separator", json("\"..\"")).contains("\"..\""));
        assert!(message("fill_value", json("\"AAAA\"")).contains("AAAA"));
        assert!(message("shape", json("[5]")).contains("does not divide"));
        assert!(message("chunks", json("[0, 7]")).contains("does not divide"));
        assert!(message("chunks", json("[5, 1000000000000]")).contains("does not divide"));
        assert!(message("shape", json("[4294967296, 4294967296]")).contains("does not fit in memory"));
        assert!(message("shape", json("[5, -1]")).contains("malformed"));
        assert!(
            edited(|meta| {
                meta["shape"] = json("[1000000, 1000000]");
                meta["chunks"] = json("[1, 1]");
            })
            .is_err()
        );
        assert!(Meta::parse(b"{").is_err());
    }
}
