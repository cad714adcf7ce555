//! Pre-training on a store: the same run however often it is interrupted, and refusals by name of settings that do not fit the store.
#![cfg(feature = "train")]

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use retromae::data::{Manifest, TokenStore, Tokenizer};
use retromae::eval::split_held_out;
use retromae::train::Options;
use retromae::train::report::read_training_log;

use crate::cli::{Workplace, numbers, program, run, stderr};

/// Returns a workplace with a store of the corpus in `tokens`.
fn with_store() -> Workplace {
    let place = Workplace::new();
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let tokenizer = Tokenizer::train_word_piece(&lines, 120).unwrap();
    std::fs::create_dir(place.path("vocabulary")).unwrap();
    tokenizer.save(place.path("vocabulary"), 64).unwrap();
    tokenized(&place, "tokens", 60);
    place
}

fn tokenized(place: &Workplace, out: &str, max_len: u32) -> String {
    let mut command = Command::new(program());
    command.arg("tokenize").arg("--corpus").arg(place.path("corpus.txt"));
    command.arg("--vocab").arg(place.path("vocabulary")).arg("--out").arg(place.path(out));
    let output = run(command.args(["--shard-tokens", "500", "--max-len", &max_len.to_string()]));
    assert!(output.status.success(), "{}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns flags of a run on the store, with `more`.
fn flags<'a>(store: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--corpus", store][..], more].concat()
}

#[test]
fn a_run_on_a_store_learns_and_checks_retrieval() {
    let place = with_store();
    let store = place.text("tokens");
    let output = place.pretrain("out", &flags(&store, &["--steps", "3"]));
    let text = stderr(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("store: ") && text.contains("in ") && text.contains("shards"), "{text}");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(printed.contains("4 first sentences"), "{printed}");
    assert!(printed.contains("waiting for data"), "{printed}");
    let tokenizer = Tokenizer::from_path(place.path("out")).unwrap();
    assert_eq!(tokenizer.checksum(), Tokenizer::from_path(place.path("tokens")).unwrap().checksum());
}

#[test]
fn a_killed_run_on_a_store_is_resumed_to_the_same_run() {
    let place = with_store();
    let store = place.text("tokens");
    let steps = ["--steps", "40", "--checkpoint-every", "1", "--held-out", "0"];
    let straight = place.trained("straight", &flags(&store, &steps));
    let mut command = place.pretrain_command("cut", &flags(&store, &steps));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let started = Instant::now();
    while !place.path("cut/checkpoint/state.json").exists() && started.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run ended before it was killed");
    let resumed = place.trained("cut", &flags(&store, &[&steps[..], &["--resume"]].concat()));
    assert_eq!(numbers(&resumed), numbers(&straight));
    let weights = |out: &str| std::fs::read(place.path(out).join("model.safetensors")).unwrap();
    assert!(weights("cut") == weights("straight"), "the models differ");
    tokenized(&place, "other", 30);
    let other = place.text("other");
    let changed = flags(&other, &[&steps[..], &["--resume"]].concat());
    place.refused("cut", &changed, "--corpus is a store with checksum");
}

#[test]
fn what_a_store_decides_is_refused_by_name() {
    let place = with_store();
    let store = place.text("tokens");
    let vocabulary = place.text("vocabulary");
    let refused = |more: &[&str], message: &str| place.refused("out", &flags(&store, more), message);
    refused(&["--vocab", &vocabulary], "it should be left out: a store has its own vocabulary");
    refused(&["--vocab-size", "300"], "--vocab-size was 300; it should be left out");
    refused(&["--max-len", "61"], "--max-len was 61; it should be at most 60, that of the store");
    refused(&["--max-len", "10"], "--max-len was 10; it should be at least ");
    let shard = place.path("tokens/shard-00001.tokens");
    let mut bytes = std::fs::read(&shard).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 4;
    std::fs::write(&shard, &bytes).unwrap();
    refused(&[], "shard-00001.tokens`: its checksum is");
    bytes[last] ^= 4;
    std::fs::write(&shard, &bytes).unwrap();
    let manifest = place.path("tokens/store.json");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("\"complete\": true", "\"complete\": false")).unwrap();
    refused(&[], "the same `retromae tokenize` again goes on with it");
    assert!(!place.path("out").exists());
}

/// A passage that occurs several times is in the store once, wherever its copies are.
#[test]
fn a_store_holds_each_passage_once() {
    let place = with_store();
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    // Upper case, and repeated spaces, make no difference to this vocabulary.
    let other = text.replace(' ', "  ").to_uppercase();
    place.write("corpus.txt", format!("{text}\n{other}\n{text}").as_bytes());
    let printed = tokenized(&place, "copies", 60);
    let manifest = |out: &str| Manifest::read(&place.path(out)).unwrap();
    assert_eq!(manifest("copies").shards, manifest("tokens").shards);
    let once = manifest("tokens").encoded;
    let duplicates = 180 - once.passages;
    assert_eq!((once.passages + once.duplicates, manifest("copies").encoded.duplicates), (60, duplicates));
    assert!(printed.contains(&format!("{duplicates} duplicates of a passage left out")), "{printed}");
}

/// Returns 20 texts, and a vocabulary that knows all their tokens, in any case.
fn with_few_texts() -> (Workplace, Vec<String>) {
    let place = Workplace::new();
    let text = std::fs::read_to_string(place.path("corpus.txt")).unwrap();
    let lines: Vec<String> = text.lines().take(20).map(str::to_owned).collect();
    place.write("corpus.txt", lines.join("\n").as_bytes());
    std::fs::create_dir(place.path("vocabulary")).unwrap();
    Tokenizer::train_word_piece(&lines, 300).unwrap().save(place.path("vocabulary"), 64).unwrap();
    (place, lines)
}

/// Flags of a run whose single batch has room for everything, and so holds it once.
const ALL_AT_ONCE: [&str; 6] = ["--steps", "1", "--held-out", "3", "--batch-tokens", "3000"];

/// In a store built in another way, no copy of a held-out passage is trained on.
#[test]
fn copies_of_what_is_held_out_are_not_trained_on() {
    let (place, _) = with_few_texts();
    tokenized(&place, "tokens", 60);
    // Every shard a second time.
    let path = place.path("tokens/store.json");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let shards = manifest["shards"].as_array().unwrap().clone();
    for (number, shard) in shards.iter().enumerate() {
        let mut copy = shard.clone();
        copy["file"] = format!("shard-{:05}.tokens", shards.len() + number).into();
        let file = |shard: &serde_json::Value| place.path("tokens").join(shard["file"].as_str().unwrap());
        std::fs::copy(file(shard), file(&copy)).unwrap();
        manifest["shards"].as_array_mut().unwrap().push(copy);
    }
    std::fs::write(&path, manifest.to_string()).unwrap();
    let manifest = Manifest::read(&place.path("tokens")).unwrap();
    let store = TokenStore::open(&place.path("tokens"), &manifest).unwrap();
    assert_eq!(store.len(), 40);
    let some = [3, 30].map(|index| store.passage(index));
    assert_eq!(store.indices_of(some.into_iter()), [3, 10, 23, 30]);
    assert!(store.indices_of(std::iter::empty()).is_empty());
    let output = place.pretrain("out", &flags(&place.text("tokens"), &ALL_AT_ONCE));
    assert!(
        stderr(&output).contains("3 passages with the tokens of one that is held out"),
        "{}",
        stderr(&output)
    );
    assert_eq!(read_training_log(place.path("out/training.jsonl")).unwrap()[0].sentences, 40 - 2 * 3);
}

/// Nor is a text that differs from a held-out one only in ways that the vocabulary ignores.
#[test]
fn texts_with_the_tokens_of_what_is_held_out_are_not_trained_on() {
    let (place, lines) = with_few_texts();
    let upper: Vec<String> = lines.iter().map(|line| line.to_uppercase()).collect();
    let texts = [lines, upper].concat();
    place.write("corpus.txt", texts.join("\n").as_bytes());
    let held_out = split_held_out(texts, 3, Options::default().seed).held_out;
    let mut queries: Vec<String> = held_out.into_iter().map(|pair| pair.query.to_lowercase()).collect();
    queries.sort();
    queries.dedup();
    let vocabulary = place.text("vocabulary");
    let flags = [&ALL_AT_ONCE[..], &["--vocab", &vocabulary, "--max-len", "60"]].concat();
    assert_eq!(place.trained("out", &flags)[0].sentences, 40 - 2 * queries.len());
}
