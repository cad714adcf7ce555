//! Modules and functions. Images are not read: a kernel is the CPU emulator's kernel of the same name.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use cudarc::driver::sys::{CUfunction, CUmodule, CUresult};

use crate::call::{CallResult, in_context, refuse, store};
use crate::machine::{Context, Function, new_handle};

/// First word of a fat binary.
const FATBIN_MAGIC: u32 = 0xBA55_ED50;
/// Maximum shared memory of a block on an H100, in bytes.
pub(super) const SHARED_BYTES_MAX: u32 = 227 << 10;
/// Default maximum dynamic shared memory of a block, in bytes.
const SHARED_BYTES_DEFAULT: u32 = 48 << 10;

const MAX_THREADS_PER_BLOCK: c_uint = 0;
const SHARED_SIZE_BYTES: c_uint = 1;
const LOCAL_SIZE_BYTES: c_uint = 3;
const MAX_DYNAMIC_SHARED_SIZE_BYTES: c_uint = 8;
const PREFERRED_SHARED_MEMORY_CARVEOUT: c_uint = 9;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut CUmodule, image: *const c_void) -> CUresult {
    in_context("cuModuleLoadData", |context| {
        context.refuse_unsafe("cuModuleLoadData")?;
        if image.is_null() {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, "cuModuleLoadData: the image is null");
        }
        // SAFETY: an image is far longer than a word.
        let magic = unsafe { image.cast::<u32>().read_unaligned() };
        if magic != FATBIN_MAGIC {
            let why =
                format_args!("cuModuleLoadData: the image begins with {magic:#x}, which is no fat binary");
            return refuse(CUresult::CUDA_ERROR_INVALID_IMAGE, why);
        }
        if context.settings.faults.invalid_image {
            return Err(CUresult::CUDA_ERROR_NO_BINARY_FOR_GPU);
        }
        let handle = new_handle();
        context.modules.insert(handle);
        // SAFETY: the client's promise.
        unsafe { store(module, handle as CUmodule) }
    })
}

fn find_module(context: &Context, what: &str, module: CUmodule) -> CallResult<u64> {
    if context.modules.contains(&(module as u64)) {
        return Ok(module as u64);
    }
    let why = format_args!("{what}: there is no module {module:?}, or it is unloaded");
    refuse(CUresult::CUDA_ERROR_INVALID_HANDLE, why)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleUnload(module: CUmodule) -> CUresult {
    in_context("cuModuleUnload", |context| {
        context.refuse_unsafe("cuModuleUnload")?;
        let module = find_module(context, "cuModuleUnload", module)?;
        context.modules.remove(&module);
        context.functions.retain(|_, function| function.module != module);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(
    function: *mut CUfunction,
    module: CUmodule,
    name: *const c_char,
) -> CUresult {
    in_context("cuModuleGetFunction", |context| {
        let what = "cuModuleGetFunction";
        let module = find_module(context, what, module)?;
        if name.is_null() {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format_args!("{what}: the name is null"));
        }
        // SAFETY: a C string, by the client's promise.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        let Some(&kernel) = context.kernels.get(name.as_ref()) else {
            let why = format_args!("{what}: the host device has no kernel {name}");
            return refuse(CUresult::CUDA_ERROR_NOT_FOUND, why);
        };
        // Kernels are loaded on first request, and to load one the driver may wait for all of the device's work.
        if !context.functions.values().any(|other| (other.module, other.kernel.name) == (module, kernel.name))
        {
            context.refuse_any_capture(what)?;
        }
        let handle = new_handle();
        let shared_bytes_max = SHARED_BYTES_DEFAULT;
        context.functions.insert(handle, Function { module, kernel, shared_bytes_max });
        // SAFETY: the client's promise.
        unsafe { store(function, handle as CUfunction) }
    })
}

pub(super) fn find_function<'a>(
    context: &'a mut Context,
    what: &str,
    function: CUfunction,
) -> CallResult<&'a mut Function> {
    match context.functions.get_mut(&(function as u64)) {
        Some(function) => Ok(function),
        None => refuse(
            CUresult::CUDA_ERROR_INVALID_HANDLE,
            format_args!("{what}: there is no function {function:?}, or its module is unloaded"),
        ),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncSetAttribute(
    function: CUfunction,
    attribute: c_uint,
    value: c_int,
) -> CUresult {
    in_context("cuFuncSetAttribute", |context| {
        let what = "cuFuncSetAttribute";
        let function = find_function(context, what, function)?;
        match attribute {
            MAX_DYNAMIC_SHARED_SIZE_BYTES => match u32::try_from(value) {
                Ok(bytes) if bytes <= SHARED_BYTES_MAX => function.shared_bytes_max = bytes,
                _ => {
                    let why = format_args!(
                        "{what}: {value} bytes of shared memory for {}; a block has at most {SHARED_BYTES_MAX}",
                        function.kernel.name
                    );
                    return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
                }
            },
            PREFERRED_SHARED_MEMORY_CARVEOUT => {}
            _ => {
                let why = format_args!("{what}: attribute {attribute} is not simulated");
                return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuFuncGetAttribute(
    value: *mut c_int,
    attribute: c_uint,
    function: CUfunction,
) -> CUresult {
    in_context("cuFuncGetAttribute", |context| {
        let what = "cuFuncGetAttribute";
        let function = find_function(context, what, function)?;
        let found = match attribute {
            MAX_THREADS_PER_BLOCK => 1024,
            SHARED_SIZE_BYTES | LOCAL_SIZE_BYTES => 0,
            MAX_DYNAMIC_SHARED_SIZE_BYTES => function.shared_bytes_max as c_int,
            _ => {
                let why = format_args!("{what}: attribute {attribute} is not simulated");
                return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
            }
        };
        // SAFETY: the client's promise.
        unsafe { store(value, found) }
    })
}
