#![no_main]

use paligemma_fuzz::{targets::image_decode, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(image_decode::seeds), |data: &[u8]| {
    let _ = image_decode::run(data);
});
