//! Where kernels run: the host device or a CUDA device, behind one small trait.
//!
//! A [`Device`] owns memory ([`Buffer`]) and launches kernels by name on a [`Stream`]. No code above this module knows
//! which kind it is.

mod buffer;
mod cuda;
mod element;
mod error;
mod host;
#[allow(clippy::all, clippy::pedantic, missing_docs)]
pub mod params;
mod table;

use std::sync::Arc;
use std::time::Duration;

pub use buffer::{Buffer, View, ViewMut};
pub use cuda::{CudaDevice, cuda_devices};
pub use element::{DType, Element, Float, bf16, f16};
pub use error::{Error, Result};
pub use host::{HostKernel, HostOptions, ThreadOrder};
pub use table::{CudaKernel, Fatbin};

/// One kernel launch. `params` are the bytes of the kernel's params struct.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Launch<'a> {
    pub kernel: &'a str,
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
    pub params: &'a [u8],
}

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
    /// `[n]` of the output type: added in f32 to each row, before the one rounding.
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

/// What a kind of device must be able to do. Addresses are plain integers.
pub(crate) trait Backend: Send + Sync {
    fn name(&self) -> &'static str;
    fn description(&self) -> String;
    fn allocate(&self, bytes: usize) -> Result<u64>;
    /// # Safety
    /// `address` came from `allocate(bytes)` of this device and is not used afterwards.
    unsafe fn free(&self, address: u64, bytes: usize);
    /// # Safety
    /// `destination` is valid for `source.len()` bytes.
    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()>;
    /// # Safety
    /// `source` is valid for `destination.len()` bytes.
    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()>;
    /// # Safety
    /// Both ranges are valid and do not overlap.
    unsafe fn copy(&self, destination: u64, source: u64, bytes: usize) -> Result<()>;
    /// # Safety
    /// `address` is valid for `bytes` bytes.
    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()>;
    /// # Safety
    /// Every address in the params struct is valid for what the kernel does with it.
    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()>;
    /// # Safety
    /// The three matrices are valid for their shapes, and `c` overlaps neither operand.
    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()>;
    fn synchronize(&self) -> Result<()>;
    fn timings(&self) -> Timings;
}

/// A device that runs kernels. Cloning is cheap and names the same device.
#[derive(Clone)]
pub struct Device {
    backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Device({})", self.backend.description())
    }
}

impl Device {
    /// The host device: this machine's processor, with options from the environment (see [`HostOptions::from_env`]).
    ///
    /// # Errors
    /// When the processor lacks the instructions that the kernels were compiled for, or an option is malformed.
    pub fn host() -> Result<Self> {
        Self::host_with(HostOptions::from_env()?)
    }

    /// The host device with explicit options.
    ///
    /// # Errors
    /// As [`Device::host`].
    pub fn host_with(options: HostOptions) -> Result<Self> {
        Ok(Self { backend: Arc::new(host::HostDevice::new(options)?) })
    }

    /// CUDA device number `ordinal`.
    ///
    /// # Errors
    /// When the kernels are not built for CUDA, or there is no driver or no such device.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Ok(Self { backend: cuda::open(ordinal)? })
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
        self.backend.name()
    }

    /// What the device is, for people.
    #[must_use]
    pub fn description(&self) -> String {
        self.backend.description()
    }

    /// Work is enqueued on a stream, in order.
    #[must_use]
    pub fn stream(&self) -> Stream {
        Stream { device: self.clone() }
    }

    /// A buffer of `length` zeros.
    ///
    /// # Errors
    /// When the device has not enough memory.
    pub fn zeros<T: Element>(&self, length: usize) -> Result<Buffer<T>> {
        Buffer::zeros(self, length)
    }

    /// A buffer that holds a copy of `values`.
    ///
    /// # Errors
    /// When the device has not enough memory.
    pub fn upload<T: Element>(&self, values: &[T]) -> Result<Buffer<T>> {
        let mut buffer = Buffer::uninitialised(self, values.len())?;
        buffer.write(values)?;
        Ok(buffer)
    }

    /// How the host device spent its time so far.
    #[must_use]
    pub fn timings(&self) -> Timings {
        self.backend.timings()
    }

    pub(crate) fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    fn same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.backend, &other.backend)
    }
}

/// An ordered queue of work on a device. The host device finishes each piece before the call returns.
#[derive(Clone, Debug)]
pub struct Stream {
    device: Device,
}

impl Stream {
    /// The device of this stream.
    #[must_use]
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Waits until all enqueued work is done.
    ///
    /// # Errors
    /// The first error of that work.
    pub fn synchronize(&self) -> Result<()> {
        self.device.backend.synchronize()
    }

    /// Launches `kernel` with `params` by value.
    ///
    /// # Errors
    /// When there is no such kernel, or the launch does not fit it.
    ///
    /// # Safety
    /// Every address in `params` is valid for what the kernel does with it.
    pub unsafe fn launch<P: Copy>(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &P,
    ) -> Result<()> {
        // SAFETY: params structs are plain C without padding (asserted by their layout tests), so all bytes are initialised.
        let params = unsafe { std::slice::from_raw_parts(std::ptr::from_ref(params).cast(), size_of::<P>()) };
        // SAFETY: passed on to the caller.
        unsafe { self.launch_bytes(kernel, grid, threads, shared_bytes, params) }
    }

    /// As [`launch`](Self::launch), with the bytes of the params struct.
    ///
    /// # Errors
    /// When there is no such kernel, or the launch does not fit it.
    ///
    /// # Safety
    /// Every address in `params` is valid for what the kernel does with it.
    pub unsafe fn launch_bytes(
        &self,
        kernel: &str,
        grid: [u32; 3],
        threads: u32,
        shared_bytes: u32,
        params: &[u8],
    ) -> Result<()> {
        if grid.contains(&0) {
            return Ok(());
        }
        // SAFETY: passed on to the caller.
        unsafe { self.device.backend.launch(&Launch { kernel, grid, threads, shared_bytes, params }) }
    }

    /// # Safety
    /// As [`Backend::gemm`].
    pub(crate) unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        if gemm.m == 0 || gemm.n == 0 {
            return Ok(());
        }
        // SAFETY: passed on to the caller.
        unsafe { self.device.backend.gemm(gemm) }
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
    host::kernels().filter(|kernel| !kernel.sanitized).collect()
}
