//! The kernels as their sources declare them: a list that each kernel file extends when the program starts.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::sync::OnceLock;

use super::{Error, Result};

/// One kernel of the CPU emulator.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct HostKernel {
    /// Name, with the element type and head size: `attention_forward_bf16_d64`.
    pub name: &'static str,
    /// The source, relative to `kernels/`.
    pub file: &'static str,
    /// Line of the declaration in `file`, from 1.
    pub line: u32,
    /// Size of the params struct in bytes.
    pub params_bytes: u32,
    /// Threads per block.
    pub threads: u32,
    /// `true` for the instrumented build.
    #[serde(skip)]
    pub sanitized: bool,
    /// Computes a launch's blocks in x, y and z from the params; `shared_bytes` computes its shared memory in bytes.
    #[serde(skip)]
    pub(super) grid: unsafe extern "C" fn(*const c_void, *mut u64),
    #[serde(skip)]
    pub(super) shared_bytes: unsafe extern "C" fn(*const c_void) -> u64,
    #[serde(skip)]
    pub(super) run: unsafe extern "C" fn(*const c_void),
}

/// Mirror of `RetromaeHostKernel` in kernels/host/context.h.
#[repr(C)]
struct Entry {
    name: *const c_char,
    file: *const c_char,
    line: u32,
    params_bytes: u32,
    threads: u32,
    sanitized: u32,
    grid: unsafe extern "C" fn(*const c_void, *mut u64),
    shared_bytes: unsafe extern "C" fn(*const c_void) -> u64,
    run: unsafe extern "C" fn(*const c_void),
    next: *const Entry,
}

unsafe extern "C" {
    fn retromae_host_kernels() -> *const Entry;
}

fn table() -> &'static HashMap<(&'static str, bool), HostKernel> {
    static TABLE: OnceLock<HashMap<(&'static str, bool), HostKernel>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut kernels = HashMap::new();
        // SAFETY: the list is built before main by constructors and never changes after.
        let mut next = unsafe { retromae_host_kernels() };
        // SAFETY: a list of statics that ends in null.
        while let Some(entry) = unsafe { next.as_ref() } {
            // SAFETY: string literals of the kernel file.
            let text = |pointer| unsafe { CStr::from_ptr(pointer) }.to_str().unwrap_or("not UTF-8");
            let kernel = HostKernel {
                name: text(entry.name),
                file: relative(text(entry.file)),
                line: entry.line,
                params_bytes: entry.params_bytes,
                threads: entry.threads,
                sanitized: entry.sanitized != 0,
                grid: entry.grid,
                shared_bytes: entry.shared_bytes,
                run: entry.run,
            };
            kernels.insert((kernel.name, kernel.sanitized), kernel);
            next = entry.next;
        }
        kernels
    })
}

/// The part of a source path below `kernels/`.
pub(super) fn relative(path: &str) -> &str {
    path.rsplit_once("/kernels/").map_or(path, |(_, rest)| rest)
}

pub(super) fn find(name: &str, sanitized: bool) -> Option<HostKernel> {
    table().get(&(name, sanitized)).copied()
}

/// Returns a kernel's declaration in its source, which holds for every device.
pub fn declaration(name: &str) -> Result<HostKernel> {
    find(name, false).ok_or_else(|| Error::UnknownKernel(name.to_string()))
}

/// Every kernel, both builds, sorted by name.
pub fn all() -> impl Iterator<Item = HostKernel> {
    let mut kernels: Vec<HostKernel> = table().values().copied().collect();
    kernels.sort_by_key(|kernel| (kernel.name, kernel.sanitized));
    kernels.into_iter()
}
