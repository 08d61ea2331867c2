//! One input that stands for several files: for each its name, a zero byte and its content, with a separator
//! between them. A separator, and no lengths, so that bytes can come and go within a file and leave the
//! others as they are.

use std::path::{Component, Path};

const SEPARATOR: &[u8] = b"\xff\n--\n";
/// More files than that only cost time.
const MAX_FILES: usize = 64;

/// The input for these files, which must not hold the separator.
pub fn pack<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Vec<u8> {
    let files: Vec<Vec<u8>> =
        files.into_iter().map(|(name, content)| [name.as_bytes(), b"\0", content].concat()).collect();
    assert!(files.iter().all(|file| find(file, SEPARATOR).is_none()), "a seed holds the separator");
    files.join(SEPARATOR)
}

/// The files of an input. Their names are relative and stay within the folder; the first of one name counts.
pub fn unpack(input: &[u8]) -> Option<Vec<(&str, &[u8])>> {
    let mut files: Vec<(&str, &[u8])> = Vec::new();
    let mut rest = Some(input);
    while let Some(bytes) = rest {
        let end = find(bytes, SEPARATOR);
        let file = &bytes[..end.unwrap_or(bytes.len())];
        rest = end.map(|end| &bytes[end + SEPARATOR.len()..]);
        let zero = file.iter().position(|&byte| byte == 0)?;
        let name = std::str::from_utf8(&file[..zero]).ok()?;
        let is_inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || name.len() > 200 || !is_inside || files.len() == MAX_FILES {
            return None;
        }
        if files.iter().all(|(known, _)| *known != name) {
            files.push((name, &file[zero + 1..]));
        }
    }
    Some(files)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_out_and_nothing_leaves_the_folder() {
        let files: [(&str, &[u8]); 3] = [("a/b", b"\0\xff\n"), ("c", b""), ("d.json", b"{}")];
        assert_eq!(unpack(&pack(files)).unwrap(), files);
        for name in ["", "/a", "../a", "a/../../b"] {
            assert_eq!(unpack(&pack([(name, b"x".as_slice())])), None, "{name:?}");
        }
        assert_eq!(unpack(b"no zero byte"), None);
    }
}
