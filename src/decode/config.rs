use std::sync::Arc;

use super::Sampler;

/// How prompts are continued.
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeConfig {
    /// The most tokens that are emitted for a row; at least 1.
    pub max_decode_len: usize,
    /// The token that ends a row. It counts as emitted.
    pub eos_token: i32,
    pub method: Method,
    /// Tokens that may be emitted.
    pub mask_logits: TokenMask,
    /// Of samplers that draw: batches of one [`Decoder`](super::Decoder) get different random numbers, those of
    /// two with one seed the same.
    pub seed: u64,
}

/// Which continuations are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Method {
    /// Token by token (`_decode_with_logp`): of `best_of_n` continuations of each prompt, the likeliest.
    Sample { sampler: Sampler, best_of_n: usize },
    /// The likeliest that ends, among those that begin with the `beam_size` likeliest beginnings of each length
    /// (`_beam_decode`). It is cut to end where it does not.
    Beam { beam_size: usize },
}

impl Method {
    pub const GREEDY: Method = Method::Sample { sampler: Sampler::Greedy, best_of_n: 1 };

    /// Whether random numbers are needed.
    pub fn draws(self) -> bool {
        matches!(self, Method::Sample { sampler, .. } if sampler != Sampler::Greedy)
    }

    /// How many continuations of each prompt are made at the same time.
    pub fn rows_each(self) -> usize {
        match self {
            Method::Sample { best_of_n, .. } => best_of_n,
            Method::Beam { beam_size } => beam_size,
        }
    }
}

/// Which tokens may be emitted (`mask_logits`). The log-probability of a token is that without the mask.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TokenMask {
    /// Only these; all without it.
    pub allowed: Option<Arc<[i32]>>,
    /// Not these, allowed or not.
    pub banned: Arc<[i32]>,
}

impl TokenMask {
    pub fn allows_all(&self) -> bool {
        self.allowed.is_none() && self.banned.is_empty()
    }

    /// Whether each token of a vocabulary may be emitted.
    pub fn allows(&self, vocab_size: usize) -> Vec<bool> {
        let mut allows = vec![self.allowed.is_none(); vocab_size];
        let mut set = |tokens: &[i32], value: bool| {
            for &token in tokens {
                if let Some(allow) = usize::try_from(token).ok().and_then(|token| allows.get_mut(token)) {
                    *allow = value;
                }
            }
        };
        set(self.allowed.as_deref().unwrap_or_default(), true);
        set(&self.banned, false);
        allows
    }

    fn outside(&self, vocab_size: usize) -> Option<i32> {
        let mut tokens =
            self.allowed.iter().flat_map(|tokens| tokens.iter()).chain(self.banned.iter()).copied();
        tokens.find(|&token| usize::try_from(token).map_or(true, |token| token >= vocab_size))
    }
}

/// A way to continue prompts that there is not, for a model or at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{name} expects at least 1, got 0")]
    Zero { name: &'static str },
    #[error(
        "best of {best_of_n} continuations are all the same with the sampler greedy; another one draws them"
    )]
    GreedyBestOf { best_of_n: usize },
    #[error("token {token} of mask_logits is not in the vocabulary of {vocab_size}")]
    Token { token: i32, vocab_size: usize },
    #[error("mask_logits leaves no token that may be emitted")]
    NothingAllowed,
    #[error(
        "beam search of size {beam_size} expects that the end and {beam_size} other tokens may be emitted, got \
         {others} others {} the end", if *has_end { "and" } else { "without" }
    )]
    Beam { beam_size: usize, others: usize, has_end: bool },
    #[error(
        "beam search and the best of several continuations cannot be streamed: they are known at the end only"
    )]
    NotStreamed,
}

impl DecodeConfig {
    /// The likeliest token each time, of all tokens.
    pub fn greedy(max_decode_len: usize, eos_token: i32) -> Self {
        let (method, mask_logits, seed) = (Method::GREEDY, TokenMask::default(), 0);
        DecodeConfig { max_decode_len, eos_token, method, mask_logits, seed }
    }

    /// That a model of this vocabulary can continue prompts so.
    pub fn check(&self, vocab_size: usize) -> Result<(), ConfigError> {
        let (name, size) = match self.method {
            Method::Sample { best_of_n, .. } => ("best_of_n", best_of_n),
            Method::Beam { beam_size } => ("beam_size", beam_size),
        };
        let sizes = [("max_decode_len", self.max_decode_len), (name, size)];
        if let Some((name, _)) = sizes.into_iter().find(|(_, size)| *size == 0) {
            return Err(ConfigError::Zero { name });
        }
        if let Some(token) = self.mask_logits.outside(vocab_size) {
            return Err(ConfigError::Token { token, vocab_size });
        }
        let allows = self.mask_logits.allows(vocab_size);
        let num_allowed = allows.iter().filter(|allows| **allows).count();
        match self.method {
            _ if num_allowed == 0 => Err(ConfigError::NothingAllowed),
            Method::Sample { sampler: Sampler::Greedy, best_of_n } if best_of_n > 1 => {
                Err(ConfigError::GreedyBestOf { best_of_n })
            }
            Method::Sample { .. } => Ok(()),
            Method::Beam { beam_size } => {
                let end = usize::try_from(self.eos_token).ok().and_then(|token| allows.get(token));
                let has_end = end == Some(&true);
                let others = num_allowed - usize::from(has_end);
                let is_good = has_end && others >= beam_size;
                if is_good { Ok(()) } else { Err(ConfigError::Beam { beam_size, others, has_end }) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_decoded_is_told() {
        let config = |method: Method, allowed: Option<&[i32]>, banned: &[i32]| {
            let mask_logits = TokenMask { allowed: allowed.map(Arc::from), banned: banned.into() };
            let config = DecodeConfig { method, mask_logits, ..DecodeConfig::greedy(3, 1) };
            config.check(5).map_err(|error| error.to_string())
        };
        let beam = |beam_size| Method::Beam { beam_size };
        let sample = |sampler, best_of_n| Method::Sample { sampler, best_of_n };
        let drawn = Sampler::Temperature { t: 1.0 };
        for (method, allowed, banned) in [
            (Method::GREEDY, None, &[][..]),
            (sample(drawn, 3), Some(&[2, 4][..]), &[4]),
            (beam(4), None, &[]),
            (beam(2), Some(&[0, 1, 2]), &[]),
        ] {
            assert_eq!(config(method, allowed, banned), Ok(()));
        }
        for (method, allowed, banned, told) in [
            (sample(drawn, 0), None, &[][..], "best_of_n expects at least 1, got 0"),
            (beam(0), None, &[], "beam_size expects at least 1, got 0"),
            (sample(Sampler::Greedy, 2), None, &[], "best of 2 continuations are all the same"),
            (Method::GREEDY, None, &[5], "token 5 of mask_logits is not in the vocabulary of 5"),
            (Method::GREEDY, Some(&[-1][..]), &[], "token -1 of mask_logits"),
            (Method::GREEDY, Some(&[3]), &[3], "mask_logits leaves no token"),
            (beam(5), None, &[], "got 4 others and the end"),
            (beam(2), None, &[1], "got 4 others without the end"),
        ] {
            let error = config(method, allowed, banned).unwrap_err();
            assert!(error.contains(told), "{error}");
        }
        let mut config = DecodeConfig::greedy(0, 1);
        assert_eq!(config.check(5), Err(ConfigError::Zero { name: "max_decode_len" }));
        config.max_decode_len = 1;
        assert_eq!(config.check(5), Ok(()));
    }
}
