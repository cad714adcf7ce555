//! AdamW as separate passes: clipping, moments, decay, update, rounded copy.

use retromae::device::baseline_params::BaselineAdamWParams;
use retromae::device::{Buffer, ModelFloat, Stream, kernels};
use retromae::ops::Result;
use retromae::ops::adamw::Hyperparameters;

use super::passes;

/// Weights and optimizer state, `[count]` each, count a multiple of 8.
pub struct AdamW<T: ModelFloat> {
    pub parameters: Buffer<f32>,
    pub gradients: Buffer<f32>,
    pub first_moments: Buffer<f32>,
    pub second_moments: Buffer<f32>,
    /// Copy of the weights in the compute type.
    pub compute_parameters: Option<Buffer<T>>,
    /// `[1]`
    pub squared_norm: Buffer<f32>,
    /// `[4]`
    pub schedule: Buffer<f32>,
    /// Weight decay acts on the first `decayed` elements; a multiple of 8.
    pub decayed: usize,
    pub hyperparameters: Hyperparameters,
}

impl<T: ModelFloat> AdamW<T> {
    pub fn step(&mut self, stream: &Stream) -> Result<()> {
        let Hyperparameters { beta1, beta2, eps, weight_decay, max_norm } = self.hyperparameters;
        let all = BaselineAdamWParams {
            parameters: self.parameters.view().address(),
            gradients: self.gradients.view().address(),
            first_moments: self.first_moments.view().address(),
            second_moments: self.second_moments.view().address(),
            squared_norm: self.squared_norm.view().address(),
            schedule: self.schedule.view().address(),
            count: self.parameters.len() as u64,
            one_minus_beta1: (1.0 - beta1) as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            eps: eps as f32,
            weight_decay: weight_decay as f32,
            max_norm: max_norm.unwrap_or(0.0) as f32,
            reserved: 0,
        };
        let decayed = BaselineAdamWParams { count: self.decayed as u64, ..all };
        // SAFETY: all arrays have as many elements as the parameters.
        unsafe {
            if max_norm.is_some() {
                stream.launch(kernels::BASELINE_ADAMW_CLIP, &all)?;
            }
            stream.launch(kernels::BASELINE_ADAMW_FIRST_MOMENT, &all)?;
            stream.launch(kernels::BASELINE_ADAMW_SECOND_MOMENT, &all)?;
            stream.launch(kernels::BASELINE_ADAMW_DECAY, &decayed)?;
            stream.launch(kernels::BASELINE_ADAMW_UPDATE, &all)?;
        }
        match &mut self.compute_parameters {
            Some(copy) => passes::narrow(stream, self.parameters.view(), copy.view_mut()),
            None => Ok(()),
        }
    }
}
