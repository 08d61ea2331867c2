use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use super::super::Row;
use super::value::{example, same_literal, same_value, shape_of, value};
use super::{Tally, ids};
use crate::array::HostArray;
use crate::pp::{self, Env, Example, Param, Pipeline, Value, spec};
use crate::tokenizer::Tokenizer;

/// What the notebook's `preprocess_tokens` and `postprocess_tokens` do, as a pp string.
pub(super) fn notebook(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let file = recorded["tokenizer"].as_str()?;
    let (env, tokenizer) = (Env::new(dir), Tokenizer::open(dir.join(file)).ok()?);
    let [mut before, mut after] =
        ["preprocess", "postprocess"].map(|name| Tally::new(format!("notebook {name}")));
    for case in recorded["cases"].as_array()? {
        let prefix = case["prefix"].as_str()?;
        // An empty suffix is none, and has no end token either.
        let suffix = case["suffix"].as_str().filter(|suffix| !suffix.is_empty());
        let length = case["seqlen"].as_u64().unwrap_or(0);
        let tok = |args: &str| format!("tok({args}, model='sp(\"{file}\")')|");
        let mut chain = tok("key='prefix', bos='yes'") + &tok(r"key='septok', text='\n'");
        chain += &match suffix {
            Some(_) => {
                tok("key='suffix', eos='yes'")
                    + "masked_concat(['prefix', 'septok', 'suffix'], \
                outkey='tokens', mask_ar=[0, 0, 1], mask_loss=[0, 0, 1], mask_input=[1, 1, 1])"
            }
            None => "masked_concat(['prefix', 'septok'], outkey='tokens', mask_ar=[0, 0], mask_loss=[0, 0], \
                mask_input=[1, 1])"
                .to_owned(),
        };
        let keys = ["tokens", "mask_ar", "mask_loss", "mask_input"];
        for key in keys {
            chain += &format!("|tolen({length}, pad_value=0, key='{key}')");
        }
        let input = Example::from_iter([("prefix", prefix), ("suffix", suffix.unwrap_or_default())]);
        let got = Pipeline::parse(&chain, &env).and_then(|pipeline| pipeline.run(input, 0)).ok()?;
        let holds = |key: &str| Some(got.get(key)? == &Value::from(ids(&case[key])?.as_slice()));
        before.case(keys.into_iter().all(|key| holds(key) == Some(true)), prefix);
        let text = tokenizer.decode_until_eos(&ids(&case["tokens"])?).ok();
        after.case(text.as_deref() == case["postprocess"].as_str(), prefix);
    }
    Some([before.rows(), after.rows()].concat())
}

/// Sections and pipelines: accepted or refused, names and arguments.
pub(super) fn parser(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let mut sections = Tally::new("pp_parse specs");
    let mut refused = Tally::new("pp_parse specs that no op could take, refused");
    for case in recorded["specs"].as_array()? {
        let section = case["spec"].as_str()?;
        let parsed = spec::parse_section(section);
        if is_useless(case) {
            refused.case(parsed.is_err(), section);
            continue;
        }
        let holds = match (&parsed, case.get("error")) {
            (Err(_), Some(_)) => true,
            (Ok(call), None) => is_call(call, case)?,
            _ => false,
        };
        sections.case(holds, section);
    }
    let env = Env::new(dir);
    let mut pipelines = Tally::new("pp_parse pipelines");
    for case in recorded["pipelines"].as_array()? {
        let pp = case["pp"].as_str()?;
        let holds = match (Pipeline::parse(pp, &env), case["ops"].as_array()) {
            (Err(_), None) => true,
            (Ok(got), Some(ops)) => got.op_names().map(Some).eq(ops.iter().map(Json::as_str)),
            _ => false,
        };
        pipelines.case(holds, pp);
    }
    Some([sections, refused, pipelines].into_iter().flat_map(Tally::rows).collect())
}

/// Whether Python parses to something that [`spec`] refuses by design: complex numbers, `...`, integers beyond 64
/// bits, `**{…}`, characters by name.
fn is_useless(case: &Json) -> bool {
    let lists = [&case["args"], &case["kwargs"]].into_iter().filter_map(Json::as_array).flatten();
    let mut values = lists.map(|item| item.get(1).filter(|_| item.is_array()).unwrap_or(item));
    let is_useless = |value: &Json| {
        value.get("complex").is_some() || value.get("ellipsis").is_some() || value["int"].is_string()
    };
    let has_nameless =
        case["kwargs"].as_array().is_some_and(|pairs| pairs.iter().any(|pair| pair[0].is_null()));
    has_nameless
        || values.any(is_useless)
        || case.get("error").is_none() && case["spec"].as_str().is_some_and(|spec| spec.contains(r"\N{"))
}

fn is_call(call: &spec::Call, case: &Json) -> Option<bool> {
    let (args, kwargs) = (case["args"].as_array()?, case["kwargs"].as_array()?);
    let same_args = call.args.iter().zip(args).all(|((got, _), expected)| same_literal(got, expected));
    let same_kwargs = call.kwargs.iter().zip(kwargs).all(|((name, got, _), expected)| {
        Some(name.as_str()) == expected[0].as_str() && same_literal(got, &expected[1])
    });
    let same_counts = call.args.len() == args.len() && call.kwargs.len() == kwargs.len();
    Some(Some(call.name.as_str()) == case["name"].as_str() && same_counts && same_args && same_kwargs)
}

/// Every op of the reference: its parameters, in their order and with their defaults, and its default keys. Ours may
/// take more, if it need not be given.
pub(super) fn signatures(_: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let mut tally = Tally::new("pp_ops signatures");
    for (name, expected) in recorded.as_object()? {
        // The recording of big_vision's registry has tokenizers and token sets too.
        let name = name.strip_prefix("preprocess_ops.").unwrap_or(name);
        if !name.contains('.') {
            tally.case(has_signature(name, expected).unwrap_or(false), name);
        }
    }
    Some(tally.rows())
}

fn has_signature(name: &str, expected: &Json) -> Option<bool> {
    let signature = &pp::ops().find(|op| op.signature.name == name)?.signature;
    let find = |name: &str| signature.params.iter().find(|param| param.name == name);
    let mut wanted = Vec::new();
    for param in expected["params"].as_array()? {
        let name = param["name"].as_str()?;
        let holds = match param["kind"].as_str()? {
            "var_positional" => signature.var_args.as_deref() == Some(name),
            "var_keyword" => signature.var_kwargs.as_deref() == Some(name),
            kind => {
                let found = find(name)?;
                wanted.push(name);
                let same_default = match (&found.default, param.get("default")) {
                    (Some(got), Some(expected)) => same_literal(got, expected),
                    (got, expected) => got.is_none() && expected.is_none(),
                };
                found.keyword_only == (kind == "keyword_only") && same_default
            }
        };
        if !holds {
            return Some(false);
        }
    }
    if let Some(keys) = expected.get("in_out_key") {
        for key in ["inkey", "outkey"] {
            wanted.push(key);
            if !find(key)?.default.as_ref().is_some_and(|default| same_literal(default, &keys[key])) {
                return Some(false);
            }
        }
    }
    let is_wanted = |param: &&Param| wanted.contains(&param.name.as_str());
    let same_order = signature.params.iter().filter(is_wanted).map(|param| &param.name).eq(&wanted);
    Some(same_order && signature.params.iter().all(|param| is_wanted(&param) || param.default.is_some()))
}

/// Ops on text and general arrays.
pub(super) fn ops(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let env = Env::new(dir);
    let mut tally = Tally::new("pp_text");
    for case in recorded["cases"].as_array()? {
        let pp = case["pp"].as_str()?;
        let input = example(&case["data"])?;
        let result = Pipeline::parse(pp, &env).and_then(|pipeline| pipeline.run(input, 7));
        let holds = match (result, case.get("out")) {
            (Err(_), None) => true,
            (Ok(got), Some(expected)) => {
                let order = case["key_order"].as_array()?.iter().map(Json::as_str);
                got.keys().map(Some).eq(order) && same_example(&got, &example(expected)?)
            }
            _ => false,
        };
        tally.case(holds, pp);
    }
    Some(tally.rows())
}

fn same_example(got: &Example, expected: &Example) -> bool {
    let same = |(key, expected): (&str, &Value)| got.get(key).is_some_and(|got| same_value(got, expected));
    got.len() == expected.len() && expected.iter().all(same)
}

/// The transfers' pp strings on one made-up example.
pub(super) fn configs_end_to_end(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let env = Env::new(dir);
    let file = |name: &str| fs::read(dir.join(name)).ok().map(Value::Bytes);
    let image = file(recorded["image_file"].as_str()?)?;
    let decode = |pp: &str| {
        let input = Example::from_iter([("image", image.clone())]);
        let decoded = Pipeline::parse(pp, &env).ok()?.run(input, 0).ok()?;
        decoded.get("image").cloned()
    };
    let left = decode("decode")?;
    let right = mirrored(left.as_array()?)?;
    let frames =
        (0..3).map(|frame| file(&format!("example_frame{frame}.jpg"))).collect::<Option<Vec<_>>>()?;
    let mut tally = Tally::new("configs_e2e");
    for case in recorded["cases"].as_array()? {
        let (config, pp) = (case["config"].as_str()?, case["pp"].as_str()?);
        let mut input = example(&recorded["example"])?;
        if let Some(changed) = case.get("override") {
            example(changed)?.into_iter().for_each(|(key, value)| drop(input.insert(key, value)));
        }
        input.insert("image", image.clone());
        input.insert("image_left", left.clone());
        input.insert("image_right", right.clone());
        input.insert("episodic_images", Value::List(frames.clone()));
        let got = Pipeline::parse(pp, &env).and_then(|pipeline| pipeline.run(input, 0)).ok();
        let expected = case["out"].as_object()?;
        let same = |got: &Example| {
            let mut entries = expected.iter().map(|(key, expected)| (got.get(key), expected));
            got.len() == expected.len()
                && entries.all(|(got, expected)| same_entry(got, expected) == Some(true))
        };
        tally.case(got.is_some_and(|got| same(&got)), format!("{config} {}", case["where"].as_str()?));
    }
    Some(tally.rows())
}

/// Images are recorded by their shape, mean and standard deviation.
fn same_entry(got: Option<&Value>, expected: &Json) -> Option<bool> {
    const TOLERANCE: f64 = 1e-3;
    let Some(mean) = expected.get("mean").and_then(Json::as_f64) else {
        return Some(same_value(got?, &value(expected)?));
    };
    let array = got?.as_array()?;
    let values = array.to_f64();
    let average = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|value| (value - average).powi(2)).sum::<f64>() / values.len() as f64;
    let is_near = |got: f64, expected: f64| (got - expected).abs() <= TOLERANCE;
    let same_shape = array.dims() == shape_of(&expected["shape"])?;
    Some(same_shape && is_near(average, mean) && is_near(variance.sqrt(), expected["std"].as_f64()?))
}

fn mirrored(image: &HostArray) -> Option<Value> {
    let &[_, width, channels] = image.dims() else { return None };
    let rows = image.bytes().chunks_exact(width * channels);
    let bytes: Vec<u8> = rows.flat_map(|row| row.rchunks_exact(channels)).flatten().copied().collect();
    HostArray::new(image.dims(), &bytes).ok().map(Value::Array)
}

/// The pp strings of all transfers parse, and name the recorded ops.
pub(super) fn configs(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let env = Env::new(dir);
    let mut tally = Tally::new("configs_pp");
    for (config, recorded) in recorded.as_object()? {
        let mut names = Vec::new();
        for entry in recorded["pp"].as_array()? {
            let pp = entry["pp"].as_str()?;
            let calls = spec::parse(pp);
            names.extend(calls.iter().flatten().map(|call| call.name.clone()));
            // Gemma's vocabulary and the weights of the mask encoder are no part of the recording.
            let local = pp
                .replace(
                    r#"gemma(tokensets=("loc", "seg"))"#,
                    r#"gemma(tokensets=("loc", "seg"), model="tokenizer.model")"#,
                )
                .replace("|refcoco_mask2str|", "|");
            let parsed = Pipeline::parse(&local, &env);
            tally.case(calls.is_ok() && parsed.is_ok(), format!("{config} {pp}"));
        }
        names.sort();
        names.dedup();
        let expected = recorded["ops"].as_array()?.iter().map(Json::as_str);
        tally.case(names.iter().map(|name| Some(name.as_str())).eq(expected), format!("{config} ops"));
    }
    Some(tally.rows())
}
