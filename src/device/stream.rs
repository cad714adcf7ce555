//! Streams: ordered queues of work on a device. Events mark points in them, graphs replay recorded work.

use std::sync::Arc;
use std::time::Duration;

use super::{
    Backend, Device, DeviceMemory, Element, Error, Gemm, GemmMemory, GemmWorkspace, Kernel, LaunchShape,
    Result, View, ViewMut,
};

/// One kernel launch. `params` are the bytes of the kernel's params struct.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    pub kernel: &'a str,
    pub shape: LaunchShape,
    pub params: &'a [u8],
}

impl Launch<'_> {
    /// Refuses a launch that does not fit a kernel of `threads` threads per block and params of `params_bytes` bytes, or whose block needs more than
    /// `shared_bytes_max` bytes of shared memory.
    pub(super) fn check(&self, threads: u32, params_bytes: u32, shared_bytes_max: u32) -> Result<()> {
        let wrong = |argument, actual: String, expected: String| {
            Err(Error::Launch { kernel: self.kernel.to_string(), argument, actual, expected })
        };
        let LaunchShape { threads: actual, shared_bytes, .. } = self.shape;
        if actual != threads {
            return wrong("threads", actual.to_string(), threads.to_string());
        }
        if self.params.len() != params_bytes as usize {
            return wrong("params", format!("{} bytes", self.params.len()), format!("{params_bytes} bytes"));
        }
        if shared_bytes > shared_bytes_max {
            return wrong(
                "shared_bytes",
                shared_bytes.to_string(),
                format!("at most {shared_bytes_max} on this device"),
            );
        }
        Ok(())
    }
}

/// Direction of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    WithinDevice,
    /// From [`Staging`](super::Staging) memory.
    ToDevice,
    /// To [`Staging`](super::Staging) memory.
    ToHost,
}

/// A copy of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    pub direction: Direction,
    pub destination: u64,
    pub source: u64,
    pub bytes: usize,
}

/// A command that a stream executes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command<'a> {
    Launch(Launch<'a>),
    Gemm(Gemm, GemmMemory),
    Transfer(Transfer),
    Zero { address: u64, bytes: usize },
}

/// Ownership of a stream, which decides what happens when its last clone is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The device's own stream, which lives as long as the device.
    Device,
    This,
    /// The caller's, of which the device knows as long as it is borrowed.
    Caller,
    /// The caller's, of which the device knows nothing; with the memory of its GEMMs.
    Lender(Option<GemmWorkspace>),
}

#[derive(Debug)]
struct Handle {
    device: Device,
    stream: u64,
    owner: Owner,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let adopted = match self.owner {
            Owner::Device | Owner::Lender(_) => return,
            Owner::This => false,
            Owner::Caller => true,
        };
        // SAFETY: made or adopted by this device; nobody else has the handle.
        unsafe { self.device.backend().release_stream(self.stream, adopted) }
    }
}

/// An ordered queue of work on a device. The CPU emulator finishes each command before the call returns; a GPU works asynchronously, and its
/// errors are reported by a later call.
///
/// Work of different streams is not ordered: a stream that needs another one's results must [`wait`](Self::wait) for it. Reading and writing
/// buffers from the host waits for all streams except one that another thread is [capturing](Self::capture).
#[derive(Clone, Debug)]
pub struct Stream {
    handle: Arc<Handle>,
}

impl Stream {
    fn of(device: &Device, stream: u64, owner: Owner) -> Self {
        Self { handle: Arc::new(Handle { device: device.clone(), stream, owner }) }
    }

    pub(super) fn own(device: &Device) -> Self {
        Self::of(device, device.backend().default_stream(), Owner::Device)
    }

    pub(super) fn create(device: &Device) -> Result<Self> {
        Ok(Self::of(device, device.backend().create_stream()?, Owner::This))
    }

    /// # Safety
    /// As [`Device::borrow_stream`].
    pub(super) unsafe fn adopt(device: &Device, stream: u64) -> Result<Self> {
        // SAFETY: passed on to the caller.
        unsafe { device.backend().adopt_stream(stream)? };
        Ok(Self::of(device, stream, Owner::Caller))
    }

    /// # Safety
    /// As [`Device::lend_stream`].
    pub(super) unsafe fn lent(
        device: &Device,
        stream: u64,
        gemm_workspace: Option<GemmWorkspace>,
    ) -> Result<Self> {
        if let Some(workspace) = gemm_workspace {
            workspace.check(device)?;
        }
        // SAFETY: passed on to the caller.
        let stream = unsafe { device.backend().lent_stream(stream)? };
        Ok(Self::of(device, stream, Owner::Lender(gemm_workspace)))
    }

    fn backend(&self) -> &dyn Backend {
        self.handle.device.backend()
    }

    /// The device of this stream.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.handle.device
    }

    /// The `CUstream` of a CUDA device, to enqueue other work beside this crate's; a mere number on the CPU emulator.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.handle.stream
    }

    /// Returns the address of an argument's first element, for the params struct of a kernel that runs on this stream.
    ///
    /// # Errors
    /// When the argument belongs to another device.
    pub(crate) fn address<A: DeviceMemory>(&self, argument: &'static str, memory: &A) -> Result<u64> {
        self.device().require_same(argument, memory.device())?;
        Ok(memory.address())
    }

    /// Returns whether waiting is impossible: this stream is being captured, or the calling thread is capturing another one.
    pub(crate) fn is_capturing(&self) -> Result<bool> {
        // SAFETY: the stream is alive and of this device.
        Ok(self.device().captures_here() || unsafe { self.backend().is_capturing(self.handle.stream)? })
    }

    /// Refuses an operation that makes no sense in a capture of this stream.
    pub(super) fn require_running(&self, doing: &'static str) -> Result<()> {
        // SAFETY: the stream is alive and of this device.
        if unsafe { self.backend().is_capturing(self.handle.stream)? } {
            return Err(Error::Capturing(doing));
        }
        Ok(())
    }

    /// Waits until all enqueued work is done.
    ///
    /// # Errors
    /// The first error of that work; also within a capture.
    pub fn synchronize(&self) -> Result<()> {
        self.device().require_no_capture("wait for a stream")?;
        // SAFETY: the stream lives as long as its handle.
        unsafe { self.backend().synchronize(self.handle.stream) }
    }

    /// Records an event after all work that has been enqueued so far.
    ///
    /// # Errors
    /// An error of the device; also where this stream is being captured, as recorded work is not executed.
    pub fn record(&self) -> Result<Event> {
        self.require_running("record an event")?;
        // SAFETY: the stream lives as long as its handle.
        let event = unsafe { self.backend().record(self.handle.stream)? };
        Ok(Event { device: self.device().clone(), event })
    }

    /// Makes all work that is enqueued from here on begin after `event`.
    ///
    /// # Errors
    /// When the event belongs to another device, or this stream is being captured: a graph waits for nothing from outside.
    pub fn wait(&self, event: &Event) -> Result<()> {
        self.device().require_same("event", &event.device)?;
        self.require_running("let a stream wait for an event")?;
        // SAFETY: both are of this device and alive.
        unsafe { self.backend().wait(self.handle.stream, event.event) }
    }

    /// Enqueues `view = 0`.
    ///
    /// # Errors
    /// When the view belongs to another device.
    pub fn zero<T: Element>(&self, view: ViewMut<'_, T>) -> Result<()> {
        self.device().require_same("view", view.device())?;
        let command = Command::Zero { address: view.address(), bytes: view.len() * size_of::<T>() };
        // SAFETY: the view is exclusive and valid for its length.
        unsafe { self.enqueue(&command) }
    }

    /// Enqueues `destination = source`.
    ///
    /// # Errors
    /// When the lengths differ, or a view belongs to another device.
    pub fn copy<T: Element>(&self, destination: ViewMut<'_, T>, source: View<'_, T>) -> Result<()> {
        self.device().require_same("destination", destination.device())?;
        self.device().require_same("source", source.device())?;
        if source.len() != destination.len() {
            return Err(Error::Argument {
                argument: "source",
                actual: format!("{} elements", source.len()),
                expected: format!("{} elements, as destination", destination.len()),
            });
        }
        let transfer = Transfer {
            direction: Direction::WithinDevice,
            destination: destination.address(),
            source: source.address(),
            bytes: source.len() * size_of::<T>(),
        };
        // SAFETY: both views are valid for the length; one is exclusive, so they do not overlap.
        unsafe { self.enqueue(&Command::Transfer(transfer)) }
    }

    /// Launches `kernel` with `params` by value, in the configuration that its source declares for them; a launch without blocks does nothing.
    ///
    /// # Errors
    /// When the device has no such kernel, or the launch exceeds the device's limits.
    ///
    /// # Safety
    /// Every address in `params` is valid for what the kernel does with it, until the work is done.
    #[doc(hidden)]
    pub unsafe fn launch<P: Copy>(&self, kernel: Kernel<P>, params: &P) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { self.launch_shape(kernel.name(), kernel.shape(params)?, params) }
    }

    /// Launches the kernel of this name in a configuration that the caller has already computed, or, in tests, in another one than it declares.
    ///
    /// # Errors
    /// When there is no such kernel, or the launch does not fit it.
    ///
    /// # Safety
    /// As [`launch`](Self::launch); also, the kernel accepts the shape.
    #[doc(hidden)]
    pub unsafe fn launch_shape<P: Copy>(&self, kernel: &str, shape: LaunchShape, params: &P) -> Result<()> {
        // SAFETY: params structs are plain C without padding (asserted by their layout tests), so all bytes are initialized.
        let params = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(params).cast(), size_of::<P>()) };
        // SAFETY: passed on to the caller.
        unsafe { self.launch_bytes(kernel, shape, params) }
    }

    /// As [`launch_shape`](Self::launch_shape), with the bytes of the params struct.
    ///
    /// # Errors
    /// As [`launch_shape`](Self::launch_shape).
    ///
    /// # Safety
    /// As [`launch_shape`](Self::launch_shape).
    #[doc(hidden)]
    pub unsafe fn launch_bytes(&self, kernel: &str, shape: LaunchShape, params: &[u8]) -> Result<()> {
        if shape.grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: passed on to the caller.
        unsafe { self.enqueue(&Command::Launch(Launch { kernel, shape, params })) }
    }

    /// # Safety
    /// The three matrices are valid for their shapes until the work is done, and `c` overlaps neither operand.
    pub(crate) unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        if gemm.m == 0 || gemm.n == 0 {
            return Ok(());
        }
        let memory = match self.handle.owner {
            Owner::Lender(Some(GemmWorkspace { address, .. })) => GemmMemory::Lent(address),
            Owner::Lender(None) if self.device().gemm_workspace_bytes() > 0 => {
                return Err(Error::Argument {
                    argument: "gemm_workspace",
                    actual: "none".into(),
                    expected: format!("{} bytes on this device", self.device().gemm_workspace_bytes()),
                });
            }
            _ => GemmMemory::Device,
        };
        // SAFETY: passed on to the caller.
        unsafe { self.enqueue(&Command::Gemm(*gemm, memory)) }
    }

    /// # Safety
    /// The addresses of `command` are valid for what it does, until the work is done.
    pub(super) unsafe fn enqueue(&self, command: &Command<'_>) -> Result<()> {
        // SAFETY: the stream lives as long as its handle; the rest is the caller's promise.
        unsafe { self.backend().enqueue(self.handle.stream, command) }
    }

    /// Records the work that `work` enqueues on this stream, instead of executing it. A graph of a whole training step saves the host the
    /// launches, and the GPU the gaps between kernels.
    ///
    /// Kernels see device memory as it is when the graph runs; arguments passed by value stay as they were when recorded.
    ///
    /// The device's [own stream](Device::stream) cannot be captured: work that others enqueue on it meanwhile would end up in the recording. A
    /// [lent](Device::lend_stream) one is captured by its owner.
    ///
    /// Until `work` returns, this thread cannot wait for the device, as recorded work is not executed: it can neither read, write nor allocate
    /// [buffers](super::Buffer) and [staging memory](super::Staging), nor wait for a stream or an event. On the captured stream itself no graph
    /// is launched, no event is recorded or waited for, and nothing is copied from or to the host. All of this is refused and leaves the
    /// recording as it was. Other streams go on, and memory, streams and events dropped meanwhile are freed once that is allowed.
    ///
    /// # Errors
    /// Those of `work`, and an error of the device where something cannot be recorded; also when the stream is already being captured, or is the
    /// device's own.
    pub fn capture<E: From<Error>>(
        &self,
        work: impl FnOnce(&Self) -> std::result::Result<(), E>,
    ) -> std::result::Result<Graph, E> {
        let refused = match self.handle.owner {
            Owner::Device => {
                Some(("the device's own", "one of Device::new_stream, as all may give the own one work"))
            }
            Owner::Lender(_) => Some(("lent", "one of Device::new_stream or Device::borrow_stream")),
            Owner::This | Owner::Caller => None,
        };
        if let Some((actual, expected)) = refused {
            let (actual, expected) = (actual.into(), expected.into());
            return Err(E::from(Error::Argument { argument: "stream", actual, expected }));
        }
        // SAFETY: the stream lives as long as its handle.
        unsafe { self.backend().begin_capture(self.handle.stream)? };
        let capture = Capture::of(self);
        work(self)?;
        Ok(capture.end()?)
    }
}

/// A capture in progress, which ends even when the captured work fails.
struct Capture<'a> {
    stream: &'a Stream,
}

impl<'a> Capture<'a> {
    /// Wraps `stream`, whose capture has just begun.
    fn of(stream: &'a Stream) -> Self {
        stream.device().capturing().push(std::thread::current().id());
        Self { stream }
    }

    fn end(self) -> Result<Graph> {
        let graph = self.finish();
        std::mem::forget(self);
        graph
    }

    fn finish(&self) -> Result<Graph> {
        let Handle { device, stream, .. } = &*self.stream.handle;
        let mut capturing = device.capturing();
        if let Some(index) = capturing.iter().position(|&thread| thread == std::thread::current().id()) {
            capturing.swap_remove(index);
        }
        drop(capturing);
        // SAFETY: the stream is being captured since `of`.
        let (graph, kernels) = unsafe { device.backend().end_capture(*stream)? };
        Ok(Graph { device: device.clone(), graph, kernels })
    }
}

impl Drop for Capture<'_> {
    fn drop(&mut self) {
        // The captured work failed, so its graph is dropped, and an error in ending the capture adds nothing.
        let _ = self.finish();
    }
}

/// A point in a stream's work.
#[derive(Debug)]
pub struct Event {
    device: Device,
    event: u64,
}

impl Event {
    /// Waits until the stream has reached this point.
    ///
    /// # Errors
    /// An error of the work before it; also within a capture.
    pub fn synchronize(&self) -> Result<()> {
        self.device.require_no_capture("wait for an event")?;
        self.settle()
    }

    /// As [`synchronize`](Self::synchronize), but allowed within a capture: no event belongs to a captured stream.
    pub(super) fn settle(&self) -> Result<()> {
        // SAFETY: of this device and alive.
        unsafe { self.device.backend().wait_for_event(self.event) }
    }

    /// Returns the time between two events, as the device measures it; waits for both.
    ///
    /// # Errors
    /// An error of the work before them; when they belong to different devices, or `earlier` came later; also within a capture.
    pub fn elapsed_since(&self, earlier: &Self) -> Result<Duration> {
        self.device.require_same("earlier", &earlier.device)?;
        earlier.synchronize()?;
        self.synchronize()?;
        // SAFETY: both are of this device and have completed.
        let seconds = unsafe { self.device.backend().elapsed(earlier.event, self.event)? };
        Duration::try_from_secs_f64(seconds).map_err(|_| Error::Argument {
            argument: "earlier",
            actual: format!("{} ms after this event", -1e3 * seconds),
            expected: "recorded before it".into(),
        })
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: of this device; nobody else has the handle.
        unsafe { self.device.backend().free_event(self.event) }
    }
}

/// Recorded work of a stream, see [`Stream::capture`].
#[derive(Debug)]
pub struct Graph {
    device: Device,
    graph: u64,
    kernels: Vec<String>,
}

impl Graph {
    /// Enqueues the recorded work on `stream`, as one unit.
    ///
    /// # Errors
    /// When the stream belongs to another device.
    ///
    /// # Safety
    /// Every buffer that the recorded work reads or writes is still alive, and nothing else uses it before the work is done.
    pub unsafe fn launch(&self, stream: &Stream) -> Result<()> {
        self.device.require_same("stream", stream.device())?;
        // SAFETY: both are of this device; the rest is the caller's promise.
        unsafe { self.device.backend().launch_graph(self.graph, stream.handle.stream, &self.kernels) }
    }

    /// Names of its kernels in the order of their launches; a GEMM library's matmuls have none.
    #[must_use]
    pub fn kernels(&self) -> &[String] {
        &self.kernels
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: of this device; nobody else has the handle.
        unsafe { self.device.backend().free_graph(self.graph) }
    }
}
