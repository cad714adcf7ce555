//! Batches of packed passages, in an order that can be resumed exactly.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::permutation::Permutation;
use super::{Error, PassageRef, TokenStore};
use crate::common::PackedSentences;

/// Maximum number of passages that are carried over. More would hardly fill batches better, and would make a checkpoint's position
/// longer.
const CARRIED_OVER_MAX: usize = 8;

/// Options for sampling batches.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    /// Seed of the order of each epoch's passages.
    pub seed: u64,
    /// Maximum number of tokens in a batch, over all sentences.
    pub batch_tokens: usize,
    /// Index of this rank's part: every epoch is split into `ranks` disjoint parts; rank 0 of 1 samples all of it.
    pub rank: u32,
    /// Number of ranks: at least 1, and at most one a passage.
    pub ranks: u32,
}

/// Position of a sampler: all of its state that a checkpoint must keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Completed epochs over the corpus.
    pub epoch: u32,
    /// Passages of this rank's part of the epoch's order that have been visited.
    pub cursor: u32,
    /// Passages of this epoch that did not fit when they came up; they go first into the next batch. Older checkpoints have none, or name them
    /// `put_off`.
    #[serde(default, alias = "put_off")]
    pub carried_over: Vec<u32>,
}

/// Samples batches of tokenized passages.
///
/// Each epoch visits every passage once, in a fresh order. A batch takes passages until they fill `batch_tokens`; one that does not fit goes
/// first into the next batch. The sentences of a batch are sorted from the longest to the shortest, so that the blocks with the most work start
/// first. No batch holds a passage twice.
///
/// The batch is a pure function of the store, the options and the [`Position`].
#[derive(Clone, Debug)]
pub struct BatchSampler {
    store: Arc<TokenStore>,
    /// Indices of passages that are never sampled, ascending.
    skipped: Arc<[u32]>,
    options: BatchOptions,
    position: Position,
    /// Order of `position.epoch`, over the passages that are not skipped.
    permutation: Permutation,
}

impl BatchSampler {
    /// Creates a sampler at `position`; [`Position::default`] is the start. The passages whose indices are in `skipped`, ascending, are never
    /// sampled.
    ///
    /// # Errors
    /// One each for a store without passages, an invalid rank, a `batch_tokens` below the longest passage, skipped passages that are not
    /// ascending and a position beyond the corpus.
    pub fn new(
        store: Arc<TokenStore>,
        skipped: Vec<u32>,
        options: BatchOptions,
        position: Position,
    ) -> Result<Self, Error> {
        let all = store.len();
        if skipped.windows(2).any(|pair| pair[0] >= pair[1])
            || skipped.last().is_some_and(|&last| last as usize >= all)
        {
            return Err(Error::SkippedPassages { passages: all });
        }
        let count = (all - skipped.len()) as u32;
        if count == 0 {
            return Err(Error::NoPassages);
        }
        let BatchOptions { seed, batch_tokens, rank, ranks } = options;
        if ranks == 0 || ranks > count || rank >= ranks {
            return Err(Error::Rank { rank, ranks, passages: count });
        }
        let longest = store.longest();
        if batch_tokens < longest || batch_tokens > i32::MAX as usize {
            return Err(Error::BatchTokens { batch_tokens, longest });
        }
        let permutation = Permutation::new(seed, position.epoch, count);
        let sampler = Self { store, skipped: skipped.into(), options, position, permutation };
        let Position { epoch, cursor, carried_over } = &sampler.position;
        if *cursor > sampler.places()
            || carried_over.len() > CARRIED_OVER_MAX
            || carried_over.iter().any(|&index| !sampler.is_sampled(index))
        {
            return Err(Error::Position {
                epoch: *epoch,
                cursor: *cursor,
                passages: sampler.places() as usize,
            });
        }
        Ok(sampler)
    }

    /// Returns a sampler of the same passages and options at another position.
    ///
    /// # Errors
    /// [`Error::Position`].
    pub fn at(&self, position: Position) -> Result<Self, Error> {
        Self::new(self.store.clone(), self.skipped.to_vec(), self.options, position)
    }

    /// Returns the store whose passages are sampled.
    #[must_use]
    pub fn store(&self) -> &TokenStore {
        &self.store
    }

    /// Returns the position at which the next batch begins.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    /// Counts the batches from here to the end of epoch `epochs - 1`; the last one may reach into the next epoch.
    #[must_use]
    pub fn batches_until(&self, epochs: u32) -> u64 {
        let mut ahead = self.clone();
        let mut batches = 0;
        while !ahead.is_through(epochs) {
            ahead.next_passages();
            batches += 1;
        }
        batches
    }

    /// Returns the next batch, and moves the position past it.
    #[must_use]
    pub fn next_batch(&mut self) -> PackedSentences {
        let sentence_indices = self.next_passages();
        let mut packed = PackedSentences {
            cu_seqlens: Vec::with_capacity(sentence_indices.len() + 1),
            ids: Vec::with_capacity(self.options.batch_tokens),
            word_starts: Vec::with_capacity(self.options.batch_tokens.div_ceil(32)),
            sentence_indices,
        };
        packed.cu_seqlens.push(0);
        for &index in &packed.sentence_indices {
            let PassageRef { ids, word_starts } = self.store.passage(index);
            word_starts.append_to(&mut packed.word_starts, packed.ids.len());
            ids.append_to(&mut packed.ids);
            packed.cu_seqlens.push(packed.ids.len() as i32);
        }
        packed
    }

    fn count(&self) -> u32 {
        (self.store.len() - self.skipped.len()) as u32
    }

    /// Returns the number of passages of an epoch in this rank's part.
    fn places(&self) -> u32 {
        (self.count() - self.options.rank).div_ceil(self.options.ranks)
    }

    fn is_sampled(&self, index: u32) -> bool {
        (index as usize) < self.store.len() && self.skipped.binary_search(&index).is_err()
    }

    /// Returns the index of the passage at `cursor` in this rank's part.
    fn passage_at(&self, cursor: u32) -> u32 {
        let sampled = self.permutation.at(self.options.rank + cursor * self.options.ranks);
        // Binary search for the number of skipped passages before the one that is `sampled`-th among the others.
        let (mut low, mut high) = (0, self.skipped.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.skipped[middle] - middle as u32 <= sampled { low = middle + 1 } else { high = middle }
        }
        sampled + low as u32
    }

    fn length(&self, index: u32) -> usize {
        self.store.passage(index).len()
    }

    /// Returns whether everything before epoch `epochs` has been sampled.
    fn is_through(&self, epochs: u32) -> bool {
        let Position { epoch, cursor, carried_over } = &self.position;
        *epoch >= epochs || (*epoch + 1 == epochs && *cursor == self.places() && carried_over.is_empty())
    }

    /// Returns the passages of the next batch, the longest first, and moves the position past them.
    ///
    /// Passages are taken in order. One that does not fit is carried over to the next batch, where it goes first. The batch ends when the room left
    /// is below the shortest passage or too many passages are carried over. It reaches into the next epoch only if no passage of this one is
    /// carried over, and ends early rather than hold a passage twice.
    fn next_passages(&mut self) -> Vec<u32> {
        let shortest = self.store.shortest();
        let mut room = self.options.batch_tokens;
        let mut taken: Vec<(usize, u32)> = Vec::new();
        let waiting = std::mem::take(&mut self.position.carried_over);
        for index in waiting {
            self.take_or_carry_over(index, &mut room, &mut taken);
        }
        let mut earlier_epoch = 0;
        while room >= shortest && self.position.carried_over.len() < CARRIED_OVER_MAX {
            if self.position.cursor == self.places() {
                if !self.position.carried_over.is_empty() {
                    break;
                }
                earlier_epoch = taken.len();
                let epoch = self.position.epoch.wrapping_add(1);
                self.position = Position { epoch, ..Position::default() };
                self.permutation = Permutation::new(self.options.seed, epoch, self.count());
            }
            let index = self.passage_at(self.position.cursor);
            if taken[..earlier_epoch].iter().any(|&(_, earlier)| earlier == index) {
                break;
            }
            self.position.cursor += 1;
            self.take_or_carry_over(index, &mut room, &mut taken);
        }
        taken.sort_by_key(|&(length, _)| std::cmp::Reverse(length));
        taken.into_iter().map(|(_, index)| index).collect()
    }

    fn take_or_carry_over(&mut self, index: u32, room: &mut usize, taken: &mut Vec<(usize, u32)>) {
        let length = self.length(index);
        if let Some(rest) = room.checked_sub(length) {
            *room = rest;
            taken.push((length, index));
        } else {
            self.position.carried_over.push(index);
        }
    }
}
