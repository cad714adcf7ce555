//! The algorithm that never stores logits: a chunk holds exponentials, which a hand-written GEMM computes from its tiles and the backward's
//! GEMMs use as they are (see `kernels/cross_entropy/fused.cu`).

use super::call::Call;
use super::gradients::{self, Operands};
use crate::device::params::CrossEntropyFusedParams;
use crate::device::{DType, Family, Stream, kernels};
use crate::ops::logits::{ALIGNMENT, TILE, padded};
use crate::ops::workspace::round_up;
use crate::ops::{Result, Workspace};

/// Vocabulary tiles per block. At 4096 rows of BERT's vocabulary that is a thousand blocks, four for each that an H100 runs at a time.
const BLOCK_TILES: usize = 8;

fn splits(vocab_size: usize) -> usize {
    vocab_size.div_ceil(TILE).div_ceil(BLOCK_TILES)
}

/// Byte offsets of a chunk's arrays in the workspace: first those of the losses, then those of the gradients.
struct Arrays {
    references: usize,
    target_logits: usize,
    sums: usize,
    maxima: usize,
    retries: usize,
    forward_end: usize,
    exponentials: usize,
    unscaled_d_hidden: usize,
    scaled_hidden: usize,
    scales: usize,
    slab_sums: usize,
    end: usize,
}

impl Arrays {
    fn new(rows: usize, hidden_size: usize, vocab_size: usize) -> Self {
        let mut end = 0;
        let mut take = |shape: [usize; 2], bytes: usize| {
            let start = end;
            let array = Workspace::of::<u8>(&[shape[0], shape[1], bytes]);
            end = round_up(array.bytes().saturating_add(start), ALIGNMENT);
            start
        };
        let typed = DType::Bf16.bytes();
        Self {
            references: take([rows, 1], 4),
            target_logits: take([rows, 1], 4),
            sums: take([splits(vocab_size), rows], 4),
            maxima: take([splits(vocab_size), rows], 4),
            retries: take([rows.div_ceil(TILE), 1], 4),
            forward_end: take([0, 0], 0),
            exponentials: take([rows, padded(vocab_size)], typed),
            unscaled_d_hidden: take([rows, hidden_size], 4),
            scaled_hidden: take([rows, hidden_size], typed),
            scales: take([rows, 1], 4),
            slab_sums: take([gradients::slab_sums(rows, vocab_size).bytes(), 1], 1),
            end,
        }
    }
}

/// Returns the workspace of losses for chunks of `rows` rows.
pub(super) fn forward_workspace(rows: usize, hidden_size: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<u8>(&[Arrays::new(rows, hidden_size, vocab_size).forward_end])
}

/// Returns the workspace of losses and gradients for chunks of `rows` rows.
pub(super) fn workspace(rows: usize, hidden_size: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<u8>(&[Arrays::new(rows, hidden_size, vocab_size).end])
}

/// Enqueues the losses and gradients of a chunk; the workspace has room for its rows.
pub(super) fn enqueue(stream: &Stream, chunk: &Call) -> Result<()> {
    let arrays = Arrays::new(chunk.rows, chunk.hidden_size, chunk.vocabulary);
    let params = params(chunk, &arrays);
    let launch = |family: Family<_>, params| -> Result<()> {
        // SAFETY: the arguments were checked, and the workspace has room for the chunk's rows.
        unsafe { stream.launch(family.of(chunk.dtype)?, &params)? };
        Ok(())
    };
    launch(kernels::CROSS_ENTROPY_REFERENCES, params)?;
    launch(kernels::CROSS_ENTROPY_EXPONENTIALS, params)?;
    launch(kernels::CROSS_ENTROPY_RETRIES, params)?;
    launch(kernels::CROSS_ENTROPY_EXPONENTIALS, CrossEntropyFusedParams { retry: 1, ..params })?;
    launch(kernels::CROSS_ENTROPY_ROWS, params)?;
    let operands = Operands {
        d_logits: params.exponentials,
        hidden: params.scaled_hidden,
        scales: params.scales,
        slab_sums: chunk.workspace + arrays.slab_sums as u64,
        d_hidden: params.unscaled_d_hidden,
        output: DType::F32,
    };
    // SAFETY: as above.
    unsafe { gradients::enqueue(stream, chunk, &operands)? };
    if chunk.d_hidden == 0 { Ok(()) } else { launch(kernels::CROSS_ENTROPY_RESCALE, params) }
}

fn params(chunk: &Call, arrays: &Arrays) -> CrossEntropyFusedParams {
    let place = |offset: usize| chunk.workspace + offset as u64;
    let place_if = |wanted: bool, offset: usize| if wanted { place(offset) } else { 0 };
    CrossEntropyFusedParams {
        hidden: chunk.hidden,
        weight: chunk.weight,
        bias: chunk.bias,
        targets: chunk.targets,
        row_weights: chunk.row_weights,
        references: place(arrays.references),
        target_logits: place(arrays.target_logits),
        sums: place(arrays.sums),
        maxima: place(arrays.maxima),
        retries: place(arrays.retries),
        exponentials: place_if(chunk.has_gradients, arrays.exponentials),
        scales: place_if(chunk.has_gradients, arrays.scales),
        scaled_hidden: place_if(chunk.d_weight != 0, arrays.scaled_hidden),
        unscaled_d_hidden: place_if(chunk.d_hidden != 0, arrays.unscaled_d_hidden),
        d_hidden: chunk.d_hidden,
        losses: chunk.losses,
        log_sum_exp: chunk.log_sum_exp,
        log_likelihoods: chunk.log_likelihoods,
        correct: chunk.correct,
        rows: chunk.rows as u32,
        vocabulary: chunk.vocabulary as u32,
        hidden_size: chunk.hidden_size as u32,
        stride: padded(chunk.vocabulary) as u32,
        splits: splits(chunk.vocabulary) as u32,
        ignore_index: chunk.options.ignore_index,
        retry: 0,
        reserved: 0,
    }
}
