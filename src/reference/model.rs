//! The whole RetroMAE step: encoder, decoder, both losses, and the gradient of every parameter.
//!
//! Source: Xiao et al., "RetroMAE", arXiv 2205.12035, sections "encoding", "decoding" and "enhanced decoding".

use super::attention::{Attention, Mask};
use super::embedding::{self, Embedding, EmbeddingMode};
use super::head;
use super::layer::{Activations, Layer, LayerDropout};
use super::parameters::{DECODER_PREFIX, Parameters, accumulate, encoder_prefix, get, zeros};
use super::tensor::{add_to, sentences};
use crate::common::random::Dropout;
use crate::common::{Batch, DecoderKind, ModelConfig, QueryKind, dropout_site};

/// Losses, gradients and the outputs of one step.
pub struct Step {
    /// Mean cross-entropy over the encoder's labels; 0 when there are none.
    pub encoder_loss: f64,
    /// Mean cross-entropy over the decoder's labels; 0 when there are none.
    pub decoder_loss: f64,
    /// Mean bag-of-words loss of the sentences; 0 where its weight is 0.
    pub bag_of_words_loss: f64,
    /// Gradients of the sum of these losses, each times its weight in the configuration, for every parameter.
    pub gradients: Parameters,
    /// `[B, H]`: the encoder's last hidden state at position 0 of each sentence.
    pub sentence_embeddings: Vec<f64>,
    /// `[T, H]`: the encoder's last hidden state.
    pub encoder_hidden: Vec<f64>,
    /// `[T, H]`: the decoder layer's output.
    pub decoder_hidden: Vec<f64>,
}

/// One forward and backward pass over `batch`.
///
/// `dropout` is `(seed, step)` of the dropout samples; `None` drops nothing, whatever the rates in `config`.
///
/// # Panics
/// When the decoder is the enhanced one and the batch has no visibility, when a parameter is missing, or when an
/// id, a label or a length is out of range.
#[must_use]
pub fn step(
    config: &ModelConfig,
    parameters: &Parameters,
    batch: &Batch,
    dropout: Option<(u64, u32)>,
) -> Step {
    let model = Model { config, parameters, cu_seqlens: &batch.cu_seqlens, dropout };
    let mut gradients = zeros(config);
    let encoded = model.encode(&batch.encoder_input_ids);
    let sentence_embeddings = model.sentence_embeddings(encoded.hidden());
    let encoder =
        model.head_loss(encoded.hidden(), &batch.encoder_labels, config.encoder_loss_weight, &mut gradients);
    let decoder = model.decoder_step(batch, &sentence_embeddings, &mut gradients);
    let mut d_hidden = encoder.d_hidden;
    let bag_weight = f64::from(config.bag_of_words_loss_weight);
    let mut bag_of_words_loss = 0.0;
    if bag_weight > 0.0 {
        let (hidden, eps) = (encoded.hidden(), model.eps());
        let loss = head::bag_of_words_loss(parameters, eps, hidden, batch, bag_weight, &mut gradients);
        bag_of_words_loss = loss.mean;
        add_to(&mut d_hidden, &loss.d_hidden);
    }
    let tokens = sentences(&batch.cu_seqlens);
    for (tokens, d_sentence) in tokens.zip(decoder.d_sentence.chunks_exact(config.hidden_size)) {
        add_to(&mut d_hidden[tokens.start * config.hidden_size..][..config.hidden_size], d_sentence);
    }
    model.encode_backward(&batch.encoder_input_ids, &encoded, d_hidden, &mut gradients);
    Step {
        encoder_loss: encoder.mean,
        decoder_loss: decoder.loss,
        bag_of_words_loss,
        gradients,
        sentence_embeddings,
        encoder_hidden: encoded.hidden().to_vec(),
        decoder_hidden: decoder.hidden,
    }
}

/// Returns the sentence embeddings `[B, H]` of `ids [T]`, without dropout.
#[must_use]
pub fn embed(config: &ModelConfig, parameters: &Parameters, cu_seqlens: &[i32], ids: &[i32]) -> Vec<f64> {
    let model = Model { config, parameters, cu_seqlens, dropout: None };
    model.sentence_embeddings(model.encode(ids).hidden())
}

/// A model over one packed batch of sentences.
struct Model<'a> {
    config: &'a ModelConfig,
    parameters: &'a Parameters,
    cu_seqlens: &'a [i32],
    dropout: Option<(u64, u32)>,
}

/// The encoder's activations.
struct Encoded {
    embedded: Vec<f64>,
    layers: Vec<Activations>,
}

impl Encoded {
    /// Returns the input of layer `layer`, `[T, H]`.
    fn input(&self, layer: usize) -> &[f64] {
        if layer == 0 { &self.embedded } else { &self.layers[layer - 1].output }
    }

    /// Returns the output of the last layer, `[T, H]`.
    fn hidden(&self) -> &[f64] {
        self.input(self.layers.len())
    }
}

/// Result of the decoder, for the encoder and the caller.
struct DecoderStep {
    loss: f64,
    hidden: Vec<f64>,
    d_sentence: Vec<f64>,
}

impl Model<'_> {
    fn encode(&self, ids: &[i32]) -> Encoded {
        let dropout = self.hidden_dropout(dropout_site::ENCODER_EMBEDDING);
        let embedded = embedding::forward(&self.embedding(EmbeddingMode::Word, ids, &[], dropout.as_ref()));
        let mut encoded = Encoded { embedded, layers: Vec::new() };
        for layer in 0..self.config.num_hidden_layers {
            let prefix = encoder_prefix(layer);
            let input = encoded.input(layer);
            let activations = self.layer(&prefix, layer, Mask::Full).forward(input, input);
            encoded.layers.push(activations);
        }
        encoded
    }

    fn encode_backward(
        &self,
        ids: &[i32],
        encoded: &Encoded,
        mut d_hidden: Vec<f64>,
        gradients: &mut Parameters,
    ) {
        for layer in (0..self.config.num_hidden_layers).rev() {
            let prefix = encoder_prefix(layer);
            let (input, activations) = (encoded.input(layer), &encoded.layers[layer]);
            let (d_query_stream, d_content_stream) = self.layer(&prefix, layer, Mask::Full).backward(
                input,
                input,
                activations,
                &d_hidden,
                gradients,
            );
            d_hidden = d_query_stream;
            add_to(&mut d_hidden, &d_content_stream);
        }
        let dropout = self.hidden_dropout(dropout_site::ENCODER_EMBEDDING);
        let embedding = self.embedding(EmbeddingMode::Word, ids, &[], dropout.as_ref());
        embedding_backward(&embedding, &d_hidden, gradients);
    }

    /// Computes the decoder's forward pass and loss, and the gradients back to the sentence vectors.
    fn decoder_step(&self, batch: &Batch, sentence: &[f64], gradients: &mut Parameters) -> DecoderStep {
        let content_dropout = self.hidden_dropout(dropout_site::DECODER_CONTENT);
        let query_dropout = self.hidden_dropout(dropout_site::DECODER_QUERY);
        let ids = &batch.decoder_input_ids;
        let content = self.embedding(EmbeddingMode::Content, ids, sentence, content_dropout.as_ref());
        let (query, mask) = match (self.config.decoder, self.config.query) {
            (DecoderKind::Basic, _) => (content, Mask::Full),
            (DecoderKind::Enhanced, QueryKind::Position) => {
                (self.embedding(EmbeddingMode::QueryPosition, &[], sentence, None), pool(batch))
            }
            (DecoderKind::Enhanced, QueryKind::Embedding) => {
                let mode = EmbeddingMode::QueryEmbedding;
                (self.embedding(mode, &[], sentence, query_dropout.as_ref()), pool(batch))
            }
        };
        let (query_stream, content_stream) = (embedding::forward(&query), embedding::forward(&content));
        let layer = self.layer(DECODER_PREFIX, self.config.num_hidden_layers, mask);
        let activations = layer.forward(&query_stream, &content_stream);

        let weight = self.config.decoder_loss_weight;
        let loss = self.head_loss(&activations.output, &batch.decoder_labels, weight, gradients);
        let (d_query_stream, d_content_stream) =
            layer.backward(&query_stream, &content_stream, &activations, &loss.d_hidden, gradients);
        // The basic decoder's two streams are one embedding; its gradient is the sum of both, as backward is linear.
        let mut d_sentence = embedding_backward(&query, &d_query_stream, gradients);
        add_to(&mut d_sentence, &embedding_backward(&content, &d_content_stream, gradients));
        DecoderStep { loss: loss.mean, hidden: activations.output, d_sentence }
    }

    fn head_loss(
        &self,
        hidden: &[f64],
        labels: &[i32],
        loss_weight: f32,
        gradients: &mut Parameters,
    ) -> head::HeadLoss {
        head::loss(self.parameters, self.eps(), hidden, labels, f64::from(loss_weight), gradients)
    }

    fn sentence_embeddings(&self, hidden: &[f64]) -> Vec<f64> {
        let hidden_size = self.config.hidden_size;
        sentences(self.cu_seqlens)
            .flat_map(|tokens| hidden[tokens.start * hidden_size..][..hidden_size].iter().copied())
            .collect()
    }

    fn embedding<'b>(
        &'b self,
        mode: EmbeddingMode,
        ids: &'b [i32],
        sentence: &'b [f64],
        dropout: Option<&'b Dropout>,
    ) -> Embedding<'b> {
        let table = |name| get(self.parameters, &embedding_name(name));
        Embedding {
            mode,
            cu_seqlens: self.cu_seqlens,
            ids,
            word: table("word_embeddings.weight"),
            position: table("position_embeddings.weight"),
            token_type: table("token_type_embeddings.weight"),
            gamma: table("LayerNorm.weight"),
            beta: table("LayerNorm.bias"),
            eps: self.eps(),
            sentence,
            dropout,
        }
    }

    /// `index` numbers the encoder's layers from 0; the decoder follows the last one.
    fn layer<'b>(&'b self, prefix: &'b str, index: usize, mask: Mask<'b>) -> Layer<'b> {
        let config = self.config;
        let probabilities = dropout_site::attention_probabilities(index);
        Layer {
            parameters: self.parameters,
            prefix,
            hidden_size: config.hidden_size,
            eps: self.eps(),
            attention: Attention {
                mask,
                ..Attention::new(self.cu_seqlens, config.num_attention_heads, config.head_dim())
            },
            dropout: LayerDropout {
                attention_probabilities: self.dropout_at(config.attention_probs_dropout_prob, probabilities),
                attention_output: self.hidden_dropout(dropout_site::attention_output(index)),
                feed_forward_output: self.hidden_dropout(dropout_site::feed_forward_output(index)),
            },
        }
    }

    fn hidden_dropout(&self, site: u32) -> Option<Dropout> {
        self.dropout_at(self.config.hidden_dropout_prob, site)
    }

    fn dropout_at(&self, rate: f32, site: u32) -> Option<Dropout> {
        self.dropout.map(|(seed, step)| Dropout::new(rate, seed, step, site))
    }

    fn eps(&self) -> f64 {
        f64::from(self.config.layer_norm_eps)
    }
}

fn pool(batch: &Batch) -> Mask<'_> {
    Mask::Pool(batch.visibility.as_ref().expect("the enhanced decoder needs the batch's visibility"))
}

fn embedding_name(name: &str) -> String {
    format!("bert.embeddings.{name}")
}

/// Adds an embedding's gradients to those of the shared tables and returns that of the sentence vectors `[B, H]`.
fn embedding_backward(embedding: &Embedding, d_out: &[f64], gradients: &mut Parameters) -> Vec<f64> {
    let d = embedding::backward(embedding, d_out);
    accumulate(gradients, &embedding_name("word_embeddings.weight"), &d.word);
    accumulate(gradients, &embedding_name("position_embeddings.weight"), &d.position);
    accumulate(gradients, &embedding_name("token_type_embeddings.weight"), &d.token_type);
    accumulate(gradients, &embedding_name("LayerNorm.weight"), &d.gamma);
    accumulate(gradients, &embedding_name("LayerNorm.bias"), &d.beta);
    d.sentence
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::random::philox;
    use crate::common::{IGNORE_INDEX, MaskPool};
    use crate::reference::parameter_shapes;

    const EPS: f64 = 1e-12f32 as f64;

    fn config(decoder: DecoderKind, query: QueryKind) -> ModelConfig {
        ModelConfig {
            hidden_size: 4,
            num_attention_heads: 2,
            intermediate_size: 6,
            num_hidden_layers: 1,
            max_position_embeddings: 8,
            hidden_dropout_prob: 0.25,
            attention_probs_dropout_prob: 0.5,
            decoder,
            query,
            ..ModelConfig::tiny(9)
        }
    }

    fn parameters(config: &ModelConfig) -> Parameters {
        let tensor = |(tag, (name, shape)): (usize, (String, Vec<usize>))| {
            let value = |index| f64::from(philox([1, 2], [index, tag as u32, 0, 0])[0]) / 2f64.powi(31) - 1.0;
            (name, (0..shape.iter().product::<usize>() as u32).map(value).collect())
        };
        parameter_shapes(config).into_iter().enumerate().map(tensor).collect()
    }

    /// Sentences of 1 and 4 tokens. In the second, positions 1 and 2 may see `{0, 3}`, positions 0 and 3 may see `{0, 1}`.
    fn batch() -> Batch {
        Batch {
            cu_seqlens: vec![0, 1, 5],
            encoder_input_ids: vec![1, 1, 5, 6, 2],
            encoder_labels: vec![IGNORE_INDEX, IGNORE_INDEX, 7, IGNORE_INDEX, IGNORE_INDEX],
            decoder_input_ids: vec![1, 1, 7, 6, 2],
            decoder_labels: vec![IGNORE_INDEX, IGNORE_INDEX, 7, 6, IGNORE_INDEX],
            visibility: Some(MaskPool {
                bits: vec![0, 0b1000, 0b0011],
                offsets: vec![0, 1, 3],
                rows: vec![0, 1, 0, 0, 1],
            }),
        }
    }

    /// Returns the second sentence's decoder rows that change with the content id at `position`.
    fn rows_that_read(config: &ModelConfig, position: usize) -> Vec<usize> {
        let (parameters, mut batch) = (parameters(config), batch());
        let before = step(config, &parameters, &batch, None).decoder_hidden;
        batch.decoder_input_ids[1 + position] = 8;
        let after = step(config, &parameters, &batch, None).decoder_hidden;
        assert_eq!(before[..4], after[..4], "another sentence's row");
        (0..4).filter(|row| before[4 * row + 4..][..4] != after[4 * row + 4..][..4]).collect()
    }

    #[test]
    fn an_enhanced_row_reads_what_its_mask_shows_and_never_its_own_content() {
        for query in [QueryKind::Position, QueryKind::Embedding] {
            let config = config(DecoderKind::Enhanced, query);
            let readers = [0, 1, 2, 3].map(|position| rows_that_read(&config, position));
            assert_eq!(readers, [vec![], vec![0, 3], vec![], vec![1, 2]]);
        }
    }

    #[test]
    fn every_basic_row_reads_all_content_but_position_zero() {
        let readers = [0, 1]
            .map(|position| rows_that_read(&config(DecoderKind::Basic, QueryKind::default()), position));
        assert_eq!(readers, [vec![], vec![0, 1, 2, 3]]);
    }

    #[test]
    fn a_packed_sentence_is_embedded_as_if_it_were_alone() {
        let config = config(DecoderKind::Enhanced, QueryKind::Embedding);
        let (parameters, batch) = (parameters(&config), batch());
        let packed = step(&config, &parameters, &batch, None).sentence_embeddings;
        for (b, sentence) in [&batch.encoder_input_ids[..1], &batch.encoder_input_ids[1..]].iter().enumerate()
        {
            let alone = embed(&config, &parameters, &[0, sentence.len() as i32], sentence);
            assert_eq!(alone, packed[4 * b..][..4]);
        }
    }

    #[test]
    fn no_labels_mean_no_loss_and_no_gradient() {
        let config = config(DecoderKind::Enhanced, QueryKind::Embedding);
        let mut batch = batch();
        batch.encoder_labels.fill(IGNORE_INDEX);
        batch.decoder_labels.fill(IGNORE_INDEX);
        let result = step(&config, &parameters(&config), &batch, None);
        assert_eq!((result.encoder_loss, result.decoder_loss), (0.0, 0.0));
        assert!(result.gradients.values().flatten().all(|&gradient| gradient == 0.0));
    }

    fn layer<'a>(parameters: &'a Parameters, prefix: &'a str, mask: Mask<'a>, sites: [u32; 3]) -> Layer<'a> {
        let drop = |rate, site| Some(Dropout::new(rate, 77, 3, site));
        Layer {
            parameters,
            prefix,
            hidden_size: 4,
            eps: EPS,
            attention: Attention { mask, ..Attention::new(&[0, 1, 5], 2, 2) },
            dropout: LayerDropout {
                attention_probabilities: drop(0.5, sites[0]),
                attention_output: drop(0.25, sites[1]),
                feed_forward_output: drop(0.25, sites[2]),
            },
        }
    }

    /// The enhanced model put together by hand, with every dropout site written as the number that kernels use.
    #[test]
    fn the_model_is_wired_as_specified() {
        let config = config(DecoderKind::Enhanced, QueryKind::Embedding);
        let (parameters, batch) = (parameters(&config), batch());
        let embed = |mode, ids, sentence, site| {
            let model =
                Model { config: &config, parameters: &parameters, cu_seqlens: &[0, 1, 5], dropout: None };
            let dropout = Dropout::new(0.25, 77, 3, site);
            embedding::forward(&model.embedding(mode, ids, sentence, Some(&dropout)))
        };
        let embedded = embed(EmbeddingMode::Word, &batch.encoder_input_ids, &[], 0);
        let encoder = layer(&parameters, "bert.encoder.layer.0.", Mask::Full, [8, 9, 10]);
        let hidden = encoder.forward(&embedded, &embedded).output;
        let sentence = [&hidden[0..4], &hidden[4..8]].concat();
        let query = embed(EmbeddingMode::QueryEmbedding, &[], &sentence, 1);
        let content = embed(EmbeddingMode::Content, &batch.decoder_input_ids, &sentence, 2);
        let decoder = layer(&parameters, "decoder.", pool(&batch), [16, 17, 18]);
        let decoded = decoder.forward(&query, &content).output;

        let result = step(&config, &parameters, &batch, Some((77, 3)));
        assert_eq!(result.encoder_hidden, hidden);
        assert_eq!(result.sentence_embeddings, sentence);
        assert_eq!(result.decoder_hidden, decoded);
    }
}
