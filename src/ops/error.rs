//! Errors of operations.

use crate::device::{self, DeviceMemory, MatrixMemory, Stream};

/// An argument that an operation cannot work with, or an error of the device.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Name of the argument, its value, and what it should be.
    #[error("{argument} is {actual}; it should be {expected}")]
    Argument {
        /// Name of the argument
        argument: &'static str,
        /// Its value, or what it is like
        actual: String,
        /// Values that are right
        expected: String,
    },
    /// An argument that is right, but of a size, a type or a combination that no kernel is built for.
    #[error("{argument} is {actual}; it should be {expected}")]
    Unsupported {
        /// Name of the argument
        argument: &'static str,
        /// Its value, or what it is like
        actual: String,
        /// Values that are right
        expected: String,
    },
    /// An address or a row stride that the kernels' wide accesses cannot handle.
    #[error("{argument} is {actual}; it should be {expected}")]
    Misaligned {
        /// Name of the argument
        argument: &'static str,
        /// Its value, or what it is like
        actual: String,
        /// Values that are right
        expected: String,
    },
    /// An error of the device.
    #[error(transparent)]
    Device(#[from] device::Error),
}

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Refuses `argument` unless `condition` holds.
pub(crate) fn require(
    condition: bool,
    argument: &'static str,
    actual: impl ToString,
    expected: impl ToString,
) -> Result<()> {
    if condition { Ok(()) } else { wrong(argument, actual, expected) }
}

/// Refuses `argument`, given its value and what it should be.
pub(crate) fn wrong<T>(argument: &'static str, actual: impl ToString, expected: impl ToString) -> Result<T> {
    Err(Error::Argument { argument, actual: actual.to_string(), expected: expected.to_string() })
}

/// As [`require`], of what only other kernels could do.
pub(crate) fn require_supported(
    condition: bool,
    argument: &'static str,
    actual: impl ToString,
    expected: impl ToString,
) -> Result<()> {
    if condition {
        return Ok(());
    }
    Err(Error::Unsupported { argument, actual: actual.to_string(), expected: expected.to_string() })
}

/// As [`require`], of an address or a stride.
pub(crate) fn require_alignment(
    condition: bool,
    argument: &'static str,
    actual: impl ToString,
    expected: impl ToString,
) -> Result<()> {
    if condition {
        return Ok(());
    }
    Err(Error::Misaligned { argument, actual: actual.to_string(), expected: expected.to_string() })
}

/// Refuses a buffer that does not have exactly `expected` elements; `meaning` says what they are.
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

/// Refuses a matrix of another shape; `meaning` says what the sizes are.
pub(crate) fn require_shape<M: MatrixMemory>(
    argument: &'static str,
    matrix: &M,
    [rows, columns]: [usize; 2],
    meaning: &str,
) -> Result<()> {
    let shape = matrix.shape();
    require(
        (shape.rows, shape.columns) == (rows, columns),
        argument,
        format_args!("[{}, {}]", shape.rows, shape.columns),
        format_args!("[{rows}, {columns}] ({meaning})"),
    )
}

/// As [`require_shape`], where the argument is present.
pub(crate) fn require_optional_shape<M: MatrixMemory>(
    argument: &'static str,
    matrix: Option<&M>,
    shape: [usize; 2],
    meaning: &str,
) -> Result<()> {
    matrix.map_or(Ok(()), |matrix| require_shape(argument, matrix, shape, meaning))
}

/// Alignment of accesses to rows, in bytes.
pub(crate) const ALIGNMENT: u64 = 16;

/// Columns move in groups of 8, as 16-byte accesses of 16-bit elements.
pub(crate) const COLUMN_GROUP: usize = 8;

/// Returns rows and columns of a matrix in the kernels' types. Refuses rows that their wide accesses cannot handle.
pub(crate) fn require_rows<M: MatrixMemory>(argument: &'static str, matrix: &M) -> Result<[u32; 2]> {
    let shape = matrix.shape();
    let actual = format_args!("[{}, {}]", shape.rows, shape.columns);
    require_supported(
        shape.columns > 0 && shape.columns.is_multiple_of(COLUMN_GROUP) && shape.columns <= u32::MAX as usize,
        argument,
        actual,
        format_args!("of a positive multiple of {COLUMN_GROUP} columns"),
    )?;
    require_supported(shape.rows <= i32::MAX as usize, argument, actual, "of below 2^31 rows")?;
    Ok([shape.rows as u32, shape.columns as u32])
}

/// Returns a number of elements in the kernels' type.
pub(crate) fn require_count(argument: &'static str, length: usize) -> Result<u32> {
    require_supported(
        i32::try_from(length).is_ok(),
        argument,
        format_args!("{length} elements long"),
        "of below 2^31 elements",
    )?;
    Ok(length as u32)
}

/// Refuses an `eps` that LayerNorm cannot add to a variance.
pub(crate) fn require_eps(eps: f32) -> Result<()> {
    require(eps > 0.0 && eps.is_finite(), "eps", eps, "positive and finite")
}

/// Refuses an address that the kernels' 16-byte accesses cannot handle.
pub(crate) fn require_aligned(argument: &'static str, address: u64) -> Result<()> {
    require_alignment(
        address.is_multiple_of(ALIGNMENT),
        argument,
        format_args!("at an address of {} modulo {ALIGNMENT} bytes", address % ALIGNMENT),
        format_args!("aligned to {ALIGNMENT} bytes"),
    )
}

/// Returns the address of an argument that is accessed 16 bytes at a time.
pub(crate) fn aligned<A: DeviceMemory>(stream: &Stream, argument: &'static str, memory: &A) -> Result<u64> {
    let address = stream.address(argument, memory)?;
    if !memory.is_empty() {
        require_aligned(argument, address)?;
    }
    Ok(address)
}

/// Refuses a matrix with gaps between its rows.
pub(crate) fn require_contiguous<M: MatrixMemory>(argument: &'static str, matrix: &M) -> Result<()> {
    let shape = matrix.shape();
    require_supported(
        shape.is_contiguous(),
        argument,
        format_args!("strided by {} elements", shape.stride),
        format_args!("contiguous rows of {} columns", shape.columns),
    )
}

/// Returns the address of a matrix whose rows are contiguous and accessed 16 bytes at a time.
pub(crate) fn contiguous<M: MatrixMemory>(
    stream: &Stream,
    argument: &'static str,
    matrix: &M,
) -> Result<u64> {
    require_contiguous(argument, matrix)?;
    aligned(stream, argument, matrix)
}

/// Returns the address of a matrix whose rows may be strided and are accessed 16 bytes at a time.
pub(crate) fn aligned_rows<M: MatrixMemory>(
    stream: &Stream,
    argument: &'static str,
    matrix: &M,
) -> Result<u64> {
    let shape = matrix.shape();
    require_alignment(
        shape.is_contiguous()
            || shape.stride.is_multiple_of(COLUMN_GROUP) && shape.stride <= u32::MAX as usize,
        argument,
        format_args!("strided by {} elements", shape.stride),
        format_args!("strided by a multiple of {COLUMN_GROUP} below 2^32"),
    )?;
    aligned(stream, argument, matrix)
}

/// As [`contiguous`]; 0 where the argument is absent.
pub(crate) fn optional_contiguous<M: MatrixMemory>(
    stream: &Stream,
    argument: &'static str,
    matrix: Option<&M>,
) -> Result<u64> {
    matrix.map_or(Ok(0), |matrix| contiguous(stream, argument, matrix))
}

/// As [`aligned`]; 0 where the argument is absent.
pub(crate) fn optional_aligned<A: DeviceMemory>(
    stream: &Stream,
    argument: &'static str,
    memory: Option<&A>,
) -> Result<u64> {
    memory.map_or(Ok(0), |memory| aligned(stream, argument, memory))
}

/// Returns the address of an optional argument, 0 where it is absent.
pub(crate) fn optional<A: DeviceMemory>(
    stream: &Stream,
    argument: &'static str,
    memory: Option<&A>,
) -> Result<u64> {
    memory.map_or(Ok(0), |memory| Ok(stream.address(argument, memory)?))
}
