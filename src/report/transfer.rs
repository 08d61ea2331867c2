use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish};

use super::console::Console;
use super::units;

/// Bytes that go from one place to another, with a bar on a terminal. Dropping it removes the bar.
pub struct Transfer {
    console: Console,
    what: String,
    started: Instant,
    total_bytes: u64,
    bar: Option<ProgressBar>,
}

impl Console {
    /// Starts to show how `total_bytes` are moved.
    pub fn transfer(&self, what: impl Into<String>, total_bytes: u64) -> Transfer {
        const STYLE: &str = "{prefix} {wide_bar:.cyan/dim} {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  ETA {eta}";
        let what = what.into();
        let bar = self.add_bar(total_bytes, STYLE, ProgressFinish::AndClear);
        match &bar {
            Some(bar) => bar.set_prefix(what.clone()),
            None => self.line(&format!("{what} …")),
        }
        Transfer { console: self.clone(), what, started: Instant::now(), total_bytes, bar }
    }
}

impl Transfer {
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Takes the bar away and says how long it took and how fast it was.
    pub fn done(self) -> Duration {
        let took = self.started.elapsed();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let per_sec = self.total_bytes as f64 / took.as_secs_f64().max(1e-9);
        let (size, speed) =
            (units::binary_size(self.total_bytes as usize), units::binary_size(per_sec as usize));
        self.console.line(&format!("{}: {size} in {}, {speed}/s", self.what, units::duration(took)));
        took
    }
}

#[cfg(test)]
mod tests {
    use super::super::console::tests::terminal;

    #[test]
    fn a_transfer_shows_bytes_and_goes_when_it_is_done() {
        let (screen, console) = terminal();
        let transfer = console.transfer("converting", 4 << 20);
        transfer.advance(1 << 20);
        let shown = screen.contents();
        assert!(shown.contains("converting") && shown.contains("1.00 MiB/4.00 MiB"), "{shown}");
        transfer.done();
        assert!(!screen.contents().contains("/4.00 MiB"), "{}", screen.contents());
        drop(console.transfer("again", 10));
        assert!(!screen.contents().contains("again"), "{}", screen.contents());
    }
}
