#![no_main]

use paligemma_fuzz::{targets::tokenizer_model, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(tokenizer_model::seeds), |data: &[u8]| {
    let _ = tokenizer_model::run(data);
});
