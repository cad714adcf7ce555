//! GEMMs of the CPU emulator, by the `gemm` crate.
//!
//! The crate multiplies in f32. 16-bit operands are widened, and a 16-bit output is computed in f32 and rounded at the end, so that the result
//! and its addend are rounded together, once.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::device::{BatchStrides, DType, Gemm};

/// Multiplications in a GEMM that keeps all cores busy; smaller ones of a batch get one core each.
const LARGE_GEMM: usize = 1 << 22;

/// # Safety
/// The matrices of every GEMM are valid for their shapes, and no `c` overlaps an operand, the bias or another `c`.
pub(super) unsafe fn run(gemm: &Gemm) {
    if gemm.m == 0 || gemm.n == 0 {
        return;
    }
    let multiplications = gemm.m.saturating_mul(gemm.n).saturating_mul(gemm.k);
    if gemm.batch.count == 1 || multiplications >= LARGE_GEMM {
        for index in 0..gemm.batch.count {
            // SAFETY: passed on to the caller.
            unsafe { run_one(&nth(gemm, index), gemm::Parallelism::Rayon(0)) };
        }
    } else {
        (0..gemm.batch.count).into_par_iter().for_each(|index| {
            // SAFETY: passed on to the caller; the outputs are disjoint.
            unsafe { run_one(&nth(gemm, index), gemm::Parallelism::None) };
        });
    }
}

/// GEMM number `index` of a batch.
fn nth(gemm: &Gemm, index: usize) -> Gemm {
    let BatchStrides { a_stride, b_stride, c_stride, .. } = gemm.batch;
    let (input, output) = (gemm.input.bytes(), gemm.output.bytes());
    Gemm {
        a: gemm.a + (index * a_stride * input) as u64,
        b: gemm.b + (index * b_stride * input) as u64,
        c: gemm.c + (index * c_stride * output) as u64,
        batch: BatchStrides::ONE,
        ..*gemm
    }
}

/// # Safety
/// As [`run`], for a single one.
unsafe fn run_one(gemm: &Gemm, parallelism: gemm::Parallelism) {
    let (a_rows, a_columns) = stored_shape(gemm.a_transposed, gemm.m, gemm.k);
    let (b_rows, b_columns) = stored_shape(gemm.b_transposed, gemm.k, gemm.n);
    // SAFETY: the operands are valid for their shapes.
    let a = unsafe { Operand::new(gemm.a, a_rows, a_columns, gemm.a_stride, gemm.input) };
    // SAFETY: as above.
    let b = unsafe { Operand::new(gemm.b, b_rows, b_columns, gemm.b_stride, gemm.input) };
    // The destination holds the addend before the sum: the bias in each row, or the previous values of `c`.
    let accumulate = gemm.accumulate || gemm.bias.is_some();
    if gemm.output == DType::F32 {
        if let Some(bias) = gemm.bias {
            // SAFETY: rows of n elements, and a bias of n.
            (0..gemm.m).for_each(|index| unsafe {
                row_mut(gemm.c, index * gemm.c_stride, gemm.n).copy_from_slice(row::<f32>(bias, 0, gemm.n));
            });
        }
        // SAFETY: `c` is a valid f32 matrix.
        unsafe { multiply(gemm, &a, &b, gemm.c as *mut f32, gemm.c_stride, accumulate, parallelism) };
        return;
    }
    let mut result = vec![0.0f32; gemm.m * gemm.n];
    if accumulate {
        result.par_chunks_exact_mut(gemm.n).enumerate().for_each(|(index, values)| {
            let (address, start) = gemm.bias.map_or((gemm.c, index * gemm.c_stride), |bias| (bias, 0));
            // SAFETY: a row of `c`, or the bias: both n elements of the output type.
            unsafe { widen_row(address, start, values, gemm.output) };
        });
    }
    // SAFETY: `result` has m·n elements.
    unsafe { multiply(gemm, &a, &b, result.as_mut_ptr(), gemm.n, accumulate, parallelism) };
    result.par_chunks_exact(gemm.n).enumerate().for_each(|(index, values)| {
        // SAFETY: row `index` of `c`, which no other iteration touches.
        unsafe { round_row(values, gemm.c, index * gemm.c_stride, gemm.output) };
    });
}

fn stored_shape(transposed: bool, rows: usize, columns: usize) -> (usize, usize) {
    if transposed { (columns, rows) } else { (rows, columns) }
}

/// `length` elements from element `start` of the matrix at `address`.
///
/// # Safety
/// They are valid and of type `T`, and nobody writes them meanwhile.
unsafe fn row<'a, T>(address: u64, start: usize, length: usize) -> &'a [T] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts((address as *const T).add(start), length) }
}

/// As [`row`], to write to.
///
/// # Safety
/// As [`row`], and nobody reads them either.
unsafe fn row_mut<'a, T>(address: u64, start: usize, length: usize) -> &'a mut [T] {
    // SAFETY: passed on to the caller.
    unsafe { std::slice::from_raw_parts_mut((address as *mut T).add(start), length) }
}

/// # Safety
/// As [`row`] for as many elements as `values` has.
unsafe fn widen_row(address: u64, start: usize, values: &mut [f32], dtype: DType) {
    let length = values.len();
    // SAFETY: passed on to the caller.
    unsafe {
        match dtype {
            DType::F32 => values.copy_from_slice(row(address, start, length)),
            DType::Bf16 => row::<bf16>(address, start, length).convert_to_f32_slice(values),
            DType::F16 => row::<f16>(address, start, length).convert_to_f32_slice(values),
        }
    }
}

/// Rounds to nearest, ties to even.
///
/// # Safety
/// As [`row_mut`] for as many elements as `values` has.
unsafe fn round_row(values: &[f32], address: u64, start: usize, dtype: DType) {
    let length = values.len();
    // SAFETY: passed on to the caller.
    unsafe {
        match dtype {
            DType::F32 => row_mut(address, start, length).copy_from_slice(values),
            DType::Bf16 => row_mut::<bf16>(address, start, length).convert_from_f32_slice(values),
            DType::F16 => row_mut::<f16>(address, start, length).convert_from_f32_slice(values),
        }
    }
}

/// An operand in f32: the caller's memory, or a widened copy of it.
struct Operand {
    pointer: *const f32,
    stride: usize,
    _copy: Vec<f32>,
}

impl Operand {
    /// # Safety
    /// A valid matrix of `dtype`.
    unsafe fn new(address: u64, rows: usize, columns: usize, stride: usize, dtype: DType) -> Self {
        if dtype == DType::F32 {
            return Self { pointer: address as *const f32, stride, _copy: Vec::new() };
        }
        let mut copy = vec![0.0f32; rows * columns];
        copy.par_chunks_mut(columns.max(1)).enumerate().for_each(|(row, values)| {
            // SAFETY: a row of the caller's matrix.
            unsafe { widen_row(address, row * stride, values, dtype) };
        });
        Self { pointer: copy.as_ptr(), stride: columns, _copy: copy }
    }

    /// Strides between columns and rows of `op(operand)`.
    fn strides(&self, transposed: bool) -> (isize, isize) {
        let stride = self.stride as isize;
        if transposed { (stride, 1) } else { (1, stride) }
    }
}

/// # Safety
/// The operands and `c` are valid for the shapes of `gemm`.
unsafe fn multiply(
    gemm: &Gemm,
    a: &Operand,
    b: &Operand,
    c: *mut f32,
    c_stride: usize,
    accumulate: bool,
    parallelism: gemm::Parallelism,
) {
    let (a_column, a_row) = a.strides(gemm.a_transposed);
    let (b_column, b_row) = b.strides(gemm.b_transposed);
    // SAFETY: passed on to the caller.
    unsafe {
        gemm::gemm(
            gemm.m,
            gemm.n,
            gemm.k,
            c,
            1,
            c_stride as isize,
            accumulate,
            a.pointer,
            a_column,
            a_row,
            b.pointer,
            b_column,
            b_row,
            1.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
}
