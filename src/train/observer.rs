//! Whoever watches a run.

use super::report::StepRecord;

/// Told of a run as it goes; the command line shows it, a test may collect it.
pub trait Observer {
    /// One line about what was read or will be done.
    fn note(&mut self, line: &str);
    /// Training begins after `done` of `total` steps.
    fn start(&mut self, done: u64, total: u64);
    fn step(&mut self, record: &StepRecord);
    /// Training is over; not called where it failed.
    fn finish(&mut self);
    /// Whether the run should end early, with a checkpoint to resume from: asked before anything is written, then
    /// between steps and between the batches of an evaluation. Until it has been asked, ending the process loses nothing.
    fn stop(&mut self) -> bool {
        false
    }
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn note(&mut self, _line: &str) {}
    fn start(&mut self, _done: u64, _total: u64) {}
    fn step(&mut self, _record: &StepRecord) {}
    fn finish(&mut self) {}
}
