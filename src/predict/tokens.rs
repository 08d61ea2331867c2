//! Which tokens an answer may be of, as people name them.

use super::Error;
use crate::decode::TokenMask;
use crate::tokenizer::Tokenizer;

/// The mask of what is banned and, unless there is nothing in it, of what alone is allowed; the token that ends an
/// answer is always allowed. Tokens are named by their text (`cat`, `<loc0012>`), by number (`#108`), or all location
/// or segmentation tokens at once, as `<loc>` or `<seg>`. A text of several tokens allows all of them.
///
/// # Errors
/// Names of no token, and texts of several tokens to be banned: that would ban parts of other texts.
pub fn token_mask(
    tokenizer: &Tokenizer,
    vocab_size: usize,
    banned: &[String],
    allowed: &[String],
) -> Result<TokenMask, Error> {
    let mut ban = Vec::new();
    for name in banned {
        match named(tokenizer, vocab_size, name)? {
            Named::Text(tokens) if tokens.len() > 1 => {
                let pieces: Vec<String> = tokens.iter().filter_map(|&id| tokenizer.id_to_piece(id)).collect();
                let problem = format!(
                    "is {} tokens ({}), of which one cannot be banned",
                    tokens.len(),
                    pieces.join(" ")
                );
                return Err(Error::TokenName { name: name.clone(), problem });
            }
            Named::Text(tokens) | Named::Ids(tokens) => ban.extend(tokens),
        }
    }
    let mut allow = Vec::new();
    for name in allowed {
        let (Named::Text(tokens) | Named::Ids(tokens)) = named(tokenizer, vocab_size, name)?;
        allow.extend(tokens);
    }
    let only = !allow.is_empty();
    allow.push(tokenizer.eos());
    Ok(TokenMask { allowed: only.then(|| allow.into()), banned: ban.into() })
}

enum Named {
    /// The tokens of a text.
    Text(Vec<i32>),
    /// Tokens that are each meant.
    Ids(Vec<i32>),
}

fn named(tokenizer: &Tokenizer, vocab_size: usize, name: &str) -> Result<Named, Error> {
    let wrong = |problem: String| Error::TokenName { name: name.to_owned(), problem };
    let set = |set: Option<(i32, usize)>| {
        let (first, count) = set.ok_or_else(|| wrong("names tokens that the tokenizer lacks".into()))?;
        Ok(Named::Ids((first..first + count as i32).collect()))
    };
    match (name, name.strip_prefix('#').filter(|digits| !digits.is_empty())) {
        ("<loc>", _) => set(tokenizer.loc()),
        ("<seg>", _) => set(tokenizer.seg()),
        (_, Some(digits)) => {
            let id =
                digits.parse().ok().filter(|&id: &i32| usize::try_from(id).is_ok_and(|id| id < vocab_size));
            let last = vocab_size.saturating_sub(1);
            Ok(Named::Ids(vec![id.ok_or_else(|| wrong(format!("is no number from 0 to {last}")))?]))
        }
        _ => {
            let tokens = match tokenizer.piece_to_id(name) {
                Some(id) => vec![id],
                None => tokenizer.encode(name),
            };
            let is_known = !tokens.is_empty() && !tokens.contains(&tokenizer.unk());
            if is_known { Ok(Named::Text(tokens)) } else { Err(wrong("has no tokens of its own".into())) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokenizer::build;

    #[test]
    fn tokens_are_named_by_text_number_or_set() {
        let options = build::Options { vocab_size: 400, num_loc: 4, num_seg: 0 };
        let tokenizer = Tokenizer::from_bytes(&build::build(["cat dog cat dog"], &options).unwrap()).unwrap();
        let strings = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let mask = |ban: &[&str], allow: &[&str]| {
            token_mask(&tokenizer, 400, &strings(ban), &strings(allow)).map_err(|error| error.to_string())
        };
        assert!(mask(&[], &[]).unwrap().allows_all());
        let (first, _) = tokenizer.loc().unwrap();
        let cat = tokenizer.encode("cat");
        let all = mask(&["<loc0001>", "#399"], &["<loc>", "cat"]).unwrap();
        assert_eq!(*all.banned, [first + 1, 399]);
        let mut allowed: Vec<i32> = (first..first + 4).collect();
        allowed.extend(cat);
        allowed.push(tokenizer.eos());
        assert_eq!(all.allowed.as_deref(), Some(allowed.as_slice()));

        let told = |ban: &[&str], expected: &str| {
            let error = mask(ban, &[]).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        told(&["<seg>"], "\"<seg>\" names tokens that the tokenizer lacks");
        told(&["#400"], "\"#400\" is no number from 0 to 399");
        told(&["#-1"], "is no number from 0 to 399");
        told(&["cat dog cat"], "tokens (");
        told(&[""], "has no tokens of its own");
    }
}
