//! The four embeddings of RetroMAE: of tokens, and of the decoder's content and query streams.

use super::layer_norm;
use super::tensor::{add_to, keep_factor, sentences};
use crate::common::random::Dropout;

/// Sum that a packed row is computed from; `h` is the sentence's vector, `p` the position in the sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmbeddingMode {
    /// `dropout(LN(word[id] + position[p] + type[0]))`: the encoder's input.
    Word,
    /// As [`Word`](Self::Word), but position 0 is `h` itself, neither normalized nor dropped: the decoder's content.
    Content,
    /// `dropout(LN(h + position[p] + type[0]))`: the decoder's query, `retromae_query = "embedding"`.
    QueryEmbedding,
    /// `h + position[p]`: the decoder's query, `retromae_query = "position"`.
    QueryPosition,
}

/// One embedding of a packed batch of sentences.
#[derive(Clone, Copy)]
pub struct Embedding<'a> {
    /// Sum of each row.
    pub mode: EmbeddingMode,
    /// `[B + 1]` prefix sums of the sentence lengths.
    pub cu_seqlens: &'a [i32],
    /// `[T]`; not read by the query modes, nor at position 0 by [`EmbeddingMode::Content`].
    pub ids: &'a [i32],
    /// `[V, H]`.
    pub word: &'a [f64],
    /// `[max_position, H]`.
    pub position: &'a [f64],
    /// `[type_vocab, H]`; only row 0 is used.
    pub token_type: &'a [f64],
    /// `[H]`.
    pub gamma: &'a [f64],
    /// `[H]`.
    pub beta: &'a [f64],
    /// Term added to the variance.
    pub eps: f64,
    /// `[B, H]`; not read by [`EmbeddingMode::Word`], for which it may be an empty slice.
    pub sentence: &'a [f64],
    /// Row = packed token, column = hidden column, head 0.
    pub dropout: Option<&'a Dropout>,
}

/// Gradients of [`forward`], each with the shape of the tensor in [`Embedding`].
pub struct Gradients {
    /// `[V, H]`; zero in the query modes.
    pub word: Vec<f64>,
    /// `[max_position, H]`
    pub position: Vec<f64>,
    /// `[type_vocab, H]`; zero but for row 0.
    pub token_type: Vec<f64>,
    /// `[H]`; zero in [`EmbeddingMode::QueryPosition`].
    pub gamma: Vec<f64>,
    /// `[H]`; zero in [`EmbeddingMode::QueryPosition`].
    pub beta: Vec<f64>,
    /// `[B, H]`; empty where [`Embedding::sentence`] is.
    pub sentence: Vec<f64>,
}

/// Returns the embedded batch, `[T, H]`.
#[must_use]
pub fn forward(embedding: &Embedding) -> Vec<f64> {
    let mut out = Vec::new();
    for token in embedding.tokens() {
        let sum = embedding.sum(token);
        if !embedding.normalizes(token) {
            out.extend(sum);
            continue;
        }
        let normalized = layer_norm::forward(&sum, embedding.gamma, embedding.beta, embedding.eps);
        let drop = |(column, x)| keep_factor(embedding.dropout, token.index, column) * x;
        out.extend(normalized.into_iter().enumerate().map(drop));
    }
    out
}

/// Gradients of [`forward`] under `d_out [T, H]`.
#[must_use]
pub fn backward(embedding: &Embedding, d_out: &[f64]) -> Gradients {
    let mut gradients = Gradients {
        word: vec![0.0; embedding.word.len()],
        position: vec![0.0; embedding.position.len()],
        token_type: vec![0.0; embedding.token_type.len()],
        gamma: vec![0.0; embedding.gamma.len()],
        beta: vec![0.0; embedding.beta.len()],
        sentence: vec![0.0; embedding.sentence.len()],
    };
    for (token, d_row) in embedding.tokens().zip(d_out.chunks_exact(embedding.gamma.len())) {
        if !embedding.normalizes(token) {
            embedding.scatter(token, d_row, &mut gradients);
            continue;
        }
        let drop = |(column, d)| keep_factor(embedding.dropout, token.index, column) * d;
        let d_row: Vec<f64> = d_row.iter().enumerate().map(drop).collect();
        let (d_sum, d_gamma, d_beta) =
            layer_norm::backward(&embedding.sum(token), embedding.gamma, embedding.eps, &d_row);
        add_to(&mut gradients.gamma, &d_gamma);
        add_to(&mut gradients.beta, &d_beta);
        embedding.scatter(token, &d_sum, &mut gradients);
    }
    gradients
}

/// One packed token.
#[derive(Clone, Copy)]
struct Token {
    sentence_index: usize,
    position: usize,
    index: usize,
}

/// Table rows that are summed for one token.
#[derive(Default)]
struct Rows {
    word: Option<usize>,
    position: Option<usize>,
    token_type: Option<usize>,
    sentence: Option<usize>,
}

impl Embedding<'_> {
    fn tokens(&self) -> impl Iterator<Item = Token> + '_ {
        sentences(self.cu_seqlens).enumerate().flat_map(|(sentence_index, tokens)| {
            let start = tokens.start;
            tokens.map(move |index| Token { sentence_index, position: index - start, index })
        })
    }

    fn is_raw_sentence(&self, token: Token) -> bool {
        self.mode == EmbeddingMode::Content && token.position == 0
    }

    /// Returns whether LayerNorm and dropout follow the sum.
    fn normalizes(&self, token: Token) -> bool {
        self.mode != EmbeddingMode::QueryPosition && !self.is_raw_sentence(token)
    }

    fn rows(&self, token: Token) -> Rows {
        let (sentence, position) = (Some(token.sentence_index), Some(token.position));
        if self.is_raw_sentence(token) {
            return Rows { sentence, ..Rows::default() };
        }
        match self.mode {
            EmbeddingMode::Word | EmbeddingMode::Content => {
                let word = Some(self.ids[token.index] as usize);
                Rows { word, position, token_type: Some(0), sentence: None }
            }
            EmbeddingMode::QueryEmbedding => Rows { word: None, position, token_type: Some(0), sentence },
            EmbeddingMode::QueryPosition => Rows { word: None, position, token_type: None, sentence },
        }
    }

    /// Returns the input of LayerNorm, or the output itself where nothing is normalized.
    fn sum(&self, token: Token) -> Vec<f64> {
        let mut sum = vec![0.0; self.gamma.len()];
        let rows = self.rows(token);
        let tables = [
            (rows.word, self.word),
            (rows.position, self.position),
            (rows.token_type, self.token_type),
            (rows.sentence, self.sentence),
        ];
        for (row, table) in tables {
            if let Some(row) = row {
                add_to(&mut sum, &table[row * self.gamma.len()..][..self.gamma.len()]);
            }
        }
        sum
    }

    /// Adds the gradient of [`Self::sum`] to every table row in the sum.
    fn scatter(&self, token: Token, d_sum: &[f64], gradients: &mut Gradients) {
        let rows = self.rows(token);
        let tables = [
            (rows.word, &mut gradients.word),
            (rows.position, &mut gradients.position),
            (rows.token_type, &mut gradients.token_type),
            (rows.sentence, &mut gradients.sentence),
        ];
        for (row, table) in tables {
            if let Some(row) = row {
                add_to(&mut table[row * d_sum.len()..][..d_sum.len()], d_sum);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two sentences of 2 and 1 tokens, H = 2.
    const BASE: Embedding = Embedding {
        mode: EmbeddingMode::QueryPosition,
        cu_seqlens: &[0, 2, 3],
        ids: &[1, 0, 1],
        word: &[10.0, 12.0, 20.0, 30.0],
        position: &[0.5, 0.25, 4.0, 1.0],
        token_type: &[1.0, 1.0, 99.0, 99.0],
        gamma: &[1.0, 2.0],
        beta: &[0.0, 0.5],
        eps: 0.0,
        sentence: &[100.0, 200.0, -1.0, -2.0],
        dropout: None,
    };

    #[test]
    fn query_position_is_the_plain_sum() {
        assert_eq!(forward(&BASE), [100.5, 200.25, 104.0, 201.0, -0.5, -1.75]);
    }

    #[test]
    fn content_replaces_position_zero_by_the_raw_sentence_vector() {
        // A threshold of 255 drops nearly everything that dropout touches; position 0 must survive.
        let dropout = Dropout { seed: 1, step: 0, site: 2, threshold: 255 };
        let content = Embedding { mode: EmbeddingMode::Content, ..BASE };
        let dropped = Embedding { dropout: Some(&dropout), ..content };
        assert_eq!(forward(&content), [100.0, 200.0, 1.0, -1.5, -1.0, -2.0]);
        assert_eq!(forward(&dropped)[..2], [100.0, 200.0]);
        assert_eq!(forward(&dropped)[4..], [-1.0, -2.0]);
    }

    #[test]
    fn word_and_query_embedding_are_normalized() {
        let word = Embedding { mode: EmbeddingMode::Word, sentence: &[], ..BASE };
        assert_eq!(forward(&word), [-1.0, 2.5, 1.0, -1.5, -1.0, 2.5]);
        let query = Embedding { mode: EmbeddingMode::QueryEmbedding, ids: &[], ..BASE };
        assert_eq!(forward(&query), [-1.0, 2.5, -1.0, 2.5, 1.0, -1.5]);
    }
}
