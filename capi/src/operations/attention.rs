//! Attention.

use retromae::device::{DType, Float};
use retromae::ops::Packed;
use retromae::ops::attention::{
    self, Attention, Backward, BackwardOptions, Forward, Mask, MaskBits, Queries,
};

use crate::call::{Call, count, host_array, product, size, write_host_array};
use crate::status::{Result, invalid};
use crate::types::{RNG_WORDS, count_limit, dropout, dtype, for_float, packed};
use crate::{border, sys};

type Desc = sys::rmae_attention_desc;

/// Sizes of a call.
struct Sizes {
    /// Rows and columns of queries and outputs.
    queries: [usize; 2],
    /// Rows and columns of keys and values.
    keys: [usize; 2],
    /// Elements of the log-sum-exp.
    log_sum_exp: usize,
    num_heads: usize,
    head_dim: usize,
}

fn sizes(desc: &Desc) -> Result<Sizes> {
    let (num_heads, head_dim) = (size("num_heads", desc.num_heads)?, size("head_dim", desc.head_dim)?);
    let keys = size("batch.tokens", desc.batch.tokens)?;
    let has_queries = !desc.queries.cu_seqlens.is_null();
    let queries = if has_queries { size("queries.tokens", desc.queries.tokens)? } else { keys };
    let columns = product("head_dim", head_dim, num_heads)?;
    let log_sum_exp = product("num_heads", num_heads, queries)?;
    Ok(Sizes { queries: [queries, columns], keys: [keys, columns], log_sum_exp, num_heads, head_dim })
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let Sizes { queries, num_heads, head_dim, .. } = sizes(call.desc)?;
    // No pointer tells here whether there are separate queries.
    let queries = queries[0].max(count("queries.tokens", call.desc.queries.tokens)?);
    let atomic = is_atomic(call.desc) && dtype("dtype", call.desc.dtype)? != DType::F32;
    Ok(if atomic { attention::workspace(queries, num_heads, head_dim).bytes() } else { 0 })
}

fn is_atomic(desc: &Desc) -> bool {
    desc.flags & u64::from(sys::RMAE_ATTENTION_ATOMIC) != 0
}

/// Returns what forward and backward pass share.
fn shared<'a>(call: &Call<'a, Desc>, sizes: &Sizes) -> Result<Attention<'a>> {
    let desc = call.desc;
    let batch = packed(call, &desc.batch)?;
    let mut attention = Attention::new(batch, sizes.num_heads, sizes.head_dim)
        .mask(mask(call, batch)?)
        .dropout(dropout(call, &desc.dropout)?)
        .queries(queries(call, batch)?);
    if desc.scale != 0.0 {
        attention.scale = desc.scale;
    }
    Ok(attention)
}

fn queries<'a>(call: &Call<'a, Desc>, batch: Packed<'a>) -> Result<Option<Queries<'a>>> {
    let sys::rmae_queries { cu_seqlens, tokens, max_seqlen, positions } = call.desc.queries;
    if cu_seqlens.is_null() {
        if !positions.is_null() {
            return invalid("queries.positions", "given", "NULL, as queries.cu_seqlens is");
        }
        return Ok(None);
    }
    let packed = Packed {
        cu_seqlens: call.view("queries.cu_seqlens", cu_seqlens, batch.cu_seqlens.len())?,
        tokens: size("queries.tokens", tokens)?,
        max_seqlen: size("queries.max_seqlen", max_seqlen)?,
    };
    Ok(Some(Queries { packed, positions: call.optional("queries.positions", positions, packed.tokens)? }))
}

fn mask<'a>(call: &Call<'a, Desc>, batch: Packed<'a>) -> Result<Mask<'a>> {
    let mask = &call.desc.mask;
    let flag = |flag: u32| mask.flags & flag != 0;
    let kinds = sys::RMAE_MASK_FULL..=sys::RMAE_MASK_PERMUTATION;
    let Some(kind) = u32::try_from(mask.kind).ok().filter(|kind| kinds.contains(kind)) else {
        return invalid("mask.kind", mask.kind, "one of rmae_mask_kind");
    };
    let known = match kind {
        sys::RMAE_MASK_WINDOW => sys::RMAE_MASK_FIRST,
        sys::RMAE_MASK_PERMUTATION => sys::RMAE_MASK_INCLUDE_SELF,
        _ => 0,
    };
    if mask.flags & !known != 0 {
        return invalid(
            "mask.flags",
            format_args!("{:#x}", mask.flags),
            format_args!("{known:#x} or 0, for its kind"),
        );
    }
    let bits = || -> Result<_> {
        let words = size("mask.words", mask.words)?;
        Ok((
            call.view("mask.bits", mask.bits, words)?,
            call.view("mask.offsets", mask.offsets, batch.cu_seqlens.len())?,
        ))
    };
    let limit = |field, positions| match positions {
        -1 => Ok(None),
        positions => match u32::try_from(positions) {
            Ok(positions) => Ok(Some(positions)),
            Err(_) => invalid(field, positions, "-1 (all), or in 0..2^32"),
        },
    };
    Ok(match kind {
        sys::RMAE_MASK_FULL => Mask::Full,
        sys::RMAE_MASK_POOL => {
            let (bits, offsets) = bits()?;
            Mask::Pool { bits, offsets, rows: call.view("mask.rows", mask.rows, batch.tokens)? }
        }
        sys::RMAE_MASK_INDEPENDENT => {
            let (bits, offsets) = bits()?;
            Mask::Independent { bits, offsets }
        }
        sys::RMAE_MASK_BITS => {
            let (bits, offsets) = bits()?;
            Mask::Bits { bits, offsets }
        }
        sys::RMAE_MASK_GENERATED => Mask::Generated {
            rng: call.view("mask.rng", mask.rng, RNG_WORDS)?,
            sentence_indices: call.view("mask.sentence_indices", mask.sentence_indices, batch.sequences())?,
            word_starts: call.view("mask.word_starts", mask.word_starts, batch.tokens.div_ceil(32))?,
            pool_rows_max: size("mask.pool_rows_max", mask.pool_rows_max)?,
            count_limit: count_limit("mask.count_limit", mask.count_limit)?,
        },
        sys::RMAE_MASK_WINDOW => Mask::Window {
            left: limit("mask.left", mask.left)?,
            right: limit("mask.right", mask.right)?,
            first: flag(sys::RMAE_MASK_FIRST),
        },
        _ => Mask::Permutation {
            order: call.view("mask.order", mask.order, batch.tokens)?,
            include_self: flag(sys::RMAE_MASK_INCLUDE_SELF),
        },
    })
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => forward_of::<T>(call))
}

fn forward_of<T: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let sizes = sizes(desc)?;
    let forward = Forward::<T> {
        attention: shared(call, &sizes)?,
        query: call.matrix("query", desc.query, sizes.queries, desc.query_stride)?,
        key: call.matrix("key", desc.key, sizes.keys, desc.key_stride)?,
        value: call.matrix("value", desc.value, sizes.keys, desc.value_stride)?,
        output: call.matrix_mut("output", desc.output, sizes.queries, desc.output_stride)?,
        log_sum_exp: call.view_mut("log_sum_exp", desc.log_sum_exp, sizes.log_sum_exp)?,
    };
    call.enqueue(|stream| attention::forward(stream, forward))
}

pub fn backward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => backward_of::<T>(call))
}

fn backward_of<T: Float>(call: &Call<'_, Desc>) -> Result<()> {
    let desc = call.desc;
    let sizes = sizes(desc)?;
    let Sizes { queries, keys, .. } = sizes;
    let workspace = if is_atomic(desc) && T::DTYPE != DType::F32 {
        Some(call.workspace(desc.workspace, desc.workspace_bytes)?)
    } else {
        None
    };
    let backward = Backward::<T> {
        attention: shared(call, &sizes)?,
        query: call.matrix("query", desc.query, queries, desc.query_stride)?,
        key: call.matrix("key", desc.key, keys, desc.key_stride)?,
        value: call.matrix("value", desc.value, keys, desc.value_stride)?,
        output: call.matrix("output", desc.output, queries, desc.output_stride)?,
        log_sum_exp: call.view("log_sum_exp", desc.log_sum_exp, sizes.log_sum_exp)?,
        d_output: call.matrix("d_output", desc.d_output, queries, desc.d_output_stride)?,
        d_query: call.matrix_mut("d_query", desc.d_query, queries, desc.d_query_stride)?,
        d_key: call.matrix_mut("d_key", desc.d_key, keys, desc.d_key_stride)?,
        d_value: call.matrix_mut("d_value", desc.d_value, keys, desc.d_value_stride)?,
        options: BackwardOptions { workspace, fused_queries_max: None },
    };
    call.enqueue(|stream| attention::backward(stream, backward))
}

/// `rmae_mask_bits` of the header.
///
/// # Safety
/// Each array is null or valid for the length that the header gives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmae_mask_bits(
    lengths: *const i64,
    sequences: i64,
    visible: *const u8,
    offsets: *mut u32,
    bits: *mut u32,
) -> sys::rmae_status {
    border::call(|| {
        // SAFETY: passed on to the caller.
        let lengths = unsafe { host_array("lengths", lengths, count("sequences", sequences)?)? };
        let lengths: Vec<usize> =
            lengths.iter().map(|&length| size("lengths", length)).collect::<Result<_>>()?;
        let starts = MaskBits::offsets_of(&lengths)?;
        if !bits.is_null() {
            // No product or sum overflows, as there are below 2^32 words of bits.
            let squares = lengths.iter().scan(0, |start, &length| {
                let own = *start;
                *start += length * length;
                Some(own)
            });
            let squares: Vec<usize> = squares.collect();
            let total = lengths.iter().map(|&length| length * length).sum();
            // SAFETY: passed on to the caller.
            let visible = unsafe { host_array("visible", visible, total)? };
            let mask = MaskBits::from_fn(&lengths, |sequence, query, key| {
                visible[squares[sequence] + query * lengths[sequence] + key] != 0
            })?;
            // SAFETY: passed on to the caller.
            unsafe { write_host_array("bits", bits, mask.words())? };
        }
        // SAFETY: passed on to the caller.
        unsafe { write_host_array("offsets", offsets, &starts) }
    })
}
as_declared! { rmae_mask_bits }
