//! `retromae tokenize`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use indicatif::{HumanBytes, ProgressBar};
use retromae::data::{Manifest, Progress, TokenizeOptions, tokenize};
use retromae::train::DEFAULT_MAX_LEN;

use super::Error;
use super::output::{print, tell};
use super::progress::{LINE_EVERY, bar};
use super::text::TextArguments;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Text: .txt, .md or .jsonl, each also .gz and .zst; files, directories, - for the standard input; may be given several times
    #[arg(long, value_name = "FILE|DIR|-", required = true, num_args = 1..)]
    corpus: Vec<PathBuf>,
    /// vocab.txt, tokenizer.json, or a directory with one of them
    #[arg(long, value_name = "PATH")]
    vocab: PathBuf,
    /// Directory of the store; the same command again resumes one that was not finished
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Maximum number of tokens of a passage; longer documents are split at the ends of sentences
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_LEN)]
    max_len: usize,
    #[command(flatten)]
    text: TextArguments,
    /// A shard ends with the document that reaches this many tokens
    #[arg(long, value_name = "N", default_value_t = 16 << 20)]
    shard_tokens: usize,
    /// Replace the store in --out
    #[arg(long)]
    overwrite: bool,
}

impl Arguments {
    pub fn run(&self) -> Result<(), Error> {
        let options = TokenizeOptions {
            corpus: self.corpus.clone(),
            read: self.text.options(),
            vocabulary: self.vocab.clone(),
            out: self.out.clone(),
            max_len: self.max_len,
            shard_tokens: self.shard_tokens,
            overwrite: self.overwrite,
        };
        let mut watcher = Watcher::new();
        let (manifest, worked) = tokenize(&options, |progress| watcher.show(progress))?;
        watcher.finish();
        let already = if worked {
            String::new()
        } else {
            let out = self.out.display();
            format!("the store in {out} is already complete; --overwrite makes it anew\n")
        };
        Ok(print(&format!("{already}{}", summary(&manifest)))?)
    }
}

fn summary(manifest: &Manifest) -> String {
    let encoded = &manifest.encoded;
    format!(
        "text: {}\ntokens: {} in {} passages of at most {}; {} unknown\n\
         documents: {} split, with {} cuts inside a sentence; {} without a token; {} duplicates of a passage left out\nshards: {}\n",
        manifest.text,
        encoded.tokens,
        encoded.passages,
        manifest.max_len,
        encoded.unknown_tokens,
        encoded.split,
        encoded.cut_in_sentence,
        encoded.skipped_empty,
        encoded.duplicates,
        manifest.shards.len()
    )
}

/// Progress bar on a terminal, else a line now and then; all on the standard error.
struct Watcher {
    bar: Option<ProgressBar>,
    started: Instant,
    /// Progress at the first report: the baseline of this process's speed, which leaves out an earlier process's work.
    before: Option<Progress>,
    last_line: Instant,
}

impl Watcher {
    fn new() -> Self {
        let bar = bar("{bar:30.blue/dim} {bytes}/{total_bytes}  {msg}  {eta} left");
        Self { bar, started: Instant::now(), before: None, last_line: Instant::now() }
    }

    fn show(&mut self, progress: Progress) {
        let before = *self.before.get_or_insert(progress);
        let seconds = self.started.elapsed().as_secs_f64().max(1e-3);
        let rate = (progress.tokens - before.tokens) as f64 / seconds;
        let Progress { bytes, total_bytes, passages, shards, .. } = progress;
        let done = format!("{rate:.0} tokens/s, {passages} passages, {shards} shards");
        if let Some(bar) = &self.bar {
            if let Some(total) = total_bytes {
                bar.set_length(total);
            }
            bar.set_position(bytes);
            bar.set_message(done);
        } else if self.last_line.elapsed() >= LINE_EVERY {
            let total = total_bytes.map_or("?".into(), |total| HumanBytes(total).to_string());
            let left = left(progress, before, seconds);
            tell(&format!("read {} of {total}  {done}{left}", HumanBytes(bytes)));
            self.last_line = Instant::now();
        }
    }

    fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish();
        }
    }
}

/// Formats the remaining time at the speed of this process, if known.
fn left(progress: Progress, before: Progress, seconds: f64) -> String {
    let read = progress.bytes.saturating_sub(before.bytes);
    match progress.total_bytes {
        Some(total) if read > 0 => {
            let rest = total.saturating_sub(progress.bytes) as f64 * seconds / read as f64;
            format!("  {rest:.0} s left")
        }
        _ => String::new(),
    }
}
