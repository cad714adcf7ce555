//! A model written as a directory in Hugging Face's BERT layout.

use std::fs::File;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::error::{Error, Result};
use super::import::{CONFIG_FILE, WEIGHTS_FILE};
use crate::data::{Tokenizer, write_whole};
use crate::device::ModelFloat;
use crate::model::{Model, ModelConfig};

/// A tensor of a file: name, shape, values.
pub(super) type Tensor = (String, Vec<usize>, Vec<f32>);

/// Writes `model.safetensors`, `config.json` and the tokenizer's files into `directory`, each whole or not at all.
///
/// Only `bert.*` and `cls.*` are written, in f32, as `BertForMaskedLM` reads them; the decoder has done its work. The
/// output matrix is the word embedding, which Hugging Face ties by itself. `max_len` goes to the tokenizer's configuration.
///
/// # Errors
/// [`Error::NonFiniteWeight`], [`Error::Write`], [`Error::Weights`], [`Error::Data`].
pub fn save_model<T: ModelFloat>(
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

/// Writes tensors to a temporary file beside `path`, waits until the disk has them, and renames it.
///
/// # Errors
/// [`Error::NonFiniteWeight`] when a value is not finite, and nothing was written; [`Error::Weights`], [`Error::Write`].
pub(super) fn write_tensors(path: &Path, tensors: &[Tensor]) -> Result<()> {
    for (name, _, values) in tensors {
        if let Some(&value) = values.iter().find(|value| !value.is_finite()) {
            let (path, tensor) = (path.to_owned(), name.clone());
            return Err(Error::NonFiniteWeight { path, tensor, value });
        }
    }
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
    fn numbers_are_written_short_and_read_back() {
        let config = ModelConfig::small(10);
        let mut fields = serde_json::to_value(&config).unwrap();
        fields.as_object_mut().unwrap().values_mut().for_each(shorten);
        assert_eq!(fields["hidden_dropout_prob"], 0.1);
        assert_eq!(fields["layer_norm_eps"], 1e-12);
        assert_eq!(serde_json::from_value::<ModelConfig>(fields).unwrap(), config);
    }
}
