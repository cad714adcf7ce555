//! Streams, events, and the scheduler, which runs work only when a wait requires it.

use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::CUresult;

use super::work::Work;
use super::{Context, Handle, LEGACY_STREAM, OperationId, new_handle};
use crate::call::{CallResult, never_return, refuse};

/// Maximum enqueued operations; beyond this a launch waits, as it does when a GPU's queues are full.
const QUEUE_MAX: usize = 16_384;

pub(crate) struct Stream {
    /// Ordered with the legacy stream.
    pub blocking: bool,
    /// Operations that the next one depends on.
    pub tails: Vec<OperationId>,
    pub capture: Option<Handle>,
    /// Nodes of the capture that the next one depends on.
    pub nodes: Vec<usize>,
}

impl Stream {
    pub(crate) fn new(blocking: bool) -> Self {
        Self { blocking, tails: Vec::new(), capture: None, nodes: Vec::new() }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub timing: bool,
    pub recorded: Option<OperationId>,
    /// Time when the last record ran.
    pub at: Option<Instant>,
    /// The capture in which it was last recorded, and the nodes that a wait for it depends on.
    pub captured: Option<(Handle, Vec<usize>)>,
}

thread_local! {
    /// The calling thread's own default stream, which is ordered with the legacy stream as any blocking one.
    static THREADS_STREAM: Handle = new_handle();
}

impl Context {
    /// Returns the stream of a client's handle.
    pub(crate) fn stream(&mut self, what: &str, stream: Handle) -> CallResult<(Handle, &mut Stream)> {
        let handle = match stream {
            0 | 1 => LEGACY_STREAM,
            2 => {
                let own = THREADS_STREAM.with(|stream| *stream);
                self.streams.entry(own).or_insert_with(|| Stream::new(true));
                own
            }
            other => other,
        };
        match self.streams.get_mut(&handle) {
            Some(stream) => Ok((handle, stream)),
            None => refuse(
                CUresult::CUDA_ERROR_INVALID_HANDLE,
                format_args!("{what}: there is no stream {handle:#x}, or it is destroyed"),
            ),
        }
    }

    pub(crate) fn event(&mut self, what: &str, event: Handle) -> CallResult<&mut Event> {
        match self.events.get_mut(&event) {
            Some(event) => Ok(event),
            None => refuse(
                CUresult::CUDA_ERROR_INVALID_HANDLE,
                format_args!("{what}: there is no event {event:#x}, or it is destroyed"),
            ),
        }
    }

    /// Enqueues work on a stream, or records it if the stream is being captured.
    pub(crate) fn submit(
        &mut self,
        what: &str,
        stream: Handle,
        work: Work,
    ) -> CallResult<Option<OperationId>> {
        let (handle, stream) = self.stream(what, stream)?;
        if let Some(capture) = stream.capture {
            self.add_node(what, capture, handle, work)?;
            return Ok(None);
        }
        self.enqueue(what, handle, Arc::new(work), &[]).map(Some)
    }

    /// Enqueues work on a stream that is not being captured, after the stream's earlier work and `after`.
    pub(crate) fn enqueue(
        &mut self,
        what: &str,
        stream: Handle,
        work: Arc<Work>,
        after: &[OperationId],
    ) -> CallResult<OperationId> {
        let mut after = after.to_vec();
        after.extend(self.order(what, stream)?);
        let id = self.queue.push(work, &after);
        self.set_tail(stream, id);
        if self.queue.len() > QUEUE_MAX {
            while self.queue.len() > QUEUE_MAX / 2
                && let Some(ready) = self.queue.choose(None)
            {
                self.run(ready)?;
            }
        }
        Ok(id)
    }

    /// Returns the operations that the next one on `stream` depends on: the stream's own, and those ordered by the legacy stream.
    pub(crate) fn order(&mut self, what: &str, stream: Handle) -> CallResult<Vec<OperationId>> {
        if stream == LEGACY_STREAM {
            self.refuse_legacy(what)?;
            let ordered = self.streams.values().filter(|stream| stream.blocking);
            return Ok(ordered.flat_map(|stream| stream.tails.iter().copied()).collect());
        }
        let mut after = self.streams[&stream].tails.clone();
        if self.streams[&stream].blocking {
            after.extend(&self.streams[&LEGACY_STREAM].tails);
        }
        Ok(after)
    }

    pub(crate) fn set_tail(&mut self, stream: Handle, operation: OperationId) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            stream.tails = vec![operation];
        }
    }

    /// Runs work until all of `targets` are done. Depending on the seed, other ready work runs in between, or not at all.
    pub(crate) fn wait_for(&mut self, targets: &[OperationId]) -> CallResult {
        let needed = self.queue.needed(targets);
        let wander = self.queue.random(2) == 1;
        while targets.iter().any(|&target| !self.queue.is_done(target)) {
            let among = if wander { None } else { Some(&needed) };
            let Some(ready) = self.queue.choose(among) else {
                if self.queue.hangs() {
                    return Err(never_return());
                }
                return refuse(
                    CUresult::CUDA_ERROR_UNKNOWN,
                    "the queue is stuck: a mistake of the simulation",
                );
            };
            self.run(ready)?;
        }
        Ok(())
    }

    pub(crate) fn wait_for_all(&mut self) -> CallResult {
        self.wait_for(&self.queue.all())
    }

    /// Checks that all of `targets` are done. Some calls run one operation first, so that a client that polls succeeds in the end.
    pub(crate) fn poll(&mut self, targets: &[OperationId]) -> CallResult {
        if self.queue.random(2) == 1 {
            let needed = self.queue.needed(targets);
            if let Some(ready) = self.queue.choose(Some(&needed)) {
                self.run(ready)?;
            }
        }
        if targets.iter().all(|&target| self.queue.is_done(target)) {
            Ok(())
        } else {
            Err(CUresult::CUDA_ERROR_NOT_READY)
        }
    }

    pub(crate) fn record(&mut self, event: Handle, stream: Handle) -> CallResult {
        let what = "cuEventRecord";
        self.event(what, event)?;
        let (stream, state) = self.stream(what, stream)?;
        if let Some(capture) = state.capture {
            let nodes = state.nodes.clone();
            self.active_capture(what, capture)?;
            let event = self.event(what, event)?;
            event.captured = Some((capture, nodes));
            event.recorded = None;
            event.at = None;
            return Ok(());
        }
        let id = self.enqueue(what, stream, Arc::new(Work::Record { event }), &[])?;
        let event = self.event(what, event)?;
        event.captured = None;
        event.recorded = Some(id);
        event.at = None;
        Ok(())
    }

    pub(crate) fn wait_event(&mut self, stream: Handle, event: Handle) -> CallResult {
        let what = "cuStreamWaitEvent";
        let event = self.event(what, event)?.clone();
        let (stream, state) = self.stream(what, stream)?;
        if event.captured.is_some() || state.capture.is_some() {
            return self.wait_captured(what, stream, &event);
        }
        let Some(recorded) = event.recorded else { return Ok(()) };
        if stream == LEGACY_STREAM {
            self.refuse_legacy(what)?;
        }
        if !self.queue.is_done(recorded) {
            let tails = &mut self.stream(what, stream)?.1.tails;
            tails.push(recorded);
        }
        Ok(())
    }

    /// Returns the milliseconds between two records.
    pub(crate) fn elapsed(&mut self, start: Handle, end: Handle) -> CallResult<f32> {
        let what = "cuEventElapsedTime";
        let (start, end) = (self.event(what, start)?.clone(), self.event(what, end)?.clone());
        let recorded = |event: &Event| event.recorded.is_some() && event.timing;
        if !recorded(&start) || !recorded(&end) {
            let why = "cuEventElapsedTime: an event was not recorded, or not outside of a capture, or was made without timing";
            return refuse(CUresult::CUDA_ERROR_INVALID_HANDLE, why);
        }
        let (Some(start), Some(end)) = (start.at, end.at) else {
            return Err(CUresult::CUDA_ERROR_NOT_READY);
        };
        let seconds = if end >= start { (end - start).as_secs_f32() } else { -(start - end).as_secs_f32() };
        Ok(seconds * 1e3)
    }
}
