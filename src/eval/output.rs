//! What evaluations leave in a work directory: `predictions/NAME-STEP.jsonl`, and the files that the reference's
//! evaluators write.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json, json};

use super::{Error, Evaluation, Outcome, Prediction};
use crate::config::Source;

/// Writes what an evaluation found, and gives the files. `step` is the step of the training, or another word for the
/// checkpoint. Without a `workdir`, only files whose path does not
/// name it are written, as in the reference.
///
/// # Errors
/// When a file cannot be written.
pub fn write(
    evaluation: &Evaluation,
    outcome: &Outcome,
    step: &str,
    workdir: Option<&Path>,
) -> Result<Vec<PathBuf>, Error> {
    let mut written = Vec::new();
    if let Some(workdir) = workdir.filter(|_| evaluation.spec.save_predictions) {
        let answers: Vec<String> =
            outcome.predictions.iter().filter(|one| one.answer.is_some()).map(row_of).collect();
        if !answers.is_empty() {
            let name = file_name(&evaluation.name);
            let path = workdir.join("predictions").join(format!("{name}-{step}.jsonl"));
            write_file(&path, answers.concat().as_bytes())?;
            written.push(path);
        }
    }
    for file in &outcome.files {
        if let Some(path) = resolve(&file.template, evaluation, step, workdir) {
            write_file(&path, Json::from(file.rows.clone()).to_string().as_bytes())?;
            written.push(path);
        }
    }
    Ok(written)
}

/// An answer as a line of JSON.
fn row_of(prediction: &Prediction) -> String {
    let mut row = Map::new();
    row.insert("row".into(), json!(prediction.row));
    row.insert("prompt".into(), json!(prediction.prompt));
    row.insert("answer".into(), json!(prediction.answer));
    row.insert("references".into(), json!(prediction.references));
    row.insert("score".into(), json!(prediction.score));
    row.insert("correct".into(), json!(prediction.correct));
    for (key, value) in &prediction.notes {
        row.entry(key.as_str()).or_insert_with(|| value.clone());
    }
    format!("{}\n", Json::Object(row))
}

/// The path that a template means (`resolve_outfile` in `evaluators/common.py`).
fn resolve(template: &str, evaluation: &Evaluation, step: &str, workdir: Option<&Path>) -> Option<PathBuf> {
    let workdir = match workdir {
        Some(workdir) => workdir.display().to_string(),
        None if template.contains("{workdir}") => return None,
        None => String::new(),
    };
    let split = split_of(&evaluation.spec.data).replace(['[', ']', '%', ':'], "_");
    let path = template
        .replace("{split}", &split)
        .replace("{name}", evaluation.spec.data.name())
        .replace("{step}", step)
        .replace("{workdir}", &workdir);
    (!template.is_empty()).then(|| path.into())
}

/// The split that a source is told to read; sources of single files have none.
fn split_of(source: &Source) -> &str {
    match source {
        Source::Tfds(tfds) => &tfds.split,
        Source::Parquet(parquet) => parquet.split.as_deref().unwrap_or_default(),
        Source::Yolo(yolo) => &yolo.split,
        Source::Voc(voc) => &voc.split,
        Source::Roboflow(roboflow) => &roboflow.split,
        _ => "",
    }
}

/// An evaluation's name as that of a file.
fn file_name(name: &str) -> String {
    name.replace(['/', '\\', ':'], "_")
}

/// Writes aside and renames: readers see the old content or the new.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let write = || {
        std::fs::create_dir_all(folder)?;
        let mut builder = tempfile::Builder::new();
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    };
    write().map_err(|source| Error::Write { path: path.to_owned(), source })
}
