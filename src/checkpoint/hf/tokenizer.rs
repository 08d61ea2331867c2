//! Tokenizer files for transformers: the caller's own, with `<image>` behind big_vision's vocabulary.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::Problem;
use super::config::{File, pretty};
use crate::tokenizer::{self, Tokenizer};

const IMAGE: &str = "<image>";

/// Ids that the model's config repeats; by default Gemma's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    pub bos: i32,
    pub eos: i32,
    pub pad: i32,
}

impl Default for Ids {
    fn default() -> Self {
        Ids { bos: 2, eos: 1, pad: 0 }
    }
}

/// The files that make transformers give the tokenizer at `path`, and its special ids. `<image>` has the id
/// `vocab_size`. Location and segmentation tokens are added where the vocabulary lacks them, as big_vision does, and
/// ids that a model's table has beyond its tokens are named, since ids must not leave gaps.
pub(super) fn files(path: &Path, vocab_size: usize) -> Result<(Ids, Vec<File>), Problem> {
    let own = Tokenizer::open(path)?;
    let is_without_locations =
        own.loc().is_none() && own.vocab_size() + tokenizer::NUM_LOC + tokenizer::NUM_SEG <= vocab_size;
    let all = if is_without_locations { own.with_tokensets(&["loc", "seg"])? } else { own.clone() };
    let is_there = own.piece_to_id(IMAGE) == i32::try_from(vocab_size).ok();
    let tokens = all.vocab_size();
    if tokens > vocab_size && !(is_there && tokens == vocab_size + 1) {
        return Err(Problem::TokenizerTooLarge { tokens, rows: vocab_size });
    }
    // Pieces that the file's own vocabulary does not have, by id.
    let mut added: Vec<(usize, String)> = Vec::new();
    for id in own.vocab_size()..vocab_size {
        let piece = i32::try_from(id).ok().and_then(|id| all.id_to_piece(id));
        added.push((id, piece.unwrap_or_else(|| format!("<unnamed{id}>"))));
    }
    let ids = Ids { bos: all.bos(), eos: all.eos(), pad: all.pad() };
    let text = |id: i32| all.id_to_piece(id).unwrap_or_default();
    let special = [("bos_token", text(ids.bos)), ("eos_token", text(ids.eos)), ("pad_token", text(ids.pad))];
    let special = special.into_iter().chain([("unk_token", text(all.unk()))]);

    let mut map = json!({"additional_special_tokens": [token(IMAGE, true)]});
    let mut config = json!({
        "tokenizer_class": "GemmaTokenizer",
        "processor_class": "PaliGemmaProcessor",
        "add_bos_token": true,
        "add_eos_token": false,
        "additional_special_tokens": [IMAGE],
        "clean_up_tokenization_spaces": false,
        "spaces_between_special_tokens": false,
    });
    let (json_path, model_path) = if path.is_dir() {
        (path.join("tokenizer.json"), path.join("tokenizer.model"))
    } else {
        (path.to_owned(), path.to_owned())
    };
    let read = |path: &Path| {
        std::fs::read(path).map_err(|source| tokenizer::Error::Read { path: path.to_owned(), source })
    };
    let is_json = own.to_model_bytes().is_none();
    let source = if is_json { Some(parse(&read(&json_path)?, &json_path)?) } else { None };
    // All tokens beside the vocabulary must be here: transformers 5 gives ids anew, in this order.
    let mut decoder = BTreeMap::new();
    for token in source.iter().filter_map(|file| file["added_tokens"].as_array()).flatten() {
        let mut fields = token.clone();
        if let Some(id) = fields.as_object_mut().and_then(|fields| fields.shift_remove("id")?.as_u64()) {
            decoder.insert(id, fields);
        }
    }
    for (role, piece) in special {
        map[role] = token(&piece, true);
        config[role] = piece.clone().into();
        if let Some(id) = all.piece_to_id(&piece).and_then(|id| u64::try_from(id).ok()) {
            decoder.insert(id, token(&piece, true));
        }
    }
    for (id, piece) in &added {
        decoder.insert(*id as u64, token(piece, false));
    }
    decoder.insert(vocab_size as u64, token(IMAGE, true));
    let decoder = decoder.into_iter().map(|(id, token)| (id.to_string(), token));
    config["added_tokens_decoder"] = decoder.collect::<serde_json::Map<_, _>>().into();
    let mut by_name: serde_json::Map<String, Value> =
        added.iter().map(|(id, piece)| (piece.clone(), (*id).into())).collect();
    by_name.insert(IMAGE.to_owned(), vocab_size.into());

    let mut files = vec![
        ("added_tokens.json".to_owned(), pretty(&by_name.into())),
        ("special_tokens_map.json".to_owned(), pretty(&map)),
        ("tokenizer_config.json".to_owned(), pretty(&config)),
    ];
    if let Some(source) = source {
        files.push(("tokenizer.json".to_owned(), with_added(source, &added, vocab_size)));
    }
    if !is_json || (path.is_dir() && model_path.is_file()) {
        files.push(("tokenizer.model".to_owned(), read(&model_path)?));
    }
    Ok((ids, files))
}

/// A token as transformers' JSON describes one.
fn token(content: &str, is_special: bool) -> Value {
    json!({
        "content": content, "lstrip": false, "normalized": false, "rstrip": false, "single_word": false,
        "special": is_special,
    })
}

fn parse(text: &[u8], path: &Path) -> Result<Value, Problem> {
    serde_json::from_slice(text).map_err(|source| Problem::Json { path: path.to_owned(), source })
}

/// A `tokenizer.json` with more added tokens.
fn with_added(mut file: Value, added: &[(usize, String)], image_id: usize) -> Vec<u8> {
    let image = (image_id, IMAGE.to_owned());
    if let Some(tokens) = file.get_mut("added_tokens").and_then(Value::as_array_mut) {
        for (id, piece) in added.iter().chain([&image]) {
            if tokens.iter().any(|token| token["content"] == **piece) {
                continue;
            }
            let mut new = json!({ "id": id });
            if let (Some(new), Some(fields)) =
                (new.as_object_mut(), token(piece, *id == image_id).as_object())
            {
                new.extend(fields.clone());
            }
            tokens.push(new);
        }
    }
    pretty(&file)
}
