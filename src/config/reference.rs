//! The generated reference of all keys.

use std::fmt::Write as _;

use super::run::Config;
use super::schema::{Field, Row};

/// Keys of big_vision configs that need no counterpart here, with the reason.
const NOT_NEEDED: [(&str, &str); 9] = [
    ("pp_modules", "every pp op is always there, remove the key"),
    ("model_name", "there is one model, remove the key"),
    ("optim", "its successor is \"optax\""),
    ("weight_decay", "its successors are \"wd\" and \"schedule\""),
    ("grad_clip_per_example", "gradients are clipped by global norm only (\"grad_clip_norm\")"),
    ("mesh_allow_split_physical_axes", "devices are laid out in order, remove the key"),
    ("batch_size_eval", "each evaluation has its own \"batch_size\""),
    ("skip_decode", "images are always handed on encoded: decode them with the pp op \"decode\""),
    ("tfdata", "sources are read by this program itself, remove the key"),
];

/// Every key of the config as Markdown: type, default and meaning.
pub fn reference() -> String {
    let mut out = String::from(
        "# Config reference\n\n\
         Keys are those of big_vision. `NAME` stands for a name of your choice. A *duration* is one of \
         `X_steps`, `X_examples`, `X_epochs` and `X_percent` (a share of the training, from 0 to 1). A *data \
         source* has the keys of `input.data`. Paths are relative to the working directory, or else to the \
         config's folder. A default of `-` marks a key that must be given.\n\n\
         | key | type | default | meaning |\n| --- | --- | --- | --- |\n",
    );
    for Row { key, type_name, default, meaning } in rows() {
        let default = match default.as_deref() {
            None => "-".to_owned(),
            Some("") => String::new(),
            Some(default) => format!("`{}`", default.replace('|', "\\|")),
        };
        let meaning = meaning.replace(" | ", " \\| ").replace("`|`", "`\\|`");
        let keys: Vec<String> = key.split(", ").map(|key| format!("`{key}`")).collect();
        let _ = writeln!(out, "| {} | {type_name} | {default} | {meaning} |", keys.join(", "));
    }
    out
}

/// The rows of the reference, in the order of the schema.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = vec![Row {
        key: "args".to_owned(),
        type_name: "map of name to default".to_owned(),
        default: Some("{}".to_owned()),
        meaning: "Arguments that strings use as `{name}` or `{name+1}` (also `-`, `*`, `//`), set by `--arg \
                  name=value`. Other braces stay as they are; `{{name}}` stands for `{name}`."
            .to_owned(),
    }];
    Config::document("", &mut rows);
    rows
}

/// What to do about a key that is known, but not where it stands.
pub(super) fn elsewhere(key: &str) -> Option<String> {
    if let Some((_, advice)) = NOT_NEEDED.iter().find(|(other, _)| *other == key) {
        return Some((*advice).to_owned());
    }
    let rows = rows();
    let keys = rows.iter().flat_map(|row| {
        // A family of keys shares the section of the first.
        let (section, _) = row.key.split(", ").next().and_then(|k| k.rsplit_once('.')).unwrap_or(("", ""));
        row.key.split(", ").map(move |key| match key.contains('.') || section.is_empty() {
            true => key.to_owned(),
            false => format!("{section}.{key}"),
        })
    });
    let places: Vec<String> = keys
        .filter(|known| known.rsplit('.').next() == Some(key))
        .map(|known| format!("\"{known}\""))
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    (!places.is_empty()).then(|| format!("it belongs at {}", places.join(" or ")))
}
