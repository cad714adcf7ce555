//! The signal handler that turns a fault of a kernel thread into the end of that thread.

use std::cell::OnceCell;
use std::ffi::c_void;
use std::ptr::{null, null_mut};
use std::sync::Once;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};

use super::fault::Fault;
use super::memory::{map_fenced, page_size, unmap};
use super::scheduler::{self, Exit};

const SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

/// The process' action for a signal, from before the handler was installed.
struct Previous {
    handler: AtomicUsize,
    flags: AtomicI32,
}

static PREVIOUS: [Previous; SIGNALS.len()] =
    [const { Previous { handler: AtomicUsize::new(libc::SIG_DFL), flags: AtomicI32::new(0) } };
        SIGNALS.len()];

/// Installs the handler once; signals that no kernel caused are passed on to the previous one.
pub(super) fn install_handlers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for (&signal, previous) in SIGNALS.iter().zip(&PREVIOUS) {
            install(signal, previous);
        }
    });
}

fn install(signal: i32, previous: &Previous) {
    // SAFETY: `handle` is a handler of the kind that the flags state, and all that it reads is stored before it is installed.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(signal, null(), &raw mut action) != 0 {
            return;
        }
        previous.handler.store(action.sa_sigaction, Ordering::Relaxed);
        previous.flags.store(action.sa_flags, Ordering::Relaxed);
        // The previous handler runs inside this one, so its mask and what its flags say of the mask and of system calls are kept.
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags &= libc::SA_NODEFER | libc::SA_RESTART;
        action.sa_flags |= libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(signal, &raw const action, null_mut());
    }
}

/// An alternate signal stack of this operating-system thread, fenced at both ends, released when the thread ends.
struct AlternateStack {
    start: usize,
}

impl AlternateStack {
    const BYTES: usize = 64 * 1024;
    /// Bytes that the handler takes, beyond the frame in which the registers are saved.
    const HANDLER_BYTES: usize = 4 * 1024;

    fn total() -> usize {
        Self::BYTES + 2 * page_size()
    }

    fn bytes_min() -> usize {
        // SAFETY: no preconditions; 0 from systems that do not tell.
        let frame = unsafe { libc::getauxval(libc::AT_MINSIGSTKSZ) } as usize;
        frame.max(libc::MINSIGSTKSZ) + Self::HANDLER_BYTES
    }

    /// Returns the thread's alternate stack, of whatever origin.
    fn current() -> libc::stack_t {
        // SAFETY: all zeros are a value of the struct, and the call only writes it.
        unsafe {
            let mut stack: libc::stack_t = std::mem::zeroed();
            libc::sigaltstack(null(), &raw mut stack);
            stack
        }
    }

    fn install() -> Option<Self> {
        let stack = Self { start: map_fenced(Self::total())? };
        let inside = (stack.start + page_size()) as *mut c_void;
        let request = libc::stack_t { ss_sp: inside, ss_flags: 0, ss_size: Self::BYTES };
        // SAFETY: the memory is released by `drop` alone, which takes the stack out of use before.
        let result = unsafe { libc::sigaltstack(&raw const request, null_mut()) };
        (result == 0).then_some(stack)
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        let mut current = Self::current();
        // SAFETY: no handler runs on this thread, and none begins on the stack after this.
        unsafe {
            if current.ss_sp as usize == self.start + page_size() {
                current.ss_flags = libc::SS_DISABLE;
                libc::sigaltstack(&raw const current, null_mut());
            }
            unmap(self.start, Self::total());
        }
    }
}

/// Gives this operating-system thread an alternate stack for the handler, so that a stack overflow can be handled. One that the thread
/// has is kept if it is large enough.
pub(super) fn use_alternate_stack() -> Option<()> {
    thread_local! {
        static OWN: OnceCell<Option<AlternateStack>> = const { OnceCell::new() };
    }
    OWN.with(|own| {
        if own.get().is_none() {
            let current = AlternateStack::current();
            let suffices =
                current.ss_flags & libc::SS_DISABLE == 0 && current.ss_size >= AlternateStack::bytes_min();
            let _ = own.set(if suffices { None } else { Some(AlternateStack::install()?) });
        }
        Some(())
    })
}

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: called by the operating system, whose arguments are passed on.
    unsafe {
        if !end_kernel_thread(signal, info, context) {
            pass_on(signal, info, context);
        }
    }
}

/// Lets the interrupted thread continue at its end, if it is a kernel's and its faults are caught; returns whether it is.
///
/// # Safety
/// Called in a signal handler with its arguments.
unsafe fn end_kernel_thread(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) -> bool {
    let block = scheduler::current();
    if block.is_null() {
        return false;
    }
    // SAFETY: `context` is the interrupted thread's; the block is current, so one of its threads was interrupted and the
    // scheduler waits in `resume`.
    unsafe {
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
        let lane = (*block).current;
        let Some(trap) = &(&(*block).lanes)[lane].trap else { return false };
        if !trap.stack_ptr_in_bounds(Registers::stack_pointer(registers)) {
            return false;
        }
        let address = (*info).si_addr() as usize;
        let is_access = signal == libc::SIGSEGV || signal == libc::SIGBUS;
        (*block).fault = Some(Fault {
            program_counter: Registers::program_counter(registers),
            signal,
            address,
            // The thread's next stack frames would lie in the guard page.
            stack_overflow: is_access && trap.stack_ptr_in_bounds(address),
        });
        let target = trap.setup_trap_handler(|| Exit::Faulted);
        Registers::set(registers, &target);
    }
    true
}

/// Does what the process would have done with the signal. Unless that is its end, this handler stays for the next fault.
///
/// # Safety
/// Called in a signal handler with its arguments.
unsafe fn pass_on(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let Some(index) = SIGNALS.iter().position(|&known| known == signal) else { return };
    let previous = &PREVIOUS[index];
    let flags = previous.flags.load(Ordering::Relaxed);
    let handler = if flags & libc::SA_RESETHAND == 0 {
        previous.handler.load(Ordering::Relaxed)
    } else {
        previous.handler.swap(libc::SIG_DFL, Ordering::Relaxed)
    };
    // SAFETY: a function that was installed with these flags gets the arguments of its kind.
    unsafe {
        // Sent by `kill` or the like; no instruction repeats it.
        let is_sent = (*info).si_code <= 0;
        match handler {
            libc::SIG_IGN if is_sent => {}
            // The instruction faults again, which ends a process that ignores its faults, too.
            libc::SIG_DFL | libc::SIG_IGN => {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, null_mut());
                if is_sent {
                    libc::raise(signal);
                }
            }
            function if flags & libc::SA_SIGINFO != 0 => {
                let function: extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void) =
                    std::mem::transmute(function);
                function(signal, info, context);
            }
            function => {
                let function: extern "C" fn(i32) = std::mem::transmute(function);
                function(signal);
            }
        }
    }
}

/// Access to the machine registers of an interrupted thread.
struct Registers;

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
impl Registers {
    fn program_counter(registers: &libc::mcontext_t) -> usize {
        registers.gregs[libc::REG_RIP as usize] as usize
    }

    fn stack_pointer(registers: &libc::mcontext_t) -> usize {
        registers.gregs[libc::REG_RSP as usize] as usize
    }

    fn set(registers: &mut libc::mcontext_t, target: &corosensei::trap::TrapHandlerRegs) {
        registers.gregs[libc::REG_RIP as usize] = target.rip as i64;
        registers.gregs[libc::REG_RSP as usize] = target.rsp as i64;
        registers.gregs[libc::REG_RBP as usize] = target.rbp as i64;
        registers.gregs[libc::REG_RDI as usize] = target.rdi as i64;
        registers.gregs[libc::REG_RSI as usize] = target.rsi as i64;
    }
}

#[cfg(all(target_os = "linux", target_arch = "aarch64"))]
impl Registers {
    fn program_counter(registers: &libc::mcontext_t) -> usize {
        registers.pc as usize
    }

    fn stack_pointer(registers: &libc::mcontext_t) -> usize {
        registers.sp as usize
    }

    fn set(registers: &mut libc::mcontext_t, target: &corosensei::trap::TrapHandlerRegs) {
        registers.pc = target.pc;
        registers.sp = target.sp;
        registers.regs[0] = target.x0;
        registers.regs[1] = target.x1;
        registers.regs[29] = target.x29;
        registers.regs[30] = target.lr;
    }
}
