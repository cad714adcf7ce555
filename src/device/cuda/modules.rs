//! The embedded kernels of a CUDA device: modules loaded from the fatbins, functions found by name.

use std::collections::HashMap;
use std::ffi::CString;

use cudarc::driver::{result, sys};

use super::super::{Error, Launch, Result, host, table};
use super::context::Context;
use super::driver::driver_error;

/// A kernel, ready to be launched.
#[derive(Clone, Copy)]
struct Function {
    handle: sys::CUfunction,
    /// Threads a block and size of the params struct, as the host device's table of the same sources has them.
    threads: u32,
    params_bytes: u32,
}

/// All kernels on one device. Loaded at once, so that a launch neither allocates nor waits.
pub(super) struct Modules {
    modules: Vec<sys::CUmodule>,
    functions: HashMap<&'static str, Function>,
    /// Dynamic shared memory that the device grants one block, in bytes.
    shared_bytes_max: u32,
}

impl Modules {
    /// Loads every fatbin into the current context.
    pub(super) fn load(device: sys::CUdevice) -> Result<Self> {
        let attribute = sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        // SAFETY: `device` is what the driver returned.
        let shared_bytes_max = unsafe { result::device::get_attribute(device, attribute) }
            .map_err(|error| driver_error("asking for the size of shared memory", error))?;
        // A failure below drops `all`, which unloads what was loaded.
        let mut all = Self {
            modules: Vec::new(),
            functions: HashMap::new(),
            shared_bytes_max: u32::try_from(shared_bytes_max).unwrap_or(0),
        };
        let host: HashMap<&str, (u32, u32)> =
            host::kernels().map(|kernel| (kernel.name, (kernel.threads, kernel.params_bytes))).collect();
        for fatbin in table::FATBINS {
            // SAFETY: the image is nvcc's output, embedded whole.
            let module =
                unsafe { result::module::load_data(fatbin.image.as_ptr().cast()) }.map_err(|error| {
                    let doing = format_args!(
                        "loading the kernels of {}, built by nvcc {}; update the driver, or build with \
                     RETROMAE_CUDA_ARCHS for this GPU",
                        fatbin.file,
                        table::NVCC.unwrap_or_default()
                    )
                    .to_string();
                    driver_error(doing, error)
                })?;
            all.modules.push(module);
            for kernel in table::CUDA_KERNELS.iter().filter(|kernel| kernel.file == fatbin.file) {
                if !all.functions.contains_key(kernel.name) {
                    let handle = all.function(module, kernel.name, kernel.shared_bytes)?;
                    let &(threads, params_bytes) =
                        host.get(kernel.name).ok_or_else(|| Error::UnknownKernel(kernel.name.to_string()))?;
                    all.functions.insert(kernel.name, Function { handle, threads, params_bytes });
                }
            }
        }
        Ok(all)
    }

    pub(super) fn shared_bytes_max(&self) -> u32 {
        self.shared_bytes_max
    }

    /// Finds a function and grants it all dynamic shared memory beside its `static_bytes`; 48 KB is the limit otherwise.
    fn function(
        &self,
        module: sys::CUmodule,
        name: &'static str,
        static_bytes: u32,
    ) -> Result<sys::CUfunction> {
        let text = CString::new(name).expect("a kernel's name has no NUL");
        let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let bytes = self.shared_bytes_max.saturating_sub(static_bytes) as i32;
        // SAFETY: the module is loaded, and the function is its own.
        let found = unsafe {
            result::module::get_function(module, text).and_then(|function| {
                result::function::set_function_attribute(function, attribute, bytes)?;
                Ok(function)
            })
        };
        found.map_err(|error| driver_error(format_args!("finding kernel {name}"), error))
    }

    fn find(&self, launch: &Launch<'_>) -> Result<sys::CUfunction> {
        let kernel = launch.kernel;
        let function = self.functions.get(kernel).ok_or_else(|| Error::UnknownKernel(kernel.to_string()))?;
        let wrong = |argument, actual: u32, expected: String| {
            Err(Error::Launch { kernel: kernel.to_string(), argument, actual: actual.to_string(), expected })
        };
        if launch.threads != function.threads {
            return wrong("threads", launch.threads, function.threads.to_string());
        }
        if launch.params.len() != function.params_bytes as usize {
            return wrong("params", launch.params.len() as u32, format!("{} bytes", function.params_bytes));
        }
        if launch.shared_bytes > self.shared_bytes_max {
            let expected = format!("at most {} on this GPU", self.shared_bytes_max);
            return wrong("shared_bytes", launch.shared_bytes, expected);
        }
        Ok(function.handle)
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
        let [x, y, z] = launch.grid;
        // The driver copies the struct before the call returns and only reads it.
        let mut params = [launch.params.as_ptr().cast_mut().cast()];
        let block = (launch.threads, 1, 1);
        // SAFETY: the function takes one struct of this size; the rest is the caller's promise.
        unsafe { result::launch_kernel(function, (x, y, z), block, launch.shared_bytes, stream, &mut params) }
            .map_err(|error| {
                let Launch { kernel, grid, threads, shared_bytes, .. } = launch;
                let doing = format_args!(
                    "launching kernel {kernel} (grid {grid:?}, {threads} threads, {shared_bytes} bytes of shared memory)"
                )
                .to_string();
                context.failure(doing, error)
            })
    }
}

impl Drop for Modules {
    fn drop(&mut self) {
        for &module in &self.modules {
            // SAFETY: loaded by `load`; the owner drops this while its context is current and its stream is idle.
            let _ = unsafe { result::module::unload(module) };
        }
    }
}
