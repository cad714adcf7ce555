//! The gradient of an embedding table by atomic additions.

use retromae::device::baseline_params::BaselineEmbeddingParams;
use retromae::device::{ModelFloat, Stream, View, ViewMut, kernels};
use retromae::ops::Result;

/// `table[ids[t]] += rows[t]`; `rows` is `[T, H]`, every id a row of the table `[V, H]`.
pub fn backward<T: ModelFloat>(
    stream: &Stream,
    rows: View<'_, T>,
    ids: View<'_, i32>,
    table: ViewMut<'_, f32>,
    columns: usize,
) -> Result<()> {
    assert!(rows.len() == ids.len() * columns && table.len().is_multiple_of(columns));
    let params = BaselineEmbeddingParams {
        rows: rows.address(),
        table: table.address(),
        ids: ids.address(),
        tokens: ids.len() as u32,
        columns: columns as u32,
    };
    // SAFETY: the lengths were compared; the ids are the caller's promise.
    unsafe { stream.launch(kernels::BASELINE_EMBEDDING_BACKWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}
