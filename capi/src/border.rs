//! The border to C: no panic crosses it, nothing is printed, and the text of a failure is kept for the thread.

use std::cell::{Cell, RefCell};
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::status::{Failure, Result, Status};
use crate::sys;

/// Bytes of a failure's text, with its NUL; a longer one is cut.
const TEXT_BYTES: usize = 1024;

thread_local! {
    /// At one address as long as the thread, so that a caller who asks too early does not read freed memory.
    static LAST_ERROR: RefCell<[u8; TEXT_BYTES]> = const { RefCell::new([0; TEXT_BYTES]) };
    /// Calls of this thread that have not returned.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// Runs the body of a function that C calls; returns its status.
pub fn call(body: impl FnOnce() -> Result<()>) -> sys::rmae_status {
    silence_panics();
    let outside = INSIDE.replace(true);
    let result = catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| Err(of_panic(&*panic)));
    INSIDE.set(outside);
    match result {
        Ok(()) => sys::RMAE_OK as sys::rmae_status,
        Err(Failure { status, text }) => {
            // The thread's last destructors may call, too: their failures have no text.
            let _ = LAST_ERROR.try_with(|last| keep(&mut last.borrow_mut(), &text));
            status as sys::rmae_status
        }
    }
}

/// Returns the text of the calling thread's last failure.
pub fn last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.as_ptr().cast_const().cast()).unwrap_or(c"".as_ptr())
}

/// Copies a text and a NUL into `room`, cut between two characters.
fn keep(room: &mut [u8; TEXT_BYTES], text: &str) {
    let end = (0..TEXT_BYTES).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    let bytes = text.bytes().take(end).map(|byte| if byte == 0 { b'?' } else { byte });
    for (place, byte) in room.iter_mut().zip(bytes.chain([0])) {
        *place = byte;
    }
}

/// Keeps the message of a panic within a call off the process' standard error; others go to the hook that was there.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !INSIDE.try_with(Cell::get).unwrap_or(false) {
                previous(panic);
            }
        }));
    });
}

fn of_panic(panic: &(dyn std::any::Any + Send)) -> Failure {
    let message = panic.downcast_ref::<String>().map(String::as_str);
    let message = message.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
    Failure { status: Status::Internal, text: format!("a fault of the library: {message}") }
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Messages of panics that a hook was given.
    static PRINTED: AtomicUsize = AtomicUsize::new(0);

    fn text() -> String {
        // SAFETY: a C string of this thread.
        unsafe { CStr::from_ptr(last_error()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_is_an_error_and_is_not_printed() {
        std::panic::set_hook(Box::new(|_| {
            PRINTED.fetch_add(1, Ordering::Relaxed);
        }));
        let panicked = |message: &'static str| call(|| panic!("{message}"));
        assert_eq!(panicked("once"), sys::RMAE_INTERNAL as sys::rmae_status);
        assert_eq!(text(), "a fault of the library: once");
        assert_eq!(call(|| std::panic::panic_any(7)), sys::RMAE_INTERNAL as sys::rmae_status);
        assert_eq!(text(), "a fault of the library: no message");
        assert_eq!(PRINTED.load(Ordering::Relaxed), 0);
        // Outside a call panics go where they went before.
        assert!(catch_unwind(|| panic!("elsewhere")).is_err());
        assert_eq!(PRINTED.load(Ordering::Relaxed), 1);
        assert_eq!(call(|| Ok(())), sys::RMAE_OK as sys::rmae_status);
        assert_eq!(text(), "a fault of the library: no message");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        let long = format!("a{}", "é".repeat(TEXT_BYTES));
        let failure = Failure { status: Status::InvalidArgument, text: long.clone() };
        assert_eq!(call(|| Err(failure)), sys::RMAE_INVALID_ARGUMENT as sys::rmae_status);
        assert_eq!(text(), long[..TEXT_BYTES - 1]);
        let zero = Failure { status: Status::InvalidArgument, text: "a\0b".into() };
        call(|| Err(zero));
        assert_eq!(text(), "a?b");
    }
}
