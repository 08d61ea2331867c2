//! The loop.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::page::{Gallery, write_page};
use super::prepare::{Prepared, Progress as SavedProgress, prepare, step_arrays};
use super::step::METRICS;
use super::timing::Timing;
use serde_json::Value as Json;

use super::{Error, NotFinite, StateCopy, TrainState};
use crate::array::HostArray;
use crate::checkpoint::{self, AsyncSaver};
use crate::config::{Loaded, When, itstime};
use crate::data::{Batch, mix};
use crate::eval::{self, Evaluation, Shared};
use crate::report::console::{Console, Progress, Status};
use crate::report::events::EventWriter;
use crate::report::metrics::MetricsWriter;
use crate::report::units::number;
use crate::runtime::{Buffer, Download};
use crate::setup;

/// A training to run.
pub struct Request<'a> {
    pub loaded: &'a Loaded,
    pub workdir: &'a Path,
    pub console: &'a Console,
    /// Set from outside to stop after the step under way and save.
    pub interrupt: &'a AtomicBool,
    /// Where to write the step's program as text.
    pub dump_hlo: Option<&'a Path>,
    /// When the process began.
    pub process_start: Instant,
}

/// How a training ended.
#[derive(Debug)]
pub struct Ended {
    pub step: u64,
    pub interrupted: bool,
    /// Whether a metric ended it before its last step.
    pub stopped_early: bool,
    /// The metric of which the best checkpoint is kept, its best value, and the step of that.
    pub best: Option<(String, f64, u64)>,
    /// The last value of every metric, in the order of their first appearance.
    pub metrics: Vec<(String, f64)>,
    /// Seconds from the start of the first step of this session to its end.
    pub secs: f64,
}

/// Steps that may be under way on the device before the host waits for one of them: enough to keep the
/// device busy, few enough to bound memory.
const MAX_IN_FLIGHT: usize = 2;

/// How long a wait for input goes on before it looks for an interrupt, and before it is told of.
const WAIT_POLL: Duration = Duration::from_millis(100);
const WAIT_TOLD_EVERY: Duration = Duration::from_secs(30);

/// Trains to the end of the config, or to an interrupt; resumes what the workdir holds.
pub fn train(request: &Request<'_>) -> Result<Ended, Error> {
    let prepared = prepare(request)?;
    let mut run = Run::new(request, prepared)?;
    run.steps()?;
    run.finish()
}

/// A step whose measurements have not been read.
struct Pending {
    step: u64,
    metrics: Download,
    /// Position in the data after its batch.
    position: u64,
    /// Rows passed over until then.
    num_skipped: u64,
    /// Values of the schedules that its update was scaled by.
    schedules: Vec<f64>,
}

/// A checkpoint whose arrays are on their way from the device. It is written once the measurements of its step
/// have been seen: that of a run that went wrong would be the one that it resumes from.
struct PendingSave {
    step: u64,
    copy: StateCopy,
    progress: SavedProgress,
    watch: Json,
    keep: bool,
    /// How long it has kept the loop from its steps.
    stall: Duration,
}

struct Run<'a> {
    request: &'a Request<'a>,
    prepared: Prepared,
    /// Always there between steps: a step takes it and gives the next one.
    state: Option<TrainState>,
    evaluations: Vec<Evaluation>,
    gallery: Gallery,
    saver: AsyncSaver,
    metrics: MetricsWriter,
    events: Option<EventWriter>,
    pending: VecDeque<Pending>,
    pending_save: Option<PendingSave>,
    /// How long checkpoints have kept the loop from its steps since the last row of metrics, if any was made.
    ckpt_stall: Option<Duration>,
    latest: Vec<(String, f64)>,
    step: u64,
    position: u64,
    num_skipped: u64,
    saved_step: Option<u64>,
    /// Whether that is kept for good.
    saved_for_good: bool,
    /// The evaluation of this step was the best so far, and nothing says so yet.
    is_best: bool,
    first_step_at: Instant,
    /// Waiting for input before the first step, while the program was compiled.
    waited_before: Duration,
    pace: Pace,
    timing: Timing,
    interrupted: bool,
}

/// Speed since the last report.
struct Pace {
    since: Instant,
    step: u64,
    waited: Duration,
}

impl<'a> Run<'a> {
    fn new(request: &'a Request<'a>, mut prepared: Prepared) -> Result<Self, Error> {
        let Request { loaded, workdir, .. } = request;
        let config = &loaded.config;
        let path = workdir.join("config.yaml");
        std::fs::write(&path, loaded.to_yaml()).map_err(|source| Error::Write { path, source })?;
        let metrics_path = workdir.join("metrics.jsonl");
        let done = prepared.progress.step;
        let metrics = match done {
            0 => MetricsWriter::create(metrics_path)?,
            step => MetricsWriter::resume(metrics_path, step)?,
        };
        let events = match config.report.tensorboard {
            true => Some(EventWriter::create(workdir, (done > 0).then_some(done))?),
            false => None,
        };
        let mut evaluations = Vec::new();
        if !config.evals.is_empty() {
            let tokenizer = setup::tokenizer(loaded)?;
            let device = &prepared.client.devices()[0];
            let (model, env) = (&prepared.model, &prepared.env);
            let num_pictures = config.report.examples;
            let shared = Shared { loaded, model, device, env, tokenizer: &tokenizer, num_pictures };
            for (name, spec) in config.evals.iter() {
                evaluations.push(Evaluation::new(name, spec, &shared)?);
            }
        }
        let now = Instant::now();
        let mut timing = Timing::new(request.process_start);
        timing.compile_secs = prepared.compile_secs;
        let state = prepared.take_state();
        let (saved_step, saved_for_good) = (prepared.is_saved.then_some(done), prepared.is_kept);
        Ok(Run {
            request,
            saver: AsyncSaver::new(prepared.store.clone(), prepared.frozen.take()),
            position: prepared.progress.position,
            num_skipped: prepared.progress.num_skipped,
            gallery: Gallery::load(workdir),
            prepared,
            state,
            evaluations,
            metrics,
            events,
            pending: VecDeque::new(),
            pending_save: None,
            ckpt_stall: None,
            latest: Vec::new(),
            step: done,
            saved_step,
            saved_for_good,
            is_best: false,
            first_step_at: now,
            waited_before: Duration::ZERO,
            pace: Pace { since: now, step: done, waited: Duration::ZERO },
            timing,
            interrupted: false,
        })
    }

    fn steps(&mut self) -> Result<(), Error> {
        let total = self.prepared.total_steps;
        if self.step == 0 {
            self.evaluate(|evaluation, _| !evaluation.spec.skip_first)?;
        }
        let progress = self.request.console.progress("training", self.step, total);
        self.first_step_at = Instant::now();
        let waited = self.prepared.loader.stats().waited;
        self.waited_before = waited;
        self.pace = Pace { since: Instant::now(), step: self.step, waited };
        let mut next = self.prepared.take_first_batch();
        while self.step < total && !self.prepared.watch.is_over() {
            if self.request.interrupt.load(Ordering::Relaxed) {
                self.interrupted = true;
                break;
            }
            let batch = match next.take() {
                Some(batch) => batch,
                None => match self.next_batch()? {
                    Some(batch) => batch,
                    None => continue,
                },
            };
            self.start_step(batch)?;
            while self.pending.len() > MAX_IN_FLIGHT {
                self.report_oldest(&progress)?;
            }
            self.report_ready(&progress)?;
            let evaluates = self.step < total && self.is_any_evaluation_due();
            // What an evaluation decides belongs to the state that is saved. One that decides nothing runs while the
            // state is being written.
            let is_first = evaluates && self.prepared.watch.decides();
            if is_first {
                self.evaluate_due(&progress)?;
            }
            self.save_if_due(&progress)?;
            if evaluates && !is_first {
                self.evaluate_due(&progress)?;
            }
        }
        self.report_all(&progress)
    }

    fn evaluate_due(&mut self, progress: &Progress) -> Result<(), Error> {
        self.report_all(progress)?;
        let step = self.step;
        self.evaluate(|evaluation, run| run.is_due(evaluation, step))?;
        self.pace.since = Instant::now();
        self.pace.step = self.step;
        Ok(())
    }

    /// The next batch; `None` when it was not there and the wait was interrupted.
    fn next_batch(&mut self) -> Result<Option<Batch>, Error> {
        let began = Instant::now();
        let mut tell_at = WAIT_TOLD_EVERY;
        while !self.prepared.loader.wait(WAIT_POLL) {
            if self.request.interrupt.load(Ordering::Relaxed) {
                return Ok(None);
            }
            if began.elapsed() >= tell_at {
                let secs = began.elapsed().as_secs();
                tracing::warn!(step = self.step + 1, "waiting for training data for {secs} s");
                tell_at += WAIT_TOLD_EVERY;
            }
        }
        Ok(Some(self.prepared.loader.next().ok_or(Error::NoMoreData)??))
    }

    /// Sends a batch and starts a step on it, without waiting.
    fn start_step(&mut self, batch: Batch) -> Result<(), Error> {
        let device = self.prepared.client.devices()[0].clone();
        let position = batch.position_after;
        self.num_skipped += batch.num_skipped;
        let upload = |array: HostArray| self.prepared.client.upload_owned(array, &device);
        let arrays = step_arrays(batch)?.into_iter().map(upload).collect::<Result<Vec<Buffer>, _>>()?;
        let values = self.prepared.schedules.scaled_values(self.step, self.prepared.watch.scale());
        let scaled = values.to_f64();
        let schedules = upload(values)?;
        let dropout = match self.prepared.step.has_dropout {
            // Every step has a stream of its own, whatever came before it.
            true => {
                let key = mix(self.request.loaded.config.seed, self.step);
                let parts = self.prepared.step.micro_batches as u64;
                let of_parts: Vec<u64> = (0..parts).flat_map(|part| [mix(key, part), self.step]).collect();
                Some(upload(match parts {
                    1 => HostArray::new([2], &[key, self.step])?,
                    _ => HostArray::new([parts as usize, 2], &of_parts)?,
                })?)
            }
            false => None,
        };
        let state = self.state.take().expect("the state is there between steps");
        let (step, executable) = (&self.prepared.step, &self.prepared.executable);
        let (state, metrics) = state.step(step, executable, arrays, schedules, dropout)?;
        self.state = Some(state);
        self.step += 1;
        self.position = position;
        let metrics = metrics.start_download()?;
        let (step, num_skipped) = (self.step, self.num_skipped);
        self.pending.push_back(Pending { step, metrics, position, num_skipped, schedules: scaled });
        Ok(())
    }

    fn report_ready(&mut self, progress: &Progress) -> Result<(), Error> {
        while let Some(oldest) = self.pending.front()
            && oldest.metrics.is_ready()?
        {
            self.report_oldest(progress)?;
        }
        Ok(())
    }

    fn report_all(&mut self, progress: &Progress) -> Result<(), Error> {
        while !self.pending.is_empty() {
            self.report_oldest(progress)?;
        }
        Ok(())
    }

    /// Reads the measurements of the oldest step under way, waiting for it if need be.
    fn report_oldest(&mut self, progress: &Progress) -> Result<(), Error> {
        let Some(pending) = self.pending.pop_front() else {
            return Ok(());
        };
        let Pending { step, metrics, position, num_skipped, schedules } = pending;
        let values = metrics.wait()?.to_f64();
        self.timing.step_done();
        if let Some(found) = NotFinite::find(step, &values, self.prepared.optimizer.trained()) {
            return Err(found.with_batch(&self.prepared.loader, position, self.request.workdir));
        }
        self.report_step(step, &values, &schedules, num_skipped, progress)?;
        self.submit_if_seen()
    }

    /// `num_skipped` counts the rows passed over until this step.
    fn report_step(
        &mut self,
        step: u64,
        values: &[f64],
        schedules: &[f64],
        num_skipped: u64,
        progress: &Progress,
    ) -> Result<(), Error> {
        let config = &self.request.loaded.config;
        let log_every = config.log_training.steps("log_training", self.prepared.horizon).ok().flatten();
        let (examples_per_sec, input_wait) = self.speed(step);
        let loss = values.first().copied();
        progress.update(Status { step, loss, examples_per_sec, input_wait });
        let is_first = step == self.prepared.progress.step + 1;
        if !is_first && !itstime(step, log_every, self.prepared.total_steps, When::default()) {
            return Ok(());
        }
        let mut row: Vec<(String, f64)> =
            METRICS.iter().map(|name| (*name).to_owned()).zip(values.iter().copied()).collect();
        for (i, &value) in schedules.iter().enumerate() {
            let suffix = if i == 0 { String::new() } else { i.to_string() };
            row.push((format!("global_schedule{suffix}"), value));
            row.push((format!("lr{suffix}"), value * config.lr));
        }
        let seen = (step * self.prepared.batch_size) as f64;
        row.push(("examples_seen".into(), seen));
        row.push(("epoch".into(), seen / self.prepared.data_size.max(1) as f64));
        for (stream, visits, epochs) in self.prepared.loader.visits(step * self.prepared.batch_size) {
            if !stream.name.is_empty() {
                row.push((format!("examples_seen_{}", stream.name), visits as f64));
                row.push((format!("epoch_{}", stream.name), epochs));
            }
        }
        if self.prepared.counts_skipped {
            row.push(("examples_skipped".into(), num_skipped as f64));
        }
        row.extend(examples_per_sec.map(|value| ("examples_per_sec".to_owned(), value)));
        row.extend(input_wait.map(|value| ("input_wait".to_owned(), value)));
        row.extend(self.take_ckpt_stall());
        self.pace = Pace { since: Instant::now(), step, waited: self.prepared.loader.stats().waited };
        self.record(step, row)
    }

    /// Examples per second and the share of time spent waiting for input, since the last report.
    fn speed(&self, step: u64) -> (Option<f64>, Option<f64>) {
        let secs = self.pace.since.elapsed().as_secs_f64();
        if step <= self.pace.step || secs == 0.0 {
            return (None, None);
        }
        let examples = ((step - self.pace.step) * self.prepared.batch_size) as f64;
        let waited = self.prepared.loader.stats().waited.saturating_sub(self.pace.waited).as_secs_f64();
        (Some(examples / secs), Some((waited / secs).clamp(0.0, 1.0)))
    }

    fn take_ckpt_stall(&mut self) -> Option<(String, f64)> {
        Some(("z/secs/ckpt_stall".to_owned(), self.ckpt_stall.take()?.as_secs_f64()))
    }

    fn record(&mut self, step: u64, row: Vec<(String, f64)>) -> Result<(), Error> {
        let borrowed = || row.iter().map(|(name, value)| (name.as_str(), *value));
        self.metrics.write(step, borrowed())?;
        if let Some(events) = &mut self.events {
            events.write(step, borrowed())?;
        }
        for (name, value) in row {
            match self.latest.iter_mut().find(|(known, _)| *known == name) {
                Some((_, latest)) => *latest = value,
                None => self.latest.push((name, value)),
            }
        }
        Ok(())
    }

    fn is_due(&self, evaluation: &Evaluation, step: u64) -> bool {
        let every = evaluation.spec.log.steps("log", self.prepared.horizon).ok().flatten();
        itstime(step, every, self.prepared.total_steps, When { first: false, ..When::default() })
    }

    fn is_any_evaluation_due(&self) -> bool {
        self.evaluations.iter().any(|evaluation| self.is_due(evaluation, self.step))
    }

    fn evaluate(&mut self, is_wanted: impl Fn(&Evaluation, &Self) -> bool) -> Result<(), Error> {
        self.timing.interrupted();
        let mut evaluations = std::mem::take(&mut self.evaluations);
        let (mut names, mut found) = (Vec::new(), Vec::new());
        let result = evaluations.iter_mut().try_for_each(|evaluation| {
            if !is_wanted(evaluation, self) {
                return Ok(());
            }
            let started = Instant::now();
            let phase = self.request.console.phase(format!("evaluating {}", evaluation.name));
            let state = self.state.as_ref().expect("the state is there between steps");
            let outcome = evaluation.run(&state.params())?;
            let shown: Vec<String> =
                outcome.metrics.iter().map(|(name, value)| format!("{name} {}", number(*value))).collect();
            phase.done(&shown.join(", "));
            let most = self.request.loaded.config.report.examples;
            self.gallery.add(&evaluation.name, self.step, &outcome, most);
            eval::write(evaluation, &outcome, &self.step.to_string(), Some(self.request.workdir))?;
            names.push(evaluation.name.clone());
            found.extend(outcome.metrics.iter().cloned());
            let mut row = outcome.metrics;
            row.push((format!("z/secs/eval/{}", evaluation.name), started.elapsed().as_secs_f64()));
            self.record(self.step, row)
        });
        self.evaluations = evaluations;
        result?;
        self.take_note(&names, &found)
    }

    /// Lets metrics decide. Before the first step there is nothing to decide.
    fn take_note(&mut self, names: &[String], found: &[(String, f64)]) -> Result<(), Error> {
        if self.step == 0 {
            return Ok(());
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let seen = self.prepared.watch.see(self.step, &names, found)?;
        self.is_best |= seen.is_best;
        seen.notes.iter().for_each(|note| self.request.console.line(note));
        Ok(())
    }

    fn save_if_due(&mut self, progress: &Progress) -> Result<(), Error> {
        let config = &self.request.loaded.config;
        let steps = |name: &str, duration: &crate::config::Duration| {
            duration.steps(name, self.prepared.horizon).ok().flatten()
        };
        let total = self.prepared.total_steps;
        let keep = steps("keep_ckpt", &config.keep_ckpt);
        let when = When { first: false, last: false, ..When::default() };
        let is_kept = itstime(self.step, keep, total, When { drop_close_to_last: 0.0, ..when });
        if is_kept || self.is_best || itstime(self.step, steps("ckpt", &config.ckpt), total, when) {
            while self.pending_save.is_some() {
                self.report_oldest(progress)?;
            }
            self.start_save(is_kept)?;
        }
        self.point_at_best()
    }

    /// Names the checkpoint of this step, which is there or being written, as the best one, if it is that.
    fn point_at_best(&mut self) -> Result<(), Error> {
        if std::mem::take(&mut self.is_best) {
            self.saver.wait()?;
            self.prepared.store.set_best(self.step)?;
        }
        Ok(())
    }

    /// Starts to copy the state to the host. Copying and writing go on beside the next steps.
    fn start_save(&mut self, keep: bool) -> Result<(), Error> {
        let started = Instant::now();
        // No more than one copy of the state is in memory.
        self.saver.wait()?;
        let copy = self.state.as_ref().expect("the state is there between steps").start_copy()?;
        let progress = SavedProgress {
            step: self.step,
            position: self.position,
            num_skipped: self.num_skipped,
            trained_secs: self.prepared.progress.trained_secs + self.first_step_at.elapsed().as_secs_f64(),
        };
        let stall = started.elapsed();
        let watch = self.prepared.watch.memory();
        self.pending_save = Some(PendingSave { step: self.step, copy, progress, watch, keep, stall });
        (self.saved_step, self.saved_for_good) = (Some(self.step), keep);
        self.submit_if_seen()
    }

    /// Hands the pending checkpoint to the thread that writes it, unless its step is still under way.
    fn submit_if_seen(&mut self) -> Result<(), Error> {
        let first_unseen = self.pending.front().map_or(self.step + 1, |oldest| oldest.step);
        let Some(save) = self.pending_save.take_if(|save| save.step < first_unseen) else { return Ok(()) };
        let started = Instant::now();
        let Prepared { data_size, data, .. } = &self.prepared;
        let json = save.progress.to_json(self.request.loaded.config.seed, *data_size, data, save.watch);
        self.gallery.save(self.request.workdir)?;
        let arrays = || save.copy.wait().map_err(|error| checkpoint::Error::State(error.into()));
        self.saver.submit(save.step, arrays, json, save.keep)?;
        *self.ckpt_stall.get_or_insert_default() += save.stall + started.elapsed();
        Ok(())
    }

    fn finish(mut self) -> Result<Ended, Error> {
        let secs = self.first_step_at.elapsed().as_secs_f64();
        if self.saved_step != Some(self.step) {
            self.start_save(false)?;
        }
        self.saver.wait()?;
        let total = self.prepared.total_steps;
        let stopped_early = self.step < total && self.prepared.watch.is_over();
        if !self.interrupted {
            // A metric that ends a run has just been measured.
            let is_known =
                |evaluation: &Evaluation, run: &Self| stopped_early && run.is_due(evaluation, run.step);
            self.evaluate(|evaluation, run| !is_known(evaluation, run))?;
            self.gallery.save(self.request.workdir)?;
            if self.prepared.watch.decides() && self.step > 0 {
                // A longer training that goes on from here is to know of these evaluations too.
                self.start_save(self.saved_for_good)?;
                self.point_at_best()?;
                self.saver.wait()?;
            }
        }
        let mut timing = self.timing.metrics();
        timing.extend(self.take_ckpt_stall());
        let waited = self.prepared.loader.stats().waited.saturating_sub(self.waited_before).as_secs_f64();
        timing.push(("z/secs/input_wait".to_owned(), waited));
        self.record(self.step, timing)?;
        if self.request.loaded.config.report.html {
            let trained = self.prepared.optimizer.trained();
            let facts = super::page::Facts {
                loaded: self.request.loaded,
                client: &self.prepared.client,
                specs: &self.prepared.specs,
                num_trained: trained.iter().map(|param| param.shape.num_elements()).sum(),
                step: self.step,
                total_steps: self.prepared.total_steps,
                secs: self.prepared.progress.trained_secs + secs,
                metrics: &self.latest,
            };
            write_page(self.request.workdir, &facts, &self.gallery)?;
        }
        let best = self.prepared.watch.best().map(|(metric, value, step)| (metric.to_owned(), value, step));
        let (step, interrupted) = (self.step, self.interrupted);
        Ok(Ended { step, interrupted, stopped_early, best, metrics: self.latest, secs })
    }
}
