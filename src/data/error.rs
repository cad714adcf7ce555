//! Errors between a corpus on disk and a batch.

use std::path::PathBuf;

use super::CorpusReport;
use crate::common::FileError;

/// An error of [`crate::data`]; each message names the argument, its value, and what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(
        "corpus directory `{path}` has no .txt, .md or .jsonl file, plain, .gz or .zst ({report}); it should have at least one, at any depth"
    )]
    NoTextFiles { path: PathBuf, report: Box<CorpusReport> },
    #[error("corpus `{origin}` has no usable passage ({report}); it should have at least one line of text")]
    EmptyCorpus { origin: String, report: Box<CorpusReport> },
    #[error("no line of `{path}` has a text in the field {field:?} ({reason}); field should be {seen}")]
    NoField { path: PathBuf, field: String, reason: String, seen: String },
    #[error(
        "no line of `{path}` is a JSON object ({reason}); each should be one, with the text in a field of it"
    )]
    NoJson { path: PathBuf, reason: String },
    #[error("the standard input was given twice; it can be read once")]
    InputTwice,
    #[error(
        "no corpus was given and `{path}` holds no crate sources to take prose from; give a text file, or a directory \
         of .txt and .md files"
    )]
    NoInstalledCrates { path: PathBuf },
    #[error("vocab_size was {vocab_size}; it should be at least {minimum}")]
    VocabSize { vocab_size: usize, minimum: usize },
    #[error(
        "tokenizer `{origin}` lacks {missing}; a vocabulary should have [PAD], [UNK], [CLS], [SEP] and [MASK], or <pad>, <unk>, <s>, \
         </s> and <mask>, or say in tokenizer_config.json which tokens they are"
    )]
    MissingSpecialTokens { origin: String, missing: String },
    #[error(
        "vocabulary `{path}` has the token {token:?} on lines {first} and {second}; each token should stand once"
    )]
    DuplicateToken { path: PathBuf, token: String, first: usize, second: usize },
    #[error("tokenizer `{origin}`: {reason}")]
    Tokenizer { origin: String, reason: String },
    #[error(
        "tokenizer path `{path}` is none of vocab.txt, tokenizer.json, or a directory that holds one of them"
    )]
    TokenizerPath { path: PathBuf },
    #[error("max_len was {max_len}; it should be at least 3: [CLS], one token, [SEP]")]
    MaxLen { max_len: usize },
    #[error("shard_tokens was 0; it should be at least 1, and some millions for shards of a handy size")]
    ShardTokens,
    #[error("none of the {texts} passages has a token after tokenization; at least one should")]
    NothingEncoded { texts: usize },
    #[error("passages was empty; it should hold at least one")]
    NoPassages,
    #[error(
        "passages was {count} long; it should be at most {maximum}: a passage's index is 32 bits of its mask samples"
    )]
    TooManyPassages { count: usize, maximum: u32 },
    #[error("passage {index} has token id {id}; it should be below the vocabulary size {vocab_size}")]
    TokenId { index: usize, id: u32, vocab_size: u32 },
    #[error(
        "batch_tokens was {batch_tokens}; it should be at least {longest}, the longest passage, and below 2^31"
    )]
    BatchTokens { batch_tokens: usize, longest: usize },
    #[error(
        "position was epoch {epoch}, cursor {cursor}; the cursor should be at most {passages}, the number of passages"
    )]
    Position { epoch: u32, cursor: u32, passages: usize },
    #[error(
        "rank was {rank} of {ranks}; it should be below the ranks, of which there is at least 1 and at most one a passage, {passages}"
    )]
    Rank { rank: u32, ranks: u32, passages: u32 },
    #[error("skipped passages should be ascending and below {passages}, the number of passages")]
    SkippedPassages { passages: usize },
    #[error("shard `{path}`: {reason}")]
    Shard { path: PathBuf, reason: String },
    #[error("store manifest `{path}`: {reason}; make the store again, with overwrite")]
    Manifest { path: PathBuf, reason: String },
    #[error(
        "the store `{path}` is not complete: it has {shards} shards, and text is left to tokenize; the same `retromae tokenize` again goes on with it"
    )]
    StoreIncomplete { path: PathBuf, shards: usize },
    #[error(
        "{argument} is {given}, but the store `{path}` was begun with {begun}; they should be the same, or overwrite should begin anew"
    )]
    StorePlan { path: PathBuf, argument: &'static str, given: String, begun: String },
    #[error(
        "out `{path}` holds `{found}` and is no token store; it should be empty, or a path where a directory can be made"
    )]
    StoreNotEmpty { path: PathBuf, found: String },
    #[error("another process is writing into `{path}`; wait for its end, or give another directory")]
    Locked { path: PathBuf },
    #[error("the thread that reads the corpus ended early")]
    ReaderThread,
}
