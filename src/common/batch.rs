//! Input of one training step: packed sentences, and explicit batches that also hold everything hidden of them.

use super::IGNORE_INDEX;

/// Position-specific visibility for the enhanced decoder: for each sentence a pool of bit rows, and for each token the pool row that it uses.
///
/// Sentence `b` of `L` tokens has `rows_of(b)` bit rows of `ceil(L / 32)` 32-bit words each; bit `j % 32` of word `j / 32` is 1
/// when position `j` is visible. Whatever the bits say, a token never sees itself and every other token sees position 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskPool {
    /// 32-bit words of all bit rows, sentence after sentence.
    pub bits: Vec<u32>,
    /// `[B + 1]` offset of each sentence's first 32-bit word in `bits`.
    pub offsets: Vec<u32>,
    /// `[T]` pool row of each packed token, local to its sentence.
    pub rows: Vec<u16>,
}

/// Packed sentences before masking, for which the device samples a step's masks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedSentences {
    /// `[B]` indices of the sentences in the corpus: everything sampled for a sentence depends on its index, not on its place in the batch.
    pub sentence_indices: Vec<u32>,
    /// `[B + 1]` prefix sums of the sentence lengths, from 0.
    pub cu_seqlens: Vec<i32>,
    /// `[T]` token ids; the first and the last token of a sentence, `[CLS]` and `[SEP]`, are never hidden.
    pub ids: Vec<i32>,
    /// `[ceil(T / 32)]` one bit a token, lowest first, 1 where a word starts ([`word_start_bits`](crate::ops::masks::word_start_bits)).
    pub word_starts: Vec<u32>,
}

/// One explicit batch: it gives everything that a training step samples at random.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// `[B + 1]` prefix sums of the sentence lengths, from 0.
    pub cu_seqlens: Vec<i32>,
    /// `[T]` encoder input: the corrupted ids.
    pub encoder_input_ids: Vec<i32>,
    /// `[T]` id to predict at each encoder position, [`IGNORE_INDEX`] where there is none.
    pub encoder_labels: Vec<i32>,
    /// `[T]` decoder content: the original ids (`enhanced`) or the masked ids (`basic`). Position 0 is not read.
    pub decoder_input_ids: Vec<i32>,
    /// `[T]` id to predict at each decoder position, [`IGNORE_INDEX`] where there is none.
    pub decoder_labels: Vec<i32>,
    /// Visibility of tokens; required by the enhanced decoder, ignored by the basic one.
    pub visibility: Option<MaskPool>,
}

impl Batch {
    /// Returns the number of sentences B.
    #[must_use]
    pub fn num_sentences(&self) -> usize {
        self.cu_seqlens.len().saturating_sub(1)
    }

    /// Returns the number of packed tokens T.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.cu_seqlens.last().map_or(0, |&total| total as usize)
    }

    /// Returns the packed token range of sentence `b`.
    #[must_use]
    pub fn sentence(&self, b: usize) -> std::ops::Range<usize> {
        self.cu_seqlens[b] as usize..self.cu_seqlens[b + 1] as usize
    }

    /// Returns the distinct ids of the tokens of sentence `b` as they were before corruption, ascending, without the first and the last token,
    /// `[CLS]` and `[SEP]`.
    #[must_use]
    pub fn bag_of_words(&self, b: usize) -> Vec<i32> {
        let original = |token: usize| match self.encoder_labels[token] {
            IGNORE_INDEX => self.encoder_input_ids[token],
            label => label,
        };
        bag_of_words(self.sentence(b).map(original).collect())
    }
}

/// Returns the distinct ids of a sentence, ascending, without the first and the last token.
pub(crate) fn bag_of_words(mut sentence: Vec<i32>) -> Vec<i32> {
    sentence.pop();
    let mut inner = sentence.split_off(sentence.len().min(1));
    inner.sort_unstable();
    inner.dedup();
    inner
}

impl PackedSentences {
    /// Returns the number of sentences B.
    #[must_use]
    pub fn num_sentences(&self) -> usize {
        self.sentence_indices.len()
    }

    /// Returns the number of packed tokens T.
    #[must_use]
    pub fn num_tokens(&self) -> usize {
        self.ids.len()
    }
}

impl MaskPool {
    /// Returns whether position `query` of a sentence sees position `key`: `query != key && (key == 0 || bit)`.
    ///
    /// `b` is the sentence, `start` its first packed token and `length` its number of tokens.
    #[must_use]
    pub fn visible(&self, b: usize, start: usize, length: usize, query: usize, key: usize) -> bool {
        let words_per_row = length.div_ceil(32);
        let row = usize::from(self.rows[start + query]);
        let word = self.bits[self.offsets[b] as usize + row * words_per_row + key / 32];
        query != key && (key == 0 || word >> (key % 32) & 1 == 1)
    }
}
