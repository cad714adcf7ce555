//! The `retromae` command: pre-train, embed, evaluate, and say what was built.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match cli::Command::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {}", cli::chain(&*error));
            ExitCode::FAILURE
        }
    }
}
