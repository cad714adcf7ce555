//! AdamW with clipping by the global norm (Loshchilov and Hutter, arXiv 1711.05101), one pass over a flat arena.

use super::Result;
use super::error::{aligned, optional_aligned, require, require_length};
use crate::device::params::AdamWParams;
use crate::device::{DType, Stream, View, ViewMut, bf16, kernels};

/// Hyperparameters that stay the same from step to step. Each must also be in its range after rounding to f32, as the kernel gets it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hyperparameters {
    /// Decay of the first moment, the mean of gradients; in `[0, 1)`. Default 0.9.
    pub beta1: f64,
    /// Decay of the second moment, the mean of squared gradients; in `[0, 1)`. Default 0.999.
    pub beta2: f64,
    /// Added to the root of the second moment; positive. Default 1e-8.
    pub eps: f64,
    /// Decoupled: a decayed parameter is first multiplied by `1 - learning_rate * weight_decay`; not negative. Default 0.01.
    pub weight_decay: f64,
    /// Maximum global L2 norm: larger gradients are scaled down to it, and `None` never scales. Default 1.0, so the default clips.
    pub max_norm: Option<f64>,
}

impl Default for Hyperparameters {
    /// Those of PyTorch's `AdamW` (betas 0.9 and 0.999, eps 1e-8, weight decay 0.01), with gradients clipped to a norm of 1.0, as Hugging Face's
    /// `Trainer` does.
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.01, max_norm: Some(1.0) }
    }
}

impl Hyperparameters {
    /// Returns the four 32-bit words of [`AdamWSchedule`](crate::device::params::AdamWSchedule) for an update, counted from 1: learning rate,
    /// `1 - beta1^update`, `1 - beta2^update`, and 0. They are to be uploaded before each step.
    ///
    /// # Errors
    /// When a constant is out of range, `learning_rate` is not in `[0, 1]` (a weight moves by about as much), `learning_rate * weight_decay`
    /// exceeds 1, or `update` is 0.
    pub fn schedule(&self, learning_rate: f64, update: u32) -> Result<[f32; 4]> {
        self.validate()?;
        require((0.0..=1.0).contains(&learning_rate), "learning_rate", learning_rate, "in [0, 1]")?;
        require(
            learning_rate * self.weight_decay <= 1.0,
            "weight_decay",
            self.weight_decay,
            format_args!("at most {}, 1 over the learning rate", 1.0 / learning_rate),
        )?;
        require(update > 0, "update", update, "at least 1")?;
        let correction = |beta: f64| (1.0 - beta.powf(f64::from(update))) as f32;
        Ok([learning_rate as f32, correction(self.beta1), correction(self.beta2), 0.0])
    }

    /// Refuses constants that are out of range after rounding to f32, as the kernel gets them.
    fn validate(&self) -> Result<()> {
        for (argument, beta) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            let fits = beta >= 0.0 && (beta as f32) < 1.0;
            require(fits, argument, beta, "in [0, 1)")?;
        }
        let positive = |value: f64| value as f32 > 0.0 && (value as f32).is_finite();
        require(positive(self.eps), "eps", self.eps, "positive and finite")?;
        let decay = self.weight_decay;
        let fits = decay >= 0.0 && (decay as f32).is_finite();
        require(fits, "weight_decay", decay, "finite and not negative")?;
        let norm = self.max_norm.unwrap_or(1.0);
        require(positive(norm), "max_norm", norm, "positive and finite, or none")
    }
}

/// Arguments of [`step`].
#[derive(Debug)]
pub struct Step<'a> {
    /// `[count]` master weights, aligned to 16 bytes as the other arrays
    pub parameters: ViewMut<'a, f32>,
    /// `[count]`: read, then set to 0, so that the next step's gradients can be added
    pub gradients: ViewMut<'a, f32>,
    /// `[count]`, zero before the first step
    pub first_moments: ViewMut<'a, f32>,
    /// `[count]`, zero before the first step
    pub second_moments: ViewMut<'a, f32>,
    /// `[count]`: updated weights, rounded to nearest, for kernels that compute in bf16
    pub compute_parameters: Option<ViewMut<'a, bf16>>,
    /// `[1]`: squared L2 norm of all gradients of the model ([`super::reduce::squares`])
    pub squared_norm: View<'a, f32>,
    /// `[4]`: result of [`Hyperparameters::schedule`]
    pub schedule: View<'a, f32>,
    /// Number of leading elements that weight decay applies to; biases and LayerNorm parameters follow them.
    pub decayed: usize,
    /// As for the schedule.
    pub hyperparameters: Hyperparameters,
}

/// Enqueues one update, which sets the gradients to 0. Where `squared_norm` is infinite or NaN it changes nothing else.
///
/// # Errors
/// When a length, an alignment or a hyperparameter does not fit.
pub fn step(stream: &Stream, arguments: Step<'_>) -> Result<()> {
    let Step { parameters, gradients, first_moments, second_moments, .. } = &arguments;
    let Step { compute_parameters, squared_norm, schedule, decayed, hyperparameters, .. } = &arguments;
    let count = parameters.len();
    hyperparameters.validate()?;
    for (argument, length) in [
        ("gradients", gradients.len()),
        ("first_moments", first_moments.len()),
        ("second_moments", second_moments.len()),
        ("compute_parameters", compute_parameters.as_ref().map_or(count, ViewMut::len)),
    ] {
        require_length(argument, length, count, "as parameters")?;
    }
    require_length("squared_norm", squared_norm.len(), 1, "a scalar")?;
    require_length("schedule", schedule.len(), 4, "words of an AdamWSchedule")?;
    require(*decayed <= count, "decayed", decayed, format_args!("at most {count} (parameters)"))?;
    let Hyperparameters { beta1, beta2, eps, weight_decay, max_norm } = *hyperparameters;
    let params = AdamWParams {
        parameters: aligned(stream, "parameters", parameters)?,
        gradients: aligned(stream, "gradients", gradients)?,
        first_moments: aligned(stream, "first_moments", first_moments)?,
        second_moments: aligned(stream, "second_moments", second_moments)?,
        compute_parameters: optional_aligned(stream, "compute_parameters", compute_parameters.as_ref())?,
        squared_norm: stream.address("squared_norm", squared_norm)?,
        schedule: stream.address("schedule", schedule)?,
        count: count as u64,
        decayed: *decayed as u64,
        beta1: beta1 as f32,
        one_minus_beta1: (1.0 - beta1) as f32,
        beta2: beta2 as f32,
        one_minus_beta2: (1.0 - beta2) as f32,
        eps: eps as f32,
        weight_decay: weight_decay as f32,
        max_norm: max_norm.unwrap_or(0.0) as f32,
        reserved: 0,
    };
    let copy = if compute_parameters.is_some() { DType::Bf16 } else { DType::F32 };
    // SAFETY: all arrays were checked to have `count` elements and the alignment of the widest access.
    unsafe { stream.launch(kernels::ADAMW.of(copy)?, &params)? };
    Ok(())
}
