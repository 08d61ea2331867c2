//! The framing of TFRecord files: where each record lies, and its bytes checked against their checksum.
//!
//! A record is its length (`u64`), a checksum of the length (`u32`), the bytes, and a checksum of the bytes
//! (`u32`), all little-endian. A checksum is a CRC-32C, rotated and shifted so that a file of checksums has
//! checksums of its own (TensorFlow's `lib/io/record_writer.h`, `lib/hash/crc32c.h`).

use super::Error;
use super::places::{Place, Places, Spacing};
use super::shards::{Extent, Shards, is_gzip};

/// Bytes before a record's content: its length and the checksum of that.
const HEADER: usize = 12;
/// Bytes after it.
const FOOTER: usize = 4;
/// From one record's content to the next one's.
pub(super) const SPACING: Spacing = Spacing { gap: (FOOTER + HEADER) as u64, align: 1 };

/// The records of one shard, in their order: places are those of the content without its frame.
///
/// Only the frames are read; the content is checked when it is [`read`].
///
/// # Errors
/// When a length is wrong by its checksum, or the file ends within a record.
pub(super) fn index(shards: &Shards, shard: usize) -> Result<Places, Error> {
    let reader = shards.reader(shard)?;
    let path = shards.path(shard);
    let mut places = Places::new(SPACING);
    let (mut offset, mut header) = (0, [0; HEADER]);
    while offset < reader.len() {
        let damaged =
            |problem: String| shards.damaged(shard, offset, format!("record {} {problem}", places.len()));
        let read = reader.read_at(&mut header, offset).map_err(|source| Error::Io {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        if read < HEADER {
            return Err(damaged("is cut off within its length".to_owned()));
        }
        let Some(length) = length(&header) else {
            let hint = match places.len() {
                0 if is_gzip(&header) => ": it may be gzip data that does not end in .gz",
                0 => ": this may be no TFRecord file",
                _ => "",
            };
            return Err(damaged(format!("has a length that its checksum does not fit{hint}")));
        };
        let end = offset + HEADER as u64 + length + FOOTER as u64;
        if end > reader.len() {
            return Err(damaged(format!("has {length} bytes, but the file ends before them")));
        }
        let len = u32::try_from(length).map_err(|_| damaged(format!("has {length} bytes, over 4 GiB")))?;
        let extent = Extent { offset: offset + HEADER as u64, shard: shard as u32, len };
        places.push(Place { extent, number: places.len() as u32 });
        offset = end;
    }
    Ok(places)
}

/// The content of a record.
///
/// # Errors
/// When it cannot be read or its checksum does not fit.
pub(super) fn read(shards: &Shards, extent: Extent) -> Result<Vec<u8>, Error> {
    let framed = Extent { len: extent.len.saturating_add(FOOTER as u32), ..extent };
    let mut bytes = shards.read(framed)?;
    let expected = bytes.split_off(extent.len as usize);
    if masked_crc(&bytes).to_le_bytes()[..] != expected[..] {
        let problem = "the record's bytes do not fit their checksum";
        return Err(shards.damaged(extent.shard as usize, extent.offset, problem));
    }
    Ok(bytes)
}

/// Whether a file that begins so is a TFRecord file as it is, and needs no unpacking.
pub(super) fn begins_record(first: &[u8]) -> bool {
    first.first_chunk().is_some_and(|header| length(header).is_some())
}

/// The length in a record's header, if its checksum fits.
fn length(header: &[u8; HEADER]) -> Option<u64> {
    let (length, crc) = header.split_at(8);
    let length: [u8; 8] = length.try_into().ok()?;
    // A length near 2^64 would overflow positions in the file.
    let value = u64::from_le_bytes(length);
    (masked_crc(&length).to_le_bytes() == *crc && value < 1 << 62).then_some(value)
}

fn masked_crc(bytes: &[u8]) -> u32 {
    const DELTA: u32 = 0xa282_ead8;
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(DELTA)
}

/// A record as files hold it, for tests of everything that reads them.
#[cfg(test)]
pub(super) fn frame(content: &[u8]) -> Vec<u8> {
    let length = (content.len() as u64).to_le_bytes();
    [&length[..], &masked_crc(&length).to_le_bytes(), content, &masked_crc(content).to_le_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn written(bytes: &[u8]) -> (tempfile::TempDir, Shards) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tfrecord");
        fs::write(&path, bytes).unwrap();
        (dir, Shards::new(vec![path]))
    }

    #[test]
    fn records_come_back_and_every_damage_is_found() {
        let bytes = [frame(b"one"), frame(b""), frame(&[7; 5000])].concat();
        let (_dir, shards) = written(&bytes);
        let places = index(&shards, 0).unwrap();
        let contents: Vec<Vec<u8>> = places.extents().map(|extent| read(&shards, extent).unwrap()).collect();
        assert_eq!(contents, [b"one".to_vec(), Vec::new(), vec![7; 5000]]);

        // Any flipped byte is found: when the file is opened, or when the record is read.
        for at in (0..40).chain([100, 5000, bytes.len() - 1]) {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let (_dir, shards) = written(&bad);
            let found = index(&shards, 0).and_then(|places| {
                places.extents().map(|extent| read(&shards, extent)).collect::<Result<Vec<_>, _>>()
            });
            assert!(matches!(found, Err(Error::Damaged { .. })), "byte {at}");
        }
        // And so is any cut that is not between records.
        for len in (1..60).chain([bytes.len() - 1]) {
            let (_dir, shards) = written(&bytes[..len]);
            let whole = len == 19 || len == 19 + 16;
            assert_eq!(index(&shards, 0).is_ok(), whole, "{len} bytes");
        }
    }

    #[test]
    fn messages_say_where_and_what() {
        let message = |bytes: &[u8]| {
            let (_dir, shards) = written(bytes);
            let message = index(&shards, 0).unwrap_err().to_string();
            message.split_once("a.tfrecord: ").unwrap().1.to_owned()
        };
        let one = frame(b"one");
        assert_eq!(
            message(&[&one[..], b"abc"].concat()),
            "record 1 is cut off within its length (at byte 19)"
        );
        assert_eq!(
            message(&[&one[..], &one[..18]].concat()),
            "record 1 has 3 bytes, but the file ends before them (at byte 19)"
        );
        assert_eq!(
            message(b"certainly no record"),
            "record 0 has a length that its checksum does not fit: this may be no TFRecord file (at byte 0)"
        );
    }
}
