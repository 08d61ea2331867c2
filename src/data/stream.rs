use std::sync::Arc;

use super::order::is_partition;
use super::{Error, Order, Preprocess, Row, Shuffle, Source, Value, fingerprint, mix};

/// A source of examples and what becomes of them: one of those that a [`Loader`](super::Loader) mixes.
#[derive(Clone)]
pub struct Stream {
    /// Tells the streams of a mixture apart. Empty for a stream that is not mixed.
    pub name: String,
    pub source: Arc<dyn Source>,
    pub preprocess: Arc<dyn Preprocess>,
    /// How often its rows come, relative to the sum of all weights.
    pub weight: f64,
    pub shuffle: Shuffle,
    /// Pass over rows that fail or panic instead of ending the run. With
    /// [`Remainder::Drop`](super::Remainder::Drop) another row of the source, chosen by seed and position, takes
    /// the place; with [`Remainder::Pad`](super::Remainder::Pad) it becomes padding.
    pub skip_errors: bool,
}

/// Field of a row that says which example of its source it is: an integer unless the source has it otherwise.
pub const ID: &str = "_id";
/// Field of a row that says how many epochs of its source came before.
pub const EPOCH: &str = "_epoch";
/// Field of a row that names the stream of a mixture it comes from.
pub const SOURCE: &str = "_source";

/// A number that keeps the orders apart from other uses of one seed. Changing it changes every run.
const ORDER_SEED: u64 = 0;

/// A stream that is being visited.
pub(super) struct Visited {
    pub stream: Stream,
    order: Order,
    /// Number of the first row, when the rows of all streams are numbered one after the other.
    pub first_id: usize,
}

/// One visit of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Visit {
    /// Number of the row in its source.
    pub index: usize,
    pub epoch: u64,
}

impl Visited {
    /// # Errors
    /// When the source has no rows, or its blocks are not all of them.
    pub fn new(stream: Stream, first_id: usize, seed: u64) -> Result<Self, Error> {
        let source = &stream.source;
        if source.is_empty() {
            return Err(Error::Empty { source_name: source.describe() });
        }
        let blocks = source.blocks();
        if !blocks.is_empty() && !is_partition(blocks, source.len()) {
            return Err(Error::Blocks { source_name: source.describe() });
        }
        let seed = mix(seed, ORDER_SEED);
        let seed = match stream.name.as_str() {
            "" => seed,
            // By name, so that the order of a stream does not depend on what it is mixed with.
            name => mix(seed, fingerprint([name])),
        };
        let order = Order::new(source.len(), blocks, seed, stream.shuffle);
        Ok(Visited { stream, order, first_id })
    }

    /// The visit after `visits` earlier ones.
    pub fn visit(&self, visits: u64) -> Visit {
        Visit { index: self.order.row(visits), epoch: self.order.epoch(visits) }
    }

    /// Reads a row, with the fields that say where it is from; what the source has of them stays.
    pub fn read(&self, visit: Visit) -> Result<Row, Error> {
        let mut row = self.stream.source.get(visit.index)?;
        let mut add = |key: &str, value: Value| {
            row.entry(key.to_owned()).or_insert(value);
        };
        add(ID, Value::Int(visit.index as i64));
        add(EPOCH, Value::Int(visit.epoch as i64));
        if !self.stream.name.is_empty() {
            add(SOURCE, Value::Str(self.stream.name.clone()));
        }
        Ok(row)
    }

    pub fn locate(&self, index: usize) -> String {
        self.stream.source.locate(index)
    }
}
