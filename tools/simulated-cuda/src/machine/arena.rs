//! Address space: every allocation lies between inaccessible pages, and no address is reused.

use libc::{
    MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE,
};

/// Reserved bytes; address space costs nothing until it is opened.
const BYTES: u64 = 1 << 40;
/// Value of every byte of fresh memory: NaN in f32, bf16 and f16, an absurd index in integers.
pub(crate) const POISON: u8 = 0xff;
/// Fill value of the bytes between an allocation and the fence after it, and before it down to its page. A write there is found at the free.
const CANARY: u8 = 0xa5;

/// Flags of `mmap` for address space without memory.
const RESERVED: i32 = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;

/// A range of reserved addresses, allocated from its start.
pub(crate) struct Arena {
    start: u64,
    next: u64,
    page: u64,
    /// Alignment of an allocation's first address; its end is as near to the fence as this allows.
    alignment: u64,
}

impl Arena {
    pub(crate) fn reserve(alignment: u64) -> Option<Self> {
        // SAFETY: a fresh private mapping, and a plain question.
        let (start, page) = unsafe {
            (
                libc::mmap(std::ptr::null_mut(), BYTES as usize, PROT_NONE, RESERVED, -1, 0),
                libc::sysconf(libc::_SC_PAGESIZE) as u64,
            )
        };
        (start != MAP_FAILED).then_some(Self { start: start as u64, next: start as u64, page, alignment })
    }

    pub(crate) fn contains(&self, address: u64) -> bool {
        (self.start..self.start + BYTES).contains(&address)
    }

    /// Takes addresses for `bytes` bytes. They are inaccessible until [`open`](Self::open)ed.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let used = bytes.max(1).checked_next_multiple_of(self.alignment)?;
        let pages = used.checked_next_multiple_of(self.page)?;
        let end = self.next.checked_add(pages)?;
        if end + self.page > self.start + BYTES {
            return None;
        }
        self.next = end + self.page;
        Some(end - used)
    }

    /// Start and end of an allocation's pages.
    fn pages(&self, address: u64, bytes: u64) -> (u64, u64) {
        let start = address / self.page * self.page;
        (start, (address + bytes).next_multiple_of(self.page))
    }

    /// Makes the allocation accessible and poisons it.
    pub(crate) fn open(&self, address: u64, bytes: u64) -> bool {
        let (start, end) = self.pages(address, bytes);
        // SAFETY: pages of this arena that belong to the one allocation.
        unsafe {
            let pointer = start as *mut libc::c_void;
            if libc::mprotect(pointer, (end - start) as usize, PROT_READ | PROT_WRITE) != 0 {
                return false;
            }
            std::ptr::write_bytes(start as *mut u8, CANARY, (address - start) as usize);
            std::ptr::write_bytes(address as *mut u8, POISON, bytes as usize);
            let after = address + bytes;
            std::ptr::write_bytes(after as *mut u8, CANARY, (end - after) as usize);
        }
        true
    }

    /// Makes the allocation inaccessible and releases its memory. Returns true if the bytes around it are intact.
    pub(crate) fn close(&self, address: u64, bytes: u64) -> bool {
        let (start, end) = self.pages(address, bytes);
        let after = address + bytes;
        // SAFETY: the allocation's own pages, which `open` made accessible.
        unsafe {
            let before = std::slice::from_raw_parts(start as *const u8, (address - start) as usize);
            let behind = std::slice::from_raw_parts(after as *const u8, (end - after) as usize);
            let intact = before.iter().chain(behind).all(|&byte| byte == CANARY);
            // Mapped anew: pages that were once written would remain a separate mapping, of which a process may have 65,530.
            let pointer = start as *mut libc::c_void;
            libc::mmap(pointer, (end - start) as usize, PROT_NONE, RESERVED | MAP_FIXED, -1, 0);
            intact
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_beside_an_allocation_is_found_when_it_is_closed() {
        let mut arena = Arena::reserve(256).unwrap();
        for offset in [-1i64, 100] {
            let address = arena.take(100).unwrap();
            assert_eq!(address % 256, 0);
            assert!(arena.open(address, 100));
            // SAFETY: inside the allocation's pages.
            unsafe {
                assert_eq!(*(address as *const u8), POISON);
                *((address as i64 + offset) as *mut u8) = 0;
            }
            assert!(!arena.close(address, 100));
        }
        let address = arena.take(100).unwrap();
        assert!(arena.open(address, 100) && arena.close(address, 100));
    }

    #[test]
    fn addresses_are_never_given_twice() {
        let mut arena = Arena::reserve(16).unwrap();
        let first = arena.take(4096).unwrap();
        assert!(arena.open(first, 4096) && arena.close(first, 4096));
        assert!(arena.take(4096).unwrap() > first + 4096);
        assert_eq!(arena.take(u64::MAX), None);
    }
}
