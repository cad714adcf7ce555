//! RetroMAE: a BERT encoder, a one-layer decoder, a shared masked-language-model head.

mod batch;
mod capacity;
mod config;
mod embeddings;
mod filled;
mod gradients;
mod head;
mod inputs;
mod layer;
mod layout;
mod masks;
#[allow(clippy::module_inception)]
mod model;
mod parameters;
mod scratch;
mod shape;
mod training;
mod transform;

pub use crate::ops::adamw::Hyperparameters as AdamW;
pub use batch::{BankRows, Batch, IGNORE_INDEX, Input, Masking, PackedSentences, VisibilityBank};
pub use capacity::Capacity;
pub use config::{DecoderKind, ModelConfig, QueryKind, dropout_site};
pub use model::{Losses, Model, Pooling, StepRandomness};
pub use training::{Outcome, Ticket, TrainStep};
