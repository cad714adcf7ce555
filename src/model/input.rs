//! The input of a step.

use super::{Batch, Masking, PackedSentences};

/// The sentences of a step, and what is hidden of them.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Everything is given.
    Explicit(&'a Batch),
    /// What is hidden is drawn on the device, from the step's randomness.
    Drawn(&'a PackedSentences, Masking),
}

impl Input<'_> {
    /// `[B + 1]` prefix sums of the sentence lengths.
    pub(super) fn cu_seqlens(&self) -> &[i32] {
        match self {
            Self::Explicit(batch) => &batch.cu_seqlens,
            Self::Drawn(sentences, _) => &sentences.cu_seqlens,
        }
    }

    /// How the device draws; none where everything is given.
    pub(super) fn masking(&self) -> Option<Masking> {
        match self {
            Self::Explicit(_) => None,
            Self::Drawn(_, masking) => Some(*masking),
        }
    }
}
