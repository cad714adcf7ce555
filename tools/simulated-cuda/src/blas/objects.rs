//! Creation and destruction of handles and descriptors.

use std::ffi::c_uint;

use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatmulPreference_t, cublasLtMatrixLayout_t,
    cublasStatus_t as Status,
};

use super::gemm::Type;
use super::{Descriptor, Layout, Preference};
use crate::call::{CallResult, enter, refuse};
use crate::machine::{Handle, new_handle};

const VERSION: usize = 130_000;
/// CUBLAS_COMPUTE_32F, its pedantic form, and TF32; the simulation computes all of them in f32.
const COMPUTE_TYPES: [c_uint; 3] = [68, 69, 77];
const CUDA_R_32F: c_uint = 0;

unsafe fn store<T>(place: *mut T, value: T) -> CallResult<(), Status> {
    // SAFETY: passed on to the caller.
    unsafe { crate::call::store(place, value) }.map_err(|_| Status::CUBLAS_STATUS_INVALID_VALUE)
}

fn removed<T>(what: &str, object: Option<T>) -> CallResult<(), Status> {
    match object {
        Some(_) => Ok(()),
        None => refuse(Status::CUBLAS_STATUS_INVALID_VALUE, format_args!("{what}: destroyed already")),
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtGetVersion() -> usize {
    VERSION
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtCreate(handle: *mut cublasLtHandle_t) -> Status {
    enter("cublasLtCreate", |machine| {
        let not_initialized = |_| Status::CUBLAS_STATUS_NOT_INITIALIZED;
        let context = machine.current().map_err(not_initialized)?;
        if context.settings.faults.no_blas {
            return Err(Status::CUBLAS_STATUS_NOT_INITIALIZED);
        }
        let made: Handle = new_handle();
        machine.blas.handles.insert(made);
        // SAFETY: the client's promise.
        unsafe { store(handle, made as cublasLtHandle_t) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtDestroy(handle: cublasLtHandle_t) -> Status {
    enter("cublasLtDestroy", |machine| {
        if machine.blas.handles.remove(&(handle as u64)) {
            return Ok(());
        }
        let why = format_args!("cublasLtDestroy: there is no handle {handle:?}");
        refuse(Status::CUBLAS_STATUS_NOT_INITIALIZED, why)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescCreate(
    descriptor: *mut cublasLtMatmulDesc_t,
    compute: c_uint,
    scale: c_uint,
) -> Status {
    enter("cublasLtMatmulDescCreate", |machine| {
        if !COMPUTE_TYPES.contains(&compute) || scale != CUDA_R_32F {
            let why = format_args!(
                "cublasLtMatmulDescCreate: compute type {compute} with scale type {scale}; only f32 is simulated"
            );
            return refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, why);
        }
        let made = new_handle();
        machine.blas.descriptors.insert(made, Descriptor::default());
        // SAFETY: the client's promise.
        unsafe { store(descriptor, made as cublasLtMatmulDesc_t) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescDestroy(descriptor: cublasLtMatmulDesc_t) -> Status {
    enter("cublasLtMatmulDescDestroy", |machine| {
        if descriptor.is_null() {
            return Ok(());
        }
        removed("cublasLtMatmulDescDestroy", machine.blas.descriptors.remove(&(descriptor as u64)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutCreate(
    layout: *mut cublasLtMatrixLayout_t,
    dtype: c_uint,
    rows: u64,
    columns: u64,
    leading: i64,
) -> Status {
    enter("cublasLtMatrixLayoutCreate", |machine| {
        let Some(dtype) = Type::of(dtype) else {
            let why = format_args!("cublasLtMatrixLayoutCreate: data type {dtype} is not simulated");
            return refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, why);
        };
        let made = new_handle();
        let layout_made = Layout { dtype, rows, columns, leading, batch_count: 1, batch_stride: 0 };
        machine.blas.layouts.insert(made, layout_made);
        // SAFETY: the client's promise.
        unsafe { store(layout, made as cublasLtMatrixLayout_t) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutDestroy(layout: cublasLtMatrixLayout_t) -> Status {
    enter("cublasLtMatrixLayoutDestroy", |machine| {
        if layout.is_null() {
            return Ok(());
        }
        removed("cublasLtMatrixLayoutDestroy", machine.blas.layouts.remove(&(layout as u64)))
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceCreate(
    preference: *mut cublasLtMatmulPreference_t,
) -> Status {
    enter("cublasLtMatmulPreferenceCreate", |machine| {
        let made = new_handle();
        machine.blas.preferences.insert(made, Preference::default());
        // SAFETY: the client's promise.
        unsafe { store(preference, made as cublasLtMatmulPreference_t) }
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceDestroy(preference: cublasLtMatmulPreference_t) -> Status {
    enter("cublasLtMatmulPreferenceDestroy", |machine| {
        if preference.is_null() {
            return Ok(());
        }
        removed("cublasLtMatmulPreferenceDestroy", machine.blas.preferences.remove(&(preference as u64)))
    })
}
