//! Copies and fills.
//!
//! Pageable host memory is read at the call, as the driver stages it, and written before the call returns. Page-locked memory is read and
//! written when the copy runs.

use std::ffi::{c_uchar, c_void};

use cudarc::driver::sys::{CUdeviceptr, CUresult, CUstream};

use crate::call::{CallResult, in_context, refuse};
use crate::machine::{Context, CopySide, LEGACY_STREAM, Work};

fn upload(context: &mut Context, what: &str, to: u64, from: u64, bytes: usize, stream: u64) -> CallResult {
    if bytes == 0 {
        return Ok(());
    }
    context.memory.check_call(what, to, bytes as u64)?;
    let work = if context.memory.is_page_locked(what, from, bytes as u64)? {
        Work::Copy { to: CopySide::Device(to), from: CopySide::Host(from), bytes: bytes as u64 }
    } else {
        context.refuse_captured(what, stream)?;
        // SAFETY: the client's promise.
        let data = unsafe { std::slice::from_raw_parts(from as *const u8, bytes) }.to_vec();
        Work::Upload { to, data }
    };
    context.submit(what, stream, work)?;
    Ok(())
}

fn download(context: &mut Context, what: &str, to: u64, from: u64, bytes: usize, stream: u64) -> CallResult {
    if bytes == 0 {
        return Ok(());
    }
    context.memory.check_call(what, from, bytes as u64)?;
    let page_locked = context.memory.is_page_locked(what, to, bytes as u64)?;
    if !page_locked {
        context.refuse_captured(what, stream)?;
    }
    let work = Work::Copy { to: CopySide::Host(to), from: CopySide::Device(from), bytes: bytes as u64 };
    match context.submit(what, stream, work)? {
        Some(operation) if !page_locked => context.wait_for(&[operation]),
        _ => Ok(()),
    }
}

fn copy(context: &mut Context, what: &str, to: u64, from: u64, bytes: usize, stream: u64) -> CallResult {
    if bytes == 0 {
        return Ok(());
    }
    context.memory.check_call(what, to, bytes as u64)?;
    context.memory.check_call(what, from, bytes as u64)?;
    let work = Work::Copy { to: CopySide::Device(to), from: CopySide::Device(from), bytes: bytes as u64 };
    context.submit(what, stream, work)?;
    Ok(())
}

/// Waits for the legacy stream before a synchronous copy. Only a copy from page-locked memory or to the host also waits for its own end.
fn synchronous(context: &mut Context, what: &str) -> CallResult {
    context.refuse_unsafe(what)?;
    let before = context.order(what, LEGACY_STREAM)?;
    context.wait_for(&before)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoDAsync_v2(
    to: CUdeviceptr,
    from: *const c_void,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemcpyHtoDAsync_v2", |context| {
        upload(context, "cuMemcpyHtoDAsync", to, from as u64, bytes, stream as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyHtoD_v2(to: CUdeviceptr, from: *const c_void, bytes: usize) -> CUresult {
    in_context("cuMemcpyHtoD_v2", |context| {
        let what = "cuMemcpyHtoD";
        synchronous(context, what)?;
        upload(context, what, to, from as u64, bytes, LEGACY_STREAM)?;
        if context.memory.is_page_locked(what, from as u64, bytes as u64)? {
            synchronous(context, what)?;
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoHAsync_v2(
    to: *mut c_void,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemcpyDtoHAsync_v2", |context| {
        download(context, "cuMemcpyDtoHAsync", to as u64, from, bytes, stream as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoH_v2(to: *mut c_void, from: CUdeviceptr, bytes: usize) -> CUresult {
    in_context("cuMemcpyDtoH_v2", |context| {
        let what = "cuMemcpyDtoH";
        context.refuse_unsafe(what)?;
        download(context, what, to as u64, from, bytes, LEGACY_STREAM)?;
        synchronous(context, what)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoDAsync_v2(
    to: CUdeviceptr,
    from: CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemcpyDtoDAsync_v2", |context| {
        copy(context, "cuMemcpyDtoDAsync", to, from, bytes, stream as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemcpyDtoD_v2(to: CUdeviceptr, from: CUdeviceptr, bytes: usize) -> CUresult {
    in_context("cuMemcpyDtoD_v2", |context| {
        context.refuse_unsafe("cuMemcpyDtoD")?;
        copy(context, "cuMemcpyDtoD", to, from, bytes, LEGACY_STREAM)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD8Async(
    address: CUdeviceptr,
    value: c_uchar,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemsetD8Async", |context| {
        fill(context, "cuMemsetD8Async", address, [bytes, bytes, 1], value, stream as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemsetD2D8Async(
    address: CUdeviceptr,
    pitch: usize,
    value: c_uchar,
    width: usize,
    height: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemsetD2D8Async", |context| {
        fill(context, "cuMemsetD2D8Async", address, [pitch, width, height], value, stream as u64)
    })
}

fn fill(
    context: &mut Context,
    what: &str,
    address: u64,
    [pitch, width, height]: [usize; 3],
    value: u8,
    stream: u64,
) -> CallResult {
    if width == 0 || height == 0 {
        return Ok(());
    }
    let bytes = pitch.checked_mul(height - 1).and_then(|bytes| bytes.checked_add(width));
    let Some(bytes) = bytes.filter(|_| height == 1 || pitch >= width) else {
        let why = format_args!("{what}: the pitch is {pitch} for {height} rows of {width} bytes");
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
    };
    context.memory.check_call(what, address, bytes as u64)?;
    let (pitch, width, height) = (pitch as u64, width as u64, height as u64);
    context.submit(what, stream, Work::Fill { address, pitch, value, width, height })?;
    Ok(())
}
