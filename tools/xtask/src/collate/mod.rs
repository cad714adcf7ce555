//! Collates the files that a verification has left in its folder so far into one result file.

mod criterion;
mod figures;
mod machine;

use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

pub use machine::Info;

use crate::files::{read_json, read_json_lines};
use crate::result::{Build, FORMAT, ResultFile, Stage};

/// `run.json`: the run's arguments, and the machine as the run saw it.
#[derive(Clone, Debug, Default, Deserialize)]
struct Run {
    device: String,
    started: String,
    host_cpu: Option<String>,
    host_threads: Option<u32>,
}

/// Missing files, and warnings about data that had to be left out.
#[derive(Debug, Default)]
struct Gaps {
    missing: Vec<String>,
    warnings: Vec<String>,
}

impl Gaps {
    /// Reads a JSON file of `folder`, or adds its name to `missing`.
    fn json<T: serde::de::DeserializeOwned>(&mut self, folder: &Path, name: &str) -> Option<T> {
        let path = folder.join(name);
        if !path.is_file() {
            self.missing.push(name.into());
            return None;
        }
        read_json(&path).map_err(|error| self.warnings.push(format!("{name} was left out: {error:#}"))).ok()
    }

    /// Reads the records of a JSON-lines file of `folder`, or adds its name to `missing`.
    fn json_lines<T: serde::de::DeserializeOwned>(&mut self, folder: &Path, name: &str) -> Vec<T> {
        let path = folder.join(name);
        if !path.is_file() {
            self.missing.push(name.into());
            return Vec::new();
        }
        read_json_lines(&path, &mut self.warnings).unwrap_or_else(|error| {
            self.warnings.push(format!("{name} was left out: {error:#}"));
            Vec::new()
        })
    }
}

/// Returns the result of a run, finished or not. Files that do not exist yet are named in `missing`.
pub fn collate(dir: &Path) -> Result<ResultFile> {
    let run: Run = read_json(&dir.join("run.json")).context("without run.json there was no run")?;
    let mut gaps = Gaps::default();
    let stages: Vec<Stage> = gaps.json_lines(dir, "stages.jsonl");
    let build: Build = gaps.json(dir, "build.json").unwrap_or_default();
    let device = machine::device(dir, &run, &mut gaps);
    let software = gaps.json(dir, "device/software.json").unwrap_or_default();
    let measured = figures::collect(dir, &mut gaps);
    let training = gaps.json(dir, "training.json");
    let result = ResultFile {
        format: FORMAT,
        date: run.started,
        build,
        device,
        software,
        ceilings: measured.ceilings,
        stages,
        training,
        figures: measured.figures,
        skipped: measured.skipped,
        missing: gaps.missing,
        warnings: gaps.warnings,
    };
    result.validate().with_context(|| format!("`{}`", dir.display()))?;
    Ok(result)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::result::Status;

    fn write(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    const RUN: &str =
        r#"{"device":"cuda","started":"2025-01-31T12:00:00Z","host_cpu":"Sample CPU","host_threads":8}"#;

    #[test]
    fn a_killed_run_gives_what_it_has_and_names_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        write(dir, "run.json", RUN);
        let stages = "{\"name\":\"instructions\",\"status\":\"failed\",\"seconds\":1.5,\"tests\":{\"passed\":0,\"failed\":0,\"ignored\":0},\"note\":\"0 tests\"}\n{\"name\":\"tes";
        write(dir, "stages.jsonl", stages);
        let result = collate(dir).unwrap();
        assert_eq!(result.stages.len(), 1);
        assert_eq!((result.stages[0].status, result.stages[0].note.as_str()), (Status::Failed, "0 tests"));
        assert!(result.figures.is_empty() && result.training.is_none());
        for missing in
            ["build.json", "device/info.json", "training.json", "bounds.jsonl", "peers/figures.jsonl"]
        {
            assert!(result.missing.iter().any(|name| name == missing), "{missing}: {:?}", result.missing);
        }
        assert!(result.warnings[0].starts_with("stages.jsonl, line 2,"), "{:?}", result.warnings);
        let summary = crate::summary::markdown(&result);
        assert!(summary.contains("0 tests") && summary.contains("training.json"), "{summary}");
    }

    #[test]
    fn a_folder_of_no_run_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let message = |dir: &Path| format!("{:#}", collate(dir).unwrap_err());
        assert!(message(dir.path()).contains("without run.json there was no run"));
        write(dir.path(), "run.json", &RUN.replace("cuda", "abacus"));
        assert!(message(dir.path()).contains("device.kind is \"abacus\""));
    }
}
