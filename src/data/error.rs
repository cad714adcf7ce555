//! Errors between a corpus on disk and a batch.

use std::path::PathBuf;

use super::CorpusReport;
use crate::common::FileError;

/// An error of [`crate::data`]; each message names the argument, its value, and what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A directory holds no file of a kind that is read.
    #[error(
        "corpus directory `{path}` has no .txt, .md or .jsonl file, plain, .gz or .zst ({report}); it should have at least one, at any depth"
    )]
    NoTextFiles {
        /// The directory.
        path: PathBuf,
        /// Counts of the files that were left out.
        report: Box<CorpusReport>,
    },
    /// Files were read, and no text of them is usable.
    #[error("corpus `{origin}` has no usable passage ({report}); it should have at least one line of text")]
    EmptyCorpus {
        /// Path of the corpus.
        origin: String,
        /// Counts of the texts that were left out.
        report: Box<CorpusReport>,
    },
    /// A file of JSON lines has no text in the field that was asked for.
    #[error("no line of `{path}` has a text in the field {field:?} ({reason}); field should be {seen}")]
    NoField {
        /// Path of the file.
        path: PathBuf,
        /// The field of [`ReadOptions`](super::ReadOptions).
        field: String,
        /// Error of the first line.
        reason: String,
        /// Fields that hold a text in some line.
        seen: String,
    },
    /// A file of JSON lines has no line that is a JSON object.
    #[error(
        "no line of `{path}` is a JSON object ({reason}); each should be one, with the text in a field of it"
    )]
    NoJson {
        /// Path of the file.
        path: PathBuf,
        /// Error of the first line.
        reason: String,
    },
    /// `-` stands twice among the inputs.
    #[error("the standard input was given twice; it can be read once")]
    InputTwice,
    /// Without a corpus, prose is taken from the sources of crates that cargo downloaded; there are none.
    #[error(
        "no corpus was given and `{path}` holds no crate sources to take prose from; give a text file, or a directory \
         of .txt and .md files"
    )]
    NoInstalledCrates {
        /// Directory where cargo keeps them.
        path: PathBuf,
    },
    /// A vocabulary to train is too small for the special tokens and some characters.
    #[error("vocab_size was {vocab_size}; it should be at least {minimum}")]
    VocabSize {
        /// Size that was asked for.
        vocab_size: usize,
        /// The smallest size.
        minimum: usize,
    },
    /// A vocabulary lacks special tokens.
    #[error(
        "tokenizer `{origin}` lacks {missing}; a vocabulary should have [PAD], [UNK], [CLS], [SEP] and [MASK], or <pad>, <unk>, <s>, \
         </s> and <mask>, or say in tokenizer_config.json which tokens they are"
    )]
    MissingSpecialTokens {
        /// Path of the tokenizer.
        origin: String,
        /// Names of the missing tokens, separated by commas.
        missing: String,
    },
    /// A token has two ids in a `vocab.txt`.
    #[error(
        "vocabulary `{path}` has the token {token:?} on lines {first} and {second}; each token should stand once"
    )]
    DuplicateToken {
        /// Path of the file.
        path: PathBuf,
        /// The token.
        token: String,
        /// Number of its first line, from 1.
        first: usize,
        /// Number of its second line.
        second: usize,
    },
    /// A tokenizer cannot be read, or fails on a text.
    #[error("tokenizer `{origin}`: {reason}")]
    Tokenizer {
        /// Path of the tokenizer, or the method that failed.
        origin: String,
        /// The cause, and its cure if there is one.
        reason: String,
    },
    /// A path holds no tokenizer.
    #[error(
        "tokenizer path `{path}` is none of vocab.txt, tokenizer.json, or a directory that holds one of them"
    )]
    TokenizerPath {
        /// The path.
        path: PathBuf,
    },
    /// The limit of a passage leaves no token between the special ones.
    #[error("max_len was {max_len}; it should be at least 3: [CLS], one token, [SEP]")]
    MaxLen {
        /// The limit, in tokens.
        max_len: usize,
    },
    /// Shards were to have no token.
    #[error("shard_tokens was 0; it should be at least 1, and some millions for shards of a handy size")]
    ShardTokens,
    /// No text has a token.
    #[error("none of the {texts} passages has a token after tokenization; at least one should")]
    NothingEncoded {
        /// Number of texts.
        texts: usize,
    },
    /// There is no passage to make a store of, or to sample from.
    #[error("passages was empty; it should hold at least one")]
    NoPassages,
    /// There are more passages than 32-bit indices.
    #[error(
        "passages was {count} long; it should be at most {maximum}: a passage's index is 32 bits of its mask samples"
    )]
    TooManyPassages {
        /// Number of passages.
        count: usize,
        /// The largest number.
        maximum: u32,
    },
    /// A passage has an id beyond the vocabulary.
    #[error("passage {index} has token id {id}; it should be below the vocabulary size {vocab_size}")]
    TokenId {
        /// Index of the passage.
        index: usize,
        /// The first such id.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: u32,
    },
    /// A batch has no room for the longest passage, or more tokens than a 32-bit offset counts.
    #[error(
        "batch_tokens was {batch_tokens}; it should be at least {longest}, the longest passage, and below 2^31"
    )]
    BatchTokens {
        /// Maximum tokens of a batch.
        batch_tokens: usize,
        /// Tokens of the longest passage.
        longest: usize,
    },
    /// A position to sample from is beyond the corpus, or carries over passages that cannot be sampled.
    #[error(
        "position was epoch {epoch}, cursor {cursor}; the cursor should be at most {passages}, the number of passages"
    )]
    Position {
        /// [`Position::epoch`](super::Position::epoch)
        epoch: u32,
        /// [`Position::cursor`](super::Position::cursor)
        cursor: u32,
        /// Passages of this rank's part.
        passages: usize,
    },
    /// A rank has no part of the passages.
    #[error(
        "rank was {rank} of {ranks}; it should be below the ranks, of which there is at least 1 and at most one a passage, {passages}"
    )]
    Rank {
        /// [`BatchOptions::rank`](super::BatchOptions::rank)
        rank: u32,
        /// [`BatchOptions::ranks`](super::BatchOptions::ranks)
        ranks: u32,
        /// Number of passages that are sampled.
        passages: u32,
    },
    /// The indices of skipped passages are not ascending, or beyond the store.
    #[error("skipped passages should be ascending and below {passages}, the number of passages")]
    SkippedPassages {
        /// Number of passages.
        passages: usize,
    },
    /// A shard is missing, damaged, truncated, or a different one.
    #[error("shard `{path}`: {reason}")]
    Shard {
        /// Path of the shard.
        path: PathBuf,
        /// The difference, and its cure.
        reason: String,
    },
    /// `store.json` is malformed, or of another version.
    #[error("store manifest `{path}`: {reason}; make the store again, with overwrite")]
    Manifest {
        /// Path of the manifest.
        path: PathBuf,
        /// The cause.
        reason: String,
    },
    /// A store whose text is not all tokenized was to be used.
    #[error(
        "the store `{path}` is not complete: it has {shards} shards, and text is left to tokenize; the same `retromae tokenize` again goes on with it"
    )]
    StoreIncomplete {
        /// Directory of the store.
        path: PathBuf,
        /// Number of complete shards.
        shards: usize,
    },
    /// An unfinished store was to be resumed with other options.
    #[error(
        "{argument} is {given}, but the store `{path}` was begun with {begun}; they should be the same, or overwrite should begin anew"
    )]
    StorePlan {
        /// Directory of the store.
        path: PathBuf,
        /// The option, a field of [`Plan`](super::store::Plan).
        argument: &'static str,
        /// Value that was given.
        given: String,
        /// Value that the store was begun with.
        begun: String,
    },
    /// A directory for a new store holds other files.
    #[error(
        "out `{path}` holds `{found}` and is no token store; it should be empty, or a path where a directory can be made"
    )]
    StoreNotEmpty {
        /// The directory.
        path: PathBuf,
        /// Name of one of its files.
        found: String,
    },
    /// Another process writes into a directory.
    #[error("another process is writing into `{path}`; wait for its end, or give another directory")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The thread that reads the corpus panicked.
    #[error("the thread that reads the corpus ended early")]
    ReaderThread,
}
