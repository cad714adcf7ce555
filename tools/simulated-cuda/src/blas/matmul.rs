//! The heuristic that offers algorithms, and the GEMM with the chosen algorithm.

use std::collections::hash_map::DefaultHasher;
use std::ffi::{c_int, c_void};
use std::hash::{Hash, Hasher};

use cudarc::cublaslt::sys::{
    cublasLtHandle_t, cublasLtMatmulAlgo_t, cublasLtMatmulDesc_t, cublasLtMatmulHeuristicResult_t,
    cublasLtMatmulPreference_t, cublasLtMatrixLayout_t, cublasStatus_t as Status, cudaStream_t,
};

use super::gemm::{Bias, Gemm, Matrix, Type};
use super::{Blas, Descriptor, Layout, Preference, find};
use crate::call::{CallResult, enter, log, refuse};
use crate::machine::{Scratch, Work, new_handle};

/// Maximum algorithms offered. They differ in their use of the workspace, not in the result.
const ALGORITHMS_MAX: usize = 3;
/// Maximum workspace of each algorithm, in bytes; the second uses none.
const WORKSPACE_BYTES: [u64; ALGORITHMS_MAX] = [4 << 20, 0, 64 << 10];
/// Smallest useful workspace, in bytes.
const WORKSPACE_MIN: u64 = 16;
/// Alignment of a bias in bytes: the width of the kernels' reads.
const BIAS_ALIGNMENT: u64 = 16;
/// Alignment of the workspace in bytes, as cuBLASLt's documentation requires.
const WORKSPACE_ALIGNMENT: u64 = 256;
const MAGIC: u64 = 0x5c0d_a160;

/// Description of a GEMM without addresses, for which an algorithm is chosen.
#[derive(Clone, Copy)]
struct Shape {
    transposed: [bool; 2],
    has_bias: bool,
    bias_type: Option<Type>,
    layouts: [Layout; 4],
}

impl Shape {
    fn new(descriptor: &Descriptor, layouts: [Layout; 4]) -> Self {
        let Descriptor { transposed, has_bias, bias_type, .. } = *descriptor;
        Self { transposed, has_bias, bias_type, layouts }
    }

    /// Returns the reason why cuBLASLt would have no algorithm for it, if any.
    fn refusal(&self) -> Option<String> {
        let [a, b, c, d] = self.layouts;
        for (name, layout) in ["A", "B", "C", "D"].iter().zip(self.layouts) {
            let Layout { rows, columns, leading, .. } = layout;
            if rows == 0 || columns == 0 {
                return Some(format!("{name} is [{rows}, {columns}]"));
            }
            if u64::try_from(leading).is_ok_and(|leading| leading >= rows) {
                continue;
            }
            return Some(format!("the leading dimension of {name} is {leading}, below its {rows} rows"));
        }
        let flip = |layout: Layout, transposed| {
            if transposed { [layout.columns, layout.rows] } else { [layout.rows, layout.columns] }
        };
        let [[m, k], [b_k, n]] = [flip(a, self.transposed[0]), flip(b, self.transposed[1])];
        if b_k != k || [d, c].iter().any(|result| [result.rows, result.columns] != [m, n]) {
            return Some(format!(
                "[{m}, {k}] by [{b_k}, {n}] into [{}, {}] plus [{}, {}]",
                d.rows, d.columns, c.rows, c.columns
            ));
        }
        let result_type = d.dtype == a.dtype || d.dtype == Type::F32;
        let bias_type = self.bias_type.is_none_or(|bias| bias == d.dtype);
        if a.dtype != b.dtype || c.dtype != d.dtype || !result_type || !bias_type {
            let types = self.layouts.map(|layout| layout.dtype);
            return Some(format!(
                "the types of A, B, C and D are {types:?}, of the bias {:?}",
                self.bias_type
            ));
        }
        if self.has_bias && (m == 1 || k == 1) {
            return Some(format!("there is no bias epilogue for [{m}, {k}] by [{k}, {n}]"));
        }
        if a.batch_count < 1 || self.layouts.iter().any(|layout| layout.batch_count != a.batch_count) {
            return Some(format!("the batch counts are {:?}", self.layouts.map(|layout| layout.batch_count)));
        }
        None
    }

    /// Hashes everything that an algorithm depends on besides alignments. Sizes are left out: as in cuBLASLt, it may fit other sizes as well.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        let types = self.layouts.map(|layout| layout.dtype);
        let batched = self.layouts[0].batch_count > 1;
        (types, self.transposed, self.has_bias, batched).hash(&mut hasher);
        hasher.finish()
    }
}

/// Contents of a `cublasLtMatmulAlgo_t`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Algorithm {
    index: u64,
    fingerprint: u64,
    alignments: [u32; 4],
    workspace_bytes: u64,
}

impl Algorithm {
    fn check_word(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (MAGIC, self).hash(&mut hasher);
        hasher.finish()
    }

    fn encode(&self) -> cublasLtMatmulAlgo_t {
        let Self { index, fingerprint, alignments: [a, b, c, d], workspace_bytes } = *self;
        let pair = |low, high| u64::from(low) | u64::from(high) << 32;
        let data = [MAGIC, index, fingerprint, pair(a, b), pair(c, d), workspace_bytes, self.check_word(), 0];
        cublasLtMatmulAlgo_t { data }
    }

    fn decode(algorithm: &cublasLtMatmulAlgo_t) -> Option<Self> {
        let [magic, index, fingerprint, ab, cd, workspace_bytes, check_word, _] = algorithm.data;
        let alignments = [ab as u32, (ab >> 32) as u32, cd as u32, (cd >> 32) as u32];
        let decoded = Self { index, fingerprint, alignments, workspace_bytes };
        (magic == MAGIC && decoded.check_word() == check_word).then_some(decoded)
    }

    fn offered(shape: &Shape, preference: &Preference) -> [Self; ALGORITHMS_MAX] {
        let granted = if preference.workspace_bytes < WORKSPACE_MIN { 0 } else { preference.workspace_bytes };
        std::array::from_fn(|index| Self {
            index: index as u64,
            fingerprint: shape.fingerprint(),
            alignments: preference.alignments,
            workspace_bytes: WORKSPACE_BYTES[index].min(granted),
        })
    }
}

fn shape(
    blas: &mut Blas,
    what: &str,
    descriptor: cublasLtMatmulDesc_t,
    layouts: [cublasLtMatrixLayout_t; 4],
) -> CallResult<(Descriptor, Shape), Status> {
    let descriptor = *find(&mut blas.descriptors, what, descriptor as u64)?;
    let mut found = [None; 4];
    for (slot, layout) in found.iter_mut().zip(layouts) {
        *slot = Some(*find(&mut blas.layouts, what, layout as u64)?);
    }
    let shape = Shape::new(&descriptor, found.map(|layout| layout.expect("set above")));
    if let Some(why) = shape.refusal() {
        return refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, format_args!("{what}: {why}"));
    }
    Ok((descriptor, shape))
}

fn check_handle(blas: &Blas, what: &str, handle: cublasLtHandle_t) -> CallResult<(), Status> {
    if blas.handles.contains(&(handle as u64)) {
        return Ok(());
    }
    let why = format_args!("{what}: there is no handle {handle:?}, or it is destroyed");
    refuse(Status::CUBLAS_STATUS_NOT_INITIALIZED, why)
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cublasLtMatmulAlgoGetHeuristic(
    handle: cublasLtHandle_t,
    descriptor: cublasLtMatmulDesc_t,
    a: cublasLtMatrixLayout_t,
    b: cublasLtMatrixLayout_t,
    c: cublasLtMatrixLayout_t,
    d: cublasLtMatrixLayout_t,
    preference: cublasLtMatmulPreference_t,
    requested: c_int,
    results: *mut cublasLtMatmulHeuristicResult_t,
    returned: *mut c_int,
) -> Status {
    let what = "cublasLtMatmulAlgoGetHeuristic";
    enter(what, |machine| {
        check_handle(&machine.blas, what, handle)?;
        if requested < 1 || results.is_null() || returned.is_null() {
            let why =
                format_args!("{what}: {requested} algorithms are asked for, or there is no place for them");
            return refuse(Status::CUBLAS_STATUS_INVALID_VALUE, why);
        }
        // SAFETY: not null, and valid by the client's promise.
        unsafe { returned.write(0) };
        let (_, shape) = shape(&mut machine.blas, what, descriptor, [a, b, c, d])?;
        let preference = *find(&mut machine.blas.preferences, what, preference as u64)?;
        for (name, (alignment, layout)) in
            ["A", "B", "C", "D"].iter().zip(preference.alignments.iter().zip(shape.layouts))
        {
            if !alignment.is_power_of_two() || u64::from(*alignment) < layout.dtype.bytes() {
                let why =
                    format_args!("{what}: {name} is aligned to {alignment} bytes, less than an element");
                return refuse(Status::CUBLAS_STATUS_NOT_SUPPORTED, why);
            }
        }
        let count = ALGORITHMS_MAX.min(requested as usize);
        for (index, algorithm) in Algorithm::offered(&shape, &preference).iter().take(count).enumerate() {
            let result = cublasLtMatmulHeuristicResult_t {
                algo: algorithm.encode(),
                workspaceSize: algorithm.workspace_bytes as usize,
                state: Status::CUBLAS_STATUS_SUCCESS,
                wavesCount: 1.0,
                reserved: [0; 4],
            };
            // SAFETY: the client's array has `requested` places.
            unsafe { results.add(index).write(result) };
        }
        // SAFETY: as above.
        unsafe { returned.write(count as c_int) };
        Ok(())
    })
}

/// The addresses of a call.
struct Operands {
    matrices: [u64; 4],
    workspace: u64,
    workspace_bytes: u64,
}

impl Operands {
    /// Returns the reason why `algorithm` cannot run on these addresses, if any.
    fn refusal(&self, algorithm: &Algorithm, shape: &Shape, descriptor: &Descriptor) -> Option<String> {
        if algorithm.fingerprint != shape.fingerprint() {
            return Some("the algorithm was chosen for another GEMM".into());
        }
        for ((name, address), alignment) in
            ["A", "B", "C", "D"].iter().zip(self.matrices).zip(algorithm.alignments)
        {
            if address == 0 {
                return Some(format!("{name} is null"));
            }
            if address % u64::from(alignment) != 0 {
                return Some(format!(
                    "{name} at {address:#x} is not aligned to {alignment} bytes, as the choice of the algorithm was told"
                ));
            }
        }
        let [_, _, c, d] = shape.layouts;
        if self.matrices[2] == self.matrices[3] && c != d {
            return Some("C and D are the same memory with different layouts".into());
        }
        // Required whatever alignments the algorithm was chosen for.
        let misaligned = descriptor.bias == 0 || !descriptor.bias.is_multiple_of(BIAS_ALIGNMENT);
        if descriptor.has_bias && misaligned {
            let bias = descriptor.bias;
            return Some(format!(
                "the epilogue adds a bias, which is at {bias:#x}, not aligned to {BIAS_ALIGNMENT} bytes"
            ));
        }
        if self.workspace_bytes > 0 && self.workspace == 0 {
            return Some(format!("the workspace of {} bytes is null", self.workspace_bytes));
        }
        if !self.workspace.is_multiple_of(WORKSPACE_ALIGNMENT) {
            return Some(format!(
                "the workspace at {:#x} is not aligned to {WORKSPACE_ALIGNMENT} bytes",
                self.workspace
            ));
        }
        if algorithm.workspace_bytes > self.workspace_bytes {
            return Some(format!(
                "the algorithm needs a workspace of {} bytes; it is given {}",
                algorithm.workspace_bytes, self.workspace_bytes
            ));
        }
        None
    }
}

fn gemm(shape: &Shape, descriptor: &Descriptor, addresses: [u64; 4], [alpha, beta]: [f32; 2]) -> Gemm {
    let matrix = |index: usize| {
        let Layout { dtype, rows, columns, leading, batch_stride, .. } = shape.layouts[index];
        Matrix {
            address: addresses[index],
            dtype,
            rows: rows as usize,
            columns: columns as usize,
            leading: leading as usize,
            batch_stride,
        }
    };
    let d = matrix(3);
    let bias = Bias { address: descriptor.bias, dtype: d.dtype, batch_stride: descriptor.bias_batch_stride };
    Gemm {
        a: matrix(0),
        b: matrix(1),
        c: matrix(2),
        d,
        transposed: shape.transposed,
        batch: shape.layouts[0].batch_count as usize,
        alpha,
        beta,
        bias: descriptor.has_bias.then_some(bias),
    }
}

#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments)]
pub unsafe extern "C" fn cublasLtMatmul(
    handle: cublasLtHandle_t,
    descriptor: cublasLtMatmulDesc_t,
    alpha: *const c_void,
    a: *const c_void,
    a_layout: cublasLtMatrixLayout_t,
    b: *const c_void,
    b_layout: cublasLtMatrixLayout_t,
    beta: *const c_void,
    c: *const c_void,
    c_layout: cublasLtMatrixLayout_t,
    d: *mut c_void,
    d_layout: cublasLtMatrixLayout_t,
    algorithm: *const cublasLtMatmulAlgo_t,
    workspace: *mut c_void,
    workspace_bytes: usize,
    stream: cudaStream_t,
) -> Status {
    let what = "cublasLtMatmul";
    enter(what, |machine| {
        check_handle(&machine.blas, what, handle)?;
        let layouts = [a_layout, b_layout, c_layout, d_layout];
        let (descriptor, shape) = shape(&mut machine.blas, what, descriptor, layouts)?;
        let invalid = Status::CUBLAS_STATUS_INVALID_VALUE;
        if alpha.is_null() || beta.is_null() {
            return refuse(invalid, format_args!("{what}: alpha or beta is null"));
        }
        // SAFETY: f32, as the scale type says; not null.
        let scalars = unsafe { [alpha, beta].map(|scalar| scalar.cast::<f32>().read_unaligned()) };
        // SAFETY: null, or an algorithm by the client's promise.
        let Some(algorithm) = (unsafe { algorithm.as_ref() }).and_then(Algorithm::decode) else {
            return refuse(
                invalid,
                format_args!("{what}: the algorithm is not one that the heuristic returned"),
            );
        };
        let operands = Operands {
            matrices: [a as u64, b as u64, c as u64, d as u64],
            workspace: workspace as u64,
            workspace_bytes: workspace_bytes as u64,
        };
        if let Some(why) = operands.refusal(&algorithm, &shape, &descriptor) {
            return refuse(invalid, format_args!("{what}: {why}"));
        }
        let gemm = gemm(&shape, &descriptor, operands.matrices, scalars);
        if gemm.overlaps() {
            return refuse(invalid, format_args!("{what}: {gemm} writes over a factor"));
        }
        let scratch = (algorithm.workspace_bytes > 0).then(|| Scratch {
            address: operands.workspace,
            bytes: algorithm.workspace_bytes,
            mark: new_handle(),
        });
        let failed = |_| Status::CUBLAS_STATUS_EXECUTION_FAILED;
        let context = machine.current().map_err(failed)?;
        if let Some(scratch) = scratch {
            context.submit(what, stream as u64, Work::Mark(scratch)).map_err(failed)?;
        }
        log(format_args!("{what}: {gemm} by algorithm {}", algorithm.index));
        let work = Work::Gemm { gemm: Box::new(gemm), scratch };
        context.submit(what, stream as u64, work).map_err(failed)?;
        Ok(())
    })
}
