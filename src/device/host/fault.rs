//! Faults of kernel threads, and the source lines of their instructions.

use std::ffi::c_void;
use std::fmt;

/// A signal that a kernel thread raised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fault {
    pub program_counter: usize,
    pub signal: i32,
    pub address: usize,
    pub stack_overflow: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.signal {
            _ if self.stack_overflow => write!(formatter, "stack overflow: too much local memory"),
            libc::SIGFPE => write!(formatter, "integer division by zero"),
            libc::SIGILL => write!(formatter, "illegal instruction"),
            _ => write!(formatter, "access out of bounds, to address {:#x}", self.address),
        }
    }
}

/// Returns the source line of a kernel's instruction, as `kernels/file:line`: the innermost inlined frame that is not in the shared headers, so
/// that an access inside `load` is attributed to the kernel's own line.
pub(super) fn locate(program_counter: usize) -> String {
    let mut frames = Vec::new();
    backtrace::resolve(program_counter as *mut c_void, |symbol| {
        if let (Some(file), Some(line)) = (symbol.filename(), symbol.lineno())
            && let Some((_, file)) = file.to_string_lossy().rsplit_once("/kernels/")
        {
            frames.push(format!("kernels/{}:{line}", without_parents(file)));
        }
    });
    let shared = |frame: &&String| {
        ["kernels/core/", "kernels/arch/", "kernels/host/"].iter().any(|part| frame.starts_with(part))
    };
    frames
        .iter()
        .find(|frame| !shared(frame))
        .or(frames.first())
        .cloned()
        .unwrap_or_else(|| format!("address {program_counter:#x} (no line tables in this build)"))
}

/// Resolves the `..` in `path`: kernels include `../core/…`, and compilers name headers as they were included.
fn without_parents(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}
