//! Pre-training: the loop, its schedule, checkpoints, and the record of a run.

mod checkpoint;
mod error;
mod export;
mod options;
mod prefetch;
pub mod report;
pub mod schedule;

pub use checkpoint::{CheckpointDirectory, Progress as CheckpointProgress, State as CheckpointState};
pub use error::{Error, Result};
pub use export::{CONFIG_FILE, WEIGHTS_FILE, load_config, load_model, save_config, save_model};
pub use options::{DEFAULT_VOCAB_SIZE, ModelChoice, Options, RunLength, validate_sizes};
