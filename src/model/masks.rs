//! The enhanced decoder's position-specific masks in device memory: uploaded, or drawn there.

use super::filled::Filled;
use super::inputs::{Inputs, wrong};
use super::model::Visibility;
use super::shape::Shape;
use super::{Batch, Capacity};
use crate::device::{Buffer, Device, Stream, View};
use crate::ops::Result;
use crate::ops::attention::Mask;
use crate::ops::masks::{self, Bank, Budget, Sentences};

/// Rows of a sentence's bank for which there is workspace: what the first public code draws.
const BANK_ROWS_MAX: usize = 256;

/// How masks are drawn: what the launch is given by value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Drawing {
    bank_rows_max: usize,
    budget: Budget,
}

impl Drawing {
    /// None where the batch brings its own masks.
    pub(super) fn of(visibility: Visibility<'_>) -> Option<Self> {
        match visibility {
            Visibility::Explicit => None,
            Visibility::Drawn { budget, bank_rows_max, .. } => Some(Self { bank_rows_max, budget }),
        }
    }
}

#[derive(Debug)]
pub(super) struct Masks {
    bits: Filled<u32>,
    offsets: Filled<u32>,
    rows: Filled<u16>,
    sentence_indices: Filled<u32>,
    word_starts: Filled<u32>,
    workspace: Buffer<u16>,
}

/// Words of all bit rows: no sentence has more rows than tokens.
fn words(capacity: Capacity) -> usize {
    capacity.tokens * capacity.sentence_length.div_ceil(32)
}

fn workspace(capacity: Capacity) -> usize {
    masks::bank_workspace(capacity.tokens, capacity.sentence_length, BANK_ROWS_MAX)
}

impl Masks {
    pub(super) fn new(device: &Device, capacity: Capacity) -> Result<Self> {
        Ok(Self {
            bits: Filled::new(device, words(capacity))?,
            offsets: Filled::new(device, capacity.sentences + 1)?,
            rows: Filled::new(device, capacity.tokens)?,
            sentence_indices: Filled::new(device, capacity.sentences)?,
            word_starts: Filled::new(device, capacity.tokens.div_ceil(32))?,
            workspace: device.zeros(workspace(capacity))?,
        })
    }

    pub(super) fn bytes(capacity: Capacity) -> usize {
        let words = words(capacity) + 2 * capacity.sentences + 1 + capacity.tokens.div_ceil(32);
        4 * words + 2 * (capacity.tokens + workspace(capacity))
    }

    /// Uploads the batch's own masks (checked before), or what is needed to draw them; filled up to `shape`.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        batch: &Batch,
        visibility: Visibility<'_>,
        shape: &Shape,
    ) -> Result<()> {
        let cu_seqlens = shape.cu_seqlens(&batch.cu_seqlens);
        let Visibility::Drawn { sentence_indices, word_starts, bank_rows_max, .. } = visibility else {
            return self.write_bank(stream, batch, &cu_seqlens, shape);
        };
        let (sentences, words) = (batch.num_sentences(), batch.num_tokens().div_ceil(32));
        if sentence_indices.len() != sentences || word_starts.len() != words {
            let actual = format!(
                "{} sentence_indices and {} words of word_starts",
                sentence_indices.len(),
                word_starts.len()
            );
            return wrong("visibility", actual, format!("{sentences} and {words}"));
        }
        let offsets = masks::bank_offsets(&cu_seqlens, bank_rows_max)?;
        self.bits.resize(offsets[shape.sentences] as usize);
        self.rows.resize(shape.tokens);
        self.offsets.write(stream, &offsets)?;
        let mut sentence_indices = sentence_indices.to_vec();
        sentence_indices.resize(shape.sentences, 0);
        self.sentence_indices.write(stream, &sentence_indices)?;
        let mut word_starts = word_starts.to_vec();
        word_starts.resize(shape.tokens.div_ceil(32), 0);
        self.word_starts.write(stream, &word_starts)
    }

    /// Uploads the batch's own masks. A sentence that fills up has one bank row, which hides everything.
    fn write_bank(
        &mut self,
        stream: &Stream,
        batch: &Batch,
        cu_seqlens: &[i32],
        shape: &Shape,
    ) -> Result<()> {
        let bank = batch.visibility.as_ref().expect("checked with the batch");
        let (mut bits, mut offsets, mut rows) = (bank.bits.clone(), bank.offsets.clone(), bank.rows.clone());
        // The last offset may leave words of the bank unused.
        offsets[batch.num_sentences()] = bits.len() as u32;
        for pair in cu_seqlens[batch.num_sentences()..].windows(2) {
            bits.resize(bits.len() + ((pair[1] - pair[0]) as usize).div_ceil(32), 0);
            offsets.push(bits.len() as u32);
        }
        rows.resize(shape.tokens, 0);
        self.bits.write(stream, &bits)?;
        self.offsets.write(stream, &offsets)?;
        self.rows.write(stream, &rows)
    }

    /// Enqueues the drawing of what [`write`](Self::write) has prepared.
    pub(super) fn draw(
        &mut self,
        stream: &Stream,
        inputs: &Inputs,
        drawing: Drawing,
        rng: View<'_, u32>,
    ) -> Result<()> {
        let sentences = Sentences {
            rng,
            cu_seqlens: inputs.cu_seqlens.view(),
            indices: self.sentence_indices.view(),
            word_starts: self.word_starts.view(),
            tokens: inputs.tokens,
            length_max: inputs.max_seqlen,
        };
        let bank = Bank {
            budget: drawing.budget,
            rows_max: drawing.bank_rows_max,
            offsets: self.offsets.view(),
            bits: self.bits.view_mut(),
            rows: Some(self.rows.view_mut()),
            workspace: self.workspace.view_mut(),
        };
        masks::draw(stream, sentences, Some(bank), None, None)
    }

    pub(super) fn mask(&self) -> Mask<'_> {
        Mask::Bank { bits: self.bits.view(), offsets: self.offsets.view(), rows: self.rows.view() }
    }
}
