//! From files of text to a store: reading, tokenizing on all cores, and writing.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::store::{Manifest, Plan, RULES, StoreWriter};
use super::{CorpusReport, Document, Documents, Error, ReadOptions, Tokenizer};

/// Text that goes to the tokenizer at once: enough to keep many cores busy, little beside a shard.
const BATCH_BYTES: usize = 2 << 20;
/// Batches that wait while one is tokenized.
const BATCHES_AHEAD: usize = 2;

/// What a store is made of, and where.
#[derive(Clone, Debug)]
pub struct TokenizeOptions {
    /// Files, directories, and `-` for the standard input.
    pub corpus: Vec<PathBuf>,
    pub read: ReadOptions,
    /// `vocab.txt`, `tokenizer.json`, or a directory that holds one of them.
    pub vocabulary: PathBuf,
    /// The directory of the store.
    pub out: PathBuf,
    /// Tokens of a passage, at most.
    pub max_len: usize,
    /// A shard ends with the document that reaches so many tokens.
    pub shard_tokens: usize,
    /// Drop the store that is there.
    pub overwrite: bool,
}

impl TokenizeOptions {
    /// What these options make of `documents`, and what must be the same when work goes on.
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

/// How far tokenizing is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Bytes of files that were read.
    pub bytes: u64,
    /// Of all files; none where that is not known.
    pub total_bytes: Option<u64>,
    pub passages: usize,
    pub tokens: usize,
    pub shards: usize,
}

/// Reads all text and writes it as a store, or goes on with one that was not finished. `watch` is told after each batch.
///
/// The same text and options give the same bytes, whatever the number of threads and however often it was stopped. A store that is
/// complete is left as it is: then the second value is false.
///
/// # Errors
/// Those of [`Documents`], [`Tokenizer`] and [`StoreWriter`]; [`Error::EmptyCorpus`]. What had been written stays, to go on from.
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
    let documents = documents.starting_at(writer.manifest().standing);
    let (total_bytes, bytes_read) = (documents.total_bytes(), documents.bytes_read());
    let (sender, receiver) = sync_channel(BATCHES_AHEAD);
    let reader = std::thread::spawn(move || read(documents, &sender));
    let mut progress = |writer: &StoreWriter| watch(Progress::of(writer, &bytes_read, total_bytes));
    let written = write(&mut writer, &tokenizer, options.max_len, &receiver, &mut progress);
    // The closed queue is what ends a reader that is not through.
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

/// Reads on until nobody listens, or there is no more; then says what was left out behind the last document.
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

/// Tokenizes and appends what the reader sends.
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
            writer.append(encoded, &document.report, document.standing)?;
        }
        progress(writer);
    }
    Ok(())
}
