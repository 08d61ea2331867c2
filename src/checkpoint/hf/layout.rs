//! How one array of Hugging Face's lies in memory beside the same array of big_vision's.
//!
//! Every difference is one or two transposes of matrices, so that reading and writing need one kernel.

use rayon::prelude::*;

/// The change of axes from big_vision's array of one layer to Hugging Face's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// The same elements in the same order, as a vector.
    Flat,
    /// The same elements in the same order, as a matrix of the last axis.
    Rows,
    /// A dense layer: the first `inputs` axes are contracted in big_vision, the others are its output.
    /// PyTorch keeps `[out, in]`.
    Dense { inputs: usize },
    /// A projection into heads, `[N, D, H]`, to `[N·H, D]`.
    Heads,
    /// The convolution over patches, `[height, width, channels, D]`, to `[D, channels, height, width]`.
    Patches,
}

/// Each of `batch` matrices `[rows, columns]` becomes `[columns, rows]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Transpose {
    batch: usize,
    rows: usize,
    columns: usize,
}

impl Layout {
    /// Hugging Face's extents of what has `dims` in big_vision.
    pub fn hf_dims(self, dims: &[usize]) -> Vec<usize> {
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        match (self, dims) {
            (Layout::Heads, &[heads, width, head_dim]) => vec![heads * head_dim, width],
            (Layout::Patches, &[height, width, channels, features]) => {
                vec![features, channels, height, width]
            }
            (Layout::Rows, &[.., last]) => vec![product(&dims[..dims.len() - 1]), last],
            (Layout::Dense { inputs }, _) => vec![product(&dims[inputs..]), product(&dims[..inputs])],
            _ => vec![product(dims)],
        }
    }

    /// What leads from big_vision's order of elements to Hugging Face's.
    pub fn steps(self, dims: &[usize]) -> Vec<Transpose> {
        let product = |dims: &[usize]| dims.iter().product::<usize>();
        match (self, dims) {
            (Layout::Heads, &[batch, rows, columns]) => vec![Transpose { batch, rows, columns }],
            (Layout::Patches, &[height, width, channels, features]) => vec![
                Transpose { batch: 1, rows: height * width * channels, columns: features },
                Transpose { batch: features, rows: height * width, columns: channels },
            ],
            (Layout::Dense { inputs }, _) => {
                vec![Transpose {
                    batch: 1,
                    rows: product(&dims[..inputs]),
                    columns: product(&dims[inputs..]),
                }]
            }
            _ => vec![],
        }
    }
}

/// The steps that undo `steps`.
pub(super) fn inverse(steps: &[Transpose]) -> Vec<Transpose> {
    let undo = |step: &Transpose| Transpose { rows: step.columns, columns: step.rows, ..*step };
    steps.iter().rev().map(undo).collect()
}

/// Copies `from` to `to`, which is as long, through `steps`. Elements have `width` bytes, one of 1, 2, 4 and 8.
pub(super) fn rearrange(steps: &[Transpose], width: usize, from: &[u8], to: &mut [u8]) {
    match steps {
        [] => copy(from, to),
        [step] => step.run(width, from, to),
        [first, rest @ ..] => {
            let mut between = vec![0; from.len()];
            first.run(width, from, &mut between);
            rearrange(rest, width, &between, to);
        }
    }
}

/// As `copy_from_slice`, on all threads.
pub(super) fn copy(from: &[u8], to: &mut [u8]) {
    const CHUNK: usize = 8 << 20;
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
}

impl Transpose {
    pub(super) fn matrices(batch: usize, rows: usize, columns: usize) -> Transpose {
        Transpose { batch, rows, columns }
    }

    fn run(&self, width: usize, from: &[u8], to: &mut [u8]) {
        match width {
            1 => self.run_elements::<1>(from, to),
            2 => self.run_elements::<2>(from, to),
            4 => self.run_elements::<4>(from, to),
            _ => self.run_elements::<8>(from, to),
        }
    }

    fn run_elements<const WIDTH: usize>(&self, from: &[u8], to: &mut [u8]) {
        let size = self.rows * self.columns;
        if size == 0 {
            return;
        }
        // A vector on one side: nothing moves.
        if self.rows == 1 || self.columns == 1 {
            return copy(from, to);
        }
        // Arrays of bytes need no alignment, which tensors in a file may lack.
        let ((from, _), (to, _)) = (from.as_chunks::<WIDTH>(), to.as_chunks_mut::<WIDTH>());
        let matrices = to.par_chunks_mut(size).zip(from.par_chunks(size));
        matrices.for_each(|(to, from)| transpose(from, self.rows, self.columns, to));
    }
}

/// The side of the squares that are moved at once: large enough that whole cache lines are read and written,
/// small enough that a square stays in the first cache.
const TILE: usize = 64;

/// `to[c][r] = from[r][c]`, in tiles that pass through a small buffer. Without it, the rows of a tile, a power of
/// two apart in most models, would fall on the same few lines of the cache and evict each other.
fn transpose<const WIDTH: usize>(from: &[[u8; WIDTH]], rows: usize, columns: usize, to: &mut [[u8; WIDTH]]) {
    to.par_chunks_mut(TILE * rows).enumerate().for_each(|(stripe, to)| {
        let first_column = stripe * TILE;
        let tile_columns = TILE.min(columns - first_column);
        let mut tile = [[0; WIDTH]; TILE * TILE];
        for first_row in (0..rows).step_by(TILE) {
            let tile_rows = TILE.min(rows - first_row);
            for row in 0..tile_rows {
                let start = (first_row + row) * columns + first_column;
                tile[row * TILE..][..tile_columns].copy_from_slice(&from[start..][..tile_columns]);
            }
            for column in 0..tile_columns {
                let to = &mut to[column * rows + first_row..][..tile_rows];
                to.iter_mut().enumerate().for_each(|(row, to)| *to = tile[row * TILE + column]);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Element by element, from the definition of each layout.
    fn expected(layout: Layout, dims: &[usize], values: &[u32]) -> Vec<u32> {
        let at = |index: &[usize]| {
            values[index.iter().zip(dims).fold(0, |offset, (index, dim)| offset * dim + index)]
        };
        let mut out = Vec::new();
        match (layout, dims) {
            (Layout::Heads, &[n, d, h]) => {
                (0..n).for_each(|i| (0..h).for_each(|k| (0..d).for_each(|j| out.push(at(&[i, j, k])))));
            }
            (Layout::Patches, &[height, width, channels, features]) => {
                for feature in 0..features {
                    for channel in 0..channels {
                        (0..height)
                            .for_each(|y| (0..width).for_each(|x| out.push(at(&[y, x, channel, feature]))));
                    }
                }
            }
            (Layout::Dense { inputs }, _) => {
                let inner: usize = dims[inputs..].iter().product();
                (0..inner).for_each(|o| out.extend(values.iter().skip(o).step_by(inner)));
            }
            _ => out.extend(values),
        }
        out
    }

    #[test]
    fn every_layout_moves_elements_as_defined_and_back() {
        let cases: [(Layout, &[usize], &[usize]); 11] = [
            (Layout::Flat, &[2, 3], &[6]),
            (Layout::Rows, &[1, 9, 5], &[9, 5]),
            (Layout::Dense { inputs: 1 }, &[3, 5], &[5, 3]),
            (Layout::Dense { inputs: 1 }, &[65, 2, 64], &[128, 65]),
            (Layout::Dense { inputs: 2 }, &[4, 3, 130], &[130, 12]),
            (Layout::Dense { inputs: 1 }, &[200, 133], &[133, 200]),
            (Layout::Dense { inputs: 1 }, &[1, 7], &[7, 1]),
            (Layout::Heads, &[4, 40, 14], &[56, 40]),
            (Layout::Heads, &[1, 70, 129], &[129, 70]),
            (Layout::Patches, &[2, 3, 5, 7], &[7, 5, 2, 3]),
            (Layout::Patches, &[14, 14, 3, 66], &[66, 3, 14, 14]),
        ];
        for (layout, dims, hf_dims) in cases {
            assert_eq!(layout.hf_dims(dims), hf_dims);
            let values: Vec<u32> = (0..dims.iter().product::<usize>() as u32).map(|i| i * 65_599).collect();
            let steps = layout.steps(dims);
            let want = expected(layout, dims, &values);
            fn check<T: bytemuck::Pod + PartialEq>(from: Vec<T>, want: Vec<T>, steps: &[Transpose]) {
                let from = bytemuck::cast_slice(&from);
                let (mut there, mut back) = (vec![0; from.len()], vec![0; from.len()]);
                rearrange(steps, size_of::<T>(), from, &mut there);
                assert!(there == bytemuck::cast_slice::<T, u8>(&want), "{steps:?}");
                rearrange(&inverse(steps), size_of::<T>(), &there, &mut back);
                assert!(back == from, "{steps:?}");
            }
            check(values.clone(), want.clone(), &steps);
            let as_u16 = |values: &[u32]| values.iter().map(|&v| v as u16).collect::<Vec<_>>();
            check(as_u16(&values), as_u16(&want), &steps);
            let as_u8 = |values: &[u32]| values.iter().map(|&v| v as u8).collect::<Vec<_>>();
            check(as_u8(&values), as_u8(&want), &steps);
            let as_u64 = |values: &[u32]| values.iter().map(|&v| u64::from(v) << 20).collect::<Vec<_>>();
            check(as_u64(&values), as_u64(&want), &steps);
        }
    }
}
