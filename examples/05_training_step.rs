//! One training step without randomness: every parameter, id, label and visible key is written out here, the step runs in the
//! CPU emulator, and both losses and all gradients are compared with the f64 reference.
//!
//!     cargo run --release --example 05_training_step

use std::process::ExitCode;

use retromae::device::Device;
use retromae::model::{Batch, Capacity, IGNORE_INDEX, Input, MaskPool, Model, ModelConfig};
use retromae::reference::{self, Parameters};

/// Tolerance for f32 rounding through three layers; the error of a correct step is about 1e-6.
const TOLERANCE: f64 = 1e-4;

const CLS: i32 = 1;
const SEP: i32 = 2;
const MASK: i32 = 3;

fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let config = ModelConfig {
        hidden_size: 64,
        num_attention_heads: 2,
        intermediate_size: 128,
        max_position_embeddings: 16,
        ..ModelConfig::tiny(32)
    };
    let batch = batch();
    let device = Device::host()?;
    // All device memory is allocated here, for batches of up to this size.
    let capacity = Capacity { tokens: 16, sentences: 2, sentence_length: 16 };
    let mut model = Model::<f32>::new(&device, &config, capacity)?;
    let parameters = set_parameters(&mut model)?;

    // No randomness: no dropout, and the masks are those of the batch.
    let losses = model.step(&device.stream(), Input::Explicit(&batch), None)?;
    let expected = reference::step(&config, &parameters, &batch, None);

    println!("{:>16} {:>12} {:>12} {:>10}", "loss", "device", "reference", "off by");
    let mut worst = 0.0f64;
    for (name, actual, expected) in [
        ("encoder", losses.encoder, expected.encoder_loss),
        ("decoder", losses.decoder, expected.decoder_loss),
    ] {
        let error = (f64::from(actual) / expected - 1.0).abs();
        worst = larger(worst, error);
        println!("{name:>16} {actual:>12.6} {expected:>12.6} {error:>10.1e}");
    }

    println!("\n{:<62} {:>10} {:>12} {:>10}", "gradient", "shape", "norm", "off by");
    for (name, shape) in model.parameter_shapes() {
        let gradient: Vec<f64> = model.gradient(&name)?.into_iter().map(f64::from).collect();
        // A softmax is invariant to a shift of all scores, so the key bias's gradient is rounding alone: it is measured against the query bias's.
        let scale = norm(&expected.gradients[&name.replace("self.key.bias", "self.query.bias")]);
        let difference: Vec<f64> =
            gradient.iter().zip(&expected.gradients[&name]).map(|(actual, exact)| actual - exact).collect();
        let error = norm(&difference) / scale;
        worst = larger(worst, error);
        let shape = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("×");
        println!("{name:<62} {shape:>10} {:>12.6} {error:>10.1e}", norm(&gradient));
    }

    println!("\nlargest relative difference: {worst:.1e} (at most {TOLERANCE:.0e})");
    Ok(if worst <= TOLERANCE { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// BERT's initialization, then every parameter overwritten by its Hugging Face name; returns the same values for the reference.
fn set_parameters(model: &mut Model<f32>) -> Result<Parameters, Box<dyn std::error::Error>> {
    model.initialize(42)?;
    // A single one: a bias of the head that makes id 7 more likely.
    let mut bias = model.parameter("cls.predictions.bias")?;
    bias[7] = 0.5;
    model.set_parameter("cls.predictions.bias", &bias)?;
    // All of them: matrices ten times as large as initialized, so that attention is not nearly uniform. A checkpoint is loaded likewise.
    let mut parameters = Parameters::new();
    for (name, shape) in model.parameter_shapes() {
        let factor = if shape.len() == 2 { 10.0 } else { 1.0 };
        let values: Vec<f32> = model.parameter(&name)?.iter().map(|value| value * factor).collect();
        model.set_parameter(&name, &values)?;
        parameters.insert(name, values.into_iter().map(f64::from).collect());
    }
    Ok(parameters)
}

/// Two sentences of 6 and 4 tokens, packed one after the other without padding.
fn batch() -> Batch {
    let original = [[CLS, 10, 11, 12, 13, SEP].as_slice(), &[CLS, 20, 21, SEP]].concat();
    // The encoder reads a few masked tokens and must predict their originals.
    let mut encoder_input_ids = original.clone();
    let mut encoder_labels = vec![IGNORE_INDEX; original.len()];
    for masked in [2, 8] {
        encoder_labels[masked] = original[masked];
        encoder_input_ids[masked] = MASK;
    }
    // The enhanced decoder reads the original tokens and must predict all of them but position 0, which holds the sentence vector.
    let decoder_labels = original.iter().map(|&id| if id == CLS { IGNORE_INDEX } else { id }).collect();
    Batch {
        cu_seqlens: vec![0, 6, 10],
        encoder_input_ids,
        encoder_labels,
        decoder_input_ids: original,
        decoder_labels,
        visibility: Some(visibility()),
    }
}

/// The tokens that each decoder row may attend to: every sentence has a pool of bit rows, and every token selects one of them.
fn visibility() -> MaskPool {
    // Sentences of up to 32 tokens have one word a row; bit j is position j. Whatever the bits, no token sees itself and all others see position 0.
    let first = [0b01_1011, 0b10_0101];
    let second = [0b0111, 0b1001, 0b1110];
    MaskPool {
        bits: [first.as_slice(), &second].concat(),
        // Offset of each sentence's first word.
        offsets: vec![0, 2, 5],
        // Pool row of each of the 6 + 4 tokens.
        rows: vec![0, 1, 0, 1, 0, 1, 0, 1, 2, 0],
    }
}

/// Returns the maximum, or NaN if either is NaN: `f64::max` would hide it.
fn larger(left: f64, right: f64) -> f64 {
    if right > left || right.is_nan() { right } else { left }
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}
