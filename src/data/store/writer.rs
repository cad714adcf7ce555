//! Writer of a store: shards are written one by one, so that a killed process loses at most the one in memory.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::manifest::{MANIFEST_FILE, Manifest, Plan, ShardRecord};
use super::shard::Shard;
use crate::common::FileError;
use crate::data::passages::{Fingerprint, Fingerprints, Passages};
use crate::data::{
    CorpusReport, DirectoryLock, EncodeReport, EncodedCorpus, Error, ReadOffset, Tokenizer, lock,
    write_synced,
};

const SHARD_SUFFIX: &str = ".tokens";

/// Appends passages to a store, each once: a passage with the tokens of an earlier one is left out and counted.
///
/// For that it keeps a 64-bit hash of each passage, and nothing else that grows with the store: about 20 bytes a passage. Among 10^9 passages,
/// the chance that two have the same hash by accident is 1 in 40; one of them is then left out.
///
/// A shard is written under a temporary name, synced and renamed, and then the manifest likewise: however the process ends, the manifest on disk
/// is correct, and the same command resumes from it.
#[derive(Debug)]
pub struct StoreWriter {
    directory: PathBuf,
    manifest: Manifest,
    open: Passages,
    /// Fingerprints of the passages in the shards and in `open`.
    seen: Fingerprints,
    /// Counts for the text up to the end of `open`.
    text: CorpusReport,
    encoded: EncodeReport,
    read_offset: ReadOffset,
    /// Lock against other processes.
    _lock: Option<DirectoryLock>,
}

impl StoreWriter {
    /// Resumes the store in `directory`, or begins one in a directory that is free for it. With `overwrite`, a store that is there is removed.
    ///
    /// # Errors
    /// [`Error::Locked`] while another process writes the store; [`Error::StorePlan`] names the option that differs from when the store was
    /// begun; [`Error::StoreNotEmpty`]; [`FileError::Read`], [`FileError::Write`], [`Error::Manifest`]; [`Error::Shard`] for a finished shard
    /// that is missing or damaged.
    pub fn open(directory: &Path, plan: Plan, tokenizer: &Tokenizer, overwrite: bool) -> Result<Self, Error> {
        std::fs::create_dir_all(directory).map_err(FileError::writing(directory))?;
        let lock = lock(directory)?;
        let begun = Manifest::is_in(directory);
        if overwrite || !begun {
            Self::prepare(directory, begun)?;
            Manifest::new(plan.clone()).write(directory)?;
        }
        let manifest = Manifest::read(directory)?;
        compare(directory, &manifest.plan, &plan)?;
        let fingerprints = |record: &ShardRecord| {
            let shard = record.open(directory, manifest.vocab_size)?;
            Ok((0..shard.passages()).map(|index| shard.passage(index).fingerprint()).collect())
        };
        let seen: Vec<Vec<Fingerprint>> =
            manifest.shards.par_iter().map(fingerprints).collect::<Result<_, Error>>()?;
        remove_temporary(directory)?;
        if !directory.join("tokenizer_config.json").is_file() || !directory.join("tokenizer.json").is_file() {
            tokenizer.save(directory, manifest.max_len)?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            open: Passages::default(),
            seen: seen.into_iter().flatten().collect(),
            text: manifest.text.clone(),
            encoded: manifest.encoded,
            read_offset: manifest.read_offset,
            manifest,
            _lock: lock,
        })
    }

    /// Removes the store in the directory, the manifest first; refuses a directory without a store that holds any other file.
    fn prepare(directory: &Path, begun: bool) -> Result<(), Error> {
        if begun {
            let path = directory.join(MANIFEST_FILE);
            std::fs::remove_file(&path).map_err(FileError::writing(&path))?;
        }
        for path in entries(directory)? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ours = is_temporary(&name) || is_shard(&name);
            let tokenizer = ["tokenizer.json", "tokenizer_config.json", "vocab.txt"].contains(&name.as_str());
            if begun && (ours || tokenizer) || is_temporary(&name) {
                std::fs::remove_file(&path).map_err(FileError::writing(&path))?;
            } else if !begun {
                return Err(Error::StoreNotEmpty { path: directory.to_owned(), found: name });
            }
        }
        Ok(())
    }

    /// Returns the contents of `store.json` for the shards that are complete.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the counts for the passages in the shards and those appended since.
    #[must_use]
    pub fn encoded(&self) -> &EncodeReport {
        &self.encoded
    }

    /// Returns the counts for the text up to the last appended document.
    #[must_use]
    pub fn text(&self) -> &CorpusReport {
        &self.text
    }

    /// Appends the new passages of one document; `read_offset` is the read offset after it.
    ///
    /// # Errors
    /// [`FileError::Write`] names the file; the shards before it stay.
    pub fn append(
        &mut self,
        document: &EncodedCorpus,
        text: &CorpusReport,
        read_offset: ReadOffset,
    ) -> Result<(), Error> {
        let before = (self.open.len(), self.open.tokens());
        for passage in document.passages.iter() {
            if self.seen.insert(passage.fingerprint()) {
                self.open.push_copy(passage);
            }
        }
        let (passages, tokens) = (self.open.len() - before.0, self.open.tokens() - before.1);
        let duplicates = document.report.passages - passages;
        self.text.add(text);
        self.encoded.add(&EncodeReport { passages, tokens, duplicates, ..document.report });
        self.read_offset = read_offset;
        if self.open.tokens() >= self.manifest.shard_tokens { self.close_shard() } else { Ok(()) }
    }

    /// Writes the remaining passages, and marks the store as complete. `text` counts what was read after the last document.
    ///
    /// # Errors
    /// [`FileError::Write`]; [`Error::TokenId`].
    pub fn finish(mut self, text: &CorpusReport) -> Result<Manifest, Error> {
        if !self.open.is_empty() || self.manifest.shards.is_empty() {
            self.close_shard()?;
        }
        self.text.add(text);
        self.manifest.text = self.text;
        self.manifest.encoded = self.encoded;
        self.manifest.read_offset = self.read_offset;
        self.manifest.complete = true;
        self.manifest.write(&self.directory)?;
        Ok(self.manifest)
    }

    fn close_shard(&mut self) -> Result<(), Error> {
        let file = format!("shard-{:05}{SHARD_SUFFIX}", self.manifest.shards.len());
        let path = self.directory.join(&file);
        self.open.check_ids(self.manifest.vocab_size)?;
        let shard = Shard::in_memory(&self.open, self.manifest.vocab_size)
            .map_err(|reason| Error::Shard { path: path.clone(), reason })?;
        write_synced(&path, shard.bytes())?;
        self.open = Passages::default();
        self.manifest.shards.push(ShardRecord::of(file, &shard));
        self.manifest.text = self.text.clone();
        self.manifest.encoded = self.encoded;
        self.manifest.read_offset = self.read_offset;
        self.manifest.write(&self.directory)
    }
}

/// Refuses to resume a store that was begun with other options.
fn compare(directory: &Path, begun: &Plan, given: &Plan) -> Result<(), Error> {
    let differs = |argument: &'static str, given: &dyn std::fmt::Display, begun: &dyn std::fmt::Display| {
        let (given, begun) = (given.to_string(), begun.to_string());
        Err(Error::StorePlan { path: directory.to_owned(), argument, given, begun })
    };
    if begun.tokenizer != given.tokenizer || begun.vocab_size != given.vocab_size {
        return differs("vocabulary", &given.tokenizer, &begun.tokenizer);
    }
    if begun.max_len != given.max_len {
        return differs("max_len", &given.max_len, &begun.max_len);
    }
    if begun.shard_tokens != given.shard_tokens {
        return differs("shard_tokens", &given.shard_tokens, &begun.shard_tokens);
    }
    if begun.field != given.field {
        return differs("field", &given.field, &begun.field);
    }
    if begun.format != given.format {
        let name = |plan: &Plan| plan.format.map_or("left out".to_owned(), |format| format.to_string());
        return differs("format", &name(given), &name(begun));
    }
    if begun.rules != given.rules {
        let rules = |plan: &Plan| format!("number {}", plan.rules);
        return differs("the way to make passages", &rules(given), &rules(begun));
    }
    if begun.sources.len() != given.sources.len() {
        let files = |plan: &Plan| format!("{} files", plan.sources.len());
        return differs("corpus", &files(given), &files(begun));
    }
    for (begun, given) in begun.sources.iter().zip(&given.sources) {
        if begun != given {
            let what = |source: &super::SourceRecord| {
                let size = source.size.map_or("unknown".into(), |size| size.to_string());
                let modified = source.modified_ns.map_or("unknown".into(), |time| time.to_string());
                format!("`{}` of {size} bytes, changed at {modified} ns", source.path.display())
            };
            return differs("corpus", &what(given), &what(begun));
        }
    }
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let failed = FileError::reading(directory);
    let entries = std::fs::read_dir(directory).map_err(failed)?;
    entries.map(|entry| Ok(entry.map_err(failed)?.path())).collect()
}

/// Removes half-written files of a killed process.
fn remove_temporary(directory: &Path) -> Result<(), Error> {
    for path in entries(directory)? {
        if is_temporary(&path.file_name().unwrap_or_default().to_string_lossy()) {
            std::fs::remove_file(&path).map_err(FileError::writing(&path))?;
        }
    }
    Ok(())
}

fn is_temporary(name: &str) -> bool {
    let stem = name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp"));
    stem.is_some_and(|stem| {
        is_shard(stem) || stem == MANIFEST_FILE || stem.starts_with("tokenizer") || stem == "vocab.txt"
    })
}

fn is_shard(name: &str) -> bool {
    name.starts_with("shard-") && name.ends_with(SHARD_SUFFIX)
}
