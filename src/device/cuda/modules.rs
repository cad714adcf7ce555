//! The embedded kernels of a CUDA device: modules loaded from the fatbins, functions found by name.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Mutex, OnceLock, PoisonError};

use cudarc::driver::{result, sys};

use super::context::Context;
use super::driver::driver_error;
use crate::device::{Error, Launch, LaunchShape, Result, registry, table};

/// A kernel, as found in both compilers' tables.
struct Kernel {
    /// Index in the table of fatbins.
    fatbin: usize,
    /// Threads per block and size of the params struct, from the CPU emulator's table of the same sources.
    threads: u32,
    params_bytes: u32,
    /// Set by the first launch.
    function: OnceLock<Function>,
}

#[derive(Clone, Copy)]
struct Function(sys::CUfunction);

// SAFETY: handles of the driver are bound to no thread, and its functions are thread-safe.
unsafe impl Send for Function {}
// SAFETY: as above.
unsafe impl Sync for Function {}

/// All kernels on one device. A module is loaded when the first of its kernels is launched.
pub(super) struct Modules {
    kernels: HashMap<&'static str, Kernel>,
    /// Addresses of the modules, by index in the table of fatbins; loaded ones stay as long as the process.
    loaded: Mutex<Vec<Option<usize>>>,
    /// Set when every kernel has its function, so that a lent stream, which is made for each call, need not look at all of them.
    all_loaded: OnceLock<()>,
    /// Maximum dynamic shared memory of one block, in bytes.
    shared_bytes_max: u32,
}

impl Modules {
    /// Loads one module into the current context, to verify that the device accepts nvcc's output.
    pub(super) fn open(device: sys::CUdevice) -> Result<Self> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: `device` is what the driver returned.
        let shared_bytes_max = unsafe { result::device::get_attribute(device, attribute) }
            .map_err(|error| driver_error("asking for the size of shared memory", error))?;
        let modules = Self {
            kernels: kernels()?,
            loaded: Mutex::new(vec![None; table::FATBINS.len()]),
            all_loaded: OnceLock::new(),
            shared_bytes_max: u32::try_from(shared_bytes_max).unwrap_or(0),
        };
        if !table::FATBINS.is_empty() {
            modules.module(0)?;
        }
        Ok(modules)
    }

    pub(super) fn shared_bytes_max(&self) -> u32 {
        self.shared_bytes_max
    }

    /// Loads all modules that are not loaded yet: before a capture, as loading a kernel may make the driver wait for all work of the device.
    pub(super) fn load_all(&self) -> Result<()> {
        if self.all_loaded.get().is_none() {
            self.kernels.iter().try_for_each(|(name, kernel)| self.function(name, kernel).map(drop))?;
            self.all_loaded.get_or_init(|| ());
        }
        Ok(())
    }

    /// Returns a module, loading it if it is not loaded yet.
    fn module(&self, index: usize) -> Result<sys::CUmodule> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(module) = loaded[index] {
            return Ok(module as sys::CUmodule);
        }
        let fatbin = &table::FATBINS[index];
        // SAFETY: the image is nvcc's output, embedded whole.
        let module = unsafe { result::module::load_data(fatbin.image.as_ptr().cast()) }.map_err(|error| {
            let nvcc = table::NVCC.unwrap_or_default();
            let doing = format_args!(
                "loading the kernels of {}, built by nvcc {nvcc}; update the driver, or build with RETROMAE_CUDA_ARCHS for this GPU",
                fatbin.file
            )
            .to_string();
            driver_error(doing, error)
        })?;
        loaded[index] = Some(module as usize);
        Ok(module)
    }

    /// Returns a kernel's function, granted all dynamic shared memory beside its static one; 48 KB is the limit otherwise.
    fn function(&self, name: &str, kernel: &Kernel) -> Result<sys::CUfunction> {
        if let Some(function) = kernel.function.get() {
            return Ok(function.0);
        }
        let module = self.module(kernel.fatbin)?;
        let text = CString::new(name).expect("a kernel's name has no NUL");
        // SAFETY: the module is loaded, and the function is its own.
        let found = unsafe {
            result::module::get_function(module, text).and_then(|function| {
                let static_bytes = result::function::get_function_attribute(
                    function,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                )?;
                result::function::set_function_attribute(
                    function,
                    sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                    self.shared_bytes_max as i32 - static_bytes,
                )?;
                Ok(function)
            })
        };
        let found = found.map_err(|error| driver_error(format_args!("finding kernel {name}"), error))?;
        Ok(kernel.function.get_or_init(|| Function(found)).0)
    }

    fn find(&self, launch: &Launch<'_>) -> Result<sys::CUfunction> {
        let kernel = launch.kernel;
        let found = self.kernels.get(kernel).ok_or_else(|| Error::UnknownKernel(kernel.to_string()))?;
        launch.check(found.threads, found.params_bytes, self.shared_bytes_max)?;
        self.function(kernel, found)
    }

    /// Enqueues a launch on `stream`.
    ///
    /// # Safety
    /// The context of the modules is current, and every address in the params is valid for what the kernel does with it.
    pub(super) unsafe fn launch(
        &self,
        context: &Context,
        launch: &Launch<'_>,
        stream: sys::CUstream,
    ) -> Result<()> {
        let function = self.find(launch)?;
        let LaunchShape { grid: [x, y, z], threads, shared_bytes } = launch.shape;
        // The driver copies the struct before the call returns and only reads it.
        let mut params = [launch.params.as_ptr().cast_mut().cast()];
        let block = (threads, 1, 1);
        // SAFETY: the function takes one struct of this size; the rest is the caller's promise.
        unsafe { result::launch_kernel(function, (x, y, z), block, shared_bytes, stream, &mut params) }
            .map_err(|error| {
                let doing = format!(
                    "launching kernel {} (grid [{x}, {y}, {z}], {threads} threads, {shared_bytes} bytes of shared memory)",
                    launch.kernel
                );
                context.failure(doing, error)
            })
    }
}

/// Every kernel that nvcc built.
fn kernels() -> Result<HashMap<&'static str, Kernel>> {
    let host: HashMap<&str, (u32, u32)> =
        registry::all().map(|kernel| (kernel.name, (kernel.threads, kernel.params_bytes))).collect();
    let fatbins: HashMap<&str, usize> =
        table::FATBINS.iter().enumerate().map(|(index, fatbin)| (fatbin.file, index)).collect();
    let kernel = |kernel: &table::CudaKernel| {
        let unknown = || Error::UnknownKernel(kernel.name.to_string());
        let &(threads, params_bytes) = host.get(kernel.name).ok_or_else(unknown)?;
        let &fatbin = fatbins.get(kernel.file).ok_or_else(unknown)?;
        Ok((kernel.name, Kernel { fatbin, threads, params_bytes, function: OnceLock::new() }))
    };
    table::CUDA_KERNELS.iter().map(kernel).collect()
}
