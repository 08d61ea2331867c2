//! Hugging Face's `tokenizer.json`, through their crate.

use std::fmt::Display;

use serde::de::IgnoredAny;
use tokenizers::{AddedToken, Tokenizer};

use super::{Error, Special};
use crate::panics;

#[derive(Debug, Clone)]
pub(super) struct Hf {
    tokenizer: Tokenizer,
    vocab_size: usize,
    pub special: Special,
}

impl Hf {
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let not_a_model = |problem: &dyn Display| Error::NotAModel(problem.to_string());
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(|error| not_a_model(&error))?;
        // The crate panics at some values that are JSON and no tokenizer's.
        let tokenizer = panics::catch(|| Tokenizer::from_bytes(bytes))
            .map_err(|message| not_a_model(&format!("it is JSON, but not a tokenizer's: {message}")))?
            .map_err(|error| not_a_model(&error))?;
        Hf::new(tokenizer)
    }

    fn new(mut tokenizer: Tokenizer) -> Result<Self, Error> {
        // Lengths are the pipeline's business (`tolen`), not the file's.
        tokenizer.with_padding(None);
        tokenizer.with_truncation(None).map_err(|error| Error::NotAModel(error.to_string()))?;
        let find = |role: &'static str, names: [&str; 2]| {
            let id = names.iter().find_map(|name| tokenizer.token_to_id(name));
            let id = id.and_then(|id| i32::try_from(id).ok());
            id.ok_or_else(|| Error::NoSpecial { role, name: names[0].to_owned() })
        };
        let special = Special {
            pad: find("padding", ["<pad>", "[PAD]"])?,
            eos: find("end of sentence", ["<eos>", "</s>"])?,
            bos: find("beginning of sentence", ["<bos>", "<s>"])?,
            unk: find("unknown", ["<unk>", "[UNK]"])?,
        };
        let highest = tokenizer.get_vocab(true).into_values().max().unwrap_or(0);
        if i32::try_from(highest).is_err() {
            return Err(Error::NotAModel(format!("token id {highest} does not fit in 31 bits")));
        }
        Ok(Hf { tokenizer, vocab_size: highest as usize + 1, special })
    }

    pub fn with_tokens(&self, extras: &[String]) -> Result<Self, Error> {
        let mut tokenizer = self.tokenizer.clone();
        let tokens = extras.iter().map(|text| AddedToken::from(text.clone(), false).normalized(false));
        tokenizer.add_tokens(tokens).map_err(|error| Error::NotAModel(error.to_string()))?;
        Hf::new(tokenizer)
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub fn id_to_piece(&self, id: i32) -> Option<String> {
        self.tokenizer.id_to_token(u32::try_from(id).ok()?)
    }

    pub fn piece_to_id(&self, piece: &str) -> Option<i32> {
        i32::try_from(self.tokenizer.token_to_id(piece)?).ok()
    }

    pub fn encode(&self, text: &str) -> Vec<i32> {
        match self.tokenizer.encode_fast(text, false) {
            Ok(encoding) => encoding.get_ids().iter().map(|&id| id as i32).collect(),
            // Models fail on text only when they lack the unknown token that `new` asked for.
            Err(error) => {
                tracing::warn!(%error, "tokenizer.json cannot encode a text, taking it as unknown");
                vec![self.special.unk]
            }
        }
    }

    pub fn decode(&self, ids: &[i32]) -> Result<String, Error> {
        let ids: Vec<u32> = ids.iter().map(|&id| self.known(id)).collect::<Result<_, _>>()?;
        self.tokenizer.decode(&ids, true).map_err(|error| Error::NotAModel(error.to_string()))
    }

    pub fn known(&self, id: i32) -> Result<u32, Error> {
        let out_of_range = Error::IdOutOfRange { id, vocab_size: self.vocab_size };
        u32::try_from(id).ok().filter(|&id| (id as usize) < self.vocab_size).ok_or(out_of_range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_no_tokenizers_are_refused() {
        let refusal = |text: &str| Hf::from_bytes(text.as_bytes()).unwrap_err().to_string();
        assert_eq!(
            refusal("{\"model\": {,}}"),
            "not a usable tokenizer file: key must be a string at line 1 column 12"
        );
        assert!(refusal("{}").starts_with("not a usable tokenizer file: "));
        // The crate panics here.
        let unknown = r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "A"}, "model": {}}"#;
        let message = refusal(unknown);
        let start = "not a usable tokenizer file: it is JSON, but not a tokenizer's: Precompiled: ";
        assert!(message.starts_with(start), "{message}");
    }
}
