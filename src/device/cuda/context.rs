//! The primary context of a device, and what its failures say.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::super::{Error, Result};
use super::driver::driver_error;

/// Launches that are remembered for the message of a failure.
const RECENT_MAX: usize = 16;

/// The device's primary context. Dropped last, so that it outlives all that was made in it.
pub(super) struct Context {
    pub device: sys::CUdevice,
    context: sys::CUcontext,
    /// What was launched since somebody last waited, the latest at the back.
    recent: Mutex<VecDeque<String>>,
    /// The first error that ended the context: after it every call fails.
    ended: Mutex<Option<String>>,
}

impl Context {
    pub(super) fn open(ordinal: usize) -> Result<Self> {
        let opening = |error| driver_error(format_args!("opening device {ordinal}"), error);
        let device = result::device::get(ordinal as i32).map_err(opening)?;
        // SAFETY: `device` is what the driver returned.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opening)?;
        let context = Self { device, context, recent: Mutex::default(), ended: Mutex::default() };
        context.enter()?;
        Ok(context)
    }

    /// Makes the context current on the calling thread; every call of the driver needs it.
    pub(super) fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|error| self.failure("entering the device's context", error))
    }

    /// Whether a stream was made in this context.
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

    /// Everything launched so far has been waited for.
    pub(super) fn settled(&self) {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// An error of the driver; one that ends the context is remembered, and names what was launched before it.
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

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained by `open`, and nothing uses it any more.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Errors of a kernel or of the GPU after which the driver refuses all further work in the context.
fn ends_context(error: sys::CUresult) -> bool {
    use sys::CUresult as E;
    matches!(
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
    )
}
