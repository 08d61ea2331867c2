use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::batch::{Part, stack};
use super::prefetch::{Prefetch, ThreadsEnded, Work};
use super::stream::{Visit, Visited};
use super::{Batch, Error, Mixture, Preprocess, Processed, Shuffle, Source, Stream, mix};
use crate::panics;

/// How a [`Loader`] visits a source or a mixture of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoaderOptions {
    /// Rows per batch over all hosts.
    pub batch_size: usize,
    pub seed: u64,
    /// Visit the rows of every epoch in another random order ([`Shuffle::WHOLE`]). Streams have their own.
    pub shuffle: bool,
    /// How often every row is visited; `None` is forever. Batches run on across the epochs' borders. An epoch
    /// of a mixture is as many rows as its streams have together, in which each is visited by its weight.
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
    /// do not depend on the number of hosts. The price is paid by sources whose rows lie in
    /// [blocks](Source::blocks): a batch draws from several at random, so each host has rows of all of them and
    /// decodes them all.
    pub host_index: usize,
    pub host_count: usize,
    /// As [`Stream::skip_errors`], which streams have of their own.
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
/// Dropping it stops the threads once they are done with the rows they are at; a thread that is not done after
/// some seconds is left behind.
pub struct Loader {
    prefetch: Prefetch<Feed>,
    position: u64,
    stats: Stats,
    /// Time in [`wait`](Self::wait) since the last batch.
    waiting: Duration,
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
        let shuffle = if options.shuffle { Shuffle::WHOLE } else { Shuffle::InOrder };
        let (name, skip_errors) = (String::new(), options.skip_errors);
        let stream = Stream { name, source, preprocess, weight: 1.0, shuffle, skip_errors };
        Loader::of_streams(vec![stream], options)
    }

    /// As [`new`](Self::new), for streams that are mixed by their weights.
    ///
    /// # Errors
    /// Also when there is no stream, or a weight is not positive.
    pub fn of_streams(streams: Vec<Stream>, options: LoaderOptions) -> Result<Self, Error> {
        let weights: Vec<f64> = streams.iter().map(|stream| stream.weight).collect();
        let mixture = Mixture::new(&weights, mix(options.seed, MIXTURE_SEED)).ok_or_else(|| {
            let problem = format!("the weights {weights:?} give no mixture: each must be greater than 0");
            Error::Options { problem }
        })?;
        let (mut visited, mut num_rows) = (Vec::with_capacity(streams.len()), 0);
        for stream in streams {
            let first_id = num_rows;
            num_rows += stream.source.len();
            visited.push(Visited::new(stream, first_id, options.seed)?);
        }
        check(&options, num_rows).map_err(|problem| Error::Options { problem })?;
        let cores = || thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let threads = if options.threads == 0 { cores() } else { options.threads };
        let (depth, position) = (options.prefetch.max(1), options.start);
        let end = options.epochs.map(|epochs| epochs.saturating_mul(num_rows as u64));
        let feed = Feed { streams: visited, mixture, end, options };
        let prefetch = Prefetch::start(feed, threads, depth).map_err(Error::Spawn)?;
        Ok(Loader { prefetch, position, stats: Stats::default(), waiting: Duration::ZERO, failed: false })
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

    /// Waits until [`next`](Iterator::next) would return at once, but no longer than `timeout`. False when it
    /// would not: a row takes long.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let began = Instant::now();
        let is_ready = self.failed || self.prefetch.wait(timeout);
        self.waiting += began.elapsed();
        is_ready
    }

    /// The streams, each with how often it was visited before `position` and how many epochs of its source
    /// that is.
    pub fn visits(&self, position: u64) -> impl Iterator<Item = (&Stream, u64, f64)> {
        let feed = self.prefetch.work();
        feed.streams.iter().enumerate().map(move |(number, visited)| {
            let visits = feed.mixture.count(number, position);
            (&visited.stream, visits, visits as f64 / visited.stream.source.len() as f64)
        })
    }

    /// Makes once more the batch after which the run stood at `position`, on this thread: to look at it. What comes
    /// next stays as it is.
    ///
    /// # Errors
    /// As from [`next`](Iterator::next).
    pub fn batch_before(&self, position: u64) -> Result<Batch, Error> {
        let feed = self.prefetch.work();
        let (start, size) = (feed.options.start, feed.options.batch_size as u64);
        let number = position.saturating_sub(start).div_ceil(size).saturating_sub(1);
        let parts = (0..feed.num_parts()).map(|part| feed.part(number, part)).collect();
        feed.assemble(number, parts)
    }

    /// Where a row of [`Batch::ids`] is written, for messages.
    pub fn locate(&self, id: usize) -> String {
        self.prefetch.work().locate(id)
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
        self.stats.waited_last = began.elapsed() + std::mem::take(&mut self.waiting);
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
                self.prefetch.stop();
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

/// Numbers that keep the uses of one seed apart, of which 0 is that of orders. Changing them changes every run.
const PREPROCESS_SEED: u64 = 1;
const SUBSTITUTE_SEED: u64 = 2;
const MIXTURE_SEED: u64 = 3;

/// Rows tried for one place before a source is taken to be broken as a whole.
const MAX_ATTEMPTS: u64 = 32;

/// What the threads share: everything that says which row goes where.
struct Feed {
    streams: Vec<Visited>,
    mixture: Mixture,
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
        stack(parts, after, with_mask, || self.template(), |id| self.locate(id))
    }
}

impl Feed {
    /// The row that stands at a position of the run, or what takes its place.
    fn row_for(&self, position: u64) -> Result<Part, Error> {
        let number = self.mixture.stream(position);
        let visited = &self.streams[number];
        let mut visit = visited.visit(self.mixture.count(number, position));
        let seed = mix(mix(self.options.seed, PREPROCESS_SEED), position);
        let mut num_skipped = 0;
        loop {
            let error = match make(visited, visit, mix(seed, num_skipped)) {
                Ok(processed) => {
                    let row = Some((visited.first_id + visit.index, processed));
                    return Ok(Part { row, num_skipped });
                }
                Err(error) if !visited.stream.skip_errors => return Err(error),
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
            visit.index = (draw % visited.stream.source.len() as u64) as usize;
        }
    }

    /// Some row, for the shapes of a batch that is all padding on this host.
    fn template(&self) -> Result<(usize, Processed), Error> {
        let visited = &self.streams[0];
        let mut last = None;
        for index in 0..visited.stream.source.len().min(MAX_ATTEMPTS as usize) {
            match make(visited, Visit { index, epoch: 0 }, mix(self.options.seed, PREPROCESS_SEED)) {
                Ok(processed) => return Ok((index, processed)),
                Err(error) => last = Some(error),
            }
        }
        let error = last.expect("the source is not empty, so there was an attempt");
        Err(Error::TooManySkipped { attempts: MAX_ATTEMPTS, source: Box::new(error) })
    }

    fn locate(&self, id: usize) -> String {
        let number = self.streams.partition_point(|visited| visited.first_id <= id) - 1;
        let visited = &self.streams[number];
        visited.locate(id - visited.first_id)
    }
}

/// Reads and preprocesses one row; a panic on the way is an error like others.
fn make(visited: &Visited, visit: Visit, seed: u64) -> Result<Processed, Error> {
    let locate = || visited.locate(visit.index);
    let attempt = || {
        let row = visited.read(visit)?;
        let failed = |source| Error::Preprocess { row: locate(), source };
        visited.stream.preprocess.run(row, seed).map_err(failed)
    };
    // Sources and preprocessing are shared and immutable: a panic leaves nothing half done behind.
    catch_unwind(AssertUnwindSafe(attempt))
        .unwrap_or_else(|payload| Err(Error::Panicked { row: locate(), message: panics::message(&*payload) }))
}
