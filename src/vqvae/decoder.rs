use std::path::Path;

use rayon::prelude::*;

use super::encoder::Codebook;
use super::layers::{Conv, Grid, Residual, Upsample, Weights};
use super::{Codes, Error, GRID};
use crate::checkpoint::Reader;
use crate::checkpoint::npz::Npz;

/// Channels after the first layer; every doubling of the image but the first halves them.
const CHANNELS: usize = 128;

/// From codes to masks.
#[derive(Debug)]
pub struct Decoder {
    codebook: Codebook,
    first: Conv,
    residual: [Residual; 2],
    upsample: [Upsample; 4],
    last: Conv,
}

impl Decoder {
    /// # Errors
    /// When the file is no npz or lacks an array of the decoder, or one has another shape than the published net.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Decoder::read(&Npz::open(path)?)
    }

    fn read(reader: &dyn Reader) -> Result<Self, Error> {
        let weights = Weights(reader);
        let codebook = Codebook::read(&weights)?;
        let pointwise = |layer: &str, inputs: usize, outputs: usize| {
            Conv::read(&weights, layer, inputs, 1, [Some(outputs), Some(1), Some(1)])
        };
        let residual = |layer: &str| Residual::read(&weights, layer, CHANNELS, [Some(3), Some(3), Some(1)]);
        let upsample =
            |layer: &str, inputs: usize, outputs: usize| Upsample::read(&weights, layer, inputs, outputs);
        Ok(Decoder {
            first: pointwise("decoder.0", codebook.width, CHANNELS)?,
            residual: [residual("decoder.2.net")?, residual("decoder.3.net")?],
            upsample: [
                upsample("decoder.4", CHANNELS, CHANNELS)?,
                upsample("decoder.6", CHANNELS, CHANNELS / 2)?,
                upsample("decoder.8", CHANNELS / 2, CHANNELS / 4)?,
                upsample("decoder.10", CHANNELS / 4, CHANNELS / 8)?,
            ],
            last: pointwise("decoder.12", CHANNELS / 8, 1)?,
            codebook,
        })
    }

    /// The mask of [`NUM_PIXELS`](super::NUM_PIXELS) pixels, by rows: about 1 inside of the object and -1 outside.
    ///
    /// # Errors
    /// When a code is not in the codebook.
    pub fn decode(&self, codes: &Codes) -> Result<Vec<f32>, Error> {
        let rows = codes.iter().map(|&code| self.codebook.row(code)).collect::<Result<Vec<_>, _>>()?;
        let grid = Grid { height: GRID, width: GRID, channels: self.codebook.width, values: rows.concat() };
        let mut grid = self.first.apply(&grid).relu();
        for residual in &self.residual {
            grid = residual.apply(grid);
        }
        for upsample in &self.upsample {
            grid = upsample.apply(&grid).relu();
        }
        Ok(self.last.apply(&grid).values)
    }

    /// As [`decode`](Self::decode), many at once on all cores.
    ///
    /// # Errors
    /// When a code is not in the codebook.
    pub fn decode_all(&self, codes: &[Codes]) -> Result<Vec<Vec<f32>>, Error> {
        codes.par_iter().map(|codes| self.decode(codes)).collect()
    }
}
