//! The first step of the backward: gradients of gamma, beta and the sum of table rows.

use super::Embedding;
use crate::device::params::{EmbeddingBackwardParams, EmbeddingForwardParams};
use crate::device::{Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut, kernels};
use crate::ops::error::{aligned, contiguous, require_length, require_shape};
use crate::ops::layer_norm::{add_partials, partials_workspace, require_row_shape};
use crate::ops::{Result, Workspace};

/// Sums over tokens that the backward computes: for gamma and beta.
const SUMS: usize = 2;

/// Arguments of [`backward`].
#[derive(Debug)]
pub struct Backward<'a, T: ModelFloat> {
    /// As in the forward pass.
    pub embedding: Embedding<'a, T>,
    /// `[tokens]`, from the forward pass
    pub mean: View<'a, f32>,
    /// `[tokens]`, from the forward pass
    pub rstd: View<'a, f32>,
    /// `[tokens, columns]`: gradient of the output
    pub d_output: Matrix<'a, T>,
    /// `[tokens, columns]`: gradient of the sum of table rows; [`segment_sum`](crate::ops::segment_sum) adds it to the tables' gradients. 0 at position 0
    /// of [`Source::Content`](super::Source::Content), where `d_output` is the gradient of the sentence vector.
    pub d_sum: MatrixMut<'a, T>,
    /// `[columns]`, added to
    pub d_gamma: ViewMut<'a, f32>,
    /// `[columns]`, added to
    pub d_beta: ViewMut<'a, f32>,
    /// At least [`workspace`].
    pub workspace: ViewMut<'a, u8>,
}

/// Returns the workspace that [`backward`] needs for `tokens` rows of `columns` columns.
#[must_use]
pub fn workspace(tokens: usize, columns: usize) -> Workspace {
    partials_workspace(partial_rows(tokens, columns), columns.saturating_mul(SUMS))
}

/// Returns the rows of partial sums that the backward writes.
fn partial_rows(tokens: usize, columns: usize) -> usize {
    let forward = EmbeddingForwardParams {
        tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        columns: columns as u32,
        ..EmbeddingForwardParams::default()
    };
    kernels::EMBEDDING_BACKWARD
        .blocks(&EmbeddingBackwardParams { forward, ..EmbeddingBackwardParams::default() })
}

/// Enqueues the gradients of [`forward`](super::forward) for gamma, beta and the sum of table rows.
///
/// # Errors
/// As [`forward`](super::forward), or when the workspace is too small.
pub fn backward<T: ModelFloat>(stream: &Stream, arguments: Backward<'_, T>) -> Result<()> {
    let Backward { embedding, mean, rstd, d_output, d_sum, d_gamma, d_beta, workspace } = arguments;
    let shape @ [tokens, columns] = require_row_shape("d_output", &d_output)?;
    let forward = embedding.params(stream, shape, [mean, rstd])?;
    require_shape("d_sum", &d_sum, shape, "as d_output")?;
    require_length("d_gamma", d_gamma.len(), columns, "columns")?;
    require_length("d_beta", d_beta.len(), columns, "columns")?;
    let params = EmbeddingBackwardParams {
        forward,
        d_output: contiguous(stream, "d_output", &d_output)?,
        d_sum: contiguous(stream, "d_sum", &d_sum)?,
        partials: self::workspace(tokens, columns).address(stream, &workspace)?,
    };
    let outputs = [aligned(stream, "d_gamma", &d_gamma)?, aligned(stream, "d_beta", &d_beta)?];
    // SAFETY: lengths were checked; the kernel checks ids and indices.
    unsafe {
        stream.launch(kernels::EMBEDDING_BACKWARD.of(T::DTYPE)?, &params)?;
        add_partials(stream, partial_rows(tokens, columns), columns, &outputs, params.partials)
    }
}
