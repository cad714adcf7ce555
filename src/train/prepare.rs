//! Preparation of a run from its options: text, tokenizer, sizes and schedule.

use std::collections::BTreeMap;

use super::checkpoint::State;
use super::error::{Error, Result};
use super::import::check_vocabulary;
use super::options::BAG_OF_WORDS_LOSS_WEIGHT;
use super::source::Source;
use super::{DEFAULT_VOCAB_SIZE, ModelChoice, Observer, Options, RunLength};
use crate::data::{BatchOptions, BatchSampler, Position, Tokenizer, checksum};
use crate::device::DType;
use crate::eval::HeldOut;
use crate::model::io::{CONFIG_FILE, load_config};
use crate::model::{Capacity, Masking, ModelConfig};
use crate::ops::masks::MaskCountLimit;

/// Everything that a run needs besides the model.
pub(super) struct Prepared {
    pub tokenizer: Tokenizer,
    pub config: ModelConfig,
    /// Sampler of the batches, at the start of the corpus.
    pub sampler: BatchSampler,
    pub masking: Masking,
    pub held_out: Vec<HeldOut>,
    pub total_steps: u64,
    pub warmup_steps: u64,
    /// Maximum tokens of a passage.
    pub max_len: usize,
    pub capacity: Capacity,
    /// Values that a resumed run must share, by field of [`Options`].
    pub fixed_options: BTreeMap<String, String>,
}

impl Prepared {
    /// Reads and tokenizes the corpus; nothing is written.
    pub fn new(options: &Options, dtype: DType, observer: &mut dyn Observer) -> Result<Self> {
        let mut config = model_config(options)?;
        if options.store().is_none() {
            // Checked before a long corpus is read in vain.
            options.validate_model(&config, options.text_max_len())?;
        }
        let vocab_size = options.vocab_size.unwrap_or(config.vocab_size);
        let Source { tokenizer, store, skipped, held_out, max_len, identity } =
            Source::read(options, vocab_size, observer)?;
        options.validate_model(&config, max_len)?;
        if let Some(directory) = &options.init {
            check_vocabulary(&directory.join(CONFIG_FILE), &config, &tokenizer)?;
        } else {
            config.vocab_size = tokenizer.vocab_size();
        }
        let capacity = capacity_for(store.lengths(), options.batch_tokens, max_len);
        let batches =
            BatchOptions { seed: options.seed, batch_tokens: options.batch_tokens, rank: 0, ranks: 1 };
        let sampler = BatchSampler::new(store, skipped, batches, Position::default())?;
        let total_steps = match options.length {
            RunLength::Steps(steps) => steps,
            RunLength::Epochs(epochs) => sampler.batches_until(epochs),
        };
        let warmup_steps = options.warmup_of(total_steps)?;
        let mut prepared = Self {
            masking: masking(options, &tokenizer),
            tokenizer,
            config,
            sampler,
            held_out,
            total_steps,
            warmup_steps,
            max_len,
            capacity,
            fixed_options: BTreeMap::new(),
        };
        prepared.fixed_options = prepared.fixed_options(options, dtype, identity);
        Ok(prepared)
    }

    /// Collects every value that a step's results depend on.
    fn fixed_options(&self, options: &Options, dtype: DType, identity: String) -> BTreeMap<String, String> {
        let tokens: Vec<&str> = (0..self.tokenizer.vocab_size() as u32)
            .map(|id| self.tokenizer.token(id).unwrap_or(""))
            .collect();
        let values = [
            ("corpus", identity),
            ("vocabulary", format!("a vocabulary with checksum {}", checksum(tokens.join("\n").as_bytes()))),
            ("model", serde_json::to_string(&self.config).unwrap_or_default()),
            ("dtype", dtype.name().to_owned()),
            ("steps", self.total_steps.to_string()),
            ("warmup_steps", self.warmup_steps.to_string()),
            ("batch_tokens", options.batch_tokens.to_string()),
            ("max_len", self.max_len.to_string()),
            ("learning_rate", options.learning_rate.to_string()),
            ("encoder_mask", options.encoder_mask.to_string()),
            ("decoder_mask", options.decoder_mask.to_string()),
            ("mask_cap", options.mask_cap.map_or("none".to_owned(), |cap| cap.to_string())),
            ("pool_rows", options.pool_rows.to_string()),
            ("seed", options.seed.to_string()),
            ("held_out", options.held_out.to_string()),
        ];
        values.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
    }

    /// Refuses to resume a run that had other options.
    pub fn check_resumed(&self, state: &State) -> Result<()> {
        for (argument, given) in &self.fixed_options {
            let saved = state.options.get(argument).map_or("none", String::as_str);
            if saved != given {
                let (argument, given, saved) = (argument.clone(), given.clone(), saved.to_owned());
                return Err(Error::ResumeArgument { argument, given, saved });
            }
        }
        Ok(())
    }
}

/// Returns the model's configuration by the options; the vocabulary's size may still have to be set.
fn model_config(options: &Options) -> Result<ModelConfig> {
    let vocab_size = options.vocab_size.unwrap_or(DEFAULT_VOCAB_SIZE);
    let mut config = match (&options.init, &options.model) {
        (Some(directory), _) => load_config(&directory.join(CONFIG_FILE), Some(vocab_size))?,
        (None, ModelChoice::Tiny) => ModelConfig::tiny(vocab_size),
        (None, ModelChoice::Small) => ModelConfig::small(vocab_size),
        (None, ModelChoice::Base) => ModelConfig::base(vocab_size),
        (None, ModelChoice::File(path)) => load_config(path, Some(vocab_size))?,
    };
    config.decoder = options.decoder.unwrap_or(config.decoder);
    config.query = options.query.unwrap_or(config.query);
    if options.dupmae && config.bag_of_words_loss_weight == 0.0 {
        config.bag_of_words_loss_weight = BAG_OF_WORDS_LOSS_WEIGHT;
    }
    Ok(config)
}

/// Masking options of a run.
fn masking(options: &Options, tokenizer: &Tokenizer) -> Masking {
    let count_limit = |ratio| MaskCountLimit { ratio, cap: options.mask_cap };
    Masking {
        mask_id: tokenizer.special_tokens().mask as i32,
        encoder: count_limit(options.encoder_mask),
        decoder: count_limit(options.decoder_mask),
        pool_rows: options.pool_rows,
    }
}

/// Returns the capacity for every batch: as a batch holds no passage twice, its number of sentences is bounded by filling it with the
/// shortest passages. `lengths[n]` is the number of passages of n tokens.
fn capacity_for(lengths: &[u64], batch_tokens: usize, max_len: usize) -> Capacity {
    let (mut room, mut sentences) = (batch_tokens, 0);
    for (length, &count) in lengths.iter().enumerate().skip(1) {
        let fit = (room / length).min(usize::try_from(count).unwrap_or(usize::MAX));
        sentences += fit;
        room -= fit * length;
    }
    Capacity { tokens: batch_tokens, sentences: sentences.max(1), sentence_length: max_len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_passages_bound_the_sentences() {
        // Passages of 9, 3, 4 and 3 tokens.
        let lengths = [0, 0, 0, 2, 1, 0, 0, 0, 0, 1];
        let sentences = |batch_tokens| capacity_for(&lengths, batch_tokens, 9).sentences;
        assert_eq!([10, 9, 100].map(sentences), [3, 2, 4]);
    }
}
