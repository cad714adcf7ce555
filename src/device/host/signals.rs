//! The signal handler that turns a fault of a kernel thread into the end of that thread.

use std::cell::Cell;
use std::ffi::c_void;
use std::sync::Once;

use super::fault::Fault;
use super::memory::{map_fenced, page_size};
use super::scheduler::{self, Exit};

const SIGNALS: [i32; 4] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL];

static mut PREVIOUS: [Option<libc::sigaction>; SIGNALS.len()] = [None; SIGNALS.len()];

/// Installs the handler once; faults outside kernels are passed on to the previous handler.
pub(super) fn install_handler() {
    static ONCE: Once = Once::new();
    // SAFETY: guarded by `Once`; the handler only reads `PREVIOUS` after.
    ONCE.call_once(|| unsafe {
        for (index, &signal) in SIGNALS.iter().enumerate() {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = handle as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&raw mut action.sa_mask);
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(signal, &raw const action, &raw mut previous) == 0 {
                PREVIOUS[index] = Some(previous);
            }
        }
    });
}

/// Gives this operating-system thread an alternate stack for the handler, so that a stack overflow can be handled.
pub(super) fn use_alternate_stack() -> Option<()> {
    const BYTES: usize = 64 * 1024;
    thread_local! {
        static DONE: Cell<bool> = const { Cell::new(false) };
    }
    if DONE.get() {
        return Some(());
    }
    let start = map_fenced(BYTES + 2 * page_size())?;
    let stack = libc::stack_t { ss_sp: (start + page_size()) as *mut c_void, ss_flags: 0, ss_size: BYTES };
    // SAFETY: the memory is never released.
    let result = unsafe { libc::sigaltstack(&raw const stack, std::ptr::null_mut()) };
    DONE.set(result == 0);
    (result == 0).then_some(())
}

type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);

extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    let block = scheduler::current();
    // SAFETY: `context` is the interrupted thread's; the block is current, so one of its threads was interrupted and the
    // scheduler waits in `resume`.
    unsafe {
        if !block.is_null() {
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext;
            let lane = (*block).current;
            if let Some(trap) = &(&(*block).lanes)[lane].trap {
                let stack_pointer = Registers::stack_pointer(registers);
                if trap.stack_ptr_in_bounds(stack_pointer) {
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
                    return;
                }
            }
        }
        let index = SIGNALS.iter().position(|&known| known == signal).unwrap_or(0);
        let previous = PREVIOUS[index].unwrap_or_else(|| std::mem::zeroed());
        let is_function = ![libc::SIG_DFL, libc::SIG_IGN].contains(&previous.sa_sigaction);
        if is_function && previous.sa_flags & libc::SA_SIGINFO != 0 {
            // No kernel's fault: another handler, such as that of another copy of this library, may know it. This one stays for the next fault.
            let previous: Handler = std::mem::transmute(previous.sa_sigaction);
            return previous(signal, info, context);
        }
        // No previous handler: restore the previous action and let the instruction fault again.
        libc::sigaction(signal, &raw const previous, std::ptr::null_mut());
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
