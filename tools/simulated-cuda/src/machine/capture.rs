//! Stream capture and graphs: work that is recorded, and enqueued with each launch of the graph.

use std::cell::Cell;
use std::sync::Arc;
use std::thread::ThreadId;

use cudarc::driver::sys::CUresult;

use super::stream::{Event, Stream};
use super::work::Work;
use super::{Context, Handle, LEGACY_STREAM, OperationId, new_handle};
use crate::call::{CallResult, refuse};

/// Capture mode: of a capture, the calls that it forbids; of a thread, the captures that bind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CaptureMode {
    Global,
    ThreadLocal,
    Relaxed,
}

impl CaptureMode {
    pub(crate) fn of(what: &str, number: u32) -> CallResult<Self> {
        match number {
            0 => Ok(Self::Global),
            1 => Ok(Self::ThreadLocal),
            2 => Ok(Self::Relaxed),
            _ => {
                let why = format_args!("{what}: there is no mode {number}");
                refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why)
            }
        }
    }
}

thread_local! {
    static THREAD_MODE: Cell<CaptureMode> = const { Cell::new(CaptureMode::Global) };
}

/// Sets the calling thread's mode; returns the previous mode.
pub(crate) fn exchange_thread_mode(mode: CaptureMode) -> CaptureMode {
    THREAD_MODE.replace(mode)
}

#[derive(Clone)]
pub(crate) struct Node {
    work: Arc<Work>,
    after: Vec<usize>,
}

pub(crate) type Graph = Arc<Vec<Node>>;

/// A graph that can be launched. Its launches run one after another, on any streams.
pub(crate) struct Executable {
    pub graph: Graph,
    pub last: Option<OperationId>,
}

pub(crate) struct Capture {
    mode: CaptureMode,
    origin: Handle,
    owner: ThreadId,
    nodes: Vec<Node>,
    invalidated: bool,
}

impl Capture {
    /// Marks the nodes of `ends` and all nodes that they depend on.
    fn reached(&self, ends: &[usize]) -> Vec<bool> {
        let mut reached = vec![false; self.nodes.len()];
        let mut open = ends.to_vec();
        while let Some(node) = open.pop() {
            if !std::mem::replace(&mut reached[node], true) {
                open.extend(&self.nodes[node].after);
            }
        }
        reached
    }
}

impl Context {
    pub(crate) fn begin_capture(&mut self, stream: Handle, mode: CaptureMode) -> CallResult {
        let what = "cuStreamBeginCapture";
        let (origin, state) = self.stream(what, stream)?;
        if origin == LEGACY_STREAM {
            let why = format_args!("{what}: the legacy stream cannot be captured");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, why);
        }
        if state.capture.is_some() {
            return refuse(
                CUresult::CUDA_ERROR_ILLEGAL_STATE,
                format_args!("{what}: the stream is being captured"),
            );
        }
        let handle = new_handle();
        state.capture = Some(handle);
        state.nodes.clear();
        let owner = std::thread::current().id();
        self.captures.insert(handle, Capture { mode, origin, owner, nodes: Vec::new(), invalidated: false });
        Ok(())
    }

    pub(crate) fn end_capture(&mut self, stream: Handle) -> CallResult<Handle> {
        let what = "cuStreamEndCapture";
        let (stream, state) = self.stream(what, stream)?;
        let Some(handle) = state.capture else {
            let why = format_args!("{what}: the stream is not being captured");
            return refuse(CUresult::CUDA_ERROR_ILLEGAL_STATE, why);
        };
        let capture = &self.captures[&handle];
        if capture.mode != CaptureMode::Relaxed && capture.owner != std::thread::current().id() {
            let why = format_args!("{what}: another thread began the capture");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, why);
        }
        if capture.origin != stream {
            self.invalidate(handle);
            let why = format_args!("{what}: the capture began on another stream");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, why);
        }
        let reached = capture.reached(&self.streams[&stream].nodes);
        let joined = self
            .streams
            .values()
            .filter(|other| other.capture == Some(handle))
            .all(|other| other.nodes.iter().all(|&node| reached[node]));
        let capture = self.drop_capture(handle).expect("found above");
        if capture.invalidated {
            let why = format_args!("{what}: a call in between was not allowed, so there is no graph");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, why);
        }
        if !joined {
            let why = format_args!("{what}: a stream that was forked off has not been joined");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED, why);
        }
        let graph = new_handle();
        self.graphs.insert(graph, Arc::new(capture.nodes));
        Ok(graph)
    }

    fn drop_capture(&mut self, handle: Handle) -> Option<Capture> {
        for stream in self.streams.values_mut().filter(|stream| stream.capture == Some(handle)) {
            stream.capture = None;
            stream.nodes.clear();
        }
        self.captures.remove(&handle)
    }

    /// Returns `None` for a stream that is not being captured, else whether its capture is still valid.
    pub(crate) fn capture_status(&mut self, stream: Handle) -> CallResult<Option<bool>> {
        let what = "cuStreamIsCapturing";
        let (handle, state) = self.stream(what, stream)?;
        let capture = state.capture;
        let captured = |stream: &Stream| stream.blocking && stream.capture.is_some();
        if handle == LEGACY_STREAM && self.streams.values().any(captured) {
            let why =
                format_args!("{what}: the legacy stream, while one that it waits for is being captured");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, why);
        }
        Ok(capture.map(|capture| !self.captures[&capture].invalidated))
    }

    fn invalidate(&mut self, capture: Handle) {
        if let Some(capture) = self.captures.get_mut(&capture) {
            capture.invalidated = true;
        }
    }

    pub(super) fn active_capture(&mut self, what: &str, capture: Handle) -> CallResult<&mut Capture> {
        match self.captures.get_mut(&capture) {
            Some(capture) if !capture.invalidated => Ok(capture),
            _ => refuse(
                CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                format_args!("{what}: a call before was not allowed in this capture"),
            ),
        }
    }

    pub(super) fn add_node(&mut self, what: &str, capture: Handle, stream: Handle, work: Work) -> CallResult {
        let after = self.streams[&stream].nodes.clone();
        let capture = self.active_capture(what, capture)?;
        let node = capture.nodes.len();
        capture.nodes.push(Node { work: Arc::new(work), after });
        self.stream(what, stream)?.1.nodes = vec![node];
        Ok(())
    }

    /// Records a wait in a capture: the stream joins the capture of the event.
    pub(super) fn wait_captured(&mut self, what: &str, stream: Handle, event: &Event) -> CallResult {
        let Some((capture, nodes)) = &event.captured else {
            if event.recorded.is_none() {
                return Ok(());
            }
            return self.break_capture(
                stream,
                CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
                format_args!("{what}: the event was recorded outside of the capture"),
            );
        };
        if !self.captures.contains_key(capture) {
            let why = format_args!("{what}: the event was recorded in a capture that has ended");
            return self.break_capture(stream, CUresult::CUDA_ERROR_CAPTURED_EVENT, why);
        }
        if stream == LEGACY_STREAM {
            self.invalidate(*capture);
            let why = format_args!("{what}: the legacy stream cannot join a capture");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, why);
        }
        self.active_capture(what, *capture)?;
        let state = self.stream(what, stream)?.1;
        if state.capture.is_some_and(|other| other != *capture) {
            self.invalidate(*capture);
            let why = format_args!("{what}: the stream is in another capture than the event");
            return self.break_capture(stream, CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE, why);
        }
        state.capture = Some(*capture);
        state.nodes.extend(nodes);
        Ok(())
    }

    /// Refuses a call that the capture of `stream` forbids, and invalidates the capture.
    pub(crate) fn break_capture<T>(
        &mut self,
        stream: Handle,
        code: CUresult,
        why: impl std::fmt::Display,
    ) -> CallResult<T> {
        if let Some(capture) = self.streams.get(&stream).and_then(|stream| stream.capture) {
            self.invalidate(capture);
        }
        refuse(code, why)
    }

    /// Refuses calls that a stream does not allow while it is being captured.
    pub(crate) fn refuse_captured(&mut self, what: &str, stream: Handle) -> CallResult<Handle> {
        let (handle, state) = self.stream(what, stream)?;
        if state.capture.is_some() {
            return self.break_capture(
                handle,
                CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                format_args!("{what}: not allowed on a stream that is being captured"),
            );
        }
        Ok(handle)
    }

    /// Refuses calls that CUDA documents as unsafe during a capture, because it does not record them: captures of the calling thread forbid them,
    /// and so do global captures of other threads, unless the thread's mode relaxes this.
    pub(crate) fn refuse_unsafe(&mut self, what: &str) -> CallResult {
        let (me, mode) = (std::thread::current().id(), THREAD_MODE.get());
        self.refuse_during(what, |capture| match mode {
            CaptureMode::Relaxed => false,
            _ if capture.owner == me => capture.mode != CaptureMode::Relaxed,
            CaptureMode::ThreadLocal => false,
            CaptureMode::Global => capture.mode == CaptureMode::Global,
        })
    }

    /// Refuses to wait for the whole context during any capture.
    pub(crate) fn refuse_any_capture(&mut self, what: &str) -> CallResult {
        self.refuse_during(what, |_| true)
    }

    fn refuse_during(&mut self, what: &str, forbids: impl Fn(&Capture) -> bool) -> CallResult {
        let mut refused = false;
        for capture in self.captures.values_mut().filter(|capture| forbids(capture)) {
            capture.invalidated = true;
            refused = true;
        }
        if refused {
            let why = format_args!("{what}: not allowed while a stream is being captured");
            return refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, why);
        }
        Ok(())
    }

    /// Refuses the legacy stream during a capture of a blocking stream, for which it would wait.
    pub(super) fn refuse_legacy(&mut self, what: &str) -> CallResult {
        let captured: Vec<Handle> = self
            .streams
            .values()
            .filter(|stream| stream.blocking)
            .filter_map(|stream| stream.capture)
            .collect();
        if captured.is_empty() {
            return Ok(());
        }
        captured.into_iter().for_each(|capture| self.invalidate(capture));
        let why = format_args!("{what}: the legacy stream would wait for a stream that is being captured");
        refuse(CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, why)
    }

    pub(crate) fn destroy_stream(&mut self, stream: Handle) -> CallResult {
        let what = "cuStreamDestroy";
        let (handle, state) = self.stream(what, stream)?;
        if handle == LEGACY_STREAM {
            let why = format_args!("{what}: the legacy stream cannot be destroyed");
            return refuse(CUresult::CUDA_ERROR_INVALID_HANDLE, why);
        }
        if let Some(capture) = state.capture {
            self.invalidate(capture);
        }
        let stream = self.streams.remove(&handle).expect("found above");
        // The stream's work stays enqueued, and stays ordered with the legacy stream.
        if stream.blocking {
            self.stream(what, LEGACY_STREAM)?.1.tails.extend(stream.tails);
        }
        self.captures.retain(|_, capture| capture.origin != handle);
        let captures = &self.captures;
        for other in self.streams.values_mut() {
            if other.capture.is_some_and(|capture| !captures.contains_key(&capture)) {
                other.capture = None;
                other.nodes.clear();
            }
        }
        Ok(())
    }

    /// Enqueues a whole graph: after the stream's earlier work and the last launch, before the stream's later work.
    pub(crate) fn launch_graph(&mut self, executable: Handle, stream: Handle) -> CallResult {
        let what = "cuGraphLaunch";
        let Some(Executable { graph, last }) = self.executables.get(&executable) else {
            let why =
                format_args!("{what}: there is no executable graph {executable:#x}, or it is destroyed");
            return refuse(CUresult::CUDA_ERROR_INVALID_HANDLE, why);
        };
        let (graph, last) = (graph.clone(), *last);
        let (stream, state) = self.stream(what, stream)?;
        if state.capture.is_some() {
            let why = format_args!("{what}: a graph within a graph is not simulated");
            return self.break_capture(stream, CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
        let mut before = self.order(what, stream)?;
        before.extend(last);
        let mut operations: Vec<OperationId> = Vec::with_capacity(graph.len());
        for node in graph.iter() {
            let after: Vec<OperationId> = node.after.iter().map(|&other| operations[other]).collect();
            let after = if after.is_empty() { &before } else { &after };
            operations.push(self.queue.push(node.work.clone(), after));
        }
        let joined = self.enqueue(what, stream, Arc::new(Work::Nothing), &operations)?;
        if let Some(executable) = self.executables.get_mut(&executable) {
            executable.last = Some(joined);
        }
        Ok(())
    }
}
