//! The files that text is read from.

use std::fs::File;
use std::io::{BufReader, Error as IoError, ErrorKind, Read, Result as IoResult, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use xxhash_rust::xxh3::Xxh3;

use super::super::Error;
use super::super::store::SourceRecord;
use super::TextFormat;
use super::lines::Lines;

const STANDARD_INPUT: &str = "-";
/// Compressed bytes asked for at once.
const COMPRESSED_READ_BYTES: usize = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Gzip,
    Zstandard,
}

/// A file, or the standard input.
#[derive(Clone, Debug)]
pub(super) struct Source {
    pub record: SourceRecord,
    pub format: TextFormat,
    compression: Compression,
}

/// Counts what is read of a file.
struct Counted<R> {
    input: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> IoResult<usize> {
        let read = self.input.read(buffer)?;
        self.count.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}

impl Source {
    fn new(path: &Path, default: TextFormat) -> Result<Self, Error> {
        if path == Path::new(STANDARD_INPUT) {
            let record = SourceRecord { path: path.to_owned(), size: None, modified_ns: None };
            return Ok(Self { record, format: default, compression: Compression::None });
        }
        let unreadable = |source| Error::Read { path: path.to_owned(), source };
        let metadata = std::fs::metadata(path).map_err(unreadable)?;
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let (format, compression) = kind(path);
        let record = SourceRecord {
            path: path.to_owned(),
            size: Some(metadata.len()),
            modified_ns: modified.and_then(|time| u64::try_from(time.as_nanos()).ok()),
        };
        Ok(Self { record, format: format.unwrap_or(default), compression })
    }

    pub fn unreadable(&self, source: IoError) -> Error {
        Error::Read { path: self.record.path.clone(), source }
    }

    /// Its lines behind the first `offset` bytes, which must have `checksum` where they are the standard input's.
    pub fn open(&self, offset: u64, checksum: u64, count: &Arc<AtomicU64>) -> IoResult<Lines> {
        if self.record.path == Path::new(STANDARD_INPUT) {
            let mut input = Counted { input: std::io::stdin(), count: count.clone() };
            let mut hash = Xxh3::new();
            skip(&mut input, offset, &mut hash)?;
            if offset > 0 && hash.digest() != checksum {
                let reason = format!("its first {offset} bytes are not those that were read before");
                return Err(IoError::new(ErrorKind::InvalidData, reason));
            }
            return Ok(Lines::new(Box::new(input), Some(hash)));
        }
        let mut file = File::open(&self.record.path)?;
        if self.compression == Compression::None {
            file.seek(SeekFrom::Start(offset))?;
            count.fetch_add(offset, Ordering::Relaxed);
            return Ok(Lines::new(Box::new(Counted { input: file, count: count.clone() }), None));
        }
        let input = Counted { input: file, count: count.clone() };
        let input = BufReader::with_capacity(COMPRESSED_READ_BYTES, input);
        let mut input: Box<dyn Read + Send> = match self.compression {
            Compression::Zstandard => Box::new(zstd::Decoder::with_buffer(input)?),
            _ => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        };
        skip(&mut input, offset, &mut std::io::sink())?;
        Ok(Lines::new(input, None))
    }
}

/// Reads the first `offset` bytes into `to`.
fn skip(input: &mut impl Read, offset: u64, to: &mut impl Write) -> IoResult<()> {
    let found = std::io::copy(&mut input.take(offset), to)?;
    if found < offset {
        let reason =
            format!("it has {found} bytes of text; it should have the {offset} that were read before");
        return Err(IoError::new(ErrorKind::UnexpectedEof, reason));
    }
    Ok(())
}

/// What a file's name says of it; no format where it says none.
fn kind(path: &Path) -> (Option<TextFormat>, Compression) {
    let extension = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let compression = match extension(path).as_str() {
        "gz" => Compression::Gzip,
        "zst" => Compression::Zstandard,
        _ => Compression::None,
    };
    let inner = if compression == Compression::None { path.to_owned() } else { path.with_extension("") };
    let format = match extension(&inner).as_str() {
        "txt" => Some(TextFormat::Txt),
        "jsonl" | "ndjson" => Some(TextFormat::Jsonl),
        "md" | "markdown" => Some(TextFormat::Md),
        _ => None,
    };
    (format, compression)
}

/// The files of all paths: those that are given, and those of a known kind below directories, sorted.
pub(super) fn find(paths: &[PathBuf], default: TextFormat) -> Result<Vec<Source>, Error> {
    let mut sources = Vec::new();
    for path in paths {
        if path != Path::new(STANDARD_INPUT) && is_directory(path)? {
            let files = text_files(path)?;
            if files.is_empty() {
                return Err(Error::NoTextFiles { path: path.clone() });
            }
            for file in files {
                sources.push(Source::new(&file, default)?);
            }
        } else {
            sources.push(Source::new(path, default)?);
        }
    }
    if sources.iter().filter(|source| source.record.path == Path::new(STANDARD_INPUT)).count() > 1 {
        return Err(Error::InputTwice);
    }
    Ok(sources)
}

fn is_directory(path: &Path) -> Result<bool, Error> {
    let metadata = std::fs::metadata(path);
    Ok(metadata.map_err(|source| Error::Read { path: path.to_owned(), source })?.is_dir())
}

/// Every file of a known kind below `directory`, sorted by path. Links to directories are not followed.
fn text_files(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(directory) = pending.pop() {
        let failed = |source| Error::Read { path: directory.clone(), source };
        for entry in std::fs::read_dir(&directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            if entry.file_type().map_err(failed)?.is_dir() {
                pending.push(path);
            } else if kind(&path).0.is_some() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
