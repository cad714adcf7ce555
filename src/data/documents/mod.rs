//! Text as a stream of documents, read from files of several formats, in bounded memory and with an offset to resume from.

mod json;
mod lines;
mod records;
mod sources;
mod stream;
mod utf16;

use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use super::prose::{markdown_paragraphs, one_line};
use super::{CorpusReport, Error};
use json::Bad;
use lines::{Lines, cut};
pub use records::Records;
use sources::Source;
pub use sources::SourceRecord;

/// Longest document in bytes; a longer text is split into several, at the end of a sentence if possible.
const DOCUMENT_BYTES_MAX: usize = 256 << 10;

/// Format of the documents in a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextFormat {
    /// One document a line.
    #[default]
    Txt,
    /// One document a line, in a field of a JSON object.
    Jsonl,
    /// One document a markdown paragraph.
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

/// Options for reading text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadOptions {
    /// Field of JSON lines that holds the text.
    pub field: String,
    /// Format of the standard input, and of a given file whose name does not tell it; `None` to detect it from the content.
    pub format: Option<TextFormat>,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { field: "text".into(), format: None }
    }
}

/// Read offset between two documents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadOffset {
    /// Index of the file in the list of sources.
    pub source: usize,
    /// Bytes of the file's decompressed text before the line (or markdown file) that comes next.
    pub offset: u64,
    /// Lines before that line.
    pub line: u64,
    /// Documents of that line that have been read.
    pub documents: usize,
    /// xxh3-64 of those bytes for the standard input, which nothing else identifies; 0 for a file.
    #[serde(default)]
    pub checksum: u64,
}

/// One document.
#[derive(Clone, Debug)]
pub struct Document {
    /// The text, on one line.
    pub text: String,
    /// Counts for this document, and for everything left out between the previous one and it.
    pub report: CorpusReport,
    /// Read offset just after it.
    pub read_offset: ReadOffset,
}

/// Iterator over the documents of all sources, in order.
#[derive(Debug)]
pub struct Documents {
    sources: Vec<Source>,
    options: ReadOptions,
    /// Read offset of the line that `waiting` is from.
    read_offset: ReadOffset,
    current: Option<Open>,
    /// Remaining documents of the current line.
    waiting: VecDeque<String>,
    /// Read offset just after the current line.
    after: ReadOffset,
    pending: CorpusReport,
    bytes_read: Arc<AtomicU64>,
}

impl Iterator for Documents {
    /// [`FileError::Read`](crate::common::FileError::Read) names the file; [`Error::NoField`] and [`Error::NoJson`] name a file of JSON lines
    /// without any text; [`FileError::Kind`](crate::common::FileError::Kind) names a stream that is not text. Iteration cannot continue after an
    /// error.
    type Item = Result<Document, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read_next().transpose()
    }
}

/// A source that is being read.
#[derive(Debug)]
struct Open {
    lines: Lines,
    format: TextFormat,
    /// The last part read does not end its line: the next part continues it.
    goes_on: bool,
    /// Field names seen in its JSON objects.
    seen: BTreeSet<String>,
    /// Error of the first line without a text; of the first such JSON object, if there is one.
    first_bad: Option<Bad>,
    /// At least one line had a text.
    any: bool,
}

/// Unit of one read: a line, a part of a very long line, or a markdown file.
struct Line {
    format: TextFormat,
    /// Continues a line whose first part was read before.
    is_rest: bool,
    /// Texts, each on one line and possibly empty; no elements if the line has no text.
    texts: Vec<String>,
}

impl Documents {
    /// Opens the documents of files, of the text files below directories, sorted by path, and of the standard input (`-`).
    ///
    /// File names tell the format: .txt (one document a line), .jsonl and .ndjson (one document a line, in a field), .md and .markdown (one
    /// document a paragraph). A file with another name is read as `options.format`. Without that option, it is read as JSON lines if it holds
    /// JSON lines, and so is a .txt that does; the standard input or a pipe that does not is read as txt. Gzip, Zstandard, UTF-16, and UTF-8 with
    /// a byte order mark are detected from the first bytes, whatever the name.
    ///
    /// Files of another kind in a directory are left out and counted in the report; .json is read there if it holds JSON lines.
    ///
    /// # Errors
    /// [`FileError::Read`](crate::common::FileError::Read) names what cannot be read; [`FileError::Kind`](crate::common::FileError::Kind) a given
    /// file that is not text, or of an unknown kind; [`Error::NoTextFiles`]; [`Error::InputTwice`].
    pub fn open(paths: &[PathBuf], options: ReadOptions) -> Result<Self, Error> {
        let mut pending = CorpusReport::default();
        let sources = sources::find(paths, &options, &mut pending)?;
        Ok(Self {
            sources,
            options,
            read_offset: ReadOffset::default(),
            current: None,
            waiting: VecDeque::new(),
            after: ReadOffset::default(),
            pending,
            bytes_read: Arc::default(),
        })
    }

    /// Resumes from the read offset of an earlier reader. Everything before it is skipped; compressed text is read and dropped.
    #[must_use]
    pub fn starting_at(mut self, read_offset: ReadOffset) -> Self {
        let before = self.sources.iter().take(read_offset.source).filter_map(|source| source.record.size);
        self.bytes_read.store(before.sum(), Ordering::Relaxed);
        if read_offset != ReadOffset::default() {
            // The earlier reader has counted what was left out.
            self.pending = CorpusReport::default();
        }
        self.read_offset = read_offset;
        self.after = read_offset;
        self
    }

    /// Returns the sources as they were when they were opened.
    #[must_use]
    pub fn sources(&self) -> Vec<SourceRecord> {
        self.sources.iter().map(|source| source.record.clone()).collect()
    }

    /// Returns the bytes of all files, `None` if unknown.
    #[must_use]
    pub fn total_bytes(&self) -> Option<u64> {
        self.sources.iter().map(|source| source.record.size).sum()
    }

    /// Returns the bytes read so far; the count rises while reading goes on.
    #[must_use]
    pub fn bytes_read(&self) -> Arc<AtomicU64> {
        self.bytes_read.clone()
    }

    /// Returns the counts of what was left out after the last document.
    #[must_use]
    pub fn rest(&self) -> &CorpusReport {
        &self.pending
    }

    fn read_next(&mut self) -> Result<Option<Document>, Error> {
        loop {
            if let Some(text) = self.waiting.pop_front() {
                return Ok(Some(self.document(text)));
            }
            let Some(line) = self.next_line()? else { return Ok(None) };
            let read_before = self.read_offset.documents;
            self.waiting = line.texts.into_iter().filter(|text| !text.is_empty()).skip(read_before).collect();
        }
    }

    fn document(&mut self, text: String) -> Document {
        self.read_offset.documents += 1;
        let read_offset = if self.waiting.is_empty() { self.after } else { self.read_offset };
        let mut report = std::mem::take(&mut self.pending);
        report.count(&text);
        Document { text, report, read_offset }
    }

    /// Returns the next line, from whichever source; what is left out is counted.
    fn next_line(&mut self) -> Result<Option<Line>, Error> {
        loop {
            self.read_offset = self.after;
            if self.read_offset.source >= self.sources.len() {
                return Ok(None);
            }
            if self.current.is_none() {
                self.current = Some(self.open_current()?);
            }
            if let Some(line) = self.read_line()? {
                return Ok(Some(line));
            }
            self.close_current()?;
        }
    }

    fn open_current(&mut self) -> Result<Open, Error> {
        let read_offset = self.read_offset;
        let begun = read_offset.offset > 0 || read_offset.documents > 0;
        self.pending.files += usize::from(!begun);
        let (lines, format) =
            self.sources[read_offset.source].open(&read_offset, &self.options, &self.bytes_read)?;
        Ok(Open { lines, format, goes_on: false, seen: BTreeSet::new(), first_bad: None, any: begun })
    }

    /// Closes the current source and moves on to the next.
    fn close_current(&mut self) -> Result<(), Error> {
        if let Some(Open { seen, first_bad: Some(bad), any: false, .. }) = self.current.take() {
            let path = self.path().to_owned();
            return Err(match bad {
                Bad::NotJson(reason) => Error::NoJson { path, reason },
                Bad::NoText(reason) => {
                    let told: Vec<&str> = seen.iter().map(String::as_str).collect();
                    let seen = if told.is_empty() {
                        "a field of JSON objects, one a line".into()
                    } else {
                        told.join(", ")
                    };
                    Error::NoField { path, field: self.options.field.clone(), reason, seen }
                }
            });
        }
        self.after = ReadOffset { source: self.read_offset.source + 1, ..ReadOffset::default() };
        Ok(())
    }

    fn path(&self) -> &Path {
        &self.sources[self.read_offset.source].record.path
    }

    /// Reads the next line of the current source and finds where it ends; `None` at the end.
    fn read_line(&mut self) -> Result<Option<Line>, Error> {
        let source = &self.sources[self.read_offset.source];
        let Some(open) = &mut self.current else { return Ok(None) };
        let format = open.format;
        let mut report = CorpusReport::default();
        let bytes = match format {
            TextFormat::Txt => open.lines.next(DOCUMENT_BYTES_MAX),
            TextFormat::Jsonl => open.lines.next(usize::MAX),
            TextFormat::Md => {
                open.lines.all().map(|bytes| (!bytes.is_empty()).then_some((bytes.len(), bytes)))
            }
        };
        let Some((consumed, bytes)) = bytes.map_err(|error| source.unreadable(error))? else {
            return Ok(None);
        };
        let ends = consumed > bytes.len();
        let text = text_of(bytes, &mut report);
        let texts = match format {
            TextFormat::Txt => vec![one_line(&text)],
            TextFormat::Jsonl => match json::text_in_field(&text, &self.options.field, &mut open.seen) {
                Ok(text) => text.map(|text| pieces(one_line(&text))).unwrap_or_default(),
                Err(bad) => {
                    let bad = bad.of_line(self.read_offset.line + 1);
                    report.bad_lines += 1;
                    report.first_bad_line =
                        Some(format!("{}, {}", source.record.path.display(), bad.reason()));
                    open.keep_first(bad);
                    Vec::new()
                }
            },
            TextFormat::Md => paragraphs(&text, &mut report),
        };
        let is_rest = std::mem::replace(&mut open.goes_on, format == TextFormat::Txt && !ends);
        if !is_rest {
            report.empty += texts.iter().filter(|text| text.is_empty()).count();
        }
        open.any |= !texts.is_empty();
        let ReadOffset { source, offset, line, documents, .. } = self.read_offset;
        let (offset, checksum) = (offset + consumed as u64, open.lines.checksum());
        self.after = ReadOffset { source, offset, line: line + 1, documents: 0, checksum };
        if documents == 0 {
            // Otherwise an earlier reader counted the line with its first document.
            self.pending.add(&report);
        }
        Ok(Some(Line { format, is_rest, texts }))
    }
}

impl Open {
    /// Keeps the more informative error: that of a line which is JSON over that of one which is not.
    fn keep_first(&mut self, bad: Bad) {
        if matches!((&self.first_bad, &bad), (None, _) | (Some(Bad::NotJson(_)), Bad::NoText(_))) {
            self.first_bad = Some(bad);
        }
    }
}

/// Decodes bytes as text; invalid UTF-8 becomes U+FFFD and is counted.
pub(super) fn text_of<'a>(bytes: &'a [u8], report: &mut CorpusReport) -> std::borrow::Cow<'a, str> {
    report.nul_bytes += bytes.iter().filter(|&&byte| byte == 0).count();
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        report.replaced_invalid_utf8 +=
            bytes.utf8_chunks().filter(|chunk| !chunk.invalid().is_empty()).count();
    }
    text
}

/// Splits a text into documents.
fn pieces(text: String) -> Vec<String> {
    if text.len() <= DOCUMENT_BYTES_MAX {
        return vec![text];
    }
    let mut pieces = Vec::new();
    let mut rest = text.as_str();
    while rest.len() > DOCUMENT_BYTES_MAX {
        // `cut` splits valid text only between characters.
        let (piece, after) = rest.split_at(cut(&rest.as_bytes()[..DOCUMENT_BYTES_MAX]));
        pieces.push(piece.trim().to_owned());
        rest = after.trim_start();
    }
    pieces.push(rest.to_owned());
    pieces
}

/// Returns the paragraphs of a markdown file that are long enough to be a passage.
fn paragraphs(text: &str, report: &mut CorpusReport) -> Vec<String> {
    /// A paragraph of fewer words is a label or a menu entry. Text without spaces is counted by characters.
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
