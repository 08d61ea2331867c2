//! Files that are read through the page cache, and files that exist only when they are complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
#[cfg(unix)]
use memmap2::UncheckedAdvice;
use tempfile::{NamedTempFile, TempDir};

use super::Error;

/// A file's bytes, mapped. Clones share the mapping.
#[derive(Clone)]
pub(crate) struct Map(Arc<Mmap>);

impl Map {
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        // SAFETY: the mapping is read-only. That nobody truncates the file meanwhile cannot be
        // enforced; the files here are checkpoints, which this program replaces by renaming and never
        // writes in place.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io("map", path))?;
        Ok(Map(Arc::new(map)))
    }

    /// Gives the pages of a range back to the system. They are read again when somebody looks.
    pub(crate) fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        {
            // SAFETY: the mapping is shared, read-only and of a file: pages that are dropped come back from it
            // unchanged, also under somebody's eyes.
            let advised =
                unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            if let Err(error) = advised {
                tracing::debug!("pages of a mapped file stay in memory: {error}");
            }
        }
        #[cfg(not(unix))]
        let _ = range;
    }
}

impl AsRef<[u8]> for Map {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

const TMP_SUFFIX: &str = ".tmp";

/// A file that is written aside, as `.NAME.RANDOM.tmp`, and appears under its name by
/// [`commit`](PendingFile::commit). Dropped before that, it leaves nothing behind; what a killed process left
/// goes when the same file is written again.
pub(crate) struct PendingFile {
    file: BufWriter<NamedTempFile>,
    target: PathBuf,
}

impl PendingFile {
    pub(crate) fn create(target: &Path) -> Result<Self, Error> {
        let prefix = prefix_of(target);
        remove_abandoned(directory_of(target), &prefix.to_string_lossy());
        let mut builder = tempfile::Builder::new();
        builder.prefix(&prefix).suffix(TMP_SUFFIX);
        // Temporary files are private by default; a checkpoint is to be as readable as any other file.
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let file = builder.tempfile_in(directory_of(target)).map_err(Error::io("create", target))?;
        // Tells others that somebody is writing it; where there are no locks, nobody removes it either.
        let _ = file.as_file().try_lock();
        Ok(PendingFile { file: BufWriter::with_capacity(1 << 20, file), target: target.to_owned() })
    }

    /// Makes the content durable, then gives the file its name, replacing what bore it.
    pub(crate) fn commit(self) -> Result<(), Error> {
        let write = |source: io::Error| Error::Io { action: "write", path: self.target.clone(), source };
        let file = self.file.into_inner().map_err(|error| write(error.into_error()))?;
        file.as_file().sync_all().map_err(write)?;
        file.persist(&self.target).map_err(|error| write(error.error))?;
        sync_directory(directory_of(&self.target))
    }
}

impl Write for PendingFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for PendingFile {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// What the names of things begin with that are to be called `target`.
fn prefix_of(target: &Path) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(target.file_name().unwrap_or_default());
    prefix.push(".");
    prefix
}

/// A directory in which one that is to be called `target` is made, and with which it goes when it is dropped.
pub(crate) fn directory_beside(target: &Path) -> Result<TempDir, Error> {
    let mut builder = tempfile::Builder::new();
    let prefix = prefix_of(target);
    builder.prefix(&prefix).suffix(TMP_SUFFIX);
    // Temporary directories are private by default; a checkpoint is to be as readable as any other.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    builder.tempdir_in(directory_of(target)).map_err(Error::io("create", target))
}

/// Removes the pending files `PREFIXrandom.tmp` that nobody holds locked, if it can.
fn remove_abandoned(directory: &Path, prefix: &str) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let random = name.to_str().and_then(|name| name.strip_prefix(prefix)?.strip_suffix(TMP_SUFFIX));
        // As tempfile makes them; anything else may be somebody's own.
        let is_ours = random.is_some_and(|random| {
            random.len() == 6 && random.bytes().all(|byte| byte.is_ascii_alphanumeric())
        });
        if is_ours && File::open(entry.path()).is_ok_and(|file| file.try_lock().is_ok()) {
            tracing::debug!("removing what an interrupted run left: {}", entry.path().display());
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a small file, complete or not at all.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), Error> {
    let mut file = PendingFile::create(path)?;
    file.write_all(content).map_err(Error::io("write", path))?;
    file.commit()
}

/// Makes renames and removals within a directory durable.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    // Only unix lets a directory be opened as a file; elsewhere renames are as durable as they get.
    if cfg!(unix) {
        File::open(path).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", path))?;
    }
    Ok(())
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(Error::io("rename", from))
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_file_appears_by_commit_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npz");
        replace(&path, b"old").unwrap();
        let mut file = PendingFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        drop(file);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        replace(&path, b"new").unwrap();
        assert_eq!(Map::open(&path).unwrap().as_ref(), b"new");
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let reference = dir.path().join("reference");
            File::create(&reference).unwrap();
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
            assert_eq!(mode(&path), mode(&reference));
        }
    }

    #[test]
    fn what_a_killed_process_left_goes_when_the_file_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let being_written = PendingFile::create(&path("x.npz")).unwrap();
        let others = [".x.npz.notes.tmp", ".x.npz.tmp", ".y.npz.abcdef.tmp"].map(path);
        others.iter().chain([&path(".x.npz.a1B2c3.tmp")]).for_each(|path| fs::write(path, "left").unwrap());
        replace(&path("x.npz"), b"new").unwrap();
        assert!(!path(".x.npz.a1B2c3.tmp").exists());
        assert!(others.iter().all(|path| path.exists()));
        being_written.commit().unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1 + others.len());
    }

    #[test]
    fn an_empty_file_maps_to_no_bytes() {
        let file = NamedTempFile::new().unwrap();
        assert_eq!(Map::open(file.path()).unwrap().as_ref(), b"");
    }
}
