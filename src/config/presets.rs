//! `preset`: sets of defaults, for people who come from somewhere. They are configs that the program carries.

use super::args::Arg;
use super::decode::inline;
use super::error::Origin;
use super::node::{Entry, Kind, Node};
use super::steps::Duration;
use crate::config_choice;

config_choice! {
    /// A set of defaults.
    pub enum Preset {
        /// What big_vision's transfers have in common.
        BigVision = "big_vision",
        /// big_vision's notebook.
        Notebook = "notebook",
        /// What scripts on transformers and torch have in common.
        Torch = "torch",
    }
}

impl Preset {
    /// The config that it stands for.
    pub const fn yaml(self) -> &'static str {
        match self {
            Preset::BigVision => include_str!("../../configs/presets/big_vision.yaml"),
            Preset::Notebook => include_str!("../../configs/presets/notebook.yaml"),
            Preset::Torch => include_str!("../../configs/presets/torch.yaml"),
        }
    }
}

/// Sections whose keys are given one by one; what else a config sets, it sets as a whole.
const SECTIONS: [&str; 6] = ["input", "model", "model.img", "model.llm", "loss", "optax"];

/// Positions of a row where the config does not say.
const TEXT_LEN: i64 = 128;

/// Presets as sources that excerpts can quote.
pub(super) struct Presets([(Preset, usize); 3]);

impl Presets {
    pub fn new(origin: &mut Origin) -> Self {
        let presets = [Preset::BigVision, Preset::Notebook, Preset::Torch];
        Presets(
            presets.map(|preset| (preset, origin.add(format!("preset {}", preset.word()), preset.yaml()))),
        )
    }

    /// Adds the keys of the config's preset, if it names one, that it leaves out. A word that is no preset is reported
    /// when the config is decoded.
    pub fn apply(&self, root: &mut Node, args: &[Arg]) {
        let word = root.get("preset").and_then(Node::as_str);
        if let Some((preset, source)) = self.0.iter().find(|(preset, _)| Some(preset.word()) == word) {
            apply(root, args, *preset, *source);
        }
    }
}

fn apply(root: &mut Node, args: &[Arg], preset: Preset, source: usize) {
    let mut defaults = Node::parse(preset.yaml(), source).expect("presets are good YAML");
    let Kind::Map(entries) = &mut defaults.kind else { unreachable!("presets are mappings") };
    entries.retain(|entry| is_wanted(root, &entry.key));
    if let Some(Node { kind: Kind::Map(input), .. }) =
        entries.iter_mut().find(|entry| entry.key == "input").map(|entry| &mut entry.node)
    {
        // A mixture has these for each of its sources.
        let is_mixture = root.get("input").and_then(|input| input.get("data")).is_some_and(is_mixture);
        input.retain(|entry| !is_mixture || entry.key == "batch_size");
    }
    merge(root, defaults, "");
    let image_size = root.get("model").and_then(|model| model.get("image_size"));
    let text_len = args.iter().find(|(name, _)| name == "text_len").map(|(_, value)| inline(value));
    let tokenizer = root.get("tokenizer").and_then(Node::as_str).unwrap_or("tokenizer.model");
    let names = [
        ("{image_size}", image_size.map(inline).unwrap_or_default()),
        ("{text_len}", text_len.unwrap_or_else(|| TEXT_LEN.to_string())),
        ("{tokenizer}", tokenizer.rsplit('/').next().unwrap_or(tokenizer).to_owned()),
    ];
    if let Some(pp) = entry_of(root, "input").and_then(|input| entry_of(input, "pp"))
        && pp.span.source == source
        && let Kind::Str(text) = &mut pp.kind
    {
        for (name, value) in names {
            *text = text.replace(name, &value);
        }
    }
}

/// Whether a key of a preset has a place in the config: data is the config's own, and arguments belong to one optimizer.
fn is_wanted(root: &Node, key: &str) -> bool {
    match key {
        "input" => root.get("input").is_some_and(|input| !input.is_null()),
        "optax" => root.get("optax_name").is_none(),
        _ => true,
    }
}

fn is_mixture(data: &Node) -> bool {
    data.get("name").is_none()
}

fn entry_of<'a>(node: &'a mut Node, key: &str) -> Option<&'a mut Node> {
    match &mut node.kind {
        Kind::Map(entries) => entries.iter_mut().find(|entry| entry.key == key).map(|entry| &mut entry.node),
        _ => None,
    }
}

/// Puts what `defaults` has and `node` lacks into `node`.
fn merge(node: &mut Node, defaults: Node, path: &str) {
    if node.is_null() {
        node.kind = Kind::Map(Vec::new());
    }
    let (Kind::Map(entries), Kind::Map(defaults)) = (&mut node.kind, defaults.kind) else { return };
    for default in defaults {
        let Entry { key, .. } = &default;
        let full = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        let Some(place) = entries.iter().position(|entry| entry.key == *key) else {
            if !entries.iter().any(|entry| is_other_form(&entry.key, key)) {
                entries.push(default);
            }
            continue;
        };
        let node = &mut entries[place].node;
        if SECTIONS.contains(&full.as_str()) {
            merge(node, default.node, &full);
        } else if full == "input.pp" && node.as_str() == Some("") {
            // An empty text means that there are no ops.
            *node = default.node;
        }
    }
}

/// Whether two keys are forms of one duration: `ckpt_epochs` and `ckpt_steps`.
fn is_other_form(one: &str, other: &str) -> bool {
    let name = |key: &str| {
        let (name, suffix) = key.rsplit_once('_')?;
        Duration::SUFFIXES.contains(&suffix).then(|| name.to_owned())
    };
    name(one).is_some() && name(one) == name(other)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::array::DType;
    use crate::config::{Config, DecayType, FrozenType, Loaded, Mode, Reduction};

    fn load(yaml: &str) -> Loaded {
        Config::parse(yaml, Path::new("run.yaml"), &[], &[]).unwrap_or_else(|error| panic!("{error}"))
    }

    const DATA: &str = "input: {data: {name: 'bv:jsonl', fname: x}}\ntokenizer: some/where/spm.model\n";

    #[test]
    fn a_preset_gives_what_the_config_leaves_out() {
        let notebook = load(&format!("preset: notebook\n{DATA}")).config;
        let input = notebook.input.as_ref().unwrap();
        assert!(
            input.pp.starts_with("decode|resize(224, antialias=True)|value_range(-1, 1)|tok("),
            "{}",
            input.pp
        );
        assert!(input.pp.contains("model='sp(\"spm.model\")'"), "{}", input.pp);
        assert!(input.pp.contains("tolen(128, pad_value=0, key=\"mask_ar\")"), "{}", input.pp);
        assert_eq!((input.batch_size, notebook.lr), (8, 0.03));
        assert_eq!(
            (notebook.frozen_dtype, notebook.model.img.dtype_mm),
            (Some(FrozenType::Float(DType::F16)), DType::F16)
        );
        assert_eq!(notebook.schedule.get("llm/embedder/input_embedding"), Some(&None));
        let schedule = notebook.schedule.get("llm/layers/attn/q_einsum/w").unwrap().as_ref().unwrap();
        assert_eq!(schedule.decay_type, DecayType::Cosine);

        let torch = load(&format!("preset: torch\n{DATA}")).config;
        assert_eq!((torch.optax_name.as_str(), torch.loss.reduction), ("adamw", Reduction::Token));
        assert_eq!(torch.optax.get("weight_decay").unwrap().kind(), &Kind::Float(0.01));
        assert_eq!(torch.schedule.get("any").unwrap().as_ref().unwrap().decay_type, DecayType::Stair);
        assert!(torch.input.unwrap().pp.contains("tolen(128, pad_value=1, key=\"mask_ar\")"));
    }

    #[test]
    fn what_the_config_says_wins() {
        let yaml = "preset: big_vision\nargs: {text_len: 64}\nlr: 3e-6\nckpt_percent: 0.1\ngrad_clip_norm: null\n\
                    model: {image_size: 448, llm: {variant: gemma2_2b}}\nschedule: {decay_type: rsqrt}\n\
                    optax_name: big_vision.scale_by_adafactor\n";
        let config = load(&format!("{yaml}{DATA}")).config;
        let pp = &config.input.as_ref().unwrap().pp;
        assert!(pp.contains("resize(448, ") && pp.contains("tolen(64, "), "{pp}");
        assert_eq!((config.lr, config.grad_clip_norm, config.model.image_size), (3e-6, None, Some(448)));
        assert_eq!((config.ckpt.steps, config.ckpt.percent), (None, Some(0.1)));
        assert_eq!(config.schedule.get("any").unwrap().as_ref().unwrap().warmup.percent, None);
        // Arguments of another optimizer are none of this one's.
        assert!(config.optax.is_empty());
        // A mixture has its ops by source; a config without data gets none.
        let mixture =
            "preset: torch\ninput: {data: {a: 1}, a: {data: {name: 'bv:jsonl', fname: x}, pp: decode}}";
        let input = load(mixture).config.input.unwrap();
        assert_eq!((input.pp.as_str(), input.batch_size, input.shuffle_buffer_size), ("", 4, None));
        assert!(load("preset: torch").config.input.is_none());
        let error = Config::parse("preset: pytorch", Path::new("run.yaml"), &[], &[]).unwrap_err();
        assert!(error.to_string().contains("did you mean \"torch\""), "{error}");
    }

    #[test]
    fn resolved_configs_of_presets_and_modes_mean_the_same() {
        for preset in Preset::WORDS {
            for mode in Mode::WORDS {
                let loaded = load(&format!("preset: {preset}\nmode: {mode}\ntotal_epochs: 3\n{DATA}"));
                let again = load(&loaded.to_yaml());
                assert_eq!(again.config, loaded.config, "{}", loaded.to_yaml());
            }
        }
    }
}
