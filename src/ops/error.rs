//! What an operation refuses.

use crate::device::{self, DeviceMemory, Stream};

/// An argument that an operation cannot work with, or an error of the device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The argument, what it was, and what it should be.
    #[error("{argument} is {actual}; it should be {expected}")]
    Argument { argument: &'static str, actual: String, expected: String },
    #[error(transparent)]
    Device(#[from] device::Error),
}

/// The result of an operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Refuses `argument` unless `condition` holds.
pub(crate) fn require(
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

/// Refuses a buffer that has not exactly `expected` elements; `meaning` says what they are.
pub(crate) fn require_length(
    argument: &'static str,
    length: usize,
    expected: usize,
    meaning: &str,
) -> Result<()> {
    require(
        length == expected,
        argument,
        format_args!("{length} elements long"),
        format_args!("{expected} ({meaning})"),
    )
}

/// Refuses a workspace of fewer than `needed` elements.
pub(crate) fn require_workspace(length: usize, needed: usize) -> Result<()> {
    require(
        length >= needed,
        "workspace",
        format_args!("{length} elements long"),
        format_args!("at least {needed}"),
    )
}

/// Columns move in groups of 8, as 16-byte accesses of 16-bit elements.
pub(crate) const COLUMN_GROUP: usize = 8;

/// Refuses a row length that the kernels' wide accesses cannot handle.
pub(crate) fn require_columns(argument: &'static str, columns: usize) -> Result<()> {
    require(
        columns > 0 && columns.is_multiple_of(COLUMN_GROUP) && columns <= u32::MAX as usize,
        argument,
        columns,
        format_args!("a positive multiple of {COLUMN_GROUP}"),
    )
}

/// The address of an optional argument, 0 where it is absent.
pub(crate) fn optional<A: DeviceMemory>(
    stream: &Stream,
    argument: &'static str,
    memory: Option<&A>,
) -> Result<u64> {
    memory.map_or(Ok(0), |memory| Ok(stream.address(argument, memory)?))
}
