//! Small text files, and files that are written whole or not at all.

use std::io;
use std::path::{Path, PathBuf};

use super::content::{Content, Encoding, HEAD_BYTES};

/// An error of a file; each message names it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file does not exist or cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file, or the directory that should hold it, cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file holds something else than was expected of it.
    #[error("`{path}` looks to be {what}; it should be {expected}")]
    Kind {
        /// Path of the file.
        path: PathBuf,
        /// Noun phrase for the content that was found.
        what: String,
        /// Noun phrase for the content that was expected.
        expected: &'static str,
    },
}

impl FileError {
    /// Returns a function that makes the error of a file that could not be read.
    pub(crate) fn reading(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Read { path: path.to_owned(), source }
    }

    /// Returns a function that makes the error of a file that could not be written.
    pub(crate) fn writing(path: &Path) -> impl Fn(io::Error) -> Self + Copy {
        move |source| Self::Write { path: path.to_owned(), source }
    }
}

/// Reads a whole small text file, such as a configuration, without its byte order mark. `expected` describes the expected kind of file in an
/// error message.
///
/// # Errors
/// [`FileError::Read`]; [`FileError::Kind`] for a file that is not text.
pub(crate) fn read_text(path: &Path, expected: &'static str) -> Result<String, FileError> {
    let bytes = std::fs::read(path).map_err(FileError::reading(path))?;
    let other = |what: &str| FileError::Kind { path: path.to_owned(), what: what.to_owned(), expected };
    match Content::of(&bytes[..bytes.len().min(HEAD_BYTES)]) {
        Content::Text(encoding @ (Encoding::Utf8 | Encoding::MarkedUtf8)) => {
            let text = bytes[encoding.mark_bytes()..].to_vec();
            String::from_utf8(text).map_err(|error| {
                let at = encoding.mark_bytes() + error.utf8_error().valid_up_to();
                other(&format!("text that is not UTF-8 from byte {at} on"))
            })
        }
        Content::Text(_) => Err(other("UTF-16 text")),
        _ => Err(other(Content::other_than_text(&bytes).unwrap_or("no text"))),
    }
}

/// Writes `bytes` under a temporary name beside `path` and renames it, so that `path` never holds half a file.
///
/// # Errors
/// [`FileError::Write`] with `path` and the cause.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_then_rename(path, |temporary| std::fs::write(temporary, bytes))
}

/// Calls `write` to fill a temporary file beside `path`, and renames the file.
///
/// # Errors
/// [`FileError::Write`] with `path` and the cause; the temporary file is removed.
pub(crate) fn write_then_rename(
    path: &Path,
    write: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), FileError> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let written = write(&temporary).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        FileError::writing(path)(source)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_file_is_utf8_or_an_error_that_names_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("side.json");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text(&path, "JSON").map_err(|error| error.to_string())
        };
        assert_eq!(read(b"\xef\xbb\xbf{}").unwrap(), "{}");
        let message = read(b"{\"a\": \"caf\xe9\"}").unwrap_err();
        assert!(
            message.contains("side.json` looks to be text that is not UTF-8 from byte 10 on"),
            "{message}"
        );
        assert!(message.contains("it should be JSON"), "{message}");
        assert!(read(b"\xff\xfe{\0}\0").unwrap_err().contains("UTF-16 text"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(read_text(&path, "JSON"), Err(FileError::Read { .. })));
    }
}
