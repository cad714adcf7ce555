//! Progress of a run on the terminal.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use retromae::train::{Observer, report::StepRecord};

use super::output::tell;
use super::signals::Signals;

/// Time between progress lines if there is no terminal to draw on.
pub const LINE_EVERY: Duration = Duration::from_secs(10);

/// Creates a bar without a length yet, on the standard error if that is a terminal.
pub fn bar(template: &str) -> Option<ProgressBar> {
    std::io::stderr().is_terminal().then(|| {
        let style = ProgressStyle::with_template(template);
        ProgressBar::no_length().with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
    })
}

/// Progress bar on a terminal, else a line now and then; all on the standard error.
pub struct Terminal {
    signals: Signals,
    deferred: bool,
    /// The user has been told that the run will end early.
    stopping: bool,
    bar: Option<ProgressBar>,
    total: u64,
    started: Option<(Instant, u64)>,
    last_line: Option<Instant>,
}

impl Terminal {
    pub fn new(signals: Signals) -> Self {
        Self {
            signals,
            deferred: false,
            stopping: false,
            bar: None,
            total: 0,
            started: None,
            last_line: None,
        }
    }

    fn losses(record: &StepRecord) -> String {
        let bag = record.bag_of_words_loss.map(|loss| format!("bag {loss:.3}  ")).unwrap_or_default();
        format!(
            "encoder {:.3} ({:.1} % right)  decoder {:.3} ({:.1} %)  {bag}{:.0} tokens/s  data wait {:.1} %",
            record.encoder_loss,
            100.0 * record.encoder_accuracy,
            record.decoder_loss,
            100.0 * record.decoder_accuracy,
            record.tokens_per_s,
            record.data_wait_percent()
        )
    }

    /// Returns the remaining time in seconds, from the speed of this process.
    fn time_left(&self, step: u64) -> Option<f64> {
        let (start, done) = self.started?;
        let per_step = start.elapsed().as_secs_f64() / step.checked_sub(done).filter(|&n| n > 0)? as f64;
        Some(per_step * self.total.saturating_sub(step) as f64)
    }
}

impl Observer for Terminal {
    fn note(&mut self, line: &str) {
        tell(line);
    }

    fn start(&mut self, done: u64, total: u64) {
        self.total = total;
        self.started = Some((Instant::now(), done));
        self.bar = bar("{bar:30.blue/dim} {pos}/{len}  {msg}  {eta} left");
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
            bar.reset_eta();
        }
    }

    fn step(&mut self, record: &StepRecord) {
        if let Some(bar) = &self.bar {
            bar.set_message(Self::losses(record));
            bar.set_position(record.step);
            return;
        }
        let due = self.last_line.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        if due || record.step == self.total {
            let left = self.time_left(record.step).unwrap_or(0.0);
            let losses = Self::losses(record);
            tell(&format!("step {}/{}  {losses}  {left:.0} s left", record.step, self.total));
            self.last_line = Some(Instant::now());
        }
    }

    fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            // Leaves the bar at its position, because a stopped run is not complete.
            bar.abandon();
        }
    }

    fn stop(&mut self) -> bool {
        if self.stopping {
            return true;
        }
        if !self.deferred {
            self.signals.defer();
            self.deferred = true;
        }
        let Some(signal) = self.signals.received() else { return false };
        self.stopping = true;
        let line =
            format!("{signal}: saving a checkpoint after the step under way; a second signal ends at once");
        match &self.bar {
            Some(bar) => bar.suspend(|| tell(&line)),
            None => tell(&line),
        }
        true
    }
}
