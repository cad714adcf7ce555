//! The one-layer decoder, forward and backward.

use super::blocks::{EmbeddingKind, EmbeddingTables, Embeddings, Layer, Streams};
use super::context::Context;
use super::hidden_gradients::HiddenGradients;
use super::parameter_table::ParameterTable;
use super::scratch::Scratch;
use super::{Capacity, DecoderKind, ModelConfig, QueryKind, dropout_site};
use crate::device::{Device, Matrix, ModelFloat};
use crate::ops::Result;
use crate::ops::attention::Mask;

/// Embeddings of the decoder's streams, and its layer.
#[derive(Debug)]
pub(super) struct Decoder<T: ModelFloat> {
    content: Embeddings<T>,
    /// `None` for the basic decoder, which has one stream
    query: Option<Embeddings<T>>,
    layer: Layer<T>,
}

impl<T: ModelFloat> Decoder<T> {
    /// Adds the layer's parameters to the table, their names beginning with `name`.
    pub(super) fn new(
        device: &Device,
        table: &mut ParameterTable,
        name: &str,
        sizes: (&ModelConfig, Capacity),
        tables: EmbeddingTables,
    ) -> Result<Self> {
        let (config, _) = sizes;
        let query = match (config.decoder, config.query) {
            (DecoderKind::Basic, _) => None,
            (DecoderKind::Enhanced, QueryKind::Embedding) => Some(EmbeddingKind::Query),
            (DecoderKind::Enhanced, QueryKind::Position) => Some(EmbeddingKind::QueryPosition),
        };
        let embeddings = |kind, site| Embeddings::new(device, tables, kind, sizes, site);
        Ok(Self {
            content: embeddings(EmbeddingKind::Content, dropout_site::DECODER_CONTENT)?,
            query: query.map(|kind| embeddings(kind, dropout_site::DECODER_QUERY)).transpose()?,
            layer: Layer::new(device, table, name, sizes, config.num_hidden_layers)?,
        })
    }

    /// `[T, H]` output of the last batch.
    pub(super) fn output(&self, rows: usize) -> Matrix<'_, T> {
        self.layer.output(rows)
    }

    /// Enqueues the forward pass from the sentence vectors, `[B, H]`.
    pub(super) fn forward(
        &mut self,
        context: &Context<'_, T>,
        vectors: Matrix<'_, T>,
        mask: Mask<'_>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        self.content.forward(context, Some(vectors))?;
        if let Some(query) = &mut self.query {
            query.forward(context, Some(vectors))?;
        }
        let streams = streams(&self.content, self.query.as_ref(), context.batch.tokens);
        self.layer.forward(context, streams, mask, scratch)
    }

    /// Enqueues the backward pass, from `gradients.decoder` to the parameters; adds the gradient of the sentence vectors to `gradients.encoder`.
    pub(super) fn backward(
        &self,
        context: &mut Context<'_, T>,
        vectors: Matrix<'_, T>,
        mask: Mask<'_>,
        gradients: &mut HiddenGradients<T>,
        scratch: &mut Scratch<T>,
    ) -> Result<()> {
        let tokens = context.batch.tokens;
        let HiddenGradients { encoder, decoder, content, query } = gradients;
        let streams = streams(&self.content, self.query.as_ref(), tokens);
        let d_content = self.query.is_some().then(|| content.rows_mut(tokens));
        let (d_output, d_query) = (decoder.rows(tokens), query.rows_mut(tokens));
        self.layer.backward(context, (streams, mask), d_output, d_query, d_content, scratch)?;
        let vectors = Some(vectors);
        let Some(query_embeddings) = &self.query else {
            let d_hidden = Some(encoder.rows_mut(tokens));
            return self.content.backward(context, vectors, query.rows(tokens), d_hidden);
        };
        let d_hidden = Some(encoder.rows_mut(tokens));
        self.content.backward(context, vectors, content.rows(tokens), d_hidden)?;
        let d_hidden = Some(encoder.rows_mut(tokens));
        query_embeddings.backward(context, vectors, query.rows(tokens), d_hidden)
    }
}

/// Inputs of the layer: one stream of content, or queries and content.
fn streams<'a, T: ModelFloat>(
    content: &'a Embeddings<T>,
    query: Option<&'a Embeddings<T>>,
    tokens: usize,
) -> Streams<'a, T> {
    let content = content.output(tokens);
    match query {
        None => Streams { query: content, content: None },
        Some(query) => Streams { query: query.output(tokens), content: Some(content) },
    }
}
