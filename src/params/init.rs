//! First values of parameters, drawn on the host from the distributions of flax's initialisers.
//!
//! The distributions are those of `jax.nn.initializers`, with which big_vision builds its models
//! (`models/vit.py`, `models/ppp/gemma.py`); the random numbers are our own. Element `i` of a parameter is a
//! function of the seed, the parameter's name and `i` alone: word `i` of a ChaCha8 stream whose key is a
//! hash of seed and name. So the values do not depend on the number of threads, on the other parameters or
//! on the order of drawing.

use bytemuck::cast_slice_mut;
use half::{bf16, f16};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rayon::prelude::*;

use super::Error;
use crate::array::{DType, HostArray, Shape};

/// How a fresh parameter is drawn.
#[derive(Debug, Clone, PartialEq)]
pub enum Init {
    Zeros,
    Ones,
    /// The same number everywhere.
    Constant(f64),
    /// Normal with mean 0 (`nn.initializers.normal`).
    Normal {
        stddev: f64,
    },
    /// Uniform in ±sqrt(6 / (fan_in + fan_out)) (`nn.initializers.xavier_uniform`). The fans are given
    /// because flax flattens the kernels of attention before it counts: `[D, N, H]` has fans D and N·H.
    XavierUniform {
        fan_in: usize,
        fan_out: usize,
    },
    VarianceScaling(VarianceScaling),
}

/// `nn.initializers.variance_scaling`: mean 0 and variance `scale` over a fan.
///
/// Axes count from the end when negative. What is neither input, output nor batch is a receptive field and
/// multiplies both fans, as in a convolution.
#[derive(Debug, Clone, PartialEq)]
pub struct VarianceScaling {
    pub scale: f64,
    pub mode: FanMode,
    pub distribution: Distribution,
    pub in_axis: Vec<isize>,
    pub out_axis: Vec<isize>,
    pub batch_axis: Vec<isize>,
}

/// By which number of connections the variance is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FanMode {
    In,
    Out,
    Average,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    Normal,
    /// Cut at two standard deviations of the parent distribution, which is widened so that the variance is
    /// the one asked for.
    TruncatedNormal,
    Uniform,
}

/// Standard deviation of a standard normal cut at ±2; the constant of `jax.nn.initializers`.
const TRUNCATED_STDDEV: f64 = 0.879_625_661_034_239_8;

impl Init {
    /// `variance_scaling(1, "fan_in", "truncated_normal", in_axis, out_axis)`: Gemma's matrices.
    pub fn truncated_normal(in_axis: &[isize], out_axis: &[isize]) -> Self {
        Init::variance_scaling(1.0, FanMode::In, Distribution::TruncatedNormal, in_axis, out_axis)
    }

    /// The default of flax's `Dense` and `Conv`: the last axis is the output, the one before the input.
    pub fn lecun_normal() -> Self {
        Init::truncated_normal(&[-2], &[-1])
    }

    pub fn variance_scaling(
        scale: f64,
        mode: FanMode,
        distribution: Distribution,
        in_axis: &[isize],
        out_axis: &[isize],
    ) -> Self {
        let (in_axis, out_axis) = (in_axis.to_vec(), out_axis.to_vec());
        Init::VarianceScaling(VarianceScaling {
            scale,
            mode,
            distribution,
            in_axis,
            out_axis,
            batch_axis: Vec::new(),
        })
    }

    /// The same for layers stacked along a new leading axis: it is a batch axis, so fans stay those of one
    /// layer.
    pub fn stacked(self) -> Self {
        let Init::VarianceScaling(mut scaling) = self else { return self };
        let axes = [&mut scaling.in_axis, &mut scaling.out_axis, &mut scaling.batch_axis];
        axes.into_iter().flatten().filter(|axis| **axis >= 0).for_each(|axis| *axis += 1);
        scaling.batch_axis.push(0);
        Init::VarianceScaling(scaling)
    }

    /// Values for the parameter `name`. Floats are drawn in f32 and rounded to the shape's dtype.
    ///
    /// # Errors
    /// When random values are asked for in an integer dtype, or the fans of the shape are not defined.
    pub fn draw(&self, name: &str, shape: &Shape, seed: u64) -> Result<HostArray, Error> {
        let sampler = match self {
            Init::Zeros => return Ok(HostArray::zeros(shape.clone())),
            Init::Ones => return Ok(filled(shape, 1.0)),
            Init::Constant(value) => return Ok(filled(shape, *value)),
            Init::Normal { stddev } => Sampler::Normal { stddev: *stddev as f32 },
            Init::XavierUniform { fan_in, fan_out } => {
                let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
                Sampler::Uniform { bound: bound as f32 }
            }
            Init::VarianceScaling(scaling) => scaling.sampler(name, shape)?,
        };
        if !shape.dtype().is_float() {
            return Err(Error::NotFloat { name: name.to_owned(), shape: shape.clone(), init: self.name() });
        }
        Ok(sampler.fill(shape, key(name, seed)))
    }

    fn name(&self) -> &'static str {
        match self {
            Init::Zeros => "zeros",
            Init::Ones => "ones",
            Init::Constant(_) => "constant",
            Init::Normal { .. } => "normal",
            Init::XavierUniform { .. } => "xavier_uniform",
            Init::VarianceScaling(_) => "variance_scaling",
        }
    }
}

impl VarianceScaling {
    fn sampler(&self, name: &str, shape: &Shape) -> Result<Sampler, Error> {
        let (fan_in, fan_out) = self.fans(name, shape)?;
        let fan = match self.mode {
            FanMode::In => fan_in,
            FanMode::Out => fan_out,
            FanMode::Average => (fan_in + fan_out) / 2.0,
        };
        let variance = self.scale / fan;
        Ok(match self.distribution {
            Distribution::Normal => Sampler::Normal { stddev: variance.sqrt() as f32 },
            Distribution::TruncatedNormal => {
                Sampler::TruncatedNormal { stddev: (variance.sqrt() / TRUNCATED_STDDEV) as f32 }
            }
            Distribution::Uniform => Sampler::Uniform { bound: (3.0 * variance).sqrt() as f32 },
        })
    }

    fn fans(&self, name: &str, shape: &Shape) -> Result<(f64, f64), Error> {
        if shape.rank() < 2 {
            return Err(Error::NoFans { name: name.to_owned(), shape: shape.clone() });
        }
        let size = |axes: &[isize]| -> Result<f64, Error> {
            let extent = |&axis: &isize| {
                let index = if axis < 0 { axis + shape.rank() as isize } else { axis };
                let extent = usize::try_from(index).ok().and_then(|i| shape.dims().get(i));
                let error = || Error::BadAxis { name: name.to_owned(), shape: shape.clone(), axis };
                extent.map(|&extent| extent as f64).ok_or_else(error)
            };
            axes.iter().map(extent).product()
        };
        let (input, output, batch) = (size(&self.in_axis)?, size(&self.out_axis)?, size(&self.batch_axis)?);
        let receptive_field = shape.num_elements() as f64 / input / output / batch;
        Ok((input * receptive_field, output * receptive_field))
    }
}

/// A distribution with all its numbers.
#[derive(Debug, Clone, Copy)]
enum Sampler {
    Normal { stddev: f32 },
    TruncatedNormal { stddev: f32 },
    Uniform { bound: f32 },
}

/// Elements drawn at a time; large enough that seeking in the stream costs nothing.
const BLOCK: usize = 1 << 12;

impl Sampler {
    fn fill(self, shape: &Shape, key: [u8; 32]) -> HostArray {
        let mut array = HostArray::zeros(shape.clone());
        let dtype = shape.dtype();
        array.bytes_mut().par_chunks_mut(BLOCK * dtype.num_bytes()).enumerate().for_each(|(block, out)| {
            let mut rng = ChaCha8Rng::from_seed(key);
            rng.set_word_pos((block * BLOCK) as u128);
            let mut words = [0u32; BLOCK];
            let words = &mut words[..out.len() / dtype.num_bytes()];
            rng.fill_bytes(cast_slice_mut(words));
            self.transform(words);
            let values = words.iter().map(|&word| f32::from_bits(word));
            match dtype {
                DType::F32 => store(out, values),
                DType::BF16 => store(out, values.map(bf16::from_f32)),
                DType::F16 => store(out, values.map(f16::from_f32)),
                _ => store(out, values.map(f64::from)),
            }
        });
        array
    }

    /// Random words to samples (as the bits of an f32), in place.
    fn transform(self, words: &mut [u32]) {
        fn each(words: &mut [u32], f: impl Fn(f32) -> f32) {
            words.iter_mut().for_each(|word| *word = f(unit(*word)).to_bits());
        }
        match self {
            Sampler::Normal { stddev } => each(words, |u| stddev * standard_normal(u)),
            Sampler::TruncatedNormal { stddev } => {
                each(words, |u| stddev * standard_normal(u * WITHIN_TWO).clamp(-2.0, 2.0))
            }
            Sampler::Uniform { bound } => each(words, |u| bound * u),
        }
    }
}

fn filled(shape: &Shape, value: f64) -> HostArray {
    let one = HostArray::scalar(value).cast(shape.dtype());
    let mut array = HostArray::zeros(shape.clone());
    array.bytes_mut().chunks_exact_mut(one.bytes().len()).for_each(|out| out.copy_from_slice(one.bytes()));
    array
}

fn store<T: bytemuck::Pod>(out: &mut [u8], values: impl Iterator<Item = T>) {
    cast_slice_mut::<u8, T>(out).iter_mut().zip(values).for_each(|(to, value)| *to = value);
}

fn key(name: &str, seed: u64) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("paligemma parameter initialisation v1");
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The upper 24 bits of a word as an odd multiple of 2^-24 in (-1, 1): exact in f32, symmetric about zero,
/// and never an end of the interval.
fn unit(word: u32) -> f32 {
    let odd = (((word >> 8) << 1) | 1) as i32 - (1 << 24);
    odd as f32 * (1.0 / (1 << 24) as f32)
}

/// Probability that a standard normal lies within ±2: erf(2 / sqrt 2).
const WITHIN_TWO: f32 = 0.954_499_7;

/// Maps `u`, uniform in (-1, 1), to a standard normal: sqrt 2 · erfinv(u).
///
/// The inverse error function is the single-precision approximation of M. Giles, "Approximating the erfinv
/// function" (GPU Computing Gems, 2011), which XLA's `erf_inv` uses as well.
fn standard_normal(u: f32) -> f32 {
    const CENTRAL: [f32; 9] = [
        2.810_226_4e-8,
        3.432_739_4e-7,
        -3.523_387_7e-6,
        -4.391_506_5e-6,
        0.000_218_580_87,
        -0.001_253_725,
        -0.004_177_681_6,
        0.246_640_73,
        1.501_409_4,
    ];
    const TAIL: [f32; 9] = [
        -0.000_200_214_26,
        0.000_100_950_56,
        0.001_349_343_2,
        -0.003_673_428_4,
        0.005_739_507_7,
        -0.007_622_461,
        0.009_438_87,
        1.001_674,
        2.832_976_8,
    ];
    let w = -ln((1.0 - u) * (1.0 + u));
    let central = w < 5.0;
    let x = if central { w - 2.5 } else { w.sqrt() - 3.0 };
    // Choosing coefficients, not formulas, keeps the loop over elements free of branches.
    let coefficients = CENTRAL.iter().zip(&TAIL).map(|(&c, &t)| if central { c } else { t });
    let ratio = coefficients.fold(0.0, |sum, c| sum * x + c);
    std::f32::consts::SQRT_2 * ratio * u
}

/// Natural logarithm of a positive normal number, within two units in the last place.
///
/// Our own (after the Cephes library's `logf`) because the platform's differs between systems in the last
/// bit, and seeded values should not; it also vectorises.
fn ln(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 9] = [
        7.037_683_6e-2,
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    // ln 2 in two parts, the first with few enough bits that its product with the exponent is exact.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
    let shifted = x.to_bits().wrapping_sub(0x3f35_04f3);
    let exponent = (shifted as i32 >> 23) as f32;
    let f = f32::from_bits((shifted & 0x007f_ffff) + 0x3f35_04f3) - 1.0;
    let square = f * f;
    let series = COEFFICIENTS.iter().fold(0.0, |sum, c| sum * f + c) * f * square;
    let small = series + exponent * LN_2[1] - 0.5 * square;
    f + small + exponent * LN_2[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: usize = 1_000_000;

    fn draw(init: &Init, dims: &[usize], seed: u64) -> Vec<f64> {
        init.draw("w", &Shape::new(DType::F32, dims), seed).unwrap().to_f64()
    }

    fn mean_and_std(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    /// Bounds are five standard errors for `N` samples.
    fn assert_moments(values: &[f64], std: f64) {
        let (mean, measured) = mean_and_std(values);
        let error = 5.0 / (values.len() as f64).sqrt();
        assert!(mean.abs() < error * std, "mean {mean} with std {std}");
        assert!((measured / std - 1.0).abs() < error, "std {measured}, expected {std}");
    }

    #[test]
    fn normal_quantiles_are_those_of_the_tables() {
        // (probability of lying below, quantile) of the standard normal distribution.
        let table = [(0.5, 0.0), (0.75, 0.674_489_75), (0.975, 1.959_963_985), (0.999_5, 3.290_526_731)];
        for (below, quantile) in table {
            let u = (2.0 * below - 1.0) as f32;
            let got = standard_normal(u) as f64;
            // An error of one unit in the last place of `u` moves the quantile by this much.
            let density = (-0.5f64 * quantile * quantile).exp() / (2.0 * std::f64::consts::PI).sqrt();
            let tolerance = 6e-8 / density + 4e-7 * quantile;
            assert!((got - quantile).abs() <= tolerance, "{below}: {got} instead of {quantile}");
            assert_eq!(standard_normal(-u), -standard_normal(u));
        }
        let extreme = [unit(0), unit(u32::MAX)].map(standard_normal);
        assert_eq!(extreme[0], -extreme[1]);
        assert!((5.2..5.5).contains(&extreme[1]), "{extreme:?}");
    }

    #[test]
    fn the_logarithm_is_accurate_where_it_is_used() {
        for i in 1..=(1u32 << 16) {
            let x = (i as f32 / (1 << 16) as f32).powi(3);
            let exact = (x as f64).ln();
            assert!((ln(x) as f64 - exact).abs() <= 1.2e-7 * exact.abs() + 1e-12, "{x}: {} {exact}", ln(x));
        }
    }

    #[test]
    fn normal_has_its_moments_and_tails() {
        let values = draw(&Init::Normal { stddev: 0.02 }, &[N], 1);
        assert_moments(&values, 0.02);
        // Fractions beyond k standard deviations: a wrong shape with the right moments fails here.
        for (k, expected) in [(1.0, 0.317_310_5), (2.0, 0.045_500_3), (3.0, 0.002_699_8)] {
            let beyond = values.iter().filter(|v| v.abs() > k * 0.02).count() as f64 / N as f64;
            let error = 5.0 * (expected / N as f64).sqrt();
            assert!((beyond - expected).abs() < error, "{k}: {beyond} instead of {expected}");
        }
    }

    #[test]
    fn truncated_normal_has_the_variance_asked_for_and_ends_at_two_parent_deviations() {
        // Gemma's q_einsum [N, D, H]: fan_in is D.
        let values = draw(&Init::truncated_normal(&[1], &[0, 2]), &[8, 250, 500], 2);
        let std = (1.0f64 / 250.0).sqrt();
        assert_moments(&values, std);
        let bound = 2.0 * std / TRUNCATED_STDDEV;
        let largest = values.iter().fold(0.0f64, |max, v| max.max(v.abs()));
        assert!(largest <= bound * (1.0 + 1e-6) && largest > 0.999 * bound, "{largest} of {bound}");
    }

    #[test]
    fn uniform_fills_its_interval() {
        let values = draw(&Init::XavierUniform { fan_in: 100, fan_out: 50 }, &[N], 3);
        assert_moments(&values, (2.0f64 / 150.0).sqrt());
        let bound = (6.0f64 / 150.0).sqrt();
        assert!(values.iter().all(|v| v.abs() <= bound * (1.0 + 1e-6)));
        assert!(values.iter().filter(|v| **v > 0.9 * bound).count() > N / 25);
    }

    #[test]
    fn fans_count_receptive_fields_and_not_batches() {
        let fans = |init: Init, dims: &[usize]| {
            let Init::VarianceScaling(scaling) = init else { panic!("no fans") };
            scaling.fans("w", &Shape::new(DType::F32, dims)).unwrap()
        };
        // The patch embedding: 14x14 patches of 3 channels to 1152.
        assert_eq!(fans(Init::lecun_normal(), &[14, 14, 3, 1152]), (588.0, 225_792.0));
        // attn_vec_einsum [N, H, D] and kv_einsum [2, K, D, H].
        assert_eq!(fans(Init::truncated_normal(&[0, 1], &[2]), &[8, 256, 2048]), (2048.0, 2048.0));
        let kv = Init::truncated_normal(&[2], &[0, 1, 3]);
        assert_eq!(fans(kv.clone(), &[2, 4, 2304, 256]), (2304.0, 2048.0));
        assert_eq!(fans(kv.stacked(), &[26, 2, 4, 2304, 256]), (2304.0, 2048.0));
        assert_eq!(fans(Init::lecun_normal().stacked(), &[27, 1152, 4304]), (1152.0, 4304.0));
        // The embedding table [V, D]: scaled by D.
        let table = Init::variance_scaling(1.0, FanMode::In, Distribution::Normal, &[1], &[0]);
        assert_eq!(fans(table, &[257_152, 2048]), (2048.0, 257_152.0));
    }

    #[test]
    fn values_depend_on_seed_name_and_position_only() {
        let init = Init::Normal { stddev: 1.0 };
        let draw = |name: &str, len: usize, seed| {
            init.draw(name, &Shape::new(DType::F32, [len]), seed).unwrap().to_f64()
        };
        let values = draw("a", 3 * BLOCK + 5, 7);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().unwrap();
        assert_eq!(pool.install(|| draw("a", 3 * BLOCK + 5, 7)), values);
        assert_eq!(draw("a", 2 * BLOCK + 1, 7), values[..2 * BLOCK + 1]);
        assert_ne!(draw("b", BLOCK, 7), values[..BLOCK]);
        assert_ne!(draw("a", BLOCK, 8), values[..BLOCK]);
        assert_ne!(values[..BLOCK], values[BLOCK..2 * BLOCK]);
        // Pinned: what changes here changes every seeded run.
        assert_eq!(
            values[..3].iter().map(|&v| v as f32).collect::<Vec<_>>(),
            [0.554_555_83, -0.324_965_75, 1.201_566_9]
        );
    }

    #[test]
    fn other_dtypes_are_rounded_from_f32() {
        let init = Init::Normal { stddev: 0.5 };
        let shape = Shape::new(DType::F32, [100, 101]);
        let exact = init.draw("w", &shape, 0).unwrap();
        for dtype in [DType::BF16, DType::F16, DType::F64] {
            assert_eq!(init.draw("w", &shape.with_dtype(dtype), 0).unwrap(), exact.cast(dtype));
        }
        let ones = Init::Ones.draw("w", &shape.with_dtype(DType::BF16), 0).unwrap();
        assert!(ones.to_f64().iter().all(|&v| v == 1.0));
        assert_eq!(Init::Ones.draw("w", &Shape::scalar(DType::S32), 0).unwrap().to_f64(), [1.0]);
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        let message = |init: Init, shape: Shape| init.draw("w", &shape, 0).unwrap_err().to_string();
        assert_eq!(
            message(Init::lecun_normal(), Shape::new(DType::F32, [4])),
            "parameter \"w\" of shape f32[4] has no fans: variance scaling needs two dimensions or more"
        );
        assert_eq!(
            message(Init::truncated_normal(&[2], &[0]), Shape::new(DType::F32, [4, 4])),
            "axis 2 of the initialiser of \"w\" is outside its shape f32[4,4]"
        );
        assert_eq!(
            message(Init::Normal { stddev: 1.0 }, Shape::new(DType::S32, [4])),
            "parameter \"w\" of shape s32[4] cannot be initialised by normal: it is not a float"
        );
    }
}
