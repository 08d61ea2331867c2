//! The layers of both nets, over images in the order [height, width, channel].

use std::path::Path;

use super::Error;
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::Reader;

/// An image or grid of `channels` numbers per place.
#[derive(Debug, Clone)]
pub(super) struct Grid {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    pub values: Vec<f32>,
}

impl Grid {
    fn at(&self, y: usize, x: usize) -> &[f32] {
        &self.values[(y * self.width + x) * self.channels..][..self.channels]
    }

    pub fn relu(mut self) -> Self {
        self.values.iter_mut().for_each(|value| *value = value.max(0.0));
        self
    }
}

/// The arrays of one file, checked as they are read.
pub(super) struct Weights<'r>(pub &'r dyn Reader);

impl Weights<'_> {
    fn path(&self) -> &Path {
        self.0.path()
    }

    /// An array as `f32`.
    pub fn array(&self, name: &str) -> Result<HostArray, Error> {
        Ok(self.0.read(name)?.cast(DType::F32))
    }

    pub fn wrong(&self, name: &str, got: &Shape, expected: impl Into<String>) -> Error {
        let (path, name) = (self.path().to_owned(), name.to_owned());
        Error::Shape { path, name, got: got.clone(), expected: expected.into() }
    }

    fn bias(&self, layer: &str, outputs: usize) -> Result<Vec<f32>, Error> {
        let name = format!("{layer}.bias");
        let bias = self.array(&name)?;
        if bias.dims() != [outputs] {
            return Err(self.wrong(&name, bias.shape(), format!("[{outputs}]")));
        }
        Ok(bias.values::<f32>()?.to_vec())
    }
}

/// A kernel in the order [y, x, input, output], so that the innermost loop runs over outputs that lie side by side.
#[derive(Debug)]
struct Kernel {
    height: usize,
    width: usize,
    inputs: usize,
    outputs: usize,
    values: Vec<f32>,
}

impl Kernel {
    /// From PyTorch's [output, input, y, x], or [input, output, y, x] when `transposed`.
    fn new(array: &HostArray, transposed: bool) -> Option<Self> {
        let &[first, second, height, width] = array.dims() else { return None };
        let (outputs, inputs) = if transposed { (second, first) } else { (first, second) };
        let from = array.values::<f32>().ok()?;
        let mut values = vec![0.0; from.len()];
        let mut source = from.iter();
        for a in 0..first {
            for b in 0..second {
                let (output, input) = if transposed { (b, a) } else { (a, b) };
                for place in 0..height * width {
                    values[(place * inputs + input) * outputs + output] = *source.next()?;
                }
            }
        }
        Some(Kernel { height, width, inputs, outputs, values })
    }

    /// Adds what `input`, seen through place (`y`, `x`) of the kernel, contributes to `out`.
    fn add(&self, y: usize, x: usize, input: &[f32], out: &mut [f32]) {
        let size = self.inputs * self.outputs;
        let rows = self.values[(y * self.width + x) * size..][..size].chunks_exact(self.outputs);
        for (value, row) in input.iter().zip(rows) {
            out.iter_mut().zip(row).for_each(|(out, weight)| *out += value * weight);
        }
    }
}

/// A convolution padded such that the output has the input's extents over the stride (TensorFlow's `SAME`).
#[derive(Debug)]
pub(super) struct Conv {
    kernel: Kernel,
    bias: Vec<f32>,
    stride: usize,
}

impl Conv {
    /// Reads `layer` for `inputs` channels; `expected` restricts [outputs, height, width] where they are known.
    pub fn read(
        weights: &Weights,
        layer: &str,
        inputs: usize,
        stride: usize,
        expected: [Option<usize>; 3],
    ) -> Result<Self, Error> {
        let name = format!("{layer}.weight");
        let array = weights.array(&name)?;
        let [outputs, height, width] = expected;
        let known = [outputs, Some(inputs), height, width];
        let kernel = Kernel::new(&array, false).filter(|kernel| {
            let got = [kernel.outputs, kernel.inputs, kernel.height, kernel.width];
            got.iter().zip(known).all(|(&got, known)| got > 0 && known.is_none_or(|known| known == got))
        });
        let kernel = kernel.ok_or_else(|| {
            let known = known.map(|extent| extent.map_or("any".to_owned(), |extent| extent.to_string()));
            weights.wrong(&name, array.shape(), format!("[{}]", known.join(",")))
        })?;
        let bias = weights.bias(layer, kernel.outputs)?;
        Ok(Conv { kernel, bias, stride })
    }

    pub fn outputs(&self) -> usize {
        self.kernel.outputs
    }

    pub fn apply(&self, input: &Grid) -> Grid {
        let Kernel { height: kernel_height, width: kernel_width, outputs, .. } = self.kernel;
        let [height, width] = [input.height, input.width].map(|extent| extent.div_ceil(self.stride));
        let before = |out: usize, kernel: usize, extent: usize| {
            ((out - 1) * self.stride + kernel).saturating_sub(extent) / 2
        };
        let top = before(height, kernel_height, input.height);
        let left = before(width, kernel_width, input.width);
        let mut values = Vec::with_capacity(height * width * outputs);
        for y in 0..height {
            for x in 0..width {
                let begin = values.len();
                values.extend_from_slice(&self.bias);
                let out = &mut values[begin..];
                for ky in 0..kernel_height {
                    let from_y = (y * self.stride + ky).wrapping_sub(top);
                    for kx in 0..kernel_width {
                        let from_x = (x * self.stride + kx).wrapping_sub(left);
                        if from_y < input.height && from_x < input.width {
                            self.kernel.add(ky, kx, input.at(from_y, from_x), out);
                        }
                    }
                }
            }
        }
        Grid { height, width, channels: outputs, values }
    }
}

/// A convolution of 4x4 that doubles height and width: the gradient of one with stride 2 and padding 1.
#[derive(Debug)]
pub(super) struct Upsample {
    kernel: Kernel,
    bias: Vec<f32>,
}

impl Upsample {
    pub fn read(weights: &Weights, layer: &str, inputs: usize, outputs: usize) -> Result<Self, Error> {
        let name = format!("{layer}.weight");
        let array = weights.array(&name)?;
        let kernel = Kernel::new(&array, true).filter(|_| array.dims() == [inputs, outputs, 4, 4]);
        let kernel =
            kernel.ok_or_else(|| weights.wrong(&name, array.shape(), format!("[{inputs},{outputs},4,4]")))?;
        Ok(Upsample { kernel, bias: weights.bias(layer, outputs)? })
    }

    pub fn apply(&self, input: &Grid) -> Grid {
        let (height, width, channels) = (2 * input.height, 2 * input.width, self.kernel.outputs);
        let mut values = self.bias.repeat(height * width);
        for y in 0..input.height {
            for x in 0..input.width {
                for ky in 0..4 {
                    let to_y = (2 * y + ky).wrapping_sub(1);
                    for kx in 0..4 {
                        let to_x = (2 * x + kx).wrapping_sub(1);
                        if to_y < height && to_x < width {
                            let out = &mut values[(to_y * width + to_x) * channels..][..channels];
                            self.kernel.add(ky, kx, input.at(y, x), out);
                        }
                    }
                }
            }
        }
        Grid { height, width, channels, values }
    }
}

/// Three convolutions whose result is added to their input.
#[derive(Debug)]
pub(super) struct Residual {
    convs: [Conv; 3],
}

impl Residual {
    /// `sides` are the kernels' heights and widths, where they are known.
    pub fn read(
        weights: &Weights,
        layer: &str,
        channels: usize,
        sides: [Option<usize>; 3],
    ) -> Result<Self, Error> {
        let conv = |place: usize, inputs: usize, outputs: Option<usize>| {
            let side = sides[place];
            Conv::read(weights, &format!("{layer}.{}", 2 * place), inputs, 1, [outputs, side, side])
        };
        let first = conv(0, channels, None)?;
        let second = conv(1, first.outputs(), None)?;
        let third = conv(2, second.outputs(), Some(channels))?;
        Ok(Residual { convs: [first, second, third] })
    }

    pub fn apply(&self, input: Grid) -> Grid {
        let [first, second, third] = &self.convs;
        let mut out = third.apply(&second.apply(&first.apply(&input).relu()).relu());
        out.values.iter_mut().zip(&input.values).for_each(|(out, value)| *out += value);
        out
    }
}
