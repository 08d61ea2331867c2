//! The checkpoints of a training run.
//!
//! ```text
//! workdir/
//!   checkpoint-000000100/          kept for ever (a multiple of keep_ckpt_steps)
//!   checkpoint-000000150/          removed once the next one is complete
//!     frozen-00001-of-00001.safetensors   what does not change: the same file in every checkpoint
//!     state-00001-of-00002.safetensors
//!     state-00002-of-00002.safetensors
//!     manifest.json                step, the trainer's JSON state, tensors, a digest per file
//!   LAST                           "checkpoint-000000150"
//!   BEST                           "checkpoint-000000100": by a metric, where one is watched; kept until a better one
//! ```
//!
//! Files that do not change are hard links to those of the checkpoint before: they take room once, and
//! outlive whichever checkpoint is removed. So nobody is to write into a file of a checkpoint. Where asked
//! to ([`Frozen::left_to`]), a checkpoint leaves what does not change to the files that it came from and holds
//! digests only.
//!
//! A checkpoint is written in `checkpoint-…-tmp`, made durable, and renamed; then `LAST` is replaced; then
//! checkpoints that are not to be kept are removed. Whatever moment a crash chooses, a directory under a
//! final name is complete, and the checkpoint that `LAST` names is there. [`Store::open`] removes what a
//! crash left over.

mod base;
mod frozen;
mod manifest;
mod write;

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;
use serde_json::Value;

pub use base::BaseFile;
pub use frozen::Frozen;
pub use manifest::Checkpoint;
use manifest::Manifest;
use write::write_shards;

use super::Error;
use super::file::{rename, replace, sync_directory};
use crate::array::HostArray;

/// What `format` in a manifest must be.
pub const FORMAT: &str = "paligemma-checkpoint";
/// The latest version of the layout that this program reads.
pub const VERSION: u32 = 2;
/// What it writes: checkpoints without a base are as they always were.
const VERSION_WITHOUT_BASE: u32 = 1;

pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const LAST: &str = "LAST";
pub(crate) const BEST: &str = "BEST";
const LOCK: &str = ".lock";
/// Being written or being removed.
const TMP: &str = "-tmp";
/// A checkpoint of the same step, about to be replaced.
const OLD: &str = "-old";

/// Where a file ends and the next begins, unless one tensor alone is larger.
const SHARD_BYTES: u64 = 4 << 30;

/// The checkpoints in one workdir, for the one run that writes there.
#[derive(Debug)]
pub struct Store {
    workdir: PathBuf,
    shard_bytes: u64,
    /// Held locked as long as the store lives.
    _lock: File,
}

/// The checkpoint to resume from.
pub struct Latest {
    pub checkpoint: Checkpoint,
    /// More recent ones that are damaged, and how.
    pub skipped: Vec<(PathBuf, Error)>,
}

impl Store {
    /// Creates the workdir if need be, takes possession of it and cleans up after crashes.
    ///
    /// # Errors
    /// When another process holds it, or it cannot be written.
    pub fn open(workdir: &Path) -> Result<Self, Error> {
        fs::create_dir_all(workdir).map_err(Error::io("create", workdir))?;
        let lock_path = workdir.join(LOCK);
        let lock = File::options().create(true).append(true).open(&lock_path);
        let lock = lock.map_err(Error::io("open", &lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(Error::InUse { workdir: workdir.to_owned() }),
            // Some network file systems have no locks; then nobody can be asked.
            Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Unsupported => {}
            Err(TryLockError::Error(error)) => return Err(Error::io("lock", &lock_path)(error)),
        }
        let store = Store { workdir: workdir.to_owned(), shard_bytes: SHARD_BYTES, _lock: lock };
        store.clean_up()?;
        Ok(store)
    }

    pub fn workdir(&self) -> &Path {
        &self.workdir
    }

    /// Saves a checkpoint and gives its directory. `tensors` are freed as they are written.
    ///
    /// With `keep`, it stays for ever; otherwise until the next one is complete.
    ///
    /// # Errors
    /// When the disk is full or a name occurs twice; then the older checkpoints are untouched.
    pub fn save(
        &self,
        step: u64,
        tensors: Vec<(String, HostArray)>,
        state: Value,
        keep: bool,
    ) -> Result<PathBuf, Error> {
        self.save_with(None, step, tensors, state, keep)
    }

    /// As [`save`](Store::save), with what is the same in every checkpoint besides.
    ///
    /// # Errors
    /// As [`save`](Store::save), and when `frozen` cannot be read.
    pub fn save_with(
        &self,
        frozen: Option<&mut Frozen>,
        step: u64,
        tensors: Vec<(String, HostArray)>,
        state: Value,
        keep: bool,
    ) -> Result<PathBuf, Error> {
        if let Err(error) = self.write_aside(frozen, step, tensors, state, keep) {
            // Best effort: what stays goes at the next start.
            let _ = fs::remove_dir_all(self.directory(step, TMP));
            return Err(error);
        }
        self.publish(step)?;
        self.point_at(step)?;
        self.prune(step)?;
        Ok(self.directory(step, ""))
    }

    /// The steps of all checkpoints under a final name, ascending.
    ///
    /// # Errors
    /// When the workdir cannot be listed.
    pub fn steps(&self) -> Result<Vec<u64>, Error> {
        let mut steps: Vec<u64> = self
            .entries()?
            .into_iter()
            .filter(|(_, suffix)| suffix.is_empty())
            .map(|(step, _)| step)
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The checkpoint that `LAST` names, unread.
    ///
    /// # Errors
    /// When `LAST` exists but cannot be read or names no checkpoint.
    pub fn latest(&self) -> Result<Option<PathBuf>, Error> {
        if self.workdir.join(LAST).exists() { named_in(&self.workdir, LAST).map(Some) } else { Ok(None) }
    }

    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn load(&self, step: u64) -> Result<Checkpoint, Error> {
        Checkpoint::open(&self.directory(step, ""))
    }

    /// Opens the checkpoint that `LAST` names or, when it is damaged, the most recent one that is not, with
    /// a warning. `None` when the workdir holds no checkpoint.
    ///
    /// # Errors
    /// When there are checkpoints and none is intact; lists what is wrong with each. When the base that the
    /// most recent one leaves parameters to is missing or has changed.
    pub fn load_latest(&self) -> Result<Option<Latest>, Error> {
        let mut candidates: Vec<PathBuf> =
            self.steps()?.into_iter().rev().map(|step| self.directory(step, "")).collect();
        match self.latest() {
            Ok(Some(last)) => {
                candidates.retain(|path| *path != last);
                candidates.insert(0, last);
            }
            Ok(None) => {}
            Err(error) => tracing::warn!("{error}; looking for the most recent checkpoint instead"),
        }
        let mut skipped = Vec::new();
        for path in candidates {
            match Checkpoint::open(&path) {
                Ok(checkpoint) => return Ok(Some(Latest { checkpoint, skipped })),
                // It is whole itself, and an older one would want the same base.
                Err(error) if error.is_of_base() => return Err(error),
                Err(error) => {
                    tracing::warn!("skipping a damaged checkpoint: {error}");
                    skipped.push((path, error));
                }
            }
        }
        if skipped.is_empty() {
            return Ok(None);
        }
        Err(Error::NoneIntact { workdir: self.workdir.clone(), damaged: skipped })
    }

    /// Keeps the checkpoint of a step as the best one, and no longer the one that was best before.
    ///
    /// # Errors
    /// When there is none, or the workdir cannot be written.
    pub fn set_best(&self, step: u64) -> Result<(), Error> {
        let directory = self.directory(step, "");
        if !directory.is_dir() {
            return Err(Error::NoManifest { path: directory });
        }
        replace(&self.workdir.join(BEST), directory_name(step, "").as_bytes())?;
        match self.latest()?.and_then(|path| step_of(&path)) {
            Some(latest) => self.prune(latest),
            None => Ok(()),
        }
    }

    /// The checkpoint that `BEST` names, unread.
    ///
    /// # Errors
    /// When `BEST` exists but cannot be read or names no checkpoint.
    pub fn best(&self) -> Result<Option<PathBuf>, Error> {
        if self.workdir.join(BEST).exists() { named_in(&self.workdir, BEST).map(Some) } else { Ok(None) }
    }

    fn write_aside(
        &self,
        frozen: Option<&mut Frozen>,
        step: u64,
        tensors: Vec<(String, HostArray)>,
        state: Value,
        keep: bool,
    ) -> Result<(), Error> {
        let directory = self.directory(step, TMP);
        remove_directory(&directory)?;
        fs::create_dir(&directory).map_err(Error::io("create", &directory))?;
        let names = tensors.iter().map(|(name, _)| name.as_str());
        if let Some(name) = repeated(names.chain(frozen.iter().flat_map(|frozen| frozen.names()))) {
            return Err(Error::DuplicateTensor { path: directory, name });
        }
        let mut manifest = Manifest {
            format: FORMAT.to_owned(),
            version: VERSION_WITHOUT_BASE,
            step,
            keep,
            state,
            files: Vec::new(),
            tensors: Vec::new(),
            base: None,
        };
        if let Some(frozen) = frozen {
            let placed = frozen.place(&directory, self.directory(step, ""), self.shard_bytes)?;
            (manifest.files, manifest.tensors, manifest.base) = (placed.files, placed.tensors, placed.base);
            manifest.version = if manifest.base.is_some() { VERSION } else { VERSION_WITHOUT_BASE };
        }
        let shapes = tensors.iter().map(|(name, array)| (name.clone(), array.shape().clone())).collect();
        let mut arrays: IndexMap<String, HostArray> = tensors.into_iter().collect();
        // Each array is freed once it is written.
        let take = |name: &str| Ok(arrays.swap_remove(name).expect("write_shards asks once for each tensor"));
        let (files, entries) = write_shards(&directory, "state", shapes, self.shard_bytes, take)?;
        manifest.files.extend(files);
        manifest.tensors.extend(entries);
        manifest.write(&directory)
    }

    /// Gives a checkpoint that is complete aside its final name.
    fn publish(&self, step: u64) -> Result<(), Error> {
        let (tmp, target, old) =
            (self.directory(step, TMP), self.directory(step, ""), self.directory(step, OLD));
        // A directory can only be renamed to a free name. Should the crash come between the two renames,
        // `clean_up` gives the old one its name back.
        if target.exists() {
            remove_directory(&old)?;
            rename(&target, &old)?;
        }
        rename(&tmp, &target)?;
        sync_directory(&self.workdir)?;
        remove_directory(&old)
    }

    fn point_at(&self, step: u64) -> Result<(), Error> {
        replace(&self.workdir.join(LAST), directory_name(step, "").as_bytes())
    }

    /// Removes the checkpoints other than `current` that are not to be kept.
    fn prune(&self, current: u64) -> Result<(), Error> {
        let best = match self.best() {
            Ok(best) => best.and_then(|path| step_of(&path)),
            Err(error) => {
                tracing::warn!("keeping all checkpoints: {error}");
                return Ok(());
            }
        };
        let is_spared = |step: u64| step == current || Some(step) == best;
        for step in self.steps()?.into_iter().filter(|&step| !is_spared(step)) {
            match Manifest::read(&self.directory(step, "")) {
                Ok(manifest) if manifest.keep => {}
                Ok(_) => {
                    // Renamed first, so that no incomplete directory ever bears a final name.
                    let tmp = self.directory(step, TMP);
                    remove_directory(&tmp)?;
                    rename(&self.directory(step, ""), &tmp)?;
                    remove_directory(&tmp)?;
                }
                Err(error) => tracing::warn!("leaving a damaged checkpoint where it is: {error}"),
            }
        }
        sync_directory(&self.workdir)
    }

    fn clean_up(&self) -> Result<(), Error> {
        for (step, suffix) in self.entries()? {
            let (path, target) = (self.directory(step, suffix), self.directory(step, ""));
            match suffix {
                OLD if !target.exists() => rename(&path, &target)?,
                OLD | TMP => remove_directory(&path)?,
                _ => {}
            }
        }
        // `LAST` and `BEST` themselves are written aside too.
        for name in self.names()? {
            let is_pointer = [LAST, BEST].iter().any(|pointer| name.starts_with(&format!(".{pointer}.")));
            if is_pointer && name.ends_with(".tmp") {
                let path = self.workdir.join(name);
                fs::remove_file(&path).map_err(Error::io("remove", &path))?;
            }
        }
        Ok(())
    }

    fn directory(&self, step: u64, suffix: &str) -> PathBuf {
        self.workdir.join(directory_name(step, suffix))
    }

    /// Step and suffix of everything in the workdir that is called like a checkpoint.
    fn entries(&self) -> Result<Vec<(u64, &'static str)>, Error> {
        Ok(self.names()?.iter().filter_map(|name| parse_name(name)).collect())
    }

    fn names(&self) -> Result<Vec<String>, Error> {
        let list = || -> io::Result<Vec<OsString>> {
            fs::read_dir(&self.workdir)?.map(|entry| Ok(entry?.file_name())).collect()
        };
        let names = list().map_err(Error::io("list", &self.workdir))?;
        Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
    }
}

/// The checkpoint that a pointer, a file of the workdir, names.
pub(crate) fn named_in(workdir: &Path, pointer: &str) -> Result<PathBuf, Error> {
    let path = workdir.join(pointer);
    let name = fs::read_to_string(&path).map_err(Error::io("read", &path))?;
    match parse_name(name.trim()) {
        Some((_, "")) => Ok(workdir.join(name.trim())),
        _ => Err(Error::NotACheckpoint { path, found: "its content is not the name of one" }),
    }
}

/// The first name that was there before.
fn repeated<'a>(names: impl Iterator<Item = &'a str>) -> Option<String> {
    let mut seen = HashSet::new();
    names.into_iter().find(|name| !seen.insert(*name)).map(str::to_owned)
}

fn directory_name(step: u64, suffix: &str) -> String {
    format!("checkpoint-{step:09}{suffix}")
}

fn parse_name(name: &str) -> Option<(u64, &'static str)> {
    let rest = name.strip_prefix("checkpoint-")?;
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let suffix = ["", TMP, OLD].into_iter().find(|suffix| *suffix == &rest[end..])?;
    let step = rest[..end].parse().ok()?;
    // `checkpoint-5` is somebody else's: its name would not come back from its step.
    (directory_name(step, suffix) == name).then_some((step, suffix))
}

/// Whether a path is called as checkpoints are.
pub(crate) fn is_called_checkpoint(path: &Path) -> bool {
    step_of(path).is_some()
}

/// The step of a checkpoint, by its name.
fn step_of(path: &Path) -> Option<u64> {
    match path.file_name().and_then(|name| name.to_str()).and_then(parse_name) {
        Some((step, "")) => Some(step),
        _ => None,
    }
}

fn remove_directory(path: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path)(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
