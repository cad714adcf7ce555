//! Runs blocks on one operating-system thread: shared memory, and the loop that resumes threads.

use std::cell::RefCell;

use corosensei::{Coroutine, CoroutineResult};

use super::conflicts::{Counter, Totals};
use super::memory::{POISON, map_fenced, page_size, unmap};
use super::scheduler::{
    Block, CodeLocation, Context, Dim3, Exit, Lane, SCHEDULER, State, Violation, Votes, Warp,
    retromae_simt_begin_block, retromae_simt_context, set_current, thread_main,
};
use super::signals;
use super::stack::{LaneStack, STACK_BYTES};
use super::{HostOptions, LANES, SHARED_BYTES_MAX, THREADS_MAX, ThreadOrder};
use crate::common::random::{key, philox};
use crate::device::registry::HostKernel;
use crate::device::{Error, Launch, Result};

struct Worker {
    /// Threads of the block reach it by address while they run, so no reference to it is held across a resume.
    block: *mut Block,
    stacks: Vec<LaneStack>,
    /// Address one past the end of shared memory, where a fence begins.
    shared_end: usize,
    /// `true` if a fault of the block's threads is an error of its launch.
    catch_faults: bool,
}

impl Drop for Worker {
    /// Unmaps the memory, as a process may have only so many mappings, but any number of threads one after another. The block is leaked on
    /// purpose: a lane that a fault has stopped is never resumed.
    fn drop(&mut self) {
        for stack in &self.stacks {
            // SAFETY: nothing runs on it any more.
            unsafe { stack.release() };
        }
        let total = shared_total();
        // SAFETY: the whole mapping of shared memory, which no block uses any more.
        unsafe { unmap(self.shared_end + page_size() - total, total) };
    }
}

/// Bytes of the mapping of shared memory, with its fences.
fn shared_total() -> usize {
    (SHARED_BYTES_MAX as usize).next_multiple_of(page_size()) + 2 * page_size()
}

thread_local! {
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

impl Worker {
    fn new() -> Option<Self> {
        let total = shared_total();
        let shared_end = map_fenced(total)? + total - page_size();
        // SAFETY: the context of this thread.
        let context = unsafe { retromae_simt_context() };
        let block = Block {
            lanes: Vec::new(),
            warps: Vec::new(),
            current: 0,
            votes: Votes::default(),
            context,
            conflicts: None,
            violation: None,
            fault: None,
        };
        Some(Self {
            block: Box::into_raw(Box::new(block)),
            stacks: Vec::new(),
            shared_end,
            catch_faults: false,
        })
    }

    /// Returns the block, while none of its threads runs.
    fn block(&mut self) -> &mut Block {
        // SAFETY: allocated once in `new`; threads run only inside `resume`, which holds no such reference then.
        unsafe { &mut *self.block }
    }

    fn begin(&mut self, launch: &Launch<'_>, block: [u32; 3], options: &HostOptions) -> Option<()> {
        self.catch_faults = options.catch_faults;
        if self.catch_faults {
            signals::use_alternate_stack()?;
        }
        let threads = launch.shape.threads as usize;
        while self.stacks.len() < threads {
            self.stacks.push(LaneStack::new(self.stacks.len())?);
        }
        let state = self.block();
        // Lanes that the previous block left behind have ended, so only their state is renewed.
        state.lanes.resize_with(threads, Lane::new);
        state.lanes.iter_mut().for_each(|lane| lane.state = State::Ready);
        state.warps.resize(threads.div_ceil(LANES), Warp::IDLE);
        state.warps.iter_mut().for_each(Warp::reset);
        state.votes = Votes::default();
        state.conflicts = options.bank_conflicts.then(|| Counter::new(threads));
        state.violation = None;
        state.fault = None;
        let context = state.context;
        // Alignment 128 as on the GPU; the gap between the end of the request and the fence is smaller than that.
        let bytes = (launch.shape.shared_bytes as usize).next_multiple_of(128);
        let shared = (self.shared_end - bytes) as *mut u8;
        // SAFETY: the mapping has at least `SHARED_BYTES_MAX` bytes before its end.
        unsafe { std::ptr::write_bytes(shared, POISON, bytes) };
        let [x, y, z] = block;
        let [grid_x, grid_y, grid_z] = launch.shape.grid;
        // SAFETY: the context of this operating-system thread; nothing runs on it now.
        unsafe {
            *context = Context {
                scheduler: SCHEDULER,
                thread_idx: Dim3::default(),
                block_idx: Dim3 { x, y, z },
                block_dim: Dim3 { x: launch.shape.threads, y: 1, z: 1 },
                grid_dim: Dim3 { x: grid_x, y: grid_y, z: grid_z },
                shared_memory: shared,
                shared_bytes: launch.shape.shared_bytes,
                thread: 0,
                count_conflicts: u32::from(options.bank_conflicts),
                block_epoch: 0,
                warp_epoch: [0; LANES],
            };
            retromae_simt_begin_block();
        }
        Some(())
    }

    /// Resumes thread `index` until it parks or ends.
    fn resume(
        &mut self,
        index: usize,
        kernel: &HostKernel,
        launch: &Launch<'_>,
    ) -> std::result::Result<(), Violation> {
        let (stack, catch_faults) = (self.stacks[index], self.catch_faults);
        let block = self.block();
        block.current = index;
        // SAFETY: the context of this operating-system thread.
        unsafe {
            (*block.context).thread_idx = Dim3 { x: index as u32, y: 0, z: 0 };
            (*block.context).thread = index as u32;
        }
        let mut thread = block.lanes[index].coroutine.take().unwrap_or_else(|| {
            let (run, params) = (kernel.run, launch.params.as_ptr().cast());
            let thread = Coroutine::with_stack(stack, move |yielder, ()| thread_main(yielder, run, params));
            block.lanes[index].trap = catch_faults.then(|| thread.trap_handler());
            thread
        });
        let result = thread.resume(());
        let block = self.block();
        match result {
            CoroutineResult::Yield(()) => {
                block.lanes[index].coroutine = Some(thread);
                block.violation.take().map_or(Ok(()), Err)
            }
            CoroutineResult::Return(Exit::Finished) => {
                block.lanes[index].state = State::Finished;
                block.unfinished_copies().map_or(Ok(()), Err)
            }
            CoroutineResult::Return(Exit::Faulted) => {
                let fault = block.fault.take().expect("the signal handler left it");
                let location = CodeLocation::Address(fault.program_counter);
                Err(Violation { text: fault.to_string(), location, thread: index })
            }
        }
    }

    /// Runs every thread until none can run; those of one warp run together, for cache locality.
    fn run_ready(
        &mut self,
        sequence: &[usize],
        kernel: &HostKernel,
        launch: &Launch<'_>,
    ) -> std::result::Result<(), Violation> {
        for warp in sequence.chunks(LANES) {
            let mut progress = true;
            while progress {
                progress = false;
                for &index in warp {
                    if self.block().lanes[index].state == State::Ready {
                        self.resume(index, kernel, launch)?;
                        progress = true;
                    }
                }
            }
        }
        Ok(())
    }

    fn run(
        &mut self,
        kernel: &HostKernel,
        launch: &Launch<'_>,
        order: ThreadOrder,
        salt: u32,
    ) -> std::result::Result<(), Violation> {
        let threads = launch.shape.threads as usize;
        let mut sequence = thread_order(order, threads, salt, 0);
        for round in 1.. {
            self.run_ready(&sequence, kernel, launch)?;
            if self.block().settle()? {
                break;
            }
            if let ThreadOrder::Random(_) = order {
                sequence = thread_order(order, threads, salt, round);
            }
        }
        Ok(())
    }

    /// Abandons the threads that are still parked.
    fn end(&mut self) {
        for lane in &mut self.block().lanes {
            if let Some(mut thread) = lane.coroutine.take() {
                // SAFETY: kernels are C++ without exceptions or destructors, so nothing on their stacks needs unwinding.
                unsafe { thread.force_reset() };
            }
        }
    }
}

/// Returns the order in which the threads run, warp by warp. All warps of a block are full except possibly the last one.
fn thread_order(order: ThreadOrder, threads: usize, salt: u32, round: u32) -> Vec<usize> {
    let mut sequence: Vec<usize> = (0..threads).collect();
    match order {
        ThreadOrder::Forward => {}
        ThreadOrder::Reverse => sequence.reverse(),
        ThreadOrder::Random(seed) => {
            let random = |item: usize| philox(key(seed), [item as u32, salt, round, 0])[0];
            let warp = |thread: usize| random(THREADS_MAX as usize + thread / LANES);
            sequence.sort_by_key(|&thread| (warp(thread), thread / LANES, random(thread)));
        }
    }
    sequence
}

/// Runs one block of a launch on the calling operating-system thread. Unless it fails, its shared-memory accesses are added to `conflicts`, where
/// given.
///
/// # Safety
/// `kernel` accepts the params of `launch`, and every address in them is valid for what it does.
pub(super) unsafe fn run_block(
    kernel: &HostKernel,
    launch: &Launch<'_>,
    block: [u32; 3],
    options: &HostOptions,
    conflicts: Option<&Totals>,
) -> Result<()> {
    let out_of_memory = || Error::OutOfMemory { requested: STACK_BYTES, device: "host" };
    WORKER.with_borrow_mut(|slot| {
        if slot.is_none() {
            *slot = Some(Worker::new().ok_or_else(out_of_memory)?);
        }
        let worker = slot.as_mut().expect("made above");
        worker.begin(launch, block, options).ok_or_else(out_of_memory)?;
        set_current(worker.block);
        let salt = block[0] ^ block[1].rotate_left(11) ^ block[2].rotate_left(22);
        let result = worker.run(kernel, launch, options.order, salt);
        set_current(std::ptr::null_mut());
        worker.end();
        let counter = worker.block().conflicts.take();
        if let (Ok(()), Some(totals), Some(counter)) = (&result, conflicts, counter) {
            totals.add(kernel.name, counter);
        }
        result.map_err(|violation| Error::Kernel {
            kernel: kernel.name.to_string(),
            violation: violation.text,
            site: violation.location.to_string(),
            block,
            thread: violation.thread as u32,
        })
    })
}
