//! The model's parameters by their Hugging Face names.

use super::tensor::add_to;
use crate::common::ModelConfig;
use std::collections::BTreeMap;

/// Tensors by name, row-major; a dense weight is `[out_features, in_features]`.
pub type Parameters = BTreeMap<String, Vec<f64>>;

/// The prefix of an encoder layer's parameters; the decoder's is [`DECODER_PREFIX`].
pub(super) fn encoder_prefix(layer: usize) -> String {
    format!("bert.encoder.layer.{layer}.")
}

/// The prefix of the decoder layer's parameters.
pub(super) const DECODER_PREFIX: &str = "decoder.";

/// The name and shape of every parameter: embeddings, encoder layers, decoder layer, masked-language-model head.
///
/// The head's output matrix is `bert.embeddings.word_embeddings.weight` and has no name of its own.
#[must_use]
pub fn parameter_shapes(config: &ModelConfig) -> Vec<(String, Vec<usize>)> {
    let hidden_size = config.hidden_size;
    let mut shapes = Vec::new();
    let tables = [
        ("word", config.vocab_size),
        ("position", config.max_position_embeddings),
        ("token_type", config.type_vocab_size),
    ];
    for (table, rows) in tables {
        shapes.push((format!("bert.embeddings.{table}_embeddings.weight"), vec![rows, hidden_size]));
    }
    push_layer_norm(&mut shapes, "bert.embeddings.LayerNorm", hidden_size);
    for layer in 0..config.num_hidden_layers {
        push_layer(&mut shapes, &encoder_prefix(layer), config);
    }
    push_layer(&mut shapes, DECODER_PREFIX, config);
    push_dense(&mut shapes, "cls.predictions.transform.dense", hidden_size, hidden_size);
    push_layer_norm(&mut shapes, "cls.predictions.transform.LayerNorm", hidden_size);
    shapes.push(("cls.predictions.bias".into(), vec![config.vocab_size]));
    shapes
}

/// A gradient of zero for every parameter.
#[must_use]
pub fn zeros(config: &ModelConfig) -> Parameters {
    let zero = |(name, shape): (String, Vec<usize>)| (name, vec![0.0; shape.iter().product()]);
    parameter_shapes(config).into_iter().map(zero).collect()
}

/// The tensor called `name`.
///
/// # Panics
/// When there is none, naming it.
#[must_use]
pub fn get<'a>(parameters: &'a Parameters, name: &str) -> &'a [f64] {
    parameters.get(name).unwrap_or_else(|| panic!("there is no parameter {name}"))
}

/// Adds `gradient` to the tensor called `name`.
///
/// # Panics
/// When there is none, naming it.
pub fn accumulate(gradients: &mut Parameters, name: &str, gradient: &[f64]) {
    let target = gradients.get_mut(name).unwrap_or_else(|| panic!("there is no gradient {name}"));
    add_to(target, gradient);
}

fn push_dense(shapes: &mut Vec<(String, Vec<usize>)>, name: &str, out_features: usize, in_features: usize) {
    shapes.push((format!("{name}.weight"), vec![out_features, in_features]));
    shapes.push((format!("{name}.bias"), vec![out_features]));
}

fn push_layer_norm(shapes: &mut Vec<(String, Vec<usize>)>, name: &str, hidden_size: usize) {
    shapes.push((format!("{name}.weight"), vec![hidden_size]));
    shapes.push((format!("{name}.bias"), vec![hidden_size]));
}

fn push_layer(shapes: &mut Vec<(String, Vec<usize>)>, prefix: &str, config: &ModelConfig) {
    let (hidden_size, intermediate_size) = (config.hidden_size, config.intermediate_size);
    for projection in ["query", "key", "value"] {
        push_dense(shapes, &format!("{prefix}attention.self.{projection}"), hidden_size, hidden_size);
    }
    push_dense(shapes, &format!("{prefix}attention.output.dense"), hidden_size, hidden_size);
    push_layer_norm(shapes, &format!("{prefix}attention.output.LayerNorm"), hidden_size);
    push_dense(shapes, &format!("{prefix}intermediate.dense"), intermediate_size, hidden_size);
    push_dense(shapes, &format!("{prefix}output.dense"), hidden_size, intermediate_size);
    push_layer_norm(shapes, &format!("{prefix}output.LayerNorm"), hidden_size);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bert_base_has_its_known_number_of_parameters() {
        let config = ModelConfig::base(30522);
        let count = |keep: &dyn Fn(&str) -> bool| -> usize {
            let shapes = parameter_shapes(&config);
            shapes
                .iter()
                .filter(|(name, _)| keep(name))
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum()
        };
        // BertModel without its pooler, and one of its layers.
        assert_eq!(count(&|name| name.starts_with("bert.")), 108_891_648);
        assert_eq!(count(&|name| name.starts_with("decoder.")), 7_087_872);
        assert_eq!(count(&|name| name.starts_with("cls.")), 768 * 768 + 3 * 768 + 30522);
    }
}
