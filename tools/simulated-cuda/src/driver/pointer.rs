//! Questions about addresses.

use std::ffi::{c_int, c_uint, c_void};

use cudarc::driver::sys::{
    CUdeviceptr, CUmemorytype as MemoryType, CUpointer_attribute as Attribute, CUresult,
};

use crate::call::{CallResult, in_context, refuse, store};
use crate::machine::{Context, Range};

/// Stores an attribute of an address in `range`, or its null value where there is none.
///
/// # Safety
/// `data` is null or valid for a write of the attribute's type.
unsafe fn answer(
    context: &Context,
    attribute: c_uint,
    data: *mut c_void,
    address: u64,
    range: Option<Range>,
) -> CallResult {
    const CONTEXT: c_uint = Attribute::CU_POINTER_ATTRIBUTE_CONTEXT as c_uint;
    const MEMORY_TYPE: c_uint = Attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE as c_uint;
    const DEVICE_POINTER: c_uint = Attribute::CU_POINTER_ATTRIBUTE_DEVICE_POINTER as c_uint;
    const RANGE_START: c_uint = Attribute::CU_POINTER_ATTRIBUTE_RANGE_START_ADDR as c_uint;
    const DEVICE_ORDINAL: c_uint = Attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL as c_uint;
    const RANGE_SIZE: c_uint = Attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE as c_uint;
    let value = match attribute {
        MEMORY_TYPE => {
            let value = range.map_or(0, |range| match range.on_host {
                true => MemoryType::CU_MEMORYTYPE_HOST as c_uint,
                false => MemoryType::CU_MEMORYTYPE_DEVICE as c_uint,
            });
            // SAFETY: passed on to the caller.
            return unsafe { store(data.cast(), value) };
        }
        DEVICE_ORDINAL => {
            // The only device; -2 is `CU_DEVICE_INVALID`.
            let value = range.map_or(-2, |_| 0);
            // SAFETY: passed on to the caller.
            return unsafe { store(data.cast::<c_int>(), value) };
        }
        CONTEXT => range.map(|_| context.handle),
        DEVICE_POINTER => range.map(|_| address),
        RANGE_START => range.map(|range| range.start),
        RANGE_SIZE => range.map(|range| range.bytes),
        _ => {
            let why = format_args!("attribute {attribute} of pointers is not simulated");
            return refuse(CUresult::CUDA_ERROR_NOT_SUPPORTED, why);
        }
    };
    // SAFETY: passed on to the caller.
    unsafe { store(data.cast::<u64>(), value.unwrap_or(0)) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(
    data: *mut c_void,
    attribute: c_uint,
    address: CUdeviceptr,
) -> CUresult {
    in_context("cuPointerGetAttribute", |context| {
        let range = context.memory.range(address);
        if range.is_none() {
            let why = format_args!("cuPointerGetAttribute: {address:#x} is no address of CUDA");
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        // SAFETY: the client's promise.
        unsafe { answer(context, attribute, data, address, range) }
    })
}

/// Unlike the function for one attribute, this succeeds for an address that is none of CUDA: all attributes are null then.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttributes(
    count: c_uint,
    attributes: *const c_uint,
    data: *const *mut c_void,
    address: CUdeviceptr,
) -> CUresult {
    in_context("cuPointerGetAttributes", |context| {
        if count == 0 || attributes.is_null() || data.is_null() {
            let why = "cuPointerGetAttributes: there are no attributes";
            return refuse(CUresult::CUDA_ERROR_INVALID_VALUE, why);
        }
        let range = context.memory.range(address);
        (0..count as usize).try_for_each(|index| {
            // SAFETY: the client's promise: two arrays of `count`.
            unsafe { answer(context, attributes.add(index).read(), data.add(index).read(), address, range) }
        })
    })
}
