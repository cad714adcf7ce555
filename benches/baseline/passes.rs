//! One launch a function: the elementary passes.

use retromae::device::{Buffer, Float, Stream, View, bf16};
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

fn name<T: Float>(operation: &str) -> String {
    format!("baseline_{operation}_{}", T::DTYPE.name())
}

fn elementwise<T: Float>(
    stream: &Stream,
    operation: &str,
    [input, other]: [u64; 2],
    output: &mut Buffer<T>,
    columns: usize,
    factor: f32,
) -> Result<()> {
    let count = output.len();
    let params = params::Elementwise {
        input,
        other,
        output: output.view().address(),
        count: count as u64,
        columns: columns as u32,
        factor,
    };
    // SAFETY: the callers below compare the lengths.
    unsafe { pass(stream, &name::<T>(operation), count, &params) }
}

/// `values *= factor`
pub fn scale<T: Float>(stream: &Stream, values: &mut Buffer<T>, factor: f32) -> Result<()> {
    let address = values.view().address();
    elementwise(stream, "scale", [address, 0], values, 1, factor)
}

/// `output = input + other`
pub fn add<T: Float>(
    stream: &Stream,
    input: View<'_, T>,
    other: View<'_, T>,
    output: &mut Buffer<T>,
) -> Result<()> {
    assert_eq!((input.len(), other.len()), (output.len(), output.len()));
    elementwise(stream, "add", [input.address(), other.address()], output, 1, 1.0)
}

/// `values += other`
pub fn add_to<T: Float>(stream: &Stream, values: &mut Buffer<T>, other: View<'_, T>) -> Result<()> {
    assert_eq!(other.len(), values.len());
    let address = values.view().address();
    elementwise(stream, "add", [address, other.address()], values, 1, 1.0)
}

/// `output = input + bias[column]`
pub fn add_bias<T: Float>(
    stream: &Stream,
    input: View<'_, T>,
    bias: &Buffer<f32>,
    output: &mut Buffer<T>,
) -> Result<()> {
    assert!(input.len() == output.len() && input.len().is_multiple_of(bias.len()));
    let operands = [input.address(), bias.view().address()];
    elementwise(stream, "add_bias", operands, output, bias.len(), 1.0)
}

/// `values += bias[column]`
pub fn add_bias_to<T: Float>(stream: &Stream, values: &mut Buffer<T>, bias: &Buffer<f32>) -> Result<()> {
    assert!(values.len().is_multiple_of(bias.len()));
    let operands = [values.view().address(), bias.view().address()];
    elementwise(stream, "add_bias", operands, values, bias.len(), 1.0)
}

/// `output = gelu(input)`
pub fn gelu<T: Float>(stream: &Stream, input: &Buffer<T>, output: &mut Buffer<T>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    elementwise(stream, "gelu_forward", [input.view().address(), 0], output, 1, 1.0)
}

/// `gradient *= gelu'(input)`
pub fn gelu_backward<T: Float>(stream: &Stream, input: &Buffer<T>, gradient: &mut Buffer<T>) -> Result<()> {
    assert_eq!(input.len(), gradient.len());
    let operands = [input.view().address(), gradient.view().address()];
    elementwise(stream, "gelu_backward", operands, gradient, 1, 1.0)
}

/// `output = input`, rounded
pub fn narrow(stream: &Stream, input: &Buffer<f32>, output: &mut Buffer<bf16>) -> Result<()> {
    assert_eq!(input.len(), output.len());
    elementwise(stream, "narrow", [input.view().address(), 0], output, 1, 1.0)
}

/// Adds `mask`, `[sentences, length, length]`, to the scores of every head.
pub fn add_mask<T: Float>(
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
pub fn dropout<T: Float>(
    stream: &Stream,
    dropout: &mut Dropout,
    rows: DropoutRows<'_>,
    input: View<'_, T>,
    output: &mut Buffer<T>,
) -> Result<()> {
    let address = output.view().address();
    run_dropout(stream, "dropout_forward", dropout, rows, input, (address, output.len()))
}

/// The gradient of [`dropout`]'s input from that of its output.
pub fn dropout_backward<T: Float>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: View<'_, T>,
    output: &mut Buffer<T>,
) -> Result<()> {
    let address = output.view().address();
    run_dropout(stream, "dropout_backward", dropout, rows, gradient, (address, output.len()))
}

/// [`dropout_backward`] in place.
pub fn dropout_backward_to<T: Float>(
    stream: &Stream,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    gradient: &mut Buffer<T>,
) -> Result<()> {
    let address = gradient.view().address();
    run_dropout(stream, "dropout_backward", dropout, rows, gradient.view(), (address, gradient.len()))
}

fn run_dropout<T: Float>(
    stream: &Stream,
    operation: &str,
    dropout: &Dropout,
    rows: DropoutRows<'_>,
    input: View<'_, T>,
    (output, length): (u64, usize),
) -> Result<()> {
    assert_eq!((input.len(), dropout.kept.len()), (length, length));
    let (cu_seqlens, heads, columns) = match rows {
        DropoutRows::Matrix { columns } => (0, 1, columns),
        DropoutRows::Queries { cu_seqlens, heads, length } => (cu_seqlens.view().address(), heads, length),
    };
    let params = params::Dropout {
        input: input.address(),
        output,
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
pub fn softmax<T: Float>(
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
pub fn softmax_backward<T: Float>(
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
pub fn log_softmax<T: Float>(
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
pub fn log_softmax_backward<T: Float>(
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

fn softmax_params<T: Float>(
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

fn run_softmax<T: Float>(stream: &Stream, operation: &str, params: &params::Softmax) -> Result<()> {
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
pub unsafe fn likelihood<T: Float>(
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
pub unsafe fn heads<T: Float>(stream: &Stream, operation: &str, params: &params::Heads) -> Result<()> {
    let rows = params.sentences as usize * params.num_heads as usize * params.length as usize;
    // SAFETY: passed on to the caller.
    unsafe { pass(stream, &name::<T>(operation), rows * params.head_dim as usize, params) }
}

/// Runs `embedding_backward`.
///
/// # Safety
/// All arrays are valid for the sizes of `params`, and every id is a row of the table.
pub unsafe fn embedding<T: Float>(stream: &Stream, params: &params::Embedding) -> Result<()> {
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
