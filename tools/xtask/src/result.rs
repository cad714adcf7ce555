//! The result file: what one run of `verify.sh` found on one machine. `benches/results/README.md` describes it for readers.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

/// Of the files that this program writes and reads.
pub const FORMAT: u32 = 1;
/// What this project's own kernels are called among the variants.
pub const OURS: &str = "retromae";
/// The same operations composed of a library's matrix products and plain kernels: baseline A.
pub const UNFUSED: &str = "unfused";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ResultFile {
    pub format: u32,
    /// When the run began, in UTC, such as `2025-01-31T12:00:00Z`.
    pub date: String,
    pub build: Build,
    pub device: Device,
    /// Versions of what the peers ran on, such as `torch`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub software: BTreeMap<String, String>,
    #[serde(default)]
    pub ceilings: Ceilings,
    pub stages: Vec<Stage>,
    pub training: Option<Comparison>,
    pub figures: Vec<Figure>,
    #[serde(default)]
    pub skipped: Vec<Skipped>,
    /// Parts that the run should have left and did not.
    #[serde(default)]
    pub missing: Vec<String>,
    /// What was left out because it could not be read, or does not fit together.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Where the programs of a bundle come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Build {
    pub version: String,
    /// None where there was no git.
    pub commit: Option<String>,
    /// Whether the tree had changes that are not in the commit.
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
    /// Before the first stage and after the last.
    pub clocks_before: Option<Clocks>,
    pub clocks_after: Option<Clocks>,
    pub host_cpu: Option<String>,
    pub host_threads: Option<u32>,
    /// One product of the library that multiplies matrices on this device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub product: Option<Product>,
}

/// What multiplies matrices, and how well it did so once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Product {
    pub library: Option<String>,
    pub relative_error: Option<f64>,
    /// Why there was no product.
    pub error: Option<String>,
}

/// What nvidia-smi reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Clocks {
    pub sm_mhz: Option<f64>,
    pub memory_mhz: Option<f64>,
    pub temperature_c: Option<f64>,
    pub power_w: Option<f64>,
}

/// What this device reaches at best, measured in the same run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes read and written by a large copy.
    pub copy_bytes_per_s: Option<f64>,
    /// Of a large square matrix product by the library.
    pub matmul_flop_per_s: Option<f64>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Passed,
    Failed,
    /// A limit of time was reached; what was done until then counts.
    Cut,
    /// Left out on purpose; the note says why.
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
    /// Tests, where the stage ran any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tests: Option<TestCounts>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
    /// What failed or did not end, each by its name: tests, and cases of benches.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestCounts {
    pub passed: u32,
    pub failed: u32,
    /// Tests, or parts of them, that said they do not apply to this machine.
    pub ignored: u32,
    /// Tests that did not end in their time, or for which there was none.
    #[serde(default)]
    pub unfinished: u32,
}

/// Two training runs of the same seeds side by side.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// What was compared, such as `host` and `cuda`.
    pub a: String,
    pub b: String,
    /// The relative difference that no loss may exceed.
    pub bound: f64,
    /// None where a loss was no number.
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
    /// Medians of the run in each order; a peer is run once, as `forward`.
    pub forward_ns: Option<f64>,
    pub reverse_ns: Option<f64>,
    /// The mean of the medians.
    pub median_ns: f64,
    pub samples: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Of the bytes that must move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gb_per_s: Option<f64>,
    /// Of the matrix products that must be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tflop_per_s: Option<f64>,
    /// The least time that the ceilings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound_ns: Option<f64>,
    /// `median_ns / bound_ns`: 1 is the best possible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times_bound: Option<f64>,
    /// What is held beside inputs and outputs, where variants differ in that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra_bytes: Option<u64>,
    /// Of [`OURS`] alone: how many times as long each other variant took.
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
    /// Refuses what a table must not be made of.
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

    /// What the file is called among the results: `<day>-<device>-<commit>.json`.
    pub fn file_name(&self) -> String {
        let plain =
            |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
        let device: String = self.device.name.chars().map(plain).collect();
        let device: Vec<&str> = device.split('-').filter(|word| !word.is_empty()).collect();
        let commit: String = self.build.commit.as_deref().unwrap_or("unknown").chars().take(10).collect();
        format!("{}-{}-{commit}.json", self.date.split('T').next().unwrap_or_default(), device.join("-"))
    }

    /// This project's own figures, in the order of the file.
    pub fn ours(&self) -> impl Iterator<Item = &Figure> {
        self.figures.iter().filter(|figure| figure.variant == OURS)
    }
}

/// Whether a text is such as `2025-01-31T12:00:00Z`, which sorts by time.
pub fn is_date(text: &str) -> bool {
    let pattern = b"0000-00-00T00:00:00Z";
    let fits =
        |(&byte, &shape): (&u8, &u8)| if shape == b'0' { byte.is_ascii_digit() } else { byte == shape };
    text.len() == pattern.len() && text.as_bytes().iter().zip(pattern).all(fits)
}

impl Figure {
    /// How many times as long baseline A took.
    pub fn unfused_ratio(&self) -> Option<f64> {
        self.ratios.get(UNFUSED).copied()
    }

    /// The fastest of the other variants that is not baseline A, and how many times as long it took.
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
