//! A trainer over operations alone: parameters in buffers of its own, gradients that several batches add up, and an optimizer in plain Rust. Causal
//! attention, LayerNorm and a linear layer learn to continue sequences that count upwards. Runs in the CPU emulator.
//!
//!     cargo run --release --example 09_trainer_of_operations

use retromae::device::{Buffer, DType, Device, Stream};
use retromae::ops::attention::{self, Attention, BackwardOptions, Mask};
use retromae::ops::cross_entropy::{self, Algorithm, Gradients};
use retromae::ops::layer_norm::{self, Fused, FusedGradients};
use retromae::ops::linear::{self, BackwardWeight};
use retromae::ops::{PackedBatch, Result};

const WORDS: usize = 32;
const HIDDEN: usize = 32;
const LENGTHS: [usize; 4] = [12, 5, 9, 14];
const TOKENS: usize = 12 + 5 + 9 + 14;
const UPDATES: usize = 40;
/// Batches whose gradients an update adds up.
const ACCUMULATED: usize = 2;

/// A parameter and its gradient on the device, and the momentum of the optimizer on the host.
struct Parameter {
    value: Buffer<f32>,
    gradient: Buffer<f32>,
    momentum: Vec<f32>,
}

impl Parameter {
    fn new(device: &Device, values: &[f32]) -> Result<Self> {
        let (value, gradient) = (device.upload(values)?, device.zeros(values.len())?);
        Ok(Self { value, gradient, momentum: vec![0.0; values.len()] })
    }

    /// Gradient descent with momentum. Any optimizer may stand here; `retromae::ops::adamw` is one that stays on the device.
    fn update(&mut self, learning_rate: f32) -> Result<()> {
        let (mut values, gradient) = (self.value.read()?, self.gradient.read()?);
        for ((value, momentum), gradient) in values.iter_mut().zip(&mut self.momentum).zip(gradient) {
            *momentum = 0.9 * *momentum + gradient;
            *value -= learning_rate * *momentum;
        }
        self.value.write(&values)?;
        Ok(self.gradient.write(&vec![0.0; values.len()])?)
    }
}

/// Adds the gradients of the sum of a batch's losses, and returns that sum: `logits = LN(x + attention(x · projectionᵀ)) ·
/// headᵀ`, where the rows of `x` are fixed vectors of the words.
fn accumulate(stream: &Stream, model: &mut [Parameter; 4], inputs: &[f32], targets: &[i32]) -> Result<f32> {
    let [projection, gamma, beta, head] = model;
    let device = stream.device();
    let rows = |columns| device.matrix::<f32>(TOKENS, columns);
    let (batch, x) = (PackedBatch::new(device, &LENGTHS)?, device.upload(inputs)?);
    let targets = device.upload(targets)?;
    let [mut packed, mut d_packed] = [rows(3 * HIDDEN)?, rows(3 * HIDDEN)?];
    let [mut context, mut sum, mut hidden] = [rows(HIDDEN)?, rows(HIDDEN)?, rows(HIDDEN)?];
    let [mut d_hidden, mut d_sum] = [rows(HIDDEN)?, rows(HIDDEN)?];
    let values = || device.zeros(TOKENS);
    let [mut log_sum_exp, mut mean, mut rstd, mut losses] = [values()?, values()?, values()?, values()?];
    let (input, weight) = (x.matrix(TOKENS, HIDDEN)?, projection.value.matrix(3 * HIDDEN, HIDDEN)?);
    linear::forward(stream, linear::Forward::new(input, weight, packed.rows_mut(TOKENS)))?;
    // Queries, keys and values are read where the layer wrote them, side by side.
    let [query, key, value] = packed.rows(TOKENS).split_columns();
    let attention = Attention::new(batch.view(), 1, HIDDEN).mask(Mask::CAUSAL);
    let (output, sums) = (context.rows_mut(TOKENS), log_sum_exp.view_mut());
    let forward = attention::Forward { attention, query, key, value, output, log_sum_exp: sums };
    attention::forward(stream, forward)?;
    let forward = layer_norm::Forward {
        input: context.rows(TOKENS),
        gamma: gamma.value.view(),
        beta: beta.value.view(),
        eps: 1e-12,
        output: hidden.rows_mut(TOKENS),
        mean: mean.view_mut(),
        rstd: rstd.view_mut(),
        fused: Fused { residual: Some(input), sum: Some(sum.rows_mut(TOKENS)), ..Fused::default() },
    };
    layer_norm::forward(stream, forward)?;

    // Losses and gradients: those of parameters are added to, those of activations overwritten.
    let needed = cross_entropy::workspace(Algorithm::default(), DType::F32, TOKENS, HIDDEN, WORDS);
    let mut workspace = needed.either(layer_norm::workspace(TOKENS, HIDDEN)).allocate(device)?;
    let weight = head.value.matrix(WORDS, HIDDEN)?;
    let (losses_out, scratch) = (losses.view_mut(), workspace.view_mut());
    let forward =
        cross_entropy::Forward::new(hidden.rows(TOKENS), weight, targets.view(), losses_out, scratch);
    let d_weight = Some(head.gradient.matrix_mut(WORDS, HIDDEN)?);
    let gradients = Gradients { d_hidden: Some(d_hidden.rows_mut(TOKENS)), d_weight, d_bias: None };
    cross_entropy::forward_backward(stream, forward, gradients)?;
    let backward = layer_norm::Backward {
        d_output: d_hidden.rows(TOKENS),
        sum: sum.rows(TOKENS),
        mean: mean.view(),
        rstd: rstd.view(),
        gamma: gamma.value.view(),
        d_input: d_sum.rows_mut(TOKENS),
        d_gamma: gamma.gradient.view_mut(),
        d_beta: beta.gradient.view_mut(),
        workspace: workspace.view_mut(),
        fused: FusedGradients::default(),
    };
    layer_norm::backward(stream, backward)?;
    let [d_query, d_key, d_value] = d_packed.rows_mut(TOKENS).split_columns();
    let (output, d_output, log_sum_exp) = (context.rows(TOKENS), d_sum.rows(TOKENS), log_sum_exp.view());
    let options = BackwardOptions::default();
    #[rustfmt::skip]
    let backward = attention::Backward {
        attention, query, key, value, output, log_sum_exp, d_output, d_query, d_key, d_value, options,
    };
    attention::backward(stream, backward)?;
    let d_weight = projection.gradient.matrix_mut(3 * HIDDEN, HIDDEN)?;
    linear::backward_weight(stream, BackwardWeight { input, d_output: d_packed.rows(TOKENS), d_weight })?;
    Ok(losses.read()?.iter().sum())
}

/// Values without a pattern, in [-0.1, 0.1].
fn noise(count: usize) -> Vec<f32> {
    (0..count).map(|i| 0.1 * (i as f32 * i as f32 * 0.7).sin()).collect()
}

/// The vectors of a batch's words, and the word after each: sequence `s` counts upwards by `s + 1`.
fn sequences(batch: usize, vectors: &[f32]) -> (Vec<f32>, Vec<i32>) {
    let (mut inputs, mut targets) = (Vec::new(), Vec::new());
    for (sequence, &length) in LENGTHS.iter().enumerate() {
        let word = |position| (7 * batch + 5 * sequence + (sequence + 1) * position) % WORDS;
        (0..length).for_each(|position| inputs.extend(&vectors[word(position) * HIDDEN..][..HIDDEN]));
        targets.extend((1..=length).map(|position| word(position) as i32));
    }
    (inputs, targets)
}

fn main() -> Result<()> {
    let device = Device::host()?;
    let initial = [noise(3 * HIDDEN * HIDDEN), vec![1.0; HIDDEN], vec![0.0; HIDDEN], noise(WORDS * HIDDEN)];
    let mut model = initial.map(|values| Parameter::new(&device, &values).unwrap());
    let (mut losses, vectors) = (Vec::new(), noise(WORDS * HIDDEN));
    for update in 0..UPDATES {
        let mut loss = 0.0;
        for batch in update * ACCUMULATED..(update + 1) * ACCUMULATED {
            let (inputs, targets) = sequences(batch, &vectors);
            loss += accumulate(&device.stream(), &mut model, &inputs, &targets)?;
        }
        let rows = (ACCUMULATED * TOKENS) as f32;
        model.iter_mut().try_for_each(|parameter| parameter.update(0.2 / rows))?;
        println!("update {update}: loss {:.3}", loss / rows);
        losses.push(loss);
    }
    assert!(losses[UPDATES - 1] < 0.5 * losses[0], "the losses are {losses:?}");
    Ok(())
}
