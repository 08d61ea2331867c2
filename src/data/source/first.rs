use std::ops::Range;
use std::sync::Arc;

use super::{Error, Row, Source, fingerprint, out_of_range};

/// The first rows of another source.
pub struct First {
    source: Arc<dyn Source>,
    blocks: Vec<Range<usize>>,
    len: usize,
}

impl First {
    /// No more than `len` rows.
    pub fn new(source: Arc<dyn Source>, len: usize) -> Self {
        let len = len.min(source.len());
        let cut = |block: &Range<usize>| block.start..block.end.min(len);
        let blocks = source.blocks().iter().map(cut).filter(|block| !block.is_empty()).collect();
        First { source, blocks, len }
    }
}

impl Source for First {
    fn len(&self) -> usize {
        self.len
    }

    fn get(&self, index: usize) -> Result<Row, Error> {
        if index < self.len { self.source.get(index) } else { Err(out_of_range(self, index)) }
    }

    fn blocks(&self) -> &[Range<usize>] {
        &self.blocks
    }

    fn describe(&self) -> String {
        format!("the first {} rows of {}", self.len, self.source.describe())
    }

    fn locate(&self, index: usize) -> String {
        self.source.locate(index)
    }

    fn fingerprint(&self) -> u64 {
        fingerprint([self.source.fingerprint().to_string(), self.len.to_string()])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Mock;

    #[test]
    fn rows_behind_the_first_are_not_there() {
        let whole: Arc<dyn Source> = Arc::new(Mock::new(3, 7));
        let first = First::new(whole.clone(), 2);
        assert_eq!((first.len(), First::new(whole.clone(), 9).len()), (2, 3));
        assert_eq!(first.get(1).unwrap(), whole.get(1).unwrap());
        assert!(first.get(2).unwrap_err().to_string().contains("the first 2 rows of 3 random rows"));
        assert_ne!(first.fingerprint(), whole.fingerprint());
    }
}
