//! A file system with little room.

use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A file system in memory, gone with this value.
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None`, with a word about it, where this process may not mount one.
    pub fn mount(kib: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "tmpfs"]).arg(folder.path());
        if mount.stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
            return Some(SmallDisk { folder });
        }
        eprintln!("not tested: this process may not mount a small file system");
        None
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves `kib` free.
    pub fn fill_up_to(&self, kib: u64) {
        let filler = std::fs::File::create(self.path().join("filler")).unwrap();
        let df = Command::new("df").args(["-k", "--output=avail"]).arg(self.path()).output().unwrap();
        let free: u64 = String::from_utf8(df.stdout).unwrap().lines().nth(1).unwrap().trim().parse().unwrap();
        std::io::copy(&mut std::io::Read::take(std::io::repeat(0), (free - kib) << 10), &mut &filler)
            .unwrap();
    }

    pub fn make_room(&self) {
        std::fs::remove_file(self.path().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path()).status();
    }
}
