//! Attention with every mask, packed projections, and queries that are packed separately.

use std::ffi::c_void;

use retromae::device::{DType, Float, Stream, bf16, f16};
use retromae::ops::attention::{self, Attention, BackwardOptions, Mask, MaskBits, Queries};
use retromae::ops::masks::MaskCountLimit;
use retromae::ops::{Packed, rng_state};
use retromae_capi::*;

use super::dense::{dropout, rust_dropout};
use crate::common::{
    Case, Field, Memory, code, device, integers, matrix, matrix_mut, maybe, prefix_sums, view, view_mut,
    workspace,
};
use crate::{case, fields, give_workspace, init};

const LENGTHS: [usize; 4] = [17, 0, 33, 1];
const QUERY_LENGTHS: [usize; 4] = [3, 0, 5, 1];
const POSITIONS: [i32; 9] = [2, 0, 16, 7, 32, 1, 9, 30, 0];
const POOL_ROWS: usize = 6;

pub fn cases(memory: fn() -> Memory) -> Vec<Case> {
    let mut all = Vec::new();
    let kinds = [
        (RMAE_MASK_FULL, 32),
        (RMAE_MASK_POOL, 32),
        (RMAE_MASK_INDEPENDENT, 64),
        (RMAE_MASK_BITS, 96),
        (RMAE_MASK_GENERATED, 32),
        (RMAE_MASK_WINDOW, 128),
        (RMAE_MASK_PERMUTATION, 32),
    ];
    for (index, (mask, head_dim)) in kinds.into_iter().enumerate() {
        let form = Form { mask, head_dim, has_queries: index % 2 == 1, ..Form::default() };
        for dropout in [false, true] {
            all.extend(both::<f32>(memory, Form { dropout, ..form }));
            all.extend(both::<bf16>(memory, Form { dropout, ..form }));
            all.extend(both::<f16>(memory, Form { dropout, has_queries: false, ..form }));
        }
    }
    let packed = Form { is_packed: true, ..Form::default() };
    all.extend(both::<f32>(memory, packed));
    all.extend(both::<bf16>(memory, Form { is_atomic: true, ..packed }));
    all
}

fn both<T: Float>(memory: fn() -> Memory, form: Form) -> [Case; 2] {
    [attention::<T>(memory(), form, false), attention::<T>(memory(), form, true)]
}

#[derive(Clone, Copy)]
struct Form {
    mask: u32,
    head_dim: usize,
    dropout: bool,
    has_queries: bool,
    /// Queries, keys and values side by side, and their gradients, too.
    is_packed: bool,
    is_atomic: bool,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            mask: RMAE_MASK_FULL,
            head_dim: 32,
            dropout: false,
            has_queries: false,
            is_packed: false,
            is_atomic: false,
        }
    }
}

const HEADS: usize = 2;

/// Three matrices of this shape: apart, or side by side.
fn three<T: Float>(
    memory: &mut Memory,
    rows: [usize; 3],
    columns: usize,
    is_packed: bool,
) -> ([*mut c_void; 3], i64) {
    if is_packed {
        let first = memory.floats::<T>(20, rows[0] * 3 * columns);
        return (
            [0, 1, 2].map(|i| first.wrapping_byte_add(i * columns * size_of::<T>())),
            3 * columns as i64,
        );
    }
    // Gaps of 8 elements.
    let stride = columns + 8;
    let seeds = [21, 22, 23];
    let place = |i: usize| memory.floats::<T>(seeds[i], (rows[i] - 1) * stride + columns);
    ([0, 1, 2].map(place), stride as i64)
}

fn description<T: Float>(memory: &mut Memory, form: Form) -> rmae_attention_desc {
    let tokens: usize = LENGTHS.iter().sum();
    let queries = if form.has_queries { POSITIONS.len() } else { tokens };
    let columns = HEADS * form.head_dim;
    let ([query, key, value], stride) =
        three::<T>(memory, [queries, tokens, tokens], columns, form.is_packed);
    rmae_attention_desc {
        flags: if form.is_atomic { u64::from(RMAE_ATTENTION_ATOMIC) } else { 0 },
        dtype: code::<T>(),
        scale: if form.dropout { 0.3 } else { 0.0 },
        num_heads: HEADS as i64,
        head_dim: form.head_dim as i64,
        batch: rmae_packed {
            cu_seqlens: memory.put(&prefix_sums(&LENGTHS)),
            sequences: LENGTHS.len() as i64,
            tokens: tokens as i64,
            max_seqlen: 33,
        },
        queries: if form.has_queries {
            rmae_queries {
                cu_seqlens: memory.put(&prefix_sums(&QUERY_LENGTHS)),
                tokens: queries as i64,
                max_seqlen: 5,
                positions: memory.put(&POSITIONS),
            }
        } else {
            rmae_queries {
                cu_seqlens: std::ptr::null(),
                tokens: 0,
                max_seqlen: 0,
                positions: std::ptr::null(),
            }
        },
        mask: mask(memory, form.mask),
        dropout: if form.dropout {
            dropout(memory)
        } else {
            rmae_dropout { rng: std::ptr::null(), rate: f32::NAN, site: 7 }
        },
        query,
        query_stride: stride,
        key,
        key_stride: stride,
        value,
        value_stride: stride,
        output: memory.floats::<T>(24, queries * columns),
        log_sum_exp: memory.floats::<f32>(25, HEADS * queries).cast(),
        ..init!(rmae_attention_desc, RMAE_ATTENTION_VERSION)
    }
}

/// A mask in which about two of three keys are visible.
fn visible(sequence: usize, query: usize, key: usize) -> bool {
    !(sequence + 5 * query + 4 * key * key).is_multiple_of(3)
}

fn mask(memory: &mut Memory, kind: u32) -> rmae_mask {
    let tokens: usize = LENGTHS.iter().sum();
    // SAFETY: numbers and addresses, all of which may be 0.
    let mut mask: rmae_mask = unsafe { std::mem::zeroed() };
    mask.kind = kind as rmae_mask_kind;
    let mut put_bits = |words: &[u32], offsets: &[u32]| {
        mask.bits = memory.put(words);
        mask.words = words.len() as i64;
        mask.offsets = memory.put(offsets);
    };
    match kind {
        RMAE_MASK_POOL => {
            let offsets = retromae::ops::masks::pool_offsets(&prefix_sums(&LENGTHS), POOL_ROWS).unwrap();
            let words = integers(31, offsets[LENGTHS.len()] as usize, u32::MAX);
            put_bits(bytemuck::cast_slice(&words), &offsets);
            let row = |(index, length): (usize, &usize)| {
                integers(index as u64, *length, POOL_ROWS.min((*length).max(1)) as u32)
            };
            let rows: Vec<u16> = LENGTHS.iter().enumerate().flat_map(row).map(|row| row as u16).collect();
            mask.rows = memory.put(&rows);
        }
        RMAE_MASK_INDEPENDENT | RMAE_MASK_BITS => {
            let bits = MaskBits::from_fn(&LENGTHS, visible).unwrap();
            put_bits(bits.words(), bits.offsets());
        }
        RMAE_MASK_GENERATED => {
            mask.rng = memory.put(&rng_state(8, 2));
            mask.sentence_indices = memory.put(&[4u32, 9, 2, 7]);
            mask.word_starts = memory.put(&[0xdead_beefu32, 0x1234_5677]);
            mask.pool_rows_max = POOL_ROWS as i64;
            mask.count_limit = rmae_count_limit { ratio: 0.5, cap: 10 };
        }
        RMAE_MASK_WINDOW => {
            (mask.left, mask.right, mask.flags) = (3, -1, RMAE_MASK_FIRST);
        }
        RMAE_MASK_PERMUTATION => {
            let order: Vec<u16> = (0..tokens).map(|token| (token * 7 % 17) as u16).collect();
            mask.order = memory.put(&order);
            mask.flags = RMAE_MASK_INCLUDE_SELF;
        }
        _ => {}
    }
    mask
}

fn rust_mask(mask: rmae_mask) -> Mask<'static> {
    let tokens: usize = LENGTHS.iter().sum();
    let bits = || view(mask.bits, mask.words as usize);
    let offsets = || view(mask.offsets, LENGTHS.len() + 1);
    match mask.kind as u32 {
        RMAE_MASK_FULL => Mask::Full,
        RMAE_MASK_POOL => Mask::Pool { bits: bits(), offsets: offsets(), rows: view(mask.rows, tokens) },
        RMAE_MASK_INDEPENDENT => Mask::Independent { bits: bits(), offsets: offsets() },
        RMAE_MASK_BITS => Mask::Bits { bits: bits(), offsets: offsets() },
        RMAE_MASK_GENERATED => Mask::Generated {
            rng: view(mask.rng, 4),
            sentence_indices: view(mask.sentence_indices, LENGTHS.len()),
            word_starts: view(mask.word_starts, tokens.div_ceil(32)),
            pool_rows_max: POOL_ROWS,
            count_limit: MaskCountLimit { ratio: 0.5, cap: Some(10) },
        },
        RMAE_MASK_WINDOW => Mask::Window { left: Some(3), right: None, first: true },
        _ => Mask::Permutation { order: view(mask.order, tokens), include_self: true },
    }
}

/// Returns the fields that both passes read.
fn common_fields(desc: &rmae_attention_desc, form: Form) -> Vec<Field> {
    let mut all = fields! { rmae_attention_desc:
        Enum dtype, F32 scale, Size num_heads, Size head_dim, IN batch.cu_seqlens, Size batch.sequences,
        Size batch.tokens, Size batch.max_seqlen, MAYBE queries.cu_seqlens, MAYBE queries.positions, Enum mask.kind,
        Flags32 mask.flags, MAYBE dropout.rng, IN16 query, Stride query_stride, IN16 key, Stride key_stride,
        IN16 value, Stride value_stride,
    };
    all.extend(match desc.mask.kind as u32 {
        RMAE_MASK_POOL => fields! { rmae_attention_desc:
            IN mask.bits, Size mask.words, IN mask.offsets, IN mask.rows
        },
        RMAE_MASK_INDEPENDENT | RMAE_MASK_BITS => fields! { rmae_attention_desc:
            IN mask.bits, Size mask.words, IN mask.offsets
        },
        RMAE_MASK_GENERATED => fields! { rmae_attention_desc:
            IN mask.rng, IN mask.sentence_indices, IN mask.word_starts, Size mask.pool_rows_max,
            F64 mask.count_limit.ratio, Size mask.count_limit.cap,
        },
        RMAE_MASK_WINDOW => fields! { rmae_attention_desc: I64 mask.left, I64 mask.right },
        RMAE_MASK_PERMUTATION => fields! { rmae_attention_desc: IN mask.order },
        _ => vec![],
    });
    if form.dropout {
        all.extend(fields! { rmae_attention_desc: F32 dropout.rate, I32 dropout.site });
    }
    if form.has_queries {
        all.extend(fields! { rmae_attention_desc: Size queries.tokens, Size queries.max_seqlen });
    }
    all
}

fn rust_attention(desc: &rmae_attention_desc, form: Form) -> Attention<'static> {
    let packed = |cu_seqlens, tokens, max_seqlen: i64| Packed {
        cu_seqlens: view(cu_seqlens, LENGTHS.len() + 1),
        tokens,
        max_seqlen: max_seqlen as usize,
    };
    let batch = packed(desc.batch.cu_seqlens, desc.batch.tokens as usize, desc.batch.max_seqlen);
    let queries = form.has_queries.then(|| Queries {
        packed: packed(desc.queries.cu_seqlens, desc.queries.tokens as usize, desc.queries.max_seqlen),
        positions: maybe(desc.queries.positions, |positions| view(positions, POSITIONS.len())),
    });
    let attention = Attention::new(batch, HEADS, form.head_dim)
        .mask(rust_mask(desc.mask))
        .dropout(if form.dropout { rust_dropout(desc.dropout) } else { None })
        .queries(queries);
    if desc.scale == 0.0 { attention } else { attention.scale(desc.scale) }
}

/// Shapes of the queries and of the keys.
fn shapes(desc: &rmae_attention_desc, form: Form) -> [[usize; 2]; 2] {
    let columns = HEADS * form.head_dim;
    let keys = desc.batch.tokens as usize;
    [[if form.has_queries { POSITIONS.len() } else { keys }, columns], [keys, columns]]
}

fn forward<T: Float>(stream: &Stream, desc: &rmae_attention_desc, form: Form) -> retromae::ops::Result<()> {
    let [queries, keys] = shapes(desc, form);
    let arguments = attention::Forward::<T> {
        attention: rust_attention(desc, form),
        query: matrix(desc.query, queries, desc.query_stride),
        key: matrix(desc.key, keys, desc.key_stride),
        value: matrix(desc.value, keys, desc.value_stride),
        output: matrix_mut(desc.output, queries, desc.output_stride),
        log_sum_exp: view_mut(desc.log_sum_exp, HEADS * queries[0]),
    };
    attention::forward(stream, arguments)
}

fn backward<T: Float>(stream: &Stream, desc: &rmae_attention_desc, form: Form) -> retromae::ops::Result<()> {
    let [queries, keys] = shapes(desc, form);
    let has_workspace = form.is_atomic && T::DTYPE != DType::F32;
    let arguments = attention::Backward::<T> {
        attention: rust_attention(desc, form),
        query: matrix(desc.query, queries, desc.query_stride),
        key: matrix(desc.key, keys, desc.key_stride),
        value: matrix(desc.value, keys, desc.value_stride),
        output: matrix(desc.output, queries, desc.output_stride),
        log_sum_exp: view(desc.log_sum_exp, HEADS * queries[0]),
        d_output: matrix(desc.d_output, queries, desc.d_output_stride),
        d_query: matrix_mut(desc.d_query, queries, desc.d_query_stride),
        d_key: matrix_mut(desc.d_key, keys, desc.d_key_stride),
        d_value: matrix_mut(desc.d_value, keys, desc.d_value_stride),
        options: BackwardOptions {
            workspace: has_workspace.then(|| workspace(desc.workspace, desc.workspace_bytes, false)),
            fused_queries_max: None,
        },
    };
    attention::backward(stream, arguments)
}

fn attention<T: Float>(mut memory: Memory, form: Form, is_backward: bool) -> Case {
    let mut desc = description::<T>(&mut memory, form);
    let mut fields = common_fields(&desc, form);
    let packed = if form.is_packed { " packed" } else { "" };
    let name =
        |pass| format!("attention_{pass} {} mask {} d{}{packed}", T::DTYPE.name(), form.mask, form.head_dim);
    if !is_backward {
        fields.extend(fields! { rmae_attention_desc: OUT16 output, Stride output_stride, OUT log_sum_exp });
        return case!(
            name("forward"),
            rmae_attention_forward,
            desc,
            memory,
            fields,
            move |stream| forward::<T>(stream, &desc, form)
        );
    }
    // The gradients are those of this output.
    forward::<T>(&device().stream(), &desc, form).unwrap();
    let [queries, keys] = shapes(&desc, form);
    desc.d_output = memory.floats::<T>(26, queries[0] * queries[1]);
    let ([d_query, d_key, d_value], stride) =
        three::<T>(&mut memory, [queries[0], keys[0], keys[0]], keys[1], form.is_packed);
    (desc.d_query, desc.d_key, desc.d_value) = (d_query, d_key, d_value);
    (desc.d_query_stride, desc.d_key_stride, desc.d_value_stride) = (stride, stride, stride);
    memory.adopt();
    fields.extend(fields! { rmae_attention_desc:
        IN16 output, Stride output_stride, IN log_sum_exp, IN16 d_output, Stride d_output_stride, OUT16 d_query,
        Stride d_query_stride, OUT16 d_key, Stride d_key_stride, OUT16 d_value, Stride d_value_stride,
    });
    if form.is_atomic {
        give_workspace!(desc, memory, rmae_attention_workspace);
        fields.extend(fields! { rmae_attention_desc: WORKSPACE workspace, WorkspaceBytes workspace_bytes });
    }
    case!(
        name("backward"),
        rmae_attention_backward,
        rmae_attention_workspace,
        desc,
        memory,
        fields,
        move |stream| backward::<T>(stream, &desc, form)
    )
}
