//! Files of named arrays: reading them whatever their format, writing them so that they are complete or
//! absent, and saying exactly what is wrong when they do not fit.
//!
//! | format | read | write |
//! | --- | --- | --- |
//! | big_vision `.npz` | [`npz::Npz`] | [`npz::Writer`] |
//! | big_vision's train states, `checkpoint.bv-…` | [`zarr::Arrays`] | [`zarr::Writer`] |
//! | safetensors, one file or sharded | [`safetensors::Safetensors`] | [`safetensors::Writer`] |
//! | this program's training checkpoints | [`store::Checkpoint`] | [`store::Store`], [`AsyncSaver`] |
//! | directories of Hugging Face's transformers | [`hf::Import`] | [`hf::Export`], [`hf::Writer`] |
//! | LoRA adapters, this program's and those of PEFT, over any of these | [`hf::Merged`] | [`hf::write_peft`] |
//!
//! [`open`] knows the format from the content and gives the parameters under the names of big_vision's scanned
//! models, with layers stacked; [`open_state`] gives all that a training saved. [`fit`] changes what big_vision
//! changes for another resolution or a larger vocabulary, [`load_params`] matches names and shapes with what a
//! model wants, and [`variant`] says which PaliGemma they are. Names of other projects occur in [`hf`] only. No
//! array is changed on the way otherwise, beyond rounding to the dtype that the model asks for.
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

mod adapt;
mod declared;
mod error;
mod few_bits;
mod file;
mod fit;
mod gemma;
pub mod hf;
mod layers;
pub mod npy;
pub mod npz;
mod open;
mod pieces;
mod posemb;
mod reader;
mod report;
pub mod safetensors;
mod saver;
mod stats;
pub mod store;
pub mod variant;
mod view;
pub mod zarr;

pub use adapt::{Cast, Overlay};
pub use error::Error;
pub use fit::{Fitted, fit};
pub use open::{State, locate, open, open_as_is, open_state, open_tower};
pub(crate) use posemb::resample as resample_posemb;
pub use reader::Reader;
pub use report::{Loaded, Mismatch, Report, Unmatched, compare, load_param, load_params};
pub use saver::AsyncSaver;
pub use stats::Stats;
pub use store::{BaseFile, Checkpoint, Frozen, Store};
pub(crate) use view::View;
