//! The files that a source's rows are spread over, and how rows are read out of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use regex::Regex;

use super::{Error, refuse_remote};

/// Where a row is stored: all that an index keeps of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub offset: u64,
    pub shard: u32,
    pub len: u32,
}

/// Files that stay open at a time; the others are opened again when a row of theirs is read.
const MAX_OPEN: usize = 64;

/// A list of files that is read at random places by several threads.
///
/// Compressed files cannot be read so: their content is unpacked to one unnamed file in the folder for
/// temporary files (`TMPDIR`), which goes away with this value.
#[derive(Debug)]
pub(super) struct Shards {
    paths: Vec<PathBuf>,
    /// The files read last, the latest at the end.
    open: Mutex<Vec<(usize, Arc<File>)>>,
    unpacked: Option<Unpacked>,
}

#[derive(Debug)]
struct Unpacked {
    file: Arc<File>,
    /// For every shard, where its content begins and how long it is; `None` for those that are read as they
    /// are.
    places: Vec<Option<(u64, u64)>>,
}

impl Shards {
    pub fn new(paths: Vec<PathBuf>) -> Self {
        Shards { paths, open: Mutex::default(), unpacked: None }
    }

    pub fn len(&self) -> usize {
        self.paths.len()
    }

    pub fn path(&self, shard: usize) -> &Path {
        &self.paths[shard]
    }

    /// A shard's content, from its first byte.
    pub fn reader(&self, shard: usize) -> Result<ShardReader, Error> {
        let unpacked = self.unpacked.as_ref().and_then(|unpacked| {
            let (base, len) = unpacked.places[shard]?;
            Some(ShardReader { file: unpacked.file.clone(), base, len, position: 0 })
        });
        match unpacked {
            Some(reader) => Ok(reader),
            None => {
                let file = self.file(shard)?;
                let len = file.metadata().map_err(|source| self.io_error("read", shard, source))?.len();
                Ok(ShardReader { file, base: 0, len, position: 0 })
            }
        }
    }

    /// The bytes of one row.
    pub fn read(&self, extent: Extent) -> Result<Vec<u8>, Error> {
        let shard = extent.shard as usize;
        let mut bytes = vec![0; extent.len as usize];
        let place = self.unpacked.as_ref().and_then(|u| Some((&u.file, u.places[shard]?.0)));
        let result = match place {
            Some((file, base)) => file.read_exact_at(&mut bytes, base + extent.offset),
            None => self.file(shard)?.read_exact_at(&mut bytes, extent.offset),
        };
        match result {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(self.damaged(shard, extent.offset, "the file ends within a row"))
            }
            Err(source) => Err(self.io_error("read", shard, source)),
        }
    }

    /// Unpacks the shards for which `is_packed` holds, given a shard's number and its first bytes (up to 16).
    ///
    /// # Errors
    /// When a shard cannot be read, is damaged, or the folder for temporary files is full.
    pub fn unpack(&mut self, is_packed: impl Fn(usize, &[u8]) -> bool) -> Result<(), Error> {
        let mut places = vec![None; self.len()];
        let mut spool = None;
        let mut end = 0;
        for (shard, place) in places.iter_mut().enumerate() {
            let mut file = &*self.file(shard)?;
            let mut first = Vec::new();
            file.take(16).read_to_end(&mut first).map_err(|source| self.io_error("read", shard, source))?;
            if !is_packed(shard, &first) {
                continue;
            }
            let spool = match &mut spool {
                Some(spool) => spool,
                None => spool.insert(tempfile::tempfile().map_err(temporary)?),
            };
            file.rewind().map_err(|source| self.io_error("read", shard, source))?;
            let len = self.unpack_into(shard, file, spool)?;
            *place = Some((end, len));
            end += len;
        }
        self.unpacked = spool.map(|file| Unpacked { file: Arc::new(file), places });
        Ok(())
    }

    fn unpack_into(&self, shard: usize, file: &File, mut spool: &File) -> Result<u64, Error> {
        let mut decoder = flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(1 << 17, file));
        let (mut buffer, mut len) = (vec![0; 1 << 17], 0);
        loop {
            let read = match decoder.read(&mut buffer) {
                Ok(0) => return Ok(len),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let at = decoder.get_mut().stream_position().unwrap_or(0);
                    return Err(self.damaged(shard, at, format!("cannot decompress it ({error})")));
                }
            };
            io::Write::write_all(&mut spool, &buffer[..read]).map_err(temporary)?;
            len += read as u64;
        }
    }

    fn file(&self, shard: usize) -> Result<Arc<File>, Error> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|(number, _)| *number == shard) {
            let entry = open.remove(at);
            let file = entry.1.clone();
            open.push(entry);
            return Ok(file);
        }
        let file = File::open(&self.paths[shard]).map_err(|source| self.io_error("open", shard, source))?;
        let file = Arc::new(file);
        if open.len() == MAX_OPEN {
            open.remove(0);
        }
        open.push((shard, file.clone()));
        Ok(file)
    }

    pub fn damaged(&self, shard: usize, offset: u64, problem: impl Into<String>) -> Error {
        Error::Damaged { path: self.paths[shard].clone(), offset, problem: problem.into() }
    }

    fn io_error(&self, action: &'static str, shard: usize, source: io::Error) -> Error {
        Error::Io { action, path: self.paths[shard].clone(), source }
    }
}

fn temporary(source: io::Error) -> Error {
    Error::Io { action: "unpack a compressed file to the folder TMPDIR", path: std::env::temp_dir(), source }
}

/// One shard as a stream that can be read at a place as well, whatever others do with the same file.
#[derive(Debug, Clone)]
pub(super) struct ShardReader {
    file: Arc<File>,
    base: u64,
    len: u64,
    position: u64,
}

impl ShardReader {
    /// Bytes in the shard.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Fills `buffer` from `offset` as far as the shard goes, and says how far that was.
    pub fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len.saturating_sub(offset).min(buffer.len() as u64) as usize;
        self.file.read_exact_at(&mut buffer[..left], self.base + offset)?;
        Ok(left)
    }
}

impl Read for ShardReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for ShardReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.position.checked_add_signed(by),
        };
        self.position = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}

/// Whether these are the first bytes of a gzip file.
pub(super) fn is_gzip(first: &[u8]) -> bool {
    first.starts_with(&[0x1f, 0x8b, 8])
}

/// The files that `patterns` name, in the order of the patterns, those of one pattern sorted.
///
/// A pattern is a file, a folder (all files below that end in one of `endings`), a glob (`*`, `?`, `[..]`,
/// `**`), or has braces (`shard-{000000..000123}.tar`, `{train,val}.tar`), each of which must exist.
///
/// # Errors
/// When there is no pattern, one names nothing, or files whose names count them (`-00000-of-00002`) are not all there.
pub(super) fn expand(patterns: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    if patterns.is_empty() {
        return Err(Error::Options { problem: "no files are named".to_owned() });
    }
    for pattern in patterns {
        refuse_remote(pattern)?;
        if pattern.is_file() {
            files.push(pattern.clone());
            continue;
        }
        let before = files.len();
        if pattern.is_dir() {
            list_below(pattern, endings, &mut files)?;
        } else {
            let text = pattern.to_str().ok_or_else(|| no_files(pattern, "its name is not UTF-8"))?;
            for alternative in expand_braces(text).map_err(|problem| no_files(pattern, &problem))? {
                glob_files(pattern, &alternative, &mut files)?;
            }
        }
        if files.len() == before {
            let what = match pattern.is_dir() {
                true => format!("the folder holds no files that end in {}", endings.join(" or ")),
                false => "there is no such file".to_owned(),
            };
            return Err(no_files(pattern, &what));
        }
        check_complete(&files[before..])?;
    }
    Ok(files)
}

fn no_files(pattern: &Path, problem: &str) -> Error {
    Error::NoFiles { pattern: pattern.to_owned(), problem: problem.to_owned() }
}

fn glob_files(pattern: &Path, text: &str, files: &mut Vec<PathBuf>) -> Result<(), Error> {
    if !text.contains(['*', '?', '[']) {
        if !Path::new(text).is_file() {
            return Err(no_files(pattern, &format!("{text} is missing")));
        }
        files.push(text.into());
        return Ok(());
    }
    let paths =
        glob::glob(text).map_err(|error| no_files(pattern, &format!("the glob is wrong: {error}")))?;
    for path in paths {
        let path = path.map_err(|error| Error::Io {
            action: "list",
            path: error.path().to_owned(),
            source: error.into(),
        })?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(())
}

/// The files below a folder whose names end in one of `endings`, sorted.
pub(super) fn list_below(folder: &Path, endings: &[&str], files: &mut Vec<PathBuf>) -> Result<(), Error> {
    for path in super::list(folder)? {
        if path.is_dir() {
            list_below(&path, endings, files)?;
        } else if path.to_str().is_some_and(|name| endings.iter().any(|ending| name.ends_with(ending))) {
            files.push(path);
        }
    }
    Ok(())
}

/// Every text that braces stand for: `{a,b}` and `{08..11}` (with the zeros that the first number has).
fn expand_braces(text: &str) -> Result<Vec<String>, String> {
    /// Far more shards than any set has; more is a slip of the pen.
    const MAX: usize = 1_000_000;
    let Some((before, rest)) = text.split_once('{') else { return Ok(vec![text.to_owned()]) };
    let (inner, after) = rest.split_once('}').ok_or("a brace is not closed")?;
    let choices: Vec<String> = match inner.split_once("..") {
        Some((first, last)) => {
            let number =
                |text: &str| text.parse::<u64>().map_err(|_| format!("{{{inner}}} is no range of numbers"));
            let (from, to, width) = (number(first)?, number(last)?, first.len());
            if from > to || to - from >= MAX as u64 {
                return Err(format!("{{{inner}}} should count up to at most a million"));
            }
            (from..=to).map(|n| format!("{n:0width$}")).collect()
        }
        None => inner.split(',').map(str::to_owned).collect(),
    };
    let tails = expand_braces(after)?;
    if choices.len().saturating_mul(tails.len()) > MAX {
        return Err("the braces stand for more than a million files".to_owned());
    }
    let join = |choice: &String| -> Vec<String> {
        tails.iter().map(|tail| format!("{before}{choice}{tail}")).collect()
    };
    Ok(choices.iter().flat_map(join).collect())
}

/// Files that count themselves must all be there.
fn check_complete(files: &[PathBuf]) -> Result<(), Error> {
    let counted = Regex::new(r"^(.*-)(\d{5,})-of-(\d{5,})(.*)$").expect("the pattern is a constant");
    let mut sets: BTreeMap<(&str, &str, &str), Vec<u64>> = BTreeMap::new();
    for name in files.iter().filter_map(|path| path.to_str()) {
        if let Some(parts) = counted.captures(name) {
            let (_, [before, number, count, after]) = parts.extract();
            if let Ok(number) = number.parse() {
                sets.entry((before, count, after)).or_default().push(number);
            }
        }
    }
    for ((before, count, after), numbers) in sets {
        let total: u64 = count.parse().unwrap_or(0);
        if let Some(missing) = (0..total.min(numbers.len() as u64 + 1)).find(|n| !numbers.contains(n)) {
            let width = count.len();
            let path = format!("{before}{missing:0width$}-of-{count}{after}");
            return Err(no_files(
                Path::new(&path),
                &format!("of {total} files that belong together only {} are there", numbers.len()),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn braces_stand_for_all_their_combinations() {
        assert_eq!(expand_braces("a.tar").unwrap(), ["a.tar"]);
        assert_eq!(expand_braces("s-{008..010}.{a,b}").unwrap().len(), 6);
        assert_eq!(expand_braces("s-{008..010}").unwrap(), ["s-008", "s-009", "s-010"]);
        for (text, problem) in [
            ("{1..", "a brace is not closed"),
            ("{a..c}", "{a..c} is no range of numbers"),
            ("{3..1}", "{3..1} should count up to at most a million"),
            ("{0..999}{0..999}{0..9}", "the braces stand for more than a million files"),
        ] {
            assert_eq!(expand_braces(text).unwrap_err(), problem);
        }
    }

    #[test]
    fn patterns_name_files_or_say_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir(path("sub")).unwrap();
        for name in ["b-00001-of-00003.x", "b-00000-of-00003.x", "a.x", "sub/c.x", "n.txt", "a[1].x"] {
            fs::write(path(name), name).unwrap();
        }
        let names = |pattern: &str| {
            let folder = format!("{}/", dir.path().display());
            match expand(&[path(pattern)], &[".x"]) {
                Ok(files) => files.iter().map(|f| f.display().to_string().replace(&folder, "")).collect(),
                Err(error) => vec![error.to_string().replace(&folder, "")],
            }
        };
        assert_eq!(names("{n,a}.*"), ["n.txt", "a.x"]);
        assert_eq!(names("a[1].x"), ["a[1].x"]);
        assert_eq!(names("sub"), ["sub/c.x"]);
        assert_eq!(names("*/*.x"), ["sub/c.x"]);
        let missing = "b-00002-of-00003.x: of 3 files that belong together only 2 are there";
        assert_eq!(names("b-*"), [missing]);
        // A file named on its own is wanted on its own.
        assert_eq!(names("b-00001-of-00003.x"), ["b-00001-of-00003.x"]);
        assert_eq!(names("c*.x"), ["c*.x: there is no such file"]);
        assert_eq!(names("{a,d}.x"), ["{a,d}.x: d.x is missing"]);
        assert_eq!(
            expand(&[path("sub")], &[".tar"]).unwrap_err().to_string().rsplit(": ").next().unwrap(),
            "the folder holds no files that end in .tar"
        );
    }

    #[test]
    fn more_files_than_may_be_open_and_packed_ones_are_read_at_any_place() {
        let dir = tempfile::tempdir().unwrap();
        let mut paths = Vec::new();
        for number in 0..MAX_OPEN + 10 {
            let path = dir.path().join(format!("{number:03}"));
            let content = format!("content {number:03}");
            if number % 3 == 0 {
                let mut gz = flate2::write::GzEncoder::new(File::create(&path).unwrap(), Default::default());
                gz.write_all(content.as_bytes()).unwrap();
                gz.finish().unwrap();
            } else {
                fs::write(&path, content).unwrap();
            }
            paths.push(path);
        }
        let mut shards = Shards::new(paths);
        shards.unpack(|_, first| is_gzip(first)).unwrap();
        for _ in 0..2 {
            for shard in 0..shards.len() {
                let bytes = shards.read(Extent { offset: 8, shard: shard as u32, len: 3 }).unwrap();
                assert_eq!(bytes, format!("{shard:03}").as_bytes());
                let mut reader = shards.reader(shard).unwrap();
                assert_eq!(reader.seek(SeekFrom::End(-2)).unwrap(), 9);
                assert_eq!(io::read_to_string(reader).unwrap(), format!("{shard:03}")[1..]);
            }
        }
        assert!(shards.open.lock().unwrap().len() <= MAX_OPEN);
        let error = shards.read(Extent { offset: 8, shard: 1, len: 4 }).unwrap_err();
        assert!(error.to_string().ends_with("001: the file ends within a row (at byte 8)"), "{error}");
    }

    #[test]
    fn a_packed_file_that_was_cut_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.gz");
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), Default::default());
        gz.write_all(&(0..99_999u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        let bytes = gz.finish().unwrap();
        fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        let error = Shards::new(vec![path]).unpack(|_, first| is_gzip(first)).unwrap_err().to_string();
        assert!(error.contains("cut.gz: cannot decompress it ("), "{error}");
    }
}
