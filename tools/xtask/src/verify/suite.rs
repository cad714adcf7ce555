//! Groups of tests, each in a process of its own, so that a fault ends the device of one group only.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::process::{End, Limits};
use super::verification::Verification;
use crate::result::{Stage, Status, TestCounts};

/// Most characters of a failure message.
pub const MESSAGE_LENGTH_MAX: usize = 300;
/// Texts that a program prints when the driver refuses all further work to its process.
const DEVICE_ENDED: [&str; 8] = [
    "start it again",
    "CudaEnded",
    "CUDA_ERROR_ILLEGAL",
    "CUDA_ERROR_LAUNCH",
    "CUDA_ERROR_MISALIGNED",
    "CUDA_ERROR_INVALID_PC",
    "CUDA_ERROR_INVALID_ADDRESS",
    "CUDA_ERROR_HARDWARE",
];
/// Text that a program that waits after every kernel prints about one that does not end.
const STILL_RUNNING: &str = "still running after";
/// Least time worth starting a process for.
const LEAST: Duration = Duration::from_secs(2);

/// Options of a test run.
#[derive(Clone, Debug, Default)]
pub struct Manner {
    /// A program and its arguments put before those of the tests, such as a sanitizer.
    pub under: Vec<OsString>,
    /// Tests at once; 0: the number that share a GPU by default.
    pub threads: usize,
}

/// Results of tests, by name.
#[derive(Debug, Default, PartialEq)]
pub struct Tally {
    pub passed: u32,
    /// Tests, or parts of them, that reported not to apply to this machine.
    pub ignored: u32,
    /// Name and message of each failed test.
    pub failed: Vec<String>,
    /// Tests that exceeded their time.
    pub hung: Vec<String>,
    /// Tests for which no time was left.
    pub unfinished: Vec<String>,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.ignored += other.ignored;
        self.failed.extend(other.failed);
        self.hung.extend(other.hung);
        self.unfinished.extend(other.unfinished);
    }

    /// Returns the stage that consists of these tests.
    pub fn stage(self) -> Stage {
        let Self { passed, ignored, failed, hung, unfinished } = self;
        let count = |list: &[String]| u32::try_from(list.len()).unwrap_or(u32::MAX);
        let tests = TestCounts {
            passed,
            failed: count(&failed),
            ignored,
            unfinished: count(&hung) + count(&unfinished),
        };
        let (status, note) = match (failed.first(), hung.first(), unfinished.first()) {
            (Some(_), ..) => (Status::Failed, String::new()),
            (None, Some(_), _) => (Status::Cut, String::new()),
            (None, None, Some(first)) => (Status::Cut, format!("no time for {first}")),
            (None, None, None) if passed == 0 => (Status::Failed, "0 tests".into()),
            (None, None, None) => (Status::Passed, String::new()),
        };
        let hung = hung.into_iter().map(|test| format!("not ended in its time: {test}"));
        Stage {
            status,
            tests: Some(tests),
            note,
            problems: failed.into_iter().chain(hung).collect(),
            ..Stage::default()
        }
    }
}

/// Returns the names of all tests, listed once and cached.
pub fn list(verification: &mut Verification) -> Result<Vec<String>> {
    if verification.tests.is_empty() {
        let mut command = verification.program(verification.bundled("bin/suite"));
        let limits = Limits::total(Duration::from_secs(30));
        let (end, text) = verification.run(command.arg("--list"), "list", limits)?;
        ensure!(end.success(), "the tests cannot be listed: {}", last_line(&text));
        let names = text.lines().filter_map(|line| line.strip_suffix(": test"));
        verification.tests = names.map(str::to_owned).collect();
    }
    Ok(verification.tests.clone())
}

/// Returns the names of a module's tests.
pub fn of_module(tests: &[String], name: &str) -> Vec<String> {
    tests.iter().filter(|test| module(test) == name).cloned().collect()
}

/// Returns the top-level module of a test's name.
pub fn module(test: &str) -> &str {
    test.split("::").next().unwrap_or(test)
}

/// Returns the longest silence of a program before it counts as hanging. The CPU emulator gets longer.
pub fn patience(verification: &Verification) -> Duration {
    Duration::from_secs(if verification.on_gpu() { 15 } else { 60 })
}

/// Runs tests in one process. If a fault ended its device, or it hung, those without a reliable result run once more, each in a process of its own,
/// so that the faulty one is known and the others count.
pub fn group(
    verification: &mut Verification,
    log: &str,
    tests: &[String],
    limit: Duration,
    manner: &Manner,
) -> Result<Tally> {
    let deadline = Instant::now() + limit;
    let mut command = command(verification, tests, manner);
    // The rest is for tests that must run alone.
    let limits = Limits {
        silence: Some(patience(verification)),
        ..Limits::total(limit.mul_f64(0.75).max(limit.min(LEAST)))
    };
    let (end, text) = verification.run(command.arg("--show-output"), log, limits)?;
    let mut tally = Tally { ignored: parts_ignored(&text), ..Tally::default() };
    let sound = matches!(end, End::Exited(_))
        && !DEVICE_ENDED.iter().any(|said| text.contains(said))
        && text.contains("\ntest result: ");
    let test_results = test_results(&text);
    for test in tests {
        match test_results.get(test.as_str()) {
            Some(TestResult::Ok) => tally.passed += 1,
            Some(TestResult::Ignored) => tally.ignored += 1,
            Some(TestResult::Failed) if sound => {
                tally.failed.push(format!("{test}: {}", message(&text, test)));
            }
            _ => alone(verification, test, deadline, manner, &mut tally)?,
        }
    }
    if tests.len() == tally.passed as usize && !end.success() && sound {
        tally.failed.push(format!("all tests passed, but {end:?}: {}", complaint(&text)));
    }
    Ok(tally)
}

/// Runs tests one by one, each in a process of its own, waiting after every kernel.
pub fn one_by_one(verification: &mut Verification, tests: &[String], limit: Duration) -> Result<Tally> {
    let deadline = Instant::now() + limit;
    let mut tally = Tally::default();
    for test in tests {
        alone(verification, test, deadline, &Manner::default(), &mut tally)?;
    }
    Ok(tally)
}

/// Runs one test in a process of its own, waiting after every kernel.
fn alone(
    verification: &mut Verification,
    test: &str,
    deadline: Instant,
    manner: &Manner,
    tally: &mut Tally,
) -> Result<()> {
    let limit = deadline.saturating_duration_since(Instant::now()).min(patience(verification));
    if limit < LEAST || verification.interrupted() {
        tally.unfinished.push(test.to_owned());
        return Ok(());
    }
    let log = format!("alone-{}", test.replace("::", "-"));
    let manner = Manner { threads: 1, ..manner.clone() };
    let mut command = command(verification, std::slice::from_ref(&test.to_owned()), &manner);
    // Waits after every kernel, so that a fault or a hang names its kernel instead of surfacing at the end of the test.
    command.env("RETROMAE_CUDA_SYNC", "1");
    let limits = Limits { alarm: Some(STILL_RUNNING), ..Limits::total(limit) };
    let (end, text) = verification.run(command.arg("--nocapture"), &log, limits)?;
    match end {
        End::Exited(status) if status.success() && text.contains("1 passed") => tally.passed += 1,
        End::Exited(_) => tally.failed.push(format!("{test}: {}", message(&text, test))),
        // If a kernel did not end, the program has reported it.
        _ if text.contains(STILL_RUNNING) => {
            let line = text.lines().find(|line| line.contains(STILL_RUNNING)).unwrap_or_default();
            tally.hung.push(format!("{test}: {line}"));
        }
        _ => tally.hung.push(test.to_owned()),
    }
    Ok(())
}

fn command(verification: &Verification, tests: &[String], manner: &Manner) -> Command {
    let suite = verification.bundled("bin/suite");
    let mut command = match manner.under.split_first() {
        None => verification.program(suite),
        Some((tool, arguments)) => {
            let mut command = verification.program(tool);
            command.args(arguments).arg(suite);
            command
        }
    };
    command.env("RETROMAE_TEST_DEVICE", &verification.device);
    // Tests multiply hundreds of sizes once: tuning each would take longer than the tests.
    command.env("RETROMAE_GEMM_TUNE", "0");
    command.arg("--exact").args(tests);
    let threads = if manner.threads == 0 && verification.on_gpu() { 4 } else { manner.threads };
    if threads > 0 {
        command.args(["--test-threads", &threads.to_string()]);
    }
    command
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum TestResult {
    Ok,
    Failed,
    Ignored,
}

/// Returns the result of each test from the test program's output.
fn test_results(log: &str) -> BTreeMap<&str, TestResult> {
    let result = |line: &'_ str| {
        let (_, end) = line.split_once(" ... ")?;
        match end {
            "ok" => Some(TestResult::Ok),
            "FAILED" => Some(TestResult::Failed),
            end => end.starts_with("ignored").then_some(TestResult::Ignored),
        }
    };
    let lines = log.lines().filter(|line| line.starts_with("test "));
    lines.filter_map(|line| Some((line.split(' ').nth(1)?, result(line)?))).collect()
}

/// Counts the parts of tests that reported not to apply to this machine.
fn parts_ignored(log: &str) -> u32 {
    let count = log.lines().filter(|line| line.starts_with("ignored: ")).count();
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Returns the reason why a test failed, in one line.
fn message(log: &str, test: &str) -> String {
    let own = log.split_once(&format!("---- {test} stdout ----")).map_or(log, |(_, own)| own);
    let mut lines = own.lines().skip_while(|line| !line.contains("panicked at"));
    let place = lines.next();
    let said: Vec<&str> = lines
        .take_while(|line| !line.starts_with("note: ") && *line != "stack backtrace:" && !line.is_empty())
        .take(3)
        .collect();
    let text = match place {
        Some(_) if !said.is_empty() => said.join(" "),
        Some(place) => place.to_owned(),
        None => own.lines().rfind(|line| line.contains("rror")).map_or_else(|| last_line(own), str::to_owned),
    };
    text.chars().take(MESSAGE_LENGTH_MAX).collect()
}

/// Returns the line by which a tool around the tests reports its findings.
pub fn complaint(log: &str) -> String {
    let says = |line: &&str| line.contains("ERROR SUMMARY") || line.starts_with("error:");
    log.lines().find(says).map_or_else(|| last_line(log), str::to_owned)
}

pub fn last_line(log: &str) -> String {
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing was said");
    last.chars().take(MESSAGE_LENGTH_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "
running 4 tests
test a::good ... ok
test a::other ... ignored, needs more
test a::bad ... FAILED
test a::lost ... FAILED

successes:

---- a::good stdout ----
ignored: no GPU

failures:

---- a::bad stdout ----

thread 'a::bad' (7) panicked at tests/suite/a.rs:7:9:
the error is 3e-2,
where 1e-3 would do
note: run with `RUST_BACKTRACE=1`

---- a::lost stdout ----
Error: CudaEnded
";

    #[test]
    fn outcomes_and_messages_are_read_from_a_log() {
        let found = test_results(LOG);
        assert_eq!(found.len(), 4);
        assert_eq!(
            (found["a::good"], found["a::bad"], found["a::other"]),
            (TestResult::Ok, TestResult::Failed, TestResult::Ignored)
        );
        assert_eq!(parts_ignored(LOG), 1);
        assert_eq!(message(LOG, "a::bad"), "the error is 3e-2, where 1e-3 would do");
        assert_eq!(message(LOG, "a::lost"), "Error: CudaEnded");
        assert_eq!(message("terminated\n\n", "a::lost"), "terminated");
    }

    #[test]
    fn a_limit_is_no_failure_and_nothing_run_is_one() {
        let names = |name: &str| vec![name.to_owned()];
        let stage = Tally { passed: 3, unfinished: names("a::late"), ..Tally::default() }.stage();
        assert_eq!((stage.status, stage.note.as_str()), (Status::Cut, "no time for a::late"));
        let stage = Tally { passed: 3, hung: names("a::hangs"), ..Tally::default() }.stage();
        assert_eq!((stage.status, stage.problems), (Status::Cut, names("not ended in its time: a::hangs")));
        let stage = Tally { failed: names("a::bad: x"), hung: names("a::hangs"), ..Tally::default() }.stage();
        assert_eq!(
            (stage.status, stage.problems.len(), stage.tests.unwrap().unfinished),
            (Status::Failed, 2, 1)
        );
        assert_eq!(Tally::default().stage().status, Status::Failed);
        assert_eq!(Tally { passed: 1, ..Tally::default() }.stage().status, Status::Passed);
    }
}
