//! A batch in device memory, with the index arrays that gathers and gradients need.

use std::ops::Range;

use super::shape::{BatchShape, labeled_capacity};
use super::staged_buffer::StagedBuffer;
use super::{Batch, Capacity, DecoderKind, IGNORE_INDEX, Input, MaskPool, ModelConfig, PackedSentences};
use crate::device::{Buffer, Device, Stream, View};
use crate::ops::group_by_key::{self, GroupByKey, Keys};
use crate::ops::segment_sum::Segments;
use crate::ops::{Packed, Result, bag_of_words, require_length, wrong};

/// Arrays grouped in one call: encoder ids, decoder ids and positions.
const GROUPED: usize = 3;

/// Tokens grouped by a key, such as their id: segment `s` is `indices[offsets[s]..offsets[s + 1]]`, whose gradients go to row `keys[s]` of a table.
#[derive(Debug)]
pub(super) struct TokenSegments {
    key_count: usize,
    tokens: usize,
    keys: Buffer<i32>,
    offsets: Buffer<i32>,
    indices: Buffer<i32>,
}

impl TokenSegments {
    /// Allocates room for at most `tokens` tokens with keys in `0..key_count`.
    fn new(device: &Device, tokens: usize, key_count: usize) -> Result<Self> {
        let segments = group_by_key::segments(tokens, key_count);
        Ok(Self {
            key_count,
            tokens: 0,
            keys: device.zeros(segments)?,
            offsets: device.zeros(segments + 1)?,
            indices: device.zeros(tokens)?,
        })
    }

    fn len(&self) -> usize {
        group_by_key::segments(self.tokens, self.key_count)
    }

    /// Arguments for grouping `keys` into these segments.
    fn of<'a>(&'a mut self, keys: View<'a, i32>) -> Keys<'a> {
        self.tokens = keys.len();
        let segments = self.len();
        Keys {
            keys,
            key_count: self.key_count,
            segment_keys: self.keys.slice_mut(0..segments),
            offsets: self.offsets.slice_mut(0..segments + 1),
            indices: self.indices.slice_mut(0..self.tokens),
        }
    }

    /// The segments as an argument of operations.
    pub(super) fn view(&self) -> Segments<'_> {
        Segments {
            offsets: self.offsets.slice(0..self.len() + 1),
            indices: Some(self.indices.slice(0..self.tokens)),
            keys: Some(self.keys.slice(0..self.len())),
        }
    }
}

/// The device's copy of a batch.
#[derive(Debug)]
pub(super) struct Inputs {
    pub sentences: usize,
    pub tokens: usize,
    pub max_seqlen: usize,
    pub cu_seqlens: StagedBuffer<i32>,
    /// Unmasked ids, when the inputs of both encoder and decoder are sampled from them.
    pub original_ids: StagedBuffer<i32>,
    pub encoder_ids: StagedBuffer<i32>,
    pub decoder_ids: StagedBuffer<i32>,
    /// Position of each token in its sentence, from 0.
    pub positions: StagedBuffer<i32>,
    /// Sentence index of each token.
    pub sentence_of: StagedBuffer<i32>,
    /// Packed row of each sentence's position 0; negative for an empty sentence.
    pub first_rows: StagedBuffer<i32>,
    /// Offsets of one segment a sentence, which holds its first row alone; empty for the empty sentences at the end.
    pub sentence_offsets: StagedBuffer<i32>,
    pub encoder_words: TokenSegments,
    pub decoder_words: TokenSegments,
    pub position_segments: TokenSegments,
    grouping: Buffer<u8>,
    /// Labeled rows: the encoder's, padded with negative rows, then the decoder's, padded likewise.
    pub labeled_rows: StagedBuffer<i32>,
    /// Index of the decoder's first entry in `labeled_rows`.
    pub decoder_start: usize,
    pub targets: StagedBuffer<i32>,
    /// Weight of each labeled row: the loss weight divided by the number of labeled rows.
    pub row_weights: StagedBuffer<f32>,
    /// Bags of words; `None` without the bag-of-words head.
    pub bags: Option<Bags>,
}

/// The bag of words (distinct ids) of each sentence, concatenated.
#[derive(Debug)]
pub(super) struct Bags {
    /// `[B + 1]` prefix sums of the bag sizes
    pub offsets: StagedBuffer<i32>,
    pub ids: StagedBuffer<i32>,
    /// Weight of each id: 1 / (the sentence's tokens without `[CLS]` and `[SEP]`), as in DupMAE's public code.
    pub weights: StagedBuffer<f32>,
    /// Weight of each sentence: the loss weight divided by the number of sentences; 0 for padding sentences.
    pub sentence_weights: StagedBuffer<f32>,
}

impl Bags {
    fn new(device: &Device, capacity: Capacity) -> Result<Self> {
        let Capacity { tokens, sentences, .. } = capacity;
        Ok(Self {
            offsets: StagedBuffer::new(device, sentences + 1)?,
            ids: StagedBuffer::new(device, tokens)?,
            weights: StagedBuffer::new(device, tokens)?,
            sentence_weights: StagedBuffer::new(device, sentences)?,
        })
    }

    /// The bags as an argument of operations.
    pub(super) fn view(&self) -> bag_of_words::Bags<'_> {
        let weights = Some(self.weights.view());
        bag_of_words::Bags { offsets: self.offsets.view(), ids: self.ids.view(), weights }
    }

    /// Uploads the bags of an input that is padded to `shape`.
    fn write(
        &mut self,
        stream: &Stream,
        input: Input<'_>,
        loss_weight: f32,
        shape: &BatchShape,
    ) -> Result<()> {
        let cu_seqlens = input.cu_seqlens();
        let sentences = cu_seqlens.len() - 1;
        let (mut offsets, mut ids, mut weights) = (vec![0], Vec::new(), Vec::new());
        for (b, pair) in cu_seqlens.windows(2).enumerate() {
            let sentence = pair[0] as usize..pair[1] as usize;
            let tokens = sentence.len().saturating_sub(2).max(1);
            let bag = match input {
                Input::Explicit(batch) => batch.bag_of_words(b),
                Input::Sampled(sentences, _) => crate::common::bag_of_words(sentences.ids[sentence].to_vec()),
            };
            weights.resize(weights.len() + bag.len(), 1.0 / tokens as f32);
            ids.extend(bag);
            offsets.push(ids.len() as i32);
        }
        offsets.resize(shape.sentences + 1, ids.len() as i32);
        ids.resize(shape.tokens, 0);
        weights.resize(shape.tokens, 0.0);
        let mut sentence_weights = vec![loss_weight / sentences as f32; sentences];
        sentence_weights.resize(shape.sentences, 0.0);
        self.offsets.write(stream, &offsets)?;
        self.ids.write(stream, &ids)?;
        self.weights.write(stream, &weights)?;
        self.sentence_weights.write(stream, &sentence_weights)
    }
}

impl Inputs {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let Capacity { tokens, sentences, .. } = capacity;
        let labeled = labeled_capacity(capacity);
        let segments = |key_count| TokenSegments::new(device, tokens, key_count);
        Ok(Self {
            sentences: 0,
            tokens: 0,
            max_seqlen: 0,
            cu_seqlens: StagedBuffer::new(device, sentences + 1)?,
            original_ids: StagedBuffer::new(device, tokens)?,
            encoder_ids: StagedBuffer::new(device, tokens)?,
            decoder_ids: StagedBuffer::new(device, tokens)?,
            positions: StagedBuffer::new(device, tokens)?,
            sentence_of: StagedBuffer::new(device, tokens)?,
            first_rows: StagedBuffer::new(device, sentences)?,
            sentence_offsets: StagedBuffer::new(device, sentences + 1)?,
            encoder_words: segments(config.vocab_size)?,
            decoder_words: segments(config.vocab_size)?,
            position_segments: segments(config.max_position_embeddings)?,
            grouping: group_by_key::workspace(GROUPED, tokens).allocate(device)?,
            labeled_rows: StagedBuffer::new(device, labeled)?,
            decoder_start: 0,
            targets: StagedBuffer::new(device, labeled)?,
            row_weights: StagedBuffer::new(device, labeled)?,
            bags: config.has_bag_of_words().then(|| Bags::new(device, capacity)).transpose()?,
        })
    }

    /// Uploads a checked input, padded to `shape`; its losses count `weight` times in the gradients. Ids and labels that the device samples stay empty.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        input: Input<'_>,
        shape: &BatchShape,
        weight: f32,
    ) -> Result<()> {
        let filled = |ids: &[i32]| {
            let mut ids = ids.to_vec();
            ids.resize(shape.tokens, 0);
            ids
        };
        self.write_sentences(stream, input.cu_seqlens(), shape)?;
        self.decoder_start = shape.encoder_labeled;
        let decoder_end = shape.encoder_labeled + shape.decoder_labeled;
        let encoder_weight = weight * config.encoder_loss_weight;
        let decoder_weight = weight * config.decoder_loss_weight;
        let mut labels = Labels::default();
        match input {
            Input::Explicit(batch) => {
                self.encoder_ids.write(stream, &filled(&batch.encoder_input_ids))?;
                self.decoder_ids.write(stream, &filled(&batch.decoder_input_ids))?;
                labels.extend(&batch.encoder_labels, encoder_weight);
                labels.resize(self.decoder_start);
                labels.extend(&batch.decoder_labels, decoder_weight);
            }
            Input::Sampled(sentences, _) => {
                self.encoder_ids.resize(shape.tokens);
                self.decoder_ids.resize(shape.tokens);
                labels.resize(self.decoder_start);
                match config.decoder {
                    DecoderKind::Basic => self.original_ids.write(stream, &filled(&sentences.ids))?,
                    DecoderKind::Enhanced => {
                        self.decoder_ids.write(stream, &filled(&sentences.ids))?;
                        labels.extend(&inner_labels(sentences), decoder_weight);
                    }
                }
            }
        }
        labels.resize(decoder_end);
        self.labeled_rows.write(stream, &labels.rows)?;
        self.targets.write(stream, &labels.targets)?;
        self.row_weights.write(stream, &labels.weights)?;
        match &mut self.bags {
            Some(bags) => bags.write(stream, input, weight * config.bag_of_words_loss_weight, shape),
            None => Ok(()),
        }
    }

    /// Uploads everything that follows from `cu_seqlens` alone; `shape` may be larger than these sentences.
    pub(super) fn write_sentences(
        &mut self,
        stream: &Stream,
        cu_seqlens: &[i32],
        shape: &BatchShape,
    ) -> Result<()> {
        (self.sentences, self.tokens, self.max_seqlen) = (shape.sentences, shape.tokens, shape.max_seqlen);
        let cu_seqlens = shape.cu_seqlens(cu_seqlens);
        let lengths = cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]);
        let positions: Vec<i32> = lengths.clone().flat_map(|length| 0..length).collect();
        let sentence_of: Vec<i32> = (0..)
            .zip(lengths.clone())
            .flat_map(|(b, length)| std::iter::repeat_n(b, length as usize))
            .collect();
        // Empty sentences come last.
        let existing = lengths.take_while(|&length| length > 0).count() as i32;
        let first_rows: Vec<i32> = (0..existing)
            .map(|b| cu_seqlens[b as usize])
            .chain(std::iter::repeat(-1))
            .take(shape.sentences)
            .collect();
        let offsets: Vec<i32> = (0..=shape.sentences as i32).map(|b| b.min(existing)).collect();
        self.cu_seqlens.write(stream, &cu_seqlens)?;
        self.first_rows.write(stream, &first_rows)?;
        self.sentence_offsets.write(stream, &offsets)?;
        self.positions.write(stream, &positions)?;
        self.sentence_of.write(stream, &sentence_of)
    }

    /// The sentences as an argument of operations.
    pub(super) fn packed(&self) -> Packed<'_> {
        let cu_seqlens = self.cu_seqlens.view();
        Packed { cu_seqlens, tokens: self.tokens, max_seqlen: self.max_seqlen }
    }

    /// Ranges of the encoder's and of the decoder's labeled rows.
    pub(super) fn labeled_ranges(&self) -> [Range<usize>; 2] {
        [0..self.decoder_start, self.decoder_start..self.labeled_rows.len()]
    }

    /// Enqueues the grouping of tokens by the table row that their gradients are added to.
    pub(super) fn group(&mut self, stream: &Stream) -> Result<()> {
        let mut arrays: [Keys<'_>; GROUPED] = [
            self.encoder_words.of(self.encoder_ids.view()),
            self.decoder_words.of(self.decoder_ids.view()),
            self.position_segments.of(self.positions.view()),
        ];
        let workspace = self.grouping.view_mut();
        group_by_key::group_by_key(stream, GroupByKey { arrays: &mut arrays, workspace })
    }
}

/// Labels every token with its own id, except each sentence's first and last.
fn inner_labels(sentences: &PackedSentences) -> Vec<i32> {
    let mut labels = sentences.ids.clone();
    for pair in sentences.cu_seqlens.windows(2) {
        labels[pair[0] as usize] = IGNORE_INDEX;
        labels[pair[1] as usize - 1] = IGNORE_INDEX;
    }
    labels
}

/// The labeled rows of both outputs, one after the other.
#[derive(Default)]
struct Labels {
    rows: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
}

impl Labels {
    /// Appends the labeled rows of one output.
    fn extend(&mut self, labels: &[i32], loss_weight: f32) {
        let labeled = (0..).zip(labels).filter(|&(_, &label)| label != IGNORE_INDEX);
        self.rows.extend(labeled.clone().map(|(row, _)| row));
        let share = loss_weight / (self.rows.len() - self.targets.len()) as f32;
        self.targets.extend(labeled.map(|(_, &label)| label));
        self.weights.resize(self.rows.len(), share);
    }

    /// Pads to `count` rows with ignored rows.
    fn resize(&mut self, count: usize) {
        self.rows.resize(count, -1);
        self.targets.resize(count, IGNORE_INDEX);
        self.weights.resize(count, 0.0);
    }
}

/// Refuses an input that the model cannot take.
pub(super) fn check(config: &ModelConfig, capacity: Capacity, input: Input<'_>) -> Result<()> {
    let capacity = capacity.of(input);
    match input {
        Input::Explicit(batch) => check_batch(config, capacity, batch),
        Input::Sampled(sentences, _) => check_packed(config, capacity, sentences),
    }
}

fn check_packed(config: &ModelConfig, capacity: Capacity, packed: &PackedSentences) -> Result<()> {
    let PackedSentences { sentence_indices, cu_seqlens, ids, word_starts } = packed;
    let tokens = check_sentences(config, capacity, cu_seqlens, ("ids", ids))?;
    require_length("sentence_indices", sentence_indices.len(), cu_seqlens.len() - 1, "sentences")?;
    require_length("word_starts", word_starts.len(), tokens.div_ceil(32), "ceil(tokens / 32)")
}

fn check_batch(config: &ModelConfig, capacity: Capacity, batch: &Batch) -> Result<()> {
    let ids = ("encoder_input_ids", batch.encoder_input_ids.as_slice());
    let tokens = check_sentences(config, capacity, &batch.cu_seqlens, ids)?;
    let ids = [("decoder_input_ids", &batch.decoder_input_ids, false)];
    let labels =
        [("encoder_labels", &batch.encoder_labels, true), ("decoder_labels", &batch.decoder_labels, true)];
    for (argument, values, ignorable) in ids.into_iter().chain(labels) {
        check_ids(argument, values, tokens, config.vocab_size, ignorable)?;
    }
    if config.decoder == DecoderKind::Basic {
        return Ok(());
    }
    let Some(pool) = &batch.visibility else {
        return wrong("visibility", "absent", "present for the enhanced decoder");
    };
    if pool.rows.len() != tokens || pool.offsets.len() != batch.cu_seqlens.len() {
        let actual = format!("{} rows and {} offsets", pool.rows.len(), pool.offsets.len());
        return wrong("visibility", actual, format!("{tokens} rows and {} offsets", batch.cu_seqlens.len()));
    }
    check_pool(batch, pool)?;
    let (words, row) = (pool.bits.len(), capacity.sentence_length.div_ceil(32));
    if words > tokens * row {
        let expected = format!("at most {}: a row of {row} for each token", tokens * row);
        return wrong("visibility", format_args!("of {words} words"), expected);
    }
    Ok(())
}

/// Refuses a pool in which a sentence has too few rows.
fn check_pool(batch: &Batch, pool: &MaskPool) -> Result<()> {
    let all = pool.bits.len();
    for b in 0..batch.num_sentences() {
        let sentence = batch.sentence(b);
        let words = sentence.len().div_ceil(32);
        let rows = pool.rows[sentence].iter().max().map_or(0, |&row| usize::from(row) + 1);
        let (start, end) = (pool.offsets[b] as usize, pool.offsets[b + 1] as usize);
        if start > end || end > all {
            let actual = format!("of words {start} to {end} for sentence {b}");
            return wrong(
                "visibility",
                actual,
                format!("of words that ascend, to at most {all}, which there are"),
            );
        }
        if end - start < rows * words {
            let actual = format!("{} words for sentence {b}", end - start);
            let expected = format!("at least {} ({rows} rows of {words} words)", rows * words);
            return wrong("visibility", actual, expected);
        }
    }
    Ok(())
}

/// Refuses sentences that the encoder cannot take; returns the number of tokens.
pub(super) fn check_sentences(
    config: &ModelConfig,
    capacity: Capacity,
    cu_seqlens: &[i32],
    (argument, ids): (&'static str, &[i32]),
) -> Result<usize> {
    if cu_seqlens.len() < 2 {
        let expected = "at least 2: prefix sums of at least one sentence";
        return wrong("cu_seqlens", format_args!("{} elements long", cu_seqlens.len()), expected);
    }
    if cu_seqlens[0] != 0 {
        return wrong("cu_seqlens", format_args!("{} at first", cu_seqlens[0]), "prefix sums from 0");
    }
    if cu_seqlens.len() - 1 > capacity.sentences {
        return wrong(
            "sentences",
            cu_seqlens.len() - 1,
            format!("at most {} (the capacity)", capacity.sentences),
        );
    }
    let longest = capacity.sentence_length;
    for (b, pair) in cu_seqlens.windows(2).enumerate() {
        let length = i64::from(pair[1]) - i64::from(pair[0]);
        if length < 1 || length > longest as i64 {
            return wrong(
                "cu_seqlens",
                format!("{length} tokens for sentence {b}"),
                format!("1 to {longest} tokens"),
            );
        }
    }
    let tokens = cu_seqlens[cu_seqlens.len() - 1] as usize;
    if tokens > capacity.tokens {
        return wrong("tokens", tokens, format!("at most {} (the capacity)", capacity.tokens));
    }
    check_ids(argument, ids, tokens, config.vocab_size, false)?;
    Ok(tokens)
}

fn check_ids(
    argument: &'static str,
    values: &[i32],
    tokens: usize,
    vocab_size: usize,
    ignorable: bool,
) -> Result<()> {
    if values.len() != tokens {
        return wrong(argument, format!("{} long", values.len()), format!("{tokens} long (tokens)"));
    }
    let valid =
        |id: i32| (0..vocab_size as i64).contains(&i64::from(id)) || (ignorable && id == IGNORE_INDEX);
    match values.iter().position(|&id| !valid(id)) {
        None => Ok(()),
        Some(token) => wrong(
            argument,
            format!("{} at token {token}", values[token]),
            format!("in 0..{vocab_size}{}", if ignorable { " or IGNORE_INDEX" } else { "" }),
        ),
    }
}
