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
    let (stderr, code) = train(&folder, &["--set", "grad_accum_steps=2"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("grad_accum_steps is 2, only 1 is supported yet"), "{stderr}");
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
