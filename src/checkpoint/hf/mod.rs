//! Hugging Face's names, both ways: PaliGemma 1 and 2 as `transformers` keeps them, and LoRA adapters as `peft` does.
//!
//! One table (`names.rs`) says which tensors a parameter of big_vision's consists of and how their axes differ;
//! [`Import`] and [`Export`] read it in opposite directions, each a [`Reader`](super::Reader) over another. Their
//! round trips give the same bits. [`Writer`] and [`extra_files`] make directories that `from_pretrained` loads.
//!
//! ```no_run
//! use paligemma::checkpoint::{self, Reader, hf};
//!
//! let export = hf::Export::new(checkpoint::open("params.npz")?, &hf::ExportOptions::default())?;
//! let files = hf::extra_files(&export, &hf::FileOptions::default())?;
//! let tensors = export.names().into_iter().map(|name| Ok((name.to_owned(), export.shape(name)?.clone())));
//! let tensors = tensors.collect::<Result<Vec<_>, checkpoint::Error>>()?;
//! let mut writer = hf::Writer::create("exported".as_ref(), tensors, files, hf::SHARD_BYTES)?;
//! for (name, _) in writer.order().to_vec() {
//!     writer.write(&name, export.read(&name)?.bytes())?;
//!     export.release(&name);
//! }
//! writer.finish()?;
//! # Ok::<(), checkpoint::Error>(())
//! ```

mod adapter;
mod config;
mod error;
mod export;
mod import;
mod layout;
mod merge;
mod names;
mod own;
mod sizes;
mod tokenizer;
mod writer;

use std::path::Path;

pub use adapter::Adapter;
pub use config::{FileOptions, HfConfig, extra_files};
pub use error::Problem;
pub use export::{Export, ExportOptions};
pub use import::Import;
pub use merge::Merged;
pub(crate) use names::is_hf;
pub use own::{has_adapters, own_adapters, read_adapters, write_peft};
pub use writer::{SHARD_BYTES, Writer};

use super::Error;

/// For `map_err`: what is wrong with a file or directory.
fn in_file(path: &Path) -> impl FnOnce(Problem) -> Error + use<> {
    let path = path.to_owned();
    move |problem| Error::Hf { path, source: Box::new(problem) }
}
