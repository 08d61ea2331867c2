use std::any::Any;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::batch::{Part, stack};
use super::prefetch::{Prefetch, ThreadsEnded, Work};
use super::{Batch, Error, Order, Preprocess, Processed, Source, mix};

/// How a [`Loader`] visits a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Rows per batch over all hosts.
    pub batch_size: usize,
    pub seed: u64,
    /// Visit the rows of every epoch in another random order.
    pub shuffle: bool,
    /// How often every row is visited; `None` is forever. Batches run on across the epochs' borders.
    pub epochs: Option<u64>,
    /// What becomes of the rows that do not fill a batch at the end of the last epoch.
    pub remainder: Remainder,
    /// Threads that read and preprocess; 0 for one per core.
    pub threads: usize,
    /// Batches made ahead, which bounds the memory: at least 1.
    pub prefetch: usize,
    /// Position, in rows since the run began, of the first row: the `position_after` of the last batch used.
    pub start: u64,
    /// This process among `host_count`. Every host gets its slice of every batch, so that the rows of a batch
    /// do not depend on the number of hosts.
    pub host_index: usize,
    pub host_count: usize,
    /// Pass over rows that fail or panic instead of ending the run. With [`Remainder::Drop`] another row,
    /// chosen by seed and position, takes the place; with [`Remainder::Pad`] it becomes padding.
    pub skip_errors: bool,
}

impl Default for LoaderOptions {
    fn default() -> Self {
        LoaderOptions {
            batch_size: 1,
            seed: 0,
            shuffle: true,
            epochs: None,
            remainder: Remainder::Drop,
            threads: 0,
            prefetch: 2,
            start: 0,
            host_index: 0,
            host_count: 1,
            skip_errors: false,
        }
    }
}

/// What becomes of the rows that do not fill a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// They are left out: training.
    Drop,
    /// The last batch is filled up with rows of zeros, and every batch has a [`MASK`](super::MASK): evaluation.
    Pad,
}

/// What the consumer has seen of a [`Loader`] so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    pub num_batches: u64,
    /// Rows of this host, without padding.
    pub num_rows: u64,
    /// Rows of this host passed over by `skip_errors`.
    pub num_skipped: u64,
    /// Time that the consumer spent waiting for batches; near zero when the data keeps up.
    pub waited: Duration,
    /// As `waited`, for the last batch alone.
    pub waited_last: Duration,
}

/// An iterator of batches, made ahead by threads of its own and handed over in order. After an error it ends.
///
/// Dropping it stops the threads once they are done with the rows they are at.
pub struct Loader {
    prefetch: Prefetch<Feed>,
    position: u64,
    stats: Stats,
    failed: bool,
}

impl Loader {
    /// Starts the threads.
    ///
    /// # Errors
    /// When the source is empty, the options contradict each other or cannot give a single batch, or a thread
    /// cannot be started.
    pub fn new(
        source: Arc<dyn Source>,
        preprocess: Arc<dyn Preprocess>,
        options: LoaderOptions,
    ) -> Result<Self, Error> {
        if source.is_empty() {
            return Err(Error::Empty { source_name: source.describe() });
        }
        check(&options, source.len()).map_err(|problem| Error::Options { problem })?;
        let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let (depth, position) = (options.prefetch.max(1), options.start);
        let order = Order::new(source.len(), mix(options.seed, ORDER_SEED), options.shuffle);
        let end = options.epochs.map(|epochs| epochs.saturating_mul(source.len() as u64));
        let prefetch = Prefetch::start(Feed { source, preprocess, order, end, options }, threads, depth)
            .map_err(Error::Spawn)?;
        Ok(Loader { prefetch, position, stats: Stats::default(), failed: false })
    }

    /// Batches from the start position to the end; `None` when there is no end.
    pub fn num_batches(&self) -> Option<u64> {
        self.prefetch.work().num_batches()
    }

    /// Position after the last batch handed over: what to save beside a checkpoint.
    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn stats(&self) -> Stats {
        self.stats
    }
}

impl Iterator for Loader {
    type Item = Result<Batch, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let began = Instant::now();
        let result = self.prefetch.next()?;
        let result =
            result.unwrap_or_else(|ThreadsEnded| Err(Error::ThreadsEnded { position: self.position }));
        self.stats.waited_last = began.elapsed();
        self.stats.waited += self.stats.waited_last;
        match &result {
            Ok(batch) => {
                self.position = batch.position_after;
                self.stats.num_batches += 1;
                self.stats.num_rows += batch.ids.iter().flatten().count() as u64;
                self.stats.num_skipped += batch.num_skipped;
            }
            Err(_) => {
                self.failed = true;
                self.prefetch.close();
            }
        }
        Some(result)
    }
}

fn check(options: &LoaderOptions, len: usize) -> Result<(), String> {
    let LoaderOptions { batch_size, host_index, host_count, .. } = *options;
    if batch_size == 0 {
        return Err("batch_size is 0, expected at least 1".to_owned());
    }
    if host_count == 0 || host_index >= host_count {
        return Err(format!("host_index {host_index} is not one of {host_count} hosts"));
    }
    if !batch_size.is_multiple_of(host_count) {
        return Err(format!("batch_size {batch_size} does not divide among {host_count} hosts"));
    }
    if options.epochs == Some(0) {
        return Err("epochs is 0, expected at least 1".to_owned());
    }
    let rows = options.epochs.map(|epochs| epochs.saturating_mul(len as u64));
    if let (Some(rows), Remainder::Drop) = (rows, options.remainder)
        && rows < batch_size as u64
    {
        return Err(format!(
            "{rows} rows over all epochs do not fill one batch of {batch_size}: lower batch_size, or pad the last batch"
        ));
    }
    Ok(())
}

/// Numbers that keep the uses of one seed apart. Changing them changes every run.
const ORDER_SEED: u64 = 0;
const PREPROCESS_SEED: u64 = 1;
const SUBSTITUTE_SEED: u64 = 2;

/// Rows tried for one place before a source is taken to be broken as a whole.
const MAX_ATTEMPTS: u64 = 32;

/// What the threads share: everything that says which row goes where.
struct Feed {
    source: Arc<dyn Source>,
    preprocess: Arc<dyn Preprocess>,
    order: Order,
    /// Position after the last row of the last epoch.
    end: Option<u64>,
    options: LoaderOptions,
}

impl Work for Feed {
    type Part = Result<Part, Error>;
    type Batch = Result<Batch, Error>;

    fn num_batches(&self) -> Option<u64> {
        let (rows, size) = (self.end?.saturating_sub(self.options.start), self.options.batch_size as u64);
        Some(match self.options.remainder {
            Remainder::Drop => rows / size,
            Remainder::Pad => rows.div_ceil(size),
        })
    }

    fn num_parts(&self) -> usize {
        self.options.batch_size / self.options.host_count
    }

    fn part(&self, batch: u64, part: usize) -> Result<Part, Error> {
        let within = self.options.host_index * self.num_parts() + part;
        let position = self.options.start + batch * self.options.batch_size as u64 + within as u64;
        if self.end.is_some_and(|end| position >= end) {
            return Ok(Part { row: None, num_skipped: 0 });
        }
        self.row_for(position)
    }

    fn assemble(&self, batch: u64, parts: Vec<Result<Part, Error>>) -> Result<Batch, Error> {
        let after = self.options.start + (batch + 1) * self.options.batch_size as u64;
        let after = self.end.map_or(after, |end| after.min(end));
        let with_mask = self.options.remainder == Remainder::Pad;
        let parts = parts.into_iter().collect::<Result<_, _>>()?;
        stack(parts, after, with_mask, || self.template(), |index| self.source.locate(index))
    }
}

impl Feed {
    /// The row that stands at a position of the run, or what takes its place.
    fn row_for(&self, position: u64) -> Result<Part, Error> {
        let seed = mix(mix(self.options.seed, PREPROCESS_SEED), position);
        let mut index = self.order.row(position);
        let mut num_skipped = 0;
        loop {
            let error = match self.make(index, mix(seed, num_skipped)) {
                Ok(processed) => return Ok(Part { row: Some((index, processed)), num_skipped }),
                Err(error) if !self.options.skip_errors => return Err(error),
                Err(error) => error,
            };
            tracing::warn!(error = &error as &dyn std::error::Error, "skipped a row");
            num_skipped += 1;
            if self.options.remainder == Remainder::Pad {
                return Ok(Part { row: None, num_skipped });
            }
            if num_skipped == MAX_ATTEMPTS {
                return Err(Error::TooManySkipped { attempts: num_skipped, source: Box::new(error) });
            }
            // Not the next row: hosts and threads would have to agree on what the others skipped.
            let draw = mix(mix(mix(self.options.seed, SUBSTITUTE_SEED), position), num_skipped);
            index = (draw % self.source.len() as u64) as usize;
        }
    }

    /// Reads and preprocesses one row; a panic on the way is an error like others.
    fn make(&self, index: usize, seed: u64) -> Result<Processed, Error> {
        let attempt = || {
            let row = self.source.get(index)?;
            let failed = |source| Error::Preprocess { row: self.source.locate(index), source };
            self.preprocess.run(row, seed).map_err(failed)
        };
        // Sources and preprocessing are shared and immutable: a panic leaves nothing half done behind.
        catch_unwind(AssertUnwindSafe(attempt)).unwrap_or_else(|payload| {
            Err(Error::Panicked { row: self.source.locate(index), message: panic_message(&*payload) })
        })
    }

    /// Some row, for the shapes of a batch that is all padding on this host.
    fn template(&self) -> Result<(usize, Processed), Error> {
        let mut last = None;
        for index in 0..self.source.len().min(MAX_ATTEMPTS as usize) {
            match self.make(index, mix(self.options.seed, PREPROCESS_SEED)) {
                Ok(processed) => return Ok((index, processed)),
                Err(error) => last = Some(error),
            }
        }
        let error = last.expect("the source is not empty, so there was an attempt");
        Err(Error::TooManySkipped { attempts: MAX_ATTEMPTS, source: Box::new(error) })
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
