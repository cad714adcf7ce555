//! RetroMAE: a BERT encoder, a one-layer decoder, a shared masked-language-model head.

mod capacity;
mod config;
mod embeddings;
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
mod staged_buffer;
mod training;
mod transform;

pub use crate::common::{
    Batch, DecoderKind, IGNORE_INDEX, MaskPool, Masking, ModelConfig, PackedSentences, PoolRows, QueryKind,
    dropout_site,
};
pub use crate::ops::adamw::Hyperparameters as AdamW;
pub use capacity::Capacity;
pub use input::Input;
pub use model::{Losses, Model, Pooling, StepRandomness};
pub use recorded::StepHandle;
pub use training::{Outcome, TrainStep};
