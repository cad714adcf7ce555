//! Observers of a run.

use super::report::StepRecord;

/// Receives the progress of a run; the command line shows it, a test may collect it.
pub trait Observer {
    /// Reports one line about data that was read or work that follows.
    fn note(&mut self, line: &str);
    /// Reports the start of training, after `done` of `total` steps.
    fn start(&mut self, done: u64, total: u64);
    /// Reports a step, after its record was written to the log.
    fn step(&mut self, record: &StepRecord);
    /// Reports the end of training; not called when it failed.
    fn finish(&mut self);
    /// Returns true to end the run early, with a checkpoint to resume from. Called before anything is written, then
    /// between steps and between the batches of an evaluation. Until the first call, ending the process loses nothing.
    fn stop(&mut self) -> bool {
        false
    }
}

/// An observer that ignores everything.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Observer for Silent {
    fn note(&mut self, _line: &str) {}
    fn start(&mut self, _done: u64, _total: u64) {}
    fn step(&mut self, _record: &StepRecord) {}
    fn finish(&mut self) {}
}
