//! The bag-of-words head of DupMAE (Liu et al., arXiv 2305.02564): each word's largest logit among a sentence's tokens must predict which words
//! the sentence has.
//!
//! With `x = hidden · weightᵀ + bias` and `m[b, v]` the maximum of `x[t, v]` over the tokens of sentence b, the loss of the sentence is
//! `s[b] · Σ −w · log softmax(m[b])[id]` over its bag of ids and weights. The gradient of `m[b, v]` goes to the token that has the maximum, the
//! first of them where several have. Logits exist for a chunk of rows only.

pub use super::cross_entropy::Algorithm;
use super::error::{
    contiguous, require, require_aligned, require_columns, require_contiguous, require_count, require_length,
    require_shape,
};
use super::logits::{self, ALIGNMENT, padded};
use super::{Packed, Result, Workspace};
use crate::device::params::BagOfWordsParams;
use crate::device::{DType, Family, Float, Matrix, MatrixMut, Stream, View, ViewMut, kernels};

/// Maximum number of sentences of one call.
pub const SENTENCES_MAX: usize = 65_535;

/// Arguments of [`forward_backward`].
#[derive(Debug)]
pub struct ForwardBackward<'a, T: Float> {
    /// `[T, H]`: the tokens, sentence after sentence; contiguous like all matrices here
    pub hidden: Matrix<'a, T>,
    /// `[V, H]`: the word embeddings
    pub weight: Matrix<'a, T>,
    /// `[V]`
    pub bias: View<'a, f32>,
    /// B sentences of T tokens. A sentence may be empty, and has at most 65,536 tokens. Prefix sums out of range are not refused, in no build: they
    /// make their sentence's loss NaN and its gradient 0.
    pub batch: Packed<'a>,
    /// `[B + 1]`: prefix sums of the sizes of the bags, from 0 to at most the length of `bag_ids`. Invalid ones make their sentence's loss NaN
    /// and its gradient 0.
    pub bag_offsets: View<'a, i32>,
    /// Ids in `[0, V)`; any other makes its sentence's loss NaN and its gradient 0. An id that is twice in a bag counts twice.
    pub bag_ids: View<'a, i32>,
    /// Weight of each of `bag_ids`
    pub bag_weights: View<'a, f32>,
    /// `[B]`: factor of each sentence's loss and gradient, such as one over the number of sentences
    pub sentence_weights: View<'a, f32>,
    /// `[B]`: weighted loss; 0 where a sentence or its bag is empty
    pub losses: ViewMut<'a, f32>,
    /// `[T, H]`, overwritten
    pub d_hidden: MatrixMut<'a, T>,
    /// `[V, H]`, added to
    pub d_weight: MatrixMut<'a, f32>,
    /// `[V]`, added to
    pub d_bias: ViewMut<'a, f32>,
    pub algorithm: Algorithm,
    /// [`workspace`] bytes, aligned to 16. A larger one is faster, up to logits of all T rows.
    pub workspace: ViewMut<'a, u8>,
    /// Tokens at the start of each sentence that are left out: 1 leaves `[CLS]` out.
    pub first_position: usize,
}

/// Byte offsets of the workspace's arrays; the logits take the rest.
struct Arrays {
    positions: usize,
    logits: usize,
}

impl Arrays {
    fn new(sentences: usize, vocab_size: usize) -> Self {
        let elements = sentences * padded(vocab_size);
        let positions = (4 * elements).next_multiple_of(ALIGNMENT);
        Self { positions, logits: (positions + 2 * elements).next_multiple_of(ALIGNMENT) }
    }
}

/// Returns the workspace for `sentences` sentences and chunks of `rows` rows of logits, if the algorithm stores any, over a vocabulary of
/// `vocab_size` words.
#[must_use]
pub fn workspace(
    algorithm: Algorithm,
    dtype: DType,
    sentences: usize,
    rows: usize,
    vocab_size: usize,
) -> Workspace {
    let logits = match algorithm {
        Algorithm::Library => rows * padded(vocab_size) * dtype.bytes(),
        Algorithm::Fused => 0,
    };
    Workspace::of::<u8>(Arrays::new(sentences, vocab_size).logits + logits)
}

/// Enqueues the loss of every sentence and all gradients of their sum.
///
/// # Errors
/// When a shape does not fit, the algorithm does not support the type, or the workspace has no room for one row.
pub fn forward_backward<T: Float>(stream: &Stream, arguments: ForwardBackward<'_, T>) -> Result<()> {
    check(&arguments)?;
    let params = params(stream, &arguments)?;
    match arguments.algorithm {
        Algorithm::Library => maxima_of_logits(stream, &arguments, &params)?,
        Algorithm::Fused => launch::<T>(stream, kernels::BAG_OF_WORDS_PRODUCT, &params)?,
    }
    // SAFETY: the lengths were checked.
    unsafe { stream.launch(kernels::BAG_OF_WORDS_LOSS, &params)? };
    launch::<T>(stream, kernels::BAG_OF_WORDS_WEIGHT, &params)?;
    launch::<T>(stream, kernels::BAG_OF_WORDS_HIDDEN, &params)
}

fn launch<T: Float>(
    stream: &Stream,
    family: Family<BagOfWordsParams>,
    params: &BagOfWordsParams,
) -> Result<()> {
    // SAFETY: the lengths were checked, and the workspace has room for a chunk.
    unsafe { stream.launch(family.of(T::DTYPE)?, params)? };
    Ok(())
}

/// Enqueues the maxima and their tokens, a chunk of logits at a time.
fn maxima_of_logits<T: Float>(
    stream: &Stream,
    arguments: &ForwardBackward<'_, T>,
    params: &BagOfWordsParams,
) -> Result<()> {
    let (vocabulary, stride) = (params.vocabulary as usize, params.stride as usize);
    let (tokens, hidden_size) = (params.tokens as usize, params.hidden_size as usize);
    let room = arguments.workspace.len() - Arrays::new(params.sentences as usize, vocabulary).logits;
    let chunk = (room / (stride * T::DTYPE.bytes())).min(tokens);
    for start in (0..tokens).step_by(chunk.max(1)) {
        let rows = chunk.min(tokens - start);
        let product = logits::Product {
            dtype: T::DTYPE,
            hidden: params.hidden + (start * hidden_size * T::DTYPE.bytes()) as u64,
            weight: params.weight,
            logits: params.logits,
            rows,
            vocabulary,
            hidden_size,
        };
        // SAFETY: the lengths were checked, and the workspace has room for the rows.
        unsafe { logits::product(stream, product)? };
        let part = BagOfWordsParams { first_row: start as u32, rows: rows as u32, ..*params };
        launch::<T>(stream, kernels::BAG_OF_WORDS_MAXIMUM, &part)?;
    }
    Ok(())
}

fn check<T: Float>(arguments: &ForwardBackward<'_, T>) -> Result<()> {
    let ForwardBackward { hidden, weight, bias, batch, bag_ids, .. } = arguments;
    let (vocabulary, hidden_size) = (weight.rows(), weight.columns());
    require(
        arguments.algorithm == Algorithm::Library || T::DTYPE != DType::F32,
        "algorithm",
        format_args!("{:?}", arguments.algorithm),
        format_args!("{:?} for f32", Algorithm::Library),
    )?;
    require(
        vocabulary > 0 && vocabulary <= i32::MAX as usize,
        "weight",
        format_args!("[{vocabulary}, {hidden_size}]"),
        "[vocabulary, hidden size], with a vocabulary of at least 1 and below 2^31",
    )?;
    require_columns("columns of weight", hidden_size)?;
    require_count("bag_ids", bag_ids.len())?;
    let position = arguments.first_position;
    require(position <= usize::from(u16::MAX), "first_position", position, "at most 65535")?;
    require(
        !batch.cu_seqlens.is_empty(),
        "batch.cu_seqlens",
        "empty",
        "one longer than there are sentences",
    )?;
    let sentences = batch.sequences();
    // Each sentence is a row of blocks, and a grid has no more rows.
    require(
        sentences <= SENTENCES_MAX,
        "batch",
        format_args!("of {sentences} sentences"),
        format_args!("of at most {SENTENCES_MAX}"),
    )?;
    require(i32::try_from(batch.tokens).is_ok(), "batch.tokens", batch.tokens, "below 2^31")?;
    require_shape("hidden", hidden, [batch.tokens, hidden_size], "tokens, columns of weight")?;
    require_shape("d_hidden", &arguments.d_hidden, [batch.tokens, hidden_size], "as hidden")?;
    require_shape("d_weight", &arguments.d_weight, [vocabulary, hidden_size], "as weight")?;
    for (name, length, expected, meaning) in [
        ("bias", bias.len(), vocabulary, "rows of weight"),
        ("bag_offsets", arguments.bag_offsets.len(), sentences + 1, "sentences + 1"),
        ("bag_weights", arguments.bag_weights.len(), bag_ids.len(), "bag_ids"),
        ("sentence_weights", arguments.sentence_weights.len(), sentences, "sentences"),
        ("losses", arguments.losses.len(), sentences, "sentences"),
        ("d_bias", arguments.d_bias.len(), vocabulary, "rows of weight"),
    ] {
        require_length(name, length, expected, meaning)?;
    }
    require_contiguous("d_hidden", &arguments.d_hidden)?;
    require_aligned("workspace", arguments.workspace.address())?;
    let rows = batch.tokens.min(1);
    let needed = workspace(arguments.algorithm, T::DTYPE, sentences, rows, vocabulary).bytes();
    let bytes = arguments.workspace.len();
    require(
        bytes >= needed,
        "workspace",
        format_args!("{bytes} bytes long"),
        format_args!("at least {needed} (a chunk of one row)"),
    )
}

fn params<T: Float>(stream: &Stream, arguments: &ForwardBackward<'_, T>) -> Result<BagOfWordsParams> {
    let (sentences, vocabulary) = (arguments.batch.sequences(), arguments.weight.rows());
    let arrays = Arrays::new(sentences, vocabulary);
    let workspace = stream.address("workspace", &arguments.workspace)?;
    Ok(BagOfWordsParams {
        hidden: contiguous(stream, "hidden", &arguments.hidden)?,
        weight: contiguous(stream, "weight", &arguments.weight)?,
        bias: stream.address("bias", &arguments.bias)?,
        cu_seqlens: stream.address("batch.cu_seqlens", &arguments.batch.cu_seqlens)?,
        bag_offsets: stream.address("bag_offsets", &arguments.bag_offsets)?,
        bag_ids: stream.address("bag_ids", &arguments.bag_ids)?,
        bag_weights: stream.address("bag_weights", &arguments.bag_weights)?,
        sentence_weights: stream.address("sentence_weights", &arguments.sentence_weights)?,
        logits: workspace + arrays.logits as u64,
        maxima: workspace,
        positions: workspace + arrays.positions as u64,
        losses: stream.address("losses", &arguments.losses)?,
        d_hidden: stream.address("d_hidden", &arguments.d_hidden)?,
        d_weight: contiguous(stream, "d_weight", &arguments.d_weight)?,
        d_bias: stream.address("d_bias", &arguments.d_bias)?,
        sentences: sentences as u32,
        vocabulary: vocabulary as u32,
        hidden_size: arguments.weight.columns() as u32,
        stride: padded(vocabulary) as u32,
        first_position: arguments.first_position as u32,
        first_row: 0,
        rows: 0,
        tokens: arguments.batch.tokens as u32,
        bag_words: arguments.bag_ids.len() as u32,
        reserved: 0,
    })
}
