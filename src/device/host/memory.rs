//! Memory of the CPU emulator: aligned as by cudaMalloc, or fenced by inaccessible pages.

use std::alloc::Layout;

use crate::device::{Error, Result};

/// Alignment that kernels may rely on; cudaMalloc gives at least this.
const ALIGNMENT: usize = 256;
/// A guarded buffer ends at a page boundary, so only this alignment is left: that of a kernel's widest access.
const GUARDED_ALIGNMENT: usize = 16;
/// Value of every byte of fresh guarded memory: NaN in f32 and bf16, an absurd index in integers.
pub(super) const POISON: u8 = 0xff;

pub(super) fn allocate(bytes: usize, guard: bool) -> Result<u64> {
    let out_of_memory = || Error::OutOfMemory { requested: bytes, device: "host" };
    if guard {
        return allocate_guarded(bytes).ok_or_else(out_of_memory);
    }
    let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).map_err(|_| out_of_memory())?;
    // SAFETY: the size is not zero.
    let pointer = unsafe { std::alloc::alloc_zeroed(layout) };
    if pointer.is_null() { Err(out_of_memory()) } else { Ok(pointer as u64) }
}

/// # Safety
/// `address` came from `allocate(bytes, guard)`.
pub(super) unsafe fn free(address: u64, bytes: usize, guard: bool) {
    if guard {
        let Guarded { before, total } = guarded_layout(bytes);
        // SAFETY: the mapping that `allocate_guarded` made.
        unsafe { unmap(address as usize - before, total) };
    } else {
        let layout = Layout::from_size_align(bytes.max(1), ALIGNMENT).expect("valid when allocated");
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(address as *mut u8, layout) };
    }
}

/// Mapping of a guarded buffer, which begins `before` bytes into `total` mapped bytes, whose first and last page are fences.
struct Guarded {
    before: usize,
    total: usize,
}

fn guarded_layout(bytes: usize) -> Guarded {
    let page = page_size();
    let used = bytes.max(1).next_multiple_of(GUARDED_ALIGNMENT);
    let inner = used.next_multiple_of(page);
    Guarded { before: page + inner - used, total: inner + 2 * page }
}

fn allocate_guarded(bytes: usize) -> Option<u64> {
    let Guarded { before, total } = guarded_layout(bytes);
    let start = map_fenced(total)?;
    // SAFETY: the bytes between the two fences.
    unsafe { std::ptr::write_bytes((start + page_size()) as *mut u8, POISON, total - 2 * page_size()) };
    Some((start + before) as u64)
}

pub(super) fn page_size() -> usize {
    // SAFETY: no preconditions.
    unsafe { libc::sysconf(libc::_SC_PAGESIZE) as usize }
}

/// Unmaps what `map_fenced(total)` returned as `start`.
///
/// # Safety
/// Nothing uses the mapping any more.
pub(super) unsafe fn unmap(start: usize, total: usize) {
    // SAFETY: passed on to the caller.
    unsafe { libc::munmap(start as *mut libc::c_void, total) };
}

/// Maps `total` bytes of which the first and the last page are inaccessible.
pub(super) fn map_fenced(total: usize) -> Option<usize> {
    let page = page_size();
    // SAFETY: a fresh private mapping; then its inside is made accessible.
    unsafe {
        let start = libc::mmap(
            std::ptr::null_mut(),
            total,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        );
        if start == libc::MAP_FAILED {
            return None;
        }
        let inside = start.cast::<u8>().add(page).cast();
        if libc::mprotect(inside, total - 2 * page, libc::PROT_READ | libc::PROT_WRITE) != 0 {
            libc::munmap(start, total);
            return None;
        }
        Some(start as usize)
    }
}
