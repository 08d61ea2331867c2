//! Token ids and texts against recordings of sentencepiece, transformers and big_vision.

use std::path::PathBuf;
use std::sync::LazyLock;

use paligemma::tokenizer::{Error, Tokenizer, build};
use pretty_assertions::assert_eq;
use serde_json::Value;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/text").join(name)
}

fn json(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data(name)).unwrap()).unwrap()
}

fn open(name: &str) -> Tokenizer {
    Tokenizer::open(data(name)).unwrap()
}

fn cases(recording: &Value, key: &str) -> Vec<Value> {
    let cases = recording[key].as_array().unwrap().clone();
    assert!(!cases.is_empty());
    cases
}

fn ids(value: &Value) -> Vec<i32> {
    value.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

#[test]
fn pieces_and_ids_match_sentencepiece() {
    let tokenizer = open("tokenizer.model");
    let pieces = cases(&json("spm_pieces.json"), "pieces");
    assert_eq!(tokenizer.vocab_size(), pieces.len());
    for (id, piece) in (0..).zip(&pieces) {
        assert_eq!(tokenizer.id_to_piece(id).as_deref(), piece[0].as_str());
        assert_eq!(tokenizer.piece_to_id(text(&piece[0])), Some(id));
    }
    assert_eq!(tokenizer.id_to_piece(pieces.len() as i32), None);
    assert_eq!(tokenizer.id_to_piece(-1), None);
    assert_eq!(tokenizer.piece_to_id("no such piece"), None);
    let special = (tokenizer.pad(), tokenizer.eos(), tokenizer.bos(), tokenizer.unk());
    assert_eq!(special, (0, 1, 2, 3));
}

#[test]
fn encoding_matches_sentencepiece() {
    let tokenizer = open("tokenizer.model");
    let cases = cases(&json("spm_encode.json"), "cases");
    assert_eq!(cases.len(), 380);
    for case in cases {
        let got = tokenizer.encode(text(&case["text"]));
        assert_eq!(got, ids(&case["ids"]), "{:?}", case["text"]);
        assert_eq!(tokenizer.decode(&got).unwrap(), text(&case["decoded"]));
    }
}

#[test]
fn decoding_matches_sentencepiece() {
    let tokenizer = open("tokenizer.model");
    let cases = cases(&json("spm_decode.json"), "cases");
    assert_eq!(cases.len(), 322);
    for case in cases {
        let ids = ids(&case["ids"]);
        match case["text"].as_str() {
            Some(text) => assert_eq!(tokenizer.decode(&ids).unwrap(), text, "{ids:?}"),
            None => assert!(matches!(tokenizer.decode(&ids), Err(Error::IdOutOfRange { .. })), "{ids:?}"),
        }
    }
}

#[test]
fn streams_give_the_same_text_and_hold_back_cut_characters() {
    let (spm, hf) = (open("tokenizer.model"), open("hf/gemma_like"));
    for case in cases(&json("spm_decode.json"), "cases") {
        let ids = ids(&case["ids"]);
        for tokenizer in [&spm, &hf] {
            let Ok(whole) = tokenizer.decode(&ids) else { continue };
            if tokenizer.to_model_bytes().is_none() && whole.contains(char::REPLACEMENT_CHARACTER) {
                continue; // one wrong byte there spoils good ones that the stream has shown already
            }
            let mut stream = tokenizer.stream();
            let mut text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
            text += &stream.finish().unwrap();
            assert_eq!(text, whole, "{ids:?}");
        }
    }
    for tokenizer in [&spm, &hf] {
        let mut stream = tokenizer.stream();
        let ids = tokenizer.encode("a🐱");
        let parts: Vec<_> = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        assert_eq!(parts, ["a", "", "", "", "🐱"]);
    }
}

#[test]
fn token_sets_match_big_vision() {
    let recording = json("bv_tokenizer.json");
    let tokenizer = open("tokenizer.model").with_tokensets(&["loc", "seg"]).unwrap();
    for case in cases(&recording, "encode") {
        let got = tokenizer.encode(text(&case["text"]));
        assert_eq!(got, ids(&case["ids"]), "{:?}", case["text"]);
        assert_eq!(tokenizer.decode(&got).unwrap(), text(&case["decoded"]));
    }
    for case in cases(&recording, "decode") {
        let ids = ids(&case["ids"]);
        assert_eq!(tokenizer.decode_until_eos(&ids).unwrap(), text(&case["stop_at_eos"]));
        assert_eq!(tokenizer.decode(&ids).unwrap(), text(&case["no_stop"]));
    }
    assert_eq!((tokenizer.loc(), tokenizer.seg()), (Some((1400, 1024)), Some((2424, 128))));
    assert_eq!(tokenizer.vocab_size(), 2552);
    // Whole files: ours reads back, and big_vision's holds the same pieces.
    let again = Tokenizer::from_bytes(&tokenizer.to_model_bytes().unwrap()).unwrap();
    let theirs = open("tokenizer_loc_seg.model");
    for id in 0..2552 {
        assert_eq!(again.id_to_piece(id), theirs.id_to_piece(id));
    }
    for case in cases(&recording, "encode") {
        assert_eq!(theirs.encode(text(&case["text"])), ids(&case["ids"]));
        assert_eq!(again.encode(text(&case["text"])), ids(&case["ids"]));
    }
}

#[test]
fn hugging_face_files_match_transformers() {
    let recording = json("hf_encode.json");
    let (gemma, paligemma) = (open("hf/gemma_like"), open("hf/paligemma_like"));
    assert_eq!(paligemma.vocab_size() as i64, recording["paligemma_like_len"].as_i64().unwrap());
    assert_eq!(paligemma.piece_to_id("<image>").map(i64::from), recording["image_token_id"].as_i64());
    assert_eq!((paligemma.loc(), paligemma.seg()), (Some((1400, 1024)), Some((2424, 128))));
    for case in cases(&recording, "cases") {
        let input = text(&case["text"]);
        let got = gemma.encode(input);
        assert_eq!(got, ids(&case["gemma_like"]), "{input:?}");
        assert_eq!(gemma.decode(&got).unwrap(), text(&case["decoded"]), "{input:?}");
        let expected = case.get("paligemma_like").unwrap_or(&case["gemma_like"]);
        assert_eq!(paligemma.encode(input), ids(expected), "{input:?}");
    }
    let grown = gemma.with_tokensets(&["loc", "seg"]).unwrap();
    assert_eq!(grown.encode("a<loc0003> <seg005>"), [1202, 1403, 1200, 2429]);
}

#[test]
fn notebook_tokens_match() {
    let recording = json("notebook_tokens.json");
    let tokenizer = open("tokenizer_loc_seg.model");
    for case in cases(&recording, "cases") {
        let mut expected = ids(&case["tokens"]);
        let mut got = vec![tokenizer.bos()];
        got.extend(tokenizer.encode(text(&case["prefix"])));
        got.extend(tokenizer.encode("\n"));
        if let Some(suffix) = case["suffix"].as_str().filter(|suffix| !suffix.is_empty()) {
            got.extend(tokenizer.encode(suffix));
            got.push(tokenizer.eos());
        }
        if let Some(seqlen) = case["seqlen"].as_u64() {
            got.resize(seqlen as usize, tokenizer.pad());
        }
        assert_eq!(got, expected, "{:?}", case["prefix"]);
        if let Some(end) = expected.iter().position(|&id| id == tokenizer.eos()) {
            expected.truncate(end);
        }
        assert_eq!(tokenizer.decode(&expected).unwrap(), text(&case["postprocess"]));
    }
}

#[test]
fn damaged_files_are_errors() {
    let model = std::fs::read(data("tokenizer.model")).unwrap();
    let hf = std::fs::read(data("hf/gemma_like/tokenizer.json")).unwrap();
    for bytes in [&b""[..], b"{", b"{}", b"\x0a\x05abc", &model[1..], &hf[..hf.len() / 2]] {
        assert!(Tokenizer::from_bytes(bytes).is_err());
    }
    // Cutting the file loses special settings, bytes or pieces; flipping bytes may go unnoticed, but never
    // further than to a wrong tokenizer.
    for cut in (0..model.len()).step_by(97) {
        let _ = Tokenizer::from_bytes(&model[..cut]);
    }
    for at in (0..model.len()).step_by(31) {
        let mut bytes = model.clone();
        bytes[at] ^= 0x55;
        if let Ok(tokenizer) = Tokenizer::from_bytes(&bytes) {
            let ids = tokenizer.encode("detect cat 🐱\n\n  <mask>12");
            tokenizer.decode(&ids).unwrap();
        }
    }
    let error = Tokenizer::open(data("no_such.model")).unwrap_err();
    assert!(error.to_string().starts_with("cannot read tokenizer file "), "{error}");
}

#[test]
fn location_tokens_must_follow_each_other() {
    let tokenizer = open("tokenizer.model").with_tokensets(&["loc(n=3)"]).unwrap();
    assert_eq!(tokenizer.loc(), Some((1400, 3)));
    let model = tokenizer.to_model_bytes().unwrap();
    // `<loc0001>` and `<loc0002>` change places in the file.
    let swapped = swap(
        &swap(&swap(&model, "<loc0001>", "<loc9999>"), "<loc0002>", "<loc0001>"),
        "<loc9999>",
        "<loc0002>",
    );
    let error = Tokenizer::from_bytes(&swapped).unwrap_err();
    let expected = "token \"<loc0001>\" has id 1402 instead of 1401: ids must follow those of \"<loc0000>\"";
    assert_eq!(error.to_string(), expected);
    let error = tokenizer.with_tokensets(&["nope"]).unwrap_err();
    assert_eq!(error.to_string(), "unknown token set \"nope\", known are: loc, seg, loc(n=N), seg(n=N)");
}

fn swap(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()
}

/// What SentencePiece makes of ids, all at once: bytes that stand together are decoded together.
fn decode_at_once(tokenizer: &Tokenizer, ids: &[i32]) -> String {
    let mut text = String::new();
    let mut bytes = Vec::new();
    for &id in ids {
        let piece = tokenizer.id_to_piece(id).unwrap();
        let digits = piece.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
        if let Some(byte) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            bytes.push(byte);
            continue;
        }
        text += &lossy(&std::mem::take(&mut bytes));
        text += &match piece.as_str() {
            "<pad>" | "<eos>" | "<bos>" => String::new(),
            "<unk>" => " \u{2047} ".to_owned(),
            piece => piece.replace('\u{2581}', " "),
        };
    }
    text + &lossy(&bytes)
}

/// With U+FFFD for every byte that is not part of a character.
fn lossy(bytes: &[u8]) -> String {
    bytes
        .utf8_chunks()
        .map(|chunk| chunk.valid().to_owned() + &"\u{FFFD}".repeat(chunk.invalid().len()))
        .collect()
}

fn stream(tokenizer: &Tokenizer, ids: &[i32]) -> String {
    let mut stream = tokenizer.stream();
    let text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    text + &stream.finish().unwrap()
}

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    /// Ids as a model may sample them; half of them are bytes, which come next to each other.
    #[test]
    fn a_stream_of_any_ids_is_what_they_decode_to(
        ids in proptest::collection::vec(proptest::prop_oneof![0..1400i32, 139..395i32], 0..40),
    ) {
        static TOKENIZERS: LazyLock<[Tokenizer; 2]> = LazyLock::new(|| ["tokenizer.model", "hf/gemma_like"].map(open));
        let [spm, hf] = &*TOKENIZERS;
        let expected = decode_at_once(spm, &ids);
        assert_eq!(stream(spm, &ids), expected);
        assert_eq!(spm.decode(&ids).unwrap(), expected);
        // The other kind drops unknown tokens, and one wrong byte spoils the good ones beside it.
        let whole = hf.decode(&ids).unwrap();
        if !whole.contains('\u{FFFD}') {
            assert_eq!(stream(hf, &ids), whole);
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_text_survives_encoding(text in "\\PC*|[a-z \n<>0-9]*") {
        // The one exception: U+2581 stands for a blank.
        let tokenizer = Tokenizer::from_bytes(&build::build(["a few words", "<loc0001> words"], &build::Options::default()).unwrap()).unwrap();
        assert_eq!(tokenizer.decode(&tokenizer.encode(&text)).unwrap(), text.replace('\u{2581}', " "));
    }
}
