//! Handles: numbers that stand for values of this library, looked up and never dereferenced, so that one that was closed is an error.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use crate::status::{Failure, Result, Status};

/// The open values of a kind. Numbers are never used twice, by this kind or another.
pub struct Handles<T> {
    what: &'static str,
    open: LazyLock<RwLock<HashMap<usize, Arc<T>>>>,
}

impl<T> Handles<T> {
    /// No open value of a kind that `what` names in messages.
    pub const fn new(what: &'static str) -> Self {
        Self { what, open: LazyLock::new(RwLock::default) }
    }

    /// Returns the handle of a new value.
    pub fn open(&self, value: T) -> *mut c_void {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.open.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(value));
        std::ptr::without_provenance_mut(number)
    }

    /// Returns the value of a handle.
    pub fn get(&self, handle: *const c_void) -> Result<Arc<T>> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        open.get(&handle.addr()).cloned().ok_or_else(|| self.unknown(handle))
    }

    /// Forgets a handle; returns its value.
    pub fn close(&self, handle: *const c_void) -> Result<Arc<T>> {
        let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
        open.remove(&handle.addr()).ok_or_else(|| self.unknown(handle))
    }

    fn unknown(&self, handle: *const c_void) -> Failure {
        let what = self.what;
        let actual = if handle.is_null() { "NULL".into() } else { format!("{handle:p}, which is not open") };
        Failure::field(Status::InvalidHandle, what, actual, format_args!("a handle of an open {what}"))
    }
}
