//! Structs and enumerations of the header that several operations share, as Rust has them.

use retromae::device::DType;
use retromae::ops::masks::MaskCountLimit;
use retromae::ops::{Dropout, Packed};

use crate::call::{Call, size};
use crate::status::{Failure, Result, Status, invalid};
use crate::sys;

/// Words of a random state.
pub const RNG_WORDS: usize = 4;

/// Returns the type of a field.
pub fn dtype(field: &'static str, dtype: sys::rmae_dtype) -> Result<DType> {
    match u32::try_from(dtype) {
        Ok(sys::RMAE_F32) => Ok(DType::F32),
        Ok(sys::RMAE_BF16) => Ok(DType::Bf16),
        Ok(sys::RMAE_F16) => Ok(DType::F16),
        _ => invalid(field, dtype, "RMAE_F32 (1), RMAE_BF16 (2) or RMAE_F16 (3)"),
    }
}

/// Returns the failure of an operation without kernels for f16.
pub fn no_f16(field: &'static str) -> Failure {
    Failure::field(Status::UnsupportedShape, field, "RMAE_F16", "RMAE_F32 or RMAE_BF16")
}

/// Evaluates an expression with `$T` as the type that the field `dtype` of a call's descriptor names; for f16 another one, if there is one.
macro_rules! for_float {
    ($call:ident, $T:ident => $body:expr) => {
        crate::types::for_float!($call, $T => $body, {
            type $T = retromae::device::f16;
            $body
        })
    };
    ($call:ident, $T:ident => $body:expr, $f16:expr) => {
        match crate::types::dtype("dtype", $call.desc.dtype)? {
            retromae::device::DType::F32 => {
                type $T = f32;
                $body
            }
            retromae::device::DType::Bf16 => {
                type $T = retromae::device::bf16;
                $body
            }
            retromae::device::DType::F16 => $f16,
        }
    };
}

/// As [`for_float`], for operations without kernels for f16.
macro_rules! for_model_float {
    ($call:ident, $T:ident => $body:expr) => {
        crate::types::for_float!($call, $T => $body, Err(crate::types::no_f16("dtype")))
    };
}
/// Evaluates to the segments of a field, within a function that returns a result.
macro_rules! segments {
    ($call:ident, $segments:expr, $field:literal) => {{
        let sys::rmae_segments { offsets, indices, keys, count: segments, indices_length } = $segments;
        let segments = count(concat!($field, ".count"), segments)?;
        let length = count(concat!($field, ".indices_length"), indices_length)?;
        retromae::ops::segment_sum::Segments {
            offsets: $call.view(concat!($field, ".offsets"), offsets, segments + 1)?,
            indices: $call.optional(concat!($field, ".indices"), indices, length)?,
            keys: $call.optional(concat!($field, ".keys"), keys, segments)?,
        }
    }};
}
pub(crate) use {for_float, for_model_float, segments};

/// Returns the packed batch of the field `batch`.
pub fn packed<'a, D>(call: &Call<'a, D>, batch: &sys::rmae_packed) -> Result<Packed<'a>> {
    let sequences = size("batch.sequences", batch.sequences)?;
    Ok(Packed {
        cu_seqlens: call.view("batch.cu_seqlens", batch.cu_seqlens, sequences + 1)?,
        tokens: size("batch.tokens", batch.tokens)?,
        max_seqlen: size("batch.max_seqlen", batch.max_seqlen)?,
    })
}

/// Returns the dropout of the field `dropout`, if it has any.
pub fn dropout<'a, D>(call: &Call<'a, D>, dropout: &sys::rmae_dropout) -> Result<Option<Dropout<'a>>> {
    let &sys::rmae_dropout { rng, rate, site } = dropout;
    let rng = call.optional("dropout.rng", rng, RNG_WORDS)?;
    Ok(rng.map(|rng| Dropout { rng, rate, site }))
}

/// Returns a limit on the tokens that a mask chooses.
pub fn count_limit(field: &'static str, limit: sys::rmae_count_limit) -> Result<MaskCountLimit> {
    let cap = Some(size(field, limit.cap)?).filter(|&cap| cap > 0);
    Ok(MaskCountLimit { ratio: limit.ratio, cap })
}
