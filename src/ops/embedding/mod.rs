//! The embeddings of the encoder's tokens and of the decoder's content and query streams (RetroMAE, arXiv 2205.12035,
//! sections 3.1 to 3.3). [`backward`] adds all of their gradients in one call; [`sum`] is its first step.

mod backward;
pub mod sum;

pub use backward::{Backward, TableGradient, TableGradients, backward, workspace};

use super::Result;
use super::dropout::{Dropout, dropout_params};
use super::error::{aligned, contiguous, require, require_eps, require_length, require_rows, require_shape};
use super::layer_norm::require_row_shape;
use crate::device::params::{
    EMBEDDING_CONTENT, EMBEDDING_QUERY, EMBEDDING_QUERY_POSITION, EMBEDDING_WORD, EmbeddingForwardParams,
};
use crate::device::{Matrix, MatrixMut, ModelFloat, Stream, View, ViewMut, kernels};

/// Word ids and embeddings of a packed batch.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a, T: ModelFloat> {
    /// `[tokens]`: rows of `table`
    pub ids: View<'a, i32>,
    /// `[vocabulary, columns]`
    pub table: Matrix<'a, T>,
}

/// Sentence vectors of a packed batch.
#[derive(Clone, Copy, Debug)]
pub struct Sentences<'a, T: ModelFloat> {
    /// `[tokens]`: the sentence of each token, a row of `vectors`
    pub indices: View<'a, i32>,
    /// `[sentences, columns]`
    pub vectors: Matrix<'a, T>,
}

/// Sum that a row is computed from; `p` is the token's position in its sentence.
#[derive(Clone, Copy, Debug)]
pub enum Source<'a, T: ModelFloat> {
    /// `dropout(LN(word[id] + position[p] + type[0]))`: the encoder's input.
    Word(Words<'a, T>),
    /// As [`Word`](Self::Word), but position 0 is the sentence vector itself: the enhanced decoder's content.
    Content(Words<'a, T>, Sentences<'a, T>),
    /// `dropout(LN(sentence + position[p] + type[0]))`: the decoder's query in the authors' later code.
    Query(Sentences<'a, T>),
    /// `sentence + position[p]`: the decoder's query in the paper. Types, gamma, beta and dropout are not used.
    QueryPosition(Sentences<'a, T>),
}

/// Inputs of both passes; matrices are contiguous, and all with columns are aligned to 16 bytes. A token whose id, position or sentence is no row of its table comes out as
/// NaN, and so do its gradients.
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'a, T: ModelFloat> {
    /// Sum that each token's row is computed from
    pub source: Source<'a, T>,
    /// `[tokens]`: position of each token in its sentence, a row of `position_table`
    pub positions: View<'a, i32>,
    /// `[positions, columns]`
    pub position_table: Matrix<'a, T>,
    /// `[types, columns]` with at least one row; only row 0 is used
    pub token_type_table: Matrix<'a, T>,
    /// `[columns]`
    pub gamma: View<'a, f32>,
    /// `[columns]`
    pub beta: View<'a, f32>,
    /// Added to the variance under the root; positive and finite. BERT's is `1e-12`.
    pub eps: f32,
    /// Dropout of the normalized rows; `None` drops nothing. Dropout element: row = packed token, column = hidden column, head 0.
    pub dropout: Option<Dropout<'a>>,
}

/// Arguments of [`forward`].
#[derive(Debug)]
pub struct Forward<'a, T: ModelFloat> {
    /// Inputs of both passes
    pub embedding: Embedding<'a, T>,
    /// `[tokens, columns]`, columns a multiple of 8 of at most [`COLUMNS_MAX`](super::layer_norm::COLUMNS_MAX)
    pub output: MatrixMut<'a, T>,
    /// `[tokens]`, for the backward pass; not written where nothing is normalized
    pub mean: ViewMut<'a, f32>,
    /// `[tokens]`, as `mean`
    pub rstd: ViewMut<'a, f32>,
}

/// Enqueues the embedding of every token.
///
/// # Errors
/// When `columns` is not a multiple of 8 or above the limit, or a shape, a stride, an alignment, `eps` or the dropout rate does not fit.
pub fn forward<T: ModelFloat>(stream: &Stream, arguments: Forward<'_, T>) -> Result<()> {
    let Forward { embedding, output, mean, rstd } = arguments;
    let params = EmbeddingForwardParams {
        output: contiguous(stream, "output", &output)?,
        ..embedding.params(stream, require_row_shape("output", &output)?, [mean.as_view(), rstd.as_view()])?
    };
    // SAFETY: lengths were checked; the kernel checks ids and indices.
    unsafe { stream.launch(kernels::EMBEDDING_FORWARD.of(T::DTYPE)?, &params)? };
    Ok(())
}

impl<T: ModelFloat> Embedding<'_, T> {
    /// Returns the parameters without the output, which is `[tokens, columns]`.
    fn params(
        &self,
        stream: &Stream,
        [tokens, columns]: [usize; 2],
        [mean, rstd]: [View<'_, f32>; 2],
    ) -> Result<EmbeddingForwardParams> {
        require_length("gamma", self.gamma.len(), columns, "columns")?;
        require_length("beta", self.beta.len(), columns, "columns")?;
        require_length("positions", self.positions.len(), tokens, "tokens")?;
        require_length("mean", mean.len(), tokens, "tokens")?;
        require_length("rstd", rstd.len(), tokens, "tokens")?;
        require_eps(self.eps)?;
        // Refuses an empty table: a row of it is read in place of one that is out of range.
        let table_rows = |argument, table: &Matrix<'_, T>| -> Result<u32> {
            let [rows, _] = require_rows(argument, table)?;
            require_shape(argument, table, [rows as usize, columns], "rows, columns")?;
            require(rows > 0 || tokens == 0, argument, "empty", "of at least one row")?;
            Ok(rows)
        };
        table_rows("token_type_table", &self.token_type_table)?;
        let (mode, words, sentences) = match self.source {
            Source::Word(words) => (EMBEDDING_WORD, Some(words), None),
            Source::Content(words, sentences) => (EMBEDDING_CONTENT, Some(words), Some(sentences)),
            Source::Query(sentences) => (EMBEDDING_QUERY, None, Some(sentences)),
            Source::QueryPosition(sentences) => (EMBEDDING_QUERY_POSITION, None, Some(sentences)),
        };
        let mut params = EmbeddingForwardParams {
            positions: stream.address("positions", &self.positions)?,
            position_table: contiguous(stream, "position_table", &self.position_table)?,
            type_table: contiguous(stream, "token_type_table", &self.token_type_table)?,
            gamma: aligned(stream, "gamma", &self.gamma)?,
            beta: aligned(stream, "beta", &self.beta)?,
            mean: stream.address("mean", &mean)?,
            rstd: stream.address("rstd", &rstd)?,
            tokens: tokens as u32,
            columns: columns as u32,
            mode,
            eps: self.eps,
            max_positions: table_rows("position_table", &self.position_table)?,
            dropout: dropout_params(stream, self.dropout)?,
            ..EmbeddingForwardParams::default()
        };
        if let Some(Words { ids, table }) = words {
            require_length("ids", ids.len(), tokens, "tokens")?;
            params.vocabulary = table_rows("word_table", &table)?;
            (params.ids, params.word) =
                (stream.address("ids", &ids)?, contiguous(stream, "word_table", &table)?);
        }
        if let Some(Sentences { indices, vectors }) = sentences {
            require_length("sentence_indices", indices.len(), tokens, "tokens")?;
            params.vectors = table_rows("sentence_vectors", &vectors)?;
            (params.sentences, params.sentence_vectors) = (
                stream.address("sentence_indices", &indices)?,
                contiguous(stream, "sentence_vectors", &vectors)?,
            );
        }
        Ok(params)
    }
}
