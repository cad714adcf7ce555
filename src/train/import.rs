//! A model read from a directory in Hugging Face's BERT layout: sizes, weights, tokenizer, and how its vectors are made.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::error::{Error, Result};
use super::sentence_transformers::Modules;
use crate::data::{Content, HEAD_BYTES, Tokenizer, read_text};
use crate::device::{Device, ModelFloat, Stream};
use crate::eval::Embedder;
use crate::model::{Capacity, Model, ModelConfig, Pooling};

/// The encoder's and its head's weights in an exported directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The sizes, beside the weights.
pub const CONFIG_FILE: &str = "config.json";
/// Tokens of a text to embed, where nobody says otherwise and the model has so many positions.
const LONGEST_TEXT: usize = 512;
/// The head's output matrix, which is the word embedding: a file may hold it again under this name.
const TIED_WEIGHT: &str = "cls.predictions.decoder.weight";

/// A file of JSON.
///
/// # Errors
/// [`Error::Data`] where it cannot be read or is no text; [`Error::ModelConfig`] where it is no such JSON.
pub(super) fn read_json<V: DeserializeOwned>(path: &Path) -> Result<V> {
    let text = read_text(path, "JSON")?;
    serde_json::from_str(&text)
        .map_err(|error| Error::ModelConfig { path: path.to_owned(), reason: error.to_string() })
}

/// Reads a `config.json`. `vocab_size` is taken where the file has none.
///
/// # Errors
/// [`Error::Data`]; [`Error::ModelConfig`] for a field that is missing or of another kind, another activation, or sizes that no
/// kernel is built for.
pub fn load_config(path: &Path, vocab_size: usize) -> Result<ModelConfig> {
    let failed = |reason: String| Error::ModelConfig { path: path.to_owned(), reason };
    let mut fields: Map<String, Value> = read_json(path)?;
    fields.entry("vocab_size").or_insert(vocab_size.into());
    for (name, expected) in
        [("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("model_type", "bert")]
    {
        match fields.get(name) {
            Some(actual) if actual != expected => {
                return Err(failed(format!("{name} is {actual}; it should be \"{expected}\"")));
            }
            _ => {}
        }
    }
    let config: ModelConfig =
        serde_json::from_value(fields.into()).map_err(|error| failed(error.to_string()))?;
    config.validate().map_err(|error| failed(error.to_string()))?;
    Ok(config)
}

/// A model that was read from a directory to make vectors with.
pub struct LoadedModel<T: ModelFloat> {
    pub model: Model<T>,
    pub tokenizer: Tokenizer,
    pub pooling: Pooling,
    /// Whether its vectors are scaled to length 1.
    pub normalize: bool,
    pub weights: LoadedWeights,
}

impl<T: ModelFloat> LoadedModel<T> {
    /// Makes vectors as the model does; `stop` is asked before each batch whether to end early.
    pub fn embedder<'a>(
        &'a mut self,
        stream: &'a Stream,
        stop: &'a mut dyn FnMut() -> bool,
    ) -> Embedder<'a, T> {
        let Self { model, tokenizer, pooling, .. } = self;
        Embedder { model, stream, tokenizer, pooling: *pooling, stop }
    }
}

/// Reads the encoder of an exported or downloaded directory; a decoder is left at zero, as embedding needs none.
///
/// Where the directory has the files of sentence-transformers (`modules.json`, `1_Pooling/config.json`, `sentence_bert_config.json`),
/// they say how vectors are made, and how long a text may be where `max_len` does not.
///
/// # Errors
/// [`Error::Read`], [`Error::ModelConfig`], [`Error::Data`] for the tokenizer, [`Error::Weights`]; [`Error::Operation`]
/// where the device has not enough memory.
pub fn load_model<T: ModelFloat>(
    directory: &Path,
    device: &Device,
    batch_tokens: usize,
    max_len: Option<usize>,
) -> Result<LoadedModel<T>> {
    let modules = Modules::read(directory)?;
    let tokenizer = Tokenizer::from_path(&modules.transformer)?;
    let config_path = modules.transformer.join(CONFIG_FILE);
    let config = load_config(&config_path, tokenizer.vocab_size())?;
    modules.check_dimension(config.hidden_size)?;
    check_vocabulary(&config_path, &config, &tokenizer)?;
    let max_len = max_len.or(modules.max_len).unwrap_or(LONGEST_TEXT).min(config.max_position_embeddings);
    let tokens = batch_tokens.max(max_len);
    // The shortest text is [CLS] [SEP].
    let capacity = Capacity { tokens, sentences: tokens / 2, sentence_length: max_len };
    let mut model = Model::new(device, &config, capacity)?;
    let weights = load_weights(&modules.transformer.join(WEIGHTS_FILE), Purpose::Embedding, &mut model)?;
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

/// What a model is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// All of it.
    Training,
    /// The encoder alone: what its head is makes no difference.
    Embedding,
}

/// What was taken of a file of weights, by the names of the model's parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedWeights {
    pub path: PathBuf,
    pub taken: Vec<String>,
    /// Needed, but not in the file: these keep what they were before.
    pub fresh: Vec<String>,
    /// Tensors of the file that the model has no place for.
    pub left: Vec<String>,
}

impl LoadedWeights {
    /// Whether there is anything to tell: a parameter without a tensor, or a tensor without a parameter.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.fresh.is_empty() || !self.left.is_empty()
    }
}

impl fmt::Display for LoadedWeights {
    /// What was taken, a decoder that is fresh as a whole, and what was left in large numbers are told as groups: `decoder.* (16)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FEW: usize = 20;
        write!(f, "weights of {}: taken: {}", self.path.display(), grouped(&self.taken))?;
        if !self.fresh.is_empty() {
            let is_decoder = |name: &String| name.starts_with("decoder.");
            let whole = !self.taken.iter().any(is_decoder);
            let (decoder, mut names): (Vec<_>, Vec<_>) =
                self.fresh.iter().cloned().partition(|name| whole && is_decoder(name));
            names.extend((!decoder.is_empty()).then(|| grouped(&decoder)));
            write!(f, "; fresh: {}", names.join(", "))?;
        }
        if !self.left.is_empty() {
            let few = self.left.len() <= FEW;
            write!(f, "; left: {}", if few { self.left.join(", ") } else { grouped(&self.left) })?;
        }
        Ok(())
    }
}

/// How many names begin with each first word.
fn grouped(names: &[String]) -> String {
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let words: BTreeSet<String> = names.iter().map(|name| first(name)).collect();
    let count = |word: &String| names.iter().filter(|name| first(name) == *word).count();
    let groups: Vec<String> = words.iter().map(|word| format!("{word}.* ({})", count(word))).collect();
    groups.join(", ")
}

/// Sets every parameter of `model` that the file has; those of the encoder must all be there, those of its head and of the
/// decoder need not.
///
/// # Errors
/// [`Error::Read`]; [`Error::Weights`] for a file of another kind, a tensor that is missing, of another shape or type or not finite,
/// or that stands twice under names of one parameter, with other values.
pub(super) fn load_weights<T: ModelFloat>(
    path: &Path,
    purpose: Purpose,
    model: &mut Model<T>,
) -> Result<LoadedWeights> {
    let failed = |reason: String| Error::Weights { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|source| match other_weights(path) {
        Some(name) => failed(format!(
            "it is not there, and {name} is not read; weights should be in one safetensors file"
        )),
        None => Error::Read { path: path.to_owned(), source },
    })?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| {
        let what = Content::other_than_text(&bytes[..bytes.len().min(HEAD_BYTES)]).unwrap_or("text");
        failed(format!("it looks to be {what}; it should be a whole safetensors file ({error})"))
    })?;
    let mut left: BTreeSet<&str> = file.names().into_iter().collect();
    let (mut taken, mut fresh) = (Vec::new(), Vec::new());
    for (name, shape) in model.parameter_shapes() {
        let mut found: Option<(String, Vec<f32>)> = None;
        for alias in names_of(&name) {
            let Ok(view) = file.tensor(&alias) else { continue };
            left.remove(alias.as_str());
            if found.is_some() && alias == TIED_WEIGHT && purpose == Purpose::Embedding {
                continue;
            }
            let values = values_of(&alias, &shape, &view).map_err(failed)?;
            match &found {
                None => found = Some((alias, values)),
                Some((_, first)) if *first == values => {}
                Some((first, _)) => {
                    return Err(failed(format!(
                        "tensors {first} and {alias} are one parameter of this model; they should be equal, and are not"
                    )));
                }
            }
        }
        match found {
            Some((_, values)) => {
                model.set_parameter(&name, &values)?;
                taken.push(name);
            }
            None if name.starts_with("bert.") => {
                return Err(failed(format!("tensor {name} is missing; it should be there")));
            }
            None if purpose == Purpose::Training => fresh.push(name),
            None => {}
        }
    }
    let left = left.into_iter().map(str::to_owned).collect();
    Ok(LoadedWeights { path: path.to_owned(), taken, fresh, left })
}

/// The name of the file that a directory has in the place of `path`, if one is known.
fn other_weights(path: &Path) -> Option<&'static str> {
    let names = ["model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"];
    names.into_iter().find(|name| !path.exists() && path.with_file_name(name).exists())
}

/// The names under which a parameter may stand in a file, the model's own first: without the leading `bert.`, as in files of a bare
/// encoder; LayerNorm's `gamma` and `beta`, as in the oldest files; and those of the head's output layer, which has the word
/// embedding for its matrix.
fn names_of(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(name.strip_prefix("bert.").map(str::to_owned));
    let old = |name: &String| {
        let weight = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
        weight.or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta")))
    };
    let old: Vec<String> = names.iter().filter_map(old).collect();
    names.extend(old);
    match name {
        "cls.predictions.bias" => names.push("cls.predictions.decoder.bias".into()),
        "bert.embeddings.word_embeddings.weight" => names.push(TIED_WEIGHT.into()),
        _ => {}
    }
    names
}

/// The values of a tensor as f32, whatever floating-point type the file has; an error message where one is not finite.
pub(super) fn values_of(
    name: &str,
    shape: &[usize],
    view: &TensorView<'_>,
) -> std::result::Result<Vec<f32>, String> {
    if view.shape() != shape {
        return Err(format!("tensor {name} has shape {:?}; it should have {shape:?}", view.shape()));
    }
    let data = view.data();
    let halves = || data.chunks_exact(2).map(|bytes| [bytes[0], bytes[1]]);
    let values: Vec<f32> = match view.dtype() {
        Dtype::F32 => {
            let words = data.chunks_exact(4).map(|bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]);
            words.map(f32::from_le_bytes).collect()
        }
        Dtype::F16 => halves().map(|bytes| half::f16::from_le_bytes(bytes).to_f32()).collect(),
        Dtype::BF16 => halves().map(|bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect(),
        other => return Err(format!("tensor {name} is of type {other:?}; it should be F32, F16 or BF16")),
    };
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(values),
        Some(at) => Err(format!("tensor {name} is {} at element {at}; weights should be finite", values[at])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::export::{Tensor, write_tensors};

    #[test]
    fn names_of_other_writers_are_found() {
        let names = names_of("bert.embeddings.LayerNorm.weight");
        assert_eq!(names[1], "embeddings.LayerNorm.weight");
        assert_eq!(names[2], "bert.embeddings.LayerNorm.gamma");
        assert_eq!(names[3], "embeddings.LayerNorm.gamma");
        assert_eq!(
            names_of("cls.predictions.bias"),
            ["cls.predictions.bias", "cls.predictions.decoder.bias"]
        );
    }

    /// What becomes of a model's own tensors, in another writer's names, after `change`; and whether all of it was taken as it was.
    fn reloaded(purpose: Purpose, change: impl FnOnce(&mut Vec<Tensor>)) -> Result<(LoadedWeights, bool)> {
        let device = Device::host().unwrap();
        let config = ModelConfig {
            hidden_size: 32,
            num_attention_heads: 1,
            intermediate_size: 64,
            ..ModelConfig::tiny(40)
        };
        let capacity = Capacity { tokens: 8, sentences: 1, sentence_length: 8 };
        let mut model = Model::<f32>::new(&device, &config, capacity).unwrap();
        model.initialise(1).unwrap();
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let values = model.parameter(&name).unwrap();
            (name, shape, values)
        };
        let mut tensors: Vec<Tensor> = model.parameter_shapes().into_iter().map(tensor).collect();
        tensors.iter_mut().filter(|tensor| tensor.1.len() == 1).for_each(|tensor| tensor.2[1] = 0.5);
        let expected: Vec<Vec<f32>> = tensors.iter().map(|tensor| tensor.2.clone()).collect();
        change(&mut tensors);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(WEIGHTS_FILE);
        write_tensors(&path, &tensors).unwrap();
        let weights = load_weights(&path, purpose, &mut model)?;
        let names = model.parameter_shapes().into_iter();
        let same = names.zip(&expected).all(|((name, _), values)| model.parameter(&name).unwrap() == *values);
        Ok((weights, same))
    }

    #[test]
    fn all_is_taken_whatever_its_writer_called_it() {
        type Change = fn(&mut Vec<Tensor>);
        fn renamed(tensors: &mut [Tensor], rename: fn(&str) -> String) {
            tensors.iter_mut().for_each(|tensor| tensor.0 = rename(&tensor.0));
        }
        let changes: [Change; 5] = [
            |_| {},
            |tensors| renamed(tensors, |name| name.trim_start_matches("bert.").to_owned()),
            |tensors| {
                renamed(tensors, |name| {
                    name.replace("LayerNorm.weight", "LayerNorm.gamma")
                        .replace("LayerNorm.bias", "LayerNorm.beta")
                });
            },
            |tensors| {
                renamed(tensors, |name| name.replace("cls.predictions.bias", "cls.predictions.decoder.bias"));
            },
            |tensors| {
                let (name, shape, values) = tensors[0].clone();
                assert_eq!(name, "bert.embeddings.word_embeddings.weight");
                tensors.push((TIED_WEIGHT.into(), shape, values));
            },
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let (weights, same) = reloaded(Purpose::Training, change).unwrap();
            assert!(same && !weights.is_partial(), "change {index}: {weights}");
        }
    }

    #[test]
    fn what_would_be_lost_is_refused() {
        let message = |purpose, change: fn(&mut Vec<Tensor>)| {
            reloaded(purpose, change)
                .map(|(weights, _)| weights.to_string())
                .map_err(|error| error.to_string())
        };
        let untied: fn(&mut Vec<Tensor>) = |tensors| {
            let mut tensor = tensors[0].clone();
            (tensor.0, tensor.2[3]) = (TIED_WEIGHT.into(), 9.0);
            tensors.push(tensor);
        };
        let expected = "tensors bert.embeddings.word_embeddings.weight and cls.predictions.decoder.weight are one parameter of this \
                        model; they should be equal, and are not";
        assert!(message(Purpose::Training, untied).unwrap_err().contains(expected));
        // Embedding has no use for the head.
        message(Purpose::Embedding, untied).unwrap();
        let twice = message(Purpose::Embedding, |tensors| {
            let bias = tensors.iter().find(|tensor| tensor.0 == "bert.embeddings.LayerNorm.bias").unwrap();
            tensors.push(("embeddings.LayerNorm.beta".into(), bias.1.clone(), vec![0.25; 32]));
        });
        assert!(
            twice
                .unwrap_err()
                .contains("bert.embeddings.LayerNorm.bias and embeddings.LayerNorm.beta are one")
        );
        let shape = message(Purpose::Training, |tensors| {
            tensors.push(("cls.predictions.decoder.bias".into(), vec![39], vec![0.0; 39]));
        });
        assert!(
            shape.unwrap_err().contains("cls.predictions.decoder.bias has shape [39]; it should have [40]")
        );
        let missing =
            message(Purpose::Embedding, |tensors| tensors.retain(|tensor| !tensor.0.contains("position")));
        assert!(missing.unwrap_err().contains("bert.embeddings.position_embeddings.weight is missing"));
    }

    #[test]
    fn configurations_of_other_models_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONFIG_FILE);
        let message = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load_config(&path, 10).unwrap_err().to_string()
        };
        assert!(message("[]").contains("invalid type: sequence, expected a map"));
        assert!(message("{\"hidden_act\": \"relu\"}").contains("it should be \"gelu\""));
        assert!(message("{}").contains("missing field"));
        assert!(message("{").contains("EOF"));
        assert!(message("<html><body>").contains("config.json` looks to be an HTML page; it should be JSON"));
        let sizes = |field: &str| {
            message(&format!(
                "{{\"hidden_size\": 64, \"num_hidden_layers\": 1, \"num_attention_heads\": 1, \"intermediate_size\": 64, \
                 \"max_position_embeddings\": 64, {field}}}"
            ))
        };
        assert!(sizes("\"layer_norm_eps\": 1e39").contains("config.json`: layer_norm_eps is inf"));
    }
}
