use std::fs;
use std::path::{Path, PathBuf};

use crate::files;

/// A folder for the files of one input, gone with it. `scripts/fuzz` lets it lie in memory, by `TMPDIR`.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Scratch(tempfile::tempdir().expect("a folder for scratch files"))
    }

    /// The files that `input` stands for (see [`files`]); `None` where it stands for none, or where their
    /// names are none that a file system takes.
    pub fn with_files(input: &[u8]) -> Option<Self> {
        let scratch = Scratch::new();
        for (name, content) in files::unpack(input)? {
            let path = scratch.path().join(name);
            fs::create_dir_all(path.parent()?).ok()?;
            fs::write(path, content).ok()?;
        }
        Some(scratch)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes one file and gives its path.
    pub fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, content).expect("room for scratch files");
        path
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Scratch::new()
    }
}
