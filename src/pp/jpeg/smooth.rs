//! Guesses at what a progressive file has not told: libjpeg's smoothing of blocks.
//!
//! Where scans are missing, the first coefficients of a block are estimated from the mean levels of the 5x5 blocks
//! around it. Complete files, whose coefficients are all known to the last bit, are left alone.

use super::frame::{Frame, Plane};
use super::header::ZIGZAG;
use super::idct::Block;

/// Weights, of 256, of the blocks around one.
type Kernel = [[i64; 5]; 5];

/// The number of coefficients that are estimated, with the first one, in zigzag order.
pub(super) const ESTIMATED: usize = 10;

/// Where nothing is known but the mean levels.
const FROM_LEVELS: [Kernel; ESTIMATED] = [
    [
        [-2, -6, -8, -6, -2],
        [-6, 6, 42, 6, -6],
        [-8, 42, 152, 42, -8],
        [-6, 6, 42, 6, -6],
        [-2, -6, -8, -6, -2],
    ],
    [[-1, -1, 0, 1, 1], [-3, 13, 0, -13, 3], [-3, 38, 0, -38, 3], [-3, 13, 0, -13, 3], [-1, -1, 0, 1, 1]],
    [[-1, -3, -3, -3, -1], [-1, 13, 38, 13, -1], [0; 5], [1, -13, -38, -13, 1], [1, 3, 3, 3, 1]],
    [[0, 0, 1, 0, 0], [0, 2, 7, 2, 0], [0, -5, -14, -5, 0], [0, 2, 7, 2, 0], [0, 0, 1, 0, 0]],
    [[-1, 0, 0, 0, 1], [0, 9, 0, -9, 0], [0; 5], [0, -9, 0, 9, 0], [1, 0, 0, 0, -1]],
    [[0; 5], [0, 2, -5, 2, 0], [1, 7, -14, 7, 1], [0, 2, -5, 2, 0], [0; 5]],
    [[0; 5], [0, 1, 0, -1, 0], [0, 2, 0, -2, 0], [0, 1, 0, -1, 0], [0; 5]],
    [[0; 5], [0, 1, -3, 1, 0], [0; 5], [0, -1, 3, -1, 0], [0; 5]],
    [[0; 5], [0, 1, 0, -1, 0], [0, -3, 0, 3, 0], [0, 1, 0, -1, 0], [0; 5]],
    [[0; 5], [0, 1, 2, 1, 0], [0; 5], [0, -1, -2, -1, 0], [0; 5]],
];

/// Where some of the coefficients are known: of the first one and the last four nothing is guessed then.
const AMONG_KNOWN: [Kernel; 6] = [
    [[0; 5]; 5],
    [[0; 5], [0; 5], [-7, 50, 0, -50, 7], [0; 5], [0; 5]],
    [[0, 0, -7, 0, 0], [0, 0, 50, 0, 0], [0; 5], [0, 0, -50, 0, 0], [0, 0, 7, 0, 0]],
    [[0, 0, -1, 0, 0], [0, 0, 13, 0, 0], [0, 0, -24, 0, 0], [0, 0, 13, 0, 0], [0, 0, -1, 0, 0]],
    [[0, -1, 0, 1, 0], [-1, 10, 0, -10, 1], [0; 5], [1, -10, 0, 10, -1], [0, 1, 0, -1, 0]],
    [[0; 5], [0; 5], [-1, 13, -24, 13, -1], [0; 5], [0; 5]],
];

/// What scans have told of the coefficients of a component.
#[derive(Debug, Clone, Copy)]
pub(super) struct Progress {
    /// The lowest bit that is known of each, 0 for all, or -1 for nothing.
    known: [i32; 64],
    /// The same before the last scan, of those that are estimated.
    before: [i32; ESTIMATED],
}

impl Progress {
    pub const NOTHING: Self = Progress { known: [-1; 64], before: [-1; ESTIMATED] };

    /// Notes a scan of coefficients `first` to `last` down to a bit.
    pub fn note(&mut self, first: usize, last: usize, low: u32, is_first_scan: bool) {
        for at in first.min(1)..ESTIMATED {
            self.before[at] = if is_first_scan { 0 } else { self.known[at] };
        }
        self.known[first..=last].fill(low as i32);
    }
}

/// Whether there is something to estimate, and enough to do so.
pub(super) fn is_useful(frame: &Frame) -> bool {
    let is_possible = |plane: &Plane| {
        let quantization = plane.quantization.as_ref();
        let has_steps =
            |table: &[u16; 64]| ZIGZAG[..ESTIMATED].iter().all(|&place| table[usize::from(place)] > 0);
        quantization.is_some_and(has_steps) && plane.progress.known[0] >= 0
    };
    let is_incomplete = |plane: &Plane| plane.progress.known[1..ESTIMATED].iter().any(|&bit| bit != 0);
    frame.planes.iter().all(is_possible) && frame.planes.iter().any(is_incomplete)
}

/// The block at column `x` and row `y` of a plane, with estimates for what is not known.
pub(super) fn estimate(frame: &Frame, plane: &Plane, blocks: &[Block], x: usize, y: usize) -> Block {
    let mut block = blocks[y * plane.stored_across + x];
    let Some(quantization) = &plane.quantization else { return block };
    let mcu_row = y / plane.header.down;
    let known = match mcu_row > frame.last_good_mcu_row && frame.num_scans > 1 {
        true => plane.progress.before,
        false => std::array::from_fn(|at| plane.progress.known[at]),
    };
    let levels_only = known[1..].iter().all(|&bit| bit == -1);
    let kernels = if levels_only { &FROM_LEVELS[..] } else { &AMONG_KNOWN[..] };
    let levels = levels_around(frame, plane, blocks, x, y);
    let estimates = kernels.iter().zip(known).zip(ZIGZAG).enumerate();
    for (at, ((kernel, bit), place)) in estimates {
        let place = usize::from(place);
        let is_wanted = if at == 0 { levels_only } else { bit != 0 && block[place] == 0 };
        if !is_wanted {
            continue;
        }
        let sum: i64 = kernel
            .as_flattened()
            .iter()
            .zip(levels.as_flattened())
            .map(|(weight, level)| weight * level)
            .sum();
        let sum = sum * i64::from(quantization[0]);
        let step = i64::from(quantization[place]);
        let size = ((step << 7) + sum.abs()) / (step << 8);
        // More would be known already.
        let size = if at > 0 && bit > 0 { size.min((1 << bit) - 1) } else { size };
        block[place] = (if sum < 0 { -size } else { size }) as i16;
    }
    block
}

/// First coefficients of the blocks around one; beyond an edge those at the edge count. TensorFlow's libjpeg-turbo,
/// 2.1, also takes for an edge what is nearer than two rows of MCUs to one, and looks the wrong way beyond the edges of
/// two columns.
fn levels_around(frame: &Frame, plane: &Plane, blocks: &[Block], x: usize, y: usize) -> [[i64; 5]; 5] {
    let down = plane.header.down;
    let (mcu_row, row, last_mcu_row) = (y / down, y % down, frame.mcus_down - 1);
    let rows = if mcu_row == last_mcu_row { (plane.blocks_down - 1) % down + 1 } else { down };
    let above = match (row, mcu_row) {
        (2.., _) | (_, 2..) => 2,
        (0, 0) => 0,
        _ => 1,
    };
    let below = match (rows - 1 - row, last_mcu_row - mcu_row) {
        (2.., _) | (_, 2..) => 2,
        (0, 0) => 0,
        _ => 1,
    };
    let columns: [usize; 5] = match (plane.blocks_across, x) {
        (2, 0) => [0, 0, 0, 1, 0],
        (2, _) => [0, 0, 1, 0, 0],
        (across, x) => std::array::from_fn(|j| (x + j).saturating_sub(2).min(across - 1)),
    };
    std::array::from_fn(|i| {
        let y = y + i.clamp(2 - above, 2 + below) - 2;
        columns.map(|x| i64::from(blocks[y * plane.stored_across + x][0]))
    })
}
