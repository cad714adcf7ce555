//! Events: points in a stream's work that others wait for.

use cudarc::driver::result::DriverError;
use cudarc::driver::{result, sys};

use super::driver::milliseconds;

/// An event that is destroyed with the value; waits that are already enqueued stay valid.
pub(super) struct Event(sys::CUevent);

// SAFETY: handles of the driver are bound to no thread, and its functions are thread-safe.
unsafe impl Send for Event {}
// SAFETY: as above.
unsafe impl Sync for Event {}

impl Event {
    /// Creates an event that only orders work.
    pub(super) fn new() -> Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map(Self)
    }

    /// Creates an event that also records its time.
    pub(super) fn timed() -> Result<Self, DriverError> {
        result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map(Self)
    }

    /// Rebuilds the event whose handle [`into_handle`](Self::into_handle) returned.
    ///
    /// # Safety
    /// The handle is not used afterwards.
    pub(super) unsafe fn of_handle(handle: u64) -> Self {
        Self(handle as sys::CUevent)
    }

    pub(super) fn into_handle(self) -> u64 {
        let handle = self.0 as u64;
        std::mem::forget(self);
        handle
    }

    /// # Safety
    /// The stream is alive.
    pub(super) unsafe fn record(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        // SAFETY: the event is alive, and so is the stream.
        unsafe { result::event::record(self.0, stream) }
    }

    /// Makes all work that `stream` is given from here on begin after the event, at once where it was never recorded.
    ///
    /// # Safety
    /// The stream is alive.
    pub(super) unsafe fn hold(&self, stream: sys::CUstream) -> Result<(), DriverError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(stream, self.0, flags) }
    }

    pub(super) fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(self.0) }
    }

    /// Returns the milliseconds to another event, negative where that came first. Both must be timed and have completed.
    pub(super) fn milliseconds_until(&self, later: &Self) -> Result<f32, DriverError> {
        // SAFETY: the events are alive.
        unsafe { milliseconds(self.0, later.0) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by the driver, not used afterwards.
        let _ = unsafe { result::event::destroy(self.0) };
    }
}
