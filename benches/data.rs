//! Data side of a training step: reading a store, and tokenizing for one. `cargo bench --bench data`
//!
//! Reading is measured on one core: passages in the order of an epoch, into packed batches. Tokenizing is measured beside the tokenizer library's own
//! batch encoding of the same texts, on the same threads; texts are the prose of this machine's crates.

use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use retromae::data::{
    BatchOptions, BatchSampler, Corpus, Passages, Permutation, Position, TokenStore, Tokenizer,
};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::metaspace::Metaspace;

/// Passages of the store: 50 million tokens, far more than caches hold.
const PASSAGES: u32 = 400_000;
const BATCH_TOKENS: usize = 32_768;
/// Most bytes of text that are tokenized at once.
const TEXT_BYTES: usize = 4 << 20;
const MAX_LEN: usize = 128;
const VOCAB_SIZE: usize = 8192;

/// Writes a store of passages of 3 to 252 tokens.
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

fn sampler(store: &Arc<TokenStore>) -> BatchSampler {
    let options = BatchOptions { seed: 1, batch_tokens: BATCH_TOKENS, rank: 0, ranks: 1 };
    let sampler = BatchSampler::new(store.clone(), Vec::new(), options, Position::default());
    sampler.unwrap_or_else(|error| panic!("the sampler of the bench: {error}"))
}

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(BATCH_TOKENS as u64));
    for (name, vocab_size) in [("u16", 30_522), ("u32", 250_002)] {
        let mut sampler = sampler(&store(vocab_size));
        let tokens: usize = (0..1000).map(|_| sampler.next_batch().ids.len()).sum();
        println!(
            "store/{name}: batches are filled to {:.2} %",
            100.0 * tokens as f64 / (1000 * BATCH_TOKENS) as f64
        );
        group.bench_function(format!("packed_batch/{name}"), |bencher| bencher.iter(|| sampler.next_batch()));
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

fn tokenizing(criterion: &mut Criterion, texts: &[String], kind: &str, tokenizer: &Tokenizer) {
    let mut group = criterion.benchmark_group(format!("tokenize/{kind}"));
    let bytes: usize = texts.iter().map(String::len).sum();
    group.throughput(Throughput::Bytes(bytes as u64)).sample_size(10);
    // Most joined texts are longer than a passage and must be split.
    let long: Vec<String> = texts.chunks(8).map(|texts| texts.join(" ")).collect();
    for (name, texts) in [("short", texts), ("long", &long)] {
        group.bench_function(format!("retromae/{name}"), |bencher| {
            bencher.iter(|| tokenizer.encode_texts(texts, MAX_LEN).map_or(0, |texts| texts.len()));
        });
        let library = |texts: Vec<&str>| tokenizer.pipeline().encode_batch_fast(texts, false);
        group.bench_function(format!("tokenizers/{name}"), |bencher| {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            bencher.iter_batched(
                || texts.clone(),
                |texts| library(texts).map_or(0, |texts| texts.len()),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

/// Returns a tokenizer with a vocabulary that the tokenizers crate learns from `texts`.
fn learned(
    texts: &[String],
    model: impl Into<ModelWrapper>,
    pieces: PreTokenizerWrapper,
    trainer: &mut TrainerWrapper,
) -> Tokenizer {
    let learn = || {
        let mut pipeline = tokenizers::Tokenizer::new(model);
        pipeline.with_pre_tokenizer(Some(pieces));
        pipeline.train(trainer, texts.iter())?;
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("tokenizer.json");
        pipeline.save(&path, false)?;
        Ok::<_, tokenizers::Error>(Tokenizer::from_path(path)?)
    };
    learn().unwrap_or_else(|error| panic!("a vocabulary of the bench: {error}"))
}

/// Special tokens of RoBERTa and XLM-R.
fn special_tokens() -> Vec<AddedToken> {
    ["<s>", "<pad>", "</s>", "<unk>", "<mask>"].map(|token| AddedToken::from(token, true)).into()
}

fn benches(criterion: &mut Criterion) {
    let corpus = Corpus::from_installed_crates(TEXT_BYTES);
    let texts = corpus.unwrap_or_else(|error| panic!("the text of the bench: {error}")).passages;
    let word_piece = Tokenizer::train_word_piece(&texts, VOCAB_SIZE);
    let word_piece = word_piece.unwrap_or_else(|error| panic!("the vocabulary of the bench: {error}"));
    let bpe = learned(
        &texts,
        BPE::default(),
        ByteLevel::new(false, true, true).into(),
        &mut TrainerWrapper::BpeTrainer(
            BpeTrainer::builder()
                .vocab_size(VOCAB_SIZE)
                .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
                .special_tokens(special_tokens())
                .show_progress(false)
                .build(),
        ),
    );
    let unigram = UnigramTrainer::builder()
        .vocab_size(VOCAB_SIZE as u32)
        .special_tokens(special_tokens())
        .unk_token(Some("<unk>".into()))
        .show_progress(false)
        .build();
    let unigram = unigram.unwrap_or_else(|error| panic!("the vocabulary of the bench: {error}"));
    let unigram = learned(
        &texts,
        Unigram::default(),
        Metaspace::default().into(),
        &mut TrainerWrapper::UnigramTrainer(unigram),
    );
    reading(criterion);
    for (kind, tokenizer) in [("word_piece", &word_piece), ("byte_level_bpe", &bpe), ("unigram", &unigram)] {
        tokenizing(criterion, &texts, kind, tokenizer);
    }
}

criterion_group!(data, benches);
criterion_main!(data);
