//! Batches, copied from the caller.

use retromae::model::{Batch, Input, MaskPool, Masking, PackedSentences, PoolRows};

use crate::call::{host_array, read_descriptor, size};
use crate::status::{Result, invalid};
use crate::sys;
use crate::types::count_limit;

/// A batch that was copied from the caller.
pub enum OwnBatch {
    Explicit(Batch),
    Sampled(PackedSentences, Masking),
}

impl OwnBatch {
    pub fn input(&self) -> Input<'_> {
        match self {
            Self::Explicit(batch) => Input::Explicit(batch),
            Self::Sampled(sentences, masking) => Input::Sampled(sentences, *masking),
        }
    }
}

/// Copies prefix sums of the host; returns them with the number of tokens.
///
/// # Safety
/// `cu_seqlens` is null or valid for `sentences + 1` elements.
pub unsafe fn prefix_sums(sentences: i64, cu_seqlens: *const i32) -> Result<(Vec<i32>, usize)> {
    let sentences = size("sentences", sentences)?;
    // SAFETY: passed on to the caller.
    let cu_seqlens = unsafe { host_array("cu_seqlens", cu_seqlens, sentences + 1)?.to_vec() };
    let tokens = cu_seqlens[sentences];
    match usize::try_from(tokens) {
        Ok(tokens) if cu_seqlens.is_sorted() && cu_seqlens[0] == 0 => Ok((cu_seqlens, tokens)),
        _ => invalid(
            "cu_seqlens",
            format_args!("from {} to {tokens}", cu_seqlens[0]),
            "prefix sums from 0, never falling",
        ),
    }
}

/// Copies a batch.
///
/// # Safety
/// `batch` is null or points to a batch, whose arrays are valid for their lengths.
pub unsafe fn batch_of(batch: *const sys::rmae_batch) -> Result<OwnBatch> {
    // SAFETY: passed on to the caller.
    let batch = unsafe { read_descriptor(batch)? };
    // SAFETY: as above.
    let (cu_seqlens, tokens) = unsafe { prefix_sums(batch.sentences, batch.cu_seqlens)? };
    let sentences = cu_seqlens.len() - 1;
    if !batch.ids.is_null() {
        // SAFETY: as above.
        let sentences = unsafe {
            PackedSentences {
                sentence_indices: host_array("sentence_indices", batch.sentence_indices, sentences)?.to_vec(),
                ids: host_array("ids", batch.ids, tokens)?.to_vec(),
                word_starts: host_array("word_starts", batch.word_starts, tokens.div_ceil(32))?.to_vec(),
                cu_seqlens,
            }
        };
        let masking = Masking {
            mask_id: batch.mask_id,
            encoder: count_limit("encoder_limit", batch.encoder_limit)?,
            decoder: count_limit("decoder_limit", batch.decoder_limit)?,
            pool_rows: match size("pool_rows", batch.pool_rows)? {
                0 => PoolRows::Independent,
                rows => PoolRows::AtMost(rows),
            },
        };
        return Ok(OwnBatch::Sampled(sentences, masking));
    }
    let visibility = if batch.visibility_bits.is_null() {
        None
    } else {
        let words = size("visibility_words", batch.visibility_words)?;
        // SAFETY: as above.
        Some(unsafe {
            MaskPool {
                bits: host_array("visibility_bits", batch.visibility_bits, words)?.to_vec(),
                offsets: host_array("visibility_offsets", batch.visibility_offsets, sentences + 1)?.to_vec(),
                rows: host_array("visibility_rows", batch.visibility_rows, tokens)?.to_vec(),
            }
        })
    };
    // SAFETY: as above.
    Ok(OwnBatch::Explicit(unsafe {
        Batch {
            encoder_input_ids: host_array("encoder_input_ids", batch.encoder_input_ids, tokens)?.to_vec(),
            encoder_labels: host_array("encoder_labels", batch.encoder_labels, tokens)?.to_vec(),
            decoder_input_ids: host_array("decoder_input_ids", batch.decoder_input_ids, tokens)?.to_vec(),
            decoder_labels: host_array("decoder_labels", batch.decoder_labels, tokens)?.to_vec(),
            visibility,
            cu_seqlens,
        }
    }))
}
