//! Ranges of the parameters in the flat arena.
//!
//! Weight matrices and embeddings come first, because weight decay acts on them alone; LayerNorm weights and all biases follow. A layer's query,
//! key and value weights are adjacent, so that one matmul can read them as one matrix. Names and shapes are Hugging Face's.

use std::collections::HashMap;
use std::ops::Range;

use super::ModelConfig;

/// Alignment of every parameter's start in elements: 16 bytes of a 16-bit type.
const ALIGNMENT: usize = 8;

/// One named parameter.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub name: String,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

/// A matrix and its bias.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub weight: Range<usize>,
    pub bias: Range<usize>,
}

/// Weight and bias of a LayerNorm.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub gamma: Range<usize>,
    pub beta: Range<usize>,
}

/// Parameter ranges of one transformer layer.
#[derive(Clone, Debug)]
pub(super) struct LayerRanges {
    /// `[3H, H]` and `[3H]`: query, key, value
    pub query_key_value: Linear,
    pub attention_output: Linear,
    pub attention_norm: Norm,
    pub intermediate: Linear,
    pub output: Linear,
    pub output_norm: Norm,
}

/// Parameter ranges of a model.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub entries: Vec<Entry>,
    names: HashMap<String, usize>,
    /// Number of leading elements that weight decay acts on.
    pub decayed: usize,
    pub total: usize,
    pub word: Range<usize>,
    pub position: Range<usize>,
    pub token_type: Range<usize>,
    pub embedding_norm: Norm,
    pub layers: Vec<LayerRanges>,
    pub decoder: LayerRanges,
    pub transform: Linear,
    pub transform_norm: Norm,
    pub head_bias: Range<usize>,
}

#[derive(Default)]
struct Builder {
    entries: Vec<Entry>,
    total: usize,
}

impl Builder {
    fn add(&mut self, name: impl Into<String>, shape: &[usize]) -> Range<usize> {
        let start = self.total;
        let range = start..start + shape.iter().product::<usize>();
        self.total = range.end.next_multiple_of(ALIGNMENT);
        self.entries.push(Entry { name: name.into(), shape: shape.to_vec(), range: range.clone() });
        range
    }

    /// Adds query, key and value; returns the range over all three.
    fn add_query_key_value(&mut self, prefix: &str, kind: &str, shape: &[usize]) -> Range<usize> {
        let add =
            |builder: &mut Self, part| builder.add(format!("{prefix}.attention.self.{part}.{kind}"), shape);
        let first = add(self, "query");
        add(self, "key");
        first.start..add(self, "value").end
    }

    fn add_norm(&mut self, prefix: &str, hidden: usize) -> Norm {
        let gamma = self.add(format!("{prefix}.LayerNorm.weight"), &[hidden]);
        Norm { gamma, beta: self.add(format!("{prefix}.LayerNorm.bias"), &[hidden]) }
    }
}

/// Ranges of one layer's matrices, before its biases are placed.
struct LayerWeights {
    prefix: String,
    query_key_value: Range<usize>,
    attention_output: Range<usize>,
    intermediate: Range<usize>,
    output: Range<usize>,
}

impl LayerWeights {
    fn place(builder: &mut Builder, prefix: String, hidden: usize, intermediate: usize) -> Self {
        Self {
            query_key_value: builder.add_query_key_value(&prefix, "weight", &[hidden, hidden]),
            attention_output: builder
                .add(format!("{prefix}.attention.output.dense.weight"), &[hidden, hidden]),
            intermediate: builder.add(format!("{prefix}.intermediate.dense.weight"), &[intermediate, hidden]),
            output: builder.add(format!("{prefix}.output.dense.weight"), &[hidden, intermediate]),
            prefix,
        }
    }

    fn place_rest(self, builder: &mut Builder, hidden: usize, intermediate: usize) -> LayerRanges {
        let prefix = self.prefix;
        let query_key_value = builder.add_query_key_value(&prefix, "bias", &[hidden]);
        let attention_output = builder.add(format!("{prefix}.attention.output.dense.bias"), &[hidden]);
        let attention_norm = builder.add_norm(&format!("{prefix}.attention.output"), hidden);
        let intermediate_bias = builder.add(format!("{prefix}.intermediate.dense.bias"), &[intermediate]);
        let output = builder.add(format!("{prefix}.output.dense.bias"), &[hidden]);
        LayerRanges {
            query_key_value: Linear { weight: self.query_key_value, bias: query_key_value },
            attention_output: Linear { weight: self.attention_output, bias: attention_output },
            attention_norm,
            intermediate: Linear { weight: self.intermediate, bias: intermediate_bias },
            output: Linear { weight: self.output, bias: output },
            output_norm: builder.add_norm(&format!("{prefix}.output"), hidden),
        }
    }
}

impl Layout {
    pub(super) fn new(config: &ModelConfig) -> Self {
        let (hidden, intermediate) = (config.hidden_size, config.intermediate_size);
        let mut builder = Builder::default();
        let embeddings = "bert.embeddings";
        let word = builder.add(format!("{embeddings}.word_embeddings.weight"), &[config.vocab_size, hidden]);
        let position = builder.add(
            format!("{embeddings}.position_embeddings.weight"),
            &[config.max_position_embeddings, hidden],
        );
        let token_type = builder
            .add(format!("{embeddings}.token_type_embeddings.weight"), &[config.type_vocab_size, hidden]);
        let mut weights: Vec<LayerWeights> = (0..config.num_hidden_layers)
            .map(|layer| {
                LayerWeights::place(&mut builder, format!("bert.encoder.layer.{layer}"), hidden, intermediate)
            })
            .collect();
        weights.push(LayerWeights::place(&mut builder, "decoder".into(), hidden, intermediate));
        let transform = "cls.predictions.transform";
        let transform_weight = builder.add(format!("{transform}.dense.weight"), &[hidden, hidden]);
        let decayed = builder.total;

        let embedding_norm = builder.add_norm(embeddings, hidden);
        let mut layers: Vec<LayerRanges> =
            weights.into_iter().map(|layer| layer.place_rest(&mut builder, hidden, intermediate)).collect();
        let decoder = layers.pop().expect("the decoder was pushed last");
        let transform_bias = builder.add(format!("{transform}.dense.bias"), &[hidden]);
        let transform_norm = builder.add_norm(transform, hidden);
        let head_bias = builder.add("cls.predictions.bias", &[config.vocab_size]);

        let Builder { entries, total } = builder;
        let names = entries.iter().enumerate().map(|(index, entry)| (entry.name.clone(), index)).collect();
        Self {
            entries,
            names,
            decayed,
            total,
            word,
            position,
            token_type,
            embedding_norm,
            layers,
            decoder,
            transform: Linear { weight: transform_weight, bias: transform_bias },
            transform_norm,
            head_bias,
        }
    }

    pub(super) fn find(&self, name: &str) -> Option<&Entry> {
        self.names.get(name).map(|&index| &self.entries[index])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_apart_and_aligned() {
        let layout = Layout::new(&ModelConfig::tiny(1003));
        for pair in layout.entries.windows(2) {
            assert!(pair[0].range.end <= pair[1].range.start && pair[1].range.start.is_multiple_of(8));
        }
        for entry in &layout.entries {
            let matrix = entry.shape.len() == 2;
            assert_eq!(matrix, entry.range.end <= layout.decayed, "{} is a matrix: {matrix}", entry.name);
        }
    }

    #[test]
    fn query_key_and_value_are_neighbors() {
        let layout = Layout::new(&ModelConfig::small(500));
        for (layer, ranges) in layout.layers.iter().enumerate() {
            let start = |part: &str| {
                let name = format!("bert.encoder.layer.{layer}.attention.self.{part}.weight");
                layout.find(&name).unwrap().range.start
            };
            let weight = &ranges.query_key_value.weight;
            assert_eq!(weight.len(), 3 * 384 * 384);
            assert_eq!(
                [start("query"), start("key"), start("value")].map(|s| (s - weight.start) / (384 * 384)),
                [0, 1, 2]
            );
        }
    }
}
