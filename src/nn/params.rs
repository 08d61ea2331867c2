use std::collections::BTreeMap;

use crate::graph::{Builder, Result, ScanOptions, Value};

/// The values of parameters, by name below some prefix.
#[derive(Debug, Clone)]
pub struct Params {
    builder: Builder,
    prefix: String,
    values: BTreeMap<String, Value>,
}

impl Params {
    pub fn new(builder: &Builder, values: impl IntoIterator<Item = (String, Value)>) -> Self {
        Params { builder: builder.clone(), prefix: String::new(), values: values.into_iter().collect() }
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
        }
    }

    /// The same parameters for use in a body of control flow, whose operations go to `body`.
    pub fn within(&self, body: &Builder) -> Params {
        Params { builder: body.clone(), ..self.clone() }
    }

    /// The same names with other values: `f` gets each name with its value.
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
    let stacked: Vec<Value> = layers.values.values().chain(xs).cloned().collect();
    layers.builder.scan(depth, init, &stacked, options, |b, carries, steps| {
        let (of_layer, xs) = steps.split_at(layers.values.len());
        let values = layers.values.keys().cloned().zip(of_layer.iter().cloned()).collect();
        let params = Params { builder: b.clone(), prefix: layers.prefix.clone(), values };
        body(&params, carries, xs)
    })
}
