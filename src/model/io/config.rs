//! `config.json`: the sizes of a model and the options of its objective, in the fields of Hugging Face's `BertConfig`.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::{Error, Result};
use crate::common::{ModelConfig, read_text, write_whole};

/// File with the sizes, next to the weights.
pub const CONFIG_FILE: &str = "config.json";

/// Reads a `config.json`. `vocab_size` is the default for a file without one.
///
/// # Errors
/// [`Error::File`] when it cannot be read or is not text; [`Error::Config`] for invalid JSON, a field that is missing or of another type, another
/// activation, or sizes that no kernel is built for.
pub fn load_config(path: &Path, vocab_size: Option<usize>) -> Result<ModelConfig> {
    let text = read_text(path, "JSON")?;
    parse_config(&text, vocab_size).map_err(|reason| Error::Config { path: path.to_owned(), reason })
}

/// Reads the text of a `config.json`, as [`load_config`].
///
/// # Errors
/// A text that names the field, what it is, and what it should be.
pub fn parse_config(text: &str, vocab_size: Option<usize>) -> std::result::Result<ModelConfig, String> {
    let mut fields: Map<String, Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if let Some(vocab_size) = vocab_size {
        fields.entry("vocab_size").or_insert(vocab_size.into());
    }
    for (name, expected) in
        [("hidden_act", "gelu"), ("position_embedding_type", "absolute"), ("model_type", "bert")]
    {
        match fields.get(name) {
            Some(actual) if actual != expected => {
                return Err(format!("{name} is {actual}; it should be \"{expected}\""));
            }
            _ => {}
        }
    }
    let config: ModelConfig = serde_json::from_value(fields.into()).map_err(|error| error.to_string())?;
    config.validate().map_err(|error| error.to_string())?;
    Ok(config)
}

/// Writes `config.json` into `directory`, as Hugging Face's `BertConfig` reads it; the options of the objective are fields `retromae_*` in it.
/// `pad_token_id` is the tokenizer's padding id; without it Hugging Face takes 0.
///
/// # Errors
/// [`Error::File`] when it cannot be written.
pub fn save_config(directory: &Path, config: &ModelConfig, pad_token_id: Option<u32>) -> Result<()> {
    let mut fields = serde_json::to_value(config).unwrap_or_default();
    fields.as_object_mut().into_iter().flatten().for_each(|(_, value)| shorten(value));
    let fixed = json!({
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "tie_word_embeddings": true,
    });
    if let (Some(fields), Value::Object(fixed)) = (fields.as_object_mut(), fixed) {
        fields.extend(fixed);
        fields.extend(pad_token_id.map(|id| ("pad_token_id".to_owned(), id.into())));
    }
    Ok(write_whole(&directory.join(CONFIG_FILE), format!("{fields:#}\n").as_bytes())?)
}

/// Shortens a number that was an f32 to the fewest digits that identify this f32: 0.1, not 0.10000000149011612.
fn shorten(value: &mut Value) {
    if value.is_f64()
        && let Some(shortest) = value.as_f64().and_then(|wide| (wide as f32).to_string().parse::<f64>().ok())
    {
        *value = shortest.into();
    }
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

    #[test]
    fn configurations_of_other_models_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(CONFIG_FILE);
        let message = |text: &str| {
            std::fs::write(&path, text).unwrap();
            load_config(&path, Some(10)).unwrap_err().to_string()
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
