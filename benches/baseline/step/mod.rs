//! An unfused training step: encoder, enhanced decoder with embedded queries, both losses, the gradient of every parameter, clipping and AdamW.
//!
//! Work that eager mode would add is left out, which makes the baseline faster, not slower: matmuls accumulate gradients themselves, the optimizer
//! works on one arena, and masks are made beforehand.

mod arena;
mod embedding;
mod head;
mod layer;

use retromae::device::{Buffer, ModelFloat, Stream};
use retromae::model::{AdamW, Batch, MaskPool, ModelConfig, dropout_site};
use retromae::ops::Result;
use retromae::ops::rows::{Gather, ScatterAdd, gather, scatter_add};

use super::attention::{Attention, Shape};
use super::{Dropout, embedding as table, passes};
use arena::Arena;
use embedding::Embedding;
use head::Head;
use layer::{Layer, Scratch};

const WORD: &str = "bert.embeddings.word_embeddings.weight";

/// Packed token ids and index arrays.
struct Packed {
    encoder_ids: Buffer<i32>,
    decoder_ids: Buffer<i32>,
    /// `[T]`: position in the sentence
    positions: Buffer<i32>,
    /// `[T]`
    sentence_of: Buffer<i32>,
    /// `[B]`: row of position 0
    first_rows: Buffer<i32>,
    /// `[T]`: the row's own index, none at position 0
    other_rows: Buffer<i32>,
    /// `[B]`: 0, 1, …
    sentences: Buffer<i32>,
}

impl Packed {
    fn new(stream: &Stream, batch: &Batch) -> Result<Self> {
        let device = stream.device();
        let sentences = || (0..batch.num_sentences()).map(|b| (b as i32, batch.sentence(b)));
        let positions: Vec<i32> = sentences().flat_map(|(_, tokens)| 0..tokens.len() as i32).collect();
        let others = |(token, &position): (usize, &i32)| if position == 0 { -1 } else { token as i32 };
        let sentence_of: Vec<i32> = sentences().flat_map(|(b, tokens)| tokens.map(move |_| b)).collect();
        let first_rows: Vec<i32> = sentences().map(|(_, tokens)| tokens.start as i32).collect();
        Ok(Self {
            encoder_ids: device.upload(&batch.encoder_input_ids)?,
            decoder_ids: device.upload(&batch.decoder_input_ids)?,
            other_rows: device.upload(&positions.iter().enumerate().map(others).collect::<Vec<_>>())?,
            positions: device.upload(&positions)?,
            sentence_of: device.upload(&sentence_of)?,
            first_rows: device.upload(&first_rows)?,
            sentences: device.upload(&sentences().map(|(b, _)| b).collect::<Vec<_>>())?,
        })
    }
}

/// Inputs of a step, beside the parameters. Dropout is that of the first step of seed 1.
pub struct Setting<'a> {
    pub config: &'a ModelConfig,
    pub batch: &'a Batch,
    pub pool: &'a MaskPool,
    pub optimizer: &'a AdamW,
    pub learning_rate: f64,
}

/// The model with its activations, and the batch.
pub struct Step<T: ModelFloat> {
    arena: Arena<T>,
    packed: Packed,
    columns: usize,
    embedding: Embedding<T>,
    query: Embedding<T>,
    content: Embedding<T>,
    /// `[T, H]`: the embedded content; position 0 holds the sentence's vector
    content_stream: Buffer<T>,
    /// `[B, H]`
    sentence_vectors: Buffer<T>,
    layers: Vec<Layer<T>>,
    decoder: Layer<T>,
    encoder_head: Head<T>,
    decoder_head: Head<T>,
    scratch: Scratch<T>,
    /// `[T, H]` each: gradients passed down through the layers
    d_hidden: Buffer<T>,
    d_query: Buffer<T>,
    d_content: Buffer<T>,
    d_decoder: Buffer<T>,
    /// `[B, H]`
    d_sentence: Buffer<f32>,
    d_sentence_rounded: Buffer<T>,
}

impl<T: ModelFloat> Step<T> {
    /// Prepares the step for parameters given by their shapes and values.
    pub fn new(
        stream: &Stream,
        setting: &Setting<'_>,
        shapes: &[(String, Vec<usize>)],
        values: impl Fn(&str) -> Result<Vec<f32>>,
    ) -> Result<Self> {
        let Setting { config, batch, pool, optimizer, learning_rate } = *setting;
        let device = stream.device();
        let arena = Arena::new(stream, shapes, values, (optimizer, learning_rate))?;
        let (tokens, columns) = (batch.num_tokens(), config.hidden_size);
        let matrix = || device.zeros(tokens * columns);
        let place = |rate: f32, elements, site| {
            (rate > 0.0).then(|| Dropout::new(stream, elements, rate, site)).transpose()
        };
        let hidden = |site| place(config.hidden_dropout_prob, tokens * columns, site);
        let embedding = |site| Embedding::new(stream, tokens, columns, hidden(site)?, config.layer_norm_eps);
        let lengths: Vec<usize> = (0..batch.num_sentences()).map(|b| batch.sentence(b).len()).collect();
        let layer = |name: String, index, pool: Option<&MaskPool>| {
            let shape = Shape {
                lengths: lengths.clone(),
                num_heads: config.num_attention_heads,
                head_dim: config.head_dim(),
            };
            let site = dropout_site::attention_probabilities(index);
            let dropout = place(config.attention_probs_dropout_prob, shape.score_elements(), site)?;
            let dropouts = [
                hidden(dropout_site::attention_output(index))?,
                hidden(dropout_site::feed_forward_output(index))?,
            ];
            let attention = Attention::new(stream, shape, pool, dropout)?;
            Layer::new(stream, name, config, tokens, attention, dropouts)
        };
        let encoder = (0..config.num_hidden_layers)
            .map(|index| layer(format!("bert.encoder.layer.{index}"), index, None));
        Ok(Self {
            packed: Packed::new(stream, batch)?,
            columns,
            embedding: embedding(dropout_site::ENCODER_EMBEDDING)?,
            query: embedding(dropout_site::DECODER_QUERY)?,
            content: embedding(dropout_site::DECODER_CONTENT)?,
            content_stream: matrix()?,
            sentence_vectors: device.zeros(lengths.len() * columns)?,
            layers: encoder.collect::<Result<_>>()?,
            decoder: layer("decoder".into(), config.num_hidden_layers, Some(pool))?,
            encoder_head: Head::new(stream, config, &arena, &batch.encoder_labels)?,
            decoder_head: Head::new(stream, config, &arena, &batch.decoder_labels)?,
            scratch: Scratch::new(stream, config, tokens)?,
            d_hidden: matrix()?,
            d_query: matrix()?,
            d_content: matrix()?,
            d_decoder: matrix()?,
            d_sentence: device.zeros(lengths.len() * columns)?,
            d_sentence_rounded: device.zeros(lengths.len() * columns)?,
            arena,
        })
    }

    /// Enqueues forward and backward pass.
    pub fn run(&mut self, stream: &Stream) -> Result<()> {
        self.arena.zero_gradients(stream)?;
        self.encode(stream)?;
        self.decode(stream)?;
        stream.zero(self.d_hidden.view_mut())?;
        let hidden = self.layers.last().expect("an encoder has layers").output();
        self.encoder_head.run(stream, &mut self.arena, hidden, &mut self.d_hidden)?;
        self.decode_backward(stream)?;
        let gradient = ScatterAdd {
            input: self.d_sentence_rounded.view().rows_of(self.columns)?,
            rows: self.packed.first_rows.view(),
            output: self.d_hidden.view_mut().rows_of(self.columns)?,
        };
        scatter_add(stream, gradient)?;
        self.encode_backward(stream)
    }

    /// Enqueues clipping and AdamW, with the learning rate and the corrections of the first update: their values do not affect the time.
    pub fn update(&mut self, stream: &Stream) -> Result<()> {
        self.arena.update(stream)
    }

    /// Losses of the latest step: encoder, decoder.
    pub fn losses(&self) -> Result<[f32; 2]> {
        Ok([self.encoder_head.loss()?, self.decoder_head.loss()?])
    }

    /// Master values of a parameter.
    pub fn parameter(&self, name: &str) -> Result<Vec<f32>> {
        self.arena.read_parameter(name)
    }

    /// Gradient of a parameter in the latest step.
    pub fn gradient(&self, name: &str) -> Result<Vec<f32>> {
        self.arena.read_gradient(name)
    }

    fn encode(&mut self, stream: &Stream) -> Result<()> {
        let words = (self.arena.compute(WORD), self.packed.encoder_ids.view());
        self.embedding.forward(stream, &self.arena, words, self.packed.positions.view())?;
        for index in 0..self.layers.len() {
            let (done, rest) = self.layers.split_at_mut(index);
            let input = done.last().map_or(self.embedding.output(), Layer::output);
            rest[0].forward(stream, &self.arena, input, input)?;
        }
        let vectors = Gather {
            input: self.layers.last().map_or(self.embedding.output(), Layer::output).rows_of(self.columns)?,
            rows: self.packed.first_rows.view(),
            output: self.sentence_vectors.view_mut().rows_of(self.columns)?,
        };
        gather(stream, vectors)
    }

    fn encode_backward(&mut self, stream: &Stream) -> Result<()> {
        for index in (0..self.layers.len()).rev() {
            let (done, rest) = self.layers.split_at_mut(index);
            let input = done.last().map_or(self.embedding.output(), Layer::output);
            let outputs = [&mut self.d_query, &mut self.d_content];
            let d_output = self.d_hidden.view();
            rest[0].backward(stream, &mut self.arena, &mut self.scratch, [input; 2], d_output, outputs)?;
            passes::add_to(stream, self.d_query.view_mut(), self.d_content.view())?;
            std::mem::swap(&mut self.d_hidden, &mut self.d_query);
        }
        let positions = self.packed.positions.view();
        let d_words = self.embedding.backward(stream, &mut self.arena, self.d_hidden.view(), positions)?;
        let ids = self.packed.encoder_ids.view();
        table::backward(stream, d_words, ids, self.arena.gradient(WORD), self.columns)
    }

    fn decode(&mut self, stream: &Stream) -> Result<()> {
        let positions = self.packed.positions.view();
        let sentences = (self.sentence_vectors.view(), self.packed.sentence_of.view());
        self.query.forward(stream, &self.arena, sentences, positions)?;
        let words = (self.arena.compute(WORD), self.packed.decoder_ids.view());
        self.content.forward(stream, &self.arena, words, positions)?;
        let others = Gather {
            input: self.content.output().rows_of(self.columns)?,
            rows: self.packed.other_rows.view(),
            output: self.content_stream.view_mut().rows_of(self.columns)?,
        };
        gather(stream, others)?;
        let vectors = ScatterAdd {
            input: self.sentence_vectors.view().rows_of(self.columns)?,
            rows: self.packed.first_rows.view(),
            output: self.content_stream.view_mut().rows_of(self.columns)?,
        };
        scatter_add(stream, vectors)?;
        self.decoder.forward(stream, &self.arena, self.query.output(), self.content_stream.view())
    }

    /// Leaves the gradient of the sentence vectors in `d_sentence_rounded`; does not touch `d_hidden`.
    fn decode_backward(&mut self, stream: &Stream) -> Result<()> {
        let Self { arena, packed, columns, scratch, d_query, d_content, d_decoder, d_sentence, .. } = self;
        stream.zero(d_decoder.view_mut())?;
        self.decoder_head.run(stream, arena, self.decoder.output(), d_decoder)?;
        let streams = [self.query.output(), self.content_stream.view()];
        let d_output = d_decoder.view();
        self.decoder.backward(stream, arena, scratch, streams, d_output, [d_query, d_content])?;
        stream.zero(d_sentence.view_mut())?;
        let first = Gather {
            input: d_content.view().rows_of(*columns)?,
            rows: packed.first_rows.view(),
            output: self.d_sentence_rounded.view_mut().rows_of(*columns)?,
        };
        gather(stream, first)?;
        let (d_first, indices) = (self.d_sentence_rounded.view(), packed.sentences.view());
        table::backward(stream, d_first, indices, d_sentence.view_mut(), *columns)?;
        let others = Gather {
            input: d_content.view().rows_of(*columns)?,
            rows: packed.other_rows.view(),
            output: d_decoder.view_mut().rows_of(*columns)?,
        };
        gather(stream, others)?;
        let positions = packed.positions.view();
        let d_words = self.content.backward(stream, arena, d_decoder.view(), positions)?;
        table::backward(stream, d_words, packed.decoder_ids.view(), arena.gradient(WORD), *columns)?;
        let d_vectors = self.query.backward(stream, arena, d_query.view(), positions)?;
        table::backward(stream, d_vectors, packed.sentence_of.view(), d_sentence.view_mut(), *columns)?;
        passes::narrow(stream, d_sentence.view(), self.d_sentence_rounded.view_mut())
    }
}
