//! cuBLASLt: handles, descriptions of products, and the products.
//!
//! All exported functions are `unsafe` for the reasons of the library itself: pointers must be valid for what the function reads or writes.
#![allow(clippy::missing_safety_doc)]

mod attributes;
mod matmul;
mod objects;
mod product;

use std::collections::{HashMap, HashSet};

use cudarc::cublaslt::sys::cublasStatus_t as Status;

use crate::call::{Outcome, refuse};
use crate::machine::Handle;
pub(crate) use product::Product;
use product::Type;

/// What the library knows in a process. Descriptions belong to no context.
#[derive(Default)]
pub(crate) struct Blas {
    handles: HashSet<Handle>,
    descriptors: HashMap<Handle, Descriptor>,
    layouts: HashMap<Handle, Layout>,
    preferences: HashMap<Handle, Preference>,
}

/// A matrix, column by column.
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
    /// Type of the bias where it is not that of the result.
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

fn find<'a, T>(objects: &'a mut HashMap<Handle, T>, what: &str, object: u64) -> Outcome<&'a mut T, Status> {
    match objects.get_mut(&object) {
        Some(object) => Ok(object),
        None => refuse(
            Status::CUBLAS_STATUS_INVALID_VALUE,
            format_args!("{what}: an argument {object:#x} is no such object, or is destroyed"),
        ),
    }
}
