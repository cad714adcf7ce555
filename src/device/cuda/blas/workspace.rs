//! Workspaces of GEMMs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result::DriverError;
use cudarc::driver::sys;

use super::plan::WORKSPACE_BYTES;
use crate::device::Result;
use crate::device::cuda::event::Event;
use crate::device::cuda::memory::Pool;

/// Memory that one GEMM at a time works in, freed with its last holder.
pub(in super::super) struct Workspace {
    memory: Arc<Pool>,
    pub(super) address: sys::CUdeviceptr,
    /// Event after the last graph whose GEMMs use the workspace.
    last: Mutex<Event>,
}

impl Workspace {
    fn new(memory: &Arc<Pool>) -> Result<Self> {
        let failure = |error| memory.context.failure("making an event", error);
        let last = Mutex::new(Event::new().map_err(failure)?);
        Ok(Self { memory: memory.clone(), address: memory.allocate(WORKSPACE_BYTES)?, last })
    }

    /// Enqueues a graph on `stream` after all others that use this workspace.
    ///
    /// # Safety
    /// The stream is alive.
    pub(in super::super) unsafe fn in_turn(
        &self,
        stream: sys::CUstream,
        enqueue: impl FnOnce() -> std::result::Result<(), DriverError>,
    ) -> std::result::Result<(), DriverError> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the stream is alive.
        unsafe {
            last.hold(stream)?;
            enqueue()?;
            last.record(stream)
        }
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; what was enqueued with it comes before the free.
        unsafe { self.memory.free(self.address) }
    }
}

/// Whoever records a stream's work, so that its GEMMs are executed later, and repeatedly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Recorder {
    /// Nobody: work is executed.
    None,
    /// A capture by this crate, whose graph keeps its workspace alive.
    Own,
    /// A capture by the owner of a borrowed stream.
    Other,
}

/// The workspaces of all streams. GEMMs of two streams may run at the same time, and so may a graph and GEMMs of the stream that it was
/// recorded on: each of them has its own.
#[derive(Default)]
pub(super) struct Workspaces {
    /// By the address of the stream's handle: one for executed work (`false`), one for recorded work (`true`).
    by_stream: HashMap<(usize, bool), Arc<Workspace>>,
    /// Workspaces of graphs that others captured, kept as long as the process lives.
    kept: Vec<Arc<Workspace>>,
}

impl Workspaces {
    /// Returns the workspace for a GEMM that is enqueued on `stream`.
    pub(super) fn get(
        &mut self,
        memory: &Arc<Pool>,
        stream: sys::CUstream,
        recorder: Recorder,
    ) -> Result<Arc<Workspace>> {
        let place = (stream as usize, recorder != Recorder::None);
        let workspace = match self.by_stream.get(&place) {
            Some(workspace) => workspace.clone(),
            None => self.by_stream.entry(place).insert_entry(Arc::new(Workspace::new(memory)?)).get().clone(),
        };
        if recorder == Recorder::Other && !self.kept.iter().any(|kept| Arc::ptr_eq(kept, &workspace)) {
            self.kept.push(workspace.clone());
        }
        Ok(workspace)
    }

    /// Returns the workspace of the GEMMs that `stream` has recorded, if any.
    pub(super) fn recorded(&self, stream: sys::CUstream) -> Option<Arc<Workspace>> {
        self.by_stream.get(&(stream as usize, true)).cloned()
    }

    /// Drops the workspaces of a stream that is to be destroyed, or given back.
    pub(super) fn forget(&mut self, stream: sys::CUstream) {
        for recorded in [false, true] {
            self.by_stream.remove(&(stream as usize, recorded));
        }
    }
}
