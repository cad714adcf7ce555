//! Cross-entropy and bag of words.

use retromae::device::{Float, Stream, bf16, f16};
use retromae::ops::Packed;
use retromae::ops::{bag_of_words, cross_entropy};
use retromae_capi::*;

use crate::common::{
    Case, Memory, code, integers, matrix, matrix_mut, maybe, maybe_mut, prefix_sums, view, view_mut,
    workspace,
};
use crate::{case, fields, give_workspace, init};

const LIBRARY: rmae_algorithm = RMAE_ALGORITHM_LIBRARY as rmae_algorithm;
const FUSED: rmae_algorithm = RMAE_ALGORITHM_FUSED as rmae_algorithm;

pub fn cases(memory: fn() -> Memory) -> Vec<Case> {
    let mut all = Vec::new();
    for backward in [false, true] {
        for present in [false, true] {
            all.push(cross_entropy_of::<f32>(memory(), LIBRARY, present, backward));
            all.push(cross_entropy_of::<bf16>(memory(), LIBRARY, present, backward));
            all.push(cross_entropy_of::<f16>(memory(), LIBRARY, present, backward));
            all.push(cross_entropy_of::<bf16>(memory(), FUSED, present, backward));
            all.push(bag_of::<f32>(memory(), LIBRARY, present, backward));
            all.push(bag_of::<bf16>(memory(), LIBRARY, present, backward));
            all.push(bag_of::<f16>(memory(), FUSED, present, backward));
            all.push(bag_of::<bf16>(memory(), FUSED, present, backward));
        }
    }
    all.push(mean_weights(memory()));
    all
}

const ROWS: usize = 11;
const HIDDEN: usize = 24;
const VOCABULARY: usize = 37;

/// Target of rows without a loss that the cases with a flag give.
const IGNORED: i32 = 5;

fn targets(ignored: i32) -> Vec<i32> {
    let mut targets = integers(7, ROWS, VOCABULARY as u32);
    targets[2] = ignored;
    targets
}

fn rust_algorithm(algorithm: rmae_algorithm) -> cross_entropy::Algorithm {
    if algorithm == LIBRARY { cross_entropy::Algorithm::Library } else { cross_entropy::Algorithm::Fused }
}

/// Absent arrays go with a workspace of one row.
fn cross_entropy_of<T: Float>(
    mut memory: Memory,
    algorithm: rmae_algorithm,
    present: bool,
    backward: bool,
) -> Case {
    let ignored = if present { IGNORED } else { -100 };
    let mut desc = rmae_cross_entropy_desc {
        flags: if present { u64::from(RMAE_CROSS_ENTROPY_IGNORE_INDEX) } else { 0 },
        ignore_index: IGNORED,
        dtype: code::<T>(),
        algorithm,
        rows: ROWS as i64,
        hidden_size: HIDDEN as i64,
        vocab_size: VOCABULARY as i64,
        hidden: memory.floats::<T>(1, ROWS * HIDDEN),
        weight: memory.floats::<T>(2, VOCABULARY * HIDDEN),
        targets: memory.put(&targets(ignored)),
        losses: memory.floats::<f32>(3, ROWS).cast(),
        chunk_rows: i64::from(!present),
        ..init!(rmae_cross_entropy_desc, RMAE_CROSS_ENTROPY_VERSION)
    };
    // In host memory, for as long as the tests.
    let ends: &'static [i64] = Box::leak(Box::new([4, ROWS as i64]));
    let has_options = present && algorithm == LIBRARY && code::<T>() != code::<f16>();
    if has_options {
        (desc.label_smoothing, desc.z_loss, desc.soft_cap) = (0.1, 0.01, 5.0);
    }
    if present {
        desc.bias = memory.floats::<f32>(4, VOCABULARY).cast();
        desc.row_weights = memory.floats::<f32>(5, ROWS).cast();
        desc.log_sum_exp = memory.floats::<f32>(6, ROWS).cast();
        desc.log_likelihoods = memory.floats::<f32>(7, ROWS).cast();
        desc.correct = memory.put(&[9u8; ROWS]);
        desc.totals = memory.put(&[7u32; 2 * 6]).cast();
        (desc.group_ends, desc.groups) = (ends.as_ptr(), ends.len() as i64);
    }
    let mut fields = fields! { rmae_cross_entropy_desc:
        Enum dtype, Enum algorithm, F32 label_smoothing, F32 z_loss, F32 soft_cap, Size rows,
        Size hidden_size, Size vocab_size, IN hidden, IN weight, MAYBE16 bias, IN targets, MAYBE row_weights,
        OUT losses, MAYBE_OUT log_sum_exp, MAYBE_OUT log_likelihoods, MAYBE_OUT1 correct, MAYBE_OUT totals,
        HostArray group_ends, Size groups, WORKSPACE workspace, WorkspaceBytes workspace_bytes,
    };
    if present {
        fields.extend(fields! { rmae_cross_entropy_desc: I32 ignore_index });
    }
    if backward {
        desc.d_hidden = memory.floats::<T>(8, ROWS * HIDDEN);
        if present {
            desc.d_weight = memory.floats::<f32>(9, VOCABULARY * HIDDEN).cast();
            desc.d_bias = memory.floats::<f32>(10, VOCABULARY).cast();
        }
        fields.extend(fields! { rmae_cross_entropy_desc:
            MAYBE_OUT d_hidden, MAYBE_OUT d_weight, MAYBE_OUT d_bias
        });
    }
    give_workspace!(desc, memory, rmae_cross_entropy_workspace);
    let rust = move |stream: &_| rust_cross_entropy::<T>(stream, &desc, present);
    let name = format!("cross_entropy {} {algorithm} {present} {backward}", T::DTYPE.name());
    if backward {
        let call = rmae_cross_entropy_forward_backward;
        case!(name, call, rmae_cross_entropy_workspace, desc, memory, fields, rust)
    } else {
        let call = rmae_cross_entropy_forward;
        case!(name, call, rmae_cross_entropy_workspace, desc, memory, fields, rust)
    }
}

fn rust_cross_entropy<T: Float>(
    stream: &Stream,
    desc: &rmae_cross_entropy_desc,
    present: bool,
) -> retromae::ops::Result<()> {
    let forward = cross_entropy::Forward::<T> {
        hidden: matrix(desc.hidden, [ROWS, HIDDEN], 0),
        weight: matrix(desc.weight, [VOCABULARY, HIDDEN], 0),
        bias: maybe(desc.bias, |bias| view(bias, VOCABULARY)),
        targets: view(desc.targets, ROWS),
        row_weights: maybe(desc.row_weights, |weights| view(weights, ROWS)),
        options: cross_entropy::Options {
            label_smoothing: desc.label_smoothing,
            z_loss: desc.z_loss,
            soft_cap: Some(desc.soft_cap).filter(|&cap| cap != 0.0),
            ignore_index: if present { IGNORED } else { -100 },
        },
        algorithm: rust_algorithm(desc.algorithm),
        losses: view_mut(desc.losses, ROWS),
        log_sum_exp: maybe_mut(desc.log_sum_exp, |data| view_mut(data, ROWS)),
        log_likelihoods: maybe_mut(desc.log_likelihoods, |data| view_mut(data, ROWS)),
        correct: maybe_mut(desc.correct, |data| view_mut(data, ROWS)),
        totals: maybe_mut(desc.totals.cast(), |data| view_mut(data, 2)),
        group_ends: if present { &[4, ROWS] } else { &[] },
        workspace: workspace(desc.workspace, desc.workspace_bytes, true),
    };
    let gradients = cross_entropy::Gradients {
        d_hidden: maybe_mut(desc.d_hidden, |data| matrix_mut(data, [ROWS, HIDDEN], 0)),
        d_weight: maybe_mut(desc.d_weight.cast(), |data| matrix_mut(data, [VOCABULARY, HIDDEN], 0)),
        d_bias: maybe_mut(desc.d_bias, |data| view_mut(data, VOCABULARY)),
    };
    cross_entropy::forward_backward(stream, forward, gradients)
}

fn mean_weights(mut memory: Memory) -> Case {
    let desc = rmae_mean_weights_desc {
        rows: 7,
        sentences: 3,
        labeled_rows: memory.put(&[0, 3, -1, 5, 8, -1, 9]),
        counts: memory.put(&[1, 3, 1]),
        row_weights: memory.floats::<f32>(1, 7).cast(),
        weight: 0.7,
        ..init!(rmae_mean_weights_desc, RMAE_MEAN_WEIGHTS_VERSION)
    };
    let fields = fields! { rmae_mean_weights_desc:
        Size rows, Size sentences, IN labeled_rows, IN counts, OUT row_weights, F32 weight
    };
    case!("mean_weights".into(), rmae_mean_weights, desc, memory, fields, move |stream| {
        let arguments = cross_entropy::MeanWeights {
            labeled_rows: view(desc.labeled_rows, 7),
            counts: view(desc.counts, 3),
            row_weights: view_mut(desc.row_weights, 7),
            weight: 0.7,
        };
        cross_entropy::mean_weights(stream, arguments)
    })
}

/// Tokens of the sentences, and sizes of their bags.
const LENGTHS: [usize; 4] = [5, 0, 17, 1];
const BAGS: [usize; 4] = [3, 2, 0, 4];

fn bag_of<T: Float>(mut memory: Memory, algorithm: rmae_algorithm, present: bool, backward: bool) -> Case {
    let (tokens, bag_words, sentences) = (LENGTHS.iter().sum(), BAGS.iter().sum(), LENGTHS.len());
    let mut desc = rmae_bag_of_words_desc {
        dtype: code::<T>(),
        algorithm,
        hidden_size: HIDDEN as i64,
        vocab_size: VOCABULARY as i64,
        batch: rmae_packed {
            cu_seqlens: memory.put(&prefix_sums(&LENGTHS)),
            sequences: sentences as i64,
            tokens: tokens as i64,
            max_seqlen: 17,
        },
        hidden: memory.floats::<T>(1, tokens * HIDDEN),
        weight: memory.floats::<T>(2, VOCABULARY * HIDDEN),
        bags: rmae_bags {
            offsets: memory.put(&prefix_sums(&BAGS)),
            ids: memory.put(&integers(3, bag_words, VOCABULARY as u32)),
            weights: if present { memory.floats::<f32>(4, bag_words).cast() } else { std::ptr::null() },
            length: bag_words as i64,
        },
        losses: memory.floats::<f32>(5, sentences).cast(),
        first_position: i64::from(present),
        chunk_rows: i64::from(!present),
        ..init!(rmae_bag_of_words_desc, RMAE_BAG_OF_WORDS_VERSION)
    };
    if present {
        desc.bias = memory.floats::<f32>(6, VOCABULARY).cast();
        desc.sentence_weights = memory.floats::<f32>(7, sentences).cast();
    }
    let mut fields = fields! { rmae_bag_of_words_desc:
        Enum dtype, Enum algorithm, Size hidden_size, Size vocab_size, IN batch.cu_seqlens, Size batch.sequences,
        Size batch.tokens, Size batch.max_seqlen, IN16 hidden, IN16 weight, MAYBE bias, IN bags.offsets, IN bags.ids,
        MAYBE bags.weights, Size bags.length, MAYBE sentence_weights, Size first_position, OUT losses,
        WORKSPACE workspace, WorkspaceBytes workspace_bytes,
    };
    if backward {
        desc.d_hidden = memory.floats::<T>(8, tokens * HIDDEN);
        if present {
            desc.d_weight = memory.floats::<f32>(9, VOCABULARY * HIDDEN).cast();
            desc.d_bias = memory.floats::<f32>(10, VOCABULARY).cast();
        }
        fields.extend(fields! { rmae_bag_of_words_desc:
            MAYBE_OUT d_hidden, MAYBE_OUT16 d_weight, MAYBE_OUT d_bias
        });
    }
    give_workspace!(desc, memory, rmae_bag_of_words_workspace);
    let rust = move |stream: &_| {
        let forward = bag_of_words::Forward::<T> {
            hidden: matrix(desc.hidden, [tokens, HIDDEN], 0),
            weight: matrix(desc.weight, [VOCABULARY, HIDDEN], 0),
            bias: maybe(desc.bias, |bias| view(bias, VOCABULARY)),
            batch: Packed { cu_seqlens: view(desc.batch.cu_seqlens, sentences + 1), tokens, max_seqlen: 17 },
            bags: bag_of_words::Bags {
                offsets: view(desc.bags.offsets, sentences + 1),
                ids: view(desc.bags.ids, bag_words),
                weights: maybe(desc.bags.weights, |weights| view(weights, bag_words)),
            },
            sentence_weights: maybe(desc.sentence_weights, |weights| view(weights, sentences)),
            first_position: usize::from(present),
            algorithm: rust_algorithm(algorithm),
            losses: view_mut(desc.losses, sentences),
            workspace: workspace(desc.workspace, desc.workspace_bytes, true),
        };
        let gradients = bag_of_words::Gradients {
            d_hidden: maybe_mut(desc.d_hidden, |data| matrix_mut(data, [tokens, HIDDEN], 0)),
            d_weight: maybe_mut(desc.d_weight.cast(), |data| matrix_mut(data, [VOCABULARY, HIDDEN], 0)),
            d_bias: maybe_mut(desc.d_bias, |data| view_mut(data, VOCABULARY)),
        };
        bag_of_words::forward_backward(stream, forward, gradients)
    };
    let name = format!("bag_of_words {} {algorithm} {present} {backward}", T::DTYPE.name());
    if backward {
        let call = rmae_bag_of_words_forward_backward;
        case!(name, call, rmae_bag_of_words_workspace, desc, memory, fields, rust)
    } else {
        let call = rmae_bag_of_words_forward;
        case!(name, call, rmae_bag_of_words_workspace, desc, memory, fields, rust)
    }
}
