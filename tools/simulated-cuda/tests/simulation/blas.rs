//! cuBLASLt: GEMMs compared with a plain loop in f64, and refused calls.

use std::ffi::c_void;

use cudarc::cublaslt::result as blas;
use cudarc::cublaslt::sys::{
    self, cublasLtMatmulAlgo_t, cublasLtMatmulDescAttributes_t as DescriptorAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute,
    cublasLtMatrixLayoutAttribute_t as LayoutAttribute, cublasStatus_t as Status, cublasStatus_t::*,
    cudaDataType,
};
use cudarc::driver::result;
use cudarc::driver::sys::{CUdeviceptr, CUgraphInstantiate_flags, CUstream, CUstreamCaptureMode};
use half::{bf16, f16};

use crate::client::Gpu;
use crate::process::simulate;

const WORKSPACE: usize = 1 << 20;

/// A column-major GEMM; every matrix has a gap of `gap` elements after each column.
#[derive(Clone, Copy)]
struct Case {
    sizes: [usize; 3],
    transposed: [bool; 2],
    types: [cudaDataType; 2],
    gap: usize,
    batch: usize,
    bias: bool,
    scalars: [f32; 2],
}

impl Case {
    /// Stored rows and columns of the two factors and the result.
    fn shapes(&self) -> [[usize; 2]; 3] {
        let [m, n, k] = self.sizes;
        let flip =
            |[rows, columns]: [usize; 2], flipped| if flipped { [columns, rows] } else { [rows, columns] };
        [flip([m, k], self.transposed[0]), flip([k, n], self.transposed[1]), [m, n]]
    }

    /// Elements of a whole batch.
    fn lengths(&self) -> [usize; 3] {
        self.shapes().map(|[rows, columns]| (rows + self.gap) * columns * self.batch)
    }
}

fn values(seed: u64, count: usize) -> Vec<f32> {
    let sample = |index: usize| {
        let word = retromae::random::philox([seed as u32, 0], [index as u32, 0, 0, 0])[0];
        // Few bits, so that 16-bit types represent it exactly.
        (word % 33) as f32 / 8.0 - 2.0
    };
    (0..count).map(sample).collect()
}

fn encode(dtype: cudaDataType, values: &[f32]) -> Vec<u8> {
    let bytes = |value: &f32| match dtype {
        cudaDataType::CUDA_R_32F => value.to_le_bytes().to_vec(),
        cudaDataType::CUDA_R_16F => f16::from_f32(*value).to_le_bytes().to_vec(),
        _ => bf16::from_f32(*value).to_le_bytes().to_vec(),
    };
    values.iter().flat_map(bytes).collect()
}

fn decode(dtype: cudaDataType, bytes: &[u8]) -> Vec<f32> {
    let half = |pair: &[u8]| [pair[0], pair[1]];
    match dtype {
        cudaDataType::CUDA_R_32F => {
            bytes.chunks(4).map(|word| f32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
        }
        cudaDataType::CUDA_R_16F => {
            bytes.chunks(2).map(|pair| f16::from_le_bytes(half(pair)).to_f32()).collect()
        }
        _ => bytes.chunks(2).map(|pair| bf16::from_le_bytes(half(pair)).to_f32()).collect(),
    }
}

/// A GEMM with everything that a call needs.
struct Gemm {
    handle: sys::cublasLtHandle_t,
    descriptor: sys::cublasLtMatmulDesc_t,
    layouts: [sys::cublasLtMatrixLayout_t; 3],
    matrices: [CUdeviceptr; 3],
    workspace: CUdeviceptr,
    scalars: [f32; 2],
}

fn set_descriptor<T>(descriptor: sys::cublasLtMatmulDesc_t, attribute: DescriptorAttribute, value: T) {
    let address = (&raw const value).cast();
    // SAFETY: the callers pass what the attribute is.
    unsafe { blas::set_matmul_desc_attribute(descriptor, attribute, address, size_of::<T>()) }.unwrap();
}

impl Gemm {
    fn new(gpu: &Gpu, case: &Case, data: &[Vec<f32>; 3], bias: &[f32]) -> Self {
        let [input, output] = case.types;
        let types = [input, input, output];
        let layout = |index: usize| {
            let [rows, columns] = case.shapes()[index];
            let leading = rows + case.gap;
            let layout =
                blas::create_matrix_layout(types[index], rows as u64, columns as u64, leading as i64)
                    .unwrap();
            let (count, stride) = (case.batch as i32, (leading * columns) as i64);
            // SAFETY: 32 and 64 bits, as documented.
            unsafe {
                let count_attribute = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT;
                blas::set_matrix_layout_attribute(layout, count_attribute, (&raw const count).cast(), 4)
                    .unwrap();
                let attribute = LayoutAttribute::CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET;
                blas::set_matrix_layout_attribute(layout, attribute, (&raw const stride).cast(), 8).unwrap();
            }
            layout
        };
        let descriptor =
            blas::create_matmul_desc(sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, cudaDataType::CUDA_R_32F)
                .unwrap();
        let [a, b] = case.transposed.map(i32::from);
        set_descriptor(descriptor, DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSA, a);
        set_descriptor(descriptor, DescriptorAttribute::CUBLASLT_MATMUL_DESC_TRANSB, b);
        if case.bias {
            let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS;
            set_descriptor(descriptor, DescriptorAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue as u32);
            let address = gpu.upload(&encode(output, bias));
            set_descriptor(descriptor, DescriptorAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address);
        }
        Self {
            handle: blas::create_handle().unwrap(),
            descriptor,
            layouts: std::array::from_fn(layout),
            matrices: std::array::from_fn(|index| gpu.upload(&encode(types[index], &data[index]))),
            workspace: gpu.allocate(WORKSPACE),
            scalars: case.scalars,
        }
    }

    /// Returns the algorithms for pointers of this alignment, or the status if there are none.
    fn algorithms(&self, requested: i32, alignment: u32) -> Result<Vec<cublasLtMatmulAlgo_t>, Status> {
        let preference = blas::create_matmul_pref().unwrap();
        let [a, b, c] = self.layouts;
        let mut count = 0;
        // SAFETY: all descriptions are alive; zeros are valid results.
        unsafe {
            let attribute = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
            let bytes = (&raw const WORKSPACE_BYTES).cast();
            blas::set_matmul_pref_attribute(preference, attribute, bytes, 8).unwrap();
            for attribute in [
                PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES,
                PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
                PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
                PreferenceAttribute::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES,
            ] {
                blas::set_matmul_pref_attribute(preference, attribute, (&raw const alignment).cast(), 4)
                    .unwrap();
            }
            let mut found: [sys::cublasLtMatmulHeuristicResult_t; 8] = std::mem::zeroed();
            let status = sys::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                self.descriptor,
                a,
                b,
                c,
                c,
                preference,
                requested,
                found.as_mut_ptr(),
                &raw mut count,
            );
            blas::destroy_matmul_pref(preference).unwrap();
            if status != CUBLAS_STATUS_SUCCESS {
                return Err(status);
            }
            Ok(found[..count as usize].iter().map(|found| found.algo).collect())
        }
    }

    fn multiply(&self, algorithm: &cublasLtMatmulAlgo_t, stream: CUstream) -> Status {
        let pointer = |address: CUdeviceptr| address as *mut c_void;
        let [a, b, c] = self.matrices;
        let [alpha, beta] = self.scalars;
        // SAFETY: all is alive.
        let done = unsafe {
            blas::matmul(
                self.handle,
                self.descriptor,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                pointer(a),
                self.layouts[0],
                pointer(b),
                self.layouts[1],
                pointer(c),
                self.layouts[2],
                pointer(c),
                self.layouts[2],
                algorithm,
                pointer(self.workspace),
                WORKSPACE,
                stream.cast(),
            )
        };
        done.map_or_else(|error| error.0, |()| CUBLAS_STATUS_SUCCESS)
    }
}

static WORKSPACE_BYTES: u64 = WORKSPACE as u64;

/// Computes the expected result, gaps included.
fn expected(case: &Case, data: &[Vec<f32>; 3], bias: &[f32]) -> Vec<f64> {
    let [m, n, k] = case.sizes;
    let shapes = case.shapes();
    let at = |matrix: usize, batch: usize, row: usize, column: usize| {
        let [rows, columns] = shapes[matrix];
        let leading = rows + case.gap;
        (batch * columns + column) * leading + row
    };
    let read = |matrix: usize, batch, row, column| {
        let (row, column) = if case.transposed[matrix] { (column, row) } else { (row, column) };
        f64::from(data[matrix][at(matrix, batch, row, column)])
    };
    let mut result: Vec<f64> = data[2].iter().copied().map(f64::from).collect();
    let [alpha, beta] = case.scalars.map(f64::from);
    for batch in 0..case.batch {
        for column in 0..n {
            for (row, bias) in bias.iter().enumerate().take(m) {
                let sum: f64 =
                    (0..k).map(|inner| read(0, batch, row, inner) * read(1, batch, inner, column)).sum();
                let element = &mut result[at(2, batch, row, column)];
                let bias = if case.bias { f64::from(*bias) } else { 0.0 };
                *element = alpha * sum + beta * *element + bias;
            }
        }
    }
    result
}

fn inputs(case: &Case) -> ([Vec<f32>; 3], Vec<f32>) {
    let lengths = case.lengths();
    (std::array::from_fn(|index| values(index as u64, lengths[index])), values(3, case.sizes[0]))
}

const CASE: Case = Case {
    sizes: [17, 9, 33],
    transposed: [false; 2],
    types: [cudaDataType::CUDA_R_32F; 2],
    gap: 3,
    batch: 1,
    bias: false,
    scalars: [1.0, 0.0],
};

fn cases() -> Vec<Case> {
    const F32: cudaDataType = cudaDataType::CUDA_R_32F;
    const F16: cudaDataType = cudaDataType::CUDA_R_16F;
    const BF16: cudaDataType = cudaDataType::CUDA_R_16BF;
    let mut all = Vec::new();
    for types in [[F32, F32], [BF16, BF16], [BF16, F32], [F16, F16], [F16, F32]] {
        for transposed in [[false, false], [true, false], [false, true], [true, true]] {
            all.push(Case { types, transposed, ..CASE });
            let scalars = [0.5, 1.0];
            all.push(Case { types, transposed, batch: 3, bias: true, scalars, ..CASE });
        }
    }
    all.push(Case { sizes: [1, 1, 1], gap: 0, ..CASE });
    all
}

#[test]
fn products_are_those_of_a_plain_loop() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        for case in cases() {
            let (data, bias) = inputs(&case);
            let exact = expected(&case, &data, &bias);
            for index in 0..3 {
                let gemm = Gemm::new(&gpu, &case, &data, &bias);
                let algorithms = gemm.algorithms(8, 256).unwrap();
                assert_eq!(algorithms.len(), 3);
                assert_eq!(gemm.multiply(&algorithms[index], stream), CUBLAS_STATUS_SUCCESS);
                let bytes = encode(case.types[1], &data[2]).len();
                let actual = decode(case.types[1], &gpu.download::<u8>(gemm.matrices[2], bytes, stream));
                let epsilon = match case.types[1] {
                    cudaDataType::CUDA_R_32F => 1e-5,
                    cudaDataType::CUDA_R_16F => 1e-3,
                    _ => 8e-3,
                };
                for (actual, exact) in actual.iter().zip(&exact) {
                    let error = (f64::from(*actual) - exact).abs();
                    assert!(error <= epsilon * (1.0 + exact.abs()), "{actual} instead of {exact}");
                }
            }
        }
    });
}

#[test]
fn unfit_products_are_refused() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let (data, bias) = inputs(&CASE);
        let mut gemm = Gemm::new(&gpu, &CASE, &data, &bias);
        assert_eq!(gemm.algorithms(2, 16).unwrap().len(), 2);
        assert_eq!(gemm.algorithms(0, 16).unwrap_err(), CUBLAS_STATUS_INVALID_VALUE);
        assert_eq!(gemm.algorithms(1, 2).unwrap_err(), CUBLAS_STATUS_NOT_SUPPORTED);
        let algorithms = gemm.algorithms(3, 16).unwrap();
        assert!(algorithms[0] != algorithms[1] && algorithms[1] != algorithms[2]);

        let mut foreign = algorithms[0];
        foreign.data[1] += 1;
        assert_eq!(gemm.multiply(&foreign, stream), CUBLAS_STATUS_INVALID_VALUE);
        gemm.matrices[2] += 8;
        assert_eq!(gemm.multiply(&algorithms[0], stream), CUBLAS_STATUS_INVALID_VALUE);
        gemm.matrices[2] -= 8;
        let workspace = std::mem::take(&mut gemm.workspace);
        assert_eq!(gemm.multiply(&algorithms[1], stream), CUBLAS_STATUS_INVALID_VALUE);
        gemm.workspace = workspace;
        let [factor, _, result] = gemm.matrices;
        gemm.matrices[2] = factor;
        assert_eq!(gemm.multiply(&algorithms[0], stream), CUBLAS_STATUS_INVALID_VALUE);
        gemm.matrices[2] = result;

        let epilogue = sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS as u32;
        set_descriptor(gemm.descriptor, DescriptorAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
        let with_bias = gemm.algorithms(1, 16).unwrap();
        assert_eq!(gemm.multiply(&with_bias[0], stream), CUBLAS_STATUS_INVALID_VALUE);
        let address = gpu.upload(&encode(CASE.types[1], &bias));
        let set_bias = |address: CUdeviceptr| {
            set_descriptor(gemm.descriptor, DescriptorAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, address);
        };
        set_bias(address);
        assert_eq!(gemm.multiply(&with_bias[0], stream), CUBLAS_STATUS_SUCCESS);
        set_bias(address + 8);
        assert_eq!(gemm.multiply(&with_bias[0], stream), CUBLAS_STATUS_INVALID_VALUE);

        for (rows, columns, leading) in [(17, 0, 20), (17, 9, 16), (18, 9, 20)] {
            let layout =
                blas::create_matrix_layout(cudaDataType::CUDA_R_32F, rows, columns, leading).unwrap();
            gemm.layouts[2] = layout;
            assert_eq!(gemm.algorithms(1, 16).unwrap_err(), CUBLAS_STATUS_NOT_SUPPORTED);
        }
    });
}

/// GEMMs with an inner dimension of 1, or with one row, are refused with the bias epilogue and computed without it.
#[test]
fn thin_products_have_no_bias_epilogue() {
    simulate(&[], || {
        let gpu = Gpu::open();
        for sizes in [[1, 9, 7], [17, 9, 1], [17, 1, 7]] {
            let case = Case { sizes, ..CASE };
            let (data, bias) = inputs(&case);
            assert!(Gemm::new(&gpu, &case, &data, &bias).algorithms(1, 16).is_ok());
            let with_bias = Gemm::new(&gpu, &Case { bias: true, ..case }, &data, &bias);
            let refused = with_bias.algorithms(1, 16).is_err();
            assert_eq!(refused, sizes[0] == 1 || sizes[2] == 1, "{sizes:?}");
        }
    });
}

#[test]
fn a_product_may_be_captured() {
    simulate(&[], || {
        let gpu = Gpu::open();
        let stream = gpu.stream();
        let (data, bias) = inputs(&CASE);
        let gemm = Gemm::new(&gpu, &CASE, &data, &bias);
        let algorithms = gemm.algorithms(1, 256).unwrap();
        // SAFETY: all is alive.
        let executable = unsafe {
            let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL;
            result::stream::begin_capture(stream, mode).unwrap();
            assert_eq!(gemm.multiply(&algorithms[0], stream), CUBLAS_STATUS_SUCCESS);
            let graph = result::stream::end_capture(stream).unwrap();
            result::graph::instantiate(graph, CUgraphInstantiate_flags(0)).unwrap()
        };
        let read = || gpu.download::<f32>(gemm.matrices[2], data[2].len(), stream);
        assert_eq!(read(), data[2]);
        // SAFETY: all is alive.
        unsafe { result::graph::launch(executable, stream) }.unwrap();
        let exact = expected(&CASE, &data, &bias);
        assert!(read().iter().zip(&exact).all(|(actual, exact)| (f64::from(*actual) - exact).abs() < 1e-3));
    });
}

/// Two streams must not share a workspace: with some seed one GEMM overwrites the other's.
#[test]
fn a_shared_workspace_shows_with_some_seed() {
    let mut spoiled = 0;
    for seed in ["1", "2", "3", "4", "5", "6"] {
        let written = simulate(&[("SIMULATED_CUDA_SEED", seed)], || {
            let gpu = Gpu::open();
            let (data, bias) = inputs(&CASE);
            let gemms = [(); 2].map(|()| Gemm::new(&gpu, &CASE, &data, &bias));
            let algorithm = gemms[0].algorithms(1, 256).unwrap()[0];
            let run = |workspaces: [CUdeviceptr; 2]| {
                for (gemm, workspace) in gemms.iter().zip(workspaces) {
                    let gemm = Gemm { workspace, ..*gemm };
                    assert_eq!(gemm.multiply(&algorithm, gpu.stream()), CUBLAS_STATUS_SUCCESS);
                }
                result::ctx::synchronize().unwrap();
                let first = |gemm: &Gemm| gpu.download::<f32>(gemm.matrices[2], 1, result::stream::null())[0];
                gemms.iter().any(|gemm| first(gemm).is_nan())
            };
            assert!(!run([gemms[0].workspace, gemms[1].workspace]));
            println!("spoiled: {}", run([gemms[0].workspace; 2]));
        });
        let Some(written) = written else { return };
        spoiled += usize::from(written.stdout.contains("spoiled: true"));
    }
    assert!((1..=6).contains(&spoiled), "spoiled with {spoiled} of 6 seeds");
}

#[test]
fn the_library_may_refuse_to_start() {
    simulate(&[("SIMULATED_CUDA_FAULT", "no-blas")], || {
        Gpu::enter();
        assert_eq!(blas::create_handle().unwrap_err().0, CUBLAS_STATUS_NOT_INITIALIZED);
    });
}
