//! Threads that make batches ahead of the consumer, part by part, and hand them over in order.
//!
//! At most `depth` batches exist here at a time, whether finished or begun, so a slow consumer bounds the
//! memory. This file knows threads; what a part is and how parts become a batch is the [`Work`]'s.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Batches numbered from 0, each made of the same number of independent parts.
pub(super) trait Work: Send + Sync + 'static {
    type Part: Send;
    type Batch: Send;

    /// How many batches there are; `None` when they never end.
    fn num_batches(&self) -> Option<u64>;
    /// Parts per batch, at least one.
    fn num_parts(&self) -> usize;
    fn part(&self, batch: u64, part: usize) -> Self::Part;
    fn assemble(&self, batch: u64, parts: Vec<Self::Part>) -> Self::Batch;
}

/// How long [`Prefetch::close`] waits for a thread, which may be stuck in a read that never returns.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Prefetch<W: Work> {
    shared: Arc<Shared<W>>,
    threads: Vec<JoinHandle<()>>,
}

/// The threads are gone although batches are missing: one panicked outside of what the work guards.
#[derive(Debug)]
pub(super) struct ThreadsEnded;

struct Shared<W: Work> {
    work: W,
    depth: usize,
    state: Mutex<State<W>>,
    /// A batch is ready, or a thread has ended.
    ready: Condvar,
    /// There is room for another batch, or the queue is closed.
    room: Condvar,
}

struct State<W: Work> {
    queue: VecDeque<Cell<W>>,
    /// Number of the batch at the front of the queue.
    front: u64,
    /// Next part to be claimed, of the batch at the back of the queue.
    next_part: usize,
    closed: bool,
    running: usize,
}

enum Cell<W: Work> {
    Begun { parts: Vec<Option<W::Part>>, missing: usize },
    Ready(W::Batch),
}

impl<W: Work> Prefetch<W> {
    pub(super) fn start(work: W, threads: usize, depth: usize) -> io::Result<Self> {
        let state = State { queue: VecDeque::new(), front: 0, next_part: 0, closed: false, running: 0 };
        let (ready, room) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { work, depth, state: Mutex::new(state), ready, room });
        // Built before the threads, so that a failed start stops those already running.
        let mut prefetch = Prefetch { shared: shared.clone(), threads: Vec::with_capacity(threads) };
        for number in 0..threads {
            let shared = shared.clone();
            let builder = thread::Builder::new().name(format!("loader-{number}"));
            // Counted before it can count itself out, and not counted when it never was.
            prefetch.shared.lock().running += 1;
            match builder.spawn(move || run_thread(&shared)) {
                Ok(thread) => prefetch.threads.push(thread),
                Err(error) => {
                    prefetch.shared.lock().running -= 1;
                    return Err(error);
                }
            }
        }
        Ok(prefetch)
    }

    pub(super) fn work(&self) -> &W {
        &self.shared.work
    }

    /// The next batch in order, waiting for it; `None` after the last.
    pub(super) fn next(&mut self) -> Option<Result<W::Batch, ThreadsEnded>> {
        let mut state = self.shared.lock();
        if self.shared.work.num_batches().is_some_and(|end| state.front >= end) {
            return None;
        }
        loop {
            match state.queue.pop_front() {
                Some(Cell::Ready(batch)) => {
                    state.front += 1;
                    self.shared.room.notify_all();
                    return Some(Ok(batch));
                }
                Some(begun) => state.queue.push_front(begun),
                None => {}
            }
            if state.running == 0 {
                return Some(Err(ThreadsEnded));
            }
            state = self.shared.ready.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until [`next`](Self::next) would return at once, but no longer than `timeout`; false when it would
    /// not.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut state = self.shared.lock();
        loop {
            let is_over = self.shared.work.num_batches().is_some_and(|end| state.front >= end);
            if is_over || state.running == 0 || matches!(state.queue.front(), Some(Cell::Ready(_))) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self.shared.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Lets the threads finish the parts they are at, without waiting for them.
    pub(super) fn stop(&self) {
        self.shared.lock().closed = true;
        self.shared.room.notify_all();
    }

    /// Lets the threads finish the parts they are at and waits for them, up to `patience`; those that are not
    /// done by then are left behind, and end when they are.
    pub(super) fn close(&mut self, patience: Duration) {
        self.stop();
        let deadline = Instant::now() + patience;
        let mut state = self.shared.lock();
        while state.running > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let stuck = state.running;
                tracing::warn!(
                    "{stuck} loader threads are still reading after {patience:?} and are left behind"
                );
                self.threads.clear();
                return;
            }
            state = self.shared.ready.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(state);
        for thread in self.threads.drain(..) {
            // A panic has been printed by the thread and reported as `ThreadsEnded`.
            let _ = thread.join();
        }
    }
}

impl<W: Work> Drop for Prefetch<W> {
    fn drop(&mut self) {
        self.close(CLOSE_PATIENCE);
    }
}

impl<W: Work> Shared<W> {
    /// Nothing panics while the lock is held, so a poisoned state is a whole one.
    fn lock(&self) -> MutexGuard<'_, State<W>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next part to make, once there is room for it; `None` when there is nothing left to do.
    fn claim(&self) -> Option<(u64, usize)> {
        let num_parts = self.work.num_parts();
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if state.next_part == num_parts || (state.next_part == 0 && state.queue.is_empty()) {
                let batch = state.front + state.queue.len() as u64;
                if self.work.num_batches().is_some_and(|end| batch >= end) {
                    return None;
                }
                if state.queue.len() >= self.depth {
                    state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let parts = (0..num_parts).map(|_| None).collect();
                state.queue.push_back(Cell::Begun { parts, missing: num_parts });
                state.next_part = 0;
            }
            let claimed = (state.front + state.queue.len() as u64 - 1, state.next_part);
            state.next_part += 1;
            return Some(claimed);
        }
    }

    /// Puts a part in its place and gives back all of them when it was the last one missing.
    fn put(&self, batch: u64, part: usize, value: W::Part) -> Option<Vec<W::Part>> {
        let mut state = self.lock();
        let at = (batch - state.front) as usize;
        let Some(Cell::Begun { parts, missing }) = state.queue.get_mut(at) else { return None };
        parts[part] = Some(value);
        *missing -= 1;
        (*missing == 0).then(|| parts.drain(..).flatten().collect())
    }

    fn finish(&self, batch: u64, value: W::Batch) {
        let mut state = self.lock();
        let at = (batch - state.front) as usize;
        if let Some(cell) = state.queue.get_mut(at) {
            *cell = Cell::Ready(value);
        }
        self.ready.notify_all();
    }
}

fn run_thread<W: Work>(shared: &Shared<W>) {
    /// Counts the thread out however it ends, so that the consumer never waits for nobody.
    struct CountOut<'a, W: Work>(&'a Shared<W>);
    impl<W: Work> Drop for CountOut<'_, W> {
        fn drop(&mut self) {
            let mut state = self.0.lock();
            state.running -= 1;
            // A part that this thread took with it would never come: let the others end too.
            state.closed |= thread::panicking();
            drop(state);
            self.0.room.notify_all();
            self.0.ready.notify_all();
        }
    }

    let _count_out = CountOut(shared);
    while let Some((batch, part)) = shared.claim() {
        let value = shared.work.part(batch, part);
        if let Some(parts) = shared.put(batch, part, value) {
            shared.finish(batch, shared.work.assemble(batch, parts));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;

    /// Counts what exists: parts made and batches handed over.
    #[derive(Default)]
    struct Counting {
        end: Option<u64>,
        made: AtomicUsize,
        furthest: AtomicU64,
        panic_at: Option<u64>,
    }

    impl Work for Counting {
        type Part = (u64, usize);
        type Batch = Vec<(u64, usize)>;

        fn num_batches(&self) -> Option<u64> {
            self.end
        }

        fn num_parts(&self) -> usize {
            3
        }

        fn part(&self, batch: u64, part: usize) -> (u64, usize) {
            self.made.fetch_add(1, Ordering::SeqCst);
            self.furthest.fetch_max(batch, Ordering::SeqCst);
            assert_ne!(self.panic_at, Some(batch), "asked to panic");
            (batch, part)
        }

        fn assemble(&self, _: u64, parts: Vec<(u64, usize)>) -> Vec<(u64, usize)> {
            parts
        }
    }

    #[test]
    fn batches_come_in_order_and_end() {
        for threads in [1, 2, 7] {
            let work = Counting { end: Some(50), ..Counting::default() };
            let mut prefetch = Prefetch::start(work, threads, 2).unwrap();
            for batch in 0..50 {
                let parts = prefetch.next().unwrap().unwrap();
                assert_eq!(parts, [(batch, 0), (batch, 1), (batch, 2)]);
                assert!(prefetch.work().furthest.load(Ordering::SeqCst) <= batch + 2);
            }
            assert!(prefetch.next().is_none());
            assert_eq!(prefetch.work().made.load(Ordering::SeqCst), 150);
        }
    }

    #[test]
    fn closing_an_endless_queue_ends_its_threads() {
        let mut prefetch = Prefetch::start(Counting::default(), 3, 4).unwrap();
        prefetch.next().unwrap().unwrap();
        prefetch.close(CLOSE_PATIENCE);
        assert_eq!(prefetch.shared.lock().running, 0);
        assert!(prefetch.work().furthest.load(Ordering::SeqCst) <= 4);
    }

    #[test]
    fn a_thread_that_dies_is_an_error_and_no_hang() {
        for threads in [1, 4] {
            let work = Counting { panic_at: Some(2), ..Counting::default() };
            let mut prefetch = Prefetch::start(work, threads, 2).unwrap();
            assert!(prefetch.next().unwrap().is_ok());
            assert!(prefetch.next().unwrap().is_ok());
            assert!(prefetch.next().unwrap().is_err());
            assert!(prefetch.next().unwrap().is_err());
        }
    }

    /// Parts that come when they are let go, or never.
    struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Work for Stuck {
        type Part = ();
        type Batch = ();

        fn num_batches(&self) -> Option<u64> {
            None
        }

        fn num_parts(&self) -> usize {
            1
        }

        fn part(&self, _: u64, _: usize) {
            // An error says that the test is over.
            let _ = self.0.lock().unwrap().recv();
        }

        fn assemble(&self, _: u64, _: Vec<()>) {}
    }

    #[test]
    fn waiting_has_an_end_and_closing_leaves_a_stuck_thread_behind() {
        let (go, gone) = std::sync::mpsc::channel();
        let mut prefetch = Prefetch::start(Stuck(Mutex::new(gone)), 2, 1).unwrap();
        assert!(!prefetch.wait(Duration::from_millis(20)));
        go.send(()).unwrap();
        assert!(prefetch.wait(Duration::from_secs(60)));
        prefetch.next().unwrap().unwrap();
        let began = Instant::now();
        prefetch.close(Duration::from_millis(20));
        assert!(began.elapsed() < Duration::from_secs(30));
        drop(go);
    }
}
