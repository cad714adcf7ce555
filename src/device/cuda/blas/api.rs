//! The functions of cuBLASLt in use, found at run time. Types and constants are cudarc's, which are the same in all versions from 12.0 to 13.4;
//! results are integers, as a later version may return one that is no variant of an enum.

use std::ffi::{c_int, c_void};
use std::fmt;

use cudarc::cublaslt::sys;

use super::choice::Algorithm;
use crate::device::cuda::library::Library;
use crate::device::{Error, Result};

/// Oldest major version of CUDA with the types and constants that are used.
const MAJOR_MIN: i32 = 12;

/// A result of cuBLASLt other than success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BlasError(pub c_int);

pub(super) type Status<T> = std::result::Result<T, BlasError>;

impl BlasError {
    pub(super) const INVALID_VALUE: Self = Self(sys::cublasStatus_t::CUBLAS_STATUS_INVALID_VALUE as c_int);
    pub(super) const NOT_SUPPORTED: Self = Self(sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as c_int);

    /// Converts a function's result.
    pub(super) fn check(code: c_int) -> Status<()> {
        if code == 0 { Ok(()) } else { Err(Self(code)) }
    }
}

impl fmt::Display for BlasError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        use sys::cublasStatus_t as S;
        let known = [
            S::CUBLAS_STATUS_NOT_INITIALIZED,
            S::CUBLAS_STATUS_ALLOC_FAILED,
            S::CUBLAS_STATUS_INVALID_VALUE,
            S::CUBLAS_STATUS_ARCH_MISMATCH,
            S::CUBLAS_STATUS_MAPPING_ERROR,
            S::CUBLAS_STATUS_EXECUTION_FAILED,
            S::CUBLAS_STATUS_INTERNAL_ERROR,
            S::CUBLAS_STATUS_NOT_SUPPORTED,
        ];
        match known.into_iter().find(|&status| status as c_int == self.0) {
            Some(status) => write!(formatter, "{status:?}"),
            None => write!(formatter, "status {}", self.0),
        }
    }
}

/// `cublasLtMatmulHeuristicResult_t` of `cublasLt.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(super) struct HeuristicResult {
    pub algorithm: Algorithm,
    pub workspace_bytes: usize,
    pub state: c_int,
    waves_count: f32,
    reserved: [c_int; 4],
}

const _: () = assert!(size_of::<HeuristicResult>() == size_of::<sys::cublasLtMatmulHeuristicResult_t>());

/// Defines [`Api`] with a field for each function.
macro_rules! api {
    ($($function:ident($($argument:ty),*) -> $result:ty;)*) => {
        /// cuBLASLt's functions, by their names in `cublasLt.h`.
        #[allow(non_snake_case)]
        pub(super) struct Api {
            $(pub $function: unsafe extern "C" fn($($argument),*) -> $result,)*
        }

        impl Api {
            fn load(library: &Library) -> Result<Self> {
                let missing = |function| {
                    let name = &library.name;
                    Error::Cuda(format!("{name} has no function {function}; install cuBLASLt of CUDA 12.0 or later"))
                };
                Ok(Self {
                    // SAFETY: the type is that of the function in `cublasLt.h`.
                    $($function: unsafe { library.function(stringify!($function)) }
                        .ok_or_else(|| missing(stringify!($function)))?,)*
                })
            }
        }
    };
}

api! {
    cublasLtGetVersion() -> usize;
    cublasLtCreate(*mut sys::cublasLtHandle_t) -> c_int;
    cublasLtMatmulDescCreate(*mut sys::cublasLtMatmulDesc_t, sys::cublasComputeType_t, sys::cudaDataType) -> c_int;
    cublasLtMatmulDescDestroy(sys::cublasLtMatmulDesc_t) -> c_int;
    cublasLtMatmulDescSetAttribute(
        sys::cublasLtMatmulDesc_t, sys::cublasLtMatmulDescAttributes_t, *const c_void, usize
    ) -> c_int;
    cublasLtMatrixLayoutCreate(*mut sys::cublasLtMatrixLayout_t, sys::cudaDataType, u64, u64, i64) -> c_int;
    cublasLtMatrixLayoutDestroy(sys::cublasLtMatrixLayout_t) -> c_int;
    cublasLtMatrixLayoutSetAttribute(
        sys::cublasLtMatrixLayout_t, sys::cublasLtMatrixLayoutAttribute_t, *const c_void, usize
    ) -> c_int;
    cublasLtMatmulPreferenceCreate(*mut sys::cublasLtMatmulPreference_t) -> c_int;
    cublasLtMatmulPreferenceDestroy(sys::cublasLtMatmulPreference_t) -> c_int;
    cublasLtMatmulPreferenceSetAttribute(
        sys::cublasLtMatmulPreference_t, sys::cublasLtMatmulPreferenceAttributes_t, *const c_void, usize
    ) -> c_int;
    cublasLtMatmulAlgoGetHeuristic(
        sys::cublasLtHandle_t,
        sys::cublasLtMatmulDesc_t,
        sys::cublasLtMatrixLayout_t,
        sys::cublasLtMatrixLayout_t,
        sys::cublasLtMatrixLayout_t,
        sys::cublasLtMatrixLayout_t,
        sys::cublasLtMatmulPreference_t,
        c_int,
        *mut HeuristicResult,
        *mut c_int
    ) -> c_int;
    cublasLtMatmul(
        sys::cublasLtHandle_t,
        sys::cublasLtMatmulDesc_t,
        *const c_void,
        *const c_void,
        sys::cublasLtMatrixLayout_t,
        *const c_void,
        sys::cublasLtMatrixLayout_t,
        *const c_void,
        *const c_void,
        sys::cublasLtMatrixLayout_t,
        *mut c_void,
        sys::cublasLtMatrixLayout_t,
        *const Algorithm,
        *mut c_void,
        usize,
        sys::cudaStream_t
    ) -> c_int;
}

impl Api {
    /// Finds cuBLASLt for a driver of CUDA version `driver`, such as 13000.
    pub(super) fn open(driver: i32) -> Result<Self> {
        let cure = "install it with the CUDA toolkit, or add its folder to the library path";
        Self::load(&Library::find("the library cuBLASLt", &names(driver), cure)?)
    }

    /// Creates an object of cuBLASLt by one of the functions for that.
    pub(super) fn create<T>(create: impl FnOnce(*mut *mut T) -> c_int) -> Status<*mut T> {
        let mut object = std::ptr::null_mut();
        BlasError::check(create(&raw mut object)).map(|()| object)
    }
}

/// Returns the names of cuBLASLt, that of the driver's major version first. Later ones do not work with the driver. NVIDIA's wheels have none
/// without a version.
fn names(driver: i32) -> Vec<String> {
    let versioned = (MAJOR_MIN..=driver / 1000).rev().map(|major| format!("libcublasLt.so.{major}"));
    versioned.chain(["libcublasLt.so".into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_begin_with_the_version_of_the_driver() {
        assert_eq!(names(13_010), ["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"]);
        assert_eq!(names(12_080), ["libcublasLt.so.12", "libcublasLt.so"]);
    }

    #[test]
    fn statuses_have_names_where_they_are_known() {
        assert_eq!(BlasError::check(0), Ok(()));
        assert_eq!(BlasError::check(15), Err(BlasError::NOT_SUPPORTED));
        assert_eq!(BlasError::INVALID_VALUE.to_string(), "CUBLAS_STATUS_INVALID_VALUE");
        assert_eq!(BlasError(99).to_string(), "status 99");
    }
}
