//! Sums of an f32 array to a scalar in device memory, in an order that depends only on the length: equal inputs give equal bits.

use super::error::{aligned, require_length};
use super::{Result, Workspace};
use crate::device::params::ReduceParams;
use crate::device::{Kernel, Stream, View, ViewMut, kernels};

/// Elements per block of the first stage: enough to amortize a block, few enough that 110 million parameters leave fewer partial sums than one
/// block adds in passing.
const ELEMENTS_PER_BLOCK: usize = 16384;

/// Arguments of [`sum`] and [`squares`].
#[derive(Debug)]
pub struct Arguments<'a> {
    /// `[count]`, aligned to 16 bytes
    pub input: View<'a, f32>,
    /// `[1]`: the sum
    pub output: ViewMut<'a, f32>,
    /// Adds to what `output` holds instead of replacing it.
    pub accumulate: bool,
    /// At least [`workspace`]`(count)`
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace of a sum of `count` elements.
#[must_use]
pub fn workspace(count: usize) -> Workspace {
    Workspace::of::<f32>(&[count.div_ceil(ELEMENTS_PER_BLOCK)])
}

/// Enqueues `output (+)= Σ x`.
///
/// # Errors
/// When the input is not aligned to 16 bytes, `output` is not one element, or the workspace is too small.
pub fn sum(stream: &Stream, arguments: Arguments<'_>) -> Result<()> {
    launch(stream, kernels::REDUCE_SUM, arguments)
}

/// Enqueues `output (+)= Σ x²`, such as the squared norm of all gradients.
///
/// # Errors
/// As [`sum`].
pub fn squares(stream: &Stream, arguments: Arguments<'_>) -> Result<()> {
    launch(stream, kernels::REDUCE_SQUARES, arguments)
}

/// Launches `first` for the partial sums, and a sum of those; the elements of one block need only `first`.
fn launch(stream: &Stream, first: Kernel<ReduceParams>, arguments: Arguments<'_>) -> Result<()> {
    let Arguments { input, output, accumulate, workspace } = arguments;
    let partials = input.len().div_ceil(ELEMENTS_PER_BLOCK);
    require_length("output", output.len(), 1, "a scalar")?;
    let between = self::workspace(input.len()).address(stream, &workspace)?;
    let stage = |kernel, input, count: usize, output, elements: usize, accumulate| {
        let params = ReduceParams {
            input,
            output,
            count: count as u64,
            elements_per_block: elements as u32,
            accumulate: u32::from(accumulate),
        };
        // SAFETY: `input` has `count` elements and `output` one for each block.
        unsafe { stream.launch(kernel, &params) }
    };
    let (source, result) = (aligned(stream, "input", &input)?, stream.address("output", &output)?);
    if partials <= 1 {
        stage(first, source, input.len(), result, ELEMENTS_PER_BLOCK, accumulate)?;
    } else {
        stage(first, source, input.len(), between, ELEMENTS_PER_BLOCK, false)?;
        // One block sums all partial sums.
        let elements = partials.next_multiple_of(ELEMENTS_PER_BLOCK);
        stage(kernels::REDUCE_SUM, between, partials, result, elements, accumulate)?;
    }
    Ok(())
}
