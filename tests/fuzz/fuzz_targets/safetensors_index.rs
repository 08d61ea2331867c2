#![no_main]

use paligemma_fuzz::{targets::safetensors_index, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(safetensors_index::seeds), |data: &[u8]| {
    let _ = safetensors_index::run(data);
});
