//! From options to all that a run works on: text, tokenizer, sizes and schedule.

use std::collections::BTreeMap;
use std::path::Path;

use super::checkpoint::{State, checksum};
use super::error::{Error, Result};
use super::export::{CONFIG_FILE, check_vocabulary, load_config};
use super::options::BAG_OF_WORDS_LOSS_WEIGHT;
use super::{DEFAULT_VOCAB_SIZE, ModelChoice, Observer, Options, RunLength};
use crate::data::{BatchDrawer, BatchOptions, Corpus, Passage, Position, Tokenizer};
use crate::device::DType;
use crate::eval::{HeldOut, Split, split_held_out};
use crate::model::{Capacity, ModelConfig};

/// What a run works on.
pub(super) struct Prepared {
    pub tokenizer: Tokenizer,
    pub config: ModelConfig,
    /// At the beginning.
    pub drawer: BatchDrawer,
    pub held_out: Vec<HeldOut>,
    pub total_steps: u64,
    pub warmup_steps: u64,
    pub capacity: Capacity,
    /// The options that a resumed run must share, by flag.
    pub fixed_options: BTreeMap<String, String>,
}

impl Prepared {
    /// Reads and tokenizes the corpus; nothing is written.
    pub fn new(options: &Options, dtype: DType, observer: &mut dyn Observer) -> Result<Self> {
        let mut config = model_config(options)?;
        options.validate_model(&config)?;
        let Split { training, held_out } = read_corpus(options, observer)?;
        let tokenizer = tokenizer(options, &config, &training, observer)?;
        if let Some(directory) = &options.init {
            check_vocabulary(&directory.join(CONFIG_FILE), &config, &tokenizer)?;
        } else {
            config.vocab_size = tokenizer.vocab_size();
        }
        let encoded = tokenizer.encode_corpus(&training, options.max_len)?;
        observer.note(&encode_note(&encoded.report, options.max_len));
        let capacity = capacity_for(&encoded.passages, options);
        let batch_options = batch_options(options, &config, &tokenizer);
        let drawer = BatchDrawer::new(encoded.passages, batch_options, Position::default())?;
        let total_steps = match options.length {
            RunLength::Steps(steps) => steps,
            RunLength::Epochs(epochs) => drawer.batches_until(epochs),
        };
        let warmup_steps = options.warmup_of(total_steps)?;
        let mut prepared = Self {
            tokenizer,
            config,
            drawer,
            held_out,
            total_steps,
            warmup_steps,
            capacity,
            fixed_options: BTreeMap::new(),
        };
        prepared.fixed_options = prepared.fixed_options(options, dtype, &training);
        Ok(prepared)
    }

    /// Everything that decides a step's numbers.
    fn fixed_options(
        &self,
        options: &Options,
        dtype: DType,
        training: &[String],
    ) -> BTreeMap<String, String> {
        let tokens: Vec<&str> =
            (0..self.tokenizer.vocab_size() as u32).filter_map(|id| self.tokenizer.token(id)).collect();
        let values = [
            ("--corpus", format!("text with checksum {}", checksum(training.join("\n").as_bytes()))),
            ("--vocab", format!("a vocabulary with checksum {}", checksum(tokens.join("\n").as_bytes()))),
            ("--model", serde_json::to_string(&self.config).unwrap_or_default()),
            ("--dtype", dtype.name().to_owned()),
            ("--steps", self.total_steps.to_string()),
            ("--warmup", self.warmup_steps.to_string()),
            ("--batch-tokens", options.batch_tokens.to_string()),
            ("--max-len", options.max_len.to_string()),
            ("--lr", options.learning_rate.to_string()),
            ("--encoder-mask", options.encoder_mask.to_string()),
            ("--decoder-mask", options.decoder_mask.to_string()),
            ("--seed", options.seed.to_string()),
            ("--held-out", options.held_out.to_string()),
        ];
        values.into_iter().map(|(flag, value)| (flag.to_owned(), value)).collect()
    }

    /// Refuses to go on with a run that was given other options.
    pub fn check_resumed(&self, state: &State) -> Result<()> {
        for (option, given) in &self.fixed_options {
            let saved = state.options.get(option).map_or("none", String::as_str);
            if saved != given {
                let (option, given, saved) = (option.clone(), given.clone(), saved.to_owned());
                return Err(Error::ResumeOption { option, given, saved });
            }
        }
        Ok(())
    }
}

/// The sizes, with the vocabulary's still to be set, and the decoder as the options say.
fn model_config(options: &Options) -> Result<ModelConfig> {
    let vocab_size = options.vocab_size.unwrap_or(DEFAULT_VOCAB_SIZE);
    let mut config = match (&options.init, &options.model) {
        (Some(directory), _) => load_config(&directory.join(CONFIG_FILE), vocab_size)?,
        (None, ModelChoice::Tiny) => ModelConfig::tiny(vocab_size),
        (None, ModelChoice::Small) => ModelConfig::small(vocab_size),
        (None, ModelChoice::Base) => ModelConfig::base(vocab_size),
        (None, ModelChoice::File(path)) => load_config(path, vocab_size)?,
    };
    config.decoder = options.decoder.unwrap_or(config.decoder);
    config.query = options.query.unwrap_or(config.query);
    if options.dupmae && config.bag_of_words_loss_weight == 0.0 {
        config.bag_of_words_loss_weight = BAG_OF_WORDS_LOSS_WEIGHT;
    }
    Ok(config)
}

fn read_corpus(options: &Options, observer: &mut dyn Observer) -> Result<Split> {
    let corpus = match &options.corpus {
        Some(path) => Corpus::from_path(path)?,
        None => {
            observer.note(
                "no --corpus: taking README files and doc comments of the crates in $CARGO_HOME/registry/src",
            );
            Corpus::from_installed_crates(options.installed_bytes)?
        }
    };
    observer.note(&format!("corpus: {}", corpus.report));
    let split = split_held_out(corpus.passages, options.held_out, options.seed);
    if options.held_out > 0 && split.held_out.len() < options.held_out {
        observer.note(&format!(
            "held out {} passages, not {}: at most a tenth, and only those of several sentences",
            split.held_out.len(),
            options.held_out
        ));
    }
    Ok(split)
}

/// The vocabulary that was given, that of the run to resume, or a new one.
fn tokenizer(
    options: &Options,
    config: &ModelConfig,
    training: &[String],
    observer: &mut dyn Observer,
) -> Result<Tokenizer> {
    let resumed = options.out.join("tokenizer.json");
    let given: Option<&Path> = options.vocabulary.as_deref().or(options.init.as_deref());
    if let Some(path) = given.or_else(|| (options.resume && resumed.is_file()).then_some(resumed.as_path())) {
        let tokenizer = Tokenizer::from_path(path)?;
        observer.note(&format!("vocabulary: {} tokens of {}", tokenizer.vocab_size(), path.display()));
        return Ok(tokenizer);
    }
    let vocab_size = options.vocab_size.unwrap_or(config.vocab_size);
    let tokenizer = Tokenizer::train_word_piece(training, vocab_size)?;
    observer.note(&format!("vocabulary: {} tokens, trained on the corpus", tokenizer.vocab_size()));
    Ok(tokenizer)
}

fn encode_note(report: &crate::data::EncodeReport, max_len: usize) -> String {
    let mut note = format!("text: {} passages, {} tokens", report.passages, report.tokens);
    let counts = [
        (report.split, format!("texts above {max_len} tokens split")),
        (report.cut_in_sentence, "cuts inside a sentence".to_owned()),
        (report.skipped_empty, "texts without a token skipped".to_owned()),
        (report.unknown_tokens, "unknown tokens".to_owned()),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        note.push_str(&format!(", {count} {what}"));
    }
    note
}

fn batch_options(options: &Options, config: &ModelConfig, tokenizer: &Tokenizer) -> BatchOptions {
    BatchOptions {
        seed: options.seed,
        batch_tokens: options.batch_tokens,
        encoder_ratio: options.encoder_mask,
        decoder_ratio: options.decoder_mask,
        decoder: config.decoder,
        vocab_size: tokenizer.vocab_size() as u32,
        special_tokens: tokenizer.special_tokens(),
        rank: 0,
        ranks: 1,
    }
}

/// Room for every batch: a batch holds no passage twice, so no more sentences fit than of the shortest ones.
fn capacity_for(passages: &[Passage], options: &Options) -> Capacity {
    let mut lengths: Vec<usize> = passages.iter().map(|passage| passage.ids.len()).collect();
    lengths.sort_unstable();
    let mut room = options.batch_tokens;
    let fits = |&length: &usize| room.checked_sub(length).inspect(|&rest| room = rest);
    let sentences = lengths.iter().map_while(fits).count();
    Capacity { tokens: options.batch_tokens, sentences: sentences.max(1), sentence_length: options.max_len }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_passages_bound_the_sentences() {
        let passage = |length| Passage { ids: vec![0; length], word_starts: vec![1; length] };
        let passages = [passage(9), passage(3), passage(4), passage(3)];
        let options = |batch_tokens| Options { batch_tokens, ..Options::default() };
        assert_eq!(capacity_for(&passages, &options(10)).sentences, 3);
        assert_eq!(capacity_for(&passages, &options(9)).sentences, 2);
        assert_eq!(capacity_for(&passages, &options(100)).sentences, 4);
    }
}
