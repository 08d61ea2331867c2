#![no_main]

use paligemma_fuzz::{targets::npz, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(npz::seeds), |data: &[u8]| {
    let _ = npz::run(data);
});
