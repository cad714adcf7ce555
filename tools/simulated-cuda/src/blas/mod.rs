//! cuBLASLt: handles, descriptors, and matmuls.
//!
//! All exported functions are `unsafe` for the same reason as cuBLASLt's: pointers must be valid for the function's reads and writes.
#![allow(clippy::missing_safety_doc)]

mod attributes;
mod gemm;
mod matmul;
mod objects;

use std::collections::{HashMap, HashSet};

use cudarc::cublaslt::sys::cublasStatus_t as Status;

pub(crate) use self::gemm::Gemm;
use self::gemm::Type;
use crate::call::{CallResult, refuse};
use crate::machine::Handle;

/// State of cuBLASLt in a process. Descriptors belong to no context.
#[derive(Default)]
pub(crate) struct Blas {
    handles: HashSet<Handle>,
    descriptors: HashMap<Handle, Descriptor>,
    layouts: HashMap<Handle, Layout>,
    preferences: HashMap<Handle, Preference>,
}

/// Layout of a column-major matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Layout {
    dtype: Type,
    rows: u64,
    columns: u64,
    /// Elements from one column to the next.
    leading: i64,
    batch_count: i32,
    batch_stride: i64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Descriptor {
    transposed: [bool; 2],
    has_bias: bool,
    bias: u64,
    /// Type of the bias, if it is not that of the result.
    bias_type: Option<Type>,
    bias_batch_stride: i64,
}

#[derive(Clone, Copy, Debug)]
struct Preference {
    workspace_bytes: u64,
    /// Promised alignments of the four operands, in bytes.
    alignments: [u32; 4],
}

impl Default for Preference {
    fn default() -> Self {
        Self { workspace_bytes: 0, alignments: [256; 4] }
    }
}

fn find<'a, T>(
    objects: &'a mut HashMap<Handle, T>,
    what: &str,
    object: u64,
) -> CallResult<&'a mut T, Status> {
    match objects.get_mut(&object) {
        Some(object) => Ok(object),
        None => refuse(
            Status::CUBLAS_STATUS_INVALID_VALUE,
            format_args!("{what}: an argument {object:#x} is no such object, or is destroyed"),
        ),
    }
}
