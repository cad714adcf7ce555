//! Fields that the losses over a vocabulary share: linear + cross-entropy, and the bag of words.

use std::ffi::c_void;

use retromae::device::Float;
use retromae::ops::cross_entropy::{Algorithm, Gradients};

use crate::call::{Call, size};
use crate::status::{Result, invalid};
use crate::sys;

/// Returns the method of the field `algorithm`.
pub fn algorithm(algorithm: sys::rmae_algorithm) -> Result<Algorithm> {
    match u32::try_from(algorithm) {
        Ok(sys::RMAE_ALGORITHM_LIBRARY) => Ok(Algorithm::Library),
        Ok(sys::RMAE_ALGORITHM_FUSED) => Ok(Algorithm::Fused),
        _ => invalid("algorithm", algorithm, "RMAE_ALGORITHM_LIBRARY (0) or RMAE_ALGORITHM_FUSED (1)"),
    }
}

/// Returns the rows of the field `chunk_rows`, at most all `rows`.
pub fn chunk_rows(chunk_rows: i64, rows: usize) -> Result<usize> {
    match size("chunk_rows", chunk_rows)? {
        0 => Ok(rows),
        chunk => Ok(chunk.min(rows)),
    }
}

/// Returns the gradients that are given, of `[rows, hidden size]` and `[vocabulary, hidden size]`.
pub fn gradients<'a, D, T: Float>(
    call: &Call<'a, D>,
    (d_hidden, d_weight, d_bias): (*mut c_void, *mut f32, *mut f32),
    [rows, hidden_size, vocab_size]: [usize; 3],
) -> Result<Gradients<'a, T>> {
    Ok(Gradients {
        d_hidden: call.optional_matrix_mut("d_hidden", d_hidden, [rows, hidden_size], 0)?,
        d_weight: call.optional_matrix_mut("d_weight", d_weight.cast(), [vocab_size, hidden_size], 0)?,
        d_bias: call.optional_mut("d_bias", d_bias, vocab_size)?,
    })
}
