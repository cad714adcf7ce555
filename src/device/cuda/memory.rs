//! Device memory from a pool of the driver, which keeps freed memory for later allocations.
//!
//! Allocations are made on a stream of their own that never has anything to wait for, so the memory is available when the call returns. Frees are
//! enqueued on another stream, after all work that every stream was given before: no kernel outlives the memory that it uses, and nobody waits.

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::context::Context;
use super::streams::{self, Streams};
use crate::device::{Error, Result};

/// `CUmemPoolProps` of `cuda.h`, whose first fields and size are the same from CUDA 11.2 to 13.4; later versions gave names to some of the reserved
/// bytes, where zeros are the defaults.
#[repr(C)]
struct PoolProperties {
    allocation_type: u32,
    handle_types: u32,
    location_type: u32,
    location: i32,
    reserved: [u64; 9],
}

const _: () = assert!(size_of::<PoolProperties>() == size_of::<sys::CUmemPoolProps>());

impl PoolProperties {
    fn of(device: sys::CUdevice) -> Self {
        Self {
            allocation_type: sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED as u32,
            // CU_MEM_HANDLE_TYPE_NONE: for this process alone.
            handle_types: 0,
            location_type: sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE as u32,
            location: device,
            reserved: [0; 9],
        }
    }
}

pub(super) struct Pool {
    pub context: Arc<Context>,
    streams: Arc<Streams>,
    pool: sys::CUmemoryPool,
    allocating: sys::CUstream,
    /// Allocations freed while a stream was being captured, which must not be disturbed.
    deferred: Mutex<Vec<u64>>,
}

// SAFETY: handles of the driver are bound to no thread, and its functions are thread-safe.
unsafe impl Send for Pool {}
// SAFETY: as above; what changes behind a shared reference is behind a mutex.
unsafe impl Sync for Pool {}

impl Pool {
    pub(super) fn open(context: Arc<Context>, streams: Arc<Streams>) -> Result<Self> {
        let properties = PoolProperties::of(context.device);
        let making = |error| context.failure("making a memory pool", error);
        // SAFETY: the properties are complete.
        let pool = unsafe { result::mem_pool::create((&raw const properties).cast()) }.map_err(making)?;
        // By default a pool returns its unused memory to the system at every synchronization.
        let mut keep = u64::MAX;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the attribute is a 64-bit integer.
        unsafe { result::mem_pool::set_attribute(pool, attribute, (&raw mut keep).cast()) }
            .map_err(making)?;
        let allocating = streams::create(&context)?;
        Ok(Self { context, streams, pool, allocating, deferred: Mutex::default() })
    }

    /// The context must be entered.
    pub(super) fn allocate(&self, bytes: usize) -> Result<u64> {
        self.free_deferred();
        let allocate = || {
            // SAFETY: the pool is alive; the driver refuses an allocation of no bytes.
            let address = unsafe { result::mem_pool::alloc_async(self.pool, bytes.max(1), self.allocating) }?;
            // SAFETY: nothing but allocations is on this stream.
            unsafe { result::stream::synchronize(self.allocating) }.map(|()| address)
        };
        let out_of_memory = |error: &result::DriverError| error.0 == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY;
        let allocated = match allocate() {
            // The memory of pending frees may suffice.
            Err(error) if out_of_memory(&error) => {
                // SAFETY: the stream is alive.
                match unsafe { result::stream::synchronize(self.streams.freeing) } {
                    Ok(()) => allocate(),
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        allocated.map_err(|error| match result::mem_get_info() {
            Ok((free, total)) if out_of_memory(&error) => {
                Error::CudaOutOfMemory { requested: bytes, free, total }
            }
            _ => self.context.failure(format_args!("allocating {bytes} bytes"), error),
        })
    }

    /// Refuses memory of others whose first or last byte the device cannot access: of the host, or of another device.
    pub(super) fn require_reachable(&self, address: u64, bytes: usize) -> Result<()> {
        let _entered = self.context.enter()?;
        let Some(last) = bytes.checked_sub(1) else { return Ok(()) };
        for address in [address, address + last as u64] {
            let mut device = sys::CUdevice::default();
            let attribute = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL;
            // SAFETY: the attribute is an integer of this type.
            let found = unsafe { sys::cuPointerGetAttribute((&raw mut device).cast(), attribute, address) };
            if found == sys::CUresult::CUDA_SUCCESS && device == self.context.device {
                continue;
            }
            let actual = match found {
                sys::CUresult::CUDA_SUCCESS => format!("{address:#x}, of device {device}"),
                _ => format!("{address:#x}, which the driver does not know"),
            };
            let expected = format!("memory of device {}", self.context.device);
            return Err(Error::WrongDevice { argument: "address", actual, expected });
        }
        Ok(())
    }

    /// # Safety
    /// `address` came from `allocate` and is not used by work that is enqueued afterwards.
    pub(super) unsafe fn free(&self, address: u64) {
        self.deferred.lock().unwrap_or_else(PoisonError::into_inner).push(address);
        // A context that can no longer be entered has lost its memory.
        if let Ok(_entered) = self.context.enter() {
            self.free_deferred();
        }
    }

    /// Enqueues all frees, unless a stream is being captured. The context must be entered.
    pub(super) fn free_deferred(&self) {
        let mut deferred = self.deferred.lock().unwrap_or_else(PoisonError::into_inner);
        if deferred.is_empty() || !matches!(self.streams.join(self.streams.freeing), Ok(true)) {
            return;
        }
        for address in deferred.drain(..) {
            // SAFETY: allocated from the pool, and everything that uses it comes before. An error here is an earlier one of a stream, which
            // its next call reports.
            let freed = unsafe { result::free_async(address, self.streams.freeing) };
            let _ = freed.map_err(|error| self.context.failure("freeing memory", error));
        }
    }
}
