//! Passages from a file, a directory, or the crates on this machine.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::prose::{markdown_paragraphs, one_line};
use super::{Error, installed};

/// The text to train on, one passage a string, each a single line.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    pub passages: Vec<String>,
    pub report: CorpusReport,
}

/// What was read, and everything that was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CorpusReport {
    /// Files that were read, whether or not they gave a passage.
    pub files: usize,
    pub passages: usize,
    /// UTF-8 bytes of all passages.
    pub bytes: usize,
    /// Lines of a .txt file, and whole files of other kinds, that are not UTF-8.
    pub skipped_invalid_utf8: usize,
    /// Paragraphs of too few words to be a passage.
    pub skipped_short: usize,
    /// Paragraphs of installed crates that are mostly not letters, or about the licence.
    pub skipped_not_prose: usize,
    /// Passages that repeat an earlier one exactly.
    pub duplicates: usize,
    /// Passages left out to stay below the size limit.
    pub over_limit: usize,
}

impl fmt::Display for CorpusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passages, {} bytes, from {} files", self.passages, self.bytes, self.files)?;
        let skips = [
            (self.skipped_invalid_utf8, "not UTF-8"),
            (self.skipped_short, "too short"),
            (self.skipped_not_prose, "not prose"),
            (self.duplicates, "duplicates"),
            (self.over_limit, "over the size limit"),
        ];
        for (count, reason) in skips {
            if count > 0 {
                write!(f, ", {count} {reason}")?;
            }
        }
        Ok(())
    }
}

impl CorpusReport {
    /// The counts of two parts of a corpus together.
    pub(super) fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.passages += other.passages;
        self.bytes += other.bytes;
        self.skipped_invalid_utf8 += other.skipped_invalid_utf8;
        self.skipped_short += other.skipped_short;
        self.skipped_not_prose += other.skipped_not_prose;
        self.duplicates += other.duplicates;
        self.over_limit += other.over_limit;
    }
}

impl Corpus {
    /// Reads a text file with one passage a line, or every .txt (one passage a line) and .md file (one passage a
    /// paragraph) below a directory, in the order of their paths.
    ///
    /// Blank lines are no passages. Lines that are not UTF-8, markdown files that are not UTF-8, paragraphs of markdown
    /// below four words and exact duplicates are counted in the report. Links to directories are not followed.
    ///
    /// # Errors
    /// [`Error::Read`] names a file or directory that cannot be read; [`Error::NoTextFiles`] and
    /// [`Error::EmptyCorpus`] say that nothing usable was found.
    pub fn from_path(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let metadata =
            std::fs::metadata(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let files = if metadata.is_dir() { text_files(path)? } else { vec![path.to_owned()] };
        if files.is_empty() {
            return Err(Error::NoTextFiles { path: path.to_owned() });
        }
        let parts = files.par_iter().map(|file| read_file(file)).collect::<Result<Vec<_>, _>>()?;
        Self::merged(parts, &path.display().to_string())
    }

    /// Prose that is on every machine that built a crate: README files and doc comments of the sources that cargo
    /// unpacked, at most `max_bytes` of it, shared out evenly among the crates.
    ///
    /// Looks in `$CARGO_HOME/registry/src`, or `~/.cargo/registry/src` where that variable is not set. The order is
    /// that of the crates' names and their files' paths.
    ///
    /// # Errors
    /// [`Error::NoInstalledCrates`] when there are none, [`Error::EmptyCorpus`] when they hold no prose.
    pub fn from_installed_crates(max_bytes: usize) -> Result<Self, Error> {
        let sources = installed::cargo_sources();
        Self::from_crates_in(&sources, max_bytes)
    }

    /// [`Self::from_installed_crates`] for the registries below `sources`.
    ///
    /// # Errors
    /// As there.
    pub fn from_crates_in(sources: &Path, max_bytes: usize) -> Result<Self, Error> {
        let crates = installed::crate_directories(sources);
        if crates.is_empty() {
            return Err(Error::NoInstalledCrates { path: sources.to_owned() });
        }
        let parts: Vec<Corpus> =
            crates.par_iter().map(|directory| installed::crate_prose(directory)).collect();
        let parts = installed::share_out(without_duplicates(parts), max_bytes);
        Self::merged(parts, &sources.display().to_string())
    }

    /// Joins the parts in order, without duplicates.
    fn merged(parts: Vec<Corpus>, origin: &str) -> Result<Self, Error> {
        let mut corpus = Self::default();
        for part in without_duplicates(parts) {
            corpus.report.add(&part.report);
            corpus.passages.extend(part.passages);
        }
        corpus.report.passages = corpus.passages.len();
        corpus.report.bytes = corpus.passages.iter().map(String::len).sum();
        if corpus.passages.is_empty() {
            return Err(Error::EmptyCorpus { origin: origin.to_owned(), report: corpus.report });
        }
        Ok(corpus)
    }
}

/// Drops every passage that an earlier one repeats, and counts it where it stood.
fn without_duplicates(mut parts: Vec<Corpus>) -> Vec<Corpus> {
    let mut seen = HashSet::new();
    let keep: Vec<Vec<bool>> = parts
        .iter()
        .map(|part| part.passages.iter().map(|passage| seen.insert(passage.as_str())).collect())
        .collect();
    drop(seen);
    for (part, keep) in parts.iter_mut().zip(keep) {
        let before = part.passages.len();
        let mut keep = keep.into_iter();
        part.passages.retain(|_| keep.next().unwrap_or(false));
        part.report.duplicates += before - part.passages.len();
    }
    parts
}

/// Every .txt and .md file below `directory`, sorted by path.
fn text_files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let failed = |source| Error::Read { path: directory.clone(), source };
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
            if kind.is_dir() {
                pending.push(path);
            } else if is_markdown(&path) || has_extension(&path, "txt") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|found| found.eq_ignore_ascii_case(extension))
}

fn is_markdown(path: &Path) -> bool {
    has_extension(path, "md") || has_extension(path, "markdown")
}

fn read_file(path: &Path) -> Result<Corpus, Error> {
    let bytes = std::fs::read(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
    Ok(if is_markdown(path) { markdown_file(&bytes) } else { text_file(&bytes) })
}

/// One passage a line.
fn text_file(bytes: &[u8]) -> Corpus {
    let mut corpus = Corpus::default();
    corpus.report.files = 1;
    for line in bytes.split(|&byte| byte == b'\n') {
        match std::str::from_utf8(line) {
            Ok(line) => corpus.passages.extend(Some(one_line(line)).filter(|line| !line.is_empty())),
            Err(_) => corpus.report.skipped_invalid_utf8 += 1,
        }
    }
    corpus
}

/// One passage a paragraph.
fn markdown_file(bytes: &[u8]) -> Corpus {
    /// Below this a paragraph is a label or a menu entry. Text without spaces counts by its characters.
    const FEWEST_WORDS: usize = 4;
    const FEWEST_CHARACTERS: usize = 32;
    let mut corpus = Corpus::default();
    corpus.report.files = 1;
    let Ok(text) = std::str::from_utf8(bytes) else {
        corpus.report.skipped_invalid_utf8 = 1;
        return corpus;
    };
    for paragraph in markdown_paragraphs(text) {
        if paragraph.split(' ').count() < FEWEST_WORDS && paragraph.chars().count() < FEWEST_CHARACTERS {
            corpus.report.skipped_short += 1;
        } else {
            corpus.passages.push(paragraph);
        }
    }
    corpus
}
