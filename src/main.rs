//! The `retromae` command: pre-train, embed, evaluate, and say what was built.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Command::try_parse() {
        Ok(command) => command.run().unwrap_or_else(|error| failed(&error)),
        // `--help` and `--version` come this way, too.
        Err(usage) => match usage.print() {
            Err(error) if !usage.use_stderr() => failed(&cli::OutputError::from(error).into()),
            _ => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1)),
        },
    }
}

/// The status of a command that failed, after its error is told.
fn failed(error: &cli::Error) -> ExitCode {
    /// What a shell says of a program that SIGPIPE ended.
    const READER_GONE: u8 = 128 + 13;
    if let Some(cli::OutputError::Closed) = error.downcast_ref() {
        return ExitCode::from(READER_GONE);
    }
    cli::tell(&format!("error: {}", cli::chain(&**error)));
    ExitCode::FAILURE
}
