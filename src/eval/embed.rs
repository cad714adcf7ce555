//! Sentence vectors of texts, in packed batches.

use super::{HeldOut, RetrievalScore, rank_dense};
use crate::data::{self, Tokenizer};
use crate::device::{ModelFloat, Stream};
use crate::model::{Capacity, Model};
use crate::ops;

/// An error of [`embed_texts`] or [`retrieval_score`].
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    #[error(transparent)]
    Text(#[from] data::Error),
    #[error(transparent)]
    Operation(#[from] ops::Error),
    #[error(transparent)]
    Ranking(#[from] super::Error),
}

/// `[N, H]` the vector of each text, in order; what is beyond `capacity.sentence_length` tokens is cut off.
///
/// As many texts as `capacity` has room for go to the device at once; `model` must have been made with it.
///
/// # Errors
/// [`EmbedError::Text`], [`EmbedError::Operation`].
pub fn embed_texts<T: ModelFloat, S: AsRef<str>>(
    model: &mut Model<T>,
    stream: &Stream,
    tokenizer: &Tokenizer,
    capacity: Capacity,
    texts: &[S],
) -> Result<Vec<f32>, EmbedError> {
    let mut vectors = Vec::with_capacity(texts.len() * model.config().hidden_size);
    let mut cu_seqlens = vec![0];
    let mut ids: Vec<i32> = Vec::with_capacity(capacity.tokens);
    for text in texts {
        let passage = tokenizer.encode(text.as_ref(), capacity.sentence_length)?;
        if ids.len() + passage.len() > capacity.tokens || cu_seqlens.len() > capacity.sentences {
            vectors.extend(model.embed(stream, &cu_seqlens, &ids)?);
            cu_seqlens.truncate(1);
            ids.clear();
        }
        ids.extend(passage.iter().map(|&id| id as i32));
        cu_seqlens.push(ids.len() as i32);
    }
    if !ids.is_empty() {
        vectors.extend(model.embed(stream, &cu_seqlens, &ids)?);
    }
    Ok(vectors)
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

/// How well the model finds each held-out passage by the cosine.
///
/// # Errors
/// [`EmbedError`].
pub fn retrieval_score<T: ModelFloat>(
    model: &mut Model<T>,
    stream: &Stream,
    tokenizer: &Tokenizer,
    capacity: Capacity,
    held_out: &[HeldOut],
) -> Result<RetrievalScore, EmbedError> {
    let dim = model.config().hidden_size;
    let mut vectors_of = |part: fn(&HeldOut) -> &str| -> Result<Vec<f32>, EmbedError> {
        let texts: Vec<&str> = held_out.iter().map(part).collect();
        let mut vectors = embed_texts(model, stream, tokenizer, capacity, &texts)?;
        normalize_rows(&mut vectors, dim);
        Ok(vectors)
    };
    let queries = vectors_of(|pair| &pair.query)?;
    let documents = vectors_of(|pair| &pair.document)?;
    Ok(RetrievalScore::from_ranks(&rank_dense(&queries, &documents, dim)?))
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
