//! The `retromae` command: pre-trains, embeds, evaluates, and reports on the build.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Command::try_parse() {
        Ok(command) => command.run().unwrap_or_else(|error| failed(&error)),
        // `--help` and `--version` arrive here, too.
        Err(usage) => match usage.print() {
            Err(error) if !usage.use_stderr() => failed(&cli::OutputError::from(error).into()),
            _ => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1)),
        },
    }
}

/// Reports the error of a failed command, and returns its exit status.
fn failed(error: &cli::Error) -> ExitCode {
    /// Status that a shell gives to a program ended by SIGPIPE.
    const READER_GONE: u8 = 128 + 13;
    if let Some(cli::OutputError::Closed) = error.downcast_ref() {
        return ExitCode::from(READER_GONE);
    }
    cli::tell(&format!("error: {}", cli::chain(&**error)));
    ExitCode::FAILURE
}
