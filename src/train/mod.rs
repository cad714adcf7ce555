//! Pre-training: the training loop, its schedule, checkpoints, and the record of a run.
//!
//! [`pretrain`] runs all of it, from [`Options`] to a directory that Hugging Face's `BertForMaskedLM` loads.

mod checkpoint;
mod error;
mod import;
mod observer;
mod options;
mod plot;
mod prefetch;
mod prepare;
mod pretrain;
pub mod report;
pub mod schedule;
mod sentence_transformers;
mod source;
mod trainer;

pub use checkpoint::{CheckpointDirectory, Progress as CheckpointProgress, State as CheckpointState};
pub use error::{Error, Result};
pub use import::{LoadedModel, load_model};
pub use observer::{Observer, Silent};
pub use options::{
    BAG_OF_WORDS_LOSS_WEIGHT, DEFAULT_MAX_LEN, DEFAULT_VOCAB_SIZE, ModelChoice, Options, RunLength,
};
pub use pretrain::{RunResult, pretrain};
