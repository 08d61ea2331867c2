//! Fuzz targets: each feeds bytes to a parser of the library, which must take or refuse them and do nothing
//! else.

pub mod files;
mod scratch;
pub mod targets;

pub use scratch::Scratch;

use std::path::PathBuf;

/// One parser under test.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// Feeds one input; `None` where it was refused. What is wrong with the library panics.
    pub run: fn(&[u8]) -> Option<()>,
    /// Small valid inputs to start from.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

macro_rules! targets {
    ($($name:ident),* $(,)?) => {
        /// All targets; each is a module of this name in [`targets`].
        pub const TARGETS: &[Target] =
            &[$(Target { name: stringify!($name), run: targets::$name::run, seeds: targets::$name::seeds }),*];
    };
}

/// Writes seeds to the folder that `PALIGEMMA_FUZZ_SEEDS` names, which a fuzzer does before it reads its corpus.
pub fn write_seeds(seeds: fn() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os("PALIGEMMA_FUZZ_SEEDS").map(PathBuf::from) else { return };
    std::fs::create_dir_all(&folder).expect("a folder for seeds");
    for (i, seed) in seeds().into_iter().enumerate() {
        std::fs::write(folder.join(format!("seed-{i:03}")), seed).expect("room for seeds");
    }
}

targets! {
    npz,
    parquet,
    pp_parser,
    safetensors_index,
    tar,
    tfrecord,
    tokenizer_model,
    zarr,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_valid_and_every_target_has_some() {
        for target in TARGETS {
            let seeds = (target.seeds)();
            assert!(!seeds.is_empty(), "{} has no seeds", target.name);
            for (i, seed) in seeds.iter().enumerate() {
                assert!((target.run)(seed).is_some(), "seed {i} of {} is refused", target.name);
            }
        }
    }

    #[test]
    fn cut_seeds_do_no_harm() {
        for target in TARGETS {
            for seed in (target.seeds)() {
                for len in (0..seed.len()).step_by(seed.len() / 64 + 1) {
                    let _ = (target.run)(&seed[..len]);
                }
            }
        }
    }
}
