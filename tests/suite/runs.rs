//! Results and reports of a run, compared with computations that do not use the trainer.
#![cfg(feature = "train")]

use std::process::Output;
use std::sync::Arc;
use std::time::Instant;

use approx::assert_abs_diff_eq;
use retromae::data::{BatchOptions, BatchSampler, Position, TokenStore, Tokenizer};
use retromae::device::Device;
use retromae::eval::{HeldOut, rank_bm25, split_held_out};
use retromae::model::{
    AdamW, Capacity, Input, Masking, MicroBatch, Model, ModelConfig, PoolRows, StepRandomness, StepResult,
    TrainStep,
};
use retromae::ops::masks::MaskCountLimit;
use retromae::train::CheckpointDirectory;
use retromae::train::report::StepRecord;

use crate::cli::{Workplace, stderr};
use crate::model_files::{Tensors, read_tensors, vectors};

const SEED: u64 = 11;
const PEAK: f32 = 0.002;
/// Steps of the schedule; the run ends before them.
const STEPS: u64 = 6;
const WARMUP: u64 = 2;
/// By hand, from the documentation of the schedule: the rate rises over 2 steps, and falls over the 4 others to 0 after them.
const RATES: [f32; 4] = [PEAK / 2.0, PEAK, PEAK, PEAK * 3.0 / 4.0];
const BATCH_TOKENS: usize = 128;
const MAX_LEN: usize = 32;

/// Returns the texts of the workplace, cut to a few, so that batches come from several epochs.
fn few_texts(place: &Workplace) -> Vec<String> {
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    let lines: Vec<String> = text.lines().take(9).map(str::to_owned).collect();
    place.write("few.txt", lines.join("\n").as_bytes());
    let tokenizer = Tokenizer::train_word_piece(&lines, 120).unwrap();
    std::fs::create_dir(place.path("vocabulary")).unwrap();
    tokenizer.save(place.path("vocabulary"), MAX_LEN).unwrap();
    lines
}

/// A step that was driven by hand, and its batch.
struct ByHand {
    outcome: StepResult,
    epoch: u32,
    sentences: usize,
    tokens: usize,
}

/// Drives the steps of a run by hand, without anything of `retromae::train`.
fn by_hand(
    place: &Workplace,
    texts: &[String],
    more: impl FnOnce(&mut ModelConfig),
) -> (Vec<ByHand>, Model<f32>) {
    let tokenizer = Tokenizer::from_path(place.path("vocabulary")).unwrap();
    let text = std::fs::read_to_string(place.path("config.json")).unwrap();
    let with_vocabulary = text.replace('{', &format!("{{\"vocab_size\": {}, ", tokenizer.vocab_size()));
    let mut config: ModelConfig = serde_json::from_str(&with_vocabulary).unwrap();
    assert_eq!(config.hidden_dropout_prob, 0.1, "the step's number must matter to dropout");
    more(&mut config);
    let passages = tokenizer.encode_corpus(texts, MAX_LEN).unwrap().passages;
    let store = Arc::new(TokenStore::in_memory(&passages, tokenizer.vocab_size() as u32).unwrap());
    let options = BatchOptions { seed: SEED, batch_tokens: BATCH_TOKENS, rank: 0, ranks: 1 };
    let mut sampler = BatchSampler::new(store, vec![], options, Position::default()).unwrap();
    let device = Device::host().unwrap();
    let capacity = Capacity { tokens: BATCH_TOKENS, sentences: BATCH_TOKENS / 3, sentence_length: MAX_LEN };
    let mut model = Model::new(&device, &config, capacity).unwrap();
    model.initialize(SEED).unwrap();
    let masking = Masking {
        mask_id: tokenizer.special_tokens().mask as i32,
        encoder: MaskCountLimit { ratio: 0.2, cap: Some(9) },
        decoder: MaskCountLimit { ratio: 0.7, cap: Some(9) },
        pool_rows: PoolRows::AtMost(5),
    };
    let mut step = |(index, &learning_rate): (usize, &f32)| {
        let sentences = sampler.next_batch();
        let step = TrainStep {
            batch: MicroBatch::new(
                Input::Sampled(&sentences, masking),
                StepRandomness { seed: SEED, step: index as u32 },
            ),
            optimizer: &AdamW::default(),
            learning_rate: f64::from(learning_rate),
            update: index as u32 + 1,
        };
        let handle = model.train_step(&device.stream(), &step).unwrap();
        let outcome = model.result(handle).unwrap();
        let (epoch, tokens) = (sampler.position().epoch, sentences.ids.len());
        ByHand { outcome, epoch, sentences: sentences.sentence_indices.len(), tokens }
    };
    let steps = RATES.iter().enumerate().map(&mut step).collect();
    (steps, model)
}

/// Runs the same steps by the command, with `more` flags.
fn by_command(place: &Workplace, more: &[&str]) -> Output {
    let (vocabulary, corpus) = (place.text("vocabulary"), place.text("few.txt"));
    let (steps, warmup, stop) = (STEPS.to_string(), WARMUP.to_string(), RATES.len().to_string());
    let (seed, peak) = (SEED.to_string(), PEAK.to_string());
    let flags = [
        ["--corpus", &corpus],
        ["--vocab", &vocabulary],
        ["--steps", &steps],
        ["--warmup", &warmup],
        ["--stop-at", &stop],
        ["--seed", &seed],
        ["--lr", &peak],
        ["--encoder-mask", "0.2"],
        ["--decoder-mask", "0.7"],
        ["--mask-cap", "9"],
        ["--pool-rows", "5"],
        ["--held-out", "0"],
    ];
    place.pretrain("out", &[&flags.concat()[..], more].concat())
}

fn assert_same_bits(name: &str, actual: &[f32], expected: &[f32]) {
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert!(bits(actual) == bits(expected), "{name} differs");
}

/// Asserts that all written files equal the hand-driven model.
fn assert_same_model(place: &Workplace, model: &Model<f32>) {
    let exported = read_tensors(&place.path("out/model.safetensors"));
    let checkpoint = checkpoint(place);
    for (name, _) in model.parameter_shapes() {
        let expected = model.parameter(&name).unwrap();
        let (first, second) = model.moments(&name).unwrap();
        assert_same_bits(&name, &checkpoint[&name].1, &expected);
        assert_same_bits(&name, &checkpoint[&format!("first_moment.{name}")].1, &first);
        assert_same_bits(&name, &checkpoint[&format!("second_moment.{name}")].1, &second);
        if !name.starts_with("decoder.") {
            assert_same_bits(&name, &exported[&name].1, &expected);
        }
    }
    assert_eq!(checkpoint.len(), 3 * model.parameter_shapes().len());
}

fn checkpoint(place: &Workplace) -> Tensors {
    let directory = CheckpointDirectory::of_run(&place.path("out"));
    read_tensors(&directory.path().join(directory.state().unwrap().tensors))
}

/// Asserts that every number of the record that a step decides is the step's; the others follow from them, or from the clock.
fn assert_same_record(record: &StepRecord, index: usize, step: &ByHand) {
    let StepResult { losses, gradient_norm } = step.outcome;
    let expected = StepRecord {
        step: index as u64 + 1,
        epoch: step.epoch,
        encoder_loss: losses.encoder,
        decoder_loss: losses.decoder,
        bag_of_words_loss: losses.bag_of_words,
        encoder_accuracy: losses.encoder_accuracy,
        decoder_accuracy: losses.decoder_accuracy,
        encoder_perplexity: losses.encoder_perplexity,
        decoder_perplexity: losses.decoder_perplexity,
        learning_rate: RATES[index],
        gradient_norm,
        sentences: step.sentences,
        tokens: step.tokens,
        tokens_per_s: record.tokens_per_s,
        step_ms: record.step_ms,
        gemm_ms: record.gemm_ms,
        kernel_ms: record.kernel_ms,
        data_wait_ms: record.data_wait_ms,
    };
    assert_eq!(*record, expected);
    let rate = 1e3 * step.tokens as f32 / record.step_ms;
    assert_abs_diff_eq!(record.tokens_per_s, rate, epsilon = 1e-3 * rate);
    assert!(
        record.gemm_ms.unwrap() > 0.0 && record.kernel_ms.unwrap() > 0.0 && record.data_wait_ms >= 0.0,
        "{record:?}"
    );
}

#[test]
fn a_run_is_the_steps_that_its_flags_say() {
    let place = Workplace::new();
    let texts = few_texts(&place);
    let (steps, model) = by_hand(&place, &texts, |config| config.bag_of_words_loss_weight = 0.1);
    assert!(steps[0].epoch < steps[3].epoch, "the steps should cross an epoch");
    let started = Instant::now();
    let output = by_command(&place, &["--dupmae"]);
    let elapsed_ms = 1e3 * started.elapsed().as_secs_f32();
    assert!(output.status.success(), "{}", stderr(&output));
    let records = retromae::train::report::read_training_log(place.path("out/training.jsonl")).unwrap();
    assert_eq!(records.len(), steps.len());
    for (index, (record, step)) in records.iter().zip(&steps).enumerate() {
        assert_same_record(record, index, step);
    }
    let sum = |value: fn(&StepRecord) -> f32| records.iter().map(value).sum::<f32>();
    let (all_ms, wait_ms) = (sum(|record| record.step_ms), sum(|record| record.data_wait_ms));
    assert!(all_ms < elapsed_ms && wait_ms < elapsed_ms, "{all_ms} and {wait_ms} ms of {elapsed_ms} ms");
    assert_same_model(&place, &model);
    let printed = String::from_utf8(output.stdout).unwrap();
    let words: Vec<Vec<&str>> = printed.lines().map(|line| line.split_whitespace().collect()).collect();
    let shown = |value: f32| format!("{value:.3}");
    let (first, last) = (steps[0].outcome.losses, steps[3].outcome.losses);
    let expected = [
        vec!["loss".to_owned(), "step".into(), "1".into(), "step".into(), "4".into()],
        vec!["encoder".to_owned(), shown(first.encoder), shown(last.encoder)],
        vec!["decoder".to_owned(), shown(first.decoder), shown(last.decoder)],
    ];
    for line in expected {
        assert!(words.contains(&line.iter().map(String::as_str).collect()), "{printed:?} lacks {line:?}");
    }
    let waited = format!("waiting for data: {:.2} % of the time", 100.0 * wait_ms / all_ms);
    assert!(printed.contains(&waited), "{printed:?} lacks {waited:?}");
    assert!(printed.contains("stopped after step 4 of 6;"), "{printed:?}");
}

/// Returns `count` distinct sentences, each with a passage to find.
fn findable_texts(count: usize) -> String {
    let words =
        ["river", "castle", "engine", "orchard", "winter", "market", "signal", "garden", "letter", "bridge"];
    let sentence = |n: usize| {
        let word = |k: usize| words[(n / 10_usize.pow(k as u32 % 3) + 3 * k) % words.len()];
        format!(
            "The {} and the {} went to the {} number {n}. Behind the {} there was a {}, and nobody in the {} had any other \
             word for the {} that they saw.",
            word(0),
            word(1),
            word(2),
            word(3),
            word(4),
            word(5),
            word(0)
        )
    };
    (0..count).map(sentence).collect::<Vec<_>>().join("\n")
}

/// Returns the vectors, `[N][H]`, that `retromae embed` prints for the texts.
fn embedded(place: &Workplace, model: &str, texts: &[String]) -> Vec<Vec<f64>> {
    place.write("texts.txt", texts.join("\n").as_bytes());
    vectors(&place.embed(model, "texts.txt", &[]))
}

/// Computes MRR@10 and Recall@10 of ranks by hand: by the cosine, or by the dot product.
fn scores(place: &Workplace, model: &str, held_out: &[HeldOut], cosine: bool) -> (f64, f64) {
    let vectors = |part: fn(&HeldOut) -> &String| {
        let texts: Vec<String> = held_out.iter().map(|pair| part(pair).clone()).collect();
        embedded(place, model, &texts)
    };
    let (queries, documents) = (vectors(|pair| &pair.query), vectors(|pair| &pair.document));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let score = |query: &[f64], document: &[f64]| {
        if cosine { dot(query, document) / dot(document, document).sqrt() } else { dot(query, document) }
    };
    let rank = |(index, query): (usize, &Vec<f64>)| {
        let right = score(query, &documents[index]);
        documents.iter().filter(|document| score(query, document) >= right).count()
    };
    let ranks: Vec<usize> = queries.iter().enumerate().map(rank).collect();
    let mean =
        |value: fn(usize) -> f64| ranks.iter().map(|&rank| value(rank)).sum::<f64>() / ranks.len() as f64;
    (
        mean(|rank| if rank <= 10 { 1.0 / rank as f64 } else { 0.0 }),
        mean(|rank| f64::from(u8::from(rank <= 10))),
    )
}

/// Makes the lengths of vectors differ, so that cosine and dot product differ: the last LayerNorm's bias adds to them.
fn with_uneven_vectors(place: &Workplace, from: &str, to: &str) {
    std::fs::create_dir(place.path(to)).unwrap();
    for entry in std::fs::read_dir(place.path(from)).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_file() {
            std::fs::copy(&entry, place.path(to).join(entry.file_name().unwrap())).unwrap();
        }
    }
    let path = place.path(to).join("model.safetensors");
    let mut tensors = read_tensors(&path);
    let bias = &mut tensors.get_mut("bert.encoder.layer.0.output.LayerNorm.bias").unwrap().1;
    bias.iter_mut().enumerate().for_each(|(index, value)| *value = (index as f32 * 0.7).sin());
    crate::model_files::write_tensors(&path, &tensors);
}

#[test]
fn retrieval_is_told_as_it_is_and_by_the_cosine() {
    let place = Workplace::new();
    place.write("corpus.txt", findable_texts(400).as_bytes());
    let passages: Vec<String> = findable_texts(400).lines().map(str::to_owned).collect();
    let held_out = split_held_out(passages, 30, SEED).held_out;
    assert_eq!(held_out.len(), 30);
    // Larger weights than BERT's, whose first vectors are nearly equal: their order would depend on the last bit.
    let config = std::fs::read_to_string(place.path("config.json")).unwrap();
    place.write("config.json", config.replace('{', "{\"initializer_range\": 0.3, ").as_bytes());
    let seed = SEED.to_string();
    let output =
        place.pretrain("out", &["--steps", "5", "--held-out", "30", "--seed", &seed, "--max-len", "64"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let row = |(mrr, recall): (f64, f64)| vec![format!("{mrr:.3}"), format!("{recall:.3}")];
    let printed = String::from_utf8(output.stdout).unwrap();
    let line = |name: &str| {
        let line = printed.lines().find(|line| line.starts_with(name));
        line.unwrap_or_else(|| panic!("{printed}"))
            .split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(line("trained"), row(scores(&place, "out", &held_out, true)));
    let ranks = rank_bm25(&held_out);
    let reciprocals: f64 = ranks.iter().map(|&rank| if rank <= 10 { 1.0 / rank as f64 } else { 0.0 }).sum();
    let found = ranks.iter().filter(|&&rank| rank <= 10).count();
    assert_eq!(line("BM25"), row((reciprocals / 30.0, found as f64 / 30.0)));
    assert!(printed.contains("30 first sentences, each to find its passage among as many\n"), "{printed}");
    with_initial_weights(&place);
    assert_eq!(line("untrained"), row(scores(&place, "initial", &held_out, true)));
    with_uneven_vectors(&place, "out", "uneven");
    let by_cosine = scores(&place, "uneven", &held_out, true);
    assert_ne!(
        by_cosine,
        scores(&place, "uneven", &held_out, false),
        "cosine and dot product should rank otherwise"
    );
    let output = place.eval("uneven", "corpus.txt", &["--held-out", "30", "--seed", &seed, "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let told = |name: &str| told["model"][name].as_f64().unwrap();
    assert_abs_diff_eq!(told("mrr_at_10"), by_cosine.0, epsilon = 1e-6);
    assert_abs_diff_eq!(told("recall_at_10"), by_cosine.1, epsilon = 1e-6);
}

/// Writes the initial model of the run in `out` to `initial`.
fn with_initial_weights(place: &Workplace) {
    std::fs::create_dir(place.path("initial")).unwrap();
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(place.path("out").join(name), place.path("initial").join(name)).unwrap();
    }
    let config = serde_json::from_slice(&std::fs::read(place.path("out/config.json")).unwrap()).unwrap();
    let capacity = Capacity { tokens: 8, sentences: 1, sentence_length: 8 };
    let mut model = Model::<f32>::new(&Device::host().unwrap(), &config, capacity).unwrap();
    model.initialize(SEED).unwrap();
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let values = model.parameter(&name).unwrap();
        (name, (shape, values))
    };
    let tensors: Tensors = model.parameter_shapes().into_iter().map(tensor).collect();
    crate::model_files::write_tensors(&place.path("initial/model.safetensors"), &tensors);
}

/// With ten passages or fewer, each is among the first ten, and a single one is the first: neither is a meaningful score.
#[test]
fn a_score_that_could_not_be_otherwise_is_left_out() {
    let place = Workplace::new();
    place.write("corpus.txt", findable_texts(109).as_bytes());
    let output = place.pretrain("out", &["--steps", "1", "--held-out", "10", "--max-len", "64"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    let trained = printed.lines().find(|line| line.starts_with("trained")).unwrap();
    assert!(trained.ends_with('–') && printed.contains("Recall@10 is left out"), "{printed}");
    let svg = std::fs::read_to_string(place.path("out/training.svg")).unwrap();
    assert!(svg.contains("MRR@10") && !svg.contains("Recall@10"));
    let eval = |count: usize| {
        place.write("some.txt", findable_texts(count).as_bytes());
        place.eval("out", "some.txt", &["--json"])
    };
    for (count, is_told) in [(109, false), (110, true)] {
        let told: serde_json::Value = serde_json::from_slice(&eval(count).stdout).unwrap();
        for system in ["model", "bm25"] {
            assert!(told[system]["mrr_at_10"].is_number(), "{told}");
            assert_eq!(told[system]["recall_at_10"].is_number(), is_told, "{told}");
        }
    }
    let alone = eval(19);
    assert!(
        !alone.status.success() && stderr(&alone).contains("gives no two passages to find"),
        "{}",
        stderr(&alone)
    );
}
