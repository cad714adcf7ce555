//! CUDA devices, through cudarc's bindings to the driver. Libraries are looked for at run time, whatever way of linking a neighbor has chosen for cudarc.

mod blas;
mod context;
mod driver;
mod event;
mod library;
mod memory;
mod modules;
mod page_locked;
mod streams;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{result, sys};

use super::switch::switch;
use super::{Backend, Command, Direction, Error, Result, Timings, Transfer, table};
use blas::{Blas, Recorder, Workspace};
use context::{Context, Entered};
use driver::choose;
pub use driver::{CudaDevice, cuda_devices};
use event::Event;
use memory::Pool;
use modules::Modules;
use page_locked::PageLocked;
use streams::{Streams, stream_of};

/// Opens the backend of CUDA device number `ordinal`.
///
/// # Errors
/// When the kernels are not built for CUDA, there is no driver or no such device, or the device cannot run the kernels.
pub(super) fn open(ordinal: usize) -> Result<Box<dyn Backend>> {
    table::NVCC.map_err(|reason| Error::KernelsNotBuilt(reason.into()))?;
    let devices = cuda_devices()?;
    let device = choose(&devices, ordinal)?;
    Ok(Box::new(CudaBackend::open(device)?))
}

/// Name of a GEMM in messages, as it has no kernel's name.
const GEMM: &str = "a GEMM";
/// Time after which a running command is named under `RETROMAE_CUDA_SYNC=1`, for it may never end.
const SLOW: Duration = Duration::from_secs(5);

/// Backend of a CUDA device, opened once per process and alive as long as the process: nothing is unloaded or destroyed during somebody's
/// capture, or while the driver itself shuts down.
struct CudaBackend {
    description: String,
    /// With `RETROMAE_CUDA_SYNC=1`, held by whoever enqueues a command until that is done, so that an error is reported for the kernel that
    /// caused it.
    one_by_one: Option<Mutex<()>>,
    modules: Modules,
    /// An error here is reported by the first GEMM: kernels work without cuBLASLt.
    blas: Result<Blas>,
    memory: Arc<Pool>,
    staging: PageLocked,
    streams: Arc<Streams>,
    context: Arc<Context>,
}

/// Recorded work, and the workspace of its GEMMs.
struct Recording {
    executable: sys::CUgraphExec,
    workspace: Option<Arc<Workspace>>,
}

// SAFETY: the handles are process-wide, and every call enters the context on its own thread; the driver and cuBLASLt
// are thread-safe.
unsafe impl Send for CudaBackend {}
// SAFETY: as above; what changes behind a shared reference is behind a mutex.
unsafe impl Sync for CudaBackend {}

impl CudaBackend {
    fn open(device: &CudaDevice) -> Result<Self> {
        let context = Arc::new(Context::open(device.ordinal)?);
        let _entered = context.enter()?;
        let modules = Modules::open(context.device)?;
        let streams = Arc::new(Streams::open(context.clone())?);
        let memory = Arc::new(Pool::open(context.clone(), streams.clone())?);
        Ok(Self {
            description: format!("cuda {device}"),
            one_by_one: switch("RETROMAE_CUDA_SYNC", false)?.then(Mutex::default),
            modules,
            blas: Blas::open(&device.name, memory.clone()),
            memory,
            staging: PageLocked::default(),
            streams,
            context,
        })
    }

    /// Returns a stream ordered after all other streams, for a call that must come after all work, and enters the context on this thread.
    fn behind_all(&self, doing: &'static str) -> Result<(sys::CUstream, Entered)> {
        let entered = self.context.enter()?;
        let stream = self.streams.blocking;
        // A stream that is being captured is left out, as it executes nothing that could be waited for.
        self.streams.join(stream).map_err(|error| self.context.failure(doing, error))?;
        Ok((stream, entered))
    }

    /// Returns who records the next work of `stream`; where it is this crate, adds the kernel's name to the capture.
    fn recorder(&self, stream: sys::CUstream, kernel: Option<&str>) -> Result<Recorder> {
        if self.streams.note(stream, kernel) {
            return Ok(Recorder::Own);
        }
        let captured = streams::is_capturing(stream)
            .map_err(|error| self.context.failure("asking whether a stream is captured", error))?;
        Ok(if captured { Recorder::Other } else { Recorder::None })
    }

    /// Refuses a caller's stream of another context; this one must be entered.
    fn require_own(&self, stream: u64) -> Result<()> {
        let owned = self
            .context
            .owns(stream_of(stream))
            .map_err(|error| self.context.failure("looking at the caller's stream", error))?;
        if owned {
            return Ok(());
        }
        Err(Error::WrongDevice {
            argument: "handle",
            actual: format!("{stream:#x}, a stream of another context"),
            expected: format!("a stream of the primary context of {}", self.description),
        })
    }

    /// Waits for that stream, and so for all work that it was ordered after.
    fn finish(&self, stream: sys::CUstream, doing: &'static str) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(stream) }.map_err(|error| self.context.failure(doing, error))?;
        self.context.settled();
        Ok(())
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        self.one_by_one.as_ref().map(|turn| turn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits for `command`, the last one enqueued, so that an error is its own.
    fn finish_one(&self, stream: sys::CUstream, command: &str) -> Result<()> {
        let (begun, mut told) = (Instant::now(), false);
        loop {
            // SAFETY: the stream is alive.
            match unsafe { sys::cuStreamQuery(stream) }.result() {
                Ok(()) => break,
                Err(error) if error.0 == sys::CUresult::CUDA_ERROR_NOT_READY => {}
                Err(error) => return Err(self.context.failure(format_args!("running {command}"), error)),
            }
            if !told && begun.elapsed() > SLOW {
                // Written directly, as a test harness would hold back a macro's output until the test ends.
                let _ = writeln!(std::io::stderr(), "retromae: still running after {SLOW:?}: {command}");
                told = true;
            }
            std::thread::yield_now();
        }
        self.context.settled();
        Ok(())
    }

    /// # Safety
    /// As [`Backend::enqueue`].
    unsafe fn execute(&self, stream: sys::CUstream, command: &Command<'_>, recorder: Recorder) -> Result<()> {
        match command {
            Command::Launch(launch) => {
                self.context.launched(launch.kernel);
                // SAFETY: the context is current; the addresses are the caller's promise.
                unsafe { self.modules.launch(&self.context, launch, stream) }
            }
            Command::Gemm(gemm, memory) => {
                self.context.launched(GEMM);
                let blas = self.blas.as_ref().map_err(Clone::clone)?;
                // SAFETY: passed on to the caller.
                unsafe { blas.run(gemm, *memory, stream, recorder) }
            }
            Command::Transfer(transfer) => {
                // SAFETY: passed on to the caller.
                unsafe { copy(transfer, stream) }.map_err(|error| {
                    self.context.failure(format_args!("copying {} bytes", transfer.bytes), error)
                })
            }
            Command::Zero { bytes: 0, .. } => Ok(()),
            Command::Zero { address, bytes } => {
                // SAFETY: passed on to the caller.
                unsafe { result::memset_d8_async(*address, 0, *bytes, stream) }
                    .map_err(|error| self.context.failure(format_args!("zeroing {bytes} bytes"), error))
            }
        }
    }
}

/// Names a graph in messages: by its kernels, each once.
fn name_graph(kernels: &[String]) -> String {
    let names: BTreeSet<&str> = kernels.iter().map(String::as_str).collect();
    format!("a graph of {}", names.into_iter().collect::<Vec<_>>().join(", "))
}

/// # Safety
/// Both ranges are valid and do not overlap.
unsafe fn copy(transfer: &Transfer, stream: sys::CUstream) -> std::result::Result<(), result::DriverError> {
    let Transfer { direction, destination, source, bytes } = *transfer;
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: passed on to the caller; host memory of a transfer is page-locked, so the driver returns before the copy.
    unsafe {
        match direction {
            Direction::WithinDevice => sys::cuMemcpyDtoDAsync_v2(destination, source, bytes, stream),
            Direction::ToDevice => sys::cuMemcpyHtoDAsync_v2(destination, source as *const _, bytes, stream),
            Direction::ToHost => sys::cuMemcpyDtoHAsync_v2(destination as *mut _, source, bytes, stream),
        }
        .result()
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn shared_bytes_max(&self) -> u32 {
        self.modules.shared_bytes_max()
    }

    fn check_memory(&self, address: u64, bytes: usize) -> Result<()> {
        // Two calls of the driver, which release builds do without.
        if cfg!(debug_assertions) { self.memory.require_reachable(address, bytes) } else { Ok(()) }
    }

    fn gemm_workspace_bytes(&self) -> usize {
        blas::WORKSPACE_BYTES
    }

    fn gemm_library(&self) -> Result<String> {
        self.blas.as_ref().map(Blas::library).map_err(Clone::clone)
    }

    fn timings(&self) -> Timings {
        Timings::default()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        let _entered = self.context.enter()?;
        self.memory.allocate(bytes)
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        // SAFETY: passed on to the caller.
        unsafe { self.memory.free(address) }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<u64> {
        let _entered = self.context.enter()?;
        self.staging.allocate(&self.context, bytes)
    }

    unsafe fn free_staging(&self, address: u64, bytes: usize) {
        self.staging.free(address, bytes);
    }

    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()> {
        let doing = "write to a buffer";
        let (stream, _entered) = self.behind_all(doing)?;
        if !source.is_empty() {
            // SAFETY: valid by the caller's promise; `source` is borrowed until the copy is done.
            unsafe { result::memcpy_htod_async(destination, source, stream) }
                .map_err(|error| self.context.failure(doing, error))?;
        }
        self.finish(stream, doing)
    }

    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()> {
        let doing = "read a buffer";
        let (stream, _entered) = self.behind_all(doing)?;
        if !destination.is_empty() {
            // SAFETY: as in `upload`, the other way.
            unsafe { result::memcpy_dtoh_async(destination, source, stream) }
                .map_err(|error| self.context.failure(doing, error))?;
        }
        self.finish(stream, doing)
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        let doing = "zero a buffer";
        let (stream, _entered) = self.behind_all(doing)?;
        // SAFETY: passed on to the caller.
        unsafe { self.execute(stream, &Command::Zero { address, bytes }, Recorder::None)? };
        self.finish(stream, doing)
    }

    fn default_stream(&self) -> u64 {
        self.streams.default_stream() as u64
    }

    fn create_stream(&self) -> Result<u64> {
        let _entered = self.context.enter()?;
        let stream = streams::create(&self.context)?;
        self.streams.add(stream);
        Ok(stream as u64)
    }

    unsafe fn adopt_stream(&self, stream: u64) -> Result<()> {
        let _entered = self.context.enter()?;
        self.require_own(stream)?;
        // Loaded now, as the stream's owner may capture it at any time.
        self.modules.load_all()?;
        self.streams.add(stream_of(stream));
        Ok(())
    }

    unsafe fn lent_stream(&self, handle: u64) -> Result<u64> {
        let _entered = self.context.enter()?;
        self.require_own(handle)?;
        self.modules.load_all()?;
        Ok(handle)
    }

    unsafe fn release_stream(&self, stream: u64, adopted: bool) {
        let Ok(_entered) = self.context.enter() else { return };
        let stream = stream_of(stream);
        self.streams.remove(stream);
        if let Ok(blas) = &self.blas {
            blas.forget(stream);
        }
        if !adopted {
            // SAFETY: made by `create_stream`; the driver destroys it when its work is done.
            let _ = unsafe { result::stream::destroy(stream) };
        }
    }

    unsafe fn enqueue(&self, stream: u64, command: &Command<'_>) -> Result<()> {
        let stream = stream_of(stream);
        let _entered = self.context.enter()?;
        let (kernel, name) = match command {
            Command::Launch(launch) => (Some(launch.kernel), launch.kernel),
            Command::Gemm(..) => (None, GEMM),
            Command::Transfer(_) => (None, "a copy"),
            Command::Zero { .. } => (None, "a fill with zeros"),
        };
        let with_host = matches!(command, Command::Transfer(Transfer { direction, .. }) if *direction != Direction::WithinDevice);
        let recorder = self.recorder(stream, kernel)?;
        if recorder != Recorder::None && with_host {
            return Err(Error::Capturing("copy from or to the host"));
        }
        let turn = self.turn().filter(|_| recorder == Recorder::None);
        // SAFETY: passed on to the caller.
        unsafe { self.execute(stream, command, recorder)? };
        if turn.is_some() { self.finish_one(stream, name) } else { Ok(()) }
    }

    unsafe fn synchronize(&self, stream: u64) -> Result<()> {
        let _entered = self.context.enter()?;
        let doing = "wait for the stream";
        self.streams.require_running(stream_of(stream), doing)?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(stream_of(stream)) }
            .map_err(|error| self.context.failure("waiting for the stream", error))
    }

    unsafe fn record(&self, stream: u64) -> Result<u64> {
        let _entered = self.context.enter()?;
        let failure = |error| self.context.failure("recording an event", error);
        let event = Event::timed().map_err(failure)?;
        // SAFETY: the stream is alive.
        unsafe { event.record(stream_of(stream)) }.map_err(failure)?;
        Ok(event.into_handle())
    }

    unsafe fn wait(&self, stream: u64, event: u64) -> Result<()> {
        let _entered = self.context.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(stream_of(stream), event as sys::CUevent, flags) }
            .map_err(|error| self.context.failure("waiting for an event on a stream", error))
    }

    unsafe fn wait_for_event(&self, event: u64) -> Result<()> {
        let _entered = self.context.enter()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(event as sys::CUevent) }
            .map_err(|error| self.context.failure("waiting for an event", error))
    }

    unsafe fn elapsed(&self, from: u64, to: u64) -> Result<f64> {
        let _entered = self.context.enter()?;
        // SAFETY: both are alive and have completed.
        unsafe { driver::milliseconds(from as sys::CUevent, to as sys::CUevent) }
            .map(|milliseconds| f64::from(milliseconds) / 1e3)
            .map_err(|error| self.context.failure("measuring a time", error))
    }

    unsafe fn free_event(&self, event: u64) {
        if let Ok(_entered) = self.context.enter() {
            // SAFETY: of this device, not used afterwards.
            drop(unsafe { Event::of_handle(event) });
        }
    }

    unsafe fn is_capturing(&self, stream: u64) -> Result<bool> {
        let _entered = self.context.enter()?;
        streams::is_capturing(stream_of(stream))
            .map_err(|error| self.context.failure("asking whether a stream is captured", error))
    }

    unsafe fn begin_capture(&self, stream: u64) -> Result<()> {
        let _entered = self.context.enter()?;
        self.modules.load_all()?;
        self.streams.begin_capture(stream_of(stream))
    }

    unsafe fn end_capture(&self, stream: u64) -> Result<(u64, Vec<String>)> {
        let _entered = self.context.enter()?;
        let failure = |error| self.context.failure("ending a capture", error);
        let stream = stream_of(stream);
        let kernels = self.streams.end_capture(stream);
        // SAFETY: the stream is being captured.
        let captured = unsafe { result::stream::end_capture(stream) };
        self.memory.free_deferred();
        let graph = captured.map_err(failure)?;
        // SAFETY: the graph is complete; its executable form needs it no more.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        let executable = executable.map_err(failure)?;
        let workspace = self.blas.as_ref().ok().and_then(|blas| blas.recorded(stream));
        Ok((Box::into_raw(Box::new(Recording { executable, workspace })) as u64, kernels))
    }

    unsafe fn launch_graph(&self, graph: u64, stream: u64, kernels: &[String]) -> Result<()> {
        let _entered = self.context.enter()?;
        let stream = stream_of(stream);
        // SAFETY: it came from `end_capture` and is alive.
        let Recording { executable, workspace } = unsafe { &*(graph as *const Recording) };
        self.streams.require_running(stream, "launch a graph")?;
        let turn = self.turn();
        let name = if turn.is_some() { name_graph(kernels) } else { "a graph".into() };
        self.context.launched(&name);
        // SAFETY: both are alive; the addresses are the caller's promise.
        let launch = || unsafe { result::graph::launch(*executable, stream) };
        let launched = match workspace {
            // SAFETY: the stream is alive.
            Some(workspace) => unsafe { workspace.in_turn(stream, launch) },
            None => launch(),
        };
        launched.map_err(|error| self.context.failure("launching a graph", error))?;
        if turn.is_some() { self.finish_one(stream, &name) } else { Ok(()) }
    }

    unsafe fn free_graph(&self, graph: u64) {
        // SAFETY: it came from `end_capture` and is not used any more.
        let Recording { executable, workspace } = *unsafe { Box::from_raw(graph as *mut Recording) };
        let Ok(_entered) = self.context.enter() else { return };
        // SAFETY: of this device, not used afterwards; one that still runs is destroyed after.
        let _ = unsafe { result::graph::exec_destroy(executable) };
        // Its event needs the context.
        drop(workspace);
    }
}
