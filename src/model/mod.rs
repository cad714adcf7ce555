//! RetroMAE: a BERT encoder, a one-layer decoder, a shared masked-language-model head.

mod arena;
mod blocks;
mod capacity;
mod config;
mod context;
mod decoder;
mod encoder;
mod hidden_gradients;
mod input;
mod inputs;
pub mod io;
mod masks;
#[allow(clippy::module_inception)]
mod model;
mod parameter_table;
mod recorded;
mod scratch;
mod shape;
mod staged_buffer;
mod training;

pub use crate::common::{
    Batch, DecoderKind, IGNORE_INDEX, MaskPool, Masking, ModelConfig, PackedSentences, PoolRows, QueryKind,
    dropout_site,
};
pub use crate::ops::adamw::Hyperparameters as AdamW;
pub use arena::{ArenaArrays, Gradients, ParameterArena, Weights};
pub use capacity::Capacity;
pub use input::Input;
pub use model::{Losses, Model, Pooling, StepRandomness};
pub use parameter_table::{Parameter, ParameterTable};
pub use recorded::StepHandle;
pub use training::{MicroBatch, StepResult, TrainStep};
