//! `paligemma data ops`: the ops of preprocessing strings.

use std::fmt::Write as _;
use std::io;

use serde_json::json;

use crate::pp::{self, Literal, OpInfo, Signature};

/// List the ops of pp strings, with arguments, defaults and meaning
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Only these ops
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// Print one JSON object per op
    #[arg(long)]
    json: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no pp op \"{name}\"{}", nearest(name))]
    Unknown { name: String },
    #[error("cannot write to standard output")]
    Write(#[source] io::Error),
}

pub fn run(args: &Args) -> Result<(), Error> {
    let mut ops: Vec<&OpInfo> = pp::ops().collect();
    if !args.names.is_empty() {
        ops = args
            .names
            .iter()
            .map(|name| {
                let found = ops.iter().find(|op| op.signature.name == *name);
                found.copied().ok_or_else(|| Error::Unknown { name: name.clone() })
            })
            .collect::<Result<_, _>>()?;
    }
    let lines: Vec<String> = match args.json {
        true => ops.into_iter().map(to_json).collect(),
        false => ops.into_iter().map(to_text).collect(),
    };
    super::print_line(&lines.join("\n")).map_err(Error::Write)
}

fn to_text(op: &OpInfo) -> String {
    format!("{}\n    {}", call(&op.signature), op.meaning)
}

/// The op as it is written, arguments with their defaults: `resize(size, method='bilinear', *, key=None)`.
fn call(signature: &Signature) -> String {
    let mut parts = Vec::new();
    let positional = signature.params.iter().filter(|param| !param.keyword_only);
    parts.extend(positional.map(|param| argument(&param.name, param.default.as_ref())));
    let named: Vec<_> = signature.params.iter().filter(|param| param.keyword_only).collect();
    match &signature.var_args {
        Some(name) => parts.push(format!("*{name}")),
        None if !named.is_empty() => parts.push("*".to_owned()),
        None => {}
    }
    parts.extend(named.iter().map(|param| argument(&param.name, param.default.as_ref())));
    parts.extend(signature.var_kwargs.iter().map(|name| format!("**{name}")));
    format!("{}({})", signature.name, parts.join(", "))
}

fn argument(name: &str, default: Option<&Literal>) -> String {
    let mut text = name.to_owned();
    if let Some(default) = default {
        write!(text, "={default}").expect("writing to a string does not fail");
    }
    text
}

fn to_json(op: &OpInfo) -> String {
    let params: Vec<_> = op
        .signature
        .params
        .iter()
        .map(|param| {
            json!({
                "name": param.name,
                "default": param.default.as_ref().map(Literal::to_string),
                "keyword_only": param.keyword_only,
            })
        })
        .collect();
    let op = json!({
        "name": op.signature.name,
        "call": call(&op.signature),
        "params": params,
        "var_args": op.signature.var_args,
        "var_kwargs": op.signature.var_kwargs,
        "meaning": op.meaning,
    });
    op.to_string()
}

/// The known names that a mistyped one is like.
fn nearest(name: &str) -> String {
    let mut near: Vec<(usize, &str)> = pp::ops()
        .map(|op| (strsim::osa_distance(name, &op.signature.name), op.signature.name.as_str()))
        .collect();
    near.sort();
    let near: Vec<&str> =
        near.into_iter().filter(|(distance, _)| *distance <= 3).map(|(_, name)| name).collect();
    match near.as_slice() {
        [] => "; `paligemma data ops` lists all".to_owned(),
        near => format!(", did you mean {}?", near[..near.len().min(3)].join(" or ")),
    }
}
