//! Errors of a model's files.

use std::path::PathBuf;

use crate::common::FileError;
use crate::ops;

/// An error of [`crate::model::io`]; each message states what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The configuration is malformed, or a size is out of its range.
    #[error("model configuration `{path}`: {reason}")]
    Config {
        /// Path of the file.
        path: PathBuf,
        /// The field, its value, and what it should be.
        reason: String,
    },
    /// The file is no safetensors file, or its tensors do not fit the model.
    #[error("weights `{path}`: {reason}")]
    Weights {
        /// Path of the file.
        path: PathBuf,
        /// The tensor, its shape or type, and what it should be.
        reason: String,
    },
    /// A weight to write is infinite or NaN; the file is left as it was.
    #[error("weights `{path}`: {tensor} would hold {value}, so it was not written; weights should be finite")]
    NonFiniteWeight {
        /// Path of the file that was to be written.
        path: PathBuf,
        /// Name of the parameter.
        tensor: String,
        /// The first such weight.
        value: f32,
    },
    /// An error of the device or of an operation.
    #[error(transparent)]
    Operation(#[from] ops::Error),
}

/// The result of reading or writing a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;
