//! Errors of a run.

use std::path::PathBuf;

use crate::model::io::{self, FileError};
use crate::{data, device, eval, ops};

/// An error of [`crate::train`]; each message states what was given and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option is out of its range.
    #[error("{argument} was {actual}; it should be {expected}")]
    Argument {
        /// The field of [`Options`](super::Options).
        argument: &'static str,
        /// Its value.
        actual: String,
        /// The values that are allowed.
        expected: String,
    },
    /// An error of the corpus, the tokenizer or the store.
    #[error(transparent)]
    Data(#[from] data::Error),
    /// An error of an operation.
    #[error(transparent)]
    Operation(#[from] ops::Error),
    /// An error of the device.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// An error of the training log or the plot.
    #[error(transparent)]
    Report(#[from] super::report::Error),
    /// An error of the retrieval check.
    #[error(transparent)]
    Retrieval(#[from] eval::EmbedError),
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An error of the model's files.
    #[error(transparent)]
    Model(#[from] io::Error),
    /// A configuration of a model does not fit the run or the files beside it.
    #[error("model configuration `{path}`: {reason}")]
    ModelConfig {
        /// Path of the configuration.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A new run was to be written into a directory with other files.
    #[error(
        "out `{path}` exists and is not empty; it should be another directory, unless resume goes on with its run or overwrite drops it"
    )]
    OutNotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A run without a checkpoint was to be resumed.
    #[error("resume found no checkpoint: `{path}` does not exist; without resume a new run is started")]
    NothingToResume {
        /// The file that a checkpoint has.
        path: PathBuf,
    },
    /// A checkpoint is malformed, damaged, or of another version.
    #[error("checkpoint `{path}`: {reason}; it cannot be resumed from")]
    Checkpoint {
        /// Path of its file.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A run was to be resumed with other options.
    #[error("{argument} is {given}, but the run to resume has {saved}; they should be the same")]
    ResumeArgument {
        /// The field of [`Options`](super::Options).
        argument: String,
        /// Its value now.
        given: String,
        /// Its value in the checkpoint.
        saved: String,
    },
    /// A loss, the norm of the gradients or a weight is infinite or NaN.
    #[error(
        "the {what} of step {step} is {value}, so training stopped; {kept}; a lower learning_rate may help"
    )]
    NonFinite {
        /// Name of the quantity.
        what: String,
        /// Its value.
        value: f32,
        /// Steps done before.
        step: u64,
        /// The checkpoint that is left.
        kept: String,
    },
    /// The thread that samples batches panicked.
    #[error("the thread that samples batches ended early, at step {step}")]
    DataThread {
        /// Number of the step whose batch is missing.
        step: u64,
    },
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
