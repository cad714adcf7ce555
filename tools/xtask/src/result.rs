//! The result file: the findings of one run of `verify.sh` on one machine. `benches/results/README.md` describes it for readers.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Version of the result file's format.
pub const FORMAT: u32 = 1;
/// Name of this project's own kernels among the variants.
pub const OURS: &str = "retromae";
/// Baseline A: the same operations composed of the GEMM backend's matmuls and plain kernels.
pub const UNFUSED: &str = "unfused";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    pub format: u32,
    /// Start of the run in UTC, such as `2025-01-31T12:00:00Z`.
    pub date: String,
    pub build: Build,
    pub device: Device,
    /// Versions of the peers' software, such as `torch`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub software: BTreeMap<String, String>,
    #[serde(default)]
    pub ceilings: Ceilings,
    pub stages: Vec<Stage>,
    pub training: Option<Comparison>,
    pub figures: Vec<Figure>,
    #[serde(default)]
    pub skipped: Vec<Skipped>,
    /// Expected files that the run did not leave.
    #[serde(default)]
    pub missing: Vec<String>,
    /// Data left out because it could not be read, or does not fit together.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Origin of a bundle's programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Build {
    pub version: String,
    /// None if there was no git.
    pub commit: Option<String>,
    /// True if the tree had uncommitted changes.
    pub dirty: Option<bool>,
    /// None for a bundle without GPU kernels.
    pub nvcc: Option<String>,
    pub rustc: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    /// `cuda` or `host`.
    pub kind: String,
    pub name: String,
    pub compute_capability: Option<String>,
    pub memory_mib: Option<u64>,
    pub driver: Option<String>,
    /// Clocks before the first stage and after the last.
    pub clocks_before: Option<Clocks>,
    pub clocks_after: Option<Clocks>,
    pub host_cpu: Option<String>,
    pub host_threads: Option<u32>,
    /// One matmul by the GEMM backend of this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matmul: Option<MatmulCheck>,
}

/// GEMM backend, and the result of one matmul with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MatmulCheck {
    pub library: Option<String>,
    pub relative_error: Option<f64>,
    /// Reason why the matmul failed.
    pub error: Option<String>,
}

/// Output of nvidia-smi.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    pub sm_mhz: Option<f64>,
    pub memory_mhz: Option<f64>,
    pub temperature_c: Option<f64>,
    pub power_w: Option<f64>,
}

/// Peak rates of this device, measured in the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written by a large copy.
    pub copy_bytes_per_s: Option<f64>,
    /// Rate of a large square matmul by the GEMM backend.
    pub matmul_flop_per_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Passed,
    Failed,
    /// A time limit was reached; completed work counts.
    Cut,
    /// Left out on purpose; the note gives the reason.
    Skipped,
    #[default]
    NotReached,
    Interrupted,
}

impl Status {
    pub fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Cut => "cut by the time",
            Self::Skipped => "skipped",
            Self::NotReached => "not reached",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A line of `stages.jsonl`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    pub status: Status,
    pub seconds: f64,
    /// Test counts, if the stage ran any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCounts>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// Names of tests and bench cases that failed or did not end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestCounts {
    pub passed: u32,
    pub failed: u32,
    /// Tests, or parts of them, that reported not to apply to this machine.
    pub ignored: u32,
    /// Tests that exceeded their time, or for which no time was left.
    #[serde(default)]
    pub unfinished: u32,
}

/// Two training runs of the same seeds side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Names of the compared runs, such as `host` and `cuda`.
    pub a: String,
    pub b: String,
    /// Relative difference that no loss may exceed.
    pub bound: f64,
    /// None if a loss was NaN or infinite.
    pub largest_difference: Option<f64>,
    pub within_bound: bool,
    pub steps: Vec<ComparedStep>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ComparedStep {
    pub step: u64,
    pub encoder_a: Option<f64>,
    pub encoder_b: Option<f64>,
    pub decoder_a: Option<f64>,
    pub decoder_b: Option<f64>,
    /// The larger of the two relative differences.
    pub difference: Option<f64>,
}

/// The time of one variant of one operation on one case.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub op: String,
    pub case: String,
    pub variant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dtype: Option<String>,
    /// Medians of the run in each order; a peer runs only once, as `forward`.
    pub forward_ns: Option<f64>,
    pub reverse_ns: Option<f64>,
    /// The mean of the medians.
    pub median_ns: f64,
    pub samples: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Rate for the bytes that must move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// Rate for the matmuls that must be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tflop_per_s: Option<f64>,
    /// Least time that the ceilings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_ns: Option<f64>,
    /// `median_ns / bound_ns`: 1 is the best possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_bound: Option<f64>,
    /// Memory beside inputs and outputs, if variants differ in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_bytes: Option<u64>,
    /// Times of the other variants relative to this one; for [`OURS`] alone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ratios: BTreeMap<String, f64>,
}

/// A case that a variant cannot run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Skipped {
    pub op: String,
    pub case: String,
    pub variant: String,
    #[serde(rename = "skipped")]
    pub reason: String,
}

impl ResultFile {
    /// Refuses values that must not reach a table.
    pub fn validate(&self) -> Result<()> {
        ensure!(self.format == FORMAT, "format is {}; it should be {FORMAT}", self.format);
        let kind = &self.device.kind;
        ensure!(kind == "cuda" || kind == "host", "device.kind is {kind:?}; it should be cuda or host");
        ensure!(
            is_date(&self.date),
            "date is {:?}; it should be UTC such as 2025-01-31T12:00:00Z",
            self.date
        );
        for figure in &self.figures {
            let Figure { op, case, variant, median_ns, .. } = figure;
            ensure!(
                median_ns.is_finite() && *median_ns > 0.0,
                "median_ns of {op} {case} {variant} is {median_ns}; it should be positive"
            );
        }
        Ok(())
    }

    /// Returns the file's name among the results: `<day>-<device>-<commit>.json`.
    pub fn file_name(&self) -> String {
        let plain =
            |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
        let device: String = self.device.name.chars().map(plain).collect();
        let device: Vec<&str> = device.split('-').filter(|word| !word.is_empty()).collect();
        let commit: String = self.build.commit.as_deref().unwrap_or("unknown").chars().take(10).collect();
        format!("{}-{}-{commit}.json", self.date.split('T').next().unwrap_or_default(), device.join("-"))
    }

    /// Returns this project's own figures, in the order of the file.
    pub fn ours(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| figure.variant == OURS)
    }
}

/// Returns true if `text` looks like `2025-01-31T12:00:00Z`, which sorts by time.
pub fn is_date(text: &str) -> bool {
    let pattern = b"0000-00-00T00:00:00Z";
    let fits =
        |(&byte, &shape): (&u8, &u8)| if shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    text.len() == pattern.len() && text.as_bytes().iter().zip(pattern).all(fits)
}

impl Figure {
    /// Returns the relative time of baseline A.
    pub fn unfused_ratio(&self) -> Option<f64> {
        self.ratios.get(UNFUSED).copied()
    }

    /// Returns the fastest of the other variants that is not baseline A, and its relative time.
    pub fn best_peer(&self) -> Option<(&str, f64)> {
        let is_peer = |variant: &str| variant != UNFUSED && !variant.starts_with(OURS);
        let peers = self.ratios.iter().filter(|(variant, _)| is_peer(variant));
        peers.map(|(variant, &ratio)| (variant.as_str(), ratio)).min_by(|a, b| a.1.total_cmp(&b.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_files_are_refused_by_name() {
        let good = ResultFile {
            format: FORMAT,
            date: "2025-01-31T12:00:00Z".into(),
            device: Device { kind: "host".into(), ..Device::default() },
            figures: vec![Figure { op: "adamw".into(), median_ns: 1.0, ..Figure::default() }],
            ..ResultFile::default()
        };
        good.validate().unwrap();
        let message = |change: fn(&mut ResultFile)| {
            let mut file = good.clone();
            change(&mut file);
            file.validate().unwrap_err().to_string()
        };
        assert_eq!(message(|file| file.format = 2), "format is 2; it should be 1");
        assert!(message(|file| file.device.kind.clear()).contains("device.kind is \"\""));
        assert!(message(|file| file.date = "yesterday".into()).contains("yesterday"));
        assert!(message(|file| file.figures[0].median_ns = 0.0).contains("median_ns of adamw"));
    }

    #[test]
    fn a_file_is_named_by_day_device_and_commit() {
        let build = Build { commit: Some("0123456789abcdef".into()), ..Build::default() };
        let device = Device { name: "NVIDIA H100 80GB (HBM3)".into(), ..Device::default() };
        let file = ResultFile { date: "2025-01-31T12:00:00Z".into(), build, device, ..ResultFile::default() };
        assert_eq!(file.file_name(), "2025-01-31-nvidia-h100-80gb-hbm3-0123456789.json");
    }

    #[test]
    fn the_best_peer_is_the_fastest_and_never_the_baseline_or_ours() {
        let ratios =
            [("unfused", 1.1), ("torch", 3.0), ("torch_compile", 2.0), ("retromae_own_product", 1.2)];
        let ratios = ratios.map(|(variant, ratio)| (variant.to_owned(), ratio)).into();
        let figure = Figure { ratios, ..Figure::default() };
        assert_eq!((figure.unfused_ratio(), figure.best_peer()), (Some(1.1), Some(("torch_compile", 2.0))));
        assert_eq!(Figure::default().best_peer(), None);
    }
}
