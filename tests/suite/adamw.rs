//! AdamW against the f64 reference.

use crate::cases::{self, baseline};
use crate::common::{assert_close, devices, rounded, values, widened};
use retromae::device::{Buffer, Device, bf16};
use retromae::ops::adamw::{self, Hyperparameters, Step};
use retromae::reference::optimizer::{AdamW, clip_coefficient};

const COUNTS: [usize; 8] = [0, 1, 7, 8, 9, 1000, 8192, 100_003];

/// Weights and moments, in any precision.
#[derive(Clone, Debug, PartialEq)]
struct State<T> {
    parameters: Vec<T>,
    first: Vec<T>,
    second: Vec<T>,
}

impl State<f32> {
    fn new(count: usize) -> Self {
        let second = values(3, count).iter().map(|v| v * v * 1e-3).collect::<Vec<_>>();
        let first = values(2, count).iter().map(|v| v * 1e-2).collect::<Vec<_>>();
        Self { parameters: rounded(&values(1, count)), first: rounded(&first), second: rounded(&second) }
    }

    fn widened(&self) -> State<f64> {
        State {
            parameters: widened(&self.parameters),
            first: widened(&self.first),
            second: widened(&self.second),
        }
    }

    /// Takes one step on the device; also returns the bf16 copy if `copy` is set.
    fn step(&self, device: &Device, case: &Case, copy: bool) -> (Self, Option<Vec<bf16>>) {
        let upload = |values: &[f32]| device.upload(values).unwrap();
        let copy = copy.then(|| device.zeros::<bf16>(self.parameters.len()).unwrap());
        let mut arena = baseline::adamw::AdamW {
            parameters: upload(&self.parameters),
            gradients: upload(&case.gradients),
            first_moments: upload(&self.first),
            second_moments: upload(&self.second),
            compute_parameters: copy,
            squared_norm: upload(&[case.squared_norm]),
            schedule: upload(&case.hyperparameters.schedule(case.learning_rate, case.step).unwrap()),
            decayed: case.decayed,
            hyperparameters: case.hyperparameters,
        };
        cases::adamw::step(&device.stream(), &mut arena).unwrap();
        let read = |buffer: &Buffer<f32>| buffer.read().unwrap();
        assert!(read(&arena.gradients).iter().all(|&gradient| gradient == 0.0), "the gradients are not 0");
        let (parameters, first, second) =
            (read(&arena.parameters), read(&arena.first_moments), read(&arena.second_moments));
        (Self { parameters, first, second }, arena.compute_parameters.map(|copy| copy.read().unwrap()))
    }

    /// The composition that a framework without a fused kernel runs, each operation rounded to f32.
    fn naive(&self, case: &Case) -> Self {
        let Hyperparameters { beta1, beta2, eps, weight_decay, .. } = case.hyperparameters;
        let [rate, correction1, correction2, _] =
            case.hyperparameters.schedule(case.learning_rate, case.step).unwrap();
        let clip = case.clip() as f32;
        let mut state = self.clone();
        for (i, gradient) in case.gradients.iter().enumerate() {
            let gradient = gradient * clip;
            let (m, v) = (&mut state.first[i], &mut state.second[i]);
            *m = *m * beta1 as f32 + gradient * (1.0 - beta1) as f32;
            *v = *v * beta2 as f32 + gradient * gradient * (1.0 - beta2) as f32;
            let denominator = v.sqrt() / correction2.sqrt() + eps as f32;
            if i < case.decayed {
                state.parameters[i] *= 1.0 - rate * weight_decay as f32;
            }
            state.parameters[i] -= rate / correction1 * (*m / denominator);
        }
        state
    }

    fn exact(&self, case: &Case) -> State<f64> {
        let Hyperparameters { beta1, beta2, eps, weight_decay, .. } = case.hyperparameters;
        let gradients: Vec<f64> = widened(&case.gradients).iter().map(|g| g * case.clip()).collect();
        let mut state = self.widened();
        let (decayed, rest) = state.parameters.split_at_mut(case.decayed);
        let (first, rest_first) = state.first.split_at_mut(case.decayed);
        let (second, rest_second) = state.second.split_at_mut(case.decayed);
        let (gradient, rest_gradient) = gradients.split_at(case.decayed);
        let learning_rate = case.learning_rate;
        let optimizer = AdamW { learning_rate, beta1, beta2, epsilon: eps, weight_decay };
        optimizer.update(case.step, decayed, gradient, first, second);
        let optimizer = AdamW { weight_decay: 0.0, ..optimizer };
        optimizer.update(case.step, rest, rest_gradient, rest_first, rest_second);
        state
    }
}

struct Case {
    gradients: Vec<f32>,
    squared_norm: f32,
    decayed: usize,
    step: u32,
    learning_rate: f64,
    hyperparameters: Hyperparameters,
}

impl Case {
    fn new(count: usize, seed: u64) -> Self {
        let gradients: Vec<f32> = rounded(&values(seed, count).iter().map(|v| v * 0.1).collect::<Vec<_>>());
        Self {
            squared_norm: gradients.iter().map(|g| g * g).sum(),
            gradients,
            decayed: count / 2,
            step: 3,
            learning_rate: 0.05,
            hyperparameters: Hyperparameters::default(),
        }
    }

    fn clip(&self) -> f64 {
        let norm = f64::from(self.squared_norm).sqrt();
        self.hyperparameters.max_norm.map_or(1.0, |max_norm| clip_coefficient(norm, max_norm))
    }
}

fn check(device: &Device, case: &Case) {
    let count = case.gradients.len();
    let start = State::new(count);
    let (naive, exact) = (start.naive(case).widened(), start.exact(case));
    for copy in [false, true] {
        let (state, compute) = start.step(device, case, copy);
        let actual = state.widened();
        let what = |name: &str| format!("{name} of {count}, {} decayed", case.decayed);
        assert_close::<f32>(&what("first"), &actual.first, &naive.first, &exact.first);
        assert_close::<f32>(&what("second"), &actual.second, &naive.second, &exact.second);
        assert_close::<f32>(&what("weights"), &actual.parameters, &naive.parameters, &exact.parameters);
        if let Some(compute) = compute {
            let expected: Vec<bf16> = state.parameters.iter().map(|&p| bf16::from_f32(p)).collect();
            assert_eq!(compute, expected);
        }
    }
}

#[test]
fn matches_the_reference() {
    for device in devices() {
        for count in COUNTS {
            check(&device, &Case::new(count, 4));
        }
    }
}

#[test]
fn decay_ends_at_any_element() {
    for device in devices() {
        for decayed in [0, 1, 3, 8, 11, 20, 21] {
            let mut case = Case { decayed, ..Case::new(21, 5) };
            case.hyperparameters.weight_decay = 2.0;
            check(&device, &case);
        }
    }
}

#[test]
fn clips_large_gradients_and_only_them() {
    for device in devices() {
        for (max_norm, squared_norm) in
            [(Some(1.0), 1e6), (Some(1.0), 0.25), (Some(0.5), 0.3), (Some(2.0), 0.0), (None, 1e6)]
        {
            let mut case = Case { squared_norm, step: 1, ..Case::new(1000, 6) };
            case.hyperparameters.max_norm = max_norm;
            check(&device, &case);
        }
    }
}

/// At late steps, a correction computed in f32 from the rounded beta would be off.
#[test]
fn early_and_late_steps_agree() {
    for device in devices() {
        for step in [1, 2, 1000, 1_000_000] {
            check(&device, &Case { step, ..Case::new(100, 7) });
        }
    }
}

#[test]
fn a_norm_that_is_not_finite_changes_nothing() {
    for device in devices() {
        for squared_norm in [f32::INFINITY, f32::NAN] {
            let mut case = Case { squared_norm, ..Case::new(1003, 8) };
            case.gradients[5] = squared_norm;
            let start = State::new(1003);
            let (state, copy) = start.step(&device, &case, true);
            assert_eq!(state, start);
            assert!(copy.unwrap().iter().all(|value| value.to_bits() == 0), "the copy is not written");
        }
    }
}

#[test]
fn the_schedule_is_rounded_once() {
    let hyperparameters = Hyperparameters::default();
    assert_eq!(hyperparameters.schedule(1e-4, 1).unwrap(), [1e-4, 0.1, 0.001, 0.0]);
    assert_eq!(hyperparameters.schedule(0.0, u32::MAX).unwrap(), [0.0, 1.0, 1.0, 0.0]);
}

/// Update 0 would make the bias corrections 0, and a negative rate would ascend.
#[test]
fn schedules_that_would_ruin_the_weights_are_refused() {
    let refuse = |rate, step| Hyperparameters::default().schedule(rate, step).unwrap_err().to_string();
    assert_eq!(refuse(1e-4, 0), "update is 0; it should be at least 1");
    for rate in [-1e-9, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1.0001] {
        assert_eq!(refuse(rate, 1), format!("learning_rate is {rate}; it should be in [0, 1]"));
    }
    assert!(Hyperparameters::default().schedule(1.0, 1).is_ok());
    let decay = Hyperparameters { weight_decay: 3.0, ..Hyperparameters::default() };
    let error = decay.schedule(0.5, 1).unwrap_err().to_string();
    assert_eq!(error, "weight_decay is 3; it should be at most 2, 1 over the learning rate");
    let beta = Hyperparameters { beta1: 1.0, ..Hyperparameters::default() };
    assert_eq!(beta.schedule(0.5, 1).unwrap_err().to_string(), "beta1 is 1; it should be in [0, 1)");
}

#[test]
fn wrong_arguments_are_refused() {
    let device = &devices()[0];
    let scalar = device.zeros::<f32>(4).unwrap();
    let mut gradients = device.zeros::<f32>(32).unwrap();
    let mut arrays: Vec<Buffer<f32>> = (0..3).map(|_| device.zeros(32).unwrap()).collect();
    let mut refuse = |range: std::ops::Range<usize>, scalars: usize, decayed, hyperparameters| {
        let [parameters, first, second] = &mut arrays[..] else { unreachable!() };
        let arguments = Step {
            parameters: parameters.slice_mut(0..16),
            gradients: gradients.slice_mut(range),
            first_moments: first.slice_mut(0..16),
            second_moments: second.slice_mut(0..16),
            compute_parameters: None,
            squared_norm: scalar.slice(0..scalars),
            schedule: scalar.slice(0..4),
            decayed,
            hyperparameters,
        };
        adamw::step(&device.stream(), arguments).unwrap_err().to_string()
    };
    let good = Hyperparameters::default();
    assert_eq!(refuse(0..8, 1, 0, good), "gradients is 8 elements long; it should be 16 (as parameters)");
    assert_eq!(
        refuse(2..18, 1, 0, good),
        "gradients is at an address of 8 modulo 16 bytes; it should be aligned to 16 bytes"
    );
    assert_eq!(refuse(0..16, 2, 0, good), "squared_norm is 2 elements long; it should be 1 (a scalar)");
    assert_eq!(refuse(0..16, 1, 17, good), "decayed is 17; it should be at most 16 (parameters)");
    let beta = Hyperparameters { beta2: 1.0, ..good };
    assert_eq!(refuse(0..16, 1, 0, beta), "beta2 is 1; it should be in [0, 1)");
    // Values that round to 1, 0 or infinity in f32.
    let beta = Hyperparameters { beta1: 1.0 - 1e-12, ..good };
    assert!(refuse(0..16, 1, 0, beta).starts_with("beta1 is 0.999999999999; it should be in [0, 1)"));
    let eps = Hyperparameters { eps: 1e-50, ..good };
    assert!(refuse(0..16, 1, 0, eps).ends_with("it should be positive and finite"));
    let decay = Hyperparameters { weight_decay: 1e300, ..good };
    assert!(refuse(0..16, 1, 0, decay).ends_with("it should be finite and not negative"));
    let norm = Hyperparameters { max_norm: Some(1e-50), ..good };
    assert!(refuse(0..16, 1, 0, norm).ends_with("it should be positive and finite, or none"));
    let norm = Hyperparameters { max_norm: Some(0.0), ..good };
    assert_eq!(refuse(0..16, 1, 0, norm), "max_norm is 0; it should be positive and finite, or none");
}
