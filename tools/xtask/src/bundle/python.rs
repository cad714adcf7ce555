//! The Python package: its wheel, tests, benches and examples.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::{copy_folder, remove};

/// Builds the wheel by pip, and copies what runs with it. On failure, warns and leaves no folder: the rest of a bundle does not need them.
pub fn add(root: &Path, bundle: &Path) -> Result<()> {
    let folder = bundle.join("python");
    let Err(error) = build(Command::new("python3"), root, &folder) else {
        // The tests run the examples, which they look for where the repository has them.
        for part in ["python/tests", "python/benches", "examples/python"] {
            copy_folder(&root.join(part), &bundle.join(part))?;
        }
        return Ok(());
    };
    eprintln!("warning: the bundle is without the Python package: {error:#}");
    remove(&folder)
}

fn build(mut python: Command, root: &Path, folder: &Path) -> Result<()> {
    let output = python
        .args(["-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"])
        .arg("--wheel-dir")
        .arg(folder)
        .arg(root.join("python"))
        .output()
        .with_context(|| format!("cannot run {}", python.get_program().display()))?;
    // The reason stands somewhere among the lines of pip and of what it runs.
    ensure!(output.status.success(), "pip: {}", String::from_utf8_lossy(&output.stderr).trim());
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
