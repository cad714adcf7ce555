//! CUDA devices, through cudarc's bindings to the driver, which is loaded at run time.

mod blas;
mod context;
mod driver;
mod memory;
mod modules;
mod streams;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use cudarc::driver::{result, sys};

use super::switch::switch;
use super::{Backend, Command, Direction, Error, Result, Timings, Transfer, table};
use blas::Blas;
use context::Context;
use driver::choose;
pub use driver::{CudaDevice, cuda_devices};
use memory::Pool;
use modules::Modules;
use streams::{Streams, stream_of};

/// The backend of CUDA device number `ordinal`.
///
/// # Errors
/// When the kernels are not built for CUDA, there is no driver or no such device, or the device cannot run the kernels.
pub(super) fn open(ordinal: usize) -> Result<Box<dyn Backend>> {
    table::NVCC.map_err(|reason| Error::KernelsNotBuilt(reason.into()))?;
    let devices = cuda_devices()?;
    let device = choose(&devices, ordinal)?;
    Ok(Box::new(CudaBackend::open(device)?))
}

/// What messages call a product, which has no kernel's name.
const PRODUCT: &str = "a matrix product";
/// A command that takes longer than this with `RETROMAE_CUDA_SYNC=1` is named while it runs, for it may never end.
const SLOW: Duration = Duration::from_secs(5);

/// Fields are dropped in order: the context last.
struct CudaBackend {
    description: String,
    /// Wait after every launch, so that an error is reported for the kernel that made it.
    wait_for_each: bool,
    modules: Modules,
    /// An error here is reported by the first product: kernels work without the library.
    blas: Result<Blas>,
    memory: Pool,
    streams: Streams,
    context: Context,
}

// SAFETY: the handles are process-wide, and every call makes the context current on its own thread; the driver and cuBLASLt
// are thread-safe.
unsafe impl Send for CudaBackend {}
// SAFETY: as above; what changes behind a shared reference is behind a mutex.
unsafe impl Sync for CudaBackend {}

impl CudaBackend {
    fn open(device: &CudaDevice) -> Result<Self> {
        let context = Context::open(device.ordinal)?;
        let modules = Modules::load(context.device)?;
        let streams = Streams::open(&context)?;
        Ok(Self {
            description: format!("cuda {device}"),
            wait_for_each: switch("RETROMAE_CUDA_SYNC", false)?,
            modules,
            blas: Blas::open(&device.name),
            memory: Pool::open(&context)?,
            streams,
            context,
        })
    }

    /// The own stream, made ready for a call that is to come after all work: on a thread in the context, behind every stream.
    fn behind_all(&self, doing: &'static str) -> Result<sys::CUstream> {
        self.context.enter()?;
        let stream = self.streams.default_stream();
        self.streams.require_running(&self.context, stream, doing)?;
        // A stream that is being captured does nothing that could be waited for.
        self.streams.join(stream).map_err(|error| self.context.failure(doing, error))?;
        Ok(stream)
    }

    /// Waits for the own stream, and with it for all that it was ordered behind.
    fn finish(&self, stream: sys::CUstream, doing: &'static str) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(stream) }.map_err(|error| self.context.failure(doing, error))?;
        self.context.settled();
        Ok(())
    }

    /// Waits for `command`, which was enqueued last, so that an error is its own.
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
                // Not by a macro, whose output a test harness would hold back until the test ends.
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
    unsafe fn execute(&self, stream: sys::CUstream, command: &Command<'_>) -> Result<()> {
        match command {
            Command::Launch(launch) => {
                self.context.launched(launch.kernel);
                // SAFETY: the context is current; the addresses are the caller's promise.
                unsafe { self.modules.launch(&self.context, launch, stream) }
            }
            Command::Gemm(gemm) => {
                self.context.launched(PRODUCT);
                let blas = self.blas.as_ref().map_err(Clone::clone)?;
                // SAFETY: passed on to the caller.
                unsafe { blas.run(gemm, stream) }
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

impl Drop for CudaBackend {
    fn drop(&mut self) {
        // Not for the whole context: others in the process have it too, and may be recording.
        if self.context.enter().is_ok() {
            let _ = self.streams.join(self.memory.freeing());
            // SAFETY: the stream is alive.
            let _ = unsafe { result::stream::synchronize(self.memory.freeing()) };
        }
    }
}

/// What messages call a graph: by its kernels, each once.
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

    fn gemm_library(&self) -> Result<String> {
        self.blas.as_ref().map(Blas::library).map_err(Clone::clone)
    }

    fn timings(&self) -> Timings {
        Timings::default()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.context.enter()?;
        self.memory.allocate(&self.context, &self.streams, bytes)
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        // A context that cannot be entered any more has lost its memory.
        if self.context.enter().is_ok() {
            // SAFETY: passed on to the caller.
            unsafe { self.memory.free(&self.context, &self.streams, address) }
        }
    }

    fn allocate_staging(&self, bytes: usize) -> Result<u64> {
        self.context.enter()?;
        // SAFETY: a plain allocation; the driver refuses one of no bytes.
        let allocated = unsafe { result::malloc_host(bytes.max(1), 0) };
        allocated.map(|address| address as u64).map_err(|error| {
            self.context.failure(format_args!("allocating {bytes} bytes of page-locked host memory"), error)
        })
    }

    unsafe fn free_staging(&self, address: u64, _bytes: usize) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated by `allocate_staging`, and no copy is in flight.
            let _ = unsafe { result::free_host(address as *mut _) };
        }
    }

    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()> {
        let doing = "write to a buffer";
        let stream = self.behind_all(doing)?;
        if !source.is_empty() {
            // SAFETY: valid by the caller's promise; `source` is borrowed until the copy is done.
            unsafe { result::memcpy_htod_async(destination, source, stream) }
                .map_err(|error| self.context.failure(doing, error))?;
        }
        self.finish(stream, doing)
    }

    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()> {
        let doing = "read a buffer";
        let stream = self.behind_all(doing)?;
        if !destination.is_empty() {
            // SAFETY: as in `upload`, the other way.
            unsafe { result::memcpy_dtoh_async(destination, source, stream) }
                .map_err(|error| self.context.failure(doing, error))?;
        }
        self.finish(stream, doing)
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        let doing = "zero a buffer";
        let stream = self.behind_all(doing)?;
        // SAFETY: passed on to the caller.
        unsafe { self.execute(stream, &Command::Zero { address, bytes })? };
        self.finish(stream, doing)
    }

    fn default_stream(&self) -> u64 {
        self.streams.default_stream() as u64
    }

    fn create_stream(&self) -> Result<u64> {
        self.context.enter()?;
        let stream = streams::create(&self.context)?;
        self.streams.add(stream);
        Ok(stream as u64)
    }

    unsafe fn adopt_stream(&self, stream: u64) -> Result<()> {
        self.context.enter()?;
        let owned = self
            .context
            .owns(stream_of(stream))
            .map_err(|error| self.context.failure("looking at the caller's stream", error))?;
        if !owned {
            return Err(Error::Argument {
                argument: "handle",
                actual: format!("{stream:#x}, a stream of another context"),
                expected: format!("a stream of the primary context of {}", self.description),
            });
        }
        self.streams.add(stream_of(stream));
        Ok(())
    }

    unsafe fn release_stream(&self, stream: u64, adopted: bool) {
        if self.context.enter().is_err() {
            return;
        }
        let stream = stream_of(stream);
        self.streams.remove(&self.context, stream, self.memory.freeing());
        if !adopted {
            if let Ok(blas) = &self.blas {
                blas.forget(stream);
            }
            // SAFETY: made by `create_stream`; the driver destroys it when its work is done.
            let _ = unsafe { result::stream::destroy(stream) };
        }
    }

    unsafe fn enqueue(&self, stream: u64, command: &Command<'_>) -> Result<()> {
        let stream = stream_of(stream);
        self.context.enter()?;
        let (kernel, name) = match command {
            Command::Launch(launch) => (Some(launch.kernel), launch.kernel),
            Command::Gemm(_) => (None, PRODUCT),
            Command::Transfer(_) => (None, "a copy"),
            Command::Zero { .. } => (None, "a fill with zeros"),
        };
        let with_host = matches!(command, Command::Transfer(Transfer { direction, .. }) if *direction != Direction::WithinDevice);
        let captured = self.streams.note(stream, kernel);
        if captured && with_host {
            return Err(Error::Capturing("copy from or to the host"));
        }
        // SAFETY: passed on to the caller.
        unsafe { self.execute(stream, command)? };
        if self.wait_for_each && !captured {
            self.finish_one(stream, name)?;
        }
        Ok(())
    }

    unsafe fn synchronize(&self, stream: u64) -> Result<()> {
        self.context.enter()?;
        let doing = "wait for the stream";
        self.streams.require_running(&self.context, stream_of(stream), doing)?;
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(stream_of(stream)) }
            .map_err(|error| self.context.failure("waiting for the stream", error))
    }

    unsafe fn record(&self, stream: u64) -> Result<u64> {
        self.context.enter()?;
        let failure = |error| self.context.failure("recording an event", error);
        let event = result::event::create(sys::CUevent_flags::CU_EVENT_DEFAULT).map_err(failure)?;
        // SAFETY: both are alive.
        match unsafe { result::event::record(event, stream_of(stream)) } {
            Ok(()) => Ok(event as u64),
            Err(error) => {
                // SAFETY: made above.
                let _ = unsafe { result::event::destroy(event) };
                Err(failure(error))
            }
        }
    }

    unsafe fn wait(&self, stream: u64, event: u64) -> Result<()> {
        self.context.enter()?;
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: both are alive.
        unsafe { result::stream::wait_event(stream_of(stream), event as sys::CUevent, flags) }
            .map_err(|error| self.context.failure("waiting for an event on a stream", error))
    }

    unsafe fn wait_for_event(&self, event: u64) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the event is alive.
        unsafe { result::event::synchronize(event as sys::CUevent) }
            .map_err(|error| self.context.failure("waiting for an event", error))
    }

    unsafe fn elapsed(&self, from: u64, to: u64) -> Result<f64> {
        self.context.enter()?;
        // SAFETY: both are alive and over.
        unsafe { driver::milliseconds(from as sys::CUevent, to as sys::CUevent) }
            .map(|milliseconds| f64::from(milliseconds) / 1e3)
            .map_err(|error| self.context.failure("measuring a time", error))
    }

    unsafe fn free_event(&self, event: u64) {
        if self.context.enter().is_ok() {
            // SAFETY: of this device, not used afterwards; the driver waits for it if it must.
            let _ = unsafe { result::event::destroy(event as sys::CUevent) };
        }
    }

    unsafe fn is_capturing(&self, stream: u64) -> Result<bool> {
        self.context.enter()?;
        streams::is_capturing(stream_of(stream))
            .map_err(|error| self.context.failure("asking whether a stream is captured", error))
    }

    unsafe fn begin_capture(&self, stream: u64) -> Result<()> {
        self.context.enter()?;
        let stream = stream_of(stream);
        self.streams.require_running(&self.context, stream, "begin another capture")?;
        if let Ok(blas) = &self.blas {
            blas.prepare_capture(stream)?;
        }
        // `Device` refuses the calls that cannot be recorded. The backend's own calls, such as freeing memory, are harmless in a capture.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is alive.
        unsafe { result::stream::begin_capture(stream, mode) }
            .map_err(|error| self.context.failure("beginning a capture", error))?;
        self.streams.begin_capture(stream);
        Ok(())
    }

    unsafe fn end_capture(&self, stream: u64) -> Result<(u64, Vec<String>)> {
        self.context.enter()?;
        let failure = |error| self.context.failure("ending a capture", error);
        let kernels = self.streams.end_capture(stream_of(stream));
        // SAFETY: the stream is being captured.
        let captured = unsafe { result::stream::end_capture(stream_of(stream)) };
        self.memory.free_deferred(&self.context, &self.streams);
        let graph = captured.map_err(failure)?;
        // SAFETY: the graph is complete; its executable form needs it no more.
        let executable = unsafe {
            let executable = result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0));
            let _ = result::graph::destroy(graph);
            executable
        };
        Ok((executable.map_err(failure)? as u64, kernels))
    }

    unsafe fn launch_graph(&self, graph: u64, stream: u64, kernels: &[String]) -> Result<()> {
        self.context.enter()?;
        let stream = stream_of(stream);
        self.streams.require_running(&self.context, stream, "launch a graph")?;
        let name = if self.wait_for_each { name_graph(kernels) } else { "a graph".into() };
        self.context.launched(&name);
        // SAFETY: both are alive; the addresses are the caller's promise.
        unsafe { result::graph::launch(graph as sys::CUgraphExec, stream) }
            .map_err(|error| self.context.failure("launching a graph", error))?;
        if self.wait_for_each {
            self.finish_one(stream, &name)?;
        }
        Ok(())
    }

    unsafe fn free_graph(&self, graph: u64) {
        if self.context.enter().is_ok() {
            // SAFETY: of this device, not used afterwards; one that still runs is destroyed after.
            let _ = unsafe { result::graph::exec_destroy(graph as sys::CUgraphExec) };
        }
    }
}
