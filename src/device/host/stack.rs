//! The stacks of a block's threads.

use std::num::NonZeroUsize;

use corosensei::stack::{Stack, StackPointer};

use super::memory::{map_fenced, page_size, unmap};
use super::valgrind::{StackId, deregister_stack, register_stack};

/// Bytes of a kernel thread's stack, which holds its register tiles: a few KiB.
pub(super) const STACK_BYTES: usize = 64 * 1024;
/// Offset between stacks. If all began at the same offset in a page, they would compete for the same cache lines, so each begins a little lower
/// than the last; the step is a few lines wide and the colors fill a page.
const COLOR_BYTES: usize = 576;
const COLOR_RANGE: usize = 4096;

/// The stack of one thread of a block, fenced at its low end, reused for block after block.
#[derive(Clone, Copy)]
pub(super) struct LaneStack {
    base: StackPointer,
    limit: StackPointer,
    id: StackId,
}

impl LaneStack {
    /// Bytes of the mapping.
    fn total() -> usize {
        STACK_BYTES + 3 * page_size()
    }

    pub(super) fn new(lane: usize) -> Option<Self> {
        let total = Self::total();
        let start = map_fenced(total)?;
        let color = lane * COLOR_BYTES % COLOR_RANGE;
        let base = (start + total - page_size() - color) & !(corosensei::stack::STACK_ALIGNMENT - 1);
        let id = register_stack(start + page_size(), base);
        Some(Self { base: NonZeroUsize::new(base)?, limit: NonZeroUsize::new(start)?, id })
    }

    /// Unmaps the stack.
    ///
    /// # Safety
    /// Nothing runs on the stack, now or later.
    pub(super) unsafe fn release(&self) {
        deregister_stack(self.id);
        // SAFETY: the whole mapping, which is the caller's to give back.
        unsafe { unmap(self.limit.get(), Self::total()) };
    }
}

// SAFETY: the stack is fenced at its low end by the first page of the mapping, and far larger than the minimum. The mapping stays
// until the operating-system thread ends, so copies of the handle stay valid; a worker uses each stack for one coroutine at a time.
unsafe impl Stack for LaneStack {
    fn base(&self) -> StackPointer {
        self.base
    }

    fn limit(&self) -> StackPointer {
        self.limit
    }
}
