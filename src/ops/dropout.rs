//! Dropout arguments of the operations.

use super::Result;
use super::error::{require, require_length};
use crate::common::random::{dropout_scale, dropout_threshold, key};
use crate::device::params::DropoutParams;
use crate::device::{Stream, View};

/// One dropout site. The rate is quantized to 1/256 ([`crate::random::Dropout`] defines every decision).
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    /// `[4]`: the step's random state in device memory, the result of [`rng_state`].
    pub rng: View<'a, u32>,
    /// Probability of dropping an element, in `[0, 1)`.
    pub rate: f32,
    /// Number of the place in a model, which makes its decisions independent of other places'.
    pub site: u32,
}

/// Returns the 32-bit words of an [`RngState`](crate::device::params::RngState), to be uploaded before a step.
#[must_use]
pub fn rng_state(seed: u64, step: u32) -> [u32; 4] {
    let [low, high] = key(seed);
    [low, high, step, 0]
}

/// Returns the kernel's params of an optional site.
pub(crate) fn dropout_params(stream: &Stream, dropout: Option<Dropout<'_>>) -> Result<DropoutParams> {
    let Some(Dropout { rng, rate, site }) = dropout else {
        return Ok(DropoutParams { scale: 1.0, ..DropoutParams::default() });
    };
    require((0.0..1.0).contains(&rate), "dropout.rate", rate, "in [0, 1)")?;
    require_length("dropout.rng", rng.len(), 4, "words of an RngState")?;
    let threshold = dropout_threshold(rate);
    Ok(DropoutParams {
        rng: stream.address("dropout.rng", &rng)?,
        threshold,
        scale: dropout_scale(threshold),
        site,
        reserved: 0,
    })
}
