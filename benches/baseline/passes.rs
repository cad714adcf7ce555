//! Elementary passes: each function makes one launch.

use retromae::device::baseline_params::{
    BaselineDropoutParams, BaselineElementwiseParams, BaselineMaskParams, BaselineSoftmaxParams,
};
use retromae::device::{Buffer, DType, Family, Kernel, ModelFloat, Stream, View, ViewMut, kernels};
use retromae::ops::Result;

use super::Dropout;

/// Longest row that `softmax_*` keeps in registers.
const SHORT_ROW: usize = 1024;

/// Launches a pass over an array of `count` elements.
///
/// # Safety
/// The arrays have `count` elements, a multiple of 8, as the kernel's parameters say.
unsafe fn pass<P: Copy>(stream: &Stream, kernel: Kernel<P>, count: usize, params: &P) -> Result<()> {
    assert!(count.is_multiple_of(8), "{kernel:?}: {count} elements");
    // SAFETY: passed on to the caller.
    unsafe { stream.launch(kernel, params)? };
    Ok(())
}

fn elementwise<T: ModelFloat>(
    stream: &Stream,
    kernel: Kernel<BaselineElementwiseParams>,
    [input, other]: [u64; 2],
    output: &ViewMut<'_, T>,
    columns: usize,
    factor: f32,
) -> Result<()> {
    let count = output.len();
    let params = BaselineElementwiseParams {
        input,
        other,
        output: output.address(),
        count: count as u64,
        columns: columns as u32,
        factor,
    };
    // SAFETY: the callers below compare the lengths.
    unsafe { pass(stream, kernel, count, &params) }
}

/// `values *= factor`
pub fn scale<T: ModelFloat>(stream: &Stream, values: ViewMut<'_, T>, factor: f32) -> Result<()> {
    elementwise(stream, kernels::BASELINE_SCALE.of(T::DTYPE)?, [values.address(), 0], &values, 1, factor)
}

/// `values += other`
pub fn add_to<T: ModelFloat>(stream: &Stream, values: ViewMut<'_, T>, other: View<'_, T>) -> Result<()> {
    assert_eq!(other.len(), values.len());
    elementwise(
        stream,
        kernels::BASELINE_ADD.of(T::DTYPE)?,
        [values.address(), other.address()],
        &values,
        1,
        1.0,
    )
}

/// `output = input + bias[column]`
pub fn add_bias<T: ModelFloat>(
    stream: &Stream,
    input: View<'_, T>,
    bias: View<'_, f32>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    assert!(input.len() == output.len() && input.len().is_multiple_of(bias.len()));
    elementwise(
        stream,
        kernels::BASELINE_ADD_BIAS.of(T::DTYPE)?,
        [input.address(), bias.address()],
        &output,
        bias.len(),
        1.0,
    )
}

/// `values += bias[column]`
pub fn add_bias_to<T: ModelFloat>(
    stream: &Stream,
    values: ViewMut<'_, T>,
    bias: View<'_, f32>,
) -> Result<()> {
    assert!(values.len().is_multiple_of(bias.len()));
    elementwise(
        stream,
        kernels::BASELINE_ADD_BIAS.of(T::DTYPE)?,
        [values.address(), bias.address()],
        &values,
        bias.len(),
        1.0,
    )
}

/// `output = gelu(input)`
pub fn gelu<T: ModelFloat>(stream: &Stream, input: View<'_, T>, output: ViewMut<'_, T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    elementwise(stream, kernels::BASELINE_GELU_FORWARD.of(T::DTYPE)?, [input.address(), 0], &output, 1, 1.0)
}

/// `gradient *= gelu'(input)`
pub fn gelu_backward<T: ModelFloat>(
    stream: &Stream,
    input: View<'_, T>,
    gradient: ViewMut<'_, T>,
) -> Result<()> {
    assert_eq!(input.len(), gradient.len());
    elementwise(
        stream,
        kernels::BASELINE_GELU_BACKWARD.of(T::DTYPE)?,
        [input.address(), gradient.address()],
        &gradient,
        1,
        1.0,
    )
}

/// `output = input`, rounded if T is narrower
pub fn narrow<T: ModelFloat>(stream: &Stream, input: View<'_, f32>, output: ViewMut<'_, T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    let family = if T::DTYPE == DType::F32 { kernels::BASELINE_SCALE } else { kernels::BASELINE_NARROW };
    elementwise(stream, family.of(T::DTYPE)?, [input.address(), 0], &output, 1, 1.0)
}

/// Adds `mask`, `[sentences, length, length]`, to the scores of every head.
pub fn add_mask<T: ModelFloat>(
    stream: &Stream,
    scores: &mut Buffer<T>,
    mask: &Buffer<T>,
    heads: usize,
    length: usize,
) -> Result<()> {
    assert_eq!(scores.len(), heads * mask.len());
    let params = BaselineMaskParams {
        scores: scores.view().address(),
        mask: mask.view().address(),
        count: scores.len() as u64,
        heads: heads as u32,
        length: length as u32,
    };
    // SAFETY: the lengths were compared.
    unsafe { pass(stream, kernels::BASELINE_ADD_MASK.of(T::DTYPE)?, scores.len(), &params) }
}

/// Meaning of the rows of a dropout.
#[derive(Clone, Copy)]
pub enum DropoutRows<'a> {
    /// Rows of a matrix with `columns` columns.
    Matrix { columns: usize },
    /// Queries: `[sentences, heads, length, length]` scores of a pack.
    Queries { cu_seqlens: &'a Buffer<i32>, heads: usize, length: usize },
}

/// `output = input` with elements dropped; remembers which.
pub fn dropout<T: ModelFloat>(
    stream: &Stream,
    dropout: &mut Dropout,
    rows: DropoutRows<'_>,
    input: View<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    run_dropout(
        stream,
        kernels::BASELINE_DROPOUT_FORWARD,
        dropout,
        rows,
        (input.address(), input.len()),
        &output,
    )
}

/// Computes the gradient of [`dropout`]'s input from that of its output.
pub fn dropout_backward<T: ModelFloat>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: View<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    run_dropout(
        stream,
        kernels::BASELINE_DROPOUT_BACKWARD,
        dropout,
        rows,
        (gradient.address(), gradient.len()),
        &output,
    )
}

/// [`dropout_backward`] in place.
pub fn dropout_backward_to<T: ModelFloat>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: ViewMut<'_, T>,
) -> Result<()> {
    run_dropout(
        stream,
        kernels::BASELINE_DROPOUT_BACKWARD,
        dropout,
        rows,
        (gradient.address(), gradient.len()),
        &gradient,
    )
}

fn run_dropout<T: ModelFloat>(
    stream: &Stream,
    family: Family<BaselineDropoutParams>,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    (input, length): (u64, usize),
    output: &ViewMut<'_, T>,
) -> Result<()> {
    assert_eq!((output.len(), dropout.kept.len()), (length, length));
    let (cu_seqlens, heads, columns) = match rows {
        DropoutRows::Matrix { columns } => (0, 1, columns),
        DropoutRows::Queries { cu_seqlens, heads, length } => (cu_seqlens.view().address(), heads, length),
    };
    let params = BaselineDropoutParams {
        input,
        output: output.address(),
        kept: dropout.kept.view().address(),
        cu_seqlens,
        count: length as u64,
        columns: columns as u32,
        heads: heads as u32,
        dropout: dropout.params(),
    };
    // SAFETY: the lengths were compared.
    unsafe { pass(stream, family.of(T::DTYPE)?, length, &params) }
}

/// Softmax over rows of `columns`.
pub fn softmax<T: ModelFloat>(
    stream: &Stream,
    input: &Buffer<T>,
    output: &mut Buffer<T>,
    columns: usize,
) -> Result<()> {
    assert_eq!(input.len(), output.len());
    let params = softmax_params(input, 0, output, columns);
    run_softmax::<T>(
        stream,
        kernels::BASELINE_SOFTMAX_FORWARD,
        kernels::BASELINE_SOFTMAX_FORWARD_LONG,
        &params,
    )
}

/// Computes the gradient of the input from that of the result, in place.
pub fn softmax_backward<T: ModelFloat>(
    stream: &Stream,
    gradient: &mut Buffer<T>,
    result: &Buffer<T>,
    columns: usize,
) -> Result<()> {
    assert_eq!(gradient.len(), result.len());
    let params = softmax_params(gradient, result.view().address(), gradient, columns);
    run_softmax::<T>(
        stream,
        kernels::BASELINE_SOFTMAX_BACKWARD,
        kernels::BASELINE_SOFTMAX_BACKWARD_LONG,
        &params,
    )
}

/// Log-softmax over rows of `columns`.
pub fn log_softmax<T: ModelFloat>(
    stream: &Stream,
    input: &Buffer<T>,
    output: &mut Buffer<T>,
    columns: usize,
) -> Result<()> {
    assert_eq!(input.len(), output.len());
    let params = softmax_params(input, 0, output, columns);
    // SAFETY: the lengths were compared.
    unsafe { stream.launch(kernels::BASELINE_LOG_SOFTMAX_FORWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

/// Computes the gradient of the input from that of the result.
pub fn log_softmax_backward<T: ModelFloat>(
    stream: &Stream,
    gradient: &Buffer<T>,
    result: &Buffer<T>,
    output: &mut Buffer<T>,
    columns: usize,
) -> Result<()> {
    assert_eq!((gradient.len(), result.len()), (output.len(), output.len()));
    let params = softmax_params(gradient, result.view().address(), output, columns);
    // SAFETY: as in `log_softmax`.
    unsafe { stream.launch(kernels::BASELINE_LOG_SOFTMAX_BACKWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

fn softmax_params<T: ModelFloat>(
    input: &Buffer<T>,
    result: u64,
    output: &Buffer<T>,
    columns: usize,
) -> BaselineSoftmaxParams {
    assert!(columns.is_multiple_of(8) && input.len().is_multiple_of(columns), "rows of {columns}");
    BaselineSoftmaxParams {
        input: input.view().address(),
        result,
        output: output.view().address(),
        rows: (input.len() / columns) as u64,
        columns: columns as u32,
        reserved: 0,
    }
}

fn run_softmax<T: ModelFloat>(
    stream: &Stream,
    short: Family<BaselineSoftmaxParams>,
    long: Family<BaselineSoftmaxParams>,
    params: &BaselineSoftmaxParams,
) -> Result<()> {
    let family = if params.columns as usize > SHORT_ROW { long } else { short };
    // SAFETY: the callers compared the lengths.
    unsafe { stream.launch(family.of(T::DTYPE)?, params)? };
    Ok(())
}
