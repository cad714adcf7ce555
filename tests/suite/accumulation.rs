//! Gradients that are accumulated over several batches, against the sums of each batch's own.

use crate::common::devices;
use crate::model::{
    MASKING, SEED, config, configs, distance, gradient_error, gradients, model, parameters, sentences,
};
use approx::assert_abs_diff_eq;
use retromae::device::{Device, Stream};
use retromae::model::{
    AdamW, DecoderKind, Input, MicroBatch, Model, PackedSentences, QueryKind, StepRandomness, TrainStep,
};
use retromae::reference::mask::sample_batch;

/// Weights of the batches of an update, which are unequal so that none takes another's place.
const WEIGHTS: [f32; 2] = [0.5, 1.25];
const OPTIMIZER: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-3, weight_decay: 0.01, max_norm: None };

/// Batches that differ in their words.
fn batches() -> [PackedSentences; 2] {
    [0, 1].map(|shift| {
        let mut sentences = sentences();
        sentences.ids.iter_mut().for_each(|id| *id = (*id + shift) % 97);
        sentences
    })
}

fn randomness(index: usize) -> StepRandomness {
    StepRandomness { seed: SEED, step: index as u32 }
}

/// Runs `accumulate` for all batches, waits for each, and returns their losses.
fn accumulate(model: &mut Model<f32>, stream: &Stream, batches: &[PackedSentences]) -> Vec<f32> {
    let mut losses = Vec::new();
    for (index, sentences) in batches.iter().enumerate() {
        let batch = MicroBatch::new(Input::Sampled(sentences, MASKING), randomness(index));
        let handle = model.accumulate(stream, &batch.weight(WEIGHTS[index])).unwrap();
        let result = model.result(handle).unwrap();
        assert!(result.gradient_norm.is_nan(), "a batch without an update has no norm");
        losses.extend([result.losses.encoder, result.losses.decoder]);
        losses.extend(result.losses.bag_of_words);
    }
    losses
}

/// Compares accumulated gradients and losses with those of one step for each batch.
fn check(device: &Device, model: &mut Model<f32>) {
    let (stream, batches) = (device.stream(), batches());
    let mut expected = gradients(model);
    expected.values_mut().for_each(|values| values.fill(0.0));
    let mut expected_losses = Vec::new();
    for (index, sentences) in batches.iter().enumerate() {
        let input = Input::Sampled(sentences, MASKING);
        let losses = model.step(&stream, input, Some(randomness(index))).unwrap();
        expected_losses.extend([losses.encoder, losses.decoder]);
        expected_losses.extend(losses.bag_of_words);
        for (name, gradient) in gradients(model) {
            let sum = expected.get_mut(&name).unwrap().iter_mut().zip(gradient);
            sum.for_each(|(sum, value)| *sum += f64::from(WEIGHTS[index]) * value);
        }
    }
    // Neither the gradients of the last step nor those of the round before are added to.
    for round in 0..2 {
        let losses = accumulate(model, &stream, &batches);
        for (actual, expected) in losses.iter().zip(&expected_losses) {
            assert_abs_diff_eq!(actual, expected, epsilon = 1e-5 * expected.abs());
        }
        for (name, actual) in gradients(model) {
            let error = gradient_error(&name, &actual, &expected);
            assert!(error < 1e-5, "gradient of {name} in round {round}: {error:e}");
        }
        // A step's gradients are its own.
        model.step(&stream, Input::Sampled(&batches[0], MASKING), Some(randomness(0))).unwrap();
    }
}

#[test]
fn accumulated_gradients_are_a_weighted_sum() {
    let [basic, _, _, with_bags] = configs(0.1);
    for device in devices() {
        for (config, record) in [(&basic, false), (&with_bags, true)] {
            let mut model = model::<f32>(&device, config, &parameters(config));
            model.record_steps(record);
            check(&device, &mut model);
        }
    }
}

/// `train_step` updates with the gradients that were accumulated and its own; so does `update` without a batch of its own.
#[test]
fn an_update_takes_all_gradients_since_the_last() {
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.1);
    let (parameters, batches) = (parameters(&config), batches());
    for device in devices() {
        for record in [false, true] {
            let stream = device.stream();
            let [mut one, mut other] = [(); 2].map(|()| {
                let mut model = model::<f32>(&device, &config, &parameters);
                model.record_steps(record);
                model
            });
            for update in 1..=3 {
                accumulate(&mut one, &stream, &batches);
                let expected = one.update(&stream, &OPTIMIZER, 1e-2, update).unwrap();

                accumulate(&mut other, &stream, &batches[..1]);
                let last = MicroBatch::new(Input::Sampled(&batches[1], MASKING), randomness(1));
                let step = TrainStep {
                    batch: last.weight(WEIGHTS[1]),
                    optimizer: &OPTIMIZER,
                    learning_rate: 1e-2,
                    update,
                };
                let handle = other.train_step(&stream, &step).unwrap();
                let norm = other.result(handle).unwrap().gradient_norm;
                assert_abs_diff_eq!(norm, expected, epsilon = 1e-5 * expected);
            }
            for (name, _) in one.parameter_shapes() {
                let [actual, expected] = [&other, &one].map(|model| {
                    let values = model.parameter(&name).unwrap();
                    values.into_iter().map(f64::from).collect::<Vec<_>>()
                });
                let error = distance(&actual, &expected, 1e-3);
                assert!(error < 1e-5, "{name}: {error:e}");
            }
        }
    }
}

#[test]
fn weights_that_are_not_positive_and_finite_are_refused() {
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
    let device = &devices()[0];
    let mut model = model::<f32>(device, &config, &parameters(&config));
    let (sentences, stream) = (sentences(), device.stream());
    let explicit = sample_batch(SEED, 0, &sentences, MASKING, &config);
    for weight in [0.0, -1.0, f32::INFINITY, f32::NAN] {
        for input in [Input::Sampled(&sentences, MASKING), Input::Explicit(&explicit)] {
            let batch = MicroBatch::new(input, randomness(0)).weight(weight);
            let message = model.accumulate(&stream, &batch).unwrap_err().to_string();
            assert_eq!(message, format!("weight is {weight}; it should be positive and finite"));
        }
    }
}

/// A state that is loaded begins anew: what was accumulated before is not part of the next update.
#[test]
fn a_loaded_state_has_no_gradients() {
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
    let device = &devices()[0];
    let (mut model, batches) = (model::<f32>(device, &config, &parameters(&config)), batches());
    let stream = device.stream();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.safetensors");
    model.save_state(&path).unwrap();
    accumulate(&mut model, &stream, &batches[..1]);
    let once = gradients(&model);
    model.load_state(&path).unwrap();
    accumulate(&mut model, &stream, &batches[..1]);
    for (name, gradient) in gradients(&model) {
        assert_eq!(gradient, once[&name], "{name}");
    }
}
