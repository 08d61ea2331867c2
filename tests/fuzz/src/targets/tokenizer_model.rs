//! Tokenizer files, SentencePiece models and `tokenizer.json`: whatever opens encodes any text, and decodes its own
//! ids.

use std::fs;

use paligemma::tokenizer::{Tokenizer, build};

use super::{let_caught_panic, test_data};

const TEXTS: [&str; 4] = [
    "",
    "detect cat ; dog\n<loc0000><loc0003> <seg001>",
    " two  blanks \u{2581} 12é🐱\0",
    "<bos><unk><0x41><pad>",
];

pub fn run(data: &[u8]) -> Option<()> {
    let_caught_panic();
    let tokenizer = Tokenizer::from_bytes(data).ok()?;
    check(&tokenizer);
    if let Ok(extended) = tokenizer.with_tokensets(&["loc(n=4)", "seg(n=2)"]) {
        check(&extended);
    }
    Some(())
}

fn check(tokenizer: &Tokenizer) {
    let mut all = vec![tokenizer.pad(), tokenizer.eos(), tokenizer.bos(), tokenizer.unk()];
    for text in TEXTS {
        let ids = tokenizer.encode(text);
        assert!(ids.iter().all(|&id| usize::try_from(id).is_ok_and(|id| id < tokenizer.vocab_size())));
        assert_eq!(ids, tokenizer.encode(text), "{text:?} has two encodings");
        all.extend(ids);
    }
    let is_sentencepiece = tokenizer.to_model_bytes().is_some();
    // Decoders of a tokenizer.json may be of any kind, and may fail.
    match tokenizer.decode(&all) {
        Ok(_) => {}
        Err(error) => assert!(!is_sentencepiece, "{error}"),
    }
    let mut stream = tokenizer.stream();
    for &id in &all {
        assert!(stream.push(id).is_ok() || !is_sentencepiece);
    }
    let _ = stream.finish();
    assert!(tokenizer.decode(&[-1]).is_err() && tokenizer.decode(&[i32::MAX]).is_err());
    if let Some(bytes) = tokenizer.to_model_bytes() {
        let again = Tokenizer::from_bytes(&bytes).expect("what was written is read");
        assert!(TEXTS.iter().all(|text| again.encode(text) == tokenizer.encode(text)));
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let options = build::Options { vocab_size: 330, num_loc: 4, num_seg: 2 };
    let small =
        build::build(["detect cat ; dog", "a cat, a dog, 12"], &options).expect("room for the pieces");
    let read = |name: &str| fs::read(test_data(name)).expect("a file of the tests");
    vec![small, read("text/tokenizer.model"), SMALL_JSON.as_bytes().to_vec()]
}

/// Byte pair encoding with all that Gemma's file has, and hardly any vocabulary.
const SMALL_JSON: &str = r#"{
 "version": "1.0", "truncation": null, "padding": null,
 "added_tokens": [
  {"id": 0, "content": "<pad>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
  {"id": 1, "content": "<eos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
  {"id": 2, "content": "<bos>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
  {"id": 3, "content": "<unk>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
  {"id": 4, "content": "\n", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": false}
 ],
 "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
 "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false},
 "post_processor": null,
 "decoder": {"type": "Sequence", "decoders": [
  {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
 "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
  "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
  "vocab": {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<unk>": 3, "\n": 4, "▁": 5, "a": 6, "c": 7, "t": 8, "at": 9, "cat": 10, "<0x41>": 11},
  "merges": [["a", "t"], ["c", "at"]]}
}"#;
