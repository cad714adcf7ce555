//! `xtask bundle`: one folder with all that a GPU machine without Rust, compiler or network needs to verify and measure.

mod cargo;
mod python;
mod wheels;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::binutils;
use crate::files::{children, write_whole};
use crate::report::repository;
use crate::result::Build;

/// Marks a folder as a bundle, which a new one may replace.
const BUILD: &str = "build.json";
/// Caches that are of use on one machine only.
const NOT_COPIED: [&str; 4] = ["__pycache__", ".ruff_cache", ".mypy_cache", ".pytest_cache"];

#[derive(Debug, Args)]
pub struct Arguments {
    /// The folder; an earlier bundle there is replaced
    #[arg(long, value_name = "DIR", default_value = "retromae-bundle")]
    out: PathBuf,
    /// Fail when the bundle is larger
    #[arg(long, value_name = "MB", default_value_t = 66)]
    max_mb: u64,
    /// Bundle though nvcc was missing: the bundle then verifies the CPU emulator alone
    #[arg(long)]
    without_cuda: bool,
}

impl Arguments {
    pub fn run(&self) -> Result<()> {
        let root = repository();
        check_replaceable(&self.out)?;
        let programs = cargo::build(&root)?;
        let build = cargo::describe(&root, &programs.retromae)?;
        if build.nvcc.is_none() && !self.without_cuda {
            bail!(
                "nvcc was not found, so the programs have no GPU kernels: set NVCC, CUDA_HOME or PATH so that it is, as \
                 CONTRIBUTING.md describes, or pass --without-cuda for a bundle that verifies the host device alone"
            );
        }
        let temporary = self.out.with_extension("tmp");
        remove(&temporary)?;
        assemble(&root, &temporary, &programs, &build)
            .and_then(|()| check_size(&temporary, self.max_mb))
            .and_then(|()| replace(&temporary, &self.out))
            .inspect_err(|_| drop(fs::remove_dir_all(&temporary)))?;
        println!(
            "{} is ready: copy it to a machine with a GPU and run ./verify.sh there",
            self.out.display()
        );
        Ok(())
    }
}

/// Refuses a path that holds anything but an earlier bundle.
fn check_replaceable(out: &Path) -> Result<()> {
    let free = !out.exists() || out.join(BUILD).is_file() || out.is_dir() && children(out).is_empty();
    ensure!(
        free,
        "--out was `{}`, which is no bundle; it should be a new folder or an earlier bundle",
        out.display()
    );
    Ok(())
}

fn assemble(root: &Path, folder: &Path, programs: &cargo::Programs, build: &Build) -> Result<()> {
    let bin = folder.join("bin");
    fs::create_dir_all(&bin).with_context(|| format!("cannot create `{}`", bin.display()))?;
    // Debug information stays: the tests assert the source lines of faults.
    binutils::compress(&programs.suite, &bin.join("suite"))?;
    binutils::strip(&programs.retromae, &bin.join("retromae"))?;
    binutils::strip(&programs.xtask, &bin.join("xtask"))?;
    binutils::strip(&programs.bench, &bin.join("bench"))?;
    copy(&root.join("tools/verify/verify.sh"), &folder.join("verify.sh"))?;
    copy(&root.join("tools/verify/README.md"), &folder.join("README.md"))?;
    copy(&root.join("docs/environment.md"), &folder.join("environment.md"))?;
    let peers = root.join("benches/peers");
    if peers.is_dir() {
        copy_folder(&peers, &folder.join("peers"))?;
    } else {
        eprintln!("warning: there is no benches/peers: the bundle compares with no PyTorch");
    }
    wheels::fetch(&folder.join("wheels"))?;
    python::add(root, folder)?;
    copy_corpus(root, &folder.join("corpus"))?;
    write_whole(&folder.join(BUILD), &serde_json::to_vec_pretty(build)?)
}

/// Copies the repository's own prose, to train on where there is no other text.
fn copy_corpus(root: &Path, corpus: &Path) -> Result<()> {
    let is_prose = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "md");
    let texts: Vec<PathBuf> =
        children(root).into_iter().chain(children(&root.join("docs"))).filter(is_prose).collect();
    ensure!(!texts.is_empty(), "`{}` has no Markdown to train on", root.display());
    fs::create_dir(corpus).with_context(|| format!("cannot create `{}`", corpus.display()))?;
    texts.iter().try_for_each(|text| copy(text, &corpus.join(text.file_name().unwrap_or_default())))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to)
        .with_context(|| format!("cannot copy `{}` to `{}`", from.display(), to.display()))
        .map(drop)
}

fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot create `{}`", to.display()))?;
    for child in children(from) {
        let name = child.file_name().unwrap_or_default();
        if NOT_COPIED.iter().any(|not| name == *not) {
            continue;
        }
        if child.is_dir() { copy_folder(&child, &to.join(name))? } else { copy(&child, &to.join(name))? }
    }
    Ok(())
}

/// Prints the size of each file, or of each package's folder; refuses a bundle above `max_mb`.
fn check_size(folder: &Path, max_mb: u64) -> Result<()> {
    let mut files = Vec::new();
    list_files(folder, &mut files)?;
    let mut weights: BTreeMap<PathBuf, u64> = BTreeMap::new();
    for (path, bytes) in &files {
        let inside = path.strip_prefix(folder).unwrap_or(path);
        *weights.entry(inside.components().take(2).collect()).or_default() += bytes;
    }
    for (path, bytes) in &weights {
        println!("{:>9.3} MB  {}", *bytes as f64 / 1e6, path.display());
    }
    let total: u64 = files.iter().map(|(_, bytes)| bytes).sum();
    println!("{:>9.3} MB  in all", total as f64 / 1e6);
    ensure!(
        total <= max_mb * 1_000_000,
        "the bundle has {:.1} MB; it should have at most --max-mb, {max_mb}",
        total as f64 / 1e6
    );
    Ok(())
}

fn list_files(folder: &Path, files: &mut Vec<(PathBuf, u64)>) -> Result<()> {
    for child in children(folder) {
        if child.is_dir() {
            list_files(&child, files)?;
        } else {
            let bytes =
                fs::metadata(&child).with_context(|| format!("cannot read `{}`", child.display()))?.len();
            files.push((child, bytes));
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> Result<()> {
    if !folder.exists() {
        return Ok(());
    }
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove `{}`", folder.display()))
}

fn replace(temporary: &Path, out: &Path) -> Result<()> {
    check_replaceable(out)?;
    remove(out)?;
    fs::rename(temporary, out).with_context(|| format!("cannot write `{}`", out.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bundle_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        check_replaceable(&out).unwrap();
        fs::create_dir(&out).unwrap();
        check_replaceable(&out).unwrap();
        fs::write(out.join("mine.txt"), "mine").unwrap();
        assert!(check_replaceable(&out).unwrap_err().to_string().contains("is no bundle"));
        let new = folder.path().join("new");
        fs::create_dir(&new).unwrap();
        assert!(replace(&new, &out).is_err());
        assert!(out.join("mine.txt").is_file(), "what is no bundle stays");
        fs::write(out.join(BUILD), "{}").unwrap();
        replace(&new, &out).unwrap();
        assert!(!out.join("mine.txt").exists() && !new.exists());
    }

    #[test]
    fn a_bundle_that_is_too_large_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("bin")).unwrap();
        fs::write(folder.path().join("bin/suite"), vec![0; 1_000_001]).unwrap();
        check_size(folder.path(), 2).unwrap();
        assert!(
            check_size(folder.path(), 1).unwrap_err().to_string().contains("1.0 MB; it should have at most")
        );
    }

    #[test]
    fn caches_are_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("peers"), folder.path().join("copy"));
        fs::create_dir_all(from.join("__pycache__")).unwrap();
        fs::create_dir(from.join("data")).unwrap();
        fs::write(from.join("__pycache__/run.pyc"), "x").unwrap();
        fs::write(from.join("data/run.py"), "x").unwrap();
        copy_folder(&from, &to).unwrap();
        assert!(to.join("data/run.py").is_file() && !to.join("__pycache__").exists());
    }
}
