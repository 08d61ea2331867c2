//! The planes of an image: what scans fill and colours are made of.

use super::Error;
use super::header::{ComponentHeader, FrameHeader, Header};
use super::idct::{Block, Idct};
use super::smooth::{self, Progress};

#[derive(Debug)]
pub(super) struct Frame {
    is_progressive: bool,
    pub height: usize,
    pub width: usize,
    /// The largest sampling factors.
    pub across: usize,
    pub down: usize,
    /// MCUs of scans with several components.
    pub mcus_across: usize,
    pub mcus_down: usize,
    pub idct: Idct,
    pub num_scans: usize,
    /// The last row of MCUs for which the last scan had data.
    pub last_good_mcu_row: usize,
    pub planes: Vec<Plane>,
}

/// One component. It is stored in whole MCUs.
#[derive(Debug)]
pub(super) struct Plane {
    pub header: ComponentHeader,
    /// Without what fills the last MCUs: in samples, and in blocks.
    pub height: usize,
    pub width: usize,
    pub blocks_across: usize,
    pub blocks_down: usize,
    /// Blocks that are stored side by side.
    pub stored_across: usize,
    /// Since the first scan of the component, and what dequantizes its coefficients.
    pub quantization: Option<[u16; 64]>,
    pub multipliers: Block,
    pub progress: Progress,
    /// `8 * stored_across` in a row.
    pub samples: Vec<u8>,
    /// Of all blocks, row by row, where scans need each other.
    pub coefficients: Vec<Block>,
}

impl Frame {
    pub fn new(header: &Header, idct: Idct) -> Result<Self, Error> {
        let frame = header.frame.as_ref().ok_or_else(|| Error::Damaged("it has no frame".to_owned()))?;
        // Every block takes a bit at least. A few bytes must not claim the memory of a large image.
        let (across, down) = frame.largest_factors();
        let blocks = |c: &ComponentHeader| {
            (frame.width * c.across).div_ceil(8 * across) * (frame.height * c.down).div_ceil(8 * down)
        };
        if frame.components.iter().map(blocks).sum::<usize>() > 8 * header.data.len() {
            let FrameHeader { height, width, .. } = frame;
            return Err(Error::Damaged(format!(
                "it claims {height}x{width} pixels, more than its bytes can tell"
            )));
        }
        Ok(Frame::of(frame, idct))
    }

    /// Gray, without a scan.
    pub fn of(frame: &FrameHeader, idct: Idct) -> Self {
        let (across, down) = frame.largest_factors();
        let mcus_across = frame.width.div_ceil(8 * across);
        let mcus_down = frame.height.div_ceil(8 * down);
        let plane = |&header: &ComponentHeader| {
            let (height, width) = (frame.height * header.down, frame.width * header.across);
            let stored_across = mcus_across * header.across;
            let stored_down = mcus_down * header.down;
            Plane {
                header,
                height: height.div_ceil(down),
                width: width.div_ceil(across),
                blocks_across: width.div_ceil(8 * across),
                blocks_down: height.div_ceil(8 * down),
                stored_across,
                quantization: None,
                multipliers: [0; 64],
                progress: Progress::NOTHING,
                samples: vec![0; 64 * stored_across * stored_down],
                coefficients: Vec::new(),
            }
        };
        Frame {
            is_progressive: frame.is_progressive,
            height: frame.height,
            width: frame.width,
            across,
            down,
            mcus_across,
            mcus_down,
            idct,
            num_scans: 0,
            last_good_mcu_row: 0,
            planes: frame.components.iter().map(plane).collect(),
        }
    }

    pub fn is_progressive(&self) -> bool {
        self.is_progressive
    }

    pub fn num_components(&self) -> usize {
        self.planes.len()
    }

    /// Keeps coefficients from now on, instead of making samples of them at once.
    pub fn buffer_coefficients(&mut self) {
        for plane in &mut self.planes {
            plane.coefficients = vec![[0; 64]; plane.samples.len() / 64];
        }
    }

    /// Makes samples of the coefficients that were kept.
    pub fn transform_coefficients(&mut self) {
        let is_smoothed = self.is_progressive && smooth::is_useful(self);
        for index in 0..self.planes.len() {
            let blocks = std::mem::take(&mut self.planes[index].coefficients);
            let Plane { blocks_down, blocks_across, stored_across, .. } = self.planes[index];
            for (y, x) in (0..blocks_down).flat_map(|y| (0..blocks_across).map(move |x| (y, x))) {
                let block = match is_smoothed {
                    true => &smooth::estimate(self, &self.planes[index], &blocks, x, y),
                    false => &blocks[y * stored_across + x],
                };
                let is_flat = block[1..].iter().all(|&coefficient| coefficient == 0);
                self.planes[index].write(self.idct, x, y, block, is_flat);
            }
        }
    }
}

impl Plane {
    pub fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * 8 * self.stored_across..][..self.width]
    }

    /// Makes samples of the block at column `x` and row `y`.
    #[inline(always)]
    pub fn write(&mut self, idct: Idct, x: usize, y: usize, block: &Block, is_flat: bool) {
        let stride = 8 * self.stored_across;
        idct.write(block, &self.multipliers, is_flat, &mut self.samples[8 * (y * stride + x)..], stride);
    }
}
