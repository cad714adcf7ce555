//! The streams of a device, their order, and captures.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::DriverError;
use cudarc::driver::{result, sys};

use super::context::Context;
use super::event::Event;
use crate::device::{Error, Result};

/// A stream that work may be enqueued on.
struct Live {
    stream: u64,
    /// Names of the kernels recorded so far by a capture through this device; `None` when there is none.
    capture: Option<Vec<String>>,
}

/// All streams that work may be enqueued on.
pub(super) struct Streams {
    context: Arc<Context>,
    default: sys::CUstream,
    /// Stream that the caller waits for: reads, and writes from the host. It is private, so it is never captured.
    pub blocking: sys::CUstream,
    /// Stream of frees, private as well.
    pub freeing: sys::CUstream,
    live: Mutex<Vec<Live>>,
}

// SAFETY: handles of the driver are bound to no thread, and its functions are thread-safe.
unsafe impl Send for Streams {}
// SAFETY: as above; what changes behind a shared reference is behind a mutex.
unsafe impl Sync for Streams {}

/// Converts a handle to the driver's stream.
pub(super) fn stream_of(handle: u64) -> sys::CUstream {
    handle as sys::CUstream
}

/// Creates a stream of the current context that does not wait for the legacy default stream.
pub(super) fn create(context: &Context) -> Result<sys::CUstream> {
    result::stream::create(result::stream::StreamKind::NonBlocking)
        .map_err(|error| context.failure("making a stream", error))
}

impl Streams {
    pub(super) fn open(context: Arc<Context>) -> Result<Self> {
        let (default, blocking, freeing) = (create(&context)?, create(&context)?, create(&context)?);
        let live = Mutex::new(vec![Live { stream: default as u64, capture: None }]);
        Ok(Self { context, default, blocking, freeing, live })
    }

    pub(super) fn default_stream(&self) -> sys::CUstream {
        self.default
    }

    fn live(&self) -> MutexGuard<'_, Vec<Live>> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, stream: sys::CUstream) {
        self.live().push(Live { stream: stream as u64, capture: None });
    }

    /// Forgets a stream. Its remaining work comes before all reads, writes and frees from here on.
    pub(super) fn remove(&self, stream: sys::CUstream) {
        let mut live = self.live();
        // A caller may have lent the same stream twice.
        if let Some(index) = live.iter().position(|one| one.stream == stream as u64) {
            live.remove(index);
        }
        drop(live);
        let left = match is_capturing(stream) {
            // Its owner's capture executes nothing that could be waited for, and would spread to the stream that waits.
            Ok(true) => Ok(()),
            Ok(false) => [self.blocking, self.freeing].into_iter().try_for_each(|later| order(stream, later)),
            Err(error) => Err(error),
        };
        // A failed stream has no work left; the failure is kept for the next call.
        let _ = left.map_err(|error| self.context.failure("leaving a stream", error));
    }

    /// Orders `stream` after all work that the others were given so far. Returns whether that is all of them: one that is being captured must not
    /// be disturbed.
    pub(super) fn join(&self, stream: sys::CUstream) -> std::result::Result<bool, DriverError> {
        let mut complete = true;
        for one in self.live().iter().filter(|one| one.stream != stream as u64) {
            if is_capturing(stream_of(one.stream))? {
                complete = false;
            } else {
                order(stream_of(one.stream), stream)?;
            }
        }
        Ok(complete)
    }

    /// Refuses an operation that a stream cannot do while it is being captured.
    pub(super) fn require_running(&self, stream: sys::CUstream, doing: &'static str) -> Result<()> {
        match is_capturing(stream) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::Capturing(doing)),
            Err(error) => Err(self.context.failure(doing, error)),
        }
    }

    /// Begins a capture, and the list of its kernels.
    pub(super) fn begin_capture(&self, stream: sys::CUstream) -> Result<()> {
        // Locked, so that nobody orders another stream after this one between checking that it may and doing so.
        let mut live = self.live();
        self.require_running(stream, "begin another capture")?;
        // `Device` refuses what would wait for the recorded work; the capture sees nothing else that this thread or others do meanwhile.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        unsafe { result::stream::begin_capture(stream, mode) }
            .map_err(|error| self.context.failure("beginning a capture", error))?;
        if let Some(one) = live.iter_mut().find(|one| one.stream == stream as u64) {
            one.capture = Some(Vec::new());
        }
        Ok(())
    }

    /// Adds a kernel to its stream's capture, if there is one; returns whether there is.
    pub(super) fn note(&self, stream: sys::CUstream, kernel: Option<&str>) -> bool {
        let mut live = self.live();
        let capture =
            live.iter_mut().find(|one| one.stream == stream as u64).and_then(|one| one.capture.as_mut());
        let Some(names) = capture else { return false };
        names.extend(kernel.map(str::to_owned));
        true
    }

    pub(super) fn end_capture(&self, stream: sys::CUstream) -> Vec<String> {
        let mut live = self.live();
        let capture =
            live.iter_mut().find(|one| one.stream == stream as u64).and_then(|one| one.capture.take());
        capture.unwrap_or_default()
    }
}

/// Returns whether work of `stream` is recorded instead of executed, by this crate or by anybody else.
pub(super) fn is_capturing(stream: sys::CUstream) -> std::result::Result<bool, DriverError> {
    // SAFETY: the stream is alive.
    match unsafe { result::stream::is_capturing(stream) } {
        Ok(status) => Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE),
        // The legacy stream, while one that it would wait for is captured: it may not be given work either.
        Err(error) if error.0 == sys::CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT => Ok(true),
        Err(error) => Err(error),
    }
}

/// Makes all work that `later` is given from here on begin after all work that `earlier` was given so far.
fn order(earlier: sys::CUstream, later: sys::CUstream) -> std::result::Result<(), DriverError> {
    let event = Event::new()?;
    // SAFETY: both streams are alive.
    unsafe {
        event.record(earlier)?;
        event.hold(later)
    }
}
