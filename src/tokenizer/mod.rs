//! Text to token ids and back.
//!
//! [`Tokenizer`] reads SentencePiece `.model` files (Gemma's, and PaliGemma's with its location and
//! segmentation tokens) with its own exact implementation of SentencePiece's BPE, and Hugging Face's
//! `tokenizer.json` through the `tokenizers` crate. Which one a file is, is known from its content.
//! [`build`] makes small `.model` files from a few sentences.
//!
//! Refused: SentencePiece models that are not BPE or that normalise text (T5's, for example), and
//! vocabularies without padding, end, beginning and unknown tokens.
//!
//! ```
//! use paligemma::tokenizer::{Tokenizer, build};
//!
//! let options = build::Options { vocab_size: 1400, ..Default::default() };
//! let tokenizer = Tokenizer::from_bytes(&build::build(["detect cat", "detect dog"], &options)?)?;
//! let ids = tokenizer.encode("detect cat\n<loc0012>");
//! assert_eq!(tokenizer.decode(&ids)?, "detect cat\n<loc0012>");
//! # Ok::<(), paligemma::tokenizer::Error>(())
//! ```

pub mod build;
mod hf;
mod proto;
mod sentencepiece;
mod stream;
mod trie;

use std::path::{Path, PathBuf};

use hf::Hf;
use sentencepiece::SentencePiece;
pub use stream::Stream;

/// Number of `<loc0000>`, `<loc0001>`, … tokens of PaliGemma: one per bin of a coordinate.
pub const NUM_LOC: usize = 1024;
/// Number of `<seg000>`, `<seg001>`, … tokens of PaliGemma: one per codeword of a mask.
pub const NUM_SEG: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read tokenizer file {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("not a usable tokenizer file: {0}")]
    NotAModel(String),
    #[error("in tokenizer file {}", path.display())]
    In { path: PathBuf, source: Box<Error> },
    #[error("tokenizer has a {what}, only {supported} is supported")]
    Unsupported { what: String, supported: &'static str },
    #[error("tokenizer has no {role} token \"{name}\"")]
    NoSpecial { role: &'static str, name: String },
    #[error("token \"{piece}\" has id {got} instead of {expected}: ids must follow those of \"{first}\"")]
    NotConsecutive { piece: String, got: i32, expected: i32, first: String },
    #[error("token id {id} is not in the vocabulary of {vocab_size}")]
    IdOutOfRange { id: i32, vocab_size: usize },
    #[error("unknown token set \"{0}\", known are: loc, seg, loc(n=N), seg(n=N)")]
    UnknownTokenSet(String),
    #[error("cannot build a tokenizer: {0}")]
    Build(String),
}

/// What to do where no tokenizer is at `path`, as the end of a sentence that says so.
pub fn advice_for_missing(path: &Path) -> String {
    format!(
        "`paligemma data tokenizer ROWS.jsonl --out {}` makes a small one for a model that is trained from \
         nothing; PaliGemma's own is paligemma_tokenizer.model, beside its checkpoints and at \
         https://storage.googleapis.com/big_vision/paligemma_tokenizer.model",
        path.display()
    )
}

/// Ids of the four tokens that every vocabulary here must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Special {
    pad: i32,
    eos: i32,
    bos: i32,
    unk: i32,
}

/// A vocabulary and its rules. Cheap to share between threads behind an `Arc`.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    kind: Kind,
    /// Id of `<loc0000>` and the number of such tokens.
    loc: Option<(i32, usize)>,
    seg: Option<(i32, usize)>,
}

#[derive(Debug, Clone)]
enum Kind {
    SentencePiece(Box<SentencePiece>),
    Hf(Box<Hf>),
}

impl Tokenizer {
    /// Reads a `.model` or `tokenizer.json` file, or a folder that holds `tokenizer.json` or
    /// `tokenizer.model`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let mut path = path.as_ref().to_owned();
        if path.is_dir() {
            let names = ["tokenizer.json", "tokenizer.model"];
            let found = names.iter().map(|name| path.join(name)).find(|file| file.is_file());
            path = found.unwrap_or_else(|| path.join(names[1]));
        }
        let bytes = std::fs::read(&path).map_err(|source| Error::Read { path: path.clone(), source })?;
        Tokenizer::from_bytes(&bytes).map_err(|source| Error::In { path, source: Box::new(source) })
    }

    /// As [`open`](Self::open), from a file's content.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Error> {
        let is_json = bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
        let kind = if is_json {
            Kind::Hf(Box::new(Hf::from_bytes(bytes)?))
        } else {
            Kind::SentencePiece(Box::new(SentencePiece::from_bytes(bytes)?))
        };
        Tokenizer::new(kind)
    }

    fn new(kind: Kind) -> Result<Self, Error> {
        let mut tokenizer = Tokenizer { kind, loc: None, seg: None };
        tokenizer.loc = tokenizer.run_of(loc_token, 10_000)?;
        tokenizer.seg = tokenizer.run_of(seg_token, 1_000)?;
        Ok(tokenizer)
    }

    /// The token sets that big_vision calls by name (`gemma(tokensets=["loc", "seg"])`): `loc` and `seg`,
    /// or `loc(n=16)`. As there (`pp/tokenizer.py`), they are sorted and made unique before they get ids,
    /// and tokens that the vocabulary already has keep theirs.
    pub fn with_tokensets<S: AsRef<str>>(&self, sets: &[S]) -> Result<Self, Error> {
        let mut extras = Vec::new();
        for set in sets {
            extras.extend(token_set(set.as_ref())?);
        }
        extras.sort();
        extras.dedup();
        let kind = match &self.kind {
            Kind::SentencePiece(model) => Kind::SentencePiece(Box::new(model.with_pieces(&extras)?)),
            Kind::Hf(model) => Kind::Hf(Box::new(model.with_tokens(&extras)?)),
        };
        Tokenizer::new(kind)
    }

    /// Token ids of `text`, without beginning or end token.
    pub fn encode(&self, text: &str) -> Vec<i32> {
        match &self.kind {
            Kind::SentencePiece(model) => model.encode(text),
            Kind::Hf(model) => model.encode(text),
        }
    }

    /// The text of `ids`. Padding, beginning and end tokens are dropped, not stopped at (see
    /// [`decode_until_eos`](Self::decode_until_eos)); undecodable bytes become U+FFFD.
    ///
    /// # Errors
    /// When an id is not in the vocabulary.
    pub fn decode(&self, ids: &[i32]) -> Result<String, Error> {
        match &self.kind {
            Kind::Hf(model) => model.decode(ids),
            Kind::SentencePiece(_) => {
                let mut stream = self.stream();
                let mut text = String::new();
                for &id in ids {
                    text.push_str(&stream.push(id)?);
                }
                text.push_str(&stream.finish()?);
                Ok(text)
            }
        }
    }

    /// As [`decode`](Self::decode), for what a model emits: its table may have more rows than there are
    /// tokens, and such an id reads as the unknown token.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), for other reasons.
    pub fn decode_emitted(&self, ids: &[i32]) -> Result<String, Error> {
        let is_known = |id: i32| usize::try_from(id).is_ok_and(|id| id < self.vocab_size());
        let known: Vec<i32> = ids.iter().map(|&id| if is_known(id) { id } else { self.unk() }).collect();
        self.decode(&known)
    }

    /// The text of `ids` before the first end token, big_vision's `to_str(stop_at_eos=True)`.
    pub fn decode_until_eos(&self, ids: &[i32]) -> Result<String, Error> {
        let end = ids.iter().position(|&id| id == self.eos()).unwrap_or(ids.len());
        self.decode(&ids[..end])
    }

    /// Decodes ids one at a time, as they are sampled.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    pub fn bos(&self) -> i32 {
        self.special().bos
    }

    pub fn eos(&self) -> i32 {
        self.special().eos
    }

    pub fn pad(&self) -> i32 {
        self.special().pad
    }

    pub fn unk(&self) -> i32 {
        self.special().unk
    }

    /// One more than the highest id.
    pub fn vocab_size(&self) -> usize {
        match &self.kind {
            Kind::SentencePiece(model) => model.vocab_size(),
            Kind::Hf(model) => model.vocab_size(),
        }
    }

    /// A token as the vocabulary spells it: blanks are U+2581, bytes `<0x0A>`.
    pub fn id_to_piece(&self, id: i32) -> Option<String> {
        match &self.kind {
            Kind::SentencePiece(model) => model.id_to_piece(id).map(str::to_owned),
            Kind::Hf(model) => model.id_to_piece(id),
        }
    }

    pub fn piece_to_id(&self, piece: &str) -> Option<i32> {
        match &self.kind {
            Kind::SentencePiece(model) => model.piece_to_id(piece),
            Kind::Hf(model) => model.piece_to_id(piece),
        }
    }

    /// Id of `<loc0000>` and the number of location tokens, which follow each other.
    pub fn loc(&self) -> Option<(i32, usize)> {
        self.loc
    }

    /// Id of `<seg000>` and the number of segmentation tokens, which follow each other.
    pub fn seg(&self) -> Option<(i32, usize)> {
        self.seg
    }

    /// The `.model` file, with any added token sets; `None` for a `tokenizer.json`.
    pub fn to_model_bytes(&self) -> Option<Vec<u8>> {
        match &self.kind {
            Kind::SentencePiece(model) => Some(model.to_bytes()),
            Kind::Hf(_) => None,
        }
    }

    fn special(&self) -> &Special {
        match &self.kind {
            Kind::SentencePiece(model) => &model.special,
            Kind::Hf(model) => &model.special,
        }
    }

    /// Token `name(0)` and how many of `name(0)`, `name(1)`, … there are. Coordinates are computed from
    /// ids, so gaps and other orders are errors.
    fn run_of(&self, name: fn(usize) -> String, at_most: usize) -> Result<Option<(i32, usize)>, Error> {
        let Some(first) = self.piece_to_id(&name(0)) else { return Ok(None) };
        let mut count = 0;
        for (n, expected) in (0..at_most).zip(first..) {
            let piece = name(n);
            match self.piece_to_id(&piece) {
                Some(got) if got != expected => {
                    return Err(Error::NotConsecutive { piece, got, expected, first: name(0) });
                }
                Some(_) => count = n + 1,
                None => break,
            }
        }
        Ok(Some((first, count)))
    }
}

/// `<loc0007>`
pub fn loc_token(n: usize) -> String {
    format!("<loc{n:04}>")
}

/// `<seg007>`
pub fn seg_token(n: usize) -> String {
    format!("<seg{n:03}>")
}

fn token_set(set: &str) -> Result<Vec<String>, Error> {
    let unknown = || Error::UnknownTokenSet(set.to_owned());
    let (name, count) = match set.split_once('(') {
        None => (set, None),
        Some((name, args)) => {
            let args: String = args.chars().filter(|c| !c.is_whitespace()).collect();
            let args = args.strip_suffix(')').ok_or_else(unknown)?;
            let count = args.strip_prefix("n=").unwrap_or(args);
            (name, if count.is_empty() { None } else { Some(count.parse().map_err(|_| unknown())?) })
        }
    };
    let (token, default, limit): (fn(usize) -> String, usize, usize) = match name {
        "loc" => (loc_token, NUM_LOC, 10_000),
        "seg" => (seg_token, NUM_SEG, 1_000),
        _ => return Err(unknown()),
    };
    let count = count.unwrap_or(default);
    if count > limit {
        return Err(unknown());
    }
    Ok((0..count).map(token).collect())
}
