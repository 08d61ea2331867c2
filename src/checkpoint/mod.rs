//! Files of named arrays: reading them whatever their format, writing them so that they are complete or
//! absent, and saying exactly what is wrong when they do not fit.
//!
//! | format | read | write |
//! | --- | --- | --- |
//! | big_vision `.npz` | [`npz::Npz`] | [`npz::Writer`] |
//! | safetensors, one file or sharded | [`safetensors::Safetensors`] | [`safetensors::Writer`] |
//! | this program's training checkpoints | [`store::Checkpoint`] | [`store::Store`], [`AsyncSaver`] |
//! | directories of Hugging Face's transformers | [`hf::Import`] | [`hf::Export`], [`hf::Writer`] |
//! | LoRA adapters of Hugging Face's PEFT, over any of these | [`hf::Merged`] | |
//!
//! [`open`] knows the format from the content and gives the parameters under big_vision's names;
//! [`load_params`] matches them with what a model wants, and [`variant`] says which PaliGemma they are. Names of other
//! projects occur in [`hf`] only, and no array is changed on the way beyond rounding to the dtype that the model asks
//! for.
//!
//! ```no_run
//! use paligemma::checkpoint;
//!
//! let encoder = checkpoint::open("/data/siglip.npz:img")?;
//! for name in encoder.names() {
//!     println!("{name} {}", encoder.shape(name)?);
//! }
//! # Ok::<(), checkpoint::Error>(())
//! ```

mod error;
mod file;
pub mod hf;
pub mod npy;
pub mod npz;
mod open;
mod reader;
mod report;
pub mod safetensors;
mod saver;
pub mod store;
pub mod variant;

pub use error::Error;
pub use open::open;
pub use reader::Reader;
pub use report::{Loaded, Mismatch, Report, Unmatched, compare, load_param, load_params};
pub use saver::AsyncSaver;
pub use store::{Checkpoint, Store};
