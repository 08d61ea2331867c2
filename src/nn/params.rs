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
/// The factor of all adapters.
const ALPHA: &str = "lora/alpha";

impl Params {
    pub fn new(builder: &Builder, values: impl IntoIterator<Item = (String, Value)>) -> Self {
        let mut params = Params {
            builder: builder.clone(),
            prefix: String::new(),
            values: BTreeMap::new(),
            parts: BTreeMap::new(),
            lora: Lora::default(),
        };
        for (name, value) in values {
            if name == ALPHA {
                params.lora.alpha = Some(value);
            } else if let Some(of) = PARTS.iter().find_map(|prefix| name.strip_prefix(prefix)) {
                params.parts.insert(of.to_owned(), value);
            } else {
                params.values.insert(name, value);
            }
        }
        params
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
        let below =
            |(name, value): (&String, &Value)| Some((name.strip_prefix(&path)?.to_owned(), value.clone()));
        Params {
            builder: self.builder.clone(),
            prefix: format!("{}{path}", self.prefix),
            values: self.values.iter().filter_map(below).collect(),
            parts: self.parts.iter().filter_map(below).collect(),
            lora: self.lora.clone(),
        }
    }

    /// The same parameters for use in a body of control flow, whose operations go to `body`.
    pub fn within(&self, body: &Builder) -> Params {
        Params { builder: body.clone(), ..self.clone() }
    }

    /// The same names with other values: `f` gets each name with its value, but nothing that belongs to another.
    pub fn map(&self, f: impl Fn(&str, &Value) -> Result<Value>) -> Result<Params> {
        let mapped = |(name, value): (&String, &Value)| Ok((name.clone(), f(name, value)?));
        Ok(Params { values: self.values.iter().map(mapped).collect::<Result<_>>()?, ..self.clone() })
    }

    pub fn builder(&self) -> &Builder {
        &self.builder
    }
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
    body: impl FnOnce(&Params, &[Value], &[Value]) -> Result<(Vec<Value>, Vec<Value>)>,
) -> Result<(Vec<Value>, Vec<Value>)> {
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
        };
        body(&params, carries, xs)
    })
}
