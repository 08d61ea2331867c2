//! What the masks say about tokens, and how tokens are shown.

use std::sync::Arc;

use super::Error;
use crate::array::HostArray;
use crate::config::Loaded;
use crate::pp::{Env, Literal, spec};
use crate::report::preview::Role;
use crate::setup;
use crate::tokenizer::Tokenizer;

/// The masks beside the tokens; either may be missing.
pub(super) struct Masks {
    pub ar: Option<HostArray>,
    pub loss: Option<HostArray>,
}

impl Masks {
    /// What each token is there for. Without a known `length`, padding is the run of `pad` at the end that is
    /// not trained on.
    pub fn roles(&self, len: usize, length: Option<usize>, ids: &[i32], pad: Option<i32>) -> Vec<Role> {
        let is_set = |mask: &Option<HostArray>| -> Vec<bool> {
            let values = mask.as_ref().map(HostArray::to_f64).unwrap_or_default();
            (0..len).map(|i| values.get(i).is_some_and(|&value| value != 0.0)).collect()
        };
        let (ar, loss) = (is_set(&self.ar), is_set(&self.loss));
        let padded =
            ids.iter().zip(&loss).rev().take_while(|(id, loss)| Some(**id) == pad && !**loss).count();
        let end = length.unwrap_or(len - padded).min(len);
        (0..len)
            .map(|i| match (loss[i], ar[i]) {
                (true, _) => Role::Trained,
                _ if i >= end => Role::Padding,
                (false, true) => Role::Causal,
                (false, false) => Role::Prefix,
            })
            .collect()
    }
}

/// A piece of the vocabulary as people read it: blanks as ␣, line ends as ⏎.
pub(super) fn shown(piece: &str) -> String {
    match piece {
        "<0x0A>" => "⏎".to_owned(),
        piece => piece.replace('\u{2581}', "␣").replace('\n', "⏎"),
    }
}

/// The tokenizer that a pp string's first `tok` names; without one, the config's.
pub(super) fn tokenizer_of(pp: &str, env: &Env, loaded: &Loaded) -> Result<Option<Arc<Tokenizer>>, Error> {
    let calls = spec::parse(pp).unwrap_or_default();
    let model = calls.iter().filter(|call| call.name == "tok").find_map(|call| {
        let named = call.kwargs.iter().find(|(name, ..)| name == "model").map(|(_, value, _)| value);
        match named.or(call.args.first().map(|(value, _)| value)) {
            Some(Literal::Str(model)) => Some(model.clone()),
            _ => None,
        }
    });
    match model {
        // The pipeline has been parsed, so the name is good.
        Some(model) => Ok(env.tokenizer(&model).ok()),
        None if loaded.config.tokenizer.is_some() => Ok(Some(setup::tokenizer(loaded)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn masks_give_roles() {
        let mask = |values: &[i32]| Some(HostArray::new([values.len()], values).unwrap());
        let masks = Masks { ar: mask(&[0, 0, 1, 1, 1]), loss: mask(&[0, 0, 0, 1, 0]) };
        let ids = [2, 7, 8, 9, 0];
        use Role::{Causal, Padding, Prefix, Trained};
        assert_eq!(masks.roles(5, None, &ids, Some(0)), [Prefix, Prefix, Causal, Trained, Padding]);
        assert_eq!(masks.roles(5, Some(5), &ids, Some(0))[4], Causal);
        assert_eq!(masks.roles(5, Some(9), &ids, Some(0))[4], Causal, "longer than there is room for");
        let none = Masks { ar: None, loss: None };
        assert_eq!(none.roles(2, Some(1), &[5, 5], None), [Prefix, Padding]);
        assert_eq!(shown("\u{2581}cat"), "␣cat");
        assert_eq!(shown("<0x0A>"), "⏎");
    }
}
