//! The decoder: big_vision's `models/ppp/gemma.py`.
//!
//! Axes are named as there: B batch, T query length, S key length, N query heads, K key heads, G query
//! heads per key head, H head dim, D width.

use std::str::FromStr;

use super::Taps;
use crate::array::{DType, Shape};
use crate::graph::{DotDims, RematPolicy, Result, ScanOptions, Value};
use crate::nn::{AttentionMask, Dropout, Params, Rope, dropout, gelu, rms_norm, scan_layers, softmax};
use crate::params::{Distribution, FanMode, Init, ParamSpec};

/// Sizes and number formats of a Gemma decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct GemmaConfig {
    pub width: usize,
    pub depth: usize,
    pub mlp_dim: usize,
    pub num_heads: usize,
    /// As many as heads (one `qkv_einsum`) or fewer (`q_einsum` and `kv_einsum`).
    pub num_kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub query_pre_attn_norm: QueryNorm,
    /// Bound of attention's logits; 0 for none.
    pub attn_logits_softcap: f64,
    /// Bound of the logits of decoding steps; 0 for none. The loss and the prefill never see it.
    pub final_logits_softcap: f64,
    /// Whether branches are normed again before they join the residual stream.
    pub post_norms: bool,
    /// Rate at which outputs of branches are dropped in training.
    pub dropout: f64,
    pub remat_policy: RematPolicy,
    /// The type of activations; matrix products are computed in it, norms and softmax in `f32`.
    pub embed_dtype: DType,
    /// The type of cached keys and values.
    pub cache_dtype: DType,
}

/// By what queries are scaled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryNorm {
    /// `1 / sqrt(head_dim)`.
    RsqrtHeadDim,
    /// `1 / sqrt(width / num_heads)`: Gemma 2 27B.
    RsqrtEmbPerHead,
}

impl FromStr for QueryNorm {
    type Err = String;

    fn from_str(name: &str) -> std::result::Result<Self, String> {
        match name {
            "rsqrt_head_dim" => Ok(QueryNorm::RsqrtHeadDim),
            "rsqrt_emb_per_head" => Ok(QueryNorm::RsqrtEmbPerHead),
            _ => Err(format!(
                "unknown query_pre_attn_norm \"{name}\", known are: rsqrt_head_dim, rsqrt_emb_per_head"
            )),
        }
    }
}

/// Cached keys and values of all layers, `[L, B, S, K, H]`. Those of 16-bit floats are kept as their bits,
/// in `u16`: XLA's CPU backend would widen the whole cache to `f32` and back for each entry it writes.
#[derive(Debug, Clone)]
pub struct KvCache {
    pub keys: Value,
    pub values: Value,
}

/// How a pass over the layers uses the cache.
enum Cache<'a> {
    /// Training: there is none.
    Off,
    /// The sequence becomes the first entries of a cache of this many.
    Prefill { size: usize },
    /// The token's entries are written at the scalar position, and all entries are attended to.
    Extend { cache: &'a KvCache, position: &'a Value },
}

/// Where dropout happens in a block.
const AFTER_ATTENTION: usize = 0;
const AFTER_MLP: usize = 1;
pub(super) const DROPOUT_SITES: usize = 2;

impl GemmaConfig {
    /// The parameters.
    pub fn params(&self) -> Vec<ParamSpec> {
        let (d, f) = (self.width, self.mlp_dim);
        let (n, k, h) = (self.num_heads, self.num_kv_heads, self.head_dim);
        let spec =
            |name: &str, dims: &[usize], init: Init| ParamSpec::new(name, Shape::new(DType::F32, dims), init);
        let mut layer = vec![
            spec("attn/attn_vec_einsum/w", &[n, h, d], Init::truncated_normal(&[0, 1], &[2])),
            spec("mlp/gating_einsum", &[2, d, f], Init::truncated_normal(&[1], &[0, 2])),
            spec("mlp/linear", &[f, d], Init::truncated_normal(&[0], &[1])),
            spec("pre_attention_norm/scale", &[d], Init::Zeros),
            spec("pre_ffw_norm/scale", &[d], Init::Zeros),
        ];
        if n == k {
            let init = Init::truncated_normal(&[2], &[0, 1, 3]);
            layer.push(spec("attn/qkv_einsum/w", &[3, n, d, h], init));
        } else {
            layer.push(spec("attn/q_einsum/w", &[n, d, h], Init::truncated_normal(&[1], &[0, 2])));
            layer.push(spec("attn/kv_einsum/w", &[2, k, d, h], Init::truncated_normal(&[2], &[0, 1, 3])));
        }
        if self.post_norms {
            layer.push(spec("post_attention_norm/scale", &[d], Init::Zeros));
            layer.push(spec("post_ffw_norm/scale", &[d], Init::Zeros));
        }
        let embedding = Init::variance_scaling(1.0, FanMode::In, Distribution::Normal, &[1], &[0]);
        let mut specs = vec![
            spec("embedder/input_embedding", &[self.vocab_size, d], embedding),
            spec("final_norm/scale", &[d], Init::Zeros),
        ];
        specs.extend(layer.into_iter().map(|l| l.stacked(self.depth).under("layers")));
        specs
    }

    /// Embeddings `[B, T, D]` of tokens `s32 [B, T]`, scaled by `sqrt(D)` in the table's type.
    #[track_caller]
    pub fn embed(&self, params: &Params, tokens: &Value) -> Result<Value> {
        let _scope = params.builder().scope("embedder");
        let table = params.get("embedder/input_embedding")?;
        let scale = params.builder().scalar(DType::F32, self.width as f64)?.sqrt()?.convert(table.dtype())?;
        table.take(tokens)?.mul(&scale)
    }

    /// Logits `f32 [B, T, V]` of normed activations, without the final soft-cap.
    #[track_caller]
    pub fn logits(&self, params: &Params, pre_logits: &Value) -> Result<Value> {
        let _scope = params.builder().scope("embedder");
        logits(params.get("embedder/input_embedding")?, pre_logits)
    }

    /// Logits bounded by the final soft-cap, if there is one.
    #[track_caller]
    pub fn capped(&self, logits: &Value) -> Result<Value> {
        soft_cap(logits, self.final_logits_softcap)
    }

    /// Normed activations of an embedded sequence `[B, T, D]`, for training and scoring.
    #[track_caller]
    pub fn forward(
        &self,
        params: &Params,
        x: &Value,
        mask: &AttentionMask,
        dropout: Option<&Dropout>,
        taps: &mut Taps,
    ) -> Result<Value> {
        let b = params.builder();
        let &[batch, length, _] = x.dims() else {
            return Err(b.error(format!("gemma expects a sequence [B, T, D], got {}", x.shape())));
        };
        let positions = b.iota(Shape::new(DType::S32, [batch, length]), 1)?;
        let (x, _) = self.layers(params, x, &positions, mask, dropout, Cache::Off)?;
        taps.put("llm_encoded", &x);
        let normed = self.final_norm(params, &x)?;
        taps.put("llm_pre_logits", &normed);
        Ok(normed)
    }

    /// As [`forward`](Self::forward) at explicit positions `s32 [B, T]`, also filling a cache of
    /// `cache_size` entries. The mask is `[B, T, T]`.
    #[track_caller]
    pub fn prefill(
        &self,
        params: &Params,
        x: &Value,
        positions: &Value,
        mask: &AttentionMask,
        cache_size: usize,
    ) -> Result<(Value, KvCache)> {
        let (x, cache) =
            self.layers(params, x, positions, mask, None, Cache::Prefill { size: cache_size })?;
        let cache = cache.ok_or_else(|| params.builder().error("prefill expects a cache".into()))?;
        Ok((self.final_norm(params, &x)?, cache))
    }

    /// One more token `[B, 1, D]`, whose keys and values go to entry `position` (`s32[]`) of the cache.
    /// The mask is `[B, 1, S]`.
    #[track_caller]
    pub fn extend(
        &self,
        params: &Params,
        x: &Value,
        positions: &Value,
        mask: &AttentionMask,
        cache: &KvCache,
        position: &Value,
    ) -> Result<(Value, KvCache)> {
        let (x, cache) = self.layers(params, x, positions, mask, None, Cache::Extend { cache, position })?;
        let cache = cache.ok_or_else(|| params.builder().error("extend expects a cache".into()))?;
        Ok((self.final_norm(params, &x)?, cache))
    }

    fn final_norm(&self, params: &Params, x: &Value) -> Result<Value> {
        let _scope = params.builder().scope("final_norm");
        rms_norm(&params.under("final_norm"), x)
    }

    fn layers(
        &self,
        params: &Params,
        x: &Value,
        positions: &Value,
        mask: &AttentionMask,
        dropout: Option<&Dropout>,
        cache: Cache<'_>,
    ) -> Result<(Value, Option<KvCache>)> {
        const MAX_WAVELENGTH: f64 = 10_000.0;
        let b = params.builder();
        let rope = Rope::new(positions, self.head_dim, MAX_WAVELENGTH)?;
        let options = ScanOptions { policy: self.remat_policy, ..Default::default() };
        let stacked = params.under("layers");
        let _scope = b.scope("layers");

        let mut init = vec![x.convert(self.embed_dtype)?];
        let mut xs: Vec<Value> = dropout.iter().map(|dropout| dropout.states.clone()).collect();
        if let Cache::Extend { cache, .. } = &cache {
            init.extend([cache.keys.clone(), cache.values.clone()]);
            xs.push(b.iota(Shape::new(DType::S32, [self.depth]), 0)?);
        }
        let rate = dropout.map(|dropout| dropout.rate);
        let (carries, outputs) =
            scan_layers(&stacked, self.depth, &init, &xs, options, |layer, carries, xs| {
                let drop_states = rate.map(|rate| (rate, &xs[0]));
                let mut extended = Vec::new();
                let mut filled = Vec::new();
                let x =
                    self.block(layer, &carries[0], &rope, mask, drop_states, |key, value| match &cache {
                        Cache::Off => Ok((key.clone(), value.clone())),
                        Cache::Prefill { size } => {
                            // Queries attend to what the cache has kept of the keys.
                            let (key, value) = (self.to_cache(key)?, self.to_cache(value)?);
                            let missing = size.saturating_sub(key.dims()[1]);
                            filled.push(key.pad_in_dim(1, 0, missing, 0.0)?);
                            filled.push(value.pad_in_dim(1, 0, missing, 0.0)?);
                            Ok((self.uncached(&key)?, self.uncached(&value)?))
                        }
                        Cache::Extend { position, .. } => {
                            let write = |all: &Value, new: &Value| {
                                self.write_entry(all, new, &xs[xs.len() - 1], position)
                            };
                            let (keys, key) = write(&carries[1], key)?;
                            let (values, value) = write(&carries[2], value)?;
                            extended.extend([keys, values]);
                            Ok((key, value))
                        }
                    })?;
                let next = std::iter::once(x).chain(extended).collect();
                Ok((next, filled))
            })?;
        let cache = match (carries.as_slice(), outputs.as_slice()) {
            ([_, keys, values], _) | ([_], [keys, values]) => {
                Some(KvCache { keys: keys.clone(), values: values.clone() })
            }
            _ => None,
        };
        Ok((carries[0].clone(), cache))
    }

    /// Writes `new [B, 1, K, H]` into the cache `[L, B, S, K, H]` and returns it with the entries of the
    /// layer, `[B, S, K, H]`.
    fn write_entry(
        &self,
        all: &Value,
        new: &Value,
        layer: &Value,
        position: &Value,
    ) -> Result<(Value, Value)> {
        let zero = all.builder().scalar(DType::S32, 0.0)?;
        let update = self.to_cache(new)?.expand_dim(0)?;
        let all = all.dynamic_update_slice(&update, &[layer, &zero, position, &zero, &zero])?;
        let mut sizes = all.dims().to_vec();
        sizes[0] = 1;
        let of_layer =
            all.dynamic_slice(&[layer, &zero, &zero, &zero, &zero], &sizes)?.reshape(&sizes[1..])?;
        Ok((all, self.uncached(&of_layer)?))
    }

    /// Keys or values as the cache keeps them.
    fn to_cache(&self, x: &Value) -> Result<Value> {
        let x = x.convert(self.cache_dtype)?;
        if x.dtype().num_bytes() == 2 { x.bitcast_convert(DType::U16) } else { Ok(x) }
    }

    /// Keys or values as attention uses them.
    fn uncached(&self, kept: &Value) -> Result<Value> {
        let is_bits = kept.dtype() == DType::U16;
        let x = if is_bits { kept.bitcast_convert(self.cache_dtype)? } else { kept.clone() };
        x.convert(self.embed_dtype)
    }

    /// One block on `[B, T, D]`. `cached` gets this layer's keys and values, and returns those to attend to.
    fn block(
        &self,
        layer: &Params,
        x: &Value,
        rope: &Rope,
        mask: &AttentionMask,
        drop: Option<(f64, &Value)>,
        cached: impl FnOnce(&Value, &Value) -> Result<(Value, Value)>,
    ) -> Result<Value> {
        let b = layer.builder();
        let drop = |x: Value, site: usize| match drop {
            Some((rate, states)) => dropout(&x, &states.index_in_dim(0, site)?, rate),
            None => Ok(x),
        };
        let residual = {
            let _scope = b.scope("attn");
            let normed = rms_norm(&layer.under("pre_attention_norm"), x)?;
            let mut branch = self.attention(&layer.under("attn"), &normed, rope, mask, cached)?;
            if self.post_norms {
                branch = rms_norm(&layer.under("post_attention_norm"), &branch)?;
            }
            drop(branch, AFTER_ATTENTION)?.add(x)?
        };
        let _scope = b.scope("mlp");
        let normed = rms_norm(&layer.under("pre_ffw_norm"), &residual)?;
        let mut branch = drop(self.feed_forward(&layer.under("mlp"), &normed)?, AFTER_MLP)?;
        if self.post_norms {
            branch = rms_norm(&layer.under("post_ffw_norm"), &branch)?;
        }
        residual.add(&branch)
    }

    fn attention(
        &self,
        params: &Params,
        x: &Value,
        rope: &Rope,
        mask: &AttentionMask,
        cached: impl FnOnce(&Value, &Value) -> Result<(Value, Value)>,
    ) -> Result<Value> {
        let (query, key, value) = if self.num_kv_heads == self.num_heads {
            let qkv = params.product("qkv_einsum/w", x, "BSD,CKDH->CBSKH")?;
            (qkv.index_in_dim(0, 0)?, qkv.index_in_dim(0, 1)?, qkv.index_in_dim(0, 2)?)
        } else {
            let query = params.product("q_einsum/w", x, "BTD,NDH->BTNH")?;
            let kv = params.product("kv_einsum/w", x, "BSD,CKDH->CBSKH")?;
            (query, kv.index_in_dim(0, 0)?, kv.index_in_dim(0, 1)?)
        };
        let scale = match self.query_pre_attn_norm {
            QueryNorm::RsqrtHeadDim => self.head_dim as f64,
            QueryNorm::RsqrtEmbPerHead => (self.width / self.num_heads) as f64,
        };
        let query = rope.apply(&query)?.mul_scalar(scale.powf(-0.5))?;
        let (key, value) = cached(&rope.apply(&key)?, &value)?;

        let &[batch, length, heads, head_dim] = query.dims() else {
            return Err(query.builder().error(format!("queries expect rank 4, got {}", query.shape())));
        };
        let groups = heads / self.num_kv_heads;
        let query = query.reshape(&[batch, length, self.num_kv_heads, groups, head_dim])?;
        let logits = query.einsum("BTKGH,BSKH->BKGTS", &key)?.convert(DType::F32)?;
        let logits = mask.apply(&soft_cap(&logits, self.attn_logits_softcap)?)?;
        let weights = softmax(&logits)?.convert(value.dtype())?;
        let mixed =
            weights.einsum("BKGTS,BSKH->BTKGH", &value)?.reshape(&[batch, length, heads, head_dim])?;
        params.product("attn_vec_einsum/w", &mixed, "BTNH,NHD->BTD")
    }

    fn feed_forward(&self, params: &Params, x: &Value) -> Result<Value> {
        let project = |index| params.product_with_group("gating_einsum", index, x, "BTD,DF->BTF");
        let hidden = gelu(&project(0)?)?.mul(&project(1)?)?;
        params.product("linear", &hidden, "BTF,FD->BTD")
    }
}

/// `tanh(x / cap) · cap`, or `x` where the cap is 0.
#[track_caller]
fn soft_cap(x: &Value, cap: f64) -> Result<Value> {
    if cap == 0.0 { Ok(x.clone()) } else { x.div_scalar(cap)?.tanh()?.mul_scalar(cap) }
}

/// `f32` products of activations `[.., D]` with an embedding table `[V, D]`, summed in `f32`.
#[track_caller]
pub(super) fn logits(table: &Value, pre_logits: &Value) -> Result<Value> {
    let table = table.convert(pre_logits.dtype())?;
    let last = pre_logits.rank() - 1;
    let dims = DotDims { lhs_contracting: vec![last], rhs_contracting: vec![1], ..Default::default() };
    pre_logits.dot_general_as(&table, dims, DType::F32)
}
