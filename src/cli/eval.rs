//! `retromae eval`.

use std::path::PathBuf;

use clap::Args;
use retromae::data::Corpus;
use retromae::device::{DType, Device, ModelFloat, bf16};
use retromae::eval::{RetrievalScore, rank_bm25, split_held_out};

use super::output::{print, tell};
use super::text::TextArguments;
use super::{DeviceArguments, Error, SCORE_HEADER, load, no_kernels, score_note, score_row, table};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory with model.safetensors, config.json and a tokenizer; vectors are pooled as its sentence-transformers files
    /// specify, else they are those of [CLS]
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text: .txt, .md or .jsonl, each also .gz and .zst; a file, a directory, or - for the standard input
    #[arg(long, value_name = "FILE|DIR|-")]
    corpus: PathBuf,
    #[command(flatten)]
    text: TextArguments,
    /// Passages to find, at most a tenth of the corpus
    #[arg(long, value_name = "N", default_value_t = 1000)]
    held_out: usize,
    /// Seed that samples these passages: with a run's seed and --held-out they are those that it did not train on
    #[arg(long, value_name = "N", default_value_t = retromae::train::Options::default().seed)]
    seed: u64,
    /// Maximum number of tokens of a text; the rest is cut off [default: the model's, else 512]
    #[arg(long, value_name = "N")]
    max_len: Option<usize>,
    /// Maximum number of tokens that go to the device at once
    #[arg(long, value_name = "N", default_value_t = 4096)]
    batch_tokens: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    device: DeviceArguments,
}

impl Arguments {
    pub fn run(&self) -> Result<(), Error> {
        let (device, dtype) = self.device.open()?;
        match dtype {
            DType::F32 => self.evaluate::<f32>(&device),
            DType::Bf16 => self.evaluate::<bf16>(&device),
            DType::F16 => Err(no_kernels(dtype)),
        }
    }

    fn evaluate<T: ModelFloat>(&self, device: &Device) -> Result<(), Error> {
        let corpus = Corpus::from_path(&self.corpus, &self.text.options())?;
        tell(&format!("corpus: {}", corpus.report));
        let held_out = split_held_out(corpus.passages, self.held_out, self.seed).held_out;
        if held_out.is_empty() {
            let path = self.corpus.display();
            return Err(format!(
                "--corpus `{path}` with --held-out {} gives no two passages to find; there should be at least twenty, of several sentences \
                 each, and --held-out at least 2",
                self.held_out
            )
            .into());
        }
        let mut loaded = load::<T>(&self.model, device, self.batch_tokens, self.max_len)?;
        let score = loaded.embedder(&device.stream(), &mut || false).retrieval_score(&held_out)?;
        let bm25 = RetrievalScore::from_ranks(&rank_bm25(&held_out));
        let held_out = held_out.len();
        let text = if self.json {
            format!("{}\n", serde_json::json!({ "held_out": held_out, "model": score, "bm25": bm25 }))
        } else {
            let table = table(&SCORE_HEADER, &[score_row("model", score), score_row("BM25", bm25)], 1);
            format!("{table}{}\n", score_note(held_out, bm25))
        };
        Ok(print(&text)?)
    }
}
