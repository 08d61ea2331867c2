use std::path::Path;

use serde_json::Value as Json;

use super::super::Row;
use super::{Tally, ids};
use crate::pp::Env;
use crate::tokenizer::Tokenizer;

fn open(dir: &Path, name: &str) -> Option<Tokenizer> {
    Tokenizer::open(dir.join(name)).inspect_err(|error| tracing::error!(%error, "no tokenizer")).ok()
}

pub(super) fn pieces(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let tokenizer = open(dir, "tokenizer.model")?;
    let pieces = recorded["pieces"].as_array()?;
    let mut tally = Tally::new("spm_pieces");
    tally.case(tokenizer.vocab_size() == pieces.len(), "size of the vocabulary");
    for (id, piece) in (0..).zip(pieces) {
        let piece = piece[0].as_str()?;
        let both = (tokenizer.id_to_piece(id), tokenizer.piece_to_id(piece));
        tally.case(both == (Some(piece.to_owned()), Some(id)), piece);
    }
    Some(tally.rows())
}

pub(super) fn sentencepiece_encodes(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let tokenizer = open(dir, "tokenizer.model")?;
    let [mut encode, mut decode] = ["spm_encode ids", "spm_encode decoded"].map(Tally::new);
    for case in recorded["cases"].as_array()? {
        let text = case["text"].as_str()?;
        let expected = ids(&case["ids"])?;
        encode.case(tokenizer.encode(text) == expected, text);
        decode.case(tokenizer.decode(&expected).ok().as_deref() == case["decoded"].as_str(), text);
    }
    Some([encode.rows(), decode.rows()].concat())
}

pub(super) fn sentencepiece_decodes(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let tokenizer = open(dir, "tokenizer.model")?;
    let mut tally = Tally::new("spm_decode");
    for case in recorded["cases"].as_array()? {
        let ids = ids(&case["ids"])?;
        tally.case(tokenizer.decode(&ids).ok().as_deref() == case["text"].as_str(), format!("{ids:?}"));
    }
    Some(tally.rows())
}

pub(super) fn hugging_face(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let (gemma, paligemma) = (open(dir, "hf/gemma_like")?, open(dir, "hf/paligemma_like")?);
    let mut tokenizers = Tally::new("hf_encode tokenizers");
    tokenizers.case(Some(paligemma.vocab_size() as u64) == recorded["paligemma_like_len"].as_u64(), "size");
    let image_token = paligemma.piece_to_id("<image>").map(i64::from);
    tokenizers.case(image_token == recorded["image_token_id"].as_i64(), "<image>");
    let [mut plain, mut extended, mut decode] =
        ["hf_encode gemma_like", "hf_encode paligemma_like", "hf_encode decoded"].map(Tally::new);
    for case in recorded["cases"].as_array()? {
        let text = case["text"].as_str()?;
        let expected = ids(&case["gemma_like"])?;
        plain.case(gemma.encode(text) == expected, text);
        decode.case(gemma.decode(&expected).ok().as_deref() == case["decoded"].as_str(), text);
        let expected = case.get("paligemma_like").map_or(Some(expected), ids)?;
        extended.case(paligemma.encode(text) == expected, text);
    }
    Some([tokenizers, plain, extended, decode].into_iter().flat_map(Tally::rows).collect())
}

pub(super) fn big_vision(dir: &Path, recorded: &Json) -> Option<Vec<Row>> {
    let env = Env::new(dir);
    let extended = open(dir, recorded["extended_model"].as_str()?)?;
    let tokenizer = env.tokenizer(recorded["tokenizer"].as_str()?).ok()?;
    let [mut encode, mut decode, mut batch, mut others] = ["encode", "decode", "decode_batch", "tokenizers"]
        .map(|name| Tally::new(format!("bv_tokenizer {name}")));
    for case in recorded["encode"].as_array()? {
        let text = case["text"].as_str()?;
        let expected = ids(&case["ids"])?;
        let decoded = tokenizer.decode_until_eos(&expected).ok();
        let holds = tokenizer.encode(text) == expected && extended.encode(text) == expected;
        encode.case(holds && decoded.as_deref() == case["decoded"].as_str(), text);
    }
    for case in recorded["decode"].as_array()? {
        let ids = ids(&case["ids"])?;
        let until_eos = tokenizer.decode_until_eos(&ids).ok();
        let whole = tokenizer.decode(&ids).ok();
        let holds = until_eos.as_deref() == case["stop_at_eos"].as_str();
        decode.case(holds && whole.as_deref() == case["no_stop"].as_str(), format!("{ids:?}"));
    }
    let texts = recorded["decode_batch"]["text"].as_array()?;
    for (row, text) in recorded["decode_batch"]["ids"].as_array()?.iter().zip(texts) {
        let ids = ids(row)?;
        batch.case(tokenizer.decode_until_eos(&ids).ok().as_deref() == text.as_str(), format!("{ids:?}"));
    }
    for case in recorded["tokenizers"].as_array()? {
        let spec = case["tokenizer"].as_str()?;
        let holds = match (env.tokenizer(spec), case.get("error")) {
            (Err(_), Some(_)) => true,
            (Ok(tokenizer), None) => {
                let special = [tokenizer.pad(), tokenizer.eos(), tokenizer.bos()];
                let last = i32::try_from(tokenizer.vocab_size()).ok()? - 1;
                Some(tokenizer.vocab_size() as u64) == case["vocab_size"].as_u64()
                    && ["pad", "eos", "bos"].map(|name| case[name].as_i64())
                        == special.map(|id| Some(id.into()))
                    && tokenizer.encode(case["probe"].as_str()?) == ids(&case["ids"])?
                    && tokenizer.id_to_piece(last).as_deref() == case["last_piece"].as_str()
            }
            _ => false,
        };
        others.case(holds, spec);
    }
    Some([encode, decode, batch, others].into_iter().flat_map(Tally::rows).collect())
}
