//! Summary of a result for readers: Markdown of everything that a result file holds.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::result::{Clocks, Comparison, Device, Figure, MatmulCheck, ResultFile, Skipped, Stage, Status};

/// Returns the whole summary of a run.
pub fn markdown(result: &ResultFile) -> String {
    let mut text = format!("# retromae on {}\n\n{}\n", device_name(&result.device), verdict(result));
    text.push_str("\n## Machine and programs\n\n");
    text.push_str(&table(&["", ""], 2, facts(result)));
    text.push_str("\n## Stages\n\n");
    text.push_str(&table(
        &["stage", "status", "note", "seconds", "passed", "failed", "unfinished", "ignored"],
        3,
        result.stages.iter().map(stage_row),
    ));
    let problems = result
        .stages
        .iter()
        .flat_map(|stage| stage.problems.iter().map(|problem| format!("{}: {problem}", stage.name)));
    list(&mut text, "What failed or did not end", problems);
    text.push_str("\n## Training on both sides\n\n");
    text.push_str(&result.training.as_ref().map_or("Not compared.\n".into(), training));
    text.push_str("\n## Figures\n\n");
    text.push_str(&figures(result));
    list(&mut text, "Cases that a variant did not run", skipped(&result.skipped));
    list(&mut text, "Missing", result.missing.iter().cloned());
    list(&mut text, "Warnings", result.warnings.iter().cloned());
    text
}

pub fn device_name(device: &Device) -> &str {
    if device.name.is_empty() { "an unknown device" } else { &device.name }
}

/// Returns a Markdown table: the first `left` columns left-aligned, numbers right-aligned.
pub fn table<Row: AsRef<[String]>>(
    header: &[&str],
    left: usize,
    rows: impl IntoIterator<Item = Row>,
) -> String {
    let mut text = format!("| {} |\n|", header.join(" | "));
    for column in 0..header.len() {
        text.push_str(if column < left { "---|" } else { "---:|" });
    }
    text.push('\n');
    for row in rows {
        let cells: Vec<String> =
            row.as_ref().iter().map(|cell| cell.replace('|', "\\|").replace('\n', " ")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

/// Formats a time with the unit that keeps it readable.
pub fn time(nanoseconds: f64) -> String {
    let (value, unit) = match nanoseconds {
        ns if ns < 1e6 => (ns / 1e3, "µs"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    format!("{} {unit}", three_digits(value))
}

/// Formats a ratio such as `1.23×`, or a dash.
pub fn times(ratio: Option<f64>) -> String {
    ratio.map_or("–".into(), |ratio| format!("{}×", three_digits(ratio)))
}

fn three_digits(value: f64) -> String {
    let decimals = match value.abs() {
        large if large >= 100.0 => 0,
        large if large >= 10.0 => 1,
        small if small < 0.1 && small > 0.0 => 4,
        _ => 2,
    };
    format!("{value:.decimals$}")
}

/// Returns the number of passed stages, and the names of the others.
pub fn verdict(result: &ResultFile) -> String {
    let of = |status: Status| -> Vec<&str> {
        let stages = result.stages.iter().filter(|stage| stage.status == status);
        stages.map(|stage| stage.name.as_str()).collect()
    };
    let mut parts = Vec::new();
    for status in [Status::Failed, Status::Interrupted, Status::NotReached, Status::Cut, Status::Skipped] {
        let names = of(status);
        if !names.is_empty() {
            parts.push(format!("{}: {}", status.name(), names.join(", ")));
        }
    }
    let passed = of(Status::Passed).len();
    let head = format!("**{passed} of {} stages passed", result.stages.len());
    if parts.is_empty() { format!("{head}.**") } else { format!("{head}; {}.**", parts.join("; ")) }
}

fn facts(result: &ResultFile) -> Vec<[String; 2]> {
    let ResultFile { build, device, ceilings, .. } = result;
    let mut rows: Vec<[String; 2]> = Vec::new();
    let mut add = |name: &str, value: Option<String>| {
        rows.push([name.to_owned(), value.filter(|value| !value.is_empty()).unwrap_or("unknown".into())]);
    };
    add("date", Some(result.date.clone()));
    add("device", Some(format!("{} ({})", device_name(device), device.kind)));
    if device.kind == "cuda" {
        add("compute capability", device.compute_capability.clone());
        add("memory", device.memory_mib.map(|mib| format!("{mib} MiB")));
        add("driver", device.driver.clone());
        add("clocks before", device.clocks_before.as_ref().map(clocks));
        add("clocks after", device.clocks_after.as_ref().map(clocks));
    }
    if let Some(MatmulCheck { library, relative_error, error }) = &device.matmul {
        let accuracy = relative_error.map(|error| format!("relative error of a bf16 matmul {error:.1e}"));
        let parts = [library.clone(), accuracy, error.clone()];
        add("matmuls by", Some(parts.into_iter().flatten().collect::<Vec<_>>().join(", ")));
    }
    add("processor", device.host_cpu.clone());
    add("processor threads", device.host_threads.map(|threads| threads.to_string()));
    add("retromae", Some(format!("{}, commit {}", build.version, commit(result))));
    add("nvcc", build.nvcc.clone().or(Some("none: built without GPU kernels".into())));
    add("rustc", build.rustc.clone());
    result.software.iter().for_each(|(name, version)| add(name, Some(version.clone())));
    let unmeasured = || Some("not measured".into());
    add("copy", ceilings.copy_bytes_per_s.map(|rate| format!("{:.1} GB/s", rate / 1e9)).or_else(unmeasured));
    add(
        "matmul",
        ceilings.matmul_flop_per_s.map(|rate| format!("{:.2} TFLOP/s", rate / 1e12)).or_else(unmeasured),
    );
    rows
}

/// Returns the commit, and a note if the tree had uncommitted changes.
pub fn commit(result: &ResultFile) -> String {
    let Some(commit) = &result.build.commit else { return "unknown".into() };
    let short: String = commit.chars().take(10).collect();
    match result.build.dirty {
        Some(false) => short,
        Some(true) => format!("{short} and uncommitted changes"),
        None => format!("{short}, perhaps with uncommitted changes"),
    }
}

fn clocks(clocks: &Clocks) -> String {
    let part = |value: Option<f64>, unit: &str| value.map(|value| format!("{value} {unit}"));
    let parts = [
        part(clocks.sm_mhz, "MHz"),
        part(clocks.memory_mhz, "MHz memory"),
        part(clocks.temperature_c, "°C"),
        part(clocks.power_w, "W"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn stage_row(stage: &Stage) -> [String; 8] {
    let count = |count: fn(&crate::result::TestCounts) -> u32| {
        stage.tests.as_ref().map_or(String::new(), |tests| count(tests).to_string())
    };
    [
        stage.name.clone(),
        stage.status.name().into(),
        stage.note.clone(),
        format!("{:.0}", stage.seconds),
        count(|tests| tests.passed),
        count(|tests| tests.failed),
        count(|tests| tests.unfinished),
        count(|tests| tests.ignored),
    ]
}

fn training(comparison: &Comparison) -> String {
    let Comparison { a, b, bound, .. } = comparison;
    let largest = comparison.largest_difference.map_or("a loss is not a number".into(), |largest| {
        let word = if comparison.within_bound { "within" } else { "**above**" };
        format!("the losses differ by up to {largest:.2e}, {word} the bound of {bound:.2e}")
    });
    let header = [
        "step",
        &format!("encoder, {a}"),
        &format!("encoder, {b}"),
        &format!("decoder, {a}"),
        &format!("decoder, {b}"),
        "difference",
    ];
    let loss = |loss: Option<f64>| loss.map_or("–".into(), |loss| format!("{loss:.5}"));
    let rows = comparison.steps.iter().map(|step| {
        let difference = step.difference.map_or("–".into(), |difference| format!("{difference:.1e}"));
        [
            step.step.to_string(),
            loss(step.encoder_a),
            loss(step.encoder_b),
            loss(step.decoder_a),
            loss(step.decoder_b),
            difference,
        ]
    });
    format!("{} steps with the same seeds: {largest}.\n\n{}", comparison.steps.len(), table(&header, 0, rows))
}

fn figures(result: &ResultFile) -> String {
    if result.figures.is_empty() {
        return "None measured.\n".into();
    }
    let header = [
        "operation",
        "case",
        "variant",
        "time",
        "reverse / forward",
        "of ours",
        "of bound",
        "GB/s",
        "TFLOP/s",
    ];
    let rows = result.figures.iter().map(|figure| figure_row(result, figure));
    format!(
        "`of ours`: how many times as long as this project's kernels. `of bound`: how many times the least that the measured ceilings allow.\n\n{}",
        table(&header, 3, rows)
    )
}

fn figure_row(result: &ResultFile, figure: &Figure) -> [String; 9] {
    let ours = result.ours().find(|ours| ours.op == figure.op && ours.case == figure.case);
    let ratio = ours.and_then(|ours| ours.ratios.get(&figure.variant).copied());
    let orders = figure.forward_ns.zip(figure.reverse_ns).map(|(forward, reverse)| reverse / forward);
    let number = |value: Option<f64>| value.map_or("–".into(), three_digits);
    [
        figure.op.clone(),
        figure.case.clone(),
        figure.variant.clone(),
        time(figure.median_ns),
        number(orders),
        times(ratio),
        times(figure.times_bound),
        number(figure.gb_per_s),
        number(figure.tflop_per_s),
    ]
}

/// Returns a line for each operation, variant and reason.
fn skipped(cases: &[Skipped]) -> impl Iterator<Item = String> {
    let mut grouped: BTreeMap<[&str; 3], Vec<&str>> = BTreeMap::new();
    for Skipped { op, case, variant, reason } in cases {
        grouped.entry([op, variant, reason]).or_default().push(case);
    }
    grouped
        .into_iter()
        .map(|([op, variant, reason], cases)| format!("{op}, {variant}, {}: {reason}", cases.join(" ")))
}

fn list(text: &mut String, title: &str, lines: impl Iterator<Item = String>) {
    let lines: Vec<String> = lines.map(|line| format!("- {line}\n")).collect();
    if !lines.is_empty() {
        let _ = write!(text, "\n## {title}\n\n{}", lines.concat());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits_and_their_unit() {
        assert_eq!(time(1234.0), "1.23 µs");
        assert_eq!(time(45_600_000.0), "45.6 ms");
        assert_eq!(time(7.89e11), "789 s");
        assert_eq!(times(Some(2.0)), "2.00×");
        assert_eq!(times(Some(0.0123)), "0.0123×");
        assert_eq!(times(None), "–");
    }

    #[test]
    fn the_verdict_names_every_stage_that_did_not_pass() {
        let stage = |name: &str, status| Stage { name: name.into(), status, ..Stage::default() };
        let mut result =
            ResultFile { stages: vec![stage("instructions", Status::Passed)], ..ResultFile::default() };
        assert_eq!(verdict(&result), "**1 of 1 stages passed.**");
        result.stages.push(stage("tests", Status::Failed));
        result.stages.push(stage("peers", Status::NotReached));
        let text = markdown(&result);
        assert!(text.contains("**1 of 3 stages passed; failed: tests; not reached: peers.**"), "{text}");
    }

    #[test]
    fn a_cell_cannot_break_the_table() {
        assert_eq!(
            table(&["a", "b"], 1, [["x|y".to_owned(), "1\n2".to_owned()]]),
            "| a | b |\n|---|---:|\n| x\\|y | 1 2 |\n"
        );
    }
}
