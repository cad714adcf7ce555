//! Initial weights from a seed.

use std::collections::HashSet;

use approx::abs_diff_eq;
use retromae::device::{Device, bf16};
use retromae::model::{Capacity, DecoderKind, Model, ModelConfig, QueryKind};
use retromae::reference::parameter_shapes;

use crate::model::{CAPACITY, config};

const DEVIATION: f32 = 0.05;

fn initial(seed: u64, hidden_size: usize) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let device = Device::for_tests().expect("a device");
    let config = ModelConfig {
        vocab_size: 501,
        initializer_range: DEVIATION,
        hidden_size,
        ..config(DecoderKind::Enhanced, QueryKind::Embedding, 0.1)
    };
    let capacity = Capacity { tokens: 8, sentences: 2, ..CAPACITY };
    let mut model = Model::<bf16>::new(&device, &config, capacity).unwrap();
    // Earlier values must not matter.
    model.set_parameter("cls.predictions.bias", &[3.0; 501]).unwrap();
    model.set_moments("cls.predictions.bias", &[3.0; 501], &[3.0; 501]).unwrap();
    model.initialize(seed).unwrap();
    assert_eq!(model.moments("cls.predictions.bias").unwrap(), (vec![0.0; 501], vec![0.0; 501]));
    let read = |(name, shape): (String, Vec<usize>)| {
        let values = model.parameter(&name).unwrap();
        (name, shape, values)
    };
    model.parameter_shapes().into_iter().map(read).collect()
}

#[test]
fn a_model_has_the_parameters_of_the_reference() {
    let config = ModelConfig::tiny(1003);
    let capacity = Capacity { tokens: 8, sentences: 2, sentence_length: 8 };
    let model = Model::<f32>::new(&Device::host().unwrap(), &config, capacity).unwrap();
    let (mut actual, mut expected) = (model.parameter_shapes(), parameter_shapes(&config));
    actual.sort();
    expected.sort();
    assert_eq!(actual, expected);
}

#[test]
fn matrices_are_normal_and_the_rest_is_constant() {
    // Wide enough that a deviation that is off by a twentieth shows.
    for (name, shape, values) in initial(7, 128) {
        if shape.len() == 1 {
            let constant = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
            assert!(values.iter().all(|&value| value == constant), "{name} is not {constant}");
            continue;
        }
        let (count, deviation) = (values.len() as f64, f64::from(DEVIATION));
        let mean = |power: i32| {
            values.iter().map(|&value| (f64::from(value) / deviation).powi(power)).sum::<f64>() / count
        };
        // Five standard errors each: of a mean, a variance, a skewness and a kurtosis of a standard normal.
        for (power, expected, variance) in [(1, 0.0, 1.0f64), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)] {
            let (moment, error) = (mean(power), (variance / count).sqrt());
            assert!(
                abs_diff_eq!(moment, expected, epsilon = 5.0 * error),
                "{name}: moment {power} is {moment}"
            );
        }
        // Within one standard deviation: 68.3 %.
        let within = values.iter().filter(|value| value.abs() < DEVIATION).count() as f64 / count;
        assert!(
            abs_diff_eq!(within, 0.6827, epsilon = 5.0 * (0.6827 * 0.3173 / count).sqrt()),
            "{name}: {within} within one deviation"
        );
        // Neighbors and rows are independent.
        for distance in [1, 2, shape[1]] {
            let pairs = values.iter().zip(&values[distance.min(values.len())..]);
            let products: f64 = pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let correlation = products / (deviation * deviation * count);
            assert!(
                abs_diff_eq!(correlation, 0.0, epsilon = 5.0 / count.sqrt()),
                "{name}: {correlation} at distance {distance}"
            );
        }
    }
}

/// No sample is used twice: within a matrix, in two matrices at any shift, or with another seed.
#[test]
fn every_matrix_has_draws_of_its_own() {
    let (first, second) = (initial(7, 64), initial(1 << 40 | 7, 64));
    assert!(initial(7, 64) == first, "the same seed gives other weights");
    // Single f32 values as close together as these are equal by chance; eight in a row are not.
    let mut runs = HashSet::new();
    for (name, shape, values) in first.iter().chain(&second) {
        if shape.len() == 1 {
            continue;
        }
        for run in values.windows(8) {
            let bits: Vec<u32> = run.iter().map(|value| value.to_bits()).collect();
            assert!(runs.insert(bits), "{name} repeats a run of samples");
        }
    }
}
