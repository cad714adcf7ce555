//! Validation of a model's configuration.

use super::ModelConfig;
use crate::ops::attention::HEAD_DIMS;
use crate::ops::layer_norm::COLUMNS_MAX;
use crate::ops::{Result, wrong};

/// Bounds the table of parameter names and ranges on the host, and the dropout sites, of which each layer has its own.
const LAYERS_MAX: usize = 1024;
/// Keeps the byte count of a batch's activations from overflowing.
const INTERMEDIATE_SIZE_MAX: usize = 1 << 16;
/// Keeps all initial weights finite.
const INITIALIZER_RANGE_MAX: f32 = 1e30;

impl ModelConfig {
    /// Checks that a [`Model`](super::Model) can be created from this configuration.
    ///
    /// # Errors
    /// When a field is out of range; the error names the field, its value and the valid range.
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

    /// Returns true for a model with the bag-of-words head of DupMAE.
    pub(super) fn has_bag_of_words(&self) -> bool {
        self.bag_of_words_loss_weight > 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::constants::{STREAM_EPOCH_ORDER, STREAM_HELD_OUT, STREAM_INITIALIZATION};
    use crate::common::dropout_site;
    use crate::common::random::Stream;
    use std::collections::HashSet;

    /// No two dropout sites of a model share random numbers, with each other or with any other random stream.
    #[test]
    fn every_place_that_drops_has_a_site_of_its_own() {
        let mut sites = vec![
            dropout_site::ENCODER_EMBEDDING,
            dropout_site::DECODER_QUERY,
            dropout_site::DECODER_CONTENT,
            Stream::EncoderMask as u32,
            Stream::DecoderMask as u32,
            Stream::MaskPool as u32,
            Stream::PoolRow as u32,
            Stream::Corruption as u32,
            STREAM_INITIALIZATION,
            STREAM_EPOCH_ORDER,
            STREAM_HELD_OUT,
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
