//! Files that text is read from, and files that are left out.

use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use super::lines::Lines;
use super::stream::{self, Held, is_standard_input};
use super::{ReadOffset, ReadOptions, TextFormat};
use crate::common::FileError;
use crate::data::{CorpusReport, Error};

/// A file that text was read from, as it was at that time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Path of the file, as given or found in a given directory; `-` for the standard input.
    pub path: PathBuf,
    /// Size in bytes; `None` for the standard input.
    pub size: Option<u64>,
    /// Modification time in nanoseconds since 1970; `None` if unknown.
    pub modified_ns: Option<u64>,
}

/// Expected kind of file, for error messages.
const READABLE: &str = "plain text (.txt), markdown (.md) or JSON lines (.jsonl), each also .gz and .zst, in UTF-8 or in UTF-16 with \
                        a byte order mark; --format says what a text of another name is";
/// A `.json` file of a directory with fewer objects is taken for a configuration, not a corpus.
const FEWEST_OBJECTS_IN_DIRECTORY: usize = 2;

/// A file, a pipe or the standard input.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub record: SourceRecord,
    /// Content and format; `None` for a stream that can be read only once, which is inspected when it is opened.
    known: Option<(Held, TextFormat)>,
}

/// Kind of file according to its name, apart from compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Text(TextFormat),
    /// JSON, which may be one object a line.
    Json,
    /// Table with columns.
    Table,
    Other,
}

impl Name {
    fn of(path: &Path) -> Self {
        let extension =
            |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        let mut kind = extension(path);
        if kind == "gz" || kind == "zst" {
            kind = extension(&path.with_extension(""));
        }
        match kind.as_str() {
            "txt" => Self::Text(TextFormat::Txt),
            "jsonl" | "ndjson" => Self::Text(TextFormat::Jsonl),
            "md" | "markdown" => Self::Text(TextFormat::Md),
            "json" => Self::Json,
            "tsv" | "csv" => Self::Table,
            _ => Self::Other,
        }
    }

    /// Describes text of a kind that this name does not identify.
    fn unknown(self, is_json: bool) -> &'static str {
        match self {
            _ if is_json || self == Self::Json => "JSON that is not one object a line",
            Self::Table => "a table, whose columns are not read",
            _ => "text of a kind that its name does not say",
        }
    }
}

/// Origin of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Given,
    InDirectory,
    Stream,
}

/// Returns the format to read a file in; if it is not to be read, a description of it.
fn format_of(
    name: Name,
    held: Held,
    given: Option<TextFormat>,
    origin: Origin,
) -> Result<TextFormat, &'static str> {
    let (objects, is_json) = match held {
        Held::Text { objects, is_json, .. } => (objects, is_json),
        Held::Other(what) => return Err(what),
    };
    let by_content = || match (objects, is_json) {
        (1.., _) => Ok(TextFormat::Jsonl),
        (0, true) => Err(name.unknown(true)),
        (0, false) => Ok(TextFormat::Txt),
    };
    match (name, origin) {
        (Name::Text(TextFormat::Txt), _) => given.map_or_else(by_content, |_| Ok(TextFormat::Txt)),
        (Name::Text(format), _) => Ok(format),
        (Name::Json, Origin::InDirectory) if objects >= FEWEST_OBJECTS_IN_DIRECTORY => Ok(TextFormat::Jsonl),
        (_, Origin::InDirectory) => Err(name.unknown(is_json)),
        (_, Origin::Stream) => given.map_or_else(by_content, Ok),
        (_, Origin::Given) => match given {
            Some(format) => Ok(format),
            None if objects > 0 => Ok(TextFormat::Jsonl),
            None => Err(name.unknown(is_json)),
        },
    }
}

impl Source {
    /// Opens a file that was given by name.
    fn given(path: &Path, options: &ReadOptions) -> Result<Self, Error> {
        let stream = SourceRecord { path: path.to_owned(), size: None, modified_ns: None };
        if is_standard_input(path) {
            return Ok(Self { record: stream, known: None });
        }
        let failed = FileError::reading(path);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Ok(Self { record: stream, known: None });
        }
        let held = stream::look_into(path).map_err(failed)?;
        let format = format_of(Name::of(path), held, options.format, Origin::Given);
        Ok(Self::file(path, &metadata, held, format.map_err(|what| of_other_kind(path, what))?))
    }

    /// Returns a file of a directory whose name may be that of text; if it is to be left out, a description of it.
    fn found(path: &Path, options: &ReadOptions) -> Result<Result<Self, &'static str>, Error> {
        let failed = FileError::reading(path);
        let metadata = std::fs::metadata(path).map_err(failed)?;
        if !metadata.is_file() {
            return Ok(Err("no regular file"));
        }
        let held = stream::look_into(path).map_err(failed)?;
        let format = format_of(Name::of(path), held, options.format, Origin::InDirectory);
        Ok(format.map(|format| Self::file(path, &metadata, held, format)))
    }

    fn file(path: &Path, metadata: &Metadata, held: Held, format: TextFormat) -> Self {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let record = SourceRecord {
            path: path.to_owned(),
            size: Some(metadata.len()),
            modified_ns: modified.and_then(|time| u64::try_from(time.as_nanos()).ok()),
        };
        Self { record, known: Some((held, format)) }
    }

    /// Opens its lines at the read offset, with their format.
    pub fn open(
        &self,
        read_offset: &ReadOffset,
        options: &ReadOptions,
        count: &Arc<AtomicU64>,
    ) -> Result<(Lines, TextFormat), Error> {
        let path = &self.record.path;
        let ReadOffset { offset, checksum, .. } = *read_offset;
        if let Some((held, format)) = self.known {
            let lines = stream::lines_of_file(path, held, offset, count);
            return Ok((lines.map_err(|error| self.unreadable(error))?, format));
        }
        let opened = stream::lines_of_stream(path, offset, checksum, count);
        let (held, lines) = opened.map_err(|error| self.unreadable(error))?;
        let format = format_of(Name::of(path), held, options.format, Origin::Stream);
        Ok((lines, format.map_err(|what| of_other_kind(path, what))?))
    }

    pub fn unreadable(&self, source: std::io::Error) -> Error {
        FileError::reading(&self.record.path)(source).into()
    }
}

fn of_other_kind(path: &Path, what: &str) -> Error {
    FileError::Kind { path: path.to_owned(), what: what.to_owned(), expected: READABLE }.into()
}

/// Returns the files of all paths: those given by name, and the text files below directories, sorted. Files left out of directories are counted
/// in `report`.
pub(super) fn find(
    paths: &[PathBuf],
    options: &ReadOptions,
    report: &mut CorpusReport,
) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for path in paths {
        if is_standard_input(path) || !is_directory(path)? {
            sources.push(Source::given(path, options)?);
            continue;
        }
        let mut left_out = CorpusReport::default();
        let found = text_files(path, options, &mut left_out)?;
        if found.is_empty() {
            return Err(Error::NoTextFiles { path: path.clone(), report: Box::new(left_out) });
        }
        sources.extend(found);
        report.add(&left_out);
    }
    if sources.iter().filter(|source| is_standard_input(&source.record.path)).count() > 1 {
        return Err(Error::InputTwice);
    }
    Ok(sources)
}

fn is_directory(path: &Path) -> Result<bool, Error> {
    let metadata = std::fs::metadata(path);
    Ok(metadata.map_err(FileError::reading(path))?.is_dir())
}

/// Returns the text files below `directory`, sorted by path. Links to directories are not followed.
fn text_files(
    directory: &Path,
    options: &ReadOptions,
    report: &mut CorpusReport,
) -> Result<Vec<Source>, Error> {
    let is_named_as_text = |path: &PathBuf| matches!(Name::of(path), Name::Text(_) | Name::Json);
    // Files named as text come first, so that the report names those among them that are left out.
    let (texts, others): (Vec<PathBuf>, Vec<PathBuf>) =
        files(directory)?.into_iter().partition(is_named_as_text);
    let mut sources = Vec::new();
    for path in texts {
        match Source::found(&path, options)? {
            Ok(source) => sources.push(source),
            Err(what) => report.leave_out(&path, || what.to_owned()),
        }
    }
    for path in others {
        report.leave_out(&path, || what_is(&path));
    }
    Ok(sources)
}

/// Describes a file whose name is not that of text.
fn what_is(path: &Path) -> String {
    // Opening a pipe would block until its other end is opened.
    if !path.is_file() {
        return "no regular file".into();
    }
    match stream::look_into(path) {
        Ok(Held::Other(what)) => what.into(),
        Ok(Held::Text { is_json, .. }) => Name::of(path).unknown(is_json).into(),
        Err(error) => error.to_string(),
    }
}

/// Returns every file below `directory`, sorted.
fn files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let failed = FileError::reading(&directory);
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            if entry.file_type().map_err(failed)?.is_dir() {
                pending.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}
