#![no_main]

use paligemma_fuzz::{targets::tar, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(tar::seeds), |data: &[u8]| {
    let _ = tar::run(data);
});
