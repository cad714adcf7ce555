//! Passages from a file, a directory, or the crates on this machine.

use std::collections::HashSet;
use std::fmt;
use std::path::Path;

use rayon::prelude::*;

use super::{Document, Documents, Error, ReadOptions, installed};

/// The text to train on, one passage a string, each a single line.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    pub passages: Vec<String>,
    pub report: CorpusReport,
}

/// What was read, and everything that was left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct CorpusReport {
    /// Files that were read, whether or not they gave a passage.
    pub files: usize,
    /// Texts that were found.
    pub texts: usize,
    /// UTF-8 bytes of all texts.
    pub bytes: usize,
    /// Stretches of bytes that are no UTF-8, each of which became a replacement character.
    pub replaced_invalid_utf8: usize,
    /// Zero bytes, which became white space.
    pub nul_bytes: usize,
    /// Lines of JSON lines that are no object with a text in the field.
    pub bad_lines: usize,
    /// Where the first of them is, and what is wrong with it.
    pub first_bad_line: Option<String>,
    /// Documents without a word: blank lines, and empty texts of JSON lines.
    pub empty: usize,
    /// Paragraphs of too few words to be a passage.
    pub skipped_short: usize,
    /// Paragraphs of installed crates that are mostly not letters, or about the license.
    pub skipped_not_prose: usize,
    /// Passages that repeat an earlier one exactly.
    pub duplicates: usize,
    /// Passages left out to stay below the size limit.
    pub over_limit: usize,
    /// Files of directories that are no text, or text of a kind that is not read.
    pub files_left_out: usize,
    /// The first of them, and what they are.
    pub first_left_out: Vec<String>,
}

/// Files left out that a report names.
const LEFT_OUT_TOLD_MAX: usize = 3;

impl fmt::Display for CorpusReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} texts, {} bytes, from {} files", self.texts, self.bytes, self.files)?;
        let skips = [
            (self.replaced_invalid_utf8, "stretches not UTF-8"),
            (self.nul_bytes, "zero bytes"),
            (self.bad_lines, "lines without the text"),
            (self.empty, "empty"),
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
        if let Some(line) = &self.first_bad_line {
            write!(f, " (the first: {line})")?;
        }
        if self.files_left_out > 0 {
            let more = if self.files_left_out > self.first_left_out.len() { "; …" } else { "" };
            write!(f, "; {} files left out ({}{more})", self.files_left_out, self.first_left_out.join("; "))?;
        }
        Ok(())
    }
}

impl CorpusReport {
    /// The counts of two parts of a corpus together.
    pub fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.texts += other.texts;
        self.bytes += other.bytes;
        self.replaced_invalid_utf8 += other.replaced_invalid_utf8;
        self.nul_bytes += other.nul_bytes;
        self.bad_lines += other.bad_lines;
        if self.first_bad_line.is_none() {
            self.first_bad_line.clone_from(&other.first_bad_line);
        }
        self.empty += other.empty;
        self.skipped_short += other.skipped_short;
        self.skipped_not_prose += other.skipped_not_prose;
        self.duplicates += other.duplicates;
        self.over_limit += other.over_limit;
        self.files_left_out += other.files_left_out;
        let room = LEFT_OUT_TOLD_MAX.saturating_sub(self.first_left_out.len());
        self.first_left_out.extend(other.first_left_out.iter().take(room).cloned());
    }

    /// Counts a text that was found.
    pub(super) fn count(&mut self, text: &str) {
        self.texts += 1;
        self.bytes += text.len();
    }

    /// Counts a file that is not read, and names it and `what` it is if it is among the first.
    pub(super) fn leave_out(&mut self, path: &Path, what: impl FnOnce() -> String) {
        self.files_left_out += 1;
        if self.first_left_out.len() < LEFT_OUT_TOLD_MAX {
            self.first_left_out.push(format!("{}: {}", path.display(), what()));
        }
    }
}

impl Corpus {
    /// Reads the documents of a file or of a directory, as [`Documents::open`] finds them.
    ///
    /// Exact duplicates are left out and counted, as is whatever else [`CorpusReport`] has a number for.
    ///
    /// # Errors
    /// Those of [`Documents`]; [`Error::EmptyCorpus`] says that nothing usable was found.
    pub fn from_path(path: impl AsRef<Path>, options: &ReadOptions) -> Result<Self, Error> {
        let path = path.as_ref();
        let mut documents = Documents::open(&[path.to_owned()], options.clone())?;
        let mut corpus = Self::default();
        for document in documents.by_ref() {
            let Document { text, report, .. } = document?;
            corpus.report.add(&report);
            corpus.passages.push(text);
        }
        corpus.report.add(documents.rest());
        Self::merged(without_duplicates(vec![corpus]), &path.display().to_string())
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

    /// Joins the parts, which have no duplicates, in order.
    fn merged(parts: Vec<Corpus>, origin: &str) -> Result<Self, Error> {
        let mut corpus = Self::default();
        for part in parts {
            corpus.report.add(&part.report);
            corpus.passages.extend(part.passages);
        }
        corpus.report.texts = corpus.passages.len();
        corpus.report.bytes = corpus.passages.iter().map(String::len).sum();
        if corpus.passages.is_empty() {
            return Err(Error::EmptyCorpus { origin: origin.to_owned(), report: Box::new(corpus.report) });
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
