//! Passages in memory, from a file or a directory.

use std::collections::HashSet;
use std::path::Path;

use super::{CorpusReport, Document, Documents, Error, ReadOptions};

/// Text to train on: one passage a string, each on a single line.
#[derive(Clone, Debug, Default)]
pub struct Corpus {
    /// Passages in the order of the files, none of them twice.
    pub passages: Vec<String>,
    /// Counts of what was read and of what was left out.
    pub report: CorpusReport,
}

impl Corpus {
    /// Reads the documents of a file or of a directory, as [`Documents::open`] finds them.
    ///
    /// Exact duplicates are left out and counted, as is everything else that [`CorpusReport`] counts.
    ///
    /// # Errors
    /// Those of [`Documents`]; [`Error::EmptyCorpus`] when nothing usable was found.
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

    /// Joins the parts, which hold no duplicates, in order.
    pub(super) fn merged(parts: Vec<Corpus>, origin: &str) -> Result<Self, Error> {
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

/// Drops every passage that repeats an earlier one, and counts it in its own part's report.
pub(super) fn without_duplicates(mut parts: Vec<Corpus>) -> Vec<Corpus> {
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
