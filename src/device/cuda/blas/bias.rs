//! Addends: the initial values of a result that a GEMM is added to.

use cudarc::driver::{result, sys};

use crate::device::Gemm;

type Status = Result<(), result::DriverError>;

/// Writes the addend of a GEMM that is accumulated onto it, or has empty sums (k = 0): the bias in every row, else zeros.
///
/// # Safety
/// The bias and the result are valid for their shapes, and the stream is alive.
pub(super) unsafe fn write_addend(gemm: &Gemm, stream: sys::CUstream) -> Status {
    let element = gemm.output.bytes();
    let row_bytes = gemm.n * element;
    if let Some(bias) = gemm.bias {
        // SAFETY: passed on to the caller.
        return unsafe { repeat_rows(bias, gemm, row_bytes, stream) };
    }
    for index in 0..gemm.batch.count {
        let c = gemm.c + (index * gemm.batch.c_stride * element) as u64;
        // SAFETY: m rows of n elements.
        unsafe { sys::cuMemsetD2D8Async(c, gemm.c_stride * element, 0, row_bytes, gemm.m, stream) }
            .result()?;
    }
    Ok(())
}

/// Copies the bias to every row of the result.
///
/// # Safety
/// As [`write_addend`].
unsafe fn repeat_rows(bias: u64, gemm: &Gemm, row_bytes: usize, stream: sys::CUstream) -> Status {
    let Gemm { m, n, c, c_stride, batch, .. } = *gemm;
    let batch_stride = if batch.count == 1 { m * n } else { batch.c_stride };
    if (c_stride == n || m == 1) && batch_stride == m * n {
        // SAFETY: all rows are contiguous.
        return unsafe { repeat(bias, c, row_bytes, batch.count * m, stream) };
    }
    for row in 0..batch.count * m {
        let start = row / m * batch_stride + row % m * c_stride;
        // SAFETY: a row of n elements.
        unsafe {
            result::memcpy_dtod_async(c + (start * gemm.output.bytes()) as u64, bias, row_bytes, stream)?;
        }
    }
    Ok(())
}

/// Copies `bytes` bytes of `source` to `count` consecutive places: each step doubles the part that is filled.
///
/// # Safety
/// Both sides are valid and do not overlap, and the stream is alive.
unsafe fn repeat(source: u64, destination: u64, bytes: usize, count: usize, stream: sys::CUstream) -> Status {
    // SAFETY: within the two sides.
    unsafe { result::memcpy_dtod_async(destination, source, bytes, stream)? };
    let mut done = 1;
    while done < count {
        let next = done.min(count - done);
        let end = destination + (done * bytes) as u64;
        // SAFETY: `next` of the copies so far, to behind them.
        unsafe { result::memcpy_dtod_async(end, destination, next * bytes, stream)? };
        done += next;
    }
    Ok(())
}
