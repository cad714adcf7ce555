//! Several whole training steps against the reference's step and the reference's AdamW: every weight, and every reported number.

use approx::abs_diff_eq;
use retromae::device::{Device, Stream};
use retromae::model::{
    AdamW, Batch, DecoderKind, IGNORE_INDEX, Input, MicroBatch, Model, ModelConfig, QueryKind,
    StepRandomness, StepResult, TrainStep,
};
use retromae::ops::cross_entropy::Options;
use retromae::reference::cross_entropy::{self, CrossEntropy};
use retromae::reference::mask::sample_batch;
use retromae::reference::optimizer::{self, clip_coefficient, global_norm};
use retromae::reference::parameters::{get, zeros};
use retromae::reference::{self, Parameters, Step, gelu, layer_norm, linear, parameter_shapes};

use crate::common::max_error;
use crate::model::{MASKING, SEED, config, model, parameters, sentences};

/// Far from the defaults, so that each constant shows. `eps` is above the rounding error of a gradient that is 0, such as that of a key's bias, and
/// below the other gradients.
const ADAM_W: AdamW = AdamW { beta1: 0.8, beta2: 0.95, eps: 1e-4, weight_decay: 0.3, max_norm: None };
const STEPS: u32 = 4;
/// Tolerance of a weight, relative to the sum of the learning rates so far: three times the effect of f32's rounding of the gradients, relative to
/// `eps`.
const TOLERANCE: f64 = 5e-4;

fn learning_rate(update: u32) -> f64 {
    4e-3 * f64::from(update)
}

/// The reference's model, and its optimizer's state.
struct Reference {
    config: ModelConfig,
    parameters: Parameters,
    first_moments: Parameters,
    second_moments: Parameters,
}

impl Reference {
    fn new(config: &ModelConfig) -> Self {
        Self {
            config: config.clone(),
            parameters: parameters(config),
            first_moments: zeros(config),
            second_moments: zeros(config),
        }
    }

    /// Applies the gradients; returns their norm before clipping.
    fn update(&mut self, adamw: &AdamW, update: u32, gradients: &Parameters) -> f64 {
        let norm = global_norm(gradients.values().map(Vec::as_slice));
        let factor = adamw.max_norm.map_or(1.0, |max_norm| clip_coefficient(norm, max_norm));
        for (name, shape) in parameter_shapes(&self.config) {
            let rule = optimizer::AdamW {
                learning_rate: learning_rate(update),
                beta1: adamw.beta1,
                beta2: adamw.beta2,
                epsilon: adamw.eps,
                // Neither LayerNorm nor biases decay.
                weight_decay: if shape.len() == 2 { adamw.weight_decay } else { 0.0 },
            };
            let gradient: Vec<f64> = gradients[&name].iter().map(|value| factor * value).collect();
            let state =
                |tensors: &mut Parameters| tensors.remove(&name).expect("every parameter has a state");
            let mut first = state(&mut self.first_moments);
            let mut second = state(&mut self.second_moments);
            let parameter = self.parameters.get_mut(&name).expect("every parameter is there");
            rule.update(update, parameter, &gradient, &mut first, &mut second);
            self.first_moments.insert(name.clone(), first);
            self.second_moments.insert(name, second);
        }
        norm
    }

    /// Returns the share of labels that the head ranks first, from the hidden states `[T, H]`.
    fn accuracy(&self, hidden: &[f64], labels: &[i32]) -> f64 {
        let parameter = |name: &str| get(&self.parameters, name);
        let head = |name: &str| parameter(&format!("cls.predictions.transform.{name}"));
        let eps = f64::from(self.config.layer_norm_eps);
        let dense = linear::forward(hidden, head("dense.weight"), None, self.config.hidden_size);
        let activated = gelu::forward(&dense, head("dense.bias"));
        let hidden = layer_norm::forward(&activated, head("LayerNorm.weight"), head("LayerNorm.bias"), eps);
        let loss = cross_entropy::forward(&CrossEntropy {
            hidden: &hidden,
            weight: parameter("bert.embeddings.word_embeddings.weight"),
            bias: parameter("cls.predictions.bias"),
            targets: labels,
            row_weights: &vec![1.0; labels.len()],
            options: Options { ignore_index: IGNORE_INDEX, ..Options::default() },
        });
        let count = |of: &mut dyn Iterator<Item = bool>| of.filter(|&yes| yes).count() as f64;
        let labeled = count(&mut labels.iter().map(|&label| label != IGNORE_INDEX));
        count(&mut loss.correct.into_iter()) / labeled
    }
}

#[track_caller]
fn assert_near(what: &str, actual: f32, expected: f64, tolerance: f64) {
    assert!(
        abs_diff_eq!(f64::from(actual), expected, epsilon = tolerance * expected.abs()),
        "{what} is {actual}; it should be {expected}"
    );
}

/// Asserts every number that a step reports.
fn assert_reported(outcome: &StepResult, step: &Step, norm: f64, reference: &Reference, batch: &Batch) {
    let losses = &outcome.losses;
    assert_near("the encoder's loss", losses.encoder, step.encoder_loss, 1e-5);
    assert_near("the decoder's loss", losses.decoder, step.decoder_loss, 1e-5);
    assert_eq!(losses.bag_of_words.is_some(), reference.config.bag_of_words_loss_weight > 0.0);
    let bag_loss = losses.bag_of_words.unwrap_or(0.0);
    assert_near("the bag-of-words loss", bag_loss, step.bag_of_words_loss, 1e-5);
    assert_near("the encoder's perplexity", losses.encoder_perplexity, step.encoder_loss.exp(), 1e-4);
    assert_near("the decoder's perplexity", losses.decoder_perplexity, step.decoder_loss.exp(), 1e-4);
    let encoder = reference.accuracy(&step.encoder_hidden, &batch.encoder_labels);
    let decoder = reference.accuracy(&step.decoder_hidden, &batch.decoder_labels);
    assert_near("the encoder's accuracy", losses.encoder_accuracy, encoder, 1e-6);
    assert_near("the decoder's accuracy", losses.decoder_accuracy, decoder, 1e-6);
    assert_near("the gradients' norm", outcome.gradient_norm, norm, 1e-5);
}

/// Way to make a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `step` and `update`
    InTwo,
    /// `train_step`
    AsOne,
    /// Recorded and replayed
    Recorded,
}

fn train(model: &mut Model<f32>, stream: &Stream, way: Way, step: &TrainStep<'_>) -> StepResult {
    if way == Way::InTwo {
        let losses = model.step(stream, step.batch.input, Some(step.batch.randomness)).unwrap();
        let gradient_norm = model.update(stream, step.optimizer, step.learning_rate, step.update).unwrap();
        return StepResult { losses, gradient_norm };
    }
    model.record_steps(way == Way::Recorded);
    let handle = model.train_step(stream, step).unwrap();
    model.result(handle).unwrap()
}

/// Asserts the weights and both moments after `update`, against the reference's.
fn assert_state(model: &Model<f32>, reference: &Reference, update: u32) {
    let widened = |values: Vec<f32>| -> Vec<f64> { values.into_iter().map(f64::from).collect() };
    let tolerance = TOLERANCE * (1..=update).map(learning_rate).sum::<f64>();
    for (name, expected) in &reference.parameters {
        let error = max_error(&widened(model.parameter(name).unwrap()), expected);
        assert!(error <= tolerance, "{name} is off by {error:e} after update {update}, above {tolerance:e}");
        let (first, second) = model.moments(name).unwrap();
        for (actual, expected) in
            [(first, &reference.first_moments[name]), (second, &reference.second_moments[name])]
        {
            let largest = expected.iter().fold(0.0f64, |max, value| max.max(value.abs()));
            let error = max_error(&widened(actual), expected);
            assert!(error <= 1e-4 * largest + 1e-8, "a moment of {name} is off by {error:e} of {largest:e}");
        }
    }
}

/// Trains both and compares; returns the decoder's last accuracy and the last norm.
fn check(device: &Device, config: &ModelConfig, adamw: &AdamW, way: Way) -> (f32, f32) {
    let mut reference = Reference::new(config);
    let mut model = model::<f32>(device, config, &reference.parameters);
    let sentences = sentences();
    let mut last = (0.0, 0.0);
    for update in 1..=STEPS {
        // The step's number differs from the update's: each has its use.
        let number = 10 + update / 2;
        let batch = sample_batch(SEED, number, &sentences, MASKING, config);
        let step = TrainStep {
            batch: MicroBatch::new(
                Input::Sampled(&sentences, MASKING),
                StepRandomness { seed: SEED, step: number },
            ),
            optimizer: adamw,
            learning_rate: learning_rate(update),
            update,
        };
        let outcome = train(&mut model, &device.stream(), way, &step);
        let expected = reference::step(config, &reference.parameters, &batch, Some((SEED, number)));
        let norm = global_norm(expected.gradients.values().map(Vec::as_slice));
        assert_reported(&outcome, &expected, norm, &reference, &batch);
        assert_eq!(reference.update(adamw, update, &expected.gradients), norm);
        assert_state(&model, &reference, update);
        last = (outcome.losses.decoder_accuracy, outcome.gradient_norm);
    }
    last
}

#[test]
fn training_steps_match_the_reference_and_its_optimizer() {
    let device = Device::for_tests().expect("a device");
    let dropped = |decoder, query| ModelConfig { encoder_loss_weight: 0.7, ..config(decoder, query, 0.1) };
    let clipped = AdamW { max_norm: Some(0.5), ..ADAM_W };
    let (accuracy, norm) =
        check(&device, &dropped(DecoderKind::Basic, QueryKind::Embedding), &clipped, Way::InTwo);
    assert!(norm > 0.5 && accuracy > 0.0, "{norm} {accuracy}");
    let enhanced = dropped(DecoderKind::Enhanced, QueryKind::Embedding);
    let (accuracy, norm) = check(&device, &enhanced, &AdamW { max_norm: Some(1e3), ..ADAM_W }, Way::Recorded);
    assert!(norm < 1e3 && accuracy > 0.0, "{norm} {accuracy}");
    check(&device, &dropped(DecoderKind::Enhanced, QueryKind::Position), &ADAM_W, Way::AsOne);
    check(&device, &ModelConfig { bag_of_words_loss_weight: 0.25, ..enhanced }, &clipped, Way::Recorded);
}

#[test]
fn the_outcome_of_another_models_step_is_refused() {
    let device = &Device::for_tests().expect("a device");
    let config = config(DecoderKind::Basic, QueryKind::Embedding, 0.0);
    let parameters = parameters(&config);
    let [mut one, mut two] = [(); 2].map(|()| model::<f32>(device, &config, &parameters));
    let sentences = sentences();
    let step = TrainStep {
        batch: MicroBatch::new(Input::Sampled(&sentences, MASKING), StepRandomness { seed: SEED, step: 1 }),
        optimizer: &AdamW::default(),
        learning_rate: 1e-3,
        update: 1,
    };
    let [first, second] =
        [&mut one, &mut two].map(|model| model.train_step(&device.stream(), &step).unwrap());
    let message = one.result(second).unwrap_err().to_string();
    assert_eq!(message, "handle is of a step of another model; it should be of one of the last 2 steps of 1");
    assert_eq!(one.result(first).unwrap(), two.result(second).unwrap());
}
