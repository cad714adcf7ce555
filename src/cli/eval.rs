//! `retromae eval`.

use std::path::PathBuf;

use clap::Args;
use retromae::data::{Corpus, ReadOptions};
use retromae::device::{DType, Device, Float, bf16};
use retromae::eval::{Embedder, RetrievalScore, rank_bm25, split_held_out};
use retromae::train::{LoadedModel, load_model};

use super::{DeviceArguments, Error, SCORE_HEADER, no_kernels, print_table, score_note, score_row};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory with model.safetensors, config.json and a tokenizer; files of sentence-transformers say how vectors are pooled, else
    /// they are those of [CLS]
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text: .txt, .md or .jsonl, each also .gz and .zst; a file or a directory
    #[arg(long, value_name = "FILE|DIR")]
    corpus: PathBuf,
    /// The field of JSON lines that holds the text
    #[arg(long, value_name = "NAME", default_value = "text")]
    field: String,
    /// Passages to find, at most a tenth of the corpus
    #[arg(long, value_name = "N", default_value_t = 1000)]
    held_out: usize,
    /// Of the draw of passages: with a run's seed and --held-out they are those that it did not train on
    #[arg(long, value_name = "N", default_value_t = retromae::train::Options::default().seed)]
    seed: u64,
    /// Tokens of a text, at most; what is beyond is cut off [default: the model's, else 512]
    #[arg(long, value_name = "N")]
    max_len: Option<usize>,
    /// Tokens that go to the device at once, at most
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

    fn evaluate<T: Float>(&self, device: &Device) -> Result<(), Error> {
        let corpus = Corpus::from_path(
            &self.corpus,
            &ReadOptions { field: self.field.clone(), ..ReadOptions::default() },
        )?;
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
        let LoadedModel { mut model, tokenizer, pooling, weights, .. } =
            load_model::<T>(&self.model, device, self.batch_tokens, self.max_len)?;
        if weights.is_partial() {
            eprintln!("{weights}");
        }
        let stream = device.stream();
        let mut embedder = Embedder {
            model: &mut model,
            stream: &stream,
            tokenizer: &tokenizer,
            pooling,
            stop: &mut || false,
        };
        let score = embedder.retrieval_score(&held_out)?;
        let bm25 = RetrievalScore::from_ranks(&rank_bm25(&held_out));
        if self.json {
            println!("{}", serde_json::json!({ "held_out": held_out.len(), "model": score, "bm25": bm25 }));
            return Ok(());
        }
        print_table(&SCORE_HEADER, &[score_row("model", score), score_row("BM25", bm25)], 1);
        println!("{}", score_note(held_out.len(), bm25));
        Ok(())
    }
}
