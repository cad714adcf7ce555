//! Batches of packed sentences, drawn in an order that can be resumed exactly.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::model::{Batch, DecoderKind, IGNORE_INDEX};
use crate::ops::masks::{Budget, word_start_bits};
use crate::random::Stream;

use super::masks::{corrupted, whole_word_mask};
use super::permutation::Permutation;
use super::{Error, Passage, SpecialTokens, word_kind};

/// The third counter word of an epoch's order, apart from every [`Stream`].
const EPOCH_ORDER: u32 = 0x8000_0100;

/// Passages that may wait for a batch with room for them.
const PUT_OFF_MAX: usize = 8;

/// How batches are drawn and corrupted.
#[derive(Clone, Copy, Debug)]
pub struct BatchOptions {
    pub seed: u64,
    /// The most tokens in a batch, all sentences together.
    pub batch_tokens: usize,
    /// The part of the encoder's input that is chosen, above 0 and below 1; the default of the paper is 0.3.
    pub encoder_ratio: f64,
    /// The part of the `basic` decoder's input that is masked; the enhanced decoder's masks are drawn on the device.
    pub decoder_ratio: f64,
    pub decoder: DecoderKind,
    pub vocab_size: u32,
    pub special_tokens: SpecialTokens,
    /// Which of the trainers this is that share an epoch, each with a part of its own: below `ranks`.
    pub rank: u32,
    /// How many there are; 1 where one has all.
    pub ranks: u32,
}

/// Where a drawer stands: all that a checkpoint must keep of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// How often the corpus has been gone through.
    pub epoch: u32,
    /// How many passages of this epoch's order have been come upon.
    pub cursor: u32,
    /// Of those, the ones that have not been drawn, because a batch had no room for them: they come first in the next.
    #[serde(default)]
    pub put_off: Vec<u32>,
}

/// A batch, and what the device needs to draw the decoder's visibility for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnBatch {
    /// Without a visibility bank.
    pub batch: Batch,
    /// `[B]` the index of each sentence's passage in the corpus: its part of every mask draw.
    pub sentence_indices: Vec<u32>,
    /// `[ceil(T / 32)]`: a bit a token, 1 where a word starts.
    pub word_starts: Vec<u32>,
}

/// Draws batches from a tokenized corpus.
///
/// Each epoch goes through the passages in a fresh order, of which rank `r` has every `ranks`-th place from `r` on. A batch takes passages as they
/// come, whatever their lengths, and the longest first within it, so that the work on them ends together. One that exceeds what is left of
/// `batch_tokens` is put off to the next batch while a few others are tried. Batches go on into the next epoch, so every passage is seen once an
/// epoch; they end early rather than hold a passage twice.
///
/// The batch is a pure function of the passages, the options, the [`Position`] and the step.
#[derive(Clone, Debug)]
pub struct BatchDrawer {
    passages: Arc<[Passage]>,
    options: BatchOptions,
    position: Position,
    /// Tokens of the shortest passage.
    shortest: usize,
}

/// The arrays of one sentence of a batch.
struct Sentence {
    encoder_input_ids: Vec<i32>,
    encoder_labels: Vec<i32>,
    decoder_input_ids: Vec<i32>,
    decoder_labels: Vec<i32>,
}

impl BatchDrawer {
    /// A drawer that stands at `position`; [`Position::default`] is the start.
    ///
    /// # Errors
    /// One each for an empty corpus, a malformed passage, a ratio, a `batch_tokens` below the longest passage, a rank and a position beyond the
    /// corpus.
    pub fn new(
        passages: impl Into<Arc<[Passage]>>,
        options: BatchOptions,
        position: Position,
    ) -> Result<Self, Error> {
        let passages = passages.into();
        validate_passages(&passages, options.vocab_size)?;
        for (name, value) in
            [("encoder_ratio", options.encoder_ratio), ("decoder_ratio", options.decoder_ratio)]
        {
            if !(value > 0.0 && value < 1.0) {
                return Err(Error::Ratio { name, value });
            }
        }
        let longest = passages.iter().map(|passage| passage.ids.len()).max().unwrap_or(0);
        if options.batch_tokens < longest || options.batch_tokens > i32::MAX as usize {
            return Err(Error::BatchTokens { batch_tokens: options.batch_tokens, longest });
        }
        let BatchOptions { rank, ranks, .. } = options;
        if rank >= ranks || ranks as usize > passages.len() {
            return Err(Error::Rank { rank, ranks, passages: passages.len() });
        }
        let lengths = passages.iter().map(|passage| passage.ids.len());
        let drawer = Self { shortest: lengths.min().unwrap_or(0), passages, options, position };
        let Position { epoch, cursor, ref put_off } = drawer.position;
        let known = |&index: &u32| (index as usize) < drawer.passages.len();
        if cursor > drawer.places() || !put_off.iter().all(known) {
            return Err(Error::Position { epoch, cursor, passages: drawer.places() as usize });
        }
        Ok(drawer)
    }

    /// Where the next batch begins.
    #[must_use]
    pub fn position(&self) -> &Position {
        &self.position
    }

    #[must_use]
    pub fn passages(&self) -> &Arc<[Passage]> {
        &self.passages
    }

    #[must_use]
    pub fn options(&self) -> BatchOptions {
        self.options
    }

    /// How many batches go from here to the end of epoch `epochs - 1`; the last one may reach into the next epoch.
    #[must_use]
    pub fn batches_until(&self, epochs: u32) -> u64 {
        let mut ahead = self.clone();
        let mut batches = 0;
        while ahead.position.epoch < epochs
            && !(ahead.position.epoch + 1 == epochs
                && ahead.position.cursor == ahead.places()
                && ahead.position.put_off.is_empty())
        {
            ahead.next_passages();
            batches += 1;
        }
        batches
    }

    /// Passages of an epoch that are this rank's.
    fn places(&self) -> u32 {
        let BatchOptions { rank, ranks, .. } = self.options;
        (self.passages.len() as u32 - rank).div_ceil(ranks)
    }

    /// The next batch, with the masks of `step`.
    #[must_use]
    pub fn draw(&mut self, step: u32) -> DrawnBatch {
        let sentence_indices = self.next_passages();
        let drawn: Vec<Sentence> =
            sentence_indices.par_iter().map(|&index| self.sentence(index, step)).collect();
        let tokens = drawn.iter().map(|sentence| sentence.encoder_input_ids.len()).sum();
        let mut batch = Batch { cu_seqlens: vec![0], ..Batch::default() };
        let mut word_starts = Vec::with_capacity(tokens);
        for (sentence, &index) in drawn.iter().zip(&sentence_indices) {
            batch.encoder_input_ids.extend_from_slice(&sentence.encoder_input_ids);
            batch.encoder_labels.extend_from_slice(&sentence.encoder_labels);
            batch.decoder_input_ids.extend_from_slice(&sentence.decoder_input_ids);
            batch.decoder_labels.extend_from_slice(&sentence.decoder_labels);
            batch.cu_seqlens.push(batch.encoder_input_ids.len() as i32);
            let kinds = &self.passages[index as usize].word_starts;
            word_starts.extend(kinds.iter().map(|&kind| kind == word_kind::START));
        }
        DrawnBatch { batch, sentence_indices, word_starts: word_start_bits(&word_starts) }
    }

    /// The passages of the next batch, the longest first; moves the position behind them.
    fn next_passages(&mut self) -> Vec<u32> {
        let BatchOptions { seed, batch_tokens, rank, ranks, .. } = self.options;
        let length = |index: u32| self.passages[index as usize].ids.len();
        let (places, count) = (self.places(), self.passages.len() as u32);
        let Position { epoch, cursor, put_off } = &mut self.position;
        let mut taken = Vec::new();
        let mut room = batch_tokens;
        put_off.retain(|&index| {
            let fits = length(index) <= room;
            if fits {
                room -= length(index);
                taken.push(index);
            }
            !fits
        });
        let mut order = Permutation::new(seed, EPOCH_ORDER, *epoch, count);
        let mut drawn: HashSet<u32> = taken.iter().copied().collect();
        while put_off.len() < PUT_OFF_MAX && room >= self.shortest {
            if *cursor == places {
                (*epoch, *cursor) = (epoch.wrapping_add(1), 0);
                order = Permutation::new(seed, EPOCH_ORDER, *epoch, count);
            }
            let index = order.at(*cursor * ranks + rank);
            if put_off.contains(&index) || !drawn.insert(index) {
                break;
            }
            if length(index) <= room {
                room -= length(index);
                taken.push(index);
            } else {
                put_off.push(index);
            }
            *cursor += 1;
        }
        taken.sort_by_key(|&index| Reverse(length(index)));
        taken
    }

    fn sentence(&self, index: u32, step: u32) -> Sentence {
        let BatchOptions { seed, encoder_ratio, decoder_ratio, decoder, vocab_size, special_tokens, .. } =
            self.options;
        let Passage { ids, word_starts } = &self.passages[index as usize];
        let mask = |stream, ratio| whole_word_mask(seed, step, index, stream, word_starts, Budget::of(ratio));
        let original: Vec<i32> = ids.iter().map(|&id| id as i32).collect();
        let labels = |chosen: &[bool]| labels(&original, chosen);

        let chosen = mask(Stream::EncoderMask, encoder_ratio);
        let corrupt = |(slot, &id): (usize, &u32)| {
            let corrupt = || corrupted(seed, step, index, slot as u32, id, special_tokens.mask, vocab_size);
            (if chosen[slot] { corrupt() } else { id }) as i32
        };
        let encoder_input_ids = ids.iter().enumerate().map(corrupt).collect();
        let encoder_labels = labels(&chosen);

        let (decoder_input_ids, targets) = match decoder {
            DecoderKind::Enhanced => {
                let content = word_starts.iter().map(|&kind| kind != word_kind::SPECIAL).collect();
                (original.clone(), content)
            }
            DecoderKind::Basic => {
                let hidden = mask(Stream::DecoderMask, decoder_ratio);
                let input =
                    |(&id, &hidden): (&i32, &bool)| if hidden { special_tokens.mask as i32 } else { id };
                (original.iter().zip(&hidden).map(input).collect(), hidden)
            }
        };
        Sentence { encoder_input_ids, encoder_labels, decoder_input_ids, decoder_labels: labels(&targets) }
    }
}

/// The original ids where chosen, [`IGNORE_INDEX`] elsewhere.
fn labels(original: &[i32], chosen: &[bool]) -> Vec<i32> {
    original.iter().zip(chosen).map(|(&id, &chosen)| if chosen { id } else { IGNORE_INDEX }).collect()
}

fn validate_passages(passages: &[Passage], vocab_size: u32) -> Result<(), Error> {
    if passages.is_empty() {
        return Err(Error::NoPassages);
    }
    if passages.len() > u32::MAX as usize {
        return Err(Error::TooManyPassages { count: passages.len(), maximum: u32::MAX });
    }
    let vocab_size = vocab_size.min(i32::MAX as u32);
    for (index, Passage { ids, word_starts }) in passages.iter().enumerate() {
        if ids.is_empty() || ids.len() != word_starts.len() {
            return Err(Error::PassageShape { index, ids: ids.len(), word_starts: word_starts.len() });
        }
        if let Some(&id) = ids.iter().find(|&&id| id >= vocab_size) {
            return Err(Error::TokenId { index, id, vocab_size });
        }
    }
    Ok(())
}
