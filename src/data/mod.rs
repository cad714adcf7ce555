//! The path from text on disk to the packed batches of a training step.
//!
//! [`Corpus`] and [`Documents`] read text, [`Tokenizer`] turns it into ids, [`TokenStore`] holds them in memory or on disk, and
//! [`BatchSampler`] samples batches that are a pure function of seed and position, so a run can stop anywhere
//! and go on exactly.

mod corpus;
mod documents;
mod error;
mod installed;
mod passages;
mod permutation;
mod prose;
mod report;
mod sampler;
mod sentences;
pub mod store;
mod tokenize;
mod tokenizer;

pub use corpus::Corpus;
pub use documents::{Document, Documents, ReadOffset, ReadOptions, Records, TextFormat};
pub use error::Error;
pub use passages::{Ids, PassageRef, Passages, WordStarts};
pub use permutation::Permutation;
pub use prose::{doc_comment_blocks, markdown_paragraphs};
pub use report::CorpusReport;
pub use sampler::{BatchOptions, BatchSampler, Position};
pub use sentences::sentences;
pub use store::{Manifest, TokenStore};
pub use tokenize::{Progress, TokenizeOptions, tokenize};
pub use tokenizer::{EncodeReport, EncodedCorpus, SpecialTokens, Tokenizer};

use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;

use crate::common::{FileError, write_then_rename};

/// Returns xxh3-64 in hexadecimal: detects damage, gives no protection against an attack.
pub(crate) fn checksum(bytes: &[u8]) -> String {
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(bytes))
}

/// Lock on a directory, released when dropped.
#[derive(Debug)]
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // A process that another thread is starting holds a copy of the file until it runs its program: closing the file alone would leave the
        // directory locked until then.
        let _ = self.0.unlock();
    }
}

/// Locks `directory` against writes by others while the returned lock lives; `None` if there is no such directory, or the system cannot lock it.
///
/// # Errors
/// [`Error::Locked`] while somebody else holds the lock.
pub(crate) fn lock(directory: &Path) -> Result<Option<DirectoryLock>, Error> {
    let Ok(file) = File::open(directory) else { return Ok(None) };
    match file.try_lock() {
        Ok(()) => Ok(Some(DirectoryLock(file))),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: directory.to_owned() }),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Writes a file atomically, as [`write_whole`](crate::common::write_whole) does, and waits until its contents and its name are on disk.
///
/// # Errors
/// [`FileError::Write`] with `path` and the cause.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    write_then_rename(path, |temporary| {
        let mut file = File::create(temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    })?;
    // Not every system can open a directory; where it can, the rename is on disk after this.
    if let Some(directory) = path.parent().and_then(|directory| File::open(directory).ok()) {
        directory.sync_all().map_err(FileError::writing(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes that other threads are starting hold copies of every open file for a moment.
    #[test]
    fn a_lock_ends_with_its_owner_whoever_has_a_copy_of_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let owner = lock(directory.path()).unwrap().expect("a directory that can be locked");
        let copy = owner.0.try_clone().unwrap();
        assert!(matches!(lock(directory.path()), Err(Error::Locked { .. })));
        drop(owner);
        assert!(lock(directory.path()).unwrap().is_some());
        drop(copy);
    }
}
