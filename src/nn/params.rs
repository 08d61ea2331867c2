use std::collections::BTreeMap;

use crate::graph::{Builder, Result, ScanOptions, Value};

/// The values of parameters, by name below some prefix.
///
/// What belongs to a parameter stands under its name below a prefix of its own, `lora/` for adapters and `quant/`
/// for scales (`lora/llm/layers/mlp/linear/a`), and follows it here wherever it goes: [`product`](Self::product)
/// finds it beside the kernel.
#[derive(Debug, Clone)]
pub struct Params {
    pub(super) builder: Builder,
    prefix: String,
    values: BTreeMap<String, Value>,
    /// What belongs to parameters, under their names and its own: `…/linear/a`.
    pub(super) parts: BTreeMap<String, Value>,
    pub(super) lora: Lora,
    /// The layers of stacks, or the pieces of each layer, where they are values of their own too. Names are those of
    /// `values` and `parts`.
    unstacked: BTreeMap<String, Vec<Value>>,
    /// The pieces of one layer's kernels, where they are values of their own too: the matrices `[inputs, outputs]` that its
    /// first axes count, or as many pieces of each, cut along the first of the inputs.
    pub(super) pieces: BTreeMap<String, Vec<Value>>,
}

/// What all adapters have in common.
#[derive(Debug, Clone, Default)]
pub(super) struct Lora {
    /// `f32[]`, which is divided by the rank.
    pub alpha: Option<Value>,
    /// Rate at which inputs of adapters with a state are dropped.
    pub dropout: f64,
}

/// What belongs to a parameter has its name below one of these.
const PARTS: [&str; 2] = ["lora/", "quant/"];
/// The factor of all adapters, `f32[]`.
pub const LORA_ALPHA: &str = "lora/alpha";

impl Params {
    pub fn new(builder: &Builder, values: impl IntoIterator<Item = (String, Value)>) -> Self {
        let mut params = Params {
            builder: builder.clone(),
            prefix: String::new(),
            values: BTreeMap::new(),
            parts: BTreeMap::new(),
            lora: Lora::default(),
            unstacked: BTreeMap::new(),
            pieces: BTreeMap::new(),
        };
        for (name, value) in values {
            if name == LORA_ALPHA {
                params.lora.alpha = Some(value);
            } else if let Some(of) = part_of(&name) {
                params.parts.insert(of.to_owned(), value);
            } else {
                params.values.insert(name, value);
            }
        }
        params
    }

    /// The same parameters, of whose stacks some have the layers as values of their own, or, where there are more, as
    /// many matrices of each layer, which its first axes count, or pieces of matrices. [`scan_layers`] then writes layer after layer and no loop:
    /// a larger program, whose weights are not cut out of a stack in each turn.
    pub fn with_layers(mut self, layers: impl IntoIterator<Item = (String, Vec<Value>)>) -> Params {
        let short = |name: String| part_of(&name).map(str::to_owned).unwrap_or(name);
        self.unstacked.extend(layers.into_iter().map(|(name, layers)| (short(name), layers)));
        self
    }

    /// The same parameters, whose layers run in a loop.
    pub fn without_layers(&self) -> Params {
        Params { unstacked: BTreeMap::new(), ..self.clone() }
    }

    /// # Errors
    /// When there is no such parameter: the model and the list of its parameters disagree.
    #[track_caller]
    pub fn get(&self, name: &str) -> Result<&Value> {
        self.values.get(name).ok_or_else(|| {
            let known: Vec<&str> = self.values.keys().map(String::as_str).collect();
            let (prefix, known) = (&self.prefix, known.join(", "));
            self.builder.error(format!("expects a parameter {prefix}{name}, got only {known}"))
        })
    }

    /// The parameters below `prefix/`, under the rest of their names.
    pub fn under(&self, prefix: &str) -> Params {
        let path = format!("{prefix}/");
        Params {
            builder: self.builder.clone(),
            prefix: format!("{}{path}", self.prefix),
            values: below(&path, &self.values),
            parts: below(&path, &self.parts),
            lora: self.lora.clone(),
            unstacked: below(&path, &self.unstacked),
            pieces: below(&path, &self.pieces),
        }
    }

    /// The same parameters for use in a body of control flow, whose operations go to `body`.
    pub fn within(&self, body: &Builder) -> Params {
        Params { builder: body.clone(), ..self.clone() }
    }

    /// The same names with other values: `f` gets each name with its value, a stack and each of its layers alike, but
    /// nothing that belongs to another.
    pub fn map(&self, f: impl Fn(&str, &Value) -> Result<Value>) -> Result<Params> {
        let mapped = |(name, value): (&String, &Value)| Ok((name.clone(), f(name, value)?));
        let values = self.values.iter().map(mapped).collect::<Result<_>>()?;
        let unstacked = self.unstacked.iter().map(|(name, layers)| {
            let of_values = self.values.contains_key(name);
            let mapped = |layer: &Value| if of_values { f(name, layer) } else { Ok(layer.clone()) };
            Ok((name.clone(), layers.iter().map(mapped).collect::<Result<_>>()?))
        });
        Ok(Params { values, unstacked: unstacked.collect::<Result<_>>()?, ..self.clone() })
    }

    pub fn builder(&self) -> &Builder {
        &self.builder
    }
}

/// Of something that belongs to a parameter, the parameter's name with its own behind it.
pub fn part_of(name: &str) -> Option<&str> {
    PARTS.iter().find_map(|prefix| name.strip_prefix(prefix))
}

/// Entries below `path`, under the rest of their names.
fn below<T: Clone>(path: &str, all: &BTreeMap<String, T>) -> BTreeMap<String, T> {
    let entry = |(name, value): (&String, &T)| Some((name.strip_prefix(path)?.to_owned(), value.clone()));
    all.iter().filter_map(entry).collect()
}

/// Runs equal layers one after another, whose parameters are stacked along a leading axis. `body` gets
/// the parameters of one layer, the carries, and the layer's part of each of `xs`.
#[track_caller]
pub fn scan_layers(
    layers: &Params,
    depth: usize,
    init: &[Value],
    xs: &[Value],
    options: ScanOptions,
    mut body: impl FnMut(&Params, &[Value], &[Value]) -> Result<(Vec<Value>, Vec<Value>)>,
) -> Result<(Vec<Value>, Vec<Value>)> {
    if !layers.unstacked.is_empty() {
        return unrolled_layers(layers, depth, init, xs, body);
    }
    let Params { values, parts, .. } = layers;
    let stacked: Vec<Value> = values.values().chain(parts.values()).chain(xs).cloned().collect();
    layers.builder.scan(depth, init, &stacked, options, |b, carries, steps| {
        let (of_layer, steps) = steps.split_at(values.len());
        let (of_parts, xs) = steps.split_at(parts.len());
        let named = |all: &BTreeMap<String, Value>, of_layer: &[Value]| {
            all.keys().cloned().zip(of_layer.iter().cloned()).collect()
        };
        let params = Params {
            builder: b.clone(),
            prefix: layers.prefix.clone(),
            values: named(values, of_layer),
            parts: named(parts, of_parts),
            lora: layers.lora.clone(),
            unstacked: BTreeMap::new(),
            pieces: BTreeMap::new(),
        };
        body(&params, carries, xs)
    })
}

#[track_caller]
fn unrolled_layers(
    layers: &Params,
    depth: usize,
    init: &[Value],
    xs: &[Value],
    mut body: impl FnMut(&Params, &[Value], &[Value]) -> Result<(Vec<Value>, Vec<Value>)>,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut carries = init.to_vec();
    let mut outputs: Vec<Vec<Value>> = Vec::new();
    for index in 0..depth {
        let of_layer = |(name, stack): (&String, &Value)| match layers.unstacked.get(name) {
            // A part may be a matrix where the layer has more axes.
            Some(own) if own.len() == depth => Ok((name.clone(), own[index].reshape(&stack.dims()[1..])?)),
            _ => Ok((name.clone(), stack.index_in_dim(0, index)?)),
        };
        let pieces = layers.unstacked.iter().filter(|(_, own)| own.len() > depth).map(|(name, own)| {
            let num_pieces = own.len() / depth;
            (name.clone(), own[index * num_pieces..][..num_pieces].to_vec())
        });
        let params = Params {
            values: layers.values.iter().map(of_layer).collect::<Result<_>>()?,
            parts: layers.parts.iter().map(of_layer).collect::<Result<_>>()?,
            pieces: pieces.collect(),
            ..layers.without_layers()
        };
        let steps = xs.iter().map(|x| x.index_in_dim(0, index)).collect::<Result<Vec<_>>>()?;
        let (next, of_layer) = body(&params, &carries, &steps)?;
        carries = next;
        outputs.push(of_layer);
    }
    let count = outputs.first().map_or(0, Vec::len);
    let stack = |i: usize| Value::stack(&outputs.iter().map(|of_layer| &of_layer[i]).collect::<Vec<_>>(), 0);
    Ok((carries, (0..count).map(stack).collect::<Result<_>>()?))
}
