//! The benches, restarted after a case that crashed the device or did not end.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Deserialize;

use super::process::{End, Limits};
use super::steps::skipped;
use super::suite::last_line;
use super::verification::Verification;
use crate::result::{Stage, Status};

/// Longest silence while a variant is prepared, compared and measured.
const PATIENCE: Duration = Duration::from_secs(60);

/// A line by which the benches announce the case that they begin.
#[derive(Deserialize)]
struct Begun {
    begun: String,
}

/// Measures cases (`headline`, `rest` or `all`) with the variants in an order (`forward` or `reverse`).
pub fn run(
    verification: &mut Verification,
    limit: Duration,
    name: &str,
    order: &str,
    cases: &str,
) -> Result<Stage> {
    let program = verification.bundled("bin/bench");
    if !program.is_file() {
        return Ok(skipped("the bundle has no bench"));
    }
    let deadline = Instant::now() + limit;
    let mut after = None;
    let mut problems = Vec::new();
    let (mut failed, mut cut) = (false, false);
    loop {
        let mut command = verification.program(&program);
        command.args(["--bench", "--noplot"]);
        command.env("CRITERION_HOME", verification.work.join("criterion").join(order));
        command.env("RETROMAE_BENCH_DEVICE", &verification.device).env("RETROMAE_BENCH_ORDER", order);
        command.env("RETROMAE_BENCH_CASES", cases);
        command.env("RETROMAE_BENCH_BOUNDS", verification.work.join("bounds.jsonl"));
        if let Some(id) = &after {
            command.env("RETROMAE_BENCH_AFTER", id);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let (end, log) = verification.run(
            &mut command,
            name,
            Limits { silence: Some(PATIENCE), ..Limits::total(left) },
        )?;
        let problem = match end {
            End::Exited(status) if status.success() => break,
            End::Exited(status) if status.code() == Some(DIFFERENT) => {
                failed = true;
                problems
                    .extend(log.lines().filter(|line| line.contains(" differs from ")).map(str::to_owned));
                break;
            }
            End::OutOfTime | End::Interrupted => {
                cut = true;
                break;
            }
            End::Silent => {
                cut = true;
                "nothing was heard of it any more".to_owned()
            }
            End::Exited(_) => {
                failed = true;
                last_line(&log)
            }
        };
        // Continue after that case, unless the benches did not reach a new one.
        let Some(id) = last_begun(verification).filter(|id| after.as_ref() != Some(id)) else {
            problems.push(problem);
            break;
        };
        problems.push(format!("{id}: {problem}"));
        after = Some(id);
    }
    let status = if failed {
        Status::Failed
    } else if cut {
        Status::Cut
    } else {
        Status::Passed
    };
    Ok(Stage { status, problems, ..Stage::default() })
}

/// Exit status of the benches if they measured all, but a variant computed a different result.
const DIFFERENT: i32 = 1;

/// Returns the variant of a case that was begun last.
fn last_begun(verification: &Verification) -> Option<String> {
    let lines = fs::read_to_string(verification.work.join("bounds.jsonl")).unwrap_or_default();
    let begun = |line| serde_json::from_str::<Begun>(line).ok().map(|line| line.begun);
    lines.lines().rev().find_map(begun)
}
