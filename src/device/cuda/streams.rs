//! The streams of a device, who waits for whom, and captures.

use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::result::DriverError;
use cudarc::driver::{result, sys};

use super::super::{Error, Result};
use super::context::Context;

/// A stream that work may be enqueued on.
struct Live {
    stream: u64,
    /// Names of the kernels that a capture of this device has recorded so far.
    capture: Option<Vec<String>>,
}

/// All streams that work may be enqueued on.
pub(super) struct Streams {
    default: sys::CUstream,
    live: Mutex<Vec<Live>>,
}

/// A stream as plain integers carry it.
pub(super) fn stream_of(handle: u64) -> sys::CUstream {
    handle as sys::CUstream
}

/// A new stream of the current context, which does not wait for the legacy default stream.
pub(super) fn create(context: &Context) -> Result<sys::CUstream> {
    result::stream::create(result::stream::StreamKind::NonBlocking)
        .map_err(|error| context.failure("making a stream", error))
}

impl Streams {
    pub(super) fn open(context: &Context) -> Result<Self> {
        let default = create(context)?;
        Ok(Self { default, live: Mutex::new(vec![Live { stream: default as u64, capture: None }]) })
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

    /// Forgets a stream. What it still does comes before all that the device's own stream and `freeing` are given from here on.
    pub(super) fn remove(&self, context: &Context, stream: sys::CUstream, freeing: sys::CUstream) {
        let mut live = self.live();
        // A caller may have lent the same stream twice.
        if let Some(index) = live.iter().position(|one| one.stream == stream as u64) {
            live.remove(index);
        }
        drop(live);
        let left = match is_capturing(self.default) {
            Ok(false) => order(stream, self.default).and_then(|()| order(stream, freeing)),
            // A recording must not come to wait for this.
            // SAFETY: the stream is alive.
            Ok(true) => unsafe { result::stream::synchronize(stream) },
            Err(error) => Err(error),
        };
        // A failed stream has nothing left to do; the failure is kept for the next call.
        let _ = left.map_err(|error| context.failure("leaving a stream", error));
    }

    /// Orders `stream` after all that the others were given so far. Says whether that is all of them: one that is captured must not be
    /// disturbed.
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

    /// Refuses what a stream that is being captured cannot do.
    pub(super) fn require_running(
        &self,
        context: &Context,
        stream: sys::CUstream,
        doing: &'static str,
    ) -> Result<()> {
        match is_capturing(stream) {
            Ok(false) => Ok(()),
            Ok(true) => Err(Error::Capturing(doing)),
            Err(error) => Err(context.failure(doing, error)),
        }
    }

    /// Begins to note the kernels of a capture.
    pub(super) fn begin_capture(&self, stream: sys::CUstream) {
        let mut live = self.live();
        if let Some(one) = live.iter_mut().find(|one| one.stream == stream as u64) {
            one.capture = Some(Vec::new());
        }
    }

    /// Notes a kernel where its stream is being captured; says whether it is.
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

impl Drop for Streams {
    fn drop(&mut self) {
        // SAFETY: made by `open`; the owner drops this while its context is current and its work is done.
        let _ = unsafe { result::stream::destroy(self.default) };
    }
}

/// Whether what `stream` is given is recorded instead of done, by this crate or by anybody else.
pub(super) fn is_capturing(stream: sys::CUstream) -> std::result::Result<bool, DriverError> {
    // SAFETY: the stream is alive.
    let status = unsafe { result::stream::is_capturing(stream) }?;
    Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
}

/// All that `later` is given from here on begins after all that `earlier` was given so far.
fn order(earlier: sys::CUstream, later: sys::CUstream) -> std::result::Result<(), DriverError> {
    let event = result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING)?;
    let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
    // SAFETY: both streams are alive; an event may be destroyed while it is waited for.
    unsafe {
        let done = result::event::record(event, earlier)
            .and_then(|()| result::stream::wait_event(later, event, flags));
        let _ = result::event::destroy(event);
        done
    }
}
