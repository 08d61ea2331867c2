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
            (_, None) => return Err(logits.builder().error(format!("sampler {self} expects a random state"))),
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

/// Logits `[B, V]` with those of unlikely tokens lowered until no token is drawn that is not among the likeliest whose
/// probabilities reach `p`.
#[track_caller]
fn nucleus(logits: &Value, p: f64) -> Result<Value> {
    /// As low as the reference has it.
    const NEVER: f64 = -1.0e7;
    let sorted = Value::sort(&[logits], 1, true)?.swap_remove(0);
    let reached = softmax(&sorted)?.cumsum(1)?;
    // The place of the token that reaches it; rounding may leave the sum of all below 1.
    let cutoff = reached.lt_scalar(p)?.convert(DType::S32)?.reduce_sum(&[1])?;
    let cutoff = cutoff.min_scalar((logits.dims()[1] - 1) as f64)?.expand_dim(1)?;
    let cutoff = sorted.take_along_last(&cutoff)?.broadcast_to(logits.dims())?;
    logits.lt(&cutoff)?.select(&logits.full_like(NEVER)?, logits)
}

impl FromStr for Sampler {
    type Err = SamplerError;

    /// The form of big_vision's registry: a name, and arguments in parentheses in their order or by their names.
    fn from_str(text: &str) -> std::result::Result<Self, SamplerError> {
        let wrong = |problem: String| SamplerError::Argument { text: text.to_owned(), problem };
        let (name, inside) = match text.trim().split_once('(') {
            None => (text.trim(), ""),
            Some((name, rest)) => {
                let inside = rest.strip_suffix(')').ok_or_else(|| wrong("lacks a closing parenthesis".into()))?;
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
        for (place, argument) in inside.split(',').map(str::trim).filter(|part| !part.is_empty()).enumerate() {
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
            let is_good = t > 0.0;
            if is_good { Ok(t) } else { Err(wrong("expects a temperature above 0; greedy is its limit".into())) }
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
    use crate::exec::run_once;
    use crate::graph::Builder;
    use crate::runtime::testing::cpu_client;

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
            ("temperature(0)", "expects a temperature above 0; greedy is its limit"),
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

    /// How often each token was drawn.
    fn counts(sampler: Sampler, state: [u64; 2]) -> [usize; 6] {
        let b = Builder::new("sample");
        let logits = b.parameter("logits", Shape::new(DType::F32, [1, 6])).unwrap();
        let logits = logits.broadcast_to(&[DRAWS, 6]).unwrap();
        let state_value = b.parameter("state", Shape::new(DType::U64, [2])).unwrap();
        let (tokens, _) = sampler.choose(&logits, Some(&state_value)).unwrap();
        let function = b.finish(&[&tokens]).unwrap();
        // What adds the same to all logits changes nothing.
        let logits: Vec<f32> = PROBABILITIES.iter().map(|p| (p.ln() + 3.0) as f32).collect();
        let logits = HostArray::new([1, 6], &logits).unwrap();
        let state = HostArray::new([2], &state).unwrap();
        let results = run_once(&cpu_client(), &function, &[&logits, &state]).unwrap();
        let mut counts = [0; 6];
        results[0].values::<i32>().unwrap().iter().for_each(|&token| counts[token as usize] += 1);
        counts
    }

    /// Chi-square of the draws, and that tokens of probability 0 never come.
    #[track_caller]
    fn follows(sampler: Sampler, weights: [f64; 6]) {
        // Of 5 degrees of freedom, exceeded once in 10 000 times; of fewer, more seldom.
        const LIMIT: f64 = 25.7;
        let total: f64 = weights.iter().sum();
        for seed in 0..3 {
            let counts = counts(sampler, [seed, 7]);
            let mut chi_square = 0.0;
            for (count, weight) in counts.into_iter().zip(weights) {
                let expected = weight / total * DRAWS as f64;
                match weight {
                    0.0 => assert_eq!(count, 0, "{sampler}: {counts:?}"),
                    _ => chi_square += (count as f64 - expected).powi(2) / expected,
                }
            }
            println!("{sampler}, seed {seed}: {chi_square:.2}");
            assert!(chi_square < LIMIT, "{sampler}: {counts:?} for {weights:?}, chi-square {chi_square}");
        }
    }

    #[test]
    fn draws_follow_the_distribution_of_each_sampler() {
        let p = PROBABILITIES;
        follows(Sampler::Temperature { t: 1.0 }, p);
        follows(Sampler::Temperature { t: 2.0 }, p.map(f64::sqrt));
        follows(Sampler::Temperature { t: 0.5 }, p.map(|p| p * p));
        // 0.4 + 0.27 do not reach 0.7, with 0.18 they do.
        follows(Sampler::Nucleus { p: 0.7, t: 1.0 }, [0.0, 0.4, 0.0, 0.27, 0.0, 0.18]);
        follows(Sampler::Nucleus { p: 1.0, t: 1.0 }, p);
        follows(Sampler::Nucleus { p: 0.0, t: 1.0 }, [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
        // Squares of 0.4, 0.27 and 0.18 make up 0.61, 0.28 and 0.12 of all squares: two of them reach 0.8.
        follows(Sampler::Nucleus { p: 0.8, t: 0.5 }, [0.0, 0.16, 0.0, 0.0729, 0.0, 0.0]);
        follows(Sampler::TopK { k: 4, t: 1.0 }, [0.1, 0.4, 0.0, 0.27, 0.0, 0.18]);
        follows(Sampler::TopK { k: 2, t: 0.5 }, [0.0, 0.16, 0.0, 0.0729, 0.0, 0.0]);
        follows(Sampler::TopK { k: 1000, t: 1.0 }, p);
    }

    #[test]
    fn a_state_gives_its_draws_again_and_greedy_is_the_limit_of_low_temperature() {
        let warm = Sampler::Temperature { t: 1.0 };
        assert_eq!(counts(warm, [3, 0]), counts(warm, [3, 0]));
        assert_ne!(counts(warm, [3, 0]), counts(warm, [4, 0]));
        assert_ne!(counts(warm, [3, 0]), counts(warm, [3, 1 << 32]));
        let greedy = counts(Sampler::Greedy, [0, 0]);
        assert_eq!(greedy, [0, DRAWS, 0, 0, 0, 0]);
        for cold in [
            Sampler::Temperature { t: 1e-3 },
            Sampler::Nucleus { p: 0.99, t: 1e-3 },
            Sampler::TopK { k: 3, t: 1e-3 },
            Sampler::TopK { k: 1, t: 5.0 },
        ] {
            assert_eq!(counts(cold, [1, 1]), greedy, "{cold}");
        }
    }
}
