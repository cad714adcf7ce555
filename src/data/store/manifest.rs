//! `store.json`: the contents of a store, and the options that it was made with.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::shard::{Shard, id_bytes};
use crate::common::FileError;
use crate::data::documents::SourceRecord;
use crate::data::{CorpusReport, EncodeReport, Error, ReadOffset, TextFormat, checksum, write_synced};

/// File name of the manifest in its directory.
pub(in crate::data) const MANIFEST_FILE: &str = "store.json";
/// Format version that this code writes and reads.
const VERSION: u32 = 1;
/// Version of the rules that turn text into passages: a store is finished by the rules that it was begun with. 1: each passage is stored once.
pub(in crate::data) const RULES: u32 = 1;

/// A shard, with its checksum and sizes to verify its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardRecord {
    /// File name in the directory.
    pub file: String,
    /// Number of passages.
    pub passages: u64,
    /// Tokens of all passages, special ones included.
    pub tokens: u64,
    /// Tokens of the longest passage.
    pub longest: usize,
    /// xxh3-64 of the whole file, in hexadecimal.
    pub checksum: String,
}

impl ShardRecord {
    pub(super) fn of(file: String, shard: &Shard) -> Self {
        Self {
            file,
            passages: shard.passages() as u64,
            tokens: shard.tokens(),
            longest: shard.longest(),
            checksum: checksum(shard.bytes()),
        }
    }

    /// Maps the shard in `directory` and compares it with this record.
    ///
    /// # Errors
    /// [`Error::Shard`] for a shard that is missing, damaged, truncated or a different one.
    pub(super) fn open(&self, directory: &Path, vocab_size: u32) -> Result<Shard, Error> {
        const CURE: &str = "make the store again, with overwrite, or bring the file back";
        let path = directory.join(&self.file);
        let whole = || {
            let shard = Shard::map(&path)?;
            let found = Self::of(self.file.clone(), &shard);
            if found.checksum != self.checksum {
                let (found, right) = (&found.checksum, &self.checksum);
                return Err(format!("its checksum is {found}; it should be {right}"));
            }
            if found != *self {
                return Err(format!("it has {} passages; it should have {}", found.passages, self.passages));
            }
            if shard.id_bytes() != id_bytes(vocab_size) || shard.largest_id() >= vocab_size {
                return Err(format!("it has ids beyond the vocabulary of {vocab_size}"));
            }
            Ok(shard)
        };
        let opened = whole().map_err(|reason| format!("{reason}; {CURE}"));
        opened.map_err(|reason| Error::Shard { path, reason })
    }
}

/// Options that must be the same when an unfinished store is resumed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// xxh3-64 of `tokenizer.json`, in hexadecimal.
    pub tokenizer: String,
    /// Size of the vocabulary; every id is below it.
    pub vocab_size: u32,
    /// Maximum number of tokens of a passage.
    pub max_len: usize,
    /// A shard ends with the document that reaches this many tokens.
    pub shard_tokens: usize,
    /// Field of JSON lines that holds the text.
    pub field: String,
    /// [`ReadOptions::format`](crate::data::ReadOptions).
    pub format: Option<TextFormat>,
    /// Files of text, in the order in which they are read.
    pub sources: Vec<SourceRecord>,
    /// Version of the rules that turn text into passages; 0 for stores from before the rules had a version.
    #[serde(default)]
    pub rules: u32,
}

/// Contents of `store.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format of manifest and shards.
    pub version: u32,
    /// Options that the store was begun with; its fields stand beside the others in the file.
    #[serde(flatten)]
    pub plan: Plan,
    /// Bytes of a stored id: 2 or 4.
    pub id_bytes: u32,
    /// Complete shards, in the order of the text.
    pub shards: Vec<ShardRecord>,
    /// Read offset just after the last shard.
    pub read_offset: ReadOffset,
    /// Counts for the text in the shards.
    pub text: CorpusReport,
    /// Counts for the passages in the shards.
    pub encoded: EncodeReport,
    /// All sources are in the shards.
    pub complete: bool,
}

impl std::ops::Deref for Manifest {
    type Target = Plan;

    fn deref(&self) -> &Plan {
        &self.plan
    }
}

impl Manifest {
    /// Creates the manifest of a store without shards.
    #[must_use]
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            version: VERSION,
            id_bytes: id_bytes(plan.vocab_size),
            plan,
            shards: Vec::new(),
            read_offset: ReadOffset::default(),
            text: CorpusReport::default(),
            encoded: EncodeReport::default(),
            complete: false,
        }
    }

    /// Returns whether `directory` holds a store.
    #[must_use]
    pub fn is_in(directory: &Path) -> bool {
        directory.join(MANIFEST_FILE).is_file()
    }

    /// Reads the manifest in `directory`.
    ///
    /// # Errors
    /// [`FileError::Read`], [`Error::Manifest`].
    pub fn read(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(MANIFEST_FILE);
        let text = std::fs::read(&path).map_err(FileError::reading(&path))?;
        let failed = |reason: String| Error::Manifest { path: path.clone(), reason };
        let version: serde_json::Value =
            serde_json::from_slice(&text).map_err(|error| failed(error.to_string()))?;
        if version["version"] != VERSION {
            return Err(failed(format!("version is {}; it should be {VERSION}", version["version"])));
        }
        serde_json::from_value(version).map_err(|error| failed(error.to_string()))
    }

    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let path = directory.join(MANIFEST_FILE);
        let text = serde_json::to_vec_pretty(self);
        let mut text = text.map_err(|error| FileError::writing(&path)(error.into()))?;
        text.push(b'\n');
        Ok(write_synced(&path, &text)?)
    }

    /// Returns a hash over the checksums of all shards: stores with the same one hold the same passages.
    #[must_use]
    pub fn checksum(&self) -> String {
        let all: Vec<&str> = self.shards.iter().map(|shard| shard.checksum.as_str()).collect();
        checksum(all.join(" ").as_bytes())
    }
}
