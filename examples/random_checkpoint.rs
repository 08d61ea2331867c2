//! Writes a checkpoint of random parameters of a published size: to try conversions, loading and memory without
//! the real weights.
//!
//! ```text
//! cargo run --release --example random_checkpoint -- gemma2_2b 224 bf16 paligemma2-3b-random.npz
//! ```

use std::path::Path;
use std::process::ExitCode;

use paligemma::array::DType;
use paligemma::checkpoint::npz::Writer;
use paligemma::model::{GemmaConfig, PaliGemmaConfig, PoolType, SiglipConfig};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Rows of PaliGemma's embedding.
const VOCAB_SIZE: usize = 257_152;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [llm, side, dtype, path] = args.as_slice() else {
        eprintln!("usage: random_checkpoint VARIANT IMAGE_SIZE DTYPE OUT.npz");
        return ExitCode::from(2);
    };
    match write(llm, side, dtype, Path::new(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(llm: &str, side: &str, dtype: &str, path: &Path) -> Result<()> {
    let (side, dtype) = (side.parse()?, dtype.parse::<DType>()?);
    let img = SiglipConfig {
        pool_type: PoolType::None,
        // A head of zeros would hide mistakes.
        head_zeroinit: false,
        ..SiglipConfig::variant("So400m/14")?
    };
    let llm = GemmaConfig { vocab_size: VOCAB_SIZE, ..GemmaConfig::variant(llm)? };
    let specs = PaliGemmaConfig { img, llm, image_size: [side, side], lora: None }.params()?;
    let mut writer = Writer::create(path)?;
    for (number, spec) in specs.iter().enumerate() {
        writer.write(&format!("params/{}", spec.name), &spec.init(number as u64)?.cast(dtype))?;
    }
    writer.finish()?;
    Ok(())
}
