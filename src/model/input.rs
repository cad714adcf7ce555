//! The input of a step.

use super::{Batch, Masking, PackedSentences};

/// The sentences of a step, with their masks and labels or the options to sample them with.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Inputs, labels and masks are all given.
    Explicit(&'a Batch),
    /// Masked inputs, labels and masks are sampled on the device, from the step's randomness.
    Sampled(&'a PackedSentences, Masking),
}

impl Input<'_> {
    /// `[B + 1]` prefix sums of the sentence lengths.
    pub(super) fn cu_seqlens(&self) -> &[i32] {
        match self {
            Self::Explicit(batch) => &batch.cu_seqlens,
            Self::Sampled(sentences, _) => &sentences.cu_seqlens,
        }
    }

    /// Masking options for the device; `None` for an explicit input.
    pub(super) fn masking(&self) -> Option<Masking> {
        match self {
            Self::Explicit(_) => None,
            Self::Sampled(_, masking) => Some(*masking),
        }
    }
}
