//! RetroMAE: a BERT encoder, a one-layer decoder, a shared masked-language-model head.

mod capacity;
mod config;
mod embeddings;
mod filled;
mod gradients;
mod head;
mod input;
mod inputs;
pub mod io;
mod layer;
mod layout;
mod masks;
#[allow(clippy::module_inception)]
mod model;
mod parameters;
mod recorded;
mod scratch;
mod shape;
mod training;
mod transform;

pub use crate::common::{
    BankRows, Batch, DecoderKind, IGNORE_INDEX, Masking, ModelConfig, PackedSentences, QueryKind,
    VisibilityBank, dropout_site,
};
pub use crate::ops::adamw::Hyperparameters as AdamW;
pub use capacity::Capacity;
pub use input::Input;
pub use model::{Losses, Model, Pooling, StepRandomness};
pub use recorded::Ticket;
pub use training::{Outcome, TrainStep};
