//! Arguments of models: every stated range at its edges. Accepted models run.

use retromae::device::{Device, HostOptions, ModelFloat, bf16};
use retromae::model::{
    AdamW, Capacity, DecoderKind, Input, MaskPool, MicroBatch, Model, ModelConfig, PackedSentences,
    QueryKind, StepRandomness, TrainStep,
};
use retromae::reference::mask::sample_batch;

use crate::model::{CAPACITY, MASKING, SEED, config, model, parameters, sentences};

fn enhanced() -> ModelConfig {
    config(DecoderKind::Enhanced, QueryKind::Embedding, 0.0)
}

fn device() -> Device {
    Device::for_tests().expect("a device")
}

/// Uses a device of its own, as others' buffers must not count.
#[test]
fn the_predicted_memory_is_what_a_model_allocates() {
    fn check<T: ModelFloat>(config: &ModelConfig, capacity: Capacity) {
        let device = Device::host_with(HostOptions::default()).expect("the host device");
        let predicted = Model::<T>::memory_bytes(&device, config, capacity).unwrap();
        assert_eq!(device.buffer_bytes(), 0, "a prediction allocates nothing");
        let model = Model::<T>::new(&device, config, capacity).unwrap();
        let what = || format!("{} layers × {}, {capacity:?}", config.num_hidden_layers, config.hidden_size);
        assert_eq!(device.buffer_bytes(), predicted, "{}", what());
        drop(model);
        assert_eq!(device.buffer_bytes(), 0, "{}", what());
    }
    let capacity = |(tokens, sentences, sentence_length)| Capacity { tokens, sentences, sentence_length };
    for config in [ModelConfig::tiny(500), ModelConfig::small(500)] {
        for capacity in [(1, 1, 1), (300, 7, 100), (2048, 16, 512)].map(capacity) {
            check::<f32>(&config, capacity);
            check::<bf16>(&config, capacity);
            let config = ModelConfig { bag_of_words_loss_weight: 0.5, ..config.clone() };
            check::<bf16>(&config, capacity);
        }
    }
    // Once, because its parameters and their moments take 1.5 GB.
    check::<bf16>(&ModelConfig::base(500), capacity((300, 7, 100)));
}

#[test]
fn configurations_out_of_range_are_refused() {
    let device = device();
    let refuse = |change: &dyn Fn(&mut ModelConfig), expected: &str| {
        let mut config = enhanced();
        change(&mut config);
        let message = config.validate().unwrap_err().to_string();
        assert_eq!(message, expected);
        // The model's own validator is the only one.
        assert_eq!(Model::<f32>::new(&device, &config, CAPACITY).unwrap_err().to_string(), message);
        assert_eq!(Model::<f32>::memory_bytes(&device, &config, CAPACITY).unwrap_err().to_string(), message);
    };
    refuse(&|c| c.vocab_size = 0, "vocab_size is 0; it should be in 1..=2147483647");
    refuse(&|c| c.vocab_size = 1 << 31, "vocab_size is 2147483648; it should be in 1..=2147483647");
    refuse(&|c| c.hidden_size = 0, "hidden_size is 0; it should be in 1..=1024");
    refuse(&|c| c.hidden_size = 2048, "hidden_size is 2048; it should be in 1..=1024");
    refuse(&|c| c.num_hidden_layers = 0, "num_hidden_layers is 0; it should be in 1..=1024");
    refuse(
        &|c| c.num_hidden_layers = usize::MAX,
        "num_hidden_layers is 18446744073709551615; it should be in 1..=1024",
    );
    refuse(&|c| c.num_attention_heads = 0, "num_attention_heads is 0; it should be in 1..=1024");
    refuse(
        &|c| c.num_attention_heads = 4,
        "hidden_size is 64 with 4 heads, so a head size of 16; it should be heads times a head size of [32, 64, 96, 128]",
    );
    refuse(
        &|c| c.num_attention_heads = 3,
        "hidden_size is 64 with 3 heads, so a head size of 21.333333333333332; it should be heads times a head size of [32, 64, 96, 128]",
    );
    refuse(&|c| c.intermediate_size = 0, "intermediate_size is 0; it should be in 1..=65536");
    refuse(&|c| c.intermediate_size = 12, "intermediate_size is 12; it should be a multiple of 8");
    refuse(&|c| c.intermediate_size = 65_544, "intermediate_size is 65544; it should be in 1..=65536");
    refuse(
        &|c| c.max_position_embeddings = 0,
        "max_position_embeddings is 0; it should be in 1..=2147483647",
    );
    refuse(&|c| c.type_vocab_size = 0, "type_vocab_size is 0; it should be in 1..=2147483647");
    for rate in [-0.1, 1.0, f32::NAN] {
        let expected = format!("hidden_dropout_prob is {rate}; it should be in [0, 1)");
        refuse(&|c| c.hidden_dropout_prob = rate, &expected);
        let expected = format!("attention_probs_dropout_prob is {rate}; it should be in [0, 1)");
        refuse(&|c| c.attention_probs_dropout_prob = rate, &expected);
    }
    for eps in [0.0, -1.0, f32::NAN, f32::INFINITY] {
        let expected = format!("layer_norm_eps is {eps}; it should be positive and finite");
        refuse(&|c| c.layer_norm_eps = eps, &expected);
    }
    for range in [-0.02, f32::NAN, f32::INFINITY] {
        let expected = format!("initializer_range is {range}; it should be in [0, 1e30]");
        refuse(&|c| c.initializer_range = range, &expected);
    }
    for weight in [-0.5, f32::NAN, f32::INFINITY] {
        let expected =
            |name: &str| format!("{name}_loss_weight is {weight}; it should be at least 0 and finite");
        refuse(&|c| c.encoder_loss_weight = weight, &expected("encoder"));
        refuse(&|c| c.decoder_loss_weight = weight, &expected("decoder"));
        refuse(&|c| c.bag_of_words_loss_weight = weight, &expected("bag_of_words"));
    }
}

#[test]
fn capacities_out_of_range_are_refused() {
    let device = device();
    let refuse = |config: &ModelConfig, change: &dyn Fn(&mut Capacity), expected: &str| {
        let mut capacity = CAPACITY;
        change(&mut capacity);
        let message = capacity.validate(config).unwrap_err().to_string();
        assert_eq!(message, expected);
        assert_eq!(Model::<f32>::new(&device, config, capacity).unwrap_err().to_string(), message);
        assert_eq!(Model::<f32>::memory_bytes(&device, config, capacity).unwrap_err().to_string(), message);
    };
    let plain = enhanced();
    refuse(&plain, &|c| c.tokens = 0, "tokens is 0; it should be in 1..=16777216");
    refuse(&plain, &|c| c.tokens = 1 << 25, "tokens is 33554432; it should be in 1..=16777216");
    refuse(
        &plain,
        &|c| c.tokens = usize::MAX,
        "tokens is 18446744073709551615; it should be in 1..=16777216",
    );
    refuse(&plain, &|c| c.sentences = 0, "sentences is 0; it should be in 1..=16777216");
    refuse(&plain, &|c| c.sentence_length = 0, "sentence_length is 0; it should be in 1..=80");
    refuse(&plain, &|c| c.sentence_length = 81, "sentence_length is 81; it should be in 1..=80");
    let long = ModelConfig { max_position_embeddings: 100_000, ..enhanced() };
    refuse(&long, &|c| c.sentence_length = 65_537, "sentence_length is 65537; it should be in 1..=65536");
    refuse(
        &long,
        &|c| (c.tokens, c.sentence_length) = (1 << 24, 65_536),
        "tokens is 16777216; it should be less with sentences of 65536 tokens, or they shorter: fewer than 2^32 words of masks",
    );
    let bags = ModelConfig { bag_of_words_loss_weight: 0.1, ..enhanced() };
    refuse(&bags, &|c| c.sentences = 65_536, "sentences is 65536; it should be in 1..=65535");
    assert!(Capacity { sentences: 65_535, ..CAPACITY }.validate(&bags).is_ok());
    assert!(Capacity { sentences: 1 << 24, tokens: 1 << 24, sentence_length: 80 }.validate(&plain).is_ok());
}

/// The smallest and the oddest accepted models train, by both ways of enqueuing a step.
#[test]
fn what_is_accepted_trains() {
    let device = device();
    let smallest = ModelConfig {
        vocab_size: 6,
        hidden_size: 32,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        intermediate_size: 8,
        max_position_embeddings: 1,
        type_vocab_size: 1,
        hidden_dropout_prob: 0.999_9,
        attention_probs_dropout_prob: 0.999_9,
        layer_norm_eps: 1e-30,
        initializer_range: 0.0,
        encoder_loss_weight: 0.0,
        decoder_loss_weight: 0.0,
        ..enhanced()
    };
    let widest = ModelConfig {
        hidden_size: 1024,
        num_attention_heads: 8,
        max_position_embeddings: 33,
        bag_of_words_loss_weight: 1e-3,
        ..smallest.clone()
    };
    let one = Capacity { tokens: 1, sentences: 1, sentence_length: 1 };
    for (config, capacity, lengths) in [
        (&smallest, one, &[1][..]),
        (&smallest, Capacity { tokens: 5, sentences: 3, ..one }, &[1, 1]),
        (&widest, Capacity { tokens: 35, sentences: 65_535, sentence_length: 33 }, &[33, 1]),
    ] {
        let mut model = Model::<bf16>::new(&device, config, capacity).unwrap();
        assert!(Model::<bf16>::memory_bytes(&device, config, capacity).unwrap() > 0);
        model.initialize(1).unwrap();
        let tokens: usize = lengths.iter().sum();
        let sentences = PackedSentences {
            sentence_indices: (0..lengths.len() as u32).collect(),
            cu_seqlens: crate::common::prefix_sums(lengths),
            ids: (0..tokens as i32).map(|token| token % 6).collect(),
            word_starts: vec![u32::MAX; tokens.div_ceil(32)],
        };
        // Padded, the largest capacity would take thousands of empty sentences.
        let recorded = if capacity.sentences > 100 { 0 } else { 3 };
        for update in 1..=1 + recorded {
            model.record_steps(update > 1);
            let step = TrainStep {
                batch: MicroBatch::new(
                    Input::Sampled(&sentences, MASKING),
                    StepRandomness { seed: SEED, step: update },
                ),
                optimizer: &AdamW::default(),
                learning_rate: 1.0,
                update,
            };
            let handle = model.train_step(&device.stream(), &step).unwrap();
            let outcome = model.result(handle).unwrap();
            assert!(outcome.losses.encoder.is_finite() && outcome.gradient_norm.is_finite(), "{outcome:?}");
        }
        for (name, _) in model.parameter_shapes() {
            assert!(model.parameter(&name).unwrap().iter().all(|value| value.is_finite()), "{name}");
        }
        let vectors = model.embed(&device.stream(), &sentences.cu_seqlens, &sentences.ids).unwrap();
        assert_eq!(vectors.len(), lengths.len() * config.hidden_size);
    }
}

/// Losses are means over labels, whatever their weight in the total; a loss of weight 0 has no gradient.
#[test]
fn a_loss_without_weight_is_reported_all_the_same() {
    let device = device();
    let plain = enhanced();
    let batch = sample_batch(SEED, 1, &sentences(), MASKING, &plain);
    let losses = |config: &ModelConfig| {
        let mut model = model::<f32>(&device, config, &parameters(config));
        let losses = model.step(&device.stream(), Input::Explicit(&batch), None).unwrap();
        (losses, model.gradient("decoder.output.dense.weight").unwrap())
    };
    let expected = losses(&plain);
    let without = losses(&ModelConfig { decoder_loss_weight: 0.0, ..plain.clone() });
    assert_eq!(without.0, expected.0);
    assert!(without.1.iter().all(|&value| value == 0.0) && expected.1.iter().any(|&value| value != 0.0));
}

#[test]
fn an_update_that_would_climb_or_not_be_finite_is_refused() {
    let device = device();
    let config = enhanced();
    let sentences = sentences();
    for record in [false, true] {
        let mut model = model::<f32>(&device, &config, &parameters(&config));
        model.record_steps(record);
        let name = "bert.embeddings.word_embeddings.weight";
        let before = model.parameter(name).unwrap();
        let mut refuse = |optimizer: &AdamW, learning_rate: f64, update: u32, expected: &str| {
            let step = TrainStep {
                batch: MicroBatch::new(
                    Input::Sampled(&sentences, MASKING),
                    StepRandomness { seed: SEED, step: 1 },
                ),
                optimizer,
                learning_rate,
                update,
            };
            let message = model.train_step(&device.stream(), &step).unwrap_err().to_string();
            assert_eq!(message, expected);
            let message =
                model.update(&device.stream(), optimizer, learning_rate, update).unwrap_err().to_string();
            assert_eq!(message, expected);
            assert_eq!(model.parameter(name).unwrap(), before, "{expected}");
        };
        let adamw = AdamW::default();
        refuse(&adamw, 1e-3, 0, "update is 0; it should be at least 1");
        for rate in [-1e-3, 1.5, 3e38, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            refuse(&adamw, rate, 1, &format!("learning_rate is {rate}; it should be in [0, 1]"));
        }
        refuse(
            &AdamW { weight_decay: 11.0, ..adamw },
            0.1,
            1,
            "weight_decay is 11; it should be at most 10, 1 over the learning rate",
        );
        // The optimizer's constants are checked at every step: a refused shape is not replayed.
        for _ in 0..3 {
            refuse(&AdamW { beta1: 1.0, ..adamw }, 1e-3, 1, "beta1 is 1; it should be in [0, 1)");
            refuse(&AdamW { beta2: f64::NAN, ..adamw }, 1e-3, 1, "beta2 is NaN; it should be in [0, 1)");
            refuse(&AdamW { eps: 0.0, ..adamw }, 1e-3, 1, "eps is 0; it should be positive and finite");
            refuse(
                &AdamW { weight_decay: -0.1, ..adamw },
                1e-3,
                1,
                "weight_decay is -0.1; it should be finite and not negative",
            );
            refuse(
                &AdamW { max_norm: Some(0.0), ..adamw },
                1e-3,
                1,
                "max_norm is 0; it should be positive and finite, or none",
            );
        }
    }
}

#[test]
fn weights_and_moments_that_are_not_finite_are_refused() {
    let device = device();
    let config = enhanced();
    let mut model = model::<bf16>(&device, &config, &parameters(&config));
    let name = "bert.embeddings.LayerNorm.weight";
    let with = |value: f32| {
        let mut values = vec![1.0; 64];
        values[5] = value;
        values
    };
    let before = model.parameter(name).unwrap();
    // f32::MAX is infinite in bf16.
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX] {
        let message = model.set_parameter(name, &with(value)).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("values is {value} at element 5 for {name}; it should be finite in bf16")
        );
    }
    assert_eq!(model.parameter(name).unwrap(), before);
    let message = model.set_moments(name, &with(f32::NAN), &with(0.0)).unwrap_err().to_string();
    assert_eq!(message, format!("first is NaN at element 5 for {name}; it should be finite"));
    for value in [-1e-9, f32::INFINITY] {
        let message = model.set_moments(name, &with(-1.0), &with(value)).unwrap_err().to_string();
        assert_eq!(
            message,
            format!("second is {value} at element 5 for {name}; it should be finite and not negative")
        );
    }
    assert_eq!(model.moments(name).unwrap(), (vec![0.0; 64], vec![0.0; 64]));
    let message = model.set_parameter(name, &[1.0; 63]).unwrap_err().to_string();
    assert_eq!(message, format!("values is 63 elements for {name}; it should be 64 (shape [64])"));
    model.set_moments(name, &[-2.0; 64], &[3.0; 64]).unwrap();
    assert_eq!(model.moments(name).unwrap(), (vec![-2.0; 64], vec![3.0; 64]));
    let message = model.set_moments(name, &[0.0; 64], &[0.0; 65]).unwrap_err().to_string();
    assert_eq!(message, format!("second is 65 elements for {name}; it should be 64 (shape [64])"));
    let message = model.parameter("nothing").unwrap_err().to_string();
    assert!(message.starts_with("name is \"nothing\"; it should be the name of a parameter"), "{message}");
}

/// Attention takes longer sentences than masks can be sampled for; a model of such lengths still samples masks for shorter ones, recorded or not.
#[test]
fn masks_are_sampled_in_a_model_of_longer_sentences() {
    let device = device();
    let config = ModelConfig {
        hidden_size: 32,
        num_attention_heads: 1,
        num_hidden_layers: 1,
        intermediate_size: 32,
        max_position_embeddings: 9000,
        ..enhanced()
    };
    let capacity = Capacity { tokens: 9000, sentences: 8, sentence_length: 9000 };
    let mut model = Model::<f32>::new(&device, &config, capacity).unwrap();
    model.initialize(1).unwrap();
    let long = PackedSentences {
        sentence_indices: vec![0],
        cu_seqlens: vec![0, 8193],
        ids: vec![7; 8193],
        word_starts: vec![u32::MAX; 257],
    };
    for record in [false, true] {
        model.record_steps(record);
        let mut run = |sentences: &PackedSentences| {
            let step = TrainStep {
                batch: MicroBatch::new(
                    Input::Sampled(sentences, MASKING),
                    StepRandomness { seed: SEED, step: 1 },
                ),
                optimizer: &AdamW::default(),
                learning_rate: 0.0,
                update: 1,
            };
            let handle = model.train_step(&device.stream(), &step).map_err(|error| error.to_string())?;
            Ok(model.result(handle).unwrap())
        };
        let refused: Result<_, String> = run(&long);
        assert_eq!(
            refused.unwrap_err(),
            "cu_seqlens is 8193 tokens for sentence 0; it should be 1 to 8192 tokens"
        );
        assert!(run(&sentences()).unwrap().losses.decoder > 0.0);
    }
}

#[test]
fn sentences_that_cannot_be_embedded_are_refused() {
    let device = device();
    let config = enhanced();
    let mut model = model::<f32>(&device, &config, &parameters(&config));
    let mut refuse = |cu_seqlens: &[i32], ids: &[i32], expected: &str| {
        let message = model.embed(&device.stream(), cu_seqlens, ids).unwrap_err().to_string();
        assert_eq!(message, expected);
    };
    refuse(&[0, 2], &[1, 97], "ids is 97 at token 1; it should be in 0..97");
    refuse(&[0, 2], &[-1, 5], "ids is -1 at token 0; it should be in 0..97");
    refuse(&[0, 2], &[1], "ids is 1 long; it should be 2 long (tokens)");
    refuse(&[0, 2, 2], &[1, 2], "cu_seqlens is 0 tokens for sentence 1; it should be 1 to 80 tokens");
    refuse(&[0, 2, 1], &[1, 2], "cu_seqlens is -1 tokens for sentence 1; it should be 1 to 80 tokens");
    refuse(&[0, 81], &[1; 81], "cu_seqlens is 81 tokens for sentence 0; it should be 1 to 80 tokens");
    refuse(
        &[0, i32::MIN],
        &[],
        "cu_seqlens is -2147483648 tokens for sentence 0; it should be 1 to 80 tokens",
    );
    refuse(
        &[],
        &[],
        "cu_seqlens is 0 elements long; it should be at least 2: prefix sums of at least one sentence",
    );
    refuse(&[0, 80, 160, 240, 257], &[1; 257], "tokens is 257; it should be at most 256 (the capacity)");
    let nine: Vec<i32> = (0..=9).collect();
    refuse(&nine, &[1; 9], "sentences is 9; it should be at most 8 (the capacity)");
    // The largest batch, with a sentence of the longest length among others.
    let largest = [0, 80, 160, 240, 252, 253, 254, 255, 256];
    assert_eq!(model.embed(&device.stream(), &largest, &[96; 256]).unwrap().len(), 8 * 64);
}

/// A pool with too few words, too many, or none; each error states which.
#[test]
fn wrong_pools_are_refused() {
    let device = device();
    let config = enhanced();
    let mut model = model::<f32>(&device, &config, &parameters(&config));
    let good = sample_batch(SEED, 1, &sentences(), MASKING, &config);
    for record in [false, true] {
        model.record_steps(record);
        let mut run = |change: &dyn Fn(&mut MaskPool)| {
            let mut batch = good.clone();
            change(batch.visibility.as_mut().unwrap());
            let step = TrainStep {
                batch: MicroBatch::new(Input::Explicit(&batch), StepRandomness { seed: SEED, step: 1 }),
                optimizer: &AdamW::default(),
                learning_rate: 0.0,
                update: 1,
            };
            model.train_step(&device.stream(), &step).map_err(|error| error.to_string())
        };
        let words = good.visibility.as_ref().unwrap().bits.len();
        let refused = run(&|pool| pool.bits.truncate(words - 1)).unwrap_err();
        let start = words - 4;
        assert_eq!(
            refused,
            format!(
                "visibility is of words {start} to {words} for sentence 5; it should be of words that ascend, to at most {}, which there are",
                words - 1
            )
        );
        let refused = run(&|pool| pool.offsets[3] = u32::MAX).unwrap_err();
        assert!(refused.contains("of words 3 to 4294967295 for sentence 2"), "{refused}");
        let refused = run(&|pool| pool.rows[30] = 60).unwrap_err();
        assert_eq!(
            refused,
            "visibility is 8 words for sentence 3; it should be at least 122 (61 rows of 2 words)"
        );
        // One word a token for 32 tokens of the longest sentence: 125 tokens of 3 words.
        let most = 3 * 125;
        assert!(run(&|pool| pool.bits.resize(most, 0)).is_ok());
        let refused = run(&|pool| pool.bits.resize(most + 1, 0)).unwrap_err();
        assert_eq!(
            refused,
            "visibility is of 376 words; it should be at most 375: a row of 3 for each token"
        );
    }
}
