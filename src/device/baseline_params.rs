//! Declarations that kernels and Rust share: the output of bindgen for `kernels/baseline/baseline_params.h`.
//!
//! Do not edit; run `cargo build --features bindgen`.
#![allow(dead_code, missing_docs, clippy::pedantic, clippy::all)]
use super::params::{DevicePointer, DropoutParams};

#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineElementwiseParams {
    pub input: DevicePointer,
    pub other: DevicePointer,
    pub output: DevicePointer,
    pub count: u64,
    pub columns: u32,
    pub factor: f32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineElementwiseParams"][::core::mem::size_of::<BaselineElementwiseParams>() - 40usize];
    ["Alignment of BaselineElementwiseParams"][::core::mem::align_of::<BaselineElementwiseParams>() - 8usize];
    ["Offset of field: BaselineElementwiseParams::input"]
        [::core::mem::offset_of!(BaselineElementwiseParams, input) - 0usize];
    ["Offset of field: BaselineElementwiseParams::other"]
        [::core::mem::offset_of!(BaselineElementwiseParams, other) - 8usize];
    ["Offset of field: BaselineElementwiseParams::output"]
        [::core::mem::offset_of!(BaselineElementwiseParams, output) - 16usize];
    ["Offset of field: BaselineElementwiseParams::count"]
        [::core::mem::offset_of!(BaselineElementwiseParams, count) - 24usize];
    ["Offset of field: BaselineElementwiseParams::columns"]
        [::core::mem::offset_of!(BaselineElementwiseParams, columns) - 32usize];
    ["Offset of field: BaselineElementwiseParams::factor"]
        [::core::mem::offset_of!(BaselineElementwiseParams, factor) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineMaskParams {
    pub scores: DevicePointer,
    pub mask: DevicePointer,
    pub count: u64,
    pub heads: u32,
    pub length: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineMaskParams"][::core::mem::size_of::<BaselineMaskParams>() - 32usize];
    ["Alignment of BaselineMaskParams"][::core::mem::align_of::<BaselineMaskParams>() - 8usize];
    ["Offset of field: BaselineMaskParams::scores"]
        [::core::mem::offset_of!(BaselineMaskParams, scores) - 0usize];
    ["Offset of field: BaselineMaskParams::mask"][::core::mem::offset_of!(BaselineMaskParams, mask) - 8usize];
    ["Offset of field: BaselineMaskParams::count"]
        [::core::mem::offset_of!(BaselineMaskParams, count) - 16usize];
    ["Offset of field: BaselineMaskParams::heads"]
        [::core::mem::offset_of!(BaselineMaskParams, heads) - 24usize];
    ["Offset of field: BaselineMaskParams::length"]
        [::core::mem::offset_of!(BaselineMaskParams, length) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineDropoutParams {
    pub input: DevicePointer,
    pub output: DevicePointer,
    pub kept: DevicePointer,
    pub cu_seqlens: DevicePointer,
    pub count: u64,
    pub columns: u32,
    pub heads: u32,
    pub dropout: DropoutParams,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineDropoutParams"][::core::mem::size_of::<BaselineDropoutParams>() - 72usize];
    ["Alignment of BaselineDropoutParams"][::core::mem::align_of::<BaselineDropoutParams>() - 8usize];
    ["Offset of field: BaselineDropoutParams::input"]
        [::core::mem::offset_of!(BaselineDropoutParams, input) - 0usize];
    ["Offset of field: BaselineDropoutParams::output"]
        [::core::mem::offset_of!(BaselineDropoutParams, output) - 8usize];
    ["Offset of field: BaselineDropoutParams::kept"]
        [::core::mem::offset_of!(BaselineDropoutParams, kept) - 16usize];
    ["Offset of field: BaselineDropoutParams::cu_seqlens"]
        [::core::mem::offset_of!(BaselineDropoutParams, cu_seqlens) - 24usize];
    ["Offset of field: BaselineDropoutParams::count"]
        [::core::mem::offset_of!(BaselineDropoutParams, count) - 32usize];
    ["Offset of field: BaselineDropoutParams::columns"]
        [::core::mem::offset_of!(BaselineDropoutParams, columns) - 40usize];
    ["Offset of field: BaselineDropoutParams::heads"]
        [::core::mem::offset_of!(BaselineDropoutParams, heads) - 44usize];
    ["Offset of field: BaselineDropoutParams::dropout"]
        [::core::mem::offset_of!(BaselineDropoutParams, dropout) - 48usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineHeadsParams {
    pub packed: DevicePointer,
    pub heads: DevicePointer,
    pub cu_seqlens: DevicePointer,
    pub sentences: u32,
    pub num_heads: u32,
    pub head_dim: u32,
    pub length: u32,
    pub stride: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineHeadsParams"][::core::mem::size_of::<BaselineHeadsParams>() - 48usize];
    ["Alignment of BaselineHeadsParams"][::core::mem::align_of::<BaselineHeadsParams>() - 8usize];
    ["Offset of field: BaselineHeadsParams::packed"]
        [::core::mem::offset_of!(BaselineHeadsParams, packed) - 0usize];
    ["Offset of field: BaselineHeadsParams::heads"]
        [::core::mem::offset_of!(BaselineHeadsParams, heads) - 8usize];
    ["Offset of field: BaselineHeadsParams::cu_seqlens"]
        [::core::mem::offset_of!(BaselineHeadsParams, cu_seqlens) - 16usize];
    ["Offset of field: BaselineHeadsParams::sentences"]
        [::core::mem::offset_of!(BaselineHeadsParams, sentences) - 24usize];
    ["Offset of field: BaselineHeadsParams::num_heads"]
        [::core::mem::offset_of!(BaselineHeadsParams, num_heads) - 28usize];
    ["Offset of field: BaselineHeadsParams::head_dim"]
        [::core::mem::offset_of!(BaselineHeadsParams, head_dim) - 32usize];
    ["Offset of field: BaselineHeadsParams::length"]
        [::core::mem::offset_of!(BaselineHeadsParams, length) - 36usize];
    ["Offset of field: BaselineHeadsParams::stride"]
        [::core::mem::offset_of!(BaselineHeadsParams, stride) - 40usize];
    ["Offset of field: BaselineHeadsParams::reserved"]
        [::core::mem::offset_of!(BaselineHeadsParams, reserved) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineSoftmaxParams {
    pub input: DevicePointer,
    pub result: DevicePointer,
    pub output: DevicePointer,
    pub rows: u64,
    pub columns: u32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineSoftmaxParams"][::core::mem::size_of::<BaselineSoftmaxParams>() - 40usize];
    ["Alignment of BaselineSoftmaxParams"][::core::mem::align_of::<BaselineSoftmaxParams>() - 8usize];
    ["Offset of field: BaselineSoftmaxParams::input"]
        [::core::mem::offset_of!(BaselineSoftmaxParams, input) - 0usize];
    ["Offset of field: BaselineSoftmaxParams::result"]
        [::core::mem::offset_of!(BaselineSoftmaxParams, result) - 8usize];
    ["Offset of field: BaselineSoftmaxParams::output"]
        [::core::mem::offset_of!(BaselineSoftmaxParams, output) - 16usize];
    ["Offset of field: BaselineSoftmaxParams::rows"]
        [::core::mem::offset_of!(BaselineSoftmaxParams, rows) - 24usize];
    ["Offset of field: BaselineSoftmaxParams::columns"]
        [::core::mem::offset_of!(BaselineSoftmaxParams, columns) - 32usize];
    ["Offset of field: BaselineSoftmaxParams::reserved"]
        [::core::mem::offset_of!(BaselineSoftmaxParams, reserved) - 36usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineLikelihoodParams {
    pub log_probabilities: DevicePointer,
    pub targets: DevicePointer,
    pub row_weights: DevicePointer,
    pub losses: DevicePointer,
    pub d_log_probabilities: DevicePointer,
    pub rows: u32,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineLikelihoodParams"][::core::mem::size_of::<BaselineLikelihoodParams>() - 48usize];
    ["Alignment of BaselineLikelihoodParams"][::core::mem::align_of::<BaselineLikelihoodParams>() - 8usize];
    ["Offset of field: BaselineLikelihoodParams::log_probabilities"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, log_probabilities) - 0usize];
    ["Offset of field: BaselineLikelihoodParams::targets"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, targets) - 8usize];
    ["Offset of field: BaselineLikelihoodParams::row_weights"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, row_weights) - 16usize];
    ["Offset of field: BaselineLikelihoodParams::losses"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, losses) - 24usize];
    ["Offset of field: BaselineLikelihoodParams::d_log_probabilities"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, d_log_probabilities) - 32usize];
    ["Offset of field: BaselineLikelihoodParams::rows"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, rows) - 40usize];
    ["Offset of field: BaselineLikelihoodParams::columns"]
        [::core::mem::offset_of!(BaselineLikelihoodParams, columns) - 44usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineLayerNormParams {
    pub input: DevicePointer,
    pub d_output: DevicePointer,
    pub gamma: DevicePointer,
    pub beta: DevicePointer,
    pub mean: DevicePointer,
    pub rstd: DevicePointer,
    pub output: DevicePointer,
    pub partials: DevicePointer,
    pub rows: u32,
    pub columns: u32,
    pub eps: f32,
    pub rows_per_block: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineLayerNormParams"][::core::mem::size_of::<BaselineLayerNormParams>() - 80usize];
    ["Alignment of BaselineLayerNormParams"][::core::mem::align_of::<BaselineLayerNormParams>() - 8usize];
    ["Offset of field: BaselineLayerNormParams::input"]
        [::core::mem::offset_of!(BaselineLayerNormParams, input) - 0usize];
    ["Offset of field: BaselineLayerNormParams::d_output"]
        [::core::mem::offset_of!(BaselineLayerNormParams, d_output) - 8usize];
    ["Offset of field: BaselineLayerNormParams::gamma"]
        [::core::mem::offset_of!(BaselineLayerNormParams, gamma) - 16usize];
    ["Offset of field: BaselineLayerNormParams::beta"]
        [::core::mem::offset_of!(BaselineLayerNormParams, beta) - 24usize];
    ["Offset of field: BaselineLayerNormParams::mean"]
        [::core::mem::offset_of!(BaselineLayerNormParams, mean) - 32usize];
    ["Offset of field: BaselineLayerNormParams::rstd"]
        [::core::mem::offset_of!(BaselineLayerNormParams, rstd) - 40usize];
    ["Offset of field: BaselineLayerNormParams::output"]
        [::core::mem::offset_of!(BaselineLayerNormParams, output) - 48usize];
    ["Offset of field: BaselineLayerNormParams::partials"]
        [::core::mem::offset_of!(BaselineLayerNormParams, partials) - 56usize];
    ["Offset of field: BaselineLayerNormParams::rows"]
        [::core::mem::offset_of!(BaselineLayerNormParams, rows) - 64usize];
    ["Offset of field: BaselineLayerNormParams::columns"]
        [::core::mem::offset_of!(BaselineLayerNormParams, columns) - 68usize];
    ["Offset of field: BaselineLayerNormParams::eps"]
        [::core::mem::offset_of!(BaselineLayerNormParams, eps) - 72usize];
    ["Offset of field: BaselineLayerNormParams::rows_per_block"]
        [::core::mem::offset_of!(BaselineLayerNormParams, rows_per_block) - 76usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineEmbeddingParams {
    pub rows: DevicePointer,
    pub table: DevicePointer,
    pub ids: DevicePointer,
    pub tokens: u32,
    pub columns: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineEmbeddingParams"][::core::mem::size_of::<BaselineEmbeddingParams>() - 32usize];
    ["Alignment of BaselineEmbeddingParams"][::core::mem::align_of::<BaselineEmbeddingParams>() - 8usize];
    ["Offset of field: BaselineEmbeddingParams::rows"]
        [::core::mem::offset_of!(BaselineEmbeddingParams, rows) - 0usize];
    ["Offset of field: BaselineEmbeddingParams::table"]
        [::core::mem::offset_of!(BaselineEmbeddingParams, table) - 8usize];
    ["Offset of field: BaselineEmbeddingParams::ids"]
        [::core::mem::offset_of!(BaselineEmbeddingParams, ids) - 16usize];
    ["Offset of field: BaselineEmbeddingParams::tokens"]
        [::core::mem::offset_of!(BaselineEmbeddingParams, tokens) - 24usize];
    ["Offset of field: BaselineEmbeddingParams::columns"]
        [::core::mem::offset_of!(BaselineEmbeddingParams, columns) - 28usize];
};
#[repr(C)]
#[derive(Debug, Default, Copy, Clone)]
pub struct BaselineAdamWParams {
    pub parameters: DevicePointer,
    pub gradients: DevicePointer,
    pub first_moments: DevicePointer,
    pub second_moments: DevicePointer,
    pub squared_norm: DevicePointer,
    pub schedule: DevicePointer,
    pub count: u64,
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub max_norm: f32,
    pub reserved: u32,
}
#[allow(clippy::unnecessary_operation, clippy::identity_op)]
const _: () = {
    ["Size of BaselineAdamWParams"][::core::mem::size_of::<BaselineAdamWParams>() - 80usize];
    ["Alignment of BaselineAdamWParams"][::core::mem::align_of::<BaselineAdamWParams>() - 8usize];
    ["Offset of field: BaselineAdamWParams::parameters"]
        [::core::mem::offset_of!(BaselineAdamWParams, parameters) - 0usize];
    ["Offset of field: BaselineAdamWParams::gradients"]
        [::core::mem::offset_of!(BaselineAdamWParams, gradients) - 8usize];
    ["Offset of field: BaselineAdamWParams::first_moments"]
        [::core::mem::offset_of!(BaselineAdamWParams, first_moments) - 16usize];
    ["Offset of field: BaselineAdamWParams::second_moments"]
        [::core::mem::offset_of!(BaselineAdamWParams, second_moments) - 24usize];
    ["Offset of field: BaselineAdamWParams::squared_norm"]
        [::core::mem::offset_of!(BaselineAdamWParams, squared_norm) - 32usize];
    ["Offset of field: BaselineAdamWParams::schedule"]
        [::core::mem::offset_of!(BaselineAdamWParams, schedule) - 40usize];
    ["Offset of field: BaselineAdamWParams::count"]
        [::core::mem::offset_of!(BaselineAdamWParams, count) - 48usize];
    ["Offset of field: BaselineAdamWParams::one_minus_beta1"]
        [::core::mem::offset_of!(BaselineAdamWParams, one_minus_beta1) - 56usize];
    ["Offset of field: BaselineAdamWParams::one_minus_beta2"]
        [::core::mem::offset_of!(BaselineAdamWParams, one_minus_beta2) - 60usize];
    ["Offset of field: BaselineAdamWParams::eps"]
        [::core::mem::offset_of!(BaselineAdamWParams, eps) - 64usize];
    ["Offset of field: BaselineAdamWParams::weight_decay"]
        [::core::mem::offset_of!(BaselineAdamWParams, weight_decay) - 68usize];
    ["Offset of field: BaselineAdamWParams::max_norm"]
        [::core::mem::offset_of!(BaselineAdamWParams, max_norm) - 72usize];
    ["Offset of field: BaselineAdamWParams::reserved"]
        [::core::mem::offset_of!(BaselineAdamWParams, reserved) - 76usize];
};
