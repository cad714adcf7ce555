//! The command line.

mod embed;
mod eval;
mod flags;
mod info;
mod output;
mod pretrain;
mod progress;
mod signals;
mod text;
mod tokenize;

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use retromae::device::{DType, Device, ModelFloat};
use retromae::train::{LoadedModel, load_model};

pub use output::{OutputError, tell};
use signals::Signals;

/// Any error of a command.
pub type Error = Box<dyn std::error::Error>;

/// RetroMAE pre-training with hand-written kernels that run on the CPU and on NVIDIA GPUs.
#[derive(Debug, Parser)]
#[command(version, name = "retromae")]
pub struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Pre-train an encoder on text; with no flags, on the prose of this machine's crates.
    Pretrain(Box<pretrain::Arguments>),
    /// Turn text into a store of tokens, to pre-train on.
    Tokenize(tokenize::Arguments),
    /// Turn each line of text into a vector, one JSON array a line.
    Embed(embed::Arguments),
    /// Measure how well a model finds passages by their first sentences, beside BM25.
    Eval(eval::Arguments),
    /// List devices, compilers and kernels.
    Info(info::Arguments),
}

impl Command {
    pub fn run(self) -> Result<ExitCode, Error> {
        let signals = Signals::install()?;
        match self.action {
            Action::Pretrain(arguments) => arguments.run(&signals),
            Action::Tokenize(arguments) => arguments.run(),
            Action::Embed(arguments) => arguments.run(),
            Action::Eval(arguments) => arguments.run(),
            Action::Info(arguments) => arguments.run(),
        }?;
        Ok(signals.exit_code())
    }
}

/// Formats an error and its causes, without causes that an earlier message already contains.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = flags::message(error);
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text.push_str(": ");
            text.push_str(&message);
        }
        cause = error.source();
    }
    text
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DeviceChoice {
    /// The first GPU if there is one, else the host.
    Auto,
    Host,
    Cuda,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum DTypeChoice {
    /// f32 on the host, bf16 on a GPU.
    Auto,
    F32,
    Bf16,
}

/// Device and data type of the computation.
#[derive(Debug, clap::Args)]
struct DeviceArguments {
    /// Device to compute on
    #[arg(long, value_enum, default_value = "auto")]
    device: DeviceChoice,
    /// Data type to compute in; weights are f32 in any case
    #[arg(long, value_enum, default_value = "auto")]
    dtype: DTypeChoice,
}

impl DeviceArguments {
    fn open(&self) -> Result<(Device, DType), retromae::device::Error> {
        let device = match self.device {
            DeviceChoice::Host => Device::host()?,
            DeviceChoice::Cuda => Device::cuda(0)?,
            DeviceChoice::Auto => Device::cuda(0).or_else(|_| Device::host())?,
        };
        let dtype = match self.dtype {
            DTypeChoice::F32 => DType::F32,
            DTypeChoice::Bf16 => DType::Bf16,
            DTypeChoice::Auto if device.name() == "cuda" => DType::Bf16,
            DTypeChoice::Auto => DType::F32,
        };
        Ok((device, dtype))
    }
}

/// Loads a model for embedding from a directory; reports weights that are missing or left over.
fn load<T: ModelFloat>(
    directory: &Path,
    device: &Device,
    batch_tokens: usize,
    max_len: Option<usize>,
) -> Result<LoadedModel<T>, Error> {
    let loaded = load_model::<T>(directory, device, batch_tokens, max_len)?;
    if loaded.weights.is_partial() {
        tell(&loaded.weights.to_string());
    }
    Ok(loaded)
}

/// Refuses a type that only matmuls support.
fn no_kernels(dtype: DType) -> Error {
    format!("--dtype is {}; it should be f32 or bf16, which there are kernels for", dtype.name()).into()
}

/// Formats rows under a header: the first `left` columns are left-aligned, numbers right-aligned.
fn table(header: &[&str], rows: &[Vec<String>], left: usize) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([header[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: Vec<&str>| {
        let padded = cells.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| {
            if column < left { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let rule = "─".repeat(widths.iter().sum::<usize>() + 2 * widths.len().saturating_sub(1));
    let mut text = format!("{}\n{rule}\n", line(header.to_vec()));
    for row in rows {
        let _ = writeln!(text, "{}", line(row.iter().map(String::as_str).collect()));
    }
    text
}

/// Formats a row of the retrieval table.
fn score_row(name: &str, score: retromae::eval::RetrievalScore) -> Vec<String> {
    let recall = score.recall_at_10.map_or("–".into(), |recall| format!("{recall:.3}"));
    vec![name.to_owned(), format!("{:.3}", score.mrr_at_10), recall]
}

/// Describes the task that the scores of `held_out` passages measure.
fn score_note(held_out: usize, score: retromae::eval::RetrievalScore) -> String {
    let by_construction = match score.recall_at_10 {
        Some(_) => "",
        None => "; Recall@10 is left out: of at most ten passages each is among the first ten",
    };
    format!("{held_out} first sentences, each to find its passage among as many{by_construction}")
}

const SCORE_HEADER: [&str; 3] = ["retrieval", "MRR@10", "Recall@10"];
