//! The project's own chores: the bundle for a GPU machine, its verification there, the report of its measurements, and the C library.

mod binutils;
mod bundle;
mod c_install;
mod cases;
mod collate;
mod compare_runs;
mod estimate;
mod files;
mod imports;
mod report;
mod result;
mod summary;
mod verify;

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
    /// Build the C library, and install it with its header and retromae.pc
    CInstall(c_install::Arguments),
    /// Count the machine code of the headline cases, and write what it would take on an H100 to docs/estimate.md
    Estimate(estimate::Arguments),
    /// Print which layer of src/ imports which; fail on an upward import or a circle
    Imports(imports::Arguments),
    /// Write the README's table and docs/benchmarks.svg from the newest GPU result
    Report(report::Arguments),
    /// Verify and measure on this machine with a bundle's programs; verify.sh of a bundle calls it
    Verify(verify::Arguments),
}

fn main() -> ExitCode {
    let action = Command::parse().action;
    // Exit statuses of a verification: 1 means that a check failed, 2 that the run was refused.
    let refused = if matches!(action, Action::Verify(_)) { ExitCode::from(2) } else { ExitCode::FAILURE };
    let outcome: Result<ExitCode> = match action {
        Action::Bundle(arguments) => arguments.run().map(|()| ExitCode::SUCCESS),
        Action::CInstall(arguments) => arguments.run().map(|()| ExitCode::SUCCESS),
        Action::Estimate(arguments) => arguments.run().map(|()| ExitCode::SUCCESS),
        Action::Imports(arguments) => arguments.run().map(|()| ExitCode::SUCCESS),
        Action::Report(arguments) => arguments.run().map(|()| ExitCode::SUCCESS),
        Action::Verify(arguments) => arguments.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        refused
    })
}
