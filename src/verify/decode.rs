//! Decoding: the logits of every greedy step and what was emitted, and what beam search found.

use serde::Deserialize;

use super::program::Session;
use super::tolerance::{BF16_CACHE_LOGITS, BF16_CACHE_LOGP, DECODER, EXACT, LOGP};
use super::{Error, Row, Tolerance};
use crate::array::{DType, HostArray, Shape};
use crate::checkpoint::Reader;
use crate::decode::{DecodeConfig, Method, PromptValues, decode};
use crate::model::Taps;
use crate::{exec, graph};

pub(super) const FILE: &str = "decode.json";
const TENSORS_FILE: &str = "decode.safetensors";

#[derive(Debug, Deserialize)]
struct RecordedDecode {
    max_decode_len: usize,
    eos_token: i32,
    greedy: RecordedGreedy,
    greedy_early_stop: Option<RecordedGreedy>,
    greedy_bf16_cache: Option<RecordedGreedy>,
    beam: Option<RecordedBeam>,
}

#[derive(Debug, Deserialize)]
struct RecordedGreedy {
    cache_dtype: String,
    #[serde(rename = "_mask")]
    mask: Vec<bool>,
    tokens: Vec<Vec<i32>>,
    logp: Vec<Vec<f32>>,
    steps_run: i32,
}

#[derive(Debug, Deserialize)]
struct RecordedBeam {
    cache_dtype: String,
    beam_size: usize,
    #[serde(rename = "_mask")]
    mask: Vec<bool>,
    tokens: Vec<Vec<i32>>,
    steps_run: i32,
}

pub(super) fn beam(session: &Session) -> Result<Vec<Row>, Error> {
    let recorded: RecordedDecode = session.recording.json(FILE)?;
    let Some(beam) = &recorded.beam else {
        let path = session.recording.path(FILE);
        return Err(Error::Unsupported { path, message: "it has no entry beam".to_owned() });
    };
    let tensors = session.recording.tensors(TENSORS_FILE)?;
    let prompts = Prompts::read(session, tensors.as_ref())?;
    let replay = Replay {
        name: "beam",
        cache_dtype: &beam.cache_dtype,
        mask: &beam.mask,
        method: Method::Beam { beam_size: beam.beam_size },
    };
    let [tokens, _, num_steps] =
        <[HostArray; 3]>::try_from(replay.run(session, &recorded, &prompts, &mut Taps::none(), &[])?)
            .map_err(|_| exec::Error::NoResult)?;
    let dims = [beam.tokens.len(), recorded.max_decode_len];
    let recorded_tokens = HostArray::new(dims, &beam.tokens.concat())?;
    let steps_run = HostArray::scalar(beam.steps_run);
    Ok(vec![
        Row::tensor("beam.tokens", &tokens, &recorded_tokens, EXACT)?,
        Row::tensor("beam.steps_run", &num_steps, &steps_run, EXACT)?,
    ])
}

pub(super) fn greedy(session: &Session) -> Result<Vec<Row>, Error> {
    let recorded: RecordedDecode = session.recording.json(FILE)?;
    let tensors = session.recording.tensors(TENSORS_FILE)?;
    let prompts = Prompts::read(session, tensors.as_ref())?;
    let mut rows = Vec::new();
    let mut replay = |name: &str, entry: Option<&RecordedGreedy>, logp: Tolerance| {
        entry.map(|entry| entry.replay(session, &recorded, &prompts, name, logp, &mut rows)).transpose()
    };
    let greedy = replay("greedy", Some(&recorded.greedy), LOGP)?;
    replay("greedy_early_stop", recorded.greedy_early_stop.as_ref(), LOGP)?;
    let bf16 = replay("greedy_bf16_cache", recorded.greedy_bf16_cache.as_ref(), BF16_CACHE_LOGP)?;
    if let Some(Logits { prefill, steps }) = greedy {
        rows.push(Row::tensor("prefill_logits", &prefill, &tensors.read("prefill_logits")?, DECODER)?);
        rows.push(Row::tensor("step_logits", &steps, &tensors.read("step_logits")?, DECODER)?);
    }
    if let Some(Logits { steps, .. }) = bf16 {
        let name = "step_logits_bf16_cache";
        rows.push(Row::tensor(name, &steps, &tensors.read(name)?, BF16_CACHE_LOGITS)?);
    }
    Ok(rows)
}

/// The prompts of a recording.
struct Prompts {
    image: HostArray,
    text: HostArray,
    mask_input: HostArray,
    mask_ar: HostArray,
}

impl Prompts {
    fn read(session: &Session, tensors: &dyn Reader) -> Result<Self, Error> {
        let recording = &session.recording;
        let prompts = Prompts {
            image: tensors.read("image")?,
            text: tensors.read("text")?,
            mask_input: tensors.read("mask_input")?,
            mask_ar: tensors.read("mask_ar")?,
        };
        let text = prompts.text.shape();
        let &[batch, _] = text.dims() else {
            let message = format!("text has the shape {text}, expected s32 rows of tokens");
            return Err(Error::Unsupported { path: recording.path(TENSORS_FILE), message });
        };
        let [height, width] = recording.config.image_size;
        let image = Shape::new(DType::F32, [batch, height, width, 3]);
        recording.expect_shape(TENSORS_FILE, "image", &prompts.image, &image)?;
        recording.expect_shape(TENSORS_FILE, "text", &prompts.text, &text.with_dtype(DType::S32))?;
        recording.expect_shape(TENSORS_FILE, "mask_input", &prompts.mask_input, text)?;
        recording.expect_shape(TENSORS_FILE, "mask_ar", &prompts.mask_ar, text)?;
        Ok(prompts)
    }
}

/// What tokens were chosen from.
struct Logits {
    /// `f32 [B, 1, V]`: at the last token of each prompt.
    prefill: HostArray,
    /// `f32 [B, max_decode_len, V]`.
    steps: HostArray,
}

/// How an entry of a recording was decoded.
struct Replay<'a> {
    name: &'a str,
    cache_dtype: &'a str,
    mask: &'a [bool],
    method: Method,
}

impl Replay<'_> {
    /// Tokens, log-probabilities and number of steps, and behind them the values that `wanted` names.
    fn run(
        &self,
        session: &Session,
        recorded: &RecordedDecode,
        prompts: &Prompts,
        taps: &mut Taps,
        wanted: &[&str],
    ) -> Result<Vec<HostArray>, Error> {
        let mut model = session.recording.config.clone();
        model.llm.cache_dtype = self.cache_dtype.parse()?;
        let config = DecodeConfig {
            method: self.method,
            ..DecodeConfig::greedy(recorded.max_decode_len, recorded.eos_token)
        };
        let bytes: Vec<u8> = self.mask.iter().map(|&real| real.into()).collect();
        let mask = HostArray::from_bytes(Shape::new(DType::Pred, [bytes.len()]), &bytes)?;
        let per_row = Shape::new(DType::Pred, [prompts.text.dims()[0]]);
        session.recording.expect_shape(FILE, &format!("{}._mask", self.name), &mask, &per_row)?;

        let Prompts { image, text, mask_input, mask_ar } = prompts;
        let inputs = [
            ("image", image),
            ("text", text),
            ("mask_input", mask_input),
            ("mask_ar", mask_ar),
            ("_mask", &mask),
        ];
        session.run(&session.params, &inputs, |params, _, inputs| {
            let prompts = PromptValues {
                image: inputs[0].clone(),
                text: inputs[1].clone(),
                mask_input: inputs[2].clone(),
                mask_ar: inputs[3].clone(),
                mask: inputs[4].clone(),
            };
            let decoded = decode(&model, params, &prompts, None, &config, taps)?;
            let taps = std::mem::take(taps).into_values();
            let tap = |name: &&str| -> graph::Result<_> {
                let found = taps.iter().find(|(tap, _)| tap == name);
                let missing = || params.builder().error(format!("decoding expects to note {name}"));
                Ok(found.ok_or_else(missing)?.1.clone())
            };
            let always = [decoded.tokens, decoded.logp, decoded.num_steps].map(Ok);
            always.into_iter().chain(wanted.iter().map(tap)).collect()
        })
    }
}

impl RecordedGreedy {
    fn replay(
        &self,
        session: &Session,
        recorded: &RecordedDecode,
        prompts: &Prompts,
        name: &str,
        logp: Tolerance,
        rows: &mut Vec<Row>,
    ) -> Result<Logits, Error> {
        let replay =
            Replay { name, cache_dtype: &self.cache_dtype, mask: &self.mask, method: Method::GREEDY };
        let wanted = ["prefill_logits", "step_logits"];
        let got = replay.run(session, recorded, prompts, &mut Taps::all(), &wanted)?;
        let [tokens, logps, num_steps, prefill, steps] =
            <[HostArray; 5]>::try_from(got).map_err(|_| exec::Error::NoResult)?;
        let prefill = {
            let &[batch, vocab_size] = prefill.dims() else { return Err(exec::Error::NoResult.into()) };
            HostArray::new([batch, 1, vocab_size], prefill.values::<f32>()?)?
        };

        let dims = [self.tokens.len(), recorded.max_decode_len];
        let recorded_tokens = HostArray::new(dims, &self.tokens.concat())?;
        let recorded_logp = HostArray::new(dims, &self.logp.concat())?;
        rows.push(Row::tensor(format!("{name}.tokens"), &tokens, &recorded_tokens, EXACT)?);
        rows.push(Row::tensor(format!("{name}.logp"), &logps, &recorded_logp, logp)?);
        let steps_run = HostArray::scalar(self.steps_run);
        rows.push(Row::tensor(format!("{name}.steps_run"), &num_steps, &steps_run, EXACT)?);
        Ok(Logits { prefill, steps })
    }
}
