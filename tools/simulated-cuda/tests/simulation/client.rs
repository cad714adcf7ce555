//! A small driver client for the tests.

use std::ffi::{CString, c_void};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdeviceptr, CUfunction, CUresult, CUstream};

/// Number of threads and values of the probe kernels.
pub const COUNT: usize = 64;
pub const BYTES: usize = COUNT * size_of::<f32>();

/// First words of a fat binary; the simulation reads only the first.
const IMAGE: [u32; 4] = [0xBA55_ED50, 0, 0, 0];

/// Returns the result code of a call.
pub fn code<T>(result: Result<T, DriverError>) -> CUresult {
    result.map_or_else(|error| error.0, |_| CUresult::CUDA_SUCCESS)
}

/// The only device, with its context current.
pub struct Gpu {
    module: sys::CUmodule,
}

impl Gpu {
    pub fn open() -> Self {
        Self::enter();
        // SAFETY: the image is what the simulation reads of one.
        let module = unsafe { result::module::load_data(IMAGE.as_ptr().cast()) }.unwrap();
        let gpu = Self { module };
        // Loaded now, because no kernel can be loaded during a capture.
        gpu.function("probe_reverse");
        gpu
    }

    /// Makes the context current on the calling thread.
    pub fn enter() -> sys::CUcontext {
        result::init().unwrap();
        let device = result::device::get(0).unwrap();
        // SAFETY: the device is what the driver returned.
        unsafe {
            let context = result::primary_ctx::retain(device).unwrap();
            result::ctx::set_current(context).unwrap();
            context
        }
    }

    /// Creates a stream that does not wait for the legacy stream.
    pub fn stream(&self) -> CUstream {
        result::stream::create(result::stream::StreamKind::NonBlocking).unwrap()
    }

    pub fn allocate(&self, bytes: usize) -> CUdeviceptr {
        // SAFETY: a plain allocation.
        unsafe { result::malloc_sync(bytes) }.unwrap()
    }

    /// Uploads `values` to new memory and waits for the copy.
    pub fn upload<T: Copy>(&self, values: &[T]) -> CUdeviceptr {
        let address = self.allocate(size_of_val(values));
        // SAFETY: as large as the values.
        unsafe { result::memcpy_htod_sync(address, values) }.unwrap();
        result::ctx::synchronize().unwrap();
        address
    }

    /// Waits for `stream` and reads.
    pub fn download<T: Copy + Default>(
        &self,
        address: CUdeviceptr,
        count: usize,
        stream: CUstream,
    ) -> Vec<T> {
        let mut values = vec![T::default(); count];
        // SAFETY: the tests ask for what they allocated.
        unsafe { result::memcpy_dtoh_async(&mut values, address, stream) }.unwrap();
        values
    }

    /// Allocates page-locked memory for `count` values.
    pub fn page_locked(&self, count: usize) -> &'static mut [f32] {
        // SAFETY: allocated with this size, and never freed by the tests that call this.
        unsafe {
            let address = result::malloc_host(count * size_of::<f32>(), 0).unwrap();
            std::slice::from_raw_parts_mut(address.cast(), count)
        }
    }

    pub fn find(&self, kernel: &str) -> Result<CUfunction, DriverError> {
        // SAFETY: the module is loaded.
        unsafe { result::module::get_function(self.module, CString::new(kernel).unwrap()) }
    }

    pub fn function(&self, kernel: &str) -> CUfunction {
        self.find(kernel).unwrap()
    }

    /// Launches a probe kernel on one block.
    pub fn probe(&self, kernel: &str, input: CUdeviceptr, output: CUdeviceptr, stream: CUstream) -> CUresult {
        let mut params = [input, output, 0u64];
        let mut pointers = [params.as_mut_ptr().cast::<c_void>()];
        let (grid, block) = ((1, 1, 1), (COUNT as u32, 1, 1));
        let function = self.function(kernel);
        // SAFETY: the struct of the probes has these three fields.
        let launched =
            unsafe { result::launch_kernel(function, grid, block, BYTES as u32, stream, &mut pointers) };
        params.fill(u64::MAX);
        code(launched)
    }
}

/// Returns `first`, `first + 1`, …
pub fn ramp(first: f32) -> Vec<f32> {
    (0..COUNT).map(|index| first + index as f32).collect()
}

pub fn reversed(values: &[f32]) -> Vec<f32> {
    values.iter().rev().copied().collect()
}
