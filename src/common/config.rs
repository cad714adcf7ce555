//! Model configuration: sizes, and the options of the RetroMAE objective.

use serde::{Deserialize, Serialize};

/// Kind of the one-layer decoder that rebuilds a sentence (arXiv 2205.12035, sections 3.2 and 3.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecoderKind {
    /// A bidirectional BERT layer over the sentence vector and a masked input.
    Basic,
    /// Two-stream attention under a position-specific mask; every token is a target.
    #[default]
    Enhanced,
}

/// Query stream of the enhanced decoder, made from the sentence vector `h` and the position `p`.
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
/// [`validate`](Self::validate) checks every bound given at the fields. The default is BERT-base uncased, [`base(30_522)`](Self::base).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    /// Token ids V, in `1..2^31`.
    pub vocab_size: usize,
    /// Elements H of a hidden state: `num_attention_heads` times one of [`HEAD_DIMS`](crate::ops::attention::HEAD_DIMS); at most
    /// [`COLUMNS_MAX`](crate::ops::layer_norm::COLUMNS_MAX), the longest row that the kernels normalize.
    pub hidden_size: usize,
    /// Layers of the encoder, in `1..=1024`.
    pub num_hidden_layers: usize,
    /// Attention heads A, at least 1.
    pub num_attention_heads: usize,
    /// Elements F between the two matrices of a feed-forward network: a multiple of 8 in `8..=65536`; four times H in all of BERT.
    pub intermediate_size: usize,
    /// Longest sentence in tokens, in `1..2^31`; 512 in all of BERT. Attention takes sentences of up to [`LENGTH_MAX`](crate::ops::attention::LENGTH_MAX).
    pub max_position_embeddings: usize,
    /// Token types, of which type 0 is used: in `1..2^31`, by default 2.
    #[serde(default = "two")]
    pub type_vocab_size: usize,
    /// Term added to the variance: positive and finite, by default 1e-12.
    #[serde(default = "layer_norm_eps")]
    pub layer_norm_eps: f32,
    /// Dropout on embeddings and on the outputs of attention and feed-forward network: in `[0, 1)`, in steps of 1/256
    /// ([`dropout_threshold`](crate::random::dropout_threshold)); by default 0.1.
    #[serde(default = "one_tenth")]
    pub hidden_dropout_prob: f32,
    /// Dropout on attention probabilities: range and default as for `hidden_dropout_prob`.
    #[serde(default = "one_tenth")]
    pub attention_probs_dropout_prob: f32,
    /// Standard deviation of the initial matrices: in `[0, 10^30]`, by default 0.02.
    #[serde(default = "initializer_range")]
    pub initializer_range: f32,
    /// Decoder that is trained with the encoder; [`DecoderKind::Enhanced`] by default.
    #[serde(default, rename = "retromae_decoder")]
    pub decoder: DecoderKind,
    /// Query stream of the enhanced decoder, which the basic one ignores; [`QueryKind::Embedding`] by default.
    #[serde(default, rename = "retromae_query")]
    pub query: QueryKind,
    /// Weight of the encoder's loss in the total: at least 0 and finite, by default 1.
    #[serde(default = "one", rename = "retromae_encoder_loss_weight")]
    pub encoder_loss_weight: f32,
    /// Weight of the decoder's loss in the total: at least 0 and finite, by default 1.
    #[serde(default = "one", rename = "retromae_decoder_loss_weight")]
    pub decoder_loss_weight: f32,
    /// Weight of the bag-of-words loss of DupMAE (arXiv 2305.02564) in the total: at least 0 and finite; with 0, the default, the model has no bag-of-words head.
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

/// Dropout sites: the third Philox counter word, one for each place in the model with dropout.
pub mod dropout_site {
    use crate::common::constants::{
        STREAM_ATTENTION_OUTPUT, STREAM_ATTENTION_PROBABILITIES, STREAM_DECODER_CONTENT,
        STREAM_DECODER_QUERY, STREAM_ENCODER_EMBEDDING, STREAM_FEED_FORWARD_OUTPUT, STREAMS_PER_LAYER,
    };

    /// After the encoder's embedding LayerNorm.
    pub const ENCODER_EMBEDDING: u32 = STREAM_ENCODER_EMBEDDING;
    /// After the LayerNorm of the decoder's query stream.
    pub const DECODER_QUERY: u32 = STREAM_DECODER_QUERY;
    /// After the LayerNorm of the decoder's content stream.
    pub const DECODER_CONTENT: u32 = STREAM_DECODER_CONTENT;

    /// Returns the site of the attention probabilities of `layer`; the decoder is layer `num_hidden_layers`.
    #[must_use]
    pub fn attention_probabilities(layer: usize) -> u32 {
        STREAM_ATTENTION_PROBABILITIES + STREAMS_PER_LAYER * layer as u32
    }
    /// Returns the site of the output of the attention block of `layer`.
    #[must_use]
    pub fn attention_output(layer: usize) -> u32 {
        STREAM_ATTENTION_OUTPUT + STREAMS_PER_LAYER * layer as u32
    }
    /// Returns the site of the output of the feed-forward block of `layer`.
    #[must_use]
    pub fn feed_forward_output(layer: usize) -> u32 {
        STREAM_FEED_FORWARD_OUTPUT + STREAMS_PER_LAYER * layer as u32
    }
}

impl Default for ModelConfig {
    fn default() -> Self {
        Self::base(30_522)
    }
}

impl ModelConfig {
    fn sized(layers: usize, hidden: usize, heads: usize, vocab_size: usize) -> Self {
        Self {
            vocab_size,
            hidden_size: hidden,
            num_hidden_layers: layers,
            num_attention_heads: heads,
            intermediate_size: 4 * hidden,
            max_position_embeddings: 512,
            type_vocab_size: two(),
            layer_norm_eps: layer_norm_eps(),
            hidden_dropout_prob: one_tenth(),
            attention_probs_dropout_prob: one_tenth(),
            initializer_range: initializer_range(),
            decoder: DecoderKind::default(),
            query: QueryKind::default(),
            encoder_loss_weight: one(),
            decoder_loss_weight: one(),
            bag_of_words_loss_weight: 0.0,
        }
    }

    /// 2 layers × 256, 4 heads of 64: for demonstrations on a CPU. It has no dropout, because a run of minutes never overfits, and its initial
    /// matrices are larger than BERT's, which are meant for wider rows.
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

    /// Returns the elements of one head's query, key or value: `hidden_size / num_attention_heads`.
    #[must_use]
    pub fn head_dim(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }
}
