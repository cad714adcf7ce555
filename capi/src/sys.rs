//! The C interface as Rust reads it: the output of bindgen for `include/retromae.h`.
//!
//! Do not edit; run `cargo build --package retromae-capi --features bindgen`.
#![allow(dead_code, missing_docs, non_camel_case_types, clippy::pedantic, clippy::all)]

pub const RMAE_VERSION_MAJOR: u32 = 0;
pub const RMAE_VERSION_MINOR: u32 = 1;
pub const RMAE_VERSION_PATCH: u32 = 0;
pub const RMAE_DEVICE_NO_FAULT_HANDLERS: u32 = 1;
pub const RMAE_MASK_FIRST: u32 = 1;
pub const RMAE_MASK_INCLUDE_SELF: u32 = 2;
pub const RMAE_ATTENTION_ATOMIC: u32 = 1;
pub const RMAE_ATTENTION_VERSION: u32 = 1;
pub const RMAE_CROSS_ENTROPY_IGNORE_INDEX: u32 = 1;
pub const RMAE_CROSS_ENTROPY_VERSION: u32 = 1;
pub const RMAE_MEAN_WEIGHTS_VERSION: u32 = 1;
pub const RMAE_BAG_OF_WORDS_VERSION: u32 = 1;
pub const RMAE_LINEAR_ACCUMULATE: u32 = 1;
pub const RMAE_LINEAR_VERSION: u32 = 1;
pub const RMAE_MATMUL_LEFT_TRANSPOSED: u32 = 1;
pub const RMAE_MATMUL_RIGHT_TRANSPOSED: u32 = 2;
pub const RMAE_MATMUL_ACCUMULATE: u32 = 4;
pub const RMAE_MATMUL_VERSION: u32 = 1;
pub const RMAE_LAYER_NORM_VERSION: u32 = 1;
pub const RMAE_BIAS_GELU_VERSION: u32 = 1;
pub const RMAE_SUM_ACCUMULATE: u32 = 1;
pub const RMAE_COLUMN_SUM_VERSION: u32 = 1;
pub const RMAE_REDUCE_VERSION: u32 = 1;
pub const RMAE_SEGMENT_SUM_VERSION: u32 = 1;
pub const RMAE_ROWS_VERSION: u32 = 1;
pub const RMAE_GROUP_BY_KEY_VERSION: u32 = 1;
pub const RMAE_EMBEDDING_VERSION: u32 = 1;
pub const RMAE_MASKS_VERSION: u32 = 1;
pub const RMAE_ADAMW_VERSION: u32 = 1;
pub const RMAE_BATCH_VERSION: u32 = 1;
pub type rmae_status = i32;
pub const RMAE_OK: _bindgen_ty_1 = 0;
pub const RMAE_INVALID_ARGUMENT: _bindgen_ty_1 = 1000;
pub const RMAE_INVALID_DESCRIPTOR: _bindgen_ty_1 = 1001;
pub const RMAE_NULL_POINTER: _bindgen_ty_1 = 1002;
pub const RMAE_MISALIGNED: _bindgen_ty_1 = 1003;
pub const RMAE_OVERLAP: _bindgen_ty_1 = 1004;
pub const RMAE_WORKSPACE_TOO_SMALL: _bindgen_ty_1 = 1005;
pub const RMAE_INVALID_HANDLE: _bindgen_ty_1 = 1006;
pub const RMAE_WRONG_DEVICE: _bindgen_ty_1 = 1007;
pub const RMAE_UNSUPPORTED_SHAPE: _bindgen_ty_1 = 2000;
pub const RMAE_UNSUPPORTED_HARDWARE: _bindgen_ty_1 = 2001;
pub const RMAE_CAPTURING: _bindgen_ty_1 = 3000;
pub const RMAE_OUT_OF_MEMORY: _bindgen_ty_1 = 4000;
pub const RMAE_DEVICE_ERROR: _bindgen_ty_1 = 4001;
pub const RMAE_DEVICE_LOST: _bindgen_ty_1 = 4002;
pub const RMAE_FILE_ERROR: _bindgen_ty_1 = 5000;
pub const RMAE_INTERNAL: _bindgen_ty_1 = 9000;
pub type _bindgen_ty_1 = ::core::ffi::c_uint;
unsafe extern "C" {
    pub fn rmae_status_name(status: rmae_status) -> *const ::core::ffi::c_char;
}
unsafe extern "C" {
    pub fn rmae_last_error() -> *const ::core::ffi::c_char;
}
unsafe extern "C" {
    pub fn rmae_version(major: *mut i32, minor: *mut i32, patch: *mut i32);
}
pub type rmae_dtype = i32;
pub const RMAE_F32: _bindgen_ty_2 = 1;
pub const RMAE_BF16: _bindgen_ty_2 = 2;
pub const RMAE_F16: _bindgen_ty_2 = 3;
pub type _bindgen_ty_2 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_device_s {
    _unused: [u8; 0],
}
pub type rmae_device = *mut rmae_device_s;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_model_s {
    _unused: [u8; 0],
}
pub type rmae_model = *mut rmae_model_s;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_packed {
    pub cu_seqlens: *const i32,
    pub sequences: i64,
    pub tokens: i64,
    pub max_seqlen: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_packed"][::core::mem::size_of::<rmae_packed>() - 32usize];
    ["Alignment of rmae_packed"][::core::mem::align_of::<rmae_packed>() - 8usize];
    ["Offset of field: rmae_packed::cu_seqlens"][::core::mem::offset_of!(rmae_packed, cu_seqlens) - 0usize];
    ["Offset of field: rmae_packed::sequences"][::core::mem::offset_of!(rmae_packed, sequences) - 8usize];
    ["Offset of field: rmae_packed::tokens"][::core::mem::offset_of!(rmae_packed, tokens) - 16usize];
    ["Offset of field: rmae_packed::max_seqlen"][::core::mem::offset_of!(rmae_packed, max_seqlen) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_dropout {
    pub rng: *const u32,
    pub rate: f32,
    pub site: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_dropout"][::core::mem::size_of::<rmae_dropout>() - 16usize];
    ["Alignment of rmae_dropout"][::core::mem::align_of::<rmae_dropout>() - 8usize];
    ["Offset of field: rmae_dropout::rng"][::core::mem::offset_of!(rmae_dropout, rng) - 0usize];
    ["Offset of field: rmae_dropout::rate"][::core::mem::offset_of!(rmae_dropout, rate) - 8usize];
    ["Offset of field: rmae_dropout::site"][::core::mem::offset_of!(rmae_dropout, site) - 12usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_count_limit {
    pub ratio: f64,
    pub cap: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_count_limit"][::core::mem::size_of::<rmae_count_limit>() - 16usize];
    ["Alignment of rmae_count_limit"][::core::mem::align_of::<rmae_count_limit>() - 8usize];
    ["Offset of field: rmae_count_limit::ratio"][::core::mem::offset_of!(rmae_count_limit, ratio) - 0usize];
    ["Offset of field: rmae_count_limit::cap"][::core::mem::offset_of!(rmae_count_limit, cap) - 8usize];
};
unsafe extern "C" {
    pub fn rmae_device_open(
        name: *const ::core::ffi::c_char,
        flags: u64,
        device: *mut rmae_device,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_device_close(device: rmae_device) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_device_description(
        device: rmae_device,
        text: *mut ::core::ffi::c_char,
        bytes: usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_stream_synchronize(device: rmae_device, stream: *mut ::core::ffi::c_void) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_rng_state(seed: u64, step: u32, words: *mut u32);
}
pub type rmae_mask_kind = i32;
pub const RMAE_MASK_FULL: _bindgen_ty_3 = 0;
pub const RMAE_MASK_POOL: _bindgen_ty_3 = 1;
pub const RMAE_MASK_INDEPENDENT: _bindgen_ty_3 = 2;
pub const RMAE_MASK_BITS: _bindgen_ty_3 = 3;
pub const RMAE_MASK_GENERATED: _bindgen_ty_3 = 4;
pub const RMAE_MASK_WINDOW: _bindgen_ty_3 = 5;
pub const RMAE_MASK_PERMUTATION: _bindgen_ty_3 = 6;
pub type _bindgen_ty_3 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_mask {
    pub kind: rmae_mask_kind,
    pub flags: u32,
    pub bits: *const u32,
    pub words: i64,
    pub offsets: *const u32,
    pub rows: *const u16,
    pub order: *const u16,
    pub left: i64,
    pub right: i64,
    pub rng: *const u32,
    pub sentence_indices: *const u32,
    pub word_starts: *const u32,
    pub pool_rows_max: i64,
    pub count_limit: rmae_count_limit,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_mask"][::core::mem::size_of::<rmae_mask>() - 112usize];
    ["Alignment of rmae_mask"][::core::mem::align_of::<rmae_mask>() - 8usize];
    ["Offset of field: rmae_mask::kind"][::core::mem::offset_of!(rmae_mask, kind) - 0usize];
    ["Offset of field: rmae_mask::flags"][::core::mem::offset_of!(rmae_mask, flags) - 4usize];
    ["Offset of field: rmae_mask::bits"][::core::mem::offset_of!(rmae_mask, bits) - 8usize];
    ["Offset of field: rmae_mask::words"][::core::mem::offset_of!(rmae_mask, words) - 16usize];
    ["Offset of field: rmae_mask::offsets"][::core::mem::offset_of!(rmae_mask, offsets) - 24usize];
    ["Offset of field: rmae_mask::rows"][::core::mem::offset_of!(rmae_mask, rows) - 32usize];
    ["Offset of field: rmae_mask::order"][::core::mem::offset_of!(rmae_mask, order) - 40usize];
    ["Offset of field: rmae_mask::left"][::core::mem::offset_of!(rmae_mask, left) - 48usize];
    ["Offset of field: rmae_mask::right"][::core::mem::offset_of!(rmae_mask, right) - 56usize];
    ["Offset of field: rmae_mask::rng"][::core::mem::offset_of!(rmae_mask, rng) - 64usize];
    ["Offset of field: rmae_mask::sentence_indices"]
        [::core::mem::offset_of!(rmae_mask, sentence_indices) - 72usize];
    ["Offset of field: rmae_mask::word_starts"][::core::mem::offset_of!(rmae_mask, word_starts) - 80usize];
    ["Offset of field: rmae_mask::pool_rows_max"]
        [::core::mem::offset_of!(rmae_mask, pool_rows_max) - 88usize];
    ["Offset of field: rmae_mask::count_limit"][::core::mem::offset_of!(rmae_mask, count_limit) - 96usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_queries {
    pub cu_seqlens: *const i32,
    pub tokens: i64,
    pub max_seqlen: i64,
    pub positions: *const i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_queries"][::core::mem::size_of::<rmae_queries>() - 32usize];
    ["Alignment of rmae_queries"][::core::mem::align_of::<rmae_queries>() - 8usize];
    ["Offset of field: rmae_queries::cu_seqlens"][::core::mem::offset_of!(rmae_queries, cu_seqlens) - 0usize];
    ["Offset of field: rmae_queries::tokens"][::core::mem::offset_of!(rmae_queries, tokens) - 8usize];
    ["Offset of field: rmae_queries::max_seqlen"]
        [::core::mem::offset_of!(rmae_queries, max_seqlen) - 16usize];
    ["Offset of field: rmae_queries::positions"][::core::mem::offset_of!(rmae_queries, positions) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_attention_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub scale: f32,
    pub num_heads: i64,
    pub head_dim: i64,
    pub batch: rmae_packed,
    pub queries: rmae_queries,
    pub mask: rmae_mask,
    pub dropout: rmae_dropout,
    pub query: *const ::core::ffi::c_void,
    pub query_stride: i64,
    pub key: *const ::core::ffi::c_void,
    pub key_stride: i64,
    pub value: *const ::core::ffi::c_void,
    pub value_stride: i64,
    pub output: *mut ::core::ffi::c_void,
    pub output_stride: i64,
    pub log_sum_exp: *mut f32,
    pub d_output: *const ::core::ffi::c_void,
    pub d_output_stride: i64,
    pub d_query: *mut ::core::ffi::c_void,
    pub d_query_stride: i64,
    pub d_key: *mut ::core::ffi::c_void,
    pub d_key_stride: i64,
    pub d_value: *mut ::core::ffi::c_void,
    pub d_value_stride: i64,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_attention_desc"][::core::mem::size_of::<rmae_attention_desc>() - 384usize];
    ["Alignment of rmae_attention_desc"][::core::mem::align_of::<rmae_attention_desc>() - 8usize];
    ["Offset of field: rmae_attention_desc::size"]
        [::core::mem::offset_of!(rmae_attention_desc, size) - 0usize];
    ["Offset of field: rmae_attention_desc::version"]
        [::core::mem::offset_of!(rmae_attention_desc, version) - 4usize];
    ["Offset of field: rmae_attention_desc::flags"]
        [::core::mem::offset_of!(rmae_attention_desc, flags) - 8usize];
    ["Offset of field: rmae_attention_desc::dtype"]
        [::core::mem::offset_of!(rmae_attention_desc, dtype) - 16usize];
    ["Offset of field: rmae_attention_desc::scale"]
        [::core::mem::offset_of!(rmae_attention_desc, scale) - 20usize];
    ["Offset of field: rmae_attention_desc::num_heads"]
        [::core::mem::offset_of!(rmae_attention_desc, num_heads) - 24usize];
    ["Offset of field: rmae_attention_desc::head_dim"]
        [::core::mem::offset_of!(rmae_attention_desc, head_dim) - 32usize];
    ["Offset of field: rmae_attention_desc::batch"]
        [::core::mem::offset_of!(rmae_attention_desc, batch) - 40usize];
    ["Offset of field: rmae_attention_desc::queries"]
        [::core::mem::offset_of!(rmae_attention_desc, queries) - 72usize];
    ["Offset of field: rmae_attention_desc::mask"]
        [::core::mem::offset_of!(rmae_attention_desc, mask) - 104usize];
    ["Offset of field: rmae_attention_desc::dropout"]
        [::core::mem::offset_of!(rmae_attention_desc, dropout) - 216usize];
    ["Offset of field: rmae_attention_desc::query"]
        [::core::mem::offset_of!(rmae_attention_desc, query) - 232usize];
    ["Offset of field: rmae_attention_desc::query_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, query_stride) - 240usize];
    ["Offset of field: rmae_attention_desc::key"]
        [::core::mem::offset_of!(rmae_attention_desc, key) - 248usize];
    ["Offset of field: rmae_attention_desc::key_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, key_stride) - 256usize];
    ["Offset of field: rmae_attention_desc::value"]
        [::core::mem::offset_of!(rmae_attention_desc, value) - 264usize];
    ["Offset of field: rmae_attention_desc::value_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, value_stride) - 272usize];
    ["Offset of field: rmae_attention_desc::output"]
        [::core::mem::offset_of!(rmae_attention_desc, output) - 280usize];
    ["Offset of field: rmae_attention_desc::output_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, output_stride) - 288usize];
    ["Offset of field: rmae_attention_desc::log_sum_exp"]
        [::core::mem::offset_of!(rmae_attention_desc, log_sum_exp) - 296usize];
    ["Offset of field: rmae_attention_desc::d_output"]
        [::core::mem::offset_of!(rmae_attention_desc, d_output) - 304usize];
    ["Offset of field: rmae_attention_desc::d_output_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, d_output_stride) - 312usize];
    ["Offset of field: rmae_attention_desc::d_query"]
        [::core::mem::offset_of!(rmae_attention_desc, d_query) - 320usize];
    ["Offset of field: rmae_attention_desc::d_query_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, d_query_stride) - 328usize];
    ["Offset of field: rmae_attention_desc::d_key"]
        [::core::mem::offset_of!(rmae_attention_desc, d_key) - 336usize];
    ["Offset of field: rmae_attention_desc::d_key_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, d_key_stride) - 344usize];
    ["Offset of field: rmae_attention_desc::d_value"]
        [::core::mem::offset_of!(rmae_attention_desc, d_value) - 352usize];
    ["Offset of field: rmae_attention_desc::d_value_stride"]
        [::core::mem::offset_of!(rmae_attention_desc, d_value_stride) - 360usize];
    ["Offset of field: rmae_attention_desc::workspace"]
        [::core::mem::offset_of!(rmae_attention_desc, workspace) - 368usize];
    ["Offset of field: rmae_attention_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_attention_desc, workspace_bytes) - 376usize];
};
unsafe extern "C" {
    pub fn rmae_attention_workspace(
        device: rmae_device,
        desc: *const rmae_attention_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_attention_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_attention_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_attention_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_attention_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_mask_bits(
        lengths: *const i64,
        sequences: i64,
        visible: *const u8,
        offsets: *mut u32,
        bits: *mut u32,
    ) -> rmae_status;
}
pub type rmae_algorithm = i32;
pub const RMAE_ALGORITHM_LIBRARY: _bindgen_ty_4 = 0;
pub const RMAE_ALGORITHM_FUSED: _bindgen_ty_4 = 1;
pub type _bindgen_ty_4 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_totals {
    pub loss: f32,
    pub log_likelihood: f32,
    pub labeled: u32,
    pub correct: u32,
    pub invalid: u32,
    pub first_invalid: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_totals"][::core::mem::size_of::<rmae_totals>() - 24usize];
    ["Alignment of rmae_totals"][::core::mem::align_of::<rmae_totals>() - 4usize];
    ["Offset of field: rmae_totals::loss"][::core::mem::offset_of!(rmae_totals, loss) - 0usize];
    ["Offset of field: rmae_totals::log_likelihood"]
        [::core::mem::offset_of!(rmae_totals, log_likelihood) - 4usize];
    ["Offset of field: rmae_totals::labeled"][::core::mem::offset_of!(rmae_totals, labeled) - 8usize];
    ["Offset of field: rmae_totals::correct"][::core::mem::offset_of!(rmae_totals, correct) - 12usize];
    ["Offset of field: rmae_totals::invalid"][::core::mem::offset_of!(rmae_totals, invalid) - 16usize];
    ["Offset of field: rmae_totals::first_invalid"]
        [::core::mem::offset_of!(rmae_totals, first_invalid) - 20usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_cross_entropy_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub ignore_index: i32,
    pub algorithm: rmae_algorithm,
    pub label_smoothing: f32,
    pub z_loss: f32,
    pub soft_cap: f32,
    pub rows: i64,
    pub hidden_size: i64,
    pub vocab_size: i64,
    pub hidden: *const ::core::ffi::c_void,
    pub weight: *const ::core::ffi::c_void,
    pub bias: *const f32,
    pub targets: *const i32,
    pub row_weights: *const f32,
    pub losses: *mut f32,
    pub log_sum_exp: *mut f32,
    pub log_likelihoods: *mut f32,
    pub correct: *mut u8,
    pub totals: *mut rmae_totals,
    pub group_ends: *const i64,
    pub groups: i64,
    pub d_hidden: *mut ::core::ffi::c_void,
    pub d_weight: *mut f32,
    pub d_bias: *mut f32,
    pub chunk_rows: i64,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_cross_entropy_desc"][::core::mem::size_of::<rmae_cross_entropy_desc>() - 208usize];
    ["Alignment of rmae_cross_entropy_desc"][::core::mem::align_of::<rmae_cross_entropy_desc>() - 8usize];
    ["Offset of field: rmae_cross_entropy_desc::size"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, size) - 0usize];
    ["Offset of field: rmae_cross_entropy_desc::version"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, version) - 4usize];
    ["Offset of field: rmae_cross_entropy_desc::flags"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, flags) - 8usize];
    ["Offset of field: rmae_cross_entropy_desc::dtype"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, dtype) - 16usize];
    ["Offset of field: rmae_cross_entropy_desc::ignore_index"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, ignore_index) - 20usize];
    ["Offset of field: rmae_cross_entropy_desc::algorithm"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, algorithm) - 24usize];
    ["Offset of field: rmae_cross_entropy_desc::label_smoothing"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, label_smoothing) - 28usize];
    ["Offset of field: rmae_cross_entropy_desc::z_loss"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, z_loss) - 32usize];
    ["Offset of field: rmae_cross_entropy_desc::soft_cap"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, soft_cap) - 36usize];
    ["Offset of field: rmae_cross_entropy_desc::rows"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, rows) - 40usize];
    ["Offset of field: rmae_cross_entropy_desc::hidden_size"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, hidden_size) - 48usize];
    ["Offset of field: rmae_cross_entropy_desc::vocab_size"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, vocab_size) - 56usize];
    ["Offset of field: rmae_cross_entropy_desc::hidden"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, hidden) - 64usize];
    ["Offset of field: rmae_cross_entropy_desc::weight"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, weight) - 72usize];
    ["Offset of field: rmae_cross_entropy_desc::bias"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, bias) - 80usize];
    ["Offset of field: rmae_cross_entropy_desc::targets"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, targets) - 88usize];
    ["Offset of field: rmae_cross_entropy_desc::row_weights"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, row_weights) - 96usize];
    ["Offset of field: rmae_cross_entropy_desc::losses"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, losses) - 104usize];
    ["Offset of field: rmae_cross_entropy_desc::log_sum_exp"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, log_sum_exp) - 112usize];
    ["Offset of field: rmae_cross_entropy_desc::log_likelihoods"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, log_likelihoods) - 120usize];
    ["Offset of field: rmae_cross_entropy_desc::correct"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, correct) - 128usize];
    ["Offset of field: rmae_cross_entropy_desc::totals"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, totals) - 136usize];
    ["Offset of field: rmae_cross_entropy_desc::group_ends"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, group_ends) - 144usize];
    ["Offset of field: rmae_cross_entropy_desc::groups"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, groups) - 152usize];
    ["Offset of field: rmae_cross_entropy_desc::d_hidden"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, d_hidden) - 160usize];
    ["Offset of field: rmae_cross_entropy_desc::d_weight"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, d_weight) - 168usize];
    ["Offset of field: rmae_cross_entropy_desc::d_bias"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, d_bias) - 176usize];
    ["Offset of field: rmae_cross_entropy_desc::chunk_rows"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, chunk_rows) - 184usize];
    ["Offset of field: rmae_cross_entropy_desc::workspace"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, workspace) - 192usize];
    ["Offset of field: rmae_cross_entropy_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_cross_entropy_desc, workspace_bytes) - 200usize];
};
unsafe extern "C" {
    pub fn rmae_cross_entropy_workspace(
        device: rmae_device,
        desc: *const rmae_cross_entropy_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_cross_entropy_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_cross_entropy_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_cross_entropy_forward_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_cross_entropy_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_mean_weights_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub rows: i64,
    pub sentences: i64,
    pub labeled_rows: *const i32,
    pub counts: *const i32,
    pub row_weights: *mut f32,
    pub weight: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_mean_weights_desc"][::core::mem::size_of::<rmae_mean_weights_desc>() - 64usize];
    ["Alignment of rmae_mean_weights_desc"][::core::mem::align_of::<rmae_mean_weights_desc>() - 8usize];
    ["Offset of field: rmae_mean_weights_desc::size"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, size) - 0usize];
    ["Offset of field: rmae_mean_weights_desc::version"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, version) - 4usize];
    ["Offset of field: rmae_mean_weights_desc::flags"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, flags) - 8usize];
    ["Offset of field: rmae_mean_weights_desc::rows"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, rows) - 16usize];
    ["Offset of field: rmae_mean_weights_desc::sentences"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, sentences) - 24usize];
    ["Offset of field: rmae_mean_weights_desc::labeled_rows"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, labeled_rows) - 32usize];
    ["Offset of field: rmae_mean_weights_desc::counts"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, counts) - 40usize];
    ["Offset of field: rmae_mean_weights_desc::row_weights"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, row_weights) - 48usize];
    ["Offset of field: rmae_mean_weights_desc::weight"]
        [::core::mem::offset_of!(rmae_mean_weights_desc, weight) - 56usize];
};
unsafe extern "C" {
    pub fn rmae_mean_weights(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_mean_weights_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_bags {
    pub offsets: *const i32,
    pub ids: *const i32,
    pub weights: *const f32,
    pub length: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_bags"][::core::mem::size_of::<rmae_bags>() - 32usize];
    ["Alignment of rmae_bags"][::core::mem::align_of::<rmae_bags>() - 8usize];
    ["Offset of field: rmae_bags::offsets"][::core::mem::offset_of!(rmae_bags, offsets) - 0usize];
    ["Offset of field: rmae_bags::ids"][::core::mem::offset_of!(rmae_bags, ids) - 8usize];
    ["Offset of field: rmae_bags::weights"][::core::mem::offset_of!(rmae_bags, weights) - 16usize];
    ["Offset of field: rmae_bags::length"][::core::mem::offset_of!(rmae_bags, length) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_bag_of_words_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub algorithm: rmae_algorithm,
    pub hidden_size: i64,
    pub vocab_size: i64,
    pub batch: rmae_packed,
    pub hidden: *const ::core::ffi::c_void,
    pub weight: *const ::core::ffi::c_void,
    pub bias: *const f32,
    pub bags: rmae_bags,
    pub sentence_weights: *const f32,
    pub first_position: i64,
    pub losses: *mut f32,
    pub d_hidden: *mut ::core::ffi::c_void,
    pub d_weight: *mut f32,
    pub d_bias: *mut f32,
    pub chunk_rows: i64,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_bag_of_words_desc"][::core::mem::size_of::<rmae_bag_of_words_desc>() - 200usize];
    ["Alignment of rmae_bag_of_words_desc"][::core::mem::align_of::<rmae_bag_of_words_desc>() - 8usize];
    ["Offset of field: rmae_bag_of_words_desc::size"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, size) - 0usize];
    ["Offset of field: rmae_bag_of_words_desc::version"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, version) - 4usize];
    ["Offset of field: rmae_bag_of_words_desc::flags"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, flags) - 8usize];
    ["Offset of field: rmae_bag_of_words_desc::dtype"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, dtype) - 16usize];
    ["Offset of field: rmae_bag_of_words_desc::algorithm"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, algorithm) - 20usize];
    ["Offset of field: rmae_bag_of_words_desc::hidden_size"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, hidden_size) - 24usize];
    ["Offset of field: rmae_bag_of_words_desc::vocab_size"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, vocab_size) - 32usize];
    ["Offset of field: rmae_bag_of_words_desc::batch"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, batch) - 40usize];
    ["Offset of field: rmae_bag_of_words_desc::hidden"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, hidden) - 72usize];
    ["Offset of field: rmae_bag_of_words_desc::weight"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, weight) - 80usize];
    ["Offset of field: rmae_bag_of_words_desc::bias"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, bias) - 88usize];
    ["Offset of field: rmae_bag_of_words_desc::bags"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, bags) - 96usize];
    ["Offset of field: rmae_bag_of_words_desc::sentence_weights"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, sentence_weights) - 128usize];
    ["Offset of field: rmae_bag_of_words_desc::first_position"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, first_position) - 136usize];
    ["Offset of field: rmae_bag_of_words_desc::losses"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, losses) - 144usize];
    ["Offset of field: rmae_bag_of_words_desc::d_hidden"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, d_hidden) - 152usize];
    ["Offset of field: rmae_bag_of_words_desc::d_weight"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, d_weight) - 160usize];
    ["Offset of field: rmae_bag_of_words_desc::d_bias"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, d_bias) - 168usize];
    ["Offset of field: rmae_bag_of_words_desc::chunk_rows"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, chunk_rows) - 176usize];
    ["Offset of field: rmae_bag_of_words_desc::workspace"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, workspace) - 184usize];
    ["Offset of field: rmae_bag_of_words_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_bag_of_words_desc, workspace_bytes) - 192usize];
};
unsafe extern "C" {
    pub fn rmae_bag_of_words_workspace(
        device: rmae_device,
        desc: *const rmae_bag_of_words_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_bag_of_words_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_bag_of_words_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_bag_of_words_forward_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_bag_of_words_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_linear_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub rows: i64,
    pub in_features: i64,
    pub out_features: i64,
    pub input: *const ::core::ffi::c_void,
    pub input_stride: i64,
    pub weight: *const ::core::ffi::c_void,
    pub weight_stride: i64,
    pub bias: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub output_stride: i64,
    pub d_output: *const ::core::ffi::c_void,
    pub d_output_stride: i64,
    pub d_input: *mut ::core::ffi::c_void,
    pub d_input_stride: i64,
    pub d_weight: *mut f32,
    pub d_weight_stride: i64,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_linear_desc"][::core::mem::size_of::<rmae_linear_desc>() - 168usize];
    ["Alignment of rmae_linear_desc"][::core::mem::align_of::<rmae_linear_desc>() - 8usize];
    ["Offset of field: rmae_linear_desc::size"][::core::mem::offset_of!(rmae_linear_desc, size) - 0usize];
    ["Offset of field: rmae_linear_desc::version"]
        [::core::mem::offset_of!(rmae_linear_desc, version) - 4usize];
    ["Offset of field: rmae_linear_desc::flags"][::core::mem::offset_of!(rmae_linear_desc, flags) - 8usize];
    ["Offset of field: rmae_linear_desc::dtype"][::core::mem::offset_of!(rmae_linear_desc, dtype) - 16usize];
    ["Offset of field: rmae_linear_desc::rows"][::core::mem::offset_of!(rmae_linear_desc, rows) - 24usize];
    ["Offset of field: rmae_linear_desc::in_features"]
        [::core::mem::offset_of!(rmae_linear_desc, in_features) - 32usize];
    ["Offset of field: rmae_linear_desc::out_features"]
        [::core::mem::offset_of!(rmae_linear_desc, out_features) - 40usize];
    ["Offset of field: rmae_linear_desc::input"][::core::mem::offset_of!(rmae_linear_desc, input) - 48usize];
    ["Offset of field: rmae_linear_desc::input_stride"]
        [::core::mem::offset_of!(rmae_linear_desc, input_stride) - 56usize];
    ["Offset of field: rmae_linear_desc::weight"]
        [::core::mem::offset_of!(rmae_linear_desc, weight) - 64usize];
    ["Offset of field: rmae_linear_desc::weight_stride"]
        [::core::mem::offset_of!(rmae_linear_desc, weight_stride) - 72usize];
    ["Offset of field: rmae_linear_desc::bias"][::core::mem::offset_of!(rmae_linear_desc, bias) - 80usize];
    ["Offset of field: rmae_linear_desc::output"]
        [::core::mem::offset_of!(rmae_linear_desc, output) - 88usize];
    ["Offset of field: rmae_linear_desc::output_stride"]
        [::core::mem::offset_of!(rmae_linear_desc, output_stride) - 96usize];
    ["Offset of field: rmae_linear_desc::d_output"]
        [::core::mem::offset_of!(rmae_linear_desc, d_output) - 104usize];
    ["Offset of field: rmae_linear_desc::d_output_stride"]
        [::core::mem::offset_of!(rmae_linear_desc, d_output_stride) - 112usize];
    ["Offset of field: rmae_linear_desc::d_input"]
        [::core::mem::offset_of!(rmae_linear_desc, d_input) - 120usize];
    ["Offset of field: rmae_linear_desc::d_input_stride"]
        [::core::mem::offset_of!(rmae_linear_desc, d_input_stride) - 128usize];
    ["Offset of field: rmae_linear_desc::d_weight"]
        [::core::mem::offset_of!(rmae_linear_desc, d_weight) - 136usize];
    ["Offset of field: rmae_linear_desc::d_weight_stride"]
        [::core::mem::offset_of!(rmae_linear_desc, d_weight_stride) - 144usize];
    ["Offset of field: rmae_linear_desc::workspace"]
        [::core::mem::offset_of!(rmae_linear_desc, workspace) - 152usize];
    ["Offset of field: rmae_linear_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_linear_desc, workspace_bytes) - 160usize];
};
unsafe extern "C" {
    pub fn rmae_linear_workspace(
        device: rmae_device,
        desc: *const rmae_linear_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_linear_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_linear_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_linear_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_linear_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_matmul_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub output_dtype: rmae_dtype,
    pub m: i64,
    pub n: i64,
    pub k: i64,
    pub batch: i64,
    pub left: *const ::core::ffi::c_void,
    pub left_stride: i64,
    pub right: *const ::core::ffi::c_void,
    pub right_stride: i64,
    pub bias: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub output_stride: i64,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_matmul_desc"][::core::mem::size_of::<rmae_matmul_desc>() - 128usize];
    ["Alignment of rmae_matmul_desc"][::core::mem::align_of::<rmae_matmul_desc>() - 8usize];
    ["Offset of field: rmae_matmul_desc::size"][::core::mem::offset_of!(rmae_matmul_desc, size) - 0usize];
    ["Offset of field: rmae_matmul_desc::version"]
        [::core::mem::offset_of!(rmae_matmul_desc, version) - 4usize];
    ["Offset of field: rmae_matmul_desc::flags"][::core::mem::offset_of!(rmae_matmul_desc, flags) - 8usize];
    ["Offset of field: rmae_matmul_desc::dtype"][::core::mem::offset_of!(rmae_matmul_desc, dtype) - 16usize];
    ["Offset of field: rmae_matmul_desc::output_dtype"]
        [::core::mem::offset_of!(rmae_matmul_desc, output_dtype) - 20usize];
    ["Offset of field: rmae_matmul_desc::m"][::core::mem::offset_of!(rmae_matmul_desc, m) - 24usize];
    ["Offset of field: rmae_matmul_desc::n"][::core::mem::offset_of!(rmae_matmul_desc, n) - 32usize];
    ["Offset of field: rmae_matmul_desc::k"][::core::mem::offset_of!(rmae_matmul_desc, k) - 40usize];
    ["Offset of field: rmae_matmul_desc::batch"][::core::mem::offset_of!(rmae_matmul_desc, batch) - 48usize];
    ["Offset of field: rmae_matmul_desc::left"][::core::mem::offset_of!(rmae_matmul_desc, left) - 56usize];
    ["Offset of field: rmae_matmul_desc::left_stride"]
        [::core::mem::offset_of!(rmae_matmul_desc, left_stride) - 64usize];
    ["Offset of field: rmae_matmul_desc::right"][::core::mem::offset_of!(rmae_matmul_desc, right) - 72usize];
    ["Offset of field: rmae_matmul_desc::right_stride"]
        [::core::mem::offset_of!(rmae_matmul_desc, right_stride) - 80usize];
    ["Offset of field: rmae_matmul_desc::bias"][::core::mem::offset_of!(rmae_matmul_desc, bias) - 88usize];
    ["Offset of field: rmae_matmul_desc::output"]
        [::core::mem::offset_of!(rmae_matmul_desc, output) - 96usize];
    ["Offset of field: rmae_matmul_desc::output_stride"]
        [::core::mem::offset_of!(rmae_matmul_desc, output_stride) - 104usize];
    ["Offset of field: rmae_matmul_desc::workspace"]
        [::core::mem::offset_of!(rmae_matmul_desc, workspace) - 112usize];
    ["Offset of field: rmae_matmul_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_matmul_desc, workspace_bytes) - 120usize];
};
unsafe extern "C" {
    pub fn rmae_matmul_workspace(
        device: rmae_device,
        desc: *const rmae_matmul_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_matmul(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_matmul_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_layer_norm_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub eps: f32,
    pub rows: i64,
    pub columns: i64,
    pub dropout: rmae_dropout,
    pub input: *const ::core::ffi::c_void,
    pub bias: *const f32,
    pub residual: *const ::core::ffi::c_void,
    pub gamma: *const f32,
    pub beta: *const f32,
    pub sum: *mut ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
    pub mean: *mut f32,
    pub rstd: *mut f32,
    pub d_output: *const ::core::ffi::c_void,
    pub d_input: *mut ::core::ffi::c_void,
    pub d_residual: *mut ::core::ffi::c_void,
    pub d_gamma: *mut f32,
    pub d_beta: *mut f32,
    pub d_bias: *mut f32,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_layer_norm_desc"][::core::mem::size_of::<rmae_layer_norm_desc>() - 192usize];
    ["Alignment of rmae_layer_norm_desc"][::core::mem::align_of::<rmae_layer_norm_desc>() - 8usize];
    ["Offset of field: rmae_layer_norm_desc::size"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, size) - 0usize];
    ["Offset of field: rmae_layer_norm_desc::version"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, version) - 4usize];
    ["Offset of field: rmae_layer_norm_desc::flags"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, flags) - 8usize];
    ["Offset of field: rmae_layer_norm_desc::dtype"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, dtype) - 16usize];
    ["Offset of field: rmae_layer_norm_desc::eps"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, eps) - 20usize];
    ["Offset of field: rmae_layer_norm_desc::rows"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, rows) - 24usize];
    ["Offset of field: rmae_layer_norm_desc::columns"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, columns) - 32usize];
    ["Offset of field: rmae_layer_norm_desc::dropout"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, dropout) - 40usize];
    ["Offset of field: rmae_layer_norm_desc::input"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, input) - 56usize];
    ["Offset of field: rmae_layer_norm_desc::bias"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, bias) - 64usize];
    ["Offset of field: rmae_layer_norm_desc::residual"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, residual) - 72usize];
    ["Offset of field: rmae_layer_norm_desc::gamma"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, gamma) - 80usize];
    ["Offset of field: rmae_layer_norm_desc::beta"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, beta) - 88usize];
    ["Offset of field: rmae_layer_norm_desc::sum"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, sum) - 96usize];
    ["Offset of field: rmae_layer_norm_desc::output"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, output) - 104usize];
    ["Offset of field: rmae_layer_norm_desc::mean"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, mean) - 112usize];
    ["Offset of field: rmae_layer_norm_desc::rstd"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, rstd) - 120usize];
    ["Offset of field: rmae_layer_norm_desc::d_output"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, d_output) - 128usize];
    ["Offset of field: rmae_layer_norm_desc::d_input"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, d_input) - 136usize];
    ["Offset of field: rmae_layer_norm_desc::d_residual"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, d_residual) - 144usize];
    ["Offset of field: rmae_layer_norm_desc::d_gamma"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, d_gamma) - 152usize];
    ["Offset of field: rmae_layer_norm_desc::d_beta"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, d_beta) - 160usize];
    ["Offset of field: rmae_layer_norm_desc::d_bias"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, d_bias) - 168usize];
    ["Offset of field: rmae_layer_norm_desc::workspace"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, workspace) - 176usize];
    ["Offset of field: rmae_layer_norm_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_layer_norm_desc, workspace_bytes) - 184usize];
};
unsafe extern "C" {
    pub fn rmae_layer_norm_workspace(
        device: rmae_device,
        desc: *const rmae_layer_norm_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_layer_norm_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_layer_norm_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_layer_norm_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_layer_norm_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_bias_gelu_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub rows: i64,
    pub columns: i64,
    pub input: *const ::core::ffi::c_void,
    pub bias: *const f32,
    pub output: *mut ::core::ffi::c_void,
    pub d_output: *const ::core::ffi::c_void,
    pub d_input: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_bias_gelu_desc"][::core::mem::size_of::<rmae_bias_gelu_desc>() - 80usize];
    ["Alignment of rmae_bias_gelu_desc"][::core::mem::align_of::<rmae_bias_gelu_desc>() - 8usize];
    ["Offset of field: rmae_bias_gelu_desc::size"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, size) - 0usize];
    ["Offset of field: rmae_bias_gelu_desc::version"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, version) - 4usize];
    ["Offset of field: rmae_bias_gelu_desc::flags"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, flags) - 8usize];
    ["Offset of field: rmae_bias_gelu_desc::dtype"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, dtype) - 16usize];
    ["Offset of field: rmae_bias_gelu_desc::rows"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, rows) - 24usize];
    ["Offset of field: rmae_bias_gelu_desc::columns"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, columns) - 32usize];
    ["Offset of field: rmae_bias_gelu_desc::input"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, input) - 40usize];
    ["Offset of field: rmae_bias_gelu_desc::bias"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, bias) - 48usize];
    ["Offset of field: rmae_bias_gelu_desc::output"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, output) - 56usize];
    ["Offset of field: rmae_bias_gelu_desc::d_output"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, d_output) - 64usize];
    ["Offset of field: rmae_bias_gelu_desc::d_input"]
        [::core::mem::offset_of!(rmae_bias_gelu_desc, d_input) - 72usize];
};
unsafe extern "C" {
    pub fn rmae_bias_gelu_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_bias_gelu_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_bias_gelu_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_bias_gelu_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_column_sum_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub rows: i64,
    pub columns: i64,
    pub input: *const ::core::ffi::c_void,
    pub input_stride: i64,
    pub output: *mut f32,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_column_sum_desc"][::core::mem::size_of::<rmae_column_sum_desc>() - 80usize];
    ["Alignment of rmae_column_sum_desc"][::core::mem::align_of::<rmae_column_sum_desc>() - 8usize];
    ["Offset of field: rmae_column_sum_desc::size"]
        [::core::mem::offset_of!(rmae_column_sum_desc, size) - 0usize];
    ["Offset of field: rmae_column_sum_desc::version"]
        [::core::mem::offset_of!(rmae_column_sum_desc, version) - 4usize];
    ["Offset of field: rmae_column_sum_desc::flags"]
        [::core::mem::offset_of!(rmae_column_sum_desc, flags) - 8usize];
    ["Offset of field: rmae_column_sum_desc::dtype"]
        [::core::mem::offset_of!(rmae_column_sum_desc, dtype) - 16usize];
    ["Offset of field: rmae_column_sum_desc::rows"]
        [::core::mem::offset_of!(rmae_column_sum_desc, rows) - 24usize];
    ["Offset of field: rmae_column_sum_desc::columns"]
        [::core::mem::offset_of!(rmae_column_sum_desc, columns) - 32usize];
    ["Offset of field: rmae_column_sum_desc::input"]
        [::core::mem::offset_of!(rmae_column_sum_desc, input) - 40usize];
    ["Offset of field: rmae_column_sum_desc::input_stride"]
        [::core::mem::offset_of!(rmae_column_sum_desc, input_stride) - 48usize];
    ["Offset of field: rmae_column_sum_desc::output"]
        [::core::mem::offset_of!(rmae_column_sum_desc, output) - 56usize];
    ["Offset of field: rmae_column_sum_desc::workspace"]
        [::core::mem::offset_of!(rmae_column_sum_desc, workspace) - 64usize];
    ["Offset of field: rmae_column_sum_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_column_sum_desc, workspace_bytes) - 72usize];
};
unsafe extern "C" {
    pub fn rmae_column_sum_workspace(
        device: rmae_device,
        desc: *const rmae_column_sum_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_column_sum(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_column_sum_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_reduce_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub count: i64,
    pub input: *const f32,
    pub output: *mut f32,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_reduce_desc"][::core::mem::size_of::<rmae_reduce_desc>() - 56usize];
    ["Alignment of rmae_reduce_desc"][::core::mem::align_of::<rmae_reduce_desc>() - 8usize];
    ["Offset of field: rmae_reduce_desc::size"][::core::mem::offset_of!(rmae_reduce_desc, size) - 0usize];
    ["Offset of field: rmae_reduce_desc::version"]
        [::core::mem::offset_of!(rmae_reduce_desc, version) - 4usize];
    ["Offset of field: rmae_reduce_desc::flags"][::core::mem::offset_of!(rmae_reduce_desc, flags) - 8usize];
    ["Offset of field: rmae_reduce_desc::count"][::core::mem::offset_of!(rmae_reduce_desc, count) - 16usize];
    ["Offset of field: rmae_reduce_desc::input"][::core::mem::offset_of!(rmae_reduce_desc, input) - 24usize];
    ["Offset of field: rmae_reduce_desc::output"]
        [::core::mem::offset_of!(rmae_reduce_desc, output) - 32usize];
    ["Offset of field: rmae_reduce_desc::workspace"]
        [::core::mem::offset_of!(rmae_reduce_desc, workspace) - 40usize];
    ["Offset of field: rmae_reduce_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_reduce_desc, workspace_bytes) - 48usize];
};
unsafe extern "C" {
    pub fn rmae_reduce_workspace(
        device: rmae_device,
        desc: *const rmae_reduce_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_reduce_sum(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_reduce_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_reduce_squares(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_reduce_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_segments {
    pub offsets: *const i32,
    pub indices: *const i32,
    pub keys: *const i32,
    pub count: i64,
    pub indices_length: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_segments"][::core::mem::size_of::<rmae_segments>() - 40usize];
    ["Alignment of rmae_segments"][::core::mem::align_of::<rmae_segments>() - 8usize];
    ["Offset of field: rmae_segments::offsets"][::core::mem::offset_of!(rmae_segments, offsets) - 0usize];
    ["Offset of field: rmae_segments::indices"][::core::mem::offset_of!(rmae_segments, indices) - 8usize];
    ["Offset of field: rmae_segments::keys"][::core::mem::offset_of!(rmae_segments, keys) - 16usize];
    ["Offset of field: rmae_segments::count"][::core::mem::offset_of!(rmae_segments, count) - 24usize];
    ["Offset of field: rmae_segments::indices_length"]
        [::core::mem::offset_of!(rmae_segments, indices_length) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_segment_sum_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub output_dtype: rmae_dtype,
    pub rows: i64,
    pub output_rows: i64,
    pub columns: i64,
    pub input: *const ::core::ffi::c_void,
    pub segments: rmae_segments,
    pub output: *mut ::core::ffi::c_void,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_segment_sum_desc"][::core::mem::size_of::<rmae_segment_sum_desc>() - 120usize];
    ["Alignment of rmae_segment_sum_desc"][::core::mem::align_of::<rmae_segment_sum_desc>() - 8usize];
    ["Offset of field: rmae_segment_sum_desc::size"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, size) - 0usize];
    ["Offset of field: rmae_segment_sum_desc::version"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, version) - 4usize];
    ["Offset of field: rmae_segment_sum_desc::flags"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, flags) - 8usize];
    ["Offset of field: rmae_segment_sum_desc::dtype"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, dtype) - 16usize];
    ["Offset of field: rmae_segment_sum_desc::output_dtype"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, output_dtype) - 20usize];
    ["Offset of field: rmae_segment_sum_desc::rows"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, rows) - 24usize];
    ["Offset of field: rmae_segment_sum_desc::output_rows"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, output_rows) - 32usize];
    ["Offset of field: rmae_segment_sum_desc::columns"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, columns) - 40usize];
    ["Offset of field: rmae_segment_sum_desc::input"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, input) - 48usize];
    ["Offset of field: rmae_segment_sum_desc::segments"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, segments) - 56usize];
    ["Offset of field: rmae_segment_sum_desc::output"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, output) - 96usize];
    ["Offset of field: rmae_segment_sum_desc::workspace"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, workspace) - 104usize];
    ["Offset of field: rmae_segment_sum_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_segment_sum_desc, workspace_bytes) - 112usize];
};
unsafe extern "C" {
    pub fn rmae_segment_sum_workspace(
        device: rmae_device,
        desc: *const rmae_segment_sum_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_segment_sum(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_segment_sum_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_rows_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub input_rows: i64,
    pub output_rows: i64,
    pub columns: i64,
    pub rows: *const i32,
    pub input: *const ::core::ffi::c_void,
    pub output: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_rows_desc"][::core::mem::size_of::<rmae_rows_desc>() - 72usize];
    ["Alignment of rmae_rows_desc"][::core::mem::align_of::<rmae_rows_desc>() - 8usize];
    ["Offset of field: rmae_rows_desc::size"][::core::mem::offset_of!(rmae_rows_desc, size) - 0usize];
    ["Offset of field: rmae_rows_desc::version"][::core::mem::offset_of!(rmae_rows_desc, version) - 4usize];
    ["Offset of field: rmae_rows_desc::flags"][::core::mem::offset_of!(rmae_rows_desc, flags) - 8usize];
    ["Offset of field: rmae_rows_desc::dtype"][::core::mem::offset_of!(rmae_rows_desc, dtype) - 16usize];
    ["Offset of field: rmae_rows_desc::input_rows"]
        [::core::mem::offset_of!(rmae_rows_desc, input_rows) - 24usize];
    ["Offset of field: rmae_rows_desc::output_rows"]
        [::core::mem::offset_of!(rmae_rows_desc, output_rows) - 32usize];
    ["Offset of field: rmae_rows_desc::columns"][::core::mem::offset_of!(rmae_rows_desc, columns) - 40usize];
    ["Offset of field: rmae_rows_desc::rows"][::core::mem::offset_of!(rmae_rows_desc, rows) - 48usize];
    ["Offset of field: rmae_rows_desc::input"][::core::mem::offset_of!(rmae_rows_desc, input) - 56usize];
    ["Offset of field: rmae_rows_desc::output"][::core::mem::offset_of!(rmae_rows_desc, output) - 64usize];
};
unsafe extern "C" {
    pub fn rmae_rows_gather(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_rows_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_rows_scatter_add(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_rows_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_keys {
    pub keys: *const i32,
    pub key_count: i64,
    pub segment_keys: *mut i32,
    pub offsets: *mut i32,
    pub indices: *mut i32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_keys"][::core::mem::size_of::<rmae_keys>() - 40usize];
    ["Alignment of rmae_keys"][::core::mem::align_of::<rmae_keys>() - 8usize];
    ["Offset of field: rmae_keys::keys"][::core::mem::offset_of!(rmae_keys, keys) - 0usize];
    ["Offset of field: rmae_keys::key_count"][::core::mem::offset_of!(rmae_keys, key_count) - 8usize];
    ["Offset of field: rmae_keys::segment_keys"][::core::mem::offset_of!(rmae_keys, segment_keys) - 16usize];
    ["Offset of field: rmae_keys::offsets"][::core::mem::offset_of!(rmae_keys, offsets) - 24usize];
    ["Offset of field: rmae_keys::indices"][::core::mem::offset_of!(rmae_keys, indices) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_group_by_key_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub rows: i64,
    pub array_count: i64,
    pub arrays: [rmae_keys; 3usize],
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_group_by_key_desc"][::core::mem::size_of::<rmae_group_by_key_desc>() - 168usize];
    ["Alignment of rmae_group_by_key_desc"][::core::mem::align_of::<rmae_group_by_key_desc>() - 8usize];
    ["Offset of field: rmae_group_by_key_desc::size"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, size) - 0usize];
    ["Offset of field: rmae_group_by_key_desc::version"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, version) - 4usize];
    ["Offset of field: rmae_group_by_key_desc::flags"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, flags) - 8usize];
    ["Offset of field: rmae_group_by_key_desc::rows"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, rows) - 16usize];
    ["Offset of field: rmae_group_by_key_desc::array_count"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, array_count) - 24usize];
    ["Offset of field: rmae_group_by_key_desc::arrays"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, arrays) - 32usize];
    ["Offset of field: rmae_group_by_key_desc::workspace"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, workspace) - 152usize];
    ["Offset of field: rmae_group_by_key_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_group_by_key_desc, workspace_bytes) - 160usize];
};
unsafe extern "C" {
    pub fn rmae_group_by_key_segments(rows: i64, key_count: i64, segments: *mut i64) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_group_by_key_workspace(
        device: rmae_device,
        desc: *const rmae_group_by_key_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_group_by_key(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_group_by_key_desc,
    ) -> rmae_status;
}
pub type rmae_embedding_source = i32;
pub const RMAE_EMBEDDING_WORD: _bindgen_ty_5 = 0;
pub const RMAE_EMBEDDING_CONTENT: _bindgen_ty_5 = 1;
pub const RMAE_EMBEDDING_QUERY: _bindgen_ty_5 = 2;
pub const RMAE_EMBEDDING_QUERY_POSITION: _bindgen_ty_5 = 3;
pub type _bindgen_ty_5 = ::core::ffi::c_uint;
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_table_gradient {
    pub segments: rmae_segments,
    pub d_table: *mut ::core::ffi::c_void,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_table_gradient"][::core::mem::size_of::<rmae_table_gradient>() - 48usize];
    ["Alignment of rmae_table_gradient"][::core::mem::align_of::<rmae_table_gradient>() - 8usize];
    ["Offset of field: rmae_table_gradient::segments"]
        [::core::mem::offset_of!(rmae_table_gradient, segments) - 0usize];
    ["Offset of field: rmae_table_gradient::d_table"]
        [::core::mem::offset_of!(rmae_table_gradient, d_table) - 40usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_embedding_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub dtype: rmae_dtype,
    pub source: rmae_embedding_source,
    pub eps: f32,
    pub tokens: i64,
    pub columns: i64,
    pub vocab_size: i64,
    pub sentences: i64,
    pub max_positions: i64,
    pub token_types: i64,
    pub dropout: rmae_dropout,
    pub ids: *const i32,
    pub word_table: *const ::core::ffi::c_void,
    pub sentence_indices: *const i32,
    pub sentence_vectors: *const ::core::ffi::c_void,
    pub positions: *const i32,
    pub position_table: *const ::core::ffi::c_void,
    pub token_type_table: *const ::core::ffi::c_void,
    pub gamma: *const f32,
    pub beta: *const f32,
    pub output: *mut ::core::ffi::c_void,
    pub mean: *mut f32,
    pub rstd: *mut f32,
    pub d_output: *const ::core::ffi::c_void,
    pub d_gamma: *mut f32,
    pub d_beta: *mut f32,
    pub d_position: rmae_table_gradient,
    pub d_word: rmae_table_gradient,
    pub d_token_type: *mut f32,
    pub d_sentences: rmae_table_gradient,
    pub d_sentences_rows: i64,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_embedding_desc"][::core::mem::size_of::<rmae_embedding_desc>() - 392usize];
    ["Alignment of rmae_embedding_desc"][::core::mem::align_of::<rmae_embedding_desc>() - 8usize];
    ["Offset of field: rmae_embedding_desc::size"]
        [::core::mem::offset_of!(rmae_embedding_desc, size) - 0usize];
    ["Offset of field: rmae_embedding_desc::version"]
        [::core::mem::offset_of!(rmae_embedding_desc, version) - 4usize];
    ["Offset of field: rmae_embedding_desc::flags"]
        [::core::mem::offset_of!(rmae_embedding_desc, flags) - 8usize];
    ["Offset of field: rmae_embedding_desc::dtype"]
        [::core::mem::offset_of!(rmae_embedding_desc, dtype) - 16usize];
    ["Offset of field: rmae_embedding_desc::source"]
        [::core::mem::offset_of!(rmae_embedding_desc, source) - 20usize];
    ["Offset of field: rmae_embedding_desc::eps"]
        [::core::mem::offset_of!(rmae_embedding_desc, eps) - 24usize];
    ["Offset of field: rmae_embedding_desc::tokens"]
        [::core::mem::offset_of!(rmae_embedding_desc, tokens) - 32usize];
    ["Offset of field: rmae_embedding_desc::columns"]
        [::core::mem::offset_of!(rmae_embedding_desc, columns) - 40usize];
    ["Offset of field: rmae_embedding_desc::vocab_size"]
        [::core::mem::offset_of!(rmae_embedding_desc, vocab_size) - 48usize];
    ["Offset of field: rmae_embedding_desc::sentences"]
        [::core::mem::offset_of!(rmae_embedding_desc, sentences) - 56usize];
    ["Offset of field: rmae_embedding_desc::max_positions"]
        [::core::mem::offset_of!(rmae_embedding_desc, max_positions) - 64usize];
    ["Offset of field: rmae_embedding_desc::token_types"]
        [::core::mem::offset_of!(rmae_embedding_desc, token_types) - 72usize];
    ["Offset of field: rmae_embedding_desc::dropout"]
        [::core::mem::offset_of!(rmae_embedding_desc, dropout) - 80usize];
    ["Offset of field: rmae_embedding_desc::ids"]
        [::core::mem::offset_of!(rmae_embedding_desc, ids) - 96usize];
    ["Offset of field: rmae_embedding_desc::word_table"]
        [::core::mem::offset_of!(rmae_embedding_desc, word_table) - 104usize];
    ["Offset of field: rmae_embedding_desc::sentence_indices"]
        [::core::mem::offset_of!(rmae_embedding_desc, sentence_indices) - 112usize];
    ["Offset of field: rmae_embedding_desc::sentence_vectors"]
        [::core::mem::offset_of!(rmae_embedding_desc, sentence_vectors) - 120usize];
    ["Offset of field: rmae_embedding_desc::positions"]
        [::core::mem::offset_of!(rmae_embedding_desc, positions) - 128usize];
    ["Offset of field: rmae_embedding_desc::position_table"]
        [::core::mem::offset_of!(rmae_embedding_desc, position_table) - 136usize];
    ["Offset of field: rmae_embedding_desc::token_type_table"]
        [::core::mem::offset_of!(rmae_embedding_desc, token_type_table) - 144usize];
    ["Offset of field: rmae_embedding_desc::gamma"]
        [::core::mem::offset_of!(rmae_embedding_desc, gamma) - 152usize];
    ["Offset of field: rmae_embedding_desc::beta"]
        [::core::mem::offset_of!(rmae_embedding_desc, beta) - 160usize];
    ["Offset of field: rmae_embedding_desc::output"]
        [::core::mem::offset_of!(rmae_embedding_desc, output) - 168usize];
    ["Offset of field: rmae_embedding_desc::mean"]
        [::core::mem::offset_of!(rmae_embedding_desc, mean) - 176usize];
    ["Offset of field: rmae_embedding_desc::rstd"]
        [::core::mem::offset_of!(rmae_embedding_desc, rstd) - 184usize];
    ["Offset of field: rmae_embedding_desc::d_output"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_output) - 192usize];
    ["Offset of field: rmae_embedding_desc::d_gamma"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_gamma) - 200usize];
    ["Offset of field: rmae_embedding_desc::d_beta"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_beta) - 208usize];
    ["Offset of field: rmae_embedding_desc::d_position"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_position) - 216usize];
    ["Offset of field: rmae_embedding_desc::d_word"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_word) - 264usize];
    ["Offset of field: rmae_embedding_desc::d_token_type"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_token_type) - 312usize];
    ["Offset of field: rmae_embedding_desc::d_sentences"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_sentences) - 320usize];
    ["Offset of field: rmae_embedding_desc::d_sentences_rows"]
        [::core::mem::offset_of!(rmae_embedding_desc, d_sentences_rows) - 368usize];
    ["Offset of field: rmae_embedding_desc::workspace"]
        [::core::mem::offset_of!(rmae_embedding_desc, workspace) - 376usize];
    ["Offset of field: rmae_embedding_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_embedding_desc, workspace_bytes) - 384usize];
};
unsafe extern "C" {
    pub fn rmae_embedding_workspace(
        device: rmae_device,
        desc: *const rmae_embedding_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_embedding_forward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_embedding_desc,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_embedding_backward(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_embedding_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_replacement {
    pub mask_id: i32,
    pub vocab_size: i64,
    pub mask_share: f64,
    pub random_share: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_replacement"][::core::mem::size_of::<rmae_replacement>() - 32usize];
    ["Alignment of rmae_replacement"][::core::mem::align_of::<rmae_replacement>() - 8usize];
    ["Offset of field: rmae_replacement::mask_id"]
        [::core::mem::offset_of!(rmae_replacement, mask_id) - 0usize];
    ["Offset of field: rmae_replacement::vocab_size"]
        [::core::mem::offset_of!(rmae_replacement, vocab_size) - 8usize];
    ["Offset of field: rmae_replacement::mask_share"]
        [::core::mem::offset_of!(rmae_replacement, mask_share) - 16usize];
    ["Offset of field: rmae_replacement::random_share"]
        [::core::mem::offset_of!(rmae_replacement, random_share) - 24usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_corruption {
    pub ids: *const i32,
    pub count_limit: rmae_count_limit,
    pub replacement: rmae_replacement,
    pub input_ids: *mut i32,
    pub offsets: *const i32,
    pub labeled_rows: *mut i32,
    pub targets: *mut i32,
    pub counts: *mut i32,
    pub labeled: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_corruption"][::core::mem::size_of::<rmae_corruption>() - 104usize];
    ["Alignment of rmae_corruption"][::core::mem::align_of::<rmae_corruption>() - 8usize];
    ["Offset of field: rmae_corruption::ids"][::core::mem::offset_of!(rmae_corruption, ids) - 0usize];
    ["Offset of field: rmae_corruption::count_limit"]
        [::core::mem::offset_of!(rmae_corruption, count_limit) - 8usize];
    ["Offset of field: rmae_corruption::replacement"]
        [::core::mem::offset_of!(rmae_corruption, replacement) - 24usize];
    ["Offset of field: rmae_corruption::input_ids"]
        [::core::mem::offset_of!(rmae_corruption, input_ids) - 56usize];
    ["Offset of field: rmae_corruption::offsets"]
        [::core::mem::offset_of!(rmae_corruption, offsets) - 64usize];
    ["Offset of field: rmae_corruption::labeled_rows"]
        [::core::mem::offset_of!(rmae_corruption, labeled_rows) - 72usize];
    ["Offset of field: rmae_corruption::targets"]
        [::core::mem::offset_of!(rmae_corruption, targets) - 80usize];
    ["Offset of field: rmae_corruption::counts"][::core::mem::offset_of!(rmae_corruption, counts) - 88usize];
    ["Offset of field: rmae_corruption::labeled"]
        [::core::mem::offset_of!(rmae_corruption, labeled) - 96usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_pool {
    pub count_limit: rmae_count_limit,
    pub rows_max: i64,
    pub offsets: *const u32,
    pub bits: *mut u32,
    pub words: i64,
    pub rows: *mut u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_pool"][::core::mem::size_of::<rmae_pool>() - 56usize];
    ["Alignment of rmae_pool"][::core::mem::align_of::<rmae_pool>() - 8usize];
    ["Offset of field: rmae_pool::count_limit"][::core::mem::offset_of!(rmae_pool, count_limit) - 0usize];
    ["Offset of field: rmae_pool::rows_max"][::core::mem::offset_of!(rmae_pool, rows_max) - 16usize];
    ["Offset of field: rmae_pool::offsets"][::core::mem::offset_of!(rmae_pool, offsets) - 24usize];
    ["Offset of field: rmae_pool::bits"][::core::mem::offset_of!(rmae_pool, bits) - 32usize];
    ["Offset of field: rmae_pool::words"][::core::mem::offset_of!(rmae_pool, words) - 40usize];
    ["Offset of field: rmae_pool::rows"][::core::mem::offset_of!(rmae_pool, rows) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_masks_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub rng: *const u32,
    pub cu_seqlens: *const i32,
    pub indices: *const u32,
    pub word_starts: *const u32,
    pub sentences: i64,
    pub tokens: i64,
    pub length_max: i64,
    pub pool: rmae_pool,
    pub encoder: rmae_corruption,
    pub decoder: rmae_corruption,
    pub workspace: *mut ::core::ffi::c_void,
    pub workspace_bytes: usize,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_masks_desc"][::core::mem::size_of::<rmae_masks_desc>() - 352usize];
    ["Alignment of rmae_masks_desc"][::core::mem::align_of::<rmae_masks_desc>() - 8usize];
    ["Offset of field: rmae_masks_desc::size"][::core::mem::offset_of!(rmae_masks_desc, size) - 0usize];
    ["Offset of field: rmae_masks_desc::version"][::core::mem::offset_of!(rmae_masks_desc, version) - 4usize];
    ["Offset of field: rmae_masks_desc::flags"][::core::mem::offset_of!(rmae_masks_desc, flags) - 8usize];
    ["Offset of field: rmae_masks_desc::rng"][::core::mem::offset_of!(rmae_masks_desc, rng) - 16usize];
    ["Offset of field: rmae_masks_desc::cu_seqlens"]
        [::core::mem::offset_of!(rmae_masks_desc, cu_seqlens) - 24usize];
    ["Offset of field: rmae_masks_desc::indices"]
        [::core::mem::offset_of!(rmae_masks_desc, indices) - 32usize];
    ["Offset of field: rmae_masks_desc::word_starts"]
        [::core::mem::offset_of!(rmae_masks_desc, word_starts) - 40usize];
    ["Offset of field: rmae_masks_desc::sentences"]
        [::core::mem::offset_of!(rmae_masks_desc, sentences) - 48usize];
    ["Offset of field: rmae_masks_desc::tokens"][::core::mem::offset_of!(rmae_masks_desc, tokens) - 56usize];
    ["Offset of field: rmae_masks_desc::length_max"]
        [::core::mem::offset_of!(rmae_masks_desc, length_max) - 64usize];
    ["Offset of field: rmae_masks_desc::pool"][::core::mem::offset_of!(rmae_masks_desc, pool) - 72usize];
    ["Offset of field: rmae_masks_desc::encoder"]
        [::core::mem::offset_of!(rmae_masks_desc, encoder) - 128usize];
    ["Offset of field: rmae_masks_desc::decoder"]
        [::core::mem::offset_of!(rmae_masks_desc, decoder) - 232usize];
    ["Offset of field: rmae_masks_desc::workspace"]
        [::core::mem::offset_of!(rmae_masks_desc, workspace) - 336usize];
    ["Offset of field: rmae_masks_desc::workspace_bytes"]
        [::core::mem::offset_of!(rmae_masks_desc, workspace_bytes) - 344usize];
};
unsafe extern "C" {
    pub fn rmae_masks_pool_offsets(
        cu_seqlens: *const i32,
        sentences: i64,
        rows_max: i64,
        offsets: *mut u32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_masks_labeled_offsets(
        cu_seqlens: *const i32,
        sentences: i64,
        count_limit: rmae_count_limit,
        offsets: *mut i32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_masks_workspace(
        device: rmae_device,
        desc: *const rmae_masks_desc,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_masks_sample(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_masks_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_adamw_constants {
    pub beta1: f64,
    pub beta2: f64,
    pub eps: f64,
    pub weight_decay: f64,
    pub max_norm: f64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_adamw_constants"][::core::mem::size_of::<rmae_adamw_constants>() - 40usize];
    ["Alignment of rmae_adamw_constants"][::core::mem::align_of::<rmae_adamw_constants>() - 8usize];
    ["Offset of field: rmae_adamw_constants::beta1"]
        [::core::mem::offset_of!(rmae_adamw_constants, beta1) - 0usize];
    ["Offset of field: rmae_adamw_constants::beta2"]
        [::core::mem::offset_of!(rmae_adamw_constants, beta2) - 8usize];
    ["Offset of field: rmae_adamw_constants::eps"]
        [::core::mem::offset_of!(rmae_adamw_constants, eps) - 16usize];
    ["Offset of field: rmae_adamw_constants::weight_decay"]
        [::core::mem::offset_of!(rmae_adamw_constants, weight_decay) - 24usize];
    ["Offset of field: rmae_adamw_constants::max_norm"]
        [::core::mem::offset_of!(rmae_adamw_constants, max_norm) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_adamw_desc {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub constants: rmae_adamw_constants,
    pub count: i64,
    pub decayed: i64,
    pub parameters: *mut f32,
    pub gradients: *mut f32,
    pub first_moments: *mut f32,
    pub second_moments: *mut f32,
    pub compute_parameters: *mut ::core::ffi::c_void,
    pub squared_norm: *const f32,
    pub schedule: *const f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_adamw_desc"][::core::mem::size_of::<rmae_adamw_desc>() - 128usize];
    ["Alignment of rmae_adamw_desc"][::core::mem::align_of::<rmae_adamw_desc>() - 8usize];
    ["Offset of field: rmae_adamw_desc::size"][::core::mem::offset_of!(rmae_adamw_desc, size) - 0usize];
    ["Offset of field: rmae_adamw_desc::version"][::core::mem::offset_of!(rmae_adamw_desc, version) - 4usize];
    ["Offset of field: rmae_adamw_desc::flags"][::core::mem::offset_of!(rmae_adamw_desc, flags) - 8usize];
    ["Offset of field: rmae_adamw_desc::constants"]
        [::core::mem::offset_of!(rmae_adamw_desc, constants) - 16usize];
    ["Offset of field: rmae_adamw_desc::count"][::core::mem::offset_of!(rmae_adamw_desc, count) - 56usize];
    ["Offset of field: rmae_adamw_desc::decayed"]
        [::core::mem::offset_of!(rmae_adamw_desc, decayed) - 64usize];
    ["Offset of field: rmae_adamw_desc::parameters"]
        [::core::mem::offset_of!(rmae_adamw_desc, parameters) - 72usize];
    ["Offset of field: rmae_adamw_desc::gradients"]
        [::core::mem::offset_of!(rmae_adamw_desc, gradients) - 80usize];
    ["Offset of field: rmae_adamw_desc::first_moments"]
        [::core::mem::offset_of!(rmae_adamw_desc, first_moments) - 88usize];
    ["Offset of field: rmae_adamw_desc::second_moments"]
        [::core::mem::offset_of!(rmae_adamw_desc, second_moments) - 96usize];
    ["Offset of field: rmae_adamw_desc::compute_parameters"]
        [::core::mem::offset_of!(rmae_adamw_desc, compute_parameters) - 104usize];
    ["Offset of field: rmae_adamw_desc::squared_norm"]
        [::core::mem::offset_of!(rmae_adamw_desc, squared_norm) - 112usize];
    ["Offset of field: rmae_adamw_desc::schedule"]
        [::core::mem::offset_of!(rmae_adamw_desc, schedule) - 120usize];
};
unsafe extern "C" {
    pub fn rmae_adamw_schedule(
        constants: *const rmae_adamw_constants,
        learning_rate: f64,
        update: u32,
        schedule: *mut f32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_adamw_step(
        device: rmae_device,
        stream: *mut ::core::ffi::c_void,
        desc: *const rmae_adamw_desc,
    ) -> rmae_status;
}
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_capacity {
    pub tokens: i64,
    pub sentences: i64,
    pub sentence_length: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_capacity"][::core::mem::size_of::<rmae_capacity>() - 24usize];
    ["Alignment of rmae_capacity"][::core::mem::align_of::<rmae_capacity>() - 8usize];
    ["Offset of field: rmae_capacity::tokens"][::core::mem::offset_of!(rmae_capacity, tokens) - 0usize];
    ["Offset of field: rmae_capacity::sentences"][::core::mem::offset_of!(rmae_capacity, sentences) - 8usize];
    ["Offset of field: rmae_capacity::sentence_length"]
        [::core::mem::offset_of!(rmae_capacity, sentence_length) - 16usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_parameter_info {
    pub name: *const ::core::ffi::c_char,
    pub rows: i64,
    pub columns: i64,
    pub offset: i64,
    pub length: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_parameter_info"][::core::mem::size_of::<rmae_parameter_info>() - 40usize];
    ["Alignment of rmae_parameter_info"][::core::mem::align_of::<rmae_parameter_info>() - 8usize];
    ["Offset of field: rmae_parameter_info::name"]
        [::core::mem::offset_of!(rmae_parameter_info, name) - 0usize];
    ["Offset of field: rmae_parameter_info::rows"]
        [::core::mem::offset_of!(rmae_parameter_info, rows) - 8usize];
    ["Offset of field: rmae_parameter_info::columns"]
        [::core::mem::offset_of!(rmae_parameter_info, columns) - 16usize];
    ["Offset of field: rmae_parameter_info::offset"]
        [::core::mem::offset_of!(rmae_parameter_info, offset) - 24usize];
    ["Offset of field: rmae_parameter_info::length"]
        [::core::mem::offset_of!(rmae_parameter_info, length) - 32usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_arena {
    pub parameters: *mut f32,
    pub compute_parameters: *mut ::core::ffi::c_void,
    pub gradients: *mut f32,
    pub first_moments: *mut f32,
    pub second_moments: *mut f32,
    pub length: i64,
    pub decayed: i64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_arena"][::core::mem::size_of::<rmae_arena>() - 56usize];
    ["Alignment of rmae_arena"][::core::mem::align_of::<rmae_arena>() - 8usize];
    ["Offset of field: rmae_arena::parameters"][::core::mem::offset_of!(rmae_arena, parameters) - 0usize];
    ["Offset of field: rmae_arena::compute_parameters"]
        [::core::mem::offset_of!(rmae_arena, compute_parameters) - 8usize];
    ["Offset of field: rmae_arena::gradients"][::core::mem::offset_of!(rmae_arena, gradients) - 16usize];
    ["Offset of field: rmae_arena::first_moments"]
        [::core::mem::offset_of!(rmae_arena, first_moments) - 24usize];
    ["Offset of field: rmae_arena::second_moments"]
        [::core::mem::offset_of!(rmae_arena, second_moments) - 32usize];
    ["Offset of field: rmae_arena::length"][::core::mem::offset_of!(rmae_arena, length) - 40usize];
    ["Offset of field: rmae_arena::decayed"][::core::mem::offset_of!(rmae_arena, decayed) - 48usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_batch {
    pub size: u32,
    pub version: u32,
    pub flags: u64,
    pub sentences: i64,
    pub cu_seqlens: *const i32,
    pub ids: *const i32,
    pub sentence_indices: *const u32,
    pub word_starts: *const u32,
    pub mask_id: i32,
    pub encoder_limit: rmae_count_limit,
    pub decoder_limit: rmae_count_limit,
    pub pool_rows: i64,
    pub encoder_input_ids: *const i32,
    pub encoder_labels: *const i32,
    pub decoder_input_ids: *const i32,
    pub decoder_labels: *const i32,
    pub visibility_bits: *const u32,
    pub visibility_words: i64,
    pub visibility_offsets: *const u32,
    pub visibility_rows: *const u16,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_batch"][::core::mem::size_of::<rmae_batch>() - 168usize];
    ["Alignment of rmae_batch"][::core::mem::align_of::<rmae_batch>() - 8usize];
    ["Offset of field: rmae_batch::size"][::core::mem::offset_of!(rmae_batch, size) - 0usize];
    ["Offset of field: rmae_batch::version"][::core::mem::offset_of!(rmae_batch, version) - 4usize];
    ["Offset of field: rmae_batch::flags"][::core::mem::offset_of!(rmae_batch, flags) - 8usize];
    ["Offset of field: rmae_batch::sentences"][::core::mem::offset_of!(rmae_batch, sentences) - 16usize];
    ["Offset of field: rmae_batch::cu_seqlens"][::core::mem::offset_of!(rmae_batch, cu_seqlens) - 24usize];
    ["Offset of field: rmae_batch::ids"][::core::mem::offset_of!(rmae_batch, ids) - 32usize];
    ["Offset of field: rmae_batch::sentence_indices"]
        [::core::mem::offset_of!(rmae_batch, sentence_indices) - 40usize];
    ["Offset of field: rmae_batch::word_starts"][::core::mem::offset_of!(rmae_batch, word_starts) - 48usize];
    ["Offset of field: rmae_batch::mask_id"][::core::mem::offset_of!(rmae_batch, mask_id) - 56usize];
    ["Offset of field: rmae_batch::encoder_limit"]
        [::core::mem::offset_of!(rmae_batch, encoder_limit) - 64usize];
    ["Offset of field: rmae_batch::decoder_limit"]
        [::core::mem::offset_of!(rmae_batch, decoder_limit) - 80usize];
    ["Offset of field: rmae_batch::pool_rows"][::core::mem::offset_of!(rmae_batch, pool_rows) - 96usize];
    ["Offset of field: rmae_batch::encoder_input_ids"]
        [::core::mem::offset_of!(rmae_batch, encoder_input_ids) - 104usize];
    ["Offset of field: rmae_batch::encoder_labels"]
        [::core::mem::offset_of!(rmae_batch, encoder_labels) - 112usize];
    ["Offset of field: rmae_batch::decoder_input_ids"]
        [::core::mem::offset_of!(rmae_batch, decoder_input_ids) - 120usize];
    ["Offset of field: rmae_batch::decoder_labels"]
        [::core::mem::offset_of!(rmae_batch, decoder_labels) - 128usize];
    ["Offset of field: rmae_batch::visibility_bits"]
        [::core::mem::offset_of!(rmae_batch, visibility_bits) - 136usize];
    ["Offset of field: rmae_batch::visibility_words"]
        [::core::mem::offset_of!(rmae_batch, visibility_words) - 144usize];
    ["Offset of field: rmae_batch::visibility_offsets"]
        [::core::mem::offset_of!(rmae_batch, visibility_offsets) - 152usize];
    ["Offset of field: rmae_batch::visibility_rows"]
        [::core::mem::offset_of!(rmae_batch, visibility_rows) - 160usize];
};
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct rmae_outcome {
    pub encoder_loss: f32,
    pub decoder_loss: f32,
    pub bag_of_words_loss: f32,
    pub encoder_accuracy: f32,
    pub decoder_accuracy: f32,
    pub encoder_perplexity: f32,
    pub decoder_perplexity: f32,
    pub gradient_norm: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of rmae_outcome"][::core::mem::size_of::<rmae_outcome>() - 32usize];
    ["Alignment of rmae_outcome"][::core::mem::align_of::<rmae_outcome>() - 4usize];
    ["Offset of field: rmae_outcome::encoder_loss"]
        [::core::mem::offset_of!(rmae_outcome, encoder_loss) - 0usize];
    ["Offset of field: rmae_outcome::decoder_loss"]
        [::core::mem::offset_of!(rmae_outcome, decoder_loss) - 4usize];
    ["Offset of field: rmae_outcome::bag_of_words_loss"]
        [::core::mem::offset_of!(rmae_outcome, bag_of_words_loss) - 8usize];
    ["Offset of field: rmae_outcome::encoder_accuracy"]
        [::core::mem::offset_of!(rmae_outcome, encoder_accuracy) - 12usize];
    ["Offset of field: rmae_outcome::decoder_accuracy"]
        [::core::mem::offset_of!(rmae_outcome, decoder_accuracy) - 16usize];
    ["Offset of field: rmae_outcome::encoder_perplexity"]
        [::core::mem::offset_of!(rmae_outcome, encoder_perplexity) - 20usize];
    ["Offset of field: rmae_outcome::decoder_perplexity"]
        [::core::mem::offset_of!(rmae_outcome, decoder_perplexity) - 24usize];
    ["Offset of field: rmae_outcome::gradient_norm"]
        [::core::mem::offset_of!(rmae_outcome, gradient_norm) - 28usize];
};
unsafe extern "C" {
    pub fn rmae_model_create(
        device: rmae_device,
        config: *const ::core::ffi::c_char,
        dtype: rmae_dtype,
        capacity: rmae_capacity,
        model: *mut rmae_model,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_destroy(model: rmae_model) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_memory(
        device: rmae_device,
        config: *const ::core::ffi::c_char,
        dtype: rmae_dtype,
        capacity: rmae_capacity,
        bytes: *mut usize,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_initialize(model: rmae_model, seed: u64) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_parameter_count(model: rmae_model, count: *mut i64) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_parameter_info(
        model: rmae_model,
        index: i64,
        info: *mut rmae_parameter_info,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_parameter(
        model: rmae_model,
        name: *const ::core::ffi::c_char,
        values: *mut f32,
        length: i64,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_set_parameter(
        model: rmae_model,
        name: *const ::core::ffi::c_char,
        values: *const f32,
        length: i64,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_gradient(
        model: rmae_model,
        name: *const ::core::ffi::c_char,
        values: *mut f32,
        length: i64,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_parameters_arena(model: rmae_model, arena: *mut rmae_arena) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_zero_gradients(model: rmae_model, stream: *mut ::core::ffi::c_void) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_step(
        model: rmae_model,
        stream: *mut ::core::ffi::c_void,
        batch: *const rmae_batch,
        seed: *const u64,
        step: u32,
        outcome: *mut rmae_outcome,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_accumulate(
        model: rmae_model,
        stream: *mut ::core::ffi::c_void,
        batch: *const rmae_batch,
        seed: u64,
        step: u32,
        weight: f32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_train_step(
        model: rmae_model,
        stream: *mut ::core::ffi::c_void,
        batch: *const rmae_batch,
        seed: u64,
        step: u32,
        constants: *const rmae_adamw_constants,
        learning_rate: f64,
        update: u32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_update(
        model: rmae_model,
        stream: *mut ::core::ffi::c_void,
        constants: *const rmae_adamw_constants,
        learning_rate: f64,
        update: u32,
        gradient_norm: *mut f32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_outcome(model: rmae_model, outcome: *mut rmae_outcome) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_embed(
        model: rmae_model,
        stream: *mut ::core::ffi::c_void,
        sentences: i64,
        cu_seqlens: *const i32,
        ids: *const i32,
        mean: i32,
        vectors: *mut f32,
    ) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_save(model: rmae_model, directory: *const ::core::ffi::c_char) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_load(model: rmae_model, directory: *const ::core::ffi::c_char) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_save_state(model: rmae_model, file: *const ::core::ffi::c_char) -> rmae_status;
}
unsafe extern "C" {
    pub fn rmae_model_load_state(model: rmae_model, file: *const ::core::ffi::c_char) -> rmae_status;
}
