//! The algorithm that never stores logits: a chunk holds exponentials, which a hand-written product computes from its tiles and the backward's
//! products use as they are (see `kernels/cross_entropy/fused.cu`).

use super::ForwardBackward;
use super::gradients::{self, Operands};
use crate::device::params::CrossEntropyFusedParams;
use crate::device::{DType, Family, Float, Stream, kernels};
use crate::ops::logits::{ALIGNMENT, TILE, padded};
use crate::ops::{Result, Workspace};

/// Vocabulary tiles per block. At 4096 rows of BERT's vocabulary that is a thousand blocks, four for each that an H100 runs at a time.
const BLOCK_TILES: usize = 8;

fn splits(vocab_size: usize) -> usize {
    vocab_size.div_ceil(TILE).div_ceil(BLOCK_TILES)
}

/// Byte offsets of a chunk's arrays in the workspace.
struct Arrays {
    exponentials: usize,
    products: usize,
    scaled_hidden: usize,
    scales: usize,
    slab_sums: usize,
    references: usize,
    target_logits: usize,
    sums: usize,
    maxima: usize,
    retries: usize,
    end: usize,
}

impl Arrays {
    fn new(rows: usize, hidden_size: usize, vocab_size: usize) -> Self {
        let mut end = 0;
        let mut take = |elements: usize, bytes: usize| {
            let start = end;
            end = (start + elements * bytes).next_multiple_of(ALIGNMENT);
            start
        };
        let typed = DType::Bf16.bytes();
        Self {
            exponentials: take(rows * padded(vocab_size), typed),
            products: take(rows * hidden_size, 4),
            scaled_hidden: take(rows * hidden_size, typed),
            scales: take(rows, 4),
            slab_sums: take(gradients::slab_sums(rows, vocab_size).bytes(), 1),
            references: take(rows, 4),
            target_logits: take(rows, 4),
            sums: take(splits(vocab_size) * rows, 4),
            maxima: take(splits(vocab_size) * rows, 4),
            retries: take(rows.div_ceil(TILE), 4),
            end,
        }
    }
}

/// Returns the workspace for chunks of `rows` rows.
pub(super) fn workspace(rows: usize, hidden_size: usize, vocab_size: usize) -> Workspace {
    Workspace::of::<u8>(Arrays::new(rows, hidden_size, vocab_size).end)
}

/// Enqueues the loss and all gradients of a chunk of checked arguments, rows `start..start + count`; the workspace has room for them.
pub(super) fn chunk<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    start: usize,
    count: usize,
    vocabulary: usize,
) -> Result<()> {
    let arrays = Arrays::new(count, arguments.weight.columns(), vocabulary);
    let params = params(stream, arguments, &arrays, start..start + count)?;
    let slab_sums = stream.address("workspace", &arguments.workspace)? + arrays.slab_sums as u64;
    let launch = |family: Family<_>, params| -> Result<()> {
        // SAFETY: the lengths were checked, and the workspace has room for `count` rows.
        unsafe { stream.launch(family.of(T::DTYPE)?, &params)? };
        Ok(())
    };
    launch(kernels::CROSS_ENTROPY_REFERENCES, params)?;
    launch(kernels::CROSS_ENTROPY_EXPONENTIALS, params)?;
    launch(kernels::CROSS_ENTROPY_RETRIES, params)?;
    launch(kernels::CROSS_ENTROPY_EXPONENTIALS, CrossEntropyFusedParams { retry: 1, ..params })?;
    launch(kernels::CROSS_ENTROPY_ROWS, params)?;
    let operands = Operands {
        rows: count,
        d_logits: params.exponentials,
        hidden: params.scaled_hidden,
        scales: params.scales,
        slab_sums,
        d_hidden: params.products,
        output: DType::F32,
    };
    // SAFETY: as above.
    unsafe { gradients::enqueue(stream, arguments, &operands)? };
    launch(kernels::CROSS_ENTROPY_RESCALE, params)
}

fn params<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    arrays: &Arrays,
    rows: std::ops::Range<usize>,
) -> Result<CrossEntropyFusedParams> {
    let (vocabulary, hidden_size) = (arguments.weight.rows(), arguments.weight.columns());
    let count = rows.len();
    let workspace = stream.address("workspace", &arguments.workspace)?;
    let place = |offset: usize| workspace + offset as u64;
    Ok(CrossEntropyFusedParams {
        hidden: stream.address("hidden", &arguments.hidden.slice_rows(rows.clone()))?,
        weight: stream.address("weight", &arguments.weight)?,
        bias: stream.address("bias", &arguments.bias)?,
        targets: stream.address("targets", &arguments.targets.slice(rows.clone()))?,
        row_weights: stream.address("row_weights", &arguments.row_weights.slice(rows.clone()))?,
        references: place(arrays.references),
        target_logits: place(arrays.target_logits),
        sums: place(arrays.sums),
        maxima: place(arrays.maxima),
        retries: place(arrays.retries),
        exponentials: place(arrays.exponentials),
        scales: place(arrays.scales),
        scaled_hidden: place(arrays.scaled_hidden),
        products: place(arrays.products),
        d_hidden: stream.address("d_hidden", &arguments.d_hidden.as_matrix().slice_rows(rows.clone()))?,
        losses: stream.address("losses", &arguments.losses.as_view().slice(rows.clone()))?,
        log_sum_exp: stream.address("log_sum_exp", &arguments.log_sum_exp.as_view().slice(rows.clone()))?,
        log_likelihoods: stream
            .address("log_likelihoods", &arguments.log_likelihoods.as_view().slice(rows.clone()))?,
        correct: stream.address("correct", &arguments.correct.as_view().slice(rows))?,
        rows: count as u32,
        vocabulary: vocabulary as u32,
        hidden_size: hidden_size as u32,
        stride: padded(vocabulary) as u32,
        splits: splits(vocabulary) as u32,
        ignore_index: arguments.options.ignore_index,
        retry: 0,
        reserved: 0,
    })
}
