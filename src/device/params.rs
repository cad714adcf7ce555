//! Declarations that kernels and Rust share: the output of bindgen for `kernels/params.h`.
//!
//! Do not edit; run `cargo build --features bindgen`.
#![allow(dead_code, missing_docs, clippy::pedantic, clippy::all)]

pub type DevicePointer = u64;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RngState {
    pub seed_low: u32,
    pub seed_high: u32,
    pub step: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RngState"][::core::mem::size_of::<RngState>() - 16usize];
    ["Alignment of RngState"][::core::mem::align_of::<RngState>() - 4usize];
    ["Offset of field: RngState::seed_low"][::core::mem::offset_of!(RngState, seed_low) - 0usize];
    ["Offset of field: RngState::seed_high"][::core::mem::offset_of!(RngState, seed_high) - 4usize];
    ["Offset of field: RngState::step"][::core::mem::offset_of!(RngState, step) - 8usize];
    ["Offset of field: RngState::reserved"][::core::mem::offset_of!(RngState, reserved) - 12usize];
};
pub const VOCABULARY_TILE: TileSize = 128;
pub const CROSS_ENTROPY_SLAB_ROWS: TileSize = 64;
pub const SEGMENT_SLICE: TileSize = 64;
pub const GROUP_TILE: TileSize = 2048;
pub const GROUP_DIGIT_BITS: TileSize = 8;
pub const MASK_ROWS_PER_BLOCK: TileSize = 32;
pub const ROW_COLUMNS_MAX: TileSize = 1024;
pub type TileSize = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct DropoutParams {
    pub rng: DevicePointer,
    pub threshold: u32,
    pub scale: f32,
    pub site: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of DropoutParams"][::core::mem::size_of::<DropoutParams>() - 24usize];
    ["Alignment of DropoutParams"][::core::mem::align_of::<DropoutParams>() - 8usize];
    ["Offset of field: DropoutParams::rng"][::core::mem::offset_of!(DropoutParams, rng) - 0usize];
    ["Offset of field: DropoutParams::threshold"][::core::mem::offset_of!(DropoutParams, threshold) - 8usize];
    ["Offset of field: DropoutParams::scale"][::core::mem::offset_of!(DropoutParams, scale) - 12usize];
    ["Offset of field: DropoutParams::site"][::core::mem::offset_of!(DropoutParams, site) - 16usize];
    ["Offset of field: DropoutParams::reserved"][::core::mem::offset_of!(DropoutParams, reserved) - 20usize];
};
pub const ATTENTION_MASK_BITS: AttentionMaskKind = 0;
pub const ATTENTION_MASK_WINDOW: AttentionMaskKind = 1;
pub const ATTENTION_MASK_PERMUTATION: AttentionMaskKind = 2;
pub const ATTENTION_MASK_SAMPLED: AttentionMaskKind = 3;
pub type AttentionMaskKind = u32;
pub const ATTENTION_FIRST_VISIBLE: AttentionMaskRule = 1;
pub const ATTENTION_SELF_HIDDEN: AttentionMaskRule = 2;
pub const ATTENTION_SELF_VISIBLE: AttentionMaskRule = 4;
pub type AttentionMaskRule = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct MaskCountLimitParams {
    pub ratio: f64,
    pub cap: u32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MaskCountLimitParams"][::core::mem::size_of::<MaskCountLimitParams>() - 16usize];
    ["Alignment of MaskCountLimitParams"][::core::mem::align_of::<MaskCountLimitParams>() - 8usize];
    ["Offset of field: MaskCountLimitParams::ratio"]
        [::core::mem::offset_of!(MaskCountLimitParams, ratio) - 0usize];
    ["Offset of field: MaskCountLimitParams::cap"]
        [::core::mem::offset_of!(MaskCountLimitParams, cap) - 8usize];
    ["Offset of field: MaskCountLimitParams::unused"]
        [::core::mem::offset_of!(MaskCountLimitParams, unused) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionMaskParams {
    pub bits: DevicePointer,
    pub offsets: DevicePointer,
    pub rows: DevicePointer,
    pub order: DevicePointer,
    pub kind: u32,
    pub rules: u32,
    pub left: u32,
    pub right: u32,
    pub rng: DevicePointer,
    pub sentence_indices: DevicePointer,
    pub word_starts: DevicePointer,
    pub count_limit: MaskCountLimitParams,
    pub pool_rows_max: u32,
    pub words: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionMaskParams"][::core::mem::size_of::<AttentionMaskParams>() - 96usize];
    ["Alignment of AttentionMaskParams"][::core::mem::align_of::<AttentionMaskParams>() - 8usize];
    ["Offset of field: AttentionMaskParams::bits"]
        [::core::mem::offset_of!(AttentionMaskParams, bits) - 0usize];
    ["Offset of field: AttentionMaskParams::offsets"]
        [::core::mem::offset_of!(AttentionMaskParams, offsets) - 8usize];
    ["Offset of field: AttentionMaskParams::rows"]
        [::core::mem::offset_of!(AttentionMaskParams, rows) - 16usize];
    ["Offset of field: AttentionMaskParams::order"]
        [::core::mem::offset_of!(AttentionMaskParams, order) - 24usize];
    ["Offset of field: AttentionMaskParams::kind"]
        [::core::mem::offset_of!(AttentionMaskParams, kind) - 32usize];
    ["Offset of field: AttentionMaskParams::rules"]
        [::core::mem::offset_of!(AttentionMaskParams, rules) - 36usize];
    ["Offset of field: AttentionMaskParams::left"]
        [::core::mem::offset_of!(AttentionMaskParams, left) - 40usize];
    ["Offset of field: AttentionMaskParams::right"]
        [::core::mem::offset_of!(AttentionMaskParams, right) - 44usize];
    ["Offset of field: AttentionMaskParams::rng"]
        [::core::mem::offset_of!(AttentionMaskParams, rng) - 48usize];
    ["Offset of field: AttentionMaskParams::sentence_indices"]
        [::core::mem::offset_of!(AttentionMaskParams, sentence_indices) - 56usize];
    ["Offset of field: AttentionMaskParams::word_starts"]
        [::core::mem::offset_of!(AttentionMaskParams, word_starts) - 64usize];
    ["Offset of field: AttentionMaskParams::count_limit"]
        [::core::mem::offset_of!(AttentionMaskParams, count_limit) - 72usize];
    ["Offset of field: AttentionMaskParams::pool_rows_max"]
        [::core::mem::offset_of!(AttentionMaskParams, pool_rows_max) - 88usize];
    ["Offset of field: AttentionMaskParams::words"]
        [::core::mem::offset_of!(AttentionMaskParams, words) - 92usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionForwardParams {
    pub query: DevicePointer,
    pub key: DevicePointer,
    pub value: DevicePointer,
    pub output: DevicePointer,
    pub log_sum_exp: DevicePointer,
    pub query_cu_seqlens: DevicePointer,
    pub key_cu_seqlens: DevicePointer,
    pub query_positions: DevicePointer,
    pub query_stride: u32,
    pub key_stride: u32,
    pub value_stride: u32,
    pub output_stride: u32,
    pub queries: u32,
    pub sentences: u32,
    pub heads: u32,
    pub scale: f32,
    pub keys: u32,
    pub query_seqlen_max: u32,
    pub key_seqlen_max: u32,
    pub reserved: u32,
    pub mask: AttentionMaskParams,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionForwardParams"][::core::mem::size_of::<AttentionForwardParams>() - 232usize];
    ["Alignment of AttentionForwardParams"][::core::mem::align_of::<AttentionForwardParams>() - 8usize];
    ["Offset of field: AttentionForwardParams::query"]
        [::core::mem::offset_of!(AttentionForwardParams, query) - 0usize];
    ["Offset of field: AttentionForwardParams::key"]
        [::core::mem::offset_of!(AttentionForwardParams, key) - 8usize];
    ["Offset of field: AttentionForwardParams::value"]
        [::core::mem::offset_of!(AttentionForwardParams, value) - 16usize];
    ["Offset of field: AttentionForwardParams::output"]
        [::core::mem::offset_of!(AttentionForwardParams, output) - 24usize];
    ["Offset of field: AttentionForwardParams::log_sum_exp"]
        [::core::mem::offset_of!(AttentionForwardParams, log_sum_exp) - 32usize];
    ["Offset of field: AttentionForwardParams::query_cu_seqlens"]
        [::core::mem::offset_of!(AttentionForwardParams, query_cu_seqlens) - 40usize];
    ["Offset of field: AttentionForwardParams::key_cu_seqlens"]
        [::core::mem::offset_of!(AttentionForwardParams, key_cu_seqlens) - 48usize];
    ["Offset of field: AttentionForwardParams::query_positions"]
        [::core::mem::offset_of!(AttentionForwardParams, query_positions) - 56usize];
    ["Offset of field: AttentionForwardParams::query_stride"]
        [::core::mem::offset_of!(AttentionForwardParams, query_stride) - 64usize];
    ["Offset of field: AttentionForwardParams::key_stride"]
        [::core::mem::offset_of!(AttentionForwardParams, key_stride) - 68usize];
    ["Offset of field: AttentionForwardParams::value_stride"]
        [::core::mem::offset_of!(AttentionForwardParams, value_stride) - 72usize];
    ["Offset of field: AttentionForwardParams::output_stride"]
        [::core::mem::offset_of!(AttentionForwardParams, output_stride) - 76usize];
    ["Offset of field: AttentionForwardParams::queries"]
        [::core::mem::offset_of!(AttentionForwardParams, queries) - 80usize];
    ["Offset of field: AttentionForwardParams::sentences"]
        [::core::mem::offset_of!(AttentionForwardParams, sentences) - 84usize];
    ["Offset of field: AttentionForwardParams::heads"]
        [::core::mem::offset_of!(AttentionForwardParams, heads) - 88usize];
    ["Offset of field: AttentionForwardParams::scale"]
        [::core::mem::offset_of!(AttentionForwardParams, scale) - 92usize];
    ["Offset of field: AttentionForwardParams::keys"]
        [::core::mem::offset_of!(AttentionForwardParams, keys) - 96usize];
    ["Offset of field: AttentionForwardParams::query_seqlen_max"]
        [::core::mem::offset_of!(AttentionForwardParams, query_seqlen_max) - 100usize];
    ["Offset of field: AttentionForwardParams::key_seqlen_max"]
        [::core::mem::offset_of!(AttentionForwardParams, key_seqlen_max) - 104usize];
    ["Offset of field: AttentionForwardParams::reserved"]
        [::core::mem::offset_of!(AttentionForwardParams, reserved) - 108usize];
    ["Offset of field: AttentionForwardParams::mask"]
        [::core::mem::offset_of!(AttentionForwardParams, mask) - 112usize];
    ["Offset of field: AttentionForwardParams::dropout"]
        [::core::mem::offset_of!(AttentionForwardParams, dropout) - 208usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AttentionBackwardParams {
    pub forward: AttentionForwardParams,
    pub d_output: DevicePointer,
    pub d_query: DevicePointer,
    pub d_key: DevicePointer,
    pub d_value: DevicePointer,
    pub accumulator: DevicePointer,
    pub d_query_stride: u32,
    pub d_key_stride: u32,
    pub d_value_stride: u32,
    pub fused_queries_max: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AttentionBackwardParams"][::core::mem::size_of::<AttentionBackwardParams>() - 288usize];
    ["Alignment of AttentionBackwardParams"][::core::mem::align_of::<AttentionBackwardParams>() - 8usize];
    ["Offset of field: AttentionBackwardParams::forward"]
        [::core::mem::offset_of!(AttentionBackwardParams, forward) - 0usize];
    ["Offset of field: AttentionBackwardParams::d_output"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_output) - 232usize];
    ["Offset of field: AttentionBackwardParams::d_query"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_query) - 240usize];
    ["Offset of field: AttentionBackwardParams::d_key"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_key) - 248usize];
    ["Offset of field: AttentionBackwardParams::d_value"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_value) - 256usize];
    ["Offset of field: AttentionBackwardParams::accumulator"]
        [::core::mem::offset_of!(AttentionBackwardParams, accumulator) - 264usize];
    ["Offset of field: AttentionBackwardParams::d_query_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_query_stride) - 272usize];
    ["Offset of field: AttentionBackwardParams::d_key_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_key_stride) - 276usize];
    ["Offset of field: AttentionBackwardParams::d_value_stride"]
        [::core::mem::offset_of!(AttentionBackwardParams, d_value_stride) - 280usize];
    ["Offset of field: AttentionBackwardParams::fused_queries_max"]
        [::core::mem::offset_of!(AttentionBackwardParams, fused_queries_max) - 284usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct LayerNormForwardParams {
    pub input: DevicePointer,
    pub bias: DevicePointer,
    pub residual: DevicePointer,
    pub gamma: DevicePointer,
    pub beta: DevicePointer,
    pub output: DevicePointer,
    pub sum: DevicePointer,
    pub mean: DevicePointer,
    pub rstd: DevicePointer,
    pub rows: u32,
    pub columns: u32,
    pub eps: f32,
    pub reserved: u32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormForwardParams"][::core::mem::size_of::<LayerNormForwardParams>() - 112usize];
    ["Alignment of LayerNormForwardParams"][::core::mem::align_of::<LayerNormForwardParams>() - 8usize];
    ["Offset of field: LayerNormForwardParams::input"]
        [::core::mem::offset_of!(LayerNormForwardParams, input) - 0usize];
    ["Offset of field: LayerNormForwardParams::bias"]
        [::core::mem::offset_of!(LayerNormForwardParams, bias) - 8usize];
    ["Offset of field: LayerNormForwardParams::residual"]
        [::core::mem::offset_of!(LayerNormForwardParams, residual) - 16usize];
    ["Offset of field: LayerNormForwardParams::gamma"]
        [::core::mem::offset_of!(LayerNormForwardParams, gamma) - 24usize];
    ["Offset of field: LayerNormForwardParams::beta"]
        [::core::mem::offset_of!(LayerNormForwardParams, beta) - 32usize];
    ["Offset of field: LayerNormForwardParams::output"]
        [::core::mem::offset_of!(LayerNormForwardParams, output) - 40usize];
    ["Offset of field: LayerNormForwardParams::sum"]
        [::core::mem::offset_of!(LayerNormForwardParams, sum) - 48usize];
    ["Offset of field: LayerNormForwardParams::mean"]
        [::core::mem::offset_of!(LayerNormForwardParams, mean) - 56usize];
    ["Offset of field: LayerNormForwardParams::rstd"]
        [::core::mem::offset_of!(LayerNormForwardParams, rstd) - 64usize];
    ["Offset of field: LayerNormForwardParams::rows"]
        [::core::mem::offset_of!(LayerNormForwardParams, rows) - 72usize];
    ["Offset of field: LayerNormForwardParams::columns"]
        [::core::mem::offset_of!(LayerNormForwardParams, columns) - 76usize];
    ["Offset of field: LayerNormForwardParams::eps"]
        [::core::mem::offset_of!(LayerNormForwardParams, eps) - 80usize];
    ["Offset of field: LayerNormForwardParams::reserved"]
        [::core::mem::offset_of!(LayerNormForwardParams, reserved) - 84usize];
    ["Offset of field: LayerNormForwardParams::dropout"]
        [::core::mem::offset_of!(LayerNormForwardParams, dropout) - 88usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct LayerNormBackwardParams {
    pub d_output: DevicePointer,
    pub sum: DevicePointer,
    pub mean: DevicePointer,
    pub rstd: DevicePointer,
    pub gamma: DevicePointer,
    pub d_residual: DevicePointer,
    pub d_input: DevicePointer,
    pub partials: DevicePointer,
    pub rows: u32,
    pub columns: u32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of LayerNormBackwardParams"][::core::mem::size_of::<LayerNormBackwardParams>() - 96usize];
    ["Alignment of LayerNormBackwardParams"][::core::mem::align_of::<LayerNormBackwardParams>() - 8usize];
    ["Offset of field: LayerNormBackwardParams::d_output"]
        [::core::mem::offset_of!(LayerNormBackwardParams, d_output) - 0usize];
    ["Offset of field: LayerNormBackwardParams::sum"]
        [::core::mem::offset_of!(LayerNormBackwardParams, sum) - 8usize];
    ["Offset of field: LayerNormBackwardParams::mean"]
        [::core::mem::offset_of!(LayerNormBackwardParams, mean) - 16usize];
    ["Offset of field: LayerNormBackwardParams::rstd"]
        [::core::mem::offset_of!(LayerNormBackwardParams, rstd) - 24usize];
    ["Offset of field: LayerNormBackwardParams::gamma"]
        [::core::mem::offset_of!(LayerNormBackwardParams, gamma) - 32usize];
    ["Offset of field: LayerNormBackwardParams::d_residual"]
        [::core::mem::offset_of!(LayerNormBackwardParams, d_residual) - 40usize];
    ["Offset of field: LayerNormBackwardParams::d_input"]
        [::core::mem::offset_of!(LayerNormBackwardParams, d_input) - 48usize];
    ["Offset of field: LayerNormBackwardParams::partials"]
        [::core::mem::offset_of!(LayerNormBackwardParams, partials) - 56usize];
    ["Offset of field: LayerNormBackwardParams::rows"]
        [::core::mem::offset_of!(LayerNormBackwardParams, rows) - 64usize];
    ["Offset of field: LayerNormBackwardParams::columns"]
        [::core::mem::offset_of!(LayerNormBackwardParams, columns) - 68usize];
    ["Offset of field: LayerNormBackwardParams::dropout"]
        [::core::mem::offset_of!(LayerNormBackwardParams, dropout) - 72usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BiasGeluParams {
    pub input: DevicePointer,
    pub bias: DevicePointer,
    pub output: DevicePointer,
    pub d_output: DevicePointer,
    pub d_input: DevicePointer,
    pub rows: u32,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BiasGeluParams"][::core::mem::size_of::<BiasGeluParams>() - 48usize];
    ["Alignment of BiasGeluParams"][::core::mem::align_of::<BiasGeluParams>() - 8usize];
    ["Offset of field: BiasGeluParams::input"][::core::mem::offset_of!(BiasGeluParams, input) - 0usize];
    ["Offset of field: BiasGeluParams::bias"][::core::mem::offset_of!(BiasGeluParams, bias) - 8usize];
    ["Offset of field: BiasGeluParams::output"][::core::mem::offset_of!(BiasGeluParams, output) - 16usize];
    ["Offset of field: BiasGeluParams::d_output"]
        [::core::mem::offset_of!(BiasGeluParams, d_output) - 24usize];
    ["Offset of field: BiasGeluParams::d_input"][::core::mem::offset_of!(BiasGeluParams, d_input) - 32usize];
    ["Offset of field: BiasGeluParams::rows"][::core::mem::offset_of!(BiasGeluParams, rows) - 40usize];
    ["Offset of field: BiasGeluParams::columns"][::core::mem::offset_of!(BiasGeluParams, columns) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct ColumnSumParams {
    pub input: DevicePointer,
    pub outputs: [DevicePointer; 3usize],
    pub rows: u32,
    pub columns: u32,
    pub input_stride: u32,
    pub output_stride: u32,
    pub rows_per_block: u32,
    pub accumulate: u32,
    pub matrices: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ColumnSumParams"][::core::mem::size_of::<ColumnSumParams>() - 64usize];
    ["Alignment of ColumnSumParams"][::core::mem::align_of::<ColumnSumParams>() - 8usize];
    ["Offset of field: ColumnSumParams::input"][::core::mem::offset_of!(ColumnSumParams, input) - 0usize];
    ["Offset of field: ColumnSumParams::outputs"][::core::mem::offset_of!(ColumnSumParams, outputs) - 8usize];
    ["Offset of field: ColumnSumParams::rows"][::core::mem::offset_of!(ColumnSumParams, rows) - 32usize];
    ["Offset of field: ColumnSumParams::columns"]
        [::core::mem::offset_of!(ColumnSumParams, columns) - 36usize];
    ["Offset of field: ColumnSumParams::input_stride"]
        [::core::mem::offset_of!(ColumnSumParams, input_stride) - 40usize];
    ["Offset of field: ColumnSumParams::output_stride"]
        [::core::mem::offset_of!(ColumnSumParams, output_stride) - 44usize];
    ["Offset of field: ColumnSumParams::rows_per_block"]
        [::core::mem::offset_of!(ColumnSumParams, rows_per_block) - 48usize];
    ["Offset of field: ColumnSumParams::accumulate"]
        [::core::mem::offset_of!(ColumnSumParams, accumulate) - 52usize];
    ["Offset of field: ColumnSumParams::matrices"]
        [::core::mem::offset_of!(ColumnSumParams, matrices) - 56usize];
    ["Offset of field: ColumnSumParams::reserved"]
        [::core::mem::offset_of!(ColumnSumParams, reserved) - 60usize];
};
pub const EMBEDDING_WORD: EmbeddingMode = 0;
pub const EMBEDDING_CONTENT: EmbeddingMode = 1;
pub const EMBEDDING_QUERY: EmbeddingMode = 2;
pub const EMBEDDING_QUERY_POSITION: EmbeddingMode = 3;
pub type EmbeddingMode = u32;
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct EmbeddingForwardParams {
    pub ids: DevicePointer,
    pub positions: DevicePointer,
    pub sentences: DevicePointer,
    pub word: DevicePointer,
    pub position_table: DevicePointer,
    pub type_table: DevicePointer,
    pub sentence_vectors: DevicePointer,
    pub gamma: DevicePointer,
    pub beta: DevicePointer,
    pub output: DevicePointer,
    pub mean: DevicePointer,
    pub rstd: DevicePointer,
    pub tokens: u32,
    pub columns: u32,
    pub mode: u32,
    pub eps: f32,
    pub vocabulary: u32,
    pub max_positions: u32,
    pub vectors: u32,
    pub reserved: u32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingForwardParams"][::core::mem::size_of::<EmbeddingForwardParams>() - 152usize];
    ["Alignment of EmbeddingForwardParams"][::core::mem::align_of::<EmbeddingForwardParams>() - 8usize];
    ["Offset of field: EmbeddingForwardParams::ids"]
        [::core::mem::offset_of!(EmbeddingForwardParams, ids) - 0usize];
    ["Offset of field: EmbeddingForwardParams::positions"]
        [::core::mem::offset_of!(EmbeddingForwardParams, positions) - 8usize];
    ["Offset of field: EmbeddingForwardParams::sentences"]
        [::core::mem::offset_of!(EmbeddingForwardParams, sentences) - 16usize];
    ["Offset of field: EmbeddingForwardParams::word"]
        [::core::mem::offset_of!(EmbeddingForwardParams, word) - 24usize];
    ["Offset of field: EmbeddingForwardParams::position_table"]
        [::core::mem::offset_of!(EmbeddingForwardParams, position_table) - 32usize];
    ["Offset of field: EmbeddingForwardParams::type_table"]
        [::core::mem::offset_of!(EmbeddingForwardParams, type_table) - 40usize];
    ["Offset of field: EmbeddingForwardParams::sentence_vectors"]
        [::core::mem::offset_of!(EmbeddingForwardParams, sentence_vectors) - 48usize];
    ["Offset of field: EmbeddingForwardParams::gamma"]
        [::core::mem::offset_of!(EmbeddingForwardParams, gamma) - 56usize];
    ["Offset of field: EmbeddingForwardParams::beta"]
        [::core::mem::offset_of!(EmbeddingForwardParams, beta) - 64usize];
    ["Offset of field: EmbeddingForwardParams::output"]
        [::core::mem::offset_of!(EmbeddingForwardParams, output) - 72usize];
    ["Offset of field: EmbeddingForwardParams::mean"]
        [::core::mem::offset_of!(EmbeddingForwardParams, mean) - 80usize];
    ["Offset of field: EmbeddingForwardParams::rstd"]
        [::core::mem::offset_of!(EmbeddingForwardParams, rstd) - 88usize];
    ["Offset of field: EmbeddingForwardParams::tokens"]
        [::core::mem::offset_of!(EmbeddingForwardParams, tokens) - 96usize];
    ["Offset of field: EmbeddingForwardParams::columns"]
        [::core::mem::offset_of!(EmbeddingForwardParams, columns) - 100usize];
    ["Offset of field: EmbeddingForwardParams::mode"]
        [::core::mem::offset_of!(EmbeddingForwardParams, mode) - 104usize];
    ["Offset of field: EmbeddingForwardParams::eps"]
        [::core::mem::offset_of!(EmbeddingForwardParams, eps) - 108usize];
    ["Offset of field: EmbeddingForwardParams::vocabulary"]
        [::core::mem::offset_of!(EmbeddingForwardParams, vocabulary) - 112usize];
    ["Offset of field: EmbeddingForwardParams::max_positions"]
        [::core::mem::offset_of!(EmbeddingForwardParams, max_positions) - 116usize];
    ["Offset of field: EmbeddingForwardParams::vectors"]
        [::core::mem::offset_of!(EmbeddingForwardParams, vectors) - 120usize];
    ["Offset of field: EmbeddingForwardParams::reserved"]
        [::core::mem::offset_of!(EmbeddingForwardParams, reserved) - 124usize];
    ["Offset of field: EmbeddingForwardParams::dropout"]
        [::core::mem::offset_of!(EmbeddingForwardParams, dropout) - 128usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct EmbeddingBackwardParams {
    pub forward: EmbeddingForwardParams,
    pub d_output: DevicePointer,
    pub d_sum: DevicePointer,
    pub partials: DevicePointer,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of EmbeddingBackwardParams"][::core::mem::size_of::<EmbeddingBackwardParams>() - 176usize];
    ["Alignment of EmbeddingBackwardParams"][::core::mem::align_of::<EmbeddingBackwardParams>() - 8usize];
    ["Offset of field: EmbeddingBackwardParams::forward"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, forward) - 0usize];
    ["Offset of field: EmbeddingBackwardParams::d_output"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, d_output) - 152usize];
    ["Offset of field: EmbeddingBackwardParams::d_sum"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, d_sum) - 160usize];
    ["Offset of field: EmbeddingBackwardParams::partials"]
        [::core::mem::offset_of!(EmbeddingBackwardParams, partials) - 168usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SegmentSumParams {
    pub input: DevicePointer,
    pub output: DevicePointer,
    pub rows: DevicePointer,
    pub offsets: DevicePointer,
    pub indices: DevicePointer,
    pub owners: DevicePointer,
    pub partials: DevicePointer,
    pub segments: u32,
    pub columns: u32,
    pub input_rows: u32,
    pub output_rows: u32,
    pub count: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SegmentSumParams"][::core::mem::size_of::<SegmentSumParams>() - 80usize];
    ["Alignment of SegmentSumParams"][::core::mem::align_of::<SegmentSumParams>() - 8usize];
    ["Offset of field: SegmentSumParams::input"][::core::mem::offset_of!(SegmentSumParams, input) - 0usize];
    ["Offset of field: SegmentSumParams::output"][::core::mem::offset_of!(SegmentSumParams, output) - 8usize];
    ["Offset of field: SegmentSumParams::rows"][::core::mem::offset_of!(SegmentSumParams, rows) - 16usize];
    ["Offset of field: SegmentSumParams::offsets"]
        [::core::mem::offset_of!(SegmentSumParams, offsets) - 24usize];
    ["Offset of field: SegmentSumParams::indices"]
        [::core::mem::offset_of!(SegmentSumParams, indices) - 32usize];
    ["Offset of field: SegmentSumParams::owners"]
        [::core::mem::offset_of!(SegmentSumParams, owners) - 40usize];
    ["Offset of field: SegmentSumParams::partials"]
        [::core::mem::offset_of!(SegmentSumParams, partials) - 48usize];
    ["Offset of field: SegmentSumParams::segments"]
        [::core::mem::offset_of!(SegmentSumParams, segments) - 56usize];
    ["Offset of field: SegmentSumParams::columns"]
        [::core::mem::offset_of!(SegmentSumParams, columns) - 60usize];
    ["Offset of field: SegmentSumParams::input_rows"]
        [::core::mem::offset_of!(SegmentSumParams, input_rows) - 64usize];
    ["Offset of field: SegmentSumParams::output_rows"]
        [::core::mem::offset_of!(SegmentSumParams, output_rows) - 68usize];
    ["Offset of field: SegmentSumParams::count"][::core::mem::offset_of!(SegmentSumParams, count) - 72usize];
    ["Offset of field: SegmentSumParams::reserved"]
        [::core::mem::offset_of!(SegmentSumParams, reserved) - 76usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct RowsParams {
    pub input: DevicePointer,
    pub output: DevicePointer,
    pub rows: DevicePointer,
    pub count: u32,
    pub columns: u32,
    pub indexed_rows: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of RowsParams"][::core::mem::size_of::<RowsParams>() - 40usize];
    ["Alignment of RowsParams"][::core::mem::align_of::<RowsParams>() - 8usize];
    ["Offset of field: RowsParams::input"][::core::mem::offset_of!(RowsParams, input) - 0usize];
    ["Offset of field: RowsParams::output"][::core::mem::offset_of!(RowsParams, output) - 8usize];
    ["Offset of field: RowsParams::rows"][::core::mem::offset_of!(RowsParams, rows) - 16usize];
    ["Offset of field: RowsParams::count"][::core::mem::offset_of!(RowsParams, count) - 24usize];
    ["Offset of field: RowsParams::columns"][::core::mem::offset_of!(RowsParams, columns) - 28usize];
    ["Offset of field: RowsParams::indexed_rows"]
        [::core::mem::offset_of!(RowsParams, indexed_rows) - 32usize];
    ["Offset of field: RowsParams::reserved"][::core::mem::offset_of!(RowsParams, reserved) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CrossEntropyParams {
    pub logits: DevicePointer,
    pub bias: DevicePointer,
    pub targets: DevicePointer,
    pub row_weights: DevicePointer,
    pub losses: DevicePointer,
    pub log_sum_exp: DevicePointer,
    pub log_likelihoods: DevicePointer,
    pub correct: DevicePointer,
    pub hidden: DevicePointer,
    pub labeled_hidden: DevicePointer,
    pub rows: u32,
    pub vocabulary: u32,
    pub stride: u32,
    pub hidden_size: u32,
    pub ignore_index: i32,
    pub label_smoothing: f32,
    pub z_loss: f32,
    pub soft_cap: f32,
    pub has_gradient: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyParams"][::core::mem::size_of::<CrossEntropyParams>() - 120usize];
    ["Alignment of CrossEntropyParams"][::core::mem::align_of::<CrossEntropyParams>() - 8usize];
    ["Offset of field: CrossEntropyParams::logits"]
        [::core::mem::offset_of!(CrossEntropyParams, logits) - 0usize];
    ["Offset of field: CrossEntropyParams::bias"][::core::mem::offset_of!(CrossEntropyParams, bias) - 8usize];
    ["Offset of field: CrossEntropyParams::targets"]
        [::core::mem::offset_of!(CrossEntropyParams, targets) - 16usize];
    ["Offset of field: CrossEntropyParams::row_weights"]
        [::core::mem::offset_of!(CrossEntropyParams, row_weights) - 24usize];
    ["Offset of field: CrossEntropyParams::losses"]
        [::core::mem::offset_of!(CrossEntropyParams, losses) - 32usize];
    ["Offset of field: CrossEntropyParams::log_sum_exp"]
        [::core::mem::offset_of!(CrossEntropyParams, log_sum_exp) - 40usize];
    ["Offset of field: CrossEntropyParams::log_likelihoods"]
        [::core::mem::offset_of!(CrossEntropyParams, log_likelihoods) - 48usize];
    ["Offset of field: CrossEntropyParams::correct"]
        [::core::mem::offset_of!(CrossEntropyParams, correct) - 56usize];
    ["Offset of field: CrossEntropyParams::hidden"]
        [::core::mem::offset_of!(CrossEntropyParams, hidden) - 64usize];
    ["Offset of field: CrossEntropyParams::labeled_hidden"]
        [::core::mem::offset_of!(CrossEntropyParams, labeled_hidden) - 72usize];
    ["Offset of field: CrossEntropyParams::rows"]
        [::core::mem::offset_of!(CrossEntropyParams, rows) - 80usize];
    ["Offset of field: CrossEntropyParams::vocabulary"]
        [::core::mem::offset_of!(CrossEntropyParams, vocabulary) - 84usize];
    ["Offset of field: CrossEntropyParams::stride"]
        [::core::mem::offset_of!(CrossEntropyParams, stride) - 88usize];
    ["Offset of field: CrossEntropyParams::hidden_size"]
        [::core::mem::offset_of!(CrossEntropyParams, hidden_size) - 92usize];
    ["Offset of field: CrossEntropyParams::ignore_index"]
        [::core::mem::offset_of!(CrossEntropyParams, ignore_index) - 96usize];
    ["Offset of field: CrossEntropyParams::label_smoothing"]
        [::core::mem::offset_of!(CrossEntropyParams, label_smoothing) - 100usize];
    ["Offset of field: CrossEntropyParams::z_loss"]
        [::core::mem::offset_of!(CrossEntropyParams, z_loss) - 104usize];
    ["Offset of field: CrossEntropyParams::soft_cap"]
        [::core::mem::offset_of!(CrossEntropyParams, soft_cap) - 108usize];
    ["Offset of field: CrossEntropyParams::has_gradient"]
        [::core::mem::offset_of!(CrossEntropyParams, has_gradient) - 112usize];
    ["Offset of field: CrossEntropyParams::reserved"]
        [::core::mem::offset_of!(CrossEntropyParams, reserved) - 116usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CrossEntropyTotals {
    pub loss: f32,
    pub log_likelihood: f32,
    pub labeled: u32,
    pub correct: u32,
    pub invalid: u32,
    pub first_invalid: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyTotals"][::core::mem::size_of::<CrossEntropyTotals>() - 24usize];
    ["Alignment of CrossEntropyTotals"][::core::mem::align_of::<CrossEntropyTotals>() - 4usize];
    ["Offset of field: CrossEntropyTotals::loss"][::core::mem::offset_of!(CrossEntropyTotals, loss) - 0usize];
    ["Offset of field: CrossEntropyTotals::log_likelihood"]
        [::core::mem::offset_of!(CrossEntropyTotals, log_likelihood) - 4usize];
    ["Offset of field: CrossEntropyTotals::labeled"]
        [::core::mem::offset_of!(CrossEntropyTotals, labeled) - 8usize];
    ["Offset of field: CrossEntropyTotals::correct"]
        [::core::mem::offset_of!(CrossEntropyTotals, correct) - 12usize];
    ["Offset of field: CrossEntropyTotals::invalid"]
        [::core::mem::offset_of!(CrossEntropyTotals, invalid) - 16usize];
    ["Offset of field: CrossEntropyTotals::first_invalid"]
        [::core::mem::offset_of!(CrossEntropyTotals, first_invalid) - 20usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CrossEntropyBiasParams {
    pub matrix: DevicePointer,
    pub scales: DevicePointer,
    pub slab_sums: DevicePointer,
    pub d_bias: DevicePointer,
    pub rows: u32,
    pub vocabulary: u32,
    pub stride: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyBiasParams"][::core::mem::size_of::<CrossEntropyBiasParams>() - 48usize];
    ["Alignment of CrossEntropyBiasParams"][::core::mem::align_of::<CrossEntropyBiasParams>() - 8usize];
    ["Offset of field: CrossEntropyBiasParams::matrix"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, matrix) - 0usize];
    ["Offset of field: CrossEntropyBiasParams::scales"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, scales) - 8usize];
    ["Offset of field: CrossEntropyBiasParams::slab_sums"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, slab_sums) - 16usize];
    ["Offset of field: CrossEntropyBiasParams::d_bias"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, d_bias) - 24usize];
    ["Offset of field: CrossEntropyBiasParams::rows"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, rows) - 32usize];
    ["Offset of field: CrossEntropyBiasParams::vocabulary"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, vocabulary) - 36usize];
    ["Offset of field: CrossEntropyBiasParams::stride"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, stride) - 40usize];
    ["Offset of field: CrossEntropyBiasParams::reserved"]
        [::core::mem::offset_of!(CrossEntropyBiasParams, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CrossEntropyTotalsParams {
    pub targets: DevicePointer,
    pub losses: DevicePointer,
    pub log_likelihoods: DevicePointer,
    pub correct: DevicePointer,
    pub totals: DevicePointer,
    pub rows: u32,
    pub vocabulary: u32,
    pub ignore_index: i32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyTotalsParams"][::core::mem::size_of::<CrossEntropyTotalsParams>() - 56usize];
    ["Alignment of CrossEntropyTotalsParams"][::core::mem::align_of::<CrossEntropyTotalsParams>() - 8usize];
    ["Offset of field: CrossEntropyTotalsParams::targets"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, targets) - 0usize];
    ["Offset of field: CrossEntropyTotalsParams::losses"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, losses) - 8usize];
    ["Offset of field: CrossEntropyTotalsParams::log_likelihoods"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, log_likelihoods) - 16usize];
    ["Offset of field: CrossEntropyTotalsParams::correct"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, correct) - 24usize];
    ["Offset of field: CrossEntropyTotalsParams::totals"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, totals) - 32usize];
    ["Offset of field: CrossEntropyTotalsParams::rows"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, rows) - 40usize];
    ["Offset of field: CrossEntropyTotalsParams::vocabulary"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, vocabulary) - 44usize];
    ["Offset of field: CrossEntropyTotalsParams::ignore_index"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, ignore_index) - 48usize];
    ["Offset of field: CrossEntropyTotalsParams::reserved"]
        [::core::mem::offset_of!(CrossEntropyTotalsParams, reserved) - 52usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CrossEntropyFusedParams {
    pub hidden: DevicePointer,
    pub weight: DevicePointer,
    pub bias: DevicePointer,
    pub targets: DevicePointer,
    pub row_weights: DevicePointer,
    pub references: DevicePointer,
    pub target_logits: DevicePointer,
    pub sums: DevicePointer,
    pub maxima: DevicePointer,
    pub retries: DevicePointer,
    pub exponentials: DevicePointer,
    pub scales: DevicePointer,
    pub scaled_hidden: DevicePointer,
    pub unscaled_d_hidden: DevicePointer,
    pub d_hidden: DevicePointer,
    pub losses: DevicePointer,
    pub log_sum_exp: DevicePointer,
    pub log_likelihoods: DevicePointer,
    pub correct: DevicePointer,
    pub rows: u32,
    pub vocabulary: u32,
    pub hidden_size: u32,
    pub stride: u32,
    pub splits: u32,
    pub ignore_index: i32,
    pub retry: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CrossEntropyFusedParams"][::core::mem::size_of::<CrossEntropyFusedParams>() - 184usize];
    ["Alignment of CrossEntropyFusedParams"][::core::mem::align_of::<CrossEntropyFusedParams>() - 8usize];
    ["Offset of field: CrossEntropyFusedParams::hidden"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, hidden) - 0usize];
    ["Offset of field: CrossEntropyFusedParams::weight"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, weight) - 8usize];
    ["Offset of field: CrossEntropyFusedParams::bias"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, bias) - 16usize];
    ["Offset of field: CrossEntropyFusedParams::targets"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, targets) - 24usize];
    ["Offset of field: CrossEntropyFusedParams::row_weights"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, row_weights) - 32usize];
    ["Offset of field: CrossEntropyFusedParams::references"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, references) - 40usize];
    ["Offset of field: CrossEntropyFusedParams::target_logits"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, target_logits) - 48usize];
    ["Offset of field: CrossEntropyFusedParams::sums"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, sums) - 56usize];
    ["Offset of field: CrossEntropyFusedParams::maxima"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, maxima) - 64usize];
    ["Offset of field: CrossEntropyFusedParams::retries"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, retries) - 72usize];
    ["Offset of field: CrossEntropyFusedParams::exponentials"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, exponentials) - 80usize];
    ["Offset of field: CrossEntropyFusedParams::scales"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, scales) - 88usize];
    ["Offset of field: CrossEntropyFusedParams::scaled_hidden"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, scaled_hidden) - 96usize];
    ["Offset of field: CrossEntropyFusedParams::unscaled_d_hidden"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, unscaled_d_hidden) - 104usize];
    ["Offset of field: CrossEntropyFusedParams::d_hidden"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, d_hidden) - 112usize];
    ["Offset of field: CrossEntropyFusedParams::losses"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, losses) - 120usize];
    ["Offset of field: CrossEntropyFusedParams::log_sum_exp"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, log_sum_exp) - 128usize];
    ["Offset of field: CrossEntropyFusedParams::log_likelihoods"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, log_likelihoods) - 136usize];
    ["Offset of field: CrossEntropyFusedParams::correct"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, correct) - 144usize];
    ["Offset of field: CrossEntropyFusedParams::rows"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, rows) - 152usize];
    ["Offset of field: CrossEntropyFusedParams::vocabulary"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, vocabulary) - 156usize];
    ["Offset of field: CrossEntropyFusedParams::hidden_size"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, hidden_size) - 160usize];
    ["Offset of field: CrossEntropyFusedParams::stride"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, stride) - 164usize];
    ["Offset of field: CrossEntropyFusedParams::splits"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, splits) - 168usize];
    ["Offset of field: CrossEntropyFusedParams::ignore_index"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, ignore_index) - 172usize];
    ["Offset of field: CrossEntropyFusedParams::retry"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, retry) - 176usize];
    ["Offset of field: CrossEntropyFusedParams::reserved"]
        [::core::mem::offset_of!(CrossEntropyFusedParams, reserved) - 180usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BagOfWordsParams {
    pub hidden: DevicePointer,
    pub weight: DevicePointer,
    pub bias: DevicePointer,
    pub cu_seqlens: DevicePointer,
    pub bag_offsets: DevicePointer,
    pub bag_ids: DevicePointer,
    pub bag_weights: DevicePointer,
    pub sentence_weights: DevicePointer,
    pub logits: DevicePointer,
    pub maxima: DevicePointer,
    pub positions: DevicePointer,
    pub losses: DevicePointer,
    pub d_hidden: DevicePointer,
    pub d_weight: DevicePointer,
    pub d_bias: DevicePointer,
    pub sentences: u32,
    pub vocabulary: u32,
    pub hidden_size: u32,
    pub stride: u32,
    pub first_position: u32,
    pub first_row: u32,
    pub rows: u32,
    pub tokens: u32,
    pub bag_words: u32,
    pub has_gradient: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BagOfWordsParams"][::core::mem::size_of::<BagOfWordsParams>() - 160usize];
    ["Alignment of BagOfWordsParams"][::core::mem::align_of::<BagOfWordsParams>() - 8usize];
    ["Offset of field: BagOfWordsParams::hidden"][::core::mem::offset_of!(BagOfWordsParams, hidden) - 0usize];
    ["Offset of field: BagOfWordsParams::weight"][::core::mem::offset_of!(BagOfWordsParams, weight) - 8usize];
    ["Offset of field: BagOfWordsParams::bias"][::core::mem::offset_of!(BagOfWordsParams, bias) - 16usize];
    ["Offset of field: BagOfWordsParams::cu_seqlens"]
        [::core::mem::offset_of!(BagOfWordsParams, cu_seqlens) - 24usize];
    ["Offset of field: BagOfWordsParams::bag_offsets"]
        [::core::mem::offset_of!(BagOfWordsParams, bag_offsets) - 32usize];
    ["Offset of field: BagOfWordsParams::bag_ids"]
        [::core::mem::offset_of!(BagOfWordsParams, bag_ids) - 40usize];
    ["Offset of field: BagOfWordsParams::bag_weights"]
        [::core::mem::offset_of!(BagOfWordsParams, bag_weights) - 48usize];
    ["Offset of field: BagOfWordsParams::sentence_weights"]
        [::core::mem::offset_of!(BagOfWordsParams, sentence_weights) - 56usize];
    ["Offset of field: BagOfWordsParams::logits"]
        [::core::mem::offset_of!(BagOfWordsParams, logits) - 64usize];
    ["Offset of field: BagOfWordsParams::maxima"]
        [::core::mem::offset_of!(BagOfWordsParams, maxima) - 72usize];
    ["Offset of field: BagOfWordsParams::positions"]
        [::core::mem::offset_of!(BagOfWordsParams, positions) - 80usize];
    ["Offset of field: BagOfWordsParams::losses"]
        [::core::mem::offset_of!(BagOfWordsParams, losses) - 88usize];
    ["Offset of field: BagOfWordsParams::d_hidden"]
        [::core::mem::offset_of!(BagOfWordsParams, d_hidden) - 96usize];
    ["Offset of field: BagOfWordsParams::d_weight"]
        [::core::mem::offset_of!(BagOfWordsParams, d_weight) - 104usize];
    ["Offset of field: BagOfWordsParams::d_bias"]
        [::core::mem::offset_of!(BagOfWordsParams, d_bias) - 112usize];
    ["Offset of field: BagOfWordsParams::sentences"]
        [::core::mem::offset_of!(BagOfWordsParams, sentences) - 120usize];
    ["Offset of field: BagOfWordsParams::vocabulary"]
        [::core::mem::offset_of!(BagOfWordsParams, vocabulary) - 124usize];
    ["Offset of field: BagOfWordsParams::hidden_size"]
        [::core::mem::offset_of!(BagOfWordsParams, hidden_size) - 128usize];
    ["Offset of field: BagOfWordsParams::stride"]
        [::core::mem::offset_of!(BagOfWordsParams, stride) - 132usize];
    ["Offset of field: BagOfWordsParams::first_position"]
        [::core::mem::offset_of!(BagOfWordsParams, first_position) - 136usize];
    ["Offset of field: BagOfWordsParams::first_row"]
        [::core::mem::offset_of!(BagOfWordsParams, first_row) - 140usize];
    ["Offset of field: BagOfWordsParams::rows"][::core::mem::offset_of!(BagOfWordsParams, rows) - 144usize];
    ["Offset of field: BagOfWordsParams::tokens"]
        [::core::mem::offset_of!(BagOfWordsParams, tokens) - 148usize];
    ["Offset of field: BagOfWordsParams::bag_words"]
        [::core::mem::offset_of!(BagOfWordsParams, bag_words) - 152usize];
    ["Offset of field: BagOfWordsParams::has_gradient"]
        [::core::mem::offset_of!(BagOfWordsParams, has_gradient) - 156usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct CorruptionParams {
    pub ids: DevicePointer,
    pub input_ids: DevicePointer,
    pub offsets: DevicePointer,
    pub rows: DevicePointer,
    pub targets: DevicePointer,
    pub counts: DevicePointer,
    pub count_limit: MaskCountLimitParams,
    pub mask_below: u64,
    pub random_below: u64,
    pub mask_id: i32,
    pub vocab_size: u32,
    pub labeled: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of CorruptionParams"][::core::mem::size_of::<CorruptionParams>() - 96usize];
    ["Alignment of CorruptionParams"][::core::mem::align_of::<CorruptionParams>() - 8usize];
    ["Offset of field: CorruptionParams::ids"][::core::mem::offset_of!(CorruptionParams, ids) - 0usize];
    ["Offset of field: CorruptionParams::input_ids"]
        [::core::mem::offset_of!(CorruptionParams, input_ids) - 8usize];
    ["Offset of field: CorruptionParams::offsets"]
        [::core::mem::offset_of!(CorruptionParams, offsets) - 16usize];
    ["Offset of field: CorruptionParams::rows"][::core::mem::offset_of!(CorruptionParams, rows) - 24usize];
    ["Offset of field: CorruptionParams::targets"]
        [::core::mem::offset_of!(CorruptionParams, targets) - 32usize];
    ["Offset of field: CorruptionParams::counts"]
        [::core::mem::offset_of!(CorruptionParams, counts) - 40usize];
    ["Offset of field: CorruptionParams::count_limit"]
        [::core::mem::offset_of!(CorruptionParams, count_limit) - 48usize];
    ["Offset of field: CorruptionParams::mask_below"]
        [::core::mem::offset_of!(CorruptionParams, mask_below) - 64usize];
    ["Offset of field: CorruptionParams::random_below"]
        [::core::mem::offset_of!(CorruptionParams, random_below) - 72usize];
    ["Offset of field: CorruptionParams::mask_id"]
        [::core::mem::offset_of!(CorruptionParams, mask_id) - 80usize];
    ["Offset of field: CorruptionParams::vocab_size"]
        [::core::mem::offset_of!(CorruptionParams, vocab_size) - 84usize];
    ["Offset of field: CorruptionParams::labeled"]
        [::core::mem::offset_of!(CorruptionParams, labeled) - 88usize];
    ["Offset of field: CorruptionParams::reserved"]
        [::core::mem::offset_of!(CorruptionParams, reserved) - 92usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct GroupedKeys {
    pub input_keys: DevicePointer,
    pub input_indices: DevicePointer,
    pub output_keys: DevicePointer,
    pub output_indices: DevicePointer,
    pub counts: DevicePointer,
    pub rows: DevicePointer,
    pub offsets: DevicePointer,
    pub segments: u32,
    pub key_count: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupedKeys"][::core::mem::size_of::<GroupedKeys>() - 64usize];
    ["Alignment of GroupedKeys"][::core::mem::align_of::<GroupedKeys>() - 8usize];
    ["Offset of field: GroupedKeys::input_keys"][::core::mem::offset_of!(GroupedKeys, input_keys) - 0usize];
    ["Offset of field: GroupedKeys::input_indices"]
        [::core::mem::offset_of!(GroupedKeys, input_indices) - 8usize];
    ["Offset of field: GroupedKeys::output_keys"]
        [::core::mem::offset_of!(GroupedKeys, output_keys) - 16usize];
    ["Offset of field: GroupedKeys::output_indices"]
        [::core::mem::offset_of!(GroupedKeys, output_indices) - 24usize];
    ["Offset of field: GroupedKeys::counts"][::core::mem::offset_of!(GroupedKeys, counts) - 32usize];
    ["Offset of field: GroupedKeys::rows"][::core::mem::offset_of!(GroupedKeys, rows) - 40usize];
    ["Offset of field: GroupedKeys::offsets"][::core::mem::offset_of!(GroupedKeys, offsets) - 48usize];
    ["Offset of field: GroupedKeys::segments"][::core::mem::offset_of!(GroupedKeys, segments) - 56usize];
    ["Offset of field: GroupedKeys::key_count"][::core::mem::offset_of!(GroupedKeys, key_count) - 60usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct GroupByKeyParams {
    pub arrays: [GroupedKeys; 3usize],
    pub array_count: u32,
    pub count: u32,
    pub shift: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of GroupByKeyParams"][::core::mem::size_of::<GroupByKeyParams>() - 208usize];
    ["Alignment of GroupByKeyParams"][::core::mem::align_of::<GroupByKeyParams>() - 8usize];
    ["Offset of field: GroupByKeyParams::arrays"][::core::mem::offset_of!(GroupByKeyParams, arrays) - 0usize];
    ["Offset of field: GroupByKeyParams::array_count"]
        [::core::mem::offset_of!(GroupByKeyParams, array_count) - 192usize];
    ["Offset of field: GroupByKeyParams::count"][::core::mem::offset_of!(GroupByKeyParams, count) - 196usize];
    ["Offset of field: GroupByKeyParams::shift"][::core::mem::offset_of!(GroupByKeyParams, shift) - 200usize];
    ["Offset of field: GroupByKeyParams::reserved"]
        [::core::mem::offset_of!(GroupByKeyParams, reserved) - 204usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct MeanWeightsParams {
    pub labeled_rows: DevicePointer,
    pub counts: DevicePointer,
    pub row_weights: DevicePointer,
    pub rows: u32,
    pub sentences: u32,
    pub weight: f32,
    pub unused: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of MeanWeightsParams"][::core::mem::size_of::<MeanWeightsParams>() - 40usize];
    ["Alignment of MeanWeightsParams"][::core::mem::align_of::<MeanWeightsParams>() - 8usize];
    ["Offset of field: MeanWeightsParams::labeled_rows"]
        [::core::mem::offset_of!(MeanWeightsParams, labeled_rows) - 0usize];
    ["Offset of field: MeanWeightsParams::counts"]
        [::core::mem::offset_of!(MeanWeightsParams, counts) - 8usize];
    ["Offset of field: MeanWeightsParams::row_weights"]
        [::core::mem::offset_of!(MeanWeightsParams, row_weights) - 16usize];
    ["Offset of field: MeanWeightsParams::rows"][::core::mem::offset_of!(MeanWeightsParams, rows) - 24usize];
    ["Offset of field: MeanWeightsParams::sentences"]
        [::core::mem::offset_of!(MeanWeightsParams, sentences) - 28usize];
    ["Offset of field: MeanWeightsParams::weight"]
        [::core::mem::offset_of!(MeanWeightsParams, weight) - 32usize];
    ["Offset of field: MeanWeightsParams::unused"]
        [::core::mem::offset_of!(MeanWeightsParams, unused) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SampleMasksParams {
    pub rng: DevicePointer,
    pub cu_seqlens: DevicePointer,
    pub sentence_indices: DevicePointer,
    pub word_starts: DevicePointer,
    pub pool_offsets: DevicePointer,
    pub bits: DevicePointer,
    pub rows: DevicePointer,
    pub workspace: DevicePointer,
    pub count_limit: MaskCountLimitParams,
    pub pool_rows_max: u32,
    pub pool_blocks: u32,
    pub length_max: u32,
    pub sentences: u32,
    pub tokens: u32,
    pub pool_words: u32,
    pub encoder: CorruptionParams,
    pub decoder: CorruptionParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SampleMasksParams"][::core::mem::size_of::<SampleMasksParams>() - 296usize];
    ["Alignment of SampleMasksParams"][::core::mem::align_of::<SampleMasksParams>() - 8usize];
    ["Offset of field: SampleMasksParams::rng"][::core::mem::offset_of!(SampleMasksParams, rng) - 0usize];
    ["Offset of field: SampleMasksParams::cu_seqlens"]
        [::core::mem::offset_of!(SampleMasksParams, cu_seqlens) - 8usize];
    ["Offset of field: SampleMasksParams::sentence_indices"]
        [::core::mem::offset_of!(SampleMasksParams, sentence_indices) - 16usize];
    ["Offset of field: SampleMasksParams::word_starts"]
        [::core::mem::offset_of!(SampleMasksParams, word_starts) - 24usize];
    ["Offset of field: SampleMasksParams::pool_offsets"]
        [::core::mem::offset_of!(SampleMasksParams, pool_offsets) - 32usize];
    ["Offset of field: SampleMasksParams::bits"][::core::mem::offset_of!(SampleMasksParams, bits) - 40usize];
    ["Offset of field: SampleMasksParams::rows"][::core::mem::offset_of!(SampleMasksParams, rows) - 48usize];
    ["Offset of field: SampleMasksParams::workspace"]
        [::core::mem::offset_of!(SampleMasksParams, workspace) - 56usize];
    ["Offset of field: SampleMasksParams::count_limit"]
        [::core::mem::offset_of!(SampleMasksParams, count_limit) - 64usize];
    ["Offset of field: SampleMasksParams::pool_rows_max"]
        [::core::mem::offset_of!(SampleMasksParams, pool_rows_max) - 80usize];
    ["Offset of field: SampleMasksParams::pool_blocks"]
        [::core::mem::offset_of!(SampleMasksParams, pool_blocks) - 84usize];
    ["Offset of field: SampleMasksParams::length_max"]
        [::core::mem::offset_of!(SampleMasksParams, length_max) - 88usize];
    ["Offset of field: SampleMasksParams::sentences"]
        [::core::mem::offset_of!(SampleMasksParams, sentences) - 92usize];
    ["Offset of field: SampleMasksParams::tokens"]
        [::core::mem::offset_of!(SampleMasksParams, tokens) - 96usize];
    ["Offset of field: SampleMasksParams::pool_words"]
        [::core::mem::offset_of!(SampleMasksParams, pool_words) - 100usize];
    ["Offset of field: SampleMasksParams::encoder"]
        [::core::mem::offset_of!(SampleMasksParams, encoder) - 104usize];
    ["Offset of field: SampleMasksParams::decoder"]
        [::core::mem::offset_of!(SampleMasksParams, decoder) - 200usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct ReduceParams {
    pub input: DevicePointer,
    pub output: DevicePointer,
    pub count: u64,
    pub elements_per_block: u32,
    pub accumulate: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ReduceParams"][::core::mem::size_of::<ReduceParams>() - 32usize];
    ["Alignment of ReduceParams"][::core::mem::align_of::<ReduceParams>() - 8usize];
    ["Offset of field: ReduceParams::input"][::core::mem::offset_of!(ReduceParams, input) - 0usize];
    ["Offset of field: ReduceParams::output"][::core::mem::offset_of!(ReduceParams, output) - 8usize];
    ["Offset of field: ReduceParams::count"][::core::mem::offset_of!(ReduceParams, count) - 16usize];
    ["Offset of field: ReduceParams::elements_per_block"]
        [::core::mem::offset_of!(ReduceParams, elements_per_block) - 24usize];
    ["Offset of field: ReduceParams::accumulate"]
        [::core::mem::offset_of!(ReduceParams, accumulate) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AdamWParams {
    pub parameters: DevicePointer,
    pub gradients: DevicePointer,
    pub first_moments: DevicePointer,
    pub second_moments: DevicePointer,
    pub compute_parameters: DevicePointer,
    pub squared_norm: DevicePointer,
    pub schedule: DevicePointer,
    pub count: u64,
    pub decayed: u64,
    pub beta1: f32,
    pub one_minus_beta1: f32,
    pub beta2: f32,
    pub one_minus_beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub max_norm: f32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamWParams"][::core::mem::size_of::<AdamWParams>() - 104usize];
    ["Alignment of AdamWParams"][::core::mem::align_of::<AdamWParams>() - 8usize];
    ["Offset of field: AdamWParams::parameters"][::core::mem::offset_of!(AdamWParams, parameters) - 0usize];
    ["Offset of field: AdamWParams::gradients"][::core::mem::offset_of!(AdamWParams, gradients) - 8usize];
    ["Offset of field: AdamWParams::first_moments"]
        [::core::mem::offset_of!(AdamWParams, first_moments) - 16usize];
    ["Offset of field: AdamWParams::second_moments"]
        [::core::mem::offset_of!(AdamWParams, second_moments) - 24usize];
    ["Offset of field: AdamWParams::compute_parameters"]
        [::core::mem::offset_of!(AdamWParams, compute_parameters) - 32usize];
    ["Offset of field: AdamWParams::squared_norm"]
        [::core::mem::offset_of!(AdamWParams, squared_norm) - 40usize];
    ["Offset of field: AdamWParams::schedule"][::core::mem::offset_of!(AdamWParams, schedule) - 48usize];
    ["Offset of field: AdamWParams::count"][::core::mem::offset_of!(AdamWParams, count) - 56usize];
    ["Offset of field: AdamWParams::decayed"][::core::mem::offset_of!(AdamWParams, decayed) - 64usize];
    ["Offset of field: AdamWParams::beta1"][::core::mem::offset_of!(AdamWParams, beta1) - 72usize];
    ["Offset of field: AdamWParams::one_minus_beta1"]
        [::core::mem::offset_of!(AdamWParams, one_minus_beta1) - 76usize];
    ["Offset of field: AdamWParams::beta2"][::core::mem::offset_of!(AdamWParams, beta2) - 80usize];
    ["Offset of field: AdamWParams::one_minus_beta2"]
        [::core::mem::offset_of!(AdamWParams, one_minus_beta2) - 84usize];
    ["Offset of field: AdamWParams::eps"][::core::mem::offset_of!(AdamWParams, eps) - 88usize];
    ["Offset of field: AdamWParams::weight_decay"]
        [::core::mem::offset_of!(AdamWParams, weight_decay) - 92usize];
    ["Offset of field: AdamWParams::max_norm"][::core::mem::offset_of!(AdamWParams, max_norm) - 96usize];
    ["Offset of field: AdamWParams::reserved"][::core::mem::offset_of!(AdamWParams, reserved) - 100usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct AdamWSchedule {
    pub learning_rate: f32,
    pub bias_correction1: f32,
    pub bias_correction2: f32,
    pub reserved: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of AdamWSchedule"][::core::mem::size_of::<AdamWSchedule>() - 16usize];
    ["Alignment of AdamWSchedule"][::core::mem::align_of::<AdamWSchedule>() - 4usize];
    ["Offset of field: AdamWSchedule::learning_rate"]
        [::core::mem::offset_of!(AdamWSchedule, learning_rate) - 0usize];
    ["Offset of field: AdamWSchedule::bias_correction1"]
        [::core::mem::offset_of!(AdamWSchedule, bias_correction1) - 4usize];
    ["Offset of field: AdamWSchedule::bias_correction2"]
        [::core::mem::offset_of!(AdamWSchedule, bias_correction2) - 8usize];
    ["Offset of field: AdamWSchedule::reserved"][::core::mem::offset_of!(AdamWSchedule, reserved) - 12usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct SentenceVectorsParams {
    pub input: DevicePointer,
    pub rows: DevicePointer,
    pub center: DevicePointer,
    pub output: DevicePointer,
    pub norms: DevicePointer,
    pub count: u32,
    pub columns: u32,
    pub input_rows: u32,
    pub eps: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of SentenceVectorsParams"][::core::mem::size_of::<SentenceVectorsParams>() - 56usize];
    ["Alignment of SentenceVectorsParams"][::core::mem::align_of::<SentenceVectorsParams>() - 8usize];
    ["Offset of field: SentenceVectorsParams::input"]
        [::core::mem::offset_of!(SentenceVectorsParams, input) - 0usize];
    ["Offset of field: SentenceVectorsParams::rows"]
        [::core::mem::offset_of!(SentenceVectorsParams, rows) - 8usize];
    ["Offset of field: SentenceVectorsParams::center"]
        [::core::mem::offset_of!(SentenceVectorsParams, center) - 16usize];
    ["Offset of field: SentenceVectorsParams::output"]
        [::core::mem::offset_of!(SentenceVectorsParams, output) - 24usize];
    ["Offset of field: SentenceVectorsParams::norms"]
        [::core::mem::offset_of!(SentenceVectorsParams, norms) - 32usize];
    ["Offset of field: SentenceVectorsParams::count"]
        [::core::mem::offset_of!(SentenceVectorsParams, count) - 40usize];
    ["Offset of field: SentenceVectorsParams::columns"]
        [::core::mem::offset_of!(SentenceVectorsParams, columns) - 44usize];
    ["Offset of field: SentenceVectorsParams::input_rows"]
        [::core::mem::offset_of!(SentenceVectorsParams, input_rows) - 48usize];
    ["Offset of field: SentenceVectorsParams::eps"]
        [::core::mem::offset_of!(SentenceVectorsParams, eps) - 52usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct ProbeParams {
    pub input: DevicePointer,
    pub output: DevicePointer,
    pub count: u64,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of ProbeParams"][::core::mem::size_of::<ProbeParams>() - 24usize];
    ["Alignment of ProbeParams"][::core::mem::align_of::<ProbeParams>() - 8usize];
    ["Offset of field: ProbeParams::input"][::core::mem::offset_of!(ProbeParams, input) - 0usize];
    ["Offset of field: ProbeParams::output"][::core::mem::offset_of!(ProbeParams, output) - 8usize];
    ["Offset of field: ProbeParams::count"][::core::mem::offset_of!(ProbeParams, count) - 16usize];
};
