//! Masks as 16 code words: the VQ-VAE behind PaliGemma's `<seg000>` to `<seg127>` tokens.
//!
//! [`Encoder`] turns a mask of 64x64 pixels, cut out of its box, into 16 codes (big_vision's
//! `pp/proj/paligemma/segmentation.py`); [`Decoder`] turns codes into a mask again, and [`Prediction`] puts
//! that back into the box which the location tokens name (`evaluators/proj/paligemma/transfers/segmentation.py`).
//! Both are small convolution nets, after <https://arxiv.org/abs/2301.02229>, computed in `f32` on the CPU.
//!
//! The weights are an npz with the names and layouts of a PyTorch state dict; big_vision's were trained on Open
//! Images and are called `oi` (see [`find`]). An encoder and a decoder read only the arrays that they need, and take
//! the width of a code, and the encoder's widths and kernels, from the file.

mod decoder;
mod encoder;
mod layers;
mod pillow;
mod prediction;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use prediction::Prediction;

use crate::array::{self, Shape};
use crate::checkpoint;

/// Height and width of the masks that are coded.
pub const SIDE: usize = 64;
/// Pixels of such a mask.
pub const NUM_PIXELS: usize = SIDE * SIDE;
/// Height and width of the grid of codes.
const GRID: usize = 4;
/// Codes per mask.
pub const NUM_CODES: usize = GRID * GRID;
/// Code words there are to choose from: one per `<seg…>` token.
pub const CODEBOOK_SIZE: usize = crate::tokenizer::NUM_SEG;

/// One mask: code words in the order of the grid's rows, each below [`CODEBOOK_SIZE`].
pub type Codes = [u8; NUM_CODES];

/// Why weights or codes are of no use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} is no mask VQ-VAE: \"{name}\" has the shape {got}, expected {expected}", .path.display())]
    Shape { path: PathBuf, name: String, got: Shape, expected: String },
    #[error("there is no \"{file}\" in {}; {}", list(.folders), advice(.file))]
    NotFound { file: String, folders: Vec<PathBuf> },
    #[error("{code} is no code word, there are {CODEBOOK_SIZE}")]
    Code { code: u8 },
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    #[error(transparent)]
    Array(#[from] array::Error),
}

/// The name under which configs and pp strings know big_vision's weights, and the file that they are in.
const OI: (&str, &str) = ("oi", "vae-oid.npz");
/// Where anybody can download them.
const OI_URL: &str = "https://storage.googleapis.com/big_vision/paligemma/vae-oid.npz";
/// Names the file of [`OI`] when it is in none of the usual folders.
const OI_VARIABLE: &str = "PALIGEMMA_VAE_OID";

/// The file of a model's weights. `oi` are big_vision's: the file that the environment variable
/// `PALIGEMMA_VAE_OID` names, or else `vae-oid.npz` in one of the `folders`. Any other `model` is a path, which may
/// be relative to one of these; of `gs://` paths, the last part is looked for.
///
/// # Errors
/// When there is no such file; the error says where to get big_vision's.
pub fn find<'a>(model: &str, folders: impl Iterator<Item = &'a Path>) -> Result<PathBuf, Error> {
    let file = match model {
        model if model == OI.0 => match std::env::var_os(OI_VARIABLE) {
            Some(path) => return Ok(path.into()),
            None => OI.1,
        },
        model if model.contains("://") => model.rsplit('/').next().unwrap_or(model),
        model => model,
    };
    let mut folders: Vec<PathBuf> = folders.map(Path::to_owned).collect();
    folders.dedup();
    let found = folders.iter().map(|folder| folder.join(file)).find(|place| place.is_file());
    found.ok_or_else(|| Error::NotFound { file: file.to_owned(), folders })
}

fn list(folders: &[PathBuf]) -> String {
    folders.iter().map(|folder| folder.display().to_string()).collect::<Vec<_>>().join(" or ")
}

fn advice(file: &str) -> String {
    if file == OI.1 {
        format!("download it from {OI_URL}, or name its place in the environment variable {OI_VARIABLE}")
    } else {
        format!("weights of big_vision are called \"{}\"", OI.0)
    }
}
