//! The loss of a row of logits.

use super::IGNORE_INDEX;

/// What a row's loss is, beside its cross-entropy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// The target of rows without a loss, which may be a word's id, too; by default [`IGNORE_INDEX`].
    pub ignore_index: i32,
    /// The share of the target that is spread over all words, in [0, 1).
    pub label_smoothing: f32,
    /// The factor of the squared log-sum-exp, which keeps it near 0.
    pub z_loss: f32,
    /// The largest logit, which larger ones approach.
    pub soft_cap: Option<f32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { ignore_index: IGNORE_INDEX, label_smoothing: 0.0, z_loss: 0.0, soft_cap: None }
    }
}
