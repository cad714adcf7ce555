//! Where kernels run: the host device or a CUDA device, behind one small trait.
//!
//! A [`Device`] owns memory ([`Buffer`]) and launches kernels by name on a [`Stream`]. No code above this module knows
//! which kind it is.

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
pub use registry::HostKernel;
pub use staging::Staging;
pub(crate) use stream::{Command, Direction, Launch, Transfer};
pub use stream::{Event, Graph, Stream};
pub use table::{CudaKernel, Fatbin};

/// Whether an operand of [`Gemm`] is read as stored or transposed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    Normal,
    Transposed,
}

/// How the products of a [`Gemm`] lie one after another. Strides are in elements; an operand of stride 0 is shared by all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Batch {
    pub count: usize,
    pub a_stride: usize,
    pub b_stride: usize,
    pub c_stride: usize,
}

impl Batch {
    /// A single product.
    pub(crate) const ONE: Self = Self { count: 1, a_stride: 0, b_stride: 0, c_stride: 0 };
}

/// `c[m, n] = op(a)[m, k] · op(b)[k, n] (+ c or + bias)`; all matrices row-major with a stride between rows, in elements.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gemm {
    pub m: usize,
    pub n: usize,
    pub k: usize,
    pub a: u64,
    pub a_stride: usize,
    pub a_layout: Layout,
    pub b: u64,
    pub b_stride: usize,
    pub b_layout: Layout,
    pub c: u64,
    pub c_stride: usize,
    /// Type of `a` and `b`.
    pub input: DType,
    /// Type of `c`; products are accumulated in f32 whatever it is.
    pub output: DType,
    /// Add to `c` instead of overwriting it; then there is no bias.
    pub accumulate: bool,
    /// `[n]` of the output type: added in f32 to each row, before the one rounding. Then the rows of `c`, of all products, have no gaps between
    /// them.
    pub bias: Option<u64>,
    pub batch: Batch,
}

/// Time that a host device spent, since it was made; zero on a GPU, where work is asynchronous.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timings {
    /// In matrix products of the library.
    pub gemm: Duration,
    /// In this crate's kernels.
    pub kernels: Duration,
}

/// What a kind of device must be able to do. Addresses, streams, events and graphs are plain integers, whose owners are the types of this
/// module.
pub(crate) trait Backend: Send + Sync {
    fn name(&self) -> &'static str;
    fn description(&self) -> String;
    fn timings(&self) -> Timings;
    /// Dynamic shared memory that one block may have, in bytes.
    fn shared_bytes_max(&self) -> u32;
    /// The library that multiplies matrices, with its version where it tells one.
    fn gemm_library(&self) -> Result<String>;
    /// Empty where nothing is counted.
    fn shared_memory_accesses(&self) -> Vec<SharedAccess> {
        Vec::new()
    }

    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// # Safety
    /// `address` came from `allocate(bytes)` of this device and is not used by work that is enqueued afterwards.
    unsafe fn free(&self, address: u64, bytes: usize);
    /// Memory of the host that streams copy to and from while the host goes on.
    fn allocate_staging(&self, bytes: usize) -> Result<u64>;
    /// # Safety
    /// `address` came from `allocate_staging(bytes)` of this device, and no copy from or to it is in flight.
    unsafe fn free_staging(&self, address: u64, bytes: usize);
    /// Copies after all work that is enqueued on any stream, and returns when it is done.
    ///
    /// # Safety
    /// `destination` is valid for `source.len()` bytes.
    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()>;
    /// As [`upload`](Self::upload), the other way.
    ///
    /// # Safety
    /// `source` is valid for `destination.len()` bytes.
    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()>;
    /// Zeroes after all work that is enqueued on any stream, and returns when it is done.
    ///
    /// # Safety
    /// `address` is valid for `bytes` bytes.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;

    /// The device's own stream.
    fn default_stream(&self) -> u64;
    fn create_stream(&self) -> Result<u64>;
    /// Makes a stream that somebody else created known to the device.
    ///
    /// # Safety
    /// `stream` is a live stream until it is released.
    unsafe fn adopt_stream(&self, stream: u64) -> Result<()>;
    /// Ends the use of a stream: one of `create_stream` is destroyed when its work is done.
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

    /// A new event after all that `stream` was given so far.
    ///
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn record(&self, stream: u64) -> Result<u64>;
    /// Later work of `stream` waits for `event`.
    ///
    /// # Safety
    /// Both are of this device.
    unsafe fn wait(&self, stream: u64, event: u64) -> Result<()>;
    /// The caller waits for `event`.
    ///
    /// # Safety
    /// `event` is one of this device's.
    unsafe fn wait_for_event(&self, event: u64) -> Result<()>;
    /// Seconds from one event to another, both of which are over; below 0 where the other came first.
    ///
    /// # Safety
    /// Both are of this device.
    unsafe fn elapsed(&self, from: u64, to: u64) -> Result<f64>;
    /// # Safety
    /// `event` is one of this device's and is not used afterwards.
    unsafe fn free_event(&self, event: u64);

    /// Whether `stream` records its work instead of doing it.
    ///
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn is_capturing(&self, stream: u64) -> Result<bool>;
    /// From here on `stream` records its work instead of doing it.
    ///
    /// # Safety
    /// `stream` is one of this device's.
    unsafe fn begin_capture(&self, stream: u64) -> Result<()>;
    /// The graph of what `stream` recorded, and the names of its kernels in the order of their launches.
    ///
    /// # Safety
    /// `stream` is one of this device's and is being captured.
    unsafe fn end_capture(&self, stream: u64) -> Result<(u64, Vec<String>)>;
    /// `kernels` are the names that `end_capture` gave, for messages.
    ///
    /// # Safety
    /// Both are of this device, and all addresses that were recorded are still valid.
    unsafe fn launch_graph(&self, graph: u64, stream: u64, kernels: &[String]) -> Result<()>;
    /// # Safety
    /// `graph` is one of this device's and is not used afterwards.
    unsafe fn free_graph(&self, graph: u64);
}

/// A device that runs kernels. Cloning is cheap and names the same device.
///
/// [`Device::host`] and [`Device::cuda`] open a device the first time and give the same one from then on: it is there as long as the process, and a
/// CUDA device keeps the memory that it once had for later buffers. Each
/// [`Device::host_with`] makes another one.
#[derive(Clone)]
pub struct Device {
    shared: Arc<Shared>,
}

/// Of what there is one device in a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Host,
    Cuda(usize),
}

/// What all clones of a device have in common.
struct Shared {
    /// Counts the devices of this process, which may be alike in everything else.
    number: u64,
    /// Bytes of all buffers that there are.
    buffer_bytes: AtomicUsize,
    /// The threads that capture a stream, once for each stream.
    capturing: Mutex<Vec<ThreadId>>,
    backend: Box<dyn Backend>,
}

impl fmt::Debug for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "device {} ({})", self.shared.number, self.description())
    }
}

impl Device {
    /// The host device: this machine's processor, with options from the environment as it is when it is opened (see
    /// [`HostOptions::from_env`]).
    ///
    /// # Errors
    /// When the processor lacks the instructions that the kernels were compiled for, or an option is malformed.
    pub fn host() -> Result<Self> {
        Self::opened(Place::Host, || Self::host_with(HostOptions::from_env()?))
    }

    /// A host device of its own, with explicit options.
    ///
    /// # Errors
    /// As [`Device::host`].
    pub fn host_with(options: HostOptions) -> Result<Self> {
        Ok(Self::of(Box::new(host::HostDevice::new(options)?)))
    }

    /// CUDA device number `ordinal`.
    ///
    /// # Errors
    /// When the kernels are not built for CUDA, or there is no driver or no such device.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Self::opened(Place::Cuda(ordinal), || Ok(Self::of(cuda::open(ordinal)?)))
    }

    /// The device at a place, opened where it is not yet. What fails is tried again the next time.
    fn opened(place: Place, open: impl FnOnce() -> Result<Self>) -> Result<Self> {
        static OPEN: Mutex<Vec<(Place, Device)>> = Mutex::new(Vec::new());
        let mut all = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, device)) = all.iter().find(|(known, _)| *known == place) {
            return Ok(device.clone());
        }
        let device = open()?;
        all.push((place, device.clone()));
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

    /// A device that counts what this one would have to allocate, and does nothing else: what is made for it is dropped unused, after its
    /// [`buffer_bytes`](Self::buffer_bytes) were read.
    pub(crate) fn counting(&self) -> Self {
        Self::of(Box::new(counting::CountingDevice::new(self)))
    }

    /// The device that `RETROMAE_TEST_DEVICE` names (`host` or `cuda`), else the host device: what tests run on.
    ///
    /// # Errors
    /// As [`Device::host`] and [`Device::cuda`]; also for any other name.
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

    /// What the device is, for people.
    #[must_use]
    pub fn description(&self) -> String {
        self.backend().description()
    }

    /// The device's own stream, which all who have the device share: work is done in the order in which it is enqueued. It cannot be
    /// [captured](Stream::capture).
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream::own(self)
    }

    /// A further stream, whose work may overlap with that of others. What one needs of another is said by [`Stream::wait`].
    ///
    /// # Errors
    /// An error of the device.
    pub fn new_stream(&self) -> Result<Stream> {
        Stream::create(self)
    }

    /// The caller's own stream, a `CUstream` of the device's primary context, to enqueue work beside the caller's. It is not destroyed
    /// with the value that is returned. Its owner may capture it: what it is given meanwhile becomes part of the owner's graph.
    ///
    /// # Errors
    /// When the device is not a CUDA device, or the stream is of another context.
    ///
    /// # Safety
    /// `handle` is a live stream as long as the value or a clone of it lives.
    pub unsafe fn borrow_stream(&self, handle: u64) -> Result<Stream> {
        // SAFETY: passed on to the caller.
        unsafe { Stream::adopt(self, handle) }
    }

    /// A buffer of `length` zeros.
    ///
    /// # Errors
    /// When the device has not enough memory; also within a [capture](Stream::capture).
    pub fn zeros<T: Element>(&self, length: usize) -> Result<Buffer<T>> {
        Buffer::zeros(self, length)
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

    /// Memory of the host, `length` zeros, that streams copy from and to while the host goes on.
    ///
    /// # Errors
    /// When there is not enough memory; also within a [capture](Stream::capture).
    pub fn staging<T: Element>(&self, length: usize) -> Result<Staging<T>> {
        Staging::new(self, length)
    }

    /// Bytes of all buffers of this device that there are, as they were asked for.
    #[must_use]
    pub fn buffer_bytes(&self) -> usize {
        self.shared.buffer_bytes.load(Ordering::Relaxed)
    }

    /// How the host device spent its time so far.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.backend().timings()
    }

    /// The library that multiplies matrices on this device, such as `cuBLASLt 13.0.0`.
    ///
    /// # Errors
    /// When the library is missing or does not start.
    pub fn gemm_library(&self) -> Result<String> {
        self.backend().gemm_library()
    }

    /// Shared memory that one block of a kernel may have, in bytes.
    #[must_use]
    pub fn shared_bytes_max(&self) -> u32 {
        self.backend().shared_bytes_max()
    }

    /// How the kernels that ran so far accessed shared memory, and what its bank conflicts cost: one entry for each source line, kind and
    /// width of access, sorted. Empty unless the device is a host device with [`HostOptions::bank_conflicts`]; blocks that failed are left
    /// out.
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

    /// Whether the calling thread captures a stream of this device.
    fn captures_here(&self) -> bool {
        self.capturing().contains(&std::thread::current().id())
    }

    /// Refuses what would have to wait for a stream that the calling thread is capturing.
    fn require_no_capture(&self, doing: &'static str) -> Result<()> {
        if self.captures_here() { Err(Error::Capturing(doing)) } else { Ok(()) }
    }

    /// Refuses an argument of another device.
    pub(crate) fn require_same(&self, argument: &'static str, other: &Self) -> Result<()> {
        if Arc::ptr_eq(&self.shared, &other.shared) {
            return Ok(());
        }
        Err(Error::Argument {
            argument,
            actual: format!("of {other:?}"),
            expected: format!("of {self:?}, as all of a call"),
        })
    }
}

/// nvcc's version, or why the GPU kernels are not built.
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

/// Every kernel of the host device, sorted by name.
#[must_use]
pub fn host_kernels() -> Vec<HostKernel> {
    registry::all().filter(|kernel| !kernel.sanitized).collect()
}
