//! Reader of criterion's output folder: `<group>/<function>/<parameter>/new/{benchmark,estimates,sample}.json`.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::files::{children, read_json};

/// A measurement of one variant on one case.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    pub op: String,
    pub case: String,
    pub variant: String,
    pub median_ns: f64,
    pub samples: u64,
}

#[derive(Deserialize)]
struct Benchmark {
    group_id: String,
    function_id: Option<String>,
    value_str: Option<String>,
}

#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
}

#[derive(Deserialize)]
struct Sample {
    times: Vec<f64>,
}

/// Reads every measurement below `home`; names unreadable ones in `warnings`.
pub fn read(home: &Path, warnings: &mut Vec<String>) -> Vec<Measured> {
    let mut folders = Vec::new();
    find_new(home, &mut folders);
    let mut measured = Vec::new();
    for folder in folders {
        match read_one(&folder) {
            Ok(one) => measured.push(one),
            Err(error) => warnings.push(format!("a measurement was left out: {error:#}")),
        }
    }
    measured
}

/// Finds folders named `new`, which hold criterion's latest measurements.
fn find_new(folder: &Path, found: &mut Vec<PathBuf>) {
    for child in children(folder).into_iter().filter(|child| child.is_dir()) {
        if child.ends_with("new") && child.join("benchmark.json").is_file() {
            found.push(child);
        } else {
            find_new(&child, found);
        }
    }
}

fn read_one(folder: &Path) -> anyhow::Result<Measured> {
    let benchmark: Benchmark = read_json(&folder.join("benchmark.json"))?;
    let estimates: Estimates = read_json(&folder.join("estimates.json"))?;
    let sample: Sample = read_json(&folder.join("sample.json"))?;
    let median_ns = estimates.median.point_estimate;
    anyhow::ensure!(
        median_ns.is_finite() && median_ns > 0.0,
        "the median in `{}` is {median_ns}; it should be positive",
        folder.display()
    );
    Ok(Measured {
        op: benchmark.group_id,
        variant: benchmark.function_id.unwrap_or_default(),
        case: benchmark.value_str.unwrap_or_default(),
        median_ns,
        samples: sample.times.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn measurements_are_found_and_cut_ones_named() {
        let home = tempfile::tempdir().unwrap();
        for (case, estimates) in
            [("L32", "{\"median\":{\"point_estimate\":1500.5}}"), ("L64", "{\"median\":{\"poi")]
        {
            let folder = home.path().join(format!("adamw/retromae/{case}/new"));
            fs::create_dir_all(&folder).unwrap();
            let benchmark = format!(
                "{{\"group_id\":\"adamw\",\"function_id\":\"retromae\",\"value_str\":\"{case}\",\"throughput\":null}}"
            );
            fs::write(folder.join("benchmark.json"), benchmark).unwrap();
            fs::write(folder.join("estimates.json"), estimates).unwrap();
            fs::write(
                folder.join("sample.json"),
                "{\"sampling_mode\":\"Flat\",\"iters\":[1,1],\"times\":[2,3]}",
            )
            .unwrap();
        }
        fs::create_dir_all(home.path().join("adamw/report")).unwrap();
        let mut warnings = Vec::new();
        let measured = read(home.path(), &mut warnings);
        let [one] = measured.as_slice() else { panic!("{measured:?}") };
        assert_eq!((one.op.as_str(), one.case.as_str(), one.variant.as_str()), ("adamw", "L32", "retromae"));
        assert_eq!((one.median_ns, one.samples), (1500.5, 2));
        assert!(warnings.len() == 1 && warnings[0].contains("L64/new/estimates.json"), "{warnings:?}");
    }
}
