//! The command line as a user meets it: help, mistakes and what is said about them, exit codes.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;

/// The program in a folder of its own, untouched by the caller's terminal and settings.
fn paligemma(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_paligemma"));
    command.current_dir(folder).env_remove("COLUMNS").env_remove("PALIGEMMA_LOG");
    command
}

/// What a command that fails says, and its exit code.
fn failure(command: &mut Command) -> (String, i32) {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success(), "succeeded: {stderr}");
    (stderr, output.status.code().expect("an exit code"))
}

fn help(verb: &[&str]) -> String {
    let output = paligemma(Path::new(".")).args(verb).arg("--help").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Help of a verb and of all below it.
fn collect_help<'a>(verb: &mut Vec<String>, all: &'a mut String) -> &'a mut String {
    let text = help(&verb.iter().map(String::as_str).collect::<Vec<_>>());
    let commands = text.split("\nCommands:\n").nth(1).and_then(|rest| rest.split("\n\n").next());
    // Continued descriptions are indented further.
    let names = commands.unwrap_or_default().lines().filter(|line| !line.starts_with("   "));
    let names: Vec<String> =
        names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    writeln!(all, "$ paligemma {}\n{text}", [verb.as_slice(), &["--help".to_owned()]].concat().join(" "))
        .unwrap();
    for name in names.into_iter().filter(|name| name != "help") {
        verb.push(name);
        collect_help(verb, all);
        verb.pop();
    }
    all
}

#[test]
fn help_of_every_verb() {
    let mut all = String::new();
    insta::assert_snapshot!(collect_help(&mut Vec::new(), &mut all));
}

#[test]
fn the_config_reference_in_docs_is_up_to_date() {
    let output = paligemma(Path::new(".")).args(["train", "--help-config"]).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/config.md");
    let kept = fs::read_to_string(&path).unwrap_or_default();
    assert!(kept == printed, "docs/config.md is old: paligemma train --help-config > docs/config.md");
}

#[test]
fn what_is_no_verb_is_said_to_be_none() {
    let (stderr, code) = failure(paligemma(Path::new(".")).arg("trian"));
    assert_eq!(code, 2);
    assert!(stderr.contains("unrecognized subcommand 'trian'"), "{stderr}");
    assert!(stderr.contains("similar subcommand exists: 'train'"), "{stderr}");
    let (stderr, code) = failure(paligemma(Path::new(".")).args(["train", "c.yaml"]));
    assert_eq!(code, 2);
    assert!(stderr.contains("--workdir <DIR>"), "{stderr}");
}

/// The tiny config of the tests with some of its text replaced, in a folder of its own.
fn changed_config(changes: &[(&str, &str)]) -> TempDir {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/configs/tiny.yaml");
    let mut text = fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "the config has no {from:?}");
        text = text.replace(from, to);
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.yaml"), text).unwrap();
    folder
}

fn train(folder: &TempDir, args: &[&str]) -> (String, i32) {
    failure(paligemma(folder.path()).args(["train", "c.yaml", "--workdir", "run"]).args(args))
}

#[test]
fn all_mistakes_in_a_config_are_shown_at_their_places_with_the_nearest_keys() {
    let folder = changed_config(&[
        ("  batch_size: 4", "  bacth_size: 4"),
        ("\nlr: 1.0e-3", "\nlr: fast"),
        ("optax_name: scale_by_adam", "optax_nam: scale_by_adam"),
    ]);
    let (stderr, code) = train(&folder, &[]);
    assert_eq!(code, 2);
    insta::assert_snapshot!(stderr);
    assert!(!folder.path().join("run").exists(), "a workdir was made for a run that cannot be");
}

#[test]
fn yaml_that_cannot_be_read_is_shown_at_its_place() {
    let folder = changed_config(&[("args: {data: data,", "args: {data: data")]);
    let (stderr, code) = train(&folder, &[]);
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: c.yaml:2:"), "{stderr}");
}

#[test]
fn mistakes_on_the_command_line_are_shown_there() {
    let folder = changed_config(&[]);
    let mut all = String::new();
    for args in [
        ["--set", "lrr=1"],
        ["--set", "lr=much"],
        ["--set", "lr"],
        ["--arg", "stesp=3"],
        ["--arg", "steps=x"],
    ] {
        let (stderr, code) = train(&folder, &args);
        assert_eq!(code, 2, "{stderr}");
        writeln!(all, "$ {}\n{stderr}", args.join(" ")).unwrap();
    }
    insta::assert_snapshot!(all);
}

#[test]
fn what_a_config_asks_for_in_vain_is_refused() {
    let folder = changed_config(&[]);
    let (stderr, code) = train(&folder, &["--set", "optax_name=lion"]);
    assert_eq!(code, 2);
    let expected =
        "unknown optimizer \"lion\", known are: scale_by_adam, adamw, big_vision.scale_by_adafactor";
    assert!(stderr.contains(expected), "{stderr}");
}

#[test]
fn files_that_are_missing_are_named() {
    let folder = changed_config(&[]);
    let mut command = paligemma(folder.path());
    let (stderr, code) = failure(command.args(["train", "none.yaml", "--workdir", "run"]));
    assert_eq!(code, 2);
    assert!(stderr.starts_with("error: cannot read config none.yaml\n  cause: "), "{stderr}");
    let (stderr, code) = train(&folder, &[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("cannot read data/caption_train.jsonl"), "{stderr}");
}

#[test]
fn a_missing_plugin_comes_with_the_command_that_fetches_it() {
    let empty = tempfile::tempdir().unwrap();
    let mut command = paligemma(empty.path());
    for variable in ["VIRTUAL_ENV", "PALIGEMMA_PJRT_PLUGIN", "XDG_CACHE_HOME"] {
        command.env_remove(variable);
    }
    // No python on the path: nor do its packages count.
    command.env("PALIGEMMA_CACHE", empty.path()).env("PATH", empty.path());
    let (stderr, code) = failure(command.args(["devices", "--kind", "cpu"]));
    assert_eq!(code, 1);
    assert!(stderr.contains("fetch one with `scripts/fetch-plugin cpu`"), "{stderr}");
}

#[test]
fn devices_as_json_names_the_cpu() {
    let output = paligemma(Path::new(".")).args(["devices", "--kind", "cpu", "--json"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let plugins: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plugins[0]["kind"], "cpu");
    assert_eq!(plugins[0]["devices"][0]["id"], 0);
}

#[test]
fn readers_who_have_seen_enough_are_no_error() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_paligemma"));
    let command = command.args(["train", "--help-config"]);
    let mut child =
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A data set of the tests.
fn data(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/data").join(name).display().to_string()
}

/// Runs `data format` and gives the rows and what was said on standard error.
fn format_rows(folder: &Path, args: &[&str]) -> (Vec<serde_json::Value>, String) {
    let output = paligemma(folder).args(["data", "format"]).args(args).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    let out = folder.join(String::from_utf8(output.stdout).unwrap().trim());
    let rows = fs::read_to_string(&out).unwrap();
    let rows: Vec<serde_json::Value> = rows.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for row in &rows {
        let image = out.parent().unwrap().join(row["image"].as_str().unwrap());
        assert!(image.is_file(), "{}", image.display());
    }
    (rows, stderr)
}

#[test]
fn boxed_sets_become_the_recorded_rows_by_each_recorded_rule() {
    let recording = fs::read(data("expected_detection.json")).unwrap();
    let recording: serde_json::Value = serde_json::from_slice(&recording).unwrap();
    let drawn = recording["images"].as_array().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let kinds = [("coco", vec!["train"]), ("yolo", vec!["train", "val"]), ("voc", vec!["train", "val"])];
    for (kind, splits) in kinds {
        let (mut compared, mut num_clamped) = (0, 0);
        for split in splits {
            for (rule, options) in [
                ("seed_rule", &["--loc-scale", "1024", "--loc-clamp", "false"][..]),
                ("seed_rule_clamped", &["--loc-scale", "1024"]),
                ("big_vision_refcoco_loc", &[]),
            ] {
                let set = data(kind);
                let fixed = [&set, "--from", kind, "--split", split, "--out", "rows.jsonl", "--force"];
                let (rows, stderr) = format_rows(folder.path(), &[&fixed, options].concat());
                let clamped = stderr.lines().find(|line| line.contains("boxes clamped to their image"));
                num_clamped += usize::from(clamped.is_some() && rule == "big_vision_refcoco_loc");
                for row in &rows {
                    let name = Path::new(row["image"].as_str().unwrap()).file_name().unwrap().to_owned();
                    let image = drawn.iter().find(|image| image["file"] == name.to_str().unwrap()).unwrap();
                    // Pascal VOC names no classes: those of a split are what its pictures show.
                    let least = if kind == "voc" { 3 } else { 4 };
                    assert!(row["prefix"].as_str().unwrap().split(" ; ").count() >= least);
                    let suffix = row["suffix"].as_str().unwrap();
                    let expected = match image[rule].as_array() {
                        None => image[rule].as_str().unwrap().to_owned(),
                        Some(boxes) => {
                            let labels = image["categories"].as_array().unwrap().iter();
                            let texts = boxes.iter().zip(labels).map(|(corners, label)| {
                                format!("{} {}", corners.as_str().unwrap(), label.as_str().unwrap())
                            });
                            texts.collect::<Vec<_>>().join(" ; ")
                        }
                    };
                    assert_eq!(suffix, expected, "{kind} {split} {rule}: {name:?}");
                    assert!(rule == "seed_rule" || !suffix.contains("<loc1024>"));
                    compared += 1;
                }
            }
        }
        assert_eq!(compared, 3 * 24, "{kind}");
        assert_eq!(num_clamped, 0, "no drawn box of {kind} sticks out of its picture");
    }
}

#[test]
fn folders_and_rows_become_counts_captions_and_boxes() {
    let folder = tempfile::tempdir().unwrap();
    let set = data("imagefolder/train");
    let count = ["--from", "imagefolder", "--task", "count", "--out", "made/count.jsonl"];
    let args = [&[set.as_str()], &count[..]].concat();
    let (stderr, code) = failure(paligemma(folder.path()).args(["data", "format"]).args(&args));
    assert_eq!((code, stderr.contains("--prefix \"how many …\"")), (2, true), "{stderr}");
    let (rows, _) = format_rows(folder.path(), &[&args[..], &["--prefix", "how many crossings"]].concat());
    assert_eq!(rows.len(), 18);
    assert!(rows.iter().all(|row| {
        row["image"].as_str().unwrap().contains(&format!("/{}/", row["suffix"].as_str().unwrap()))
    }));

    let (rows, stderr) = format_rows(
        folder.path(),
        &[
            &data("coco"),
            "--from",
            "coco",
            "--task",
            "count",
            "--classes",
            "square,circle",
            "--out",
            "c.jsonl",
        ],
    );
    assert_eq!(rows.len(), 48, "{stderr}");
    let first: Vec<_> = rows[..2].iter().map(|row| [row["prefix"].clone(), row["suffix"].clone()]).collect();
    assert_eq!(first, [["how many square", "1"], ["how many circle", "0"]]);

    let (rows, _) = format_rows(
        folder.path(),
        &[
            &data("jsonl/data_val4.jsonl"),
            "--from",
            "jsonl",
            "--task",
            "caption",
            "--caption-key",
            "suffix",
            "--out",
            "captions.jsonl",
        ],
    );
    assert_eq!(rows.len(), 4);
    assert!(rows.iter().all(|row| row["prefix"] == "caption en"));

    // Rows that were written without clamping are read again and repaired.
    let raw = ["--loc-scale", "1024", "--loc-clamp", "false"];
    let coco = [&data("coco"), "--from", "coco", "--out", "raw.jsonl"];
    let (raw, _) = format_rows(folder.path(), &[&coco[..], &raw].concat());
    assert!(raw.iter().any(|row| row["suffix"].as_str().unwrap().contains("<loc1024>")));
    let (repaired, stderr) = format_rows(
        folder.path(),
        &[
            "raw.jsonl",
            "--from",
            "jsonl",
            "--suffix-loc-scale",
            "1024",
            "--loc-scale",
            "1024",
            "--out",
            "r.jsonl",
        ],
    );
    // Without class names only pictures with objects have something to ask for.
    let with_objects: Vec<_> = raw.iter().filter(|row| row["suffix"] != "").collect();
    assert_eq!(repaired.len(), with_objects.len(), "{stderr}");
    for (row, raw) in repaired.iter().zip(with_objects) {
        assert_eq!(row["suffix"], raw["suffix"].as_str().unwrap().replace("<loc1024>", "<loc1023>"));
    }
}

#[test]
fn what_data_format_cannot_do_is_said_with_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let said = |args: &[&str]| {
        let (stderr, code) = failure(paligemma(folder.path()).args(["data", "format"]).args(args));
        (stderr.replace(&format!("{}/", data("")), ""), code)
    };
    let coco = data("coco");
    let out = ["--out", "rows.jsonl"];
    assert_eq!(
        said(&["none", "--from", "coco", "--out", "rows.jsonl"]),
        ("error: there is no none\n".to_owned(), 2)
    );
    let (stderr, code) = said(&[&[coco.as_str(), "--from", "coco", "--classes", "cow"], &out[..]].concat());
    let expected = "there is no class \"cow\", the set has: circle, square, triangle, license_plate";
    assert_eq!((stderr.contains(expected), code), (true, 2), "{stderr}");
    let (stderr, code) = said(&[&[coco.as_str(), "--from", "yolo"], &out[..]].concat());
    assert_eq!((stderr.contains("cannot read"), code), (true, 1), "{stderr}");

    fs::write(folder.path().join("a.json"), "{\"images\": [\n{\"id\": \"x\"}]}").unwrap();
    let (stderr, code) = said(&["a.json", "--from", "coco", "--images", ".", "--out", "rows.jsonl"]);
    assert_eq!((stderr.starts_with("error: a.json:2: not COCO's JSON"), code), (true, 1), "{stderr}");
    fs::write(folder.path().join("a.json"), "{\"images\": [{\"id\": 1, \"file_name\": \"a.png\"}]}").unwrap();
    let (stderr, code) = said(&["a.json", "--from", "coco", "--images", ".", "--out", "rows.jsonl"]);
    assert_eq!(
        (stderr.contains("a.json (image id 1): cannot read image ./a.png"), code),
        (true, 1),
        "{stderr}"
    );
    assert!(!folder.path().join("rows.jsonl").exists());

    fs::write(folder.path().join("rows.jsonl"), "mine").unwrap();
    let (stderr, code) = said(&[&[coco.as_str(), "--from", "coco"], &out[..]].concat());
    let expected = "rows.jsonl is there already: choose another file, or replace it with --force";
    assert_eq!((stderr.contains(expected), code), (true, 2), "{stderr}");
    assert_eq!(fs::read_to_string(folder.path().join("rows.jsonl")).unwrap(), "mine");
}

/// A config over a boxed set of the tests, beside a tokenizer with location tokens.
fn boxed_config(kind: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let rows = ["--from", kind, "--out", "rows.jsonl"];
    let source = data(kind);
    paligemma(folder.path()).args(["data", "format", &source]).args(rows).assert().success();
    let tokenizer = ["rows.jsonl", "--vocab-size", "1400", "--num-loc", "1024", "--out", "tokenizer.model"];
    paligemma(folder.path()).args(["data", "tokenizer"]).args(tokenizer).assert().success();
    let tok = |key: &str| format!("tok(key=\"{key}\", model='sp(\"tokenizer.model\")', eos=\"yes\")");
    let config = format!(
        "input:\n  data: {{name: {kind}, path: {source}}}\n  batch_size: 2\n  pp: >-\n    decode|resize(32)|\
         value_range(-1, 1)|{}|{}|masked_concat([\"prefix\", \"suffix\"], mask_ar=[0, 1], mask_loss=[0, 1])|\
         tolen(48, pad_value=0, key=\"text\")|tolen(48, pad_value=1, key=\"mask_ar\")|\
         tolen(48, pad_value=0, key=\"mask_loss\")|keep(\"image\", \"text\", \"mask_ar\", \"mask_loss\")\n\
         total_steps: 1\nmodel: {{image_size: 32}}\n",
        tok("prefix"),
        tok("suffix")
    );
    fs::write(folder.path().join("c.yaml"), config).unwrap();
    folder
}

#[test]
fn previews_show_each_boxed_set_as_text_and_as_a_page() {
    for kind in ["coco", "yolo", "voc"] {
        let folder = boxed_config(kind);
        let preview = |args: &[&str]| {
            let output =
                paligemma(folder.path()).args(["data", "preview", "c.yaml"]).args(args).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let text = preview(&["-n", "3"]);
        for expected in ["input ", kind, "boxes    2", "  prompt   ", "<loc0847>|", "<eos>", "room for 48"] {
            assert!(text.contains(expected), "{kind}: {expected} is not in\n{text}");
        }
        assert_eq!(text.matches("  image    f32[32,32,3]").count(), 3);
        assert!(!text.contains('\x1b'), "colours where there is no terminal");
        assert_eq!(preview(&["-n", "3", "--html", "page.html"]), "page.html\n");
        let page = fs::read_to_string(folder.path().join("page.html")).unwrap();
        assert!(page.contains("class=\"tok answer\">&lt;loc0847&gt;") && page.contains("class=\"box\""));
    }
}

#[test]
fn mistakes_in_what_is_previewed_are_the_configs() {
    let folder = changed_config(&[]);
    let (stderr, code) =
        failure(paligemma(folder.path()).args(["data", "preview", "c.yaml", "--eval", "val"]));
    assert_eq!((stderr.contains("there is no evaluation \"val\""), code), (true, 2), "{stderr}");
    let set = "input.data={name: yolo, path: nowhere, splt: val}";
    let (stderr, code) = failure(paligemma(folder.path()).args(["data", "preview", "c.yaml", "--set", set]));
    assert_eq!((stderr.contains("unknown key \"splt\""), code), (true, 2), "{stderr}");
}

#[test]
fn ops_are_listed_with_arguments_and_meaning() {
    let ops = |args: &[&str]| paligemma(Path::new(".")).args(["data", "ops"]).args(args).output().unwrap();
    let text = String::from_utf8(ops(&[]).stdout).unwrap();
    let expected = "resize(size, method=\"bilinear\", antialias=False, as_float=False, *, key=None, \
                    inkey=\"image\", outkey=\"image\")\n    resize to a size";
    assert!(text.contains(expected), "{text}");
    assert!(text.contains("masked_concat(keys, outkey=\"text\", **masks)\n"), "{text}");
    let json = String::from_utf8(ops(&["--json", "tok", "tolen"]).stdout).unwrap();
    let rows: Vec<serde_json::Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((rows.len(), &rows[1]["name"]), (2, &serde_json::json!("tolen")));
    assert_eq!(
        rows[0]["params"][0],
        serde_json::json!({"name": "model", "default": null, "keyword_only": false})
    );
    let (stderr, code) = failure(paligemma(Path::new(".")).args(["data", "ops", "resise"]));
    assert_eq!(
        (stderr.as_str(), code),
        ("error: there is no pp op \"resise\", did you mean resize or reshape or resize_r?\n", 2)
    );
}

#[test]
fn parquet_and_tar_files_become_rows_with_pictures_beside_them() {
    let recording = fs::read(data("expected_detection_strings.json")).unwrap();
    let recording: serde_json::Value = serde_json::from_slice(&recording).unwrap();
    let drawn = recording["images"].as_array().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let source = data("hf_parquet_detection/data");
    let fixed =
        [source.as_str(), "--from", "parquet", "--out", "rows.jsonl", "--force", "--loc-scale", "1024"];
    for (rule, options) in [("seed_rule", &["--loc-clamp", "false"][..]), ("seed_rule_clamped", &[])] {
        let (rows, stderr) = format_rows(folder.path(), &[&fixed, options].concat());
        assert_eq!(rows.len(), drawn.len());
        for (row, image) in rows.iter().zip(drawn) {
            assert_eq!(row["suffix"], image[rule], "{rule}: {}", image["file"]);
            assert_eq!(row["prefix"], "detect circle ; square ; triangle ; license_plate");
        }
        let said = if options.is_empty() {
            "boxes clamped to their image"
        } else {
            "boxes that stick out, not clamped"
        };
        assert!(stderr.contains(said), "{stderr}");
    }
    assert_eq!(fs::read_dir(folder.path().join("rows_images")).unwrap().count(), drawn.len());

    let captions = fs::read(data("expected_hf_parquet_captions.json")).unwrap();
    let captions: serde_json::Value = serde_json::from_slice(&captions).unwrap();
    let texts = captions["rows"].as_array().unwrap().iter().map(|row| &row["blip_caption"]);
    let texts: Vec<&serde_json::Value> = texts.filter(|text| !text.is_null()).collect();
    let source = data("hf_parquet_captions/data");
    let fixed = [source.as_str(), "--from", "parquet", "--task", "caption", "--out", "captions.jsonl"];
    let (rows, stderr) =
        format_rows(folder.path(), &[&fixed[..], &["--caption-key", "blip_caption"]].concat());
    let suffixes: Vec<&serde_json::Value> = rows.iter().map(|row| &row["suffix"]).collect();
    assert_eq!(suffixes, texts);
    assert!(stderr.contains("images without a row  1"), "{stderr}");

    let pattern = format!("{}/shard-{{000000..000001}}.tar", data("webdataset"));
    let fixed = [pattern.as_str(), "--from", "webdataset", "--task", "caption", "--out", "tar.jsonl"];
    let (rows, _) = format_rows(folder.path(), &[&fixed[..], &["--caption-key", "txt"]].concat());
    let samples = fs::read(data("expected_webdataset.json")).unwrap();
    let samples: serde_json::Value = serde_json::from_slice(&samples).unwrap();
    let samples = samples["samples"].as_array().unwrap();
    assert_eq!(rows.len(), samples.len());
    for (row, sample) in rows.iter().zip(samples) {
        assert_eq!(row["suffix"].as_str().unwrap(), sample["fields"]["txt"]["text"].as_str().unwrap().trim());
    }
}

#[test]
fn what_makes_a_dependency_panic_is_an_error_like_others() {
    let folder = boxed_config("coco");
    // The tokenizers crate panics at this.
    let file = r#"{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "A"}, "model": {}}"#;
    fs::write(folder.path().join("made.json"), file).unwrap();
    let config = fs::read_to_string(folder.path().join("c.yaml")).unwrap();
    fs::write(folder.path().join("named.yaml"), format!("tokenizer: made.json\n{config}")).unwrap();
    let evals = "evals={val: {type: storepreds, data: {name: mock}, pp_fn: decode}}";
    let args = ["eval", "named.yaml", "--checkpoint", "none", "--set", evals];
    let (stderr, code) = failure(paligemma(folder.path()).args(args));
    assert!(stderr.contains("made.json") && stderr.contains("it is JSON, but not a tokenizer's"), "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    assert_eq!(code, 1, "{stderr}");
}

#[test]
fn a_tokenizer_that_is_not_there_comes_with_what_makes_it() {
    let folder = boxed_config("coco");
    fs::remove_file(folder.path().join("tokenizer.model")).unwrap();
    let named = fs::read_to_string(folder.path().join("c.yaml")).unwrap();
    fs::write(folder.path().join("named.yaml"), format!("tokenizer: made/tokenizer.model\n{named}")).unwrap();
    let advice = |path: &str| format!("`paligemma data tokenizer ROWS.jsonl --out {path}` makes a small one");
    let said = |args: &[&str]| failure(paligemma(folder.path()).args(args));

    // By the pp strings, which a training opens first.
    let (stderr, code) = said(&["train", "c.yaml", "--workdir", "run"]);
    assert_eq!((stderr.contains(&advice("tokenizer.model")), code), (true, 2), "{stderr}");
    let (stderr, code) = said(&["train", "named.yaml", "--workdir", "run"]);
    assert_eq!((stderr.contains(&advice("made/tokenizer.model")), code), (true, 2), "{stderr}");
    // By the config, for answers.
    let evals = "evals={val: {type: storepreds, data: {name: mock}, pp_fn: decode}}";
    let (stderr, code) = said(&["eval", "named.yaml", "--checkpoint", "none", "--set", evals]);
    assert!(stderr.contains("error: named.yaml:1:12: there is no file made/tokenizer.model; "), "{stderr}");
    assert_eq!((stderr.contains(&advice("made/tokenizer.model")), code), (true, 2), "{stderr}");
    assert!(
        stderr.contains("https://storage.googleapis.com/big_vision/paligemma_tokenizer.model"),
        "{stderr}"
    );
}
