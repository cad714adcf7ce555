//! Matrix products of a CUDA device, by cuBLASLt.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as DescriptorAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
};
use cudarc::driver;

use super::super::{DType, Error, Gemm, Layout, Result};
use super::driver::driver_error;

/// What NVIDIA recommends for Hopper; older GPUs need less.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Packs differ in length, so shapes keep coming: forget all plans rather than let them grow without end.
const PLANS_MAX: usize = 4096;
/// Pointers are at most this aligned, as far as cuBLASLt cares.
const ALIGNMENT_MAX: u64 = 256;

/// All that the choice of an algorithm depends on: a product with the addresses reduced to their alignments.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    sizes: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    types: [DType; 2],
    alignments: [u32; 3],
}

impl Shape {
    fn of(gemm: &Gemm) -> Self {
        let alignment =
            |address: u64| (address | ALIGNMENT_MAX).trailing_zeros().min(ALIGNMENT_MAX.trailing_zeros());
        Self {
            sizes: [gemm.m, gemm.n, gemm.k],
            strides: [gemm.a_stride, gemm.b_stride, gemm.c_stride],
            transposed: [gemm.a_layout, gemm.b_layout].map(|layout| layout == Layout::Transposed),
            types: [gemm.input, gemm.output],
            alignments: [gemm.a, gemm.b, gemm.c].map(|address| 1 << alignment(address)),
        }
    }
}

/// The library's handle, its workspace, and an algorithm for each shape seen.
pub(super) struct Blas {
    handle: sys::cublasLtHandle_t,
    workspace: driver::sys::CUdeviceptr,
    plans: Mutex<HashMap<Shape, Arc<Plan>>>,
}

impl Blas {
    /// Opens the library in the current context and allocates its workspace.
    pub(super) fn open() -> Result<Self> {
        // SAFETY: only tries to load the library. cudarc panics where it is missing, so this comes before any other call.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::Cuda(
                "the library cuBLASLt (libcublasLt) is not found; install it with the CUDA toolkit, or add its folder to the \
                 library path"
                    .into(),
            ));
        }
        let handle = result::create_handle().map_err(|error| blas_error("opening cuBLASLt", error))?;
        // SAFETY: a plain allocation in the current context.
        let workspace = unsafe { driver::result::malloc_sync(WORKSPACE_BYTES) }.map_err(|error| {
            // SAFETY: made above, not used since.
            let _ = unsafe { result::destroy_handle(handle) };
            driver_error("allocating the workspace of cuBLASLt", error)
        })?;
        Ok(Self { handle, workspace, plans: Mutex::new(HashMap::new()) })
    }

    /// Enqueues a product on `stream`.
    ///
    /// # Safety
    /// The three matrices are valid for their shapes, `c` overlaps neither operand, and all products go to the same stream.
    pub(super) unsafe fn run(&self, gemm: &Gemm, stream: driver::sys::CUstream) -> Result<()> {
        let plan = self.plan(Shape::of(gemm)).map_err(|error| {
            blas_error(format_args!("choosing an algorithm for {}", describe(gemm)), error)
        })?;
        let (one, beta) = (1.0f32, if gemm.accumulate { 1.0f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        // SAFETY: the plan was made for these shapes and alignments; the scalars are read before the call returns.
        unsafe {
            result::matmul(
                self.handle,
                plan.descriptor,
                std::ptr::from_ref(&one).cast(),
                std::ptr::from_ref(&beta).cast(),
                pointer(gemm.b),
                plan.first,
                pointer(gemm.a),
                plan.second,
                pointer(gemm.c),
                plan.product,
                pointer(gemm.c),
                plan.product,
                &raw const plan.algorithm,
                pointer(self.workspace),
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
        .map_err(|error| blas_error(format_args!("multiplying {}", describe(gemm)), error))
    }

    /// Forgets what belongs to a stream that is about to be destroyed.
    pub(super) fn forget(&self, _stream: driver::sys::CUstream) {}

    fn plan(&self, shape: Shape) -> std::result::Result<Arc<Plan>, CublasError> {
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plan) = plans.get(&shape) {
            return Ok(plan.clone());
        }
        if plans.len() >= PLANS_MAX {
            plans.clear();
        }
        let plan = Arc::new(Plan::new(self.handle, &shape)?);
        plans.insert(shape, plan.clone());
        Ok(plan)
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        self.plans.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
        // SAFETY: made by `open`; the owner drops this while its context is current and its stream is idle.
        unsafe {
            let _ = result::destroy_handle(self.handle);
            let _ = driver::result::free_sync(self.workspace);
        }
    }
}

/// Descriptors of a product in cuBLASLt's column-major terms, and the algorithm chosen for it.
///
/// A row-major matrix is, read column by column, its transpose. So `cᵀ[n, m] = op(b)ᵀ · op(a)ᵀ` needs no data to move: `b` is the
/// first factor, `a` the second, and each is transposed exactly where `Gemm` says so.
struct Plan {
    descriptor: sys::cublasLtMatmulDesc_t,
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    product: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: descriptors are plain heap objects of the library, bound to no thread, and only read once made.
unsafe impl Send for Plan {}
// SAFETY: as above.
unsafe impl Sync for Plan {}

impl Plan {
    fn new(handle: sys::cublasLtHandle_t, shape: &Shape) -> std::result::Result<Self, CublasError> {
        let Shape { sizes: [m, n, k], strides: [a_stride, b_stride, c_stride], .. } = *shape;
        let [a_transposed, b_transposed] = shape.transposed;
        let [input, output] = shape.types.map(|dtype| match dtype {
            DType::F32 => sys::cudaDataType::CUDA_R_32F,
            DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
        });
        // A failure below drops `plan`, which destroys what was made; destroying null does nothing.
        let mut plan = Self {
            descriptor: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType::CUDA_R_32F,
            )?,
            first: std::ptr::null_mut(),
            second: std::ptr::null_mut(),
            product: std::ptr::null_mut(),
            algorithm: sys::cublasLtMatmulAlgo_t { data: [0; 8] },
        };
        let layout = |dtype, rows: usize, columns: usize, stride: usize| {
            result::create_matrix_layout(dtype, rows as u64, columns as u64, stride as i64)
        };
        let flip = |transposed, rows, columns| if transposed { (columns, rows) } else { (rows, columns) };
        let (rows, columns) = flip(b_transposed, n, k);
        plan.first = layout(input, rows, columns, b_stride)?;
        let (rows, columns) = flip(a_transposed, k, m);
        plan.second = layout(input, rows, columns, a_stride)?;
        plan.product = layout(output, n, m, c_stride)?;
        plan.set_transposed(DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSA, b_transposed)?;
        plan.set_transposed(DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSB, a_transposed)?;
        plan.algorithm = plan.choose(handle, shape.alignments)?;
        Ok(plan)
    }

    fn set_transposed(
        &self,
        attribute: DescriptorAttribute,
        transposed: bool,
    ) -> std::result::Result<(), CublasError> {
        // cublasOperation_t: CUBLAS_OP_N is 0 and CUBLAS_OP_T is 1.
        let operation = i32::from(transposed);
        // SAFETY: the descriptor is alive, and the attribute is a 32-bit integer.
        unsafe {
            let value = std::ptr::from_ref(&operation).cast();
            result::set_matmul_desc_attribute(self.descriptor, attribute, value, size_of::<i32>())
        }
    }

    /// The best algorithm by the library's heuristic. By default it takes pointers to be aligned to 256 bytes, which views are not.
    fn choose(
        &self,
        handle: sys::cublasLtHandle_t,
        [a, b, c]: [u32; 3],
    ) -> std::result::Result<sys::cublasLtMatmulAlgo_t, CublasError> {
        let preference = result::create_matmul_pref()?;
        let set = |attribute, value: *const c_void, bytes| {
            // SAFETY: the preference is alive, and `value` has the attribute's size.
            unsafe { result::set_matmul_pref_attribute(preference, attribute, value, bytes) }
        };
        let alignments = [
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, b),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, a),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c),
            (PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, c),
        ];
        let workspace = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let chosen = set(workspace, std::ptr::from_ref(&WORKSPACE_BYTES).cast(), size_of::<usize>())
            .and_then(|()| {
                alignments.iter().try_for_each(|(attribute, alignment)| {
                    set(*attribute, std::ptr::from_ref(alignment).cast(), size_of::<u32>())
                })
            })
            .and_then(|()| {
                let Self { descriptor, first, second, product, .. } = *self;
                // SAFETY: all descriptors are alive.
                unsafe {
                    result::get_matmul_algo_heuristic(
                        handle, descriptor, first, second, product, product, preference,
                    )
                }
            });
        // SAFETY: made above, not used afterwards.
        let _ = unsafe { result::destroy_matmul_pref(preference) };
        chosen.map(|found| found.algo)
    }
}

impl Drop for Plan {
    fn drop(&mut self) {
        // SAFETY: made by `new`, null where it stopped early; launches have copied what they need.
        unsafe {
            for layout in
                [self.first, self.second, self.product].into_iter().filter(|layout| !layout.is_null())
            {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.descriptor);
        }
    }
}

fn describe(gemm: &Gemm) -> String {
    let Gemm { m, n, k, a_layout, b_layout, input, output, .. } = gemm;
    format!("[{m}, {k}] by [{k}, {n}] ({a_layout:?}, {b_layout:?}; {} to {})", input.name(), output.name())
}

fn blas_error(doing: impl std::fmt::Display, error: CublasError) -> Error {
    Error::Cuda(format!("{doing}: cuBLASLt says {:?}", error.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_knows_the_alignment_of_its_operands() {
        let gemm = Gemm {
            m: 2,
            n: 3,
            k: 4,
            a: 0x1_0000,
            a_stride: 4,
            a_layout: Layout::Normal,
            b: 0x1_0010,
            b_stride: 4,
            b_layout: Layout::Transposed,
            c: 0x1_0102,
            c_stride: 3,
            input: DType::Bf16,
            output: DType::F32,
            accumulate: false,
        };
        let shape = Shape::of(&gemm);
        assert_eq!((shape.alignments, shape.transposed), ([256, 16, 2], [false, true]));
        assert_eq!(describe(&gemm), "[2, 4] by [4, 3] (Normal, Transposed; bf16 to f32)");
    }
}
