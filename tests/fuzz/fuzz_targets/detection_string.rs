#![no_main]

use paligemma_fuzz::{targets::detection_string, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(detection_string::seeds), |data: &[u8]| {
    let _ = detection_string::run(data);
});
