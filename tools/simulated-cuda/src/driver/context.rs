//! Initialization, the device, and its primary context.

use std::ffi::{c_char, c_int, c_uint};

use cudarc::driver::sys::{CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult};

use crate::call::{CallResult, enter, in_context, refuse, store};
use crate::machine::current_handle;

const NAME: &[u8] = b"Simulated GPU";

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuInit(flags: c_uint) -> CUresult {
    enter("cuInit", |machine| match flags {
        0 => machine.initialize(),
        _ => refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format_args!("cuInit: flags are {flags}, not 0")),
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> CUresult {
    enter("cuDriverGetVersion", |machine| {
        let value = machine.settings()?.faults.driver_version;
        // SAFETY: the client's promise.
        unsafe { store(version, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> CUresult {
    enter("cuDeviceGetCount", |machine| {
        let value = c_int::from(!machine.initialized()?.faults.no_device);
        // SAFETY: the client's promise.
        unsafe { store(count, value) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut CUdevice, ordinal: c_int) -> CUresult {
    enter("cuDeviceGet", |machine| {
        machine.device(ordinal)?;
        // SAFETY: the client's promise.
        unsafe { store(device, ordinal) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetName(name: *mut c_char, length: c_int, device: CUdevice) -> CUresult {
    enter("cuDeviceGetName", |machine| {
        machine.device(device)?;
        if name.is_null() || length < 1 {
            return refuse(
                CUresult::CUDA_ERROR_INVALID_VALUE,
                "cuDeviceGetName: there is no room for a name",
            );
        }
        let bytes = NAME.len().min(length as usize - 1);
        // SAFETY: the client's buffer has `length` bytes.
        unsafe {
            std::ptr::copy_nonoverlapping(NAME.as_ptr().cast(), name, bytes);
            name.add(bytes).write(0);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceTotalMem_v2(bytes: *mut usize, device: CUdevice) -> CUresult {
    enter("cuDeviceTotalMem_v2", |machine| {
        let value = machine.device(device)?.faults.memory_bytes;
        // SAFETY: the client's promise.
        unsafe { store(bytes, value) }
    })
}

/// Returns a device attribute: an H100's, except for the compute capability.
fn attribute(attribute: c_uint, (major, minor): (c_int, c_int)) -> CallResult<c_int> {
    let known = [
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK, 1024),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X, i32::MAX),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y, 65535),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z, 65535),
        (Attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE, 32),
        (Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1_980_000),
        (Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 2_619_000),
        (Attribute::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 5120),
        (Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, 50 << 20),
        (Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_MULTIPROCESSOR, 2048),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK, 48 << 10),
        (
            Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
            super::module::SHARED_BYTES_MAX as c_int,
        ),
        (Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10),
        (Attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_KERNELS, 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 3),
        (Attribute::CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 1),
        (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, major),
        (Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, minor),
    ];
    match known.iter().find(|(known, _)| *known as c_uint == attribute) {
        Some(&(_, value)) => Ok(value),
        None => refuse(
            CUresult::CUDA_ERROR_NOT_SUPPORTED,
            format_args!("cuDeviceGetAttribute: attribute {attribute} is not simulated"),
        ),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(
    value: *mut c_int,
    which: c_uint,
    device: CUdevice,
) -> CUresult {
    enter("cuDeviceGetAttribute", |machine| {
        let found = attribute(which, machine.device(device)?.faults.capability)?;
        // SAFETY: the client's promise.
        unsafe { store(value, found) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut CUcontext, device: CUdevice) -> CUresult {
    enter("cuDevicePrimaryCtxRetain", |machine| {
        let handle = machine.retain(device)?;
        // SAFETY: the client's promise.
        unsafe { store(context, handle as CUcontext) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRelease_v2(device: CUdevice) -> CUresult {
    enter("cuDevicePrimaryCtxRelease_v2", |machine| machine.release(device))
}

/// The flags of the primary context, which have no effect here: one of four ways to wait, and two bits.
const CONTEXT_FLAGS: [c_uint; 4] = [0, 1, 2, 4];
const CONTEXT_BITS: c_uint = 0x18;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxSetFlags_v2(device: CUdevice, flags: c_uint) -> CUresult {
    enter("cuDevicePrimaryCtxSetFlags_v2", |machine| {
        machine.device(device)?;
        if CONTEXT_FLAGS.contains(&(flags & !CONTEXT_BITS)) {
            return Ok(());
        }
        let why = format_args!("cuDevicePrimaryCtxSetFlags: there are no flags {flags:#x}");
        refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSetCurrent(context: CUcontext) -> CUresult {
    enter("cuCtxSetCurrent", |machine| machine.set_current(context as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPushCurrent_v2(context: CUcontext) -> CUresult {
    enter("cuCtxPushCurrent_v2", |machine| machine.push_current(context as u64))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxPopCurrent_v2(context: *mut CUcontext) -> CUresult {
    enter("cuCtxPopCurrent_v2", |machine| {
        let popped = machine.pop_current()?;
        // The driver lets a client pass null here.
        if context.is_null() {
            return Ok(());
        }
        // SAFETY: the client's promise.
        unsafe { store(context, popped as CUcontext) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut CUcontext) -> CUresult {
    enter("cuCtxGetCurrent", |machine| {
        machine.initialized()?;
        // SAFETY: the client's promise.
        unsafe { store(context, current_handle() as CUcontext) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxSynchronize() -> CUresult {
    in_context("cuCtxSynchronize", |context| {
        context.refuse_any_capture("cuCtxSynchronize")?;
        context.wait_for_all()
    })
}
