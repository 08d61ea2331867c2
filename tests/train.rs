//! `paligemma train` as a whole, on a model of thirteen thousand parameters: what a run leaves, and that
//! nothing that happens to a run changes where it ends.

#![cfg(unix)]

#[path = "support/small_disk.rs"]
mod small_disk;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use paligemma::checkpoint::{Reader, Store, open, open_as_is};
use paligemma::config::Config;
use paligemma::report::metrics::{Row, read_metrics};
use rand::{RngExt, SeedableRng};
use small_disk::SmallDisk;
use tempfile::TempDir;

/// Long enough for any machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(240);

/// A folder with drawn pictures, their rows and a tokenizer, in which runs take place.
struct Lab {
    folder: TempDir,
    tokens: usize,
    /// Of tests/data/configs.
    config: &'static str,
}

impl Lab {
    fn new() -> Self {
        Lab::with("tiny.yaml", 320)
    }

    /// With a config, and a tokenizer of at most so many tokens.
    fn with(config: &'static str, tokens: usize) -> Self {
        let lab = Lab { folder: tempfile::tempdir().unwrap(), tokens, config };
        lab.draw(12);
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Draws `rows` pictures to train on, replacing those that were there.
    fn draw(&self, rows: usize) {
        let splits = format!("train={rows},val=4");
        self.done(&[
            "data", "synth", "scenes", "--out", "data", "--size", "48", "--force", "--splits", &splits,
        ]);
        let rows = ["data/caption_train.jsonl", "data/caption_val.jsonl"];
        let tokens = self.tokens.to_string();
        let to = ["--out", "data/tokenizer.model", "--vocab-size", &tokens];
        self.done(&[&["data", "tokenizer"], rows.as_slice(), &to].concat());
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_paligemma"));
        command.current_dir(&self.folder).env_remove("PALIGEMMA_LOG").args(args);
        command
    }

    fn done(&self, args: &[&str]) -> String {
        said(&self.command(args).output().unwrap(), 0)
    }

    /// `paligemma train` in `workdir`, with more arguments.
    fn train(&self, workdir: &str, args: &[&str]) -> Command {
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/configs").join(self.config);
        let mut command = self.command(&["train", config.to_str().unwrap(), "--workdir", workdir]);
        command.args(args);
        command
    }

    /// As [`train`](Self::train), of the recorded model `gemma1`.
    fn train_recorded(&self, workdir: &str, args: &[&str], code: i32) -> String {
        let config = recorded("../configs/recorded.yaml");
        let config = config.to_str().unwrap();
        said(
            &self.command(&[&["train", config, "--workdir", workdir], args].concat()).output().unwrap(),
            code,
        )
    }

    /// Trains, which must end with `code`, and gives what was said.
    fn trained(&self, workdir: &str, args: &[&str], code: i32) -> String {
        said(&self.train(workdir, args).output().unwrap(), code)
    }

    fn start(&self, workdir: &str, args: &[&str]) -> Child {
        self.train(workdir, args).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The step and every tensor of the last checkpoint, as bytes.
    fn state(&self, workdir: &str) -> (u64, BTreeMap<String, Vec<u8>>) {
        let store = Store::open(&self.path(workdir)).unwrap();
        let latest = store.load_latest().unwrap().expect("a checkpoint");
        assert!(latest.skipped.is_empty(), "{:?}", latest.skipped);
        let checkpoint = latest.checkpoint;
        let names: Vec<String> = checkpoint.names().into_iter().map(str::to_owned).collect();
        let bytes = |name: &String| (name.clone(), checkpoint.read(name).unwrap().bytes().to_vec());
        (checkpoint.step(), names.iter().map(bytes).collect())
    }

    fn metrics(&self, workdir: &str) -> Vec<Row> {
        read_metrics(&self.path(workdir).join("metrics.jsonl")).unwrap_or_default()
    }

    /// The last step that the run in `workdir` has written measurements of; 0 before the first.
    fn step(&self, workdir: &str) -> u64 {
        self.metrics(workdir).last().map_or(0, |row| row.step)
    }
}

/// A file of the recordings.
fn recorded(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/model").join(name)
}

fn set(key: &str, path: &Path) -> String {
    format!("{key}={}", path.display())
}

fn said(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

/// Waits until `is_there`, or `child` has ended.
fn wait_until(child: &mut Child, what: &str, is_there: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_there() && child.try_wait().unwrap().is_none() {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn assert_same_state(one: (u64, BTreeMap<String, Vec<u8>>), other: (u64, BTreeMap<String, Vec<u8>>)) {
    assert_eq!(one.0, other.0, "steps");
    let different = one.1.iter().filter(|(name, bytes)| other.1.get(*name) != Some(*bytes));
    let different: Vec<_> = different.map(|(name, _)| name).collect();
    assert!(different.is_empty() && one.1.len() == other.1.len(), "tensors that differ: {different:?}");
}

#[test]
fn a_run_leaves_metrics_checkpoint_config_and_report() {
    let lab = Lab::new();
    let said = lab.trained("run", &[], 0);
    assert!(said.contains("trained to step 12 in "), "{said}");

    let rows = lab.metrics("run");
    let steps: Vec<u64> = rows.iter().filter(|row| has(row, "training_loss")).map(|row| row.step).collect();
    assert_eq!(steps, (1..=12).collect::<Vec<_>>());
    for key in ["avg_sup_seqlen", "max_sup_seqlen", "l2_grads", "l2_params", "l2_updates", "lr", "epoch"] {
        assert!(has(&rows[0], key), "{key} is not in {:?}", rows[0]);
    }
    let loss = |row: &Row| row.values.iter().find(|(key, _)| key == "training_loss").unwrap().1;
    assert!(loss(&rows[11]) < loss(&rows[0]), "{rows:?}");

    let (step, tensors) = lab.state("run");
    assert_eq!(step, 12);
    // The embeddings of 320 tokens, 16 numbers each.
    assert_eq!(tensors["params/llm/embedder/input_embedding"].len(), 320 * 16 * 4);
    assert!(tensors.keys().any(|name| name.starts_with("opt/")), "{:?}", tensors.keys());

    let page = fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(page.contains("training_loss") && page.contains("</html>"));
    let again = Config::load(&lab.path("run/config.yaml"), &[], &[]).unwrap();
    assert_eq!(again.config.lr, 1e-3);
    // The first line says where it is from.
    let body = |text: &str| text.split_once('\n').unwrap().1.to_owned();
    assert_eq!(body(&again.to_yaml()), body(&fs::read_to_string(lab.path("run/config.yaml")).unwrap()));
}

fn has(row: &Row, key: &str) -> bool {
    row.values.iter().any(|(known, _)| known == key)
}

#[test]
fn a_run_that_is_over_stays_as_it_is_and_completes_what_is_missing() {
    let lab = Lab::new();
    lab.trained("run", &[], 0);
    let state = lab.state("run");
    let said = lab.trained("run", &[], 0);
    assert!(said.contains("trained for 12 of 12 steps; nothing is left to do"), "{said}");
    // As after a crash between the last checkpoint and the report.
    fs::remove_file(lab.path("run/report.html")).unwrap();
    lab.trained("run", &[], 0);
    assert!(lab.path("run/report.html").is_file());
    assert_same_state(lab.state("run"), state);
}

/// Stops a run of many steps by Ctrl-C at whatever step it is, and lets it go on.
fn interrupt_and_resume(lab: &Lab, more: &[&str]) {
    let args = [&["--arg", "steps=1000", "--set", "log_training_steps=20", "--set", "ckpt_steps=null"], more]
        .concat();
    let mut child = lab.start("run", &args);
    wait_until(&mut child, "the first steps", || lab.step("run") >= 20);
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
    let output = child.wait_with_output().unwrap();
    let stderr = said(&output, 130);
    assert!(stderr.contains("stopping after this step and saving"), "{stderr}");
    let (stopped, _) = lab.state("run");
    assert!((20..1000).contains(&stopped), "stopped at step {stopped}");
    let expected = format!("stopped and saved at step {stopped}; the same command goes on from there");
    assert!(stderr.contains(&expected), "{stderr}");

    let stderr = lab.trained("run", &args, 0);
    assert!(stderr.contains("resuming from "), "{stderr}");
    lab.trained("straight", &args, 0);
    assert_same_state(lab.state("run"), lab.state("straight"));
    let losses = |workdir: &str| {
        let rows = lab.metrics(workdir).into_iter().filter(|row| row.step % 20 == 0);
        rows.map(|row| (row.step, row.values.into_iter().find(|(key, _)| key == "training_loss")))
            .collect::<Vec<_>>()
    };
    assert_eq!(losses("run"), losses("straight"));
}

#[test]
fn an_interrupted_run_saves_and_ends_where_an_uninterrupted_one_does() {
    interrupt_and_resume(&Lab::new(), &[]);
}

#[test]
fn dropout_is_the_same_after_an_interruption() {
    interrupt_and_resume(&Lab::new(), &["--set", "model.llm.dropout=0.1"]);
}

#[test]
fn a_mixture_goes_on_where_it_was_interrupted() {
    let lab = Lab::with("mixture.yaml", 320);
    interrupt_and_resume(&lab, &[]);
    let rows = lab.metrics("run");
    let last = rows.iter().rfind(|row| has(row, "training_loss")).unwrap();
    let value = |key: &str| last.values.iter().find(|(known, _)| known == key).unwrap().1;
    // Of 4000 rows, three quarters.
    assert!((value("examples_seen_many") - 3000.0).abs() < 3.0, "{last:?}");
    assert!((value("epoch_few") - 1000.0 / 4.0).abs() < 1.0, "{last:?}");
    assert_eq!((value("epoch"), value("examples_skipped")), (250.0, 0.0));
    assert!(rows.iter().any(|row| has(row, "z/secs/input_wait")));

    let stderr = lab.trained("run", &["--arg", "steps=2000", "--set", "input.data.few=2"], 2);
    let expected = "error: the checkpoint was written with training data {\"name\":\"few\",\"weight\":1.0,";
    assert!(stderr.contains(expected) && stderr.contains("\"weight\":2.0"), "{stderr}");
    let stderr = lab.trained("other", &["--set", "input.keep_only=[image, text, mask_ar, mask]"], 1);
    assert!(stderr.contains("keep_only names \"mask\", pp leaves only: "), "{stderr}");
}

#[test]
fn every_optimizer_goes_on_where_it_was_interrupted_also_in_parts_of_batches() {
    let parts = ["--set", "grad_accum_steps=2", "--set", "model.llm.dropout=0.1"];
    let adafactor = "optax={min_dim_size_to_factor: 16, beta2_cap: 0.95}";
    let optimizers = [
        ("big_vision.scale_by_adafactor", adafactor),
        ("big_vision.momentum_hp", "optax={nesterov: true}"),
        ("adamw", "optax={weight_decay: 0.1, mu_dtype: bfloat16}"),
    ];
    for (name, arguments) in optimizers {
        let optimizer = format!("optax_name={name}");
        let more = [&parts[..], &["--set", &optimizer, "--set", arguments]].concat();
        let lab = Lab::with("mixture.yaml", 320);
        kill_and_resume_in(&lab, 2, &more);
        let (_, tensors) = lab.state("run");
        assert!(tensors.keys().any(|key| key.starts_with("opt/")), "{name}");
    }
}

/// An evaluation of the validation rows after every second step.
fn with_perplexity(lab: &Lab) -> String {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/configs").join(lab.config);
    let pp = Config::load(&config, &[], &[]).unwrap().config.input.unwrap().pp.replace('\'', "''");
    format!(
        "evals={{val/pplx: {{type: perplexity, log_steps: 2, skip_first: true, pp_fn: '{pp}', data: \
         {{name: 'bv:jsonl', fname: data/caption_val.jsonl, fopen_keys: {{image: data}}}}}}}}"
    )
}

/// A metric of all steps at which it was measured.
fn series(lab: &Lab, workdir: &str, key: &str) -> Vec<(u64, f64)> {
    let value = |row: Row| Some((row.step, row.values.into_iter().find(|(known, _)| known == key)?.1));
    lab.metrics(workdir).into_iter().filter_map(value).collect()
}

#[test]
fn the_best_checkpoint_is_kept_and_a_run_that_gets_no_better_ends() {
    let lab = Lab::new();
    let evals = with_perplexity(&lab);
    let metric = "{metric: val/pplx/avg}";
    let best = format!("ckpt_best={metric}");
    let args = ["--arg", "steps=400", "--set", "lr=0.03", "--set", &evals, "--set", &best];
    let stop = "early_stop={metric: val/pplx/avg, patience: 3}";
    let stderr = lab.trained("run", &[&args[..], &["--set", stop]].concat(), 0);
    let values = series(&lab, "run", "val/pplx/avg");
    let (step, least) = values.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    assert!(step > 2, "{values:?}");
    assert_eq!(values.last().unwrap().0, step + 6, "{values:?}");
    assert_eq!(lab.state("run").0, step + 6);
    for expected in [
        format!("stopped early at step {} in ", step + 6),
        format!("stopping early: val/pplx/avg was best at step {step} ({least:.4}), 3 evaluations ago"),
        format!("val/pplx/avg was best at step {step} ({least:.4}) and is "),
        format!(" at step {step}\n"),
    ] {
        assert!(stderr.contains(&expected), "{expected} is not in {stderr}");
    }
    let directory = format!("checkpoint-{step:09}");
    assert_eq!(fs::read_to_string(lab.path("run/BEST")).unwrap(), directory);
    let bytes = |path: &str| open(lab.path(path)).unwrap().read("llm/final_norm/scale").unwrap();
    assert_eq!(bytes("run/BEST"), bytes(&format!("run/{directory}")));
    let stderr = lab.trained("run", &[&args[..], &["--set", stop]].concat(), 0);
    assert!(stderr.contains("nothing is left to do"), "{stderr}");
    // With more patience it goes on.
    let more = [&args[..], &["--set", "early_stop={metric: val/pplx/avg, patience: 4}"]].concat();
    lab.trained("run", &more, 0);
    assert!(lab.state("run").0 > step + 6);

    let stderr = lab.trained("other", &["--set", &evals, "--set", "ckpt_best={metric: val/acc}"], 2);
    assert!(stderr.contains("ckpt_best.metric \"val/acc\" is of no evaluation; their"), "{stderr}");
    let stderr = lab.trained("other", &["--set", &evals, "--set", "ckpt_best={metric: val/pplx/acc}"], 2);
    assert!(
        stderr.contains("val/pplx/acc is no metric of its evaluation, which gave: val/pplx/"),
        "{stderr}"
    );
}

#[test]
fn a_learning_rate_that_was_reduced_stays_reduced_after_a_crash() {
    let lab = Lab::new();
    let plateau = "reduce_on_plateau={metric: val/pplx/avg, factor: 0.5, patience: 1}";
    let evals = with_perplexity(&lab);
    let more = ["--set", "lr=0.03", "--set", "schedule={}", "--set", plateau, "--set", &evals];
    kill_and_resume_in(&lab, 2, &more);
    let rates = series(&lab, "run", "lr");
    assert_eq!(rates, series(&lab, "straight", "lr"));
    assert_eq!(rates[0].1, 0.03);
    assert!(rates.last().unwrap().1 < 0.01, "{rates:?}");
    assert_eq!(series(&lab, "run", "val/pplx/avg"), series(&lab, "straight", "val/pplx/avg"));
}

#[test]
fn a_mock_runs_without_data_and_checkpoint_and_every_preset_trains() {
    let lab = Lab::new();
    let evals = with_perplexity(&lab).replace("fopen_keys: {image: data}", "start: 0");
    let nothing = "input.data={name: 'bv:jsonl', fname: nowhere.jsonl}";
    let args = ["--set", "mode=mock", "--set", "model_init=nowhere.npz", "--set", nothing, "--set", &evals];
    lab.trained("mock", &args, 0);
    assert_eq!(lab.state("mock").0, 12);
    assert!(!series(&lab, "mock", "val/pplx/avg").is_empty());

    let model = "model: {image_size: 16, img: {variant: null, width: 16, depth: 1, num_heads: 2, mlp_dim: 32, patch_size: 8}, \
                 llm: {variant: null, width: 16, depth: 1, num_heads: 2, num_kv_heads: 1, head_dim: 8, mlp_dim: 32, vocab_size: 320}}";
    for preset in ["big_vision", "notebook", "torch"] {
        let data = "{data: {name: 'bv:jsonl', fname: data/caption_train.jsonl, fopen_keys: {image: data}}, batch_size: 2}";
        let yaml = format!(
            "preset: {preset}\nargs: {{text_len: 32}}\ntokenizer: data/tokenizer.model\ninput: {data}\ntotal_steps: 3\n{model}\n\
             log_training_steps: 1\n"
        );
        fs::write(lab.path(&format!("{preset}.yaml")), yaml).unwrap();
        lab.done(&["train", &format!("{preset}.yaml"), "--workdir", preset]);
        assert_eq!(series(&lab, preset, "training_loss").len(), 3, "{preset}");
    }
}

#[test]
fn killed_at_any_moment_a_run_ends_where_an_unharmed_one_does() {
    kill_and_resume(6, &[]);
}

#[test]
fn killed_runs_with_frozen_parameters_end_where_unharmed_ones_do() {
    kill_and_resume(3, &["--set", ATTENTION_ONLY]);
}

/// The config of a run that trains the attention of the language model and nothing else.
const ATTENTION_ONLY: &str = "schedule=[['llm/layers/attn/.*', {decay_type: cosine}], ['.*', null]]";

fn kill_and_resume(kills: usize, more: &[&str]) {
    kill_and_resume_in(&Lab::new(), kills, more);
}

fn kill_and_resume_in(lab: &Lab, kills: usize, more: &[&str]) {
    let args = [&["--arg", "steps=120", "--set", "ckpt_steps=1"], more].concat();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        // Steps after the one that it starts from, and then a moment within a step and its saving.
        let target = lab.step("run") + rng.random_range(1..8);
        let delay = Duration::from_micros(rng.random_range(0..80_000));
        let mut child = lab.start("run", &args);
        // A crash may also come before anything was trained.
        wait_until(&mut child, "steps", || lab.step("run") >= target);
        std::thread::sleep(delay);
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.signal(), Some(9), "the run ended before it was killed: {stderr}");
        killed_at.push(lab.step("run"));
    }
    println!("killed at steps {killed_at:?}");
    lab.trained("run", &args, 0);
    let straight = [&["--arg", "steps=120", "--set", "ckpt_steps=null"], more].concat();
    lab.trained("straight", &straight, 0);
    assert_same_state(lab.state("run"), lab.state("straight"));
    let steps: Vec<u64> =
        lab.metrics("run").iter().filter(|row| has(row, "training_loss")).map(|row| row.step).collect();
    assert_eq!(steps, (1..=120).collect::<Vec<_>>(), "every step is measured once");
    let left: Vec<_> =
        fs::read_dir(lab.path("run")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let checkpoints = left.iter().filter(|name| name.to_string_lossy().starts_with("checkpoint-"));
    assert_eq!(checkpoints.count(), 1, "{left:?}");
}

#[test]
fn frozen_parameters_take_room_once_or_stay_where_they_came_from() {
    use std::os::unix::fs::MetadataExt;
    let lab = Lab::new();
    lab.trained("base", &[], 0);
    let base = lab.path("base/checkpoint-000000012");
    let init = format!("model_init={}", base.display());
    let args = ["--set", &init, "--set", ATTENTION_ONLY, "--set", "keep_ckpt_steps=4"];
    lab.trained("whole", &args, 0);
    let frozen =
        |step: u64| lab.path(&format!("whole/checkpoint-{step:09}/frozen-00001-of-00001.safetensors"));
    let inodes = [4, 8, 12].map(|step| fs::metadata(frozen(step)).unwrap().ino());
    assert!(inodes.iter().all(|&inode| inode == inodes[0]), "{inodes:?}");

    // Stopped on its way, so that it goes on from a checkpoint that lacks most of the model.
    let small = [&args[..], &["--set", "ckpt_frozen=false"]].concat();
    let long = [&small[..], &["--arg", "steps=120"]].concat();
    let mut child = lab.start("stopped", &long);
    wait_until(&mut child, "the first steps", || lab.step("stopped") >= 6);
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    said(&child.wait_with_output().unwrap(), 130);
    lab.trained("stopped", &long, 0);
    lab.trained("straight", &[&args[..], &["--arg", "steps=120", "--set", "ckpt_steps=null"]].concat(), 0);
    assert_same_state(lab.state("stopped"), lab.state("straight"));

    lab.trained("small", &small, 0);
    assert_same_state(lab.state("small"), lab.state("whole"));
    let size = |run: &str| -> u64 {
        let files = fs::read_dir(lab.path(run).join("checkpoint-000000012")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    };
    assert!(3 * size("small") < size("whole"), "{} of {} bytes", size("small"), size("whole"));
    let image = fs::read_dir(lab.path("data")).unwrap().map(|entry| entry.unwrap().path());
    let image = image.flat_map(fs::read_dir).flatten().flatten().next().unwrap().path();
    let predict = |run: &str| {
        let (run, image) = (lab.path(run), image.to_str().unwrap());
        let args =
            ["predict", "--checkpoint", run.to_str().unwrap(), "--image", image, "--prompt", "caption en"];
        lab.command(&args).output().unwrap()
    };
    let (small_says, whole_says) = (predict("small"), predict("whole"));
    said(&small_says, 0);
    assert_eq!(small_says.stdout, whole_says.stdout);

    // Without its base it says what it misses, and an older checkpoint does not stand in for it.
    fs::rename(&base, lab.path("elsewhere")).unwrap();
    let stderr = lab.trained("small", &[&small[..], &["--arg", "steps=16"]].concat(), 1);
    assert!(stderr.contains("checkpoint-000000012 leaves frozen parameters to "), "{stderr}");
    assert!(stderr.contains("put it back, or correct its path in manifest.json"), "{stderr}");
    said(&predict("small"), 1);
}

#[test]
fn a_write_that_fails_ends_the_run_and_leaves_the_checkpoint_before_it() {
    let lab = Lab::new();
    lab.trained("run", &["--arg", "steps=4"], 0);
    let before = lab.state("run");
    let train = lab.train("run", &["--arg", "steps=8"]);
    // No file may grow beyond 64 blocks of at most 1 KiB, as if the disk were full; a checkpoint has 168 KB.
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 64; exec \"$@\"", "sh"]).arg(train.get_program());
    limited.args(train.get_args()).current_dir(&lab.folder);
    let stderr = said(&limited.output().unwrap(), 1);
    assert!(stderr.contains("checkpoint-000000006"), "{stderr}");
    assert!(stderr.contains("File too large"), "{stderr}");
    assert_same_state(lab.state("run"), before);
    lab.trained("run", &["--arg", "steps=8"], 0);
    assert_eq!(lab.state("run").0, 8);
}

#[test]
fn a_full_disk_ends_the_run_and_leaves_the_checkpoint_before_it() {
    let Some(disk) = SmallDisk::mount(2048) else { return };
    let lab = Lab::new();
    let run = disk.path().join("run");
    let run = run.to_str().unwrap();
    lab.trained(run, &["--arg", "steps=4"], 0);
    let before = lab.state(run);
    let files = || {
        let mut names: Vec<_> = fs::read_dir(run).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let names = files();
    // Room for measurements, not for the 168 KB of a checkpoint.
    disk.fill_up_to(80);
    let stderr = lab.trained(run, &["--arg", "steps=8", "--set", "report.tensorboard=false"], 1);
    assert!(stderr.contains("checkpoint-000000006-tmp"), "{stderr}");
    assert!(stderr.contains("No space left on device"), "{stderr}");
    assert_eq!(files(), names);
    assert_same_state(lab.state(run), before);
    disk.make_room();
    lab.trained(run, &["--arg", "steps=8"], 0);
    assert_eq!(lab.state(run).0, 8);
}

#[test]
fn initial_parameters_of_another_model_are_the_configs_mistake_and_damaged_ones_are_not() {
    let lab = Lab::new();
    lab.trained("base", &[], 0);
    let from = |path: &str, code: i32| lab.trained("run", &["--set", &format!("model_init={path}")], code);
    fs::write(lab.path("page.npz"), "<html>not found</html>").unwrap();
    assert!(from("page.npz", 2).contains("page.npz is not a checkpoint"));
    let said = lab.trained("run", &["--set", "model_init=base", "--set", "model.llm.mlp_dim=48"], 2);
    assert!(said.contains("does not fit the model") && said.contains("llm/layers/mlp/linear"), "{said}");
    let state = lab.path("base/checkpoint-000000012/state-00001-of-00001.safetensors");
    let bytes = fs::read(&state).unwrap();
    fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    assert!(from("base", 1).contains("state-00001-of-00001.safetensors is truncated or overwritten"));
    fs::remove_file(lab.path("base/checkpoint-000000012/manifest.json")).unwrap();
    assert!(from("base", 1).contains("has no manifest.json"));
    assert!(!lab.path("run/LAST").exists());
}

#[test]
fn a_workdir_of_another_run_is_refused() {
    let lab = Lab::new();
    lab.trained("run", &[], 0);
    let refused = |args: &[&str]| lab.trained("run", &[&["--arg", "steps=24"], args].concat(), 2);
    let expected = "error: the checkpoint was written with seed 0, the config has 1; use another workdir to start anew\n";
    let stderr = refused(&["--set", "seed=1"]);
    assert!(stderr.ends_with(expected), "{stderr}");
    lab.draw(16);
    let expected = "error: the checkpoint was written with training rows 12, the config has 16; use another workdir to start anew\n";
    let stderr = refused(&[]);
    assert!(stderr.ends_with(expected), "{stderr}");
    assert_eq!(lab.state("run").0, 12);
}

#[test]
fn a_workdir_in_use_is_refused() {
    let lab = Lab::new();
    let _held = Store::open(&lab.path("run")).unwrap();
    let stderr = lab.trained("run", &[], 1);
    assert!(stderr.contains("run is in use by another run; stop it, or choose another workdir"), "{stderr}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_names_step_and_metric() {
    let lab = Lab::new();
    let stderr = lab.trained("run", &["--set", "lr=1e20"], 1);
    let error = stderr.split("error: ").nth(1).unwrap_or_default();
    let mut words = error.split_whitespace();
    assert!(paligemma::train::METRICS.contains(&words.next().unwrap_or_default()), "{stderr}");
    assert!(
        error.contains(" at step ") && error.contains("the last checkpoint before it is unharmed"),
        "{stderr}"
    );
    assert!(error.contains(", the new values of ") && error.contains(" are not finite; "), "{stderr}");
    let file = error.split("its arrays are in ").nth(1).and_then(|rest| rest.split(", its rows are ").next());
    let file = lab.path(file.unwrap_or_else(|| panic!("{stderr}")));
    assert!(error.contains("its rows are data/caption_train.jsonl:"), "{stderr}");
    let batch = open_as_is(&file).unwrap();
    assert_eq!(batch.read("image").unwrap().dims(), [4, 16, 16, 3]);
    assert_eq!(batch.read("text").unwrap().dims(), [4, 32]);
}

#[test]
fn tokens_that_the_model_does_not_know_name_their_row() {
    let lab = Lab::new();
    let stderr = lab.trained("run", &["--arg", "vocab=100"], 1);
    assert!(stderr.contains("error: cannot preprocess data/caption_train.jsonl"), "{stderr}");
    assert!(stderr.contains("is outside the model's vocabulary of 100"), "{stderr}");
}

#[test]
fn a_picture_that_is_damaged_names_file_and_row_and_can_be_skipped() {
    let lab = Lab::new();
    let rows = fs::read_to_string(lab.path("data/caption_train.jsonl")).unwrap();
    let row: serde_json::Value = serde_json::from_str(rows.lines().nth(4).unwrap()).unwrap();
    let picture = lab.path("data").join(row["image"].as_str().unwrap());
    let bytes = fs::read(&picture).unwrap();
    fs::write(&picture, &bytes[..bytes.len() / 2]).unwrap();

    let stderr = lab.trained("run", &[], 1);
    let error = stderr.split("error: ").nth(1).unwrap_or_default();
    assert!(error.starts_with("cannot preprocess data/caption_train.jsonl:5"), "{stderr}");
    assert!(error.contains("cannot decode image"), "{stderr}");

    let stderr = lab.trained("run", &["--set", "input.skip_errors=true"], 0);
    assert!(stderr.contains("skipped a row") && stderr.contains("caption_train.jsonl:5"), "{stderr}");
    assert_eq!(lab.state("run").0, 12);
}

#[test]
fn a_run_of_big_vision_goes_on_with_its_parameters_moments_and_step() {
    let lab = Lab::with("tiny.yaml", 290);
    let resume = set("resume", &recorded("checkpoint_bv/adam/checkpoint.bv"));
    // It is of the last step: what there is to do is to save it.
    let stderr = lab.train_recorded("same", &["--set", &resume], 0);
    assert!(stderr.contains("resuming from ") && stderr.contains("checkpoint.bv-000000006"), "{stderr}");
    let (step, tensors) = lab.state("same");
    assert_eq!(step, 6);
    let theirs = open_as_is(recorded("checkpoint_bv/adam")).unwrap();
    let mut moments = 0;
    for (name, bytes) in &tensors {
        let source = match name.strip_prefix("opt/").map(|name| name.split_once('/').unwrap_or((name, ""))) {
            None => name.clone(),
            Some(("count", _)) => "opt/1/0/0".to_owned(),
            Some(("mu", param)) => format!("opt/1/0/1/{param}"),
            Some((moment, param)) => {
                assert_eq!(moment, "nu");
                format!("opt/1/0/2/{param}")
            }
        };
        moments += usize::from(source.starts_with("opt/"));
        assert_eq!(*bytes, theirs.read(&source).unwrap().bytes(), "{name}");
    }
    assert_eq!((tensors.len(), moments), (32 + 19, 19));

    lab.train_recorded("longer", &["--set", &resume, "--arg", "steps=8"], 0);
    let (step, tensors) = lab.state("longer");
    assert_eq!((step, &tensors["opt/count"][..]), (8, &[8u8, 0, 0, 0][..]));
    let steps = |workdir: &str| {
        let rows = lab.metrics(workdir).into_iter().filter(|row| has(row, "training_loss"));
        rows.map(|row| row.step).collect::<Vec<_>>()
    };
    assert_eq!(steps("longer"), [7, 8]);
    // A run that has begun goes on by itself.
    let nowhere = set("resume", &lab.path("nowhere"));
    let stderr = lab.train_recorded("longer", &["--set", &nowhere, "--arg", "steps=9"], 0);
    assert!(stderr.contains("longer/checkpoint-000000008"), "{stderr}");
    assert_eq!(steps("longer"), [7, 8, 9]);

    let adafactor = set("resume", &recorded("checkpoint_bv/adafactor"));
    let stderr = lab.train_recorded("other", &["--set", &adafactor], 2);
    assert!(
        stderr.contains("its optimizer is big_vision.scale_by_adafactor, the config has another"),
        "{stderr}"
    );
    assert!(stderr.contains("opt/1/0/0 is missing"), "{stderr}");
}

#[test]
fn a_run_of_big_vision_goes_on_with_its_adafactor() {
    let lab = Lab::with("tiny.yaml", 290);
    let resume = set("resume", &recorded("checkpoint_bv/adafactor"));
    let adafactor = "optax_name=big_vision.scale_by_adafactor";
    let schedule = "schedule={decay_type: rsqrt, timescale: 4, warmup_steps: 2, cooldown_steps: 2}";
    let args = ["--set", &resume, "--set", adafactor, "--set", "optax={beta2_cap: 0.95}", "--set", schedule];
    lab.train_recorded("same", &args, 0);
    let (step, tensors) = lab.state("same");
    assert_eq!(step, 6);
    let theirs = open_as_is(recorded("checkpoint_bv/adafactor")).unwrap();
    let mut kinds = BTreeMap::new();
    for (name, bytes) in &tensors {
        let source = match name.strip_prefix("opt/").map(|name| name.split_once('/').unwrap_or((name, ""))) {
            None => name.clone(),
            Some(("count", _)) => "opt/1/0/0/0".to_owned(),
            Some((kind, param)) => {
                *kinds.entry(kind).or_insert(0) += 1;
                let place = match kind {
                    "v_row" => "0/1",
                    "v_col" => "0/2",
                    "v" => "0/3",
                    _ => "2/1",
                };
                format!("opt/1/0/{place}/{param}")
            }
        };
        assert_eq!(*bytes, theirs.read(&source).unwrap().bytes(), "{name}");
    }
    assert_eq!(kinds["v_row"], kinds["v_col"]);
    assert_eq!((kinds["v_row"] + kinds["v"], kinds["ema"]), (32, 32));
    assert!(kinds["v_row"] > 2, "{kinds:?}");
    lab.train_recorded("longer", &[&args[..], &["--arg", "steps=8"]].concat(), 0);
    assert_eq!(lab.state("longer").1["opt/count"][..], [8u8, 0, 0, 0]);
}

#[test]
fn a_run_can_go_on_from_a_checkpoint_of_another() {
    let lab = Lab::new();
    lab.trained("first", &["--set", "keep_ckpt_steps=6"], 0);
    let resume = set("resume", &lab.path("first/checkpoint-000000006"));
    let stderr = lab.trained("second", &["--set", &resume], 0);
    assert!(stderr.contains("first/checkpoint-000000006"), "{stderr}");
    assert_same_state(lab.state("second"), lab.state("first"));
    let steps: Vec<u64> =
        lab.metrics("second").iter().filter(|row| has(row, "training_loss")).map(|row| row.step).collect();
    assert_eq!(steps, (7..=12).collect::<Vec<_>>());
}

#[test]
fn towers_start_from_checkpoints_of_their_own_in_other_sizes() {
    let lab = Lab::with("tiny.yaml", 290);
    let params = recorded("gemma1/params.npz");
    let (img, llm) = (format!("model_init.img={}:img", params.display()), set("model_init.llm", &params));
    let args = ["--set", &img, "--set", &llm, "--set", "lr=0", "--set", "wd=0", "--arg", "steps=1"];
    let head = "model_load.img_load_kw.dont_load=[head/.*]";
    let sizes = ["--set", head, "--arg", "res=42", "--arg", "vocab=310"];
    let stderr = lab.train_recorded("run", &[&args[..], &sizes].concat(), 0);
    for expected in [
        "provides all of 21 parameters, 2 left out on request",
        "provides all of 9 parameters",
        "pos_embedding interpolated from a grid of 2x2 to 3x3",
        "embedder/input_embedding extended from 300 rows to 310",
    ] {
        assert!(stderr.contains(expected), "{expected} is not in {stderr}");
    }
    let (_, tensors) = lab.state("run");
    let theirs = open(&params).unwrap();
    for (name, bytes) in
        tensors.iter().filter_map(|(name, bytes)| Some((name.strip_prefix("params/")?, bytes)))
    {
        let original = theirs.read(name).unwrap();
        match name {
            "img/pos_embedding" => {
                assert_eq!((bytes.len(), &bytes[..128]), (9 * 32 * 4, &original.bytes()[..128]))
            }
            "llm/embedder/input_embedding" => {
                assert_eq!((bytes.len(), &bytes[..300 * 160]), (310 * 160, original.bytes()));
                assert!(bytes[300 * 160..].iter().any(|&byte| byte != 0));
            }
            "img/head/kernel" | "img/head/bias" => assert!(bytes.iter().all(|&byte| byte == 0), "{name}"),
            _ => assert_eq!(bytes, original.bytes(), "{name}"),
        }
    }
    // Without the other tower, it is drawn; what fits in neither size is told.
    let shrunk = ["--set", &llm, "--arg", "vocab=299"];
    let stderr = lab.train_recorded("shrunk", &shrunk, 2);
    assert!(stderr.contains("embedder/input_embedding: the model has f32[299,40]"), "{stderr}");
}

/// The last value of a metric.
fn last(rows: &[Row], key: &str) -> Option<f64> {
    let values = rows.iter().rev().flat_map(|row| &row.values);
    values.into_iter().find(|(known, _)| known == key).map(|(_, value)| *value)
}

#[test]
fn a_checkpoint_evaluates_to_what_its_training_measured() {
    let lab = Lab::with("evals.yaml", 320);
    lab.trained("run", &[], 0);
    let rows = lab.metrics("run");
    for key in ["pplx/avg", "pplx/sum", "caption/cider", "caption/bleu-4", "vqa/acc", "vqa/anls", "vqa/num"] {
        assert!(last(&rows, key).is_some(), "{key}");
    }
    for key in ["count/acc", "count/num", "boxes/mAP", "boxes/mAP50", "boxes/num", "store/num_examples"] {
        assert!(last(&rows, key).is_some(), "{key}");
    }
    // Four rows in batches of three: padding counts nowhere.
    for key in ["vqa/num", "count/num", "boxes/num", "store/num_examples"] {
        assert_eq!(last(&rows, key), Some(4.0), "{key}");
    }
    let lines = |name: &str| {
        let text = fs::read_to_string(lab.path("run/predictions").join(name)).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<serde_json::Value>>()
    };
    for (name, count) in
        [("vqa-0", 4), ("vqa-2", 4), ("vqa-4", 4), ("store-0", 0), ("store-4", 4), ("pplx-4", 0)]
    {
        assert_eq!(lines(&format!("{name}.jsonl")).len(), count, "{name}");
    }
    let first = &lines("vqa-4.jsonl")[0];
    assert!(first["prompt"] == "caption en" && first["references"][0].is_string(), "{first}");
    let list = |name: &str| -> Vec<serde_json::Value> {
        serde_json::from_slice(&fs::read(lab.path("run").join(name)).unwrap()).unwrap()
    };
    assert_eq!((list("vqa_4.json").len(), list("preds.json").len()), (4, 4));
    let page = fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(page.contains("Hardest examples"));

    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/configs/evals.yaml");
    let config = config.to_str().unwrap();
    let eval = |args: &[&str]| {
        let args = [&["eval", config, "--checkpoint", "run"], args].concat();
        lab.command(&args).output().unwrap()
    };
    let output = eval(&["--json", "--out", "found", "--html", "found.html"]);
    said(&output, 0);
    let object: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let metrics = object["metrics"].as_object().unwrap();
    assert!(metrics.len() > 20, "{metrics:?}");
    for (key, value) in metrics {
        assert_eq!(value.as_f64(), last(&rows, key), "{key}");
    }
    let found = fs::read(lab.path("found/predictions/vqa-run.jsonl")).unwrap();
    assert_eq!(found, fs::read(lab.path("run/predictions/vqa-4.jsonl")).unwrap());
    assert!(fs::read_to_string(lab.path("found.html")).unwrap().contains("Hardest examples"));

    let output = eval(&["--evals", "pplx", "--set", "evals.pplx.max_examples=1"]);
    said(&output, 0);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("pplx/sum  ") && text.lines().count() == 2, "{text}");
    let message = said(&eval(&["--evals", "pplx,vqe"]), 2);
    assert!(message.contains("has no evaluation \"vqe\"; it has: pplx, caption, vqa, count"), "{message}");
    let message = said(&eval(&["--set", "evals.vqa.type=vqb"]), 2);
    assert!(message.contains("unknown evaluator \"vqb\""), "{message}");
    let message = said(&eval(&["--set", "evals.caption.metrics=[spice]"]), 2);
    assert!(message.contains("unknown caption metric \"spice\""), "{message}");

    lab.trained("other", &["--set", "lr=1e-4"], 0);
    let output = lab.command(&["report", "run", "other", "--out", "both.html"]).output().unwrap();
    said(&output, 0);
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("training_loss") && table.contains("boxes/mAP50"), "{table}");
    assert!(table.lines().any(|line| line.contains("pplx/avg") && line.contains(" other ")), "{table}");
    let page = fs::read_to_string(lab.path("both.html")).unwrap();
    assert!(page.contains("2 runs") && page.contains("</html>"));
    let message = said(&lab.command(&["report", "run", "data"]).output().unwrap(), 2);
    assert!(message.contains("data holds no run"), "{message}");
}
