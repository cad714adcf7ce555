//! The threads that blocks and GEMMs run on: those of rayon's pool, and in a forked process, which has none of them, those of a pool of its own.

use std::ptr;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::device::{Error, Result};

/// True in a process that was forked from one that had opened a host device.
static FORKED: AtomicBool = AtomicBool::new(false);
/// The pool of such a process; null until it is needed. It lives as long as the process.
static POOL: AtomicPtr<ThreadPool> = AtomicPtr::new(ptr::null_mut());

/// Lets forked processes know that they are.
pub(super) fn watch_forks() {
    extern "C" fn in_child() {
        FORKED.store(true, Ordering::Relaxed);
        // A pool of the parent, which was forked itself, has no threads here either. Its memory is lost.
        POOL.store(ptr::null_mut(), Ordering::Relaxed);
    }
    static ONCE: Once = Once::new();
    // SAFETY: the function only stores to atomics, which a forked process may do.
    ONCE.call_once(|| unsafe {
        libc::pthread_atfork(None, None, Some(in_child));
    });
}

/// Runs `work`, which starts parallel work, where there are threads for it.
pub(super) fn install<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R> {
    if FORKED.load(Ordering::Relaxed) { Ok(forked()?.install(work)) } else { Ok(work()) }
}

/// Returns the pool of this forked process.
fn forked() -> Result<&'static ThreadPool> {
    let mut pool = POOL.load(Ordering::Acquire);
    if pool.is_null() {
        let made = ThreadPoolBuilder::new().build().map_err(|error| Error::HostThreads(error.to_string()))?;
        let made = Box::into_raw(Box::new(made));
        match POOL.compare_exchange(ptr::null_mut(), made, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => pool = made,
            Err(first) => {
                // SAFETY: another thread was first; nobody has seen this one.
                drop(unsafe { Box::from_raw(made) });
                pool = first;
            }
        }
    }
    // SAFETY: it was made from a box by some thread of this process, and is never freed.
    Ok(unsafe { &*pool })
}
