//! Reading a config file, with the command line's changes, into a [`Config`]; and writing it back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::args::{self, Arg};
use super::decode::{Decoder, inline};
use super::error::{COMMAND_LINE, Error, Origin, Problem, invalid};
use super::node::{Kind, Node, Span};
use super::overrides;
use super::presets::Presets;
use super::run::Config;
use super::schema::Field;

/// A config together with where its values came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// The file that was read.
    pub path: PathBuf,
    args: Vec<Arg>,
    root: Node,
    origin: Arc<Origin>,
}

impl Config {
    /// Reads the config at `path`. `args` are the `name=value` of `--arg`, `sets` the `key.path=yaml` of
    /// `--set`.
    ///
    /// Paths in the config are relative to the working directory where that exists, else to the config's
    /// folder.
    ///
    /// # Errors
    /// When the file cannot be read, or with every mistake that it and the changes hold.
    pub fn load(path: &Path, args: &[(String, String)], sets: &[(String, String)]) -> Result<Loaded, Error> {
        let text =
            std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        Config::parse(&text, path, args, sets)
    }

    /// As [`load`](Self::load), from text that is treated as if it stood at `path`.
    ///
    /// # Errors
    /// As there.
    pub fn parse(
        text: &str,
        path: &Path,
        args: &[(String, String)],
        sets: &[(String, String)],
    ) -> Result<Loaded, Error> {
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut origin = Origin { folder, ..Origin::default() };
        let file = origin.add(path.display().to_string(), text);
        let mut source = |flag: &str, (key, value): &(String, String)| {
            let text = format!("{flag} {key}={value}");
            (key.clone(), value.clone(), origin.add(COMMAND_LINE, text))
        };
        let args: Vec<_> = args.iter().map(|arg| source("--arg", arg)).collect();
        let sets: Vec<_> = sets.iter().map(|set| source("--set", set)).collect();
        let presets = Presets::new(&mut origin);
        let origin = Arc::new(origin);

        let mut decoder = Decoder::new(origin.clone(), Vec::new());
        let mut root = Node::parse(text, file).map_err(|error| {
            let key = String::new();
            invalid(&origin, vec![Problem { span: error.span, key, message: error.message }])
        })?;
        for (key, value, source) in &sets {
            overrides::set(&mut root, key, value, *source, "--set ".len() + 1, &mut decoder);
        }
        let args = args::apply(&mut root, &args, &mut decoder);
        presets.apply(&mut root, &args);
        match Config::decode(&root, &mut decoder) {
            Some(mut config) if decoder.problems.is_empty() => {
                config.mode.apply(&mut config);
                Ok(Loaded { config, path: path.to_owned(), args, root, origin })
            }
            _ => Err(invalid(&origin, decoder.problems)),
        }
    }
}

impl Loaded {
    /// The resolved config: arguments filled in, defaults written out. It loads again to the same [`Config`].
    pub fn to_yaml(&self) -> String {
        let args: Vec<String> =
            self.args.iter().map(|(name, value)| format!("{name}={}", inline(value))).collect();
        let with = if args.is_empty() {
            String::new()
        } else {
            format!(" with {}", args.join(" ")).replace('\n', " ")
        };
        // Nodes hold only what YAML can say, so nothing can fail here but the formatter.
        let options = serde_yaml::ser_options! { prefer_block_scalars: false };
        let yaml = serde_yaml::to_string_with_options(&self.config.encode(), options)
            .expect("a config is plain YAML");
        format!("# Resolved from {}{with}\n{yaml}", self.path.display())
    }

    /// Where a key's value stands, as `file:line:column`. `None` for keys that are not set.
    pub fn location(&self, key: &str) -> Option<String> {
        self.origin.place(self.find(key)?.span)
    }

    /// A mistake in the value of `key` that only its owner can see, shown like the config's own.
    pub fn error_at(&self, key: &str, message: impl Into<String>) -> Error {
        let span = self.find(key).map_or(Span::default(), |node| node.span);
        invalid(&self.origin, vec![Problem { span, key: key.to_owned(), message: message.into() }])
    }

    fn find(&self, key: &str) -> Option<&Node> {
        let mut node = &self.root;
        let mut rest = key;
        while !rest.is_empty() {
            // Names of evaluations may hold dots, so the longest key that fits is taken.
            let (next, len) = match &node.kind {
                Kind::Map(entries) => {
                    let fits = |name: &str| {
                        rest.strip_prefix(name)
                            .is_some_and(|after| after.is_empty() || after.starts_with('.'))
                    };
                    let entry = entries.iter().filter(|e| fits(&e.key)).max_by_key(|e| e.key.len())?;
                    (&entry.node, entry.key.len())
                }
                Kind::List(items) => {
                    let index = rest.split('.').next()?;
                    (items.get(index.parse::<usize>().ok()?)?, index.len())
                }
                _ => return None,
            };
            node = next;
            rest = rest[len..].trim_start_matches('.');
        }
        Some(node)
    }
}

/// Splits the `key=value` of `--set` and `--arg`.
///
/// # Errors
/// When there is no `=`, or nothing before it.
pub fn split_assignment(text: &str) -> Result<(String, String), Error> {
    match text.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.to_owned())),
        _ => Err(Error::Assignment(text.to_owned())),
    }
}
