//! How long things took and how much memory they needed, for the summary and for comparisons.

use std::time::Instant;

/// Times of one session.
#[derive(Debug)]
pub(super) struct Timing {
    process_start: Instant,
    pub compile_secs: f64,
    start_to_first_step_secs: Option<f64>,
    last_step: Option<Instant>,
    /// Between the ends of steps that followed each other without an evaluation.
    step_secs: Vec<f64>,
}

impl Timing {
    pub fn new(process_start: Instant) -> Self {
        Timing {
            process_start,
            compile_secs: 0.0,
            start_to_first_step_secs: None,
            last_step: None,
            step_secs: Vec::new(),
        }
    }

    /// The results of a step have been seen.
    pub fn step_done(&mut self) {
        let now = Instant::now();
        if let Some(last) = self.last_step.replace(now) {
            self.step_secs.push((now - last).as_secs_f64());
        }
        self.start_to_first_step_secs.get_or_insert((now - self.process_start).as_secs_f64());
    }

    /// Something else than a step took time.
    pub fn interrupted(&mut self) {
        self.last_step = None;
    }

    /// What is known, under the names of metrics.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        let mut sorted = self.step_secs.clone();
        sorted.sort_by(f64::total_cmp);
        // The last step may be done by the time that the one before it is seen, so one interval says nothing.
        let median = (sorted.len() > 1).then(|| sorted[sorted.len() / 2]);
        let rows = [
            ("z/secs/start_to_first_step", self.start_to_first_step_secs),
            ("z/secs/compile", Some(self.compile_secs)),
            ("z/secs/step_median", median),
            ("z/peak_rss_mb", peak_rss_mb()),
        ];
        rows.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }
}

/// The most memory that this process has had resident, in MB (1e6 bytes), where the system tells.
fn peak_rss_mb() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024.0 / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_measured_between_their_ends_and_not_across_interruptions() {
        let mut timing = Timing::new(Instant::now());
        for _ in 0..3 {
            timing.step_done();
        }
        timing.interrupted();
        timing.step_done();
        assert_eq!(timing.step_secs.len(), 2);
        assert_eq!(names(&timing), ["z/secs/start_to_first_step", "z/secs/compile", "z/secs/step_median"]);
    }

    #[test]
    fn a_single_interval_is_no_median() {
        let mut timing = Timing::new(Instant::now());
        timing.step_done();
        timing.step_done();
        assert_eq!(names(&timing), ["z/secs/start_to_first_step", "z/secs/compile"]);
    }

    /// Of the metrics that every system tells.
    fn names(timing: &Timing) -> Vec<String> {
        let names = timing.metrics().into_iter().map(|(name, _)| name);
        names.filter(|name| name != "z/peak_rss_mb").collect()
    }
}
