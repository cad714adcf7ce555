//! Everything that the blocks of one pass share.

use super::arena::ParameterArena;
use super::inputs::Inputs;
use crate::device::{Buffer, ModelFloat, Stream, View};
use crate::ops::Dropout;

/// Per-call context of all blocks: stream, batch, randomness, parameters, and memory for the operations.
pub(super) struct Context<'a, T: ModelFloat> {
    pub stream: &'a Stream,
    pub batch: &'a Inputs,
    /// `[4]`: the step's random state; `None` disables dropout.
    pub rng: Option<View<'a, u32>>,
    pub parameters: &'a mut ParameterArena<T>,
    /// Workspace of operations, one at a time.
    pub workspace: &'a mut Buffer<u8>,
}

impl<'a, T: ModelFloat> Context<'a, T> {
    /// Dropout of a place in the model; `None` without randomness or at rate 0.
    pub(super) fn dropout(&self, site: Site) -> Option<Dropout<'a>> {
        let Site { rate, number } = site;
        self.rng.filter(|_| rate > 0.0).map(|rng| Dropout { rng, rate, site: number })
    }
}

/// A place in the model with dropout.
#[derive(Clone, Copy, Debug)]
pub(super) struct Site {
    pub rate: f32,
    /// One of [`dropout_site`](super::dropout_site).
    pub number: u32,
}
