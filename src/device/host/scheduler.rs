//! The threads of one block: the event that each waits for, and the next ones to run.
//!
//! A thread is a stackful coroutine. A barrier parks it until the block has arrived, a warp collective until its warp has; the
//! last lane to arrive computes for all 32 and goes on without parking. When no thread can run, all either finished, wait at one
//! and the same barrier, or the kernel is wrong and the block ends in an error.

use std::cell::Cell;
use std::ffi::{CStr, c_char, c_void};

use corosensei::trap::CoroutineTrapHandler;
use corosensei::{Coroutine, Yielder};

use super::LANES;
use super::conflicts::Counter;
use super::fault::{Fault, locate};
use super::stack::LaneStack;

/// End of a thread: it returned, or the signal handler caught its fault.
pub(super) enum Exit {
    Finished,
    Faulted,
}

pub(super) type Thread = Coroutine<(), (), Exit, LaneStack>;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    AtBarrier,
    AtCollective,
    Finished,
}

/// A position in a kernel's source.
#[derive(Clone, Copy)]
pub(super) struct Site {
    file: *const c_char,
    line: u32,
}

impl Site {
    const NONE: Self = Self { file: std::ptr::null(), line: 0 };

    #[inline(always)]
    fn same_as(self, other: Self) -> bool {
        self.line == other.line && (self.file == other.file || self.same_file_as(other))
    }

    /// Compares the names, as the compiler may have stored the same file name twice.
    #[cold]
    fn same_file_as(self, other: Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl std::fmt::Display for Site {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // SAFETY: null, or a string literal of the kernel's source.
        let file = if self.file.is_null() { c"?" } else { unsafe { CStr::from_ptr(self.file) } };
        write!(
            formatter,
            "kernels/{}:{}",
            crate::device::registry::relative(&file.to_string_lossy()),
            self.line
        )
    }
}

/// One thread of the block.
pub(super) struct Lane {
    pub coroutine: Option<Thread>,
    /// The way out of a fault; `None` where faults are not caught.
    pub trap: Option<CoroutineTrapHandler<Exit>>,
    yielder: *const Yielder<(), ()>,
    pub state: State,
    pub site: Site,
}

impl Lane {
    pub(super) fn new() -> Self {
        Self { coroutine: None, trap: None, yielder: std::ptr::null(), state: State::Ready, site: Site::NONE }
    }
}

type Combine = unsafe extern "C" fn(*const *const c_void, *const *mut c_void);

/// Arrivals at a warp's current collective.
#[derive(Clone, Copy)]
pub(super) struct Warp {
    arrived: u32,
    combine: Option<Combine>,
    site: Site,
    first: usize,
    inputs: [*const c_void; LANES],
    outputs: [*mut c_void; LANES],
}

impl Warp {
    pub(super) const IDLE: Self = Self {
        arrived: 0,
        combine: None,
        site: Site::NONE,
        first: 0,
        inputs: [std::ptr::null(); LANES],
        outputs: [std::ptr::null_mut(); LANES],
    };

    pub(super) fn reset(&mut self) {
        self.arrived = 0;
    }
}

/// An error of a kernel.
pub(super) struct Violation {
    pub text: String,
    pub location: CodeLocation,
    pub thread: usize,
}

/// Location of a violation. An address is resolved only on the scheduler's own stack: reading line tables takes more stack than a thread has.
pub(super) enum CodeLocation {
    Line(String),
    Address(usize),
}

impl std::fmt::Display for CodeLocation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Line(line) => formatter.write_str(line),
            Self::Address(address) => formatter.write_str(&locate(*address)),
        }
    }
}

/// Mirror of `RetromaeDim3` in kernels/host/context.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct Dim3 {
    pub x: u32,
    pub y: u32,
    pub z: u32,
}

/// Mirror of `RetromaeScheduler` in kernels/host/context.h: the functions here that kernels call.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct Scheduler {
    barrier: extern "C" fn(*const c_char, u32, bool) -> bool,
    warp: extern "C" fn(*const WarpCall),
    fail: extern "C" fn(u32, *const c_void, *const c_char, u32, u32, i32) -> !,
    shared_access: extern "C" fn(u32, u32, bool, *const c_void),
}

pub(super) const SCHEDULER: Scheduler = Scheduler { barrier, warp, fail, shared_access };

/// Mirror of `RetromaeContext` in kernels/host/context.h.
#[repr(C)]
pub(super) struct Context {
    pub scheduler: Scheduler,
    pub thread_idx: Dim3,
    pub block_idx: Dim3,
    pub block_dim: Dim3,
    pub grid_dim: Dim3,
    pub shared_memory: *mut u8,
    pub shared_bytes: u32,
    pub thread: u32,
    pub count_conflicts: u32,
    pub block_epoch: u32,
    pub warp_epoch: [u32; LANES],
}

/// Mirror of `RetromaeWarpCall` in kernels/host/context.h.
#[repr(C)]
struct WarpCall {
    combine: Combine,
    input: *const c_void,
    output: *mut c_void,
    file: *const c_char,
    line: u32,
}

unsafe extern "C" {
    pub(super) fn retromae_simt_context() -> *mut Context;
    pub(super) fn retromae_simt_begin_block();
    fn retromae_simt_copies_in_flight() -> u32;
}

/// Votes of a block's threads at its barriers: `true` once any thread has voted so.
#[derive(Default)]
pub(super) struct Votes {
    gathering: bool,
    passed: bool,
}

/// The block that an operating-system thread is running.
pub(super) struct Block {
    pub lanes: Vec<Lane>,
    pub warps: Vec<Warp>,
    pub current: usize,
    /// Votes at the barrier that is being gathered, and at the last one that was passed.
    pub votes: Votes,
    pub context: *mut Context,
    /// Counter of shared-memory accesses, if they are counted.
    pub conflicts: Option<Counter>,
    pub violation: Option<Violation>,
    pub fault: Option<Fault>,
}

thread_local! {
    static CURRENT: Cell<*mut Block> = const { Cell::new(std::ptr::null_mut()) };
}

/// The block that runs on this operating-system thread, null outside a launch.
pub(super) fn current() -> *mut Block {
    CURRENT.with(Cell::get)
}

pub(super) fn set_current(block: *mut Block) {
    CURRENT.with(|cell| cell.set(block));
}

/// Body of a thread of the block, from its first resume on.
pub(super) fn thread_main(
    yielder: &Yielder<(), ()>,
    run: unsafe extern "C" fn(*const c_void),
    params: *const c_void,
) -> Exit {
    let block = current();
    // SAFETY: threads only run while their block is current; nothing else touches it meanwhile.
    unsafe {
        let lane = (*block).current;
        (&mut (*block).lanes)[lane].yielder = yielder;
        run(params);
    }
    Exit::Finished
}

/// Parks the running thread; returns when the scheduler resumes it.
///
/// # Safety
/// Called by a thread of the current block.
unsafe fn park(block: *mut Block) {
    // SAFETY: the yielder lives on the thread's own stack.
    unsafe {
        let lane = (*block).current;
        (*(&(*block).lanes)[lane].yielder).suspend(());
    }
}

/// Waits at a barrier of the block; returns whether any of its threads came with a `vote`.
extern "C" fn barrier(file: *const c_char, line: u32, vote: bool) -> bool {
    let block = current();
    // SAFETY: called by a running thread of the current block.
    unsafe {
        let lane = (*block).current;
        let lane = &mut (&mut (*block).lanes)[lane];
        lane.state = State::AtBarrier;
        lane.site = Site { file, line };
        (*block).votes.gathering |= vote;
        park(block);
        (*block).votes.passed
    }
}

extern "C" fn warp(call: *const WarpCall) {
    let block = current();
    // SAFETY: called by a running thread of the current block, whose operands live until it goes on.
    unsafe {
        let call = &*call;
        let thread = (*block).current;
        let site = Site { file: call.file, line: call.line };
        let warp = &mut (&mut (*block).warps)[thread / LANES];
        if warp.arrived == 0 {
            warp.combine = Some(call.combine);
            warp.site = site;
            warp.first = thread;
        } else if !warp.site.same_as(site) {
            let text = format!(
                "divergent warp collective: thread {} of the warp waits at {}, thread {thread} arrived elsewhere",
                warp.first, warp.site
            );
            stop(block, Violation { text, location: CodeLocation::Line(site.to_string()), thread });
        }
        warp.inputs[thread % LANES] = call.input;
        warp.outputs[thread % LANES] = call.output;
        warp.arrived += 1;
        if warp.arrived < LANES as u32 {
            let lane = &mut (&mut (*block).lanes)[thread];
            lane.state = State::AtCollective;
            lane.site = site;
            park(block);
            return;
        }
        warp.arrived = 0;
        if let Some(counter) = &mut (*block).conflicts {
            counter.pass_warp(thread / LANES);
        }
        (call.combine)(warp.inputs.as_ptr(), warp.outputs.as_ptr());
        let first = thread / LANES * LANES;
        for lane in &mut (&mut (*block).lanes)[first..first + LANES] {
            lane.state = State::Ready;
        }
        (*(*block).context).warp_epoch[thread / LANES] += 1;
    }
}

extern "C" fn fail(
    kind: u32,
    address: *const c_void,
    file: *const c_char,
    line: u32,
    offset: u32,
    other_thread: i32,
) -> ! {
    let block = current();
    let text = match kind {
        0 => format!(
            "race: reads byte {offset} of shared memory, written by thread {other_thread} with no barrier between"
        ),
        1 => format!(
            "race: writes byte {offset} of shared memory, written by thread {other_thread} with no barrier between"
        ),
        2 => format!(
            "race: writes byte {offset} of shared memory, read by thread {other_thread} with no barrier between"
        ),
        3 => format!("reads byte {offset} of shared memory, which was never written"),
        4 => format!(
            "accesses byte {offset} of shared memory while an asynchronous copy of thread {other_thread} to it is in flight"
        ),
        5 => format!("takes {offset} bytes of shared memory, more than the launch gave"),
        _ => "has too many asynchronous copies in flight".to_string(),
    };
    // A return address is one past its call.
    let location = if file.is_null() {
        CodeLocation::Address(address as usize - 1)
    } else {
        CodeLocation::Line(Site { file, line }.to_string())
    };
    // SAFETY: called by a running thread of the current block.
    unsafe {
        let thread = (*block).current;
        stop(block, Violation { text, location, thread })
    }
}

/// Counts an access of shared memory by the running thread, where the block's accesses are counted.
extern "C" fn shared_access(offset: u32, bytes: u32, write: bool, return_address: *const c_void) {
    let block = current();
    // SAFETY: called by a running thread of the current block.
    unsafe {
        let thread = (*block).current;
        if let Some(counter) = &mut (*block).conflicts {
            counter.log(thread, offset, bytes, write, return_address as usize);
        }
    }
}

/// Records the violation and leaves the thread for good.
///
/// # Safety
/// Called by a thread of the current block.
unsafe fn stop(block: *mut Block, violation: Violation) -> ! {
    // SAFETY: as for the caller. The scheduler discards the whole block, so the thread is never resumed.
    unsafe {
        (*block).violation = Some(violation);
        park(block);
    }
    std::process::abort();
}

impl Block {
    /// Returns a violation if the current thread, which has just returned, never waited for some of its asynchronous copies.
    pub(super) fn unfinished_copies(&self) -> Option<Violation> {
        // SAFETY: reads the queue of the thread in the context.
        let count = unsafe { retromae_simt_copies_in_flight() };
        (count > 0).then(|| Violation {
            text: format!("returned with {count} asynchronous copies in flight"),
            location: CodeLocation::Line("its end".into()),
            thread: self.current,
        })
    }

    /// Called when no thread can run: `Ok(true)` when the block is done, `Ok(false)` when a barrier was released.
    pub(super) fn settle(&mut self) -> Result<bool, Violation> {
        let find = |state| self.lanes.iter().position(|lane| lane.state == state);
        let finished = find(State::Finished);
        if let Some(thread) = find(State::AtCollective) {
            let site = self.lanes[thread].site.to_string();
            let first = thread / LANES * LANES;
            let other = (first..self.lanes.len().min(first + LANES))
                .find(|&lane| self.lanes[lane].state != State::AtCollective)
                .map_or_else(|| "its warp has fewer than 32 threads".into(), |lane| self.describe(lane));
            let text = format!("divergent warp collective: it waits for its whole warp, but {other}");
            return Err(Violation { text, location: CodeLocation::Line(site), thread });
        }
        let Some(thread) = find(State::AtBarrier) else { return Ok(true) };
        let site = self.lanes[thread].site;
        let elsewhere =
            self.lanes.iter().position(|lane| lane.state == State::AtBarrier && !lane.site.same_as(site));
        if let Some(other) = finished.or(elsewhere) {
            let text =
                format!("divergent barrier: it waits for the whole block, but {}", self.describe(other));
            return Err(Violation { text, location: CodeLocation::Line(site.to_string()), thread });
        }
        for lane in &mut self.lanes {
            lane.state = State::Ready;
        }
        if let Some(counter) = &mut self.conflicts {
            counter.pass_block();
        }
        self.votes = Votes { gathering: false, passed: self.votes.gathering };
        // SAFETY: the context of this operating-system thread.
        unsafe { (*self.context).block_epoch += 1 };
        Ok(false)
    }

    fn describe(&self, thread: usize) -> String {
        let lane = &self.lanes[thread];
        match lane.state {
            State::Finished => format!("thread {thread} has returned"),
            State::AtBarrier => format!("thread {thread} waits at the barrier at {}", lane.site),
            State::AtCollective => format!("thread {thread} waits at the collective at {}", lane.site),
            State::Ready => format!("thread {thread} is running"),
        }
    }
}
