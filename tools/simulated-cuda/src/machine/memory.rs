//! Allocations of device memory, page-locked host memory and memory pools, freed ones included.

use std::collections::{BTreeMap, HashMap};

use cudarc::driver::sys::CUresult;
use retromae::device::HostOptions;

use super::arena::Arena;
use super::{Handle, new_handle};
use crate::call::{CallResult, complain, refuse};

/// Alignment that cuMemAlloc guarantees, in bytes.
const ALIGNMENT: u64 = 256;
/// Alignment with `RETROMAE_HOST_GUARD=1`, where an allocation ends at its fence: just enough for a kernel's widest access.
const GUARDED_ALIGNMENT: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A stream-ordered allocation that has not run yet.
    Reserved,
    Live,
    Freed,
}

#[derive(Clone, Copy, Debug)]
struct Allocation {
    bytes: u64,
    pool: Option<Handle>,
    state: State,
    /// A free has been requested; it may not have run yet.
    free_asked: bool,
}

/// A memory pool.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pool {
    pub release_threshold: u64,
    /// Flags for the reuse of freed memory, which never happens here.
    pub reuse: [i32; 3],
    pub used: u64,
    pub used_high: u64,
}

/// A usable allocation, of the device or of page-locked host memory.
#[derive(Clone, Copy)]
pub(crate) struct Range {
    pub start: u64,
    pub bytes: u64,
    pub on_host: bool,
}

pub(crate) struct Memory {
    device: Arena,
    host: Arena,
    /// Allocations by address; freed ones stay, so that a use after free can be reported.
    allocations: BTreeMap<u64, Allocation>,
    page_locked: BTreeMap<u64, u64>,
    pub pools: HashMap<Handle, Pool>,
    pub default_pool: Handle,
    total_bytes: u64,
    used_bytes: u64,
}

impl Memory {
    pub(crate) fn reserve(total_bytes: usize) -> CallResult<Self> {
        let guard = HostOptions::from_env().is_ok_and(|options| options.guard);
        let alignment = if guard { GUARDED_ALIGNMENT } else { ALIGNMENT };
        let (Some(device), Some(host)) = (Arena::reserve(alignment), Arena::reserve(ALIGNMENT)) else {
            return refuse(CUresult::CUDA_ERROR_OUT_OF_MEMORY, "there is no address space to reserve");
        };
        let default_pool = new_handle();
        Ok(Self {
            device,
            host,
            allocations: BTreeMap::new(),
            page_locked: BTreeMap::new(),
            pools: HashMap::from([(default_pool, Pool::default())]),
            default_pool,
            total_bytes: total_bytes as u64,
            used_bytes: 0,
        })
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    pub(crate) fn fits(&self, bytes: u64) -> bool {
        self.used_bytes.checked_add(bytes).is_some_and(|used| used <= self.total_bytes)
    }

    /// Takes an address for memory that [`open`](Self::open) will make usable.
    pub(crate) fn take(&mut self, bytes: u64, pool: Option<Handle>) -> CallResult<u64> {
        if !self.fits(bytes) {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        let Some(address) = self.device.take(bytes) else {
            return refuse(CUresult::CUDA_ERROR_OUT_OF_MEMORY, "the simulation is out of addresses");
        };
        self.used_bytes += bytes;
        if let Some(pool) = pool.and_then(|pool| self.pools.get_mut(&pool)) {
            pool.used += bytes;
            pool.used_high = pool.used_high.max(pool.used);
        }
        let allocation = Allocation { bytes, pool, state: State::Reserved, free_asked: false };
        self.allocations.insert(address, allocation);
        Ok(address)
    }

    pub(crate) fn open(&mut self, address: u64) -> Result<(), String> {
        let allocation = self.allocations.get_mut(&address).ok_or("an allocation is lost")?;
        if !self.device.open(address, allocation.bytes) {
            return Err(format!("this machine has no {} bytes for an allocation", allocation.bytes));
        }
        allocation.state = State::Live;
        Ok(())
    }

    /// Notes that a free of the allocation at `address` is requested; a `stream_ordered` free needs memory from a pool.
    pub(crate) fn ask_free(&mut self, address: u64, stream_ordered: bool) -> CallResult {
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        let Some(allocation) = self.allocations.get_mut(&address) else {
            return refuse(invalid, format_args!("a free of {address:#x}, where no allocation begins"));
        };
        if allocation.free_asked {
            return refuse(
                invalid,
                format_args!("a second free of {address:#x} ({} bytes)", allocation.bytes),
            );
        }
        if stream_ordered && allocation.pool.is_none() {
            let why = format_args!("a stream-ordered free of {address:#x}, which comes from no pool");
            return refuse(invalid, why);
        }
        allocation.free_asked = true;
        Ok(())
    }

    /// Frees the allocation for good; returns an error if the bytes around it were overwritten.
    pub(crate) fn close(&mut self, address: u64) -> Result<(), String> {
        let allocation = self.allocations.get_mut(&address).ok_or("an allocation is lost")?;
        let Allocation { bytes, pool, state, .. } = *allocation;
        if state == State::Reserved {
            return Err(format!("a free of {address:#x} ({bytes} bytes) ran before its allocation"));
        }
        allocation.state = State::Freed;
        self.used_bytes -= bytes;
        if let Some(pool) = pool.and_then(|pool| self.pools.get_mut(&pool)) {
            pool.used -= bytes;
        }
        if self.device.close(address, bytes) {
            Ok(())
        } else {
            Err(format!(
                "something wrote just before or behind the {bytes} bytes at {address:#x}, which are now freed"
            ))
        }
    }

    /// Frees all device and page-locked memory.
    pub(crate) fn close_all(&mut self) {
        let open: Vec<u64> = self
            .allocations
            .iter()
            .filter(|(_, allocation)| allocation.state == State::Live)
            .map(|(&address, _)| address)
            .collect();
        for address in open {
            if let Err(message) = self.close(address) {
                complain(message);
            }
        }
        for allocation in self.allocations.values_mut() {
            allocation.free_asked = true;
            allocation.state = State::Freed;
        }
        let page_locked: Vec<u64> = self.page_locked.keys().copied().collect();
        for address in page_locked {
            let _ = self.free_host(address);
        }
        self.used_bytes = 0;
        self.pools.retain(|&handle, _| handle == self.default_pool);
        self.pools.insert(self.default_pool, Pool::default());
    }

    /// Checks that a call may now name `bytes` bytes from `address`.
    pub(crate) fn check_call(&self, what: &str, address: u64, bytes: u64) -> CallResult {
        match self.locate(address, bytes) {
            Ok(allocation) if !allocation.free_asked => Ok(()),
            Ok(_) => refuse(
                CUresult::CUDA_ERROR_INVALID_VALUE,
                format_args!("{what}: {bytes} bytes at {address:#x} are used after they were freed"),
            ),
            Err(why) => refuse(CUresult::CUDA_ERROR_INVALID_VALUE, format_args!("{what}: {why}")),
        }
    }

    /// Checks that work that runs now may access `bytes` bytes from `address`.
    pub(crate) fn check_run(&self, address: u64, bytes: u64) -> Result<(), String> {
        let allocation = self.locate(address, bytes)?;
        match allocation.state {
            State::Live => Ok(()),
            State::Reserved => Err(format!(
                "{bytes} bytes at {address:#x} are used before their allocation, on another stream"
            )),
            State::Freed => Err(format!("{bytes} bytes at {address:#x} are used after they were freed")),
        }
    }

    /// Returns the allocation that a client may use `address` of.
    pub(crate) fn range(&self, address: u64) -> Option<Range> {
        let on_device = self.allocations.range(..=address).next_back();
        let on_device = on_device
            .filter(|(_, allocation)| !allocation.free_asked)
            .map(|(&start, allocation)| Range { start, bytes: allocation.bytes, on_host: false });
        let on_host = self.page_locked.range(..=address).next_back();
        let on_host = on_host.map(|(&start, &bytes)| Range { start, bytes, on_host: true });
        [on_device, on_host].into_iter().flatten().find(|range| address - range.start < range.bytes)
    }

    fn locate(&self, address: u64, bytes: u64) -> Result<&Allocation, String> {
        let outside = || format!("{bytes} bytes at {address:#x} are outside of every allocation");
        let (start, allocation) = self.allocations.range(..=address).next_back().ok_or_else(outside)?;
        let offset = address - start;
        if offset >= allocation.bytes.max(1) {
            return Err(outside());
        }
        if bytes > allocation.bytes - offset {
            return Err(format!(
                "{bytes} bytes at {address:#x} go beyond an allocation: they begin at byte {offset} of {}",
                allocation.bytes
            ));
        }
        Ok(allocation)
    }

    pub(crate) fn allocate_host(&mut self, bytes: u64) -> CallResult<u64> {
        let address = self.host.take(bytes).ok_or(CUresult::CUDA_ERROR_OUT_OF_MEMORY)?;
        if !self.host.open(address, bytes) {
            return Err(CUresult::CUDA_ERROR_OUT_OF_MEMORY);
        }
        self.page_locked.insert(address, bytes);
        Ok(address)
    }

    pub(crate) fn free_host(&mut self, address: u64) -> CallResult {
        let Some(bytes) = self.page_locked.remove(&address) else {
            return refuse(
                CUresult::CUDA_ERROR_INVALID_VALUE,
                format_args!("cuMemFreeHost of {address:#x}, where no page-locked memory begins"),
            );
        };
        if !self.host.close(address, bytes) {
            complain(format_args!(
                "something wrote just before or behind {bytes} page-locked bytes, now freed"
            ));
        }
        Ok(())
    }

    /// Returns true for a page-locked host range, false for a pageable one; refuses a range that is partly page-locked, freed, or device memory.
    pub(crate) fn is_page_locked(&self, what: &str, address: u64, bytes: u64) -> CallResult<bool> {
        let invalid = CUresult::CUDA_ERROR_INVALID_VALUE;
        if self.device.contains(address) {
            return refuse(
                invalid,
                format_args!("{what}: the host address {address:#x} is one of the device"),
            );
        }
        if !self.host.contains(address) {
            return Ok(false);
        }
        let inside = self.page_locked.range(..=address).next_back().is_some_and(|(start, length)| {
            (address - start).checked_add(bytes).is_some_and(|end| end <= *length)
        });
        if inside {
            return Ok(true);
        }
        refuse(
            invalid,
            format_args!(
                "{what}: {bytes} bytes at {address:#x} leave their page-locked allocation, or it is freed"
            ),
        )
    }
}
