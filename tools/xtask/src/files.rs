//! Atomic file writes, and JSON-lines files whose end a killed run may have cut.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// Temporary name of a file until it is complete.
fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.tmp"))
}

/// Writes a file atomically: it is complete or absent.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    fs::write(&temporary, bytes)
        .and_then(|()| fs::rename(&temporary, path))
        .inspect_err(|_| drop(fs::remove_file(&temporary)))
        .with_context(|| format!("cannot write `{}`", path.display()))
}

pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    serde_json::from_str(&read_text(path)?).with_context(|| format!("`{}`", path.display()))
}

/// Reads the records of a file of one JSON object a line. An invalid line, such as the last one of a killed run, is left out and named in `warnings`.
pub fn read_json_lines<T: DeserializeOwned>(path: &Path, warnings: &mut Vec<String>) -> Result<Vec<T>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    let mut records = Vec::new();
    for (index, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(record) => records.push(record),
            Err(error) => {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                warnings.push(format!("{name}, line {}, was left out: {error}", index + 1));
            }
        }
    }
    Ok(records)
}

/// Returns the entries of a folder, sorted; none if the folder does not exist.
pub fn children(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_line_is_left_out_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("figures.jsonl");
        write_whole(&path, b"{\"a\": 1}\n\n{\"a\": 2}\n{\"a\": \xff").unwrap();
        let mut warnings = Vec::new();
        let records: Vec<serde_json::Value> = read_json_lines(&path, &mut warnings).unwrap();
        assert_eq!(records.len(), 2);
        assert!(warnings.len() == 1 && warnings[0].starts_with("figures.jsonl, line 4,"), "{warnings:?}");
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("taken")).unwrap();
        let message = write_whole(&folder.path().join("taken"), b"x").unwrap_err().to_string();
        assert!(message.contains("taken"), "{message}");
        assert_eq!(children(folder.path()).len(), 1);
        assert!(read_text(&folder.path().join("absent")).unwrap_err().to_string().contains("absent"));
    }
}
