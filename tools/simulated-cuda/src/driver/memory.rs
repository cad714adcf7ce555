//! Plain device memory and page-locked host memory.

use std::ffi::{c_uint, c_void};

use cudarc::driver::sys::{CUdeviceptr, CUresult};

use crate::call::{CallResult, in_context, refuse, store};
use crate::machine::{Context, Handle};

/// Valid flags of `cuMemHostAlloc`, none of which has an effect here: portable, mapped and write-combined.
const HOST_FLAGS: c_uint = 7;

/// Takes an address for an allocation. When memory is short, all enqueued work runs first, as it may free some.
pub(super) fn take(context: &mut Context, what: &str, bytes: usize, pool: Option<Handle>) -> CallResult<u64> {
    if bytes == 0 {
        let why = format_args!("{what}: an allocation of no bytes");
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
    }
    if !context.memory.fits(bytes as u64) {
        context.wait_for_all()?;
    }
    context.memory.take(bytes as u64, pool)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(address: *mut CUdeviceptr, bytes: usize) -> CUresult {
    in_context("cuMemAlloc_v2", |context| {
        context.refuse_unsafe("cuMemAlloc")?;
        let taken = take(context, "cuMemAlloc", bytes, None)?;
        if let Err(why) = context.memory.open(taken) {
            return refuse(CUresult::CUDA_ERROR_OUT_OF_MEMORY, format_args!("cuMemAlloc: {why}"));
        }
        // SAFETY: the client's promise.
        unsafe { store(address, taken) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFree_v2(address: CUdeviceptr) -> CUresult {
    in_context("cuMemFree_v2", |context| {
        if address == 0 {
            return Ok(());
        }
        // cuMemFree waits for all of the device's work.
        context.refuse_any_capture("cuMemFree")?;
        context.memory.ask_free(address, false)?;
        context.wait_for_all()?;
        context.close(address)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> CUresult {
    in_context("cuMemGetInfo_v2", |context| {
        let (used_bytes, total_bytes) = (context.memory.used_bytes(), context.memory.total_bytes());
        // SAFETY: the client's promise.
        unsafe {
            store(free, (total_bytes - used_bytes) as usize)?;
            store(total, total_bytes as usize)
        }
    })
}

fn allocate_host(name: &str, address: *mut *mut c_void, bytes: usize) -> CUresult {
    in_context(name, |context| {
        context.refuse_unsafe(name)?;
        if bytes == 0 {
            let why = format_args!("{name}: an allocation of no bytes");
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        let taken = context.memory.allocate_host(bytes as u64)?;
        // SAFETY: the client's promise.
        unsafe { store(address, taken as *mut c_void) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, flags: c_uint) -> CUresult {
    if flags & !HOST_FLAGS != 0 {
        return in_context("cuMemHostAlloc", |_| {
            let why = format_args!("cuMemHostAlloc: there are no flags {flags}");
            refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why)
        });
    }
    allocate_host("cuMemHostAlloc", address, bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAllocHost_v2(address: *mut *mut c_void, bytes: usize) -> CUresult {
    allocate_host("cuMemAllocHost_v2", address, bytes)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemFreeHost(address: *mut c_void) -> CUresult {
    in_context("cuMemFreeHost", |context| {
        context.refuse_any_capture("cuMemFreeHost")?;
        // Enqueued copies may still need the memory.
        context.wait_for_all()?;
        context.memory.free_host(address as u64)
    })
}
