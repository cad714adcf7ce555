//! The primary context of a device, and the messages of its failures.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::CUstreamCaptureMode as CaptureMode;
use cudarc::driver::{result, sys};

use super::driver::driver_error;
use crate::device::{Error, Result};

/// Number of launches that are remembered for the message of a failure.
const RECENT_MAX: usize = 16;

/// The device's primary context, which outlives everything created in it.
pub(super) struct Context {
    pub device: sys::CUdevice,
    context: sys::CUcontext,
    /// Launches since the last wait for them, the latest at the back.
    recent: Mutex<VecDeque<String>>,
    /// First error that ended the context, after which every call fails.
    ended: Mutex<Option<String>>,
}

// SAFETY: handles of the driver are bound to no thread, and its functions are thread-safe.
unsafe impl Send for Context {}
// SAFETY: as above; what changes behind a shared reference is behind a mutex.
unsafe impl Sync for Context {}

impl Context {
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let opening = |error| driver_error(format_args!("opening device {ordinal}"), error);
        let device = result::device::get(ordinal as i32).map_err(opening)?;
        // SAFETY: `device` is what the driver returned.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opening)?;
        Ok(Self { device, context, recent: Mutex::default(), ended: Mutex::default() })
    }

    /// Makes the context current on the calling thread, and permits its driver calls during captures; every call needs it.
    pub(super) fn enter(&self) -> Result<Entered> {
        let failure = |error| self.failure("entering the device's context", error);
        // SAFETY: the context is retained.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }.result().map_err(failure)?;
        let mut entered = Entered { mode: None };
        let mode = exchange_capture_mode(CaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).map_err(failure)?;
        entered.mode = Some(mode);
        Ok(entered)
    }

    /// Returns whether a stream was created in this context.
    pub(super) fn owns(&self, stream: sys::CUstream) -> std::result::Result<bool, result::DriverError> {
        let mut context = std::ptr::null_mut();
        // SAFETY: the stream is alive by the caller's promise to `adopt_stream`.
        unsafe { sys::cuStreamGetCtx(stream, &raw mut context) }.result()?;
        Ok(context == self.context)
    }

    /// Remembers a launch.
    pub(super) fn launched(&self, what: &str) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() == RECENT_MAX {
            recent.pop_front();
        }
        recent.push_back(what.to_owned());
    }

    /// Forgets the launches, as all of them have been waited for.
    pub(super) fn settled(&self) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Returns the error that ended the context, if any, where a library on top of the driver only reports that it failed.
    pub(super) fn hidden_failure(&self, doing: impl fmt::Display) -> Option<Error> {
        // A query that is allowed during a capture.
        let error = result::mem_get_info().err().filter(|error| ends_context(error.0))?;
        Some(self.failure(doing, error))
    }

    /// Returns an error of the driver; one that ends the context is remembered, and names what was launched before it.
    pub(super) fn failure(&self, doing: impl fmt::Display, error: result::DriverError) -> Error {
        if !ends_context(error.0) {
            return driver_error(doing, error);
        }
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(first) = &*ended {
            return Error::CudaEnded(first.clone());
        }
        let Error::Cuda(message) = driver_error(doing, error) else { unreachable!("what it makes") };
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let message = match recent.len() {
            0 => message,
            1 => format!("{message}: in {}", recent[0]),
            _ => {
                let names = recent.iter().rev().map(String::as_str).collect::<Vec<_>>().join(", ");
                format!(
                    "{message}: in one of the last launches, {names} (the latest first); RETROMAE_CUDA_SYNC=1 names it"
                )
            }
        };
        *ended = Some(message.clone());
        Error::CudaEnded(message)
    }
}

/// While it lives, the context is current on the thread, in front of the caller's, and no capture forbids the thread operations that the captured
/// stream does not see, such as allocating memory, loading a module or waiting for another stream. Otherwise a caller's capture, on this thread
/// or in global mode on another one, would forbid them, and be invalidated by them.
#[must_use]
pub(super) struct Entered {
    /// The thread's previous mode, once it has been changed.
    mode: Option<CaptureMode>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        // It cannot fail with a mode that the driver returned.
        let _ = self.mode.map(exchange_capture_mode);
        let mut popped = std::ptr::null_mut();
        // SAFETY: writes a handle. The context on top is the one that `enter` pushed.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&raw mut popped) };
    }
}

/// Sets the calling thread's mode; returns the mode before.
fn exchange_capture_mode(mut mode: CaptureMode) -> std::result::Result<CaptureMode, result::DriverError> {
    // SAFETY: the mode is there to be overwritten.
    unsafe { sys::cuThreadExchangeStreamCaptureMode(&raw mut mode) }.result()?;
    Ok(mode)
}

impl Drop for Context {
    fn drop(&mut self) {
        // Only where a device could not be opened: one that was is there as long as the process.
        // SAFETY: retained by `open`, and nothing uses it any more.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// `CUDA_ERROR_CONTAINED`, which cudarc's bindings of CUDA 12.0 do not name.
const CONTAINED: u32 = 226;

/// Errors of a kernel or of the GPU after which the driver refuses all further work in the context.
fn ends_context(error: sys::CUresult) -> bool {
    use sys::CUresult as E;
    let named = matches!(
        error,
        E::CUDA_ERROR_ILLEGAL_ADDRESS
            | E::CUDA_ERROR_LAUNCH_TIMEOUT
            | E::CUDA_ERROR_ASSERT
            | E::CUDA_ERROR_HARDWARE_STACK_ERROR
            | E::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | E::CUDA_ERROR_MISALIGNED_ADDRESS
            | E::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | E::CUDA_ERROR_INVALID_PC
            | E::CUDA_ERROR_LAUNCH_FAILED
            | E::CUDA_ERROR_ECC_UNCORRECTABLE
            | E::CUDA_ERROR_NVLINK_UNCORRECTABLE
            | E::CUDA_ERROR_EXTERNAL_DEVICE
    );
    named || error as u32 == CONTAINED
}
