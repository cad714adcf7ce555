//! What a framework does without fused kernels, in plain Rust: one pass over memory for each elementary operation, whole score and logit
//! matrices, products by the `gemm` crate, rayon over (sentence, head) or rows.
//!
//! Rust code is compiled for the target's baseline instruction set unless `RUSTFLAGS="-C target-cpu=native"` says otherwise; the products
//! choose theirs at run time.
#![allow(dead_code)]

pub mod adamw;
pub mod attention;
pub mod bag_of_words;
pub mod cross_entropy;
pub mod embedding;
pub mod layer_norm;
pub mod step;

/// A row-major matrix, or the transpose of one.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    values: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// `values.len() / columns` rows.
    pub fn new(values: &'a [f32], columns: usize) -> Self {
        assert!(values.len().is_multiple_of(columns));
        Self { values, rows: values.len() / columns, columns, row_stride: columns, column_stride: 1 }
    }

    pub fn transposed(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// Where a product runs: within one task of a parallel loop, or over all threads.
#[derive(Clone, Copy)]
pub enum Threads {
    One,
    All,
}

/// `output = left · right`, row-major.
pub fn product(output: &mut [f32], left: Matrix<'_>, right: Matrix<'_>, threads: Threads) {
    assert_eq!(left.columns, right.rows);
    assert_eq!(output.len(), left.rows * right.columns);
    let parallelism = match threads {
        Threads::One => gemm::Parallelism::None,
        Threads::All => gemm::Parallelism::Rayon(0),
    };
    // SAFETY: the matrices cover exactly their slices, and the output is exclusive.
    unsafe {
        gemm::gemm(
            left.rows,
            right.columns,
            left.columns,
            output.as_mut_ptr(),
            1,
            right.columns as isize,
            false,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            0.0,
            1.0,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// `Σ left[i] · right[i]` in eight lanes, which the compiler turns into vector instructions.
pub fn dot(left: &[f32], right: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let (left, right) = (left.chunks_exact(8), right.chunks_exact(8));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(l, r)| l * r).sum();
    for (left, right) in left.zip(right) {
        for (lane, (l, r)) in lanes.iter_mut().zip(left.iter().zip(right)) {
            *lane += l * r;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// As [`dot`], of one operand.
pub fn sum(values: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 8];
    let chunks = values.chunks_exact(8);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += value;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// As [`dot`], the largest value.
pub fn maximum(values: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 8];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, f32::max);
    for chunk in chunks {
        for (lane, &value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(value);
        }
    }
    lanes.into_iter().fold(rest, f32::max)
}

/// Column sums of a row-major matrix, added to `output`; each task sums up a share of the rows.
pub fn add_column_sums(output: &mut [f32], values: &[f32]) {
    use rayon::prelude::*;
    let columns = output.len();
    let rows_per_task = (values.len() / columns).div_ceil(rayon::current_num_threads()).max(1);
    let partials: Vec<Vec<f32>> = values
        .par_chunks(rows_per_task * columns)
        .map(|rows| {
            let mut sums = vec![0.0f32; columns];
            for row in rows.chunks_exact(columns) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
            }
            sums
        })
        .collect();
    for partial in partials {
        output.iter_mut().zip(partial).for_each(|(sum, value)| *sum += value);
    }
}
