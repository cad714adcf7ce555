//! CUDA devices, through cudarc's bindings to the driver, which is loaded at run time.
//!
//! One context, one stream: work is done in the order in which it is enqueued. Memory is allocated plainly, since buffers are made
//! before training begins; freeing waits for the device, so no kernel outlives what it uses.

mod blas;
mod driver;
mod modules;

use std::sync::Arc;

use cudarc::driver::result::stream::StreamKind;
use cudarc::driver::{result, sys};

use super::{Backend, Error, Gemm, Launch, Result, Timings, table};
use blas::Blas;
pub use driver::{CudaDevice, cuda_devices};
use driver::{choose, driver_error};
use modules::Modules;

/// The backend of CUDA device number `ordinal`.
///
/// # Errors
/// When the kernels are not built for CUDA, there is no driver or no such device, or the device cannot run the kernels.
pub(super) fn open(ordinal: usize) -> Result<Arc<dyn Backend>> {
    table::NVCC.map_err(|reason| Error::KernelsNotBuilt(reason.into()))?;
    let devices = cuda_devices()?;
    let device = choose(&devices, ordinal)?;
    Ok(Arc::new(CudaBackend::open(device)?))
}

/// The device's primary context and a stream in it. Dropped last, so that it outlives all that was made in it.
struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

impl Context {
    fn open(ordinal: usize) -> Result<Self> {
        let opening = |error| driver_error(format_args!("opening device {ordinal}"), error);
        let device = result::device::get(ordinal as i32).map_err(opening)?;
        // SAFETY: `device` is what the driver returned.
        let context = unsafe { result::primary_ctx::retain(device) }.map_err(opening)?;
        // SAFETY: the context is retained until `Context` is dropped.
        let stream = unsafe { result::ctx::set_current(context) }
            .and_then(|()| result::stream::create(StreamKind::NonBlocking));
        let stream = stream.map_err(|error| {
            // SAFETY: retained above.
            let _ = unsafe { result::primary_ctx::release(device) };
            opening(error)
        })?;
        Ok(Self { device, context, stream })
    }

    /// Makes the context current on the calling thread; every call of the driver needs it.
    fn enter(&self) -> Result<()> {
        // SAFETY: the context is retained.
        unsafe { result::ctx::set_current(self.context) }
            .map_err(|error| driver_error("entering the device's context", error))
    }

    fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream is alive.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|error| {
            driver_error("work enqueued before has failed (RETROMAE_CUDA_SYNC=1 names the kernel)", error)
        })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `open`, and nothing uses them any more.
        unsafe {
            let _ = result::stream::destroy(self.stream);
            let _ = result::primary_ctx::release(self.device);
        }
    }
}

/// Fields are dropped in order: the context last.
struct CudaBackend {
    description: String,
    /// Wait after every launch, so that an error is reported for the kernel that made it.
    wait_for_each: bool,
    modules: Modules,
    /// An error here is reported by the first product: kernels work without the library.
    blas: Result<Blas>,
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
        let wait_for_each = std::env::var("RETROMAE_CUDA_SYNC").is_ok_and(|value| value == "1");
        let blas = Blas::open(&device.name).and_then(|blas| blas.prepare(context.stream).map(|()| blas));
        Ok(Self { description: format!("cuda {device}"), wait_for_each, modules, blas, context })
    }

    fn stream(&self) -> sys::CUstream {
        self.context.stream
    }
}

impl Drop for CudaBackend {
    fn drop(&mut self) {
        let _ = self.context.enter();
        let _ = self.context.synchronize();
        if let Ok(blas) = &self.blas {
            blas.forget(self.stream());
        }
    }
}

/// A refused allocation; `memory` is what is free and what there is.
fn allocation_error(requested: usize, error: result::DriverError, memory: Option<(usize, usize)>) -> Error {
    match (error.0, memory) {
        (sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY, Some((free, total))) => {
            Error::CudaOutOfMemory { requested, free, total }
        }
        _ => driver_error(format_args!("allocating {requested} bytes"), error),
    }
}

impl Backend for CudaBackend {
    fn name(&self) -> &'static str {
        "cuda"
    }

    fn description(&self) -> String {
        self.description.clone()
    }

    fn allocate(&self, bytes: usize) -> Result<u64> {
        self.context.enter()?;
        // SAFETY: a plain allocation; the driver refuses one of no bytes.
        unsafe { result::malloc_sync(bytes.max(1)) }
            .map_err(|error| allocation_error(bytes, error, result::mem_get_info().ok()))
    }

    unsafe fn free(&self, address: u64, _bytes: usize) {
        if self.context.enter().is_ok() {
            // SAFETY: allocated by `allocate`; the driver waits for work that may still use it. An error here is an earlier one
            // that `synchronize` reports.
            let _ = unsafe { result::free_sync(address) };
        }
    }

    unsafe fn upload(&self, destination: u64, source: &[u8]) -> Result<()> {
        if source.is_empty() {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: valid by the caller's promise; `source` is borrowed until the copy is done.
        unsafe { result::memcpy_htod_async(destination, source, self.stream()) }
            .map_err(|error| driver_error(format_args!("uploading {} bytes", source.len()), error))?;
        self.context.synchronize()
    }

    unsafe fn download(&self, destination: &mut [u8], source: u64) -> Result<()> {
        self.context.enter()?;
        if !destination.is_empty() {
            let bytes = destination.len();
            // SAFETY: as in `upload`, the other way.
            unsafe { result::memcpy_dtoh_async(destination, source, self.stream()) }
                .map_err(|error| driver_error(format_args!("downloading {bytes} bytes"), error))?;
        }
        self.context.synchronize()
    }

    unsafe fn copy(&self, destination: u64, source: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: passed on to the caller.
        unsafe { result::memcpy_dtod_async(destination, source, bytes, self.stream()) }
            .map_err(|error| driver_error(format_args!("copying {bytes} bytes"), error))
    }

    unsafe fn zero(&self, address: u64, bytes: usize) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        self.context.enter()?;
        // SAFETY: passed on to the caller.
        unsafe { result::memset_d8_async(address, 0, bytes, self.stream()) }
            .map_err(|error| driver_error(format_args!("zeroing {bytes} bytes"), error))
    }

    unsafe fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.context.enter()?;
        // SAFETY: the context is current; the addresses are the caller's promise.
        unsafe { self.modules.launch(launch, self.stream())? };
        if self.wait_for_each {
            // SAFETY: the stream is alive.
            unsafe { result::stream::synchronize(self.stream()) }
                .map_err(|error| driver_error(format_args!("running kernel {}", launch.kernel), error))?;
        }
        Ok(())
    }

    unsafe fn gemm(&self, gemm: &Gemm) -> Result<()> {
        self.context.enter()?;
        let blas = self.blas.as_ref().map_err(Clone::clone)?;
        // SAFETY: passed on to the caller.
        unsafe { blas.run(gemm, self.stream()) }
    }

    fn synchronize(&self) -> Result<()> {
        self.context.enter()?;
        self.context.synchronize()
    }

    fn timings(&self) -> Timings {
        Timings::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_allocation_says_what_is_free() {
        let error = result::DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        let message = allocation_error(3 << 30, error, Some((1 << 30, 2 << 30))).to_string();
        assert_eq!(
            message,
            "cannot allocate 3221225472 bytes on the CUDA device: 1073741824 of 2147483648 are free; use a smaller batch"
        );
    }
}
