//! Prose of the crates that cargo has unpacked on this machine.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::corpus::without_duplicates;
use super::documents::text_of;
use super::prose::{doc_comment_blocks, markdown_paragraphs};
use super::{Corpus, CorpusReport, Error};

/// A paragraph of fewer words is a signature or a label.
const FEWEST_WORDS: usize = 8;
/// Paragraphs of one comment are joined up to this many bytes: about 130 tokens, the paper's passage length.
const PASSAGE_BYTES: usize = 600;
/// Larger sources are generated bindings, whose comments repeat.
const LARGEST_SOURCE_BYTES: u64 = 1 << 20;
/// Maximum number of source bytes read from one crate, to bound the time that it takes.
const MOST_SOURCE_BYTES_PER_CRATE: u64 = 8 << 20;

impl Corpus {
    /// Collects prose that is on every machine that has built a crate: README files and doc comments of the sources that cargo unpacked, at most
    /// `max_bytes` of it, shared evenly among the crates.
    ///
    /// Reads `$CARGO_HOME/registry/src`, or `~/.cargo/registry/src` if that variable is not set. Passages are ordered by the crates' names and
    /// their files' paths.
    ///
    /// # Errors
    /// [`Error::NoInstalledCrates`] when there are none, [`Error::EmptyCorpus`] when they hold no prose.
    pub fn from_installed_crates(max_bytes: usize) -> Result<Self, Error> {
        let sources = cargo_sources();
        Self::from_crates_in(&sources, max_bytes)
    }

    /// As [`Self::from_installed_crates`], for the registries below `sources`.
    ///
    /// # Errors
    /// Those of [`Self::from_installed_crates`].
    pub fn from_crates_in(sources: &Path, max_bytes: usize) -> Result<Self, Error> {
        let crates = crate_directories(sources);
        if crates.is_empty() {
            return Err(Error::NoInstalledCrates { path: sources.to_owned() });
        }
        let parts: Vec<Corpus> = crates.par_iter().map(|directory| crate_prose(directory)).collect();
        let parts = share_out(without_duplicates(parts), max_bytes);
        Self::merged(parts, &sources.display().to_string())
    }
}

/// Returns `$CARGO_HOME/registry/src`, by default in the home directory.
fn cargo_sources() -> PathBuf {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = || set("HOME").or_else(|| set("USERPROFILE")).unwrap_or_default();
    set("CARGO_HOME").unwrap_or_else(|| home().join(".cargo")).join("registry").join("src")
}

/// Returns the crates of all registries below `sources`, sorted by name and version.
fn crate_directories(sources: &Path) -> Vec<PathBuf> {
    let mut crates: Vec<PathBuf> = children(sources)
        .into_iter()
        .flat_map(|registry| children(&registry))
        .filter(|path| path.join("Cargo.toml").is_file())
        .collect();
    crates.sort_by(|a, b| (a.file_name(), a).cmp(&(b.file_name(), b)));
    crates
}

/// Returns the entries of a directory, sorted; none if it cannot be read.
fn children(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Returns the passages of one crate: its README first, then its sources in path order. Unreadable files are skipped, because the user did not
/// ask for them by name.
fn crate_prose(directory: &Path) -> Corpus {
    let mut corpus = Corpus::default();
    let readmes = children(directory).into_iter().filter(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        name.starts_with("readme") && (name.ends_with(".md") || name.ends_with("readme"))
    });
    for path in readmes {
        if let Some(text) = read(&path, &mut corpus.report) {
            add_block(&mut corpus, &text);
        }
    }
    let mut left = MOST_SOURCE_BYTES_PER_CRATE;
    for (path, size) in rust_sources(&directory.join("src")) {
        let Some(rest) = left.checked_sub(size) else { break };
        left = rest;
        if let Some(source) = read(&path, &mut corpus.report) {
            for block in doc_comment_blocks(&source) {
                add_block(&mut corpus, &block);
            }
        }
    }
    corpus
}

/// Returns the Rust files below `directory` that are small enough to be hand-written, sorted by path.
fn rust_sources(directory: &Path) -> Vec<(PathBuf, u64)> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(kind) = entry.file_type() else { continue };
            let path = entry.path();
            if kind.is_dir() {
                pending.push(path);
            } else if kind.is_file() && path.extension().is_some_and(|extension| extension == "rs") {
                let size = entry.metadata().map_or(u64::MAX, |metadata| metadata.len());
                if size <= LARGEST_SOURCE_BYTES {
                    found.push((path, size));
                }
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path, report: &mut CorpusReport) -> Option<String> {
    let bytes = std::fs::read(path).ok()?;
    report.files += 1;
    Some(text_of(&bytes, report).into_owned())
}

/// Adds the prose of one README or doc comment, with neighboring paragraphs joined into passages.
fn add_block(corpus: &mut Corpus, markdown: &str) {
    let mut passage = String::new();
    for paragraph in markdown_paragraphs(markdown) {
        if !is_prose(&paragraph) {
            corpus.report.skipped_not_prose += 1;
            continue;
        }
        if !passage.is_empty() && passage.len() + paragraph.len() >= PASSAGE_BYTES {
            add_passage(corpus, std::mem::take(&mut passage));
        }
        if !passage.is_empty() {
            passage.push(' ');
        }
        passage.push_str(&paragraph);
    }
    if !passage.is_empty() {
        add_passage(corpus, passage);
    }
}

fn add_passage(corpus: &mut Corpus, passage: String) {
    if passage.split(' ').count() < FEWEST_WORDS {
        corpus.report.skipped_short += 1;
    } else {
        corpus.passages.push(passage);
    }
}

/// Returns whether at least three quarters of the characters are ASCII letters or spaces, and the paragraph is not about the license: license
/// paragraphs are in every README, with other words around them.
fn is_prose(paragraph: &str) -> bool {
    const LICENSE: [&str; 3] = ["Apache License", "Apache-2.0", "MIT license"];
    if LICENSE.iter().any(|phrase| paragraph.contains(phrase)) {
        return false;
    }
    let plain = paragraph.bytes().filter(|byte| byte.is_ascii_alphabetic() || *byte == b' ').count();
    4 * plain >= 3 * paragraph.len()
}

/// Cuts the largest crates until all fit in `max_bytes`: every crate keeps its first bytes up to the same limit.
fn share_out(mut crates: Vec<Corpus>, max_bytes: usize) -> Vec<Corpus> {
    let mut sizes: Vec<usize> =
        crates.iter().map(|part| part.passages.iter().map(String::len).sum()).collect();
    sizes.sort_unstable();
    let limit = even_limit(&sizes, max_bytes);
    for part in &mut crates {
        let mut used = 0;
        let kept = part.passages.iter().take_while(|passage| {
            used += passage.len();
            used <= limit
        });
        let kept = kept.count();
        part.report.over_limit += part.passages.len() - kept;
        part.passages.truncate(kept);
    }
    crates
}

/// Returns the largest limit with `sum(min(size, limit)) <= total`, for sizes in ascending order.
fn even_limit(sizes: &[usize], total: usize) -> usize {
    let mut left = total;
    for (index, &size) in sizes.iter().enumerate() {
        let share = left / (sizes.len() - index);
        if size > share {
            return share;
        }
        left -= size;
    }
    usize::MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_shared_evenly() {
        assert_eq!(even_limit(&[1, 2, 10, 20], 100), usize::MAX);
        assert_eq!(even_limit(&[1, 2, 10, 20], 23), 10);
        assert_eq!(even_limit(&[1, 2, 10, 20], 13), 5);
        assert_eq!(even_limit(&[5, 5], 0), 0);
        assert_eq!(even_limit(&[], 0), usize::MAX);
    }

    #[test]
    fn prose_is_mostly_letters() {
        assert!(is_prose("Returns the number of elements in the map."));
        assert!(!is_prose("0x1234 0x5678 -> {a: 1, b: 2}"));
        assert!(!is_prose("Licensed under either of Apache License or MIT license at your option."));
        assert!(!is_prose("这是一个句子"));
    }
}
