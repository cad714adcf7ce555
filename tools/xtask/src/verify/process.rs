//! A program under a time limit, its output in a log.

use std::fs::{self, File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

const POLL: Duration = Duration::from_millis(50);
/// Time for a program to end by itself after SIGTERM, and to vanish after SIGKILL.
const GRACE: Duration = Duration::from_secs(3);

/// Time limits of a program.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub total: Duration,
    /// Longest time without output to its log, for programs that report their progress.
    pub silence: Option<Duration>,
    /// Text in the log that means the program will not end.
    pub alarm: Option<&'static str>,
}

impl Limits {
    pub fn total(total: Duration) -> Self {
        Self { total, silence: None, alarm: None }
    }
}

/// End of a program's run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Exited(ExitStatus),
    OutOfTime,
    /// It stopped writing to its log, or reported that it hangs.
    Silent,
    /// This program received a signal, and ended that one.
    Interrupted,
}

impl End {
    pub fn success(self) -> bool {
        matches!(self, Self::Exited(status) if status.success())
    }

    pub fn code(self) -> Option<i32> {
        if let Self::Exited(status) = self { status.code() } else { None }
    }
}

/// Runs a program, appending its output to `log`; calls `tick` while it waits. All processes that the program started end with it.
pub fn run(
    command: &mut Command,
    log: &Path,
    limits: Limits,
    interrupted: &AtomicBool,
    tick: &mut dyn FnMut(),
) -> Result<End> {
    let file = append(log)?;
    // Read before the program can write, or its first output would be missed.
    let before = written(log);
    let begun = Instant::now();
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("cannot share a log")?)
        .stderr(file)
        // A process group of its own, so that all of it can be ended at once.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot run `{name}`"))?;
    let mut heard = (before, begun);
    let end = loop {
        if let Some(status) = child.try_wait().with_context(|| format!("cannot wait for `{name}`"))? {
            return Ok(End::Exited(status));
        }
        let bytes = written(log);
        if bytes != heard.0 {
            heard = (bytes, Instant::now());
            if limits.alarm.is_some_and(|alarm| said_since(log, before).contains(alarm)) {
                break End::Silent;
            }
        }
        if interrupted.load(Ordering::Relaxed) {
            break End::Interrupted;
        }
        if begun.elapsed() >= limits.total {
            break End::OutOfTime;
        }
        if limits.silence.is_some_and(|silence| heard.1.elapsed() >= silence) {
            break End::Silent;
        }
        std::thread::sleep(POLL);
        tick();
    };
    end_group(&mut child);
    Ok(end)
}

/// Opens a file for appending.
pub fn append(path: &Path) -> Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot write `{}`", path.display()))
}

/// Returns the text appended to a log after its first `before` bytes.
pub fn said_since(log: &Path, before: u64) -> String {
    let bytes = fs::read(log).unwrap_or_default();
    let before = usize::try_from(before).unwrap_or(usize::MAX).min(bytes.len());
    String::from_utf8_lossy(&bytes[before..]).into_owned()
}

pub fn written(log: &Path) -> u64 {
    fs::metadata(log).map_or(0, |metadata| metadata.len())
}

/// Asks a program and all that it started to end, then kills them. A process stuck in the kernel is left behind.
fn end_group(child: &mut Child) {
    let group = Pid::from_raw(child.id() as i32);
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        // It may have ended already.
        let _ = killpg(group, signal);
        let asked = Instant::now();
        while asked.elapsed() < GRACE {
            if !matches!(child.try_wait(), Ok(None)) {
                let _ = killpg(group, Signal::SIGKILL);
                return;
            }
            std::thread::sleep(POLL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limits: Limits, interrupted: bool) -> (End, String) {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        let end = run(&mut command, &log, limits, &AtomicBool::new(interrupted), &mut || ()).unwrap();
        (end, fs::read_to_string(log).unwrap())
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(300);

    #[test]
    fn a_program_that_ends_has_its_status_and_its_output() {
        let (end, log) = shell("echo out; echo err >&2; exit 7", Limits::total(LONG), false);
        assert_eq!((end.code(), end.success()), (Some(7), false));
        assert_eq!(log, "out\nerr\n");
    }

    #[test]
    fn each_limit_ends_a_program_and_what_it_started() {
        // The shell waits for a child in its group that ignores SIGTERM.
        let script = "echo begun; (trap '' TERM; sleep 55) & wait";
        for (limits, interrupted, expected) in [
            (Limits::total(SHORT), false, End::OutOfTime),
            (Limits { silence: Some(SHORT), ..Limits::total(LONG) }, false, End::Silent),
            (Limits { alarm: Some("begun"), ..Limits::total(LONG) }, false, End::Silent),
            (Limits::total(LONG), true, End::Interrupted),
        ] {
            let begun = Instant::now();
            let (end, _) = shell(script, limits, interrupted);
            assert_eq!(end, expected);
            assert!(begun.elapsed() < LONG / 2, "{:?}", begun.elapsed());
        }
    }

    #[test]
    fn who_speaks_is_not_silent() {
        let limits = Limits { silence: Some(Duration::from_secs(2)), ..Limits::total(LONG) };
        let (end, _) = shell("for i in 1 2 3 4 5; do echo $i; sleep 0.7; done", limits, false);
        assert!(end.success(), "{end:?}");
    }
}
