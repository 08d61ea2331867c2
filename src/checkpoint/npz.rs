//! big_vision's `.npz` files: zip archives with one `.npy` array per parameter, as `np.savez` writes them.
//!
//! Stored entries (what `savez` makes) are read straight from the page cache; deflated ones
//! (`savez_compressed`) are unpacked on the way. Archives and entries of more than 4 GiB (zip64) are usual, and so is
//! an archive that was cut into pieces.
//! bfloat16, which numpy does not know, is stored as two raw bytes per element (`V2`).

use std::collections::HashSet;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use indexmap::IndexMap;
use zip::read::ZipFile;
use zip::result::ZipError;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::Error;
use super::file::PendingFile;
use super::npy::{self, Header, fortran_to_row_major};
use super::pieces::{Cursor, Pieces};
use super::reader::{Reader, check_size, within};
use crate::array::{HostArray, Shape};
use crate::params;

/// An open `.npz`, with its names as they are in the file (see [`open`](super::open) for prefixes).
pub struct Npz {
    path: PathBuf,
    pieces: Pieces,
    archive: ZipArchive<Cursor>,
    entries: IndexMap<String, Entry>,
}

struct Entry {
    /// Position in the archive's directory.
    index: usize,
    header: Header,
    crc: u32,
    /// The checksum of what is there, computed when somebody first looks: many look at one stack, a layer at a
    /// time.
    checked: OnceLock<u32>,
    /// Where a stored entry, header and data, lies in the file; `None` when it is deflated.
    stored: Option<Range<usize>>,
}

impl Npz {
    /// Reads the directory and the header of every array.
    ///
    /// # Errors
    /// When the archive is truncated, or any entry is not an array that this program can hold.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Npz::open_pieces(path, &[path.to_owned()])
    }

    /// Opens the files that an archive was cut into, in their order; `path` stands for them in messages.
    pub(crate) fn open_pieces(path: &Path, files: &[PathBuf]) -> Result<Self, Error> {
        let pieces = Pieces::open(files)?;
        let mut archive = ZipArchive::new(Cursor::new(pieces.clone())).map_err(zip_error("read", path))?;
        if archive.has_duplicate_names() {
            return Err(Error::DuplicateEntries { path: path.to_owned() });
        }
        let mut entries = IndexMap::with_capacity(archive.len());
        for index in 0..archive.len() {
            let file = archive.by_index(index).map_err(zip_error("read", path))?;
            let entry_name = file.name().map_err(zip_error("read", path))?.into_owned();
            let npy_error = |source| Error::Npy { path: path.to_owned(), entry: entry_name.clone(), source };
            let name = entry_name.strip_suffix(".npy").ok_or_else(|| npy_error(npy::Error::Name))?;
            let entry = Entry::open(index, file, pieces.len()).map_err(npy_error)?;
            entries.insert(name.to_owned(), entry);
        }
        Ok(Npz { path: path.to_owned(), pieces, archive, entries })
    }

    fn entry(&self, name: &str) -> Result<&Entry, Error> {
        self.shape(name)?;
        Ok(&self.entries[name])
    }

    /// Where the data of a stored entry lie, after the checksum over header and data.
    fn stored(&self, name: &str, entry: &Entry) -> Result<Option<Range<usize>>, Error> {
        let Some(range) = entry.stored.clone() else { return Ok(None) };
        let got = *entry.checked.get_or_init(|| self.checksum(&range));
        if got != entry.crc {
            let (path, entry_name) = (self.path.clone(), format!("{name}.npy"));
            return Err(Error::Checksum { path, entry: entry_name, expected: entry.crc, got });
        }
        Ok(Some(range.start + entry.header.len..range.end))
    }

    /// Of gigabytes, in pieces that leave memory as soon as they have been counted in.
    fn checksum(&self, range: &Range<usize>) -> u32 {
        const PIECE: usize = 32 << 20;
        let mut hasher = crc32fast::Hasher::new();
        for start in range.clone().step_by(PIECE) {
            let piece = start..range.end.min(start + PIECE);
            self.pieces.slices(piece.clone()).for_each(|slice| hasher.update(slice));
            if range.len() > PIECE {
                self.pieces.release(piece);
            }
        }
        hasher.finalize()
    }

    fn inflate_into(&self, name: &str, entry: &Entry, out: &mut [u8]) -> Result<(), Error> {
        // A copy of the directory's handle, so that threads read side by side.
        let mut archive = self.archive.clone();
        let mut file = archive.by_index(entry.index).map_err(zip_error("read", &self.path))?;
        let mut header = vec![0; entry.header.len];
        // Reading to the end makes the crate compare the checksum.
        let result = file
            .read_exact(&mut header)
            .and_then(|()| file.read_exact(out))
            .and_then(|()| file.read(&mut [0]).map(drop));
        result.map_err(|source| Error::Npy {
            path: self.path.clone(),
            entry: format!("{name}.npy"),
            source: npy::Error::Read(source),
        })
    }
}

/// The array of text `name` of an archive, which may hold others of any type.
///
/// # Errors
/// When there is no such array, or it is damaged or not of text.
pub fn read_strings(path: &Path, name: &str) -> Result<Vec<String>, Error> {
    let mut archive =
        ZipArchive::new(Cursor::new(Pieces::open(&[path.to_owned()])?)).map_err(zip_error("read", path))?;
    let entry = format!("{name}.npy");
    let Some(index) = archive.index_for_name(&entry) else {
        let names =
            archive.file_names().filter_map(|name| name.ok()?.strip_suffix(".npy").map(str::to_owned));
        let names: Vec<String> = names.collect();
        let nearest = params::nearest(name, names.iter().map(String::as_str));
        return Err(Error::UnknownTensor { path: path.to_owned(), name: name.to_owned(), nearest });
    };
    let mut file = archive.by_index(index).map_err(zip_error("read", path))?;
    let strings = npy::read_strings(&mut file);
    strings.map_err(|source| Error::Npy { path: path.to_owned(), entry, source })
}

impl Entry {
    fn open<R: Read>(index: usize, mut file: ZipFile<'_, R>, archive_len: usize) -> Result<Self, npy::Error> {
        let (packed, unpacked) = (file.compressed_size(), file.size());
        let crc = file.crc32();
        let is_stored = file.compression() == CompressionMethod::Stored;
        // Deflate packs at most 1032 to 1; what claims more only wants memory to be reserved.
        if !is_stored && unpacked / 1032 > packed {
            return Err(npy::Error::Bomb { packed, unpacked });
        }
        let header = Header::read(&mut file)?;
        let data = unpacked.saturating_sub(header.len as u64);
        if header.shape.num_bytes() as u64 != data {
            return Err(npy::Error::DataSize { shape: header.shape, got: data });
        }
        let range = || {
            let start = usize::try_from(file.data_start()?).ok()?;
            let end = start.checked_add(header.len)?.checked_add(header.shape.num_bytes())?;
            (end <= archive_len && packed == unpacked).then_some(start..end)
        };
        let stored = if is_stored {
            let got = packed.saturating_sub(header.len as u64);
            Some(range().ok_or_else(|| npy::Error::DataSize { shape: header.shape.clone(), got })?)
        } else {
            None
        };
        Ok(Entry { index, header, crc, checked: OnceLock::new(), stored })
    }
}

impl Reader for Npz {
    fn path(&self) -> &Path {
        &self.path
    }

    fn names(&self) -> Vec<&str> {
        self.entries.keys().map(String::as_str).collect()
    }

    fn find(&self, name: &str) -> Option<&Shape> {
        self.entries.get(name).map(|entry| &entry.header.shape)
    }

    fn read_into(&self, name: &str, out: &mut [u8]) -> Result<(), Error> {
        let entry = self.entry(name)?;
        let (shape, fortran_order) = (&entry.header.shape, entry.header.fortran_order);
        check_size(name, shape, out)?;
        let read = |out: &mut [u8]| {
            match self.stored(name, entry)? {
                Some(range) => self.pieces.copy(range, out),
                None => self.inflate_into(name, entry, out)?,
            }
            Ok(())
        };
        if !fortran_order {
            return read(out);
        }
        let mut data = vec![0; out.len()];
        read(&mut data)?;
        fortran_to_row_major(shape, &data, out);
        Ok(())
    }

    fn borrow(&self, name: &str) -> Result<Option<&[u8]>, Error> {
        let entry = self.entry(name)?;
        if entry.header.fortran_order {
            return Ok(None);
        }
        Ok(self.stored(name, entry)?.and_then(|range| self.pieces.slice(range)))
    }

    fn release_range(&self, name: &str, range: Range<usize>) {
        let Some(entry) = self.entries.get(name) else { return };
        if let Some(stored) = &entry.stored {
            self.pieces.release(within(&(stored.start + entry.header.len..stored.end), range));
        }
    }
}

/// Writes an `.npz` array by array. It appears under its name by [`finish`](Writer::finish); before that
/// nothing of it is visible, and a dropped writer leaves nothing.
///
/// The same arrays in the same order give the same bytes.
pub struct Writer {
    path: PathBuf,
    zip: ZipWriter<Sink>,
    names: HashSet<String>,
}

impl Writer {
    /// # Errors
    /// When no file can be created beside `path`.
    pub fn create(path: &Path) -> Result<Self, Error> {
        let zip = ZipWriter::new(Sink::create(path)?);
        Ok(Writer { path: path.to_owned(), zip, names: HashSet::new() })
    }

    /// # Errors
    /// When the name was written before, or the disk is full.
    pub fn write(&mut self, name: &str, array: &HostArray) -> Result<(), Error> {
        self.write_bytes(name, array.shape(), array.bytes())
    }

    /// As [`write`](Writer::write), for row-major little-endian bytes that lie elsewhere.
    pub fn write_bytes(&mut self, name: &str, shape: &Shape, bytes: &[u8]) -> Result<(), Error> {
        check_size(name, shape, bytes)?;
        if !self.names.insert(name.to_owned()) {
            return Err(Error::DuplicateTensor { path: self.path.clone(), name: name.to_owned() });
        }
        // As np.savez does: zip64 always, since the size is not known when an entry begins.
        let options = SimpleFileOptions::default()
            .compression_method(CompressionMethod::Stored)
            .last_modified_time(zip::DateTime::default())
            .large_file(true);
        self.zip.start_file(format!("{name}.npy"), options).map_err(zip_error("write", &self.path))?;
        self.zip
            .write_all(&Header::write(shape))
            .and_then(|()| self.zip.write_all(bytes))
            .map_err(Error::io("write", &self.path))
    }

    /// Completes the file and gives it its name.
    ///
    /// # Errors
    /// When the disk is full; then nothing has changed.
    pub fn finish(self) -> Result<(), Error> {
        let Sink { file, failed, .. } = self.zip.finish().map_err(zip_error("write", &self.path))?;
        match failed {
            None => file.commit(),
            Some(kind) => Err(Error::io("write", &self.path)(kind.into())),
        }
    }
}

/// A file that fails once. `ZipWriter` completes its archive also when it is dropped after an error, and prints
/// what goes wrong then; what comes after the first failure is lost anyway and only moves the position.
struct Sink {
    file: PendingFile,
    failed: Option<io::ErrorKind>,
    position: u64,
    end: u64,
}

impl Sink {
    fn create(path: &Path) -> Result<Self, Error> {
        Ok(Sink { file: PendingFile::create(path)?, failed: None, position: 0, end: 0 })
    }

    fn attempt<T>(&mut self, act: impl FnOnce(&mut PendingFile) -> io::Result<T>) -> io::Result<Option<T>> {
        if self.failed.is_some() {
            return Ok(None);
        }
        act(&mut self.file).map(Some).inspect_err(|error| self.failed = Some(error.kind()))
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.attempt(|file| file.write(bytes))?.unwrap_or(bytes.len());
        self.position += written as u64;
        self.end = self.end.max(self.position);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.attempt(|file| file.flush()).map(drop)
    }
}

impl Seek for Sink {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        let target = target.ok_or(io::ErrorKind::InvalidInput)?;
        self.position = self.attempt(|file| file.seek(SeekFrom::Start(target)))?.unwrap_or(target);
        Ok(self.position)
    }
}

fn zip_error(action: &'static str, path: &Path) -> impl FnOnce(ZipError) -> Error {
    let path = path.to_owned();
    move |error| match error {
        ZipError::Io(source) if source.kind() != std::io::ErrorKind::UnexpectedEof => {
            Error::Io { action, path, source }
        }
        error => Error::Zip { path, source: Box::new(error) },
    }
}
