//! The learning rate of a step.

/// Linear warm-up from `peak / warmup_steps` to `peak`, then linear decay to zero after `total_steps`.
///
/// `step` counts from 0, and no step within `total_steps` has a rate of zero, so none is wasted: step 0 has
/// `peak / warmup_steps`, step `warmup_steps - 1` and step `warmup_steps` have `peak`, and the last one has
/// `peak / (total_steps - warmup_steps)`. From `total_steps` on the rate is 0. `warmup_steps` is clamped to
/// `total_steps`.
#[must_use]
pub fn linear_learning_rate(step: u64, peak: f32, warmup_steps: u64, total_steps: u64) -> f32 {
    let warmup_steps = warmup_steps.min(total_steps);
    let factor = if step >= total_steps {
        0.0
    } else if step < warmup_steps {
        (step + 1) as f64 / warmup_steps as f64
    } else {
        (total_steps - step) as f64 / (total_steps - warmup_steps) as f64
    };
    (f64::from(peak) * factor) as f32
}

#[cfg(test)]
mod tests {
    use approx::assert_abs_diff_eq;

    use super::linear_learning_rate;

    #[test]
    fn rises_to_the_peak_and_falls_to_zero() {
        let rates: Vec<f32> = (0..11).map(|step| linear_learning_rate(step, 2.0, 4, 10)).collect();
        let thirds = 2.0_f64 / 6.0;
        let falling = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0].map(|steps: f64| (thirds * steps) as f32);
        assert_eq!(rates[..4], [0.5, 1.0, 1.5, 2.0]);
        for (&rate, expected) in rates[4..10].iter().zip(falling) {
            assert_abs_diff_eq!(rate, expected, epsilon = 1e-6);
        }
        assert_eq!(rates[10], 0.0);
    }

    #[test]
    fn degenerate_lengths_have_a_rate() {
        assert_eq!(linear_learning_rate(0, 1.0, 0, 0), 0.0);
        assert_eq!(linear_learning_rate(0, 1.0, 0, 1), 1.0);
        assert_eq!(linear_learning_rate(1, 1.0, 9, 2), 1.0);
        assert_eq!(linear_learning_rate(u64::MAX, 1.0, u64::MAX, u64::MAX), 0.0);
    }
}
