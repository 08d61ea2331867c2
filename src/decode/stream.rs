//! Continuations in parts, for people who wait. The cache stays on the device from part to part.

use super::decoder::{Part, Program, Signature, download};
use super::program::{Context, Search, Tip, join};
use super::sample::Samples;
use super::{ConfigError, Continuations, Decoder, Error, Method, PromptBatch};
use crate::array::{DType, HostArray, Shape};
use crate::graph::{self, Builder, Function, Value};
use crate::hlo::{Alias, EmitOptions};
use crate::runtime::{Arg, Buffer};

/// A batch of prompts whose continuations come in parts.
#[derive(Debug)]
pub struct Stream<'a> {
    decoder: &'a mut Decoder,
    params: Vec<&'a Buffer>,
    signature: Signature,
    /// What the loop carries, with the cache. Empty after a failure.
    state: Vec<Buffer>,
    so_far: Continuations,
    is_done: bool,
}

/// Places in what the loop carries.
const NUM_STEPS: usize = 0;
const FINISHED: usize = Tip::NUM_VALUES;
const TOKENS: usize = Tip::NUM_VALUES + 1;
const LOGP: usize = Tip::NUM_VALUES + 2;

impl Decoder {
    /// Emits the first token of each prompt; [`Stream::advance`] gives the others. All together they are those
    /// of [`decode`](Self::decode).
    ///
    /// # Errors
    /// As for `decode`, and for methods that know a continuation only at their end.
    pub fn stream<'a>(
        &'a mut self,
        params: &[&'a Buffer],
        prompts: &PromptBatch,
    ) -> Result<Stream<'a>, Error> {
        if !matches!(self.config().method, Method::Sample { best_of_n: 1, .. }) {
            return Err(ConfigError::NotStreamed.into());
        }
        let signature = self.signature(params, prompts)?;
        let inputs = self.upload(prompts)?;
        let state = self.run(Part::Start, signature.clone(), params, inputs.iter().map(Arg::Keep))?;
        let empty = HostArray::zeros(Shape::new(DType::S32, [0, 0]));
        let eos_token = self.config().eos_token;
        let so_far = Continuations { tokens: empty.clone(), logp: empty, num_steps: 0, eos_token };
        let params = params.to_vec();
        let mut stream = Stream { decoder: self, params, signature, state, so_far, is_done: false };
        stream.look()?;
        Ok(stream)
    }
}

impl Stream<'_> {
    /// What was emitted so far.
    pub fn so_far(&self) -> &Continuations {
        &self.so_far
    }

    /// Whether every row has come to its end, or to as many tokens as there may be.
    pub fn is_done(&self) -> bool {
        self.is_done
    }

    /// Emits up to so many more tokens for each row, fewer where all rows end, and waits for them.
    ///
    /// # Errors
    /// Where the program does not compile or fails.
    pub fn advance(&mut self, num_steps: usize) -> Result<(), Error> {
        if self.is_done || num_steps == 0 {
            return Ok(());
        }
        let limit = (self.so_far.num_steps + num_steps).min(self.decoder.config().max_decode_len);
        let device = self.decoder.device.clone();
        let limit = device.client().upload(&HostArray::scalar(limit as i32), &device)?;
        let carried = std::mem::take(&mut self.state).into_iter().map(Arg::Donate);
        let rest = std::iter::once(Arg::Keep(&limit)).chain(carried);
        self.state = self.decoder.run(Part::Continue, self.signature.clone(), &self.params, rest)?;
        self.look()
    }

    fn look(&mut self) -> Result<(), Error> {
        let wanted = [NUM_STEPS, FINISHED, TOKENS, LOGP].map(|place| &self.state[place]);
        let [num_steps, finished, tokens, logp] = download(wanted)?;
        let num_steps = num_steps.values::<i32>()?[0] as usize;
        let all_ended = finished.bytes().iter().all(|&finished| finished != 0);
        self.is_done = all_ended || num_steps >= self.decoder.config().max_decode_len;
        self.so_far = Continuations { tokens, logp, num_steps, eos_token: self.so_far.eos_token };
        Ok(())
    }
}

impl Program<'_> {
    /// `(parameters…, image, text, mask_input, mask_ar, _mask[, random_state]) -> (what the loop carries…)`.
    pub fn start(&self) -> graph::Result<Function> {
        let b = Builder::new("decode_start");
        let params = self.params(&b)?;
        let (prompts, random) = self.prompts(&b)?;
        let context = Context::new(self.model, &params, self.config, self.signature.prompt_len)?;
        let (logits, tip) = context.prefill(&prompts)?;
        let (tip, samples) = Samples::start(&context, &prompts, tip, logits, random.as_ref(), false)?;
        b.finish(&join(tip, samples).iter().collect::<Vec<_>>())
    }

    /// `(parameters…, limit, what the loop carries…) -> (what the loop carries…)`, which is donated.
    pub fn continuation(&self) -> graph::Result<(Function, EmitOptions)> {
        let b = Builder::new("decode_continue");
        let params = self.params(&b)?;
        let limit = b.parameter("limit", Shape::scalar(DType::S32))?;
        let start = self.start()?;
        let declare = |(index, shape): (usize, &Shape)| b.parameter(&format!("carry{index}"), shape.clone());
        let carries =
            start.output_shapes().enumerate().map(declare).collect::<graph::Result<Vec<Value>>>()?;
        let (tip, samples) = carries.split_at(Tip::NUM_VALUES);
        let context = Context::new(self.model, &params, self.config, self.signature.prompt_len)?;
        let samples = Samples::from_values(samples, self.config)?;
        let (tip, samples) = context.run(Tip::from_values(tip), samples, &limit)?;
        let results = join(tip, samples);
        let first = self.num_params() + 1;
        let alias = |output: usize| Alias { parameter: first + output, output };
        let aliases = (0..results.len()).map(alias).collect();
        let function = b.finish(&results.iter().collect::<Vec<_>>())?;
        Ok((function, EmitOptions { aliases, ..EmitOptions::default() }))
    }
}
