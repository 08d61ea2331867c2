//! The recipes of `configs/recipes`, from their data to a report: each as it stands, but for a small model in the
//! place of PaliGemma 3B and small sets of the same form in the place of those on the hub.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// What makes the model of a recipe small.
const SMALL: [&str; 6] = [
    "model_init=null",
    "model.image_size=28",
    "model.img={variant: null, width: 16, depth: 1, num_heads: 2, mlp_dim: 32, patch_size: 14}",
    "model.llm={variant: null, width: 16, depth: 1, num_heads: 2, num_kv_heads: 1, head_dim: 8, mlp_dim: 32, vocab_size: 1400}",
    "compute_dtype=float32",
    "ckpt_frozen=true",
];

/// A folder in which a recipe is followed.
struct Kitchen(TempDir);

impl Kitchen {
    fn new() -> Self {
        Kitchen(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs a command that succeeds, and gives what it says on standard error and its output.
    fn done(&self, args: &[&str]) -> (String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paligemma"));
        let output = command.current_dir(&self.0).env_remove("PALIGEMMA_LOG").args(args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{args:?}\n{stderr}");
        (stderr, String::from_utf8(output.stdout).unwrap())
    }

    fn tokenizer(&self, rows: &str) {
        let to = ["--out", "tokenizer.model", "--vocab-size", "1400", "--num-loc", "1024"];
        self.done(&[&["data", "tokenizer", rows], &to[..]].concat());
    }

    /// Trains after a recipe in the folder `run`, and gives what was said.
    fn train(&self, recipe: &str, args: &[&str], sets: &[&str]) -> String {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/recipes").join(recipe);
        let mut line = vec!["train", recipe.to_str().unwrap(), "--workdir", "run"];
        let args = [&["tokenizer=tokenizer.model", "res=28"], args].concat();
        args.iter().for_each(|arg| line.extend(["--arg", arg]));
        let sets = [&SMALL, sets].concat();
        sets.iter().for_each(|set| line.extend(["--set", set]));
        let (said, _) = self.done(&line);
        let page = fs::read_to_string(self.path("run/report.html")).unwrap();
        assert!(page.contains("Before and after training") && page.contains("Curves"));
        said
    }
}

/// A small set of the tests, in files of the form that the hub has.
fn parquet(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/data").join(name).to_str().unwrap().to_owned()
}

/// The parameters that are trained, of what is told before a training.
fn trained(said: &str) -> Vec<&str> {
    let names = said.lines().filter(|line| line.ends_with("  trained"));
    names.filter_map(|line| line.split_whitespace().next()).collect()
}

fn assert_attention_alone(said: &str) {
    let names = trained(said);
    let is_attention = |name: &&str| {
        name.starts_with("llm/layers/attn/")
            || name.starts_with("img/Transformer/encoderblock/MultiHeadDotProductAttention_0/")
    };
    assert!(names.iter().all(is_attention), "{names:?}");
    // Queries, keys with values, and outputs of the decoder; four kernels and biases of the vision tower.
    assert_eq!(names.len(), 3 + 8, "{names:?}");
}

#[test]
fn captions_of_creatures() {
    let kitchen = Kitchen::new();
    let source = parquet("hf_parquet_captions/data");
    let rows = ["--from", "parquet", "--task", "caption", "--caption-key", "blip_caption"];
    kitchen.done(&[&["data", "format", &source, "--out", "captions.jsonl"], &rows[..]].concat());
    kitchen.tokenizer("captions.jsonl");
    // One row of this set has no caption.
    let part = |name: &str, split: &str| {
        format!(
            "{name}={{name: 'hf:parquet', path: {source}, split: 'train[{split}]', columns: [image, blip_caption]}}"
        )
    };
    let said = kitchen.train(
        "tuxemon_caption.yaml",
        &[&part("train", "6:"), &part("val", ":5")],
        &["total_epochs=2"],
    );
    assert_attention_alone(&said);
    assert!(said.contains("best pplx/avg") && kitchen.path("run/BEST").is_file(), "{said}");
    assert!(said.contains("val/cider"), "{said}");
    let picture = fs::read_dir(kitchen.path("captions_images")).unwrap().next().unwrap().unwrap().path();
    let question = ["--image", picture.to_str().unwrap(), "--prompt", "caption the image."];
    let (_, answer) = kitchen.done(&[&["predict", "--checkpoint", "run"], &question[..]].concat());
    assert!(answer.ends_with('\n'));
}

#[test]
fn licence_plates() {
    let kitchen = Kitchen::new();
    let source = parquet("hf_parquet_detection/data");
    for split in ["train", "validation"] {
        let to = format!("{split}.jsonl");
        let rows = ["--from", "parquet", "--split", "train", "--loc-scale", "1024", "--out", &to];
        kitchen.done(&[&["data", "format", &source], &rows[..]].concat());
    }
    // Boxes at the edge of these pictures, too, end at a token that there is.
    let rows = fs::read_to_string(kitchen.path("train.jsonl")).unwrap();
    assert!(rows.contains("<loc1023>") && !rows.contains("<loc1024>"));
    kitchen.tokenizer("train.jsonl");
    let said = kitchen.train("license_plate_detect.yaml", &["data=."], &[]);
    assert_attention_alone(&said);
    assert!(said.contains("val/mAP50") && said.contains("trained to step 3"), "{said}");
}

#[test]
fn counting_where_lines_cross() {
    let kitchen = Kitchen::new();
    let size = ["--size", "64", "--splits", "train=8,val=4"];
    kitchen.done(&[&["data", "synth", "intersections", "--out", "data"], &size[..]].concat());
    kitchen.tokenizer("data/train.jsonl");
    let said = kitchen.train("count_intersection_lora.yaml", &["data=data"], &["total_steps=4"]);
    // Attention and MLP of the decoder, queries, keys and values of the vision tower: two matrices each.
    let names = trained(&said);
    assert!(names.iter().all(|name| name.starts_with("lora/")), "{names:?}");
    assert_eq!(names.len(), 2 * (5 + 3), "{names:?}");
    assert!(said.contains("val/acc"), "{said}");
}
