//! Row weights of a mean over a number of rows that only the device knows.

use crate::device::params::MeanWeightsParams;
use crate::device::{Stream, View, ViewMut, kernels};
use crate::ops::Result;
use crate::ops::error::{require_count, require_length};

/// Arguments of [`mean_weights`].
#[derive(Debug)]
pub struct MeanWeights<'a> {
    /// `[rows]`: negative for an unused entry
    pub labeled_rows: View<'a, i32>,
    /// Counts whose sum is the number of labeled rows
    pub counts: View<'a, i32>,
    /// `[rows]`: 0 for an unused entry
    pub row_weights: ViewMut<'a, f32>,
    /// Weight of the mean in the total loss
    pub weight: f32,
}

/// Enqueues `row_weights[i] = weight / Σ counts`, which makes the sum of the losses `weight` times their mean.
///
/// # Errors
/// When a length does not fit.
pub fn mean_weights(stream: &Stream, arguments: MeanWeights<'_>) -> Result<()> {
    let MeanWeights { labeled_rows, counts, row_weights, weight } = arguments;
    require_length("row_weights", row_weights.len(), labeled_rows.len(), "as labeled_rows")?;
    let params = MeanWeightsParams {
        labeled_rows: stream.address("labeled_rows", &labeled_rows)?,
        counts: stream.address("counts", &counts)?,
        row_weights: stream.address("row_weights", &row_weights)?,
        rows: require_count("labeled_rows", labeled_rows.len())?,
        sentences: require_count("counts", counts.len())?,
        weight,
        unused: 0,
    };
    // SAFETY: lengths were checked.
    unsafe { stream.launch(kernels::MEAN_WEIGHTS, &params)? };
    Ok(())
}
