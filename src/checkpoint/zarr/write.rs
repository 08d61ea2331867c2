use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::meta::{FILE, Meta};
use crate::array::Shape;
use crate::checkpoint::Error;
use crate::checkpoint::declared::Declared;
use crate::checkpoint::file::{directory_beside, directory_of, rename, replace, sync_directory};

/// The level of JAX's own checkpoints.
const LEVEL: i32 = 1;

/// Writes a folder of arrays, one after the other, in the order that [`order`](Writer::order) gives. It appears
/// under its name by [`finish`](Writer::finish); a dropped writer leaves nothing.
///
/// Names are those of the whole train state: big_vision looks for parameters below `params/`. When the folder is
/// called `NAME-NUMBER`, as in `checkpoint.bv-000001234`, then `NAME-LAST` is made to point at it.
pub struct Writer {
    target: PathBuf,
    aside: TempDir,
    declared: Declared,
}

impl Writer {
    /// Declares all tensors.
    ///
    /// # Errors
    /// When a name is given twice or cannot be a folder's, something else is called `target`, or no folder can be
    /// made beside it.
    pub fn create(target: &Path, tensors: impl IntoIterator<Item = (String, Shape)>) -> Result<Self, Error> {
        let mut order: Vec<(String, Shape)> = tensors.into_iter().collect();
        order.sort_by(|(a, _), (b, _)| a.split('/').cmp(b.split('/')));
        let mut seen = HashSet::new();
        for (name, _) in &order {
            if let Some(problem) = problem_of(name) {
                return Err(Error::BadName { name: name.clone(), problem });
            }
            if !seen.insert(name) {
                return Err(Error::DuplicateTensor { path: target.to_owned(), name: name.clone() });
            }
        }
        check_free(target)?;
        let aside = directory_beside(target)?;
        Ok(Writer { target: target.to_owned(), aside, declared: Declared::new(order) })
    }

    /// Names and shapes in the order in which they are to be written.
    pub fn order(&self) -> &[(String, Shape)] {
        self.declared.order()
    }

    /// Writes a tensor, row-major and little-endian.
    ///
    /// # Errors
    /// When another tensor is due, its size is not the declared one, or the disk is full.
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let shape = self.declared.take(&self.target, name, bytes)?;
        let directory = self.aside.path().join(name.replace('/', "~"));
        write_array(&directory, shape, bytes)
    }

    /// Completes the folder, gives it its name in place of an older one, and points at it.
    ///
    /// # Errors
    /// When a declared tensor is missing or the disk is full; then nothing has changed.
    pub fn finish(self) -> Result<(), Error> {
        self.declared.check_complete(&self.target)?;
        check_free(&self.target)?;
        sync_directory(self.aside.path())?;
        let parent = directory_of(&self.target);
        let old = match self.target.exists() {
            false => None,
            true => {
                let place = tempfile::Builder::new().prefix(".old.").suffix(".tmp").tempdir_in(parent);
                let place = place.map_err(Error::io("create", &self.target))?;
                rename(&self.target, &place.path().join("checkpoint"))?;
                Some(place)
            }
        };
        if let Err(error) = rename(self.aside.path(), &self.target) {
            if let Some(old) = &old {
                rename(&old.path().join("checkpoint"), &self.target)?;
            }
            return Err(error);
        }
        // What is under its final name is not to be removed with the temporary one.
        let _ = self.aside.keep();
        sync_directory(parent)?;
        if let Some((name, number)) = self.target.file_name().and_then(|name| numbered(name.to_str()?)) {
            replace(&parent.join(format!("{name}-LAST")), number.as_bytes())?;
        }
        match old {
            None => Ok(()),
            Some(old) => old.close().map_err(Error::io("remove the old", &self.target)),
        }
    }
}

/// `checkpoint.bv-000001234` to its two parts.
fn numbered(name: &str) -> Option<(&str, &str)> {
    let (name, number) = name.rsplit_once('-')?;
    let is_number = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    (is_number && !name.is_empty()).then_some((name, number))
}

/// Only an older folder of arrays gives way.
fn check_free(target: &Path) -> Result<(), Error> {
    match target.exists() && !super::is_here(target) {
        true => Err(Error::Occupied { path: target.to_owned() }),
        false => Ok(()),
    }
}

fn problem_of(name: &str) -> Option<&'static str> {
    if name.contains(['~', '\\', '\0']) {
        return Some("a folder stands for it, in whose name \"~\" means \"/\"");
    }
    let is_odd = name.split('/').any(|part| matches!(part, "" | "." | ".."));
    is_odd.then_some("it is not a path of parameters")
}

fn write_array(directory: &Path, shape: &Shape, bytes: &[u8]) -> Result<(), Error> {
    let write = || -> io::Result<()> {
        fs::create_dir(directory)?;
        if !bytes.is_empty() {
            let zeros = vec!["0"; shape.rank().max(1)];
            let mut packer = zstd::Encoder::new(File::create(directory.join(zeros.join(".")))?, LEVEL)?;
            packer.include_checksum(true)?;
            packer.set_pledged_src_size(Some(bytes.len() as u64))?;
            packer.write_all(bytes)?;
            packer.finish()?.sync_all()?;
        }
        let mut description = File::create(directory.join(FILE))?;
        description.write_all(Meta::text(shape).as_bytes())?;
        description.sync_all()
    };
    write().map_err(Error::io("write", directory))?;
    sync_directory(directory)
}
