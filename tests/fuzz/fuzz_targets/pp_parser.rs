#![no_main]

use paligemma_fuzz::{targets::pp_parser, write_seeds};

libfuzzer_sys::fuzz_target!(init: write_seeds(pp_parser::seeds), |data: &[u8]| {
    let _ = pp_parser::run(data);
});
