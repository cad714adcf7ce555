//! Loss of a row of logits.

use super::IGNORE_INDEX;

/// Options of a row's loss beyond plain cross-entropy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Target of rows without a loss, which may also be a token id; by default [`IGNORE_INDEX`].
    pub ignore_index: i32,
    /// Share of the target distribution spread over the whole vocabulary, in [0, 1).
    pub label_smoothing: f32,
    /// Factor of the squared log-sum-exp, which keeps the latter near 0.
    pub z_loss: f32,
    /// Soft cap: the bound that large logits approach; `None` for no cap.
    pub soft_cap: Option<f32>,
}

impl Default for Options {
    fn default() -> Self {
        Self { ignore_index: IGNORE_INDEX, label_smoothing: 0.0, z_loss: 0.0, soft_cap: None }
    }
}
