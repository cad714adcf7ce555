//! The C boundary: every exported function runs in [`enter`], under one lock, and no panic leaves it.

use std::cell::Cell;
use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};

use cudarc::cublaslt::sys::cublasStatus_t;
use cudarc::driver::sys::CUresult;

use crate::machine::{Context, Machine};

/// Result of an exported function's body: a value, or the error code for the client.
pub(crate) type CallResult<T = (), C = CUresult> = Result<T, C>;

static MACHINE: LazyLock<Mutex<Machine>> = LazyLock::new(|| Mutex::new(Machine::new()));
static LOG: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// The current call on this thread never returns.
    static STUCK: Cell<bool> = const { Cell::new(false) };
}

/// The result codes of the two libraries.
pub(crate) trait Code: Copy + std::fmt::Debug {
    const SUCCESS: Self;
    /// Code for a bug in the simulation itself.
    const BROKEN: Self;
}

impl Code for CUresult {
    const SUCCESS: Self = Self::CUDA_SUCCESS;
    const BROKEN: Self = Self::CUDA_ERROR_UNKNOWN;
}

impl Code for cublasStatus_t {
    const SUCCESS: Self = Self::CUBLAS_STATUS_SUCCESS;
    const BROKEN: Self = Self::CUBLAS_STATUS_INTERNAL_ERROR;
}

/// Runs the body of the exported function `name`.
pub(crate) fn enter<C: Code>(name: &str, body: impl FnOnce(&mut Machine) -> CallResult<(), C>) -> C {
    let run = || {
        let mut machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        body(&mut machine)
    };
    let code = match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(())) => C::SUCCESS,
        Ok(Err(code)) => code,
        Err(_) => {
            complain(format_args!("{name}: the simulation itself has failed"));
            C::BROKEN
        }
    };
    if STUCK.get() {
        log(format_args!("{name} never returns"));
        loop {
            std::thread::park();
        }
    }
    log(format_args!("{name} -> {code:?}"));
    code
}

/// Makes the current call on this thread never return. The returned code unwinds its body, which releases the machine, so that other threads
/// continue.
pub(crate) fn never_return() -> CUresult {
    STUCK.set(true);
    CUresult::CUDA_ERROR_UNKNOWN
}

/// [`enter`] for functions that need a current context without an earlier error.
pub(crate) fn in_context(name: &str, body: impl FnOnce(&mut Context) -> CallResult) -> CUresult {
    enter(name, |machine| body(machine.current()?))
}

/// Prints a line to standard error. The test harness does not capture it, as it captures only its own copy of `std`.
pub(crate) fn complain(message: impl Display) {
    eprintln!("simulated CUDA: {message}");
}

/// Prints a line if `SIMULATED_CUDA_LOG=1`.
pub(crate) fn log(message: impl Display) {
    if LOG.load(Ordering::Relaxed) {
        eprintln!("simulated CUDA: thread {:?}: {message}", std::thread::current().id());
    }
}

pub(crate) fn set_log(on: bool) {
    LOG.store(on, Ordering::Relaxed);
}

/// Prints the reason and fails with `code`.
pub(crate) fn refuse<T, C>(code: C, why: impl Display) -> CallResult<T, C> {
    complain(why);
    Err(code)
}

/// Stores a result through an out pointer of the client.
///
/// # Safety
/// `place` is null or valid for a write.
pub(crate) unsafe fn store<T>(place: *mut T, value: T) -> CallResult {
    if place.is_null() {
        return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, "an out pointer is null");
    }
    // SAFETY: not null, and the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}
