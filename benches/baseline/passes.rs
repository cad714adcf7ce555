//! One launch a function: the elementary passes.

use retromae::device::{Buffer, DType, ModelFloat, Stream, View, ViewMut};
use retromae::ops::Result;

use super::{Dropout, params};

const THREADS: u32 = 256;
/// `kPassElements` of the kernels.
const ELEMENTS_PER_BLOCK: usize = 8192;
/// The longest row that `softmax_*` keeps in registers.
const SHORT_ROW: usize = 1024;
/// A float a warp, for rows that take a block.
const SCRATCH_BYTES: u32 = 32;

/// One launch of 256 threads a block.
///
/// # Safety
/// As [`Stream::launch`].
unsafe fn launch<P: Copy>(
    stream: &Stream,
    kernel: &str,
    blocks: usize,
    shared_bytes: u32,
    params: &P,
) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { stream.launch(kernel, [blocks as u32, 1, 1], THREADS, shared_bytes, params)? };
    Ok(())
}

/// # Safety
/// The arrays have `count` elements, a multiple of 8, as the kernel's parameters say.
unsafe fn pass<P: Copy>(stream: &Stream, kernel: &str, count: usize, params: &P) -> Result<()> {
    assert!(count.is_multiple_of(8), "{kernel}: {count} elements");
    // SAFETY: passed on to the caller.
    unsafe { launch(stream, kernel, count.div_ceil(ELEMENTS_PER_BLOCK), 0, params) }
}

fn name<T: ModelFloat>(operation: &str) -> String {
    format!("baseline_{operation}_{}", T::DTYPE.name())
}

fn elementwise<T: ModelFloat>(
    stream: &Stream,
    operation: &str,
    [input, other]: [u64; 2],
    output: &ViewMut<'_, T>,
    columns: usize,
    factor: f32,
) -> Result<()> {
    let count = output.len();
    let params = params::Elementwise {
        input,
        other,
        output: output.address(),
        count: count as u64,
        columns: columns as u32,
        factor,
    };
    // SAFETY: the callers below compare the lengths.
    unsafe { pass(stream, &name::<T>(operation), count, &params) }
}

/// `values *= factor`
pub fn scale<T: ModelFloat>(stream: &Stream, values: ViewMut<'_, T>, factor: f32) -> Result<()> {
    elementwise(stream, "scale", [values.address(), 0], &values, 1, factor)
}

/// `values += other`
pub fn add_to<T: ModelFloat>(stream: &Stream, values: ViewMut<'_, T>, other: View<'_, T>) -> Result<()> {
    assert_eq!(other.len(), values.len());
    elementwise(stream, "add", [values.address(), other.address()], &values, 1, 1.0)
}

/// `output = input + bias[column]`
pub fn add_bias<T: ModelFloat>(
    stream: &Stream,
    input: View<'_, T>,
    bias: View<'_, f32>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    assert!(input.len() == output.len() && input.len().is_multiple_of(bias.len()));
    elementwise(stream, "add_bias", [input.address(), bias.address()], &output, bias.len(), 1.0)
}

/// `values += bias[column]`
pub fn add_bias_to<T: ModelFloat>(
    stream: &Stream,
    values: ViewMut<'_, T>,
    bias: View<'_, f32>,
) -> Result<()> {
    assert!(values.len().is_multiple_of(bias.len()));
    elementwise(stream, "add_bias", [values.address(), bias.address()], &values, bias.len(), 1.0)
}

/// `output = gelu(input)`
pub fn gelu<T: ModelFloat>(stream: &Stream, input: View<'_, T>, output: ViewMut<'_, T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    elementwise(stream, "gelu_forward", [input.address(), 0], &output, 1, 1.0)
}

/// `gradient *= gelu'(input)`
pub fn gelu_backward<T: ModelFloat>(
    stream: &Stream,
    input: View<'_, T>,
    gradient: ViewMut<'_, T>,
) -> Result<()> {
    assert_eq!(input.len(), gradient.len());
    elementwise(stream, "gelu_backward", [input.address(), gradient.address()], &gradient, 1, 1.0)
}

/// `output = input`, rounded where T is narrower
pub fn narrow<T: ModelFloat>(stream: &Stream, input: View<'_, f32>, output: ViewMut<'_, T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    let operation = if T::DTYPE == DType::F32 { "scale" } else { "narrow" };
    elementwise(stream, operation, [input.address(), 0], &output, 1, 1.0)
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
    let params = params::Mask {
        scores: scores.view().address(),
        mask: mask.view().address(),
        count: scores.len() as u64,
        heads: heads as u32,
        length: length as u32,
    };
    // SAFETY: the lengths were compared.
    unsafe { pass(stream, &name::<T>("add_mask"), scores.len(), &params) }
}

/// What a dropout's rows are.
#[derive(Clone, Copy)]
pub enum DropoutRows<'a> {
    /// Rows of a matrix of as many columns.
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
    run_dropout(stream, "dropout_forward", dropout, rows, (input.address(), input.len()), &output)
}

/// The gradient of [`dropout`]'s input from that of its output.
pub fn dropout_backward<T: ModelFloat>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: View<'_, T>,
    output: ViewMut<'_, T>,
) -> Result<()> {
    run_dropout(stream, "dropout_backward", dropout, rows, (gradient.address(), gradient.len()), &output)
}

/// [`dropout_backward`] in place.
pub fn dropout_backward_to<T: ModelFloat>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: ViewMut<'_, T>,
) -> Result<()> {
    run_dropout(stream, "dropout_backward", dropout, rows, (gradient.address(), gradient.len()), &gradient)
}

fn run_dropout<T: ModelFloat>(
    stream: &Stream,
    operation: &str,
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
    let params = params::Dropout {
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
    unsafe { pass(stream, &name::<T>(operation), length, &params) }
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
    run_softmax::<T>(stream, "softmax_forward", &params)
}

/// From the gradient of the result to that of the input, in place.
pub fn softmax_backward<T: ModelFloat>(
    stream: &Stream,
    gradient: &mut Buffer<T>,
    result: &Buffer<T>,
    columns: usize,
) -> Result<()> {
    assert_eq!(gradient.len(), result.len());
    let params = softmax_params(gradient, result.view().address(), gradient, columns);
    run_softmax::<T>(stream, "softmax_backward", &params)
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
    // SAFETY: the lengths were compared; a block a row.
    unsafe { launch(stream, &name::<T>("log_softmax_forward"), params.rows as usize, SCRATCH_BYTES, &params) }
}

/// From the gradient of the result to that of the input.
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
    unsafe {
        launch(stream, &name::<T>("log_softmax_backward"), params.rows as usize, SCRATCH_BYTES, &params)
    }
}

fn softmax_params<T: ModelFloat>(
    input: &Buffer<T>,
    result: u64,
    output: &Buffer<T>,
    columns: usize,
) -> params::Softmax {
    assert!(columns.is_multiple_of(8) && input.len().is_multiple_of(columns), "rows of {columns}");
    params::Softmax {
        input: input.view().address(),
        result,
        output: output.view().address(),
        rows: (input.len() / columns) as u64,
        columns: columns as u32,
        reserved: 0,
    }
}

fn run_softmax<T: ModelFloat>(stream: &Stream, operation: &str, params: &params::Softmax) -> Result<()> {
    let (rows, columns) = (params.rows as usize, params.columns as usize);
    if columns > SHORT_ROW {
        let kernel = name::<T>(&format!("{operation}_long"));
        // SAFETY: the callers compared the lengths; a block a row.
        return unsafe { launch(stream, &kernel, rows, SCRATCH_BYTES, params) };
    }
    // As the kernels choose.
    let lanes = match columns {
        0..=32 => 4,
        33..=64 => 8,
        65..=128 => 16,
        _ => 32,
    };
    let blocks = rows.div_ceil(THREADS as usize / lanes);
    // SAFETY: as above.
    unsafe { launch(stream, &name::<T>(operation), blocks, 0, params) }
}

/// Runs `likelihood_forward` or `likelihood_backward`, a thread a row.
///
/// # Safety
/// All arrays are valid for the rows and columns of `params`.
pub unsafe fn likelihood<T: ModelFloat>(
    stream: &Stream,
    operation: &str,
    params: &params::Likelihood,
) -> Result<()> {
    let blocks = (params.rows as usize).div_ceil(THREADS as usize);
    // SAFETY: passed on to the caller.
    unsafe { launch(stream, &name::<T>(operation), blocks, 0, params) }
}

/// Runs `split_heads` or `merge_heads`.
///
/// # Safety
/// Both arrays and the prefix sums are valid for the sizes of `params`.
pub unsafe fn heads<T: ModelFloat>(stream: &Stream, operation: &str, params: &params::Heads) -> Result<()> {
    let rows = params.sentences as usize * params.num_heads as usize * params.length as usize;
    // SAFETY: passed on to the caller.
    unsafe { pass(stream, &name::<T>(operation), rows * params.head_dim as usize, params) }
}

/// Runs `embedding_backward`.
///
/// # Safety
/// All arrays are valid for the sizes of `params`, and every id is a row of the table.
pub unsafe fn embedding<T: ModelFloat>(stream: &Stream, params: &params::Embedding) -> Result<()> {
    let count = params.tokens as usize * params.columns as usize;
    // SAFETY: passed on to the caller.
    unsafe { pass(stream, &name::<T>("embedding_backward"), count, params) }
}

/// Runs `baseline_adamw_<part>`.
///
/// # Safety
/// All arrays have `count` elements.
pub unsafe fn adamw(stream: &Stream, part: &str, params: &params::AdamW) -> Result<()> {
    // SAFETY: passed on to the caller.
    unsafe { pass(stream, &format!("baseline_adamw_{part}"), params.count as usize, params) }
}
