//! What feeds a training step: reading a store, and tokenizing for one. `cargo bench --bench data`
//!
//! Reading is measured on one core: passages in the order of an epoch, into packed batches. Tokenizing is measured beside the
//! library's own batch over the same texts, on the same threads; texts are the prose of this machine's crates.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use retromae::data::{
    BatchDrawer, BatchOptions, Corpus, Passages, Permutation, Position, TokenStore, Tokenizer,
};

/// Passages of the store that is read: 50 million tokens, far more than caches hold.
const PASSAGES: u32 = 400_000;
const BATCH_TOKENS: usize = 32_768;
/// The most text that is tokenized at once.
const TEXT_BYTES: usize = 4 << 20;
const MAX_LEN: usize = 128;

/// Passages of 3 to 252 tokens.
fn store(vocab_size: u32) -> Arc<TokenStore> {
    let mut passages = Passages::default();
    for index in 0..PASSAGES {
        let length = 1 + index.wrapping_mul(2_654_435_761) % 250;
        let content: Vec<u32> = (0..length).map(|k| 10 + (index + k) % 30_000).collect();
        passages.push(2, &content, 3, |at| !(at as u32 + index).is_multiple_of(3));
    }
    let store = TokenStore::in_memory(&passages, vocab_size);
    Arc::new(store.unwrap_or_else(|error| panic!("the store of the bench: {error}")))
}

fn drawer(store: &Arc<TokenStore>) -> BatchDrawer {
    let options = BatchOptions { seed: 1, batch_tokens: BATCH_TOKENS, rank: 0, ranks: 1 };
    let drawer = BatchDrawer::new(store.clone(), Vec::new(), options, Position::default());
    drawer.unwrap_or_else(|error| panic!("the drawer of the bench: {error}"))
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(BATCH_TOKENS as u64));
    for (name, vocab_size) in [("u16", 30_522), ("u32", 250_002)] {
        let mut drawer = drawer(&store(vocab_size));
        let tokens: usize = (0..1000).map(|_| drawer.next_batch().ids.len()).sum();
        println!(
            "store/{name}: batches are filled to {:.2} %",
            100.0 * tokens as f64 / (1000 * BATCH_TOKENS) as f64
        );
        group.bench_function(format!("packed_batch/{name}"), |bencher| bencher.iter(|| drawer.next_batch()));
    }
    group.throughput(Throughput::Elements(1));
    let (order, mut place) = (Permutation::new(1, 2, PASSAGES), 0);
    group.bench_function("permutation", |bencher| {
        bencher.iter(|| {
            place = (place + 1) % PASSAGES;
            order.at(place)
        });
    });
    group.finish();
}

fn tokenizing(criterion: &mut Criterion, texts: &[String], tokenizer: &Tokenizer) {
    let mut group = criterion.benchmark_group("tokenize");
    let bytes: usize = texts.iter().map(String::len).sum();
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    // Joined, most texts are longer than a passage and must be split.
    let long: Vec<String> = texts.chunks(8).map(|texts| texts.join(" ")).collect();
    for (name, texts) in [("short", texts), ("long", &long)] {
        group.bench_function(format!("retromae/{name}"), |bencher| {
            bencher.iter(|| tokenizer.encode_texts(texts, MAX_LEN).map(|texts| texts.len()).unwrap_or(0));
        });
        let library = |texts: Vec<&str>| tokenizer.pipeline().encode_batch_fast(texts, false);
        group.bench_function(format!("tokenizers/{name}"), |bencher| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            bencher.iter_batched(
                || texts.clone(),
                |texts| library(texts).map(|texts| texts.len()).unwrap_or(0),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn benches(criterion: &mut Criterion) {
    let corpus = Corpus::from_installed_crates(TEXT_BYTES);
    let texts = corpus.unwrap_or_else(|error| panic!("the text of the bench: {error}")).passages;
    let tokenizer = Tokenizer::train_word_piece(&texts, 8192);
    let tokenizer = tokenizer.unwrap_or_else(|error| panic!("the vocabulary of the bench: {error}"));
    reading(criterion);
    tokenizing(criterion, &texts, &tokenizer);
}

criterion_group!(data, benches);
criterion_main!(data);
