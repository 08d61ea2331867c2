//! Decoding one id at a time.

use super::hf::Hf;
use super::sentencepiece::{SentencePiece, Surface};
use super::{Error, Kind, Tokenizer};

/// Turns sampled ids into text as they come. Characters that are spelled as several byte tokens appear with
/// their last byte; what was pushed so far, plus [`finish`](Stream::finish), is exactly
/// [`Tokenizer::decode`] of all ids. (One exception: a `tokenizer.json` decodes a run of byte tokens to nothing
/// but U+FFFD if any of them is wrong, while a stream has already shown the characters before it.)
#[derive(Debug)]
pub struct Stream<'t> {
    tokenizer: &'t Tokenizer,
    /// Bytes of a character that is not complete (SentencePiece).
    bytes: Vec<u8>,
    /// SentencePiece: no text came out yet.
    at_start: bool,
    /// Ids whose text was given out with the previous answer, then those still to come (tokenizer.json).
    ids: Vec<i32>,
    num_shown: usize,
}

impl<'t> Stream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer) -> Self {
        Stream { tokenizer, bytes: Vec::new(), at_start: true, ids: Vec::new(), num_shown: 0 }
    }

    /// The text that `id` completes, which may be empty.
    ///
    /// # Errors
    /// When the id is not in the vocabulary.
    pub fn push(&mut self, id: i32) -> Result<String, Error> {
        match &self.tokenizer.kind {
            Kind::SentencePiece(model) => self.push_sentencepiece(model, id),
            Kind::Hf(model) => self.push_hf(model, id),
        }
    }

    /// The text of an unfinished character: U+FFFD for each of its bytes.
    pub fn finish(mut self) -> Result<String, Error> {
        match &self.tokenizer.kind {
            Kind::SentencePiece(_) => Ok(drain(&mut self.bytes, true)),
            Kind::Hf(model) => self.unshown(model),
        }
    }

    fn push_sentencepiece(&mut self, model: &SentencePiece, id: i32) -> Result<String, Error> {
        let text = match model.surface(id, self.at_start && self.bytes.is_empty())? {
            Surface::Byte(byte) => {
                self.bytes.push(byte);
                drain(&mut self.bytes, false)
            }
            Surface::Text(text) => drain(&mut self.bytes, true) + &text,
        };
        self.at_start &= text.is_empty();
        Ok(text)
    }

    fn push_hf(&mut self, model: &Hf, id: i32) -> Result<String, Error> {
        model.known(id)?;
        self.ids.push(id);
        let text = self.unshown(model)?;
        // A cut character decodes to U+FFFD until its last byte is there.
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return Ok(String::new());
        }
        self.ids.drain(..self.num_shown);
        self.num_shown = self.ids.len();
        Ok(text)
    }

    /// Decoders may treat the first token specially, so the previous ones are decoded along.
    fn unshown(&self, model: &Hf) -> Result<String, Error> {
        let shown = model.decode(&self.ids[..self.num_shown])?;
        let all = model.decode(&self.ids)?;
        Ok(all.strip_prefix(shown.as_str()).unwrap_or_default().to_owned())
    }
}

/// Takes complete characters off the front of `bytes`, and U+FFFD for each byte that cannot begin one.
/// Bytes that may still become a character stay, unless `all` is set.
fn drain(bytes: &mut Vec<u8>, all: bool) -> String {
    let mut text = String::new();
    let mut rest = bytes.as_slice();
    while !rest.is_empty() {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                rest = &[];
            }
            Err(error) => {
                let (valid, tail) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                rest = tail;
                if error.error_len().is_none() && !all {
                    break;
                }
                text.push(char::REPLACEMENT_CHARACTER);
                rest = &rest[1..];
            }
        }
    }
    *bytes = rest.to_vec();
    text
}

#[cfg(test)]
mod tests {
    use super::drain;

    #[test]
    fn unfinished_characters_wait_and_wrong_bytes_do_not() {
        let mut bytes = "aé".as_bytes()[..2].to_vec();
        assert_eq!(drain(&mut bytes, false), "a");
        assert_eq!(bytes, [0xC3]);
        bytes.push(b'x');
        assert_eq!(drain(&mut bytes, false), "\u{FFFD}x");
        assert!(bytes.is_empty());

        let mut cut = "🐱".as_bytes()[..3].to_vec();
        assert_eq!(drain(&mut cut, false), "");
        assert_eq!(drain(&mut cut, true), "\u{FFFD}\u{FFFD}\u{FFFD}");
        assert_eq!(drain(&mut vec![0xED, 0xA0, 0x80], false), "\u{FFFD}\u{FFFD}\u{FFFD}");
    }
}
