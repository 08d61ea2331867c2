//! Bytes that lie in one file or in several that follow each other, read in place.
//!
//! The largest published checkpoint comes in pieces, `model.npz.part0`, `model.npz.part1`, …, as `split` makes
//! them. They are read as if they were one file, and never copied into one.

use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::Error;
use super::file::Map;

/// Files that are one after the other. Clones share the mappings.
#[derive(Clone)]
pub(crate) struct Pieces {
    maps: Vec<Map>,
    /// Where each piece begins, and the end of the last one.
    bounds: Vec<usize>,
}

impl Pieces {
    pub fn open(paths: &[PathBuf]) -> Result<Self, Error> {
        let maps = paths.iter().map(|path| Map::open(path)).collect::<Result<Vec<_>, Error>>()?;
        let mut bounds = vec![0];
        for map in &maps {
            // What is mapped fits in the address space, and so does the sum.
            bounds.push(bounds[bounds.len() - 1] + map.as_ref().len());
        }
        Ok(Pieces { maps, bounds })
    }

    /// Bytes in all pieces together.
    pub fn len(&self) -> usize {
        self.bounds[self.maps.len()]
    }

    /// The pieces that a range touches, each with the part of it that it holds.
    fn parts(&self, range: Range<usize>) -> impl Iterator<Item = (&Map, Range<usize>)> {
        self.maps.iter().zip(self.bounds.windows(2)).filter_map(move |(map, bounds)| {
            let (start, end) = (range.start.max(bounds[0]), range.end.min(bounds[1]));
            (start < end).then(|| (map, start - bounds[0]..end - bounds[0]))
        })
    }

    /// The bytes of a range, piece by piece.
    pub fn slices(&self, range: Range<usize>) -> impl Iterator<Item = &[u8]> {
        self.parts(range).map(|(map, range)| &map.as_ref()[range])
    }

    /// The bytes of a range that lies within one piece.
    pub fn slice(&self, range: Range<usize>) -> Option<&[u8]> {
        let len = range.len();
        match self.slices(range).next() {
            None => Some(&[]),
            Some(slice) => (slice.len() == len).then_some(slice),
        }
    }

    /// Copies the bytes of a range, which has the length of `out`.
    pub fn copy(&self, range: Range<usize>, out: &mut [u8]) {
        let mut rest = out;
        for slice in self.slices(range) {
            let (to, after) = rest.split_at_mut(slice.len());
            to.copy_from_slice(slice);
            rest = after;
        }
    }

    /// Gives the pages of a range back to the system.
    pub fn release(&self, range: Range<usize>) {
        self.parts(range).for_each(|(map, range)| map.release(range));
    }
}

/// A position in [`Pieces`].
#[derive(Clone)]
pub(crate) struct Cursor {
    pieces: Pieces,
    position: usize,
}

impl Cursor {
    pub fn new(pieces: Pieces) -> Self {
        Cursor { pieces, position: 0 }
    }
}

impl Read for Cursor {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let slice = self.pieces.slices(self.position..self.pieces.len()).next().unwrap_or_default();
        let len = slice.len().min(out.len());
        out[..len].copy_from_slice(&slice[..len]);
        self.position += len;
        Ok(len)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => i64::try_from(position).ok(),
            SeekFrom::End(offset) => (self.pieces.len() as i64).checked_add(offset),
            SeekFrom::Current(offset) => (self.position as i64).checked_add(offset),
        };
        let position = position.and_then(|position| usize::try_from(position).ok());
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position as u64)
    }
}

/// The pieces that a path means: all that are called as it is up to `.part`, when it is one of them
/// (`x.npz.part00`), stands for all (`x.npz.part*`), or is a file (`x.npz`) of which there are only pieces.
/// `None` when it means no pieces.
///
/// # Errors
/// When a piece between two others is missing, or the names have no order.
pub(crate) fn find(path: &Path) -> Result<Option<Vec<PathBuf>>, Error> {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
    let whole = match name.rsplit_once(".part") {
        Some((whole, suffix)) if suffix == "*" || Order::of(suffix).is_some() => whole,
        _ if path.exists() => return Ok(None),
        _ => name,
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let Ok(entries) = fs::read_dir(directory) else { return Ok(None) };
    let mut suffixes = Vec::new();
    for entry in entries {
        let entry = entry.map_err(Error::io("list", directory))?.file_name();
        let suffix = entry.to_str().and_then(|entry| entry.strip_prefix(whole)?.strip_prefix(".part"));
        suffixes.extend(suffix.and_then(Order::of).map(|order| (order, entry.clone())));
    }
    suffixes.sort();
    let bad = |piece: String, problem| Error::Pieces { path: path.with_file_name(whole), piece, problem };
    for pair in suffixes.windows(2) {
        let (before, after) = (&pair[0].0, &pair[1].0);
        if before.is_numbered != after.is_numbered {
            return Err(bad(before.suffix.clone(), "its pieces are numbered, and others have letters"));
        }
        match after.index.checked_sub(before.index) {
            Some(1) => {}
            Some(0) => return Err(bad(after.suffix.clone(), "is there in two spellings")),
            _ => return Err(bad(before.next(), "is missing")),
        }
    }
    if let Some((first, _)) = suffixes.first().filter(|(first, _)| first.index > u64::from(first.is_numbered))
    {
        return Err(bad(first.first(), "is missing"));
    }
    let paths: Vec<PathBuf> = suffixes.into_iter().map(|(_, name)| path.with_file_name(name)).collect();
    Ok((!paths.is_empty()).then_some(paths))
}

/// Which piece a suffix means: `7`, `07`, or `ah`, as `split` counts with letters.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Order {
    is_numbered: bool,
    index: u64,
    suffix: String,
}

impl Order {
    fn of(suffix: &str) -> Option<Self> {
        // Longer ones are not counted by pieces.
        let is_short = !suffix.is_empty() && suffix.len() <= 8;
        let (is_numbered, index) = match is_short {
            true if suffix.bytes().all(|byte| byte.is_ascii_digit()) => (true, suffix.parse().ok()?),
            true if suffix.bytes().all(|byte| byte.is_ascii_lowercase()) => {
                (false, suffix.bytes().fold(0, |index, byte| 26 * index + u64::from(byte - b'a')))
            }
            _ => return None,
        };
        Some(Order { is_numbered, index, suffix: suffix.to_owned() })
    }

    /// The suffix of the piece that follows.
    fn next(&self) -> String {
        self.spell(self.index + 1)
    }

    /// The suffix of the first piece.
    fn first(&self) -> String {
        self.spell(0)
    }

    fn spell(&self, mut index: u64) -> String {
        let width = self.suffix.len();
        if self.is_numbered {
            // Without leading zeros the width says nothing.
            return if self.suffix.starts_with('0') { format!("{index:0width$}") } else { index.to_string() };
        }
        let mut letters = vec![b'a'; width];
        for letter in letters.iter_mut().rev() {
            *letter += (index % 26) as u8;
            index /= 26;
        }
        letters.into_iter().map(char::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(names: &[&str], asked: &str) -> Result<Option<Vec<String>>, String> {
        let dir = tempfile::tempdir().unwrap();
        names.iter().for_each(|name| fs::write(dir.path().join(name), name).unwrap());
        let paths = find(&dir.path().join(asked))
            .map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))?;
        let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        Ok(paths.map(|paths| paths.into_iter().map(name).collect()))
    }

    fn names(suffixes: &[&str]) -> Vec<String> {
        suffixes.iter().map(|suffix| format!("x.npz.part{suffix}")).collect()
    }

    #[test]
    fn pieces_are_found_by_any_of_their_names_and_put_in_order() {
        let numbers: Vec<String> = (0..=11).map(|number| number.to_string()).collect();
        let numbers: Vec<&str> = numbers.iter().map(String::as_str).collect();
        for suffixes in [&["0", "1"][..], &numbers, &["00", "01", "02"], &["1", "2"], &["aa", "ab", "ac"]] {
            let ordered = names(suffixes);
            let mut there: Vec<&str> = ordered.iter().map(String::as_str).rev().collect();
            there.extend(["x.npz.parts2", "x.npz.part", "y.npz.part0", "x.npz.part7.bak"]);
            for asked in ["x.npz", "x.npz.part*", &ordered[0], &ordered[1]] {
                assert_eq!(found(&there[..], asked).unwrap().unwrap_or_default(), ordered, "{asked}");
            }
        }
        assert_eq!(found(&["x.npz", "x.npz.part0"], "x.npz"), Ok(None));
        assert_eq!(found(&["y"], "x.npz"), Ok(None));
    }

    #[test]
    fn a_missing_piece_is_named() {
        let message = |suffixes: &[&str]| {
            let names = names(suffixes);
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            found(&names, names[0]).unwrap_err()
        };
        assert_eq!(message(&["0", "2"]), "piece x.npz.part1 is missing");
        assert_eq!(message(&["00", "01", "03"]), "piece x.npz.part02 is missing");
        assert_eq!(message(&["8", "9", "11"]), "piece x.npz.part10 is missing");
        assert_eq!(message(&["2", "3"]), "piece x.npz.part0 is missing");
        assert_eq!(message(&["az", "bb"]), "piece x.npz.partba is missing");
        assert_eq!(message(&["ab", "ac"]), "piece x.npz.partaa is missing");
        assert_eq!(message(&["0", "00"]), "piece x.npz.part00 is there in two spellings");
        assert!(message(&["0", "aa"]).contains("its pieces are numbered, and others have letters"));
    }

    #[test]
    fn bytes_are_read_across_bounds() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = ["abc", "", "de", "f"]
            .iter()
            .enumerate()
            .map(|(i, text)| {
                let path = dir.path().join(i.to_string());
                fs::write(&path, text).unwrap();
                path
            })
            .collect();
        let pieces = Pieces::open(&paths).unwrap();
        assert_eq!(pieces.len(), 6);
        assert_eq!(pieces.slice(0..3), Some(&b"abc"[..]));
        assert_eq!(pieces.slice(2..4), None);
        assert_eq!(pieces.slice(3..5), Some(&b"de"[..]));
        assert_eq!(pieces.slice(6..6), Some(&b""[..]));
        let mut out = [0; 4];
        pieces.copy(2..6, &mut out);
        assert_eq!(&out, b"cdef");
        let mut cursor = Cursor::new(pieces);
        cursor.seek(SeekFrom::End(-5)).unwrap();
        let mut text = String::new();
        cursor.read_to_string(&mut text).unwrap();
        assert_eq!(text, "bcdef");
        assert!(cursor.seek(SeekFrom::Current(-7)).is_err());
        cursor.seek(SeekFrom::Start(100)).unwrap();
        assert_eq!(cursor.read(&mut [0]).unwrap(), 0);
    }
}
