//! Masks of a step in device memory: the enhanced decoder's position-specific masks, uploaded or sampled there, and the corruption of inputs.

use super::inputs::Inputs;
use super::shape::BatchShape;
use super::staged_buffer::StagedBuffer;
use super::{Batch, Capacity, DecoderKind, Input, MaskPool, Masking, ModelConfig, PackedSentences, PoolRows};
use crate::device::{Buffer, Device, Stream, View, ViewMut};
use crate::ops::attention::Mask;
use crate::ops::cross_entropy::{MeanWeights, mean_weights};
use crate::ops::masks::{
    self, Corruption, MaskCountLimit, POOL_ROWS_MAX, Pool, Replacement, Sentences, labeled_offsets,
    pool_offsets,
};
use crate::ops::{Result, Workspace, wrong};

/// Rows of a pool of long sentences, which needs workspace: the number that the first public code samples.
const LONG_POOL_ROWS_MAX: usize = 256;

impl PoolRows {
    /// Maximum masks a sentence in a model whose sentences have up to `length` tokens.
    #[must_use]
    pub fn limit(length: usize) -> usize {
        if masks::workspace(1, length, 1) == Workspace::NONE { POOL_ROWS_MAX } else { LONG_POOL_ROWS_MAX }
    }
}

/// Offsets and counts of each sentence's labeled rows.
#[derive(Debug)]
struct Labeled {
    /// `[B + 1]`
    offsets: StagedBuffer<i32>,
    /// `[B]`
    counts: StagedBuffer<i32>,
}

impl Labeled {
    fn new(device: &Device, sentences: usize) -> Result<Self> {
        Ok(Self {
            offsets: StagedBuffer::new(device, sentences + 1)?,
            counts: StagedBuffer::new(device, sentences)?,
        })
    }

    /// Uploads the offsets; padding sentences, up to `sentences`, have no labels.
    fn write(
        &mut self,
        stream: &Stream,
        cu_seqlens: &[i32],
        count_limit: MaskCountLimit,
        sentences: usize,
    ) -> Result<()> {
        let mut offsets = labeled_offsets(cu_seqlens, count_limit)?;
        offsets.resize(sentences + 1, offsets[cu_seqlens.len() - 1]);
        self.counts.resize(sentences);
        self.offsets.write(stream, &offsets)
    }

    fn corruption<'a>(
        &'a mut self,
        count_limit: MaskCountLimit,
        replacement: Replacement,
        ids: View<'a, i32>,
        input_ids: ViewMut<'a, i32>,
        LabeledRows { rows, targets }: LabeledRows<'a>,
    ) -> Corruption<'a> {
        let (offsets, counts) = (self.offsets.view(), self.counts.view_mut());
        Corruption { count_limit, replacement, ids, input_ids, offsets, labeled_rows: rows, targets, counts }
    }
}

/// Labeled rows and targets of one input.
struct LabeledRows<'a> {
    rows: ViewMut<'a, i32>,
    targets: ViewMut<'a, i32>,
}

/// Options and random state of a step's masks, and the factor of its losses in the gradients.
pub(super) struct Sampling<'a> {
    pub masking: Masking,
    pub rng: View<'a, u32>,
    pub weight: f32,
}

#[derive(Debug)]
pub(super) struct Masks {
    /// Length of the longest sentence within the capacity.
    length_max: usize,
    bits: StagedBuffer<u32>,
    offsets: StagedBuffer<u32>,
    rows: StagedBuffer<u16>,
    /// Each token has its own mask; `rows` is not used.
    independent: bool,
    sentence_indices: StagedBuffer<u32>,
    word_starts: StagedBuffer<u32>,
    encoder: Labeled,
    /// Labeled rows of the basic decoder.
    decoder: Labeled,
    workspace: Buffer<u8>,
}

impl Masks {
    pub(super) fn new(device: &Device, capacity: Capacity) -> Result<Self> {
        let Capacity { tokens, sentences, sentence_length } = capacity;
        Ok(Self {
            length_max: sentence_length,
            bits: StagedBuffer::new(device, capacity.mask_words())?,
            offsets: StagedBuffer::new(device, sentences + 1)?,
            rows: StagedBuffer::new(device, tokens)?,
            independent: false,
            sentence_indices: StagedBuffer::new(device, sentences)?,
            word_starts: StagedBuffer::new(device, tokens.div_ceil(32))?,
            encoder: Labeled::new(device, sentences)?,
            decoder: Labeled::new(device, sentences)?,
            workspace: masks::workspace(capacity.tokens, capacity.sentence_length, LONG_POOL_ROWS_MAX)
                .allocate(device)?,
        })
    }

    /// Uploads the batch's own masks (already checked), or the arrays needed to sample masks; pads to `shape`.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        decoder: DecoderKind,
        input: Input<'_>,
        shape: &BatchShape,
    ) -> Result<()> {
        match input {
            Input::Explicit(Batch { visibility: Some(pool), cu_seqlens, .. })
                if decoder == DecoderKind::Enhanced =>
            {
                self.write_pool(stream, pool, cu_seqlens, shape)
            }
            Input::Explicit(_) => Ok(()),
            Input::Sampled(sentences, masking) => {
                self.write_sentences(stream, sentences, shape)?;
                let (cu_seqlens, count) = (&sentences.cu_seqlens, shape.sentences);
                self.encoder.write(stream, cu_seqlens, masking.encoder, count)?;
                match decoder {
                    DecoderKind::Basic => self.decoder.write(stream, cu_seqlens, masking.decoder, count),
                    DecoderKind::Enhanced => self.make_room(stream, cu_seqlens, masking, shape),
                }
            }
        }
    }

    fn write_sentences(
        &mut self,
        stream: &Stream,
        sentences: &PackedSentences,
        shape: &BatchShape,
    ) -> Result<()> {
        let mut sentence_indices = sentences.sentence_indices.clone();
        sentence_indices.resize(shape.sentences, 0);
        self.sentence_indices.write(stream, &sentence_indices)?;
        // No word starts in the padding.
        let mut word_starts = sentences.word_starts.clone();
        if let Some(last) = word_starts.last_mut()
            && !sentences.num_tokens().is_multiple_of(32)
        {
            *last &= (1 << (sentences.num_tokens() % 32)) - 1;
        }
        word_starts.resize(shape.tokens.div_ceil(32), 0);
        self.word_starts.write(stream, &word_starts)
    }

    /// Prepares the buffers of a pool that the device will sample.
    fn make_room(
        &mut self,
        stream: &Stream,
        cu_seqlens: &[i32],
        masking: Masking,
        shape: &BatchShape,
    ) -> Result<()> {
        // Checked for the longest possible sentence, not this batch's: the next batch may have it.
        let limit = PoolRows::limit(self.length_max);
        if !(1..=limit).contains(&masking.pool_rows.rows_max(self.length_max)) {
            let expected =
                format!("1 to {limit} in a model of sentences of up to {} tokens", self.length_max);
            return wrong("pool_rows", masking.pool_rows, expected);
        }
        let rows_max = masking.pool_rows.rows_max(shape.max_seqlen);
        let offsets = pool_offsets(&shape.cu_seqlens(cu_seqlens), rows_max)?;
        self.independent = masking.pool_rows == PoolRows::Independent;
        self.rows.resize(shape.tokens);
        self.offsets.write(stream, &offsets)
    }

    /// Uploads the batch's own masks. A padding sentence has one pool row, which hides everything.
    fn write_pool(
        &mut self,
        stream: &Stream,
        pool: &MaskPool,
        cu_seqlens: &[i32],
        shape: &BatchShape,
    ) -> Result<()> {
        let sentences = cu_seqlens.len() - 1;
        let (mut bits, mut offsets, mut rows) = (pool.bits.clone(), pool.offsets.clone(), pool.rows.clone());
        // The last offset may leave words of the pool unused.
        offsets[sentences] = bits.len() as u32;
        for pair in shape.cu_seqlens(cu_seqlens)[sentences..].windows(2) {
            bits.resize(bits.len() + ((pair[1] - pair[0]) as usize).div_ceil(32), 0);
            offsets.push(bits.len() as u32);
        }
        rows.resize(shape.tokens, 0);
        self.independent = false;
        self.bits.write(stream, &bits)?;
        self.offsets.write(stream, &offsets)?;
        self.rows.write(stream, &rows)
    }

    /// Enqueues the sampling that [`write`](Self::write) has prepared: masks, masked inputs and labels.
    pub(super) fn sample(
        &mut self,
        stream: &Stream,
        config: &ModelConfig,
        inputs: &mut Inputs,
        sampling: Sampling<'_>,
    ) -> Result<()> {
        let Sampling { masking, rng, weight } = sampling;
        let sentences = Sentences {
            rng,
            cu_seqlens: inputs.cu_seqlens.view(),
            indices: self.sentence_indices.view(),
            word_starts: self.word_starts.view(),
            tokens: inputs.tokens,
            length_max: inputs.max_seqlen,
        };
        let ranges = inputs.labeled_ranges();
        let [encoder_rows, decoder_rows] = inputs.labeled_rows.slices_mut(ranges.each_ref());
        let [encoder_targets, decoder_targets] = inputs.targets.slices_mut(ranges.each_ref());
        let (ids, pool, decoder) = match config.decoder {
            DecoderKind::Basic => {
                let ids = inputs.original_ids.view();
                let replacement = Replacement::all_masked(masking.mask_id, config.vocab_size);
                let rows = LabeledRows { rows: decoder_rows, targets: decoder_targets };
                let input_ids = inputs.decoder_ids.view_mut();
                let decoder = self.decoder.corruption(masking.decoder, replacement, ids, input_ids, rows);
                (ids, None, Some(decoder))
            }
            DecoderKind::Enhanced => {
                let pool = Pool {
                    count_limit: masking.decoder,
                    rows_max: masking.pool_rows.rows_max(inputs.max_seqlen),
                    offsets: self.offsets.view(),
                    bits: self.bits.whole_mut(),
                    rows: (!self.independent).then(|| self.rows.view_mut()),
                    workspace: self.workspace.view_mut(),
                };
                (inputs.decoder_ids.view(), Some(pool), None)
            }
        };
        let replacement = Replacement::bert(masking.mask_id, config.vocab_size);
        let rows = LabeledRows { rows: encoder_rows, targets: encoder_targets };
        let input_ids = inputs.encoder_ids.view_mut();
        let encoder = self.encoder.corruption(masking.encoder, replacement, ids, input_ids, rows);
        masks::sample(stream, sentences, masks::Outputs { pool, encoder: Some(encoder), decoder })?;
        self.weigh(stream, config, inputs, weight)
    }

    /// Sets the weights of the sampled labeled rows on the device, as only the device knows their number.
    fn weigh(&self, stream: &Stream, config: &ModelConfig, inputs: &mut Inputs, weight: f32) -> Result<()> {
        let ranges = inputs.labeled_ranges();
        let decoder = (&self.decoder, config.decoder_loss_weight);
        let sampled = [
            Some((&self.encoder, config.encoder_loss_weight)),
            (config.decoder == DecoderKind::Basic).then_some(decoder),
        ];
        let row_weights = inputs.row_weights.slices_mut(ranges.each_ref());
        for ((labeled, range), row_weights) in sampled.into_iter().zip(ranges).zip(row_weights) {
            let Some((labeled, loss_weight)) = labeled else { continue };
            let weight = weight * loss_weight;
            let labeled_rows = inputs.labeled_rows.view().slice(range);
            let counts = labeled.counts.view();
            mean_weights(stream, MeanWeights { labeled_rows, counts, row_weights, weight })?;
        }
        Ok(())
    }

    /// The decoder's mask.
    pub(super) fn mask(&self, decoder: DecoderKind) -> Mask<'_> {
        if decoder == DecoderKind::Basic {
            return Mask::Full;
        }
        let (bits, offsets) = (self.bits.whole(), self.offsets.view());
        if self.independent {
            Mask::Independent { bits, offsets }
        } else {
            Mask::Pool { bits, offsets, rows: self.rows.view() }
        }
    }
}
