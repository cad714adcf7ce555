//! Batches of packed sentences, and what the objective hides of them.

use std::sync::Arc;

use rayon::prelude::*;

use crate::model::{Batch, DecoderKind, IGNORE_INDEX};
use crate::ops::masks::Budget;
use crate::random::Stream;

use super::drawer::{Order, OrderOptions, Position};
use super::masks::{corrupted, whole_word_mask};
use super::{Error, PassageRef, SpecialTokens, TokenStore};

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
    /// Which of `ranks` disjoint parts of every epoch is drawn: 0 of 1 for all of it.
    pub rank: u32,
    pub ranks: u32,
}

/// A batch, and what the device needs to draw the decoder's visibility for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrawnBatch {
    /// Without a visibility bank.
    pub batch: Batch,
    /// `[B]` the index of each sentence's passage in the corpus: its part of every mask draw.
    pub sentence_indices: Vec<u32>,
    /// `[ceil(T / 32)]`: a bit a token, lowest first, 1 where a word starts.
    pub word_starts: Vec<u32>,
}

/// The sentences of a batch as they stand in the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackedPassages {
    /// `[B]` the index of each sentence's passage in the store.
    pub sentence_indices: Vec<u32>,
    /// `[B + 1]` where each sentence begins, and where the last one ends.
    pub cu_seqlens: Vec<i32>,
    /// `[T]` token ids.
    pub ids: Vec<i32>,
    /// `[T]` bits, lowest first: set where a token begins a word.
    pub word_starts: Vec<u32>,
}

/// Draws batches from tokenized passages.
///
/// Each epoch goes through the passages in a fresh order, and sees each of them once. A batch takes passages until they fill
/// `batch_tokens`; one that does not fit goes first into the next batch. Its sentences stand from the longest to the shortest, so that
/// the blocks with most work begin first. No batch holds a passage twice.
///
/// The batch is a pure function of the store, the options, the [`Position`] and the step.
#[derive(Clone, Debug)]
pub struct BatchDrawer {
    order: Order,
    options: BatchOptions,
}

/// The arrays of one sentence of a batch.
struct Sentence {
    encoder_input_ids: Vec<i32>,
    encoder_labels: Vec<i32>,
    decoder_input_ids: Vec<i32>,
    decoder_labels: Vec<i32>,
}

impl BatchDrawer {
    /// A drawer that stands at `position`; [`Position::default`] is the start. The passages whose indices are in `skipped`,
    /// ascending, are never drawn.
    ///
    /// # Errors
    /// One each for a store without passages, ids beyond the vocabulary, a ratio, a rank, a `batch_tokens` below the longest passage,
    /// skipped passages that are not ascending and a position beyond the corpus.
    pub fn new(
        store: Arc<TokenStore>,
        skipped: Vec<u32>,
        options: BatchOptions,
        position: Position,
    ) -> Result<Self, Error> {
        if store.vocab_size() > options.vocab_size {
            return Err(Error::StoreVocabulary { store: store.vocab_size(), vocab_size: options.vocab_size });
        }
        for (name, value) in
            [("encoder_ratio", options.encoder_ratio), ("decoder_ratio", options.decoder_ratio)]
        {
            if !(value > 0.0 && value < 1.0) {
                return Err(Error::Ratio { name, value });
            }
        }
        let BatchOptions { seed, batch_tokens, rank, ranks, .. } = options;
        let order = Order::new(store, skipped, OrderOptions { seed, batch_tokens, rank, ranks }, position)?;
        Ok(Self { order, options })
    }

    /// Where the next batch begins.
    #[must_use]
    pub fn position(&self) -> &Position {
        self.order.position()
    }

    #[must_use]
    pub fn store(&self) -> &TokenStore {
        self.order.store()
    }

    /// The same passages and options at another position.
    ///
    /// # Errors
    /// [`Error::Position`].
    pub fn at(&self, position: Position) -> Result<Self, Error> {
        Ok(Self { order: self.order.at(position)?, options: self.options })
    }

    /// How many batches go from here to the end of epoch `epochs - 1`; the last one may reach into the next epoch.
    #[must_use]
    pub fn batches_until(&self, epochs: u32) -> u64 {
        let mut ahead = self.order.clone();
        let mut batches = 0;
        while !ahead.is_through(epochs) {
            ahead.next_passages();
            batches += 1;
        }
        batches
    }

    /// The sentences of the next batch, before any masks.
    #[must_use]
    pub fn next_packed(&mut self) -> PackedPassages {
        let sentence_indices = self.order.next_passages();
        let mut packed = PackedPassages {
            cu_seqlens: Vec::with_capacity(sentence_indices.len() + 1),
            ids: Vec::with_capacity(self.options.batch_tokens),
            word_starts: Vec::with_capacity(self.options.batch_tokens.div_ceil(32)),
            sentence_indices,
        };
        packed.cu_seqlens.push(0);
        for &index in &packed.sentence_indices {
            let PassageRef { ids, word_starts } = self.order.store().passage(index);
            word_starts.append_to(&mut packed.word_starts, packed.ids.len());
            ids.append_to(&mut packed.ids);
            packed.cu_seqlens.push(packed.ids.len() as i32);
        }
        packed
    }

    /// The next batch, with the masks of `step`.
    #[must_use]
    pub fn draw(&mut self, step: u32) -> DrawnBatch {
        let PackedPassages { sentence_indices, cu_seqlens, ids, word_starts } = self.next_packed();
        let drawn: Vec<Sentence> = sentence_indices
            .par_iter()
            .zip(cu_seqlens.par_windows(2))
            .map(|(&index, pair)| {
                let range = pair[0] as usize..pair[1] as usize;
                let starts: Vec<bool> =
                    range.clone().map(|t| word_starts[t / 32] >> (t % 32) & 1 == 1).collect();
                self.sentence(index, step, &ids[range], &starts)
            })
            .collect();
        let mut batch = Batch { cu_seqlens, ..Batch::default() };
        for sentence in &drawn {
            batch.encoder_input_ids.extend_from_slice(&sentence.encoder_input_ids);
            batch.encoder_labels.extend_from_slice(&sentence.encoder_labels);
            batch.decoder_input_ids.extend_from_slice(&sentence.decoder_input_ids);
            batch.decoder_labels.extend_from_slice(&sentence.decoder_labels);
        }
        DrawnBatch { batch, sentence_indices, word_starts }
    }

    fn sentence(&self, index: u32, step: u32, original: &[i32], word_starts: &[bool]) -> Sentence {
        let BatchOptions { seed, encoder_ratio, decoder_ratio, decoder, vocab_size, special_tokens, .. } =
            self.options;
        let mask = |stream, ratio| whole_word_mask(seed, step, index, stream, word_starts, Budget::of(ratio));
        let labels = |chosen: &[bool]| labels(original, chosen);

        let chosen = mask(Stream::EncoderMask, encoder_ratio);
        let corrupt = |(slot, &id): (usize, &i32)| {
            let mask = special_tokens.mask;
            let corrupt = || corrupted(seed, step, index, slot as u32, id as u32, mask, vocab_size) as i32;
            if chosen[slot] { corrupt() } else { id }
        };
        let encoder_input_ids = original.iter().enumerate().map(corrupt).collect();
        let encoder_labels = labels(&chosen);

        let (decoder_input_ids, targets) = match decoder {
            DecoderKind::Enhanced => {
                let inner = 1..original.len() - 1;
                let content = (0..original.len()).map(|slot| inner.contains(&slot)).collect();
                (original.to_vec(), content)
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
