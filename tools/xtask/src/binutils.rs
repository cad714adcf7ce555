//! Smaller copies of programs and libraries, made with binutils, which every machine with a linker has.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Writes a copy without symbols and debug information.
pub fn strip(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").args(["--strip-all", "-o"]).arg(to).arg(from))
}

/// Writes a copy of a library with the symbols that programs link to, and no others.
pub fn strip_unneeded(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").args(["--strip-unneeded", "-o"]).arg(to).arg(from))
}

/// Writes a copy without symbols. Its debug information, compressed with zlib, the only format that the program itself reads, still names source
/// lines.
pub fn compress(from: &Path, to: &Path) -> Result<()> {
    let arguments = ["--compress-debug-sections=zlib", "--wildcard", "--strip-symbol=*"];
    run(Command::new("objcopy").args(arguments).arg(from).arg(to))
}

fn run(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}, which binutils have"))?;
    ensure!(output.status.success(), "{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
