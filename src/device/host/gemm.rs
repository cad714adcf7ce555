//! Matrix products of the host device, by the `gemm` crate.

use half::bf16;
use half::slice::HalfFloatSliceExt;
use rayon::prelude::*;

use super::super::{DType, Gemm, Layout};

/// # Safety
/// The three matrices are valid for their shapes, and `c` overlaps neither operand.
pub(super) unsafe fn run(product: &Gemm) {
    let (a_rows, a_columns) = stored_shape(product.a_layout, product.m, product.k);
    let (b_rows, b_columns) = stored_shape(product.b_layout, product.k, product.n);
    // SAFETY: the operands are valid for their shapes.
    let a = unsafe { Operand::new(product.a, a_rows, a_columns, product.a_stride, product.input) };
    // SAFETY: as above.
    let b = unsafe { Operand::new(product.b, b_rows, b_columns, product.b_stride, product.input) };
    if product.output == DType::F32 {
        // SAFETY: `c` is a valid f32 matrix.
        unsafe { multiply(product, &a, &b, product.c as *mut f32, product.c_stride, product.accumulate) };
        return;
    }
    let mut result = vec![0.0f32; product.m * product.n];
    // SAFETY: `result` has m·n elements.
    unsafe { multiply(product, &a, &b, result.as_mut_ptr(), product.n, false) };
    for (row, values) in result.chunks_exact(product.n).enumerate() {
        let start = product.c as usize + row * product.c_stride * size_of::<bf16>();
        // SAFETY: `c` is a valid bf16 matrix with this row stride.
        let output = unsafe { std::slice::from_raw_parts_mut(start as *mut bf16, product.n) };
        for (output, &value) in output.iter_mut().zip(values) {
            *output = bf16::from_f32(if product.accumulate { output.to_f32() + value } else { value });
        }
    }
}

fn stored_shape(layout: Layout, rows: usize, columns: usize) -> (usize, usize) {
    match layout {
        Layout::Normal => (rows, columns),
        Layout::Transposed => (columns, rows),
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
            let start = address as usize + row * stride * size_of::<bf16>();
            // SAFETY: a row of the caller's matrix.
            let source = unsafe { std::slice::from_raw_parts(start as *const bf16, columns) };
            source.convert_to_f32_slice(values);
        });
        Self { pointer: copy.as_ptr(), stride: columns, _copy: copy }
    }

    /// Strides between columns and rows of `op(operand)`.
    fn strides(&self, layout: Layout) -> (isize, isize) {
        match layout {
            Layout::Normal => (1, self.stride as isize),
            Layout::Transposed => (self.stride as isize, 1),
        }
    }
}

/// # Safety
/// The operands and `c` are valid for the shapes of `product`.
unsafe fn multiply(product: &Gemm, a: &Operand, b: &Operand, c: *mut f32, c_stride: usize, accumulate: bool) {
    let (a_column, a_row) = a.strides(product.a_layout);
    let (b_column, b_row) = b.strides(product.b_layout);
    // SAFETY: passed on to the caller.
    unsafe {
        gemm::gemm(
            product.m,
            product.n,
            product.k,
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
            gemm::Parallelism::Rayon(0),
        );
    }
}
