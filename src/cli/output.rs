//! Output of the commands, and errors in writing it.
//!
//! Results go to the standard output or to a file. If the reader has gone away, the command ends quietly, with the status that a shell gives to a
//! program ended by SIGPIPE; every other failed write is an error. Both come after the command's work is saved. Messages go to the standard
//! error, and if they cannot be written, the work goes on.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Name of the standard output.
const STANDARD_OUTPUT: &str = "-";

/// Reason why a result was not written.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error("nobody reads the standard output any more")]
    Closed,
    #[error("cannot write the standard output: {0}")]
    Standard(std::io::Error),
    #[error("cannot write --output `{path}`: {source}")]
    File { path: PathBuf, source: std::io::Error },
}

impl From<std::io::Error> for OutputError {
    /// Converts an error of the standard output.
    fn from(error: std::io::Error) -> Self {
        if error.kind() == ErrorKind::BrokenPipe { Self::Closed } else { Self::Standard(error) }
    }
}

/// Writes `text` to the standard output.
pub fn print(text: &str) -> Result<(), OutputError> {
    let mut output = std::io::stdout().lock();
    Ok(output.write_all(text.as_bytes()).and_then(|()| output.flush())?)
}

/// Writes a line to the standard error.
pub fn tell(line: &str) {
    // There is nowhere to report that this failed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Destination of a command's results: `-` is the standard output. A file gets its name only when it is complete.
pub struct Output {
    path: PathBuf,
    target: Target,
}

enum Target {
    Standard(BufWriter<std::io::Stdout>),
    /// A pipe or a device.
    Special(BufWriter<File>),
    Temporary(BufWriter<File>, PathBuf),
}

impl Output {
    pub fn open(path: &Path) -> Result<Self, OutputError> {
        let failed = |source| OutputError::File { path: path.to_owned(), source };
        let target = if path == Path::new(STANDARD_OUTPUT) {
            Target::Standard(BufWriter::new(std::io::stdout()))
        } else if path.exists() && !path.is_file() {
            Target::Special(BufWriter::new(File::options().write(true).open(path).map_err(failed)?))
        } else {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let temporary = path.with_file_name(format!(".{name}.tmp"));
            Target::Temporary(BufWriter::new(File::create(&temporary).map_err(failed)?), temporary)
        };
        Ok(Self { path: path.to_owned(), target })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<(), OutputError> {
        let written = match &mut self.target {
            Target::Standard(output) => return Ok(output.write_all(bytes)?),
            Target::Special(file) | Target::Temporary(file, _) => file.write_all(bytes),
        };
        written.map_err(|source| OutputError::File { path: self.path.clone(), source })
    }

    /// Writes the buffered bytes, and renames a temporary file to its final name.
    pub fn finish(mut self) -> Result<(), OutputError> {
        let written = match &mut self.target {
            Target::Standard(output) => return Ok(output.flush()?),
            Target::Special(file) => file.flush(),
            Target::Temporary(file, temporary) => {
                file.flush().and_then(|()| std::fs::rename(temporary, &self.path))
            }
        };
        written.map_err(|source| OutputError::File { path: self.path.clone(), source })
    }
}

impl Drop for Output {
    /// Removes an incomplete file.
    fn drop(&mut self) {
        if let Target::Temporary(_, temporary) = &self.target {
            // After `finish` there is no temporary file.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
