//! `retromae embed`.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use retromae::device::{DType, Device, Float, bf16};
use retromae::eval::{Embedder, normalize_rows};
use retromae::train::{LoadedModel, load_model};

use super::{DeviceArguments, Error, no_kernels};

/// Lines read before they are embedded together.
const LINES_AT_ONCE: usize = 1024;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory with model.safetensors, config.json and a tokenizer; files of sentence-transformers say how vectors are pooled, else
    /// they are those of [CLS]
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Text, one a line; - is the standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// One JSON array for each line, in order; - is the standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Scale each vector to length 1
    #[arg(long)]
    normalize: bool,
    /// Tokens of a text, at most; what is beyond is cut off [default: the model's, else 512]
    #[arg(long, value_name = "N")]
    max_len: Option<usize>,
    /// Tokens that go to the device at once, at most
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

    fn embed<T: Float>(&self, device: &Device) -> Result<(), Error> {
        let LoadedModel { mut model, tokenizer, pooling, normalize, weights } =
            load_model::<T>(&self.model, device, self.batch_tokens, self.max_len)?;
        if weights.is_partial() {
            eprintln!("{weights}");
        }
        let normalize = self.normalize || normalize;
        let stream = device.stream();
        let dim = model.config().hidden_size;
        let mut lines = open_input(&self.input)?.lines().enumerate();
        let mut output = open_output(&self.output)?;
        let mut embedder = Embedder {
            model: &mut model,
            stream: &stream,
            tokenizer: &tokenizer,
            pooling,
            stop: &mut || false,
        };
        loop {
            let texts = lines
                .by_ref()
                .take(LINES_AT_ONCE)
                .map(|(index, line)| {
                    line.map_err(|error| format!("{}, line {}: {error}", self.input.display(), index + 1))
                })
                .collect::<Result<Vec<String>, _>>()?;
            if texts.is_empty() {
                return Ok(output.flush()?);
            }
            let mut vectors = embedder.embed(&texts)?;
            if normalize {
                normalize_rows(&mut vectors, dim);
            }
            for vector in vectors.chunks_exact(dim) {
                serde_json::to_writer(&mut output, vector)?;
                output.write_all(b"\n")?;
            }
        }
    }
}

fn open_input(path: &Path) -> Result<Box<dyn BufRead>, Error> {
    if path == Path::new("-") {
        return Ok(Box::new(BufReader::new(std::io::stdin())));
    }
    let file =
        File::open(path).map_err(|error| format!("cannot read --input `{}`: {error}", path.display()))?;
    Ok(Box::new(BufReader::new(file)))
}

fn open_output(path: &Path) -> Result<Box<dyn Write>, Error> {
    if path == Path::new("-") {
        return Ok(Box::new(BufWriter::new(std::io::stdout())));
    }
    let file =
        File::create(path).map_err(|error| format!("cannot write --output `{}`: {error}", path.display()))?;
    Ok(Box::new(BufWriter::new(file)))
}
