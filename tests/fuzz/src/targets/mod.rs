//! A module for each target, with its `run` and `seeds`.

pub mod detection_string;
pub mod image_decode;
pub mod npz;
pub mod parquet;
pub mod pp_parser;
pub mod safetensors_index;
pub mod tar;
pub mod tfrecord;
pub mod tokenizer_model;
pub mod zarr;

use std::path::{Path, PathBuf};
use std::sync::Once;

use paligemma::array::{DType, HostArray, Shape};
use paligemma::checkpoint::Reader;
use paligemma::data::Source;
use paligemma::panics::hide_caught;

/// A file of the project's tests.
pub(crate) fn test_data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data").join(name)
}

/// A chunk that is absent, or well packed, stands for far more than its bytes: allowed, and slow.
const MAX_BYTES: usize = 1 << 26;

/// Reads every tensor in every way, which must agree. `None` where any is refused.
pub(crate) fn read_all(reader: &dyn Reader) -> Option<()> {
    let mut all = Some(());
    for name in reader.names() {
        let shape = reader.shape(name).expect("a name that the reader gave");
        if shape.num_bytes() > MAX_BYTES {
            continue;
        }
        let Ok(array) = reader.read(name) else {
            assert!(reader.read(name).is_err(), "{name:?} is refused once only");
            all = None;
            continue;
        };
        assert_eq!(array.shape(), shape);
        if let Some(bytes) = reader.borrow(name).expect("it was read before") {
            assert!(bytes == array.bytes(), "{name:?} is borrowed with other bytes");
        }
        reader.release(name);
        assert!(reader.read(name).expect("it was read before") == array, "{name:?} changes");
    }
    all
}

/// Panics that the library catches and makes errors are none of ours, but libFuzzer's hook would end the program before.
pub(crate) fn let_caught_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(hide_caught);
}

/// Reads every row twice, which must agree. `None` where any is refused.
pub(crate) fn read_rows(source: &dyn Source) -> Option<()> {
    let blocks = source.blocks();
    assert!(blocks.is_empty() || blocks.iter().map(|block| block.len()).sum::<usize>() == source.len());
    let mut all = Some(());
    for index in 0..source.len() {
        match source.get(index) {
            Ok(row) => {
                // As text: a number that is none does not equal itself.
                let [row, again] =
                    [row, source.get(index).expect("it was read before")].map(|row| format!("{row:?}"));
                assert!(row == again, "row {index} changes");
            }
            Err(error) => {
                assert!(!error.to_string().is_empty());
                all = None;
            }
        }
    }
    assert!(source.get(source.len()).is_err());
    all
}

/// One array of every dtype, with dimensions of every number up to three.
pub(crate) fn arrays() -> Vec<(String, HostArray)> {
    let dims: [&[usize]; 4] = [&[], &[3], &[2, 0], &[1, 2, 2]];
    let array = |(i, dtype): (usize, DType)| {
        let shape = Shape::new(dtype, dims[i % dims.len()]);
        let bytes: Vec<u8> = (0..shape.num_bytes()).map(|byte| (byte % 2) as u8).collect();
        let array = HostArray::from_bytes(shape, &bytes).expect("as many bytes as the shape has");
        (format!("part{}/{}", i % 2, dtype.name()), array)
    };
    DType::ALL.into_iter().enumerate().map(array).collect()
}
