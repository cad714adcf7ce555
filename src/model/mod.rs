//! RetroMAE: a BERT encoder, a one-layer decoder, a shared masked-language-model head.

mod batch;
mod config;

pub use batch::{Batch, IGNORE_INDEX, VisibilityBank};
pub use config::{DecoderKind, ModelConfig, QueryKind, dropout_site};
