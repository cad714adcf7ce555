//! Devices that kernels run on: the CPU emulator or a CUDA device, behind one small trait.
//!
//! A [`Device`] owns memory ([`Buffer`]) and launches kernels by name on a [`Stream`]. No code above this module knows which kind of device it
//! uses.

#[cfg(feature = "baseline")]
#[doc(hidden)]
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod baseline_params;
mod buffer;
mod counting;
mod cuda;
mod element;
mod error;
mod host;
mod kernel;
mod matrix;
#[doc(hidden)]
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod params;
mod registry;
mod staging;
mod stream;
mod switch;
mod table;

use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;
use std::time::Duration;

pub(crate) use buffer::DeviceMemory;
pub use buffer::{Buffer, View, ViewMut};
pub use cuda::{CudaDevice, cuda_devices};
pub use element::{DType, Element, Float, ModelFloat, bf16, f16};
pub use error::{Error, Result};
pub use host::{HostOptions, SharedAccess, ThreadOrder};
#[doc(hidden)]
pub use kernel::{Family, Kernel, LaunchShape, handles as kernels};
pub(crate) use matrix::MatrixMemory;
pub use matrix::{Matrix, MatrixBuffer, MatrixMut};
pub use registry::HostKernel;
pub use staging::Staging;
pub(crate) use stream::{Command, Direction, Launch, Transfer};
pub use stream::{Event, Graph, Stream};
pub use table::{CudaKernel, Fatbin};

/// Number of GEMMs of equal shape, and the elements from one to the next in each matrix; a matrix of stride 0 is shared by all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BatchStrides {
    pub count: usize,
    pub a_stride: usize,
    pub b_stride: usize,
    pub c_stride: usize,
}

impl BatchStrides {
    /// A single GEMM.
    pub(crate) const ONE: Self = Self { count: 1, a_stride: 0, b_stride: 0, c_stride: 0 };
}

/// `c[m, n] = op(a)[m, k] · op(b)[k, n] (+ c or + bias)`; all matrices row-major with a stride between rows, in elements, and `op` transposes
/// where asked to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: u64,
    pub a_stride: usize,
    pub a_transposed: bool,
    pub b: u64,
    pub b_stride: usize,
    pub b_transposed: bool,
    pub c: u64,
    pub c_stride: usize,
    /// Type of `a` and `b`.
    pub input: DType,
    /// Type of `c`; sums are accumulated in f32 whatever it is.
    pub output: DType,
    /// Add to `c` instead of overwriting it; excludes a bias.
    pub accumulate: bool,
    /// `[n]` of the output type, added in f32 to each row before the only rounding.
    pub bias: Option<u64>,
    pub batch: BatchStrides,
}

/// Memory that a GEMM works in, where the library of the device needs some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GemmMemory {
    /// The device's own, one allocation a stream.
    Device,
    /// Address of the caller's, at least [`Backend::gemm_workspace_bytes`] bytes.
    Lent(u64),
}

/// Memory of the caller for the matmuls of a [lent stream](Device::lend_stream).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GemmWorkspace {
    /// Device address, a multiple of [`GemmWorkspace::ALIGNMENT`].
    pub address: u64,
    /// Size in bytes; at least [`Device::gemm_workspace_bytes`].
    pub bytes: usize,
}

impl GemmWorkspace {
    /// Alignment of the address in bytes.
    pub const ALIGNMENT: usize = 256;

    fn check(self, device: &Device) -> Result<()> {
        let argument = "gemm_workspace";
        let (needed, beyond) = (device.gemm_workspace_bytes(), self.address % Self::ALIGNMENT as u64);
        if self.bytes < needed {
            let (actual, expected) = (format!("{} bytes", self.bytes), format!("at least {needed} bytes"));
            return Err(Error::Argument { argument, actual, expected });
        }
        if needed > 0 && beyond != 0 {
            let actual = format!("at an address of {beyond} modulo {} bytes", Self::ALIGNMENT);
            let expected = format!("aligned to {} bytes", Self::ALIGNMENT);
            return Err(Error::Misaligned { argument, actual, expected });
        }
        Ok(())
    }
}

/// Time that a CPU emulator has spent since its creation; zero on a GPU, where work is asynchronous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// Time in the GEMM library.
    pub gemm: Duration,
    /// Time in this crate's kernels.
    pub kernels: Duration,
}

/// Operations that every kind of device implements. Addresses, streams, events and graphs are plain integers, owned by the types of this module.
pub(crate) trait Backend: Send + Sync {
    fn name(&self) -> &'static str;
    fn description(&self) -> String;
    fn timings(&self) -> Timings;
    /// Maximum dynamic shared memory of one block, in bytes.
    fn shared_bytes_max(&self) -> u32;
    /// Name of the GEMM library, with its version where it reports one.
    fn gemm_library(&self) -> Result<String>;
    /// Bytes that a GEMM works in, 0 where it needs none.
    fn gemm_workspace_bytes(&self) -> usize {
        0
    }
    /// Refuses memory of others that this device cannot use, where that can be known.
    fn check_memory(&self, _address: u64, _bytes: usize) -> Result<()> {
        Ok(())
    }
    /// Accesses of shared memory; empty where they are not counted.
    fn shared_memory_accesses(&self) -> Vec<SharedAccess> {
        Vec::new()
    }

    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// # Safety
    /// `address` came from `allocate(bytes)` of this device and is not used by work that is enqueued afterwards.
    unsafe fn free(&self, address: u64, bytes: usize);
    /// Allocates host memory that streams copy to and from asynchronously.
    fn allocate_staging(&self, bytes: usize) -> Result<u64>;
    /// # Safety
    /// `address` came from `allocate_staging(bytes)` of this device, and no copy from or to it is in flight.
    unsafe fn free_staging(&self, address: u64, bytes: usize);
    /// Copies after all work that is enqueued on any stream; returns when the copy is done.
    ///
    /// # Safety
    /// `destination` is valid for `source.len()` bytes.
    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()>;
    /// As [`upload`](Self::upload), from the device to the host.
    ///
    /// # Safety
    /// `source` is valid for `destination.len()` bytes.
    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()>;
    /// Zeroes after all work that is enqueued on any stream; returns when it is done.
    ///
    /// # Safety
    /// `address` is valid for `bytes` bytes.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;

    /// Returns the device's own stream.
    fn default_stream(&self) -> u64;
    fn create_stream(&self) -> Result<u64>;
    /// Registers a stream that somebody else created.
    ///
    /// # Safety
    /// `stream` is a live stream until it is released.
    unsafe fn adopt_stream(&self, stream: u64) -> Result<()>;
    /// Returns the stream of the caller's handle, to be used without being registered.
    ///
    /// # Safety
    /// `handle` is a live stream.
    unsafe fn lent_stream(&self, handle: u64) -> Result<u64>;
    /// Releases a stream; one of `create_stream` is destroyed when its work is done.
    ///
    /// # Safety
    /// `stream` came from `create_stream`, or with `adopted` from `adopt_stream`, and is not used afterwards.
    unsafe fn release_stream(&self, stream: u64, adopted: bool);
    /// # Safety
    /// `stream` is one of this device's, and the addresses of `command` are valid for what it does, when it is executed.
    unsafe fn enqueue(&self, stream: u64, command: &Command<'_>) -> Result<()>;
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn synchronize(&self, stream: u64) -> Result<()>;

    /// Records a new event after all work that `stream` was given so far.
    ///
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn record(&self, stream: u64) -> Result<u64>;
    /// Makes later work of `stream` wait for `event`.
    ///
    /// # Safety
    /// Both are of this device.
    unsafe fn wait(&self, stream: u64, event: u64) -> Result<()>;
    /// Blocks the caller until `event` has completed.
    ///
    /// # Safety
    /// `event` is one of this device's.
    unsafe fn wait_for_event(&self, event: u64) -> Result<()>;
    /// Returns the seconds from one event to another, negative where the other came first. Both events must have completed.
    ///
    /// # Safety
    /// Both are of this device.
    unsafe fn elapsed(&self, from: u64, to: u64) -> Result<f64>;
    /// # Safety
    /// `event` is one of this device's and is not used afterwards.
    unsafe fn free_event(&self, event: u64);

    /// Returns whether `stream` is being captured: it records its work instead of executing it.
    ///
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn is_capturing(&self, stream: u64) -> Result<bool>;
    /// Begins a capture: from here on `stream` records its work instead of executing it.
    ///
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn begin_capture(&self, stream: u64) -> Result<()>;
    /// Ends a capture; returns the graph of the recorded work, and the names of its kernels in the order of their launches.
    ///
    /// # Safety
    /// `stream` is one of this device's and is being captured.
    unsafe fn end_capture(&self, stream: u64) -> Result<(u64, Vec<String>)>;
    /// Enqueues a graph; `kernels` are the names that `end_capture` returned, for messages.
    ///
    /// # Safety
    /// Both are of this device, and all addresses that were recorded are still valid.
    unsafe fn launch_graph(&self, graph: u64, stream: u64, kernels: &[String]) -> Result<()>;
    /// # Safety
    /// `graph` is one of this device's and is not used afterwards.
    unsafe fn free_graph(&self, graph: u64);
}

/// A device that runs kernels. Cloning is cheap, and a clone refers to the same device.
///
/// [`Device::host`] and [`Device::cuda`] open a device on the first call and return the same one from then on: it lives as long as the process,
/// and a CUDA device keeps freed memory for later buffers. Each [`Device::host_with`] creates another one.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

/// Key of a device that exists once per process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Singleton {
    Host,
    Cuda(usize),
}

/// State that all clones of a device share.
struct Shared {
    /// Number of the device within this process, as devices may be alike in everything else.
    number: u64,
    /// Bytes of all live buffers.
    buffer_bytes: AtomicUsize,
    /// Threads that are capturing a stream, one entry for each stream.
    capturing: Mutex<Vec<ThreadId>>,
    backend: Box<dyn Backend>,
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "device {} ({})", self.shared.number, self.description())
    }
}

impl Device {
    /// Opens the CPU emulator, which runs on this machine's processor, with options from the environment at the time of opening (see
    /// [`HostOptions::from_env`]).
    ///
    /// # Errors
    /// When the processor lacks the instructions that the kernels were compiled for, or an option is malformed.
    pub fn host() -> Result<Self> {
        Self::opened(Singleton::Host, || Self::host_with(HostOptions::from_env()?))
    }

    /// Creates a separate CPU emulator with explicit options.
    ///
    /// # Errors
    /// As [`Device::host`].
    pub fn host_with(options: HostOptions) -> Result<Self> {
        Ok(Self::of(Box::new(host::HostDevice::new(options)?)))
    }

    /// Opens CUDA device number `ordinal`.
    ///
    /// # Errors
    /// When the kernels are not built for CUDA, or there is no driver or no such device.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Self::opened(Singleton::Cuda(ordinal), || Ok(Self::of(cuda::open(ordinal)?)))
    }

    /// Returns the device of `singleton`, opening it if it is not open yet. A failed attempt is repeated by the next call.
    fn opened(singleton: Singleton, open: impl FnOnce() -> Result<Self>) -> Result<Self> {
        static OPEN: Mutex<Vec<(Singleton, Device)>> = Mutex::new(Vec::new());
        let mut all = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = all.iter().find(|(known, _)| *known == singleton) {
            return Ok(device.clone());
        }
        let device = open()?;
        all.push((singleton, device.clone()));
        Ok(device)
    }

    fn of(backend: Box<dyn Backend>) -> Self {
        static MADE: AtomicU64 = AtomicU64::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed) + 1;
        Self {
            shared: Arc::new(Shared {
                number,
                buffer_bytes: AtomicUsize::new(0),
                capturing: Mutex::default(),
                backend,
            }),
        }
    }

    /// Returns a device that only counts what this one would have to allocate: whatever is created on it is dropped unused, after reading its
    /// [`buffer_bytes`](Self::buffer_bytes).
    pub(crate) fn counting(&self) -> Self {
        Self::of(Box::new(counting::CountingDevice::new(self)))
    }

    /// Opens the device for tests: the one that `RETROMAE_TEST_DEVICE` names (`host` or `cuda`), by default the CPU emulator.
    ///
    /// # Errors
    /// As [`Device::host`] and [`Device::cuda`]; also for any other name.
    #[doc(hidden)]
    pub fn for_tests() -> Result<Self> {
        match std::env::var("RETROMAE_TEST_DEVICE").as_deref() {
            Ok("cuda") => Self::cuda(0),
            Ok("host") | Err(_) => Self::host(),
            Ok(other) => Err(Error::Argument {
                argument: "RETROMAE_TEST_DEVICE",
                actual: format!("{other:?}"),
                expected: "host or cuda".into(),
            }),
        }
    }

    /// `"host"` or `"cuda"`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.backend().name()
    }

    /// Human-readable description of the device.
    #[must_use]
    pub fn description(&self) -> String {
        self.backend().description()
    }

    /// Returns the device's own stream, which everyone who has the device shares: work is done in the order in which it is enqueued. It cannot be
    /// [captured](Stream::capture).
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream::own(self)
    }

    /// Creates a further stream, whose work may overlap with that of others. [`Stream::wait`] orders one stream after another.
    ///
    /// # Errors
    /// An error of the device.
    pub fn new_stream(&self) -> Result<Stream> {
        Stream::create(self)
    }

    /// Wraps the caller's own stream, a `CUstream` of the device's primary context, to enqueue work beside the caller's. It is not destroyed with
    /// the returned value. Its owner may capture it: work enqueued meanwhile becomes part of the owner's graph.
    ///
    /// # Errors
    /// When the device is not a CUDA device, or the stream belongs to another context.
    ///
    /// # Safety
    /// `handle` is a live stream as long as the value or a clone of it lives.
    pub unsafe fn borrow_stream(&self, handle: u64) -> Result<Stream> {
        // SAFETY: passed on to the caller.
        unsafe { Stream::adopt(self, handle) }
    }

    /// Wraps the caller's own stream for operations on the caller's own memory ([`View::borrow_raw`]), beside an engine that owns streams, memory
    /// and captures: the device takes no notice of the stream. Making, using and dropping the value allocates, frees, records and waits for nothing, so
    /// all of it may happen inside the owner's capture, where it touches no other stream.
    ///
    /// `handle` is a `CUstream` of the device's primary context: 0 and 1 are the legacy default stream, 2 the per-thread one. The CPU
    /// emulator has no streams of others: it takes 0, and its own. Matmuls need `gemm_workspace`, of
    /// [`gemm_workspace_bytes`](Self::gemm_workspace_bytes), unless that is 0.
    ///
    /// # Errors
    /// When the stream belongs to another context, or the workspace is too small or misaligned.
    ///
    /// # Safety
    /// - `handle` is a live stream as long as the value or a clone of it lives.
    /// - Whatever the enqueued work uses stays valid until it is done. [`Buffer`]s wait for it neither when they are read or written nor when they are
    ///   freed.
    /// - Nobody else uses `gemm_workspace` until the enqueued work, or each replay of the owner's graph of it, is done.
    pub unsafe fn lend_stream(&self, handle: u64, gemm_workspace: Option<GemmWorkspace>) -> Result<Stream> {
        // SAFETY: passed on to the caller.
        unsafe { Stream::lent(self, handle, gemm_workspace) }
    }

    /// Bytes of memory that a matmul on a [lent stream](Self::lend_stream) works in; 0 on the CPU emulator.
    #[must_use]
    pub fn gemm_workspace_bytes(&self) -> usize {
        self.backend().gemm_workspace_bytes()
    }

    /// A buffer of `length` zeros.
    ///
    /// # Errors
    /// When the device has not enough memory; also within a [capture](Stream::capture).
    pub fn zeros<T: Element>(&self, length: usize) -> Result<Buffer<T>> {
        Buffer::zeros(self, length)
    }

    /// Zeros in at most `rows` rows of `columns` columns.
    ///
    /// # Errors
    /// As [`zeros`](Self::zeros).
    pub fn matrix<T: Element>(&self, rows: usize, columns: usize) -> Result<MatrixBuffer<T>> {
        MatrixBuffer::zeros(self, rows, columns)
    }

    /// A buffer that holds a copy of `values`.
    ///
    /// # Errors
    /// When the device has not enough memory; also within a [capture](Stream::capture).
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = Buffer::uninitialized(self, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// Allocates `length` zeros of host memory that streams copy from and to asynchronously.
    ///
    /// # Errors
    /// When there is not enough memory; also within a [capture](Stream::capture).
    pub fn staging<T: Element>(&self, length: usize) -> Result<Staging<T>> {
        Staging::new(self, length)
    }

    /// Bytes of all live buffers of this device, as they were requested.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes.load(Ordering::Relaxed)
    }

    /// Time that the CPU emulator has spent so far, by kind of work.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.backend().timings()
    }

    /// Name and version of the GEMM library of this device, such as `cuBLASLt 13.0.0`.
    ///
    /// # Errors
    /// When the library is missing or does not start.
    pub fn gemm_library(&self) -> Result<String> {
        self.backend().gemm_library()
    }

    /// Maximum shared memory of one block of a kernel, in bytes.
    #[must_use]
    pub fn shared_bytes_max(&self) -> u32 {
        self.backend().shared_bytes_max()
    }

    /// Shared-memory accesses of the kernels that ran so far, and the cost of their bank conflicts: one entry for each source line, kind and
    /// width of access, sorted. Empty unless the device is a CPU emulator with [`HostOptions::bank_conflicts`]; blocks that failed are left out.
    #[must_use]
    pub fn shared_memory_accesses(&self) -> Vec<SharedAccess> {
        self.backend().shared_memory_accesses()
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.shared.backend
    }

    fn capturing(&self) -> MutexGuard<'_, Vec<ThreadId>> {
        self.shared.capturing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the calling thread captures a stream of this device.
    fn captures_here(&self) -> bool {
        self.capturing().contains(&std::thread::current().id())
    }

    /// Refuses an operation that would have to wait for a stream that the calling thread is capturing.
    fn require_no_capture(&self, doing: &'static str) -> Result<()> {
        if self.captures_here() { Err(Error::Capturing(doing)) } else { Ok(()) }
    }

    /// Refuses an argument that belongs to another device.
    pub(crate) fn require_same(&self, argument: &'static str, other: &Self) -> Result<()> {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return Ok(());
        }
        Err(Error::WrongDevice {
            argument,
            actual: format!("of {other:?}"),
            expected: format!("of {self:?}, as all of a call"),
        })
    }
}

/// nvcc's version, or the reason why the GPU kernels are not built.
///
/// # Errors
/// The reason.
pub fn nvcc() -> std::result::Result<&'static str, &'static str> {
    table::NVCC
}

/// The C++ compiler that built the host kernels, and its `-march`.
#[must_use]
pub fn host_compiler() -> (&'static str, &'static str) {
    (table::HOST_COMPILER, table::HOST_MARCH)
}

/// ptxas's report of every kernel and architecture; empty where nvcc was missing.
#[must_use]
pub fn cuda_kernels() -> &'static [CudaKernel] {
    table::CUDA_KERNELS
}

/// The embedded fatbins, one a kernel file; empty where nvcc was missing.
#[must_use]
pub fn fatbins() -> &'static [Fatbin] {
    table::FATBINS
}

/// Every kernel of the CPU emulator, sorted by name.
#[must_use]
pub fn host_kernels() -> Vec<HostKernel> {
    registry::all().filter(|kernel| !kernel.sanitized).collect()
}
