//! Streams, and the begin and end of their capture.

use std::ffi::{c_int, c_uint};

use cudarc::driver::sys::{CUcontext, CUevent, CUgraph, CUresult, CUstream};

use crate::call::{enter, in_context, refuse, store};
use crate::machine::{CaptureMode, Stream, exchange_thread_mode, new_handle};

/// # Safety
/// `stream` is null or valid for a write.
unsafe fn create(what: &str, stream: *mut CUstream, flags: c_uint) -> CUresult {
    in_context(what, |context| {
        if flags > 1 {
            let why = format_args!("{what}: flags are {flags}, not 0 or 1 (non-blocking)");
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        context.refuse_unsafe(what)?;
        let handle = new_handle();
        context.streams.insert(handle, Stream::new(flags == 0));
        // SAFETY: passed on to the caller.
        unsafe { store(stream, handle as CUstream) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut CUstream, flags: c_uint) -> CUresult {
    // SAFETY: the client's promise.
    unsafe { create("cuStreamCreate", stream, flags) }
}

/// Any priority is accepted, as the driver clamps it, and has no effect: the order of work among streams is arbitrary anyway.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(
    stream: *mut CUstream,
    flags: c_uint,
    _priority: c_int,
) -> CUresult {
    // SAFETY: the client's promise.
    unsafe { create("cuStreamCreateWithPriority", stream, flags) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamDestroy_v2(stream: CUstream) -> CUresult {
    in_context("cuStreamDestroy_v2", |context| context.destroy_stream(stream as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: CUstream, result: *mut CUcontext) -> CUresult {
    in_context("cuStreamGetCtx", |context| {
        context.stream("cuStreamGetCtx", stream as u64)?;
        // SAFETY: the client's promise.
        unsafe { store(result, context.handle as CUcontext) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamSynchronize(stream: CUstream) -> CUresult {
    in_context("cuStreamSynchronize", |context| {
        let what = "cuStreamSynchronize";
        let stream = context.refuse_captured(what, stream as u64)?;
        context.refuse_unsafe(what)?;
        let work = context.order(what, stream)?;
        context.wait_for(&work)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamQuery(stream: CUstream) -> CUresult {
    in_context("cuStreamQuery", |context| {
        let what = "cuStreamQuery";
        let stream = context.refuse_captured(what, stream as u64)?;
        context.refuse_unsafe(what)?;
        let work = context.order(what, stream)?;
        context.poll(&work)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamWaitEvent(stream: CUstream, event: CUevent, flags: c_uint) -> CUresult {
    in_context("cuStreamWaitEvent", |context| {
        if flags != 0 {
            let why = format_args!("cuStreamWaitEvent: flags {flags} are not simulated");
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
        context.wait_event(stream as u64, event as u64)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: CUstream, status: *mut c_uint) -> CUresult {
    in_context("cuStreamIsCapturing", |context| {
        let value = match context.capture_status(stream as u64)? {
            None => 0,
            Some(true) => 1,
            Some(false) => 2,
        };
        // SAFETY: the client's promise.
        unsafe { store(status, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamBeginCapture_v2(stream: CUstream, mode: c_uint) -> CUresult {
    in_context("cuStreamBeginCapture_v2", |context| {
        context.begin_capture(stream as u64, CaptureMode::of("cuStreamBeginCapture", mode)?)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_uint) -> CUresult {
    let what = "cuThreadExchangeStreamCaptureMode";
    enter(what, |machine| {
        machine.initialized()?;
        if mode.is_null() {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format_args!("{what}: the mode is null"));
        }
        // SAFETY: not null, and valid by the client's promise.
        let wanted = CaptureMode::of(what, unsafe { mode.read() })?;
        // SAFETY: as above.
        unsafe { store(mode, exchange_thread_mode(wanted) as c_uint) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: CUstream, graph: *mut CUgraph) -> CUresult {
    in_context("cuStreamEndCapture", |context| {
        let handle = context.end_capture(stream as u64);
        // SAFETY: the client's promise.
        unsafe { store(graph, handle.unwrap_or(0) as CUgraph)? };
        handle.map(|_| ())
    })
}
