//! What a model is: sizes, and the options of the RetroMAE objective.

use serde::{Deserialize, Serialize};

use super::inputs::wrong;
use crate::ops::Result;
use crate::ops::attention::HEAD_DIMS;
use crate::ops::layer_norm::COLUMNS_MAX;

/// Names and places of the parameters are kept on the host, and each layer has dropout sites of its own.
const LAYERS_MAX: usize = 1024;
/// Keeps the bytes of a batch's activations within what a number holds.
const INTERMEDIATE_SIZE_MAX: usize = 1 << 16;
/// Keeps all initial weights finite.
const INITIALIZER_RANGE_MAX: f32 = 1e30;

/// How the one-layer decoder rebuilds a sentence (arXiv 2205.12035, sections 3.2 and 3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderKind {
    /// A bidirectional BERT layer over the sentence vector and a masked input.
    Basic,
    /// Two-stream attention under a position-specific mask; every token is a target.
    #[default]
    Enhanced,
}

/// How the query stream of the enhanced decoder is made from the sentence vector `h` and the position `p`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueryKind {
    /// `h + p[i]`: the paper and the first public code.
    Position,
    /// `Dropout(LayerNorm(h + p[i] + type[0]))`: the later public code.
    #[default]
    Embedding,
}

/// Sizes of the BERT encoder and options of the decoder; the field names are those of Hugging Face's `config.json`.
/// [`validate`](Self::validate) checks all that is said of the fields.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// In `1..2^31`.
    pub vocab_size: usize,
    /// `num_attention_heads` times one of [`HEAD_DIMS`]; at most [`COLUMNS_MAX`], the longest row that the kernels normalise.
    pub hidden_size: usize,
    /// In `1..=1024`.
    pub num_hidden_layers: usize,
    /// At least 1.
    pub num_attention_heads: usize,
    /// A multiple of 8 in `8..=65536`.
    pub intermediate_size: usize,
    /// In `1..2^31`; attention takes sentences of up to [`LENGTH_MAX`](crate::ops::attention::LENGTH_MAX).
    pub max_position_embeddings: usize,
    /// In `1..2^31`.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Added to the variance: positive and finite.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f32,
    /// In `[0, 1)`, in steps of 1/256: [`dropout_threshold`](crate::random::dropout_threshold).
    #[serde(default = "one_tenth")]
    pub hidden_dropout_prob: f32,
    /// As `hidden_dropout_prob`.
    #[serde(default = "one_tenth")]
    pub attention_probs_dropout_prob: f32,
    /// Standard deviation of the initial matrices: in `[0, 10^30]`.
    #[serde(default = "initializer_range")]
    pub initializer_range: f32,
    #[serde(default, rename = "retromae_decoder")]
    pub decoder: DecoderKind,
    #[serde(default, rename = "retromae_query")]
    pub query: QueryKind,
    /// Weight of the encoder's loss in the total: at least 0 and finite.
    #[serde(default = "one", rename = "retromae_encoder_loss_weight")]
    pub encoder_loss_weight: f32,
    /// Weight of the decoder's loss in the total: at least 0 and finite.
    #[serde(default = "one", rename = "retromae_decoder_loss_weight")]
    pub decoder_loss_weight: f32,
    /// Weight of the bag-of-words loss of DupMAE in the total, at least 0 and finite; 0 leaves its head out.
    #[serde(default, rename = "retromae_bag_of_words_loss_weight", skip_serializing_if = "is_zero")]
    pub bag_of_words_loss_weight: f32,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde's signature
fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

fn one() -> f32 {
    1.0
}
fn two() -> usize {
    2
}
fn layer_norm_eps() -> f32 {
    1e-12
}
fn one_tenth() -> f32 {
    0.1
}
fn initializer_range() -> f32 {
    0.02
}

/// Dropout sites: the third Philox counter word, one for each place in the model that drops elements.
pub mod dropout_site {
    /// After the encoder's embedding LayerNorm.
    pub const ENCODER_EMBEDDING: u32 = 0;
    /// After the LayerNorm of the decoder's query stream.
    pub const DECODER_QUERY: u32 = 1;
    /// After the LayerNorm of the decoder's content stream.
    pub const DECODER_CONTENT: u32 = 2;

    /// The attention probabilities of `layer`; the decoder is layer `num_hidden_layers`.
    #[must_use]
    pub fn attention_probabilities(layer: usize) -> u32 {
        8 * (layer as u32 + 1)
    }
    /// The output of the attention block of `layer`.
    #[must_use]
    pub fn attention_output(layer: usize) -> u32 {
        8 * (layer as u32 + 1) + 1
    }
    /// The output of the feed-forward block of `layer`.
    #[must_use]
    pub fn feed_forward_output(layer: usize) -> u32 {
        8 * (layer as u32 + 1) + 2
    }
}

impl ModelConfig {
    /// Whether a model can be made of this: a [`Model`](super::Model) refuses any other configuration.
    ///
    /// # Errors
    /// When a field is out of its range: names it, what it was and what it should be.
    pub fn validate(&self) -> Result<()> {
        self.validate_sizes()?;
        for (argument, rate) in [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ] {
            if !(0.0..1.0).contains(&rate) {
                return wrong(argument, rate, "in [0, 1)");
            }
        }
        if !(self.layer_norm_eps > 0.0 && self.layer_norm_eps.is_finite()) {
            return wrong("layer_norm_eps", self.layer_norm_eps, "positive and finite");
        }
        if !(0.0..=INITIALIZER_RANGE_MAX).contains(&self.initializer_range) {
            let expected = format!("in [0, {INITIALIZER_RANGE_MAX:e}]");
            return wrong("initializer_range", self.initializer_range, expected);
        }
        for (argument, weight) in [
            ("encoder_loss_weight", self.encoder_loss_weight),
            ("decoder_loss_weight", self.decoder_loss_weight),
            ("bag_of_words_loss_weight", self.bag_of_words_loss_weight),
        ] {
            if !(weight >= 0.0 && weight.is_finite()) {
                return wrong(argument, weight, "at least 0 and finite");
            }
        }
        Ok(())
    }

    fn validate_sizes(&self) -> Result<()> {
        let ids = i32::MAX as usize;
        for (argument, value, max) in [
            ("vocab_size", self.vocab_size, ids),
            ("hidden_size", self.hidden_size, COLUMNS_MAX),
            ("num_hidden_layers", self.num_hidden_layers, LAYERS_MAX),
            ("num_attention_heads", self.num_attention_heads, COLUMNS_MAX),
            ("intermediate_size", self.intermediate_size, INTERMEDIATE_SIZE_MAX),
            ("max_position_embeddings", self.max_position_embeddings, ids),
            ("type_vocab_size", self.type_vocab_size, ids),
        ] {
            if !(1..=max).contains(&value) {
                return wrong(argument, value, format!("in 1..={max}"));
            }
        }
        let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
        if !hidden.is_multiple_of(heads) || !HEAD_DIMS.contains(&(hidden / heads)) {
            let head_dim = hidden as f64 / heads as f64;
            let actual = format!("{hidden} with {heads} heads, so a head size of {head_dim}");
            return wrong("hidden_size", actual, format!("heads times a head size of {HEAD_DIMS:?}"));
        }
        if !self.intermediate_size.is_multiple_of(8) {
            return wrong("intermediate_size", self.intermediate_size, "a multiple of 8");
        }
        Ok(())
    }

    /// Whether the model has the bag-of-words head of DupMAE.
    pub(super) fn has_bag_of_words(&self) -> bool {
        self.bag_of_words_loss_weight > 0.0
    }

    fn sized(layers: usize, hidden: usize, heads: usize, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: 4 * hidden,
            max_position_embeddings: 512,
            type_vocab_size: 2,
            layer_norm_eps: layer_norm_eps(),
            hidden_dropout_prob: one_tenth(),
            attention_probs_dropout_prob: one_tenth(),
            initializer_range: initializer_range(),
            decoder: DecoderKind::default(),
            query: QueryKind::default(),
            encoder_loss_weight: 1.0,
            decoder_loss_weight: 1.0,
            bag_of_words_loss_weight: 0.0,
        }
    }

    /// 2 layers × 256, 4 heads of 64: for demonstrations on a processor. A run of minutes never overfits, so nothing is dropped out, and
    /// its matrices start larger than BERT's, which are meant for wider rows.
    #[must_use]
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            hidden_dropout_prob: 0.0,
            attention_probs_dropout_prob: 0.0,
            initializer_range: 0.05,
            ..Self::sized(2, 256, 4, vocab_size)
        }
    }

    /// 6 layers × 384, 12 heads of 32.
    #[must_use]
    pub fn small(vocab_size: usize) -> Self {
        Self::sized(6, 384, 12, vocab_size)
    }

    /// 12 layers × 768, 12 heads of 64: BERT-base.
    #[must_use]
    pub fn base(vocab_size: usize) -> Self {
        Self::sized(12, 768, 12, vocab_size)
    }

    /// Elements of one head's query, key or value: `hidden_size / num_attention_heads`.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;
    use std::collections::HashSet;

    /// No two places of a model drop the same elements, nor do mask draws use a place's numbers.
    #[test]
    fn every_place_that_drops_has_a_site_of_its_own() {
        let mut sites = vec![
            dropout_site::ENCODER_EMBEDDING,
            dropout_site::DECODER_QUERY,
            dropout_site::DECODER_CONTENT,
            Stream::EncoderMask as u32,
            Stream::DecoderMask as u32,
            Stream::MaskBank as u32,
            Stream::BankRow as u32,
            Stream::Corruption as u32,
            crate::model::parameters::INITIALISATION,
        ];
        // The decoder is one more layer.
        for layer in 0..=LAYERS_MAX {
            sites.push(dropout_site::attention_probabilities(layer));
            sites.push(dropout_site::attention_output(layer));
            sites.push(dropout_site::feed_forward_output(layer));
        }
        let count = sites.len();
        assert_eq!(sites.into_iter().collect::<HashSet<u32>>().len(), count);
    }
}
