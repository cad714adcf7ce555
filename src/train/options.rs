//! Options of a run and their validation.

use std::path::{Path, PathBuf};

use super::error::{Result, require};
use crate::data::{Manifest, ReadOptions};
use crate::model::{DecoderKind, Masking, ModelConfig, PoolRows, QueryKind};
use crate::ops::masks::LENGTH_MAX;

/// Default number of tokens of a trained vocabulary.
pub const DEFAULT_VOCAB_SIZE: usize = 4096;
/// Default maximum tokens of a passage.
pub const DEFAULT_MAX_LEN: usize = 128;
/// Weight of the bag-of-words loss if the model's configuration has none (Liu et al., arXiv 2305.02564).
pub const BAG_OF_WORDS_LOSS_WEIGHT: f32 = 0.1;
/// Minimum tokens of a passage: `[CLS]`, one token and `[SEP]`.
pub(super) const SHORTEST_PASSAGE: usize = 3;
/// Default warm-up: the run's steps divided by this.
const WARMUP_PART: u64 = 10;

/// Source of the model's sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelChoice {
    /// [`ModelConfig::tiny`]
    Tiny,
    /// [`ModelConfig::small`]
    Small,
    /// [`ModelConfig::base`]
    Base,
    /// A `config.json` with Hugging Face's names.
    File(PathBuf),
}

/// Length of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunLength {
    /// Updates of the weights, in `1..2^32`.
    Steps(u64),
    /// Passes over the corpus.
    Epochs(u32),
}

/// Options of `retromae pretrain`. [`Options::default`] is the demonstration.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// A text file, a directory of text files, or a token store; `None` takes the prose of installed crates.
    pub corpus: Option<PathBuf>,
    /// Options for reading a corpus of text.
    pub read: ReadOptions,
    /// Sizes of a new model.
    pub model: ModelChoice,
    /// A directory with an existing BERT to continue from; replaces `model` and `vocabulary`.
    pub init: Option<PathBuf>,
    /// `vocab.txt`, `tokenizer.json` or a directory; `None` trains a vocabulary on the corpus.
    pub vocabulary: Option<PathBuf>,
    /// Tokens of a trained vocabulary; `None` takes the model's, else [`DEFAULT_VOCAB_SIZE`].
    pub vocab_size: Option<usize>,
    /// Length of the run, which the learning-rate schedule spans.
    pub length: RunLength,
    /// Ends the run after this many steps; the schedule remains that of the whole run.
    pub stop_at: Option<u64>,
    /// Maximum tokens of a batch, over all sentences: at least the longest passage, and below 2^31.
    pub batch_tokens: usize,
    /// Maximum tokens of a passage; `None` takes the store's, else [`DEFAULT_MAX_LEN`].
    pub max_len: Option<usize>,
    /// Peak learning rate.
    pub learning_rate: f32,
    /// Warm-up steps; `None` is a tenth of the run.
    pub warmup_steps: Option<u64>,
    /// Share of a sentence's tokens that the encoder's input loses: above 0 and below 1, by default [`Masking::ENCODER_RATIO`].
    pub encoder_mask: f64,
    /// Share of the tokens hidden from the decoder's input, or by each mask of the enhanced one: above 0 and
    /// below 1, by default [`Masking::DECODER_RATIO`].
    pub decoder_mask: f64,
    /// Maximum tokens that a mask hides; `None` for no bound. The public code has 512.
    pub mask_cap: Option<usize>,
    /// Number of the enhanced decoder's masks; by default [`Masking::POOL_ROWS`].
    pub pool_rows: PoolRows,
    /// `None` keeps the model's own.
    pub decoder: Option<DecoderKind>,
    /// `None` keeps the model's own.
    pub query: Option<QueryKind>,
    /// Adds the bag-of-words loss of DupMAE.
    pub dupmae: bool,
    /// Seed of every random choice: weights, order, masks, dropout and held-out passages.
    pub seed: u64,
    /// Directory of the run: log, checkpoint, plot and model.
    pub out: PathBuf,
    /// Continues the run whose checkpoint is in `out`; excludes `overwrite`.
    pub resume: bool,
    /// Drops the run that is in `out`; excludes `resume`.
    pub overwrite: bool,
    /// Passages held out of training for the retrieval check; 0 skips the check.
    pub held_out: usize,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// Maximum bytes of text taken from installed crates.
    pub installed_bytes: usize,
}

impl Default for Options {
    /// Returns the options of the demonstration: a tiny model that learns visibly within minutes on two cores.
    fn default() -> Self {
        Self {
            corpus: None,
            read: ReadOptions::default(),
            model: ModelChoice::Tiny,
            init: None,
            vocabulary: None,
            vocab_size: None,
            length: RunLength::Steps(800),
            stop_at: None,
            batch_tokens: 1024,
            max_len: None,
            learning_rate: 1e-3,
            warmup_steps: None,
            encoder_mask: Masking::ENCODER_RATIO,
            decoder_mask: Masking::DECODER_RATIO,
            mask_cap: None,
            pool_rows: Masking::POOL_ROWS,
            decoder: None,
            query: None,
            dupmae: false,
            seed: 1,
            out: PathBuf::from("out"),
            resume: false,
            overwrite: false,
            held_out: 200,
            checkpoint_every: 100,
            installed_bytes: 4 << 20,
        }
    }
}

impl Options {
    /// Refuses options that are wrong for every corpus and every model.
    ///
    /// # Errors
    /// [`super::Error::Argument`] names the field, its value and the expected values.
    pub fn validate(&self) -> Result<()> {
        for (argument, ratio) in [("encoder_mask", self.encoder_mask), ("decoder_mask", self.decoder_mask)] {
            require(ratio > 0.0 && ratio < 1.0, argument, ratio, "above 0 and below 1")?;
        }
        require(self.mask_cap != Some(0), "mask_cap", 0, "at least 1")?;
        let rate = self.learning_rate;
        // AdamW moves a weight by about the learning rate, and weights are of order 1.
        require(rate > 0.0 && rate <= 1.0, "learning_rate", rate, "above 0 and at most 1")?;
        match self.length {
            RunLength::Steps(steps) => require(
                (1..=u64::from(u32::MAX)).contains(&steps),
                "steps",
                steps,
                format_args!("from 1 to {}: a step is 32 bits of its mask samples", u32::MAX),
            )?,
            RunLength::Epochs(epochs) => require(epochs > 0, "epochs", epochs, "at least 1")?,
        }
        require(self.stop_at != Some(0), "stop_at", 0, "at least 1")?;
        require(
            self.text_max_len() >= SHORTEST_PASSAGE,
            "max_len",
            self.text_max_len(),
            "at least 3: [CLS], one token, [SEP]",
        )?;
        let batch_tokens = self.batch_tokens;
        // A store's longest passage is checked once the store has been read.
        let least = if self.store().is_some() { SHORTEST_PASSAGE } else { self.text_max_len() };
        require(
            batch_tokens >= least && i32::try_from(batch_tokens).is_ok(),
            "batch_tokens",
            batch_tokens,
            format_args!("at least max_len, {least}, and below 2^31"),
        )?;
        require(self.held_out != 1, "held_out", 1, "0, or at least 2: any model finds one alone")?;
        require(self.checkpoint_every > 0, "checkpoint_every", 0, "at least 1")?;
        require(
            !(self.resume && self.overwrite),
            "resume",
            "given with overwrite",
            "alone: one goes on with a run, the other drops it",
        )
    }

    /// Directory of the token store that `corpus` names, if it names one.
    #[must_use]
    pub fn store(&self) -> Option<&Path> {
        self.corpus.as_deref().filter(|path| Manifest::is_in(path))
    }

    /// Maximum tokens of a passage in a corpus that the run tokenizes itself.
    pub(super) fn text_max_len(&self) -> usize {
        self.max_len.unwrap_or(DEFAULT_MAX_LEN)
    }

    /// Returns the warm-up steps of a run of `total_steps`.
    ///
    /// # Errors
    /// When `warmup_steps` is longer than the run.
    pub(super) fn warmup_of(&self, total_steps: u64) -> Result<u64> {
        let steps = self.warmup_steps.unwrap_or(total_steps / WARMUP_PART);
        require(
            steps <= total_steps,
            "warmup_steps",
            steps,
            format_args!("at most {total_steps}, the steps of the run"),
        )?;
        Ok(steps)
    }

    /// Refuses a model without kernels for its sizes or with too few positions for the longest passage, and more masks than it has room for.
    ///
    /// # Errors
    /// [`super::Error::Argument`]; [`super::Error::Operation`] for the model.
    pub(super) fn validate_model(&self, config: &ModelConfig, max_len: usize) -> Result<()> {
        let positions = config.max_position_embeddings;
        require(
            max_len <= positions,
            "max_len",
            max_len,
            format_args!("at most {positions}, the positions of the model"),
        )?;
        require(
            max_len <= LENGTH_MAX,
            "max_len",
            max_len,
            format_args!("at most {LENGTH_MAX}, of which masks can be sampled"),
        )?;
        let (rows, limit) = (self.pool_rows.rows_max(max_len), PoolRows::limit(max_len));
        require(
            (1..=limit).contains(&rows),
            "pool_rows",
            self.pool_rows,
            format_args!("1 to {limit} for passages of up to {max_len} tokens"),
        )?;
        Ok(config.validate()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::attention::HEAD_DIMS;

    #[test]
    fn each_bad_option_is_named() {
        let message = |change: fn(&mut Options)| {
            let mut options = Options::default();
            change(&mut options);
            options.validate().unwrap_err().to_string()
        };
        assert_eq!(message(|o| o.encoder_mask = 0.0), "encoder_mask was 0; it should be above 0 and below 1");
        assert!(message(|o| o.decoder_mask = f64::NAN).starts_with("decoder_mask was NaN"));
        assert_eq!(message(|o| o.mask_cap = Some(0)), "mask_cap was 0; it should be at least 1");
        for rate in [-1.0, 0.0, 1.5, 3e38, f32::INFINITY, f32::NAN] {
            let options = Options { learning_rate: rate, ..Options::default() };
            let message = options.validate().unwrap_err().to_string();
            assert_eq!(message, format!("learning_rate was {rate}; it should be above 0 and at most 1"));
        }
        assert!(message(|o| o.length = RunLength::Steps(0)).starts_with("steps was 0"));
        assert!(message(|o| o.length = RunLength::Epochs(0)).starts_with("epochs was 0"));
        assert!(message(|o| o.max_len = Some(2)).starts_with("max_len was 2"));
        assert!(message(|o| o.batch_tokens = 100).contains("at least max_len, 128"));
        assert!(message(|o| o.checkpoint_every = 0).starts_with("checkpoint_every was 0"));
        Options::default().validate().unwrap();
    }

    #[test]
    fn masks_without_room_are_refused() {
        let config = ModelConfig { max_position_embeddings: 9000, ..ModelConfig::tiny(100) };
        let message = |pool_rows, max_len| {
            let options = Options { pool_rows, ..Options::default() };
            options.validate_model(&config, max_len).err().map(|error| error.to_string())
        };
        assert_eq!(message(PoolRows::Independent, 1024), None);
        assert_eq!(message(PoolRows::AtMost(256), 8192), None);
        let refusals = [
            (PoolRows::AtMost(0), 128, "pool_rows was 0; it should be 1 to 65536 for passages of up to 128"),
            (PoolRows::Independent, 1025, "pool_rows was independent; it should be 1 to 256"),
            (PoolRows::AtMost(257), 1025, "pool_rows was 257; it should be 1 to 256"),
            (PoolRows::AtMost(1), 8193, "max_len was 8193; it should be at most 8192"),
        ];
        for (pool_rows, max_len, expected) in refusals {
            let message = message(pool_rows, max_len).unwrap();
            assert!(message.starts_with(expected), "{message:?} should begin with {expected:?}");
        }
    }

    #[test]
    fn models_that_cannot_run_are_refused() {
        let message = |config: ModelConfig, max_len| {
            Options::default().validate_model(&config, max_len).unwrap_err().to_string()
        };
        assert!(message(ModelConfig::tiny(9), 600).contains("at most 512"));
        let config = ModelConfig { num_attention_heads: 16, ..ModelConfig::tiny(100) };
        assert_eq!(message(config.clone(), 64), config.validate().unwrap_err().to_string());
        for head_dim in HEAD_DIMS {
            let config =
                ModelConfig { hidden_size: 2 * head_dim, num_attention_heads: 2, ..ModelConfig::tiny(9) };
            Options::default().validate_model(&config, 64).unwrap();
        }
    }
}
