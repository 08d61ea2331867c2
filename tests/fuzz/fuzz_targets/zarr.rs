#![no_main]

use paligemma_fuzz::{targets::zarr, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(zarr::seeds), |data: &[u8]| {
    let _ = zarr::run(data);
});
