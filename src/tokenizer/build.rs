//! Makes small SentencePiece BPE models with Gemma's settings: byte fallback, identity normalisation, no
//! dummy prefix, single digits, `\n` as a piece of its own, and PaliGemma's location tokens.
//!
//! This is for tiny models that are trained from nothing (the quickstart, tests), where Gemma's 257152
//! pieces would be most of the parameters. The file is an ordinary `.model` that SentencePiece reads and
//! encodes with alike.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use prost::Message;

use super::proto::{ModelProto, ModelType, NormalizerSpec, Piece, PieceType, TrainerSpec};
use super::sentencepiece::{SPACE, byte_piece};
use super::{Error, NUM_LOC, loc_token, seg_token};

#[derive(Debug, Clone)]
pub struct Options {
    /// The most pieces the file may have, everything included. Fewer come out when the corpus has nothing
    /// left to merge.
    pub vocab_size: usize,
    /// How many of `<loc0000>`, `<loc0001>`, … to have; they come after the text pieces.
    pub num_loc: usize,
    /// How many of `<seg000>`, `<seg001>`, … to have; they come last.
    pub num_seg: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { vocab_size: 1500, num_loc: NUM_LOC, num_seg: 0 }
    }
}

/// Content of a `.model` file with pad 0, eos 1, bos 2, unk 3, made from `corpus` by joining the most
/// frequent neighbours first. The same corpus and options give the same bytes.
///
/// # Errors
/// When `vocab_size` has no room for the fixed pieces and the ten digits.
pub fn build<'a>(corpus: impl IntoIterator<Item = &'a str>, options: &Options) -> Result<Vec<u8>, Error> {
    let &Options { vocab_size, num_loc, num_seg } = options;
    if num_loc > 10_000 || num_seg > 1_000 {
        let what =
            format!("at most 10000 loc and 1000 seg tokens can be spelled, not {num_loc} and {num_seg}");
        return Err(Error::Build(what));
    }
    let mut pieces: Vec<Piece> =
        ["<pad>", "<eos>", "<bos>"].map(|p| piece(p, 0.0, PieceType::Control)).into();
    pieces.push(piece("<unk>", 0.0, PieceType::Unknown));
    pieces.push(piece("\n", 0.0, PieceType::UserDefined));
    pieces.extend((0..=255).map(|byte| piece(byte_piece(byte), 0.0, PieceType::Byte)));

    let tokens = (0..num_loc).map(loc_token).chain((0..num_seg).map(seg_token));
    let tokens: Vec<_> = tokens.map(|token| piece(token, 0.0, PieceType::UserDefined)).collect();

    let fixed = pieces.len() + tokens.len();
    let least = fixed + 1 + 10;
    if vocab_size < least {
        let what =
            format!("vocab_size {vocab_size} has no room for the {least} pieces that are always there");
        return Err(Error::Build(what));
    }
    let (words, characters) = count(corpus);
    let characters = choose_characters(characters, vocab_size - fixed);
    let merged = merge(&words, &characters, vocab_size - fixed - characters.len());

    // A piece made earlier has the higher score, which is what makes encoding repeat the merges.
    let text = merged.into_iter().chain(characters.into_iter().map(String::from));
    pieces.extend(text.enumerate().map(|(i, text)| piece(text, -(i as f32), PieceType::Normal)));
    pieces.extend(tokens);

    let trainer_spec = TrainerSpec {
        model_type: Some(ModelType::Bpe as i32),
        vocab_size: Some(pieces.len() as i32),
        split_digits: Some(true),
        byte_fallback: Some(true),
        pad_id: Some(0),
        eos_id: Some(1),
        bos_id: Some(2),
        unk_id: Some(3),
        pad_piece: Some("<pad>".into()),
        eos_piece: Some("<eos>".into()),
        bos_piece: Some("<bos>".into()),
        unk_piece: Some("<unk>".into()),
        ..Default::default()
    };
    let normalizer_spec = NormalizerSpec {
        name: Some("identity".into()),
        add_dummy_prefix: Some(false),
        remove_extra_whitespaces: Some(false),
        escape_whitespaces: Some(true),
        ..Default::default()
    };
    let model = ModelProto {
        pieces,
        trainer_spec: Some(trainer_spec),
        normalizer_spec: Some(normalizer_spec),
        denormalizer_spec: None,
    };
    Ok(model.encode_to_vec())
}

fn piece(text: impl Into<String>, score: f32, kind: PieceType) -> Piece {
    Piece { piece: Some(text.into()), score: Some(score), kind: Some(kind as i32) }
}

#[derive(Clone, Copy, PartialEq)]
enum Class {
    Letter,
    Digit,
    Space,
    Mark,
}

fn class(c: char) -> Class {
    match c {
        ' ' | '\u{2581}' => Class::Space,
        c if c.is_ascii_digit() => Class::Digit,
        c if c.is_alphabetic() => Class::Letter,
        _ => Class::Mark,
    }
}

/// How often every word and character occurs. Words are what pieces may not reach across: runs of letters
/// or of marks, with the blank before them; digits stand alone.
fn count<'a>(corpus: impl IntoIterator<Item = &'a str>) -> (BTreeMap<String, u64>, BTreeMap<char, u64>) {
    let (mut words, mut characters) = (BTreeMap::new(), BTreeMap::new());
    for text in corpus {
        let mut word = String::new();
        let mut previous = None;
        for c in text.chars().filter(|&c| c != '\0') {
            let now = class(c);
            let joins = match (previous, now) {
                (Some(Class::Letter | Class::Space), Class::Letter) => true,
                (Some(Class::Mark | Class::Space), Class::Mark) => c != '\n',
                _ => false,
            };
            if !joins && !word.is_empty() {
                *words.entry(std::mem::take(&mut word)).or_default() += 1;
            }
            previous = (c != '\n').then_some(now);
            if c != '\n' {
                let c = if now == Class::Space { '\u{2581}' } else { c };
                *characters.entry(c).or_default() += 1;
                word.push(c);
            }
        }
        if !word.is_empty() {
            *words.entry(word).or_default() += 1;
        }
    }
    (words, characters)
}

/// The blank, the digits, and the most frequent others; the rest falls back to bytes.
fn choose_characters(counts: BTreeMap<char, u64>, room: usize) -> Vec<char> {
    let always: Vec<char> = SPACE.chars().chain('0'..='9').collect();
    let mut others: Vec<_> = counts.into_iter().filter(|(c, _)| !always.contains(c)).collect();
    others.sort_by_key(|&(c, count)| (std::cmp::Reverse(count), c));
    always.into_iter().chain(others.into_iter().map(|(c, _)| c)).take(room).collect()
}

/// Up to `room` pieces, in the order of merging: always the neighbours that occur together most often, and
/// of those the first in the alphabet.
fn merge(words: &BTreeMap<String, u64>, characters: &[char], room: usize) -> Vec<String> {
    let known: HashSet<char> = characters.iter().copied().collect();
    // Symbols of a word; characters that fall back to bytes cut it.
    let mut words: Vec<(Vec<String>, u64)> = words
        .iter()
        .flat_map(|(word, &count)| {
            let parts = word.split(|c| !known.contains(&c));
            parts.map(move |part| (part.chars().map(String::from).collect(), count))
        })
        .filter(|(symbols, _): &(Vec<String>, u64)| symbols.len() > 1)
        .collect();
    let mut merged = Vec::new();
    let mut seen = BTreeSet::new();
    while merged.len() < room {
        let mut pairs: HashMap<String, u64> = HashMap::new();
        for (symbols, count) in &words {
            for pair in symbols.windows(2) {
                *pairs.entry(pair.concat()).or_default() += count;
            }
        }
        let best = pairs
            .into_iter()
            .filter(|(piece, count)| *count > 1 && !seen.contains(piece))
            .max_by(|a, b| a.1.cmp(&b.1).then_with(|| b.0.cmp(&a.0)));
        let Some((piece, _)) = best else { break };
        for (symbols, _) in &mut words {
            let mut i = 0;
            while i + 1 < symbols.len() {
                if symbols[i].len() + symbols[i + 1].len() == piece.len()
                    && piece.starts_with(&symbols[i])
                    && piece.ends_with(&symbols[i + 1])
                {
                    symbols.splice(i..i + 2, [piece.clone()]);
                }
                i += 1;
            }
        }
        seen.insert(piece.clone());
        merged.push(piece);
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::Tokenizer;

    const CORPUS: [&str; 3] =
        ["detect cat ; dog\n<loc0001>", "how many cats are there? 12", "detect dog; café"];

    fn tokenizer() -> Tokenizer {
        Tokenizer::from_bytes(&build(CORPUS, &Options::default()).unwrap()).unwrap()
    }

    #[test]
    fn pieces_are_where_they_are_promised() {
        let tokenizer = tokenizer();
        let special = (tokenizer.pad(), tokenizer.eos(), tokenizer.bos(), tokenizer.unk());
        assert_eq!(special, (0, 1, 2, 3));
        let (loc, count) = tokenizer.loc().unwrap();
        assert_eq!(count, NUM_LOC);
        assert_eq!(loc as usize + NUM_LOC, tokenizer.vocab_size());
        assert_eq!(tokenizer.encode("\n<loc0003>"), [4, loc + 3]);
        assert!(tokenizer.vocab_size() <= 1500);
        assert_eq!(tokenizer.encode("detect").len(), 1);
        assert_eq!(tokenizer.encode("2024").len(), 4);
    }

    #[test]
    fn any_text_survives() {
        let tokenizer = tokenizer();
        for text in CORPUS.into_iter().chain(["", "  two  blanks ", "日本 🐱 Ω", "<loc1023><loc1024>\t"])
        {
            assert_eq!(tokenizer.decode(&tokenizer.encode(text)).unwrap(), text);
        }
    }

    #[test]
    fn building_is_repeatable_and_checks_its_room() {
        let options = Options { num_seg: 128, ..Options::default() };
        assert_eq!(build(CORPUS, &options).unwrap(), build(CORPUS, &options).unwrap());
        let error = build(CORPUS, &Options { vocab_size: 1000, ..options }).unwrap_err();
        let expected = "cannot build a tokenizer: vocab_size 1000 has no room for the 1424 pieces that are \
                        always there";
        assert_eq!(error.to_string(), expected);
    }
}
