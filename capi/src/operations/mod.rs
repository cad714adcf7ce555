//! The operations, one file each, and the functions that C calls.

mod attention;
mod cross_entropy;

use std::ffi::c_void;

use crate::call::{Call, read_descriptor};
use crate::devices::device_of;
use crate::status::{Failure, Result, Status};
use crate::{border, sys};

/// Runs an operation on the caller's descriptor.
///
/// # Safety
/// As the functions of the header: `desc` is null or points to a descriptor, whose arrays are valid for their lengths until the work is done.
unsafe fn operation<D: crate::call::Descriptor>(
    device: sys::rmae_device,
    stream: *mut c_void,
    desc: *const D,
    enqueue: fn(&Call<'_, D>) -> Result<()>,
) -> sys::rmae_status {
    border::call(|| {
        let device = device_of(device)?;
        // SAFETY: passed on to the caller.
        let desc = unsafe { read_descriptor(desc)? };
        enqueue(&Call::new(&device, stream, &desc))
    })
}

/// Writes the size of an operation's workspace.
///
/// # Safety
/// `desc` is null or points to a descriptor, `bytes` is null or valid.
unsafe fn workspace<D: crate::call::Descriptor>(
    device: sys::rmae_device,
    desc: *const D,
    bytes: *mut usize,
    workspace: fn(&Call<'_, D>) -> Result<usize>,
) -> sys::rmae_status {
    border::call(|| {
        let device = device_of(device)?;
        // SAFETY: passed on to the caller.
        let desc = unsafe { read_descriptor(desc)? };
        let needed = workspace(&Call::new(&device, std::ptr::null_mut(), &desc))?;
        // SAFETY: as above.
        unsafe { write("bytes", bytes, needed) }
    })
}

/// Writes a result.
///
/// # Safety
/// `result` is null or valid.
pub unsafe fn write<T>(field: &'static str, result: *mut T, value: T) -> Result<()> {
    if result.is_null() {
        return Err(Failure::field(Status::NullPointer, field, "NULL", "the address of the result"));
    }
    // SAFETY: passed on to the caller.
    unsafe { result.write_unaligned(value) };
    Ok(())
}

/// Defines the functions that enqueue an operation, of the types that the header declares.
macro_rules! operations {
    ($($name:ident($desc:ident) = $enqueue:path;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the header.")]
        ///
        /// # Safety
        /// As the header says of every operation.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            device: sys::rmae_device,
            stream: *mut c_void,
            desc: *const sys::$desc,
        ) -> sys::rmae_status {
            // SAFETY: passed on to the caller.
            unsafe { operation(device, stream, desc, $enqueue) }
        }
        as_declared! { $name }
    )*};
}

/// Defines the functions that tell the size of an operation's workspace, likewise.
macro_rules! workspaces {
    ($($name:ident($desc:ident) = $workspace:path;)*) => {$(
        #[doc = concat!("`", stringify!($name), "` of the header.")]
        ///
        /// # Safety
        /// As the header says of every operation.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            device: sys::rmae_device,
            desc: *const sys::$desc,
            bytes: *mut usize,
        ) -> sys::rmae_status {
            // SAFETY: passed on to the caller.
            unsafe { workspace(device, desc, bytes, $workspace) }
        }
        as_declared! { $name }
    )*};
}

operations! {
    rmae_attention_forward(rmae_attention_desc) = attention::forward;
    rmae_attention_backward(rmae_attention_desc) = attention::backward;
    rmae_cross_entropy_forward(rmae_cross_entropy_desc) = cross_entropy::forward;
    rmae_cross_entropy_forward_backward(rmae_cross_entropy_desc) = cross_entropy::forward_backward;
}

workspaces! {
    rmae_attention_workspace(rmae_attention_desc) = attention::workspace;
    rmae_cross_entropy_workspace(rmae_cross_entropy_desc) = cross_entropy::workspace;
}
