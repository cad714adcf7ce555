//! Release builds of all programs, and where cargo put them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::result::Build;

pub struct Programs {
    pub suite: PathBuf,
    pub retromae: PathBuf,
    pub bench: PathBuf,
    pub xtask: PathBuf,
}

/// Cargo message that names a built program.
#[derive(Deserialize)]
struct Message {
    executable: Option<PathBuf>,
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

/// A program that cargo built.
#[derive(Debug)]
struct Program {
    name: String,
    kind: String,
    path: PathBuf,
}

pub fn build(root: &Path) -> Result<Programs> {
    let tests = run(
        root,
        &["test", "--release", "--no-run", "--package", "retromae", "--test", "suite", "--bench", "bench"],
    )?;
    // The tests go first: they build their own `retromae`, with test-only kernels, to the same path.
    let retromae = run(root, &["build", "--release", "--bin", "retromae"])?;
    let xtask = run(root, &["build", "--release", "--package", "xtask"])?;
    Ok(Programs {
        suite: one(&tests, "test", "suite")?,
        bench: one(&tests, "bench", "bench")?,
        retromae: one(&retromae, "bin", "retromae")?,
        xtask: one(&xtask, "bin", "xtask")?,
    })
}

fn one(programs: &[Program], kind: &str, name: &str) -> Result<PathBuf> {
    let found = programs.iter().find(|program| program.kind == kind && program.name == name);
    found.map(|program| program.path.clone()).with_context(|| format!("cargo built no {kind} {name}"))
}

/// Runs cargo and returns the programs that it reports.
fn run(root: &Path, arguments: &[&str]) -> Result<Vec<Program>> {
    println!("cargo {}", arguments.join(" "));
    // Uses the cargo that runs this program, so that no other toolchain rebuilds everything.
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(arguments)
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo {} failed", arguments.join(" "));
    Ok(programs(&String::from_utf8_lossy(&output.stdout)))
}

fn programs(messages: &str) -> Vec<Program> {
    let program = |line| {
        let Message { executable, target } = serde_json::from_str(line).ok()?;
        let target = target?;
        Some(Program { name: target.name, kind: target.kind.into_iter().next()?, path: executable? })
    };
    messages.lines().filter_map(program).collect()
}

/// Required fields of `retromae info --json`.
#[derive(Deserialize)]
struct Info {
    version: String,
    nvcc: Nvcc,
}

#[derive(Deserialize)]
struct Nvcc {
    version: Option<String>,
}

/// Describes the origin of the programs: commit and compilers.
pub fn describe(root: &Path, retromae: &Path) -> Result<Build> {
    let info = output(Command::new(retromae).args(["info", "--json"])).context("`retromae info` failed")?;
    let info: Info = serde_json::from_str(&info).context("`retromae info --json`")?;
    let git = |arguments: &[&str]| output(Command::new("git").args(arguments).current_dir(root)).ok();
    let rustc = output(Command::new("rustc").arg("--version").current_dir(root)).ok();
    Ok(Build {
        version: info.version,
        commit: git(&["rev-parse", "HEAD"]),
        dirty: git(&["status", "--porcelain"]).map(|changes| !changes.is_empty()),
        nvcc: info.nvcc.version,
        rustc,
    })
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_among_the_messages() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"retromae"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"retromae"},"executable":"/a/retromae"}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"suite"},"executable":"/a/suite-1"}
not JSON
{"reason":"build-finished","success":true}"#;
        let found = || programs(messages);
        assert_eq!(found().len(), 2);
        assert_eq!(one(&found(), "test", "suite").unwrap(), Path::new("/a/suite-1"));
        assert!(one(&found(), "bench", "bench").unwrap_err().to_string().contains("no bench bench"));
    }
}
