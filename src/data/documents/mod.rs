//! Text as a stream of documents, from files of several formats, in bounded memory and with a place to go on from.

mod lines;
mod sources;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::prose::{markdown_paragraphs, one_line};
use super::store::SourceRecord;
use super::{CorpusReport, Error};
use lines::{Lines, cut};
use sources::Source;

/// Bytes of a document at most; a longer text becomes several, cut at a sentence's end where there is one.
const DOCUMENT_BYTES_MAX: usize = 256 << 10;
/// Field names that an error tells, at most.
const FIELDS_TOLD_MAX: usize = 10;

/// How a file holds documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextFormat {
    /// One a line.
    #[default]
    Txt,
    /// One a line, in a field of a JSON object.
    Jsonl,
    /// One a paragraph of markdown.
    Md,
}

impl std::fmt::Display for TextFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Txt => "txt",
            Self::Jsonl => "jsonl",
            Self::Md => "md",
        })
    }
}

/// How text is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// The field of JSON lines that holds the text.
    pub field: String,
    /// Of the standard input, and of files whose names do not say it.
    pub format: TextFormat,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { field: "text".into(), format: TextFormat::default() }
    }
}

/// Where reading stands, between two documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The file, by its number in the list of sources.
    pub source: usize,
    /// Bytes of its text, after decompression, before the line (or markdown file) that comes next.
    pub offset: u64,
    /// Lines before that.
    pub line: u64,
    /// Documents of that line that have been read.
    pub documents: usize,
    /// xxh3-64 of those bytes where they are the standard input's, which nothing else can tell from another; 0 of a file.
    #[serde(default)]
    pub checksum: u64,
}

/// A stretch of text.
#[derive(Clone, Debug)]
pub struct Document {
    /// One line.
    pub text: String,
    /// Of this document, and of what was left out between the one before and it.
    pub report: CorpusReport,
    /// Behind it.
    pub standing: Standing,
}

/// The documents of all sources, in their order.
#[derive(Debug)]
pub struct Documents {
    sources: Vec<Source>,
    options: ReadOptions,
    /// Of the line that `waiting` is from.
    standing: Standing,
    current: Option<Open>,
    /// Documents of the current line.
    waiting: VecDeque<String>,
    /// Behind the current line.
    after: Standing,
    pending: CorpusReport,
    bytes_read: Arc<AtomicU64>,
}

impl Iterator for Documents {
    /// [`Error::Read`] names a file; [`Error::NoField`] one of JSON lines none of which has a text. There is no use in going on
    /// behind an error.
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

/// A source that is being read.
#[derive(Debug)]
struct Open {
    lines: Lines,
    /// Names of fields that its JSON objects had.
    seen: BTreeSet<String>,
    /// Why the first of its lines gave no text.
    first_bad: Option<String>,
    /// Whether some line gave a text.
    any: bool,
}

impl Documents {
    /// The documents of files, of all files of a known kind below directories, sorted by path, and of the standard input (`-`).
    ///
    /// Kinds are told by names: .txt (a document a line), .jsonl and .ndjson (a document a line, in a field), .md and .markdown (a
    /// document a paragraph), each also with .gz and .zst behind; a file of another name is taken for `options.format`.
    ///
    /// # Errors
    /// [`Error::Read`] names what cannot be read; [`Error::NoTextFiles`]; [`Error::InputTwice`].
    pub fn open(paths: &[PathBuf], options: ReadOptions) -> Result<Self, Error> {
        let sources = sources::find(paths, options.format)?;
        Ok(Self {
            sources,
            options,
            standing: Standing::default(),
            current: None,
            waiting: VecDeque::new(),
            after: Standing::default(),
            pending: CorpusReport::default(),
            bytes_read: Arc::default(),
        })
    }

    /// Goes on where an earlier reader stood. What is before is skipped; compressed text is read and dropped.
    #[must_use]
    pub fn starting_at(mut self, standing: Standing) -> Self {
        let before = self.sources.iter().take(standing.source).filter_map(|source| source.record.size);
        self.bytes_read.store(before.sum(), Ordering::Relaxed);
        self.standing = standing;
        self.after = standing;
        self
    }

    /// What is read, as it is now.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceRecord> {
        self.sources.iter().map(|source| source.record.clone()).collect()
    }

    /// Bytes of all files, none where that is not known.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.sources.iter().map(|source| source.record.size).sum()
    }

    /// Bytes of files read so far, as it is counted on.
    #[must_use]
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        self.bytes_read.clone()
    }

    /// What was left out behind the last document.
    #[must_use]
    pub fn rest(&self) -> &CorpusReport {
        &self.pending
    }

    fn read_next(&mut self) -> Result<Option<Document>, Error> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Ok(Some(self.document(text)));
            }
            self.standing = self.after;
            if self.standing.source >= self.sources.len() {
                return Ok(None);
            }
            if self.current.is_none() {
                self.current = Some(self.open_current()?);
            }
            if !self.read_line()? {
                self.close_current()?;
            }
        }
    }

    fn document(&mut self, text: String) -> Document {
        self.standing.documents += 1;
        let standing = if self.waiting.is_empty() { self.after } else { self.standing };
        let mut report = std::mem::take(&mut self.pending);
        report.texts += 1;
        report.bytes += text.len();
        Document { text, report, standing }
    }

    fn open_current(&mut self) -> Result<Open, Error> {
        let Standing { source, offset, documents, checksum, .. } = self.standing;
        let source = &self.sources[source];
        let begun = offset > 0 || documents > 0;
        self.pending.files += usize::from(!begun);
        let lines = source.open(offset, checksum, &self.bytes_read);
        let lines = lines.map_err(|error| source.unreadable(error))?;
        Ok(Open { lines, seen: BTreeSet::new(), first_bad: None, any: begun })
    }

    /// Ends the current source and goes to the next.
    fn close_current(&mut self) -> Result<(), Error> {
        if let Some(Open { seen, first_bad: Some(reason), any: false, .. }) = self.current.take() {
            let told: Vec<&str> = seen.iter().map(String::as_str).collect();
            let seen =
                if told.is_empty() { "a field of JSON objects, one a line".into() } else { told.join(", ") };
            let path = self.path().to_owned();
            return Err(Error::NoField { path, field: self.options.field.clone(), reason, seen });
        }
        self.after = Standing { source: self.standing.source + 1, ..Standing::default() };
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.sources[self.standing.source].record.path
    }

    /// Reads what comes next of the current source: its documents, and where it ends. False at the end.
    fn read_line(&mut self) -> Result<bool, Error> {
        let source = &self.sources[self.standing.source];
        let Some(open) = &mut self.current else { return Ok(false) };
        let unreadable = |error| source.unreadable(error);
        let mut report = CorpusReport::default();
        let (consumed, texts) = match source.format {
            TextFormat::Txt => {
                let Some((consumed, line)) = open.lines.next(DOCUMENT_BYTES_MAX).map_err(unreadable)? else {
                    return Ok(false);
                };
                let text = one_line(&text_of(line, &mut report));
                (consumed, vec![text])
            }
            TextFormat::Jsonl => {
                let Some((consumed, line)) = open.lines.next(usize::MAX).map_err(unreadable)? else {
                    return Ok(false);
                };
                let text = text_of(line, &mut report);
                let texts = match field_of(&text, &self.options.field, &mut open.seen) {
                    Ok(text) => pieces(one_line(&text)),
                    Err(None) => Vec::new(),
                    Err(Some(reason)) => {
                        let line = self.standing.line + 1;
                        let reason = format!("line {line} {reason}");
                        report.bad_lines += 1;
                        report.first_bad_line = Some(format!("{}, {reason}", source.record.path.display()));
                        open.first_bad.get_or_insert(reason);
                        Vec::new()
                    }
                };
                (consumed, texts)
            }
            TextFormat::Md => {
                let bytes = open.lines.all().map_err(unreadable)?;
                if bytes.is_empty() {
                    return Ok(false);
                }
                let text = text_of(bytes, &mut report);
                (bytes.len(), paragraphs(&text, &mut report))
            }
        };
        open.any |= !texts.is_empty();
        self.waiting = texts.into_iter().filter(|text| !text.is_empty()).collect();
        let Standing { source, offset, line, documents, .. } = self.standing;
        let (offset, checksum) = (offset + consumed as u64, open.lines.checksum());
        self.after = Standing { source, offset, line: line + 1, documents: 0, checksum };
        if documents > 0 {
            // An earlier reader counted the line with its first document.
            self.waiting.drain(..documents.min(self.waiting.len()));
        } else {
            self.pending.add(&report);
        }
        Ok(true)
    }
}

/// The text of bytes; what is broken becomes U+FFFD, and is counted.
pub(super) fn text_of<'a>(bytes: &'a [u8], report: &mut CorpusReport) -> std::borrow::Cow<'a, str> {
    report.nul_bytes += bytes.iter().filter(|&&byte| byte == 0).count();
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        report.replaced_invalid_utf8 +=
            bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
    }
    text
}

/// The text in a field of a JSON object. An error says why there is none, or nothing of a blank line.
fn field_of(line: &str, field: &str, seen: &mut BTreeSet<String>) -> Result<String, Option<String>> {
    let line = line.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
    if line.is_empty() {
        return Err(None);
    }
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|error| Some(format!("is not JSON: {error}")))?;
    let serde_json::Value::Object(mut object) = value else {
        return Err(Some("is not a JSON object".into()));
    };
    match object.remove(field) {
        Some(serde_json::Value::String(text)) => Ok(text),
        other => {
            let room = FIELDS_TOLD_MAX.saturating_sub(seen.len());
            seen.extend(
                object.into_iter().filter(|(_, value)| value.is_string()).map(|(name, _)| name).take(room),
            );
            let reason = if other.is_some() { "is no string" } else { "is missing" };
            Err(Some(format!("has no text: its field {field:?} {reason}")))
        }
    }
}

/// Documents of a text.
fn pieces(text: String) -> Vec<String> {
    if text.len() <= DOCUMENT_BYTES_MAX {
        return vec![text];
    }
    let mut pieces = Vec::new();
    let mut rest = text.as_str();
    while rest.len() > DOCUMENT_BYTES_MAX {
        // A cut of valid text is between characters.
        let (piece, after) = rest.split_at(cut(&rest.as_bytes()[..DOCUMENT_BYTES_MAX]));
        pieces.push(piece.trim().to_owned());
        rest = after.trim_start();
    }
    pieces.push(rest.to_owned());
    pieces
}

/// The paragraphs of a markdown file that are long enough to be a passage.
fn paragraphs(text: &str, report: &mut CorpusReport) -> Vec<String> {
    /// Below this a paragraph is a label or a menu entry. Text without spaces counts by its characters.
    const FEWEST_WORDS: usize = 4;
    const FEWEST_CHARACTERS: usize = 32;
    let mut texts = Vec::new();
    for paragraph in markdown_paragraphs(text) {
        if paragraph.split(' ').count() < FEWEST_WORDS && paragraph.chars().count() < FEWEST_CHARACTERS {
            report.skipped_short += 1;
        } else {
            texts.extend(pieces(paragraph));
        }
    }
    texts
}
