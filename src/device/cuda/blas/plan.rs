//! A GEMM in cuBLASLt's terms: descriptors created once for each shape, and the algorithms that cuBLASLt proposes.

use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys::{
    self, cublasLtMatmulDescAttributes_t as DescriptorAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasLtReductionScheme_t as ReductionScheme,
};
use cudarc::driver;

use super::api::{Api, BlasError, HeuristicResult, Status};
use super::choice::{Algorithm, size_class};
use crate::device::{BatchStrides, DType, Gemm};

/// Workspace that NVIDIA recommends for Hopper, in bytes; older GPUs need less.
pub(in super::super) const WORKSPACE_BYTES: usize = 32 << 20;
/// Maximum number of candidates: cuBLASLt ranks its algorithms, and the best one has been seen among the first few.
const CANDIDATES_MAX: usize = 8;
/// Largest pointer alignment that cuBLASLt distinguishes, in bytes.
const ALIGNMENT_MAX: u64 = 256;
/// Largest row alignment that matters, in bytes: that of a thread's widest access, and TMA's requirement for rows.
const ROW_ALIGNMENT_MAX: u64 = 16;

/// Everything that a plan depends on: a GEMM with the addresses reduced to their alignments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlanKey {
    sizes: [usize; 3],
    strides: [usize; 3],
    transposed: [bool; 2],
    types: [DType; 2],
    alignments: [u32; 3],
    accumulate: bool,
    /// Alignment of the bias, if there is one.
    bias: Option<u32>,
    batch: BatchStrides,
}

impl PlanKey {
    pub(super) fn of(gemm: &Gemm) -> Self {
        Self {
            sizes: [gemm.m, gemm.n, gemm.k],
            strides: [gemm.a_stride, gemm.b_stride, gemm.c_stride],
            transposed: [gemm.a_transposed, gemm.b_transposed],
            types: [gemm.input, gemm.output],
            alignments: [gemm.a, gemm.b, gemm.c].map(|address| alignment(address, ALIGNMENT_MAX)),
            accumulate: gemm.accumulate,
            bias: gemm.bias.map(|address| alignment(address, ALIGNMENT_MAX)),
            batch: gemm.batch,
        }
    }

    /// Returns the key that GEMMs share a measurement by: their sizes are of one class, and their rows equally aligned.
    pub(super) fn family(&self) -> String {
        let [m, n, k] = self.sizes.map(size_class);
        let [a, b] = self.transposed.map(|transposed| if transposed { 't' } else { 'n' });
        let [input, output] = self.types.map(DType::name);
        let rows = self.row_alignments().map(|alignment| alignment.to_string()).join(",");
        let bias = self
            .bias
            .map_or(String::new(), |bias| format!(" bias/{}", alignment(u64::from(bias), ROW_ALIGNMENT_MAX)));
        let accumulate = if self.accumulate { " accumulate" } else { "" };
        let batch = size_class(self.batch.count);
        format!("{batch}x {m}x{n}x{k} {a}{b} {input}-{output} rows/{rows}{bias}{accumulate}")
    }

    /// Returns the alignment in bytes of every matrix of the batch, for `a`, `b` and `c`.
    fn pointer_alignments(&self) -> [u32; 3] {
        let BatchStrides { count, a_stride, b_stride, c_stride } = self.batch;
        let [input, output] = self.types.map(DType::bytes);
        let steps = [a_stride * input, b_stride * input, c_stride * output];
        std::array::from_fn(|index| {
            let step = if count == 1 { 0 } else { steps[index] };
            alignment(u64::from(self.alignments[index]) | step as u64, ALIGNMENT_MAX)
        })
    }

    /// Returns the alignment in bytes of every row of every matrix, for `a`, `b` and `c`.
    fn row_alignments(&self) -> [u32; 3] {
        let [input, output] = self.types.map(DType::bytes);
        let BatchStrides { a_stride, b_stride, c_stride, .. } = self.batch;
        let matrices = [(a_stride, input), (b_stride, input), (c_stride, output)];
        std::array::from_fn(|index| {
            let (batch_stride, bytes) = matrices[index];
            let steps = (self.strides[index] * bytes) | (batch_stride * bytes);
            alignment(u64::from(self.alignments[index]) | steps as u64, ROW_ALIGNMENT_MAX)
        })
    }
}

/// Returns the largest power of two up to `max` that divides `address`.
fn alignment(address: u64, max: u64) -> u32 {
    1 << (address | max).trailing_zeros()
}

/// Handle, workspace and stream that a GEMM runs with.
#[derive(Clone, Copy)]
pub(super) struct BlasContext {
    pub handle: sys::cublasLtHandle_t,
    /// [`WORKSPACE_BYTES`] bytes that no other stream uses.
    pub workspace: driver::sys::CUdeviceptr,
    pub stream: driver::sys::CUstream,
}

/// Descriptors of a GEMM in cuBLASLt's column-major terms.
///
/// A row-major matrix is, read column by column, its transpose. So `cᵀ[n, m] = op(b)ᵀ · op(a)ᵀ` moves no data: `b` is the first factor, `a` the
/// second, and each is transposed exactly where `Gemm` says so. cuBLASLt's bias has an element for each row of its result, which is a column of
/// ours.
pub(super) struct Plan {
    api: &'static Api,
    /// Locked from setting the bias's address until the launch has read it.
    descriptor: Mutex<Descriptor>,
    first: MatrixLayout,
    second: MatrixLayout,
    result: MatrixLayout,
}

// SAFETY: descriptors are plain heap objects of the library, bound to no thread.
unsafe impl Send for Plan {}
// SAFETY: matrix layouts are only read once made; the descriptor that changes is behind a mutex.
unsafe impl Sync for Plan {}

impl Plan {
    pub(super) fn new(api: &'static Api, shape: &PlanKey) -> Status<Self> {
        let PlanKey { sizes: [m, n, k], strides: [a_stride, b_stride, c_stride], batch, .. } = *shape;
        let [a_transposed, b_transposed] = shape.transposed;
        let [input, output] = shape.types;
        let flip = |transposed, [rows, columns]: [usize; 2]| {
            if transposed { [columns, rows] } else { [rows, columns] }
        };
        let descriptor = Descriptor::new(api)?;
        // cublasOperation_t: CUBLAS_OP_N is 0 and CUBLAS_OP_T is 1.
        descriptor.set(DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(b_transposed))?;
        descriptor.set(DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(a_transposed))?;
        if shape.bias.is_some() {
            // The bias is of the output's type by default.
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
            descriptor.set(DescriptorAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue)?;
        }
        let count = batch.count;
        let layout = |dtype, shape, stride, batch_stride| {
            MatrixLayout::new(api, dtype, shape, stride, (count, batch_stride))
        };
        Ok(Self {
            api,
            descriptor: Mutex::new(descriptor),
            first: layout(input, flip(b_transposed, [n, k]), b_stride, batch.b_stride)?,
            second: layout(input, flip(a_transposed, [k, m]), a_stride, batch.a_stride)?,
            result: layout(output, [n, m], c_stride, batch.c_stride)?,
        })
    }

    /// Returns the algorithms that cuBLASLt proposes for a GEMM of this plan's `shape`, the one it expects to be fastest first; none where it
    /// refuses the GEMM.
    pub(super) fn candidates(
        &self,
        handle: sys::cublasLtHandle_t,
        shape: &PlanKey,
        gemm: &Gemm,
    ) -> Status<Vec<Algorithm>> {
        let preference = Preference::new(self.api, shape)?;
        let descriptor = self.descriptor.lock().unwrap_or_else(PoisonError::into_inner);
        descriptor.set_bias(gemm.bias)?;
        let mut found = [HeuristicResult::default(); CANDIDATES_MAX];
        let mut count = 0;
        // SAFETY: all descriptors are alive, and `found` has room for as many results as are asked for.
        let status = unsafe {
            (self.api.cublasLtMatmulAlgoGetHeuristic)(
                handle,
                descriptor.handle,
                self.first.handle,
                self.second.handle,
                self.result.handle,
                self.result.handle,
                preference.handle,
                CANDIDATES_MAX as i32,
                found.as_mut_ptr(),
                &raw mut count,
            )
        };
        match BlasError::check(status) {
            // cuBLASLt has been seen to refuse bias epilogues of thin GEMMs as invalid.
            Err(BlasError::NOT_SUPPORTED | BlasError::INVALID_VALUE) => return Ok(Vec::new()),
            other => other?,
        }
        let usable = found.iter().take(usize::try_from(count).unwrap_or(0)).filter(|found| {
            BlasError::check(found.state).is_ok() && found.workspace_bytes <= WORKSPACE_BYTES
        });
        Ok(usable.map(|found| found.algorithm).collect())
    }

    /// Enqueues a GEMM of this plan's shape.
    ///
    /// # Safety
    /// The matrices and the bias are valid; `algorithm` is one of this plan's [`candidates`](Self::candidates); its CUDA context is current.
    pub(super) unsafe fn launch(
        &self,
        context: BlasContext,
        gemm: &Gemm,
        algorithm: Algorithm,
    ) -> Status<()> {
        let (one, beta) = (1.0f32, if gemm.accumulate { 1.0f32 } else { 0.0 });
        let pointer = |address: u64| address as *mut c_void;
        let descriptor = self.descriptor.lock().unwrap_or_else(PoisonError::into_inner);
        descriptor.set_bias(gemm.bias)?;
        // SAFETY: the plan was made for these shapes and alignments; scalars and descriptors are read before the call returns.
        let status = unsafe {
            (self.api.cublasLtMatmul)(
                context.handle,
                descriptor.handle,
                std::ptr::from_ref(&one).cast(),
                pointer(gemm.b),
                self.first.handle,
                pointer(gemm.a),
                self.second.handle,
                std::ptr::from_ref(&beta).cast(),
                pointer(gemm.c),
                self.result.handle,
                pointer(gemm.c),
                self.result.handle,
                &raw const algorithm,
                pointer(context.workspace),
                WORKSPACE_BYTES,
                context.stream.cast(),
            )
        };
        BlasError::check(status)
    }
}

struct Descriptor {
    api: &'static Api,
    handle: sys::cublasLtMatmulDesc_t,
}

impl Descriptor {
    fn new(api: &'static Api) -> Status<Self> {
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType::CUDA_R_32F);
        // SAFETY: writes the handle.
        let handle = Api::create(|place| unsafe { (api.cublasLtMatmulDescCreate)(place, compute, scale) })?;
        Ok(Self { api, handle })
    }

    /// Sets an attribute, whose type in cuBLASLt's documentation must be `V`.
    fn set<V: Copy>(&self, attribute: DescriptorAttribute, value: &V) -> Status<()> {
        let address = std::ptr::from_ref(value).cast();
        // SAFETY: the descriptor is alive, and the value has the attribute's size.
        BlasError::check(unsafe {
            (self.api.cublasLtMatmulDescSetAttribute)(self.handle, attribute, address, size_of::<V>())
        })
    }

    fn set_bias(&self, bias: Option<u64>) -> Status<()> {
        let attribute = DescriptorAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER;
        bias.map_or(Ok(()), |address| self.set(attribute, &address))
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`; launches have copied what they need.
        unsafe { (self.api.cublasLtMatmulDescDestroy)(self.handle) };
    }
}

struct MatrixLayout {
    api: &'static Api,
    handle: sys::cublasLtMatrixLayout_t,
}

impl MatrixLayout {
    /// Describes `count` matrices, `batch_stride` apart: `rows` elements are contiguous in memory, `columns` are `stride` apart.
    fn new(
        api: &'static Api,
        dtype: DType,
        [rows, columns]: [usize; 2],
        stride: usize,
        (count, batch_stride): (usize, usize),
    ) -> Status<Self> {
        let dtype = match dtype {
            DType::F32 => sys::cudaDataType::CUDA_R_32F,
            DType::Bf16 => sys::cudaDataType::CUDA_R_16BF,
            DType::F16 => sys::cudaDataType::CUDA_R_16F,
        };
        // SAFETY: writes the handle.
        let handle = Api::create(|place| unsafe {
            (api.cublasLtMatrixLayoutCreate)(place, dtype, rows as u64, columns as u64, stride as i64)
        })?;
        let layout = Self { api, handle };
        if count != 1 {
            let count = i32::try_from(count).map_err(|_| BlasError::INVALID_VALUE)?;
            layout.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count)?;
            let offset = batch_stride as i64;
            layout.set(LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &offset)?;
        }
        Ok(layout)
    }

    fn set<V: Copy>(&self, attribute: LayoutAttribute, value: &V) -> Status<()> {
        let address = std::ptr::from_ref(value).cast();
        // SAFETY: the layout is alive, and the value has the attribute's size.
        BlasError::check(unsafe {
            (self.api.cublasLtMatrixLayoutSetAttribute)(self.handle, attribute, address, size_of::<V>())
        })
    }
}

impl Drop for MatrixLayout {
    fn drop(&mut self) {
        // SAFETY: as for descriptors.
        unsafe { (self.api.cublasLtMatrixLayoutDestroy)(self.handle) };
    }
}

/// Limits on the algorithms: the workspace that they may use, and the alignments that they must respect.
struct Preference {
    api: &'static Api,
    handle: sys::cublasLtMatmulPreference_t,
}

impl Preference {
    fn new(api: &'static Api, shape: &PlanKey) -> Status<Self> {
        // SAFETY: writes the handle.
        let handle = Api::create(|place| unsafe { (api.cublasLtMatmulPreferenceCreate)(place) })?;
        let preference = Self { api, handle };
        let [a, b, c] = shape.pointer_alignments();
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &WORKSPACE_BYTES)?;
        // By default all pointers are taken to be aligned to 256 bytes, which views are not. There is no setting for the bias: its own address is
        // examined.
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c)?;
        preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c)?;
        if shape.types[1] != DType::F32 {
            // Partial sums of a split-K GEMM are added in f32 as well, so that only the final result is rounded to 16 bits.
            let schemes = ReductionScheme::CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE as u32;
            preference.set(PreferenceAttribute::CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &schemes)?;
        }
        Ok(preference)
    }

    fn set<V: Copy>(&self, attribute: PreferenceAttribute, value: &V) -> Status<()> {
        let address = std::ptr::from_ref(value).cast();
        // SAFETY: the preference is alive, and the value has the attribute's size.
        BlasError::check(unsafe {
            (self.api.cublasLtMatmulPreferenceSetAttribute)(self.handle, attribute, address, size_of::<V>())
        })
    }
}

impl Drop for Preference {
    fn drop(&mut self) {
        // SAFETY: made by `new`, not used afterwards.
        unsafe { (self.api.cublasLtMatmulPreferenceDestroy)(self.handle) };
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn gemm() -> Gemm {
        Gemm {
            m: 2,
            n: 3,
            k: 4,
            a: 0x1_0000,
            a_stride: 4,
            a_transposed: false,
            b: 0x1_0010,
            b_stride: 4,
            b_transposed: true,
            c: 0x1_0104,
            c_stride: 3,
            input: DType::Bf16,
            output: DType::F32,
            accumulate: false,
            bias: Some(0x1_0020),
            batch: BatchStrides::ONE,
        }
    }

    #[test]
    fn a_shape_knows_the_alignments() {
        let shape = PlanKey::of(&gemm());
        assert_eq!((shape.alignments, shape.bias), ([256, 16, 4], Some(32)));
        assert_eq!(shape.transposed, [false, true]);
        assert_eq!(shape.row_alignments(), [8, 8, 4]);
        let batch = BatchStrides { count: 2, a_stride: 9, b_stride: 0, c_stride: 6 };
        let batched = PlanKey::of(&Gemm { batch, ..gemm() });
        assert_eq!(batched.row_alignments(), [2, 8, 4]);
        assert_eq!((shape.pointer_alignments(), batched.pointer_alignments()), ([256, 16, 4], [2, 16, 4]));
    }

    #[test]
    fn a_family_is_products_of_about_one_size() {
        let family = |change: &dyn Fn(&mut Gemm)| {
            let mut gemm = Gemm { m: 20_000, n: 768, k: 768, a_stride: 768, b_stride: 768, ..gemm() };
            (gemm.c, gemm.c_stride) = (0x1_0100, 768);
            change(&mut gemm);
            PlanKey::of(&gemm).family()
        };
        let base = family(&|_| ());
        assert_eq!(base, "1x 20480x768x768 nt bf16-f32 rows/16,16,16 bias/16");
        assert_eq!(base, family(&|gemm| gemm.m = 20_479));
        assert_eq!(base, family(&|gemm| gemm.a += 32));
        let others: [&dyn Fn(&mut Gemm); 9] = [
            &|gemm| gemm.m = 20_481,
            &|gemm| gemm.a_transposed = true,
            &|gemm| gemm.b_transposed = false,
            &|gemm| gemm.input = DType::F16,
            &|gemm| gemm.output = DType::Bf16,
            &|gemm| gemm.a_stride = 769,
            &|gemm| gemm.bias = None,
            &|gemm| gemm.accumulate = true,
            &|gemm| gemm.batch.count = 2,
        ];
        let mut all: Vec<String> = others.iter().map(|change| family(change)).collect();
        all.push(base);
        all.sort();
        all.dedup();
        assert_eq!(all.len(), others.len() + 1, "{all:?}");
    }
}
