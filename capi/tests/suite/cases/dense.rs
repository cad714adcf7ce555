//! Linear layers, matmuls, LayerNorm, GELU, sums.

use retromae::device::{Float, ModelFloat, bf16, f16};
use retromae::ops::{Dropout, bias_gelu, column_sum, layer_norm, linear, matmul, reduce};
use retromae_capi::*;

use crate::common::{Case, Memory, code, matrix, matrix_mut, maybe, maybe_mut, view, view_mut, workspace};
use crate::{case, fields, give_workspace, init};

pub fn cases(memory: fn() -> Memory) -> Vec<Case> {
    let mut all = Vec::new();
    for present in [false, true] {
        all.extend([linear_forward::<f32>(memory(), present), linear_backward::<f32>(memory(), present)]);
        all.extend([linear_forward::<bf16>(memory(), present), linear_backward::<bf16>(memory(), present)]);
        all.extend([linear_forward::<f16>(memory(), present), linear_backward::<f16>(memory(), present)]);
        all.extend([
            layer_norm_forward::<f32>(memory(), present),
            layer_norm_backward::<f32>(memory(), present),
        ]);
        all.extend([
            layer_norm_forward::<bf16>(memory(), present),
            layer_norm_backward::<bf16>(memory(), present),
        ]);
        all.extend([
            layer_norm_forward::<f16>(memory(), present),
            layer_norm_backward::<f16>(memory(), present),
        ]);
        all.extend([
            column_sum_of::<f32>(memory(), 5, present),
            column_sum_of::<bf16>(memory(), 600, present),
        ]);
        all.extend([reduce_of(memory(), 100, present), reduce_of(memory(), 40_000, present)]);
    }
    all.extend([matmul_of::<f32, f32>(memory(), 0), matmul_of::<bf16, bf16>(memory(), 1)]);
    all.extend([matmul_of::<bf16, f32>(memory(), 2), matmul_of::<f16, f16>(memory(), 3)]);
    all.extend([matmul_of::<f16, f32>(memory(), 4), matmul_of::<f32, f32>(memory(), 5)]);
    all.extend([gelu_forward::<f32>(memory()), gelu_backward::<f32>(memory())]);
    all.extend([gelu_forward::<bf16>(memory()), gelu_backward::<bf16>(memory())]);
    all
}

/// Rows, features and strides of the linear layers.
const ROWS: usize = 7;
const IN: usize = 13;
const OUT: usize = 18;
const STRIDES: [i64; 2] = [24, 40];

fn linear_forward<T: Float>(mut memory: Memory, present: bool) -> Case {
    let mut desc = rmae_linear_desc {
        dtype: code::<T>(),
        rows: ROWS as i64,
        in_features: IN as i64,
        out_features: OUT as i64,
        input: memory.floats::<T>(1, 6 * STRIDES[0] as usize + IN),
        input_stride: STRIDES[0],
        weight: memory.floats::<T>(2, OUT * IN),
        bias: if present { memory.floats::<T>(3, OUT) } else { std::ptr::null_mut() },
        output: memory.floats::<T>(4, 6 * STRIDES[1] as usize + OUT),
        output_stride: STRIDES[1],
        ..init!(rmae_linear_desc, RMAE_LINEAR_VERSION)
    };
    give_workspace!(desc, memory, rmae_linear_workspace);
    let fields = fields! { rmae_linear_desc:
        Size rows, Size in_features, Size out_features, IN input, Stride input_stride, IN weight,
        Stride weight_stride, MAYBE bias, OUT output, Stride output_stride, WORKSPACE workspace,
        WorkspaceBytes workspace_bytes, Enum dtype,
    };
    let name = format!("linear_forward {}", T::DTYPE.name());
    case!(name, rmae_linear_forward, rmae_linear_workspace, desc, memory, fields, move |stream| {
        let forward = linear::Forward::<T> {
            input: matrix(desc.input, [ROWS, IN], desc.input_stride),
            weight: matrix(desc.weight, [OUT, IN], 0),
            output: matrix_mut(desc.output, [ROWS, OUT], desc.output_stride),
            bias: maybe(desc.bias.cast(), |bias| view(bias, OUT)),
        };
        linear::forward(stream, forward)
    })
}

/// With `present` both gradients, d_input added to; else that of the input alone.
fn linear_backward<T: Float>(mut memory: Memory, present: bool) -> Case {
    let mut desc = rmae_linear_desc {
        flags: if present { u64::from(RMAE_LINEAR_ACCUMULATE) } else { 0 },
        dtype: code::<T>(),
        rows: ROWS as i64,
        in_features: IN as i64,
        out_features: OUT as i64,
        input: memory.floats::<T>(1, ROWS * IN),
        weight: memory.floats::<T>(2, (OUT - 1) * 16 + IN),
        weight_stride: 16,
        d_output: memory.floats::<T>(4, 6 * STRIDES[1] as usize + OUT),
        d_output_stride: STRIDES[1],
        d_input: memory.floats::<T>(5, 6 * STRIDES[0] as usize + IN),
        d_input_stride: STRIDES[0],
        ..init!(rmae_linear_desc, RMAE_LINEAR_VERSION)
    };
    let mut fields = fields! { rmae_linear_desc:
        Size rows, Size in_features, Size out_features, IN weight, Stride weight_stride, IN d_output,
        Stride d_output_stride, MAYBE_OUT d_input, Stride d_input_stride, MAYBE_OUT d_weight,
        WORKSPACE workspace, WorkspaceBytes workspace_bytes, Enum dtype,
    };
    if present {
        desc.d_weight = memory.floats::<f32>(6, (OUT - 1) * 15 + IN).cast();
        desc.d_weight_stride = 15;
        fields.extend(fields! { rmae_linear_desc: IN input, Stride input_stride, Stride d_weight_stride });
    }
    give_workspace!(desc, memory, rmae_linear_workspace);
    let name = format!("linear_backward {}", T::DTYPE.name());
    case!(name, rmae_linear_backward, rmae_linear_workspace, desc, memory, fields, move |stream| {
        let d_output = matrix(desc.d_output, [ROWS, OUT], desc.d_output_stride);
        let to_input = linear::BackwardInput::<T> {
            d_output,
            weight: matrix(desc.weight, [OUT, IN], desc.weight_stride),
            d_input: matrix_mut(desc.d_input, [ROWS, IN], desc.d_input_stride),
            accumulate: present,
        };
        linear::backward_input(stream, to_input)?;
        if !present {
            return Ok(());
        }
        let to_weight = linear::BackwardWeight {
            input: matrix(desc.input, [ROWS, IN], 0),
            d_output,
            d_weight: matrix_mut(desc.d_weight.cast(), [OUT, IN], desc.d_weight_stride),
        };
        linear::backward_weight(stream, to_weight)
    })
}

/// m, n, k and the batch of a matmul.
const SIZES: [usize; 4] = [5, 6, 7, 3];

/// Each variant has other transpositions, another addend, another batch.
fn matmul_of<T: Float, O: Float>(mut memory: Memory, variant: usize) -> Case {
    let [m, n, k, most] = SIZES;
    let batch = if variant == 0 { 1 } else { most };
    let (left_transposed, right_transposed) = (variant % 2 == 1, variant / 2 % 2 == 1);
    let (has_bias, accumulates) = (variant.is_multiple_of(3), variant % 3 == 1);
    let left = if left_transposed { [batch * k, m] } else { [batch * m, k] };
    let right = if right_transposed { [batch * n, k] } else { [batch * k, n] };
    let [strides, output] = [[8, 9, 10], [batch * m, n, 0]];
    let span = |[rows, columns]: [usize; 2], stride: usize| (rows - 1) * stride + columns;
    let flag = |set: bool, flag: u32| if set { u64::from(flag) } else { 0 };
    let mut desc = rmae_matmul_desc {
        flags: flag(left_transposed, RMAE_MATMUL_LEFT_TRANSPOSED)
            | flag(right_transposed, RMAE_MATMUL_RIGHT_TRANSPOSED)
            | flag(accumulates, RMAE_MATMUL_ACCUMULATE),
        dtype: code::<T>(),
        output_dtype: code::<O>(),
        m: m as i64,
        n: n as i64,
        k: k as i64,
        batch: batch as i64,
        left: memory.floats::<T>(1, span(left, strides[0])),
        left_stride: strides[0] as i64,
        right: memory.floats::<T>(2, span(right, strides[1])),
        right_stride: strides[1] as i64,
        bias: if has_bias { memory.floats::<O>(3, n) } else { std::ptr::null_mut() },
        output: memory.floats::<O>(4, span([output[0], n], strides[2])),
        output_stride: strides[2] as i64,
        ..init!(rmae_matmul_desc, RMAE_MATMUL_VERSION)
    };
    give_workspace!(desc, memory, rmae_matmul_workspace);
    let fields = fields! { rmae_matmul_desc:
        Enum dtype, Enum output_dtype, Size m, Size n, Size k, Size batch, IN left, Stride left_stride, IN right,
        Stride right_stride, MAYBE bias, OUT output, Stride output_stride, WORKSPACE workspace,
        WorkspaceBytes workspace_bytes,
    };
    let name = format!("matmul {variant} {} {}", T::DTYPE.name(), O::DTYPE.name());
    case!(name, rmae_matmul, rmae_matmul_workspace, desc, memory, fields, move |stream| {
        let factor = |matrix, transposed| {
            if transposed { matmul::Factor::Transposed(matrix) } else { matmul::Factor::Plain(matrix) }
        };
        let bias = maybe(desc.bias.cast(), |bias| matmul::Addend::Bias(view(bias, n)));
        let addend = if accumulates { matmul::Addend::Output } else { matmul::Addend::Zero };
        let arguments = matmul::Matmul::<T, O>::new(
            factor(matrix(desc.left, left, desc.left_stride), left_transposed),
            factor(matrix(desc.right, right, desc.right_stride), right_transposed),
            matrix_mut(desc.output, [batch * m, n], desc.output_stride),
        );
        matmul::matmul(stream, arguments.addend(bias.unwrap_or(addend)).batch(batch))
    })
}

/// More rows than a block of the backward pass has.
const NORM: [usize; 2] = [70, 40];

fn norm_desc<T: Float>(memory: &mut Memory, present: bool) -> rmae_layer_norm_desc {
    let count = NORM[0] * NORM[1];
    let mut desc = rmae_layer_norm_desc {
        dtype: code::<T>(),
        eps: 1e-5,
        rows: NORM[0] as i64,
        columns: NORM[1] as i64,
        gamma: memory.floats::<f32>(1, NORM[1]).cast(),
        mean: memory.floats::<f32>(2, NORM[0]).cast(),
        rstd: memory.floats::<f32>(3, NORM[0]).cast(),
        ..init!(rmae_layer_norm_desc, RMAE_LAYER_NORM_VERSION)
    };
    if present {
        desc.sum = memory.floats::<T>(4, count);
        desc.dropout = dropout(memory);
    }
    desc
}

/// Dropout of a quarter.
pub fn dropout(memory: &mut Memory) -> rmae_dropout {
    rmae_dropout { rng: memory.put(&retromae::ops::rng_state(5, 3)), rate: 0.25, site: 9 }
}

/// Returns the same dropout in Rust.
pub fn rust_dropout(dropout: rmae_dropout) -> Option<Dropout<'static>> {
    let rmae_dropout { rng, rate, site } = dropout;
    maybe(rng, |rng| Dropout { rng: view(rng, 4), rate, site })
}

fn layer_norm_forward<T: Float>(mut memory: Memory, present: bool) -> Case {
    let [rows, columns] = NORM;
    let count = rows * columns;
    let mut desc = norm_desc::<T>(&mut memory, present);
    desc.beta = memory.floats::<f32>(5, columns).cast();
    desc.input = memory.floats::<T>(6, count);
    desc.output = memory.floats::<T>(7, count);
    if present {
        desc.bias = memory.floats::<f32>(8, columns).cast();
        desc.residual = memory.floats::<T>(9, count);
    }
    let mut fields = fields! { rmae_layer_norm_desc:
        Enum dtype, F32 eps, Size rows, Size columns, IN16 input, MAYBE16 bias, MAYBE16 residual, IN16 gamma, IN16 beta,
        MAYBE_OUT16 sum, OUT16 output, OUT mean, OUT rstd, MAYBE dropout.rng,
    };
    if present {
        fields.extend(fields! { rmae_layer_norm_desc: F32 dropout.rate, I32 dropout.site });
    }
    let name = format!("layer_norm_forward {}", T::DTYPE.name());
    case!(name, rmae_layer_norm_forward, desc, memory, fields, move |stream| {
        let forward = layer_norm::Forward::<T> {
            input: matrix(desc.input, NORM, 0),
            gamma: view(desc.gamma, columns),
            beta: view(desc.beta, columns),
            eps: desc.eps,
            output: matrix_mut(desc.output, NORM, 0),
            mean: view_mut(desc.mean, rows),
            rstd: view_mut(desc.rstd, rows),
            fused: layer_norm::Fused {
                bias: maybe(desc.bias, |bias| view(bias, columns)),
                dropout: rust_dropout(desc.dropout),
                residual: maybe(desc.residual, |residual| matrix(residual, NORM, 0)),
                sum: maybe_mut(desc.sum, |sum| matrix_mut(sum, NORM, 0)),
            },
        };
        layer_norm::forward(stream, forward)
    })
}

fn layer_norm_backward<T: Float>(mut memory: Memory, present: bool) -> Case {
    let [rows, columns] = NORM;
    let count = rows * columns;
    let mut desc = norm_desc::<T>(&mut memory, present);
    desc.sum = memory.floats::<T>(10, count);
    desc.d_output = memory.floats::<T>(11, count);
    desc.d_input = memory.floats::<T>(12, count);
    desc.d_gamma = memory.floats::<f32>(13, columns).cast();
    desc.d_beta = memory.floats::<f32>(14, columns).cast();
    if present {
        desc.d_residual = memory.floats::<T>(15, count);
        desc.d_bias = memory.floats::<f32>(16, columns).cast();
    }
    give_workspace!(desc, memory, rmae_layer_norm_workspace);
    let mut fields = fields! { rmae_layer_norm_desc:
        Enum dtype, Size rows, Size columns, IN16 gamma, IN16 sum, IN mean, IN rstd, IN16 d_output, OUT16 d_input,
        MAYBE_OUT16 d_residual, OUT16 d_gamma, OUT16 d_beta, MAYBE_OUT16 d_bias, MAYBE dropout.rng,
        WORKSPACE workspace, WorkspaceBytes workspace_bytes,
    };
    if present {
        fields.extend(fields! { rmae_layer_norm_desc: F32 dropout.rate, I32 dropout.site });
    }
    let name = format!("layer_norm_backward {}", T::DTYPE.name());
    case!(name, rmae_layer_norm_backward, rmae_layer_norm_workspace, desc, memory, fields, move |stream| {
        let backward = layer_norm::Backward::<T> {
            d_output: matrix(desc.d_output, NORM, 0),
            sum: matrix(desc.sum, NORM, 0),
            mean: view(desc.mean, rows),
            rstd: view(desc.rstd, rows),
            gamma: view(desc.gamma, columns),
            d_input: matrix_mut(desc.d_input, NORM, 0),
            d_gamma: view_mut(desc.d_gamma, columns),
            d_beta: view_mut(desc.d_beta, columns),
            workspace: workspace(desc.workspace, desc.workspace_bytes, false),
            fused: layer_norm::FusedGradients {
                dropout: rust_dropout(desc.dropout),
                d_residual: maybe_mut(desc.d_residual, |d_residual| matrix_mut(d_residual, NORM, 0)),
                d_bias: maybe_mut(desc.d_bias, |d_bias| view_mut(d_bias, columns)),
            },
        };
        layer_norm::backward(stream, backward)
    })
}

const GELU: [usize; 2] = [3, 24];

fn gelu_desc<T: ModelFloat>(memory: &mut Memory) -> rmae_bias_gelu_desc {
    rmae_bias_gelu_desc {
        dtype: code::<T>(),
        rows: GELU[0] as i64,
        columns: GELU[1] as i64,
        input: memory.floats::<T>(1, GELU[0] * GELU[1]),
        bias: memory.floats::<f32>(2, GELU[1]).cast(),
        ..init!(rmae_bias_gelu_desc, RMAE_BIAS_GELU_VERSION)
    }
}

fn gelu_forward<T: ModelFloat>(mut memory: Memory) -> Case {
    let mut desc = gelu_desc::<T>(&mut memory);
    desc.output = memory.floats::<T>(3, GELU[0] * GELU[1]);
    let fields = fields! { rmae_bias_gelu_desc:
        Enum dtype, Size rows, Size columns, IN16 input, IN16 bias, OUT16 output
    };
    let name = format!("bias_gelu_forward {}", T::DTYPE.name());
    case!(name, rmae_bias_gelu_forward, desc, memory, fields, move |stream| {
        let forward = bias_gelu::Forward::<T> {
            input: matrix(desc.input, GELU, 0),
            bias: view(desc.bias, GELU[1]),
            output: matrix_mut(desc.output, GELU, 0),
        };
        bias_gelu::forward(stream, forward)
    })
}

fn gelu_backward<T: ModelFloat>(mut memory: Memory) -> Case {
    let mut desc = gelu_desc::<T>(&mut memory);
    desc.d_output = memory.floats::<T>(3, GELU[0] * GELU[1]);
    desc.d_input = memory.floats::<T>(4, GELU[0] * GELU[1]);
    let fields = fields! { rmae_bias_gelu_desc:
        Enum dtype, Size rows, Size columns, IN16 input, IN16 bias, IN16 d_output, OUT16 d_input
    };
    let name = format!("bias_gelu_backward {}", T::DTYPE.name());
    case!(name, rmae_bias_gelu_backward, desc, memory, fields, move |stream| {
        let backward = bias_gelu::Backward::<T> {
            input: matrix(desc.input, GELU, 0),
            bias: view(desc.bias, GELU[1]),
            d_output: matrix(desc.d_output, GELU, 0),
            d_input: matrix_mut(desc.d_input, GELU, 0),
        };
        bias_gelu::backward(stream, backward)
    })
}

fn column_sum_of<T: ModelFloat>(mut memory: Memory, rows: usize, accumulate: bool) -> Case {
    const COLUMNS: usize = 16;
    const STRIDE: usize = 24;
    let mut desc = rmae_column_sum_desc {
        flags: if accumulate { u64::from(RMAE_SUM_ACCUMULATE) } else { 0 },
        dtype: code::<T>(),
        rows: rows as i64,
        columns: COLUMNS as i64,
        input: memory.floats::<T>(1, (rows - 1) * STRIDE + COLUMNS),
        input_stride: STRIDE as i64,
        output: memory.floats::<f32>(2, COLUMNS).cast(),
        ..init!(rmae_column_sum_desc, RMAE_COLUMN_SUM_VERSION)
    };
    give_workspace!(desc, memory, rmae_column_sum_workspace);
    let fields = fields! { rmae_column_sum_desc:
        Enum dtype, Size rows, Size columns, IN16 input, Stride input_stride, OUT16 output, WORKSPACE workspace,
        WorkspaceBytes workspace_bytes,
    };
    let name = format!("column_sum {} {rows}", T::DTYPE.name());
    case!(name, rmae_column_sum, rmae_column_sum_workspace, desc, memory, fields, move |stream| {
        let arguments = column_sum::ColumnSum::<T> {
            input: matrix(desc.input, [rows, COLUMNS], desc.input_stride),
            output: view_mut(desc.output, COLUMNS),
            accumulate,
            workspace: workspace(desc.workspace, desc.workspace_bytes, false),
        };
        column_sum::column_sum(stream, arguments)
    })
}

/// The sum, added to, or the squares.
fn reduce_of(mut memory: Memory, count: usize, squares: bool) -> Case {
    let mut desc = rmae_reduce_desc {
        flags: if squares { 0 } else { u64::from(RMAE_SUM_ACCUMULATE) },
        count: count as i64,
        input: memory.floats::<f32>(1, count).cast(),
        output: memory.floats::<f32>(2, 1).cast(),
        ..init!(rmae_reduce_desc, RMAE_REDUCE_VERSION)
    };
    give_workspace!(desc, memory, rmae_reduce_workspace);
    let fields = fields! { rmae_reduce_desc:
        Size count, IN16 input, OUT output, WORKSPACE workspace, WorkspaceBytes workspace_bytes
    };
    let name = format!("reduce {count} {squares}");
    let rust = move |stream: &_| {
        let arguments = reduce::Arguments {
            input: view(desc.input, count),
            output: view_mut(desc.output, 1),
            accumulate: !squares,
            workspace: workspace(desc.workspace, desc.workspace_bytes, false),
        };
        if squares { reduce::squares(stream, arguments) } else { reduce::sum(stream, arguments) }
    };
    if squares {
        case!(name, rmae_reduce_squares, rmae_reduce_workspace, desc, memory, fields, rust)
    } else {
        case!(name, rmae_reduce_sum, rmae_reduce_workspace, desc, memory, fields, rust)
    }
}
