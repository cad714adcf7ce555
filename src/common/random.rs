//! Counter-based randomness: Philox-4x32-10 and every decision sampled from it.
//!
//! A sample is a pure function of (seed, purpose, step), so it is the same on every device, in any order of work, and after a resume.
//! `kernels/core/philox.cuh` computes the same on the device.
//!
//! Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

pub use super::constants::DROPOUT_GROUP;
use super::constants::{
    STREAM_CORRUPTION, STREAM_DECODER_MASK, STREAM_ENCODER_MASK, STREAM_MASK_POOL, STREAM_POOL_ROW,
};

/// Purpose of a mask sample; the third counter word. The top bit separates the samples from dropout sites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stream {
    /// Words to hide from the encoder input.
    EncoderMask = STREAM_ENCODER_MASK,
    /// Words to hide from the `basic` decoder's input.
    DecoderMask = STREAM_DECODER_MASK,
    /// Rows of a sentence's pool of position-specific masks.
    MaskPool = STREAM_MASK_POOL,
    /// Pool row that each position uses.
    PoolRow = STREAM_POOL_ROW,
    /// Replacement of a chosen token of the encoder input: `[MASK]`, a random id, or itself.
    Corruption = STREAM_CORRUPTION,
}

/// Computes ten rounds of Philox-4x32 over `counter` under `key`.
#[must_use]
pub fn philox(key: [u32; 2], counter: [u32; 4]) -> [u32; 4] {
    const MULTIPLIERS: [u64; 2] = [0xD251_1F53, 0xCD9E_8D57];
    const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
    let [mut key0, mut key1] = key;
    let [mut c0, mut c1, mut c2, mut c3] = counter;
    for _ in 0..10 {
        let product0 = MULTIPLIERS[0] * u64::from(c0);
        let product1 = MULTIPLIERS[1] * u64::from(c2);
        let (high0, low0) = ((product0 >> 32) as u32, product0 as u32);
        let (high1, low1) = ((product1 >> 32) as u32, product1 as u32);
        (c0, c1, c2, c3) = (high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0);
        key0 = key0.wrapping_add(WEYL[0]);
        key1 = key1.wrapping_add(WEYL[1]);
    }
    [c0, c1, c2, c3]
}

/// Splits a 64-bit seed into the Philox key: low word first.
#[must_use]
pub fn key(seed: u64) -> [u32; 2] {
    [seed as u32, (seed >> 32) as u32]
}

/// Maps 32 random bits to `0..bound` by multiplication; the bias is below `bound / 2^32`.
#[must_use]
pub fn bounded(random: u32, bound: u32) -> u32 {
    ((u64::from(random) * u64::from(bound)) >> 32) as u32
}

/// Dropout decisions of one site at one step.
///
/// The rate is quantized to 1/256 so that one Philox call decides sixteen elements; `scale` is the inverse of the
/// *quantized* keep probability, so the expectation is exact. Element (`row`, `column`) uses byte `column % 16` of
/// `philox(seed, [group, row, site, step])` with `group = column / 16 | head << 16`, where `column` is the key's position
/// in its sentence and `row` the query's packed token index for attention, and `head = 0` elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Seed of the run: the Philox key.
    pub seed: u64,
    /// Number of the training step: the fourth counter word.
    pub step: u32,
    /// Place in the model, one of [`dropout_site`](crate::model::dropout_site): the third counter word.
    pub site: u32,
    /// Number of byte values that drop an element: it is dropped when its byte is below this; 0 drops nothing.
    pub threshold: u32,
}

impl Dropout {
    /// Creates the decisions for a `rate` in `[0, 1)`, rounded to a multiple of 1/256 of at most 255/256.
    #[must_use]
    pub fn new(rate: f32, seed: u64, step: u32, site: u32) -> Self {
        Self { seed, step, site, threshold: dropout_threshold(rate) }
    }

    /// Returns the factor of element (`row`, `column`): 0 if dropped, else [`Self::scale`].
    #[must_use]
    pub fn factor(&self, head: u32, row: u32, column: u32) -> f32 {
        if self.threshold == 0 {
            return 1.0;
        }
        let group = (column / DROPOUT_GROUP) | (head << 16);
        let words = philox(key(self.seed), [group, row, self.site, self.step]);
        let byte = column % DROPOUT_GROUP;
        let decision = words[(byte / 4) as usize] >> (8 * (byte % 4)) & 0xff;
        if decision < self.threshold { 0.0 } else { self.scale() }
    }

    /// Returns `256 / (256 - threshold)`, rounded to f32 as the kernels receive it.
    #[must_use]
    pub fn scale(&self) -> f32 {
        dropout_scale(self.threshold)
    }
}

/// Returns the number of byte values that drop an element at `rate`.
#[must_use]
pub fn dropout_threshold(rate: f32) -> u32 {
    ((f64::from(rate) * 256.0).round() as u32).min(255)
}

/// Returns the factor of a kept element.
#[must_use]
pub fn dropout_scale(threshold: u32) -> f32 {
    (256.0 / f64::from(256 - threshold)) as f32
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::*;

    /// Known-answer vectors of the authors' Random123 distribution (kat_vectors, philox4x32 10).
    #[test]
    fn philox_known_answers() {
        assert_eq!(philox([0; 2], [0; 4]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(
            philox([u32::MAX; 2], [u32::MAX; 4]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        assert_eq!(
            philox([0xa409_3822, 0x299f_31d0], [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn dropout_keeps_the_expectation() {
        let dropout = Dropout::new(0.1, 7, 3, 1);
        let total: f64 =
            (0..1000).flat_map(|row| (0..100).map(move |c| f64::from(dropout.factor(0, row, c)))).sum();
        assert_abs_diff_eq!(total / 1e5, 1.0, epsilon = 5e-3);
        assert_eq!(Dropout::new(0.0, 7, 3, 1).factor(0, 1, 1), 1.0);
    }
}
