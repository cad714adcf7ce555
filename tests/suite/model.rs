//! The whole model against the f64 reference: losses, sentence vectors, and the gradient of every parameter.

use std::collections::BTreeMap;

use crate::common::{devices, integers, prefix_sums, values};
use approx::{abs_diff_eq, assert_abs_diff_eq};
use retromae::device::{Device, ModelFloat, bf16};
use retromae::model::{
    AdamW, Batch, Capacity, DecoderKind, IGNORE_INDEX, Input, Masking, MicroBatch, Model, ModelConfig,
    PackedSentences, PoolRows, QueryKind, StepRandomness, StepResult, TrainStep,
};
use retromae::ops::masks::{MaskCountLimit, word_start_bits};
use retromae::reference::mask::sample_batch;
use retromae::reference::{self, Parameters, parameter_shapes};

pub const SEED: u64 = 42;
const STEP: u32 = 3;
const VOCABULARY: usize = 97;
pub const MASKING: Masking = Masking {
    mask_id: 5,
    encoder: MaskCountLimit { ratio: 0.3, cap: None },
    decoder: MaskCountLimit { ratio: 0.5, cap: None },
    pool_rows: PoolRows::AtMost(4),
};
pub const CAPACITY: Capacity = Capacity { tokens: 256, sentences: 8, sentence_length: 80 };

pub fn config(decoder: DecoderKind, query: QueryKind, dropout: f32) -> ModelConfig {
    ModelConfig {
        vocab_size: VOCABULARY,
        hidden_size: 64,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        intermediate_size: 96,
        max_position_embeddings: 80,
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        decoder,
        query,
        encoder_loss_weight: 1.0,
        decoder_loss_weight: 0.5,
        ..ModelConfig::tiny(VOCABULARY)
    }
}

/// Returns parameters large enough that every gradient is visible.
pub fn parameters(config: &ModelConfig) -> Parameters {
    let sample = |(index, (name, shape)): (usize, (String, Vec<usize>))| {
        let offset = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.0 };
        let scale = if name.contains("embeddings.weight") || shape.len() == 2 { 0.15 } else { 0.1 };
        let sampled = values(index as u64, shape.iter().product());
        // Rounded to f32, so that device and reference start from the same numbers.
        (name, sampled.iter().map(|value| f64::from((offset + scale * value) as f32)).collect())
    };
    parameter_shapes(config).into_iter().enumerate().map(sample).collect()
}

const LENGTHS: [usize; 6] = [2, 1, 17, 33, 65, 7];

pub fn sentences() -> PackedSentences {
    let starts: Vec<bool> =
        LENGTHS.iter().flat_map(|&length| (0..length).map(|position| position % 3 != 2)).collect();
    let mut word_starts = word_start_bits(&starts);
    // Bits beyond the last token have no meaning.
    *word_starts.last_mut().unwrap() |= u32::MAX << (starts.len() % 32);
    PackedSentences {
        sentence_indices: vec![11, 4, 300, 2, 9, 77],
        cu_seqlens: prefix_sums(&LENGTHS),
        ids: integers(1, starts.len(), VOCABULARY as u32),
        word_starts,
    }
}

/// Returns the batch that the device would sample for the test's sentences.
fn batch(config: &ModelConfig) -> Batch {
    sample_batch(SEED, STEP, &sentences(), MASKING, config)
}

pub fn model<T: ModelFloat>(device: &Device, config: &ModelConfig, parameters: &Parameters) -> Model<T> {
    let mut model = Model::new(device, config, CAPACITY).unwrap();
    for (name, values) in parameters {
        let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
        model.set_parameter(name, &values).unwrap();
    }
    model
}

pub fn gradients<T: ModelFloat>(model: &Model<T>) -> BTreeMap<String, Vec<f64>> {
    let read = |(name, _): (String, Vec<usize>)| {
        let gradient = model.gradient(&name).unwrap().into_iter().map(f64::from).collect();
        (name, gradient)
    };
    model.parameter_shapes().into_iter().map(read).collect()
}

/// Returns the gradients as an update leaves them: in the first moments.
fn first_moments<T: ModelFloat>(model: &Model<T>) -> BTreeMap<String, Vec<f64>> {
    let read = |(name, _): (String, Vec<usize>)| {
        let (first, _) = model.moments(&name).unwrap();
        (name, first.into_iter().map(f64::from).collect())
    };
    model.parameter_shapes().into_iter().map(read).collect()
}

/// Relative distance of two tensors in the L2 norm; norms below `floor` count as zero.
pub fn distance(actual: &[f64], expected: &[f64], floor: f64) -> f64 {
    assert_eq!(actual.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let difference = norm(&mut actual.iter().zip(expected).map(|(a, e)| a - e));
    difference / norm(&mut expected.iter().copied()).max(floor)
}

/// Checks a model; `tolerance` is relative: about 30 roundings of the element type in a chain of 3 layers.
fn check<T: ModelFloat>(device: &Device, config: &ModelConfig, tolerance: f64) {
    let parameters = parameters(config);
    let batch = batch(config);
    let randomness = (config.hidden_dropout_prob > 0.0).then_some((SEED, STEP));
    let expected = reference::step(config, &parameters, &batch, randomness);
    let mut model = model::<T>(device, config, &parameters);
    let randomness = randomness.map(|(seed, step)| StepRandomness { seed, step });
    let losses = model.step(&device.stream(), Input::Explicit(&batch), randomness).unwrap();
    for (name, actual, expected) in [
        ("encoder", losses.encoder, expected.encoder_loss),
        ("decoder", losses.decoder, expected.decoder_loss),
        ("bag-of-words", losses.bag_of_words.unwrap_or(0.0), expected.bag_of_words_loss),
    ] {
        assert!(
            abs_diff_eq!(f64::from(actual), expected, epsilon = tolerance * expected.abs()),
            "{name} loss {actual}, expected {expected}"
        );
    }
    for (loss, perplexity, accuracy) in [
        (losses.encoder, losses.encoder_perplexity, losses.encoder_accuracy),
        (losses.decoder, losses.decoder_perplexity, losses.decoder_accuracy),
    ] {
        assert_abs_diff_eq!(perplexity.ln(), loss, epsilon = 1e-5 * loss);
        assert!((0.0..1.0).contains(&accuracy), "accuracy {accuracy}");
    }
    for (name, actual) in gradients(&model) {
        let error = gradient_error(&name, &actual, &expected.gradients);
        assert!(error < tolerance, "gradient of {name} is off by {error:e} ({config:?})");
    }
}

/// Relative error of a parameter's gradient. A key bias has no gradient in exact arithmetic: its error is relative to the query bias's gradient.
pub fn gradient_error(name: &str, actual: &[f64], expected: &Parameters) -> f64 {
    let floor = if name.ends_with("key.bias") { norm(&expected[&name.replace("key", "query")]) } else { 0.0 };
    distance(actual, &expected[name], floor)
}

fn norm(values: &[f64]) -> f64 {
    values.iter().map(|value| value * value).sum::<f64>().sqrt()
}

/// Returns a config of every kind of model; the last has the bag-of-words head.
pub fn configs(dropout: f32) -> [ModelConfig; 4] {
    [
        config(DecoderKind::Basic, QueryKind::Embedding, dropout),
        config(DecoderKind::Enhanced, QueryKind::Embedding, dropout),
        config(DecoderKind::Enhanced, QueryKind::Position, dropout),
        ModelConfig {
            bag_of_words_loss_weight: 0.25,
            ..config(DecoderKind::Enhanced, QueryKind::Embedding, dropout)
        },
    ]
}

#[test]
fn every_gradient_matches_the_reference() {
    for device in devices() {
        for config in [0.0, 0.1].into_iter().flat_map(configs) {
            check::<f32>(&device, &config, 2e-5);
        }
    }
}

#[test]
fn bf16_gradients_match_the_reference() {
    for config in configs(0.0) {
        check::<bf16>(&devices()[0], &config, 6e-2);
    }
}

/// The device's samples, down to the labels and their weights, equal the reference's.
#[test]
fn a_sampled_step_is_that_of_its_batch() {
    let [basic, enhanced, position, bag_of_words] = configs(0.1);
    let cases = [
        (&basic, MASKING),
        (&basic, Masking { encoder: MaskCountLimit::of(1.0), ..MASKING }),
        (&basic, Masking { decoder: MaskCountLimit { ratio: 0.5, cap: Some(6) }, ..MASKING }),
        (&enhanced, MASKING),
        (&enhanced, Masking { pool_rows: PoolRows::Independent, ..MASKING }),
        (&position, Masking { decoder: MaskCountLimit { ratio: 0.5, cap: Some(6) }, ..MASKING }),
        (&bag_of_words, MASKING),
    ];
    let randomness = Some(StepRandomness { seed: SEED, step: STEP });
    for device in devices() {
        for (config, masking) in cases {
            let parameters = parameters(config);
            let batch = sample_batch(SEED, STEP, &sentences(), masking, config);
            let run = |input| {
                let mut model = model::<f32>(&device, config, &parameters);
                let losses = model.step(&device.stream(), input, randomness).unwrap();
                (losses, gradients(&model))
            };
            let sentences = sentences();
            let (sampled, explicit) =
                (run(Input::Sampled(&sentences, masking)), run(Input::Explicit(&batch)));
            for (sampled, explicit) in
                [(sampled.0.encoder, explicit.0.encoder), (sampled.0.decoder, explicit.0.decoder)]
            {
                assert_abs_diff_eq!(sampled, explicit, epsilon = 1e-6 * explicit.abs());
            }
            assert_eq!(sampled.0.encoder_accuracy, explicit.0.encoder_accuracy);
            // Labeled rows are at other indices, and are added up in another order.
            for (name, actual) in sampled.1 {
                let floor = norm(&explicit.1[&name.replace("key.bias", "query.bias")]);
                assert!(
                    distance(&actual, &explicit.1[&name], floor) < 2e-6,
                    "gradient of {name}, {masking:?}"
                );
            }
        }
    }
}

#[test]
fn sentence_vectors_match_the_reference() {
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.1);
    let (parameters, batch) = (parameters(&config), batch(&config));
    let expected = reference::embed(&config, &parameters, &batch.cu_seqlens, &batch.encoder_input_ids);
    for device in devices() {
        let mut model = model::<f32>(&device, &config, &parameters);
        let actual = model.embed(&device.stream(), &batch.cu_seqlens, &batch.encoder_input_ids).unwrap();
        let actual: Vec<f64> = actual.into_iter().map(f64::from).collect();
        assert!(distance(&actual, &expected, 0.0) < 1e-5);
    }
}

/// A few updates on one batch must lower both losses, and a step does not depend on earlier ones.
#[test]
fn training_on_one_batch_lowers_the_losses() {
    let device = &devices()[0];
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
    let batch = batch(&config);
    let mut model = Model::<f32>::new(device, &config, CAPACITY).unwrap();
    model.initialize(1).unwrap();
    let stream = device.stream();
    let first = model.step(&stream, Input::Explicit(&batch), None).unwrap();
    assert_eq!(model.step(&stream, Input::Explicit(&batch), None).unwrap(), first);
    for update in 1..=30 {
        model.step(&stream, Input::Explicit(&batch), None).unwrap();
        let norm = model.update(&stream, &AdamW::default(), 3e-3, update).unwrap();
        assert!(norm.is_finite() && norm > 0.0);
    }
    let last = model.step(&stream, Input::Explicit(&batch), None).unwrap();
    assert!(last.encoder < 0.8 * first.encoder && last.decoder < 0.8 * first.decoder, "{first:?} {last:?}");
}

/// Runs one training step on the test's sentences, whose ids are all moved on by `shift`; waits for it.
fn train<T: ModelFloat>(
    model: &mut Model<T>,
    device: &Device,
    shift: i32,
    step: u32,
    learning_rate: f64,
) -> StepResult {
    let mut sentences = sentences();
    sentences.ids.iter_mut().for_each(|id| *id = (*id + shift) % VOCABULARY as i32);
    let batch = sample_batch(SEED, step, &sentences, MASKING, model.config());
    // Some batches are explicit: they are padded in a different way than sampled ones.
    let step = TrainStep {
        batch: MicroBatch::new(
            if shift == 3 { Input::Explicit(&batch) } else { Input::Sampled(&sentences, MASKING) },
            StepRandomness { seed: SEED, step },
        ),
        optimizer: &AdamW::default(),
        learning_rate,
        update: step + 1,
    };
    let handle = model.train_step(&device.stream(), &step).unwrap();
    model.result(handle).unwrap()
}

/// Recorded steps read the batch, the seed and the learning rate anew at every replay, and padding changes sums only by rounding.
#[test]
fn recorded_steps_train_as_others_do() {
    for device in devices() {
        for config in configs(0.1) {
            let parameters = parameters(&config);
            let [mut plain, mut recorded] = [false, true].map(|record| {
                let mut model = model::<f32>(&device, &config, &parameters);
                model.record_steps(record);
                model
            });
            for (step, shift) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3), (5, 5)] {
                let [plain, recorded] = [&mut plain, &mut recorded]
                    .map(|model| train(model, &device, shift, step, 1e-3 * f64::from(step + 1)));
                for (plain, recorded) in [
                    (plain.losses.encoder, recorded.losses.encoder),
                    (plain.losses.decoder, recorded.losses.decoder),
                    (plain.losses.bag_of_words.unwrap_or(0.0), recorded.losses.bag_of_words.unwrap_or(0.0)),
                    (plain.gradient_norm, recorded.gradient_norm),
                ] {
                    assert!(
                        abs_diff_eq!(plain, recorded, epsilon = 1e-4 * plain.abs()),
                        "step {step}: {plain}, {recorded}"
                    );
                }
            }
            let expected = first_moments(&plain);
            for (name, actual) in first_moments(&recorded) {
                let floor = norm(&expected[&name.replace("key.bias", "query.bias")]);
                assert!(distance(&actual, &expected[&name], floor) < 1e-3, "first moments of {name}");
            }
        }
    }
}

/// The first step of a shape is enqueued, the second recorded, the third replayed: all give the same bits.
#[test]
fn a_replay_gives_the_bits_of_the_first_run() {
    for device in devices() {
        let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.1);
        let mut model = model::<bf16>(&device, &config, &parameters(&config));
        model.record_steps(true);
        let mut run = || {
            for (name, shape) in model.parameter_shapes() {
                let zeros = vec![0.0; shape.iter().product()];
                model.set_moments(&name, &zeros, &zeros).unwrap();
            }
            (train(&mut model, &device, 1, STEP, 0.0), first_moments(&model))
        };
        let first = run();
        assert!(first.0.gradient_norm > 0.0 && first.1.values().flatten().any(|&moment| moment != 0.0));
        assert_eq!(run(), first);
        assert_eq!(run(), first);
    }
}

/// Earlier work has no effect: a step, an update, a whole training step.
#[test]
fn a_step_adds_to_no_earlier_gradient() {
    for device in devices() {
        let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
        let (batch, stream) = (batch(&config), device.stream());
        let mut model = model::<f32>(&device, &config, &parameters(&config));
        let step = |model: &mut Model<f32>| {
            model.step(&stream, Input::Explicit(&batch), None).unwrap();
            gradients(model)
        };
        let first = step(&mut model);
        assert!(first.values().flatten().any(|&gradient| gradient != 0.0));
        assert_eq!(step(&mut model), first);
        model.update(&stream, &AdamW::default(), 0.0, 1).unwrap();
        assert!(gradients(&model).values().flatten().all(|&gradient| gradient == 0.0));
        assert_eq!(step(&mut model), first);
        let trained = train(&mut model, &device, 1, STEP, 0.0);
        assert_eq!(train(&mut model, &device, 1, STEP, 0.0), trained);
        assert_eq!(step(&mut model), first);
    }
}

#[test]
fn the_outcome_of_a_step_long_past_is_refused() {
    let device = &devices()[0];
    let config = config(DecoderKind::Basic, QueryKind::Embedding, 0.0);
    let mut model = model::<f32>(device, &config, &parameters(&config));
    let batch = batch(&config);
    let mut enqueue = |update| {
        let step = TrainStep {
            batch: MicroBatch::new(Input::Explicit(&batch), StepRandomness { seed: SEED, step: update }),
            optimizer: &AdamW::default(),
            learning_rate: 1e-3,
            update,
        };
        model.train_step(&device.stream(), &step).unwrap()
    };
    let handles = [1, 2, 3].map(&mut enqueue);
    let message = model.result(handles[0]).unwrap_err().to_string();
    assert_eq!(message, "handle is of step 1; it should be of one of the last 2 steps of 3");
    let losses = [handles[1], handles[2]].map(|handle| model.result(handle).unwrap().losses.encoder);
    assert!(losses[1] < losses[0], "{losses:?}");
}

#[test]
fn a_batch_without_labels_has_no_loss_and_no_gradient() {
    let device = &devices()[0];
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
    let mut batch = batch(&config);
    batch.encoder_labels.fill(IGNORE_INDEX);
    batch.decoder_labels.fill(IGNORE_INDEX);
    let mut model = model::<f32>(device, &config, &parameters(&config));
    let losses = model.step(&device.stream(), Input::Explicit(&batch), None).unwrap();
    assert_eq!((losses.encoder, losses.decoder), (0.0, 0.0));
    assert!(gradients(&model).values().flatten().all(|&value| value == 0.0));
}

/// Infinite values in the head reach the losses and the norm, which makes the update refused.
#[test]
fn a_step_that_is_not_finite_changes_no_weight() {
    for device in devices() {
        for config in configs(0.0) {
            let mut parameters = parameters(&config);
            // Their product, a logit, is infinite.
            parameters.get_mut("cls.predictions.transform.LayerNorm.bias").unwrap()[3] = 3e38;
            parameters.get_mut("bert.embeddings.word_embeddings.weight").unwrap()[3] = 4.0;
            let mut model = model::<bf16>(&device, &config, &parameters);
            let weights = |model: &Model<bf16>| {
                let bits = |(name, _): (String, Vec<usize>)| {
                    let values = model.parameter(&name).unwrap();
                    (
                        values.into_iter().map(f32::to_bits).collect::<Vec<u32>>(),
                        model.moments(&name).unwrap().0,
                    )
                };
                model.parameter_shapes().into_iter().map(bits).collect::<Vec<_>>()
            };
            let before = weights(&model);
            let outcome = train(&mut model, &device, 0, 1, 1e-2);
            assert!(outcome.losses.encoder.is_nan() && outcome.losses.decoder.is_nan(), "{outcome:?}");
            assert!(outcome.losses.bag_of_words.is_none_or(f32::is_nan), "{outcome:?}");
            assert!(!outcome.gradient_norm.is_finite(), "{outcome:?}");
            assert!(weights(&model) == before, "weights or moments have changed");
        }
    }
}

/// A bag holds the ids before corruption, each once, without the first and the last token's.
#[test]
fn a_bag_has_the_words_of_its_sentence() {
    let ignore = IGNORE_INDEX;
    let batch = Batch {
        cu_seqlens: vec![0, 6, 7, 9],
        encoder_input_ids: vec![1, 50, 4, 51, 4, 2, 1, 1, 2],
        encoder_labels: vec![ignore, 9, ignore, 5, ignore, ignore, ignore, ignore, ignore],
        ..Batch::default()
    };
    assert_eq!([0, 1, 2].map(|b| batch.bag_of_words(b)), [vec![4, 5, 9], vec![], vec![]]);
}

#[test]
fn wrong_batches_are_refused() {
    let device = &devices()[0];
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
    let mut model = model::<f32>(device, &config, &parameters(&config));
    let mut refuse = |change: &dyn Fn(&mut Batch), expected: &str| {
        let mut batch = batch(&config);
        change(&mut batch);
        let message = model.step(&device.stream(), Input::Explicit(&batch), None).unwrap_err().to_string();
        assert!(message.contains(expected), "{message:?} lacks {expected:?}");
    };
    refuse(
        &|batch| batch.encoder_input_ids[5] = 97,
        "encoder_input_ids is 97 at token 5; it should be in 0..97",
    );
    refuse(&|batch| batch.decoder_labels[0] = -3, "decoder_labels is -3 at token 0");
    refuse(&|batch| batch.visibility = None, "visibility is absent");
    refuse(
        &|batch| batch.cu_seqlens[1] = 0,
        "cu_seqlens is 0 tokens for sentence 0; it should be 1 to 80 tokens",
    );
    refuse(&|batch| batch.visibility.as_mut().unwrap().rows[30] = 60, "visibility is");
    refuse(&|batch| batch.encoder_labels.truncate(3), "encoder_labels is 3 long");
    refuse(
        &|batch| batch.cu_seqlens.truncate(1),
        "cu_seqlens is 1 elements long; it should be at least 2: prefix sums of at least one sentence",
    );
    refuse(&|batch| batch.cu_seqlens[0] = 3, "cu_seqlens is 3 at first; it should be prefix sums from 0");
    refuse(
        &|batch| batch.cu_seqlens.extend([126, 127, 128]),
        "sentences is 9; it should be at most 8 (the capacity)",
    );
}

#[test]
fn wrong_sentences_are_refused() {
    let device = &devices()[0];
    let config = config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0);
    let mut model = model::<f32>(device, &config, &parameters(&config));
    let randomness = Some(StepRandomness { seed: SEED, step: STEP });
    let mut refuse = |change: &dyn Fn(&mut PackedSentences, &mut Masking), randomness, expected: &str| {
        let (mut sentences, mut masking) = (sentences(), MASKING);
        change(&mut sentences, &mut masking);
        let input = Input::Sampled(&sentences, masking);
        let message = model.step(&device.stream(), input, randomness).unwrap_err().to_string();
        assert_eq!(message, expected);
    };
    refuse(&|_, _| (), None, "randomness is absent; it should be present where masks are sampled");
    refuse(&|s, _| s.ids[5] = -1, randomness, "ids is -1 at token 5; it should be in 0..97");
    refuse(
        &|s, _| s.sentence_indices.truncate(2),
        randomness,
        "sentence_indices is 2 elements long; it should be 6 (sentences)",
    );
    refuse(
        &|s, _| s.word_starts.push(0),
        randomness,
        "word_starts is 5 elements long; it should be 4 (ceil(tokens / 32))",
    );
    refuse(&|_, m| m.mask_id = 97, randomness, "encoder.replacement.mask_id is 97; it should be in 0..97");
    refuse(
        &|_, m| m.encoder.ratio = 1.5,
        randomness,
        "count_limit is of ratio 1.5; it should be of a ratio in [0, 1]",
    );
    refuse(
        &|_, m| m.pool_rows = PoolRows::AtMost(0),
        randomness,
        "pool_rows is 0; it should be 1 to 65536 in a model of sentences of up to 80 tokens",
    );
    // A model for long sentences has room for fewer masks.
    let long = ModelConfig { max_position_embeddings: 1100, ..config.clone() };
    let capacity = Capacity { tokens: 1100, sentences: 6, sentence_length: 1100 };
    let mut model = Model::<f32>::new(device, &long, capacity).unwrap();
    let sentences = PackedSentences {
        sentence_indices: vec![0],
        cu_seqlens: vec![0, 1100],
        ids: vec![7; 1100],
        word_starts: vec![u32::MAX; 35],
    };
    let short = self::sentences();
    for (sentences, pool_rows) in [
        (&sentences, PoolRows::Independent),
        (&sentences, PoolRows::AtMost(257)),
        (&short, PoolRows::AtMost(257)),
    ] {
        let input = Input::Sampled(sentences, Masking { pool_rows, ..MASKING });
        let message = model.step(&device.stream(), input, randomness).unwrap_err().to_string();
        let expected = format!(
            "pool_rows is {pool_rows}; it should be 1 to 256 in a model of sentences of up to 1100 tokens"
        );
        assert_eq!(message, expected);
    }
}
