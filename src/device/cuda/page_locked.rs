//! Page-locked host memory. The driver frees it only when all work of the device is done, so it is kept for reuse instead.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::result;

use super::context::Context;
use crate::device::{Error, Result};

/// Unused allocations: sizes in bytes, and addresses.
#[derive(Default)]
pub(super) struct PageLocked {
    spare: Mutex<Vec<(usize, u64)>>,
}

/// Rounds `bytes` up to one of few sizes, so that a returned allocation fits the next request.
fn rounded(bytes: usize) -> Option<usize> {
    bytes.checked_next_power_of_two()
}

impl PageLocked {
    /// The context must be entered.
    pub(super) fn allocate(&self, context: &Context, bytes: usize) -> Result<u64> {
        let out_of_memory = || Error::OutOfMemory { requested: bytes, device: "cuda" };
        let size = rounded(bytes).ok_or_else(out_of_memory)?;
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = spare.iter().position(|&(other, _)| other == size) {
            return Ok(spare.swap_remove(index).1);
        }
        drop(spare);
        // SAFETY: a plain allocation.
        let allocated = unsafe { result::malloc_host(size, 0) };
        allocated.map(|address| address as u64).map_err(|error| {
            context.failure(format_args!("allocating {bytes} bytes of page-locked host memory"), error)
        })
    }

    /// Takes back an allocation of `bytes` bytes, which no copy in flight may use.
    pub(super) fn free(&self, address: u64, bytes: usize) {
        let size = rounded(bytes).expect("as it was allocated");
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push((size, address));
    }
}
