//! Parquet files as Hugging Face's `datasets` writes them.

use std::fs;
use std::panic;
use std::sync::Once;

use paligemma::data::{Parquet, ParquetOptions};

use super::{read_rows, test_data};
use crate::Scratch;

pub fn run(data: &[u8]) -> Option<()> {
    static HOOK: Once = Once::new();
    HOOK.call_once(let_decoders_panic);
    let scratch = Scratch::new();
    let options = ParquetOptions { label_names: true, ..Default::default() };
    read_rows(&Parquet::open(&[scratch.file("a.parquet", data)], &options).ok()?)
}

/// Panics of the decoder are caught and become errors, but libFuzzer's hook would end the program before.
fn let_decoders_panic() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let file = info.location().map_or("", |location| location.file());
        if file.contains("/src/data/") || file.contains("fuzz") {
            before(info);
        }
    }));
}

pub fn seeds() -> Vec<Vec<u8>> {
    let files = ["captions/data/train-00001-of-00002", "detection/data/train-00000-of-00001"];
    let read = |name: &str| fs::read(test_data(&format!("data/hf_parquet_{name}.parquet")));
    files.map(|name| read(name).expect("a file of the tests")).into()
}
