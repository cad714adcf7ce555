//! The steps of a verification, most valuable first, so that a run that is cut lacks the least.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::process::{End, Limits};
use super::suite::{self, Manner, Tally, complaint, last_line, module};
use super::verification::Verification;
use super::{bench, machine, python};
use crate::collate::Info;
use crate::compare_runs;
use crate::files::write_whole;
use crate::result::{Stage, Status};

/// Minutes for which the shares are stated; fewer shrink them, and more go to measurements beyond the headline cases.
pub const MINUTES: u32 = 8;

/// A step of the run, with a result of its own.
pub struct Step {
    pub name: &'static str,
    /// True if the device is trusted only when it passes; the others measure as far as time allows.
    pub check: bool,
    /// Seconds of [`MINUTES`] minutes that it may take. The sum may exceed the total: most steps need less.
    seconds: u32,
    /// Percent of the time above [`MINUTES`] that it may take.
    more_percent: u32,
    pub run: fn(&mut Verification, Duration) -> Result<Stage>,
}

const fn check(
    name: &'static str,
    seconds: u32,
    run: fn(&mut Verification, Duration) -> Result<Stage>,
) -> Step {
    Step { name, check: true, seconds, more_percent: 0, run }
}

const fn measurement(
    name: &'static str,
    seconds: u32,
    more_percent: u32,
    run: fn(&mut Verification, Duration) -> Result<Stage>,
) -> Step {
    Step { name, check: false, seconds, more_percent, run }
}

pub const STEPS: [Step; 14] = [
    check("info", 10, info),
    check("instructions", 15, |verification, limit| {
        modules(verification, limit, "instructions", &["instructions"])
    }),
    check("kernels", 30, kernels),
    check("matmuls", 30, |verification, limit| modules(verification, limit, "matmuls", &MATMULS)),
    check("tests", 120, |verification, limit| modules(verification, limit, "tests", &[])),
    measurement("bench", 120, 0, |verification, limit| {
        bench::run(verification, limit, "bench", "forward", "headline")
    }),
    measurement("peers", 90, 40, peers),
    check("training", 30, training),
    check("python", 60, python::tests),
    check("memcheck", 60, |verification, limit| sanitizer(verification, limit, "memcheck")),
    measurement("python-bench", 40, 0, python::benches),
    check("racecheck", 120, |verification, limit| sanitizer(verification, limit, "racecheck")),
    measurement("bench-more", 0, 40, |verification, limit| {
        bench::run(verification, limit, "bench-more", "forward", "rest")
    }),
    measurement("bench-reverse", 0, 20, |verification, limit| {
        bench::run(verification, limit, "bench-reverse", "reverse", "all")
    }),
];

/// Test modules that have a step of their own: matmuls of the GEMM backend, streams and graphs.
const MATMULS: [&str; 6] = ["linear", "matmul", "streams", "captures", "recorded", "lifetimes"];
/// Other modules that a new device is most likely to fail, in this order; the rest follow by name.
const FIRST: [&str; 14] = [
    "attention",
    "cross_entropy",
    "layer_norm",
    "bias_gelu",
    "embedding",
    "segment_sum",
    "group_by_key",
    "column_sum",
    "adamw",
    "reduce",
    "masks",
    "bag_of_words",
    "out_of_range",
    "model",
];
/// Time limit of one module on a GPU, so that one that hangs leaves time for the others.
const MODULE_LIMIT: Duration = Duration::from_secs(45);

impl Step {
    /// Returns the step's time limit, given the time since the run began: time left over by earlier steps may be used, up to the step's own share.
    pub fn limit(&self, elapsed: Duration, minutes: u32) -> Duration {
        let index = STEPS.iter().position(|step| step.name == self.name).unwrap_or(0);
        let until: Duration = STEPS[..=index].iter().map(|step| step.share(minutes)).sum();
        let whole = Duration::from_secs(60 * u64::from(minutes));
        until.min(whole).saturating_sub(elapsed).min(self.share(minutes))
    }

    fn share(&self, minutes: u32) -> Duration {
        let stated = f64::from(self.seconds) * f64::from(minutes.min(MINUTES)) / f64::from(MINUTES);
        let more = 0.6 * f64::from(self.more_percent) * f64::from(minutes.saturating_sub(MINUTES));
        Duration::from_secs_f64(stated + more)
    }

    /// Returns true if the requested minutes leave time for this step at all.
    pub fn is_asked(&self, minutes: u32) -> bool {
        !self.share(minutes).is_zero()
    }
}

pub fn skipped(note: impl Into<String>) -> Stage {
    Stage { status: Status::Skipped, note: note.into(), ..Stage::default() }
}

/// Converts the end of a program that must succeed to a stage; `note` gives the reason for a failure.
pub fn outcome(end: End, note: impl FnOnce() -> String) -> Stage {
    let (status, note) = match end {
        End::Exited(status) if status.success() => (Status::Passed, String::new()),
        End::Exited(_) => (Status::Failed, note()),
        End::OutOfTime => (Status::Cut, String::new()),
        End::Silent => (Status::Cut, "nothing was heard of it any more".into()),
        End::Interrupted => (Status::Interrupted, String::new()),
    };
    Stage { status, note, ..Stage::default() }
}

/// Describes the device and the machine, and checks one matmul of the GEMM backend.
fn info(verification: &mut Verification, limit: Duration) -> Result<Stage> {
    let mut command = verification.program(verification.bundled("bin/retromae"));
    let (end, text) =
        verification.run(command.args(["info", "--check", "--json"]), "info", Limits::total(limit))?;
    machine::software(verification);
    if verification.on_gpu() {
        machine::warm_up_python();
        machine::card(verification, "before");
    }
    if !end.success() {
        return Ok(outcome(end, || last_line(&text)));
    }
    // Skip warnings that a library may have printed before.
    let json = text.find('{').map_or("", |begin| &text[begin..]);
    write_whole(&verification.work.join("device/info.json"), json.as_bytes())?;
    let info: Info = serde_json::from_str(json).context("`retromae info --json`")?;
    let matmul = info.device(&verification.device).and_then(|device| device.matmul);
    Ok(match matmul.map(|matmul| matmul.error) {
        Some(None) => Stage { status: Status::Passed, ..Stage::default() },
        Some(Some(error)) => Stage { status: Status::Failed, note: error, ..Stage::default() },
        None => Stage { status: Status::Failed, note: "nothing was multiplied".into(), ..Stage::default() },
    })
}

/// Runs every kernel once and waits for each.
fn kernels(verification: &mut Verification, limit: Duration) -> Result<Stage> {
    let tests = suite::of_module(&suite::list(verification)?, "every_kernel");
    Ok(suite::one_by_one(verification, &tests, limit)?.stage())
}

/// Runs test modules, each in its own process; without names, all that no other step has.
fn modules(verification: &mut Verification, limit: Duration, step: &str, names: &[&str]) -> Result<Stage> {
    let deadline = Instant::now() + limit;
    let tests = suite::list(verification)?;
    let mut wanted: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    if names.is_empty() {
        let elsewhere =
            |name: &&str| MATMULS.contains(name) || ["instructions", "every_kernel"].contains(name);
        let mut found: Vec<&str> =
            tests.iter().map(|test| module(test)).filter(|name| !elsewhere(name)).collect();
        found
            .sort_by_key(|name| (FIRST.iter().position(|first| first == name).unwrap_or(FIRST.len()), *name));
        found.dedup();
        wanted = found.into_iter().map(str::to_owned).collect();
    }
    let mut tally = Tally::default();
    for name in wanted {
        let own = suite::of_module(&tests, &name);
        let left = deadline.saturating_duration_since(Instant::now());
        if left < Duration::from_secs(1) || verification.interrupted() {
            tally.unfinished.extend(own);
            continue;
        }
        let limit = if verification.on_gpu() { left.min(MODULE_LIMIT) } else { left };
        let manner = Manner::default();
        tally.add(suite::group(verification, &format!("{step}-{name}"), &own, limit, &manner)?);
    }
    Ok(tally.stage())
}

/// Runs every kernel under a tool of Compute Sanitizer.
fn sanitizer(verification: &mut Verification, limit: Duration, tool: &str) -> Result<Stage> {
    if !verification.on_gpu() {
        return Ok(skipped("compute-sanitizer is for GPUs"));
    }
    let Some(program) = machine::sanitizer() else {
        return Ok(skipped("there is no compute-sanitizer on this machine"));
    };
    let arguments = ["--tool", tool, "--error-exitcode", "86", "--target-processes", "application-only"];
    let under = std::iter::once(program.into_os_string()).chain(arguments.map(OsString::from)).collect();
    let tests = suite::of_module(&suite::list(verification)?, "every_kernel");
    let manner = Manner { under, threads: 1 };
    Ok(suite::group(verification, tool, &tests, limit, &manner)?.stage())
}

/// Trains on a device, into a folder.
fn train(
    verification: &mut Verification,
    limit: Duration,
    device: &str,
    order: &str,
    out: &Path,
) -> Result<(End, String)> {
    let mut command = verification.program(verification.bundled("bin/retromae"));
    command
        .env("RETROMAE_HOST_ORDER", order)
        .arg("pretrain")
        .arg("--corpus")
        .arg(verification.bundled("corpus"));
    command.args([
        "--device",
        device,
        "--dtype",
        "f32",
        "--steps",
        "20",
        "--seed",
        "1",
        "--vocab-size",
        "1000",
    ]);
    command.args(["--batch-tokens", "512", "--max-len", "64", "--held-out", "0", "--out"]).arg(out);
    verification.run(&mut command, "training", Limits::total(limit))
}

/// Trains the same 20 steps on both sides.
fn training(verification: &mut Verification, limit: Duration) -> Result<Stage> {
    let deadline = Instant::now() + limit;
    // If only the CPU emulator is verified, the reverse order of threads replaces the other device.
    let (name, order) =
        if verification.on_gpu() { ("cuda", "forward") } else { ("host, reverse", "reverse") };
    let [a, b] = ["training/a", "training/b"].map(|folder| verification.work.join(folder));
    let device = verification.device.clone();
    for (device, order, out) in [("host", "forward", &a), (device.as_str(), order, &b)] {
        let left = deadline.saturating_duration_since(Instant::now());
        let (end, text) = train(verification, left, device, order, out)?;
        if !end.success() {
            return Ok(outcome(end, || complaint(&text)));
        }
    }
    let sides = [("host", a.join("training.jsonl")), (name, b.join("training.jsonl"))];
    let comparison = compare_runs::compare_files(&sides, 20, 2e-3)?;
    write_whole(&verification.work.join("training.json"), &serde_json::to_vec_pretty(&comparison)?)?;
    let complaint = comparison.complaint();
    let status = if complaint.is_some() { Status::Failed } else { Status::Passed };
    Ok(Stage { status, note: complaint.unwrap_or_default(), ..Stage::default() })
}

/// Exit status of the peers' program if there is no PyTorch to measure.
const PEERS_MISSING: i32 = 3;
/// Time for the peers' program to finish its last figure.
const PEERS_MARGIN: Duration = Duration::from_secs(8);

/// Measures PyTorch's implementations of the same operations.
fn peers(verification: &mut Verification, limit: Duration) -> Result<Stage> {
    let program = verification.bundled("peers/run.py");
    if !program.is_file() {
        return Ok(skipped("the bundle has no peers"));
    }
    let device = if verification.on_gpu() { "cuda" } else { "cpu" };
    // It stops by itself, a little earlier.
    let minutes = limit.saturating_sub(PEERS_MARGIN).max(limit / 2).as_secs_f64() / 60.0;
    let mut command = Command::new("python3");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(program);
    command.args(["--device", device, "--minutes", &format!("{minutes:.2}"), "--out"]);
    command.arg(verification.work.join("peers/figures.jsonl"));
    let (end, text) = match verification.run(&mut command, "peers", Limits::total(limit)) {
        Ok(ended) => ended,
        Err(_) if !has_python() => return Ok(skipped("there is no python3 on this machine")),
        Err(error) => return Err(error).context("the peers"),
    };
    if end.code() == Some(PEERS_MISSING) {
        return Ok(skipped(last_line(&text)));
    }
    Ok(outcome(end, || last_line(&text)))
}

fn has_python() -> bool {
    Command::new("python3").arg("--version").output().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(name: &str, elapsed: u64, minutes: u32) -> u64 {
        let step = STEPS.iter().find(|step| step.name == name).unwrap();
        step.limit(Duration::from_secs(elapsed), minutes).as_secs()
    }

    #[test]
    fn a_step_gets_its_share_and_what_is_left_over_but_no_more_than_it_may_take() {
        assert_eq!(seconds("info", 0, 8), 10);
        // A step that began late, because an earlier one used all of its time, keeps the rest of its own share.
        assert_eq!(seconds("instructions", 10, 8), 15);
        assert_eq!(seconds("kernels", 2, 8), 30);
        assert_eq!(seconds("tests", 90, 8), 115);
        // The run always ends in time.
        assert_eq!(seconds("memcheck", 445, 8), 35);
        assert_eq!(seconds("racecheck", 480, 8), 0);
        assert_eq!(seconds("racecheck", 300, 8), 120);
    }

    #[test]
    fn fewer_minutes_shrink_every_share_and_more_are_for_measurements() {
        assert_eq!(seconds("tests", 0, 4), 60);
        assert_eq!(seconds("tests", 60, 20), 120);
        assert_eq!(seconds("peers", 0, 18), 90 + 240);
        let asked = |minutes| STEPS.iter().filter(|step| step.is_asked(minutes)).count();
        assert_eq!((asked(8), asked(9)), (12, 14));
        let more: u32 = STEPS.iter().map(|step| step.more_percent).sum();
        assert_eq!(more, 100);
    }
}
