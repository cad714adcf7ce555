//! Sentence vectors of texts, in packed batches.

use super::{HeldOut, RetrievalScore, rank_dense};
use crate::data::{self, Tokenizer};
use crate::device::{ModelFloat, Stream};
use crate::model::{Model, Pooling};
use crate::ops;

/// Maximum number of characters of a text that an error message quotes.
const QUOTED_CHARS: usize = 60;

/// An error of [`Embedder`].
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A text cannot be tokenized.
    #[error(transparent)]
    Text(#[from] data::Error),
    /// An error of the device or of an operation.
    #[error(transparent)]
    Operation(#[from] ops::Error),
    /// The vectors cannot be ranked.
    #[error(transparent)]
    Ranking(#[from] super::Error),
    /// A vector has an infinite value or NaN.
    #[error(
        "the vector of the text {text:?} has a value that is {value}; every one should be finite, so the model's weights are too large"
    )]
    NonFinite {
        /// Beginning of the text.
        text: String,
        /// The first such value.
        value: f32,
    },
    /// [`Embedder::stop`] ended the embedding early.
    #[error("stopped before all texts were embedded, as was asked for")]
    Stopped,
}

/// Turns texts into vectors.
pub struct Embedder<'a, T: ModelFloat> {
    /// Model whose encoder embeds; its capacity bounds a text and a batch.
    pub model: &'a mut Model<T>,
    /// Stream of the model's device.
    pub stream: &'a Stream,
    /// Tokenizer that the model was trained with.
    pub tokenizer: &'a Tokenizer,
    /// Reduction of the hidden states of a text to one vector.
    pub pooling: Pooling,
    /// Callback before each batch; true ends the embedding early.
    pub stop: &'a mut dyn FnMut() -> bool,
}

impl<T: ModelFloat> Embedder<'_, T> {
    /// Returns the `[N, H]` vectors of the texts, in order; tokens beyond the model's longest sentence are cut off.
    ///
    /// Each device call embeds as many texts as the model's capacity holds.
    ///
    /// # Errors
    /// [`EmbedError::Text`], [`EmbedError::Operation`], [`EmbedError::NonFinite`]; [`EmbedError::Stopped`].
    pub fn embed<S: AsRef<str>>(&mut self, texts: &[S]) -> Result<Vec<f32>, EmbedError> {
        let capacity = self.model.capacity();
        let mut vectors = Vec::with_capacity(texts.len() * self.model.config().hidden_size);
        let mut cu_seqlens = vec![0];
        let mut ids: Vec<i32> = Vec::with_capacity(capacity.tokens);
        for text in texts {
            let passage = self.tokenizer.encode(text.as_ref(), capacity.sentence_length)?;
            if ids.len() + passage.len() > capacity.tokens || cu_seqlens.len() > capacity.sentences {
                vectors.extend(self.embed_batch(&cu_seqlens, &ids)?);
                cu_seqlens.truncate(1);
                ids.clear();
            }
            ids.extend(passage.iter().map(|&id| id as i32));
            cu_seqlens.push(ids.len() as i32);
        }
        if !ids.is_empty() {
            vectors.extend(self.embed_batch(&cu_seqlens, &ids)?);
        }
        let dim = self.model.config().hidden_size;
        match vectors.iter().position(|value| !value.is_finite()) {
            None => Ok(vectors),
            Some(at) => {
                let text = texts[at / dim].as_ref().chars().take(QUOTED_CHARS).collect();
                Err(EmbedError::NonFinite { text, value: vectors[at] })
            }
        }
    }

    fn embed_batch(&mut self, cu_seqlens: &[i32], ids: &[i32]) -> Result<Vec<f32>, EmbedError> {
        if (self.stop)() {
            return Err(EmbedError::Stopped);
        }
        Ok(self.model.embed_pooled(self.stream, cu_seqlens, ids, self.pooling)?)
    }

    /// Scores how well the model finds each held-out passage by cosine similarity.
    ///
    /// # Errors
    /// [`EmbedError`].
    pub fn retrieval_score(&mut self, held_out: &[HeldOut]) -> Result<RetrievalScore, EmbedError> {
        let dim = self.model.config().hidden_size;
        let mut vectors_of = |part: fn(&HeldOut) -> &str| -> Result<Vec<f32>, EmbedError> {
            let texts: Vec<&str> = held_out.iter().map(part).collect();
            let mut vectors = self.embed(&texts)?;
            normalize_rows(&mut vectors, dim);
            Ok(vectors)
        };
        let queries = vectors_of(|pair| &pair.query)?;
        let documents = vectors_of(|pair| &pair.document)?;
        Ok(RetrievalScore::from_ranks(&rank_dense(&queries, &documents, dim)?))
    }
}

/// Scales each row of `[N, dim]` to length 1; a row of zeros stays.
pub fn normalize_rows(vectors: &mut [f32], dim: usize) {
    for row in vectors.chunks_exact_mut(dim.max(1)) {
        let norm = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum::<f64>().sqrt();
        if norm > 0.0 {
            row.iter_mut().for_each(|value| *value = (f64::from(*value) / norm) as f32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::normalize_rows;

    #[test]
    fn rows_get_length_one() {
        let mut vectors = [3.0, 4.0, 0.0, 0.0, 0.0, -2.0];
        normalize_rows(&mut vectors, 2);
        assert_eq!(vectors, [0.6, 0.8, 0.0, 0.0, 0.0, -1.0]);
    }
}
