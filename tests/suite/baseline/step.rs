//! The baseline's whole training step, compared with the model's.

use retromae::device::{DType, Device, ModelFloat, bf16};
use retromae::model::{Batch, Capacity, IGNORE_INDEX, Input, Model, ModelConfig, StepRandomness};
use retromae::ops::adamw;

use super::DROPOUT;
use crate::cases::baseline::step::{Setting, Step};
use crate::cases::data::{POOL_ROWS_MAX, SEED, STEP, visibility};
use crate::common::{devices, integers, prefix_sums};

/// Ragged, so that the baseline pads; the vocabulary is padded, too.
const LENGTHS: [usize; 4] = [17, 5, 40, 9];
const VOCABULARY: usize = 61;
const LEARNING_RATE: f64 = 1e-3;

fn config() -> ModelConfig {
    ModelConfig {
        hidden_dropout_prob: DROPOUT,
        attention_probs_dropout_prob: DROPOUT,
        hidden_size: 64,
        num_attention_heads: 2,
        intermediate_size: 96,
        ..ModelConfig::tiny(VOCABULARY)
    }
}

fn batch() -> Batch {
    let tokens: usize = LENGTHS.iter().sum();
    let ids = integers(1, tokens, VOCABULARY as u32);
    let labels = |every: usize| -> Vec<i32> {
        ids.iter().enumerate().map(|(i, &id)| if i % every == 1 { id } else { IGNORE_INDEX }).collect()
    };
    Batch {
        cu_seqlens: prefix_sums(&LENGTHS),
        encoder_input_ids: integers(2, tokens, VOCABULARY as u32),
        encoder_labels: labels(3),
        decoder_labels: labels(2),
        decoder_input_ids: ids,
        visibility: Some(visibility(&LENGTHS, POOL_ROWS_MAX)),
    }
}

fn norm(values: &[f32]) -> f64 {
    values.iter().map(|value| f64::from(value * value)).sum::<f64>().sqrt()
}

#[track_caller]
fn assert_near(what: &str, plain: &[f32], fused: &[f32], tolerance: f64) {
    let difference: Vec<f32> = plain.iter().zip(fused).map(|(p, f)| p - f).collect();
    let (error, allowed) = (norm(&difference), tolerance * norm(fused));
    assert!(
        plain.len() == fused.len() && allowed > 0.0 && error <= allowed,
        "{what}: {error:e} above {allowed:e}"
    );
}

/// Compares the steps; tolerances are relative to a loss, to the norm of a parameter or of its gradient.
fn step_agrees<T: ModelFloat>(device: &Device, loss_tolerance: f64, tolerance: f64) {
    let (config, batch, stream) = (config(), batch(), device.stream());
    let capacity = Capacity { tokens: LENGTHS.iter().sum(), sentences: LENGTHS.len(), sentence_length: 40 };
    let mut model = Model::<T>::new(device, &config, capacity).unwrap();
    model.initialize(3).unwrap();
    let shapes = model.parameter_shapes();
    let optimizer = adamw::Hyperparameters::default();
    let setting = Setting {
        config: &config,
        batch: &batch,
        pool: batch.visibility.as_ref().unwrap(),
        optimizer: &optimizer,
        learning_rate: LEARNING_RATE,
    };
    let mut plain = Step::<T>::new(&stream, &setting, &shapes, |name: &str| model.parameter(name)).unwrap();
    // Run twice, to check that buffers are zeroed before each step.
    plain.run(&stream).unwrap();
    plain.run(&stream).unwrap();
    let randomness = Some(StepRandomness { seed: SEED, step: STEP });
    let losses = model.step(&stream, Input::Explicit(&batch), randomness).unwrap();
    assert_near("losses", &plain.losses().unwrap(), &[losses.encoder, losses.decoder], loss_tolerance);
    // A key's bias shifts all scores of a row alike: its gradient is pure rounding error.
    let names = || shapes.iter().map(|(name, _)| name).filter(|name| !name.ends_with("key.bias"));
    for name in names() {
        assert_near(name, &plain.gradient(name).unwrap(), &model.gradient(name).unwrap(), tolerance);
    }
    plain.update(&stream).unwrap();
    model.update(&stream, &optimizer, LEARNING_RATE, 1).unwrap();
    // The first update of AdamW is little more than a gradient's sign, which is uncertain in bf16; for biases it is the whole value.
    for name in names().filter(|name| T::DTYPE == DType::F32 || !name.ends_with("bias")) {
        assert_near(name, &plain.parameter(name).unwrap(), &model.parameter(name).unwrap(), tolerance);
    }
}

#[test]
fn a_step_is_that_of_the_model() {
    for device in devices() {
        step_agrees::<f32>(&device, 1e-4, 1e-3);
        step_agrees::<bf16>(&device, 1e-2, 0.1);
    }
}
