//! RetroMAE: a BERT encoder, a one-layer decoder, a shared masked-language-model head.

mod batch;
mod config;
mod model;

pub use batch::{Batch, IGNORE_INDEX, VisibilityBank};
pub use config::{DecoderKind, ModelConfig, QueryKind, dropout_site};
pub use model::{AdamW, Capacity, Losses, Model, StepRandomness, Visibility};
