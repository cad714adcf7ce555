//! The operations, one file each, and the functions that C calls.

mod adamw;
mod attention;
mod bag_of_words;
mod bias_gelu;
mod column_sum;
mod cross_entropy;
mod embedding;
mod group_by_key;
mod layer_norm;
mod linear;
mod logits;
mod masks;
mod matmul;
mod reduce;
mod rows;
mod segment_sum;

use std::ffi::c_void;

pub use adamw::hyperparameters_at;

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
    rmae_adamw_step(rmae_adamw_desc) = adamw::step;
    rmae_attention_forward(rmae_attention_desc) = attention::forward;
    rmae_attention_backward(rmae_attention_desc) = attention::backward;
    rmae_bag_of_words_forward(rmae_bag_of_words_desc) = bag_of_words::forward;
    rmae_bag_of_words_forward_backward(rmae_bag_of_words_desc) = bag_of_words::forward_backward;
    rmae_bias_gelu_forward(rmae_bias_gelu_desc) = bias_gelu::forward;
    rmae_bias_gelu_backward(rmae_bias_gelu_desc) = bias_gelu::backward;
    rmae_column_sum(rmae_column_sum_desc) = column_sum::column_sum;
    rmae_cross_entropy_forward(rmae_cross_entropy_desc) = cross_entropy::forward;
    rmae_cross_entropy_forward_backward(rmae_cross_entropy_desc) = cross_entropy::forward_backward;
    rmae_embedding_forward(rmae_embedding_desc) = embedding::forward;
    rmae_embedding_backward(rmae_embedding_desc) = embedding::backward;
    rmae_group_by_key(rmae_group_by_key_desc) = group_by_key::group_by_key;
    rmae_layer_norm_forward(rmae_layer_norm_desc) = layer_norm::forward;
    rmae_layer_norm_backward(rmae_layer_norm_desc) = layer_norm::backward;
    rmae_linear_forward(rmae_linear_desc) = linear::forward;
    rmae_linear_backward(rmae_linear_desc) = linear::backward;
    rmae_masks_sample(rmae_masks_desc) = masks::sample;
    rmae_matmul(rmae_matmul_desc) = matmul::matmul;
    rmae_mean_weights(rmae_mean_weights_desc) = cross_entropy::mean_weights;
    rmae_reduce_sum(rmae_reduce_desc) = reduce::sum;
    rmae_reduce_squares(rmae_reduce_desc) = reduce::squares;
    rmae_rows_gather(rmae_rows_desc) = rows::gather;
    rmae_rows_scatter_add(rmae_rows_desc) = rows::scatter_add;
    rmae_segment_sum(rmae_segment_sum_desc) = segment_sum::segment_sum;
}

workspaces! {
    rmae_attention_workspace(rmae_attention_desc) = attention::workspace;
    rmae_bag_of_words_workspace(rmae_bag_of_words_desc) = bag_of_words::workspace;
    rmae_column_sum_workspace(rmae_column_sum_desc) = column_sum::workspace;
    rmae_cross_entropy_workspace(rmae_cross_entropy_desc) = cross_entropy::workspace;
    rmae_embedding_workspace(rmae_embedding_desc) = embedding::workspace;
    rmae_group_by_key_workspace(rmae_group_by_key_desc) = group_by_key::workspace;
    rmae_layer_norm_workspace(rmae_layer_norm_desc) = layer_norm::workspace;
    rmae_linear_workspace(rmae_linear_desc) = linear::workspace;
    rmae_masks_workspace(rmae_masks_desc) = masks::workspace;
    rmae_matmul_workspace(rmae_matmul_desc) = matmul::workspace;
    rmae_reduce_workspace(rmae_reduce_desc) = reduce::workspace;
    rmae_segment_sum_workspace(rmae_segment_sum_desc) = segment_sum::workspace;
}
