//! Events.

use std::ffi::c_uint;

use cudarc::driver::sys::{CUevent, CUresult, CUstream};

use crate::call::{CallResult, in_context, refuse, store};
use crate::machine::{Context, Event, OperationId, new_handle};

const BLOCKING_SYNC: c_uint = 1;
const DISABLE_TIMING: c_uint = 2;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut CUevent, flags: c_uint) -> CUresult {
    in_context("cuEventCreate", |context| {
        if flags & !(BLOCKING_SYNC | DISABLE_TIMING) != 0 {
            let why = format_args!("cuEventCreate: flags {flags} are not simulated");
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
        let handle = new_handle();
        let timing = flags & DISABLE_TIMING == 0;
        context.events.insert(handle, Event { timing, recorded: None, at: None, captured: None });
        // SAFETY: the client's promise.
        unsafe { store(event, handle as CUevent) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventDestroy_v2(event: CUevent) -> CUresult {
    in_context("cuEventDestroy_v2", |context| {
        context.event("cuEventDestroy", event as u64)?;
        context.events.remove(&(event as u64));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventRecord(event: CUevent, stream: CUstream) -> CUresult {
    in_context("cuEventRecord", |context| context.record(event as u64, stream as u64))
}

/// Returns the operation that an event waits for; refuses if a capture forbids the query.
fn recorded(context: &mut Context, what: &str, event: CUevent) -> CallResult<Option<OperationId>> {
    context.refuse_unsafe(what)?;
    let event = context.event(what, event as u64)?;
    if event.captured.is_some() {
        let why = format_args!("{what}: the event was last recorded in a capture");
        return refuse(CUresult::CUDA_ERROR_CAPTURED_EVENT, why);
    }
    Ok(event.recorded)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventQuery(event: CUevent) -> CUresult {
    in_context("cuEventQuery", |context| match recorded(context, "cuEventQuery", event)? {
        Some(operation) => context.poll(&[operation]),
        None => Ok(()),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventSynchronize(event: CUevent) -> CUresult {
    in_context("cuEventSynchronize", |context| match recorded(context, "cuEventSynchronize", event)? {
        Some(operation) => context.wait_for(&[operation]),
        None => Ok(()),
    })
}

fn elapsed(name: &str, milliseconds: *mut f32, start: CUevent, end: CUevent) -> CUresult {
    in_context(name, |context| {
        let value = context.elapsed(start as u64, end as u64)?;
        // SAFETY: the client's promise.
        unsafe { store(milliseconds, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    elapsed("cuEventElapsedTime", milliseconds, start, end)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventElapsedTime_v2(
    milliseconds: *mut f32,
    start: CUevent,
    end: CUevent,
) -> CUresult {
    elapsed("cuEventElapsedTime_v2", milliseconds, start, end)
}
