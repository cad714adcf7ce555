//! From text on disk to the packed, corrupted batches of a training step.
//!
//! [`Corpus`] reads passages, [`Tokenizer`] turns them into ids, [`BatchDrawer`] draws batches whose every random
//! decision is a pure function of (seed, position, step), so a run can stop anywhere and go on exactly.

mod batch;
mod corpus;
mod error;
mod installed;
pub mod masks;
mod permutation;
mod prose;
mod sentences;
mod tokenizer;
mod word_piece;

pub use batch::{BatchDrawer, BatchOptions, DrawnBatch, Position};
pub use corpus::{Corpus, CorpusReport};
pub use error::Error;
pub(crate) use permutation::Permutation;
pub use prose::{doc_comment_blocks, markdown_paragraphs};
pub use sentences::sentences;
pub use tokenizer::{EncodeReport, EncodedCorpus, Passage, SpecialTokens, Tokenizer, word_kind};

use std::path::Path;

/// Writes `bytes` under a temporary name beside `path` and renames it, so that `path` never holds half a file.
///
/// # Errors
/// [`Error::Write`] with `path` and the cause.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    let written = std::fs::write(&temporary, bytes).and_then(|()| std::fs::rename(&temporary, path));
    written.map_err(|source| {
        let _ = std::fs::remove_file(&temporary);
        Error::Write { path: path.to_owned(), source }
    })
}
