//! A model as a directory in Hugging Face's BERT layout: written, and read back.

use std::fs::File;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::{Value, json};

use super::error::{Error, Result};
use crate::data::{Tokenizer, write_whole};
use crate::device::{Device, Float};
use crate::model::{Capacity, Model, ModelConfig};

/// The encoder's and its head's weights in an exported directory.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// The sizes, beside the weights.
pub const CONFIG_FILE: &str = "config.json";

/// A tensor of a file: name, shape, values.
pub(super) type Tensor = (String, Vec<usize>, Vec<f32>);

/// Writes `model.safetensors`, `config.json` and the tokenizer's files into `directory`, each whole or not at all.
///
/// Only `bert.*` and `cls.*` are written, in f32, as `BertForMaskedLM` reads them; the decoder has done its work. The
/// output matrix is the word embedding, which Hugging Face ties by itself. `max_len` goes to the tokenizer's configuration.
///
/// # Errors
/// [`Error::Write`], [`Error::Weights`], [`Error::Data`].
pub fn save_model<T: Float>(
    directory: &Path,
    model: &Model<T>,
    tokenizer: &Tokenizer,
    max_len: usize,
) -> Result<()> {
    let exported = model.parameter_shapes().into_iter().filter(|(name, _)| !name.starts_with("decoder."));
    let tensors = exported
        .map(|(name, shape)| model.parameter(&name).map(|values| (name, shape, values)))
        .collect::<std::result::Result<Vec<Tensor>, _>>()?;
    write_tensors(&directory.join(WEIGHTS_FILE), &tensors)?;
    save_config(directory, model.config(), tokenizer)?;
    Ok(tokenizer.save(directory, max_len)?)
}

/// Writes `config.json` as Hugging Face's `BertConfig` reads it; the options of the objective are beside, as `retromae_*`.
///
/// # Errors
/// [`Error::Data`] when it cannot be written.
pub fn save_config(directory: &Path, config: &ModelConfig, tokenizer: &Tokenizer) -> Result<()> {
    let mut fields = serde_json::to_value(config).unwrap_or_default();
    fields.as_object_mut().into_iter().flatten().for_each(|(_, value)| shorten(value));
    let fixed = json!({
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "pad_token_id": tokenizer.special_tokens().pad,
        "torch_dtype": "float32",
        "tie_word_embeddings": true,
    });
    if let (Some(fields), Value::Object(fixed)) = (fields.as_object_mut(), fixed) {
        fields.extend(fixed);
    }
    Ok(write_whole(&directory.join(CONFIG_FILE), format!("{fields:#}\n").as_bytes())?)
}

/// Writes a number that was an f32 with as few digits as name that f32: 0.1, not 0.10000000149011612.
fn shorten(value: &mut Value) {
    if value.is_f64()
        && let Some(shortest) = value.as_f64().and_then(|wide| (wide as f32).to_string().parse::<f64>().ok())
    {
        *value = shortest.into();
    }
}

/// Reads a `config.json`. `vocab_size` is taken where the file has none.
///
/// # Errors
/// [`Error::Read`]; [`Error::ModelConfig`] for a field that is missing or of another kind, or another activation.
pub fn load_config(path: &Path, vocab_size: usize) -> Result<ModelConfig> {
    let text = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let failed = |reason: String| Error::ModelConfig { path: path.to_owned(), reason };
    let mut fields: Value = serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
    let Some(object) = fields.as_object_mut() else {
        return Err(failed("it should be a JSON object".into()));
    };
    object.entry("vocab_size").or_insert(vocab_size.into());
    for (name, expected) in
        [("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("model_type", "bert")]
    {
        match object.get(name) {
            Some(actual) if actual != expected => {
                return Err(failed(format!("{name} is {actual}; it should be \"{expected}\"")));
            }
            _ => {}
        }
    }
    serde_json::from_value(fields).map_err(|error| failed(error.to_string()))
}

/// Reads the encoder of an exported or downloaded directory; a decoder is left at zero, as embedding needs none.
///
/// # Errors
/// [`Error::Read`], [`Error::ModelConfig`], [`Error::Data`] for the tokenizer, [`Error::Weights`]; [`Error::Operation`]
/// where the device has not enough memory.
pub fn load_model<T: Float>(
    directory: &Path,
    device: &Device,
    batch_tokens: usize,
    max_len: usize,
) -> Result<(Model<T>, Tokenizer)> {
    let tokenizer = Tokenizer::from_path(directory)?;
    let config_path = directory.join(CONFIG_FILE);
    let config = load_config(&config_path, tokenizer.vocab_size())?;
    super::options::validate_sizes(&config)?;
    check_vocabulary(&config_path, &config, &tokenizer)?;
    let max_len = max_len.min(config.max_position_embeddings);
    let tokens = batch_tokens.max(max_len);
    // The shortest text is [CLS] [SEP].
    let capacity = Capacity { tokens, sentences: tokens / 2, sentence_length: max_len };
    let mut model = Model::new(device, &config, capacity)?;
    load_weights(&directory.join(WEIGHTS_FILE), &mut model)?;
    Ok((model, tokenizer))
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

/// Sets every parameter of `model` that the file has; those of the encoder must all be there, those of its head and of the
/// decoder need not.
///
/// Names may lack the leading `bert.`, as in files of a bare encoder, and LayerNorm may be `gamma` and `beta`, as in the
/// oldest files.
pub(super) fn load_weights<T: Float>(path: &Path, model: &mut Model<T>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    let failed = |reason: String| Error::Weights { path: path.to_owned(), reason };
    let file = SafeTensors::deserialize(&bytes).map_err(|error| failed(error.to_string()))?;
    for (name, shape) in model.parameter_shapes() {
        let Some(view) = names_of(&name).iter().find_map(|name| file.tensor(name).ok()) else {
            if name.starts_with("bert.") {
                return Err(failed(format!("tensor {name} is missing; it should be there")));
            }
            continue;
        };
        model.set_parameter(&name, &values_of(&name, &shape, &view).map_err(failed)?)?;
    }
    Ok(())
}

/// The names under which a parameter may stand in a file.
fn names_of(name: &str) -> Vec<String> {
    let mut names = vec![name.to_owned()];
    names.extend(name.strip_prefix("bert.").map(str::to_owned));
    let old = |name: &String| {
        let weight = name.strip_suffix("LayerNorm.weight").map(|stem| format!("{stem}LayerNorm.gamma"));
        weight.or_else(|| name.strip_suffix("LayerNorm.bias").map(|stem| format!("{stem}LayerNorm.beta")))
    };
    let old: Vec<String> = names.iter().filter_map(old).collect();
    names.extend(old);
    names
}

/// The values of a tensor as f32, whatever floating-point type the file has.
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
    match view.dtype() {
        Dtype::F32 => {
            let words = data.chunks_exact(4).map(|bytes| [bytes[0], bytes[1], bytes[2], bytes[3]]);
            Ok(words.map(f32::from_le_bytes).collect())
        }
        Dtype::F16 => Ok(halves().map(|bytes| half::f16::from_le_bytes(bytes).to_f32()).collect()),
        Dtype::BF16 => Ok(halves().map(|bytes| half::bf16::from_le_bytes(bytes).to_f32()).collect()),
        other => Err(format!("tensor {name} is of type {other:?}; it should be F32, F16 or BF16")),
    }
}

/// Writes tensors to a temporary file beside `path`, waits until the disk has them, and renames it.
pub(super) fn write_tensors(path: &Path, tensors: &[Tensor]) -> Result<()> {
    let failed = |reason: String| Error::Weights { path: path.to_owned(), reason };
    let views = tensors
        .iter()
        .map(|(name, shape, values)| {
            // Little-endian, as every supported machine is.
            TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).map(|view| (name, view))
        })
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|error| failed(error.to_string()))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let written = safetensors::serialize_to_file(views, Some(metadata), &temporary)
        .map_err(|error| failed(error.to_string()))
        .and_then(|()| {
            let renamed = File::open(&temporary)
                .and_then(|file| file.sync_all())
                .and_then(|()| std::fs::rename(&temporary, path));
            renamed.map_err(|source| Error::Write { path: path.to_owned(), source })
        });
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_and_bare_names_are_found() {
        let names = names_of("bert.embeddings.LayerNorm.weight");
        assert_eq!(names[1], "embeddings.LayerNorm.weight");
        assert_eq!(names[2], "bert.embeddings.LayerNorm.gamma");
        assert_eq!(names[3], "embeddings.LayerNorm.gamma");
        assert_eq!(names_of("cls.predictions.bias"), ["cls.predictions.bias"]);
    }

    #[test]
    fn numbers_are_written_short_and_read_back() {
        let config = ModelConfig::small(10);
        let mut fields = serde_json::to_value(&config).unwrap();
        fields.as_object_mut().unwrap().values_mut().for_each(shorten);
        assert_eq!(fields["hidden_dropout_prob"], 0.1);
        assert_eq!(fields["layer_norm_eps"], 1e-12);
        assert_eq!(serde_json::from_value::<ModelConfig>(fields).unwrap(), config);
    }

    #[test]
    fn configurations_of_other_models_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONFIG_FILE);
        let message = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load_config(&path, 10).unwrap_err().to_string()
        };
        assert!(message("[]").contains("it should be a JSON object"));
        assert!(message("{\"hidden_act\": \"relu\"}").contains("it should be \"gelu\""));
        assert!(message("{}").contains("missing field"));
        assert!(message("{").contains("EOF"));
    }
}
