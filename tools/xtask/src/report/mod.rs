//! `xtask report`: the README's section on speed and its plot, from the newest result of a GPU.

mod chart;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::estimate;
use crate::files::{children, read_json, read_text, write_whole};
use crate::result::{Figure, ResultFile};
use crate::summary;

const RESULTS: &str = "benches/results";
const README: &str = "README.md";
const PICTURE: &str = "docs/benchmarks.svg";
const BEGIN: &str = "<!-- report:begin (written by `cargo xtask report`) -->";
const END: &str = "<!-- report:end -->";
const NO_RESULT: &str = "No GPU has been measured yet: `cargo xtask bundle` makes a folder whose `./verify.sh`, run on a machine \
                         with a GPU, checks and measures everything, and [benches/results](benches/results/README.md) says how its \
                         figures get here.\n";
/// One or two cases an operation, shown in the plot and the open table. A result that has none of them shows all.
const HEADLINES: [&str; 14] = [
    "base_L128",
    "base_L512",
    "L128_d64",
    "L512_d64",
    "L4096_d64",
    "mixed_d64",
    "M4096",
    "M32768",
    "M65536",
    "R32768_C768",
    "T32768_H768",
    "base",
    "B256_L128",
    "B64_L512",
];

/// Estimated seconds by operation and case.
type Estimates = BTreeMap<(String, String), f64>;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Change nothing; fail where README or plot are not those of the newest result
    #[arg(long)]
    check: bool,
    /// The repository [default: the one that cargo runs this from, else the working directory]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
}

/// Section of the README and plot, made from the newest result.
struct Report {
    section: String,
    /// None if there is no result to plot.
    plot: Option<String>,
}

impl Arguments {
    pub fn run(&self) -> Result<()> {
        let root = self.root.clone().unwrap_or_else(repository);
        let report = match newest(&root.join(RESULTS))? {
            Some((path, result)) => {
                // Without estimates the table shows measurements alone.
                let estimates = read_text(&root.join(estimate::FILE)).unwrap_or_default();
                Report::new(&path, &result, &estimate::known(&estimates))?
            }
            None => Report { section: NO_RESULT.into(), plot: None },
        };
        let readme_path = root.join(README);
        let readme = read_text(&readme_path)?;
        let new_readme = with_section(&readme, &report.section)?;
        let plot_path = root.join(PICTURE);
        if self.check {
            let cure = "run `cargo xtask report` and commit what it writes";
            ensure!(readme == new_readme, "{README} does not say what the newest result says: {cure}");
            if let Some(plot) = &report.plot {
                let same = fs::read_to_string(&plot_path).is_ok_and(|committed| committed == *plot);
                ensure!(same, "{PICTURE} does not show the newest result: {cure}");
            }
            return Ok(());
        }
        if let Some(plot) = &report.plot {
            write_whole(&plot_path, plot.as_bytes())?;
        }
        if readme != new_readme {
            write_whole(&readme_path, new_readme.as_bytes())?;
        }
        Ok(())
    }
}

/// Returns the workspace's folder, as `cargo run` tells a program.
pub fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    package
        .and_then(|package| package.ancestors().nth(2).map(Path::to_path_buf))
        .unwrap_or_else(|| ".".into())
}

/// Returns the latest result of a real GPU; an invalid file is an error, as it was committed to be read.
fn newest(results: &Path) -> Result<Option<(PathBuf, ResultFile)>> {
    let mut newest: Option<(PathBuf, ResultFile)> = None;
    let is_json = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "json");
    for path in children(results).into_iter().filter(is_json) {
        let result: ResultFile = read_json(&path)?;
        result.validate().with_context(|| format!("`{}`", path.display()))?;
        let is_gpu = result.device.kind == "cuda" && !result.device.name.to_lowercase().contains("simulated");
        if is_gpu && newest.as_ref().is_none_or(|(_, newest)| newest.date <= result.date) {
            newest = Some((path, result));
        }
    }
    Ok(newest)
}

/// Returns `readme` with `section` between the two markers.
fn with_section(readme: &str, section: &str) -> Result<String> {
    let parts = readme.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let Some((before, after)) = parts else {
        bail!("{README} has no `{BEGIN}` with a `{END}` after it; it should have both");
    };
    Ok(format!("{before}{BEGIN}\n{section}{END}{after}"))
}

impl Report {
    fn new(path: &Path, result: &ResultFile, estimates: &Estimates) -> Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let compared: Vec<&Figure> = result
            .ours()
            .filter(|figure| figure.times_bound.is_some() || !figure.ratios.is_empty())
            .collect();
        let mut headlines = compared.clone();
        headlines.retain(|figure| HEADLINES.contains(&figure.case.as_str()));
        if headlines.is_empty() {
            headlines.clone_from(&compared);
        }
        let mut section = format!("{}\n\n", provenance(result, &name));
        if compared.is_empty() {
            section.push_str("It measured no operation.\n");
            return Ok(Self { section, plot: None });
        }
        section.push_str("![How many times as long others take](docs/benchmarks.svg)\n\n");
        section.push_str(&rows(&headlines, estimates));
        section.push_str(
            "\n*Unfused* is the same operation composed of cuBLASLt GEMMs and plain kernels; *best PyTorch* the fastest of its \
             variants. × is how many times as long they take, so above 1 these kernels are faster. *Of bound* sets our time \
             beside the least that the copy and the matmul measured in the same run allow: 1 is the best possible. *Estimate* is what \
             [the code counts to](docs/estimate.md) on an H100.\n",
        );
        if headlines.len() < compared.len() {
            section.push_str("\n<details><summary>All cases</summary>\n\n");
            section.push_str(&rows(&compared, estimates));
            section.push_str("\n</details>\n");
        }
        let subtitle = format!("{}, {}, commit {}", machine(result), day(result), summary::commit(result));
        Ok(Self { section, plot: Some(chart::draw(&subtitle, &headlines)?) })
    }
}

fn day(result: &ResultFile) -> &str {
    result.date.split('T').next().unwrap_or_default()
}

fn machine(result: &ResultFile) -> String {
    let driver = result.device.driver.as_deref().unwrap_or("unknown");
    format!("{}, driver {driver}", summary::device_name(&result.device))
}

fn provenance(result: &ResultFile, name: &str) -> String {
    format!(
        "Measured on {}, on {}, at commit {}. {} Everything is in [{RESULTS}/{name}]({RESULTS}/{name}).",
        machine(result),
        day(result),
        summary::commit(result),
        summary::verdict(result).replace("**", "")
    )
}

fn rows(figures: &[&Figure], estimates: &Estimates) -> String {
    let header =
        ["operation", "case", "best PyTorch", "ours", "estimate", "unfused ×", "best PyTorch ×", "of bound"];
    let row = |figure: &&Figure| {
        let best = figure.best_peer();
        let estimate = estimates.get(&(figure.op.clone(), figure.case.clone()));
        [
            figure.op.replace('_', " "),
            format!("`{}`", figure.case),
            best.map_or("–".into(), |(variant, _)| format!("`{variant}`")),
            summary::time(figure.median_ns),
            estimate.map_or("–".into(), |seconds| summary::time(1e9 * seconds)),
            summary::times(figure.unfused_ratio()),
            summary::times(best.map(|(_, ratio)| ratio)),
            summary::times(figure.times_bound),
        ]
    };
    summary::table(&header, 3, figures.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a result of invented figures, for these tests alone.
    fn sample() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/2025-01-31-sample-device-0123456789.json")
    }

    struct Repository(tempfile::TempDir);

    impl Repository {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join(RESULTS)).unwrap();
            fs::create_dir(folder.path().join("docs")).unwrap();
            let readme = format!("# Title\n\nbefore\n{BEGIN}\nstale words\n{END}\nafter\n");
            fs::write(folder.path().join(README), readme).unwrap();
            Self(folder)
        }

        fn add(&self, name: &str, change: fn(&mut ResultFile)) {
            let mut result: ResultFile = read_json(&sample()).unwrap();
            change(&mut result);
            let path = self.0.path().join(RESULTS).join(name);
            fs::write(path, serde_json::to_vec(&result).unwrap()).unwrap();
        }

        fn report(&self, check: bool) -> Result<String> {
            Arguments { check, root: Some(self.0.path().into()) }.run()?;
            read_text(&self.0.path().join(README))
        }
    }

    #[test]
    fn without_a_result_the_section_says_so() {
        let repository = Repository::new();
        repository.add("host.json", |result| result.device.kind = "host".into());
        repository.add("simulated.json", |result| result.device.name = "Simulated device".into());
        assert!(repository.report(true).unwrap_err().to_string().contains("cargo xtask report"));
        let readme = repository.report(false).unwrap();
        assert!(readme.starts_with("# Title\n\nbefore\n") && readme.ends_with("\nafter\n"), "{readme}");
        assert!(readme.contains("`cargo xtask bundle`") && !readme.contains("stale words"), "{readme}");
        assert!(!repository.0.path().join(PICTURE).exists());
        repository.report(true).unwrap();
    }

    #[test]
    fn the_newest_result_makes_table_and_plot() {
        let repository = Repository::new();
        repository.add("b-older.json", |result| result.date = "2024-12-31T00:00:00Z".into());
        repository.add("a-newer.json", |_| ());
        let estimate =
            "| operation | case | estimate |\n|---|---|---:|\n| attention_forward | L128_d64 | 67.1 µs |\n";
        fs::write(repository.0.path().join(estimate::FILE), estimate).unwrap();
        let readme = repository.report(false).unwrap();
        assert!(readme.contains("benches/results/a-newer.json"), "{readme}");
        assert!(readme.contains("Sample device") && readme.contains("2025-01-31"), "{readme}");
        let row =
            "| attention forward | `L128_d64` | `sdpa_flash` | 75.0 µs | 67.1 µs | 6.00× | 1.40× | 1.25× |";
        assert!(readme.contains(row), "{readme}");
        assert!(readme.contains("<details>") && readme.contains("`L256_d64`"), "{readme}");
        let plot = read_text(&repository.0.path().join(PICTURE)).unwrap();
        assert!(plot.contains("attention forward") && plot.contains("Sample device"));
        assert!(!plot.contains("L256_d64"), "the plot shows headlines alone");
        repository.report(true).unwrap();

        fs::write(repository.0.path().join(PICTURE), plot.replace("Sample", "Other")).unwrap();
        assert!(repository.report(true).unwrap_err().to_string().contains(PICTURE));
        repository.report(false).unwrap();
        repository.add("c-newest.json", |result| result.date = "2025-02-01T00:00:00Z".into());
        assert!(repository.report(true).unwrap_err().to_string().contains(README));
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let repository = Repository::new();
        fs::write(repository.0.path().join(RESULTS).join("cut.json"), "{\"format\": 1, \"da").unwrap();
        let message = format!("{:#}", repository.report(false).unwrap_err());
        assert!(message.contains("cut.json"), "{message}");
        let repository = Repository::new();
        repository.add("old.json", |result| result.format = 0);
        let message = format!("{:#}", repository.report(false).unwrap_err());
        assert!(message.contains("old.json") && message.contains("format is 0"), "{message}");
        let repository = Repository::new();
        fs::write(repository.0.path().join(README), "no markers").unwrap();
        assert!(repository.report(false).unwrap_err().to_string().contains("report:begin"));
    }
}
