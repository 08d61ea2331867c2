//! Parquet files as Hugging Face's `datasets` writes them.

use std::fs;

use paligemma::data::{Parquet, ParquetOptions};

use super::{let_caught_panic, read_rows, test_data};
use crate::Scratch;

pub fn run(data: &[u8]) -> Option<()> {
    let_caught_panic();
    let scratch = Scratch::new();
    let options = ParquetOptions { label_names: true, ..Default::default() };
    read_rows(&Parquet::open(&[scratch.file("a.parquet", data)], &options).ok()?)
}

pub fn seeds() -> Vec<Vec<u8>> {
    let files = ["captions/data/train-00001-of-00002", "detection/data/train-00000-of-00001"];
    let read = |name: &str| fs::read(test_data(&format!("data/hf_parquet_{name}.parquet")));
    files.map(|name| read(name).expect("a file of the tests")).into()
}
