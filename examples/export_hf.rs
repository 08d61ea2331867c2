//! Writes a recording of big_vision (a folder of `tests/data/model`: `config.json` and `params.npz`) as a directory
//! for transformers, with all that its config says:
//!
//! ```text
//! cargo run --example export_hf -- RECORDING TARGET [TOKENIZER|- [PARAMS]]
//! ```
//!
//! PARAMS is another checkpoint of a model like the recording's.

use std::path::PathBuf;

use paligemma::array::DType;
use paligemma::checkpoint::{self, Reader, hf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(recording), Some(target)) = (args.next(), args.next()) else {
        return Err("usage: export_hf RECORDING TARGET [TOKENIZER|- [PARAMS]]".into());
    };
    let tokenizer = args.next().filter(|path| path.as_os_str() != "-");
    let params = args.next().unwrap_or_else(|| recording.join("params.npz"));

    let config: serde_json::Value = serde_json::from_slice(&std::fs::read(recording.join("config.json"))?)?;
    let llm = &config["llm"];
    let norm = llm["query_pre_attn_norm"].as_str().ok_or("config.json lacks llm.query_pre_attn_norm")?;
    let options = hf::FileOptions {
        attn_logits_softcap: llm["attn_logits_softcap"].as_f64(),
        final_logits_softcap: llm["final_logits_softcap"].as_f64(),
        query_pre_attn_norm: Some(norm.parse()?),
        dtype: Some(DType::F32),
        tokenizer,
    };
    let export = hf::Export::new(checkpoint::open(params)?, &hf::ExportOptions::default())?;
    let files = hf::extra_files(&export, &options)?;
    let tensors = export.names().into_iter().map(|name| Ok((name.to_owned(), export.shape(name)?.clone())));
    let tensors = tensors.collect::<Result<Vec<_>, checkpoint::Error>>()?;
    let mut writer = hf::Writer::create(&target, tensors, files, hf::SHARD_BYTES)?;
    for (name, _) in writer.order().to_vec() {
        writer.write(&name, export.read(&name)?.bytes())?;
        export.release(&name);
    }
    writer.finish()?;
    Ok(())
}
