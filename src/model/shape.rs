//! Sizes that determine the launches of a step. Batches of one shape are computed by the very same launches, which can therefore be recorded
//! once and replayed.

use super::{Capacity, DecoderKind, IGNORE_INDEX, Input};
use crate::ops::Result;
use crate::ops::masks::labeled_offsets;

/// Sizes are rounded up to multiples of this fraction of the capacity, so that shapes recur: on average half such a fraction is padding.
const SHARES: usize = 16;

/// Maximum labeled rows of a batch, of encoder and decoder together.
pub(super) fn labeled_capacity(capacity: Capacity) -> usize {
    2 * capacity.tokens
}

/// Sizes of a batch as it is computed, padding included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct BatchShape {
    pub sentences: usize,
    pub tokens: usize,
    /// Length of the longest sentence, or more.
    pub max_seqlen: usize,
    /// Rows of the encoder with a loss.
    pub encoder_labeled: usize,
    pub decoder_labeled: usize,
}

fn longest(cu_seqlens: &[i32]) -> usize {
    cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) as usize
}

fn labeled(labels: &[i32]) -> usize {
    labels.iter().filter(|&&label| label != IGNORE_INDEX).count()
}

impl BatchShape {
    /// The shape of sentences for the encoder alone.
    pub(super) fn of_sentences(cu_seqlens: &[i32]) -> Self {
        Self {
            sentences: cu_seqlens.len() - 1,
            tokens: cu_seqlens[cu_seqlens.len() - 1] as usize,
            max_seqlen: longest(cu_seqlens),
            encoder_labeled: 0,
            decoder_labeled: 0,
        }
    }

    /// The shape of an input without padding. For sampled masks it has the maximum number of labels that they can choose.
    pub(super) fn exact(input: Input<'_>, decoder: DecoderKind) -> Result<Self> {
        let of_sentences = Self::of_sentences(input.cu_seqlens());
        let (encoder_labeled, decoder_labeled) = match input {
            Input::Explicit(batch) => (labeled(&batch.encoder_labels), labeled(&batch.decoder_labels)),
            Input::Sampled(sentences, masking) => {
                let cu_seqlens = &sentences.cu_seqlens;
                let chosen = |count_limit| -> Result<_> {
                    Ok(labeled_offsets(cu_seqlens, count_limit)?[of_sentences.sentences] as usize)
                };
                let decoder = match decoder {
                    DecoderKind::Basic => chosen(masking.decoder)?,
                    DecoderKind::Enhanced => {
                        let inner = |pair: &[i32]| (pair[1] - pair[0] - 2).max(0) as usize;
                        cu_seqlens.windows(2).map(inner).sum()
                    }
                };
                (chosen(masking.encoder)?, decoder)
            }
        };
        Ok(Self { encoder_labeled, decoder_labeled, ..of_sentences })
    }

    /// The recurring shape that an input of this one is padded to, with unlabeled sentences, empty sentences and ignored labeled rows.
    pub(super) fn recurring(self, capacity: Capacity) -> Self {
        let exact = self;
        let up =
            |size: usize, capacity: usize| size.next_multiple_of(capacity.div_ceil(SHARES)).min(capacity);
        let tokens = up(exact.tokens, capacity.tokens);
        let filling = (tokens - exact.tokens).div_ceil(capacity.sentence_length);
        // If the capacity has no room for the padding sentences, the tokens are not padded.
        let (tokens, filling) = if exact.sentences + filling > capacity.sentences {
            (exact.tokens, 0)
        } else {
            (tokens, filling)
        };
        Self {
            sentences: up(exact.sentences + filling, capacity.sentences),
            tokens,
            // Never more than the tokens.
            max_seqlen: capacity.sentence_length.min(tokens),
            encoder_labeled: up(exact.encoder_labeled, capacity.tokens),
            decoder_labeled: up(exact.decoder_labeled, capacity.tokens),
        }
    }

    /// Prefix sums of the batch's sentences and of the padding sentences: first those with tokens, then the empty ones.
    pub(super) fn cu_seqlens(&self, cu_seqlens: &[i32]) -> Vec<i32> {
        let mut sums = cu_seqlens.to_vec();
        while sums.len() <= self.sentences {
            let last = sums[sums.len() - 1];
            sums.push(last + (self.tokens as i32 - last).min(self.max_seqlen as i32));
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Batch, ModelConfig};

    fn batch(lengths: &[i32]) -> Batch {
        let mut cu_seqlens = vec![0];
        lengths.iter().for_each(|length| cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + length));
        let tokens = cu_seqlens[lengths.len()] as usize;
        let label = |every: usize| {
            (0..tokens).map(|t| if t % every == 0 { 1 } else { IGNORE_INDEX }).collect::<Vec<i32>>()
        };
        Batch { cu_seqlens, encoder_labels: label(3), decoder_labels: label(1), ..Batch::default() }
    }

    /// The recurring shape of any batch has room for it, fits the capacity, and can be reached by padding.
    #[test]
    fn a_recurring_shape_holds_its_batch() {
        let config = ModelConfig::tiny(1000);
        let capacity = Capacity { tokens: 1000, sentences: 33, sentence_length: 96 };
        let mut shapes = std::collections::HashSet::new();
        for lengths in
            [vec![1], vec![96; 10], vec![30; 33], vec![7; 30], vec![1; 33], vec![96; 9], vec![95; 9]]
        {
            let batch = batch(&lengths);
            let exact = BatchShape::exact(Input::Explicit(&batch), config.decoder).unwrap();
            let shape = exact.recurring(capacity);
            assert!(shape.tokens >= exact.tokens && shape.tokens <= capacity.tokens);
            assert!(shape.sentences >= exact.sentences && shape.sentences <= capacity.sentences);
            assert!(shape.encoder_labeled >= exact.encoder_labeled);
            assert!(shape.decoder_labeled >= exact.decoder_labeled);
            assert!(shape.encoder_labeled + shape.decoder_labeled <= labeled_capacity(capacity));
            let sums = shape.cu_seqlens(&batch.cu_seqlens);
            assert_eq!(sums.len(), shape.sentences + 1);
            assert_eq!(sums[shape.sentences] as usize, shape.tokens);
            assert!(longest(&sums) <= shape.max_seqlen);
            shapes.insert(shape);
        }
        // 864 and 855 tokens in 9 sentences are one shape.
        assert_eq!(shapes.len(), 6);
    }
}
