//! Masks sampled on the device.

use retromae::ops::masks::{self, Corruption, Outputs, Pool, Replacement, Sentences};

use crate::call::{Call, count, host_array, size, write_host_array};
use crate::status::Result;
use crate::types::{RNG_WORDS, count_limit};
use crate::{border, sys};

type Desc = sys::rmae_masks_desc;

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let desc = call.desc;
    let [tokens, length_max] = [count("tokens", desc.tokens)?, count("length_max", desc.length_max)?];
    let rows_max = count("pool.rows_max", desc.pool.rows_max)?;
    Ok(masks::workspace(tokens, length_max, rows_max).bytes())
}

/// Returns the corruption of a field, if it has any.
macro_rules! corruption {
    ($call:ident, $field:ident, $tokens:ident, $sentences:ident) => {{
        let corruption = &$call.desc.$field;
        if corruption.ids.is_null() {
            None
        } else {
            let sys::rmae_replacement { mask_id, vocab_size, mask_share, random_share } =
                corruption.replacement;
            let vocab_size = size(concat!(stringify!($field), ".replacement.vocab_size"), vocab_size)?;
            let labeled = count(concat!(stringify!($field), ".labeled"), corruption.labeled)?;
            Some(Corruption {
                count_limit: count_limit(
                    concat!(stringify!($field), ".count_limit"),
                    corruption.count_limit,
                )?,
                replacement: Replacement { mask_id, vocab_size, mask_share, random_share },
                ids: $call.view(concat!(stringify!($field), ".ids"), corruption.ids, $tokens)?,
                input_ids: $call.view_mut(
                    concat!(stringify!($field), ".input_ids"),
                    corruption.input_ids,
                    $tokens,
                )?,
                offsets: $call.view(
                    concat!(stringify!($field), ".offsets"),
                    corruption.offsets,
                    $sentences + 1,
                )?,
                labeled_rows: $call.view_mut(
                    concat!(stringify!($field), ".labeled_rows"),
                    corruption.labeled_rows,
                    labeled,
                )?,
                targets: $call.view_mut(
                    concat!(stringify!($field), ".targets"),
                    corruption.targets,
                    labeled,
                )?,
                counts: $call.view_mut(
                    concat!(stringify!($field), ".counts"),
                    corruption.counts,
                    $sentences,
                )?,
            })
        }
    }};
}

pub fn sample(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let [tokens, sentences] = [count("tokens", desc.tokens)?, count("sentences", desc.sentences)?];
    let arguments = Sentences {
        rng: call.view("rng", desc.rng, RNG_WORDS)?,
        cu_seqlens: call.view("cu_seqlens", desc.cu_seqlens, sentences + 1)?,
        indices: call.view("indices", desc.indices, sentences)?,
        word_starts: call.view("word_starts", desc.word_starts, tokens.div_ceil(32))?,
        tokens,
        length_max: size("length_max", desc.length_max)?,
    };
    let outputs = Outputs {
        pool: pool(call, tokens, sentences)?,
        encoder: corruption!(call, encoder, tokens, sentences),
        decoder: corruption!(call, decoder, tokens, sentences),
    };
    call.enqueue(|stream| masks::sample(stream, arguments, outputs))
}

fn pool<'a>(call: &Call<'a, Desc>, tokens: usize, sentences: usize) -> Result<Option<Pool<'a>>> {
    let pool = &call.desc.pool;
    if pool.bits.is_null() {
        return Ok(None);
    }
    Ok(Some(Pool {
        count_limit: count_limit("pool.count_limit", pool.count_limit)?,
        rows_max: size("pool.rows_max", pool.rows_max)?,
        offsets: call.view("pool.offsets", pool.offsets, sentences + 1)?,
        bits: call.view_mut("pool.bits", pool.bits, size("pool.words", pool.words)?)?,
        rows: call.optional_mut("pool.rows", pool.rows, tokens)?,
        workspace: call.workspace(call.desc.workspace, call.desc.workspace_bytes)?,
    }))
}

/// `rmae_masks_pool_offsets` of the header.
///
/// # Safety
/// Arrays are null or valid for `sentences + 1` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_masks_pool_offsets(
    cu_seqlens: *const i32,
    sentences: i64,
    rows_max: i64,
    offsets: *mut u32,
) -> sys::rmae_status {
    border::call(|| {
        let rows_max = size("rows_max", rows_max)?;
        // SAFETY: passed on to the caller.
        unsafe {
            let cu_seqlens = host_array("cu_seqlens", cu_seqlens, count("sentences", sentences)? + 1)?;
            write_host_array("offsets", offsets, &masks::pool_offsets(cu_seqlens, rows_max)?)
        }
    })
}
as_declared! { rmae_masks_pool_offsets }

/// `rmae_masks_labeled_offsets` of the header.
///
/// # Safety
/// Arrays are null or valid for `sentences + 1` elements.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_masks_labeled_offsets(
    cu_seqlens: *const i32,
    sentences: i64,
    limit: sys::rmae_count_limit,
    offsets: *mut i32,
) -> sys::rmae_status {
    border::call(|| {
        let limit = count_limit("count_limit", limit)?;
        // SAFETY: passed on to the caller.
        unsafe {
            let cu_seqlens = host_array("cu_seqlens", cu_seqlens, count("sentences", sentences)? + 1)?;
            write_host_array("offsets", offsets, &masks::labeled_offsets(cu_seqlens, limit)?)
        }
    })
}
as_declared! { rmae_masks_labeled_offsets }
