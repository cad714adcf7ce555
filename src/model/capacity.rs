//! The largest batch of a model.

use super::{Input, ModelConfig};
use crate::ops::{Result, attention, bag_of_words, masks, wrong};

/// The largest batch that a [`Model`](super::Model) has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Packed tokens T, in `1..=`[`TOKENS_MAX`](Self::TOKENS_MAX).
    pub tokens: usize,
    /// Sentences B, in `1..=`[`TOKENS_MAX`](Self::TOKENS_MAX); at most 65,535 with the bag-of-words head.
    pub sentences: usize,
    /// The longest sentence: at least 1, at most the model's `max_position_embeddings` and [`LENGTH_MAX`](attention::LENGTH_MAX). Masks are sampled
    /// for sentences of at most [`masks::LENGTH_MAX`].
    pub sentence_length: usize,
}

impl Capacity {
    /// Maximum tokens: with more, an attention launch could exceed 2^31 - 1 blocks.
    pub const TOKENS_MAX: usize = 1 << 24;

    /// Checks that a model of `config` can have this capacity.
    ///
    /// # Errors
    /// When a field is out of range; the error names the field, its value and the valid range.
    pub fn validate(&self, config: &ModelConfig) -> Result<()> {
        let Self { tokens, sentences, sentence_length } = *self;
        let sentences_max =
            if config.has_bag_of_words() { bag_of_words::SENTENCES_MAX } else { Self::TOKENS_MAX };
        let length_max = config.max_position_embeddings.min(attention::LENGTH_MAX);
        for (argument, value, max) in [
            ("tokens", tokens, Self::TOKENS_MAX),
            ("sentences", sentences, sentences_max),
            ("sentence_length", sentence_length, length_max),
        ] {
            if !(1..=max).contains(&value) {
                return wrong(argument, value, format!("in 1..={max}"));
            }
        }
        // The offset of a sentence's bit rows is a 32-bit number.
        if u32::try_from(self.mask_words()).is_err() {
            let expected = format!(
                "less with sentences of {sentence_length} tokens, or they shorter: fewer than 2^32 words of masks"
            );
            return wrong("tokens", tokens, expected);
        }
        Ok(())
    }

    /// 32-bit words of a full batch's masks: one bit row a token.
    pub(super) fn mask_words(&self) -> usize {
        self.tokens * self.sentence_length.div_ceil(32)
    }

    /// The capacity for such an input: masks are sampled only for sentences of at most [`masks::LENGTH_MAX`] tokens.
    pub(super) fn of(self, input: Input<'_>) -> Self {
        match input {
            Input::Explicit(_) => self,
            Input::Sampled(..) => {
                Self { sentence_length: self.sentence_length.min(masks::LENGTH_MAX), ..self }
            }
        }
    }
}
