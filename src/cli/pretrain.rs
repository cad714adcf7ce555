//! `retromae pretrain`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use retromae::model::{DecoderKind, PoolRows, QueryKind};
use retromae::train::report::data_wait_percent;
use retromae::train::{ModelChoice, Options, RunLength, RunResult, pretrain};

use super::output::{print, tell};
use super::progress::Terminal;
use super::signals::Signals;
use super::text::TextArguments;
use super::{DeviceArguments, Error, SCORE_HEADER, score_note, score_row, table};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Decoder {
    /// A BERT layer over a masked input
    Basic,
    /// Two streams under position-specific masks
    Enhanced,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Query {
    Position,
    Embedding,
}

/// Flags without a value here take [`Options::default`]'s.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Text (.txt, .md, .jsonl, each also .gz and .zst; a file, a directory, or - for the standard input), or a store of `retromae tokenize`
    /// [default: README files and doc comments of the crates on this machine]
    #[arg(long, value_name = "FILE|DIR|-")]
    corpus: Option<PathBuf>,
    #[command(flatten)]
    text: TextArguments,
    /// tiny, small, base, or a config.json with Hugging Face's names [default: tiny]
    #[arg(long, value_name = "SIZE|FILE")]
    model: Option<String>,
    /// Continue from the BERT in this directory
    #[arg(long, value_name = "DIR", conflicts_with_all = ["model", "vocab", "vocab_size"])]
    init: Option<PathBuf>,
    /// vocab.txt or any tokenizer.json [default: a vocabulary is trained on the corpus]
    #[arg(long, value_name = "PATH")]
    vocab: Option<PathBuf>,
    /// Tokens of a trained vocabulary [default: the model's, else 4096]
    #[arg(long, value_name = "N", conflicts_with = "vocab")]
    vocab_size: Option<usize>,
    #[command(flatten)]
    device: DeviceArguments,
    /// Updates of the weights
    #[arg(long, value_name = "N", default_value_t = default_steps(), conflicts_with = "epochs")]
    steps: u64,
    /// Epochs over the corpus, in place of --steps
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,
    /// End after this many steps, to be resumed; the schedule is that of the whole run
    #[arg(long, value_name = "STEP")]
    stop_at: Option<u64>,
    /// Maximum number of tokens of a batch
    #[arg(long, value_name = "N", default_value_t = Options::default().batch_tokens)]
    batch_tokens: usize,
    /// Maximum number of tokens of a passage; longer texts are split [default: the store's, else 128]
    #[arg(long, value_name = "N")]
    max_len: Option<usize>,
    /// Peak of the learning rate, at most 1
    #[arg(long, value_name = "RATE", default_value_t = Options::default().learning_rate, allow_negative_numbers = true)]
    lr: f32,
    /// Warmup steps, in which the learning rate rises [default: a tenth of all]
    #[arg(long, value_name = "STEPS")]
    warmup: Option<u64>,
    /// Part of the encoder's input that is masked
    #[arg(long, value_name = "RATIO", default_value_t = Options::default().encoder_mask, allow_negative_numbers = true)]
    encoder_mask: f64,
    /// Part of the decoder's input that is masked
    #[arg(long, value_name = "RATIO", default_value_t = Options::default().decoder_mask, allow_negative_numbers = true)]
    decoder_mask: f64,
    /// Maximum number of tokens that a mask hides [default: no limit]
    #[arg(long, value_name = "N")]
    mask_cap: Option<usize>,
    /// Masks of a passage, of which each token of the enhanced decoder samples one; or `independent`: each has its own
    #[arg(long, value_name = "N|independent", default_value_t = Options::default().pool_rows, value_parser = pool_rows)]
    pool_rows: PoolRows,
    /// Kind of decoder that rebuilds a passage [default: the model's, else enhanced]
    #[arg(long, value_enum)]
    decoder: Option<Decoder>,
    /// The enhanced decoder's query stream [default: the model's, else embedding]
    #[arg(long, value_enum)]
    query: Option<Query>,
    /// Also predict which words a passage has, from the largest logits of its tokens (DupMAE), at a tenth of the loss
    #[arg(long)]
    dupmae: bool,
    /// Seed of all random numbers
    #[arg(long, value_name = "N", default_value_t = Options::default().seed)]
    seed: u64,
    /// Directory for the model, the checkpoint and the record
    #[arg(long, value_name = "DIR", default_value = "out")]
    out: PathBuf,
    /// Resume from the checkpoint in --out
    #[arg(long, conflicts_with = "overwrite")]
    resume: bool,
    /// Replace an earlier run in --out
    #[arg(long)]
    overwrite: bool,
    /// Passages kept out of training for the retrieval check, at most a tenth; 0 for no check
    #[arg(long, value_name = "N", default_value_t = Options::default().held_out)]
    held_out: usize,
    /// Steps between checkpoints
    #[arg(long, value_name = "N", default_value_t = Options::default().checkpoint_every)]
    checkpoint_every: u64,
}

fn pool_rows(text: &str) -> Result<PoolRows, String> {
    match text {
        "independent" => Ok(PoolRows::Independent),
        rows => {
            rows.parse().map(PoolRows::AtMost).map_err(|_| "a number or `independent` is expected".into())
        }
    }
}

fn default_steps() -> u64 {
    match Options::default().length {
        RunLength::Steps(steps) => steps,
        RunLength::Epochs(_) => 1,
    }
}

impl Arguments {
    fn options(&self) -> Options {
        let model = match self.model.as_deref() {
            None | Some("tiny") => ModelChoice::Tiny,
            Some("small") => ModelChoice::Small,
            Some("base") => ModelChoice::Base,
            Some(path) => ModelChoice::File(path.into()),
        };
        let decoder = |choice| match choice {
            Decoder::Basic => DecoderKind::Basic,
            Decoder::Enhanced => DecoderKind::Enhanced,
        };
        let query = |choice| match choice {
            Query::Position => QueryKind::Position,
            Query::Embedding => QueryKind::Embedding,
        };
        Options {
            corpus: self.corpus.clone(),
            read: self.text.options(),
            model,
            init: self.init.clone(),
            vocabulary: self.vocab.clone(),
            vocab_size: self.vocab_size,
            length: self.epochs.map_or(RunLength::Steps(self.steps), RunLength::Epochs),
            stop_at: self.stop_at,
            batch_tokens: self.batch_tokens,
            max_len: self.max_len,
            learning_rate: self.lr,
            warmup_steps: self.warmup,
            encoder_mask: self.encoder_mask,
            decoder_mask: self.decoder_mask,
            mask_cap: self.mask_cap,
            pool_rows: self.pool_rows,
            decoder: self.decoder.map(decoder),
            query: self.query.map(query),
            dupmae: self.dupmae,
            seed: self.seed,
            out: self.out.clone(),
            resume: self.resume,
            overwrite: self.overwrite,
            held_out: self.held_out,
            checkpoint_every: self.checkpoint_every,
            ..Options::default()
        }
    }

    pub fn run(&self, signals: &Signals) -> Result<(), Error> {
        let options = self.options();
        // Before the device is opened: a mistyped option should not wait for a driver.
        options.validate()?;
        let (device, dtype) = self.device.open()?;
        let result = pretrain(&options, &device, dtype, &mut Terminal::new(signals.clone()))?;
        if result.stopped {
            // Written to the standard error, because the sender of the signal may not read the standard output.
            tell(&stopped(&result, signals.received().unwrap_or_default()));
        }
        let printed = print(&summary(&result));
        // A signal to a whole pipeline also ends the reader of the output, so an error in printing is ignored: the status is the signal's.
        if result.stopped { Ok(()) } else { Ok(printed?) }
    }
}

fn summary(result: &RunResult) -> String {
    let mut parts = Vec::new();
    if let (Some(first), Some(last)) = (result.records.first(), result.records.last()) {
        let falls =
            |name: &str, from: f32, to: f32| vec![name.to_owned(), format!("{from:.3}"), format!("{to:.3}")];
        let rows = [
            falls("encoder", first.encoder_loss, last.encoder_loss),
            falls("decoder", first.decoder_loss, last.decoder_loss),
        ];
        let (from, to) = (format!("step {}", first.step), format!("step {}", last.step));
        let waiting = data_wait_percent(&result.records);
        let losses = table(&["loss", &from, &to], &rows, 1);
        parts.push(format!("{losses}waiting for data: {waiting:.2} % of the time\n"));
    }
    if let Some(retrieval) = &result.retrieval {
        let mut rows = vec![score_row("untrained", retrieval.before)];
        rows.extend(retrieval.after.map(|score| score_row("trained", score)));
        rows.push(score_row("BM25", retrieval.bm25));
        let scores = table(&SCORE_HEADER, &rows, 1);
        parts.push(format!("{scores}{}\n", score_note(retrieval.held_out, retrieval.bm25)));
    }
    if !result.stopped {
        let done = steps_done(result);
        let mut end = String::new();
        if done < result.total_steps {
            end = format!("stopped after step {done} of {}; --resume goes on\n", result.total_steps);
        }
        let out = result.out.display();
        parts.push(format!("{end}model, checkpoint, training.jsonl and training.svg are in {out}\n"));
    }
    if parts.is_empty() { String::new() } else { format!("\n{}", parts.join("\n")) }
}

fn steps_done(result: &RunResult) -> u64 {
    result.records.last().map_or(0, |record| record.step)
}

fn stopped(result: &RunResult, signal: &str) -> String {
    format!(
        "{signal}: stopped after step {} of {}; the checkpoint is in {}; the same command with --resume goes on",
        steps_done(result),
        result.total_steps,
        result.out.join("checkpoint").display()
    )
}
