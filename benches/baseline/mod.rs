//! Eager-mode baseline on the same device as the fused operations: matmuls of the GEMM backend, and one plain kernel for each elementary pass over
//! memory (`kernels/baseline`). Whole score and logit matrices are materialized, and padding is computed.
//!
//! On the CPU emulator these kernels are emulated like all others, so their speed there means nothing; the tests run them there to check that they
//! compute the same results as the fused operations.
#![allow(dead_code)]

pub mod adamw;
pub mod attention;
pub mod cross_entropy;
pub mod embedding;
pub mod layer_norm;
pub mod passes;
pub mod step;

use retromae::device::{Buffer, Stream};
use retromae::ops::{self, Result};
use retromae::random::{dropout_scale, dropout_threshold};

use crate::cases::data::{SEED, STEP};

/// A dropout site, and the elements that it kept.
pub struct Dropout {
    /// Result of [`ops::rng_state`].
    pub rng: Buffer<u32>,
    pub rate: f32,
    pub site: u32,
    /// One byte an element.
    kept: Buffer<u8>,
}

impl Dropout {
    /// Prepares dropout of `elements` elements; the decisions are those of [`SEED`] and [`STEP`].
    pub fn new(stream: &Stream, elements: usize, rate: f32, site: u32) -> Result<Self> {
        let device = stream.device();
        Ok(Self {
            rng: device.upload(&ops::rng_state(SEED, STEP))?,
            rate,
            site,
            kept: device.zeros(elements)?,
        })
    }

    /// Returns the same site for a fused operation.
    pub fn fused(&self) -> ops::Dropout<'_> {
        ops::Dropout { rng: self.rng.view(), rate: self.rate, site: self.site }
    }

    fn params(&self) -> retromae::device::params::DropoutParams {
        let threshold = dropout_threshold(self.rate);
        retromae::device::params::DropoutParams {
            rng: self.rng.view().address(),
            threshold,
            scale: dropout_scale(threshold),
            site: self.site,
            reserved: 0,
        }
    }
}
