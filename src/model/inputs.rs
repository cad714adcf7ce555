//! A batch in device memory, with the index arrays that gathers and gradients need.

use super::{Batch, Capacity, IGNORE_INDEX, ModelConfig};
use crate::device::{Buffer, Device, Element, View, ViewMut};
use crate::ops::{Error, Result};

/// The decoder's labelled rows begin at a multiple of this many: their losses are summed by 16-byte loads.
const LABEL_ALIGNMENT: usize = 4;

/// Labelled rows of a full batch.
pub(super) fn labelled_capacity(capacity: Capacity) -> usize {
    2 * capacity.tokens + LABEL_ALIGNMENT
}

/// A list of rows grouped by where their gradients go: segment `s` is `indices[offsets[s]..offsets[s + 1]]` and goes to `rows[s]`.
#[derive(Debug)]
pub(super) struct Segments {
    rows: Buffer<i32>,
    offsets: Buffer<i32>,
    indices: Buffer<i32>,
    count: usize,
    total: usize,
}

impl Segments {
    fn new(device: &Device, segments: usize, total: usize) -> Result<Self> {
        Ok(Self {
            rows: device.zeros(segments)?,
            offsets: device.zeros(segments + 1)?,
            indices: device.zeros(total)?,
            count: 0,
            total: 0,
        })
    }

    fn bytes(segments: usize, total: usize) -> usize {
        4 * (2 * segments + 1 + total)
    }

    /// Groups tokens by `keys[token]`, in order of key, then of token.
    fn write(&mut self, keys: &[i32]) -> Result<()> {
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
        offsets.push(keys.len() as i32);
        (self.count, self.total) = (rows.len(), keys.len());
        self.rows.write(&rows)?;
        self.offsets.write(&offsets)?;
        self.indices.write(&order)?;
        Ok(())
    }

    pub(super) fn rows(&self) -> View<'_, i32> {
        self.rows.slice(0..self.count)
    }
    pub(super) fn offsets(&self) -> View<'_, i32> {
        self.offsets.slice(0..self.count + 1)
    }
    pub(super) fn indices(&self) -> View<'_, i32> {
        self.indices.slice(0..self.total)
    }
}

/// A buffer of fixed capacity of which a prefix is in use.
#[derive(Debug)]
pub(super) struct Filled<T: Element> {
    buffer: Buffer<T>,
    length: usize,
}

impl<T: Element> Filled<T> {
    pub(super) fn new(device: &Device, capacity: usize) -> Result<Self> {
        Ok(Self { buffer: device.zeros(capacity)?, length: 0 })
    }

    pub(super) fn write(&mut self, values: &[T]) -> Result<()> {
        self.buffer.write(values)?;
        self.length = values.len();
        Ok(())
    }

    /// Makes room for `length` elements that a kernel will write.
    pub(super) fn resize(&mut self, length: usize) {
        assert!(length <= self.buffer.len(), "{length} elements in a buffer of {}", self.buffer.len());
        self.length = length;
    }

    pub(super) fn view(&self) -> View<'_, T> {
        self.buffer.slice(0..self.length)
    }

    pub(super) fn view_mut(&mut self) -> ViewMut<'_, T> {
        self.buffer.slice_mut(0..self.length)
    }

    pub(super) fn len(&self) -> usize {
        self.length
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
    /// `0..B + 1`: one row a segment.
    pub singles: Filled<i32>,
    pub encoder_words: Segments,
    pub decoder_words: Segments,
    pub positions: Segments,
    /// Labelled rows: the encoder's, filled up to [`LABEL_ALIGNMENT`] with ignored ones, then the decoder's.
    pub labelled_rows: Filled<i32>,
    pub encoder_labelled: usize,
    /// Where the decoder's begin.
    pub decoder_start: usize,
    pub targets: Filled<i32>,
    /// The loss weight over the number of labelled rows, for each labelled row.
    pub row_weights: Filled<f32>,
}

impl Inputs {
    pub(super) fn new(device: &Device, config: &ModelConfig, capacity: Capacity) -> Result<Self> {
        let Capacity { tokens, sentences, .. } = capacity;
        let words = tokens.min(config.vocab_size);
        let positions = tokens.min(config.max_position_embeddings);
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
            singles: Filled::new(device, sentences + 1)?,
            encoder_words: Segments::new(device, words, tokens)?,
            decoder_words: Segments::new(device, words, tokens)?,
            positions: Segments::new(device, positions, tokens)?,
            labelled_rows: Filled::new(device, labelled)?,
            encoder_labelled: 0,
            decoder_start: 0,
            targets: Filled::new(device, labelled)?,
            row_weights: Filled::new(device, labelled)?,
        })
    }

    /// The packed row of each sentence's slot 0.
    pub(super) fn first_rows(&self) -> View<'_, i32> {
        self.cu_seqlens.view().slice(0..self.sentences)
    }

    pub(super) fn bytes(config: &ModelConfig, capacity: Capacity) -> usize {
        let Capacity { tokens, sentences, .. } = capacity;
        let words = Segments::bytes(tokens.min(config.vocab_size), tokens);
        let positions = Segments::bytes(tokens.min(config.max_position_embeddings), tokens);
        4 * (2 * (sentences + 1) + 4 * tokens + 3 * labelled_capacity(capacity)) + 2 * words + positions
    }

    /// Uploads a checked batch.
    pub(super) fn write(&mut self, config: &ModelConfig, batch: &Batch) -> Result<()> {
        self.write_sentences(&batch.cu_seqlens, &batch.encoder_input_ids)?;
        self.decoder_ids.write(&batch.decoder_input_ids)?;
        self.encoder_words.write(&batch.encoder_input_ids)?;
        self.decoder_words.write(&batch.decoder_input_ids)?;
        let labelled = |labels: &[i32]| -> Vec<i32> {
            (0..labels.len() as i32).filter(|&row| labels[row as usize] != IGNORE_INDEX).collect()
        };
        let (encoder, decoder) = (labelled(&batch.encoder_labels), labelled(&batch.decoder_labels));
        self.encoder_labelled = encoder.len();
        self.decoder_start = encoder.len().next_multiple_of(LABEL_ALIGNMENT);
        let mut rows = encoder.clone();
        rows.resize(self.decoder_start, 0);
        rows.extend(&decoder);
        let mut targets: Vec<i32> = encoder.iter().map(|&row| batch.encoder_labels[row as usize]).collect();
        targets.resize(self.decoder_start, IGNORE_INDEX);
        targets.extend(decoder.iter().map(|&row| batch.decoder_labels[row as usize]));
        let mut weights = vec![config.encoder_loss_weight / encoder.len() as f32; encoder.len()];
        weights.resize(self.decoder_start, 0.0);
        weights.resize(targets.len(), config.decoder_loss_weight / decoder.len() as f32);
        self.labelled_rows.write(&rows)?;
        self.targets.write(&targets)?;
        self.row_weights.write(&weights)
    }

    /// Uploads what the encoder alone needs.
    pub(super) fn write_sentences(&mut self, cu_seqlens: &[i32], ids: &[i32]) -> Result<()> {
        self.sentences = cu_seqlens.len() - 1;
        self.tokens = ids.len();
        let lengths = cu_seqlens.windows(2).map(|pair| pair[1] - pair[0]);
        self.max_seqlen = lengths.clone().max().unwrap_or(0) as usize;
        let slots: Vec<i32> = lengths.clone().flat_map(|length| 0..length).collect();
        let sentence_of: Vec<i32> = lengths
            .enumerate()
            .flat_map(|(b, length)| std::iter::repeat_n(b as i32, length as usize))
            .collect();
        self.cu_seqlens.write(cu_seqlens)?;
        self.encoder_ids.write(ids)?;
        self.singles.write(&(0..cu_seqlens.len() as i32).collect::<Vec<_>>())?;
        self.positions.write(&slots)?;
        self.slots.write(&slots)?;
        self.sentence_of.write(&sentence_of)
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

fn wrong<T>(argument: &'static str, actual: impl ToString, expected: impl ToString) -> Result<T> {
    Err(Error::Argument { argument, actual: actual.to_string(), expected: expected.to_string() })
}
