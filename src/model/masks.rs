//! The enhanced decoder's position-specific masks in device memory: uploaded, or drawn there.

use super::inputs::{Filled, Inputs};
use super::model::Visibility;
use super::{Batch, Capacity};
use crate::device::{Buffer, Device, Stream, View};
use crate::ops::attention::Mask;
use crate::ops::mask_bank::{self, Arguments};
use crate::ops::{Error, Result};
use crate::reference::mask::ratio_q32;

/// Rows of a sentence's bank for which there is workspace: what the first public code draws.
const BANK_ROWS_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct Masks {
    bits: Filled<u32>,
    offsets: Filled<u32>,
    rows: Filled<u16>,
    sentence_indices: Filled<u32>,
    word_starts: Filled<u8>,
    workspace: Buffer<u16>,
}

/// Words of all bit rows: no sentence has more rows than tokens.
fn words(capacity: Capacity) -> usize {
    capacity.tokens * capacity.sentence_length.div_ceil(32)
}

fn workspace(capacity: Capacity) -> usize {
    mask_bank::workspace(capacity.tokens, capacity.sentence_length, BANK_ROWS_MAX)
}

impl Masks {
    pub(super) fn new(device: &Device, capacity: Capacity) -> Result<Self> {
        Ok(Self {
            bits: Filled::new(device, words(capacity))?,
            offsets: Filled::new(device, capacity.sentences + 1)?,
            rows: Filled::new(device, capacity.tokens)?,
            sentence_indices: Filled::new(device, capacity.sentences)?,
            word_starts: Filled::new(device, capacity.tokens)?,
            workspace: device.zeros(workspace(capacity))?,
        })
    }

    pub(super) fn bytes(capacity: Capacity) -> usize {
        4 * words(capacity) + 4 * (2 * capacity.sentences + 1) + 3 * capacity.tokens + 2 * workspace(capacity)
    }

    /// Uploads the batch's own masks (checked before), or draws them.
    pub(super) fn write(
        &mut self,
        stream: &Stream,
        inputs: &Inputs,
        batch: &Batch,
        visibility: Visibility<'_>,
        rng: Option<View<'_, u32>>,
    ) -> Result<()> {
        let Visibility::Drawn { sentence_indices, word_starts, ratio, bank_rows_max } = visibility else {
            let bank = batch.visibility.as_ref().expect("checked with the batch");
            self.bits.write(&bank.bits)?;
            self.offsets.write(&bank.offsets)?;
            return self.rows.write(&bank.rows);
        };
        let wrong =
            |argument, actual: String, expected: String| Err(Error::Argument { argument, actual, expected });
        let Some(rng) = rng else {
            return wrong("randomness", "absent".into(), "present where masks are drawn".into());
        };
        if sentence_indices.len() != inputs.sentences || word_starts.len() != inputs.tokens {
            let actual =
                format!("{} sentence_indices and {} word_starts", sentence_indices.len(), word_starts.len());
            return wrong("visibility", actual, format!("{} and {}", inputs.sentences, inputs.tokens));
        }
        if !(0.0..=1.0).contains(&ratio) {
            return wrong("ratio", ratio.to_string(), "in [0, 1]".into());
        }
        let offsets = mask_bank::offsets(&batch.cu_seqlens, bank_rows_max)?;
        self.bits.resize(offsets[inputs.sentences] as usize);
        self.rows.resize(inputs.tokens);
        self.offsets.write(&offsets)?;
        self.sentence_indices.write(sentence_indices)?;
        self.word_starts.write(word_starts)?;
        let arguments = Arguments {
            rng,
            cu_seqlens: inputs.cu_seqlens.view(),
            sentence_indices: self.sentence_indices.view(),
            word_starts: self.word_starts.view(),
            bank_offsets: self.offsets.view(),
            bits: self.bits.view_mut(),
            rows: self.rows.view_mut(),
            workspace: self.workspace.view_mut(),
            length_max: inputs.max_seqlen,
            bank_rows_max,
            ratio_q32: ratio_q32(ratio),
        };
        mask_bank::generate(stream, arguments)
    }

    pub(super) fn mask(&self) -> Mask<'_> {
        Mask::Bank { bits: self.bits.view(), offsets: self.offsets.view(), rows: self.rows.view() }
    }
}
