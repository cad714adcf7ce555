//! Steps padded to recurring shapes, recorded and replayed, against unpadded ones, for random capacities and batches.

use std::collections::BTreeMap;

use approx::abs_diff_eq;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use retromae::device::{Device, HostOptions};
use retromae::model::{
    AdamW, Batch, Capacity, DecoderKind, Input, Masking, MicroBatch, Model, ModelConfig, PackedSentences,
    PoolRows, QueryKind, StepRandomness, StepResult, TrainStep,
};
use retromae::ops::masks::{MaskCountLimit, word_start_bits};
use retromae::reference::mask::sample_batch;

use crate::common::{integers, prefix_sums};
use crate::model;

const VOCABULARY: usize = 40;
/// Sizes are rounded up to multiples of the capacity divided by this; not at all if the capacity is no larger.
const SHARES: usize = 16;
const LEARNING_RATE: f64 = 1e-2;
/// With an `eps` large enough that the rounding of a nearly zero gradient does not become a whole step.
const ADAM_W: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-3, weight_decay: 0.01, max_norm: Some(1.0) };

/// Returns one CPU emulator with guard pages, or the CUDA device.
pub fn device() -> Device {
    match std::env::var("RETROMAE_TEST_DEVICE").as_deref() {
        Ok("cuda") => Device::for_tests().expect("a device"),
        _ => Device::host_with(HostOptions { guard: true, ..HostOptions::default() }).expect("a device"),
    }
}

/// A model, and the batches that it is trained on in turn.
#[derive(Clone, Debug)]
struct Case {
    config: ModelConfig,
    capacity: Capacity,
    /// Sentence lengths of each batch; each is trained on three times: enqueued, recorded, and replayed.
    batches: Vec<Vec<usize>>,
    masking: Masking,
    explicit: bool,
}

fn model_config(kind: usize, dropout: f32, bags: bool, positions: usize) -> ModelConfig {
    let (decoder, query) = [
        (DecoderKind::Basic, QueryKind::Embedding),
        (DecoderKind::Enhanced, QueryKind::Embedding),
        (DecoderKind::Enhanced, QueryKind::Position),
    ][kind];
    ModelConfig {
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 40,
        max_position_embeddings: positions,
        hidden_dropout_prob: dropout,
        attention_probs_dropout_prob: dropout,
        bag_of_words_loss_weight: if bags { 0.3 } else { 0.0 },
        decoder,
        query,
        ..ModelConfig::tiny(VOCABULARY)
    }
}

/// Generates capacities from a single token on, and batches that fill them or are smaller.
fn cases() -> impl Strategy<Value = Case> {
    let capacity = (prop_oneof![1usize..=SHARES, SHARES + 1..=70], 1usize..=9, 1usize..=70);
    let kind = (0usize..3, any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (capacity, kind).prop_flat_map(|((tokens, sentences, length), (kind, dropout, bags, explicit, own))| {
        let lengths = prop::collection::vec(1..=length.min(tokens), 1..=sentences);
        prop::collection::vec(lengths, 1..=3).prop_map(move |mut batches| {
            for lengths in &mut batches {
                // As many whole sentences as there is room for; the first one always fits.
                let mut left = tokens;
                lengths.retain(|&length| {
                    let fits = length <= left;
                    left -= if fits { length } else { 0 };
                    fits
                });
            }
            Case {
                config: model_config(kind, if dropout { 0.2 } else { 0.0 }, bags, length),
                capacity: Capacity { tokens, sentences, sentence_length: length },
                batches,
                masking: Masking {
                    mask_id: 3,
                    encoder: MaskCountLimit::of(0.3),
                    decoder: MaskCountLimit::of(0.5),
                    pool_rows: if own { PoolRows::Independent } else { PoolRows::AtMost(4) },
                },
                explicit,
            }
        })
    })
}

fn sentences(seed: u64, lengths: &[usize]) -> PackedSentences {
    let starts: Vec<bool> =
        lengths.iter().flat_map(|&length| (0..length).map(|position| position % 3 != 2)).collect();
    PackedSentences {
        sentence_indices: (0..lengths.len() as u32).map(|b| 5 * b + 2).collect(),
        cu_seqlens: prefix_sums(lengths),
        ids: integers(seed, starts.len(), VOCABULARY as u32),
        word_starts: word_start_bits(&starts),
    }
}

/// Returns the outcomes of all steps, and the weights after them.
fn train(device: &Device, case: &Case, record: bool) -> (Vec<StepResult>, Vec<Vec<f32>>) {
    let mut model = Model::<f32>::new(device, &case.config, case.capacity).expect("a model");
    model.initialize(7).expect("weights");
    model.record_steps(record);
    let mut outcomes = Vec::new();
    for (index, lengths) in case.batches.iter().enumerate() {
        for _ in 0..3 {
            let update = outcomes.len() as u32 + 1;
            let sentences = sentences(index as u64, lengths);
            let batch: Batch = sample_batch(9, update, &sentences, case.masking, &case.config);
            let step = TrainStep {
                batch: MicroBatch::new(
                    if case.explicit {
                        Input::Explicit(&batch)
                    } else {
                        Input::Sampled(&sentences, case.masking)
                    },
                    StepRandomness { seed: 9, step: update },
                ),
                optimizer: &ADAM_W,
                learning_rate: LEARNING_RATE,
                update,
            };
            let handle = model.train_step(&device.stream(), &step).expect("a step");
            outcomes.push(model.result(handle).expect("its outcome"));
        }
    }
    let weights =
        model.parameter_shapes().into_iter().map(|(name, _)| model.parameter(&name).expect("a weight"));
    let weights = weights.collect();
    assert_eq!(model.recorded_kernels().next().is_some(), record, "whether steps were recorded");
    (outcomes, weights)
}

/// Without padding the bits are the same. Padding only adds zeros to sums; but the GEMM backend adds up a matmul of another size in another order, so
/// results that depend on it differ by rounding.
#[track_caller]
fn assert_same(
    case: &Case,
    plain: &(Vec<StepResult>, Vec<Vec<f32>>),
    recorded: &(Vec<StepResult>, Vec<Vec<f32>>),
) {
    if case.capacity.tokens <= SHARES && case.capacity.sentences <= SHARES {
        assert!(plain == recorded, "{:?} {:?}", plain.0, recorded.0);
        return;
    }
    let near = |a: f32, b: f32| abs_diff_eq!(a, b, epsilon = 2e-5 * b.abs());
    for (a, b) in plain.0.iter().zip(&recorded.0) {
        // Accuracies are not compared: rounding may decide which of two words is likelier.
        assert!(near(a.gradient_norm, b.gradient_norm), "{a:?} {b:?}");
        let (a, b) = (&a.losses, &b.losses);
        assert!(near(a.encoder, b.encoder) && near(a.decoder, b.decoder), "{a:?} {b:?}");
        assert!(near(a.bag_of_words.unwrap_or(0.0), b.bag_of_words.unwrap_or(0.0)), "{a:?} {b:?}");
        assert!(near(a.encoder_perplexity.ln(), a.encoder) && near(b.decoder_perplexity.ln(), b.decoder));
    }
    // A gradient's error of 1e-6, divided by `eps`, in each of the steps.
    let tolerance = LEARNING_RATE as f32 * plain.0.len() as f32 * 1e-6 / ADAM_W.eps as f32;
    for (a, b) in plain.1.iter().flatten().zip(recorded.1.iter().flatten()) {
        assert!((a - b).abs() <= tolerance, "a weight of {a} is {b}, tolerance {tolerance}");
    }
}

#[test]
fn recorded_steps_are_those_of_others_whatever_the_capacity() {
    let device = device();
    let mut runner = TestRunner::new_with_rng(
        Config { cases: 40, failure_persistence: None, ..Config::default() },
        TestRng::deterministic_rng(RngAlgorithm::ChaCha),
    );
    let equal = |case: Case| {
        assert_same(&case, &train(&device, &case, false), &train(&device, &case, true));
        Ok(())
    };
    runner.run(&cases(), equal).unwrap_or_else(|error| panic!("{error}"));
}

/// A recorded step is not replayed for other masking options or optimizer constants.
#[test]
fn a_graph_is_replayed_for_its_own_constants_alone() {
    let device = &device();
    let config = model::config(DecoderKind::Basic, QueryKind::Embedding, 0.0);
    let sentences = model::sentences();
    // Masking of the same shape.
    let other = Masking { mask_id: 6, ..model::MASKING };
    let train = |record| {
        let mut trained = model::model::<f32>(device, &config, &model::parameters(&config));
        trained.record_steps(record);
        for update in 1..=8 {
            let (masking, weight_decay) =
                [(model::MASKING, 0.0), (other, 0.0), (model::MASKING, 0.9)][update as usize % 3];
            let step = TrainStep {
                batch: MicroBatch::new(
                    Input::Sampled(&sentences, masking),
                    StepRandomness { seed: model::SEED, step: update },
                ),
                optimizer: &AdamW { weight_decay, eps: 1e-3, ..AdamW::default() },
                learning_rate: 1e-2,
                update,
            };
            trained.train_step(&device.stream(), &step).unwrap();
        }
        let read = |(name, _): (String, Vec<usize>)| {
            let values = trained.parameter(&name).unwrap().into_iter().map(f64::from).collect::<Vec<f64>>();
            (name, values)
        };
        trained.parameter_shapes().into_iter().map(read).collect::<BTreeMap<_, _>>()
    };
    let (plain, recorded) = (train(false), train(true));
    for (name, values) in plain {
        assert!(model::distance(&recorded[&name], &values, 1e-2) < 1e-4, "{name}");
    }
}
