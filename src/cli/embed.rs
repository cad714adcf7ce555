//! `retromae embed`.

use std::path::PathBuf;

use clap::Args;
use retromae::data::{Documents, Records};
use retromae::device::{DType, Device, ModelFloat, bf16};
use retromae::eval::normalize_rows;

use super::output::{Output, tell};
use super::text::TextArguments;
use super::{DeviceArguments, Error, load, no_kernels};

/// Records that are read and then embedded together.
const RECORDS_AT_ONCE: usize = 1024;
/// Line written for a record without a text.
const NO_VECTOR: &[u8] = b"null\n";

#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory with model.safetensors, config.json and a tokenizer; vectors are pooled as its sentence-transformers files
    /// specify, else they are those of [CLS]
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text: .txt, .md or .jsonl, each also .gz and .zst; a file, a directory, or - for the standard input
    #[arg(long, value_name = "FILE|DIR|-", default_value = "-")]
    input: PathBuf,
    #[command(flatten)]
    text: TextArguments,
    /// One JSON array for each line of the input (of markdown, each paragraph), in order; null for a blank line of JSON lines or one without the
    /// text; an empty line of plain text has the vector of the empty text. - is the standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Scale each vector to length 1
    #[arg(long)]
    normalize: bool,
    /// Maximum number of tokens of a text; the rest is cut off [default: the model's, else 512]
    #[arg(long, value_name = "N")]
    max_len: Option<usize>,
    /// Maximum number of tokens that go to the device at once
    #[arg(long, value_name = "N", default_value_t = 4096)]
    batch_tokens: usize,
    #[command(flatten)]
    device: DeviceArguments,
}

impl Arguments {
    pub fn run(&self) -> Result<(), Error> {
        let (device, dtype) = self.device.open()?;
        match dtype {
            DType::F32 => self.embed::<f32>(&device),
            DType::Bf16 => self.embed::<bf16>(&device),
            DType::F16 => Err(no_kernels(dtype)),
        }
    }

    fn embed<T: ModelFloat>(&self, device: &Device) -> Result<(), Error> {
        let documents = Documents::open(std::slice::from_ref(&self.input), self.text.options())?;
        let mut records = Records::of(documents);
        let mut loaded = load::<T>(&self.model, device, self.batch_tokens, self.max_len)?;
        let normalize = self.normalize || loaded.normalize;
        let dim = loaded.model.config().hidden_size;
        let mut output = Output::open(&self.output)?;
        let (stream, stop) = (device.stream(), &mut || false);
        let mut embedder = loaded.embedder(&stream, stop);
        loop {
            let read = records.by_ref().take(RECORDS_AT_ONCE).collect::<Result<Vec<_>, _>>()?;
            if read.is_empty() {
                output.finish()?;
                tell(&format!("text: {}", records.report()));
                return Ok(());
            }
            let texts: Vec<&String> = read.iter().flatten().collect();
            let mut vectors = embedder.embed(&texts)?;
            if normalize {
                normalize_rows(&mut vectors, dim);
            }
            let mut vectors = vectors.chunks_exact(dim);
            for record in &read {
                match record.as_ref().and_then(|_| vectors.next()) {
                    None => output.write(NO_VECTOR)?,
                    Some(vector) => {
                        output.write(format!("{}\n", serde_json::to_string(vector)?).as_bytes())?;
                    }
                }
            }
        }
    }
}
