//! A model loaded from a directory to embed texts: sizes, weights, tokenizer, and the pooling of its vectors.

use std::path::Path;

use super::error::{Error, Result};
use super::sentence_transformers::Modules;
use crate::data::Tokenizer;
use crate::device::{Device, ModelFloat, Stream};
use crate::eval::Embedder;
use crate::model::io::{CONFIG_FILE, LoadedWeights, Purpose, WEIGHTS_FILE, load_config};
use crate::model::{Capacity, Model, ModelConfig, Pooling};

/// Default maximum tokens of a text to embed, if the model has this many positions.
const LONGEST_TEXT: usize = 512;

/// A model loaded from a directory to embed texts.
pub struct LoadedModel<T: ModelFloat> {
    /// Model with the loaded weights.
    pub model: Model<T>,
    /// Tokenizer of the directory.
    pub tokenizer: Tokenizer,
    /// Pooling that the directory asks for; [`Pooling::Cls`] where it has none.
    pub pooling: Pooling,
    /// Its vectors are scaled to length 1.
    pub normalize: bool,
    /// Report of the weights that were found, and of those that were not.
    pub weights: LoadedWeights,
}

impl<T: ModelFloat> LoadedModel<T> {
    /// Returns an embedder with the model's pooling; `stop` is called before each batch and returns true to end early.
    pub fn embedder<'a>(
        &'a mut self,
        stream: &'a Stream,
        stop: &'a mut dyn FnMut() -> bool,
    ) -> Embedder<'a, T> {
        let Self { model, tokenizer, pooling, .. } = self;
        Embedder { model, stream, tokenizer, pooling: *pooling, stop }
    }
}

/// Loads the encoder from an exported or downloaded directory; a decoder stays zero, as embedding needs none.
///
/// If the directory has the files of sentence-transformers (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`),
/// they specify the pooling, and the maximum length of a text unless `max_len` does.
///
/// # Errors
/// [`Error::Model`] for sizes and weights, or when the device has too little memory; [`Error::ModelConfig`] for the files of
/// sentence-transformers; [`Error::Data`] for the tokenizer.
pub fn load_model<T: ModelFloat>(
    directory: &Path,
    device: &Device,
    batch_tokens: usize,
    max_len: Option<usize>,
) -> Result<LoadedModel<T>> {
    let modules = Modules::read(directory)?;
    let tokenizer = Tokenizer::from_path(&modules.transformer)?;
    let config_path = modules.transformer.join(CONFIG_FILE);
    let config = load_config(&config_path, Some(tokenizer.vocab_size()))?;
    modules.check_dimension(config.hidden_size)?;
    check_vocabulary(&config_path, &config, &tokenizer)?;
    let max_len = max_len.or(modules.max_len).unwrap_or(LONGEST_TEXT).min(config.max_position_embeddings);
    let tokens = batch_tokens.max(max_len);
    // The shortest text is [CLS] [SEP].
    let capacity = Capacity { tokens, sentences: tokens / 2, sentence_length: max_len };
    let mut model = Model::new(device, &config, capacity)?;
    let weights = model.load_weights(&modules.transformer.join(WEIGHTS_FILE), Purpose::Embedding)?;
    let Modules { pooling, normalize, .. } = modules;
    Ok(LoadedModel { model, tokenizer, pooling, normalize, weights })
}

pub(super) fn check_vocabulary(path: &Path, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    if tokenizer.vocab_size() <= config.vocab_size {
        return Ok(());
    }
    let reason = format!(
        "vocab_size is {}; it should be at least {}, the tokens of the vocabulary",
        config.vocab_size,
        tokenizer.vocab_size()
    );
    Err(Error::ModelConfig { path: path.to_owned(), reason })
}
