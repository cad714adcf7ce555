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

/// Params of an elementwise pass over one array, without bias and factor.
fn unary(input: u64) -> BaselineElementwiseParams {
    BaselineElementwiseParams { input, columns: 1, factor: 1.0, ..BaselineElementwiseParams::default() }
}

fn elementwise<T: ModelFloat>(
    stream: &Stream,
    family: Family<BaselineElementwiseParams>,
    params: BaselineElementwiseParams,
    output: &ViewMut<'_, T>,
) -> Result<()> {
    let count = output.len();
    let params = BaselineElementwiseParams { output: output.address(), count: count as u64, ..params };
    // SAFETY: the callers below compare the lengths.
    unsafe { pass(stream, family.of(T::DTYPE)?, count, &params) }
}

/// `values *= factor`
pub fn scale<T: ModelFloat>(stream: &Stream, values: ViewMut<'_, T>, factor: f32) -> Result<()> {
    let params = BaselineElementwiseParams { factor, ..unary(values.address()) };
    elementwise(stream, kernels::BASELINE_SCALE, params, &values)
}

/// `values += other`
pub fn add_to<T: ModelFloat>(stream: &Stream, values: ViewMut<'_, T>, other: View<'_, T>) -> Result<()> {
    assert_eq!(other.len(), values.len());
    let params = BaselineElementwiseParams { other: other.address(), ..unary(values.address()) };
    elementwise(stream, kernels::BASELINE_ADD, params, &values)
}

/// `output = input + bias[column]`
pub fn add_bias<T: ModelFloat>(
    stream: &Stream,
    input: View<'_, T>,
    bias: View<'_, f32>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    assert!(input.len() == output.len() && input.len().is_multiple_of(bias.len()));
    elementwise(stream, kernels::BASELINE_ADD_BIAS, with_bias(input.address(), bias), &output)
}

/// `values += bias[column]`
pub fn add_bias_to<T: ModelFloat>(
    stream: &Stream,
    values: ViewMut<'_, T>,
    bias: View<'_, f32>,
) -> Result<()> {
    assert!(values.len().is_multiple_of(bias.len()));
    elementwise(stream, kernels::BASELINE_ADD_BIAS, with_bias(values.address(), bias), &values)
}

fn with_bias(input: u64, bias: View<'_, f32>) -> BaselineElementwiseParams {
    BaselineElementwiseParams { other: bias.address(), columns: bias.len() as u32, ..unary(input) }
}

/// `output = gelu(input)`
pub fn gelu<T: ModelFloat>(stream: &Stream, input: View<'_, T>, output: ViewMut<'_, T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    elementwise(stream, kernels::BASELINE_GELU_FORWARD, unary(input.address()), &output)
}

/// `gradient *= gelu'(input)`
pub fn gelu_backward<T: ModelFloat>(
    stream: &Stream,
    input: View<'_, T>,
    gradient: ViewMut<'_, T>,
) -> Result<()> {
    assert_eq!(input.len(), gradient.len());
    let params = BaselineElementwiseParams { other: gradient.address(), ..unary(input.address()) };
    elementwise(stream, kernels::BASELINE_GELU_BACKWARD, params, &gradient)
}

/// `output = input`, rounded if T is narrower
pub fn narrow<T: ModelFloat>(stream: &Stream, input: View<'_, f32>, output: ViewMut<'_, T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    let family = if T::DTYPE == DType::F32 { kernels::BASELINE_SCALE } else { kernels::BASELINE_NARROW };
    elementwise(stream, family, unary(input.address()), &output)
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
    /// Queries: `[sentences, heads, length, length]` scores of a packed batch.
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
    assert_eq!(input.len(), output.len());
    let params = BaselineDropoutParams { input: input.address(), ..dropout_params(dropout, rows, &output) };
    // SAFETY: the lengths were compared.
    unsafe { pass(stream, kernels::BASELINE_DROPOUT_FORWARD.of(T::DTYPE)?, output.len(), &params) }
}

/// Computes the gradient of [`dropout`]'s input from that of its output.
pub fn dropout_backward<T: ModelFloat>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: View<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    assert_eq!(gradient.len(), output.len());
    let params =
        BaselineDropoutParams { input: gradient.address(), ..dropout_params(dropout, rows, &output) };
    // SAFETY: the lengths were compared.
    unsafe { pass(stream, kernels::BASELINE_DROPOUT_BACKWARD.of(T::DTYPE)?, output.len(), &params) }
}

/// [`dropout_backward`] in place.
pub fn dropout_backward_to<T: ModelFloat>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: ViewMut<'_, T>,
) -> Result<()> {
    let params = dropout_params(dropout, rows, &gradient);
    // SAFETY: the lengths were compared.
    unsafe { pass(stream, kernels::BASELINE_DROPOUT_BACKWARD.of(T::DTYPE)?, gradient.len(), &params) }
}

/// Returns the params of a pass over `values`, in place.
fn dropout_params<T: ModelFloat>(
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    values: &ViewMut<'_, T>,
) -> BaselineDropoutParams {
    assert_eq!(dropout.kept.len(), values.len());
    let (cu_seqlens, heads, columns) = match rows {
        DropoutRows::Matrix { columns } => (0, 1, columns),
        DropoutRows::Queries { cu_seqlens, heads, length } => (cu_seqlens.view().address(), heads, length),
    };
    BaselineDropoutParams {
        input: values.address(),
        output: values.address(),
        kept: dropout.kept.view().address(),
        cu_seqlens,
        count: values.len() as u64,
        columns: columns as u32,
        heads: heads as u32,
        dropout: dropout.params(),
    }
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
