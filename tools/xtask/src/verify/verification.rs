//! State of one verification run: its programs and files, the time left, and the findings so far.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::GzEncoder;

use super::process::{self, End, Limits};
use super::python;
use crate::collate::collate;
use crate::files::write_whole;
use crate::result::{Stage, Status};
use crate::summary;

/// Interval at which the result is rewritten while a step runs.
const RENEWAL: Duration = Duration::from_secs(15);
/// Files kept out of the logs: large, and of no use elsewhere.
const NOT_LOGGED: [&str; 4] = ["cache", "checkpoint", "model.safetensors", python::PACKAGE];

pub struct Verification {
    /// The bundle's folder.
    bundle: PathBuf,
    /// Folder of the result, its summary and the logs: nothing else.
    out: PathBuf,
    /// Working folder of all files while the run goes on.
    pub work: PathBuf,
    /// `cuda` or `host`.
    pub device: String,
    pub minutes: u32,
    begun: Instant,
    /// Set by a signal.
    interrupted: Arc<AtomicBool>,
    /// Search path of this bundle's programs for CUDA's libraries.
    library_path: Option<OsString>,
    /// Names of all tests, once listed.
    pub tests: Vec<String>,
    /// One for each step of the plan, in order.
    pub stages: Vec<Stage>,
    /// Index and start of the running step.
    current: Option<(usize, Instant)>,
    renewed: Instant,
}

/// Parts of a new verification.
pub struct Setup {
    pub bundle: PathBuf,
    pub out: PathBuf,
    pub work: PathBuf,
    pub device: String,
    pub minutes: u32,
    pub interrupted: Arc<AtomicBool>,
    pub library_path: Option<OsString>,
}

impl Verification {
    pub fn new(setup: Setup, steps: impl Iterator<Item = &'static str>) -> Result<Self> {
        let Setup { bundle, out, work, device, minutes, interrupted, library_path } = setup;
        for folder in ["logs", "device", "peers", "training"] {
            let folder = work.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create `{}`", folder.display()))?;
        }
        let stages = steps.map(|name| Stage { name: name.into(), ..Stage::default() }).collect();
        let begun = Instant::now();
        Ok(Self {
            bundle,
            out,
            work,
            device,
            minutes,
            begun,
            interrupted,
            library_path,
            tests: Vec::new(),
            stages,
            current: None,
            renewed: begun,
        })
    }

    pub fn on_gpu(&self) -> bool {
        self.device == "cuda"
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    pub fn bundled(&self, path: &str) -> PathBuf {
        self.bundle.join(path)
    }

    /// Returns a command for a program of the bundle, or one that runs such a program.
    pub fn program(&self, path: impl AsRef<Path>) -> Command {
        let mut command = Command::new(path.as_ref());
        if let Some(path) = &self.library_path {
            command.env("LD_LIBRARY_PATH", path);
        }
        command.env("RETROMAE_BIN", self.bundled("bin/retromae"));
        if std::env::var_os("RETROMAE_CACHE_DIR").is_none() {
            // GEMM algorithms are tuned anew, and nothing is left outside the run.
            command.env("RETROMAE_CACHE_DIR", self.work.join("cache"));
        }
        command
    }

    /// Runs a program to its end or its limit, rewriting the result periodically. Its output is appended to a log, and returned.
    pub fn run(&mut self, command: &mut Command, log: &str, limits: Limits) -> Result<(End, String)> {
        let log = self.work.join("logs").join(format!("{log}.log"));
        let before = process::written(&log);
        let interrupted = self.interrupted.clone();
        let end = process::run(command, &log, limits, &interrupted, &mut || {
            if self.renewed.elapsed() >= RENEWAL {
                self.publish();
            }
        })?;
        Ok((end, process::said_since(&log, before)))
    }

    /// Begins a step. Until it ends it counts as interrupted, so that the result of a killed run is right.
    pub fn begin(&mut self, index: usize) {
        self.current = Some((index, Instant::now()));
        self.stages[index].status = Status::Interrupted;
        self.publish();
    }

    /// Ends a step with its findings; a step that a signal ended stays interrupted.
    pub fn end(&mut self, index: usize, found: Stage) {
        let seconds = self.current.take().map_or(0.0, |(_, begun)| begun.elapsed().as_secs_f64());
        let status = if self.interrupted() { Status::Interrupted } else { found.status };
        self.stages[index] = Stage { name: self.stages[index].name.clone(), seconds, status, ..found };
        self.publish();
        if let Err(error) = self.pack_logs() {
            eprintln!("warning: the logs were not packed: {error:#}");
        }
    }

    /// Writes the current result and its summary. A failure is printed, but ends nothing: the next write may succeed.
    pub fn publish(&mut self) {
        self.renewed = Instant::now();
        if let Some((index, begun)) = self.current {
            self.stages[index].seconds = begun.elapsed().as_secs_f64();
        }
        if let Err(error) = self.try_publish() {
            eprintln!("warning: the result was not written: {error:#}");
        }
    }

    fn try_publish(&self) -> Result<()> {
        let lines = self.stages.iter().map(|stage| Ok(serde_json::to_string(stage)? + "\n"));
        write_whole(&self.work.join("stages.jsonl"), lines.collect::<Result<String>>()?.as_bytes())?;
        let result = collate(&self.work)?;
        write_whole(
            &self.out.join("result.json"),
            format!("{}\n", serde_json::to_string_pretty(&result)?).as_bytes(),
        )?;
        write_whole(&self.out.join("summary.md"), summary::markdown(&result).as_bytes())
    }

    /// Packs all logs of the run so far into one file.
    fn pack_logs(&self) -> Result<()> {
        let packed = self.out.join("logs.tar.gz");
        let temporary = self.out.join(".logs.tar.gz.tmp");
        let file =
            File::create(&temporary).with_context(|| format!("cannot write `{}`", temporary.display()))?;
        let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
        add(&mut archive, &self.work, Path::new("logs"))
            .and_then(|()| Ok(archive.into_inner()?.finish()?))
            .and_then(|_| Ok(fs::rename(&temporary, &packed)?))
            .inspect_err(|_| drop(fs::remove_file(&temporary)))
    }
}

fn add(archive: &mut tar::Builder<impl std::io::Write>, folder: &Path, name: &Path) -> Result<()> {
    for child in crate::files::children(folder) {
        let file_name = child.file_name().unwrap_or_default();
        if NOT_LOGGED.iter().any(|not| file_name == *not) {
            continue;
        }
        let name = name.join(file_name);
        if child.is_dir() {
            add(archive, &child, &name)?;
        } else if child.is_file() {
            archive.append_path_with_name(&child, &name).with_context(|| format!("`{}`", child.display()))?;
        }
    }
    Ok(())
}
