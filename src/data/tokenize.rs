//! From text files to a store: reading, tokenizing on all cores, and writing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::store::{Manifest, Plan, RULES, StoreWriter};
use super::{CorpusReport, Document, Documents, Error, ReadOptions, Tokenizer};

/// Bytes of text tokenized at once: enough to keep many cores busy, small compared with a shard.
const BATCH_BYTES: usize = 2 << 20;
/// Batches queued while one is tokenized.
const BATCHES_AHEAD: usize = 2;

/// Inputs, options and directory of a store.
#[derive(Clone, Debug)]
pub struct TokenizeOptions {
    /// Files, directories, and `-` for the standard input.
    pub corpus: Vec<PathBuf>,
    /// Options for reading the text.
    pub read: ReadOptions,
    /// `vocab.txt`, `tokenizer.json`, or a directory that holds one of them.
    pub vocabulary: PathBuf,
    /// Directory of the store.
    pub out: PathBuf,
    /// Maximum number of tokens of a passage.
    pub max_len: usize,
    /// A shard ends with the document that reaches this many tokens.
    pub shard_tokens: usize,
    /// Removes a store that is already there.
    pub overwrite: bool,
}

impl TokenizeOptions {
    /// Returns the plan of a store of `documents` with these options: everything that must be the same when it is resumed.
    #[must_use]
    pub fn plan(&self, tokenizer: &Tokenizer, documents: &Documents) -> Plan {
        Plan {
            tokenizer: tokenizer.checksum(),
            vocab_size: tokenizer.vocab_size() as u32,
            max_len: self.max_len,
            shard_tokens: self.shard_tokens,
            field: self.read.field.clone(),
            format: self.read.format,
            sources: documents.sources(),
            rules: RULES,
        }
    }
}

/// Progress of tokenizing.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of files that were read.
    pub bytes: u64,
    /// Bytes of all files; `None` if unknown.
    pub total_bytes: Option<u64>,
    /// Passages so far, those of an earlier run included.
    pub passages: usize,
    /// Tokens so far, special ones included.
    pub tokens: usize,
    /// Complete shards so far.
    pub shards: usize,
}

/// Reads all text and writes it as a store, or resumes one that was not finished. `watch` is called after each batch.
///
/// The same text and options give the same bytes, independent of the number of threads and of interruptions. A complete store is left as it is;
/// then the second value is false.
///
/// # Errors
/// Those of [`Documents`], [`Tokenizer`] and [`StoreWriter`]; [`Error::EmptyCorpus`]. Everything written before the error stays, to resume from.
pub fn tokenize(
    options: &TokenizeOptions,
    mut watch: impl FnMut(Progress),
) -> Result<(Manifest, bool), Error> {
    if options.max_len < 3 {
        return Err(Error::MaxLen { max_len: options.max_len });
    }
    if options.shard_tokens == 0 {
        return Err(Error::ShardTokens);
    }
    let tokenizer = Tokenizer::from_path(&options.vocabulary)?;
    let documents = Documents::open(&options.corpus, options.read.clone())?;
    let plan = options.plan(&tokenizer, &documents);
    let mut writer = StoreWriter::open(&options.out, plan, &tokenizer, options.overwrite)?;
    if writer.manifest().complete {
        return Ok((writer.manifest().clone(), false));
    }
    let documents = documents.starting_at(writer.manifest().read_offset);
    let (total_bytes, bytes_read) = (documents.total_bytes(), documents.bytes_read());
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    let reader = std::thread::spawn(move || read(documents, &sender));
    let mut progress = |writer: &StoreWriter| watch(Progress::of(writer, &bytes_read, total_bytes));
    let written = write(&mut writer, &tokenizer, options.max_len, &receiver, &mut progress);
    // Closing the queue stops a reader that has not finished.
    drop(receiver);
    let read = reader.join().map_err(|_| Error::ReaderThread)?;
    written?;
    let rest = read?;
    if writer.encoded().passages == 0 {
        let mut report = writer.text().clone();
        report.add(&rest);
        let origin: Vec<String> = options.corpus.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::EmptyCorpus { origin: origin.join("`, `"), report: Box::new(report) });
    }
    Ok((writer.finish(&rest)?, true))
}

impl Progress {
    fn of(writer: &StoreWriter, bytes_read: &Arc<AtomicU64>, total_bytes: Option<u64>) -> Self {
        Self {
            bytes: bytes_read.load(Ordering::Relaxed),
            total_bytes,
            passages: writer.encoded().passages,
            tokens: writer.encoded().tokens,
            shards: writer.manifest().shards.len(),
        }
    }
}

/// Sends batches of documents until the receiver is closed or the text ends; then returns the counts of what was left out after the last
/// document.
fn read(mut documents: Documents, sender: &SyncSender<Vec<Document>>) -> Result<CorpusReport, Error> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for document in documents.by_ref() {
        let document = document?;
        bytes += document.text.len();
        batch.push(document);
        if bytes >= BATCH_BYTES {
            bytes = 0;
            if sender.send(std::mem::take(&mut batch)).is_err() {
                return Ok(CorpusReport::default());
            }
        }
    }
    if !batch.is_empty() {
        let _ = sender.send(batch);
    }
    Ok(documents.rest().clone())
}

/// Tokenizes and appends the documents that the reader sends.
fn write(
    writer: &mut StoreWriter,
    tokenizer: &Tokenizer,
    max_len: usize,
    receiver: &Receiver<Vec<Document>>,
    progress: &mut impl FnMut(&StoreWriter),
) -> Result<(), Error> {
    for batch in receiver {
        let texts: Vec<&str> = batch.iter().map(|document| document.text.as_str()).collect();
        let encoded = tokenizer.encode_texts(&texts, max_len)?;
        for (document, encoded) in batch.iter().zip(&encoded) {
            writer.append(encoded, &document.report, document.read_offset)?;
        }
        progress(writer);
    }
    Ok(())
}
