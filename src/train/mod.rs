//! Pre-training: the schedule and the record of a run.

pub mod report;
pub mod schedule;
