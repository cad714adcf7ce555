//! Packages of others, unpacked ready to import: those compared with PyTorch, and the runner of the Python tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Pinned, so that bundles of one commit measure the same. All are pure Python and run on any installed PyTorch and Triton.
const PACKAGES: [&str; 6] = [
    "liger-kernel==0.8.5",
    "cut-cross-entropy==25.1.1",
    // The last line of versions that needs no Pygments.
    "pytest==8.3.5",
    "pluggy==1.6.0",
    "iniconfig==2.1.0",
    "packaging==25.0",
];
/// Folders that the peers never import.
const NOT_NEEDED: [&str; 5] = [
    "liger_kernel/chunked_loss",
    "liger_kernel/megatron",
    "liger_kernel/testing",
    "liger_kernel/transformers",
    "liger_kernel/triton",
];

/// Fetches the packages, with their licenses, by pip. On failure, warns and leaves no folder: the rest of a bundle does not need them.
pub fn fetch(folder: &Path) -> Result<()> {
    let Err(error) = install(Command::new("python3"), folder) else { return Ok(()) };
    eprintln!("warning: the bundle is without {}: {error:#}", PACKAGES.join(", "));
    super::remove(folder)
}

fn install(mut python: Command, folder: &Path) -> Result<()> {
    let output = python
        .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"])
        .args(["--no-deps", "--only-binary", ":all:", "--no-compile", "--target"])
        .arg(folder)
        .args(PACKAGES)
        .output()
        .with_context(|| format!("cannot run {}", python.get_program().display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "pip: {}", errors.trim().lines().last().unwrap_or("it failed"));
    trim(folder)
}

fn trim(folder: &Path) -> Result<()> {
    NOT_NEEDED.iter().try_for_each(|part| {
        let part = folder.join(part);
        fs::remove_dir_all(&part)
            .with_context(|| format!("cannot remove `{}`, which is not needed", part.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a fake Python whose pip runs `script`; `$target` is the folder.
    fn python(script: &str) -> Command {
        let arguments =
            "set -e; until [ \"$1\" = --target ]; do shift; done; target=$2; shift 2; packages=\"$*\"";
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{arguments}\n{script}"), "python"]);
        command
    }

    #[test]
    fn packages_keep_what_is_imported_and_their_licenses() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"
mkdir -p "$target"/liger_kernel/{chunked_loss,megatron,testing,transformers,triton,ops} "$target/liger_kernel-0.8.5.dist-info/licenses"
touch "$target/liger_kernel/ops/__init__.py" "$target/liger_kernel-0.8.5.dist-info/licenses/LICENSE"
echo "$packages" >"$target/packages""#;
        let target = folder.path().join("wheels");
        install(python(script), &target).unwrap();
        assert!(target.join("liger_kernel/ops/__init__.py").is_file());
        assert!(target.join("liger_kernel-0.8.5.dist-info/licenses/LICENSE").is_file());
        assert!(NOT_NEEDED.iter().all(|part| !target.join(part).exists()));
        assert_eq!(fs::read_to_string(target.join("packages")).unwrap().trim(), PACKAGES.join(" "));
        // A layout that differs from the pinned version's is an error.
        let error = install(python("mkdir -p \"$target\""), &folder.path().join("other"));
        assert!(error.unwrap_err().to_string().contains("liger_kernel/chunked_loss"));
    }

    #[test]
    fn a_pip_that_fails_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let script = "echo 'WARNING: a retry' >&2\necho 'ERROR: no such version' >&2\nexit 1";
        let error = install(python(script), &folder.path().join("wheels")).unwrap_err();
        assert_eq!(error.to_string(), "pip: ERROR: no such version");
        let error = install(Command::new("/absent"), &folder.path().join("wheels")).unwrap_err();
        assert!(error.to_string().contains("cannot run"), "{error}");
    }
}
