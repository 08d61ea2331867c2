use std::path::Path;

use super::layers::{Conv, Grid, Residual, Weights};
use super::{CODEBOOK_SIZE, Codes, Error, GRID, NUM_CODES, NUM_PIXELS, SIDE};
use crate::checkpoint::Reader;
use crate::checkpoint::npz::Npz;

/// From masks to codes.
#[derive(Debug)]
pub struct Encoder {
    downsample: [Conv; 4],
    residual: [Residual; 2],
    last: Conv,
    codebook: Codebook,
}

/// The code words, one per row, each as long as the encoder's output has channels.
#[derive(Debug)]
pub(super) struct Codebook {
    pub width: usize,
    values: Vec<f32>,
    /// Sum of squares of each row.
    squares: Vec<f32>,
}

impl Codebook {
    pub fn read(weights: &Weights) -> Result<Self, Error> {
        let name = "_vq_vae._embedding";
        let array = weights.array(name)?;
        let width = match *array.dims() {
            [CODEBOOK_SIZE, width] if width > 0 => width,
            _ => return Err(weights.wrong(name, array.shape(), format!("[{CODEBOOK_SIZE},any]"))),
        };
        let values = array.values::<f32>()?.to_vec();
        let squares = values.chunks_exact(width).map(|row| dot(row, row)).collect();
        Ok(Codebook { width, values, squares })
    }

    pub fn row(&self, code: u8) -> Result<&[f32], Error> {
        let row = self.values.get(usize::from(code) * self.width..).and_then(|rows| rows.get(..self.width));
        row.ok_or(Error::Code { code })
    }

    /// The word with the least squared distance, the first of equals.
    fn nearest(&self, vector: &[f32]) -> u8 {
        let square = dot(vector, vector);
        let rows = self.values.chunks_exact(self.width).zip(&self.squares);
        let mut best = (f32::INFINITY, 0);
        for (code, (row, other)) in (0..).zip(rows) {
            let distance = square + other - 2.0 * dot(vector, row);
            if distance < best.0 {
                best = (distance, code);
            }
        }
        best.1
    }
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl Encoder {
    /// # Errors
    /// When the file is no npz or lacks an array of the encoder, or one has a shape that does not fit the others.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Encoder::read(&Npz::open(path)?)
    }

    fn read(reader: &dyn Reader) -> Result<Self, Error> {
        let weights = Weights(reader);
        let codebook = Codebook::read(&weights)?;
        let mut channels = 1;
        let mut downsample = |layer: &str| -> Result<Conv, Error> {
            let conv = Conv::read(&weights, layer, channels, 2, [None; 3])?;
            channels = conv.outputs();
            Ok(conv)
        };
        let downsample = [
            downsample("encoder.0")?,
            downsample("encoder.2")?,
            downsample("encoder.4")?,
            downsample("encoder.6")?,
        ];
        let residual = |layer: &str| Residual::read(&weights, layer, channels, [None; 3]);
        let residual = [residual("encoder.8.net")?, residual("encoder.9.net")?];
        let last = Conv::read(&weights, "encoder.10", channels, 1, [Some(codebook.width), None, None])?;
        Ok(Encoder { downsample, residual, last, codebook })
    }

    /// The codes of a mask whose pixels are between 0 and 1.
    pub fn encode(&self, mask: &[f32; NUM_PIXELS]) -> Codes {
        let output = self.output(mask);
        let mut codes = [0; NUM_CODES];
        for (code, vector) in codes.iter_mut().zip(output.chunks_exact(self.codebook.width)) {
            *code = self.codebook.nearest(vector);
        }
        codes
    }

    /// What is looked up in the codebook: a vector for each of the 4x4 places.
    pub(super) fn output(&self, mask: &[f32; NUM_PIXELS]) -> Vec<f32> {
        let values = mask.iter().map(|pixel| 2.0 * (pixel - 0.5)).collect();
        let mut grid = Grid { height: SIDE, width: SIDE, channels: 1, values };
        for conv in &self.downsample {
            grid = conv.apply(&grid).relu();
        }
        for residual in &self.residual {
            grid = residual.apply(grid);
        }
        let grid = self.last.apply(&grid);
        debug_assert_eq!([grid.height, grid.width], [GRID; 2]);
        grid.values
    }
}
