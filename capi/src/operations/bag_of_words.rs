//! Bag of words.

use retromae::device::Float;
use retromae::ops::bag_of_words::{self, Bags, Forward, Gradients};

use super::logits::{algorithm, chunk_rows, gradients};
use crate::call::{Call, count, size, workspace_with_gemm};
use crate::status::Result;
use crate::sys;
use crate::types::{dtype, for_float, packed};

type Desc = sys::rmae_bag_of_words_desc;

/// Returns T, H and V.
fn sizes(desc: &Desc) -> Result<[usize; 3]> {
    Ok([
        count("batch.tokens", desc.batch.tokens)?,
        count("hidden_size", desc.hidden_size)?,
        count("vocab_size", desc.vocab_size)?,
    ])
}

pub fn workspace(call: &Call<'_, Desc>) -> Result<usize> {
    let desc = call.desc;
    let [tokens, _, vocab_size] = sizes(desc)?;
    let chunk = chunk_rows(desc.chunk_rows, tokens)?;
    let sentences = count("batch.sequences", desc.batch.sequences)?;
    let (algorithm, dtype) = (algorithm(desc.algorithm)?, dtype("dtype", desc.dtype)?);
    let needed = bag_of_words::workspace(algorithm, dtype, sentences, chunk, vocab_size);
    Ok(workspace_with_gemm(call.device(), needed.bytes()))
}

pub fn forward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => enqueue::<T>(call, false))
}

pub fn forward_backward(call: &Call<'_, Desc>) -> Result<()> {
    for_float!(call, T => enqueue::<T>(call, true))
}

fn enqueue<T: Float>(call: &Call<'_, Desc>, backward: bool) -> Result<()> {
    let desc = call.desc;
    let [tokens, hidden_size, vocab_size] = sizes(desc)?;
    let (shape, weight_shape) = ([tokens, hidden_size], [vocab_size, hidden_size]);
    let (gemm, workspace) = call.gemm_workspace(desc.workspace, desc.workspace_bytes)?;
    let batch = packed(call, &desc.batch)?;
    let (sentences, length) = (batch.sequences(), count("bags.length", desc.bags.length)?);
    let bags = Bags {
        offsets: call.view("bags.offsets", desc.bags.offsets, sentences + 1)?,
        ids: call.view("bags.ids", desc.bags.ids, length)?,
        weights: call.optional("bags.weights", desc.bags.weights, length)?,
    };
    let forward = Forward::<T> {
        hidden: call.matrix("hidden", desc.hidden, shape, 0)?,
        weight: call.matrix("weight", desc.weight, weight_shape, 0)?,
        bias: call.optional("bias", desc.bias, vocab_size)?,
        batch,
        bags,
        sentence_weights: call.optional("sentence_weights", desc.sentence_weights, sentences)?,
        first_position: size("first_position", desc.first_position)?,
        algorithm: algorithm(desc.algorithm)?,
        losses: call.view_mut("losses", desc.losses, sentences)?,
        workspace,
    };
    let gradients = if backward {
        gradients(call, (desc.d_hidden, desc.d_weight, desc.d_bias), [tokens, hidden_size, vocab_size])?
    } else {
        Gradients::default()
    };
    call.enqueue_with(gemm, |stream| bag_of_words::forward_backward(stream, forward, gradients))
}
