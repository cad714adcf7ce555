//! Setters for the attributes of descriptors. Values that are not simulated are refused rather than ignored.

use std::ffi::{c_uint, c_void};

use cudarc::cublaslt::sys::{
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as DescriptorAttribute, cublasLtMatmulPreference_t,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasLtMatrixLayout_t,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasStatus_t as Status,
};

use super::find;
use super::gemm::Type;
use crate::call::{CallResult, enter, refuse};

// As numbers, because a client may pass values that are not in the enumerations.
const POINTER_MODE: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_POINTER_MODE as c_uint;
const TRANSPOSE_A: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSA as c_uint;
const TRANSPOSE_B: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSB as c_uint;
const TRANSPOSE_C: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSC as c_uint;
const EPILOGUE: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE as c_uint;
const BIAS_POINTER: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER as c_uint;
const BIAS_BATCH_STRIDE: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_BIAS_BATCH_STRIDE as c_uint;
const BIAS_TYPE: c_uint = DescriptorAttribute::CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE as c_uint;
const TYPE: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_TYPE as c_uint;
const ORDER: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_ORDER as c_uint;
const ROWS: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_ROWS as c_uint;
const COLUMNS: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_COLS as c_uint;
const LEADING: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_LD as c_uint;
const BATCH_COUNT: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT as c_uint;
const BATCH_STRIDE: c_uint = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET as c_uint;
const SEARCH_MODE: c_uint = PreferenceAttribute::CUBLASLT_MATMUL_PREF_SEARCH_MODE as c_uint;
const WORKSPACE_BYTES: c_uint = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES as c_uint;
const REDUCTIONS: c_uint = PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK as c_uint;
const ALIGNMENT_A: c_uint = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES as c_uint;
const ALIGNMENT_D: c_uint = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES as c_uint;

/// CUBLASLT_EPILOGUE_DEFAULT and CUBLASLT_EPILOGUE_BIAS.
const EPILOGUE_DEFAULT: c_uint = 1;
const EPILOGUE_BIAS: c_uint = 4;
/// CUBLAS_OP_N and CUBLAS_OP_T.
const OPERATIONS: [bool; 2] = [false, true];

/// The bytes of an attribute's value.
struct Value {
    what: &'static str,
    attribute: c_uint,
    pointer: *const c_void,
    bytes: usize,
}

impl Value {
    fn read<T: Copy>(&self) -> CallResult<T, Status> {
        if self.pointer.is_null() || self.bytes != size_of::<T>() {
            let Self { what, attribute, bytes, .. } = self;
            let why = format_args!(
                "{what}: attribute {attribute} is given {bytes} bytes; it has {}",
                size_of::<T>()
            );
            return refuse(Status::CUBLAS_STATUS_INVALID_VALUE, why);
        }
        // SAFETY: the client's promise; `T` is a plain number.
        Ok(unsafe { self.pointer.cast::<T>().read_unaligned() })
    }

    fn data_type(&self) -> CallResult<Type, Status> {
        let number = self.read()?;
        match Type::of(number) {
            Some(dtype) => Ok(dtype),
            None => self.unsupported(),
        }
    }

    fn unsupported<T>(&self) -> CallResult<T, Status> {
        let Self { what, attribute, .. } = self;
        let why = format_args!("{what}: attribute {attribute}, or its value, is not simulated");
        refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, why)
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulDescSetAttribute(
    descriptor: cublasLtMatmulDesc_t,
    attribute: c_uint,
    pointer: *const c_void,
    bytes: usize,
) -> Status {
    let what = "cublasLtMatmulDescSetAttribute";
    enter(what, |machine| {
        let value = Value { what, attribute, pointer, bytes };
        let descriptor = find(&mut machine.blas.descriptors, what, descriptor as u64)?;
        let operation = |value: &Value| match OPERATIONS.get(value.read::<u32>()? as usize) {
            Some(&transposed) => Ok(transposed),
            None => value.unsupported(),
        };
        match attribute {
            // Only scalars on the host are supported.
            POINTER_MODE if value.read::<u32>()? == 0 => {}
            TRANSPOSE_A => descriptor.transposed[0] = operation(&value)?,
            TRANSPOSE_B => descriptor.transposed[1] = operation(&value)?,
            TRANSPOSE_C if !operation(&value)? => {}
            EPILOGUE => match value.read::<u32>()? {
                EPILOGUE_DEFAULT => descriptor.has_bias = false,
                EPILOGUE_BIAS => descriptor.has_bias = true,
                _ => return value.unsupported(),
            },
            BIAS_POINTER => descriptor.bias = value.read()?,
            BIAS_BATCH_STRIDE => descriptor.bias_batch_stride = value.read()?,
            BIAS_TYPE => descriptor.bias_type = Some(value.data_type()?),
            _ => return value.unsupported(),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatrixLayoutSetAttribute(
    layout: cublasLtMatrixLayout_t,
    attribute: c_uint,
    pointer: *const c_void,
    bytes: usize,
) -> Status {
    let what = "cublasLtMatrixLayoutSetAttribute";
    enter(what, |machine| {
        let value = Value { what, attribute, pointer, bytes };
        let layout = find(&mut machine.blas.layouts, what, layout as u64)?;
        match attribute {
            TYPE => layout.dtype = value.data_type()?,
            // Only column-major order is supported.
            ORDER if value.read::<u32>()? == 0 => {}
            ROWS => layout.rows = value.read()?,
            COLUMNS => layout.columns = value.read()?,
            LEADING => layout.leading = value.read()?,
            BATCH_COUNT => layout.batch_count = value.read()?,
            BATCH_STRIDE => layout.batch_stride = value.read()?,
            _ => return value.unsupported(),
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cublasLtMatmulPreferenceSetAttribute(
    preference: cublasLtMatmulPreference_t,
    attribute: c_uint,
    pointer: *const c_void,
    bytes: usize,
) -> Status {
    let what = "cublasLtMatmulPreferenceSetAttribute";
    enter(what, |machine| {
        let value = Value { what, attribute, pointer, bytes };
        let preference = find(&mut machine.blas.preferences, what, preference as u64)?;
        match attribute {
            WORKSPACE_BYTES => preference.workspace_bytes = value.read()?,
            ALIGNMENT_A..=ALIGNMENT_D => {
                preference.alignments[(attribute - ALIGNMENT_A) as usize] = value.read()?;
            }
            // Ignored: these select among algorithms that all behave the same here.
            SEARCH_MODE | REDUCTIONS => {
                value.read::<u32>()?;
            }
            _ => return value.unsupported(),
        }
        Ok(())
    })
}
