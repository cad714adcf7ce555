//! The `retromae` command: pre-train, embed, evaluate, and say what was built.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Command::try_parse() {
        Ok(command) => ended(command.run()),
        // `--help` and `--version` come this way, too.
        Err(usage) => match usage.print() {
            Err(error) if !usage.use_stderr() => ended(Err(cli::OutputError::from(error).into())),
            _ => ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(1)),
        },
    }
}

/// The status of a command that has ended, after its error is told.
fn ended(result: Result<(), cli::Error>) -> ExitCode {
    /// What a shell says of a program that SIGPIPE ended.
    const READER_GONE: u8 = 128 + 13;
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(cli::OutputError::Closed) = error.downcast_ref() {
        return ExitCode::from(READER_GONE);
    }
    cli::tell(&format!("error: {}", cli::chain(&*error)));
    ExitCode::FAILURE
}
