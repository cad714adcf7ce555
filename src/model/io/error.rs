//! Errors of a model's files.

use std::path::PathBuf;

use crate::common::FileError;
use crate::ops;

/// An error of [`crate::model::io`]; each message states what was found and what was expected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("model configuration `{path}`: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error("weights `{path}`: {reason}")]
    Weights { path: PathBuf, reason: String },
    #[error("weights `{path}`: {tensor} would hold {value}, so it was not written; weights should be finite")]
    NonFiniteWeight { path: PathBuf, tensor: String, value: f32 },
    #[error(transparent)]
    Operation(#[from] ops::Error),
}

/// The result of reading or writing a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;
