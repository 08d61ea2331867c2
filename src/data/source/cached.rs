use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use super::{Error, Row, Source};
use crate::data::Value;

/// Keeps the rows of another source in memory once they have been read, up to a number of bytes. Rows for
/// which there is no room are read anew each time.
pub struct Cached {
    source: Arc<dyn Source>,
    max_bytes: usize,
    kept: RwLock<Kept>,
    is_full: AtomicBool,
}

#[derive(Default)]
struct Kept {
    rows: HashMap<usize, Row>,
    bytes: usize,
}

impl Cached {
    pub fn new(source: Arc<dyn Source>, max_bytes: usize) -> Self {
        Cached { source, max_bytes, kept: RwLock::default(), is_full: AtomicBool::new(false) }
    }

    fn keep(&self, index: usize, row: &Row) {
        let bytes = row_bytes(row);
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.rows.contains_key(&index) {
            return;
        }
        if kept.bytes + bytes > self.max_bytes {
            // Said once. Smaller rows may still find room, but looking for it would cost the lock every time.
            if !self.is_full.swap(true, Ordering::Relaxed) {
                let (rows, len) = (kept.rows.len(), self.source.len());
                let source = self.source.describe();
                tracing::warn!("cache_raw: the cache is full with {rows} of {len} rows of {source}");
            }
            return;
        }
        kept.bytes += bytes;
        kept.rows.insert(index, row.clone());
    }
}

impl Source for Cached {
    fn len(&self) -> usize {
        self.source.len()
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(row) = kept.rows.get(&index) {
            return Ok(row.clone());
        }
        drop(kept);
        let row = self.source.get(index)?;
        if !self.is_full.load(Ordering::Relaxed) {
            self.keep(index, &row);
        }
        Ok(row)
    }

    fn blocks(&self) -> &[Range<usize>] {
        self.source.blocks()
    }

    fn describe(&self) -> String {
        self.source.describe()
    }

    fn locate(&self, index: usize) -> String {
        self.source.locate(index)
    }

    fn fingerprint(&self) -> u64 {
        self.source.fingerprint()
    }
}

/// What a row takes in memory, about: contents, and what maps, strings and lists add to them.
fn row_bytes(row: &Row) -> usize {
    const PER_FIELD: usize = size_of::<usize>() * 2 + size_of::<String>() + size_of::<Value>();
    row.iter().map(|(key, value)| PER_FIELD + key.len() + content_bytes(value)).sum()
}

/// What a value has beside the value itself.
fn content_bytes(value: &Value) -> usize {
    match value {
        Value::Str(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::List(items) => items.iter().map(|item| size_of::<Value>() + content_bytes(item)).sum(),
        Value::Dict(fields) => row_bytes(fields),
        Value::Int(_) | Value::Float(_) | Value::Bool(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Three rows of a thousand bytes; counts how often one is read.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Source for Counting {
        fn len(&self) -> usize {
            3
        }

        fn get(&self, index: usize) -> Result<Row, Error> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(Row::from([("image".to_owned(), Value::Bytes(vec![index as u8; 1000]))]))
        }

        fn describe(&self) -> String {
            "counting".to_owned()
        }

        fn locate(&self, index: usize) -> String {
            index.to_string()
        }
    }

    #[test]
    fn rows_are_read_once_while_there_is_room() {
        for (max_bytes, reads) in [(1 << 20, 3), (2500, 2 + 3), (0, 9)] {
            let source = Arc::new(Counting::default());
            let cached = Cached::new(source.clone(), max_bytes);
            for _ in 0..3 {
                for index in 0..3 {
                    assert_eq!(cached.get(index).unwrap()["image"], Value::Bytes(vec![index as u8; 1000]));
                }
            }
            assert_eq!(source.0.load(Ordering::SeqCst), reads, "{max_bytes}");
        }
    }
}
