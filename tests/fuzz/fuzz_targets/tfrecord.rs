#![no_main]

use paligemma_fuzz::{targets::tfrecord, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(tfrecord::seeds), |data: &[u8]| {
    let _ = tfrecord::run(data);
});
