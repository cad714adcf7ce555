//! A batch in device memory, with the index arrays that gathers and gradients need.

use super::filled::Filled;
use super::shape::{self, Shape, labelled_capacity};
use super::{Batch, Capacity, IGNORE_INDEX, ModelConfig};
use crate::device::{Device, Stream, View};
use crate::ops::{Error, Result};

/// A list of rows grouped by where their gradients go: segment `s` is `indices[offsets[s]..offsets[s + 1]]` and goes to `rows[s]`.
#[derive(Debug)]
pub(super) struct Segments {
    rows: Filled<i32>,
    offsets: Filled<i32>,
    indices: Filled<i32>,
}

impl Segments {
    fn new(device: &Device, segments: usize, total: usize) -> Result<Self> {
        Ok(Self {
            rows: Filled::new(device, segments)?,
            offsets: Filled::new(device, segments + 1)?,
            indices: Filled::new(device, total)?,
        })
    }

    fn bytes(segments: usize, total: usize) -> usize {
        4 * (2 * segments + 1 + total)
    }

    /// Groups tokens by `keys[token]`, in order of key, then of token; with `count`, empty segments follow up to that many.
    fn write(&mut self, stream: &Stream, keys: &[i32], count: Option<usize>) -> Result<()> {
        let mut order: Vec<i32> = (0..keys.len() as i32).collect();
        order.sort_by_key(|&token| keys[token as usize]);
        let (mut rows, mut offsets) = (Vec::new(), Vec::new());
        for (place, &token) in order.iter().enumerate() {
            let key = keys[token as usize];
            if rows.last() != Some(&key) {
                rows.push(key);
                offsets.push(place as i32);
            }
        }
        let count = count.unwrap_or(rows.len());
        rows.resize(count, 0);
        offsets.resize(count + 1, keys.len() as i32);
        self.rows.write(stream, &rows)?;
        self.offsets.write(stream, &offsets)?;
        self.indices.write(stream, &order)
    }

    pub(super) fn rows(&self) -> View<'_, i32> {
        self.rows.view()
    }
    pub(super) fn offsets(&self) -> View<'_, i32> {
        self.offsets.view()
    }
    pub(super) fn indices(&self) -> View<'_, i32> {
        self.indices.view()
    }
}

/// The device's copy of a batch.
#[derive(Debug)]
pub(super) struct Inputs {
    pub sentences: usize,
    pub tokens: usize,
    pub max_seqlen: usize,
    pub cu_seqlens: Filled<i32>,
    pub encoder_ids: Filled<i32>,
    pub decoder_ids: Filled<i32>,
    /// The place of each token in its sentence.
    pub slots: Filled<i32>,
    /// The sentence of each token.
    pub sentence_of: Filled<i32>,
    /// The packed row of each sentence's slot 0, negative where the sentence is empty.
    pub first_rows: Filled<i32>,
    /// One segment a sentence, of its first row alone: `0..` up to the empty sentences, whose segments are empty.
    pub sentence_offsets: Filled<i32>,
    pub encoder_words: Segments,
    pub decoder_words: Segments,
    pub positions: Segments,
    /// Labelled rows: the encoder's, filled up with negative ones, then the decoder's, filled up as well.
    pub labelled_rows: Filled<i32>,
    /// Where the decoder's begin.
    pub decoder_start: usize,
    pub targets: Filled<i32>,
    /// The loss weight over the number of labelled rows, for each labelled row.
    pub row_weights: Filled<f32>,
    /// Where the model has the bag-of-words head.
    pub bags: Option<Bags>,
}

/// The words that the sentences have.
#[derive(Debug)]
pub(super) struct Bags {
    /// `[B + 1]`: prefix sums of their numbers
    pub offsets: Filled<i32>,
    pub ids: Filled<i32>,
    /// One over the number of the sentence's tokens beside `[CLS]` and `[SEP]`, as in DupMAE's public code.
    pub weights: Filled<f32>,
    /// The loss weight over the number of sentences, for each sentence; 0 for those that fill a batch up.
    pub sentence_weights: Filled<f32>,
}

impl Bags {
    fn new(device: &Device, capacity: Capacity) -> Result<Self> {
        let Capacity { tokens, sentences, .. } = capacity;
        Ok(Self {
            offsets: Filled::new(device, sentences + 1)?,
            ids: Filled::new(device, tokens)?,
            weights: Filled::new(device, tokens)?,
            sentence_weights: Filled::new(device, sentences)?,
        })
    }

    fn bytes(capacity: Capacity) -> usize {
        4 * (2 * capacity.sentences + 1 + 2 * capacity.tokens)
    }

    /// Uploads the bags of a batch that is filled up to `shape`.
    fn write(&mut self, stream: &Stream, batch: &Batch, loss_weight: f32, shape: &Shape) -> Result<()> {
        let (mut offsets, mut ids, mut weights) = (vec![0], Vec::new(), Vec::new());
        for b in 0..batch.num_sentences() {
            let bag = batch.bag_of_words(b);
            let tokens = batch.sentence(b).len().saturating_sub(2).max(1);
            weights.resize(weights.len() + bag.len(), 1.0 / tokens as f32);
            ids.extend(bag);
            offsets.push(ids.len() as i32);
        }
        offsets.resize(shape.sentences + 1, ids.len() as i32);
        ids.resize(shape.tokens, 0);
        weights.resize(shape.tokens, 0.0);
        let mut sentence_weights = vec![loss_weight / batch.num_sentences() as f32; batch.num_sentences()];
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
        let segments = shape::Segments::of(config, tokens);
        let labelled = labelled_capacity(capacity);
        Ok(Self {
            sentences: 0,
            tokens: 0,
            max_seqlen: 0,
            cu_seqlens: Filled::new(device, sentences + 1)?,
            encoder_ids: Filled::new(device, tokens)?,
            decoder_ids: Filled::new(device, tokens)?,
            slots: Filled::new(device, tokens)?,
            sentence_of: Filled::new(device, tokens)?,
            first_rows: Filled::new(device, sentences)?,
            sentence_offsets: Filled::new(device, sentences + 1)?,
            encoder_words: Segments::new(device, segments.words, tokens)?,
            decoder_words: Segments::new(device, segments.words, tokens)?,
            positions: Segments::new(device, segments.positions, tokens)?,
            labelled_rows: Filled::new(device, labelled)?,
            decoder_start: 0,
            targets: Filled::new(device, labelled)?,
            row_weights: Filled::new(device, labelled)?,
            bags: config.has_bag_of_words().then(|| Bags::new(device, capacity)).transpose()?,
        })
    }

    pub(super) fn bytes(config: &ModelConfig, capacity: Capacity) -> usize {
        let Capacity { tokens, sentences, .. } = capacity;
        let segments = shape::Segments::of(config, tokens);
        let words = Segments::bytes(segments.words, tokens);
        let positions = Segments::bytes(segments.positions, tokens);
        let bags = if config.has_bag_of_words() { Bags::bytes(capacity) } else { 0 };
        4 * (3 * sentences + 2 + 4 * tokens + 3 * labelled_capacity(capacity)) + 2 * words + positions + bags
    }

    /// Uploads a checked batch, filled up to `shape`.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        batch: &Batch,
        shape: &Shape,
    ) -> Result<()> {
        let filled = |ids: &[i32]| {
            let mut ids = ids.to_vec();
            ids.resize(shape.tokens, 0);
            ids
        };
        let encoder_ids = filled(&batch.encoder_input_ids);
        let decoder_ids = filled(&batch.decoder_input_ids);
        self.write_sentences(stream, &batch.cu_seqlens, &encoder_ids, shape)?;
        self.decoder_ids.write(stream, &decoder_ids)?;
        let words = shape.segments_max.map(|segments| segments.words);
        self.encoder_words.write(stream, &encoder_ids, words)?;
        self.decoder_words.write(stream, &decoder_ids, words)?;
        self.decoder_start = shape.encoder_labelled;
        let mut labels = Labels::default();
        labels.extend(&batch.encoder_labels, config.encoder_loss_weight, shape.encoder_labelled);
        labels.extend(&batch.decoder_labels, config.decoder_loss_weight, shape.decoder_labelled);
        self.labelled_rows.write(stream, &labels.rows)?;
        self.targets.write(stream, &labels.targets)?;
        self.row_weights.write(stream, &labels.weights)?;
        match &mut self.bags {
            Some(bags) => bags.write(stream, batch, config.bag_of_words_loss_weight, shape),
            None => Ok(()),
        }
    }

    /// Uploads what the encoder alone needs; `ids` and `shape` may go beyond the sentences of `cu_seqlens`.
    pub(super) fn write_sentences(
        &mut self,
        stream: &Stream,
        cu_seqlens: &[i32],
        ids: &[i32],
        shape: &Shape,
    ) -> Result<()> {
        (self.sentences, self.tokens, self.max_seqlen) = (shape.sentences, shape.tokens, shape.max_seqlen);
        let cu_seqlens = shape.cu_seqlens(cu_seqlens);
        let lengths = cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]);
        let slots: Vec<i32> = lengths.clone().flat_map(|length| 0..length).collect();
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
        self.encoder_ids.write(stream, ids)?;
        self.first_rows.write(stream, &first_rows)?;
        self.sentence_offsets.write(stream, &offsets)?;
        self.positions.write(stream, &slots, shape.segments_max.map(|segments| segments.positions))?;
        self.slots.write(stream, &slots)?;
        self.sentence_of.write(stream, &sentence_of)
    }
}

/// The labelled rows of both outputs, one after the other.
#[derive(Default)]
struct Labels {
    rows: Vec<i32>,
    targets: Vec<i32>,
    weights: Vec<f32>,
}

impl Labels {
    /// Appends the labelled rows of one output, filled up to `count` with rows that are none.
    fn extend(&mut self, labels: &[i32], loss_weight: f32, count: usize) {
        let end = self.rows.len() + count;
        let labelled = (0..).zip(labels).filter(|&(_, &label)| label != IGNORE_INDEX);
        self.rows.extend(labelled.clone().map(|(row, _)| row));
        self.targets.extend(labelled.map(|(_, &label)| label));
        let share = loss_weight / (self.rows.len() + count - end) as f32;
        self.weights.resize(self.rows.len(), share);
        self.rows.resize(end, -1);
        self.targets.resize(end, IGNORE_INDEX);
        self.weights.resize(end, 0.0);
    }
}

/// Refuses a batch that the model cannot take.
pub(super) fn check(config: &ModelConfig, capacity: Capacity, batch: &Batch, enhanced: bool) -> Result<()> {
    let tokens = check_sentences(config, capacity, &batch.cu_seqlens, &batch.encoder_input_ids)?;
    let ids = [("decoder_input_ids", &batch.decoder_input_ids, false)];
    let labels =
        [("encoder_labels", &batch.encoder_labels, true), ("decoder_labels", &batch.decoder_labels, true)];
    for (argument, values, ignorable) in ids.into_iter().chain(labels) {
        check_ids(argument, values, tokens, config.vocab_size, ignorable)?;
    }
    if !enhanced {
        return Ok(());
    }
    let Some(bank) = &batch.visibility else {
        return wrong("visibility", "absent", "present for the enhanced decoder");
    };
    if bank.rows.len() != tokens || bank.offsets.len() != batch.cu_seqlens.len() {
        let actual = format!("{} rows and {} offsets", bank.rows.len(), bank.offsets.len());
        return wrong("visibility", actual, format!("{tokens} rows and {} offsets", batch.cu_seqlens.len()));
    }
    for b in 0..batch.num_sentences() {
        let sentence = batch.sentence(b);
        let words = sentence.len().div_ceil(32);
        let rows = bank.rows[sentence].iter().max().map_or(0, |&row| usize::from(row) + 1);
        let (start, end) = (bank.offsets[b] as usize, bank.offsets[b + 1] as usize);
        if start + rows * words > end || end > bank.bits.len() {
            let actual = format!("{} words for sentence {b}", end.saturating_sub(start));
            return wrong(
                "visibility",
                actual,
                format!("at least {} ({rows} rows of {words} words)", rows * words),
            );
        }
    }
    Ok(())
}

/// Refuses sentences that the encoder cannot take; returns the number of tokens.
pub(super) fn check_sentences(
    config: &ModelConfig,
    capacity: Capacity,
    cu_seqlens: &[i32],
    ids: &[i32],
) -> Result<usize> {
    if cu_seqlens.len() < 2 || cu_seqlens[0] != 0 {
        return wrong(
            "cu_seqlens",
            format!("{cu_seqlens:.8?}"),
            "prefix sums from 0 of at least one sentence",
        );
    }
    if cu_seqlens.len() - 1 > capacity.sentences {
        return wrong(
            "sentences",
            cu_seqlens.len() - 1,
            format!("at most {} (the capacity)", capacity.sentences),
        );
    }
    let longest = capacity.sentence_length.min(config.max_position_embeddings);
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
    check_ids("encoder_input_ids", ids, tokens, config.vocab_size, false)?;
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

/// Refuses an argument: what it was, and what it should be.
pub(super) fn wrong<T>(argument: &'static str, actual: impl ToString, expected: impl ToString) -> Result<T> {
    Err(Error::Argument { argument, actual: actual.to_string(), expected: expected.to_string() })
}
