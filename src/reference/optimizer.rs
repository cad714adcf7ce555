//! AdamW and gradient clipping, with the semantics of `torch.optim.AdamW` and `clip_grad_norm_`.
//!
//! Sources: Kingma and Ba, arXiv 1412.6980; Loshchilov and Hutter, arXiv 1711.05101.

/// Hyperparameters of one update.
#[derive(Clone, Copy, Debug)]
pub struct AdamW {
    /// Step size `lr`, warm-up and decay included.
    pub learning_rate: f64,
    /// Decay `β1` of the first moment, in `[0, 1)`.
    pub beta1: f64,
    /// Decay `β2` of the second moment, in `[0, 1)`.
    pub beta2: f64,
    /// Term `ε` added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled: a parameter is first multiplied by `1 - learning_rate * weight_decay`.
    pub weight_decay: f64,
}

impl AdamW {
    /// One update in place; `step` counts from 1 and all slices have the parameter's length.
    ///
    /// `m = β1 m + (1-β1) g`, `v = β2 v + (1-β2) g²`,
    /// `p = p (1 - lr wd) - lr (m / (1-β1ᵗ)) / (sqrt(v / (1-β2ᵗ)) + ε)`.
    pub fn update(
        &self,
        step: u32,
        parameter: &mut [f64],
        gradient: &[f64],
        first_moment: &mut [f64],
        second_moment: &mut [f64],
    ) {
        let correction1 = 1.0 - self.beta1.powi(step as i32);
        let correction2 = 1.0 - self.beta2.powi(step as i32);
        for (index, &gradient) in gradient.iter().enumerate() {
            let (m, v) = (&mut first_moment[index], &mut second_moment[index]);
            *m = self.beta1 * *m + (1.0 - self.beta1) * gradient;
            *v = self.beta2 * *v + (1.0 - self.beta2) * gradient * gradient;
            let direction = (*m / correction1) / ((*v / correction2).sqrt() + self.epsilon);
            parameter[index] *= 1.0 - self.learning_rate * self.weight_decay;
            parameter[index] -= self.learning_rate * direction;
        }
    }
}

/// The L2 norm of all gradients together.
#[must_use]
pub fn global_norm<'a>(gradients: impl IntoIterator<Item = &'a [f64]>) -> f64 {
    gradients.into_iter().flatten().map(|gradient| gradient * gradient).sum::<f64>().sqrt()
}

/// Returns the factor of all gradients: `min(1, max_norm / (norm + 1e-6))`.
#[must_use]
pub fn clip_coefficient(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADAM_W: AdamW =
        AdamW { learning_rate: 0.1, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

    /// Values of torch's formula worked out by hand: a constant gradient moves by the learning rate.
    #[test]
    fn a_constant_gradient_moves_by_the_learning_rate() {
        let (mut parameter, mut m, mut v) = ([1.0], [0.0], [0.0]);
        let mut expected = 1.0;
        for step in 1..=3 {
            ADAM_W.update(step, &mut parameter, &[0.5], &mut m, &mut v);
            expected = expected * 0.999 - 0.1 * 0.5 / (0.5 + 1e-8);
            assert!((parameter[0] - expected).abs() < 1e-12, "step {step}: {parameter:?}");
        }
        assert!((m[0] - 0.5 * (1.0 - 0.9f64.powi(3))).abs() < 1e-15);
        assert!((v[0] - 0.25 * (1.0 - 0.999f64.powi(3))).abs() < 1e-15);
    }

    #[test]
    fn decay_is_decoupled_from_the_gradient() {
        let (mut parameter, mut m, mut v) = ([2.0], [0.0], [0.0]);
        ADAM_W.update(1, &mut parameter, &[0.0], &mut m, &mut v);
        assert_eq!((parameter, m, v), ([2.0 * 0.999], [0.0], [0.0]));
    }

    #[test]
    fn clipping_only_ever_shrinks() {
        assert_eq!(global_norm([&[3.0][..], &[0.0, 4.0]]), 5.0);
        assert_eq!(clip_coefficient(0.5, 1.0), 1.0);
        assert_eq!(clip_coefficient(5.0, 1.0), 1.0 / 5.000_001);
        assert_eq!(clip_coefficient(0.0, 1.0), 1.0);
    }
}
