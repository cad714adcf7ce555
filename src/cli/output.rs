//! What the commands write, and what happens where it cannot be written.
//!
//! Results go to the standard output or to a file. A reader that has gone away ends the command quietly, with the status that a shell
//! gives to a program which SIGPIPE ended; whatever else cannot be written is an error. Both come after the command's work is saved.
//! Messages go to the standard error, and when nobody can be told, the work goes on.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

/// The name of the standard output.
const STANDARD_OUTPUT: &str = "-";

/// Why a result was not written.
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
    /// Of the standard output.
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
    // There is no other place to say that this failed.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Where the results of a command go: `-` is the standard output. A file has its name only when it is whole.
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

    /// Writes what waits, and gives a file its name.
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
    /// Leaves no half of a file.
    fn drop(&mut self) {
        if let Target::Temporary(_, temporary) = &self.target {
            // After `finish` there is none.
            let _ = std::fs::remove_file(temporary);
        }
    }
}
