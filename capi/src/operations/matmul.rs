//! Matmul.

use retromae::device::{DType, Float, Matrix};
use retromae::ops::matmul::{self, Addend, Factor, Matmul};

use crate::call::{Call, product, size, workspace_with_gemm};
use crate::status::{Failure, Result, Status, invalid};
use crate::sys;
use crate::types::{dtype, for_float};

type Desc = sys::rmae_matmul_desc;

fn has_flag(desc: &Desc, flag: u32) -> bool {
    desc.flags & u64::from(flag) != 0
}

/// Returns the shapes of left, right and output as they are stored, and the number of matmuls.
fn shapes(desc: &Desc) -> Result<([[usize; 2]; 3], usize)> {
    let (m, n, k) = (size("m", desc.m)?, size("n", desc.n)?, size("k", desc.k)?);
    let batch = size("batch", desc.batch)?;
    if batch == 0 {
        return invalid("batch", batch, "at least 1");
    }
    let of_batch = |field, rows, columns| product(field, rows, batch).map(|rows| [rows, columns]);
    let left_transposed = has_flag(desc, sys::RMAE_MATMUL_LEFT_TRANSPOSED);
    let left = if left_transposed { of_batch("k", k, m)? } else { of_batch("m", m, k)? };
    let right_transposed = has_flag(desc, sys::RMAE_MATMUL_RIGHT_TRANSPOSED);
    let right = if right_transposed { of_batch("n", n, k)? } else { of_batch("k", k, n)? };
    Ok(([left, right, of_batch("m", m, n)?], batch))
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    shapes(call.desc)?;
    Ok(workspace_with_gemm(call.device(), 0))
}

pub fn matmul(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => match dtype("output_dtype", call.desc.output_dtype)? {
        DType::F32 => enqueue::<T, f32>(call),
        output if output == T::DTYPE => enqueue::<T, T>(call),
        output => Err(Failure::field(
            Status::UnsupportedShape,
            "output_dtype",
            output.name(),
            format_args!("f32, or {} as dtype", T::DTYPE.name()),
        )),
    })
}

fn enqueue<T: Float, O: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let ([left, right, output], batch) = shapes(desc)?;
    let (gemm, _) = call.gemm_workspace(desc.workspace, desc.workspace_bytes)?;
    let accumulate = has_flag(desc, sys::RMAE_MATMUL_ACCUMULATE);
    let addend = match call.optional("bias", desc.bias.cast(), output[1])? {
        Some(_) if accumulate => return invalid("bias", "given", "NULL, as the output is added to"),
        Some(bias) => Addend::Bias(bias),
        None if accumulate => Addend::Output,
        None => Addend::Zero,
    };
    let left = call.matrix("left", desc.left, left, desc.left_stride)?;
    let right = call.matrix("right", desc.right, right, desc.right_stride)?;
    let arguments = Matmul::<T, O> {
        left: factor(left, has_flag(desc, sys::RMAE_MATMUL_LEFT_TRANSPOSED)),
        right: factor(right, has_flag(desc, sys::RMAE_MATMUL_RIGHT_TRANSPOSED)),
        output: call.matrix_mut("output", desc.output, output, desc.output_stride)?,
        addend,
        batch,
    };
    call.enqueue_with(gemm, |stream| matmul::matmul(stream, arguments))
}

fn factor<T: Float>(matrix: Matrix<'_, T>, transposed: bool) -> Factor<'_, T> {
    if transposed { Factor::Transposed(matrix) } else { Factor::Plain(matrix) }
}
