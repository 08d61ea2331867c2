//! Ops on entries and arrays of any kind (big_vision's `pp/ops_general.py`).

use super::args::Args;
use super::literal::Literal;
use super::registry::{IMAGE, Map, Op, Run, map, run};
use super::spec::SyntaxError;
use super::value::{Example, Strings, Value, num_elements};
use super::{Env, Problem};
use crate::array::{DType, HostArray, Shape};

pub(super) const OPS: &[Op] = &[
    map(
        "value_range(vmin=-1, vmax=1, in_min=0, in_max=255.0, clip_values=False)",
        IMAGE,
        "map numbers linearly from [in_min, in_max] (scalars, or one per channel) to [vmin, vmax], as f32",
        value_range,
    ),
    run("keep(*keys)", "drop all entries but these", keep),
    run("drop(*keys)", "drop these entries", drop_keys),
    run("copy(inkey, outkey)", "store the value of inkey under outkey too", copy),
    run("flatten(keys=None)", "turn nested dicts into entries named a/b", flatten),
    run("setdefault(key, value)", "set a missing or empty entry", setdefault),
    run("getidx(inkey, index_key, outkey=None)", "take the row that another entry numbers", getidx),
    run("concat(inkeys, outkey=None, axis=-1)", "join arrays along an axis", concat),
    run(
        "onehot(depth, key='labels', key_result=None, multi=True, on=1.0, off=0.0)",
        "encode labels as vectors of on and off; multi merges several labels into one vector",
        onehot,
    ),
    map("reshape(new_shape)", IMAGE, "give an array other extents; one of them may be -1", reshape),
    map("squeeze_last_dim()", IMAGE, "drop a last dimension of extent 1", |_, _| {
        Ok(Box::new(|value, _| match value.dims().split_last() {
            Some((1, dims)) => value.reshaped(dims.to_vec()),
            _ => Err(Problem::expected("a last dimension of extent 1", &value)),
        }))
    }),
    map(
        "pad_to_shape(shape, pad_value=0, where='after')",
        IMAGE,
        "pad every dimension to an extent (None: leave it), before, after or on both sides",
        pad_to_shape,
    ),
    map(
        "rag_tensor()",
        IMAGE,
        "make an array or strings the one row of a ragged batch: add a first dimension of extent 1",
        |_, _| {
            Ok(Box::new(|value, _| match value.dims() {
                dims if dims.is_empty() => Err(Problem::expected("at least one dimension", &value)),
                dims => value.reshaped([&[1], &dims[..]].concat()),
            }))
        },
    ),
    map("majority()", IMAGE, "the most frequent of a vector's values, the first of equals", |_, _| {
        Ok(Box::new(|value, _| majority(&value)))
    }),
];

/// Every element as `f32`; images come as `u8` or are floats already.
pub(super) fn to_f32(array: &HostArray) -> Vec<f32> {
    match (array.values::<f32>(), array.values::<u8>()) {
        (Ok(values), _) => values.to_vec(),
        (_, Ok(values)) => values.iter().map(|&value| f32::from(value)).collect(),
        _ => array.to_f64().into_iter().map(|value| value as f32).collect(),
    }
}

/// The array that `tf.constant` makes of a literal: integers are s32, floats f32.
pub(super) fn constant(value: &Literal) -> Option<Value> {
    let items = value.items().unwrap_or(std::slice::from_ref(value));
    let dims: Vec<usize> = value.items().map(|items| items.len()).into_iter().collect();
    if items.iter().all(|item| matches!(item, Literal::Str(_))) && !items.is_empty() {
        let text = |item: &Literal| if let Literal::Str(text) = item { text.clone() } else { String::new() };
        return Strings::new(dims, items.iter().map(text).collect()).ok().map(Value::Text);
    }
    let numbers: Vec<f64> = items.iter().map(Literal::as_f64).collect::<Option<_>>()?;
    let dtype = match () {
        () if items.iter().all(|item| matches!(item, Literal::Bool(_))) && !items.is_empty() => DType::Pred,
        () if items.iter().all(|item| matches!(item, Literal::Int(v) if i32::try_from(*v).is_ok())) => {
            DType::S32
        }
        () => DType::F32,
    };
    let numbers = HostArray::new(dims, &numbers).ok()?;
    Some(Value::Array(numbers.cast(dtype)))
}

fn value_range(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let (vmin, vmax) = (args.float("vmin")?, args.float("vmax")?);
    let (in_min, in_max) = (args.floats("in_min")?, args.floats("in_max")?);
    let clip = args.bool("clip_values")?;
    let channels = in_min.len().max(in_max.len());
    if [&in_min, &in_max].iter().any(|list| list.len() != 1 && list.len() != channels) || channels == 0 {
        return Err(args.error("`in_min` and `in_max` must have one value per channel"));
    }
    let (low, factor, high) = (vmin as f32, (vmax - vmin) as f32, vmax as f32);
    Ok(Box::new(move |value, _| {
        let array = value.as_array().ok_or_else(|| Problem::expected("an array", &value))?;
        if channels > 1 && array.dims().last() != Some(&channels) {
            return Err(Problem::invalid(format!("{channels} channels were given for {}", array.shape())));
        }
        let convert = |x: f32, channel: usize| {
            let (min, max) = (in_min[channel % in_min.len()], in_max[channel % in_max.len()]);
            let y = low + (x - min) / (max - min) * factor;
            if clip { y.max(low).min(high) } else { y }
        };
        let mut out = HostArray::zeros(array.shape().with_dtype(DType::F32));
        let to = out.values_mut::<f32>()?;
        if let (1, DType::U8) = (channels, array.dtype()) {
            let table: Vec<f32> = (0..=255u8).map(|x| convert(f32::from(x), 0)).collect();
            to.iter_mut().zip(array.bytes()).for_each(|(to, &x)| *to = table[usize::from(x)]);
        } else {
            let from = to_f32(array);
            for (to, from) in to.chunks_mut(channels).zip(from.chunks(channels)) {
                to.iter_mut().zip(from).enumerate().for_each(|(channel, (to, &x))| *to = convert(x, channel));
            }
        }
        Ok(Value::Array(out))
    }))
}

fn keep(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let keys = args.rest_strs()?;
    Ok(Box::new(move |example, _| {
        example.retain(|key| keys.iter().any(|kept| kept == key));
        Ok(())
    }))
}

fn drop_keys(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let keys = args.rest_strs()?;
    Ok(Box::new(move |example, _| {
        example.retain(|key| !keys.iter().any(|dropped| dropped == key));
        Ok(())
    }))
}

fn copy(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (inkey, outkey) = (args.str("inkey")?, args.str("outkey")?);
    Ok(Box::new(move |example, _| {
        let value = example.require(&inkey)?.clone();
        example.insert(outkey.as_str(), value);
        Ok(())
    }))
}

fn flatten(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let keys = if args.is_none("keys") { None } else { Some(args.strs("keys")?) };
    Ok(Box::new(move |example, _| {
        let (mut nested, mut others) = (Vec::new(), Vec::new());
        for (key, value) in std::mem::take(example) {
            let chosen = keys.as_ref().is_none_or(|keys| keys.contains(&key));
            if chosen { nested.push((key, value)) } else { others.push((key, value)) }
        }
        flatten_into(example, "", nested);
        others.into_iter().for_each(|(key, value)| drop(example.insert(key, value)));
        Ok(())
    }))
}

/// Entries in the order of their names, as JAX flattens trees.
fn flatten_into(out: &mut Example, prefix: &str, mut entries: Vec<(String, Value)>) {
    entries.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, value) in entries {
        let name = if prefix.is_empty() { key } else { format!("{prefix}/{key}") };
        match value {
            Value::Dict(inner) => flatten_into(out, &name, inner.into_iter().collect()),
            Value::List(items) => {
                for (i, item) in items.into_iter().enumerate() {
                    flatten_into(out, &name, vec![(i.to_string(), item)]);
                }
            }
            leaf => drop(out.insert(name, leaf)),
        }
    }
}

fn setdefault(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let key = args.str("key")?;
    let default = constant(args.get("value"))
        .ok_or_else(|| args.wrong("value", "must be a number, a string or a list of such"))?;
    Ok(Box::new(move |example, _| {
        let Some(value) = example.get(&key) else {
            example.insert(key.as_str(), default.clone());
            return Ok(());
        };
        let dims = value.dims();
        if dims.iter().product::<usize>() > 0 {
            return Ok(());
        }
        // As `tf.broadcast_to`: empty dimensions become 1.
        let dims: Vec<usize> = dims.iter().map(|&dim| dim.max(1)).collect();
        let count = dims.iter().product();
        let filled = match (value, &default) {
            (Value::Array(array), Value::Array(default)) if default.dims().is_empty() => {
                let one = default.cast(array.dtype());
                let bytes = one.bytes().repeat(count);
                Value::Array(HostArray::from_bytes(Shape::new(array.dtype(), dims), &bytes)?)
            }
            (Value::Text(_), Value::Text(default)) if default.dims().is_empty() => {
                Value::Text(Strings::new(dims, vec![default.values()[0].clone(); count])?)
            }
            (Value::List(_), default) => default.clone(),
            (value, default) => {
                let (got, value) = (default.describe(), value.describe());
                return Err(Problem::invalid(format!("cannot fill {value} with {got}")));
            }
        };
        example.insert(key.as_str(), filled);
        Ok(())
    }))
}

fn getidx(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (inkey, index_key) = (args.str("inkey")?, args.str("index_key")?);
    let outkey = args.opt_str("outkey")?.unwrap_or_else(|| inkey.clone());
    Ok(Box::new(move |example, _| {
        let index = example.require(&index_key)?;
        let index = index.as_i64().ok_or_else(|| Problem::expected("a single index", index))?;
        let value = example.require(&inkey)?;
        let rows = value.dims().first().copied().unwrap_or(0) as i64;
        // Negative indices count from the end.
        let from_start = usize::try_from(if index < 0 { index + rows } else { index });
        let out_of_range = || Problem::invalid(format!("index {index} is outside of {}", value.describe()));
        let row = value.row(from_start.map_err(|_| out_of_range())?)?;
        example.insert(outkey.as_str(), row);
        Ok(())
    }))
}

fn concat(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (inkeys, axis) = (args.strs("inkeys")?, args.int("axis")?);
    let Some(first) = inkeys.first() else { return Err(args.wrong("inkeys", "must not be empty")) };
    let outkey = args.opt_str("outkey")?.unwrap_or_else(|| first.clone());
    Ok(Box::new(move |example, _| {
        let values: Vec<&Value> = inkeys.iter().map(|key| example.require(key)).collect::<Result<_, _>>()?;
        let joined = Value::concat(&values, axis)?;
        example.insert(outkey.as_str(), joined);
        Ok(())
    }))
}

fn onehot(args: &Args, _: &Env) -> Result<Run, SyntaxError> {
    let (depth, key, multi) = (args.usize("depth")?, args.str("key")?, args.bool("multi")?);
    let outkey = args.opt_str("key_result")?.unwrap_or_else(|| key.clone());
    let (on, off) = (args.float("on")?, args.float("off")?);
    Ok(Box::new(move |example, _| {
        let value = example.require(&key)?;
        let labels = value.as_array().ok_or_else(|| Problem::expected("integer labels", value))?;
        let merge = multi && !labels.dims().is_empty();
        let mut dims = if merge { Vec::new() } else { labels.dims().to_vec() };
        dims.push(depth);
        let mut out = vec![off as f32; num_elements(&dims)?];
        // The reference computes merged vectors as hits * (on - off) + off.
        let hit = if merge { (on - off) as f32 + off as f32 } else { on as f32 };
        for (row, label) in labels.to_f64().into_iter().enumerate() {
            let inside = label >= 0.0 && (label as usize) < depth;
            match (inside, merge) {
                (true, true) => out[label as usize] = hit,
                (true, false) => out[row * depth + label as usize] = hit,
                (false, true) => return Err(Problem::invalid(format!("label {label} is not below {depth}"))),
                (false, false) => {}
            }
        }
        example.insert(outkey.as_str(), HostArray::new(dims, &out)?);
        Ok(())
    }))
}

fn reshape(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let wrong = || args.wrong("new_shape", "must be a list of extents, one of which may be -1");
    let shape = args.shape("new_shape")?.into_iter().collect::<Option<Vec<i64>>>().ok_or_else(wrong)?;
    if shape.iter().filter(|&&extent| extent == -1).count() > 1 {
        return Err(wrong());
    }
    Ok(Box::new(move |value, _| {
        let count: usize = value.dims().iter().product();
        let known: usize = shape.iter().filter_map(|&extent| usize::try_from(extent).ok()).product();
        let free = count.checked_div(known).unwrap_or(0);
        let dims = shape.iter().map(|&extent| usize::try_from(extent).unwrap_or(free)).collect();
        value.reshaped(dims)
    }))
}

fn pad_to_shape(args: &Args, _: &Env) -> Result<Map, SyntaxError> {
    let shape = args.shape("shape")?;
    let pad_value = args.float("pad_value")?;
    let place = args.word("where", &["before", "after", "both"])?;
    Ok(Box::new(move |value, _| {
        let dims = value.dims();
        if dims.len() != shape.len() {
            let message = format!("{} has not the {} dimensions of the shape", value.describe(), shape.len());
            return Err(Problem::invalid(message));
        }
        let mut value = value;
        for (axis, extent) in shape.iter().enumerate() {
            let Some(extent) = extent else { continue };
            let array = value.as_array().ok_or_else(|| Problem::expected("an array", &value))?;
            let missing = usize::try_from(extent - dims[axis] as i64).map_err(|_| {
                Problem::invalid(format!("{} is larger than {extent} in dimension {axis}", array.shape()))
            })?;
            let before = match place.as_str() {
                "before" => missing,
                "after" => 0,
                _ => missing / 2,
            };
            let fill = |count: usize| -> Result<Value, Problem> {
                let mut dims = array.dims().to_vec();
                dims[axis] = count;
                let zeros = vec![pad_value; num_elements(&dims)?];
                Ok(Value::Array(HostArray::new(dims, &zeros)?.cast(array.dtype())))
            };
            value = Value::concat(&[&fill(before)?, &value, &fill(missing - before)?], axis as i64)?;
        }
        Ok(value)
    }))
}

fn majority(value: &Value) -> Result<Value, Problem> {
    let rows = match value.dims()[..] {
        [rows] if rows > 0 => rows,
        _ => return Err(Problem::expected("a vector with values", value)),
    };
    let items: Vec<Value> = (0..rows).map(|row| value.row(row)).collect::<Result<_, _>>()?;
    let count = |item: &Value| items.iter().filter(|other| *other == item).count();
    let mut best = (0, 0);
    for (row, item) in items.iter().enumerate() {
        let count = count(item);
        if count > best.0 {
            best = (count, row);
        }
    }
    Ok(items[best.1].clone())
}
