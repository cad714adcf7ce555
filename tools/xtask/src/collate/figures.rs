//! Figures of all programs, joined by operation, case and variant, and the values derived from them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Gaps;
use super::criterion;
use crate::cases;
use crate::result::{Ceilings, Figure, OURS, Skipped, UNFUSED};

/// Operation of the benches that measures the device's peak rates: a copy and a large matmul.
const CEILING: &str = "ceiling";

#[derive(Debug, Default)]
pub struct Collected {
    pub ceilings: Ceilings,
    pub figures: Vec<Figure>,
    pub skipped: Vec<Skipped>,
}

/// A line of `bounds.jsonl`: the least work of a case.
#[derive(Clone, Copy, Debug, Default)]
struct Work {
    flops: f64,
    bytes: f64,
}

/// A line that the benches write about a case: its work, a variant's extra memory, the reason for skipping it, or its start.
#[derive(Deserialize)]
#[serde(untagged)]
enum BenchLine {
    Bound {
        op: String,
        case: String,
        flops: f64,
        bytes: f64,
    },
    Memory {
        op: String,
        case: String,
        variant: String,
        extra_bytes: u64,
    },
    Skipped(Skipped),
    Begun {
        #[serde(rename = "begun")]
        _id: IgnoredAny,
    },
}

/// The peers' reason for figures that they did not begin.
const NO_TIME: &str = "the time was over";

/// A line of a figures file: a measurement, or the reason why there is none.
#[derive(Deserialize)]
struct FigureLine {
    op: String,
    case: String,
    variant: String,
    dtype: Option<String>,
    median_ns: Option<f64>,
    #[serde(default)]
    samples: u64,
    note: Option<String>,
    skipped: Option<String>,
}

type Case = (String, String);

pub fn collect(dir: &Path, gaps: &mut Gaps) -> Collected {
    let mut figures: BTreeMap<(String, String, String), Figure> = BTreeMap::new();
    for order in ["forward", "reverse"] {
        let home = format!("criterion/{order}");
        let measured = criterion::read(&dir.join(&home), &mut gaps.warnings);
        // Only long runs measure the reverse order.
        if measured.is_empty() && order == "forward" {
            gaps.missing.push(home);
        }
        for one in measured {
            let figure = figures.entry((one.op, one.case, one.variant)).or_default();
            let median = if order == "forward" { &mut figure.forward_ns } else { &mut figure.reverse_ns };
            *median = Some(one.median_ns);
            figure.samples += one.samples;
        }
    }
    let mut skipped = Vec::new();
    let lines = gaps.json_lines::<FigureLine>(dir, "peers/figures.jsonl");
    let (not_begun, lines): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| line.skipped.as_deref() == Some(NO_TIME));
    if !not_begun.is_empty() {
        gaps.warnings.push(format!("{} figures of the peers were not begun: {NO_TIME}", not_begun.len()));
    }
    for line in lines {
        add_peer(line, &mut figures, &mut skipped, &mut gaps.warnings);
    }
    let work = bounds(dir, &mut figures, &mut skipped, gaps);
    let mut figures: Vec<Figure> = figures
        .into_iter()
        .map(|((op, case, variant), figure)| {
            let medians = [figure.forward_ns, figure.reverse_ns].into_iter().flatten();
            let median_ns = medians.clone().sum::<f64>() / medians.count() as f64;
            Figure { op, case, variant, median_ns, ..figure }
        })
        .collect();
    let ceilings = ceilings(&figures, &work);
    if ceilings.copy_bytes_per_s.is_none() || ceilings.matmul_flop_per_s.is_none() {
        gaps.missing.push("a ceiling: without both there are no bounds".into());
    }
    figures.iter_mut().for_each(|figure| derive(figure, &work, ceilings));
    add_ratios(&mut figures);
    figures.sort_by_cached_key(|figure| {
        let variant = [OURS, UNFUSED].iter().position(|&first| first == figure.variant).unwrap_or(2);
        (cases::place(&figure.op), figure.op.clone(), natural(&figure.case), variant, figure.variant.clone())
    });
    Collected { ceilings, figures, skipped }
}

fn add_peer(
    line: FigureLine,
    figures: &mut BTreeMap<(String, String, String), Figure>,
    skipped: &mut Vec<Skipped>,
    warnings: &mut Vec<String>,
) {
    let FigureLine { op, case, variant, dtype, median_ns, samples, note, skipped: reason } = line;
    match (median_ns, reason) {
        (None, Some(reason)) => skipped.push(Skipped { op, case, variant, reason }),
        (Some(median), None) if median.is_finite() && median > 0.0 => {
            let figure = Figure { dtype, forward_ns: Some(median), samples, note, ..Figure::default() };
            figures.insert((op, case, variant), figure);
        }
        _ => warnings.push(format!(
            "the figure of {op} {case} {variant} was left out: it should have a positive median_ns or say why it was skipped"
        )),
    }
}

/// Returns the work of each case; sorts the benches' other lines into their places.
fn bounds(
    dir: &Path,
    figures: &mut BTreeMap<(String, String, String), Figure>,
    skipped: &mut Vec<Skipped>,
    gaps: &mut Gaps,
) -> BTreeMap<Case, Work> {
    let mut work = BTreeMap::new();
    for line in gaps.json_lines(dir, "bounds.jsonl") {
        match line {
            BenchLine::Bound { op, case, flops, bytes } if flops >= 0.0 && bytes >= 0.0 && flops + bytes > 0.0 => {
                work.insert((op, case), Work { flops, bytes });
            }
            BenchLine::Bound { op, case, flops, bytes } => gaps.warnings.push(format!(
                "the bound of {op} {case} was left out: {flops} flops and {bytes} bytes; it should have some of either"
            )),
            BenchLine::Memory { op, case, variant, extra_bytes } => {
                if let Some(figure) = figures.get_mut(&(op, case, variant)) {
                    figure.extra_bytes = Some(extra_bytes);
                }
            }
            // The run in the other order may have reported it already.
            BenchLine::Skipped(line) if skipped.contains(&line) => {}
            BenchLine::Skipped(line) => skipped.push(line),
            BenchLine::Begun { .. } => {}
        }
    }
    work
}

fn work_of(figure: &Figure, work: &BTreeMap<Case, Work>) -> Option<Work> {
    work.get(&(figure.op.clone(), figure.case.clone())).copied()
}

/// Returns the best rates among the figures of [`CEILING`].
fn ceilings(figures: &[Figure], work: &BTreeMap<Case, Work>) -> Ceilings {
    let best = |amount: fn(Work) -> f64| {
        let measured = figures.iter().filter(|figure| figure.op == CEILING);
        let rates =
            measured.filter_map(|figure| Some(1e9 * amount(work_of(figure, work)?) / figure.median_ns));
        rates.filter(|&rate| rate > 0.0).max_by(f64::total_cmp)
    };
    Ceilings {
        // A matmul's bytes say nothing about memory bandwidth.
        copy_bytes_per_s: best(|work| if work.flops == 0.0 { work.bytes } else { 0.0 }),
        matmul_flop_per_s: best(|work| work.flops),
    }
}

fn derive(figure: &mut Figure, work: &BTreeMap<Case, Work>, ceilings: Ceilings) {
    let Some(Work { flops, bytes }) = work_of(figure, work) else { return };
    figure.gb_per_s = (bytes > 0.0).then_some(bytes / figure.median_ns);
    figure.tflop_per_s = (flops > 0.0).then_some(flops / figure.median_ns / 1e3);
    if let Ceilings { copy_bytes_per_s: Some(copy), matmul_flop_per_s: Some(matmul) } = ceilings
        && figure.op != CEILING
    {
        let bound = 1e9 * (bytes / copy).max(flops / matmul);
        figure.bound_ns = Some(bound);
        figure.times_bound = Some(figure.median_ns / bound);
    }
}

fn add_ratios(figures: &mut [Figure]) {
    let mut others: BTreeMap<Case, Vec<(String, f64)>> = BTreeMap::new();
    for figure in figures.iter().filter(|figure| figure.variant != OURS) {
        let case = (figure.op.clone(), figure.case.clone());
        others.entry(case).or_default().push((figure.variant.clone(), figure.median_ns));
    }
    for figure in figures.iter_mut().filter(|figure| figure.variant == OURS) {
        let peers = others.get(&(figure.op.clone(), figure.case.clone())).into_iter().flatten();
        figure.ratios = peers.map(|(variant, median)| (variant.clone(), median / figure.median_ns)).collect();
    }
}

/// Returns a sort key that puts `L64` before `L128`: numbers are padded with zeros.
fn natural(case: &str) -> String {
    let mut key = String::new();
    for part in case.split_inclusive(|letter: char| !letter.is_ascii_digit()) {
        let digits = part.trim_end_matches(|letter: char| !letter.is_ascii_digit());
        let rest = &part[digits.len()..];
        if !digits.is_empty() {
            key.push_str(&format!("{digits:0>20}"));
        }
        key.push_str(rest);
    }
    key
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn measure(dir: &Path, order: &str, id: [&str; 3], median: f64) {
        let [op, variant, case] = id;
        let folder = dir.join(format!("criterion/{order}/{op}/{variant}/{case}/new"));
        fs::create_dir_all(&folder).unwrap();
        let benchmark = serde_json::json!({ "group_id": op, "function_id": variant, "value_str": case });
        fs::write(folder.join("benchmark.json"), benchmark.to_string()).unwrap();
        fs::write(folder.join("estimates.json"), format!("{{\"median\":{{\"point_estimate\":{median}}}}}"))
            .unwrap();
        fs::write(folder.join("sample.json"), "{\"times\":[1,2,3]}").unwrap();
    }

    #[test]
    fn times_become_rates_bounds_and_ratios() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        for (order, median) in [("forward", 900.0), ("reverse", 1100.0)] {
            measure(dir, order, ["adamw", OURS, "base"], median);
            measure(dir, order, ["adamw", UNFUSED, "base"], 4000.0);
            measure(dir, order, ["ceiling", "copy", "copy"], 1000.0);
            measure(dir, order, ["ceiling", "matmul", "matmul"], 1000.0);
        }
        fs::create_dir(dir.join("peers")).unwrap();
        let peers = [
            r#"{"op":"adamw","case":"base","variant":"torch","dtype":"bf16","median_ns":2000.0,"samples":50}"#,
            r#"{"op":"adamw","case":"base","variant":"liger","skipped":"has no optimizer"}"#,
            r#"{"op":"adamw","case":"large","variant":"torch","skipped":"the time was over"}"#,
            r#"{"op":"adamw","case":"base","variant":"wrong","median_ns":-1.0,"samples":50}"#,
            r#"{"op":"adamw","case":"ba"#,
        ];
        fs::write(dir.join("peers/figures.jsonl"), peers.join("\n")).unwrap();
        let bounds = [
            r#"{"begun":"ceiling/copy/copy"}"#,
            r#"{"op":"ceiling","case":"copy","flops":0,"bytes":2000}"#,
            r#"{"op":"ceiling","case":"matmul","flops":10000,"bytes":9}"#,
            r#"{"op":"adamw","case":"base","flops":3000,"bytes":800}"#,
            r#"{"op":"adamw","case":"none","flops":0,"bytes":0}"#,
            r#"{"op":"adamw","case":"base","variant":"unfused","extra_bytes":4096}"#,
            r#"{"op":"step","case":"base_L512","variant":"unfused","skipped":"out of memory"}"#,
            r#"{"op":"step","case":"base_L512","variant":"unfused","skipped":"out of memory"}"#,
        ];
        fs::write(dir.join("bounds.jsonl"), bounds.join("\n")).unwrap();
        let mut gaps = Gaps::default();
        let found = collect(dir, &mut gaps);
        assert_eq!(found.ceilings.copy_bytes_per_s, Some(2e9));
        assert_eq!(found.ceilings.matmul_flop_per_s, Some(1e10));
        let ours = &found.figures[0];
        assert_eq!((ours.op.as_str(), ours.variant.as_str(), ours.samples), ("adamw", OURS, 6));
        assert_eq!((ours.forward_ns, ours.reverse_ns, ours.median_ns), (Some(900.0), Some(1100.0), 1000.0));
        // Memory-bound: 800 bytes at 2 bytes/ns take longer than 3000 operations at 10 a nanosecond.
        assert_eq!((ours.bound_ns, ours.times_bound), (Some(400.0), Some(2.5)));
        assert_eq!((ours.gb_per_s, ours.tflop_per_s), (Some(0.8), Some(0.003)));
        let held: Vec<Option<u64>> = found.figures[..3].iter().map(|figure| figure.extra_bytes).collect();
        assert_eq!(held, [None, Some(4096), None]);
        assert_eq!((ours.unfused_ratio(), ours.best_peer()), (Some(4.0), Some(("torch", 2.0))));
        let reasons: Vec<&str> = found.skipped.iter().map(|skipped| skipped.reason.as_str()).collect();
        assert_eq!(reasons, ["has no optimizer", "out of memory"]);
        assert_eq!(gaps.warnings.len(), 4, "{:?}", gaps.warnings);
        assert!(gaps.missing.is_empty(), "{:?}", gaps.missing);
        assert!(found.figures.iter().filter(|figure| figure.op == CEILING).all(|f| f.bound_ns.is_none()));
    }

    #[test]
    fn cases_are_in_the_order_of_their_numbers() {
        let mut cases = ["mixed_d64", "L1024_d64", "L128_d64", "L64_d128", "L64_d32"];
        cases.sort_by_key(|case| natural(case));
        assert_eq!(cases, ["L64_d32", "L64_d128", "L128_d64", "L1024_d64", "mixed_d64"]);
    }
}
