//! `xtask verify`: verification and measurement by a bundle on a GPU machine. `verify/README.md` describes it for those who run it.

mod bench;
mod machine;
mod process;
mod python;
mod steps;
mod suite;
mod verification;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::collate::Info;
use crate::files::{children, read_json};
use crate::result::{ResultFile, Stage, Status, TestCounts};
pub use machine::utc_now;
use steps::{STEPS, skipped};
use verification::{Setup, Verification};

#[derive(Debug, Args)]
pub struct Arguments {
    /// Device to verify: the first CUDA device, or the CPU emulator
    #[arg(long, default_value = "cuda")]
    device: Kind,
    /// Time limit in minutes; above 8, more than the headline cases is measured
    #[arg(long, value_name = "N", default_value_t = steps::MINUTES, value_parser = clap::value_parser!(u32).range(1..=9999))]
    minutes: u32,
    /// Folder for result.json, summary.md and logs.tar.gz [default: retromae-verify-DATE in the working directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    Cuda,
    Host,
}

impl Kind {
    fn name(self) -> &'static str {
        if self == Self::Cuda { "cuda" } else { "host" }
    }
}

/// Exit status of a run that found no failure, but had no time for every check.
const UNCHECKED: u8 = 3;
/// Problems of each step shown on the screen; the summary has all.
const PROBLEMS_SHOWN: usize = 8;
/// Exit status of a run that a signal ended.
const INTERRUPTED: u8 = 130;

impl Arguments {
    pub fn run(&self) -> Result<ExitCode> {
        let bundle = own_bundle()?;
        for program in ["bin/suite", "bin/retromae"] {
            let path = bundle.join(program);
            ensure!(path.is_file(), "`{}` is missing; the bundle is incomplete", path.display());
        }
        let library_path = machine::library_path();
        if self.device == Kind::Cuda {
            refuse_without_cuda(&bundle, library_path.as_deref())?;
        }
        let started = utc_now()?;
        let out = self
            .out
            .clone()
            .unwrap_or_else(|| format!("retromae-verify-{}", started.replace(':', "")).into());
        fs::create_dir_all(&out)
            .with_context(|| format!("--out was `{}`, which cannot be made", out.display()))?;
        ensure!(
            children(&out).is_empty(),
            "--out was `{}`, which is not empty; it should be a new folder",
            out.display()
        );
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // A second signal ends this program at once; what was written so far stays.
            signal_hook::flag::register_conditional_shutdown(
                signal,
                i32::from(INTERRUPTED),
                interrupted.clone(),
            )?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let work = tempfile::Builder::new()
            .prefix("retromae-verify-")
            .tempdir()
            .context("cannot create a folder for the run")?;
        let setup = Setup {
            bundle,
            out: fs::canonicalize(&out).with_context(|| format!("`{}`", out.display()))?,
            work: work.path().to_owned(),
            device: self.device.name().into(),
            minutes: self.minutes,
            interrupted,
            library_path,
        };
        let mut verification = Verification::new(setup, STEPS.iter().map(|step| step.name))?;
        machine::describe_run(&verification, &started)?;
        println!(
            "{} minutes at most on {}; logs in {}",
            self.minutes,
            self.device.name(),
            work.path().join("logs").display()
        );
        take_steps(&mut verification);
        println!(
            "\nresult:  {}\nsummary: {}",
            out.join("result.json").display(),
            out.join("summary.md").display()
        );
        let result: ResultFile = read_json(&out.join("result.json"))?;
        println!("among benches/results it is called {}", result.file_name());
        Ok(ExitCode::from(exit_status(&verification)))
    }
}

/// Returns the folder above the one that contains this program.
fn own_bundle() -> Result<PathBuf> {
    let program = std::env::current_exe().context("where this program lies cannot be told")?;
    let bundle = program.ancestors().nth(2).context("this program lies in no bundle")?;
    Ok(bundle.to_owned())
}

fn refuse_without_cuda(bundle: &Path, library_path: Option<&std::ffi::OsStr>) -> Result<()> {
    let mut command = Command::new(bundle.join("bin/retromae"));
    if let Some(path) = library_path {
        command.env("LD_LIBRARY_PATH", path);
    }
    let output = command.args(["info", "--json"]).output().context("cannot run bin/retromae")?;
    let info: Info = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("`retromae info --json` ended with {} and said no JSON", output.status))?;
    if let Some(reason) = info.device("cuda").and_then(|cuda| cuda.reason) {
        bail!("there is no CUDA device to verify: {reason}. --device host verifies the host device");
    }
    Ok(())
}

fn take_steps(verification: &mut Verification) {
    verification.publish();
    for (index, step) in STEPS.iter().enumerate() {
        if verification.interrupted() {
            return;
        }
        let limit = step.limit(verification.elapsed(), verification.minutes);
        if !step.is_asked(verification.minutes) {
            let note = format!("only with --minutes above {}", steps::MINUTES);
            verification.end(index, skipped(note));
        } else if limit.as_secs() < 2 {
            verification.end(index, Stage { note: "the time was over".into(), ..Stage::default() });
        } else {
            println!("{:<14} at most {} s", step.name, limit.as_secs());
            verification.begin(index);
            let found = (step.run)(verification, limit).unwrap_or_else(|error| Stage {
                status: Status::Failed,
                note: format!("{error:#}"),
                ..Stage::default()
            });
            verification.end(index, found);
        }
        print_stage(&verification.stages[index]);
    }
    if verification.on_gpu() {
        machine::card(verification, "after");
        verification.publish();
    }
}

fn print_stage(stage: &Stage) {
    let tests = stage.tests.map_or(String::new(), |TestCounts { passed, failed, unfinished, .. }| {
        let unfinished = if unfinished > 0 { format!(", {unfinished} unfinished") } else { String::new() };
        format!(", {passed} tests passed, {failed} failed{unfinished}")
    });
    let note = if stage.note.is_empty() { String::new() } else { format!(": {}", stage.note) };
    println!("{:<14} {} after {:.0} s{tests}{note}", stage.name, stage.status.name(), stage.seconds);
    let (shown, others) = stage.problems.split_at(stage.problems.len().min(PROBLEMS_SHOWN));
    shown.iter().for_each(|problem| println!("               {problem}"));
    if !others.is_empty() {
        println!("               and {} more", others.len());
    }
}

fn exit_status(verification: &Verification) -> u8 {
    let any = |wanted: &[Status]| {
        STEPS
            .iter()
            .zip(&verification.stages)
            .any(|(step, stage)| step.check && wanted.contains(&stage.status))
    };
    if verification.interrupted() {
        INTERRUPTED
    } else if verification.stages.iter().any(|stage| stage.status == Status::Failed) {
        1
    } else if any(&[Status::Cut, Status::NotReached, Status::Interrupted]) {
        UNCHECKED
    } else {
        0
    }
}
