//! Stream-ordered memory and its pools.

use std::ffi::{c_uint, c_void};

use cudarc::driver::sys::{CUdevice, CUdeviceptr, CUmemPoolProps, CUmemoryPool, CUresult, CUstream};

use super::memory::take;
use crate::call::{CallResult, enter, in_context, refuse, store};
use crate::machine::{Context, Handle, Pool, Work, new_handle};

/// CU_MEM_ALLOCATION_TYPE_PINNED and CU_MEM_LOCATION_TYPE_DEVICE.
const PINNED: u32 = 1;
const DEVICE: u32 = 1;

fn allocate(context: &mut Context, what: &str, bytes: usize, pool: Handle, stream: u64) -> CallResult<u64> {
    context.refuse_captured(what, stream)?;
    pool_of(context, what, pool)?;
    let address = take(context, what, bytes, Some(pool))?;
    context.submit(what, stream, Work::Open { address })?;
    Ok(address)
}

fn pool_of<'a>(context: &'a mut Context, what: &str, pool: Handle) -> CallResult<&'a mut Pool> {
    match context.memory.pools.get_mut(&pool) {
        Some(pool) => Ok(pool),
        None => refuse(
            CUresult::CUDA_ERROR_INVALID_VALUE,
            format_args!("{what}: there is no pool {pool:#x}, or it is destroyed"),
        ),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocAsync(
    address: *mut CUdeviceptr,
    bytes: usize,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemAllocAsync", |context| {
        let pool = context.memory.default_pool;
        let taken = allocate(context, "cuMemAllocAsync", bytes, pool, stream as u64)?;
        // SAFETY: the client's promise.
        unsafe { store(address, taken) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocFromPoolAsync(
    address: *mut CUdeviceptr,
    bytes: usize,
    pool: CUmemoryPool,
    stream: CUstream,
) -> CUresult {
    in_context("cuMemAllocFromPoolAsync", |context| {
        let taken = allocate(context, "cuMemAllocFromPoolAsync", bytes, pool as u64, stream as u64)?;
        // SAFETY: the client's promise.
        unsafe { store(address, taken) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeAsync(address: CUdeviceptr, stream: CUstream) -> CUresult {
    in_context("cuMemFreeAsync", |context| {
        if address == 0 {
            return Ok(());
        }
        context.refuse_captured("cuMemFreeAsync", stream as u64)?;
        context.memory.ask_free(address, true)?;
        context.submit("cuMemFreeAsync", stream as u64, Work::Close { address })?;
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetDefaultMemPool(pool: *mut CUmemoryPool, device: CUdevice) -> CUresult {
    enter("cuDeviceGetDefaultMemPool", |machine| {
        machine.device(device)?;
        let handle = machine.current()?.memory.default_pool;
        // SAFETY: the client's promise.
        unsafe { store(pool, handle as CUmemoryPool) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolCreate(
    pool: *mut CUmemoryPool,
    properties: *const CUmemPoolProps,
) -> CUresult {
    in_context("cuMemPoolCreate", |context| {
        context.refuse_unsafe("cuMemPoolCreate")?;
        if properties.is_null() {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, "cuMemPoolCreate: the properties are null");
        }
        // Read as plain numbers: the client may have written values that are not in the enumerations.
        // SAFETY: the struct begins with four 32-bit numbers.
        let [kind, handles, location, ordinal] = unsafe { properties.cast::<[u32; 4]>().read() };
        if [kind, handles, location, ordinal] != [PINNED, 0, DEVICE, 0] {
            let why = format_args!(
                "cuMemPoolCreate: type {kind}, handle types {handles}, location {location} of {ordinal}; only pinned memory of \
                 device 0 without exported handles is simulated"
            );
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
        let handle = new_handle();
        context.memory.pools.insert(handle, Pool::default());
        // SAFETY: the client's promise.
        unsafe { store(pool, handle as CUmemoryPool) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolDestroy(pool: CUmemoryPool) -> CUresult {
    in_context("cuMemPoolDestroy", |context| {
        let what = "cuMemPoolDestroy";
        context.refuse_unsafe(what)?;
        pool_of(context, what, pool as u64)?;
        if pool as u64 == context.memory.default_pool {
            let why = format_args!("{what}: the default pool cannot be destroyed");
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        // The pool's allocations stay valid until they are freed.
        context.memory.pools.remove(&(pool as u64));
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolTrimTo(pool: CUmemoryPool, _bytes_to_keep: usize) -> CUresult {
    in_context("cuMemPoolTrimTo", |context| {
        context.refuse_unsafe("cuMemPoolTrimTo")?;
        pool_of(context, "cuMemPoolTrimTo", pool as u64).map(|_| ())
    })
}

fn no_attribute(what: &str, attribute: c_uint) -> CallResult {
    let why = format_args!("{what}: attribute {attribute} is not simulated");
    refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolSetAttribute(
    pool: CUmemoryPool,
    attribute: c_uint,
    value: *mut c_void,
) -> CUresult {
    in_context("cuMemPoolSetAttribute", |context| {
        let what = "cuMemPoolSetAttribute";
        let pool = pool_of(context, what, pool as u64)?;
        if value.is_null() {
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format_args!("{what}: the value is null"));
        }
        // SAFETY: an i32 for the flags, a u64 for the sizes, as the driver documents them.
        unsafe {
            match attribute {
                1..=3 => pool.reuse[attribute as usize - 1] = value.cast::<i32>().read_unaligned(),
                4 => pool.release_threshold = value.cast::<u64>().read_unaligned(),
                // The high-water marks can only be reset.
                6 | 8 if value.cast::<u64>().read_unaligned() == 0 => pool.used_high = pool.used,
                _ => return no_attribute(what, attribute),
            }
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemPoolGetAttribute(
    pool: CUmemoryPool,
    attribute: c_uint,
    value: *mut c_void,
) -> CUresult {
    in_context("cuMemPoolGetAttribute", |context| {
        let what = "cuMemPoolGetAttribute";
        let pool = *pool_of(context, what, pool as u64)?;
        // SAFETY: as in `cuMemPoolSetAttribute`.
        unsafe {
            match attribute {
                1..=3 => store(value.cast::<i32>(), pool.reuse[attribute as usize - 1]),
                4 => store(value.cast::<u64>(), pool.release_threshold),
                // No memory is reserved beyond the memory in use.
                5 | 7 => store(value.cast::<u64>(), pool.used),
                6 | 8 => store(value.cast::<u64>(), pool.used_high),
                _ => no_attribute(what, attribute),
            }
        }
    })
}
