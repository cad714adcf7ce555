//! Errors of a run.

use std::path::PathBuf;

use crate::model::io::{self, FileError};
use crate::{data, device, eval, ops};

/// An error of [`crate::train`]; each message states what was given and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{argument} was {actual}; it should be {expected}")]
    Argument { argument: &'static str, actual: String, expected: String },
    #[error(transparent)]
    Data(#[from] data::Error),
    #[error(transparent)]
    Operation(#[from] ops::Error),
    #[error(transparent)]
    Device(#[from] device::Error),
    #[error(transparent)]
    Report(#[from] super::report::Error),
    #[error(transparent)]
    Retrieval(#[from] eval::EmbedError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Model(#[from] io::Error),
    #[error("model configuration `{path}`: {reason}")]
    ModelConfig { path: PathBuf, reason: String },
    #[error(
        "out `{path}` exists and is not empty; it should be another directory, unless resume goes on with its run or overwrite drops it"
    )]
    OutNotEmpty { path: PathBuf },
    #[error("resume found no checkpoint: `{path}` does not exist; without resume a new run is started")]
    NothingToResume { path: PathBuf },
    #[error("checkpoint `{path}`: {reason}; it cannot be resumed from")]
    Checkpoint { path: PathBuf, reason: String },
    #[error("{argument} is {given}, but the run to resume has {saved}; they should be the same")]
    ResumeArgument { argument: String, given: String, saved: String },
    #[error(
        "the {what} of step {step} is {value}, so training stopped; {kept}; a lower learning_rate may help"
    )]
    NonFinite { what: String, value: f32, step: u64, kept: String },
    #[error("the thread that samples batches ended early, at step {step}")]
    DataThread { step: u64 },
}

/// Result with an error of a run.
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses the value of `argument` unless `condition` holds.
pub(super) fn require(
    condition: bool,
    argument: &'static str,
    actual: impl ToString,
    expected: impl ToString,
) -> Result<()> {
    if condition {
        return Ok(());
    }
    Err(Error::Argument { argument, actual: actual.to_string(), expected: expected.to_string() })
}
