//! Tokenized passages: in memory, or in a directory of memory-mapped shards that may be larger than memory.
//!
//! A directory holds `store.json` ([`Manifest`]), the tokenizer's files, and `shard-00000.tokens` and so on, each with a checksum in the
//! manifest. The files must not change while they are read.

mod manifest;
mod shard;
mod writer;

use std::path::Path;

use rayon::prelude::*;

pub(super) use manifest::RULES;
pub use manifest::{Manifest, Plan, ShardRecord};
pub use writer::StoreWriter;

pub use super::documents::SourceRecord;
use super::passages::Fingerprints;
use super::{Error, PassageRef, Passages};
use shard::Shard;

/// All passages of a corpus, read in place.
#[derive(Debug)]
pub struct TokenStore {
    shards: Vec<Shard>,
    /// Number of passages before each shard, and the total at the end.
    before: Vec<usize>,
    vocab_size: u32,
    /// Histogram of passage lengths, indexed by tokens.
    lengths: Vec<u64>,
}

impl TokenStore {
    /// Creates a store of passages in memory.
    ///
    /// # Errors
    /// [`Error::TokenId`] for an id of `vocab_size` or more; [`Error::TooManyPassages`].
    pub fn in_memory(passages: &Passages, vocab_size: u32) -> Result<Self, Error> {
        passages.check_ids(vocab_size)?;
        let shard = Shard::in_memory(passages, vocab_size);
        let shard = shard.map_err(|reason| Error::Shard { path: "in memory".into(), reason })?;
        Self::new(vec![shard], vocab_size)
    }

    /// Opens the store in a directory, whose manifest has been read. Every shard is compared with its checksum, in parallel, before any passage
    /// is read.
    ///
    /// # Errors
    /// [`Error::StoreIncomplete`]; [`Error::Shard`] names a shard that is missing, damaged, truncated or a different one;
    /// [`Error::TooManyPassages`].
    pub fn open(directory: &Path, manifest: &Manifest) -> Result<Self, Error> {
        if !manifest.complete {
            return Err(Error::StoreIncomplete { path: directory.to_owned(), shards: manifest.shards.len() });
        }
        let open = |record: &ShardRecord| record.open(directory, manifest.vocab_size);
        let shards = manifest.shards.par_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        Self::new(shards, manifest.vocab_size)
    }

    fn new(shards: Vec<Shard>, vocab_size: u32) -> Result<Self, Error> {
        let mut before = vec![0];
        let mut total = 0;
        before.extend(shards.iter().map(|shard| {
            total += shard.passages();
            total
        }));
        if total > u32::MAX as usize {
            return Err(Error::TooManyPassages { count: total, maximum: u32::MAX });
        }
        let longest = shards.iter().map(Shard::longest).max().unwrap_or(0);
        let counts = |shard: &Shard| {
            let mut counts = vec![0; longest + 1];
            shard.offsets().windows(2).for_each(|pair| counts[(pair[1] - pair[0]) as usize] += 1);
            counts
        };
        let sum = |mut sums: Vec<u64>, counts: Vec<u64>| {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            sums
        };
        let lengths = shards.par_iter().map(counts).reduce(|| vec![0; longest + 1], sum);
        Ok(Self { shards, before, vocab_size, lengths })
    }

    /// Returns the number of passages in all shards.
    #[must_use]
    pub fn len(&self) -> usize {
        self.before.last().copied().unwrap_or(0)
    }

    /// Returns whether there is no passage.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of tokens in all shards, special ones included.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        self.shards.iter().map(Shard::tokens).sum()
    }

    /// Returns the size of the vocabulary; every id is below it.
    #[must_use]
    pub fn vocab_size(&self) -> u32 {
        self.vocab_size
    }

    /// Returns the histogram of passage lengths: element `n` counts the passages of `n` tokens, up to the longest.
    #[must_use]
    pub fn lengths(&self) -> &[u64] {
        &self.lengths
    }

    /// Returns the tokens of the longest passage, 0 without a passage.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.lengths.len().saturating_sub(1)
    }

    /// Returns the tokens of the shortest passage, 0 without a passage.
    #[must_use]
    pub fn shortest(&self) -> usize {
        self.lengths.iter().position(|&count| count > 0).unwrap_or(0)
    }

    /// Returns the passage at `index` without copying it.
    ///
    /// # Panics
    /// When `index` is not below the number of passages.
    #[must_use]
    pub fn passage(&self, index: u32) -> PassageRef<'_> {
        let index = index as usize;
        let shard = self.before.partition_point(|&before| before <= index) - 1;
        self.shards[shard].passage(index - self.before[shard])
    }

    /// Returns the indices of all passages with the same tokens as one of `passages`, ascending. Scans the whole store.
    #[must_use]
    pub fn indices_of<'a>(&self, passages: impl Iterator<Item = PassageRef<'a>>) -> Vec<u32> {
        let wanted: Fingerprints = passages.map(|passage| passage.fingerprint()).collect();
        if wanted.is_empty() {
            return Vec::new();
        }
        let all = (0..self.len() as u32).into_par_iter();
        all.filter(|&index| wanted.contains(&self.passage(index).fingerprint())).collect()
    }
}
