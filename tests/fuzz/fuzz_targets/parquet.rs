#![no_main]

use paligemma_fuzz::{targets::parquet, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(parquet::seeds), |data: &[u8]| {
    let _ = parquet::run(data);
});
