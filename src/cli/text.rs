//! Options for reading text: the same flags for every command that reads text.

use clap::{Args, ValueEnum};
use retromae::data::{ReadOptions, TextFormat};

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// One document a line
    Txt,
    /// One document a line, in a field of a JSON object
    Jsonl,
    /// One document a paragraph
    Md,
}

#[derive(Debug, Args)]
pub struct TextArguments {
    /// Field of JSON lines that holds the text
    #[arg(long, value_name = "NAME", default_value_t = ReadOptions::default().field)]
    field: String,
    /// Format of the standard input, and of files whose names do not tell it [default: by the content: jsonl, or txt for the standard input]
    #[arg(long, value_enum)]
    format: Option<Format>,
}

impl TextArguments {
    pub fn options(&self) -> ReadOptions {
        let format = self.format.map(|format| match format {
            Format::Txt => TextFormat::Txt,
            Format::Jsonl => TextFormat::Jsonl,
            Format::Md => TextFormat::Md,
        });
        ReadOptions { field: self.field.clone(), format }
    }
}
