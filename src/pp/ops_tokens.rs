//! Ops from text to tokens (big_vision's `pp/proj/paligemma/ops.py` and `pp/ops_text.py`).

use std::sync::Arc;

use rand::RngExt;

use super::args::Args;
use super::literal::Literal;
use super::ops_general::constant;
use super::registry::{Map, Op, Run, map, run};
use super::spec::SyntaxError;
use super::value::Value;
use super::{Env, Problem};
use crate::array::{DType, HostArray, Shape};
use crate::tokenizer::Tokenizer;

pub(super) const OPS: &[Op] = &[
    run(
        "tok(model, length=None, *, bos='no', eos='no', text=None, key=None, inkey=None, outkey=None)",
        "token ids of a string, or of a constant text; with a length, cut or padded to it",
        tok,
    ),
    run(
        "masked_concat(keys, outkey='text', **masks)",
        "join token vectors, and make masks that hold one value per vector",
        masked_concat,
    ),
    run(
        "tolen(length, *, sticky_end=False, pad_value=None, pad_key=None, key=None, inkey=None, outkey=None)",
        "cut or pad a vector to a length (0: leave it); sticky_end keeps the last element",
        tolen,
    ),
    map(
        "tokenize(max_len, eos, model='c4_en', lower=True, sample_if_multi=True, pad_value='<pad>', \
         add_bos=False)",
        [None, Some("labels")],
        "token ids of fixed length of one string (a random one of several), or of each",
        tokenize,
    ),
];

/// A tokenizer and what it puts around a text.
struct Encoder {
    tokenizer: Arc<Tokenizer>,
    bos: bool,
    eos: bool,
}

impl Encoder {
    fn encode(&self, text: &str) -> Vec<i32> {
        let mut ids = Vec::new();
        ids.extend(self.bos.then(|| self.tokenizer.bos()));
        ids.extend(self.tokenizer.encode(text));
        ids.extend(self.eos.then(|| self.tokenizer.eos()));
        ids
    }
}

/// Cuts or pads to `length`; a sticky end survives the cut.
fn fit(ids: &mut Vec<i32>, length: usize, sticky: bool, pad: i32) {
    if sticky && ids.len() >= length && length > 0 {
        let last = ids.len() - 1;
        ids.swap(length - 1, last);
    }
    ids.resize(length, pad);
}

/// A tokenizer named in argument `model`; errors inside of that string are reported at the argument.
fn open(args: &Args, env: &Env, spec: &str) -> Result<Arc<Tokenizer>, SyntaxError> {
    env.tokenizer(spec).map_err(|error| args.wrong("model", format!("is no tokenizer: {}", error.message)))
}

fn tok(args: &Args, env: &Env) -> Result<Run, SyntaxError> {
    let tokenizer = open(args, env, &args.str("model")?)?;
    let bos = args.word("bos", &["no", "yes"])? == "yes";
    let eos = args.word("eos", &["no", "yes", "sticky"])?;
    let (sticky, pad) = (eos == "sticky", tokenizer.pad());
    let length = if args.is_none("length") { 0 } else { args.usize("length")? };
    let encoder = Encoder { tokenizer, bos, eos: eos != "no" };
    let encode = move |text: &str| {
        let mut ids = encoder.encode(text);
        if length > 0 {
            fit(&mut ids, length, sticky, pad);
        }
        Value::from(ids.as_slice())
    };

    let (key, inkey) = (args.opt_str("key")?, args.opt_str("inkey")?);
    let needs_key = || args.error("needs `key`, or `inkey` or `text`, and `outkey`");
    let outkey = args.opt_str("outkey")?.or(key.clone()).ok_or_else(needs_key)?;
    if !args.is_none("text") {
        if inkey.is_some() {
            return Err(args.error("takes either `inkey` or `text`, not both"));
        }
        let ids = encode(&args.str("text")?);
        return Ok(Box::new(move |example, _| {
            example.insert(outkey.as_str(), ids.clone());
            Ok(())
        }));
    }
    let inkey = inkey.or(key).ok_or_else(needs_key)?;
    Ok(Box::new(move |example, _| {
        let value = example.require(&inkey)?;
        let text = value.as_str().ok_or_else(|| Problem::expected("a single string", value))?;
        let ids = encode(text);
        example.insert(outkey.as_str(), ids);
        Ok(())
    }))
}

fn masked_concat(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (keys, outkey) = (args.strs("keys")?, args.str("outkey")?);
    let mut masks: Vec<(String, Vec<Value>)> = Vec::new();
    for (name, list, at) in args.extra() {
        let wrong =
            |message: String| SyntaxError { at, message: format!("masked_concat: `{name}` {message}") };
        let items = list.items().ok_or_else(|| wrong("must be a list of numbers".into()))?;
        if items.len() != keys.len() {
            return Err(wrong(format!("must have one value for each of {} keys, not {list}", keys.len())));
        }
        let all_ints = items.iter().all(|item| matches!(item, Literal::Int(_)));
        let values = items.iter().map(|item| match constant(item) {
            Some(Value::Array(value)) if item.as_f64().is_some() => {
                Ok(Value::Array(value.cast(if all_ints { DType::S32 } else { DType::F32 })))
            }
            _ => Err(wrong(format!("must hold numbers, not {item}"))),
        });
        masks.push((name.to_owned(), values.collect::<Result<_, _>>()?));
    }
    Ok(Box::new(move |example, _| {
        let inputs: Vec<&Value> = keys.iter().map(|key| example.require(key)).collect::<Result<_, _>>()?;
        let joined = Value::concat(&inputs, 0)?;
        let lengths: Vec<usize> = inputs.iter().map(|value| value.dims().iter().product()).collect();
        if inputs.iter().any(|value| value.dims().len() != 1) {
            return Err(Problem::expected("vectors", inputs[0]));
        }
        example.insert(outkey.as_str(), joined);
        for (name, values) in &masks {
            let parts: Vec<Value> = values
                .iter()
                .zip(&lengths)
                .map(|(value, &len)| fill(value, len))
                .collect::<Result<_, _>>()?;
            let mask = Value::concat(&parts.iter().collect::<Vec<_>>(), 0)?;
            example.insert(name.as_str(), mask);
        }
        Ok(())
    }))
}

/// A vector of `len` times the same number.
fn fill(value: &Value, len: usize) -> Result<Value, Problem> {
    let array = value.as_array().ok_or_else(|| Problem::expected("a number", value))?;
    Ok(Value::Array(HostArray::from_bytes(Shape::new(array.dtype(), [len]), &array.bytes().repeat(len))?))
}

fn tolen(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (length, sticky) = (args.usize("length")?, args.bool("sticky_end")?);
    let (pad_value, pad_key) = (constant(args.get("pad_value")), args.opt_str("pad_key")?);
    let key = args.opt_str("key")?;
    let of = |name: &str| -> Result<String, SyntaxError> {
        let found = args.opt_str(name)?;
        key.clone().or(found).ok_or_else(|| args.error("needs `key`, or `inkey` and `outkey`"))
    };
    let (inkey, outkey) = (of("inkey")?, of("outkey")?);
    if length > 0 && pad_value.is_none() && pad_key.is_none() {
        return Err(args.error("needs `pad_value` or `pad_key`"));
    }
    Ok(Box::new(move |example, _| {
        let value = example.require(&inkey)?;
        if length == 0 {
            let same = value.clone();
            example.insert(outkey.as_str(), same);
            return Ok(());
        }
        let (&[len], Value::Array(array)) = (&value.dims()[..], value) else {
            return Err(Problem::expected("a vector of numbers", value));
        };
        let size = array.dtype().num_bytes();
        let mut bytes = array.bytes().to_vec();
        if len >= length {
            bytes.truncate(length * size);
            if sticky {
                let end = &array.bytes()[(len - 1) * size..];
                bytes[(length - 1) * size..].copy_from_slice(end);
            }
        } else {
            let pad = match &pad_key {
                Some(key) => Some(example.require(key)?),
                None => pad_value.as_ref(),
            };
            // A pad value that comes from a tokenization may be a vector: its first element counts.
            let pad = pad.and_then(Value::as_array).map(|pad| pad.cast(array.dtype()));
            let one = pad.as_ref().and_then(|pad| pad.bytes().get(..size));
            let one = one.ok_or_else(|| Problem::invalid("the pad value is not a number"))?;
            bytes.extend(one.repeat(length - len));
        }
        let fitted = HostArray::from_bytes(Shape::new(array.dtype(), [length]), &bytes)?;
        example.insert(outkey.as_str(), fitted);
        Ok(())
    }))
}

fn tokenize(args: &Args, env: &Env) -> Result<Map, SyntaxError> {
    let eos = args.word("eos", &["yes", "none", "sticky"])?;
    let max_len = args.usize("max_len")?;
    let spec = format!("sp({})", Literal::Str(args.str("model")?));
    let tokenizer = open(args, env, &spec)?;
    let (lower, sample) = (args.bool("lower")?, args.bool("sample_if_multi")?);
    let pad = match args.get("pad_value") {
        Literal::Str(piece) => tokenizer.piece_to_id(piece).unwrap_or(tokenizer.unk()),
        _ => i32::try_from(args.int("pad_value")?)
            .map_err(|_| args.wrong("pad_value", "must fit in 32 bits"))?,
    };
    let encoder = Encoder { tokenizer, bos: args.bool("add_bos")?, eos: eos != "none" };
    let sticky = eos == "sticky";
    let encode = move |text: &str| {
        let mut ids = encoder.encode(&if lower { text.to_ascii_lowercase() } else { text.to_owned() });
        fit(&mut ids, max_len, sticky, pad);
        ids
    };
    Ok(Box::new(move |value, rng| {
        let Value::Text(text) = &value else { return Err(Problem::expected("strings", &value)) };
        if sample {
            let chosen = match text.values().len() {
                0 => "",
                len => &text.values()[rng.random_range(0..len as u64) as usize],
            };
            return Ok(Value::from(encode(chosen).as_slice()));
        }
        let ids: Vec<i32> = text.values().iter().flat_map(|text| encode(text)).collect();
        let dims: Vec<usize> = text.dims().iter().copied().chain([max_len]).collect();
        Ok(Value::Array(HostArray::new(dims, &ids)?))
    }))
}
