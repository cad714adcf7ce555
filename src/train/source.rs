//! The passages of a run: a corpus of text, which the run tokenizes, or a store of tokenized passages.

use std::path::Path;
use std::sync::Arc;

use super::error::{Error, Result, require};
use super::{Observer, Options};
use crate::data::{Corpus, EncodeReport, Manifest, TokenStore, Tokenizer, checksum};
use crate::eval::{HeldOut, Split, sample_held_out, split_held_out};

/// Training data of a run.
pub(super) struct Source {
    pub tokenizer: Tokenizer,
    pub store: Arc<TokenStore>,
    /// Indices of the store's passages that are excluded from training, ascending.
    pub skipped: Vec<u32>,
    pub held_out: Vec<HeldOut>,
    /// Maximum tokens of a passage.
    pub max_len: usize,
    /// Description with a checksum that identifies the passages.
    pub identity: String,
}

impl Source {
    /// Reads the corpus that `--corpus` names. `vocab_size` is the size of a vocabulary that must be trained first.
    pub fn read(options: &Options, vocab_size: usize, observer: &mut dyn Observer) -> Result<Self> {
        match options.store() {
            Some(directory) => Self::of_store(directory, options, observer),
            None => Self::of_text(options, vocab_size, observer),
        }
    }

    fn of_text(options: &Options, vocab_size: usize, observer: &mut dyn Observer) -> Result<Self> {
        let max_len = options.text_max_len();
        let Split { training, held_out } = read_corpus(options, observer)?;
        let tokenizer = tokenizer(options, vocab_size, &training, observer)?;
        let encoded = tokenizer.encode_corpus(&training, max_len)?;
        observer.note(&encode_note(&encoded.report, max_len));
        let store = TokenStore::in_memory(&encoded.passages, tokenizer.vocab_size() as u32)?;
        // Different texts may have the same tokens: when they differ in case, or in words that the vocabulary does not know.
        let texts: Vec<String> =
            held_out.iter().map(|HeldOut { query, document }| format!("{query} {document}")).collect();
        let held_out_passages = tokenizer.encode_texts(&texts, max_len)?;
        let skipped = store.indices_of(held_out_passages.iter().flat_map(|text| text.passages.iter()));
        note_repeats(skipped.len(), observer);
        Ok(Self {
            tokenizer,
            store: Arc::new(store),
            skipped,
            held_out,
            max_len,
            identity: format!("text with checksum {}", checksum(training.join("\n").as_bytes())),
        })
    }

    fn of_store(directory: &Path, options: &Options, observer: &mut dyn Observer) -> Result<Self> {
        let manifest = Manifest::read(directory)?;
        let tokenizer = Tokenizer::from_path(directory)?;
        check_options(options, directory, &manifest, &tokenizer)?;
        let store = TokenStore::open(directory, &manifest)?;
        observer.note(&format!(
            "store: {} passages, {} tokens, in {} shards; vocabulary: {} tokens",
            store.len(),
            store.tokens(),
            manifest.shards.len(),
            tokenizer.vocab_size()
        ));
        let max_len = options.max_len.unwrap_or(manifest.max_len);
        require(
            max_len >= store.longest(),
            "max_len",
            max_len,
            format_args!("at least {}, the longest passage of the store", store.longest()),
        )?;
        let text = |index| tokenizer.decode(&store.passage(index).ids.to_vec());
        let (skipped, held_out) = sample_held_out(store.len() as u32, options.held_out, options.seed, text)?;
        note_held_out(options, held_out.len(), observer);
        // A store that was not made by `retromae tokenize` may hold a passage several times.
        let sampled = skipped.len();
        let skipped = store.indices_of(skipped.iter().map(|&index| store.passage(index)));
        note_repeats(skipped.len() - sampled, observer);
        Ok(Self {
            store: Arc::new(store),
            tokenizer,
            skipped,
            held_out,
            max_len,
            identity: format!("a store with checksum {}", manifest.checksum()),
        })
    }
}

/// Refuses options that conflict with the store: a vocabulary, longer passages, or a model with another vocabulary.
fn check_options(
    options: &Options,
    directory: &Path,
    manifest: &Manifest,
    tokenizer: &Tokenizer,
) -> Result<()> {
    const OWN: &str = "left out: a store has its own vocabulary";
    if let Some(path) = &options.vocabulary {
        return require(false, "vocabulary", path.display(), OWN);
    }
    if let Some(size) = options.vocab_size {
        return require(false, "vocab_size", size, OWN);
    }
    require(
        options.max_len.is_none_or(|max_len| max_len <= manifest.max_len),
        "max_len",
        options.max_len.unwrap_or_default(),
        format_args!("at most {}, that of the store", manifest.max_len),
    )?;
    let same = |other: &Tokenizer| {
        let ids = 0..other.vocab_size().max(tokenizer.vocab_size()) as u32;
        ids.into_iter().all(|id| other.token(id) == tokenizer.token(id))
    };
    if let Some(init) = &options.init
        && !same(&Tokenizer::from_path(init)?)
    {
        let what = format!("`{}`, with another vocabulary", init.display());
        return require(false, "init", what, "a model with the vocabulary of the store");
    }
    if tokenizer.checksum() != manifest.tokenizer {
        let path = directory.join("tokenizer.json");
        return Err(Error::Data(crate::data::Error::Manifest {
            path,
            reason: "its checksum is not the one that the store was made with".into(),
        }));
    }
    Ok(())
}

fn read_corpus(options: &Options, observer: &mut dyn Observer) -> Result<Split> {
    let corpus = match &options.corpus {
        Some(path) => Corpus::from_path(path, &options.read)?,
        None => {
            observer.note(
                "no corpus was given: taking README files and doc comments of the crates in $CARGO_HOME/registry/src",
            );
            Corpus::from_installed_crates(options.installed_bytes)?
        }
    };
    observer.note(&format!("corpus: {}", corpus.report));
    let split = split_held_out(corpus.passages, options.held_out, options.seed);
    note_held_out(options, split.held_out.len(), observer);
    Ok(split)
}

fn note_held_out(options: &Options, sampled: usize, observer: &mut dyn Observer) {
    if sampled < options.held_out {
        let asked = options.held_out;
        observer.note(&format!(
            "held out {sampled} passages, not {asked}: at most a tenth, and only those of several sentences"
        ));
    }
}

fn note_repeats(repeats: usize, observer: &mut dyn Observer) {
    if repeats > 0 {
        observer
            .note(&format!("{repeats} passages with the tokens of one that is held out are not trained on"));
    }
}

/// Returns the tokenizer that was given, that of the run to resume, or a newly trained one.
fn tokenizer(
    options: &Options,
    vocab_size: usize,
    training: &[String],
    observer: &mut dyn Observer,
) -> Result<Tokenizer> {
    let resumed = options.out.join("tokenizer.json");
    let given: Option<&Path> = options.vocabulary.as_deref().or(options.init.as_deref());
    if let Some(path) = given.or_else(|| (options.resume && resumed.is_file()).then_some(resumed.as_path())) {
        let tokenizer = Tokenizer::from_path(path)?;
        observer.note(&format!("vocabulary: {} tokens of {}", tokenizer.vocab_size(), path.display()));
        return Ok(tokenizer);
    }
    let tokenizer = Tokenizer::train_word_piece(training, vocab_size)?;
    observer.note(&format!("vocabulary: {} tokens, trained on the corpus", tokenizer.vocab_size()));
    Ok(tokenizer)
}

fn encode_note(report: &EncodeReport, max_len: usize) -> String {
    let mut note = format!("text: {} passages, {} tokens", report.passages, report.tokens);
    let counts = [
        (report.split, format!("texts above {max_len} tokens split")),
        (report.cut_in_sentence, "cuts inside a sentence".to_owned()),
        (report.skipped_empty, "texts without a token skipped".to_owned()),
        (report.unknown_tokens, "unknown tokens".to_owned()),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        note.push_str(&format!(", {count} {what}"));
    }
    note
}
