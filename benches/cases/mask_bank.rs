//! The position-specific masks of a batch. Fused: bits of a bank, drawn on the device. Unfused: what the authors' public collator does, on
//! one core of the processor, which is what a worker of a data loader has: the same masks as a dense `[B, L, L]` of 64-bit integers, uploaded
//! where the device is a GPU. In Rust it takes a fraction of what it takes in Python.
//!
//! Bound: no products; the bytes of the bits, of a 16-bit row index and of a byte (where words start) a token.

use retromae::device::{Buffer, Stream};
use retromae::model::VisibilityBank;
use retromae::ops::{mask_bank, rng_state};
use retromae::reference::mask::ratio_q32;

use crate::harness::{
    BANK_ROWS_MAX, Bench, Bound, FUSED, Outcome, RATIO, Results, UNFUSED, Variant, Work, cu_seqlens,
    visibility, word_starts,
};

#[derive(Clone, Copy)]
struct Case {
    sentences: usize,
    length: usize,
}

impl Case {
    fn lengths(&self) -> Vec<usize> {
        vec![self.length; self.sentences]
    }

    fn tokens(&self) -> usize {
        self.sentences * self.length
    }

    fn bound(&self) -> Bound {
        let words = self.sentences * self.length.min(BANK_ROWS_MAX) * self.length.div_ceil(32);
        Bound::new(0, 4 * words + 3 * self.tokens())
    }

    /// `[B, L, L]`: 1 where a query sees a key
    fn dense(&self, bank: &VisibilityBank) -> Vec<i64> {
        let mut dense = Vec::with_capacity(self.tokens() * self.length);
        for sentence in 0..self.sentences {
            let start = sentence * self.length;
            for query in 0..self.length {
                let visible = |key| bank.visible(sentence, start, self.length, query, key);
                dense.extend((0..self.length).map(|key| i64::from(visible(key))));
            }
        }
        dense
    }
}

pub fn bench(bench: &mut Bench) {
    let cases = if bench.on_gpu() { [(256, 128), (64, 512)] } else { [(8, 128), (2, 512)] };
    let mut group = bench.group("mask_bank");
    for (sentences, length) in cases {
        let case = Case { sentences, length };
        let fused = Variant::new(FUSED, move |stream| Fused::new(stream, case));
        let unfused = Variant::new(UNFUSED, move |stream| Unfused::new(stream, case));
        group.case(&format!("B{sentences}_L{length}"), case.bound(), vec![fused, unfused]);
    }
}

fn results(dense: &[i64]) -> Outcome<Results> {
    Ok(vec![("visible".into(), dense.iter().map(|&value| value as f32).collect())])
}

/// Bits, drawn on the device.
struct Fused {
    case: Case,
    rng: Buffer<u32>,
    cu_seqlens: Buffer<i32>,
    sentence_indices: Buffer<u32>,
    word_starts: Buffer<u8>,
    offsets: Vec<u32>,
    bank_offsets: Buffer<u32>,
    bits: Buffer<u32>,
    rows: Buffer<u16>,
    workspace: Buffer<u16>,
}

impl Fused {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let sums = cu_seqlens(&case.lengths());
        let offsets = mask_bank::offsets(&sums, BANK_ROWS_MAX)?;
        let indices: Vec<u32> = (0..case.sentences as u32).collect();
        let workspace = mask_bank::workspace(case.tokens(), case.length, BANK_ROWS_MAX);
        Ok(Self {
            rng: device.upload(&rng_state(1, 1))?,
            cu_seqlens: device.upload(&sums)?,
            sentence_indices: device.upload(&indices)?,
            word_starts: device.upload(&word_starts(case.length).repeat(case.sentences))?,
            bank_offsets: device.upload(&offsets)?,
            bits: device.zeros(offsets[case.sentences] as usize)?,
            rows: device.zeros(case.tokens())?,
            workspace: device.zeros(workspace)?,
            offsets,
            case,
        })
    }
}

impl Work for Fused {
    fn run(&mut self, stream: &Stream) -> Outcome<()> {
        let arguments = mask_bank::Arguments {
            rng: self.rng.view(),
            cu_seqlens: self.cu_seqlens.view(),
            sentence_indices: self.sentence_indices.view(),
            word_starts: self.word_starts.view(),
            bank_offsets: self.bank_offsets.view(),
            bits: self.bits.view_mut(),
            rows: self.rows.view_mut(),
            workspace: self.workspace.view_mut(),
            length_max: self.case.length,
            bank_rows_max: BANK_ROWS_MAX,
            ratio_q32: ratio_q32(RATIO),
        };
        Ok(mask_bank::generate(stream, arguments)?)
    }

    fn results(&mut self) -> Outcome<Results> {
        let (bits, rows) = (self.bits.read()?, self.rows.read()?);
        results(&self.case.dense(&VisibilityBank { bits, offsets: self.offsets.clone(), rows }))
    }
}

/// Dense masks from the processor.
struct Unfused {
    case: Case,
    dense: Vec<i64>,
    /// As pairs of words, on a GPU.
    uploaded: Option<Buffer<u32>>,
}

impl Unfused {
    fn new(stream: &Stream, case: Case) -> Outcome<Self> {
        let device = stream.device();
        let words = 2 * case.tokens() * case.length;
        let uploaded = (device.name() != "host").then(|| device.zeros(words)).transpose()?;
        Ok(Self { case, dense: Vec::new(), uploaded })
    }
}

impl Work for Unfused {
    fn run(&mut self, _: &Stream) -> Outcome<()> {
        self.dense = self.case.dense(&visibility(&self.case.lengths()));
        match &mut self.uploaded {
            Some(buffer) => Ok(buffer.write(bytemuck::cast_slice(&self.dense))?),
            None => Ok(()),
        }
    }

    fn results(&mut self) -> Outcome<Results> {
        results(&self.dense)
    }
}
