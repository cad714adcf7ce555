//! The Python package on the device: its tests with PyTorch, a process a file, and its benches.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::process::{End, Limits};
use super::steps::{outcome, skipped};
use super::suite::{MESSAGE_LENGTH_MAX, Tally, last_line};
use super::verification::Verification;
use crate::files::children;
use crate::result::{Stage, Status};

/// Script that runs pytest, the bundle's if the machine has none: the folder of it, then pytest's arguments.
const PYTEST: &str = r"
import sys
sys.path.append(sys.argv[1])
import pytest
sys.exit(pytest.main(sys.argv[2:]))
";
/// Exit status of pytest if no test of a file is chosen.
const NO_TESTS: i32 = 5;
/// Time limit of one file on a GPU, so that one that hangs leaves time for the others.
const FILE_LIMIT: Duration = Duration::from_secs(40);
/// Folder of the unpacked wheel within the run's.
pub const PACKAGE: &str = "python-package";
/// Arguments of the bench of a step on a GPU: BERT-base, long passages.
const GPU_STEP: [&str; 10] =
    ["--device", "cuda", "--size", "base", "--batch", "32", "--length", "512", "--dtype", "bfloat16"];

/// Runs the tests that need PyTorch.
pub fn tests(verification: &mut Verification, limit: Duration) -> Result<Stage> {
    let deadline = Instant::now() + limit;
    let package = match unpack(verification, limit)? {
        Ok(package) => package,
        Err(reason) => return Ok(skipped(reason)),
    };
    let mut tally = Tally::default();
    for file in test_files(&verification.bundled("python")) {
        let left = deadline.saturating_duration_since(Instant::now());
        let limit = if verification.on_gpu() { left.min(FILE_LIMIT) } else { left };
        tally.add(run_file(verification, &file, &package, limit)?);
    }
    Ok(tally.stage())
}

/// Measures what a call costs, and a pre-training step beside transformers' own. The figures are in the logs.
pub fn benches(verification: &mut Verification, limit: Duration) -> Result<Stage> {
    let deadline = Instant::now() + limit;
    let package = match unpack(verification, limit)? {
        Ok(package) => package,
        Err(reason) => return Ok(skipped(reason)),
    };
    let step: &[&str] = if verification.on_gpu() { &GPU_STEP } else { &["--device", "cpu"] };
    // Compilers take long; the figures of the others come first.
    let eager = [step, &["--no-compile"]].concat();
    for (name, program, arguments) in [
        ("overhead", "overhead.py", &[][..]),
        ("step", "step.py", &eager),
        ("step-compiled", "step.py", step),
    ] {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut command = python(&package);
        command.arg(verification.bundled("python/benches").join(program)).args(arguments);
        let (end, text) = verification.run(&mut command, &format!("python-{name}"), Limits::total(left))?;
        if !end.success() {
            return Ok(outcome(end, || format!("{program}: {}", last_line(&text))));
        }
    }
    Ok(Stage { status: Status::Passed, ..Stage::default() })
}

/// Returns a command of Python that finds the package.
fn python(package: &Path) -> Command {
    let mut command = Command::new("python3");
    command.env("PYTHONPATH", package).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// Unpacks the wheel, once, and returns where it is; or why it cannot be used with PyTorch.
fn unpack(verification: &mut Verification, limit: Duration) -> Result<Result<PathBuf, String>> {
    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let Some(wheel) = children(&verification.bundled("python")).into_iter().find(is_wheel) else {
        return Ok(Err("the bundle has no Python package".into()));
    };
    let package = verification.work.join(PACKAGE);
    if package.exists() {
        return Ok(Ok(package));
    }
    let mut torch = Command::new("python3");
    match verification.run(torch.args(["-c", "import torch"]), "python-torch", Limits::total(limit)) {
        Ok((end, _)) if end.success() => {}
        Ok((End::Exited(_), text)) => return Ok(Err(last_line(&text))),
        Ok(_) => return Ok(Err("importing PyTorch took all of the time".into())),
        Err(_) => return Ok(Err("there is no python3 on this machine".into())),
    }
    let mut command = Command::new("python3");
    let output = command.args(["-m", "zipfile", "-e"]).args([&wheel, &package]).output();
    let output = output.context("cannot run python3")?;
    ensure!(output.status.success(), "{}", last_line(&String::from_utf8_lossy(&output.stderr)));
    Ok(Ok(package))
}

/// Returns the files of tests that need PyTorch, the operations' first.
fn test_files(folder: &Path) -> Vec<PathBuf> {
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<PathBuf> = children(&folder.join("tests/torch"))
        .into_iter()
        .filter(|path| name(path).starts_with("test_") && name(path).ends_with(".py"))
        .collect();
    files.sort_by_key(|path| (!name(path).starts_with("test_torch"), name(path)));
    files
}

/// Runs the tests of one file, those of other devices left out.
fn run_file(verification: &mut Verification, file: &Path, package: &Path, limit: Duration) -> Result<Tally> {
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    if limit < Duration::from_secs(2) || verification.interrupted() {
        return Ok(Tally { unfinished: vec![name], ..Tally::default() });
    }
    // Tests that take a device run on this one; the others, such as those of several ranks, take none.
    let tests = if verification.on_gpu() { "not cpu" } else { "not cuda" };
    let mut command = python(package);
    command.env("RETROMAE_GEMM_TUNE", "0");
    command.args(["-c", PYTEST]).arg(verification.bundled("wheels"));
    command.args(["-v", "--color=no", "-p", "no:cacheprovider", "-k", tests]).arg(file);
    let (end, text) = verification.run(&mut command, &format!("python-{name}"), Limits::total(limit))?;
    let mut tally = tally(&text);
    match end {
        End::Exited(status) if status.success() || status.code() == Some(NO_TESTS) => {}
        End::Exited(_) if tally.failed.is_empty() => {
            tally.failed.push(format!("{name}: {}", last_line(&text)));
        }
        End::Exited(_) => {}
        _ => tally.hung.push(name),
    }
    Ok(tally)
}

/// Counts the results in what `pytest -v` said.
fn tally(log: &str) -> Tally {
    let mut tally = Tally::default();
    for line in log.lines() {
        let short = |text: &str| text.chars().take(MESSAGE_LENGTH_MAX).collect();
        // The summary at the end has the message of each failure.
        if let Some(failure) = line.strip_prefix("FAILED ").or_else(|| line.strip_prefix("ERROR ")) {
            tally.failed.push(short(failure));
        } else if line.contains("::") && line.contains(" PASSED") {
            tally.passed += 1;
        } else if line.contains("::") && line.contains(" SKIPPED") {
            tally.ignored += 1;
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn results_are_read_from_what_pytest_says() {
        let log = "
tests/torch/test_torch_attention.py::test_attention[cuda-float32] PASSED     [ 33%]
tests/torch/test_torch_attention.py::test_attention[cuda-float16] FAILED     [ 66%]
tests/torch/test_torch_attention.py::test_graph[cuda] SKIPPED (ignored: no GPU) [100%]
=== short test summary info ===
FAILED tests/torch/test_torch_attention.py::test_attention[cuda-float16] - AssertionError: 3e-2
=== 1 failed, 1 passed, 1 skipped in 2.31s ===
";
        let found = tally(log);
        assert_eq!((found.passed, found.ignored, found.failed.len()), (1, 1, 1));
        assert!(found.failed[0].ends_with("test_attention[cuda-float16] - AssertionError: 3e-2"));
    }

    #[test]
    fn the_operations_are_tested_first() {
        let folder = tempfile::tempdir().unwrap();
        let tests = folder.path().join("tests/torch");
        fs::create_dir_all(&tests).unwrap();
        for name in ["test_pretraining.py", "test_torch_masks.py", "conftest.py", "reference.py"] {
            fs::write(tests.join(name), "").unwrap();
        }
        let names: Vec<_> = test_files(folder.path())
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["test_torch_masks.py", "test_pretraining.py"]);
    }
}
