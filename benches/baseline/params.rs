//! The parameter structs of `kernels/baseline/baseline_params.h`. Each launch on the host device compares the sizes.

use retromae::device::params::DropoutParams;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Elementwise {
    pub input: u64,
    pub other: u64,
    pub output: u64,
    pub count: u64,
    pub columns: u32,
    pub factor: f32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Mask {
    pub scores: u64,
    pub mask: u64,
    pub count: u64,
    pub heads: u32,
    pub length: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    pub input: u64,
    pub output: u64,
    pub kept: u64,
    pub cu_seqlens: u64,
    pub count: u64,
    pub columns: u32,
    pub heads: u32,
    pub dropout: DropoutParams,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub packed: u64,
    pub heads: u64,
    pub cu_seqlens: u64,
    pub sentences: u32,
    pub num_heads: u32,
    pub head_dim: u32,
    pub length: u32,
    pub stride: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Softmax {
    pub input: u64,
    pub result: u64,
    pub output: u64,
    pub rows: u64,
    pub columns: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Likelihood {
    pub log_probabilities: u64,
    pub targets: u64,
    pub row_weights: u64,
    pub losses: u64,
    pub d_log_probabilities: u64,
    pub rows: u32,
    pub columns: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LayerNorm {
    pub input: u64,
    pub d_output: u64,
    pub gamma: u64,
    pub beta: u64,
    pub mean: u64,
    pub rstd: u64,
    pub output: u64,
    pub partials: u64,
    pub rows: u32,
    pub columns: u32,
    pub eps: f32,
    pub rows_per_block: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Embedding {
    pub rows: u64,
    pub table: u64,
    pub ids: u64,
    pub tokens: u32,
    pub columns: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    pub parameters: u64,
    pub gradients: u64,
    pub first_moments: u64,
    pub second_moments: u64,
    pub squared_norm: u64,
    pub schedule: u64,
    pub count: u64,
    pub one_minus_beta1: f32,
    pub one_minus_beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    pub max_norm: f32,
    pub reserved: u32,
}
