//! AdamW as passes of their own: clipping, moments, decay, update.

use rayon::prelude::*;
use retromae::ops::adamw::Hyperparameters;

const CHUNK: usize = 1 << 16;

/// State, `[count]` each.
pub struct AdamW {
    pub first_moments: Vec<f32>,
    pub second_moments: Vec<f32>,
    /// The clipped gradients.
    clipped: Vec<f32>,
}

impl AdamW {
    /// Moments are zero.
    pub fn new(count: usize) -> Self {
        let zeros = || vec![0.0; count];
        Self { first_moments: zeros(), second_moments: zeros(), clipped: zeros() }
    }

    /// `norm` is that of all gradients, `schedule` is that of [`Hyperparameters::schedule`]; weight decay acts on the first `decayed` elements.
    pub fn step(
        &mut self,
        parameters: &mut [f32],
        gradients: &[f32],
        norm: f32,
        hyperparameters: &Hyperparameters,
        schedule: [f32; 4],
        decayed: usize,
    ) {
        let Hyperparameters { beta1, beta2, eps, weight_decay, max_norm } = *hyperparameters;
        let (first, second) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
        let [learning_rate, correction1, correction2, _] = schedule;
        let clip = max_norm.map_or(1.0, |max_norm| (max_norm as f32 / (norm + 1e-6)).min(1.0));
        map(&mut self.clipped, gradients, |g, value| *g = value * clip);
        map(&mut self.first_moments, &self.clipped, |m, g| *m += first * (g - *m));
        map(&mut self.second_moments, &self.clipped, |v, g| *v += second * (g * g - *v));
        let decay = 1.0 - learning_rate * weight_decay as f32;
        parameters[..decayed].par_iter_mut().with_min_len(CHUNK).for_each(|p| *p *= decay);
        let (step_size, root) = (learning_rate / correction1, 1.0 / correction2.sqrt());
        let moments = self.first_moments.par_chunks(CHUNK).zip(self.second_moments.par_chunks(CHUNK));
        parameters.par_chunks_mut(CHUNK).zip(moments).for_each(|(parameters, (first, second))| {
            for (p, (m, v)) in parameters.iter_mut().zip(first.iter().zip(second)) {
                *p -= step_size * (m / (v.sqrt() * root + eps as f32));
            }
        });
    }
}

fn map(output: &mut [f32], input: &[f32], operation: impl Fn(&mut f32, f32) + Sync) {
    output.par_chunks_mut(CHUNK).zip(input.par_chunks(CHUNK)).for_each(|(output, input)| {
        output.iter_mut().zip(input).for_each(|(output, &input)| operation(output, input));
    });
}
