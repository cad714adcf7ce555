//! The project's own chores: the bundle for a GPU machine, and the report of what it measured.

mod bundle;
mod collate;
mod compare_runs;
mod files;
mod report;
mod result;
mod summary;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// The project's own chores.
#[derive(Debug, Parser)]
#[command(name = "xtask")]
struct Command {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Build everything that a GPU machine without Rust needs to verify and measure, into one folder
    Bundle(bundle::Arguments),
    /// Make one result file, and its summary, of what verify.sh left in a folder
    Collate(collate::Arguments),
    /// Set the losses of two training runs side by side; fails where they differ by more than the bound
    CompareRuns(compare_runs::Arguments),
    /// Write the README's table and docs/benchmarks.svg from the newest GPU result
    Report(report::Arguments),
}

fn main() -> ExitCode {
    let outcome: Result<()> = match Command::parse().action {
        Action::Bundle(arguments) => arguments.run(),
        Action::Collate(arguments) => arguments.run(),
        Action::CompareRuns(arguments) => arguments.run(),
        Action::Report(arguments) => arguments.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
