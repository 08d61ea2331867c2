//! How one token is chosen: the `paligemma_sampler` registry of big_vision's `predict_fns.py`, and `top_k`.

use std::fmt;
use std::str::FromStr;

use crate::array::DType;
use crate::graph::{Result, Value};
use crate::nn::softmax;

/// How a token is chosen among the logits of the next position.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub enum Sampler {
    /// The most likely token, of equals the first.
    #[default]
    Greedy,
    /// Drawn with the probabilities of the logits divided by `t`.
    Temperature { t: f64 },
    /// Drawn as with a temperature, from the likeliest tokens whose probabilities reach `p` together.
    Nucleus { p: f64, t: f64 },
    /// Drawn as with a temperature, from the `k` likeliest tokens.
    TopK { k: usize, t: f64 },
}

/// Logits stay finite when they are divided by it.
const MIN_TEMPERATURE: f64 = 1e-6;

/// The forms that a sampler can be written in.
const FORMS: &str = "greedy, temperature(t), nucleus(p, t=1), top_k(k, t=1)";

/// A sampler that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SamplerError {
    #[error("unknown sampler \"{text}\", known are: {FORMS}")]
    Unknown { text: String },
    #[error("sampler \"{text}\" {problem}; samplers are: {FORMS}")]
    Argument { text: String, problem: String },
}

impl Sampler {
    /// Tokens `s32 [B]` for logits `f32 [B, V]`, and the next random state. A sampler that draws needs a state,
    /// `u64[2]`.
    #[track_caller]
    pub(super) fn choose(self, logits: &Value, state: Option<&Value>) -> Result<(Value, Option<Value>)> {
        let (token, state) = match (self, state) {
            (Sampler::Greedy, _) => return Ok((logits.argmax(1)?, state.cloned())),
            (_, None) => {
                return Err(logits.builder().error(format!("sampler {self} expects a random state")));
            }
            (Sampler::Temperature { t }, Some(state)) => categorical(&logits.div_scalar(t)?, state)?,
            (Sampler::Nucleus { p, t }, Some(state)) => {
                categorical(&nucleus(&logits.div_scalar(t)?, p)?, state)?
            }
            (Sampler::TopK { k, t }, Some(state)) => {
                let (largest, tokens) = logits.div_scalar(t)?.top_k(k.min(logits.dims()[1]))?;
                let (place, state) = categorical(&largest, state)?;
                (tokens.take_along_last(&place.expand_dim(1)?)?.reshape(place.dims())?, state)
            }
        };
        Ok((token, Some(state)))
    }
}

/// `jax.random.categorical`: indices `s32 [B]` drawn with the probabilities that logits `[B, V]` stand for, and the
/// next state. The largest of logits with Gumbel noise added is distributed so.
#[track_caller]
fn categorical(logits: &Value, state: &Value) -> Result<(Value, Value)> {
    let (state, uniform) = logits.builder().uniform(state, logits.dims())?;
    // 0 has no logarithm.
    let uniform = uniform.max_scalar(f64::from(f32::MIN_POSITIVE))?;
    let noise = uniform.log()?.neg()?.log()?.neg()?;
    Ok((logits.convert(DType::F32)?.add(&noise)?.argmax(1)?, state))
}

/// Logits `[B, V]` without those of tokens that are not among the likeliest whose probabilities reach `p`: they become
/// minus infinity. The reference lowers them to -1e7, below which low temperatures can bring the others.
#[track_caller]
fn nucleus(logits: &Value, p: f64) -> Result<Value> {
    let sorted = Value::sort(&[logits], 1, true)?.swap_remove(0);
    let reached = softmax(&sorted)?.cumsum(1)?;
    // The place of the token that reaches it; rounding may leave the sum of all below 1.
    let cutoff = reached.lt_scalar(p)?.convert(DType::S32)?.reduce_sum(&[1])?;
    let cutoff = cutoff.min_scalar((logits.dims()[1] - 1) as f64)?.expand_dim(1)?;
    let cutoff = sorted.take_along_last(&cutoff)?.broadcast_to(logits.dims())?;
    logits.lt(&cutoff)?.select(&logits.full_like(f64::NEG_INFINITY)?, logits)
}

impl FromStr for Sampler {
    type Err = SamplerError;

    /// The form of big_vision's registry: a name, and arguments in parentheses in their order or by their names.
    fn from_str(text: &str) -> std::result::Result<Self, SamplerError> {
        let wrong = |problem: String| SamplerError::Argument { text: text.to_owned(), problem };
        let (name, inside) = match text.trim().split_once('(') {
            None => (text.trim(), ""),
            Some((name, rest)) => {
                let inside =
                    rest.strip_suffix(')').ok_or_else(|| wrong("lacks a closing parenthesis".into()))?;
                (name.trim_end(), inside)
            }
        };
        let names: &[&str] = match name {
            "greedy" => &[],
            "temperature" => &["t"],
            "nucleus" => &["p", "t"],
            "top_k" => &["k", "t"],
            _ => return Err(SamplerError::Unknown { text: text.to_owned() }),
        };
        let mut values: [Option<f64>; 2] = [None; 2];
        for (place, argument) in inside.split(',').map(str::trim).filter(|part| !part.is_empty()).enumerate()
        {
            let (index, value) = match argument.split_once('=') {
                Some((key, value)) => (names.iter().position(|name| *name == key.trim()), value.trim()),
                None => (Some(place), argument),
            };
            let index = index.filter(|&index| index < names.len());
            let index = index.ok_or_else(|| wrong(format!("has no argument {argument}")))?;
            let value = value.parse().ok().filter(|value: &f64| value.is_finite());
            let value = value.ok_or_else(|| wrong(format!("expects a number for {}", names[index])))?;
            if values[index].replace(value).is_some() {
                return Err(wrong(format!("has two values for {}", names[index])));
            }
        }
        let lacks = |name: &str| wrong(format!("lacks its argument {name}"));
        let temperature = |t: f64| {
            if t >= MIN_TEMPERATURE {
                return Ok(t);
            }
            Err(wrong(format!(
                "expects a temperature of at least {MIN_TEMPERATURE}; greedy is its limit at 0"
            )))
        };
        match (name, values) {
            ("temperature", [t, _]) => {
                Ok(Sampler::Temperature { t: temperature(t.ok_or_else(|| lacks("t"))?)? })
            }
            ("nucleus", [p, t]) => {
                let p = p.ok_or_else(|| lacks("p"))?;
                if !(0.0..=1.0).contains(&p) {
                    return Err(wrong("expects a p from 0 to 1".into()));
                }
                Ok(Sampler::Nucleus { p, t: temperature(t.unwrap_or(1.0))? })
            }
            ("top_k", [k, t]) => {
                let k = k.ok_or_else(|| lacks("k"))?;
                if k < 1.0 || k.fract() != 0.0 {
                    return Err(wrong("expects a whole k of at least 1".into()));
                }
                Ok(Sampler::TopK { k: k as usize, t: temperature(t.unwrap_or(1.0))? })
            }
            _ => Ok(Sampler::Greedy),
        }
    }
}

impl fmt::Display for Sampler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let with_temperature = |f: &mut fmt::Formatter<'_>, t: f64| match t {
            1.0 => f.write_str(")"),
            t => write!(f, ", t={t})"),
        };
        match *self {
            Sampler::Greedy => f.write_str("greedy"),
            Sampler::Temperature { t } => write!(f, "temperature({t})"),
            Sampler::Nucleus { p, t } => {
                write!(f, "nucleus({p}")?;
                with_temperature(f, t)
            }
            Sampler::TopK { k, t } => {
                write!(f, "top_k({k}")?;
                with_temperature(f, t)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::array::{HostArray, Shape};
    use crate::exec::compile;
    use crate::graph::Builder;
    use crate::hlo::EmitOptions;
    use crate::runtime::testing::cpu_client;
    use crate::runtime::{Arg, Buffer, CompileOptions};

    #[test]
    fn samplers_read_back_as_they_are_written() {
        for (text, sampler) in [
            ("greedy", Sampler::Greedy),
            ("temperature(0.5)", Sampler::Temperature { t: 0.5 }),
            ("nucleus(0.9)", Sampler::Nucleus { p: 0.9, t: 1.0 }),
            ("nucleus(0.9, t=0.5)", Sampler::Nucleus { p: 0.9, t: 0.5 }),
            ("top_k(40)", Sampler::TopK { k: 40, t: 1.0 }),
            ("top_k(40, t=2)", Sampler::TopK { k: 40, t: 2.0 }),
        ] {
            assert_eq!(text.parse(), Ok(sampler));
            assert_eq!(sampler.to_string(), text);
        }
        assert_eq!("temperature(t=1.0)".parse(), Ok(Sampler::Temperature { t: 1.0 }));
        assert_eq!(" nucleus( t=2 , p = 0.1 )".parse(), Ok(Sampler::Nucleus { p: 0.1, t: 2.0 }));
        assert_eq!("greedy()".parse(), Ok(Sampler::Greedy));
        for (text, told) in [
            ("best", "unknown sampler \"best\", known are: greedy, temperature(t), nucleus(p, t=1)"),
            ("", "unknown sampler \"\""),
            ("greedy(1)", "has no argument 1"),
            ("temperature", "lacks its argument t"),
            ("temperature(0)", "expects a temperature of at least 0.000001; greedy is its limit at 0"),
            ("nucleus(0.5, 1e-40)", "expects a temperature of at least"),
            ("temperature(nan)", "expects a number for t"),
            ("temperature(1", "lacks a closing parenthesis"),
            ("nucleus(1.5)", "expects a p from 0 to 1"),
            ("nucleus(q=0.5)", "has no argument q=0.5"),
            ("nucleus(0.5, p=0.6)", "has two values for p"),
            ("nucleus(0.5, 1, 2)", "has no argument 2"),
            ("top_k(0)", "expects a whole k of at least 1"),
            ("top_k(1.5)", "expects a whole k of at least 1"),
        ] {
            let error = text.parse::<Sampler>().unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }

    const DRAWS: usize = 20_000;
    /// Of logits that are the logarithms of these, in this order.
    const PROBABILITIES: [f64; 6] = [0.1, 0.4, 0.03, 0.27, 0.02, 0.18];

    /// How often each sampler drew each token, for each state: one program of all samplers.
    fn counts(samplers: &[Sampler], states: &[[u64; 2]]) -> Vec<Vec<[usize; 6]>> {
        let b = Builder::new("sample");
        let logits = b.parameter("logits", Shape::new(DType::F32, [1, 6])).unwrap();
        let state = b.parameter("state", Shape::new(DType::U64, [2])).unwrap();
        let rows = logits.broadcast_to(&[DRAWS, 6]).unwrap();
        let choose = |sampler: &Sampler| sampler.choose(&rows, Some(&state)).unwrap().0;
        let tokens: Vec<Value> = samplers.iter().map(choose).collect();
        let function = b.finish(&tokens.iter().collect::<Vec<_>>()).unwrap();
        let client = cpu_client();
        let (emit, options) = (EmitOptions::default(), CompileOptions::default());
        let executable = compile(&client, &function, &emit, &options).unwrap();
        // What adds the same to all logits changes nothing.
        let logits: Vec<f32> = PROBABILITIES.iter().map(|p| (p.ln() + 3.0) as f32).collect();
        let run = |state: &[u64; 2]| {
            let arrays = [HostArray::new([1, 6], &logits).unwrap(), HostArray::new([2], state).unwrap()];
            let buffers = arrays.map(|array| client.upload(&array, &client.devices()[0]).unwrap());
            let results = executable.execute(buffers.iter().map(Arg::Keep).collect()).unwrap();
            let count = |tokens: &Buffer| {
                let mut counts = [0; 6];
                let tokens = tokens.download().unwrap();
                tokens.values::<i32>().unwrap().iter().for_each(|&token| counts[token as usize] += 1);
                counts
            };
            results.iter().map(count).collect()
        };
        states.iter().map(run).collect()
    }

    /// The sum of squared distances from what is expected, in units of it. Tokens of weight 0 must not come.
    fn chi_square(counts: [usize; 6], weights: [f64; 6]) -> f64 {
        let total: f64 = weights.iter().sum();
        let term = |(count, weight): (usize, f64)| {
            let expected = weight / total * DRAWS as f64;
            if expected == 0.0 {
                return if count == 0 { 0.0 } else { f64::INFINITY };
            }
            (count as f64 - expected).powi(2) / expected
        };
        counts.into_iter().zip(weights).map(term).sum()
    }

    #[test]
    fn draws_follow_the_distribution_of_each_sampler() {
        // Of 5 degrees of freedom, exceeded once in 10 000 times; of fewer, more seldom.
        const LIMIT: f64 = 25.7;
        let p = PROBABILITIES;
        let cases = [
            (Sampler::Temperature { t: 1.0 }, p),
            (Sampler::Temperature { t: 2.0 }, p.map(f64::sqrt)),
            (Sampler::Temperature { t: 0.5 }, p.map(|p| p * p)),
            // 0.4 + 0.27 do not reach 0.7, with 0.18 they do.
            (Sampler::Nucleus { p: 0.7, t: 1.0 }, [0.0, 0.4, 0.0, 0.27, 0.0, 0.18]),
            (Sampler::Nucleus { p: 1.0, t: 1.0 }, p),
            (Sampler::Nucleus { p: 0.0, t: 1.0 }, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]),
            // Squares of 0.4, 0.27 and 0.18 make up 0.58, 0.26 and 0.12 of all squares: two of them reach 0.8.
            (Sampler::Nucleus { p: 0.8, t: 0.5 }, [0.0, 0.16, 0.0, 0.0729, 0.0, 0.0]),
            (Sampler::TopK { k: 4, t: 1.0 }, [0.1, 0.4, 0.0, 0.27, 0.0, 0.18]),
            (Sampler::TopK { k: 2, t: 0.5 }, [0.0, 0.16, 0.0, 0.0729, 0.0, 0.0]),
            (Sampler::TopK { k: 1000, t: 1.0 }, p),
        ];
        let samplers = cases.map(|(sampler, _)| sampler);
        for counts in counts(&samplers, &[[0, 0], [1, 0], [2, 0]]) {
            for ((sampler, weights), counts) in cases.into_iter().zip(counts) {
                let chi_square = chi_square(counts, weights);
                println!("{sampler}: {chi_square:.2}");
                assert!(chi_square < LIMIT, "{sampler}: {counts:?} for {weights:?}, chi-square {chi_square}");
            }
        }
    }

    #[test]
    fn a_state_gives_its_draws_again_and_greedy_is_the_limit_of_low_temperature() {
        let samplers = [
            Sampler::Temperature { t: 1.0 },
            Sampler::Greedy,
            Sampler::Temperature { t: 1e-3 },
            Sampler::Nucleus { p: 0.99, t: 1e-3 },
            Sampler::TopK { k: 3, t: 1e-3 },
            Sampler::TopK { k: 1, t: 5.0 },
        ];
        let counts = counts(&samplers, &[[3, 0], [3, 0], [4, 0], [3, 1 << 32]]);
        assert_eq!(counts[0], counts[1]);
        assert_ne!(counts[0][0], counts[2][0]);
        assert_ne!(counts[0][0], counts[3][0]);
        for (sampler, counts) in samplers.iter().zip(&counts[0]).skip(1) {
            assert_eq!(*counts, [0, DRAWS, 0, 0, 0, 0], "{sampler}");
        }
    }
}
