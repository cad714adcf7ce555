//! The Python package: its wheel, and the tests that need PyTorch.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{copy_folder, remove};

/// Builds the wheel by pip, and copies what runs with it. On failure, warns and leaves no folder: the rest of a bundle does not need them.
pub fn add(root: &Path, folder: &Path) -> Result<()> {
    let Err(error) = build(Command::new("python3"), root, folder) else {
        for part in ["tests", "benches"] {
            copy_folder(&root.join("python").join(part), &folder.join(part))?;
        }
        return Ok(());
    };
    eprintln!("warning: the bundle is without the Python package: {error:#}");
    if folder.exists() { remove(folder) } else { Ok(()) }
}

fn build(mut python: Command, root: &Path, folder: &Path) -> Result<()> {
    let output = python
        .args(["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
        .arg("--wheel-dir")
        .arg(folder)
        .arg(root.join("python"))
        .output()
        .with_context(|| format!("cannot run {}", python.get_program().display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pip: {}", errors.trim().lines().last().unwrap_or("it failed"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_that_cannot_be_built_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut python = Command::new("bash");
        python.args(["-c", "echo 'error: no cargo' >&2; exit 1", "python"]);
        let error = build(python, folder.path(), &folder.path().join("python")).unwrap_err();
        assert_eq!(error.to_string(), "pip: error: no cargo");
    }
}
