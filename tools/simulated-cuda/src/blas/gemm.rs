//! One GEMM: `d = alpha · op(a) · op(b) + beta · c + bias`, column-major, accumulated in f32.

use std::fmt;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::machine::Memory;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Type {
    F32,
    F16,
    Bf16,
}

impl Type {
    /// Converts a `cudaDataType`.
    pub(super) fn of(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::F32),
            2 => Some(Self::F16),
            14 => Some(Self::Bf16),
            _ => None,
        }
    }

    pub(super) fn bytes(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// # Safety
    /// `address` is an aligned element of this type.
    unsafe fn read(self, address: u64) -> f32 {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::F32 => *(address as *const f32),
                Self::F16 => (*(address as *const f16)).to_f32(),
                Self::Bf16 => (*(address as *const bf16)).to_f32(),
            }
        }
    }

    /// # Safety
    /// As [`read`](Self::read), and nothing else uses the element.
    unsafe fn write(self, address: u64, value: f32) {
        // SAFETY: passed on to the caller.
        unsafe {
            match self {
                Self::F32 => *(address as *mut f32) = value,
                Self::F16 => *(address as *mut f16) = f16::from_f32(value),
                Self::Bf16 => *(address as *mut bf16) = bf16::from_f32(value),
            }
        }
    }
}

/// A batch of column-major matrices in device memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matrix {
    pub address: u64,
    pub dtype: Type,
    pub rows: usize,
    pub columns: usize,
    /// Elements from one column to the next, and from one matrix to the next.
    pub leading: usize,
    pub batch_stride: i64,
}

impl Matrix {
    fn element(&self, batch: usize, column: usize) -> u64 {
        let offset = batch as i64 * self.batch_stride + (column * self.leading) as i64;
        self.address.wrapping_add_signed(offset * self.dtype.bytes() as i64)
    }

    /// Returns the first address and the bytes of each matrix of the batch.
    fn ranges(&self, batch: usize) -> impl Iterator<Item = (u64, u64)> {
        let elements = (self.columns - 1) * self.leading + self.rows;
        let bytes = elements as u64 * self.dtype.bytes();
        (0..batch).map(move |index| (self.element(index, 0), bytes))
    }

    /// Converts matrix `batch` to f32, without gaps between columns.
    ///
    /// # Safety
    /// The matrix is valid.
    unsafe fn widen(&self, batch: usize) -> Vec<f32> {
        let mut values = vec![0.0f32; self.rows * self.columns];
        values.par_chunks_mut(self.rows).enumerate().for_each(|(column, values)| {
            let start = self.element(batch, column);
            // SAFETY: a column of a valid matrix, whose address was checked to be aligned.
            unsafe {
                match self.dtype {
                    Type::F32 => {
                        values.copy_from_slice(std::slice::from_raw_parts(start as *const f32, self.rows));
                    }
                    Type::F16 => {
                        std::slice::from_raw_parts(start as *const f16, self.rows)
                            .convert_to_f32_slice(values);
                    }
                    Type::Bf16 => {
                        std::slice::from_raw_parts(start as *const bf16, self.rows)
                            .convert_to_f32_slice(values);
                    }
                }
            }
        });
        values
    }
}

/// A bias with one value for each row of the result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bias {
    pub address: u64,
    pub dtype: Type,
    pub batch_stride: i64,
}

/// A GEMM with all arguments of the call. The matrices have at least one row and column.
#[derive(Clone, Debug)]
pub(crate) struct Gemm {
    pub(super) a: Matrix,
    pub(super) b: Matrix,
    pub(super) c: Matrix,
    pub(super) d: Matrix,
    pub(super) transposed: [bool; 2],
    pub(super) batch: usize,
    pub(super) alpha: f32,
    pub(super) beta: f32,
    pub(super) bias: Option<Bias>,
}

impl fmt::Display for Gemm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { d, batch, .. } = self;
        write!(
            formatter,
            "{batch} GEMMs [{}, {}] by [{}, {}] ({:?} to {:?})",
            d.rows,
            self.inner(),
            self.inner(),
            d.columns,
            self.a.dtype,
            d.dtype
        )
    }
}

impl Gemm {
    fn inner(&self) -> usize {
        if self.transposed[0] { self.a.rows } else { self.a.columns }
    }

    fn bias_range(&self, batch: usize) -> Option<(u64, u64)> {
        let bias = self.bias?;
        let bytes = bias.dtype.bytes();
        let offset = batch as i64 * bias.batch_stride * bytes as i64;
        Some((bias.address.wrapping_add_signed(offset), self.d.rows as u64 * bytes))
    }

    /// Checks that all operands lie in memory that may be used now.
    pub(crate) fn check_run(&self, memory: &Memory) -> Result<(), String> {
        let mut operands = vec![("a", self.a), ("b", self.b), ("d", self.d)];
        if self.beta != 0.0 {
            operands.push(("c", self.c));
        }
        for (name, matrix) in operands {
            for (address, bytes) in matrix.ranges(self.batch) {
                memory.check_run(address, bytes).map_err(|why| format!("operand {name}: {why}"))?;
            }
        }
        for (address, bytes) in (0..self.batch).filter_map(|batch| self.bias_range(batch)) {
            memory.check_run(address, bytes).map_err(|why| format!("the bias: {why}"))?;
        }
        Ok(())
    }

    /// Returns true if the result overlaps a factor.
    pub(super) fn overlaps(&self) -> bool {
        let meets = |(start, bytes): (u64, u64), (other, other_bytes): (u64, u64)| {
            start < other + other_bytes && other < start + bytes
        };
        self.d.ranges(self.batch).any(|written| {
            [self.a, self.b].iter().any(|read| read.ranges(self.batch).any(|range| meets(written, range)))
        })
    }

    /// Computes the GEMM. Unless `undisturbed`, the result is NaN, as another GEMM has overwritten the partial sums in the workspace.
    ///
    /// # Safety
    /// All operands are valid: see [`check_run`](Self::check_run).
    pub(crate) unsafe fn run(&self, undisturbed: bool) {
        let mut sums = vec![0.0f32; self.d.rows * self.d.columns];
        for batch in 0..self.batch {
            if undisturbed {
                // SAFETY: passed on to the caller.
                unsafe { self.multiply(batch, &mut sums) };
            } else {
                sums.fill(f32::NAN);
            }
            // SAFETY: as above.
            unsafe { self.finish(batch, &sums) };
        }
    }

    /// Computes `op(a) · op(b)` into `sums`, without gaps between columns.
    unsafe fn multiply(&self, batch: usize, sums: &mut [f32]) {
        // SAFETY: passed on to the caller.
        let (a, b) = unsafe { (self.a.widen(batch), self.b.widen(batch)) };
        // Strides between columns and rows of `op(matrix)`.
        let strides = |matrix: &Matrix, transposed: bool| {
            if transposed { (1, matrix.rows as isize) } else { (matrix.rows as isize, 1) }
        };
        let (a_column, a_row) = strides(&self.a, self.transposed[0]);
        let (b_column, b_row) = strides(&self.b, self.transposed[1]);
        // SAFETY: the copies have the shapes that the strides say.
        unsafe {
            gemm::gemm(
                self.d.rows,
                self.d.columns,
                self.inner(),
                sums.as_mut_ptr(),
                self.d.rows as isize,
                1,
                false,
                a.as_ptr(),
                a_column,
                a_row,
                b.as_ptr(),
                b_column,
                b_row,
                0.0f32,
                1.0f32,
                false,
                false,
                false,
                gemm::Parallelism::Rayon(0),
            );
        }
    }

    /// Scales, adds `c` and the bias, rounds once and stores.
    unsafe fn finish(&self, batch: usize, sums: &[f32]) {
        let bias: Option<Vec<f32>> = self.bias_range(batch).map(|(start, _)| {
            let dtype = self.bias.expect("has a range").dtype;
            // SAFETY: passed on to the caller.
            (0..self.d.rows as u64).map(|row| unsafe { dtype.read(start + row * dtype.bytes()) }).collect()
        });
        sums.par_chunks(self.d.rows).enumerate().for_each(|(column, values)| {
            let (c, d) = (self.c.element(batch, column), self.d.element(batch, column));
            let (c_bytes, d_bytes) = (self.c.dtype.bytes(), self.d.dtype.bytes());
            for (row, value) in values.iter().enumerate() {
                let mut sum = self.alpha * value;
                // SAFETY: an element of a valid matrix; columns of the result do not overlap.
                unsafe {
                    if self.beta != 0.0 {
                        sum += self.beta * self.c.dtype.read(c + row as u64 * c_bytes);
                    }
                    if let Some(bias) = &bias {
                        sum += bias[row];
                    }
                    self.d.dtype.write(d + row as u64 * d_bytes, sum);
                }
            }
        });
    }
}
