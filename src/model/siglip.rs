//! The vision tower: big_vision's `models/vit.py`.

use super::Taps;
use crate::array::{DType, Shape};
use crate::graph::{Builder, RematPolicy, Result, ScanOptions, Value};
use crate::nn::{Params, dense, gelu, layer_norm, multi_head_attention, patch_embedding, scan_layers};
use crate::params::{Init, ParamSpec};

/// Sizes and number formats of a ViT.
#[derive(Debug, Clone, PartialEq)]
pub struct SiglipConfig {
    pub width: usize,
    pub depth: usize,
    pub mlp_dim: usize,
    pub num_heads: usize,
    /// Height and width of a patch in pixels.
    pub patch_size: [usize; 2],
    pub pool_type: PoolType,
    pub posemb: PosEmb,
    /// Only rate 0 is supported: no published PaliGemma recipe drops anything in the vision tower.
    pub dropout: f64,
    /// The type of matrix products; parameters keep theirs.
    pub dtype_mm: DType,
    pub remat_policy: RematPolicy,
    /// Whether a fresh head starts at zero, so that images say nothing at first.
    pub head_zeroinit: bool,
}

/// What becomes of the encoded patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolType {
    /// All of them go to the head, one token each: PaliGemma.
    None,
    /// Their mean, as one token.
    Gap,
}

/// Where the position embeddings come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PosEmb {
    Learn,
    /// Fixed waves of MoCo v3.
    SinCos2d,
}

const LAYER_NORM_EPSILON: f64 = 1e-6;

impl SiglipConfig {
    /// Rows and columns of patches of an image of `[height, width]` pixels.
    pub fn grid(&self, image_size: [usize; 2]) -> [usize; 2] {
        [image_size[0] / self.patch_size[0], image_size[1] / self.patch_size[1]]
    }

    /// The number of tokens that an image becomes.
    pub fn num_tokens(&self, image_size: [usize; 2]) -> usize {
        match self.pool_type {
            PoolType::None => self.grid(image_size).iter().product(),
            PoolType::Gap => 1,
        }
    }

    /// The parameters, for images of `[height, width]` pixels and tokens of width `num_classes`.
    pub fn params(&self, image_size: [usize; 2], num_classes: usize) -> Vec<ParamSpec> {
        let (width, heads) = (self.width, self.num_heads);
        let head_dim = width / heads;
        let [ph, pw] = self.patch_size;
        let spec =
            |name: &str, dims: &[usize], init: Init| ParamSpec::new(name, Shape::new(DType::F32, dims), init);
        let tiny = Init::Normal { stddev: 1e-6 };
        let xavier = |fan_in, fan_out| Init::XavierUniform { fan_in, fan_out };

        let attention = "MultiHeadDotProductAttention_0";
        let mut layer = Vec::new();
        for norm in ["LayerNorm_0", "LayerNorm_1"] {
            layer.push(spec(&format!("{norm}/scale"), &[width], Init::Ones));
            layer.push(spec(&format!("{norm}/bias"), &[width], Init::Zeros));
        }
        for projection in ["query", "key", "value"] {
            let name = format!("{attention}/{projection}");
            layer.push(spec(&format!("{name}/kernel"), &[width, heads, head_dim], xavier(width, width)));
            layer.push(spec(&format!("{name}/bias"), &[heads, head_dim], Init::Zeros));
        }
        let out = format!("{attention}/out");
        layer.push(spec(&format!("{out}/kernel"), &[heads, head_dim, width], xavier(width, width)));
        layer.push(spec(&format!("{out}/bias"), &[width], Init::Zeros));
        for (name, from, to) in [("Dense_0", width, self.mlp_dim), ("Dense_1", self.mlp_dim, width)] {
            layer.push(spec(&format!("MlpBlock_0/{name}/kernel"), &[from, to], xavier(from, to)));
            layer.push(spec(&format!("MlpBlock_0/{name}/bias"), &[to], tiny.clone()));
        }

        let head_init = if self.head_zeroinit { Init::Zeros } else { Init::lecun_normal() };
        let mut specs = vec![
            spec("embedding/kernel", &[ph, pw, 3, width], Init::lecun_normal()),
            spec("embedding/bias", &[width], Init::Zeros),
            spec("Transformer/encoder_norm/scale", &[width], Init::Ones),
            spec("Transformer/encoder_norm/bias", &[width], Init::Zeros),
            spec("head/kernel", &[width, num_classes], head_init),
            spec("head/bias", &[num_classes], Init::Zeros),
        ];
        if self.posemb == PosEmb::Learn {
            let [rows, columns] = self.grid(image_size);
            let stddev = 1.0 / (width as f64).sqrt();
            specs.push(spec("pos_embedding", &[1, rows * columns, width], Init::Normal { stddev }));
        }
        specs.extend(layer.into_iter().map(|l| l.stacked(self.depth).under("Transformer/encoderblock")));
        specs
    }

    /// Image tokens `[B, I, num_classes]` of images `[B, H, W, 3]` in [-1, 1].
    #[track_caller]
    pub fn encode(&self, params: &Params, image: &Value, taps: &mut Taps) -> Result<Value> {
        let b = params.builder();
        let stem = {
            let _scope = b.scope("embedding");
            patch_embedding(&params.under("embedding"), image, self.dtype_mm)?
        };
        taps.put("img_stem", &stem);
        let &[batch, rows, columns, width] = stem.dims() else {
            return Err(b.error(format!("patches expect rank 4, got {}", stem.shape())));
        };
        let x = stem.reshape(&[batch, rows * columns, width])?;
        let posemb = match self.posemb {
            PosEmb::Learn => params.get("pos_embedding")?.clone(),
            PosEmb::SinCos2d => sincos_2d(b, rows, columns, width)?.convert(x.dtype())?,
        };
        if posemb.dims() != [1, rows * columns, width] {
            let (patches, shape) = (rows * columns, posemb.shape());
            return Err(b.error(format!(
                "pos_embedding expects one entry for each of {patches} patches, got {shape}"
            )));
        }
        let (x, posemb) = crate::nn::promote(&x, &posemb)?;
        let x = x.add(&posemb)?;
        taps.put("img_with_posemb", &x);

        let transformer = params.under("Transformer");
        let x = self.blocks(&transformer.under("encoderblock"), &x, taps)?;
        let _scope = b.scope("encoder_norm");
        let encoded = layer_norm(&transformer.under("encoder_norm"), &x, LAYER_NORM_EPSILON)?;
        taps.put("img_encoded", &encoded);
        let pooled = match self.pool_type {
            PoolType::None => encoded,
            PoolType::Gap => encoded.mean(&[1])?.expand_dim(1)?,
        };
        taps.put("img_pre_logits", &pooled);
        let _scope = b.scope("head");
        let tokens = dense(&params.under("head"), &pooled, None)?;
        taps.put("zimg", &tokens);
        Ok(tokens)
    }

    fn blocks(&self, layers: &Params, x: &Value, taps: &mut Taps) -> Result<Value> {
        let options = ScanOptions { policy: self.remat_policy, ..Default::default() };
        let wanted = taps.wanted();
        let _scope = x.builder().scope("Transformer/encoderblock");
        let (carries, branches) =
            scan_layers(layers, self.depth, std::slice::from_ref(x), &[], options, |layer, carries, _| {
                let (x, attended, expanded) = self.block(layer, &carries[0])?;
                let outputs = if wanted { vec![attended, expanded, x.clone()] } else { vec![] };
                Ok((vec![x], outputs))
            })?;
        for (name, stacked) in ["sa", "mlp", "out"].iter().zip(&branches) {
            for layer in 0..self.depth {
                taps.put(format!("img_block{layer:02}_{name}"), &stacked.index_in_dim(0, layer)?);
            }
        }
        Ok(carries[0].clone())
    }

    /// One block: its output and those of its two branches.
    fn block(&self, layer: &Params, x: &Value) -> Result<(Value, Value, Value)> {
        let b = layer.builder();
        let attended = {
            let _scope = b.scope("attn");
            let normed = layer_norm(&layer.under("LayerNorm_0"), x, LAYER_NORM_EPSILON)?;
            multi_head_attention(&layer.under("MultiHeadDotProductAttention_0"), &normed, self.dtype_mm)?
        };
        // Branches in a narrow type join the residual stream in its own.
        let (x, wide) = crate::nn::promote(x, &attended)?;
        let x = x.add(&wide)?;

        let _scope = b.scope("mlp");
        let mlp = layer.under("MlpBlock_0");
        let normed = layer_norm(&layer.under("LayerNorm_1"), &x, LAYER_NORM_EPSILON)?;
        let hidden = gelu(&dense(&mlp.under("Dense_0"), &normed, Some(self.dtype_mm))?)?;
        let expanded = dense(&mlp.under("Dense_1"), &hidden, Some(self.dtype_mm))?;
        let (x, wide) = crate::nn::promote(&x, &expanded)?;
        Ok((x.add(&wide)?, attended, expanded))
    }
}

/// Position embeddings `[1, rows · columns, width]` of MoCo v3 (`posemb_sincos_2d`).
fn sincos_2d(b: &Builder, rows: usize, columns: usize, width: usize) -> Result<Value> {
    if !width.is_multiple_of(4) {
        return Err(b.error(format!("sincos2d expects a width that 4 divides, got {width}")));
    }
    let quarter = width / 4;
    let grid = Shape::new(DType::F32, [rows * columns, quarter]);
    let patch = b.iota(grid.with_dtype(DType::S32), 0)?;
    let columns = patch.full_like(columns as f64)?;
    let (y, x) = (patch.div(&columns)?.convert(DType::F32)?, patch.rem(&columns)?.convert(DType::F32)?);
    let exponent = b.iota(grid.clone(), 1)?.div_scalar(quarter as f64 - 1.0)?;
    let omega = b.full(&grid, 1.0)?.div(&b.full(&grid, 10_000.0)?.pow(&exponent)?)?;
    let (y, x) = (y.mul(&omega)?, x.mul(&omega)?);
    Value::concatenate(&[&x.sin()?, &x.cos()?, &y.sin()?, &y.cos()?], 1)?.expand_dim(0)
}
