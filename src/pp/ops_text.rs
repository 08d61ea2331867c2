//! Ops on strings (big_vision's `pp/ops_text.py` and `pp/proj/paligemma/ops.py`).

use super::args::Args;
use super::registry::{IMAGE, Map, Op, Run, map, run};
use super::spec::SyntaxError;
use super::value::{Strings, Value};
use super::{Env, Problem, format};

pub(super) const OPS: &[Op] = &[
    map("lower()", [Some("text"), Some("text")], "turn ASCII letters into small ones", |_, _| {
        Ok(Box::new(|value, _| match value {
            Value::Text(text) => Ok(Value::Text(text.map(|text| text.to_ascii_lowercase()))),
            other => Err(Problem::expected("strings", &other)),
        }))
    }),
    run("strfmt(template, outkey='text')", "fill the {names} of a template with entries", strfmt),
    map("strjoin(glue, axis=None)", IMAGE, "join strings, all of them or along an axis", strjoin),
    run(
        "coco_captions(outkey='captions')",
        "store captions/text of a nested dict as captions",
        coco_captions,
    ),
];

enum Part {
    Literal(String),
    Field(String),
}

fn strfmt(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let outkey = args.str("outkey")?;
    let parts = parse_template(&args.str("template")?).map_err(|message| args.wrong("template", message))?;
    Ok(Box::new(move |example, _| {
        let mut out = Strings::scalar("");
        for part in &parts {
            let text = match part {
                Part::Literal(text) => Strings::scalar(text.as_str()),
                Part::Field(name) => match example.require(name)? {
                    Value::Text(text) => text.clone(),
                    Value::Array(array) => Strings::scalar(format::array(array)),
                    other => return Err(Problem::expected("text or numbers", other)),
                },
            };
            out = join_all(out, text)?;
        }
        example.insert(outkey.as_str(), Value::Text(out));
        Ok(())
    }))
}

/// Joins element by element; a single string joins with every element.
fn join_all(left: Strings, right: Strings) -> Result<Strings, Problem> {
    if right.dims().is_empty() {
        return Ok(left.map(|text| format!("{text}{}", right.values()[0])));
    }
    if left.dims().is_empty() {
        return Ok(right.map(|text| format!("{}{text}", left.values()[0])));
    }
    if left.dims() != right.dims() {
        let message = format!("cannot join strings of shapes {:?} and {:?}", left.dims(), right.dims());
        return Err(Problem::invalid(message));
    }
    let pairs = left.values().iter().zip(right.values());
    Strings::new(left.dims(), pairs.map(|(a, b)| format!("{a}{b}")).collect())
}

/// Python's `string.Formatter().parse`, without conversions and format specs.
fn parse_template(template: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut chars = template.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '{' | '}' if chars.next_if(|&(_, next)| next == c).is_some() => literal.push(c),
            '}' => return Err("has a `}` without `{` (write `}}` for the character)".to_owned()),
            '{' => {
                let rest = &template[at + 1..];
                let Some(len) = rest.find('}') else {
                    return Err("has a `{` without `}` (write `{{` for the character)".to_owned());
                };
                let name = &rest[..len];
                if name.contains(['!', ':', '{']) {
                    return Err(format!("has `{{{name}}}`, but only plain names can be filled in"));
                }
                parts.push(Part::Literal(std::mem::take(&mut literal)));
                if !name.is_empty() {
                    parts.push(Part::Field(name.to_owned()));
                }
                while chars.next_if(|&(next, _)| next <= at + 1 + len).is_some() {}
            }
            c => literal.push(c),
        }
    }
    parts.push(Part::Literal(literal));
    Ok(parts)
}

fn strjoin(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let glue = args.str("glue")?;
    let axis = if args.is_none("axis") { None } else { Some(args.int("axis")?) };
    Ok(Box::new(move |value, _| {
        let Value::Text(text) = &value else { return Err(Problem::expected("strings", &value)) };
        let Some(axis) = axis else { return Ok(Value::from(text.values().join(&glue))) };
        let rank = text.dims().len();
        let axis = usize::try_from(if axis < 0 { axis + rank as i64 } else { axis });
        let axis = axis.ok().filter(|&axis| axis < rank);
        let axis = axis.ok_or_else(|| Problem::invalid(format!("{} lacks that axis", value.describe())))?;
        let (outer, inner) = (&text.dims()[..axis], &text.dims()[axis + 1..]);
        let (len, step) = (text.dims()[axis], inner.iter().product::<usize>());
        let joined = (0..outer.iter().product::<usize>()).flat_map(|row| (0..step).map(move |i| (row, i)));
        let joined = joined.map(|(row, i)| {
            let parts: Vec<&str> =
                (0..len).map(|k| text.values()[(row * len + k) * step + i].as_str()).collect();
            parts.join(&glue)
        });
        Ok(Value::Text(Strings::new([outer, inner].concat(), joined.collect())?))
    }))
}

fn coco_captions(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let outkey = args.str("outkey")?;
    Ok(Box::new(move |example, _| {
        let captions = match example.require("captions")? {
            Value::Dict(captions) => captions.require("text")?.clone(),
            other => return Err(Problem::expected("a dict", other)),
        };
        example.insert(outkey.as_str(), captions);
        Ok(())
    }))
}
